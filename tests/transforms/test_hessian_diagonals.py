"""Hutchinson's estimate of the Hessian's diagonal, and Sophia's steps with it."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors

MATRIX = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, -1.0], [0.0, -1.0, 1.0]])


def quadratic(p):
    return 0.5 * p @ jnp.asarray(MATRIX, p.dtype) @ p


def test_every_estimate_has_signs_of_its_own_and_their_mean_is_the_diagonal():
    tx, params = gradtx.hutchinson_estimator_diag_hessian(), jnp.ones(3)

    def step(state, _):
        estimate, state = tx.update(params, state, params, value_fn=quadratic)
        return state, estimate

    _, estimates = jax.jit(lambda state: jax.lax.scan(step, state, length=2000))(tx.init(params))
    assert len(np.unique(estimates.round(3), axis=0)) == 4  # of eight signs, two by two with the same products
    np.testing.assert_allclose(estimates.mean(axis=0), np.diag(MATRIX), atol=0.15)


def test_the_estimate_is_made_every_few_steps():
    tx, params = gradtx.scale_by_sophia(update_interval=3), jnp.ones(3)
    state, seen = tx.init(params), []
    for _ in range(7):
        _, state = tx.update(params, state, params, value_fn=quadratic)
        seen.append(state.diagonal)
    assert [bool(jnp.any(new != old)) for old, new in itertools.pairwise(seen)] == [0, 0, 1, 0, 0, 1]


def test_any_transformation_may_estimate_the_diagonal():
    tx = gradtx.scale_by_sophia(b1=0.0, b2=0.0, gamma=1.0, clip_threshold=None, hessian_diagonal_fn=gradtx.scale(2.0))
    grads = jnp.array([1.0, 4.0])
    assert tx.update(grads, tx.init(grads), grads)[0].tolist() == [0.5, 0.5]


def test_the_estimate_needs_a_function():
    tx, params = gradtx.sophia(0.1), jnp.ones(3)
    with pytest.raises(errors.SignalError, match="must be a function of the parameters"):
        tx.update(params, tx.init(params), params, value_fn=1.0)
