"""Predictions and targets to one loss per example."""

from gradtx.losses.classification import softmax_cross_entropy

__all__ = ["softmax_cross_entropy"]
