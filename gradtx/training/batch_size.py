"""What the batch size decides: time, noise of the gradient, and how well the result generalizes."""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx.errors import ArgumentRangeError, ArgumentTypeError, Count, checked_call, show
from gradtx.tables import aligned
from gradtx.training.averaging import mean_metrics
from gradtx.training.batching import batches, batches_per_epoch
from gradtx.training.keys import typed_key
from gradtx.training.loss_form import Loss, call_loss, check_loss, examples_in
from gradtx.training.state import TrainState, create_train_state
from gradtx.training.step import make_eval_step, make_train_step
from gradtx.tree import is_inexact, squared_norm, widen


class GradientNoise(NamedTuple):
    """How the gradients of batches differ from the gradient of all examples.

    ``squared_norm`` is that of the full gradient, ``variance`` the mean of ``||g_batch - g_full||^2``, and ``bias`` is
    ``||mean g_batch - g_full||``, with ``bias_error``, what chance alone may make of it.
    """

    batch_size: int
    batches: int
    squared_norm: float
    variance: float
    bias: float
    bias_error: float


@checked_call
def gradient_noise(
    loss: Loss, state: TrainState, data: Any, batch_size: Count, *, key: Any, epochs: Count = 1
) -> GradientNoise:
    """Compares the gradients of mini-batches with the gradient of all data, at the parameters of ``state``::

        variance = 1/K sum_k ||g_k - g||^2        g_k of K batches, g of all examples
        bias     = ||1/K sum_k g_k - g||

    Batches are drawn without replacement, ``epochs`` times all of them (a short last one is left out). So the mean of
    the gradients is the full gradient, ``E[g_k] = g``, and for N examples whose own gradients vary by ``s^2`` the
    variance is ``s^2 / B * (N - B) / (N - 1)``: it falls as one over the batch size, to zero at ``B = N``.

    Every batch uses the same random key and model state, so what is measured is the choice of examples alone. (With
    batch normalization the loss of an example depends on its batch, and the gradient is then biased.) One program is
    compiled for the batches, and one of the same size serves the full gradient. Gradients are in the dtypes of the
    parameters, sums and norms in float32 or wider; integers among the parameters have none.

    Raises:
        BatchError: The data hold no full batch.
        LossFormError: The loss has another form.

    Source: Robbins and Monro 1951 for the estimate; Cochran 1977, Sampling Techniques, theorem 2.2 for the variance.

    >>> import jax, jax.numpy as jnp, gradtx
    >>> from gradtx import training
    >>> loss = training.from_plain(lambda params, batch: jnp.mean((params - batch) ** 2))
    >>> state = training.create_train_state(jnp.zeros(()), gradtx.sgd(0.1), key=jax.random.key(0))
    >>> noise = training.gradient_noise(loss, state, jnp.arange(4.0), 2, key=jax.random.key(0), epochs=200)
    >>> noise.bias < 1e-6, abs(noise.variance - 5 / 3) < 0.5  # s^2 = 5: 5 / 2 * (4 - 2) / (4 - 1)
    (True, True)
    """
    check_loss(loss, f"gradient_noise({show(loss)}, ...)")
    gradient = _gradient_of(loss)
    full = _full_gradient(gradient, state, data, batch_size)
    total, total_of_squares, count = jax.tree.map(jnp.zeros_like, full), 0.0, 0
    for batch in batches(data, batch_size, key=key, epochs=epochs, drop_last=True):
        difference = jax.tree.map(jnp.subtract, gradient(state, batch), full)
        total = jax.tree.map(jnp.add, total, difference)
        total_of_squares += float(squared_norm(difference))
        count += 1
    variance = total_of_squares / count
    return GradientNoise(
        batch_size=batch_size,
        batches=count,
        squared_norm=float(squared_norm(full)),
        variance=variance,
        bias=float(jnp.sqrt(squared_norm(total))) / count,
        bias_error=float(np.sqrt(variance / count)),
    )


class BatchSizeRow(NamedTuple):
    """A batch size: seconds, gradient noise and losses, each the mean over seeds, and the losses' spread over them."""

    batch_size: int
    updates_per_epoch: int
    seconds_per_update: float
    seconds_per_epoch: float
    gradient_variance: float
    training_loss: float
    test_loss: float
    training_spread: float
    test_spread: float

    @property
    def gap(self) -> float:
        """How much larger the test loss is than the training loss."""
        return self.test_loss - self.training_loss


class BatchSizes(tuple[BatchSizeRow, ...]):
    """Rows of :func:`compare_batch_sizes`; prints as a table."""

    def __repr__(self) -> str:
        head = ["batch size", "updates", "ms/update", "s/epoch", "gradient variance", "training", "test", "gap"]
        cells = [
            [
                f"{row.batch_size:,}",
                f"{row.updates_per_epoch:,}",
                f"{1000 * row.seconds_per_update:.3g}",
                f"{row.seconds_per_epoch:.3g}",
                f"{row.gradient_variance:.3g}",
                f"{row.training_loss:.4f} ±{row.training_spread:.4f}",
                f"{row.test_loss:.4f} ±{row.test_spread:.4f}",
                f"{row.gap:+.4f}",
            ]
            for row in self
        ]
        return aligned([head, *cells])


@checked_call
def compare_batch_sizes(
    loss: Loss,
    tx: Any,
    init: Callable[[jax.Array], tuple[Any, Any]],
    data: Any,
    test: Any,
    *,
    batch_sizes: Sequence[int],
    epochs: Count,
    seeds: Sequence[int] = (0, 1, 2),
    eval_loss: Loss | None = None,
) -> BatchSizes:
    """Trains your model once for each batch size and seed, and says what the batch size did.

    Every run makes ``epochs`` passes over ``data``: the same work, in fewer and larger updates. For each batch size:
    time per update and per epoch, the variance of its gradients around the full gradient at the first parameters
    (:func:`gradient_noise`), and after training the loss of all training data, of the test data, and their gap.

    Args:
        loss: ``loss(params, model_state, batch, key) -> (scalar, (model_state, metrics))``; see :func:`from_plain`.
        tx: The gradient transformation, or a function from the batch size to it, to scale the learning rate.
        init: ``key -> (params, model_state)``, the model before the first step; None where it has no state.
        data: Training data, any tree of arrays with one length on their leading axes.
        test: Test data of the same form.
        batch_sizes: Examples per update; each at most the number of examples.
        epochs: Passes over the training data.
        seeds: One run for each, which decides parameters and order.
        eval_loss: The loss without what is for training alone (dropout); ``loss`` itself by default.

    Returns:
        A row for each batch size, in order; they print as a table. Times are wall-clock, of whole epochs with the
        device drained at the end, without compilation: they hold for this machine. Spreads are half the range over
        seeds.

    Raises:
        ArgumentRangeError: No batch size or no seed, or one that the data do not fill.
        BatchError, LossFormError: As for :func:`batches` and :func:`make_train_step`.
    """
    call = f"compare_batch_sizes({show(loss)}, ..., batch_sizes={show(batch_sizes)})"
    length = examples_in(data)
    if not batch_sizes or not seeds or not all(1 <= size <= length for size in batch_sizes):
        raise ArgumentRangeError(
            call,
            expected=f"at least one seed and batch sizes from 1 to the {length} examples",
            got=f"batch_sizes={show(batch_sizes)}, seeds={show(seeds)}",
            cause="a batch cannot hold more examples than there are",
            fix=f"write batch_sizes=[32, {length}]",
        )
    if not callable(init):
        raise ArgumentTypeError(
            call,
            expected="init must be a function key -> (params, model_state)",
            got=show(init),
            cause="every seed needs parameters of its own",
            fix="write lambda key: (init_params(key), None)",
        )
    eval_step = make_eval_step(loss if eval_loss is None else eval_loss)
    rows = []
    for batch_size in batch_sizes:
        one = tx if isinstance(tx, tuple) else tx(batch_size)
        step = make_train_step(loss, one)
        per_epoch = batches_per_epoch(data, batch_size, drop_last=True)
        seconds, variances, training, held_out = [], [], [], []
        for seed in seeds:
            for_state, for_order = jax.random.split(jax.random.key(seed))
            params, model_state = init(for_state)
            start = functools.partial(create_train_state, params, one, key=for_state, model_state=model_state)
            state = start()
            variances.append(gradient_noise(loss, state, data, batch_size, key=for_order).variance)
            first = next(batches(data, batch_size, key=for_order, drop_last=True))
            jax.block_until_ready(step(start(), first))  # compiles
            began = time.perf_counter()
            for batch in batches(data, batch_size, key=for_order, epochs=epochs, drop_last=True):
                state, _ = step(state, batch)
            jax.block_until_ready(state.params)
            seconds.append((time.perf_counter() - began) / epochs)
            training.append(_loss_of(eval_step, state, data))
            held_out.append(_loss_of(eval_step, state, test))
        per_second = float(np.median(seconds))
        rows.append(
            BatchSizeRow(
                batch_size=int(batch_size),
                updates_per_epoch=per_epoch,
                seconds_per_update=per_second / per_epoch,
                seconds_per_epoch=per_second,
                gradient_variance=float(np.mean(variances)),
                training_loss=float(np.mean(training)),
                test_loss=float(np.mean(held_out)),
                training_spread=float(np.ptp(training) / 2),
                test_spread=float(np.ptp(held_out) / 2),
            )
        )
    return BatchSizes(rows)


_EVALUATED = 1024  # examples at once, where the whole data set is looked at


def _loss_of(eval_step: Callable[..., Any], state: TrainState, data: Any) -> float:
    return mean_metrics(eval_step(state, batch) for batch in batches(data, _EVALUATED))["loss"]


@functools.lru_cache(maxsize=16)
def _gradient_of(loss: Loss) -> Callable[[TrainState, Any], list[jax.Array]]:
    """The compiled gradient of a batch, by the inexact parameters and in float32 or wider, to be summed.

    Batches of equal size share one program.
    """

    @jax.jit
    def gradient(state: TrainState, batch: Any) -> list[jax.Array]:
        def value(params: Any) -> jax.Array:
            return call_loss(loss, frozenset(), params, state.model_state, batch, typed_key(state.key))[0]

        grads = jax.tree.leaves(jax.grad(value, allow_int=True)(state.params))
        return [widen(leaf) for leaf in grads if is_inexact(leaf)]

    return gradient


def _full_gradient(gradient: Callable[[TrainState, Any], Any], state: TrainState, data: Any, batch_size: int) -> Any:
    """The gradient of all examples, weighted by the examples of each batch."""
    length = examples_in(data)
    total = None
    for batch in batches(data, batch_size):
        share = examples_in(batch) / length
        of_batch = jax.tree.map(lambda leaf, share=share: share * leaf, gradient(state, batch))
        total = of_batch if total is None else jax.tree.map(jnp.add, total, of_batch)
    return total
