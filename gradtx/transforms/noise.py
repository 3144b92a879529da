"""Noise on the gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import Counter, Functions, Key, SignedScalar, first_step, kept_key, next_step, transformation


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
    words, typed = kept_key("add_noise", key)

    def init(param):
        del param
        return AddNoiseState(first_step(), words(), jnp.zeros((), jnp.float32))

    def advance(state):
        step = next_step(state.step)
        return AddNoiseState(step, state.key, jnp.sqrt(eta / step**gamma))

    def update(update, state, *, leaf_seed):
        of_leaf = jax.random.fold_in(jax.random.fold_in(typed(state.key), state.step), leaf_seed)
        noise = jax.random.normal(of_leaf, update.shape, update.dtype)
        return update + state.deviation.astype(update.real.dtype) * noise, state

    return init, update, advance
