"""Claims about extreme eigenvalues, the bounds on them, and the mass below a threshold."""

import gc
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gradtx import curvature
from gradtx.curvature import vectors as basis_vectors
from gradtx.curvature.extremes import kuczynski_wozniakowski
from gradtx.curvature.lanczos import krylov_steps, short_steps
from gradtx.curvature.quadrature import mass_below
from tests.curvature import points

KEY = jax.random.key(0)


def form(w, matrix):
    return 0.5 * w @ (matrix @ w)


def symmetric(seed, values):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(len(values),) * 2))[0]
    return jnp.asarray(basis @ np.diag(values) @ basis.T, jnp.float32)


def matrix_of(seed, values):
    return curvature.hessian(form, jnp.zeros(len(values)), symmetric(seed, values))


@pytest.mark.parametrize("size", [0.0, 1.2e-38, 1e-25, 1.0, 1e25, 1e38])
def test_a_norm_neither_overflows_nor_vanishes(size):
    entries = jnp.array([2.0, -1.0, 2.0]) * jnp.float32(size)
    assert basis_vectors.norm((entries, entries[:0])) == pytest.approx(3 * size, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_both_ends_of_one_run_are_right(seed):
    values = np.sort(np.random.default_rng(seed).normal(size=80))
    found = curvature.extreme_eigenvalues(matrix_of(seed, values), key=jax.random.key(seed))
    np.testing.assert_allclose([found.smallest.value, found.largest.value], values[[0, -1]], rtol=2e-6)
    assert found.smallest.bound <= values[0] + 1e-6 and found.largest.bound >= values[-1] - 1e-6
    for end in (found.smallest, found.largest):
        assert np.min(np.abs(values - end.value)) <= end.residual + 2e-6
        assert np.linalg.norm(end.direction) == pytest.approx(1, abs=1e-6)


def test_equal_eigenvalues_close_the_subspace_and_the_run_goes_on():
    found = curvature.extreme_eigenvalues(matrix_of(0, np.repeat([-1.0, 2.0], 50)), key=KEY)
    assert found.complete and found.products < 12
    np.testing.assert_allclose([found.smallest.value, found.largest.value], [-1, 2], rtol=1e-6)


def test_the_whole_space_gives_every_eigenvalue_once():
    values = np.array([-2.0, -2.0, -2.0, 0.0, 0.0, 1.0, 3.0, 3.0])
    *_, found = krylov_steps(matrix_of(1, values), (jax.random.normal(KEY, (8,)),), KEY)
    t = np.diag(found.diagonal) + np.diag(found.off_diagonal[:-1], 1) + np.diag(found.off_diagonal[:-1], -1)
    np.testing.assert_allclose(np.linalg.eigvalsh(t), values, atol=3e-6)
    basis = np.stack([v[0] for v in found.basis])
    np.testing.assert_allclose(basis @ basis.T, np.eye(8), atol=1e-6)


def test_the_basis_stays_orthogonal_long_after_convergence():
    values = np.concatenate([[100.0, -50.0], np.linspace(-1, 1, 118)])
    for found in krylov_steps(matrix_of(2, values), (jax.random.normal(KEY, (120,)),), KEY):
        if len(found.diagonal) == 90:
            break
    basis = np.stack([v[0] for v in found.basis]).astype(np.float64)
    assert np.max(np.abs(basis @ basis.T - np.eye(90))) < 1e-6


RESTARTED, TWICE = dict(max_vectors=12), dict(two_pass=True)
LARGE = np.concatenate([[-3.0, -2.9], np.linspace(-1, 1, 1197), [4.9, 5.0]])


@pytest.mark.parametrize("memory", [RESTARTED, TWICE], ids=["restarted", "two passes"])
def test_short_of_memory_both_ends_are_as_right(memory):
    values = [*LARGE[::4], 5.0]
    matrix = matrix_of(4, values)
    found = curvature.extreme_eigenvalues(matrix, key=KEY, max_products=200, **memory)
    np.testing.assert_allclose([found.smallest.value, found.largest.value], [-3, 5], rtol=2e-6)
    assert found.products <= 200 and found.smallest.residual < 1e-2
    assert found.smallest.bound <= -3 and found.largest.bound >= 5
    report = curvature.classify(form, jnp.zeros(len(values)), symmetric(4, values), key=KEY, **memory)
    assert report.verdict == "strict saddle" and report.lambda_min == pytest.approx(-3, rel=1e-5)
    assert sum(report.shares) == pytest.approx(1) and report.products <= 100


@pytest.mark.parametrize(("memory", "vectors"), [(dict(max_vectors=7), 7), (RESTARTED, 12), (dict(max_vectors=30), 30),
                                                 (TWICE, 7)], ids=str)  # fmt: skip
def test_no_more_vectors_are_held_than_said(memory, vectors, monkeypatch):
    """Beside the parameters, the batch, the start vector and the derivatives that the operator holds."""
    gc.collect()
    size, most = 3001, 0
    batch = jnp.linspace(-1, 1, size) ** 3

    def held():
        return sum(array.shape == (size,) for array in jax.live_arrays())

    matrix = curvature.hessian(lambda w, d: 0.5 * jnp.sum(d * w**2), jnp.zeros(size), batch)
    before = held() + 2

    def counted(function):
        def then_counted(*arguments):
            nonlocal most
            result = function(*arguments)
            most = max(most, held() - before)
            return result

        return then_counted

    for name in ("_combine", "_project_out"):
        monkeypatch.setattr(basis_vectors, name, counted(getattr(basis_vectors, name)))
    matrix = matrix._replace(apply=counted(matrix.apply))
    found = curvature.extreme_eigenvalues(matrix, key=KEY, max_products=80, tolerance=1e-12, **memory)
    assert found.products >= 79
    assert most == vectors


def test_a_restarted_basis_is_orthonormal_and_its_small_matrix_is_that_of_the_large_one():
    large = symmetric(5, LARGE[::10])
    matrix = curvature.hessian(form, jnp.zeros(len(large)), large)
    for found in krylov_steps(matrix, (jax.random.normal(KEY, (len(large),)),), KEY, 14):
        basis = np.stack([v[0] for v in found.basis]).astype(np.float64)
        np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=2e-6)
        np.testing.assert_allclose(basis @ np.float64(large) @ basis.T, found.projected, atol=1e-5)
        if found.products == 40:
            break
    assert len(found.diagonal) == 9


def test_without_a_stored_basis_the_small_matrix_is_the_same_until_an_end_has_converged():
    matrix, start = matrix_of(6, np.linspace(-1, 1, 151)), (jax.random.normal(KEY, (151,)),)
    *_, (short, full, _) = zip(short_steps(matrix, start), krylov_steps(matrix, start, KEY), range(12), strict=False)
    assert len(short.basis) == 2 and len(full.basis) > 10
    np.testing.assert_allclose(short.diagonal, full.diagonal, atol=1e-5)
    np.testing.assert_allclose(short.off_diagonal, full.off_diagonal, atol=1e-5)


@pytest.mark.parametrize(
    ("memory", "said"),
    [(dict(max_vectors=6), "at least 7"), (dict(max_vectors=0), "at least 1"),
     (dict(max_vectors=9, two_pass=True), "either"), (dict(two_pass=True, max_products=3), "at least 4")],
    ids=str,
)  # fmt: skip
def test_memory_that_cannot_do_is_refused(memory, said):
    with pytest.raises((TypeError, ValueError), match=said):
        curvature.extreme_eigenvalues(matrix_of(0, np.arange(1.0, 30.0)), key=KEY, **memory)


def test_the_probable_bound_is_rarely_wrong_and_not_empty():
    """At delta = 0.2 it may be wrong in a fifth of the runs; the theorem is far from tight."""
    values = np.sort(np.concatenate([[-1.0], np.linspace(0, 1, 199)]))
    matrix = matrix_of(3, values)
    wrong = 0
    for seed in range(20):
        found = curvature.extreme_eigenvalues(
            matrix, key=jax.random.key(seed), max_products=30, tolerance=0.0, delta=0.2
        )
        wrong += found.smallest.bound > values[0] + 1e-6 or found.largest.bound < values[-1] - 1e-6
        assert found.smallest.bound > -1.6
    assert wrong <= 4


def test_the_bound_is_the_published_formula():
    n, k, delta = 1000, 25, 1e-2
    share = kuczynski_wozniakowski(n, k, delta)
    assert 1.648 * np.sqrt(n) * np.exp(-np.sqrt(share) * (2 * k - 1)) == pytest.approx(delta)
    assert kuczynski_wozniakowski(n, k, 0.0) == np.inf


@pytest.mark.parametrize("products", [4, 8, 16, 40])
def test_the_mass_below_a_threshold_is_bracketed(products):
    values = np.sort(np.random.default_rng(5).normal(size=60))
    matrix = symmetric(5, values)
    start = jax.random.normal(jax.random.key(products), (60,))
    for found in krylov_steps(curvature.hessian(form, jnp.zeros(60), matrix), (start,), KEY):
        if len(found.diagonal) == products:
            break
    exact_values, columns = np.linalg.eigh(np.asarray(matrix, np.float64))
    mass = (columns.T @ np.asarray(start, np.float64)) ** 2
    mass /= mass.sum()
    for threshold in (-1.5, -0.3, 0.0, 0.2, 2.0, 9.0):
        low, high = mass_below(found.diagonal, found.off_diagonal, threshold)
        exact = mass[exact_values < threshold].sum()
        assert low - 1e-5 <= exact <= high + 1e-5
    assert high - low < 1e-6  # above all eigenvalues, everything is below


def network(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["first"])
    return 0.5 * jnp.mean(jnp.sum((hidden @ params["second"] - batch["y"]) ** 2, -1))


def network_case(count=64):
    keys = jax.random.split(KEY, 4)
    params = {"first": jax.random.normal(keys[0], (8, 16)), "second": jax.random.normal(keys[1], (16, 8))}
    return params, {"x": jax.random.normal(keys[2], (count, 8)), "y": jax.random.normal(keys[3], (count, 8))}


def test_sharded_parameters_and_batch_give_the_same_and_the_basis_stays_sharded():
    params, batch = network_case()
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("d",))

    def by(*axes):
        return NamedSharding(mesh, PartitionSpec(*axes))

    sharded = jax.device_put(params, {"first": by(None, "d"), "second": by("d", None)})
    parts = jax.device_put(batch, by("d"))
    single = curvature.classify(network, params, batch, key=KEY, max_products=24)
    several = curvature.classify(network, sharded, parts, key=KEY, max_products=24)
    size = single.lambda_max
    assert several.verdict == single.verdict
    assert abs(several.lambda_min - single.lambda_min) <= 1e-6 * size
    assert abs(several.lambda_max - single.lambda_max) <= 1e-6 * size
    assert several.gradient_norm == pytest.approx(single.gradient_norm, rel=1e-6)
    for name in params:
        assert several.direction[name].sharding.is_equivalent_to(sharded[name].sharding, 2)
    matrix = curvature.hessian(network, sharded, parts)
    start = tuple(jax.tree.leaves(jax.tree.map(jnp.ones_like, sharded)))
    for found in krylov_steps(matrix, start, KEY):
        if len(found.diagonal) == 3:
            break
    for vector in found.basis:
        for leaf, like in zip(vector, jax.tree.leaves(sharded), strict=True):
            assert leaf.sharding.is_equivalent_to(like.sharding, 2)


@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
@pytest.mark.parametrize("split", ["batch", "params"])
def test_meshes_of_either_kind_give_the_same(axis_type, split):
    params, batch = network_case()
    kind = getattr(jax.sharding.AxisType, axis_type)
    mesh = jax.make_mesh((4,), ("d",), axis_types=(kind,), devices=jax.devices()[:4])
    single = curvature.classify(network, params, batch, key=KEY, max_products=16)
    everywhere, rows, columns = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("d",), (None, "d")))
    if split == "batch":
        params, batch = jax.device_put(params, everywhere), jax.device_put(batch, rows)
    else:
        params = jax.device_put(params, {"first": rows, "second": columns})
        batch = jax.device_put(batch, everywhere)
    several = curvature.classify(network, params, batch, key=KEY, max_products=16)
    for name in ("lambda_min", "lambda_max"):
        assert abs(getattr(several, name) - getattr(single, name)) <= 1e-6 * single.lambda_max
    _, info = curvature.escape(network, params, several, batch)
    assert info.loss_after < info.loss_before


def test_a_ragged_list_of_batches_gives_what_one_batch_gives():
    params, batch = network_case(50)
    data = curvature.dataset([jax.tree.map(operator.itemgetter(slice(a, a + 16)), batch) for a in range(0, 50, 16)])
    one = curvature.classify(network, params, batch, key=KEY, max_products=24)
    listed = curvature.classify(network, params, data, key=KEY, max_products=24)
    assert listed.loss == pytest.approx(one.loss, rel=1e-6)
    assert listed.lambda_min == pytest.approx(one.lambda_min, rel=1e-5)
    assert listed.lambda_max == pytest.approx(one.lambda_max, rel=1e-5)
    assert listed.gradient_error == pytest.approx(one.gradient_error, rel=0.9)


def test_the_products_are_counted_and_the_budget_is_kept():
    params, batch = network_case()
    traced = []

    def counted(p, b):
        traced.append(1)
        return network(p, b)

    for budget in (5, 10, 30):
        report = curvature.classify(counted, params, batch, key=KEY, max_products=budget)
        assert report.products <= budget
    before = len(traced)
    curvature.classify(counted, params, batch, key=jax.random.key(1), max_products=30)
    assert len(traced) == before


def test_nan_at_the_point_names_the_leaf():
    params = {"a": jnp.ones(2), "b": jnp.zeros(2)}
    with pytest.raises(ValueError, match="NaN or infinity at 'b'"):
        curvature.classify(lambda p, b: jnp.sum(p["a"]) + jnp.sum(jnp.sqrt(p["b"])), params, None, key=KEY)
    with pytest.raises(ValueError, match=r"second derivatives.*NaN or infinity"):
        curvature.extreme_eigenvalues(curvature.hessian(lambda w, b: jnp.sum(jnp.abs(w) ** 1.5), jnp.zeros(3)), key=KEY)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(max_products=0), "at least 1"),
        (dict(max_products=2), "at least 5"),
        (dict(max_products=2.5), "whole number"),
        (dict(threshold=-1.0), "threshold"),
        (dict(delta=2.0), "delta"),
        (dict(key=3), "one random key"),
        (dict(where="nothing"), "matches some leaf"),
    ],
)
def test_bad_arguments_are_refused(arguments, said):
    with pytest.raises((TypeError, ValueError), match=said):
        curvature.classify(form, jnp.zeros(2), jnp.eye(2), **{"key": KEY, **arguments})


def test_raw_and_typed_keys_give_the_same():
    matrix = matrix_of(0, np.arange(1.0, 30.0))
    raw = curvature.extreme_eigenvalues(matrix, key=jax.random.PRNGKey(4), max_products=6)
    typed = curvature.extreme_eigenvalues(matrix, key=jax.random.key(4), max_products=6)
    assert raw.smallest.value == typed.smallest.value


def digits_network(params, batch):
    x, y = batch
    logits = jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]
    return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(logits), -1))


def digits_saddle(width):
    """All weights zero, the output bias at the log class frequencies: critical, with a known spectrum."""
    datasets = pytest.importorskip("sklearn.datasets")
    bundle = datasets.load_digits()
    x, y = np.float32(bundle.data / 16), np.eye(10, dtype=np.float32)[bundle.target]
    share = y.astype(np.float64).mean(0)
    params = {"w1": jnp.zeros((64, width)), "b1": jnp.zeros(width), "w2": jnp.zeros((width, 10)),
              "b2": jnp.log(jnp.asarray(share, jnp.float32))}  # fmt: skip
    extended = np.c_[x, np.ones(len(x))].astype(np.float64)
    s = np.linalg.svd(extended.T @ (share - y) / len(x), compute_uv=False)
    output = np.linalg.eigvalsh(np.diag(share) - np.outer(share, share))
    return params, (x, y), -s[0], max(s[0], output[-1])


def check_digits(width, products):
    params, batch, low, high = digits_saddle(width)
    found = curvature.extreme_eigenvalues(
        curvature.hessian(digits_network, params, batch), key=KEY, max_products=products
    )
    assert found.products <= products
    np.testing.assert_allclose([found.smallest.value, found.largest.value], [low, high], rtol=1e-6)
    report = curvature.classify(digits_network, params, batch, key=KEY)
    assert report.verdict == "strict saddle" and report.products <= products
    _, info = curvature.escape(digits_network, params, report, batch)

    def along(t):
        return digits_network(jax.tree.map(lambda w, d: w + t * d, params, report.direction), batch)

    best = float(jnp.min(jax.lax.map(along, jnp.linspace(-20.0, 20.0, 81)))) if width < 1000 else info.loss_after
    assert info.loss_before - info.loss_after >= 0.9 * (info.loss_before - best)
    assert info.loss_before - info.loss_after > 0.3


def test_both_ends_at_the_digits_saddle_in_twenty_products():
    check_digits(64, 20)


@pytest.mark.slow
def test_both_ends_at_a_digits_saddle_of_1_2_million_parameters_in_twenty_products():
    check_digits(16384, 20)


def test_known_spectra_of_small_points_are_within_their_residuals():
    for point in points.points()[5:60:11]:
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), point.params)
        batch = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), point.batch)
        found = curvature.extreme_eigenvalues(curvature.hessian(point.loss, params, batch), key=KEY)
        size = np.max(np.abs(point.eigenvalues))
        for end in (found.smallest, found.largest):
            assert np.min(np.abs(point.eigenvalues - end.value)) <= end.residual + 2e-6 * size
