"""Optax's transformations as parts of this library's chains and combinators."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors
from tests.clients.problem import assert_identical, assert_trained_alike, loss, params, trained
from tests.laws.trees import types

pytestmark = pytest.mark.filterwarnings("error")

PARTS = {
    "adabelief": optax.adabelief(1e-2),
    "adadelta": optax.adadelta(1.0),
    "adafactor": optax.adafactor(1e-2),
    "adamw": optax.adamw(1e-2),
    "adan": optax.adan(1e-2),
    "centralize": optax.chain(optax.centralize(), optax.scale(-0.1)),
    "clip_by_block_rms": optax.chain(optax.clip_by_block_rms(0.1), optax.scale(-0.1)),
    "cocob": optax.contrib.cocob(),
    "inject_hyperparams": optax.inject_hyperparams(optax.adamw)(1e-2),
    "lamb": optax.lamb(1e-2),
    "lars": optax.lars(1e-2),
    "lbfgs": optax.lbfgs(1e-2, linesearch=None),
    "lion": optax.lion(1e-2),
    "MultiSteps": optax.MultiSteps(optax.adam(1e-2), 2).gradient_transformation(),
    "muon": optax.contrib.muon(1e-2),
    "noise": optax.chain(optax.add_noise(0.1, 0.1, key=0), optax.scale(-0.1)),
    "novograd": optax.novograd(1e-2),
    "prodigy": optax.contrib.prodigy(),
    "schedule_free": optax.contrib.schedule_free_sgd(1e-2),
    "sm3": optax.sm3(1e-2),
    "trace": optax.chain(optax.trace(0.9), optax.scale(-0.1)),
}
every_part = pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())


def around(part):
    """A part of Optax's between parts of ours."""
    return gradtx.chain(gradtx.scale(1.0), part, gradtx.scale(1.0))


@every_part
def test_a_part_gives_the_same_steps_inside_a_chain(part):
    ours, state = trained(around(part), gradtx.apply_updates)
    theirs, expected = trained(part, optax.apply_updates)
    assert_trained_alike(ours, theirs, params())
    assert jax.tree.structure([leaf for name in state for leaf in jax.tree.leaves(state[name])]) == jax.tree.structure(
        jax.tree.leaves(expected)
    )


@every_part
def test_a_part_sees_float32_when_parameters_and_gradients_are_narrow(part):
    tx = around(part)
    for param_dtype in (jnp.float32, jnp.bfloat16):
        for grad_dtype in (jnp.float32, jnp.bfloat16):
            weights, grads = params(param_dtype), params(grad_dtype)
            state = jax.eval_shape(tx.init, weights)
            updates, after = jax.eval_shape(tx.update, grads, state, weights)
            assert types(after) == types(state)
            dtypes = {
                leaf.dtype for leaf in jax.tree.leaves((state, updates)) if jnp.issubdtype(leaf.dtype, jnp.inexact)
            }
            assert dtypes == {jnp.dtype(jnp.float32)}


def test_bfloat16_parameters_train_with_an_optax_part():
    tx = gradtx.chain(
        optax.clip_by_global_norm(1.0), optax.scale_by_adam(), optax.add_decayed_weights(0.1), gradtx.scale(-0.1)
    )
    weights, state = params(jnp.bfloat16), tx.init(params(jnp.bfloat16))
    step = jax.jit(lambda grads, state, weights: tx.update(grads, state, weights))
    before = loss(weights)
    for _ in range(5):
        updates, state = step(jax.grad(loss)(weights), state, weights)
        weights = gradtx.apply_updates(weights, updates)
    assert loss(weights) < before
    assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {jnp.dtype(jnp.bfloat16)}


def test_a_wide_update_of_a_narrow_parameter_is_rounded_once():
    """Decay in float32 of a bfloat16 parameter, whose exact product bfloat16 cannot hold."""
    tx = gradtx.chain(optax.add_decayed_weights(0.1), gradtx.scale(1.0))
    weights = jnp.array([1.0078125], jnp.bfloat16)
    updates, _ = tx.update(jnp.zeros(1, jnp.bfloat16), tx.init(weights), weights)
    np.testing.assert_array_equal(updates, np.float32(0.1) * np.float32(1.0078125))


SEARCHES = {
    "backtracking": lambda: optax.scale_by_backtracking_linesearch(max_backtracking_steps=10, store_grad=True),
    "zoom": lambda: optax.scale_by_zoom_linesearch(max_linesearch_steps=10),
}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())
def test_a_line_search_of_optax_gets_its_signals(search):
    ours, theirs = gradtx.chain(gradtx.sgd(1.0), search()), optax.chain(optax.sgd(1.0), search())

    def run(tx):
        weights, state, losses = params(), tx.init(params()), []
        before = jax.tree.structure(state)
        update = jax.jit(lambda g, s, w, v: tx.update(g, s, w, value=v, grad=g, value_fn=loss))
        for _ in range(3):
            value, grads = jax.value_and_grad(loss)(weights)
            updates, state = update(grads, state, weights, value)
            weights = optax.apply_updates(weights, updates)
            losses.append(float(value))
        assert jax.tree.structure(state) == before
        return weights, losses

    (weights, losses), (expected, _) = run(ours), run(theirs)
    assert_trained_alike(weights, expected, params())
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())
def test_a_line_search_of_optax_is_traced_once(search):
    tx, traces = gradtx.chain(gradtx.sgd(1.0), search()), 0

    @jax.jit
    def step(weights, state):
        nonlocal traces
        traces += 1
        value, grads = jax.value_and_grad(loss)(weights)
        updates, state = tx.update(grads, state, weights, value=value, grad=grads, value_fn=loss)
        return gradtx.apply_updates(weights, updates), state

    weights, state = params(), tx.init(params())
    for _ in range(3):
        weights, state = step(weights, state)
    assert traces == 1


def test_lbfgs_with_its_own_search_minimises_as_in_optax():
    def run(tx):
        weights, state = params(), tx.init(params())
        for _ in range(3):
            value, grads = jax.value_and_grad(loss)(weights)
            updates, state = tx.update(grads, state, weights, value=value, grad=grads, value_fn=loss)
            weights = optax.apply_updates(weights, updates)
        return weights

    ours, theirs = run(gradtx.chain(optax.lbfgs())), run(optax.lbfgs())
    assert_trained_alike(ours, theirs, params())


def test_a_missing_signal_of_an_optax_part_is_named():
    tx = gradtx.chain(gradtx.clip(1.0), optax.scale_by_backtracking_linesearch(3))
    with pytest.raises(errors.SignalError, match="scale_by_backtracking_linesearch needs the signal"):
        tx.update(params(), tx.init(params()), params())


def test_polyak_steps_see_the_value():
    ours, theirs = gradtx.chain(optax.polyak_sgd(max_learning_rate=0.1)), optax.polyak_sgd(max_learning_rate=0.1)
    for value in (0.01, 1e3):
        expected, _ = theirs.update(params(), theirs.init(params()), params(), value=value)
        actual, _ = ours.update(params(), ours.init(params()), params(), value=value)
        assert_trained_alike(actual, expected, jax.tree.map(lambda leaf: leaf + 1.0, params()))


def test_only_the_parts_that_take_any_signal_get_unknown_ones():
    """A part of Optax's takes any signal; parts of ours beside it get what they declare."""
    plateau = optax.contrib.reduce_on_plateau(patience=1)
    tx = gradtx.chain(gradtx.clip(1.0), plateau, gradtx.sgd(0.1))
    tx.update(params(), tx.init(params()), params(), value=jnp.float32(1.0), anything=3)
    strict = gradtx.chain(gradtx.clip(1.0), optax.adam(1e-3))
    strict.update(params(), strict.init(params()), params(), value=jnp.float32(1.0))


COMBINATIONS = {
    "partition": (
        lambda tx: gradtx.partition({"a": tx, "b": gradtx.sgd(0.1)}, {"hidden": "a", "head": "b"}),
        lambda tx: optax.partition({"a": tx, "b": optax.sgd(0.1)}, {"hidden": "a", "head": "b"}),
    ),
    "masked": (
        lambda tx: gradtx.chain(gradtx.masked(tx, {"hidden": False, "head": True}), gradtx.scale(0.1)),
        lambda tx: optax.chain(optax.masked(tx, {"hidden": False, "head": True}), optax.scale(0.1)),
    ),
    "only": (
        lambda tx: gradtx.chain(gradtx.only(tx, "*kernel"), gradtx.ema(0.0)),
        lambda tx: optax.partition(
            {True: tx, False: optax.set_to_zero()}, lambda p: jax.tree.map(lambda x: x.ndim > 1, p)
        ),
    ),
    "ratio": (
        lambda tx: gradtx.chain(gradtx.ratio(tx, gradtx.chain(gradtx.mean_square(0.0), gradtx.square_root()), eps=1.0)),
        lambda tx: optax.GradientTransformation(
            tx.init,
            lambda g, s, p=None: (lambda u, s: (jax.tree.map(lambda a, b: a / (abs(b) + 1.0), u, g), s))(
                *tx.update(g, s, p)
            ),
        ),
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), COMBINATIONS.values(), ids=COMBINATIONS.keys())
@pytest.mark.parametrize(
    "part", [optax.adam(1e-2), optax.trace(0.5), optax.clip_by_global_norm(0.1)], ids=["adam", "trace", "clip"]
)
def test_a_combinator_of_ours_combines_parts_of_optax(ours, theirs, part):
    weights, state = trained(ours(part), gradtx.apply_updates)
    expected, _ = trained(theirs(part), optax.apply_updates)
    for a, b, start in zip(*map(jax.tree.leaves, (weights, expected, params())), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b - start).max() + 1e-6)
    assert types(state) == types(ours(part).init(params()))


@pytest.mark.parametrize(
    "constructor", [optax.adamw, optax.sgd, optax.rmsprop], ids=lambda constructor: constructor.__name__
)
def test_an_optax_constructor_is_tunable(constructor):
    tx, traces = gradtx.tunable(constructor, learning_rate=1e-3), 0

    @jax.jit
    def update(grads, state, weights):
        nonlocal traces
        traces += 1
        return tx.update(grads, state, weights)

    state = tx.init(params())
    for rate in (1e-3, 2e-2):
        state = gradtx.set_hyperparameters(state, learning_rate=rate)
        updates, after = update(params(), state, params())
        fixed = constructor(rate)
        expected, _ = jax.jit(fixed.update)(params(), fixed.init(params()), params())
        for a, b in zip(*map(jax.tree.leaves, (updates, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)
        assert gradtx.hyperparameters(after) == {"learning_rate": jnp.float32(rate)}
    assert traces == 1


def test_an_optax_schedule_is_a_schedule():
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 6)
    ours, _ = trained(gradtx.adamw(schedule, weight_decay=0.1), gradtx.apply_updates)
    theirs, _ = trained(optax.adamw(schedule, weight_decay=0.1), optax.apply_updates)
    assert_trained_alike(ours, theirs, params())
    tuned, state = trained(gradtx.tunable(optax.adamw, learning_rate=schedule, weight_decay=0.1), gradtx.apply_updates)
    assert_trained_alike(tuned, theirs, params())
    assert gradtx.hyperparameters(state) == {"weight_decay": jnp.float32(0.1)}


def test_the_state_of_an_optax_part_stands_under_its_name():
    tx = gradtx.chain(optax.clip_by_global_norm(1.0), optax.trace(0.9), optax.trace(0.5), optax.adamw(1e-3))
    assert list(tx.init(params())) == ["clip_by_global_norm", "trace", "trace_2", "chain"]
    named = gradtx.named_chain(("clip", optax.clip_by_global_norm(1.0)), ("step", optax.adamw(1e-3)))
    assert list(named.init(params())) == ["clip", "step"]


def test_storage_refuses_the_state_of_an_optax_part_by_name():
    with pytest.raises(errors.LayoutError, match="the foreign part"):
        gradtx.storage.stored(gradtx.chain(optax.scale_by_adam()), gradtx.storage.cast(jnp.bfloat16))


def test_masked_leaves_that_are_none_pass_through_optax_parts():
    weights = {**params(), "frozen": None}
    tx = around(optax.adamw(1e-2))
    updates, state = tx.update(weights, tx.init(weights), weights)
    assert updates["frozen"] is None
    assert types(state) == types(tx.init(weights))


def test_an_optax_part_survives_donation_in_a_chain():
    tx = around(optax.adamw(1e-2))

    def one(weights, state):
        updates, state = tx.update(jax.grad(loss)(weights), state, weights)
        return gradtx.apply_updates(weights, updates), state

    step = jax.jit(one, donate_argnums=(0, 1))
    weights = params()
    state = tx.init(weights)
    for _ in range(3):
        weights, state = step(weights, state)
    kept = params()
    expected, expected_state = kept, tx.init(kept)
    for _ in range(3):
        expected, expected_state = jax.jit(one)(expected, expected_state)
    assert_identical((weights, state), (expected, expected_state))
