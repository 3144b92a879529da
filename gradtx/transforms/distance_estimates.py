"""Adam whose learning rate is an estimate of the distance to the solution, made on the way: Prodigy and D-Adaptation.

The estimate ``d`` starts near 1e-6 and multiplies every gradient that is remembered. The sums are kept in units of
2^-20, so that products of ``d`` with small gradients do not vanish; the unit cancels in every quotient.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import (
    AccumulatedTree,
    Counter,
    Functions,
    NonNegativeTree,
    PositionTree,
    SignedScalar,
    SignedTree,
    first_step,
    next_step,
    transformation,
)
from gradtx.transforms.moments import finite_square, weight_seen
from gradtx.transforms.whole_trees import copied, wide_zero
from gradtx.tree import cut, limited_dot

UNIT = 2.0**20


class ScaleByProdigyState(NamedTuple):
    step: Counter
    estim_lr: SignedScalar
    numerator: SignedScalar
    mean: SignedTree
    mean_square: NonNegativeTree
    gradient_sum: AccumulatedTree
    start: PositionTree


@transformation(locality="tree", real=True)
def scale_by_prodigy(
    learning_rate: errors.NonNegative = 1.0,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    b3: errors.Decay | None = None,
    eps: errors.Epsilon = 1e-8,
    estim_lr0: errors.Positive = 1e-6,
    estim_lr_coef: errors.Positive = 1.0,
    weight_decay: errors.NonNegative = 0.0,
    safeguard_warmup: bool = False,
    bias_correction: bool = True,
) -> Functions:
    """``u = learning_rate * d * (m / (sqrt(v) + d * eps) + weight_decay * p)``, with an estimate ``d`` that grows::

        m <- b1 m + (1 - b1) d g
        v <- b2 v + (1 - b2) (d g)^2
        r <- b3 r + (1 - b3) learning_rate d^2 <g, p_0 - p>
        s <- b3 s + (1 - b3) learning_rate d^2 g
        d <- max(d, estim_lr_coef r / ||s||_1)                          from estim_lr0, for the next step

    ``b3`` is ``sqrt(b2)`` if not given. ``safeguard_warmup`` leaves the learning rate out of ``s``, for a warm-up in
    which small rates would let ``d`` grow too far. ``bias_correction`` multiplies the learning rate by
    ``sqrt(1 - b2^t) / (1 - b1^t)``, as Optax always does; the paper does not. In a ``<g, p_0 - p>``
    that is not below 2^50 the numbers are cut there. ``u`` is uphill: :func:`gradtx.prodigy` is the step. State: four
    float32 numbers per parameter.

    Source: Mishchenko and Defazio 2023, arXiv:2306.06101, the Adam version of Prodigy.
    """

    def init(params):
        return ScaleByProdigyState(
            step=first_step(),
            estim_lr=wide_zero(params),
            numerator=wide_zero(params),
            mean=_zeros(params),
            mean_square=_zeros(params),
            gradient_sum=_zeros(params),
            start=copied(params),
        )

    def update(updates, state, params):
        step, d = next_step(state.step), jnp.maximum(state.estim_lr, estim_lr0)
        decay = b2**0.5 if b3 is None else b3
        rate = learning_rate * _correction(b1, b2, step) if bias_correction else learning_rate
        in_units = d * UNIT
        g = jax.tree.map(_limited, updates)
        scaled = jax.tree.map(lambda g: _limited(_like(in_units, g) * g), g)
        mean = jax.tree.map(lambda m, x: m + (1.0 - b1) * (x - m), state.mean, scaled)
        mean_square = jax.tree.map(lambda v, x: v + (1.0 - b2) * (finite_square(x) - v), state.mean_square, scaled)
        product = limited_dot(updates, state.start, params, by=jnp.subtract)
        numerator = decay * state.numerator + (1.0 - decay) * rate * in_units**2 * product
        weight = (1.0 - decay) * in_units * (1.0 if safeguard_warmup else rate)
        gradient_sum = jax.tree.map(lambda s, x: decay * s + weight * x, state.gradient_sum, scaled)
        estimate = estim_lr_coef * _quotient(numerator, _sum_of_magnitudes(gradient_sum))

        def one(m, v, p):
            root = jnp.sqrt(v)
            direction = m / jnp.maximum(root + in_units * eps, jnp.finfo(v.dtype).tiny)
            return _after(product, rate * d) * (direction + weight_decay * p)

        updates = jax.tree.map(one, mean, mean_square, params)
        return updates, ScaleByProdigyState(
            step, jnp.maximum(d, estimate), numerator, mean, mean_square, gradient_sum, state.start
        )

    return init, update


class ScaleByDAdaptAdamState(NamedTuple):
    step: Counter
    estim_lr: SignedScalar
    numerator: SignedScalar
    mean: SignedTree
    mean_square: NonNegativeTree
    gradient_sum: AccumulatedTree


@transformation(locality="tree", real=True)
def scale_by_dadapt_adam(
    learning_rate: errors.NonNegative = 1.0,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    estim_lr0: errors.Positive = 1e-6,
    weight_decay: errors.NonNegative = 0.0,
    bias_correction: bool = True,
) -> Functions:
    """``u = m / (sqrt(v) + eps) + learning_rate * d * weight_decay * p``, with an estimate ``d`` that grows::

        m <- b1 m + (1 - b1) learning_rate d g
        v <- b2 v + (1 - b2) g^2
        r <- b3 r + (1 - b3) learning_rate d <g, s / (sqrt(v) + eps)>   b3 = sqrt(b2), s before its update
        s <- b3 s + (1 - b3) learning_rate d g
        d <- max(d, r / ((1 - b3) ||s||_1))                             from estim_lr0, for the next step

    ``bias_correction`` multiplies the learning rate by ``sqrt(1 - b2^t) / (1 - b1^t)``, as Optax always does; the paper
    does not. In ``r`` stands the new ``v``, as in the paper; Optax has the old one. ``u`` is uphill:
    :func:`gradtx.dadapt_adamw` is the step. State: three float32 numbers per parameter.

    Source: Defazio and Mishchenko 2023, arXiv:2301.07733, algorithm 5 (D-Adapt Adam).
    """

    def init(params):
        return ScaleByDAdaptAdamState(
            step=first_step(),
            estim_lr=wide_zero(params),
            numerator=wide_zero(params),
            mean=_zeros(params),
            mean_square=_zeros(params),
            gradient_sum=_zeros(params),
        )

    def update(updates, state, params):
        step, d, decay = next_step(state.step), jnp.maximum(state.estim_lr, estim_lr0), b2**0.5
        rate = learning_rate * _correction(b1, b2, step) if bias_correction else learning_rate
        in_units = rate * d * UNIT
        g = jax.tree.map(_limited, updates)
        mean_square = jax.tree.map(lambda v, g: v + (1.0 - b2) * (finite_square(g) - v), state.mean_square, g)
        below = jax.tree.map(lambda v: jnp.maximum(jnp.sqrt(v) + eps, jnp.finfo(v.dtype).tiny ** 0.5), mean_square)
        scaled = jax.tree.map(lambda g: _limited(_like(in_units, g) * g), g)
        mean = jax.tree.map(lambda m, x: m + (1.0 - b1) * (x - m), state.mean, scaled)
        most = 1.01 / jnp.sqrt(1.0 - b2)  # of |g| / w, as v holds (1 - b2) g^2; where v has saturated, its limit
        shares = jax.tree.map(lambda g, w: jnp.clip(g / w, -most, most), updates, below)
        product = _sum(jax.tree.map(jnp.multiply, shares, state.gradient_sum))
        numerator = decay * state.numerator + (1.0 - decay) * in_units * product
        share = _after(product, 1.0 - decay)
        gradient_sum = jax.tree.map(lambda s, x: s + share * (x - s), state.gradient_sum, scaled)
        size = (1.0 - decay) * _sum_of_magnitudes(gradient_sum)
        estimate = _quotient(numerator, size) / UNIT
        updates = jax.tree.map(lambda m, w, p: m / w / UNIT + rate * d * weight_decay * p, mean, below, params)
        return updates, ScaleByDAdaptAdamState(
            step, jnp.maximum(d, estimate), numerator, mean, mean_square, gradient_sum
        )

    return init, update


def _after(product: jax.Array, number: Any) -> jax.Array:
    """``number``, known only once ``product`` is: NaN where that is NaN.

    XLA's CPU backend would else copy what the product reads, so that the loop with ``number`` may write it: two passes.
    """
    return jnp.where(jnp.isnan(product), jnp.nan, number)


def _zeros(params: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, params)


def _limited(g: jax.Array) -> jax.Array:
    """Cut at 2^63, whose square is finite in float32, as in ``ratio``."""
    return cut(g, 2.0 ** (jnp.finfo(g.dtype).maxexp // 2 - 1))


def _like(number: Any, leaf: jax.Array) -> jax.Array:
    return jnp.asarray(number, leaf.dtype)


def _correction(b1: Any, b2: Any, step: jax.Array) -> jax.Array:
    return jnp.sqrt(weight_seen(b2, step)) / weight_seen(b1, step)


def _sum(tree: Any) -> jax.Array:
    return sum(map(jnp.sum, jax.tree.leaves(tree)), start=jnp.zeros((), jnp.float32))


def _sum_of_magnitudes(tree: Any) -> jax.Array:
    return _sum(jax.tree.map(jnp.abs, tree))


def _quotient(above: jax.Array, below: jax.Array) -> jax.Array:
    """``above / below``; 0 for ``below = 0`` and where a sum has overflowed: no estimate, no growth."""
    usable = (below > 0) & jnp.isfinite(below) & jnp.isfinite(above)
    return jnp.where(usable, above / jnp.where(usable, below, 1.0), 0.0)
