"""Averages: found in any state, in the parameters' dtypes, and behind any selection of leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors
from tests.laws.trees import params

AVERAGES = {
    "exponential": gradtx.exponential_average(gradtx.sgd(0.1), decay=0.5),
    "uniform": gradtx.uniform_average(gradtx.sgd(0.1)),
    "lookahead": gradtx.lookahead(gradtx.sgd(0.1), 2, 0.5),
    "schedule-free": gradtx.schedule_free(gradtx.sgd(0.1), 0.1, b1=0.5),
    "primal": gradtx.primal_average(gradtx.sgd(0.1), mu_x=0.5, mu_y=0.5),
}
every_average = pytest.mark.parametrize("tx", AVERAGES.values(), ids=AVERAGES.keys())


def stepped(tx, weights, count=3):
    state, update = tx.init(weights), jax.jit(tx.update)
    for _ in range(count):
        updates, state = update(jax.tree.map(jnp.ones_like, weights), state, weights)
        weights = gradtx.apply_updates(weights, updates)
    return state, weights


@every_average
def test_the_average_is_between_start_and_end(tx):
    state, weights = stepped(tx, params())
    average = gradtx.averaged_params(state, weights)
    for start, mean, end in zip(*map(jax.tree.leaves, (params(), average, weights)), strict=True):
        assert np.all((end < start) & (mean < start) & (mean > end - 0.2))


@every_average
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_average_has_the_dtype_of_the_parameters(tx, dtype):
    state, weights = stepped(tx, params(dtype))
    assert {leaf.dtype for leaf in jax.tree.leaves(gradtx.averaged_params(state, weights))} == {jnp.dtype(dtype)}


@every_average
def test_before_the_first_step_the_average_is_the_parameters(tx):
    weights = params()
    average = gradtx.averaged_params(tx.init(weights), weights)
    jax.tree.map(np.testing.assert_array_equal, average, weights)


@every_average
def test_the_average_survives_the_donation_of_the_state(tx):
    weights = params()
    state = tx.init(weights)
    average = gradtx.averaged_params(state, weights)
    jax.jit(lambda state, weights: jax.tree.map(lambda x: x + 1, (state, weights)), donate_argnums=(0, 1))(
        state, jax.tree.map(jnp.copy, weights)
    )
    assert np.all(np.isfinite(average["w"]))


@every_average
def test_leaves_that_are_left_out_come_back_as_they_are(tx):
    weights = {**params(), "table": jnp.arange(3)}
    trained = gradtx.only(tx, lambda path, leaf: path in "ws")
    state = trained.init(weights)
    grads = {name: jnp.ones_like(leaf) for name, leaf in weights.items()}
    updates, state = trained.update(grads, state, weights)
    after = gradtx.apply_updates(weights, updates)
    average = gradtx.averaged_params(state, after)
    for name in ("b", "table"):
        np.testing.assert_array_equal(average[name], weights[name])
    assert average["table"].dtype == weights["table"].dtype


def test_the_average_is_around_an_optimizer_that_leaves_leaves_out():
    weights = {**params(), "table": jnp.arange(3)}
    tx = gradtx.exponential_average(gradtx.only(gradtx.sgd(0.1), "[wbs]"), decay=0.5)
    updates, state = tx.update({name: jnp.ones_like(leaf) for name, leaf in weights.items()}, tx.init(weights), weights)
    average = gradtx.averaged_params(state, gradtx.apply_updates(weights, updates))
    np.testing.assert_allclose(average["w"], weights["w"] - 0.05, rtol=1e-6)
    np.testing.assert_array_equal(average["table"], weights["table"])


@pytest.mark.parametrize("whole", [gradtx.identity(), gradtx.clip_by_global_norm(9.0)], ids=["leaves", "tree"])
def test_two_groups_with_averages_of_their_own_make_one(whole):
    rules = {"a": gradtx.chain(whole, AVERAGES["exponential"]), "b": AVERAGES["schedule-free"]}
    tx = gradtx.partition(rules, lambda path, leaf: "ab"[path == "w"])
    state, weights = stepped(tx, params(), count=1)
    average = gradtx.averaged_params(state, weights)
    np.testing.assert_allclose(average["b"], params()["b"] - 0.05, rtol=1e-6)
    np.testing.assert_allclose(average["w"], params()["w"] - 0.1, rtol=1e-6)


def test_the_average_is_found_inside_optax():
    tx = optax.chain(optax.clip(1.0), optax.GradientTransformation(*AVERAGES["exponential"]))
    state, weights = stepped(tx, params(), count=1)
    np.testing.assert_allclose(gradtx.averaged_params(state, weights)["b"], params()["b"] - 0.05, rtol=1e-6)


def test_an_average_is_kept_in_a_layout():
    tx = gradtx.storage.stored(AVERAGES["schedule-free"], gradtx.storage.cast(jnp.bfloat16))
    state, weights = stepped(tx, params())
    exact = gradtx.averaged_params(*stepped(AVERAGES["schedule-free"], params()))
    average = gradtx.averaged_params(state, weights)
    np.testing.assert_allclose(average["w"], exact["w"], atol=1e-3)


def test_a_state_without_an_average_says_how_to_get_one():
    with pytest.raises(errors.StructureError, match=r"exponential_average\(adam"):
        gradtx.averaged_params(gradtx.adam(1e-3).init(params()), params())


def test_two_averages_of_one_leaf_are_refused_with_both_paths():
    tx = gradtx.uniform_average(AVERAGES["exponential"])
    with pytest.raises(errors.StructureError, match=r"one average of a leaf, got those at .*the top.* of the state"):
        gradtx.averaged_params(tx.init(params()), params())


def test_a_state_of_other_parameters_is_refused():
    state = AVERAGES["uniform"].init(params())
    with pytest.raises(errors.StructureError, match=r"'b'.*other parameters"):
        gradtx.averaged_params(state, {"w": params()["w"]})


def test_a_reset_forgets_moments_and_keeps_schedules():
    tx = gradtx.lookahead(gradtx.sgd(lambda step: 1.0 / (1.0 + step), momentum=0.9), 2, 0.5, reset_state=True)
    state, _ = stepped(tx, params(), count=2)
    fields = {}
    gradtx.core.map_fields(lambda path, role, value: fields.update({path: value}), state)
    assert np.all(fields["inner/inner/scale_by_momentum/momentum"]["w"] == 0)
    assert fields["inner/step"] == 2


def test_value_fn_must_be_a_function_that_returns_one_number():
    tx = gradtx.sam(gradtx.sgd(0.1))
    weights = params()
    for value_fn, words in ((1.0, "a function of the parameters"), (lambda p: p["b"], "one real number")):
        with pytest.raises(errors.SignalError, match=words):
            tx.update(weights, tx.init(weights), weights, value_fn=value_fn)
