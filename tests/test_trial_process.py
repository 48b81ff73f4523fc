"""A trial may end in any way there is: its outcome says how, and no process stays."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing

import pytest
from test_training import CLASSES, classifier, config, scripted, train
from trial_fakes import fake_command, wait_until, working_in

from lightning_automl_vision.search.fork_server import ForkServer
from lightning_automl_vision.search.outcomes import Outcome, Trace, outcome_of
from lightning_automl_vision.search.reports import Reports
from lightning_automl_vision.search.trial_process import STOP, TRIAL_FOLDER, Command, TrialProcess
from lightning_automl_vision.training import stopping

LIGHT = "gc:collect"  # a fork server that imports nothing starts at once

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are counted in /proc")


@pytest.fixture(scope="module")
def light_server():
    with ForkServer(LIGHT) as server:
        yield server


@pytest.fixture(params=["fresh", "forked"])
def server(request, light_server):
    return light_server if request.param == "forked" else None


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path):
    yield
    wait_until(lambda: not working_in(tmp_path))


def run(tmp_path, code, server=None, **options):
    trial = TrialProcess.start(fake_command(tmp_path, code, **options), server)
    outcome = trial.wait(60)
    assert outcome is not None, trial.kill(0)
    assert not working_in(tmp_path)
    return outcome


def started(tmp_path, code, server=None):
    """Once its first evaluation is there."""
    trial = TrialProcess.start(fake_command(tmp_path, code), server)
    wait_until(trial.reports)
    return trial


# How it ends


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("finish()", Outcome(state="complete", value=0.5, epoch=2)),
        ("finish('timeout')", Outcome(state="complete", value=0.5, epoch=2)),
        (
            "finish('pruned', reason='too slow')",
            Outcome(state="pruned", value=0.5, epoch=2, reason="too slow", kind="policy"),
        ),
        (
            "evaluate(1, 0.3); raise ValueError('no such thing')",
            Outcome(state="failed", value=0.3, epoch=1, reason="ValueError: no such thing", kind="error"),
        ),
        (
            "finish('failed', error='It is too small.'); print('noise', file=sys.stderr); sys.exit(6)",
            Outcome(state="failed", value=0.5, epoch=2, reason="It is too small.", kind="error"),
        ),
        (
            "finish('failed', error='The disk is full.'); print('noise', file=sys.stderr); sys.exit(9)",
            Outcome(state="interrupted", value=0.5, epoch=2, reason="The disk is full.", kind="storage"),
        ),
        ("sys.exit(9)", Outcome(state="interrupted", reason="its files cannot be written", kind="storage")),
        (
            "print('Error: data.training=x: no such folder.', file=sys.stderr); print('bye'); sys.exit(2)",
            Outcome(state="failed", reason="data.training=x: no such folder.", kind="error"),
        ),
        ("sys.exit(0)", Outcome(state="failed", reason="exit code 0, and no result", kind="error")),
        ("ctypes.string_at(0)", Outcome(state="failed", reason="signal 11 (SIGSEGV)", kind="signal")),
        ("finish(); ctypes.string_at(0)", Outcome(state="complete", value=0.5, epoch=2)),
        (
            "evaluate(1, 0.2); evaluate(2, 0.7); evaluate(3, 0.6); os.kill(os.getpid(), signal.SIGKILL)",
            Outcome(state="failed", value=0.7, epoch=2, reason="killed (out of memory?)", kind="memory"),
        ),
        (
            "raise RuntimeError('CUDA out of memory. Tried to allocate 2 GiB')",
            Outcome(
                state="failed",
                reason="out of memory: RuntimeError: CUDA out of memory. Tried to allocate 2 GiB",
                kind="memory",
            ),
        ),
        (
            "finish(value=None)",
            Outcome(state="failed", epoch=2, reason="nan: accuracy was never finite", kind="nan"),
        ),
        (
            "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
            Outcome(state="interrupted", reason="interrupted from outside", kind="interrupted"),
        ),
    ],
)
def test_the_outcome_says_how_a_trial_ended(code, outcome, server, tmp_path):
    assert run(tmp_path, code, server) == outcome


@pytest.mark.parametrize(
    "line",
    [
        "MemoryError",
        "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes",
        "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 4 TiB for an array",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
        "cv2.error: OpenCV(4.11) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes",
        "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed.",
        "The device's memory is too small for training.training_batch_size=8. Halve them.",
    ],
)
def test_every_kind_of_exhausted_memory_is_told_from_other_errors(line):
    outcome = outcome_of(Trace(1, None, f"Traceback\n{line}\n"))
    assert (outcome.kind, outcome.reason) == ("memory", f"out of memory: {line}")


def test_an_abort_for_want_of_memory_is_told_from_others():
    assert outcome_of(Trace(-6, None, "what():  std::bad_alloc\n")).reason == "out of memory: signal 6 (SIGABRT)"
    assert outcome_of(Trace(-6, None, "double free\n")).reason == "signal 6 (SIGABRT)"


def test_a_training_whose_loss_explodes_is_told_from_other_failures():
    error = "The classification loss is nan in epoch 1, by step 3."
    outcome = outcome_of(Trace(6, {"status": "failed", "error": error, "primary_metric": {}}, ""))
    assert (outcome.kind, outcome.reason) == ("nan", error)


def test_the_best_of_a_metric_that_shall_be_low_is_its_lowest(tmp_path):
    code = "evaluate(1, 0.9); evaluate(2, 0.4); evaluate(3, 0.6); sys.exit(1)"
    outcome = run(tmp_path, code, lower_is_better=True)
    assert (outcome.value, outcome.epoch) == (0.4, 2)


# How it is ended


def test_a_hang_that_ignores_requests_is_killed_with_all_its_children(server, tmp_path):
    trial = started(tmp_path, "ignore_requests(); leave_a_child(); evaluate(1, 0.4); time.sleep(600)", server)
    assert trial.poll() is None
    outcome = trial.time_out(7, grace=0.2)
    assert outcome.reason.startswith("timed out after 7 s: it did not end by itself when its time (limits.trial_tim")
    assert outcome == Outcome(state="failed", value=0.4, epoch=1, reason=outcome.reason, kind="timeout")
    assert trial.poll() == outcome


def test_a_request_to_end_is_given_its_time(server, tmp_path):
    code = """
def end(number, frame):
    time.sleep(0.5)
    finish("interrupted", value=0.6)
    sys.exit(130)
signal.signal(signal.SIGTERM, end)
evaluate(1, 0.4)
time.sleep(600)
"""
    outcome = started(tmp_path, code, server).kill(grace=60)
    assert outcome == Outcome(state="interrupted", value=0.6, epoch=2, reason="interrupted", kind="interrupted")


def test_a_result_that_was_finished_before_the_kill_stands(tmp_path):
    trial = started(tmp_path, "finish(); evaluate(1, 0.4); time.sleep(600)")
    assert trial.kill(grace=60).state == "complete"


def test_what_a_trial_leaves_behind_ends_with_it(server, tmp_path):
    assert run(tmp_path, "leave_a_child(); finish()", server).state == "complete"


def test_a_trial_that_is_asked_to_stop_ends_in_order_with_the_reason(server, tmp_path):
    code = """
evaluate(1, 0.4)
while not (folder / "STOP").exists():
    time.sleep(0.02)
finish("pruned", value=0.4, epoch=1, reason=(folder / "STOP").read_text().strip())
"""
    trial = started(tmp_path, code, server)
    trial.ask_to_stop("bandit: 0.4 is below 0.66")
    expected = Outcome(state="pruned", value=0.4, epoch=1, reason="bandit: 0.4 is below 0.66", kind="policy")
    assert trial.wait(60) == expected


SWEEPER = """
import json, sys, time
from pathlib import Path
from trial_fakes import fake_command
from lightning_automl_vision.search.fork_server import ForkServer
from lightning_automl_vision.search.trial_process import TrialProcess

server = ForkServer("gc:collect") if sys.argv[2] == "forked" else None
trial = TrialProcess.start(fake_command(Path(sys.argv[1]), sys.argv[3]), server)
time.sleep(600)
"""


@pytest.mark.parametrize("way", ["fresh", "forked"])
def test_nothing_outlives_a_sweeper_that_is_killed(way, tmp_path):
    code = "ignore_requests(); leave_a_child(); evaluate(1, 0.4); time.sleep(600)"
    here = os.path.dirname(__file__)
    sweeper = subprocess.Popen([sys.executable, "-c", SWEEPER, str(tmp_path), way, code], cwd=here)
    try:
        wait_until(lambda: len(working_in(tmp_path)) >= 2 and (tmp_path / "trial" / "metrics.jsonl").exists())
    finally:
        sweeper.kill()
        sweeper.wait()
    wait_until(lambda: not working_in(tmp_path))


# What is read while it runs


@pytest.fixture
def reports_of():
    with ExitStack() as opened:
        yield lambda path: opened.enter_context(closing(Reports(path, "accuracy")))


def test_reports_are_whole_lines_each_told_once(reports_of, tmp_path):
    path = tmp_path / "metrics.jsonl"
    reports = reports_of(path)
    assert reports.new() == []
    path.write_text('{"epoch": 1, "accuracy": 0.5}\n{"epoch": 2, "accu')
    assert reports.new() == [(1, 0.5)]
    assert reports.new() == []
    with path.open("a") as file:
        file.write('racy": 0.7}\n')
    assert reports.new() == [(2, 0.7)]


def test_lines_that_a_crash_tore_are_passed_over(reports_of, tmp_path):
    path = tmp_path / "metrics.jsonl"
    reports = reports_of(path)
    path.write_text('{"epoch": 1, "accu{"epoch": 2, "accuracy": 0.5}\n[1]\n\n\x00\n{"epoch": 3, "accuracy": 0.6}\n')
    assert reports.new() == [(3, 0.6)]


def test_the_last_reports_are_told_also_after_the_end(tmp_path):
    trial = TrialProcess.start(fake_command(tmp_path, "evaluate(1, 0.1); evaluate(2, 0.2); finish()"))
    assert trial.wait(60).state == "complete"
    assert trial.reports() == [(1, 0.1), (2, 0.2)]
    assert trial.reports() == []


def test_an_undefined_metric_is_reported_as_nan(reports_of, tmp_path):
    reports = reports_of(tmp_path / "metrics.jsonl")
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "accuracy": null}\n{"epoch": 2}\n')
    assert [(epoch, value != value) for epoch, value in reports.new()] == [(1, True), (2, True)]


def test_lines_of_an_earlier_attempt_are_not_reported_whether_its_file_is_kept_or_replaced(reports_of, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1, "accuracy": 0.1}\n')
    reports = reports_of(path)
    assert reports.new() == []
    with path.open("a") as file:
        file.write('{"epoch": 2, "accuracy": 0.2}\n')
    assert reports.new() == [(2, 0.2)]
    path.unlink()
    path.write_text('{"epoch": 1, "accuracy": 0.3}\n{"epoch": 2, "accuracy": 0.4}\n{"epoch": 3, "accuracy": 0.5}\n')
    assert reports.new() == [(1, 0.3), (2, 0.4), (3, 0.5)]


def test_what_an_earlier_attempt_left_is_none_of_this_ones(tmp_path):
    run(tmp_path, "evaluate(1, 0.9); finish('interrupted'); print('Error: old', file=sys.stderr)")
    (tmp_path / "trial" / "STOP").write_text("long ago")
    outcome = run(tmp_path, "assert not (folder / 'STOP').exists(); sys.exit(1)")
    assert outcome == Outcome(state="failed", reason="exit code 1, and no result", kind="error")


# What it is given


def variables_of(tmp_path, server=None, **options):
    run(tmp_path, "(folder / 'seen.json').write_text(json.dumps(dict(os.environ)))", server, **options)
    return json.loads((tmp_path / "trial" / "seen.json").read_text())


def test_a_trial_knows_nothing_of_the_cluster_and_all_of_its_slot(server, tmp_path, monkeypatch):
    cluster = {"SLURM_NTASKS", "SLURM_PROCID", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    for name in cluster:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("KEPT", "as it was")
    monkeypatch.setenv("DROPPED", "by the slot")
    seen = variables_of(
        tmp_path, server, threads=3, devices="1,2", environment={"DROPPED": None, "ADDED": "by the slot"}
    )
    assert cluster.isdisjoint(seen)
    assert (seen["KEPT"], seen["ADDED"], "DROPPED" in seen) == ("as it was", "by the slot", False)
    assert (seen["OMP_NUM_THREADS"], seen["CUDA_VISIBLE_DEVICES"]) == ("3", "1,2")
    assert seen[TRIAL_FOLDER] == str(tmp_path / "trial")
    assert "LAV_TRIAL_PIPE" not in seen


def test_devices_are_left_alone_where_the_slot_owns_none(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert variables_of(tmp_path)["CUDA_VISIBLE_DEVICES"] == "5"


def test_the_command_names_the_folder_whatever_characters_it_holds(tmp_path):
    folder = tmp_path / "it's, a=b ${x}"
    words = Command(arguments=("model=resnet18",), folder=folder, metric="accuracy").words
    assert words[0] == "model=resnet18"
    assert words[2] == "quiet=true"
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    override = OverridesParser.create().parse_override(words[1])
    assert OmegaConf.create({"folder": override.value()}).folder == str(folder)


def test_starting_trials_needs_no_torch():
    code = "import sys, lightning_automl_vision.search.fork_server; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What the training does when it is asked


def test_the_names_of_both_sides_are_the_same():
    assert (stopping.FOLDER, stopping.STOP) == (TRIAL_FOLDER, STOP)


def test_a_training_that_is_asked_to_stop_ends_after_its_evaluation(tmp_path, monkeypatch):
    monkeypatch.setenv(TRIAL_FOLDER, str(tmp_path))
    (tmp_path / STOP).write_text("median_stopping: 0.4 is below 0.6\n")
    training = config(number_of_epochs=3)
    _, result = train(tmp_path, training, task=scripted([0.4, 0.5, 0.6])(classifier(), training, CLASSES))
    assert (result.status, result.epochs, result.best_epoch) == ("pruned", 1, 1)
    assert result.reason == "median_stopping: 0.4 is below 0.6"
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()


def test_a_training_in_its_last_epoch_completes_whatever_it_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv(TRIAL_FOLDER, str(tmp_path))
    (tmp_path / STOP).write_text("too late")
    training = config(number_of_epochs=1)
    _, result = train(tmp_path, training, task=scripted([0.4])(classifier(), training, CLASSES))
    assert (result.status, result.reason) == ("completed", None)


def test_nobody_asks_a_run_that_is_no_trial(tmp_path, monkeypatch):
    monkeypatch.delenv(TRIAL_FOLDER, raising=False)
    (tmp_path / STOP).write_text("a file of that name")
    training = config(number_of_epochs=2)
    _, result = train(tmp_path, training, task=scripted([0.4, 0.5])(classifier(), training, CLASSES))
    assert result.status == "completed"


def test_the_most_memory_of_any_of_its_processes_is_known(light_server, tmp_path):
    """Of a fork: for Linux, a fresh process has held what the one that started it did."""
    code = """subprocess.run([sys.executable, "-c", "b'x' * (300 << 20)"], check=True); finish()"""
    trial = TrialProcess.start(fake_command(tmp_path, code), light_server)
    assert trial.wait(60).state == "complete"
    assert 300 << 20 < trial.memory < 600 << 20


def test_waiting_for_a_trial_has_an_end(tmp_path):
    trial = TrialProcess.start(fake_command(tmp_path, "evaluate(1, 0.1); time.sleep(600)"))
    began = time.monotonic()
    assert trial.wait(0.2) is None
    assert time.monotonic() - began >= 0.2
    assert trial.kill(grace=0).state == "interrupted"
    with pytest.raises(ProcessLookupError):
        os.killpg(trial.pid, signal.SIGKILL)
