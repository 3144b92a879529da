"""GaLore's step is that of its optimizer in the leading subspace."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors

RANDOM = np.random.default_rng(0)
GRADIENTS = [RANDOM.normal(size=(6, 9)) @ np.diag(np.geomspace(1, 0.01, 9)) for _ in range(5)]


def adam_in_a_subspace(gradients, rank, gap):
    """Zhao et al. 2024, algorithm 2, in float64; Adam with its default decays."""
    out, m, v, p = [], 0.0, 0.0, None
    for t, g in enumerate(gradients, 1):
        if (t - 1) % gap == 0:
            p = np.linalg.svd(g)[0][:, :rank]
            p = p * np.sign(p[np.argmax(np.abs(p), axis=0), np.arange(rank)])
        small = p.T @ g
        m, v = 0.9 * m + 0.1 * small, 0.999 * v + 0.001 * small**2
        out.append(p @ (m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)))
    return out


@pytest.mark.parametrize("turned", [False, True])
def test_the_step_is_adams_in_the_leading_subspace(turned):
    tx = gradtx.scale_by_galore(rank=2, update_proj_gap=3)
    grads = [g.T if turned else g for g in GRADIENTS]
    state, update = tx.init(jnp.asarray(grads[0], jnp.float32)), jax.jit(tx.update)
    assert {leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim} == {(6, 2), (9, 2) if turned else (2, 9)}
    for g, exact in zip(grads, adam_in_a_subspace(GRADIENTS, 2, 3), strict=True):
        updates, state = update(jnp.asarray(g, jnp.float32), state)
        np.testing.assert_allclose(updates, exact.T if turned else exact, rtol=0, atol=1e-3)


def test_optax_takes_the_same_first_steps():
    """Of square matrices, until the projector changes: it has other signs then."""
    ours, theirs = gradtx.galore(0.1, rank=2, weight_decay=0.1), optax.contrib.galore(0.1, rank=2, weight_decay=0.1)
    params = {"w": jnp.asarray(GRADIENTS[0][:, :6], jnp.float32), "b": jnp.ones(3)}
    state, their_state = ours.init(params), theirs.init(params)
    for g in GRADIENTS[:3]:
        grads = {"w": jnp.asarray(g[:, :6], jnp.float32), "b": jnp.ones(3)}
        updates, state = ours.update(grads, state, params)
        their_updates, their_state = theirs.update(grads, their_state, params)
        for name in params:
            np.testing.assert_allclose(updates[name], their_updates[name], rtol=0, atol=1e-4)


def test_an_optimizer_that_needs_parameters_is_refused():
    with pytest.raises(errors.ArgumentTypeError, match="add_decayed_weights behind"):
        gradtx.scale_by_galore(base_optimizer=gradtx.adamw(1e-3))
