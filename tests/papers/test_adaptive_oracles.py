"""The oracles of momentum and adaptive rates by hand; our recipes, Optax and PyTorch take the steps that they say."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from tests.papers import adaptive_oracles as oracles
from tests.papers.adaptive_oracles import ORACLES
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


def run(name, gradients, param=NOTHING, **arguments):
    """The updates of the oracle along a run."""
    return exact_updates(ORACLES[name], gradients, param, **arguments)


# ---------------------------------------------------------------------------------------------------------------------
# By hand.


def test_a_movement_remembers_the_rates_that_it_was_made_with():
    """Rates 1, then 0, with decay 1/2: the movement goes on by half, the heavy ball stops."""
    ones, arguments = np.ones(1), {"momentum": 0.5, "movement": True}
    u, state = oracles.sgd({}, ones, None, 1, learning_rate=1.0, **arguments)
    v, _ = oracles.sgd(state, ones, None, 2, learning_rate=0.0, **arguments)
    assert (u, v) == (-1.0, -0.5)
    _, state = oracles.sgd({}, ones, None, 1, learning_rate=1.0, momentum=0.5)
    assert oracles.sgd(state, ones, None, 2, learning_rate=0.0, momentum=0.5)[0] == 0.0


def test_a_movement_and_the_heavy_ball_are_one_at_a_constant_rate():
    gradients = np.random.default_rng(0).normal(size=(30, 4))
    for nesterov in (False, True):
        arguments = {"learning_rate": 0.1, "momentum": 0.9, "nesterov": nesterov}
        heavy, moved = (run("sgd", gradients, movement=movement, **arguments) for movement in (False, True))
        np.testing.assert_allclose(moved, heavy, rtol=1e-12, atol=1e-12)


def test_the_variance_by_its_definition_is_that_of_graves():
    gradients = np.random.default_rng(0).normal(size=(50, 4)) + 3.0
    ours = run("variance", gradients, decay=0.95)
    np.testing.assert_allclose(ours, oracles.variance_of_graves(gradients, 0.95), rtol=1e-10)


def test_the_variance_over_all_steps_is_the_variance():
    gradients = np.random.default_rng(0).normal(size=(50, 4)) + 3.0
    np.testing.assert_allclose(run("variance", gradients)[-1], np.var(gradients, axis=0), rtol=1e-12)


def test_the_corrected_variance_weighs_each_gradient_by_its_age():
    gradients = np.random.default_rng(0).normal(size=(20, 4))
    weights = 0.9 ** np.arange(19, -1, -1.0)
    mean = np.average(gradients, axis=0, weights=weights)
    exact = np.average((gradients - mean) ** 2, axis=0, weights=weights)
    np.testing.assert_allclose(run("variance", gradients, decay=0.9, corrected=True)[-1], exact, rtol=1e-12)


def test_nadam_by_hand():
    """With mu = 1/2: m_1 = g/2, so m^ = (1/2)(g/2)/(3/4) + (1/2) g/(1/2) = (4/3) g, over |g|."""
    update, _ = oracles.nadam({}, G, NOTHING, 1, learning_rate=1.0, b1=0.5, eps=0.0)
    np.testing.assert_allclose(update, [-4 / 3, 4 / 3, 0.0], rtol=1e-14)


def test_uncorrected_adam_starts_with_a_longer_step():
    update, _ = oracles.adam({}, G, NOTHING, 1, learning_rate=1.0, eps=0.0, bias_correction=False)
    np.testing.assert_allclose(update, np.array([-1, 1, 0]) * 0.1 / np.sqrt(0.001), rtol=1e-12)


def test_adamax_divides_by_the_largest_gradient_of_late():
    state, arguments = {}, {"b1": 0.0, "b2": 0.5, "eps": 0.0}
    for t, (g, expected) in enumerate(((4.0, 1.0), (1.0, 0.5), (1.0, 1.0)), 1):
        update, state = oracles.scale_by_adamax(state, np.array([g]), None, t, **arguments)
        assert update == expected


def test_lion_reads_its_memory_before_the_gradient_enters_it():
    """b1 = 1/2 and b2 = 3/4: from m = 4 and g = -3, the sign of 1/2 is +1; the new memory 9/4."""
    update, state = oracles.lion({"mean": np.array([4.0])}, np.array([-3.0]), np.array([10.0]), 2,
                                 learning_rate=0.1, b1=0.5, b2=0.75, weight_decay=0.01)  # fmt: skip
    np.testing.assert_allclose(update, -0.1 * (1.0 + 0.1), rtol=1e-14)
    assert state["mean"] == 2.25


def test_the_trust_ratio_makes_steps_as_long_as_the_parameters():
    p = np.array([3.0, 4.0, 0.0])
    update, _ = oracles.scale_by_trust_ratio({}, 1e-3 * G, p, 1)
    np.testing.assert_allclose(np.linalg.norm(update), 5.0, rtol=1e-14)
    for g, weights in ((G, NOTHING), (NOTHING, p)):
        np.testing.assert_array_equal(oracles.scale_by_trust_ratio({}, g, weights, 1)[0], g)


def test_the_root_mean_square_of_all_steps_is_adagrad_at_a_rate_that_falls():
    """sigma_t = sqrt(mean g_i^2): rate / sqrt(t) over sigma_t is rate over the root of the sum."""
    gradients = np.random.default_rng(0).normal(size=(30, 4))
    mean = run("rmsprop", gradients, decay=None, eps=0.0, learning_rate=1.0) / np.sqrt(np.arange(1, 31.0))[:, None]
    total = run("adagrad", gradients, initial_accumulator_value=0.0, eps=0.0, learning_rate=1.0)
    np.testing.assert_allclose(mean, total, rtol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# Against our recipes, Optax and PyTorch, in float32. (The steps of a sign are in tests/optimizers.)

RECIPES = (
    ("sgd", {"momentum": 0.9, "movement": True}),
    ("adagrad", {"eps_in_sqrt": False}),
    ("rmsprop", {"decay": None}),
    ("rmsprop", {"centered": True}),
    ("rmsprop", {"centered": True, "decay": None, "eps": 1e-4}),
    ("rmsprop", {"centered": True, "eps_in_sqrt": False, "bias_correction": True, "eps": 1e-3, "momentum": 0.9}),
    ("adam", {"bias_correction": False}),
    ("adam", {"nesterov": True, "bias_correction": False}),
    ("adamw", {"nesterov": True, "weight_decay": 0.1}),
    ("nadam", {}),
    ("nadam", {"b1": 0.0, "b2": 0.99, "eps_root": 1e-12}),
    ("nadamw", {"weight_decay": 0.1}),
    ("adamax", {}),
    ("adamaxw", {"weight_decay": 0.1}),
    ("lars", {"weight_decay": 0.01, "trust_coefficient": 0.1}),
    ("lars", {"eps": 1e-3, "nesterov": True, "momentum": 0.5}),
    ("lamb", {"weight_decay": 0.1}),
)
# What Optax does not have, and its corrected variance, whose root is NaN where rounding makes it negative.
OURS_ALONE = {"movement", "bias_correction"}


@pytest.fixture(scope="module")
def problem():
    return drawn(np.logspace(-2.0, 1.0, 4))


@pytest.mark.parametrize("recipe", RECIPES, ids=titled)
def test_our_recipe_takes_the_steps_of_the_paper(recipe, problem):
    name, arguments = recipe
    gradients, param = problem
    exact = run(name, gradients, param, learning_rate=RATE, **arguments)
    assert_within(64, updates_in_float32(getattr(gradtx, name)(RATE, **arguments), gradients, param), exact)


AS_OPTAX = [
    (name, arguments) for name, arguments in RECIPES
    if not OURS_ALONE & set(arguments) and arguments.get("decay", 0.9) is not None and name != "adagrad"
]  # fmt: skip


@pytest.mark.parametrize("recipe", AS_OPTAX, ids=titled)
def test_optax_takes_the_steps_of_the_paper(recipe, problem):
    """Within its own precision: ``1 - b**t`` is 200 eps off, and a variance that cancels more."""
    name, arguments = recipe
    gradients, param = problem
    exact = run(name, gradients, param, learning_rate=RATE, **arguments)
    bound = 2**14 if "centered" in arguments else 1024
    assert_within(bound, updates_in_float32(getattr(optax, name)(RATE, **arguments), gradients, param), exact)


# Not NAdam, whose moving average keeps the decay betas[0] where its look-ahead, as the paper's average, has mu_t.
PYTORCH = (
    ("Adamax", {}, "adamax", {}),
    ("RMSprop", {"alpha": 0.9, "centered": True}, "rmsprop", {"centered": True, "eps_in_sqrt": False}),
    ("Adagrad", {"eps": 1e-3}, "adagrad", {"initial_accumulator_value": 0.0, "eps": 1e-3, "eps_in_sqrt": False}),
)


@pytest.mark.parametrize("recipe", PYTORCH, ids=lambda recipe: f"{recipe[0]}({recipe[1]})")
def test_pytorch_takes_the_steps_of_the_paper(recipe, problem):
    theirs, their_arguments, name, arguments = recipe
    gradients, _ = problem
    updates = updates_of_pytorch(theirs, gradients, **their_arguments)
    assert_within(256, updates, run(name, gradients, learning_rate=RATE, param=np.zeros(64), **arguments))


@pytest.mark.parametrize("offset", [1e2, 1e4, 1e6])
def test_the_variance_of_gradients_far_from_zero_keeps_its_digits(offset):
    """Deviation 1 about a large mean, which float32 knows to ``eps * offset``; the difference of two moments, as Optax
    and PyTorch form it, only has ``eps * offset^2``.
    """
    gradients = (np.random.default_rng(0).normal(size=(STEPS, 64)) + offset).astype(np.float32)
    exact = run("scale_by_stddev", gradients, np.zeros(64), eps=1e-8, bias_correction=True)[1:]
    ours = updates_in_float32(gradtx.scale_by_stddev(bias_correction=True), gradients, np.zeros(64, np.float32))[1:]
    theirs = updates_in_float32(optax.scale_by_stddev(bias_correction=True), gradients, np.zeros(64, np.float32))[1:]
    assert np.max(np.abs(ours / exact - 1)) < 2 * EPS * offset
    assert not np.max(np.abs(theirs / exact - 1)) < 1e-2


# ---------------------------------------------------------------------------------------------------------------------
# Norms of one leaf, in two axes and more.

LEAVES = {"vector": (5,), "matrix": (4, 3), "heads": (4, 2, 3), "image kernel": (2, 2, 3, 4), "column": (5, 1)}
UNIT_AXES = {"vector": None, "matrix": (0,), "heads": (0,), "image kernel": (0, 1, 2), "column": None}
MEAN_AXES = {"vector": (), "matrix": (0,), "heads": (0,), "image kernel": (0, 1, 2), "column": (0,)}


def leaf(kind, scale=1.0, seed=0):
    return (np.random.default_rng(seed).normal(size=LEAVES[kind]) * scale).astype(np.float32)


def update_of(tx, g, p):
    return np.asarray(tx.update(jnp.asarray(g), tx.init(jnp.asarray(p)), jnp.asarray(p))[0])


@pytest.mark.parametrize("kind", LEAVES)
@pytest.mark.parametrize("scale", [1e-30, 0.01, 1.0, 1e30])
def test_adaptive_clipping_bounds_each_unit_by_its_weights(kind, scale):
    g, p = leaf(kind, scale), leaf(kind, seed=1)
    exact, _ = oracles.adaptive_grad_clip({}, g.astype(np.float64), p.astype(np.float64), 1, clipping=0.1,
                                          axis=UNIT_AXES[kind])  # fmt: skip
    np.testing.assert_allclose(update_of(gradtx.adaptive_grad_clip(0.1), g, p), exact, rtol=1e-6)
    if 1e-30 < scale < 1e30:
        np.testing.assert_allclose(update_of(optax.adaptive_grad_clip(0.1), g, p), exact, rtol=1e-6)


@pytest.mark.parametrize("kind", LEAVES)
def test_centralized_gradients_have_no_mean_over_the_inputs(kind):
    g = leaf(kind)
    exact, _ = oracles.centralize({}, g.astype(np.float64), None, 1, axis=MEAN_AXES[kind])
    np.testing.assert_allclose(update_of(gradtx.centralize(), g, g), exact, rtol=1e-5, atol=1e-6)
    inputs_last = tuple(range(1, g.ndim))
    if inputs_last and np.prod(g.shape[1:]) > 1:
        theirs = update_of(optax.centralize(), g, g)
        np.testing.assert_allclose(update_of(gradtx.centralize(axis=inputs_last), g, g), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-36, 1e-25, 1.0, 1e30, 3e38])
def test_norms_are_right_over_the_whole_range_of_float32(scale):
    g, p = np.full((3, 2), scale, np.float32), leaf("matrix")[:3, :2]
    g64, p64 = g.astype(np.float64), p.astype(np.float64)
    for name, arguments in (
        ("scale_by_trust_ratio", {"trust_coefficient": 0.5}),
        ("clip_by_block_norm", {"max_norm": 1e-3}),
        ("clip_by_block_rms", {"threshold": 1e-3}),
    ):
        exact, _ = ORACLES[name]({}, g64, p64, 1, **arguments)
        np.testing.assert_allclose(update_of(getattr(gradtx, name)(**arguments), g, p), exact, rtol=1e-6)
    exact = oracles.normalize_by_update_norm([g64], scale_factor=-2.0, eps=0.0)[0]
    tx = gradtx.normalize_by_update_norm(-2.0, eps=0.0)
    np.testing.assert_allclose(update_of(tx, g, p), exact, rtol=1e-6)


@pytest.mark.parametrize("name", ["scale_by_trust_ratio", "clip_by_block_rms", "normalize_by_update_norm"])
def test_optax_has_the_same_norms_where_it_does_not_overflow(name):
    arguments = {"threshold": 0.1} if name == "clip_by_block_rms" else {}
    g, p = leaf("matrix"), leaf("matrix", seed=1)
    ours, theirs = (update_of(getattr(room, name)(**arguments), g, p) for room in (gradtx, optax))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# The names of the states.


@pytest.mark.parametrize("name", sorted(set(ORACLES) - {"ema", "bias_correction", "running_max", "sgd"}))
def test_oracles_use_the_names_of_our_states(name):
    """What an oracle returns can be compared with the state of the unit, field by field."""
    needed = {"clip_by_block_norm": {"max_norm": 1.0}, "clip_by_block_rms": {"threshold": 1.0},
              "adaptive_grad_clip": {"clipping": 1.0}}  # fmt: skip
    is_recipe = hasattr(gradtx.optimizers, name)
    arguments = needed.get(name, {"learning_rate": 0.5} if is_recipe else {})
    g, ours = np.array([0.5, 2.0]), {}
    tx = getattr(gradtx, name)(**arguments)
    _, state = tx.update(jnp.asarray(g), tx.init(jnp.zeros(2)), jnp.zeros(2))
    gradtx.core.map_fields(lambda path, role, value: ours.update({path.rsplit("/")[-1]: value}), state)
    _, exact = ORACLES[name]({}, g, np.zeros(2), 1, **arguments)
    of_scalars = {"step", "mean_log_decay", "weight", "share"}
    assert set(ours) - of_scalars == set(exact) - of_scalars
    for field in set(exact):
        np.testing.assert_allclose(ours[field], exact[field], rtol=4 * EPS)
