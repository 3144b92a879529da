"""Scaling by what happens in the run."""

import gradtx
from tests.laws.unit import Unit, of_wrong_kind, out_of_range
from tests.papers import plateau_oracles as oracles

ROWS = (
    Unit("reduce_on_plateau", gradtx.reduce_on_plateau,
         {"factor": 0.3, "patience": 2, "rtol": 0.01, "atol": 0.1, "cooldown": 3, "min_scale": 0.001},
         oracle=oracles.reduce_on_plateau, signals={"value": 1.0},
         bad=(out_of_range(factor=0.0), out_of_range(factor=1.0), of_wrong_kind(factor="0.1"), out_of_range(patience=0),
              of_wrong_kind(patience=2.5), out_of_range(rtol=-0.1), out_of_range(rtol=1.5), out_of_range(atol=-0.1),
              out_of_range(cooldown=-1), of_wrong_kind(cooldown=None), out_of_range(accumulation_size=0),
              out_of_range(min_scale=-0.1), out_of_range(min_scale=2.0))),
    Unit("reduce_on_plateau, of means", gradtx.reduce_on_plateau,
         {"factor": 0.5, "patience": 1, "cooldown": 0, "accumulation_size": 3, "min_scale": 0.01},
         oracle=oracles.reduce_on_plateau, signals={"value": 1.0}),
)  # fmt: skip
