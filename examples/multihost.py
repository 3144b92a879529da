"""Trains on handwritten digits with several processes, and compares what they find with what one process finds.

    python examples/multihost.py --processes 2         starts two processes on this machine, one CPU device each

On real machines, start it once on each, with the same arguments but for the number of the process:

    python multihost.py --processes 4 --process-id 0 --coordinator HOST:PORT       on HOST, which the others reach
    python multihost.py --processes 4 --process-id 1 --coordinator HOST:PORT       and so on, up to 3

PORT serves jax.distributed and PORT + 1 the watch that ends all processes if one is missing (--timeout). Each process
has its own share of the images; process 0 prints, and draws runs/multihost/multihost.png (see --out).
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np

import gradtx
from gradtx import training

try:
    import matplotlib.pyplot as plt
except ImportError as error:
    sys.exit(f"multihost.py: {error.name} is missing; write pip install gradtx[examples]")

RATE = 0.03
GRADIENT_TOLERANCE, PARAMETER_TOLERANCE = 1e-6, 1e-5  # of the largest entry of each array; parameters after 20 steps
SHOWN_STEPS = 20


def share(data, number, count):
    """The examples of one of ``count`` processes; all have as many."""
    length = len(data["label"]) // count
    return {name: values[number::count][:length] for name, values in data.items()}


def own_batches(data, number, options):
    """Batches of the share of one process, which together with those of the others are the batches of all."""
    key = jax.random.fold_in(jax.random.key(options.seed), number)
    size = options.batch_size // options.processes
    return training.batches(share(data, number, options.processes), size, key=key, epochs=None, drop_last=True)


def train(options, batches, mesh):
    """``options.steps`` steps; returns the losses, the first gradient, and the parameters after each of them."""
    from digits import ConvNet, make_loss

    parallel = options.parallel if mesh else "jit"
    # Each device draws its own dropout in "zero", so there is none; and its loss sees only its own examples, so batch
    # normalization has to be told to look at all of them.
    dropout = 0.3 if options.parallel == "jit" else 0.0
    # A ReLU's slope jumps at zero. Two runs that differ by rounding once saw another one there: after that step their
    # parameters differed by 5e-3, where with a smooth function they differ by 1e-6.
    model = ConvNet(dropout, axis_name="data" if parallel == "zero" else None, activation=jax.nn.silu)
    variables = jax.jit(model.init, static_argnums=2)(jax.random.key(options.seed), np.zeros((1, 8, 8)), False)
    # The momentum after one step is the first gradient.
    tx = gradtx.sgd(RATE, momentum=0.9)
    state = training.create_train_state(
        variables["params"], tx, key=jax.random.key(options.seed), model_state=variables["batch_stats"]
    )
    step = training.make_train_step(make_loss(model, train=True), tx, parallel=parallel, mesh=mesh)
    losses, history, gradient = [], [], None
    for number, batch in zip(range(options.steps), batches, strict=False):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
        history.append(on_host(state.params, mesh))
        if number == 0:
            (momentum,) = [leaf for leaf in jax.tree.leaves(state.opt_state, is_leaf=is_like(state.params))
                           if is_like(state.params)(leaf)]  # fmt: skip
            gradient = on_host(momentum, mesh)
    return losses, gradient, history


def is_like(params):
    structure = jax.tree.structure(params)
    return lambda tree: jax.tree.structure(tree) == structure


def on_host(tree, mesh):
    """NumPy copies of arrays of which each process may only have a part; all processes have to ask."""
    if mesh is not None:
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        tree = jax.jit(lambda tree: tree, out_shardings=everywhere)(tree)
    return jax.tree.map(np.array, tree)  # no views: the next step takes the memory


def difference(tree, other):
    """The largest over all arrays, each in units of its largest entry."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def work(options):
    """What each of the processes does."""
    from digits import bundled_digits  # not at the top: what only starts the others need not wait for Flax

    host, _, port = options.coordinator.rpartition(":")
    watch = training.watch_processes(
        f"{host}:{int(port) + 1}", options.processes, options.process_id, timeout=options.timeout
    )
    with watch:
        jax.distributed.initialize(
            options.coordinator, options.processes, options.process_id,
            heartbeat_timeout_seconds=int(2 * options.timeout) + 10,  # the watch comes first and says who is missing
        )  # fmt: skip
        mesh = jax.make_mesh(
            (jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()
        )
        data, _ = bundled_digits()
        own = (training.global_batch(batch, mesh) for batch in own_batches(data, options.process_id, options))
        together = train(options, own, mesh)
        is_alike = report(options, data, together) if jax.process_index() == 0 else True
        jax.distributed.shutdown()
    return 0 if is_alike else 1


def report(options, data, together):
    """Trains once more in this process alone, and says whether that gives the same."""
    parts = zip(*(own_batches(data, number, options) for number in range(options.processes)), strict=True)
    whole = (jax.tree.map(lambda *arrays: np.concatenate(arrays), *batch) for batch in parts)
    alone = train(options, whole, None)
    apart = [difference(*pair) for pair in zip(together[2], alone[2], strict=True)]
    found = {
        "processes": options.processes,
        "devices": jax.device_count(),
        "parallel": options.parallel,
        "losses": together[0],
        "losses_of_one_process": alone[0],
        "gradient_difference": difference(together[1], alone[1]),
        "parameter_differences": apart,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "multihost.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(options.out / "multihost.png", found)
    after = apart[:SHOWN_STEPS][-1]
    print(f"{options.processes} processes, {options.parallel}, {options.steps} steps, loss {together[0][-1]:.4f}")
    print(
        f"first gradient: {found['gradient_difference']:.1e} from that of one process, at most {GRADIENT_TOLERANCE:g}"
    )
    print(f"parameters after {min(options.steps, SHOWN_STEPS)} steps: {after:.1e}, at most {PARAMETER_TOLERANCE:g}")
    return found["gradient_difference"] <= GRADIENT_TOLERANCE and after <= PARAMETER_TOLERANCE


def draw(path, found):
    """Two panels over steps: the losses of both runs, and how far their parameters are apart."""
    figure, (loss, apart) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    steps = np.arange(1, len(found["losses"]) + 1)
    loss.plot(steps, found["losses_of_one_process"], linewidth=5, alpha=0.35, label="one process")
    loss.plot(steps, found["losses"], "k--", linewidth=1.2, label=f"{found['processes']} processes")
    loss.set(xlabel="step", ylabel="training loss (nats per image)", title="Several processes train like one")
    loss.legend()
    apart.semilogy(steps, found["parameter_differences"], label="parameters, one process to several")
    rounding = float(np.finfo(np.float32).eps)
    apart.axhline(rounding, color="gray", linestyle=":", label="float32 rounds to this")
    apart.plot(
        [1, SHOWN_STEPS], [PARAMETER_TOLERANCE] * 2, color="black", linestyle="--", linewidth=1, label="tolerance"
    )
    apart.set(xlabel="step", ylabel="largest difference / largest entry", title="Only rounding is between them")
    apart.set_ylim(rounding / 10, 10 * max(PARAMETER_TOLERANCE, *found["parameter_differences"]))
    apart.legend()
    for axes in (loss, apart):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def free_port():
    """A port that is free together with the next one, below those that systems give away by themselves."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        try:
            for number in (port, port + 1):
                socket.create_server(("127.0.0.1", number)).close()
        except OSError:
            continue
        return port


def launch(options, arguments):
    """Starts the processes on this machine, and none of them outlives this one."""
    coordinator = f"127.0.0.1:{free_port()}"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=1".strip()
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    children, stopped = [], threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        for number in range(options.processes):
            own = ["--process-id", str(number), "--coordinator", coordinator]
            command = [sys.executable, __file__, *arguments, *own]
            children.append(subprocess.Popen(command, env=environment))
        deadline = None
        while any(child.poll() is None for child in children) and (deadline is None or time.monotonic() < deadline):
            if stopped.wait(0.05):
                break
            if deadline is None and any(child.returncode for child in children):
                deadline = time.monotonic() + options.timeout + 10  # the others end by themselves
    finally:
        for child in children:
            child.kill()
            child.wait()
    for number, child in enumerate(children):
        if child.returncode < 0:
            print(f"multihost.py: process {number} ended by signal {-child.returncode}", file=sys.stderr)
    return 1 if any(child.returncode for child in children) else 0


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=2, help="how many there are (2)")
    parser.add_argument(
        "--process-id", type=int, help="which of them this is; without, all are started on this machine"
    )
    parser.add_argument("--coordinator", help="HOST:PORT of process 0")
    parser.add_argument(
        "--parallel", choices=("jit", "zero"), default="jit", help="zero: state of the optimizer in parts"
    )
    parser.add_argument("--steps", type=int, help="of training (40)")
    parser.add_argument("--batch-size", type=int, default=64, help="images per step, of all processes together (64)")
    parser.add_argument(
        "--timeout", type=float, default=60.0, help="seconds after which a silent process is missing (60)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first parameters and the order")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/multihost"), help="folder of the drawing (runs/multihost)"
    )
    parser.add_argument("--short", action="store_true", help="20 steps, to see that all of it runs")
    options = parser.parse_args(arguments)
    if (options.process_id is None) != (options.coordinator is None):
        parser.error("--process-id and --coordinator belong together")
    if options.processes < 1 or options.batch_size % options.processes:
        parser.error("--processes must divide --batch-size")
    if options.steps is None:
        options.steps = SHOWN_STEPS if options.short else 2 * SHOWN_STEPS
    return options


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.process_id is None:
        return launch(options, arguments)
    try:
        return work(options)
    except gradtx.errors.GradtxError as error:
        print(f"multihost.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
