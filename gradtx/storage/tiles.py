"""The update of one array as one kernel over tiles of whole blocks, for GPUs and TPUs."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from gradtx.rounding import places
from gradtx.storage.programs import Program, check_body, in_order, same


class Tiles(NamedTuple):
    """``view``: the leaf as a matrix whose rows are whole blocks. ``tile``: the part that a kernel takes at once."""

    view: tuple[int, int]
    tile: tuple[int, int]


def for_gpus(shape: tuple[int, ...], block: int) -> Tiles | None:
    """Tiles of 128 to 1,024 numbers, or of one larger block, in a matrix with one block a row.

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
    check_body(body, [() if share is None else shape_of(share, tiles.tile) for share in program.results], allowed)

    def kernel(*refs: Any) -> None:
        values = [
            ref[0, 0] if share is None else ref[...]
            for ref, share in zip(refs[: len(operands)], program.operands, strict=True)
        ]
        if program.draws:
            first = pl.program_id(0) * (tiles.tile[0] * tiles.view[1]) + pl.program_id(1) * tiles.tile[1]
            values.append(first + places(tiles.tile, tiles.view[1]))
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
            if index > 0 and same(plain.in_avals[index], plain.out_avals[index])
        },
        name="one_pass",
        **options,
    )(
        *(
            jnp.reshape(array, shape_of(share, tiles.view))
            for array, share in zip(operands, program.operands, strict=True)
        )
    )
    return in_order(operands, program, dict(zip(written, found, strict=True)))
