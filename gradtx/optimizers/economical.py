"""Adaptive rates in less memory than the parameters: sums and means of squares by rows and columns."""

from gradtx import errors
from gradtx.combinators import chain
from gradtx.combinators.selecting import Where
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import (
    add_decayed_weights,
    clip_by_block_rms,
    ema,
    scale,
    scale_by_factored_rms,
    scale_by_learning_rate,
    scale_by_param_block_rms,
    scale_by_sm3,
)


@transformation
def sm3(learning_rate: errors.NonNegative, momentum: errors.Decay = 0.9) -> GradientTransformation:
    """AdaGrad by rows and columns, ``u = -learning_rate * m``, ``m`` the moving average of ``g / sqrt(v + 1e-8)``.

    Its decay is ``momentum``. ``v`` is a bound on the sum of squares, the smallest of those of its row and its column,
    see :func:`gradtx.covered_sum_of_squares`. State: one float32 number per parameter, and ``n + m`` for ``n x m``
    weights.

    Source: Anil et al. 2019, arXiv:1901.11150, algorithm 2 (SM3-II).
    """
    return chain(scale_by_sm3(momentum), scale_by_learning_rate(learning_rate))


@transformation
def adafactor(
    learning_rate: errors.NonNegative | None = None,
    min_dim_size_to_factor: errors.Index = 128,
    decay_rate: errors.NonNegative = 0.8,
    decay_offset: errors.Index = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: errors.Positive | None = 1.0,
    momentum: errors.Decay | None = None,
    *,
    weight_decay_rate: errors.Strength | None = None,
    eps: errors.Epsilon = 1e-30,
    factored: bool = True,
    weight_decay_mask: Where | None = None,
) -> GradientTransformation:
    """``u = -(learning_rate * max(RMS(p), 1e-3) * q + weight_decay_rate * p)``, ``q`` the clipped ``g / sqrt(v)``.

    ``v`` is the mean of ``g^2 + eps`` with the decay ``1 - t^-decay_rate``, kept by rows and columns for large
    matrices, see :func:`gradtx.fading_mean_square` for ``decay_offset``, ``min_dim_size_to_factor`` and ``factored``.
    ``q`` is shortened to a root mean square of ``clipping_threshold``. Each of the further parts is left out by its
    argument: the learning rate (the paper's is ``min(1e-2, t^-1/2)``) and ``clipping_threshold`` by ``None``,
    ``multiply_by_parameter_scale`` by ``False``. ``momentum`` averages the multiplied steps. The decay is not
    multiplied by the learning rate; it may be one for each layer, ``weight_decay_mask`` selects the leaves that decay.
    State: for ``n x m`` weights ``n + m`` float32 numbers, and one per parameter with ``momentum``.

    Source: Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4 and 5.
    """
    rate = [] if learning_rate is None else [scale_by_learning_rate(learning_rate, flip_sign=False)]
    return chain(
        scale_by_factored_rms(factored, decay_rate, decay_offset, min_dim_size_to_factor, eps),
        *([] if clipping_threshold is None else [clip_by_block_rms(clipping_threshold)]),
        *rate,
        *([scale_by_param_block_rms()] if multiply_by_parameter_scale else []),
        *([] if momentum is None else [ema(momentum)]),
        *([] if weight_decay_rate is None else [add_decayed_weights(weight_decay_rate, weight_decay_mask)]),
        scale(-1.0),
    )
