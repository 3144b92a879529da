"""One step along a direction of negative curvature, as far as the loss goes down."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.curvature.evaluating import stepped, value_along
from gradtx.curvature.loss_form import Loss, carried
from gradtx.curvature.operators import point
from gradtx.curvature.verdict import Report
from gradtx.tree import check_same, squared_norm, widen

_PATIENCE = 4  # doublings without a lower loss, after which the search stops: a step 16 times as far
_DOUBLINGS = 80
_GOLDEN = (math.sqrt(5) - 1) / 2
_SECTIONS = 11  # the step is then known to a hundredth of itself


class EscapeInfo(NamedTuple):
    """What a step did; host numbers."""

    step: float
    """The length and sign of the step along the unit direction; 0 where none was taken."""
    loss_before: float
    loss_after: float
    predicted: float
    """What the curvature alone says of this step, ``L + t^2 u'Hu / 2``."""
    evaluations: int
    """Evaluations of the loss."""


def escape(loss: Loss, params: Any, report: Report, batch: Any) -> tuple[Any, EscapeInfo]:
    """Leaves a saddle: ``w + t u`` with the lowest loss found along both signs of the report's direction ``u``.

    The step starts where the predicted decrease ``t^2 |lambda| / 2`` stands out of the loss's rounding, doubles while
    the loss goes down, and ends with golden sections around the best. The loss never goes up; without curvature below
    ``-report.threshold`` the parameters come back as they are, and ``info.step`` is 0.

    Args:
        loss, params, batch: As in :func:`classify`.
        report: What :func:`classify` returned for these parameters.

    Returns:
        The new parameters, in the dtypes of the old, and :class:`EscapeInfo`.

    Raises:
        StructureError, ShapeError: The report is about other parameters.
        LossFormError, DtypeError, BatchError: As in :func:`classify`.

    Source: the curvilinear searches of Moré and Sorensen 1979, along the negative curvature only.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> loss = lambda w, batch: (1 - w[0] * w[1]) ** 2
    >>> report = curvature.classify(loss, jnp.zeros(2), None, key=jax.random.key(0))
    >>> params, info = curvature.escape(loss, jnp.zeros(2), report, None)
    >>> info.loss_before, round(info.loss_after, 4)
    (1.0, 0.0)
    """
    call = f"escape({errors.show(loss)}, params, report, batch)"
    if not isinstance(report, Report):
        raise errors.ArgumentTypeError(
            call,
            expected="report must be a Report",
            got=f"{type(report).__name__} {errors.show(report)}",
            cause="the arguments are in another order",
            fix="write report = curvature.classify(loss, params, batch, key=key)",
        )
    check_same(call, "report.direction", report.direction, "params", params)
    moves = jax.tree.map(_moves, report.direction)
    function, at = carried(call, loss), point(call, params, batch, moves)
    direction = tuple(
        widen(leaf) for leaf, hit in zip(jax.tree.leaves(report.direction), at.layout.mask, strict=True) if hit
    )

    values = {0.0: value_along(function, at, direction, 0.0)}

    def at_step(t: float) -> float:
        if t not in values:
            values[t] = value_along(function, at, direction, t)
        return values[t] if math.isfinite(values[t]) else math.inf

    before = at_step(0.0)
    best = 0.0
    if report.lambda_min < -report.threshold:
        first = _first_step(before, report.lambda_min, float(np.sqrt(squared_norm(at.chosen))))
        best = min((_doubled(at_step, sign * first) for sign in (1.0, -1.0)), key=at_step)
        best = _refined(at_step, best)
    after = at_step(best)
    predicted = before + report.lambda_min * best**2 / 2
    info = EscapeInfo(best, before, after, predicted, len(values))
    if best == 0.0:
        return params, info
    return at.layout.merge(stepped(at, direction, best), at.others), info


def _moves(leaf: Any) -> bool:
    return bool(jnp.any(leaf != 0))


def _first_step(value: float, curvature: float, length: float) -> float:
    eps = float(np.finfo(np.float32).eps)
    seen = math.sqrt(2 * 16 * eps * abs(value) / -curvature)
    return max(seen, eps * length, float(np.finfo(np.float32).tiny) ** 0.5)


def _doubled(f: Callable[[float], float], first: float) -> float:
    """The best of the steps ``first``, ``2 first``, ``4 first``, ...; 0 if none is better."""
    best, t, since = 0.0, first, 0
    for _ in range(_DOUBLINGS):
        if f(t) < f(best):
            best, since = t, 0
        else:
            since += 1
        if since >= _PATIENCE or not math.isfinite(f(t)):
            break
        t *= 2
    return best


def _refined(f: Callable[[float], float], best: float) -> float:
    """The best step that golden sections between half and twice the given one find."""
    low, high = best / 2, best * 2
    for _ in range(_SECTIONS if best else 0):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if f(left) <= f(right):
            high = right
        else:
            low = left
        best = min(best, left, right, key=f)
    return best
