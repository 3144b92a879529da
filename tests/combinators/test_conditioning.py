"""Claims about transformations that are called at some steps only."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors

GRADIENTS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)


def run(tx, **signals):
    state, emitted, update = tx.init(jnp.zeros(3)), [], jax.jit(tx.update)
    for gradient in GRADIENTS:
        updates, state = update(jnp.asarray(gradient), state, **signals)
        emitted.append(np.asarray(updates))
    return np.stack(emitted), state


@pytest.mark.parametrize("name", ["conditionally_transform", "conditionally_mask"])
def test_the_inner_transformation_runs_at_some_steps_as_in_optax(name):
    def is_odd(step):
        return step % 2 == 1

    ours, state = run(getattr(gradtx, name)(gradtx.sgd(0.1, 0.9), is_odd))
    theirs, _ = run(getattr(optax, name)(optax.sgd(0.1, 0.9), is_odd))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert int(state.step) == 6
    np.testing.assert_allclose(ours[1], -0.1 * GRADIENTS[1], rtol=1e-6)
    np.testing.assert_allclose(ours[3], -0.1 * (0.9 * GRADIENTS[1] + GRADIENTS[3]), rtol=1e-6)
    left = GRADIENTS[0] if name == "conditionally_transform" else np.zeros(3)
    np.testing.assert_array_equal(ours[0], left)


def test_a_schedule_within_counts_its_own_calls():
    seen = []

    def rate(step):
        seen.append(step)
        return 1.0 / (1 + step)

    emitted, _ = run(gradtx.conditionally_mask(gradtx.sgd(rate), lambda step: step >= 4))
    np.testing.assert_allclose(emitted[4:], -GRADIENTS[4:] / [[1], [2]], rtol=1e-6)


@pytest.mark.parametrize("make", [gradtx.conditionally_transform, gradtx.conditionally_mask])
def test_the_condition_may_see_the_signals(make):
    tx = make(gradtx.sgd(1.0), lambda step, value, **others: value < 1.0, forward_extra_args=True)
    for value, is_done in ((0.5, True), (2.0, False)):
        emitted, _ = run(tx, value=value)
        assert np.array_equal(emitted, -GRADIENTS) == is_done


def test_costly_work_is_branched_around():
    def update(updates, state, params=None):
        return updates @ jnp.ones((3, 3)), state

    tx = gradtx.conditionally_mask(gradtx.GradientTransformation(lambda params: (), update), lambda step: step % 2 == 0)
    text = jax.jit(tx.update).lower(jnp.zeros(3), tx.init(jnp.zeros(3))).as_text()
    assert "stablehlo.case" in text or "stablehlo.if" in text
    emitted, _ = run(tx)
    np.testing.assert_allclose(emitted[0], GRADIENTS[0] @ np.ones((3, 3)), rtol=1e-5)
    assert not np.any(emitted[1])


@pytest.mark.parametrize("given", [lambda step: None, lambda step: 1, lambda step: step, lambda step: jnp.ones(2) > 0])
def test_a_condition_that_gives_no_boolean_is_named(given):
    tx = gradtx.conditionally_mask(gradtx.sgd(0.1), given)
    with pytest.raises(errors.ArgumentTypeError, match="must return one boolean"):
        tx.update(jnp.zeros(3), tx.init(jnp.zeros(3)))


def test_a_python_boolean_will_do():
    emitted, _ = run(gradtx.conditionally_mask(gradtx.sgd(1.0), lambda step: False))
    assert not np.any(emitted)
