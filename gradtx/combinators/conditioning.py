"""A transformation that is called at some steps only."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.combinators.holding import only_if
from gradtx.core import (
    Counter,
    GradientTransformation,
    Nested,
    Pair,
    first_step,
    join,
    next_step,
    record_of,
    transformation,
)
from gradtx.tree import widen


class ConditionalState(NamedTuple):
    step: Counter
    inner: Nested


Condition = Callable[..., Any]
"""``step -> bool``, a scalar; with ``forward_extra_args`` it gets the signals of ``update`` too, by name."""


@transformation
def conditionally_transform(
    inner: GradientTransformation, should_transform_fn: Condition, forward_extra_args: bool = False
) -> GradientTransformation:
    """``inner`` at the steps where ``should_transform_fn(step)``; at the others updates pass on unchanged.

    ``step`` is an int32 scalar, the calls of ``update`` before this one. At the other steps the state of ``inner``
    stays as it is, its counters too. With ``forward_extra_args`` the function gets the signals of ``update`` by name.
    Matrix products and loops in ``inner`` are not computed at the other steps; for elementwise work a branch would move
    more bytes than it saves, and there is none. Names, order and meaning as ``optax.conditionally_transform``.

    Raises ``ArgumentTypeError`` if the condition is not callable, or does not give one boolean.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.conditionally_transform(gradtx.scale(10.0), lambda step: step % 2 == 1)
    >>> state = tx.init(jnp.zeros(1))
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.ones(1), state)
    ...     print(updates.tolist())
    [1.0]
    [10.0]
    """
    return _conditional("conditionally_transform", inner, should_transform_fn, forward_extra_args, passes=True)


@transformation
def conditionally_mask(
    inner: GradientTransformation, should_transform_fn: Condition, forward_extra_args: bool = False
) -> GradientTransformation:
    """``inner`` at the steps where ``should_transform_fn(step)``; at the others the update is nothing.

    In all else as :func:`conditionally_transform`. Names, order and meaning as ``optax.conditionally_mask``.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.conditionally_mask(gradtx.sgd(0.5), lambda step: step >= 1)
    >>> params = jnp.ones(1)
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.ones(1), state)
    ...     params = gradtx.apply_updates(params, updates)
    ...     print(params.tolist())
    [1.0]
    [0.5]
    """
    return _conditional("conditionally_mask", inner, should_transform_fn, forward_extra_args, passes=False)


def _conditional(
    name: str, inner: GradientTransformation, condition: Condition, with_signals: bool, *, passes: bool
) -> GradientTransformation:
    record = record_of(inner)
    if not callable(condition) or isinstance(condition, type | jax.Array):
        raise errors.ArgumentTypeError(
            errors.UNNAMED, expected="should_transform_fn must be a function step -> bool",
            got=f"{type(condition).__name__} {errors.show(condition)}", cause="a value was given instead of a rule",
            fix=f"write {name}(tx, lambda step: step % 10 == 0)",
        )  # fmt: skip

    def init(params: Any) -> ConditionalState:
        return ConditionalState(first_step(), record.tree.init(params))

    def update(updates: Any, state: ConditionalState, params: Any, signals: Any) -> tuple[Any, ConditionalState]:
        done = _truth(name, condition(state.step, **(signals if with_signals else {})))
        instead = jax.tree.map(widen, updates) if passes else None
        new_updates, new_inner = only_if(
            done, lambda g, s, p: record.tree.update(g, s, p, signals), updates, state.inner, params, instead=instead
        )
        return new_updates, ConditionalState(next_step(state.step), new_inner)

    return join({"inner": record}, Pair(init, update))


def _truth(name: str, value: Any) -> jax.Array:
    is_boolean = isinstance(value, bool | np.bool_ | np.ndarray | jax.Array) and jnp.result_type(value) == jnp.bool_
    if not is_boolean or jnp.shape(value) != ():
        raise errors.ArgumentTypeError(
            name, expected="should_transform_fn must return one boolean", got=errors.show(value),
            cause="a number was returned, or the function lacks a return", fix="write lambda step: step >= 100",
        )  # fmt: skip
    return jnp.asarray(value)
