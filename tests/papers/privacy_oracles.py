"""Slow float64 oracles of gradients of single examples, written from the papers' equations alone."""

import math

import numpy as np

from tests.papers.oracles import Array, State, Step, squared_magnitude


def sum_of_clipped(grads: list[Array], l2_norm_clip: float) -> tuple[list[Array], int]:
    """Abadi et al. 2016, arXiv:1607.00133, algorithm 1: ``sum_i g_i / max(1, ||g_i|| / C)``, and how many are so."""
    total, count = [np.zeros(leaf.shape[1:]) for leaf in grads], 0
    for example in range(len(grads[0])):
        norm = math.sqrt(math.fsum(math.fsum(np.ravel(squared_magnitude(leaf[example]))) for leaf in grads))
        count += norm > l2_norm_clip
        total = [s + g[example] / max(1.0, norm / l2_norm_clip) for s, g in zip(total, grads, strict=True)]
    return total, count


def differentially_private_aggregate(
    state: State, g: Array, p: Array, t: int, *, l2_norm_clip: float, noise_multiplier: float, key: int
) -> Step:
    """Abadi et al. 2016, algorithm 1, of equal examples without noise: ``u = g / max(1, ||g|| / C)``."""
    assert noise_multiplier == 0.0
    (total,), _ = sum_of_clipped([g[None]], l2_norm_clip)
    return total, {}
