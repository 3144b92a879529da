"""Numbers of your own, measured between two parts of a chain and kept in the state."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators.chaining import parts_by_name
from gradtx.core import (
    Counter,
    Functions,
    GradientTransformation,
    Nested,
    SignedScalar,
    first_step,
    next_step,
    record_of,
    transformation,
)
from gradtx.tree import strong, widen

Measure = Callable[[Any], Any]
"""``measure(updates)`` gives what is kept: a number, an array, or a tree of them."""

REPORTED_ELSEWHERE = (
    "loss", "examples", "gradient_norm", "update_norm", "parameter_norm", "update_ratio", "update_angle",
    "skipped_steps", "skipped_micro_batches", "loss_scale",
)  # fmt: skip


class MonitorState(NamedTuple):
    measured: SignedScalar  # by name, as the measures gave it
    inner: Nested
    foreign: SignedScalar  # of measures whose state does not say what its fields are


@transformation(locality="tree", kind="layers")
def monitor(measures: Mapping[str, Measure | GradientTransformation]) -> Functions:
    """Measures the updates that come by, and passes them on bit for bit::

        measured[name] = measures[name](u)

    A measure is a function of the tree of updates (in float32 or wider), or has a memory: :func:`measure_with_ema`, or
    any pair ``init(params) -> state``, ``update(updates, state, params) -> (measured, state)``. What it gives is of one
    structure, shape and dtype at every step; it is zeros before the first one. In a chain it sees what the parts before
    it made of the gradients.

    :func:`gradtx.metrics` reads the scalars, and a train step reports them; ``tree.get(state, name)`` gives one of
    them, whatever its shape.

    Raises ``ArgumentTypeError`` for what is no dict of functions, and ``SelectionError`` for a name that a train step
    reports itself.

    >>> import gradtx, jax.numpy as jnp
    >>> is_clipped = gradtx.measure_with_ema(lambda u: gradtx.global_norm(u) > 1.0, decay=0.5)
    >>> watched = gradtx.monitor({"norm_before": gradtx.global_norm, "share_clipped": is_clipped})
    >>> tx = gradtx.chain(watched, gradtx.clip_by_global_norm(1.0))
    >>> state = tx.init(jnp.zeros(2))
    >>> for gradient in (jnp.array([3.0, 4.0]), jnp.array([0.5, 0.0])):
    ...     _, state = tx.update(gradient, state)
    >>> {name: round(float(value), 3) for name, value in gradtx.metrics(state).items()}
    {'norm_before': 0.5, 'share_clipped': 0.333}
    """
    _check(measures)
    functions = {name: measure for name, measure in measures.items() if not isinstance(measure, tuple)}
    with_memory: dict[str, Any] = {name: measure for name, measure in measures.items() if isinstance(measure, tuple)}
    parts = dict(zip(with_memory, parts_by_name(with_memory.values()).items(), strict=True))
    foreign = [part_name for part_name, record in parts.values() if record.foreign]

    def measured(updates: Any, kept: Mapping[str, Any], params: Any) -> MonitorState:
        found: dict[str, Any] = {name: function(updates) for name, function in functions.items()}
        new = {}
        for name, (part_name, record) in parts.items():
            found[name], new[part_name] = record.tree.update(updates, kept[part_name], params, {})
        return state_of(jax.tree.map(jnp.asarray, {name: found[name] for name in measures}), new)

    def state_of(found: Any, kept: Mapping[str, Any]) -> MonitorState:
        own = {part_name: state for part_name, state in kept.items() if part_name not in foreign}
        return MonitorState(found, own, {part_name: kept[part_name] for part_name in foreign})

    def init(params: Any) -> MonitorState:
        kept = {part_name: record.tree.init(params) for part_name, record in parts.values()}
        kept = jax.tree.map(lambda leaf: strong(jnp.asarray(leaf)), kept)  # a foreign one may hold Python numbers
        like = jax.eval_shape(measured, params, kept, params).measured
        return state_of(jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), like), kept)

    def update(updates: Any, state: MonitorState, params: Any = None) -> tuple[Any, MonitorState]:
        return updates, measured(updates, {**state.inner, **state.foreign}, params)

    return init, update


@transformation
def snapshot(measure_name: str, measure: Measure) -> GradientTransformation:
    """:func:`monitor` with one measure: ``measured[measure_name] = measure(u)``.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.snapshot("norm_before", gradtx.global_norm), gradtx.clip_by_global_norm(1.0))
    >>> _, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
    >>> float(gradtx.tree.get(state, "norm_before"))
    5.0
    """
    return monitor({measure_name: measure})


class MeasureState(NamedTuple):
    step: Counter
    average: SignedScalar


@errors.checked
def measure_with_ema(
    measure: Measure,
    decay: Annotated[float, errors.Interval(0.0, 1.0, open_high=True, schedule=False)],
    debias: bool = True,
) -> GradientTransformation:
    """A measure for :func:`monitor`: the moving average of ``x = measure(u)``, in float32 or wider::

        m <- decay * m + (1 - decay) * x,   measured = m / (1 - decay^t),   t = 1, 2, ...

    Without ``debias`` it is ``m``. Averages are kept as they are reported, which is the same average written as
    ``m <- m + (1 - decay) / (1 - decay^t) * (x - m)``. Truth values count as 0 and 1. What is not finite stays visible
    in the average.

    Source: Kingma and Ba 2015, arXiv:1412.6980, section 3.
    """

    def of(updates: Any) -> Any:
        return jax.tree.map(_floating, measure(jax.tree.map(widen, updates)))

    def init(params: Any) -> MeasureState:
        like = jax.eval_shape(of, params)
        return MeasureState(first_step(), jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like))

    def update(updates: Any, state: MeasureState, params: Any = None) -> tuple[Any, MeasureState]:
        del params
        step = next_step(state.step)
        share = jnp.float32(1.0 - decay)
        if debias and decay > 0:
            share = share / -jnp.expm1(step * jnp.log(jnp.float32(decay)))
        average = jax.tree.map(lambda m, x: _moved(m, x, share), state.average, of(updates))
        return average, MeasureState(step, average)

    return GradientTransformation(init, update)


def _floating(value: Any) -> jax.Array:
    value = jnp.asarray(value)
    return value.astype(jnp.promote_types(value.dtype, jnp.float32))


def _moved(mean: jax.Array, x: jax.Array, share: jax.Array) -> jax.Array:
    """``m + share * (x - m)``; the products apart, or the difference of two finite numbers may overflow."""
    share = share.astype(mean.real.dtype)
    return (mean + (share * x - share * mean)).astype(mean.dtype)


def _check(measures: Any) -> None:
    write = 'write monitor({"norm_before": gradtx.global_norm})'
    if not isinstance(measures, Mapping):
        raise errors.ArgumentTypeError(
            errors.UNNAMED, expected="measures must be a dict from names to functions of the updates",
            got=f"{type(measures).__name__} {errors.show(measures)}", cause="a measure has no name", fix=write,
        )  # fmt: skip
    for name, measure in measures.items():
        if isinstance(measure, tuple):
            record_of(measure)  # refuses what is no pair of functions
        elif not isinstance(name, str) or not callable(measure):
            raise errors.ArgumentTypeError(
                errors.UNNAMED, expected="measures must map names to functions of the updates",
                got=f"{errors.show(name)}: {type(measure).__name__} {errors.show(measure)}",
                cause="a number was given where the function was meant", fix=write,
            )  # fmt: skip
        if name in REPORTED_ELSEWHERE:
            raise errors.SelectionError(
                errors.UNNAMED, expected="a name that a train step does not report itself", got=repr(name),
                cause="one of the two numbers would be lost", fix=f"rename it, e.g. {name + '_here'!r}",
            )  # fmt: skip
