"""Newton's method that turns away from saddles: the absolute value of the Hessian in a Krylov subspace."""

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import EmptyState, Functions, transformation
from gradtx.curvature import vectors
from gradtx.curvature.objectives import hessian_product, objective
from gradtx.curvature.subspaces import combination, krylov_subspace, unit


@transformation(locality="tree", real=True)
def scale_by_saddle_free_newton(krylov_dim: errors.Count = 10, damping: errors.Positive = 0.1) -> Functions:
    """``u = V (|T| + damping I)^-1 V' g``, the Newton step that goes down along negative curvature too.

    ``T = V' H V = S diag(theta) S'`` is the Hessian in the Krylov subspace of ``g, H g, H^2 g, ...``, of dimension
    ``krylov_dim``, and ``|T| = S diag(|theta|) S'``. The gradient lies in the subspace, so nothing of it is left
    outside; where the subspace is closed (at the latest when it is the whole space) ``u = (|H| + damping I)^-1 g``. A
    zero gradient gives a zero update: it starts from beside a saddle and not from on top of it.

    The part takes gradients, and a rate follows: ``chain(scale_by_saddle_free_newton(), scale_by_learning_rate(0.5))``.
    ``|u| <= |g| / damping``: where curvature passes through zero, on the way from a saddle to a minimum, steps get as
    long as that, and :func:`gradtx.clip_by_global_norm` behind the part limits them.

    Cost of an update: ``krylov_dim`` products with the Hessian of about two gradients each, and ``krylov_dim`` vectors
    of the parameters' size. The products are written out one after the other, as loops are slow on the CPU backend.

    Signals: ``value_fn`` (parameters to the loss of this batch), which ``make_train_step`` gives. In ``only``,
    ``masked`` or ``partition`` it raises ``SignalError`` unless ``value_fn`` takes the leaves there; with that it is
    the block of the Hessian. Real leaves only. No state.

    Two differences from the paper's algorithm: the subspace is that of the gradient alone, and ``damping`` is given
    instead of searched for at every step.

    Source: Dauphin et al. 2014, arXiv:1406.2572, algorithm 1.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> loss = lambda w: 2.0 * w[0] ** 2 - w[1] ** 2
    >>> tx = curvature.scale_by_saddle_free_newton(damping=1e-6)
    >>> params = jnp.array([1.0, 1.0])
    >>> updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)
    >>> [round(u, 3) for u in updates.tolist()]
    [1.0, -1.0]
    """

    def init(params):
        del params
        return EmptyState()

    def update(updates, state, params, *, value_fn):
        function, x = objective("scale_by_saddle_free_newton", value_fn, params)
        if not vectors.size(x):
            return updates, state
        flat, treedef = jax.tree.flatten(updates)
        start, norm = unit(tuple(g.astype(leaf.dtype) for g, leaf in zip(flat, x, strict=True)))
        space = krylov_subspace(hessian_product(function, x), start, krylov_dim)
        weights = space.columns @ (space.columns[0] / (jnp.abs(space.values) + damping))
        scaled = combination(space.basis, norm * weights)
        return treedef.unflatten([u.astype(g.dtype) for u, g in zip(scaled, flat, strict=True)]), state

    return init, update
