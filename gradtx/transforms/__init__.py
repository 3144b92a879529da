"""Parts that read one element or one leaf, and clipping by the norm of all."""

from gradtx.transforms.adaptive import scale_by_adam, scale_by_rms
from gradtx.transforms.clipping import clip, clip_by_global_norm
from gradtx.transforms.decay import add_decayed_weights
from gradtx.transforms.moments import (
    BiasCorrectionState,
    EmaState,
    MeanSquareState,
    RunningMaxState,
    SumOfSquaresState,
    bias_correction,
    ema,
    mean_square,
    running_max,
    square_root,
    sum_of_squares,
)
from gradtx.transforms.momentum import MomentumState, scale_by_momentum
from gradtx.transforms.scaling import (
    identity,
    scale,
    scale_by_learning_rate,
    scale_by_schedule,
    scale_by_sign,
    set_to_zero,
)

__all__ = [
    "BiasCorrectionState",
    "EmaState",
    "MeanSquareState",
    "MomentumState",
    "RunningMaxState",
    "SumOfSquaresState",
    "add_decayed_weights",
    "bias_correction",
    "clip",
    "clip_by_global_norm",
    "ema",
    "identity",
    "mean_square",
    "running_max",
    "scale",
    "scale_by_adam",
    "scale_by_learning_rate",
    "scale_by_momentum",
    "scale_by_rms",
    "scale_by_schedule",
    "scale_by_sign",
    "set_to_zero",
    "square_root",
    "sum_of_squares",
]
