"""Critical points of known index: a loss, a point, and the eigenvalues of its Hessian from algebra.

Each entry is ``(name, loss, params, batch, eigenvalues)``. Arrays are float64 on the host; tests choose the dtype.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Known(NamedTuple):
    name: str
    loss: Any
    params: Any
    batch: Any
    eigenvalues: np.ndarray


def factorization_loss(params, target):
    """``|U V' - M|^2 / 2``."""
    return 0.5 * jnp.sum((params["u"] @ params["v"].T - target) ** 2)


def factorization(seed, rows, columns, width, singular, chosen):
    """Balanced points with the singular triples ``chosen`` learned in as many columns, the other columns zero.

    With ``R = M - U V'`` the second derivative in ``(dU, dV)`` is ``|dU V' + U dV'|^2 - 2 <R, dU dV'>``. In the basis
    of singular vectors it falls apart: a learned column k and a triple j that is not learned give ``[[s_k, -s_j],
    [-s_j, s_k]]``, an unlearned column and triple j give ``[[0, -s_j], [-s_j, 0]]``, and learned triples among
    themselves squares of ``sqrt(s_l) a_ik + sqrt(s_k) b_jl``.
    """
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.normal(size=(rows, rows)))[0]
    right = np.linalg.qr(rng.normal(size=(columns, columns)))[0]
    small = min(rows, columns)
    s = np.zeros(small)
    s[: len(singular)] = singular
    target = left[:, :small] @ np.diag(s) @ right[:, :small].T
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]  # the loss does not see it
    u, v = np.zeros((rows, width)), np.zeros((columns, width))
    for column, k in enumerate(chosen):
        u[:, column], v[:, column] = np.sqrt(s[k]) * left[:, k], np.sqrt(s[k]) * right[:, k]
    # Blocks of the quadratic form, one for each pair of coordinates (i of the row side, column) and their partners.
    quadratic = np.zeros(((rows + columns) * width,) * 2)
    full = np.zeros((rows, columns))
    full[:small, :small] = np.diag(s)
    learned = np.zeros((rows, columns))
    for k in chosen:
        learned[k, k] = s[k]
    uu, vv = np.zeros((rows, width)), np.zeros((columns, width))
    for column, k in enumerate(chosen):
        uu[k, column] = vv[k, column] = np.sqrt(s[k])
    rest = full - learned

    def index_u(i, c):
        return i * width + c

    def index_v(j, c):
        return rows * width + j * width + c

    for i, j in itertools.product(range(rows), range(columns)):  # |dU V' + U dV'|^2, entry by entry
        row = np.zeros(len(quadratic))
        for c in range(width):
            row[index_u(i, c)] += vv[j, c]
            row[index_v(j, c)] += uu[i, c]
        quadratic += np.outer(row, row)
        for c in range(width):
            quadratic[index_u(i, c), index_v(j, c)] -= rest[i, j]
            quadratic[index_v(j, c), index_u(i, c)] -= rest[i, j]
    params = {"u": u @ rotation, "v": v @ rotation}
    name = f"factorization {rows}x{columns} width {width} learned {chosen} of {singular}"
    return Known(name, factorization_loss, params, target, np.linalg.eigvalsh(quadratic))


def factorization_index(width, singular, chosen):
    """``#{k in S, j not in S: s_j > s_k} + (r - |S|) #{j not in S: s_j > 0}``."""
    others = [s for j, s in enumerate(singular) if j not in chosen]
    above = sum(s > singular[k] for k in chosen for s in others)
    return above + (width - len(chosen)) * sum(s > 0 for s in others)


def factorizations():
    points = []
    cases = [(4, 3, (3.0, 2.0, 1.0)), (5, 4, (4.0, 2.5, 1.5, 0.5)), (3, 3, (2.0, 1.0)), (6, 4, (3.0, 1.0))]
    for seed, (rows, columns, singular) in enumerate(cases):
        for width in (2, 3):
            for learned in range(width + 1):
                points += [
                    (factorization(seed, rows, columns, width, singular, chosen), width, singular, chosen)
                    for chosen in itertools.combinations(range(len(singular)), learned)
                ]
    return points


def two_layer_loss(params, batch):
    """``|X W1 W2 - Y|^2 / (2 N)``."""
    x, y = batch
    return 0.5 * jnp.sum((x @ params["first"] @ params["second"] - y) ** 2) / x.shape[0]


def two_layer_at_zero(seed, inputs, width, outputs):
    """The Hessian at zero couples the layers only, by ``-X'Y/N``: plus and minus its singular values, width times."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(30, inputs)), rng.normal(size=(30, outputs))
    params = {"first": np.zeros((inputs, width)), "second": np.zeros((width, outputs))}
    s = np.linalg.svd(x.T @ y / 30, compute_uv=False)
    zeros = np.zeros(width * (inputs + outputs) - 2 * width * len(s))
    values = np.sort(np.concatenate([np.tile(s, width), -np.tile(s, width), zeros]))
    return Known(f"two-layer {inputs}-{width}-{outputs} at zero", two_layer_loss, params, (x, y), values)


def softmax_loss(weights, batch):
    x, y = batch
    return -jnp.mean(jnp.sum(y * jax.nn.log_softmax(x @ weights), -1))


def softmax_at_zero(seed, inputs, classes):
    """``(1/C) (I - 11'/C) kron X'X/N``; each class has the same inputs, so zero is a critical point."""
    rng = np.random.default_rng(seed)
    one_class = rng.normal(size=(12, inputs))
    x, y = np.tile(one_class, (classes, 1)), np.repeat(np.eye(classes), 12, axis=0)
    values = np.kron(np.array([1.0] * (classes - 1) + [0.0]) / classes, np.linalg.eigvalsh(x.T @ x / len(x)))
    return Known(f"softmax {inputs} to {classes} at zero", softmax_loss, np.zeros((inputs, classes)), (x, y), values)


def quadratic_loss(w, matrix):
    return 0.5 * w @ (matrix @ w)


def quadratic(seed, eigenvalues):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(len(eigenvalues),) * 2))[0]
    matrix = basis @ np.diag(eigenvalues) @ basis.T
    return Known(f"quadratic {list(eigenvalues)}", quadratic_loss, np.zeros(len(eigenvalues)), matrix,
                 np.sort(eigenvalues))  # fmt: skip


def split_loss(params, batch):
    """A tanh network of one output, squared error."""
    x, y = batch
    return 0.5 * jnp.mean((jnp.tanh(x @ params["first"]) @ params["second"] - y) ** 2)


def points():
    known = [point for point, *_ in factorizations()]
    known += [
        two_layer_at_zero(seed, *shape) for seed, shape in enumerate([(3, 2, 2), (4, 3, 1), (5, 4, 3), (2, 6, 4)])
    ]
    known += [softmax_at_zero(seed, *shape) for seed, shape in enumerate([(3, 2), (5, 4), (6, 3), (4, 10)])]
    spectra = [(1.0, 2.0, 3.0), (-1.0, 2.0), (-3.0, -2.0, -1.0), (-1.0, 5.0, 5.0, 5.0), (0.5, 0.5), (-0.1, 1.0, 1.0),
               (0.0, 1.0), (0.0, 0.0, -1.0), (-2.0, -2.0), (100.0, 1.0, -1.0)]  # fmt: skip
    known += [quadratic(seed, values) for seed, values in enumerate(spectra)]
    return known


def expected(eigenvalues, threshold):
    """The verdict that the eigenvalues allow."""
    if np.all(eigenvalues < -threshold):
        return "maximum"
    if np.any(eigenvalues < -threshold):
        return "strict saddle"
    return "strict minimum" if np.all(eigenvalues > threshold) else "undecided"
