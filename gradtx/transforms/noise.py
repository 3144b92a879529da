"""Noise on the gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.core import Counter, Functions, Key, SignedScalar, first_step, next_step, transformation


class AddNoiseState(NamedTuple):
    step: Counter
    key: Key
    deviation: SignedScalar


@transformation(locality="elementwise")
def add_noise(eta: errors.NonNegative, gamma: errors.NonNegative, key: Any) -> Functions:
    """``u = g + sigma * N(0, 1)`` with the variance ``sigma^2 = eta / t^gamma``, ``t = 1, 2, ...``.

    ``key`` is a whole number, or a key of ``jax.random``. The noise of a leaf is drawn from the key, the step and the
    leaf's path: it does not depend on the order of the leaves, nor on the sharding under ``jit``. Complex leaves get
    complex noise of this variance. State: one key, as raw data.

    Raises ``ArgumentTypeError`` for what is no key.

    Source: Neelakantan et al. 2015, arXiv:1511.06807, section 3, where ``t`` counts from 0 and is raised by 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.add_noise(eta=0.01, gamma=0.55, key=0)
    >>> params = jnp.zeros(10_000)
    >>> noise, _ = tx.update(params, tx.init(params))
    >>> round(float(noise.std()), 2)
    0.1
    """
    data, implementation = _checked_key(key)

    def init(param):
        del param
        raw = data if not isinstance(data, int) else jax.random.key_data(jax.random.key(data))
        return AddNoiseState(first_step(), jnp.array(raw, copy=True), jnp.zeros((), jnp.float32))

    def advance(state):
        step = next_step(state.step)
        return AddNoiseState(step, state.key, jnp.sqrt(eta / step**gamma))

    def update(update, state, *, leaf_seed):
        whole = jax.random.wrap_key_data(state.key, impl=implementation)
        of_leaf = jax.random.fold_in(jax.random.fold_in(whole, state.step), leaf_seed)
        noise = jax.random.normal(of_leaf, update.shape, update.dtype)
        return update + state.deviation.astype(update.real.dtype) * noise, state

    return init, update, advance


def _checked_key(key: Any) -> tuple[Any, str | None]:
    """A seed or the raw data of a key, and the name of its generator (None for the one in force)."""
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return int(key), None
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0:
        return jax.random.key_data(key), str(jax.random.key_impl(key))
    if isinstance(key, jax.Array | np.ndarray) and key.dtype == jnp.uint32 and key.ndim == 1:
        return key, None
    raise errors.ArgumentTypeError(
        f"add_noise(key={errors.show(key)})", expected="key must be a whole number or a key of jax.random",
        got=f"{type(key).__name__} {errors.show(key)}",
        cause="without a key every run would have the same noise" if key is None else "it seeds the noise",
        fix="write key=0 or key=jax.random.key(0)",
    )  # fmt: skip
