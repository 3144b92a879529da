"""Slow weights that the fast ones are drawn back to."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators.accompanying import accompanied
from gradtx.core import (
    Counter,
    GradientTransformation,
    Nested,
    PositionTree,
    TunableState,
    first_step,
    next_step,
    transformation,
)

SlowStep = Annotated[errors.Scalar, errors.Interval(0.0, 1.0)]


class LookaheadState(NamedTuple):
    step: Counter
    slow: PositionTree
    inner: Nested


@transformation
def lookahead(
    fast_optimizer: GradientTransformation,
    sync_period: errors.Count,
    slow_step_size: SlowStep,
    reset_state: bool = False,
) -> GradientTransformation:
    """Every ``sync_period`` steps ``slow <- slow + slow_step_size * (p - slow)``, ``p <- slow``; else the fast step.

    The parameters are the fast ones, the slow ones are kept in the state: ``update`` and ``apply_updates`` are used as
    always. (Optax's function of this name has parameters of its own kind, a pair of fast and slow ones.)
    :func:`gradtx.averaged_params` gives the slow ones, which are what to evaluate with. ``reset_state`` sets the state
    of ``fast_optimizer`` back to its first one at each synchronization, but for schedules and tunable numbers, which
    go on. It must be around the whole optimizer. State: one float32 number per parameter.

    Source: Zhang et al. 2019, arXiv:1907.08610, algorithm 1, with k = ``sync_period`` and alpha = ``slow_step_size``.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.lookahead(gradtx.sgd(1.0), sync_period=2, slow_step_size=0.5)
    >>> params, path = jnp.array(0.0), []
    >>> state = tx.init(params)
    >>> for _ in range(4):
    ...     updates, state = tx.update(jnp.array(-1.0), state, params)
    ...     params = gradtx.apply_updates(params, updates)
    ...     path.append(params.item())
    >>> path, gradtx.averaged_params(state, params).item()
    ([1.0, 1.0, 2.0, 2.0], 2.0)
    """
    sync_period = min(sync_period, int(jnp.iinfo(jnp.int32).max))

    def start(slow, inner):
        return LookaheadState(first_step(), slow, inner)

    def advance(state):
        return state._replace(step=next_step(state.step))

    def follow(update, slow, param, shared):
        # The new slow weights are p + u - (1 - a)(p + u - slow), so with a = 1 the update is u itself.
        synchronizes, ahead = shared.step % sync_period == 0, (param - slow) + update
        update = jnp.where(synchronizes, update - (1.0 - slow_step_size) * ahead, update)
        return update, jnp.where(synchronizes, slow + slow_step_size * ahead, slow)

    def reset(state, restart):
        return state._replace(inner=_reset(state.inner, restart(), state.step % sync_period == 0))

    return accompanied(fast_optimizer, "slow", start, follow, advance=advance, finish=reset if reset_state else None)


def _reset(state: Any, first: Any, when: jax.Array) -> Any:
    """``first`` where ``when`` is true, but for what :func:`gradtx.tunable` and schedules keep."""

    def choose(old: Any, new: Any) -> Any:
        if isinstance(old, TunableState):
            return old._replace(inner=_reset(old.inner, new.inner, when))
        return jnp.where(when, new, old)

    return jax.tree.map(choose, state, first, is_leaf=lambda node: isinstance(node, TunableState))
