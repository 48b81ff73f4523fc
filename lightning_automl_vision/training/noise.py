"""What Lightning and torch say about things that are meant to be as they are."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_MEANT = (
    r".*does not have many workers.*",  # training.number_of_workers decides, by cores and images
    r".*The number of training batches .* is smaller than the logging interval.*",  # an evaluation is logged anyhow
    r".*GPU available but not used.*",  # trainer.accelerator=cpu was asked for
    r".*MPS available but not used.*",  # the same
    r".*module\(s\) in eval mode at the start of training.*",  # frozen batch norms
    r".*does not have a deterministic implementation.*",  # trainer.deterministic asks for one only where there is one
    r".*can return non-deterministic.*",  # the same, said by cuBLAS
    r".*Detected call of `lr_scheduler\.step\(\)` before `optimizer\.step\(\)`.*",  # 16-mixed skips an overflown step
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # Lightning's own use of torch
    r".*Experiment logs directory .* exists and is not empty.*",  # what is to stay of it is read before
    r".*resuming from a checkpoint that ended before the epoch ended.*",  # the order of the data goes on where it was
)
# Tips, greetings, the reasons for stopping, which a run says itself, and that there is no GPU to compile for.
_CHATTY = ("lightning.pytorch", "lightning.fabric", "torch.utils.cpp_extension")


@contextmanager
def silenced() -> Iterator[None]:
    """Everything else, errors and unknown warnings, still comes through."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in _MEANT:
            warnings.filterwarnings("ignore", message)
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
