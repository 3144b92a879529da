"""Step sizes from a model of the loss that momentum makes: MoMo, with and without Adam's scaling."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import (
    Counter,
    Functions,
    NonNegativeTree,
    SignedScalar,
    SignedTree,
    first_step,
    next_step,
    transformation,
)
from gradtx.transforms.moments import finite_square, weight_seen
from gradtx.transforms.signals import one_number
from gradtx.transforms.whole_trees import scaled_tree_norm, wide_zero
from gradtx.tree import cut, limited_dot
from gradtx.tree.products import LIMIT


class ScaleByMomoState(NamedTuple):
    step: Counter
    mean_value: SignedScalar
    mean_product: SignedScalar
    lower_bound: SignedScalar
    mean: SignedTree
    mean_square: NonNegativeTree


@transformation(locality="tree", real=True)
def scale_by_momo(
    learning_rate: errors.NonNegative = 1.0,
    beta: errors.Decay = 0.9,
    lower_bound: errors.Real = 0.0,
    weight_decay: errors.NonNegative = 0.0,
    adapt_lower_bound: bool = False,
    b2: errors.Decay | None = None,
    eps: errors.Epsilon = 1e-8,
) -> Functions:
    """``u = (tau * m / D + a * weight_decay * p) / (1 + a * weight_decay)``, with ``a`` the learning rate and::

        m, f, c <- moving averages, decay beta, of g, value and <g, p>
        gap = (1 + a weight_decay) (f - w lower_bound - c) + <m, p>
        tau = min(a / w, max(gap, 0) / <m, m / D>)

    The loss is taken to be at least what the averaged tangents say and at least ``lower_bound``; ``tau`` goes where the
    two meet, if that is nearer than the learning rate. Without ``b2``, ``D = 1`` and the averages start at the first
    values, ``w = 1``. With ``b2`` they start at 0, ``w = 1 - beta^t``, and ``D = sqrt(v^) + eps`` is Adam's, ``v^`` the
    corrected average of ``g^2``.

    ``adapt_lower_bound`` estimates the bound: it is lowered to ``gap / (2 w)`` of the model where that lies below it,
    and raised to what the model says after the step; never below ``lower_bound``. The signal ``value`` is the loss at
    the parameters. A zero gradient gives no step. ``u`` is uphill: :func:`gradtx.momo` and :func:`gradtx.momo_adam` are
    the steps. Gradients are cut at 2^50 in ``m``, and in products that are not below it. State: one float32 number per
    parameter, two with ``b2``.

    In Optax the step ``tau m / D`` is not divided by ``1 + a weight_decay``; the minimum of the regularized model is.

    Source: Schaipp et al. 2023, arXiv:2305.07583, algorithms 1 and 2, with its weight decay and its
    estimate of the lower bound.
    """

    def init(params):
        zero = wide_zero(params)
        return ScaleByMomoState(
            step=first_step(),
            mean_value=wide_zero(params),
            mean_product=zero + 0.0,
            lower_bound=zero + lower_bound,
            mean=jax.tree.map(jnp.zeros_like, params),
            mean_square=None if b2 is None else jax.tree.map(jnp.zeros_like, params),
        )

    def update(updates, state, params, *, value):
        step = next_step(state.step)
        share = 1.0 - beta if b2 is not None else jnp.where(state.step == 0, 1.0, 1.0 - beta)
        weight = 1.0 if b2 is None else weight_seen(beta, step)
        g = jax.tree.map(lambda leaf: cut(leaf, LIMIT), updates)

        def average(old: jax.Array, new: jax.Array) -> jax.Array:
            return old + jnp.asarray(share, old.dtype) * (new - old)

        mean = jax.tree.map(average, state.mean, g)
        mean_value = average(state.mean_value, one_number("value", value).astype(state.mean_value.dtype))
        mean_product = average(state.mean_product, limited_dot(updates, params))
        direction, mean_square = mean, None
        if b2 is not None:
            share_of_square = 1.0 - b2
            mean_square = jax.tree.map(lambda v, x: v + share_of_square * (finite_square(x) - v), state.mean_square, g)
            corrected = weight_seen(b2, step)
            direction = jax.tree.map(lambda m, v: _divided(m, v, corrected, eps), mean, mean_square)
        grown = 1.0 + learning_rate * weight_decay
        above = grown * (mean_value - mean_product) + limited_dot(mean, params)
        bound = jnp.maximum(state.lower_bound, lower_bound) if adapt_lower_bound else lower_bound
        if adapt_lower_bound:
            lowered = jnp.maximum(above / (2.0 * weight * grown), lower_bound)
            bound = jnp.where(above < grown * weight * bound, lowered, bound)
        gap = jnp.maximum(above - grown * weight * bound, 0.0)
        largest = learning_rate / weight
        if b2 is None:
            h, length = scaled_tree_norm(mean)
            square, unit = length * length, h * h
            scaled = jnp.where(square > 0, gap * unit / jnp.where(square > 0, square, 1.0), 0.0)
        else:
            square, unit = limited_dot(mean, direction), 1.0
            scaled = jnp.where(square > 0, gap / jnp.where(square > 0, square, 1.0), jnp.where(gap > 0, largest, 0.0))
        scaled = jnp.minimum(scaled, largest / unit)

        def one(d: jax.Array, p: jax.Array) -> jax.Array:
            return ((d * unit) * scaled + learning_rate * weight_decay * p) / grown

        new_bound = state.lower_bound
        if adapt_lower_bound:
            fallen = 0.5 * (scaled / unit) * square
            new_bound = jnp.maximum(
                (mean_value + limited_dot(mean, params) - mean_product - fallen) / weight, lower_bound
            )
        updates = jax.tree.map(one, direction, params)
        return updates, ScaleByMomoState(step, mean_value, mean_product, new_bound, mean, mean_square)

    return init, update


def _divided(m: jax.Array, v: jax.Array, weight: jax.Array, eps: Any) -> jax.Array:
    smallest = jnp.finfo(v.dtype).tiny ** 0.5
    return m / jnp.maximum(jnp.sqrt(v / weight) + eps, smallest)
