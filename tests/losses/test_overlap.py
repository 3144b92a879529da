"""Claims about Dice losses, held against the papers' quotients in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradtx import errors, losses

EPS = float(np.finfo(np.float32).eps)


def softmax(z):
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) if z.shape[-1] > 1 else 1 / (1 + np.exp(-z))


def dice(z, t, alpha=0.5, beta=0.5, smooth=1.0):
    """Salehi et al. 2017, eq. 3, for each example and class."""
    p, axes = softmax(np.asarray(z, np.float64)), tuple(range(1, z.ndim - 1))
    hits = (p * t).sum(axes)
    return 1 - (hits + smooth) / (hits + alpha * (p * (1 - t)).sum(axes) + beta * ((1 - p) * t).sum(axes) + smooth)


def generalized(z, t, smooth=0.0):
    """Sudre et al. 2017, GDL, for each example, with the weights of the batch; all classes are there."""
    p, axes = softmax(np.asarray(z, np.float64)), tuple(range(1, z.ndim - 1))
    w = 1 / t.sum(tuple(range(t.ndim - 1))) ** 2
    w = w / w.mean()
    above, below = (w * ((p * t).sum(axes) + smooth)).sum(-1), (w * ((p + t).sum(axes) + 2 * smooth)).sum(-1)
    return (1 - 2 * above / below).mean()


def slopes(function, z):
    z, found = np.asarray(z, np.float64), np.zeros(z.shape)
    for index in np.ndindex(*z.shape):
        step = np.zeros(z.shape)
        step[index] = 1e-5
        found[index] = (function(z + step).sum() - function(z - step).sum()) / 2e-5
    return found


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(2, 3, 4, 3)).astype(np.float32)
    return z, np.eye(3)[rng.integers(3, size=(2, 3, 4))]


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3, "beta": 0.7}, {"smooth": 0.0}, {"smooth": 3.0, "alpha": 1.0}])
def test_the_loss_and_its_gradient_are_those_of_the_paper(example, options):
    z, t = example
    np.testing.assert_allclose(losses.dice_loss(z, t, reduction="none", **options), dice(z, t, **options), rtol=8 * EPS)
    found = jax.grad(lambda z: losses.dice_loss(z, t, reduction="sum", **options).sum())(z)
    np.testing.assert_allclose(found, slopes(lambda z: dice(z, t, **options), z), atol=1e-7)


@pytest.mark.parametrize(
    "options",
    [{}, {"alpha": 0.3, "beta": 0.7, "reduction": "sum"}, {"ignore_background": True, "smooth": 0.5},
     {"class_weights": jnp.array([1.0, 2.0, 0.5]), "reduction": "none"}, {"axis": (0, 1, 2)}, {"axis": 1}],
)  # fmt: skip
def test_optax_computes_the_same(example, options):
    np.testing.assert_allclose(
        losses.dice_loss(*example, **options), optax.losses.dice_loss(*map(jnp.asarray, example), **options), rtol=1e-5
    )


def test_probabilities_may_be_given_under_jit_too(example):
    z, t = example
    loss = functools.partial(losses.dice_loss, apply_softmax=False)
    p = jax.nn.softmax(z)
    np.testing.assert_allclose(jax.jit(loss)(p, t), losses.dice_loss(z, t), rtol=8 * EPS)
    np.testing.assert_allclose(loss(p, t), optax.losses.dice_loss(p, jnp.asarray(t), apply_softmax=False), rtol=1e-5)


def test_binary_predictions_may_lack_the_class_axis(example):
    z, t = example[0][..., 0], example[1][..., 0]
    expected = dice(z[..., None], t[..., None])[..., 0]
    for x, y in ((z, t), (z[..., None], t[..., None]), (z[..., None], t), (z, t[..., None]), (z, t.astype(bool))):
        np.testing.assert_allclose(losses.binary_dice_loss(x, y), expected, rtol=8 * EPS)
    theirs = optax.losses.binary_dice_loss(jnp.asarray(z), jnp.asarray(t))
    np.testing.assert_allclose(losses.binary_dice_loss(z, t), theirs, rtol=1e-5)
    p = jax.nn.sigmoid(z)
    np.testing.assert_allclose(losses.binary_dice_loss(p, t, apply_sigmoid=False), expected, rtol=8 * EPS)


def test_with_sigmoid_off_optax_raises():
    with pytest.raises(ValueError, match="sum to 1"):
        optax.losses.binary_dice_loss(jnp.full((1, 2), 0.5), jnp.ones((1, 2)), apply_sigmoid=False)


def test_the_generalized_loss_is_that_of_the_paper(example):
    z, t = example
    loss = losses.multiclass_generalized_dice_loss
    for smooth in (0.0, 1.0):
        np.testing.assert_allclose(loss(z, t, smooth=smooth), generalized(z, t, smooth), rtol=8 * EPS)
    found = jax.grad(lambda z: loss(z, t, smooth=0.0))(z)
    np.testing.assert_allclose(found, slopes(lambda z: generalized(z, t), z), atol=1e-7)


def test_a_class_that_is_not_there_does_not_drown_the_others(example):
    """Optax gives it 1e7: what the others lose no longer counts."""
    z, t = example
    t = t[..., [0, 1, 2]] * np.array([1, 1, 0]) + np.array([0, 1, 0]) * t[..., 2:]
    wrong, right = np.log(1e-6 + t[..., [1, 0, 2]]), np.log(1e-6 + t)
    ours, theirs = losses.multiclass_generalized_dice_loss, optax.losses.multiclass_generalized_dice_loss
    assert float(ours(wrong, t)) > 0.7 and float(ours(right, t)) < 1e-4
    assert float(theirs(jnp.asarray(wrong), jnp.asarray(t))) < 1e-3
    assert np.isfinite(jax.grad(lambda z: ours(z, t, smooth=0.0))(z)).all()


def test_ignored_background_has_no_weight(example):
    z, t = example
    found = losses.multiclass_generalized_dice_loss(z, t, ignore_background=True, smooth=0.0)
    p = softmax(z.astype(float))[..., 1:]
    w = 1 / t[..., 1:].sum((0, 1, 2)) ** 2
    above, below = (w * (p * t[..., 1:]).sum((1, 2))).sum(-1), (w * (p + t[..., 1:]).sum((1, 2))).sum(-1)
    np.testing.assert_allclose(found, (1 - 2 * above / below).mean(), rtol=8 * EPS)


def test_what_is_neither_there_nor_predicted_costs_nothing_without_smoothing():
    z, t = np.full((1, 4, 1), -np.inf, np.float32), np.zeros((1, 4, 1))
    value, slope = jax.value_and_grad(lambda z: losses.dice_loss(z, t, smooth=0.0)[0])(z)
    assert value == 0 and not slope.any()
    assert np.isnan(optax.losses.dice_loss(jnp.asarray(z), jnp.asarray(t), smooth=0.0)).all()


@pytest.mark.parametrize("size", [20.0, 80.0, 1e30, 3e38])
def test_extreme_logits_have_finite_gradients_and_small_losses_their_precision(size):
    t = np.eye(2)[[[0, 0, 1]]]
    for sign in (1, -1):
        z = (sign * size * (2 * t - 1) / 2).astype(np.float32)
        value, slope = jax.value_and_grad(lambda z: losses.dice_loss(z, t, smooth=0.0)[0])(z)
        assert np.isfinite(slope).all()
        if sign > 0 and size < 100:
            assert float(value) == pytest.approx(1.125 * np.exp(-size), rel=1e-4)
        elif sign < 0:
            assert value == 1


def test_pixels_left_out_have_no_part_in_anything(example):
    z, t = example
    where = np.ones((2, 3, 4), bool)
    where[:, 1] = False
    bad_z, bad_t = z.copy(), t.copy()
    bad_z[:, 1], bad_t[:, 1] = np.nan, np.nan
    for loss in (losses.dice_loss, losses.multiclass_generalized_dice_loss):
        np.testing.assert_allclose(loss(bad_z, bad_t, where=where), loss(z[:, [0, 2]], t[:, [0, 2]]), rtol=4 * EPS)
        slope = jax.grad(lambda z, loss=loss: loss(z, bad_t, where=where).sum())(bad_z)
        assert np.isfinite(slope).all() and not slope[:, 1].any() and slope[:, 0].any()
    found = losses.binary_dice_loss(bad_z[..., 0], bad_t[..., 0], where=where)
    np.testing.assert_allclose(found, losses.binary_dice_loss(z[:, [0, 2]][..., 0], t[:, [0, 2]][..., 0]), rtol=4 * EPS)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_computed_in_float32(example, dtype):
    z, t = jnp.asarray(example[0], dtype), example[1]
    for loss in (losses.dice_loss, losses.multiclass_generalized_dice_loss):
        assert loss(z, t).dtype == jnp.float32
        np.testing.assert_array_equal(loss(z, t), loss(z.astype(jnp.float32), t))


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda z, t: losses.dice_loss(z.astype(int), t), errors.DtypeError, "must be floating"),
        (lambda z, t: losses.dice_loss(z, t[:, :1]), errors.ShapeError, "(2, 3, 4, 3)"),
        (lambda z, t: losses.dice_loss(z, t, reduction="max"), errors.ArgumentRangeError, "'mean'"),
        (lambda z, t: losses.dice_loss(z, t, smooth=-1.0), errors.ArgumentRangeError, "smooth"),
        (lambda z, t: losses.dice_loss(z, t, axis=4), errors.ArgumentRangeError, "axis"),
        (lambda z, t: losses.dice_loss(z, t, class_weights=np.ones(2)), errors.ShapeError, "(3,), one per class"),
        (lambda z, t: losses.dice_loss(z, t, class_weights=np.ones(3, bool)), errors.DtypeError, "real numbers"),
        (lambda z, t: losses.dice_loss(z, t, where=np.ones(3)), errors.DtypeError, "where must be bool"),
        (lambda z, t: losses.dice_loss(np.float32(1), 1.0), errors.ShapeError, "one number is no region"),
        (
            lambda z, t: losses.binary_dice_loss(z, t[..., 0], apply_sigmoid=1),
            errors.ArgumentTypeError,
            "apply_sigmoid",
        ),
        (lambda z, t: losses.multiclass_generalized_dice_loss(z, t * 1j), errors.DtypeError, "must be real"),
    ],
)
def test_a_wrong_argument_is_named(example, make, error, words):
    with pytest.raises(error) as caught:
        make(*example)
    assert words in str(caught.value)
