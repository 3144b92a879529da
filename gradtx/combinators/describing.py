"""What a transformation is made of, and what each part keeps: a table, without running anything."""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import PASS, ZERO, GradientTransformation, Pair, Record, TunableState, record_of
from gradtx.core.roles import is_kept, is_state, roles
from gradtx.tree import describe_leaf, is_array, leaf_paths, path_name, widen


class DescribedField(NamedTuple):
    """What a state keeps under one name: arrays by shape and dtype."""

    name: str
    arrays: tuple[Any, ...]

    @property
    def bytes(self) -> int:
        return sum(math.prod(array.shape) * array.dtype.itemsize for array in self.arrays)

    def __str__(self) -> str:
        if len(self.arrays) == 1:
            return f"{self.name} {describe_leaf(self.arrays[0])}" if self.arrays[0].shape else self.name
        return f"{self.name} {len(self.arrays)} x {', '.join(sorted({str(array.dtype) for array in self.arrays}))}"


class DescribedPart(NamedTuple):
    """A part of a transformation, by :func:`describe`.

    ``path`` says where in the state its own is, ``call`` how it was written, ``reads`` how far its update reads,
    ``fields`` what it keeps itself and ``bytes`` their size, ``needs`` its signals (``key?`` where it does without) and
    ``params``, ``leaves`` the paths of those that it works on, None where that is not known.
    """

    path: str
    depth: int
    call: str
    reads: str
    fields: tuple[DescribedField, ...]
    needs: tuple[str, ...]
    leaves: tuple[str, ...] | None

    @property
    def bytes(self) -> int:
        return sum(field.bytes for field in self.fields)


class Description(tuple[DescribedPart, ...]):
    """Rows of :func:`describe`, and ``state_bytes`` and ``parameter_bytes`` of all; prints as a table."""

    parameter_bytes: int = 0

    @property
    def state_bytes(self) -> int:
        return sum(row.bytes for row in self)

    def __repr__(self) -> str:
        cells = [("part", "reads", "keeps", "bytes", "needs", "leaves")]
        for row in self:
            size = f"{row.bytes:,}" if row.fields else ""
            keeps = ", ".join(map(str, row.fields))
            cells.append((_indented(row), row.reads, keeps, size, ", ".join(row.needs), self._leaves(row)))
        columns = [column for column in zip(*cells, strict=True) if any(column[1:])]
        widths = [max(map(len, column)) for column in columns]
        shown = [
            [cell.rjust(width) if column[0] == "bytes" else cell.ljust(width) for cell in column]
            for column, width in zip(columns, widths, strict=True)
        ]
        lines = ["  ".join(line).rstrip() for line in zip(*shown, strict=True)]
        return "\n".join([*lines, f"{self.state_bytes:,} bytes of state, {self.parameter_bytes:,} of parameters"])

    def _leaves(self, row: DescribedPart) -> str:
        """In words, and only where they are not all."""
        if row.leaves is None:
            return "not known"
        if row.leaves == self[0].leaves:
            return ""
        return ", ".join(row.leaves[:3]) + (f" and {len(row.leaves) - 3} more" if len(row.leaves) > 3 else "") or "none"


def describe(tx: GradientTransformation, params: Any) -> Description:
    """The parts of a transformation and what each keeps for these parameters: rows that print as a table.

    A row has ``call`` (the part as it was written), ``reads`` (``element``, ``leaf`` or ``tree``), ``fields`` (what it
    keeps, by shape and dtype), ``bytes``, ``needs`` (signals and ``params``), ``leaves`` (the paths of those that it
    works on) and ``path`` (where in the state its own is). All rows have ``state_bytes`` and ``parameter_bytes``. Of a
    foreign part (Optax's), its name, what its signature says and the arrays of its state are known.

    ``params`` may be arrays or just their shapes (``jax.ShapeDtypeStruct``): nothing runs on a device.

    Raises ``DtypeError`` for a leaf that is no array, and what ``tx.init(params)`` raises.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.sgd(0.1, momentum=0.87))
    >>> gradtx.describe(tx, {"w": jnp.ones((3, 2)), "b": jnp.ones(2)})
    part                                                      reads    keeps                 bytes
    chain(clip_by_global_norm(1.0), sgd(0.1, momentum=0.87))  tree
      clip_by_global_norm(1.0)                                tree
      sgd(0.1, momentum=0.87)                                 element
        scale_by_momentum(0.87, False)                        element  momentum 2 x float32     32
        scale_by_learning_rate(0.1)                           element
    32 bytes of state, 32 of parameters
    """
    record = record_of(tx)
    tree = _shapes(record, params)
    init, _ = tx
    state = jax.eval_shape(init, tree)
    rows = Description(_rows(record, state, tree, "", "", 0, [True] * len(jax.tree.leaves(tree))))
    rows.parameter_bytes = DescribedField("", tuple(jax.tree.leaves(tree))).bytes
    return rows


def _indented(row: DescribedPart, width: int = 60) -> str:
    text = "  " * row.depth + row.call
    return text if len(text) <= width else text[: width - 3] + "..."


def _shapes(record: Record, params: Any) -> Any:
    """The parameters without their values."""
    flat, treedef = jax.tree.flatten(params)
    for index, leaf in enumerate(flat):
        if not is_array(leaf) and not isinstance(leaf, int | float | complex):
            raise errors.DtypeError(
                f"describe({record.call}, params)", expected="leaves must be arrays, or their shapes and dtypes",
                got=describe_leaf(leaf), at=repr(leaf_paths(params)[index]),
                cause="a whole model was given, with functions or text in it",
                fix="pass only its arrays, e.g. eqx.filter(model, eqx.is_inexact_array)",
            )  # fmt: skip
    return treedef.unflatten([jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in flat])


def _rows(
    record: Record, state: Any, tree: Any, name: str, path: str, depth: int, served: list[bool] | None
) -> Iterator[DescribedPart]:
    """The row of a part, then those of its parts; ``served`` says which leaves it is given, None that it is unknown."""
    kept = _with_a_field(state, tree) if served is None else None
    if kept is not None:  # these leaves are the whole tree that the part sees
        flat, treedef = jax.tree.flatten(tree)
        tree = treedef.unflatten([leaf if with_field else None for leaf, with_field in zip(flat, kept, strict=True)])
        served = [True] * sum(kept)
    pairs = record.leaves.resolve(tree) if record.leaves is not None and served is not None else None
    if served is not None and pairs is not None:
        served = [given and pair is not PASS for given, pair in zip(served, pairs, strict=True)]
    paths = leaf_paths(tree)
    leaves = None if served is None else tuple(path for path, given in zip(paths, served, strict=True) if given)
    known_by_call = name == record.name or name.startswith(f"{record.name}_") or not name
    call = str(record.call) if known_by_call else f"{name}: {record.call}"
    reads = {"elementwise": "element"}.get(record.locality, record.locality)
    yield DescribedPart(path, depth, call, reads, tuple(_fields(record, state, paths)), tuple(_needs(record)), leaves)
    by_leaf = None if served is None or pairs is None else _states_by_leaf(pairs, served, jax.tree.leaves(tree))
    held, below = _held(state)
    for part_name, part in record.parts.items():
        below_it = "/".join(filter(None, [path, below, part_name]))
        given = None if served is None else _given(record, part, part_name, served, by_leaf, tree)
        yield from _rows(part, held.get(part_name), tree, part_name, below_it, depth + 1, given)


def _held(state: Any) -> tuple[Mapping[str, Any], str]:
    """The states of parts by their names, and where among the fields they are."""
    if isinstance(state, TunableState):
        held, below = _held(state.inner)
        return held, f"inner/{below}" if below else "inner"
    return (state if isinstance(state, dict) else state._asdict() if is_state(state) else {}), ""


def _fields(record: Record, state: Any, paths: list[str]) -> Iterator[DescribedField]:
    """What a part keeps itself; of a foreign one, the arrays of its state by what stands before the leaf's path."""
    if isinstance(state, dict) and not record.foreign:
        return
    if is_state(state) and not record.foreign:
        rows_of_parts = record.parts or isinstance(state, TunableState)
        for name, role in roles(type(state)).items():
            arrays = () if role.kind == "nested" and rows_of_parts else tuple(jax.tree.leaves(getattr(state, name)))
            if arrays:
                yield DescribedField(name, arrays)
        if isinstance(state, TunableState) and not isinstance(state.inner, dict):
            yield from _fields(record, state.inner, paths)
        return
    grouped: dict[str, list[Any]] = {}
    for key, array in jax.tree_util.tree_flatten_with_path(state)[0]:
        whole = path_name(key)
        of_leaf = max((path for path in paths if whole.endswith(f"/{path}") and path), key=len, default="")
        grouped.setdefault(whole.removesuffix(f"/{of_leaf}"), []).append(array)
    yield from (DescribedField(name, tuple(arrays)) for name, arrays in grouped.items())


def _needs(record: Record) -> Iterator[str]:
    """What a part itself takes; of one that is made of others, they say it."""
    if not record.parts:
        yield from (["params"] if record.needs_params else [])
        yield from (name if required else f"{name}?" for name, (required, _) in record.signals.items())
        yield from (["any signal"] if record.any_signal else [])


# ---------------------------------------------------------------------------------------------------------------------
# Which leaves. What runs leaf by leaf says it by its functions for each leaf; of the others, states like the parameters
# do.

# Each of their parts works on all leaves that they are given, also where they read the whole tree.
_OF_ALL_LEAVES = {
    "chain", "named_chain", "ratio", "total", "watch", "stored", "offloaded", "packed", "master_weights", "atan2_ratio",
    "stable_ratio", "cautious", "mars", "grokfast", "sam", "asam", "exponential_average", "uniform_average",
    "lookahead", "schedule_free", "primal_average",
}  # fmt: skip


def _given(
    record: Record, part: Record, name: str, served: list[bool], by_leaf: list[Any] | None, tree: Any
) -> list[bool] | None:
    """Which leaves a part is given by the one that it belongs to, which works on ``served``."""
    if by_leaf is None:
        return served if record.name in _OF_ALL_LEAVES else None
    own = part.leaves.resolve(tree) if part.leaves is not None else [None] * len(served)
    states = [_held(state)[0].get(name, state) for state in by_leaf]
    return [
        given and (state is not None or pair in (PASS, ZERO))
        for given, state, pair in zip(served, states, own, strict=True)
    ]


def _states_by_leaf(pairs: list[Pair], served: list[bool], leaves: list[Any]) -> list[Any]:
    """The state that a part has for each leaf, None for none."""
    init = functools.cache(lambda pair, leaf: jax.eval_shape(lambda leaf: pair.init(widen(leaf)), leaf))
    return [init(pair, leaf) if given else None for pair, given, leaf in zip(pairs, served, leaves, strict=True)]


def _with_a_field(state: Any, tree: Any) -> list[bool] | None:
    """The leaves for which a state keeps something; None if none of its fields is like the parameters."""
    fields = list(_like_params(state))
    if not fields:
        return None
    kept = {path for field in fields for path in leaf_paths(jax.tree.map(lambda _: 0, field, is_leaf=is_kept))}
    return [path in kept for path in leaf_paths(tree)]


def _like_params(state: Any) -> Iterator[Any]:
    if isinstance(state, dict):
        for value in state.values():
            yield from _like_params(value)
    elif is_state(state):
        for name, role in roles(type(state)).items():
            if role.like_params:
                yield getattr(state, name)
            elif role.kind == "nested":
                yield from _like_params(getattr(state, name))
