"""Claims about assignments of least cost, held against another solver and against all permutations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from gradtx import assignment, errors

SHAPES = [(1, 1), (5, 1), (4, 4), (7, 3), (12, 30)]


def is_assignment(i, j, shape):
    count = min(shape)
    distinct = len(set(i.tolist())) == len(set(j.tolist())) == count
    return distinct and i.shape == j.shape == (count,) and i.tolist() == sorted(i.tolist())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["normal", "ties", "huge", "tiny", "integers"])
def test_no_assignment_costs_less(shape, kind):
    random = np.random.default_rng(sum(shape))
    cost = {
        "normal": random.normal(size=shape), "ties": random.integers(0, 3, size=shape).astype(float),
        "huge": 3e38 * random.uniform(-1, 1, size=shape), "tiny": 1e-37 * random.uniform(1, 2, size=shape),
        "integers": random.integers(-1000, 1000, size=shape),
    }[kind]  # fmt: skip
    cost = np.asarray(cost, np.int32 if kind == "integers" else np.float32)
    i, j = jax.jit(assignment.hungarian_algorithm)(cost)
    assert is_assignment(i, j, shape) and i.dtype == j.dtype == jnp.int32
    wide = cost.astype(np.float64)
    best = wide[linear_sum_assignment(wide)].sum()
    np.testing.assert_allclose(wide[np.asarray(i), np.asarray(j)].sum(), best, rtol=0, atol=1e-5 * np.abs(wide).max())


def test_all_permutations_agree():
    random = np.random.default_rng(5)
    for _ in range(5):
        cost = random.normal(size=(5, 5)).astype(np.float32)
        i, j = assignment.hungarian_algorithm(cost)
        best = min(cost[range(5), list(p)].sum() for p in itertools.permutations(range(5)))
        np.testing.assert_allclose(cost[np.asarray(i), np.asarray(j)].sum(), best, rtol=1e-5)


def test_forbidden_pairs_are_left_out_where_that_is_possible():
    cost = jnp.array([[jnp.inf, 100.0], [1.0, 2.0]])
    assert assignment.hungarian_algorithm(cost)[1].tolist() == [1, 0]
    assert assignment.hungarian_algorithm(cost.at[0, 0].set(jnp.nan))[1].tolist() == [1, 0]
    none = jnp.array([[jnp.inf, jnp.inf], [1.0, 2.0]])
    assert sorted(assignment.hungarian_algorithm(none)[1].tolist()) == [0, 1]


def test_it_maps_over_matrices():
    costs = jnp.asarray(np.random.default_rng(3).normal(size=(6, 5, 8)), jnp.float32)
    i, j = jax.jit(jax.vmap(assignment.hungarian_algorithm))(costs)
    for cost, rows, columns in zip(costs, i, j, strict=True):
        assert columns.tolist() == assignment.hungarian_algorithm(cost)[1].tolist()
        assert is_assignment(rows, columns, (5, 8))


def test_the_cost_of_the_pairs_has_a_derivative():
    cost = jnp.array([[1.0, 9.0], [9.0, 1.0]])
    slope = jax.grad(lambda c: jnp.sum(c[assignment.hungarian_algorithm(c)]))(cost)
    assert slope.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_a_matrix_without_rows_has_no_pairs():
    for shape in ((0, 0), (0, 3), (3, 0)):
        i, j = assignment.hungarian_algorithm(jnp.zeros(shape))
        assert i.shape == j.shape == (0,)


def test_what_is_no_matrix_of_costs_is_refused():
    with pytest.raises(errors.ShapeError, match="write jax"):
        assignment.hungarian_algorithm(jnp.zeros((2, 3, 3)))
    for dtype in (bool, jnp.complex64):
        with pytest.raises(errors.DtypeError, match="real costs"):
            assignment.hungarian_algorithm(jnp.zeros((3, 3), dtype))
