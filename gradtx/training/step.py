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

from gradtx.combinators import LossScaleState, loss_scale, skipped_steps
from gradtx.combinators import metrics as watched_metrics
from gradtx.combinators.guarding import guards
from gradtx.combinators.holding import choose
from gradtx.core import apply_updates, next_step, record_of, states_of
from gradtx.errors import ArgumentRangeError, ArgumentTypeError, Count, checked_call, show
from gradtx.training.keys import typed_key
from gradtx.training.loss_form import Loss, call_loss, check_loss, examples_in
from gradtx.training.micro_batches import Evaluated, means_over_parts
from gradtx.training.over_devices import counted_alike, over_devices, refuse_shares, shares, sums_over_devices
from gradtx.training.parallel import Parallel, devices_of, on_mesh, on_mesh_of, split_along
from gradtx.training.single_examples import one_by_one
from gradtx.training.state import TrainState, check_state, check_transformation
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
def make_train_step(
    loss: Loss,
    tx: Any,
    *,
    parallel: Parallel = "jit",
    mesh: Any = None,
    axis: str | None = None,
    accumulate: Count = 1,
    donate: bool = True,
    gradient_norm: bool = False,
) -> TrainStep:
    """Compiles ``step(state, batch) -> (state, metrics)``, one step of training::

        k, k_tx = split(fold_in(key, step))       a step draws the same numbers however it was reached
        L, g = value_and_grad(loss)(params, model_state, batch, k)
        u, opt_state = tx.update(g, opt_state, params, value=L, grad=g, value_fn=params -> L, key=k_tx)
        params = params + u,   step = step + 1

    Args:
        loss: ``loss(params, model_state, batch, key) -> (scalar, (model_state, metrics))``; see :func:`from_plain`.
        tx: A gradient transformation. It gets those of the signals above that its ``update`` takes.
        parallel: How a step runs on the devices of ``mesh``, see below.
        mesh: The devices. Without, a step runs where its state lies.
        axis: The axis of the mesh along which batches are split; its first one without.
        accumulate: Parts in which a batch goes through the loss, one after the other, in the memory of one of them.
        donate: Let the new state take the memory of the old one, which is gone afterwards.
        gradient_norm: Report the 2-norm of the gradient too, in place of what a watch calls so.

    Returns:
        The step. Its metrics are float32 or int32 scalars in a flat dict, still on the device: ``loss``, what the loss
        itself reports, ``examples`` (the length of the batch, unless the loss reports it), ``gradient_norm`` if asked
        for, what a :func:`gradtx.watch` in ``tx`` saw, by the names of :func:`gradtx.metrics`, and with guards
        ``skipped_steps`` (so far), with a loss scale ``loss_scale``, in parts ``skipped_micro_batches`` (of this step).
        ``step.lower(state, batch)`` shows what is compiled.

    The first call waits for its loss, and gives a :class:`NonFiniteLossWarning` if it is NaN or infinite; later calls
    never wait for the device. The state goes in and comes out in one order, by which JAX pairs donated arrays with
    results, so no state of the optimizer is copied. (XLA may copy a weight that the backward pass still reads, to
    update it early: on 8 layers that takes 0.27 of the parameters' bytes as scratch; all gradients first would take
    1.0 and be no faster.) Complex gradients are conjugated, since ``jax.grad`` gives the conjugate of the ascent.

    In parts, ``accumulate=n``: every array is cut along its leading axis (a number goes to every part whole), with
    ``ceil(length / n)`` examples in a part, every so manieth, and fewer in the last one if they do not fit. With
    ``g_i``, ``L_i`` and metrics of part ``i``, whose ``examples`` are ``e_i``::

        g = sum_i e_i g_i / sum_i e_i             in float32 or wider; L and the metrics alike, ``examples`` is the sum

    which is the gradient of the whole batch if the loss is a mean over its examples. The model state goes through the
    parts in turn, and each part has a key of its own, ``fold_in(k, i)``. A part whose loss or gradient is not finite is
    left out, with its model state; if no part is left, loss and gradients are NaN. For each part and byte of
    parameters, adding up moves 3 bytes, and seeing what is finite 1. Parts run in a loop. XLA's CPU backend makes the
    gradient of a convolution 16 times slower in a loop, so for CPUs a loss with convolutions is written out part by
    part: 8 parts take 14 ms instead of 170, and 2.5 s to compile instead of 1.1.

    On a mesh the step takes the whole batch and splits it along its leading axes, and puts the state where it belongs:
    what lies on the mesh stays so, as parameters that are split along other axes, and the rest is replicated.

    - ``"jit"``: the program of one device, split by the compiler: the same loss, keys and statistics of the batch.
      A batch whose length the devices do not divide is computed whole by each.
    - ``"shard_map"``: each device evaluates the loss on its own examples, with the key ``fold_in(k, device)``, and
      means are weighted by examples, as for parts above; integer metrics become means as well. Of a batch that the
      devices do not divide the first ones take one example more. Norms take ``axis_name`` for statistics of all
      devices, ``()`` for those of each; with the former a short batch has to be filled up by :func:`padded`. Model
      states are averaged, integers in them become the largest.
    - ``"pmap"``: the same by ``jax.pmap``, which is a ``shard_map`` itself: no faster, on meshes of one axis.
    - ``"zero"``: as ``"shard_map"``, but the sum over devices leaves each with its part of the gradient; it keeps that
      part of the optimizer's state (:func:`state_sharding`), updates that part of the parameters, and they are put
      together. A device sends as many bytes as before, and keeps 1/n of the state.
    - ``"fsdp"``: as ``"zero"``, but parameters are kept in parts too, and put together before the loss.

    In all of them ``tx`` sees whole arrays, which the compiler splits: a global norm is one, and a part that needs a
    whole matrix (:func:`gradtx.muon`) gets it, for what it costs to send.

    A transformation of the gradients of single examples (:func:`gradtx.dpsgd`) gets them: the loss sees one example at
    a time, as a batch of length one, with a key of its own. ``loss`` and metrics are their means, as they are, and not
    private. It takes the memory of as many gradients as there are examples, and neither a model state nor
    ``accumulate``; :func:`micro_grad` does with less. On a mesh by ``"jit"`` only.

    A step that a guard (:func:`gradtx.skip_nonfinite`, :func:`gradtx.skip_large`, :func:`gradtx.accumulate`) in ``tx``
    leaves out changes nothing else either: model state and ``step`` stay, so the next one draws the same keys, and the
    run goes on as if that batch had not been. (What has gone through a loop of :func:`batches` is then ``step`` and
    ``skipped_steps`` together.) :func:`gradtx.check_skipped` raises after too many. A :func:`gradtx.dynamic_loss_scale`
    in ``tx`` scales the loss before it is differentiated; with it a part that overflows is not left out but makes the
    scale smaller, and the step is.

    Raises:
        ArgumentTypeError, ArgumentRangeError: Another ``parallel``, or one without ``mesh`` or with no such ``axis``.

    Raises, at the first call and never in the compiled program:
        LossFormError: The loss has another form; the message shows the right one.
        StructureError, ShapeError, DtypeError: The loss returned another kind of model state than it was given.
        ArgumentTypeError: ``state`` is no :class:`TrainState`, or was donated to an earlier step.
        BatchError: The arrays of a batch have leading axes of several lengths, so that it cannot be cut or counted; or
            devices that evaluate the loss apart have no example each, or not equally many for a loss that sums over
            devices itself.

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
    takes_examples = record_of(tx).per_example
    devices = devices_of(call, parallel, mesh, axis)
    apart = devices if parallel != "jit" else None  # each device evaluates the loss by itself
    if takes_examples and apart:
        raise ArgumentRangeError(
            call, expected='parallel="jit", as the transformation takes the gradient of each example',
            got=show(parallel), cause="devices only hand on the means over their examples",
            fix='write parallel="jit", which splits them too',
        )  # fmt: skip
    if takes_examples and accumulate > 1:
        raise ArgumentRangeError(
            call, expected="accumulate=1, as the transformation takes the gradient of each example", got=accumulate,
            cause="it needs them all at once", fix="sum clipped gradients in parts by training.micro_grad",
        )  # fmt: skip

    def train_step(state: TrainState, batch: Any, split: Any = None) -> tuple[TrainState, Metrics]:
        check_state(state)
        step, params, opt_state, model_state, key = state
        own = _own_metrics(opt_state, accumulate)
        reserved = frozenset({"loss", *own} | ({"gradient_norm"} if gradient_norm else set()))
        scale = loss_scale(opt_state) if "loss_scale" in own else None
        loss_key, update_key = jax.random.split(jax.random.fold_in(typed_key(key), step))
        whole_leaves: list[int | None] = [None] * len(jax.tree.leaves(params))
        scattered = whole_leaves if devices is None or split is None else split_along(devices, split)
        gathered = scattered if parallel == "fsdp" else whole_leaves
        has_shares = apart and shares(apart, batch)[1] > 0
        count_dtype: Any = None

        def without_slope(params: Any, model_state: Any, batch: Any, key: jax.Array) -> Evaluated:
            nonlocal count_dtype
            value, (new_model_state, metrics) = call_loss(loss, reserved, params, model_state, batch, key)
            found = Evaluated(value, _complete(value, metrics, batch), [], new_model_state)
            count_dtype = found.metrics["examples"].dtype
            if apart is None or not (has_shares or "examples" in metrics):
                return found
            if not sums_over_devices(apart, loss, params, model_state, batch, key):
                return found
            return refuse_shares(apart) if has_shares else counted_alike(found, apart)

        def with_slope(params: Any, model_state: Any, batch: Any, key: jax.Array) -> Evaluated:
            def scaled(params: Any) -> tuple[jax.Array, Evaluated]:
                found = without_slope(params, model_state, batch, key)
                return found.value if scale is None else found.value * scale.astype(found.value.dtype), found

            grads, found = jax.grad(scaled, has_aux=True, allow_int=True)(params)
            return found._replace(grads=[_ascent(leaf) for leaf in jax.tree.leaves(grads) if is_inexact(leaf)])

        def whole(evaluate: Callable[..., Evaluated], params: Any, scattered: list[int | None]) -> Any:
            in_parts = functools.partial(_in_parts, evaluate, accumulate, scale is not None)
            if apart is None:
                return in_parts(params, model_state, batch, loss_key)
            return over_devices(
                in_parts, apart, params, model_state, batch, loss_key, gathered=gathered, scattered=scattered
            )

        def value_fn(params: Any, key: Any = None) -> jax.Array:
            del key  # Optax's line searches hand every signal that they do not know on to value_fn
            return whole(without_slope, params, [])[0].value

        of_examples = lambda params, *rest: one_by_one(functools.partial(with_slope, params))(*rest)  # noqa: E731
        scattered = [to for to, leaf in zip(scattered, jax.tree.leaves(params), strict=True) if is_inexact(leaf)]
        found, left_out = whole(of_examples if takes_examples else with_slope, params, scattered)
        value, metrics, floating, new_model_state = found
        grads = _beside_integers(params, floating)
        signals = {"value": value, "grad": grads, "value_fn": value_fn, "key": update_key}
        if split is not None:
            params = jax.lax.with_sharding_constraint(params, split)
        updates, new_opt_state = update(grads, opt_state, params, **{name: signals[name] for name in taken})
        new_params, new_step = apply_updates(params, updates), next_step(step)
        if split is not None:
            new_params = jax.lax.with_sharding_constraint(new_params, split)
        if "skipped_steps" in own:
            is_done = skipped_steps(new_opt_state) == skipped_steps(opt_state)
            new_step, new_model_state = choose(is_done, (new_step, new_model_state), (step, model_state))
        metrics["examples"] = metrics["examples"].astype(count_dtype)
        metrics = metrics | _own_metrics(new_opt_state, accumulate, left_out)
        if gradient_norm:
            mean = [jnp.mean(leaf, 0) for leaf in floating] if takes_examples else floating
            norm = jnp.sqrt(squared_norm(mean)) / (1.0 if scale is None else scale)
            metrics["gradient_norm"] = norm.astype(jnp.float32)
        return TrainState(new_step, new_params, new_opt_state, new_model_state, key), metrics

    donated = 0 if donate else ()
    compiled: Any = on_mesh(devices, train_step, donated) if devices else jax.jit(train_step, donate_argnums=donated)
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
    parameters pass ``state._replace(params=...)``. Of a state on a mesh, batches may lie on one device or on that mesh.

    Raises:
        LossFormError: At the first call, the loss has another form; the message shows the right one.
    """
    check_loss(loss, f"make_eval_step({show(loss)})")

    def eval_step(state: TrainState, batch: Any) -> Metrics:
        check_state(state)
        key = jax.random.fold_in(typed_key(state.key), state.step)
        value, (_, metrics) = call_loss(loss, frozenset({"loss"}), state.params, state.model_state, batch, key)
        return _complete(value, metrics, batch)

    compiled = jax.jit(eval_step)

    @functools.wraps(eval_step)
    def placed_step(state: TrainState, batch: Any) -> Metrics:
        return compiled(state, on_mesh_of(state, batch))

    setattr(placed_step, "lower", compiled.lower)  # noqa: B010 (an attribute of a function is none to a type checker)
    return cast(EvalStep, placed_step)


def signals_taken(update: Callable[..., Any]) -> tuple[str, ...]:
    """Which signals of a train step ``update`` takes, by its signature (the library's own take every one of them)."""
    parameters = inspect.signature(update).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return tuple(name for name in ("value", "grad", "value_fn", "key") if takes_any or name in parameters)


def _in_parts(
    evaluate: Callable[..., Evaluated],
    parts: int,
    is_scaled: bool,
    params: Any,
    model_state: Any,
    batch: Any,
    key: jax.Array,
    agreed: Callable[[jax.Array], jax.Array] = lambda is_finite: is_finite,
) -> tuple[Evaluated, jax.Array]:
    """What ``evaluate`` gives for a batch, at once or in parts, and how many parts were left out.

    With a loss scale none is: gradients that overflow are how it learns that it is too large.
    """
    evaluate = functools.partial(evaluate, params)
    if parts == 1:
        return evaluate(model_state, batch, key), jnp.zeros((), jnp.int32)
    return means_over_parts(evaluate, model_state, batch, key, parts, keep_all=is_scaled, agreed=agreed)


def _beside_integers(params: Any, floating: list[jax.Array]) -> Any:
    """The gradients as a tree like the parameters, where integers have the empty ones that JAX gives them."""
    rest = iter(floating)
    return jax.tree.map(
        lambda leaf: next(rest) if is_inexact(leaf) else np.zeros(jnp.shape(leaf), jax.dtypes.float0), params
    )


def _own_metrics(opt_state: Any, accumulate: int, left_out: Any = 0) -> Metrics:
    """The metrics that come from the step itself and from the state of the transformation."""
    found = watched_metrics(opt_state)
    if accumulate > 1:
        found["skipped_micro_batches"] = left_out
    if guards(opt_state):
        found["skipped_steps"] = skipped_steps(opt_state)
    if states_of(LossScaleState, opt_state):
        found["loss_scale"] = loss_scale(opt_state)
    return found


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
    broken = [path_name(path) or "batch" for path, leaf in leaves if is_inexact(leaf) and not _is_finite(leaf)]
    is_whole = all(leaf.is_fully_addressable for _, leaf in leaves if isinstance(leaf, jax.Array))
    where = "the batch is finite, so the model is not"
    if broken:
        where = f"the batch is not finite at {', '.join(broken)}"
    elif not is_whole:
        where = "the examples of this process are finite, so those of another or the model are not"
    warnings.warn(
        f"step(state, batch): the first loss must be a finite number, got {loss}. {where}; "
        "write jax.config.update('jax_debug_nans', True) to find the operation. [non-finite-loss]",
        NonFiniteLossWarning,
        stacklevel=3,
    )


def _is_finite(leaf: Any) -> bool:
    """Whether all numbers are finite that this process has of an array."""
    parts = [shard.data for shard in leaf.addressable_shards] if isinstance(leaf, jax.Array) else [leaf]
    return all(np.isfinite(part).all() for part in parts)


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
