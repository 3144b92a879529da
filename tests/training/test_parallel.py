"""Claims about steps on several devices: they are the steps of one device, however they are run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradtx
from gradtx import errors, norm
from gradtx.training import create_train_state, from_plain, make_eval_step, make_train_step, padded

KEY = jax.random.key(0)
MODES = ("jit", "shard_map", "pmap", "zero", "fsdp")
APART = MODES[1:]

CLIPPED = gradtx.chain(gradtx.clip_by_global_norm(0.1), gradtx.adamw(1e-2))
OPTIMIZERS = {
    "clipped adamw": CLIPPED,
    "adamw": gradtx.adamw(lambda step: 1e-2 / (1 + step), weight_decay=0.1),
    "lamb": gradtx.lamb(1e-2),
    "schedule-free": gradtx.schedule_free_adamw(1e-2),
    "adafactor": gradtx.adafactor(1e-2, min_dim_size_to_factor=4),
    "accumulate": gradtx.accumulate(gradtx.adamw(1e-2), 2),
    "watched": gradtx.watch(gradtx.skip_nonfinite(gradtx.adamw(1e-2))),
}


def mesh_of(count, **options):
    return jax.make_mesh((count,), ("data",), devices=jax.devices()[:count], **options)


def start(tx, dtype=jnp.float32, **options):
    random = np.random.default_rng(1)
    params = {
        "first": {"kernel": random.normal(size=(6, 8)) / 2, "bias": np.zeros(8)},
        "last": {"kernel": random.normal(size=(8, 3)) / 2, "bias": np.zeros(3)},
    }
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    return create_train_state(params, tx, key=KEY, **options)


def batch_of(length, seed=0):
    random = np.random.default_rng(seed)
    return {"x": random.normal(size=(length, 6)), "y": random.normal(size=(length, 3)), "weight": 1.0}


def predicted(params, x):
    return jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"]) @ params["last"]["kernel"]


def loss(params, model_state, batch, key):
    dtype = params["last"]["bias"].dtype
    error = predicted(params, batch["x"].astype(dtype)) + params["last"]["bias"] - batch["y"].astype(dtype)
    return batch["weight"] * jnp.mean(error**2), (model_state, {"error": jnp.mean(jnp.abs(error))})


def run(tx, parallel, count, batches, dtype=jnp.float32, loss=loss, **options):
    mesh = mesh_of(count) if count else None
    step, state = make_train_step(loss, tx, parallel=parallel, mesh=mesh, **options), start(tx, dtype)
    history = []
    for batch in batches:
        state, metrics = step(state, batch)
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


def assert_alike(actual, expected, tolerance):
    """Within ``tolerance`` of the largest of each leaf."""
    for (path, a), b in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(initial=1e-3), err_msg=str(path))


# The same training.


def assert_trains_as_one_device(tx, parallel, count, lengths=(16, 13, 16), **options):
    """In float64, with a batch that the devices do not divide."""
    batches = [batch_of(length, seed) for seed, length in enumerate(lengths)]
    with jax.enable_x64(True):
        state, history = run(tx, parallel, count, batches, jnp.float64, **options)
        expected, expected_history = run(tx, "jit", 0, batches, jnp.float64, **options)
        assert_alike(state._replace(key=0), expected._replace(key=0), 1e-12)
    for metrics, others in zip(history, expected_history, strict=True):
        assert metrics == pytest.approx(others, rel=2e-6)


@pytest.mark.parametrize("parallel", ["shard_map", "zero"])
def test_a_run_on_two_devices_is_that_on_one(parallel):
    assert_trains_as_one_device(CLIPPED, parallel, 2, lengths=(13, 13))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", MODES)
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_a_run_is_the_same_on_any_number_of_devices(parallel, count):
    assert_trains_as_one_device(CLIPPED, parallel, count, gradient_norm=True)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["shard_map", "zero", "fsdp"])
@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "clipped adamw"])
def test_every_optimizer_trains_on_devices_as_on_one(name, parallel):
    assert_trains_as_one_device(OPTIMIZERS[name], parallel, 4)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", MODES)
def test_accumulating_on_devices_is_accumulating_on_one(parallel):
    assert_trains_as_one_device(CLIPPED, parallel, 2, accumulate=2)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["shard_map", "zero"])
def test_parts_of_a_batch_are_the_same_on_devices(parallel):
    batch = batch_of(16)
    batch["x"][5] = np.nan  # the second of two parts, on the second device
    results = [run(CLIPPED, how, count, [batch], accumulate=2) for how, count in (("jit", 0), (parallel, 2))]
    (expected, (metrics,)), (state, (others,)) = results
    assert metrics["skipped_micro_batches"] == others["skipped_micro_batches"] == 1
    assert metrics["examples"] == others["examples"] == 8
    assert_alike(state.params, expected.params, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", APART)
def test_float32_parameters_agree_after_twenty_steps(parallel):
    batches = [batch_of(16, seed) for seed in range(20)]
    state, _ = run(gradtx.adamw(1e-2), parallel, 8, batches)
    expected, _ = run(gradtx.adamw(1e-2), "jit", 0, batches)
    assert_alike(state.params, expected.params, 1e-5)


@pytest.mark.parametrize("parallel", ["shard_map", "zero"])
def test_float32_gradients_agree(parallel):
    """What the step hands to the optimizer, kept there by an average that forgets at once."""
    tx = gradtx.chain(gradtx.ema(0.0), gradtx.sgd(0.1))
    seen = [gradtx.tree.get(run(tx, how, count, [batch_of(16)])[0].opt_state, "ema/mean")
            for how, count in ((parallel, 8), ("jit", 0))]  # fmt: skip
    assert_alike(*seen, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", APART)
def test_muon_agrees_to_its_own_precision(parallel):
    """Its iteration runs in float32."""
    batches = [batch_of(16), batch_of(16, 1)]
    state, _ = run(gradtx.muon(1e-2), parallel, 4, batches)
    expected, _ = run(gradtx.muon(1e-2), "jit", 0, batches)
    assert_alike(state.params, expected.params, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["shard_map", "fsdp"])
def test_means_are_weighted_by_the_examples_that_the_loss_counts(parallel):
    def masked(params, model_state, batch, key):
        error = jnp.sum((predicted(params, batch["x"]) - batch["y"]) ** 2, 1)
        count = jnp.sum(batch["counts"])
        return jnp.sum(error * batch["counts"]) / count, (model_state, {"examples": count})

    batch = {**batch_of(16), "counts": np.arange(16.0) * (np.arange(16) >= 4)}  # the first device has none
    state, (metrics,) = run(gradtx.adamw(1e-2), parallel, 4, [batch], loss=masked)
    expected, (others,) = run(gradtx.adamw(1e-2), "jit", 0, [batch], loss=masked)
    assert metrics == pytest.approx(others, rel=1e-5)
    assert_alike(state.params, expected.params, 1e-5)


# Keys, norms, guards.


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_each_device_draws_its_own_numbers_and_a_run_draws_them_again(parallel):
    def draw(params, model_state, batch, key):
        number = jax.random.uniform(key)
        return jnp.sum(params["last"]["bias"]), (model_state, {"mean": number, "square": number**2})

    first, again = (run(gradtx.sgd(0.1), parallel, 4, [batch_of(8)] * 2, loss=draw)[1] for _ in range(2))
    assert first == again
    assert first[0]["mean"] != first[1]["mean"]
    assert first[0]["square"] - first[0]["mean"] ** 2 > 1e-3  # a variance, over devices


def test_compiled_with_shardings_a_step_draws_what_one_device_draws():
    def noisy(params, model_state, batch, key):
        noise = jax.random.normal(key, batch["y"].shape)
        return jnp.mean((predicted(params, batch["x"]) + noise) ** 2), (model_state, {})

    states = [run(gradtx.sgd(0.1), "jit", count, [batch_of(16)], loss=noisy)[0] for count in (0, 4)]
    assert_alike(states[1].params, states[0].params, 1e-6)


def normalized(axis_name):
    layer = norm.batch_norm(axis_name=axis_name)

    def loss(params, model_state, batch, key):
        h, model_state = layer.apply(params["norm"], model_state, batch["x"] @ params["w"], True)
        return jnp.mean((jnp.tanh(h) - batch["y"]) ** 2), (model_state, {})

    scales, statistics = layer.init((16, 3))
    return (
        loss,
        {"w": jnp.asarray(np.random.default_rng(0).normal(size=(6, 3)), jnp.float32), "norm": scales},
        statistics,
    )


def trained_with_norm(axis_name, parallel, count, length=16):
    loss, params, statistics = normalized(axis_name)
    tx = gradtx.sgd(0.1)
    state = create_train_state(params, tx, key=KEY, model_state=statistics)
    step = make_train_step(loss, tx, parallel=parallel, mesh=mesh_of(count) if count else None)
    batch = {name: np.asarray(leaf, np.float32) for name, leaf in batch_of(length).items() if name != "weight"}
    for _ in range(2):
        state, _ = step(state, batch)
    return state


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["shard_map", "pmap", "zero"])
def test_synced_statistics_are_those_of_the_whole_batch(parallel):
    expected, state = trained_with_norm(None, "jit", 0), trained_with_norm("data", parallel, 4)
    assert_alike((state.params, state.model_state), (expected.params, expected.model_state), 2e-6)


def test_compiled_with_shardings_statistics_are_those_of_the_whole_batch():
    expected, state = trained_with_norm(None, "jit", 0), trained_with_norm(None, "jit", 4)
    assert_alike((state.params, state.model_state), (expected.params, expected.model_state), 2e-6)


def test_local_statistics_are_averaged_over_devices():
    expected, state = trained_with_norm(None, "jit", 0), trained_with_norm((), "shard_map", 4)
    assert int(state.model_state.step) == 2
    assert np.all(np.asarray(state.model_state.variance) < np.asarray(expected.model_state.variance))


def test_synced_statistics_of_shares_that_differ_are_refused():
    with pytest.raises(errors.BatchError, match="padded"):
        trained_with_norm("data", "shard_map", 4, length=14)


def masked_and_normalized(axis_name):
    layer = norm.batch_norm(axis_name=axis_name)

    def loss(params, model_state, batch, key):
        mask = batch["mask"]
        h, model_state = layer.apply(params["norm"], model_state, batch["x"] @ params["w"], True, where=mask[:, None])
        error = jnp.sum((jnp.tanh(h) - batch["y"]) ** 2, -1)
        count = jnp.sum(mask)
        value = jnp.sum(jnp.where(mask, error, 0)) / jnp.maximum(count, 1)
        return value, (model_state, {"examples": count, "error": value})

    return loss


@pytest.mark.parametrize(
    ("parallel", "length", "accumulate"),
    [
        ("shard_map", 13, 1),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (
            ("pmap", 13, 1), ("zero", 13, 1), ("fsdp", 13, 1), ("zero", 3, 1), ("shard_map", 13, 2), ("zero", 16, 1),
        )),
    ],
)  # fmt: skip
def test_a_padded_batch_with_synced_statistics_is_the_short_batch_on_one_device(parallel, length, accumulate):
    """In float64; with 3 of 16 examples, three of four devices have none. Parts take every other example."""
    short = {name: leaf for name, leaf in batch_of(length).items() if name != "weight"}
    batch, mask = padded(short, 16)
    batch["mask"] = mask
    alone = {**short, "mask": np.ones(length, bool)} if accumulate == 1 else batch
    with jax.enable_x64(True):
        _, params, statistics = normalized("data")
        params, statistics = jax.tree.map(
            lambda leaf: leaf.astype(float) if leaf.dtype == jnp.float32 else leaf, (params, statistics)
        )
        found = []
        for how, mesh, name, given in ((parallel, mesh_of(4), "data", batch), ("jit", None, None, alone)):
            tx = gradtx.sgd(0.1)
            state = create_train_state(params, tx, key=KEY, model_state=statistics)
            step = make_train_step(masked_and_normalized(name), tx, parallel=how, mesh=mesh, accumulate=accumulate)
            found.append(step(state, given))
        (state, metrics), (expected, others) = found
        assert_alike((state.params, state.model_state), (expected.params, expected.model_state), 1e-12)
    assert metrics["examples"] == length and metrics["examples"].dtype == others["examples"].dtype
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(
        {name: float(value) for name, value in others.items()}, rel=2e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize("parallel", APART)
def test_a_guard_leaves_out_the_step_of_all_devices(parallel):
    tx = gradtx.skip_nonfinite(gradtx.adamw(1e-2))
    bad = batch_of(16)
    bad["x"][3] = np.nan
    state, history = run(tx, parallel, 4, [batch_of(16), bad])
    expected, _ = run(tx, "jit", 0, [batch_of(16)])
    assert history[1]["skipped_steps"] == 1 and int(state.step) == 1
    assert_alike(state.params, expected.params, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", APART)
def test_a_loss_scale_is_applied_on_every_device(parallel):
    tx = gradtx.dynamic_loss_scale(gradtx.sgd(0.1), initial_scale=1024.0)
    state, (metrics,) = run(tx, parallel, 4, [batch_of(16)], gradient_norm=True)
    expected, (others,) = run(tx, "jit", 0, [batch_of(16)], gradient_norm=True)
    assert metrics == pytest.approx(others, rel=1e-5)
    assert_alike(state.params, expected.params, 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["shard_map", "zero", "fsdp"])
def test_a_line_search_asks_all_devices(parallel):
    tx = gradtx.chain(gradtx.sgd(1.0), gradtx.scale_by_backtracking_linesearch(5))
    state, _ = run(tx, parallel, 4, [batch_of(16)] * 2)
    expected, _ = run(tx, "jit", 0, [batch_of(16)] * 2)
    assert_alike(state.params, expected.params, 1e-5)


@pytest.mark.slow
def test_gradients_of_single_examples_are_split_by_the_compiler():
    tx = gradtx.dpsgd(0.1, l2_norm_clip=1.0, noise_multiplier=0.0, seed=0)
    state, _ = run(tx, "jit", 4, [batch_of(16)])
    assert_alike(state.params, run(tx, "jit", 0, [batch_of(16)])[0].params, 1e-6)
    with pytest.raises(errors.ArgumentRangeError, match='parallel="jit"'):
        make_train_step(loss, tx, parallel="shard_map", mesh=mesh_of(4))


# Where things lie.


@pytest.mark.slow
@pytest.mark.parametrize("parallel", MODES)
def test_a_state_stays_where_it_was_put_and_the_step_is_compiled_once(parallel):
    traces = []

    def counted(params, model_state, batch, key):
        traces.append(1)
        return loss(params, model_state, batch, key)

    mesh, tx = mesh_of(4), gradtx.adamw(1e-2)
    step, state = make_train_step(counted, tx, parallel=parallel, mesh=mesh), start(tx)
    state, _ = step(state, batch_of(16))
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    old = state
    state, _ = step(state, batch_of(16, 1))
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == places
    assert len(traces) == 1
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))
    step(jax.tree.map(np.asarray, state), batch_of(16))  # from a checkpoint
    assert len(traces) == 1


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", "shard_map", "zero", "fsdp"])
def test_parameters_that_are_split_along_another_axis_stay_so(parallel):
    mesh = jax.make_mesh((2, 2), ("data", "model"), devices=jax.devices()[:4], axis_types=(AxisType.Auto,) * 2)
    specs = {"first": {"kernel": P(None, "model"), "bias": P("model")}, "last": {"kernel": P("model"), "bias": P()}}
    tx = CLIPPED
    params = jax.tree.map(lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), start(tx).params, specs)
    state = create_train_state(params, tx, key=KEY)
    step = make_train_step(loss, tx, parallel=parallel, mesh=mesh)
    for _ in range(2):
        state, _ = step(state, batch_of(16))
    expected, _ = run(tx, "jit", 0, [batch_of(16)] * 2)
    assert_alike(state.params, expected.params, 1e-5)
    kernel = state.params["first"]["kernel"]
    assert kernel.sharding.spec == (P("data", "model") if parallel == "fsdp" else P(None, "model"))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", "zero"])
def test_a_mesh_with_explicit_axes_will_do_also_where_it_is_in_force(parallel):
    mesh, tx = mesh_of(4, axis_types=(AxisType.Explicit,)), gradtx.adamw(1e-2)
    with jax.set_mesh(mesh):
        params = jax.device_put(start(tx).params, NamedSharding(mesh, P()))
        state = create_train_state(params, tx, key=KEY)
        step = make_train_step(loss, tx, parallel=parallel, mesh=mesh)
        for _ in range(2):
            state, _ = step(state, batch_of(16))
    assert_alike(state.params, run(tx, "jit", 0, [batch_of(16)] * 2)[0].params, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["jit", "shard_map", "zero"])
def test_a_step_on_devices_runs_inside_a_loop_of_the_program(parallel):
    tx = gradtx.adamw(1e-2)
    step = make_train_step(loss, tx, parallel=parallel, mesh=mesh_of(4))
    batches = jax.tree.map(lambda *leaves: np.stack(leaves), *[batch_of(16, seed) for seed in range(2)])
    state, metrics = jax.jit(lambda state: jax.lax.scan(step, state, batches))(start(tx))
    expected, _ = run(tx, "jit", 0, [batch_of(16, seed) for seed in range(2)])
    assert metrics["loss"].shape == (2,)
    assert_alike(state.params, expected.params, 1e-5)


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices_and_another_way():
    tx = gradtx.adamw(1e-2)
    state, _ = run(tx, "zero", 4, [batch_of(16)])
    state, _ = make_train_step(loss, tx, parallel="fsdp", mesh=mesh_of(2))(state, batch_of(16, 1))
    state, _ = make_train_step(loss, tx, parallel="shard_map", mesh=mesh_of(8))(state, batch_of(16, 2))
    expected, _ = run(tx, "jit", 0, [batch_of(16, seed) for seed in range(3)])
    assert_alike(state.params, expected.params, 1e-5)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))


# Wrong arguments.


@pytest.mark.parametrize(
    ("options", "error", "hint"),
    [
        ({"parallel": "shardmap", "mesh": mesh_of(2)}, errors.ArgumentRangeError, "did you mean 'shard_map'"),
        ({"parallel": "ddp", "mesh": mesh_of(2)}, errors.ArgumentRangeError, "'zero'"),
        ({"parallel": "zero"}, errors.ArgumentTypeError, "jax.make_mesh"),
        ({"axis": "data"}, errors.ArgumentTypeError, "jax.make_mesh"),
        ({"mesh": jax.devices()}, errors.ArgumentTypeError, "jax.make_mesh"),
        ({"mesh": AbstractMesh((2,), ("data",))}, errors.ArgumentTypeError, "jax.make_mesh"),
        ({"mesh": mesh_of(2), "axis": "date"}, errors.ArgumentRangeError, "did you mean 'data'"),
        ({"parallel": "pmap", "mesh": jax.make_mesh((2, 2), ("a", "b"), devices=jax.devices()[:4])},
         errors.ArgumentRangeError, "shard_map"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(options, error, hint):
    with pytest.raises(error) as caught:
        make_train_step(loss, gradtx.sgd(0.1), **options)
    assert hint in str(caught.value)


@pytest.mark.parametrize("parallel", APART)
def test_more_devices_than_examples_are_refused(parallel):
    with pytest.raises(errors.BatchError, match="at least one example for each of 4 devices, got 3"):
        run(gradtx.sgd(0.1), parallel, 4, [batch_of(3)])


def test_a_wrong_state_is_named_on_a_mesh_too():
    step = make_train_step(from_plain(lambda params, batch: 0.0), gradtx.sgd(0.1), mesh=mesh_of(2))
    with pytest.raises(errors.ArgumentTypeError, match="create_train_state"):
        step({"w": 1.0}, batch_of(4))


@pytest.mark.parametrize(
    ("parallel", "accumulate"),
    [("jit", 2), ("shard_map", 1), *(pytest.param(how, 2, marks=pytest.mark.slow) for how in APART)],
)
def test_a_batch_without_counted_examples_is_what_the_loss_makes_of_none(parallel, accumulate):
    """Here a sum over nothing, and the decay of the weights alone."""

    def decayed(params, model_state, batch, key):
        count = jnp.sum(batch["mask"])
        error = jnp.sum(jnp.where(batch["mask"], predicted(params, batch["x"])[:, 0] ** 2, 0))
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return error / jnp.maximum(count, 1) + 0.1 * decay, (model_state, {"examples": count})

    for mask in (np.zeros(16, bool), np.arange(16) == 15):
        batch = {"x": batch_of(16)["x"], "mask": mask}
        count = 0 if parallel == "jit" else 4
        expected, (others,) = run(gradtx.sgd(0.1), "jit", 0, [batch], loss=decayed)
        state, (metrics,) = run(gradtx.sgd(0.1), parallel, count, [batch], loss=decayed, accumulate=accumulate)
        assert_alike(state.params, expected.params, 1e-6)
        assert metrics["loss"] == pytest.approx(others["loss"], rel=1e-6) and metrics["examples"] == mask.sum()


@pytest.mark.parametrize("parallel", ["fsdp", *(pytest.param(how, marks=pytest.mark.slow) for how in MODES[:-1])])
def test_evaluation_takes_batches_on_the_mesh_whose_axes_the_user_made_explicit(parallel):
    mesh = mesh_of(4)
    given = {name: leaf.astype(np.float32) for name, leaf in batch_of(16).items() if name != "weight"}
    on_mesh = jax.device_put(given, NamedSharding(mesh, P("data")))
    masked = from_plain(lambda params, batch: jnp.mean((predicted(params, batch["x"]) - batch["y"]) ** 2))
    tx = gradtx.sgd(0.1)
    state, _ = make_train_step(masked, tx, parallel=parallel, mesh=mesh)(start(tx), on_mesh)
    evaluate = make_eval_step(masked)
    found = [float(evaluate(state, batch)["loss"]) for batch in (on_mesh, given)]
    expected, _ = masked(jax.device_get(state.params), None, given, KEY)
    assert found == pytest.approx([float(expected)] * 2, rel=1e-6)


def test_parameters_on_explicit_axes_whose_small_leaves_are_packed_say_what_to_write():
    mesh = mesh_of(4)
    tx = gradtx.storage.packed(gradtx.adam(0.1))
    params = {name: jax.device_put(jnp.ones((8, 4)), NamedSharding(mesh, P("data"))) for name in "ab"}
    state = create_train_state(params, tx, key=KEY)
    step = make_train_step(from_plain(lambda p, batch: jnp.sum((p["a"] + p["b"]) ** 2) * batch.mean()), tx, mesh=mesh)
    with pytest.raises(errors.StructureError, match=r"AxisType\.Auto"):
        step(state, np.ones(8, np.float32))
