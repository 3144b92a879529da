"""Metrics of many batches to one number each."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from gradtx.errors import BatchError, StructureError


def mean_metrics(history: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Means over batches, weighted by their ``examples`` n_i, in float64; one transfer from the device, at the end::

        mean = sum_i n_i m_i / sum_i n_i

    so a short last batch counts for what it holds. ``examples`` itself comes back as the sum. A batch without examples
    counts for nothing, even if its metrics are NaN (a mean over none); any other NaN stays visible.

    Raises:
        BatchError: No batch at all.
        StructureError: The batches do not have the same metrics, or no ``examples``.

    >>> from gradtx.training import mean_metrics
    >>> mean_metrics([{"loss": 1.0, "examples": 3}, {"loss": 5.0, "examples": 1}])
    {'loss': 2.0, 'examples': 4.0}
    """
    given = [dict(row) for row in history]
    if not given:
        raise BatchError(
            "mean_metrics(history)",
            expected="the metrics of at least one batch",
            got="none",
            cause="the loop did not run, or the iterator was used up by an earlier call",
            fix="write history = [step(state, batch) for batch in batches(data, batch_size)]",
        )
    names = set(given[0]) | {"examples"}
    for index, row in enumerate(given):
        if set(row) != names:
            raise StructureError(
                "mean_metrics(history)",
                expected=f"metrics {', '.join(sorted(names))} of every batch",
                got=", ".join(sorted(row)) or "none",
                at=f"batch {index}",
                cause="metrics of two different steps were mixed, or made by hand without their number of examples",
                fix="write mean_metrics([eval_step(state, batch) for batch in batches(data, batch_size)])",
            )
    rows = jax.device_get(given)
    weights = np.asarray([row["examples"] for row in rows], np.float64)
    kept, total = weights != 0, float(weights.sum())
    means = {"examples": total}
    for name in names - {"examples"}:
        values = np.asarray([row[name] for row in rows], np.float64)
        means[name] = float(np.sum(weights[kept] * values[kept]) / total) if total else float("nan")
    return {name: means[name] for name in given[0]}
