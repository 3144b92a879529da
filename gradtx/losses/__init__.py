"""Predictions and targets to one loss per example, and their mean::

    loss = losses.huber_loss(predictions, targets, where=is_known)
    value = losses.mean(loss, weights=weights, where=is_known)

Every loss is computed in float32 or wider, takes a mask ``where`` (what is left out has loss and gradient zero, even if
it is NaN), and never broadcasts one argument to the shape of another.
"""

from gradtx.losses.alignment import ctc_loss, ctc_loss_with_forward_probs
from gradtx.losses.averaging import mean
from gradtx.losses.binary import sigmoid_binary_cross_entropy, sigmoid_focal_loss
from gradtx.losses.classification import poly_loss_cross_entropy, softmax_cross_entropy
from gradtx.losses.divergence import generalized_kl_divergence, kl_divergence, kl_divergence_with_log_targets
from gradtx.losses.embeddings import ntxent, triplet_margin_loss
from gradtx.losses.fenchel_young import make_fenchel_young_loss
from gradtx.losses.gradient_scaling import scale_gradient
from gradtx.losses.margins import hinge_loss, multiclass_hinge_loss, multiclass_perceptron_loss, perceptron_loss
from gradtx.losses.overlap import binary_dice_loss, dice_loss, multiclass_generalized_dice_loss
from gradtx.losses.perturbed import make_perturbed_fun
from gradtx.losses.ranking import ranking_softmax_loss
from gradtx.losses.regression import absolute_error, huber_loss, l2_loss, log_cosh, squared_error
from gradtx.losses.similarity import cosine_distance, cosine_similarity
from gradtx.losses.smoothing import smooth_labels
from gradtx.losses.sparse import multiclass_sparsemax_loss, sparsemax_loss

__all__ = [
    "absolute_error",
    "binary_dice_loss",
    "cosine_distance",
    "cosine_similarity",
    "ctc_loss",
    "ctc_loss_with_forward_probs",
    "dice_loss",
    "generalized_kl_divergence",
    "hinge_loss",
    "huber_loss",
    "kl_divergence",
    "kl_divergence_with_log_targets",
    "l2_loss",
    "log_cosh",
    "make_fenchel_young_loss",
    "make_perturbed_fun",
    "mean",
    "multiclass_generalized_dice_loss",
    "multiclass_hinge_loss",
    "multiclass_perceptron_loss",
    "multiclass_sparsemax_loss",
    "ntxent",
    "perceptron_loss",
    "poly_loss_cross_entropy",
    "ranking_softmax_loss",
    "scale_gradient",
    "sigmoid_binary_cross_entropy",
    "sigmoid_focal_loss",
    "smooth_labels",
    "softmax_cross_entropy",
    "sparsemax_loss",
    "squared_error",
    "triplet_margin_loss",
]
