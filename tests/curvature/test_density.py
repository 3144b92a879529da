"""Claims about spectra: shares and their intervals, brackets, density, blocks."""

import re

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec
from scipy import stats

from gradtx import curvature
from gradtx.curvature import intervals, vectors
from gradtx.curvature.lanczos import krylov_steps
from gradtx.curvature.quadrature import Bracket
from gradtx.curvature.shares import bracket_below, probe_of, sign_shares
from tests.curvature import spectra_cases as cases

mpl.use("Agg")
KEY = jax.random.key(0)


def true_shares(exact, threshold):
    return np.mean(exact < -threshold), np.mean(np.abs(exact) <= threshold), np.mean(exact > threshold)


def counts_held(name, seeds, **options):
    operator, exact = cases.case(name)
    held, widths = np.zeros(3, int), []
    for seed in range(seeds):
        found = curvature.spectrum(operator, key=jax.random.key(seed), **options)
        truth = true_shares(exact, found.threshold)
        assert np.min(np.abs(np.abs(exact) - found.threshold)) > 2 * found.noise  # else no one knows
        held += [low <= share <= high for (low, high), share in zip(found.share_intervals, truth, strict=True)]
        widths.append([high - low for low, high in found.share_intervals])
        assert sum(found.shares) == pytest.approx(1)
    return held, np.median(widths, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize(("probes", "products"), [(1, 12), (3, 20), (8, 5)])
@pytest.mark.parametrize("name", cases.NAMES)
def test_intervals_of_the_shares_hold_in_200_seeds(name, probes, products):
    held, _ = counts_held(name, 200, probes=probes, products=products)
    assert np.all(held >= 181)


@pytest.mark.parametrize("name", cases.NAMES)
def test_intervals_of_the_shares_hold(name):
    held, _ = counts_held(name, 20, probes=2, products=12)
    assert np.all(held >= 17)


def test_intervals_are_as_narrow_as_chance_allows_where_the_brackets_close():
    """Two clusters: runs close after two products, and the width is that of the distribution alone, ``4 sd``."""
    values = np.r_[-np.ones(30), np.ones(70)]
    operator = cases.operator_of(cases.rotated(values)[0])
    found = [curvature.spectrum(operator, key=jax.random.key(seed), probes=4) for seed in range(20)]
    width = np.mean([one.share_intervals[0][1] - one.share_intervals[0][0] for one in found])
    assert width == pytest.approx(4 * np.sqrt(2 * 0.3 * 0.7 / (4 * 100 + 2)), rel=0.15)
    spread = np.std([one.shares[0] for one in found])
    assert spread == pytest.approx(np.sqrt(2 * 0.3 * 0.7 / (4 * 100 + 2)), rel=0.5)
    assert all(one.products <= 12 for one in found)


def test_an_exact_mass_is_in_the_bracket_of_every_probe():
    operator, exact = cases.case("bulk and outliers")
    _, columns = np.linalg.eigh(cases.rotated(cases.eigenvalues("bulk and outliers"))[0].astype(np.float64))
    for products in (2, 5, 15):
        found = curvature.spectrum(operator, key=KEY, probes=5, products=products)
        starts = [vectors.random(jax.random.fold_in(KEY, index), (jnp.zeros(cases.SIZE),))[0] for index in range(5)]
        squares = (columns.T @ np.asarray(starts, np.float64).T) ** 2
        np.testing.assert_allclose([one.weight for one in found.probes], squares.sum(0) / squares.sum(), rtol=1e-5)
        for index, probe in enumerate(found.probes):
            assert probe.masses.sum() == pytest.approx(1) and len(probe.values) <= products
            for cut in (-9.0, -0.05, -0.01, 0.0, 0.01, 0.1, 3.5, 10.0, 30.0):
                mass = squares[exact < cut, index].sum() / squares[:, index].sum()
                low, high = bracket_below([probe._replace(weight=1.0)], cut, found.noise)
                assert low - 1e-6 <= mass <= high + 1e-6


def test_a_share_has_the_beta_distribution_that_its_interval_inverts():
    """The weights ``|g|^2`` make it exact: a plain mean of unit vectors has none with a name."""
    rng = np.random.default_rng(0)
    squares = rng.normal(size=(20000, 3, 12)) ** 2
    shares = squares[:, :, :4].sum((1, 2)) / squares.sum((1, 2))
    assert stats.kstest(shares, stats.beta(3 * 4 / 2, 3 * 8 / 2).cdf).pvalue > 0.01
    low, high = intervals.share_interval(Bracket(0.4, 0.4), 1000, 3, 0.95)
    first, last = round(1000 * low), round(1000 * high)
    above = [stats.beta.sf(0.4, 1.5 * count, 1.5 * (1000 - count)) for count in (first - 1, first)]
    below = [stats.beta.cdf(0.4, 1.5 * count, 1.5 * (1000 - count)) for count in (last + 1, last)]
    assert above[0] < 0.025 <= above[1] and below[0] < 0.025 <= below[1]
    assert intervals.share_interval(Bracket(0.0, 0.0), 50, 3, 0.95) == (0.0, 0.0)
    assert intervals.share_interval(Bracket(1.0, 1.0), 50, 3, 0.95) == (1.0, 1.0)
    assert intervals.share_interval(Bracket(0.0, 1.0), 50, 3, 0.95) == (0.0, 1.0)
    wide = intervals.share_interval(Bracket(0.2, 0.2), 10**12, 8, 0.95)
    assert wide.low < 0.2 < wide.high and wide.high - wide.low < 2e-6


def test_more_confidence_is_a_wider_interval():
    operator, _ = cases.case("orthogonal ensemble")
    widths = []
    for confidence in (0.5, 0.95, 0.999):
        low, high = curvature.spectrum(operator, key=KEY, products=20, confidence=confidence).share_intervals[0]
        widths.append(high - low)
    assert widths == sorted(widths) and widths[0] < 0.5 * widths[2]


def test_the_whole_space_is_counted():
    values = np.r_[np.full(10, -2.0), np.zeros(20), np.full(5, 1.0), 3.0, 4.0]
    operator = cases.operator_of(cases.rotated(values)[0])
    found = curvature.spectrum(operator, key=KEY, products=37, threshold=0.5)
    assert found.products == 37 and len(found.probes) == 1
    np.testing.assert_allclose(found.probes[0].values, values, atol=1e-5)
    assert found.shares == pytest.approx((10 / 37, 20 / 37, 7 / 37))
    assert found.share_intervals == tuple((n / 37, n / 37) for n in (10, 20, 7))


def test_without_a_threshold_the_sign_of_zeros_is_not_known_and_with_one_it_is():
    """The strict share of positive eigenvalues, on a bulk of zeros: the interval says that it means nothing."""
    values = np.r_[np.zeros(45), np.ones(15)]
    found = curvature.spectrum(cases.operator_of(cases.rotated(values)[0]), key=KEY, products=60, threshold=0.0)
    assert found.share_intervals[2] == (0.25, 1.0)
    assert found.share_intervals[0] == (0.0, 0.75)
    again = curvature.at_threshold(found, 0.1)
    assert again.shares == pytest.approx((0, 0.75, 0.25)) and again.share_intervals[2] == (0.25, 0.25)
    assert again.threshold == 0.1 and again.products == found.products


def test_the_default_threshold_is_a_thousandth_of_the_largest_value_and_can_be_changed_for_nothing():
    operator, _ = cases.case("all negative")
    found = curvature.spectrum(operator, key=KEY, probes=3, products=10)
    largest = max(np.max(np.abs(probe.values)) for probe in found.probes)
    assert found.threshold == pytest.approx(1e-3 * largest)
    before = operator.products
    again = curvature.at_threshold(found, 0.7)
    assert operator.products == before
    assert again.shares == curvature.spectrum(operator, key=KEY, probes=3, products=10, threshold=0.7).shares


def test_classify_has_the_interval_of_a_single_probe():
    operator, _ = cases.case("orthogonal ensemble")
    matrix = jnp.asarray(cases.rotated(cases.eigenvalues("orthogonal ensemble"))[0])
    report = curvature.classify(cases.form, jnp.zeros(cases.SIZE), matrix, key=KEY, max_products=24, threshold=0.4)
    start_key, _ = jax.random.split(KEY)
    for found in krylov_steps(operator, vectors.random(start_key, operator.point.chosen), start_key):
        if len(found.diagonal) == len(report.spectrum[0]):
            break
    probe = probe_of(found, cases.SIZE)
    shares, bounds = sign_shares([probe], cases.SIZE, report.threshold, report.noise, 0.95)
    assert (shares, bounds) == (report.shares, report.share_intervals)
    mass = bracket_below([probe], -0.4, report.noise)
    low, high = (mass.low - 1e-6, mass.high + 1e-6)
    assert bounds[0] == intervals.share_interval(Bracket(low, high), cases.SIZE, 1, 0.95)


# Density


@pytest.mark.parametrize("name", cases.NAMES)
@pytest.mark.parametrize("products", [10, cases.SIZE])
def test_the_density_integrates_to_one_and_its_moments_are_those_of_the_probes(name, products):
    operator, exact = cases.case(name)
    found = curvature.spectrum(operator, key=KEY, probes=4, products=products)
    reach = np.ptp(exact)
    points = np.linspace(exact.min() - reach, exact.max() + reach, 6001)
    for width in (None, 0.05 * reach):
        curve = curvature.density(found, points, width)
        first, second = (np.trapezoid(points**k * curve, points) for k in (1, 2))
        smoothing = (reach / 100 if width is None else width) ** 2
        assert np.trapezoid(curve, points) == pytest.approx(1, abs=1e-6)
        assert curve.min() >= 0
        if products == cases.SIZE:
            assert first == pytest.approx(exact.mean(), abs=1e-5 * reach)
            assert second == pytest.approx(np.mean(exact**2) + smoothing, rel=1e-3)
            continue
        starts = [vectors.random(jax.random.fold_in(KEY, index), (jnp.zeros(cases.SIZE),))[0] for index in range(4)]
        g = np.asarray(starts, np.float64).T
        image = cases.rotated(cases.eigenvalues(name))[0].astype(np.float64) @ g
        assert first == pytest.approx(np.sum(g * image) / np.sum(g**2), abs=1e-5 * reach)
        assert second == pytest.approx(np.sum(image**2) / np.sum(g**2) + smoothing, rel=1e-2)


def test_moments_of_many_probes_are_trace_and_squared_norm_of_the_matrix():
    """Their variances over the probes are ``2 var(lambda) / (P n + 2)`` and ``2 var(lambda^2) / (P n + 2)``."""
    operator, exact = cases.case("slow decay")
    found = curvature.spectrum(operator, key=KEY, probes=60, products=6)
    for power in (1, 2):
        moment = sum(probe.weight * np.sum(probe.masses * probe.values**power) for probe in found.probes)
        deviation = np.sqrt(2 * np.var(exact**power) / (60 * cases.SIZE + 2))
        assert abs(moment - np.mean(exact**power)) < 3 * deviation


def test_the_density_has_the_shape_of_its_points_and_a_width_for_equal_eigenvalues():
    operator = curvature.hessian(lambda w, batch: 1.5 * jnp.sum(w**2), jnp.zeros(400))
    found = curvature.spectrum(operator, key=KEY)
    assert found.products == 8 and found.shares == (0.0, 0.0, 1.0)
    curve = curvature.density(found, np.linspace(2.0, 4.0, 40).reshape(8, 5))
    assert curve.shape == (8, 5) and np.isfinite(curve).all()
    assert curvature.density(found, 3.0) == pytest.approx(1 / (0.03 * np.sqrt(2 * np.pi)), rel=1e-3)
    zero = curvature.spectrum(curvature.hessian(lambda w, batch: jnp.sum(w), jnp.zeros(400)), key=KEY)
    assert zero.shares == (0.0, 1.0, 0.0) and np.isfinite(curvature.density(zero, [0.0, 1.0])).all()


def test_the_cumulative_count_goes_from_none_to_all_and_holds_the_truth():
    operator, exact = cases.case("orthogonal ensemble")
    found = curvature.spectrum(operator, key=KEY, probes=4, products=20)
    points = np.linspace(exact[0] - 0.1, exact[-1] + 0.1, 12).reshape(3, 4)
    below, low, high = curvature.cumulative(found, points)
    truth = np.sum(exact < points[..., None], -1)
    assert below.shape == (3, 4) and below[0, 0] == 0 and below[-1, -1] == cases.SIZE
    assert np.all(np.diff(below.ravel()) >= 0)
    assert np.all(low <= truth) and np.all(truth <= high)
    counted = curvature.spectrum(operator, key=KEY, products=cases.SIZE)
    np.testing.assert_allclose(curvature.cumulative(counted, points).below, truth, atol=1e-9)


# Blocks


def network(params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return jnp.mean((hidden @ params["out"]["kernel"] * params["scale"] - y) ** 2)


def network_case():
    keys = jax.random.split(KEY, 4)
    params = {
        "hidden": {"kernel": jax.random.normal(keys[0], (3, 4)), "bias": jnp.full(4, 0.1)},
        "out": {"kernel": jax.random.normal(keys[1], (4, 2))},
        "scale": jnp.float32(0.7),
        "step": jnp.int32(3),
    }
    return params, (jax.random.normal(keys[2], (20, 3)), jax.random.normal(keys[3], (20, 2)))


def dense_block(params, batch, names):
    block = {name: params[name] for name in names}
    flat, back = ravel_pytree(block)
    hessian = jax.jit(jax.hessian(lambda w: network({**params, **back(w)}, batch)))(flat)
    return np.linalg.eigvalsh(np.asarray(hessian, np.float64))


def test_blocks_have_the_eigenvalues_of_the_diagonal_blocks_of_the_hessian():
    params, batch = network_case()
    found = curvature.block_spectra(network, params, batch, key=KEY)
    assert list(found) == ["hidden", "out", "scale"]
    for name, one in found.items():
        exact = dense_block(params, batch, [name])
        np.testing.assert_allclose(one.probes[0].values, exact, atol=3e-6 * np.abs(exact).max())
        assert one.shares == pytest.approx(true_shares(exact, one.threshold)) and one.dimension == len(exact)


def test_blocks_can_be_given_as_globs_and_take_the_options_of_spectrum():
    params, batch = network_case()
    found = curvature.block_spectra(
        network, params, batch, key=KEY, blocks=["*kernel", "hidden/bias"], probes=2, products=5, threshold=0.3
    )
    assert [(name, one.dimension, len(one.probes)) for name, one in found.items()] == [
        ("*kernel", 20, 2), ("hidden/bias", 4, 1),
    ]  # fmt: skip
    assert all(one.threshold == 0.3 for one in found.values())
    layers = [(jnp.ones(2), jnp.ones(1)), (jnp.ones(3),)]
    listed = curvature.block_spectra(lambda p, _: sum(jnp.sum(w**2) for one in p for w in one), layers, key=KEY)
    assert {name: one.dimension for name, one in listed.items()} == {"0": 3, "1": 3}
    assert list(curvature.block_spectra(lambda w, _: jnp.sum(w**2), jnp.ones(3), key=KEY)) == [""]


@pytest.mark.parametrize(
    ("blocks", "said"),
    [("hidden/*", "list of globs"), ([1], "list of globs"), (["nothing"], "matches some leaf"), (3, "list of globs"),
     (["step"], "int32.*at 'step'")],
)  # fmt: skip
def test_bad_blocks_are_refused(blocks, said):
    params, batch = network_case()
    with pytest.raises((TypeError, ValueError), match=said):
        curvature.block_spectra(network, params, batch, key=KEY, blocks=blocks)


# Form


def test_one_basis_is_held_at_a_time():
    operator, _ = cases.case("orthogonal ensemble")
    most = 0

    def counted(vector):
        nonlocal most
        most = max(most, sum(one.shape == (cases.SIZE,) for one in jax.live_arrays()))
        return operator.apply(vector)

    before = sum(one.shape == (cases.SIZE,) for one in jax.live_arrays())
    curvature.spectrum(operator._replace(apply=counted), key=KEY, probes=5, products=20)
    assert 20 <= most - before <= 24


def test_a_mesh_gives_what_one_device_gives():
    matrix, _ = cases.rotated(np.random.default_rng(4).normal(size=64))
    mesh = jax.make_mesh((4,), ("d",), devices=jax.devices()[:4])
    spread = jax.device_put(jnp.zeros(64), NamedSharding(mesh, PartitionSpec("d")))
    whole = jax.device_put(jnp.asarray(matrix), NamedSharding(mesh, PartitionSpec()))
    one, other = (
        curvature.spectrum(operator, key=KEY, probes=2, products=12)
        for operator in (cases.operator_of(matrix), curvature.hessian(cases.form, spread, whole))
    )
    np.testing.assert_allclose(other.shares, one.shares, atol=1e-4)
    np.testing.assert_allclose(other.share_intervals, one.share_intervals, atol=0.04)
    np.testing.assert_allclose(other.probes[1].values, one.probes[1].values, atol=1e-4)


def test_a_spectrum_prints_as_a_table():
    operator, _ = cases.case("all positive")
    lines = str(curvature.spectrum(operator, key=KEY, probes=2, products=12, threshold=0.1)).splitlines()
    assert lines[0].split() == ["eigenvalues", "share", "from", "to", "at", "0.95"]
    assert lines[1].split() == ["below", "-0.1", "0.00%", "0.00%", "0.00%", "0", "of", "80"]
    assert lines[3].split()[:2] == ["above", "0.1"] and lines[3].endswith("80 of 80")
    assert re.fullmatch(r"Ritz values from 1\.\d+ to [12]\.?\d*; 2 probes, 24 products", lines[4])


def test_the_picture_marks_the_threshold_and_names_the_shares():
    operator, _ = cases.case("zeros among both signs")
    found = curvature.spectrum(operator, key=KEY, threshold=0.05)
    axes = curvature.plot_spectrum(found)
    assert axes.get_yscale() == "log"
    dashed = [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert dashed == [-0.05, 0.05]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert [name.split(":")[0] for name in names] == ["negative", "near zero", "positive", "a single eigenvalue"]
    assert curvature.plot_spectrum(found, axes=axes) is axes
    mpl.pyplot.close(axes.figure)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(key=3), "one random key"),
        (dict(probes=0), "at least 1"),
        (dict(products=0), "at least 1"),
        (dict(products=2.5), "whole number"),
        (dict(threshold=-1.0), "threshold"),
        (dict(confidence=1.5), "confidence"),
        (dict(probe=3), "did you mean 'probes'"),
    ],
)
def test_bad_arguments_are_refused(arguments, said):
    operator, _ = cases.case("slow decay")
    with pytest.raises((TypeError, ValueError), match=said) as caught:
        curvature.spectrum(operator, **{"key": KEY, **arguments})
    assert caught.value.code


def test_what_is_no_operator_and_what_is_no_spectrum_is_told_apart():
    operator, _ = cases.case("slow decay")
    with pytest.raises(TypeError, match=r"curvature\.hessian\(loss, params, batch\)"):
        curvature.spectrum(cases.form, key=KEY)
    for use in (lambda one: curvature.density(one, [0.0]), lambda one: curvature.cumulative(one, [0.0]),
                lambda one: curvature.at_threshold(one, 0.1), curvature.plot_spectrum):  # fmt: skip
        with pytest.raises(TypeError, match=r"curvature\.spectrum\(operator, key=key\)"):
            use(operator)


def test_nan_at_the_point_names_the_leaf_and_infinite_points_are_refused():
    operator = curvature.hessian(lambda p, batch: jnp.sum(jnp.sqrt(p["b"])), {"b": jnp.zeros(60)})
    with pytest.raises(ValueError, match="NaN or infinity at 'b'"):
        curvature.spectrum(operator, key=KEY)
    found = curvature.spectrum(cases.case("slow decay")[0], key=KEY, probes=1, products=3)
    for function in (curvature.density, curvature.cumulative):
        for points, said in (([0.0, np.nan], "finite points"), (["a"], "an array of real numbers"), ([1j], "real")):
            with pytest.raises((TypeError, ValueError), match=said):
                function(found, points)


def test_float64_parameters_and_low_precision_ones_are_taken():
    matrix, exact = cases.rotated(np.linspace(-1.0, 2.0, 30))
    with jax.enable_x64(True):
        operator = curvature.hessian(cases.form, jnp.zeros(30), jnp.asarray(matrix, jnp.float64))
        found = curvature.spectrum(operator, key=KEY)
        np.testing.assert_allclose(found.probes[0].values, exact, atol=1e-12)
        assert found.noise < 1e-12
    assert not jax.config.jax_enable_x64
    coarse = curvature.hessian(cases.form, jnp.zeros(30, jnp.bfloat16), jnp.asarray(matrix, jnp.bfloat16))
    found = curvature.spectrum(coarse, key=KEY, products=30, threshold=0.3)
    assert found.noise > 1e-3
    for (low, high), share in zip(found.share_intervals, true_shares(exact, 0.3), strict=True):
        assert low <= share <= high
