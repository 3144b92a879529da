"""The one kernel of an update in codes: what the plain program gives, for each accelerator that it is written for.

The kernel's body runs here tile by tile on the CPU, and programs for accelerators are lowered without one at hand.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, NamedSharding, PartitionSpec

import gradtx
from gradtx import storage
from gradtx.storage import kernels, programs, tiles, turns

TILES = {"cuda": tiles.for_gpus, "tpu": tiles.for_tpus}
ALLOWED = {"cuda": programs.ON_GPUS, "tpu": programs.ON_TPUS}
DEVICES = {"cuda": ("NVIDIA H100", 132, "gpu"), "tpu": ("TPU v5 lite", 1, "tpu")}
CALLS = {"cuda": r"custom_call @__gpu\$xla.gpu.triton", "tpu": "custom_call @tpu_custom_call"}
RECIPES = {
    "adamw": lambda: gradtx.adamw(1e-2),
    "momentum": lambda: gradtx.sgd(1e-2, momentum=0.9),
    "lion": lambda: gradtx.lion(1e-2),
    "radam": lambda: gradtx.radam(1e-2),
    "tunable": lambda: gradtx.tunable(gradtx.adamw, learning_rate=1e-2),
}


def grads(step, shape):
    """Sizes from 1e-6 to 1 within a block, a zero, and at the second step what is not finite."""
    random = np.random.default_rng(step)
    array = random.normal(size=shape) * 10.0 ** random.uniform(-6, 0, size=shape)
    array.flat[[1, 40, 80]] = [0.0, np.inf, np.nan] if step == 1 else 0.0
    return jnp.asarray(array, jnp.float32)


def fresh(layout):
    """An equal layout that is not the same: what is made with it was not traced before."""
    return layout._replace(refuses=lambda role: None)


def steps(tx, params, count=3):
    state, update = tx.init(params), jax.jit(tx.update)
    found = []
    for step in range(count):
        updates, state = update(grads(step, params.shape).astype(params.dtype), state, params)
        found.append((updates, state))
    return found


CASES = [
    ("cuda", "adamw", storage.quantized(), (64, 256), "float32"),
    ("cuda", "adamw", storage.quantized(), (64, 256), "bfloat16"),
    ("cuda", "momentum", storage.quantized(bits=4), (2, 4, 96), "float32"),
    ("cuda", "lion", storage.quantized(block=128), (1024,), "float32"),
    ("cuda", "radam", storage.quantized(), (16, 64), "float16"),
    ("tpu", "adamw", storage.quantized(), (64, 256), "float32"),
    ("tpu", "momentum", storage.quantized(), (32, 8192), "float32"),
    ("cuda", "adamw", storage.quantized(rounding="stochastic"), (3, 40, 64), "float32"),
    ("cuda", "adamw", storage.quantized(bits=4, rounding="stochastic"), (64, 256), "float32"),
    ("tpu", "adamw", storage.quantized(rounding="stochastic"), (2, 32, 8192), "float32"),
]


@pytest.mark.parametrize(("platform", "name", "layout", "shape", "dtype"), CASES)
def test_the_kernel_gives_bit_for_bit_what_the_plain_program_gives(monkeypatch, platform, name, layout, shape, dtype):
    cut = TILES[platform](shape, layout.block)
    params = grads(9, shape).astype(dtype)
    expected = steps(storage.stored(RECIPES[name](), layout._replace(block=None)), params)
    used = []

    def bind(*operands, program):
        used.append(program)
        return tiles.by_tiles(operands, program, cut, ALLOWED[platform], interpret=True)

    monkeypatch.setattr(kernels._one_pass, "bind", bind)
    found = steps(storage.stored(RECIPES[name](), fresh(layout)), params)
    assert used
    jax.tree.map(np.testing.assert_array_equal, found, expected)


CODES = storage.quantized()
TURNS = [
    ("adamw", storage.quantized(), (64, 256), "float32"),
    ("adamw", storage.quantized(bits=4), (3, 2, 96), "bfloat16"),
    ("radam", storage.quantized(), (1000,), "float16"),  # the last block is cut off
    ("momentum", storage.quantized(bits=4), (100,), "float32"),  # less than a tile
    ("lion", storage.quantized(), (37, 50), "float32"),  # so is that of each row
    ("adamw", storage.quantized(block=3), (5, 999), "float32"),  # no row fits into a tile
    ("tunable", storage.quantized(), (7, 32), "float32"),
    ("adamw", storage.quantized(rounding="stochastic"), (64, 256), "float32"),
    ("adamw", storage.quantized(bits=4, rounding="stochastic"), (5, 9, 50), "float32"),
]


@pytest.mark.parametrize(("name", "layout", "shape", "dtype"), TURNS)
def test_the_loop_over_tiles_gives_what_the_plain_program_gives(monkeypatch, name, layout, shape, dtype):
    """But for the last digit of a quotient: XLA multiplies divisors, and others in another program."""
    monkeypatch.setattr(turns, "AT_ONCE", 512)
    monkeypatch.setattr(turns, "LEAST", 1)
    monkeypatch.setattr(kernels, "by_turns", counted := Counted(turns.by_turns))
    params = grads(9, shape).astype(dtype)
    expected = steps(storage.stored(RECIPES[name](), layout._replace(block=None)), params)
    assert counted.calls == 0
    found = steps(storage.stored(RECIPES[name](), fresh(layout)), params)
    assert counted.calls == counted.returned == 1
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if one.dtype == jnp.uint8:
            one, other = (np.stack([pairs & 15, pairs >> 4]) for pairs in (one, other))
        if jnp.issubdtype(one.dtype, jnp.integer):
            apart = np.abs(np.asarray(one, np.int32) - np.asarray(other, np.int32))
            assert apart.max() <= 1 and apart.mean() < 0.01
        else:
            np.testing.assert_allclose(one, other, rtol=4e-7, atol=1e-12)


class Counted:
    def __init__(self, function):
        self.function, self.calls, self.returned = function, 0, 0

    def __call__(self, *operands):
        self.calls += 1
        results = self.function(*operands)
        self.returned += 1
        return results


STORED = {
    "adamw": lambda: storage.stored(gradtx.adamw(1e-2), CODES),
    "momentum": lambda: storage.stored(gradtx.sgd(1e-2, momentum=0.9), CODES),
    "lion": lambda: storage.stored(gradtx.lion(1e-2), CODES),
    "adamw, 4 bits": lambda: storage.stored(gradtx.adamw(1e-2), storage.quantized(bits=4)),
    "adamw, master weights": lambda: storage.master_weights(storage.stored(gradtx.adamw(1e-2), CODES), bits=8),
}
on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the counts are those of the compiler for CPUs")


@on_cpu
@pytest.mark.parametrize("shape", [(2**19,), (600_002,), (600, 1002)], ids=["whole", "cut off", "rows"])
@pytest.mark.parametrize("name", STORED)
def test_on_a_cpu_no_state_is_copied_and_the_moments_are_never_there_in_float32(name, shape):
    """Of scratch there is the update, 4 bytes a parameter, and tiles; with masters these, too, in float32.

    The plain program of adamw has 17 bytes, and copies the codes.
    """
    dtype = jnp.bfloat16 if "master" in name else jnp.float32
    params = jax.ShapeDtypeStruct(shape, dtype)
    tx = STORED[name]()

    def step(params, state, inputs):
        updates, state = tx.update(jnp.sin(params.astype(jnp.float32) * inputs), state, params)
        return gradtx.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, jax.ShapeDtypeStruct((), "float32")).compile()
    names = {"int8": "s8", "uint8": "u8", "float32": "f32", "bfloat16": "bf16"}
    kept = {(names[str(leaf.dtype)], leaf.size) for leaf in jax.tree.leaves((params, state)) if leaf.ndim}
    copied = re.findall(r" = (\w+)\[([\d,]+)\]\S* copy(?:-start)?\(", compiled.as_text())
    assert not kept & {(name, math.prod(map(int, lengths.split(",")))) for name, lengths in copied}
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes >= sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert memory.temp_size_in_bytes < (10 if "master" in name else 6) * params.size


@on_cpu
def test_the_loop_stands_within_shard_map_and_never_in_a_program_that_the_compiler_divides():
    tx = storage.stored(gradtx.ema(0.9), CODES)
    grads = jax.ShapeDtypeStruct((2048, 512), jnp.float32)
    state = jax.eval_shape(tx.init, grads)
    mesh = AbstractMesh((2,), ("x",), axis_types=AxisType.Auto)
    specs = jax.tree.map(lambda leaf: PartitionSpec("x") if leaf.ndim else PartitionSpec(), (grads, state))
    rows = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (grads, state))

    def branches(function):
        return function.trace(*shapes).lower(lowering_platforms=("cpu",)).as_text().count("stablehlo.case")

    alone = jax.shard_map(tx.update, mesh=mesh, in_specs=specs, out_specs=specs)
    assert branches(jax.jit(alone)) > 0
    assert branches(jax.jit(tx.update, in_shardings=rows, out_shardings=rows)) == 0


def lowered(function, platform, *operands):
    """The program for an accelerator, as text."""
    mesh = AbstractMesh((), (), abstract_device=AbstractDevice(*DEVICES[platform]))
    with jax.sharding.use_abstract_mesh(mesh):
        return function.trace(*operands).lower(lowering_platforms=(platform,)).as_text()


def kernels_in(tx, params, platform):
    state = tx.init(params)
    return len(re.findall(CALLS[platform], lowered(jax.jit(tx.update), platform, params, state, params)))


@pytest.mark.parametrize(
    ("platform", "name", "options"),
    [
        *((platform, name, {}) for platform in TILES for name in RECIPES),
        *((platform, "adamw", {"rounding": "stochastic"}) for platform in TILES),
        ("cuda", "adamw", {"bits": 4}),
        ("cuda", "adamw", {"bits": 4, "rounding": "stochastic"}),
    ],
)
def test_a_program_for_an_accelerator_has_one_kernel_for_each_shape_of_leaf(platform, name, options):
    params = {"w": jnp.ones((64, 256)), "same": jnp.ones((64, 256)), "v": jnp.ones((32, 128)), "b": jnp.ones(100)}
    assert kernels_in(storage.stored(RECIPES[name](), storage.quantized(**options)), params, platform) == 2


def ema_after(*parts):
    return gradtx.chain(*parts, gradtx.ema(0.9))


PLAIN = {
    "half a block": (ema_after, CODES, (64, 144)),
    "few numbers": (ema_after, CODES, (3, 32)),
    "no numbers": (ema_after, CODES, (0, 256)),
    "a scalar": (ema_after, CODES, ()),
    "blocks of 24": (ema_after, storage.quantized(block=24), (64, 24)),
    "random bits": (lambda: ema_after(gradtx.add_noise(0.1, 0.5, 0)), CODES, (64, 256)),
    "whole leaves": (lambda: ema_after(gradtx.clip_by_block_rms(1.0)), CODES, (64, 256)),
    "whole trees": (lambda: ema_after(gradtx.clip_by_global_norm(1.0)), CODES, (64, 256)),
    "asked for": (ema_after, CODES._replace(block=None), (64, 256)),
}


@pytest.mark.parametrize("platform", TILES)
@pytest.mark.parametrize(("make", "layout", "shape"), PLAIN.values(), ids=PLAIN.keys())
def test_what_has_no_tiles_is_a_plain_program(make, layout, shape, platform):
    assert kernels_in(storage.stored(make(), layout), jnp.ones(shape), platform) == 0


def test_codes_of_four_bits_are_a_plain_program_on_tpus():
    assert kernels_in(storage.stored(gradtx.ema(0.9), storage.quantized(bits=4)), jnp.ones((64, 256)), "tpu") == 0


def test_tpus_whose_compiler_refuses_kernels_get_none(monkeypatch):
    monkeypatch.setitem(DEVICES, "tpu", ("TPU v4", 1, "tpu"))
    assert kernels_in(storage.stored(gradtx.lion(1e-2), CODES), jnp.ones((64, 256)), "tpu") == 0


def test_a_hyperparameter_of_an_outer_trace_stays_in_it():
    def step(rate, grads):
        tx = storage.stored(gradtx.sgd(rate, momentum=0.9), storage.quantized())
        return tx.update(grads, tx.init(grads))[0]

    grads = jnp.ones((64, 256))
    assert not re.findall(CALLS["cuda"], lowered(jax.jit(step), "cuda", jnp.float32(0.5), grads))
    np.testing.assert_array_equal(jax.jit(step)(jnp.float32(0.5), grads), -0.5 * grads)


@pytest.mark.parametrize("platform", TILES)
def test_a_kernel_stands_within_shard_map_and_never_in_a_program_that_the_compiler_divides(platform):
    tx = storage.stored(gradtx.ema(0.9), storage.quantized())
    grads = jnp.ones((64, 256))
    state = tx.init(grads)
    mesh = AbstractMesh((2,), ("x",), axis_types=AxisType.Auto, abstract_device=AbstractDevice(*DEVICES[platform]))
    specs = jax.tree.map(lambda leaf: PartitionSpec("x") if leaf.ndim else PartitionSpec(), (grads, state))
    rows = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (grads, state))

    def found(function):
        text = function.trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
        return len(re.findall(CALLS[platform], text))

    alone = jax.shard_map(tx.update, mesh=mesh, in_specs=specs, out_specs=specs)
    assert found(jax.jit(alone)) == 1
    assert found(jax.jit(tx.update, in_shardings=rows, out_shardings=rows)) == 0


def test_codes_and_scales_are_written_where_they_were():
    tx = storage.stored(gradtx.ema(0.9), storage.quantized())
    grads = jnp.ones((64, 256))
    text = lowered(jax.jit(tx.update), "cuda", grads, tx.init(grads))
    assert len(re.findall("#stablehlo.output_operand_alias", text)) == 2


def test_vmap_and_derivatives_are_those_of_the_plain_program():
    def loss(scale, tx, grads):
        return jnp.sum(tx.update(scale * grads, tx.init(grads))[0] ** 2)

    tx, plain = (storage.stored(gradtx.ema(0.9), storage.quantized()._replace(block=block)) for block in (32, None))
    many = jnp.stack([grads(0, (4, 64)), grads(2, (4, 64))])
    scales = jnp.array([1.0, 2.0])
    for function in (jax.value_and_grad(loss), jax.hessian(loss)):
        found, expected = (jax.vmap(lambda s, g: function(s, one, g))(scales, many) for one in (tx, plain))  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    state = jax.vmap(tx.init)(many)
    text = lowered(jax.jit(jax.vmap(tx.update)), "cuda", many, state)
    assert not re.findall(CALLS["cuda"], text)


def test_under_vmap_what_the_members_share_stays_one_number():
    tx, plain = (storage.stored(gradtx.ema(0.9), storage.quantized()._replace(block=block)) for block in (32, None))
    many = jnp.stack([grads(0, (4, 64)), grads(2, (4, 64))])
    state = tx.init(many[0])
    out = jax.tree.map(lambda leaf: 0 if leaf.ndim else None, state)
    found, expected = (jax.vmap(one.update, (0, None), (0, out))(many, state) for one in (tx, plain))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_program_is_exported_for_all_platforms_and_has_kernels_where_these_will_last():
    tx, grads = storage.stored(gradtx.adamw(1e-2), CODES), jnp.ones((64, 256))
    platforms = ["cpu", "cuda", "tpu"]
    exported = jax.export.export(jax.jit(tx.update), platforms=platforms)(grads, tx.init(grads), grads)
    found, _ = exported.call(grads, tx.init(grads), grads)
    np.testing.assert_array_equal(found, jax.jit(tx.update)(grads, tx.init(grads), grads)[0])


def test_a_kernel_that_fails_is_told_and_replaced_by_the_plain_program(monkeypatch):
    def failing(*operands):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(kernels, "by_turns", failing)
    tx, grads = storage.stored(gradtx.ema(0.9), fresh(CODES)), jnp.ones((64, 256))
    with pytest.warns(UserWarning, match=r"the update of float32\[64,256\] .* RuntimeError: no such instruction"):
        found, _ = jax.jit(tx.update)(grads, tx.init(grads))
    np.testing.assert_allclose(found, 0.1 * grads, rtol=1e-6)
