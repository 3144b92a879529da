"""Exact steps of what keeps parameters in a set, in the form of ``tests.papers.oracles``."""

import numpy as np

from tests.papers.oracles import Array, State, Step


def keep_params_nonnegative(state: State, g: Array, p: Array, t: int) -> Step:
    """The step ends at the nearest non-negative point."""
    return np.where(p + g < 0, -p, g), {}


def project_on_box(state: State, g: Array, p: Array, t: int) -> Step:
    """Parikh and Boyd 2014, section 4.2, with the box of elements in [-3e38, 3e38]."""
    return np.where(np.abs(p + g) <= 3e38, g, np.copysign(3e38, p + g) - p), {}


def zero_nans(state: State, g: Array, p: Array, t: int) -> Step:
    """What is not a number is no step; the flag is that of the last gradient alone."""
    return np.where(np.isnan(g), 0.0, g), {"found_nan": np.float64(np.isnan(g).any())}
