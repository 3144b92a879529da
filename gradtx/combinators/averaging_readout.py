"""The parameters to evaluate with, out of any state in which some part averages them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators.averaging import ExponentialAverageState, UniformAverageState
from gradtx.combinators.averaging_ahead import PrimalAverageState, ScheduleFreeState
from gradtx.combinators.averaging_slowly import LookaheadState
from gradtx.core import states_of
from gradtx.tree import cut, is_inexact, leaf_paths, widen


def averaged_params(state: Any, params: Any) -> Any:
    """The averaged parameters, in the dtypes of ``params``: those to evaluate, to save and to ship.

    ``state`` is any container in which one part averages: :func:`gradtx.exponential_average`,
    :func:`gradtx.uniform_average`, :func:`gradtx.lookahead`, :func:`gradtx.schedule_free` or
    :func:`gradtx.primal_average`, also inside a ``TrainState`` or behind a selection of leaves. A leaf that none of
    them holds comes back as it is in ``params``. The result is a copy: it survives the donation of the state.

    Raises ``StructureError`` where no part averages, where several average the same leaf, or where the state belongs to
    other parameters, ``ShapeError`` where these have other shapes.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.clip(1.0), gradtx.exponential_average(gradtx.sgd(1.0), decay=0.5))
    >>> params = {"w": jnp.array([0.0])}
    >>> updates, state = tx.update({"w": jnp.array([-1.0])}, tx.init(params), params)
    >>> gradtx.averaged_params(state, gradtx.apply_updates(params, updates))["w"].tolist()
    [0.5]
    """
    flat, treedef = jax.tree.flatten(params)
    paths = leaf_paths(params)
    parts = [(path, part) for kind in _READ for path, part in states_of(kind, state)]
    if not parts:
        raise errors.StructureError(
            "averaged_params(state, params)", expected="a state in which a part averages the parameters",
            got=type(state).__name__, cause="the optimizer was made without an average",
            fix="write tx = exponential_average(adam(1e-3), decay=0.999)",
        )  # fmt: skip
    found: dict[str, tuple[str, Callable[[Any], Any], Any]] = {}
    for where, part in parts:
        field, read = _READ[type(part)]
        kept = getattr(part, field)
        for path, leaf in zip(leaf_paths(kept), jax.tree.leaves(kept), strict=True):
            if path in found or path not in paths:
                raise _not_of_these(path, [*([found[path][0]] if path in found else []), where], paths)
            found[path] = where, lambda param, leaf=leaf, part=part, read=read: read(leaf, param, part), leaf
    averaged = []
    for path, param in zip(paths, flat, strict=True):
        if path in found and jnp.shape(found[path][2]) != jnp.shape(param):
            raise errors.ShapeError(
                "averaged_params(state, params)", expected=f"parameters of shape {jnp.shape(found[path][2])}",
                got=f"the shape {jnp.shape(param)}", at=repr(path), cause="the state belongs to other parameters",
                fix="write averaged_params(state, params) with the parameters that the state was made for",
            )  # fmt: skip
        average = found[path][1](widen(param)) if path in found and is_inexact(widen(param)) else param
        averaged.append(jnp.array(_in_dtype(average, param), copy=True))
    return treedef.unflatten(averaged)


def _kept(leaf: Any, param: Any, part: Any) -> Any:
    del param, part
    return leaf


def _behind(ahead: Any, y: Any, part: Any) -> Any:
    """``x = y - (1 - b1)(z - x)``, with ``z - x = (1 - c) ahead``."""
    return y - ahead * ((1.0 - part.b1) * (1.0 - part.share))


# For each kind of state the field that is like the parameters, and the average of a leaf from it.
_READ: dict[type, tuple[str, Callable[[Any, Any, Any], Any]]] = {
    ExponentialAverageState: ("average", _kept),
    UniformAverageState: ("average", _kept),
    LookaheadState: ("slow", _kept),
    ScheduleFreeState: ("ahead", _behind),
    PrimalAverageState: ("ahead", _behind),
}


def _in_dtype(average: Any, param: Any) -> Any:
    """Rounded to nearest, and the largest finite number instead of an infinity where a finite average has none."""
    dtype = jnp.result_type(param)
    if not jnp.issubdtype(dtype, jnp.inexact) or jnp.result_type(average) == dtype:
        return average
    return cut(jnp.asarray(average), jnp.finfo(dtype).max).astype(dtype)


def _not_of_these(path: str, where: list[str], paths: list[str]) -> errors.StructureError:
    if len(where) > 1:
        return errors.StructureError(
            "averaged_params(state, params)", expected="one average of a leaf",
            got=f"those at {' and '.join(name or 'the top' for name in where)} of the state",
            at=repr(path), cause="an average was put around another",
            fix="hand the state of one of them: averaged_params(state.inner, params)",
        )  # fmt: skip
    return errors.StructureError(
        "averaged_params(state, params)", expected=f"a state made for these parameters, {', '.join(paths[:4])}",
        got=f"an average of {path!r}", cause="the state belongs to other parameters",
        fix="write averaged_params(state, params) with the parameters that the state was made for",
    )  # fmt: skip
