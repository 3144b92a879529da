"""Parameters and statistics from and to the layers of Flax and PyTorch."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors

FLAX_NAMES = {"variance": "var"}
_TORCH_NAMES = {
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "variance": "running_var",
    "step": "num_batches_tracked",
}


def from_flax(variables: Mapping[str, Any], params: Any, state: Any) -> tuple[Any, Any]:
    """Parameters and state from one layer of Flax: BatchNorm, LayerNorm, RMSNorm, GroupNorm or InstanceNorm.

    Args:
        variables: Of a Linen layer ``{"params": {"scale", "bias"}, "batch_stats": {"mean", "var"}}``; of an NNX one
            ``nnx.to_pure_dict(nnx.state(layer))``, which has them side by side.
        params: As ``init`` of the layer here returns them. What ``variables`` lack stays: a scale that Flax left out is
            one.
        state: The same.

    Returns:
        ``(params, state)`` for ``apply``. Flax's ``epsilon`` is ``eps``, its ``momentum`` is ``decay``.

    Raises:
        StructureError: A variable that the layer here does not have, or none at all.
        ShapeError: A variable of another shape.

    >>> import jax.numpy as jnp
    >>> from gradtx import norm
    >>> params, state = norm.layer_norm().init((1, 2))
    >>> params, state = norm.from_flax({"params": {"scale": jnp.array([2.0, 3.0])}}, params, state)
    >>> params["scale"].tolist(), params["bias"].tolist()
    ([2.0, 3.0], [0.0, 0.0])
    """
    nested = {"params", "batch_stats"} & {*variables}
    flat = {name: leaf for key in nested for name, leaf in variables[key].items()} if nested else dict(variables)
    return _filled("from_flax", flat, FLAX_NAMES, params, state)


def to_flax(params: Any, state: Any) -> dict[str, dict[str, Any]]:
    """Variables of one Linen layer of Flax, ``{"params": ...}``, with ``"batch_stats"`` for batch normalization.

    The inverse of :func:`from_flax`; the step, which Flax does not count, is left out.

    >>> from gradtx import norm
    >>> variables = norm.to_flax(*norm.batch_norm().init((2, 1)))
    >>> {name: list(leaves) for name, leaves in variables.items()}
    {'params': ['scale', 'bias'], 'batch_stats': ['mean', 'var']}
    """
    statistics = {FLAX_NAMES.get(name, name): leaf for name, leaf in _fields(state).items() if name != "step"}
    return {"params": dict(params), **({"batch_stats": statistics} if statistics else {})}


def from_torch(state_dict: Mapping[str, Any], params: Any, state: Any) -> tuple[Any, Any]:
    """Parameters and state from one layer of PyTorch: BatchNorm, LayerNorm, RMSNorm, GroupNorm or InstanceNorm.

    Args:
        state_dict: ``layer.state_dict()``: tensors or arrays named ``weight``, ``bias``, ``running_mean``,
            ``running_var`` and ``num_batches_tracked``.
        params: As ``init`` of the layer here returns them. What is lacking stays: without ``affine``, one and zero.
        state: The same.

    Returns:
        ``(params, state)`` for ``apply``. PyTorch's ``momentum`` is one minus ``decay`` (None is None), and its running
        variance has ``n / (n - 1)`` in it: write ``batch_norm(axis=1, decay=0.9, unbiased=True)`` to go on training as
        PyTorch does. Its ``eps`` is 1e-5 by default, also for layers that have 1e-6 here.

    Raises:
        StructureError: A tensor that the layer here does not have, or none at all.
        ShapeError: A tensor of another shape.

    >>> import numpy as np
    >>> from gradtx import norm
    >>> params, state = norm.batch_norm().init((2, 1))
    >>> params, state = norm.from_torch({"weight": np.array([2.0]), "running_var": np.array([4.0])}, params, state)
    >>> params["scale"].tolist(), state.variance.tolist()
    ([2.0], [4.0])
    """
    arrays = {name: _array(leaf) for name, leaf in state_dict.items()}
    return _filled("from_torch", arrays, _TORCH_NAMES, params, state)


def to_torch(params: Any, state: Any) -> dict[str, np.ndarray]:
    """NumPy arrays by the names of PyTorch: the inverse of :func:`from_torch`.

    ``layer.load_state_dict({name: torch.as_tensor(a) for name, a in to_torch(params, state).items()})`` loads them.

    >>> from gradtx import norm
    >>> list(norm.to_torch(*norm.batch_norm().init((2, 1))))
    ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """
    named = {**params, **_fields(state)}
    found = {_TORCH_NAMES[name]: np.array(leaf) for name, leaf in named.items()}
    return {name: leaf.astype(np.int64) if leaf.dtype.kind == "i" else leaf for name, leaf in found.items()}


def _fields(state: Any) -> dict[str, Any]:
    return state._asdict() if hasattr(state, "_asdict") else {}


def _array(leaf: Any) -> Any:
    """A tensor as a NumPy array, also one of bfloat16, which NumPy does not know."""
    return leaf.detach().cpu().double().numpy() if hasattr(leaf, "detach") else leaf


def _filled(call: str, given: dict[str, Any], names: Mapping[str, str], params: Any, state: Any) -> tuple[Any, Any]:
    """``params`` and ``state`` with what is given in the place of leaves of the same names."""
    own = {**params, **_fields(state)}
    theirs = {names.get(name, name): name for name in own}
    unknown = [name for name in given if name not in theirs]
    if unknown or not given:
        raise errors.StructureError(
            call,
            expected=f"variables of one layer, some of {', '.join(map(repr, theirs))}",
            got=f"{', '.join(map(repr, unknown)) or 'none'}",
            cause="those of a whole model, or of another layer, were given",
            fix="choose the layer first, as in variables['params']['BatchNorm_0']",
        )
    for name, leaf in given.items():
        like = own[theirs[name]]
        if jnp.shape(leaf) != jnp.shape(like):
            raise errors.ShapeError(
                call, expected=f"shape {jnp.shape(like)}", got=f"{jnp.shape(leaf)}", at=repr(name),
                cause="init saw another shape, or another axis", fix="write init(x.shape) with the x of that layer",
            )  # fmt: skip
        own[theirs[name]] = jnp.asarray(leaf, jax.dtypes.canonicalize_dtype(jnp.result_type(like)))
    found = {name: own[name] for name in params}
    return found, state._replace(**{name: own[name] for name in _fields(state)}) if _fields(state) else state
