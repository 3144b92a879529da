"""A spectrum as a curve: the density of eigenvalues, and how many lie below a point."""

from typing import Any, NamedTuple

import numpy as np

from gradtx import errors
from gradtx.curvature.shares import bracket_below, nodes, share_of
from gradtx.curvature.spectra import Spectrum, check_spectrum


@errors.checked_call
def density(spectrum: Spectrum, points: Any, width: errors.Positive | None = None) -> np.ndarray:
    """The share of eigenvalues per unit, smoothed by a Gaussian; its integral over all points is one.

    ``phi(t) = sum_p w_p sum_j masses_pj exp(-((t - values_pj) / s)^2 / 2) / (s sqrt(2 pi))``, ``s`` the width.

    Source: Lin, Saad and Yang 2016, "Approximating spectral densities of large matrices", section 2.

    Args:
        spectrum: From :func:`spectrum`.
        points: Where to evaluate it, an array of any shape.
        width: The standard deviation of the Gaussian, in units of eigenvalues; by default a hundredth of the range.

    Returns:
        Float64 on the host, of the shape of ``points``.

    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from gradtx import curvature
    >>> matrix = curvature.hessian(lambda w, batch: 0.5 * jnp.sum(jnp.arange(1.0, 5.0) * w**2), jnp.zeros(4))
    >>> found = curvature.spectrum(matrix, key=jax.random.key(0))
    >>> curvature.density(found, [1.0, 1.5, 2.0], width=0.1).round(4).tolist()
    [0.9974, 0.0, 0.9974]
    """
    check_spectrum("density(spectrum, points)", spectrum)
    at = _finite("density(spectrum, points)", points)
    s = default_width(spectrum) if width is None else float(width)
    return smoothed(*nodes(spectrum.probes), at, s)


class Cumulative(NamedTuple):
    """How many eigenvalues lie below some points; float64 on the host, of the points' shape."""

    below: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """Between ``low`` and ``high`` at the spectrum's level of confidence, for each point by itself."""


@errors.checked_call
def cumulative(spectrum: Spectrum, points: Any) -> Cumulative:
    """How many eigenvalues lie below each point, with the interval that :func:`spectrum` gives for a share.

    Args:
        spectrum: From :func:`spectrum`.
        points: An array of any shape; a point costs a small eigenvalue problem for each probe.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> matrix = curvature.hessian(lambda w, batch: 0.5 * jnp.sum(jnp.arange(1.0, 5.0) * w**2), jnp.zeros(4))
    >>> found = curvature.spectrum(matrix, key=jax.random.key(0))
    >>> curvature.cumulative(found, [0.0, 2.5, 9.0]).below.tolist()
    [0.0, 2.0, 4.0]
    """
    check_spectrum("cumulative(spectrum, points)", spectrum)
    at, n = _finite("cumulative(spectrum, points)", points), spectrum.dimension
    values, weights = nodes(spectrum.probes)
    rows = []
    for cut in at.ravel():
        mass = bracket_below(spectrum.probes, float(cut), spectrum.noise)
        low, high = share_of(spectrum.probes, mass, n, spectrum.confidence)
        share = min(max(float(np.sum(weights[values < cut])), low), high)
        rows.append((n * share, n * low, n * high))
    return Cumulative(*np.reshape(rows, (at.size, 3)).T.reshape(3, *at.shape))


def smoothed(values: np.ndarray, weights: np.ndarray, points: np.ndarray, width: float) -> np.ndarray:
    """A sum of Gaussians around the values."""
    total = np.zeros_like(points)
    for value, weight in zip(values, weights, strict=True):
        total += weight * np.exp(-0.5 * ((points - value) / width) ** 2)
    return total / (width * np.sqrt(2 * np.pi))


def default_width(spectrum: Spectrum) -> float:
    """A hundredth of the range of Ritz values, or of their size where they are the same up to rounding."""
    values, _ = nodes(spectrum.probes)
    reach = float(np.ptp(values))
    return (reach if reach > 4 * spectrum.noise else float(np.max(np.abs(values))) or 1.0) / 100


def _finite(call: str, points: Any) -> np.ndarray:
    at = np.asarray(points)
    if at.dtype.kind not in "iuf" and at.dtype.name != "bfloat16":
        raise errors.ArgumentTypeError(
            call,
            expected="points must be an array of real numbers",
            got=errors.show(points),
            cause="the arguments are in another order",
            fix="write np.linspace(-1, 1, 200)",
        )
    at = at.astype(np.float64)
    if not np.all(np.isfinite(at)):
        raise errors.ArgumentRangeError(
            call,
            expected="finite points",
            got="NaN or infinity",
            cause="they come from a range that is empty or not known",
            fix="write np.linspace(-1, 1, 200)",
        )
    return at
