"""Claims about the gradient noise scale, on regressions whose gradients have a known covariance."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradtx import curvature, errors
from gradtx.curvature.intervals import student_factor


def squares(w, batch):
    x, y = batch
    return 0.5 * jnp.mean((x @ w - y) ** 2)


def batches(seed, sizes, dimension=5, sigma=1.0):
    """Features and noise are standard normal, and the true weights zero: at ``w`` an example's gradient has the mean
    ``w`` and the covariance ``(|w|^2 + sigma^2) I + w w'``."""
    rng = np.random.default_rng(seed)
    arrays = [(rng.normal(size=(n, dimension)), sigma * rng.normal(size=n)) for n in sizes]
    return [(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)) for x, y in arrays]


def trace(w, sigma=1.0):
    return len(w) * (w @ w + sigma**2) + w @ w


def gradients(w, listed):
    return [
        np.asarray(x, np.float64) * (np.asarray(x, np.float64) @ w - np.asarray(y, np.float64))[:, None]
        for x, y in listed
    ]


def estimates(w, listed, matrix):
    """``tr(A S)`` and ``G'AG`` from batches, by the equations."""
    each = gradients(w, listed)
    means, counts = [g.mean(0) for g in each], np.array([len(g) for g in each])
    mean = np.concatenate(each).mean(0)
    noise = sum(n * (g - mean) @ matrix @ (g - mean) for n, g in zip(counts, means, strict=True)) / (len(each) - 1)
    return noise, mean @ matrix @ mean - noise / counts.sum()


def oracle(w, listed, matrix):
    """The estimates, and their covariance by leaving out one batch after the other."""
    left = [estimates(w, listed[:b] + listed[b + 1 :], matrix) for b in range(len(listed))]
    away = np.array(left) - np.mean(left, axis=0)
    return *estimates(w, listed, matrix), (len(listed) - 1) / len(listed) * away.T @ away


def fieller(over, under, covariance, factor):
    """All ratios that the estimates do not contradict, on a fine grid."""
    q = np.concatenate([[0], np.geomspace(1e-3, 1e9, 2_000_001)])
    variance = covariance[0, 0] - 2 * q * covariance[0, 1] + q**2 * covariance[1, 1]
    allowed = q[(over - q * under) ** 2 <= factor**2 * variance]
    return allowed[0], math.inf if allowed[-1] == q[-1] else allowed[-1]


SIZES = {"equal": [16] * 8, "ragged": [16] * 7 + [3], "very ragged": [40, 3, 1, 16, 25, 7], "three": [8, 8, 8]}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("length", [0.02, 0.3, 3.0])
def test_estimates_errors_and_interval_are_those_of_the_equations(sizes, length):
    w = np.float64(np.float32(np.full(5, length / 5**0.5)))
    listed = batches(3, sizes)
    found = curvature.noise_scale(squares, jnp.float32(w), curvature.dataset(listed))
    noise, gradient, covariance = oracle(w, listed, np.eye(5))
    size = max(abs(gradient), noise / sum(sizes))
    assert found.trace_of_covariance == pytest.approx(noise, rel=1e-5)
    assert found.gradient_norm_squared == pytest.approx(gradient, abs=1e-5 * size)
    assert found.trace_of_covariance_error == pytest.approx(covariance[0, 0] ** 0.5, rel=1e-4)
    assert found.gradient_norm_squared_error == pytest.approx(covariance[1, 1] ** 0.5, rel=1e-4)
    assert found.simple == pytest.approx(noise / gradient if gradient > 0 else math.inf, rel=1e-3)
    low, high = fieller(noise, gradient, covariance, student_factor(len(sizes) - 1, 0.95))
    assert found.interval == pytest.approx((low, high), rel=1e-3)
    assert (found.batches, found.examples) == (len(sizes), sum(sizes))


def test_for_equal_batches_these_are_the_estimates_from_two_batch_sizes():
    """McCandlish et al. 2018, appendix A.1, with the batch of all examples as the big one."""
    w = np.full(5, 0.2)
    listed = batches(5, [16] * 8)
    means = [g.mean(0) for g in gradients(w, listed)]
    small, big = np.mean([g @ g for g in means]), np.mean(means, axis=0) @ np.mean(means, axis=0)
    found = curvature.noise_scale(squares, jnp.float32(w), curvature.dataset(listed))
    assert found.gradient_norm_squared == pytest.approx((128 * big - 16 * small) / (128 - 16), rel=1e-4)
    assert found.trace_of_covariance == pytest.approx((small - big) / (1 / 16 - 1 / 128), rel=1e-4)


@pytest.mark.parametrize("sizes", [[32] * 8, [32] * 7 + [5]], ids=["equal", "ragged"])
def test_the_weighted_scale_is_that_of_the_exact_hessian(sizes):
    w = np.float64(np.float32(np.linspace(0.1, 0.5, 5)))
    listed = [(x * jnp.arange(1.0, 6.0), y) for x, y in batches(7, sizes)]
    x = np.concatenate([np.asarray(x, np.float64) for x, _ in listed])
    found = curvature.noise_scale(squares, jnp.float32(w), curvature.dataset(listed), with_hessian=True)
    noise, gradient, covariance = oracle(w, listed, x.T @ x / len(x))
    assert found.weighted.numerator == pytest.approx(noise, rel=1e-4)
    assert found.weighted.denominator == pytest.approx(gradient, rel=1e-4)
    assert found.weighted.value == pytest.approx(noise / gradient, rel=1e-4)
    low, high = found.weighted.interval
    exact = fieller(noise, gradient, covariance, student_factor(7, 0.95))
    assert (max(low, 0.0), high) == pytest.approx(exact, rel=1e-3)
    assert curvature.noise_scale(squares, jnp.float32(w), curvature.dataset(listed)).weighted is None


def found_for(seeds, sizes, w):
    return [curvature.noise_scale(squares, jnp.float32(w), curvature.dataset(batches(seed, sizes))) for seed in seeds]


def check_unbiased(found, w):
    """And the errors told are at least the spread: a jackknife is never too small on average (Efron and Stein 1981),
    and too large where the square of a gradient is mostly that of its noise."""
    for estimate, exact in (("trace_of_covariance", trace(w)), ("gradient_norm_squared", w @ w)):
        values = np.array([getattr(one, estimate) for one in found])
        assert abs(values.mean() - exact) < 3.5 * values.std() / len(found) ** 0.5, estimate
        told = np.mean([getattr(one, f"{estimate}_error") for one in found])
        assert 0.8 < told / values.std() < 1.7, estimate


def covered(found, w):
    scale = trace(w) / (w @ w)
    return sum(one.interval[0] <= scale <= one.interval[1] for one in found)


@pytest.mark.parametrize("sizes", [[32] * 16, [32] * 15 + [5]], ids=["equal", "ragged"])
def test_a_few_seeds_are_unbiased_and_covered(sizes):
    w = np.full(5, 0.5 / 5**0.5)
    found = found_for(range(40), sizes, w)
    check_unbiased(found, w)
    assert covered(found, w) >= 35


LENGTHS = {"gradient above the noise": 1.0, "of its size": 0.25, "below it": 0.08}


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[32] * 16, [32] * 15 + [5], [8] * 6], ids=["equal", "ragged", "six small"])
@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS)
def test_intervals_of_95_percent_hold_in_181_of_200_seeds(sizes, length):
    w = np.full(5, length / 5**0.5)
    found = found_for(range(1000, 1200), sizes, w)
    check_unbiased(found, w)
    assert covered(found, w) >= 181


def test_a_gradient_of_zero_has_an_infinite_upper_end():
    found = found_for(range(30), [32] * 8, np.zeros(5))
    assert sum(math.isinf(one.interval[1]) for one in found) >= 27
    negative = [one for one in found if one.gradient_norm_squared <= 0]
    assert negative and all(one.simple == math.inf for one in negative)
    assert all(one.interval[0] >= 0 for one in found)


def test_no_noise_at_all_is_a_scale_of_zero():
    data = curvature.dataset([jnp.ones((4, 2))] * 4)
    found = curvature.noise_scale(lambda w, batch: jnp.mean(batch @ w), jnp.ones(2), data)
    assert found.simple == 0 and found.interval == (0, 0)


def test_downward_curvature_along_the_gradient_has_no_weighted_scale():
    def loss(w, batch):
        return -0.5 * jnp.mean(jnp.sum((w - batch) ** 2, -1))

    data = curvature.dataset(list(jnp.asarray(np.random.default_rng(0).normal(size=(8, 16, 3)), jnp.float32)))
    found = curvature.noise_scale(loss, jnp.full(3, 3.0), data, with_hessian=True)
    assert found.weighted.denominator < 0 and found.weighted.value == math.inf
    assert math.isfinite(found.simple)


def test_one_batch_is_cut_into_pieces():
    (batch,) = batches(2, [330])
    w = jnp.full(5, 0.3)
    found = curvature.noise_scale(squares, w, batch)
    assert (found.batches, found.examples) == (32, 330)
    cuts = np.linspace(0, 330, 33).round().astype(int)
    listed = [(batch[0][a:b], batch[1][a:b]) for a, b in itertools.pairwise(cuts)]
    assert found.simple == pytest.approx(curvature.noise_scale(squares, w, curvature.dataset(listed)).simple, rel=1e-4)


def test_a_part_of_the_parameters_has_a_scale_of_its_own():
    listed = batches(4, [16] * 6)
    params = {"w": jnp.full(5, 0.3), "count": jnp.arange(3)}
    found = curvature.noise_scale(lambda p, batch: squares(p["w"], batch), params, curvature.dataset(listed), where="w")
    assert found.simple == pytest.approx(curvature.noise_scale(squares, params["w"], curvature.dataset(listed)).simple)


def test_low_precision_parameters_are_taken():
    listed = [(x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)) for x, y in batches(4, [64] * 8)]
    w = jnp.full(5, 0.3, jnp.bfloat16)
    found = curvature.noise_scale(squares, w, curvature.dataset(listed))
    exact = curvature.noise_scale(squares, jnp.float32(w), curvature.dataset(jax.tree.map(jnp.float32, listed)))
    assert found.trace_of_covariance == pytest.approx(exact.trace_of_covariance, rel=0.05)


def test_a_wider_confidence_gives_a_wider_interval_and_it_prints_as_a_table():
    data = curvature.dataset(batches(1, [32] * 8))
    low, high = (curvature.noise_scale(squares, jnp.ones(5), data, confidence=c).interval for c in (0.5, 0.99))
    assert high[0] < low[0] < low[1] < high[1]
    lines = str(curvature.noise_scale(squares, jnp.ones(5), data, with_hessian=True)).splitlines()
    assert lines[0].split() == ["examples", "from", "to"]
    assert [line.split("  ")[0] for line in lines if line] == [
        "",
        "tr(S) / |G|^2",
        "tr(H S) / G'HG",
        "",
        "|G|^2",
        "tr(S)",
        "G'HG",
        "tr(H S)",
        lines[-1],
    ]
    assert "8 batches of 256 examples" in lines[-1]


WRONG = {
    "two batches": (lambda: curvature.dataset(batches(0, [8, 8])), errors.BatchError, "at least 3 batches"),
    "one example": (lambda: batches(0, [1])[0], errors.BatchError, "falls into examples"),
    "no examples": (lambda: (jnp.ones((8, 5)), jnp.ones(())), errors.BatchError, "no common leading axis"),
    "NaN": (
        lambda: curvature.dataset([(jnp.full((4, 5), jnp.nan), jnp.ones(4))] * 3),
        errors.ArgumentRangeError,
        "finite",
    ),
}


@pytest.mark.parametrize(("make", "error", "says"), WRONG.values(), ids=WRONG)
def test_data_that_do_not_tell_are_refused(make, error, says):
    with pytest.raises(error, match=says):
        curvature.noise_scale(squares, jnp.ones(5), make())


def test_a_loss_that_is_no_mean_over_examples_is_not_cut():
    with pytest.raises(errors.BatchError, match="no mean over the leading axis"):
        curvature.noise_scale(lambda w, batch: jnp.sum((batch @ w - 1) ** 2), jnp.ones(5), batches(0, [64])[0][0])
