"""Every unit of the library, one row each. Adding a unit means adding one row; the laws in this folder do the rest."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

import gradtx
from gradtx import errors
from gradtx.errors import Interval


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


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """A row. ``oracle`` names the float64 step function in ``tests/papers/oracles.py``, with the same arguments.

    ``domain`` is what the unit is defined on; ``real`` says that it refuses complex leaves; ``kept`` the dtype of its
    parameter-like state; ``smallest`` the size of the gradients below which squares that it divides by have vanished.
    """

    name: str
    constructor: Callable[..., Any]
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    positional: tuple[Any, ...] = ()
    oracle: str | None = None
    domain: str = "any"
    real: bool = False
    kept: Any = jnp.float32
    smallest: float = 0.0
    bad: tuple[Bad, ...] = ()

    def make(self, **changed: Any) -> gradtx.GradientTransformation:
        return self.constructor(*self.positional, **{**self.arguments, **changed})

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


LEARNING_RATE = (
    out_of_range(learning_rate=-1e-3),
    out_of_range(learning_rate=float("nan")),
    out_of_range(learning_rate=float("inf")),
    of_wrong_kind(learning_rate="0.1"),
    of_wrong_kind(learning_rate=None),
    of_wrong_kind(learning_rate={"w": 1.0}),
    of_wrong_kind(learning_rate=[1e-3]),
    of_wrong_kind(learning_rate=True),
    of_wrong_kind(learning_rate=jnp.ones(3)),
    of_wrong_kind(learning_rate=dict),
    Bad({"lr": 0.1}, errors.ArgumentTypeError, "did you mean 'learning_rate'"),
)
BETAS = (out_of_range(b1=1.0), out_of_range(b2=-0.1), of_wrong_kind(b1="0.9"), of_wrong_kind(b2=None))
EPS = (out_of_range(eps=-1e-8), out_of_range(eps=1e-50), of_wrong_kind(eps=None))
DECAY = (out_of_range(decay=1.0), out_of_range(decay=-0.5), of_wrong_kind(decay="0.9"))


def half_life(decay: errors.Decay = 0.5) -> gradtx.GradientTransformation:
    """A user's own composition, without the decorator."""
    return gradtx.chain(gradtx.ema(decay), gradtx.scale(0.5))


def foreign() -> gradtx.GradientTransformation:
    """A user's own pair of functions, without a record."""
    return gradtx.GradientTransformation(lambda params: (), lambda updates, state, params=None: (updates, state))


UNITS = (
    Unit("identity", gradtx.identity, oracle="identity"),
    Unit("set_to_zero", gradtx.set_to_zero, oracle="set_to_zero"),
    Unit(
        "scale", gradtx.scale, {"step_size": -0.3}, oracle="scale",
        bad=(out_of_range(step_size=float("nan")), of_wrong_kind(step_size="1")),
    ),
    Unit(
        "scale_by_schedule", gradtx.scale_by_schedule, {"step_size_fn": lambda step: 0.5},
        bad=(of_wrong_kind(step_size_fn=0.5), of_wrong_kind(step_size_fn=None)),
    ),
    Unit("scale_by_learning_rate", gradtx.scale_by_learning_rate, {"learning_rate": 1e-2},
         oracle="scale_by_learning_rate", bad=LEARNING_RATE),
    Unit("scale_by_sign", gradtx.scale_by_sign, oracle="scale_by_sign"),
    Unit("ema", gradtx.ema, {"decay": 0.9}, oracle="ema", bad=DECAY),
    Unit("mean_square", gradtx.mean_square, {"decay": 0.99}, oracle="mean_square",
         bad=(*DECAY, out_of_range(initial_value=-1.0))),
    Unit("mean_square over all steps", gradtx.mean_square, oracle="mean_square"),
    Unit("sum_of_squares", gradtx.sum_of_squares, {"initial_value": 0.1}, oracle="sum_of_squares",
         bad=(out_of_range(initial_value=-1.0), of_wrong_kind(initial_value=lambda step: 0.1))),
    Unit("running_max", gradtx.running_max, oracle="running_max", domain="non-negative", real=True),
    Unit("square_root", gradtx.square_root, {"eps": 1e-8}, oracle="square_root", domain="non-negative", real=True,
         bad=EPS),
    Unit("bias_correction", gradtx.bias_correction, {"decay": 0.999}, oracle="bias_correction", bad=DECAY),
    Unit("scale_by_momentum", gradtx.scale_by_momentum, {"decay": 0.9}, oracle="scale_by_momentum",
         bad=(*DECAY, of_wrong_kind(nesterov=1))),
    Unit("scale_by_momentum, Nesterov", gradtx.scale_by_momentum, {"decay": 0.9, "nesterov": True},
         oracle="scale_by_momentum"),
    Unit("scale_by_rms", gradtx.scale_by_rms, {}, oracle="scale_by_rms", bad=(*DECAY, *EPS)),
    Unit("scale_by_rms, eps outside", gradtx.scale_by_rms, {"eps_in_sqrt": False, "bias_correction": True},
         oracle="scale_by_rms"),
    Unit("scale_by_adam", gradtx.scale_by_adam, oracle="scale_by_adam", bad=(*BETAS, *EPS)),
    Unit("clip", gradtx.clip, {"max_delta": 0.5}, oracle="clip", real=True,
         bad=(out_of_range(max_delta=-1.0), of_wrong_kind(max_delta=None))),
    Unit("clip_by_global_norm", gradtx.clip_by_global_norm, {"max_norm": 1.0},
         bad=(out_of_range(max_norm=0.0), out_of_range(max_norm=-1.0), of_wrong_kind(max_norm="1"))),
    Unit("add_decayed_weights", gradtx.add_decayed_weights, {"weight_decay": 0.1}, oracle="add_decayed_weights",
         bad=(out_of_range(weight_decay=-1.0), of_wrong_kind(weight_decay="1"))),
    Unit("sgd", gradtx.sgd, {"learning_rate": 0.1}, oracle="sgd", bad=(*LEARNING_RATE, out_of_range(momentum=1.0))),
    Unit("sgd, momentum", gradtx.sgd, {"learning_rate": 0.1, "momentum": 0.9}, oracle="sgd"),
    Unit("sgd, Nesterov", gradtx.sgd, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}, oracle="sgd"),
    Unit("adagrad", gradtx.adagrad, {"learning_rate": 0.1}, oracle="adagrad",
         bad=(*LEARNING_RATE, *EPS, out_of_range(initial_accumulator_value=-0.1))),
    Unit("rmsprop", gradtx.rmsprop, {"learning_rate": 1e-2}, oracle="rmsprop", bad=(*LEARNING_RATE, *DECAY, *EPS)),
    Unit("rmsprop, momentum", gradtx.rmsprop, {"learning_rate": 1e-2, "momentum": 0.9}, oracle="rmsprop"),
    Unit("adam", gradtx.adam, {"learning_rate": 1e-3}, oracle="adam", bad=(*LEARNING_RATE, *BETAS, *EPS)),
    Unit("adam without eps", gradtx.adam, {"learning_rate": 1e-3, "eps": 0.0}, oracle="adam", smallest=1e-13),
    Unit("adamw", gradtx.adamw, {"learning_rate": 1e-3, "weight_decay": 0.1}, oracle="adamw",
         bad=(*LEARNING_RATE, *BETAS, *EPS, out_of_range(weight_decay=-0.1))),
    Unit("amsgrad", gradtx.amsgrad, {"learning_rate": 1e-3}, oracle="amsgrad", bad=(*LEARNING_RATE, *BETAS, *EPS)),
    # Combinators and storage: what they are made of is what the rows above test.
    Unit("chain", gradtx.chain, positional=(gradtx.clip_by_global_norm(1.0), gradtx.ema(0.5), gradtx.ema(0.5))),
    Unit("chain with a foreign part", gradtx.chain, positional=(gradtx.ema(0.5), foreign(), gradtx.scale(2.0))),
    Unit("chain of nothing", gradtx.chain),
    Unit("named_chain", gradtx.named_chain, positional=(("mean", gradtx.ema(0.5)), ("step", gradtx.sgd(0.1)))),
    Unit("ratio", gradtx.ratio, {"eps": 1e-6},
         (gradtx.ema(0.5), gradtx.chain(gradtx.mean_square(), gradtx.square_root())), bad=EPS),
    Unit("ratio over a whole tree", gradtx.ratio, {"eps": 1e-6},
         (gradtx.clip_by_global_norm(1.0), gradtx.chain(gradtx.mean_square(), gradtx.square_root()))),
    Unit("partition", gradtx.partition, {},
         ({"a": gradtx.adam(1e-3), "b": gradtx.sgd(0.1, 0.9)}, lambda path, leaf: "a" if path == "w" else "b")),
    Unit("partition of whole trees", gradtx.partition, {},
         ({"a": gradtx.clip_by_global_norm(1.0), "b": gradtx.ema(0.9)}, lambda path, leaf: "ba"[path == "w"])),
    Unit("only", gradtx.only, {"where": "[!s]*"}, (gradtx.adam(1e-3),)),
    Unit("only, a whole tree", gradtx.only, {"where": lambda path, leaf: path != "s"},
         (gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.ema(0.9)),)),
    Unit("freeze", gradtx.freeze, {"where": lambda path, leaf: path == "s"}),
    Unit("masked", gradtx.masked, {"mask": lambda path, leaf: path == "w"}, (gradtx.ema(0.9),)),
    Unit("tunable", gradtx.tunable, {"learning_rate": 1e-3, "weight_decay": lambda step: 0.1}, (gradtx.adamw,)),
    Unit("tunable over a whole tree", gradtx.tunable, {"max_norm": 1.0}, (gradtx.clip_by_global_norm,)),
    Unit("tunable, a user's own", gradtx.tunable, {"decay": 0.5}, (half_life,)),
    Unit("a schedule", gradtx.adam, {"learning_rate": lambda step: 1e-3 / (1.0 + step), "b1": lambda step: 0.9}),
    Unit("stored in bfloat16", gradtx.storage.stored, {}, (gradtx.adamw(1e-3), gradtx.storage.cast(jnp.bfloat16)),
         real=True, kept=jnp.bfloat16),
    Unit("stored, stochastic", gradtx.storage.stored, {},
         (gradtx.adam(1e-3), gradtx.storage.cast(jnp.bfloat16, rounding="stochastic")), real=True, kept=jnp.bfloat16),
    Unit("stored, a whole tree", gradtx.storage.stored, {},
         (gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.ema(0.9)), gradtx.storage.cast("float16")),
         real=True, kept=jnp.float16),
)  # fmt: skip

RECIPES = tuple(unit for unit in UNITS if unit.name in ("sgd", "adagrad", "rmsprop", "adam", "adamw", "amsgrad"))
