"""Recipes: optimizers as short chains of parts, without arithmetic of their own."""

from gradtx.optimizers.adaptive_moments import adam, adamw, amsgrad
from gradtx.optimizers.root_mean_square import adagrad, rmsprop
from gradtx.optimizers.stochastic_gradient import sgd

__all__ = ["adagrad", "adam", "adamw", "amsgrad", "rmsprop", "sgd"]
