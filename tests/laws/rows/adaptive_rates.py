"""Moments beyond the first ones, and the scalings and recipes made of them."""

import gradtx
from tests.laws.unit import BETAS, DECAY, EPS, LEARNING_RATE, Unit, of_wrong_kind, out_of_range
from tests.papers import adaptive_oracles as oracles

RATE = {"learning_rate": 1e-3}

ROWS = (
    Unit("ema, two decays", gradtx.ema, {"decay": 0.99, "output_decay": 0.9}, oracle=oracles.ema,
         bad=(out_of_range(output_decay=1.0), of_wrong_kind(output_decay="0.9"))),
    Unit("absolute_value", gradtx.absolute_value, {"eps": 1e-8}, oracle=oracles.absolute_value, bad=EPS),
    Unit("running_max, decaying", gradtx.running_max, {"decay": 0.9}, oracle=oracles.running_max, domain="non-negative",
         real=True, bad=DECAY),
    Unit("bias_correction, ahead", gradtx.bias_correction, {"decay": 0.9, "steps_ahead": 1},
         oracle=oracles.bias_correction, bad=(out_of_range(steps_ahead=-1), of_wrong_kind(steps_ahead=0.5))),
    Unit("variance", gradtx.variance, {"decay": 0.9}, oracle=oracles.variance,
         bad=(*DECAY, out_of_range(initial_value=-1.0), of_wrong_kind(corrected=1))),
    Unit("variance, corrected", gradtx.variance, {"decay": 0.999, "corrected": True}, oracle=oracles.variance,
         ulps=5.0),
    Unit("variance over all steps", gradtx.variance, oracle=oracles.variance),
    Unit("total", gradtx.total, {}, (gradtx.ema(0.5), gradtx.identity(), gradtx.ema(0.9))),
    Unit("total over a whole tree", gradtx.total, {}, (gradtx.clip_by_global_norm(1.0), gradtx.ema(0.9))),
    Unit("scale_by_rss", gradtx.scale_by_rss, oracle=oracles.scale_by_rss,
         bad=(*EPS, out_of_range(initial_accumulator_value=-0.1))),
    Unit("scale_by_stddev", gradtx.scale_by_stddev, oracle=oracles.scale_by_stddev, bad=(*DECAY, *EPS)),
    Unit("scale_by_stddev, corrected", gradtx.scale_by_stddev, {"eps_in_sqrt": False, "bias_correction": True},
         oracle=oracles.scale_by_stddev),
    Unit("scale_by_adam, Nesterov", gradtx.scale_by_adam, {"nesterov": True}, oracle=oracles.scale_by_adam, ulps=5.0,
         bad=(of_wrong_kind(nesterov=1), of_wrong_kind(bias_correction=None))),
    Unit("scale_by_adam, Nesterov uncorrected", gradtx.scale_by_adam, {"nesterov": True, "bias_correction": False},
         oracle=oracles.scale_by_adam),
    Unit("scale_by_adamax", gradtx.scale_by_adamax, oracle=oracles.scale_by_adamax, bad=(*BETAS, *EPS)),
    Unit("adagrad, eps outside", gradtx.adagrad, {"learning_rate": 0.1, "eps_in_sqrt": False}, oracle=oracles.adagrad),
    Unit("rmsprop over all steps", gradtx.rmsprop, {"learning_rate": 1e-2, "decay": None},
         oracle=oracles.rmsprop),
    Unit("rmsprop, centered", gradtx.rmsprop,
         {"learning_rate": 1e-2, "decay": 0.95, "eps": 1e-4, "centered": True, "momentum": 0.9},
         oracle=oracles.rmsprop, bad=(of_wrong_kind(centered="yes"),)),
    Unit("adam, uncorrected", gradtx.adam, {**RATE, "bias_correction": False}, oracle=oracles.adam),
    Unit("adamw, Nesterov", gradtx.adamw, {**RATE, "weight_decay": 0.1, "nesterov": True}, oracle=oracles.adamw,
         ulps=5.0),
    Unit("nadam", gradtx.nadam, RATE, oracle=oracles.nadam, ulps=5.0, bad=(*LEARNING_RATE, *BETAS, *EPS)),
    Unit("nadamw", gradtx.nadamw, {**RATE, "weight_decay": 0.1}, oracle=oracles.nadamw, ulps=5.0,
         bad=(*LEARNING_RATE, *BETAS, *EPS, out_of_range(weight_decay=-0.1))),
    Unit("adamax", gradtx.adamax, RATE, oracle=oracles.adamax, bad=(*LEARNING_RATE, *BETAS, *EPS)),
    Unit("adamaxw", gradtx.adamaxw, {**RATE, "weight_decay": 0.1}, oracle=oracles.adamaxw,
         bad=(*LEARNING_RATE, *BETAS, *EPS, out_of_range(weight_decay=-0.1))),
)  # fmt: skip
