"""Moments beyond the first ones, and the scalings and recipes made of them."""

import gradtx
from tests.laws.unit import Unit
from tests.papers import adaptive_oracles as oracles

RATE = {"learning_rate": 1e-3}

ROWS = (
    Unit("ema, two decays", gradtx.ema, {"decay": 0.99, "output_decay": 0.9}, oracle=oracles.ema),
    Unit("absolute_value", gradtx.absolute_value, {"eps": 1e-8}, oracle=oracles.absolute_value),
    Unit("running_max, decaying", gradtx.running_max, {"decay": 0.9}, oracle=oracles.running_max, domain="non-negative",
         real=True),
    Unit("bias_correction, ahead", gradtx.bias_correction, {"decay": 0.9, "steps_ahead": 1},
         oracle=oracles.bias_correction),
    Unit("variance", gradtx.variance, {"decay": 0.9}, oracle=oracles.variance),
    Unit("variance, corrected", gradtx.variance, {"decay": 0.999, "corrected": True}, oracle=oracles.variance,
         ulps=5.0),
    Unit("variance over all steps", gradtx.variance, oracle=oracles.variance),
    Unit("total", gradtx.total, {}, (gradtx.ema(0.5), gradtx.identity(), gradtx.ema(0.9))),
    Unit("total over a whole tree", gradtx.total, {}, (gradtx.clip_by_global_norm(1.0), gradtx.ema(0.9))),
    Unit("scale_by_rss", gradtx.scale_by_rss, oracle=oracles.scale_by_rss),
    Unit("scale_by_stddev", gradtx.scale_by_stddev, oracle=oracles.scale_by_stddev),
    Unit("scale_by_stddev, corrected", gradtx.scale_by_stddev, {"eps_in_sqrt": False, "bias_correction": True},
         oracle=oracles.scale_by_stddev),
    Unit("scale_by_adam, Nesterov", gradtx.scale_by_adam, {"nesterov": True}, oracle=oracles.scale_by_adam, ulps=5.0),
    Unit("scale_by_adam, Nesterov uncorrected", gradtx.scale_by_adam, {"nesterov": True, "bias_correction": False},
         oracle=oracles.scale_by_adam),
    Unit("scale_by_adamax", gradtx.scale_by_adamax, oracle=oracles.scale_by_adamax),
    Unit("adagrad, eps outside", gradtx.adagrad, {"learning_rate": 0.1, "eps_in_sqrt": False}, oracle=oracles.adagrad),
    Unit("rmsprop over all steps", gradtx.rmsprop, {"learning_rate": 1e-2, "decay": None},
         oracle=oracles.rmsprop),
    Unit("rmsprop, centered", gradtx.rmsprop,
         {"learning_rate": 1e-2, "decay": 0.95, "eps": 1e-4, "centered": True, "momentum": 0.9},
         oracle=oracles.rmsprop),
    Unit("adam, uncorrected", gradtx.adam, {**RATE, "bias_correction": False}, oracle=oracles.adam),
    Unit("adamw, Nesterov", gradtx.adamw, {**RATE, "weight_decay": 0.1, "nesterov": True}, oracle=oracles.adamw,
         ulps=5.0),
    Unit("nadam", gradtx.nadam, RATE, oracle=oracles.nadam, ulps=5.0),
    Unit("nadamw", gradtx.nadamw, {**RATE, "weight_decay": 0.1}, oracle=oracles.nadamw, ulps=5.0),
    Unit("adamax", gradtx.adamax, RATE, oracle=oracles.adamax),
    Unit("adamaxw", gradtx.adamaxw, {**RATE, "weight_decay": 0.1}, oracle=oracles.adamaxw),
)  # fmt: skip
