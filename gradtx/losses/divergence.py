"""How far one distribution over classes is from another."""

import jax
import jax.numpy as jnp

from gradtx.errors import Call
from gradtx.losses.operands import counted, own_axes, pair, times, written

Axis = int | tuple[int, ...] | None


def kl_divergence(
    log_predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """The Kullback-Leibler divergence of predictions p from targets t, one number per example::

        KL = sum_c t_c (log t_c - log p_c)

    Args:
        log_predictions: The logarithms of p, such as ``jax.nn.log_softmax(logits)``; floating, ``[..., classes]``.
        targets: The probabilities t, real, the shape of ``log_predictions``.
        axis: The class axis, several of them, or None for all.
        where: What counts: one bool per class (the shape of ``targets``) or per example (without ``axis``). What is
            left out adds nothing, and has gradient zero, whatever stands in it.

    Returns:
        The divergence of each example in nats: the shape without ``axis``, float32 or wider. :func:`mean` averages it.

    A target of 0 adds nothing, also beside a prediction of 0 (-inf); a target above 0 beside one makes the divergence
    inf. Terms of both signs are added: the error is a few eps of ``sum_c t_c (|log t_c| + |log p_c|)``. Neither p nor t
    is normalized; the divergence of what does not add up to 1 may be negative.

    Source: Kullback and Leibler 1951, Annals of Mathematical Statistics 22(1), "On information and sufficiency".

    Raises:
        DtypeError: Predictions that are not floating, complex targets, ``where`` that is not bool.
        ShapeError: Targets or ``where`` of another shape.
        ArgumentRangeError, ArgumentTypeError: ``axis`` names no axis.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> log_p, t = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]])), jnp.array([[1.0, 0.0], [0.25, 0.75]])
    >>> losses.kl_divergence(log_p, t).tolist()
    [0.6931471824645996, 0.0]
    """
    call = written("kl_divergence", log_predictions, targets, where=where)
    axes, log_p, t = _distributions(call, ("log_predictions", "targets"), axis)
    log_t = jnp.log(jnp.where(t == 0, 1, t))  # 0 log 0 is 0, and so is its slope
    return jnp.sum(times(t, log_t - log_p), axes)


def kl_divergence_with_log_targets(
    log_predictions: jax.typing.ArrayLike,
    log_targets: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """:func:`kl_divergence` for targets that are given by their logarithms s::

        KL = sum_c exp(s_c) (s_c - log p_c)

    A logarithm of -inf is a target of 0. Arguments, result and errors are those of :func:`kl_divergence`.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> p, t = jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0])
    >>> float(losses.kl_divergence_with_log_targets(jnp.log(p), jnp.log(t)))
    0.6931471824645996
    """
    call = written("kl_divergence_with_log_targets", log_predictions, log_targets, where=where)
    axes, log_p, s = _distributions(call, ("log_predictions", "log_targets"), axis)
    possible = ~jnp.isneginf(s)
    s = jnp.where(possible, s, 0)
    t = jnp.where(possible, jnp.exp(s), 0)
    return jnp.sum(times(t, s - log_p), axes)


def generalized_kl_divergence(
    log_predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    axis: Axis = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """:func:`kl_divergence` for predictions and targets that need not add up to 1::

        D = sum_c (t_c (log t_c - log p_c) - t_c + p_c)

    It is never negative, convex in p and in log p, and 0 only for p = t. Arguments, result and errors are those of
    :func:`kl_divergence`. A target of 0 adds p. Each term is computed as ``t (exp(d) - 1 - d)``, ``d = log p - log t``,
    by a series for small d: near p = t the relative error is a few eps of ``|log t| / |d|``.

    Source: Bregman 1967, USSR Computational Mathematics and Mathematical Physics 7(3), section 2, the distance that
    ``sum_c t_c log t_c`` generates.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> log_p, t = jnp.log(jnp.array([[1.0, 2.0], [0.5, 0.5]])), jnp.array([[1.0, 2.0], [0.0, 0.5]])
    >>> losses.generalized_kl_divergence(log_p, t).tolist()
    [0.0, 0.5]
    """
    call = written("generalized_kl_divergence", log_predictions, targets, where=where)
    axes, log_p, t = _distributions(call, ("log_predictions", "targets"), axis)
    excess = _excess(log_p, t)
    kept = counted(call, where, excess.shape, axes)
    return jnp.sum(excess if kept is None else jnp.where(kept, excess, 0), axes)


@jax.custom_jvp
def _excess(log_p: jax.Array, t: jax.Array) -> jax.Array:
    """``t (log t - log p) - t + p``."""
    log_t = jnp.log(jnp.where(t == 0, 1, t))
    d = log_p - log_t
    near = jnp.where(jnp.abs(d) < 0.5, d, 0)
    series = jnp.ones_like(d)
    for power in range(16, 2, -1):  # exp(d) - 1 - d = d^2/2 (1 + d/3 (1 + d/4 (...))), to 1e-18 of itself at 0.5
        series = 1 + near / power * series
    far = jnp.where(d > 1, jnp.exp(log_p) - t, t * jnp.expm1(jnp.minimum(d, 1))) - times(t, d)
    return jnp.where(t == 0, jnp.exp(log_p), jnp.where(jnp.abs(d) < 0.5, t * (0.5 * near * near * series), far))


@_excess.defjvp
def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """By log p: ``p - t``; by t: ``log t - log p``, whose slope at t = 0 is that of ``0 log 0 = 0``."""
    (log_p, t), (d_log_p, dt) = primals, tangents
    log_t = jnp.log(jnp.where(t == 0, 1, t))
    d = log_p - log_t
    slope = jnp.where((d < 1) & (t != 0), t * jnp.expm1(jnp.minimum(d, 1)), jnp.exp(log_p) - t)
    possible = jnp.where(jnp.isneginf(log_p) & (t == 0), 0, d)
    return _excess(log_p, t), slope * d_log_p - possible * dt


def _distributions(call: Call, names: tuple[str, str], axis: Axis) -> tuple[tuple[int, ...], jax.Array, jax.Array]:
    """The class axes, and both distributions with -inf and 0, or twice 0, where a class does not count."""
    predictions, targets = call.positional
    axes = own_axes(call, axis, jnp.ndim(predictions))
    log_p, t, kept = pair(call, names, predictions, targets, call.keywords.get("where"), axes)
    return axes, log_p, t if kept is None or names[1] == "targets" else jnp.where(kept, t, -jnp.inf)
