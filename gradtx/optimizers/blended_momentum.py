"""Gradient descent with several speeds of momentum at once."""

from collections.abc import Sequence

from gradtx import errors
from gradtx.combinators import chain
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import scale_by_aggregated_momentum, scale_by_learning_rate, scale_by_qhm
from gradtx.transforms.blends import Part


@transformation
def qhm(learning_rate: errors.NonNegative, beta: errors.Decay = 0.999, nu: Part = 0.7) -> GradientTransformation:
    """``u = -learning_rate * ((1 - nu) * g + nu * m)``, ``m <- beta * m + (1 - beta) * g``.

    Coming from ``sgd(rate, momentum)``: ``qhm(rate / (1 - momentum), beta=momentum, nu=1.0)``, and ``nu=momentum`` for
    Nesterov's. State: one float32 number per parameter.

    Source: Ma and Yarats 2019, arXiv:1810.06801, equations 3 and 4.
    """
    return chain(scale_by_qhm(beta, nu), scale_by_learning_rate(learning_rate))


@transformation
def aggmo(
    learning_rate: errors.NonNegative, betas: Sequence[errors.Decay] = (0.0, 0.9, 0.99)
) -> GradientTransformation:
    """``u = -learning_rate * (v_1 + ... + v_K) / K``, ``v_k <- betas[k] * v_k + g``.

    State: one float32 number per parameter for each of ``betas`` that is not 0.

    Source: Lucas et al. 2019, arXiv:1804.00325, equation 3.
    """
    return chain(scale_by_aggregated_momentum(betas), scale_by_learning_rate(learning_rate))
