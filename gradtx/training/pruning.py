"""How many weights are exactly zero, and what can be left out because of it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.combinators.layering import first_matches
from gradtx.tables import aligned
from gradtx.tree import is_inexact, leaf_paths


class SparsityRow(NamedTuple):
    """One array: how many of its weights are zero, and of how many inputs and outputs all are.

    Inputs and outputs are the last two axes, as in kernels of dense layers and of convolutions; arrays of fewer axes
    have None. Nothing reads an input all of whose weights are zero; an output of which they are is its bias.
    """

    path: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    zero_inputs: int | None
    zero_outputs: int | None

    @property
    def fraction(self) -> float:
        """The share of the weights that is zero."""
        return self.zeros / max(self.weights, 1)


class Sparsity(tuple[SparsityRow, ...]):
    """Rows of :func:`sparsity`, and ``total`` of all; prints as a table."""

    @property
    def total(self) -> SparsityRow:
        return SparsityRow("total", (), sum(row.weights for row in self), sum(row.zeros for row in self), None, None)

    def __repr__(self) -> str:
        cells = [["", "shape", "weights", "zero", "", "inputs", "outputs"]]
        for row in (*self, self.total):
            shape = "x".join(map(str, row.shape))
            empty = ["" if count is None else f"{count:,}" for count in (row.zero_inputs, row.zero_outputs)]
            cells.append([row.path, shape, f"{row.weights:,}", f"{row.zeros:,}", f"{row.fraction:.1%}", *empty])
        return aligned(cells)


def sparsity(params: Any) -> Sparsity:
    """How many weights of each array are exactly zero: rows that print as a table, with a ``total``.

    A row has ``path``, ``shape``, ``weights``, ``zeros``, ``fraction``, and for arrays of two axes or more how many
    inputs (the last axis but one) and outputs (the last) have nothing but zeros. Arrays of integers are left out. Runs
    on the devices of ``params``; only the counts are fetched.

    >>> import gradtx, jax.numpy as jnp
    >>> rows = gradtx.training.sparsity({"kernel": jnp.array([[0.0, 0.0], [0.0, 3.0]]), "bias": jnp.ones(2)})
    >>> rows
            shape  weights  zero         inputs  outputs
    bias        2        2     0   0.0%
    kernel    2x2        4     3  75.0%       1        1
    total                6     3  50.0%
    >>> rows.total.fraction
    0.5
    """
    arrays = {
        path: leaf
        for path, leaf in zip(leaf_paths(params), map(jnp.asarray, jax.tree.leaves(params)), strict=True)
        if is_inexact(leaf)
    }
    rows = []
    for path, counts in jax.device_get(_counts(arrays)).items():
        shape = arrays[path].shape
        # Counts of one axis at a time: all of a large array would not fit into 32 bits.
        zeros = int(np.sum(counts[0], dtype=np.int64))
        inputs, outputs = (None if count is None else int(count) for count in counts[1:])
        rows.append(SparsityRow(path, shape, int(np.prod(shape, dtype=np.int64)), zeros, inputs, outputs))
    return Sparsity(rows)


@jax.jit
def _counts(arrays: Mapping[str, jax.Array]) -> dict[str, Any]:
    counts = {}
    for path, leaf in arrays.items():
        zero = leaf == 0
        if leaf.ndim < 2:
            counts[path] = zero, None, None
            continue
        by_input, by_output = (
            jnp.all(zero, axis=tuple(other for other in range(leaf.ndim) if other != axis))
            for axis in (leaf.ndim - 2, leaf.ndim - 1)
        )
        counts[path] = jnp.sum(zero, axis=-1), jnp.sum(by_input), jnp.sum(by_output)
    return counts


def remove_units(params: Any, written: Mapping[str, int], read: Mapping[str, int]) -> Any:
    """``params`` without the units that nothing reads: all weights out of them are zero, so that no output changes.

    ``written`` maps globs on paths to the axis along which their arrays have one entry for each unit, for what makes
    the units (kernel and bias, their last axis), ``read`` for what reads them (the kernel of the next layer, its last
    axis but one). Both are cut along it; give the model the new width. Do not use it across a normalization over the
    units, which would read them all, nor across a reshape.

    Exactness: the sums of the readers lose terms that are zero. Arrays come back in their dtypes; call it outside of
    ``jit``, since the new shapes depend on values.

    Raises ``SelectionError`` for a glob that no leaf has, ``ShapeError`` where the numbers of units differ.

    >>> import gradtx, jax.numpy as jnp
    >>> params = {"first": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "second": jnp.array([[0.0], [5.0]])}
    >>> small = gradtx.training.remove_units(params, written={"first/*": -1}, read={"second": -2})
    >>> small["first"]["kernel"].shape, small["first"]["bias"].shape, small["second"].tolist()
    ((3, 1), (1,), [[5.0]])
    """
    call = f"remove_units(params, {errors.show(written)}, {errors.show(read)})"
    axes = {**written, **read}
    globs = first_matches(call, axes, params)
    leaves, treedef = jax.tree.flatten(params)
    units: int | None = None
    unread: Any = True
    for index, (leaf, glob) in enumerate(zip(leaves, globs, strict=True)):
        if glob is None:
            continue
        axis = axes[glob]
        if not -leaf.ndim <= axis < leaf.ndim or leaf.shape[axis] != (leaf.shape[axis] if units is None else units):
            raise errors.ShapeError(
                call, expected="the same number of units in every array" + (f", {units}" if units is not None else ""),
                got=f"the shape {leaf.shape}, axis {axis}", at=repr(leaf_paths(params)[index]),
                cause="an array has its units along another axis, or a reshape stands between",
                fix='write remove_units(params, {"first/*": -1}, {"second/kernel": -2})',
            )  # fmt: skip
        units = leaf.shape[axis]
        if glob in read:
            others = tuple(other for other in range(leaf.ndim) if other != axis % leaf.ndim)
            unread = unread & np.asarray(jnp.all(leaf == 0, axis=others))
    kept = np.flatnonzero(~np.broadcast_to(unread, units or 0)) if read else np.arange(units or 0)
    cut = [
        leaf if glob is None else jnp.take(leaf, kept, axis=axes[glob])
        for leaf, glob in zip(leaves, globs, strict=True)
    ]
    return treedef.unflatten(cut)
