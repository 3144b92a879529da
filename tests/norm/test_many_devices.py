"""Claims about statistics over several devices: they are those of one device with the whole batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from gradtx import errors
from gradtx.norm import batch_norm, mean_and_variance

OFFSETS = pytest.mark.parametrize("offset", [0.0, 1e2, 1e6])
SHAPE = (48, 5)  # divisible by 2, 3, 4, 6 and 8 devices


def data(offset, shape=SHAPE):
    random = np.random.default_rng(0)
    x = random.normal(size=shape) + offset + np.linspace(-2, 2, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return x.astype(np.float32), random.normal(size=shape).astype(np.float32)


def results(layer, params, state, x, g, where=None):
    """Output, new state, and gradients by parameters and x, of one device."""
    y, pull, new = jax.vjp(lambda p, x: layer.apply(p, state, x, True, where=where), params, x, has_aux=True)
    return y, new, *pull(g)


def assert_alike(actual, expected):
    """Within 1e-6 of the largest of each array."""
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-6 * np.abs(b).max())


def mesh_of(count):
    return jax.make_mesh((count,), ("batch",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize(("count", "checked"), [(2, True), (3, True), (4, False), (6, False), (8, True), (8, False)])
def test_shard_map_over_the_batch_agrees_with_one_device(count, checked, offset):
    x, g = data(offset)
    alone, split = batch_norm(), batch_norm(axis_name="batch")
    params, state = alone.init(SHAPE)
    expected = results(alone, params, state, x, g)

    def forward(params, state, x):
        return split.apply(params, state, x, True)

    specs = (P("batch"), P())
    whole = jax.shard_map(
        forward, mesh=mesh_of(count), in_specs=(P(), P(), P("batch")), out_specs=specs, check_vma=checked
    )
    y, pull, new = jax.jit(functools.partial(jax.vjp, has_aux=True), static_argnums=0)(
        lambda params, x: whole(params, state, x), params, x
    )
    assert_alike((y, new, *pull(g)), expected)


@OFFSETS
@pytest.mark.parametrize("count", [2, 3, 8])
def test_pmap_agrees_with_one_device_and_every_device_has_the_same_state(count, offset):
    x, g = data(offset)
    alone, split = batch_norm(), batch_norm(axis_name="batch")
    params, state = alone.init(SHAPE)
    y, new, dparams, dx = results(alone, params, state, x, g)

    def each(x, g):
        # What each device lets flow back to x is its part of the gradient; that to the parameters is still to be added.
        y, pull, new = jax.vjp(lambda p, x: split.apply(p, state, x, True), params, x, has_aux=True)
        dparams, dx = pull(g)
        return y, new, jax.lax.psum(dparams, "batch"), dx

    parts = lambda array: array.reshape(count, -1, *array.shape[1:])  # noqa: E731
    actual = jax.pmap(each, axis_name="batch", devices=jax.devices()[:count])(parts(x), parts(g))
    assert_alike((actual[0].reshape(SHAPE), actual[3].reshape(SHAPE)), (y, dx))
    for device in range(count):
        assert_alike(jax.tree.map(lambda leaf, d=device: np.asarray(leaf)[d], actual[1:3]), (new, dparams))


@OFFSETS
def test_vmap_with_a_named_axis_agrees_with_the_whole_batch(offset):
    x, _ = data(offset)
    alone, split = batch_norm(), batch_norm(axis_name="batch")
    params, state = alone.init(SHAPE)
    apply = jax.vmap(lambda x: split.apply(params, state, x, True), axis_name="batch", out_axes=(0, None))
    y, new = apply(x.reshape(6, 8, 5))
    assert_alike((y.reshape(SHAPE), new), alone.apply(params, state, x, True))


def test_two_named_axes_split_the_batch_together():
    x, _ = data(1e4)
    alone, split = batch_norm(), batch_norm(axis_name=("rows", "columns"))
    params, state = alone.init(SHAPE)
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    apply = jax.shard_map(
        lambda x: split.apply(params, state, x, True),
        mesh=mesh,
        in_specs=P(("rows", "columns")),
        out_specs=(P(("rows", "columns")), P()),
    )
    assert_alike(jax.jit(apply)(x), alone.apply(params, state, x, True))


@OFFSETS
def test_devices_may_have_different_numbers_of_examples_that_count(offset):
    x, g = data(offset)
    counts = np.random.default_rng(1).random(48) < 0.6
    counts[:12] = False
    g[~counts] = 0
    alone, split = batch_norm(unbiased=True), batch_norm(axis_name="batch", unbiased=True)
    params, state = alone.init(SHAPE)
    expected = alone.apply(params, state, x[counts], True)
    apply = jax.shard_map(
        lambda x, counts: split.apply(params, state, x, True, where=counts[:, None]),
        mesh=mesh_of(4),
        in_specs=(P("batch"), P("batch")),
        out_specs=(P("batch"), P()),
    )
    y, new = jax.jit(apply)(x, counts)
    assert_alike((y[counts], new), expected)


@pytest.mark.parametrize("count", [2, 8])
def test_a_channel_of_equal_values_gives_the_bias_on_all_devices(count):
    layer = batch_norm(axis_name="batch")
    params, state = layer.init(SHAPE)
    apply = jax.shard_map(
        lambda x: layer.apply(params, state, x, True)[0], mesh=mesh_of(count), in_specs=P("batch"), out_specs=P("batch")
    )
    assert np.all(np.asarray(jax.jit(apply)(np.full(SHAPE, 0.1, np.float32))) == 0)


@pytest.mark.parametrize("shape", [SHAPE, (16, 32, 4, 3)])
def test_automatic_sharding_agrees_and_sends_no_example_to_another_device(shape):
    x, _ = data(1e4, shape)
    layer = batch_norm()
    params, state = layer.init(shape)
    step = jax.jit(lambda x: layer.apply(params, state, x, True))
    split = jax.device_put(x, NamedSharding(mesh_of(8 if len(shape) > 2 else 3), P("batch")))
    assert_alike(step(split), step(x))
    text = step.lower(split).compile().as_text()
    assert "all-gather(" not in text and "collective-permute(" not in text and "all-to-all(" not in text


@pytest.mark.parametrize("shape", [(48, 5), (64, 3), (8, 5), (16, 5, 6, 3)])
def test_explicit_sharding_agrees(shape):
    x, g = data(1e4, shape)
    layer = batch_norm()
    params, state = layer.init(shape)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    split = jax.device_put((x, g), NamedSharding(mesh, P("batch")))
    step = jax.jit(lambda x, g: results(layer, params, state, x, g))
    assert_alike(step(*split), step(x, g))


def test_one_example_on_each_device_is_a_batch_of_them_all():
    layer = batch_norm(axis_name="batch")
    params, state = layer.init((8, 3))
    x, _ = data(0.0, (8, 3))
    apply = jax.shard_map(
        lambda x: layer.apply(params, state, x, True)[0], mesh=mesh_of(8), in_specs=P("batch"), out_specs=P("batch")
    )
    assert_alike(jax.jit(apply)(x), batch_norm().apply(params, state, x, True)[0])
    one = jax.shard_map(
        lambda x: layer.apply(params, state, x, True)[0], mesh=mesh_of(1), in_specs=P("batch"), out_specs=P("batch")
    )
    with pytest.raises(errors.ShapeError, match="training needs at least two values per channel, got 1 in x of shape"):
        jax.jit(one)(x[:1])


@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_a_split_batch_without_a_named_axis_is_an_error_unless_said_so(parallel):
    def output(layer):
        params, state = layer.init(SHAPE)
        local = lambda x: layer.apply(params, state, x, True)[0]  # noqa: E731
        if parallel == "pmap":
            return jax.pmap(local, axis_name="batch", devices=jax.devices()[:2])(data(0.0)[0].reshape(2, 24, 5))
        split = jax.shard_map(local, mesh=mesh_of(2), in_specs=P("batch"), out_specs=P("batch"))
        return jax.jit(split)(data(0.0)[0])

    with pytest.raises(errors.ArgumentTypeError, match=r"axis_name must say over which of the axes .*'batch'"):
        output(batch_norm())
    y = np.asarray(output(batch_norm(axis_name=()))).reshape(2, 24, 5)
    np.testing.assert_allclose(y.mean(1), 0, atol=1e-6)


def test_evaluation_needs_no_named_axis():
    layer = batch_norm()
    params, state = layer.init(SHAPE)
    apply = jax.shard_map(
        lambda x: layer.apply(params, state, x, False)[0], mesh=mesh_of(2), in_specs=P("batch"), out_specs=P("batch")
    )
    x, _ = data(0.0)
    assert_alike(jax.jit(apply)(x), layer.apply(params, state, x, False)[0])


@OFFSETS
def test_mean_and_variance_over_a_named_axis_are_those_of_everything(offset):
    x, _ = data(offset)
    mean, variance = jax.vmap(
        lambda x: mean_and_variance(x, 0, axis_name="batch"), axis_name="batch", out_axes=None
    )(x.reshape(8, 6, 5))  # fmt: skip
    exact = x.astype(np.float64)
    np.testing.assert_allclose(variance, exact.var(0), rtol=2e-6)
    np.testing.assert_allclose(mean, jnp.float32(exact.mean(0)), rtol=2e-7, atol=1e-6)
