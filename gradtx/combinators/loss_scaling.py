"""A factor on the loss that keeps float16 gradients from vanishing, found while training."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators.guarding import SkipState, checked_update, counted, no_bad_leaves
from gradtx.core import (
    Counter,
    GradientTransformation,
    Pair,
    SignedScalar,
    first_step,
    join,
    next_step,
    record_of,
    states_of,
    transformation,
)
from gradtx.tree import is_inexact, widen


class LossScaleState(NamedTuple):
    scale: SignedScalar
    good_steps: Counter
    finite: SignedScalar  # where the last step that was left out was not


_LARGEST = 2.0**126  # the largest power of two with an inverse that is no subnormal number

Factor = Annotated[errors.Scalar, errors.Interval(1.0, open_low=True)]


@transformation
def dynamic_loss_scale(
    tx: GradientTransformation,
    *,
    initial_scale: errors.PositiveNumber = 2.0**15,
    factor: Factor = 2.0,
    period: errors.Count = 2000,
    min_scale: errors.Positive = 1.0,
    max_consecutive: errors.Count = 10,
) -> GradientTransformation:
    """``tx`` for the gradients of ``s * loss``, and the scale ``s`` that they bear::

        good = all finite: g, updates u of tx, and new parameters p + u
        u, state = tx(g / s)  if good,  else  0, state        as in skip_nonfinite
        s = s * factor                        after ``period`` good steps in a row
        s = max(s / factor, min_scale)        after a step that is not good

    In float16 a gradient below 6e-8 is zero; gradients of a loss 2^15 times as large are not. ``s`` goes up until they
    overflow, and that step is left out, as :func:`skip_nonfinite` does it, with its counters: at ``min_scale`` it goes
    no lower, and :func:`gradtx.check_skipped` raises after ``max_consecutive`` steps that were left out in a row, and
    no higher than 2^126. It goes around everything else, but for :func:`gradtx.accumulate`: what is around it or beside
    it would see the gradients of ``s * loss``.

    ``training.make_train_step`` finds the scale in the state and applies it to the loss. In a loop of your own::

        scale = gradtx.loss_scale(state)
        grads = jax.grad(lambda params: scale * loss(params))(params)
        updates, state = tx.update(grads, state, params)

    ``tx`` gets gradients in float32, and so does the signal ``grad``; all other signals are handed on. bfloat16 has the
    range of float32 and needs no scale.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.

    Raises ``ArgumentRangeError`` for an ``initial_scale`` below ``min_scale``.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.dynamic_loss_scale(gradtx.sgd(1.0), initial_scale=8.0)
    >>> state = tx.init(jnp.zeros(1))
    >>> updates, state = tx.update(gradtx.loss_scale(state) * jnp.ones(1), state)
    >>> _, state = tx.update(jnp.array([jnp.inf]), state)
    >>> updates.tolist(), float(gradtx.loss_scale(state))
    ([-1.0], 4.0)
    """
    lowest = errors.as_float(min_scale)
    if lowest is not None and initial_scale < lowest:
        raise errors.ArgumentRangeError(
            errors.UNNAMED, expected=f"initial_scale must be at least min_scale, {lowest:g}", got=f"{initial_scale:g}",
            cause="the scale never goes below min_scale", fix=f"write initial_scale={lowest:g}",
        )  # fmt: skip
    record = record_of(tx)

    def init(params: Any) -> SkipState:
        inner = record.tree.init(params)
        judge = LossScaleState(jnp.array(initial_scale, jnp.float32), first_step(), no_bad_leaves(params))
        return SkipState(first_step(), first_step(), jnp.array(max_consecutive, jnp.int32), judge, inner)

    def update(updates: Any, state: SkipState, params: Any, signals: Any) -> tuple[Any, SkipState]:
        scale = state.judge.scale
        if "grad" in signals:
            signals = {**signals, "grad": _unscaled(signals["grad"], scale)}

        def run(g: Any, s: Any, p: Any) -> tuple[Any, Any]:
            return record.tree.update(_unscaled(g, scale), s, p, signals)

        good, finite, new_updates, inner = checked_update(run, updates, state.judge.finite, state.inner, params)
        judge = LossScaleState(*_next_scale(good, scale, state.judge.good_steps), finite)
        return new_updates, SkipState(*counted(good, state), judge, inner)

    def _next_scale(good: jax.Array, scale: jax.Array, good_steps: jax.Array) -> tuple[jax.Array, jax.Array]:
        good_steps = jnp.where(good, next_step(good_steps), 0)
        is_due = good_steps >= period
        larger, smaller = scale * factor, jnp.maximum(scale / factor, min_scale)
        grown = jnp.where(is_due & (larger <= _LARGEST), larger, scale)
        return jnp.where(good, grown, smaller).astype(jnp.float32), jnp.where(is_due, 0, good_steps)

    return join({"inner": record}, Pair(init, update), kind="loss scale")


def loss_scale(state: Any) -> jax.Array:
    """The factor for the next loss by :func:`dynamic_loss_scale`, wherever in a state it is; 1 where it is not.

    >>> import gradtx, jax.numpy as jnp
    >>> float(gradtx.loss_scale(gradtx.sgd(0.1).init(jnp.zeros(2))))
    1.0
    """
    scales = [found.scale for _, found in states_of(LossScaleState, state)]
    return scales[0] if scales else jnp.ones((), jnp.float32)


def _unscaled(gradients: Any, scale: jax.Array) -> Any:
    """Times the inverse: a division is no elementwise work to the compiler, which keeps its result in memory."""
    inverse = 1.0 / scale
    return jax.tree.map(lambda g: widen(g) * inverse if is_inexact(widen(g)) else g, gradients)
