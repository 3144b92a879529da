"""Lines and planes of the loss to look at; where it is not finite is shown, not left out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradtx import errors
from gradtx.curvature.landscapes import LossLine, LossPlane

_LEVELS = 16
_LOGARITHMIC = 30  # a range of losses of this many times the smallest is drawn on a logarithmic scale
_NO_NUMBER = "not finite"


def plot_line(line: LossLine, *, axes: Any = None, label: str | None = None) -> Any:
    """Draws the loss along a line; crosses at the upper edge stand where it is NaN or infinite.

    Args:
        line: From :func:`loss_line`.
        axes: Matplotlib's axes, such as those of another line; new ones by default.
        label: A name for the legend, which the caller draws.

    Returns:
        The axes; ``axes.figure.savefig(path)`` keeps them.

    Raises:
        MissingExtra: Matplotlib is not installed.

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import jax.numpy as jnp
    >>> from gradtx import curvature
    >>> line = curvature.loss_line(lambda w, batch: w**2, jnp.array(0.0), end=jnp.array(1.0))
    >>> curvature.plot_line(line).get_xlabel()
    'alpha'
    """
    call = "plot_line(line)"
    if not isinstance(line, LossLine):
        raise _not_from(call, "line", "a LossLine", line, "line = curvature.loss_line(loss, params, batch, end=other)")
    axes = _axes(call, axes)
    finite = np.isfinite(line.losses)
    (drawn,) = axes.plot(line.alphas, np.where(finite, line.losses, np.nan), label=label)
    if not finite.all():
        axes.plot(line.alphas[~finite], np.full((~finite).sum(), 0.97), "x", color=drawn.get_color(),
                  transform=axes.get_xaxis_transform(), label=_NO_NUMBER)  # fmt: skip
    axes.set(xlabel="alpha", ylabel="loss")
    axes.grid(alpha=0.3)
    return axes


def plot_plane(plane: LossPlane, *, axes: Any = None, points: Mapping[str, Sequence[float]] | None = None) -> Any:
    """Draws contours of the loss on a plane; grey is where it is NaN or infinite.

    On a logarithmic scale where the losses are positive and the largest is over 30 times the smallest.

    Args:
        plane: From :func:`loss_plane`, at least 2 by 2 points.
        axes: Matplotlib's axes; new ones by default.
        points: Names and coordinates ``(x, y)`` to mark.

    Returns:
        The axes; ``axes.figure.savefig(path)`` keeps them.

    Raises:
        MissingExtra: Matplotlib is not installed.

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import jax.numpy as jnp
    >>> from gradtx import curvature
    >>> plane = curvature.loss_plane(lambda w, batch: w @ w, jnp.zeros(2), directions=(jnp.array([1.0, 0]),
    ...                                                                                jnp.array([0, 1.0])))
    >>> curvature.plot_plane(plane, points={"minimum": (0, 0)}).get_xlabel()
    'x'
    """
    call = "plot_plane(plane)"
    if not isinstance(plane, LossPlane):
        raise _not_from(call, "plane", "a LossPlane", plane,
                        "plane = curvature.loss_plane(loss, params, batch, directions=(u, v))")  # fmt: skip
    if min(plane.losses.shape) < 2:
        raise errors.ShapeError(
            call,
            expected="at least 2 by 2 points",
            got=f"{plane.losses.shape[1]} by {plane.losses.shape[0]}",
            cause="contours need an area",
            fix="write plot_line(loss_line(...)) for a line",
        )
    axes = _axes(call, axes)
    finite = np.isfinite(plane.losses)
    values = np.ma.masked_where(~finite, plane.losses)
    if not finite.all():
        axes.set_facecolor("0.75")
        axes.plot([], [], "s", color="0.75", markersize=10, label=_NO_NUMBER)
    if finite.any():
        filled = _contours(axes, plane, values)
        axes.figure.colorbar(filled, ax=axes, label="loss", format="%.2g")
    for number, (name, (x, y)) in enumerate((points or {}).items()):
        marker = "osD^vP*X"[number % 8]
        axes.plot(x, y, marker, color="white", markeredgecolor="black", markersize=9, linestyle="none", label=name)
    axes.set(xlabel="x", ylabel="y", xlim=(plane.xs.min(), plane.xs.max()), ylim=(plane.ys.min(), plane.ys.max()))
    if points or not finite.all():
        axes.legend(loc="best")
    return axes


def _contours(axes: Any, plane: LossPlane, values: Any) -> Any:
    from matplotlib import colors

    low, high = float(values.min()), float(values.max())
    if low == high:  # a constant still has one colour
        return axes.pcolormesh(plane.xs, plane.ys, values, shading="nearest")
    logarithmic = low > 0 and high > _LOGARITHMIC * low
    levels = np.geomspace(low, high, _LEVELS) if logarithmic else np.linspace(low, high, _LEVELS)
    norm = colors.LogNorm(low, high) if logarithmic else colors.Normalize(low, high)
    filled = axes.contourf(plane.xs, plane.ys, values, levels, norm=norm, cmap="viridis")
    axes.contour(plane.xs, plane.ys, values, levels, colors="white", linewidths=0.5, alpha=0.6)
    return filled


def _axes(call: str, axes: Any) -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise errors.MissingExtra(
            call,
            expected="matplotlib",
            got=str(error),
            cause="it comes with the extra [examples]",
            fix="write pip install gradtx[examples], or print the losses",
        ) from None
    return plt.subplots(figsize=(6, 4.5), layout="constrained")[1] if axes is None else axes


def _not_from(call: str, name: str, kind: str, given: Any, fix: str) -> errors.ArgumentTypeError:
    return errors.ArgumentTypeError(
        call,
        expected=f"{name} must be {kind}",
        got=f"{type(given).__name__} {errors.show(given)}",
        cause="the losses are drawn with the coordinates that they belong to",
        fix=f"write {fix}",
    )
