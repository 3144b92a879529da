"""A training step and what feeds it. The loop stays the user's::

    state = create_train_state(params, tx, key=key)
    step = make_train_step(loss, tx)
    for batch in batches(data, 128, key=key, epochs=10):
        state, metrics = step(state, batch)

Each part works alone, and the state is a plain tuple.
"""

from gradtx.training.batches import batches as batches
from gradtx.training.batches import batches_per_epoch as batches_per_epoch
from gradtx.training.loss_form import from_plain as from_plain
from gradtx.training.metrics import mean_metrics as mean_metrics
from gradtx.training.state import TrainState as TrainState
from gradtx.training.state import create_train_state as create_train_state
from gradtx.training.step import NonFiniteLossWarning as NonFiniteLossWarning
from gradtx.training.step import make_eval_step as make_eval_step
from gradtx.training.step import make_train_step as make_train_step
