"""Weight decay that looks at the step, and one that looks at the learning rate."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators import chain, masked, per_layer
from gradtx.combinators.selecting import Where, selected
from gradtx.core import EmptyState, GradientTransformation, transformation
from gradtx.transforms.decay import add_decayed_weights


@transformation(locality="elementwise")
def add_cautiously_decayed_weights(
    weight_decay: errors.Strength = 0.0, mask: Where | None = None
) -> GradientTransformation:
    """``u = g + weight_decay * p`` where ``g * p >= 0``, else ``u = g``: decay only where the step shrinks ``p`` too.

    It stands where :func:`gradtx.add_decayed_weights` does, behind the adaptive scaling and before the learning rate,
    where ``g`` is what will be subtracted. ``weight_decay`` and ``mask`` as there. For complex numbers ``g * p`` is
    the real part of ``g * conj(p)``.

    Source: Chen et al. 2025, arXiv:2510.12402, algorithm 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.add_cautiously_decayed_weights(0.5)
    >>> params = jnp.array([2.0, -2.0])
    >>> tx.update(jnp.array([1.0, 1.0]), tx.init(params), params)[0].tolist()
    [2.0, 1.0]
    """
    if mask is not None:
        return masked(add_cautiously_decayed_weights(weight_decay), mask)
    if errors.is_per_layer(weight_decay):
        return per_layer(add_cautiously_decayed_weights, weight_decay)

    def init(param):
        del param
        return EmptyState()

    def update(update, state, param):
        against = _opposed(update.real, param.real)
        if jnp.iscomplexobj(update) or jnp.iscomplexobj(param):
            direction, weight = (x / jnp.maximum(jnp.abs(x), jnp.finfo(x.dtype).tiny) for x in (update, param))
            against = (direction * jnp.conj(weight)).real < 0
        return jnp.where(against, update, update + weight_decay * param), state

    return GradientTransformation(init, update)


def _opposed(x: jax.Array, y: jax.Array) -> jax.Array:
    """``x * y < 0`` by signs: the product of small numbers vanishes."""
    return jnp.sign(x) * jnp.sign(y) < 0


@transformation
def add_corrected_decay(
    weight_decay: errors.NonNegative,
    learning_rate: errors.NonNegative,
    max_learning_rate: errors.Positive,
    normalized: Where | None = None,
) -> GradientTransformation:
    """``u = g + weight_decay * learning_rate / max_learning_rate * p``: decay that falls with the learning rate.

    Layers in front of a normalization keep their ratio of gradient to weight norm over a schedule only if the decay
    follows the learning rate. ``normalized`` selects them; the others (output layer, embeddings) get ``weight_decay``
    itself. Without it all leaves are taken to be normalized. Give it the learning rate, or the schedule, that the step
    has, and its largest value. It stands before the learning rate.

    Source: Defazio 2025, arXiv:2506.02285, algorithm 1 (AdamC).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.add_corrected_decay(0.5, learning_rate=0.1, max_learning_rate=0.4)
    >>> tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)), jnp.array([8.0]))[0].tolist()
    [2.0]
    """
    corrected = add_decayed_weights(weight_decay * (learning_rate / max_learning_rate))
    if normalized is None:
        return corrected

    def others(tree: Any) -> Any:
        hits = selected(normalized, tree, f"add_corrected_decay(normalized={errors.show(normalized)})", "normalized")
        return jax.tree.structure(tree).unflatten([not hit for hit in hits])

    return chain(masked(corrected, normalized), masked(add_decayed_weights(weight_decay), others))
