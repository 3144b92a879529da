"""State in 8 and 4 bits: what an error may be, what is never lost, and what is refused."""

import functools
import math

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors, storage
from gradtx.core import Role

SIGNED, SQUARES = Role("signed", True), Role("non-negative", True)
TINY, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
SHAPES = [(), (0,), (1,), (34,), (3, 40), (0, 3), (2, 3, 5)]
LAYOUTS = [(8, 32, "nearest"), (8, 3, "stochastic"), (4, 4, "nearest"), (4, 32, "stochastic")]
ROUNDING_ERROR = 1e-4  # of float32 in the place of a code, at most 254 of them: 6e-5 of half a step


@functools.cache
def round_trip(role, bits, block, rounding):
    layout = storage.quantized(bits=bits, block=block, rounding=rounding)

    def run(array, seed):
        draw = functools.partial(jax.random.uniform, jax.random.key(seed)) if layout.draws else None
        return layout.decode(layout.encode(array, role, draw), role)

    return jax.jit(run)


@functools.cache
def both_round_trips(bits, block, rounding):
    one = functools.partial(round_trip, bits=bits, block=block, rounding=rounding)
    return jax.jit(lambda x: (one(SIGNED)(x, 3), one(SQUARES)(jnp.abs(x), 3)))


def scales_of(x, block):
    """The largest finite size in each number's block, slowly."""
    flat = np.where(np.isfinite(x), np.abs(x), 0.0).reshape(math.prod(x.shape[:-1]), -1 if x.size else 0)
    scales = np.zeros_like(flat)
    for row, sizes in enumerate(flat):
        for start in range(0, len(sizes), block):
            scales[row, start : start + block] = sizes[start : start + block].max()
    return scales.reshape(x.shape)


numbers = st.floats(width=32) | st.floats(-4, 4, width=32) | st.sampled_from([0.0, TINY, 1e-42, LARGEST, 1.0])
arrays = st.sampled_from(SHAPES).flatmap(
    lambda shape: hypothesis.extra.numpy.arrays(np.float32, shape, elements=numbers)
)
within = functools.partial(hypothesis.settings, deadline=None, derandomize=True)


@within(max_examples=100)
@hypothesis.given(arrays, st.sampled_from(LAYOUTS), st.sampled_from(["float32", "bfloat16", "float16"]))
def test_errors_are_within_the_bounds_of_the_documentation(array, layout, dtype):
    """Of a state in float32, made from gradients of each dtype."""
    array = np.asarray(jnp.asarray(array).astype(dtype).astype(jnp.float32))
    bits, block, rounding = layout
    steps = 2 if rounding == "stochastic" else 1
    half = 7 if bits == 4 and array.ndim and array.shape[-1] % 2 == 0 else 127
    for role, given, kept in zip(
        (SIGNED, SQUARES), (array, np.abs(array)), both_round_trips(*layout)(array), strict=True
    ):
        x, kept = given.astype(np.float64), np.asarray(kept, np.float64)
        finite = np.isfinite(x)
        assert kept.shape == x.shape
        assert np.array_equal(np.isfinite(kept), finite) and np.isnan(kept[~finite]).all()
        x, kept, s = x[finite], kept[finite], scales_of(x, block)[finite]
        some = s >= TINY
        assert np.abs(kept[~some]).max(initial=0.0) <= TINY
        x, kept, s = x[some], kept[some], s[some]
        if role is SIGNED:
            bound = s * (np.abs(x) / s + 1) ** 2 / (4 * half / steps - 2)
            assert np.all(np.abs(kept - x) <= bound * (1 + ROUNDING_ERROR) + TINY)
            assert np.all(kept * np.sign(x) >= 0)
        else:
            assert np.all(kept[x == 0] == 0) and np.all(kept[x >= TINY] > 0)
            step = np.sqrt(s) / (2 * half)
            bound = np.where(np.sqrt(x) < step, step, step * steps / 2)
            assert np.all(np.abs(np.sqrt(kept) - np.sqrt(x)) <= bound * (1 + ROUNDING_ERROR) + 2 * math.sqrt(TINY))
        np.testing.assert_array_equal(np.abs(kept)[np.abs(x) == s], s[np.abs(x) == s])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("role", [SIGNED, SQUARES], ids=["signed", "squares"])
def test_what_is_kept_is_kept_again_as_it_is(role, bits):
    """So a state that does not change is no random walk, and a checkpoint may be decoded and encoded."""
    layout = storage.quantized(bits=bits)
    levels = jnp.arange(256 if bits == 8 else 16, dtype=jnp.uint8).reshape(-1, 2 if bits == 4 else 1)
    levels = jnp.concatenate([levels, jnp.full_like(levels, 255 if bits == 4 else 127)], axis=-1)  # the largest
    scales = jnp.full((levels.shape[0], 1), 0.37)
    pairs = levels[:, ::2] + 16 * levels[:, 1::2] if bits == 4 else levels
    kept = storage.CodePairs(pairs, scales) if bits == 4 else storage.Codes(levels.astype(jnp.int8), scales)
    once = layout.decode(kept, role)
    np.testing.assert_array_equal(layout.decode(layout.encode(once, role, None), role), once)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("role", [SIGNED, SQUARES], ids=["signed", "squares"])
def test_stochastic_rounding_is_right_on_average(role, bits):
    count = 20_000
    x = jnp.tile(jnp.array([1.0, 0.3, 0.02, 0.11]), (count, 1))
    kept = np.asarray(round_trip(role, bits, 32, "stochastic")(x, 0), np.float64)
    spread = kept.std(axis=0)
    wide = np.asarray(x[0], np.float64)
    assert np.all(np.abs(kept.mean(axis=0) - wide) <= 5 * spread / math.sqrt(count) + 1e-6)
    assert np.all(spread[1:] > 0)


def test_stochastic_rounding_is_reproducible_and_does_not_depend_on_what_else_reads_the_tree():
    params = {"a": jnp.zeros(64), "b": jnp.zeros(64)}
    grads = {name: jnp.linspace(0.1, 1.0, 64) for name in params}
    layout = storage.quantized(rounding="stochastic")
    by_leaf = storage.stored(gradtx.chain(gradtx.ema(0.9)), layout)
    whole = storage.stored(gradtx.chain(gradtx.ema(0.9), gradtx.clip_by_global_norm(1e6)), layout)
    means = [tx.update(grads, tx.init(params))[1].inner["ema"].mean for tx in (by_leaf, by_leaf, whole)]
    for other in means[1:]:
        jax.tree.map(np.testing.assert_array_equal, means[0], other)
    assert not np.array_equal(means[0]["a"].codes, means[0]["b"].codes)


def decayed(rounding, start, steps=300, decay=0.999):
    """A second moment after steps of no gradient for some, and of the same one for the others."""
    tx = storage.stored(gradtx.mean_square(decay), storage.quantized(rounding=rounding))
    state = tx.init(jnp.zeros(start.shape))
    codes = storage.quantized().encode(start, SQUARES, None)
    state = state._replace(inner=state.inner._replace(mean_square=codes))

    def body(state, grads):
        return tx.update(grads, state)[1], None

    grads = jnp.where(jnp.arange(start.shape[-1]) % 2 == 0, jnp.sqrt(start), 0.0)
    after, _ = jax.lax.scan(body, state, jnp.broadcast_to(grads, (steps, *start.shape)))
    return np.asarray(storage.quantized().decode(after.inner.mean_square, SQUARES))


def test_slow_changes_within_a_block_are_lost_to_nearest_rounding_and_kept_on_average_by_stochastic():
    start = jnp.tile(jnp.array([1.0, 0.25]), (64, 16))
    np.testing.assert_allclose(decayed("nearest", start)[:, 1::2], 0.25, rtol=0.01)
    expected = 0.25 * 0.999**300
    assert abs(decayed("stochastic", start)[:, 1::2].mean() / expected - 1) < 0.02
    assert expected < 0.19


def test_the_decay_of_a_whole_block_is_exact_under_nearest_rounding():
    tx = storage.stored(gradtx.mean_square(0.999), storage.quantized())
    params = jnp.zeros(32)
    _, state = tx.update(jnp.linspace(0.1, 1.0, 32), tx.init(params))
    codes, scale = state.inner.mean_square
    state, _ = jax.lax.scan(lambda state, g: (tx.update(g, state)[1], None), state, jnp.zeros((300, 32)))
    np.testing.assert_array_equal(state.inner.mean_square.codes, codes)
    np.testing.assert_allclose(state.inner.mean_square.scales, scale * 0.999**300, rtol=1e-4)


def plain() -> storage.Layout:
    """8 bits without a root and with a zero for what is small."""

    def scale_of(kept):
        return jnp.repeat(kept.scales, 32, axis=-1)

    def encode(array, role, draw):
        del role, draw
        scales = jnp.max(jnp.abs(array.reshape(-1, 32)), axis=-1)
        scale = jnp.repeat(scales, 32)
        return storage.Codes(jnp.round(127 * array / jnp.where(scale > 0, scale, 1)).astype(jnp.int8), scales)

    return storage.Layout(encode, lambda kept, role: kept.codes / 127.0 * scale_of(kept), lambda role: None)


SIZES = 10.0 ** np.random.default_rng(0).permutation(np.linspace(0.0, -2.5, 64))  # of the inputs, in one block
INPUTS = jnp.asarray(np.random.default_rng(1).normal(size=(256, 64)) * SIZES, jnp.float32)
TARGETS = jnp.asarray(np.asarray(INPUTS, np.float64) @ (np.random.default_rng(2).normal(size=64) / SIZES), jnp.float32)


def trained(layout, steps=600, learning_rate=0.1):
    """The largest and the last loss of a linear fit whose inputs differ in size by 300, with small batches."""
    tx = storage.stored(gradtx.adam(learning_rate), layout)

    def loss(weights, inputs, targets):
        return 0.5 * jnp.mean((inputs @ weights - targets) ** 2)

    def body(carry, rows):
        weights, state = carry
        updates, state = tx.update(jax.grad(loss)(weights, INPUTS[rows], TARGETS[rows]), state, weights)
        weights = gradtx.apply_updates(weights, updates)
        return (weights, state), loss(weights, INPUTS, TARGETS)

    weights = jnp.zeros(64)
    rows = jax.random.randint(jax.random.key(0), (steps, 16), 0, 256)
    _, losses = jax.jit(lambda carry: jax.lax.scan(body, carry, rows))((weights, tx.init(weights)))
    return float(losses.max()), float(losses[-1]), float(loss(weights, INPUTS, TARGETS))


def test_a_linear_code_of_second_moments_explodes_where_quantized_trains_as_float32():
    exact = trained(storage.cast(jnp.float32))
    for rounding in ("nearest", "stochastic"):
        largest, last, start = trained(storage.quantized(rounding=rounding))
        assert largest < 1.1 * start and last < 1.1 * exact[1]
    largest, last, start = trained(plain())
    assert largest > 10 * start and last > 10 * exact[1]


@pytest.mark.parametrize(("bits", "at_most"), [(8, 2.3), (4, 1.3)])
def test_bytes_of_adamw_are_known_before_they_are_allocated(bits, at_most):
    params = {"kernel": jnp.zeros((256, 64)), "bias": jnp.zeros(64)}
    tx = storage.stored(gradtx.adamw(1e-3), storage.quantized(bits=bits))
    found = storage.state_bytes(tx, jax.eval_shape(lambda: params))
    assert found == sum(leaf.nbytes for leaf in jax.tree.leaves(tx.init(params)))
    assert found == gradtx.describe(tx, params).state_bytes
    assert found / gradtx.tree.size(params) <= at_most


def test_codes_have_the_shape_of_the_parameter_and_map_params_finds_them():
    tx = storage.stored(gradtx.adam(1e-3), storage.quantized())
    params = {"w": jnp.zeros((3, 40)), "s": jnp.zeros(())}
    state = tx.init(params)
    names = gradtx.map_params(
        tx, lambda leaf, name: name, state, {"w": "w", "s": "s"}, transform_non_params=lambda _: "other"
    )
    mean = gradtx.tree.get(names, "ema/mean")
    assert mean == {"w": storage.Codes("w", "other"), "s": storage.Codes("s", "other")}
    assert gradtx.tree.get(state, "ema/mean")["w"].codes.shape == (3, 40)


ALLOWED = {
    "adamw": lambda: gradtx.adamw(1e-3), "amsgrad": lambda: gradtx.amsgrad(1e-3), "lion": lambda: gradtx.lion(1e-3),
    "sgd": lambda: gradtx.sgd(0.1, momentum=0.9), "adafactor": lambda: gradtx.adafactor(1e-3),
    "accumulate": lambda: gradtx.accumulate(gradtx.adam(1e-3), 2), "muon": lambda: gradtx.muon(1e-3),
}  # fmt: skip
REFUSED = {
    "schedule_free": (lambda: gradtx.schedule_free(gradtx.sgd(1.0), 1.0), "position numbers at 'ahead'"),
    "lookahead": (lambda: gradtx.lookahead(gradtx.adam(1e-3), 5, 0.5), "position numbers at 'slow'"),
    "average": (lambda: gradtx.exponential_average(gradtx.adam(1e-3)), "position numbers at 'average'"),
    "uniform": (lambda: gradtx.uniform_average(gradtx.adam(1e-3)), "position numbers at 'average'"),
    "dog": (lambda: gradtx.dog(), "position numbers at '.*start'"),
    "lbfgs": (lambda: gradtx.scale_by_lbfgs(), "position numbers at '.*params'"),
    "adagrad": (lambda: gradtx.adagrad(0.1), "accumulated numbers at '.*sum_of_squares'"),
    "madgrad": (lambda: gradtx.madgrad(0.1), "accumulated numbers at '.*sum'"),
    "prodigy": (lambda: gradtx.prodigy(), "accumulated numbers at '.*gradient_sum'"),
    "rprop": (lambda: gradtx.rprop(0.1), "accumulated numbers at '.*step_size'"),
    "mechanize": (lambda: gradtx.mechanize(gradtx.sgd(1.0)), "accumulated numbers at 'moved'"),
}


@pytest.mark.parametrize("make", ALLOWED.values(), ids=ALLOWED.keys())
def test_moments_may_be_kept_in_codes(make):
    params = {"w": jnp.ones((4, 40)), "b": jnp.ones(3)}
    tx = storage.stored(make(), storage.quantized())
    updates, _ = tx.update(params, tx.init(params), params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_positions_and_sums_are_refused_by_name_and_bfloat16_keeps_them(make, words):
    params = {"w": jnp.ones((4, 40)), "b": jnp.ones(3)}
    with pytest.raises(errors.LayoutError, match=words):
        storage.stored(make(), storage.quantized()).init(params)
    storage.stored(make(), storage.cast(jnp.bfloat16)).init(params)


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2])
def test_a_cast_to_eight_bits_is_refused_and_names_what_has_scales(dtype):
    with pytest.raises(errors.ArgumentRangeError, match="quantized"):
        storage.cast(dtype)


@pytest.mark.parametrize("arguments", [{"bits": 3}, {"bits": 16}, {"block": 0}, {"block": 2.5}, {"rounding": "up"}])
def test_bad_arguments_are_named(arguments):
    with pytest.raises((errors.ArgumentRangeError, errors.ArgumentTypeError), match=next(iter(arguments))):
        storage.quantized(**arguments)


def test_bytes_of_what_is_no_transformation_are_refused():
    with pytest.raises(errors.ArgumentTypeError, match="a constructor has to be called first"):
        storage.state_bytes(gradtx.adamw, jnp.ones(2))
    assert storage.state_bytes(tuple(gradtx.sgd(0.1, momentum=0.9)), jnp.ones(2)) == 8


@pytest.mark.parametrize(
    ("made_with", "used_with"),
    [
        (storage.cast("bfloat16"), storage.quantized()),
        ({}, storage.cast("bfloat16")),
        ({}, storage.quantized()),
        (storage.quantized(), storage.quantized(bits=4)),
    ],
)
def test_a_state_of_another_layout_is_refused(made_with, used_with):
    params = {"w": jnp.ones((2, 32))}
    first, second = (storage.stored(gradtx.adamw(1e-2), layout) for layout in (made_with, used_with))
    with pytest.raises(errors.StructureError, match="another layout"):
        second.update(params, first.init(params), params)
