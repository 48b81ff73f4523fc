"""Sweeps that are killed at random moments: ``make chaos``, or ``python tests/chaos.py --sweeps 100``.

Each sweep trains tiny networks for real. While it runs, one of its processes (the sweep, the fork server, a worker, a
trial or what a trial started) is killed with -9 at a random moment, the sweep is begun again, and so on; its last turn
is left alone. A trial that is killed fails, as one that the system kills for its memory. Every fifth sweep has several
workers on a journal; of some the folder vanishes for a while, or its disk is full (a small file system in memory, which
needs root). Then every ticket must have ended exactly once, every result that was there before must still be there
unchanged, and no process may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pictures import write_folders

TRIALS = 5
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
    f"limits.max_trials={TRIALS}",
    "limits.max_concurrent_trials=2",
]
WORKERS = ["hydra/launcher=joblib", "hydra.sweeper.lease_seconds=5"]
_LONGEST = 600.0  # seconds for one turn
_IDLE = 330.0  # seconds that joblib's own processes may wait for work when whoever launched them is gone: 300, and some
_ENDING = 20.0  # seconds that what served a sweep may take to see that it has ended
_SMALL = 260 << 20  # bytes of a disk on which two trials have room, and five have none


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="the number of the first, to go on where a check ended")
    parser.add_argument("--kills", type=int, default=3, help="at most so many in a sweep")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=max((os.cpu_count() or 1) // 2, 1), help="sweeps at a time")
    arguments = parser.parse_args()
    happened = Counter[str]()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(arguments.at_once) as threads:
        folder = Path(name)
        write_folders(folder / "photos", 8)
        one = partial(sweep, folder, kills=arguments.kills, seed=arguments.seed)
        numbers = range(arguments.first, arguments.sweeps)
        for count, done in zip((number + 1 for number in numbers), threads.map(one, numbers), strict=True):
            happened += done
            print(f"sweep {count} of {arguments.sweeps}: whole; so far {dict(sorted(happened.items()))}", flush=True)


def sweep(folder: Path, number: int, *, kills: int, seed: int) -> Counter[str]:
    """One sweep with what happens to it, whole at its end; what happened."""
    generator = random.Random(seed + number)
    output, extra = folder / f"sweep_{number}", WORKERS if number % 5 == 4 else []
    happened = Counter({"with workers": 1} if extra else {})
    finished: dict[str, str] = {}
    output.mkdir()
    if number % 10 == 3 and os.geteuid() == 0:
        with small_disk(output):
            assert begin(folder, output, extra).wait(_LONGEST) != 0, f"sweep {number} had room on a full disk"
            happened["full disk"] += 1
            finished = results(output, finished)
            kept = folder / f"kept_{number}"
            subprocess.run(["cp", "-a", f"{output}/.", kept], check=True)
        subprocess.run(["cp", "-a", f"{kept}/.", output], check=True)
    for turn in range(generator.randint(1, kills)):
        process = begin(folder, output, extra)
        time.sleep(generator.uniform(2, 20))
        if number % 10 == 6 and turn == 0:
            vanish(output, generator)
            happened["vanished folder"] += 1
        happened.update(kill_one(process, output, generator))
        finished = results(output, finished)
    if begin(folder, output, extra).wait(_LONGEST) != 0:
        raise AssertionError(f"sweep {number} could not be finished: {(output / 'console.txt').read_text()[-2000:]}")
    results(output, finished)
    disturbed = "vanished folder" in happened or "full disk" in happened
    check(output, failures=TRIALS if disturbed else happened["trial or its worker"])
    for done in (output, folder / f"kept_{number}"):
        shutil.rmtree(done, ignore_errors=True)
    return happened


@contextmanager
def small_disk(output: Path) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SMALL}", "chaos", output], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", output], check=True)


def vanish(output: Path, generator: random.Random) -> None:
    """The folder is somewhere else for a moment, as storage that a network has lost."""
    away = output.with_name(f"{output.name}_away")
    output.rename(away)
    time.sleep(generator.uniform(0.5, 4))
    if output.exists():  # somebody has made it anew, and has nothing to lose there
        subprocess.run(["rm", "-rf", output], check=True)
    away.rename(output)


def begin(folder: Path, output: Path, extra: list[str]) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "lightning_automl_vision",
        *ARGUMENTS,
        *extra,
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
    check_gone(output, within=_IDLE)
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


def check_gone(output: Path, *, within: float) -> None:
    until = time.monotonic() + within
    while left(output) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left(output), f"left behind: {left(output)}"


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


def check(output: Path, *, failures: int) -> None:
    """Each ticket ended once; a trial that was killed itself, or had no place to write to, may have failed."""
    board = json.loads((output / "leaderboard.json").read_text())
    assert sorted(trial["number"] for trial in board["trials"]) == list(range(TRIALS))
    for trial in board["trials"]:
        if trial["state"] == "complete":
            result = json.loads((output / f"trial_{trial['number']:04}" / "result.json").read_text())
            assert result["primary_metric"]["value"] == trial["value"]
        else:
            failures -= 1
            assert failures >= 0, f"{output}: {trial}"
            assert trial["state"] == "failed", f"{output}: {trial}"
            assert trial["reason"], f"{output}: {trial}"
    check_gone(output, within=_ENDING)


if __name__ == "__main__":
    main()
