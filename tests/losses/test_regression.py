"""Claims about losses of a residual that the table of losses does not make."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradtx import errors, losses

EPS = float(np.finfo(np.float32).eps)
LOSSES = {
    name: getattr(losses, name) for name in ("squared_error", "l2_loss", "absolute_error", "huber_loss", "log_cosh")
}

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@every_loss
def test_a_residual_of_zero_has_loss_and_gradient_zero(loss):
    values, slopes = jax.vmap(jax.value_and_grad(loss))(np.array([0, 3, 1e30], np.float32), np.array([0, 3, 1e30]))
    assert not values.any() and not slopes.any()


@every_loss
def test_without_targets_they_are_zero(loss):
    x = np.linspace(-2, 2, 9, dtype=np.float32)
    np.testing.assert_array_equal(loss(x), loss(x, np.zeros(9)))
    assert loss(x.astype(jnp.bfloat16)).dtype == jnp.float32


@every_loss
@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.uint8, np.float16])
def test_targets_may_be_whole_numbers(loss, dtype):
    x, y = np.linspace(-2, 2, 4, dtype=np.float32), np.array([0, 1, 1, 0], dtype)
    np.testing.assert_array_equal(loss(x, y), loss(x, y.astype(np.float32)))


@pytest.mark.parametrize("delta", [1e-3, 0.5, 1.0, 7.0, 1e30])
def test_the_gradient_of_huber_is_the_limited_residual(delta):
    x = np.array([-3e38, -7, -0.5, -1e-3, 0, 1e-6, 0.5, 1, 7, 100, 3e38], np.float32)
    _, slopes = jax.vmap(lambda x: jax.value_and_grad(losses.huber_loss)(x, 0.0, delta=delta))(x)
    np.testing.assert_allclose(slopes, np.clip(x, -delta, delta), rtol=EPS)


@pytest.mark.parametrize("delta", [1e-3, 0.5, 7.0])
def test_huber_agrees_with_optax_for_every_delta(delta):
    x = np.linspace(-10, 10, 41, dtype=np.float32)
    np.testing.assert_allclose(losses.huber_loss(x, delta=delta), optax.huber_loss(x, delta=delta), rtol=4 * EPS)


def test_residuals_beyond_the_largest_float_pull_as_hard_as_others():
    x, y = jnp.float32(3e38), jnp.float32(-3e38)
    for loss in (losses.absolute_error, losses.huber_loss, losses.log_cosh):
        value, slope = jax.value_and_grad(loss)(x, y)
        assert value == np.inf and slope == 1


def test_delta_may_be_traced_and_learned():
    value, slope = jax.jit(jax.value_and_grad(lambda delta: losses.huber_loss(jnp.float32(5), 0.0, delta=delta)))(2.0)
    assert (float(value), float(slope)) == (8.0, 3.0)


@pytest.mark.parametrize("delta", [0, -1.0, np.nan, np.inf])
def test_a_delta_that_is_not_positive_is_named(delta):
    with pytest.raises(errors.ArgumentRangeError, match="delta must be"):
        losses.huber_loss(np.zeros(2, np.float32), np.zeros(2), delta=delta)


def test_options_that_do_not_exist_are_named():
    with pytest.raises(errors.ArgumentTypeError, match="'delta'"):
        losses.huber_loss(np.zeros(2, np.float32), np.zeros(2), detla=1.0)


def test_log_cosh_keeps_its_digits_where_optax_has_none():
    x = np.float32(1e-4)
    exact = float(x) ** 2 / 2
    assert float(losses.log_cosh(x, 0.0)) == pytest.approx(exact, rel=5 * EPS)
    assert abs(float(optax.log_cosh(x, 0.0)) - exact) >= exact


def test_pytorch_computes_the_same():
    torch = pytest.importorskip("torch", reason="PyTorch is no dependency of the tests")
    rng = np.random.default_rng(0)
    x, y = (3 * rng.normal(size=(2, 100))).astype(np.float32)
    functional = torch.nn.functional
    for ours, theirs in (
        (losses.squared_error(x, y), functional.mse_loss),
        (losses.absolute_error(x, y), functional.l1_loss),
        (losses.huber_loss(x, y, delta=1.0), functional.huber_loss),
    ):
        np.testing.assert_allclose(ours, theirs(torch.tensor(x), torch.tensor(y), reduction="none"), rtol=8 * EPS)
