"""Slow float64 forms of the transformations that leave steps out."""

import numpy as np


def accumulate(state, g, p, t, *, every):
    """Around the identity: the mean of the last ``every`` gradients at every such call, else nothing."""
    del p
    index = (t - 1) % every + 1
    before = state["mean"] if index > 1 else np.zeros_like(g)
    mean = before + (g - before) / index
    return mean if index == every else np.zeros_like(g), {"mean": mean}


def skip_large(norms, *, deviations, decay, warmup):
    """Which of a run's gradient norms are too large: weights written out, and the variance by its definition."""
    seen, weights, large = [], np.zeros(0), []
    for norm in norms:
        x, limit = np.log(norm), np.inf
        if len(seen) >= warmup:
            mean = np.sum(weights * seen)
            reach = deviations * max(np.sqrt(np.sum(weights * (seen - mean) ** 2)), 0.1)
            limit = mean + reach
            large.append(bool(x > limit))
            x = np.clip(x, mean - reach, limit)
        else:
            large.append(False)
        share = max(1 / (len(seen) + 1), 1 - decay)
        seen, weights = np.append(seen, x), np.append((1 - share) * weights, share)
    return large
