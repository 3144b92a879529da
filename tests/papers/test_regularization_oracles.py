"""The oracles of the regularizers do what the papers say, and PyTorch and Optax agree."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from tests.papers import oracles
from tests.papers import regularization_oracles as regularizers


def test_the_soft_threshold_is_the_minimum_that_defines_it():
    """Parikh and Boyd, equation 1.1, on a grid: no other weight has a lower ``t |x| + (x - z)^2 / 2``."""
    grid = np.linspace(-4.0, 4.0, 80_001)
    for z in (-3.0, -0.5, 0.0, 0.2, 0.7, 1.5):
        for t in (0.0, 0.5, 1.0):
            found = grid[np.argmin(t * np.abs(grid) + 0.5 * (grid - z) ** 2)]
            np.testing.assert_allclose(regularizers.soft_threshold(np.array([z]), t), found, atol=1e-4)


def test_the_complex_soft_threshold_is_the_minimum_too():
    z, t = np.array([3.0 + 4.0j]), 1.0
    axis = np.linspace(-5.0, 5.0, 501)
    grid = axis[:, None] + 1j * axis[None]
    found = grid.ravel()[np.argmin((t * np.abs(grid) + 0.5 * np.abs(grid - z) ** 2).ravel())]
    np.testing.assert_allclose(regularizers.soft_threshold(z, t), found, atol=0.02)


def test_coupled_decay_is_the_slope_of_its_penalty():
    p, h, zero = np.array([2.0, -0.5, 3.0]), 1e-6, np.zeros(3)
    penalties = {
        "l1_decay": lambda p: 0.3 * np.abs(p),
        "l2_decay": lambda p: 0.15 * p**2,
    }
    for name, penalty in penalties.items():
        update, _ = getattr(regularizers, name)({}, zero, p, 1, strength=0.3)
        np.testing.assert_allclose(update, (penalty(p + h) - penalty(p - h)) / (2 * h), rtol=1e-8)


def test_l2_of_pytorch_is_coupled():
    """SGD and Adam of PyTorch add ``weight_decay * p`` to the gradient."""
    torch = pytest.importorskip("torch", reason="PyTorch is the second peer; its CPU build is enough")
    gradients = np.random.default_rng(0).normal(size=(20, 8))
    for kind, oracle in (("SGD", oracles.sgd), ("Adam", oracles.adam)):
        weight = torch.linspace(-1.0, 1.0, 8, dtype=torch.float64, requires_grad=True)
        optimizer = getattr(torch.optim, kind)([weight], lr=0.1, weight_decay=0.2)
        p, state = weight.detach().numpy().copy(), {}
        for t, g in enumerate(gradients, 1):
            weight.grad = torch.from_numpy(g)
            optimizer.step()
            decayed, _ = regularizers.l2_decay({}, g, p, t, strength=0.2)
            update, state = oracle(state, decayed, p, t, learning_rate=0.1)
            p = p + update
        np.testing.assert_allclose(p, weight.detach().numpy(), rtol=1e-6)


def test_l2_decay_before_adam_and_add_decayed_weights_behind_are_those_of_optax():
    grads, params = jnp.array([0.3, -2.0, 0.0]), jnp.array([1.0, -4.0, 2.0])
    pairs = (
        (
            gradtx.chain(gradtx.l2_decay(0.1), gradtx.adam(0.1)),
            optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.1)),
        ),
        (gradtx.adamw(0.1, weight_decay=0.1), optax.adamw(0.1, weight_decay=0.1)),
    )
    for ours, theirs in pairs:
        state, their_state = ours.init(params), theirs.init(params)
        for _ in range(3):
            updates, state = ours.update(grads, state, params)
            expected, their_state = theirs.update(grads, their_state, params)
            np.testing.assert_allclose(updates, expected, rtol=1e-4)  # Optax's 1 - b**t is 1e-5 off


def test_zeros_are_kept_from_the_first_step_on():
    update, state = regularizers.keep_zeros({}, np.ones(2), np.array([0.0, 1.0]), 1)
    assert update.tolist() == [0.0, 1.0]
    update, _ = regularizers.keep_zeros(state, np.ones(2), np.array([5.0, 0.0]), 2)
    assert update.tolist() == [0.0, 1.0]
