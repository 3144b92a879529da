"""Claims about losses of embeddings, held against the papers' sums in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradtx import errors, losses

EPS = float(np.finfo(np.float32).eps)


def contrastive(x, labels, temperature):
    """Chen et al. 2020, eq. 1, over all pairs of one label, with the other labels as rivals."""
    x = np.asarray(x, np.float64)
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    s = units @ units.T / temperature
    costs = []
    for i, j in np.ndindex(*s.shape):
        if i != j and labels[i] == labels[j]:
            rivals = [s[i, k] for k in range(len(x)) if labels[k] != labels[i]]
            costs.append(np.logaddexp.reduce([s[i, j], *rivals]) - s[i, j])
    return np.mean(costs)


def triplet(a, p, n, q=2, margin=1.0, eps=1e-6):
    near, far = ((np.sum(np.abs(a - b) ** q, -1) + eps) ** (1 / q) for b in (p, n))
    return np.maximum(near - far + margin, 0)


def slopes(function, x):
    x, found = np.asarray(x, np.float64), np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        step = np.zeros(x.shape)
        step[index] = 1e-6
        found[index] = (np.sum(function(x + step)) - np.sum(function(x - step))) / 2e-6
    return found


LABELS = np.array([0, 1, 1, 2, 0, 2, 1, 3])


@pytest.fixture
def embeddings():
    return np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.07, 0.5, 3.0])
def test_the_contrastive_loss_and_its_gradient_are_those_of_the_paper(embeddings, temperature):
    expected = contrastive(embeddings, LABELS, temperature)
    np.testing.assert_allclose(losses.ntxent(embeddings, LABELS, temperature), expected, rtol=1e-5)
    found = jax.grad(losses.ntxent)(embeddings, LABELS, temperature)
    np.testing.assert_allclose(found, slopes(lambda x: contrastive(x, LABELS, temperature), embeddings), atol=1e-5)
    theirs = optax.losses.ntxent(jnp.asarray(embeddings), jnp.asarray(LABELS), temperature)
    np.testing.assert_allclose(losses.ntxent(embeddings, LABELS, temperature), theirs, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e30])
def test_the_length_of_an_embedding_does_not_matter(embeddings, size):
    """Optax shortens what is below 3e-4."""
    x = embeddings * np.float32(size)
    np.testing.assert_allclose(losses.ntxent(x, LABELS), losses.ntxent(embeddings, LABELS), rtol=1e-5)
    assert np.isfinite(jax.grad(losses.ntxent)(x, LABELS)).all()


def test_without_a_pair_the_loss_and_its_gradient_are_zero(embeddings):
    value, slope = jax.value_and_grad(losses.ntxent)(embeddings, np.arange(8))
    assert value == 0 and not slope.any()
    assert np.isnan(optax.losses.ntxent(jnp.asarray(embeddings), jnp.arange(8)))
    assert losses.ntxent(embeddings[:0], LABELS[:0]) == 0


def test_without_a_rival_the_loss_and_its_gradient_are_zero(embeddings):
    value, slope = jax.value_and_grad(losses.ntxent)(embeddings, np.zeros(8, int))
    assert value == 0 and not slope.any()


def test_equal_and_zero_embeddings_have_finite_gradients(embeddings):
    x = embeddings.copy()
    x[1], x[2], x[3], x[4] = x[0], x[0], 0, 0
    value, slope = jax.value_and_grad(losses.ntxent)(x, LABELS)
    assert np.isfinite(value) and np.isfinite(slope).all() and not slope[3:5].any()


def test_a_low_temperature_keeps_small_losses_apart_from_zero():
    x = np.array([[1, 0.0], [1, 0.0], [0, 1.0], [0, 1.0]], np.float32)
    assert float(losses.ntxent(x, np.array([0, 0, 1, 1]), 0.02)) == pytest.approx(2 * np.exp(-50), rel=1e-5)


def test_an_example_left_out_is_in_no_pair_and_no_rival(embeddings):
    where = np.arange(8) != 2
    bad = embeddings.copy()
    bad[2] = np.nan
    np.testing.assert_allclose(
        losses.ntxent(bad, LABELS, where=where), contrastive(embeddings[where], LABELS[where], 0.07), rtol=1e-5
    )
    slope = jax.grad(lambda x: losses.ntxent(x, LABELS, where=where))(bad)
    assert np.isfinite(slope).all() and not slope[2].any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_embeddings_are_compared_in_float32(embeddings, dtype):
    x = jnp.asarray(embeddings, dtype)
    assert losses.ntxent(x, LABELS).dtype == jnp.float32
    np.testing.assert_array_equal(losses.ntxent(x, LABELS), losses.ntxent(x.astype(jnp.float32), LABELS))
    assert losses.triplet_margin_loss(x[:2], x[2:4], x[4:6]).dtype == jnp.float32


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda x: losses.ntxent(x.astype(int), LABELS), errors.DtypeError, "must be floating"),
        (lambda x: losses.ntxent(x[0], LABELS[:5]), errors.ShapeError, "[batch, size]"),
        (lambda x: losses.ntxent(x, LABELS[:5]), errors.ShapeError, "one per embedding"),
        (lambda x: losses.ntxent(x, LABELS.astype(float)), errors.DtypeError, "must be integers"),
        (lambda x: losses.ntxent(x, LABELS, 0.0), errors.ArgumentRangeError, "temperature"),
        (lambda x: losses.ntxent(x, LABELS, where=LABELS), errors.DtypeError, "where must be bool"),
        (lambda x: losses.triplet_margin_loss(x, x, x[:1]), errors.ShapeError, "negatives"),
        (lambda x: losses.triplet_margin_loss(x, x, LABELS), errors.DtypeError, "must be floating"),
        (lambda x: losses.triplet_margin_loss(x, x, x, axis=2), errors.ArgumentRangeError, "axis"),
        (lambda x: losses.triplet_margin_loss(x, x, x, norm_degree=0.5), errors.ArgumentRangeError, "norm_degree"),
        (lambda x: losses.triplet_margin_loss(x, x, x, eps=-1.0), errors.ArgumentRangeError, "eps"),
        (lambda x: losses.triplet_margin_loss(x, x, x, margin="1"), errors.ArgumentTypeError, "margin"),
    ],
)
def test_a_wrong_argument_is_named(embeddings, make, error, words):
    with pytest.raises(error) as caught:
        make(embeddings)
    assert words in str(caught.value)


@pytest.mark.parametrize("degree", [1, 1.5, 2, 3])
@pytest.mark.parametrize("eps", [0.0, 1e-6, 1.0])
def test_the_triplet_loss_and_its_gradient_are_those_of_the_paper(degree, eps):
    a, p, n = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
    found = losses.triplet_margin_loss(a, p, n, norm_degree=degree, margin=0.5, eps=eps)
    expected = triplet(*map(np.float64, (a, p, n)), degree, 0.5, eps)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=4 * EPS)
    found = jax.grad(lambda a: losses.triplet_margin_loss(a, p, n, norm_degree=degree, margin=0.5, eps=eps).sum())(a)
    np.testing.assert_allclose(found, slopes(lambda a: triplet(a, p, n, degree, 0.5, eps), a), atol=1e-5)
    if degree == 2:
        theirs = optax.losses.triplet_margin_loss(a, p, n, norm_degree=degree, margin=0.5, eps=eps)
        np.testing.assert_allclose(
            losses.triplet_margin_loss(a, p, n, margin=0.5, eps=eps), theirs, rtol=1e-5, atol=1e-6
        )


def test_with_an_odd_degree_optax_lets_terms_cancel():
    a, p, n = np.float32([[0, 0]]), np.float32([[1, -1]]), np.float32([[0, 0]])
    assert float(losses.triplet_margin_loss(a, p, n, norm_degree=1, margin=0.0, eps=0.0)[0]) == 2
    assert float(optax.losses.triplet_margin_loss(a, p, n, norm_degree=1, margin=0.0, eps=0.0)[0]) == 0


@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_equal_points_have_a_gradient_of_zero(eps):
    a = jnp.ones((2, 3))
    for degree in (1, 2, 3):
        value, slope = jax.value_and_grad(
            lambda x, degree=degree: losses.triplet_margin_loss(x, a, a, norm_degree=degree, eps=eps).sum()
        )(a)
        assert value == 2 and not slope.any()


@pytest.mark.parametrize("size", [1e-37, 1e-25, 1e25, 1e38])
def test_distances_of_any_size_are_distances(size):
    a, p, n = np.float32(size) * np.array([[[0, 0]], [[3, 0]], [[0, 1.25]]], np.float32)
    for degree in (1, 2, 3):
        value, slope = jax.value_and_grad(
            lambda a, degree=degree: losses.triplet_margin_loss(a, p, n, norm_degree=degree, margin=0.0, eps=0.0)[0]
        )(a)
        assert float(value) == pytest.approx(1.75 * size, rel=1e-5)
        np.testing.assert_allclose(slope, [[-1, 1]], rtol=1e-5)


def test_components_and_triplets_may_be_left_out():
    a, p, n = np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)
    expected = losses.triplet_margin_loss(a[:, :2], p[:, :2], n[:, :2])
    p[:, 2] = np.nan
    np.testing.assert_allclose(
        losses.triplet_margin_loss(a, p, n, where=np.array([[True, True, False]])), expected, rtol=4 * EPS
    )
    n[1] = np.nan
    where = np.array([True, False, True, True])
    found = losses.triplet_margin_loss(a[:, :2], p[:, :2], n[:, :2], where=where)
    np.testing.assert_allclose(found, np.where(where, expected, 0), rtol=4 * EPS)
    along = losses.triplet_margin_loss(a.T[:2], p.T[:2], n.T[:2], axis=0, where=where)
    np.testing.assert_allclose(along, found, rtol=4 * EPS)
