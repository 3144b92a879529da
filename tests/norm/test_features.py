"""Claims about feature normalization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradtx import errors
from gradtx.norm import feature_statistics, standardize

ARRAYS = pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])


def people(seed, size=200):
    """Ages, salaries, seconds since 1970, and a constant: features of very different scale."""
    random = np.random.default_rng(seed)
    columns = [
        random.integers(0, 66, size),
        random.lognormal(10, 0.5, size),
        1.7e9 + random.normal(size=size) * 3e3,
        np.full(size, 0.1),
    ]
    return np.stack(columns, 1).astype(np.float32)


@ARRAYS
def test_every_feature_of_the_training_set_gets_mean_zero_and_deviation_one(array):
    x = people(0)
    z = standardize(array(x), feature_statistics(array(x)))
    assert type(z) is type(array(x)) and z.dtype == np.float32
    exact = np.asarray(z, np.float64)
    np.testing.assert_allclose(exact.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(exact.std(0), [1, 1, 1, 0], rtol=1e-6)


@ARRAYS
@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4, 1e6])
def test_another_set_is_measured_by_the_training_set(array, offset):
    random = np.random.default_rng(0)
    train, test = ((random.normal(size=(n, 3)) + offset).astype(np.float32) for n in (500, 7))
    exact = train.astype(np.float64)
    expected = (test - exact.mean(0)) / exact.std(0)
    np.testing.assert_allclose(standardize(array(test), feature_statistics(array(train))), expected, atol=5e-6)


def test_statistics_found_by_numpy_serve_in_jax_at_any_offset():
    x = people(0)
    statistics = feature_statistics(x)
    on_device = jax.jit(lambda x: standardize(x, statistics))(x)
    np.testing.assert_allclose(on_device, standardize(x, statistics), atol=2e-6)


def test_numpy_float64_stays_float64():
    x = 1e12 + np.random.default_rng(0).normal(size=(50, 2))
    z = standardize(x, feature_statistics(x))
    assert z.dtype == np.float64
    np.testing.assert_allclose(z.std(0), 1, rtol=1e-12)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-12)


@ARRAYS
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6, 3e38])
def test_a_constant_feature_is_zero_even_where_a_test_set_varies(array, value):
    x = np.full((37, 2), value, np.float32)
    statistics = feature_statistics(array(x))
    assert np.all(np.asarray(standardize(array(x), statistics)) == 0)
    assert np.all(np.asarray(standardize(array(x / 2 + 1), statistics)) == 0)


@ARRAYS
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool])
def test_whole_numbers_become_float32(array, dtype):
    x = array((np.arange(12).reshape(6, 2) % 5 > 1).astype(dtype))
    z = standardize(x, feature_statistics(x))
    assert z.dtype == np.float32
    np.testing.assert_allclose(np.asarray(z).std(0), 1, rtol=1e-6)


def test_images_may_have_statistics_of_each_channel_or_of_each_pixel():
    images = np.random.default_rng(0).random((20, 4, 4, 3)).astype(np.float32)
    channels, pixels = feature_statistics(images, axes=(0, 1, 2)), feature_statistics(images)
    assert channels.mean.size == 3 and pixels.mean.size == 48
    np.testing.assert_allclose(standardize(images, channels).std((0, 1, 2)), 1, rtol=1e-5)
    np.testing.assert_allclose(standardize(images, pixels).std(0), 1, rtol=1e-5)


def test_gradients_are_finite_also_at_a_constant_feature():
    statistics = feature_statistics(jnp.asarray(people(0)))
    gradient = jax.grad(lambda x: jnp.sum(standardize(x, statistics) ** 2))(jnp.asarray(people(1)))
    assert np.all(np.isfinite(gradient)) and np.all(gradient[:, 3] == 0)


@pytest.mark.parametrize("function", [feature_statistics, lambda x: standardize(x, feature_statistics(np.eye(2)))])
@pytest.mark.parametrize("x", [[[1.0, 2.0]], np.array([["a", "b"]]), np.ones((2, 2), complex), None])
def test_what_is_no_array_of_real_numbers_is_an_error(function, x):
    with pytest.raises(errors.DtypeError, match="x must be an array of real numbers"):
        function(x)


def test_an_empty_training_set_is_an_error():
    with pytest.raises(errors.ShapeError, match="at least one example"):
        feature_statistics(np.ones((0, 3)))


@pytest.mark.parametrize("shape", [(3,), (5, 4), (2, 5, 3)])
def test_other_features_than_those_of_the_training_set_are_an_error(shape):
    with pytest.raises(errors.ShapeError, match="x must have the features of the training set"):
        standardize(np.ones(shape), feature_statistics(np.eye(3)))


@pytest.mark.parametrize("axes", [2, (0, 0), 0.5])
def test_axes_that_are_not_there_are_an_error(axes):
    with pytest.raises(errors.ArgumentRangeError, match="axes must name different ones of the 2 axes"):
        feature_statistics(np.eye(3), axes)
