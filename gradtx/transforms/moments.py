"""Running statistics of gradients, and the correction of their start: the parts that adaptive methods are made of.

Averages are written as interpolations ``s + (1 - b) * (x - s)``, which is exact where ``x`` equals ``s``.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import (
    AccumulatedTree,
    Counter,
    Functions,
    GradientTransformation,
    NonNegativeTree,
    SignedScalar,
    SignedTree,
    first_step,
    next_step,
    stateless,
    transformation,
)
from gradtx.tree import square


class EmaState(NamedTuple):
    mean: SignedTree


@transformation(locality="elementwise")
def ema(decay: errors.Decay, *, output_decay: errors.Decay | None = None) -> GradientTransformation:
    """Moving average ``m <- decay * m + (1 - decay) * g``, ``u = m``, from ``m = 0`` and without correction.

    (Optax's function of this name corrects the start by default: that is ``chain(ema(b), bias_correction(b))``.) With
    ``output_decay``, ``u = output_decay * m + (1 - output_decay) * g`` with the old ``m``: what leaves follows the
    gradient at another rate than what is remembered, as in Lion. Where the average of a non-zero gradient falls below
    the normal numbers it is the smallest of them, with the gradient's sign, instead of vanishing. State: one float32
    number per parameter.

    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1 (first moment); Chen et al. 2023, arXiv:2302.06675,
    algorithm 2 (two decays).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.ema(0.75)
    >>> tx.update(jnp.array([4.0]), tx.init(jnp.zeros(1)))[0].tolist()
    [1.0]
    """

    def init(param):
        return EmaState(mean=jnp.zeros_like(param))

    def update(update, state):
        mean = _average(state.mean, update, decay)
        output = mean if output_decay is None else _average(state.mean, update, output_decay)
        return output, EmaState(mean)

    return GradientTransformation(init, update)


class MeanSquareState(NamedTuple):
    step: Counter  # None with a decay, which is the same at every step
    mean_square: NonNegativeTree


@transformation(locality="elementwise")
def mean_square(decay: errors.Decay | None = None, *, initial_value: errors.NonNegativeNumber = 0.0) -> Functions:
    """Mean of squares, ``u = v``, with ``|g|^2`` for complex ``g``.

    With a decay, the moving average ``v <- decay * v + (1 - decay) * g^2`` from ``v = initial_value``; without one, the
    plain mean over all steps ``v <- v + (g^2 - v) / t``, ``t = 1, 2, ...``, whose root is the root mean square.
    Squares saturate at the largest finite number. State: one float32 number per parameter.

    Source: Tieleman and Hinton 2012, lecture 6.5 (RMSProp); Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.mean_square()
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (1.0, 3.0):
    ...     v, state = tx.update(jnp.array([g]), state)
    >>> v.tolist()
    [5.0]
    """

    def init(param):
        return MeanSquareState(first_step() if decay is None else None, jnp.full_like(param.real, initial_value))

    def advance(state):
        return state if state.step is None else state._replace(step=next_step(state.step))

    def update(update, state):
        squares = finite_square(update)
        if decay is None:
            mean = state.mean_square + 1.0 / state.step * (squares - state.mean_square)
        else:
            mean = _interpolated(state.mean_square, squares, decay)
        return mean, state._replace(mean_square=mean)

    return init, update, advance


class VarianceState(NamedTuple):
    step: Counter
    mean_log_decay: SignedScalar  # None but for a corrected one with a decay that changes
    share: SignedScalar
    mean: SignedTree
    variance: NonNegativeTree


@transformation(locality="elementwise")
def variance(
    decay: errors.Decay | None = None, *, initial_value: errors.NonNegativeNumber = 0.0, corrected: bool = False
) -> Functions:
    """Mean square about the mean, ``u = v = E[|g - E[g]|^2]``, in a form that never cancels and is never negative.

    With ``d = g - m``, the share ``a`` of the new gradient and ``k = 1 - a`` of what was known: ``m <- m + a * d``,
    ``v <- k * v + k * a * |d|^2``, from ``m = 0`` and ``v = initial_value``. With a decay ``a = 1 - decay``: exactly
    Graves' ``n - m^2`` with ``n`` the moving average of ``g^2``, whose difference loses all digits where the mean is
    4,000 deviations. ``corrected`` gives every gradient the weight that it has among those seen,
    ``a = (1 - decay) / (1 - decay^t)``; without a decay all steps weigh the same, ``a = 1 / t``. In both the first
    gradient is all that is known, so its variance is 0 and ``initial_value`` is forgotten. State: two float32 numbers
    per parameter.

    Source: Graves 2013, arXiv:1308.0850, equations 38 and 39; the form, West 1979, Communications of the ACM 22(9).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.variance()
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (1.0, 3.0):
    ...     v, state = tx.update(jnp.array([g]), state)
    >>> v.tolist()
    [1.0]
    """

    def init(param):
        mean, variance = jnp.zeros_like(param), jnp.full_like(param.real, initial_value)
        log_decay = _first_log_decay(decay) if corrected else None
        return VarianceState(first_step(), log_decay, jnp.zeros((), jnp.float32), mean, variance)

    def advance(state):
        step = next_step(state.step)
        if decay is None:
            return state._replace(step=step, share=1.0 / step)
        if not corrected:
            return state._replace(step=step, share=_complement(decay))
        mean, kept = _mean_log_decay(state, decay, step)
        share = jnp.where(step == 1, 1.0, _complement(decay) / _one_minus_exp(step * mean))
        return state._replace(step=step, mean_log_decay=kept, share=share)

    def update(update, state):
        share, kept, difference = state.share, 1.0 - state.share, update - state.mean
        variance = kept * state.variance + kept * share * finite_square(difference)
        return variance, state._replace(mean=state.mean + share * difference, variance=variance)

    return init, update, advance


class SumOfSquaresState(NamedTuple):
    sum_of_squares: AccumulatedTree


@transformation(locality="elementwise")
def sum_of_squares(*, initial_value: errors.NonNegativeNumber = 0.0) -> GradientTransformation:
    """Sum of squares ``s <- s + g^2``, ``u = s``, from ``s = initial_value``; it saturates instead of overflowing.

    Source: Duchi, Hazan and Singer 2011, Journal of Machine Learning Research 12, section 1.1 (diagonal).
    """

    def init(param):
        return SumOfSquaresState(jnp.full_like(param.real, initial_value))

    def update(update, state):
        new = finite_square(update)
        total = jnp.where(jnp.isfinite(new), jnp.minimum(state.sum_of_squares + new, jnp.finfo(new.dtype).max), new)
        return total, SumOfSquaresState(total)

    return GradientTransformation(init, update)


class RunningMaxState(NamedTuple):
    maximum: NonNegativeTree


@transformation(locality="elementwise", real=True)
def running_max(decay: errors.Decay | None = None) -> GradientTransformation:
    """Largest value so far of a non-negative input, ``u = x_max <- max(x_max, x)``, from 0.

    With a decay the memory falls, ``x_max <- max(decay * x_max, x)``. State: one float32 number per parameter.

    Source: Reddi, Kale and Kumar 2018, arXiv:1904.09237, algorithm 2; with a decay, Kingma and Ba 2015,
    arXiv:1412.6980, algorithm 2.
    """

    def init(param):
        return RunningMaxState(jnp.zeros_like(param.real))

    def update(update, state):
        maximum = jnp.maximum(state.maximum if decay is None else decay * state.maximum, update)
        return maximum, RunningMaxState(maximum)

    return GradientTransformation(init, update)


@transformation(locality="elementwise", real=True)
def square_root(*, eps: errors.Epsilon = 0.0) -> GradientTransformation:
    """``u = sqrt(x + eps)`` of a non-negative input."""
    return stateless(lambda update: jnp.sqrt(update + eps))


@transformation(locality="elementwise")
def absolute_value(*, eps: errors.Epsilon = 0.0) -> GradientTransformation:
    """``u = |g| + eps``, real also for complex ``g``."""
    return stateless(lambda update: jnp.abs(update) + eps)


class BiasCorrectionState(NamedTuple):
    step: Counter
    mean_log_decay: SignedScalar  # None for a decay that is one number
    weight: SignedScalar


@transformation(locality="elementwise")
def bias_correction(decay: errors.Decay, *, steps_ahead: errors.Index = 0) -> Functions:
    """Divides a moving average that started at zero by the weight it has seen, ``u = m / (1 - prod_i b_i)``.

    For a constant decay the weight is ``1 - b^t = -expm1(t * log b)``, ``t = 1, 2, ...``, in the form that does not
    cancel. For a decay that changes, ``t * log b`` is ``t`` times the mean of ``log b_i``, which the state then keeps
    beside the step and the weight: it equals ``log b`` exactly where ``b`` is constant. ``steps_ahead``
    gives the weight of a later step, until which the decay stays the present one: what a look-ahead divides by.

    Source: Kingma and Ba 2015, arXiv:1412.6980, section 3.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.bias_correction(0.75)
    >>> tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))[0].tolist()
    [4.0]
    """

    def init(param):
        del param
        return BiasCorrectionState(first_step(), _first_log_decay(decay), jnp.zeros((), jnp.float32))

    def advance(state):
        step = next_step(state.step)
        mean, kept = _mean_log_decay(state, decay, step)
        count, log_decay = step, mean
        if steps_ahead:
            count = step.astype(jnp.float32) + steps_ahead
            log_decay = mean + (_log(decay) - mean) * (steps_ahead / count)
        return BiasCorrectionState(step, kept, _one_minus_exp(count * log_decay))

    def update(update, state):
        return update / state.weight, state

    return init, update, advance


def _first_log_decay(decay: Any) -> jax.Array | None:
    return None if isinstance(decay, float | int) else jnp.zeros((), jnp.float32)


def _mean_log_decay(state: Any, decay: Any, step: jax.Array) -> tuple[Any, jax.Array | None]:
    """The mean of ``log b_i`` up to this step, and what the state keeps of it: nothing for one number at all steps."""
    if state.mean_log_decay is None:
        return jnp.asarray(_log(decay), jnp.float32), None
    mean = state.mean_log_decay + (_log(decay) - state.mean_log_decay) / step
    return mean, mean


def weight_seen(decay: Any, step: jax.Array) -> jax.Array:
    """``1 - decay^step``: what a moving average from zero has given away after ``step`` updates."""
    return _one_minus_exp(step * _log(decay))


def _one_minus_exp(x: jax.Array) -> jax.Array:
    """``1 - e^x`` for ``x <= 0`` within 2 units in the last place (the compiler's ``expm1`` is up to 4 off on a CPU).

    Down to -0.7 by ``-x (1 + x/2 (1 + x/3 (...)))``, whose 10 terms leave 1e-9; below, ``e^x`` is at most a half.
    """
    series = jnp.ones_like(x)
    for n in range(11, 1, -1):
        series = 1.0 + x / n * series
    return jnp.where(x > -0.7, -x * series, 1.0 - jnp.exp(x))


def _average(mean: jax.Array, g: jax.Array, decay: Any) -> jax.Array:
    """``decay * mean + (1 - decay) * g``, and not zero for a real ``g`` that is not.

    (The sign of ``g`` is that of ``(g - mean) + mean``: XLA's CPU backend keeps a quotient that is used twice.)
    """
    average = _interpolated(mean, g, decay)
    if jnp.iscomplexobj(average) or average is g:
        return average
    return jax.lax.select(average == 0, jnp.sign((g - mean) + mean) * jnp.finfo(average.dtype).tiny, average)


def _interpolated(old: jax.Array, new: jax.Array, decay: Any) -> jax.Array:
    """``decay * old + (1 - decay) * new``; just ``new`` for a decay of 0, as ``old + (new - old)`` is rounded twice."""
    if isinstance(decay, float | int) and decay == 0:
        return new
    return old + _complement(decay) * (new - old)


def _complement(decay: Any) -> Any:
    """``1 - decay``, in float64 for a Python number, where float32 would lose up to 15 bits."""
    return 1.0 - decay


def _log(decay: Any) -> Any:
    """``log decay``, at least -128: ``expm1`` of that is -1, as for a decay of zero, but not a NaN when averaged."""
    if isinstance(decay, float | int):
        return max(math.log(decay), -128.0) if decay > 0 else -128.0
    return jnp.maximum(jnp.log(jnp.asarray(decay, jnp.float32)), -128.0)


def finite_square(g: jax.Array) -> jax.Array:
    """``|g|^2``, at the largest finite number where a finite ``g`` would overflow."""
    squares = square(g)
    return jax.lax.select(jnp.isfinite(g), jnp.minimum(squares, jnp.finfo(squares.dtype).max), squares)
