"""Where a point is: saddle, minimum, maximum or none of them, with the evidence.

Nothing is called a saddle out of rounding. Three errors are measured here and set the tolerances:

* of the gradient: its change at a point that differs by rounding, ``w_i (1 + eps)``, and the standard error of its mean
  over the examples;
* of a product: its change at that point, and the asymmetry that the Lanczos run saw;
* of an eigenvalue: the recomputed residual, and the bound on what the run may have missed.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from gradtx import errors
from gradtx.combinators.selecting import Where
from gradtx.curvature import vectors
from gradtx.curvature.datasets import pieces
from gradtx.curvature.differentiation import Vector
from gradtx.curvature.evaluating import Slope, slope
from gradtx.curvature.extremes import End, Memory, both_ends, converged
from gradtx.curvature.lanczos import Krylov, non_finite, ritz, tridiagonal
from gradtx.curvature.loss_form import Loss, carried
from gradtx.curvature.operators import Operator, Point, hessian_at, multiply, point
from gradtx.curvature.shares import probe_of, sign_shares

Verdict = Literal[
    "not critical", "flat gradient", "strict saddle", "strict minimum", "no negative curvature", "maximum", "undecided"
]

_SURE = 4  # times a measured error: nothing below it is told from zero
_TINY = float(np.finfo(np.float32).tiny)  # a threshold above the zeros of a function without curvature
_CONFIDENCE = 0.95  # of the intervals of the shares
_CHECKS = 4  # products besides the run: a residual for each end, one perturbed, one with the gradient


class Report(NamedTuple):
    """What :func:`classify` found; numbers are host floats. It prints as a table."""

    verdict: Verdict
    reason: str
    """The verdict in a sentence, with its numbers."""
    loss: float
    gradient_norm: float
    gradient_error: float
    """The standard error of the gradient's mean over the examples; NaN where the batch does not fall into examples."""
    gradient_tolerance: float
    """A gradient up to this norm is not told from zero: four times its rounding, or twice its standard error."""
    lambda_min: float
    lambda_min_interval: tuple[float, float]
    """The lower end holds with probability ``1 - delta``, the upper end always."""
    lambda_max: float
    lambda_max_interval: tuple[float, float]
    """The lower end holds always, the upper end with probability ``1 - delta``."""
    residuals: tuple[float, float]
    """Some eigenvalue lies within the first of ``lambda_min``, and one within the second of ``lambda_max``."""
    direction: Any
    """The unit vector of ``lambda_min``, a tree like the parameters; downhill to first order."""
    direction_max: Any
    """The unit vector of ``lambda_max``."""
    shares: tuple[float, float, float]
    """The shares of eigenvalues below ``-threshold``, between, and above ``threshold``."""
    share_intervals: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    """Where each share is: counted where the whole space was spanned, else at 95 % by the chance of one start."""
    threshold: float
    """Eigenvalues up to this size count as zero: what was asked for, but at least four times ``noise``."""
    noise: float
    """The rounding error of a product with a unit vector."""
    spectrum: tuple[np.ndarray, np.ndarray]
    """Ritz values, ascending, and the mass that the start vector has on each."""
    dimension: int
    products: int
    delta: float

    def __repr__(self) -> str:
        low, high = self.lambda_min_interval, self.lambda_max_interval
        rows = [
            ("verdict", self.verdict, self.reason),
            ("loss", f"{self.loss:.6g}", f"{self.dimension:,} parameters"),
            ("gradient norm", f"{self.gradient_norm:.3g}", _about_gradient(self)),
            (
                "lambda min",
                f"{self.lambda_min:.6g}",
                f"in [{low[0]:.6g}, {low[1]:.6g}], residual {self.residuals[0]:.1e}",
            ),
            (
                "lambda max",
                f"{self.lambda_max:.6g}",
                f"in [{high[0]:.6g}, {high[1]:.6g}], residual {self.residuals[1]:.1e}",
            ),
        ]
        for name, share, (a, b) in zip(
            ("negative", "near zero", "positive"), self.shares, self.share_intervals, strict=True
        ):
            rows.append((name, f"{share:.1%}", f"of the eigenvalues, in [{a:.1%}, {b:.1%}]"))
        rows.append(("threshold", f"{self.threshold:.3g}", f"rounding of a product {self.noise:.1e}"))
        rows.append(("products", f"{self.products}", f"probable bounds hold with probability {1 - self.delta:.6g}"))
        left, middle = (max(len(row[index]) for row in rows) for index in (0, 1))
        return "\n".join(f"{name:{left}}  {value:>{middle}}  {note}".rstrip() for name, value, note in rows)


def _about_gradient(report: Report) -> str:
    error = (
        "sampling error unknown" if math.isnan(report.gradient_error) else f"sampling error {report.gradient_error:.1e}"
    )
    return f"{error}, zero up to {report.gradient_tolerance:.1e}"


@errors.checked_call
def classify(
    loss: Loss,
    params: Any,
    batch: Any,
    *,
    key: Any,
    threshold: errors.NonNegativeNumber | None = None,
    max_products: errors.Count = 100,
    delta: errors.Fraction = 1e-3,
    where: Where | None = None,
    max_vectors: errors.Count | None = None,
    two_pass: bool = False,
) -> Report:
    """Tells what kind of point the parameters are, from products with the Hessian.

    ========================  =========================================================================================
    verdict                   evidence
    ========================  =========================================================================================
    "not critical"            the gradient is larger than its rounding and twice its standard error
    "flat gradient"           so it is, and ``|H g| <= threshold |g|``: it lies in the Hessian's kernel
    "strict saddle"           a direction ``u`` with ``u'Hu < -threshold``
    "maximum"                 every eigenvalue below ``-threshold``
    "strict minimum"          every eigenvalue above ``threshold``
    "no negative curvature"   a run that did not span everything saw nothing below ``-threshold``; how much lower an
                              eigenvalue may lie is the lower end of ``lambda_min_interval``
    "undecided"               the smallest eigenvalue was found to be zero: the second derivative does not tell
    ========================  =========================================================================================

    What is said about all eigenvalues holds with probability ``1 - delta`` (see :func:`extreme_eigenvalues`); that a
    strict saddle has negative curvature is certain up to rounding, which is measured.

    Args:
        loss: ``loss(params, batch) -> scalar`` or ``(scalar, anything)``, the mean over the batch. Of a training loss,
            :func:`frozen_loss`.
        params: Any tree of real floating-point arrays, or one array.
        batch: Any tree of arrays, None, or a :class:`Dataset`.
        key: A random key.
        threshold: Eigenvalues up to this size count as zero; a thousandth of the largest by default, and never
            less than four times the rounding error of a product.
        max_products: At most so many products with the Hessian, about two gradients each; as many vectors are held.
        delta: The probability that a bound is wrong.
        where: Which leaves vary, by path; all by default.
        max_vectors, two_pass: As in :func:`extreme_eigenvalues`, where memory is short.

    Raises:
        LossFormError: The loss returns no scalar, or takes other arguments.
        DtypeError, StructureError, SelectionError: A parameter is integer or complex, or there is none.
        ArgumentRangeError: Loss or derivatives are not finite here, or a number is out of range.
        ArgumentTypeError: A primitive cannot be differentiated twice; the message names it.
        BatchError: The batch is no tree of arrays.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> loss = lambda w, batch: (1 - w[0] * w[1]) ** 2
    >>> report = curvature.classify(loss, jnp.zeros(2), None, key=jax.random.key(0))
    >>> report.verdict, round(report.lambda_min, 3), round(report.lambda_max, 3), report.shares
    ('strict saddle', -2.0, 2.0, (0.5, 0.0, 0.5))
    """
    call = f"classify({errors.show(loss)}, params, batch)"
    memory = Memory(max_vectors, two_pass)
    budget = memory.budget(call, max_products, _CHECKS)
    for_start, for_rounding = jax.random.split(vectors.check_key(call, key))
    function, at = carried(call, loss), point(call, params, batch, where)
    here = slope(function, at)
    gradient_norm = vectors.norm(here.gradient)
    if not (np.isfinite(here.value) and np.isfinite(gradient_norm)):
        raise non_finite(call, "loss and gradient", at.tree(here.gradient))
    nearby = _nearby(at, for_rounding)
    gradient_error = _sampling_error(function, at, here)
    rounding = vectors.norm(vectors.combine([1.0, -1.0], [slope(function, nearby).gradient, here.gradient]))
    gradient_tolerance = max(_SURE * rounding, 0.0 if math.isnan(gradient_error) else 2 * gradient_error)
    critical = gradient_norm <= gradient_tolerance

    operator = hessian_at(function, at)
    start = vectors.random(for_start, at.chosen)
    found = _run(operator, memory.steps(operator, start, for_start), budget, threshold)
    smallest, largest, products = both_ends(operator, found, delta, start if two_pass else None)
    along = 0.0 if critical else vectors.norm(multiply(operator, here.gradient)) / gradient_norm
    dimension, spent = operator.dimension, operator.products
    del operator  # what it holds makes room for the same at the nearby point
    noise = _noise(function, nearby, for_rounding, found, (smallest, largest), products)
    size = max(abs(smallest.value), abs(largest.value))
    zero = max(1e-3 * size if threshold is None else float(threshold), _SURE * noise, _TINY)
    verdict, reason = _decide(critical, along, smallest, largest, zero, found.closed > 0, delta)
    probe = probe_of(found, dimension)
    shares, intervals = sign_shares([probe], dimension, zero, noise, _CONFIDENCE)
    return Report(
        verdict=verdict, reason=reason, loss=here.value, gradient_norm=gradient_norm, gradient_error=gradient_error,
        gradient_tolerance=gradient_tolerance,
        lambda_min=smallest.value, lambda_min_interval=(smallest.bound - noise, smallest.value + noise),
        lambda_max=largest.value, lambda_max_interval=(largest.value - noise, largest.bound + noise),
        residuals=(smallest.residual, largest.residual),
        direction=_downhill(smallest.direction, at, here.gradient), direction_max=largest.direction,
        shares=shares, share_intervals=intervals, threshold=zero, noise=noise, spectrum=_spectrum(found),
        dimension=dimension, products=spent + 1, delta=float(delta),
    )  # fmt: skip


def _run(operator: Operator, steps: Iterator[Krylov], budget: int, threshold: float | None) -> Krylov:
    """Products until the kind of point is plain: all of a small space, a converged negative end, or the budget."""
    small = operator.dimension <= budget
    found = None
    for found in steps:
        if found.products >= budget:
            break
        if small:
            continue
        values, _ = ritz(found)
        zero = 1e-3 * max(abs(values[0]), abs(values[-1])) if threshold is None else threshold
        if found.closed > 1 or (values[0] < -2 * zero and converged(found, 1e-7)):
            break
    assert found is not None
    return found


def _nearby(at: Point, key: jax.Array) -> Point:
    """The same point but for rounding; where all parameters are zero, of numbers around 1."""
    scale = vectors.norm(at.chosen) / math.sqrt(vectors.size(at.chosen))
    return at.moved(vectors.perturbed(key, at.chosen, scale or 1.0))


def _sampling_error(function: Partial, at: Point, here: Slope) -> float:
    """The standard error of the gradient's mean, from batches or from pieces of the one batch.

    A batch may be no list of examples, so the pieces have to give back the loss and gradient of the whole.
    """
    if len(at.data.batches) > 1:
        return here.error
    try:
        parts = pieces(at.data)
        cut = None if parts is None else slope(function, at._replace(data=parts))
    except Exception:  # a piece cannot be cut (explicit shardings) or the loss does not take it: no estimate, whatever
        cut = None
    if cut is None:
        return math.nan
    apart = vectors.norm(vectors.combine([1.0, -1.0], [cut.gradient, here.gradient]))
    is_mean = apart <= 1e-3 * (vectors.norm(here.gradient) + cut.error)
    return cut.error if is_mean and abs(cut.value - here.value) <= 1e-3 * abs(here.value) else math.nan


def _noise(
    function: Partial, nearby: Point, key: jax.Array, found: Krylov, ends: tuple[End, End],
    products: tuple[Vector, Vector],
) -> float:  # fmt: skip
    """How far a product with a unit vector is off: it is formed again with everything changed by rounding."""
    half = math.sqrt(0.5)
    mask = nearby.layout.mask
    units = [tuple(leaf for leaf, hit in zip(jax.tree.leaves(end.direction), mask, strict=True) if hit) for end in ends]
    vector = vectors.perturbed(jax.random.fold_in(key, 1), vectors.combine([half, half], units), 0.0)
    again = multiply(hessian_at(function, nearby), vector)
    change = vectors.norm(vectors.combine([1.0, -half, -half], [again, *products]))
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in nearby.chosen)
    return max(change, eps * max(abs(end.value) for end in ends), found.asymmetry)


def _decide(
    critical: bool, along: float, smallest: End, largest: End, zero: float, closed: bool, delta: float
) -> tuple[Verdict, str]:
    probably = f"with probability {1 - delta:.6g}"
    if not critical and along <= zero:
        return "flat gradient", f"the gradient is not zero, and the curvature along it is: {along:.2g}"
    if not critical:
        return "not critical", "the gradient is larger than its errors"
    if largest.bound < -zero:
        return "maximum", f"no eigenvalue above {largest.bound:.4g} {probably}"
    if smallest.value < -zero:
        return "strict saddle", f"the curvature along `direction` is {smallest.value:.4g}"
    if smallest.bound > zero:
        return "strict minimum", f"no eigenvalue below {smallest.bound:.4g} {probably}"
    if closed:
        return "undecided", f"the smallest eigenvalue is zero up to {zero:.2g}: higher derivatives decide"
    if math.isfinite(smallest.bound):
        return "no negative curvature", f"none below {smallest.bound:.4g} {probably}"
    return "undecided", "too few products to say anything about all eigenvalues"


def _spectrum(found: Krylov) -> tuple[np.ndarray, np.ndarray]:
    values, columns = np.linalg.eigh(tridiagonal(found))
    return values, columns[0] ** 2


def _downhill(direction: Any, at: Point, gradient: Vector) -> Any:
    leaves = [leaf for leaf, hit in zip(jax.tree.leaves(direction), at.layout.mask, strict=True) if hit]
    return jax.tree.map(jnp.negative, direction) if vectors.dot(tuple(leaves), gradient) > 0 else direction
