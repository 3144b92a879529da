"""Losses that are zero once the right answer is ahead by a margin."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.errors import Call, DtypeError
from gradtx.losses.operands import left_out, pair, scores_and_classes, written


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
    f, y, kept = _outputs_and_sides(call, predictor_outputs, targets, where)
    return left_out(jnp.maximum(0, 1 - f * y), kept)


def perceptron_loss(
    predictor_outputs: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """How far an output is on the wrong side::

        loss = max(0, -f y)

    Arguments, result and errors are those of :func:`hinge_loss`. The gradient at 0 is half that of the wrong side.

    Source: Rosenblatt 1958, Psychological Review 65(6), "The perceptron".

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.perceptron_loss(jnp.array([0.25, 3.0, 3.0]), jnp.array([1, 1, -1])).tolist()
    [0.0, 0.0, 3.0]
    """
    call = written("perceptron_loss", predictor_outputs, targets, where=where)
    f, y, kept = _outputs_and_sides(call, predictor_outputs, targets, where)
    return left_out(jnp.maximum(0, -f * y), kept)


def _outputs_and_sides(call: Call, outputs: Any, targets: Any, where: Any) -> tuple[Any, Any, Any]:
    side = jnp.asarray(targets)
    if side.dtype == jnp.bool_ or jnp.issubdtype(side.dtype, jnp.unsignedinteger):
        raise DtypeError(
            call,
            expected="targets must be -1 or 1",
            got=side.dtype,
            cause="labels 0 and 1 were given",
            fix="write 2 * targets.astype(jnp.int32) - 1",
        )
    return pair(call, ("predictor_outputs", "targets"), outputs, side, where)


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
    ahead, is_label, is_class, kept = _ahead(call, scores, labels, where)
    loss = jnp.where(is_class, 1 + jnp.max(jnp.where(is_label, -1, ahead), -1), jnp.nan)
    return left_out(loss, kept, (ahead.ndim - 1,))


def multiclass_perceptron_loss(
    scores: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """How far the score of the right class is behind the best::

        loss = max_c s_c - s_y

    Arguments, result and errors are those of :func:`multiclass_hinge_loss`: differences come first, equal scores share
    the gradient, and a label outside ``[0, classes)`` gives NaN (Optax: the largest score).

    Source: Collins 2002, EMNLP, "Discriminative training methods for hidden Markov models", section 2.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.multiclass_perceptron_loss(jnp.array([[1.0, 2.0, 0.0], [1.0, 2.0, 5.0]]), jnp.array([0, 2])).tolist()
    [1.0, 0.0]
    """
    call = written("multiclass_perceptron_loss", scores, labels, where=where)
    ahead, is_label, is_class, kept = _ahead(call, scores, labels, where)
    loss = jnp.where(is_class, jnp.max(jnp.where(is_label, 0, ahead), -1), jnp.nan)
    return left_out(loss, kept, (ahead.ndim - 1,))


def _ahead(call: Call, scores: Any, labels: Any, where: Any) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """How far each class is ahead of the right one, which that is, whether there is one, and what counts."""
    s, is_label, is_class, kept = scores_and_classes(call, scores, labels, where)
    right = jnp.sum(jnp.where(is_label, s, 0), -1, keepdims=True)
    return s - right, is_label, is_class, kept
