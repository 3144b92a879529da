"""What training kept of its steps, as columns of numbers."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from gradtx import errors

NEEDED = ("loss", "gradient_norm")
RANGES = {
    "loss": (-np.inf, np.inf),
    "gradient_norm": (0.0, np.inf),
    "update_norm": (0.0, np.inf),
    "update_angle": (0.0, 180.0),
    "gradient_cosine": (-1.001, 1.001),
}
"""The columns that are read, by the names of :func:`gradtx.metrics`, and the numbers that they may hold."""

_WRITE = "write history.append(metrics) after each step, with watch(tx) in the step"


def columns_of(call: str, history: Any, least: int) -> dict[str, np.ndarray]:
    """The columns that are known, float64 on the host, all of one length of at least ``least``; one transfer.

    The first ``gradient_cosine`` may be anything, as no gradient came before.
    """
    named = _by_name(call, history)
    for name in NEEDED:
        if name not in named:
            meant = errors.nearest(name, named)
            raise errors.StructureError(
                call,
                expected=f"a history with {' and '.join(NEEDED)}",
                got=", ".join(sorted(named)) or "none",
                cause=f"is {meant!r} what is meant?" if meant else "the step was not watched",
                fix=f"write {{{name!r}: history[{meant!r}], ...}}" if meant else _WRITE,
            )
    columns = {name: _numbers(call, name, named[name]) for name in RANGES if name in named}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise errors.ShapeError(
            call,
            expected="one number for each step in every column",
            got=", ".join(f"{length} of {name}" for name, length in lengths.items()),
            cause="one was kept more often than another",
            fix="write history.append(metrics), and give the list",
        )
    if lengths["loss"] < least:
        raise errors.BatchError(
            call,
            expected=f"a history of at least {least} steps",
            got=f"{lengths['loss']}",
            cause="a generator gives its rows only once" if not lengths["loss"] else "a trend needs more",
            fix="write history = list(rows) before its first use" if not lengths["loss"] else "train longer",
        )
    for name, column in columns.items():
        _check_range(call, name, column)
    return columns


def _by_name(call: str, history: Any) -> dict[str, Any]:
    """Columns by name; None for those that are not read."""
    if isinstance(history, Mapping):
        read = {name: column for name, column in history.items() if name in RANGES}
        lists = {name: list(column) if isinstance(column, Iterator) else column for name, column in read.items()}
        return {str(name): None for name in history} | jax.device_get(lists)
    if not isinstance(history, Iterable) or isinstance(history, str | bytes | jax.Array | np.ndarray):
        raise _no_history(call, history)
    rows = list(history)
    if not rows:
        raise errors.BatchError(
            call,
            expected="the metrics of at least one step",
            got="none",
            cause="the loop did not run, or a generator was used up by an earlier call",
            fix="write history = list(rows) before its first use",
        )
    if not all(isinstance(row, Mapping) for row in rows):
        raise _no_history(call, history)
    names = set(rows[0])
    for index, row in enumerate(rows):
        if set(row) & set(RANGES) != names & set(RANGES):
            raise errors.StructureError(
                call,
                expected=f"metrics {', '.join(sorted(names))} of every step",
                got=", ".join(sorted(map(str, row))) or "none",
                at=f"step {index}",
                cause="metrics of two different steps were mixed",
                fix="give the rows of one training step",
            )
    rows = jax.device_get([{name: row[name] for name in names & set(RANGES)} for row in rows])
    return {str(name): [row[name] for row in rows] if name in RANGES else None for name in names}


def _no_history(call: str, history: Any) -> errors.GradtxError:
    return errors.ArgumentTypeError(
        call,
        expected="history must be a list of metrics, or a dict of columns",
        got=f"{type(history).__name__} {errors.show(history)}",
        cause="the metrics of one step or one column were given",
        fix=_WRITE,
    )


def _numbers(call: str, name: str, values: Any) -> np.ndarray:
    try:
        column = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        column = None
    if column is None or column.ndim != 1:
        raise errors.ArgumentTypeError(
            call,
            expected="one real number for each step",
            got=errors.show(values) if column is None else f"numbers of shape {list(column.shape)}",
            at=repr(name),
            cause="a metric is one number, averaged over what it was measured on",
            fix="write jnp.mean(losses) in the step",
        )
    return column


def _check_range(call: str, name: str, column: np.ndarray) -> None:
    low, high = RANGES[name]
    skipped = name == "gradient_cosine"
    wrong = ~(np.isfinite(column) & (column >= low) & (column <= high))
    wrong[:skipped] = False
    if np.any(wrong):
        step = int(np.argmax(wrong))
        finite = np.isfinite(column[step])
        raise errors.ArgumentRangeError(
            call,
            expected=f"a number in [{low:g}, {high:g}]" if finite else "finite numbers",
            got=f"{column[step]:g}",
            at=f"step {step} of {name}",
            cause="another quantity has this name" if finite else "training diverged there",
            fix=f"give the {name} of gradtx.metrics" if finite else "lower the rate, or give the steps before",
        )
