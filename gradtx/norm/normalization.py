"""The form of every normalization."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Normalization(NamedTuple):
    """A pair of pure functions, the layer ``y = apply(x)`` with its parameters and its state held by the caller::

        init(shape)                    -> (params, state)
        apply(params, state, x, train) -> (y, state)

    ``shape`` is the whole shape of x, batch included; only its channel axes matter. ``params`` are trained by
    gradients, ``state`` is not: it is what training saw, kept for evaluation, and goes where a training loss keeps its
    model state. ``train`` is True or False, known when the program is traced.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[Any, Any]]
