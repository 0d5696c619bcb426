"""Which of several processes this one is, from what torchrun or srun put in the environment.

Of srun only the variables of the running step count (SLURM_STEP_*, SLURM_PROCID). Those of the
allocation are there too in an interactive shell and in a batch script, where nobody meant several
processes. The package clusterscope goes by the latter, so it is not used.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from shutil import which
from typing import Any

# What torchrun tells each process; the other variables of it are not needed.
ELASTIC = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Any of these means that processes were started by torchrun, or in its manner.
ELASTIC_SIGNS = ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "WORLD_SIZE")
# Processes that are started later than this, as those of a queue, are given up.
MEETING_TIME = timedelta(minutes=10)
# A store that a launcher runs was there before its processes. If it is not, the launcher has died
# before they could ask to be notified of that.
KNOCKING_TIME = timedelta(seconds=20)
# Ports for srun's steps: above those of services, below those that Linux gives out by itself.
FIRST_PORT, NUM_PORTS = 12000, 20000


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is.

    Attributes:
        rank: number among all processes.
        world_size: number of all processes.
        local_rank: number among those of this machine.
        local_size: number of those of this machine, the same on each.
        url: where they meet, see `torch.distributed`.
        source: who started them, for messages.
        has_store: somebody else than process 0 runs the store at the URL.
        knocking: how long the first try to reach that store may take.
        launcher_lasts: the thread that started this process lives as long as its process.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    url: str
    source: str
    has_store: bool = False
    knocking: timedelta = MEETING_TIME
    launcher_lasts: bool = True

    def __post_init__(self):
        given = (
            f"{self.source}: process {self.rank} of {self.world_size}, on its machine "
            f"{self.local_rank} of {self.local_size}"
        )
        if (
            not (0 <= self.rank < self.world_size and 0 <= self.local_rank < self.local_size)
            or self.local_size > self.world_size
        ):
            raise ValueError(f"{given}: these numbers contradict each other")
        if self.world_size % self.local_size:
            raise ValueError(
                f"{given}: each machine must have as many processes (WORLD_SIZE is no multiple of "
                "LOCAL_WORLD_SIZE)"
            )
        if self.rank % self.local_size != self.local_rank:
            raise ValueError(
                f"{given}: the processes of a machine must have consecutive numbers (srun: "
                "--distribution=block)"
            )


def read_number(environment: Mapping[str, str], name: str) -> int:
    """A whole number from the environment.

    Raises:
        ValueError: when it is none, naming the variable.
    """
    try:
        return int(environment[name])
    except ValueError:
        raise ValueError(
            f"environment variable {name} is {environment[name]!r}, expected a whole number"
        ) from None


def from_elastic(environment: Mapping[str, str]) -> Place | None:
    """The place that torchrun gave this process, None if it did not.

    Raises:
        ValueError: when some of the variables are missing or make no sense.
    """
    signs = [name for name in ELASTIC_SIGNS if name in environment]
    alone = "TORCHELASTIC_RUN_ID" not in environment and environment.get("WORLD_SIZE") == "1"
    if not signs or alone:
        return None
    missing = [name for name in ELASTIC if not environment.get(name)]
    if missing:
        raise ValueError(
            f"environment variable {signs[0]} is set, as torchrun does, but not "
            f"{', '.join(missing)}: start with torchrun, set these too, or unset {signs[0]} to "
            "work in one process"
        )
    rank, world_size, local_rank, local_size = (
        read_number(environment, name) for name in ELASTIC[:4]
    )
    url = f"tcp://{bracketed(environment['MASTER_ADDR'])}:{read_number(environment, 'MASTER_PORT')}"
    return Place(
        rank,
        world_size,
        local_rank,
        local_size,
        url,
        "torchrun (RANK, WORLD_SIZE, ...)",
        has_store=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        knocking=KNOCKING_TIME,
    )


def bracketed(host: str) -> str:
    """A host as part of a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def from_slurm(environment: Mapping[str, str]) -> Place | None:
    """The place that srun gave this process, None if its step has a single task.

    Raises:
        ValueError: when the variables make no sense, or do not tell where to meet.
    """
    if "SLURM_STEP_NUM_TASKS" not in environment or "SLURM_PROCID" not in environment:
        return None  # a batch script, or a shell of salloc
    world_size = read_number(environment, "SLURM_STEP_NUM_TASKS")
    # A shell with a terminal is the first task, the others have none.
    if world_size == 1 or "SLURM_PTY_PORT" in environment:
        return None
    # "4(x2)" is 4 tasks on each of 2 nodes, "4,3" differs from node to node.
    per_node = environment.get("SLURM_STEP_TASKS_PER_NODE", str(world_size))
    if "," in per_node:
        raise ValueError(
            f"srun: SLURM_STEP_TASKS_PER_NODE is {per_node!r}, expected as many tasks on each node "
            "(--ntasks-per-node)"
        )
    count = per_node.partition("(")[0]
    if not count.isdigit():
        raise ValueError(f"srun: SLURM_STEP_TASKS_PER_NODE is {per_node!r}, expected a number")
    if "SLURM_LOCALID" not in environment:
        raise ValueError("srun: SLURM_PROCID is set, but not SLURM_LOCALID")
    return Place(
        read_number(environment, "SLURM_PROCID"),
        world_size,
        read_number(environment, "SLURM_LOCALID"),
        int(count),
        f"tcp://{bracketed(slurm_address(environment))}:{slurm_port(environment)}",
        "srun (SLURM_PROCID, ...)",
        launcher_lasts=False,
    )


def slurm_address(environment: Mapping[str, str]) -> str:
    """The host of the first task: MASTER_ADDR, else by SLURM's own list of the nodes.

    Raises:
        ValueError: when neither tells.
    """
    if environment.get("MASTER_ADDR"):
        return environment["MASTER_ADDR"]
    if environment.get("SLURM_STEP_NUM_NODES") == "1":
        return "127.0.0.1"
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    # SLURM itself reads its lists, such as "gpu[003-007,010]"; other readers differ in rare forms.
    command = ["scontrol", "show", "hostnames", nodes]
    if nodes and which(command[0]):
        listed = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if listed.returncode == 0 and listed.stdout.split():
            return listed.stdout.split()[0]
    raise ValueError(
        "srun: MASTER_ADDR is not set, and `scontrol show hostnames` does not tell the first node "
        f"of SLURM_STEP_NODELIST {nodes!r}: set MASTER_ADDR to the host of task 0"
    )


def slurm_port(environment: Mapping[str, str]) -> int:
    """MASTER_PORT, else one that follows from job and step."""
    if environment.get("MASTER_PORT"):
        return read_number(environment, "MASTER_PORT")
    job, step = (
        read_number(environment, name) if name in environment else 0
        for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")
    )
    return FIRST_PORT + (job * 31 + step) % NUM_PORTS


def from_environment(environment: Mapping[str, str]) -> Place | None:
    """The place of a process that somebody else started; None if this one stands alone.

    torchrun may itself have been started by srun, so it goes first.
    """
    return from_elastic(environment) or from_slurm(environment)


def check_options(options: Any, place: Place) -> None:
    """Refuse options that start processes where they were started already.

    Raises:
        ValueError: naming option and variable.
    """
    per_machine, machines = options.num_gpus, options.num_machines
    for option, value, meant in [
        ("--num-gpus", per_machine, place.local_size),
        ("--num-machines", machines, place.world_size // place.local_size),
    ]:
        if value not in (1, meant):
            raise ValueError(
                f"{option} is {value}, but {place.source} has started {place.world_size} "
                f"processes, {place.local_size} on each machine: leave {option} out"
            )
