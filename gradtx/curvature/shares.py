"""The shares of negative, near-zero and positive eigenvalues, from one Lanczos run."""

import math

import numpy as np

from gradtx.curvature.lanczos import Krylov, ritz, tridiagonal
from gradtx.curvature.quadrature import Bracket, mass_below

Shares = tuple[float, float, float]
"""Below ``-threshold``, between, above ``threshold``."""
Intervals = tuple[Bracket, Bracket, Bracket]


def sign_shares(found: Krylov, dimension: int, threshold: float, noise: float) -> tuple[Shares, Intervals]:
    """The shares and an interval for each.

    Where the run spanned the whole space they are counted. Otherwise the one start vector is a probe: its mass on the
    eigenvalues of a sign is the share up to chance, and the run brackets that mass.
    """
    if len(found.diagonal) == dimension:
        values, _ = ritz(found)
        below = [float(np.mean(values < cut)) for cut in (-threshold - noise, -threshold, -threshold + noise)]
        above = [float(np.mean(values > cut)) for cut in (threshold + noise, threshold, threshold - noise)]
        negative, positive = Bracket(below[0], below[2]), Bracket(above[0], above[2])
        middles = (below[1], above[1])
    else:
        run = found.first
        cuts = [mass_below(found.diagonal[:run], found.off_diagonal[:run], cut) for cut in (-threshold, threshold)]
        negative = _widened(cuts[0], dimension)
        positive = _widened(Bracket(1 - cuts[1].high, 1 - cuts[1].low), dimension)
        values, columns = np.linalg.eigh(tridiagonal(found)[:run, :run])
        mass = columns[0] ** 2
        middles = (float(np.sum(mass[values < -threshold])), float(np.sum(mass[values > threshold])))
        middles = (
            min(max(middles[0], cuts[0].low), cuts[0].high),
            min(max(middles[1], 1 - cuts[1].high), 1 - cuts[1].low),
        )
    near = Bracket(max(0.0, 1 - negative.high - positive.high), min(1.0, 1 - negative.low - positive.low))
    shares = (middles[0], max(0.0, 1 - middles[0] - middles[1]), middles[1])
    return shares, (negative, near, positive)


def _widened(bracket: Bracket, dimension: int) -> Bracket:
    """By two standard deviations of the mass that a uniform unit vector has on a share p: ``2 p (1 - p) / (n + 2)``."""

    def spread(share: float) -> float:
        share = min(max(share, 1 / dimension), 1 - 1 / dimension)
        return 2 * math.sqrt(2 * share * (1 - share) / (dimension + 2))

    return Bracket(max(0.0, bracket.low - spread(bracket.low)), min(1.0, bracket.high + spread(bracket.high)))
