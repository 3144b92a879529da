"""Optimizers that take a sign: right wherever rounding does not decide it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from tests.papers import adaptive_oracles as oracles

EPS = float(np.finfo(np.float32).eps)
STEPS, RATE = 300, 1e-3
CASES = (
    ("sign_sgd", {}, {"decay": 0.0}),
    ("signum", {"beta": 0.9}, {"decay": 0.9}),
    ("lion", {"b1": 0.8, "b2": 0.99, "weight_decay": 0.1}, {"decay": 0.99, "output_decay": 0.8}),
)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    return rng.normal(size=(STEPS, 64)).astype(np.float32), rng.normal(size=64).astype(np.float32)


@pytest.mark.parametrize("peer", ["gradtx", "optax"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_every_step_has_the_sign_of_the_average(case, peer, problem):
    name, arguments, average = case
    gradients, param = problem
    tx = getattr({"gradtx": gradtx, "optax": optax}[peer], name)(RATE, **arguments)

    def body(state, g):
        update, state = tx.update(g, state, param)
        return state, update

    updates = np.asarray(jax.lax.scan(body, tx.init(jnp.asarray(param)), gradients)[1], np.float64)
    state, memory = {}, {}
    for t, (g, update) in enumerate(zip(gradients.astype(np.float64), updates, strict=True), 1):
        exact, state = getattr(oracles, name)(state, g, param.astype(np.float64), t, learning_rate=RATE, **arguments)
        decided, memory = oracles.ema(memory, g, None, t, **average)
        clear = np.abs(decided) > 64 * EPS
        assert clear.mean() > 0.9
        np.testing.assert_allclose(update[clear], exact[clear], rtol=1e-6)


def test_a_gradient_too_small_to_be_averaged_still_has_a_sign():
    smallest = jnp.full((2,), jnp.finfo(jnp.float32).tiny) * jnp.array([1.0, -1.0])
    for tx in (gradtx.sign_sgd(0.5), gradtx.signum(0.5), gradtx.lion(0.5, weight_decay=0.0)):
        updates, _ = tx.update(smallest, tx.init(smallest), smallest)
        assert updates.tolist() == [-0.5, 0.5]
