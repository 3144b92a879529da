"""An Equinox loop, with models that hold functions and with closures rebuilt as pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors
from tests.clients.problem import INPUTS, TARGETS, assert_identical, assert_trained_alike
from tests.laws.trees import types

eqx = pytest.importorskip("equinox")

pytestmark = pytest.mark.filterwarnings("error")


class Network(eqx.Module):
    layers: tuple
    table: jax.Array
    activation: object

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.layers = (eqx.nn.Linear(3, 4, key=first), eqx.nn.Linear(4, 2, use_bias=False, key=second))
        self.table = jnp.arange(4)
        self.activation = jnp.tanh

    def __call__(self, inputs):
        return self.layers[1](self.activation(self.layers[0](inputs))[self.table])


def model_loss(model):
    return jnp.mean((jax.vmap(model)(INPUTS) - TARGETS) ** 2)


def arrays(model):
    return eqx.filter(model, eqx.is_inexact_array)


def trained(tx, apply_updates, steps=4):
    model = Network(jax.random.key(0))
    state = tx.init(arrays(model))

    @eqx.filter_jit
    def step(model, state):
        _, grads = eqx.filter_value_and_grad(model_loss)(model)
        updates, state = tx.update(grads, state, arrays(model))
        return apply_updates(model, updates), state

    before = types(state)
    for _ in range(steps):
        model, state = step(model, state)
    assert types(state) == before
    return arrays(model)


OPTIMIZERS = {
    "adamw": gradtx.adamw(1e-2, weight_decay=0.1),
    "clipped": gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(lambda step: 1e-2)),
    "tunable": gradtx.tunable(gradtx.adamw, learning_rate=1e-2),
    "only": gradtx.only(gradtx.adam(1e-2), "layers/0/*"),
    "stored": gradtx.storage.stored(gradtx.adam(1e-2), gradtx.storage.cast("bfloat16", rounding="stochastic")),
    "with Optax's parts": gradtx.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), gradtx.scale(-1e-2)),
}
every_optimizer = pytest.mark.parametrize("tx", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


@every_optimizer
def test_both_ways_to_apply_updates_give_the_same_model(tx):
    model = Network(jax.random.key(0))
    updates, _ = jax.jit(tx.update)(arrays(Network(jax.random.key(1))), tx.init(arrays(model)), arrays(model))
    moving, still = eqx.partition(model, eqx.is_inexact_array)
    combined = eqx.combine(gradtx.apply_updates(moving, updates), still)
    assert_identical(arrays(eqx.apply_updates(model, updates)), arrays(combined))
    assert combined.activation is model.activation


def test_a_model_trains_as_with_optax():
    ours = trained(gradtx.adamw(1e-2, weight_decay=0.1), eqx.apply_updates)
    theirs = trained(optax.adamw(1e-2, weight_decay=0.1), eqx.apply_updates)
    assert_trained_alike(ours, theirs, arrays(Network(jax.random.key(0))))


def test_a_frozen_part_of_the_model_is_none_in_gradients_and_parameters():
    model, tx = Network(jax.random.key(0)), gradtx.adamw(1e-2)
    trains = jax.tree.map(eqx.is_inexact_array, model)
    trains = eqx.tree_at(lambda tree: tree.layers[0].weight, trains, replace=False)
    moving, still = eqx.partition(model, trains)
    grads = jax.grad(lambda moving: model_loss(eqx.combine(moving, still)))(moving)
    updates, _ = tx.update(grads, tx.init(moving), moving)
    assert updates.layers[0].weight is None and updates.layers[0].bias.shape == (4,)
    after = eqx.apply_updates(model, updates)
    assert after.layers[0].weight is model.layers[0].weight


@pytest.mark.parametrize("name", ["adamw", "clipped", "tunable", "stored"])
def test_a_model_with_a_function_in_it_is_refused_with_its_path_and_the_line_to_write(name):
    model = eqx.nn.MLP(2, 2, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    with pytest.raises(errors.DtypeError, match="at 'activation'") as caught:
        OPTIMIZERS[name].init(model)
    assert "eqx.filter(model, eqx.is_inexact_array)" in str(caught.value)


@every_optimizer
def test_a_state_is_serialised_and_restored(tx, tmp_path):
    grads = arrays(Network(jax.random.key(1)))
    weights = arrays(Network(jax.random.key(0)))
    _, state = jax.jit(tx.update)(grads, tx.init(weights), weights)
    eqx.tree_serialise_leaves(tmp_path / "state.eqx", state)
    restored = eqx.tree_deserialise_leaves(tmp_path / "state.eqx", tx.init(weights))
    assert_identical(restored, state)
    assert_identical(jax.jit(tx.update)(grads, restored, weights), jax.jit(tx.update)(grads, state, weights))


@every_optimizer
def test_a_transformation_rebuilt_as_a_pytree_still_works(tx):
    rebuilt = eqx.internal.closure_to_pytree(tx)
    assert not hasattr(rebuilt.update, "__gradtx__")
    assert_identical(trained(rebuilt, eqx.apply_updates), trained(tx, eqx.apply_updates))


@every_optimizer
def test_a_rebuilt_transformation_may_be_an_argument_of_a_compiled_step(tx):
    @eqx.filter_jit
    def step(tx, grads, state, weights):
        return tx.update(grads, state, weights, value=jnp.float32(0.0))

    weights = arrays(Network(jax.random.key(0)))
    expected = jax.jit(tx.update)(weights, tx.init(weights), weights)
    rebuilt = eqx.internal.closure_to_pytree(tx)
    assert_identical(step(rebuilt, weights, rebuilt.init(weights), weights), expected)


def test_an_array_learning_rate_is_not_baked_into_a_compiled_step():
    @eqx.filter_jit
    def step(tx, grads):
        return tx.update(grads, tx.init(grads), grads)[0]

    grads = {"w": jnp.ones(3)}
    for constructor in (gradtx.adam, gradtx.sgd, gradtx.adamw, gradtx.rmsprop):
        for rate in (1e-3, 2e-3, 4e-3):
            for make in (jnp.asarray, np.asarray):
                tx = eqx.internal.closure_to_pytree(constructor(make(rate, "float32")))
                expected = constructor(rate).update(grads, constructor(rate).init(grads), grads)[0]
                np.testing.assert_allclose(step(tx, grads)["w"], expected["w"], rtol=1e-6)


def test_a_traced_learning_rate_reaches_a_compiled_step_within_the_trace():
    """A solver that is made inside a compiled, mapped or differentiated function, from an argument of that function."""

    @eqx.filter_jit
    def inner(tx, weights):
        def body(carry, _):
            weights, state = carry
            updates, state = tx.update(2.0 * weights, state, weights)
            return (eqx.apply_updates(weights, updates), state), None

        return jax.lax.scan(body, (weights, tx.init(weights)), length=3)[0][0]

    def outer(rate):
        return inner(eqx.internal.closure_to_pytree(gradtx.sgd(rate)), jnp.ones(()))

    rates = jnp.array([0.1, 0.2])
    expected = (1.0 - 2.0 * rates) ** 3
    np.testing.assert_allclose([jax.jit(outer)(rate) for rate in rates], expected, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(outer)(rates), expected, rtol=1e-5)
    np.testing.assert_allclose([jax.grad(outer)(rate) for rate in rates], -6.0 * (1.0 - 2.0 * rates) ** 2, rtol=1e-5)


def test_an_ensemble_trains_under_filter_vmap():
    tx = gradtx.adamw(1e-2)
    models = eqx.filter_vmap(Network)(jax.random.split(jax.random.key(0), 3))

    @eqx.filter_vmap
    def step(model):
        updates, state = tx.update(eqx.filter_grad(model_loss)(model), tx.init(arrays(model)), arrays(model))
        return eqx.apply_updates(model, updates), state

    after, state = step(models)
    assert state["scale_by_adam"].denominator["bias_correction"].step.shape == (3,)
    alone = jax.tree.map(lambda leaf: leaf[1], arrays(models))
    grads = eqx.filter_grad(model_loss)(eqx.combine(alone, Network(jax.random.key(0))))
    updates, _ = tx.update(grads, tx.init(alone), alone)
    expected = gradtx.apply_updates(alone, updates)
    for a, b in zip(jax.tree.leaves(arrays(after)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a[1], b, rtol=0, atol=1e-5)
