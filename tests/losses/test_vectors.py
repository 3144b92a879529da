"""Claims about losses of vectors and distributions, and about smooth labels, that the table of losses does not make."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradtx import errors, losses
from tests.losses.table import cosine, kl

EPS = float(np.finfo(np.float32).eps)

OVER_AXES = [
    losses.kl_divergence,
    losses.kl_divergence_with_log_targets,
    losses.cosine_similarity,
    losses.cosine_distance,
]
over_axes = pytest.mark.parametrize("loss", OVER_AXES, ids=lambda loss: loss.__name__)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return np.log(rng.dirichlet(np.ones(5), (3, 4))).astype(np.float32), rng.dirichlet(np.ones(5), (3, 4))


@over_axes
@pytest.mark.parametrize("axis", [0, 1, -1, (0, 2), (1, -1), None])
def test_any_axes_may_be_those_of_the_classes(loss, axis, arrays):
    x, y = arrays
    y = np.log(y) if "log_targets" in loss.__name__ else y
    np.testing.assert_allclose(loss(x, y, axis=axis), getattr(optax.losses, loss.__name__)(x, y, axis=axis), rtol=2e-5)


@over_axes
@pytest.mark.parametrize(
    ("axis", "error"),
    [(3, errors.ArgumentRangeError), ((0, 0), errors.ArgumentRangeError), ((0, -3), errors.ArgumentRangeError),
     ((), errors.ArgumentRangeError), (1.0, errors.ArgumentTypeError), ("x", errors.ArgumentTypeError),
     (True, errors.ArgumentTypeError)],
)  # fmt: skip
def test_an_axis_that_is_none_is_named(loss, axis, error, arrays):
    with pytest.raises(error, match="axis=-1"):
        loss(*arrays, axis=axis)


@over_axes
def test_a_class_that_does_not_count_is_as_if_it_were_not_there(loss, arrays):
    x, y = arrays
    y = np.log(y) if "log_targets" in loss.__name__ else y
    bad_x, bad_y = x.copy(), y.copy()
    bad_x[..., 1], bad_y[..., 1] = np.nan, np.nan
    where = np.arange(5)[None, None] != 1
    left = np.delete(x, 1, -1), np.delete(y, 1, -1)
    np.testing.assert_allclose(loss(bad_x, bad_y, where=where), loss(*left), rtol=1e-5, atol=EPS)
    slopes = jax.grad(lambda x: loss(x, bad_y, where=where).sum())(bad_x)
    expected = jax.grad(lambda x: loss(x, left[1]).sum())(left[0])
    np.testing.assert_allclose(np.delete(slopes, 1, -1), expected, rtol=1e-4, atol=1e-6)
    assert not slopes[..., 1].any()


# Distributions.


def test_a_target_of_zero_adds_nothing_and_has_no_slope_of_infinity():
    log_p, t = jnp.array([-0.5, -jnp.inf, -1.0]), jnp.array([0.5, 0.0, 0.0])
    value, slopes = jax.value_and_grad(losses.kl_divergence, argnums=(0, 1))(log_p, t)
    assert float(value) == pytest.approx(float(kl([-0.5, 0, 0], [0.5, 0, 0])))
    np.testing.assert_array_equal(slopes[0], [-0.5, 0, 0])
    assert np.isfinite(slopes[1]).all()


def test_a_prediction_of_zero_where_there_is_a_target_costs_infinity_with_a_finite_gradient():
    log_p, t = jnp.array([0.0, -jnp.inf]), jnp.array([0.5, 0.5])
    value, slopes = jax.value_and_grad(losses.kl_divergence)(log_p, t)
    assert value == np.inf
    np.testing.assert_array_equal(slopes, [-0.5, -0.5])


def test_logarithms_of_zero_have_gradient_zero():
    log_p, s = jnp.array([0.0, -jnp.inf]), jnp.array([0.0, -jnp.inf])
    value, slopes = jax.value_and_grad(losses.kl_divergence_with_log_targets, argnums=(0, 1))(log_p, s)
    assert value == 0
    np.testing.assert_array_equal(slopes[0], [-1, 0])
    np.testing.assert_array_equal(slopes[1], [1, 0])


def test_one_distribution_does_not_diverge_from_itself(arrays):
    log_p, _ = arrays
    assert not losses.kl_divergence_with_log_targets(log_p, log_p).any()
    np.testing.assert_allclose(losses.kl_divergence(log_p, np.exp(log_p)), 0, atol=EPS)


def test_the_divergence_is_cross_entropy_less_entropy(arrays):
    logits, t = 3 * arrays[0], arrays[1].astype(np.float32)
    entropy = -np.sum(t * np.log(t), -1)
    divergence = losses.kl_divergence(jax.nn.log_softmax(logits), t)
    np.testing.assert_allclose(divergence, losses.softmax_cross_entropy(logits, t) - entropy, rtol=1e-5, atol=4 * EPS)


def test_pytorch_computes_the_same_divergence(arrays):
    torch = pytest.importorskip("torch", reason="PyTorch is no dependency of the tests")
    log_p, t = arrays[0], arrays[1].astype(np.float32)
    theirs = torch.nn.functional.kl_div(torch.tensor(log_p), torch.tensor(t), reduction="none").numpy().sum(-1)
    np.testing.assert_allclose(losses.kl_divergence(log_p, t), theirs, rtol=1e-5)


# Angles.


@pytest.mark.parametrize("epsilon", [0.0, 1e-8, 1.0])
@pytest.mark.parametrize("loss", [losses.cosine_similarity, losses.cosine_distance])
def test_a_zero_vector_has_a_finite_gradient(loss, epsilon):
    zeros, v = jnp.zeros(3), jnp.array([1.0, 2.0, 2.0])
    for pair in ((zeros, v), (v, zeros), (zeros, zeros)):
        value, slopes = jax.value_and_grad(lambda pair: loss(*pair, epsilon=epsilon))(pair)
        assert value == (0 if loss is losses.cosine_similarity else 1)
        assert all(np.isfinite(slope).all() for slope in slopes)


def test_without_epsilon_a_zero_vector_has_gradient_zero():
    assert not jax.grad(losses.cosine_similarity)(jnp.zeros(3), jnp.ones(3)).any()


@pytest.mark.parametrize("size", [1e-12, 1e-4, 1e-3, 0.5, 2.0])
def test_epsilon_is_the_least_square_of_a_norm_as_in_optax(size):
    a, b = np.float32(size) * np.array([[0.6, 0.8]], np.float32), np.array([[1.0, 0.5]], np.float32)
    for name in ("cosine_similarity", "cosine_distance"):
        ours, theirs = getattr(losses, name), getattr(optax, name)
        np.testing.assert_allclose(ours(a, b, epsilon=1e-6), theirs(a, b, epsilon=1e-6), rtol=1e-6)
        slopes, expected = (jax.grad(lambda a, f=f: f(a, b, epsilon=1e-6).sum())(a) for f in (ours, theirs))
        np.testing.assert_allclose(slopes, expected, rtol=1e-5, atol=1e-5 / size if size >= 1e-3 else 0)
    assert float(losses.cosine_similarity(a, b, epsilon=1e-6)[0]) == pytest.approx(
        float(cosine(a[0].tolist(), b[0].tolist(), 1e-6)), rel=4 * EPS
    )


@pytest.mark.parametrize("angle", [1e-2, 1e-4, 1e-6])
def test_the_distance_tells_small_angles_apart(angle):
    a, b = np.array([1.0, 0.0], np.float32), np.array([np.cos(angle), np.sin(angle)], np.float32)
    exact = float(1 - cosine(a.tolist(), b.tolist()))
    assert float(losses.cosine_distance(a, b)) == pytest.approx(exact, rel=1e-3)
    assert float(jax.grad(losses.cosine_distance)(a, b)[1]) == pytest.approx(-angle, rel=1e-3)


def test_equal_vectors_have_distance_and_gradient_zero_exactly():
    a = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    assert not losses.cosine_distance(a, a).any()
    assert not losses.cosine_distance(a, 4 * a).any()
    slopes = jax.grad(lambda x: losses.cosine_distance(x, a).sum())(a)
    np.testing.assert_allclose(slopes, 0, atol=2 * EPS)


def test_the_distance_is_never_negative():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(10_000, 3)).astype(np.float32)
    b = np.float32(1 + 1e-7 * rng.normal(size=(10_000, 3))) * a
    assert float(losses.cosine_distance(a, b).min()) >= 0


def test_pytorch_computes_the_same_similarity():
    torch = pytest.importorskip("torch", reason="PyTorch is no dependency of the tests")
    a, b = np.random.default_rng(0).normal(size=(2, 20, 5)).astype(np.float32)
    theirs = torch.nn.functional.cosine_similarity(torch.tensor(a), torch.tensor(b)).numpy()
    np.testing.assert_allclose(losses.cosine_similarity(a, b), theirs, atol=4 * EPS)


@pytest.mark.parametrize("epsilon", [-1.0, np.inf])
def test_an_epsilon_out_of_range_is_named(epsilon):
    with pytest.raises(errors.ArgumentRangeError, match="epsilon must be"):
        losses.cosine_distance(np.ones(3, np.float32), np.ones(3), epsilon=epsilon)


# Smooth labels.


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("axis", [-1, 0, (0, 1), None])
def test_smooth_labels_are_those_of_optax(alpha, axis):
    labels = np.eye(5, dtype=np.float32)[[1, 4, 0]]
    np.testing.assert_allclose(
        losses.smooth_labels(labels, alpha, axis=axis), optax.smooth_labels(labels, alpha, axis=axis), rtol=2 * EPS
    )


def test_smooth_labels_still_add_up_to_one():
    labels = np.eye(5, dtype=np.float32)[[1, 4, 0]]
    where = np.array([[True, True, False, True, True]] * 3)
    for smooth in (losses.smooth_labels(labels, 0.3), losses.smooth_labels(labels, 0.3, where=where)):
        np.testing.assert_allclose(smooth.sum(-1), 1, rtol=2 * EPS)
    assert not losses.smooth_labels(labels, 0.3, where=where)[:, 2].any()


def test_smooth_labels_of_low_precision_are_computed_in_float32():
    smooth = losses.smooth_labels(jnp.eye(3, dtype=jnp.bfloat16), 0.1)
    assert smooth.dtype == jnp.float32
    np.testing.assert_allclose(smooth[0], [0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3], rtol=2 * EPS)


def test_smoothing_is_the_pytorch_option():
    torch = pytest.importorskip("torch", reason="PyTorch is no dependency of the tests")
    logits, labels = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32), np.arange(20) % 5
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(labels), label_smoothing=0.1, reduction="none"
    ).numpy()
    smooth = losses.smooth_labels(jax.nn.one_hot(labels, 5), 0.1)
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, smooth), theirs, rtol=8 * EPS)


def test_nothing_is_left_of_an_example_that_does_not_count():
    smooth = losses.smooth_labels(np.full((2, 3), np.nan, np.float32), 0.1, where=np.zeros(2, bool))
    assert not smooth.any()


@pytest.mark.parametrize(
    ("labels", "alpha", "error", "hint"),
    [
        (np.array([1, 2]), 0.1, errors.DtypeError, "jax.nn.one_hot(labels, classes)"),
        (np.eye(2), 1.1, errors.ArgumentRangeError, "alpha must be"),
        (np.eye(2), -0.1, errors.ArgumentRangeError, "alpha must be"),
        (np.eye(2), "0.1", errors.ArgumentTypeError, "alpha must be"),
        (np.float32(1), 0.1, errors.ArgumentRangeError, "axis=-1"),
    ],
)
def test_labels_that_cannot_be_smoothed_are_named(labels, alpha, error, hint):
    with pytest.raises(error) as caught:
        losses.smooth_labels(labels, alpha)
    assert hint in str(caught.value) and str(caught.value).startswith("smooth_labels(")
