"""Parameters on several devices: the state lies where they lie, and every way to run a step gives the same training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradtx
from tests.clients.problem import INPUTS, TARGETS, assert_trained_alike, loss, params, trained
from tests.laws.trees import types

pytestmark = pytest.mark.filterwarnings("error")

SPECS = {
    "hidden": {"kernel": P(None, "model"), "bias": P("model")},
    "head": {"kernel": P("model", None), "bias": P(None)},
}

OPTIMIZERS = {
    "adamw": gradtx.adamw(1e-2, weight_decay=0.1),
    "clipped, a schedule": gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(lambda step: 1e-2)),
    "tunable": gradtx.tunable(gradtx.adamw, learning_rate=1e-2),
    "rmsprop": gradtx.chain(gradtx.rmsprop(1e-2, momentum=0.9), gradtx.mean_square()),
    "watch": gradtx.watch(gradtx.adamw(1e-2), per_leaf=True),
    "only": gradtx.only(gradtx.adam(1e-2), "head*"),
    "stored": gradtx.storage.stored(gradtx.adam(1e-2), gradtx.storage.cast("bfloat16")),
    "with Optax's adamw": gradtx.chain(gradtx.clip(1.0), optax.adamw(1e-2)),
}
every_optimizer = pytest.mark.parametrize("tx", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
every_mesh = pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto], ids=["explicit", "auto"])


def mesh_of(kind):
    if jax.device_count() < 8:
        pytest.fail("the tests need eight devices: see tests/conftest.py")
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))


def sharded(mesh, tree):
    return jax.tree.map(lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), tree, SPECS)


def assert_lies_like(actual, expected):
    """Equal types, with the sharding that is part of an explicit type, and equal places."""
    assert types(actual) == types(expected)
    for (path, leaf), other in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        assert jax.typeof(leaf) == jax.typeof(other), jax.tree_util.keystr(path)
        assert leaf.sharding.is_equivalent_to(other.sharding, leaf.ndim), jax.tree_util.keystr(path)


def scalars(state):
    return [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 0]


@every_optimizer
@every_mesh
def test_the_state_lies_like_the_parameters_before_and_after_an_update(tx, kind):
    mesh = mesh_of(kind)
    weights = sharded(mesh, params())
    state = tx.init(weights)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state)}
    for path, weight in jax.tree.leaves_with_path(weights):
        kept = [leaf for name, leaf in leaves.items() if name.endswith(jax.tree_util.keystr(path))]
        assert all(leaf.sharding.is_equivalent_to(weight.sharding, weight.ndim) for leaf in kept)
    _, eager = tx.update(weights, state, weights)
    assert_lies_like(eager, state)
    _, compiled = jax.jit(tx.update)(weights, state, weights)
    assert_lies_like(compiled, state)


@every_optimizer
@every_mesh
def test_step_counters_and_other_scalars_lie_on_the_whole_mesh(tx, kind):
    mesh = mesh_of(kind)
    weights = sharded(mesh, params())
    state = tx.init(weights)
    assert scalars(state)
    for after in (state, tx.update(weights, state, weights)[1], jax.jit(tx.update)(weights, state, weights)[1]):
        for leaf in scalars(after):
            assert leaf.committed and leaf.sharding.is_equivalent_to(NamedSharding(mesh, P()), 0)


@every_optimizer
@every_mesh
def test_updates_lie_like_the_parameters(tx, kind):
    mesh = mesh_of(kind)
    weights = sharded(mesh, params())
    state = tx.init(weights)
    assert_lies_like(tx.update(weights, state, weights)[0], weights)
    if kind is AxisType.Explicit:  # otherwise the compiler places what a program returns
        with jax.set_mesh(mesh):  # without it jax 0.12 gives constants of a program no sharding
            assert_lies_like(jax.jit(tx.update)(weights, state, weights)[0], weights)


@every_optimizer
def test_init_may_be_compiled_under_an_explicit_mesh(tx):
    mesh = mesh_of(AxisType.Explicit)
    weights = sharded(mesh, params())
    expected = tx.init(weights)
    with jax.set_mesh(mesh):
        assert_lies_like(tx.init(weights), expected)
        state = jax.jit(tx.init)(weights)
        assert_lies_like(state, expected)
        assert_lies_like(jax.jit(tx.update)(weights, state, weights)[1], expected)
        assert_lies_like(tx.update(weights, state, weights)[1], expected)


@every_optimizer
def test_a_compiled_init_is_given_its_places_under_an_automatic_mesh(tx):
    weights = sharded(mesh_of(AxisType.Auto), params())
    expected = tx.init(weights)
    state = jax.jit(tx.init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, expected))(weights)
    assert_lies_like(state, expected)


@every_optimizer
@every_mesh
def test_donated_steps_on_a_mesh_are_not_compiled_again(tx, kind):
    mesh, traces = mesh_of(kind), 0
    inputs, targets = (jax.device_put(data, NamedSharding(mesh, P("data"))) for data in (INPUTS, TARGETS))

    def one(weights, state):
        nonlocal traces
        traces += 1
        grads = jax.grad(loss)(weights, inputs, targets) if kind is AxisType.Auto else weights
        updates, state = tx.update(grads, state, weights)
        return gradtx.apply_updates(weights, updates), state

    step = jax.jit(one, donate_argnums=(0, 1))
    weights = sharded(mesh, params())
    start, state = sharded(mesh, params()), tx.init(weights)
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    compiled = []
    for _ in range(4):
        weights, state = jax.block_until_ready(step(weights, state))
        compiled.append(step._cache_size())
    assert traces == 1
    assert compiled[1:] == [compiled[1]] * 3  # JAX may respell the parameters' own specification once
    assert_lies_like(weights, start)
    for leaf, place in zip(*map(jax.tree.leaves, (state, places)), strict=True):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)


@pytest.mark.parametrize("name", ["adamw", "clipped, a schedule", "only", "tunable", "with Optax's adamw"])
def test_training_on_a_mesh_agrees_with_one_device(name):
    tx, mesh = OPTIMIZERS[name], mesh_of(AxisType.Auto)
    inputs, targets = (jax.device_put(data, NamedSharding(mesh, P("data"))) for data in (INPUTS, TARGETS))

    @jax.jit
    def step(weights, state):
        updates, state = tx.update(jax.grad(loss)(weights, inputs, targets), state, weights)
        return gradtx.apply_updates(weights, updates), state

    weights = sharded(mesh, params())
    state = tx.init(weights)
    for _ in range(4):
        weights, state = jax.block_until_ready(step(weights, state))
    assert_same_steps(weights, trained(tx, gradtx.apply_updates)[0])


def assert_same_steps(actual, expected):
    """A sum over devices rounds otherwise than one over a batch: equal within 1e-5 of a hundred times the rate."""
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "clipped, a schedule", "only", "tunable", "with Optax's adamw"])
@pytest.mark.parametrize("checked", [True, False])
def test_shard_map_with_summed_gradients_agrees_with_one_device(name, checked):
    tx, mesh = OPTIMIZERS[name], jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def per_device(weights, state, inputs, targets):
        local = jax.lax.pcast(weights, "data", to="varying") if checked else weights
        grads = jax.lax.pmean(jax.grad(loss)(local, inputs, targets), "data")
        updates, state = tx.update(grads, state, weights)
        return gradtx.apply_updates(weights, updates), state

    specs = (P(), P(), P("data"), P("data"))
    step = jax.jit(jax.shard_map(per_device, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=checked))
    everywhere = NamedSharding(mesh, P())
    weights = jax.device_put(params(), everywhere)
    state = tx.init(weights)
    for _ in range(4):
        weights, state = jax.block_until_ready(step(weights, state, INPUTS, TARGETS))
    assert_same_steps(weights, trained(tx, gradtx.apply_updates)[0])


def test_shard_map_over_slices_of_the_state_agrees_with_one_device():
    """Each device keeps and updates its slice of parameters and moments."""
    tx, mesh = (
        gradtx.adamw(1e-2),
        jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4]),
    )
    weights = {"w": jnp.arange(8.0), "v": jnp.ones((4, 2))}
    state = tx.init(weights)
    specs = jax.tree.map(lambda leaf: P("data") if leaf.ndim else P(), state)
    update = jax.jit(
        jax.shard_map(tx.update, mesh=mesh, in_specs=(P("data"), specs, P("data")), out_specs=(P("data"), specs))
    )
    updates, after = update(weights, state, weights)
    expected, expected_state = jax.jit(tx.update)(weights, state, weights)
    for a, b in zip(*map(jax.tree.leaves, ((updates, after), (expected, expected_state))), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "clipped, a schedule", "only", "tunable", "with Optax's adamw"])
def test_pmap_with_summed_gradients_agrees_with_one_device(name):
    tx, count = OPTIMIZERS[name], 4

    def per_device(weights, state, inputs, targets):
        grads = jax.lax.pmean(jax.grad(loss)(weights, inputs, targets), "data")
        updates, state = tx.update(grads, state, weights)
        return gradtx.apply_updates(weights, updates), state

    step = jax.pmap(per_device, axis_name="data", devices=jax.devices()[:count], donate_argnums=(0, 1))
    replicate = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf] * count), tree)  # noqa: E731
    weights, state = replicate(params()), replicate(tx.init(params()))
    split = lambda data: data.reshape(count, -1, data.shape[-1])  # noqa: E731
    for _ in range(4):
        weights, state = jax.block_until_ready(step(weights, state, split(INPUTS), split(TARGETS)))
    assert_same_steps(jax.tree.map(lambda leaf: np.asarray(leaf)[1], weights), trained(tx, gradtx.apply_updates)[0])


def test_pmap_over_init_gives_each_device_its_state():
    tx, count = gradtx.adamw(1e-2), 4
    weights = jax.tree.map(lambda leaf: jnp.stack([leaf] * count), params())
    state = jax.pmap(tx.init, devices=jax.devices()[:count])(weights)
    expected = tx.init(params())
    assert types(jax.tree.map(lambda leaf: np.asarray(leaf)[0], state)) == types(expected)


@every_optimizer
def test_parameters_on_another_device_than_the_first_keep_their_state_there(tx):
    device = jax.devices()[3]
    weights = jax.device_put(params(), device)
    state = tx.init(weights)
    step = jax.jit(lambda grads, state, weights: tx.update(grads, state, weights))
    _, after = step(weights, state, weights)
    assert_lies_like(after, state)
    assert_lies_like(tx.update(weights, state, weights)[1], state)
    step(weights, after, weights)
    assert step._cache_size() == 1


def test_a_state_moves_with_device_put_to_another_mesh():
    tx = gradtx.adamw(1e-2)
    small = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    weights, state = trained(tx, gradtx.apply_updates)
    moved = jax.device_put((weights, state), NamedSharding(small, P()))
    updates, _ = jax.jit(tx.update)(weights, state, weights)
    again, after = jax.jit(tx.update)(moved[0], moved[1], moved[0])
    assert_trained_alike(again, updates, jax.tree.map(lambda leaf: 1.0 + leaf, updates))
    assert all(leaf.sharding.device_set == set(jax.devices()[:2]) for leaf in jax.tree.leaves(after))
