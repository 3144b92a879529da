"""A long stretch at the peak, and a decay that may begin late."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradtx import errors
from gradtx.schedules.cosine import on_cosine
from gradtx.schedules.linear import on_line
from gradtx.schedules.step import Schedule, Value, as_value, check_countable, progress
from gradtx.schedules.warming_up import warmed


@errors.checked
def warmup_stable_decay_schedule(
    init_value: Value,
    peak_value: Value,
    warmup_steps: errors.Index,
    stable_steps: errors.Index,
    decay_steps: errors.Count,
    end_value: Value = 0.0,
    shape: Literal["linear", "cosine", "1-sqrt"] = "linear",
) -> Schedule:
    """A line from ``init_value`` to ``peak_value``, ``stable_steps`` there, then a decay to ``end_value``.

    With ``W = warmup_steps``, ``S = stable_steps`` and ``T = decay_steps``, which counts all steps as in
    :func:`warmup_cosine_decay_schedule`: ``f(t) = (1 - c) peak_value + c end_value`` for ``t >= W + S`` with
    ``x = (min(t, T) - W - S) / (T - W - S)`` and ``c = x``, ``1/2 - 1/2 cos(pi x)`` or ``sqrt(x)``. Until then ``f``
    does not depend on ``T``: a run may be continued from any step at the peak.

    Args:
        init_value: Value at step 0.
        peak_value: Value from step ``warmup_steps`` on.
        warmup_steps: Steps of the line; 0 begins at the peak.
        stable_steps: Steps at the peak.
        decay_steps: Steps in all, those of the warm-up and at the peak included.
        end_value: Value from step ``decay_steps`` on.
        shape: Of the decay: ``"linear"``, ``"cosine"``, or ``"1-sqrt"``, which falls fast at first.

    Raises:
        ArgumentTypeError: an argument is not a number, or a count not a whole one.
        ArgumentRangeError: a value is not finite, no such ``shape``, or ``decay_steps`` leaves no step for the decay.

    Source: Hu et al. 2024, arXiv:2404.06395, section 4.2; Hägele et al. 2024, arXiv:2405.18392, section 3, for the
    shapes.

    >>> from gradtx import schedules
    >>> f = schedules.warmup_stable_decay_schedule(0.0, 1.0, warmup_steps=10, stable_steps=70, decay_steps=100)
    >>> [float(f(step)) for step in (0, 5, 10, 80, 90, 100, 1000)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    """
    check_countable("warmup_stable_decay_schedule", decay_steps=decay_steps)
    begin = warmup_steps + stable_steps
    if decay_steps <= begin:
        raise errors.ArgumentRangeError(
            f"warmup_stable_decay_schedule(..., warmup_steps={warmup_steps}, stable_steps={stable_steps}, "
            f"decay_steps={decay_steps})",
            expected="decay_steps must be greater than warmup_steps + stable_steps",
            got=decay_steps,
            cause="decay_steps counts all steps, those before the decay included",
            fix=f"write decay_steps={begin + decay_steps}",
        )
    init_value, peak_value, end_value = map(as_value, (init_value, peak_value, end_value))

    def after(step):
        step = jnp.maximum(step - stable_steps, 0)
        steps = decay_steps - begin
        if shape == "linear":
            return on_line(step, peak_value, end_value, steps)
        if shape == "cosine":
            return on_cosine(step, peak_value, end_value, steps)
        return _on_root(step, peak_value, end_value, steps)

    return lambda step: warmed(step, after, warmup_steps, init_value)


def _on_root(step: ArrayLike, init_value: float | jax.Array, end_value: float | jax.Array, steps: int) -> jax.Array:
    """``1 - sqrt(x)`` of the way left, as ``(1 - x) / (1 + sqrt(x))``, in which nothing cancels."""
    done, remaining, total = progress(step, steps)
    root = jnp.sqrt(done / total)
    return init_value * (remaining / total / (1 + root)) + end_value * root
