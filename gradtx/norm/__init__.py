"""Normalization of activations and of features: pairs of pure functions, statistics that stay exact far from zero."""

from gradtx.norm.batch import BatchNormState, batch_norm
from gradtx.norm.features import FeatureStatistics, feature_statistics, standardize
from gradtx.norm.normalization import Normalization
from gradtx.norm.statistics import mean_and_variance

__all__ = [
    "BatchNormState",
    "FeatureStatistics",
    "Normalization",
    "batch_norm",
    "feature_statistics",
    "mean_and_variance",
    "standardize",
]
