"""Optimizers that estimate the Hessian's diagonal."""

from gradtx import errors
from gradtx.combinators import chain
from gradtx.combinators.selecting import Where
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import add_decayed_weights, scale_by_learning_rate, scale_by_sophia
from gradtx.transforms.hessian_diagonals import ESTIMATOR


@transformation
def sophia(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.965,
    b2: errors.Decay = 0.99,
    eps: errors.Epsilon = 1e-8,
    weight_decay: errors.Strength = 1e-4,
    weight_decay_mask: Where | None = None,
    gamma: errors.Positive = 0.01,
    clip_threshold: errors.Positive | None = 1.0,
    update_interval: errors.Count = 10,
    hessian_diagonal_fn: GradientTransformation = ESTIMATOR,
) -> GradientTransformation:
    """``u = -learning_rate * (clip(m / max(gamma * h, eps)) + weight_decay * p)``, ``h`` the Hessian's diagonal.

    See :func:`gradtx.scale_by_sophia`. The signal ``value_fn`` is the loss of this batch as a function of the
    parameters; it is differentiated twice every ``update_interval`` steps. State: two float32 numbers per parameter.

    Source: Liu et al. 2023, arXiv:2305.14342, algorithm 3.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.sophia(0.5, b1=0.0, b2=0.0, gamma=1.0, weight_decay=0.0)
    >>> params, loss = jnp.array([0.5, 3.0]), lambda p: p[0] ** 2 + 5 * p[1] ** 2
    >>> tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)[0].tolist()
    [-0.25, -0.5]
    """
    return chain(
        scale_by_sophia(b1, b2, eps, gamma, clip_threshold, update_interval, hessian_diagonal_fn),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
