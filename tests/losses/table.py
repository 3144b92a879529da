"""One row for each loss, with an oracle in exact arithmetic: what all of them have to obey is in ``test_laws.py``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numpy as np
import optax

from gradtx import losses

MAX = float(np.finfo(np.float32).max)


class Row(NamedTuple):
    """One loss of two arguments; an example is one number each, or a vector of ``size`` numbers."""

    name: str
    loss: Callable[..., Any]
    oracle: Callable[[Any, Any], Any]
    """One example in mpmath, from the equation: two lists of numbers (or one and a class number) to one number."""
    example: Callable[[np.random.Generator], tuple[Any, Any]]
    """Predictions and targets of one example, from where the loss has a derivative."""
    extremes: tuple[tuple[Any, Any], ...]
    """Examples with the largest numbers, with probabilities of 0 and 1, and with residuals of 0."""
    peer: Callable[..., Any] | None = None
    """Optax's function of the same meaning."""
    size: int = 0
    loss_eps: float = 4.0
    """Greatest error of the loss, in eps of float32 times the loss (times ``scale``, where one is given)."""
    gradient_eps: float = 4.0
    """Greatest error of the gradient, in eps of float32 times its largest component in the example (or ``slopes``)."""
    scale: Callable[[Any, Any], float] | None = None
    """What a loss of terms of both signs is compared with."""
    slopes: Callable[[Any, Any], float] | None = None
    """What a gradient of terms of both signs is compared with."""
    smooth_targets: bool = True
    """Whether targets are real numbers that may be differentiated."""

    def __str__(self) -> str:
        return self.name


# ---------------------------------------------------------------------------------------------------------------------
# Oracles: one example each.


def residual(function):
    return lambda x, y: function(mpmath.mpf(x) - mpmath.mpf(y))


def huber(r, delta=1):
    return r * r / 2 if abs(r) <= delta else delta * (abs(r) - mpmath.mpf(delta) / 2)


def log_cosh(r):
    return mpmath.log(mpmath.cosh(r)) if abs(r) < 1000 else abs(r) - mpmath.log(2)


def minus_log_sigmoid(z):
    """``-log(1 / (1 + exp(-z)))``, without a number of more digits than there are."""
    return mpmath.log1p(mpmath.exp(-z)) if z > -1000 else -z


def binary(z, y):
    z, y = mpmath.mpf(z), mpmath.mpf(y)
    return y * minus_log_sigmoid(z) + (1 - y) * minus_log_sigmoid(-z)


def focal(z, y, alpha=None, gamma=2):
    z, y = mpmath.mpf(z), mpmath.mpf(y)
    p_t = y * mpmath.exp(-minus_log_sigmoid(-z)) + (1 - y) * mpmath.exp(-minus_log_sigmoid(z))
    a = 1 if alpha is None else mpmath.mpf(alpha) * y + (1 - mpmath.mpf(alpha)) * (1 - y)
    return a * p_t**gamma * binary(z, y)


def kl(log_p, t):
    return mpmath.fsum(
        b * (mpmath.log(b) - a) for a, b in zip(map(mpmath.mpf, log_p), map(mpmath.mpf, t), strict=True) if b
    )


def kl_log(log_p, s):
    return kl(log_p, [mpmath.exp(b) for b in s])


def norm(v):
    return mpmath.sqrt(mpmath.fsum(c * c for c in v))


def cosine(a, b, epsilon=0):
    a, b = [mpmath.mpf(c) for c in a], [mpmath.mpf(c) for c in b]
    least = mpmath.sqrt(epsilon)
    sizes = max(norm(a), least) * max(norm(b), least)
    return mpmath.fsum(c * d for c, d in zip(a, b, strict=True)) / sizes if sizes else mpmath.mpf(0)


def hinge(f, y):
    return max(mpmath.mpf(0), 1 - mpmath.mpf(f) * mpmath.mpf(y))


def multiclass_hinge(s, y):
    return max(mpmath.mpf(0), 1 + max(mpmath.mpf(c) - mpmath.mpf(s[y]) for k, c in enumerate(s) if k != y))


def perceptron(f, y):
    return max(mpmath.mpf(0), -mpmath.mpf(f) * mpmath.mpf(y))


def multiclass_perceptron(s, y):
    return max(mpmath.mpf(c) - mpmath.mpf(s[y]) for c in s)


def generalized_kl(log_p, t):
    return kl(log_p, t) + mpmath.fsum(mpmath.exp(mpmath.mpf(a)) - mpmath.mpf(b) for a, b in zip(log_p, t, strict=True))


def conjugate(s):
    """The greatest ``<q, s> - |q|^2 / 2`` over distributions q, by the number of classes that take part in it."""
    s = sorted(map(mpmath.mpf, s), reverse=True)
    for count in range(len(s), 0, -1):
        tau = (mpmath.fsum(s[:count]) - 1) / count
        if s[count - 1] > tau:
            return mpmath.fsum((c - tau) * (c - (c - tau) / 2) for c in s[:count])
    raise AssertionError


def multiclass_sparsemax(s, y):
    """Blondel et al. 2020, eq. 14: the Fenchel-Young loss of half the squared norm."""
    return conjugate(s) + mpmath.mpf(1) / 2 - mpmath.mpf(s[y])


def sparsemax(z, y):
    """The same of the scores (z, 0) and the distribution (y, 1 - y)."""
    z, y = mpmath.mpf(z), mpmath.mpf(y)
    return conjugate([z, 0]) + (y * y + (1 - y) ** 2) / 2 - y * z


def poly(z, y, epsilon=2):
    """Leng et al. 2022, eq. 4, for a class number or weights."""
    classes = [y] if np.ndim(y) == 0 else range(len(z))
    weights = [1] if np.ndim(y) == 0 else list(map(mpmath.mpf, y))
    surprises = [cross_entropy(z, c) for c in classes]
    return mpmath.fsum(w * (s - epsilon * mpmath.expm1(-s)) for w, s in zip(weights, surprises, strict=True) if w)


def cross_entropy(z, y):
    """Crossed with a label number or with a weight per class."""
    peak = max(z)
    log_sum = mpmath.log(mpmath.fsum(mpmath.exp(max(mpmath.mpf(c) - peak, mpmath.mpf(-10_000))) for c in z))
    surprises = [log_sum + (peak - mpmath.mpf(c)) for c in z]
    return (
        surprises[y] if np.ndim(y) == 0 else mpmath.fsum(mpmath.mpf(w) * s for w, s in zip(y, surprises, strict=True))
    )


# ---------------------------------------------------------------------------------------------------------------------
# Examples.


def two_numbers(rng):
    """Residuals of all sizes, none of them at 1, where huber has its corner."""
    while True:
        x, y = rng.normal() * 10.0 ** rng.integers(-4, 4), rng.normal()
        x = y + x if rng.random() < 0.5 else x
        if abs(abs(np.float32(x) - np.float32(y)) - 1) > 1e-3 and np.float32(x) != np.float32(y):
            return x, y


def logit_and_label(rng):
    return rng.normal() * 10.0 ** rng.integers(-3, 2), rng.choice([0.0, 1.0, rng.random()])


def logit_and_hard_label(rng):
    return rng.normal() * 10.0 ** rng.integers(-3, 2), float(rng.integers(2))


def score_and_side(rng):
    return rng.normal() * 3, rng.choice([-1.0, 1.0])


def scores_and_class(rng):
    return 3 * rng.normal(size=4), int(rng.integers(4))


def scores_and_weights(rng):
    return 3 * rng.normal(size=4), rng.dirichlet(np.ones(4))


def two_distributions(rng):
    return np.log(rng.dirichlet(np.ones(4))), rng.dirichlet(np.ones(4))


def two_log_distributions(rng):
    return np.log(rng.dirichlet(np.ones(4))), np.log(rng.dirichlet(np.ones(4)))


def two_vectors(rng):
    return rng.normal(size=4) * 10.0 ** rng.integers(-6, 6), rng.normal(size=4)


def terms(log_p, t):
    return float(sum(abs(b) * (abs(np.log(b)) + abs(a)) for a, b in zip(log_p, t, strict=True) if b))


def binary_slopes(z, y):
    p = np.exp(-np.logaddexp(0, -z))
    return y * (1 - p) + (1 - y) * p


def ramp_slopes(z, y):
    return float(abs(np.clip((np.float64(z) + 1) / 2, 0, 1) - y))


def inverse_norm(a, b):
    return float(1 / np.linalg.norm(np.float64(a)))


INFINITE = float("inf")
RESIDUALS = ((0.0, 0.0), (1e30, 1e30), (1e18, -1e18), (1e-18, 0.0), (3.0, 3.0), (1e-3, 0.0), (0.999, 0.0), (30.0, 0.0))
FAR = ((1e30, 0.0), (-1e30, 1e30), (3e38, 0.0), (-3e38, 1e30))
LOGITS = tuple(
    (z, y) for z in (0.0, 20.0, -20.0, 80.0, -80.0, 1e30, -1e30, 3e38, -3e38) for y in (0.0, 1.0, 0.25)
)  # fmt: skip
VECTORS = (
    ((1e30, 2e30), (1.0, 0.0)), ((3e38, 3e38), (3e38, -1e38)), ((1e-30, 1e-30), (2.0, 1.0)),
    ((3e38, 0.0), (0.0, 1e-30)), ((1.0, 2.0), (1.0, 2.0)), ((1.0, 2.0), (-1.0, -2.0)),
)  # fmt: skip

ROWS = (
    Row(
        "squared_error", losses.squared_error, residual(lambda r: r * r), two_numbers, RESIDUALS, optax.squared_error
    ),
    Row("l2_loss", losses.l2_loss, residual(lambda r: r * r / 2), two_numbers, RESIDUALS, optax.l2_loss),
    Row("absolute_error", losses.absolute_error, residual(abs), two_numbers, (*RESIDUALS, *FAR)),
    Row("huber_loss", losses.huber_loss, residual(huber), two_numbers, (*RESIDUALS, *FAR), optax.huber_loss),
    Row("log_cosh", losses.log_cosh, residual(log_cosh), two_numbers, (*RESIDUALS, *FAR), optax.log_cosh, loss_eps=5),
    Row(
        "sigmoid_binary_cross_entropy", losses.sigmoid_binary_cross_entropy, binary, logit_and_label, LOGITS,
        optax.sigmoid_binary_cross_entropy, slopes=binary_slopes,
    ),
    Row(
        "sigmoid_focal_loss", losses.sigmoid_focal_loss, focal, logit_and_hard_label, LOGITS,
        optax.sigmoid_focal_loss, loss_eps=40, gradient_eps=40,
    ),
    Row(
        "softmax_cross_entropy", losses.softmax_cross_entropy, cross_entropy, scores_and_class,
        (((1e30, -1e30, 0.0), 1), ((3e38, -3e38, 3e38), 0), ((0.0, 0.0, 0.0), 1), ((80.0, 0.0, 0.0), 0)),
        optax.softmax_cross_entropy_with_integer_labels, size=4, smooth_targets=False, loss_eps=8, gradient_eps=8,
    ),
    Row(
        "softmax_cross_entropy, dense", losses.softmax_cross_entropy, cross_entropy, scores_and_weights,
        (((1e30, -1e30, 0.0), (0.0, 1.0, 0.0)), ((80.0, 0.0, 0.0), (0.5, 0.25, 0.25))),
        optax.softmax_cross_entropy, size=4, loss_eps=8, gradient_eps=8,
    ),
    Row(
        "kl_divergence", losses.kl_divergence, kl, two_distributions,
        (((-1e30, 0.0), (0.0, 1.0)), ((0.0, -INFINITE), (1.0, 0.0)), ((0.0, -1e30), (0.5, 0.5)),
         (tuple(np.log([0.25, 0.75])), (0.25, 0.75))),
        optax.losses.kl_divergence, size=4, scale=terms,
    ),
    Row(
        "kl_divergence_with_log_targets", losses.kl_divergence_with_log_targets, kl_log, two_log_distributions,
        (((-1e30, 0.0), (-INFINITE, 0.0)), ((0.0, -INFINITE), (0.0, -INFINITE)), ((0.0, -1e30), (-1e30, 0.0)),
         ((-0.5, -1.0), (-0.5, -1.0))),
        optax.losses.kl_divergence_with_log_targets, size=4, scale=lambda p, s: terms(p, np.exp(s)),
    ),
    Row(
        "cosine_similarity", losses.cosine_similarity, cosine, two_vectors, VECTORS, optax.cosine_similarity, size=4,
        scale=lambda a, b: 1.0, slopes=inverse_norm,
    ),
    Row(
        "cosine_distance", losses.cosine_distance, lambda a, b: 1 - cosine(a, b), two_vectors, VECTORS,
        optax.cosine_distance, size=4, scale=lambda a, b: 1.0, slopes=inverse_norm,
    ),
    Row(
        "hinge_loss", losses.hinge_loss, hinge, score_and_side,
        ((0.0, 1.0), (1e30, 1.0), (-1e30, 1.0), (3e38, -1.0), (2.0, 1.0)), optax.hinge_loss, smooth_targets=False,
    ),
    Row(
        "multiclass_hinge_loss", losses.multiclass_hinge_loss, multiclass_hinge, scores_and_class,
        (((1e30, 9e29, -3e38), 0), ((-1e30, 1e30, 0.0), 0), ((1e30, -1e30, 0.0), 0), ((1e8, 1e7, 0.0), 0)),
        optax.losses.multiclass_hinge_loss, size=4, smooth_targets=False,
    ),
    Row(
        "perceptron_loss", losses.perceptron_loss, perceptron, score_and_side,
        ((1.0, 1.0), (1e30, 1.0), (-1e30, 1.0), (3e38, -1.0), (2.0, 1.0)),
        optax.losses.perceptron_loss, smooth_targets=False,
    ),
    Row(
        "multiclass_perceptron_loss", losses.multiclass_perceptron_loss, multiclass_perceptron, scores_and_class,
        (((1e30, 9e29, -3e38), 0), ((-1e30, 1e30, 0.0), 0), ((1e30, -1e30, 0.0), 0), ((1e8, 1e7, 0.0), 0)),
        optax.losses.multiclass_perceptron_loss, size=4, smooth_targets=False,
    ),
    Row(
        "sparsemax_loss", losses.sparsemax_loss, sparsemax, logit_and_label,
        ((0.0, 0.25), (0.999, 1.0), (-0.999, 0.0), (1e30, 0.0), (1e30, 1.0), (-3e38, 1.0), (3e38, 0.25)),
        slopes=ramp_slopes,
    ),
    Row(
        "multiclass_sparsemax_loss", losses.multiclass_sparsemax_loss, multiclass_sparsemax, scores_and_class,
        (((1e30, 9e29, -1e38), 0), ((-1e30, 1e30, 0.0), 0), ((1e30, -1e30, 0.0), 0), ((0.25, 0.5, 0.0), 0)),
        optax.losses.multiclass_sparsemax_loss, size=4, smooth_targets=False, scale=lambda s, y: 1 + abs(max(s) - s[y]),
        slopes=lambda s, y: 1.0,
    ),
    Row(
        "generalized_kl_divergence", losses.generalized_kl_divergence, generalized_kl, two_distributions,
        (((-1e30, 0.0), (0.0, 1.0)), ((0.0, -INFINITE), (1.0, 0.0)), ((0.0, -1e30), (0.5, 0.5)),
         ((80.0, 0.0), (3.0, 2.0)),
         ((1e-4, 0.5), (1.0, 1.5))),
        optax.losses.generalized_kl_divergence, size=4,
        scale=lambda p, t: terms(p, t) + float(np.sum(np.exp(p)) + sum(t)),
        slopes=lambda p, t: float(np.max(np.exp(p)) + max(t)),
    ),
    Row(
        "poly_loss_cross_entropy", losses.poly_loss_cross_entropy, poly, scores_and_class,
        (((1e30, -1e30, 0.0), 1), ((3e38, -3e38, 0.0), 0), ((0.0, 0.0, 0.0), 1), ((80.0, 0.0, 0.0), 0)),
        size=4, smooth_targets=False, loss_eps=8, gradient_eps=8,
    ),
    Row(
        "poly_loss_cross_entropy, dense", losses.poly_loss_cross_entropy, poly, scores_and_weights,
        (((1e30, -1e30, 0.0), (0.0, 1.0, 0.0)), ((80.0, 0.0, 0.0), (0.5, 0.25, 0.25))),
        optax.losses.poly_loss_cross_entropy, size=4, loss_eps=8, gradient_eps=8,
    ),
)  # fmt: skip
