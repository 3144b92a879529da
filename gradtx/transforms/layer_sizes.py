"""Numbers of one leaf: steps in proportion to its parameters, gradients over the norms that it has seen."""

from typing import NamedTuple

import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators import chain
from gradtx.core import (
    Counter,
    EmptyState,
    FactorTree,
    Functions,
    GradientTransformation,
    PositionTree,
    first_step,
    next_step,
    transformation,
)
from gradtx.transforms.decay import add_decayed_weights
from gradtx.transforms.magnitudes import hypotenuse, norm, saturating
from gradtx.transforms.momentum import scale_by_momentum
from gradtx.transforms.whole_trees import divided_by, minus


@transformation(locality="leaf")
def scale_by_param_block_norm(min_scale: errors.NonNegative = 1e-3) -> GradientTransformation:
    """``u = g * max(||p||, min_scale)`` for each leaf: a step in proportion to its parameters. It needs them.

    Source: Shazeer and Stern 2018, arXiv:1804.04235, section 8, with the norm for the root mean square.
    """
    return _times_size(min_scale, mean=False)


@transformation(locality="leaf")
def scale_by_param_block_rms(min_scale: errors.NonNegative = 1e-3) -> GradientTransformation:
    """``u = g * max(RMS(p), min_scale)`` for each leaf: a step in proportion to its parameters. It needs them.

    Source: Shazeer and Stern 2018, arXiv:1804.04235, section 8.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_param_block_rms()
    >>> params = jnp.array([3.0, -3.0, 3.0, -3.0])
    >>> tx.update(jnp.array([1.0, 2.0, 0.0, 0.0]), tx.init(params), params)[0].tolist()
    [3.0, 6.0, 0.0, 0.0]
    """
    return _times_size(min_scale, mean=True)


def _times_size(min_scale: errors.NonNegative, *, mean: bool) -> GradientTransformation:
    def init(param):
        del param
        return EmptyState()

    def update(update, state, param):
        size = norm(param) / max(param.size, 1) ** 0.5 if mean else norm(param)
        return saturating(update * jnp.maximum(size, min_scale), jnp.isfinite(update)), state

    return GradientTransformation(init, update)


class NormalizeByPastNormState(NamedTuple):
    step: Counter
    norm: FactorTree


@transformation(locality="leaf")
def normalize_by_past_norm(
    decay: errors.Decay = 0.25, eps: errors.Epsilon = 1e-8, eps_root: errors.Epsilon = 0.0
) -> Functions:
    """``u = g / (sqrt(v + eps_root) + eps)``, ``v <- decay * v + (1 - decay) * ||g||^2`` for each leaf.

    ``v`` starts at the first ``||g||^2``. Its root is what is kept, so norms are right over the whole range of float32.
    State: one number per leaf.

    Source: Ginsburg et al. 2019, arXiv:1905.11286, algorithm 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.normalize_by_past_norm(eps=0.0)
    >>> u, _ = tx.update(jnp.array([3e30, 4e30]), tx.init(jnp.zeros(2)))
    >>> [round(x, 2) for x in u.tolist()]
    [0.6, 0.8]
    """

    def init(param):
        return NormalizeByPastNormState(first_step(), jnp.zeros((), param.real.dtype))

    def advance(state):
        return state._replace(step=next_step(state.step))

    def update(update, state):
        now, dtype = norm(update), state.norm.dtype
        kept, new = jnp.sqrt(jnp.asarray(decay, dtype)), jnp.sqrt(jnp.asarray(1.0 - decay, dtype))
        past = jnp.where(state.step == 1, now, hypotenuse(kept * state.norm, new * now))
        below = hypotenuse(past, jnp.sqrt(jnp.asarray(eps_root, dtype))) + eps
        return divided_by(update, below, 1.0), state._replace(norm=past)

    return init, update, advance


@transformation
def scale_by_novograd(
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.25,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
    weight_decay: errors.Strength = 0.0,
) -> GradientTransformation:
    """``u = m <- b1 * m + g / (sqrt(v + eps_root) + eps) + weight_decay * p``, ``v`` that of each leaf's norm.

    ``v <- b2 * v + (1 - b2) * ||g||^2`` from the first ``||g||^2``. ``weight_decay`` may be one for each layer, as in
    :func:`gradtx.add_decayed_weights`. State: one float32 number per parameter and one per leaf.

    Source: Ginsburg et al. 2019, arXiv:1905.11286, algorithm 1.
    """
    none = isinstance(weight_decay, float | int) and weight_decay == 0
    decay = [] if none else [add_decayed_weights(weight_decay)]
    return chain(normalize_by_past_norm(b2, eps, eps_root), *decay, scale_by_momentum(b1))


@transformation(locality="elementwise")
def step_and_shrink(learning_rate: errors.NonNegative) -> GradientTransformation:
    """``u = (p - learning_rate * x) / sqrt(1 + learning_rate^2) - p``: a step that leaves a norm where it was.

    For a step ``x`` as long as ``p`` and at a right angle to it, exactly. It needs the parameters.

    Source: Bernstein et al. 2020, arXiv:2002.03432, algorithm 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.step_and_shrink(0.75)
    >>> params = jnp.array([5.0, 0.0])
    >>> (params + tx.update(jnp.array([0.0, 5.0]), tx.init(params), params)[0]).tolist()
    [4.0, -3.0]
    """

    def init(param):
        del param
        return EmptyState()

    def update(update, state, param):
        rate = jnp.asarray(learning_rate, param.real.dtype)
        length = hypotenuse(rate, jnp.ones_like(rate))
        shrinkage = rate / length * (rate / (1.0 + length))  # 1 - 1 / length, without the difference
        return -(rate / length * update + shrinkage * param), state

    return GradientTransformation(init, update)


class ScaleByDistanceOverGradientsState(NamedTuple):
    distance: FactorTree
    gradient_norm: FactorTree
    start: PositionTree


@transformation(locality="leaf")
def scale_by_distance_over_gradients(
    reps_rel: errors.Positive = 1e-6, eps: errors.Epsilon = 1e-8, *, global_scale: errors.NonNegative = 1.0
) -> GradientTransformation:
    """``u = global_scale * r / sqrt(G + eps) * g`` for each leaf, :func:`scale_by_dog` with distances of its own.

    ``r <- max(r, ||p - p_0||)`` from ``reps_rel * (1 + ||p_0||)``, ``G <- G + ||g||^2``, whose root is kept: gradients
    of any size are divided right. ``init`` wants the parameters as they are. State: one float32 number per parameter
    and two per leaf.

    Source: Ivgi, Hinder and Carmon 2023, arXiv:2302.12022 (L-DoG).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_distance_over_gradients(reps_rel=0.5, eps=0.0)
    >>> params = jnp.array([0.0, 1.0])
    >>> u, _ = tx.update(jnp.array([3e30, 4e30]), tx.init(params), params)
    >>> [round(x, 2) for x in u.tolist()]
    [0.6, 0.8]
    """

    def init(param):
        return ScaleByDistanceOverGradientsState(
            jnp.zeros((), param.real.dtype), jnp.zeros((), param.real.dtype), jnp.array(param, copy=True)
        )

    def update(update, state, param):
        first = reps_rel * (1.0 + norm(state.start))
        distance = jnp.maximum(jnp.maximum(state.distance, first), norm(minus(param, state.start)))
        gradient_norm = hypotenuse(state.gradient_norm, norm(update))
        below = hypotenuse(gradient_norm, jnp.sqrt(jnp.asarray(eps, gradient_norm.dtype)))
        scaled = divided_by(update, below, global_scale * distance)
        return scaled, ScaleByDistanceOverGradientsState(distance, gradient_norm, state.start)

    return GradientTransformation(init, update)
