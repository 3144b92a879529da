"""Predictions and targets to one loss per example."""

from gradtx.losses.classification import softmax_cross_entropy as softmax_cross_entropy
