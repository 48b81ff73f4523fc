"""A trial that is forked from the warm server is the one that a fresh process would have been."""

import json
import os
import signal
import subprocess
import sys

import pytest
from pictures import write_folders
from trial_fakes import fake_command, wait_until, working_in

from lightning_automl_vision.search.fork_server import ForkServer, cannot_fork
from lightning_automl_vision.search.trial_process import Command, TrialProcess

LIGHT = "gc:collect"
TINY = (
    "model=resnet18",
    "model.pretrained=false",
    "training.number_of_epochs=2",
    "training.training_batch_size=4",
    "training.training_crop_size=32",
    "training.validation_crop_size=32",
    "training.validation_resize_size=32",
    "training.number_of_workers=1",
    "training.random_seed=3",
    "trainer.accelerator=cpu",
)

pytestmark = pytest.mark.skipif(cannot_fork() is not None, reason="trials are never forked here")


@pytest.fixture(scope="module")
def server():
    with ForkServer() as server:
        server.warm_up()
        yield server


@pytest.fixture(scope="module")
def light_server():
    with ForkServer(LIGHT) as server:
        yield server


def ended(command, server=None):
    trial = TrialProcess.start(command, server)
    outcome = trial.wait(120)
    assert outcome is not None, trial.kill(0)
    return outcome


def train_tiny(folder, photos, server):
    arguments = (*TINY, f"data.training={photos}")
    command = Command(arguments=arguments, folder=folder, metric="accuracy", working_folder=folder.parent)
    assert ended(command, server).state == "complete", command.console.read_text()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines], command


def test_a_forked_training_has_every_digit_of_a_fresh_one(server, tmp_path):
    photos = write_folders(tmp_path / "photos")
    forked, command = train_tiny(tmp_path / "forked", photos, server)
    assert server.fault is None
    fresh, _ = train_tiny(tmp_path / "fresh", photos, None)
    assert len(forked) == 2
    assert forked == fresh
    assert not [line for line in command.console.read_text().splitlines() if "fewer than 10 images" not in line]
    assert not working_in(tmp_path)


STATE = """
import random
from lightning_automl_vision.search.forking import import_everything

import_everything()
import cv2, numpy, torch
from hydra.core.global_hydra import GlobalHydra
import __main__

state = {
    "torch threads": torch.get_num_threads(),
    "opencv threads": cv2.getNumThreads(),
    "cuda": torch.cuda.is_initialized(),
    "hydra": GlobalHydra.instance().is_initialized(),
    "variables": {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"},
    "arguments": sys.argv[:2],
    "folder": os.getcwd(),
    "first path": sys.path[0],
    "main": [__main__.__name__, __main__.__spec__.name],
    "group": os.getpgrp() == os.getsid(0) == os.getpid(),
    "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "files": sorted(os.readlink(f"/proc/self/fd/{name}").split(":")[0] for name in (0, 1, 2)),
    "stdout": [sys.stdout.encoding, sys.stdout.errors, sys.stdout.line_buffering],
}
(folder / "state.json").write_text(json.dumps(state))
(folder / "random.json").write_text(json.dumps([random.random(), numpy.random.random(), torch.rand(1).item()]))
"""


def seen(folder, name):
    return json.loads((folder / "trial" / name).read_text())


def test_a_forked_trial_finds_what_a_fresh_one_finds(server, tmp_path, monkeypatch):
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)  # grows with each process in a row that imports OpenCV
    options = {"arguments": ("model=resnet18",), "threads": 2, "environment": {"CHOSEN": "by the slot"}}
    ended(fake_command(tmp_path, STATE, **options), server)
    forked = seen(tmp_path, "state.json")
    ended(fake_command(tmp_path, STATE, **options))
    assert forked == seen(tmp_path, "state.json")
    assert (forked["torch threads"], forked["cuda"], forked["hydra"], forked["group"]) == (2, False, False, True)


def test_two_forked_trials_draw_different_numbers_where_no_seed_is_set(server, tmp_path):
    draws = []
    for _ in range(2):
        ended(fake_command(tmp_path, STATE), server)
        draws.append(seen(tmp_path, "random.json"))
    assert all(first != second for first, second in zip(*draws, strict=True))


def test_no_import_asks_which_devices_there_are():
    code = """
import torch
def asked(*_): raise SystemExit("a device was asked for")
for name in ("is_available", "device_count", "init", "_lazy_init", "current_device", "get_device_capability"):
    setattr(torch.cuda, name, asked)
from lightning_automl_vision.search.forking import import_everything
import_everything()
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    ("code", "shown", "reason"),
    [
        ("print('said'); sys.exit(3)", "said\n", "said"),
        ("sys.exit('a last word')", "a last word\n", "a last word"),
        ("import atexit; atexit.register(print, 'at exit'); sys.exit(4)", "at exit\n", "at exit"),
        (
            "import threading; threading.Thread(target=lambda: (time.sleep(0.3), print('waited for'))).start()",
            "waited for\n",
            "waited for",
        ),
        ("os.write(1, b'x'); os._exit(5)", "x", "x"),
        ("sys.exit(6)", "", "exit code 6, and no result"),
    ],
)
def test_what_is_printed_and_done_at_the_end_is_not_lost(code, shown, reason, light_server, tmp_path):
    command = fake_command(tmp_path, code)
    assert ended(command, light_server).reason == reason
    assert command.console.read_text() == shown


def test_trials_of_one_server_run_side_by_side_and_none_holds_the_others_up(light_server, tmp_path):
    folders = [tmp_path / str(number) for number in range(4)]
    code = "evaluate(1, 0.1)\nwhile not (folder.parent / 'go').exists(): time.sleep(0.02)\nfinish()"
    trials = []
    for folder in folders:
        folder.mkdir()
        trials.append(TrialProcess.start(fake_command(folder, code), light_server))
    for trial in trials:
        wait_until(trial.reports)
    for folder, trial in reversed(list(zip(folders, trials, strict=True))):
        (folder / "go").touch()
        assert trial.wait(60).state == "complete"
        assert trial.cpu_seconds is not None


def test_a_lost_server_interrupts_its_trials_and_is_followed_by_another(tmp_path):
    with ForkServer(LIGHT) as server:
        trial = TrialProcess.start(fake_command(tmp_path, "evaluate(1, 0.3); time.sleep(600)"), server)
        wait_until(trial.reports)
        lost = server.pid
        os.kill(lost, signal.SIGKILL)
        outcome = trial.wait(60)
        assert (outcome.state, outcome.reason, outcome.value) == ("interrupted", "the fork server was lost", 0.3)
        wait_until(lambda: not working_in(tmp_path))
        assert ended(fake_command(tmp_path, "finish()"), server).state == "complete"
        assert server.pid != lost
        assert server.fault is None


@pytest.mark.parametrize(
    ("prepare", "fault"),
    [
        ("os:not_there", "AttributeError"),
        ("preparing:starts_a_thread", "1 threads were started by imports"),
    ],
)
def test_where_nothing_can_be_forked_a_fresh_process_takes_its_place(prepare, fault, tmp_path, monkeypatch, caplog):
    code = "def starts_a_thread(): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    (tmp_path / "preparing.py").write_text(f"import threading, time\n{code}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with ForkServer(prepare) as server:
        for _ in range(2):
            assert ended(fake_command(tmp_path, "finish()"), server).state == "complete"
        assert fault in server.fault
        assert server.pid is None
    assert len([record for record in caplog.records if "fresh process" in record.getMessage()]) == 1


def test_a_trial_keeps_the_variables_that_an_import_has_set(tmp_path, monkeypatch):
    (tmp_path / "preparing.py").write_text("import os\ndef sets(): os.environ.update(ADDED='1', CHOSEN='import')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = "print([os.environ.get(name) for name in ('ADDED', 'CHOSEN', 'OMP_NUM_THREADS')]); finish()"
    command = fake_command(tmp_path, code, threads=7, environment={"CHOSEN": "slot"})
    with ForkServer("preparing:sets") as server:
        ended(command, server)
    assert command.console.read_text() == "['1', 'slot', '7']\n"


def test_only_linux_forks():
    assert cannot_fork("linux") is None
    assert cannot_fork("darwin") == "forks are not safe on darwin"


def test_a_closed_server_leaves_no_process(tmp_path):
    with ForkServer(LIGHT) as server:
        ended(fake_command(tmp_path, "finish()"), server)
        pid = server.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
