"""The public edge: the pair that users hold, which checks what can be checked before anything runs."""

from collections.abc import Mapping
from typing import Any

from gradtx import errors
from gradtx.core.record import GradientTransformation, Record
from gradtx.tree import beside, check_same

STANDARD_SIGNALS = ("value", "grad", "value_fn", "hvp", "key")
"""Signals that a train step may always give; who does not declare them does not get them."""


def public(record: Record) -> GradientTransformation:
    """The pair that users hold: checks what can be checked without running, then calls the record's functions."""

    def init(params: Any) -> Any:
        try:
            return beside(params, record.tree.init(params))
        except errors.GradtxError as error:
            raise error.raised_by(record.call) from None

    def update(updates: Any, state: Any, params: Any = None, **signals: Any) -> tuple[Any, Any]:
        if signals:
            _check_signals(record, signals)
        for name, (required, address) in record.signals.items():
            if required and name not in signals:
                raise errors.SignalError(
                    record.call,
                    expected=f"{address or record.name} needs the signal {name}",
                    got=f"signals {sorted(signals)}" if signals else "none",
                    cause="the loop does not give it",
                    fix=f"write tx.update(grads, state, params, {name}=...)",
                )
        if params is not None:
            check_same(record.call, "grads", updates, "params", params)
        elif record.needs_params:
            raise errors.MissingParams(
                record.call,
                expected=f"{record.needs_params[0] or record.name} needs the parameters",
                got="params=None",
                cause="update was called with gradients and state only",
                fix="write tx.update(grads, state, params)",
            )
        try:
            return record.tree.update(updates, state, params, signals)
        except errors.GradtxError as error:
            raise error.raised_by(record.call) from None

    update.__gradtx__ = record  # type: ignore[attr-defined]
    update.__gradtx_call__ = record.call  # type: ignore[attr-defined]
    return GradientTransformation(init, update)


def _check_signals(record: Record, signals: Mapping[str, Any]) -> None:
    if record.any_signal:
        return
    for name in signals:
        if name not in record.signals and name not in STANDARD_SIGNALS:
            meant = errors.nearest(name, [*record.signals, *STANDARD_SIGNALS])
            declared = ", ".join(sorted(record.signals)) or "none of its own"
            raise errors.SignalError(
                record.call,
                expected=f"signals that a part declares ({declared}) or standard ones ({', '.join(STANDARD_SIGNALS)})",
                got=repr(name),
                cause=f"did you mean {meant!r}?" if meant else "no part of the transformation takes it",
                fix=f"write tx.update(grads, state, params{f', {meant}=...' if meant else ''})",
            )
