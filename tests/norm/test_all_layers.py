"""Claims that hold for every normalization, by one table."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from gradtx import errors, norm
from gradtx.norm import batch_norm, batch_renorm, group_norm, instance_norm, layer_norm, rms_norm
from tests.papers import normalization_oracles as oracles

EPS = 1e-5


class Row(NamedTuple):
    """A layer, a shape, the axes averaged over and those learned along, after x and where it is cut by ``view``."""

    layer: Any
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    own: tuple[int, ...]
    view: tuple[int, ...] | None = None

    def oracle(self, params, x, g):
        """y and the gradients, in float64, each in its own shape."""
        shape = self.view or self.shape
        x, g = (np.asarray(leaf, np.float64).reshape(shape) for leaf in (x, g))
        lengths = [n if i in self.own else 1 for i, n in enumerate(shape)]
        wide = {name: np.asarray(leaf, np.float64).reshape(lengths) for name, leaf in params.items()}
        shared = tuple(i for i in range(len(shape)) if i not in self.own)
        if "bias" in params:
            y, dx, *rest = oracles.centred(x, wide["scale"], wide["bias"], g, self.axes, EPS)
        else:
            y, dx, *rest = oracles.rms(x, wide["scale"], g, self.axes, EPS)
        by_params = [leaf.sum(shared).reshape(params["scale"].shape) for leaf in rest]
        return y.reshape(self.shape), dx.reshape(self.shape), dict(zip(("scale", "bias"), by_params, strict=False))


RENORM = dict(eps=EPS, r_max=1.0, d_max=0.0)  # in a first step the same as batch normalization
TABLE = {
    "batch": Row(batch_norm(eps=EPS), (64, 5), (0,), (1,)),
    "renorm": Row(batch_renorm(**RENORM), (6, 3, 4, 5), (0, 1, 2), (3,)),
    "renorm, channels first": Row(batch_renorm(axis=1, **RENORM), (6, 3, 4, 5), (0, 2, 3), (1,)),
    "layer": Row(layer_norm(eps=EPS), (6, 40), (1,), (1,)),
    "layer, two axes": Row(layer_norm(axis=(-2, -1), eps=EPS), (3, 4, 6), (1, 2), (1, 2)),
    "rms": Row(rms_norm(eps=EPS), (6, 40), (1,), (1,)),
    "rms, first axis": Row(rms_norm(axis=0, eps=EPS), (24, 3), (0,), (0,)),
    "instance": Row(instance_norm(eps=EPS), (2, 4, 5, 3), (1, 2), (3,)),
    "instance, channels first": Row(instance_norm(axis=1, eps=EPS), (2, 3, 20), (2,), (1,)),
    "group": Row(group_norm(2, eps=EPS), (3, 4, 5, 6), (1, 2, 4), (3, 4), view=(3, 4, 5, 2, 3)),
    "group, channels first": Row(group_norm(3, axis=1, eps=EPS), (2, 6, 7), (2, 3), (1, 2), view=(2, 3, 2, 7)),
    "group, one example": Row(group_norm(2, batch_axis=(), eps=EPS), (8, 6), (0, 2), (1, 2), view=(8, 2, 3)),
}
every_layer = pytest.mark.parametrize("name", TABLE)
one_of_each = pytest.mark.parametrize("name", ["batch", "renorm", "layer", "rms", "instance", "group"])
per_example = pytest.mark.parametrize("name", ["layer", "layer, two axes", "rms", "instance", "group"])
SLOW = pytest.mark.slow
OFFSETS = pytest.mark.parametrize("offset", [0.0, pytest.param(1e2, marks=SLOW), pytest.param(1e4, marks=SLOW), 1e6])


def data(shape, offset=0.0, seed=0):
    random = np.random.default_rng(seed)
    return (random.normal(size=shape) + offset).astype(np.float32), random.normal(size=shape).astype(np.float32)


def start(row, seed=1):
    random = np.random.default_rng(seed)
    params, state = row.layer.init(row.shape)
    return jax.tree.map(lambda leaf: jnp.asarray(random.uniform(0.5, 2, leaf.shape), jnp.float32), params), state


def results(layer, params, state, x, g, where=None):
    """y, gradients by x and parameters, and the new state."""
    y, pull, new = jax.vjp(lambda p, x: layer.apply(p, state, x, True, where=where), params, x, has_aux=True)
    dparams, dx = pull(g.astype(y.dtype))
    return y, dx, dparams, new


COMPILED: Callable[..., Any] = jax.jit(results, static_argnums=0)


def assert_close(actual, expected, tolerance):
    """Within the tolerance of the largest entry."""
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.all(np.abs(a - b) <= tolerance * np.abs(b).max()), np.abs(a - b).max() / np.abs(b).max()


# ---------------------------------------------------------------------------------------------------------------------
# The papers.


@every_layer
@OFFSETS
def test_output_and_gradients_are_the_papers_at_every_offset(name, offset):
    row = TABLE[name]
    x, g = data(row.shape, offset)
    params, state = start(row)
    y, dx, dparams, _ = COMPILED(row.layer, params, state, x, g)
    # Far from zero, what is left of the gradient of an RMS norm is a difference: 1e-8 of its terms at 1e4.
    tolerance = 3e-6 * (max(1, offset**2 / 10) if "rms" in name else 1)
    expected_y, expected_dx, expected_dparams = row.oracle(params, x, g)
    assert_close((y, dparams), (expected_y, expected_dparams), 3e-6)
    assert_close(dx, expected_dx, tolerance)


@one_of_each
def test_an_outlier_spoils_nothing(name):
    row = TABLE[name]
    x, g = data(row.shape)
    x.reshape(-1)[0] = 1e4
    params, state = start(row)
    assert_close(results(row.layer, params, state, x, g)[:3], row.oracle(params, x, g), 3e-6)


@one_of_each
@pytest.mark.parametrize("dtype", [jnp.bfloat16, pytest.param(jnp.float16, marks=SLOW)])
def test_low_precision_is_computed_in_float32_and_rounded_once(name, dtype):
    row = TABLE[name]
    x = jnp.asarray(data(row.shape, 4.0)[0], dtype)
    params, state = start(row)
    y, new = row.layer.apply(params, state, x, True)
    wide, wide_new = row.layer.apply(params, state, x.astype(jnp.float32), True)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, wide.astype(dtype))
    for a, b in zip(*map(jax.tree.leaves, (new, wide_new)), strict=True):
        np.testing.assert_array_equal(a, b)


@one_of_each
def test_float64_is_computed_in_float64(name):
    row = TABLE[name]
    with jax.enable_x64(True):
        x, g = (np.asarray(leaf, np.float64) for leaf in data(row.shape, 1e3))
        params, state = start(row)
        y = row.layer.apply(params, state, jnp.asarray(x), True)[0]
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y, row.oracle(params, x, g)[0], rtol=1e-12, atol=1e-11)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers at the edge.


@one_of_each
@pytest.mark.parametrize("value", [0.0, 0.1, 3e38, *(pytest.param(value, marks=SLOW) for value in (1e6, 1e-40))])
def test_equal_values_give_the_bias_and_finite_gradients(name, value):
    row = TABLE[name]
    x, g = np.full(row.shape, value, np.float32), data(row.shape)[1]
    params, state = start(row)
    y, *others = results(row.layer, params, state, x, g)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(others))
    if "bias" in params:
        expected, _, _ = row.oracle(params, np.zeros(row.shape), g)
        np.testing.assert_array_equal(y, expected.astype(np.float32))
    elif value in (0.0, 1e6):
        np.testing.assert_allclose(y, row.oracle(params, x, g)[0], rtol=1e-6)


@one_of_each
@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.bfloat16, marks=SLOW)])
def test_huge_values_give_finite_results(name, dtype):
    row = TABLE[name]
    x, g = data(row.shape)
    x = jnp.asarray(np.where(x > 1, 3e38, np.where(x < -1, -3e38, x)), dtype)
    params, state = start(row)
    found = results(row.layer, params, state, x, jnp.asarray(g))
    assert all(np.all(np.isfinite(np.asarray(leaf, np.float32))) for leaf in jax.tree.leaves(found))
    assert np.abs(np.asarray(found[0], np.float32)).max() > 0.5


@one_of_each
@pytest.mark.parametrize("bad", [np.nan, pytest.param(np.inf, marks=SLOW)])
def test_a_value_that_is_not_finite_stays_visible(name, bad):
    row = TABLE[name]
    x = data(row.shape)[0]
    x.reshape(-1)[0] = bad
    y = np.asarray(row.layer.apply(*start(row), x, True)[0])
    assert np.isnan(y.reshape(-1)[0]) and np.any(np.isfinite(y))


# ---------------------------------------------------------------------------------------------------------------------
# Masks.


PADDED = {  # the axis along which there is padding
    "batch": 0, "renorm": 0, "layer": 1, "rms": 1, "instance": 2, "group": 2, "group, channels first": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", PADDED)
@pytest.mark.parametrize(("padding", "offset"), [(1e5, 0.0), (np.nan, 1e4)])
def test_padding_counts_for_nothing(name, padding, offset):
    row, along = TABLE[name], PADDED[name]
    size = row.shape[along]
    kept = size - 2
    x, g = data(row.shape, offset)
    counts = np.arange(size).reshape([size if i == along else 1 for i in range(x.ndim)]) < kept
    x, g = np.where(counts, x, np.float32(padding)), np.where(counts, g, 0)
    params, state = start(row)
    cut = lambda leaf: jnp.take(leaf, jnp.arange(kept), along)  # noqa: E731
    learned = jax.tree.map(lambda leaf: leaf[:kept], params) if name in ("layer", "rms") else params
    y, dx, dparams, new = results(row.layer, params, state, x, g, where=counts)
    short = results(row.layer, learned, state, cut(x), cut(g))
    if name in ("layer", "rms"):
        assert all(np.all(leaf[kept:] == 0) for leaf in dparams.values())
        dparams = jax.tree.map(lambda leaf: leaf[:kept], dparams)
    # The gradient of a root mean square at 1e4 is a difference of terms 1e4 times as large.
    assert_close((cut(y), dparams, new), (short[0], *short[2:]), 3e-6)
    assert_close(cut(dx), short[1], 0.1 if name == "rms" and offset else 3e-6)
    assert np.all(np.isfinite(y)) and np.all(np.take(dx, range(kept, size), along) == 0)


@one_of_each
def test_where_nothing_counts_everything_is_finite_and_the_state_stays(name):
    row = TABLE[name]
    x, g = data(row.shape)
    params, state = start(row)
    y, dx, dparams, new = results(row.layer, params, state, x, g, where=np.zeros((1,) * x.ndim, bool))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves((y, dx, dparams)))
    assert_close(new, state, 0.0)


# ---------------------------------------------------------------------------------------------------------------------
# Pure functions.


@one_of_each
def test_jit_scan_and_a_loop_agree_in_one_trace_and_the_state_keeps_its_type(name):
    row, traces = TABLE[name], 0
    params, state = start(row)
    batches = np.stack([data(row.shape, 2.0, seed)[0] for seed in range(3)])

    @jax.jit
    def step(state, x):
        nonlocal traces
        traces += 1
        return row.layer.apply(params, state, x, True)[::-1]

    last, outputs = jax.lax.scan(step, state, batches)
    traces = 0
    for x, y in zip(batches, outputs, strict=True):
        new, expected = step(state, x)
        assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, state)
        state = new
        assert_close(y, expected, 1e-6)
    assert traces <= 1
    assert_close(last, state, 1e-6)


@one_of_each
def test_no_buffer_is_shared_and_arguments_make_the_layer(name):
    params, state = TABLE[name].layer.init(TABLE[name].shape)
    leaves = jax.tree.leaves((params, state))
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
    assert layer_norm(eps=1e-3) is layer_norm(eps=1e-3) and isinstance(TABLE[name].layer, norm.Normalization)


@per_example
def test_an_example_does_not_depend_on_the_others_and_training_is_evaluation(name):
    row = TABLE[name]
    x, _ = data(row.shape, 5.0)
    params, state = start(row)
    y, same = row.layer.apply(params, state, x, True)
    assert same == () == state
    np.testing.assert_array_equal(y, row.layer.apply(params, state, x, False)[0])
    np.testing.assert_allclose(y[:1], row.layer.apply(params, state, x[:1])[0], rtol=1e-6, atol=1e-6)
    each = jax.vmap(lambda x: row.layer.apply(params, state, x[None])[0][0])(x)
    np.testing.assert_allclose(y, each, rtol=1e-6, atol=1e-6)


@one_of_each
@pytest.mark.parametrize("kind", [pytest.param(AxisType.Auto, marks=SLOW), AxisType.Explicit])
def test_examples_split_over_devices_give_the_same(name, kind):
    row = TABLE[name]
    shape = (8, *row.shape[1:])
    x, g = data(shape, 1e4)
    params, state = start(row._replace(shape=shape))
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,), devices=jax.devices()[:4])
    split = jax.device_put((x, g), NamedSharding(mesh, P("batch")))
    y, dx, dparams, new = results(row.layer, params, state, x, g)
    found = COMPILED(row.layer, params, state, *split)
    assert_close((found[0], found[2], found[3]), (y, dparams, new), 2e-6)
    assert_close(found[1], dx, 1.0 if name == "rms" else 2e-6)


@pytest.mark.parametrize("name", ["batch", "renorm", "layer", "rms", "instance", "group"])
@pytest.mark.parametrize("parallel", ["shard_map", "vmap"])
def test_means_over_a_named_axis_are_those_of_everything(name, parallel):
    """What is averaged over is split: examples, features or places."""
    row = TABLE[name]
    along = {"batch": 0, "renorm": 0, "layer": 1, "rms": 1, "instance": 1, "group": 1}[name]
    call = row.layer.init.__gradtx_call__
    layer = getattr(norm, call.name)(**call.with_defaults | {"axis_name": "part"})
    x, _ = data(row.shape, 1e2)
    params, state = start(row)
    spec = P(*["part" if i == along else None for i in range(x.ndim)])
    of_params = P("part") if name in ("layer", "rms") else P()
    apply = lambda params, x: layer.apply(params, state, x, True)  # noqa: E731
    expected, new = row.layer.apply(params, state, x, True)
    if parallel == "shard_map":
        mesh = jax.make_mesh((2,), ("part",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
        whole = jax.shard_map(apply, mesh=mesh, in_specs=(of_params, spec), out_specs=(spec, P()))
        assert_close(jax.jit(whole)(params, x), (expected, new), 2e-6)
        return
    parts = np.stack(np.split(x, 2, along))
    cut = jax.tree.map(lambda leaf: leaf.reshape(2, -1), params) if of_params else params
    y, found = jax.vmap(apply, (0 if of_params else None, 0), (0, None), axis_name="part")(cut, parts)
    assert_close((np.concatenate(y, along), found), (expected, new), 2e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes.


@pytest.mark.parametrize("make", [batch_renorm, layer_norm, rms_norm, instance_norm, group_norm])
@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"eps": 0.0}, errors.ArgumentRangeError, "eps must be a finite number in [1e-24, inf)"),
        ({"axis": 1.5}, errors.ArgumentTypeError, "axis must be a whole number"),
        ({"axis_name": 3}, errors.ArgumentTypeError, "axis_name must be the name"),
        ({"epsilon": 1e-3}, errors.ArgumentTypeError, "arguments "),
    ],
)
def test_a_bad_argument_is_named_at_once(make, arguments, kind, words):
    with pytest.raises(kind) as caught:
        make(**arguments)
    assert str(caught.value).startswith(f"{make.__name__}(") and words in str(caught.value)


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: group_norm(0), errors.ArgumentRangeError, "num_groups must be a whole number of at least 1"),
        (lambda: group_norm(2.0), errors.ArgumentTypeError, "num_groups must be a whole number"),
        (lambda: instance_norm(batch_axis=None), errors.ArgumentTypeError, "batch_axis must be a whole number"),
        (lambda: batch_renorm(r_max=0.5), errors.ArgumentRangeError, "r_max must be a finite number in [1, inf)"),
        (lambda: batch_renorm(d_max=-1), errors.ArgumentRangeError, "d_max must be a finite number in [0, inf)"),
        (lambda: group_norm(4).apply(*group_norm(4).init((2, 6)), jnp.ones((2, 6))), errors.ShapeError, "4 groups"),
        (lambda: group_norm().init((6,)), errors.ArgumentRangeError, "axis and batch_axis must be different"),
        (lambda: layer_norm().apply(*layer_norm().init((2, 1)), jnp.ones((2, 1))), errors.ShapeError, "at least two"),
        (
            lambda: instance_norm().apply(*instance_norm().init((2, 3)), jnp.ones((2, 3))),
            errors.ShapeError,
            "at least two values, got 1",
        ),
        (
            lambda: rms_norm(axis_name="part").apply(*rms_norm().init((2, 3)), jnp.ones((2, 3))),
            errors.ArgumentRangeError,
            "axis_name must name axes",
        ),
    ],
)
def test_what_makes_no_sense_is_an_error(make, kind, words):
    with pytest.raises(kind) as caught:
        make()
    assert words in str(caught.value)


@one_of_each
def test_what_apply_is_given_is_checked(name):
    row = TABLE[name]
    params, state = start(row)
    x, apply = jnp.ones(row.shape), row.layer.apply
    with pytest.raises(errors.DtypeError, match="x must be a floating array"):
        apply(params, state, x.astype(jnp.int32), True)
    with pytest.raises(errors.StructureError, match="params must be"):
        apply({"weight": params["scale"]}, state, x, True)
    with pytest.raises(errors.StructureError, match="state must be"):
        apply(params, params, x, True)
    with pytest.raises(errors.ShapeError, match="x must have the channels of init"):
        apply(params, state, jnp.ones((*row.shape[:-1], row.shape[-1] + 1)), True)
    with pytest.raises(errors.DtypeError, match="where must be bool"):
        apply(params, state, x, True, where=jnp.ones(row.shape))
    with pytest.raises(errors.ArgumentTypeError, match=r"init\(x.shape\)"):
        row.layer.init(x)


# ---------------------------------------------------------------------------------------------------------------------
# Batch renormalization.


def renorm_data(seed, offset=0.0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(12, 3)) * [0.2, 1.0, 30.0] + [-0.5, 8.0, 3.0] + offset
    return x.astype(np.float32), random.normal(size=(12, 3)).astype(np.float32)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_renorm_is_the_papers_clipped_and_not(offset):
    limits = dict(r_max=2.0, d_max=1.5)
    layer = batch_renorm(decay=0.9, eps=EPS, **limits)
    params, _ = start(Row(layer, (12, 3), (0,), (1,)))
    mean, deviation = np.float64([[0.0, 8.0, 0.0]]) + offset, np.float64([[1.0, 2.0, 8.0]])
    state = norm.BatchRenormState(jnp.float32(mean[0]), jnp.float32(deviation[0]))
    scale, bias = (np.asarray(params[name], np.float64)[None] for name in ("scale", "bias"))
    kinds = set()
    for seed in range(4):
        x, g = renorm_data(seed, offset)
        y, r, d, new_mean, new_deviation = oracles.batch_renorm_step(
            x, scale, bias, np.float64(state.mean), np.float64(state.deviation), (0,), alpha=0.1, eps=EPS, **limits
        )
        kinds |= {*(r == 2).ravel(), *(r == 0.5).ravel(), *(np.abs(d) == 1.5).ravel()}
        dx, dscale, dbias = oracles.batch_renorm_gradients(x, scale, r, g, (0,), EPS)
        found, found_dx, dparams, state = results(layer, params, state, x, g)
        assert_close((found, found_dx), (y, dx), 3e-6)
        assert_close((dparams["scale"], dparams["bias"]), ((dscale + g * d).sum(0), dbias.sum(0)), 3e-6)
        assert np.all(np.abs(state.mean - new_mean[0]) <= 3e-7 * (np.abs(new_mean[0]) + 0.1 * x.std(0)))
        np.testing.assert_allclose(state.deviation, new_deviation[0], rtol=1e-6)
    assert kinds == {True, False}


def test_without_limits_training_is_evaluation():
    layer = batch_renorm(r_max=1e9, d_max=1e9)
    x, _ = renorm_data(0)
    params, state = layer.init(x.shape)
    state = state._replace(mean=jnp.float32([1, 2, 3]), deviation=jnp.float32([2, 3, 4]))
    y, _ = layer.apply(params, state, x, True)
    assert_close(y, layer.apply(params, state, x, False)[0], 1e-6)
    assert_close(y, (x - np.float64([1, 2, 3])) / [2, 3, 4], 1e-6)


@pytest.mark.parametrize("step", [0, 5_000, 5_001, 20_000, 25_000, 39_999, 100_000])
def test_the_default_limits_are_the_papers(step):
    layer = batch_renorm()
    x = np.float32([[1e4], [1e4 + 1e3]])
    params, state = layer.init(x.shape)
    y, new = layer.apply(params, state._replace(step=jnp.int32(step)), x, True)
    r, d = oracles.limits(step)
    np.testing.assert_allclose(y[:, 0], [-r + d, r + d], rtol=1e-5)
    assert new.step == step + 1


def test_a_limit_is_a_number_or_a_schedule_that_returns_one():
    layer = batch_renorm(r_max=lambda step: 1.0 + step, d_max=0.0)
    x = np.float32([[0.0], [200.0]])
    params, state = layer.init(x.shape)
    for step in range(3):
        y, state = layer.apply(params, state._replace(deviation=jnp.ones(1)), x, True)
        np.testing.assert_allclose(y[1, 0], 1.0 + step, rtol=1e-6)
    bad = batch_renorm(r_max=lambda step: None)
    with pytest.raises(errors.ArgumentTypeError, match="a schedule must return one real number"):
        bad.apply(*bad.init(x.shape), x, True)
