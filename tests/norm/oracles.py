"""Batch normalization and feature normalization in float64, from the papers' equations."""

import numpy as np


def batch_transform(x, scale, bias, axes, eps):
    """Ioffe and Szegedy 2015, algorithm 1; returns y, the mini-batch's mean and its (biased) variance."""
    x = np.asarray(x, np.float64)
    m = np.prod([x.shape[axis] for axis in axes])
    mean = x.sum(axes, keepdims=True) / m
    variance = ((x - mean) ** 2).sum(axes, keepdims=True) / m
    normalized = (x - mean) / np.sqrt(variance + eps)
    return scale * normalized + bias, mean, variance


def batch_gradients(x, scale, g, axes, eps):
    """The equations of section 3, below algorithm 1, one by one; g is dl/dy. Returns dl/dx, dl/dscale, dl/dbias."""
    x, g = np.asarray(x, np.float64), np.asarray(g, np.float64)
    m = np.prod([x.shape[axis] for axis in axes])
    _, mean, variance = batch_transform(x, 1.0, 0.0, axes, eps)
    normalized = (x - mean) / np.sqrt(variance + eps)
    by_normalized = g * scale
    by_variance = (by_normalized * (x - mean) * -0.5 * (variance + eps) ** -1.5).sum(axes, keepdims=True)
    by_mean = (by_normalized * -1 / np.sqrt(variance + eps)).sum(axes, keepdims=True)
    by_mean = by_mean + by_variance * (-2 * (x - mean)).sum(axes, keepdims=True) / m
    by_x = by_normalized / np.sqrt(variance + eps) + by_variance * 2 * (x - mean) / m + by_mean / m
    return by_x, (g * normalized).sum(axes, keepdims=True), g.sum(axes, keepdims=True)


def inference_transform(x, scale, bias, mean, variance, eps):
    """Algorithm 2, step 11."""
    x = np.asarray(x, np.float64)
    return scale / np.sqrt(variance + eps) * x + (bias - scale * mean / np.sqrt(variance + eps))
