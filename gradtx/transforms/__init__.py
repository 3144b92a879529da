"""Parts that read one element or one leaf, and clipping by the norm of all."""

from gradtx.transforms.adaptive import scale_by_adam, scale_by_adamax, scale_by_rms, scale_by_rss, scale_by_stddev
from gradtx.transforms.clipping import (
    adaptive_grad_clip,
    clip,
    clip_by_block_norm,
    clip_by_block_rms,
    clip_by_global_norm,
)
from gradtx.transforms.decay import KeepZerosState, add_decayed_weights, keep_zeros, l1_decay, l2_decay, proximal_l1
from gradtx.transforms.moments import (
    BiasCorrectionState,
    EmaState,
    MeanSquareState,
    RunningMaxState,
    SumOfSquaresState,
    VarianceState,
    absolute_value,
    bias_correction,
    ema,
    mean_square,
    running_max,
    square_root,
    sum_of_squares,
    variance,
)
from gradtx.transforms.momentum import MomentumState, scale_by_lion, scale_by_momentum
from gradtx.transforms.noise import AddNoiseState, add_noise
from gradtx.transforms.normalizing import centralize, normalize_by_update_norm, scale_by_trust_ratio
from gradtx.transforms.plateau import ReduceOnPlateauState, reduce_on_plateau
from gradtx.transforms.scaling import (
    identity,
    scale,
    scale_by_learning_rate,
    scale_by_schedule,
    scale_by_sign,
    set_to_zero,
)

__all__ = [
    "AddNoiseState",
    "BiasCorrectionState",
    "EmaState",
    "KeepZerosState",
    "MeanSquareState",
    "MomentumState",
    "ReduceOnPlateauState",
    "RunningMaxState",
    "SumOfSquaresState",
    "VarianceState",
    "absolute_value",
    "adaptive_grad_clip",
    "add_decayed_weights",
    "add_noise",
    "bias_correction",
    "centralize",
    "clip",
    "clip_by_block_norm",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "ema",
    "identity",
    "keep_zeros",
    "l1_decay",
    "l2_decay",
    "mean_square",
    "normalize_by_update_norm",
    "proximal_l1",
    "reduce_on_plateau",
    "running_max",
    "scale",
    "scale_by_adam",
    "scale_by_adamax",
    "scale_by_learning_rate",
    "scale_by_lion",
    "scale_by_momentum",
    "scale_by_rms",
    "scale_by_rss",
    "scale_by_schedule",
    "scale_by_sign",
    "scale_by_stddev",
    "scale_by_trust_ratio",
    "set_to_zero",
    "square_root",
    "sum_of_squares",
    "variance",
]
