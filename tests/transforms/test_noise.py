"""Noise on gradients: of the right size, reproducible, and the leaf's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import gradtx
from gradtx import errors

ZEROS = {"a": jnp.zeros(4000), "b": jnp.zeros(4000)}


def noise(tx, tree, steps=1):
    state, found = tx.init(tree), []
    for _ in range(steps):
        updates, state = tx.update(tree, state)
        found.append(updates)
    return found


def test_the_variance_is_eta_at_first_and_falls_with_gamma():
    """4,000 draws know their deviation to 1.1 %."""
    drawn = noise(gradtx.add_noise(0.04, 1.0, key=0), ZEROS, steps=4)
    for step, updates in enumerate(drawn, 1):
        np.testing.assert_allclose(float(jnp.std(updates["a"])), 0.2 / np.sqrt(step), rtol=0.05)
        assert abs(float(jnp.mean(updates["a"]))) < 0.02


def test_leaves_and_steps_have_noise_of_their_own():
    first, second = noise(gradtx.add_noise(1.0, 0.0, key=0), ZEROS, steps=2)
    for one, other in ((first["a"], first["b"]), (first["a"], second["a"])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.08
    assert not np.array_equal(first["a"], noise(gradtx.add_noise(1.0, 0.0, key=1), ZEROS)[0]["a"])


def test_the_noise_of_a_leaf_depends_on_its_path_alone():
    tx = gradtx.add_noise(1.0, 0.5, key=0)
    together = noise(tx, ZEROS)[0]
    np.testing.assert_array_equal(noise(tx, {"b": ZEROS["b"], "c": jnp.zeros(3)})[0]["b"], together["b"])
    nested = noise(gradtx.chain(gradtx.clip_by_global_norm(1.0), tx), ZEROS)[0]
    np.testing.assert_array_equal(nested["b"], together["b"])


def test_the_noise_does_not_depend_on_the_sharding():
    mesh = jax.make_mesh((2,), ("d",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(ZEROS, NamedSharding(mesh, PartitionSpec("d")))
    tx = gradtx.add_noise(1.0, 0.5, key=0)
    updates, _ = jax.jit(tx.update)(sharded, tx.init(sharded))
    np.testing.assert_array_equal(updates["a"], noise(tx, ZEROS)[0]["a"])


def test_keys_of_every_kind_are_taken_and_kept_as_raw_data():
    expected = noise(gradtx.add_noise(1.0, 0.5, key=3), ZEROS)[0]["a"]
    for key in (jax.random.key(3), jax.random.PRNGKey(3), np.asarray(jax.random.PRNGKey(3)), np.int64(3)):
        tx = gradtx.add_noise(1.0, 0.5, key=key)
        np.testing.assert_array_equal(noise(tx, ZEROS)[0]["a"], expected)
        assert tx.init(ZEROS).key.dtype == jnp.uint32
    other = noise(gradtx.add_noise(1.0, 0.5, key=jax.random.key(3, impl="rbg")), ZEROS)[0]["a"]
    np.testing.assert_allclose(float(jnp.std(other)), 1.0, rtol=0.05)


@pytest.mark.parametrize("key", [None, 0.5, True, "0", jnp.zeros(2), jax.ShapeDtypeStruct((2,), "uint32")])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(errors.ArgumentTypeError, match="write key=0"):
        gradtx.add_noise(1.0, 0.5, key=key)


def test_noise_can_be_kept_in_another_layout_and_tuned():
    tx = gradtx.storage.stored(gradtx.chain(gradtx.add_noise(1.0, 0.5, key=0), gradtx.ema(0.0)),
                               gradtx.storage.cast(jnp.bfloat16))  # fmt: skip
    plain = noise(gradtx.add_noise(1.0, 0.5, key=0), ZEROS)[0]
    np.testing.assert_array_equal(noise(tx, ZEROS)[0]["b"], plain["b"])
    tunable = gradtx.tunable(gradtx.add_noise, eta=1.0, gamma=0.5, key=0)
    np.testing.assert_array_equal(noise(tunable, ZEROS)[0]["b"], plain["b"])


def test_complex_leaves_get_complex_noise_of_this_variance():
    drawn = noise(gradtx.add_noise(4.0, 0.0, key=0), jnp.zeros(4000, jnp.complex64))[0]
    np.testing.assert_allclose(float(jnp.sqrt(jnp.mean(jnp.abs(drawn) ** 2))), 2.0, rtol=0.05)
    assert abs(float(jnp.std(drawn.imag)) - np.sqrt(2.0)) < 0.1
