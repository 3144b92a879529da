"""The one form of a training loss, ``loss(params, model_state, batch, key) -> (scalar, (model_state, metrics))``.

It is checked while a step is traced, so a loss of another form is told what to write and a right one pays nothing.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx.errors import (
    BatchError,
    DtypeError,
    LossFormError,
    ShapeError,
    StructureError,
    checked_call,
    show,
)
from gradtx.storage import unpack
from gradtx.tree import path_name

FORM = "loss(params, model_state, batch, key) -> (scalar, (model_state, metrics))"
_WRITE = "write return loss, (model_state, {'accuracy': accuracy}), or lift loss(params, batch) by training.from_plain"
_NUMBER = jax.Array | np.ndarray | np.generic | int | float

Loss = Callable[[Any, Any, Any, jax.Array], tuple[jax.Array, tuple[Any, Mapping[str, Any]]]]


@checked_call
def from_plain(loss: Callable[[Any, Any], jax.Array]) -> Loss:
    """Lifts ``loss(params, batch) -> scalar`` to the form of a training loss, without model state, key or metrics."""

    def lifted(params: Any, model_state: Any, batch: Any, key: jax.Array) -> Any:
        del key
        return loss(params, batch), (model_state, {})

    lifted.__name__ = f"from_plain({show(loss)})"
    return lifted


def check_loss(loss: Any, call: str) -> None:
    """Raises unless the function ``loss`` can be called with the four arguments of a training loss."""
    try:
        signature = inspect.signature(loss)
    except ValueError:  # a function of C has none
        return
    try:
        signature.bind("params", "model_state", "batch", "key")
    except TypeError:
        fix = f"write training.from_plain({show(loss)}), or def loss(params, model_state, batch, key)"
        raise _misfit(call, f"a function of {signature}", "a loss of another trainer", fix) from None


def call_loss(
    loss: Loss, reserved: frozenset[str], params: Any, model_state: Any, batch: Any, key: jax.Array
) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
    """Calls the loss; returns its value, the model state in its old types, and the metrics as float32 or int32 scalars.

    Raises:
        LossFormError: The loss returned another form, or a metric that is no scalar or has a ``reserved`` name.
        StructureError, ShapeError, DtypeError: The model state came back different.
    """
    returned = loss(unpack(params), model_state, batch, key)
    call = f"{show(loss)}(params, model_state, batch, key)"
    value, new_state, metrics = _parts(returned, call)
    if jax.tree.structure(new_state) != jax.tree.structure(model_state) == jax.tree.structure(metrics):
        raise _misfit(call, "(scalar, (metrics, model_state))", "the metrics come after the model state")
    return value, (_like(model_state, new_state, call), _scalars(metrics, reserved, call))


def examples_in(batch: Any) -> int:
    """The common length of the leading axes; 1 where no leaf has one.

    Raises:
        BatchError: Several lengths, so the loss has to say what an example is.
    """
    lengths = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf)}
    if len(lengths) > 1:
        raise BatchError(
            "step(state, batch)",
            expected="a batch with one length of all leading axes",
            got=", ".join(map(str, sorted(lengths))),
            cause="the step reports the number of examples, by which metrics are averaged",
            fix="return it from the loss: metrics = {'examples': count}",
        )
    return lengths.pop() if lengths else 1


def _misfit(call: str, got: str, cause: str, fix: str = _WRITE) -> LossFormError:
    return LossFormError(call, expected=f"a training loss has the form {FORM}", got=got, cause=cause, fix=fix)


def _parts(returned: Any, call: str) -> tuple[jax.Array, Any, Mapping[str, Any]]:
    """Value, model state and metrics out of what a loss returned."""
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise _misfit(call, _show(returned), "a loss of another trainer, or a forgotten part")
    value, rest = returned
    if not isinstance(value, _NUMBER):
        raise _misfit(call, f"({_show(value)}, ...)", "the loss itself comes first, and alone")
    if np.shape(value) != ():
        raise _misfit(
            call, f"a loss of shape {np.shape(value)}", "the losses of the examples were not averaged",
            "write return jnp.mean(loss), (model_state, metrics)",
        )  # fmt: skip
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise _misfit(call, f"a loss of dtype {jnp.result_type(value)}", "a count has no gradient")
    if not isinstance(rest, tuple | list) or len(rest) != 2:
        raise _misfit(call, f"(scalar, {_show(rest)})", "model state or metrics are missing")
    model_state, metrics = rest
    if not isinstance(metrics, Mapping):
        got = f"metrics that are {_show(metrics)}"
        raise _misfit(call, got, "metrics are a dict, and come after the model state")
    return jnp.asarray(value), model_state, metrics


def _scalars(metrics: Mapping[str, Any], reserved: frozenset[str], call: str) -> dict[str, jax.Array]:
    """Metrics as float32 or int32 scalars."""
    scalars = {}
    for name, value in metrics.items():
        if name in reserved:
            raise _misfit(
                call, f"a metric named {name!r}", "the step reports this one itself", f"rename or drop {name!r}"
            )
        if not isinstance(name, str) or not isinstance(value, _NUMBER) or np.shape(value) != ():
            raise _misfit(call, f"{_show(value)} for metric {name!r}", "a metric is one number, in a flat dict",
                         f"write {{{name!r}: jnp.mean(value)}}")  # fmt: skip
        dtype = jnp.result_type(value)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise _misfit(call, f"{dtype} for metric {name!r}", "a metric is a real number", f"write abs({name})")
        is_float = jnp.issubdtype(dtype, jnp.floating)
        scalars[name] = jnp.asarray(value).astype(jnp.float32 if is_float else jnp.int32)
    return scalars


def _like(old: Any, new: Any, call: str) -> Any:
    """``new`` with the strong types of ``old``; raises where structure, shape or dtype changed."""
    if jax.tree.structure(old) != jax.tree.structure(new):
        raise StructureError(
            call,
            expected=f"the returned model state must be like the given one, {_outline(old)}",
            got=_outline(new),
            cause="the collections of a model were returned where one of them was given, or the other way round",
            fix="return the tree that was passed to create_train_state(..., model_state=model_state)",
        )

    def keep(path: Any, before: Any, after: Any) -> jax.Array:
        at = "model_state/" + path_name(path)
        if np.shape(before) != np.shape(after):
            raise ShapeError(
                call, expected=f"model state of shape {np.shape(before)}", got=np.shape(after), at=at,
                cause="a state that depends on the batch grows or shrinks with it", fix="reduce over the batch axis",
            )  # fmt: skip
        wanted, dtype = jnp.result_type(before), jnp.result_type(after)
        if wanted != dtype:
            raise DtypeError(
                call, expected=f"model state of dtype {wanted}", got=dtype, at=at,
                cause="the model computes in another precision than its state is kept in",
                fix=f"write value.astype(jnp.{wanted.name})",
            )  # fmt: skip
        return jax.lax.convert_element_type(after, wanted)  # not weakly typed

    return jax.tree_util.tree_map_with_path(keep, old, new)


def _outline(tree: Any) -> str:
    if isinstance(tree, Mapping):
        return f"{type(tree).__name__} of {', '.join(map(repr, tree)) or 'nothing'}"
    return _show(tree)


def _show(value: Any) -> str:
    """What a loss returned, by types: traced arrays as dtype and shape."""
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_show, value))})"
    return show(value) if isinstance(value, jax.Array | np.ndarray) else f"{type(value).__name__} {show(value)}"
