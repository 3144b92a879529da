"""A training step and what feeds it. The loop stays the user's::

    state = create_train_state(params, tx, key=key)
    step = make_train_step(loss, tx)
    for batch in batches(data, 128, key=key, epochs=10):
        state, metrics = step(state, batch)

Each part works alone, and the state is a plain tuple.
"""

from gradtx.training.averaging import mean_metrics
from gradtx.training.batch_size import BatchSizeRow, BatchSizes, GradientNoise, compare_batch_sizes, gradient_noise
from gradtx.training.batching import batches, batches_per_epoch
from gradtx.training.local_batches import global_batch
from gradtx.training.loss_form import from_plain
from gradtx.training.micro_mapping import PerExample, micro_grad, micro_vmap, microbatch
from gradtx.training.padding import padded
from gradtx.training.processes import watch_processes
from gradtx.training.pruning import Sparsity, SparsityRow, remove_units, sparsity
from gradtx.training.sharded_state import parameter_sharding, state_sharding
from gradtx.training.sizing import DeviceBytes, bytes_per_device
from gradtx.training.state import TrainState, create_train_state
from gradtx.training.step import NonFiniteLossWarning, make_eval_step, make_train_step

__all__ = [
    "BatchSizeRow",
    "BatchSizes",
    "DeviceBytes",
    "GradientNoise",
    "NonFiniteLossWarning",
    "PerExample",
    "Sparsity",
    "SparsityRow",
    "TrainState",
    "batches",
    "batches_per_epoch",
    "bytes_per_device",
    "compare_batch_sizes",
    "create_train_state",
    "from_plain",
    "global_batch",
    "gradient_noise",
    "make_eval_step",
    "make_train_step",
    "mean_metrics",
    "micro_grad",
    "micro_vmap",
    "microbatch",
    "padded",
    "parameter_sharding",
    "remove_units",
    "sparsity",
    "state_sharding",
    "watch_processes",
]
