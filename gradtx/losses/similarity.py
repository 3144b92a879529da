"""Losses of the angle between two vectors."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.errors import Call, NonNegativeNumber, checked_call
from gradtx.losses.operands import left_out, own_axes, pair, written

Axis = int | tuple[int, ...] | None


@checked_call
def cosine_similarity(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    epsilon: NonNegativeNumber = 0.0,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """The cosine of the angle between each prediction and its target, 1 for one direction and -1 for opposite ones::

        cos = sum_i u_i v_i,   u = prediction / max(|prediction|, sqrt(epsilon)),   v = target / max(|target|, ...)

    Args:
        predictions: Vectors, floating, ``[..., size]``.
        targets: Vectors, real, the shape of ``predictions``.
        epsilon: The least *square* of a norm: shorter vectors are divided by its root, and look less similar.
        axis: The axis of the vectors, several, or None for all.
        where: What counts: one bool per component (the shape of ``targets``) or per example (without ``axis``). What is
            left out adds nothing, and has gradient zero, whatever stands in it.

    Returns:
        The similarity of each pair: the shape without ``axis``, float32 or wider.

    Vectors of any finite size have a cosine: huge and tiny ones are scaled before anything is squared. A vector of
    zeros has similarity 0, and gradient 0 with ``epsilon=0``.

    Raises:
        DtypeError: Predictions that are not floating, complex targets, ``where`` that is not bool.
        ShapeError: Targets or ``where`` of another shape.
        ArgumentRangeError, ArgumentTypeError: ``axis`` names no axis, ``epsilon`` is negative or no number.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.cosine_similarity(jnp.array([[0.0, 3e38], [0.0, 0.0]]), jnp.array([[0.0, -2.0], [1.0, 1.0]])).tolist()
    [-1.0, 0.0]
    """
    call = written("cosine_similarity", predictions, targets, epsilon=epsilon, axis=axis, where=where)
    axes, (u, _), (v, _), _ = _directions(call, epsilon, axis)
    return jnp.sum(u * v, axes)


@checked_call
def cosine_distance(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    epsilon: NonNegativeNumber = 0.0,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """1 minus :func:`cosine_similarity`, from 0 for one direction to 2 for opposite ones::

        distance = 1 - cos = |u - v|^2 / 2

    The second form is computed for acute angles between vectors longer than ``sqrt(epsilon)``: it is never negative,
    and tells angles apart down to 1e-7, while 1 minus a cosine is 0 or noise below 3e-4. An example of which nothing
    counts has distance 0. Arguments and errors are those of :func:`cosine_similarity`.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> distances = losses.cosine_distance(jnp.array([[1.0, 1e-5], [0.0, 2.0]]), jnp.array([[1.0, 0.0], [1.0, 0.0]]))
    >>> [f"{distance:.3g}" for distance in distances.tolist()]
    ['5e-11', '1']
    """
    call = written("cosine_distance", predictions, targets, epsilon=epsilon, axis=axis, where=where)
    axes, (u, u_is_unit), (v, v_is_unit), kept = _directions(call, epsilon, axis)
    cosine = jnp.sum(u * v, axes)
    is_acute = u_is_unit & v_is_unit & (cosine > 0)
    return left_out(jnp.where(is_acute, 0.5 * jnp.sum(jnp.square(u - v), axes), 1 - cosine), kept, axes)


def _directions(call: Call, epsilon: Any, axis: Axis) -> tuple[tuple[int, ...], Any, Any, jax.Array | None]:
    predictions, targets = call.positional
    axes = own_axes(call, axis, jnp.ndim(predictions))
    x, y, kept = pair(call, ("predictions", "targets"), predictions, targets, call.keywords.get("where"), axes)
    return axes, direction(x, epsilon, axes), direction(y, epsilon, axes), kept


def direction(x: jax.Array, epsilon: Any, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """``x / max(|x|, sqrt(epsilon))``, and whether it is a unit vector."""
    largest = float(jnp.finfo(x.dtype).max) ** (2 / 3)
    peak = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axes, keepdims=True, initial=0))
    # Not by the peak itself: XLA multiplies by its inverse, and that of 3e38 is flushed to 0.
    scale = jnp.clip(peak, 1 / largest, largest)
    x = x / scale
    square = jnp.sum(jnp.square(x), axes, keepdims=True)
    norm = jnp.sqrt(jnp.where(square == 0, 1, square))
    least = jnp.sqrt(jnp.asarray(epsilon, x.dtype)) / scale
    is_unit = (square > 0) & (norm >= least)
    divisor = jnp.where(is_unit, norm, least)
    unit = jnp.where(divisor == 0, 0, x / jnp.where(divisor == 0, 1, divisor))
    return unit, jnp.squeeze(is_unit, axes)
