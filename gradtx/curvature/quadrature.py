"""How much of the spectrum lies below a threshold, bracketed by one Lanczos run.

A start vector ``q`` spreads a unit of mass over the eigenvalues, ``(v_i' q)^2`` on eigenvalue i. After k products the
Gauss-Radau rule with a node at ``t`` knows that mass up to the weight of this one node: the masses below ``t`` and up
to ``t`` are bracketed (Chebyshev, Markov, Stieltjes; Golub and Meurant 2010, "Matrices, Moments and Quadrature",
sections 3.2 and 6.2).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Bracket(NamedTuple):
    """Bounds on a mass; host floats."""

    low: float
    high: float


def mass_below(diagonal: Sequence[float], off_diagonal: Sequence[float], threshold: float) -> Bracket:
    """Bounds on the mass of eigenvalues below ``threshold``, from ``alpha_1 .. alpha_k`` and ``beta_1 .. beta_k``.

    With ``beta_k = 0`` the rule is exact, and both bounds are the same unless ``threshold`` is an eigenvalue.
    """
    alpha, beta = np.asarray(diagonal, np.float64), np.asarray(off_diagonal, np.float64)
    matrix = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    if beta[-1] == 0.0:
        values, vectors = np.linalg.eigh(matrix)
        mass = float(np.sum(vectors[0, values < threshold] ** 2))
        return Bracket(mass, mass)
    # The last diagonal entry of the extended matrix for which `threshold` is an eigenvalue (Golub 1973, section 7).
    values, vectors = np.linalg.eigh(matrix)
    gaps = values - threshold
    tiny = np.finfo(np.float64).tiny + np.finfo(np.float64).eps * max(np.abs(values).max(), abs(threshold))
    gaps = np.where(np.abs(gaps) < tiny, tiny, gaps)
    corner = threshold + beta[-1] ** 2 * np.sum(vectors[-1] ** 2 / gaps)
    extended = np.zeros((len(alpha) + 1,) * 2)
    extended[:-1, :-1] = matrix
    extended[-1, -1] = corner
    extended[-1, -2] = extended[-2, -1] = beta[-1]
    values, vectors = np.linalg.eigh(extended)
    weights = vectors[0] ** 2
    node = int(np.argmin(np.abs(values - threshold)))
    low = float(np.sum(weights[:node]))
    return Bracket(min(low, 1.0), min(low + float(weights[node]), 1.0))
