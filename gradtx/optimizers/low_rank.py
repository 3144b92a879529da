"""Optimizers whose state lives in a subspace."""

from gradtx import errors
from gradtx.combinators import chain
from gradtx.combinators.selecting import Where
from gradtx.core import GradientTransformation, transformation
from gradtx.preconditioners import scale_by_galore
from gradtx.transforms import add_decayed_weights, scale_by_learning_rate


@transformation
def galore(
    learning_rate: errors.NonNegative,
    rank: errors.Count = 128,
    update_proj_gap: errors.Count = 200,
    scale: errors.NonNegative = 1.0,
    base_optimizer: GradientTransformation | None = None,
    weight_decay: errors.Strength = 0.0,
    mask: Where | None = None,
) -> GradientTransformation:
    """``u = -learning_rate * (scale * P adam(P' g) + weight_decay * p)``: AdamW whose moments are of rank ``rank``.

    See :func:`gradtx.scale_by_galore` for ``P``, ``base_optimizer`` and the state. ``mask`` selects the leaves that
    decay, all without one. Optax's ``weight_dimension_numbers`` is not here: leaves of three axes are not projected.

    Source: Zhao et al. 2024, arXiv:2403.03507, algorithm 2.
    """
    return chain(
        scale_by_galore(rank, update_proj_gap, scale, base_optimizer),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
