"""Claims about the identity with another derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradtx import errors, losses


@pytest.mark.parametrize("scale", [-0.5, 0.0, 1.0, 3.0])
def test_the_value_stays_and_the_derivative_is_scaled_in_both_modes(scale):
    inputs = {"w": jnp.array([1.0, -2.0]), "n": jnp.arange(2)}
    assert jax.tree.map(np.ndarray.tolist, jax.tree.map(np.asarray, losses.scale_gradient(inputs, scale))) == {
        "w": [1.0, -2.0], "n": [0, 1],
    }  # fmt: skip

    def f(w):
        return jnp.sum(jnp.sin(losses.scale_gradient(w, scale)))

    expected = scale * jnp.cos(inputs["w"])
    np.testing.assert_allclose(jax.grad(f)(inputs["w"]), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(f)(inputs["w"]), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda w: jnp.sum(jnp.sin(optax.scale_gradient(w, scale))))(inputs["w"]),
                               expected, rtol=1e-6)  # fmt: skip


def test_the_scale_may_be_traced_and_zero_drops_even_infinity():
    def slope(scale, x):
        return jax.grad(lambda x: jnp.sqrt(losses.scale_gradient(x, scale)))(x)

    assert jax.jit(slope)(0.5, 4.0) == 0.125
    assert jax.jit(slope)(0.0, 0.0) == 0.0 and np.isinf(jax.jit(slope)(1.0, 0.0))


def test_half_precision_and_complex_numbers_keep_their_dtype():
    for x in (jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.complex64)):
        y, pull = jax.vjp(lambda x: losses.scale_gradient(x, 0.5), x)
        assert y.dtype == x.dtype and pull(x)[0].tolist() == [0.5, 0.5]


def test_a_scale_that_is_no_number_is_refused():
    with pytest.raises(errors.ArgumentTypeError, match="scale must be a number"):
        losses.scale_gradient(jnp.ones(2), "0.5")
