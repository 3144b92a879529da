"""Claims about ``losses.softmax_cross_entropy``, held against float64 NumPy and, where that cancels, mpmath."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest

from gradtx import errors
from gradtx.losses import poly_loss_cross_entropy, softmax_cross_entropy

EPS = float(np.finfo(np.float32).eps)


def oracle(logits, labels):
    """The loss and its gradient in float64 for dense labels on the last axis."""
    z, weights = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    with np.errstate(invalid="ignore"):
        shifted = z - z.max(-1, keepdims=True)
        log_sum = np.log(np.exp(shifted).sum(-1, keepdims=True))
        costs = np.where(weights == 0, 0.0, weights * (log_sum - shifted))
    return costs.sum(-1), weights.sum(-1, keepdims=True) * np.exp(shifted - log_sum) - weights


def one_hot(labels, classes):
    return np.eye(classes, dtype=np.float32)[labels]


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    return (4 * rng.normal(size=(64, 10))).astype(np.float32), rng.integers(0, 10, 64)


def summed(logits, labels, **options):
    return jnp.sum(softmax_cross_entropy(logits, labels, **options))


def test_integer_labels_agree_with_float64(example):
    logits, labels = example
    loss, gradient = oracle(logits, one_hot(labels, 10))
    np.testing.assert_allclose(softmax_cross_entropy(logits, labels), loss, rtol=8 * EPS)
    np.testing.assert_allclose(jax.grad(summed)(logits, labels), gradient, rtol=32 * EPS, atol=1e-12)


def test_dense_labels_agree_with_float64(example):
    logits, labels = example
    smooth = 0.9 * one_hot(labels, 10) + 0.01
    loss, gradient = oracle(logits, smooth)
    np.testing.assert_allclose(softmax_cross_entropy(logits, smooth), loss, rtol=8 * EPS)
    np.testing.assert_allclose(jax.grad(summed)(logits, smooth), gradient, atol=4 * EPS)


def test_weights_need_not_sum_to_one(example):
    logits, labels = example
    weights = 2.5 * one_hot(labels, 10)
    np.testing.assert_allclose(softmax_cross_entropy(logits, weights), oracle(logits, weights)[0], rtol=8 * EPS)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32, np.bool_])
def test_one_hot_labels_of_any_real_dtype_give_the_integer_loss(example, dtype):
    logits, labels = example
    dense = softmax_cross_entropy(logits, one_hot(labels, 10).astype(dtype))
    np.testing.assert_allclose(dense, softmax_cross_entropy(logits, labels), rtol=2 * EPS)


@pytest.mark.parametrize("margin", [1.0, 10.0, 20.0, 40.0, 80.0])
def test_loss_and_gradient_of_a_confident_prediction_keep_their_relative_precision(margin):
    with mpmath.workdps(60):
        rest = mpmath.exp(-mpmath.mpf(margin))
        loss, slope = float(mpmath.log1p(rest)), float(-rest / (1 + rest))
    logits = np.array([[margin, 0.0]], np.float32)
    assert float(softmax_cross_entropy(logits, [0])[0]) == pytest.approx(loss, rel=4 * EPS, abs=0)
    gradient = jax.grad(summed)(logits, jnp.array([0]))[0]
    np.testing.assert_allclose(gradient, [slope, -slope], rtol=64 * EPS, atol=0)


@pytest.mark.parametrize(
    "logits", [[1e30, -1e30, 0.0], [-1e30, -1e30, -1e30], [3e38, -3e38, 3e38], [0.0, -np.inf, 5.0]]
)
@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize("is_dense", [False, True])
def test_the_gradient_is_exact_at_extreme_logits(logits, label, is_dense):
    z = np.array([logits], np.float32)
    labels = one_hot([label], 3) if is_dense else np.array([label])
    loss, gradient = oracle(z, one_hot([label], 3))
    np.testing.assert_allclose(softmax_cross_entropy(z, labels), loss, rtol=4 * EPS)
    np.testing.assert_allclose(jax.grad(summed)(z, labels), gradient, atol=4 * EPS)


@pytest.mark.parametrize("is_dense", [False, True])
def test_a_label_of_probability_zero_costs_infinity_and_its_gradient_is_finite(is_dense):
    z = np.array([[0.0, -np.inf]], np.float32)
    labels = one_hot([1], 2) if is_dense else np.array([1])
    assert softmax_cross_entropy(z, labels)[0] == np.inf
    np.testing.assert_array_equal(jax.grad(summed)(z, labels), [[1.0, -1.0]])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_without_a_softmax_give_nan(value):
    assert np.isnan(softmax_cross_entropy(np.array([[0.0, value]], np.float32), [1])[0])


def test_equal_logits_share_the_probability():
    z = np.zeros((1, 4), np.float32)
    assert float(softmax_cross_entropy(z, [2])[0]) == pytest.approx(np.log(4), rel=EPS)
    np.testing.assert_allclose(jax.grad(summed)(z, jnp.array([2])), [[0.25, 0.25, -0.75, 0.25]], rtol=4 * EPS)


@pytest.mark.parametrize("is_dense", [False, True])
def test_second_derivatives_are_those_of_the_softmax(example, is_dense):
    logits, labels = example[0][0], example[1][0]
    target = one_hot(labels, 10) if is_dense else labels
    p = np.exp(logits.astype(np.float64) - logits.max())
    p /= p.sum()
    hessian = jax.hessian(summed)(jnp.asarray(logits), jnp.asarray(target))
    np.testing.assert_allclose(hessian, np.diag(p) - np.outer(p, p), atol=8 * EPS)
    tied = jax.hessian(summed)(jnp.zeros(2), jnp.array(0) if not is_dense else jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(tied, [[0.25, -0.25], [-0.25, 0.25]], atol=EPS)


def test_the_gradient_with_respect_to_dense_labels_is_the_cost_of_each_class(example):
    logits, labels = example
    costs = jax.grad(summed, argnums=1)(jnp.asarray(logits), jnp.asarray(one_hot(labels, 10)))
    z = logits.astype(np.float64)
    expected = np.log(np.exp(z).sum(-1, keepdims=True)) - z
    np.testing.assert_allclose(costs, expected, rtol=8 * EPS, atol=EPS)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_logits_are_computed_in_float32(example, dtype):
    logits, labels = jnp.asarray(example[0], dtype), example[1]
    loss = softmax_cross_entropy(logits, labels)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, oracle(logits, one_hot(labels, 10))[0], rtol=8 * EPS)
    assert jax.grad(summed)(logits, labels).dtype == dtype


def test_the_largest_float16_logits_are_finite():
    logits = jnp.array([[6e4, -6e4]], jnp.float16)
    np.testing.assert_array_equal(softmax_cross_entropy(logits, [1]), [119_936.0 + 64.0])


def test_float64_stays_float64(example):
    logits, labels = example
    with jax.enable_x64(True):
        loss = softmax_cross_entropy(logits.astype(np.float64), labels)
        np.testing.assert_allclose(loss, oracle(logits, one_hot(labels, 10))[0], rtol=1e-13)
        assert np.isnan(softmax_cross_entropy(logits[:1], np.array([2**32])))


@pytest.mark.parametrize("label", [-1, -10, 10, 255, 2**31 - 1])
def test_a_label_out_of_range_is_nan_for_its_example_alone(example, label):
    logits, labels = example[0][:3], np.array([3, label, 4])
    assert np.isnan(softmax_cross_entropy(logits, labels)).tolist() == [False, True, False]


def test_unsigned_labels_of_one_byte_reach_every_class_they_can():
    logits = np.zeros((2, 1000), np.float32)
    loss = softmax_cross_entropy(logits, np.array([0, 255], np.uint8))
    np.testing.assert_allclose(loss, np.log(1000), rtol=2 * EPS)


def test_masking_the_loss_afterwards_gives_the_right_gradient(example):
    logits, labels = example[0][:2], np.array([3, -1])

    def masked(z):
        return jnp.sum(jnp.where(labels >= 0, softmax_cross_entropy(z, labels), 0))

    expected = oracle(logits, one_hot([3, 0], 10))[1] * [[1], [0]]
    np.testing.assert_allclose(jax.grad(masked)(logits), expected, rtol=32 * EPS, atol=1e-12)


def test_an_example_left_out_has_no_loss_and_no_gradient(example):
    logits, labels = example[0][:3].copy(), np.array([3, -1, 4])
    logits[1] = np.nan
    loss = softmax_cross_entropy(logits, labels, where=labels >= 0)
    assert loss[1] == 0 and loss[0] > 0
    gradient = jax.grad(summed)(logits, labels, where=labels >= 0)
    assert not gradient[1].any() and np.isfinite(gradient).all()


@pytest.mark.parametrize("is_dense", [False, True])
def test_a_class_left_out_is_no_class(example, is_dense):
    logits, labels = example[0][:, :4], example[1] % 3
    target = one_hot(labels, 4) if is_dense else labels
    where = np.array([[True, True, True, False]])
    expected = oracle(logits[:, :3], one_hot(labels, 3))
    np.testing.assert_allclose(softmax_cross_entropy(logits, target, where=where), expected[0], rtol=8 * EPS)
    gradient = jax.grad(summed)(logits, target, where=where)
    np.testing.assert_allclose(gradient[:, :3], expected[1], atol=4 * EPS)
    assert not gradient[:, 3].any()


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_the_class_axis_may_be_any(axis):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(2, 3, 5)).astype(np.float32), rng.integers(0, 5, (2, 3))
    expected = softmax_cross_entropy(logits, labels)
    moved = softmax_cross_entropy(np.moveaxis(logits, -1, axis), labels, axis=axis)
    np.testing.assert_allclose(moved, expected, rtol=2 * EPS)


def test_one_example_without_a_batch_axis_gives_a_scalar():
    assert softmax_cross_entropy(jnp.zeros(3), 1).shape == ()


def test_jit_and_vmap_change_nothing(example):
    logits, labels = example
    eager = softmax_cross_entropy(logits, labels)
    np.testing.assert_allclose(jax.jit(softmax_cross_entropy)(logits, labels), eager, rtol=2 * EPS)
    np.testing.assert_allclose(jax.vmap(softmax_cross_entropy)(logits, labels), eager, rtol=2 * EPS)


@pytest.mark.parametrize(
    ("logits", "labels", "options", "error", "hint"),
    [
        (np.zeros((4, 3), int), np.zeros(4, int), {}, errors.DtypeError, "logits come before labels"),
        (np.zeros((4, 3)), np.zeros(4), {}, errors.DtypeError, "labels.astype(jnp.int32)"),
        (np.zeros((4, 3)), np.zeros(4, bool), {}, errors.DtypeError, "labels.astype(jnp.int32)"),
        (np.zeros((4, 3)), np.zeros((4, 3), complex), {}, errors.DtypeError, "labels.real"),
        (np.zeros((4, 3)), np.zeros((4, 1), int), {}, errors.ShapeError, "labels.reshape(4,)"),
        (np.zeros((4, 3)), np.zeros(3, int), {}, errors.ShapeError, "of these very examples"),
        (np.zeros((4, 3)), np.zeros((1, 3)), {}, errors.ShapeError, "(4, 3)"),
        (np.zeros((4, 0)), np.zeros(4, int), {}, errors.ShapeError, "at least one class"),
        (np.zeros((4, 3)), np.zeros(4, int), {"axis": 2}, errors.ArgumentRangeError, "axis=-1"),
        (np.zeros((4, 3)), np.zeros(4, int), {"axis": (0, 1)}, errors.ArgumentTypeError, "axis=-1"),
        (np.float32(0), np.int32(0), {}, errors.ArgumentRangeError, "class axis"),
        (np.zeros((4, 3)), np.zeros(4, int), {"where": np.ones(4)}, errors.DtypeError, "mask > 0"),
        (np.zeros((4, 3)), np.zeros(4, int), {"where": np.ones(3, bool)}, errors.ShapeError, "labels >= 0"),
        (np.zeros((4, 3)), np.zeros(4, int), {"where": np.ones((2, 3), bool)}, errors.ShapeError, "labels >= 0"),
    ],
)
def test_a_misfit_says_what_to_write(logits, labels, options, error, hint):
    with pytest.raises(error) as caught:
        softmax_cross_entropy(logits, labels, **options)
    assert hint in str(caught.value)
    assert str(caught.value).startswith("softmax_cross_entropy(")


def test_it_is_optax_function_of_integer_labels_and_its_safe_one():
    """One function for three of Optax's: the shape of the labels decides, and ``0 log 0`` is 0 throughout."""
    logits = np.array([[0.5, -np.inf, 2.0], [1.0, 0.0, -np.inf]], np.float32)
    numbers, weights = np.array([2, 0]), np.array([[0.25, 0, 0.75], [1, 0, 0]], np.float32)
    theirs = optax.softmax_cross_entropy_with_integer_labels(logits, numbers)
    np.testing.assert_allclose(softmax_cross_entropy(logits, numbers), theirs, rtol=8 * EPS)
    theirs = optax.safe_softmax_cross_entropy(logits, weights)
    np.testing.assert_allclose(softmax_cross_entropy(logits, weights), theirs, rtol=8 * EPS)
    assert np.isfinite(jax.grad(lambda z: softmax_cross_entropy(z, weights).sum())(logits)).all()


def test_poly_loss_with_epsilon_zero_is_cross_entropy_and_its_slope_grows_with_epsilon():
    z, y = jnp.array([[1.0, 2.0, 0.5]]), jnp.array([1])
    np.testing.assert_array_equal(poly_loss_cross_entropy(z, y, epsilon=0.0), softmax_cross_entropy(z, y))
    p = jax.nn.softmax(z)[0, 1]
    plain, poly = (jax.grad(lambda z, e=e: poly_loss_cross_entropy(z, y, epsilon=e)[0])(z) for e in (0.0, 2.0))
    np.testing.assert_allclose(poly, plain * (1 + 2 * p), rtol=1e-5)
    with pytest.raises(errors.ArgumentTypeError, match="epsilon must be a number"):
        poly_loss_cross_entropy(z, y, epsilon=None)
