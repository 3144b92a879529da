"""Claims about parts that keep parameters in a set, and about one vector of all parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors, projections

PARAMS = {"b": jnp.array([0.2, 0.1]), "w": jnp.array([[0.3, 0.4]])}
GRADS = {"b": jnp.array([3.0, -1.0]), "w": jnp.array([[0.5, 2.0]])}


def run(tx, params, grads, steps=3):
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        params = gradtx.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_projected_descent_is_a_step_and_a_projection(dtype):
    params = gradtx.tree.cast(PARAMS, dtype)
    tx = gradtx.chain(gradtx.sgd(0.1), gradtx.project(projections.projection_simplex))
    found = run(tx, params, GRADS, 1)
    moved = gradtx.tree.add_scale(gradtx.tree.cast(params, jnp.float32), -0.1, GRADS)
    expected = gradtx.tree.cast(projections.projection_simplex(moved), dtype)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=2 * float(jnp.finfo(dtype).eps))
    assert found["b"].dtype == dtype


def test_a_minimum_over_the_simplex_is_reached():
    """Of ``|x - t|^2 / 2``, whose minimum over the simplex is the projection of t."""
    target = jnp.array([0.8, 0.7, -0.3])
    tx = gradtx.chain(gradtx.sgd(0.3), gradtx.project(projections.projection_simplex))
    x, state = jnp.ones(3) / 3, tx.init(jnp.ones(3))
    for _ in range(60):
        updates, state = tx.update(x - target, state, x)
        x = gradtx.apply_updates(x, updates)
    np.testing.assert_allclose(x, projections.projection_simplex(target), atol=1e-6)


def test_one_layer_may_be_projected_by_itself():
    ball = gradtx.project(lambda tree: projections.projection_l2_ball(tree, 0.1))
    found = run(gradtx.chain(gradtx.sgd(0.1), gradtx.masked(ball, "w")), PARAMS, GRADS, 1)
    assert float(gradtx.global_norm(found["w"])) == pytest.approx(0.1)
    np.testing.assert_allclose(found["b"], PARAMS["b"] - 0.1 * GRADS["b"], rtol=1e-6)


def test_what_is_not_moved_by_the_projection_keeps_its_step_exactly():
    tx = gradtx.project(projections.projection_non_negative)
    updates, _ = tx.update(jnp.array([1e-20, -2.0]), tx.init(jnp.ones(2)), jnp.ones(2))
    assert updates.tolist() == [np.float32(1e-20), -1.0]


def test_a_projection_of_another_tree_is_named():
    tx = gradtx.project(lambda tree: tree["w"])
    with pytest.raises(errors.StructureError, match="the projection must have"):
        tx.update(GRADS, tx.init(PARAMS), PARAMS)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_parameters_stay_non_negative_as_in_optax(dtype):
    params = gradtx.tree.cast(PARAMS, dtype)
    found = run(gradtx.chain(gradtx.adam(0.1), gradtx.keep_params_nonnegative()), params, GRADS, 9)
    assert all((leaf >= 0).all() for leaf in jax.tree.leaves(found)) and (found["w"] == 0).all()
    ours, theirs = gradtx.keep_params_nonnegative(), optax.keep_params_nonnegative()
    step = jax.tree.map(jnp.negative, GRADS)
    for a, b in zip(
        *(jax.tree.leaves(tx.update(step, tx.init(PARAMS), PARAMS)[0]) for tx in (ours, theirs)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_nan_is_left_out_and_said():
    grads = {"b": jnp.array([jnp.nan, 1.0]), "w": jnp.array([[jnp.inf, 2.0]])}
    tx = gradtx.zero_nans()
    updates, state = tx.update(grads, tx.init(PARAMS))
    assert updates["b"].tolist() == [0.0, 1.0] and updates["w"].tolist() == [[np.inf, 2.0]]
    assert jax.tree.map(float, state.found_nan) == {"b": 1.0, "w": 0.0}
    _, state = tx.update(GRADS, state)
    assert jax.tree.map(float, state.found_nan) == {"b": 0.0, "w": 0.0}


def test_a_flat_optimizer_takes_the_steps_of_one_that_is_not():
    for base in (gradtx.adamw(0.1), gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.sgd(0.1, 0.9))):
        for a, b in zip(*(jax.tree.leaves(run(tx, PARAMS, GRADS)) for tx in (base, gradtx.flatten(base))), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_norms_of_a_leaf_are_those_of_the_whole_when_it_is_flat():
    flat, whole = gradtx.flatten(gradtx.clip_by_block_rms(0.1)), gradtx.clip_by_global_norm(0.1 * 2)
    a, b = (tx.update(GRADS, tx.init(PARAMS), PARAMS)[0] for tx in (flat, whole))
    np.testing.assert_allclose(a["w"], b["w"], rtol=1e-6)


def test_leaves_of_several_dtypes_come_back_in_their_shapes():
    params = {"c": jnp.ones(2, jnp.complex64), "h": jnp.ones((2, 1), jnp.bfloat16), "w": jnp.ones(())}
    tx = gradtx.flatten(gradtx.sgd(0.5))
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["c"].dtype == jnp.complex64 and updates["h"].shape == (2, 1) and updates["w"].dtype == jnp.float32
    np.testing.assert_array_equal(updates["h"], -0.5 * np.ones((2, 1)))
