"""Tables for people, JSON for comparisons, and what a number was measured with."""

import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax


def environment() -> dict[str, str]:
    """Platform, device kind and versions: what a result depends on, and nothing that names a machine."""
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {}
    for package in ("jax", "jaxlib", "flax", "optax", "torch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "device": f"{cores}-core CPU" if device.platform == "cpu" else device.device_kind,
        "python": platform.python_version(),
        **versions,
    }


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as aligned text, numbers to the right."""
    cells = [list(columns)] + [[_text(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [all(not isinstance(row.get(column), str) for row in rows) for column in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        for line in cells
    ]
    return "\n".join(line.rstrip() for line in [lines[0], "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def write_json(path: str, rows: Sequence[Mapping[str, Any]], **what: Any) -> None:
    """The environment, what was measured, and every row unrounded."""
    document = {"environment": environment(), **what, "rows": [dict(row) for row in rows]}
    pathlib.Path(path).write_text(json.dumps(document, indent=1) + "\n")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if 0.01 <= abs(value) < 1e5 or value == 0 else f"{value:.1e}"
    return str(value)
