"""Methods that find their learning rate, along a run on a small problem, beside the papers' equations and Optax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from tests.papers import learning_rate_free_oracles as oracles
from tests.papers import oracles as plain_oracles
from tests.papers.running import EPS, titled

STEPS = 60


def problem(dtype=np.float32):
    """A quadratic of condition 100 with noise in its gradients, and where it starts."""
    random = np.random.default_rng(0)
    shapes = {"w": (3, 2), "b": (4,)}
    curvature = {name: 10.0 ** random.uniform(-1, 1, size=shape) for name, shape in shapes.items()}
    params = {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    noise = [{name: 0.1 * random.normal(size=shape) for name, shape in shapes.items()} for _ in range(STEPS)]

    def value_and_grad(params, step):
        grads = {name: (curvature[name] * params[name] + noise[step][name]).astype(dtype) for name in params}
        value = sum(0.5 * np.sum(curvature[name] * params[name] ** 2) for name in params)
        return float(dtype(value)), grads

    return value_and_grad, params


def leaves(tree):
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


def compared(tx, oracle, *, takes_value=False, dtype=np.float32):
    """The largest error over the largest update of the run of ``tx``; the oracle sees the parameters of that run."""
    value_and_grad, params = problem(dtype)
    params = jax.tree.map(jnp.asarray, params)
    state, exact_state, update = tx.init(params), {}, jax.jit(tx.update)
    errors, sizes = [], []
    for step in range(STEPS):
        value, grads = value_and_grad(jax.tree.map(np.asarray, params), step)
        given = {"value": value} if takes_value else {}
        exact, exact_state = oracle(exact_state, leaves(grads), leaves(params), step + 1, **given)
        updates, state = update(grads, state, params, **given)
        sizes.append(max(np.max(np.abs(leaf)) for leaf in exact))
        errors.append(max(np.max(np.abs(a - b)) for a, b in zip(leaves(updates), exact, strict=True)))
        params = gradtx.apply_updates(params, updates)
    return max(errors) / max(sizes)


RECIPES = (
    ("polyak_sgd", {}),
    ("polyak_sgd", {"f_min": 0.5, "scaling": 0.5, "variant": "sps+", "max_learning_rate": 0.1}),
    ("dog", {"init_step": ("distance", 1e-2)}),
    ("dog", {"init_step": ("heuristic", 1e-2), "learning_rate": 0.5}),
    ("dog", {"init_step": ("learning_rate", 1e-3)}),
    ("dowg", {"init_estim_sq_dist": 1e-3}),
    ("dowg", {}),
    ("prodigy", {"estim_lr0": 1e-3, "bias_correction": False}),
    ("prodigy", {"estim_lr0": 1e-3, "weight_decay": 0.1, "bias_correction": True, "safeguard_warmup": True,
                 "learning_rate": 0.5, "beta3": 0.9}),
    ("dadapt_adamw", {"estim_lr0": 1e-3, "bias_correction": False}),
    ("dadapt_adamw", {"estim_lr0": 1e-3, "weight_decay": 0.1, "bias_correction": True, "learning_rate": 0.5}),
    ("momo", {}),
    ("momo", {"weight_decay": 0.1, "learning_rate": 0.2}),
    ("momo", {"lower_bound": -1.0, "adapt_lower_bound": True}),
    ("momo_adam", {"learning_rate": 1.0}),
    ("momo_adam", {"weight_decay": 0.1, "lower_bound": -1.0, "adapt_lower_bound": True}),
)  # fmt: skip
WITH_VALUE = {"polyak_sgd", "momo", "momo_adam"}


@pytest.mark.parametrize("recipe", RECIPES, ids=titled)
def test_our_recipe_takes_the_steps_of_the_paper(recipe):
    """Within 256 eps of the largest step: sums that cancel, such as those of MoMo's gap, have lost more than one."""
    name, arguments = recipe
    oracle = functools.partial(getattr(oracles, name), **arguments)
    assert compared(getattr(gradtx, name)(**arguments), oracle, takes_value=name in WITH_VALUE) <= 256 * EPS


@pytest.mark.parametrize("base", ["sgd", "adam"])
def test_mechanize_takes_the_steps_of_the_paper(base):
    tx = gradtx.sgd(1.0) if base == "sgd" else gradtx.adam(1.0)

    def step(state, g, p, t):
        single = functools.partial(getattr(plain_oracles, base), learning_rate=1.0)
        pairs = [single(part, a, b, t) for part, a, b in zip(state or [{}] * len(g), g, p, strict=True)]
        return [update for update, _ in pairs], [part for _, part in pairs]

    oracle = functools.partial(oracles.mechanize, base=step, s_init=1e-3)
    assert compared(gradtx.mechanize(tx, s_init=1e-3), oracle) <= 2048 * EPS


# Where Optax takes the paper's steps, in float64; the differences are named in the docstrings and below.
AS_OPTAX = (
    ("polyak_sgd", {}, {}),
    ("dog", {"init_step": ("distance", 1e-2)}, {}),
    ("dowg", {"init_estim_sq_dist": 1e-3}, {}),
    ("prodigy", {"estim_lr0": 1e-3, "weight_decay": 0.1, "eps": 0.0}, {"bias_correction": True}),
    ("momo", {}, {}),
    ("momo", {"lower_bound": -1.0, "adapt_lower_bound": True}, {}),
    ("momo_adam", {"learning_rate": 1.0, "lower_bound": -1.0, "adapt_lower_bound": True}, {}),
    ("cocob", {}, {}),
)


@pytest.mark.parametrize("recipe", AS_OPTAX, ids=titled)
def test_optax_takes_the_steps_of_the_paper(recipe):
    name, arguments, ours = recipe
    theirs = getattr(optax if name == "polyak_sgd" else optax.contrib, name)(**arguments)
    tx = getattr(gradtx, name)(**arguments, **ours)
    with jax.enable_x64(True):
        assert along_the_run_of(theirs, tx, takes_value=name in WITH_VALUE) <= 1e-6


def along_the_run_of(theirs, tx, *, takes_value):
    value_and_grad, params = problem(np.float64)
    params = jax.tree.map(jnp.asarray, params)
    their_state, state, errors, sizes = theirs.init(params), tx.init(params), [], []
    updates, their_updates = jax.jit(tx.update), jax.jit(theirs.update)
    for step in range(STEPS):
        value, grads = value_and_grad(jax.tree.map(np.asarray, params), step)
        given = {"value": value} if takes_value else {}
        exact, their_state = their_updates(jax.tree.map(jnp.asarray, grads), their_state, params, **given)
        found, state = updates(grads, state, params, **given)
        sizes.append(max(np.max(np.abs(leaf)) for leaf in leaves(exact)))
        errors.append(max(np.max(np.abs(a - b)) for a, b in zip(leaves(found), leaves(exact), strict=True)))
        params = optax.apply_updates(params, exact)
    return max(errors) / max(sizes)


def test_scaling_multiplies_the_polyak_step_and_does_not_divide_it():
    params, grads = jnp.zeros(2), jnp.array([6.0, 8.0])
    for scaling in (0.5, 1.0):
        tx, theirs = gradtx.polyak_sgd(scaling=scaling), optax.polyak_sgd(scaling=scaling)
        updates, _ = tx.update(grads, tx.init(params), params, value=25.0)
        their_updates, _ = theirs.update(grads, theirs.init(params), params, value=25.0)
        np.testing.assert_allclose(updates, scaling * np.array([-1.5, -2.0]), rtol=1e-6)
        np.testing.assert_allclose(their_updates, np.array([-1.5, -2.0]) / scaling, rtol=1e-6)


def test_the_momo_step_is_the_minimum_of_its_model_with_decay_and_optax_goes_too_far():
    """``max(tangent, 0) + decay / 2 |y|^2 + |y - p|^2 / 2 rate`` in one dimension, on a grid."""
    p, g, value, rate, decay = 2.0, 1.0, 3.0, 0.5, 1.0
    y = np.linspace(-1.0, 3.0, 400_001)
    best = y[np.argmin(np.maximum(value + g * (y - p), 0.0) + decay / 2 * y**2 + (y - p) ** 2 / 2 / rate)]
    ends = []
    for room in (gradtx, optax.contrib):
        tx = room.momo(rate, weight_decay=decay)
        params = jnp.array([p])
        ends.append(float(tx.update(jnp.array([g]), tx.init(params), params, value=value)[0][0]) + p)
    assert abs(ends[0] - best) < 1e-4 < abs(ends[1] - best)


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1e10, 1e29])
@pytest.mark.parametrize("name", ["dog", "dowg", "cocob", "prodigy", "dadapt_adamw"])
def test_steps_do_not_depend_on_the_size_of_the_gradients(name, size):
    """But for eps: a loss in other units has the same solution, at the same distance."""
    arguments = {"eps": 0.0} | ({"init_estim_sq_dist": 1e-4} if name == "dowg" else {})
    if name in ("prodigy", "dadapt_adamw"):
        size = float(np.clip(size, 1e-14, 1e14))  # squares of float32 vanish, or are limited, beyond
    tx = getattr(gradtx, name)(**arguments)
    params, found = jnp.array([1.0, -2.0]), []
    for factor in (1.0, size):
        state, x = tx.init(params), params
        for _ in range(3):
            updates, state = tx.update(jnp.float32(factor) * jnp.array([0.3, 0.7]) * x, state, x)
            x = x + updates
        found.append(updates)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


@pytest.mark.parametrize("name", ["dog", "dowg", "prodigy", "dadapt_adamw", "momo", "cocob", "mechanize"])
def test_the_solution_is_found_without_a_learning_rate(name):
    def loss(p):
        return 0.5 * jnp.sum((p - 3.0) ** 2)

    tx = gradtx.mechanize(gradtx.sgd(1.0)) if name == "mechanize" else getattr(gradtx, name)()

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return (gradtx.apply_updates(params, updates), state), None

    params = jnp.array([0.0, 1.0, -1.0])
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, length=3000))((params, tx.init(params)))
    assert loss(params) < 0.05
