"""Scaling by what happens in the run."""

import gradtx
from tests.laws.unit import Unit
from tests.papers import plateau_oracles as oracles

ROWS = (
    Unit("reduce_on_plateau", gradtx.reduce_on_plateau,
         {"factor": 0.3, "patience": 2, "rtol": 0.01, "atol": 0.1, "cooldown": 3, "min_scale": 0.001},
         oracle=oracles.reduce_on_plateau, signals={"value": 1.0}),
    Unit("reduce_on_plateau, of means", gradtx.reduce_on_plateau,
         {"factor": 0.5, "patience": 1, "cooldown": 0, "accumulation_size": 3, "min_scale": 0.01},
         oracle=oracles.reduce_on_plateau, signals={"value": 1.0}),
)  # fmt: skip
