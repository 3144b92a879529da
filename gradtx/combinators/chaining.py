"""Running transformations one after the other."""

from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from typing import Any

from gradtx import errors
from gradtx.core import (
    PASS,
    ZERO,
    GradientTransformation,
    Pair,
    Record,
    combine_leaves,
    compose,
    leaf_by_leaf,
    record_of,
    transformation,
)


@transformation
def chain(*transforms: GradientTransformation) -> GradientTransformation:
    """Applies ``transforms`` in order; the updates of one are the input of the next.

    The state is a dictionary from part name to the part's state; a name that occurs again gets an ordinal
    (``scale``, ``scale_2``), so paths in checkpoints do not depend on positions. Parts that read one element or one
    leaf run leaf by leaf through one jitted function, so equal shapes are traced once; parts that read the whole tree,
    and foreign ones (Optax's, yours without the decorator), split that run.

    Raises ``ArgumentTypeError`` for what is no transformation.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.sgd(0.1))
    >>> updates, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
    >>> [round(float(u), 4) for u in updates]
    [-0.06, -0.08]
    >>> sorted(state)
    ['clip_by_global_norm', 'sgd']
    """
    return _chained(parts_by_name(transforms))


@transformation
def named_chain(*transforms: tuple[str, GradientTransformation]) -> GradientTransformation:
    """:func:`chain` of ``(name, transformation)`` pairs, with the names of the state and of errors given by you.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.named_chain(("clip", gradtx.clip(1.0)), ("step", gradtx.sgd(0.1)))
    >>> sorted(tx.init(jnp.zeros(2)))
    ['clip', 'step']
    """
    for pair in transforms:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):
            raise errors.ArgumentTypeError(
                "named_chain", expected="pairs of a name and a transformation", got=errors.show(pair),
                cause="a name is missing", fix='write named_chain(("clip", clip(1.0)), ("step", sgd(0.1)))',
            )  # fmt: skip
    names = [name for name, _ in transforms]
    if len(set(names)) < len(names):
        raise errors.SelectionError(
            "named_chain", expected="every name once", got=str(names),
            cause="two parts would share one state", fix="give each part a name of its own",
        )  # fmt: skip
    return _chained({name: record_of(tx) for name, tx in transforms})


def parts_by_name(transforms: Iterable[GradientTransformation]) -> dict[str, Record]:
    """The records of ``transforms`` by name; a name that occurs again gets an ordinal: ``scale``, ``scale_2``."""
    seen: Tally[str] = Tally()
    parts = {}
    for record in map(record_of, transforms):
        seen[record.name] += 1
        parts[record.name if seen[record.name] == 1 else f"{record.name}_{seen[record.name]}"] = record
    return parts


def _chained(parts: Mapping[str, Record]) -> GradientTransformation:
    def runs_leaf_by_leaf() -> Pair:
        groups: list[tuple[list[str], Pair]] = []
        run: dict[str, Any] = {}
        for name, part in [*parts.items(), ("", None)]:
            if part is not None and part.leaves is not None:
                run[name] = part.leaves
                continue
            if run:
                groups.append((list(run), leaf_by_leaf(combine_leaves(run, _in_order))))
                run = {}
            if part is not None:
                groups.append(([name], _in_order({name: part.tree})))
        return _groups_in_order(groups)

    takes_examples = any(part.per_example for part in list(parts.values())[:1])
    return compose(parts, _in_order, tree_body=runs_leaf_by_leaf, per_example=takes_examples, kind="chain")


def _in_order(parts: Mapping[str, Pair]) -> Pair:
    """One part after the other, for one array or for whole trees."""
    if all(pair in (PASS, ZERO) for pair in parts.values()):
        return ZERO if ZERO in parts.values() else PASS

    def init(params):
        return {name: _noting(name, pair.init, params) for name, pair in parts.items()}

    def update(updates, state, params, signals):
        _check_state(state, parts)
        new_state = {}
        for name, pair in parts.items():
            updates, new_state[name] = _noting(name, pair.update, updates, state[name], params, signals)
        return updates, new_state

    return Pair(init, update)


def _groups_in_order(groups: list[tuple[list[str], Pair]]) -> Pair:
    def init(params):
        state = {}
        for names, pair in groups:
            state |= pair.init(params) or dict.fromkeys(names)
        return state

    def update(updates, state, params, signals):
        _check_state(state, [name for names, _ in groups for name in names])
        new_state = {}
        for names, pair in groups:
            updates, part_state = pair.update(updates, {name: state[name] for name in names}, params, signals)
            new_state |= part_state or dict.fromkeys(names)
        return updates, new_state

    return Pair(init, update)


def _check_state(state: Any, names: Any) -> None:
    if not isinstance(state, dict) or set(state) != set(names):
        raise errors.StructureError(
            errors.UNNAMED,
            expected=f"a state with the entries {sorted(names)}",
            got=f"entries {sorted(state)}" if isinstance(state, dict) else f"a {type(state).__name__}",
            cause="the state belongs to another transformation",
            fix="write state = tx.init(params) with this one",
        )


def _noting(name: str, function: Any, *args: Any) -> Any:
    """Calls a part; an error that comes out of it says which part it was."""
    try:
        return function(*args)
    except Exception as error:
        error.add_note(f"in chain element {name!r}")
        raise
