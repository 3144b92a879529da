"""Parts that treat a leaf as a matrix."""

from gradtx.preconditioners.orthogonal import orthogonalize, scale_by_muon, scale_by_shape
from gradtx.preconditioners.projected import ScaleByGaloreState, scale_by_galore

__all__ = [
    "ScaleByGaloreState",
    "orthogonalize",
    "scale_by_galore",
    "scale_by_muon",
    "scale_by_shape",
]
