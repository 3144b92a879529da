"""Claims about guards: a bad step changes nothing, is counted, and is reported."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors
from tests.papers import guard_oracles as oracles

RANDOM = np.random.default_rng(0)
PARAMS = {"w": jnp.asarray(RANDOM.normal(size=(3, 2)), jnp.float32), "b": jnp.array([-0.0, 1.0])}


def gradients(seed, scale=1.0):
    random = np.random.default_rng(seed)
    return {name: jnp.asarray(scale * random.normal(size=leaf.shape), jnp.float32) for name, leaf in PARAMS.items()}


GOOD = [gradients(seed) for seed in range(5)]


def run(tx, grads, params=PARAMS, jit=True):
    state, update = tx.init(params), jax.jit(tx.update) if jit else tx.update
    for gradient in grads:
        updates, state = update(gradient, state, params)
        params = gradtx.apply_updates(params, updates)
    return params, state


def assert_same_bits(actual, expected):
    def same(a, b):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()

    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(same, actual, expected)


def foreign_product():
    """Costly work, which is computed once: an average of products."""

    def update(updates, state, params=None):
        new = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * (jnp.ones((g.shape[0],) * 2) @ g), state, updates)
        return jax.tree.map(lambda m: -0.1 * m, new), new

    return gradtx.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


INNER = {
    "adamw with schedules": gradtx.adamw(lambda step: 0.1 / (1 + step), weight_decay=lambda step: 0.1),
    "clip, adam, Optax": gradtx.chain(gradtx.clip_by_global_norm(1.0), optax.adam(0.1)),
    "amsgrad": gradtx.amsgrad(0.1),
    "products": foreign_product(),
    "tunable": gradtx.tunable(gradtx.sgd, learning_rate=0.1, momentum=0.9),
    "partition": gradtx.partition({"a": gradtx.adam(0.1), "b": gradtx.sgd(0.1, 0.9)}, {"w": "a", "b": "b"}),
    "noise": gradtx.chain(gradtx.sgd(0.1), gradtx.add_noise(0.1, 0.5, 0)),
}


# skip_nonfinite


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
def test_the_run_is_bit_for_bit_the_one_without_the_bad_batch(inner, jit):
    tx = gradtx.skip_nonfinite(inner)
    bad = [GOOD[0] | {"b": jnp.array([1.0, value])} for value in (jnp.nan, jnp.inf)]
    params, state = run(tx, [*bad[:1], *GOOD[:2], *bad, *GOOD[2:]], jit=jit)
    expected, without = run(tx, GOOD, jit=jit)
    assert_same_bits(params, expected)
    assert_same_bits(state.inner, without.inner)
    assert (int(state.skipped), int(state.consecutive)) == (3, 0)
    assert {name: bool(bad) for name, bad in state.judge.bad_leaves.items()} == {"b": True, "w": False}


def test_a_guard_changes_no_good_step():
    inner = gradtx.adamw(0.1, weight_decay=0.1)
    (params, state), (expected, without) = run(gradtx.skip_nonfinite(inner), GOOD), run(inner, GOOD)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.inner, without)


def test_an_update_that_is_not_finite_is_left_out_although_the_gradient_is():
    def update(updates, state, params=None):
        return jax.tree.map(lambda g: 1.0 / (g - 1.0), updates), state

    tx = gradtx.skip_nonfinite(gradtx.GradientTransformation(lambda params: (), update))
    params, state = run(tx, [{"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}])
    assert_same_bits(params, PARAMS)
    assert bool(state.judge.bad_leaves["w"]) and not bool(state.judge.bad_leaves["b"])


def test_a_new_parameter_that_overflows_its_own_dtype_is_left_out():
    params = jnp.array([6e4], jnp.float16)
    moved, state = run(gradtx.skip_nonfinite(gradtx.sgd(1.0)), [jnp.array([-1e4], jnp.float16)], params)
    assert_same_bits(moved, params)
    assert int(state.skipped) == 1


def test_parameters_that_are_not_finite_are_found_out():
    params = {"w": jnp.full((3, 2), jnp.nan), "b": jnp.zeros(2)}
    _, state = run(gradtx.skip_nonfinite(gradtx.sgd(1.0)), GOOD[:2], params)
    assert (int(state.skipped), bool(state.judge.bad_leaves["w"])) == (2, True)


def test_nothing_that_is_not_finite_is_ever_accepted_as_optax_does_in_the_end():
    bad = [GOOD[0] | {"w": jnp.full((3, 2), jnp.nan)}] * 4
    params, _ = run(gradtx.skip_nonfinite(gradtx.sgd(0.1), max_consecutive=2), bad)
    assert_same_bits(params, PARAMS)
    params, _ = run(optax.apply_if_finite(optax.sgd(0.1), 2), bad)
    assert np.isnan(params["w"]).all()


def test_complex_leaves_are_seen_in_both_parts():
    params = jnp.ones(2, jnp.complex64)
    for bad in (jnp.array([1, complex(0.0, np.nan)]), jnp.array([1, complex(np.inf, 0.0)])):
        moved, state = run(gradtx.skip_nonfinite(gradtx.adam(0.1)), [bad.astype(jnp.complex64)], params)
        assert_same_bits(moved, params)
        assert int(state.skipped) == 1


def test_frozen_integers_go_along():
    tx = gradtx.skip_nonfinite(gradtx.only(gradtx.sgd(1.0), "w"))
    params = {"w": jnp.ones(2), "table": jnp.arange(3)}
    grads = {"w": jnp.ones(2), "table": np.zeros(3, jax.dtypes.float0)}
    updates, state = tx.update(grads, tx.init(params), params)
    assert gradtx.apply_updates(params, updates)["w"].tolist() == [0.0, 0.0]
    assert list(state.judge.bad_leaves) == ["w"]


def test_each_of_many_runs_is_judged_by_itself():
    tx = gradtx.skip_nonfinite(gradtx.adam(0.1), max_consecutive=1)
    params = jnp.ones((2, 3))
    states = jax.vmap(tx.init)(params)
    updates, states = jax.jit(jax.vmap(tx.update))(params.at[1].set(jnp.nan), states, params)
    assert states.skipped.tolist() == [0, 1]
    assert np.all(updates[0]) and not np.any(updates[1])
    with pytest.raises(errors.SkippedStepsError):
        gradtx.check_skipped(states)


def test_equal_leaves_are_traced_once():
    count = 0

    @gradtx.transformation(locality="elementwise")
    def counted():
        def twice(update):
            nonlocal count
            count += 1
            return 2.0 * update

        return gradtx.stateless(twice)

    tx = gradtx.skip_nonfinite(gradtx.chain(counted(), gradtx.ema(0.9)))
    params = {str(index): jnp.ones(100) for index in range(40)}
    lowered = jax.jit(tx.update).lower(params, tx.init(params), params)
    assert count == 1
    assert lowered.as_text().count("func.func private @inner") <= 2


# Counting and raising.


def test_the_check_raises_after_as_many_skipped_steps_in_a_row_as_allowed():
    tx = gradtx.chain(gradtx.clip(10.0), gradtx.skip_nonfinite(gradtx.sgd(0.1), max_consecutive=3))
    bad = GOOD[0] | {"w": jnp.full((3, 2), jnp.nan)}
    for grads in ([], GOOD, [bad, bad], [bad, bad, GOOD[0], bad]):
        gradtx.check_skipped(run(tx, grads)[1])
    _, state = run(tx, [bad, GOOD[0], bad, bad, bad])
    with pytest.raises(errors.SkippedStepsError) as caught:
        gradtx.check_skipped({"opt_state": state, "other": 1})
    for words in ("fewer than 3", "got 3 of 4", "at 'w'", "skip_nonfinite", "[skipped-steps]"):
        assert words in str(caught.value)
    assert isinstance(caught.value, FloatingPointError)
    assert int(gradtx.skipped_steps(state)) == 4


def test_a_state_without_guards_is_no_reason_to_raise():
    state = gradtx.adamw(0.1).init(PARAMS)
    gradtx.check_skipped(state)
    assert int(gradtx.skipped_steps(state)) == 0


# skip_large


def test_a_gradient_above_the_bound_is_left_out_as_optax_says():
    tx = gradtx.skip_large(gradtx.adamw(0.1), 4.0)
    for scale in (0.1, 1.0, 3.0, 100.0):
        grads = gradients(0, scale)
        skip, _ = optax.transforms.skip_large_updates(grads, 0, PARAMS, max_squared_norm=16.0)
        _, state = run(tx, [grads])
        assert int(state.skipped) == int(skip), scale


def test_a_spike_is_judged_by_the_norms_before_it():
    random = np.random.default_rng(0)
    norms = np.exp(random.normal(size=60) * 0.3)
    norms[[20, 40, 41, 50]] *= [20.0, 1000.0, 1000.0, 1e-3]
    tx = gradtx.skip_large(gradtx.sgd(0.1), deviations=3.0, decay=0.9, warmup=10)
    state, skipped, update = tx.init(jnp.zeros(4)), [], jax.jit(tx.update)
    for norm in norms:
        _, state = update(jnp.full(4, norm / 2, jnp.float32), state)
        skipped.append(int(state.skipped))
    expected = oracles.skip_large(norms, deviations=3.0, decay=0.9, warmup=10)
    assert np.diff([0, *skipped]).astype(bool).tolist() == expected
    assert {20, 40, 41} <= set(np.flatnonzero(expected))


def test_what_stays_large_is_accepted_after_a_while():
    tx = gradtx.skip_large(gradtx.sgd(0.1), deviations=3.0, decay=0.9, warmup=5)
    state, update = tx.init(jnp.zeros(4)), jax.jit(tx.update)
    for _ in range(20):
        _, state = update(jnp.ones(4), state)
    for _ in range(30):
        _, state = update(jnp.full(4, 50.0), state)
    assert 1 <= int(state.skipped) <= 15
    assert int(state.consecutive) == 0


@pytest.mark.parametrize("value", [0.0, jnp.nan, jnp.inf])
def test_norms_of_zero_and_of_nan_enter_no_statistics(value):
    tx = gradtx.skip_large(gradtx.sgd(0.1), deviations=3.0, warmup=2)
    state = run(tx, [jnp.ones(2), jnp.full(2, value)], jnp.zeros(2))[1]
    assert int(state.judge.step) == 1 and float(state.judge.log_mean) == pytest.approx(np.log(2) / 2)
    assert int(state.skipped) == (value != 0)


def test_a_bound_or_deviations_must_be_given():
    with pytest.raises(errors.ArgumentTypeError, match=r"skip_large\(tx, deviations=3.0\)"):
        gradtx.skip_large(gradtx.sgd(0.1))


def test_guards_nest():
    tx = gradtx.skip_nonfinite(gradtx.skip_large(gradtx.adamw(0.1), 1e3))
    _, state = run(tx, [*GOOD, gradients(0, 1e6), GOOD[0] | {"b": jnp.full(2, jnp.nan)}])
    assert int(gradtx.skipped_steps(state)) == 2
    assert int(state.inner.skipped) == 1


@pytest.mark.parametrize(
    "wrong", [None, 0.1, gradtx.sgd, [gradtx.sgd(0.1)]], ids=["None", "number", "function", "list"]
)
@pytest.mark.parametrize(
    "make",
    [gradtx.skip_nonfinite, functools.partial(gradtx.skip_large, max_norm=1.0), gradtx.dynamic_loss_scale,
     functools.partial(gradtx.accumulate, every=2),
     functools.partial(gradtx.conditionally_mask, should_transform_fn=lambda step: True)],
    ids=["skip_nonfinite", "skip_large", "dynamic_loss_scale", "accumulate", "conditionally_mask"],
)  # fmt: skip
def test_what_is_no_transformation_is_refused(make, wrong):
    with pytest.raises(errors.ArgumentTypeError, match=r"pair \(init, update\)"):
        make(wrong)
