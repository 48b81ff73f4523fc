"""Sweeps that are killed at random moments: ``make chaos``, or ``python tests/chaos.py --sweeps 100``.

Each sweep trains tiny networks for real. While it runs, one of its processes (the sweep, the fork server, a trial or
what a trial started) is killed with -9 at a random moment, the sweep is begun again, and so on; its last turn is left
alone. Then every ticket must have been finished exactly once, every result that was there before a kill must still be
there unchanged, and no process may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pictures import write_folders

ARGUMENTS = [
    "model=resnet18",
    "model.pretrained=false",
    "training.training_crop_size=32",
    "training.validation_crop_size=32",
    "training.validation_resize_size=36",
    "training.training_batch_size=8",
    "training.number_of_epochs=2",
    "training.number_of_workers=1",
    "training.random_seed=1",
    "+search=random",
    "training.learning_rate=tag(log, interval(1e-4, 1e-1))",
    "limits.max_trials=5",
    "limits.max_concurrent_trials=2",
]
_LONGEST = 600.0  # seconds for one turn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=100)
    parser.add_argument("--kills", type=int, default=3, help="at most so many in a sweep")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    killed = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        write_folders(Path(folder) / "photos", 8)
        for number in range(arguments.sweeps):
            generator = random.Random(arguments.seed + number)
            killed += sweep(Path(folder), number, arguments.kills, generator)
            print(f"sweep {number + 1} of {arguments.sweeps}: whole; killed so far: {dict(killed)}", flush=True)


def sweep(folder: Path, number: int, kills: int, generator: random.Random) -> Counter[str]:
    output, killed = folder / f"sweep_{number}", Counter[str]()
    finished: dict[str, str] = {}
    for turn in range(generator.randint(1, kills) + 1):
        process = begin(folder, output)
        last = turn > 0 and process is not None and generator.random() < 0.25
        if not last:
            time.sleep(generator.uniform(2, 25))
            killed.update(kill_one(process, output, generator))
        finished = results(output, finished)
    if begin(folder, output).wait(_LONGEST) != 0:
        raise AssertionError(f"sweep {number} could not be finished: {(output / 'console.txt').read_text()[-2000:]}")
    results(output, finished)
    check(output)
    return killed


def begin(folder: Path, output: Path) -> subprocess.Popen[bytes]:
    output.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "lightning_automl_vision",
        *ARGUMENTS,
        "data.training=photos",
        f"output_dir={output}",
    ]
    with (output / "console.txt").open("ab") as console:
        return subprocess.Popen(command, cwd=folder, stdout=console, stderr=subprocess.STDOUT, start_new_session=True)


def kill_one(process: subprocess.Popen[bytes], output: Path, generator: random.Random) -> list[str]:
    """One of the sweep's processes; where it was not the sweep itself, that one afterwards, so that it begins again."""
    processes = family(process.pid)
    killed = []
    if processes:
        victim = generator.choice(sorted(processes))
        kill(victim)
        killed.append(processes[victim])
        time.sleep(generator.uniform(0, 3))
    kill(process.pid)
    process.wait()
    until = time.monotonic() + 60
    while left(output) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left(output), f"left behind: {left(output)}"
    return killed


def family(root: int) -> dict[int, str]:
    """The sweep and all that it started, by what they are."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    parents = {int(line.split()[0]): (int(line.split()[1]), line.split(None, 2)[2]) for line in lines.splitlines()}
    kinds, known = {}, {root}
    for pid in sorted(parents):
        parent, words = parents[pid]
        if pid in known or parent in known:
            known.add(pid)
            server = "search.forking" in words
            kinds[pid] = "sweep" if pid == root else "server" if server and parent == root else "trial or its worker"
    return kinds


def left(output: Path) -> list[str]:
    """What still writes into the sweep's folder: each of its processes prints into a file there."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "fd" / "1").startswith(f"{output}/"):
                found.append(f"{entry.name}: {(entry / 'cmdline').read_text()[:100]}")
        except OSError:
            continue
    return found


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def results(output: Path, before: dict[str, str]) -> dict[str, str]:
    """Every finished result; those from before must be there unchanged."""
    found = {}
    for path in sorted(output.glob("trial_*/result.json")):
        text = path.read_text()
        if json.loads(text)["status"] == "completed":
            found[path.parent.name] = text
    for name, text in before.items():
        assert found.get(name) == text, f"{output / name}: its finished result was lost or changed"
    return found


def check(output: Path) -> None:
    board = json.loads((output / "leaderboard.json").read_text())
    states = Counter(trial["state"] for trial in board["trials"])
    assert states == {"complete": 5}, f"{output}: {states}"
    assert sorted(trial["number"] for trial in board["trials"]) == list(range(5))
    for trial in board["trials"]:
        result = json.loads((output / f"trial_{trial['number']:04}" / "result.json").read_text())
        assert result["primary_metric"]["value"] == trial["value"]
    assert not left(output), f"left behind: {left(output)}"


if __name__ == "__main__":
    main()
