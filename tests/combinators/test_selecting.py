"""Which leaves a transformation is for."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors

PARAMS = {"block": {"0": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}, "head": {"kernel": jnp.ones((2, 1))}}
KERNELS = {"block": {"0": {"kernel": True, "bias": False}}, "head": True}


@pytest.mark.parametrize(
    "where",
    [
        "*kernel",
        re.compile("kernel$"),
        lambda path, leaf: leaf.ndim == 2,
        lambda tree: jax.tree.map(lambda leaf: leaf.ndim == 2, tree),
        KERNELS,
        {"block": {"0": {"kernel": True, "bias": False}}, "head": {"kernel": np.bool_(True)}},
    ],
    ids=["glob", "regular expression", "predicate", "function of the tree", "prefix tree", "tree of NumPy booleans"],
)
def test_every_way_to_say_which_leaves(where):
    tx = gradtx.only(gradtx.sgd(1.0, momentum=0.9), where)
    state = tx.init(PARAMS)
    updates, after = tx.update(PARAMS, state, PARAMS)
    assert np.all(updates["block"]["0"]["kernel"] == -1) and np.all(updates["head"]["kernel"] == -1)
    assert np.all(updates["block"]["0"]["bias"] == 0)
    assert len(jax.tree.leaves(after)) == 2


def test_masked_passes_on_what_only_freezes_and_freeze_stops_what_it_names():
    for tx, rest in (
        (gradtx.masked(gradtx.scale(2.0), "*kernel"), 1.0),
        (gradtx.only(gradtx.scale(2.0), "*kernel"), 0.0),
        (gradtx.chain(gradtx.scale(2.0), gradtx.freeze("*bias")), 0.0),
    ):
        updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
        assert np.all(updates["block"]["0"]["kernel"] == 2.0)
        assert np.all(updates["block"]["0"]["bias"] == rest)


def test_a_tree_of_booleans_is_a_tree_even_if_callable():
    class Mask(dict):
        def __call__(self, *args):
            raise AssertionError("a mask was called")

    jax.tree_util.register_pytree_node(
        Mask, lambda m: (list(m.values()), list(m)), lambda k, v: Mask(zip(k, v, strict=True))
    )
    tx = gradtx.only(gradtx.scale(2.0), Mask(a=True, b=False))
    params = Mask(a=jnp.ones(1), b=jnp.ones(1))
    updates, _ = tx.update(params, tx.init(params))
    assert updates["a"] == 2.0 and updates["b"] == 0.0


def test_a_norm_in_a_partition_is_the_norm_of_its_group():
    rules = {"clipped": gradtx.clip_by_global_norm(1.0), "free": gradtx.identity()}
    tx = gradtx.partition(rules, {"a": "clipped", "b": "clipped", "c": "free"})
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0]), "c": jnp.array([100.0])}
    updates, _ = tx.update(grads, tx.init(grads))
    np.testing.assert_allclose([float(u[0]) for u in updates.values()], [0.6, 0.8, 100.0], rtol=1e-6)


def test_a_partition_of_equal_rules_is_the_rule():
    rule = gradtx.adamw(1e-2)
    tx = gradtx.partition({"x": rule, "y": rule}, lambda path, leaf: "x" if "kernel" in path else "y")
    state, expected_state = tx.init(PARAMS), rule.init(PARAMS)
    for _ in range(3):
        updates, state = tx.update(PARAMS, state, PARAMS)
        expected, expected_state = rule.update(PARAMS, expected_state, PARAMS)
    jax.tree.map(np.testing.assert_array_equal, updates, expected)


def test_weight_decay_takes_a_mask():
    tx = gradtx.adamw(1e-2, weight_decay=0.5, mask="*kernel")
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = tx.update(zero, tx.init(PARAMS), PARAMS)
    assert np.all(updates["head"]["kernel"] < 0) and np.all(updates["block"]["0"]["bias"] == 0)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: gradtx.only(gradtx.sgd(1.0), "nothing/*"), errors.SelectionError, "matches some leaf"),
        (lambda: gradtx.only(gradtx.sgd(1.0), {"block": True}), errors.SelectionError, "prefix"),
        (lambda: gradtx.masked(gradtx.sgd(1.0), {"block": 0.5, "head": True}), errors.SelectionError, "True or False"),
        (lambda: gradtx.masked(gradtx.sgd(1.0), lambda path, leaf: 3), errors.SelectionError, "True or False"),
        (
            lambda: gradtx.partition({"a": gradtx.sgd(1.0)}, {"block": "a", "head": "b"}),
            errors.SelectionError,
            "'b' at",
        ),
        (lambda: gradtx.partition({1: gradtx.sgd(1.0), "1": gradtx.sgd(2.0)}, 1), errors.SelectionError, "as text"),
        (lambda: gradtx.partition([gradtx.sgd(1.0)], {}), errors.ArgumentTypeError, "must map labels"),
        (lambda: gradtx.named_chain(gradtx.sgd(1.0)), errors.ArgumentTypeError, "pairs of a name"),
        (lambda: gradtx.named_chain(("a", gradtx.sgd(1.0)), ("a", gradtx.sgd(1.0))), errors.SelectionError, "once"),
    ],
)
def test_bad_selections_fail_by_init(make, error, words):
    with pytest.raises(error, match=words):
        make().init(PARAMS)


def test_a_rule_that_nobody_uses_is_reported():
    tx = gradtx.partition({"a": gradtx.sgd(1.0), "b": gradtx.sgd(1.0)}, lambda path, leaf: "a")
    with pytest.warns(gradtx.combinators.UnusedLabelWarning, match="'b'"):
        tx.init(PARAMS)
