"""Line searches and the quasi-Newton direction, slow and in float64, as in ``tests/papers/oracles.py``."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = Any


def backtracking(
    f: Callable[[Array], float], p: Array, u: Array, slope: float, first: float, *, steps: int,
    slope_rtol: float = 1e-4, decrease_factor: float = 0.8,
) -> float:  # fmt: skip
    """Nocedal and Wright 2006, algorithm 3.1: the first of ``first * decrease_factor^k`` that is low enough."""
    for k in range(steps + 1):
        t = first * decrease_factor**k
        if f(p + t * u) <= f(p) + slope_rtol * t * slope:
            return t
    return 0.0


def wolfe(f0: float, s0: float, t: float, f: float, s: float, slope_rtol: float = 1e-4, curv_rtol: float = 0.9) -> bool:
    """Nocedal and Wright 2006, equation 3.7: the strong Wolfe conditions."""
    return f <= f0 + slope_rtol * t * s0 and abs(s) <= curv_rtol * abs(s0)


def lbfgs_direction(pairs: Sequence[tuple[Array, Array]], gradient: Array, memory_size: int) -> Array:
    """Nocedal and Wright 2006, equation 7.19 with dense matrices: ``H g`` from the last pairs, oldest first."""
    pairs = list(pairs)[-memory_size:]
    size = gradient.size
    if not pairs:
        return gradient * min(1.0, 1.0 / np.linalg.norm(gradient))
    s, y = pairs[-1]
    inverse = (s @ y) / (y @ y) * np.eye(size)
    for s, y in pairs:
        rho = 1.0 / (y @ s)
        left = np.eye(size) - rho * np.outer(s, y)
        inverse = left @ inverse @ left.T + rho * np.outer(s, s)
    return inverse @ gradient
