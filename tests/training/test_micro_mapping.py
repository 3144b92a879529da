"""Claims about functions of a batch on parts of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors
from gradtx.training import micro_grad, micro_vmap, microbatch

X = jnp.asarray(np.random.default_rng(0).normal(size=(12, 3)), jnp.float32)
Y = jnp.asarray(np.random.default_rng(1).normal(size=12), jnp.float32)
W = jnp.array([0.5, -1.0, 2.0])


def all_of(x, scale=1.0):
    return {"rows": scale * x, "sum": jnp.sum(x, 0), "mean": jnp.mean(x), "count": jnp.int32(len(x))}


KINDS = {"rows": "concat", "sum": "sum", "mean": "mean", "count": "sum"}


@pytest.mark.parametrize("size", [None, 1, 5, 6, 7, 11, 12, 100])
def test_parts_give_what_the_whole_gives_whatever_their_size(size):
    found, whole = jax.jit(microbatch(all_of, 0, size, KINDS))(X, scale=2.0), all_of(X, 2.0)
    assert found["rows"].tolist() == whole["rows"].tolist()
    assert int(found["count"]) == 12 and found["count"].dtype == jnp.int32
    for name in ("sum", "mean"):
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-5, atol=1e-6)


def test_optax_agrees_on_parts_of_one_length():
    kinds = {name: optax.microbatching.AccumulationType[kind.upper()] for name, kind in KINDS.items()}
    theirs, ours = optax.microbatch(all_of, 0, 4, kinds)(X), microbatch(all_of, 0, 4, KINDS)(X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_one_trace_serves_all_parts_of_one_length():
    traces = 0

    def fun(x):
        nonlocal traces
        traces += 1
        return jnp.sum(x)

    microbatch(fun, 0, 3)(X)
    assert traces == 1
    microbatch(fun, 0, 5)(jnp.ones((13, 2)))
    assert traces == 3  # and one more for a shorter last part


def test_sums_of_half_precision_are_wide_and_means_do_not_overflow():
    found = microbatch(lambda x: jnp.sum(x), 0, 1)(jnp.ones(4096, jnp.bfloat16))
    assert found.dtype == jnp.float32 and float(found) == 4096
    large = micro_vmap(lambda x: x, microbatch_size=2, accumulator="mean")(jnp.full(8, 3e38, jnp.float32))
    np.testing.assert_allclose(large, 3e38, rtol=1e-6)


@pytest.mark.parametrize("dtype", [bool, jnp.int8, jnp.uint8, jnp.int32])
def test_booleans_and_short_integers_are_summed_as_jnp_sum_does(dtype):
    ones = jnp.ones(200, dtype)
    expected = jnp.sum(ones)
    for found in (
        microbatch(lambda x: x[0], 0, 1)(ones),
        micro_vmap(lambda x: x, microbatch_size=1, accumulator="sum")(ones),
        micro_vmap(lambda x: x, microbatch_size=150, accumulator="sum")(ones),
    ):
        assert found == expected == 200 and found.dtype == expected.dtype


def test_some_arguments_are_batches_and_numbers_go_to_every_part():
    f = microbatch(lambda w, batch: jnp.sum(batch["x"] @ w) * batch["scale"], 1, 5)
    np.testing.assert_allclose(f(W, {"x": X, "scale": 3.0}), 3 * jnp.sum(X @ W), rtol=1e-5)
    both = microbatch(lambda x, y: jnp.sum(x.T * y), (-2, -1), 5)
    np.testing.assert_allclose(both(X, Y), jnp.sum(X.T * Y), rtol=1e-4)


@pytest.mark.parametrize("size", [None, 4, 5])
def test_mapped_functions_are_those_of_vmap(size):
    def fun(w, x):
        return x @ w, jnp.outer(x, x)

    expected = jax.vmap(fun, (None, 0))(W, X)
    found = micro_vmap(fun, (None, 0), microbatch_size=size)(W, X)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    mean, total = micro_vmap(fun, (None, 0), microbatch_size=size, accumulator=("mean", "sum"))(W, X)
    np.testing.assert_allclose(mean, expected[0].mean(), rtol=1e-5)
    np.testing.assert_allclose(total, expected[1].sum(0), rtol=1e-5, atol=1e-5)


def loss(w, x, y):
    error = x @ w - y
    return jnp.mean(error**2), {"error": jnp.sum(error)}


@pytest.mark.parametrize("keep_batch_dim", [True, False])
def test_gradients_of_examples_are_clipped_one_by_one(keep_batch_dim):
    clip = gradtx.clip_by_global_norm(1.0)
    clipped = micro_grad(
        loss, True, batch_argnums=(1, 2), keep_batch_dim=keep_batch_dim, microbatch_size=5,
        transform_fn=lambda g: clip.update(g, clip.init(g))[0], metrics_fn=gradtx.global_norm,
    )  # fmt: skip
    total, examples = jax.jit(clipped)(W, X, Y)
    grads = jax.vmap(jax.grad(lambda w, x, y: loss(w, x, y)[0]), (None, 0, 0))(W, X, Y)
    expected, _ = gradtx.per_example_global_norm_clip(grads, 1.0)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(examples.metrics, jnp.linalg.norm(grads, axis=1), rtol=1e-5)
    np.testing.assert_allclose(examples.values, (X @ W - Y) ** 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(examples.aux["error"], X @ W - Y, rtol=1e-5, atol=1e-6)


def test_optax_gives_the_same_gradients_of_examples():
    kind = optax.microbatching.AccumulationType.MEAN
    theirs, aux = optax.microbatching.micro_grad(
        loss, True, batch_argnums=(1, 2), microbatch_size=4, accumulator=kind, transform_fn=lambda g: (g, g**2)
    )(W, X, Y)
    ours, examples = micro_grad(
        loss, True, batch_argnums=(1, 2), microbatch_size=4, accumulator="mean", transform_fn=lambda g: (g, g**2)
    )(W, X, Y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, theirs)
    np.testing.assert_allclose(examples.values, aux.values, rtol=1e-5)


def test_gradients_by_several_arguments_and_of_all_examples():
    both, examples = micro_grad(
        lambda w, b, x: jnp.sum(x @ w) + b, argnums=(0, 1), batch_argnums=-1, microbatch_size=5, accumulator="concat"
    )(W, 0.0, X)
    np.testing.assert_allclose(both[0], X, rtol=1e-6)
    assert both[1].tolist() == [1.0] * 12 and examples.aux is None is examples.metrics


def test_the_memory_is_that_of_a_part():
    """Clipped gradients of 64 examples, 64 KiB each: four of them at once, against all."""
    w, x = jnp.zeros((128, 128)), jnp.ones((64, 128))

    def temporary(size):
        f = micro_grad(lambda w, x: jnp.sum(jnp.tanh(x @ w)), microbatch_size=size, transform_fn=jnp.sign)
        return jax.jit(f).lower(w, x).compile().memory_analysis().temp_size_in_bytes

    assert temporary(4) < 12 * 2**16 < 64 * 2**16 <= temporary(None) + 2**16


def test_bad_arguments_say_what_to_write():
    with pytest.raises(errors.BatchError, match="12 at 0, 11 at 1"):
        microbatch(lambda x, y: 0.0, (0, 1), 4)(X, Y[1:])
    with pytest.raises(errors.ArgumentRangeError, match=r"'sum', 'mean', 'concat'.*got 'max'"):
        microbatch(all_of, 0, 4, "max")(X)
    with pytest.raises(errors.SelectionError, match="accumulator"):
        microbatch(all_of, 0, 4, {"rows": "concat"})(X)
    with pytest.raises(errors.ArgumentRangeError, match="microbatch_size"):
        microbatch(all_of, 0, 0)
    with pytest.raises(errors.ArgumentRangeError, match="in_axes of 0 and None"):
        micro_vmap(all_of, 1)(X)
    with pytest.raises(errors.ArgumentTypeError, match="fun must be a function"):
        micro_grad(1.0)
