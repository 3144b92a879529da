"""Hyperparameters as data: kept in the state, read, replaced, mapped over; nothing recompiles."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradtx import errors
from gradtx.core import GradientTransformation, TunableState, public, rebuilt, states_of, transformation


@transformation
def tunable(constructor: Callable[..., GradientTransformation], **hyperparameters: Any) -> GradientTransformation:
    """``constructor(**hyperparameters)`` with its numbers in the state instead of in the compiled program.

    Numbers start as given and may be replaced by :func:`set_hyperparameters` without a new trace, or mapped over with
    ``vmap``; schedules are evaluated at every update and their value kept beside them. Whole numbers, flags and
    anything else that is not a real number are handed on as they are.

    Raises what ``constructor`` raises for a bad argument, at construction.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.tunable(gradtx.adamw, learning_rate=1e-3, weight_decay=0.1)
    >>> state = gradtx.set_hyperparameters(tx.init(jnp.zeros(2)), learning_rate=0.25)
    >>> gradtx.hyperparameters(state)["learning_rate"].item()
    0.25
    """
    constructor(**hyperparameters)  # checks every argument with the values as given
    schedules = {name: value for name, value in hyperparameters.items() if errors.is_schedule(constructor, name, value)}
    numbers = {
        name: value
        for name, value in hyperparameters.items()
        if name not in schedules and errors.takes_number(constructor, name, value)
    }
    fixed = {name: value for name, value in hyperparameters.items() if name not in numbers and name not in schedules}
    return public(rebuilt(lambda values: constructor(**fixed, **values), numbers, schedules))


def hyperparameters(state: Any) -> dict[str, jax.Array]:
    """The values in force in a state: those that :func:`tunable` keeps, and those of schedules at the last update.

    Looks into any container of states (a chain's, a ``TrainState``, Optax's). A name that occurs more than once is
    written with the path of its part, ``ema/decay``.
    """
    found = [
        (path, name, value)
        for path, part in states_of(TunableState, state)
        for name, value in {**part.hyperparameters, **part.scheduled}.items()
    ]
    names = [name for _, name, _ in found]
    return {name if names.count(name) == 1 else f"{path}/{name}": value for path, name, value in found}


def set_hyperparameters(state: Any, **values: Any) -> Any:
    """The state with the named hyperparameters replaced, in every part of it that keeps them.

    Raises ``ArgumentTypeError`` for a name that no part keeps or that follows a schedule, ``ArgumentRangeError`` for a
    value that is not finite in float32. The range that the constructor asks for is not known to a state, which has
    numbers only: a negative learning rate ascends, and ``b1=1.5`` diverges. ``gradtx.adam(1e-3, b1=value)`` checks a
    value that comes from elsewhere.
    """
    call = f"set_hyperparameters(state, {', '.join(f'{name}={errors.show(value)}' for name, value in values.items())})"
    parts = [part for _, part in states_of(TunableState, state)]
    kept = {name for part in parts for name in part.hyperparameters}
    scheduled = {name for part in parts for name in part.scheduled}
    for name, value in values.items():
        if name not in kept:
            meant = errors.nearest(name, kept)
            raise errors.ArgumentTypeError(
                call,
                expected=f"a hyperparameter that the state keeps ({', '.join(sorted(kept)) or 'none'})",
                got=repr(name),
                cause="it follows a schedule" if name in scheduled
                else f"did you mean {meant!r}?" if meant else "the optimizer was not made tunable in it",
                fix=f"make the optimizer with tunable(constructor, {name}=<number>)",
            )  # fmt: skip
        if not _is_real(value) and not isinstance(value, Tracer):
            raise errors.ArgumentTypeError(
                call, expected=f"{name} must be a number", got=errors.show(value),
                cause="a schedule or text was given", fix=f"write {name}=1e-3",
            )  # fmt: skip
        if not isinstance(value, Tracer) and (largest := _largest(value)) not in errors.Interval():
            raise errors.ArgumentRangeError(
                call, expected=f"{name} must be {errors.Interval()}", got=errors.show(value),
                cause="it is infinite in float32" if errors.LARGEST < largest < np.inf else "what computed it diverged",
                fix=f"write {name}=1e-3",
            )  # fmt: skip

    def replace(part: Any) -> Any:
        if not isinstance(part, TunableState):
            return part
        new = {
            name: jnp.asarray(values[name], old.dtype) if name in values else old
            for name, old in part.hyperparameters.items()
        }
        return part._replace(hyperparameters=new, inner=set_inner(part.inner))

    def set_inner(inner: Any) -> Any:
        return jax.tree.map(replace, inner, is_leaf=lambda node: isinstance(node, TunableState))

    return set_inner(state)


def _largest(value: Any) -> float:
    """The largest magnitude in a number or array of numbers, in float64; NaN where one is."""
    number = errors.as_float(value)
    return float(np.max(np.abs(np.asarray(value, np.float64)), initial=0.0)) if number is None else abs(number)


def _is_real(value: Any) -> bool:
    if isinstance(value, bool | np.bool_ | str):
        return False
    return isinstance(value, int | float | np.number) or (
        isinstance(value, jax.Array | np.ndarray) and not jnp.iscomplexobj(value) and value.dtype != bool
    )
