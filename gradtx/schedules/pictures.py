"""Schedules to look at: drawn with matplotlib, or as text in a terminal."""

from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.schedules.step import Schedule, check_countable, check_schedule, evaluate

_POINTS = 10_000  # at most so many steps are looked at, evenly spaced
_MARKS = "*o+x#@%&"

Width = Annotated[int, errors.Whole(16)]
Height = Annotated[int, errors.Whole(2)]


@errors.checked_call
def plot_schedule(
    schedule: Schedule | Mapping[str, Schedule], steps: errors.Count, *, axes: Any = None, label: str = "value"
) -> Any:
    """Draws a schedule, or several by name, from step 0 to ``steps`` with matplotlib.

    Args:
        schedule: A function of the step, or ``{name: function}``; the names stand in the legend.
        steps: Last step drawn. Of more than 10,000 steps so many are drawn, evenly spaced.
        axes: Matplotlib's axes to draw into; new ones by default.
        label: What the value is, for the vertical axis.

    Returns:
        Matplotlib's axes, to be changed further or saved by ``axes.figure.savefig(path)``.

    Raises:
        MissingExtra: Matplotlib is not installed.
        ArgumentTypeError, ArgumentRangeError: no function of the step, or ``steps`` is no whole number in range.

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from gradtx import schedules
    >>> axes = schedules.plot_schedule(schedules.cosine_decay_schedule(0.1, 100), 100, label="learning rate")
    >>> axes.get_xlabel(), axes.get_ylabel()
    ('step', 'learning rate')
    """
    named = _named("plot_schedule", schedule)
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise errors.MissingExtra(
            "plot_schedule",
            expected="matplotlib",
            got=str(error),
            cause="it comes with the extra [examples]",
            fix="write pip install gradtx[examples], or render_schedule for a drawing as text",
        ) from None
    if axes is None:
        _, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        axes.grid(alpha=0.3)
    counted = _sampled("plot_schedule", steps)
    for name, one in named.items():
        axes.plot(counted, _values(one, counted), label=name)
    axes.set(xlabel="step", ylabel=label)
    if len(named) > 1:
        axes.legend()
    return axes


@errors.checked_call
def render_schedule(
    schedule: Schedule | Mapping[str, Schedule], steps: errors.Count, *, width: Width = 64, height: Height = 13
) -> str:
    """A schedule, or several by name, from step 0 to ``steps`` as a drawing made of text.

    A column holds the values of all its steps, so that no restart is lost. Where several schedules meet, the one given
    first is seen.

    Args:
        schedule: A function of the step, or ``{name: function}``; the names stand in the legend.
        steps: Last step drawn. Of more than 10,000 steps so many are looked at, evenly spaced.
        width: Columns for the steps, at least 16.
        height: Lines for the values, at least 2; an odd number has a line for the middle.

    Raises:
        ArgumentTypeError, ArgumentRangeError: no function of the step, or a number that is no whole one in range.

    >>> from gradtx import schedules
    >>> f = schedules.warmup_stable_decay_schedule(0.0, 1.0, 10, 20, 40)
    >>> print(schedules.render_schedule(f, 40, width=41, height=5))
      1 |         ***********************
        |      ****                     ****
    0.5 |    ***                           ***
        | ****                               ****
      0 |**                                     **
        +-----------------------------------------
         0                 step                 40
    """
    named = _named("render_schedule", schedule)
    counted = _sampled("render_schedule", steps)
    curves = {name: _values(one, counted) for name, one in named.items()}
    finite = np.concatenate([values[np.isfinite(values)] for values in curves.values()])
    bottom, top = min(finite.min(initial=0.0), 0.0), max(finite.max(initial=0.0), 0.0)
    top = top if top > bottom else bottom + 1.0
    grid = np.full((height, width), " ")
    marks = [_MARKS[index % len(_MARKS)] for index in range(len(curves))]
    for mark, values in reversed(list(zip(marks, curves.values(), strict=True))):
        heights = (height - 1) * (values - bottom) / (top - bottom)
        for column, (low, high) in enumerate(_ranges(counted, heights, width)):
            grid[low : high + 1, column] = mark
    labels = {height - 1: f"{top:.3g}", 0: f"{bottom:.3g}"}
    if height % 2:
        labels[height // 2] = f"{(bottom + top) / 2:.3g}"
    margin = max(map(len, labels.values()))
    lines = [f"{labels.get(row, ''):>{margin}} |{''.join(grid[row])}".rstrip() for row in range(height - 1, -1, -1)]
    lines.append(f"{'':{margin}} +{'-' * width}")
    lines.append(f"{'':{margin}}  0{'step':^{width - 1 - len(str(steps))}}{steps}")
    if len(named) > 1:
        lines += [f"{'':{margin}}  {mark} {name}" for mark, name in zip(marks, named, strict=True)]
    return "\n".join(lines)


def _named(name: str, schedule: Any) -> dict[str, Schedule]:
    named = dict(schedule) if isinstance(schedule, Mapping) else {errors.show(schedule): schedule}
    if not named:
        raise errors.ArgumentRangeError(
            f"{name}({{}})",
            expected="at least one schedule",
            got="none",
            cause="the dictionary is empty",
            fix=f"write {name}({{'cosine': cosine_decay_schedule(0.1, 1000)}}, 1000)",
        )
    for key, one in named.items():
        where = f"schedule[{key!r}]" if isinstance(schedule, Mapping) else "schedule"
        check_schedule(f"{name}({errors.show(schedule)})", where, one)
    return {str(key): one for key, one in named.items()}


def _sampled(name: str, steps: int) -> np.ndarray:
    check_countable(name, steps=steps)
    return np.unique(np.linspace(0, steps, min(steps, _POINTS) + 1).round().astype(np.int32))


def _values(schedule: Schedule, steps: np.ndarray) -> np.ndarray:
    return np.asarray(jax.jit(jax.vmap(lambda step: evaluate(schedule, step)))(jnp.asarray(steps)), np.float64)


def _ranges(steps: np.ndarray, heights: np.ndarray, width: int) -> list[tuple[int, int]]:
    """The lowest and the highest line of each column, joined to the column before; empty where nothing is finite."""
    between = np.linspace(steps[0], steps[-1], 8 * width)  # where columns are more than steps
    steps, heights = np.append(steps, between), np.append(heights, np.interp(between, steps, heights))
    columns = np.rint((width - 1) * (steps / steps.max())).astype(int)
    ranges: list[tuple[int, int]] = []
    for column in range(width):
        inside = heights[columns == column]
        inside = np.rint(inside[np.isfinite(inside)]).astype(int)
        low, high = (inside.min(), inside.max()) if inside.size else (0, -1)
        if inside.size and ranges and ranges[-1][0] <= ranges[-1][1]:
            low, high = min(low, ranges[-1][1] + 1), max(high, ranges[-1][0] - 1)
        ranges.append((low, high))
    return ranges
