"""Where a process stands, by the environment that a launcher gave it."""

from __future__ import annotations

import pytest

from sciencessl.errors import ConfigError
from sciencessl.train.place import Place, find_place, first_host

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4",
            "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}
SRUN = {"SLURM_PROCID": "9", "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "123456"}


def test_a_launcher_says_where_a_process_stands() -> None:
    assert find_place({}) == Place()
    assert find_place(TORCHRUN) == Place(5, 8, 1, 4, "env://")
    assert find_place(SRUN) == Place(9, 16, 1, 8, "tcp://gpu07:23456")
    assert find_place({**SRUN, "MASTER_ADDR": "head", "MASTER_PORT": "5000"}).meeting == "tcp://head:5000"
    assert find_place({**SRUN, "SLURM_STEP_ID": "1"}).meeting == "tcp://gpu07:23553"
    assert find_place({**TORCHRUN, **SRUN}) == find_place(TORCHRUN)


def test_a_batch_script_is_one_process_whatever_the_job_has_room_for() -> None:
    assert find_place({"SLURM_NTASKS": "16", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"}) == Place()
    assert find_place({**SRUN, "SLURM_STEP_NUM_TASKS": "1"}) == Place()


def test_a_launcher_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="this process is number 9 of 8, by its environment; start all"):
        find_place({**TORCHRUN, "RANK": "9"})
    with pytest.raises(ConfigError, match="one of 8 processes, but not where they meet: set MASTER_ADDR and"):
        find_place({name: value for name, value in TORCHRUN.items() if name != "MASTER_PORT"})


@pytest.mark.parametrize(
    ("hosts", "first"),
    [("node7", "node7"), ("node[007-009,12],other", "node007"), ("a,b", "a"), ("n[3,5]", "n3"),
     ("x-[1-2]-ib", "x-1-ib")],
)
def test_the_first_host_of_a_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_a_job_step_without_a_list_of_machines_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"SLURM_STEP_NODELIST.*; set MASTER_ADDR"):
        first_host("")
