"""Why the loss does not fall: what the steps promised, what they kept, and what the curvature says about the rest."""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from jax.tree_util import Partial

from gradtx import errors
from gradtx.curvature.differentiation import Vector
from gradtx.curvature.evaluating import slope, value_along
from gradtx.curvature.histories import columns_of
from gradtx.curvature.loss_form import Loss, carried
from gradtx.curvature.operators import Point, point
from gradtx.curvature.trends import Trend, trend
from gradtx.curvature.verdict import Report, classify
from gradtx.tables import aligned

Cause = Literal["saddle", "bouncing", "noise", "flat gradient", "converged", "progressing"]

_STEPS = 20  # the shortest history
_FIRST_STEPS = 10  # their median is where the loss came from, so that a spike at the start does not count
_WINDOW = (10, 200)  # steps that are looked at, by default a quarter of the history within these
_SURE = 4  # times a measured error: no trend below it
_SMALL = 0.01  # of what there is to lose, over the window: a change that counts
_PLAIN = 0.1  # the same: progress, whatever else goes on
_KEPT = 0.1  # of what the steps promised: below it, they are taken back
_OVERSHOOT = -0.5  # cosine of successive gradients, at which steps end beyond the lowest point of their line
_STRAIGHT = 1.0  # degrees from steepest descent: momentum alone makes the noise of successive gradients agree
_SMOOTH = 1e-3  # of what one step promises: a loss that fluctuates less has no noise in it
_ARRIVED = 1e-3  # of the largest gradient norm, where nothing better is known
_GAINED = 1e-3  # of all that was gained: less than that is not worth having any more
_EXPLAINED = 0.25  # of half a way down, that the second derivative has to account for
_FIRST = 1e-4  # of what there is to lose: what the first step along negative curvature should gain
_PATIENCE, _DOUBLINGS = 4, 60


class Evidence(NamedTuple):
    """One number, and the one that it is held against; host floats."""

    statistic: str
    value: float
    against: float
    """NaN where the number only informs."""
    says: str


class Diagnosis(NamedTuple):
    """What :func:`stuck` found. It prints as a table."""

    verdict: Cause
    reason: str
    """The verdict in a sentence."""
    evidence: tuple[Evidence, ...]
    missing: tuple[str, ...]
    """What would have made the verdict surer, and was not given; empty where it rests on all that it needs."""
    report: Report | None
    """What :func:`classify` said, where the curvature was looked at; :func:`escape` takes it."""

    def __repr__(self) -> str:
        cells = [["statistic", "value", "against", "says"]]
        for row in self.evidence:
            against = "" if math.isnan(row.against) else f"{row.against:.3g}"
            cells.append([row.statistic, f"{row.value:.3g}", against, row.says])
        lines = [f"{self.verdict}: {self.reason}", aligned(cells), *(f"missing: {what}" for what in self.missing)]
        return "\n".join(lines)


class _Seen(NamedTuple):
    """A history in the numbers that decide; those relative to what there is to lose have no unit."""

    window: int
    scale: float
    fallen: float
    gain: float
    error: float
    promised: float | None
    fluctuation: float
    alternation: float
    cosine: float | None
    agreed: float
    norm: float
    largest: float

    @property
    def sure(self) -> bool:
        return abs(self.gain) > _SURE * self.error

    @property
    def taken_back(self) -> bool:
        return self.promised is not None and self.gain < _KEPT * self.promised


@errors.checked_call
def stuck(
    history: Any,
    *,
    loss: Loss | None = None,
    params: Any = None,
    batch: Any = None,
    key: Any = None,
    learning_rate: errors.PositiveNumber | None = None,
    window: errors.Count | None = None,
    lowest: errors.Number = 0.0,
    max_products: errors.Count = 100,
) -> Diagnosis:
    """Says why the loss no longer falls, or that it does: neither a flat loss nor a small gradient tells alone.

    From the last ``window`` steps come three numbers, all relative to what there is to lose, ``s = L - lowest`` (but at
    least a thousandth of what was gained so far, so that the last digits do not count)::

        gain      = -(change of L by the median slope) / s             sure where above 4 of its standard errors
        promised  = sum_t |u_t| |g_t| cos(angle_t) / s                 what the steps promise to first order
        cosine    = median of cos(g_t, g_{t-1})

    The first line that holds decides:

    ===============  ===================================================================================================
    verdict          evidence
    ===============  ===================================================================================================
    "progressing"    gain above 10 %; or above 1 %, unless steps overshoot and keep less than a tenth of the promise
    "progressing"    half of a promise of at least 1 % is kept; or, where the loss is too noisy to tell, successive
                     gradients agree: promised times their mean cosine is above 1 %, and the mean cosine above 4
                     standard errors (and above 1/2 unless steps go straight against the gradient: momentum alone
                     makes noise agree)
    "bouncing"       promised at least 1 % and not kept, and steps overshoot: the cosine is below -1/2, or
                     ``learning_rate lambda_max / 2`` above 1; the loss rises; without a cosine, the loss alternates
                     from step to step (correlation below -1/2), or is too smooth for noise to take the promise back
    "noise"          promised at least 1 %, not kept, and steps do not overshoot; "progressing" where the gain over
                     twice the window is above 1 %
    "progressing"    promised below 1 %, but a step of ``1 / lambda_max`` would gain 1 %: not the slope is small, but
                     the rate
    "saddle"         promised below 1 %; along a direction of negative curvature the loss falls by 1 % or more, and
                     ``t^2 lambda_min / 2`` accounts for a quarter or more of the first half of it
    "flat gradient"  promised below 1 %; a way down of 1 % that second derivatives do not account for, along that
                     direction or the gradient; or no curvature at all
    "converged"      promised below 1 %, and no way down found
    ===============  ===================================================================================================

    Steps overshoot where they end beyond the lowest point of their line. On a parabola of curvature ``h`` that begins
    at ``rate h = 1``. There the cosine of successive gradients turns from 1 to -1 without noise, and is ``-rate h / 2 =
    -1/2`` for gradient descent at rest in noise.

    What is not given is said in ``missing``, and the nearest verdict comes back: without ``update_norm`` and
    ``update_angle`` (or ``learning_rate``) a gradient counts as small below a thousandth of its largest norm; without a
    loss, a small gradient is "converged" if the loss has fallen by a tenth, or the gradient to a thousandth, else "flat
    gradient". A saddle whose second derivatives vanish (three linear layers at zero) is a "flat gradient".

    Args:
        history: A list of metrics, one dict a step, as a train step with :func:`gradtx.watch` returns them; or a dict
            of columns. ``loss`` and ``gradient_norm`` are needed, at least 20 steps; ``update_norm``, ``update_angle``
            and ``gradient_cosine`` (:func:`gradient_cosine`) are used; others are not looked at.
        loss, params, batch, key: As in :func:`classify`, at the end of the history. The curvature is looked at unless
            the gain is above 10 %: at most ``max_products`` products, about two gradients each, one gradient, and a
            hundred or two evaluations of the loss.
        learning_rate: The rate of plain gradient descent: it gives the promise where updates were not watched, and the
            comparison with the curvature.
        window: Steps that are looked at; a quarter of the history by default, 10 to 200, and twice as many where those
            are too noisy to tell.
        lowest: What the loss cannot fall below.
        max_products: As in :func:`classify`.

    Raises:
        StructureError: A needed column is missing, or rows differ.
        ShapeError: Columns of different lengths.
        BatchError: Too few steps, or none, as from a generator that was used up.
        ArgumentRangeError: NaN, infinity, or a number that the column cannot hold; a window of more than half of it.
        ArgumentTypeError: No history, or only a part of ``loss``, ``params`` and ``key``; and as in :func:`classify`.

    Source: Theil 1950 and Sen 1968 for the slope; Cohen et al. 2021, arXiv:2103.00065, for ``2 / learning_rate``.

    >>> from gradtx import curvature
    >>> history = {"loss": [1.0] * 40, "gradient_norm": [5.0] * 40, "gradient_cosine": [-0.98] * 40}
    >>> diagnosis = curvature.stuck(history, learning_rate=0.1)
    >>> diagnosis.verdict, diagnosis.missing
    ('bouncing', ())
    """
    call = f"stuck({errors.show(history)})"
    columns = columns_of(call, history, _STEPS)
    given = _check_loss(call, loss, params, key)
    seen = _look(columns, learning_rate, _check_window(call, window, len(columns["loss"])), lowest)
    rows, missing = _rows(seen), []
    if seen.sure and seen.gain > _PLAIN:
        return _diagnosis("progressing", f"the loss fell by {seen.gain:.1%} in {seen.window} steps", rows)
    report = None
    if given:
        report = classify(loss, params, batch, key=key, max_products=max_products)  # pyright: ignore[reportArgumentType]
        rows.append(
            Evidence("smallest eigenvalue", report.lambda_min, -report.threshold, _sign(report.lambda_min, report))
        )
        rows.append(
            Evidence("largest eigenvalue", report.lambda_max, report.threshold, _sign(report.lambda_max, report))
        )
    edge = None
    if report is not None and learning_rate is not None:
        edge = learning_rate * report.lambda_max / 2
        rows.append(Evidence("rate lambda_max / 2", edge, 1.0, "steps overshoot" if edge > 1 else "stable"))

    falls = seen.sure and seen.gain > _SMALL
    overshoots = (seen.cosine is not None and seen.cosine < _OVERSHOOT) or (edge is not None and edge > 1)
    if falls and not (overshoots and seen.taken_back):
        if seen.cosine is None and edge is None:
            missing.append("gradient_cosine (curvature.gradient_cosine): whether most of each step is taken back")
        reason = f"the loss fell by {seen.gain:.1%} in {seen.window} steps"
        return _diagnosis("progressing", reason, rows, missing, report)
    if not overshoots and seen.agreed > _SMALL and seen.gain + _SURE * seen.error > _SMALL:
        reason = "successive gradients agree, on more than the loss shows through its noise"
        return _diagnosis("progressing", reason, rows, report=report)
    if seen.sure and seen.promised is not None and seen.promised >= _SMALL and seen.gain >= seen.promised / 2:
        return _diagnosis("progressing", "the loss falls slowly, as the steps promise", rows, report=report)

    small = _is_small(seen, report)
    if seen.promised is None:
        missing.append("update_norm and update_angle (gradtx.watch), or learning_rate: what the steps promise")
    if not small:
        longer = _look(columns, learning_rate, min(2 * seen.window, len(columns["loss"]) // 2), lowest)
        if not overshoots and window is None and longer.sure and longer.gain > _SMALL:
            rows.append(Evidence(f"gain in {longer.window} steps", longer.gain, _SMALL, "falls"))
            reason = f"the loss fell by {longer.gain:.1%} in {longer.window} steps; in fewer it is too noisy to tell"
            return _diagnosis("progressing", reason, rows, missing, report)
        return _moving(seen, overshoots, edge, rows, missing, report, learning_rate)
    if report is None:
        missing.append("loss, params, batch and key: saddle, flat gradient and converged differ in their curvature")
        if seen.fallen > _PLAIN or 0 < seen.norm <= _ARRIVED * seen.largest:
            return _diagnosis("converged", "loss or gradient fell before, and the gradient is small", rows, missing)
        return _diagnosis("flat gradient", "the gradient is small, and always was", rows, missing)
    assert loss is not None
    return _at_rest(call, seen, loss, params, batch, report, rows, missing)


def _moving(
    seen: _Seen, overshoots: bool, edge: float | None, rows: list[Evidence], missing: list[str], report: Report | None,
    learning_rate: float | None,
) -> Diagnosis:  # fmt: skip
    """The gradient is not small, and the loss does not fall."""
    if overshoots:
        return _diagnosis("bouncing", "steps overshoot, and the next takes back what one gains", rows, missing, report)
    if seen.sure and -seen.gain > _SMALL:
        return _diagnosis("bouncing", f"the loss rises, by {-seen.gain:.1%}: steps overshoot", rows, missing, report)
    if seen.cosine is not None or (edge is not None and edge < -_OVERSHOOT):
        reason = "the gradient is not small, and steps do not overshoot: noise moves them as far as it sets them back"
        return _diagnosis("noise", reason, rows, missing, report)
    missing.append("gradient_cosine (curvature.gradient_cosine): whether steps turn back")
    if report is None or learning_rate is None:
        missing.append("loss, params, batch, key and learning_rate: whether the rate is too large for the curvature")
    rows.append(Evidence("loss from step to step", seen.alternation, _OVERSHOOT, "correlation"))
    if seen.alternation < _OVERSHOOT:
        return _diagnosis("bouncing", "the loss goes up and down from step to step", rows, missing, report)
    if seen.promised is not None and seen.fluctuation < _SMOOTH * seen.promised / seen.window:
        return _diagnosis("bouncing", "the loss is smooth: no noise takes the promise back", rows, missing, report)
    return _diagnosis(
        "noise", "the loss fluctuates without a trend, and the gradient is not small", rows, missing, report
    )


def _at_rest(
    call: str, seen: _Seen, loss: Loss, params: Any, batch: Any, report: Report, rows: list[Evidence],
    missing: list[str],
) -> Diagnosis:  # fmt: skip
    """The gradient is small: is there a way down?"""
    safe = _safe_gain(report) / seen.scale
    rows.append(Evidence("gain of a step 1 / lambda_max", safe, _SMALL, "small" if safe < _SMALL else "not small"))
    critical = report.gradient_norm <= report.gradient_tolerance
    if not critical and safe >= _SMALL:
        reason = "the gradient is not small for the curvature: the rate is"
        return _diagnosis("progressing", reason, rows, missing, report)
    function, at = carried(call, loss), point(call, params, batch, None)
    if report.lambda_min < -report.threshold:
        first = math.sqrt(2 * _FIRST * seen.scale / -report.lambda_min)
        ways = [_way_down(function, at, at.vector("direction", report.direction), sign * first) for sign in (1.0, -1.0)]
        way = max(ways, key=lambda way: way.fall)
        fall = way.fall / seen.scale
        rows.append(Evidence("fall along negative curvature", fall, _SMALL, _way(fall)))
        if fall >= _SMALL:
            explained = -report.lambda_min * way.half_step**2 / 2 / way.half_fall
            rows.append(Evidence("half of it by t^2 lambda_min / 2", explained, _EXPLAINED, "share"))
            if explained >= _EXPLAINED:
                reason = "the gradient is small, and negative curvature leads down: curvature.escape takes the step"
                return _diagnosis("saddle", reason, rows, missing, report)
            reason = "there is a way down, but gradient and curvature here hardly show it"
            return _diagnosis("flat gradient", reason, rows, missing, report)
    if max(report.lambda_max, -report.lambda_min) <= report.threshold:
        return _diagnosis(
            "flat gradient", "neither slope nor curvature: higher derivatives decide", rows, missing, report
        )
    if not critical:
        first = -1 / max(report.lambda_max, -report.lambda_min)
        fall = _way_down(function, at, slope(function, at).gradient, first).fall / seen.scale
        rows.append(Evidence("fall along the gradient", fall, _SMALL, _way(fall)))
        if fall >= _SMALL:
            reason = "the gradient is small, and so is the curvature along it: it is a long way down"
            return _diagnosis("flat gradient", reason, rows, missing, report)
    return _diagnosis("converged", "the gradient is small, and no way down was found", rows, missing, report)


def _diagnosis(
    verdict: Cause, reason: str, rows: list[Evidence], missing: list[str] | None = None, report: Report | None = None
) -> Diagnosis:
    return Diagnosis(verdict, reason, tuple(rows), tuple(missing or ()), report)


def _look(columns: dict[str, np.ndarray], rate: float | None, window: int, lowest: float) -> _Seen:
    losses, norms = columns["loss"], columns["gradient_norm"]
    first, now = float(np.median(losses[:_FIRST_STEPS])), float(np.median(losses[-window:]))
    found: Trend = trend(losses[-window:])
    start = float(np.max(losses[:_FIRST_STEPS]))
    rounding = float(np.finfo(np.float32).eps) * float(np.max(np.abs(losses)))
    tiny = float(np.finfo(np.float32).tiny)
    scale = max(abs(now - lowest), _GAINED * (first - now), rounding, tiny)
    promise, straight = None, rate is not None
    if "update_norm" in columns and "update_angle" in columns:
        promise = columns["update_norm"] * norms * np.cos(np.radians(columns["update_angle"]))
        straight = float(np.median(columns["update_angle"][-window:])) < _STRAIGHT
    elif rate is not None:
        promise = rate * norms**2
    promised = None if promise is None else float(np.sum(promise[-window:])) / scale
    cosines = columns["gradient_cosine"][-window:] if "gradient_cosine" in columns else None
    return _Seen(
        window=window,
        scale=scale,
        fallen=(start - now) / max(abs(start - lowest), tiny),
        gain=-found.change / scale,
        error=found.error / scale,
        promised=promised,
        fluctuation=found.fluctuation / scale,
        alternation=found.correlation,
        cosine=None if cosines is None else float(np.median(cosines)),
        agreed=0.0 if promised is None or cosines is None else promised * _agreement(cosines, straight),
        norm=float(np.median(norms[-window:])),
        largest=float(np.max(norms)),
    )


def _agreement(cosines: np.ndarray, straight: bool) -> float:
    """The mean, or 0 where noise may have made it. Independent estimates of a gradient agree on the gradient alone.

    Momentum carries noise into the next gradients, but not more of it than there is gradient while it stands still.
    """
    mean = float(np.mean(cosines))
    sure = mean > _SURE * float(np.std(cosines)) / math.sqrt(len(cosines))
    return mean if sure and (straight or mean > -_OVERSHOOT) else 0.0


def _rows(seen: _Seen) -> list[Evidence]:
    trends = "no trend" if not seen.sure else "falls" if seen.gain > 0 else "rises"
    rows = [Evidence(f"gain in {seen.window} steps", seen.gain, _SMALL, trends)]
    if seen.promised is not None:
        kept = "small" if seen.promised < _SMALL else "taken back" if seen.taken_back else "kept"
        rows.append(Evidence("promised by these steps", seen.promised, _SMALL, kept))
    rows.append(Evidence("gradient norm", seen.norm, _ARRIVED * seen.largest, f"largest {seen.largest:.3g}"))
    rows.append(Evidence("fluctuation of the loss", seen.fluctuation, math.nan, "relative"))
    if seen.cosine is not None:
        turns = "steps turn back" if seen.cosine < _OVERSHOOT else "steps do not turn back"
        rows.append(Evidence("cosine of successive gradients", seen.cosine, _OVERSHOOT, turns))
    return rows


def _is_small(seen: _Seen, report: Report | None) -> bool:
    if seen.promised is not None:
        return seen.promised < _SMALL
    if report is not None:
        return report.gradient_norm <= report.gradient_tolerance or _safe_gain(report) < _SMALL * seen.scale
    return seen.norm <= _ARRIVED * seen.largest


def _safe_gain(report: Report) -> float:
    """What a step of 1 over the largest curvature gains at least: ``|g|^2 / (2 lambda)``."""
    largest = max(report.lambda_max, -report.lambda_min, report.threshold)
    return report.gradient_norm**2 / (2 * largest)


def _sign(value: float, report: Report) -> str:
    return "zero" if abs(value) <= report.threshold else "negative" if value < 0 else "positive"


def _way(fall: float) -> str:
    return "a way down" if fall >= _SMALL else "no way down"


class _Way(NamedTuple):
    fall: float
    half_step: float
    half_fall: float
    """At the first step that reaches half of the fall."""


def _way_down(loss: Partial, at: Point, direction: Vector, first: float) -> _Way:
    """How far the loss falls along a line, by steps that double while it does."""
    start = value_along(loss, at, direction, 0.0)
    step, falls = first, {}
    for _ in range(_DOUBLINGS):
        falls[step] = start - value_along(loss, at, direction, step)
        if not math.isfinite(falls[step]) or step / max(falls, key=falls.__getitem__) >= 2**_PATIENCE:
            break
        step *= 2
    finite = {step: fall for step, fall in falls.items() if math.isfinite(fall)}
    best = max(finite.values(), default=0.0)
    half = next((step for step, fall in finite.items() if fall >= best / 2), first)
    return _Way(best, half, finite.get(half, 0.0))


def _check_loss(call: str, loss: Any, params: Any, key: Any) -> bool:
    given = [name for name, value in (("loss", loss), ("params", params), ("key", key)) if value is not None]
    if given and len(given) < 3:
        raise errors.ArgumentTypeError(
            call,
            expected="loss, params and key together, or none of them",
            got=" and ".join(given),
            cause="the curvature is that of a loss at parameters, from a random start",
            fix="write stuck(history, loss=loss, params=params, batch=batch, key=jax.random.key(0))",
        )
    return bool(given)


def _check_window(call: str, window: int | None, steps: int) -> int:
    least, most = _WINDOW
    if window is None:
        return min(max(steps // 4, least), most)
    if not least <= window <= steps // 2:
        raise errors.ArgumentRangeError(
            call,
            expected=f"a window from {least} steps to {steps // 2}, half the history",
            got=str(window),
            cause="its trend is held against the steps before it",
            fix=f"write window={min(max(steps // 4, least), most)}",
        )
    return int(window)
