"""Second derivatives without ever forming the Hessian: where a point is, and how to leave it.

Every question is put to a matrix by products with it (:func:`hessian`, :func:`gauss_newton`, :func:`fisher`); a product
costs about two gradients, so networks of millions of parameters can be asked, on one device or sharded::

    report = classify(loss, params, batch, key=key)     # strict saddle, strict minimum, ..., with error bounds
    params, info = escape(loss, params, report, batch)  # a step along the direction of negative curvature
"""

from gradtx.curvature.angles import gradient_cosine
from gradtx.curvature.batch_noise import NoiseScale, Ratio, noise_scale
from gradtx.curvature.bouncing import Stability, stability
from gradtx.curvature.datasets import Dataset, dataset
from gradtx.curvature.densities import Cumulative, cumulative, density
from gradtx.curvature.density_pictures import plot_spectrum
from gradtx.curvature.escaping import EscapeInfo, escape
from gradtx.curvature.extremes import End, Extremes, extreme_eigenvalues
from gradtx.curvature.landscape_pictures import plot_line, plot_plane
from gradtx.curvature.landscapes import (
    LossLine,
    LossPlane,
    SolutionPlane,
    filter_normalized,
    loss_line,
    loss_plane,
    plane_through,
    random_direction,
)
from gradtx.curvature.leaving import EscapeSaddlesState, escape_saddles
from gradtx.curvature.loss_form import frozen_loss
from gradtx.curvature.newton_cg import ScaleByNewtonCGState, scale_by_newton_cg
from gradtx.curvature.operators import Operator, fisher, gauss_newton, hessian, scaled
from gradtx.curvature.perturbing import PerturbAtSaddlesState, perturb_at_saddles
from gradtx.curvature.pictures import plot_report
from gradtx.curvature.products import QuadraticModel, fisher_product, ggn_product, hvp, quadratic_model
from gradtx.curvature.saddle_free import scale_by_saddle_free_newton
from gradtx.curvature.sharpness import AverageSharpness, average_sharpness, box_sharpness, sam_sharpness
from gradtx.curvature.spectra import Spectrum, at_threshold, block_spectra, spectrum
from gradtx.curvature.stuckness import Diagnosis, Evidence, stuck
from gradtx.curvature.traces import Estimate, diagonal, trace
from gradtx.curvature.verdict import Report, classify

__all__ = [
    "AverageSharpness",
    "Cumulative",
    "Dataset",
    "Diagnosis",
    "End",
    "EscapeInfo",
    "EscapeSaddlesState",
    "Estimate",
    "Evidence",
    "Extremes",
    "LossLine",
    "LossPlane",
    "NoiseScale",
    "Operator",
    "PerturbAtSaddlesState",
    "QuadraticModel",
    "Ratio",
    "Report",
    "ScaleByNewtonCGState",
    "SolutionPlane",
    "Spectrum",
    "Stability",
    "at_threshold",
    "average_sharpness",
    "block_spectra",
    "box_sharpness",
    "classify",
    "cumulative",
    "dataset",
    "density",
    "diagonal",
    "escape",
    "escape_saddles",
    "extreme_eigenvalues",
    "filter_normalized",
    "fisher",
    "fisher_product",
    "frozen_loss",
    "gauss_newton",
    "ggn_product",
    "gradient_cosine",
    "hessian",
    "hvp",
    "loss_line",
    "loss_plane",
    "noise_scale",
    "perturb_at_saddles",
    "plane_through",
    "plot_line",
    "plot_plane",
    "plot_report",
    "plot_spectrum",
    "quadratic_model",
    "random_direction",
    "sam_sharpness",
    "scale_by_newton_cg",
    "scale_by_saddle_free_newton",
    "scaled",
    "spectrum",
    "stability",
    "stuck",
    "trace",
]
