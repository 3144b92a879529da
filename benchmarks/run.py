"""What an optimizer step costs, on the leaves of real models: gradtx, Optax, PyTorch and the step by hand, in one run.

    python -m benchmarks.run [--quick] [--json FILE] [--sizes NAME ...] [--optimizers NAME ...] [--peers NAME ...]
    python -m benchmarks.run --page FOLDER

A step is ``step(params, state, grads) -> (params, state)``, update and ``apply_updates``, with parameters and state
donated. Compiled from shapes alone: what does not fit into the memory that is free is counted, not run, and said.

Counted by the compiler (PyTorch has no such counts):

``bytes``      bytes that the step reads and writes, over the bytes of the parameters in float32. Not of a step with a
               loop, of which the compiler counts one turn: that of 8-bit state on a CPU, where leaves are large.
``state``      bytes of the state, for each parameter. ``held``: parameters, gradients and state, for each parameter.
``peak``       bytes for each parameter of arguments, outputs that are no donated argument, and scratch.
``kernels``    fusions and calls of kernels in the compiled program.

Timed, as the median over rounds, with quartiles. A round lays all arrays out anew, runs a copy of memory and the peers
one after the other, three times, in another order than the round before, and keeps the median of the three; a ratio is
one of times in one round. gradtx, the step by hand and Optax share rounds, twice as many; every other peer has rounds
with Optax, so that two peers' arrays are there at a time.

``time/Optax`` seconds of a step over those of Optax's.
``of copy``    ``(least bytes / seconds of a step) / (bytes of the copy / seconds of the copy)``. The least bytes are
               those that any such step must move: parameters and state read and written, gradients read, twice if
               clipped by the norm of all. The copy reads and writes as many bytes as the least of a float32 step,
               1 GB at most, with its sign changed: in place or into another array that is there, the quicker of both.
``host us``    microseconds until the call of a step returns.
``build``      seconds to trace, lower and compile over those of Optax; ``lower`` and ``compile`` alone in the JSON.

Below the table: what is claimed of these numbers, and whether it holds on this device. ``--page`` measures nothing: it
puts tables and pictures of ``benchmarks/results/run_*.json`` into ``FOLDER/benchmarks.md`` and ``FOLDER/pictures``. How
fast whole models train is measured by ``python -m benchmarks.flax_models``.
"""

import argparse
import functools
import gc
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

# Before the first use of a GPU: PyTorch needs memory beside.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import optax

import gradtx
from benchmarks import leaves, run_page, torch_steps
from benchmarks.leaves import Shapes
from benchmarks.reporting import environment, table, write_json
from benchmarks.run_claims import claims
from benchmarks.steps import (
    B1,
    DECAY,
    MAX_NORM,
    RATE,
    Peer,
    adamw_by_hand,
    built,
    bytes_moved,
    fusions,
    has_loop,
    momentum_by_hand,
    nbytes,
    parameter_copies,
    peak_bytes,
    ratio,
    transforming,
)
from gradtx import storage

SIZES: dict[str, tuple[Callable[[], Shapes], Callable[[], Shapes]]] = {
    "1M": (lambda: leaves.equal(4, 250_000), lambda: leaves.equal(4, 10_000)),
    "100M": (lambda: leaves.equal(4, 25_000_000), lambda: leaves.equal(4, 100_000)),
    "1G": (lambda: leaves.equal(4, 250_000_000), lambda: leaves.equal(4, 200_000)),
    "ResNet-50": (leaves.resnet50, lambda: leaves.resnet50(width=8, classes=10)),
    "GPT-2": (leaves.gpt2, lambda: leaves.gpt2(width=64, vocabulary=1000, layers=2, context=64)),
    "1,000 small": (lambda: leaves.equal(1_000, 1_000), lambda: leaves.equal(40, 1_000)),
}
"""The leaves, and those of ``--quick``."""

ONLY_ON_ACCELERATORS = ("1G",)
TURNS = 3
"""Steps, or runs of quick ones, that are timed while arrays lie in one place."""
SMALL = 4096
"""Elements from which a leaf is large, as ``storage.packed`` takes it."""


class Contender(NamedTuple):
    """A step, and what it is given in place of float32 parameters."""

    peer: Peer
    given: Callable[[Any], Any] = lambda params: params


def contenders(optimizer: str, shapes: Shapes) -> dict[str, Contender]:
    """Those that JAX compiles; layouts of the state where leaves are large, packing where some are small.

    Layouts without clipping alone: it comes before them and is the same.
    """
    ours = gradtx.sgd(RATE, momentum=B1) if optimizer == "momentum" else gradtx.adamw(RATE, weight_decay=DECAY)
    theirs = optax.sgd(RATE, momentum=B1) if optimizer == "momentum" else optax.adamw(RATE, weight_decay=DECAY)
    if is_clipped := optimizer == "clip, adamw":
        theirs = optax.chain(optax.clip_by_global_norm(MAX_NORM), theirs)

    def clipping(tx: gradtx.GradientTransformation) -> gradtx.GradientTransformation:
        return gradtx.chain(gradtx.clip_by_global_norm(MAX_NORM), tx) if is_clipped else tx

    def step_of(tx: gradtx.GradientTransformation) -> Peer:
        return transforming(tx, gradtx.apply_updates)

    found = {
        "Optax": Contender(transforming(theirs, optax.apply_updates)),
        "gradtx": Contender(step_of(clipping(ours))),
        "by hand": Contender(momentum_by_hand() if optimizer == "momentum" else adamw_by_hand(clipped=is_clipped)),
    }
    sizes = [nbytes(leaf) // 4 for leaf in shapes.values()]
    if statistics.mean(sizes) >= SMALL and not is_clipped:
        half, eighth = (storage.stored(ours, how) for how in (storage.cast(jnp.bfloat16), storage.quantized()))
        found["gradtx, bfloat16 state"] = Contender(step_of(half))
        found["gradtx, 8-bit state"] = Contender(step_of(eighth))
        found["gradtx, 8-bit state, bfloat16 weights"] = Contender(
            step_of(storage.master_weights(eighth, bits=8)),
            lambda params: jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params),
        )
    if sum(size < SMALL for size in sizes) > 1:
        tx = clipping(storage.packed(ours))
        found["gradtx, packed state"] = Contender(step_of(tx))
        found["gradtx, packed"] = Contender(step_of(tx), lambda params: storage.pack(params, tx))
    return found


OPTIMIZERS = ("adamw", "clip, adamw", "momentum")
PEERS = (
    "gradtx", "by hand", "gradtx, bfloat16 state", "gradtx, 8-bit state", "gradtx, 8-bit state, bfloat16 weights",
    "gradtx, packed state", "gradtx, packed", "PyTorch, foreach", "PyTorch, fused",
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# What runs.


class Running(NamedTuple):
    """``call()`` hands one step over, ``wait()`` returns when it is done."""

    call: Callable[[], Any]
    wait: Callable[[], Any]


def filled(shapes: Shapes) -> dict[str, jax.Array]:
    return {
        name: jnp.full(leaf.shape, 0.01 * (index % 7 + 1), leaf.dtype)
        for index, (name, leaf) in enumerate(shapes.items())
    }


def running(program: jax.stages.Compiled, contender: Contender, shapes: Shapes) -> Running:
    params, grads = (contender.given(filled(shapes)) for _ in range(2))
    kept = [(params, contender.peer.init(params))]
    del params  # they are donated

    def call() -> None:
        kept[0] = program(*kept[0], grads)

    return Running(call, lambda: jax.block_until_ready(kept[0]))


def running_in_torch(optimizer: str, kind: str, shapes: Shapes) -> Running:
    return Running(*torch_steps.starting(optimizer, kind, shapes))


@functools.cache
def copying(size: int) -> Callable[[], Running]:
    """Reads and writes ``size`` bytes in all: from one array into another, or in place, whichever is quicker.

    In place is what a step does with what it is given; into another array a CPU first reads what it overwrites.
    """
    count = max(size // 8, 1)

    def way(copied: Any, sources: int) -> Running:
        given = [jnp.ones(count, jnp.float32)] * sources
        kept = [jnp.zeros(count, jnp.float32)]

        def call() -> None:
            kept[0] = copied(*given, kept[0])

        return Running(call, lambda: jax.block_until_ready(kept[0]))

    ways = [
        functools.partial(way, jax.jit(lambda source, target: -source, donate_argnums=1, keep_unused=True), 1),
        functools.partial(way, jax.jit(lambda target: -target, donate_argnums=0), 0),
    ]
    seconds = timed({str(index): each for index, each in enumerate(ways)}, rounds=3)
    return min(zip(ways, seconds.values(), strict=True), key=lambda pair: min(pair[1]["step"]))[0]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def timed(peers: Mapping[str, Callable[[], Running]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds of a step and of the call alone: of each round, the median of three turns.

    Each round lays all arrays out anew and goes through the peers in another order: both were seen to move the ratio
    of two steps by a fifth for as long as nothing else changes.
    """
    seconds: dict[str, dict[str, list[float]]] = {name: {"step": [], "call": []} for name in peers}
    repeats: dict[str, int] = {}
    for index in range(rounds):
        first = index // 2 % len(peers)
        order = ([*peers] * 2)[first : first + len(peers)]
        laid_out = {name: peers[name]() for name in (order if index % 2 == 0 else reversed(order))}
        for name, peer in laid_out.items():
            if name not in repeats:
                _turn(peer, 1)  # the very first one takes longer
            took = _turn(peer, 1)["step"]
            repeats.setdefault(name, min(max(round(0.02 / took), 1), 50))  # of 20 ms, clock and waiting are nothing
        turns = [{name: _turn(peer, repeats[name]) for name, peer in laid_out.items()} for _ in range(TURNS)]
        for name, found in seconds.items():
            for what, taken in found.items():
                taken.append(statistics.median(turn[name][what] for turn in turns))
        laid_out.clear()
        gc.collect()
    return seconds


def _turn(peer: Running, repeats: int) -> dict[str, float]:
    time.sleep(0.005)  # until threads of the one before have gone to sleep
    start = time.perf_counter()
    peer.call()
    called = time.perf_counter()
    for _ in range(repeats - 1):
        peer.call()
    peer.wait()
    return {"step": (time.perf_counter() - start) / repeats, "call": called - start}


def bytes_free() -> int:
    """Memory of the device that an array may still take."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        statistic = device.memory_stats() or {}
        return statistic.get("bytes_limit", 1 << 62) - statistic.get("bytes_in_use", 0)
    said = pathlib.Path("/proc/meminfo")
    if said.exists():
        lines = dict(line.split(":") for line in said.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


# ---------------------------------------------------------------------------------------------------------------------
# Measuring.


def least_bytes(optimizer: str, params: Any, state: Any) -> int:
    """What a step has to read and write; gradients are like the parameters."""
    return nbytes(params) * (4 if optimizer == "clip, adamw" else 3) + nbytes(state) * 2


def measure(
    optimizer: str, shapes: Shapes, wanted: Sequence[str], builds: int, rounds: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """One row for each peer, and lines on those that did not run."""
    count = leaves.count(shapes)
    compiling = {n: c for n, c in contenders(optimizer, shapes).items() if n in wanted or n == "Optax"}
    given = {name: jax.eval_shape(one.given, shapes) for name, one in compiling.items()}
    states = {name: jax.eval_shape(one.peer.init, given[name]) for name, one in compiling.items()}

    programs: dict[str, jax.stages.Compiled] = {}
    build: dict[str, dict[str, list[float]]] = {n: {"lower": [], "compile": [], "build": []} for n in compiling}
    for _ in range(builds):
        for name, one in compiling.items():
            programs[name], lower, compiled = built(one.peer.step, given[name], states[name], given[name])
            for phase, seconds in (("lower", lower), ("compile", compiled), ("build", lower + compiled)):
                build[name][phase].append(seconds)

    rows: dict[str, dict[str, Any]] = {}
    for name, program in programs.items():
        rows[name] = {
            "optimizer": optimizer, "peer": name, "bytes": None if has_loop(program) else bytes_moved(program, shapes),
            "state": nbytes(states[name]) / count, "held": (2 * nbytes(given[name]) + nbytes(states[name])) / count,
            "peak": peak_bytes(program) / count,
            "kernels": fusions(program) + str(program.as_text()).count(" custom-call("),
            "copies": parameter_copies(program, given[name]),
        }  # fmt: skip
        for phase, taken in build[name].items():
            rows[name] |= _spread(f"{phase}/Optax", ratio(taken, build["Optax"][phase]))
            rows[name][f"{phase} seconds"] = statistics.median(taken)
    in_torch = [n for n in wanted if n.startswith("PyTorch")] if torch_steps.is_installed() else []
    for name in in_torch:
        state = 4 * torch_steps.moments(optimizer)
        rows[name] = {"optimizer": optimizer, "peer": name, "state": float(state), "held": 8.0 + state}
    rows = {name: rows[name] for name in ("Optax", *PEERS) if name in rows}

    least = {name: least_bytes(optimizer, given[name], states[name]) for name in compiling}
    least |= dict.fromkeys(in_torch, least["Optax"])
    copied = min(least["Optax"], 10**9)
    alone = [name for name in rows if name not in ("Optax", "gradtx", "by hand")]
    notes, of_optax = [], []
    for group in ([n for n in ("Optax", "gradtx", "by hand") if n in rows], *(["Optax", name] for name in alone)):
        held = [torch_steps.bytes_held(optimizer, shapes) if n in in_torch else peak_bytes(programs[n]) for n in group]
        needed, free = sum(held) + 2 * copied, bytes_free()
        if needed > 0.9 * free:
            notes.append(f"{optimizer}, {group[-1]}: not run, {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB free")
            continue
        peers = {
            name: functools.partial(running_in_torch, optimizer, name.rpartition(" ")[2], shapes)
            if name in in_torch
            else functools.partial(running, programs[name], compiling[name], shapes)
            for name in group
        }
        try:
            seconds = timed({"copy": copying(copied), **peers}, rounds if group[-1] in alone else 2 * rounds)
        except RuntimeError as error:  # of PyTorch, where it has no such kernel for the device; or of a full device
            notes.append(f"{optimizer}, {group[-1]}: not run, {str(error).splitlines()[0]}")
            continue
        finally:
            if group[-1] in in_torch:
                torch_steps.give_back()
        of_optax.append((seconds["copy"], seconds["Optax"]))
        for name in group[1:]:
            rows[name] |= _times(least[name] / copied, seconds[name], seconds["copy"])
            rows[name] |= _spread("time/Optax", ratio(seconds[name]["step"], seconds["Optax"]["step"]))
            if "by hand" in seconds:
                rows[name] |= _spread("time/by hand", ratio(seconds[name]["step"], seconds["by hand"]["step"]))
    if of_optax:
        copy, own = (
            {phase: [one for part in parts for one in part[phase]] for phase in ("step", "call")}
            for parts in zip(*of_optax, strict=True)
        )
        rows["Optax"] |= _times(least["Optax"] / copied, own, copy)
        rows["Optax"] |= _spread("time/Optax", (1.0, 1.0, 1.0))
    return list(rows.values()), notes


def _times(share: float, own: Mapping[str, list[float]], copy: Mapping[str, list[float]]) -> dict[str, Any]:
    """What is said of a peer alone; ``share`` is what it has to move over what the copy moves."""
    step, call = (ratio(own[phase], [1.0] * len(own[phase])) for phase in ("step", "call"))
    return {
        **_spread("of copy", ratio([share * seconds for seconds in copy["step"]], own["step"])),
        **_spread("step seconds", step), **_spread("host us", tuple(1e6 * seconds for seconds in call)),
    }  # fmt: skip


def _spread(what: str, found: Sequence[float]) -> dict[str, Any]:
    middle, low, high = found
    return {what: middle, f"{what} quartiles": [low, high]}


# ---------------------------------------------------------------------------------------------------------------------
# The device.


@functools.cache
def device() -> dict[str, Any]:
    """Kind, memory, threads, and what ``nvidia-smi`` reads where there is one; nothing is set."""
    said: dict[str, Any] = {"kind": jax.devices()[0].device_kind, "threads": cores(), "memory GB": bytes_free() / 1e9}
    if jax.default_backend() == "gpu" and shutil.which("nvidia-smi"):
        asked = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit,memory.total"
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader", "--id=0"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if answer.returncode == 0:
            said |= dict(zip(asked.split(","), map(str.strip, answer.stdout.split(",")), strict=False))
    return said


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small leaves in place of all, and few rounds: a check")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    parser.add_argument("--page", metavar="FOLDER", type=pathlib.Path, help="draw the page, measure nothing")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, metavar="NAME", help=", ".join(SIZES))
    parser.add_argument(
        "--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS, metavar="NAME", help="; ".join(OPTIMIZERS)
    )
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS, metavar="NAME", help="; ".join(PEERS))
    parser.add_argument("--rounds", type=int, default=7, help="rounds of timing a step, half of those of gradtx itself")
    parser.add_argument("--builds", type=int, default=1, help="rounds of tracing and compiling")
    given = parser.parse_args(arguments)
    if given.page:
        run_page.write(given.page)
        return
    if given.quick:
        given.rounds = min(given.rounds, 3)

    began = time.perf_counter()
    built(lambda params, state, grads: (params - grads, state), *[jnp.ones(4)] * 3)  # the first one takes longer
    on_cpu = jax.default_backend() == "cpu"
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    print(", ".join(f"{name} {value}" for name, value in device().items()))
    rows: list[dict[str, Any]] = []
    notes: list[str] = []

    def save() -> None:
        if given.json:
            write_json(
                given.json, rows, benchmark="run", on=device(), is_accelerator=not on_cpu, notes=notes,
                arguments={"rounds": given.rounds, "builds": given.builds, "quick": given.quick},
            )  # fmt: skip

    for size in given.sizes or SIZES:
        if on_cpu and size in ONLY_ON_ACCELERATORS and not given.sizes:
            notes.append(f"{size}: left out, since there is no accelerator")
            continue
        shapes = SIZES[size][1 if given.quick else 0]()
        for optimizer in given.optimizers:
            found, lines = measure(optimizer, shapes, given.peers, given.builds, given.rounds)
            rows += [{"leaves": size, "count": len(shapes), "parameters": leaves.count(shapes), **row} for row in found]
            notes += [f"{size}, {line}" for line in lines]
            print(f"{time.perf_counter() - began:.0f} s: {size}, {optimizer}", file=sys.stderr, flush=True)
            save()  # a run that is cut short keeps what it has
    if not torch_steps.is_installed():
        notes.append("PyTorch: not installed")

    print(f"\nmedians over {given.rounds} rounds; builds: {given.builds}\n")
    print(table(rows, run_page.COLUMNS))
    if given.quick:
        notes.append("--quick: no claim is judged by leaves of other sizes")
    else:
        print("\n" + table(claims(rows, is_accelerator=not on_cpu), ["claim", "figure", "verdict"]))
    print("\n" + "\n".join([*notes, "whole models: python -m benchmarks.flax_models"]))
    print(f"{time.perf_counter() - began:.0f} s")
    save()


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)  # a program that is found there was not compiled
    main()
