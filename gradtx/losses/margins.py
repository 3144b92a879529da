"""Losses that are zero once the right answer is ahead by a margin."""

import jax
import jax.numpy as jnp

from gradtx.errors import DtypeError, ShapeError
from gradtx.losses.operands import class_numbers, counted, floating, left_out, pair, written
from gradtx.tree import widen


def hinge_loss(
    predictor_outputs: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """How much an output lacks to be on the side of its target by 1::

        loss = max(0, 1 - f y)

    Args:
        predictor_outputs: The outputs f, floating, any shape.
        targets: The sides y, -1 or 1 (of labels 0 and 1: ``2 * labels - 1``), the shape of the outputs.
        where: Which outputs count, bool, of that shape or of its first axes (one per example). What is left out has
            loss and gradient zero, whatever stands in it.

    Returns:
        The loss of each output, float32 or wider. :func:`mean` averages it.

    Raises:
        DtypeError: Outputs that are not floating, targets of a dtype without -1, ``where`` that is not bool.
        ShapeError: Targets or ``where`` of another shape: ``(n,)`` beside ``(n, 1)`` is an error.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.hinge_loss(jnp.array([0.25, 3.0, 3.0]), jnp.array([1, 1, -1])).tolist()
    [0.75, 0.0, 4.0]
    """
    call = written("hinge_loss", predictor_outputs, targets, where=where)
    side = jnp.asarray(targets)
    if side.dtype == jnp.bool_ or jnp.issubdtype(side.dtype, jnp.unsignedinteger):
        raise DtypeError(
            call,
            expected="targets must be -1 or 1",
            got=side.dtype,
            cause="labels 0 and 1 were given",
            fix="write 2 * targets.astype(jnp.int32) - 1",
        )
    f, y, kept = pair(call, ("predictor_outputs", "targets"), predictor_outputs, side, where)
    return left_out(jnp.maximum(0, 1 - f * y), kept)


def multiclass_hinge_loss(
    scores: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """How much the score of the right class lacks to be above every other one by 1::

        loss = max(0, 1 + max_{c != y} (s_c - s_y))

    Args:
        scores: The scores s, floating, ``[..., classes]``.
        labels: Class numbers y, integers, the shape of ``scores`` without its last axis.
        where: What counts: one bool per class (the shape of ``scores``) or per example (without the last axis). A class
            left out is no rival. An example left out has loss and gradient zero, whatever stands in it.

    Returns:
        The loss of each example, float32 or wider. :func:`mean` averages it. Rivals with equal scores share the
        gradient. A label outside ``[0, classes)`` gives NaN for its example. Differences come first: the margin of 1
        counts beside scores of 1e30 too.

    Source: Crammer and Singer 2001, JMLR 2, "On the algorithmic implementation of multiclass kernel-based vector
    machines".

    Raises:
        DtypeError: Scores that are not floating, labels that are not integers, ``where`` that is not bool.
        ShapeError: Labels or ``where`` of another shape, or no class at all.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.multiclass_hinge_loss(jnp.array([[1.0, 2.0, 0.0], [1.0, 2.0, 5.0]]), jnp.array([0, 2])).tolist()
    [2.0, 0.0]
    """
    call = written("multiclass_hinge_loss", scores, labels, where=where)
    s = widen(floating(call, ("scores", "labels"), scores))
    if s.ndim == 0 or s.shape[-1] == 0:
        raise ShapeError(
            call,
            expected="at least one class",
            got=f"scores of shape {s.shape}",
            cause="the scores need a last axis of classes",
            fix="write scores[..., None]",
        )
    y = jnp.expand_dims(class_numbers(call, jnp.asarray(labels), {s.shape[:-1]: "class numbers"}), -1)
    kept = counted(call, where, s.shape, (s.ndim - 1,))
    s = s if kept is None else jnp.where(kept, s, -jnp.inf)
    is_label = jax.lax.broadcasted_iota(y.dtype, s.shape, s.ndim - 1) == y
    right = jnp.sum(jnp.where(is_label, s, 0), -1, keepdims=True)
    behind = jnp.where(is_label, -1, s - right)
    is_class = (y >= 0) & (y < s.shape[-1])
    loss = jnp.where(is_class[..., 0], 1 + jnp.max(behind, -1), jnp.nan)
    return left_out(loss, kept, (s.ndim - 1,))
