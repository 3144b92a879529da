"""How noisy the gradient of a batch is: the batch size at which noise and gradient are equally large."""

import math
from typing import Any, NamedTuple

import numpy as np

from gradtx import errors
from gradtx.combinators.selecting import Where
from gradtx.curvature import vectors
from gradtx.curvature.datasets import Dataset, pieces
from gradtx.curvature.differentiation import Vector
from gradtx.curvature.evaluating import Slope, slope
from gradtx.curvature.intervals import student_factor
from gradtx.curvature.lanczos import non_finite
from gradtx.curvature.loss_form import Loss, carried
from gradtx.curvature.operators import Operator, Point, hessian_at, multiply, point
from gradtx.tables import aligned

_PIECES = 32  # of one batch
_LEAST = 3  # batches: a jackknife leaves one out, and what is left has to have a variance


class Ratio(NamedTuple):
    """A batch size as a ratio of two estimates; host floats."""

    value: float
    """Infinite where the estimate of the denominator is not above zero."""
    interval: tuple[float, float]
    """Holds the true one with a nominal probability of ``confidence``; up to infinity where the denominator is not told
    from zero. The lower end is below zero where the numerator is not."""
    numerator: float
    numerator_error: float
    """The standard error, by the jackknife over the batches."""
    denominator: float
    """Unbiased, so it may be negative."""
    denominator_error: float


class NoiseScale(NamedTuple):
    """What :func:`noise_scale` found; host floats. It prints as a table."""

    simple: float
    """``tr(S) / |G|^2``, in examples; infinite where ``gradient_norm_squared`` is not above zero."""
    interval: tuple[float, float]
    """Holds the true one with a nominal probability of ``confidence``; its upper end is infinite where the gradient is
    not told from zero."""
    gradient_norm_squared: float
    """``|G|^2``, unbiased: the noise is subtracted, so it may be negative."""
    gradient_norm_squared_error: float
    trace_of_covariance: float
    """``tr(S)`` of the gradients of single examples, unbiased."""
    trace_of_covariance_error: float
    weighted: Ratio | None
    """``tr(H S) / G'HG`` in the same form, where it was asked for."""
    batches: int
    examples: int
    confidence: float

    def __repr__(self) -> str:
        cells = [["", "examples", "from", "to"], ["tr(S) / |G|^2", *_shown(self.simple, *self.interval)]]
        if self.weighted is not None:
            cells.append(["tr(H S) / G'HG", *_shown(self.weighted.value, *self.weighted.interval)])
        rows = [["", "value", "error"]]
        rows.append(["|G|^2", *_shown(self.gradient_norm_squared, self.gradient_norm_squared_error)])
        rows.append(["tr(S)", *_shown(self.trace_of_covariance, self.trace_of_covariance_error)])
        if self.weighted is not None:
            rows.append(["G'HG", *_shown(self.weighted.denominator, self.weighted.denominator_error)])
            rows.append(["tr(H S)", *_shown(self.weighted.numerator, self.weighted.numerator_error)])
        source = f"{self.batches} batches of {self.examples:,} examples, intervals of {self.confidence:.0%}"
        return "\n".join([aligned(cells), "", aligned(rows), "", source])


def _shown(*numbers: float) -> list[str]:
    return [f"{number:.4g}" for number in numbers]


@errors.checked_call
def noise_scale(
    loss: Loss,
    params: Any,
    batch: Any,
    *,
    with_hessian: bool = False,
    confidence: errors.Fraction = 0.95,
    where: Where | None = None,
) -> NoiseScale:
    """The gradient noise scale, the batch size at which noise and gradient are equally large::

        simple   = tr(S) / |G|^2         G the gradient, S the covariance of the gradients of single examples
        weighted = tr(H S) / (G' H G)    the same as the loss feels it, with the Hessian H

    A batch of ``B`` examples has a gradient of mean square ``|G|^2 + tr(S) / B``. Well below the noise scale, twice the
    batch size saves almost half of the updates; well above it saves nothing. From batches of ``n_b`` examples with
    gradients ``g_b``, K of them, of N examples in all and the mean ``g``, without bias::

        tr(S) = sum_b n_b |g_b - g|^2 / (K - 1)          |G|^2 = |g|^2 - tr(S) / N

    which for equal batches are the estimates from the two batch sizes ``n`` and ``N``. Errors are those of the
    jackknife that leaves out one batch at a time, and the interval is Fieller's: all ratios ``q`` with
    ``tr(S) - q |G|^2`` within Student's t of zero. Where the gradient is not told from zero, ``q`` has no upper end,
    and the interval says so.

    Args:
        loss: ``loss(params, batch) -> scalar`` or ``(scalar, anything)``, the mean over the batch. Examples that meet
            in a batch normalization are not independent, and what they share is then not counted.
        params: Any tree of real floating-point arrays.
        batch: A :class:`Dataset` of three batches or more, of any sizes; or one batch, which is cut into at most 32.
            They have to be random samples: data that come sorted have to be shuffled first. ``S`` and ``G`` are those
            of what the examples are drawn from.
        with_hessian: Form ``weighted`` too. ``H`` is that of all examples.
        confidence: The nominal probability of the intervals.
        where: Which leaves vary, by path; all by default.

    Two gradients of each batch, and three vectors like the parameters; with the Hessian K + 1 of its products besides.
    For the variance of batches drawn without replacement from finite data, at one batch size, there is
    ``training.gradient_noise``.

    Raises:
        BatchError: Fewer than three batches, or one batch that does not fall into examples.
        ArgumentRangeError: Loss or gradient is not finite.
        LossFormError, DtypeError, StructureError, SelectionError: As in :func:`classify`.

    Source: McCandlish et al. 2018, arXiv:1812.06162, equations 2.7 to 2.9 and appendix A.1; Quenouille 1956 and Tukey
    1958 for the jackknife; Fieller 1954 for the interval.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> loss = lambda w, batch: 0.5 * jnp.mean((w - batch) ** 2)  # the gradient of an example is w - x
    >>> found = curvature.noise_scale(loss, jnp.ones(()), jax.random.normal(jax.random.key(0), 4000))
    >>> found.interval[0] < 1.0 < found.interval[1]
    True
    """
    call = f"noise_scale({errors.show(loss)}, params, batch)"
    function, at = carried(call, loss), point(call, params, batch, where)
    at, mean = _in_parts(call, function, at)
    batches = len(at.data.batches)
    if batches < _LEAST:
        raise errors.BatchError(
            call,
            expected=f"at least {_LEAST} batches, or one batch of as many examples",
            got=f"{batches}",
            cause="how far gradients of batches differ cannot be told from fewer",
            fix="write curvature.dataset(list_of_batches)",
        )
    if not (math.isfinite(mean.value) and math.isfinite(vectors.norm(mean.gradient))):
        raise non_finite(call, "loss and gradient", at.tree(mean.gradient))
    operator = hessian_at(function, at) if with_hessian else None
    plain, weighted = _products(function, at, mean.gradient, operator)
    counts = np.asarray(at.data.examples, np.float64)
    simple = _ratio(*plain, counts, confidence)
    return NoiseScale(
        simple=simple.value, interval=(max(simple.interval[0], 0.0), simple.interval[1]),
        gradient_norm_squared=simple.denominator, gradient_norm_squared_error=simple.denominator_error,
        trace_of_covariance=simple.numerator, trace_of_covariance_error=simple.numerator_error,
        weighted=_ratio(*weighted, counts, confidence) if weighted is not None else None,
        batches=batches, examples=int(counts.sum()), confidence=float(confidence),
    )  # fmt: skip


def _in_parts(call: str, function: Any, at: Point) -> tuple[Point, Slope]:
    """The data as batches of known sizes, and the mean gradient; one batch is cut, if that leaves its gradient."""
    whole = slope(function, at)
    if len(at.data.batches) > 1:
        return at, whole
    cause, parts = "its arrays have no common leading axis", pieces(at.data, _PIECES)
    if parts is not None:
        cut = at._replace(data=parts)
        found = slope(function, cut)
        apart = vectors.norm(vectors.combine([1.0, -1.0], [found.gradient, whole.gradient]))
        if not apart > 1e-3 * (vectors.norm(whole.gradient) + found.error):
            return cut, found
        cause = "the mean over its pieces is another gradient: the loss is no mean over the leading axis"
    raise errors.BatchError(
        call,
        expected="a batch that falls into examples along its leading axis",
        got=errors.show(next(iter(at.data.batches))),
        cause=cause,
        fix="write curvature.dataset(list_of_batches, examples=lambda batch: ...)",
    )


_Products = tuple[np.ndarray, np.ndarray, float]
"""``d_b' A d_b`` and ``g' A d_b`` for each batch, with ``d_b = g_b - g``, and ``g' A g``."""


def _products(function: Any, at: Point, mean: Vector, operator: Operator | None) -> tuple[_Products, _Products | None]:
    """With the identity for ``A``, and with ``operator``. A second pass over the batches, so that nothing cancels."""
    curved = None if operator is None else multiply(operator, mean)
    rows = []
    for batch, examples in zip(at.data.batches, at.data.examples, strict=True):
        one = slope(function, at._replace(data=Dataset((batch,), (examples,)))).gradient
        away = vectors.combine([1.0, -1.0], [one, mean])
        row = [vectors.dot(away, away), vectors.dot(mean, away)]
        if operator is not None and curved is not None:
            row += [vectors.dot(away, multiply(operator, away)), vectors.dot(curved, away)]
        rows.append(row)
    columns = np.asarray(rows).T
    plain = columns[0], columns[1], vectors.dot(mean, mean)
    return plain, None if curved is None else (columns[2], columns[3], vectors.dot(mean, curved))


def _ratio(squares: np.ndarray, along: np.ndarray, whole: float, counts: np.ndarray, confidence: float) -> Ratio:
    """Noise over gradient, with what the jackknife says: without batch b the mean is ``g - n_b d_b / (N - n_b)``, and
    the sum of squares is less by ``N n_b / (N - n_b) |d_b|^2``."""
    batches, total = len(counts), float(counts.sum())
    left = total - counts
    sum_of_squares = float(counts @ squares)
    noise = sum_of_squares / (batches - 1)
    gradient = whole - noise / total
    noises = (sum_of_squares - total * counts / left * squares) / (batches - 2)
    gradients = whole - 2 * counts / left * along + (counts / left) ** 2 * squares - noises / left
    both = np.stack([noises, gradients])
    both = both - both.mean(axis=1, keepdims=True)
    covariance: np.ndarray = (batches - 1) / batches * (both @ both.T)
    spread = [math.sqrt(float(covariance[index, index])) for index in (0, 1)]
    value = noise / gradient if gradient > 0 else math.inf
    interval = _fieller(noise, gradient, covariance, student_factor(batches - 1, confidence))
    return Ratio(value, interval, noise, spread[0], gradient, spread[1])


def _fieller(over: float, under: float, covariance: np.ndarray, factor: float) -> tuple[float, float]:
    """All ``q`` with ``(over - q under)^2 <= factor^2 var(over - q under)``, which is ``a q^2 - 2 b q + c <= 0``.

    With ``a > 0`` they lie between two roots. Else ``under`` is not told from zero: there is no upper end, and the
    lower one is the larger root; where ``over`` is not told from zero either, there is none.
    """
    a = under**2 - factor**2 * float(covariance[1, 1])
    b = over * under - factor**2 * float(covariance[0, 1])
    c = over**2 - factor**2 * float(covariance[0, 0])
    if a > 0 and under <= 0:  # surely negative: by chance, or where the loss curves downwards along the gradient
        return math.inf, math.inf
    if a <= 0 and c <= 0:
        return -math.inf, math.inf
    root = math.sqrt(max(b * b - a * c, 0.0))
    low = c / (b + root) if b + root > 0 else (b - root) / a if a > 0 else math.inf
    return low, (b + root) / a if a > 0 else math.inf
