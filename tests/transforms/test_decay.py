"""Pulling weights towards zero, to zero exactly, and holding them there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors

KERNELS = {"body": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full(2, 2.0)}, "head": {"kernel": jnp.full(2, -2.0)}}
NOTHING = jax.tree.map(jnp.zeros_like, KERNELS)


def first(tx, grads, params):
    return tx.update(grads, tx.init(params), params)[0]


def by_name(tree):
    """One number for each of the three arrays, whose elements are equal."""
    flat = {"body/kernel": tree["body"]["kernel"], "body/bias": tree["body"]["bias"], "head": tree["head"]["kernel"]}
    return {name: float(np.unique(np.asarray(leaf)).item()) for name, leaf in flat.items()}


# Coupled and decoupled.


def test_coupled_decay_passes_through_the_moments_and_decoupled_does_not():
    """Adam's first step has the size of the learning rate: a coupled decay of any strength cannot change it."""
    params = jnp.array([2.0, -1.0])
    for coupled in (gradtx.l2_decay, gradtx.l1_decay):
        for strength in (1e-3, 10.0):
            tx = gradtx.chain(coupled(strength), gradtx.adam(0.5))
            np.testing.assert_allclose(first(tx, jnp.zeros(2), params), [-0.5, 0.5], rtol=1e-4)
    np.testing.assert_allclose(
        first(gradtx.adamw(0.5, weight_decay=10.0), jnp.zeros(2), params), [-10.0, 5.0], rtol=1e-6
    )


def test_coupled_l2_is_the_gradient_of_half_the_squares():
    params, strength = jnp.array([0.5, -3.0, 0.0]), 0.3
    expected = jax.grad(lambda p: 0.5 * strength * jnp.sum(p**2))(params)
    np.testing.assert_array_equal(first(gradtx.l2_decay(strength), jnp.zeros(3), params), expected)


def test_the_pull_of_l1_on_complex_weights_is_towards_zero():
    z = jnp.array([3.0 + 4.0j, 0.0j, 2.0j], jnp.complex64)
    np.testing.assert_allclose(first(gradtx.l1_decay(5.0), jnp.zeros_like(z), z), [3.0 + 4.0j, 0.0, 5.0j], rtol=1e-6)


# The proximal step.


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.complex64], ids=lambda d: d.__name__)
def test_weights_within_the_threshold_are_exactly_zero_and_stay(dtype):
    random = np.random.default_rng(0)
    params = jnp.asarray(random.normal(size=2000) * 10.0 ** random.uniform(-8, 1, size=2000), dtype)
    grads = jnp.asarray(0.01 * random.normal(size=2000), dtype)
    tx = gradtx.chain(gradtx.sgd(0.5), gradtx.proximal_l1(0.2, 0.5))

    @jax.jit
    def step(params, state):
        updates, state = tx.update(grads, state, params)
        return gradtx.apply_updates(params, updates), state

    exact = np.asarray(params, np.complex128) - 0.5 * np.asarray(grads, np.complex128)
    far, near = np.abs(exact) > 0.1 * (1 + 1e-5), np.abs(exact) < 0.1 * (1 - 1e-5)
    after, state = step(params, tx.init(params))
    assert np.all(np.asarray(after)[near] == 0) and np.all(np.asarray(after)[far] != 0)
    assert 500 < near.sum() < 1900
    again, _ = step(after, state)  # a step of at most 0.03 from zero stays within 0.1
    assert np.all(np.asarray(again)[near] == 0)


def test_a_complex_weight_keeps_its_direction():
    p = jnp.array([3.0 + 4.0j], jnp.complex64)
    after = gradtx.apply_updates(p, first(gradtx.proximal_l1(1.0, 1.0), jnp.zeros_like(p), p))
    np.testing.assert_allclose(after, [2.4 + 3.2j], rtol=1e-6)


def test_without_strength_the_step_is_untouched():
    random = np.random.default_rng(0)
    params, step = (jnp.asarray(random.normal(size=100), jnp.float32) for _ in range(2))
    for tx in (gradtx.proximal_l1(0.0, 1.0), gradtx.proximal_l1(1.0, 0.0), gradtx.proximal_l1({}, 1.0)):
        np.testing.assert_array_equal(first(tx, step, params), step)


def test_the_proximal_step_overflows_nowhere():
    largest = float(np.finfo(np.float32).max)
    params, grads = jnp.array([largest, largest, -largest]), jnp.array([largest, -largest, 1.0])
    for strength in (0.0, 1.0, largest):
        assert np.all(np.isfinite(first(gradtx.proximal_l1(strength, 1.0), grads, params)))


def test_a_diverged_step_stays_visible():
    updates = first(gradtx.proximal_l1(10.0, 1.0), jnp.array([jnp.nan, jnp.inf]), jnp.zeros(2))
    assert np.isnan(updates[0]) and np.isinf(updates[1])


def test_proximal_descent_finds_the_lasso():
    """The support and the weights of scikit-learn's coordinate descent, on the same objective."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(0)
    inputs = random.normal(size=(60, 20))
    targets = inputs[:, :4] @ np.array([3.0, -2.0, 1.0, 0.5]) + 0.1 * random.normal(size=60)
    lasso = linear_model.Lasso(alpha=0.2, fit_intercept=False, tol=1e-10).fit(inputs, targets)
    x, y = jnp.asarray(inputs, jnp.float32), jnp.asarray(targets, jnp.float32)
    rate = lambda step: 0.3 / (1.0 + 0.001 * step)  # noqa: E731
    tx = gradtx.chain(gradtx.sgd(rate), gradtx.proximal_l1(0.2, rate))

    def body(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(lambda w: jnp.mean((x @ w - y) ** 2) / 2)(params), state, params)
        return (gradtx.apply_updates(params, updates), state), None

    params = jnp.ones(20)
    (params, _), _ = jax.jit(lambda carry: jax.lax.scan(body, carry, length=1000))((params, tx.init(params)))
    np.testing.assert_array_equal(np.asarray(params) == 0, lasso.coef_ == 0)
    np.testing.assert_allclose(params, lasso.coef_, atol=1e-5)


def test_coupled_l1_arrives_at_no_zero_where_the_proximal_step_does():
    params = jnp.linspace(-1.0, 1.0, 50)
    for tx, zeros in (
        (gradtx.chain(gradtx.l1_decay(0.1), gradtx.sgd(0.13)), 0),
        (gradtx.chain(gradtx.sgd(0.13), gradtx.proximal_l1(0.1, 0.13)), 50),
    ):
        weights, state = params, tx.init(params)
        for _ in range(100):
            updates, state = tx.update(jnp.zeros(50), state, weights)
            weights = gradtx.apply_updates(weights, updates)
        assert int(jnp.sum(weights == 0)) == zeros
        assert np.all(np.abs(weights) <= 0.013)


# A strength for each layer, for all four.


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda strength: gradtx.l1_decay(strength), {"body/kernel": 0.5, "body/bias": 0.0, "head": -0.25}),
        (lambda strength: gradtx.l2_decay(strength), {"body/kernel": 1.0, "body/bias": 0.0, "head": -0.5}),
        (lambda strength: gradtx.add_decayed_weights(strength), {"body/kernel": 1.0, "body/bias": 0.0, "head": -0.5}),
        (
            lambda strength: gradtx.proximal_l1(strength, 0.5),
            {"body/kernel": -0.25, "body/bias": 0.0, "head": 0.125},
        ),
        (
            lambda strength: gradtx.adamw(0.5, weight_decay=strength),
            {"body/kernel": -0.5, "body/bias": 0.0, "head": 0.25},
        ),
    ],
    ids=["l1_decay", "l2_decay", "add_decayed_weights", "proximal_l1", "adamw"],
)
@pytest.mark.parametrize(
    "strength",
    [
        {"body/kernel": 0.5, "head*": 0.25},
        {"body/kernel": lambda step: 0.5, "head/*": 0.25},
        lambda path, leaf: {"body/kernel": 0.5, "head/kernel": 0.25}.get(path, 0.0),
        lambda path, leaf: 0.0 if path == "body/bias" else 0.5 if leaf.ndim == 2 else lambda step: 0.25,
    ],
    ids=["globs", "globs and a schedule", "a function", "a function and a schedule"],
)
def test_each_layer_has_its_own_strength(make, expected, strength):
    tx = make(strength)
    assert by_name(first(tx, NOTHING, KERNELS)) == expected
    assert by_name(jax.jit(tx.update)(NOTHING, tx.init(KERNELS), KERNELS)[0]) == expected


def test_a_strength_for_all_layers_is_that_strength():
    grads = jax.tree.map(lambda leaf: 0.3 * leaf, KERNELS)
    for make in (gradtx.l1_decay, gradtx.l2_decay, gradtx.add_decayed_weights, lambda s: gradtx.proximal_l1(s, 0.1)):
        alike, one = first(make({"*": 0.1}), grads, KERNELS), first(make(0.1), grads, KERNELS)
        jax.tree.map(np.testing.assert_array_equal, alike, one)


def test_a_mask_and_a_strength_for_each_layer_go_together():
    updates = first(gradtx.add_decayed_weights({"body*": 0.5, "*": 0.25}, mask="*kernel"), NOTHING, KERNELS)
    assert by_name(updates) == {"body/kernel": 1.0, "body/bias": 0.0, "head": -0.5}


def test_a_schedule_of_the_learning_rate_beside_a_strength_for_each_layer():
    tx = gradtx.proximal_l1({"head*": 0.5}, lambda step: 0.5 * (step + 1))
    state = tx.init(KERNELS)
    for expected in (0.25, 0.5):
        updates, state = tx.update(NOTHING, state, KERNELS)
        assert by_name(updates) == {"body/kernel": 0.0, "body/bias": 0.0, "head": expected}
    assert float(gradtx.hyperparameters(state)["learning_rate"]) == 1.0


def test_plain_strengths_can_be_tuned():
    tx = gradtx.tunable(gradtx.proximal_l1, strength=1.0, learning_rate=0.5)
    state = gradtx.set_hyperparameters(tx.init(KERNELS), strength=2.0)
    assert by_name(jax.jit(tx.update)(NOTHING, state, KERNELS)[0])["head"] == 1.0


def test_strengths_of_layers_can_be_tuned_by_name():
    def build(body, head):
        return gradtx.chain(gradtx.sgd(0.5), gradtx.proximal_l1({"body*": body, "*": head}, 0.5))

    tx = gradtx.tunable(build, body=0.5, head=1.0)
    state = gradtx.set_hyperparameters(tx.init(KERNELS), head=2.0)
    assert by_name(tx.update(NOTHING, state, KERNELS)[0]) == {"body/kernel": -0.25, "body/bias": -0.25, "head": 1.0}


# Holding zeros.


def test_zeros_stay_zero_and_the_rest_trains_on_as_before():
    params = jnp.array([1.0, 0.0, -2.0, 0.0])
    after = []
    for tx in (gradtx.adam(0.1), gradtx.chain(gradtx.adam(0.1), gradtx.keep_zeros())):
        weights, state = params, tx.init(params)
        for seed in range(5):
            grads = jnp.asarray(np.random.default_rng(seed).normal(size=4), jnp.float32)
            updates, state = tx.update(grads, state, weights)
            weights = gradtx.apply_updates(weights, updates)
        after.append(weights)
    assert [(weights == 0).tolist() for weights in after] == [[False] * 4, [False, True, False, True]]
    np.testing.assert_array_equal(after[0][::2], after[1][::2])


def test_a_weight_that_becomes_zero_later_is_not_held():
    tx = gradtx.keep_zeros()
    params = jnp.array([1.0, 0.0])
    _, state = tx.update(jnp.array([-1.0, 0.0]), tx.init(params), params)
    assert tx.update(jnp.ones(2), state, jnp.zeros(2))[0].tolist() == [1.0, 0.0]


def test_zeros_are_held_in_any_layout():
    tx = gradtx.storage.stored(gradtx.keep_zeros(), gradtx.storage.cast("bfloat16", rounding="stochastic"))
    params = jnp.array([1e-30, 0.0])
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(jnp.ones(2), state)
        assert updates.tolist() == [1.0, 0.0]


def test_masked_holds_kernels_alone():
    params = {"kernel": jnp.array([0.0, 1.0]), "bias": jnp.zeros(1)}
    tx = gradtx.chain(gradtx.sgd(1.0), gradtx.masked(gradtx.keep_zeros(), "*kernel"))
    updates = first(tx, jax.tree.map(jnp.ones_like, params), params)
    assert updates["kernel"].tolist() == [0.0, -1.0] and updates["bias"].tolist() == [-1.0]


def test_adamw_names_the_layer_of_a_bad_strength():
    with pytest.raises(errors.ArgumentRangeError, match=r"adamw\(.*weight_decay\['head\*'\] must be"):
        gradtx.adamw(1e-3, weight_decay={"head*": -1.0})
    with pytest.raises(errors.ArgumentRangeError, match=r"adamw\(.*got -1 at 'head/kernel'"):
        gradtx.adamw(1e-3, weight_decay=lambda path, leaf: -1.0 if "head" in path else 1.0).init(KERNELS)
