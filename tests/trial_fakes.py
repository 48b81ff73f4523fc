"""Programs that stand for a training, and the proof that none of them is left."""

import os
import time
from pathlib import Path

from lightning_automl_vision.search.trial_process import Command

PRELUDE = """
import ctypes, json, os, signal, subprocess, sys, time
from pathlib import Path
from lightning_automl_vision.search.watching import watch_parent

watch_parent()
folder = Path(os.environ["LAV_TRIAL_FOLDER"])

def evaluate(epoch, value):
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"epoch": epoch, "accuracy": value}) + "\\n")

def finish(status="completed", value=0.5, epoch=2, **more):
    primary = {"name": "accuracy", "value": value, "epoch": epoch}
    (folder / "result.json").write_text(json.dumps({"status": status, "primary_metric": primary, **more}))

def ignore_requests():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

def leave_a_child():
    subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
"""


def fake_command(folder: Path, code: str, **options) -> Command:
    """The program lies in ``folder``, works there, and writes to ``folder/trial``."""
    (folder / "fake_training.py").write_text(PRELUDE + code)
    options = {"arguments": (), "folder": folder / "trial", "metric": "accuracy", **options}
    return Command(module="fake_training", working_folder=folder, **options)


def working_in(folder: Path) -> list[int]:
    """The processes that work there, which a trial and its children do."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")) == folder and "Z" not in state_of(process):
                found.append(int(process.name))
        except OSError:  # it is gone by now, or another user's
            continue
    return found


def state_of(process: Path) -> str:
    return (process / "stat").read_text().rpartition(")")[2].split()[0]


def wait_until(is_so, seconds=60.0):
    """Waits far longer than it should take, as machines may be slow."""
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)
