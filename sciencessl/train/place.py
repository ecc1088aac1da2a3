"""Where a launcher put a process: what `torchrun`, `srun` or our own launcher says in the environment.

Without torch, so that a command line that fails can ask.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sciencessl.errors import ConfigError

PORTS = (20000, 12000)
"""First port that a SLURM job step meets on, and how many there are, below those that systems give away: chosen by the
numbers of job and step."""


@dataclass(frozen=True)
class Place:
    """Where a launcher put this process.

    Attributes:
        rank: Of the process, from 0.
        world: Processes of the run.
        local_rank: Of the process on its machine, from 0.
        local_world: Processes on its machine.
        meeting: Where they meet, as torch writes it.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    meeting: str = ""


NOWHERE = Place()
"""Started by no launcher: one process."""


def find_place(environ: Mapping[str, str] = os.environ) -> Place:
    """What `torchrun`, `srun` or our own launcher says in the environment; a place alone without one.

    A batch script of SLURM is one process, whatever the job has room for: only what `srun` starts counts.

    Args:
        environ: Environment variables.

    Raises:
        ConfigError: When they contradict each other, or leave out where the processes meet.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        world = int(environ["WORLD_SIZE"])
        local = int(environ.get("LOCAL_RANK", 0)), int(environ.get("LOCAL_WORLD_SIZE", 1))
        found = Place(int(environ["RANK"]), world, *local, "env://")
    elif int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        found = _slurm_place(environ)
    else:
        return NOWHERE
    if not 0 <= found.rank < found.world:
        raise ConfigError(f"this process is number {found.rank} of {found.world}, by its environment; start all "
                          "processes with one launcher: torchrun, srun, or --processes.")
    if found.world > 1 and found.meeting == "env://" and not ("MASTER_ADDR" in environ and "MASTER_PORT" in environ):
        raise ConfigError(f"RANK and WORLD_SIZE say that this is one of {found.world} processes, but not where they "
                          "meet: set MASTER_ADDR and MASTER_PORT, as torchrun does, or unset these two.")
    return found


def _slurm_place(environ: Mapping[str, str]) -> Place:
    world, local = int(environ["SLURM_STEP_NUM_TASKS"]), int(environ.get("SLURM_LOCALID", 0))
    nodes = max(1, int(environ.get("SLURM_STEP_NUM_NODES", 1)))
    host = environ.get("MASTER_ADDR") or first_host(environ.get("SLURM_STEP_NODELIST", ""))
    job = int(environ.get("SLURM_JOB_ID", 0)) + 97 * int(environ.get("SLURM_STEP_ID", 0))
    port = int(environ.get("MASTER_PORT") or PORTS[0] + job % PORTS[1])
    return Place(int(environ["SLURM_PROCID"]), world, local, max(1, world // nodes), f"tcp://{host}:{port}")


def first_host(hosts: str) -> str:
    """The first host of a list as SLURM writes it: `node[007-009,12],other` begins with `node007`.

    Raises:
        ConfigError: For an empty list.
    """
    found = re.match(r"([^,\[]+)(?:\[([^\]]*)\]([^,]*))?", hosts)
    if found is None:
        raise ConfigError("SLURM does not say which machines a job step has (SLURM_STEP_NODELIST); set MASTER_ADDR to "
                          "the first of them.")
    stem, numbers, rest = found.groups()
    return stem + (re.split("[-,]", numbers)[0] if numbers else "") + (rest or "")
