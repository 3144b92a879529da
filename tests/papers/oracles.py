"""One exact step of each unit, written from the papers' equations in float64, as the truth for float32.

Every oracle has one form::

    name(state, g, p, t, **arguments) -> (update, new_state)

``g`` and ``p`` are float64 or complex128 arrays, ``t = 1, 2, ...`` is the number of the step, and the arguments are
Python floats, as users write them. ``state`` maps the last names of the fields of our states (``mean``,
``mean_square``, ...) to float64 arrays; a name that is missing has the value that the method starts from, so the first
step may be given ``{}``. Only the names that an oracle knows come back: a part of a chain keeps its own.

``0 / 0`` is 0: no gradient, no step. Nothing saturates here: what overflows float32 is the business of other tests.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Array = Any
State = Mapping[str, Array]
Step = tuple[Array, dict[str, Array]]

# ---------------------------------------------------------------------------------------------------------------------
# Arithmetic that the equations take for granted.


def squared_magnitude(g: Array) -> Array:
    """``|g|^2``, real for complex ``g``."""
    return g.real**2 + g.imag**2 if np.iscomplexobj(g) else g**2


def quotient(n: Array, d: Array) -> Array:
    """``n / d`` with ``0 / 0 = 0``."""
    n, d = np.broadcast_arrays(n, d)
    return np.divide(n, d, out=np.zeros(n.shape, np.result_type(n, d)), where=(d != 0) | (n != 0))


def weight_seen(decay: float, t: int) -> float:
    """``1 - decay^t`` without cancellation: the weight that an average started at zero has given away after t steps."""
    return 1.0 if decay == 0.0 else -math.expm1(t * math.log(decay))


def weight_seen_by(decays: Sequence[float]) -> float:
    """``1 - b_1 b_2 ... b_t`` of decays that change, without cancellation."""
    return 1.0 if 0.0 in decays else -math.expm1(math.fsum(math.log(b) for b in decays))


def moving_average(old: Array, new: Array, decay: float) -> Array:
    """``decay * old + (1 - decay) * new``. Exact in float64: ``1 - decay`` is for 1/2 <= decay < 1."""
    return decay * old + (1.0 - decay) * new


def _zeros(g: Array) -> Array:
    return np.zeros_like(g)


def _real_zeros(g: Array) -> Array:
    return np.zeros_like(g.real)


# ---------------------------------------------------------------------------------------------------------------------
# Scaling.


def identity(state: State, g: Array, p: Array, t: int) -> Step:
    """``u = g``."""
    return g, {}


def set_to_zero(state: State, g: Array, p: Array, t: int) -> Step:
    """``u = 0``."""
    return np.zeros_like(g), {}


def scale(state: State, g: Array, p: Array, t: int, *, step_size: float) -> Step:
    """``u = step_size * g``."""
    return step_size * g, {}


def scale_by_sign(state: State, g: Array, p: Array, t: int) -> Step:
    """Bernstein et al. 2018, arXiv:1802.04434, algorithm 1: ``sign(g)``; for complex ``g``, ``g / |g|``."""
    return quotient(g, np.abs(g)), {}


def scale_by_learning_rate(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, flip_sign: bool = True
) -> Step:
    """``u = -learning_rate * g``, a step of gradient descent (Robbins and Monro 1951)."""
    return (-learning_rate if flip_sign else learning_rate) * g, {}


# ---------------------------------------------------------------------------------------------------------------------
# Moments.


def ema(state: State, g: Array, p: Array, t: int, *, decay: float) -> Step:
    """Kingma and Ba 2015, arXiv:1412.6980, algorithm 1, "update biased first moment estimate"."""
    mean = moving_average(state.get("mean", _zeros(g)), g, decay)
    return mean, {"mean": mean}


def mean_square(
    state: State, g: Array, p: Array, t: int, *, decay: float | None = None, initial_value: float = 0.0
) -> Step:
    """With a decay: Tieleman and Hinton 2012, lecture 6.5, slide 29; Kingma and Ba 2015, algorithm 1 ("update biased
    second raw moment estimate"). Without: the mean of ``g_1^2, ..., g_t^2``, of which ``mean_square`` holds t - 1.
    """
    old = state.get("mean_square", _real_zeros(g) + initial_value)
    new = squared_magnitude(g)
    mean = ((t - 1) * old + new) / t if decay is None else moving_average(old, new, decay)
    return mean, {"step": np.int64(t), "mean_square": mean}


def sum_of_squares(state: State, g: Array, p: Array, t: int, *, initial_value: float = 0.0) -> Step:
    """Duchi, Hazan and Singer 2011, JMLR 12, section 1.1: the diagonal of ``G_t = sum g g^T``."""
    total = state.get("sum_of_squares", _real_zeros(g) + initial_value) + squared_magnitude(g)
    return total, {"sum_of_squares": total}


def running_max(state: State, g: Array, p: Array, t: int) -> Step:
    """Reddi, Kale and Kumar 2018, arXiv:1904.09237, algorithm 2: ``v^_t = max(v^_{t-1}, v_t)``, ``v^_0 = 0``."""
    maximum = np.maximum(state.get("maximum", _zeros(g)), g)
    return maximum, {"maximum": maximum}


def square_root(state: State, g: Array, p: Array, t: int, *, eps: float = 0.0) -> Step:
    """``u = sqrt(x + eps)``."""
    return np.sqrt(g + eps), {}


def bias_correction(state: State, g: Array, p: Array, t: int, *, decay: float) -> Step:
    """Kingma and Ba 2015, arXiv:1412.6980, section 3, equation 4: division by ``1 - decay^t``.

    Its state ``mean_log_decay``, the mean of ``log b_i``, is at least -128: ``1 - exp(-128)`` is 1 also in float64.
    """
    log_decay = max(math.log(decay), -128.0) if decay > 0.0 else -128.0
    weight = weight_seen(decay, t)
    return g / weight, _corrected_state(t, log_decay, weight)


def bias_correction_of_varying_decay(state: State, g: Array, p: Array, t: int, *, decays: Sequence[float]) -> Step:
    """The same for decays ``b_1, ..., b_t``: an average that started at zero has the weight ``1 - b_1 b_2 ... b_t``.

    Kingma and Ba 2015, section 3: equation 1 with its product of equal decays replaced by the product of these.
    """
    assert len(decays) == t, "one decay for each step"
    logs = [max(math.log(b), -128.0) if b > 0.0 else -128.0 for b in decays]
    weight = weight_seen_by(decays)
    return g / weight, _corrected_state(t, math.fsum(logs) / t, weight)


def _corrected_state(t: int, mean_log_decay: float, weight: float) -> dict[str, Array]:
    return {"step": np.int64(t), "mean_log_decay": np.float64(mean_log_decay), "weight": np.float64(weight)}


# ---------------------------------------------------------------------------------------------------------------------
# Momentum and adaptive scaling.


def scale_by_momentum(state: State, g: Array, p: Array, t: int, *, decay: float, nesterov: bool = False) -> Step:
    """Polyak 1964 (heavy ball), as in Sutskever et al. 2013, ICML 28, equations 1 and 2: ``m <- decay * m + g``.

    Nesterov: their equations 3 and 4 in the variable ``theta + mu v``, in which the gradient is taken (Bengio,
    Boulanger-Lewandowski and Pascanu 2013, arXiv:1212.0901, section 3.5): ``u = g + decay * m`` with the new ``m``.
    """
    momentum = decay * state.get("momentum", _zeros(g)) + g
    return g + decay * momentum if nesterov else momentum, {"momentum": momentum}


def scale_by_rms(
    state: State,
    g: Array,
    p: Array,
    t: int,
    *,
    decay: float = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> Step:
    """Tieleman and Hinton 2012, lecture 6.5, slide 29: ``g / sqrt(v)``, with ``eps`` under the root or beside it."""
    v, new_state = mean_square(state, g, p, t, decay=decay, initial_value=initial_scale)
    v = v / weight_seen(decay, t) if bias_correction else v
    root = np.sqrt(v + eps) if eps_in_sqrt else np.sqrt(v) + eps
    return quotient(g, root), {"mean_square": new_state["mean_square"]}


def scale_by_adam(
    state: State,
    g: Array,
    p: Array,
    t: int,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> Step:
    """Kingma and Ba 2015, arXiv:1412.6980, algorithm 1: ``m^ / (sqrt(v^) + eps)``.

    ``eps_root`` under the root is zero in the paper.
    """
    mean = moving_average(state.get("mean", _zeros(g)), g, b1)
    second = moving_average(state.get("mean_square", _real_zeros(g)), squared_magnitude(g), b2)
    corrected_mean, corrected_second = mean / weight_seen(b1, t), second / weight_seen(b2, t)
    update = quotient(corrected_mean, np.sqrt(corrected_second + eps_root) + eps)
    return update, {"mean": mean, "mean_square": second}


# ---------------------------------------------------------------------------------------------------------------------
# Clipping and decay.


def clip(state: State, g: Array, p: Array, t: int, *, max_delta: float) -> Step:
    """``u = min(max(g, -max_delta), max_delta)``."""
    return np.minimum(np.maximum(g, -max_delta), max_delta), {}


def clip_by_global_norm(state: State, g: Sequence[Array], p: Array, t: int, *, max_norm: float) -> Step:
    """Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063, algorithm 1, with the norm over all arrays of ``g``."""
    norm = math.sqrt(math.fsum(math.fsum(np.ravel(squared_magnitude(leaf))) for leaf in g))
    return [leaf * (max_norm / norm) if norm > max_norm else leaf for leaf in g], {}


def add_decayed_weights(state: State, g: Array, p: Array, t: int, *, weight_decay: float = 0.0) -> Step:
    """Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, line 12: ``u = g + weight_decay * p``."""
    return g + weight_decay * p, {}


# ---------------------------------------------------------------------------------------------------------------------
# Recipes.


def sgd(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, momentum: float | None = None,
    nesterov: bool = False,
) -> Step:  # fmt: skip
    """``u = -learning_rate * m`` with ``m = g``, or the ``m`` of :func:`scale_by_momentum`."""
    m, new_state = (g, {}) if momentum is None else scale_by_momentum(state, g, p, t, decay=momentum, nesterov=nesterov)
    return -learning_rate * m, new_state


def adagrad(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, initial_accumulator_value: float = 0.1,
    eps: float = 1e-7,
) -> Step:  # fmt: skip
    """Duchi, Hazan and Singer 2011, JMLR 12, section 1.1: ``u = -learning_rate * g / sqrt(s + eps)``."""
    s, new_state = sum_of_squares(state, g, p, t, initial_value=initial_accumulator_value)
    return -learning_rate * quotient(g, np.sqrt(s + eps)), new_state


def rmsprop(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, momentum: float | None = None,
    nesterov: bool = False, **arguments: Any,
) -> Step:  # fmt: skip
    """Tieleman and Hinton 2012, lecture 6.5; with momentum, Graves 2013, arXiv:1308.0850, section 4.2.

    His ``Delta`` accumulates ``-learning_rate * g / sqrt(v + eps)`` with the decay ``momentum``. (He also subtracts
    the squared mean gradient from ``v``; here not.)
    """
    scaled, rms_state = scale_by_rms(state, g, p, t, **arguments)
    update = -learning_rate * scaled
    if momentum is None:
        return update, rms_state
    update, momentum_state = scale_by_momentum(state, update, p, t, decay=momentum, nesterov=nesterov)
    return update, rms_state | momentum_state


def adam(state: State, g: Array, p: Array, t: int, *, learning_rate: float, **arguments: float) -> Step:
    """Kingma and Ba 2015, arXiv:1412.6980, algorithm 1, "update parameters"."""
    update, new_state = scale_by_adam(state, g, p, t, **arguments)
    return -learning_rate * update, new_state


def adamw(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, weight_decay: float = 1e-4, **arguments: float
) -> Step:
    """Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, line 12.

    Their schedule multiplier times ``alpha`` is ``learning_rate``, and it multiplies the decay too, as in PyTorch.
    """
    update, new_state = scale_by_adam(state, g, p, t, **arguments)
    return -learning_rate * (update + weight_decay * p), new_state


def amsgrad(
    state: State,
    g: Array,
    p: Array,
    t: int,
    *,
    learning_rate: float,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
) -> Step:
    """Reddi, Kale and Kumar 2018, arXiv:1904.09237, algorithm 2: the maximum over the raw second moments.

    The paper has no correction of the start ("for simplicity"); it is made after the maximum, as in Adam and PyTorch.
    """
    mean = moving_average(state.get("mean", _zeros(g)), g, b1)
    second = moving_average(state.get("mean_square", _real_zeros(g)), squared_magnitude(g), b2)
    maximum = np.maximum(state.get("maximum", _real_zeros(g)), second)
    corrected_mean, corrected_maximum = mean / weight_seen(b1, t), maximum / weight_seen(b2, t)
    update = -learning_rate * quotient(corrected_mean, np.sqrt(corrected_maximum + eps_root) + eps)
    return update, {"mean": mean, "mean_square": second, "maximum": maximum}


ORACLES: dict[str, Callable[..., Step]] = {
    oracle.__name__: oracle
    for oracle in (
        identity, set_to_zero, scale, scale_by_sign, scale_by_learning_rate,
        ema, mean_square, sum_of_squares, running_max, square_root, bias_correction,
        scale_by_momentum, scale_by_rms, scale_by_adam,
        clip, clip_by_global_norm, add_decayed_weights,
        sgd, adagrad, rmsprop, adam, adamw, amsgrad,
    )
}  # fmt: skip
"""By the name of the unit. (A decay that changes has its own, :func:`bias_correction_of_varying_decay`.)"""
