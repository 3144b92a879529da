"""What a row of the law table says about a unit, and the bad arguments that many units share."""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import gradtx
from gradtx import errors
from gradtx.errors import Interval

Oracle = Callable[..., tuple[Any, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Bad:
    """A call that must fail: extra arguments, the error's class, and words of its message."""

    arguments: Mapping[str, Any]
    error: type[errors.GradtxError]
    words: str


def out_of_range(**arguments: Any) -> Bad:
    return Bad(arguments, errors.ArgumentRangeError, next(iter(arguments)))


def of_wrong_kind(**arguments: Any) -> Bad:
    return Bad(arguments, errors.ArgumentTypeError, next(iter(arguments)))


@dataclasses.dataclass(frozen=True)
class LikeUpdates:
    """A signal that is a tree like the updates, with one number everywhere."""

    number: float

    def made(self, updates: Any) -> Any:
        return jax.tree.map(lambda update: jnp.full_like(update, self.number), updates)


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """A row. ``oracle`` is the float64 step function of ``tests/papers``, with the same arguments.

    ``domain`` is what the unit is defined on; ``real`` says that it refuses complex leaves; ``kept`` the dtype of its
    parameter-like state, or several; ``smallest`` the size of the gradients below which squares that it divides by, or
    products that it goes on with, have vanished; ``sign`` says that it takes a sign: infinities become 1, and a sum
    that cancels turns with its rounding. ``ulps`` bounds the error of one step: 4, and more only where a path through
    the unit has more roundings than Adam's ten, of up to half a unit each. ``magnifies`` bounds how far two
    compilations may be apart, in eps of the largest element: 4, and more only where an iteration magnifies the
    roundings of its first step, or a leaf of one element cancels. ``guards`` says that what is not finite changes
    nothing instead of staying visible. ``signals`` are given to every update, and to the oracle; a
    :class:`LikeUpdates` has the tree of the updates. A unit that takes the gradients of ``examples`` is given that many
    times the one gradient, which is then their mean.
    """

    name: str
    constructor: Callable[..., Any]
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    positional: tuple[Any, ...] = ()
    oracle: Oracle | None = None
    domain: str = "any"
    real: bool = False
    kept: Any = jnp.float32
    smallest: float = 0.0
    sign: bool = False
    guards: bool = False
    ulps: float = 4.0
    magnifies: float = 4.0
    signals: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    examples: int = 0
    bad: tuple[Bad, ...] = ()

    def make(self, **changed: Any) -> gradtx.GradientTransformation:
        return self.constructor(*self.positional, **{**self.arguments, **changed})

    def fed(self, tx: gradtx.GradientTransformation) -> Callable[..., Any]:
        """The update of ``tx``, made by this row, with the row's signals."""
        if self.examples:

            def update_from_examples(updates: Any, state: Any, params: Any = None, **signals: Any) -> Any:
                grads = jax.tree.map(lambda g: jnp.stack([g] * self.examples), updates)
                return tx.update(grads, state, params, **{**self.signals, **signals})

            return update_from_examples
        if not any(isinstance(signal, LikeUpdates) for signal in self.signals.values()):
            return functools.partial(tx.update, **self.signals)

        def update(updates: Any, state: Any, params: Any = None, **signals: Any) -> Any:
            made = {name: signal.made(updates) if isinstance(signal, LikeUpdates) else signal
                    for name, signal in self.signals.items()}  # fmt: skip
            return tx.update(updates, state, params, **{**made, **signals})

        return update

    def exact(self, state: Mapping[str, Any], g: Any, p: Any, t: int) -> tuple[Any, dict[str, Any]]:
        """The oracle's step ``t`` with this row's arguments: the update and the new state."""
        assert self.oracle is not None
        return self.oracle(state, g, p, t, **self.arguments, **self.signals)

    @property
    def numbers(self) -> dict[str, float]:
        """The arguments that may be schedules, with the values that this row or the signature gives them."""
        hints = typing.get_type_hints(self.constructor, include_extras=True)
        found = {}
        for name, parameter in inspect.signature(self.constructor).parameters.items():
            members = typing.get_args(hints.get(name)) if type(None) in typing.get_args(hints.get(name)) else ()
            for hint in (hints.get(name), *members):
                constraints = getattr(hint, "__metadata__", ())
                if any(isinstance(c, Interval) and c.schedule for c in constraints):
                    value = self.arguments.get(name, parameter.default)
                    if isinstance(value, float | int) and value is not inspect.Parameter.empty:
                        found[name] = value
        return found
