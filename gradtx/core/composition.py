"""Transformations made of transformations: how their functions and their records are combined."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from gradtx import errors
from gradtx.core.edge import public
from gradtx.core.leafwise import Leaves, Pair, leaf_by_leaf, with_precision
from gradtx.core.order import Kind, check_order
from gradtx.core.record import GradientTransformation, Locality, Record


def compose(
    parts: Mapping[str, Record],
    body: Callable[[Mapping[str, Pair]], Pair],
    *,
    tree_body: Callable[[], Pair] | None = None,
    own_signals: Iterable[str] = (),
    own_advance: Callable[[Any], Any] | None = None,
    own_params: bool = False,
    reads: Locality = "elementwise",
    per_example: bool = False,
    kind: Kind = "",
) -> GradientTransformation:
    """A transformation made of parts by ``body``, which is written once for one array and for whole trees.

    When no part reads the whole tree, ``body`` combines the parts' functions of one leaf, and the result runs leaf by
    leaf. Otherwise it combines their functions of trees (or ``tree_body()`` does, where a combinator knows better).
    ``own_signals`` are those that the body itself reads on each leaf, ``own_advance`` takes the body's own shared
    fields to the next step before its update; its state holds the parts' states under the names of ``parts``.
    ``own_params`` says that the body itself needs the parameters, ``reads`` how far it reads itself, ``per_example``
    that the first part takes an axis of examples away, ``kind`` what it is to the order of parts.
    """
    if widest(parts) == "tree":
        tree = tree_body() if tree_body else body({key: part.tree for key, part in parts.items()})
        tree = _advancing(tree, own_advance) if own_advance else tree
        tree = with_precision(tree) if own_params or own_advance else tree
        return join(parts, tree, own_params=own_params, per_example=per_example, kind=kind)
    leaves = combine_leaves({key: part.leaves for key, part in parts.items() if part.leaves}, body)
    leaves = leaves._replace(signals={**leaves.signals, **dict.fromkeys(own_signals)})
    if own_advance:
        leaves = leaves._replace(advance=lambda state, parts=leaves.advance: parts(own_advance(state)))
    leaves = leaves._replace(takes_params=leaves.takes_params or own_params)
    return join(parts, leaf_by_leaf(leaves), leaves, own_params=own_params, reads=reads, kind=kind)


def _advancing(pair: Pair, advance: Callable[[Any], Any]) -> Pair:
    def update(updates, state, params, signals):
        return pair.update(updates, advance(state), params, signals)

    return Pair(pair.init, update)


def widest(parts: Mapping[str, Record]) -> Locality:
    """The locality of a composition: the one of its part that reads farthest."""
    localities: set[Locality] = {part.locality for part in parts.values()}
    return "tree" if "tree" in localities else "leaf" if "leaf" in localities else "elementwise"


def join(
    parts: Mapping[str, Record],
    tree: Pair,
    leaves: Leaves | None = None,
    *,
    own_signals: Iterable[str] = (),
    own_params: bool = False,
    reads: Locality = "elementwise",
    per_example: bool = False,
    kind: Kind = "",
) -> GradientTransformation:
    """The transformation with these functions, whose record says what its parts' records say.

    Without functions of one leaf it reads the whole tree, whatever its parts read. ``own_signals`` are those that it
    needs itself, the others are as in :func:`compose`.
    """
    check_order(kind, parts)
    for name in list(parts)[1:] if per_example else parts:
        if parts[name].per_example:
            raise errors.ArgumentTypeError(
                errors.UNNAMED, expected="parts that take the mean gradient", got=errors.show(parts[name].call),
                cause="it takes the gradient of each example, which nothing before or around it has a meaning for",
                fix="write chain(differentially_private_aggregate(...), exponential_average(sgd(0.1))), with what "
                "takes examples as the first part of the outermost chain",
            )  # fmt: skip
    farthest = "leaf" if reads == "leaf" and widest(parts) == "elementwise" else widest(parts)
    signals: dict[str, tuple[bool, str]] = dict.fromkeys(own_signals, (True, ""))
    needs_params = [""] if own_params else []
    for index, (name, part) in enumerate(parts.items()):
        address = f"{index}:{name}"
        for signal, (required, inner) in part.signals.items():
            if signal not in signals or required:
                signals[signal] = (required, _address(address, inner))
        needs_params += [_address(address, inner) for inner in part.needs_params]
    return public(
        Record(
            name="composition",
            call="composition",
            locality=farthest if leaves else "tree",
            tree=tree,
            leaves=leaves,
            parts=dict(parts),
            signals=signals,
            any_signal=any(part.any_signal for part in parts.values()),
            needs_params=tuple(needs_params),
            per_example=per_example,
            kind=kind,
        )
    )


def combine_leaves(parts: Mapping[str, Leaves], body: Callable[[Mapping[str, Pair]], Pair]) -> Leaves:
    """The functions of one leaf of a composition; equal ingredients give the same functions, hence one trace."""
    made: dict[tuple[Pair, ...], Pair] = {}

    def resolve(tree: Any) -> list[Pair]:
        count = len(jax.tree.leaves(tree))
        columns = [part.resolve(tree) for part in parts.values()]
        rows = list(zip(*columns, strict=True)) if columns else [()] * count
        for row in rows:
            if row not in made:
                made[row] = body(dict(zip(parts, row, strict=True)))
        return [made[row] for row in rows]

    declared = {name: value for part in parts.values() for name, value in part.signals.items()}
    return Leaves(resolve, declared, any(part.takes_params for part in parts.values()), advance_parts(parts))


def advance_parts(parts: Mapping[str, Leaves]) -> Callable[[Any], Any]:
    """Advances the states of parts, which a state holds under their names; a part may have none."""

    def advance(state: Any) -> Any:
        held = state if isinstance(state, dict) else state._asdict()
        new = {name: part.advance(held[name]) for name, part in parts.items() if held[name] is not None}
        return {**state, **new} if isinstance(state, dict) else state._replace(**new)

    return advance


def _address(outer: str, inner: str) -> str:
    return f"{outer} > {inner}" if inner else outer
