"""Transformations made from transformations."""

from gradtx.combinators.chaining import chain, named_chain
from gradtx.combinators.fan_out import RatioState, ratio
from gradtx.combinators.selecting import UnusedLabelWarning, freeze, masked, only, partition
from gradtx.combinators.tuning import hyperparameters, set_hyperparameters, tunable

__all__ = [
    "RatioState",
    "UnusedLabelWarning",
    "chain",
    "freeze",
    "hyperparameters",
    "masked",
    "named_chain",
    "only",
    "partition",
    "ratio",
    "set_hyperparameters",
    "tunable",
]
