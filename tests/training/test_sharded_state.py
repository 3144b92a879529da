"""Claims about state that is split among devices: where it lies, how many bytes it takes, what is sent for it."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gradtx
from gradtx import errors
from gradtx.storage import cast, stored
from gradtx.training import (
    bytes_per_device,
    create_train_state,
    from_plain,
    make_train_step,
    parameter_sharding,
    state_sharding,
)

KEY = jax.random.key(0)


def transformer(width=64, layers=2, vocabulary=1000, dtype=jnp.float32):
    """Shapes of the leaves of a transformer: some thousand of its numbers are in vectors."""

    def layer():
        return {
            "attention": {"qkv": (width, 3 * width), "out": (width, width)},
            "norms": {"scale": (width,), "bias": (width,)},
            "mlp": {"up": (width, 4 * width), "bias": (4 * width,), "down": (4 * width, width)},
        }

    shapes = {"embedding": (vocabulary, width), "layers": [layer() for _ in range(layers)], "temperature": ()}
    is_shape = lambda node: isinstance(node, tuple)  # noqa: E731
    return jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, dtype), shapes, is_leaf=is_shape)


OPTIMIZERS = {
    "adamw": gradtx.adamw(1e-3),
    "clipped": gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-3)),
    "lamb": gradtx.lamb(1e-3),
    "muon": gradtx.muon(1e-3),
    "schedule-free": gradtx.schedule_free_adamw(1e-3),
    "tunable": gradtx.tunable(gradtx.adamw, learning_rate=1e-3),
    "only": gradtx.only(gradtx.adam(1e-3), "layers*"),
    "stored": stored(gradtx.adam(1e-3), cast("bfloat16")),
    "guarded": gradtx.skip_nonfinite(gradtx.adam(1e-3)),
    "averaged": gradtx.exponential_average(gradtx.adam(1e-3)),
    "Optax's": gradtx.chain(gradtx.clip(1.0), optax.adamw(1e-3)),
}


def bytes_on_one(state, shardings):
    pairs = zip(*map(jax.tree.leaves, (state, shardings)), strict=True)
    return sum(int(np.prod(place.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf, place in pairs)


@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("tx", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_each_device_has_its_part_of_the_state(tx, count):
    params = transformer()
    state = jax.eval_shape(tx.init, params)
    shardings = state_sharding(tx, params, AbstractMesh((count,), ("data",)))
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    everything = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert bytes_on_one(state, shardings) <= everything * (1 / count + 0.01)


def test_counters_and_keys_are_replicated():
    tx = gradtx.chain(gradtx.add_noise(0.1, 0.5, 0), gradtx.adam(1e-3))
    params = {"w": jnp.zeros((2, 2), jnp.uint32).astype(jnp.float32)}
    state, shardings = tx.init(params), state_sharding(tx, params, AbstractMesh((2,), ("data",)))
    for leaf, place in zip(*map(jax.tree.leaves, (state, shardings)), strict=True):
        assert place.spec == (P("data", None) if leaf.shape == (2, 2) else P())


def test_the_first_free_dimension_that_the_axis_divides_is_split():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    shapes = {"a": ((3, 8), P()), "b": ((8, 8), P("model")), "c": ((8, 3), P("model")), "d": ((8, 8), P("data")),
              "e": ((3,), P()), "f": ((8, 8), P(("data", "model")))}  # fmt: skip
    params = {
        name: jax.device_put(jnp.ones(shape), NamedSharding(mesh, spec)) for name, (shape, spec) in shapes.items()
    }
    found = state_sharding(gradtx.ema(0.9), params, mesh, "data")
    specs = {name: place.spec for name, place in found.mean.items()}
    assert specs == {
        "a": P(None, "data"), "b": P("model", "data"), "c": P("model"), "d": P("data", None), "e": P(),
        "f": P(("data", "model"), None),
    }  # fmt: skip
    assert {name: place.spec for name, place in parameter_sharding(params, mesh).items()} == specs


def test_factors_are_split_by_their_own_shapes():
    tx = gradtx.adafactor(1e-3, min_dim_size_to_factor=4)
    params = {"w": jax.ShapeDtypeStruct((8, 16), jnp.float32)}
    state, shardings = jax.eval_shape(tx.init, params), state_sharding(tx, params, AbstractMesh((4,), ("data",)))
    places = {leaf.shape: place.spec for leaf, place in zip(*map(jax.tree.leaves, (state, shardings)), strict=True)}
    assert places[(8, 1)] == P("data", None)
    assert places[(1, 16)] == P(None, "data")


def test_a_state_is_made_in_its_parts():
    mesh = jax.make_mesh((8,), ("data",))
    params, tx = {"w": jnp.ones((16, 4)), "b": jnp.zeros(3)}, gradtx.adamw(1e-3)
    shardings = state_sharding(tx, params, mesh)
    compiled = jax.jit(tx.init, out_shardings=shardings)(params)
    state = create_train_state(params, tx, key=KEY, sharding=shardings)
    for made in (compiled, state.opt_state):
        assert jax.tree.map(lambda leaf: leaf.sharding, made) == shardings
    jax.tree.map(np.testing.assert_array_equal, state.opt_state, tx.init(params))
    assert state.step.sharding.device_set == set(jax.devices())


# What is sent.


def sent(tx, parallel, mesh):
    """Elements of the collectives of a compiled step, by kind; those that are not small."""
    params = {"w": jnp.ones((64, 128)), "b": jnp.zeros(128), "v": jnp.ones((128, 64)), "odd": jnp.zeros(3)}

    def loss(params, batch):
        return jnp.mean((jnp.tanh(batch @ params["w"] + params["b"]) @ params["v"]) ** 2) + jnp.sum(params["odd"] ** 2)

    step = make_train_step(from_plain(loss), tx, parallel=parallel, mesh=mesh)
    lowered = step.lower(create_train_state(params, tx, key=KEY), np.ones((16, 64), np.float32))
    found = {}
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    for shapes, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", lowered.compile().as_text()):
        for dims in re.findall(r"f32\[([\d,]+)\]", shapes):
            size = int(np.prod([int(length) for length in dims.split(",")]))
            found.setdefault(kind, []).append(size)
    return {kind: sorted(size for size in sizes if size > 16) for kind, sizes in found.items()}


@pytest.mark.parametrize("name", [pytest.param("adamw", marks=pytest.mark.slow), "clipped"])
def test_zero_scatters_gradients_gathers_parameters_and_sends_nothing_else(name):
    found = sent(OPTIMIZERS[name], "zero", jax.make_mesh((4,), ("data",), devices=jax.devices()[:4]))
    assert found["reduce-scatter"] == [32, 2048, 2048]
    assert found["all-gather"] == [128, 8192, 8192]
    assert found.keys() <= {"reduce-scatter", "all-gather", "all-reduce"} and not found["all-reduce"]


def test_fully_split_parameters_are_gathered_once_before_the_loss():
    found = sent(OPTIMIZERS["clipped"], "fsdp", jax.make_mesh((4,), ("data",), devices=jax.devices()[:4]))
    assert found["reduce-scatter"] == [32, 2048, 2048]
    assert found["all-gather"] == [128, 8192, 8192]
    assert not found["all-reduce"]


def test_replicated_parameters_need_one_sum():
    found = sent(OPTIMIZERS["clipped"], "shard_map", jax.make_mesh((4,), ("data",), devices=jax.devices()[:4]))
    assert found == {"all-reduce": [128, 8192, 8192]}


# Bytes on paper.


@pytest.mark.slow
def test_bytes_on_paper_are_the_bytes_that_lie_there():
    mesh, tx = jax.make_mesh((8,), ("data",)), gradtx.adamw(1e-3)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), transformer(width=16, layers=1, vocabulary=24))
    for parallel in ("jit", "zero", "fsdp"):
        step = make_train_step(from_plain(lambda params, batch: jnp.sum(params["temperature"]) * jnp.mean(batch)),
                               tx, parallel=parallel, mesh=mesh)  # fmt: skip
        lowered = step.lower(create_train_state(params, tx, key=KEY), np.ones(8, np.float32))
        found = bytes_per_device(tx, params, 8, parallel=parallel)
        others = 4 + 8 + 4  # step, key, a share of the batch
        held = lowered.compile().memory_analysis().alias_size_in_bytes  # the donated state
        assert abs(held + 4 - (found.params + found.opt_state + others)) <= 8, parallel


def test_ten_billion_parameters_fit_where_the_rule_says():
    params = transformer(width=4096, layers=48, vocabulary=65_536)
    whole = bytes_per_device(gradtx.adamw(1e-3), params)
    count = whole.params / 4
    assert 9e9 < count < 11e9
    assert whole.total == pytest.approx(16 * count, rel=1e-3)
    for parallel, ideal in (("zero", 4 + 12 / 64), ("fsdp", 16 / 64)):
        assert bytes_per_device(gradtx.adamw(1e-3), params, 64, parallel=parallel).total == pytest.approx(
            ideal * count, rel=1e-3
        )


@pytest.mark.parametrize(
    ("call", "error", "hint"),
    [
        (lambda: state_sharding(gradtx.sgd(0.1), {}, jax.devices()), errors.ArgumentTypeError, "jax.make_mesh"),
        (lambda: state_sharding(gradtx.sgd, {}, AbstractMesh((2,), ("d",))), errors.ArgumentTypeError, "adam(1e-3)"),
        (lambda: parameter_sharding({}, AbstractMesh((2,), ("data",)), "dat"), errors.ArgumentRangeError, "'data'"),
        (lambda: bytes_per_device(gradtx.sgd(0.1), {}, 0), errors.ArgumentRangeError, "devices"),
        (lambda: bytes_per_device(gradtx.sgd(0.1), {}, 2, parallel="zeros"), errors.ArgumentRangeError, "'zero'"),
    ],
)
def test_a_wrong_argument_is_named(call, error, hint):
    with pytest.raises(error) as caught:
        call()
    assert hint in str(caught.value)


def test_shardings_of_another_transformation_are_refused():
    params = {"w": jnp.ones((8, 2))}
    mesh = jax.make_mesh((2,), ("data",))
    other = state_sharding(gradtx.sgd(0.1), params, mesh)
    for sharding in (other, mesh):
        with pytest.raises(errors.StructureError, match="with this tx"):
            create_train_state(params, gradtx.adam(1e-3), key=jax.random.key(0), sharding=sharding)
