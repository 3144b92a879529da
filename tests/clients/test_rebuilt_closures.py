"""Programs that rebuild functions from their code and cells lose the attributes; what is left must do the same."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from tests.clients.problem import assert_identical, params, trained

pytestmark = pytest.mark.filterwarnings("error")


def rebuilt(value):
    """A function, and every function in its cells, made anew; without attributes."""
    if not isinstance(value, types.FunctionType):
        return value
    cells = (
        None
        if value.__closure__ is None
        else tuple(types.CellType(rebuilt(c.cell_contents)) for c in value.__closure__)
    )
    copy = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
    copy.__kwdefaults__ = value.__kwdefaults__
    return copy


def remade(tx):
    return gradtx.GradientTransformation(*map(rebuilt, tx))


TRANSFORMATIONS = {
    "identity": gradtx.identity(),
    "freeze": gradtx.freeze("head*"),
    "adamw": gradtx.adamw(1e-2),
    "adamw with a schedule": gradtx.adamw(lambda step: 1e-2 / (1 + step)),
    "chain": gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adam(1e-2)),
    "partition": gradtx.partition(
        {"a": gradtx.adam(1e-2), "b": gradtx.sgd(0.1)}, lambda path, leaf: "ba"[leaf.ndim > 1]
    ),
    "tunable": gradtx.tunable(gradtx.adamw, learning_rate=1e-2),
    "stored": gradtx.storage.stored(gradtx.adam(1e-2), gradtx.storage.cast("bfloat16", rounding="stochastic")),
}
every_transformation = pytest.mark.parametrize("tx", TRANSFORMATIONS.values(), ids=TRANSFORMATIONS.keys())


@every_transformation
def test_a_rebuilt_transformation_trains_the_same(tx):
    copy = remade(tx)
    assert not vars(copy.update)
    assert_identical(trained(copy, gradtx.apply_updates), trained(tx, gradtx.apply_updates))


@every_transformation
def test_a_rebuilt_transformation_is_a_part_of_a_chain_as_a_foreign_one(tx):
    inside, _ = trained(gradtx.chain(gradtx.clip(1.0), remade(tx)), gradtx.apply_updates)
    expected, _ = trained(gradtx.chain(gradtx.clip(1.0), tx), gradtx.apply_updates)
    for a, b in zip(jax.tree.leaves(inside), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@every_transformation
def test_a_rebuilt_transformation_takes_standard_signals(tx):
    weights, copy = params(), remade(tx)
    copy.update(weights, copy.init(weights), weights, value=jnp.float32(1.0), grad=weights, value_fn=lambda p: 0.0)
    outer = gradtx.chain(copy, gradtx.scale(2.0))
    outer.update(weights, outer.init(weights), weights, value=jnp.float32(1.0), grad=weights)


def test_functions_of_wrappers_are_transformations_too():
    tx = gradtx.adamw(1e-2)

    @functools.wraps(tx.update)
    def update(updates, state, params=None, **signals):
        return tx.update(updates, state, params, **signals)

    wrapped = gradtx.GradientTransformation(functools.partial(tx.init), functools.partial(tx.update))
    for pair in (wrapped, gradtx.GradientTransformation(tx.init, update), optax.GradientTransformation(*tx)):
        inside, _ = trained(gradtx.chain(gradtx.clip(1.0), pair), gradtx.apply_updates)
        expected, _ = trained(gradtx.chain(gradtx.clip(1.0), tx), gradtx.apply_updates)
        for a, b in zip(jax.tree.leaves(inside), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_a_learning_rate_that_is_traced_is_an_argument_of_the_program():
    grads, traces = params(), 0

    @jax.jit
    def step(rate, grads):
        nonlocal traces
        traces += 1
        tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(rate))
        return tx.update(grads, tx.init(grads), grads)[0]

    for rate in (1e-3, 2e-3):
        tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(rate))
        expected, _ = jax.jit(tx.update)(grads, tx.init(grads), grads)
        for a, b in zip(jax.tree.leaves(step(jnp.float32(rate), grads)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
    assert traces == 1


def test_the_rate_of_a_traced_optimizer_can_be_differentiated():
    """What a learned learning rate needs: the loss after a step, differentiated by the rate of the step."""
    weights = jnp.array([1.0, 2.0])

    def after(rate):
        tx = gradtx.sgd(rate, 0.9)
        updates, _ = tx.update(2.0 * weights, tx.init(weights), weights)
        return jnp.sum(gradtx.apply_updates(weights, updates) ** 2)

    np.testing.assert_allclose(jax.grad(after)(0.1), 2.0 * (1 - 0.2) * -2.0 * 5.0, rtol=1e-6)


def test_two_arrays_of_equal_value_are_two_learning_rates():
    first, second = jnp.asarray(1e-3), jnp.asarray(2e-3)
    grads = params()
    updates = [tx.update(grads, tx.init(grads), grads)[0] for tx in (gradtx.sgd(first), gradtx.sgd(second))]
    for a, b in zip(*map(jax.tree.leaves, updates), strict=True):
        np.testing.assert_allclose(2.0 * a, b, rtol=1e-6)
