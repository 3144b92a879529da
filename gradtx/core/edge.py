"""The public edge: the pair that users hold, which checks what can be checked before anything runs."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core.record import GradientTransformation, Record
from gradtx.tree import beside, check_same, describe_leaf, is_inexact, leaf_paths, of_one_example

STANDARD_SIGNALS = ("value", "grad", "value_fn", "hvp", "key")
"""Signals that a train step may always give; who does not declare them does not get them."""


def public(record: Record) -> GradientTransformation:
    """The pair that users hold: checks what can be checked without running, then calls the record's functions."""

    def init(params: Any) -> Any:
        if check := getattr(params, "check_transformation", None):  # a tree that keeps leaves in another form
            check(record)
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
        of_one = of_one_example(record.call, updates) if record.per_example else updates
        if params is not None:
            check_same(record.call, "grads", of_one, "params", params)
            _check_dtypes(record.call, of_one, params)
        elif record.needs_params:
            raise errors.MissingParams(
                record.call,
                expected=f"{record.needs_params[0] or record.name} needs the parameters",
                got="params=None",
                cause="update was called with gradients and state only",
                fix="write tx.update(grads, state, params)",
            )
        try:
            new_updates, new_state = record.tree.update(updates, state, params, signals)
        except errors.GradtxError as error:
            raise error.raised_by(record.call) from None
        except (AttributeError, KeyError, TypeError, ValueError):
            _check_state(record, state, of_one if params is None else params)  # where that is why, it says so
            raise
        if _shapes(new_state) != _shapes(state):
            _check_state(record, state, of_one if params is None else params)
        return new_updates, new_state

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


def _check_dtypes(call: errors.Call, grads: Any, params: Any) -> None:
    """Raises where a gradient is no number, or a complex one, and its parameter is none such."""
    for index, (grad, param) in enumerate(zip(jax.tree.leaves(grads), jax.tree.leaves(params), strict=True)):
        is_number = is_inexact(grad) or isinstance(grad, float | complex)
        if is_inexact(param) and (not is_number or (jnp.iscomplexobj(grad) and not jnp.iscomplexobj(param))):
            raise errors.DtypeError(
                call, expected=f"a gradient like its parameter, {describe_leaf(param)}", got=describe_leaf(grad),
                at=repr(leaf_paths(grads)[index]), cause="something else than a gradient stands in its place",
                fix="write grads = jax.grad(loss)(params, batch)",
            )  # fmt: skip


def _shapes(state: Any) -> list[tuple[int, ...]]:
    return [getattr(leaf, "shape", ()) for leaf in jax.tree.leaves(state)]


def _check_state(record: Record, state: Any, params: Any) -> None:
    """Raises unless the state has the leaves, by path and shape, of the one that ``init`` makes for ``params``."""
    made = jax.eval_shape(record.tree.init, params)
    expected = dict(zip(leaf_paths(made), _shapes(made), strict=True))
    given = dict(zip(leaf_paths(state), _shapes(state), strict=True))
    wrong = [path for path in {**expected, **given} if expected.get(path) != given.get(path)]
    if wrong:
        raise errors.StructureError(
            record.call, expected=f"the state that init makes for these parameters, with {_leaf(expected, wrong[0])}",
            got=_leaf(given, wrong[0]), at=repr(wrong[0]),
            cause="it is the state of another optimizer or of other parameters",
            fix="write state = tx.init(params), anew for other parameters",
        )  # fmt: skip


def _leaf(shapes: Mapping[str, tuple[int, ...]], path: str) -> str:
    return f"an array of shape {shapes[path]}" if path in shapes else "nothing"
