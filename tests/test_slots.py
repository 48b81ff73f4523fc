"""What slots hold: GPUs of their own where a trial takes several, cores that are shared where there are none."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest
from test_search_asking import RATES, asked

from lightning_automl_vision.errors import ConfigError, TrainingError
from lightning_automl_vision.search import gpus
from lightning_automl_vision.search.gpus import check_gpus, dealt, fitted, reserved, usable_gpus
from lightning_automl_vision.search.job import _board, _drive
from lightning_automl_vision.search.slots import Limits
from lightning_automl_vision.search.storages import place_of
from lightning_automl_vision.search.work import Work
from lightning_automl_vision.search.workers import Worker


@pytest.fixture(autouse=True)
def nothing_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(gpus.VISIBLE, raising=False)
    monkeypatch.setattr(gpus, "_DEVICES", tmp_path / "dev")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def with_gpus(folder: Path, count: int) -> None:
    (folder / "dev").mkdir()
    for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{number}" for number in range(count))):
        (folder / "dev" / name).touch()


@pytest.mark.parametrize(
    ("shown", "names"),
    [
        ("0,1,2,3", ("0", "1", "2", "3")),
        ("2, 5", ("2", "5")),
        ("GPU-aa,GPU-bb", ("GPU-aa", "GPU-bb")),
        ("1,-1,2", ("1",)),
        ("", ()),
        ("NoDevFiles", ()),
    ],
)
def test_the_gpus_that_are_shown_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shown: str, names: tuple[str, ...]
) -> None:
    with_gpus(tmp_path, 8)
    monkeypatch.setenv(gpus.VISIBLE, shown)
    assert usable_gpus() == names
    assert usable_gpus("cpu") == usable_gpus("mps") == ()


def test_where_there_are_none_a_choice_is_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.VISIBLE, "0,1")
    assert usable_gpus() == ()


def test_without_a_choice_all_gpus_of_the_machine_count(tmp_path: Path) -> None:
    assert usable_gpus("gpu") == ()
    with_gpus(tmp_path, 3)
    assert usable_gpus("gpu") == ("0", "1", "2")


def test_each_slot_has_gpus_of_its_own() -> None:
    assert dealt(("0", "1", "2", "3", "4"), 2) == ("0,1", "2,3")
    assert dealt(("7",), 1) == ("7",)
    assert dealt((), 2) == (None,)
    slots = Limits(slots=5, devices=dealt(("0", "1"), 1)).dealt()
    assert [slot.devices for slot in slots] == ["0", "1", "0", "1", "0"]


def test_trials_of_several_gpus_are_no_more_than_there_is_room_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with_gpus(tmp_path, 5)
    words = [RATES, "training.optimizer=sgd,adamw", "trainer.devices=2"]
    found = fitted(asked(*words, "limits.max_concurrent_trials=4"))
    assert found.slots == 2
    assert "as many trials of trainer.devices=2 each would take 8 GPUs. There are 5, and so 2 at a time." in caplog.text
    caplog.clear()
    assert fitted(asked(*words, "limits.max_concurrent_trials=2")).slots == 2
    assert not caplog.records


def test_trials_of_one_gpu_may_share_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_gpus(tmp_path, 1)
    assert fitted(asked(RATES, "limits.max_concurrent_trials=2")).slots == 2
    assert "2 trials at a time share 1 GPU." in caplog.text


def test_too_few_gpus_for_one_trial_are_told_before_there_is_a_folder(tmp_path: Path) -> None:
    with_gpus(tmp_path, 1)
    with pytest.raises(ConfigError, match="devices=2: this machine shows 1 to this process"):
        check_gpus(asked(RATES, "trainer.devices=2"))
    check_gpus(asked(RATES, "trainer.devices=2", "trainer.accelerator=cpu"))


def test_processes_that_are_more_than_the_cores_are_remarked_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpus, "usable_cores", lambda: 4)
    words = [RATES, "limits.max_concurrent_trials=2"]
    assert fitted(asked(*words, "trainer.devices=2")).slots == 2
    assert not caplog.records
    assert fitted(asked(*words, "trainer.devices=3")).slots == 2
    assert "2 trials of 3 processes each at a time, on 4 cores" in caplog.text


def test_the_largest_trial_of_a_space_counts() -> None:
    assert asked("trainer.devices=1,4,2").devices == 4
    assert asked("trainer=default,ddp").devices == 2
    assert asked(RATES).devices == 1


def test_a_trial_has_one_machine() -> None:
    for words in ([RATES, "trainer.num_nodes=2"], ["trainer.num_nodes=1,2"]):
        with pytest.raises(ConfigError, match=r"trainer\.num_nodes=2: a trial has one machine"):
            asked(*words)


HOLDER = """
import sys
from lightning_automl_vision.search.gpus import reserved
with reserved(("0", "1", "2"), 2, among_others=True) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


def test_workers_of_one_machine_take_gpus_that_no_other_has(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert other.stdout is not None
    assert other.stdout.readline().strip() == "0,1"
    with reserved(("0", "1", "2"), 1, among_others=True) as mine:
        assert mine == "2"
    with pytest.raises(TrainingError, match="has 1 free of the 3 GPUs that it shows"):
        ExitStack().enter_context(reserved(("0", "1", "2"), 2, among_others=True))
    with reserved(("0", "1"), 1, among_others=True) as mine:
        assert mine in ("0", "1")  # both are taken, and one is shared
    with reserved(("0", "1"), 2, among_others=False) as mine:
        assert mine == "0,1"  # a cluster has given them to this worker
    other.send_signal(signal.SIGKILL)
    other.communicate()
    with reserved(("0", "1", "2"), 2, among_others=True) as mine:
        assert mine == "0,1"


def test_a_worker_without_gpus_reserves_none() -> None:
    with reserved((), 2, among_others=True) as mine:
        assert mine is None


PROGRAM = """
import json, os, sys
from pathlib import Path
import fake_training
folder = next(word for word in sys.argv if word.startswith("output_dir=")).removeprefix("output_dir=").strip("'")
shown = [os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")]
(Path(folder) / "shown.json").write_text(json.dumps(shown))
fake_training.main()
"""


def work_of(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str, several: bool = False) -> Work:
    """A sweep of four trials, each of which writes down what it is shown."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    (folder / "shows.py").write_text(PROGRAM)
    rates = "training.learning_rate=0.1,0.2,0.3,0.4"
    found = fitted(asked(rates, f"output_dir={folder / 'sweep'}", "limits.max_concurrent_trials=3", *words))
    (folder / "sweep").mkdir()
    place = place_of(None, None, folder / "sweep", several=several)
    return Work(asked=found, place=place, module="shows", working_folder=folder)


def shown(work: Work) -> Counter[tuple[str | None, str]]:
    return Counter(tuple(json.loads(file.read_text())) for file in work.folder.glob("trial_*/shown.json"))


def test_a_trial_is_shown_the_gpus_of_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(tmp_path, 4)
    monkeypatch.setenv("FAKE_EPOCH", "0.3")
    work = work_of(tmp_path, monkeypatch, "trainer.devices=2")
    _drive(work, _board(work, aloud=False), None, None)
    seen = Counter(gpus for gpus, _ in shown(work).elements())
    assert seen.keys() == {"0,1", "2,3"}
    assert seen.total() == 4


def test_without_gpus_slots_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process of a trial has its part of the trial's threads, which the trial deals out."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("lightning_automl_vision.search.slots.usable_cores", lambda: 12)
    work = work_of(tmp_path, monkeypatch, "trainer.devices=2")
    _drive(work, _board(work, aloud=False), None, None)
    assert shown(work) == {(None, "4"): 4}


class NoForks(nullcontext[None]):
    """In the place of a fork server, which would import everything first."""

    def __enter__(self) -> NoForks:  # type: ignore[override]
        return self

    def warm_up(self) -> None: ...

    def fork(self, *_: object) -> None: ...


def test_a_worker_reserves_gpus_for_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpus(tmp_path, 4)
    monkeypatch.setattr("lightning_automl_vision.search.workers.ForkServer", NoForks)
    work = work_of(tmp_path, monkeypatch, "trainer.devices=2", several=True)
    _board(work, aloud=False)
    with reserved(("0",), 1, among_others=True):
        Worker(work=work, launch=1, beside=2).run()
    assert {gpus for gpus, _ in shown(work)} == {"1,2"}
