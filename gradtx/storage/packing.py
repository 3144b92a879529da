"""Many small leaves as a few vectors: in the state of a transformation, and as parameters.

A compiled step has loops for every leaf, and a call hands over every buffer; of 1,000 leaves of 1,000 elements both
cost more than the arithmetic. Large leaves gain nothing and would be copied, so they stay as they are.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import (
    GradientTransformation,
    Nested,
    Pair,
    Record,
    Role,
    join,
    leaf_by_leaf,
    map_fields,
    record_of,
    transformation,
)
from gradtx.errors import Count
from gradtx.storage.turns import always
from gradtx.tree import in_words, is_array, is_inexact, leaf_paths, wide_dtype, widen

_AT_ONCE = 32
"""Operands of one concatenation: XLA's CPU backend compiles one of 1,000 operands in 20 to 30 s, 32 of 32 in 0.5 s."""

BY_SIZE = (
    'partition({"small": packed(adamw(1e-3)), "large": stored(adamw(1e-3), quantized())}, '
    'lambda path, leaf: "small" if leaf.size < 4096 else "large")'
)
"""Packed small leaves beside large ones in codes, to copy."""


class PackedState(NamedTuple):
    """State of a transformation of ``{"large": tree, "small": vectors}``: its fields are such, not like the parameters.

    The tree is that of the parameters with ``None`` for each leaf that is in a vector.
    """

    inner: Nested


class Plan(NamedTuple):
    """Which leaves of a tree stand in which vector, in this order; the others stay alone."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    vectors: tuple[tuple[str, tuple[int, ...]], ...]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["large", "small"], meta_fields=["plan"])
@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """A tree whose small leaves are packed: ``small`` are the vectors by name, ``large`` is the tree with the others.

    Made by :func:`pack`; a tree for ``jax.tree`` like any other, whose leaves are the vectors and the large leaves.
    """

    large: Any
    small: dict[str, Any]
    plan: Plan

    def check_transformation(self, record: Record) -> None:
        """Raises where a transformation that is given this tree would take a vector for a leaf."""
        like = [jax.ShapeDtypeStruct(*of) for of in zip(self.plan.shapes, self.plan.dtypes, strict=True)]
        _check_around(str(record.call), record.name, record, self.plan.treedef.unflatten(like))


@transformation
def packed(tx: GradientTransformation, *, below: Count = 4096) -> GradientTransformation:
    """``tx`` with one vector in place of all small leaves that it treats alike::

        u = unpack(tx(pack(g), pack(p)))

    Leaves of fewer than ``below`` elements share a vector if they have one dtype and the same rule (strength, mask,
    partition), so that those given by path stay right. Every element gets what it gets without packing, bit for bit
    up to the compiler's choice of fused multiplications. State is kept in these vectors; gradients are copied into
    them and updates out of them, unless they come packed: see :func:`pack`.

    Only for what reads one element at a time. A norm over all leaves stands in front of it, as it sees the whole tree
    anyway: ``chain(clip_by_global_norm(1.0), packed(adamw(1e-3)))``. What draws random numbers for each leaf
    (stochastic rounding, noise) draws them for each vector: other numbers, of the same distribution. Leaves that an
    explicit mesh shards stay alone; others are taken to be replicated, as small leaves are.

    Raises ``LayoutError``, naming the part, where a part reads its whole leaf or all of them, or is foreign, and at
    ``init`` where a part keeps something else than an array of the leaf's shape.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> params = {"w": jnp.ones((100, 100)), **{f"b{i}": jnp.ones(10) for i in range(20)}}
    >>> tx = gradtx.storage.packed(gradtx.adam(1e-3))
    >>> sorted({leaf.shape for leaf in jax.tree.leaves(tx.init(params)) if leaf.ndim})
    [(100, 100), (200,)]
    """
    record = record_of(tx)
    call = f"packed({record.call})"
    _check_elementwise(call, record.name, record)
    leaves = record.leaves
    assert leaves is not None  # an elementwise transformation has them

    @functools.cache
    def on_packed(pairs: tuple[Pair, ...]) -> Pair:
        return leaf_by_leaf(leaves._replace(resolve=lambda tree: list(pairs) or leaves.resolve(tree)))

    def plan_of(tree: Any) -> Plan:
        return _plan(tree, leaves.resolve(tree), below)

    def pairs_of(plan: Plan) -> tuple[Pair, ...]:
        like = [jax.ShapeDtypeStruct(*of) for of in zip(plan.shapes, plan.dtypes, strict=True)]
        pairs = leaves.resolve(plan.treedef.unflatten(like))
        for name, indices in plan.vectors:
            if len({pairs[index] for index in indices}) > 1:
                raise errors.StructureError(
                    call, expected="vectors of leaves that it treats alike", got=f"others in {name!r}",
                    cause="the parameters were packed for another transformation",
                    fix="write params = pack(params, tx) with this one",
                )  # fmt: skip
        small = [pairs[dict(plan.vectors)[name][0]] for name in sorted(dict(plan.vectors))]
        return (*(pairs[index] for index in _alone(plan)), *small)

    def init(params: Any) -> PackedState:
        given = params if isinstance(params, Packed) else _pack(params, plan_of(params))
        try:
            state = on_packed(pairs_of(given.plan)).init(_halves(given))
        except (errors.DtypeError, errors.ShapeError) as error:
            raise error.at_leaf(_path_of(given.plan, str(error.at))) from None
        map_fields(functools.partial(_check_field, call, given), state)
        return PackedState(state)

    def update(updates: Any, state: PackedState, params: Any, signals: Mapping[str, Any]) -> tuple[Any, PackedState]:
        if isinstance(updates, Packed):
            plan, halves = updates.plan, _halves(updates)
            like = None if params is None else _halves(params)
        else:
            plan = plan_of(updates if params is None else params)
            halves = _halves(_pack(jax.tree.map(widen, updates), plan))
            like = None if params is None else _halves(_pack(params, plan))
        try:
            steps, new = on_packed(pairs_of(plan)).update(halves, state.inner, like, signals)
        except errors.StructureError:
            if params is not None:
                raise errors.StructureError(
                    call, expected="the vectors of leaves that init made", got="a state with others, or without",
                    cause="the state belongs to other parameters or to another optimizer, of which below= and the rule "
                    "of each leaf are a part; or init saw parameters divided along explicit axes of a mesh, which stay "
                    "alone, and this step sees them without",
                    fix="write state = tx.init(params) with these; on a mesh with automatic axes, "
                    "jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * len(names))",
                ) from None  # fmt: skip
            raise errors.MissingParams(
                call, expected="the parameters, beside gradients in another dtype", got="params=None",
                cause="leaves share a vector by the dtype of the parameters",
                fix="write tx.update(grads, state, params)",
            ) from None  # fmt: skip
        steps = Packed(steps["large"], steps["small"], plan)
        if isinstance(updates, Packed):
            return steps, PackedState(new)
        narrowed = jax.tree.map(_like, unpack(steps), updates)
        return narrowed, PackedState(new)

    update.plan_of = plan_of  # type: ignore[attr-defined]  # by which pack finds it in a chain
    return join({"inner": record}, Pair(init, update), kind="packed")


def pack(params: Any, tx: GradientTransformation) -> Packed:
    """The parameters with their small leaves in the vectors that the :func:`packed` in ``tx`` keeps its state in.

    Of shapes, as ``jax.eval_shape`` gives them, it makes shapes.

    A step on packed parameters and gradients copies nothing, and its call hands over few buffers. A train step takes
    them as parameters, and its loss still sees the ordinary tree::

        tx = chain(clip_by_global_norm(1.0), packed(adamw(1e-3)))
        state = create_train_state(pack(params, tx), tx, key=key)
        state, metrics = make_train_step(loss, tx)(state, batch)
        params = unpack(state.params)

    In a loop of your own, ``jax.grad(lambda packed: loss(unpack(packed), batch))`` gives packed gradients.

    Around the :func:`packed` may stand what treats all elements alike or reads the whole tree (clipping by the global
    norm, guards, averages); ``LayoutError`` for what reads single leaves, finds them by name or gives them to a user's
    function (a projection, a measure), and for foreign parts.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> from gradtx.storage import pack, packed, unpack
    >>> tx = packed(gradtx.sgd(0.5))
    >>> params = pack({f"b{i}": jnp.ones(2) for i in range(3)}, tx)
    >>> grads = jax.grad(lambda params: unpack(params)["b1"].sum())(params)
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> unpack(gradtx.apply_updates(params, updates))["b1"].tolist()
    [0.5, 0.5]
    """
    call = f"pack(params, {errors.show(tx)})"
    record = record_of(tx)
    plans = [plan_of(params) for plan_of in plans_in(record)]
    if not plans:
        raise errors.LayoutError(
            call, expected="a transformation with packed(...) in it", got="none",
            cause="it says which leaves may share a vector", fix="write tx = packed(adamw(1e-3)); pack(params, tx)",
        )  # fmt: skip
    _check_around(call, record.name, record, params)
    into = functools.partial(_pack, plan=plans[0] if len(plans) == 1 else _common(plans))
    only_shapes = any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params))
    return jax.eval_shape(into, params) if only_shapes else into(params)


def unpack(tree: Any) -> Any:
    """The ordinary tree of a :func:`pack`\\ ed one; any other tree as it is.

    Differentiated, it packs the gradients again in two passes, where the sum of the gradients of 1,000 slices of a
    vector would be 1,000 passes.
    """
    if not isinstance(tree, Packed):
        return tree
    plan = tree.plan
    flat: list[Any] = [None] * len(plan.shapes)
    for index, leaf in zip(_alone(plan), jax.tree.leaves(tree.large), strict=True):
        flat[index] = leaf
    for name, indices in plan.vectors:
        shapes = tuple(plan.shapes[index] for index in indices)
        for index, leaf in zip(indices, _apart(shapes, tree.small[name]), strict=True):
            flat[index] = leaf
    return plan.treedef.unflatten(flat)


def _plan(tree: Any, pairs: list[Pair], below: int) -> Plan:
    flat, treedef = jax.tree.flatten(tree)
    flat = [jnp.asarray(leaf) if isinstance(leaf, float | complex) else leaf for leaf in flat]
    groups: dict[Any, list[int]] = {}
    for index, (leaf, pair) in enumerate(zip(flat, pairs, strict=True)):
        if is_inexact(leaf) and math.prod(leaf.shape) < below and not _is_sharded(leaf):
            groups.setdefault((jnp.dtype(leaf.dtype), pair), []).append(index)
    return _named(treedef, flat, [indices for indices in groups.values() if len(indices) > 1])


def _named(treedef: Any, flat: list[Any], groups: list[list[int]]) -> Plan:
    """Vectors named by their dtype, with an ordinal on repeats; equal shapes stand together, for few places."""
    shapes = tuple(jnp.shape(leaf) if _is_number(leaf) else () for leaf in flat)
    dtypes = tuple(jnp.result_type(leaf) if _is_number(leaf) else jnp.dtype(bool) for leaf in flat)
    vectors: dict[str, tuple[int, ...]] = {}
    for indices in groups:
        dtype = str(flat[indices[0]].dtype)
        repeats = sum(name.split("_")[0] == dtype for name in vectors)
        name = f"{dtype}_{repeats + 1}" if repeats else dtype
        vectors[name] = tuple(sorted(indices, key=lambda index: (math.prod(shapes[index]), shapes[index])))
    return Plan(treedef, shapes, dtypes, tuple(vectors.items()))


def _is_number(leaf: Any) -> bool:
    """Whether a leaf is an array or a number, and no function or text, which ``init`` refuses."""
    return is_array(leaf) or isinstance(leaf, int | float | complex)


def _common(plans: list[Plan]) -> Plan:
    """The plan whose vectors hold the leaves that stand together in every one of ``plans``."""
    first = plans[0]
    groups: dict[Any, list[int]] = {}
    for index in range(len(first.shapes)):
        names = [next((name for name, indices in plan.vectors if index in indices), None) for plan in plans]
        if None not in names:
            groups.setdefault(tuple(names), []).append(index)
    like = [jax.ShapeDtypeStruct(*of) for of in zip(first.shapes, first.dtypes, strict=True)]
    return _named(first.treedef, like, [indices for indices in groups.values() if len(indices) > 1])


def _is_sharded(leaf: Any) -> bool:
    sharding = getattr(jax.typeof(leaf), "sharding", None) if isinstance(leaf, jax.Array) else None
    return sharding is not None and any(part is not None for part in sharding.spec)


def _alone(plan: Plan) -> list[int]:
    together = {index for _, indices in plan.vectors for index in indices}
    return [index for index in range(len(plan.shapes)) if index not in together]


def _pack(tree: Any, plan: Plan) -> Packed:
    flat = jax.tree.leaves(tree)
    alone = set(_alone(plan))
    large = plan.treedef.unflatten([leaf if index in alone else None for index, leaf in enumerate(flat)])
    return Packed(large, {name: _together([flat[index] for index in indices]) for name, indices in plan.vectors}, plan)


def _path_of(plan: Plan, at: str) -> str:
    """The path of a large leaf, or of the first leaf in a vector, from the quoted one within the two halves."""
    half, _, name = at.strip("'").partition("/")
    paths = leaf_paths(plan.treedef.unflatten(range(len(plan.shapes))))
    return paths[dict(plan.vectors)[name][0]] if half == "small" else name


def _halves(tree: Packed) -> dict[str, Any]:
    return {"large": tree.large, "small": tree.small}


def _together(leaves: list[jax.Array]) -> jax.Array:
    pieces = [jnp.ravel(leaf) for leaf in leaves]
    while len(pieces) > 1:
        pieces = [jnp.concatenate(pieces[at : at + _AT_ONCE]) for at in range(0, len(pieces), _AT_ONCE)]
    return pieces[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apart(shapes: tuple[tuple[int, ...], ...], vector: jax.Array) -> list[jax.Array]:
    """The inverse of :func:`_together`."""
    return jax.lax.platform_dependent(
        vector, cpu=functools.partial(_apart_on_cpu, shapes), default=functools.partial(_slices, shapes)
    )


def _apart_forward(shapes: tuple[tuple[int, ...], ...], vector: jax.Array) -> tuple[list[jax.Array], None]:
    return _apart(shapes, vector), None


def _apart_backward(shapes: tuple[tuple[int, ...], ...], _: None, grads: list[jax.Array]) -> tuple[jax.Array]:
    return (_together(grads),)


_apart.defvjp(_apart_forward, _apart_backward)


def _slices(shapes: tuple[tuple[int, ...], ...], vector: jax.Array) -> list[jax.Array]:
    found, start = [], 0
    for shape in shapes:
        end = start + math.prod(shape)
        found.append(jax.lax.slice(vector, (start,), (end,)).reshape(shape))
        start = end
    return found


def _apart_on_cpu(shapes: tuple[tuple[int, ...], ...], vector: jax.Array) -> list[jax.Array]:
    """By slices whose places are data.

    XLA's CPU backend compiles equal loops once, and slices at constant places all differ: 1,000 of them take 20 s, one
    at a place that is read takes as long as for one leaf. A place is the sum of two numbers, so that there are few of
    them: of the first of 32 leaves of one shape, and of the one among these. They come out of a branch that is always
    taken.
    """
    places: list[tuple[int, int]] = []
    start, first, run = 0, 0, 0
    for index, shape in enumerate(shapes):
        run = run + 1 if index and shapes[index - 1] == shape else 0
        first = start if run % _AT_ONCE == 0 else first
        places.append((first, start - first))
        start += math.prod(shape)
    if len(places) <= 2 or start == 0:
        return _slices(shapes, vector)
    numbers = sorted({number for place in places for number in place})
    found = jax.lax.cond(
        always(vector[0]),
        lambda: [jnp.asarray(number, jnp.int32) for number in numbers],
        lambda: [jnp.zeros((), jnp.int32)] * len(numbers),
    )
    read = dict(zip(numbers, found, strict=True))
    return [
        jax.lax.dynamic_slice(vector, (read[first] + read[within],), (math.prod(shape),)).reshape(shape)
        for shape, (first, within) in zip(shapes, places, strict=True)
    ]


def _like(step: jax.Array, update: Any) -> jax.Array:
    """An update out of a vector in the dtype that it has on its own."""
    return step.astype(wide_dtype(update.dtype)) if is_inexact(update) else step


def plans_in(record: Record) -> Iterator[Any]:
    """For each :func:`packed` in a transformation, what gives the plan of a tree."""
    plan_of = getattr(record.tree.update, "plan_of", None)  # which one that is made anew at each step has not
    if plan_of is not None:
        yield plan_of
        return
    for part in record.parts.values():
        yield from plans_in(part)


def _check_elementwise(call: str, address: str, record: Record) -> None:
    if record.locality == "elementwise" and not record.foreign:
        return
    for name, part in record.parts.items():
        _check_elementwise(call, f"{address} > {name}", part)
    what = "foreign" if record.foreign else "reading its leaf as a whole" if record.locality == "leaf" else "of trees"
    cause, fix = _other_order(record)
    raise errors.LayoutError(
        call, expected="parts that read one element at a time", got=f"the part {address}, {what}", cause=cause, fix=fix
    )


def _other_order(record: Record) -> tuple[str, str]:
    """Why a part cannot stand in a vector, and what to write instead."""
    if record.foreign:
        return "what it does to a vector of many leaves is unknown", (
            "write this library's part of that name, or pack only the parts beside it: chain(packed(scale_by_adam()), "
            "theirs)"
        )
    if record.kind == "packed":
        return "it is packed already", f"write {record.call}"
    if record.kind == "stored":
        return "a block of codes, or a layout by path, belongs to its own leaf", (
            f"write stored(packed(...), cast('bfloat16')), or keep small leaves apart from large ones: {BY_SIZE}"
        )
    if record.kind in ("guard", "accumulation", "master weights", "loss scale", "average"):
        inner = next(iter(record.parts.values())).call
        return "it works on whole trees, also on those of vectors", (
            f"write {str(record.call).replace(str(inner), f'packed({inner})', 1)}"
        )
    if record.locality == "tree" and not record.parts:
        return "it reads the whole tree, and within packed(...) each vector is updated alone", (
            f"write chain({record.call}, packed(adamw(1e-3)))"
        )
    return "in a vector of many leaves it would not find its own", (
        f"pack only the parts beside it: chain(packed(scale_by_adam()), {record.call}, ...)"
    )


def _check_around(call: str, address: str, record: Record, params: Any) -> None:
    """Raises where a part outside of ``packed`` would take a vector for a leaf."""
    if record.kind == "packed":
        return
    rules = len(set(record.leaves.resolve(params))) if record.leaves else 0
    if record.foreign or record.locality == "leaf" or record.kind == "layers" or rules > 1:
        raise errors.LayoutError(
            call, expected="parts around packed(...) that do not tell leaves apart", got=f"the part {address}",
            cause="it would take a vector of many leaves for one",
            fix="put it inside of packed(...), or leave the parameters as they are, which packed(...) takes too",
        )  # fmt: skip
    for name, part in record.parts.items():
        _check_around(call, f"{address} > {name}", part, params)


def _check_field(call: str, tree: Packed, path: str, role: Role, value: Any) -> Any:
    if role.like_params:
        for name, vector in tree.small.items():
            kept = value["small"][name]
            if kept is not None and jax.tree.map(jnp.shape, kept) != jnp.shape(vector):
                raise errors.LayoutError(
                    call, expected=f"state of the leaves' shapes, {in_words(vector)}", got=in_words(kept),
                    at=repr(path), cause="what is kept for a leaf as a whole has no place in a vector of many",
                    fix=f"leave it out: packed(..., below=1) for {leaf_paths(tree.large)[:1]}",
                )  # fmt: skip
    return value
