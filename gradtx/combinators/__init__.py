"""Transformations made from transformations."""

from gradtx.combinators.chaining import chain, named_chain
from gradtx.combinators.describing import DescribedField, DescribedPart, Description, describe
from gradtx.combinators.fan_out import RatioState, ratio, total
from gradtx.combinators.layering import PerLayerState, by_depth, per_layer
from gradtx.combinators.selecting import UnusedLabelWarning, freeze, masked, only, partition
from gradtx.combinators.tuning import hyperparameters, set_hyperparameters, tunable
from gradtx.combinators.watching import WatchState, metrics, watch

__all__ = [
    "DescribedField",
    "DescribedPart",
    "Description",
    "PerLayerState",
    "RatioState",
    "UnusedLabelWarning",
    "WatchState",
    "by_depth",
    "chain",
    "describe",
    "freeze",
    "hyperparameters",
    "masked",
    "metrics",
    "named_chain",
    "only",
    "partition",
    "per_layer",
    "ratio",
    "set_hyperparameters",
    "total",
    "tunable",
    "watch",
]
