"""Claims about a training step whose transformation leaves steps out, or scales the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors
from gradtx.training import create_train_state, from_plain, make_train_step

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
BATCHES = [{"x": RANDOM.normal(size=(4, 3)).astype(np.float32)} for _ in range(5)]
BAD = {"x": np.full((4, 3), np.nan, np.float32)}


def loss(params, model_state, batch, key):
    """Draws noise and keeps a running mean: all that a step may change."""
    x = batch["x"] + 0.1 * jax.random.normal(key, batch["x"].shape)
    mean = 0.9 * model_state["mean"] + 0.1 * x.mean(0)
    return jnp.mean((x @ params["w"]) ** 2) + jnp.sum(mean * params["w"].sum(1)), ({"mean": mean}, {})


def run(tx, batches, accumulate=1, dtype=jnp.float32):
    params = {"w": jnp.ones((3, 2), dtype)}
    state = create_train_state(params, tx, key=KEY, model_state={"mean": jnp.zeros(3)})
    step, history = make_train_step(loss, tx, accumulate=accumulate), []
    for batch in batches:
        state, metrics = step(state, batch)
        history.append(metrics)
    return state, history


def assert_same_bits(actual, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b), strict=True), actual, expected
    )


GUARDED = {
    "skip_nonfinite": gradtx.skip_nonfinite(gradtx.adamw(lambda step: 0.1 / (1 + step))),
    "skip_large": gradtx.skip_large(gradtx.adamw(0.1), 1e3),
    "accumulate": gradtx.accumulate(gradtx.adamw(0.1), 2),
    "in a chain": gradtx.chain(gradtx.clip(10.0), gradtx.skip_nonfinite(gradtx.adamw(0.1))),
}


@pytest.mark.parametrize("tx", GUARDED.values(), ids=GUARDED)
def test_a_run_with_broken_batches_is_bit_for_bit_the_run_without_them(tx):
    state, history = run(tx, [*BATCHES[:2], BAD, BAD, *BATCHES[2:4], BAD, *BATCHES[4:]])
    expected, without = run(tx, BATCHES)
    for name in ("step", "params", "model_state", "key"):
        assert_same_bits(getattr(state, name), getattr(expected, name))
    assert [int(row["skipped_steps"]) for row in history] == [0, 0, 1, 2, 2, 2, 3, 3]
    good = [row["loss"] for index, row in enumerate(history) if index not in (2, 3, 6)]
    assert_same_bits(good, [row["loss"] for row in without])


def test_without_a_guard_what_is_not_finite_stays_visible():
    with pytest.warns(gradtx.training.NonFiniteLossWarning):
        state, history = run(gradtx.adamw(0.1), [BAD])
    assert np.isnan(state.params["w"]).all() and int(state.step) == 1
    assert "skipped_steps" not in history[0]


def test_a_guard_and_parts_go_together():
    tx = gradtx.skip_nonfinite(gradtx.adamw(0.1))
    half = {"x": np.concatenate([BATCHES[0]["x"][:3], BAD["x"][:1]])}
    state, history = run(tx, [half, BAD, BATCHES[1]], accumulate=2)
    assert [int(row["skipped_micro_batches"]) for row in history] == [1, 2, 0]
    assert [int(row["skipped_steps"]) for row in history] == [0, 1, 1]
    assert (
        int(state.step) == 2 and np.isfinite(state.params["w"]).all() and np.isfinite(state.model_state["mean"]).all()
    )


def test_the_state_of_a_run_raises_after_too_many():
    tx = gradtx.skip_nonfinite(gradtx.adamw(0.1), max_consecutive=2)
    state, _ = run(tx, [BATCHES[0], BAD, BAD])
    with pytest.raises(errors.SkippedStepsError, match="at 'w'"):
        gradtx.check_skipped(state)


# The scale of the loss.


def small(params, batch):
    """Gradients of 2^-28 for each row, which float16 does not have, nor four times as much."""
    return jnp.sum(params["w"] * jnp.float16(2.0**-13) * batch["factor"].astype(jnp.float16))


FACTOR = {"factor": np.full((4, 1), 2.0**-15, np.float32)}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_step_scales_the_loss_and_reports_it_unscaled(accumulate):
    inner = gradtx.sgd(2.0**20)
    tx = gradtx.dynamic_loss_scale(inner, initial_scale=2.0**10)
    params = {"w": jnp.zeros((), jnp.float16)}
    reported = {}
    for name, each in (("scaled", tx), ("plain", inner)):
        state = create_train_state(params, each, key=KEY)
        step = make_train_step(
            from_plain(lambda p, b: small(p, b) + 1), each, accumulate=accumulate, gradient_norm=True
        )
        state, metrics = step(state, FACTOR)
        reported[name] = float(state.params["w"]), float(metrics["loss"]), float(metrics["gradient_norm"])
        assert ("loss_scale" in metrics) == (name == "scaled")
    rows = 4 // accumulate
    assert reported["scaled"] == (-(2.0**-8) * rows, 1.0, 2.0**-28 * rows)
    assert reported["plain"] == (0.0, 1.0, 0.0)


def test_a_part_that_overflows_lowers_the_scale_instead_of_being_left_out():
    tx = gradtx.dynamic_loss_scale(gradtx.sgd(0.1), initial_scale=2.0**15)
    params = {"w": jnp.ones((), jnp.float16)}
    state = create_train_state(params, tx, key=KEY)
    step = make_train_step(from_plain(lambda p, b: jnp.sum(p["w"] * b.astype(jnp.float16)).astype(jnp.float32)), tx,
                           accumulate=2)  # fmt: skip
    batch = np.float32([1.0, 8.0])  # 8 * 2^15 is too large in the second part
    state, metrics = step(state, batch)
    assert (
        float(metrics["loss_scale"]) == 2.0**14 and int(state.step) == 0 and int(metrics["skipped_micro_batches"]) == 0
    )
    for _ in range(3):
        state, metrics = step(state, batch)
    assert float(metrics["loss_scale"]) == 2.0**12 and int(state.step) == 1
    assert float(state.params["w"]) == pytest.approx(1 - 0.45, abs=1e-3)
