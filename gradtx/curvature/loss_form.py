"""The form of a loss here, ``loss(params, batch) -> scalar``, and how a training loss gets it.

A loss is carried as a :class:`jax.tree_util.Partial`: the arrays that it holds are arguments of the compiled functions,
so one whose model state changes from step to step is compiled once.
"""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from gradtx import errors

Loss = Callable[[Any, Any], Any]
"""``loss(params, batch) -> scalar``, or ``-> (scalar, anything)``: the mean over the examples of the batch."""

_WRITE = "write def loss(params, batch): ... return jnp.mean(losses)"


def frozen_loss(loss: Callable[..., Any], state: Any, key: Any) -> Loss:
    """The training loss at one moment: ``loss(params, batch)``, with the model state and the key held fixed.

    ``L(w, batch) = loss(w, state.model_state, batch, key)``, of which the second derivative makes sense: dropout keeps
    its mask from product to product.

    Args:
        loss: A training loss, ``loss(params, model_state, batch, key) -> (scalar, (model_state, metrics))``.
        state: Anything with a field ``model_state``, such as ``training.TrainState``.
        key: What the loss gets as its key, one typed random key.

    Raises:
        ArgumentTypeError: ``loss`` is no function, or ``state`` has no ``model_state``.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature, training
    >>> loss = training.from_plain(lambda params, batch: jnp.sum(params**2))
    >>> class State:
    ...     model_state = None
    >>> float(curvature.frozen_loss(loss, State, jax.random.key(0))(jnp.array([3.0]), None))
    9.0
    """
    call = f"frozen_loss({errors.show(loss)}, {type(state).__name__}, key)"
    if not hasattr(state, "model_state"):
        raise errors.ArgumentTypeError(
            call,
            expected="state must have a field model_state",
            got=errors.show(state),
            cause="the parameters or the optimizer's state were given",
            fix="give what training.create_train_state returns",
        )
    return Partial(_at_a_moment, carried(call, loss, 4), state.model_state, key)


def _at_a_moment(loss: Partial, model_state: Any, key: Any, params: Any, batch: Any) -> Any:
    return loss(params, model_state, batch, key)[0]


def carried(call: Any, function: Any, arguments: int = 2, what: str = "loss(params, batch)") -> Partial:
    """A function as a pytree: what it holds are leaves; raises unless it can take so many arguments."""
    if not callable(function) or isinstance(function, type):
        raise errors.ArgumentTypeError(
            call,
            expected=f"{what} must be a function",
            got=f"{type(function).__name__} {errors.show(function)}",
            cause="the arguments are in another order, or the function was called where it was meant",
            fix=_WRITE,
        )
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        raise errors.LossFormError(
            call,
            expected=f"a function of {arguments} arguments, {what}",
            got=f"{errors.show(function)}{inspect.signature(function)}",
            cause="a training loss takes the model state and a key besides" if arguments == 2 else "another form",
            fix="write curvature.frozen_loss(loss, state, key)" if arguments == 2 else _WRITE,
        ) from None
    except ValueError:  # a function of C has no signature
        pass
    return function if isinstance(function, Partial) else Partial(function)


def scalar_of(returned: Any) -> jax.Array:
    """The loss out of what a loss function returned, alone or before something else; at least float32."""
    value = returned[0] if isinstance(returned, tuple | list) and len(returned) == 2 else returned
    number = isinstance(value, jax.Array | np.ndarray | np.generic | float | int)
    if not number or np.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        got = errors.show(value) if not isinstance(value, jax.Array) else f"{value.dtype}{list(value.shape)}"
        raise errors.LossFormError(
            errors.UNNAMED,
            expected="loss(params, batch) must return one real number, or that and something else",
            got=got,
            cause="the losses of the examples were not averaged" if number and np.shape(value) else "another form",
            fix=_WRITE,
        )
    return jnp.asarray(value).astype(jnp.promote_types(jnp.result_type(value), jnp.float32))
