"""Claims about a training step that takes its batch in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors
from gradtx.training import create_train_state, from_plain, make_train_step

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
X, Y = (RANDOM.normal(size=(12, width)).astype(np.float32) for width in (3, 2))
BATCH = {"x": X, "y": Y}


def square_error(params, batch):
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


plain = from_plain(square_error)


def start(tx, dtype=jnp.float32, **options):
    params = {"w": jnp.ones((3, 2), dtype), "b": jnp.zeros(2, dtype)}
    return create_train_state(params, tx, key=KEY, **options)


def run(loss, tx, batches, accumulate, state=None):
    step, metrics = make_train_step(loss, tx, accumulate=accumulate), {}
    state = start(tx) if state is None else state
    for batch in batches:
        state, metrics = step(state, batch)
    return state, metrics


def assert_close(actual, expected, rtol=2e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), actual, expected)


def sgd():
    """The transformation in which a step shows the gradient itself."""
    return gradtx.sgd(0.1)


# The same as one large batch.


@pytest.mark.parametrize("accumulate", [2, 3, 12])
def test_steps_in_parts_are_steps_with_the_whole_batch(accumulate):
    tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(lambda step: 0.1 / (1 + step)))
    batches = [jax.tree.map(lambda leaf, i=i: np.roll(leaf, i), BATCH) for i in range(5)]
    (state, metrics), (expected, whole) = (run(plain, tx, batches, k) for k in (accumulate, 1))
    assert_close(state.params, expected.params)
    assert_close(state.opt_state, expected.opt_state)
    assert int(state.step) == 5 and int(metrics["examples"]) == 12 and metrics["examples"].dtype == jnp.int32
    assert float(metrics["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-6)


@pytest.mark.parametrize(("length", "accumulate"), [(7, 3), (10, 4), (11, 2), (2, 4), (1, 3)])
def test_a_short_last_batch_is_cut_into_parts_that_count_for_what_they_hold(length, accumulate):
    short = jax.tree.map(lambda leaf: leaf[:length], BATCH)
    (state, metrics), (expected, whole) = (run(plain, sgd(), [short], k) for k in (accumulate, 1))
    assert_close(state.params, expected.params)
    assert int(metrics["examples"]) == length
    assert float(metrics["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-6)


def masked(params, model_state, batch, key):
    """A mean over the examples that count, and their number."""
    error = jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2, axis=1)
    count = jnp.sum(batch["mask"])
    loss = jnp.sum(jnp.where(batch["mask"], error, 0.0)) / count
    return loss, (model_state, {"examples": count, "largest": jnp.max(error), "count": jnp.int32(count)})


def test_parts_count_by_the_examples_that_the_loss_reports():
    batch = {**BATCH, "mask": np.array([1, 1, 1, 0, 0, 1, 0, 0, 1, 1, 0, 1], bool)}
    (state, metrics), (expected, whole) = (run(masked, sgd(), [batch], k) for k in (4, 1))
    assert_close(state.params, expected.params)
    assert int(metrics["examples"]) == int(whole["examples"]) == 7
    assert float(metrics["loss"]) == pytest.approx(float(whole["loss"]), rel=1e-6)
    assert metrics["count"].dtype == jnp.float32  # a mean of whole numbers


def test_a_part_without_examples_counts_for_nothing_although_its_mean_is_nan():
    mask = np.ones(12, bool)
    mask[1::4] = False  # the second of four parts
    batch = {**BATCH, "mask": mask}
    (state, metrics), (expected, _) = (run(masked, sgd(), [batch], k) for k in (4, 1))
    assert_close(state.params, expected.params)
    assert int(metrics["skipped_micro_batches"]) == 0


def test_low_precision_gradients_are_added_in_float32():
    seen = []

    def update(updates, state, params=None):
        seen.append(jax.tree.map(lambda leaf: leaf.dtype, updates))
        return jax.tree.map(lambda g: -g, updates), state

    def loss(params, batch):
        return jnp.sum(params["w"].astype(jnp.float32) * batch.mean())

    numbers = np.float32([1.0] + [2.0**-8] * 15)  # in bfloat16 each of the small ones is lost beside 1
    tx = gradtx.GradientTransformation(lambda params: (), update)
    params = {"w": jnp.zeros(2, jnp.bfloat16)}
    state = create_train_state(params, tx, key=KEY)
    state, _ = make_train_step(from_plain(loss), tx, accumulate=16)(state, numbers)
    assert seen == [{"w": jnp.float32}]
    np.testing.assert_array_equal(state.params["w"], np.full(2, -numbers.mean(), jnp.bfloat16))


def test_huge_gradients_do_not_overflow_in_their_mean():
    loss = from_plain(lambda params, batch: jnp.sum(params["b"] * batch.mean()))
    _, metrics = run(loss, gradtx.watch(gradtx.adam(0.1)), [np.full(4, 2e38, np.float32)], 4)
    assert float(metrics["gradient_norm"]) == pytest.approx(2**0.5 * 2e38, rel=1e-4)


def test_complex_parameters_and_tables_of_integers_go_along():
    tx = gradtx.only(gradtx.sgd(0.1), "z")
    params = {"z": jnp.complex64(0), "table": jnp.arange(2)}
    loss = from_plain(lambda params, batch: jnp.mean(jnp.abs(params["z"] - batch) ** 2) + params["table"].sum())
    state = create_train_state(params, tx, key=KEY)
    step = make_train_step(loss, tx, accumulate=2)
    for _ in range(100):
        state, _ = step(state, np.full(4, 1 + 2j, np.complex64))
    assert complex(state.params["z"]) == pytest.approx(1 + 2j, abs=1e-3)
    assert state.params["table"].tolist() == [0, 1]


# Model state, keys, signals.


def test_the_model_state_goes_through_the_parts_one_after_the_other():
    def loss(params, model_state, batch, key):
        new = {"mean": 0.5 * model_state["mean"] + batch["x"].mean(), "calls": model_state["calls"] + 1}
        return square_error(params, batch), (new, {})

    state, _ = run(loss, sgd(), [BATCH], 3, start(sgd(), model_state={"mean": 0.0, "calls": 0}))
    mean = 0.0
    for index in range(3):
        mean = 0.5 * mean + X[index::3].mean()
    assert float(state.model_state["mean"]) == pytest.approx(mean, rel=1e-6)
    assert int(state.model_state["calls"]) == 3


def test_every_part_has_a_key_of_its_own_and_a_step_draws_the_same_again():
    def loss(params, model_state, batch, key):
        return square_error(params, batch), ((model_state[1], jax.random.uniform(key)), {})

    keyed = start(sgd(), model_state=(0.0, 0.0))
    again = start(sgd(), model_state=(0.0, 0.0))
    one, two = (run(loss, sgd(), [BATCH], 2, state)[0].model_state for state in (keyed, again))
    assert float(one[0]) != float(one[1])
    assert [float(draw) for draw in one] == [float(draw) for draw in two]


def test_value_and_value_fn_are_those_of_all_parts_with_the_keys_of_this_step():
    def update(updates, state, params=None, *, value, value_fn):
        return jax.tree.map(jnp.zeros_like, updates), value - value_fn(params)

    def loss(params, model_state, batch, key):
        return square_error(params, batch) * (model_state + jax.random.uniform(key)), (model_state + 1, {})

    tx = gradtx.GradientTransformation(lambda params: jnp.ones(()), update)
    state, _ = run(loss, tx, [BATCH], 3, start(tx, model_state=0.0))
    assert float(state.opt_state) == 0.0


# What is not finite.


def broken(*rows):
    x = X.copy()
    x[list(rows)] = np.nan
    return {"x": x, "y": Y}


def test_a_part_that_is_not_finite_is_left_out_with_its_model_state():
    def loss(params, model_state, batch, key):
        return square_error(params, batch), (model_state + batch["x"].sum(), {"twice": 2 * square_error(params, batch)})

    state, metrics = run(loss, sgd(), [broken(1, 4)], 3, start(sgd(), model_state=0.0))  # both in the second part
    rows = [0, 2, 3, 5, 6, 8, 9, 11]
    kept = {"x": X[rows], "y": Y[rows]}
    expected, whole = run(loss, sgd(), [kept], 1, start(sgd(), model_state=0.0))
    assert_close(state.params, expected.params)
    assert_close(state.model_state, expected.model_state)
    assert int(metrics["skipped_micro_batches"]) == 1 and int(metrics["examples"]) == 8
    assert float(metrics["twice"]) == pytest.approx(float(whole["twice"]), rel=1e-6)


def test_a_part_whose_gradient_alone_is_not_finite_is_left_out():
    loss = from_plain(lambda params, batch: jnp.linalg.norm(params["w"][0, 0] * batch))
    batch = np.float32([0.0, 3.0])  # a norm of zero has no slope
    state, metrics = run(loss, sgd(), [batch], 2)
    assert int(metrics["skipped_micro_batches"]) == 1 and float(metrics["loss"]) == 3.0
    assert float(state.params["w"][0, 0]) == pytest.approx(0.7)


def test_if_every_part_is_broken_that_stays_visible_and_a_guard_skips_the_step():
    with pytest.warns(gradtx.training.NonFiniteLossWarning):
        state, metrics = run(plain, sgd(), [broken(*range(12))], 3)
    assert np.isnan(state.params["w"]).all() and np.isnan(metrics["loss"])
    assert int(metrics["skipped_micro_batches"]) == 3 and int(metrics["examples"]) == 0
    guarded = gradtx.skip_nonfinite(gradtx.adamw(0.1))
    with pytest.warns(gradtx.training.NonFiniteLossWarning):
        state, metrics = run(plain, guarded, [broken(*range(12))], 3)
    assert int(state.step) == 0 and int(metrics["skipped_steps"]) == 1
    np.testing.assert_array_equal(state.params["w"], np.ones((3, 2)))


# The program.


def convolving(params, batch):
    image = jax.lax.conv_general_dilated(batch, params["k"], (1, 1), "SAME")
    return jnp.mean(jax.nn.relu(image) ** 2)


def convolution(accumulate):
    tx = gradtx.sgd(0.1)
    params = {"k": jnp.ones((2, 1, 3, 3))}
    state = create_train_state(params, tx, key=KEY)
    return make_train_step(from_plain(convolving), tx, accumulate=accumulate), state


IMAGES = RANDOM.normal(size=(10, 1, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("accumulate", [2, 3])
def test_a_loss_with_convolutions_gives_the_same_in_parts(accumulate):
    (step, state), (whole, expected) = convolution(accumulate), convolution(1)
    assert_close(step(state, IMAGES)[0].params, whole(expected, IMAGES)[0].params)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere every loss runs in a loop")
def test_parts_run_in_a_loop_but_for_convolutions_on_a_cpu():
    step, state = convolution(4)
    assert "while" not in step.lower(state, IMAGES).as_text()
    dense = make_train_step(plain, sgd(), accumulate=4).lower(start(sgd()), BATCH)
    assert "while" in dense.as_text()


def test_the_loss_is_traced_once_for_all_parts_of_one_shape_and_all_steps():
    shapes = []

    def loss(params, batch):
        shapes.append(batch["x"].shape)
        return square_error(params, batch)

    tx = gradtx.adamw(0.1)
    run(from_plain(loss), tx, [BATCH] * 3, 5)
    assert shapes == [(3, 3)]  # four parts of three
    run(from_plain(loss), tx, [BATCH] * 3, 7)
    assert set(shapes[1:]) == {(2, 3)} and len(shapes) == 2
    shapes.clear()
    run(from_plain(loss), tx, [jax.tree.map(lambda leaf: leaf[:11], BATCH)] * 3, 4)
    assert shapes == [(3, 3), (2, 3)]


def test_the_step_runs_inside_scan_and_vmap():
    tx = gradtx.adamw(0.1)
    step = make_train_step(plain, tx, accumulate=3)
    expected, _ = run(plain, tx, [BATCH] * 2, 3)
    many = jax.tree.map(lambda leaf: np.stack([leaf] * 2), BATCH)
    scanned, _ = jax.jit(lambda state, many: jax.lax.scan(step, state, many))(start(tx), many)
    assert_close(scanned, expected, rtol=1e-5)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), start(tx))
    mapped, _ = jax.vmap(step)(states, many)
    once, _ = run(plain, tx, [BATCH], 3)
    assert_close(jax.tree.map(lambda leaf: leaf[1], mapped), once, rtol=1e-5)


def test_a_batch_split_among_devices_stays_so_in_every_part():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    tx = gradtx.adamw(0.1)
    state = jax.device_put(start(tx), whole)
    step = make_train_step(plain, tx, accumulate=3)
    batch = jax.device_put(BATCH, split)
    text = step.lower(state, batch).compile().as_text()
    assert "all-gather" not in text and "all-to-all" not in text
    assert_close(step(state, batch)[0].params, run(plain, tx, [BATCH], 3)[0].params)


# Mistakes.


@pytest.mark.parametrize(
    ("accumulate", "error"),
    [(0, errors.ArgumentRangeError), (-2, errors.ArgumentRangeError), (True, errors.ArgumentTypeError),
     (2.5, errors.ArgumentTypeError), (None, errors.ArgumentTypeError), ("4", errors.ArgumentTypeError)],
)  # fmt: skip
def test_a_number_of_parts_that_is_none_is_refused(accumulate, error):
    with pytest.raises(error, match="accumulate"):
        make_train_step(plain, sgd(), accumulate=accumulate)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"x": X, "y": Y[:6]}, "12 at x, 6 at y"),
        ({"x": np.float32(1.0)}, "no array with a leading axis"),
        (None, "no array with a leading axis"),
        ({"x": X[:0], "y": Y[:0]}, "0 at x"),
    ],
)
def test_a_batch_that_cannot_be_cut_says_why(batch, words):
    with pytest.raises(errors.BatchError, match=words) as caught:
        make_train_step(plain, sgd(), accumulate=2)(start(sgd()), batch)
    assert "accumulate=1" in str(caught.value)


def test_a_number_in_the_batch_goes_to_every_part():
    loss = from_plain(lambda params, batch: batch["weight"] * square_error(params, batch))
    batch = {**BATCH, "weight": np.float32(0.5)}
    (state, _), (expected, _) = (run(loss, sgd(), [batch], k) for k in (4, 1))
    assert_close(state.params, expected.params)


def test_a_loss_cannot_report_a_metric_by_the_name_of_the_steps_own():
    def loss(params, model_state, batch, key):
        return square_error(params, batch), (model_state, {"skipped_micro_batches": 0})

    with pytest.raises(errors.LossFormError, match="skipped_micro_batches"):
        run(loss, sgd(), [BATCH], 2)
