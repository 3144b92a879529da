"""What pulls weights towards zero, with one strength and with one for each layer."""

import gradtx
from tests.laws.unit import Unit
from tests.papers import regularization_oracles as oracles


def by_size(path, leaf):
    """Kernels alone; a path that the function has never seen is fine, too."""
    return 0.1 if leaf.ndim == 2 or path == "" else 0.0


def fading(path, leaf):
    """A schedule for the kernel, numbers for the others."""
    return (lambda step: 0.1 / (1.0 + step)) if path == "w" else 0.5


ROWS = (
    Unit("l1_decay", gradtx.l1_decay, {"strength": 0.1}, oracle=oracles.l1_decay),
    Unit("l1_decay by glob", gradtx.l1_decay, {"strength": {"w": 0.2, "*": 0.1}}),
    Unit("l2_decay", gradtx.l2_decay, {"strength": 0.1}, oracle=oracles.l2_decay),
    Unit("l2_decay by glob, no match", gradtx.l2_decay, {"strength": {"w": 0.2}}),
    Unit("l2_decay by a function, scheduled", gradtx.l2_decay, {"strength": fading}),
    Unit("add_decayed_weights by glob", gradtx.add_decayed_weights, {"weight_decay": {"*": 0.1}},
         oracle=oracles.add_decayed_weights),
    Unit("add_decayed_weights by a function", gradtx.add_decayed_weights, {"weight_decay": by_size}),
    Unit("proximal_l1", gradtx.proximal_l1, {"strength": 0.5, "learning_rate": 0.1}, oracle=oracles.proximal_l1),
    Unit("proximal_l1 by glob, scheduled", gradtx.proximal_l1,
         {"strength": {"w": lambda step: 0.1 * step, "*": 0.5}, "learning_rate": 0.1}),
    Unit("keep_zeros", gradtx.keep_zeros, oracle=oracles.keep_zeros),
    Unit("adamw by glob", gradtx.adamw, {"learning_rate": 1e-3, "weight_decay": {"[!s]": 0.1, "*": lambda step: 0.2}}),
    Unit("per_layer", gradtx.per_layer, {"value": {"w": 1.0, "*": 0.1}}, (gradtx.scale,)),
    Unit("sgd with L1", gradtx.chain, {}, (gradtx.l1_decay({"w": 0.1, "*": 0.0}), gradtx.sgd(0.1, 0.9))),
    Unit("adam with proximal L1", gradtx.chain, {}, (gradtx.adam(1e-3), gradtx.proximal_l1({"w": 0.1}, 1e-3))),
)  # fmt: skip
