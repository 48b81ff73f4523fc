"""Which process of a training this is, by what srun, torchrun, mpirun, jsrun and others leave in its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from pictures import write_folders

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.search.trial_process import without_cluster
from lightning_automl_vision.training.launchers import (
    Launched,
    first_machine,
    launched_by,
    machine_number,
    shares_machine,
    tasks_of_each_machine,
)

TORCHRUN = {
    **{"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
    **{"GROUP_RANK": "1", "MASTER_ADDR": "first", "MASTER_PORT": "29500", "OMP_NUM_THREADS": "1"},
}
SRUN = {
    **{"SLURM_JOB_ID": "1234", "SLURM_NTASKS": "8", "SLURM_NTASKS_PER_NODE": "4", "SLURM_TASKS_PER_NODE": "4(x2)"},
    **{"SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "training"},
    **{"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"},
    **{"SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "1"},
    **{"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1", "SLURM_SRUN_COMM_HOST": "10.0.0.1"},
}
OPEN_MPI = {
    **{"OMPI_COMM_WORLD_RANK": "5", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    **{"OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_NODE_RANK": "1", "OMPI_UNIVERSE_SIZE": "8"},
    **{"PMIX_NAMESPACE": "prterun-first-77@1", "PMIX_RANK": "5"},
}
MPICH = {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4", "PMI_FD": "9"}
JSRUN = {
    **{"LSB_JOBID": "4321", "JSM_NAMESPACE_ID": "0", "JSM_NAMESPACE_RANK": "5", "JSM_NAMESPACE_SIZE": "8"},
    **{"JSM_NAMESPACE_LOCAL_RANK": "1", "JSM_NAMESPACE_LOCAL_SIZE": "4"},
}
MEETING = {"MASTER_ADDR": "first", "MASTER_PORT": "29500"}
BY_HAND = {**MEETING, "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
AT = {"rank": 5, "size": 8, "local_rank": 1, "local_size": 4, "node_rank": 1}
# What there is, where the processes meet (None: at a port that follows from the job), and who has started them.
GIVEN: dict[str, tuple[Mapping[str, str], str, int | None]] = {
    "torchrun": (TORCHRUN, "first", 29500),
    "torchrun on SLURM": (
        {**SRUN, **TORCHRUN, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"},
        "first",
        29500,
    ),
    "srun": (SRUN, "gpu07", None),
    "srun, and a place to meet": ({**SRUN, **MEETING}, "first", 29500),
    "a step of a larger job": ({**SRUN, "SLURM_NTASKS": "64", "SLURM_JOB_NODELIST": "gpu[01-16]"}, "gpu07", None),
    "srun without tasks a node": (
        {name: value for name, value in SRUN.items() if name != "SLURM_NTASKS_PER_NODE"},
        "gpu07",
        None,
    ),
    "srun with PMI": ({**SRUN, "PMI_RANK": "5", "PMI_SIZE": "8", "PMIX_RANK": "5"}, "gpu07", None),
    "mpirun": ({**OPEN_MPI, "MASTER_ADDR": "first"}, "first", None),
    "mpirun on SLURM": (
        {**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", **OPEN_MPI, **MEETING},
        "first",
        29500,
    ),
    "mpiexec": ({**MPICH, **MEETING}, "first", 29500),
    "by hand": (BY_HAND, "first", 29500),
    "by hand, by machine": ({**MEETING, "NODE_RANK": "1", "LOCAL_RANK": "1"}, "first", 29500),
}
SCRIPT = """
import json, os, sys
from lightning_automl_vision.settings import TrainerConfig
from lightning_automl_vision.training.ranks import check_ranks, is_follower, launched
trainer, usual = TrainerConfig(devices=4, num_nodes=2), dict(os.environ)
for given in json.loads(sys.stdin.read()):
    os.environ.clear()
    os.environ.update({**usual, **given})
    check_ranks(trainer, "cpu")
    here = launched(trainer)
    assert is_follower(trainer) == (here.global_rank() > 0)
    numbers = here.global_rank(), here.world_size(), here.local_rank(), here.node_rank()
    print(json.dumps([*numbers, here.main_address, here.main_port, here.creates_processes_externally]))
"""


def alone() -> dict[str, str]:
    """This process' environment, without whatever started it."""
    return without_cluster(os.environ)


@pytest.fixture
def rank_file(tmp_path: Path) -> str:
    file = tmp_path / "ranks"
    file.write_text("launch-node\n" + "first\n" * 4 + "second\n" * 4)
    return str(file)


def test_a_process_takes_the_place_that_its_launcher_says(rank_file: str) -> None:
    given = {**GIVEN, "jsrun": ({**JSRUN, "LSB_DJOB_RANKFILE": rank_file}, "first", None)}
    asked = json.dumps([environment for environment, _, _ in given.values()])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=asked, capture_output=True, text=True, check=False, env=alone()
    )
    assert done.returncode == 0, done.stderr
    for (name, (_, address, port)), line in zip(given.items(), done.stdout.splitlines(), strict=True):
        *numbers, where, at, _ = json.loads(line)
        assert numbers == [5, 8, 1, 1], name
        assert where == address, name
        assert 20_000 <= at < 30_000 if port is None else at == port, name


def place(environment: Mapping[str, str], devices: int = 4, machines: int = 2) -> Launched:
    found = launched_by(environment, devices, machines)
    assert found is not None
    found.check(devices, machines)
    return found


def test_all_processes_of_a_job_meet_at_one_port_and_another_job_at_another() -> None:
    others = [{**SRUN, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}, {**SRUN, "SLURM_STEP_ID": "1"}]
    ours, first, next_step = (place(given).place(given).port for given in (SRUN, *others))
    assert ours == first != next_step


def test_processes_of_one_machine_meet_within_it() -> None:
    one = {**SRUN, "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_PROCID": "1"}
    one |= {"SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "gpu07"}
    assert place(one, 4, 1).place(one).address == "127.0.0.1"
    mpi = {**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}
    assert place(mpi, 4, 1).place(mpi).address == "127.0.0.1"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {name: value for name, value in SRUN.items() if "STEP" not in name},  # a batch script, or salloc
        {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_NODEID": "0"},  # srun --pty
        {**OPEN_MPI, "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
        MEETING,
    ],
)
def test_a_process_alone_starts_the_others_itself(environment: Mapping[str, str]) -> None:
    assert launched_by(environment, 4, 1) is None


def test_an_environment_that_says_half_of_it_is_refused() -> None:
    for half in ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "1"}, {"TORCHELASTIC_RUN_ID": "x", "RANK": "one"}):
        with pytest.raises(ConfigError, match="says in part that a launcher has started this process"):
            launched_by(half, 4, 2)
    with pytest.raises(ConfigError, match="IndexError"):
        launched_by({**SRUN, "SLURM_STEP_TASKS_PER_NODE": "4"}, 4, 2)


@pytest.mark.parametrize(
    ("environment", "devices", "machines", "answer"),
    [
        (SRUN, 2, 2, "makes 4 processes, and 8 were started by srun"),
        (TORCHRUN, 8, 1, "torchrun has started 4 processes on this machine.*say trainer.devices=4"),
        ({**SRUN, "SLURM_PROCID": "3"}, 4, 2, "deals out processes by turns.*--distribution=block"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_RANK": "2"}, 4, 2, "mpirun deals out processes by turns"),
    ],
)
def test_processes_that_are_not_those_asked_for_are_refused(
    environment: Mapping[str, str], devices: int, machines: int, answer: str
) -> None:
    with pytest.raises(ConfigError, match=answer):
        place(environment, devices, machines)


@pytest.mark.parametrize(
    ("environment", "missing"),
    [
        (OPEN_MPI, "set MASTER_ADDR for all of them"),
        (MPICH, "set MASTER_ADDR and MASTER_PORT for all of them"),
        ({"LOCAL_RANK": "1", "NODE_RANK": "1", "MASTER_ADDR": "first"}, "set MASTER_PORT for all of them"),
        (JSRUN, "set MASTER_ADDR for all of them"),  # without its file of machines
    ],
)
def test_processes_that_cannot_know_where_they_meet_are_told_so(environment: Mapping[str, str], missing: str) -> None:
    with pytest.raises(ConfigError, match=missing):
        place(environment).place(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu07", "gpu07"),
        ("gpu[07-08]", "gpu07"),
        ("gpu[3,5-7],login", "gpu3"),
        ("rack[1-2]-node[01-16]", "rack1-node01"),
        ("a,b", "a"),
        ("a b", "a"),
    ],
)
def test_the_first_machine_of_a_list(nodes: str, first: str) -> None:
    assert first_machine(nodes) == first


def test_tasks_of_each_machine() -> None:
    assert tasks_of_each_machine("4(x2),3") == [4, 4, 3]
    assert tasks_of_each_machine("8") == [8]


def test_which_machine_a_process_is_on_that_starts_the_others() -> None:
    assert machine_number({"NODE_RANK": "1"}, 2) == 1
    assert machine_number({"RANK": "1", "WORLD_SIZE": "2"}, 2) == 1  # one process a machine, as operators have it
    assert machine_number({"RANK": "1", "WORLD_SIZE": "8"}, 2) is None
    assert machine_number({}, 2) is None


def test_threads_that_were_dealt_out_are_not_divided_again() -> None:
    assert shares_machine({})
    assert not shares_machine({"OMP_NUM_THREADS": "4"})
    assert not shares_machine({"SLURM_CPUS_PER_TASK": "4"})


WORDS = (
    *("model=resnet18", "model.pretrained=false", "data.training=photos", "trainer.accelerator=cpu"),
    *(f"training.{name}=32" for name in ("training_crop_size", "validation_crop_size", "validation_resize_size")),
    *("training.number_of_epochs=1", "training.training_batch_size=4", "training.number_of_workers=0"),
)


def started(folder: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lightning_automl_vision", *WORDS, *words],
        cwd=folder,
        env={**alone(), "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_tasks_of_srun_train_together(tmp_path: Path) -> None:
    """As srun would start them, without it: two machines, which are two names of this one."""
    write_folders(tmp_path / "photos", per_class=7)
    job = {**SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "MASTER_ADDR": "127.0.0.1"}
    runs = [
        started(
            tmp_path,
            *("trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2", "output_dir=run"),
            **{**job, "SLURM_PROCID": str(number), "SLURM_LOCALID": "0", "SLURM_NODEID": str(number)},
        )
        for number in range(2)
    ]
    said = [run.communicate(timeout=240)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert "Process 1 of 2 meets the others at 127.0.0.1:" in said[0]
    assert "completed" in said[0]
    assert "completed" not in said[1]


@pytest.mark.slow
def test_a_task_that_trains_by_itself_is_no_part_of_its_job(tmp_path: Path) -> None:
    """Lightning would take it for the fourth process of four, which writes nothing."""
    write_folders(tmp_path / "photos", per_class=7)
    job = {**SRUN, "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_NTASKS": "4"}
    del job["SLURM_NTASKS_PER_NODE"]
    run = started(tmp_path, "logger=csv", "output_dir=run", **{**job, "SLURM_PROCID": "3"})
    said, _ = run.communicate(timeout=240)
    assert run.returncode == 0, said
    assert (tmp_path / "run" / "csv" / "metrics.csv").exists()
