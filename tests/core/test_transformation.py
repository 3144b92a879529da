"""The decorator and its record, and what a user's own transformation gets from it."""

import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors
from gradtx.core import Counter, SignedTree, first_step, next_step, record_of
from gradtx.errors import Decay


class LookBackState(NamedTuple):
    step: Counter
    previous: SignedTree


@gradtx.transformation(locality="elementwise")
def look_back(decay: Decay = 0.5):
    """A user's own: the gradient plus a share of the one before, with a counter that it moves itself."""

    def init(param):
        return LookBackState(first_step(), jnp.zeros_like(param))

    def update(update, state, param, *, boost=1.0):
        return boost * update + decay * state.previous + 0 * param, LookBackState(next_step(state.step), update)

    return gradtx.GradientTransformation(init, update)


@gradtx.transformation(locality="tree")
def needs_key():
    def init(params):
        return gradtx.core.EmptyState()

    def update(updates, state, *, key):
        return jax.tree.map(lambda u: u + jax.random.normal(key, u.shape), updates), state

    return gradtx.GradientTransformation(init, update)


PARAMS = {"w": jnp.ones(2), "b": jnp.ones(2)}


def test_the_record_says_what_was_written():
    record = record_of(gradtx.adam(1e-3, b1=0.95))
    assert (record.name, str(record.call), record.locality) == ("adam", "adam(0.001, b1=0.95)", "elementwise")
    assert str(record_of(gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.sgd(0.1))).call) == (
        "chain(clip_by_global_norm(1.0), sgd(0.1))"
    )


def test_a_chain_reaches_as_far_as_its_widest_part():
    assert record_of(gradtx.chain(gradtx.scale(1.0), gradtx.ema(0.9))).locality == "elementwise"
    assert record_of(gradtx.chain(gradtx.scale(1.0), gradtx.clip_by_global_norm(1.0))).locality == "tree"


def test_equal_arguments_give_the_same_object_however_they_are_written():
    assert gradtx.adam(1e-3) == gradtx.adam(learning_rate=1e-3) == gradtx.adam(1e-3, b1=0.9)
    assert gradtx.adam(1e-3) != gradtx.adam(2e-3)
    assert hash(gradtx.chain(gradtx.adam(1e-3))) == hash(gradtx.chain(gradtx.adam(1e-3)))


def test_a_users_own_unit_runs_leaf_by_leaf_in_a_chain():
    tx = gradtx.chain(look_back(), gradtx.scale(-1.0))
    state = tx.init(PARAMS)
    for _ in range(2):
        updates, state = tx.update(PARAMS, state, PARAMS)
    assert updates["w"].tolist() == [-1.5, -1.5]
    assert int(state["look_back"].step) == 2


def test_signals_reach_those_who_declare_them():
    tx = gradtx.chain(gradtx.scale(2.0), look_back(0.0))
    state = tx.init(PARAMS)
    assert tx.update(PARAMS, state, PARAMS, boost=3.0)[0]["w"].tolist() == [6.0, 6.0]
    assert tx.update(PARAMS, state, PARAMS, value=1.0)[0]["w"].tolist() == [2.0, 2.0]
    with pytest.raises(errors.SignalError, match="did you mean 'boost'"):
        tx.update(PARAMS, state, PARAMS, bost=3.0)


def test_a_missing_signal_names_the_part_and_the_signal():
    tx = gradtx.chain(gradtx.scale(2.0), gradtx.named_chain(("noise", needs_key())))
    with pytest.raises(errors.SignalError, match="1:named_chain > 0:noise needs the signal key") as caught:
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert "key=..." in str(caught.value)
    tx.update(PARAMS, tx.init(PARAMS), PARAMS, key=jax.random.key(0))


def test_a_leaf_function_is_traced_once_for_equal_shapes():
    traces = 0

    @gradtx.transformation(locality="elementwise")
    def counted():
        def update(update):
            nonlocal traces
            traces += 1
            return update

        return gradtx.stateless(update)

    params = {f"layer {index}": jnp.ones(3) for index in range(20)}
    tx = gradtx.chain(counted(), gradtx.scale(1.0))
    jax.jit(tx.update)(params, tx.init(params))
    assert traces == 1


def test_an_error_inside_a_part_says_which_part():
    @gradtx.transformation(locality="tree")
    def broken():
        def update(updates):
            raise RuntimeError("no luck")

        return gradtx.stateless(update)

    tx = gradtx.chain(gradtx.scale(1.0), broken())
    with pytest.raises(RuntimeError, match="no luck") as caught:
        tx.update(PARAMS, tx.init(PARAMS))
    assert "in chain element 'broken'" in caught.value.__notes__


def test_names_of_repeated_parts_get_an_ordinal():
    tx = gradtx.chain(gradtx.ema(0.5), gradtx.scale(1.0), gradtx.ema(0.5))
    assert sorted(tx.init(PARAMS)) == ["ema", "ema_2", "scale"]


def test_paths_of_a_state_are_part_and_field_names():
    tx = gradtx.chain(gradtx.clip(1.0), gradtx.adamw(1e-3))
    paths = [gradtx.tree.path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tx.init(PARAMS))[0]]
    assert "adamw/scale_by_adam/numerator/ema/mean/w" in paths
    assert not any(part.isdigit() for path in paths for part in path.split("/"))


def test_a_schedule_must_return_a_number():
    for schedule in (lambda step: None, lambda step: "1", lambda step: jnp.ones(3), lambda step: lambda: 1.0):
        with pytest.raises(errors.ArgumentTypeError, match="one real number"):
            gradtx.adam(schedule).init(PARAMS)


def test_the_counter_stays_at_its_largest_value():
    largest = jnp.int32(2**31 - 1)
    assert int(next_step(largest)) == 2**31 - 1
    assert int(next_step(jnp.int32(2**24))) == 2**24 + 1
    assert next_step(largest).dtype == jnp.int32


def test_a_run_at_the_largest_step_stays_finite():
    tx = gradtx.adam(lambda step: 1e-3 / (1.0 + step))
    last = jnp.int32(2**31 - 1)
    state = jax.tree.map(lambda leaf: last if leaf.dtype == jnp.int32 else leaf, tx.init(PARAMS))
    updates, after = tx.update(PARAMS, state)
    assert np.all(np.isfinite(updates["w"])) and int(after.step) == 2**31 - 1


def test_errors_survive_pickling():
    with pytest.raises(errors.ArgumentRangeError) as caught:
        gradtx.adam(-1.0)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert str(copied) == str(caught.value) and type(copied) is type(caught.value)


def test_a_state_of_another_transformation_is_refused():
    with pytest.raises(errors.StructureError, match=r"tx\.init"):
        gradtx.adam(1e-3).update(PARAMS, gradtx.sgd(0.1, 0.9).init(PARAMS), PARAMS)
    with pytest.raises(errors.StructureError, match=r"tx\.init"):
        gradtx.adam(1e-3).update(PARAMS, gradtx.adam(1e-3).init({"w": jnp.ones(2)}), PARAMS)


def test_containers_that_differ_are_both_named():
    tx = gradtx.sgd(0.1)
    with pytest.raises(errors.StructureError, match="list where params has tuple"):
        tx.update([jnp.ones(2)], tx.init((jnp.ones(2),)), (jnp.ones(2),))


@pytest.mark.parametrize("parts", [([gradtx.adam(1e-3)],), (gradtx.adam,), (None,), (1e-3,)])
def test_what_is_no_transformation_is_refused(parts):
    with pytest.raises(errors.ArgumentTypeError, match=r"pair \(init, update\)"):
        gradtx.chain(*parts)


def test_parameters_may_be_python_numbers():
    params, tx = {"w": 1.0}, gradtx.adamw(0.1, weight_decay=0.0)
    updates, _ = tx.update(jax.grad(lambda p: p["w"] ** 2)(params), tx.init(params), params)
    np.testing.assert_allclose(gradtx.apply_updates(params, updates)["w"], 0.9, rtol=1e-6)


def test_an_array_learning_rate_works_eagerly_and_traced():
    grads = {"w": jnp.ones(2)}
    tx = gradtx.sgd(jnp.float32(0.5))
    assert tx.update(grads, tx.init(grads))[0]["w"].tolist() == [-0.5, -0.5]

    @jax.jit
    def three_steps(learning_rate):
        """Made inside a trace and used in a loop of it: the inner functions close over a traced rate."""
        tx = gradtx.sgd(learning_rate, momentum=0.5)

        def body(state, _):
            updates, state = tx.update(grads, state)
            return state, updates["w"]

        return jax.lax.scan(body, tx.init(grads), length=3)[1][:, 0]

    assert three_steps(1.0).tolist() == [-1.0, -1.5, -1.75]
    assert three_steps(2.0).tolist() == [-2.0, -3.0, -3.5]
