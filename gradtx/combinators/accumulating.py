"""The mean gradient of several calls, and one update from it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.combinators.holding import all_finite, only_if
from gradtx.core import (
    Counter,
    GradientTransformation,
    Nested,
    Pair,
    SignedTree,
    first_step,
    join,
    next_step,
    record_of,
    transformation,
)
from gradtx.tree import is_inexact, widen


class AccumulateState(NamedTuple):
    step: Counter
    micro_step: Counter
    skipped: Counter
    consecutive: Counter
    max_consecutive: Counter
    mean: SignedTree
    inner: Nested


@transformation
def accumulate(
    tx: GradientTransformation, every: int | Callable[[Any], Any], *, max_consecutive: errors.Count = 10
) -> GradientTransformation:
    """One update of ``tx`` from the mean gradient of ``every`` calls; the calls before it change nothing::

        m_i = m_{i-1} + (g_i - m_{i-1}) / i          i = 1, ..., k = every(step)
        u_i = 0                 for i < k
        u_k = tx(m_k),   step = step + 1,   i = 0

    So ``k`` calls are as one with a batch ``k`` times as large, where the loss is a mean and the batches are equal in
    size. ``tx`` is called once in ``k`` calls: its schedules, moments and corrections count updates. ``every`` is a
    whole number or a function of ``step``, the updates done, that gives one (below 1 it counts as 1). ``params`` and
    signals are those of the last call. ``state.micro_step`` is 0 right after an update; a mean that is not full at the
    end of training is not applied.

    A gradient that is not finite is left out: it enters no mean, and ``k`` others make one. ``state.skipped`` counts
    them, and :func:`gradtx.check_skipped` raises if the last ``max_consecutive`` were such.

    The mean is kept in float32 or wider, and costs 4 bytes for a byte of parameters in each call (one to see whether
    the gradient is finite, three to add it): 14 with adamw on XLA's CPU backend, of ``optax.MultiSteps`` 23. What is
    called ``optax.MultiSteps(tx, every)`` is ``accumulate(tx, every)``; there a NaN enters the mean, and the counter of
    updates stands beside the transformation. If you own the step that computes the gradients, let
    ``training.make_train_step(..., accumulate=k)`` do it, which needs no state.

    Raises ``ArgumentTypeError`` and ``ArgumentRangeError`` for an ``every`` that is no count.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.accumulate(gradtx.sgd(1.0), every=2)
    >>> state = tx.init(jnp.zeros(1))
    >>> for gradient in (1.0, 3.0):
    ...     updates, state = tx.update(jnp.array([gradient]), state)
    ...     print(float(updates[0]))
    -0.0
    -2.0
    """
    _check_every(every)
    record = record_of(tx)

    def init(params: Any) -> AccumulateState:
        inner = record.tree.init(params)
        mean = jax.tree.map(lambda leaf: jnp.zeros_like(widen(leaf)) if is_inexact(widen(leaf)) else None, params)
        limit = jnp.array(max_consecutive, jnp.int32)
        return AccumulateState(first_step(), first_step(), first_step(), first_step(), limit, mean, inner)

    def update(updates: Any, state: AccumulateState, params: Any, signals: Any) -> tuple[Any, AccumulateState]:
        flat, treedef = jax.tree.flatten(updates)
        finite = all_finite(flat)
        share = 1.0 / (state.micro_step + 1).astype(jnp.float32)
        is_first = state.micro_step == 0
        means = [
            leaf if mean is None else _with(finite, is_first, share, mean, widen(leaf))
            for leaf, mean in zip(flat, treedef.flatten_up_to(state.mean), strict=True)
        ]
        micro_step = jnp.where(finite, next_step(state.micro_step), state.micro_step)
        is_last = finite & (micro_step >= _whole(every, state.step))
        new_updates, inner = only_if(
            is_last, lambda g, s, p: record.tree.update(g, s, p, signals), treedef.unflatten(means), state.inner, params
        )
        kept = [
            None if mean is None else new for mean, new in zip(treedef.flatten_up_to(state.mean), means, strict=True)
        ]
        return new_updates, AccumulateState(
            step=jnp.where(is_last, next_step(state.step), state.step),
            micro_step=jnp.where(is_last, 0, micro_step),
            skipped=jnp.where(finite, state.skipped, next_step(state.skipped)),
            consecutive=jnp.where(finite, 0, next_step(state.consecutive)),
            max_consecutive=state.max_consecutive,
            mean=treedef.unflatten(kept),
            inner=inner,
        )

    return join({"inner": record}, Pair(init, update), kind="accumulation")


@jax.jit
def _with(finite: jax.Array, is_first: jax.Array, share: jax.Array, mean: jax.Array, g: jax.Array) -> jax.Array:
    """The mean with one more; with the first one it is that one. The products apart, or ``g - mean`` may overflow."""
    g, share = g.astype(mean.dtype), share.astype(mean.real.dtype)
    return jnp.where(finite, jnp.where(is_first, g, mean + (share * g - share * mean)), mean)


def _whole(every: int | Callable[[Any], Any], step: jax.Array) -> Any:
    if not callable(every):
        return every
    value = every(step)
    errors.check_returned(f"every={errors.show(every)}", value)
    return jnp.round(jnp.asarray(value)).astype(jnp.int32)


def _check_every(every: Any) -> None:
    if callable(every) and not isinstance(every, type):
        return
    is_whole = isinstance(every, int | np.integer) and not isinstance(every, bool)
    if not is_whole or every < 1:  # pyright: ignore[reportOperatorIssue]
        raise (errors.ArgumentRangeError if is_whole else errors.ArgumentTypeError)(
            errors.UNNAMED, expected="every must be a whole number of at least 1, or a function of the step to one",
            got=f"{type(every).__name__} {errors.show(every)}", cause="it counts the gradients of one update",
            fix="write accumulate(tx, every=4)",
        )  # fmt: skip
