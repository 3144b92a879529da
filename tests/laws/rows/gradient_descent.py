"""Gradient descent and what is done to its gradients: movements, signs, noise, norms."""

import gradtx
from gradtx import errors
from tests.laws.unit import Bad, Unit
from tests.papers import adaptive_oracles as oracles

NOISE = {"eta": 0.01, "gamma": 0.55, "key": 0}
NO_KEY = (Bad({"key": None}, errors.ArgumentTypeError, "key"), Bad({"key": 0.5}, errors.ArgumentTypeError, "key"))

ROWS = (
    Unit("sgd, movement", gradtx.sgd, {"learning_rate": 0.1, "momentum": 0.9, "movement": True}, oracle=oracles.sgd),
    Unit("sgd, movement and Nesterov", gradtx.sgd,
         {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "movement": True}, oracle=oracles.sgd),
    Unit("scale_by_lion", gradtx.scale_by_lion, oracle=oracles.scale_by_lion, sign=True),
    Unit("sign_sgd", gradtx.sign_sgd, {"learning_rate": 1e-3}, oracle=oracles.sign_sgd, sign=True),
    Unit("signum", gradtx.signum, {"learning_rate": 1e-3}, oracle=oracles.signum, sign=True),
    Unit("lion", gradtx.lion, {"learning_rate": 1e-3, "weight_decay": 0.1}, oracle=oracles.lion, sign=True),
    Unit("add_noise", gradtx.add_noise, NOISE,
         bad=NO_KEY),
    Unit("noisy_sgd", gradtx.noisy_sgd, {"learning_rate": 0.1, **NOISE}),
    Unit("clip_by_block_norm", gradtx.clip_by_block_norm, {"max_norm": 1.0}, oracle=oracles.clip_by_block_norm),
    Unit("clip_by_block_rms", gradtx.clip_by_block_rms, {"threshold": 0.5}, oracle=oracles.clip_by_block_rms),
    Unit("adaptive_grad_clip", gradtx.adaptive_grad_clip, {"clipping": 0.5}, oracle=oracles.adaptive_grad_clip),
    Unit("centralize", gradtx.centralize, oracle=oracles.centralize),
    Unit("normalize_by_update_norm", gradtx.normalize_by_update_norm, {"scale_factor": -1.0}),
    Unit("scale_by_trust_ratio", gradtx.scale_by_trust_ratio, {"min_norm": 1e-3, "trust_coefficient": 0.5},
         oracle=oracles.scale_by_trust_ratio),
    Unit("lars", gradtx.lars, {"learning_rate": 0.1, "weight_decay": 0.01}, oracle=oracles.lars),
    Unit("lars, Nesterov", gradtx.lars, {"learning_rate": 0.1, "nesterov": True}, oracle=oracles.lars, smallest=1e-15),
    Unit("lamb", gradtx.lamb, {"learning_rate": 1e-3, "weight_decay": 0.1}, oracle=oracles.lamb, ulps=5.0),
)  # fmt: skip
