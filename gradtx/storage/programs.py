"""The update of one array in blocks, as it is for the whole and for any part of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

# What reads nothing but its own block. JAX's random bits, indices and cumulative sums would start anew in each tile.
ON_TPUS = frozenset({
    "abs", "add", "add_any", "and", "bitcast_convert_type", "broadcast_in_dim", "clamp", "convert_element_type",
    "cos", "custom_jvp_call", "custom_vjp_call", "div", "eq", "exp", "exp2", "floor", "ge", "gt", "integer_pow",
    "is_finite", "jit", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "ne", "neg", "not", "or",
    "pow", "reduce_max", "rem", "reshape", "rsqrt", "select_n", "shift_left", "shift_right_arithmetic",
    "shift_right_logical", "sign", "sin", "sqrt", "square", "squeeze", "stop_gradient", "sub", "tanh", "xor",
})  # fmt: skip
ON_GPUS = ON_TPUS | {"concatenate", "expm1", "split"}  # the first and the last for two codes in a byte
# For a block that the end of a row cuts off; and what shard_map writes in two versions of JAX.
ON_CPUS = ON_GPUS | {"pad", "slice", "pvary", "pcast"}


class Program(NamedTuple):
    """One update: as it is for whole arrays, as it is written for any, and how many numbers of each block are in each
    of its operands and results; None for scalars. With ``draws`` a tile has one operand more: its numbers' places.
    """

    plain: core.ClosedJaxpr
    update: Callable[..., list[Any]]
    block: int
    operands: tuple[int | None, ...]
    results: tuple[int | None, ...]
    draws: bool


class NoKernelError(Exception):
    """The update of a tile is no part of the update of the array."""


def program_of(plain: core.ClosedJaxpr, update: Callable[..., list[Any]], block: int, draws: bool) -> Program | None:
    """What a kernel must know, or None where none can be."""
    like = plain.in_avals[0]
    if not like.shape or not like.size:
        return None
    shares = [_share(aval, like, block) for aval in (*plain.in_avals, *plain.out_avals)]
    operands, results = tuple(shares[: len(plain.in_avals)]), tuple(shares[len(plain.in_avals) :])
    scalars = [variable for variable, share in zip(plain.jaxpr.outvars, results, strict=True) if share is None]
    # What all leaves share is passed on; what a closure holds of an outer trace is gone when a kernel is traced.
    kept = plain.jaxpr.invars
    if 0 in shares or plain.consts or not all(any(variable is one for one in kept) for variable in scalars):
        return None
    return Program(plain, update, block, operands, results, draws)


def _share(aval: Any, like: Any, block: int) -> int | None:
    """How many numbers an array holds of each whole block; None for a scalar, 0 for what has no place in a kernel."""
    if not jnp.issubdtype(aval.dtype, jnp.number) or aval.dtype.itemsize > 4:
        return 0
    if aval.shape == ():
        return None
    share = aval.shape[-1] * block // like.shape[-1]
    is_alike = aval.shape[:-1] == like.shape[:-1] and aval.shape[-1] == -(-like.shape[-1] * share // block)
    return share if is_alike else 0


def check_body(body: core.ClosedJaxpr, shapes: Sequence[tuple[int, ...]], allowed: frozenset[str]) -> None:
    """Raises where the update of a tile is no part of that of the array."""
    found = [aval.shape for aval in body.out_avals]
    if found != shapes:
        raise NoKernelError(f"shapes {found} in place of {shapes}")
    if body.consts or primitives(body.jaxpr) - allowed:
        raise NoKernelError(f"{len(body.consts)} closed-over arrays, operations {primitives(body.jaxpr) - allowed}")


def in_order(operands: Sequence[Any], program: Program, arrays: Mapping[int, jax.Array]) -> list[Any]:
    """All results: the arrays in their shapes, and the scalars, which are operands."""
    plain = program.plain
    given = dict(zip(plain.jaxpr.invars, operands, strict=True))
    return [
        arrays[index].reshape(plain.out_avals[index].shape) if index in arrays else given[variable]
        for index, variable in enumerate(plain.jaxpr.outvars)
    ]


def primitives(jaxpr: core.Jaxpr) -> set[str]:
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        names = names.union(*(primitives(inner) for inner in core.jaxprs_in_params(equation.params)))
    return names


def same(one: Any, other: Any) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype
