"""The two memories of momentum: of gradients, and of movements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx


def updates(tx, gradients):
    state, found = tx.init(gradients[0]), []
    for g in gradients:
        u, state = tx.update(g, state)
        found.append(float(u))
    return found


def gradients(count=20):
    return jnp.asarray(np.random.default_rng(0).normal(size=count), jnp.float32)


@pytest.mark.parametrize("nesterov", [False, True])
def test_at_a_constant_rate_both_take_the_same_steps(nesterov):
    heavy = updates(gradtx.sgd(0.1, 0.9, nesterov), gradients())
    moved = updates(gradtx.sgd(0.1, 0.9, nesterov, movement=True), gradients())
    np.testing.assert_allclose(moved, heavy, rtol=1e-5, atol=1e-6)


def test_under_a_schedule_a_movement_keeps_the_rate_that_it_was_made_with():
    """The rate falls from 1 to 0 after the first gradient: ``m`` is 1, 1/2, 1/4 and still moves, or does not."""

    def once(step):
        return jnp.where(step == 0, 1.0, 0.0)

    ones = jnp.ones(3)
    assert updates(gradtx.sgd(once, 0.5, movement=True), ones) == [-1.0, -0.5, -0.25]
    assert updates(gradtx.sgd(once, 0.5), ones) == [-1.0, 0.0, 0.0]


def test_the_choice_does_not_change_the_shape_of_the_state():
    heavy, moved = (gradtx.sgd(0.1, 0.9, movement=movement).init(jnp.zeros(3)) for movement in (False, True))
    assert jax.tree.structure(heavy) == jax.tree.structure(moved)


def test_movements_are_momentum_behind_the_learning_rate():
    tx = gradtx.chain(gradtx.scale_by_learning_rate(0.1), gradtx.scale_by_momentum(0.9))
    assert updates(tx, gradients()) == updates(gradtx.sgd(0.1, 0.9, movement=True), gradients())
