"""Targets that are not quite certain."""

import math

import jax
import jax.numpy as jnp

from gradtx.errors import DtypeError, Fraction, checked_call
from gradtx.losses.operands import counted, own_axes, written
from gradtx.tree import widen


@checked_call
def smooth_labels(
    labels: jax.typing.ArrayLike,
    alpha: Fraction,
    *,
    axis: int | tuple[int, ...] | None = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Labels of which a share ``alpha`` goes evenly to all K classes, so that no logit has to grow for ever::

        smooth = (1 - alpha) label + alpha / K

    Args:
        labels: One-hot labels or other probabilities, floating, ``[..., classes]``. Of class numbers:
            ``jax.nn.one_hot(labels, classes)``.
        alpha: The share, in [0, 1].
        axis: The class axis, several of them, or None for all.
        where: What is a class: one bool per class (the shape of ``labels``) or per example (without ``axis``). What is
            left out gets 0, and K does not count it.

    Returns:
        The smooth labels, the shape of ``labels``, float32 or wider.

    Source: Szegedy et al. 2016, arXiv:1512.00567, section 7.

    Raises:
        DtypeError: Labels that are not floating, ``where`` that is not bool.
        ShapeError: ``where`` of another shape.
        ArgumentRangeError, ArgumentTypeError: ``alpha`` outside [0, 1], ``axis`` that names no axis.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.smooth_labels(jax.nn.one_hot(jnp.array([1]), 4), 0.5).tolist()
    [[0.125, 0.625, 0.125, 0.125]]
    """
    call = written("smooth_labels", labels, alpha, where=where)
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        raise DtypeError(
            call,
            expected="labels must be floating, a probability per class",
            got=labels.dtype,
            cause="class numbers were given",
            fix="write smooth_labels(jax.nn.one_hot(labels, classes), alpha)",
        )
    y, axes = widen(labels), own_axes(call, axis, labels.ndim)
    kept = counted(call, where, y.shape, axes)
    if kept is None:
        return (1 - alpha) * y + alpha / max(math.prod(y.shape[axis] for axis in axes), 1)
    classes = jnp.sum(kept, axes, keepdims=True)
    return jnp.where(kept, (1 - alpha) * jnp.where(kept, y, 0) + alpha / jnp.maximum(classes, 1), 0)
