"""Optimizers whose steps are orthogonal matrices."""

from typing import Any

from gradtx import errors
from gradtx.combinators import chain, masked, named_chain
from gradtx.combinators.selecting import Where
from gradtx.core import GradientTransformation, transformation
from gradtx.optimizers.adaptive_moments import adamw
from gradtx.preconditioners import scale_by_muon, scale_by_shape
from gradtx.preconditioners.orthogonal import NewtonSchulz, all_but
from gradtx.transforms import add_decayed_weights, scale_by_learning_rate


@transformation
def muon(
    learning_rate: errors.NonNegative,
    ns_coeffs: NewtonSchulz = "standard",
    ns_steps: errors.Count = 5,
    beta: errors.Decay = 0.95,
    eps: errors.Epsilon = 1e-8,
    weight_decay: errors.Strength = 0.0,
    weight_decay_mask: Where | None = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    adam_b1: errors.Decay = 0.9,
    adam_b2: errors.Decay = 0.999,
    adam_eps_root: errors.Epsilon = 0.0,
    adam_weight_decay: errors.Strength = 0.0,
    adam_learning_rate: errors.NonNegative | None = None,
    consistent_rms: errors.Positive | None = None,
    where: Where | None = None,
) -> GradientTransformation:
    """Muon for matrices, ``u = -learning_rate * (c * O + weight_decay * p)``, and AdamW for all other leaves.

    ``O`` is the momentum with all singular values near 1 (:func:`gradtx.scale_by_muon`), ``c = sqrt(max(1, outputs /
    inputs))`` of a kernel ``(inputs, outputs)``, or ``consistent_rms * sqrt(max(inputs, outputs))``. The matrices are
    the leaves of two axes, or those that ``where`` selects; embeddings and heads are better left to AdamW:
    ``where="*block*kernel"``. Of selected leaves with more axes the last two are matrices. AdamW takes
    ``adam_learning_rate``, or ``learning_rate`` without it, ``eps`` and, as in Optax, ``nesterov``. State: one float32
    number per parameter, two for AdamW's leaves.

    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks
    (kellerjordan.github.io/posts/muon); ``consistent_rms``, Liu et al. 2025, arXiv:2502.16982.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.muon(0.5, ns_coeffs="dion")
    >>> params = {"kernel": jnp.eye(2), "bias": jnp.ones(2)}
    >>> grads = {"kernel": jnp.diag(jnp.array([3.0, -1.0])), "bias": jnp.array([1.0, -1e-3])}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> jnp.diag(updates["kernel"]).round(1).tolist()
    [-0.5, 0.5]
    """
    chosen = _is_matrix if where is None else where
    orthogonal = chain(
        scale_by_muon(ns_coeffs, ns_steps, beta, eps, nesterov=nesterov, adaptive=adaptive),
        scale_by_shape(consistent_rms),
        add_decayed_weights(weight_decay, weight_decay_mask),
        scale_by_learning_rate(learning_rate),
    )
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    others = adamw(rate, adam_b1, adam_b2, eps, adam_eps_root, weight_decay=adam_weight_decay, nesterov=nesterov)
    return named_chain(("muon", masked(orthogonal, chosen)), ("adam", masked(others, all_but(chosen))))


def _is_matrix(path: str, leaf: Any) -> bool:
    del path
    return getattr(leaf, "ndim", 0) == 2
