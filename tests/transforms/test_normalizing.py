"""Norms and means of one leaf: what passes, what is refused, what a derivative sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors


def update_of(tx, g, p=None):
    return tx.update(g, tx.init(g if p is None else p), p)[0]


@pytest.mark.parametrize(
    "tx", [gradtx.clip_by_block_norm(2.0), gradtx.clip_by_block_rms(1.0), gradtx.adaptive_grad_clip(1.0)],
    ids=["norm", "rms", "adaptive"],
)  # fmt: skip
def test_gradients_within_the_limit_pass_bit_for_bit(tx):
    params = jnp.full((3, 2), 2.0)
    for g in (jnp.linspace(-0.5, 0.5, 6).reshape(3, 2), jnp.full((3, 2), 1e-38), jnp.zeros((3, 2))):
        np.testing.assert_array_equal(update_of(tx, g, params), g)


def test_units_are_clipped_one_by_one():
    g, p = jnp.array([[3.0, 0.1], [4.0, 0.1]]), jnp.ones((2, 2))
    clipped = update_of(gradtx.adaptive_grad_clip(0.5), g, p)
    np.testing.assert_allclose(clipped[:, 0], np.array([0.6, 0.8]) * 0.5 * np.sqrt(2.0), rtol=1e-6)
    np.testing.assert_array_equal(clipped[:, 1], g[:, 1])
    rows = update_of(gradtx.adaptive_grad_clip(0.5, axis=1), g, p)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 0.5 * np.sqrt(2.0), rtol=1e-6)


def test_one_input_keeps_its_gradient_when_centralized():
    g = jnp.array([[1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(update_of(gradtx.centralize(), g), g)


def test_centralizing_large_gradients_does_not_overflow():
    np.testing.assert_allclose(update_of(gradtx.centralize(), jnp.full((4, 2), 3e38)), 0.0, atol=1e32)


@pytest.mark.parametrize("make", [gradtx.centralize, lambda **axis: gradtx.adaptive_grad_clip(0.1, **axis)])
def test_axes_that_a_leaf_does_not_have_are_refused_at_init(make):
    with pytest.raises(errors.ShapeError, match=r"the axes \(1,\), got the shape \(3,\)"):
        make(axis=1).init({"w": jnp.ones((2, 2)), "b": jnp.ones(3)})
    with pytest.raises(errors.ShapeError, match="at most five axes"):
        make().init(jnp.ones((1, 2, 1, 2, 1, 2)))
    with pytest.raises(errors.ArgumentTypeError, match="whole number"):
        make(axis="inputs").init(jnp.ones((2, 2)))


def test_normalized_updates_have_the_norm_one_over_all_leaves():
    g = {"w": jnp.array([[3e30, 0.0]]), "b": jnp.array([-4e30])}
    updates = update_of(gradtx.normalize_by_update_norm(eps=0.0), g)
    np.testing.assert_allclose(updates["w"], [[0.6, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [-0.8], rtol=1e-6)
    np.testing.assert_array_equal(update_of(gradtx.normalize_by_update_norm(eps=0.0), jnp.zeros(3)), 0.0)


@pytest.mark.parametrize(
    "tx",
    [gradtx.scale_by_trust_ratio(), gradtx.clip_by_block_norm(0.5), gradtx.adaptive_grad_clip(0.5),
     gradtx.normalize_by_update_norm(eps=0.0), gradtx.centralize()],
    ids=["trust ratio", "norm", "adaptive", "normalize", "centralize"],
)  # fmt: skip
def test_derivatives_through_a_norm_are_right_and_finite_at_zero(tx):
    def value(g, p):
        return jnp.sum(jnp.arange(1.0, 7.0).reshape(3, 2) * update_of(tx, g, p))

    g, p = jnp.linspace(-1.0, 2.0, 6).reshape(3, 2), jnp.linspace(0.5, 1.0, 6).reshape(3, 2)
    exact = jax.grad(value)(g, p)
    direction = jnp.cos(jnp.arange(6.0)).reshape(3, 2)
    step = 1e-2 * direction
    difference = (value(g + step, p) - value(g - step, p)) / 2e-2
    np.testing.assert_allclose(float(jnp.sum(exact * direction)), float(difference), rtol=1e-2)
    for at in (jnp.zeros((3, 2)), jnp.zeros((3, 2)).at[0, 0].set(1.0)):
        assert np.all(np.isfinite(jax.grad(value)(at, p)))
        assert np.all(np.isfinite(jax.grad(value, argnums=1)(g, at)))


def test_complex_leaves_count_with_their_modulus():
    g = jnp.array([3e30 + 4e30j], jnp.complex64)
    np.testing.assert_allclose(update_of(gradtx.clip_by_block_norm(1.0), g), [0.6 + 0.8j], rtol=1e-6)
    np.testing.assert_allclose(
        update_of(gradtx.scale_by_trust_ratio(), g, jnp.array([2.0j], jnp.complex64)), [1.2 + 1.6j], rtol=1e-6
    )
