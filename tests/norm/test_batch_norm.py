"""Claims about batch normalization on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from gradtx import errors, norm
from gradtx.norm import BatchNormState, batch_norm
from tests.norm.oracles import batch_gradients, batch_transform, inference_transform

EPS = 1e-5
OFFSETS = [0.0, 1e2, 1e4, 1e6]


def data(shape, offset=0.0, seed=0, dtype=np.float32):
    random = np.random.default_rng(seed)
    return (random.normal(size=shape) + offset).astype(dtype), random.normal(size=shape).astype(dtype)


def channelwise(values, shape, axis):
    """A vector per channel as an array that broadcasts against x."""
    own = sorted(i % len(shape) for i in (axis if isinstance(axis, tuple) else (axis,)))
    return np.asarray(values, np.float64).reshape([n if i in own else 1 for i, n in enumerate(shape)])


def random_params(params, seed=1):
    random = np.random.default_rng(seed)
    shape = params["scale"].shape
    return {
        "scale": jnp.asarray(random.uniform(0.5, 2, shape), jnp.float32),
        "bias": jnp.asarray(random.normal(size=shape), jnp.float32),
    }


def output_state_and_gradients(layer, params, state, x, g, **keywords):
    def apply(params, x):
        return layer.apply(params, state, x, True, **keywords)

    y, pull, new = jax.vjp(apply, params, x, has_aux=True)
    return y, new, *pull(g.astype(y.dtype))


def assert_close_to_largest(actual, expected, tolerance, axes=None):
    """Within the tolerance of the largest entry of each channel."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    largest = np.abs(expected).max(axes, keepdims=True)
    assert np.all(np.abs(actual - expected) <= tolerance * largest)


def reduced(shape, axis):
    own = {i % len(shape) for i in (axis if isinstance(axis, tuple) else (axis,))}
    return tuple(i for i in range(len(shape)) if i not in own)


# ---------------------------------------------------------------------------------------------------------------------
# The paper.


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((64, 5), -1), ((2, 3), -1), ((6, 3, 4, 5), 1), ((6, 4, 5, 3), -1), ((3, 4, 5), (0, 2)), ((300, 2), 1)],
)
def test_training_is_the_papers_at_every_offset(shape, axis, offset):
    layer, axes = batch_norm(axis=axis), reduced(shape, axis)
    x, g = data(shape, offset)
    params, state = layer.init(shape)
    params = random_params(params)
    y, new, dparams, dx = jax.jit(output_state_and_gradients, static_argnums=0)(layer, params, state, x, g)

    scale, bias = (channelwise(params[name], shape, axis) for name in ("scale", "bias"))
    expected, mean, variance = batch_transform(x, scale, bias, axes, EPS)
    dx64, dscale64, dbias64 = batch_gradients(x, scale, g, axes, EPS)
    assert_close_to_largest(y, expected, 2e-6, axes)
    assert_close_to_largest(dx, dx64, 1e-5 if shape[0] == 2 else 2e-6)
    assert_close_to_largest(dparams["scale"], np.squeeze(dscale64, axes), 2e-6)
    assert_close_to_largest(dparams["bias"], np.squeeze(dbias64, axes), 2e-6)
    size = np.abs(mean) + np.sqrt(variance)
    assert np.all(np.abs(new.mean - 0.1 * np.squeeze(mean, axes)) <= 0.1 * 3e-7 * np.squeeze(size, axes))
    assert_close_to_largest(new.variance, 0.9 + 0.1 * np.squeeze(variance, axes), 1e-6)


@pytest.mark.parametrize("offset", OFFSETS)
def test_evaluation_is_the_papers_and_leaves_the_state(offset):
    layer = batch_norm(axis=1)
    x, _ = data((4, 3, 5), offset)
    params = random_params(layer.init(x.shape)[0])
    state = BatchNormState(jnp.float32([0.5, -1.0, 2.0]) + offset, jnp.float32([0.5, 1.0, 4.0]))
    y, same = layer.apply(params, state, x, False)
    assert same is state
    values = (params["scale"], params["bias"], *state[:2])
    assert_close_to_largest(
        y, inference_transform(x, *(channelwise(v, x.shape, 1) for v in values), EPS), 5e-7, axes=(0, 2)
    )


def test_evaluation_of_one_example_alone_is_its_row_of_the_batch():
    layer = batch_norm()
    x, _ = data((4, 3))
    params, state = layer.init(x.shape)
    whole, _ = layer.apply(params, state, x, False)
    alone, _ = layer.apply(params, state, x[2:3], False)
    bare, _ = layer.apply(params, state, x[2], False)
    np.testing.assert_array_equal(alone[0], whole[2])
    np.testing.assert_array_equal(bare, whole[2])


def test_running_statistics_become_those_of_all_batches():
    layer = batch_norm(decay=0.5, unbiased=True)
    params, state = layer.init((8, 2))
    mean, variance = np.zeros(2), np.ones(2)
    for seed in range(6):
        x, _ = data((8, 2), offset=3.0, seed=seed)
        _, state = layer.apply(params, state, x, True)
        mean = 0.5 * mean + 0.5 * x.mean(0, np.float64)
        variance = 0.5 * variance + 0.5 * x.var(0, np.float64, ddof=1)
    np.testing.assert_allclose(state.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(state.variance, variance, rtol=1e-6)


def test_without_a_decay_the_state_is_the_mean_over_all_batches():
    layer = batch_norm(decay=None)
    params, state = layer.init((8, 2))
    batches = np.stack([data((8, 2), offset=3.0, seed=seed)[0] for seed in range(6)])
    for x in batches:
        _, state = layer.apply(params, state, x, True)
        _, state = layer.apply(params, state, x, True, where=np.zeros((8, 1), bool))  # a batch of padding is none
    assert state.step == 6
    np.testing.assert_allclose(state.mean, batches.mean((0, 1), np.float64), rtol=1e-6)
    np.testing.assert_allclose(state.variance, batches.var(1, np.float64).mean(0), rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_a_decay_of_zero_keeps_the_last_batch_and_of_one_the_start(decay):
    layer = batch_norm(decay=decay)
    x, _ = data((8, 2), 5.0)
    params, state = layer.init(x.shape)
    _, new = layer.apply(params, state, x, True)
    np.testing.assert_allclose(new.mean, state.mean if decay else x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(new.variance, state.variance if decay else x.var(0), rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Peers, where they are right.


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_flax_agrees(kind, train):
    x, g = data((16, 4, 3), 0.5)
    layer = batch_norm(decay=0.7)
    params = random_params(layer.init(x.shape)[0])
    state = BatchNormState(jnp.float32([0.1, 0.2, 0.3]), jnp.float32([0.5, 1.0, 2.0]))
    theirs = _linen if kind == "linen" else _nnx
    y, pull, new = jax.vjp(lambda p, x: layer.apply(p, state, x, train), params, x, has_aux=True)
    their_y, their_pull, their_new = jax.vjp(lambda p, x: theirs(p, state, x, train), params, x, has_aux=True)
    for a, b in zip(
        *map(jax.tree.leaves, ((y, pull(g), new[:2]), (their_y, their_pull(g), their_new[:2]))), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def _linen(params, state, x, train):
    nn = pytest.importorskip("flax.linen")
    layer = nn.BatchNorm(not train, momentum=0.7, epsilon=EPS)
    stats = {"mean": state.mean, "var": state.variance}
    y, new = layer.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])
    return y, BatchNormState(new["batch_stats"]["mean"], new["batch_stats"]["var"])


def _nnx(params, state, x, train):
    nnx = pytest.importorskip("flax.nnx")
    layer = nnx.BatchNorm(3, use_running_average=not train, momentum=0.7, epsilon=EPS, rngs=nnx.Rngs(0))
    graph, variables = nnx.split(layer)
    given = {"scale": params["scale"], "bias": params["bias"], "mean": state.mean, "var": state.variance}
    nnx.replace_by_pure_dict(variables, given)
    layer = nnx.merge(graph, variables)
    y = layer(x)
    return y, BatchNormState(layer.mean[...], layer.var[...])


@pytest.mark.parametrize("train", [True, False])
def test_pytorch_agrees(train):
    torch = pytest.importorskip("torch", reason="PyTorch is the second peer; its CPU build is enough")
    x, g = data((6, 3, 4, 5), 0.5)
    layer = batch_norm(axis=1, decay=0.7, unbiased=True)
    params = random_params(layer.init(x.shape)[0])
    state = BatchNormState(jnp.float32([0.1, 0.2, 0.3]), jnp.float32([0.5, 1.0, 2.0]))
    y, pull, new = jax.vjp(lambda p, x: layer.apply(p, state, x, train), params, x, has_aux=True)
    dparams, dx = pull(jnp.asarray(g))

    theirs = torch.nn.BatchNorm2d(3, eps=EPS, momentum=0.3).train(train)
    with torch.no_grad():
        for target, value in zip(
            (theirs.weight, theirs.bias, theirs.running_mean, theirs.running_var),
            (params["scale"], params["bias"], *state[:2]),
            strict=True,
        ):
            target.copy_(torch.tensor(np.asarray(value)))
    at = torch.tensor(x, requires_grad=True)
    out = theirs(at)
    out.backward(torch.tensor(g))
    expected = (out, at.grad, theirs.weight.grad, theirs.bias.grad, theirs.running_mean, theirs.running_var)
    for a, b in zip((y, dx, dparams["scale"], dparams["bias"], *new[:2]), expected, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=2e-5, atol=5e-6)


def test_far_from_zero_flax_is_wrong_and_we_are_not():
    x, _ = data((64, 3), 1e4)
    layer = batch_norm()
    params, state = layer.init(x.shape)
    expected = batch_transform(x, 1.0, 0.0, (0,), EPS)[0]
    ours = np.abs(layer.apply(params, state, x, True)[0] - expected).max()
    theirs = np.abs(_linen(params, state, x, True)[0] - expected).max()
    assert ours < 2e-6 and theirs > 1.0


# ---------------------------------------------------------------------------------------------------------------------
# Numbers at the edge.


def spread_out():
    """Batches on which a shift that is one element, or a plain sum of squares, loses digits."""
    random = np.random.default_rng(5)
    outlier, every_sixteenth, one_hot = random.normal(size=(3, 4096, 2))
    outlier[0] = 1e3
    every_sixteenth[::16] += 1e3
    one_hot[:] = 0
    one_hot[0] = 1
    return {
        "an outlier first": outlier,
        "every sixteenth apart": every_sixteenth,
        "one of many": one_hot,
        "log-normal": random.lognormal(0, 4, size=(4096, 2)),
        "tiny": random.normal(size=(64, 2)) * 1e-30,
        "scales apart": random.normal(size=(64, 2)) * [1e-3, 1e6],
        "large ones": np.array([[1e12, 1], [-1e12, 2]] * 8),
    }


@pytest.mark.parametrize("name", spread_out())
def test_no_outlier_spoils_output_or_gradients(name):
    x = spread_out()[name].astype(np.float32)
    g = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    layer = batch_norm()
    y, _, dparams, dx = output_state_and_gradients(layer, *layer.init(x.shape), x, g)
    assert_close_to_largest(y, batch_transform(x, 1.0, 0.0, (0,), EPS)[0], 5e-6, axes=0)
    expected = batch_gradients(x, 1.0, g, (0,), EPS)
    assert_close_to_largest(dx, expected[0], 5e-6, axes=0)
    assert_close_to_largest(dparams["scale"], expected[1][0], 5e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6, 16777217.0, 3e38, 1e-40])
@pytest.mark.parametrize("count", [2, 3, 37, 100])
def test_a_constant_channel_gives_the_bias_and_finite_gradients(value, count):
    x, g = np.full((count, 2), value, np.float32), data((count, 2))[1]
    layer = batch_norm()
    params, state = layer.init(x.shape)
    params = {**params, "bias": jnp.float32([0.0, 3.0])}
    y, new, dparams, dx = output_state_and_gradients(layer, params, state, x, g)
    np.testing.assert_array_equal(y, np.broadcast_to([0.0, 3.0], y.shape).astype(np.float32))
    assert np.all(np.isfinite(dx)) and np.all(dparams["scale"] == 0) and np.all(np.isfinite(new.mean))
    np.testing.assert_allclose(dx, (g - g.mean(0)) / np.sqrt(EPS), rtol=1e-4, atol=1e-3)


def test_a_constant_channel_has_finite_gradients_with_the_smallest_eps():
    layer = batch_norm(eps=1e-24)
    x, g = np.full((8, 2), 2.0, np.float32), data((8, 2))[1]
    y, _, dparams, dx = output_state_and_gradients(layer, *layer.init(x.shape), x, g)
    assert np.all(y == 0) and np.all(np.isfinite(dx)) and np.all(np.isfinite(dparams["scale"]))


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("rows", [[3e38, -3e38], [3e38, 3e38, -1.0], [3e38, 0.0], [-3e38, 1e20, 1e-40]])
def test_huge_values_give_finite_outputs_states_and_gradients(rows, dtype):
    x = jnp.asarray(np.repeat(rows, 5)[:, None], dtype)
    g = jnp.asarray(data(x.shape)[1])
    layer = batch_norm()
    results = output_state_and_gradients(layer, *layer.init(x.shape), x, g)
    assert all(np.all(np.isfinite(np.asarray(leaf, np.float32))) for leaf in jax.tree.leaves(results))


def test_the_two_halves_of_a_huge_channel_are_one_deviation_apart_from_the_mean():
    x = jnp.repeat(jnp.float32([3e38, -3e38]), 4)[:, None]
    layer = batch_norm()
    y, _ = layer.apply(*layer.init(x.shape), x, True)
    np.testing.assert_allclose(y[:, 0], [1] * 4 + [-1] * 4, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 5])
def test_a_value_that_is_not_finite_shows_in_its_channel_and_in_no_other(bad, row):
    x, _ = data((20, 3))
    x[row, 1] = bad
    layer = batch_norm()
    y, new = layer.apply(*layer.init(x.shape), x, True)
    assert np.all(np.isnan(y[:, 1])) and not np.isfinite(new.mean[1])
    assert np.all(np.isfinite(y[:, ::2])) and np.all(np.isfinite(new.mean[::2]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("train", [True, False])
def test_low_precision_is_computed_in_float32_and_rounded_once(dtype, train):
    x = jnp.asarray(data((64, 3), 4.0)[0], dtype)
    layer = batch_norm()
    params = random_params(layer.init(x.shape)[0])
    state = BatchNormState(jnp.full(3, 4.0), jnp.ones(3))
    y, new = layer.apply(params, state, x, train)
    wide, wide_state = layer.apply(params, state, x.astype(jnp.float32), train)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, wide.astype(dtype))
    assert all(jnp.float32 == a.dtype and np.array_equal(a, b) for a, b in zip(new[:2], wide_state[:2], strict=True))


def test_float64_is_computed_in_float64():
    with jax.enable_x64(True):
        x = jnp.asarray(data((64, 3), 1e3, dtype=np.float64)[0])
        layer = batch_norm()
        params, state = layer.init(x.shape)
        y, new = layer.apply(params, state, x, True)
        assert y.dtype == jnp.float64 and new.mean.dtype == jnp.float32
        np.testing.assert_allclose(y, batch_transform(x, 1.0, 0.0, (0,), EPS)[0], atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# A mask.


@pytest.mark.parametrize("offset", OFFSETS)
def test_padding_counts_for_nothing(offset):
    x, g = data((12, 4, 3), offset)
    counts = np.arange(12) < 7
    x[~counts] = 1e5
    g[~counts] = 0
    layer = batch_norm(unbiased=True)
    params, state = layer.init(x.shape)
    y, new, dparams, dx = output_state_and_gradients(layer, params, state, x, g, where=counts[:, None, None])
    short, short_new, short_dparams, short_dx = output_state_and_gradients(layer, params, state, x[:7], g[:7])
    assert_close_to_largest(y[:7], short, 2e-6)
    assert_close_to_largest(dx[:7], short_dx, 2e-6)
    assert np.all(dx[7:] == 0)
    for a, b in zip(*map(jax.tree.leaves, ((new, dparams), (short_new, short_dparams))), strict=True):
        assert_close_to_largest(a, b, 2e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_masked_example_that_is_not_finite_spoils_nothing(bad):
    x, g = data((12, 3), 1e4)
    layer = batch_norm()
    params, state = layer.init(x.shape)
    expected = output_state_and_gradients(layer, params, state, x[1:], g[1:])
    x[0, 1], g[0] = bad, 0
    counts = np.isfinite(x).all(-1, keepdims=True)
    y, new, dparams, dx = output_state_and_gradients(layer, params, state, x, g, where=counts)
    assert np.all(np.isfinite(y)) and np.all(dx[0] == 0)
    for a, b in zip(*map(jax.tree.leaves, ((y[1:], new, dparams, dx[1:]), expected)), strict=True):
        assert_close_to_largest(a, b, 2e-6)


def test_a_batch_of_padding_alone_leaves_the_state():
    layer = batch_norm(unbiased=True)
    x, _ = data((4, 3))
    params, state = layer.init(x.shape)
    y, new = layer.apply(params, state, x, True, where=np.zeros((4, 1), bool))
    assert np.all(np.isfinite(y))
    for a, b in zip(new, state, strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------------------------------------------------------------
# Pure functions.


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(drawn=st.data())
def test_any_shape_axis_and_dtype_give_centred_outputs(drawn):
    shape = tuple(drawn.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4), label="shape"))
    axis = tuple(drawn.draw(st.sets(st.integers(0, len(shape) - 1), max_size=len(shape)), label="axis"))
    dtype = drawn.draw(st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]), label="dtype")
    offset = drawn.draw(st.sampled_from([0.0, 100.0, -3e3]), label="offset")
    axes = tuple(i for i in range(len(shape)) if i not in axis)
    layer = batch_norm(axis=axis)
    x = jnp.asarray(data(shape, offset)[0], dtype)
    params, state = layer.init(shape)
    if np.prod([shape[i] for i in axes]) < 2:
        with pytest.raises(errors.ShapeError):
            layer.apply(params, state, x, True)
        return
    y, new = layer.apply(params, state, x, True)
    expected, mean, _ = batch_transform(np.asarray(x, np.float32), 1.0, 0.0, axes, EPS)
    assert y.shape == shape and y.dtype == dtype
    assert jax.tree.map(jnp.shape, new) == jax.tree.map(jnp.shape, state)
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, rtol=1e-2, atol=4 * float(jnp.finfo(dtype).eps))
    np.testing.assert_allclose(new.mean, 0.1 * np.squeeze(mean, axes), rtol=1e-6, atol=1e-7)


def test_the_state_keeps_its_type_and_shares_no_buffer():
    layer = batch_norm()
    params, state = layer.init((4, 3))
    leaves = jax.tree.leaves((params, state))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    new = layer.apply(params, state, data((4, 3))[0], True)[1]
    assert [jax.typeof(leaf) for leaf in new] == [jax.typeof(leaf) for leaf in state]
    step = jax.jit(lambda p, s, x: (p, layer.apply(p, s, x, True)), donate_argnums=(0, 1))
    step(params, state, data((4, 3))[0])


def test_one_trace_serves_all_steps():
    layer, traces = batch_norm(), 0

    @jax.jit
    def step(params, state, x):
        nonlocal traces
        traces += 1
        return layer.apply(params, state, x, True)[1]

    params, state = layer.init((4, 3))
    for seed in range(3):
        state = step(params, state, data((4, 3), seed=seed)[0])
    assert traces == 1


def test_jit_scan_and_a_loop_agree():
    layer = batch_norm()
    batches = np.stack([data((8, 3), 2.0, seed)[0] for seed in range(4)])
    params, state = layer.init((8, 3))
    scanned, outputs = jax.lax.scan(lambda s, x: layer.apply(params, s, x, True)[::-1], state, batches)
    for x, y in zip(batches, outputs, strict=True):
        expected, state = layer.apply(params, state, x, True)
        np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    for a, b in zip(scanned, state, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_vmap_normalizes_each_batch_by_itself():
    layer = batch_norm()
    x = np.stack([data((8, 3), offset)[0] for offset in (0.0, 1e4)])
    params, state = layer.init((8, 3))
    y, new = jax.vmap(lambda x: layer.apply(params, state, x, True))(x)
    for i in range(2):
        expected, expected_state = layer.apply(params, state, x[i], True)
        np.testing.assert_allclose(y[i], expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(new.mean[i], expected_state.mean, rtol=1e-6)


def test_first_and_second_derivatives_are_right_in_both_directions():
    layer = batch_norm(eps=0.1)
    x, w = (jnp.asarray(leaf) for leaf in data((6, 2), 3.0))
    params, state = layer.init(x.shape)

    def loss(params, x):
        y, new = layer.apply(params, state, x, True)
        return jnp.sum(w * jnp.tanh(y)) + jnp.sum(new.variance * 3 + new.mean)

    with jax.enable_x64(True):
        state, *wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (state, params, x))
        check_grads(loss, wide, order=2, modes=["fwd", "rev"], atol=1e-4, rtol=1e-4)


def test_equal_arguments_give_the_same_layer():
    assert batch_norm(decay=0.8) is batch_norm(decay=0.8)
    init, apply = batch_norm()
    assert isinstance(batch_norm(), norm.Normalization) and batch_norm() == (init, apply)


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"decay": 1.5}, errors.ArgumentRangeError, "decay must be a finite number in [0, 1]"),
        ({"decay": "0.9"}, errors.ArgumentTypeError, "decay must be a number"),
        ({"decay": lambda step: 0.9}, errors.ArgumentTypeError, "decay must be a number"),
        ({"eps": 0.0}, errors.ArgumentRangeError, "eps must be a finite number in [1e-24, inf)"),
        ({"unbiased": 1}, errors.ArgumentTypeError, "unbiased must be True or False"),
        ({"axis_name": 0}, errors.ArgumentTypeError, "axis_name must be the name of an axis"),
        ({"axis": None}, errors.ArgumentTypeError, "axis must be"),
        ({"axis": 1.0}, errors.ArgumentTypeError, "axis must be"),
        ({"momentum": 0.1}, errors.ArgumentTypeError, "batch_norm(momentum=0.1): arguments axis, decay"),
    ],
)
def test_a_bad_argument_is_named_at_once(arguments, kind, words):
    with pytest.raises(kind) as caught:
        batch_norm(**arguments)
    assert str(caught.value).startswith("batch_norm(") and words in str(caught.value)


@pytest.mark.parametrize("shape", [64, jnp.zeros((2, 3)), (2, 3.0), (2, None), "ab", None])
def test_init_takes_a_shape(shape):
    with pytest.raises(errors.ArgumentTypeError, match=r"init\(x.shape\)"):
        batch_norm().init(shape)


@pytest.mark.parametrize("axis", [2, -3, (0, 0), (0, -2)])
def test_an_axis_that_is_not_there_or_there_twice_is_named(axis):
    with pytest.raises(errors.ArgumentRangeError, match=r"axis must name different ones of the 2 axes"):
        batch_norm(axis=axis).init((4, 3))


def applied(x, train=True, axis=-1, **keywords):
    layer = batch_norm(axis=axis)
    return layer.apply(*layer.init((4, 3)), x, train, **keywords)


@pytest.mark.parametrize("x", [jnp.ones((4, 5)), jnp.ones((4, 1))])
def test_other_channels_than_those_of_init_are_an_error_not_broadcast(x):
    with pytest.raises(errors.ShapeError, match=r"x must have the channels of init, \(3,\) on axis 1"):
        applied(x)


@pytest.mark.parametrize("x", [jnp.ones((4, 3), jnp.int32), jnp.ones((4, 3), complex), [[1.0] * 3] * 4, None])
def test_an_input_that_is_not_floating_is_an_error(x):
    with pytest.raises(errors.DtypeError, match="x must be a floating array"):
        applied(x)


@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (3,)])
def test_one_value_per_channel_is_an_error_in_training_only(shape):
    with pytest.raises(errors.ShapeError, match="training needs at least two values per channel"):
        applied(jnp.ones(shape))
    assert applied(jnp.ones(shape), train=False)[0].shape == shape


@pytest.mark.parametrize("train", [1, None, "yes"])
def test_train_must_be_a_bool(train):
    with pytest.raises(errors.ArgumentTypeError, match="train must be True or False"):
        applied(jnp.ones((4, 3)), train=train)


def test_a_traced_train_says_how_to_make_it_static():
    with pytest.raises(errors.ArgumentTypeError, match="static_argnames"):
        jax.jit(lambda train: applied(jnp.ones((4, 3)), train))(True)


def test_an_axis_name_that_is_nowhere_is_an_error():
    layer = batch_norm(axis_name="batch")
    with pytest.raises(errors.ArgumentRangeError, match="axis_name must name axes of the shard_map"):
        layer.apply(*layer.init((4, 3)), jnp.ones((4, 3)), True)


@pytest.mark.parametrize("where", [np.ones(4), np.ones((4, 4), bool), np.ones((2, 4, 3), bool)])
def test_a_mask_of_another_dtype_or_shape_is_an_error(where):
    with pytest.raises((errors.DtypeError, errors.ShapeError), match="where must be bool and broadcast to x"):
        applied(jnp.ones((4, 3)), where=where)


@pytest.mark.parametrize("spoil", [lambda p: {"scale": p["scale"]}, lambda p: tuple(p.values()), lambda p: None])
def test_params_of_another_form_are_an_error(spoil):
    layer = batch_norm()
    params, state = layer.init((4, 3))
    with pytest.raises(errors.StructureError, match="params must be"):
        layer.apply(spoil(params), state, jnp.ones((4, 3)), True)
    with pytest.raises(errors.StructureError, match="state must be"):
        layer.apply(params, params, jnp.ones((4, 3)), True)
