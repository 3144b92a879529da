"""Normalization of activations, features and weights: pairs of pure functions, exact far from zero."""

from gradtx.norm.batch import BatchNormState, batch_norm
from gradtx.norm.features import FeatureStatistics, feature_statistics, standardize
from gradtx.norm.normalization import Normalization
from gradtx.norm.per_example import group_norm, instance_norm, layer_norm, rms_norm
from gradtx.norm.renorm import BatchRenormState, batch_renorm
from gradtx.norm.statistics import mean_and_variance

__all__ = [
    "BatchNormState",
    "BatchRenormState",
    "FeatureStatistics",
    "Normalization",
    "batch_norm",
    "batch_renorm",
    "feature_statistics",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "mean_and_variance",
    "rms_norm",
    "standardize",
]
