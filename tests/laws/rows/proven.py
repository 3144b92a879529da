"""What came after Adam with a proven result, and the parts that make it."""

import gradtx
from tests.laws.unit import Unit
from tests.papers import modifier_oracles as oracles

RATE = {"learning_rate": 1e-3}
ROOT = gradtx.chain(gradtx.mean_square(0.9), gradtx.square_root())

ROWS = (
    Unit("atan2_ratio", gradtx.atan2_ratio, {}, (gradtx.ema(0.5), ROOT)),
    Unit("stable_ratio", gradtx.stable_ratio, {"eps": 1e-6}, (gradtx.ema(0.5), ROOT, gradtx.identity())),
    Unit("stable_ratio over a whole tree", gradtx.stable_ratio, {"eps": 1e-6},
         (gradtx.clip_by_global_norm(1.0), ROOT, gradtx.add_decayed_weights(0.1))),
    Unit("block_mean_square", gradtx.block_mean_square, {"decay": 0.99}, oracle=oracles.block_mean_square),
    Unit("factored_mean_square", gradtx.factored_mean_square, {"decay": 0.99}, oracle=oracles.factored_mean_square),
    Unit("scale_by_confidence", gradtx.scale_by_confidence, {"b3": 0.99}),
    Unit("scale_by_aggregated_momentum", gradtx.scale_by_aggregated_momentum),
    Unit("add_corrected_decay", gradtx.add_corrected_decay,
         {"weight_decay": 0.1, "learning_rate": 1e-3, "max_learning_rate": 1e-2}, oracle=oracles.add_corrected_decay),
    Unit("add_corrected_decay, some layers", gradtx.add_corrected_decay,
         {"weight_decay": 0.1, "learning_rate": 1e-3, "max_learning_rate": 1e-2, "normalized": "w"}),
    Unit("stable_adamw", gradtx.stable_adamw, {**RATE, "weight_decay": 0.1}, oracle=oracles.stable_adamw, ulps=6.0),
    Unit("adam_atan2", gradtx.adam_atan2, {**RATE, "weight_decay": 0.1}, oracle=oracles.adam_atan2, smallest=1e-13),
    Unit("adam_mini", gradtx.adam_mini, {**RATE, "weight_decay": 0.1}, oracle=oracles.adam_mini),
    Unit("adam_mini, rows", gradtx.adam_mini, {**RATE, "rows": "w"}),
    Unit("adamc", gradtx.adamc, {**RATE, "max_learning_rate": 1e-2, "weight_decay": 0.1}, oracle=oracles.adamc),
    Unit("laprop", gradtx.laprop, {**RATE, "weight_decay": 0.1}, oracle=oracles.laprop, smallest=1e-13),
    Unit("came", gradtx.came, {**RATE, "weight_decay": 0.1}, oracle=oracles.came),
    Unit("qhm", gradtx.qhm, RATE, oracle=oracles.qhm),
    Unit("aggmo", gradtx.aggmo, {**RATE, "betas": (0.0, 0.9)}, oracle=oracles.aggmo),
    Unit("tiger", gradtx.tiger, RATE, oracle=oracles.tiger, sign=True),
    Unit("schedule_free_sgd", gradtx.schedule_free_sgd, {"learning_rate": 0.1}, oracle=oracles.schedule_free_sgd),
    Unit("schedule_free_adamw", gradtx.schedule_free_adamw, {**RATE, "weight_decay": 0.1},
         oracle=oracles.schedule_free_adamw, ulps=5.0),
)  # fmt: skip
