"""What takes the gradients of single examples: here three equal ones. With noise in the recipe, without in the part."""

import gradtx
from gradtx import errors
from tests.laws.unit import Bad, Unit
from tests.papers import privacy_oracles

NO_KEY = (Bad({"key": None}, errors.ArgumentTypeError, "key"), Bad({"key": 0.5}, errors.ArgumentTypeError, "key"))

ROWS = (
    Unit("differentially_private_aggregate", gradtx.differentially_private_aggregate,
         {"l2_norm_clip": 1.0, "noise_multiplier": 0.0, "key": 0}, examples=3,
         oracle=privacy_oracles.differentially_private_aggregate,
         bad=NO_KEY),
    Unit("dpsgd", gradtx.dpsgd,
         {"learning_rate": 0.1, "l2_norm_clip": 1.0, "noise_multiplier": 0.5, "seed": 0, "momentum": 0.9}, examples=3,
         bad=(Bad({"seed": None}, errors.ArgumentTypeError, "key"),)),
)  # fmt: skip
