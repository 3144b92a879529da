"""Any unit in any layout takes the step of the unit from what is kept, or is refused with what cannot be kept."""

import jax
import numpy as np
import pytest

import gradtx
from gradtx import storage
from gradtx.core import is_kept, map_fields, record_of
from gradtx.core.roles import boxes_around
from tests.laws.table import every_unit
from tests.laws.trees import assert_close, gradients, params, types

LAYOUTS = {"bfloat16": (storage.cast("bfloat16"), 2.0**-8), "8 bits": (storage.quantized(), 2.0**-5)}
"""Layouts, and how far a number may be from what it stands for, over the largest one of its leaf."""


def decoded(layout, state):
    def decode(path, role, value):
        if not role.like_params:
            return value
        return jax.tree.map(lambda one: layout.decode(one, role), boxes_around(value), is_leaf=is_kept)

    return map_fields(decode, state)


def refusals(layout, state):
    """Why the layout cannot keep fields of this state."""
    reasons = []

    def look(path, role, value):
        if role.like_params and jax.tree.leaves(value):
            reasons.append(layout.refuses(role))

    map_fields(look, state)
    return [reason for reason in reasons if reason]


def in_a_layout(unit, layout):
    """The unit in this layout, and its first state; or why this cannot be: which part, or the order of the parts."""
    try:
        tx = storage.stored(unit.make(), layout)
        return tx, tx.init(params())
    except gradtx.errors.LayoutError as error:
        return next(reason for reason in ("foreign part", "kept already", "numbers at", "span") if reason in str(error))
    except gradtx.errors.ArgumentTypeError as error:
        return next(reason for reason in ("around", "mean gradient") if reason in str(error))


@every_unit
@pytest.mark.parametrize(("layout", "bound"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_step_in_a_layout_is_the_step_from_what_it_decodes(unit, layout, bound):
    plain, found = unit.make(), in_a_layout(unit, layout)
    if isinstance(found, str):
        assert found != "numbers at" or refusals(layout, jax.eval_shape(plain.init, params()))
        return
    tx, state = found
    if state is None:
        assert plain.init(params()) is None
        return
    assert not refusals(layout, jax.eval_shape(plain.init, params()))
    step, plain_step = jax.jit(unit.fed(tx)), jax.jit(unit.fed(plain))
    for seed in range(2):
        grads = gradients(seed=seed, domain=unit.domain)
        expected, expected_state = plain_step(grads, decoded(layout, state.inner), params())
        updates, state = step(grads, state, params())
        assert_close(updates, expected, unit.magnifies)
        again = decoded(layout, state.inner)
        assert jax.tree.structure(again) == jax.tree.structure(expected_state)
        for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(expected_state), strict=True):
            one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
            np.testing.assert_allclose(one, other, rtol=0, atol=bound * np.max(np.abs(other), initial=0.0))


@every_unit
def test_packed_leaves_take_the_steps_of_single_leaves(unit):
    plain = unit.make()
    record = record_of(plain)
    try:
        tx = storage.packed(plain)
        state = tx.init(params())
    except gradtx.errors.LayoutError:
        assert record.locality != "elementwise"
        return
    assert record.locality == "elementwise"
    step, plain_step, plain_state = jax.jit(unit.fed(tx)), jax.jit(unit.fed(plain)), plain.init(params())
    draws = "leaf_seed" in record.leaves.signals  # other random numbers for a vector than for its leaves
    for seed in range(2):
        grads = gradients(seed=seed, domain=unit.domain)
        expected, plain_state = plain_step(grads, plain_state, params())
        updates, state = step(grads, state, params())
        if not draws:
            assert_close(updates, expected, unit.magnifies)
    assert types(updates) == types(expected)
