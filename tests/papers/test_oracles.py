"""The oracles say what the papers say, and our recipes, Optax and PyTorch say the same as the oracles."""

import math

import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest

import gradtx
from gradtx.core import map_fields
from tests.papers import oracles
from tests.papers.oracles import ORACLES
from tests.papers.running import (
    EPS,
    RATE,
    STEPS,
    assert_within,
    drawn,
    exact_updates,
    titled,
    updates_in_float32,
    updates_of_pytorch,
)

G = np.array([3.0, -0.25, 0.0])
NOTHING = np.zeros(3)


def first_step(name, g=G, p=NOTHING, **arguments):
    return ORACLES[name]({}, g, p, 1, **arguments)[0]


# ---------------------------------------------------------------------------------------------------------------------
# By hand.


def test_adam_starts_with_the_sign_of_the_gradient():
    """Kingma and Ba, section 2.1: without eps the first step is the step size, whatever the gradient's scale."""
    for scale in (1e-30, 1.0, 1e30):
        update = first_step("adam", scale * G, learning_rate=0.5, eps=0.0)
        np.testing.assert_allclose(update, [-0.5, 0.5, 0.0], rtol=1e-14)


def test_adam_by_hand_over_two_steps():
    update, state = oracles.adam({}, np.array([1.0]), None, 1, learning_rate=1.0, b1=0.5, b2=0.75, eps=0.0)
    update, state = oracles.adam(state, np.array([3.0]), None, 2, learning_rate=1.0, b1=0.5, b2=0.75, eps=0.0)
    mean = 0.5 * 0.5 * 1.0 + 0.5 * 3.0  # 1.75, over 1 - 1/4
    square = 0.75 * 0.25 * 1.0 + 0.25 * 9.0  # 2.4375, over 1 - 9/16
    assert state == {"mean": [mean], "mean_square": [square]}
    np.testing.assert_allclose(update, -(mean / 0.75) / math.sqrt(square / 0.4375), rtol=1e-15)


def test_adam_bounds_the_step_by_the_largest_ratio():
    """Kingma and Ba, section 2.1: a gradient after a long silence moves by (1 - b1) / sqrt(1 - b2) step sizes."""
    state = {}
    for t in range(1, 20_000):
        _, state = oracles.adam(state, np.zeros(1), None, t, learning_rate=1.0, eps=0.0)
    update, _ = oracles.adam(state, np.ones(1), None, 20_000, learning_rate=1.0, eps=0.0)
    np.testing.assert_allclose(update, -0.1 / math.sqrt(0.001), rtol=1e-8)


def test_amsgrad_keeps_the_step_small_after_a_large_gradient():
    arguments = {"learning_rate": 1.0, "b1": 0.0, "b2": 0.0, "eps": 0.0}
    _, state = oracles.amsgrad({}, np.array([4.0]), None, 1, **arguments)
    update, state = oracles.amsgrad(state, np.array([1.0]), None, 2, **arguments)
    assert (update, state["mean_square"], state["maximum"]) == (-0.25, 1.0, 16.0)


def test_adamw_decays_the_weight_beside_the_adaptive_step():
    update = first_step("adamw", NOTHING, np.array([2.0, -2.0, 0.0]), learning_rate=0.5, weight_decay=0.1)
    np.testing.assert_allclose(update, [-0.1, 0.1, 0.0], rtol=1e-15)


def test_adagrad_falls_like_the_root_of_time():
    state = {}
    for t in range(1, 101):
        update, state = oracles.adagrad(
            state, np.ones(1), None, t, learning_rate=1.0, initial_accumulator_value=0.0, eps=0.0
        )
        np.testing.assert_allclose(update, -1.0 / math.sqrt(t), rtol=1e-15)


def test_rmsprop_of_a_constant_gradient_ends_at_its_sign():
    state = {}
    for t in range(1, 1000):
        update, state = oracles.rmsprop(state, G, None, t, learning_rate=0.5, eps=0.0)
    np.testing.assert_allclose(update, [-0.5, 0.5, 0.0], rtol=1e-14)


def test_rmsprop_accumulates_steps_of_momentum():
    state, arguments = {}, {"learning_rate": 1.0, "decay": 0.0, "eps": 0.0, "momentum": 0.5}
    for t, expected in ((1, -1.0), (2, -1.5), (3, -1.75)):
        update, state = oracles.rmsprop(state, np.array([7.0]), None, t, **arguments)
        assert update == expected


def test_eps_stands_under_the_root_or_beside_it():
    arguments = {"decay": 0.0, "eps": 7.0}
    assert first_step("scale_by_rms", np.array([3.0]), **arguments) == 3.0 / 4.0
    assert first_step("scale_by_rms", np.array([3.0]), eps_in_sqrt=False, **arguments) == 3.0 / 10.0


def test_momentum_by_hand():
    heavy, nesterov = {}, {}
    for t, expected in ((1, (1.0, 1.5)), (2, (1.5, 1.75)), (3, (1.75, 1.875))):
        u, heavy = oracles.scale_by_momentum(heavy, np.ones(1), None, t, decay=0.5)
        v, nesterov = oracles.scale_by_momentum(nesterov, np.ones(1), None, t, decay=0.5, nesterov=True)
        assert (u, v) == expected


def test_nesterov_is_the_look_ahead_of_sutskever():
    """Their iterates theta, v with the gradient at theta + mu v; ours lives at theta + mu v."""
    rate, mu = 0.1, 0.9
    theta, velocity = np.array([1.0, -2.0]), np.zeros(2)
    ours, state = theta.copy(), {}
    for t in range(1, 20):
        velocity = mu * velocity - rate * (3.0 * (theta + mu * velocity))
        theta = theta + velocity
        update, state = oracles.sgd(state, 3.0 * ours, None, t, learning_rate=rate, momentum=mu, nesterov=True)
        ours = ours + update
        np.testing.assert_allclose(ours, theta + mu * velocity, rtol=1e-12)


def test_plain_mean_square_is_the_mean_over_all_steps():
    rng = np.random.default_rng(0)
    gradients, state = rng.normal(size=(50, 4)), {}
    for t, g in enumerate(gradients, 1):
        value, state = oracles.mean_square(state, g, None, t)
    np.testing.assert_allclose(value, np.mean(gradients**2, axis=0), rtol=1e-14)


@pytest.mark.parametrize("decay", (0.0, 0.1, 0.5, 0.9, 0.999, 1.0 - 1e-9))
def test_weight_seen_agrees_with_fifty_digits(decay):
    with mpmath.workdps(50):
        for t in (1, 2, 100, 10_000):
            exact = 1 - mpmath.mpf(decay) ** t
            for weight in (oracles.weight_seen(decay, t), oracles.weight_seen_by([decay] * t)):
                assert abs(weight / exact - 1) < 1e-15


@pytest.mark.parametrize("decays", ([0.9, 0.5, 0.99, 0.3], [0.5, 0.0, 0.9]))
def test_correction_of_a_varying_decay_returns_a_constant(decays):
    """An average of a constant, divided by the weight that it has seen, is the constant."""
    state = {}
    for t, decay in enumerate(decays, 1):
        mean, state = oracles.ema(state, G, None, t, decay=decay)
        corrected, _ = oracles.bias_correction_of_varying_decay({}, mean, None, t, decays=decays[:t])
        np.testing.assert_allclose(corrected, G, rtol=1e-15)


def test_clipping_by_hand():
    np.testing.assert_array_equal(first_step("clip", max_delta=1.0), [1.0, -0.25, 0.0])
    long, _ = oracles.clip_by_global_norm({}, [np.array([3.0]), np.array([[4.0j]])], None, 1, max_norm=1.0)
    np.testing.assert_allclose(long[0], [0.6], rtol=1e-15)
    np.testing.assert_allclose(long[1], [[0.8j]], rtol=1e-15)
    short, _ = oracles.clip_by_global_norm({}, [np.array([3.0]), np.array([4.0])], None, 1, max_norm=5.0)
    assert short == [3.0, 4.0]


def test_squares_and_signs_of_complex_numbers():
    z = np.array([3.0 + 4.0j, 0.0j])
    np.testing.assert_array_equal(first_step("sum_of_squares", z), [25.0, 0.0])
    np.testing.assert_allclose(first_step("scale_by_sign", z), [0.6 + 0.8j, 0.0], rtol=1e-15)
    np.testing.assert_allclose(first_step("adam", z, learning_rate=0.5, eps=0.0), [-0.3 - 0.4j, 0.0], rtol=1e-14)


def test_nothing_over_nothing_is_nothing():
    for name in ("adam", "amsgrad", "adamw", "rmsprop"):
        np.testing.assert_array_equal(first_step(name, NOTHING, learning_rate=0.1, eps=0.0), 0.0)


# ---------------------------------------------------------------------------------------------------------------------
# Against our recipes, Optax and PyTorch, in float32.

RECIPES = (
    ("sgd", {}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("adagrad", {}),
    ("adagrad", {"initial_accumulator_value": 0.0, "eps": 0.0}),
    ("rmsprop", {}),
    ("rmsprop", {"initial_scale": 1.0, "eps_in_sqrt": False}),
    ("rmsprop", {"momentum": 0.9, "nesterov": True, "bias_correction": True}),
    ("adam", {}),
    ("adam", {"b1": 0.0, "b2": 0.9999, "eps": 0.0, "eps_root": 1e-12}),
    ("adamw", {"weight_decay": 0.1}),
    ("amsgrad", {}),
)


@pytest.fixture(scope="module")
def problem():
    return drawn(np.logspace(-6.0, 1.0, 8))


@pytest.mark.parametrize("recipe", RECIPES, ids=titled)
def test_our_recipe_takes_the_steps_of_the_paper(recipe, problem):
    name, arguments = recipe
    gradients, param = problem
    tx = getattr(gradtx, name)(RATE, **arguments)
    exact = exact_updates(ORACLES[name], gradients, param, learning_rate=RATE, **arguments)
    assert_within(64, updates_in_float32(tx, gradients, param), exact)


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe[0] != "amsgrad"], ids=titled)
def test_optax_takes_the_steps_of_the_paper(recipe, problem):
    """Not AMSGrad, where Optax takes the maximum of corrected moments. Its ``1 - b**t`` alone is 200 eps off."""
    name, arguments = recipe
    gradients, param = problem
    optimizer = getattr(optax, name)(RATE, **arguments)
    exact = exact_updates(ORACLES[name], gradients, param, learning_rate=RATE, **arguments)
    assert_within(1024, updates_in_float32(optimizer, gradients, param), exact)


PYTORCH = (
    ("SGD", {}, "sgd", {}),
    ("SGD", {"momentum": 0.9}, "sgd", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "nesterov": True}, "sgd", {"momentum": 0.9, "nesterov": True}),
    # PyTorch divides by sqrt(v) + eps; its momentum accumulates before the learning rate, the same if constant.
    ("RMSprop", {"alpha": 0.9}, "rmsprop", {"eps_in_sqrt": False}),
    ("RMSprop", {"alpha": 0.9, "momentum": 0.9}, "rmsprop", {"eps_in_sqrt": False, "momentum": 0.9}),
    # PyTorch adds eps beside the root here too, and we under it: without eps they are one.
    (
        "Adagrad", {"eps": 0.0, "initial_accumulator_value": 0.1, "lr_decay": 0.0},
        "adagrad", {"eps": 0.0, "initial_accumulator_value": 0.1},
    ),
    ("Adam", {}, "adam", {}),
    ("AdamW", {"weight_decay": 0.0}, "adamw", {"weight_decay": 0.0}),
    ("Adam", {"amsgrad": True}, "amsgrad", {}),
)  # fmt: skip


@pytest.mark.parametrize("recipe", PYTORCH, ids=lambda recipe: f"{recipe[0]}({recipe[1]})")
def test_pytorch_takes_the_steps_of_the_paper(recipe, problem):
    theirs, their_arguments, name, arguments = recipe
    gradients, param = problem
    exact = exact_updates(ORACLES[name], gradients, np.zeros_like(param), learning_rate=RATE, **arguments)
    assert_within(64, updates_of_pytorch(theirs, gradients, **their_arguments), exact)


def test_decoupled_decay_of_pytorch_is_ours(problem):
    """PyTorch shrinks the weight first and steps then: p (1 - rate * decay) - rate * adam(g), the same sum."""
    torch = pytest.importorskip("torch", reason="PyTorch is the second peer; its CPU build is enough")
    gradients, param = problem
    weight = torch.tensor(param, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=RATE, weight_decay=0.1)
    exact, state = param.astype(np.float64), {}
    for t, g in enumerate(gradients, 1):
        weight.grad = torch.from_numpy(g)
        optimizer.step()
        update, state = oracles.adamw(state, g.astype(np.float64), exact, t, learning_rate=RATE, weight_decay=0.1)
        exact = exact + update
    error = np.abs(weight.detach().numpy() - exact)
    assert np.all(error <= STEPS * EPS * np.maximum(np.abs(param), np.abs(exact)))


# ---------------------------------------------------------------------------------------------------------------------
# The names of the states.


@pytest.mark.parametrize("name", sorted(set(ORACLES) - {"clip_by_global_norm"}))
def test_oracles_use_the_names_of_our_states(name):
    """What an oracle returns can be compared with the state of the unit, field by field."""
    needed = {
        "scale": {"step_size": 0.5}, "ema": {"decay": 0.9}, "bias_correction": {"decay": 0.9},
        "clip": {"max_delta": 1.0}, "scale_by_momentum": {"decay": 0.9},
    }  # fmt: skip
    recipes = ("scale_by_learning_rate", "sgd", "adagrad", "rmsprop", "adam", "adamw", "amsgrad")
    arguments = needed.get(name, {"learning_rate": 0.5} if name in recipes else {})
    tx = getattr(gradtx, name)(**arguments)
    ours = {}
    g = np.array([0.5, 2.0])
    _, state = tx.update(jnp.asarray(g), tx.init(jnp.zeros(2)), jnp.zeros(2))
    map_fields(lambda path, role, value: ours.update({path.rsplit("/")[-1]: value}), state)
    _, exact = ORACLES[name]({}, g, np.zeros(2), 1, **arguments)
    in_corrections = {"step", "mean_log_decay", "weight"}
    assert set(ours) - in_corrections <= set(exact) <= set(ours)
    for field, value in exact.items():
        if ours[field] is not None:  # a mean of what never changes, a step that none reads
            np.testing.assert_allclose(ours[field], value, rtol=4 * EPS)
