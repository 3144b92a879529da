"""One compiled step of training, and one of evaluation. The loop around them is the user's."""

import functools
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradtx.combinators import metrics as watched_metrics
from gradtx.core import apply_updates, next_step
from gradtx.errors import ArgumentTypeError, checked_call, show
from gradtx.training.keys import typed_key
from gradtx.training.loss_form import Loss, call_loss, check_loss, examples_in
from gradtx.training.state import TrainState, check_transformation
from gradtx.tree import is_inexact, path_name, squared_norm

Metrics = dict[str, jax.Array]


class NonFiniteLossWarning(RuntimeWarning):
    """The first loss that a step computed was NaN or infinite."""


class TrainStep(Protocol):
    """What :func:`make_train_step` returns."""

    def __call__(self, state: TrainState, batch: Any) -> tuple[TrainState, Metrics]: ...

    def lower(self, state: TrainState, batch: Any) -> jax.stages.Lowered:
        """The step before compilation, for inspection, as of ``jax.jit``."""
        ...


class EvalStep(Protocol):
    """What :func:`make_eval_step` returns."""

    def __call__(self, state: TrainState, batch: Any) -> Metrics: ...

    def lower(self, state: TrainState, batch: Any) -> jax.stages.Lowered:
        """The step before compilation, for inspection, as of ``jax.jit``."""
        ...


@checked_call
def make_train_step(loss: Loss, tx: Any, *, donate: bool = True, gradient_norm: bool = False) -> TrainStep:
    """Compiles ``step(state, batch) -> (state, metrics)``, one step of training::

        k, k_tx = split(fold_in(key, step))       a step draws the same numbers however it was reached
        L, g = value_and_grad(loss)(params, model_state, batch, k)
        u, opt_state = tx.update(g, opt_state, params, value=L, grad=g, value_fn=params -> L, key=k_tx)
        params = params + u,   step = step + 1

    Args:
        loss: ``loss(params, model_state, batch, key) -> (scalar, (model_state, metrics))``; see :func:`from_plain`.
        tx: A gradient transformation. It gets those of the signals above that its ``update`` takes.
        donate: Let the new state take the memory of the old one, which is gone afterwards.
        gradient_norm: Report the 2-norm of the gradient too, in place of what a watch calls so.

    Returns:
        The step. Its metrics are float32 or int32 scalars in a flat dict, still on the device: ``loss``, what the loss
        itself reports, ``examples`` (the length of the batch, unless the loss reports it), ``gradient_norm`` if asked
        for, and what a :func:`gradtx.watch` in ``tx`` saw, by the names of :func:`gradtx.metrics`.
        ``step.lower(state, batch)`` shows what is compiled.

    The first call waits for its loss, and gives a :class:`NonFiniteLossWarning` if it is NaN or infinite; later calls
    never wait for the device. The state goes in and comes out in one order, by which JAX pairs donated arrays with
    results, so no state of the optimizer is copied. (XLA may copy a weight that the backward pass still reads, to
    update it early: on 8 layers that takes 0.27 of the parameters' bytes as scratch; all gradients first would take
    1.0 and be no faster.) Complex gradients are conjugated, since ``jax.grad`` gives the conjugate of the ascent.

    Raises, at the first call and never in the compiled program:
        LossFormError: The loss has another form; the message shows the right one.
        StructureError, ShapeError, DtypeError: The loss returned another kind of model state than it was given.
        ArgumentTypeError: ``state`` is no :class:`TrainState`, or was donated to an earlier step.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> from gradtx.training import create_train_state, from_plain, make_train_step
    >>> tx = gradtx.sgd(0.25)
    >>> state = create_train_state({"w": jnp.zeros(2)}, tx, key=jax.random.key(0))
    >>> step = make_train_step(from_plain(lambda params, batch: jnp.sum((params["w"] - batch) ** 2)), tx)
    >>> state, metrics = step(state, jnp.array([1.0, -3.0]))
    >>> state.params["w"].tolist(), float(metrics["loss"])
    ([0.5, -1.5], 10.0)
    """
    call = f"make_train_step({show(loss)}, {show(tx)})"
    check_loss(loss, call)
    check_transformation(tx, call)
    _, update = tx
    taken = signals_taken(update)

    def train_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        _check_state(state)
        step, params, opt_state, model_state, key = state
        reserved = {"loss", "gradient_norm"} if gradient_norm else {"loss"}
        reserved = frozenset(reserved | watched_metrics(opt_state).keys())
        loss_key, update_key = jax.random.split(jax.random.fold_in(typed_key(key), step))

        def on_batch(params: Any) -> tuple[jax.Array, tuple[Any, Metrics]]:
            return call_loss(loss, reserved, params, model_state, batch, loss_key)

        def value_fn(params: Any, key: Any = None) -> jax.Array:
            del key  # Optax's line searches hand every signal that they do not know on to value_fn
            return on_batch(params)[0]

        with_slope = jax.value_and_grad(on_batch, has_aux=True, allow_int=True)
        (value, (new_model_state, metrics)), grads = with_slope(params)
        grads = jax.tree.map(_ascent, grads)
        signals = {"value": value, "grad": grads, "value_fn": value_fn, "key": update_key}
        updates, new_opt_state = update(grads, opt_state, params, **{name: signals[name] for name in taken})
        new_params = apply_updates(params, updates)
        metrics = _complete(value, metrics, batch) | watched_metrics(new_opt_state)
        if gradient_norm:
            norm = jnp.sqrt(squared_norm(list(filter(is_inexact, jax.tree.leaves(grads)))))
            metrics["gradient_norm"] = norm.astype(jnp.float32)
        return TrainState(next_step(step), new_params, new_opt_state, new_model_state, key), metrics

    compiled = jax.jit(train_step, donate_argnums=0 if donate else ())
    is_first = True

    @functools.wraps(train_step)
    def checked_step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        nonlocal is_first
        try:
            new_state, metrics = compiled(state, batch)
        except (RuntimeError, ValueError):
            _check_not_donated(state)
            raise
        if is_first and not isinstance(metrics["loss"], Tracer):
            is_first = False
            _warn_unless_finite(metrics, batch)
        return new_state, metrics

    setattr(checked_step, "lower", compiled.lower)  # noqa: B010 (an attribute of a function is none to a type checker)
    return cast(TrainStep, checked_step)


@checked_call
def make_eval_step(loss: Loss) -> EvalStep:
    """Compiles ``step(state, batch) -> metrics``: the metrics of :func:`make_train_step`, and nothing changes.

    The loss has the form of a training loss; what differs in evaluation (running statistics, no dropout) is written in
    it, and the model state that it returns is dropped. Average over batches with :func:`mean_metrics`; for averaged
    parameters pass ``state._replace(params=...)``.

    Raises:
        LossFormError: At the first call, the loss has another form; the message shows the right one.
    """
    check_loss(loss, f"make_eval_step({show(loss)})")

    def eval_step(state: TrainState, batch: Any) -> Metrics:
        _check_state(state)
        key = jax.random.fold_in(typed_key(state.key), state.step)
        value, (_, metrics) = call_loss(loss, frozenset({"loss"}), state.params, state.model_state, batch, key)
        return _complete(value, metrics, batch)

    return cast(EvalStep, jax.jit(eval_step))


def signals_taken(update: Callable[..., Any]) -> tuple[str, ...]:
    """Which signals of a train step ``update`` takes, by its signature (the library's own take every one of them)."""
    parameters = inspect.signature(update).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return tuple(name for name in ("value", "grad", "value_fn", "key") if takes_any or name in parameters)


def _ascent(grad: Any) -> Any:
    return jnp.conj(grad) if jnp.issubdtype(grad.dtype, jnp.complexfloating) else grad


def _complete(value: jax.Array, metrics: Metrics, batch: Any) -> Metrics:
    """The metrics of a step: its loss, what the loss itself reports, and the number of examples."""
    metrics = {"loss": value.astype(jnp.float32), **metrics}
    if "examples" not in metrics:
        metrics["examples"] = jnp.asarray(examples_in(batch), jnp.int32)
    return metrics


def _warn_unless_finite(metrics: Metrics, batch: Any) -> None:
    loss = float(metrics["loss"])
    if math.isfinite(loss):
        return
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    broken = [path_name(path) or "batch" for path, leaf in leaves if is_inexact(leaf) and not np.isfinite(leaf).all()]
    where = f"the batch is not finite at {', '.join(broken)}" if broken else "the batch is finite, so the model is not"
    warnings.warn(
        f"step(state, batch): the first loss must be a finite number, got {loss}. {where}; "
        "write jax.config.update('jax_debug_nans', True) to find the operation. [non-finite-loss]",
        NonFiniteLossWarning,
        stacklevel=3,
    )


def _check_state(state: Any) -> None:
    if not isinstance(state, TrainState):
        raise ArgumentTypeError(
            "step(state, batch)",
            expected="state must be a TrainState",
            got=type(state).__name__,
            cause="the parameters were passed alone, or the result of a train step was not taken apart",
            fix="write state = create_train_state(params, tx, key=key); state, metrics = step(state, batch)",
        )


def _check_not_donated(state: Any) -> None:
    """Explains the failure of a step whose state had been given away; JAX only says that an array was deleted."""
    if any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(state)):
        raise ArgumentTypeError(
            "step(state, batch)",
            expected="a state that no step was given before",
            got="one whose arrays were donated to an earlier step",
            cause="the result was not assigned to state, or an old state was kept",
            fix="write state, metrics = step(state, batch), or make_train_step(loss, tx, donate=False)",
        )
