"""Claims about mean and variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradtx import errors
from gradtx.norm import mean_and_variance


@pytest.mark.parametrize("offset", [0.0, 1e2, -1e4, 1e6])
@pytest.mark.parametrize("axes", [0, -1, (0, 1), (1, 2), (0, 1, 2), ()])
def test_both_are_right_at_every_offset(axes, offset):
    x = (np.random.default_rng(0).normal(size=(40, 3, 20)) + offset).astype(np.float32)
    mean, variance = mean_and_variance(x, axes)
    exact = x.astype(np.float64)
    deviation = exact.std(axes)
    assert np.all(np.abs(mean - exact.mean(axes)) <= 1e-7 * np.abs(exact.mean(axes)) + 3e-7 * deviation)
    np.testing.assert_allclose(variance, exact.var(axes), rtol=2e-6)


@pytest.mark.parametrize("size", [10, 1_000, 100_000, 1_000_000])
def test_long_sums_lose_no_digits(size):
    x = np.random.default_rng(1).lognormal(size=(size, 2)).astype(np.float32)
    mean, variance = mean_and_variance(x, 0)
    np.testing.assert_allclose(mean, x.mean(0, dtype=np.float64), rtol=3e-7)
    np.testing.assert_allclose(variance, x.var(0, dtype=np.float64), rtol=2e-6)


@pytest.mark.parametrize("apart", [1.0, 1e3, 1e6])
def test_the_sampled_values_may_lie_apart_from_all_others(apart):
    """The worst case: every sixteenth is far away, so that the pivot is 3.9 deviations from the mean."""
    x = np.random.default_rng(2).normal(size=(1600, 2))
    x[::16] += apart
    x = x.astype(np.float32)
    mean, variance = mean_and_variance(x, 0)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(variance, exact.var(0), rtol=1e-5)
    np.testing.assert_allclose(mean, exact.mean(0), rtol=0, atol=1e-6 * exact.std())


def test_only_what_counts_is_counted():
    random = np.random.default_rng(3)
    x, where = random.normal(size=(30, 4)).astype(np.float32), random.random((30, 4)) < 0.5
    where[:, 0] = False
    mean, variance = mean_and_variance(np.where(where, x, np.nan), 0, where=where)
    for channel in range(1, 4):
        counted = x[where[:, channel], channel].astype(np.float64)
        np.testing.assert_allclose((mean[channel], variance[channel]), (counted.mean(), counted.var()), rtol=1e-5)
    assert (mean[0], variance[0]) == (0, 0)


def test_derivatives_are_those_of_mean_and_variance():
    x = np.random.default_rng(4).normal(size=(9, 2)).astype(np.float32) + 100
    dmean, dvariance = jax.jacrev(lambda x: mean_and_variance(x, 0))(x)
    for channel in range(2):
        np.testing.assert_allclose(dmean[channel][:, channel], 1 / 9, rtol=1e-6)
        expected = 2 * (x[:, channel] - x[:, channel].mean(dtype=np.float64)) / 9
        np.testing.assert_allclose(dvariance[channel][:, channel], expected, atol=1e-6)
        assert np.all(dvariance[channel][:, 1 - channel] == 0)


def test_of_no_values_both_are_zero():
    mean, variance = mean_and_variance(jnp.ones((0, 3)), 0)
    assert mean.tolist() == variance.tolist() == [0, 0, 0]


@pytest.mark.parametrize("x", [np.ones((3, 2), np.int32), [1.0, 2.0], np.ones(3, np.complex64)])
def test_an_input_that_is_not_floating_is_an_error(x):
    with pytest.raises(errors.DtypeError, match="x must be a floating array"):
        mean_and_variance(x, 0)


@pytest.mark.parametrize("axes", [2, (0, 0), (0, -2), "batch", 1.0])
def test_axes_that_are_not_there_are_an_error(axes):
    with pytest.raises(errors.ArgumentRangeError, match="axes must name different ones of the 2 axes"):
        mean_and_variance(jnp.ones((3, 2)), axes)
