"""``flax.training.train_state.TrainState`` trains with ours, and its checkpoints keep the optimizer's state."""

import flax.linen as nn
import flax.serialization
import jax
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

import gradtx
from tests.clients.problem import INPUTS, TARGETS, assert_identical, assert_trained_alike, loss, params, predict

pytestmark = pytest.mark.filterwarnings("error")


class Network(nn.Module):
    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(2)(nn.tanh(nn.Dense(4)(inputs)))


OPTIMIZERS = {
    "adamw": gradtx.adamw(1e-2, weight_decay=0.1),
    "adamw with a schedule": gradtx.adamw(lambda step: 1e-2 / (1 + step), mask="*kernel"),
    "tunable": gradtx.tunable(gradtx.adamw, learning_rate=1e-2, weight_decay=0.1),
    "chain with repeats": gradtx.chain(
        gradtx.ema(0.5), gradtx.clip_by_global_norm(1.0), gradtx.ema(0.5), gradtx.sgd(0.1)
    ),
    "only": gradtx.only(gradtx.adam(1e-2), "head*"),
    "partition": gradtx.partition(
        {"a": gradtx.adam(1e-2), "b": gradtx.sgd(0.1, 0.9)}, lambda path, leaf: "ab"[leaf.ndim - 1]
    ),
    "stored": gradtx.storage.stored(gradtx.adam(1e-2), gradtx.storage.cast("bfloat16", rounding="stochastic")),
    "quantized": gradtx.storage.stored(gradtx.adam(1e-2), gradtx.storage.quantized(rounding="stochastic")),
    "amsgrad": gradtx.amsgrad(1e-2),
    "with Optax's parts": gradtx.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), gradtx.scale(-1e-2)),
}
every_optimizer = pytest.mark.parametrize("tx", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def create(tx) -> TrainState:
    return TrainState.create(apply_fn=predict, params=params(), tx=tx)


def one_step(state: TrainState) -> TrainState:
    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def test_a_linen_model_trains_as_with_optax():
    model = Network()
    variables = model.init(jax.random.key(0), INPUTS)["params"]

    def model_loss(weights):
        return ((model.apply({"params": weights}, INPUTS) - TARGETS) ** 2).mean()

    @jax.jit
    def step(state):
        value, grads = jax.value_and_grad(model_loss)(state.params)
        return state.apply_gradients(grads=grads), value

    ours = TrainState.create(apply_fn=model.apply, params=variables, tx=gradtx.adamw(1e-2, weight_decay=0.1))
    theirs = TrainState.create(apply_fn=model.apply, params=variables, tx=optax.adamw(1e-2, weight_decay=0.1))
    for _ in range(5):
        (ours, value), (theirs, _) = step(ours), step(theirs)
    assert_trained_alike(ours.params, theirs.params, variables)
    assert value < model_loss(variables) and ours.step == 5


@every_optimizer
def test_a_whole_train_state_may_be_donated(tx):
    step, state = jax.jit(one_step, donate_argnums=0), jax.device_put(create(tx))
    before = state
    for _ in range(3):
        state = step(state)
    assert state.step == 3
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((before.params, before.opt_state)) if leaf.ndim)


@every_optimizer
@pytest.mark.parametrize("form", ["bytes", "state dict", "msgpack"])
def test_training_continues_bit_for_bit_from_a_checkpoint(tx, form):
    step = jax.jit(one_step)
    kept = step(step(create(tx)))
    if form == "bytes":
        restored = flax.serialization.from_bytes(create(tx), flax.serialization.to_bytes(kept))
    else:
        saved = flax.serialization.to_state_dict(kept)
        if form == "msgpack":
            saved = flax.serialization.msgpack_restore(flax.serialization.msgpack_serialize(saved))
        restored = flax.serialization.from_state_dict(create(tx), saved)
    assert_identical(restored.opt_state, kept.opt_state)
    assert_identical(step(restored).opt_state, step(kept).opt_state)
    assert_identical(step(step(restored)).params, step(step(kept)).params)


@every_optimizer
def test_a_restored_state_of_numpy_arrays_needs_no_new_trace(tx):
    traces = 0

    @jax.jit
    def step(state):
        nonlocal traces
        traces += 1
        return one_step(state)

    state = step(create(tx))
    step(
        state.replace(
            params=jax.tree.map(np.asarray, state.params), opt_state=jax.tree.map(np.asarray, state.opt_state)
        )
    )
    assert traces == 1


@every_optimizer
def test_numpy_leaves_update_eagerly_as_jax_arrays_do(tx):
    state = create(tx)
    numpy = state.replace(opt_state=jax.tree.map(np.asarray, state.opt_state))
    assert_identical(one_step(numpy).opt_state, one_step(state).opt_state)
    assert_identical(one_step(numpy).params, one_step(state).params)


def test_the_names_of_a_state_dict_are_parts_and_fields():
    tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-2))
    saved = flax.serialization.to_state_dict(create(tx).opt_state)
    assert sorted(saved) == ["adamw", "clip_by_global_norm"]
    moments = saved["adamw"]["scale_by_adam"]
    assert sorted(moments) == ["denominator", "numerator"]
    assert sorted(moments["denominator"]["mean_square"]) == ["mean_square", "step"]
    assert moments["numerator"]["ema"]["mean"]["head"]["kernel"].shape == (4, 2)


def test_a_checkpoint_of_another_optimizer_is_refused():
    saved = flax.serialization.to_bytes(create(gradtx.adamw(1e-2)))
    with pytest.raises(ValueError, match=r"adamw|dict"):
        flax.serialization.from_bytes(create(gradtx.chain(gradtx.ema(0.5), gradtx.sgd(0.1, 0.9))), saved)
