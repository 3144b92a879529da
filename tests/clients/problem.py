"""The small regression that the clients train, and how two runs are compared."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

INPUTS = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
TARGETS = np.random.default_rng(1).normal(size=(8, 2)).astype(np.float32)


def params(dtype: Any = jnp.float32) -> dict[str, dict[str, jax.Array]]:
    """A network of two layers, ``block/0/kernel`` and so on."""
    random = np.random.default_rng(2)

    def layer(inputs: int, outputs: int) -> dict[str, jax.Array]:
        return {"kernel": jnp.asarray(random.normal(size=(inputs, outputs)), dtype), "bias": jnp.zeros(outputs, dtype)}

    return {"hidden": layer(3, 4), "head": layer(4, 2)}


def predict(params: Any, inputs: jax.Array) -> jax.Array:
    hidden = jnp.tanh(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def loss(params: Any, inputs: jax.Array = INPUTS, targets: jax.Array = TARGETS) -> jax.Array:
    return jnp.mean((predict(params, inputs) - targets) ** 2)


def trained(tx: Any, apply_updates: Any, steps: int = 4, **signals: Any) -> tuple[Any, Any]:
    """Parameters and state after some steps of ``tx``, as any loop written for a pair of functions does them."""
    weights = params()
    state = tx.init(weights)

    @jax.jit
    def step(weights, state):
        updates, state = tx.update(jax.grad(loss)(weights), state, weights, **signals)
        return apply_updates(weights, updates), state

    for _ in range(steps):
        weights, state = step(weights, state)
    return weights, state


def assert_trained_alike(actual: Any, expected: Any, start: Any) -> None:
    """Equal within 4 eps of each leaf's largest element and 2e-5 of the way from ``start``.

    Optax divides by ``1 - b ** t``, which in float32 is up to 162 units in the last place off.
    """
    assert jax.tree.structure(actual) == jax.tree.structure(expected) == jax.tree.structure(start)
    for a, b, c in zip(*map(jax.tree.leaves, (actual, expected, start)), strict=True):
        a64, b64, c64 = (np.asarray(leaf, np.float64) for leaf in (a, b, c))
        way, largest = np.abs(b64 - c64).max(), np.abs(b64).max()
        assert way > 0 and a.dtype == b.dtype
        np.testing.assert_allclose(a64, b64, rtol=0, atol=2e-5 * way + 4 * float(jnp.finfo(a.dtype).eps) * largest)


def assert_identical(actual: Any, expected: Any) -> None:
    """Equal structures, dtypes and bits."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
