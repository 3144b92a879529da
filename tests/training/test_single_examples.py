"""Claims about a training step of a transformation that takes the gradients of single examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors
from gradtx.training import create_train_state, from_plain, make_train_step

RANDOM = np.random.default_rng(0)
BATCH = {"x": RANDOM.normal(size=(6, 3)).astype(np.float32), "y": RANDOM.normal(size=6).astype(np.float32)}


def square_error(params, batch):
    return jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)


def started(tx, params=None, **options):
    params = {"w": jnp.ones(3), "b": jnp.zeros(())} if params is None else params
    return create_train_state(params, tx, key=jax.random.key(0), **options)


def test_a_step_clips_each_example():
    tx = gradtx.dpsgd(0.1, l2_norm_clip=1.0, noise_multiplier=0.0, seed=0)
    state, metrics = make_train_step(from_plain(square_error), tx, gradient_norm=True)(started(tx), BATCH)
    params = {"w": jnp.ones(3), "b": jnp.zeros(())}
    one = jax.tree.map(lambda leaf: leaf[:, None], BATCH)
    grads = jax.vmap(jax.grad(square_error), (None, 0))(params, one)
    total, _ = gradtx.per_example_global_norm_clip(grads, 1.0)
    expected = jax.tree.map(lambda p, s: p - 0.1 * s / 6, params, total)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), state.params, expected)
    np.testing.assert_allclose(metrics["loss"], square_error(params, BATCH), rtol=1e-6)
    assert int(metrics["examples"]) == 6 and int(state.step) == 1
    mean = jax.tree.map(lambda g: jnp.mean(g, 0), grads)
    np.testing.assert_allclose(metrics["gradient_norm"], gradtx.global_norm(mean), rtol=1e-5)


def test_without_a_limit_and_noise_it_is_the_step_of_the_mean():
    private = gradtx.dpsgd(0.1, l2_norm_clip=1e6, noise_multiplier=0.0, seed=0, momentum=0.9)
    plain = gradtx.sgd(0.1, momentum=0.9)
    states = [started(private), started(plain)]
    steps = [make_train_step(from_plain(square_error), tx) for tx in (private, plain)]
    for _ in range(3):
        states = [step(state, BATCH)[0] for step, state in zip(steps, states, strict=True)]
    ours, expected = (state.params for state in states)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, expected)


def test_every_example_has_its_own_key_and_numbers_go_to_all():
    def loss(params, model_state, batch, key):
        value = jnp.sum(params * jax.random.normal(key)) * batch["scale"]
        return value, (model_state, {"draw": jax.random.normal(key)})

    tx = gradtx.dpsgd(1.0, 1e6, 0.0, 0)
    state, metrics = make_train_step(loss, tx)(started(tx, jnp.zeros(1)), {"x": np.zeros((8, 2)), "scale": 2.0})
    np.testing.assert_allclose(state.params, -2 * metrics["draw"], rtol=1e-5)
    assert abs(float(metrics["draw"])) < 1.5 and metrics["draw"].shape == ()


def test_model_states_and_parts_are_refused():
    tx = gradtx.dpsgd(0.1, 1.0, 1.0, 0)
    with pytest.raises(errors.ArgumentRangeError, match=r"accumulate=1.*training.micro_grad"):
        make_train_step(from_plain(square_error), tx, accumulate=2)
    state = started(tx, model_state={"mean": jnp.zeros(3)})
    with pytest.raises(errors.ArgumentTypeError, match=r"no model state.*norm\.layer_norm"):
        make_train_step(from_plain(square_error), tx)(state, BATCH)
