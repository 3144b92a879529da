"""Predictions and targets to one loss per example, and their mean::

    loss = losses.huber_loss(predictions, targets, where=is_known)
    value = losses.mean(loss, weights=weights, where=is_known)

Every loss is computed in float32 or wider, takes a mask ``where`` (what is left out has loss and gradient zero, even if
it is NaN), and never broadcasts one argument to the shape of another.
"""

from gradtx.losses.averaging import mean
from gradtx.losses.binary import sigmoid_binary_cross_entropy, sigmoid_focal_loss
from gradtx.losses.classification import softmax_cross_entropy
from gradtx.losses.divergence import kl_divergence, kl_divergence_with_log_targets
from gradtx.losses.margins import hinge_loss, multiclass_hinge_loss
from gradtx.losses.regression import absolute_error, huber_loss, l2_loss, log_cosh, squared_error
from gradtx.losses.similarity import cosine_distance, cosine_similarity
from gradtx.losses.smoothing import smooth_labels

__all__ = [
    "absolute_error",
    "cosine_distance",
    "cosine_similarity",
    "hinge_loss",
    "huber_loss",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "l2_loss",
    "log_cosh",
    "mean",
    "multiclass_hinge_loss",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_labels",
    "softmax_cross_entropy",
    "squared_error",
]
