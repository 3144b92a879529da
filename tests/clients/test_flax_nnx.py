"""``flax.nnx.Optimizer`` takes this library's optimizers as it takes Optax's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import gradtx
from tests.clients.problem import INPUTS, TARGETS, assert_identical, assert_trained_alike
from tests.laws.trees import types

pytestmark = pytest.mark.filterwarnings("error")


class Network(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(4, 4, rngs=rngs)])
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, inputs):
        return self.head(self.blocks[0](self.norm(jnp.tanh(self.hidden(inputs)))))


def model_loss(model):
    return jnp.mean((model(INPUTS) - TARGETS) ** 2)


def make_step():
    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(model_loss)(model)
        optimizer.update(model, grads)
        return value

    return step


def weights_of(model):
    return jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))


def trained(tx, steps=4):
    model = Network(nnx.Rngs(0))
    optimizer, step = nnx.Optimizer(model, tx, wrt=nnx.Param), make_step()
    losses = [float(step(model, optimizer)) for _ in range(steps)]
    assert optimizer.step[...] == steps
    return weights_of(model), losses, optimizer


def test_a_model_trains_as_with_optax():
    ours, losses, _ = trained(gradtx.adamw(1e-2, weight_decay=0.1))
    theirs, _, _ = trained(optax.adamw(1e-2, weight_decay=0.1))
    assert_trained_alike(ours, theirs, weights_of(Network(nnx.Rngs(0))))
    assert losses[-1] < losses[0]


OPTIMIZERS = {
    "sgd": gradtx.sgd(0.1, 0.9),
    "adamw with a schedule": gradtx.adamw(lambda step: 1e-2 / (1 + step)),
    "adamw, a predicate": gradtx.adamw(1e-2, mask=lambda path, leaf: leaf.ndim > 1),
    "tunable": gradtx.tunable(gradtx.adamw, learning_rate=1e-2),
    "chain with repeats": gradtx.chain(
        gradtx.ema(0.5), gradtx.clip_by_global_norm(1.0), gradtx.ema(0.5), gradtx.sgd(0.1)
    ),
    "partition": gradtx.partition(
        {"a": gradtx.adam(1e-2), "b": gradtx.sgd(0.1)}, lambda path, leaf: "ba"[leaf.ndim > 1]
    ),
    "stored": gradtx.storage.stored(gradtx.adam(1e-2), gradtx.storage.cast("bfloat16", rounding="stochastic")),
    "with Optax's parts": gradtx.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam(), gradtx.scale(-1e-2)),
    "inside Optax's chain": optax.chain(optax.clip_by_global_norm(1.0), gradtx.adam(1e-2)),
}
every_optimizer = pytest.mark.parametrize("tx", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


QUANTIZED = {
    "8 bits": gradtx.storage.stored(gradtx.adam(1e-2), gradtx.storage.quantized()),
    "4 bits, biases in float32": gradtx.storage.stored(
        gradtx.adam(1e-2), {"*bias": None, "*": gradtx.storage.quantized(bits=4, rounding="stochastic")}
    ),
}


@pytest.mark.parametrize("tx", [*OPTIMIZERS.values(), *QUANTIZED.values()], ids=[*OPTIMIZERS, *QUANTIZED])
def test_a_compiled_step_is_traced_once_and_keeps_the_types_of_the_state(tx):
    model, traces = Network(nnx.Rngs(0)), 0
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        nonlocal traces
        traces += 1
        optimizer.update(model, nnx.grad(model_loss)(model), value=jnp.float32(1.0))

    before = types(nnx.as_pure(nnx.state(optimizer)))
    for _ in range(3):
        step(model, optimizer)
    assert traces == 1
    assert types(nnx.as_pure(nnx.state(optimizer))) == before


@every_optimizer
def test_an_eager_update_and_a_compiled_one_agree_on_the_structure(tx):
    eager, compiled = Network(nnx.Rngs(0)), Network(nnx.Rngs(0))
    ours, theirs = (nnx.Optimizer(model, tx, wrt=nnx.Param) for model in (eager, compiled))
    ours.update(eager, nnx.grad(model_loss)(eager))
    make_step()(compiled, theirs)
    assert types(nnx.as_pure(nnx.state(ours))) == types(nnx.as_pure(nnx.state(theirs)))
    for a, b in zip(jax.tree.leaves(weights_of(eager)), jax.tree.leaves(weights_of(compiled)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@pytest.mark.parametrize("where", ["hidden/kernel", "*/kernel", "blocks/0/*"])
def test_a_pattern_matches_the_same_path_at_init_and_at_update(where):
    model = Network(nnx.Rngs(0))
    optimizer, start = nnx.Optimizer(model, gradtx.only(gradtx.adam(1e-2), where), wrt=nnx.Param), weights_of(model)
    make_step()(model, optimizer)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), weights_of(model), start)
    assert any(jax.tree.leaves(moved)) and not all(jax.tree.leaves(moved))


def test_the_state_of_an_optimizer_is_restored_into_a_fresh_one():
    model = Network(nnx.Rngs(0))
    optimizer, step = nnx.Optimizer(model, gradtx.adamw(1e-2), wrt=nnx.Param), make_step()
    step(model, optimizer)
    kept = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state((model, optimizer))))
    step(model, optimizer)

    fresh = Network(nnx.Rngs(1))
    other = nnx.Optimizer(fresh, gradtx.adamw(1e-2), wrt=nnx.Param)
    state = nnx.state((fresh, other))
    nnx.replace_by_pure_dict(state, kept)
    nnx.update((fresh, other), state)
    step(fresh, other)
    assert_identical(weights_of(fresh), weights_of(model))


def test_bfloat16_parameters_keep_float32_state():
    model = Network(nnx.Rngs(0))
    nnx.update(model, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.state(model, nnx.Param)))
    optimizer = nnx.Optimizer(model, gradtx.adamw(1e-2), wrt=nnx.Param)
    make_step()(model, optimizer)
    kept = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(optimizer)) if jnp.issubdtype(leaf.dtype, jnp.floating)}
    assert kept == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(weights_of(model))} == {jnp.dtype(jnp.bfloat16)}


def quantized(bits):
    return gradtx.storage.stored(gradtx.adam(1e-2), gradtx.storage.quantized(bits=bits))


def loss_of(inputs):
    return lambda model: jnp.mean((model(inputs) - TARGETS) ** 2)


def in_a_loop(model, optimizer):
    def body(index, both):
        model, optimizer = both
        optimizer.update(model, nnx.grad(loss_of(INPUTS))(model))
        return both

    nnx.fori_loop(0, 3, body, (model, optimizer))


def in_a_scan(model, optimizer):
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def body(both, inputs):
        model, optimizer = both
        optimizer.update(model, nnx.grad(loss_of(inputs))(model))
        return both

    body((model, optimizer), jnp.stack([INPUTS] * 3))


every_width = pytest.mark.parametrize("bits", [8, 4])


@every_width
@pytest.mark.parametrize("three_updates", [in_a_loop, in_a_scan])
def test_quantized_state_is_carried_through_loops(bits, three_updates):
    first, second = nnx.Linear(3, 2, rngs=nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    ours, theirs = (nnx.Optimizer(model, quantized(bits), wrt=nnx.Param) for model in (first, second))
    three_updates(first, ours)
    for _ in range(3):
        theirs.update(second, nnx.grad(loss_of(INPUTS))(second))
    assert ours.step[...] == 3
    for a, b in zip(jax.tree.leaves(weights_of(first)), jax.tree.leaves(weights_of(second)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@every_width
def test_quantized_state_is_restored_from_a_pure_dictionary_into_a_fresh_optimizer(bits):
    model, fresh = Network(nnx.Rngs(0)), Network(nnx.Rngs(1))
    optimizer, other = (nnx.Optimizer(one, quantized(bits), wrt=nnx.Param) for one in (model, fresh))
    step = make_step()
    step(model, optimizer)
    state, kept = nnx.state((fresh, other)), nnx.to_pure_dict(nnx.state((model, optimizer)))
    assert types(nnx.to_pure_dict(state)) == types(kept)
    assert {leaf.dtype for leaf in jax.tree.leaves(kept)} >= {jnp.dtype("int8" if bits == 8 else "uint8")}
    nnx.replace_by_pure_dict(state, kept)
    nnx.update((fresh, other), state)
    step(model, optimizer)
    step(fresh, other)
    assert_identical(weights_of(fresh), weights_of(model))


@every_width
def test_each_variable_of_quantized_state_holds_one_array(bits):
    optimizer = nnx.Optimizer(Network(nnx.Rngs(0)), quantized(bits), wrt=nnx.Param)
    state = nnx.to_flat_state(nnx.state(optimizer))
    assert all(isinstance(variable.get_value(), jax.Array) for _, variable in state)
