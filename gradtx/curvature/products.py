"""Products of second-derivative matrices with one direction, for use anywhere, also under ``jit``."""

from typing import Any, NamedTuple

from gradtx import errors
from gradtx.curvature.differentiation import inner
from gradtx.curvature.evaluating import Slope, slope, value_along
from gradtx.curvature.loss_form import Loss, carried
from gradtx.curvature.operators import (
    MODEL,
    OF_EXAMPLES,
    OF_OUTPUTS,
    Operator,
    fisher_at,
    gauss_newton_at,
    hessian_at,
    multiply,
    point,
)


def hvp(loss: Loss, params: Any, batch: Any, direction: Any) -> Any:
    """The Hessian of the loss times a direction: ``H v = d/de grad L(w + e v)`` at ``e = 0``.

    Forward over reverse mode, about two gradients of work (Pearlmutter 1994); reverse over reverse where a
    ``custom_vjp`` leaves no other way. The Hessian is never formed.

    Args:
        loss: ``loss(params, batch) -> scalar`` or ``(scalar, anything)``.
        params: Any tree of real floating-point arrays, in whose dtype the loss computes.
        batch: One batch (any tree of arrays, or None) or a :class:`Dataset`.
        direction: A tree like ``params``.

    Returns:
        A tree like ``params``, in at least float32.

    Raises:
        LossFormError: The loss returns no scalar, or takes other arguments.
        DtypeError: A parameter is integer or complex.
        StructureError, ShapeError: ``direction`` is not like ``params``.
        ArgumentTypeError: A primitive in the loss cannot be differentiated twice; the message names it.

    >>> import jax.numpy as jnp
    >>> from gradtx import curvature
    >>> loss = lambda w, batch: (1 - w[0] * w[1]) ** 2
    >>> curvature.hvp(loss, jnp.zeros(2), None, jnp.array([1.0, 0.0])).tolist()
    [0.0, -2.0]
    """
    call = f"hvp({errors.show(loss)}, params, batch, direction)"
    at = point(call, params, batch, None)
    return _times(hessian_at(carried(call, loss), at, hold=False), direction)


def ggn_product(model: Any, loss: Any, params: Any, batch: Any, direction: Any) -> Any:
    """The Gauss-Newton matrix times a direction, ``J' H J v``; see :func:`gauss_newton`.

    Source: Schraudolph 2002, Neural Computation 14(7), "Fast curvature matrix-vector products for second-order
    gradient descent".

    Args:
        model: ``model(params, batch) -> outputs``.
        loss: ``loss(outputs, batch) -> scalar``.
        params, batch, direction: As in :func:`hvp`.

    >>> import jax.numpy as jnp
    >>> from gradtx import curvature
    >>> model = lambda w, batch: w[0] * w[1]
    >>> loss = lambda out, batch: (1 - out) ** 2
    >>> curvature.ggn_product(model, loss, jnp.array([1.0, 2.0]), None, jnp.array([1.0, 0.0])).tolist()
    [8.0, 4.0]
    """
    call = f"ggn_product({errors.show(model)}, {errors.show(loss)}, params, batch, direction)"
    at = point(call, params, batch, None)
    functions = (carried(call, model, 2, MODEL), carried(call, loss, 2, OF_OUTPUTS))
    return _times(gauss_newton_at(*functions, at, hold=False), direction)


def fisher_product(losses: Any, params: Any, batch: Any, direction: Any) -> Any:
    """The second moment of the examples' gradients times a direction, ``1/N sum_i g_i (g_i' v)``; see :func:`fisher`.

    Args:
        losses: ``losses(params, batch) -> [N]``, the negative log likelihood of each example.
        params, batch, direction: As in :func:`hvp`.

    >>> import jax.numpy as jnp
    >>> from gradtx import curvature
    >>> losses = lambda w, x: 0.5 * (x @ w - 1.0) ** 2
    >>> x = jnp.array([[1.0, 0.0], [0.0, 2.0]])
    >>> curvature.fisher_product(losses, jnp.zeros(2), x, jnp.ones(2)).tolist()
    [0.5, 2.0]
    """
    call = f"fisher_product({errors.show(losses)}, params, batch, direction)"
    at = point(call, params, batch, None)
    return _times(fisher_at(carried(call, losses, 2, OF_EXAMPLES), at, hold=False), direction)


class QuadraticModel(NamedTuple):
    """The second-order Taylor polynomial along one step, beside the loss there; host floats."""

    value: float
    """``L(w)``."""
    slope: float
    """``g' d``."""
    curvature: float
    """``d' H d``."""
    predicted: float
    """``L(w) + g' d + d' H d / 2``."""
    actual: float
    """``L(w + d)``."""


def quadratic_model(loss: Loss, params: Any, batch: Any, direction: Any) -> QuadraticModel:
    """What the Taylor polynomial says of a step, and what the loss says: ``L(w) + g'd + d'Hd/2`` and ``L(w + d)``.

    Args:
        loss, params, batch: As in :func:`hvp`.
        direction: The step ``d``, a tree like ``params``.

    >>> import jax.numpy as jnp
    >>> from gradtx import curvature
    >>> loss = lambda w, batch: (1 - w[0] * w[1]) ** 2
    >>> model = curvature.quadratic_model(loss, jnp.zeros(2), None, jnp.array([0.5, 0.5]))
    >>> model.predicted, model.actual
    (0.5, 0.5625)
    """
    call = f"quadratic_model({errors.show(loss)}, params, batch, direction)"
    function, at = carried(call, loss), point(call, params, batch, None)
    step = at.vector("direction", direction)
    here: Slope = slope(function, at)
    down = float(inner(here.gradient, step))
    curved = float(inner(step, multiply(hessian_at(function, at, hold=False), step)))
    predicted = here.value + down + curved / 2
    return QuadraticModel(here.value, down, curved, predicted, value_along(function, at, step, 1.0))


def _times(operator: Operator, direction: Any) -> Any:
    at = operator.point
    return at.tree(multiply(operator, at.vector("direction", direction)))
