"""Adaptive methods of the catalogue, and the parts that make them."""

import gradtx
from tests.laws.unit import Unit
from tests.papers import catalogue_oracles as oracles

RATE = {"learning_rate": 1e-3}

PARTS = (
    Unit("difference", gradtx.difference, oracle=oracles.difference),
    Unit("previous_mean_square", gradtx.previous_mean_square, {"decay": 0.9, "corrected": True},
         oracle=oracles.previous_mean_square),
    Unit("at_least", gradtx.at_least, {"minimum": 0.5}, oracle=oracles.at_least, real=True),
    Unit("rectification", gradtx.rectification, {"decay": 0.99}, oracle=oracles.rectification, domain="non-negative"),
    Unit("additive_mean_square", gradtx.additive_mean_square, {"decay": 0.9}, oracle=oracles.additive_mean_square,
         sign=True),
    Unit("scale_by_own_rms", gradtx.scale_by_own_rms),  # on 1e15 it explodes; exact in adadelta
    Unit("scale_by_param_block_norm", gradtx.scale_by_param_block_norm, oracle=oracles.scale_by_param_block_norm),
    Unit("normalize_by_past_norm", gradtx.normalize_by_past_norm, {"eps_root": 1e-6},
         oracle=oracles.normalize_by_past_norm),
    Unit("step_and_shrink", gradtx.step_and_shrink, {"learning_rate": 0.1}, oracle=oracles.step_and_shrink),
    Unit("scale_by_distance_over_gradients", gradtx.scale_by_distance_over_gradients,
         oracle=oracles.scale_by_distance_over_gradients),
    Unit("covered_sum_of_squares", gradtx.covered_sum_of_squares, {"decay": 0.9},
         oracle=oracles.covered_sum_of_squares),
    Unit("fading_mean_square", gradtx.fading_mean_square, {"min_dim_size_to_factor": 2},
         oracle=oracles.fading_mean_square),
    Unit("scale_by_belief, Nesterov", gradtx.scale_by_belief, {"nesterov": True}, oracle=oracles.scale_by_belief,
         ulps=5.0),
    Unit("scale_by_yogi, uncorrected", gradtx.scale_by_yogi, {"bias_correction": False}, oracle=oracles.scale_by_yogi,
         sign=True),
    Unit("scale_by_adopt, unclipped", gradtx.scale_by_adopt, {"nesterov": True, "use_clipping": False},
         oracle=oracles.scale_by_adopt),
)  # fmt: skip

RECIPES = (
    Unit("radam", gradtx.radam, {**RATE, "b2": 0.99}, oracle=oracles.radam, ulps=6.0),
    Unit("adabelief", gradtx.adabelief, RATE, oracle=oracles.adabelief, ulps=6.0),
    Unit("yogi", gradtx.yogi, RATE, oracle=oracles.yogi, sign=True, ulps=5.0),
    Unit("adan", gradtx.adan, {**RATE, "weight_decay": 0.1}, oracle=oracles.adan, ulps=6.0),
    Unit("novograd", gradtx.novograd, {**RATE, "weight_decay": 0.1}, oracle=oracles.novograd),
    Unit("adopt", gradtx.adopt, RATE, oracle=oracles.adopt, real=True),
    Unit("acprop", gradtx.acprop, {**RATE, "weight_decay": 0.1}, oracle=oracles.acprop, ulps=6.0),
    Unit("ademamix", gradtx.ademamix, {**RATE, "b3": 0.99, "weight_decay": 0.1}, oracle=oracles.ademamix, ulps=5.0),
    Unit("simplified_ademamix", gradtx.simplified_ademamix, {**RATE, "alpha": 2.0, "weight_decay": 0.1},
         oracle=oracles.simplified_ademamix),
    Unit("optimistic_gradient_descent", gradtx.optimistic_gradient_descent, {**RATE, "alpha": 0.5},
         oracle=oracles.optimistic_gradient_descent),
    Unit("optimistic_adam", gradtx.optimistic_adam, {**RATE, "optimism": 2e-3}, oracle=oracles.optimistic_adam,
         ulps=6.0),
    Unit("optimistic_adam_v2", gradtx.optimistic_adam_v2, {**RATE, "beta": 0.5}, oracle=oracles.optimistic_adam_v2,
         ulps=6.0),
    Unit("sm3", gradtx.sm3, RATE, oracle=oracles.sm3),
    Unit("adafactor", gradtx.adafactor,
         {**RATE, "min_dim_size_to_factor": 2, "momentum": 0.9, "weight_decay_rate": 0.1}, oracle=oracles.adafactor,
         ulps=6.0),
    Unit("fromage", gradtx.fromage, {"learning_rate": 0.01}, oracle=oracles.fromage, ulps=6.0),
    Unit("adadelta", gradtx.adadelta, {"learning_rate": 0.5, "weight_decay": 0.1}, oracle=oracles.adadelta, ulps=5.0),
    Unit("rprop", gradtx.rprop, {"learning_rate": 0.01}, oracle=oracles.rprop, real=True, sign=True),
    Unit("madgrad", gradtx.madgrad, {"learning_rate": 0.01, "weight_decay": 0.1}, oracle=oracles.madgrad, ulps=6.0),
)  # fmt: skip

ROWS = PARTS + RECIPES
