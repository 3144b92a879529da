"""Watching: around parts of every locality, around foreign ones, within other combinators, and twice."""

import gradtx
from tests.laws.rows.combined import foreign
from tests.laws.unit import Unit

ROWS = (
    Unit("watch", gradtx.watch, positional=(gradtx.adamw(1e-3, weight_decay=0.1),)),
    Unit("watch, each leaf", gradtx.watch, {"per_leaf": True}, (gradtx.sgd(0.1, momentum=0.9),)),
    Unit("watch, a whole tree with a foreign part", gradtx.watch, {"per_leaf": True},
         (gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.ema(0.9), foreign()),)),
    Unit("watch in a chain, and around it", gradtx.watch,
         positional=(gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.watch(gradtx.adam(1e-3))),)),
    Unit("watch in a branch", gradtx.partition, {},
         ({"a": gradtx.watch(gradtx.adam(1e-3), per_leaf=True), "b": gradtx.sgd(0.1)},
          lambda path, leaf: "ab"[path == "w"])),
    Unit("watch in a ratio", gradtx.ratio, {"eps": 1e-6},
         (gradtx.watch(gradtx.ema(0.5)), gradtx.chain(gradtx.mean_square(), gradtx.square_root()))),
    Unit("watch a schedule", gradtx.watch, {}, (gradtx.sgd(lambda step: 0.1 / (1.0 + step)),)),
)  # fmt: skip
