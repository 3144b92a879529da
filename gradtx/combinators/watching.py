"""Watching a transformation at work: norms, their ratio and their angle, kept in the state from step to step."""

import functools
import math
import operator
from collections import Counter as Tally
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx.combinators.monitoring import MonitorState
from gradtx.core import (
    GradientTransformation,
    Nested,
    Pair,
    SignedScalar,
    join,
    record_of,
    states_of,
    transformation,
)
from gradtx.tree import is_array, is_inexact, leaf_paths, summed_together, widen


class WatchState(NamedTuple):
    gradient_norm: SignedScalar
    update_norm: SignedScalar
    parameter_norm: SignedScalar
    update_ratio: SignedScalar
    update_angle: SignedScalar
    leaves: SignedScalar  # by path, with the five numbers of the leaf in one array
    inner: Nested


METRICS = WatchState._fields[:5]


@transformation
def watch(tx: GradientTransformation, *, per_leaf: bool = False) -> GradientTransformation:
    """``tx``, and what it did at the last update, from the gradients ``g`` that it got to its updates ``u``::

        gradient_norm  = ||g||
        update_norm    = ||u||
        parameter_norm = ||p||                    before the update; NaN if it was not given the parameters
        update_ratio   = ||u|| / ||p||            0 where ||p|| = 0
        update_angle   = angle between u and -g   in degrees; 90 where one of them is 0

    The updates are those of ``tx``, bit for bit; :func:`gradtx.metrics` reads the numbers. An angle of 0 is steepest
    descent, 90 goes along the contour line, more than 90 uphill. Norms are Euclidean, over all leaves, and with
    ``per_leaf`` also of each, kept in ``leaves`` by path. Integer leaves do not count.

    The numbers are float32 scalars, 0 before the first update. Norms are right from 1e-30 to the largest float32, to
    within 3e-5; an element smaller than 1e-30 counts as zero. An angle is right to within half a degree. Gradients,
    updates and parameters are read once more: the step of ``sgd`` moves 2 bytes more for a byte of parameters, with
    momentum 3, and that of ``adamw`` 5, as XLA's CPU backend then keeps its updates in memory. Inside ``shard_map``
    each device watches the part of the leaves that it has.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.watch(gradtx.sgd(0.5))
    >>> params = jnp.array([0.0, 10.0])
    >>> _, state = tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)
    >>> {name: round(float(value), 1) for name, value in gradtx.metrics(state).items()}
    {'gradient_norm': 5.0, 'update_norm': 2.5, 'parameter_norm': 10.0, 'update_ratio': 0.2, 'update_angle': 0.0}
    """
    record = record_of(tx)

    def init(params: Any) -> WatchState:
        zeros = {name: jnp.zeros((), jnp.float32) for name in METRICS}
        leaves = {path: jnp.zeros(len(METRICS), jnp.float32) for path, _ in _watched(params)} if per_leaf else {}
        return WatchState(**zeros, leaves=leaves, inner=record.tree.init(params))

    def update(updates: Any, state: WatchState, params: Any, signals: Any) -> tuple[Any, WatchState]:
        new_updates, inner = record.tree.update(updates, state.inner, params, signals)
        flat, treedef = jax.tree.flatten(new_updates)
        columns = [flat, jax.tree.leaves(updates)] + ([] if params is None else [jax.tree.leaves(params)])
        watched = _watched(updates if params is None else params)
        total, leaves = _no_sums(), {}
        for group in [[one] for one in watched] if per_leaf else _together(watched, columns[1]):
            passed, sums = _with_sums(*[[column[index] for _, index in group] for column in columns])
            for (path, index), update in zip(group, passed, strict=True):
                flat[index] = update
                leaves |= {path: _in_one_array(sums)} if per_leaf else {}
            total = _plus(total, sums)
        return treedef.unflatten(flat), WatchState(**_measured(total), leaves=leaves, inner=inner)

    return join({"inner": record}, Pair(init, update), kind="layers" if per_leaf else "")


def metrics(state: Any) -> dict[str, jax.Array]:
    """What every :func:`gradtx.watch` and :func:`gradtx.monitor` in a state saw at the last update: a flat dict.

    Looks into any container of states (a chain's, a ``TrainState``, Optax's). The values are float32 scalars; of what a
    monitor measures, only real scalars are read, by the names that it gives them. The names of a watch are
    ``gradient_norm``, ``update_norm``, ``parameter_norm``, ``update_ratio``, ``update_angle``, and with ``per_leaf``
    also those with the path of a leaf, ``gradient_norm/block/0/kernel``. If there are several watches, the path of each
    in the state stands before its names, ``encoder/gradient_norm`` in the branch ``encoder`` of a partition.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.watch(gradtx.clip_by_global_norm(1.0)), gradtx.watch(gradtx.adam(1e-3)))
    >>> sorted(gradtx.metrics(tx.init(jnp.zeros(2))))[:3]
    ['watch/gradient_norm', 'watch/parameter_norm', 'watch/update_angle']
    """
    watches = states_of(WatchState, state)
    found = {}
    for path, watched in watches:
        before = f"{path}/" if path and len(watches) > 1 else ""
        found |= {f"{before}{name}": getattr(watched, name) for name in METRICS}
        for leaf, of_leaf in watched.leaves.items():
            after = f"/{leaf}" if leaf else ""
            found |= {f"{before}{name}{after}": of_leaf[..., index] for index, name in enumerate(METRICS)}
    return found | _measured_by_monitors(state)


def _measured_by_monitors(state: Any) -> dict[str, jax.Array]:
    monitors = states_of(MonitorState, state)
    names = Tally(name for _, monitored in monitors for name in monitored.measured)
    found = {}
    for path, monitored in monitors:
        for name, value in monitored.measured.items():
            if is_array(value) and value.ndim == 0 and not jnp.iscomplexobj(value):
                before = f"{path}/" if path and names[name] > 1 else ""
                found[before + name] = value.astype(jnp.float32)
    return found


def _watched(tree: Any) -> list[tuple[str, int]]:
    """Path and number of the leaves that are measured: those of floating-point and complex numbers."""
    numbered = enumerate(zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True))
    return [(path, index) for index, (path, leaf) in numbered if is_inexact(widen(leaf))]


def _together(watched: list[tuple[str, int]], leaves: list[Any]) -> list[list[tuple[str, int]]]:
    groups = summed_together([jnp.asarray(leaves[index]) for _, index in watched])
    return [[watched[place] for place in group] for group in groups]


# ---------------------------------------------------------------------------------------------------------------------
# One pass over a leaf. Each sum is taken twice, of numbers scaled by powers of two: a sum of squares at the first scale
# is right for elements from 2^-101 and norms to 2^26, at the second for larger ones.

_SCALES = (2.0**38, 2.0**-75)


class _Sums(NamedTuple):
    """At one scale: ``|g|^2``, ``|u|^2``, the real part of ``<u, g>``, and ``|p|^2`` if the parameters are known."""

    gradient: Any
    update: Any
    product: Any
    parameter: Any = jnp.nan


def _no_sums() -> list[_Sums]:
    return [_Sums(*[jnp.zeros((), jnp.float32)] * len(_Sums._fields)) for _ in _SCALES]


def _plus(sums: list[_Sums], others: list[_Sums]) -> list[_Sums]:
    return jax.tree.map(operator.add, sums, others)


@jax.jit
def _with_sums(
    updates: list[jax.Array], gradients: list[jax.Array], params: list[jax.Array] | None = None
) -> tuple[list[jax.Array], list[_Sums]]:
    """The updates as they are, and the sums over these leaves, which have one shape."""
    terms = [_terms(*leaves) for leaves in zip(updates, gradients, params or [None] * len(updates), strict=True)]
    sums = _totals([functools.reduce(operator.add, column) for column in zip(*terms, strict=True)])
    half = len(sums) // 2
    at_scales = [_Sums(*sums[:half]), _Sums(*sums[half:])]
    # Always true, but the compiler does not know: so the sums are taken before these updates overwrite the parameters.
    # Otherwise XLA's CPU backend copies all parameters first, 2 bytes more for each of theirs.
    square = at_scales[0].gradient
    passes = (square >= 0) | jnp.isnan(square)
    return [jnp.where(passes, update, jnp.zeros_like(update)) for update in updates], at_scales


def _terms(update: jax.Array, gradient: jax.Array, param: jax.Array | None) -> list[jax.Array]:
    """What is added up for the fields of :class:`_Sums`, at both scales."""
    u, g, p = (_parts(jax.lax.stop_gradient(widen(x))) for x in (update, gradient, param))
    terms = []
    for scale in _SCALES:
        # Behind a barrier, or XLA may multiply the scales of a product first, and 2^-150 is 0.
        scale = jax.lax.optimization_barrier(jnp.float32(scale))
        scaled_u, scaled_g, scaled_p = ([part * scale for part in parts] for parts in (u, g, p))
        terms += [_product(scaled_g, scaled_g), _product(scaled_u, scaled_u), _product(scaled_u, scaled_g)]
        terms += [_product(scaled_p, scaled_p)] if p else []
    return terms


def _parts(x: jax.Array | None) -> list[jax.Array]:
    return [] if x is None else [x.real, x.imag] if jnp.iscomplexobj(x) else [x]


def _product(x: list[jax.Array], y: list[jax.Array]) -> jax.Array:
    """The terms of the real part of ``<x, y>``."""
    return functools.reduce(operator.add, map(operator.mul, x, y))


_LONG, _ROW = 4096, 256


def _totals(terms: list[jax.Array]) -> list[jax.Array]:
    """The sum of each of the arrays, which have one shape, in one pass over what they are made of.

    XLA's CPU backend adds up one number after the other, and all of 2^25 equal numbers would be 17 % too small. So a
    long array is cut into rows first: along the axis whose length is nearest to 256, so that sharded axes stay whole.
    """
    shape = terms[0].shape
    axes = tuple(range(len(shape)))
    if math.prod(shape) > _LONG:
        axis = min((a for a in axes if shape[a] > 1), key=lambda a: (abs(math.log(shape[a] / _ROW)), -a))
        if shape[axis] > _LONG:
            widths = [(0, -shape[a] % _ROW if a == axis else 0) for a in axes]
            cut = (*shape[:axis], -1, _ROW, *shape[axis + 1 :])
            terms, axis = [jnp.pad(term, widths).reshape(cut) for term in terms], axis + 1
        axes = (axis,)
    zeros = tuple(jnp.zeros((), term.dtype) for term in terms)
    rows = jax.lax.reduce(tuple(terms), zeros, lambda x, y: tuple(map(operator.add, x, y)), axes)
    return [jnp.sum(row) for row in rows]


@jax.jit
def _measured(sums: list[_Sums]) -> dict[str, jax.Array]:
    low, high = sums
    g, u, _, p = map(_length, low, high)
    ratio = jnp.where(p.norm == 0, 0.0, u.norm / jnp.maximum(p.norm, 1e-37 * u.norm))  # limited to 1e37
    at_low, at_high = _cosine(low, g.at_low, u.at_low), _cosine(high, g.at_high, u.at_high)
    cosine = jnp.where(jnp.isfinite(low.product), at_low, at_high)
    angle = jnp.degrees(jnp.arccos(jnp.clip(-cosine, -1.0, 1.0)))
    numbers = zip(METRICS, (g.norm, u.norm, p.norm, ratio, angle), strict=True)
    return {name: number.astype(jnp.float32) for name, number in numbers}


@jax.jit
def _in_one_array(sums: list[_Sums]) -> jax.Array:
    """The metrics of a leaf. (As five arrays, they take 10 ms for 400 leaves on XLA's CPU backend, instead of 5.)"""
    measured = _measured(sums)
    return jnp.stack([measured[name] for name in METRICS])


class _Length(NamedTuple):
    norm: jax.Array
    at_low: jax.Array
    at_high: jax.Array


def _length(low: jax.Array, high: jax.Array) -> _Length:
    """The norm from its squares at both scales, and what it is at each of them; a finite one is at most 3.4e38."""
    by_low, by_high, fits = jnp.sqrt(low), jnp.sqrt(high), jnp.isfinite(low)
    limit, step = float(jnp.finfo(jnp.float32).max) * _SCALES[1], _SCALES[0] / _SCALES[1]
    limited = jnp.where(jnp.isfinite(by_high), jnp.minimum(by_high, limit), by_high)
    norm = jnp.where(fits, by_low / _SCALES[0], limited / _SCALES[1])
    return _Length(norm, jnp.where(fits, by_low, by_high * step), jnp.where(fits, by_low / step, by_high))


def _cosine(sums: _Sums, g: jax.Array, u: jax.Array) -> jax.Array:
    return jnp.where(sums.product == 0, 0.0, sums.product / g / u)
