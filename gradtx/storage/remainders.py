"""Parameters in 16 bits whose missing digits are state: no copy of the parameters in float32."""

import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import (
    FactorTree,
    GradientTransformation,
    Nested,
    Pair,
    apply_updates,
    join,
    record_of,
    states_of,
    transformation,
)
from gradtx.rounding import round_to
from gradtx.tree import in_words, is_inexact, widen


class RemainderState(NamedTuple):
    remainder: FactorTree
    inner: Nested


@transformation
def master_weights(tx: GradientTransformation, *, bits: Literal[8, 16] = 16) -> GradientTransformation:
    """``tx`` on float32 parameters of which the user holds the upper half, in bfloat16, and the state the rest::

        P = p + r                      the master weight: float32, in the letters of bits  P = 2^16 p + r
        P_new = P + u                  u is the step of tx from P, in float32
        p_new = bfloat16(P_new)        ties away from zero, so that -2^15 <= r < 2^15
        r_new = P_new - p_new          int16 with bits=16;   with bits=8 r / 2^8, int8, of a P rounded to 16 digits

    The new update is ``p_new - p``, and :func:`gradtx.apply_updates` gives ``p_new`` exactly. With 16 bits the run is,
    bit for bit, the one of a float32 copy of the parameters whose gradient is taken at ``bfloat16(P)``, and costs 4
    bytes a parameter for both instead of 6. With 8 bits a step moves ``P`` by at most ``2^-16 |P|`` beside ``u``, and
    both take 3 bytes. Leaves in another low precision keep their last rounding error in their own dtype (Kahan's sum)::

        P = p + r,   P_new = P + u,   p_new = round(P_new),   r_new = round(P_new - p_new)

    which for bfloat16 would be half the digits in the same two bytes. Leaves in float32 or wider are left to ``tx``,
    and keep nothing.

    Give the loss the parameters as they are. :func:`master_params` reads ``P``. Parameters that something else has
    changed since the last step are taken as they are now, with the old remainder. Whatever changes the step belongs
    inside, ``master_weights(chain(...))``: behind it in a chain it is an ``ArgumentTypeError``. ``optax.chain`` cannot
    check that, and the remainders would diverge from the parameters. A checkpoint is restored with the ``bits`` that it
    was saved with: Orbax casts int16 to int8, or back, without a word, and the digits are then wrong.

    Source: the digits of bfloat16 numbers in 8 bits, arXiv:2602.23349, section 3.1, there by scale, here by their
    place; the sum, Kahan 1965, Communications of the ACM 8(1), "Further remarks on reducing truncation errors", and
    Zamirai et al. 2020, arXiv:2010.06192, algorithm 3.

    >>> import gradtx, jax.numpy as jnp
    >>> from gradtx import storage
    >>> tx = storage.master_weights(gradtx.sgd(1e-3))
    >>> params, grads = jnp.ones(1, jnp.bfloat16), jnp.ones(1, jnp.bfloat16)
    >>> state = tx.init(params)
    >>> for _ in range(10):
    ...     updates, state = tx.update(grads, state, params)
    ...     params = gradtx.apply_updates(params, updates)
    >>> params.tolist(), round(float(storage.master_params(state, params)[0]), 6)
    ([0.98828125], 0.99)
    """
    record = record_of(tx)
    kept = {8: jnp.int8, 16: jnp.int16}[bits]

    def init(params: Any) -> RemainderState:
        remainders = jax.tree.map(
            lambda p: jnp.zeros_like(p, dtype=kept if p.dtype == jnp.bfloat16 else None) if _is_low(p) else None, params
        )
        return RemainderState(remainders, record.tree.init(_masters(remainders, params)))

    def update(updates: Any, state: Any, params: Any, signals: Mapping[str, Any]) -> tuple[Any, RemainderState]:
        masters = _masters(state.remainder, params)
        updates, inner = record.tree.update(updates, state.inner, masters, signals)
        flat, treedef = jax.tree.flatten(params)
        halves = [
            _parted(master, param.dtype, kept) if _is_low(param) else None
            for param, master in zip(flat, jax.tree.leaves(apply_updates(masters, updates)), strict=True)
        ]
        steps = [
            step if half is None else _step(half[0], widen(param))
            for step, half, param in zip(jax.tree.leaves(updates), halves, flat, strict=True)
        ]
        remainders = treedef.unflatten([None if half is None else half[1] for half in halves])
        return treedef.unflatten(steps), RemainderState(remainders, inner)

    return join({"inner": record}, Pair(init, update), own_params=True, kind="master weights")


def master_params(state: Any, params: Any) -> Any:
    """The parameters with the digits that a :func:`master_weights` in ``state`` keeps for them.

    A tree like ``params``, in float32 where they are in low precision: what to evaluate, average or save for a reader
    that does not know of remainders. Of several such parts (in a ``partition``) each gives its leaves; those that none
    serves stay as they are.

    Raises ``StructureError`` where ``state`` holds no such part, two for one leaf, or belongs to other parameters.
    """
    call = "master_params(state, params)"
    found = [part.remainder for _, part in states_of(RemainderState, state)]
    if not found:
        raise errors.StructureError(
            call, expected="a state in which a part keeps remainders of the parameters", got=type(state).__name__,
            cause="the optimizer was made without it", fix="write tx = storage.master_weights(adamw(1e-3))",
        )  # fmt: skip
    flat, treedef = jax.tree.flatten(params)
    try:
        columns = [treedef.flatten_up_to(remainder) for remainder in found]
    except (ValueError, TypeError, KeyError):
        raise errors.StructureError(
            call, expected=f"remainders of parameters like {in_words(params)}", got=in_words(found[0]),
            cause="the state belongs to other parameters, or an optimizer of Flax holds it in variables",
            fix="pass the parameters that tx.init was given; of nnx, nnx.as_pure(...) of both",
        ) from None  # fmt: skip
    rests = [[rest for rest in of_leaf if rest is not None] for of_leaf in zip(*columns, strict=True)]
    if max(map(len, rests), default=0) > 1:
        raise errors.StructureError(
            call, expected="one part that keeps remainders of a leaf", got=f"{max(map(len, rests))}",
            cause="the state of several optimizers was passed", fix="pass the state of one",
        )  # fmt: skip
    return treedef.unflatten([_together(p, *rest) if rest else p for p, rest in zip(flat, rests, strict=True)])


def _is_low(param: jax.Array) -> bool:
    """Whether it is a floating-point array in less than float32."""
    return is_inexact(param) and widen(param).dtype != param.dtype


def _masters(remainders: Any, params: Any) -> Any:
    flat, treedef = jax.tree.flatten(params)
    rests = treedef.flatten_up_to(remainders)
    return treedef.unflatten([p if rest is None else _together(p, rest) for p, rest in zip(flat, rests, strict=True)])


def _step(new: jax.Array, old: jax.Array) -> jax.Array:
    """What leads from one to the other; from an infinity to itself, nothing."""
    return jnp.where(new == old, 0, apply_updates(new, -old))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _parted(master: jax.Array, dtype: Any, kept: Any) -> tuple[jax.Array, jax.Array]:
    """A float32 number in two: the one that ``dtype`` holds, and the remainder, which for bfloat16 is in ``kept``."""
    if dtype != jnp.bfloat16:
        near = widen(round_to(master, dtype))
        return near, round_to(jnp.where(jnp.isfinite(near), master - near, 0.0), dtype)
    # In integers, where a carry goes from the digits into the exponent as rounding wants it. Beyond bfloat16's largest
    # number nothing is carried, and the remainder stops at its own largest.
    limits = jnp.iinfo(kept)
    bits_of = jax.lax.bitcast_convert_type(jnp.abs(master), jnp.int32)
    bits_of = bits_of if limits.bits == 16 else (bits_of + 0x80) & ~0xFF
    upper = jnp.minimum(bits_of + 0x8000, 0x7F7FFFFF) & ~0xFFFF
    rest = (bits_of - upper) >> (16 - limits.bits)
    near = jax.lax.bitcast_convert_type(upper, jnp.float32)
    is_finite = jnp.isfinite(master)
    near = jnp.where(is_finite, jnp.where(master < 0, -near, near), master)
    return near, jnp.where(is_finite, jnp.minimum(rest, limits.max), 0).astype(kept)


@jax.jit
def _together(param: jax.Array, remainder: jax.Array) -> jax.Array:
    """The number that was parted: by its bits where the remainder is an integer, or as a sum."""
    wide = widen(param)
    if not jnp.issubdtype(remainder.dtype, jnp.integer):
        return wide + widen(remainder)
    rest = remainder.astype(jnp.int32) << (16 - jnp.iinfo(remainder.dtype).bits)
    bits_of = jax.lax.bitcast_convert_type(jnp.abs(wide), jnp.int32) + rest
    # No remainder leads below zero: there are no digits of subnormal numbers, which the CPU and others count as zero.
    size = jax.lax.bitcast_convert_type(jnp.maximum(bits_of, 0), jnp.float32)
    return jnp.where(jnp.isfinite(wide), jnp.where(wide < 0, -size, size), wide)
