"""Errors that say what to write instead, and the argument checks that raise them.

Every message has one form::

    <call as the user wrote it>: <expected>, got <value> at <leaf path>. <usual cause>; <line to write instead>. [code]

The code in brackets is stable: search for it, or read ``error.code``. Each class is also the builtin exception that
such a mistake would raise in plain Python, so ``except ValueError`` keeps working.

The second half checks arguments of public constructors against their annotations (:data:`NonNegative`, :data:`Decay`,
...), once, at construction, and never inside a compiled program: a traced value is not looked at.
"""

import difflib
import functools
import inspect
import math
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, ParamSpec, TypeVar

import jax
import numpy as np
from jax.core import Tracer

P = ParamSpec("P")
R = TypeVar("R")


UNNAMED = "a transformation"
"""The call of an error raised by what does not know how it was called; whoever knows says so by ``raised_by``."""


class GradtxError(Exception):
    """Base of every error that this library raises on purpose; ``code`` is stable across releases."""

    code: ClassVar[str] = "error"

    def __init__(self, call: Any, *, expected: str, got: Any, cause: str, fix: str, at: str | None = None):
        self.call, self.expected, self.got, self.at, self.cause, self.fix = (
            str(call),
            expected,
            str(got),
            at,
            cause,
            fix,
        )
        where = "" if at is None else f" at {at}"
        super().__init__(f"{call}: {expected}, got {got}{where}. {cause}; {fix}. [{self.code}]")

    def __reduce__(self):
        return _unpickled, (type(self), self.call, self.expected, self.got, self.at, self.cause, self.fix)

    def _again(self, call: str, expected: str, fix: str, at: str | None) -> "GradtxError":
        return type(self)(call, expected=expected, got=self.got, cause=self.cause, fix=fix, at=at)

    def at_leaf(self, path: str) -> "GradtxError":
        """The same error with the leaf's path, for what is written for one array and does not know where it stands.

        A fix that names the place names the new one.
        """
        fix = self.fix if self.at is None else self.fix.replace(self.at, repr(path))
        return self._again(self.call, self.expected, fix, repr(path))

    def raised_by(self, call: Any) -> "GradtxError":
        """The same error as the user sees it, with the call that the user wrote; the part that raised it is named."""
        name = self.call.partition("(")[0]
        inside = "" if name in (UNNAMED, str(call).partition("(")[0]) else f" (in {self.call})"
        return self._again(str(call), self.expected + inside, self.fix, self.at)


def _unpickled(kind: type, call: str, expected: str, got: str, at: str | None, cause: str, fix: str) -> GradtxError:
    return kind(call, expected=expected, got=got, at=at, cause=cause, fix=fix)


class ArgumentTypeError(GradtxError, TypeError):
    """An argument of the wrong kind, a missing or an unknown one."""

    code = "argument-type"


class ArgumentRangeError(GradtxError, ValueError):
    """A number outside the range in which the method is defined."""

    code = "argument-range"


class MissingParams(GradtxError, ValueError):
    """``update`` was called without the parameters that a part needs."""

    code = "missing-params"


class StructureError(GradtxError, ValueError):
    """Two trees that must have the same structure do not."""

    code = "structure"


class ShapeError(GradtxError, ValueError):
    """Two leaves that must have the same shape do not."""

    code = "shape"


class DtypeError(GradtxError, TypeError):
    """A leaf of a dtype that the method has no meaning for."""

    code = "dtype"


class SignalError(GradtxError, TypeError):
    """A signal of ``update`` (``value=``, ``key=``, ...) that is missing, or that no part declares."""

    code = "signal"


class SelectionError(GradtxError, ValueError):
    """A mask, pattern or label that does not fit the parameters."""

    code = "selection"


class LayoutError(GradtxError, TypeError):
    """A layout was asked to keep a state that it cannot keep right."""

    code = "layout"


class LossFormError(GradtxError, TypeError):
    """A training loss that does not return ``(scalar, (model_state, metrics))``."""

    code = "loss-form"


class BatchError(GradtxError, ValueError):
    """Data that cannot be cut into batches as asked."""

    code = "batch"


class SkippedStepsError(GradtxError, FloatingPointError):
    """A guard has left out as many steps in a row as it bears."""

    code = "skipped-steps"


class ProcessError(GradtxError, ConnectionError):
    """One of several processes that train together is missing."""

    code = "process"


class MissingExtra(GradtxError, ImportError):
    """An optional package is not installed; the message names the extra."""

    code = "missing-extra"


# ---------------------------------------------------------------------------------------------------------------------
# Annotations of arguments, and the one place that checks them.


LARGEST = float(np.finfo(np.float32).max)


class Interval(NamedTuple):
    """A real number in ``[low, high]``, or ``[low, high)`` with ``open_high``; a schedule where one is allowed.

    Numbers become float32 data, so one beyond the largest float32 is as good as infinite and is refused.

    ``smallest`` rejects numbers in ``(0, smallest)``: they would be zero in the arithmetic's dtype. ``per_layer``
    accepts one for each layer as well.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    schedule: bool = True
    smallest: float = 0.0
    per_layer: bool = False

    def __contains__(self, value: Any) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        above = self.low < value if self.open_low else self.low <= value
        below = value < self.high if self.open_high else value <= self.high
        return abs(value) <= LARGEST and above and below and not 0 < value < self.smallest

    def __str__(self) -> str:
        left = "(" if self.open_low or self.low == -math.inf else "["
        right = ")" if self.open_high or self.high == math.inf else "]"
        vanishing = f", zero or at least {self.smallest:.2g} (smaller ones vanish in float32)" if self.smallest else ""
        return f"a finite number in {left}{self.low:g}, {self.high:g}{right}{vanishing}"


class Whole(NamedTuple):
    """A whole number (``int``) of at least ``low``."""

    low: int = 0

    def __str__(self) -> str:
        return f"a whole number of at least {self.low}"


Scalar = Any
"""A number, or a schedule: a function of the step that gives the number. A constructor's own code only sees numbers."""

Real = Annotated[Scalar, Interval()]
NonNegative = Annotated[Scalar, Interval(0.0)]
Positive = Annotated[Scalar, Interval(0.0, open_low=True)]
Decay = Annotated[Scalar, Interval(0.0, 1.0, open_high=True)]
Epsilon = Annotated[Scalar, Interval(0.0, smallest=float(np.finfo(np.float32).tiny))]
Strength = Annotated[Scalar, Interval(0.0, per_layer=True)]
"""A non-negative number or schedule; or for each layer its own, ``{glob: value}`` or ``(path, leaf) -> value``."""

Number = Annotated[float, Interval(schedule=False)]
NonNegativeNumber = Annotated[float, Interval(0.0, schedule=False)]
PositiveNumber = Annotated[float, Interval(0.0, open_low=True, schedule=False)]
Fraction = Annotated[float, Interval(0.0, 1.0, schedule=False)]
Count = Annotated[int, Whole(1)]
Index = Annotated[int, Whole(0)]


class Call(NamedTuple):
    """A call as the user wrote it: ``str`` gives ``adam(0.001, b1=0.95)``; ``arguments`` are bound by name."""

    name: str
    positional: tuple[Any, ...]
    keywords: Mapping[str, Any]
    arguments: Mapping[str, Any]
    with_defaults: Mapping[str, Any]

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        written = [show(value) for value in self.positional]
        written += [f"{name}={show(value)}" for name, value in self.keywords.items()]
        return f"{self.name}({', '.join(written)})"


def show(value: Any) -> str:
    """A value short enough for a message: numbers and text whole, arrays by dtype and shape, the rest by its call."""
    if isinstance(value, jax.Array | np.ndarray):
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"
    for made in (value, getattr(value, "update", None), value[0] if isinstance(value, tuple) and value else None):
        call = getattr(made, "__gradtx_call__", None)
        if call is not None:
            return str(call)
    if isinstance(value, dict | list | tuple) and not hasattr(value, "_fields"):
        shown = (
            [f"{key!r}: {show(item)}" for key, item in value.items()] if isinstance(value, dict) else map(show, value)
        )
        text = ", ".join(shown)
        left, right = "{}" if isinstance(value, dict) else "[]" if isinstance(value, list) else "()"
        return f"{left}{text}{right}" if len(text) <= 60 else f"a {type(value).__name__} of {len(value)} entries"
    if hasattr(value, "_fields") and callable(value[0]):
        return f"{getattr(value[0], '__qualname__', type(value).__name__).split('.')[0]}(...)"
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def nearest(name: str, known: typing.Iterable[str]) -> str | None:
    """The known name that ``name`` was probably meant to be, or None."""
    known = list(known)
    habits = {"lr": "learning_rate", "alpha": "learning_rate", "beta1": "b1", "beta2": "b2", "wd": "weight_decay"}
    if habits.get(name) in known:
        return habits[name]
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)


def bind(constructor: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """Binds and checks the arguments of ``constructor`` by its signature and annotations."""
    signature, hints = _signature(constructor)
    name = constructor.__name__
    written = Call(name, args, kwargs, {}, {})
    example = _example(name, signature)
    unknown = [key for key in kwargs if key not in signature.parameters]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    if unknown and not takes_any:
        meant = nearest(unknown[0], signature.parameters)
        known = {key: value for key, value in kwargs.items() if key not in unknown}
        known |= {meant: kwargs[unknown[0]]} if meant and meant not in known else {}
        raise ArgumentTypeError(
            written,
            expected=f"arguments {', '.join(signature.parameters)}",
            got=f"{unknown[0]!r}",
            cause=f"did you mean {meant!r}?" if meant else "no argument has this name",
            fix=f"write {_corrected(written._replace(keywords=known), signature) or example}",
        )
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        by_name = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
        surplus = len(args) - sum(p.kind in _BY_PLACE for p in signature.parameters.values())
        cause = f"{' and '.join(by_name[:surplus])} can only be given by name"
        raise ArgumentTypeError(
            written,
            expected=f"arguments {', '.join(signature.parameters)}",
            got=f"a call with {error}",
            cause=cause if surplus > 0 and by_name else "an argument is missing or given twice",
            fix=f"write {_corrected(written, signature) or example}",
        ) from None
    arguments = dict(bound.arguments)
    bound.apply_defaults()
    call = Call(name, args, kwargs, arguments, bound.arguments)
    for key, value in arguments.items():
        _check(call, key, value, hints.get(key, Any), example)
    return call


def _corrected(call: Call, signature: inspect.Signature) -> str | None:
    """The call with each value under the name that it was meant for; None without values, or with two for a name."""
    kinds = {parameter.name: parameter.kind for parameter in signature.parameters.values()}
    by_place = [name for name, kind in kinds.items() if kind in _BY_PLACE]
    by_name = [name for name, kind in kinds.items() if kind is inspect.Parameter.KEYWORD_ONLY]
    meant = dict(zip(by_place + by_name, call.positional, strict=False))
    if meant.keys() & call.keywords.keys() or inspect.Parameter.VAR_POSITIONAL in kinds.values():
        return None
    if not call.positional and not call.keywords:
        return None
    named = {name: show(value) for name, value in [*meant.items(), *call.keywords.items()]}
    written = [f"{name}={value}" for name, value in list(named.items())[min(len(meant), len(by_place)) :]]
    written += _required(signature, named)
    return f"`{call.name}({', '.join([*map(show, call.positional[: len(by_place)]), *written])})`"


def checked_call(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function: arguments checked at every call."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bind(function, args, kwargs)
        return function(*args, **kwargs)

    return call


def checked(constructor: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function that returns a function: arguments checked, and equal arguments give the same object."""

    def make(call: Call) -> R:
        result = constructor(*call.positional, **call.keywords)
        named: Any = result[0] if isinstance(result, tuple) else result
        named.__gradtx_call__ = call
        return result

    remembered = remember(make)

    @functools.wraps(constructor)
    def construct(*args: P.args, **kwargs: P.kwargs) -> R:
        return remembered(bind(constructor, args, kwargs))

    return construct


def remember(make: Callable[[Call], R]) -> Callable[[Call], R]:
    """``make``, called once for equal arguments of equal types, however they were written; not for unhashable ones.

    An error of this library that comes out of ``make`` names the call.
    """

    @functools.lru_cache(maxsize=4096)
    def slot(key: Any) -> list[R]:
        del key
        return []

    def made(call: Call) -> R:
        try:
            return make(call)
        except GradtxError as error:
            raise error.raised_by(call) from None

    def recall(call: Call) -> R:
        try:
            found = slot(_key(dict(call.with_defaults)))
        except TypeError:  # an argument cannot be hashed, such as an array
            return made(call)
        if not found:
            found.append(made(call))
        return found[0]

    return recall


def _key(value: Any) -> Any:
    """A hashable stand-in for an argument: equal for equal arguments of equal types."""
    if type(value) in (dict, tuple, list):
        items = value.items() if type(value) is dict else enumerate(value)  # in order: of globs, the first match wins
        return type(value), tuple((name, _key(item)) for name, item in items)
    return type(value), value


def is_per_layer(value: Any) -> bool:
    """Whether ``value`` gives each layer its own: ``{glob: value}``, or a function of two arguments, path and leaf."""
    if isinstance(value, Mapping):
        return True
    if not callable(value) or isinstance(value, type | jax.Array):
        return False
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not say
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters) == 2


def is_schedule(constructor: Callable[..., Any], name: str, value: Any) -> bool:
    """Whether ``value`` is a schedule given for a number of ``constructor``."""
    if not callable(value) or isinstance(value, jax.Array) or is_per_layer(value):
        return False
    return any(
        isinstance(constraint, Interval) and constraint.schedule for constraint in _constraints(constructor, name)
    )


def is_real(value: Any, shape: tuple[int, ...] = ()) -> bool:
    """Whether ``value`` is one real number of Python, NumPy or JAX, traced or not, or an array of this shape."""
    is_number = isinstance(value, int | float | np.number | np.ndarray | jax.Array) and not isinstance(value, bool)
    return is_number and np.shape(value) in ((), shape) and not jax.numpy.iscomplexobj(value)


def check_returned(call: str, value: Any, shape: tuple[int, ...] = ()) -> None:
    """Refuses what a schedule returned unless it is one real number, or an array of them of this shape."""
    if not is_real(value, shape):
        raise ArgumentTypeError(
            call,
            expected="a schedule must return one real number for a step",
            got=f"{type(value).__name__} {show(value)}",
            cause="the function lacks a return statement, or makes a schedule instead of being one",
            fix="write e.g. lambda step: 1e-3 * 0.5 ** (step / 1000)",
        )


def takes_number(constructor: Callable[..., Any], name: str, value: Any) -> bool:
    """Whether ``constructor`` computes with the real number ``value``, by its annotation or, without one, by type."""
    constraints = _constraints(constructor, name)
    if isinstance(value, bool | np.bool_) or any(isinstance(constraint, Whole) for constraint in constraints):
        return False
    if any(isinstance(constraint, Interval) for constraint in constraints):
        return isinstance(value, int | float | np.number | np.ndarray | jax.Array)
    is_array = isinstance(value, np.ndarray | jax.Array) and value.ndim == 0 and value.dtype.kind == "f"
    return isinstance(value, float | np.floating) or is_array


def _constraints(constructor: Callable[..., Any], name: str) -> list[Any]:
    hint = _signature(constructor)[1].get(name)
    return [c for alternative in _alternatives(hint) for c in getattr(alternative, "__metadata__", ())]


@functools.cache
def _signature(constructor: Callable[..., Any]) -> tuple[inspect.Signature, dict[str, Any]]:
    try:
        hints = typing.get_type_hints(constructor, include_extras=True)
    except (NameError, TypeError):  # somebody else's constructor, with annotations that cannot be resolved
        hints = {}
    return inspect.signature(constructor), hints


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the annotation itself."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, type(int | str)) else (hint,)


_BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_PLAUSIBLE = {"learning_rate": "1e-3", "decay": "0.9", "max_norm": "1.0", "weight_decay": "1e-4"}


def _required(signature: inspect.Signature, given: Collection[str] = ()) -> list[str]:
    """The required arguments that are not ``given``, with a plausible value each."""
    kinds = (*_BY_PLACE, inspect.Parameter.KEYWORD_ONLY)
    required = [p.name for p in signature.parameters.values() if p.kind in kinds and p.default is p.empty]
    return [f"{name}={_PLAUSIBLE.get(name, '...')}" for name in required if name not in given]


def _example(name: str, signature: inspect.Signature) -> str:
    """A call to copy: required arguments only, with a plausible value each."""
    call = f"{name}({', '.join(_required(signature))})"
    return f"`tx = {call}; state = tx.init(params)`" if "learning_rate" in signature.parameters else f"`{call}`"


def _check(call: Call, key: str, value: Any, hint: Any, example: str) -> None:
    """Checks one argument against the first constraint in its annotation; annotations without one pass."""
    alternatives = _alternatives(hint)
    if value is None and type(None) in alternatives:
        return
    for alternative in alternatives:
        for constraint in getattr(alternative, "__metadata__", ()):
            if isinstance(constraint, Interval):
                _check_number(call, key, value, constraint, example)
            elif isinstance(constraint, Whole):
                _check_whole(call, key, value, constraint, example)
        is_choice = isinstance(value, str | int | np.integer) and value in typing.get_args(alternative)
        if typing.get_origin(alternative) is Literal and not is_choice:
            choices = typing.get_args(alternative)
            meant = nearest(str(value), map(str, choices))
            raise ArgumentRangeError(
                call,
                expected=f"{key} must be one of {', '.join(map(repr, choices))}",
                got=show(value),
                cause=f"did you mean {meant!r}?" if meant else "there is no other choice",
                fix=f"write {key}={next((one for one in choices if str(one) == meant), choices[0])!r}",
            )
        is_flag = alternative is bool and {*alternatives} <= {bool, type(None)}  # an array-like may be a bool, too
        if is_flag and not isinstance(value, bool | np.bool_):
            raise ArgumentTypeError(
                call, expected=f"{key} must be True or False", got=show(value), cause="a flag chooses a formula",
                fix=f"write {key}=True",
            )  # fmt: skip
        entries = typing.get_args(alternative) if typing.get_origin(alternative) in (tuple, Sequence) else ()
        if any(hasattr(entry, "__metadata__") for entry in entries):
            _check_entries(call, key, value, entries, example)
    is_function = all(typing.get_origin(alternative) is Callable for alternative in {*alternatives} - {type(None)})
    if is_function and (not callable(value) or isinstance(value, type)):
        if isinstance(value, type):
            cause = "a class was given where its instance was meant"
        elif hasattr(value, "update"):
            cause = "the transformation was made already, or the arguments are in another order"
        else:
            cause = "a value is no rule"
        raise ArgumentTypeError(call, expected=f"{key} must be a function", got=f"{type(value).__name__} {show(value)}",
                                cause=cause, fix=f"write {key}=f with a function f, as in {example}")  # fmt: skip


def _check_entries(call: Call, key: str, value: Any, entries: tuple[Any, ...], example: str) -> None:
    """Checks a ``tuple[A, B]`` entry by entry, and a ``tuple[A, ...]`` or ``Sequence[A]``, which must not be empty."""
    fixed = len(entries) if len(entries) > 1 and ... not in entries else None
    if not isinstance(value, tuple | list) or not value or (fixed and len(value) != fixed):
        cause = "each number has its own meaning" if fixed else "one number is given as a tuple of one"
        raise ArgumentTypeError(
            call, expected=f"{key} must be a tuple of {fixed or 'some'} numbers",
            got=f"{type(value).__name__} {show(value)}", cause=cause, fix=f"write {example}",
        )  # fmt: skip
    kinds = entries if fixed else entries[:1] * len(value)
    for index, (entry, kind) in enumerate(zip(value, kinds, strict=True)):
        _check(call, f"{key}[{index}]", entry, kind, example)


def _check_number(call: Call, key: str, value: Any, interval: Interval, example: str) -> None:
    if isinstance(value, Tracer) and value.ndim == 0:
        return
    per_layer = is_per_layer(value)
    if per_layer and interval.per_layer:
        if isinstance(value, Mapping):
            _check_per_glob(call, key, value, interval, example)
        return
    if callable(value) and not isinstance(value, type) and interval.schedule and not per_layer:
        return
    number = as_float(value)
    if number is None:
        cause = "one number serves all leaves; to give each group its own, use partition"
        if value is None:
            cause = "this method cannot do without it"
        elif isinstance(value, bool):
            cause = "a flag was given where a number was meant"
        elif isinstance(value, dict | list | tuple):
            cause = "the parameters go to init, not here"
        elif isinstance(value, str):
            cause = "a number was read as text"
        elif isinstance(value, type):
            cause = "a class was given where its instance was meant"
        kind = "a number or a schedule" if interval.schedule else "a number"
        kind += ", or {glob: value}" if interval.per_layer else ""
        raise ArgumentTypeError(call, expected=f"{key} must be {kind}", got=f"{type(value).__name__} {show(value)}",
                                cause=cause, fix=f"write {example}")  # fmt: skip
    if number not in interval:
        cause = "to ascend, negate the loss" if key == "learning_rate" and number < 0 else f"{key} is out of range"
        cause = "it is infinite in float32" if LARGEST < abs(number) < math.inf else cause
        raise ArgumentRangeError(call, expected=f"{key} must be {interval}", got=f"{number:g}", cause=cause,
                                 fix=f"write {example}")  # fmt: skip


def _check_per_glob(call: Call, key: str, value: Mapping[Any, Any], interval: Interval, example: str) -> None:
    for glob, one in value.items():
        if not isinstance(glob, str) or is_per_layer(one):
            raise ArgumentTypeError(
                call, expected=f"{key} must map globs on paths to numbers or schedules",
                got=f"{show(glob)}: {type(one).__name__} {show(one)}", cause="a tree of values was given",
                fix=f"write {key}={{'block/*/kernel': 1e-4, 'head/*': 1e-3}}",
            )  # fmt: skip
        _check_number(call, f"{key}[{glob!r}]", one, interval._replace(per_layer=False), example)


def as_float(value: Any) -> float | None:
    """The number that a Python, NumPy or JAX scalar is, or None for what is none, or is being traced."""
    if isinstance(value, bool | np.bool_ | Tracer):
        return None
    if isinstance(value, int | float | np.integer | np.floating):
        try:
            return float(value)
        except OverflowError:  # an int of more than 308 digits
            return math.inf if value > 0 else -math.inf
    if isinstance(value, np.ndarray | jax.Array) and value.ndim == 0:
        real = jax.numpy.issubdtype(value.dtype, jax.numpy.floating) or jax.numpy.issubdtype(value.dtype, np.integer)
        return float(value) if real else None
    return None


def _check_whole(call: Call, key: str, value: Any, whole: Whole, example: str) -> None:
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise ArgumentTypeError(call, expected=f"{key} must be {whole}", got=f"{type(value).__name__} {show(value)}",
                                cause="it counts steps or items", fix=f"write {key}={max(whole.low, 1)}")  # fmt: skip
    if value < whole.low:
        raise ArgumentRangeError(call, expected=f"{key} must be {whole}", got=str(value),
                                 cause="it counts steps or items", fix=f"write {key}={max(whole.low, 1)}")  # fmt: skip
