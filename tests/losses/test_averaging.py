"""Claims about the mean of losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradtx import errors, losses

EPS = float(np.finfo(np.float32).eps)


@pytest.fixture
def loss():
    return np.random.default_rng(0).random((6, 4)).astype(np.float32)


def test_the_mean_of_everything_is_the_mean(loss):
    np.testing.assert_allclose(losses.mean(loss), loss.astype(np.float64).mean(), rtol=2 * EPS)
    assert losses.mean(loss).shape == () and losses.mean(loss).dtype == jnp.float32


@pytest.mark.parametrize("shape", [(6,), (6, 4), (6, 1), (1, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, np.uint8])
def test_a_weight_stands_for_so_many_copies_of_its_example(loss, shape, dtype):
    weights = np.random.default_rng(1).integers(0, 5, shape).astype(dtype)
    each = np.broadcast_to(weights.reshape(*shape, *[1] * (2 - len(shape))), loss.shape).astype(int)
    copies = np.repeat(loss.ravel(), each.ravel())
    np.testing.assert_allclose(losses.mean(loss, weights=weights), copies.mean(dtype=np.float64), rtol=4 * EPS)


def test_the_gradient_is_the_share_of_the_weight(loss):
    weights = np.arange(6, dtype=np.float32)
    slopes = jax.grad(lambda loss: losses.mean(loss, weights=weights))(loss)
    np.testing.assert_allclose(slopes, np.broadcast_to(weights[:, None] / 60, (6, 4)), rtol=2 * EPS)
    by_weight = jax.grad(lambda weights: losses.mean(loss, weights=weights))(weights)
    mean = float(losses.mean(loss, weights=weights))
    np.testing.assert_allclose(by_weight, (loss - mean).sum(1) / 60, rtol=1e-4, atol=EPS)


def test_what_is_left_out_has_no_part_even_if_it_is_nan(loss):
    kept = np.array([True, False, True, True, False, True])
    bad, weights = loss.copy(), np.ones(6, np.float32)
    bad[~kept], weights[~kept] = np.nan, np.inf

    def mean(loss, weights):
        return losses.mean(loss, weights=weights, where=kept)

    np.testing.assert_allclose(mean(bad, weights), loss[kept].mean(), rtol=4 * EPS)
    slopes, by_weight = jax.grad(mean, argnums=(0, 1))(bad, weights)
    np.testing.assert_allclose(slopes[kept], 1 / 16, rtol=EPS)
    assert not slopes[~kept].any() and not by_weight[~kept].any() and np.isfinite(by_weight).all()


def test_nothing_that_counts_gives_zero_and_gradient_zero(loss):
    bad = np.full_like(loss, np.nan)
    for options in ({"where": np.zeros(6, bool)}, {"where": np.zeros((6, 4), bool), "weights": np.ones(6)}):
        value, slopes = jax.value_and_grad(lambda x, options=options: losses.mean(x, **options))(bad)
        assert value == 0 and not slopes.any()
    value, slopes = jax.value_and_grad(lambda w: losses.mean(loss, weights=w))(np.zeros(6, np.float32))
    assert value == 0 and np.isfinite(slopes).all()
    assert losses.mean(np.zeros((0, 4), np.float32)) == 0


def test_a_nan_that_counts_stays_visible(loss):
    loss[2, 1] = np.nan
    assert np.isnan(losses.mean(loss)) and np.isnan(losses.mean(loss, weights=np.zeros(6) + (np.arange(6) == 2)))


def test_the_mean_of_the_largest_floats_is_finite():
    np.testing.assert_allclose(losses.mean(np.full(1000, 3e38, np.float32)), 3e38, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_summed_in_float32(dtype):
    value = losses.mean(jnp.ones(70_000, dtype), weights=jnp.ones(70_000, dtype))
    assert value.dtype == jnp.float32 and float(value) == pytest.approx(1, rel=1e-5)


def test_float64_stays_float64_and_float32_stays_float32(loss):
    with jax.enable_x64(True):
        assert losses.mean(loss.astype(np.float64)).dtype == jnp.float64
        assert losses.mean(loss, weights=np.ones(6)).dtype == jnp.float32


def test_a_scalar_loss_is_its_own_mean():
    assert float(losses.mean(jnp.float32(3))) == 3
    assert float(losses.mean(jnp.float32(3), where=jnp.array(True))) == 3
    assert float(losses.mean(jnp.float32(3), weights=2.0)) == 3


@pytest.mark.parametrize(
    ("loss", "options", "error", "hint"),
    [
        (np.ones(6), {"weights": np.ones((6, 1))}, errors.ShapeError, "weights.reshape(6,)"),
        (np.ones((6, 4)), {"weights": np.ones(4)}, errors.ShapeError, "(6,)"),
        (np.ones((6, 4)), {"weights": np.ones((1, 6))}, errors.ShapeError, "weights.reshape(6,)"),
        (np.ones((6, 4)), {"weights": 2.0}, errors.ShapeError, "(6,)"),
        (np.ones((6, 4)), {"weights": np.ones((6, 4, 1))}, errors.ShapeError, "weights.reshape(6, 4)"),
        (np.ones(6), {"where": np.ones((6, 1), bool)}, errors.ShapeError, "where.reshape(6,)"),
        (np.ones((6, 4)), {"where": np.ones(4, bool)}, errors.ShapeError, "(6, 4)"),
        (np.ones(6), {"where": np.ones(6)}, errors.DtypeError, "mask > 0"),
        (np.ones(6), {"weights": np.ones(6, bool)}, errors.DtypeError, "where=mask"),
        (np.ones(6), {"weights": np.ones(6, complex)}, errors.DtypeError, "real"),
        (np.ones(6, int), {}, errors.DtypeError, "must be floating"),
        (np.ones(6, complex), {}, errors.DtypeError, "must be floating"),
    ],
)
def test_what_does_not_fit_is_named(loss, options, error, hint):
    with pytest.raises(error) as caught:
        losses.mean(loss, **options)
    assert hint in str(caught.value) and str(caught.value).startswith("mean(")
