"""How far the loss rises around a point: at most in a box, along the gradient, and on average.

All of them depend on how the parameters are scaled, and on how small the loss is: a network and its rescaled twin
compute the same and differ here (Dinh et al. 2017, arXiv:1703.04933). Compare points of one network at equal loss, or
take the adaptive form.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.combinators.selecting import Where
from gradtx.curvature import vectors
from gradtx.curvature.differentiation import Vector
from gradtx.curvature.evaluating import Slope, slope, stepped, value_along
from gradtx.curvature.loss_form import Loss, carried
from gradtx.curvature.operators import Point, point
from gradtx.tree import widen

_HALVINGS = 6  # of a step into a corner, before an ascent counts as arrived
_FELT = 0.1  # a step that rounding changes by more than this share of itself measures the rounding


@errors.checked_call
def box_sharpness(
    loss: Loss,
    params: Any,
    batch: Any = None,
    *,
    key: Any,
    eps: errors.PositiveNumber = 1e-3,
    subspace: errors.Count | None = None,
    starts: errors.Count = 3,
    max_steps: errors.Count = 10,
    where: Where | None = None,
) -> float:
    """The largest rise of the loss in a small box around the parameters, in percent of ``1 + L``::

        100 (max_{y in C} L(w + A y) - L(w)) / (1 + L(w)),    C = {y : |y_i| <= eps (|(A^+ w)_i| + 1)}

    ``A`` is the identity, or with ``subspace=p`` a matrix of p Gaussian columns, for which p vectors like the
    parameters are held; ``A^+`` is its pseudo-inverse. The maximum is sought from the center and from random corners:
    each step goes to the corner that the gradient points at, or half the way, a quarter, ... until the loss rises
    (Frank and Wolfe 1956). On a convex loss it ends in a corner that no single step improves on. To find the highest
    corner is hard, so the result is a lower bound of the measure; more ``starts`` may raise it. It is never negative.

    Args:
        loss: ``loss(params, batch) -> scalar`` or ``(scalar, anything)``, the mean over the batch, above -1.
        params: Any tree of real floating-point arrays.
        batch: Any tree of arrays, None, or a :class:`Dataset`.
        key: A random key, for corners and columns.
        eps: Half the width of the box, relative to ``|w_i| + 1``.
        subspace: The number of random columns; the full space without it. Twice as many vectors are held while they
            are drawn.
        starts: Ascents: one from the center, the others from random corners.
        max_steps: Steps of each ascent, one to seven gradients each.
        where: Which leaves vary, by path; all by default.

    Returns:
        A host float; infinite or NaN where a loss in the box is.

    Raises:
        LossFormError, DtypeError, StructureError, SelectionError, BatchError: See :func:`classify`.
        ArgumentRangeError: The loss is -1 or less; the subspace is larger than the space; the box is so small that the
            parameters' dtype rounds it away.

    Source: Keskar et al. 2017, arXiv:1609.04836, equations 3 and 4 and metric 2.1; they maximize by ten iterations of
    L-BFGS-B.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> loss = lambda w, batch: jnp.sum(jnp.array([4.0, 1.0]) * w**2)
    >>> round(curvature.box_sharpness(loss, jnp.zeros(2), key=jax.random.key(0), eps=0.1), 4)  # 100 (4 + 1) 0.1^2
    5.0
    """
    call = f"box_sharpness({errors.show(loss)}, params, batch, eps={eps:g})"
    for_frame, for_starts = jax.random.split(vectors.check_key(call, key))
    function, at = carried(call, loss), point(call, params, batch, where)
    space = _whole(at, eps) if subspace is None else _random_subspace(for_frame, at, eps, subspace)
    _check_felt(at, space.move(space.widths), f"eps={eps:g}")

    def look(y: Vector) -> Slope:
        here = slope(function, at.moved(stepped(at, space.move(y), 1.0)))
        return here._replace(gradient=space.pull(here.gradient))

    center = tuple(map(jnp.zeros_like, space.widths))
    before = look(center).value
    if before <= -1:
        raise errors.ArgumentRangeError(
            call,
            expected="a loss above -1",
            got=f"{before:g}",
            cause="the rise is taken relative to 1 + L",
            fix="add a constant to the loss, such as the entropy of a log likelihood",
        )
    found = [_ascent(look, center, space.widths, max_steps)]
    for number in range(1, starts):
        corner = _corner(vectors.random(jax.random.fold_in(for_starts, number), center), space.widths, center)
        found.append(_ascent(look, corner, space.widths, max_steps))
    return float(100 * (np.max([before, *found]) - before) / (1 + before))


@errors.checked_call
def sam_sharpness(
    loss: Loss,
    params: Any,
    batch: Any = None,
    *,
    rho: errors.PositiveNumber = 0.05,
    adaptive: bool = False,
    where: Where | None = None,
) -> float:
    """The rise of the loss at a distance ``rho`` up the gradient, what sharpness-aware minimization looks at::

        L(w + rho g / |g|) - L(w)                     the rise in the ball |e| <= rho, to first order
        L(w + rho T^2 g / |T g|) - L(w)               adaptive, T = diag(|w|): in |T^-1 e| <= rho

    The adaptive one is the same for all networks that differ by rescaled layers only; ``w_i = 0`` stays where it is.
    Zero where the gradient is zero, also at a saddle. One gradient and two evaluations of the loss.

    Args:
        loss, params, batch, where: As in :func:`box_sharpness`.
        rho: The radius; for the adaptive form about ten times as large.
        adaptive: Whether each parameter's share is relative to its size.

    Raises:
        ArgumentRangeError: The step is so small that the parameters' dtype rounds it away.
        LossFormError, DtypeError, StructureError, SelectionError, BatchError: See :func:`classify`.

    Source: Foret et al. 2021, arXiv:2010.01412, equation 2; adaptive: Kwon et al. 2021, arXiv:2102.11600, algorithm 1.

    >>> import jax.numpy as jnp
    >>> from gradtx import curvature
    >>> loss = lambda w, batch: 0.5 * jnp.sum(w**2)
    >>> round(curvature.sam_sharpness(loss, jnp.array([3.0, 4.0]), rho=0.1), 4)  # (5.1^2 - 5^2) / 2
    0.505
    """
    call = f"sam_sharpness({errors.show(loss)}, params, batch, rho={rho:g})"
    function, at = carried(call, loss), point(call, params, batch, where)
    gradient = slope(function, at).gradient
    shrunk = _times_size(gradient, at.chosen) if adaptive else gradient
    length = vectors.norm(shrunk)
    if length == 0:
        return 0.0
    upwards = vectors.combine([rho / length], [_times_size(shrunk, at.chosen) if adaptive else gradient])
    _check_felt(at, upwards, f"rho={rho:g}")
    return value_along(function, at, upwards, 1.0) - value_along(function, at, upwards, 0.0)


class AverageSharpness(NamedTuple):
    """A mean over random directions, and its standard error (NaN from one draw); host floats."""

    mean: float
    error: float


@errors.checked_call
def average_sharpness(
    loss: Loss,
    params: Any,
    batch: Any = None,
    *,
    key: Any,
    sigma: errors.PositiveNumber = 1e-2,
    draws: errors.Count = 20,
    where: Where | None = None,
) -> AverageSharpness:
    """How far the loss rises on average under noise, ``E[L(w + sigma z)] - L(w)`` with ``z`` standard normal.

    About ``sigma^2 / 2`` times the trace of the Hessian, for small ``sigma``.

    Args:
        loss, params, batch, where: As in :func:`box_sharpness`.
        key: A random key.
        sigma: The standard deviation of the noise on each parameter.
        draws: How many directions are drawn; one evaluation of the loss each.

    Raises:
        ArgumentRangeError: The noise is so small that the parameters' dtype rounds it away.
        LossFormError, DtypeError, StructureError, SelectionError, BatchError: See :func:`classify`.

    Source: the expected sharpness of Neyshabur et al. 2017, arXiv:1706.08947.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> loss = lambda w, batch: 50 * jnp.sum(w**2)  # so the mean is 50 * 1,000 * 0.01^2 = 5
    >>> found = curvature.average_sharpness(loss, jnp.zeros(1000), key=jax.random.key(0))
    >>> abs(found.mean - 5) < 3 * found.error < 0.5
    True
    """
    call = f"average_sharpness({errors.show(loss)}, params, batch, sigma={sigma:g})"
    key = vectors.check_key(call, key)
    function, at = carried(call, loss), point(call, params, batch, where)
    rises, before = [], None
    for number in range(draws):
        noise = vectors.combine([sigma], [vectors.random(jax.random.fold_in(key, number), at.chosen)])
        if before is None:
            _check_felt(at, noise, f"sigma={sigma:g}")
            before = value_along(function, at, noise, 0.0)
        rises.append(value_along(function, at, noise, 1.0) - before)
    error = float(np.std(rises, ddof=1) / np.sqrt(draws)) if draws > 1 else float("nan")
    return AverageSharpness(float(np.mean(rises)), error)


class _Space(NamedTuple):
    """Coordinates ``y`` around a point: how far each may go, ``A y``, and ``A' g``."""

    widths: Vector
    move: Callable[[Vector], Vector]
    pull: Callable[[Vector], Vector]


def _whole(at: Point, eps: float) -> _Space:
    return _Space(_widths(tuple(map(widen, at.chosen)), eps), lambda y: y, lambda gradient: gradient)


def _random_subspace(key: jax.Array, at: Point, eps: float, count: int) -> _Space:
    if count > vectors.size(at.chosen):
        raise errors.ArgumentRangeError(
            at.call,
            expected=f"a subspace of at most {vectors.size(at.chosen)} dimensions, as many as parameters vary",
            got=f"subspace={count}",
            cause="more columns than rows are not independent",
            fix="write subspace=None for the full space",
        )
    drawn = [vectors.random(jax.random.fold_in(key, number), at.chosen) for number in range(count)]
    frame = tuple(jnp.stack(columns) for columns in zip(*drawn, strict=True))
    gram, coordinates = (np.asarray(array, np.float64) for array in _normal_equations(frame, at.chosen))
    inverse = np.linalg.lstsq(gram, coordinates)[0]  # A^+ w
    widths = _widths((jnp.asarray(inverse, frame[0].dtype),), eps)
    return _Space(widths, lambda y: vectors.placed(_spanned(frame, y[0]), at.chosen),
                  lambda gradient: (_inner_products(frame, gradient),))  # fmt: skip


def _ascent(look: Callable[[Vector], Slope], y: Vector, widths: Vector, max_steps: int) -> float:
    """The loss where steps into corners lead to; each is taken as far as the loss rises."""
    here = look(y)
    for _ in range(max_steps):
        corner = _corner(here.gradient, widths, y)
        if not np.isfinite(here.value) or vectors.dot(here.gradient, vectors.combine([1, -1], [corner, y])) <= 0:
            break
        for halving in range(_HALVINGS):
            share = 0.5**halving
            trial = vectors.combine([1 - share, share], [y, corner])
            there = look(trial)
            if not there.value <= here.value:  # higher, or NaN, which is to be seen
                break
        else:
            break
        y, here = trial, there
    return here.value


def _check_felt(at: Point, step: Vector, written: str) -> None:
    """Raises where the parameters cannot make the step because their dtype rounds it away."""
    wide = tuple(map(widen, at.chosen))
    moved = tuple(map(widen, stepped(at, step, 1.0)))
    missed = vectors.norm(vectors.combine([1.0, -1.0, -1.0], [moved, wide, step]))
    if missed <= _FELT * vectors.norm(step) or not np.isfinite(missed):
        return
    dtypes = " or ".join(sorted({str(leaf.dtype) for leaf in at.chosen}))
    raise errors.ArgumentRangeError(
        at.call,
        expected=f"a step that {dtypes} parameters can make",
        got=f"{written}, of which rounding changes {missed / vectors.norm(step):.0%}",
        cause="the step is smaller than the distance between neighbouring numbers",
        fix="write jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), or take a larger step",
    )


@jax.jit
def _widths(coordinates: Vector, eps: Any) -> Vector:
    return tuple(eps * (jnp.abs(leaf) + 1) for leaf in coordinates)


@jax.jit
def _corner(gradient: Vector, widths: Vector, y: Vector) -> Vector:
    """Where ``<gradient, .>`` is largest; coordinates that it does not depend on stay."""
    return tuple(
        jnp.where(slope == 0, old, jnp.sign(slope) * width)
        for slope, width, old in zip(gradient, widths, y, strict=True)
    )


@jax.jit
def _times_size(vector: Vector, w: Vector) -> Vector:
    return tuple(entry * jnp.abs(widen(leaf)) for entry, leaf in zip(vector, w, strict=True))


_exactly = functools.partial(jnp.tensordot, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _inner_products(frame: Vector, vector: Vector) -> jax.Array:
    """``A' v``, where each leaf of ``frame`` has the columns' number as its first axis."""
    return sum((_exactly(f, v, v.ndim) for f, v in zip(frame, vector, strict=True)), start=jnp.zeros(()))


@jax.jit
def _spanned(frame: Vector, y: jax.Array) -> Vector:
    return tuple(_exactly(y, f, 1) for f in frame)


@jax.jit
def _normal_equations(frame: Vector, w: Vector) -> tuple[jax.Array, jax.Array]:
    """``A'A`` and ``A'w``."""
    rows = [f.reshape(f.shape[0], -1) for f in frame]
    return sum((_exactly(r, r.T, 1) for r in rows), start=jnp.zeros(())), _inner_products(frame, tuple(map(widen, w)))
