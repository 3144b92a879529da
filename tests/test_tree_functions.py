"""Claims about the functions of trees, on random trees, held against one flat NumPy vector."""

import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors, tree

EPS = float(np.finfo(np.float32).eps)

shapes = st.lists(st.integers(0, 3), max_size=2).map(tuple)
structures = st.recursive(
    shapes | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def filled(structure, rng):
    """A tree of normal numbers with these shapes; ``None`` stays."""
    is_shape = lambda node: isinstance(node, tuple) and all(isinstance(n, int) for n in node)  # noqa: E731
    return jax.tree.map(lambda shape: rng.normal(size=shape).astype(np.float32), structure, is_leaf=is_shape)


@st.composite
def pairs(draw):
    structure, rng = draw(structures), np.random.default_rng(draw(st.integers(0, 99)))
    return filled(structure, rng), filled(structure, rng)


def flat(t):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(t)] or [np.zeros(0)])


few = hypothesis.settings(max_examples=25, deadline=None)


@hypothesis.given(pairs())
@few
def test_arithmetic_is_that_of_one_vector(both):
    x, y = both
    for found, expected in (
        (tree.add(x, y), flat(x) + flat(y)),
        (tree.add(x, y, x), flat(x) + flat(y) + flat(x)),
        (tree.sub(x, y), flat(x) - flat(y)),
        (tree.mul(x, y), flat(x) * flat(y)),
        (tree.div(x, y), flat(x) / flat(y)),
        (tree.scale(0.5, x), 0.5 * flat(x)),
        (tree.add_scale(x, -0.25, y), flat(x) - 0.25 * flat(y)),
        (tree.where(True, x, y), flat(x)),
        (tree.where(jax.tree.map(lambda leaf: leaf > 0, x), x, y), np.where(flat(x) > 0, flat(x), flat(y))),
        (tree.incremental_update(x, y, 0.25), flat(y) + 0.25 * (flat(x) - flat(y))),
        (tree.periodic_update(x, y, 6, 3), flat(x)),
        (tree.periodic_update(x, y, 7, 3), flat(y)),
    ):
        assert jax.tree.structure(found) == jax.tree.structure(x)
        np.testing.assert_allclose(flat(found), expected, rtol=4 * EPS, atol=4 * EPS)


@hypothesis.given(pairs())
@few
def test_reductions_are_those_of_one_vector(both):
    x, y = both
    assert tree.size(x) == flat(x).size
    np.testing.assert_allclose(tree.sum(x), flat(x).sum(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tree.vdot(x, y), flat(x) @ flat(y), rtol=1e-5, atol=1e-5)
    for order in (1, 2, math.inf):
        expected = np.linalg.norm(flat(x), order) if flat(x).size else 0
        np.testing.assert_allclose(tree.global_norm(x, ord=order), expected, rtol=1e-5)
    assert bool(tree.allclose(x, x)) and bool(tree.allclose(x, tree.add_scale(x, 1.0, tree.ones_like(x)))) == (
        flat(x).size == 0
    )
    if flat(x).size:
        assert float(tree.max(x)) == flat(x).max() and float(tree.min(x)) == flat(x).min()
    else:
        with pytest.raises(errors.ShapeError, match="a tree with an element"):
            tree.max(x)


@hypothesis.given(pairs())
@few
def test_trees_are_made_like_others(both):
    x, _ = both
    for made, value in ((tree.zeros_like(x), 0), (tree.ones_like(x), 1), (tree.full_like(x, 2.5), 2.5)):
        assert jax.tree.structure(made) == jax.tree.structure(x)
        assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, x)
        assert jax.tree.map(jnp.result_type, made) == jax.tree.map(jnp.result_type, x)
        np.testing.assert_array_equal(flat(made), np.full(flat(x).shape, value))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(tree.cast(x, jnp.bfloat16)))
    np.testing.assert_array_equal(flat(tree.cast_like(tree.cast(x, jnp.float16), x)), flat(x).astype(np.float16))
    random = tree.random_like(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, random) == jax.tree.map(jnp.shape, x)


EXAMPLE = {"b": np.array([0.5, -2.0], np.float32), "w": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_optax_computes_the_same():
    x, y = EXAMPLE, tree.scale(-0.5, EXAMPLE)
    theirs = optax.tree
    for found, expected in (
        (tree.add(x, y), theirs.add(x, y)), (tree.sub(x, y), theirs.sub(x, y)), (tree.mul(x, y), theirs.mul(x, y)),
        (tree.add_scale(x, 2.0, y), theirs.add_scale(x, 2.0, y)), (tree.scale(2.0, x), theirs.scale(2.0, x)),
        (tree.vdot(x, y), theirs.vdot(x, y)), (tree.sum(x), theirs.sum(x)), (tree.max(x), theirs.max(x)),
        (tree.min(x), theirs.min(x)), (tree.global_norm(x), optax.global_norm(x)),
        (tree.global_norm(x, ord=1), theirs.norm(x, 1)), (tree.full_like(x, 2), theirs.full_like(x, 2)),
        (tree.incremental_update(x, y, 0.1), optax.incremental_update(x, y, 0.1)),
        (tree.periodic_update(x, y, jnp.array(4), 2), optax.periodic_update(x, y, jnp.array(4), 2)),
        (tree.where(jnp.array(False), x, y), theirs.where(jnp.array(False), x, y)),
    ):  # fmt: skip
        np.testing.assert_allclose(flat(found), flat(expected), rtol=4 * EPS)


def test_low_precision_is_rounded_once():
    x = tree.cast(EXAMPLE, jnp.bfloat16)
    for found, expected in (
        (tree.add_scale(x, 1 / 3, x), flat(x) + flat(x) / np.float32(3)),
        (tree.incremental_update(x, tree.scale(3.0, x), 0.1), 3 * flat(x) + np.float32(0.1) * -2 * flat(x)),
        (tree.scale(1 / 3, x), flat(x) * np.float32(1 / 3)),
    ):
        np.testing.assert_array_equal(flat(found), flat(jnp.asarray(np.float32(expected)).astype(jnp.bfloat16)))
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    many = jnp.ones(4096, jnp.bfloat16)
    assert float(tree.sum(many)) == float(tree.vdot(many, many)) == 4096 and float(tree.global_norm(many)) == 64


def test_a_traced_condition_or_step_will_do():
    chosen = jax.jit(tree.where)(True, EXAMPLE, tree.zeros_like(EXAMPLE))
    np.testing.assert_array_equal(flat(chosen), flat(EXAMPLE))
    kept = jax.jit(tree.periodic_update)(EXAMPLE, tree.zeros_like(EXAMPLE), 1, 2)
    assert not flat(kept).any()


def test_slow_targets_keep_their_dtype():
    old = tree.cast(EXAMPLE, jnp.float16)
    assert {leaf.dtype for leaf in jax.tree.leaves(tree.incremental_update(EXAMPLE, old, 0.5))} == {
        jnp.dtype("float16")
    }


@pytest.mark.parametrize("size", [1e-37, 1e-30, 1e-20, 1e18, 1e25, 1e37])
def test_the_global_norm_neither_overflows_nor_vanishes(size):
    x = tree.scale(np.float32(size), {"a": jnp.array([3.0, 0.0]), "b": jnp.array(-4.0)})
    value, slope = jax.value_and_grad(gradtx.global_norm)(x)
    assert float(value) == pytest.approx(5 * size, rel=4 * EPS)
    np.testing.assert_allclose(flat(slope), [0.6, 0, -0.8], rtol=4 * EPS)


def test_the_global_norm_of_zeros_has_gradient_zero_and_nan_stays_visible():
    value, slope = jax.value_and_grad(gradtx.global_norm)({"a": jnp.zeros(2)})
    assert value == 0 and not slope["a"].any()
    assert np.isnan(jax.grad(optax.global_norm)({"a": jnp.zeros(2)})["a"]).all()
    assert np.isnan(gradtx.global_norm([jnp.array([1.0, jnp.nan])])) and gradtx.global_norm([jnp.inf]) == jnp.inf


def test_complex_trees_have_norms_and_products():
    z = [jnp.array([3 + 4j, 0])]
    assert (
        float(tree.global_norm(z)) == float(tree.global_norm(z, ord=1)) == float(tree.global_norm(z, ord=math.inf)) == 5
    )
    assert complex(tree.vdot([jnp.array([1j])], [jnp.array([1 + 1j])])) == 1 - 1j
    assert complex(tree.scale(1j, z)[0][0]) == -4 + 3j


def test_a_key_belongs_to_a_path_and_not_to_a_place():
    key = jax.random.key(3)
    few, more = (dict.fromkeys(names, EXAMPLE["w"]) for names in ("ac", "abc"))
    for name in "ac":
        ours, grown = (tree.random_like(key, t)[name] for t in (few, more))
        np.testing.assert_array_equal(ours, grown)
    drawn = tree.random_like(key, more)
    assert not np.allclose(drawn["a"], drawn["b"])
    expected = jax.random.uniform(tree.split_key_like(key, more)["b"], (2, 3), jnp.float16)
    np.testing.assert_array_equal(tree.random_like(key, more, jax.random.uniform, jnp.float16)["b"], expected)


def test_counters_and_keys_are_not_cast():
    t = {"step": jnp.arange(2), "key": jax.random.key(0), "w": jnp.ones(2), "x": 1.5}
    found = tree.cast(t, jnp.bfloat16)
    assert found["step"].dtype == jnp.int32 and found["key"] is t["key"]
    assert found["w"].dtype == found["x"].dtype == jnp.bfloat16
    assert tree.cast(t, None) is t


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: tree.add({"a": 1.0}, {"b": 1.0}), errors.StructureError, "tree 2"),
        (lambda: tree.sub({"a": jnp.ones(2)}, {"a": 1.0}), errors.ShapeError, "'a'"),
        (lambda: tree.vdot({"a": jnp.ones(2)}, {"a": 1.0}), errors.ShapeError, "'a'"),
        (lambda: tree.allclose([1.0], 1.0), errors.StructureError, "b must have"),
        (lambda: tree.cast_like([1.0], 1.0), errors.StructureError, "tree must have"),
        (lambda: tree.global_norm([1.0], ord=3), errors.ArgumentRangeError, "ord must be"),
        (lambda: tree.min({}), errors.ShapeError, "with an element"),
    ],
)
def test_trees_that_do_not_go_together_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


# Parts by name.

PARAMS = {"w": jnp.ones(2), "mean": jnp.zeros(3)}


def test_a_field_is_found_in_any_state():
    tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-3))
    for holder in (
        tx.init(PARAMS),
        {"opt": tx.init(PARAMS), "step": 3},
        [tx.init(PARAMS)],
        optax.adam(1e-3).init(PARAMS),
    ):
        name = "mu" if isinstance(holder, tuple) and "Adam" in str(type(holder[0])) else "ema/mean"
        assert jax.tree.structure(tree.get(holder, name)) == jax.tree.structure(PARAMS)
    state = tx.init(PARAMS)
    assert jax.tree.structure(tree.get(state, "mean_square")) == jax.tree.structure(PARAMS)
    assert type(tree.get(state, "EmaState")).__name__ == "EmaState"
    assert tree.get(state, "nothing") is None and tree.get(state, "nothing", 3) == 3


def test_several_parts_of_a_name_are_told_apart():
    state = gradtx.chain(gradtx.ema(0.9), gradtx.ema(0.5)).init(PARAMS)
    with pytest.raises(errors.SelectionError, match="write more of the path") as caught:
        tree.get(state, "mean")
    paths = [path for path, _ in tree.get_all_with_path(state, "mean")]
    assert len(paths) == 2 and all(path in str(caught.value) for path in paths)
    for path in paths:
        assert tree.get(state, path) is not None
    assert tree.get(state, "mean", filtering=lambda path, part: path == paths[1]) is not None


def test_a_part_is_replaced_and_the_state_stays_what_it_was():
    tx = gradtx.adam(1e-3)
    state = tx.init(PARAMS)
    new = tree.set(state, **{"ema/mean": {"w": np.ones(2), "mean": np.ones(3)}})
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert jax.tree.map(jnp.result_type, new) == jax.tree.map(jnp.result_type, state)
    np.testing.assert_array_equal(tree.get(new, "ema/mean")["w"], np.ones(2))
    assert not np.any(tree.get(state, "ema/mean")["w"])
    both = tree.set(gradtx.chain(gradtx.ema(0.9), gradtx.ema(0.5)).init(jnp.zeros(2)), mean=jnp.ones(2))
    assert [part.tolist() for _, part in tree.get_all_with_path(both, "mean")] == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"meen": 0.0}, errors.SelectionError, "did you mean 'mean'"),
        ({"mean": jnp.ones(3)}, errors.ShapeError, "the old one"),
        ({"mean": {"w": 1.0}}, errors.StructureError, "the old one"),
    ],
)
def test_a_part_that_does_not_fit_is_named(values, error, words):
    with pytest.raises(error, match=words):
        tree.set(gradtx.ema(0.9).init(jnp.zeros(2)), **values)


def test_complex_leaves_have_conjugates_and_real_parts_and_real_ones_stay():
    mixed = {"z": jnp.array([1.0 + 2.0j]), "x": jnp.array([3.0], jnp.bfloat16), "n": None}
    assert tree.conj(mixed)["z"].tolist() == [1.0 - 2.0j] and tree.real(mixed)["z"].tolist() == [1.0]
    assert tree.conj(mixed)["x"] is mixed["x"] is tree.real(mixed)["x"]
    assert_equal_to(optax.tree.conj(mixed), tree.conj(mixed))
    assert_equal_to(optax.tree.real(mixed), tree.real(mixed))


def assert_equal_to(expected, actual):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.complex64), np.asarray(b, np.complex64))


def test_a_tree_has_the_dtype_of_its_leaves():
    mixed = [jnp.ones(2, jnp.bfloat16), jnp.ones(2), jnp.ones(2, jnp.int32)]
    for handler in ("promote", "highest", "lowest"):
        assert tree.dtype(mixed, handler) == optax.tree.dtype(mixed, handler)
    assert tree.dtype(mixed[:1]) == jnp.bfloat16 and tree.dtype({}) == optax.tree.dtype({}) == jnp.float32
    halves = [jnp.ones(2, jnp.bfloat16), jnp.ones(2, jnp.float16)]
    assert tree.dtype(halves, "promote") == jnp.float32
    for leaves, handler in ((mixed, None), (halves, "highest"), (halves, "lowest")):
        with pytest.raises(errors.DtypeError, match="bfloat16, float"):
            tree.dtype(leaves, handler)
    with pytest.raises(errors.ArgumentRangeError, match="'promote'"):
        tree.dtype(mixed, "widest")
