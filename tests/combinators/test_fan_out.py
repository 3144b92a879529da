"""Sums of transformations of one input."""

import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors


def test_a_sum_is_a_sentence():
    """Quasi-hyperbolic momentum: (1 - v) g + v m."""
    tx, m = gradtx.total(gradtx.chain(gradtx.ema(0.9), gradtx.scale(0.7)), gradtx.scale(0.3)), 0.0
    state = tx.init(jnp.zeros(1))
    for g in (1.0, -2.0, 0.5):
        u, state = tx.update(jnp.array([g]), state)
        m = 0.9 * m + 0.1 * g
        np.testing.assert_allclose(float(u[0]), 0.3 * g + 0.7 * m, rtol=1e-6)


def test_the_parts_are_named_as_in_a_chain():
    state = gradtx.total(gradtx.ema(0.5), gradtx.ema(0.9), gradtx.identity()).init(jnp.zeros(1))
    assert sorted(state) == ["ema", "ema_2", "identity"]


def test_a_sum_of_nothing_is_refused():
    with pytest.raises(errors.ArgumentTypeError, match="at least one"):
        gradtx.total()
    with pytest.raises(errors.ArgumentTypeError, match="constructor has to be called"):
        gradtx.total(gradtx.ema)


def test_a_part_that_is_frozen_adds_nothing():
    tx = gradtx.total(gradtx.identity(), gradtx.set_to_zero())
    np.testing.assert_array_equal(tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))[0], [2.0])
