"""Steps measured by themselves: as long as the last ones, or longer and shorter by whether the last was right."""

from typing import NamedTuple

import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators import chain
from gradtx.core import (
    AccumulatedTree,
    Counter,
    Functions,
    GradientTransformation,
    NonNegativeTree,
    SignedTree,
    first_step,
    next_step,
    transformation,
)
from gradtx.transforms.adaptive import scale_by_rms
from gradtx.transforms.magnitudes import saturating
from gradtx.transforms.moments import finite_square


class ScaleByOwnRmsState(NamedTuple):
    mean_square_step: NonNegativeTree


@transformation(locality="elementwise")
def scale_by_own_rms(decay: errors.Decay = 0.9, eps: errors.Epsilon = 1e-6) -> GradientTransformation:
    """``u = sqrt(d + eps) * x``, then ``d <- decay * d + (1 - decay) * |u|^2``: as long as the last steps were.

    ``eps`` starts the first one. Steps and squares saturate. State: one float32 number per parameter.

    Source: Zeiler 2012, arXiv:1212.5701, algorithm 1, lines 5 and 6.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_own_rms(0.5, eps=0.25)
    >>> state = tx.init(jnp.zeros(1))
    >>> for x in (2.0, 2.0):
    ...     u, state = tx.update(jnp.array([x]), state)
    >>> round(float(u[0]), 3)
    1.732
    """

    def init(param):
        return ScaleByOwnRmsState(jnp.zeros_like(param.real))

    def update(update, state):
        d = state.mean_square_step
        step = saturating(jnp.sqrt(d + eps) * update, jnp.isfinite(update))
        return step, ScaleByOwnRmsState(d + (1.0 - decay) * (finite_square(step) - d))

    return GradientTransformation(init, update)


@transformation
def scale_by_adadelta(rho: errors.Decay = 0.9, eps: errors.Epsilon = 1e-6) -> GradientTransformation:
    """``u = sqrt(d + eps) / sqrt(v + eps) * g``, ``v`` and ``d`` the moving averages of ``g^2`` and of earlier ``u^2``.

    Gradients over their root mean square, times the root mean square of the steps so far: in the units of the
    parameters, without a learning rate. State: two float32 numbers per parameter.

    Source: Zeiler 2012, arXiv:1212.5701, algorithm 1.
    """
    return chain(scale_by_rms(rho, eps), scale_by_own_rms(rho, eps))


class ScaleByRpropState(NamedTuple):
    step: Counter
    step_size: AccumulatedTree
    last: SignedTree


@transformation(locality="elementwise", real=True)
def scale_by_rprop(
    learning_rate: errors.NonNegative,
    eta_minus: errors.Positive = 0.5,
    eta_plus: errors.Positive = 1.2,
    min_step_size: errors.NonNegative = 1e-6,
    max_step_size: errors.NonNegative = 50.0,
) -> Functions:
    """``u = d * sign(g)``, ``d`` longer by ``eta_plus`` where ``g`` keeps its sign, shorter by ``eta_minus`` where not.

    ``d`` starts at ``learning_rate`` and stays within ``min_step_size`` and ``max_step_size``. Where the sign has
    changed there is no step, and ``d`` waits for one more gradient (iRprop-, as PyTorch). It wants whole batches: noise
    changes signs. The first update is already a step; Optax, whose updates are those of the step before, begins with
    zero. Of a schedule only the first value counts. State: two float32 numbers per parameter, a step size and a sign.

    Source: Riedmiller and Braun 1993, IEEE International Conference on Neural Networks, equations 4 to 7; Igel and
    Huesken 2000, Improving the Rprop learning algorithm, table 4.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_rprop(0.5)
    >>> state = tx.init(jnp.zeros(2))
    >>> for g in ([7.0, 7.0], [1.0, -1.0]):
    ...     u, state = tx.update(jnp.array(g), state)
    ...     [round(x, 2) for x in u.tolist()]
    [0.5, 0.5]
    [0.6, 0.0]
    """

    def init(param):
        return ScaleByRpropState(first_step(), jnp.zeros_like(param), jnp.zeros_like(param))

    def advance(state):
        return state._replace(step=next_step(state.step))

    def update(update, state):
        size = jnp.where(state.step == 1, learning_rate, state.step_size)
        agreement = jnp.sign(update) * state.last
        longer, shorter = jnp.minimum(size * eta_plus, max_step_size), jnp.maximum(size * eta_minus, min_step_size)
        size = jnp.where(agreement > 0, longer, jnp.where(agreement < 0, shorter, size))
        direction = jnp.where(agreement < 0, 0.0, jnp.sign(update))
        return size * direction, state._replace(step_size=size, last=direction)

    return init, update, advance
