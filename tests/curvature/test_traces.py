"""Claims about trace and diagonal, their errors and intervals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from scipy import stats

from gradtx import curvature
from gradtx.curvature import intervals, probing
from tests.curvature import spectra_cases as cases

KEY = jax.random.key(0)
METHODS = ("hutchinson", "hutch++")


def traces(operator, seeds, **options):
    return [curvature.trace(operator, key=jax.random.key(seed), **options) for seed in range(seeds)]


def count_held(name, method, seeds, products):
    operator, exact = cases.case(name)
    found = traces(operator, seeds, max_products=products, method=method)
    return sum(one.interval[0] <= exact.sum() <= one.interval[1] for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("products", [12, 30])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", cases.NAMES)
def test_intervals_of_the_trace_hold_in_200_seeds(name, method, products):
    assert count_held(name, method, 200, products) >= 181


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["orthogonal ensemble", "rank one", "bulk and outliers"])
def test_intervals_of_the_trace_hold(name, method):
    assert count_held(name, method, 40, 18) >= 35


def test_errors_are_the_formula_and_intervals_not_wider_than_they_need_be():
    """The variance of a probe is ``2 (|A|^2 - |diag A|^2)`` for signs; without the range of A S it is no larger."""
    matrix, exact = cases.rotated(cases.eigenvalues("orthogonal ensemble"))
    squares = np.sum(matrix.astype(np.float64) ** 2) - np.sum(np.diag(matrix).astype(np.float64) ** 2)
    for method, probes in (("hutchinson", 30), ("hutch++", 12)):
        found = traces(cases.operator_of(matrix), 20, max_products=30, method=method)
        error = np.mean([one.error for one in found])
        formula = np.sqrt(2 * squares / probes)
        assert error < 1.1 * formula and (method == "hutch++" or error > 0.9 * formula)
        assert np.mean([one.interval[1] - one.interval[0] for one in found]) < 5 * error
        assert abs(np.mean([one.value for one in found]) - exact.sum()) < 4 * error / np.sqrt(20)


@pytest.mark.parametrize(("name", "better"), [("fast decay", 100), ("bulk and outliers", 100), ("slow decay", 3)])
def test_hutch_plus_plus_has_a_smaller_mean_squared_error_where_eigenvalues_decay(name, better):
    operator, exact = cases.case(name)
    squared = {
        method: np.mean(
            [(one.value - exact.sum()) ** 2 for one in traces(operator, 25, max_products=30, method=method)]
        )
        for method in METHODS
    }
    assert squared["hutchinson"] > better * squared["hutch++"]


@pytest.mark.parametrize("method", METHODS)
def test_the_trace_is_exact_where_the_products_reach_the_dimension(method):
    matrix, _ = cases.rotated(np.random.default_rng(0).normal(size=30))
    for budget in (30, 100):
        found = curvature.trace(cases.operator_of(matrix), key=KEY, max_products=budget, method=method)
        exact = np.trace(matrix.astype(np.float64))
        assert found.error == 0 and found.products == 30
        assert found.value == pytest.approx(exact, abs=1e-6)
        assert found.interval[0] <= exact <= found.interval[1]
        assert found.interval[1] - found.interval[0] < 1e-5


def test_hutchinson_is_the_mean_over_signs():
    matrix, _ = cases.rotated(np.arange(1.0, 41.0))
    found = curvature.trace(cases.operator_of(matrix), key=KEY, max_products=7, method="hutchinson")
    signs = [probing.rademacher(jax.random.fold_in(KEY, 1 + index), (jnp.zeros(40),))[0] for index in range(7)]
    samples = [np.asarray(z, np.float64) @ matrix @ np.asarray(z, np.float64) for z in signs]
    assert all(set(np.unique(z)) == {-1.0, 1.0} for z in signs)
    assert found.value == pytest.approx(np.mean(samples), rel=1e-6)
    assert found.error == pytest.approx(np.std(samples, ddof=1) / np.sqrt(7), rel=1e-5)


def test_a_low_rank_and_a_multiple_of_the_identity_leave_no_error():
    low_rank, _ = cases.rotated(np.r_[np.zeros(95), 1.0, 2.0, 3.0, -4.0, 5.0])
    found = curvature.trace(cases.operator_of(low_rank), key=KEY, max_products=40)
    assert found.value == pytest.approx(7, abs=1e-5) and found.error < 1e-6
    assert found.interval[0] <= np.trace(low_rank.astype(np.float64)) <= found.interval[1]
    identity = curvature.hessian(lambda w, batch: 1.5 * jnp.sum(w**2), jnp.zeros(5000))
    found = curvature.trace(identity, key=KEY, max_products=10)
    assert found.value == pytest.approx(15000, rel=1e-6) and found.error < 1e-2


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [2, 3, 4, 5, 10, 31])
def test_the_budget_of_products_is_kept_and_used(budget, method):
    operator, _ = cases.case("slow decay")
    found = curvature.trace(operator, key=KEY, max_products=budget, method=method)
    assert found.products == operator.products == budget
    assert np.isfinite([found.value, found.error, *found.interval]).all()
    assert found.interval[0] < found.value < found.interval[1]


def test_a_matrix_of_zeros_has_trace_and_diagonal_zero():
    operator = curvature.hessian(lambda w, batch: jnp.sum(w), jnp.zeros(300))
    for method in METHODS:
        assert curvature.trace(operator, key=KEY, max_products=9, method=method)[:2] == (0.0, 0.0)
    mean, error = curvature.diagonal(operator, key=KEY, max_products=3)
    assert not mean.any() and not error.any()


def test_probes_on_the_sphere_are_orthogonal_to_the_basis_and_as_long_as_they_should_be():
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(50, 4)))[0].T.astype(np.float32)
    like = (jnp.zeros((10, 3)), jnp.zeros(20))
    split = [(jnp.asarray(row[:30].reshape(10, 3)), jnp.asarray(row[30:])) for row in basis]
    second = np.zeros((50, 50))
    for seed in range(400):
        one = probing.on_sphere(jax.random.key(seed), like, split)
        flat = np.concatenate([np.ravel(leaf) for leaf in one]).astype(np.float64)
        assert np.max(np.abs(basis @ flat)) < 1e-5
        assert flat @ flat == pytest.approx(46, rel=1e-5)
        second += np.outer(flat, flat) / 400
    np.testing.assert_allclose(second, np.eye(50) - basis.T @ basis, atol=5 * np.sqrt(2 / 400))


# Diagonal


def test_a_diagonal_matrix_is_exact_from_the_first_probe_on():
    scales = jnp.asarray(np.random.default_rng(0).normal(size=200), jnp.float32)
    operator = curvature.hessian(lambda w, batch: 0.5 * jnp.sum(scales * w**2), jnp.zeros(200))
    once, unknown = curvature.diagonal(operator, key=KEY, max_products=1)
    np.testing.assert_array_equal(once, scales)
    assert np.isnan(unknown).all()
    often, error = curvature.diagonal(operator, key=KEY, max_products=50)
    np.testing.assert_array_equal(often, scales)
    assert not error.any()


def test_the_diagonal_is_that_of_the_matrix_within_its_errors_which_are_the_formula():
    matrix, _ = cases.rotated(np.random.default_rng(5).normal(size=150))
    mean, error = curvature.diagonal(cases.operator_of(matrix), key=KEY, max_products=60)
    away = (np.asarray(mean) - np.diag(matrix)) / np.asarray(error)
    assert 0.8 < np.sqrt(np.mean(away**2)) < 1.25 and np.max(np.abs(away)) < 5
    formula = np.sqrt(np.sum((matrix - np.diag(np.diag(matrix))) ** 2, axis=1) / 60)
    assert np.median(np.asarray(error) / formula) == pytest.approx(1, abs=0.1)


def test_the_diagonal_is_the_mean_over_signs_in_float64():
    matrix, _ = cases.rotated(np.linspace(1.0, 3.0, 60))
    mean, error = curvature.diagonal(cases.operator_of(matrix), key=KEY, max_products=9)
    signs = [probing.rademacher(jax.random.fold_in(KEY, index), (jnp.zeros(60),))[0] for index in range(9)]
    samples = np.array([np.asarray(z, np.float64) * (matrix.astype(np.float64) @ np.asarray(z)) for z in signs])
    np.testing.assert_allclose(mean, samples.mean(0), rtol=2e-6)
    np.testing.assert_allclose(error, samples.std(0, ddof=1) / 3, rtol=1e-5)


def test_the_diagonal_is_exact_where_the_products_reach_the_dimension():
    matrix, _ = cases.rotated(np.random.default_rng(2).normal(size=24))
    operator = curvature.hessian(
        lambda p, m: cases.form(jnp.concatenate([jnp.ravel(p["a"]), p["b"]]), m),
        {"a": jnp.zeros((5, 4)), "b": jnp.zeros(4)}, jnp.asarray(matrix),
    )  # fmt: skip
    mean, error = curvature.diagonal(operator, key=KEY)
    flat = np.concatenate([np.ravel(mean["a"]), mean["b"]])
    np.testing.assert_allclose(flat, np.diag(matrix), rtol=1e-6, atol=1e-7)
    assert operator.products == 24 and not np.any(error["a"]) and not np.any(error["b"])


def test_small_deviations_do_not_cancel_and_large_ones_do_not_overflow():
    matrix = np.eye(200, dtype=np.float32) * 1e4
    matrix[0, 1] = matrix[1, 0] = 1.0
    _, error = curvature.diagonal(cases.operator_of(matrix), key=KEY, max_products=40)
    assert error[0] == pytest.approx(1 / np.sqrt(40), rel=0.05)
    assert not np.any(error[2:])
    large = np.full((200, 200), 1e25, np.float32)
    mean, error = curvature.diagonal(cases.operator_of(large), key=KEY, max_products=5)
    assert np.isfinite(mean).all() and np.isfinite(error).all() and np.max(error) > 1e25


def test_leaves_that_do_not_vary_get_zeros():
    params = {"kernel": jnp.ones((3, 2), jnp.bfloat16), "steps": jnp.arange(3), "bias": jnp.ones(2)}
    operator = curvature.hessian(
        lambda p, batch: jnp.sum(p["kernel"].astype(jnp.float32) ** 2), params, None, where="kernel"
    )
    mean, error = curvature.diagonal(operator, key=KEY)
    assert jax.tree.structure(mean) == jax.tree.structure(params)
    assert mean["kernel"].dtype == jnp.float32 and mean["kernel"].tolist() == [[2.0, 2.0]] * 3
    assert not mean["steps"].any() and not error["bias"].any()


# Both


def test_a_mesh_gives_what_one_device_gives():
    matrix, _ = cases.rotated(np.random.default_rng(4).normal(size=64))
    mesh = jax.make_mesh((4,), ("d",), devices=jax.devices()[:4])
    spread = jax.device_put(jnp.zeros(64), NamedSharding(mesh, PartitionSpec("d")))
    whole = jax.device_put(jnp.asarray(matrix), NamedSharding(mesh, PartitionSpec()))
    single, several = cases.operator_of(matrix), curvature.hessian(cases.form, spread, whole)
    for method in METHODS:
        one = curvature.trace(single, key=KEY, max_products=12, method=method)
        other = curvature.trace(several, key=KEY, max_products=12, method=method)
        assert other.value == pytest.approx(one.value, abs=1e-4)
        assert other.error == pytest.approx(one.error, rel=1e-4)
    mean, _ = curvature.diagonal(several, key=KEY, max_products=12)
    np.testing.assert_allclose(mean, curvature.diagonal(single, key=KEY, max_products=12)[0], atol=1e-5)
    assert mean.sharding.is_equivalent_to(spread.sharding, 1)


def test_in_float64_the_exact_diagonal_has_its_rounding():
    with jax.enable_x64(True):
        matrix = np.random.default_rng(1).normal(size=(20, 20))
        operator = curvature.hessian(cases.form, jnp.zeros(20), jnp.asarray(matrix + matrix.T))
        found = curvature.trace(operator, key=KEY)
        assert found.value == pytest.approx(2 * np.trace(matrix), abs=1e-12)
        assert found.interval[1] - found.interval[0] < 1e-12
    assert not jax.config.jax_enable_x64


BAD = [
    (dict(key=3), "one random key"),
    (dict(max_products=0), "at least 1"),
    (dict(max_products=1.5), "whole number"),
    (dict(max_product=3), "did you mean 'max_products'"),
]


@pytest.mark.parametrize("function", [curvature.trace, curvature.diagonal])
@pytest.mark.parametrize(("arguments", "said"), BAD)
def test_bad_arguments_are_refused(function, arguments, said):
    operator, _ = cases.case("slow decay")
    with pytest.raises((TypeError, ValueError), match=said) as caught:
        function(operator, **{"key": KEY, **arguments})
    assert caught.value.code


def test_an_unknown_method_a_single_probe_and_no_operator_are_refused():
    operator, _ = cases.case("slow decay")
    with pytest.raises(ValueError, match=r"method must be one of 'hutch\+\+', 'hutchinson'"):
        curvature.trace(operator, key=KEY, method="hutchinsen")
    with pytest.raises(ValueError, match="one probe does not tell how far it is off"):
        curvature.trace(operator, key=KEY, max_products=1)
    for function in (curvature.trace, curvature.diagonal):
        with pytest.raises(TypeError, match=r"curvature\.hessian\(loss, params, batch\)"):
            function(jnp.eye(3), key=KEY)


def test_nan_at_the_point_names_the_leaf():
    operator = curvature.hessian(
        lambda p, batch: jnp.sum(p["a"] ** 2) + jnp.sum(jnp.sqrt(p["b"])), {"a": jnp.ones(60), "b": jnp.zeros(60)}
    )
    for budget in (20, 200):
        for function in (curvature.trace, curvature.diagonal):
            with pytest.raises(ValueError, match="NaN or infinity at 'b'"):
                function(operator, key=KEY, max_products=budget)


# Intervals


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 30, 1000])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_students_factor_is_the_quantile(freedom, confidence):
    exact = stats.t.ppf(0.5 + confidence / 2, freedom)
    assert intervals.student_factor(freedom, confidence) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("a", [0.5, 1.0, 4.0, 50.0, 4e6])
@pytest.mark.parametrize("b", [0.5, 3.0, 400.0, 2e7])
def test_the_table_is_the_beta_distribution(a, b):
    for probability in (1e-4, 0.025, 0.3, 0.5, 0.9, 0.975, 0.9999):
        x = stats.beta.ppf(probability, a, b)
        if 0 < x < 1 - 1e-13:
            assert intervals.beta_below(x, a, b) == pytest.approx(probability, rel=1e-3, abs=1e-5)


def test_samples_without_skewness_get_students_interval():
    mean, error, (low, high) = intervals.mean_interval([-2.0, -1.0, 0.0, 1.0, 2.0], 0.95)
    reach = stats.t.ppf(0.975, 4) * np.sqrt(0.5)
    assert mean == pytest.approx(0, abs=1e-15) and error == pytest.approx(np.sqrt(0.5))
    assert (low, high) == pytest.approx((-reach, reach), rel=1e-3)


def test_the_interval_of_skewed_samples_holds_where_the_symmetric_one_does_not():
    """Squares of normal numbers, as probes see a matrix of rank one."""
    rng = np.random.default_rng(0)
    held = symmetric = 0
    for _ in range(1000):
        mean, error, (low, high) = intervals.mean_interval(list(rng.normal(size=12) ** 2), 0.95)
        held += low <= 1 <= high
        symmetric += abs(mean - 1) <= stats.t.ppf(0.975, 11) * error
    assert symmetric < 890 < 920 < held


def test_equal_samples_have_no_error():
    assert intervals.mean_interval([3.0, 3.0], 0.95) == (3.0, 0.0, (3.0, 3.0))
