"""What is claimed of the figures of ``benchmarks.run``, and whether they bear it out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
LARGE = ("100M", "GPT-2", "1G")
EIGHT, WEIGHTS = "gradtx, 8-bit state", "gradtx, 8-bit state, bfloat16 weights"
HOLDS, FAILS, UNMEASURED = "holds", "does not hold", "not measured on this device"


def claims(rows: Sequence[Row], *, is_accelerator: bool) -> list[dict[str, str]]:
    """A line for each claim; a claim with several figures holds if all of them bear it out.

    A step is measurably slower than another if three quarters of the rounds say so.
    """

    def of(optimizer: str | None, peer: str, *leaves: str) -> list[Row]:
        return [
            row for row in rows
            if row["peer"] == peer and row["optimizer"] == (optimizer or row["optimizer"])
            and row["leaves"] in (leaves or (row["leaves"],))
        ]  # fmt: skip

    def ratios(measured: Sequence[Row], what: str) -> list[tuple[str, float]]:
        peers = {(row["leaves"], row["optimizer"]): row for row in of(None, "Optax")}
        return [(_where(row), row[what] / peers[row["leaves"], row["optimizer"]][what]) for row in measured]

    def values(measured: Sequence[Row], what: str, quartile: int | None = None) -> list[tuple[str, float]]:
        name = what if quartile is None else f"{what} quartiles"
        return [
            (_where(row), row[name] if quartile is None else row[name][quartile]) for row in measured if name in row
        ]

    ours = of(None, "gradtx", *LARGE)
    times = {_where(row): row for row in of(None, EIGHT, "100M", "1G", "GPT-2")}
    slower = [
        (_where(row), times[_where(row)]["time/Optax"] / row["time/Optax"])
        for row in ours if "time/Optax" in times.get(_where(row), {}) and "time/Optax" in row
    ]  # fmt: skip
    found = [
        _judged("large leaves: a step is not measurably slower than Optax's (lower quartile of the ratio at most 1)",
                values(ours, "time/Optax", 0), lambda ratio: ratio <= 1.0, worst=max),
        _judged("large leaves: at least 0.9 of the speed of the step by hand",
                [(at, 1.0 / ratio) for at, ratio in values(ours, "time/by hand")], lambda s: s >= 0.9, worst=min),
        _judged("clip, adamw: at most 0.75 of Optax's bytes",
                ratios(of("clip, adamw", "gradtx"), "bytes"), lambda ratio: ratio <= 0.75, worst=max),
        _judged("1,000 small leaves, adamw, packed: at most 1/5 of Optax's time for a step",
                values(of("adamw", "gradtx, packed", "1,000 small"), "time/Optax"), lambda r: r <= 0.2, worst=max),
        _judged("1,000 small leaves, adamw, packed: at most 1/3 of Optax's time to trace, lower and compile",
                values(of("adamw", "gradtx, packed", "1,000 small"), "build/Optax"), lambda r: r <= 1 / 3, worst=max),
        _judged("adamw, 8-bit state: at most 2.3 bytes of state for a parameter",
                values(of("adamw", EIGHT, *LARGE), "state"), lambda size: size <= 2.3, worst=max),
        _judged("adamw, 8-bit state, bfloat16 weights: at most 7.3 bytes for a parameter in all, gradient included",
                values(of("adamw", WEIGHTS, *LARGE), "held"), lambda size: size <= 7.3, worst=max),
    ]  # fmt: skip
    on_accelerators = [
        _judged("accelerator, adamw in float32, 100M parameters or more: at least 0.85 of the speed of a copy",
                values(of("adamw", "gradtx", *LARGE), "of copy"), lambda share: share >= 0.85, worst=min),
        _judged("accelerator: the step with 8-bit state takes no longer than the one in float32",
                slower, lambda ratio: ratio <= 1.0, worst=max),
        _judged("accelerator, 1,000 small leaves, packed: at most 1/5 of Optax's kernels",
                ratios(of("adamw", "gradtx, packed", "1,000 small"), "kernels"), lambda r: r <= 0.2, worst=max),
        _judged("accelerator, 1,000 small leaves, packed: the call returns in at most 1/5 of Optax's time",
                ratios([row for row in of("adamw", "gradtx, packed", "1,000 small") if "host us" in row], "host us"),
                lambda r: r <= 0.2, worst=max),
    ]  # fmt: skip
    if not is_accelerator:
        on_accelerators = [{**one, "figure": "-", "verdict": UNMEASURED} for one in on_accelerators]
    return found + on_accelerators


def _where(row: Row) -> str:
    return f"{row['leaves']}, {row['optimizer']}"


def _judged(
    claim: str, figures: Sequence[tuple[str, float]], holds: Callable[[float], bool], worst: Callable[..., Any]
) -> dict[str, str]:
    """With the worst figure, and all those that do not bear the claim out."""
    if not figures:
        return {"claim": claim, "figure": "-", "verdict": "not measured in this run"}
    against = [(at, figure) for at, figure in figures if not holds(figure)]
    said = against or [worst(figures, key=lambda one: one[1])]
    return {
        "claim": claim,
        "figure": "; ".join(f"{figure:.3g} ({at})" for at, figure in said),
        "verdict": FAILS if against else HOLDS,
    }
