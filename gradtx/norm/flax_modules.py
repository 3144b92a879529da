"""A normalization as a module of Flax, with the variables of Flax's own layer."""

import functools
from typing import Any

from gradtx import errors
from gradtx.norm.converting import FLAX_NAMES
from gradtx.norm.normalization import Normalization

_MODULE_NAMES = {"rms_norm": "RMSNorm"}


def linen_module(layer: Normalization, *, name: str | None = None) -> Any:
    """A ``flax.linen.Module`` that holds the parameters and the state of a normalization.

    ``module(x, train=None, *, where=None)`` is ``layer.apply``. ``params`` and ``batch_stats`` have the names, shapes
    and, where it is not given, the module name of Flax's own layer (``BatchNorm_0/scale``, ``mean``, ``var``), so that
    its checkpoints fit; besides there is ``step``, from 0 where a checkpoint lacks it. As in Flax, ``init`` does not
    move the statistics, and training needs ``mutable=["batch_stats"]``.

    Args:
        layer: What :func:`batch_norm` or another of this room returns.
        name: The module's name within its parent.

    Raises:
        MissingExtra: Flax is not installed.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import norm
    >>> module = norm.linen_module(norm.batch_norm(decay=0.5))
    >>> x = jnp.array([[1.0], [3.0]])
    >>> variables = module.init(jax.random.key(0), x, True)
    >>> y, updated = module.apply(variables, x, True, mutable=["batch_stats"])
    >>> y.round(4).tolist(), updated["batch_stats"]["mean"].round(4).tolist()
    ([[-1.0], [1.0]], [1.0])
    """
    return _linen_class(_module_name(layer))(layer, name=name)


def nnx_module(layer: Normalization, shape: tuple[int, ...]) -> Any:
    """A ``flax.nnx.Module`` that holds the parameters and the state of a normalization for an x of this shape.

    ``module(x, train=None, *, where=None)`` is ``layer.apply``; with None, it trains until ``model.eval()`` is called.
    Its variables have the names and types of Flax's own layer (``scale`` and ``bias`` are ``nnx.Param``; ``mean`` and
    ``var`` are ``nnx.BatchStat``), and ``step`` besides.

    Args:
        layer: What :func:`batch_norm` or another of this room returns.
        shape: The whole shape of x; only its channel axes matter.

    Raises:
        MissingExtra: Flax is not installed.

    >>> import jax.numpy as jnp
    >>> from gradtx import norm
    >>> module = norm.nnx_module(norm.batch_norm(decay=0.5), (2, 1))
    >>> module(jnp.array([[1.0], [3.0]])).round(4).tolist(), module.mean[...].round(4).tolist()
    ([[-1.0], [1.0]], [1.0])
    """
    return _nnx_class(_module_name(layer))(layer, shape)


def _module_name(layer: Normalization) -> str:
    name = getattr(layer.init, "__gradtx_call__").name  # noqa: B009 (the checker does not know it)
    return _MODULE_NAMES.get(name, "".join(part.capitalize() for part in name.split("_")))


@functools.cache
def _linen_class(name: str) -> Any:
    try:
        import flax.linen as nn
    except ImportError:
        raise _missing("linen_module") from None

    class Normalized(nn.Module):
        layer: Any

        @nn.compact
        def __call__(self, x, train=None, *, where=None):
            params, state = self.layer.init(x.shape)
            params = {key: self.param(key, lambda _, value=value: value) for key, value in params.items()}
            fields: tuple[str, ...] = getattr(state, "_fields", ())
            known = {}
            for field, value in zip(fields, state, strict=True):
                key = FLAX_NAMES.get(field, field)
                if self.has_variable("batch_stats", key) or self.is_mutable_collection("batch_stats"):
                    known[field] = self.variable("batch_stats", key, lambda value=value: value)
            if fields:
                state = state._replace(**{field: variable.value for field, variable in known.items()})
            y, state = self.layer.apply(params, state, x, False if self.is_initializing() else train, where=where)
            if train and not self.is_initializing():
                for field, variable in known.items():
                    variable.value = getattr(state, field)
            return y

    return type(name, (Normalized,), {"__module__": __name__})


@functools.cache
def _nnx_class(name: str) -> Any:
    try:
        from flax import nnx
    except ImportError:
        raise _missing("nnx_module") from None

    class Normalized(nnx.Module):
        def __init__(self, layer, shape):
            params, state = layer.init(shape)
            self.layer = layer
            self.state_type = type(state)
            self.use_running_average = False
            for key, value in params.items():
                setattr(self, key, nnx.Param(value))
            for field, value in zip(self.fields, state, strict=True):
                setattr(self, FLAX_NAMES.get(field, field), nnx.BatchStat(value))
            self.learned = tuple(params)

        @property
        def fields(self) -> tuple[str, ...]:
            return getattr(self.state_type, "_fields", ())

        def __call__(self, x, train=None, *, where=None):
            train = not self.use_running_average if train is None else train
            kept = [getattr(self, FLAX_NAMES.get(field, field)) for field in self.fields]
            params = {key: getattr(self, key)[...] for key in self.learned}
            y, state = self.layer.apply(
                params, self.state_type(*(variable[...] for variable in kept)), x, train, where=where
            )
            if train:
                for variable, value in zip(kept, state, strict=True):
                    variable[...] = value
            return y

    return type(name, (Normalized,), {"__module__": __name__})


def _missing(function: str) -> errors.MissingExtra:
    return errors.MissingExtra(
        function,
        expected="Flax",
        got="no module of this name",
        cause="only its modules need it",
        fix="write pip install gradtx[examples]",
    )
