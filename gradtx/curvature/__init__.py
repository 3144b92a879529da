"""Second derivatives without ever forming the Hessian: where a point is, and how to leave it.

Every question is put to a matrix by products with it (:func:`hessian`, :func:`gauss_newton`, :func:`fisher`); a product
costs about two gradients, so networks of millions of parameters can be asked, on one device or sharded::

    report = classify(loss, params, batch, key=key)     # strict saddle, strict minimum, ..., with error bounds
    params, info = escape(loss, params, report, batch)  # a step along the direction of negative curvature
"""

from gradtx.curvature.datasets import Dataset, dataset
from gradtx.curvature.escaping import EscapeInfo, escape
from gradtx.curvature.extremes import End, Extremes, extreme_eigenvalues
from gradtx.curvature.loss_form import frozen_loss
from gradtx.curvature.operators import Operator, fisher, gauss_newton, hessian
from gradtx.curvature.pictures import plot_report
from gradtx.curvature.products import QuadraticModel, fisher_product, ggn_product, hvp, quadratic_model
from gradtx.curvature.verdict import Report, classify

__all__ = [
    "Dataset",
    "End",
    "EscapeInfo",
    "Extremes",
    "Operator",
    "QuadraticModel",
    "Report",
    "classify",
    "dataset",
    "escape",
    "extreme_eigenvalues",
    "fisher",
    "fisher_product",
    "frozen_loss",
    "gauss_newton",
    "ggn_product",
    "hessian",
    "hvp",
    "plot_report",
    "quadratic_model",
]
