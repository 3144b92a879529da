"""Pulling weights towards zero, and holding at zero those that arrived."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators import masked, per_layer
from gradtx.combinators.selecting import Where
from gradtx.core import EmptyState, FactorTree, Functions, GradientTransformation, transformation


@transformation(locality="elementwise")
def add_decayed_weights(weight_decay: errors.Strength = 0.0, mask: Where | None = None) -> GradientTransformation:
    """Decoupled weight decay ``u = g + weight_decay * p``, for the leaves that ``mask`` selects (all without one).

    After the adaptive scaling and before the learning rate it is AdamW's; it needs the parameters. ``weight_decay`` is
    a number, a schedule, or one for each layer: ``{glob: value}``, in which the first match counts and no match is 0,
    or ``(path, leaf) -> value``.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, line 12.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.add_decayed_weights({"*kernel": 0.5})
    >>> params = {"kernel": jnp.array([2.0]), "bias": jnp.array([2.0])}
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["kernel"].tolist(), updates["bias"].tolist()
    ([3.0], [2.0])
    """
    if mask is not None:
        return masked(add_decayed_weights(weight_decay), mask)
    if errors.is_per_layer(weight_decay):
        return per_layer(add_decayed_weights, weight_decay)
    return _with_params(lambda update, param: update + weight_decay * param)


@transformation(locality="elementwise")
def l2_decay(strength: errors.Strength) -> GradientTransformation:
    """``u = g + strength * p``: the gradient of ``loss + strength / 2 * sum p^2``, coupled.

    Put it before the moments, at the head of a chain: they then see it like any gradient, and an adaptive method
    divides it by the size of the gradients. :func:`gradtx.add_decayed_weights`, behind the moments, is the decoupled
    decay; for plain gradient descent the two are one. ``strength`` is a number, a schedule, or one for each layer:
    ``{glob: value}``, in which the first match counts and no match is 0, or ``(path, leaf) -> value``.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, line 6.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.l2_decay(0.5), gradtx.sgd(0.1))
    >>> params = jnp.array([2.0, -4.0])
    >>> [round(float(u), 4) for u in tx.update(jnp.zeros(2), tx.init(params), params)[0]]
    [-0.1, 0.2]
    """
    if errors.is_per_layer(strength):
        return per_layer(l2_decay, strength)
    return _with_params(lambda update, param: update + strength * param)


@transformation(locality="elementwise")
def l1_decay(strength: errors.Strength) -> GradientTransformation:
    """``u = g + strength * sign(p)``: a subgradient of ``loss + strength * sum |p|``, coupled; ``p / |p|`` if complex.

    Put it before the moments, at the head of a chain. The sign of 0 is 0, but a step hardly ever ends there: weights
    come near zero and swing around it by a step. For weights that are zero use :func:`gradtx.proximal_l1`.
    ``strength`` is a number, a schedule, or one for each layer, as in :func:`gradtx.l2_decay`.

    Source: Duchi and Singer 2009, JMLR 10, section 1, on subgradients of a regularizer.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.l1_decay(0.5)
    >>> params = jnp.array([2.0, -4.0, 0.0])
    >>> tx.update(jnp.zeros(3), tx.init(params), params)[0].tolist()
    [0.5, -0.5, 0.0]
    """
    if errors.is_per_layer(strength):
        return per_layer(l1_decay, strength)
    return _with_params(lambda update, param: update + strength * jnp.sign(param))


@transformation(locality="elementwise")
def proximal_l1(strength: errors.Strength, learning_rate: errors.NonNegative) -> GradientTransformation:
    """``u = prox(p + g) - p``, ``prox(z) = sign(z) * max(|z| - t, 0)``, ``t = strength * learning_rate``.

    Must be the last part of a chain, behind the learning rate, where ``g`` is the step: it takes the step and then
    shortens each weight by ``t``, so that ``loss + strength * sum |p|`` falls and weights within ``t`` of zero become
    exactly zero, in every dtype. A complex weight's modulus is shortened, its direction kept. Give it the learning
    rate, or the schedule, that the step has; behind an adaptive method the threshold is the same for all weights.
    ``strength`` is a number, a schedule, or one for each layer, as in :func:`gradtx.l2_decay`; a leaf of strength 0
    takes its step unchanged.

    Source: Parikh and Boyd 2014, Proximal Algorithms, sections 4.2 and 6.5.2; Duchi and Singer 2009, JMLR 10, section
    2.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.sgd(0.5), gradtx.proximal_l1(0.25, 0.5))
    >>> params = jnp.array([1.0, -0.1])
    >>> updates, _ = tx.update(jnp.array([1.0, 0.0]), tx.init(params), params)
    >>> gradtx.apply_updates(params, updates).tolist()
    [0.375, 0.0]
    """
    if errors.is_per_layer(strength):
        return per_layer(lambda number: proximal_l1(number, learning_rate), strength)

    def shortened(update: jax.Array, param: jax.Array) -> jax.Array:
        # prox(z) - p without its cancellation: g - t * sign(z), or -p, which added to p in any dtype is zero.
        z, threshold = param + update, strength * learning_rate
        return jnp.where(jnp.abs(z) <= threshold, -param, update - threshold * jnp.sign(z))

    return _with_params(shortened)


class KeepZerosState(NamedTuple):
    kept: FactorTree


@transformation(locality="elementwise")
def keep_zeros() -> Functions:
    """``u = 0`` for every weight that was exactly zero at ``init``, ``u = g`` for the others: training what is pruned.

    The last part of a chain that is made for pruned parameters: ``tx.init(params)`` notes where they are zero, and
    there they stay. A bias that has not been trained yet is zero too: write ``masked(keep_zeros(), "*kernel")`` to
    hold kernels alone. State: one float32 number per parameter, 1 or 0, which any layout keeps exactly.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.adam(0.5), gradtx.keep_zeros())
    >>> params = jnp.array([1.0, 0.0])
    >>> updates, _ = tx.update(jnp.array([1.0, 1.0]), tx.init(params))
    >>> updates.round(4).tolist()
    [-0.5, 0.0]
    """

    def init(param):
        return KeepZerosState((param != 0).astype(jnp.float32))

    def update(update, state):
        return jax.lax.select(state.kept == 0, jnp.zeros_like(update), update), state  # of equal shapes, or an error

    return init, update


def _with_params(change: Callable[[jax.Array, jax.Array], jax.Array]) -> GradientTransformation:
    """A part without memory that reads the parameters."""

    def init(param):
        del param
        return EmptyState()

    def update(update, state, param):
        return change(update, param), state

    return GradientTransformation(init, update)
