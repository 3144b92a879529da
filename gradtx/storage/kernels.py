"""One pass over memory for an update whose state is kept in blocks.

A scale is the largest number of its block, and codes need the scale: decoding, the update and the largest numbers are
one loop for XLA, the codes another, between which all is computed twice or kept in float32. Here it is one kernel over
tiles of whole blocks, or on a CPU a loop over tiles that stay in its cache. The body is the update as it is written for
one array; no optimizer has a kernel of its own.

What runs is decided when a program is lowered: for CPUs, CUDA and TPUs, on one device or within ``shard_map``.
Everywhere else, under ``vmap`` and in derivatives it is the plain program.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir

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

AT_ONCE = 2**15
"""Numbers in a tile on a CPU: 128 KB for each array in float32. Four times as many take as long, and more memory."""

LEAST = 2**19
"""Numbers for which it takes a loop on a CPU. With half as many the plain program is up to a third faster, compiles in
a third of the time, and what it needs of memory is little."""

Update = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


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


class Tiles(NamedTuple):
    """``view``: the leaf as a matrix whose rows are whole blocks. ``tile``: the part that a kernel takes at once."""

    view: tuple[int, int]
    tile: tuple[int, int]


class NoKernelError(Exception):
    """The update of a tile is no part of the update of the array."""


def in_one_pass(update: Update, block: int, draws: bool) -> Update:
    """``update(updates, state, params, signals)`` of one array, to which a kernel may give the same results.

    An element of a result may depend on those of its own block alone, ``block`` numbers along the last axis, and with
    ``draws`` on its place in the array: in part of one it takes those from ``signals["places"]``.
    """

    def run(*operands: Any) -> tuple[Any, Any]:
        flat, treedef = jax.tree.flatten(operands)
        out_tree = None

        def flat_update(*flat: Any) -> list[Any]:
            nonlocal out_tree
            updates, state, params, signals = treedef.unflatten(flat[: treedef.num_leaves])
            if of_tile := flat[treedef.num_leaves :]:
                signals = {**signals, "places": of_tile[0]}
            results, out_tree = jax.tree.flatten(update(updates, state, params, signals))
            return results

        plain = jax.make_jaxpr(flat_update)(*flat)
        program = _program(plain, flat_update, block, draws)
        results = core.jaxpr_as_fun(plain)(*flat) if program is None else _one_pass.bind(*flat, program=program)
        return jax.tree.unflatten(out_tree, results)

    return run


def for_gpus(shape: tuple[int, ...], block: int) -> Tiles | None:
    """Tiles of 128 to 1,024 numbers, in a matrix with one block a row.

    With 32 threads in a warp these are 16 bytes of float32 for each thread, up to 8 numbers for each of 4 warps. Triton
    wants powers of two.
    """
    count = 0 if shape[-1] % block else math.prod(shape) // block
    rows = min(count & -count, max(1, 1024 // block))
    return Tiles((count, block), (rows, block)) if block & (block - 1) == 0 and rows * block >= 128 else None


def for_tpus(shape: tuple[int, ...], block: int) -> Tiles | None:
    """Tiles of 32 rows, as int8 is laid out, in the leaf as it lies.

    A row is the whole one, or so many blocks that their scales fill the 128 lanes. (With one block of 32 a row each
    number would take the place of four, in a copy of every array.)
    """
    rows, width = math.prod(shape[:-1]), min(shape[-1], 128 * block)
    fits = width <= 4096 and width % 128 == 0 and shape[-1] % width == 0 and rows and rows % 32 == 0
    return Tiles((rows, shape[-1]), (32, width)) if fits else None


def by_tiles(
    operands: Sequence[Any], program: Program, tiles: Tiles, allowed: frozenset[str], **options: Any
) -> list[Any]:
    """The results of the program by one kernel of these operations, with these options for ``pallas_call``.

    Raises ``NoKernelError`` where the program has others.
    """
    from jax.experimental import pallas as pl

    plain, block = program.plain, program.block

    def shape_of(share: int | None, of: tuple[int, int]) -> tuple[int, int]:
        return (1, 1) if share is None else (of[0], of[1] // block * share)

    def spec(share: int | None) -> Any:
        return pl.BlockSpec(shape_of(share, tiles.tile), (lambda *_: (0, 0)) if share is None else lambda *at: at)

    body = jax.make_jaxpr(program.update)(
        *(
            jax.ShapeDtypeStruct(() if share is None else shape_of(share, tiles.tile), aval.dtype)
            for aval, share in zip(plain.in_avals, program.operands, strict=True)
        ),
        *[jax.ShapeDtypeStruct(tiles.tile, jnp.int32)] * program.draws,
    )
    written = [index for index, share in enumerate(program.results) if share is not None]
    _check_body(body, [() if share is None else shape_of(share, tiles.tile) for share in program.results], allowed)

    def kernel(*refs: Any) -> None:
        values = [
            ref[0, 0] if share is None else ref[...]
            for ref, share in zip(refs[: len(operands)], program.operands, strict=True)
        ]
        if program.draws:
            first = pl.program_id(0) * (tiles.tile[0] * tiles.view[1]) + pl.program_id(1) * tiles.tile[1]
            values.append(first + _places(tiles.tile, tiles.view[1]))
        results = core.jaxpr_as_fun(body)(*values)
        for ref, index in zip(refs[len(operands) :], written, strict=True):
            ref[...] = results[index]

    def views_of_results(*operands: Any) -> list[jax.Array]:  # which know the axes of a shard_map that they vary over
        results = core.jaxpr_as_fun(plain)(*operands)
        return [jnp.reshape(results[index], shape_of(program.results[index], tiles.view)) for index in written]

    found = pl.pallas_call(
        kernel,
        out_shape=jax.eval_shape(views_of_results, *operands),
        grid=(tiles.view[0] // tiles.tile[0], tiles.view[1] // tiles.tile[1]),
        in_specs=[spec(share) for share in program.operands],
        out_specs=[spec(program.results[index]) for index in written],
        # The state's arrays, which stand in the same order before and after, stay where they are.
        input_output_aliases={
            index: position
            for position, index in enumerate(written)
            if index > 0 and _same(plain.in_avals[index], plain.out_avals[index])
        },
        name="one_pass",
        **options,
    )(
        *(
            jnp.reshape(array, shape_of(share, tiles.view))
            for array, share in zip(operands, program.operands, strict=True)
        )
    )
    return _in_order(operands, program, dict(zip(written, found, strict=True)))


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
    stays = [index for index in written if _same(plain.in_avals[index], plain.out_avals[index])]

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
            values.append(start * unit + _places(values[0].shape, unit))
        # With the scalars: without them XLA counts 34.7 in place of 24.2 bytes a byte of adamw's 10,000 parameters.
        body = jax.make_jaxpr(program.update)(*values)
        shapes = [tile(arrays[index], written[index]).shape if index in written else () for index in results]
        _check_body(body, shapes, ON_CPUS)
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
    return _in_order(operands, program, arrays)


def _places(tile: tuple[int, ...], row: int) -> jax.Array:
    """The places of a tile's numbers after its first, where rows have a length of ``row``."""
    by_axis = [jax.lax.broadcasted_iota(jnp.int32, tile, axis) for axis in range(len(tile))]
    return by_axis[-1] if len(tile) == 1 else by_axis[0] * row + by_axis[1]


def _check_body(body: core.ClosedJaxpr, shapes: Sequence[tuple[int, ...]], allowed: frozenset[str]) -> None:
    """Raises where the update of a tile is no part of that of the array."""
    found = [aval.shape for aval in body.out_avals]
    if found != shapes:
        raise NoKernelError(f"shapes {found} in place of {shapes}")
    if body.consts or _primitives(body.jaxpr) - allowed:
        raise NoKernelError(f"{len(body.consts)} closed-over arrays, operations {_primitives(body.jaxpr) - allowed}")


def _in_order(operands: Sequence[Any], program: Program, arrays: Mapping[int, jax.Array]) -> list[Any]:
    """All results: the arrays in their shapes, and the scalars, which are operands."""
    plain = program.plain
    given = dict(zip(plain.jaxpr.invars, operands, strict=True))
    return [
        arrays[index].reshape(plain.out_avals[index].shape) if index in arrays else given[variable]
        for index, variable in enumerate(plain.jaxpr.outvars)
    ]


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
        if equation.primitive.name != "jit" or "reduce_max" not in _primitives(equation.params["jaxpr"].jaxpr):
            return equation
        inner = equation.params["jaxpr"]
        return equation.replace(params={**equation.params, "jaxpr": jax.make_jaxpr(_in_branch(inner))(*inner.in_avals)})

    return body.replace(jaxpr=body.jaxpr.replace(eqns=[branched(equation) for equation in body.jaxpr.eqns]))


def _program(plain: core.ClosedJaxpr, update: Callable[..., list[Any]], block: int, draws: bool) -> Program | None:
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


def _primitives(jaxpr: core.Jaxpr) -> set[str]:
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        names = names.union(*(_primitives(inner) for inner in core.jaxprs_in_params(equation.params)))
    return names


def _same(one: Any, other: Any) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


def _plain(*operands: Any, program: Program) -> list[Any]:
    return core.jaxpr_as_fun(program.plain)(*operands)


def _abstract(*avals: Any, program: Program) -> Sequence[Any]:
    plain = program.plain
    same = list(avals) == list(plain.in_avals)
    return plain.out_avals if same else jax.make_jaxpr(core.jaxpr_as_fun(plain))(*avals).out_avals


def _lower_for_cpus(ctx: Any, *operands: Any, program: Program) -> Any:
    return _lower(ctx, operands, program, lambda *operands: by_turns(operands, program))


def _lower_for_gpus(ctx: Any, *operands: Any, program: Program) -> Any:
    from jax.experimental.pallas import triton

    tiles = for_gpus(program.plain.in_avals[0].shape, program.block)
    if tiles is None:
        return _lower_plainly(ctx, *operands, program=program)
    options = triton.CompilerParams(num_warps=max(1, min(4, math.prod(tiles.tile) // 256)))
    kernel = functools.partial(by_tiles, program=program, tiles=tiles, allowed=ON_GPUS, compiler_params=options)
    return _lower(ctx, operands, program, lambda *operands: kernel(operands))


def _lower_for_tpus(ctx: Any, *operands: Any, program: Program) -> Any:
    tiles = for_tpus(program.plain.in_avals[0].shape, program.block) if _has_layouts() else None
    if tiles is None:
        return _lower_plainly(ctx, *operands, program=program)
    return _lower(ctx, operands, program, lambda *operands: by_tiles(operands, program, tiles, ON_TPUS))


def _has_layouts() -> bool:
    """Whether the compiler is known to take kernels for these TPUs: that of v4 refuses their reshapes."""
    from jax.experimental.pallas import tpu

    try:
        return str(tpu.get_tpu_info().chip_version) in ("v5e", "v6e")
    except ValueError:  # no TPU is at hand, nor its name
        return False


def _lower(ctx: Any, operands: Sequence[Any], program: Program, in_one_pass: Callable[..., list[Any]]) -> Any:
    if _is_on_one_device(ctx.module_context.axis_context):
        try:
            return mlir.lower_fun(in_one_pass, multiple_results=True)(ctx, *operands)
        except Exception:  # of whatever kind: what kernels lack, the plain program has
            pass
    return _lower_plainly(ctx, *operands, program=program)


def _is_on_one_device(context: Any) -> bool:
    """Whether the program is one device's, or within ``shard_map`` over all axes. Nothing else would split a kernel."""
    if hasattr(context, "manual_axes"):
        return set(context.manual_axes) == set(context.mesh.axis_names)
    return getattr(context, "num_devices", None) == 1


def _differentiate(primals: Any, tangents: Any, *, program: Program) -> tuple[Any, Any]:
    whole = tuple(ad.instantiate_zeros(tangent) for tangent in tangents)
    return jax.jvp(core.jaxpr_as_fun(program.plain), tuple(primals), whole)


def _batch(operands: Any, axes: Any, *, program: Program) -> tuple[Any, Any]:
    results = jax.vmap(core.jaxpr_as_fun(program.plain), in_axes=tuple(axes))(*operands)
    return results, [0] * len(results)


_one_pass = core.Primitive("one_pass")
_one_pass.multiple_results = True
_one_pass.def_impl(jax.jit(_plain, static_argnames="program"))
_one_pass.def_abstract_eval(_abstract)
_lower_plainly = mlir.lower_fun(_plain, multiple_results=True)
mlir.register_lowering(_one_pass, _lower_plainly)
mlir.register_lowering(_one_pass, _lower_for_cpus, platform="cpu")
mlir.register_lowering(_one_pass, _lower_for_gpus, platform="cuda")
mlir.register_lowering(_one_pass, _lower_for_tpus, platform="tpu")
ad.primitive_jvps[_one_pass] = _differentiate
batching.primitive_batchers[_one_pass] = _batch
