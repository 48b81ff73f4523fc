"""``lav plan``: what a training, or a sweep, would take of time and memory, by a few real steps."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_automl_vision.composed import Settings
from lightning_automl_vision.settings import JobConfig

PLAN = "plan.json"
_GIGABYTE = 1 << 30


@dataclass
class Config(JobConfig):
    """Say what a training would take; with limits.max_trials also which candidates of AutoMode fit the time."""


def run(settings: Settings) -> None:
    """One training: measured here and now."""
    from lightning_automl_vision.jobs.checking import check, seeded
    from lightning_automl_vision.run import write_json

    spec = check(settings)
    settings = seeded(replace(settings, logger={}))
    folder = Path(settings.output_dir)
    from lightning_automl_vision.training.measuring import measure

    with tempfile.TemporaryDirectory() as scratch:
        measured = measure(replace(settings, output_dir=scratch), spec)
    epochs = settings.training.number_of_epochs
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PLAN, {"measured": measured.as_dict(), "epochs": epochs, "seconds": measured.of(epochs)})
    if settings.quiet:
        return
    from lightning_automl_vision.tables import table

    rows = [
        ("model", spec.name),
        ("seconds before the first step", f"{measured.startup:.1f}"),
        ("seconds an epoch, with its evaluation", f"{measured.epoch:.1f}"),
        (f"minutes for {epochs} epochs", f"{measured.of(epochs) / 60:.1f}"),
        ("memory, GB", f"{measured.memory / _GIGABYTE:.1f}"),
        *(
            [("memory of the device, GB", f"{measured.device_memory / _GIGABYTE:.1f}")]
            if measured.device_memory
            else []
        ),
    ]
    print(table(("plan", f"by {measured.steps} steps"), rows))
    if measured.processes > 1:
        print(
            f"One of {measured.processes} processes was measured, with its share of the images and of this machine's"
            " cores; what they tell one another at each step comes on top."
        )
    limit = settings.limits.timeout_minutes * 60
    if measured.of(epochs) > limit:
        print(
            f"limits.timeout_minutes={settings.limits.timeout_minutes:g} is over after"
            f" {max(int((limit - measured.startup) / measured.epoch), 0)} epochs."
        )
