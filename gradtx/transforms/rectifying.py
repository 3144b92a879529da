"""Adaptive steps only when enough gradients are known: the rectification of RAdam."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators import chain, ratio
from gradtx.core import (
    Counter,
    Functions,
    GradientTransformation,
    SignedScalar,
    first_step,
    next_step,
    transformation,
)
from gradtx.transforms.adaptive import first_moment
from gradtx.transforms.moments import absolute_value, bias_correction, mean_square, square_root


class RectificationState(NamedTuple):
    step: Counter
    factor: SignedScalar


@transformation(locality="elementwise")
def rectification(decay: errors.Decay, threshold: errors.NonNegative = 5.0) -> Functions:
    """``u = d / r_t`` where the moving average behind ``d`` knows enough gradients, ``u = 1`` before.

    Stands in a denominator, behind the root of a second moment with this ``decay``. ``rho_t`` is how many gradients
    such an average is worth, ``rho`` its limit::

        rho = 2 / (1 - decay) - 1          rho_t = rho - 2 t decay^t / (1 - decay^t)
        r_t = sqrt((rho_t - 4) (rho_t - 2) rho / ((rho - 4) (rho - 2) rho_t))    where rho_t >= threshold

    and at least where ``rho_t > 4``. The difference in ``rho_t`` is taken in a form that does not cancel: in float32
    the formula as it stands has lost four digits of ``r_t`` at the first rectified step of ``decay = 0.999``. State:
    one number.

    Source: Liu et al. 2020, arXiv:1908.03265, algorithm 2; a threshold of 5 as in its authors' code, the paper has 4.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.rectification(0.999)
    >>> state = tx.init(jnp.zeros(1))
    >>> for _ in range(6):
    ...     d, state = tx.update(jnp.array([2.0]), state)
    ...     print(d.round(2))
    [1.]
    [1.]
    [1.]
    [1.]
    [1.]
    [77.46]
    """

    def init(param):
        del param
        return RectificationState(first_step(), jnp.zeros((), jnp.float32))

    def advance(state):
        step = next_step(state.step)
        return RectificationState(step, _rectified(decay, step.astype(jnp.float32), threshold))

    def update(update, state):
        known = state.factor > 0
        alone = jnp.where(jnp.isfinite(update), jnp.ones_like(update), update)
        return jnp.where(known, update / jnp.where(known, state.factor, 1.0), alone), state

    return init, update, advance


def _rectified(decay: Any, t: jax.Array, threshold: Any) -> jax.Array:
    """``r_t``, or 0 where it is not used.

    With ``s = -log decay`` and ``L(y) = coth(y) - 1 / y``, ``rho = coth(s / 2)`` and ``rho_t = t - t L(t s / 2) +
    L(s / 2)``. Where ``t s > 2``, ``rho - 2 t / (e^(t s) - 1)`` loses nothing.
    """
    if isinstance(decay, float | int):
        s = -math.log(decay) if decay > math.exp(-128) else 128.0
    else:
        s = -jnp.maximum(jnp.log(jnp.asarray(decay, jnp.float32)), -128.0)
    limit = 2.0 / (1.0 - decay) - 1.0
    x = t * s
    early = (t - 4.0) - (t * _langevin(jnp.minimum(x, 2.0) / 2.0) - _langevin(s / 2.0))
    late = (limit - 4.0) - 2.0 * t / (jnp.exp(jnp.maximum(x, 1.0)) - 1.0)
    above_four = jnp.where(x < 2.0, early, late)
    known = (above_four > 0) & (above_four >= threshold - 4.0)
    above = jnp.where(known, above_four, 1.0)
    square = above / (limit - 4.0) * ((above + 2.0) / (limit - 2.0)) * (limit / (above + 4.0))
    return jnp.where(known, jnp.sqrt(jnp.where(known, square, 0.0)), 0.0)


def _langevin(y: Any) -> Any:
    """``coth(y) - 1 / y = y / (3 + y^2 / (5 + y^2 / (7 + ...)))``, which is enough for ``y <= 1`` in float32."""
    below = 15.0
    for odd in (13.0, 11.0, 9.0, 7.0, 5.0, 3.0):
        below = odd + y * y / below
    return y / below


@transformation
def scale_by_radam(
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
    threshold: errors.NonNegative = 5.0,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """``u = r_t * m^ / (sqrt(v^ + eps_root) + eps)``, and ``u = m^`` while too few gradients are known for ``v^``.

    ``r_t`` and when it starts (``threshold``) as in :func:`rectification`; ``m^``, ``v^`` and ``nesterov`` as in
    :func:`scale_by_adam`. State: two float32 numbers per parameter.

    Source: Liu et al. 2020, arXiv:1908.03265, algorithm 2.
    """
    root = chain(mean_square(b2), bias_correction(b2), square_root(eps=eps_root), absolute_value(eps=eps))
    return ratio(first_moment(b1, nesterov=nesterov), chain(root, rectification(b2, threshold)), eps=0.0)
