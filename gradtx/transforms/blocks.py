"""One second moment for a block of parameters: an output unit, a row of a table, a head."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators import chain, partition, ratio
from gradtx.combinators.selecting import Where, selected
from gradtx.core import FactorTree, GradientTransformation, transformation
from gradtx.transforms.magnitudes import input_axes
from gradtx.transforms.moments import bias_correction, ema, finite_square, square_root


class BlockMeanSquareState(NamedTuple):
    mean_square: FactorTree


Block = Literal["unit", "row", "head"]


@transformation(locality="leaf")
def block_mean_square(decay: errors.Decay, *, block: Block = "unit") -> GradientTransformation:
    """``u = v``, ``v <- decay * v + (1 - decay) * mean(g^2)`` with the mean over each block of a leaf.

    A block is the weights that lead into one output unit (``"unit"``), a row, as that of one token in an embedding
    (``"row"``: the mean over all axes but the first), or a head in a kernel ``(inputs, heads, size)`` (``"head"``: over
    all axes but the second). The inputs are those of JAX's layers: axis 0 of two or three, all but the last of four or
    five. Vectors and scalars are one block. State: one float32 number per block.

    Raises ``ShapeError`` for more than five axes with ``"unit"``, and for less than three with ``"head"``.

    Source: Zhang et al. 2024, arXiv:2406.16793, algorithm 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.block_mean_square(0.0)
    >>> tx.update(jnp.array([[1.0, 2.0], [7.0, 2.0]]), tx.init(jnp.zeros((2, 2))))[0].tolist()
    [[25.0, 4.0], [25.0, 4.0]]
    """

    def mean(x: jax.Array) -> jax.Array:
        """The mean over each block, its parts added after the division: a sum of squares would overflow."""
        axes = _axes(x, block)
        count = 1
        for axis in axes:
            count *= x.shape[axis]
        return jnp.sum(x / max(count, 1), axis=axes, keepdims=True)

    def init(param):
        return BlockMeanSquareState(mean(jnp.zeros_like(param.real)))

    def update(update, state):
        new = state.mean_square + (1.0 - decay) * (mean(finite_square(update)) - state.mean_square)
        return jnp.broadcast_to(new, update.shape), BlockMeanSquareState(new)

    return GradientTransformation(init, update)


def _axes(x: jax.Array, block: Block) -> tuple[int, ...]:
    """The axes within one block."""
    if block == "head" and x.ndim < 3:
        raise errors.ShapeError(
            errors.UNNAMED, expected="kernels of heads, with the axes (inputs, heads, size)",
            got=f"the shape {x.shape}", cause="a layer that is not one of attention was selected",
            fix="select the kernels of queries and keys alone, e.g. heads='*[qk]*/kernel'",
        )  # fmt: skip
    if x.ndim < 2:
        return tuple(range(x.ndim))
    own = {"row": 0, "head": 1}.get(block)
    return input_axes(x, None) if own is None else tuple(axis for axis in range(x.ndim) if axis != own)


@transformation
def scale_by_adam_mini(
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    *,
    rows: Where | None = None,
    heads: Where | None = None,
) -> GradientTransformation:
    """``u = m^ / (sqrt(v^) + eps)`` with Adam's corrected mean ``m^`` and one ``v^`` for each block of a leaf.

    ``rows`` selects the leaves whose blocks are rows (embeddings: a token), ``heads`` the kernels ``(inputs, heads,
    size)`` whose blocks are heads (queries and keys). In all others a block is what leads into one output unit, as in
    :func:`block_mean_square`; vectors are one block. State: one float32 number per parameter and one per block.

    Source: Zhang et al. 2024, arXiv:2406.16793, algorithm 1 with its partition for Transformers.
    """

    def scaled(block: Block) -> GradientTransformation:
        second = chain(block_mean_square(b2, block=block), bias_correction(b2), square_root())
        return ratio(chain(ema(b1), bias_correction(b1)), second, eps=eps)

    chosen: dict[Block, Where] = {}
    if rows is not None:
        chosen["row"] = rows
    if heads is not None:
        chosen["head"] = heads
    if not chosen:
        return scaled("unit")

    def labels(tree):
        found: list[Block] = ["unit"] * len(jax.tree.leaves(tree))
        for block, where in chosen.items():
            hits = selected(where, tree, f"scale_by_adam_mini({block}s={errors.show(where)})", f"{block}s")
            found = [block if hit else old for hit, old in zip(hits, found, strict=True)]
        return jax.tree.structure(tree).unflatten(found)

    return partition({"unit": scaled("unit"), **{block: scaled(block) for block in chosen}}, labels)
