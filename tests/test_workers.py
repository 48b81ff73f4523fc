"""Several processes on one study: every ticket is done once, whoever dies, and whatever happens to the storage."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from pictures import write_folders

from lightning_automl_vision.errors import ConfigError, StorageError, TrainingError
from lightning_automl_vision.search.asking import Asked, asked_for
from lightning_automl_vision.search.leases import Leases
from lightning_automl_vision.search.policies import policy_of
from lightning_automl_vision.search.samplers import sampler_of
from lightning_automl_vision.search.slots import FOLDER, Limits
from lightning_automl_vision.search.spaces import spaces_of
from lightning_automl_vision.search.storages import Journal, Patience, Place, place_of, remember
from lightning_automl_vision.search.sweep import ENDED, Sweep
from lightning_automl_vision.search.tickets import REASON, TICKET, Tickets, join_study, open_study
from lightning_automl_vision.search.work import Work
from lightning_automl_vision.search.workers import Crew, Launch

SPACES = spaces_of({"all": {"training.learning_rate": {"type": "uniform", "min_value": 0.1, "max_value": 0.2}}})
LEASE = 3.0  # seconds; a slow machine must still renew one four times


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(Path(__file__).parent), *sys.path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))


def shared(folder: Path, trials: int, place: Place | None = None) -> Tickets:
    """As the sweep's own process opens it."""
    place = place or Place(address=str(folder / "study.journal"))
    if place.is_journal:
        Path(place.address).parent.mkdir(exist_ok=True)
    study = open_study(
        folder,
        direction="maximize",
        sampler=sampler_of("random", 3),
        pruner=policy_of(None, "maximize"),
        fingerprint=SPACES.fingerprint(),
        place=place,
    )
    tickets = Tickets(study)
    tickets.issue([{}] * trials)
    return tickets


def joined(place: Place, *, seconds: float = 600.0) -> Tickets:
    patience = Patience(place, seconds)
    return Tickets(join_study(place, patience, sampler=sampler_of("random", 3), pruner=policy_of(None, "maximize")))


def sweep(folder: Path, tickets: Tickets, owner: str = "test", launch: int = 1, **limits: Any) -> Sweep:
    return Sweep(
        tickets=tickets,
        spaces=SPACES,
        arguments=(),
        folder=folder,
        metric="accuracy",
        lower_is_better=False,
        limits=Limits(**{"slots": 1, "trial_seconds": 60.0, **limits}),
        module="fake_training",
        leases=Leases(owner=owner, seconds=LEASE),
        launch=launch,
    )


WORKER = """
import sys
from pathlib import Path
from test_workers import Place, joined, sweep
folder, address, owner, patience = Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
sweep(folder, joined(Place(address=address), seconds=patience), owner).run()
"""


def worker(folder: Path, owner: str, *, address: str | None = None, patience: float = 60.0) -> subprocess.Popen[str]:
    words = [str(folder), address or str(folder / "study.journal"), owner, str(patience)]
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str], seconds: float = 120.0) -> str:
    """What it said at last; it must have ended well."""
    _, said = process.communicate(timeout=seconds)
    assert process.returncode == 0, said
    return said


def done(tickets: Tickets) -> list[int]:
    """The tickets that are complete, each as often as it was done."""
    return sorted(trial.user_attrs[TICKET] for trial in tickets.trials(TrialState.COMPLETE))


def wait_for(is_so: Any, seconds: float = 90.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


# --- where a study lies


@pytest.mark.parametrize(
    ("storage", "several", "address"),
    [
        (None, False, "sqlite:///{folder}/study.db"),
        (None, True, "{folder}/study.journal"),
        ("journal", False, "{folder}/study.journal"),
        ("/elsewhere/all.journal", True, "/elsewhere/all.journal"),
        ("sqlite:////elsewhere/all.db", False, "sqlite:////elsewhere/all.db"),
    ],
)
def test_a_study_lies_where_it_can_be_shared(tmp_path: Path, storage: Any, several: bool, address: str) -> None:
    assert place_of(storage, None, tmp_path, several=several).address == address.format(folder=tmp_path)


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        ("sqlite:///all.db", "on SQLite several workers would be given the same trial"),
        ("oracle://me:secret@there/all", "a study cannot lie at oracle://"),
        (
            "postgresql+nodriver://me:secret@there/all",
            "the package nodriver is missing. pip install nodriver",
        ),
        ("study.sqlite", "no address of a study"),
        ({"_target_": "secret"}, "is a text here, and no dict"),
    ],
)
def test_what_cannot_hold_a_study_is_refused_without_its_password(tmp_path: Path, storage: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        place_of(storage, None, tmp_path, several=True)
    assert "secret" not in str(caught.value)


def test_a_sweep_on_sqlite_gets_no_workers(tmp_path: Path) -> None:
    (tmp_path / "study.db").touch()
    with pytest.raises(ConfigError, match="on SQLite several workers"):
        place_of(None, None, tmp_path, several=True)


def test_a_sweep_never_gets_a_second_study(tmp_path: Path) -> None:
    remember(place_of("journal", None, tmp_path, several=True), tmp_path)
    assert place_of("journal", None, tmp_path, several=False).is_journal
    assert place_of(None, None, tmp_path, several=False).is_journal
    with pytest.raises(ConfigError, match=r"holds a sweep whose study is at study\.journal"):
        place_of("/elsewhere/all.journal", None, tmp_path, several=True)


def test_a_server_that_does_not_answer_is_told_before_there_is_a_folder() -> None:
    pytest.importorskip("pg8000", reason="pip install pg8000, the driver of the extra postgresql")
    with pytest.raises(
        ConfigError, match=r"search\.storage=postgresql\+pg8000://me:\*\*\*@127\.0\.0\.1:1/all cannot be"
    ):
        Place(address="postgresql+pg8000://me:secret@127.0.0.1:1/all").check()


def test_a_password_is_never_told() -> None:
    place = Place(address="postgresql+pg8000://me:se%2Fcret@there:5432/all?password=secret", name="mine")
    assert str(place) == "postgresql+pg8000://me:***@there:5432/all"
    assert "cret" not in repr(place)
    assert "cret" not in place.reason(OSError("no entry for me:se/cret"))


# --- the journal


def test_what_a_killed_writer_left_of_a_line_is_taken_away(tmp_path: Path) -> None:
    first = shared(tmp_path, 3)
    with (tmp_path / "study.journal").open("ab") as file:
        file.write(b'{"op_code": 8, "torn": "')
    assert first.claim() is not None
    assert shared(tmp_path, 4).left == 4


def test_a_journal_that_has_vanished_is_not_begun_anew(tmp_path: Path) -> None:
    backend = Journal(str(tmp_path / "a.journal"))
    backend.append_logs([{"op_code": 1}])
    (tmp_path / "a.journal").rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        backend.append_logs([{"op_code": 2}])
    assert not (tmp_path / "a.journal").exists()


CLAIMER = """
import sys
from test_workers import Place, TICKET, joined
tickets = joined(Place(address=sys.argv[1], name=sys.argv[2]))
while (trial := tickets.claim()) is not None:
    trial.suggest_float("x", 0, 1)
    tickets.complete(trial, 1.0)
    print(trial.user_attrs[TICKET])
"""


def claims(place: Place, processes: int) -> list[int]:
    """The tickets that so many processes were given at the same time."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, place.address, place.name], stdout=subprocess.PIPE, stderr=None, text=True
        )
        for _ in range(processes)
    ]
    given = [int(line) for process in started for line in process.communicate(timeout=300)[0].split()]
    assert [process.returncode for process in started] == [0] * processes
    return sorted(given)


def test_no_ticket_is_given_to_two_processes(tmp_path: Path) -> None:
    tickets = shared(tmp_path, 30)
    assert claims(Place(address=str(tmp_path / "study.journal")), 4) == list(range(30))
    assert done(tickets) == list(range(30))
    assert all(trial.user_attrs.get(TICKET) is not None for trial in tickets.trials())


def test_what_is_issued_twice_is_done_once(tmp_path: Path) -> None:
    """As by a process whose storage was lost before it heard that the ticket was issued."""
    tickets = shared(tmp_path, 1)
    tickets.study.enqueue_trial({}, user_attrs={TICKET: 0})
    first = tickets.claim()
    assert first is not None
    assert tickets.claim() is None
    tickets.complete(first, 0.5)
    assert (done(tickets), tickets.left) == ([0], 0)


# --- leases


def test_an_owner_that_counts_is_alive_and_one_that_does_not_is_dead(tmp_path: Path) -> None:
    tickets = shared(tmp_path, 2)
    lively, still = tickets.claim(), tickets.claim()
    assert lively is not None
    assert still is not None
    lease = Leases(owner="a", seconds=1.0).take(lively)
    reader = Leases(owner="b", seconds=1.0)
    until = time.monotonic() + 60
    while not reader.dead() and time.monotonic() < until:
        reader.look(tickets.trials(TrialState.RUNNING))
        time.sleep(0.1)
    assert reader.dead() == {still.number}
    assert reader.alive() == {lively.number}
    lease.end()


def test_after_a_gap_everyone_gets_the_whole_time_anew(tmp_path: Path) -> None:
    tickets = shared(tmp_path, 1)
    assert tickets.claim() is not None
    reader = Leases(owner="b", seconds=0.4)
    for _ in range(3):
        reader.look(tickets.trials(TrialState.RUNNING))
        time.sleep(0.5)
    assert not reader.dead()


def test_of_two_that_put_a_ticket_back_one_does(tmp_path: Path) -> None:
    tickets = shared(tmp_path, 1)
    trial = tickets.claim()
    assert trial is not None
    others = [joined(Place(address=str(tmp_path / "study.journal"))) for _ in range(4)]
    dead = [other.trials(TrialState.RUNNING)[0] for other in others]
    barrier = threading.Barrier(len(others))
    won: list[bool] = []

    def put_back(place: int) -> None:
        barrier.wait()
        won.append(others[place].put_back(dead[place]))

    threads = [threading.Thread(target=put_back, args=(place,)) for place in range(len(others))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(won) == {True: 1, False: 3}
    assert len(tickets.trials(TrialState.WAITING)) == 1
    assert not tickets.complete(trial, 1.0)


def test_a_ticket_that_was_not_put_back_in_time_is_not_lost(tmp_path: Path) -> None:
    """Its trial was ended by a process that was killed at that very moment."""
    tickets = shared(tmp_path, 1)
    trial = tickets.claim()
    assert trial is not None
    tickets.study.tell(trial.number, state=TrialState.FAIL)
    tickets.recover(lambda trial: None)
    tickets.recover(lambda trial: None)
    assert len(tickets.trials(TrialState.WAITING)) == 1


def test_a_ticket_keeps_the_parameters_that_it_had_not_even_drawn(tmp_path: Path) -> None:
    tickets = shared(tmp_path, 0)
    tickets.issue([{"x": 3}])
    trial = tickets.claim()
    assert trial is not None
    tickets.put_back(trial)
    again = tickets.claim()
    assert again is not None
    assert again.suggest_int("x", 0, 9) == 3


# --- workers


def test_two_workers_share_the_tickets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_EPOCH", "0.3")
    tickets = shared(tmp_path, 6)
    workers = [worker(tmp_path, name) for name in "ab"]
    for process in workers:
        ended(process)
    assert done(tickets) == list(range(6))
    owners = {trial.user_attrs["lease"][0] for trial in tickets.trials()}
    assert owners == {"a", "b"}


def test_the_ticket_of_a_worker_that_was_killed_is_done_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_EPOCH", "0.5")
    tickets = shared(tmp_path, 3)
    victim = worker(tmp_path, "a")
    wait_for(lambda: (tmp_path / "trial_0000" / "metrics.jsonl").exists())
    victim.kill()
    said = ended(worker(tmp_path, "b"))
    assert done(tickets) == [0, 1, 2]
    assert "trial 0: no sign of life" in said or tickets.last_of_each()[0].user_attrs["tries"] == 2
    victim.communicate()


def test_a_result_that_nobody_heard_of_counts(tmp_path: Path) -> None:
    tickets = shared(tmp_path, 1)
    trial = tickets.claim()
    assert trial is not None
    trial.set_user_attr(FOLDER, "trial_0000")
    (tmp_path / "trial_0000").mkdir()
    primary = {"name": "accuracy", "value": 0.75, "epoch": 2}
    text = json.dumps({"status": "completed", "primary_metric": primary})
    (tmp_path / "trial_0000" / "result.json").write_text(text)
    tickets.put_back(trial)
    sweep(tmp_path, joined(Place(address=str(tmp_path / "study.journal")))).run()
    assert [one.value for one in tickets.trials(TrialState.COMPLETE)] == [0.75]
    assert not (tmp_path / "trial_0000" / "console.log").exists()


def test_a_worker_ends_its_trial_when_it_was_taken_for_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_EPOCH", "1.0")
    tickets = shared(tmp_path, 1)
    process = worker(tmp_path, "a")
    wait_for(lambda: (tmp_path / "trial_0000" / "metrics.jsonl").exists())
    (running,) = tickets.trials(TrialState.RUNNING)
    tickets.fail(running, "taken for dead")
    said = ended(process)
    assert "trial 0 was taken for dead" in said
    assert not (tmp_path / "trial_0000" / "result.json").exists()
    assert [trial.user_attrs[REASON] for trial in tickets.trials()] == ["taken for dead"]


def test_workers_that_are_called_off_put_their_tickets_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_EPOCH", "1.0")
    tickets = shared(tmp_path, 2)
    process = worker(tmp_path, "a")
    wait_for(lambda: tickets.trials(TrialState.RUNNING))
    tickets.study.set_user_attr(ENDED, 1)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert len(tickets.trials(TrialState.WAITING)) == 2


# --- a storage that vanishes


def test_a_storage_that_comes_back_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_EPOCH", "0.5")
    tickets = shared(tmp_path, 2, Place(address=str(tmp_path / "share" / "study.journal")))
    process = worker(tmp_path, "a", address=str(tmp_path / "share" / "study.journal"))
    wait_for(lambda: (tmp_path / "trial_0000" / "metrics.jsonl").exists())
    (tmp_path / "share").rename(tmp_path / "away")
    wait_for(lambda: (tmp_path / "trial_0000" / "result.json").exists())
    time.sleep(1)
    (tmp_path / "away").rename(tmp_path / "share")
    said = ended(process)
    assert ("asked again" in said, "is there again" in said) == (True, True)
    assert done(tickets) == [0, 1]


def test_a_storage_that_is_gone_for_good_ends_a_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_EPOCH", "0.5")
    shared(tmp_path, 2, Place(address=str(tmp_path / "share" / "study.journal")))
    process = worker(tmp_path, "a", address=str(tmp_path / "share" / "study.journal"), patience=1.0)
    wait_for(lambda: (tmp_path / "trial_0000" / "metrics.jsonl").exists())
    (tmp_path / "share").rename(tmp_path / "away")
    _, said = process.communicate(timeout=90)
    assert process.returncode != 0
    assert "could not be reached: no such file or directory" in said.lower()
    (tmp_path / "away").rename(tmp_path / "share")


class Flaky:
    """A question whose first answers are faults."""

    def __init__(self, faults: int) -> None:
        self.faults = faults

    def __call__(self) -> str:
        self.faults -= 1
        if self.faults >= 0:
            raise OSError(5, "Input/output error")
        return "here"


def test_patience_has_an_end(tmp_path: Path) -> None:
    patience = Patience(Place(address=str(tmp_path / "a.journal")), seconds=30)
    assert patience.ask(Flaky(2)) == "here"
    patience.hurried = True
    with pytest.raises(StorageError, match=r"a\.journal could not be reached: Input/output error"):
        patience.ask(Flaky(2))
    with pytest.raises(ValueError, match="no fault of the storage"):
        patience.ask(_misused)


def _misused() -> None:
    raise ValueError("no fault of the storage")


# --- the process that launches them


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from lightning_automl_vision.config import CONFIG_DIR, register

    register()
    arguments = ["model=resnet18", "data.training=x", f"output_dir={tmp_path}", "limits.max_trials=4", "+search=random"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        config = compose("config", arguments)
        swept = [*arguments, "training.learning_rate=interval(0.1,0.2)"]
        yield asked_for(OmegaConf.create(config), {}, swept)


def crew(asked: Asked, tickets: Tickets, launch: Launch, most: int = 2) -> Crew:
    place = Place(address=str(Path(asked.settings.output_dir) / "study.journal"))
    work = Work(asked=asked, place=place, lease_seconds=LEASE)
    own = sweep(work.folder, tickets, "sweep")
    return Crew(work=work, sweep=own, launch=launch, most=most)


def test_workers_that_die_are_followed_by_others(tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_EPOCH", "0.3")
    tickets, launched = shared(tmp_path, 4), []

    def launch(task: Any, jobs: Sequence[Sequence[str]], first: int) -> list[str]:
        """As submitit does it: one is killed, and what it says comes when all have ended."""
        launched.append((task.launch, first, [words[-1] for words in jobs]))
        processes = [worker(tmp_path, f"{task.launch}-{first + place}") for place in range(len(jobs))]
        if len(launched) == 1:
            wait_for(lambda: len(list(tmp_path.glob("trial_*/metrics.jsonl"))) == 2)
            for process in processes:
                process.kill()
                process.communicate()
            raise RuntimeError("a job was lost\nTraceback of it")
        for process in processes:
            ended(process)
        return [""] * len(jobs)

    crew(asked, tickets, launch).run()
    assert done(tickets) == [0, 1, 2, 3]
    names = [name for _, _, words in launched for name in words]
    assert names[:3] == [f"hydra.sweep.subdir=workers/{place}" for place in range(3)]


def test_workers_that_never_get_anything_done_are_not_started_for_ever(tmp_path: Path, asked: Asked) -> None:
    tickets, launches = shared(tmp_path, 2), []

    def launch(task: Any, jobs: Sequence[Sequence[str]], first: int) -> list[str]:
        launches.append(first)
        return ["The driver is missing."] * len(jobs)

    with pytest.raises(TrainingError, match="before any of their trials does: The driver is missing"):
        crew(asked, tickets, launch).run()
    assert launches == [0, 2]


def test_workers_of_a_sweeper_that_was_killed_are_counted(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_EPOCH", "1.0")
    tickets, started = shared(tmp_path, 4), []
    earlier = worker(tmp_path, "0-0")
    wait_for(lambda: tickets.trials(TrialState.RUNNING))

    def launch(task: Any, jobs: Sequence[Sequence[str]], first: int) -> list[str]:
        started.append(len(jobs))
        for process in [worker(tmp_path, f"{task.launch}-{first + place}") for place in range(len(jobs))]:
            ended(process)
        return [""] * len(jobs)

    crew(asked, tickets, launch).run()
    ended(earlier)
    assert started[0] == 1
    assert done(tickets) == [0, 1, 2, 3]


def test_time_that_is_over_ends_a_sweep_of_several_machines(tmp_path: Path, asked: Asked) -> None:
    tickets = shared(tmp_path, 2)
    late = crew(asked, tickets, lambda task, jobs, first: pytest.fail("nothing may be launched"))
    tickets.study.set_user_attr("used_seconds", 100.0)
    late.sweep = sweep(tmp_path, tickets, "sweep", seconds=99.0)
    late.run()
    assert len(tickets.trials(TrialState.WAITING)) == 2


# --- Hydra's launchers, for real


class Claimer:
    """A task for a launcher: claims and completes until nothing is left."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, config: Any) -> str | None:
        tickets = joined(Place(address=self.address))
        while (trial := tickets.claim()) is not None:
            trial.set_user_attr("pid", os.getpid())
            tickets.complete(trial, 1.0)
            time.sleep(0.1)
        return None


LAUNCH = """
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext
from hydra_plugins.lav_sweeper.sweeper import AutomlSweeper
from lightning_automl_vision.config import CONFIG_DIR, register
from test_workers import Claimer

if __name__ == "__main__":
    register()
    words = ["model=resnet18", "data.training=x", "output_dir={folder}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_DIR)):
        config = compose("config", [*words, "hydra/launcher={launcher}"], return_hydra_config=True)
        context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
        sweeper = AutomlSweeper()
        sweeper.setup(hydra_context=context, task_function=None, config=config)
        jobs = [[*words, f"hydra.sweep.subdir=workers/{{place}}"] for place in range(2)]
        faults = sweeper._launch(Claimer("{folder}/study.journal"), jobs, 0)
    assert faults == ["", ""], faults
"""


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_launchers_run_the_task_once_for_each_worker(tmp_path: Path, launcher: str) -> None:
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    script = tmp_path / "launch.py"
    script.write_text(LAUNCH.format(launcher=launcher, folder=tmp_path))
    tickets = shared(tmp_path, 12)
    process = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
    )
    assert process.returncode == 0, process.stderr
    assert done(tickets) == list(range(12))
    assert sorted(path.name for path in (tmp_path / "workers").iterdir()) == ["0", "1"]


ORPHAN = """
import multiprocessing, os, pathlib, time
from lightning_automl_vision.search.workers import Worker

class Done(Worker):
    def _fault(self):
        return None

def work():
    pathlib.Path("begun").write_text(str(os.getpid()))
    while os.getppid() == multiprocessing.parent_process().pid:
        time.sleep(0.01)
    object.__new__(Done)(None)
    pathlib.Path("after").touch()

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
    while not pathlib.Path("begun").exists():
        time.sleep(0.01)
    os._exit(0)
"""


def test_a_worker_that_begins_when_the_maker_of_its_pool_is_gone_ends_its_process(tmp_path: Path) -> None:
    """Where it ended with an answer for nobody, it would wait for room in a pipe for ever."""
    (tmp_path / "script.py").write_text(ORPHAN)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True, timeout=120)
    worker = int((tmp_path / "begun").read_text())
    wait_for(lambda: not Path(f"/proc/{worker}").exists(), 60)
    assert not (tmp_path / "after").exists()


TINY = [
    *("model=resnet18", "model.pretrained=false", "data.training=photos"),
    *("training.training_crop_size=32", "training.validation_crop_size=32", "training.validation_resize_size=36"),
    *("training.training_batch_size=8", "training.number_of_epochs=2", "training.number_of_workers=1"),
    *("training.random_seed=1", "+search=random", "training.learning_rate=tag(log, interval(1e-4, 1e-1))"),
    *("limits.max_trials=4", "limits.max_concurrent_trials=2", "output_dir=sweep", "hydra.sweeper.lease_seconds=20"),
]


def lav(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lightning_automl_vision", *TINY, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def leaderboard(folder: Path) -> list[str]:
    board = json.loads((folder / "sweep" / "leaderboard.json").read_text())
    return [f"{trial['number']} {trial['state']}" for trial in sorted(board["trials"], key=lambda row: row["number"])]


WHOLE = [f"{number} complete" for number in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_sweep_whose_worker_is_killed_is_whole(tmp_path: Path, launcher: str) -> None:
    write_folders(tmp_path / "photos", 8)
    process = lav(tmp_path, f"hydra/launcher={launcher}")
    wait_for(lambda: list(tmp_path.glob("sweep/trial_*/metrics.jsonl")), 300)
    os.kill(workers_of(tmp_path / "sweep")[0], signal.SIGKILL)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert leaderboard(tmp_path) == WHOLE, said


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_sweep_of_workers_whose_sweeper_is_killed_goes_on(tmp_path: Path, launcher: str) -> None:
    write_folders(tmp_path / "photos", 8)
    process = lav(tmp_path, f"hydra/launcher={launcher}")
    wait_for(lambda: list(tmp_path.glob("sweep/trial_*/metrics.jsonl")), 300)
    process.kill()
    process.communicate()
    said, _ = (again := lav(tmp_path, f"hydra/launcher={launcher}")).communicate(timeout=600)
    assert again.returncode == 0, said
    assert leaderboard(tmp_path) == WHOLE, said


@pytest.mark.slow
def test_workers_whose_sweeper_is_killed_do_what_is_left_and_end(tmp_path: Path) -> None:
    write_folders(tmp_path / "photos", 8)
    process = lav(tmp_path, "hydra/launcher=joblib")
    wait_for(lambda: list(tmp_path.glob("sweep/trial_*/metrics.jsonl")), 300)
    process.kill()
    process.communicate()
    wait_for(lambda: not of_session(process.pid), 240)
    assert [path.parent.name for path in sorted(tmp_path.glob("sweep/trial_*/result.json"))] == [
        f"trial_{number:04}" for number in range(4)
    ]


def of_session(number: int) -> list[int]:
    """The processes that belong to a session, and still run."""
    lines = subprocess.run(["ps", "-eo", "pid=,sid=,stat="], capture_output=True, text=True, check=True).stdout
    found = [line.split() for line in lines.splitlines()]
    return [int(pid) for pid, session, state in found if int(session) == number and not state.startswith("Z")]


def workers_of(folder: Path) -> list[int]:
    """Who has a worker's log open."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(file) for file in (entry / "fd").iterdir()]
        except OSError:
            continue
        if any(file.startswith(f"{folder}/workers/") and file.endswith("run.log") for file in files):
            found.append(int(entry.name))
    return sorted(found)


# --- a real server


def as_postgres() -> dict[str, Any]:
    """A server refuses to be root; who runs it then."""
    return {"user": "postgres"} if os.geteuid() == 0 else {}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of a PostgreSQL server of this test alone, without its driver."""
    pytest.importorskip("pg8000", reason="pip install pg8000, the driver of the extra postgresql")
    postgres = shutil.which("postgres")
    if postgres is None:
        pytest.skip("no PostgreSQL server on PATH")
    if os.geteuid() == 0 and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    programs = Path(postgres).resolve().parent
    with tempfile.TemporaryDirectory(prefix="lav_pg_") as parent:
        if os.geteuid() == 0:
            shutil.chown(parent, "postgres")
        data, password = Path(parent) / "data", Path(parent) / "password"
        password.write_text("se/cret\n")
        if os.geteuid() == 0:
            shutil.chown(password, "postgres")
        command = [programs / "initdb", "-D", data, "-U", "me", "-A", "scram-sha-256", "--pwfile", password, "-N"]
        subprocess.run(command, check=True, capture_output=True, cwd=parent, **as_postgres())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [programs / "postgres", "-D", data, "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-k", parent]
        process = subprocess.Popen(
            command, cwd=parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_postgres()
        )
        try:
            wait_for(lambda: answers(port))
            time.sleep(1)
            yield f"postgresql://me:se%2Fcret@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def answers(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_no_ticket_of_a_real_server_is_given_twice(tmp_path: Path, server: str) -> None:
    place = place_of(server, None, tmp_path, several=True)
    tickets = shared(tmp_path, 60, place)
    assert claims(place, 6) == list(range(60))
    assert done(tickets) == list(range(60))


@pytest.mark.slow
def test_a_sweep_on_a_real_server_is_whole_and_keeps_the_password(tmp_path: Path, server: str) -> None:
    write_folders(tmp_path / "photos", 8)
    process = lav(tmp_path, "hydra/launcher=joblib", f"search.storage='{server}'")
    wait_for(lambda: list(tmp_path.glob("sweep/trial_*/metrics.jsonl")), 300)
    os.kill(workers_of(tmp_path / "sweep")[0], signal.SIGKILL)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert leaderboard(tmp_path) == WHOLE, said
    written = [path for path in (tmp_path / "sweep").rglob("*") if path.is_file()]
    assert not [path for path in written if b"cret" in path.read_bytes()]
    assert "cret" not in said
    wrong = server.replace("cret", "wrong")
    refused, _ = (again := lav(tmp_path, "hydra/launcher=joblib", f"search.storage='{wrong}'")).communicate(timeout=120)
    assert again.returncode == 2
    assert "password authentication failed" in refused
    assert "wrong" not in refused
