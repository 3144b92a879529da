"""The problems of the benchmark tell optimizers apart where the theory says so, and count no luck as a win."""

import numpy as np
import pytest

import gradtx
from benchmarks.convergence import (
    ENTRIES,
    LEFT_OUT,
    PROBLEMS,
    REDDI,
    Found,
    maker,
    measured,
    numbers_of,
    summary,
    theory,
)


@pytest.fixture(scope="module")
def on_quadratics():
    return {row["method"]: row for row in theory(seeds=2)}


@pytest.mark.parametrize("method", ["gradient descent", "heavy ball", "Nesterov"])
def test_the_rate_on_a_quadratic_is_the_one_of_the_theory(on_quadratics, method):
    """To 0.6 %: where two eigenvalues meet, the error falls as ``t * factor^t``, over these steps 2^(1/150) slower."""
    row = on_quadratics[method]
    assert abs(row["off"]) < 0.006
    assert row["largest rate"] == pytest.approx(row["its theory"], rel=0.005)


def reddi(name, rates):
    entry = ENTRIES[name]
    make = maker(gradtx, entry, {"b2": 0.99})
    return measured(make, [REDDI], {REDDI.name: numbers_of(REDDI)}, entry, gradtx, rates)[0]


def test_adam_goes_the_wrong_way_where_amsgrad_does_not():
    rates = np.array([0.01, 0.05])
    adam, amsgrad = (reddi(name, rates) for name in ("adam", "amsgrad"))
    assert np.all(adam.late > 0.6) and np.all(np.isinf(adam.steps))
    assert np.all(amsgrad.late[1] < 0.25) and np.all(np.isfinite(amsgrad.steps[1]))


def test_every_recipe_takes_part_or_is_left_out_with_a_reason():
    assert set(gradtx.optimizers.__all__) <= set(ENTRIES) | set(LEFT_OUT)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_the_start_is_a_gap_of_one_and_the_optimum_one_of_zero(problem):
    numbers = problem.draw(np.random.default_rng(0))
    assert float(problem.gap(numbers["start"], numbers)) == pytest.approx(1.0)
    assert abs(float(problem.gap(numbers["optimum"], numbers))) < 1e-6


def test_a_rate_is_chosen_by_the_other_seeds():
    """Every seed has a rate that is best for itself alone; none may use it."""
    steps = np.full((33, 8), np.inf)
    steps[10] = 100.0
    steps[11:19] = np.where(np.eye(8, dtype=bool), 1.0, np.inf)
    own = summary(Found(steps, np.zeros_like(steps), np.zeros_like(steps)))
    assert own.steps.tolist() == [100.0] * 8
    assert own.decades == 0.25
