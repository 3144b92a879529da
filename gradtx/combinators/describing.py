"""What a transformation is made of, and what each part keeps: a table, without running anything."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import PASS, ZERO, GradientTransformation, Pair, Record, TunableState, record_of, roles_of
from gradtx.tree import describe_leaf, is_array, leaf_paths, path_name


class DescribedField(NamedTuple):
    """A field of a state: its arrays by shape and dtype."""

    name: str
    arrays: tuple[Any, ...]

    @property
    def bytes(self) -> int:
        return sum(math.prod(array.shape) * array.dtype.itemsize for array in self.arrays)

    def __str__(self) -> str:
        if len(self.arrays) == 1:
            return f"{self.name} {describe_leaf(self.arrays[0])}"
        dtypes = ", ".join(sorted({str(array.dtype) for array in self.arrays}))
        return f"{self.name} {dtypes} x {len(self.arrays)}" if self.arrays else f"{self.name} (empty)"


class DescribedPart(NamedTuple):
    """One part of a transformation.

    ``path`` is where its state is, ``call`` how it was written, ``reads`` how far its update reads, ``fields`` what it
    keeps itself, ``bytes`` their size, ``needs`` the signals that it takes (``key?`` if it does without) and
    ``params``, and ``leaves`` the paths of those that it serves, or None if that is not known.
    """

    path: str
    depth: int
    call: str
    reads: str
    fields: tuple[DescribedField, ...]
    bytes: int
    needs: tuple[str, ...]
    leaves: tuple[str, ...] | None


class Description(tuple[DescribedPart, ...]):
    """Rows of :func:`describe`, the whole first, then its parts in order; prints as a table."""

    state_bytes: int
    """Bytes of the whole state."""
    parameter_bytes: int
    """Bytes of the parameters, in their own dtypes."""

    def __repr__(self) -> str:
        count = len(self[0].leaves or ())
        cells = [("part", "reads", "keeps", "bytes", "needs", "leaves")]
        for row in self:
            keeps = ", ".join(map(str, row.fields))
            size = f"{row.bytes:,}" if row.fields else ""
            name = _short("  " * row.depth + row.call, 56)
            cells.append((name, row.reads, keeps, size, ", ".join(row.needs), _leaves_in_words(row.leaves, count)))
        shown = [column for column in zip(*cells, strict=True) if any(column[1:])]
        widths = [max(map(len, column)) for column in shown]
        lines = [
            "  ".join(f"{cell:>{w}}" if column[0] == "bytes" else f"{cell:{w}}" for cell, w, column in
                      zip(line, widths, shown, strict=True)).rstrip()
            for line in zip(*shown, strict=True)
        ]  # fmt: skip
        times = f", {self.state_bytes / self.parameter_bytes:.2f} times the parameters" if self.parameter_bytes else ""
        return "\n".join([*lines, f"state: {self.state_bytes:,} bytes{times}"])


def describe(tx: GradientTransformation, params: Any) -> Description:
    """The parts of a transformation, and what each keeps for these parameters: rows that print as a table.

    A row has ``call`` (the part as it was written), ``reads`` (its element, its leaf or the whole tree), ``fields``
    (what it keeps, with shapes and dtypes), ``bytes``, ``needs`` (signals, ``params``), ``leaves`` (the paths of those
    that it serves) and ``path`` (where its state is). The whole has ``state_bytes`` and ``parameter_bytes``. Of a
    foreign part (Optax's) the name and the arrays of its state are known, and its signals if its signature has them.

    ``params`` may be arrays or only shapes (``jax.ShapeDtypeStruct``): nothing runs on a device.

    Raises what ``tx.init(params)`` raises, ``DtypeError`` for leaves that are no arrays.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.sgd(0.1, momentum=0.9))
    >>> gradtx.describe(tx, {"w": jax.ShapeDtypeStruct((3, 2), jnp.float32), "b": jax.ShapeDtypeStruct((), jnp.float32)})
    part                                                      reads     keeps                 bytes
    chain(clip_by_global_norm(1.0), sgd(0.1, momentum=0.9))   the tree
    state: 28 bytes, 1.00 times the parameters
    """
    record = record_of(tx)
    tree = jax.tree.unflatten(jax.tree.structure(params), _shapes(record, params))
    init, _ = tx
    state = jax.eval_shape(init, tree)
    leaves = leaf_paths(tree)
    rows = Description(_rows(record, state, "", "", 0, [True] * len(leaves), tree))
    rows.state_bytes, rows.parameter_bytes = (
        DescribedField("", tuple(jax.tree.leaves(arrays))).bytes for arrays in (state, tree)
    )
    return rows


def _shapes(record: Record, params: Any) -> list[jax.ShapeDtypeStruct]:
    shapes = []
    for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
        if not is_array(leaf) and not isinstance(leaf, bool | int | float | complex):
            raise errors.DtypeError(
                f"describe({record.call}, params)", expected="leaves must be arrays, or their shapes and dtypes",
                got=describe_leaf(leaf), at=repr(path), cause="a whole model was given, with functions or text in it",
                fix="pass only its arrays, e.g. eqx.filter(model, eqx.is_inexact_array)",
            )  # fmt: skip
        shapes.append(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)))
    return shapes


_READS = {"elementwise": "its element", "leaf": "its leaf", "tree": "the tree"}


def _rows(
    record: Record, state: Any, name: str, path: str, depth: int, served: list[bool] | None, tree: Any
) -> Iterator[DescribedPart]:
    """The row of a part, then those of its parts. ``served`` says which leaves come to it, if that is known."""
    pairs = record.leaves.resolve(tree) if record.leaves is not None and served is not None else None
    if served is not None and pairs is not None:
        served = [comes and pair is not PASS for comes, pair in zip(served, pairs, strict=True)]
    by_part, below = _of_parts(state)
    fields = tuple(_fields(record, state, tree))
    call = str(record.call)
    yield DescribedPart(
        path, depth, call if name in ("", *_names_of(record.name, name)) else f"{name}: {call}",
        _READS[record.locality], fields, sum(field.bytes for field in fields), tuple(_needs(record)),
        _served_paths(served, state, tree),
    )  # fmt: skip
    if pairs is not None:
        assert served is not None
        of_leaves = _states_of_leaves(pairs, served, jax.tree.leaves(tree))
    for part_name, part in record.parts.items():
        part_path = "/".join(filter(None, [path, below, part_name]))
        yield from _rows(part, by_part.get(part_name), part_name, part_path, depth + 1, served, tree)
