"""Rounding into a narrower dtype: once, to nearest or stochastically, saturating.

A finite number beyond the largest finite one of the target becomes that largest one, with its sign; infinities and NaN
stay what they are (a dtype without infinities, like float8_e4m3fn, makes them NaN).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradtx.tree import cut

Rounding = Literal["nearest", "stochastic"]


def round_to(x: jax.Array, dtype: Any, rounding: Rounding = "nearest", key: jax.Array | None = None) -> jax.Array:
    """``x`` (float32 or wider, or complex) in ``dtype``.

    ``"nearest"`` rounds half to even. ``"stochastic"`` goes to one of the two neighbours ``a <= x <= b`` in ``dtype``,
    to ``b`` with probability ``(x - a) / (b - a)``, so that ``E[round(x)] = x`` (Gupta et al. 2015, arXiv:1502.02551,
    section 3); it needs ``key``.
    """
    dtype = jnp.dtype(dtype)
    if x.dtype == dtype:
        return x
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        real_key, imaginary_key = (None, None) if key is None else jax.random.split(key)
        part = jnp.zeros((), dtype).real.dtype
        return jax.lax.complex(
            round_to(x.real, part, rounding, real_key), round_to(x.imag, part, rounding, imaginary_key)
        )
    largest = jnp.finfo(dtype).max.astype(x.dtype)
    saturated = cut(x, largest)
    nearest = saturated.astype(dtype)
    if rounding == "nearest" or jnp.finfo(dtype).bits >= jnp.finfo(x.dtype).bits:
        return nearest
    assert key is not None, "stochastic rounding needs a key"
    back = nearest.astype(x.dtype)
    other = _neighbour(nearest, saturated > back)
    gap = jnp.abs(other.astype(x.dtype) - back)
    uniform = jax.random.uniform(key, x.shape, x.dtype)
    move = (uniform * gap < jnp.abs(saturated - back)) & jnp.isfinite(other.astype(jnp.float32)) & jnp.isfinite(x)
    return jnp.where(move, other, nearest)


def _neighbour(x: jax.Array, upwards: jax.Array) -> jax.Array:
    """The next number of ``x``'s dtype, up or down: its bits as a sign and a magnitude, one step further."""
    bits = jnp.finfo(x.dtype).bits
    unsigned = {8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[bits]
    pattern = jax.lax.bitcast_convert_type(x, unsigned)
    sign = unsigned(1 << (bits - 1))
    magnitude, negative = pattern & unsigned(~sign), (pattern & sign) != 0
    away = upwards != negative
    stepped = jnp.where(away, magnitude + unsigned(1), magnitude - unsigned(1))
    crossed = jnp.where(upwards, unsigned(1), unsigned(1) | sign)
    result = jnp.where(magnitude == 0, crossed, stepped | (pattern & sign))
    return jax.lax.bitcast_convert_type(result, x.dtype)
