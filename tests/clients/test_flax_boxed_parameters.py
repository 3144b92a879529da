"""Flax Linen parameters in boxes that say how they are partitioned: the state has the same boxes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import gradtx
from tests.clients.problem import INPUTS, TARGETS
from tests.laws.trees import types

pytestmark = pytest.mark.filterwarnings("error")


class Network(nn.Module):
    """The first layer is partitioned, the second is not."""

    @nn.compact
    def __call__(self, inputs):
        kernel = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        bias = nn.with_partitioning(nn.initializers.zeros_init(), ("model",))
        hidden = nn.Dense(4, kernel_init=kernel, bias_init=bias)(inputs)
        return nn.Dense(2)(nn.tanh(hidden))


MODEL = Network()
SPECS = {"Dense_0": {"bias": P("model"), "kernel": P(None, "model")}, "Dense_1": {"bias": P(), "kernel": P()}}

OPTIMIZERS = {
    "adamw": gradtx.adamw(1e-2),
    "tunable": gradtx.tunable(gradtx.adamw, learning_rate=1e-2),
    "chain": gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.rmsprop(lambda step: 1e-2, momentum=0.9)),
    "stored": gradtx.storage.stored(gradtx.adam(1e-2), gradtx.storage.cast("bfloat16")),
    "with Optax's adamw": gradtx.chain(optax.adamw(1e-2)),
}
every_optimizer = pytest.mark.parametrize("tx", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


def boxed():
    return MODEL.init(jax.random.key(0), INPUTS)["params"]


def model_loss(weights):
    return jnp.mean((MODEL.apply({"params": weights}, INPUTS) - TARGETS) ** 2)


@every_optimizer
def test_the_specification_of_a_state_is_that_of_its_parameters(tx):
    shapes = jax.eval_shape(lambda: tx.init(boxed()))
    specs = nn.get_partition_spec(shapes)
    leaves = jax.tree.leaves(specs, is_leaf=lambda node: isinstance(node, P))
    arrays = jax.tree.leaves(shapes)
    assert len(leaves) == len(arrays)
    assert all(len(spec) in (0, array.ndim) for spec, array in zip(leaves, arrays, strict=True))
    trees = jax.tree.leaves(specs, is_leaf=lambda node: isinstance(node, dict) and "Dense_0" in node)
    assert SPECS in trees and trees.count(SPECS) == sum(isinstance(tree, dict) for tree in trees)


CODES = {
    "8 bits": gradtx.storage.stored(gradtx.adam(1e-2), gradtx.storage.quantized(rounding="stochastic")),
    "4 bits, some": gradtx.storage.stored(
        gradtx.adam(1e-2), {"*bias": None, "*": gradtx.storage.quantized(bits=4, rounding="stochastic")}
    ),
    "of whole trees": gradtx.storage.stored(
        gradtx.accumulate(gradtx.adam(1e-2), 2), gradtx.storage.quantized(rounding="stochastic")
    ),
}


@pytest.mark.parametrize("tx", [*OPTIMIZERS.values(), *CODES.values()], ids=[*OPTIMIZERS, *CODES])
def test_boxed_parameters_train_as_unboxed_ones(tx):
    def steps(weights):
        state = tx.init(weights)
        before = types(state)
        step = jax.jit(lambda weights, state: tx.update(jax.grad(model_loss)(weights), state, weights))
        for _ in range(2):
            updates, state = step(weights, state)
            weights = gradtx.apply_updates(weights, updates)
        assert types(state) == before
        return weights

    inside, outside = nn.unbox(steps(boxed())), steps(nn.unbox(boxed()))
    for a, b in zip(*map(jax.tree.leaves, (inside, outside)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "tx",
    [*CODES.values(), gradtx.storage.offloaded(CODES["8 bits"], where="*/kernel")],
    ids=[*CODES, "8 bits, some in the host's memory"],
)
def test_a_box_holds_one_array_of_what_is_kept(tx):
    """Codes and scales have each their own box, so each array has a specification, a sharding and a role."""
    state = tx.init(boxed())
    mean = gradtx.tree.get(state, "ema/mean")["Dense_0"]["kernel"]
    assert [type(part) for part in mean] == [nn.Partitioned] * 2
    assert type(mean) is type(gradtx.tree.get(tx.init(nn.unbox(boxed())), "ema/mean")["Dense_0"]["kernel"])
    specs = nn.get_partition_spec(state)
    assert len(jax.tree.leaves(specs, is_leaf=lambda node: isinstance(node, P))) == len(jax.tree.leaves(state))

    names = gradtx.map_params(tx, lambda x: "x", state, transform_non_params=lambda x: "other")
    plain = gradtx.map_params(tx, lambda x: "x", tx.init(nn.unbox(boxed())), transform_non_params=lambda x: "other")
    assert nn.unbox(names) == plain

    mesh = jax.sharding.AbstractMesh((2,), ("data",))
    found = gradtx.training.state_sharding(tx, boxed(), mesh)
    assert nn.unbox(found) == gradtx.training.state_sharding(tx, nn.unbox(boxed()), mesh)
    assert jax.tree.structure(found) == jax.tree.structure(state)


@every_optimizer
def test_a_train_state_is_made_in_its_place_on_a_mesh(tx):
    """The recipe of Flax: shapes, their shardings, then a compiled ``init`` that puts every array in its place."""
    mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])

    def create():
        return TrainState.create(apply_fn=MODEL.apply, params=boxed(), tx=tx)

    shardings = nn.get_sharding(jax.eval_shape(create), mesh)
    state = jax.jit(create, out_shardings=shardings)()
    step = jax.jit(
        lambda state: state.apply_gradients(grads=jax.grad(model_loss)(state.params)),
        out_shardings=shardings,
        donate_argnums=0,
    )
    for _ in range(2):
        state = jax.block_until_ready(step(state))
    named = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state.opt_state)}
    kernels = [leaf for name, leaf in named.items() if "['Dense_0']['kernel']" in name]
    assert kernels and all(kernel.sharding.spec == P(None, "model") for kernel in kernels)


@pytest.mark.parametrize("where", ["*/kernel", "Dense_0/kernel", "Dense_*/kernel"])
def test_a_pattern_sees_the_same_paths_with_boxes_and_without(where):
    tx = gradtx.only(gradtx.sgd(1.0), where)
    inside, _ = tx.update(boxed(), tx.init(boxed()), boxed())
    outside, _ = tx.update(nn.unbox(boxed()), tx.init(nn.unbox(boxed())), nn.unbox(boxed()))
    for a, b in zip(*map(jax.tree.leaves, (nn.unbox(inside), outside)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("where", ["*/kernel", "Dense_1/*"])
def test_a_state_made_with_boxes_serves_gradients_without(where):
    """Programs make the state with boxes, for its specification, and train with plain arrays."""
    tx = gradtx.only(gradtx.adam(1e-2), where)
    state, plain = nn.unbox(tx.init(boxed())), nn.unbox(boxed())
    expected, expected_state = tx.update(plain, tx.init(plain), plain)
    updates, after = tx.update(plain, state, plain)
    assert types(after) == types(expected_state)
    for a, b in zip(*map(jax.tree.leaves, (updates, expected)), strict=True):
        np.testing.assert_array_equal(a, b)
