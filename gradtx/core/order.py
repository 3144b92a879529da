"""Which parts may stand inside which: what is around one decides what it sees, and what becomes of its steps."""

from collections.abc import Mapping
from typing import Literal

from gradtx import errors
from gradtx.core.record import Record

Kind = Literal[
    "chain", "average", "between", "guard", "accumulation", "loss scale", "master weights",
    "stored", "host memory", "packed", "layers", "",
]  # fmt: skip
"""What the order matters to: averages of parameters, what leaves steps out or multiplies the loss, how and where state
is kept, what tells the layers apart, and what stands *between* the parameters and its parts: it hands them others, or
makes another step of theirs."""


def check_order(own: Kind, parts: Mapping[str, Record]) -> None:
    """Raises where a part of a composition would see something else than its docstring says."""
    names = list(parts)
    for name, part in parts.items():
        alone_in_chain = own == "chain" and len(names) == 1
        if "loss scale" in part.kinds and own not in ("accumulation", "host memory") and not alone_in_chain:
            raise errors.ArgumentTypeError(
                errors.UNNAMED, expected="dynamic_loss_scale around everything but accumulate", got=_shown(part),
                cause="what is around it or beside it would see gradients of the multiplied loss",
                fix="write dynamic_loss_scale(chain(...))",
            )  # fmt: skip
        if own == "average" and part.kinds & {"guard", "accumulation"}:
            raise errors.ArgumentTypeError(
                errors.UNNAMED, expected="the average inside what leaves steps out", got=_shown(part),
                cause="the average would move on where there was no step",
                fix="write e.g. skip_nonfinite(exponential_average(tx))",
            )  # fmt: skip
        if "master weights" in part.kinds and own in ("average", "between", "stored", "master weights"):
            expected, cause, _ = _LAST["master weights"]
            raise errors.ArgumentTypeError(
                errors.UNNAMED, expected=expected, got=_shown(part), cause=cause, fix="write master_weights around it"
            )
        if "host memory" in part.kinds and own in ("guard", "accumulation", "loss scale"):
            raise errors.ArgumentTypeError(
                errors.UNNAMED, expected="offloaded around what leaves steps out", got=_shown(part),
                cause="it would choose between two states in host memory, where devices do not compute",
                fix="write e.g. offloaded(skip_nonfinite(tx))",
            )  # fmt: skip
        for kind in sorted(part.kinds & set(_LAST)) if own == "chain" and name != names[-1] else ():
            expected, cause, fix = _LAST[kind]
            raise errors.ArgumentTypeError(errors.UNNAMED, expected=expected, got=_shown(part), cause=cause, fix=fix)


# What goes by its own step, and would miss what later parts of a chain make of it: expected, cause and fix.
_LAST = {
    "average": (
        "an average as the last part of a chain",
        "it averages the parameters with the steps that it sees, which later parts would change",
        "write exponential_average(chain(...))",
    ),
    "master weights": (
        "master_weights around all that changes the step or hands on other parameters",
        "the digits that it keeps are those of parameters in low precision, after its own step",
        "write master_weights(chain(...))",
    ),
}


def _shown(part: Record) -> str:
    return errors.show(part.call)
