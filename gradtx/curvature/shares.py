"""The shares of negative, near-zero and positive eigenvalues, from one Lanczos run or several."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gradtx.curvature.intervals import share_interval
from gradtx.curvature.lanczos import Krylov, tridiagonal
from gradtx.curvature.quadrature import Bracket, mass_below

Shares = tuple[float, float, float]
"""Below ``-threshold``, between, above ``threshold``."""
Intervals = tuple[Bracket, Bracket, Bracket]

_ROUNDING = 1e-6  # of a unit of mass: start vectors and coefficients are float32


class Probe(NamedTuple):
    """What the run from one start vector says of a spectrum; host numbers."""

    values: np.ndarray
    """Ritz values, ascending; all eigenvalues where they were counted."""
    masses: np.ndarray
    """The squares of the unit start vector on them; ``1 / n`` each where they were counted."""
    weight: float
    """The square of the start vector's length, relative to the sum over all probes."""
    counted: bool
    """Whether the run spanned the whole space."""
    diagonal: tuple[float, ...]
    """``alpha_1, alpha_2, ...`` up to the first closed subspace, or all of them where the eigenvalues were counted."""
    off_diagonal: tuple[float, ...]
    """``beta_1, beta_2, ...``, the last one 0 where the subspace was closed."""


def probe_of(found: Krylov, dimension: int, weight: float = 1.0) -> Probe:
    """What is kept of a run when its basis is given up."""
    counted = found.closed > 0 and len(found.diagonal) == dimension
    run = dimension if counted else found.first
    values, columns = np.linalg.eigh(tridiagonal(found)[:run, :run])
    masses = np.full(dimension, 1 / dimension) if counted else columns[0] ** 2
    return Probe(values, masses, weight, counted, tuple(found.diagonal[:run]), tuple(found.off_diagonal[:run]))


def sign_shares(
    probes: Sequence[Probe], dimension: int, threshold: float, noise: float, confidence: float
) -> tuple[Shares, Intervals]:
    """The shares and an interval for each; eigenvalues are known up to ``noise``.

    Where a run spanned the whole space they are counted. Otherwise the runs bracket the masses that their start vectors
    have on the eigenvalues of a sign, which are the shares up to chance (:func:`share_interval`).
    """
    low, high = bracket_below(probes, -threshold, noise), bracket_below(probes, threshold, noise)
    masses = (
        Bracket(low.low, low.high),
        Bracket(max(0.0, high.low - low.high), high.high - low.low),
        Bracket(1 - high.high, 1 - high.low),
    )
    negative, near, positive = (share_of(probes, mass, dimension, confidence) for mass in masses)
    values, weights = nodes(probes)
    below = min(max(math.fsum(weights[values < -threshold]), negative.low), negative.high)
    above = min(max(math.fsum(weights[values > threshold]), positive.low), positive.high)
    return (below, max(0.0, 1 - below - above), above), (negative, near, positive)


def bracket_below(probes: Sequence[Probe], cut: float, noise: float) -> Bracket:
    """Bounds on the probes' mean mass below ``cut``, which itself may be off by ``noise`` to either side."""

    def below(probe: Probe, at: float) -> Bracket:
        if probe.counted:
            return Bracket(float(np.mean(probe.values < at)), float(np.mean(probe.values <= at)))
        return mass_below(probe.diagonal, probe.off_diagonal, at)

    low = math.fsum(probe.weight * below(probe, cut - noise).low for probe in probes)
    high = math.fsum(probe.weight * below(probe, cut + noise).high for probe in probes)
    return Bracket(min(low, 1.0), min(high, 1.0))


def share_of(probes: Sequence[Probe], mass: Bracket, dimension: int, confidence: float) -> Bracket:
    """An interval for the share of eigenvalues on which the probes have this mean mass."""
    if probes[0].counted:
        return Bracket(round(mass.low * dimension) / dimension, round(mass.high * dimension) / dimension)
    widened = Bracket(mass.low - _ROUNDING, mass.high + _ROUNDING)
    return share_interval(widened, dimension, len(probes), confidence)


def nodes(probes: Sequence[Probe]) -> tuple[np.ndarray, np.ndarray]:
    """The Ritz values of all probes and their weights in the mean, which sum to one."""
    values = np.concatenate([probe.values for probe in probes])
    return values, np.concatenate([probe.weight * probe.masses for probe in probes])
