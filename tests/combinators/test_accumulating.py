"""Claims about one update from the mean gradient of several calls."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors

RANDOM = np.random.default_rng(0)
GRADIENTS = RANDOM.normal(size=(12, 5)).astype(np.float32)
PARAMS = jnp.asarray(RANDOM.normal(size=5), jnp.float32)


def run(tx, gradients, params=PARAMS, **signals):
    """The parameters after all calls, the state, and what was emitted."""
    state, emitted, update = tx.init(params), [], jax.jit(functools.partial(tx.update, **signals))
    for gradient in gradients:
        updates, state = update(jnp.asarray(gradient), state, params)
        params = gradtx.apply_updates(params, updates)
        emitted.append(updates)
    return params, state, emitted


def test_several_calls_are_one_call_with_the_mean_and_the_others_change_no_bit():
    inner = gradtx.adamw(lambda step: 0.1 / (1 + step), weight_decay=0.1)
    _, state, emitted = run(gradtx.accumulate(inner, 4), GRADIENTS)
    _, expected, means = run(inner, GRADIENTS.reshape(3, 4, 5).mean(1))
    for index, updates in enumerate(emitted):
        assert (index % 4 == 3) == bool(np.any(updates))
    np.testing.assert_allclose(emitted[3], means[0], rtol=1e-5)
    np.testing.assert_allclose(emitted[11], means[2], rtol=2e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7), state.inner, expected)
    assert (int(state.step), int(state.micro_step)) == (3, 0)


def test_a_negative_zero_among_the_parameters_stays_one():
    params, _, _ = run(gradtx.accumulate(gradtx.sgd(0.1), 2), GRADIENTS[:1], -0.0 * PARAMS**2)
    assert np.signbit(params).all()


def test_updates_agree_with_optax_where_it_is_right():
    ours, theirs = gradtx.accumulate(gradtx.sgd(0.1, 0.9), 3), optax.MultiSteps(optax.sgd(0.1, 0.9), 3)
    params, state, _ = run(ours, GRADIENTS)
    others, their_state, _ = run(theirs, GRADIENTS)
    np.testing.assert_allclose(params, others, rtol=1e-5)
    assert int(state.step) == int(their_state.gradient_step)


def test_a_gradient_that_is_not_finite_enters_no_mean_here_and_every_mean_in_optax():
    bad = np.insert(GRADIENTS, 1, np.nan, axis=0)
    tx = gradtx.accumulate(gradtx.adamw(0.1), 4)
    (params, state, _), (expected, _, _) = run(tx, bad), run(tx, GRADIENTS)
    np.testing.assert_array_equal(params, expected)
    assert (int(state.skipped), int(state.consecutive), int(state.step)) == (1, 0, 3)
    others, _, _ = run(optax.MultiSteps(optax.adamw(0.1), 4), bad)
    assert np.isnan(others).all()


def test_the_mean_of_many_equal_gradients_is_that_gradient():
    """A thousand times a third: a sum of them, divided at the end, is 3e-6 off."""
    tx = gradtx.accumulate(gradtx.scale(1.0), 1000)
    gradient = jnp.full(5, 1 / 3)

    def body(state, _):
        updates, state = tx.update(gradient, state)
        return state, updates

    _, updates = jax.jit(lambda state: jax.lax.scan(body, state, length=1000))(tx.init(PARAMS))
    np.testing.assert_array_equal(updates[-1], gradient)
    assert not np.any(updates[:-1])


def test_bfloat16_gradients_have_a_float32_mean_and_parameters_keep_their_dtype():
    tx = gradtx.accumulate(gradtx.sgd(1.0), 16)
    gradients = [jnp.full(5, value, jnp.bfloat16) for value in [1.0] + [2.0**-8] * 15]
    params = jnp.zeros(5, jnp.bfloat16)
    params, state, emitted = run(tx, gradients, params)
    assert params.dtype == jnp.bfloat16 and state.mean.dtype == jnp.float32
    np.testing.assert_allclose(emitted[-1], -(1.0 + 15 * 2.0**-8) / 16, rtol=1e-6)


def test_every_may_follow_the_updates_done():
    tx = gradtx.accumulate(gradtx.sgd(1.0), lambda step: jnp.where(step < 2, 1, 3))
    _, state, emitted = run(tx, GRADIENTS[:8])
    assert [bool(np.any(updates)) for updates in emitted] == [True, True, False, False, True, False, False, True]
    np.testing.assert_allclose(emitted[-1], -GRADIENTS[5:8].mean(0), rtol=1e-5)
    assert int(state.step) == 4


def test_a_schedule_below_one_or_with_fractions_counts_as_the_nearest_count():
    _, state, _ = run(gradtx.accumulate(gradtx.sgd(1.0), lambda step: -1.0), GRADIENTS)
    assert int(state.step) == 12
    _, state, _ = run(gradtx.accumulate(gradtx.sgd(1.0), lambda step: 2.9), GRADIENTS)
    assert int(state.step) == 4


def test_it_runs_in_scan_and_for_each_of_many_runs():
    tx = gradtx.accumulate(gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adam(0.1)), 3)
    _, expected, emitted = run(tx, GRADIENTS)

    def body(state, gradient):
        updates, state = tx.update(gradient, state, PARAMS)
        return state, updates

    scan = functools.partial(jax.lax.scan, body)
    state, updates = jax.jit(scan)(tx.init(PARAMS), GRADIENTS)
    np.testing.assert_allclose(updates, np.stack(emitted), rtol=1e-5, atol=1e-7)
    assert int(state.step) == int(expected.step) == 4
    one = gradtx.accumulate(gradtx.sgd(1.0), 2)
    states = jax.vmap(one.init)(jnp.zeros((2, 5)))
    gradients = jnp.stack([jnp.ones(5), jnp.full(5, jnp.nan)])
    _, states = jax.vmap(one.update)(gradients, states)
    assert states.micro_step.tolist() == [1, 0] and states.skipped.tolist() == [0, 1]


def test_costly_work_runs_only_where_the_mean_is_full():
    def update(updates, state, params=None):
        return jax.tree.map(lambda g: g @ jnp.ones((5, 5)), updates), state

    tx = gradtx.accumulate(gradtx.GradientTransformation(lambda params: (), update), 2)
    state = tx.init(PARAMS)
    text = jax.jit(tx.update).lower(PARAMS, state).as_text()
    assert "stablehlo.case" in text or "stablehlo.if" in text
    plain = gradtx.accumulate(gradtx.adamw(0.1), 2)
    text = jax.jit(plain.update).lower(PARAMS, plain.init(PARAMS), PARAMS).as_text()
    assert "stablehlo.case" not in text and "stablehlo.if" not in text
    np.testing.assert_allclose(run(tx, GRADIENTS[:2])[2][1], GRADIENTS[:2].mean(0) @ np.ones((5, 5)), rtol=1e-5)


def test_signals_reach_the_transformation():
    tx = gradtx.accumulate(gradtx.chain(gradtx.sgd(1.0), gradtx.reduce_on_plateau(patience=1, cooldown=0)), 2)
    _, state, _ = run(tx, GRADIENTS[:4], value=1.0)
    assert int(state.step) == 2
    with pytest.raises(errors.SignalError, match="reduce_on_plateau"):
        tx.update(PARAMS, tx.init(PARAMS))


def test_frozen_integers_go_along():
    tx = gradtx.accumulate(gradtx.only(gradtx.sgd(1.0), "w"), 2)
    params = {"w": jnp.ones(2), "table": jnp.arange(3)}
    grads = {"w": jnp.ones(2), "table": np.zeros(3, jax.dtypes.float0)}
    state = tx.init(params)
    for _ in range(2):
        updates, state = tx.update(grads, state, params)
        params = gradtx.apply_updates(params, updates)
    assert params["w"].tolist() == [0.0, 0.0] and params["table"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("given", [lambda step: None, lambda step: "4", lambda step: 1j])
def test_a_schedule_that_gives_no_number_is_named(given):
    tx = gradtx.accumulate(gradtx.sgd(1.0), given)
    with pytest.raises(errors.ArgumentTypeError, match="schedule must return one real number"):
        tx.update(PARAMS, tx.init(PARAMS))


def test_a_run_of_broken_gradients_is_reported():
    tx = gradtx.accumulate(gradtx.sgd(1.0), 2, max_consecutive=3)
    _, state, _ = run(tx, [np.full(5, np.nan)] * 2)
    gradtx.check_skipped(state)
    _, state, _ = run(tx, [np.full(5, np.nan)] * 3)
    with pytest.raises(errors.SkippedStepsError, match="fewer than 3"):
        gradtx.check_skipped(state)
