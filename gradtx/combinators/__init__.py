"""Transformations made from transformations."""

from gradtx.combinators.accumulating import AccumulateState, accumulate
from gradtx.combinators.agreeing import cautious
from gradtx.combinators.averaging import (
    ExponentialAverageState,
    UniformAverageState,
    exponential_average,
    uniform_average,
)
from gradtx.combinators.averaging_ahead import PrimalAverageState, ScheduleFreeState, primal_average, schedule_free
from gradtx.combinators.averaging_readout import averaged_params
from gradtx.combinators.averaging_slowly import LookaheadState, lookahead
from gradtx.combinators.chaining import chain, named_chain
from gradtx.combinators.conditioning import ConditionalState, conditionally_mask, conditionally_transform
from gradtx.combinators.describing import DescribedField, DescribedPart, Description, describe
from gradtx.combinators.fan_out import RatioState, StableRatioState, atan2_ratio, ratio, stable_ratio, total
from gradtx.combinators.flattening import FlattenState, flatten
from gradtx.combinators.guarding import (
    LargeState,
    NonFiniteState,
    SkipState,
    check_skipped,
    skip_large,
    skip_nonfinite,
    skipped_steps,
)
from gradtx.combinators.layering import PerLayerState, by_depth, per_layer
from gradtx.combinators.learning_scale import MechanizeState, mechanize
from gradtx.combinators.loss_scaling import LossScaleState, dynamic_loss_scale, loss_scale
from gradtx.combinators.monitoring import MeasureState, MonitorState, measure_with_ema, monitor, snapshot
from gradtx.combinators.selecting import UnusedLabelWarning, freeze, masked, only, partition
from gradtx.combinators.splitting import RealAndImaginary, SplitState, split_real_and_imaginary
from gradtx.combinators.tuning import hyperparameters, set_hyperparameters, tunable
from gradtx.combinators.watching import WatchState, metrics, watch

__all__ = [
    "AccumulateState",
    "ConditionalState",
    "DescribedField",
    "DescribedPart",
    "Description",
    "ExponentialAverageState",
    "FlattenState",
    "LargeState",
    "LookaheadState",
    "LossScaleState",
    "MeasureState",
    "MechanizeState",
    "MonitorState",
    "NonFiniteState",
    "PerLayerState",
    "PrimalAverageState",
    "RatioState",
    "RealAndImaginary",
    "ScheduleFreeState",
    "SkipState",
    "SplitState",
    "StableRatioState",
    "UniformAverageState",
    "UnusedLabelWarning",
    "WatchState",
    "accumulate",
    "atan2_ratio",
    "averaged_params",
    "by_depth",
    "cautious",
    "chain",
    "check_skipped",
    "conditionally_mask",
    "conditionally_transform",
    "describe",
    "dynamic_loss_scale",
    "exponential_average",
    "flatten",
    "freeze",
    "hyperparameters",
    "lookahead",
    "loss_scale",
    "masked",
    "measure_with_ema",
    "mechanize",
    "metrics",
    "monitor",
    "named_chain",
    "only",
    "partition",
    "per_layer",
    "primal_average",
    "ratio",
    "schedule_free",
    "set_hyperparameters",
    "skip_large",
    "skip_nonfinite",
    "skipped_steps",
    "snapshot",
    "split_real_and_imaginary",
    "stable_ratio",
    "total",
    "tunable",
    "uniform_average",
    "watch",
]
