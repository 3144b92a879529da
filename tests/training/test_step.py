"""Claims about the training and the evaluation step."""

import re

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors
from gradtx.training import (
    NonFiniteLossWarning,
    TrainState,
    batches,
    create_train_state,
    from_plain,
    make_eval_step,
    make_train_step,
)
from gradtx.training.step import signals_taken

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY)
BATCH = {"x": np.arange(12, dtype=np.float32).reshape(4, 3) / 12, "y": np.ones((4, 2), np.float32)}


def square_error(params, batch):
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


plain = from_plain(square_error)


def start(tx=None, params=None, **options):
    params = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)} if params is None else params
    return create_train_state(params, tx or gradtx.sgd(0.1), key=KEY, **options)


def loss_that_returns(make):
    def loss(params, model_state, batch, key):
        return make(square_error(params, batch), model_state, batch)

    return loss


# The step.


def test_one_step_of_sgd_is_the_float64_gradient_step():
    tx = gradtx.sgd(0.1)
    state, metrics = make_train_step(from_plain(square_error), tx)(start(tx), BATCH)
    x, y = BATCH["x"].astype(np.float64), BATCH["y"].astype(np.float64)
    residual = x @ np.ones((3, 2)) - y
    np.testing.assert_allclose(state.params["w"], 1 - 0.1 * 2 * x.T @ residual / 8, rtol=1e-6)
    np.testing.assert_allclose(state.params["b"], -0.1 * 2 * residual.sum(0) / 8, rtol=1e-6)
    assert float(metrics["loss"]) == pytest.approx((residual**2).mean(), rel=1e-6)
    assert int(state.step) == 1


@pytest.mark.parametrize("make", [gradtx.adamw, optax.adamw], ids=["gradtx", "optax"])
def test_ten_steps_agree_with_a_loop_written_by_hand(make):
    tx = make(0.05)
    step, state = make_train_step(from_plain(square_error), tx), start(tx)
    params = start(tx).params
    opt_state = tx.init(params)
    for _ in range(10):
        state, _ = step(state, BATCH)
        grads = jax.grad(square_error)(params, BATCH)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = gradtx.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.params, params)


def test_a_step_draws_a_fresh_key_that_depends_on_key_and_step_alone():
    def loss(params, model_state, batch, key):
        return square_error(params, batch), (model_state, {"draw": jax.random.uniform(key)})

    def draws(state, count):
        step = make_train_step(loss, gradtx.sgd(0.1))
        drawn = []
        for _ in range(count):
            state, metrics = step(state, BATCH)
            drawn.append(float(metrics["draw"]))
        return drawn

    drawn = draws(start(), 4)
    assert len(set(drawn)) == 4
    assert draws(start()._replace(step=jnp.array(2, jnp.int32)), 2) == drawn[2:]


def test_the_step_is_traced_once():
    traces = []

    def loss(params, model_state, batch, key):
        traces.append(1)
        return square_error(params, batch), ({"mean": 0.5 * model_state["mean"] + 1}, {})

    tx = gradtx.adamw(lambda count: 0.1 / (1 + count))
    step, state = make_train_step(loss, tx), start(tx, model_state={"mean": 1.0})
    for _ in range(5):
        state, _ = step(state, BATCH)
    assert len(traces) == 1


def test_a_state_restored_as_numpy_arrays_continues_without_a_new_trace():
    traces = []

    def loss(params, batch):
        traces.append(1)
        return square_error(params, batch)

    tx = gradtx.adamw(0.1)
    step = make_train_step(from_plain(loss), tx)
    state, _ = step(start(tx), BATCH)
    restored = jax.tree.map(np.asarray, jax.device_get(state))
    before = jax.tree.map(np.copy, restored)
    continued, _ = step(state, BATCH)
    again, _ = step(restored, BATCH)
    jax.tree.map(np.testing.assert_array_equal, again, continued)
    jax.tree.map(np.testing.assert_array_equal, restored, before)
    assert len(traces) == 1


def test_the_step_counter_stays_at_its_largest_value():
    state = start()._replace(step=jnp.array(2**31 - 1, jnp.int32))
    state, _ = make_train_step(from_plain(square_error), gradtx.sgd(0.1))(state, BATCH)
    assert int(state.step) == 2**31 - 1


def test_a_step_runs_inside_jit_scan_and_eval_shape():
    tx = gradtx.adamw(0.1)
    step = make_train_step(from_plain(square_error), tx)
    expected = start(tx)
    for _ in range(3):
        expected, _ = step(expected, BATCH)
    many = {name: np.stack([value] * 3) for name, value in BATCH.items()}
    scanned, metrics = jax.jit(lambda state, many: jax.lax.scan(step, state, many))(start(tx), many)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), scanned, expected)
    assert metrics["loss"].shape == (3,)
    assert jax.eval_shape(step, start(tx), BATCH)[0].step.dtype == jnp.int32


def test_parameters_on_a_mesh_stay_there_and_the_step_is_compiled_once():
    mesh = jax.make_mesh((4,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("model"))
    tx = gradtx.adamw(0.1)
    params = {"w": jax.device_put(jnp.ones((8, 3)), split), "b": jnp.zeros(3)}
    state = create_train_state(params, tx, key=KEY)
    step = make_train_step(from_plain(lambda params, batch: jnp.mean((batch @ params["w"] + params["b"]) ** 2)), tx)
    compilations = []

    def count(event, seconds, **_):
        compilations.extend([event] if "backend_compile" in event else [])

    state, _ = step(state, np.ones((5, 8), np.float32))
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        for _ in range(2):
            state, _ = step(state, np.ones((5, 8), np.float32))
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert not compilations
    assert state.params["w"].sharding.is_equivalent_to(split, 2)


def test_vmap_trains_one_network_per_key():
    tx = gradtx.adamw(0.1)
    step = make_train_step(from_plain(lambda params, batch: jnp.sum((params["w"] - batch) ** 2)), tx)
    keys = jax.random.split(KEY, 3)
    states = jax.vmap(lambda key: create_train_state({"w": jax.random.normal(key, (2,))}, tx, key=key))(keys)
    _, metrics = jax.vmap(step, in_axes=(0, None))(states, jnp.ones(2))
    assert len(set(metrics["loss"].tolist())) == 3


def test_a_frozen_table_of_integers_among_the_parameters_stays():
    tx = gradtx.only(gradtx.adam(0.1), "w")
    params = {"w": jnp.ones(3), "table": jnp.arange(3)}
    loss = from_plain(lambda params, batch: jnp.sum(params["w"] ** 2 * params["table"]))
    state, metrics = make_train_step(loss, tx, gradient_norm=True)(start(tx, params), None)
    assert float(metrics["gradient_norm"]) == pytest.approx(20**0.5, rel=1e-6)
    assert state.params["table"].tolist() == [0, 1, 2]
    assert state.params["w"][2] < 1


def test_a_run_resumed_from_bytes_equals_the_uninterrupted_one():
    def loss(params, model_state, batch, key):
        noise = jax.random.normal(key, batch["y"].shape)
        return square_error(params, {**batch, "y": batch["y"] + noise}), (model_state + 1, {})

    def run(state, stop):
        for batch in batches(BATCH, 3, key=KEY, epochs=3, start=int(state.step)):
            if int(state.step) == stop:
                return state
            state, _ = step(state, batch)
        return state

    tx = gradtx.adamw(0.1)
    step = make_train_step(loss, tx)
    expected = run(start(tx, model_state=0.0), None)
    stopped = flax.serialization.to_bytes(run(start(tx, model_state=0.0), 3))
    resumed = run(flax.serialization.from_bytes(start(tx, model_state=0.0), stopped), None)
    assert int(resumed.step) == 6
    jax.tree.map(np.testing.assert_array_equal, resumed, expected)


def test_a_new_loss_is_still_checked_after_a_traced_call():
    step = make_train_step(from_plain(lambda params, batch: square_error(params, batch) * jnp.nan), gradtx.sgd(0.1))
    jax.eval_shape(step, start(), BATCH)
    with pytest.warns(NonFiniteLossWarning):
        step(start(), BATCH)


def test_complex_parameters_descend():
    tx = gradtx.sgd(0.1)
    step = make_train_step(from_plain(lambda z, batch: jnp.abs(z - batch) ** 2), tx)
    state = create_train_state(jnp.complex64(0), tx, key=KEY)
    for _ in range(100):
        state, _ = step(state, np.complex64(1 + 2j))
    assert complex(state.params) == pytest.approx(1 + 2j, abs=1e-3)


# Signals.


def test_a_library_transformation_and_a_line_search_get_the_standard_signals():
    tx = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=15))
    step, state = make_train_step(from_plain(square_error), tx), start(tx)
    losses = []
    for _ in range(30):
        state, metrics = step(state, BATCH)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 1e-2 * losses[0]


def test_a_foreign_update_gets_only_what_its_signature_names():
    seen = []

    def update(updates, state, params=None, *, value, key):
        seen.append((value.shape, jax.random.uniform(key).shape))
        return jax.tree.map(lambda g: -0.1 * g, updates), state

    tx = optax.GradientTransformation(lambda params: (), update)
    make_train_step(from_plain(square_error), tx)(start(tx), BATCH)
    assert seen == [((), ())]
    assert signals_taken(optax.identity().update) == ()
    assert signals_taken(gradtx.adam(1e-3).update) == ("value", "grad", "value_fn", "key")


def test_value_fn_is_the_loss_of_this_batch_with_the_keys_of_this_step():
    values = []

    def update(updates, state, params=None, *, value, value_fn):
        values.append(value - value_fn(params))
        return jax.tree.map(jnp.zeros_like, updates), values[-1]

    def loss(params, model_state, batch, key):
        return square_error(params, batch) * (model_state + jax.random.uniform(key)), (model_state + 1, {})

    tx = optax.GradientTransformation(lambda params: jnp.ones(()), update)
    state, _ = make_train_step(loss, tx)(start(tx, model_state=0.0), BATCH)
    assert float(state.opt_state) == 0.0


# Memory.


def copies(step, state, batch, shape):
    text = step.lower(state, batch).compile().as_text()
    return len(re.findall(rf"= \S*\[{shape}\]\S* copy\(", text))


def test_no_donated_array_is_copied():
    tx = gradtx.adamw(0.1)
    params = {name: jnp.ones((48, 48)) for name in ("a", "b", "c")}
    batch = {"x": np.ones((8, 48), np.float32)}

    def loss(params, batch):
        return sum(jnp.mean(jnp.tanh(batch["x"] @ w) ** 2) for w in params.values())

    assert copies(make_train_step(from_plain(loss), tx), start(tx, params), batch, "48,48") == 0


def test_no_state_of_the_optimizer_is_copied_below_a_backward_pass():
    tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(0.1))
    params = {name: jnp.ones((48, 48)) for name in ("a", "b", "c")}
    batch = {"x": np.ones((8, 48), np.float32)}

    def loss(params, batch):
        x = batch["x"]
        for w in params.values():
            x = jnp.tanh(x @ w)
        return jnp.mean(x**2)

    assert copies(make_train_step(from_plain(loss), tx), start(tx, params), batch, "48,48") == 0


def test_the_callers_arrays_survive_the_donation_of_the_state():
    params, model_state = {"w": jnp.ones((3, 2)), "b": jnp.zeros(2)}, {"mean": jnp.zeros(3)}
    key = jax.random.PRNGKey(0)
    tx = gradtx.adamw(0.1)
    state = create_train_state(params, tx, key=key, model_state=model_state)
    step = make_train_step(from_plain(square_error), tx)
    for _ in range(2):
        state, _ = step(state, BATCH)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((params, model_state, key)))


def test_a_foreign_state_that_shares_arrays_with_the_parameters_can_be_donated():
    def init(params):
        return params, params

    tx = optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))
    state, _ = make_train_step(from_plain(square_error), tx)(start(tx), BATCH)
    np.testing.assert_array_equal(state.opt_state[0]["w"], np.ones((3, 2)))


def test_without_donation_the_old_state_stays():
    old = start()
    make_train_step(from_plain(square_error), gradtx.sgd(0.1), donate=False)(old, BATCH)
    np.testing.assert_array_equal(old.params["w"], np.ones((3, 2)))


def test_using_a_donated_state_again_says_how_the_loop_is_written():
    step, old = make_train_step(from_plain(square_error), gradtx.sgd(0.1)), start()
    step(old, BATCH)
    with pytest.raises(errors.ArgumentTypeError, match=r"state, metrics = step\(state, batch\)"):
        step(old, BATCH)


# Metrics.


def test_metrics_are_scalars_on_the_device_with_the_users_own_among_them():
    def loss(params, model_state, batch, key):
        own = {"accuracy": jnp.float16(0.5), "hits": np.int8(3), "is_even": jnp.array(True), "weight": 2.0}
        return square_error(params, batch).astype(jnp.bfloat16), (model_state, own)

    _, metrics = make_train_step(loss, gradtx.sgd(0.1), gradient_norm=True)(start(), BATCH)
    dtypes = {name: str(value.dtype) for name, value in metrics.items() if isinstance(value, jax.Array)}
    assert dtypes == {
        "accuracy": "float32", "examples": "int32", "gradient_norm": "float32", "hits": "int32", "is_even": "int32",
        "loss": "float32", "weight": "float32",
    }  # fmt: skip
    assert int(metrics["examples"]) == 4


def test_the_gradient_norm_is_that_of_the_gradient_before_the_transformation():
    tx = gradtx.chain(gradtx.clip_by_global_norm(1e-3), gradtx.sgd(0.1))
    _, metrics = make_train_step(from_plain(square_error), tx, gradient_norm=True)(start(tx), BATCH)
    flat, _ = jax.flatten_util.ravel_pytree(jax.grad(square_error)(start().params, BATCH))
    assert float(metrics["gradient_norm"]) == pytest.approx(float(np.linalg.norm(flat)), rel=1e-6)


def test_the_loss_may_count_its_examples_itself():
    loss = loss_that_returns(lambda value, state, batch: (value, (state, {"examples": jnp.sum(batch["y"])})))
    _, metrics = make_train_step(loss, gradtx.sgd(0.1))(start(), BATCH)
    assert metrics["examples"].tolist() == 8


def test_a_batch_without_arrays_is_one_example():
    step = make_train_step(from_plain(lambda params, batch: jnp.sum(params["b"] ** 2)), gradtx.sgd(0.1))
    assert int(step(start(), None)[1]["examples"]) == 1


def test_a_batch_of_several_lengths_must_say_what_an_example_is():
    with pytest.raises(errors.BatchError, match="examples"):
        make_train_step(from_plain(lambda params, batch: jnp.sum(params["b"])), gradtx.sgd(0.1))(
            start(), {"nodes": np.ones(3), "edges": np.ones(5)}
        )


# Evaluation.


def test_evaluation_changes_nothing_and_gives_the_metrics_of_training():
    def loss(params, model_state, batch, key):
        return square_error(params, batch), (model_state, {"twice": 2 * square_error(params, batch)})

    state = start()
    metrics = make_eval_step(loss)(state, BATCH)
    _, expected = make_train_step(loss, gradtx.sgd(0.1))(start(), BATCH)
    assert {name: float(value) for name, value in metrics.items()} == {
        name: pytest.approx(float(value)) for name, value in expected.items()
    }
    assert not state.params["w"].is_deleted()


# Wrong forms, all found before anything is computed.


@pytest.mark.parametrize(
    ("returned", "error", "hint"),
    [
        (lambda value, state, batch: value, errors.LossFormError, "from_plain"),
        (lambda value, state, batch: (value, state, {}), errors.LossFormError, "(scalar, (model_state, metrics))"),
        (lambda value, state, batch: (value, {}), errors.LossFormError, "model state or metrics are missing"),
        (lambda value, state, batch: (value, ({}, state)), errors.LossFormError, "metrics come after the model"),
        (lambda value, state, batch: (batch["y"][0] * value, (state, {})), errors.LossFormError, "jnp.mean(loss)"),
        (lambda value, state, batch: ((value, {}), (state, {})), errors.LossFormError, "comes first, and alone"),
        (lambda value, state, batch: (jnp.int32(value), (state, {})), errors.LossFormError, "no gradient"),
        (lambda value, state, batch: (value, (state, {"a": batch["y"]})), errors.LossFormError, "jnp.mean(value)"),
        (lambda value, state, batch: (value, (state, {"a": {"b": value}})), errors.LossFormError, "flat dict"),
        (lambda value, state, batch: (value, (state, {"loss": value})), errors.LossFormError, "rename or drop 'loss'"),
        (lambda value, state, batch: (value, (state, {"a": value * 1j})), errors.LossFormError, "abs(a)"),
        (lambda value, state, batch: (value, ({"batch_stats": state}, {})), errors.StructureError, "'batch_stats'"),
        (lambda value, state, batch: (value, ({"mean": batch["x"]}, {})), errors.ShapeError, "model_state/mean"),
        (lambda value, state, batch: (value, ({"mean": state["mean"].astype(jnp.bfloat16)}, {})),
         errors.DtypeError, "model_state/mean"),
    ],
)  # fmt: skip
def test_a_loss_of_another_form_is_shown_the_right_one(returned, error, hint):
    model_state = {"mean": jnp.zeros(3)}
    loss = loss_that_returns(returned)
    steps = [make_train_step(loss, gradtx.sgd(0.1)), make_eval_step(loss)]
    for step in steps:
        with pytest.raises(error) as caught:
            step(start(model_state=model_state), BATCH)
        assert hint in str(caught.value)


def test_a_plain_loss_is_told_to_be_lifted_before_the_first_step():
    for make in (lambda loss: make_train_step(loss, gradtx.sgd(0.1)), make_eval_step):
        with pytest.raises(errors.LossFormError, match=r"from_plain\(square_error\)"):
            make(square_error)


@pytest.mark.parametrize(
    ("make", "error", "hint"),
    [
        (lambda: make_train_step(gradtx.sgd(0.1), from_plain(square_error)), errors.ArgumentTypeError, "another order"),
        (lambda: make_train_step(from_plain(square_error), 0.1), errors.ArgumentTypeError, "(init, update)"),
        (lambda: make_train_step(from_plain(square_error), gradtx.adam), errors.ArgumentTypeError, "learning rate"),
        (lambda: make_train_step(plain, gradtx.sgd(0.1), donate=1), errors.ArgumentTypeError, "donate"),
        (lambda: make_train_step(plain, gradtx.sgd(0.1), donat=True), errors.ArgumentTypeError, "donate"),
        (lambda: create_train_state({"w": 1.0}, gradtx.sgd(0.1), key=0), errors.ArgumentTypeError, "jax.random.key(0)"),
        (lambda: create_train_state({"w": 1.0}, gradtx.sgd(0.1), key=jnp.ones(2)), errors.ArgumentTypeError, "key"),
        (lambda: create_train_state({}, gradtx.sgd(0.1), key=KEYS), errors.ArgumentTypeError, "array of keys"),
        (lambda: create_train_state({"f": {"g": len}}, gradtx.sgd(0.1), key=KEY), errors.DtypeError, "f/g"),
        (lambda: make_eval_step(plain)({"w": 1.0}, BATCH), errors.ArgumentTypeError, "create_train_state"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(make, error, hint):
    with pytest.raises(error) as caught:
        make()
    assert hint in str(caught.value)


# The first loss.


def test_a_first_loss_that_is_not_finite_is_reported_with_the_leaf_of_the_batch():
    step = make_train_step(from_plain(square_error), gradtx.sgd(0.1))
    bad = {**BATCH, "x": np.full((4, 3), np.nan, np.float32)}
    with pytest.warns(NonFiniteLossWarning, match="not finite at x"):
        state, _ = step(start(), bad)
    step(state, bad)  # a warning would be an error, as everywhere


def test_normal_training_warns_of_nothing():
    tx = gradtx.adamw(0.1)
    state, step = start(tx), make_train_step(from_plain(square_error), tx)
    for batch in batches(BATCH, 3, key=KEY, epochs=2):
        state, _ = step(state, batch)  # a warning would be an error, as everywhere


# The state.


def test_a_typed_and_a_raw_key_make_the_same_state():
    typed, raw = (create_train_state({}, gradtx.sgd(0.1), key=key).key for key in (KEY, jax.random.PRNGKey(0)))
    np.testing.assert_array_equal(typed, raw)
    assert typed.dtype == jnp.uint32


def test_a_key_of_another_implementation_stays_one():
    def loss(params, model_state, batch, key):
        assert jax.random.key_impl(key) == "rbg" or "rbg" in str(jax.random.key_impl(key))
        return square_error(params, batch), (model_state, {})

    state = start()._replace(key=jax.random.key_data(jax.random.key(0, impl="rbg")))
    make_train_step(loss, gradtx.sgd(0.1))(state, BATCH)


def test_leaves_become_arrays_that_are_not_weakly_typed():
    state = create_train_state({"w": 1.0, "v": np.ones(2, np.float32), "u": jnp.asarray(1.0)}, gradtx.sgd(0.1), key=KEY)
    assert all(isinstance(leaf, jax.Array) and not leaf.weak_type for leaf in jax.tree.leaves(state))


def test_the_state_is_made_under_jit_and_eval_shape():
    tx = gradtx.adamw(0.1)
    shapes = jax.eval_shape(lambda params: create_train_state(params, tx, key=KEY), {"w": jnp.ones(3)})
    assert isinstance(shapes, TrainState)
    assert shapes.params["w"].shape == (3,)


# What a watch saw.


def test_the_metrics_have_what_a_watch_in_the_optimizer_saw_and_outlive_the_state():
    tx = gradtx.chain(gradtx.clip_by_global_norm(1e-3), gradtx.watch(gradtx.sgd(0.1), per_leaf=True))
    state, step, history = start(tx), make_train_step(plain, tx), []
    for _ in range(2):
        state, metrics = step(state, BATCH)
        history.append(metrics)
    assert float(history[0]["gradient_norm"]) == pytest.approx(1e-3, rel=1e-6)
    assert float(history[1]["update_norm/w"]) < float(history[1]["update_norm"]) == pytest.approx(1e-4, rel=1e-6)
    assert {value.dtype for name, value in metrics.items() if name != "examples"} == {np.dtype(np.float32)}


def test_the_gradient_norm_asked_for_is_the_one_before_all_parts():
    tx = gradtx.chain(gradtx.clip_by_global_norm(1e-3), gradtx.watch(gradtx.sgd(0.1)))
    _, metrics = make_train_step(plain, tx, gradient_norm=True)(start(tx), BATCH)
    assert float(metrics["gradient_norm"]) > 1e-2 and float(metrics["update_norm"]) == pytest.approx(1e-4, rel=1e-6)


def test_a_loss_cannot_report_a_metric_by_the_name_of_one_that_is_watched():
    loss = loss_that_returns(lambda value, model_state, batch: (value, (model_state, {"update_ratio": value})))
    tx = gradtx.watch(gradtx.sgd(0.1))
    with pytest.raises(errors.LossFormError, match="update_ratio"):
        make_train_step(loss, tx)(start(tx), BATCH)


def test_evaluation_runs_inside_another_compiled_function():
    state = create_train_state({"w": jnp.ones(2)}, gradtx.sgd(0.1), key=jax.random.key(0))
    evaluate = make_eval_step(from_plain(lambda params, batch: jnp.mean((params["w"] - batch) ** 2)))
    for inside in (jax.jit(evaluate), jax.vmap(evaluate, in_axes=(None, 0))):
        found = inside(state, jnp.zeros((3, 2)))["loss"]
        assert jnp.allclose(found, 1.0)
