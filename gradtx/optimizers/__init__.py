"""Recipes: optimizers as short chains of parts, without arithmetic of their own."""

from gradtx.optimizers.adaptive_moments import adam, adamax, adamaxw, adamw, amsgrad, nadam, nadamw
from gradtx.optimizers.layerwise import lamb, lars
from gradtx.optimizers.root_mean_square import adagrad, rmsprop
from gradtx.optimizers.signs import lion, sign_sgd, signum
from gradtx.optimizers.stochastic_gradient import noisy_sgd, sgd

__all__ = [
    "adagrad",
    "adam",
    "adamax",
    "adamaxw",
    "adamw",
    "amsgrad",
    "lamb",
    "lars",
    "lion",
    "nadam",
    "nadamw",
    "noisy_sgd",
    "rmsprop",
    "sgd",
    "sign_sgd",
    "signum",
]
