"""One exact step of methods with an estimate of the Hessian, in float64, as in ``tests/papers/oracles.py``."""

from typing import Any

import numpy as np

from tests.papers.oracles import Array, State, Step

CURVATURE = 4.0  # of the loss that these oracles are for, 2 |p|^2 in every direction


def scale_by_sophia(
    state: State, g: Array, p: Array, t: int, *, b1: float = 0.965, b2: float = 0.99, eps: float = 1e-8,
    gamma: float = 0.01, clip_threshold: float = 1.0, update_interval: int = 10, value_fn: Any = None,
) -> Step:  # fmt: skip
    """Liu et al. 2023, arXiv:2305.14342, algorithm 3, with an estimate that is exact."""
    mean = b1 * state.get("mean", np.zeros_like(g)) + (1.0 - b1) * g
    diagonal = state.get("diagonal", np.zeros_like(g))
    if t % update_interval == 1 % update_interval:
        diagonal = b2 * diagonal + (1.0 - b2) * CURVATURE
    update = np.clip(mean / np.maximum(gamma * diagonal, eps), -clip_threshold, clip_threshold)
    return update, {"mean": mean, "diagonal": diagonal}


def sophia(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, weight_decay: float = 1e-4, **arguments: Any
) -> Step:
    """Liu et al. 2023, algorithm 3, with its decay."""
    update, new_state = scale_by_sophia(state, g, p, t, **arguments)
    return -learning_rate * (update + weight_decay * p), new_state
