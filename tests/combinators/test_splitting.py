"""Claims about complex parameters as pairs of real ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx

PARAMS = {"x": jnp.array([1.0, -2.0]), "z": jnp.array([1.0 + 2.0j, -0.5j])}
GRADS = {"x": jnp.array([3.0, -0.1]), "z": jnp.array([0.3 - 4.0j, 5.0 + 0.2j])}


def test_parts_that_are_only_for_real_numbers_take_both_parts():
    tx = gradtx.split_real_and_imaginary(gradtx.clip(1.0))
    updates, _ = jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["z"], [0.3 - 1.0j, 1.0 + 0.2j], rtol=1e-6)
    np.testing.assert_allclose(updates["x"], [1.0, -0.1], rtol=1e-6)


@pytest.mark.parametrize("inner", ["adam", "sgd"])
def test_optax_agrees(inner):
    """To 5e-5: its bias correction rounds 1 - 0.999^3 to 2e-5 of itself; ours gives 0.1 for equal gradients."""
    ours = gradtx.split_real_and_imaginary(getattr(gradtx, inner)(0.1))
    theirs = optax.contrib.split_real_and_imaginary(getattr(optax, inner)(0.1))
    our_state, their_state = ours.init(PARAMS), theirs.init(PARAMS)
    for _ in range(3):
        found, our_state = ours.update(GRADS, our_state, PARAMS)
        expected, their_state = theirs.update(GRADS, their_state, PARAMS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=5e-5), found, expected)


def test_paths_name_the_parts():
    state = gradtx.split_real_and_imaginary(gradtx.ema(0.9)).init(PARAMS)
    assert gradtx.tree.leaf_paths(gradtx.tree.get(state, "mean")) == ["x", "z/real", "z/imaginary"]
