"""How far to go along a direction: searches that evaluate the loss at trial steps, inside the compiled update."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import (
    Counter,
    Functions,
    GradientTransformation,
    Pair,
    PositionTree,
    SignedScalar,
    apply_updates,
    first_step,
    join,
    record_of,
    states_of,
    transformation,
)
from gradtx.transforms.signals import loss_of, one_number
from gradtx.transforms.whole_trees import wide_zero
from gradtx.tree import check_same, widen

Share = Annotated[errors.Scalar, errors.Interval(0.0, 1.0, open_low=True, open_high=True)]
Growth = Annotated[errors.Scalar, errors.Interval(1.0)]


class LinesearchState(NamedTuple):
    """State of both searches. ``value`` and ``grad`` belong to the new parameters, once ``evaluations`` is not 0."""

    learning_rate: SignedScalar
    value: SignedScalar
    grad: PositionTree
    evaluations: Counter


class Point(NamedTuple):
    """A point on the line: its step, and the loss, its slope and its gradient there."""

    t: jax.Array
    value: jax.Array
    slope: jax.Array
    grad: Any


class Bound(NamedTuple):
    """The other end of an interval, whose gradient nobody needs."""

    t: jax.Array
    value: jax.Array
    slope: jax.Array


class Bracket(NamedTuple):
    low: Point
    high: Bound
    bracketed: jax.Array
    done: jax.Array


Along = Callable[[jax.Array], Point]
Search = Callable[[Along, Point, jax.Array], tuple[Point, jax.Array, jax.Array]]


def bound(point: Point) -> Bound:
    return Bound(point.t, point.value, point.slope)


def choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def like(start: Point, point: Point) -> Point:
    """A point in the dtypes of the first one, so that a loop may carry it."""
    return jax.tree.map(lambda a, b: a.astype(b.dtype), point, start)


def between(low: Point, high: Bound) -> jax.Array:
    """The minimum of the cubic through both ends, at least a tenth of the interval away from either.

    In units of the interval, so that nothing overflows where the result does not. The middle where there is no cubic;
    near ``low`` where the loss at the high end is infinite or NaN.
    """
    width = high.t - low.t
    s_low, s_high = low.slope * width, high.slope * width
    d1 = s_low + s_high - 3.0 * (high.value - low.value)
    size = jnp.maximum(jnp.maximum(jnp.abs(s_low), jnp.abs(s_high)), jnp.abs(d1))
    size = jnp.where(size > 0, size, 1.0)
    a, b, c = s_low / size, s_high / size, d1 / size
    square = c * c - a * b
    d2 = jnp.sqrt(jnp.maximum(square, 0.0))
    divisor = b - a + 2.0 * d2
    share = 1.0 - (b + d2 - c) / jnp.where(divisor == 0, 1.0, divisor)
    share = jnp.where((square >= 0) & (divisor != 0) & jnp.isfinite(share), jnp.clip(share, 0.1, 0.9), 0.5)
    share = jnp.where(jnp.isfinite(high.value), share, 0.1)
    return low.t + share * width


@transformation
def scale_by_backtracking_linesearch(
    max_backtracking_steps: errors.Count,
    slope_rtol: Share = 1e-4,
    decrease_factor: Share = 0.8,
    increase_factor: Growth = 1.5,
    max_learning_rate: errors.Positive = 1.0,
    atol: errors.NonNegative = 0.0,
    rtol: errors.NonNegative = 0.0,
    store_grad: bool = False,
) -> GradientTransformation:
    """``u = t g`` for a direction ``g``, with the first ``t`` of a falling sequence that lowers the loss enough::

        L(p + t g) <= L(p) + slope_rtol t <gradient, g> + atol + rtol |L(p)|

    ``t`` starts at ``min(increase_factor t_last, max_learning_rate)`` and is multiplied by ``decrease_factor`` at most
    ``max_backtracking_steps`` times. If none is enough the last one is taken where it lowers the loss at all, and 0
    elsewhere. A loss that is NaN or infinite is not low. ``g`` points downhill, so the part stands at the end of a
    chain: ``chain(sgd(1.0), scale_by_backtracking_linesearch(20))``.

    Signals: ``value`` and ``grad``, loss and gradient at ``p``, and ``value_fn``, the loss as a function of the
    parameters. It is evaluated where :func:`gradtx.apply_updates` will put the parameters, rounded to their dtypes. The
    state keeps the loss there, and with ``store_grad`` the gradient, each trial's taken with its value:
    :func:`value_and_grad_from_state` hands them to the next step, which then costs no evaluation of its own.

    From Optax differ: ``rtol |L|`` for ``rtol L``, which tightens the condition where the loss is negative; the step 0
    where nothing lowers the loss; ``increase_factor`` is a number (a large one, 1e6, starts every search at
    ``max_learning_rate``); no ``verbose``. State: with ``store_grad`` one number per parameter.

    Source: Nocedal and Wright 2006, Numerical Optimization, algorithm 3.1 and equation 3.4.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.sgd(1.0), gradtx.scale_by_backtracking_linesearch(20, decrease_factor=0.5))
    >>> loss = lambda p: 5.0 * jnp.sum(p**2)
    >>> params = jnp.array([1.0])
    >>> value, grad = jax.value_and_grad(loss)(params)
    >>> updates, _ = tx.update(grad, tx.init(params), params, value=value, grad=grad, value_fn=loss)
    >>> updates.tolist()                                    # t = 1, 1/2, 1/4, 1/8 of the direction -10
    [-1.25]
    """

    def search(along: Along, start: Point, last: jax.Array) -> tuple[Point, jax.Array, jax.Array]:
        slope = jnp.minimum(start.slope, 0.0)
        allowed = start.value + atol + rtol * jnp.abs(start.value)

        def low(point: Point) -> jax.Array:
            return (point.value <= allowed + slope_rtol * point.t * slope) & jnp.isfinite(point.value)

        def shorter(carry: tuple[Point, jax.Array]) -> tuple[Point, jax.Array]:
            point, count = carry
            return like(start, along(decrease_factor * point.t)), count + 1

        def goes_on(carry: tuple[Point, jax.Array]) -> jax.Array:
            return ~low(carry[0]) & (carry[1] <= max_backtracking_steps)

        first = like(start, along(jnp.minimum(increase_factor * last, max_learning_rate)))
        point, count = jax.lax.while_loop(goes_on, shorter, (first, jnp.ones((), jnp.int32)))
        taken = low(point) | (point.value < start.value)
        return choose(taken, point, start), point.t, count

    return _searching(search, store_grad)


@transformation
def scale_by_zoom_linesearch(
    max_linesearch_steps: errors.Count,
    max_learning_rate: errors.Positive | None = None,
    tol: errors.NonNegative = 0.0,
    increase_factor: Growth = 2.0,
    slope_rtol: Share = 1e-4,
    curv_rtol: Share = 0.9,
    approx_dec_rtol: errors.NonNegative | None = 1e-6,
    stepsize_precision: errors.NonNegative = 1e-5,
    initial_guess_strategy: Literal["keep", "one"] = "keep",
) -> GradientTransformation:
    """``u = t g`` for a direction ``g``, with a ``t`` that satisfies the strong Wolfe conditions::

        f(t) <= f(0) + slope_rtol t f'(0) + tol,    |f'(t)| <= curv_rtol |f'(0)| + tol,    f(t) = L(p + t g)

    ``t`` starts at the last one (``"keep"``) or at 1 (``"one"``) and grows by ``increase_factor``, up to
    ``max_learning_rate``, until an interval must hold a solution; that is narrowed by cubic interpolation. Where the
    loss is so flat that its rounding hides the decrease, ``approx_dec_rtol`` accepts by slopes alone::

        f(t) <= f(0) + approx_dec_rtol |f(0)|,    curv_rtol f'(0) <= f'(t) <= (2 slope_rtol - 1) f'(0)

    After ``max_linesearch_steps`` evaluations, or in an interval below ``stepsize_precision`` of the step, the lowest
    point found that satisfies the first condition is taken; without one, the step 0, as for a direction that is not
    downhill. A loss that is NaN or infinite bounds the interval, so the search goes on below it. ``max_learning_rate``
    is taken where the loss still falls there.

    Signals and state as in :func:`scale_by_backtracking_linesearch` with ``store_grad``: every evaluation gives value
    and gradient, and where the first trial is good no loop runs. From Optax differ: the step 0 where nothing lowers
    the loss, in which Optax takes the step of the lowest error; no ``verbose``. State: one number per parameter.

    Source: Nocedal and Wright 2006, Numerical Optimization, algorithms 3.5 and 3.6, equation 3.59; Hager and Zhang
    2005, SIAM Journal on Optimization 16(1), equation 2.4 and condition T2 (the approximate condition).

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.sgd(1.0), gradtx.scale_by_zoom_linesearch(20))
    >>> loss = lambda p: 5.0 * jnp.sum(p**2)
    >>> params = jnp.array([1.0])
    >>> value, grad = jax.value_and_grad(loss)(params)
    >>> updates, _ = tx.update(grad, tx.init(params), params, value=value, grad=grad, value_fn=loss)
    >>> updates.round(4).tolist()                           # a cubic through a parabola finds its minimum at once
    [-1.0]
    """

    def search(along: Along, start: Point, last: jax.Array) -> tuple[Point, jax.Array, jax.Array]:
        largest = jnp.inf if max_learning_rate is None else max_learning_rate
        slope_bound = curv_rtol * jnp.abs(start.slope) + tol
        flat = jnp.inf if approx_dec_rtol is None else approx_dec_rtol * jnp.abs(start.value)

        def low(point: Point) -> jax.Array:
            bound = start.value + slope_rtol * point.t * start.slope + tol
            return (point.value <= bound) & jnp.isfinite(point.value)

        def good(point: Point) -> jax.Array:
            wolfe = low(point) & (jnp.abs(point.slope) <= slope_bound)
            if approx_dec_rtol is None:
                return wolfe
            level = (point.value <= start.value + flat) & jnp.isfinite(point.value)
            falls = (curv_rtol * start.slope <= point.slope) & (point.slope <= (2 * slope_rtol - 1) * start.slope)
            return wolfe | (level & falls)

        def narrowed(low_end: Point, high_end: Bound, bracketed: jax.Array, point: Point) -> Bracket:
            """Algorithms 3.5 and 3.6 in one: before there is a high end, it is as if it lay infinitely far ahead."""
            bad = ~low(point) | (point.value >= low_end.value)
            ahead = jnp.where(bracketed, high_end.t - low_end.t, 1.0)
            turned = point.slope * ahead >= 0
            high_end = choose(bad, bound(point), choose(turned, bound(low_end), high_end))
            at_limit = ~bad & ~bracketed & ~turned & (point.t >= largest)
            done = good(point) | at_limit
            low_end = choose(done | ~bad, point, low_end)
            bracketed = bracketed | bad | turned
            tight = bracketed & (jnp.abs(high_end.t - low_end.t) <= stepsize_precision * jnp.maximum(point.t, 0.0))
            return Bracket(low_end, high_end, bracketed, done | tight)

        def trial(carry: tuple[Bracket, jax.Array, jax.Array]) -> tuple[Bracket, jax.Array, jax.Array]:
            bracket, count, t = carry
            farther = jnp.minimum(increase_factor * t, largest)
            t = jnp.where(bracket.bracketed, between(bracket.low, bracket.high), farther)
            point = like(start, along(t))
            return narrowed(bracket.low, bracket.high, bracket.bracketed, point), count + 1, t

        def goes_on(carry: tuple[Bracket, jax.Array, jax.Array]) -> jax.Array:
            return ~carry[0].done & (carry[1] < max_linesearch_steps)

        t = jnp.minimum(last if initial_guess_strategy == "keep" else jnp.ones_like(last), largest)
        downhill = start.slope < 0
        first = like(start, along(t))
        bracket = narrowed(start, bound(start), jnp.zeros((), bool), first)
        bracket = bracket._replace(done=bracket.done | ~downhill)
        bracket, count, _ = jax.lax.while_loop(goes_on, trial, (bracket, jnp.ones((), jnp.int32), t))
        point = choose(downhill, bracket.low, start)
        return point, jnp.where(point.t > 0, point.t, t), count

    return _searching(search, True)


@transformation
def _searching(search: Search, store_grad: bool) -> GradientTransformation:
    """The transformation that goes along the updates as far as ``search`` says."""
    record = record_of(searched(search, store_grad))

    def update(updates: Any, state: Any, params: Any, signals: Mapping[str, Any]) -> tuple[Any, Any]:
        """The loss and its gradient are those of the parameters as they will be, in their own dtypes."""
        loss = loss_of(signals["value_fn"], params)

        def evaluate(at: Any) -> tuple[jax.Array, Any]:
            if not store_grad:
                return loss(at), None
            value, backwards = jax.vjp(loss, at)
            (grad,) = backwards(jnp.ones_like(value))  # jax.grad fails outside jit on explicit meshes
            return value, grad

        given = {**signals, "value_fn": lambda step: evaluate(apply_updates(params, step))}
        return record.tree.update(updates, state, params, given)

    own = ["value", "grad", "value_fn"]
    return join({}, Pair(record.tree.init, update), own_params=True, own_signals=own)


@transformation(locality="tree", real=True)
def searched(search: Search, store_grad: bool) -> Functions:
    def init(params):
        zero = wide_zero(params)
        grad = jax.tree.map(jnp.zeros_like, params) if store_grad else None
        return LinesearchState(zero + 1.0, zero, grad, first_step())

    def update(updates, state, *, value, grad, value_fn):
        zero = jnp.zeros_like(state.learning_rate)

        def slope(grad):
            products = [jnp.sum(g * u) for g, u in zip(*map(jax.tree.leaves, (grad, updates)), strict=True)]
            return sum(products, start=zero)

        def along(t):
            value, grad = value_fn(jax.tree.map(lambda u: t.astype(u.dtype) * u, updates))
            grad = jax.tree.map(widen, grad)
            return Point(t, value, slope(grad) if store_grad else zero, grad)

        check_same(errors.UNNAMED, "the signal grad", grad, "the updates", updates)
        grad = jax.tree.map(widen, grad)
        kept = jax.tree.map(lambda g, old: g.astype(old.dtype), grad, state.grad) if store_grad else None
        start = Point(zero, one_number("value", value).astype(zero.dtype), slope(grad).astype(zero.dtype), kept)
        point, learning_rate, evaluations = search(along, start, state.learning_rate)
        updates = jax.tree.map(lambda u: point.t.astype(u.dtype) * u, updates)
        return updates, LinesearchState(learning_rate, point.value, point.grad, evaluations)

    return init, update


def value_and_grad_from_state(value_fn: Callable[..., Any]) -> Callable[..., tuple[jax.Array, Any]]:
    """``(params, *args, state, **kwargs) -> (value, grad)``: those that a line search kept, or newly evaluated ones.

    A search ends with loss and gradient at the new parameters, which the next step begins with. ``state`` is that of
    the optimizer; before its first update ``value_fn`` is evaluated at ``params``. The loss must be the same function
    at every step: with a new batch take the gradient anew. The search must be the last part of its chain.

    Raises ``StructureError`` where ``state`` holds no gradient of a line search.

    >>> import gradtx, jax.numpy as jnp
    >>> loss = lambda p: jnp.sum((p - 3.0) ** 2)
    >>> tx = gradtx.lbfgs()
    >>> params = jnp.zeros(2)
    >>> state, value_and_grad = tx.init(params), gradtx.value_and_grad_from_state(loss)
    >>> for _ in range(4):
    ...     value, grad = value_and_grad(params, state=state)
    ...     updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
    ...     params = gradtx.apply_updates(params, updates)
    >>> params.round(4).tolist()
    [3.0, 3.0]
    """

    def value_and_grad(params: Any, *args: Any, state: Any, **kwargs: Any) -> tuple[jax.Array, Any]:
        kept = [part for _, part in states_of(LinesearchState, state) if part.grad is not None]
        if not kept:
            raise errors.StructureError(
                "value_and_grad_from_state",
                expected="a state in which a line search keeps a gradient",
                got=f"a {type(state).__name__}",
                cause="the optimizer has no line search, or one that does not store gradients",
                fix="write scale_by_zoom_linesearch(20) or scale_by_backtracking_linesearch(20, store_grad=True)",
            )
        state = kept[-1]

        def evaluated() -> tuple[jax.Array, Any]:
            value, grad = jax.value_and_grad(value_fn)(params, *args, **kwargs)
            return jax.tree.map(lambda new, old: new.astype(old.dtype), (value, grad), (state.value, state.grad))

        return jax.lax.cond(state.evaluations > 0, lambda: (state.value, state.grad), evaluated)

    return value_and_grad
