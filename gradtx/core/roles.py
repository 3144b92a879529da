"""What a field of a state is: the roles that storage, sharding and conversion read instead of guessing.

A state is a ``NamedTuple`` whose fields are annotated with one of the roles below::

    class EmaState(NamedTuple):
        mean: SignedTree

A ``...Tree`` field is a tree like the parameters (in a unit written for one array: one array). Its numbers are moments,
of both signs or non-negative; **positions**, which belong to a point as they stand (iterates, averages of parameters,
distances between them, the gradient there); **accumulated** over all steps, sums and products to which each step adds
little; or **factors**, which stand for numbers of another shape. The other fields are shared by all leaves. ``Nested``
holds states of other transformations; dictionaries and tuples of states are walked as well.
"""

import functools
import typing
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from gradtx.tree import path_name

S = TypeVar("S")


class Role(NamedTuple):
    """``kind`` says what the numbers are; ``like_params`` whether the field is a tree like the parameters."""

    kind: str
    like_params: bool


SignedTree = Annotated[Any, Role("signed", True)]
NonNegativeTree = Annotated[Any, Role("non-negative", True)]
FactorTree = Annotated[Any, Role("factor", True)]
PositionTree = Annotated[Any, Role("position", True)]
AccumulatedTree = Annotated[Any, Role("accumulated", True)]
SignedScalar = Annotated[Any, Role("signed", False)]
Counter = Annotated[Any, Role("counter", False)]
Key = Annotated[Any, Role("key", False)]
Hyperparameter = Annotated[Any, Role("hyperparameter", False)]
Nested = Annotated[Any, Role("nested", False)]


class EmptyState(NamedTuple):
    """The state of a transformation that remembers nothing."""


def first_step() -> jax.Array:
    """A counter of finished updates, before the first one."""
    return jnp.zeros((), jnp.int32)


def next_step(step: jax.Array) -> jax.Array:
    """The counter after one more update; it stays at 2^31 - 1 instead of wrapping."""
    return jnp.where(step < jnp.iinfo(jnp.int32).max, step + 1, step)


@functools.cache
def roles(state_type: type) -> dict[str, Role]:
    """The role of each field of a state type; empty for a type that declares none."""
    try:
        hints = typing.get_type_hints(state_type, include_extras=True)
    except NameError:  # a foreign type, annotated with what only type checkers import
        return {}
    found: dict[str, Role] = {}
    for name in getattr(state_type, "_fields", ()):
        role = getattr(hints.get(name), "__metadata__", (None,))[0]
        if not isinstance(role, Role):
            return {}
        found[name] = role
    return found


def is_state(value: Any) -> bool:
    """Whether ``value`` is a state whose every field has a role."""
    return isinstance(value, tuple) and hasattr(value, "_fields") and len(roles(type(value))) == len(value)


def is_kept(value: Any) -> bool:
    """Whether ``value`` is what a layout keeps of one array in several: a state where a field has an array."""
    return is_state(value) and len(value) > 0


def per_leaf(treedef: Any, field: Any) -> list[Any]:
    """What a field has for each leaf of ``treedef``: an array, or what is kept of it. The inverse of :func:`tree_of`.

    Raises ``ValueError`` where the field does not have this structure.
    """
    return treedef.flatten_up_to(boxes_around(field))


def tree_of(treedef: Any, column: list[Any]) -> Any:
    """The field that has this for each leaf. A box holds one array: ``Codes(Box(codes), Box(scales))``.

    ``flax.nnx.Optimizer`` makes dictionaries of any container in a variable, so its state would change its type.
    """
    field = treedef.unflatten(column)
    if not any(map(is_kept, column)):
        return field

    def is_around(node: Any) -> bool:
        box = _opened(node)
        return box is not None and is_kept(box[1])

    def within(node: Any) -> Any:
        box = _opened(node)
        if box is None or not is_kept(box[1]):
            return node
        around, kept = box
        return type(kept)(*(around.unflatten([part]) for part in kept))

    return jax.tree.map(within, field, is_leaf=is_around)


def boxes_around(field: Any) -> Any:
    """``Box(Codes(codes, scales))`` for ``Codes(Box(codes), Box(scales))``: a field like the parameters in boxes."""

    def around(node: Any) -> Any:
        boxes = [box for box in map(_opened, node) if box is not None] if is_kept(node) else []
        if not boxes or len(boxes) < len(node):
            return node
        return boxes[0][0].unflatten([type(node)(*(part for _, part in boxes))])

    return jax.tree.map(around, field, is_leaf=is_kept)


def _opened(node: Any) -> tuple[Any, Any] | None:
    """The structure and the content of a box, which is what :func:`gradtx.tree.leaf_paths` takes for one."""
    children, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)
    if len(children) != 1:
        return None
    path, content = children[0]
    return (treedef, content) if [getattr(key, "name", None) for key in path] == ["value"] else None


def map_fields(function: Callable[[str, Role, Any], Any], state: Any, path: str = "") -> Any:
    """``function(path, role, field)`` on every field of all nested states; ``TypeError`` for what is no state of ours.

    A path is made of part names and field names: ``ratio/numerator/ema/mean``.
    """
    if state is None:
        return None
    if isinstance(state, dict):
        return {name: map_fields(function, value, f"{path}/{name}" if path else name) for name, value in state.items()}
    if not is_state(state):
        raise TypeError(f"a {type(state).__name__} at {path!r} does not say what its fields are")
    fields = []
    for (name, role), value in zip(roles(type(state)).items(), state, strict=True):
        below = f"{path}/{name}" if path else name
        fields.append(map_fields(function, value, below) if role.kind == "nested" else function(below, role, value))
    return type(state)(*fields)


def states_of(kind: type[S], state: Any, prefix: str = "") -> list[tuple[str, S]]:
    """Every state of this kind in any container of states, with its path; outer ones before those within them."""
    found = []
    for path, node in jax.tree_util.tree_flatten_with_path(state, is_leaf=lambda node: isinstance(node, kind))[0]:
        if isinstance(node, kind):
            name = "/".join(filter(None, [prefix, path_name(path)]))
            found.append((name, node))
            for field in getattr(kind, "_fields", ()):
                found += states_of(kind, getattr(node, field), f"{name}/{field}" if name else field)
    return found


def shared(state: Any) -> Any:
    """What all leaves of a state share, with ``None`` for the fields that are like the parameters."""
    return map_fields(lambda path, role, value: None if role.like_params else value, state)


def with_shared(state: Any, new: Any) -> Any:
    """``state`` with the shared fields of ``new``: the inverse of :func:`shared`."""
    if state is None:
        return None
    if isinstance(state, dict):
        return {name: with_shared(value, new[name]) for name, value in state.items()}
    fields = []
    for name, role in roles(type(state)).items():
        old, field = getattr(state, name), getattr(new, name)
        fields.append(with_shared(old, field) if role.kind == "nested" else old if role.like_params else field)
    return type(state)(*fields)


def cast_like(state: Any, old: Any) -> Any:
    """``state`` in the dtypes and the memories of ``old``, never weakly typed: what makes a state's type a fixpoint.

    A part that keeps nothing (for this leaf) is ``None`` in ``state``, whatever ``old`` has there.
    """
    if state is None:
        return None
    if isinstance(state, dict):
        return {name: cast_like(value, old[name]) for name, value in state.items()}
    if is_state(state):
        return type(state)(*map(cast_like, state, old))
    return jax.tree.map(_array_like, state, old)


def _array_like(new: Any, old: Any) -> jax.Array:
    new = jax.lax.convert_element_type(new, old.dtype)  # on the device, before it is sent
    return jax.device_put(new, jax.memory.Space.Host) if is_on_host(old) and not is_on_host(new) else new


def is_on_host(array: Any) -> bool:
    """Whether an array is in the memory of the host, beside that of its device; its type says so."""
    return jax.typeof(array).memory_space == jax.memory.Space.Host


def split(state: Any, treedef: Any) -> list[Any]:
    """The state of each leaf, from the state of the tree; shared fields go to every leaf.

    Raises ``ValueError`` where a field does not have the structure of ``treedef``.
    """
    count = treedef.num_leaves
    if state is None:
        return [None] * count
    if isinstance(state, dict):
        columns = {name: split(value, treedef) for name, value in state.items()}
        return [{name: column[index] for name, column in columns.items()} for index in range(count)]
    if not is_state(state):
        raise ValueError(f"a {type(state).__name__} is not a state of this library")
    columns = [
        split(value, treedef)
        if role.kind == "nested"
        else per_leaf(treedef, value)
        if role.like_params
        else [value] * count
        for role, value in zip(roles(type(state)).values(), state, strict=True)
    ]
    if not columns:
        return [state] * count
    return [type(state)(*fields) for fields in zip(*columns, strict=True)]


def merge(states: list[Any], treedef: Any) -> Any:
    """The state of the tree from the states of its leaves: the inverse of :func:`split`.

    A leaf that keeps no state gives ``None``; shared fields are those of the first leaf that has any.
    """
    example = next((state for state in states if state is not None), None)
    if example is None:
        return None
    if isinstance(example, dict):
        return {name: merge([None if s is None else s[name] for s in states], treedef) for name in example}
    fields = []
    for name, role in roles(type(example)).items():
        column = [None if state is None else getattr(state, name) for state in states]
        if role.kind == "nested":
            fields.append(merge(column, treedef))
        elif role.like_params:
            fields.append(tree_of(treedef, column))
        else:
            fields.append(getattr(example, name))
    return type(example)(*fields)
