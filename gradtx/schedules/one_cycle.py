"""One rise to the peak and one fall far below the start."""

from typing import Any

from gradtx import errors
from gradtx.schedules.piecewise import on_pieces
from gradtx.schedules.step import Factor, Schedule, Value, as_value, check_countable, check_finite


@errors.checked
def linear_onecycle_schedule(
    transition_steps: errors.Count,
    peak_value: Value,
    pct_start: errors.Fraction = 0.3,
    pct_final: errors.Fraction = 0.85,
    div_factor: Factor = 25.0,
    final_div_factor: Factor = 1e4,
) -> Schedule:
    """Lines up from ``peak_value / div_factor`` to ``peak_value``, back, and down by ``final_div_factor`` more.

    They end at the steps ``floor(pct_start T)``, ``floor(pct_final T)`` and ``T = transition_steps``. With few steps a
    line may have none and is left out: it begins where it would end. (Optax loses factors then: from 1 step it begins
    at 1/625 of the peak.)

    Args:
        transition_steps: Steps in all, at least 1; the last value stays.
        peak_value: Highest value.
        pct_start: Fraction of the steps (not per cent) at which the peak is reached.
        pct_final: Fraction of the steps at which the value of step 0 is reached again, at least ``pct_start``.
        div_factor: The peak over the value at step 0; positive.
        final_div_factor: The value at step 0 over the last one; positive.

    Raises:
        ArgumentTypeError, ArgumentRangeError: an argument is not a number in its range.

    Source: Smith and Topin 2017, arXiv:1708.07120, section "Super-convergence" (1cycle).

    >>> from gradtx import schedules
    >>> f = schedules.linear_onecycle_schedule(100, 1.0, div_factor=4.0, final_div_factor=2.0)
    >>> [float(f(step)) for step in (0, 15, 30, 85, 100)]
    [0.25, 0.625, 1.0, 0.25, 0.125]
    """
    check_countable("linear_onecycle_schedule", transition_steps=transition_steps)
    if not pct_start <= pct_final:
        raise errors.ArgumentRangeError(
            f"linear_onecycle_schedule(..., pct_start={pct_start}, pct_final={pct_final})",
            expected="pct_final must be at least pct_start",
            got=pct_final,
            cause="both are fractions of all steps, not of what is left",
            fix=f"write pct_final={(1 + pct_start) / 2:g}",
        )
    boundaries = [int(pct_start * transition_steps), int(pct_final * transition_steps), transition_steps]
    values = _start_peak_end("linear_onecycle_schedule", peak_value, div_factor, final_div_factor)
    values.insert(2, values[0])
    return lambda step: on_pieces(step, boundaries, values, "linear")


@errors.checked
def cosine_onecycle_schedule(
    transition_steps: errors.Count,
    peak_value: Value,
    pct_start: errors.Fraction = 0.3,
    div_factor: Factor = 25.0,
    final_div_factor: Factor = 1e4,
) -> Schedule:
    """Half cosines up from ``peak_value / div_factor`` to ``peak_value``, and down by both factors.

    They end at the steps ``floor(pct_start T)`` and ``T = transition_steps``. With few steps the first may have none
    and is left out: the schedule begins at the peak.

    Args:
        transition_steps: Steps in all, at least 1; the last value stays.
        peak_value: Highest value.
        pct_start: Fraction of the steps (not per cent) at which the peak is reached.
        div_factor: The peak over the value at step 0; positive.
        final_div_factor: The value at step 0 over the last one; positive.

    Raises:
        ArgumentTypeError, ArgumentRangeError: an argument is not a number in its range.

    Source: Smith and Topin 2017, arXiv:1708.07120, section "Super-convergence" (1cycle), with cosines for its lines.

    >>> from gradtx import schedules
    >>> f = schedules.cosine_onecycle_schedule(100, 1.0, div_factor=4.0, final_div_factor=2.0)
    >>> [float(f(step)) for step in (0, 15, 30, 65, 100)]
    [0.25, 0.625, 1.0, 0.5625, 0.125]
    """
    check_countable("cosine_onecycle_schedule", transition_steps=transition_steps)
    boundaries = [int(pct_start * transition_steps), transition_steps]
    values = _start_peak_end("cosine_onecycle_schedule", peak_value, div_factor, final_div_factor)
    return lambda step: on_pieces(step, boundaries, values, "cosine")


def _start_peak_end(name: str, peak_value: Any, div_factor: Any, final_div_factor: Any) -> list[Any]:
    peak = as_value(peak_value)
    start = peak / as_value(div_factor)
    end = start / as_value(final_div_factor)
    check_finite(f"{name}(..., div_factor={errors.show(div_factor)}, ...)", start, end)
    return [start, peak, end]
