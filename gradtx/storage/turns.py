"""The update of one array as a loop over tiles that stay in a CPU's cache."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from gradtx.rounding import places
from gradtx.storage.programs import ON_CPUS, NoKernelError, Program, check_body, in_order, primitives, same

AT_ONCE = 2**15
"""Numbers in a tile on a CPU: 128 KB for each array in float32. Four times as many take as long, and more memory."""

LEAST = 2**19
"""Numbers for which it takes a loop on a CPU. With half as many the plain program is up to a third faster, compiles in
a third of the time, and what it needs of memory is little."""


def by_turns(operands: Sequence[Any], program: Program) -> list[Any]:
    """The results of the program by a loop over tiles, written where the gradients and the old state were.

    XLA's CPU backend computes what is cheap anew in each loop that reads it. So the old codes are read by several, and
    the loop that writes over them would have all of them copied before. What goes into a branch and what comes out of
    it is there once: a tile is updated in one, and written when nothing reads the old one.

    Raises ``NoKernelError`` as :func:`by_tiles` does, for few numbers, and for so many that a place is no int32.
    """
    plain, shape = program.plain, program.plain.in_avals[0].shape
    if not LEAST <= math.prod(shape) < 2**31:
        raise NoKernelError(f"{math.prod(shape)} numbers")
    # A tile is a vector of whole blocks; where each of several rows ends within a block, a matrix of whole rows.
    by_rows = len(shape) > 1 and shape[-1] % program.block != 0
    unit = shape[-1] if by_rows else program.block
    count, most = math.prod(shape) // unit, max(1, AT_ONCE // unit)
    length = max((some for some in range(most // 2 + 1, most + 1) if count % some == 0), default=most)

    def view(array: jax.Array) -> jax.Array:
        return array.reshape((-1, array.shape[-1]) if by_rows else -1) if array.ndim else array

    given, results = [view(array) for array in operands], range(len(program.results))
    written = {index: 1 if by_rows else share for index, share in enumerate(program.results) if share is not None}
    stays = [index for index in written if same(plain.in_avals[index], plain.out_avals[index])]

    def turn(start: Any, length: int | None, arrays: dict[int, jax.Array]) -> dict[int, jax.Array]:
        """With ``length`` units anew, from ``start`` on; without it all that is left."""

        def tile(array: jax.Array, share: int | None) -> jax.Array:
            if share is None:
                return array
            each = 1 if by_rows else share
            size = array.shape[0] - start * each if length is None else length * each
            return jax.lax.dynamic_slice_in_dim(array, start * each, size)

        old = [arrays[index] if index in stays else array for index, array in enumerate(given)]
        values = [tile(array, share) for array, share in zip(old, program.operands, strict=True)]
        if program.draws:
            values.append(start * unit + places(values[0].shape, unit))
        # With the scalars: without them XLA counts two fifths more bytes for adamw.
        body = jax.make_jaxpr(program.update)(*values)
        shapes = [tile(arrays[index], written[index]).shape if index in written else () for index in results]
        check_body(body, shapes, ON_CPUS)
        found = _in_branch(_with_branches(body))(*values)
        return {
            index: jax.lax.dynamic_update_slice_in_dim(array, found[index], start * written[index], 0)
            for index, array in arrays.items()
        }

    arrays = {
        index: given[index] if index in stays else view(jnp.zeros_like(plain.out_avals[index])) for index in written
    }
    turns = count // length
    if turns:
        arrays = jax.lax.fori_loop(0, turns, lambda at, arrays: turn(at * length, length, arrays), arrays)
    if turns * length * unit < math.prod(shape):
        arrays = turn(turns * length, None, arrays)
    return in_order(operands, program, arrays)


def always(number: jax.Array) -> jax.Array:
    """True for any number, NaN too, which the compiler does not know."""
    return (number == number) | (number != number)


def _in_branch(function: core.ClosedJaxpr) -> Callable[..., list[jax.Array]]:
    """The function in a branch that is always taken."""

    def never(*operands: jax.Array) -> list[jax.Array]:
        some = operands[0].ravel()[0]  # varies over the axes of a shard_map, as arrays do and scalars do not
        return [
            jnp.broadcast_to(some.astype(aval.dtype), aval.shape) if aval.shape else jnp.zeros((), aval.dtype)
            for aval in function.out_avals
        ]

    def run(*operands: jax.Array) -> list[jax.Array]:
        return jax.lax.cond(always(operands[0].ravel()[0]), core.jaxpr_as_fun(function), never, *operands)

    return run


def _with_branches(body: core.ClosedJaxpr) -> core.ClosedJaxpr:
    """With each function that looks for the largest numbers in a branch, so that what it reads is computed once."""

    def branched(equation: core.JaxprEqn) -> core.JaxprEqn:
        if equation.primitive.name != "jit" or "reduce_max" not in primitives(equation.params["jaxpr"].jaxpr):
            return equation
        inner = equation.params["jaxpr"]
        return equation.replace(params={**equation.params, "jaxpr": jax.make_jaxpr(_in_branch(inner))(*inner.in_avals)})

    return body.replace(jaxpr=body.jaxpr.replace(eqns=[branched(equation) for equation in body.jaxpr.eqns]))
