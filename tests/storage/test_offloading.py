"""State in host memory: what is moved there and back, that numbers stay the same, and that CPUs move nothing.

Programs for accelerators are lowered without one at hand. The CPU's own host memory stands in for theirs in runs, where
``far`` says so; without donation, as a donated array in it ends the process.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh
from jax.sharding import PartitionSpec as P

import gradtx
from benchmarks.steps import Peer, bytes_moved, equal_leaves, lowered, parameter_copies
from gradtx import errors, storage
from gradtx.storage import offloaded, offloading
from gradtx.training import bytes_per_device, create_train_state, from_plain, make_train_step, state_sharding

PARAMS = {"kernel": jnp.ones((64, 32)), "bias": jnp.ones(32), "temperature": jnp.ones(())}
CLIPPED = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-3))


@pytest.fixture
def far(monkeypatch):
    """As on a device with a memory of its own."""
    monkeypatch.setattr(offloading, "has_own_memory", lambda array: True)


def grads(seed=0):
    return {name: jax.random.normal(jax.random.key(seed), leaf.shape) for name, leaf in PARAMS.items()}


def steps(tx, count=3):
    state, update, found = tx.init(PARAMS), jax.jit(tx.update), []
    for seed in range(count):
        updates, state = update(grads(seed), state, PARAMS)
        found.append(updates)
    return found, state


def on_host(tree):
    """The paths of what is in host memory."""
    paths, leaves = gradtx.tree.leaf_paths(tree), jax.tree.leaves(tree)
    return [path for path, leaf in zip(paths, leaves, strict=True) if leaf.sharding.memory_kind == "pinned_host"]


def assert_same_bits(found, expected):
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


WRAPPED = {
    "adamw": lambda: gradtx.adamw(1e-3),
    "a whole tree": lambda: CLIPPED,
    "quantized": lambda: storage.stored(gradtx.adamw(1e-3), storage.quantized()),
    "packed": lambda: storage.packed(gradtx.adamw(1e-3)),
    "master weights": lambda: storage.master_weights(gradtx.adamw(1e-3)),
    "a guard": lambda: gradtx.skip_nonfinite(gradtx.adamw(1e-3)),
    "accumulation": lambda: gradtx.accumulate(gradtx.adamw(1e-3), 2),
    "a loss scale": lambda: gradtx.dynamic_loss_scale(gradtx.adamw(1e-3)),
    "tunable": lambda: gradtx.tunable(gradtx.adamw, learning_rate=1e-3),
    "several methods": lambda: gradtx.muon(1e-3),
}
QUICK = {"adamw", "a whole tree", "a guard"}


@pytest.mark.parametrize(
    "make",
    [pytest.param(make, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, make in WRAPPED.items()],
)
def test_the_way_through_host_memory_changes_no_bit_and_ends_where_it_began(far, make):
    tx = offloaded(make())
    found, state = steps(tx)
    expected, exact = steps(make())
    assert_same_bits((found, state), (expected, exact))
    assert on_host(state) == on_host(tx.init(PARAMS)) != []


def test_moments_are_in_host_memory_and_what_has_no_dimensions_is_on_the_device(far):
    names = {path.rsplit("/", 1)[1] for path in on_host(offloaded(gradtx.adamw(1e-3)).init(PARAMS))}
    assert names == {"kernel", "bias"}
    assert len(on_host(offloaded(gradtx.adamw(1e-3)).init(PARAMS))) == 4


def test_init_under_jit_and_a_scan_over_steps_keep_state_there(far):
    tx = offloaded(gradtx.adamw(1e-3))
    state = jax.jit(lambda params: tx.init(params))(PARAMS)
    assert on_host(state) == on_host(tx.init(PARAMS))
    many = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(grads, range(3)))
    after, _ = jax.jit(lambda s, g: jax.lax.scan(lambda s, g: tx.update(g, s, PARAMS)[::-1], s, g))(state, many)
    assert on_host(after) == on_host(state)
    assert_same_bits(after, steps(gradtx.adamw(1e-3))[1])


def test_state_stays_in_the_memory_in_which_it_is_given(far):
    tx = offloaded(gradtx.adamw(1e-3))
    read = jax.tree.map(np.asarray, tx.init(PARAMS))
    _, after = jax.jit(tx.update)(grads(), read, PARAMS)
    assert on_host(after) == []
    back = jax.device_put(read, jax.tree.map(lambda leaf: leaf.sharding, tx.init(PARAMS)))
    _, after = jax.jit(tx.update)(grads(), back, PARAMS)
    assert on_host(after) == on_host(tx.init(PARAMS))


# Programs for accelerators.

MOVE = re.compile(r'@annotate_device_placement\(.*_xla_buffer_placement = "(\w+)".*: \(tensor<(\S+)>\)')


DEVICES = {"cuda": ("NVIDIA H100", 132, "gpu"), "tpu": ("TPU v5 lite", 1, "tpu")}


def program(tx, platform, params=PARAMS):
    """The update for an accelerator, as text."""
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=AbstractDevice(*DEVICES[platform]))):
        traced = jax.jit(tx.update, donate_argnums=1).trace(params, tx.init(params), params)
        return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", DEVICES)
@pytest.mark.parametrize("inner", [gradtx.adamw(1e-3), CLIPPED], ids=["by leaf", "whole tree"])
def test_a_program_moves_each_moment_once_to_the_device_and_once_back_and_nothing_else(far, platform, inner):
    text = program(offloaded(inner), platform)
    for memory in ("device", "pinned_host"):
        moved = sorted(shape for to, shape in MOVE.findall(text) if to == memory)
        assert moved == ["32xf32", "32xf32", "64x32xf32", "64x32xf32"]
    inputs, results = re.search(r"@main\((.*)\) -> \((.*)\) {", text).groups()
    assert inputs.count('memory_kind = "pinned_host"') == results.count('memory_kind = "pinned_host"') == 4
    assert inputs.count("aliasing_output") == program(inner, platform).count("aliasing_output")


def test_codes_are_moved_as_codes_and_their_kernel_stays(far):
    tx = offloaded(storage.stored(gradtx.ema(0.9), storage.quantized()))
    text = program(tx, "cuda", {"w": jnp.ones((64, 256))})
    assert sorted(shape for to, shape in MOVE.findall(text) if to == "device") == ["64x256xi8", "64x8xf32"]
    assert len(re.findall(r"custom_call @__gpu\$xla.gpu.triton", text)) == 1


def test_one_program_is_exported_for_all_platforms(far):
    tx = offloaded(gradtx.adamw(1e-3))
    exported = jax.export.export(jax.jit(tx.update), platforms=["cpu", "cuda", "tpu"])(grads(), tx.init(PARAMS), PARAMS)
    assert [aval.memory_space for aval in exported.out_avals].count(jax.memory.Space.Host) == 4


# On CPUs.


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what accelerators do instead is tested above")
@pytest.mark.parametrize("inner", [gradtx.adamw(1e-3), CLIPPED], ids=["by leaf", "whole tree"])
def test_on_a_cpu_the_program_is_that_of_the_wrapped_optimizer(inner):
    def step(tx, params, state, grads):
        updates, state = tx.update(grads, state, params)
        return gradtx.apply_updates(params, updates), state

    params, both = equal_leaves(3, 50_000), (offloaded(inner), inner)
    ours, plain = (lowered(Peer(tx.init, functools.partial(step, tx)), params).compile() for tx in both)
    assert bytes_moved(ours, params) == bytes_moved(plain, params)
    assert parameter_copies(ours, params) == 0
    assert on_host(offloaded(inner).init(params)) == []
    assert ours.memory_analysis().host_argument_size_in_bytes == 0


# Which leaves.


@pytest.mark.parametrize("inner", [gradtx.adamw(1e-3), CLIPPED], ids=["by leaf", "whole tree"])
@pytest.mark.parametrize("where", ["kernel", lambda path, leaf: leaf.size > 100, {"kernel": True, "bias": False,
                                                                                  "temperature": False}],
                         ids=["glob", "function", "tree"])  # fmt: skip
def test_only_what_is_selected_is_sent(far, inner, where):
    found, state = steps(offloaded(inner, where))
    assert {path.rsplit("/", 1)[1] for path in on_host(state)} == {"kernel"}
    assert_same_bits(found, steps(inner)[0])


def test_a_pattern_that_no_leaf_has_is_an_error_at_init():
    with pytest.raises(errors.SelectionError, match="'kernels'"):
        offloaded(gradtx.adamw(1e-3), where="kernels").init(PARAMS)


def test_some_leaves_of_one_vector_of_all_cannot_be_sent():
    tx = gradtx.flatten(gradtx.adam(1e-3))
    offloaded(tx).init(PARAMS)
    with pytest.raises(errors.LayoutError, match="one array of several leaves"):
        offloaded(tx, where="kernel").init(PARAMS)


# What stands around, and what within.


@pytest.mark.parametrize(
    "around",
    [gradtx.skip_nonfinite, lambda tx: gradtx.accumulate(tx, 2), gradtx.dynamic_loss_scale],
    ids=["a guard", "accumulation", "a loss scale"],
)
def test_it_stands_around_what_chooses_between_states(around):
    for inner in (offloaded(gradtx.sgd(0.1, 0.9)), gradtx.chain(gradtx.clip(1.0), offloaded(gradtx.sgd(0.1, 0.9)))):
        with pytest.raises(errors.ArgumentTypeError, match=r"offloaded\(skip_nonfinite"):
            around(inner)
    offloaded(around(gradtx.sgd(0.1, 0.9)))


def test_a_foreign_part_is_named():
    pair = gradtx.GradientTransformation(lambda params: (), lambda updates, state, params=None: (updates, state))
    with pytest.raises(errors.LayoutError, match="foreign part"):
        offloaded(gradtx.chain(gradtx.adam(1e-3), pair))
    gradtx.chain(offloaded(gradtx.adam(1e-3)), pair)


def test_packed_parameters_find_their_plan_within():
    tx = offloaded(storage.packed(gradtx.adamw(1e-3)))
    assert isinstance(storage.pack(PARAMS | {"bias_2": jnp.ones(3)}, tx), storage.Packed)


# Train steps, on one device and on several.

LOSS = from_plain(lambda p, x: jnp.mean((x @ p["kernel"] + p["bias"] * p["temperature"]) ** 2))
BATCH = jnp.cos(jnp.arange(8.0 * 64)).reshape(8, 64)


def trained(tx, **options):
    state = create_train_state(PARAMS, tx, key=jax.random.key(0))
    step = make_train_step(LOSS, tx, donate=False, **options)
    for _ in range(2):
        state, _ = step(state, BATCH)
    return state


@pytest.mark.parametrize(
    "parallel", [None, "zero", *(pytest.param(one, marks=pytest.mark.slow) for one in ("jit", "shard_map", "fsdp"))]
)
def test_a_train_step_keeps_state_in_host_memory_and_parameters_on_the_device(far, parallel):
    mesh = jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    options = {} if parallel is None else {"parallel": parallel, "mesh": mesh}
    state = trained(offloaded(gradtx.adamw(1e-3)), **options)
    assert len(on_host(state.opt_state)) == 4 and on_host(state.params) == []
    expected = trained(gradtx.adamw(1e-3), **options)
    assert_same_bits((state.params, state.opt_state), (expected.params, expected.opt_state))
    if parallel in ("zero", "fsdp"):
        specs = {leaf.sharding.spec for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim == 2}
        assert specs == {P("data", None)}


def test_shardings_of_a_state_say_where_it_lies(far):
    tx, mesh = offloaded(gradtx.adamw(1e-3)), jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])
    shardings = state_sharding(tx, PARAMS, mesh)
    state = jax.jit(lambda params: tx.init(params), out_shardings=shardings)(PARAMS)
    assert on_host(state) == on_host(tx.init(PARAMS))
    abstract = state_sharding(tx, PARAMS, AbstractMesh((2,), ("data",)))
    kinds = [[place.memory_kind == "pinned_host" for place in jax.tree.leaves(one)] for one in (shardings, abstract)]
    assert kinds[0] == kinds[1] and sum(kinds[0]) == 4


@pytest.mark.parametrize("parallel", ["jit", "zero"])
def test_bytes_on_a_device_leave_out_those_on_its_host(far, parallel):
    split = 2 if parallel == "zero" else 1
    tx, moments = gradtx.adamw(1e-3), 2 * 4 * (64 * 32 + 32)
    ours, plain = (bytes_per_device(one, PARAMS, 2, parallel=parallel) for one in (offloaded(tx), tx))
    assert plain.opt_state - ours.opt_state == moments // split
    assert plain[:2] == ours[:2]
