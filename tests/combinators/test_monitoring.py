"""Claims about numbers of one's own that a chain measures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx.training import create_train_state, from_plain, make_train_step

GRADIENTS = [jnp.array([3.0, 4.0]), jnp.array([0.3, 0.4]), jnp.array([6.0, 8.0])]


def run(tx, gradients=tuple(GRADIENTS)):
    state, states = tx.init(jnp.zeros(2)), []
    for gradient in gradients:
        _, state = jax.jit(tx.update)(gradient, state)
        states.append(state)
    return states


def is_long(updates):
    return gradtx.global_norm(updates) > 1.0


def test_a_measure_sees_what_the_parts_before_it_made():
    tx = gradtx.chain(
        gradtx.snapshot("before", gradtx.global_norm),
        gradtx.clip_by_global_norm(1.0),
        gradtx.snapshot("after", gradtx.global_norm),
    )
    for state, before, after in zip(run(tx), (5.0, 0.5, 10.0), (1.0, 0.5, 1.0), strict=True):
        found = gradtx.metrics(state)
        assert list(found) == ["before", "after"]
        np.testing.assert_allclose([found["before"], found["after"]], [before, after], rtol=1e-6)


@pytest.mark.parametrize("debias", [True, False])
def test_averages_are_those_of_optax(debias):
    ours = run(gradtx.monitor({"mean": gradtx.measure_with_ema(gradtx.global_norm, 0.9, debias=debias)}))
    theirs = optax.monitor({"mean": optax.measure_with_ema(optax.tree.norm, 0.9, debias=debias)})
    state = theirs.init(jnp.zeros(2))
    for our_state, gradient in zip(ours, GRADIENTS, strict=True):
        _, state = theirs.update(gradient, state)
        expected = optax.tree.get(state, "mean")
        np.testing.assert_allclose(gradtx.tree.get(our_state, "mean"), expected, rtol=1e-6)


def test_an_average_of_truth_values_is_a_share():
    state = run(gradtx.monitor({"share": gradtx.measure_with_ema(is_long, 0.5)}))[-1]
    np.testing.assert_allclose(gradtx.metrics(state)["share"], (0.25 * 1 + 0.5 * 0 + 1) / 1.75, rtol=1e-6)
    last = run(gradtx.monitor({"share": gradtx.measure_with_ema(is_long, 0.0)}))[-1]
    assert float(gradtx.metrics(last)["share"]) == 1.0


def test_what_is_no_scalar_is_kept_too():
    tx = gradtx.monitor({"last": lambda updates: updates, "both": lambda u: {"sum": jnp.sum(u), "n": 2}})
    state = run(tx)[-1]
    assert gradtx.tree.get(state, "last").tolist() == [6.0, 8.0]
    assert float(gradtx.tree.get(state, "both")["sum"]) == 14.0
    assert gradtx.metrics(state) == {}


def test_updates_pass_bit_for_bit_and_the_state_is_zero_at_first():
    tx = gradtx.monitor({"norm": gradtx.global_norm, "long": is_long})
    state = tx.init(jnp.zeros(2))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state))
    updates, after = tx.update(GRADIENTS[0], state)
    assert updates.tolist() == GRADIENTS[0].tolist()
    assert after.measured["long"].dtype == jnp.bool_ and bool(after.measured["long"])


def test_a_name_that_occurs_twice_gets_its_path():
    tx = gradtx.chain(gradtx.snapshot("n", gradtx.global_norm), gradtx.scale(2.0), gradtx.snapshot("n", is_long))
    assert sorted(gradtx.metrics(run(tx)[-1])) == ["snapshot/n", "snapshot_2/n"]


def test_measures_with_a_memory_of_any_origin():
    counter = (lambda params: jnp.int32(0), lambda updates, state, params=None: (state + 1, state + 1))
    theirs = optax.measure_with_ema(optax.tree.norm, 0.5)
    state = run(gradtx.monitor({"calls": counter, "mean": tuple(theirs), "u": gradtx.ema(0.5)}))[-1]
    assert int(gradtx.tree.get(state, "calls")) == 3
    assert gradtx.metrics(state).keys() == {"calls", "mean"}
    assert gradtx.tree.get(state, "u").shape == (2,)


def test_a_train_step_reports_what_is_measured():
    tx = gradtx.chain(gradtx.snapshot("my_norm", gradtx.global_norm), gradtx.sgd(0.1))
    step = make_train_step(from_plain(lambda w, batch: jnp.sum((w - batch) ** 2)), gradtx.watch(tx))
    _, metrics = step(create_train_state(jnp.zeros(2), tx := gradtx.watch(tx), key=jax.random.key(0)), jnp.ones(2))
    np.testing.assert_allclose(metrics["my_norm"], 2 * np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(metrics["my_norm"], metrics["gradient_norm"], rtol=1e-4)
