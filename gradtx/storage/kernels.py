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
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import ad, batching, mlir

from gradtx.storage.programs import ON_GPUS, ON_TPUS, NoKernelError, Program, program_of
from gradtx.storage.tiles import by_tiles, for_gpus, for_tpus
from gradtx.storage.turns import by_turns

Update = Callable[[Any, Any, Any, Any], tuple[Any, Any]]


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
        program = program_of(plain, flat_update, block, draws)
        results = core.jaxpr_as_fun(plain)(*flat) if program is None else _one_pass.bind(*flat, program=program)
        return jax.tree.unflatten(out_tree, results)

    return run


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
    # Of kernels for GPUs jax.export does not promise that a later version takes them, and refuses them.
    if tiles is None or ctx.module_context.lowering_parameters.for_export:
        return _lower_plainly(ctx, *operands, program=program)
    options = triton.CompilerParams(num_warps=max(1, min(4, math.prod(tiles.tile) // 256)))
    kernel = functools.partial(by_tiles, program=program, tiles=tiles, allowed=ON_GPUS, compiler_params=options)
    return _lower(ctx, operands, program, lambda *operands: kernel(operands))


def _lower_for_tpus(ctx: Any, *operands: Any, program: Program) -> Any:
    tiles = for_tpus(program.plain.in_avals[0].shape, program.block) if _takes_kernels() else None
    if tiles is None:
        return _lower_plainly(ctx, *operands, program=program)
    return _lower(ctx, operands, program, lambda *operands: by_tiles(operands, program, tiles, ON_TPUS))


def _takes_kernels() -> bool:
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
        except NoKernelError:
            pass
        except Exception as error:  # what Pallas cannot lower has no class of its own
            what = f"the update of {program.plain.in_avals[0].str_short()} in blocks of {program.block}"
            warnings.warn(f"{what} is not one kernel, but slower: {type(error).__name__}: {error}", stacklevel=2)
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
    along = dict(zip(program.plain.jaxpr.invars, axes, strict=True))
    out_axes = [along.get(variable, 0) for variable in program.plain.jaxpr.outvars]  # a scalar is an operand
    return jax.vmap(core.jaxpr_as_fun(program.plain), in_axes=tuple(axes), out_axes=out_axes)(*operands), out_axes


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
