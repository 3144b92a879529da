"""Flax's example models, trained with gradtx and with Optax side by side: loss, accuracy and speed of both.

    python -m benchmarks.flax_models [--short] [--only NAME ...] [--data FOLDER] [--text FILE] [--json FILE]
    python -m benchmarks.flax_models --read FILE --page FILE

Runs every example of ``examples/flax`` in a process of its own, with what they ship with or with your data, and prints
one table, in Markdown. *early* and *largest difference* are those between the two curves of the training loss, in the
first 20 steps and in all; *watched* is the speed with ``gradtx.watch`` around the optimizer. Speeds are examples per
second, from the median time of a step; the sides take steps in turns, and compilation does not count.

``--page`` puts the table into a page of the documentation, between two comments; with ``--read`` the one of an earlier
``--json``, without running anything.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.reporting import environment, write_json

BEGIN, END = "<!-- measured -->\n", "\n<!-- end of what was measured -->"
EXAMPLES = pathlib.Path(__file__).parents[1] / "examples" / "flax"
NAMES = ("convnet", "vae", "seq2seq", "transformer")
TAKES = {"convnet": "data", "vae": "data", "transformer": "text"}


def run(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one example."""
    given = getattr(options, TAKES[name]) if name in TAKES else None
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows.json"
        out = options.out / name if options.out is not None else pathlib.Path(folder) / name
        command = [sys.executable, str(EXAMPLES / f"{name}.py"), "--out", str(out), "--json", str(path)]
        command += ["--short"] if options.short else []
        command += ["--data", str(given)] if given is not None else []
        subprocess.run(command, check=True)
        return json.loads(path.read_text("utf-8"))


def markdown(rows: list[dict[str, Any]]) -> str:
    """A line for each model; loss, accuracy and speed of gradtx and Optax side by side."""
    names = [
        "model", "optimizer", "data", "parameters", "steps", "loss", "Optax's", "accuracy", "Optax's",
        "early difference", "yardstick", "largest", "yardstick", "examples/s", "Optax's", "watched",
    ]  # fmt: skip
    lines = ["| " + " | ".join(names) + " |", "|---" * 3 + "|--:" * (len(names) - 3) + "|"]
    for row in rows:
        ours, theirs, watched = (row["sides"].get(side) for side in ("gradtx", "Optax", "gradtx, watched"))
        cells = [
            f"{row['model']}, {row['api']}", row["optimizer"], row["data"],
            f"{row['parameters']:,}", f"{row['steps']:,} of {row['batch']}",
            f"{ours['loss']:.4f}", f"{theirs['loss']:.4f}", _fraction(ours["accuracy"]), _fraction(theirs["accuracy"]),
            f"{row['early_difference']:.0e}", f"{row['early_yardstick']:.0e}",
            f"{row['largest_difference']:.0e}", f"{row['largest_yardstick']:.0e}",
            *("-" if side is None else f"{side['examples_per_second']:,.0f}" for side in (ours, theirs, watched)),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def said(measured_in: dict[str, str]) -> str:
    """Device and versions in one line."""
    versions = ", ".join(f"{name} {measured_in[name]}" for name in ("jax", "flax", "optax"))
    return f"{measured_in['device']}, Python {measured_in['python']}, {versions}"


def with_table(page: str, document: dict[str, Any]) -> str:
    """The page with the table of a ``--json`` between its comments."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{markdown(document['rows'])}\n\n{said(document['environment'])}.\n{END}{after}"


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="a few steps of everything")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--data", type=pathlib.Path, help="folder with four IDX files, instead of the bundled digits")
    parser.add_argument("--text", type=pathlib.Path, help="file with a text, instead of Python's help")
    parser.add_argument("--out", type=pathlib.Path, help="folder for the examples' pictures")
    parser.add_argument("--json", help="file for the rows")
    parser.add_argument("--page", type=pathlib.Path, help="page of the documentation to put the table into")
    parser.add_argument("--read", type=pathlib.Path, help="file that an earlier --json wrote, instead of a run")
    options = parser.parse_args(arguments)
    if options.read is not None:
        document = json.loads(options.read.read_text("utf-8"))
    else:
        rows = [row for name in options.only for row in run(name, options)]
        document = {"environment": environment(), "rows": rows}
        if options.json is not None:
            write_json(options.json, rows, what="Flax's example models with gradtx and with Optax", short=options.short)
    print(said(document["environment"]))
    print(markdown(document["rows"]))
    if options.page is not None:
        options.page.write_text(with_table(options.page.read_text("utf-8"), document), "utf-8")


if __name__ == "__main__":
    main()
