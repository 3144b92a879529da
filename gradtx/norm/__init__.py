"""Normalization of activations, features and weights: pairs of pure functions, exact far from zero."""

from gradtx.norm.batch import BatchNormState, batch_norm
from gradtx.norm.converting import from_flax, from_torch, to_flax, to_torch
from gradtx.norm.features import FeatureStatistics, feature_statistics, standardize
from gradtx.norm.flax_modules import linen_module, nnx_module
from gradtx.norm.normalization import Normalization
from gradtx.norm.per_example import group_norm, instance_norm, layer_norm, rms_norm
from gradtx.norm.renorm import BatchRenormState, batch_renorm
from gradtx.norm.reparametrization import Reparametrization
from gradtx.norm.spectral import spectral_norm
from gradtx.norm.statistics import mean_and_variance
from gradtx.norm.weights import DirectionAndScale, weight_norm

__all__ = [
    "BatchNormState",
    "BatchRenormState",
    "DirectionAndScale",
    "FeatureStatistics",
    "Normalization",
    "Reparametrization",
    "batch_norm",
    "batch_renorm",
    "feature_statistics",
    "from_flax",
    "from_torch",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "linen_module",
    "mean_and_variance",
    "nnx_module",
    "rms_norm",
    "spectral_norm",
    "standardize",
    "to_flax",
    "to_torch",
    "weight_norm",
]
