"""Rounding into a narrower dtype, and the numbers that it is done by at random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from gradtx.rounding import places, round_to, uniform_at

NARROW = (
    jnp.float16,
    jnp.bfloat16,
    jnp.float8_e4m3fn,
    jnp.float8_e5m2,
    jnp.float8_e4m3fnuz,  # without a negative zero
    jnp.float8_e5m2fnuz,
    jnp.float4_e2m1fn,
)
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def neighbours(x: float, dtype) -> tuple[float, float]:
    """The numbers of ``dtype`` just below and above ``x`` (both ``x`` where it is one of them), by enumeration."""
    width = jnp.finfo(dtype).bits
    patterns = np.arange(2**width, dtype=f"uint{8 * np.dtype(dtype).itemsize}")
    with np.errstate(invalid="ignore"):  # the signalling NaN among the patterns
        everything = patterns.view(np.dtype(dtype)).astype(np.float64)
    finite = np.sort(everything[np.isfinite(everything)])
    x = float(np.clip(x, finite[0], finite[-1]))
    return float(finite[finite <= x][-1]), float(finite[finite >= x][0])


@pytest.mark.parametrize("dtype", NARROW, ids=lambda dtype: dtype.__name__)
@given(x=floats)
@settings(max_examples=60, deadline=None)
def test_nearest_rounding_saturates_and_is_a_neighbour(dtype, x):
    below, above = neighbours(x, dtype)
    rounded = float(round_to(jnp.float32(x), dtype))
    if abs(x) >= float(jnp.finfo(jnp.float32).tiny) or x == 0:  # a CPU flushes smaller ones to zero
        assert rounded in (below, above)
        assert abs(rounded - x) <= max(min(x - below, above - x), 0) or (rounded in (below, above) and below == above)


@pytest.mark.parametrize("dtype", NARROW, ids=lambda dtype: dtype.__name__)
@given(x=floats, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_stochastic_rounding_goes_to_a_neighbour(dtype, x, seed):
    if 0 < abs(x) < float(jnp.finfo(jnp.float32).tiny):
        return  # flushed to zero on a CPU
    rounded = float(round_to(jnp.float32(x), dtype, uniform_at(jnp.int32(seed), (0, 0, 0))))
    assert rounded in neighbours(x, dtype)


@pytest.mark.parametrize("dtype", NARROW, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("x", [1.03, -0.7, 3e-3, -5e-4, 1e-6, 0.0, -1.0])
def test_stochastic_rounding_is_right_on_average(dtype, x):
    count = 40_000
    below, above = neighbours(x, dtype)
    uniform = uniform_at(places((count,)), (1, 2, 3))
    rounded = np.asarray(round_to(jnp.full(count, x, jnp.float32), dtype, uniform), np.float64)
    deviation = (above - below) / 2 / np.sqrt(count)
    assert abs(rounded.mean() - float(np.float32(x))) <= 5 * deviation + 1e-12


def test_not_a_number_and_infinities_stay_what_they_are_under_both_roundings():
    x = jnp.asarray([jnp.nan, -jnp.nan, jnp.inf, -jnp.inf, 3.4e38, -3.4e38], jnp.float32)
    for dtype in (jnp.bfloat16, jnp.float16):
        largest = float(jnp.finfo(dtype).max)
        for uniform in (None, jnp.full(6, 1 - 2.0**-24, jnp.float32)):
            rounded = np.asarray(round_to(x, dtype, uniform), np.float64)
            np.testing.assert_array_equal(rounded, [np.nan, np.nan, np.inf, -np.inf, largest, -largest])


@pytest.mark.parametrize("uniform", [None, 0.5], ids=["nearest", "stochastic"])
def test_a_wider_dtype_keeps_every_number_as_it_is(uniform):
    with jax.enable_x64(True):
        x = jnp.asarray([3.4e38, -1.2e-38, jnp.inf, jnp.nan], jnp.float32)
        wider = round_to(x, jnp.float64, None if uniform is None else jnp.full(4, uniform, jnp.float32))
        assert wider.dtype == jnp.float64
        np.testing.assert_array_equal(wider, np.asarray(x, np.float64))


def pcg4d(*words):
    """The first word of the hash as the paper writes it, in whole numbers modulo 2^32."""
    words = [word * 1664525 + 1013904223 for word in words]
    for shift in (16, 32):
        x, y, z, w = words
        x += y * w
        y += z * x
        z += x * y
        w += y * z
        words = [word % 2**32 ^ (word % 2**32) >> shift for word in (x, y, z, w)]
    return words[0]


words = st.integers(0, 2**32 - 1)


@given(place=words, seeds=st.tuples(words, words, words))
@settings(max_examples=100, deadline=None)
def test_uniform_numbers_are_those_of_the_paper(place, seeds):
    found = float(uniform_at(jnp.uint32(place).astype(jnp.int32), tuple(map(jnp.uint32, seeds))))
    assert found == (pcg4d(place, *seeds) >> 8) / 2**24


def test_places_are_counted_row_by_row():
    np.testing.assert_array_equal(places((2, 3, 4)), np.arange(24).reshape(2, 3, 4))
    assert places(()).tolist() == 0 and places((0, 3)).shape == (0, 3)


def test_uniform_numbers_do_not_depend_on_how_the_array_is_divided():
    shape, mesh = (8, 6, 16), jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def draw():
        return uniform_at(places(shape), (1, 2, 3))

    for axes in (("x",), (None, None, "x")):
        rows = NamedSharding(mesh, PartitionSpec(*axes))
        np.testing.assert_array_equal(jax.jit(draw, out_shardings=rows)(), draw())


@pytest.mark.parametrize("which", range(3), ids=["steps", "leaves", "fields"])
def test_uniform_numbers_are_independent_from_place_to_place_and_from_seed_to_seed(which):
    """64 seeds that follow each other and 32,768 places; each statistic is in its own standard deviations."""
    seeds = np.tile([5, 77, 1_234_567], (64, 1))
    seeds[:, which] += np.arange(64)
    draw = jax.jit(jax.vmap(lambda seed: uniform_at(places((2**15,)), tuple(seed))))
    centered = np.asarray(draw(jnp.asarray(seeds)), np.float64) - 0.5
    pairs = {f"lag {lag}": (centered[:, :-lag], centered[:, lag:]) for lag in (1, 2, 3, 8, 32, 64, 512, 4096)}
    pairs["next seed"] = centered[:-1], centered[1:]
    statistics = {name: (one * other).mean() * 12 * np.sqrt(one.size) for name, (one, other) in pairs.items()}
    statistics["mean"] = centered.mean() * np.sqrt(12 * centered.size)
    at_places = centered.mean(axis=0) * np.sqrt(12 * len(seeds))
    statistics["spread of the means at all places"] = (at_places.var() - 1) * np.sqrt(at_places.size / 2)
    expected = centered.size / 256
    squares = (np.histogram(centered, bins=256, range=(-0.5, 0.5))[0] - expected) ** 2 / expected
    statistics["histogram"] = (squares.sum() - 255) / np.sqrt(2 * 255)
    assert max(map(abs, statistics.values())) < 4.5, statistics
