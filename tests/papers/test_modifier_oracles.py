"""The oracles of methods since Adam by hand; our recipes, on matrices too; Optax where it has the same."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from tests.papers import modifier_oracles as oracles
from tests.papers.modifier_oracles import ORACLES
from tests.papers.running import RATE, assert_within, drawn, exact_updates, titled, updates_in_float32

RECIPES = (
    ("stable_adamw", {"weight_decay": 0.1}),
    ("adam_atan2", {"a": 1.0, "b": 0.5}),
    ("adam_mini", {}),
    ("adamc", {"max_learning_rate": 0.1, "weight_decay": 0.1}),
    ("laprop", {"weight_decay": 0.1}),
    ("qhm", {}),
    ("aggmo", {"betas": (0.0, 0.9, 0.99)}),
    ("came", {"weight_decay": 0.1}),
    ("schedule_free_sgd", {}),
    ("schedule_free_adamw", {"weight_decay": 0.1}),
)


@pytest.fixture(scope="module")
def problem():
    return drawn(np.logspace(-2.0, 1.0, 4))


@pytest.mark.parametrize("recipe", RECIPES, ids=titled)
def test_our_recipe_takes_the_steps_of_the_paper(recipe, problem):
    name, arguments = recipe
    gradients, param = problem
    exact = exact_updates(ORACLES[name], gradients, param, learning_rate=RATE, **arguments)
    assert_within(64, updates_in_float32(getattr(gradtx, name)(RATE, **arguments), gradients, param), exact)


# ---------------------------------------------------------------------------------------------------------------------
# By hand.


def test_the_surprise_shortens_the_whole_step_of_stable_adamw():
    """Gradients 1, then 3, with decays 0 and 1/2: v^ = (1/6 + 9 * 1/3 ...) = 19/3, RMS^2 = 27/19."""
    arguments = {"learning_rate": 1.0, "b1": 0.0, "b2": 0.5, "eps": 0.0, "weight_decay": 1.0}
    _, state = oracles.stable_adamw({}, np.ones(1), np.zeros(1), 1, **arguments)
    update, _ = oracles.stable_adamw(state, np.full(1, 3.0), np.full(1, 2.0), 2, **arguments)
    rms = np.sqrt(27 / 19)
    np.testing.assert_allclose(update, -(rms + 2.0) / rms, rtol=1e-14)


def test_caution_doubles_what_is_left_of_half():
    base = functools.partial(oracles.qhm, learning_rate=1.0, nu=1.0, beta=0.5)
    _, state = oracles.cautious({}, np.array([8.0, 2.0]), None, 1, base=base)
    update, _ = oracles.cautious(state, np.array([-2.0, 2.0]), None, 2, base=base)
    np.testing.assert_array_equal(update, [0.0, -3.0])


WARM = np.minimum(np.arange(20) / 10, 0.5)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("rates", [np.full(20, 0.5), WARM, 1.0 - WARM], ids=["constant", "warm-up", "decay"])
def test_the_average_from_schedule_free_is_the_mean_of_z(rates, power):
    """Weighted by the largest rate so far to the power; plain at a constant rate, whatever b1 is."""
    gradients = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    schedule = functools.partial(jnp.take, jnp.asarray(rates, jnp.float32))
    tx = gradtx.schedule_free(gradtx.sgd(schedule), schedule, b1=0.75, weight_lr_power=power)
    params = start = jnp.asarray([1.0, -2.0, 3.0])
    state = tx.init(params)
    for g in gradients:
        updates, state = tx.update(jnp.asarray(g), state, params)
        params = gradtx.apply_updates(params, updates)
    z = start - np.cumsum(rates[:, None] * gradients, axis=0)
    x = np.average(z, axis=0, weights=np.maximum.accumulate(rates) ** power)
    np.testing.assert_allclose(gradtx.averaged_params(state, params), x, rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Blocks and factors of matrices.

MATRIX = np.random.default_rng(0).normal(size=(10, 4, 3)) * np.logspace(-1, 1, 3)


def on_a_leaf(tx, gradients, path="kernel"):
    params, found = {path: jnp.ones(gradients.shape[1:])}, []
    state, update = tx.init(params), jax.jit(tx.update)
    for g in gradients:
        updates, state = update({path: jnp.asarray(g, jnp.float32)}, state, params)
        found.append(np.asarray(updates[path]))
    return np.stack(found), state


def exact_on_a_leaf(oracle, gradients, **arguments):
    return exact_updates(oracle, gradients.astype(np.float32), np.ones(gradients.shape[1:]), **arguments)


@pytest.mark.parametrize(
    ("where", "shape", "axes"),
    [({}, (4, 3), (0,)), ({"rows": "*"}, (4, 3), (1,)), ({}, (2, 2, 3), (0,)), ({"heads": "*"}, (2, 2, 3), (0, 2)),
     ({}, (3, 2, 1, 2), (0, 1, 2))],
    ids=["units", "rows", "units of heads", "heads", "image kernel"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::gradtx.combinators.UnusedLabelWarning")
def test_adam_mini_has_one_second_moment_for_each_block(where, shape, axes):
    gradients = MATRIX.reshape(10, *shape)
    exact = exact_on_a_leaf(oracles.adam_mini, gradients, learning_rate=RATE, axes=axes)
    ours, state = on_a_leaf(gradtx.adam_mini(RATE, **where), gradients)
    np.testing.assert_allclose(ours, exact, rtol=1e-5)
    kept = []
    gradtx.core.map_fields(lambda path, role, value: kept.extend(
        leaf.size for leaf in jax.tree.leaves(value) if path.endswith("mean_square")), state)  # fmt: skip
    assert kept == [12 // int(np.prod([shape[axis] for axis in axes]))]


def test_a_head_needs_three_axes():
    with pytest.raises(gradtx.errors.ShapeError, match=r"\(inputs, heads, size\).*'w'"):
        gradtx.adam_mini(RATE, heads="w").init({"w": jnp.ones((2, 2)), "b": jnp.ones(2)})


@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 3), (12,)], ids=str)
def test_came_takes_the_steps_of_the_paper(shape):
    gradients = MATRIX.reshape(10, *shape)
    exact = exact_on_a_leaf(oracles.came, gradients, learning_rate=RATE, b3=0.99)
    np.testing.assert_allclose(on_a_leaf(gradtx.came(RATE, b3=0.99), gradients)[0], exact, rtol=2e-5, atol=1e-6 * RATE)


def test_factors_of_squares_of_rank_one_are_all_of_them():
    g = np.outer([1.0, 2.0, 4.0], [1.0, 0.5])
    ours, _ = on_a_leaf(gradtx.factored_mean_square(0.9), np.stack([g, g]))
    np.testing.assert_allclose(ours[-1], 0.19 * g**2, rtol=1e-6)


def test_mars_bounds_the_norm_over_all_leaves():
    tx = gradtx.mars(gradtx.identity(), gamma=0.0)
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    updates, _ = tx.update(grads, tx.init(grads))
    np.testing.assert_allclose([updates["a"][0], updates["b"][0]], [0.6, 0.8], rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Against Optax.


WALK = 20  # steps: near the minimum Adam swings, and a swing enlarges the 200 eps that Optax's Adam is off


def walk(tx, average):
    """Parameters and their average along a run in which each gradient is taken at the parameters."""
    params = {"w": jnp.asarray(np.linspace(-2.0, 2.0, 8), jnp.float32)}
    state, update, found = tx.init(params), jax.jit(tx.update), []
    for _ in range(WALK):
        grads = jax.tree.map(jnp.sinh, params)
        updates, state = update(grads, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        found.append(np.stack([params["w"], average(state, params)["w"]]))
    return np.stack(found)


# Without a warm-up: there Optax weighs a step by the rate of the next one.
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("schedule_free_sgd", {"learning_rate": 0.1, "weight_decay": 0.1}),
        ("schedule_free_adamw", {"learning_rate": 0.1, "b1": 0.95, "weight_decay": 0.1}),
    ],
    ids=str,
)
def test_optax_takes_the_same_schedule_free_steps(name, arguments):
    ours = walk(getattr(gradtx, name)(**arguments), gradtx.averaged_params)
    theirs = walk(getattr(optax.contrib, name)(**arguments), optax.contrib.schedule_free_eval_params)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("reset_state", [False, True])
def test_optax_takes_the_same_lookahead_steps(reset_state):
    ours = walk(gradtx.lookahead(gradtx.adam(0.1), 4, 0.5, reset_state), gradtx.averaged_params)
    tx = optax.lookahead(optax.adam(0.1), 4, 0.5, reset_state)
    params = optax.LookaheadParams.init_synced(jnp.asarray(np.linspace(-2.0, 2.0, 8), jnp.float32))
    state, update, found = tx.init(params), jax.jit(tx.update), []
    for _ in range(WALK):
        updates, state = update(jnp.sinh(params.fast), state, params)
        params = optax.apply_updates(params, updates)
        found.append(np.stack([params.fast, params.slow]))
    np.testing.assert_allclose(ours, np.stack(found), rtol=0, atol=1e-5)


def test_optax_takes_the_same_sam_steps():
    gradient = jax.grad(loss := lambda params: jnp.sum(jnp.cosh(params)))
    ours, uphill = gradtx.sam(gradtx.sgd(0.1), rho=0.2), optax.chain(optax.contrib.normalize(), optax.sgd(0.2))
    theirs = optax.contrib.sam(optax.sgd(0.1), uphill, sync_period=2, opaque_mode=True)
    param = peer = jnp.asarray(np.linspace(-2.0, 2.0, 8), jnp.float32)
    state, their_state = ours.init(param), theirs.init(param)
    for _ in range(10):
        updates, state = ours.update(gradient(param), state, param, value_fn=loss)
        param = gradtx.apply_updates(param, updates)
        updates, their_state = theirs.update(gradient(peer), their_state, peer, grad_fn=lambda p, _: gradient(p))
        peer = optax.apply_updates(peer, updates)
        np.testing.assert_allclose(param, peer, rtol=1e-5)


def test_a_zero_gradient_is_no_step_of_sam():
    tx = gradtx.sam(gradtx.sgd(0.1))
    params = jnp.zeros(3)
    updates, _ = tx.update(jnp.zeros(3), tx.init(params), params, value_fn=lambda p: jnp.sum(p**2))
    np.testing.assert_array_equal(updates, np.zeros(3))
