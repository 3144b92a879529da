"""Several speeds of momentum in one step."""

from collections.abc import Sequence
from typing import Annotated

from gradtx import errors
from gradtx.combinators import chain, total
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms.moments import ema
from gradtx.transforms.momentum import scale_by_momentum
from gradtx.transforms.scaling import identity, scale

Part = Annotated[errors.Scalar, errors.Interval(0.0, 1.0)]


@transformation
def scale_by_qhm(beta: errors.Decay = 0.999, nu: Part = 0.7) -> GradientTransformation:
    """Quasi-hyperbolic momentum ``u = (1 - nu) * g + nu * m``, ``m <- beta * m + (1 - beta) * g``.

    ``nu = 0`` is the gradient, ``nu = 1`` its moving average, ``nu = beta`` Nesterov's momentum times ``1 - beta``.
    State: one float32 number per parameter.

    Source: Ma and Yarats 2019, arXiv:1810.06801, equations 3 and 4.
    """
    return total(chain(ema(beta), scale(nu)), scale(1.0 - nu))


@transformation
def scale_by_aggregated_momentum(betas: Sequence[errors.Decay] = (0.0, 0.9, 0.99)) -> GradientTransformation:
    """``u = (v_1 + ... + v_K) / K``, ``v_k <- betas[k] * v_k + g``: slow and fast momentum, which damp each other.

    State: one float32 number per parameter for each of ``betas`` that is not 0.

    Raises ``ArgumentTypeError`` without any.

    Source: Lucas et al. 2019, arXiv:1804.00325, equation 3.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_aggregated_momentum((0.0, 0.5))
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (4.0, 2.0):
    ...     u, state = tx.update(jnp.array([g]), state)
    >>> u.tolist()
    [3.0]
    """
    if not betas:
        raise errors.ArgumentTypeError(
            "scale_by_aggregated_momentum(())", expected="betas must be at least one decay", got="none",
            cause="the list was empty", fix="write betas=(0.0, 0.9, 0.99)",
        )  # fmt: skip
    velocities = [identity() if beta == 0 else scale_by_momentum(beta) for beta in betas]
    return chain(total(*velocities), scale(1.0 / len(betas)))
