"""Momentum: the accumulated movement of earlier steps."""

from typing import NamedTuple

import jax.numpy as jnp

from gradtx import errors
from gradtx.core import GradientTransformation, SignedTree, transformation


class MomentumState(NamedTuple):
    momentum: SignedTree


@transformation(locality="elementwise")
def scale_by_momentum(decay: errors.Decay, nesterov: bool = False) -> GradientTransformation:
    """Heavy ball ``m <- g + decay * m``, ``u = m``; with ``nesterov``, ``u = g + decay * m`` with the new ``m``.

    Optax calls it ``trace``. State: one float32 number per parameter. A constant gradient ``g`` ends at
    ``g / (1 - decay)``.

    Source: Polyak 1964; Sutskever et al. 2013, ICML 28, equations 1-4 (in the form with the look-ahead folded in).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_momentum(0.5)
    >>> state = tx.init(jnp.zeros(1))
    >>> for _ in range(2):
    ...     u, state = tx.update(jnp.array([1.0]), state)
    >>> u.tolist()
    [1.5]
    """

    def init(param):
        return MomentumState(jnp.zeros_like(param))

    def update(update, state):
        momentum = update + decay * state.momentum
        return (update + decay * momentum if nesterov else momentum), MomentumState(momentum)

    return GradientTransformation(init, update)
