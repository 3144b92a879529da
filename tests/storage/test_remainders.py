"""Parameters in 16 bits with their missing digits in the state."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

import gradtx
from gradtx import errors, storage
from gradtx.storage import master_params, master_weights

TINY, LARGEST = 2.0**-126, float(jnp.finfo(jnp.bfloat16).max)
NORMAL = st.floats(TINY, LARGEST, width=32) | st.floats(-LARGEST, -TINY, width=32) | st.just(0.0)


def moved_to(tx, start, target):
    """One step from ``start`` (bfloat16, no remainder) to ``target`` in float32."""
    params = jnp.asarray(start, jnp.bfloat16)
    updates, state = tx.update(params.astype(jnp.float32) - target, tx.init(params), params)
    return gradtx.apply_updates(params, updates), state


@hypothesis.given(st.lists(NORMAL, min_size=8, max_size=8))
@hypothesis.settings(max_examples=200, deadline=None)
def test_sixteen_bits_hold_every_float32_number_and_eight_hold_sixteen_digits(numbers):
    target = jnp.array(numbers, jnp.float32)
    for bits, bound in ((16, 0.0), (8, 2.0**-16)):
        params, state = moved_to(master_weights(gradtx.sgd(1.0), bits=bits), jnp.zeros(8), target)
        kept = np.asarray(master_params(state, params), np.float64)
        assert np.all(np.abs(kept - np.asarray(target, np.float64)) <= bound * np.abs(target))
        assert params.dtype == jnp.bfloat16
        assert state.remainder.dtype == {8: jnp.int8, 16: jnp.int16}[bits]


@hypothesis.given(st.lists(NORMAL, min_size=8, max_size=8), st.lists(NORMAL, min_size=8, max_size=8))
@hypothesis.settings(max_examples=200, deadline=None)
def test_applying_the_update_gives_the_rounded_master_weight_from_everywhere(starts, targets):
    tx = master_weights(gradtx.sgd(1.0))
    params = jnp.array(starts).astype(jnp.bfloat16)
    gradient = jnp.clip(params.astype(jnp.float32) - jnp.array(targets), -3e38, 3e38)
    master = params.astype(jnp.float32) - gradient
    updates, state = tx.update(gradient, tx.init(params), params)
    moved = gradtx.apply_updates(params, updates)
    kept = np.asarray(master_params(state, moved))
    is_normal = (np.abs(master) >= TINY) & (np.abs(master) <= LARGEST)
    np.testing.assert_array_equal(kept[is_normal], np.asarray(master)[is_normal])
    assert np.all(np.isfinite(kept))


RUNS = {
    "adamw": gradtx.adamw(1e-3),
    "momentum": gradtx.sgd(1e-2, momentum=0.9),
    "lion": gradtx.lion(1e-4, weight_decay=0.1),
    "clipped": gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adam(1e-3)),
}


@pytest.mark.parametrize("tx", RUNS.values(), ids=RUNS)
def test_a_run_with_sixteen_bits_is_the_run_with_a_float32_copy(tx):
    shapes = {"kernel": (7, 5), "bias": (5,), "scale": ()}
    keys = jax.random.split(jax.random.key(3), 3)
    copy = {name: jax.random.normal(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=True)}
    copy = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), copy)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), copy)
    split, whole = master_weights(tx), tx
    state, whole_state = split.init(params), whole.init(copy)
    for step in range(30):
        grads = jax.tree.map(lambda leaf, step=step: jnp.sin(3 * leaf + step), copy)
        updates, whole_state = whole.update(grads, whole_state, copy)
        copy = gradtx.apply_updates(copy, updates)
        updates, state = split.update(grads, state, params)
        params = gradtx.apply_updates(params, updates)
        jax.tree.map(np.testing.assert_array_equal, master_params(state, params), copy)
        nearest = jax.tree.map(lambda leaf: np.abs(leaf) * 2.0**-8, copy)
        jax.tree.map(lambda p, m, gap: np.testing.assert_array_less(np.abs(p - m), gap + 1e-30), params, copy, nearest)


@pytest.mark.parametrize(
    ("wrapper", "dtype", "unit"),
    [
        (lambda tx: master_weights(tx, bits=8), jnp.bfloat16, 2.0**-15),
        (master_weights, jnp.bfloat16, 2.0**-23),
        (master_weights, jnp.float16, 2.0**-21),
    ],
    ids=["8 bits", "16 bits", "float16"],
)
def test_small_steps_are_not_lost(wrapper, dtype, unit):
    """1,000 steps of 1e-4, some back, against the sum in float64: each may lose half a unit of what is kept."""
    steps = np.where(np.arange(1000) % 10 < 7, 1e-4, -1e-4)
    ends = {}
    for name, tx in (("plain", gradtx.sgd(1.0)), ("kept", wrapper(gradtx.sgd(1.0)))):

        def step(carry, gradient, tx=tx):
            params, state = carry
            updates, state = tx.update(jnp.full(3, -gradient), state, params)
            return (gradtx.apply_updates(params, updates), state), None

        params = jnp.array([1.0, 1.5, -1.0], dtype)
        run = jax.jit(lambda carry, step=step: jax.lax.scan(step, carry, jnp.asarray(steps, jnp.float32))[0])
        params, state = run((params, tx.init(params)))
        ends[name] = params if name == "plain" else master_params(state, params)
    exact = np.array([1.0, 1.5, -1.0]) + steps.sum()
    errors_of = {name: np.abs(np.asarray(end, np.float64) - exact).max() for name, end in ends.items()}
    assert errors_of["kept"] <= 1000 * unit / 2
    assert errors_of["kept"] * 2 < errors_of["plain"]


def test_wide_leaves_and_integers_keep_nothing():
    params = {"kernel": jnp.ones(4, jnp.bfloat16), "norm": jnp.ones(4), "table": jnp.arange(3)}
    tx = master_weights(
        gradtx.only(gradtx.adam(1e-2), lambda path, leaf: leaf.dtype.kind == "f" or leaf.dtype == jnp.bfloat16)
    )
    state = tx.init(params)
    assert state.remainder["norm"] is None
    assert state.remainder["table"] is None
    grads = {"kernel": jnp.ones(4, jnp.bfloat16), "norm": jnp.ones(4), "table": np.zeros(3, jax.dtypes.float0)}
    updates, new = jax.jit(tx.update)(grads, state, params)
    moved = gradtx.apply_updates(params, updates)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    np.testing.assert_allclose(moved["norm"], 0.99, rtol=1e-6)
    np.testing.assert_allclose(master_params(new, moved)["kernel"], 0.99, rtol=1e-4)


def test_what_is_not_finite_stays_visible_and_a_guard_undoes_it():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    broken = {"w": jnp.array([1.0, jnp.nan, jnp.inf])}
    tx = master_weights(gradtx.sgd(0.1))
    updates, _ = tx.update(broken, tx.init(params), params)
    assert np.isfinite(np.asarray(gradtx.apply_updates(params, updates)["w"], np.float32)).tolist() == [
        True,
        False,
        False,
    ]
    guarded = gradtx.skip_nonfinite(tx)
    before = guarded.init(params)
    updates, after = guarded.update(broken, before, params)
    jax.tree.map(np.testing.assert_array_equal, gradtx.apply_updates(params, updates), params)
    assert after.inner.remainder["w"].tolist() == before.inner.remainder["w"].tolist()


def test_an_infinite_parameter_that_does_not_move_stays_infinite():
    params = jnp.array([jnp.inf, -jnp.inf], jnp.bfloat16)
    tx = master_weights(gradtx.sgd(0.1))
    updates, _ = tx.update(jnp.zeros(2), tx.init(params), params)
    assert gradtx.apply_updates(params, updates).tolist() == params.tolist()


def test_parameters_that_something_else_changed_are_taken_as_they_are():
    tx = master_weights(gradtx.sgd(1e-3))
    params = jnp.ones(2, jnp.bfloat16)
    _, state = tx.update(jnp.ones(2), tx.init(params), params)
    replaced = jnp.full(2, 3.0, jnp.bfloat16)
    np.testing.assert_allclose(master_params(state, replaced), 3.0, rtol=2.0**-8)


def test_bytes_of_a_parameter():
    params = {"w": jnp.ones((64, 32), jnp.bfloat16)}

    def bytes_of(tx):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tx.init(params)) if leaf.ndim) / 2048

    assert bytes_of(master_weights(gradtx.sgd(0.1))) == 2
    assert bytes_of(master_weights(gradtx.sgd(0.1), bits=8)) == 1
    assert bytes_of(master_weights(storage.stored(gradtx.adamw(0.1), storage.cast("bfloat16")), bits=8)) == 5


def test_what_comes_after_it_in_a_chain_is_refused():
    with pytest.raises(errors.ArgumentTypeError, match=r"master_weights\(chain\(...\)\)"):
        gradtx.chain(master_weights(gradtx.scale_by_adam()), gradtx.scale_by_learning_rate(0.1))
    gradtx.chain(gradtx.clip_by_global_norm(1.0), master_weights(gradtx.adamw(0.1)))


def test_several_parts_each_give_the_masters_of_their_leaves():
    params = {name: jnp.ones(4, jnp.bfloat16) for name in "abc"}
    tx = gradtx.partition(
        {"a": master_weights(gradtx.sgd(1e-3)), "b": master_weights(gradtx.sgd(2e-3)), "c": gradtx.freeze("*")},
        lambda path, leaf: path,
    )
    updates, state = tx.update(params, tx.init(params), params)
    masters = master_params(state, gradtx.apply_updates(params, updates))
    found = [float(jnp.asarray(masters[name], jnp.float32)[0]) for name in "abc"]
    np.testing.assert_allclose(found, [0.999, 0.998, 1.0], rtol=1e-6)


def test_remainders_of_other_parameters_are_refused():
    state = master_weights(gradtx.sgd(0.1)).init({"w": jnp.ones(2, jnp.bfloat16)})
    with pytest.raises(errors.StructureError, match="other parameters"):
        master_params(state, {"v": jnp.ones(2, jnp.bfloat16)})
    with pytest.raises(errors.StructureError, match="several optimizers"):
        master_params((state, state), {"w": jnp.ones(2, jnp.bfloat16)})


def test_a_state_without_remainders_is_refused():
    with pytest.raises(errors.StructureError, match="master_weights"):
        master_params(gradtx.sgd(0.1).init(jnp.ones(2)), jnp.ones(2))
