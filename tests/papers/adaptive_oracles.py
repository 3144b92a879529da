"""One exact step of momentum in all its forms, adaptive rates and steps by layer, as in ``tests/papers/oracles.py``."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.papers import oracles
from tests.papers.oracles import Array, State, Step, moving_average, quotient, squared_magnitude, weight_seen


def ema(state: State, g: Array, p: Array, t: int, *, decay: float, output_decay: float | None = None) -> Step:
    """Chen et al. 2023, arXiv:2302.06675, algorithm 2, without its sign: two averages from one memory."""
    old = state.get("mean", np.zeros_like(g))
    mean = moving_average(old, g, decay)
    return mean if output_decay is None else moving_average(old, g, output_decay), {"mean": mean}


def absolute_value(state: State, g: Array, p: Array, t: int, *, eps: float = 0.0) -> Step:
    """``|g| + eps``."""
    return np.abs(g) + eps, {}


def running_max(state: State, g: Array, p: Array, t: int, *, decay: float = 1.0) -> Step:
    """Kingma and Ba 2015, arXiv:1412.6980, algorithm 2: ``u_t = max(decay * u_{t-1}, x)``."""
    maximum = np.maximum(decay * state.get("maximum", np.zeros_like(g)), g)
    return maximum, {"maximum": maximum}


def bias_correction(state: State, g: Array, p: Array, t: int, *, decay: float, steps_ahead: int = 0) -> Step:
    """Kingma and Ba 2015, section 3, with the weight of a later step: ``g / (1 - decay^(t + steps_ahead))``."""
    return g / weight_seen(decay, t + steps_ahead), {}


def variance(
    state: State, g: Array, p: Array, t: int, *, decay: float | None = None, initial_value: float = 0.0,
    corrected: bool = False,
) -> Step:  # fmt: skip
    """The variance of a sample in two lots, by its definition: within the lots and between them.

    All that was seen before has the mean ``m``, the variance ``v`` and the weight ``old``; the gradient the weight
    ``new``. (Graves' ``n - m^2``, arXiv:1308.0850, equations 38 and 39, is the same number: see
    :func:`variance_of_graves`.)
    """
    mean, spread = state.get("mean", np.zeros_like(g)), state.get("variance", np.zeros_like(g.real) + initial_value)
    if decay is None:
        old, new = (t - 1) / t, 1 / t
    elif corrected:
        old, new = decay * weight_seen(decay, t - 1) / weight_seen(decay, t), (1.0 - decay) / weight_seen(decay, t)
    else:
        old, new = decay, 1.0 - decay
    middle = mean + new * (g - mean)
    within_and_between = old * (spread + squared_magnitude(mean - middle)) + new * squared_magnitude(g - middle)
    return within_and_between, {"mean": middle, "variance": within_and_between}


def variance_of_graves(gradients: Array, decay: float) -> Array:
    """Graves 2013, arXiv:1308.0850, equations 38 and 39 to the letter, with decay for 0.95: ``n - m^2``."""
    n, m, found = np.zeros_like(gradients[0]), np.zeros_like(gradients[0]), []
    for g in gradients:
        n, m = decay * n + (1 - decay) * g**2, decay * m + (1 - decay) * g
        found.append(n - m**2)
    return np.stack(found)


# ---------------------------------------------------------------------------------------------------------------------
# Scaling by moments.


def scale_by_rss(
    state: State, g: Array, p: Array, t: int, *, initial_accumulator_value: float = 0.1, eps: float = 1e-7,
    eps_in_sqrt: bool = True,
) -> Step:  # fmt: skip
    """Duchi, Hazan and Singer 2011, JMLR 12, section 1.1: ``g / sqrt(s)``, with ``eps`` under the root or beside it."""
    s, new_state = oracles.sum_of_squares(state, g, p, t, initial_value=initial_accumulator_value)
    return quotient(g, np.sqrt(s + eps) if eps_in_sqrt else np.sqrt(s) + eps), new_state


def scale_by_stddev(
    state: State, g: Array, p: Array, t: int, *, decay: float | None = 0.9, eps: float = 1e-8,
    initial_scale: float = 0.0, eps_in_sqrt: bool = True, bias_correction: bool = False,
) -> Step:  # fmt: skip
    """Graves 2013, arXiv:1308.0850, equation 40: ``g / sqrt(n - m^2 + eps)``, or with ``eps`` beside the root."""
    v, new_state = variance(state, g, p, t, decay=decay, initial_value=initial_scale, corrected=bias_correction)
    return quotient(g, np.sqrt(v + eps) if eps_in_sqrt else np.sqrt(v) + eps), new_state


def scale_by_adam(
    state: State, g: Array, p: Array, t: int, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    eps_root: float = 0.0, nesterov: bool = False, bias_correction: bool = True,
) -> Step:  # fmt: skip
    """Dozat 2016, algorithm 2 at a constant ``mu = b1``, without the factor ``b2`` of its second moment.

    ``m^ = mu m_t / (1 - mu^{t+1}) + (1 - mu) g_t / (1 - mu^t)``; uncorrected, all weights ``1 - mu^t`` are 1.
    """

    def weight(decay: float, count: int) -> float:
        return weight_seen(decay, count) if bias_correction else 1.0

    mean = moving_average(state.get("mean", np.zeros_like(g)), g, b1)
    second = moving_average(state.get("mean_square", np.zeros_like(g.real)), squared_magnitude(g), b2)
    corrected = mean / weight(b1, t)
    if nesterov:
        corrected = b1 * mean / weight(b1, t + 1) + (1.0 - b1) * g / weight(b1, t)
    update = quotient(corrected, np.sqrt(second / weight(b2, t) + eps_root) + eps)
    return update, {"mean": mean, "mean_square": second}


def scale_by_adamax(
    state: State, g: Array, p: Array, t: int, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8
) -> Step:
    """Kingma and Ba 2015, arXiv:1412.6980, algorithm 2; ``eps``, which it lacks, beside ``|g|``."""
    mean = moving_average(state.get("mean", np.zeros_like(g)), g, b1)
    maximum = np.maximum(b2 * state.get("maximum", np.zeros_like(g.real)), np.abs(g) + eps)
    return quotient(mean / weight_seen(b1, t), maximum), {"mean": mean, "maximum": maximum}


def scale_by_lion(state: State, g: Array, p: Array, t: int, *, b1: float = 0.9, b2: float = 0.99) -> Step:
    """Chen et al. 2023, arXiv:2302.06675, algorithm 2: ``sign(b1 m_{t-1} + (1 - b1) g_t)``."""
    blend, new_state = ema(state, g, p, t, decay=b2, output_decay=b1)
    return quotient(blend, np.abs(blend)), new_state


# ---------------------------------------------------------------------------------------------------------------------
# Norms of one leaf.


def norm(x: Array, axes: tuple[int, ...] | None = None) -> Array:
    """``||x||`` along ``axes``; float64 holds the squares of all float32 numbers but the smallest ones."""
    return np.sqrt(np.sum(squared_magnitude(x), axis=axes, keepdims=True))


def scale_by_trust_ratio(
    state: State, g: Array, p: Array, t: int, *, min_norm: float = 0.0, trust_coefficient: float = 1.0,
    eps: float = 0.0,
) -> Step:  # fmt: skip
    """You, Gitman and Ginsburg 2017, arXiv:1708.03888, equation 6, of the update as given; 1 where a norm is 0."""
    above, below = np.maximum(norm(p), min_norm), np.maximum(norm(g), min_norm)
    if above.item() == 0 or below.item() == 0:
        return g, {}
    return g * (trust_coefficient * above / (below + eps)), {}


def clip_by_block_norm(state: State, g: Array, p: Array, t: int, *, max_norm: float) -> Step:
    """``g min(1, max_norm / ||g||)``."""
    return g * (max_norm / np.maximum(norm(g), max_norm)), {}


def clip_by_block_rms(state: State, g: Array, p: Array, t: int, *, threshold: float) -> Step:
    """Shazeer and Stern 2018, arXiv:1804.04235, section 6: ``g / max(1, RMS(g) / threshold)``."""
    rms = np.sqrt(np.mean(squared_magnitude(g)))
    return g / np.maximum(1.0, rms / threshold), {}


def adaptive_grad_clip(
    state: State, g: Array, p: Array, t: int, *, clipping: float, eps: float = 1e-3,
    axis: tuple[int, ...] | None = None,
) -> Step:  # fmt: skip
    """Brock et al. 2021, arXiv:2102.06171, equation 3; ``axis`` are the axes of one unit, all of a vector's."""
    largest = clipping * np.maximum(norm(p, axis), eps)
    return np.where(norm(g, axis) > largest, quotient(g * largest, norm(g, axis)), g), {}


def centralize(state: State, g: Array, p: Array, t: int, *, axis: tuple[int, ...] = ()) -> Step:
    """Yong et al. 2020, arXiv:2004.01461, equation 1: ``g - mean(g)`` over the inputs of each unit."""
    return g - g.mean(axis=axis, keepdims=True) if axis else g, {}


# ---------------------------------------------------------------------------------------------------------------------
# Recipes.


def sgd(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, momentum: float | None = None,
    nesterov: bool = False, movement: bool = False,
) -> Step:  # fmt: skip
    """Sutskever et al. 2013, ICML 28, equation 1: the velocity ``v <- mu v - rate g`` is the movement itself.

    With ``nesterov``, the step of their ``theta + mu v``: ``(1 + mu) v_t - mu v_{t-1}``, which is ``mu v_t - rate g``.
    Without ``movement``, the heavy ball of ``tests.papers.oracles``.
    """
    if momentum is None or not movement:
        return oracles.sgd(state, g, p, t, learning_rate=learning_rate, momentum=momentum, nesterov=nesterov)
    velocity = momentum * state.get("momentum", np.zeros_like(g)) - learning_rate * g
    return momentum * velocity - learning_rate * g if nesterov else velocity, {"momentum": velocity}


def sign_sgd(state: State, g: Array, p: Array, t: int, *, learning_rate: float) -> Step:
    """Bernstein et al. 2018, arXiv:1802.04434, algorithm 1."""
    return -learning_rate * quotient(g, np.abs(g)), {}


def signum(state: State, g: Array, p: Array, t: int, *, learning_rate: float, beta: float = 0.9) -> Step:
    """Bernstein et al. 2018, arXiv:1802.04434, algorithm 2."""
    mean, new_state = ema(state, g, p, t, decay=beta)
    return -learning_rate * quotient(mean, np.abs(mean)), new_state


def lion(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, weight_decay: float = 1e-3, **arguments: float
) -> Step:
    """Chen et al. 2023, arXiv:2302.06675, algorithm 2."""
    update, new_state = scale_by_lion(state, g, p, t, **arguments)
    return -learning_rate * (update + weight_decay * p), new_state


def adagrad(state: State, g: Array, p: Array, t: int, *, learning_rate: float, **arguments: Any) -> Step:
    """Duchi, Hazan and Singer 2011, JMLR 12, section 1.1."""
    update, new_state = scale_by_rss(state, g, p, t, **arguments)
    return -learning_rate * update, new_state


def rmsprop(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, centered: bool = False,
    momentum: float | None = None, nesterov: bool = False, **arguments: Any,
) -> Step:  # fmt: skip
    """Graves 2013, arXiv:1308.0850, equations 38 to 41, his 0.95, 0.9 and 0.0001 being the arguments.

    Without ``centered``, Tieleman and Hinton 2012, lecture 6.5; ``decay=None`` is the mean over all steps.
    """
    scaled, new_state = (scale_by_stddev if centered else oracles.scale_by_rms)(state, g, p, t, **arguments)
    update = -learning_rate * scaled
    if momentum is None:
        return update, new_state
    update, momentum_state = oracles.scale_by_momentum(state, update, p, t, decay=momentum, nesterov=nesterov)
    return update, new_state | momentum_state


def adam(state: State, g: Array, p: Array, t: int, *, learning_rate: float, **arguments: Any) -> Step:
    """The step of :func:`scale_by_adam` downhill."""
    update, new_state = scale_by_adam(state, g, p, t, **arguments)
    return -learning_rate * update, new_state


def adamw(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, weight_decay: float = 1e-4, **arguments: Any
) -> Step:
    """Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, around :func:`scale_by_adam`."""
    update, new_state = scale_by_adam(state, g, p, t, **arguments)
    return -learning_rate * (update + weight_decay * p), new_state


def nadam(state: State, g: Array, p: Array, t: int, *, learning_rate: float, **arguments: Any) -> Step:
    """Dozat 2016, algorithm 2."""
    return adam(state, g, p, t, learning_rate=learning_rate, nesterov=True, **arguments)


def nadamw(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, weight_decay: float = 1e-4, **arguments: Any
) -> Step:
    """Dozat 2016, algorithm 2, with the decay of Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2."""
    return adamw(state, g, p, t, learning_rate=learning_rate, weight_decay=weight_decay, nesterov=True, **arguments)


def adamax(state: State, g: Array, p: Array, t: int, *, learning_rate: float, **arguments: float) -> Step:
    """Kingma and Ba 2015, arXiv:1412.6980, algorithm 2."""
    update, new_state = scale_by_adamax(state, g, p, t, **arguments)
    return -learning_rate * update, new_state


def adamaxw(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, weight_decay: float = 1e-4, **arguments: float
) -> Step:
    """Kingma and Ba 2015, algorithm 2, with the decay of Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2."""
    update, new_state = scale_by_adamax(state, g, p, t, **arguments)
    return -learning_rate * (update + weight_decay * p), new_state


def lars(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, weight_decay: float = 0.0,
    trust_coefficient: float = 0.001, eps: float = 0.0, momentum: float = 0.9, nesterov: bool = False,
) -> Step:  # fmt: skip
    """You, Gitman and Ginsburg 2017, arXiv:1708.03888, algorithm 1, with the norm of ``g + beta w`` below."""
    ratio = {"trust_coefficient": trust_coefficient, "eps": eps}
    scaled, _ = scale_by_trust_ratio({}, g + weight_decay * p, p, t, **ratio)
    arguments = {"learning_rate": learning_rate, "momentum": momentum, "nesterov": nesterov}
    return sgd(state, scaled, p, t, movement=True, **arguments)


def lamb(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, weight_decay: float = 0.0, eps: float = 1e-6,
    **arguments: Any,
) -> Step:  # fmt: skip
    """You et al. 2020, arXiv:1904.00962, algorithm 2, with ``phi(z) = z``."""
    r, new_state = scale_by_adam(state, g, p, t, eps=eps, **arguments)
    update, _ = scale_by_trust_ratio({}, r + weight_decay * p, p, t)
    return -learning_rate * update, new_state


def normalize_by_update_norm(leaves: list[Array], *, scale_factor: float = 1.0, eps: float = 1e-6) -> list[Array]:
    """``g / ||g||`` over all leaves."""
    length = math.sqrt(math.fsum(math.fsum(np.ravel(squared_magnitude(leaf))) for leaf in leaves))
    return [scale_factor * quotient(leaf, np.asarray(length + eps)) for leaf in leaves]


ORACLES: dict[str, Callable[..., Step]] = {
    oracle.__name__: oracle
    for oracle in (
        absolute_value, variance, scale_by_rss, scale_by_stddev, scale_by_adamax, scale_by_lion,
        scale_by_trust_ratio, clip_by_block_norm, clip_by_block_rms, adaptive_grad_clip, centralize,
        sign_sgd, signum, lion, nadam, nadamw, adamax, adamaxw, lars, lamb,
        ema, running_max, bias_correction, scale_by_adam, sgd, adagrad, rmsprop, adam, adamw,
    )
}  # fmt: skip
"""By the name of the unit; the last two lines know more arguments than those of ``tests.papers.oracles``."""
