"""A spectrum to look at."""

from typing import Any

import numpy as np

from gradtx import errors
from gradtx.curvature.densities import default_width, smoothed
from gradtx.curvature.shares import nodes
from gradtx.curvature.spectra import Spectrum, check_spectrum

_POINTS = 2001
_MARGIN = 5  # widths beyond the outermost Ritz values


def plot_spectrum(spectrum: Spectrum, axes: Any = None) -> Any:
    """Draws the density of eigenvalues on a logarithmic scale, its three parts in colour, the threshold dashed.

    A peak as high as the dotted line is a single eigenvalue, as one vector sees it on average; the lower edge is a
    tenth of that. The curve is smoothed by a hundredth of the range, which may be far wider than the threshold.

    Args:
        spectrum: From :func:`spectrum`.
        axes: Matplotlib's axes; new ones by default.

    Returns:
        The axes; ``axes.figure.savefig(path)`` keeps them.

    Raises:
        MissingExtra: Matplotlib is not installed.
        ArgumentTypeError: ``spectrum`` is no :class:`Spectrum`.

    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> matrix = curvature.hessian(lambda w, batch: 0.5 * jnp.sum(jnp.arange(-1.0, 5.0) * w**2), jnp.zeros(6))
    >>> axes = curvature.plot_spectrum(curvature.spectrum(matrix, key=jax.random.key(0)))
    >>> axes.get_xlabel(), axes.get_yscale()
    ('eigenvalue', 'log')
    """
    call = f"plot_spectrum({type(spectrum).__name__})"
    check_spectrum(call, spectrum)
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise errors.MissingExtra(
            call,
            expected="matplotlib",
            got=str(error),
            cause="it comes with the extra [examples]",
            fix="write pip install gradtx[examples], or print(spectrum)",
        ) from None
    if axes is None:
        _, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    values, weights = nodes(spectrum.probes)
    width, zero = default_width(spectrum), spectrum.threshold
    low, high = min(values.min(), -zero) - _MARGIN * width, max(values.max(), zero) + _MARGIN * width
    points = np.linspace(low, high, _POINTS)
    one = 1 / (spectrum.dimension * width * np.sqrt(2 * np.pi))
    kinds = np.where(np.abs(values) <= zero, 0, np.sign(values))
    for sign, color, name in ((-1, "C3", "negative"), (0, "0.4", "near zero"), (1, "C0", "positive")):
        share, (least, most) = spectrum.shares[sign + 1], spectrum.share_intervals[sign + 1]
        part = smoothed(values[kinds == sign], weights[kinds == sign], points, width)
        label = f"{name}: {share:.1%}, in [{least:.1%}, {most:.1%}]"
        axes.fill_between(points, one / 10, np.maximum(part, one / 10), color=color, alpha=0.5, label=label)
    curve = smoothed(values, weights, points, width)
    axes.plot(points, np.maximum(curve, one / 10), color="k", linewidth=1)
    axes.axhline(one, color="k", linestyle=":", linewidth=1, label="a single eigenvalue")
    for sign in (-1, 1):
        axes.axvline(sign * zero, color="k", linestyle="--", linewidth=1)
    axes.set(xlabel="eigenvalue", ylabel="share of eigenvalues per unit", yscale="log")
    axes.set(xlim=(low, high), ylim=(one / 10, 3 * curve.max()))
    axes.set_title(f"{spectrum.dimension:,} eigenvalues, threshold {zero:.3g}")
    axes.legend(title="share of eigenvalues", loc="best")
    return axes
