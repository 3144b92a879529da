"""The same run by an oracle, by a transformation in float32, and by PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

EPS = float(np.finfo(np.float32).eps)
STEPS, RATE = 100, 1e-2


def titled(recipe):
    return f"{recipe[0]}({', '.join(f'{name}={value}' for name, value in recipe[1].items())})"


def drawn(magnitudes):
    """Gradients of 100 steps over these magnitudes, and the parameters where they are taken."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(STEPS, 64)) * np.repeat(magnitudes, 64 // len(magnitudes))
    return gradients.astype(np.float32), rng.normal(size=64).astype(np.float32)


def exact_updates(oracle, gradients, param, **arguments):
    updates, state = [], {}
    for t, g in enumerate(gradients.astype(np.float64), 1):
        update, state = oracle(state, g, param.astype(np.float64), t, **arguments)
        updates.append(update)
    return np.stack(updates)


def updates_in_float32(tx, gradients, param):
    def body(state, g):
        update, state = tx.update(g, state, param)
        return state, update

    return np.asarray(jax.jit(lambda state: jax.lax.scan(body, state, gradients)[1])(tx.init(jnp.asarray(param))))


def updates_of_pytorch(name, gradients, **arguments):
    """With the parameters at zero before every step, where the new parameters are the update, unrounded."""
    torch = pytest.importorskip("torch", reason="PyTorch is the second peer; its CPU build is enough")
    weight = torch.zeros(gradients.shape[1], requires_grad=True)
    optimizer = getattr(torch.optim, name)([weight], lr=RATE, **arguments)
    updates = []
    for g in gradients:
        weight.data.zero_()
        weight.grad = torch.from_numpy(g)
        optimizer.step()
        updates.append(weight.detach().numpy().copy())
    return np.stack(updates)


def assert_within(bound, updates, exact):
    """``bound`` eps of the largest update that each parameter ever gets: small ones inherit the error of large ones."""
    error = np.abs(np.asarray(updates, np.float64) - exact).max(axis=0)
    assert np.all(error <= bound * EPS * np.abs(exact).max(axis=0))
