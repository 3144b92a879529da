"""Smaller steps where the loss has stopped falling."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.core import Counter, GradientTransformation, SignedScalar, first_step, transformation

LAST = int(np.iinfo(np.int32).max)
NONE_YET = float(np.finfo(np.float32).max)  # the best of no values; finite, as every part of a state is

Part = Annotated[errors.Scalar, errors.Interval(0.0, 1.0)]
Shrinking = Annotated[errors.Scalar, errors.Interval(0.0, 1.0, open_low=True, open_high=True)]


class ReduceOnPlateauState(NamedTuple):
    scale: SignedScalar
    best_value: SignedScalar
    plateau_count: Counter
    cooldown_count: Counter
    count: Counter
    mean_value: SignedScalar


@transformation(locality="tree")
def reduce_on_plateau(
    factor: Shrinking = 0.1,
    patience: errors.Count = 10,
    rtol: Part = 1e-4,
    atol: errors.NonNegative = 0.0,
    cooldown: errors.Index = 0,
    accumulation_size: errors.Count = 1,
    min_scale: Part = 0.0,
) -> GradientTransformation:
    """``u = scale * g``; ``scale`` starts at 1 and is multiplied by ``factor`` when the signal ``value`` stops falling.

    Every update takes one ``value``, the loss; ``accumulation_size`` of them are averaged to ``v``. It is progress if
    ``v < best - rtol |best| - atol``, with ``best`` the last ``v`` that was progress; the first one is. After
    ``patience`` of them in a row without progress ``scale = max(factor scale, min_scale)``; the next ``cooldown`` of
    them are not counted. The new scale holds from that same update on. A value that is NaN or infinite changes nothing:
    it is neither progress nor a plateau.

    Put it behind the part that takes the learning rate. ``state.scale`` is the scale in force, in a chain
    ``state["reduce_on_plateau"].scale``; hand ``value=`` to ``update``. State: six numbers in all.

    Two differences from Optax: there, below zero a value that is worse than the best by less than ``rtol |best|`` is
    progress, and a NaN is a step of the plateau. A ``patience`` of 0, which reduces nothing or on progress there, is
    refused.

    Raises ``SignalError`` for a ``value`` that is missing or not one real number.

    Source: the rule is PyTorch's ``ReduceLROnPlateau``, whose patience is one less.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.sgd(1.0), gradtx.reduce_on_plateau(factor=0.5, patience=2))
    >>> params, seen = jnp.ones(()), []
    >>> state = tx.init(params)
    >>> for loss in (3.0, 2.0, 2.0, float("nan"), 2.0, 1.0):
    ...     updates, state = tx.update(jnp.ones(()), state, params, value=loss)
    ...     seen.append(updates.item())
    >>> seen
    [-1.0, -1.0, -1.0, -1.0, -0.5, -0.5]
    >>> state["reduce_on_plateau"].scale.item()
    0.5
    """

    patience, cooldown, accumulation_size = (min(count, LAST) for count in (patience, cooldown, accumulation_size))

    def init(params):
        del params
        return ReduceOnPlateauState(
            scale=jnp.ones((), jnp.float32),
            best_value=jnp.full((), NONE_YET, jnp.float32),
            plateau_count=first_step(),
            cooldown_count=first_step(),
            count=first_step(),
            mean_value=jnp.zeros((), jnp.float32),
        )

    def collect(state, value):
        """The mean with one more value, each weighted before it is added: their sum could overflow."""
        known = jnp.isfinite(value)
        count = state.count + known
        weight = (state.count / jnp.maximum(count, 1)).astype(jnp.float32)
        mean = weight * state.mean_value + jnp.where(known, value, 0.0) / jnp.maximum(count, 1)
        return state._replace(count=count, mean_value=mean)

    def judge(state):
        mean, best = state.mean_value, state.best_value
        better = (best == NONE_YET) | (mean < best - rtol * jnp.abs(best) - atol)
        without = jnp.where(better | (state.cooldown_count > 0), 0, state.plateau_count + 1)
        stuck = without >= patience
        return ReduceOnPlateauState(
            scale=jnp.where(stuck, jnp.maximum(factor * state.scale, min_scale), state.scale),
            best_value=jnp.where(better, mean, best),
            plateau_count=jnp.where(stuck, 0, without),
            cooldown_count=jnp.where(stuck, cooldown, jnp.maximum(state.cooldown_count - 1, 0)),
            count=jnp.zeros_like(state.count),
            mean_value=jnp.zeros_like(mean),
        )

    def update(updates, state, *, value):
        collected = collect(state, _one_number(value))
        full = collected.count >= accumulation_size
        state = jax.tree.map(lambda new, old: jnp.where(full, new, old), judge(collected), collected)
        return jax.tree.map(lambda g: _scaled(g, state.scale), updates), state

    return GradientTransformation(init, update)


@jax.jit
def _scaled(g: jax.Array, scale: jax.Array) -> jax.Array:
    return scale * g


def _one_number(value: object) -> jax.Array:
    if not errors.is_real(value):
        raise errors.SignalError(
            "reduce_on_plateau",
            expected="the signal value must be one real number",
            got=f"{type(value).__name__} {errors.show(value)}",
            cause="the loss of every example was given instead of their mean",
            fix="write tx.update(grads, state, params, value=jnp.mean(loss))",
        )
    return jnp.asarray(value, jnp.float32)
