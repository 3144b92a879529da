"""A number for each layer: a part built for each leaf from the number that its path has, and numbers by depth."""

import difflib
import fnmatch
import glob as shell
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from gradtx import errors
from gradtx.core import (
    PASS,
    ZERO,
    Counter,
    EmptyState,
    GradientTransformation,
    Leaves,
    Pair,
    TunableState,
    first_step,
    join,
    leaf_by_leaf,
    next_step,
    rebuilt,
    record_of,
    transformation,
)
from gradtx.schedules.step import evaluate
from gradtx.tree import describe_leaf, is_array, leaf_paths, widen

PerLayer = Mapping[str, Any] | Callable[[str, Any], Any]
"""``{glob: value}``, where the first glob that matches a leaf's path counts, or a function ``(path, leaf) -> value`` of
which ``leaf`` gives shape and dtype. A value is a number or a schedule."""


_NONE = object()  # in place of a number, for the leaves that no glob matches


class PerLayerState(NamedTuple):
    step: Counter


@transformation
def per_layer(constructor: Callable[[Any], GradientTransformation], value: PerLayer) -> GradientTransformation:
    """``constructor(v)`` on each leaf, with the ``v`` that ``value`` has for it; a leaf without one is passed on.

    ``value`` is ``{glob: v}``, in which the first glob that matches the leaf's path counts, or a function
    ``(path, leaf) -> v``, whose ``leaf`` has a shape and a dtype; ``v`` is a number or a schedule. A mapping by depth
    comes from :func:`gradtx.by_depth`. ``constructor`` takes the number and gives a part without memory that reads one
    leaf, such as ``scale``: learning rates per layer are ``chain(adam(1e-3), per_layer(scale, {"head/*": 1.0, "*":
    0.1}))``. Leaves of one number and shape are traced once. State: a step counter if there is a schedule, otherwise
    nothing.

    Raises ``SelectionError`` at ``init`` for a glob that no leaf has or that an earlier one hides,
    ``ArgumentTypeError`` for a constructor of parts with memory or over whole trees, and what ``constructor`` raises
    for a bad number, with its glob or path.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.per_layer(gradtx.scale, {"head*": -1.0, "*": -0.25})
    >>> params = {"body": jnp.ones(1), "head": jnp.ones(1)}
    >>> updates, _ = tx.update(params, tx.init(params))
    >>> updates["body"].tolist(), updates["head"].tolist()
    ([-0.25], [-1.0])
    """
    call = f"per_layer({errors.show(constructor)}, {errors.show(value)})"
    if not errors.is_per_layer(value):
        raise errors.ArgumentTypeError(
            call, expected="a constructor, and {glob: value} or a function (path, leaf) -> value",
            got=f"{type(value).__name__} {errors.show(value)}",
            cause="one number for all needs no layers",
            fix='write per_layer(scale, {"head/*": 1.0, "*": 0.1})',
        )  # fmt: skip
    like = rebuilt(lambda numbers: constructor(numbers["value"]), {"value": 0.0}, {})
    if like.leaves is None:
        raise errors.ArgumentTypeError(
            call, expected="a constructor of parts that read one leaf", got=f"{like.name}, which reads the whole tree",
            cause="the leaves of one number are no tree of their own",
            fix=f'write partition({{"a": {like.name}(1.0), "b": {like.name}(2.0)}}, labels)',
        )  # fmt: skip
    by_leaf = like.leaves
    if isinstance(value, Mapping):
        value = dict(value)
        check_globs(call, value, 'write per_layer(scale, {"head/*": 1.0, "*": 0.1}), or by_depth')
        for glob, number in value.items():
            _built(call, constructor, number, glob)

    def values(tree: Any) -> list[Any]:
        if isinstance(value, dict):
            return [_NONE if glob is None else value[glob] for glob in first_matches(call, value, tree)]
        named = zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True)
        return [_of_function(call, value, path, leaf) for path, leaf in named]

    made: dict[Any, Pair] = {}
    known: dict[Any, list[Pair]] = {}

    def pairs(tree: Any) -> list[Pair]:
        numbers, columns, found = values(tree), {}, []
        alone = not any(map(_is_schedule, numbers))  # traced numbers may be dead here, and are only handed on
        for index, (path, number) in enumerate(zip(leaf_paths(tree), numbers, strict=True)):
            exact = errors.as_float(number)
            same = id(number) if exact is None else exact
            if number is not _NONE and same not in columns:
                built = _built(call, constructor, number, path)
                columns[same] = (by_leaf if _is_schedule(number) else built).resolve(tree)
            inner = PASS if number is _NONE else columns[same][index]
            key = same, inner, alone
            if inner in (PASS, ZERO):
                made[key] = inner
            elif key not in made and _is_schedule(number):
                made[key] = _following(call, number, inner)
            elif key not in made:
                made[key] = _constant(call, inner, alone)
            found.append(made[key])
        return found

    def resolve(tree: Any) -> list[Pair]:
        leaves, treedef = jax.tree.flatten(tree)
        signature = treedef, tuple(map(describe_leaf, leaves))
        if signature not in known:
            known[signature] = pairs(tree)
        return known[signature]

    leaves = Leaves(resolve, by_leaf.signals, by_leaf.takes_params)
    return join({like.name: like}, leaf_by_leaf(leaves), leaves)


def _is_schedule(number: Any) -> bool:
    return callable(number) and not isinstance(number, jax.Array)


def _built(call: str, constructor: Callable[[Any], GradientTransformation], number: Any, at: str) -> Leaves:
    """The part for one number, which its constructor checks; errors say whose number it is."""
    try:
        if errors.is_per_layer(number):
            raise errors.ArgumentTypeError(
                call, expected="a number or a schedule for each layer",
                got=f"{type(number).__name__} {errors.show(number)}",
                cause="it would have values for layers of its own", fix='write {"block/*": 1e-4}',
            )  # fmt: skip
        leaves = record_of(constructor(number)).leaves
    except errors.GradtxError as error:
        raise error.at_leaf(at) from None
    assert leaves is not None
    return leaves


def _constant(call: str, inner: Pair, alone: bool) -> Pair:
    """A leaf whose number never changes; beside leaves that follow schedules it keeps no state of its own."""

    def init(param):
        _refuse_memory(call, inner.init(param))
        return EmptyState() if alone else None

    def update(update, state, param, signals):
        del state
        update, _ = inner.update(update, inner.init(update), param, signals)
        return update, EmptyState() if alone else None

    return Pair(init, update)


def _following(call: str, schedule: Callable[[Any], Any], inner: Pair) -> Pair:
    """A leaf whose number follows a schedule, which the compiler fuses into the leaf's loop like any other."""

    def init(param):
        _refuse_memory(call, inner.init(param).inner)
        jax.eval_shape(lambda step: evaluate(schedule, step), first_step())  # fails here if it gives no number
        return PerLayerState(first_step())

    def update(update, state, param, signals):
        numbers: TunableState = inner.init(update)
        numbers = numbers._replace(hyperparameters={"value": evaluate(schedule, state.step)})
        update, _ = inner.update(update, numbers, param, signals)
        return update, PerLayerState(next_step(state.step))

    return Pair(init, update)


def _refuse_memory(call: str, state: Any) -> None:
    kept = len(jax.tree.leaves(state))
    if kept:
        raise errors.ArgumentTypeError(
            call, expected="a constructor of parts without memory", got=f"one that keeps {kept} arrays for a leaf",
            cause="moments of other decays are other states", fix="write partition(transforms, labels)",
        )  # fmt: skip


def _of_function(call: str, function: Callable[[str, Any], Any], path: str, leaf: Any) -> Any:
    leaf = widen(leaf) if isinstance(leaf, float | complex) else leaf
    if not is_array(leaf):
        raise errors.DtypeError(
            call, expected="leaves must be arrays", got=describe_leaf(leaf), at=repr(path),
            cause="a whole model was given, with functions or text in it",
            fix="pass only its arrays, e.g. eqx.filter(model, eqx.is_inexact_array)",
        )  # fmt: skip
    return function(path, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))


def check_globs(call: str, by_glob: Mapping[Any, Any], fix: str) -> None:
    """Raises ``ArgumentTypeError`` where a key is no glob."""
    for glob in by_glob:
        if not isinstance(glob, str):
            raise errors.ArgumentTypeError(
                call, expected="globs on paths", got=errors.show(glob), cause="layers are named, not counted", fix=fix
            )


def first_matches(call: Any, globs: Iterable[str], tree: Any) -> list[str | None]:
    """For each leaf the first glob that matches its path, or None; a glob that is the first for no leaf is an error."""
    paths = leaf_paths(tree)
    matches = {glob: re.compile(fnmatch.translate(glob)).match for glob in globs}
    found = [next((glob for glob, match in matches.items() if match(path)), None) for path in paths]
    for glob in matches:
        if glob not in found and paths:
            raise _useless_glob(call, glob, [path for path in paths if matches[glob](path)], paths)
    return found


def _useless_glob(call: str, glob: str, hidden: Sequence[str], paths: Sequence[str]) -> errors.SelectionError:
    if hidden:
        return errors.SelectionError(
            call, expected="globs that are the first for some leaf", got=repr(glob),
            cause=f"of {', '.join(map(repr, hidden[:3]))} an earlier glob is the first",
            fix="write the narrower globs first",
        )  # fmt: skip
    near = difflib.get_close_matches(glob, paths, n=3, cutoff=0.0)
    return errors.SelectionError(
        call, expected="globs that match some leaf", got=repr(glob),
        cause=f"the nearest paths are {', '.join(map(repr, near))}", fix=f"write e.g. {near[0]!r} or '*'",
    )  # fmt: skip


def by_depth(params: Any, value: Callable[[int, int], Any], layers: Sequence[str] | None = None) -> dict[str, Any]:
    """``{glob: value(depth, count)}`` for ``count`` layers, the first of depth 0: a number that changes with depth.

    A layer is a node of ``params`` that holds arrays, so that a kernel and its bias share a depth. Layers stand in the
    order of lists, tuples and fields; dictionaries have no order of their own, their keys are sorted, with numbers in
    them as numbers: ``Dense_2`` before ``Dense_10``. Where that is not the order of the model, or a layer is a whole
    block, give ``layers``: globs, from the input to the output; of leaves that several match, the first counts.

    ``value`` gives a number or a schedule. Layer-wise decay of learning rates by a factor of 0.75 is
    ``per_layer(scale, by_depth(params, lambda depth, count: 0.75 ** (count - 1 - depth)))`` (Howard and Ruder 2018,
    arXiv:1801.06146, section 3.2).

    Raises ``SelectionError`` for a glob in ``layers`` that no leaf has or that an earlier one hides.

    >>> import gradtx, jax.numpy as jnp
    >>> params = [{"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for _ in range(3)]
    >>> gradtx.by_depth(params, lambda depth, count: 0.5 ** (count - 1 - depth))
    {'0/*': 0.25, '1/*': 0.5, '2/*': 1.0}
    >>> gradtx.by_depth(params, lambda depth, count: 10.0 * depth, layers=["0/*", "[12]/*"])
    {'0/*': 0.0, '[12]/*': 10.0}
    """
    call = f"by_depth({errors.show(value)}, {errors.show(layers)})"
    if layers is not None:
        if isinstance(layers, str) or not all(isinstance(glob, str) for glob in layers):
            raise errors.ArgumentTypeError(
                call, expected="layers must be a list of globs", got=errors.show(layers),
                cause="it says in which order the layers are", fix='write layers=["embed/*", "block/0/*", "head/*"]',
            )  # fmt: skip
        numbers = {glob: value(depth, len(layers)) for depth, glob in enumerate(layers)}
        first_matches(call, layers, params)
        return numbers
    nodes = _nodes_in_order(params)
    numbers = {node: value(depth, len(nodes)) for depth, node in enumerate(nodes)}
    inner_first = sorted(nodes, key=lambda node: -node.count("/") - bool(node))
    return {f"{shell.escape(node)}/*" if node else "*": numbers[node] for node in inner_first}


def _nodes_in_order(tree: Any) -> list[str]:
    """The paths of the nodes that hold leaves, in the tree's order, but text keys as text with numbers in it."""
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    seen: dict[Any, int] = {}

    def rank(path: tuple[Any, ...]) -> list[Any]:
        ranks = []
        for end, key in enumerate(path, start=1):
            place = seen.setdefault(path[:end], len(seen))
            name = getattr(key, "key", None)
            pieces = re.split(r"(\d+)", name) if isinstance(name, str) else []
            ranks.append([(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces] or [(place, "")])
        return ranks

    ordered = sorted(zip([rank(path) for path, _ in flat], leaf_paths(tree), strict=True))
    return list(dict.fromkeys(path.rpartition("/")[0] for _, path in ordered))
