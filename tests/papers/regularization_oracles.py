"""Exact steps of the regularizers, in the form of ``tests.papers.oracles``."""

import numpy as np

from tests.papers.oracles import Array, State, Step

Strength = float | dict[str, float]


def of_the_only_leaf(strength: Strength) -> float:
    """The strength of a tree that is one array: its path is empty, so that only ``*`` matches it."""
    return strength.get("*", 0.0) if isinstance(strength, dict) else strength


def direction(z: Array) -> Array:
    """``z / |z|``, the sign of a real number; 0 for 0."""
    size = np.abs(z)
    return np.divide(z, size, out=np.zeros_like(z), where=size != 0)


def soft_threshold(z: Array, t: float) -> Array:
    """Parikh and Boyd 2014, section 6.5.2: the ``x`` with the least ``t |x| + |x - z|^2 / 2``, for each element."""
    return direction(z) * np.maximum(np.abs(z) - t, 0.0)


def l1_decay(state: State, g: Array, p: Array, t: int, *, strength: Strength) -> Step:
    """The gradient of ``strength * sum |p|``, 0 where it has none, is added to that of the loss."""
    return g + of_the_only_leaf(strength) * direction(p), {}


def l2_decay(state: State, g: Array, p: Array, t: int, *, strength: Strength) -> Step:
    """Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, line 6: the gradient of ``strength / 2 sum |p|^2``."""
    return g + of_the_only_leaf(strength) * p, {}


def add_decayed_weights(state: State, g: Array, p: Array, t: int, *, weight_decay: Strength) -> Step:
    """Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, line 12."""
    return g + of_the_only_leaf(weight_decay) * p, {}


def proximal_l1(state: State, g: Array, p: Array, t: int, *, strength: Strength, learning_rate: float) -> Step:
    """Duchi and Singer 2009, section 2: a step, then the proximal operator of ``learning_rate * strength sum |p|``."""
    return soft_threshold(p + g, of_the_only_leaf(strength) * learning_rate) - p, {}


def keep_zeros(state: State, g: Array, p: Array, t: int) -> Step:
    """Zero where the weight was zero before the first step."""
    kept = state.get("kept", (np.asarray(p) != 0).astype(np.float64))
    return np.where(kept == 0, 0.0, g), {"kept": kept}
