"""Clipping by the norm of all leaves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradtx
from tests.papers import oracles

LARGEST = float(jnp.finfo(jnp.float32).max)


def clipped(grads, max_norm=1.0):
    tx = gradtx.clip_by_global_norm(max_norm)
    return tx.update(grads, tx.init(grads))[0]


def norm(tree) -> float:
    return float(np.sqrt(sum(np.sum(np.asarray(leaf, np.float64) ** 2) for leaf in jax.tree.leaves(tree))))


@given(
    values=st.lists(st.floats(-(2.0**40), 2.0**40, width=32), min_size=1, max_size=6),
    max_norm=st.floats(2.0**-20, 2.0**20, width=32),
)
@settings(max_examples=60, deadline=None)
def test_the_clipped_gradient_is_the_exact_one(values, max_norm):
    grads = [jnp.float32(value) for value in values]
    exact, _ = oracles.clip_by_global_norm({}, [np.float64(g) for g in grads], None, 1, max_norm=max_norm)
    for ours, expected in zip(clipped(grads, max_norm), exact, strict=True):
        np.testing.assert_allclose(float(ours), expected, rtol=1e-6, atol=1e-37)


def test_gradients_within_the_limit_pass_bit_for_bit():
    grads = {"w": jnp.linspace(-0.3, 0.3, 5), "b": jnp.float32(1e-30), "zero": jnp.zeros(2)}
    jax.tree.map(np.testing.assert_array_equal, clipped(grads), grads)
    jax.tree.map(np.testing.assert_array_equal, clipped(grads, LARGEST), grads)


@pytest.mark.parametrize("size", [1e19, 1e20, 1e30, LARGEST])
def test_a_norm_that_overflows_still_gives_a_step_of_the_right_size(size):
    equal = {"w": jnp.full((3,), size), "b": jnp.full((1,), -size)}
    np.testing.assert_allclose(np.asarray(clipped(equal)["w"]), 0.5, rtol=1e-6)
    np.testing.assert_allclose(np.asarray(clipped(equal)["b"]), -0.5, rtol=1e-6)
    mixed = clipped({"w": jnp.array([size, 1.0, 0.0]), "b": jnp.array([-size])}, 0.25)
    assert 0.25 / 2.01 <= norm(mixed) <= 0.25 * (1 + 1e-6)
    assert mixed["w"][0] > 0 > mixed["b"][0] and mixed["w"][2] == 0


def test_infinities_and_nan_stay_visible():
    for bad in (jnp.inf, -jnp.inf, jnp.nan):
        updates = clipped({"w": jnp.array([bad, 1.0])})
        assert not np.isfinite(np.asarray(updates["w"])).all()


def test_complex_leaves_count_with_their_modulus():
    updates = clipped({"w": jnp.array([3.0 + 4.0j], jnp.complex64)})
    np.testing.assert_allclose(np.asarray(updates["w"]), [0.6 + 0.8j], rtol=1e-6)


def test_clipping_by_value_keeps_what_is_inside():
    tx = gradtx.clip(0.5)
    updates, _ = tx.update(jnp.array([-3.0, 0.25, 0.5, LARGEST]), tx.init(None))
    assert updates.tolist() == [-0.5, 0.25, 0.5, 0.5]
