"""Every command of docs/scaling.md is one that the program accepts, what it says of bytes is so; its benchmark runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from lightning_automl_vision.arguments import rewrite
from lightning_automl_vision.composed import Settings
from lightning_automl_vision.config import CONFIG_DIR, register
from lightning_automl_vision.data.packed import PackedHeaders, Packing
from lightning_automl_vision.jobs.checking import check
from lightning_automl_vision.samples import Boxes, Labels
from lightning_automl_vision.search.asking import asked_for
from lightning_automl_vision.trainer_settings import TrainerConfig

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
PROGRAMS = (["lav"], ["-m", "lightning_automl_vision"])


@dataclass(frozen=True)
class Command:
    """What stands before the program, and what the program is given."""

    before: list[str]
    words: list[str]

    @property
    def variables(self) -> dict[str, str]:
        return dict(word.split("=", 1) for word in takewhile(lambda word: re.match(r"[A-Z_]+=", word), self.before))

    @property
    def launcher(self) -> list[str]:
        return self.before[len(self.variables) :]


def commands() -> list[Command]:
    lines = [line for block in BLOCKS for line in block.splitlines() if line and not line.startswith("#")]
    return [command_of(shlex.split(line)) for line in lines]


def command_of(words: list[str]) -> Command:
    for place in range(len(words)):
        for program in PROGRAMS:
            if words[place : place + len(program)] == program:
                return Command(words[:place], words[place + len(program) :])
    raise AssertionError(f"no program of ours in {words}")


COMMANDS = commands()


@dataclass
class Ray:
    init: dict[str, Any] = field(default_factory=lambda: {"address": None})
    remote: dict[str, Any] = field(default_factory=dict)


@dataclass
class RayLauncher:
    """The keys of hydra-ray-launcher 1.2, which is not installed everywhere."""

    _target_: str = "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher"
    ray: Ray = field(default_factory=Ray)


def accepted(words: list[str]) -> TrainerConfig:
    """As the command line goes, up to where data would be read."""
    rewritten = rewrite(words)
    register()
    if "hydra/launcher=ray" in rewritten:
        store = ConfigStore.instance()
        if "ray.yaml" not in store.repo.get("hydra", {}).get("launcher", {}):
            store.store(group="hydra/launcher", name="ray", node=RayLauncher)
    if any(word.startswith("hydra/launcher=submitit") for word in rewritten):
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        if not {"-m", "--multirun"} & {*rewritten}:
            settings = Settings.from_config(compose("config", rewritten), tuple(rewritten))
            check(settings)
            return settings.trainer
        arguments = [word for word in rewritten if word not in ("-m", "--multirun")]
        fixed = [word for word in arguments if "," not in word]
        assert compose("config", fixed, return_hydra_config=True).hydra.launcher
        asked = asked_for(OmegaConf.create(compose("config", fixed)), {}, arguments)
        assert asked.settings.limits.max_concurrent_trials > 1
        return asked.settings.trainer


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_every_command_is_accepted_and_has_as_many_processes_as_its_launcher_starts(number: int) -> None:
    command = COMMANDS[number]
    trainer = accepted(command.words)
    several = trainer.devices * trainer.num_nodes
    launcher = command.launcher
    assert not launcher or launcher[0] in ("torchrun", "srun", "mpirun")
    if launcher[:1] == ["torchrun"]:
        from torch.distributed.run import get_args_parser

        options = get_args_parser().parse_args([*launcher[1:], "script"])
        assert (int(options.nnodes), int(options.nproc_per_node)) == (trainer.num_nodes, trainer.devices)
    if launcher[:1] == ["mpirun"]:
        assert launcher[1:3] == ["-np", str(several)]
        assert "MASTER_ADDR=first" in launcher
    if not launcher and trainer.num_nodes > 1:
        assert {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK"} == command.variables.keys()


def test_a_batch_script_asks_for_what_its_training_takes() -> None:
    (script,) = (block for block in BLOCKS if "#SBATCH" in block)
    given = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", script, flags=re.MULTILINE))
    trainer = accepted(command_of(shlex.split(script.splitlines()[-1])).words)
    assert int(given["nodes"]) == trainer.num_nodes
    assert int(given["ntasks-per-node"]) == trainer.devices
    assert given["gres"] == f"gpu:{trainer.devices}"
    words = script.splitlines()[-1]
    assert f"training.number_of_workers={int(given['cpus-per-task']) - 1} " in words


def test_the_document_has_a_command_for_each_way() -> None:
    text = " ".join(word for command in COMMANDS for word in (*command.before, *command.words))
    for part in ("torchrun", "srun", "mpirun", "submitit_slurm", "launcher=ray", "stream_image_files", "size=auto"):
        assert part in text


def test_what_it_names_is_there() -> None:
    for name in re.findall(r"`(\w+/\w+\.py)`", TEXT):
        assert (ROOT / "lightning_automl_vision" / name).exists(), name
    for link in re.findall(r"\]\(([\w./]+)\)", TEXT):
        assert (ROOT / "docs" / link).exists(), link


def benchmark(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "case",
    [
        "classes",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("several classes", "boxes, yolov5", "boxes, fasterrcnn", "masks")
        ),
    ],
)
def test_the_benchmark_of_accelerators_goes_through_on_a_cpu(case: str) -> None:
    done = benchmark("--device", "cpu", "--steps", "2", "--options", "32-true", "16-mixed", "--cases", case)
    assert done.returncode == 0, done.stderr
    device, *lines = done.stdout.splitlines()
    assert device.startswith("cpu of ")
    plain, half = (line for line in lines if line.startswith(case) and ("32-true" in line or "16-mixed" in line))
    rate, alone, idle, memory, _ = plain.split()[-5:]
    assert min(float(rate), float(alone)) > 0
    assert (idle[-1], memory) == ("%", "-")
    assert "trainer.precision=16-mixed: it needs a GPU" in half


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is an accelerator")
def test_the_benchmark_of_accelerators_says_that_there_is_none() -> None:
    done = benchmark()
    assert done.returncode == 2
    assert done.stdout.startswith("No accelerator: ")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("boxes", [0, 10])
def test_labels_take_as_many_bytes_as_it_says(boxes: int) -> None:
    packing, count = Packing(), 50
    for number in range(count):
        target = Labels(labels=np.array([number]))
        if boxes:
            target = Boxes(
                labels=np.zeros(boxes, np.int64), boxes=np.zeros((boxes, 4)), crowd=np.zeros(boxes, np.bool_)
            )
        packing.add(f"s3://company-photographs/2024/07/{number:09}.jpg", target)
    headers = PackedHeaders(np.ones((count, 2), np.int32))
    a_row = bytes_of([packing.samples(), headers]) / count
    found = re.search(r"(\d+) bytes an image with a name of 46 .*?, (\d+) more for each box", TEXT)
    assert found is not None
    image, box = (int(text) for text in found.groups())
    assert a_row == image if not boxes else a_row == image - 8 + boxes * box  # a class has 8 bytes, once


def bytes_of(value: Any) -> int:
    """Of every array in it."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    parts = value if isinstance(value, list) else list(getattr(value, "__dict__", {}).values())
    return sum(bytes_of(part) for part in parts)
