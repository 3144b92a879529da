"""The parts that adaptive methods are made of, and the recipes that every user knows."""

import gradtx
from tests.laws.unit import Unit
from tests.papers import oracles

ROWS = (
    Unit("identity", gradtx.identity, oracle=oracles.identity),
    Unit("set_to_zero", gradtx.set_to_zero, oracle=oracles.set_to_zero),
    Unit(
        "scale", gradtx.scale, {"step_size": -0.3}, oracle=oracles.scale,
    ),
    Unit(
        "scale_by_schedule", gradtx.scale_by_schedule, {"step_size_fn": lambda step: 0.5},
    ),
    Unit("scale_by_learning_rate", gradtx.scale_by_learning_rate, {"learning_rate": 1e-2},
         oracle=oracles.scale_by_learning_rate),
    Unit("scale_by_sign", gradtx.scale_by_sign, oracle=oracles.scale_by_sign),
    Unit("ema", gradtx.ema, {"decay": 0.9}, oracle=oracles.ema),
    Unit("mean_square", gradtx.mean_square, {"decay": 0.99}, oracle=oracles.mean_square),
    Unit("mean_square over all steps", gradtx.mean_square, oracle=oracles.mean_square),
    Unit("sum_of_squares", gradtx.sum_of_squares, {"initial_value": 0.1}, oracle=oracles.sum_of_squares),
    Unit("running_max", gradtx.running_max, oracle=oracles.running_max, domain="non-negative", real=True),
    Unit("square_root", gradtx.square_root, {"eps": 1e-8}, oracle=oracles.square_root, domain="non-negative",
         real=True),
    Unit("bias_correction", gradtx.bias_correction, {"decay": 0.999}, oracle=oracles.bias_correction),
    Unit("scale_by_momentum", gradtx.scale_by_momentum, {"decay": 0.9}, oracle=oracles.scale_by_momentum),
    Unit("scale_by_momentum, Nesterov", gradtx.scale_by_momentum, {"decay": 0.9, "nesterov": True},
         oracle=oracles.scale_by_momentum),
    Unit("scale_by_rms", gradtx.scale_by_rms, {}, oracle=oracles.scale_by_rms),
    Unit("scale_by_rms, eps outside", gradtx.scale_by_rms, {"eps_in_sqrt": False, "bias_correction": True},
         oracle=oracles.scale_by_rms),
    Unit("scale_by_adam", gradtx.scale_by_adam, oracle=oracles.scale_by_adam),
    Unit("clip", gradtx.clip, {"max_delta": 0.5}, oracle=oracles.clip, real=True),
    Unit("clip_by_global_norm", gradtx.clip_by_global_norm, {"max_norm": 1.0}),
    Unit("add_decayed_weights", gradtx.add_decayed_weights, {"weight_decay": 0.1},
         oracle=oracles.add_decayed_weights),
    Unit("sgd", gradtx.sgd, {"learning_rate": 0.1}, oracle=oracles.sgd),
    Unit("sgd, momentum", gradtx.sgd, {"learning_rate": 0.1, "momentum": 0.9}, oracle=oracles.sgd),
    Unit("sgd, Nesterov", gradtx.sgd, {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}, oracle=oracles.sgd),
    Unit("adagrad", gradtx.adagrad, {"learning_rate": 0.1}, oracle=oracles.adagrad),
    Unit("rmsprop", gradtx.rmsprop, {"learning_rate": 1e-2}, oracle=oracles.rmsprop),
    Unit("rmsprop, momentum", gradtx.rmsprop, {"learning_rate": 1e-2, "momentum": 0.9}, oracle=oracles.rmsprop),
    Unit("adam", gradtx.adam, {"learning_rate": 1e-3}, oracle=oracles.adam),
    Unit("adam without eps", gradtx.adam, {"learning_rate": 1e-3, "eps": 0.0}, oracle=oracles.adam, smallest=1e-13),
    Unit("adamw", gradtx.adamw, {"learning_rate": 1e-3, "weight_decay": 0.1}, oracle=oracles.adamw),
    Unit("amsgrad", gradtx.amsgrad, {"learning_rate": 1e-3}, oracle=oracles.amsgrad),
)  # fmt: skip
