"""Checkpoints of Orbax keep the state under part names and fields, and training continues bit for bit from them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradtx
from tests.clients.problem import assert_identical, loss, params

ocp = pytest.importorskip("orbax.checkpoint")

pytestmark = pytest.mark.filterwarnings("error")

OPTIMIZERS = {
    "chain with repeated parts": gradtx.chain(
        gradtx.ema(0.5), gradtx.clip_by_global_norm(1.0), gradtx.ema(0.9), gradtx.sgd(0.1)
    ),
    "ratio": gradtx.chain(
        gradtx.ratio(
            gradtx.chain(gradtx.ema(0.9), gradtx.bias_correction(0.9)),
            gradtx.chain(gradtx.mean_square(), gradtx.running_max(), gradtx.square_root()),
        ),
        gradtx.scale(-1e-2),
    ),
    "tunable": gradtx.tunable(gradtx.adamw, learning_rate=1e-2, weight_decay=lambda step: 0.1),
    "masked": gradtx.chain(
        gradtx.masked(gradtx.ema(0.9), lambda path, leaf: leaf.ndim > 1),
        gradtx.only(gradtx.adam(1e-2), lambda path, leaf: leaf.ndim == 1),
    ),
    "partition": gradtx.partition(
        {"a": gradtx.adam(1e-2), "b": gradtx.sgd(0.1, 0.9)}, lambda path, leaf: "ab"[leaf.ndim - 1]
    ),
    "stored": gradtx.storage.stored(gradtx.adam(1e-2), gradtx.storage.cast("bfloat16", rounding="stochastic")),
    "quantized": gradtx.storage.stored(gradtx.adam(1e-2), gradtx.storage.quantized(rounding="stochastic")),
    "watch": gradtx.watch(gradtx.adam(1e-2), per_leaf=True),
    "with Optax's adamw": gradtx.chain(gradtx.clip(1.0), optax.adamw(1e-2)),
}
every_optimizer = pytest.mark.parametrize("tx", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def stepper(tx):
    @jax.jit
    def step(weights, state):
        updates, state = tx.update(jax.grad(loss)(weights), state, weights)
        return gradtx.apply_updates(weights, updates), state

    return step


def shapes(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree)


@every_optimizer
def test_training_continues_bit_for_bit_from_a_checkpoint(tx, tmp_path):
    step = stepper(tx)
    kept = step(*step(params(), tx.init(params())))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "kept", kept)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "kept", shapes((params(), tx.init(params()))))
    assert_identical(restored, kept)
    assert_identical(step(*restored), step(*kept))


@every_optimizer
def test_the_names_in_a_checkpoint_are_part_names_and_fields(tx, tmp_path):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "kept", tx.init(params()))
        checkpointer.wait_until_finished()
        raw = checkpointer.restore(tmp_path / "kept")
    assert {path_of(path) for path, _ in jax.tree.leaves_with_path(raw)} == {
        path_of(path) for path, _ in jax.tree.leaves_with_path(tx.init(params()))
    }


def path_of(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")


def names_of(tx):
    return [path_of(path) for path, _ in jax.tree.leaves_with_path(tx.init({"w": jnp.ones((2, 2)), "b": jnp.ones(2)}))]


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if "Optax" not in name])
def test_no_path_of_a_state_has_a_position_or_a_class_in_it(name):
    for path in names_of(OPTIMIZERS[name]):
        for part in path.split("/"):
            assert re.fullmatch(r"[a-z][a-z_]*(_\d+)?", part), path


def test_paths_of_states_are_as_they_were():
    """The names that checkpoints of earlier releases have: a change here breaks them."""
    assert names_of(gradtx.chain(gradtx.ema(0.5), gradtx.clip(1.0), gradtx.ema(0.9))) == [
        "ema/mean/b",
        "ema/mean/w",
        "ema_2/mean/b",
        "ema_2/mean/w",
    ]
    assert names_of(gradtx.sgd(0.1, 0.9)) == ["scale_by_momentum/momentum/b", "scale_by_momentum/momentum/w"]
    adam = names_of(gradtx.adam(1e-3))
    assert {
        "scale_by_adam/numerator/ema/mean/w",
        "scale_by_adam/numerator/bias_correction/step",
        "scale_by_adam/denominator/mean_square/mean_square/w",
        "scale_by_adam/denominator/bias_correction/step",
    } <= set(adam)
    assert set(names_of(gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adam(1e-3)))) == {
        f"adam/{path}" for path in adam
    }
    tuned = names_of(gradtx.tunable(gradtx.adam, learning_rate=1e-3))
    assert set(tuned) == {"step", "hyperparameters/learning_rate", *(f"inner/{path}" for path in adam)}
    kept = names_of(gradtx.storage.stored(gradtx.adam(1e-3), gradtx.storage.cast("bfloat16")))
    assert set(kept) == {"step", *(f"inner/{path}" for path in adam)}


def test_a_part_without_state_may_come_and_go_without_moving_the_others():
    before = gradtx.chain(gradtx.ema(0.5), gradtx.sgd(0.1, 0.9))
    after = gradtx.chain(gradtx.clip(1.0), gradtx.ema(0.5), gradtx.scale(1.0), gradtx.sgd(0.1, 0.9))
    assert names_of(before) == names_of(after)


def test_leaves_that_a_selection_leaves_out_take_no_room_in_a_checkpoint(tmp_path):
    tx = gradtx.only(gradtx.adam(1e-2), "head*")
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "kept", tx.init(params()))
        checkpointer.wait_until_finished()
        raw = checkpointer.restore(tmp_path / "kept")
    paths = [path_of(path) for path, _ in jax.tree.leaves_with_path(raw)]
    assert any("head" in path for path in paths) and not any("hidden" in path for path in paths)


def test_a_checkpoint_is_restored_onto_a_mesh(tmp_path):
    tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-2))
    state = tx.init(params())
    mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    specs = {"hidden": {"kernel": P(None, "model"), "bias": P("model")}, "head": {"kernel": P("model"), "bias": P()}}
    weights = jax.tree.map(lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), params(), specs)
    target = tx.init(weights)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "kept", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "kept", shapes(target))
    for leaf, like in zip(*map(jax.tree.leaves, (restored, target)), strict=True):
        assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)
    assert_identical(restored, state)


def test_a_manager_keeps_the_last_states_with_parameters_and_step(tmp_path):
    tx = gradtx.tunable(gradtx.adamw, learning_rate=1e-2)
    step, carry = stepper(tx), (params(), tx.init(params()))
    with ocp.CheckpointManager(tmp_path / "run", options=ocp.CheckpointManagerOptions(max_to_keep=2)) as manager:
        for index in range(3):
            carry = step(*carry)
            manager.save(index, args=ocp.args.StandardSave(carry))
        manager.wait_until_finished()
        assert manager.all_steps() == [1, 2]
        restored = manager.restore(2, args=ocp.args.StandardRestore(shapes(carry)))
    assert_identical(restored, carry)
    assert gradtx.hyperparameters(restored[1])["learning_rate"] == np.float32(1e-2)
