"""Claims about ``training.mean_metrics``."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gradtx
from gradtx import errors
from gradtx.training import batches, create_train_state, from_plain, make_eval_step, mean_metrics


def test_the_last_short_batch_is_weighted_by_its_examples():
    data = np.arange(10, dtype=np.float32)
    step = make_eval_step(from_plain(lambda params, batch: jnp.mean(batch)))
    state = create_train_state({}, gradtx.sgd(0.1), key=jax.random.key(0))
    means = mean_metrics(step(state, batch) for batch in batches(data, 4))
    assert means == {"loss": 4.5, "examples": 10.0}


@given(st.lists(st.tuples(st.integers(1, 2**20), st.floats(0, 1e6, width=32)), min_size=1, max_size=20))
def test_means_are_those_of_exact_arithmetic(rows):
    means = mean_metrics([{"examples": count, "loss": np.float32(value)} for count, value in rows])
    total = sum(count for count, _ in rows)
    exact = sum(count * Fraction(value) for count, value in rows) / total
    assert means["loss"] == pytest.approx(float(exact), rel=1e-14)
    assert means["examples"] == total


def test_a_million_small_batches_lose_nothing():
    rows = [{"examples": np.int32(1), "loss": np.float32(0.1)}] * 100_000
    assert mean_metrics(rows)["loss"] == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_a_batch_without_examples_counts_for_nothing():
    rows = [{"examples": 0, "loss": math.nan}, {"examples": 2, "loss": 3.0}]
    assert mean_metrics(rows) == {"examples": 2.0, "loss": 3.0}
    assert math.isnan(mean_metrics(rows[:1])["loss"])


def test_any_other_nan_stays_visible():
    assert math.isnan(mean_metrics([{"examples": 1, "loss": math.nan}, {"examples": 1, "loss": 3.0}])["loss"])


def test_everything_comes_from_the_device_in_one_transfer(monkeypatch):
    transfers = []
    device_get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: transfers.append(1) or device_get(tree))
    means = mean_metrics({"examples": jnp.int32(1), "loss": jnp.float32(index)} for index in range(4))
    assert means == {"examples": 4.0, "loss": 1.5}
    assert transfers == [1]


@pytest.mark.parametrize(
    ("rows", "error", "hint"),
    [
        ([], errors.BatchError, "at least one batch"),
        ([{"loss": 1.0}], errors.StructureError, "number of examples"),
        ([{"loss": 1.0, "examples": 1}, {"examples": 1}], errors.StructureError, "batch 1"),
    ],
)
def test_metrics_that_cannot_be_averaged_are_named(rows, error, hint):
    with pytest.raises(error) as caught:
        mean_metrics(rows)
    assert hint in str(caught.value)
