"""Recipes: optimizers as short chains of parts, without arithmetic of their own."""

from gradtx.optimizers.adam_since import adam_atan2, adam_mini, adamc, came, laprop, stable_adamw
from gradtx.optimizers.adaptive_moments import adam, adamax, adamaxw, adamw, amsgrad, nadam, nadamw
from gradtx.optimizers.beyond_adam import (
    acprop,
    adabelief,
    adan,
    ademamix,
    adopt,
    novograd,
    radam,
    simplified_ademamix,
    yogi,
)
from gradtx.optimizers.blended_momentum import aggmo, qhm
from gradtx.optimizers.economical import adafactor, sm3
from gradtx.optimizers.layerwise import fromage, lamb, lars
from gradtx.optimizers.learning_rate_free import cocob, dadapt_adamw, dog, dowg, momo, momo_adam, polyak_sgd, prodigy
from gradtx.optimizers.low_rank import galore
from gradtx.optimizers.optimistic import optimistic_adam, optimistic_adam_v2, optimistic_gradient_descent
from gradtx.optimizers.orthogonalized import muon
from gradtx.optimizers.quasi_newton import lbfgs
from gradtx.optimizers.root_mean_square import adagrad, rmsprop
from gradtx.optimizers.schedule_less import schedule_free_adamw, schedule_free_sgd
from gradtx.optimizers.second_order import sophia
from gradtx.optimizers.self_measured import adadelta, madgrad, rprop
from gradtx.optimizers.signs import lion, sign_sgd, signum, tiger
from gradtx.optimizers.stochastic_gradient import dpsgd, noisy_sgd, sgd

__all__ = [
    "acprop",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adam_atan2",
    "adam_mini",
    "adamax",
    "adamaxw",
    "adamc",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "aggmo",
    "amsgrad",
    "came",
    "cocob",
    "dadapt_adamw",
    "dog",
    "dowg",
    "dpsgd",
    "fromage",
    "galore",
    "lamb",
    "laprop",
    "lars",
    "lbfgs",
    "lion",
    "madgrad",
    "momo",
    "momo_adam",
    "muon",
    "nadam",
    "nadamw",
    "noisy_sgd",
    "novograd",
    "optimistic_adam",
    "optimistic_adam_v2",
    "optimistic_gradient_descent",
    "polyak_sgd",
    "prodigy",
    "qhm",
    "radam",
    "rmsprop",
    "rprop",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "sgd",
    "sign_sgd",
    "signum",
    "simplified_ademamix",
    "sm3",
    "sophia",
    "stable_adamw",
    "tiger",
    "yogi",
]
