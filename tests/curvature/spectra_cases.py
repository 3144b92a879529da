"""Symmetric matrices with known eigenvalues, as operators: random, clustered, decaying, and extreme cases."""

import jax.numpy as jnp
import numpy as np

from gradtx import curvature

SIZE = 80


def form(w, matrix):
    return 0.5 * w @ (matrix @ w)


def eigenvalues(name):
    rng = np.random.default_rng(7)
    noise = rng.normal(size=(SIZE, SIZE))
    return {
        "orthogonal ensemble": np.linalg.eigvalsh((noise + noise.T) / np.sqrt(2 * SIZE)),
        "bulk and outliers": np.r_[0.05 * rng.normal(size=SIZE - 5), 3.0, 4.0, 5.0, 8.0, 20.0],
        "fast decay": 1 / np.arange(1.0, SIZE + 1) ** 2,
        "slow decay": 1 / np.arange(1.0, SIZE + 1),
        "rank one": np.r_[np.zeros(SIZE - 1), 1.0],
        "all positive": np.linspace(1.0, 2.0, SIZE),
        "all negative": -np.exp(rng.normal(size=SIZE)),
        "zeros among both signs": np.r_[1e-5 * rng.normal(size=SIZE - 20), -np.linspace(0.1, 0.5, 8),
                                        np.linspace(0.1, 1.0, 12)],
    }[name]  # fmt: skip


NAMES = ("orthogonal ensemble", "bulk and outliers", "fast decay", "slow decay", "rank one", "all positive",
         "all negative", "zeros among both signs")  # fmt: skip


def rotated(values, seed=1):
    """The matrix in float32, and its own eigenvalues in float64."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values),) * 2))[0]
    matrix = np.asarray((basis * values) @ basis.T, np.float32)
    matrix = (matrix + matrix.T) / 2
    return matrix, np.linalg.eigvalsh(matrix.astype(np.float64))


def operator_of(matrix):
    return curvature.hessian(form, jnp.zeros(len(matrix)), jnp.asarray(matrix))


def case(name):
    """An operator and its exact eigenvalues."""
    matrix, exact = rotated(eigenvalues(name))
    return operator_of(matrix), exact
