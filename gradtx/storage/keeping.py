"""Keeping a transformation's state in another layout, without the transformation knowing."""

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.combinators.layering import check_globs, first_matches
from gradtx.core import (
    PASS,
    ZERO,
    Counter,
    GradientTransformation,
    Leaves,
    Locality,
    Nested,
    Pair,
    Record,
    Role,
    advance_parts,
    compose,
    first_step,
    is_kept,
    join,
    leaf_by_leaf,
    map_fields,
    next_step,
    record_of,
    transformation,
)
from gradtx.core.roles import boxes_around, tree_of
from gradtx.rounding import places, uniform_at
from gradtx.storage.kernels import in_one_pass
from gradtx.storage.packing import BY_SIZE
from gradtx.tree import leaf_paths, leaf_seeds

Draw = Callable[[tuple[int, ...]], jax.Array]


class Layout(NamedTuple):
    """How one array of a state is kept, never what it means.

    ``encode(array, role, draw)`` gives what is kept: an array, or a ``NamedTuple`` of arrays whose fields have roles.
    ``array`` is real: :func:`stored` refuses complex state, but where a leaf's layout is None.
    ``role`` is the field's. ``draw(shape)`` gives uniform numbers in [0, 1); it is None without ``draws`` and at init.
    ``decode(kept, role)`` gives the array back, in float32; ``refuses(role)`` says why an array of this role cannot be
    kept right, or None; ``reads`` is ``"leaf"`` where what is kept of a number depends on its neighbours. Where these
    are no others than its ``block`` numbers along the last axis, the array may be taken in tiles of them.
    """

    encode: Callable[[jax.Array, Role, Draw | None], Any]
    decode: Callable[[Any, Role], jax.Array]
    refuses: Callable[[Role], str | None]
    reads: Locality = "elementwise"
    block: int | None = None
    draws: bool = False


AS_IT_IS = Layout(lambda array, role, draw: array, lambda kept, role: kept, lambda role: None)

Layouts = Layout | Mapping[str, Layout | None] | Callable[[str, Any], Layout | None]
"""One layout, ``{glob: layout}`` of which the first glob that matches a leaf's path counts, or a function
``(path, leaf) -> layout`` of which ``leaf`` gives the shape; None stands for an array as it is."""


class StoredState(NamedTuple):
    step: Counter
    inner: Nested


@transformation
def stored(tx: GradientTransformation, layout: Layouts) -> GradientTransformation:
    """``tx`` with every field of its state that is a tree like the parameters kept in ``layout``.

    At each update the state is decoded, used in float32 by ``tx``, and encoded anew, in the same pass where ``tx`` runs
    leaf by leaf; counters and hyperparameters stay as they are. A layout that rounds stochastically draws by the step,
    the field, the leaf's path and the place in it: a run is reproducible and does not depend on how the compiler
    divides arrays (within ``shard_map`` each part counts its own places). Around ``flatten``, which makes one vector of
    all leaves, a block may span two of them, which then share a scale.

    ``layout`` is one for all leaves, or one for each: ``{glob: layout}``, in which the first glob that matches the
    leaf's path counts, or a function ``(path, leaf) -> layout``, whose ``leaf`` has a shape. A leaf whose layout is
    None, or that no glob matches, is kept as it is, in float32.

    Raises ``LayoutError``, naming the part, for a foreign part, whose state has no roles, and at ``init`` for a field
    that the layout cannot keep right; at ``init`` also ``DtypeError``, naming the leaf, for complex state, and
    ``SelectionError`` for a glob that no leaf has or that an earlier one hides.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.storage.stored(gradtx.adam(1e-3), gradtx.storage.cast(jnp.bfloat16))
    >>> state = tx.init({"w": jnp.zeros(3)})
    >>> sorted({str(leaf.dtype) for leaf in jax.tree.leaves(state) if leaf.ndim})
    ['bfloat16']
    """
    record = record_of(tx)
    call = f"stored({record.call}, {errors.show(layout)})"
    if isinstance(layout, Mapping):
        layout = dict(layout)
    _check_layouts(call, layout)
    refuse_foreign(call, record, "store the other parts: chain(stored(..., layout)")
    _refuse_kept(call, record)
    parts = {"inner": record}

    def advance(state: StoredState) -> StoredState:
        return state._replace(step=next_step(state.step))

    if record.leaves is None:
        named = functools.partial(_layouts_by_path, call, layout)
        _refuse_vectors(call, record, layout)
        whole = _around(call, record.tree, named)
        return compose(parts, lambda _: whole, own_signals=["leaf_seed"], own_advance=advance, kind="stored")

    by_leaf, advance_inner = record.leaves, advance_parts({"inner": record.leaves})
    made: dict[tuple[Pair, Layout], Pair] = {}

    def alone(pair: Pair, one: Layout) -> Pair:
        around = _around(call, pair, functools.partial(_layouts_by_path, call, one))
        if one.block is None or record.locality != "elementwise":
            return around
        return around._replace(update=in_one_pass(around.update, one.block, one.draws))

    def resolve(tree: Any) -> list[Pair]:
        pairs = by_leaf.resolve(tree)
        chosen = _layout_of_each(call, layout, tree)
        for pair, one in zip(pairs, chosen, strict=True):
            if (pair, one) not in made:
                made[pair, one] = pair if pair in (PASS, ZERO) else alone(pair, one)
        return [made[key] for key in zip(pairs, chosen, strict=True)]

    leaves = Leaves(
        resolve,
        {**by_leaf.signals, "leaf_seed": False},
        by_leaf.takes_params,
        lambda state: advance(advance_inner(state)),
    )
    reads = layout.reads if isinstance(layout, Layout) else "leaf"
    return join(parts, leaf_by_leaf(leaves), leaves, reads=reads, kind="stored")


LayoutAt = Callable[[str], Layout]


def _around(call: str, inner: Pair, layouts: Callable[[Any], LayoutAt]) -> Pair:
    """The functions with their state in layouts, which ``layouts(tree)`` gives by path."""

    def init(params):
        state, layout_at = inner.init(params), layouts(params)
        map_fields(functools.partial(_check_role, call, layout_at), state)
        return StoredState(first_step(), _encode(layout_at, state))

    def update(updates, state, params, signals):
        layout_at = layouts(updates if params is None else params)
        updates, new_state = inner.update(updates, _decode(call, layout_at, state.inner), params, signals)
        new_state = _encode(layout_at, new_state, state.step, signals.get("leaf_seed"), signals.get("places"))
        return updates, StoredState(state.step, new_state)

    return Pair(init, update)


def _layout_of_each(call: str, layout: Any, tree: Any) -> list[Layout]:
    """The layout for each leaf."""
    if isinstance(layout, Layout):
        return [layout] * len(jax.tree.leaves(tree))
    if isinstance(layout, dict):
        chosen = [None if glob is None else layout[glob] for glob in first_matches(call, layout, tree)]
    else:
        leaves = [jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]
        chosen = [layout(path, leaf) for path, leaf in zip(leaf_paths(tree), leaves, strict=True)]
        for path, one in zip(leaf_paths(tree), chosen, strict=True):
            if one is not None:
                _check_layout(call, one, repr(path))
    return [AS_IT_IS if one is None else one for one in chosen]


def _layouts_by_path(call: str, layout: Any, tree: Any) -> LayoutAt:
    if isinstance(layout, Layout):
        return lambda path: layout
    known = dict(zip(leaf_paths(tree), _layout_of_each(call, layout, tree), strict=True))

    def layout_at(path: str) -> Layout:
        if path not in known:
            raise errors.LayoutError(
                call, expected="a part that keeps a tree like the parameters", got=f"an array at {path!r}",
                cause="a part such as flatten makes one vector of them, which has no layers",
                fix="give one layout for all, or store the parts within: flatten(stored(tx, layout))",
            )  # fmt: skip
        return known[path]

    return layout_at


def _decode(call: str, layout_at: LayoutAt, state: Any) -> Any:
    def decode(path: str, role: Role, value: Any) -> Any:
        if not role.like_params:
            return value
        kept, treedef = jax.tree.flatten(boxes_around(value), is_leaf=is_kept)
        arrays = []
        for at, one in zip(leaf_paths(treedef.unflatten([0] * len(kept))), kept, strict=True):
            layout = layout_at(at)
            arrays.append(layout.decode(one, role))
            _check_kept(call, layout, role, arrays[-1], one, "/".join(filter(None, [path, at])))
        return treedef.unflatten(arrays)

    return map_fields(decode, state)


def _check_kept(call: str, layout: Layout, role: Role, array: jax.Array, kept: Any, at: str) -> None:
    """Raises where this is not how the layout keeps the array: what is done with the state would be kept so, too."""
    again = jax.eval_shape(lambda array: layout.encode(array, role, None), array)
    form, found = (jax.tree.map(lambda leaf: str(leaf.dtype), one) for one in (again, kept))
    if form != found:
        raise errors.StructureError(
            call, expected=f"a state that is kept in this layout, {form}", got=str(found), at=repr(at),
            cause="it was made with another layout, or was read from a checkpoint of one",
            fix="go on with the layout that it was made with, or write state = tx.init(params)",
        )  # fmt: skip


def _encode(layout_at: LayoutAt, state: Any, step: Any = None, seed: Any = None, at_places: Any = None) -> Any:
    """Encodes all fields; without a step to nearest, and for whole trees (no ``seed``) with a seed for each leaf."""

    def encode(path: str, role: Role, value: Any) -> Any:
        if not role.like_params:
            return value
        field = np.uint32(zlib.crc32(path.encode()))

        def encode_leaf(at: str, leaf: jax.Array, seed: Any) -> Any:
            layout = layout_at(at)
            _refuse_complex(layout, leaf, at)

            def draw(shape: tuple[int, ...]) -> jax.Array:
                return uniform_at(places(shape) if at_places is None else at_places, (step, seed, field))

            return layout.encode(leaf, role, draw if layout.draws and step is not None else None)

        leaves, treedef = jax.tree.flatten(value)
        seeds = leaf_seeds(value) if seed is None else [seed] * len(leaves)
        return tree_of(treedef, list(map(encode_leaf, leaf_paths(value), leaves, seeds)))

    return map_fields(encode, state)


def _refuse_vectors(call: str, record: Record, layout: Any) -> None:
    """Raises where numbers of several leaves would share what a layout keeps for neighbours, or the layout itself."""
    if "packed" not in record.kinds or (isinstance(layout, Layout) and layout.reads == "elementwise"):
        return
    got, cause = "layouts by path", "a vector of many leaves has no path of theirs"
    if isinstance(layout, Layout):
        got, cause = "one of blocks", "a block would span the end of one leaf and the beginning of the next"
    raise errors.LayoutError(
        call, expected="one layout that keeps each number for itself, around packed(...)", got=got, cause=cause,
        fix=f"write stored(packed(...), cast('bfloat16')), or keep small leaves apart from large ones: {BY_SIZE}",
    )  # fmt: skip


def _refuse_complex(layout: Layout, leaf: jax.Array, path: str) -> None:
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating) and layout is not AS_IT_IS:
        raise errors.DtypeError(
            errors.UNNAMED, expected="real state, where a layout keeps it", got=str(leaf.dtype), at=repr(path),
            cause="there are no codes of complex numbers, and no narrower dtype",
            fix=f"write stored(tx, {{{path!r}: None, '*': layout}}), which keeps the leaf as it is, or make two "
            "real leaves of its real and imaginary parts",
        )  # fmt: skip


def refuse_foreign(call: str, record: Record, fix: str) -> None:
    """Raises where the state of a part does not say what its fields are; ``fix`` is a chain without its last part."""
    for address, part in _with_parts(record.name, record):
        if part.foreign:
            raise errors.LayoutError(
                call, expected="parts whose state says what its fields are", got=f"the foreign part {address}",
                cause="its moments and its counters look alike from outside", fix=f"{fix}, {part.name}(...))",
            )  # fmt: skip


def _refuse_kept(call: str, record: Record) -> None:
    for address, part in _with_parts(record.name, record):
        if part.kind in ("stored", "host memory"):
            raise errors.LayoutError(
                call, expected="parts whose state no other wrapper keeps in its own way", got=f"the part {address}",
                cause="what is kept already would be kept once more",
                fix="write offloaded(stored(tx, layout)), and layouts by path in one stored: {glob: layout}",
            )  # fmt: skip


def _with_parts(address: str, record: Record) -> Iterator[tuple[str, Record]]:
    yield address, record
    for name, part in record.parts.items():
        yield from _with_parts(f"{address} > {name}", part)


def _check_role(call: str, layout_at: LayoutAt, path: str, role: Role, value: Any) -> Any:
    for at in leaf_paths(value) if role.like_params else ():
        reason = layout_at(at).refuses(role)
        if reason:
            raise errors.LayoutError(
                call, expected="fields that the layout can keep", got=f"{role.kind} numbers", at=repr(path),
                cause=reason, fix="write storage.cast(jnp.bfloat16, rounding='stochastic'), or store only other parts",
            )  # fmt: skip
    return value


def _check_layouts(call: str, layout: Any) -> None:
    if not isinstance(layout, Mapping):
        if not errors.is_per_layer(layout):
            _check_layout(call, layout)
        return
    check_globs(call, layout, 'write stored(tx, {"embed*": None, "*": storage.quantized()})')
    for glob, one in layout.items():
        if one is not None:
            _check_layout(call, one, repr(glob))


def _check_layout(call: str, layout: Any, at: str | None = None) -> None:
    if isinstance(layout, Layout):
        return
    cause, fix = "a dtype is no layout", 'stored(tx, storage.cast("bfloat16")) or stored(tx, storage.quantized())'
    if isinstance(layout, Mapping):
        path, one = (at or "''").strip("'"), layout
        while isinstance(one, Mapping) and one:
            key, one = next(iter(one.items()))
            path = f"{path}/{key}"
        cause, fix = "layouts stand by the whole path of a leaf, not in a tree", f"{{{path!r}: {errors.show(one)}}}"
    elif callable(layout):
        cause = "a function that chooses layouts takes path and leaf, and one that makes a layout has to be called"
        fix = "lambda path, leaf: storage.quantized() if leaf.ndim > 1 else None, or storage.quantized()"
    raise errors.ArgumentTypeError(
        call, expected="layout must be a layout", got=f"{type(layout).__name__} {errors.show(layout)}", at=at,
        cause=cause, fix=f"write {fix}",
    )  # fmt: skip
