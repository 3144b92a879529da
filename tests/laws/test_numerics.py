"""Steps of every optimizer for gradients of every size, beside each pair of dtypes; rates and other numbers as data."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from tests.laws.table import RECIPES
from tests.laws.test_laws import exact_steps
from tests.laws.trees import SHAPES, assert_close, gradients, params, types
from tests.laws.unit import Unit

NARROW = (jnp.float16, jnp.bfloat16, jnp.float32)
SIZES = (0.0, 1.1754944e-38, 1e-25, 6.1035156e-05, 1e-4, 1.0, 300.0, 65504.0, 1e20, 3.3895314e38, 3.4028235e38)
"""With the smallest normal and the largest number of each dtype."""


def some_always(names: tuple[str, ...], units: Iterable[Unit] = RECIPES) -> pytest.MarkDecorator:
    """Over these units, all but the ones of these names slow."""
    slow = {unit: [] if unit.name in names else pytest.mark.slow for unit in units}
    return pytest.mark.parametrize("unit", [pytest.param(unit, id=unit.name, marks=slow[unit]) for unit in units])


def of_size(size: jax.Array, dtype: jnp.dtype) -> dict[str, jax.Array]:
    return {name: jnp.full(shape, size).astype(dtype) for name, shape in SHAPES.items()}


@some_always(("adam",))
@pytest.mark.parametrize("grad_dtype", NARROW, ids=lambda dtype: f"{dtype.__name__} gradients")
@pytest.mark.parametrize("param_dtype", NARROW, ids=lambda dtype: f"{dtype.__name__} parameters")
def test_no_size_of_gradients_breaks_a_step(unit, param_dtype, grad_dtype):
    """Three steps, for all sizes at once: finite, zero only where the exact step vanishes, one type, one trace.

    Beyond 1e20 where updates do not grow like the gradients, as sums of them do.
    """
    info = jnp.finfo(grad_dtype)
    sizes = [size for size in SIZES if size == 0 or float(info.tiny) <= size <= float(info.max)]
    tx, weights = unit.make(), params(param_dtype)
    update, traces = unit.fed(tx), 0

    def step(size, weights, state):
        nonlocal traces
        traces += 1
        updates, state = update(of_size(size, grad_dtype), state, weights)
        return updates, gradtx.apply_updates(weights, updates), state

    steps = jax.jit(jax.vmap(step))
    state = tx.init(weights)
    each = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(sizes)), (weights, state))
    first = types(each)
    for _ in range(3):
        updates, *each = steps(jnp.asarray(sizes, jnp.float32), *each)
        assert types(tuple(each)) == first
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float32)}
        bounded = not any(size == 1e20 and grows(updates, index) for index, size in enumerate(sizes))
        counts = np.asarray([bounded or size <= 1e20 for size in sizes])
        for leaf in jax.tree.leaves((updates, each)):
            finite = np.isfinite(np.asarray(leaf, np.float64)).reshape(len(sizes), -1).all(axis=1)
            assert finite[counts].all(), np.asarray(sizes)[counts & ~finite]
    assert traces == 1
    for index, size in enumerate(sizes):
        if unit.oracle is not None and size > 0:
            exact = exact_steps(unit, float(jnp.asarray(size, grad_dtype)), 3)
            if exact >= 4 * float(jnp.finfo(jnp.float32).tiny):
                assert np.all(np.asarray(updates["b"][index]) != 0), size


def grows(updates: dict[str, jax.Array], index: int) -> bool:
    """Whether updates of the gradients 1e20, which stand at ``index``, are of such a size."""
    return any(np.any((abs(leaf[index]) > 1e16) & (abs(leaf[index]) < 1e24)) for leaf in updates.values())


RATES = np.geomspace(1e-6, 1.0, 64).astype(np.float32)


@some_always(("sgd, momentum", "adam", "adamw"), [unit for unit in RECIPES if "learning_rate" in unit.numbers])
def test_64_learning_rates_in_one_program_are_64_runs(unit):
    """Two steps under ``vmap`` over the state of ``tunable``, and over optimizers made of a traced rate."""
    grads, weights = [gradients(seed=seed, domain=unit.domain) for seed in range(2)], params()

    def run(tx, state):
        after, update = weights, unit.fed(tx)
        for grad in grads:
            updates, state = update(grad, state, after)
            after = gradtx.apply_updates(after, updates)
        return after

    tx = gradtx.tunable(unit.make, learning_rate=float(RATES[0]))
    states = jax.vmap(lambda rate: gradtx.set_hyperparameters(tx.init(weights), learning_rate=rate))(RATES)
    at_once = jax.jit(jax.vmap(functools.partial(run, tx)))(states)

    def made(rate):
        one = unit.make(learning_rate=rate)
        return run(one, one.init(weights))

    made_at_once = jax.jit(jax.vmap(made))(RATES)
    alone = jax.jit(made)
    for index in (0, 31, 63):
        expected = alone(RATES[index])
        for found in (at_once, made_at_once):
            assert_close(jax.tree.map(lambda leaf, index=index: leaf[index], found), expected)
