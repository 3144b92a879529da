"""Checkpoints of stored state: as small on disk as in memory, and a run goes on from them bit for bit."""

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import storage

CODES = storage.quantized()
KEPT = {
    "4 bits": (jnp.float32, storage.stored(gradtx.adamw(1e-2), storage.quantized(bits=4))),
    "by path": (jnp.float32, storage.stored(gradtx.adamw(1e-2), {"bias": None, "*": CODES})),
    "master weights": (jnp.bfloat16, storage.master_weights(storage.stored(gradtx.adamw(1e-2), CODES), bits=8)),
    "master weights of some": (
        {"bias": jnp.float32, "kernel": jnp.bfloat16}, storage.master_weights(gradtx.sgd(0.1, momentum=0.9))
    ),
    "packed": (jnp.float32, storage.packed(gradtx.tunable(gradtx.adamw, learning_rate=1e-2))),
}  # fmt: skip


def params(dtype):
    of = dtype if isinstance(dtype, dict) else dict.fromkeys(("bias", "kernel"), dtype)
    kernel = np.random.default_rng(0).normal(size=(8, 64))
    return {"bias": jnp.zeros(64, of["bias"]), "kernel": jnp.asarray(kernel, of["kernel"])}


def continued(step, carry, steps):
    for _ in range(steps):
        carry = step(*carry)
    return carry


def with_orbax(folder, carry, like):
    ocp = pytest.importorskip("orbax.checkpoint")
    targets = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), like)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "kept", carry)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "kept", targets)


def with_flax(folder, carry, like):
    (folder / "kept").write_bytes(flax.serialization.to_bytes(carry))
    return flax.serialization.from_bytes(like, (folder / "kept").read_bytes())


every_format = pytest.mark.parametrize("restored_by", [with_orbax, with_flax], ids=["orbax", "flax"])


@every_format
@pytest.mark.parametrize(("dtype", "tx"), KEPT.values(), ids=KEPT.keys())
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(dtype, tx, restored_by, tmp_path):
    @jax.jit
    def step(weights, state):
        grads = jax.grad(lambda p: jnp.sum(jnp.tanh(p["kernel"] + p["bias"]).astype(jnp.float32) ** 2))(weights)
        updates, state = tx.update(grads, state, weights)
        return gradtx.apply_updates(weights, updates), state

    start = (params(dtype), tx.init(params(dtype)))
    kept = continued(step, start, 3)
    restored = restored_by(tmp_path, kept, start)
    assert [leaf.dtype for leaf in jax.tree.leaves(restored)] == [leaf.dtype for leaf in jax.tree.leaves(kept)]
    for actual, expected in ((restored, kept), (continued(step, restored, 3), continued(step, kept, 3))):
        jax.tree.map(np.testing.assert_array_equal, actual, expected)


def size_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@every_format
@pytest.mark.parametrize("bits", [8, 4])
def test_a_checkpoint_of_a_million_parameters_is_as_small_as_the_state(bits, restored_by, tmp_path):
    """Orbax compresses, and the codes of random numbers hardly shrink: what is more than the state is overhead."""
    tx = storage.stored(gradtx.adamw(1e-3), storage.quantized(bits=bits))
    grads = {"kernel": jax.random.normal(jax.random.key(0), (1024, 1024)), "bias": jnp.ones(1024)}
    _, state = jax.jit(tx.update)(grads, tx.init(grads), grads)
    restored_by(tmp_path, state, state)
    assert 0.5 < size_of(tmp_path) / storage.state_bytes(tx, grads) < 1.2
