"""Where a process is among those that a launcher has started, by what the launcher left in its environment."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lightning_automl_vision.errors import ConfigError
from lightning_automl_vision.training.local_ranks import Place

Environment = Mapping[str, str]
ADDRESS, PORT, MACHINE = "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"
_HERE = "127.0.0.1"
# Below those that systems give away, so that no other program is likely to have it.
_FIRST_PORT, _PORTS = 20_000, 10_000


@dataclass(frozen=True, kw_only=True)
class Launched:
    """What ``launcher`` says of this process; ``address`` and ``job`` where it says them too."""

    launcher: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    node_rank: int
    address: str | None = None
    job: str | None = None

    def place(self, environment: Environment) -> Place:
        """With the address and the port at which all meet: those that are given count, whatever the launcher says."""
        address = environment.get(ADDRESS) or (_HERE if self.size == self.local_size else self.address)
        port = environment.get(PORT) or (None if self.job is None else str(_port_of(self.job)))
        if address is None or port is None:
            missing = [name for name, value in ((ADDRESS, address), (PORT, port)) if value is None]
            raise ConfigError(
                f"{self.launcher} has started {self.size} processes, and none knows where they meet: set"
                f" {' and '.join(missing)} for all of them, to the first machine's name and a free port of it."
            )
        return Place(
            rank=self.rank,
            size=self.size,
            local_rank=self.local_rank,
            local_size=self.local_size,
            node_rank=self.node_rank,
            address=address,
            port=int(port),
        )

    def check(self, devices: int, machines: int) -> None:
        """ConfigError unless it has started so many on each of so many machines, one machine's after the other's."""
        asked = f"trainer.devices={devices}, trainer.num_nodes={machines}"
        if self.size != devices * machines:
            raise ConfigError(
                f"{asked}: that makes {devices * machines} processes, and {self.size} were started by"
                f" {self.launcher}. Let it start one for each device."
            )
        if self.local_size != devices:
            raise ConfigError(
                f"{asked}: {self.launcher} has started {self.local_size} processes on this machine. Let it start as"
                f" many on each, and say trainer.devices={self.local_size}."
            )
        if self.rank != self.node_rank * devices + self.local_rank:
            raise ConfigError(
                f"{asked}: {self.launcher} deals out processes by turns, this machine's are not in a row. Let it fill"
                " one machine after the other: srun --distribution=block, mpirun --map-by slot."
            )


def launched_by(environment: Environment, devices: int, machines: int) -> Launched | None:
    """Where this process is among several; None where it is alone, and where it is ours to start others."""
    readers: tuple[Callable[[Environment], Launched | None], ...] = (_torchrun, _lsf, _open_mpi, _hydra_mpi, _slurm)
    try:
        found = next((found for read in readers if (found := read(environment)) is not None), None)
        return _by_hand(environment, devices, machines) if found is None else found
    except (KeyError, ValueError, IndexError) as error:
        raise ConfigError(
            f"The environment says in part that a launcher has started this process ({type(error).__name__}: {error})."
            " Start it as the launcher means it, or take the launcher's variables away (env -u NAME)."
        ) from None


def machine_number(environment: Environment, machines: int) -> int | None:
    """Which of the machines this is, where one process was started on each; None where nobody says."""
    if MACHINE in environment:
        return int(environment[MACHINE])
    if environment.get("WORLD_SIZE") == str(machines) and "RANK" in environment:  # as operators of Kubernetes say it
        return int(environment["RANK"])
    return None


def shares_machine(environment: Environment) -> bool:
    """Whether nobody has told the processes of a machine how many threads each may have."""
    return not {"OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"} & environment.keys()


def _torchrun(environment: Environment) -> Launched | None:
    if "TORCHELASTIC_RUN_ID" not in environment:
        return None
    return Launched(
        launcher="torchrun",
        rank=int(environment["RANK"]),
        size=int(environment["WORLD_SIZE"]),
        local_rank=int(environment["LOCAL_RANK"]),
        local_size=int(environment["LOCAL_WORLD_SIZE"]),
        node_rank=int(environment.get("GROUP_RANK", 0)),
    )


def _lsf(environment: Environment) -> Launched | None:
    if "LSB_JOBID" not in environment or "JSM_NAMESPACE_RANK" not in environment:
        return None
    local_size = int(environment["JSM_NAMESPACE_LOCAL_SIZE"])
    return _several(
        Launched(
            launcher="jsrun",
            rank=int(environment["JSM_NAMESPACE_RANK"]),
            size=int(environment["JSM_NAMESPACE_SIZE"]),
            local_rank=int(environment["JSM_NAMESPACE_LOCAL_RANK"]),
            local_size=local_size,
            node_rank=int(environment["JSM_NAMESPACE_RANK"]) // local_size,
            address=_first_of_ranks(environment.get("LSB_DJOB_RANKFILE")),
            job=f"{environment['LSB_JOBID']}.{environment.get('JSM_NAMESPACE_ID', '')}",
        )
    )


def _open_mpi(environment: Environment) -> Launched | None:
    if "OMPI_COMM_WORLD_RANK" not in environment:
        return None
    rank, local_size = int(environment["OMPI_COMM_WORLD_RANK"]), int(environment["OMPI_COMM_WORLD_LOCAL_SIZE"])
    jobs = (environment.get(name) for name in ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"))
    return _several(
        Launched(
            launcher="mpirun",
            rank=rank,
            size=int(environment["OMPI_COMM_WORLD_SIZE"]),
            local_rank=int(environment["OMPI_COMM_WORLD_LOCAL_RANK"]),
            local_size=local_size,
            node_rank=rank // local_size,
            job=next((job for job in jobs if job), None),
        )
    )


def _hydra_mpi(environment: Environment) -> Launched | None:
    """MPICH and its kin; of what SLURM sets for PMI the local numbers are missing."""
    if not {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"} <= environment.keys():
        return None
    rank, local_size = int(environment["PMI_RANK"]), int(environment["MPI_LOCALNRANKS"])
    return _several(
        Launched(
            launcher="mpiexec",
            rank=rank,
            size=int(environment["PMI_SIZE"]),
            local_rank=int(environment["MPI_LOCALRANKID"]),
            local_size=local_size,
            node_rank=rank // local_size,
        )
    )


def _slurm(environment: Environment) -> Launched | None:
    """A task that srun has started: a batch script has the job's numbers too, but is no task of several."""
    if "SLURM_STEP_NUM_TASKS" not in environment:
        return None
    node = int(environment["SLURM_NODEID"])
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    return _several(
        Launched(
            launcher="srun",
            rank=int(environment["SLURM_PROCID"]),
            size=int(environment["SLURM_STEP_NUM_TASKS"]),
            local_rank=int(environment["SLURM_LOCALID"]),
            local_size=tasks_of_each_machine(environment["SLURM_STEP_TASKS_PER_NODE"])[node],
            node_rank=node,
            address=None if nodes is None else first_machine(nodes),
            job=f"{environment.get('SLURM_JOB_ID')}.{environment.get('SLURM_STEP_ID')}",
        )
    )


def _by_hand(environment: Environment, devices: int, machines: int) -> Launched | None:
    """Whoever sets LOCAL_RANK has started all of them; clusters of notebooks and clouds do so."""
    if "LOCAL_RANK" not in environment:
        return None
    local_rank, local_size = int(environment["LOCAL_RANK"]), int(environment.get("LOCAL_WORLD_SIZE", devices))
    node = environment.get(MACHINE, environment.get("GROUP_RANK"))
    rank = int(environment.get("RANK", int(node or 0) * devices + local_rank))
    return Launched(
        launcher="whoever set LOCAL_RANK",
        rank=rank,
        size=int(environment.get("WORLD_SIZE", devices * machines)),
        local_rank=local_rank,
        local_size=local_size,
        node_rank=rank // devices if node is None else int(node),
    )


def _several(found: Launched) -> Launched | None:
    """One task alone, which is how clusters start what takes the whole machine, may start processes of its own."""
    return None if found.size == 1 else found


def first_machine(nodes: str) -> str:
    """Of a list as SLURM writes it, such as ``rack[1-2]-node[01-16],login``."""
    return re.split(r"[,\s]", re.sub(r"\[([^],-]+)[^]]*\]", r"\1", nodes))[0]


def tasks_of_each_machine(text: str) -> list[int]:
    """``4(x2),3`` is 4, 4 and 3."""
    counts = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts


def _first_of_ranks(file: str | None) -> str | None:
    """Of the machines of a job the second line is the first: the line before names where it was launched."""
    if file is None:
        return None
    try:
        lines = Path(file).read_text(encoding="utf-8").split()
    except OSError:
        return None
    return lines[1] if len(lines) > 1 else None


def _port_of(job: str) -> int:
    """The same for all processes of a job, and hardly another job's."""
    return _FIRST_PORT + zlib.crc32(job.encode()) % _PORTS
