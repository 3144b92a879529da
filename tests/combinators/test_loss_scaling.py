"""Claims about the dynamic scale of a loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors


def run(tx, gradients, params=None):
    """The parameters after steps with the gradients of the scaled loss, the state, and the scales in use."""
    params = jnp.zeros(2) if params is None else params
    state, scales, update = tx.init(params), [], jax.jit(tx.update)
    for gradient in gradients:
        scale = gradtx.loss_scale(state)
        scales.append(float(scale))
        updates, state = update((scale * jnp.asarray(gradient, jnp.float32)).astype(params.dtype), state, params)
        params = gradtx.apply_updates(params, updates)
    return params, state, [*scales, float(gradtx.loss_scale(state))]


GOOD, BAD = np.ones(2, np.float32), np.full(2, np.inf, np.float32)


def test_the_scale_doubles_after_a_period_of_good_steps_and_halves_after_a_bad_one():
    tx = gradtx.dynamic_loss_scale(gradtx.sgd(0.5), initial_scale=8.0, period=3)
    params, state, scales = run(tx, [GOOD, GOOD, BAD, GOOD, GOOD, GOOD, GOOD, BAD, BAD])
    assert scales == [8, 8, 8, 4, 4, 4, 8, 8, 4, 2]
    assert params.tolist() == [-3.0, -3.0]  # six good steps
    assert (int(state.skipped), int(state.consecutive)) == (3, 2)


def test_the_scale_never_goes_below_its_floor_and_then_the_check_raises():
    tx = gradtx.dynamic_loss_scale(gradtx.sgd(0.5), initial_scale=4.0, min_scale=2.0, max_consecutive=4)
    _, state, scales = run(tx, [BAD] * 4)
    assert scales == [4, 2, 2, 2, 2]
    with pytest.raises(errors.SkippedStepsError, match="fewer than 4"):
        gradtx.check_skipped(state)


def test_the_scale_stays_where_its_inverse_is_a_normal_number():
    tx = gradtx.dynamic_loss_scale(gradtx.sgd(0.5), initial_scale=2.0**125, period=1)
    _, _, scales = run(tx, [np.zeros(2)] * 4)
    assert scales == [2.0**125, 2.0**126, 2.0**126, 2.0**126, 2.0**126]


def test_float16_gradients_that_vanish_are_seen():
    tiny = np.full(2, 2.0**-26, np.float32)  # zero in float16
    params = jnp.zeros(2, jnp.float16)
    (moved, _, _), (still, _, _) = (
        run(tx, [tiny], params)
        for tx in (gradtx.dynamic_loss_scale(gradtx.scale(-(2.0**20))), gradtx.scale(-(2.0**20)))
    )
    assert moved.tolist() == [-(2.0**-6)] * 2
    assert still.tolist() == [0.0, 0.0]


def test_a_run_with_a_scale_is_the_run_without_it():
    gradients = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    inner = gradtx.adamw(0.1)
    scaled, state, _ = run(gradtx.dynamic_loss_scale(inner, initial_scale=64.0, period=2), gradients)
    plain, _, _ = run(inner, gradients)
    np.testing.assert_allclose(scaled, plain, rtol=1e-5)
    assert int(state.skipped) == 0


def test_the_signal_grad_is_unscaled_too():
    def update(updates, state, params=None, *, grad):
        return jax.tree.map(lambda u, g: u - g, updates, grad), state

    tx = gradtx.dynamic_loss_scale(gradtx.GradientTransformation(lambda params: (), update), initial_scale=8.0)
    updates, _ = tx.update(GOOD, tx.init(jnp.zeros(2)), grad=jnp.asarray(GOOD))
    assert not np.any(updates)


def test_the_scale_is_found_in_any_container_of_states():
    tx = gradtx.chain(gradtx.dynamic_loss_scale(gradtx.sgd(0.1), initial_scale=4.0))
    assert float(gradtx.loss_scale({"opt": tx.init(jnp.zeros(2))})) == 4.0
    assert float(gradtx.loss_scale(None)) == 1.0
