"""The same steps in PyTorch, on leaves of the same shapes, with as many threads."""

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.leaves import Shapes
from benchmarks.steps import B1, B2, DECAY, EPS, MAX_NORM, RATE


def is_installed() -> bool:
    return importlib.util.find_spec("torch") is not None


def starting(optimizer: str, kind: str, shapes: Shapes) -> tuple[Callable[[], None], Callable[[], None]]:
    """``call()``, one step, and ``wait()``, until it is done. The gradients stay as they are, or shrink to the norm."""
    import torch

    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    params = []
    for index, leaf in enumerate(shapes.values()):
        param = torch.full(leaf.shape, 0.01 * (index % 7 + 1), dtype=torch.float32, device=device, requires_grad=True)
        param.grad = param.detach().clone()
        params.append(param)
    chosen: dict[str, Any] = {kind: True}
    if optimizer == "momentum":
        made: Any = torch.optim.SGD(params, lr=RATE, momentum=B1, **chosen)
    else:
        made = torch.optim.AdamW(params, lr=RATE, betas=(B1, B2), eps=EPS, weight_decay=DECAY, **chosen)

    def call() -> None:
        if optimizer == "clip, adamw":
            torch.nn.utils.clip_grad_norm_(params, MAX_NORM, foreach=True)
        made.step()

    return call, torch.cuda.synchronize if device == "cuda" else lambda: None


def give_back() -> None:
    """The memory of a GPU that PyTorch keeps for later."""
    import torch

    torch.cuda.empty_cache()  # nothing where there is no GPU


def moments(optimizer: str) -> int:
    """Arrays like the parameters in the state."""
    return 1 if optimizer == "momentum" else 2


def bytes_held(optimizer: str, shapes: Shapes) -> int:
    """Parameters, gradients, state, and what ``foreach`` needs beside them at most: once the parameters, twice."""
    return 4 * sum(int(np.prod(leaf.shape)) for leaf in shapes.values()) * (4 + moments(optimizer))
