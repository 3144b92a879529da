"""What every client may count on: a state is a tree of plain arrays in named tuples and dictionaries."""

import collections
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from tests.clients.problem import assert_identical
from tests.laws.table import every_unit
from tests.laws.trees import gradients, params, types

pytestmark = pytest.mark.filterwarnings("error")


def states(unit):
    """The state after ``init`` and after an update, eager and compiled."""
    tx, weights, grads = unit.make(), params(), gradients(domain=unit.domain)
    state = tx.init(weights)
    return [
        state,
        jax.jit(tx.init)(weights),
        unit.fed(tx)(grads, state, weights)[1],
        jax.jit(unit.fed(tx))(grads, state, weights)[1],
    ]


@every_unit
def test_every_leaf_of_a_state_is_an_array_and_none_a_typed_key(unit):
    for state in states(unit):
        for leaf in jax.tree.leaves(state):
            assert isinstance(leaf, jax.Array)
            assert not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
            assert not leaf.weak_type


@every_unit
def test_a_state_is_made_of_named_tuples_dictionaries_and_the_parameters_containers(unit):
    def walk(node):
        if isinstance(node, dict):
            assert all(isinstance(name, str) and "/" not in name for name in node)
            for below in node.values():
                walk(below)
        elif isinstance(node, tuple):
            assert node == () or hasattr(node, "_fields"), type(node)
            for below in node:
                walk(below)
        else:
            assert node is None or isinstance(node, jax.Array), type(node)

    for state in states(unit):
        walk(state)


@every_unit
def test_all_states_of_a_transformation_have_one_type(unit):
    first, *others = states(unit)
    for other in others:
        assert types(other) == types(first)


@every_unit
def test_a_state_of_numpy_arrays_is_as_good(unit):
    """What a checkpoint gives back."""
    tx, weights, grads = unit.make(), params(), gradients(domain=unit.domain)
    update = unit.fed(tx)
    _, state = update(grads, tx.init(weights), weights)
    expected = update(grads, state, weights)
    assert_identical(update(grads, jax.tree.map(np.asarray, state), weights), expected)
    numpy = jax.tree.map(np.asarray, (grads, state, weights))
    for a, b in zip(*map(jax.tree.leaves, (update(*numpy), expected)), strict=True):
        np.testing.assert_array_equal(a, b)


@every_unit
def test_init_needs_shapes_and_dtypes_only(unit):
    shapes = jax.eval_shape(lambda: params())
    assert types(jax.eval_shape(unit.make().init, shapes)) == types(unit.make().init(params()))


@every_unit
def test_two_runs_of_init_give_equal_states_of_their_own(unit):
    first, second = unit.make().init(params()), unit.make().init(params())
    assert_identical(first, second)
    assert all(a is not b for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))


class ActorCritic(NamedTuple):
    """Parameters in a named tuple, with a field that boxes of other libraries have too."""

    policy: Any
    value: Any


CONTAINERS = {
    "a named tuple": lambda leaves: ActorCritic({"w": leaves["w"]}, leaves["b"]),
    "an ordered dictionary": collections.OrderedDict,
    "a list": lambda leaves: list(leaves.values()),
    "a tuple": lambda leaves: tuple(leaves.values()),
    "nested": lambda leaves: {"a": [leaves["w"], {"b": (leaves["b"],)}], "s": leaves["s"]},
    "with None": lambda leaves: {**leaves, "nothing": None, "less": [None, None]},
    "one array": lambda leaves: leaves["w"],
    "numpy arrays": lambda leaves: jax.tree.map(np.asarray, leaves),
    "integer keys": lambda leaves: {0: leaves["w"], 1: leaves["b"]},
    "a flat index": lambda leaves: {"w/kernel": leaves["w"], "w": {"kernel": leaves["b"]}},
}


@pytest.mark.parametrize("contain", CONTAINERS.values(), ids=CONTAINERS.keys())
@pytest.mark.parametrize(
    "tx",
    [
        gradtx.adamw(1e-2),
        gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.tunable(gradtx.adamw, learning_rate=1e-2)),
        gradtx.storage.stored(gradtx.adam(1e-2), gradtx.storage.cast("bfloat16", rounding="stochastic")),
    ],
    ids=["adamw", "clipped", "stored"],
)
def test_any_container_of_parameters_is_fine(tx, contain):
    weights = contain(params())
    state = tx.init(weights)
    updates, after = tx.update(weights, state, weights)
    assert types(after) == types(state)
    assert jax.tree.structure(gradtx.apply_updates(weights, updates)) == jax.tree.structure(weights)


@pytest.mark.parametrize(
    ("where", "moving"), [("*value", {"value"}), ("*policy", {"policy"}), ("*", {"policy", "value"})]
)
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_field_called_value_is_a_part_of_the_path(where, moving, depth):
    weights = ActorCritic(jnp.ones(2), jnp.ones(3))
    for _ in range(depth):
        weights = {"agent": weights}
    tx = gradtx.only(gradtx.sgd(1.0), where)
    updates, _ = tx.update(weights, tx.init(weights), weights)
    for _ in range(depth):
        updates = updates["agent"]
    assert {name for name, update in updates._asdict().items() if update.any()} == moving
