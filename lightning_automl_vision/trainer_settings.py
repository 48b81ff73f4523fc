"""Where a run trains, and how precisely."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_automl_vision.keys import key

_OTHER_SPELLINGS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "64": "64-true"}


@dataclass
class TrainerConfig:
    accelerator: str = key("auto", "Where to train.", choices=("auto", "cpu", "gpu", "mps", "cuda"))
    devices: int = key(
        1, "How many devices of each machine to train on; each has a process and batches of its own.", minimum=1
    )
    num_nodes: int = key(
        1,
        "How many machines train together, each with as many devices.",
        minimum=1,
        old=("node_count_per_trial", "number_of_nodes"),
    )
    sync_batchnorm: bool = key(
        False, "Let batch norms see the batches of all devices at once, where there are several GPUs."
    )
    scale_learning_rate: bool = key(
        False, "Multiply the learning rate by the number of all devices, as they have as many times more images a step."
    )
    find_unused_parameters: bool | None = key(
        None,
        "Look in each step for weights that had no part in it, which several devices would wait for;"
        " by default the model is tried out, once, to see whether it has any.",
    )
    precision: str = key("32-true", "Numerical precision.", choices=("32-true", "16-mixed", "bf16-mixed", "64-true"))
    force_precision: bool = key(False, "Train in bf16-mixed even on a processor that has no units for it.")
    channels_last: bool = key(
        False, "Lay pictures and weights out with their channels last, which convolutions may be faster with."
    )
    compile: bool = key(
        False, "Compile the network before the first step, which takes its time and makes each step faster."
    )
    max_steps: int | None = key(None, "Stop after this many optimiser steps, whatever the epochs.", minimum=1)
    deterministic: bool = key(True, "Use only operations that give the same result each time, where there is a choice.")
    log_every_n_steps: int = key(50, "Training steps between two lines of a tracker.", minimum=1)

    def __post_init__(self) -> None:
        self.precision = _OTHER_SPELLINGS.get(self.precision, self.precision)
