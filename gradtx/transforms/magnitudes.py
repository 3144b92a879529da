"""Norms of one array that neither overflow nor underflow, limits on them, and which axes belong to one unit."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.tree import cut, square

Axes = int | tuple[int, ...] | None


def halving(size: jax.Array) -> jax.Array:
    """A power of two ``h`` with ``1 <= h * size * h < 4``; 1 for a ``size`` that is no normal number.

    ``x * (h * h)`` is then of the order of 1 without rounding, and ``(x * h) * (y * h)`` is ``x * y / size`` to within
    a factor of 4, with no number on the way that overflows or vanishes where the result does not. (Other forms of these
    products are kept in memory by XLA's CPU backend.)
    """
    info = jnp.finfo(size.dtype)
    regular = (size >= info.tiny) & (size <= info.max)
    _, exponent = jnp.frexp(jax.lax.stop_gradient(jnp.where(regular, size, jnp.ones_like(size))))
    return jnp.ldexp(jnp.ones_like(size), -((exponent - 1) // 2))


def magnitude(x: jax.Array, axis: Axes = None) -> jax.Array:
    """The largest ``|x|`` along ``axis``, kept as an axis of length 1, or of all; of complex numbers, the largest part.

    (Of all it is a scalar: an array of length 1 would be kept in memory at the size of ``x`` by XLA's CPU backend.)
    """
    parts = jnp.maximum(jnp.abs(x.real), jnp.abs(x.imag)) if jnp.iscomplexobj(x) else jnp.abs(x)
    return jnp.max(parts, axis=axis, keepdims=axis is not None, initial=0.0)


def root(x: jax.Array) -> jax.Array:
    """``sqrt(x)`` of a non-negative ``x``, with the derivative 0 at 0 instead of an infinite one."""
    return jnp.where(x == 0, 0.0, jnp.sqrt(jnp.where(x == 0, 1.0, x)))


def scaled_norm(x: jax.Array, axis: Axes = None) -> tuple[jax.Array, jax.Array]:
    """``(h, length)`` with ``||x|| = length / h / h`` along ``axis``, or of all; shapes as of :func:`magnitude`.

    ``h`` is a power of two, ``length`` is 0 for ``x = 0`` and otherwise from 1 to four roots of the number of elements.
    Two passes over ``x``. On CPUs one, with ``h = 1`` and any ``length``, where all sums of squares are within 2^-60
    and 2^100. (Of 16,000 x 2,048 numbers that takes 6 ms there, three sums at three scales side by side 40 ms. On a GPU
    a branch for each leaf would wait for the host.)
    """

    def rescaled(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = halving(magnitude(x, axis))
        return h, root(_sum(square(x * (h * h)), axis))

    def branching(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        squares = _sum(square(x), axis)

        def usual(_: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jnp.ones_like(squares), root(squares)

        return jax.lax.cond(jnp.all((squares > 2.0**-60) & (squares < 2.0**100)), usual, rescaled, x)

    return jax.lax.platform_dependent(x, cpu=branching, default=rescaled)


def _sum(x: jax.Array, axis: Axes) -> jax.Array:
    return jnp.sum(x, axis=axis, keepdims=axis is not None)


def norm(x: jax.Array, axis: Axes = None) -> jax.Array:
    """``||x||`` along ``axis``, or of all, at most the largest finite number; the shape as of :func:`magnitude`."""
    h, length = scaled_norm(x, axis)
    return saturating(length / h / h, jnp.isfinite(length))


def saturating(x: jax.Array, finite: jax.Array) -> jax.Array:
    """``x``, at the largest finite number with its sign where what it was made of is ``finite`` and it is not."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(saturating(x.real, finite), saturating(x.imag, finite))
    largest = jnp.finfo(x.dtype).max
    return jnp.where(finite, jnp.clip(x, -largest, largest), x)


def limited(x: jax.Array, bound: Any, axis: Axes = None) -> jax.Array:
    """``x * min(1, bound / ||x||)`` along ``axis``: bit for bit ``x`` where its norm is within ``bound``."""
    h, length = scaled_norm(x, axis)
    cut = (x * h) * (bound / jnp.where(length == 0, 1.0, length) * h)
    return jnp.where(length / h / h <= bound, x, cut)


def bounded_for_squares(x: jax.Array) -> jax.Array:
    """``x`` cut at 2^61 in float32: squares of sums of up to four such numbers are finite, and can be corrected."""
    return cut(x, 2.0 ** (jnp.finfo(x.dtype).maxexp // 2 - 3))


def over_root(x: jax.Array, root_of_squares: jax.Array, eps: Any) -> jax.Array:
    """``x / (root + eps)``, where a root below that of the smallest normal number counts as that."""
    return x / jnp.maximum(root_of_squares + eps, 2.0 ** -(jnp.finfo(root_of_squares.dtype).maxexp // 2 - 1))


def hypotenuse(x: Any, y: Any) -> jax.Array:
    """``sqrt(x^2 + y^2)`` of non-negative numbers of any size, at most the largest finite number for finite ones."""
    large, small = jnp.maximum(x, y), jnp.minimum(x, y)
    share = small / jnp.where(large == 0, 1.0, large)
    found = large * jnp.sqrt(1.0 + share * share)
    return saturating(found, jnp.isfinite(large))


def input_axes(x: Any, axis: Axes) -> tuple[int, ...]:
    """The axes of the weights that lead into one unit: ``axis`` if given, or by the layout of JAX's layers.

    ``(inputs, outputs)`` and ``(inputs, heads, size)`` have one, kernels of convolutions of two or three dimensions all
    but the last; a vector is one unit.
    """
    if axis is None:
        if x.ndim > 5:
            raise errors.ShapeError(
                errors.UNNAMED, expected="leaves of at most five axes, or axis=", got=f"the shape {x.shape}",
                cause="which axes are those of the inputs is only known for the usual layers",
                fix="give the axes of the inputs, e.g. axis=(0, 1)",
            )  # fmt: skip
        return {0: (), 1: (0,), 2: (0,), 3: (0,), 4: (0, 1, 2), 5: (0, 1, 2, 3)}[x.ndim]
    axes = axis if isinstance(axis, tuple) else (axis,)
    if not all(isinstance(index, int | np.integer) and not isinstance(index, bool) for index in axes):
        raise errors.ArgumentTypeError(
            errors.UNNAMED, expected="axis must be a whole number or a tuple of them", got=errors.show(axis),
            cause="it names the axes of the inputs", fix="write axis=0",
        )  # fmt: skip
    if any(not -x.ndim <= index < x.ndim for index in axes):
        raise errors.ShapeError(
            errors.UNNAMED, expected=f"leaves with the axes {axes}", got=f"the shape {x.shape}",
            cause="vectors and matrices stand in one tree",
            fix="apply it to the kernels alone: masked(tx, '*kernel')",
        )  # fmt: skip
    return tuple(index % x.ndim for index in axes)
