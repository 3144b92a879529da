"""Rounding into a narrower dtype: once, to nearest or stochastically, saturating.

A finite number beyond the largest finite one of the target becomes that largest one, with its sign; infinities and NaN
stay what they are (a dtype without infinities, like float8_e4m3fn, makes them NaN).
"""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradtx.tree import cut

Rounding = Literal["nearest", "stochastic"]


def round_to(x: jax.Array, dtype: Any, uniform: jax.Array | None = None) -> jax.Array:
    """``x`` (float32 or wider, or complex) in ``dtype``: to nearest, half to even, or by ``uniform`` numbers.

    With those, in [0, 1), it goes to one of the two neighbours ``a <= x <= b`` in ``dtype``, to ``b`` with probability
    ``(x - a) / (b - a)``, so that ``E[round(x)] = x`` (Gupta et al. 2015, arXiv:1502.02551, section 3).
    """
    dtype = jnp.dtype(dtype)
    if x.dtype == dtype:
        return x
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        part = jnp.zeros((), dtype).real.dtype
        return jax.lax.complex(round_to(x.real, part, uniform), round_to(x.imag, part, uniform))
    if jnp.finfo(dtype).bits >= jnp.finfo(x.dtype).bits:
        return x.astype(dtype)
    largest = jnp.finfo(dtype).max.astype(x.dtype)
    saturated = cut(x, largest)
    nearest = saturated.astype(dtype)
    if uniform is None:
        return nearest
    if (x.dtype, dtype) == (jnp.float32, jnp.bfloat16):  # as below, in a third of the operations
        # The 16 digits that are cut off and as many random ones carry with their probability, into the exponent too.
        digits = jax.lax.bitcast_convert_type(saturated, jnp.int32) + (uniform * 2**16).astype(jnp.int32)
        return jnp.where(jnp.isfinite(x), jax.lax.bitcast_convert_type(digits & ~0xFFFF, jnp.float32), x).astype(dtype)
    back = nearest.astype(x.dtype)
    other = _neighbour(nearest, saturated > back)
    gap = jnp.abs(other.astype(x.dtype) - back)
    move = (uniform * gap < jnp.abs(saturated - back)) & jnp.isfinite(other.astype(jnp.float32)) & jnp.isfinite(x)
    return jnp.where(move, other, nearest)


def places(shape: tuple[int, ...], row: int | None = None) -> jax.Array:
    """The place of each number in its array, row by row; in part of an array whose rows are longer, of length ``row``,
    the places after that of the part's first number.
    """
    lengths = shape if row is None else (*shape[:-1], row)
    return sum(
        (
            jax.lax.broadcasted_iota(jnp.int32, shape, axis) * math.prod(lengths[axis + 1 :])
            for axis in range(len(shape))
        ),
        start=jnp.zeros(shape, jnp.int32),
    )


def uniform_at(places: jax.Array, seeds: tuple[Any, Any, Any]) -> jax.Array:
    """A number in [0, 1) for each place and three seeds, whole numbers of 32 bits: a multiple of 2^-24, in float32.

    A hash of these four words, good enough for rounding and a tenth of the work of JAX's random bits, on a CPU 0.3
    nanoseconds in place of 3. It needs no memory and does not depend on how an array is divided.

    Source: Jarzynski and Olano 2020, "Hash functions for GPU rendering", JCGT 9(3), pcg4d.
    """
    x, y, z, w = (jnp.asarray(word).astype(jnp.uint32) * 1664525 + 1013904223 for word in (places, *seeds))
    x = x + y * w
    y = y + z * x
    z = z + x * y
    w = w + y * z
    x, y, w = (word ^ (word >> 16) for word in (x, y, w))
    return ((x + y * w) >> 8).astype(jnp.int32).astype(jnp.float32) * 2.0**-24


def _neighbour(x: jax.Array, upwards: jax.Array) -> jax.Array:
    """The next number of ``x``'s dtype, up or down: its bits as a sign and a magnitude, one step further."""
    bits = jnp.finfo(x.dtype).bits
    unsigned = getattr(jnp, f"uint{bits}")
    pattern = jax.lax.bitcast_convert_type(x, unsigned)
    sign = unsigned(1 << (bits - 1))
    magnitude, negative = pattern & unsigned(~sign), (pattern & sign) != 0
    away = upwards != negative
    stepped = jnp.where(away, magnitude + unsigned(1), magnitude - unsigned(1))
    crossed = jnp.where(upwards, unsigned(1), unsigned(1) | sign)
    stepped = jnp.where(stepped == 0, stepped, stepped | (pattern & sign))  # the negative zero is NaN in some dtypes
    result = jnp.where(magnitude == 0, crossed, stepped)
    return jax.lax.bitcast_convert_type(result, x.dtype)
