"""Normalizations in float64, from the papers' equations; ``scale`` and ``bias`` broadcast to x."""

import numpy as np


def normalized(x, axes, eps):
    """Ba, Kiros and Hinton 2016, arXiv:1607.06450, equation 3 (Wu and He 2018, equations 1 and 2): h, and the root."""
    x = np.asarray(x, np.float64)
    mean = x.mean(axes, keepdims=True)
    root = np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + eps)
    return (x - mean) / root, root


def centred(x, scale, bias, g, axes, eps):
    """y, and the gradients of ``sum g y`` by x, and by scale and bias before they are summed over what they share.

    With ``h = (x - m) / s``: ``dh/dx = (1 - 1/n - h h^T / n) / s``, since ``dm/dx = 1/n`` and ``ds/dx = h / n``.
    """
    h, root = normalized(x, axes, eps)
    by_h = g * scale
    by_x = (by_h - by_h.mean(axes, keepdims=True) - h * (by_h * h).mean(axes, keepdims=True)) / root
    return scale * h + bias, by_x, g * h, g


def rms(x, scale, g, axes, eps):
    """Zhang and Sennrich 2019, arXiv:1910.07467, equation 4, with eps under the root; the gradients as above."""
    x = np.asarray(x, np.float64)
    root = np.sqrt((x**2).mean(axes, keepdims=True) + eps)
    by_h = g * scale
    by_x = (by_h - x / root * (by_h * x / root).mean(axes, keepdims=True)) / root
    return scale * x / root, by_x, g * x / root


def batch_renorm_step(x, scale, bias, mean, deviation, axes, *, alpha, eps, r_max, d_max):
    """Ioffe 2017, arXiv:1702.03275, algorithm 1: y, r, d, and the moving mean and deviation."""
    x = np.asarray(x, np.float64)
    of_batch = x.mean(axes, keepdims=True)
    root = np.sqrt(eps + ((x - of_batch) ** 2).mean(axes, keepdims=True))
    r = np.clip(root / deviation, 1 / r_max, r_max)
    d = np.clip((of_batch - mean) / deviation, -d_max, d_max)
    y = scale * ((x - of_batch) / root * r + d) + bias
    return y, r, d, mean + alpha * (of_batch - mean), deviation + alpha * (root - deviation)


def batch_renorm_gradients(x, scale, r, g, axes, eps):
    """The same, section 3, with r and d constants: by x; by scale before d is added; by bias. All unsummed but x's."""
    x = np.asarray(x, np.float64)
    n = np.prod([x.shape[axis] for axis in axes])
    of_batch = x.mean(axes, keepdims=True)
    root = np.sqrt(eps + ((x - of_batch) ** 2).mean(axes, keepdims=True))
    by_h = g * scale
    by_root = (by_h * (x - of_batch) * -r / root**2).sum(axes, keepdims=True)
    by_mean = (by_h * -r / root).sum(axes, keepdims=True)
    by_x = by_h * r / root + by_root * (x - of_batch) / (n * root) + by_mean / n
    return by_x, g * (x - of_batch) / root * r, g


def limits(step):
    """The same, section 4: r_max and d_max in training step ``step``."""
    return 1 + 2 * np.clip((step - 5_000) / 35_000, 0, 1), 5 * np.clip((step - 5_000) / 20_000, 0, 1)


def weight(v, g):
    """Salimans and Kingma 2016, arXiv:1602.07868, equation 2, for v with one column per output."""
    v = np.asarray(v, np.float64)
    return g * v / np.sqrt((v**2).sum(0))


def weight_gradients(v, g, by_w):
    """The same, equation 3."""
    v = np.asarray(v, np.float64)
    norm = np.sqrt((v**2).sum(0))
    by_g = (by_w * v).sum(0) / norm
    return g / norm * by_w - g * by_g / norm**2 * v, by_g


def power_step(w, u):
    """Miyato et al. 2018, arXiv:1802.05957, algorithm 1, for w outputs by inputs: u, v and the estimate."""
    v = w.T @ u / np.linalg.norm(w.T @ u)
    u = w @ v / np.linalg.norm(w @ v)
    return u, v, u @ w @ v


def spectral_gradient(w, u, v, by_normalized):
    """The same, section 2.1: of what was divided by ``s = u^T w v`` with u and v as constants."""
    s = u @ w @ v
    return (by_normalized - (by_normalized * w).sum() / s * np.outer(u, v)) / s
