"""LARS and LAMB: which leaves are scaled, and by what."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx

PARAMS = {"kernel": jnp.array([[3.0, 0.0], [0.0, 4.0]]), "bias": jnp.array([0.0, 1.0])}
GRADS = {"kernel": jnp.array([[1e-3, 2e-3], [0.0, -2e-3]]), "bias": jnp.array([0.5, -0.5])}


def first(tx):
    return tx.update(GRADS, tx.init(PARAMS), PARAMS)[0]


def length(x):
    return float(jnp.linalg.norm(x))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_a_step_is_as_long_as_the_layer_is_large_whatever_the_gradients(scale):
    tx = gradtx.lars(0.1, trust_coefficient=0.5)
    updates, _ = tx.update({name: scale * g for name, g in GRADS.items()}, tx.init(PARAMS), PARAMS)
    for name, p in PARAMS.items():
        np.testing.assert_allclose(length(updates[name]), 0.05 * length(p), rtol=1e-6)
    np.testing.assert_allclose(length(first(gradtx.lamb(0.1))["kernel"]), 0.1 * 5.0, rtol=1e-6)


def test_masks_leave_leaves_out_of_decay_and_scaling():
    ours = first(gradtx.lars(0.1, 0.01, "kernel", trust_ratio_mask="kernel"))
    mask = {"kernel": True, "bias": False}
    theirs = first(optax.lars(0.1, 0.01, mask, trust_ratio_mask=mask))
    for name in PARAMS:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6)
    np.testing.assert_allclose(ours["bias"], -0.1 * GRADS["bias"], rtol=1e-6)


def test_parameters_that_start_at_zero_can_move():
    for tx in (gradtx.lars(0.1), gradtx.lamb(0.1), gradtx.scale_by_trust_ratio()):
        zeros = jnp.zeros(3)
        updates, _ = tx.update(jnp.ones(3), tx.init(zeros), zeros)
        assert np.all(np.abs(np.asarray(updates)) >= 0.09)


def test_lamb_takes_the_step_of_optax():
    arguments = {"weight_decay": 0.1, "mask": {"kernel": True, "bias": False}}
    ours, theirs = first(gradtx.lamb(0.1, **arguments)), first(optax.lamb(0.1, **arguments))
    for name in PARAMS:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-4)
