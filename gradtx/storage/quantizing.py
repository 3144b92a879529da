"""State in codes of 8 or 4 bits, with one scale for each block of numbers."""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import FactorTree, Role, SignedTree
from gradtx.rounding import Rounding, round_to
from gradtx.storage.keeping import Draw, Layout

TINY = float(jnp.finfo(jnp.float32).tiny)


class Codes(NamedTuple):
    """What is kept of one array: int8 codes in its shape, and a float32 scale for each block of its last axis."""

    codes: SignedTree
    scales: FactorTree


class CodePairs(NamedTuple):
    """What is kept of one array: uint8, two codes of 4 bits in each along its last axis, and the scales."""

    pairs: FactorTree
    scales: FactorTree


@errors.checked
def quantized(*, bits: Literal[8, 4] = 8, block: errors.Count = 32, rounding: Rounding = "nearest") -> Layout:
    """A layout of integer codes, with one float32 scale ``s`` for each ``block`` numbers along the last axis::

        s = max |x| in the block     H = 127 (8 bits), 7 (4 bits)
        signed:        z = x / s,    code = round(H 2 z / (1 + |z|)),     x' = s c / (2 - |c|) with c = code / H
        non-negative:  z = v / s,    code = max(1, round(2 H sqrt(z))),   v' = s c^2           with c = code / (2 H)

    A second moment of exactly 0 has the code 0, a positive one never: divided by its root, a small one that became 0
    would explode. It is made larger instead, ``s / (2 H)^2`` at least, so steps become smaller. Factors (rows and
    columns of a factored moment, norms) are few numbers that each stand for many, and stay in float32.

    Nearest rounding errs by at most, and not at all for the largest number of a block::

        |x' - x| <= (|x| + s)^2 / ((4 H - 2) s)     s / 506 near zero, s / 126 near s; s / 26 and s / 6.5 in 4 bits
        |sqrt(v') - sqrt(v)| <= sqrt(s) / (4 H)     sqrt(s) / 508, or / 28 in 4 bits; twice that below sqrt(s) / (2 H)

    ``"stochastic"`` errs by up to twice as much (``2 H`` in place of ``4 H``), and is right on average, ``E[x'] = x``,
    but for ``v`` below ``s / (2 H)^2``. NaN and infinities become NaN, each in its own place; what is finite stays
    finite. Numbers below 1.2e-38 may count as 0.

    Under nearest rounding the decay of a whole block is exact, since it is in the scale. What is lost are slow changes
    of one number among its neighbours: a step of less than ``1 / code`` of ``v`` changes nothing, which for a decay of
    0.999 are nearly all, so that a number keeps a ``v`` that once was large. Momentum below ``s / 508`` is forgotten
    after each step; the gradient of the step itself always counts, in float32. Stochastic rounding keeps both moving,
    with noise.

    Bytes for each number: ``bits / 8 + 4 / block``, 1.125 or 0.625. A last axis that is no multiple of ``block`` has
    one scale more, so one of length 1 takes 5 bytes: keep it in float32, ``stored(tx, {"*bias": None, "*":
    quantized()})``. An array whose last axis is odd, and a scalar, has codes of 8 bits. Those are sharded like the
    parameter.

    Iterates, averages of parameters and sums over all steps are refused: an error of 1/500 of the largest neighbour
    would move the parameters, and to a growing sum most steps would add nothing.

    Raises ``ArgumentRangeError`` for other bits.

    Source: Gonzalez Ortiz et al. 2026, arXiv:2602.23349, section 3 (companding, roots, blocks of 32); Li et al. 2023,
    arXiv:2309.01507, section 4.1 (second moments without a code for zero). The codes of exact zeros and of NaN, and
    the stochastic rounding between decoded values, are this library's.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.storage.stored(gradtx.adamw(1e-3), gradtx.storage.quantized())
    >>> state = tx.init({"w": jnp.zeros((2, 64))})
    >>> jax.tree.map(lambda leaf: f"{leaf.dtype}{leaf.shape}", gradtx.tree.get(state, "ema/mean"))
    {'w': Codes(codes='int8(2, 64)', scales='float32(2, 2)')}
    """

    def encode(array: jax.Array, role: Role, draw: Draw | None) -> Any:
        if role.kind == "factor":
            return array
        pairs = bits == 4 and array.ndim > 0 and array.shape[-1] % 2 == 0
        uniform = None if draw is None else draw(array.shape)
        return _kept(round_to(array, jnp.float32), uniform, role, block, pairs)

    def decode(kept: Any, role: Role) -> jax.Array:
        if isinstance(kept, CodePairs):
            return _numbers(_unpack(kept.pairs), kept.scales, role, 7, block)
        return _numbers(kept.codes, kept.scales, role, 127, block) if isinstance(kept, Codes) else kept

    return Layout(encode, decode, _reason, reads="leaf", block=block, draws=rounding == "stochastic")


def _reason(role: Role) -> str | None:
    if role.kind == "position":
        return "an error of 1/500 of the largest neighbour would move the parameters"
    if role.kind == "accumulated":
        return "what most steps add to a growing sum is less than half a code"
    return None


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _kept(x: jax.Array, uniform: jax.Array | None, role: Role, block: int, pairs: bool) -> Codes | CodePairs:
    codes, scales = _codes(x, role, 7 if pairs else 127, block, uniform)
    return CodePairs(_pack(codes), scales) if pairs else Codes(codes.astype(jnp.int8), scales)


def _codes(x: jax.Array, role: Role, half: int, block: int, uniform: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """Codes from ``-half`` to ``half``, ``-half - 1`` for NaN, and the scale of each block."""
    finite = jnp.isfinite(x)
    size = jnp.where(finite, jnp.abs(x), 0)
    scales = _largest(size, block)
    scale = _spread(scales, x.shape, block)
    share = size / jnp.where(scale >= TINY, scale, 1)
    signed = role.kind == "signed"
    top = half if signed else 2 * half
    place = top * (2 * share / (1 + share) if signed else jnp.sqrt(share))
    if uniform is None:
        code = jnp.floor(place + 0.5)  # not round, which kernels for GPUs lack
    else:
        below = jnp.floor(place)
        low, high = _share(below, signed, top), _share(below + 1, signed, top)
        code = below + (uniform * (high - low) < share - low)
    code = jnp.clip(code, 0 if signed else 1, top)
    code = jnp.sign(x) * code if signed else jnp.where(x > 0, code, 0) - half
    return jnp.where(finite, code, -half - 1).astype(jnp.int32), scales


def _numbers(codes: jax.Array, scales: jax.Array, role: Role, half: int, block: int) -> jax.Array:
    scale = _spread(scales, codes.shape, block)
    code = codes.astype(jnp.int32).astype(jnp.float32)  # TPUs compare no int8
    if role.kind == "signed":
        x = jnp.sign(code) * (_share(jnp.abs(code), True, half) * scale)
    else:
        x = _share(code + half, False, 2 * half) * scale
        x = jnp.where(code > -half, jnp.maximum(x, TINY), 0)
    return jnp.where(code < -half, jnp.nan, x)


def _share(code: jax.Array, signed: bool, top: int) -> jax.Array:
    """The share of the scale that a code stands for; 1 for the largest one, exactly."""
    part = code / top
    return jnp.where(code == top, 1, part / (2 - part) if signed else jnp.square(part))


def _largest(size: jax.Array, block: int) -> jax.Array:
    """The largest number of each block of the last axis; of a scalar, itself."""
    if size.ndim == 0:
        return size
    missing = -size.shape[-1] % block
    if missing:
        size = jnp.pad(size, [(0, 0)] * (size.ndim - 1) + [(0, missing)])
    return jnp.max(size.reshape(*size.shape[:-1], size.shape[-1] // block, block), axis=-1)


def _spread(scales: jax.Array, shape: tuple[int, ...], block: int) -> jax.Array:
    """The scale of each number."""
    if not shape:
        return scales
    wide = jnp.broadcast_to(scales[..., None], (*scales.shape, block))
    return wide.reshape(*scales.shape[:-1], scales.shape[-1] * block)[..., : shape[-1]]


def _pack(codes: jax.Array) -> jax.Array:
    pairs = (codes + 8).reshape(*codes.shape[:-1], codes.shape[-1] // 2, 2)
    first, second = jnp.split(pairs, 2, axis=-1)
    return jnp.squeeze(first + 16 * second, axis=-1).astype(jnp.uint8)


def _unpack(pairs: jax.Array) -> jax.Array:
    pairs = pairs[..., None].astype(jnp.int32)
    codes = jnp.concatenate([pairs & 15, pairs >> 4], axis=-1) - 8
    return codes.reshape(*pairs.shape[:-2], 2 * pairs.shape[-2])
