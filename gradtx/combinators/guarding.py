"""Guards: a step that would do harm is left out as a whole, and counted."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators.accumulating import AccumulateState
from gradtx.combinators.holding import Run, apart, choose, faults_by_leaf, is_done_twice, no_fault, nothing, only_if
from gradtx.core import (
    Counter,
    GradientTransformation,
    Nested,
    Pair,
    SignedScalar,
    first_step,
    join,
    next_step,
    record_of,
    states_of,
    transformation,
)
from gradtx.tree import is_inexact, leaf_paths, squared_norm, widen


class SkipState(NamedTuple):
    """State of a guard: how many steps it has left out, in all and of the last ones, and what it judges by."""

    skipped: Counter
    consecutive: Counter
    max_consecutive: Counter
    judge: SignedScalar  # a tuple of what the guard itself keeps
    inner: Nested


class NonFiniteState(NamedTuple):
    bad_leaves: SignedScalar  # by path, whether the leaf was not finite at the last step that was left out


@transformation
def skip_nonfinite(tx: GradientTransformation, *, max_consecutive: errors.Count = 10) -> GradientTransformation:
    """``tx``, but a step with NaN or infinity in it changes nothing at all::

        good = all finite: gradients g, updates u of tx, and new parameters p + u in the dtype of p
        u, state = tx(g)  if good,  else  0, state

    A step that is left out leaves parameters, moments, counters and schedules as they were, bit for bit: the run goes
    on as if there had been no such batch. (``training.make_train_step`` leaves its step, its keys and the state of the
    model too.) Without ``params``, new parameters are not looked at.

    ``state.skipped`` counts the steps left out, ``state.consecutive`` those since the last good one, and
    ``state.judge.bad_leaves`` says by path where the last one was not finite. A program that runs on a device cannot
    raise, so call :func:`gradtx.check_skipped` now and then: it raises if ``max_consecutive`` in a row were left out.
    Nothing that is not finite is ever accepted, as ``optax.apply_if_finite`` does after its ``max_consecutive_errors``;
    Optax looks at the updates only, and an infinite new parameter passes.

    Where ``tx`` is elementwise work, its update is computed once to be looked at and once to be done: 4 bytes more for
    each of parameters with adamw, 14 instead of 10 (``apply_if_finite`` 14.5). Where it has matrix products or loops,
    it is computed once, and old and new state are kept beside each other until it is known which one stays.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.skip_nonfinite(gradtx.adam(0.1))
    >>> params = jnp.zeros(2)
    >>> updates, state = tx.update(jnp.array([1.0, jnp.nan]), tx.init(params), params)
    >>> gradtx.apply_updates(params, updates).tolist(), int(state.skipped)
    ([0.0, 0.0], 1)
    """
    record = record_of(tx)

    def init(params: Any) -> SkipState:
        inner = record.tree.init(params)
        return SkipState(*_no_skips(max_consecutive), no_bad_leaves(params), inner)

    def update(updates: Any, state: SkipState, params: Any, signals: Any) -> tuple[Any, SkipState]:
        def run(g: Any, s: Any, p: Any) -> tuple[Any, Any]:
            return record.tree.update(g, s, p, signals)

        good, judge, updates, inner = checked_update(run, updates, state.judge, state.inner, params)
        return updates, SkipState(*counted(good, state), judge, inner)

    return join({"inner": record}, Pair(init, update), kind="guard")


def no_bad_leaves(params: Any) -> NonFiniteState:
    numbered = zip(leaf_paths(params), jax.tree.leaves(params), strict=True)
    return NonFiniteState({path: jnp.array(False) for path, leaf in numbered if is_inexact(widen(leaf))})


def checked_update(run: Run, updates: Any, judge: NonFiniteState, state: Any, params: Any) -> tuple[Any, Any, Any, Any]:
    """``(good, judge, updates, state)``: the update of ``run``, if it and all that goes with it is finite."""
    is_twice = is_done_twice(run, updates, state, params)
    seen = apart((updates, state, params)) if is_twice else (updates, state, params)
    new_updates, new_state = run(*seen)
    faults = faults_by_leaf(seen[0], new_updates, seen[2])
    good = no_fault(list(faults.values()))
    judge = NonFiniteState({path: jnp.where(good, judge.bad_leaves[path], f != 0) for path, f in faults.items()})
    if is_twice:
        new_updates, new_state = only_if(good, run, updates, state, params)
    else:
        new_updates, new_state = choose(good, new_updates, nothing(new_updates)), choose(good, new_state, state)
    return good, judge, new_updates, new_state


class LargeState(NamedTuple):
    step: Counter
    log_mean: SignedScalar
    log_variance: SignedScalar


_LEAST_DEVIATION = 0.1  # of the logarithm: norms that differ by less than a tenth are not told apart


@transformation
def skip_large(
    tx: GradientTransformation,
    max_norm: errors.Positive | None = None,
    *,
    deviations: errors.Positive | None = None,
    decay: errors.Decay = 0.97,
    warmup: errors.Count = 25,
    max_consecutive: errors.Count = 10,
) -> GradientTransformation:
    """``tx``, but a step with too large a gradient changes nothing of it::

        n = ||g||                                  over all leaves
        good = n <= max_norm                       if max_norm is given
           and log n <= mean + deviations * std    if deviations is given, after warmup steps

    ``mean`` and ``std`` are those of ``log n`` at the last steps: plain ones at first, then with weights that fall by
    ``decay`` each step. A spike is ``deviations`` (3, say) above what has been usual, whatever the size of the
    gradients; the logarithm, as norms are spread over factors. Norms closer than a tenth count as equal (``std`` is at
    least 0.1), and a norm outside ``mean ± deviations * std`` enters both as the nearest end of that interval: so if
    gradients stay large, a few steps are left out before that is what is usual.

    NaN and infinite norms are left out too (also those of finite gradients above 1e19, whose squares overflow), in the
    warm-up as well, and never enter mean or deviation; nor does a norm of zero. What ``tx`` makes of a gradient is not
    looked at: ``skip_nonfinite(skip_large(tx, ...))`` does both. Counting and ``max_consecutive`` as in
    :func:`skip_nonfinite`. ``optax.skip_large_updates(max_squared_norm=s)`` in ``optax.MultiSteps`` is
    ``skip_large(tx, max_norm=s**0.5)``.

    Source: Kumar et al. 2025, arXiv:2504.02507 (ZClip), for running statistics of the norm (there to clip).

    Raises ``ArgumentTypeError`` unless ``max_norm`` or ``deviations`` is given.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.skip_large(gradtx.sgd(1.0), max_norm=5.0)
    >>> state = tx.init(jnp.zeros(2))
    >>> for gradients in ([3.0, 4.0], [30.0, 40.0]):
    ...     updates, state = tx.update(jnp.array(gradients), state)
    ...     print(updates.tolist(), int(state.skipped))
    [-3.0, -4.0] 0
    [-0.0, -0.0] 1
    """
    if max_norm is None and deviations is None:
        raise errors.ArgumentTypeError(
            errors.UNNAMED, expected="max_norm or deviations must be given", got="neither",
            cause="without a bound no gradient is too large", fix="write skip_large(tx, deviations=3.0)",
        )  # fmt: skip
    record = record_of(tx)

    def init(params: Any) -> SkipState:
        judge = LargeState(first_step(), jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))
        return SkipState(*_no_skips(max_consecutive), judge, record.tree.init(params))

    def update(updates: Any, state: SkipState, params: Any, signals: Any) -> tuple[Any, SkipState]:
        floating = [widen(leaf) for leaf in jax.tree.leaves(updates) if is_inexact(widen(leaf))]
        norm = jnp.sqrt(squared_norm(floating)).astype(jnp.float32)
        good, judge = _judged(norm, state.judge)
        new_updates, inner = only_if(
            good, lambda g, s, p: record.tree.update(g, s, p, signals), updates, state.inner, params
        )
        return new_updates, SkipState(*counted(good, state), judge, inner)

    def _judged(norm: jax.Array, seen: LargeState) -> tuple[jax.Array, LargeState]:
        good = jnp.isfinite(norm)
        if max_norm is not None:
            good = good & (norm <= max_norm)
        if deviations is None:
            return good, seen
        is_warm = seen.step >= warmup
        reach = deviations * jnp.maximum(jnp.sqrt(seen.log_variance), _LEAST_DEVIATION)
        is_usable = jnp.isfinite(norm) & (norm > 0)
        log_norm = jnp.log(jnp.where(is_usable, norm, 1.0))
        good = good & ~(is_warm & is_usable & (log_norm > seen.log_mean + reach))
        within = jnp.clip(log_norm, seen.log_mean - reach, seen.log_mean + reach)
        difference = jnp.where(is_warm, within, log_norm) - seen.log_mean
        share = jnp.maximum(1.0 / (seen.step + 1).astype(jnp.float32), 1.0 - decay)
        return good, LargeState(
            step=jnp.where(is_usable, next_step(seen.step), seen.step),
            log_mean=jnp.where(is_usable, seen.log_mean + share * difference, seen.log_mean),
            log_variance=jnp.where(
                is_usable, (1.0 - share) * (seen.log_variance + share * difference**2), seen.log_variance
            ),
        )

    return join({"inner": record}, Pair(init, update), kind="guard")


def _no_skips(max_consecutive: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    return first_step(), first_step(), jnp.array(max_consecutive, jnp.int32)


def counted(good: jax.Array, state: SkipState) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The counters after one more step: ``skipped``, ``consecutive``, ``max_consecutive``."""
    skipped = jnp.where(good, state.skipped, next_step(state.skipped))
    return skipped, jnp.where(good, 0, next_step(state.consecutive)), state.max_consecutive


def guards(state: Any) -> list[tuple[str, SkipState | AccumulateState]]:
    """Every state in ``state`` that counts what was left out, with its path."""
    return [*states_of(SkipState, state), *states_of(AccumulateState, state)]


def skipped_steps(state: Any) -> jax.Array:
    """How many steps the guards in a state have left out so far; 0 without any. Looks into any container of states.

    >>> import gradtx, jax.numpy as jnp
    >>> int(gradtx.skipped_steps(gradtx.skip_nonfinite(gradtx.sgd(0.1)).init(jnp.zeros(2))))
    0
    """
    return sum((guard.skipped for _, guard in guards(state)), jnp.zeros((), jnp.int32))


def check_skipped(state: Any) -> None:
    """Raises ``SkippedStepsError`` if a guard in a state left out as many steps in a row as it bears.

    Looks into any container of states (a ``TrainState``, a chain's). It waits for the state to be computed, so call it
    between epochs or every hundred steps, outside of ``jit``. With ``vmap``, one of many runs is enough.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.skip_nonfinite(gradtx.sgd(0.1), max_consecutive=1)
    >>> _, state = tx.update({"w": jnp.array([jnp.nan])}, tx.init({"w": jnp.zeros(1)}))
    >>> gradtx.check_skipped(state)
    Traceback (most recent call last):
    gradtx.errors.SkippedStepsError: check_skipped(state): fewer than 1 steps left out in a row, got 1 ... at 'w'. ...
    """
    for path, guard in jax.device_get(guards(state)):
        over = guard.consecutive >= guard.max_consecutive
        if not over.any():
            continue
        bad = getattr(getattr(guard, "judge", None), "bad_leaves", {})
        where = ", ".join(repr(leaf) for leaf, is_bad in bad.items() if leaf and is_bad[over].any())
        raise errors.SkippedStepsError(
            "check_skipped(state)",
            expected=f"fewer than {guard.max_consecutive.max()} steps left out in a row",
            got=f"{guard.consecutive.max()} of {guard.skipped.max()} left out in all" + (f" by {path}" if path else ""),
            at=where or None,
            cause="the parameters are not finite, the rate is too high, or every batch is broken",
            fix="go back to a checkpoint with a lower learning rate, or look for NaN in the data",
        )
