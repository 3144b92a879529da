"""Claims about functions of matrices, held against float64 NumPy."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from gradtx import errors, linalg

EPS = float(np.finfo(np.float32).eps)


def symmetric(eigenvalues, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    return ((q * eigenvalues) @ q.T).astype(np.float32)


def inverse_root(a, p, ridge):
    """Higham 2008, definition 1.2, of the eigenvalues in float64."""
    w, q = np.linalg.eigh(np.asarray(a, np.float64))
    return (q * (np.maximum(w, 0) + ridge * w.max()) ** (-1 / p)) @ q.T


@pytest.mark.parametrize("p", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [1, 2, 8, 40])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4, 1e6])
def test_an_inverse_root_is_within_its_bound(p, size, condition):
    a = symmetric(np.geomspace(1, 1 / condition, size))
    root, error = linalg.matrix_inverse_pth_root(a, p, ridge_epsilon=1e-6)
    exact = inverse_root(a, p, 1e-6)
    bound = 8 * size * EPS * min(condition, 1e6) / p + 8 * EPS
    assert np.linalg.norm(root - exact, 2) <= bound * np.linalg.norm(exact, 2)
    assert float(error) <= 8 * size * EPS * p


def test_optax_is_as_near_and_no_nearer():
    a = symmetric(np.geomspace(1, 1e-4, 8))
    exact = inverse_root(a, 4, 1e-6)
    ours, theirs = (np.asarray(f(a, 4)[0]) for f in (linalg.matrix_inverse_pth_root, optax.matrix_inverse_pth_root))
    ours, theirs = (np.linalg.norm(x - exact, 2) / np.linalg.norm(exact, 2) for x in (ours, theirs))
    assert ours < 1e-3 and theirs < 1e-2


@pytest.mark.parametrize("size", [1e-33, 1e-20, 1e20, 1e37])
def test_the_size_of_the_matrix_does_not_matter(size):
    a = symmetric([1.0, 0.5, 0.1])
    root, _ = linalg.matrix_inverse_pth_root(np.float32(size) * a, 4)
    np.testing.assert_allclose(root, np.float32(size) ** -0.25 * linalg.matrix_inverse_pth_root(a, 4)[0], rtol=1e-4)


def test_a_matrix_of_low_rank_has_a_finite_root_with_and_without_a_ridge():
    g = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    for ridge in (1e-6, 0.0):
        root, error = linalg.matrix_inverse_pth_root(g @ g.T, 4, ridge_epsilon=ridge)
        assert np.isfinite(root).all() and np.isfinite(error)
        on_range = g.T @ inverse_root(g @ g.T, 4, 1e-6) @ g
        np.testing.assert_allclose(g.T @ root @ g, on_range, rtol=1e-3, atol=1e-3)


def test_zeros_have_root_zero():
    root, error = linalg.matrix_inverse_pth_root(jnp.zeros((3, 3)), 2)
    assert not root.any() and np.isfinite(error)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_matrices_are_computed_in_float32(dtype):
    a = jnp.asarray(symmetric([1.0, 0.5, 0.1]), dtype)
    root, error = linalg.matrix_inverse_pth_root(a, 2)
    assert root.dtype == dtype and error.dtype == jnp.float32
    np.testing.assert_array_equal(root, linalg.matrix_inverse_pth_root(a.astype(jnp.float32), 2)[0].astype(dtype))
    value, vector = linalg.power_iteration(a)
    assert value.dtype == vector.dtype == jnp.float32


def test_many_matrices_are_taken_one_by_one():
    many = np.stack([symmetric([1.0, 0.5, 0.1], seed) for seed in range(3)])
    roots, errors_ = linalg.matrix_inverse_pth_root(many, 2)
    for root, error, a in zip(roots, errors_, many, strict=True):
        one, one_error = linalg.matrix_inverse_pth_root(a, 2)
        np.testing.assert_allclose(root, one, atol=16 * EPS)
        assert error.shape == one_error.shape == ()


@pytest.mark.parametrize("eigenvalues", [(3.0, 1.0, -2.0), (-3.0, 1.0, 2.0), (1e-3, 1e-5, 0.0), (2.0, 2.0, 1.0)])
def test_power_iteration_finds_the_eigenvalue_of_largest_magnitude(eigenvalues):
    a = symmetric(np.array(eigenvalues))
    value, vector = linalg.power_iteration(a)
    largest = max(eigenvalues, key=abs)
    assert float(value) == pytest.approx(largest, rel=1e-5)
    np.testing.assert_allclose(a @ vector, largest * np.asarray(vector), atol=1e-5 * abs(largest))
    assert float(jnp.linalg.norm(vector)) == pytest.approx(1, rel=1e-5)
    theirs, _ = optax.power_iteration(a, key=jax.random.key(0))
    assert float(theirs) == pytest.approx(largest, rel=1e-4)


@pytest.mark.parametrize("size", [1e-37, 1e-20, 1e20, 3e37])
def test_huge_and_tiny_matrices_have_an_eigenvalue(size):
    value, vector = linalg.power_iteration(np.float32(size) * symmetric(np.array([3.0, 1.0, -1.0])))
    assert float(value) == pytest.approx(3 * size, rel=1e-5) and np.isfinite(vector).all()


def test_products_of_trees_will_do():
    a = symmetric(np.array([3.0, 1.0, 0.5]))

    def apply(v):
        image = a @ jnp.concatenate([v["b"], v["w"]])
        return {"b": image[:1], "w": image[1:]}

    value, vector = linalg.power_iteration(apply, v0={"b": jnp.ones(1), "w": jnp.ones(2)})
    assert float(value) == pytest.approx(3, rel=1e-5) and vector["w"].shape == (2,)


def test_zeros_have_eigenvalue_zero_and_a_unit_vector():
    value, vector = linalg.power_iteration(jnp.zeros((3, 3)))
    assert value == 0 and float(jnp.linalg.norm(vector)) == pytest.approx(1, rel=1e-5)


def test_a_looser_tolerance_takes_fewer_products():
    a = symmetric(np.array([1.0, 0.9, 0.1]))
    counts = []
    for tolerance in (1e-1, 1e-3):
        jax.effects_barrier()
        calls = []

        def apply(v, calls=calls):
            jax.debug.callback(lambda: calls.append(1))
            return a @ v

        linalg.power_iteration(apply, v0=jnp.ones(3), error_tolerance=tolerance)
        jax.effects_barrier()
        counts.append(len(calls))
    assert counts[0] < counts[1] <= 100


def test_both_work_under_jit():
    a = symmetric(np.array([1.0, 0.5]))
    np.testing.assert_allclose(jax.jit(linalg.power_iteration)(a)[0], 1, rtol=1e-5)
    root = jax.jit(lambda a: linalg.matrix_inverse_pth_root(a, 2)[0])(a)
    np.testing.assert_allclose(root, linalg.matrix_inverse_pth_root(a, 2)[0], atol=16 * EPS)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: linalg.matrix_inverse_pth_root(np.ones((2, 3), np.float32), 2), errors.ShapeError, "square"),
        (lambda: linalg.matrix_inverse_pth_root(np.ones((2, 2), int), 2), errors.DtypeError, "floating"),
        (lambda: linalg.matrix_inverse_pth_root(np.eye(2), 0), errors.ArgumentRangeError, "p must be"),
        (lambda: linalg.matrix_inverse_pth_root(np.eye(2), 2.0), errors.ArgumentTypeError, "p must be"),
        (lambda: linalg.matrix_inverse_pth_root(np.eye(2), 2, ridge_epsilon=-1.0), errors.ArgumentRangeError, "ridge"),
        (lambda: linalg.power_iteration(lambda v: v), errors.ArgumentTypeError, "v0"),
        (lambda: linalg.power_iteration(np.eye(2), v0=np.ones(3)), errors.ShapeError, "v0"),
        (lambda: linalg.power_iteration(np.eye(2), v0=np.ones(2, int)), errors.DtypeError, "v0"),
        (lambda: linalg.power_iteration(np.eye(2), num_iters=0), errors.ArgumentRangeError, "num_iters"),
        (lambda: linalg.nnls(np.ones(2), np.ones(2)), errors.ShapeError, "a matrix A"),
        (lambda: linalg.nnls(np.ones((2, 3)), np.ones(3)), errors.ShapeError, "b of shape"),
        (lambda: linalg.nnls(np.ones((2, 3)), np.ones((2, 1, 1))), errors.ShapeError, "b of shape"),
        (lambda: linalg.nnls([[1.0]], np.ones(1)), errors.DtypeError, "A must be"),
        (lambda: linalg.nnls(np.eye(2), np.ones(2, int)), errors.DtypeError, "b must be"),
        (lambda: linalg.nnls(np.eye(2), np.ones(2, np.complex64)), errors.DtypeError, "b must be"),
        (lambda: linalg.nnls(np.eye(2), np.ones(2), 0), errors.ArgumentRangeError, "iters must be"),
    ],
)
def test_a_wrong_argument_is_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(("order", "axis"), [(None, None), (1, -1), (2, 0), (np.inf, 1), ("fro", (0, 1)), (2, (0, 1))])
@pytest.mark.parametrize("size", [1e-35, 1.0, 1e35])
def test_a_safe_norm_is_the_norm_at_any_size(order, axis, size):
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    expected = np.linalg.norm(x.astype(float), order, axis) * size
    np.testing.assert_allclose(linalg.safe_norm(x * np.float32(size), 0.0, order, axis), expected, rtol=1e-5)
    assert linalg.safe_norm(x, 0.0, order, axis, keepdims=True).ndim == 2
    theirs = optax.safe_norm(x, 2.0, order, axis)
    np.testing.assert_allclose(linalg.safe_norm(x, 2.0, order, axis), theirs, rtol=1e-5)


def test_small_norms_have_gradient_zero_and_others_their_direction():
    for least in (0.0, 1e-3):
        for function in (linalg.safe_norm, linalg.safe_root_mean_squares):
            value, slope = jax.value_and_grad(function)(jnp.zeros(3), least)
            assert value == np.float32(least) and not slope.any()
    np.testing.assert_allclose(jax.grad(linalg.safe_norm)(jnp.array([3.0, 4.0]), 1.0), [0.6, 0.8], rtol=4 * EPS)
    x = np.array([3e30, -1e30, 0.5], np.float32)
    expected = np.sqrt(np.mean(x.astype(float) ** 2))
    np.testing.assert_allclose(linalg.safe_root_mean_squares(x, 1.0), expected, rtol=1e-5)
    low = jnp.asarray(x, jnp.bfloat16)
    assert linalg.safe_norm(low, 0.0).dtype == linalg.safe_root_mean_squares(low, 0.0).dtype == jnp.float32


nnls = jax.jit(linalg.nnls, static_argnums=2)


def problem(m, n, condition, seed, is_positive=False, fits=False):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(m, n))
    if condition > 1:
        u, s, v = np.linalg.svd(a, full_matrices=False)
        a = (u * np.geomspace(1, 1 / condition, len(s))) @ v
    a = (np.abs(a) if is_positive else a).astype(np.float32)
    b = a @ np.maximum(rng.normal(size=n), 0) if fits else rng.normal(size=m)
    return a, b.astype(np.float32)


def violation(a, b, x):
    """How far x is from the conditions of Kuhn and Tucker, for columns of norm 1, in units of what rounding makes."""
    a, b, x = (np.asarray(each, float) for each in (a, b, x))
    assert (x >= 0).all()
    norms = np.linalg.norm(a, axis=0)
    slopes = a.T @ (b - a @ x) / np.where(norms > 0, norms, 1)
    worst = np.max(np.where(x > 0, np.abs(slopes), slopes), initial=0)
    return worst / (EPS * (np.linalg.norm(b) + np.sum(norms * x)) + 1e-300)


@pytest.mark.parametrize("kind", ["any", "positive", "fits"])
@pytest.mark.parametrize(
    ("m", "n", "condition"),
    [(5, 3, 1), (10, 10, 1), (30, 20, 1), (10, 30, 1), (40, 40, 1e4), (60, 30, 1e3), (20, 20, 1e7)],
)
def test_non_negative_least_squares_are_those_of_float64(m, n, condition, kind):
    for seed in range(4):
        a, b = problem(m, n, condition, seed, kind == "positive", kind == "fits")
        x = nnls(a, b)
        exact, least = scipy.optimize.nnls(a.astype(float), b.astype(float), maxiter=1000)
        assert violation(a, b, x) < 16
        if condition * EPS < 1e-2:  # |r|^2 is convex: it is too large by at most 2 <slopes, exact - x>
            residual = np.linalg.norm(a.astype(float) @ np.asarray(x, float) - b)
            total = np.sum(np.linalg.norm(a, axis=0) * (x + exact))
            assert residual**2 - least**2 <= 32 * EPS * (np.linalg.norm(b) + total) * total
        if m >= n and condition <= 1e3:
            np.testing.assert_allclose(x, exact, rtol=0, atol=EPS * max(condition, 16) * np.max(exact, initial=0))


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.data())
def test_the_conditions_of_kuhn_and_tucker_hold_at_any_rank(data):
    """Small whole numbers: zeros, columns that are equal, opposite or sums of others, and ties in every choice."""
    m, n = data.draw(st.sampled_from([(2, 5), (4, 4), (6, 3)]))
    a, b = (np.array(data.draw(st.lists(st.integers(-2, 2), min_size=size, max_size=size)), np.float32).reshape(shape)
            for size, shape in ((m * n, (m, n)), (m, (m,))))  # fmt: skip
    x = nnls(a, b)
    assert violation(a, b, x) < 16
    assert np.linalg.norm(a @ np.asarray(x, float) - b) <= scipy.optimize.nnls(a, b)[1] + 1e-5


@pytest.mark.parametrize("of_a", [1e-30, 1.0, 1e30, 3e37])
@pytest.mark.parametrize("of_b", [1e-30, 1.0, 1e30, 3e37])
def test_matrices_and_targets_of_any_size_have_a_solution(of_a, of_b):
    a, b = problem(6, 4, 1, 1)
    x = np.asarray(nnls(np.float32(of_a) * a, np.float32(of_b) * b), float)
    with np.errstate(over="ignore"):
        expected = np.asarray(nnls(a, b), float) * (of_b / of_a)
        scale = float(np.float32(expected.max()))
    if scale < 1e38:  # and what is smaller than the smallest normal number may be zero
        np.testing.assert_allclose(x, expected, rtol=0, atol=32 * EPS * scale + np.finfo(np.float32).tiny)
    else:
        assert (x >= 0).all()
    columns = np.float32([1e-15, 1.0, 1e15, 1e5])
    np.testing.assert_allclose(nnls(a * columns, b) * columns, nnls(a, b), rtol=0, atol=32 * EPS)


def test_several_targets_are_problems_of_their_own_and_nan_stays_in_its_own():
    a, _ = problem(8, 5, 1, 0)
    many = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    each = np.stack([nnls(a, b) for b in many.T], -1)
    np.testing.assert_allclose(nnls(a, many), each, rtol=0, atol=8 * EPS)
    mapped = jax.jit(jax.vmap(linalg.nnls))(np.stack([a, 2 * a]), np.stack([many[:, 0], many[:, 1]]))
    np.testing.assert_allclose(mapped, np.stack([each[:, 0], each[:, 1] / 2]), rtol=0, atol=8 * EPS)
    for bad in (np.nan, np.inf):
        spoilt = many.copy()
        spoilt[2, 1] = bad
        x = np.asarray(nnls(a, spoilt))
        assert np.isnan(x[:, 1]).all()
        np.testing.assert_allclose(np.delete(x, 1, 1), np.delete(each, 1, 1), rtol=0, atol=8 * EPS)
        spoilt = a.copy()
        spoilt[0, 0] = bad
        assert np.isnan(nnls(spoilt, many)).all()


def test_nothing_to_fit_has_solution_zero():
    a, _ = problem(6, 4, 1, 0)
    assert not nnls(a, np.zeros(6, np.float32)).any()
    assert not nnls(np.zeros((6, 4), np.float32), np.ones(6, np.float32)).any()
    assert not nnls(np.abs(a), -np.ones(6, np.float32)).any()
    for m, n, shape in ((0, 3, (0,)), (3, 0, (3,)), (3, 2, (3, 0))):
        x = linalg.nnls(np.zeros((m, n), np.float32), np.zeros(shape, np.float32))
        assert x.shape == (n, *shape[1:]) and not x.any()


def test_derivatives_are_those_of_the_elements_above_zero():
    a, b = (each.astype(float) for each in problem(6, 4, 1, 1))
    weights = np.arange(1.0, 5.0)
    with jax.enable_x64(True):

        def value(a, b):
            return jnp.vdot(weights, linalg.nnls(a, b))

        x = np.asarray(jax.jit(linalg.nnls)(a, b))
        assert x.dtype == np.float64 and 0 < np.count_nonzero(x) < 4
        np.testing.assert_allclose(x, scipy.optimize.nnls(a, b)[0], atol=1e-14)
        slopes = jax.jit(jax.grad(value, (0, 1)))(a, b)
        forward = jax.jit(jax.jacfwd(value, (0, 1)))(a, b)
    for slope, again, index in zip(slopes, forward, (0, 1), strict=True):
        np.testing.assert_allclose(slope, again, atol=1e-12)
        expected = np.zeros_like(slope)
        for place in np.ndindex(expected.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [a.copy(), b.copy()]
                moved[index][place] += step
                ends.append(weights @ scipy.optimize.nnls(*moved)[0])
            expected[place] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(slope, expected, atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_least_squares_are_computed_in_float32(dtype):
    a, b = (jnp.asarray(each, dtype) for each in problem(6, 4, 1, 1))
    x = nnls(a, b)
    assert x.dtype == jnp.float32
    np.testing.assert_array_equal(x, nnls(a.astype(jnp.float32), b.astype(jnp.float32)))


def test_what_is_stopped_early_is_no_worse_than_zero():
    a, b = problem(30, 20, 1, 5, fits=True)
    residuals = [np.linalg.norm(a @ nnls(a, b, iters) - b) for iters in (1, 4, 8, 12, 100)]
    assert residuals[0] == pytest.approx(np.linalg.norm(b)) and residuals[-1] < 1e-5 * residuals[0]
    assert sorted(residuals, reverse=True) == residuals


def test_a_thousand_gradient_steps_of_optax_are_farther_from_the_solution():
    a, b = problem(40, 40, 1e4, 0)
    exact, _ = scipy.optimize.nnls(a.astype(float), b.astype(float), maxiter=1000)
    ours, theirs = (np.max(np.abs(f(a, b, 1000) - exact)) / exact.max() for f in (nnls, optax.nnls))
    assert ours < 1e-4 and theirs > 1e-2
    easy = problem(10, 4, 1, 0)
    np.testing.assert_allclose(nnls(*easy), optax.nnls(*easy, 1000), atol=1e-5)
