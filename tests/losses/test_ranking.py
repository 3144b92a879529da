"""Claims about ``losses.ranking_softmax_loss`` and about losses made from a function of the scores."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradtx import errors, losses

EPS = float(np.finfo(np.float32).eps)


def oracle(z, y, w, where):
    """``-sum w y log p`` over the items of one list that count."""
    z, y, w = (np.asarray(x, np.float64)[where] for x in (z, y, w))
    return np.sum(w * y * (np.logaddexp.reduce(z) - z)) if z.size else 0.0


@pytest.fixture
def lists():
    rng = np.random.default_rng(0)
    z, y = 3 * rng.normal(size=(4, 5)).astype(np.float32), rng.integers(3, size=(4, 5))
    where = rng.random((4, 5)) < 0.6
    where[1] = False
    return z, y, rng.random((4, 5)).astype(np.float32), where


def test_the_loss_is_a_cross_entropy_for_each_list(lists):
    z, y, w, where = lists
    expected = np.array([oracle(*row) for row in zip(*lists, strict=True)])
    found = losses.ranking_softmax_loss(z, y, where=where, weights=w, reduce_fn=None)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    mean = losses.ranking_softmax_loss(z, y, where=where, weights=w)
    np.testing.assert_allclose(mean, expected[[0, 2, 3]].mean(), rtol=1e-5)
    total = losses.ranking_softmax_loss(z, y, where=where, weights=w, reduce_fn=jnp.sum)
    np.testing.assert_allclose(total, expected.sum(), rtol=1e-5)


@pytest.mark.parametrize("reduce_fn", [jnp.mean, jnp.sum, None])
def test_optax_computes_the_same(lists, reduce_fn):
    z, y, w, where = map(jnp.asarray, lists)
    for options in ({}, {"where": where}, {"weights": w}, {"where": where, "weights": w}):
        ours = losses.ranking_softmax_loss(z, y, reduce_fn=reduce_fn, **options)
        theirs = optax.losses.ranking_softmax_loss(z, y, reduce_fn=reduce_fn, **options)
        if "where" in options and reduce_fn is not jnp.mean:  # NaN of the list without items, in Optax
            ours, theirs = (np.nan_to_num(x) if reduce_fn is None else x for x in (ours, theirs))
        if not np.isnan(theirs).any():
            np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_batch_without_a_list_costs_nothing(lists):
    z, y, w, _ = lists
    value, slope = jax.value_and_grad(losses.ranking_softmax_loss)(z, y, where=np.zeros(4, bool), weights=w)
    assert value == 0 and not slope.any()


def test_items_left_out_may_be_nan_and_have_no_gradient(lists):
    z, y, w, where = lists
    bad_z, bad_w, bad_y = z.copy(), w.copy(), y.astype(np.float32)
    bad_z[~where] = bad_w[~where] = bad_y[~where] = np.nan
    found = losses.ranking_softmax_loss(bad_z, bad_y, where=where, weights=bad_w)
    np.testing.assert_allclose(found, losses.ranking_softmax_loss(z, y, where=where, weights=w), rtol=4 * EPS)
    slope = jax.grad(losses.ranking_softmax_loss)(bad_z, bad_y, where=where, weights=bad_w)
    assert np.isfinite(slope).all() and not slope[~where].any() and slope[where].any()


def test_one_weight_per_list_weighs_all_its_items(lists):
    z, y, w, _ = lists
    found = losses.ranking_softmax_loss(z, y, weights=w[:, 0], reduce_fn=None)
    np.testing.assert_allclose(found, w[:, 0] * losses.ranking_softmax_loss(z, y, reduce_fn=None), rtol=1e-5)


@pytest.mark.parametrize("size", [80.0, 1e30, 3e38])
def test_extreme_scores_have_finite_gradients(size):
    z, y = np.array([[size, -size, 0]], np.float32), np.array([[1, 0, 1]])
    value, slope = jax.value_and_grad(losses.ranking_softmax_loss)(z, y)
    assert float(value) == pytest.approx(size) and np.isfinite(slope).all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"logits": np.ones((4, 5), int)}, errors.DtypeError, "must be floating"),
        ({"labels": np.ones((4, 1))}, errors.ShapeError, "(4, 5)"),
        ({"weights": np.ones((4, 5), bool)}, errors.DtypeError, "where=mask"),
        ({"weights": np.ones(5)}, errors.ShapeError, "one per list"),
        ({"where": np.ones((4, 5))}, errors.DtypeError, "where must be bool"),
        ({"where": np.ones(5, bool)}, errors.ShapeError, "one bool per example"),
    ],
)
def test_a_wrong_argument_is_named(lists, change, error, words):
    with pytest.raises(error) as caught:
        losses.ranking_softmax_loss(**{"logits": lists[0], "labels": lists[1], **change})
    assert words in str(caught.value) and str(caught.value).startswith("ranking_softmax_loss(")


# Fenchel-Young losses.


def test_of_log_sum_exp_the_loss_is_cross_entropy(lists):
    z, labels = lists[0], np.array([0, 4, 2, 1])
    loss = losses.make_fenchel_young_loss(jax.nn.logsumexp)
    targets = np.eye(5, dtype=np.float32)[labels]
    np.testing.assert_allclose(loss(z, targets), losses.softmax_cross_entropy(z, labels), rtol=1e-5, atol=4 * EPS)
    theirs = optax.losses.make_fenchel_young_loss(jax.nn.logsumexp)(z, targets)
    np.testing.assert_allclose(loss(z, targets), theirs, rtol=1e-5, atol=4 * EPS)


def test_its_prediction_is_the_gradient_of_the_function(lists):
    z, targets = lists[0], np.eye(5, dtype=np.float32)[[0, 4, 2, 1]]
    slope = jax.grad(lambda z: losses.make_fenchel_young_loss(jax.nn.logsumexp)(z, targets).sum())(z)
    np.testing.assert_allclose(slope, jax.nn.softmax(z) - targets, atol=4 * EPS)


def test_more_arguments_go_to_the_function(lists):
    z, targets = lists[0], np.eye(5, dtype=np.float32)[[0, 4, 2, 1]]
    loss = losses.make_fenchel_young_loss(lambda s, t, sharp=1.0: t * jax.nn.logsumexp(s / t) * sharp)
    expected = np.asarray(0.5 * jax.nn.logsumexp(z / 0.5, axis=-1) * 2 - (z * targets).sum(-1))
    np.testing.assert_allclose(loss(z, targets, 0.5, sharp=2.0), expected, rtol=1e-5)


def test_an_impossible_score_costs_nothing_without_a_target():
    loss = losses.make_fenchel_young_loss(jax.nn.logsumexp)
    value, slope = jax.value_and_grad(loss)(jnp.array([0.0, -jnp.inf]), jnp.array([1.0, 0.0]))
    assert value == 0 and np.isfinite(slope).all()


def test_low_precision_scores_are_computed_in_float32(lists):
    loss = losses.make_fenchel_young_loss(jax.nn.logsumexp)
    assert loss(jnp.asarray(lists[0], jnp.bfloat16), lists[1]).dtype == jnp.float32
    assert losses.ranking_softmax_loss(jnp.asarray(lists[0], jnp.bfloat16), lists[1]).dtype == jnp.float32


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda loss: losses.make_fenchel_young_loss(1.0), errors.ArgumentTypeError, "a function of a vector"),
        (lambda loss: loss(np.ones(3, int), np.ones(3)), errors.DtypeError, "must be floating"),
        (lambda loss: loss(np.ones((2, 3), np.float32), np.ones(3)), errors.ShapeError, "(2, 3)"),
        (lambda loss: loss(np.float32(1), 1), errors.ShapeError, "last axis of classes"),
    ],
)
def test_a_wrong_call_is_named(make, error, words):
    with pytest.raises(error) as caught:
        make(losses.make_fenchel_young_loss(jax.nn.logsumexp))
    assert words in str(caught.value)
