"""The page of ``benchmarks.run``: tables and pictures of the results that are kept, and of nothing else."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.run_claims import claims

BEGIN, END = "<!-- measured -->\n", "\n<!-- end of what was measured -->"
RESULTS = pathlib.Path(__file__).parent / "results"
COLUMNS = [
    "leaves", "optimizer", "peer", "bytes", "state", "held", "peak", "kernels", "time/Optax", "of copy", "build/Optax",
    "host us", "step seconds",
]  # fmt: skip
PEERS = {
    "Optax": "0.35", "by hand": "0.6", "PyTorch, foreach": "#c97b2c", "PyTorch, fused": "#8c4a0f",
    "gradtx": "#1f5fa8", "gradtx, bfloat16 state": "#4f93d1", "gradtx, 8-bit state": "#2a9d8f",
    "gradtx, 8-bit state, bfloat16 weights": "#156b60", "gradtx, packed state": "#9067c6", "gradtx, packed": "#5e2ca5",
}  # fmt: skip

Document = Mapping[str, Any]
Row = Mapping[str, Any]


def documents(results: pathlib.Path = RESULTS) -> dict[str, Document]:
    """The results that are kept, by the device in the name of the file."""
    return {path.stem[4:]: json.loads(path.read_text("utf-8")) for path in sorted(results.glob("run_*.json"))}


def with_tables(page: str, kept: Mapping[str, Document]) -> str:
    """The page with what was measured between its comments."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    measured = "\n\n".join(_section(device, document) for device, document in kept.items())
    return f"{before}{BEGIN}\n{measured or 'No results are kept.'}\n{END}{after}"


def write(folder: pathlib.Path, results: pathlib.Path = RESULTS) -> None:
    """``benchmarks.md`` and its pictures in ``folder``."""
    page, pictures, kept = folder / "benchmarks.md", folder / "pictures", documents(results)
    text = page.read_text("utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page}: expected the comments {BEGIN.strip()} and {END.strip()}")
    pictures.mkdir(exist_ok=True)
    for device, document in kept.items():
        draw(pictures, device, document["rows"])
    page.write_text(with_tables(text, kept), "utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# Tables.


def _section(device: str, document: Document) -> str:
    rows, environment, arguments = document["rows"], document["environment"], document["arguments"]
    versions = ", ".join(f"{name} {environment[name]}" for name in ("jax", "optax", "torch") if name in environment)
    on = ", ".join(f"{name} {_said(value)}" for name, value in document["on"].items())
    parts = [
        f"## {environment['device']}",
        f"Python {environment['python']}, {versions}; {on}. "
        f"Medians over {arguments['rounds']} rounds, of gradtx, Optax and the step by hand {2 * arguments['rounds']}, "
        "in brackets the quartiles"
        + ("; small leaves in place of all, only to see that it runs." if arguments["quick"] else "."),
        _pictures(device, rows),
    ]
    if not arguments["quick"]:
        parts += [
            "**What is claimed, and whether it holds here:**",
            _markdown(
                [("claim", "---"), ("figure", "---"), ("verdict", "---")],
                [[one["claim"], one["figure"], one["verdict"]]
                 for one in claims(rows, is_accelerator=document["is_accelerator"])],
            ),
        ]  # fmt: skip
    for leaves in dict.fromkeys(row["leaves"] for row in rows):
        here = [row for row in rows if row["leaves"] == leaves]
        parts += [f"### {leaves}: {here[0]['count']:,} leaves, {here[0]['parameters']:,} parameters", _table(here)]
    if document["notes"]:
        parts.append("\n".join(f"- {note}" for note in document["notes"]))
    return "\n\n".join(parts)


def _table(rows: Sequence[Row]) -> str:
    numbers = ("bytes", "state", "held", "peak", "kernels", "time/Optax", "of copy", "build/Optax", "ms", "host us")
    cells = []
    for row in rows:
        step = row["step seconds"] * 1e3 if "step seconds" in row else None
        cells.append([
            row["optimizer"], row["peer"], *(_said(row.get(name)) for name in ("bytes", "state", "held", "peak")),
            _said(row.get("kernels")), _with_quartiles(row, "time/Optax"), _with_quartiles(row, "of copy"),
            _said(row.get("build/Optax")), _said(step), _said(row.get("host us")),
        ])  # fmt: skip
    return _markdown([("optimizer", "---"), ("peer", "---"), *((name, "--:") for name in numbers)], cells)


def _markdown(heads: Sequence[tuple[str, str]], cells: Sequence[Sequence[str]]) -> str:
    lines = [[head for head, _ in heads], [rule for _, rule in heads], *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _with_quartiles(row: Row, what: str) -> str:
    if what not in row:
        return "-"
    low, high = row[f"{what} quartiles"]
    return f"{row[what]:.2f}" if row["peer"] == "Optax" and what == "time/Optax" else (
        f"{row[what]:.2f} ({low:.2f}-{high:.2f})"
    )  # fmt: skip


def _said(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures.


def _pictures(device: str, rows: Sequence[Row]) -> str:
    said = {
        "time": "time of a step of AdamW over that of Optax, by leaves and peer",
        "memory": "bytes for a parameter and bytes moved by a step of AdamW, by peer",
        "small": "time to build, time of a step and time of the call with 1,000 small leaves, by peer",
    }
    return "\n\n".join(
        f"![{said[name]}](pictures/benchmarks_{device}_{name}.png)" for name in said if _drawn(name, rows)
    )


def _drawn(name: str, rows: Sequence[Row]) -> list[Row]:
    """The rows of a picture; none if there is nothing to draw."""
    adamw = [row for row in rows if row["optimizer"] == "adamw"]
    if name == "time":
        return [row for row in adamw if "time/Optax" in row]
    if name == "memory":
        sizes = [row["leaves"] for row in adamw if row["leaves"] in ("1G", "100M", "GPT-2") and "peak" in row]
        return [row for row in adamw if sizes and row["leaves"] == sizes[0] and "peak" in row]
    return [row for row in adamw if row["leaves"] == "1,000 small" and "step seconds" in row]


def draw(folder: pathlib.Path, device: str, rows: Sequence[Row]) -> None:
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    for name, drawing in (("time", _draw_time), ("memory", _draw_memory), ("small", _draw_small)):
        if shown := _drawn(name, rows):
            figure = drawing(shown, plt)
            figure.savefig(folder / f"benchmarks_{device}_{name}.png", dpi=110)
            plt.close(figure)


def _draw_time(rows: Sequence[Row], plt: Any) -> Any:
    """A panel for each tree, a line for each peer, with its quartiles."""
    sizes = list(dict.fromkeys(row["leaves"] for row in rows))
    peers = [peer for peer in PEERS if peer != "Optax" and any(row["peer"] == peer for row in rows)][::-1]
    figure, axes = plt.subplots(
        1, len(sizes), figsize=(2.4 * len(sizes) + 3.2, 0.42 * len(peers) + 1.9), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, size in zip(axes[0], sizes, strict=True):
        for row in (row for row in rows if row["leaves"] == size and row["peer"] in peers):
            at, (low, high) = peers.index(row["peer"]), row["time/Optax quartiles"]
            axis.plot([low, high], [at, at], color=PEERS[row["peer"]], lw=6, alpha=0.35, solid_capstyle="butt")
            axis.plot(row["time/Optax"], at, "o", color=PEERS[row["peer"]], ms=6)
            axis.annotate(
                _short(row["time/Optax"]), (row["time/Optax"], at), (0, 7), textcoords="offset points", ha="center",
                fontsize=8, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )  # fmt: skip
        axis.axvline(1.0, color=PEERS["Optax"], lw=1, ls="--")
        axis.set_xscale("log")
        found = [edge for row in rows if row["leaves"] == size for edge in row["time/Optax quartiles"]]
        left, right = min(0.6, 0.6 * min(found)), max(1.7, 1.7 * max(found))
        axis.set_xlim(left, right)
        _ticks(axis, left, right)
        count = next(row["count"] for row in rows if row["leaves"] == size)
        axis.set_title(f"{size}\n{count:,} leaves", fontsize=10)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_yticks(range(len(peers)), peers)
    axes[0][0].set_ylim(-0.6, len(peers) - 0.2)
    figure.supxlabel("time of a step of AdamW over Optax's in the same round (median, bar: quartiles; left is faster)",
                     fontsize=10)  # fmt: skip
    return figure


def _ticks(axis: Any, left: float, right: float) -> None:
    """On a logarithmic axis: 1, 2 and 5 of each decade where there is room, else powers of ten."""
    digits = (1, 2, 5) if right / left < 40 else (1, 3) if right / left < 200 else (1,)
    ticks = [digit * 10.0**power for power in range(-3, 8) for digit in digits]
    ticks = [tick for tick in ticks if left < tick < right]
    axis.set_xticks(ticks, [f"{tick:,g}" if tick < 1 else f"{tick:,.0f}" for tick in ticks])
    axis.minorticks_off()


def _short(value: float) -> str:
    """With two digits or more."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"


def _draw_memory(rows: Sequence[Row], plt: Any) -> Any:
    """What is there during a step, stacked, and beside it what the step moves."""
    rows = [row for peer in list(PEERS)[::-1] for row in rows if row["peer"] == peer]
    figure, (held, moved) = plt.subplots(
        1, 2, figsize=(12, 0.5 * len(rows) + 1.7), sharey=True, layout="constrained", width_ratios=(3, 2)
    )
    names = [row["peer"] for row in rows]
    weights = [(row["held"] - row["state"]) / 2 for row in rows]
    parts = [
        ("parameters", weights, "#1f5fa8"), ("gradients", weights, "#8fb8de"),
        ("state", [row["state"] for row in rows], "#2a9d8f"),
        ("scratch", [max(row["peak"] - row["held"], 0.0) for row in rows], "#d1495b"),
    ]  # fmt: skip
    left = [0.0] * len(rows)
    for label, sizes, colour in parts:
        held.barh(names, sizes, left=left, color=colour, label=label, height=0.66)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    traffic = [4 * (row["bytes"] or 0.0) for row in rows]
    for at, row in enumerate(rows):
        held.text(left[at] + 0.15, at, f"{left[at]:.2f}", va="center", fontsize=9)
        what = "in a loop, not counted" if row["bytes"] is None else f"{traffic[at]:.1f}"
        moved.text(traffic[at] + 0.4, at, what, va="center", fontsize=9)
    moved.barh(names, traffic, color=[PEERS[name] for name in names], height=0.66)
    held.set_xlabel("bytes a parameter, in memory during a step")
    moved.set_xlabel("bytes a parameter, read and written by a step")
    held.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9)
    held.set_xlim(0, 1.12 * max(left))
    moved.set_xlim(0, 1.15 * max(traffic))
    moved.set_title(f"AdamW, {rows[0]['leaves']}: {rows[0]['parameters']:,} parameters", fontsize=10, loc="right")
    for axis in (held, moved):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    return figure


def _draw_small(rows: Sequence[Row], plt: Any) -> Any:
    """Seconds to build, and of a step with the part of the call."""
    rows = [row for peer in list(PEERS)[::-1] for row in rows if row["peer"] == peer]
    names = [row["peer"] for row in rows]
    panels = [
        ("to trace, lower and compile, seconds", [row.get("build seconds") for row in rows]),
        ("of a step, milliseconds", [1e3 * row["step seconds"] for row in rows]),
        ("until the call returns, microseconds", [row["host us"] for row in rows]),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(12, 0.45 * len(rows) + 1.5), sharey=True, layout="constrained")
    for axis, (label, values) in zip(axes, panels, strict=True):
        there = [value for value in values if value is not None] or [1.0]
        left, right = 0.5 * min(there), 3.0 * max(there)
        axis.set_xscale("log")
        axis.set_xlim(left, right)
        for at, value in enumerate(values):
            if value is None:
                axis.annotate(
                    "nothing to build", (left, at), (6, 0), textcoords="offset points", va="center", fontsize=9
                )
                continue
            axis.plot([left, value], [at, at], color=PEERS[names[at]], lw=1.5, alpha=0.5)
            axis.plot(value, at, "o", color=PEERS[names[at]], ms=8)
            axis.annotate(_short(value), (value, at), (8, 0), textcoords="offset points", va="center", fontsize=9)
        _ticks(axis, left, right)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.set_xlabel(f"time {label}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(-0.6, len(names) - 0.4)
    figure.suptitle(f"AdamW, {rows[0]['count']:,} leaves of {rows[0]['parameters'] // rows[0]['count']:,} elements",
                    fontsize=11)  # fmt: skip
    return figure
