"""Law 6: one step within 4 units in the last place of exact, many steps within 64 eps of the largest update."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradtx.core import Role, map_fields
from tests.laws.table import UNITS
from tests.laws.unit import Unit

SIZE = 512
EPS = float(jnp.finfo(jnp.float32).eps)
TINY = float(jnp.finfo(jnp.float32).tiny)

with_an_oracle = pytest.mark.parametrize(
    "unit", [unit for unit in UNITS if unit.oracle is not None], ids=lambda unit: unit.name
)

without_a_sign = pytest.mark.parametrize(
    "unit", [unit for unit in UNITS if unit.oracle is not None and not unit.sign], ids=lambda unit: unit.name
)


def draw(unit: Unit, seed: int, spread: bool) -> np.ndarray:
    """Gradients of both signs, of one magnitude or spread over forty powers of ten."""
    random = np.random.default_rng(seed)
    smallest = np.log10(unit.smallest) if unit.smallest else -25
    values = random.normal(size=SIZE) * (10.0 ** random.uniform(smallest, 15, size=SIZE) if spread else 1.0)
    return (np.abs(values) if unit.domain == "non-negative" else values).astype(np.float32)


def in_float64(state: Any) -> dict[str, np.ndarray]:
    """The fields of a state that are like the parameters, by their last names; the second of a name is ``mean_2``."""
    found: dict[str, np.ndarray] = {}

    def keep(path: str, role: Role, value: Any) -> Any:
        if role.like_params and value is not None:  # a vector has no columns
            name = path.rsplit("/", 1)[-1]
            name = name if name not in found else f"{name}_2"
            assert name not in found
            found[name] = np.asarray(value, np.float64)
        return value

    map_fields(keep, state)
    return found


def exact_step(unit: Unit, state: dict, grads: np.ndarray, weights: np.ndarray, t: int):
    return unit.exact(state, grads.astype(np.float64), weights.astype(np.float64), t)


def without_cancellation(unit: Unit, state: dict, grads: np.ndarray, weights: np.ndarray, t: int) -> list:
    """The same step with every choice of signs for gradient, memory and weights: in one of them no sum cancels."""
    signed, beside = ("mean", "mean_2", "momentum", "sum"), ("last", "average", "slow", "ahead")
    sign = {**dict.fromkeys(signed, 0), **dict.fromkeys(beside, 1)}
    choices = itertools.product((-1.0, 1.0), (-1.0, 1.0) if set(beside) & set(state) else (1.0,), (-1.0, 1.0))
    return [
        exact_step(
            unit,
            {name: np.abs(value) * (*memory_signs, 1.0)[sign.get(name, 2)] for name, value in state.items()},
            np.abs(grads),
            weight_sign * np.abs(weights),
            t,
        )
        for *memory_signs, weight_sign in choices
    ]


def in_units(actual: Any, exact: np.ndarray, *terms: np.ndarray) -> float:
    """The largest error in units in the last place of the largest term; underflow may cost a smallest normal."""
    largest = functools.reduce(np.maximum, [np.abs(np.broadcast_to(term, exact.shape)) for term in (exact, *terms)])
    spacing = np.spacing(np.maximum(largest, TINY).astype(np.float32)).astype(np.float64)
    error = np.abs(np.asarray(actual, np.float64) - exact)
    return float(np.max(np.where(error <= TINY, 0.0, error / spacing)))


@with_an_oracle
def test_one_step_is_within_four_units_in_the_last_place(unit):
    tx = unit.make()
    update = jax.jit(unit.fed(tx))
    for spread in (False, True):
        weights = np.random.default_rng(1).normal(size=SIZE).astype(np.float32)
        state = tx.init(jnp.asarray(weights))
        for t in range(1, 31):
            grads = draw(unit, seed=t, spread=spread)
            before = in_float64(state)
            exact, exact_state = exact_step(unit, before, grads, weights, t)
            sizes = without_cancellation(unit, before, grads, weights, t)
            updates, state = update(jnp.asarray(grads), state, jnp.asarray(weights))
            assert in_units(updates, exact, *(size for size, _ in sizes)) <= unit.ulps, (t, spread)
            for name, value in in_float64(state).items():
                sums = [sizes_state[name] for _, sizes_state in sizes]
                assert in_units(value, exact_state[name], *sums) <= unit.ulps, (name, t, spread)


def largest_error(unit: Unit, steps: int) -> float:
    """The largest error over the largest update in eps, along a run with the same gradients."""
    tx = unit.make()
    weights = np.zeros(SIZE, np.float32)
    grads = np.stack([draw(unit, seed=t, spread=False) for t in range(steps)])

    def body(state, grad):
        updates, state = unit.fed(tx)(grad, state, jnp.asarray(weights))
        return state, updates

    _, ours = jax.jit(lambda state, grads: jax.lax.scan(body, state, grads))(tx.init(jnp.asarray(weights)), grads)
    state, error, largest = {}, 0.0, 0.0
    for t, (grad, update) in enumerate(zip(grads, np.asarray(ours, np.float64), strict=True), start=1):
        exact, state = exact_step(unit, state, grad, weights, t)
        error = max(error, float(np.max(np.abs(update - exact))))
        largest = max(largest, float(np.max(np.abs(exact))))
    return error / (largest * EPS) if largest else 0.0


@without_a_sign
def test_a_thousand_steps_stay_within_64_eps_of_the_largest_update(unit):
    assert largest_error(unit, 1_000) <= 64


@pytest.mark.slow
@without_a_sign
def test_ten_thousand_steps_stay_within_64_eps_of_the_largest_update(unit):
    assert largest_error(unit, 10_000) <= 64
