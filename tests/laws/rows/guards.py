"""Transformations that leave steps out: accumulation, guards, conditions."""

import gradtx
from tests.laws.rows.combined import foreign
from tests.laws.unit import Unit, of_wrong_kind, out_of_range
from tests.papers import guard_oracles as oracles

ADAMW = gradtx.adamw(1e-3, weight_decay=0.1)


def growing(step):
    """One call for the first update, two for the others."""
    return 1 + (step > 0)


ROWS = (
    Unit("accumulate", gradtx.accumulate, {"every": 3}, (gradtx.scale(1.0),), oracle=oracles.accumulate, guards=True,
         bad=(out_of_range(every=0), out_of_range(every=-2),
              *(of_wrong_kind(every=bad) for bad in (2.5, None, True, "4", int, [4])))),
    Unit("accumulate for a guard of a whole tree", gradtx.accumulate, {"every": growing},
         (gradtx.skip_nonfinite(gradtx.chain(gradtx.clip_by_global_norm(1.0), ADAMW)),), guards=True),
    Unit("skip_nonfinite", gradtx.skip_nonfinite, {}, (ADAMW,), guards=True),
    Unit("skip_nonfinite, a foreign part", gradtx.skip_nonfinite, {}, (gradtx.chain(gradtx.ema(0.9), foreign()),),
         guards=True),
    Unit("skip_large", gradtx.skip_large, {"max_norm": 1e20, "deviations": 3.0, "decay": 0.9, "warmup": 1},
         (gradtx.adam(1e-3),), guards=True,
         bad=(of_wrong_kind(max_norm=None, deviations=None),)),
    Unit("dynamic_loss_scale", gradtx.dynamic_loss_scale, {"initial_scale": 8.0, "factor": 4.0, "period": 2},
         (gradtx.sgd(0.1, 0.9),), guards=True,
         bad=(out_of_range(initial_scale=0.5),)),
    Unit("conditionally_transform", gradtx.conditionally_transform, {"should_transform_fn": lambda step: step % 2 == 0},
         (gradtx.ema(0.5),)),
    Unit("conditionally_mask", gradtx.conditionally_mask, {"should_transform_fn": lambda step: step % 2 == 0},
         (ADAMW,)),
)  # fmt: skip
