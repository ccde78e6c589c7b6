"""Tiny tasks for torch-xla: one of each kind of model, and those that devices and processes share.

Nothing here asks for a device: that must come after `use_spmd`.
"""

from dataclasses import replace
from typing import Any

from jaxmodels.shared.configs import GPT2Config
from parity_tests.tiny_runs import DATA, SGD, TASK, with_settings
from parity_tests.tiny_texts import FAMILIES, LENGTH, TEXT, TEXT_TASK

# Two layers, dropout between, the carry across batches; cut in two, averaged.
GRU_TASK = with_settings(
    TEXT_TASK,
    model={"cell": "gru", "num_layers": 2},
    training={"micro_batches": 2, "ema_decay": 0.9},
)
TRANSFORMER_TASK = replace(
    TEXT_TASK,
    model=GPT2Config(30, LENGTH, hidden_dim=15, num_layers=2, num_heads=3, mlp_dim=14),
    optimizer=replace(SGD, learning_rate=0.01, clip_norm=1.0),  # Adam amplifies a zero gradient
)
CASES: dict[str, tuple[Any, Any]] = {
    "cnn": (TASK, DATA),
    "lstm": FAMILIES["reviews"],
    "gru": (GRU_TASK, TEXT),
    "transformer": (TRANSFORMER_TASK, TEXT),
}

# A rate that ends at 0 compiles a step once more.
CONSTANT = {"name": "constant"}
# For several processes. SGD, for Adam's division by the smallest gradients would blow rounding up.
PARTS: dict[str, tuple[Any, Any]] = {
    "plain": (
        replace(
            with_settings(
                model={"batch_norm": False},
                training={"micro_batches": 2, "epochs": 1, "ema_decay": 0.8},
                schedule=CONSTANT,
            ),
            optimizer=replace(SGD, clip_norm=1.0),
        ),
        DATA,
    ),
    "carry": (
        replace(
            with_settings(TEXT_TASK, training={"epochs": 1, "micro_batches": 2}, schedule=CONSTANT),
            optimizer=SGD,
        ),
        TEXT,
    ),
}

# For several devices of a process, where BatchNorm sees the whole batch.
SHARED: dict[str, tuple[Any, Any]] = {
    "norm": (
        replace(with_settings(training={"epochs": 1}, schedule=CONSTANT), optimizer=SGD),
        DATA,
    ),
    "carry": PARTS["carry"],
}
