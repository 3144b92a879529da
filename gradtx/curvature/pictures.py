"""A report to look at: its spectrum, and the loss along the two extreme directions."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.curvature.evaluating import value_along
from gradtx.curvature.loss_form import Loss, carried
from gradtx.curvature.operators import Point, point
from gradtx.curvature.verdict import Report
from gradtx.tree import check_same, widen

_POINTS = 41


@errors.checked_call
def plot_report(
    report: Report, loss: Loss, params: Any, batch: Any, *, axes: Any = None, reach: errors.Positive | None = None
) -> Any:
    """Draws what :func:`classify` found: Ritz values with their masses, and the loss along both extreme directions.

    Beside the loss stands, dashed, what the curvature alone predicts, ``L + t^2 lambda / 2``. Takes 82 evaluations of
    the loss.

    Args:
        report: From :func:`classify`.
        loss, params, batch: What the report is about.
        axes: A pair of Matplotlib's axes; new ones by default.
        reach: How far to go along a unit direction; by default where the larger curvature would change the loss by
            one and a half times its value.

    Returns:
        The pair of axes; ``axes[0].figure.savefig(path)`` keeps them.

    Raises:
        MissingExtra: Matplotlib is not installed.
        StructureError, ShapeError: The report is about other parameters.

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> loss = lambda w, batch: (1 - w[0] * w[1]) ** 2
    >>> report = curvature.classify(loss, jnp.zeros(2), None, key=jax.random.key(0))
    >>> axes = curvature.plot_report(report, loss, jnp.zeros(2), None)
    >>> axes[0].get_xlabel(), axes[1].get_ylabel()
    ('eigenvalue', 'loss')
    """
    call = f"plot_report(report, {errors.show(loss)}, params, batch)"
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise errors.MissingExtra(
            call,
            expected="matplotlib",
            got=str(error),
            cause="it comes with the extra [examples]",
            fix="write pip install gradtx[examples], or print(report)",
        ) from None
    check_same(call, "report.direction", report.direction, "params", params)
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    _draw_spectrum(axes[0], report)
    _draw_directions(axes[1], report, carried(call, loss), params, batch, reach, call)
    return axes


def _draw_spectrum(axes: Any, report: Report) -> None:
    values, mass = report.spectrum
    bottom = max(float(np.min(mass)) / 3, 1e-6)
    for sign, color, name in ((-1, "C3", "negative"), (0, "0.5", "near zero"), (1, "C0", "positive")):
        kind = np.where(np.abs(values) <= report.threshold, 0, np.sign(values)) == sign
        share = report.shares[sign + 1]
        if np.any(kind):
            axes.vlines(values[kind], bottom, np.maximum(mass[kind], bottom), color=color, linewidth=2)
            axes.plot(values[kind], np.maximum(mass[kind], bottom), "o", color=color, label=f"{name}: {share:.0%}")
    axes.axvline(0, color="0.8", linewidth=1, zorder=0)
    axes.set(xlabel="eigenvalue", ylabel="mass of the start vector on it", yscale="log", ylim=(bottom, 2),
             title=report.verdict)  # fmt: skip
    axes.legend(title="share of eigenvalues", loc="best")


def _draw_directions(
    axes: Any, report: Report, function: Any, params: Any, batch: Any, reach: float | None, call: str
) -> None:
    hit = jax.tree.unflatten(
        jax.tree.structure(params), [bool(jnp.any(low != 0) or jnp.any(high != 0)) for low, high in
        zip(jax.tree.leaves(report.direction), jax.tree.leaves(report.direction_max), strict=True)],
    )  # fmt: skip
    at: Point = point(call, params, batch, hit)
    largest = max(abs(report.lambda_min), abs(report.lambda_max))
    if reach is None:
        reach = math.sqrt(3 * abs(report.loss) / largest) if report.loss and largest else 1.0
    steps = np.linspace(-reach, reach, _POINTS)
    for value, direction, color, name in (
        (report.lambda_min, report.direction, "C3", "lowest"),
        (report.lambda_max, report.direction_max, "C0", "highest"),
    ):
        leaves = zip(jax.tree.leaves(direction), at.layout.mask, strict=True)
        vector = tuple(widen(leaf) for leaf, moves in leaves if moves)
        axes.plot(steps, [value_along(function, at, vector, t) for t in steps], color=color,
                  label=f"{name} eigenvalue, {value:.3g}")  # fmt: skip
        axes.plot(steps, report.loss + value * steps**2 / 2, "--", color=color, linewidth=1)
    axes.plot([], [], "--", color="0.4", linewidth=1, label="predicted by the curvature")
    axes.plot(0, report.loss, "ko", markersize=5)
    axes.set(xlabel="step along the unit direction", ylabel="loss")
    axes.legend(loc="best")
