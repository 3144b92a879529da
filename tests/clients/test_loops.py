"""Loops that programs write around a pair of functions: bare, compiled, scanned, mapped, donated, static."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from tests.clients.problem import assert_identical, loss, params, trained
from tests.laws.trees import types

pytestmark = pytest.mark.filterwarnings("error")

OPTIMIZERS = {
    "sgd": gradtx.sgd(0.1, 0.9),
    "adam": gradtx.adam(1e-2),
    "adamw": gradtx.adamw(1e-2),
    "a schedule": gradtx.rmsprop(lambda step: 1e-2 / (1 + step)),
    "clipped": gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.amsgrad(1e-2)),
    "tunable": gradtx.tunable(gradtx.adamw, learning_rate=1e-2),
    "partition": gradtx.partition(
        {"a": gradtx.adam(1e-2), "b": gradtx.sgd(0.1, 0.9)}, lambda path, leaf: "ab"[leaf.ndim - 1]
    ),
    "with Optax's parts": gradtx.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), gradtx.scale(-1e-2)),
}
every_optimizer = pytest.mark.parametrize("tx", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


@pytest.mark.parametrize("name", ["sgd", "adam", "a schedule", "clipped", "partition", "with Optax's parts"])
def test_a_loop_may_leave_out_the_parameters(name):
    """The habit of Haiku programs: ``updates, state = tx.update(grads, state)``."""
    tx = OPTIMIZERS[name]

    @jax.jit
    def step(weights, state):
        updates, state = tx.update(jax.grad(loss)(weights), state)
        return optax.apply_updates(weights, updates), state

    weights = params()
    state = tx.init(weights)
    before = types(state)
    for _ in range(4):
        weights, state = step(weights, state)
    assert types(state) == before
    expected, _ = trained(tx, optax.apply_updates)
    for a, b in zip(*map(jax.tree.leaves, (weights, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "tx", [gradtx.adamw(1e-2), gradtx.tunable(gradtx.adamw, learning_rate=1e-2)], ids=["adamw", "tunable"]
)
def test_weight_decay_without_parameters_is_an_error_that_names_the_part(tx):
    with pytest.raises(
        ValueError, match=r"add_decayed_weights needs the parameters.*tx\.update\(grads, state, params\)"
    ):
        tx.update(params(), tx.init(params()))


@every_optimizer
def test_a_scan_over_steps_trains_as_single_steps(tx):
    def body(carry, _):
        weights, state = carry
        updates, state = tx.update(jax.grad(loss)(weights), state, weights)
        return (gradtx.apply_updates(weights, updates), state), loss(weights)

    (weights, state), losses = jax.jit(lambda carry: jax.lax.scan(body, carry, length=4))((params(), tx.init(params())))
    expected, expected_state = trained(tx, gradtx.apply_updates)
    assert types(state) == types(expected_state)
    assert losses[-1] < losses[0]
    for a, b in zip(*map(jax.tree.leaves, (weights, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@every_optimizer
def test_other_loops_of_jax_carry_the_state(tx):
    def one(carry):
        weights, state = carry
        updates, state = tx.update(jax.grad(loss)(weights), state, weights)
        return gradtx.apply_updates(weights, updates), state

    start = (params(), tx.init(params()))
    loops = (
        lambda carry: jax.lax.fori_loop(0, 3, lambda _, carry: one(carry), carry),
        lambda carry: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, one(c[1])), (0, carry))[1],
        lambda carry: jax.lax.cond(loss(carry[0]) > 0.0, one, lambda carry: carry, carry),
        jax.checkpoint(one),
    )
    for loop in loops:
        assert types(jax.eval_shape(loop, start)) == types(start)


def test_replicas_train_with_learning_rates_of_their_own_in_one_program():
    tx, rates = gradtx.tunable(gradtx.adamw, learning_rate=1e-2, weight_decay=0.1), jnp.array([1e-3, 1e-2, 1e-1])

    def run(rate):
        weights, state = params(), gradtx.set_hyperparameters(tx.init(params()), learning_rate=rate)
        for _ in range(3):
            updates, state = tx.update(jax.grad(loss)(weights), state, weights)
            weights = gradtx.apply_updates(weights, updates)
        return weights, state

    weights, state = jax.jit(jax.vmap(run))(rates)
    np.testing.assert_array_equal(gradtx.hyperparameters(state)["learning_rate"], rates)
    for index, rate in enumerate(rates):
        alone, _ = trained(gradtx.adamw(float(rate), weight_decay=0.1), gradtx.apply_updates, steps=3)
        for a, b in zip(*map(jax.tree.leaves, (weights, alone)), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=0, atol=1e-5)


def test_a_population_keeps_its_states_in_one_tree_with_a_leading_axis():
    tx = gradtx.tunable(gradtx.sgd, learning_rate=0.1, momentum=0.9)
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, 2.0 * leaf, 3.0 * leaf]), params())
    state = jax.vmap(tx.init)(members)
    state = gradtx.set_hyperparameters(state, learning_rate=jnp.array([0.0, 0.1, 0.2]))
    step = jax.jit(jax.vmap(lambda weights, state: tx.update(jax.grad(loss)(weights), state, weights)))
    updates, after = step(members, state)
    assert types(after) == types(state)
    assert not np.any(updates["head"]["kernel"][0]) and np.all(updates["head"]["kernel"][1])


@every_optimizer
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_no_state_shares_a_buffer_with_parameters_or_itself(tx, compiled):
    weights = params()
    state = jax.jit(tx.init)(weights) if compiled else tx.init(weights)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((weights, state))]
    assert len(set(buffers)) == len(buffers)


@every_optimizer
def test_parameters_and_state_are_donated_and_their_memory_is_used_again(tx):
    def one(weights, state):
        updates, state = tx.update(jax.grad(loss)(weights), state, weights)
        return gradtx.apply_updates(weights, updates), state

    step, weights = jax.jit(one, donate_argnums=(0, 1)), params()
    state = tx.init(weights)
    for _ in range(3):
        before = [leaf for leaf in jax.tree.leaves((weights, state)) if leaf.ndim]
        weights, state = step(weights, state)
        assert all(leaf.is_deleted() for leaf in before)
    expected, expected_state = trained(tx, gradtx.apply_updates, steps=3)
    assert types((weights, state)) == types((expected, expected_state))


def test_a_state_alone_is_donated_without_the_parameters():
    tx, weights = gradtx.adamw(1e-2), params()
    step, state = jax.jit(tx.update, donate_argnums=1), tx.init(params())
    for _ in range(3):
        _, state = step(weights, state, weights)
    assert state["scale_by_adam"].denominator["bias_correction"].step == 3


def test_recipes_and_schedules_are_static_arguments_that_do_not_trace_again_when_equal():
    traces = 0

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def step(tx, schedule, weights):
        nonlocal traces
        traces += 1
        updates, _ = tx.update(weights, tx.init(weights), weights)
        return jax.tree.map(lambda update: schedule(3) * update, updates)

    def recipe():
        return gradtx.chain(
            gradtx.clip_by_global_norm(1.0),
            gradtx.masked(gradtx.add_decayed_weights(0.1), "*kernel"),
            gradtx.ratio(gradtx.ema(0.9), gradtx.chain(gradtx.mean_square(0.99), gradtx.square_root()), eps=1e-6),
            gradtx.partition({"a": gradtx.sgd(0.1), "b": gradtx.adamw(1e-2)}, {"hidden": "a", "head": "b"}),
            gradtx.storage.stored(gradtx.sgd(0.1, 0.9), gradtx.storage.cast(jnp.bfloat16)),
        )

    for _ in range(2):
        step(recipe(), gradtx.schedules.cosine_decay_schedule(1e-3, 10), params())
    assert traces == 1
    step(gradtx.chain(recipe()), gradtx.schedules.cosine_decay_schedule(1e-3, 10), params())
    step(recipe(), gradtx.schedules.cosine_decay_schedule(1e-3, 11), params())
    assert traces == 3


def test_equal_recipes_share_one_compiled_update():
    grads, first = params(), jax.jit(gradtx.adamw(0.0123).update)
    first(grads, gradtx.adamw(0.0123).init(grads), grads)
    again = jax.jit(gradtx.adamw(0.0123).update)
    again(grads, gradtx.adamw(0.0123).init(grads), grads)
    assert again._cache_size() == 1


def test_numbers_of_different_types_are_different_recipes():
    """``1 == 1.0 == True`` must not hand out an optimizer made for another argument."""
    assert gradtx.scale(1) is not gradtx.scale(1.0)
    assert_identical(gradtx.scale(1).update(params(), gradtx.scale(1).init(params()))[0], params())


def test_a_program_is_lowered_ahead_of_time_and_run_later():
    tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-2))
    shapes = jax.eval_shape(lambda: (params(), tx.init(params()), params()))
    compiled = jax.jit(tx.update).lower(shapes[0], shapes[1], shapes[2]).compile()
    state = tx.init(params())
    assert_identical(compiled(params(), state, params()), jax.jit(tx.update)(params(), state, params()))
