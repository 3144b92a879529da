"""Adaptive methods of the catalogue, and the parts that make them."""

import gradtx
from tests.laws.unit import BETAS, DECAY, EPS, LEARNING_RATE, Unit, of_wrong_kind, out_of_range
from tests.papers import catalogue_oracles as oracles

RATE = {"learning_rate": 1e-3}
DECOUPLED = out_of_range(weight_decay=-0.1)

PARTS = (
    Unit("difference", gradtx.difference, oracle=oracles.difference),
    Unit("previous_mean_square", gradtx.previous_mean_square, {"decay": 0.9, "corrected": True},
         oracle=oracles.previous_mean_square, bad=(*DECAY, of_wrong_kind(corrected=1))),
    Unit("at_least", gradtx.at_least, {"minimum": 0.5}, oracle=oracles.at_least, real=True,
         bad=(out_of_range(minimum=-1.0),)),
    Unit("rectification", gradtx.rectification, {"decay": 0.99}, oracle=oracles.rectification, domain="non-negative",
         bad=(*DECAY, out_of_range(threshold=-1.0))),
    Unit("additive_mean_square", gradtx.additive_mean_square, {"decay": 0.9}, oracle=oracles.additive_mean_square,
         sign=True, bad=(*DECAY, out_of_range(initial_value=-1.0))),
    Unit("scale_by_own_rms", gradtx.scale_by_own_rms, bad=(*DECAY, *EPS)),  # on 1e15 it explodes; exact in adadelta
    Unit("scale_by_param_block_norm", gradtx.scale_by_param_block_norm, oracle=oracles.scale_by_param_block_norm,
         bad=(out_of_range(min_scale=-1.0),)),
    Unit("normalize_by_past_norm", gradtx.normalize_by_past_norm, {"eps_root": 1e-6},
         oracle=oracles.normalize_by_past_norm, bad=(*DECAY, *EPS)),
    Unit("step_and_shrink", gradtx.step_and_shrink, {"learning_rate": 0.1}, oracle=oracles.step_and_shrink,
         bad=LEARNING_RATE),
    Unit("scale_by_distance_over_gradients", gradtx.scale_by_distance_over_gradients,
         oracle=oracles.scale_by_distance_over_gradients, bad=(*EPS, out_of_range(reps_rel=0.0))),
    Unit("covered_sum_of_squares", gradtx.covered_sum_of_squares, {"decay": 0.9},
         oracle=oracles.covered_sum_of_squares, bad=(out_of_range(decay=1.5),)),
    Unit("fading_mean_square", gradtx.fading_mean_square, {"min_dim_size_to_factor": 2},
         oracle=oracles.fading_mean_square, bad=(*EPS, out_of_range(decay_rate=-1.0), out_of_range(step_offset=-1))),
    Unit("scale_by_belief, Nesterov", gradtx.scale_by_belief, {"nesterov": True}, oracle=oracles.scale_by_belief,
         ulps=5.0, bad=(*BETAS, *EPS)),
    Unit("scale_by_yogi, uncorrected", gradtx.scale_by_yogi, {"bias_correction": False}, oracle=oracles.scale_by_yogi,
         sign=True, bad=(*BETAS, *EPS, out_of_range(initial_accumulator_value=-1.0))),
    Unit("scale_by_adopt, unclipped", gradtx.scale_by_adopt, {"nesterov": True, "use_clipping": False},
         oracle=oracles.scale_by_adopt, bad=(*BETAS, *EPS, of_wrong_kind(nesterov=1))),
)  # fmt: skip

RECIPES = (
    Unit("radam", gradtx.radam, {**RATE, "b2": 0.99}, oracle=oracles.radam, ulps=6.0,
         bad=(*LEARNING_RATE, *BETAS, *EPS, out_of_range(threshold=-1.0))),
    Unit("adabelief", gradtx.adabelief, RATE, oracle=oracles.adabelief, ulps=6.0, bad=(*LEARNING_RATE, *BETAS, *EPS)),
    Unit("yogi", gradtx.yogi, RATE, oracle=oracles.yogi, sign=True, ulps=5.0, bad=(*LEARNING_RATE, *BETAS, *EPS)),
    Unit("adan", gradtx.adan, {**RATE, "weight_decay": 0.1}, oracle=oracles.adan, ulps=6.0,
         bad=(*LEARNING_RATE, *BETAS, *EPS, out_of_range(b3=1.0), DECOUPLED)),
    Unit("novograd", gradtx.novograd, {**RATE, "weight_decay": 0.1}, oracle=oracles.novograd,
         bad=(*LEARNING_RATE, *BETAS, *EPS, DECOUPLED)),
    Unit("adopt", gradtx.adopt, RATE, oracle=oracles.adopt, real=True, bad=(*LEARNING_RATE, *BETAS, *EPS)),
    Unit("acprop", gradtx.acprop, {**RATE, "weight_decay": 0.1}, oracle=oracles.acprop, ulps=6.0,
         bad=(*LEARNING_RATE, *BETAS, *EPS, DECOUPLED)),
    Unit("ademamix", gradtx.ademamix, {**RATE, "b3": 0.99, "weight_decay": 0.1}, oracle=oracles.ademamix, ulps=5.0,
         bad=(*LEARNING_RATE, *BETAS, *EPS, out_of_range(alpha=-1.0), DECOUPLED)),
    Unit("simplified_ademamix", gradtx.simplified_ademamix, {**RATE, "alpha": 2.0, "weight_decay": 0.1},
         oracle=oracles.simplified_ademamix, bad=(*LEARNING_RATE, *BETAS, *EPS, DECOUPLED)),
    Unit("optimistic_gradient_descent", gradtx.optimistic_gradient_descent, {**RATE, "alpha": 0.5},
         oracle=oracles.optimistic_gradient_descent, bad=(*LEARNING_RATE, of_wrong_kind(beta="1"))),
    Unit("optimistic_adam", gradtx.optimistic_adam, {**RATE, "optimism": 2e-3}, oracle=oracles.optimistic_adam,
         ulps=6.0, bad=(out_of_range(learning_rate=-1e-3), *BETAS, *EPS)),
    Unit("optimistic_adam_v2", gradtx.optimistic_adam_v2, {**RATE, "beta": 0.5}, oracle=oracles.optimistic_adam_v2,
         ulps=6.0, bad=(*LEARNING_RATE, *BETAS, *EPS)),
    Unit("sm3", gradtx.sm3, RATE, oracle=oracles.sm3, bad=(*LEARNING_RATE, out_of_range(momentum=1.0))),
    Unit("adafactor", gradtx.adafactor,
         {**RATE, "min_dim_size_to_factor": 2, "momentum": 0.9, "weight_decay_rate": 0.1}, oracle=oracles.adafactor,
         ulps=6.0, bad=(*EPS, out_of_range(clipping_threshold=0.0), out_of_range(weight_decay_rate=-0.1))),
    Unit("fromage", gradtx.fromage, {"learning_rate": 0.01}, oracle=oracles.fromage, ulps=6.0,
         bad=(*LEARNING_RATE, out_of_range(min_norm=-1.0))),
    Unit("adadelta", gradtx.adadelta, {"learning_rate": 0.5, "weight_decay": 0.1}, oracle=oracles.adadelta, ulps=5.0,
         bad=(out_of_range(learning_rate=-1.0), out_of_range(rho=1.0), *EPS, DECOUPLED)),
    Unit("rprop", gradtx.rprop, {"learning_rate": 0.01}, oracle=oracles.rprop, real=True, sign=True,
         bad=(*LEARNING_RATE, out_of_range(eta_minus=0.0), out_of_range(max_step_size=-1.0))),
    Unit("madgrad", gradtx.madgrad, {"learning_rate": 0.01, "weight_decay": 0.1}, oracle=oracles.madgrad, ulps=6.0,
         bad=(*LEARNING_RATE, out_of_range(momentum=1.0), *EPS, DECOUPLED)),
)  # fmt: skip

ROWS = PARTS + RECIPES
