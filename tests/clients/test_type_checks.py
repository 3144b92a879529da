"""Programs that look at an optimizer before they take it: tuples, unpacking, positional and standard arguments."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors
from tests.clients.problem import assert_identical, loss, params, trained
from tests.laws.table import UNITS
from tests.laws.trees import gradients
from tests.laws.trees import params as small_params

pytestmark = pytest.mark.filterwarnings("error")

every_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
WANT_MORE = {
    "noisy_sgd": "a key", "dpsgd": "a key", "adamc": "the largest rate", "lbfgs": "signals", "momo": "signals",
    "momo_adam": "signals", "polyak_sgd": "signals", "sophia": "signals",
}  # fmt: skip
every_recipe = pytest.mark.parametrize(
    "recipe",
    [getattr(gradtx.optimizers, name) for name in gradtx.optimizers.__all__ if name not in WANT_MORE],
    ids=lambda recipe: recipe.__name__,
)


@every_unit
def test_a_transformation_is_a_tuple_of_two_functions(unit):
    tx = unit.make()
    init, update = tx
    assert isinstance(tx, tuple) and len(tx) == 2 and callable(init) and callable(update)
    assert tx.init is init is tx[0] and tx.update is update is tx[1]
    assert isinstance(hash(tx), int)
    assert list(inspect.signature(update).parameters)[:3] == ["updates", "state", "params"]


@every_unit
def test_every_transformation_takes_the_signals_that_programs_give_to_all(unit):
    """What NumPyro, Optimistix and line-search loops hand to whatever optimizer they hold; it uses what it needs."""
    tx, weights, grads = unit.make(), small_params(), gradients(domain=unit.domain)
    state, update = tx.init(weights), unit.fed(tx)
    plain, _ = update(grads, state, weights)
    signals = {"value": jnp.float32(0.5), "grad": grads, "value_fn": lambda weights: jnp.float32(0.5)}
    given, _ = update(grads, state, weights, **{name: signals[name] for name in signals.keys() - unit.signals.keys()})
    assert_identical(given, plain)
    assert_identical(update(updates=grads, state=state, params=weights)[0], plain)
    assert_identical(update(grads, state, params=weights)[0], plain)


def optimizer_for_inference(transformation):
    """How a library of inference takes an optimizer of Optax's: by its type, carrying parameters in its own state."""
    if not isinstance(transformation, optax.GradientTransformation):
        raise TypeError("expected an optax.GradientTransformation")

    def init(weights):
        return jnp.array(0), (weights, transformation.init(weights))

    def update(grads, state, value):
        count, (weights, inner) = state
        updates, inner = transformation.update(grads, inner, weights, value=value)
        return count + 1, (optax.apply_updates(weights, updates), inner)

    return init, update


@every_recipe
def test_a_library_of_inference_that_checks_types_takes_every_recipe(recipe):
    tx = recipe(learning_rate=1e-2)
    init, update = optimizer_for_inference(optax.GradientTransformationExtraArgs(*tx))
    state = init(params())

    @jax.jit
    def step(state):
        value, grads = jax.value_and_grad(loss)(state[1][0])
        return update(grads, state, value)

    for _ in range(3):
        state = step(state)
    assert state[0] == 3
    expected, _ = trained(tx, gradtx.apply_updates, steps=3)
    for a, b in zip(*map(jax.tree.leaves, (state[1][0], expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@every_recipe
def test_a_fit_loop_scans_a_checked_transformation(recipe):
    """How a library of Gaussian processes fits: one scan with the state in the carry, unconstrained parameters."""
    tx = optax.GradientTransformation(*recipe(1e-2))
    assert isinstance(tx, optax.GradientTransformation)

    def step(carry, key):
        del key
        weights, state = carry
        value, grads = jax.value_and_grad(loss)(weights)
        updates, state = tx.update(grads, state, weights)
        return (optax.apply_updates(weights, updates), state), value

    keys = jax.random.split(jax.random.key(0), 5)
    _, history = jax.lax.scan(step, (params(), tx.init(params())), keys)
    assert history.shape == (5,) and history[-1] < history[0]


@every_recipe
def test_every_recipe_takes_its_rate_first_as_number_array_or_schedule(recipe):
    updates = []
    for rate in (1e-2, np.float32(1e-2), np.array(1e-2), jnp.float32(1e-2), lambda step: 1e-2):
        updates += [
            jax.tree.leaves(jax.jit(tx.update)(params(), tx.init(params()), params())[0])
            for tx in (recipe(rate), recipe(learning_rate=rate))
        ]
    for other in updates[1:]:
        for a, b in zip(updates[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_misspelt_signal_is_an_error_and_a_callers_own_signal_too():
    tx = gradtx.adamw(1e-2)
    with pytest.raises(errors.SignalError, match="value_fn"):
        tx.update(params(), tx.init(params()), params(), value_func=loss)
    with pytest.raises(errors.SignalError, match="'batch'"):
        tx.update(params(), tx.init(params()), params(), batch=params())


def test_optax_arithmetic_runs_on_our_updates_and_states():
    tx = gradtx.adamw(1e-2)
    updates, state = tx.update(params(), tx.init(params()), params())
    assert jnp.isfinite(optax.tree.norm(updates)) and jnp.isfinite(optax.tree.norm(state))
    assert_identical(optax.apply_updates(params(), updates), gradtx.apply_updates(params(), updates))
    optax.incremental_update(updates, params(), 0.5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32], ids=lambda dtype: dtype.__name__)
def test_both_ways_to_apply_updates_round_alike(dtype):
    tx = gradtx.adamw(1e-2)
    weights = params(dtype)
    updates, _ = tx.update(weights, tx.init(weights), weights)
    assert_identical(optax.apply_updates(weights, updates), gradtx.apply_updates(weights, updates))
