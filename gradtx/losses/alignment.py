"""The loss of a sequence of labels without a time for each: all alignments count (CTC)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx.errors import ArgumentRangeError, Call, DtypeError, Index, Number, ShapeError, checked_call
from gradtx.losses.log_probabilities import below_peak, log_sum_exp
from gradtx.losses.operands import floating, misfit, written
from gradtx.tree import widen


@checked_call
def ctc_loss(
    logits: jax.typing.ArrayLike,
    logit_paddings: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    label_paddings: jax.typing.ArrayLike,
    *,
    blank_id: Index = 0,
    log_epsilon: Number = -1e5,
) -> jax.Array:
    """Connectionist temporal classification: minus the log probability that the frames spell the labels::

        loss = -log sum_a prod_t p(a_t | t),    p = softmax(logits)

    over all alignments a of a class to each frame that are the labels once repeats are merged and blanks dropped.

    Args:
        logits: Unnormalized log probabilities, floating, ``[batch, frames, classes]``, one of the classes a blank.
        logit_paddings: 1 (or True) for a frame that is none, else 0, ``[batch, frames]``; such frames may be anywhere
            and hold anything.
        labels: Class numbers, integers, ``[batch, length]``.
        label_paddings: 1 (or True) for a label that is none, else 0, ``[batch, length]``, at the end of each row.
        blank_id: The class number of the blank.
        log_epsilon: What ``log 0`` is written as: a sequence that cannot be spelled, as one with more labels than
            frames, costs ``-log_epsilon`` and has gradient zero.

    Returns:
        The loss of each sequence in nats, ``[batch]``, float32 or wider; 0 for no labels in no frames. A label outside
        ``[0, classes)``, or the blank as a label, gives NaN for its sequence (Optax: a probability of 1).

    The forward probabilities of each frame are relative to their largest, whose logarithm is added up beside them: the
    gradient keeps a relative precision of about 1e-6 over thousands of frames, and a loss above ``-log_epsilon`` is
    right, too (in Optax, what is not allowed costs ``-log_epsilon``, and is then the cheapest).

    Source: Graves, Fernandez, Gomez and Schmidhuber 2006, ICML, "Connectionist temporal classification", eqs. 5 to 8.

    Raises:
        DtypeError: Logits that are not floating, labels that are not integers, complex paddings.
        ShapeError: Arguments whose shapes do not belong together.
        ArgumentRangeError, ArgumentTypeError: ``blank_id`` is no class number, ``log_epsilon`` no number.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> logits, none = jnp.zeros((1, 2, 3)), jnp.zeros((1, 1))
    >>> loss = losses.ctc_loss(logits, jnp.zeros((1, 2)), jnp.array([[2]]), none)
    >>> (9 * jnp.exp(-loss)).round(4).tolist()  # of 9 alignments, 3 spell it
    [3.0]
    """
    call = written("ctc_loss", logits, logit_paddings, labels, label_paddings)
    return _forward(call, logits, logit_paddings, labels, label_paddings, blank_id, log_epsilon)[0]


@checked_call
def ctc_loss_with_forward_probs(
    logits: jax.typing.ArrayLike,
    logit_paddings: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    label_paddings: jax.typing.ArrayLike,
    *,
    blank_id: Index = 0,
    log_epsilon: Number = -1e5,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """:func:`ctc_loss` with the forward probabilities that it is the end of.

    Returns:
        ``(loss, log_blank, log_label)``. ``log_blank[t, b, n]``, ``[frames, batch, length + 1]``, is the log
        probability that the first t + 1 frames of sequence b spell its first n labels and end in a blank;
        ``log_label[t, b, n]``, ``[frames, batch, length]``, that they spell n + 1 and end in the last of these. For
        ``log 0`` there stands ``log_epsilon``. (In Optax the last frame of ``log_blank`` is the sum of both, unlike
        all others.) Arguments and errors are those of :func:`ctc_loss`.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> logits, none = jnp.zeros((1, 2, 3)), jnp.zeros((1, 1))
    >>> _, blank, label = losses.ctc_loss_with_forward_probs(logits, jnp.zeros((1, 2)), jnp.array([[2]]), none)
    >>> (9 * jnp.exp(blank[-1, 0])).round(4).tolist(), (9 * jnp.exp(label[-1, 0])).round(4).tolist()
    ([1.0, 1.0], [2.0])
    """
    call = written("ctc_loss_with_forward_probs", logits, logit_paddings, labels, label_paddings)
    return _forward(call, logits, logit_paddings, labels, label_paddings, blank_id, log_epsilon)


def _forward(
    call: Call, logits: Any, logit_paddings: Any, labels: Any, label_paddings: Any, blank_id: int, log_epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    z, y, no_frame, no_label = _checked(call, logits, logit_paddings, labels, label_paddings, blank_id)
    classes = z.shape[2]
    z = below_peak(jnp.where(no_frame[..., None], 0, z), 2)
    log_p = z - log_sum_exp(z, 2)[..., None]
    log_blank = log_p[..., blank_id]
    chosen = jnp.clip(y, 0, classes - 1)
    log_label = jnp.take_along_axis(log_p, chosen[:, None], 2)  # [batch, frames, length]
    # A label that equals the one before is only reached by way of a blank.
    repeats = jnp.pad(y[:, 1:] == y[:, :-1], ((0, 0), (min(1, y.shape[1]), 0)), constant_values=True)

    def step(carry: Any, frame: Any) -> tuple[Any, Any]:
        blank, label, offset = carry
        p_blank, p_label, is_none = frame
        before = jnp.pad(label, ((0, 0), (1, 0)), constant_values=-jnp.inf)  # the label before each blank
        skipped = jnp.where(repeats, -jnp.inf, before[:, :-1])
        new_blank = _log_add(blank, before) + p_blank[:, None]
        new_label = _log_add(label, blank[:, :-1], skipped) + p_label
        peak = jnp.max(jnp.concatenate([new_blank, new_label], 1), 1)
        peak = jax.lax.stop_gradient(jnp.where(jnp.isneginf(peak), 0, peak))
        new = (new_blank - peak[:, None], new_label - peak[:, None], offset + peak)
        kept = jax.tree.map(
            lambda old, now: jnp.where(jnp.expand_dims(is_none, range(1, now.ndim)), old, now), carry, new
        )
        return kept, kept

    rows, length = y.shape
    nothing = jnp.full((rows, length + 1), -jnp.inf, z.dtype)
    start = (nothing.at[:, 0].set(0), nothing[:, 1:], jnp.zeros(rows, z.dtype))
    frames = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), (log_blank, log_label, no_frame))
    (blank, label, offset), every = jax.lax.scan(step, start, frames)

    ends = jnp.sum(~no_label, 1, keepdims=True)
    last = jnp.pad(label, ((0, 0), (1, 0)), constant_values=-jnp.inf)
    total = _log_add(*(jnp.take_along_axis(end, ends, 1)[:, 0] for end in (blank, last)))
    loss = jnp.where(jnp.isneginf(total), -log_epsilon, -(total + offset))
    is_wrong = ~no_label & ((y < 0) | (y >= classes) | (y == blank_id))
    loss = jnp.where(jnp.any(is_wrong, 1), jnp.nan, loss)
    every_blank, every_label = (jnp.where(jnp.isneginf(x), log_epsilon, x + every[2][..., None]) for x in every[:2])
    return loss, every_blank, every_label


def _log_add(*terms: jax.Array) -> jax.Array:
    """``log sum exp`` of arrays, with slope zero where all are -inf."""
    stacked = jnp.stack(terms)
    peak = jax.lax.stop_gradient(jnp.max(stacked, 0))
    peak = jnp.where(jnp.isneginf(peak), 0, peak)
    total = jnp.sum(jnp.exp(stacked - peak), 0)
    return jnp.where(total == 0, -jnp.inf, peak + jnp.log(jnp.where(total == 0, 1, total)))


def _checked(
    call: Call, logits: Any, logit_paddings: Any, labels: Any, label_paddings: Any, blank_id: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Wide logits, labels, and which frames and which labels are none."""
    z = widen(floating(call, ("logits", "labels"), logits))
    if z.ndim != 3 or z.shape[2] == 0:
        raise ShapeError(
            call,
            expected="logits of shape [batch, frames, classes]",
            got=z.shape,
            cause="an axis is missing",
            fix="write logits[None] for one sequence",
        )
    if blank_id >= z.shape[2]:
        raise ArgumentRangeError(
            call,
            expected=f"blank_id must be one of the {z.shape[2]} classes",
            got=blank_id,
            cause="the blank is a class of its own",
            fix="make the logits one class wider",
        )
    y = jnp.asarray(labels)
    if not jnp.issubdtype(y.dtype, jnp.integer):
        raise DtypeError(
            call,
            expected="class numbers must be integers",
            got=y.dtype,
            cause="labels and paddings were exchanged, or read as another dtype",
            fix="write labels.astype(jnp.int32)",
        )
    if y.ndim != 2 or y.shape[0] != z.shape[0]:
        raise ShapeError(
            call,
            expected=f"labels of shape [batch, length], here ({z.shape[0]}, length)",
            got=y.shape,
            cause="the labels belong to another batch",
            fix="pass the labels of these very sequences",
        )
    found = []
    for name, padding, shape, of in (
        ("logit_paddings", logit_paddings, z.shape[:2], "frame"), ("label_paddings", label_paddings, y.shape, "label")
    ):  # fmt: skip
        padding = jnp.asarray(padding)
        if jnp.issubdtype(padding.dtype, jnp.complexfloating):
            raise DtypeError(
                call, expected=f"{name} must be 0 or 1", got=padding.dtype, cause="it says what is not there",
                fix=f"write {name}.real",
            )  # fmt: skip
        if padding.shape != shape:
            raise misfit(
                call,
                name,
                padding,
                {shape: f"one per {of}"},
                cause="lengths were given, or the paddings of another array",
                fix="write jnp.arange(frames) >= lengths[:, None]",
            )
        found.append(padding != 0)
    return z, y.astype(jax.dtypes.canonicalize_dtype(np.int64)), found[0], found[1]
