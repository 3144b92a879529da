"""Claims about gradients of single examples."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors
from tests.papers.privacy_oracles import sum_of_clipped

RANDOM = np.random.default_rng(0)
SHAPES = {"b": (5,), "k": (5, 2, 3, 2), "w": (5, 4, 3)}


def examples(scale=1.0):
    lengths = np.array([1e-3, 0.2, 1.0, 3.0, 40.0])
    drawn = {name: RANDOM.normal(size=shape) for name, shape in SHAPES.items()}
    return {
        name: jnp.asarray(scale * x * lengths.reshape(-1, *[1] * (x.ndim - 1)), jnp.float32)
        for name, x in drawn.items()
    }


def in_float64(tree):
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("limit", [1e-3, 1.0, 100.0, 1e30])
def test_the_sum_and_the_count_are_those_of_the_paper(limit):
    grads = examples()
    total, count = jax.jit(gradtx.per_example_global_norm_clip)(grads, limit)
    exact, exact_count = sum_of_clipped(in_float64(grads), limit)
    assert int(count) == exact_count
    for actual, expected in zip(jax.tree.leaves(total), exact, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e18, 1e30])
def test_norms_neither_overflow_nor_vanish(scale):
    grads = examples(scale)
    limit = 0.5 * scale
    total, count = gradtx.per_example_global_norm_clip(grads, limit)
    exact, exact_count = sum_of_clipped(in_float64(grads), limit)
    assert int(count) == exact_count == 5 - 1
    for actual, expected in zip(jax.tree.leaves(total), exact, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_optax_agrees_where_no_square_overflows():
    grads = examples()
    leaves = jax.tree.leaves(grads)
    ours, count = gradtx.per_example_global_norm_clip(leaves, 1.0)
    theirs, their_count = optax.per_example_global_norm_clip(leaves, 1.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)
    assert int(count) == int(their_count)
    for uniform in (True, False):
        ours, counts = gradtx.per_example_layer_norm_clip(leaves, 1.0, uniform=uniform)
        theirs, their_counts = optax.per_example_layer_norm_clip(leaves, 1.0, uniform=uniform)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)
        assert [int(c) for c in counts] == [int(c) for c in their_counts]


def test_gradients_within_the_limit_pass_bit_for_bit_and_zero_is_a_limit():
    grads = {"w": jnp.array([[0.1, 0.3]]), "n": None}
    assert gradtx.per_example_global_norm_clip(grads, 1.0)[0]["w"].tolist() == grads["w"][0].tolist()
    total, count = gradtx.per_example_global_norm_clip(grads, 0.0)
    assert total["w"].tolist() == [0.0, 0.0] and int(count) == 1
    assert gradtx.per_example_global_norm_clip({}, 1.0)[0] == {}


def test_what_is_not_finite_in_one_example_stays_visible():
    for value in (jnp.nan, jnp.inf):
        total, count = gradtx.per_example_global_norm_clip({"w": jnp.array([[0.1], [value]])}, 1.0)
        assert np.isnan(total["w"]).all() and int(count) == 1


def test_integers_and_half_precision_are_summed_in_float32():
    assert gradtx.per_example_global_norm_clip(jnp.array([[3, 4], [0, 0]]), 1.0)[0].dtype == jnp.float32
    assert gradtx.per_example_global_norm_clip(jnp.ones((2, 2), jnp.float16), 1.0)[0].dtype == jnp.float32


def test_limits_of_layers_make_the_limit_of_all():
    grads = examples(1e6)  # all are longer
    for uniform in (True, False):
        one = jax.tree.map(lambda g: g[:1], grads)
        total, counts = gradtx.per_example_layer_norm_clip(one, 2.0, uniform=uniform)
        np.testing.assert_allclose(float(gradtx.global_norm(total)), 2.0, rtol=1e-6)
        assert [int(count) for count in jax.tree.leaves(counts)] == [1, 1, 1]


@pytest.mark.parametrize("clip", [gradtx.per_example_global_norm_clip, gradtx.per_example_layer_norm_clip])
def test_bad_arguments_say_what_to_write(clip):
    with pytest.raises(errors.ShapeError, match=r"first axis of examples.*jax.vmap\(jax.grad\(loss\)"):
        clip({"w": jnp.ones((3, 2)), "b": jnp.ones(2)}, 1.0)
    with pytest.raises(errors.ShapeError, match="first axis"):
        clip({"s": jnp.ones(())}, 1.0)
    with pytest.raises(errors.ArgumentRangeError, match="l2_norm_clip"):
        clip(jnp.ones((3, 2)), -1.0)
    with pytest.raises(errors.ArgumentTypeError, match="l2_norm_clip"):
        clip(jnp.ones((3, 2)), None)


# ---------------------------------------------------------------------------------------------------------------------
# The transformation.


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
def test_the_noise_has_the_deviation_of_the_paper_in_every_coordinate(dtype):
    tx = gradtx.differentially_private_aggregate(2.0, noise_multiplier=1.5, key=jax.random.key(3))
    params = {"w": jnp.zeros(100_000, dtype)}
    grads = {"w": jnp.zeros((8, 100_000), dtype)}
    updates, state = tx.update(grads, tx.init(params), params)
    for part in [updates["w"].real, updates["w"].imag] if dtype == jnp.complex64 else [updates["w"]]:
        np.testing.assert_allclose(part.std(), 2.0 * 1.5 / 8, rtol=0.01)
        assert abs(part.mean()) < 4 * 2.0 * 1.5 / 8 / np.sqrt(100_000)
    again, _ = tx.update(grads, state, params)
    assert abs(np.corrcoef(np.asarray(again["w"].real), np.asarray(updates["w"].real))[0, 1]) < 0.02


def test_the_noise_of_a_leaf_does_not_depend_on_the_others():
    tx = gradtx.differentially_private_aggregate(1.0, 1.0, key=0)
    one, two = {"w": jnp.zeros((4, 3))}, {"a": jnp.zeros((4, 3)), "w": jnp.zeros((4, 3))}
    alone, _ = tx.update(one, tx.init(one))
    beside, _ = tx.update(two, tx.init(two))
    assert alone["w"].tolist() == beside["w"].tolist() != beside["a"].tolist()


def test_clipping_in_parts_and_adding_noise_is_the_same_step():
    grads, params = examples(), {name: jnp.zeros(shape[1:]) for name, shape in SHAPES.items()}
    whole = gradtx.differentially_private_aggregate(1.0, 0.5, key=7)
    parts = gradtx.add_noise(eta=(1.0 * 0.5 / 5) ** 2, gamma=0.0, key=7)
    total = jax.tree.map(jnp.zeros_like, params)
    for start, stop in ((0, 2), (2, 5)):
        part, _ = gradtx.per_example_global_norm_clip(jax.tree.map(lambda g, a=start, b=stop: g[a:b], grads), 1.0)
        total = jax.tree.map(jnp.add, total, part)
    ours, _ = whole.update(grads, whole.init(params), params)
    theirs, _ = parts.update(jax.tree.map(lambda s: s / 5, total), parts.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_without_noise_dpsgd_is_that_of_optax():
    grads, params = examples(), {name: jnp.ones(shape[1:]) for name, shape in SHAPES.items()}
    ours = gradtx.dpsgd(0.1, 1.0, 0.0, 0, momentum=0.9, nesterov=True)
    theirs = optax.contrib.dpsgd(0.1, 1.0, 0.0, 0, momentum=0.9, nesterov=True)
    our_state, their_state = ours.init(params), theirs.init(params)
    for _ in range(3):
        our_updates, our_state = ours.update(grads, our_state, params)
        their_updates, their_state = theirs.update(grads, their_state, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), our_updates, their_updates)


def test_a_line_is_found_from_private_gradients():
    points = np.random.default_rng(1).normal(size=(64, 3)).astype(np.float32)
    batch = (jnp.asarray(points), jnp.asarray(points @ np.array([1.0, -2.0, 0.5], np.float32)))

    def loss(w, example):
        x, y = example
        return 0.5 * (x @ w - y) ** 2

    tx = gradtx.dpsgd(0.5, l2_norm_clip=1.0, noise_multiplier=0.1, seed=0)

    @jax.jit
    def step(carry, _):
        w, state = carry
        updates, state = tx.update(jax.vmap(jax.grad(loss), (None, 0))(w, batch), state, w)
        return (gradtx.apply_updates(w, updates), state), None

    (w, _), _ = jax.lax.scan(step, (jnp.zeros(3), tx.init(jnp.zeros(3))), length=200)
    np.testing.assert_allclose(w, [1.0, -2.0, 0.5], atol=0.02)


def test_mean_gradients_are_refused():
    tx, params = gradtx.dpsgd(0.1, 1.0, 1.0, 0), {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}
    state = tx.init(params)
    with pytest.raises(errors.ShapeError, match=r"dpsgd\(.*first axis of examples.*the mean gradient of a batch"):
        tx.update(params, state, params)
    one = {"w": jnp.zeros((4, 3, 2)), "b": jnp.zeros((4, 3))}
    with pytest.raises(errors.ShapeError, match="'b'"):
        tx.update(one, state, params)
    with pytest.raises(errors.ShapeError, match="at least 1"):
        tx.update(jax.tree.map(lambda p: jnp.zeros((0, *p.shape)), params), state, params)


@pytest.mark.parametrize(
    "around",
    [
        lambda tx: gradtx.chain(gradtx.clip(1.0), tx),
        lambda tx: gradtx.accumulate(tx, 2),
        gradtx.watch,
        gradtx.skip_nonfinite,
        lambda tx: gradtx.only(tx, "w"),
        lambda tx: gradtx.partition({"a": tx}, lambda path, leaf: "a"),
        lambda tx: gradtx.ratio(tx, gradtx.mean_square()),
        lambda tx: gradtx.lookahead(tx, 5, 0.5),
    ],
)
def test_it_stands_first_and_outermost(around):
    with pytest.raises(errors.ArgumentTypeError, match="first part of the outermost chain"):
        around(gradtx.differentially_private_aggregate(1.0, 1.0, key=0))


def test_chains_in_chains_and_schedules_take_examples_too():
    params, grads = jnp.zeros(2), jnp.ones((4, 2))
    inner = gradtx.chain(gradtx.differentially_private_aggregate(1.0, lambda step: 0.5, key=0), gradtx.ema(0.9))
    tx = gradtx.tunable(lambda learning_rate: gradtx.chain(inner, gradtx.scale(learning_rate)), learning_rate=0.1)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    assert updates.shape == (2,)
