"""Claims about a function on what a state keeps for each parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import gradtx
from gradtx import errors

PARAMS = {"b": jnp.zeros(3), "w": jnp.zeros((2, 3))}
NAMES = {"b": "vector", "w": "matrix"}


def named(tx, params=PARAMS, names=NAMES, **options):
    return gradtx.map_params(tx, lambda x, name: name, jax.eval_shape(tx.init, params), names, **options)


def test_moments_are_mapped_and_all_else_stays():
    tx = gradtx.adamw(1e-3)
    state = tx.init(PARAMS)
    found = gradtx.map_params(tx, lambda x, name: name, state, NAMES)
    assert gradtx.tree.get(found, "ema/mean") == gradtx.tree.get(found, "mean_square/mean_square") == NAMES
    step = "numerator/bias_correction/step"
    assert gradtx.tree.get(found, step) is gradtx.tree.get(state, step)
    others = gradtx.map_params(tx, lambda x: x, state, transform_non_params=lambda x: None)
    assert {leaf.ndim for leaf in jax.tree.leaves(others)} == {1, 2}


def test_optax_agrees_on_states_without_factors():
    for tx in (gradtx.adam(1e-3), gradtx.sgd(0.1, momentum=0.9), optax.adam(1e-3), optax.sgd(1e-3)):
        state = tx.init(PARAMS)
        ours = gradtx.map_params(tx, lambda x, n: n, state, NAMES, transform_non_params=str)
        theirs = optax.tree.map_params(tx, lambda x, n: n, state, NAMES, transform_non_params=str)
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        assert jax.tree.leaves(ours) == jax.tree.leaves(theirs)


def test_what_is_kept_in_another_shape_is_no_parameter():
    tx = gradtx.chain(gradtx.normalize_by_past_norm(0.9, 1e-8), gradtx.ema(0.9))
    found = named(tx, transform_non_params=lambda x: "other")
    assert sorted(jax.tree.leaves(found)) == ["matrix", *["other"] * (len(jax.tree.leaves(found)) - 2), "vector"]
    theirs = optax.tree.map_params(tx, lambda x, n: n, tx.init(PARAMS), NAMES)
    assert jax.tree.leaves(theirs).count("matrix") == 2  # a norm, which is one number, is taken for a matrix


def test_leaves_left_out_and_leaves_that_are_none_have_nothing():
    assert gradtx.tree.get(named(gradtx.only(gradtx.ema(0.9), "w")), "mean") == {"b": None, "w": "matrix"}
    params, names = {**PARAMS, "n": None}, {**NAMES, "n": None}
    assert gradtx.tree.get(named(gradtx.ema(0.9), params, names), "mean") == names


def test_foreign_parts_are_asked_by_a_tree_without_leaves():
    tx = gradtx.chain(gradtx.clip(1.0), optax.trace(0.9), gradtx.partition({"a": optax.adam(0.1)}, lambda p, x: "a"))
    found = named(tx, transform_non_params=lambda x: "other")
    assert jax.tree.leaves(found).count("matrix") == jax.tree.leaves(found).count("vector") == 3
    assert jax.tree.leaves(found).count("other") == 1


@pytest.mark.parametrize("wrap", [gradtx.watch, gradtx.skip_nonfinite, lambda tx: gradtx.accumulate(tx, 2)])
def test_states_within_states_are_found(wrap):
    tx = wrap(gradtx.tunable(gradtx.adam, learning_rate=0.1))
    assert gradtx.tree.get(named(tx), "ema/mean") == NAMES


def test_shardings_of_parameters_become_those_of_a_state():
    mesh = jax.make_mesh((2,), ("d",), devices=jax.devices()[:2])
    specs = {"b": PartitionSpec(), "w": PartitionSpec("d")}
    tx = gradtx.adam(1e-3)
    shardings = gradtx.map_params(
        tx, lambda x, spec: NamedSharding(mesh, spec), jax.eval_shape(tx.init, PARAMS), specs,
        transform_non_params=lambda x: NamedSharding(mesh, PartitionSpec()),
    )  # fmt: skip
    state = jax.jit(tx.init, out_shardings=shardings)(PARAMS)
    assert gradtx.tree.get(state, "ema/mean")["w"].sharding.spec == PartitionSpec("d")


def test_a_mapped_state_goes_on():
    tx = gradtx.adam(1e-3)
    state = gradtx.map_params(tx, jnp.negative, tx.update(PARAMS, tx.init(PARAMS))[1])
    assert jax.tree.map(jnp.shape, tx.update(PARAMS, state)[1]) == jax.tree.map(jnp.shape, state)


def test_a_tree_of_other_parameters_is_refused():
    with pytest.raises(errors.StructureError, match=r"map_params\(adam\(0.001\).*trees like the parameters"):
        named(gradtx.adam(1e-3), names={"w": 1})


def test_a_flattened_state_has_one_parameter_and_all_that_belongs_to_it():
    assert named(gradtx.flatten(gradtx.ema(0.9))).inner.mean == NAMES


def test_an_error_of_the_function_is_its_own():
    def fails(x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        gradtx.map_params(gradtx.ema(0.9), fails, gradtx.ema(0.9).init(PARAMS))
    assert np.shape(gradtx.ema(0.9).init(PARAMS).mean["w"]) == (2, 3)
