"""Counting zeros, and cutting what they make useless."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors, training


def test_zeros_are_counted_by_array_and_exactly():
    kernel = jnp.array([[0.0, 0.0, 0.0], [0.0, 2.0, 1e-37]])
    rows = training.sparsity({"a": {"kernel": kernel, "bias": jnp.array([0.0, -0.0, jnp.nan])}, "ids": jnp.arange(3)})
    assert rows == (
        training.SparsityRow("a/bias", (3,), 3, 2, None, None),
        training.SparsityRow("a/kernel", (2, 3), 6, 4, 1, 1),
    )
    assert rows.total.zeros == 6 and rows.total.weights == 9 and rows.total.fraction == 6 / 9


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.complex64])
def test_convolutions_count_channels_in_any_dtype(dtype):
    kernel = jnp.ones((3, 3, 4, 5), dtype).at[:, :, 1].set(0).at[..., 2:4].set(0)
    (row,) = training.sparsity([kernel])
    assert (row.path, row.zero_inputs, row.zero_outputs) == ("0", 1, 2)
    assert row.zeros == 180 - 9 * 3 * 3


def test_empty_trees_and_arrays_have_rows_that_print():
    assert training.sparsity({}) == () and "total" in str(training.sparsity({}))
    assert training.sparsity(jnp.ones((0, 2))).total.fraction == 0.0
    assert training.sparsity(jnp.array(0.0)).total.fraction == 1.0


def test_the_table_is_aligned():
    lines = str(training.sparsity({"a": {"kernel": jnp.zeros((100, 200))}, "b": jnp.ones(3)})).splitlines()
    assert lines[0].split() == ["shape", "weights", "zero", "inputs", "outputs"]
    assert lines[1].split() == ["a/kernel", "100x200", "20,000", "20,000", "100.0%", "100", "200"]
    assert lines[3].split() == ["total", "20,003", "20,000", "100.0%"]
    assert lines[0].index("weights") + len("weights") == lines[1].index("20,000") + len("20,000")


def network(params, x):
    hidden = jax.nn.gelu(x @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["second"]["kernel"] + params["second"]["bias"]


def two_layers(hidden=16):
    random = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
    return {
        "first": {"kernel": draw(5, hidden), "bias": draw(hidden)},
        "second": {"kernel": draw(hidden, 3).at[::2].set(0.0).at[1, 0].set(0.0), "bias": draw(3)},
    }


def test_units_that_nothing_reads_are_cut_without_changing_an_output():
    params = two_layers()
    small = training.remove_units(params, written={"first/*": -1}, read={"second/kernel": -2})
    shapes = jax.tree.map(jnp.shape, small)
    assert shapes["first"] == {"kernel": (5, 8), "bias": (8,)} and shapes["second"]["kernel"] == (8, 3)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(7, 5)), jnp.float32)
    np.testing.assert_allclose(network(small, x), network(params, x), rtol=1e-5, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, training.remove_units(small, {"first/*": -1}, {"second/k*": -2}), small)


def test_inputs_that_nothing_reads_are_features_to_drop():
    kernel = jnp.ones((4, 2)).at[1].set(0.0)
    assert training.remove_units({"k": kernel}, written={}, read={"k": 0})["k"].shape == (3, 2)


def test_two_readers_have_to_agree():
    params = {"a": jnp.ones((2, 3)), "b": jnp.eye(3), "c": jnp.ones((3, 1)).at[:2].set(0.0)}
    small = training.remove_units(params, {"a": -1}, {"b": 1, "c": 0})
    jax.tree.map(np.testing.assert_array_equal, small, params)


@pytest.mark.parametrize(
    ("written", "read", "error", "words"),
    [
        ({"first/*": -1}, {"secnd/*": -2}, errors.SelectionError, "nearest paths"),
        ({"first/*": 0}, {"second/kernel": -2}, errors.ShapeError, "at 'first/kernel'"),
        ({"first/*": -2}, {"second/kernel": -2}, errors.ShapeError, "at 'first/bias'"),
    ],
)
def test_what_does_not_fit_together_is_refused(written, read, error, words):
    with pytest.raises(error, match=words):
        training.remove_units(two_layers(), written, read)


def test_pruned_weights_stay_zero_through_training_steps():
    """From L1 to zeros, from zeros to a smaller network that trains on."""
    random = np.random.default_rng(0)
    batch = {"x": jnp.asarray(random.normal(size=(64, 5)), jnp.float32)}
    batch["y"] = batch["x"][:, :1] * jnp.ones((1, 3))
    loss = training.from_plain(lambda params, batch: jnp.mean((network(params, batch["x"]) - batch["y"]) ** 2))
    sparse = gradtx.chain(gradtx.adam(0.03), gradtx.proximal_l1({"*kernel": 0.5}, 0.03))
    held = gradtx.chain(gradtx.adam(0.03), gradtx.masked(gradtx.keep_zeros(), "*kernel"))
    params = two_layers()
    for tx, steps in ((sparse, 200), (held, 20)):
        before = params
        state = training.create_train_state(params, tx, key=jax.random.key(0))
        step = training.make_train_step(loss, tx, donate=False)
        for _ in range(steps):
            state, _ = step(state, batch)
        params = state.params
    zeros = jax.tree.map(lambda leaf: leaf == 0, before)
    assert training.sparsity(before["first"]["kernel"]).total.fraction > 0.5
    for layer in ("first", "second"):
        np.testing.assert_array_equal(params[layer]["kernel"] == 0, zeros[layer]["kernel"])
        assert np.any(params[layer]["bias"] != before[layer]["bias"])  # those of units that are read
