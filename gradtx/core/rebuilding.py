"""Numbers as data: a transformation rebuilt at every update from numbers in its state and from schedules."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core.leafwise import PASS, ZERO, Leaves, Pair, leaf_by_leaf
from gradtx.core.record import GradientTransformation, Record, record_of
from gradtx.core.roles import Counter, Hyperparameter, Nested, first_step, next_step
from gradtx.tree import is_array


class TunableState(NamedTuple):
    """State of a transformation rebuilt at every update from numbers: kept ones, and those its schedules give."""

    step: Counter
    hyperparameters: Hyperparameter
    scheduled: Hyperparameter
    inner: Nested


def rebuilt(
    build: Callable[[Mapping[str, Any]], GradientTransformation],
    numbers: Mapping[str, Any],
    schedules: Mapping[str, Callable[[Any], Any]],
) -> Record:
    """The record of ``build(values)``, built anew at every update with the numbers of its state and of its schedules.

    ``numbers`` start as given and stay in the state, where they may be replaced; ``schedules`` are evaluated at the
    state's step. ``build`` only sees traced numbers here, so it must not decide anything by their value.
    """
    probe = _probe(build, [*numbers, *schedules])

    def init_with(choose: Callable[[Record], Pair], params: Any) -> TunableState:
        kept = {name: _number(value) for name, value in numbers.items()}
        scheduled = _evaluate(schedules, first_step())
        return TunableState(first_step(), kept, scheduled, choose(_built(build, kept, scheduled)).init(params))

    def advance(state: TunableState) -> TunableState:
        return state._replace(step=next_step(state.step), scheduled=_evaluate(schedules, state.step))

    def update_with(choose: Callable[[Record], Pair], updates: Any, state: TunableState, params: Any, signals: Any):
        record = _built(build, state.hyperparameters, state.scheduled)
        updates, inner = choose(record).update(updates, state.inner, params, signals)
        return updates, state._replace(inner=inner)

    if probe.leaves is None:

        def whole(record: Record) -> Pair:
            return record.tree

        def update(updates: Any, state: Any, params: Any, signals: Any):
            return update_with(whole, updates, advance(state), params, signals)

        return dataclasses.replace(probe, tree=Pair(functools.partial(init_with, whole), update), leaves=None)

    made: dict[Pair, Pair] = {}

    def resolve(tree: Any) -> list[Pair]:
        assert probe.leaves is not None
        pairs = probe.leaves.resolve(tree)
        for index, like in enumerate(pairs):
            if like not in made:
                choose = functools.partial(_leaf_of, _without_values(tree), index)
                both = Pair(functools.partial(init_with, choose), functools.partial(update_with, choose))
                made[like] = like if like in (PASS, ZERO) else both
        return [made[like] for like in pairs]

    def advance_all(state: TunableState) -> TunableState:
        state = advance(state)
        leaves = _built(build, state.hyperparameters, state.scheduled).leaves
        assert leaves is not None
        return state._replace(inner=leaves.advance(state.inner))

    leaves = Leaves(resolve, probe.leaves.signals, probe.leaves.takes_params, advance_all)
    return dataclasses.replace(probe, tree=leaf_by_leaf(leaves), leaves=leaves)


def _built(build: Callable[[Mapping[str, Any]], GradientTransformation], *numbers: Mapping[str, Any]) -> Record:
    return record_of(build({name: value for part in numbers for name, value in part.items()}))


def _without_values(tree: Any) -> Any:
    """Shapes and dtypes only: what may outlive a trace."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_array(leaf) else None, tree)


def _leaf_of(shapes: Any, index: int, record: Record) -> Pair:
    assert record.leaves is not None
    return record.leaves.resolve(shapes)[index]


def _probe(build: Callable[[Mapping[str, Any]], GradientTransformation], names: Iterable[str]) -> Record:
    """The record that ``build`` gives for traced numbers, without computing anything."""
    found: list[Record] = []

    def trace(values):
        found.append(record_of(build(values)))
        return 0.0

    jax.eval_shape(trace, {name: jax.ShapeDtypeStruct((), jnp.float32) for name in names})
    return found[0]


def _number(value: Any) -> jax.Array:
    """A hyperparameter as data: a float32 scalar of its own."""
    return jnp.array(value, jnp.float32)


def _evaluate(schedules: Mapping[str, Callable[[Any], Any]], step: jax.Array) -> dict[str, jax.Array]:
    values = {}
    for name, schedule in schedules.items():
        value = schedule(step)
        errors.check_returned(f"{name}={errors.show(schedule)}", value)
        values[name] = jax.lax.convert_element_type(value, jnp.float32)
    return values
