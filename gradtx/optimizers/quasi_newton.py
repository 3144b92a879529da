"""Steps from an approximate Hessian that the gradients of the run itself give."""

from gradtx import errors
from gradtx.combinators import chain
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import identity, scale_by_lbfgs, scale_by_learning_rate, scale_by_zoom_linesearch

ZOOM = scale_by_zoom_linesearch(max_linesearch_steps=20, initial_guess_strategy="one")


@transformation
def lbfgs(
    learning_rate: errors.NonNegative | None = None,
    memory_size: errors.Count = 10,
    scale_init_precond: bool = True,
    linesearch: GradientTransformation | None = ZOOM,
) -> GradientTransformation:
    """``u = -t H g``, ``H`` the inverse Hessian of L-BFGS, ``t`` from a line search for the strong Wolfe conditions.

    For a loss without noise: one that is the same function at every step. With a learning rate the direction is
    multiplied by it before the search; ``linesearch=None`` takes it as it is. The signals of the search are ``value``,
    ``grad`` and ``value_fn``; :func:`gradtx.value_and_grad_from_state` spares the evaluation that it ended with. See
    :func:`gradtx.scale_by_lbfgs` and :func:`gradtx.scale_by_zoom_linesearch`. State: ``2 memory_size + 3`` float32
    numbers per parameter.

    Source: Nocedal and Wright 2006, Numerical Optimization, algorithm 7.5.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> loss = lambda p: (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2
    >>> tx = gradtx.lbfgs()
    >>> params = jnp.array([-1.2, 1.0])
    >>> state, value_and_grad = tx.init(params), gradtx.value_and_grad_from_state(loss)
    >>> @jax.jit
    ... def step(params, state):
    ...     value, grad = value_and_grad(params, state=state)
    ...     updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
    ...     return gradtx.apply_updates(params, updates), state
    >>> for _ in range(40):
    ...     params, state = step(params, state)
    >>> params.round(3).tolist()
    [1.0, 1.0]
    """
    return chain(
        scale_by_lbfgs(memory_size, scale_init_precond),
        scale_by_learning_rate(1.0 if learning_rate is None else learning_rate),
        identity() if linesearch is None else linesearch,
    )
