"""Who started this process, by its environment and options."""

from __future__ import annotations

import argparse
import os
import stat

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.d2 import RUNTIME
from yolor_d2.engine.distributed.launch import launch, read_device
from yolor_d2.engine.distributed.place import (
    ELASTIC,
    ELASTIC_SIGNS,
    Place,
    check_options,
    from_environment,
)

needs_detectron2 = pytest.mark.skipif(RUNTIME != "detectron2", reason="several processes")

# Of the second process on the second machine, as torchrun and srun give them.
TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none",
}
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "MASTER_ADDR": "gpu003",
}


def options(**given: object) -> argparse.Namespace:
    defaults = dict(num_gpus=1, num_machines=1, machine_rank=0, dist_url="auto")
    return argparse.Namespace(
        **{**defaults, "config_file": "quick/ssss_320_cpu.yaml", "opts": [], **given}
    )


def test_torchrun():
    place = from_environment(TORCHRUN)
    assert (place.rank, place.world_size, place.local_rank, place.local_size) == (3, 4, 1, 2)
    assert place.url == "tcp://10.0.0.1:29500"
    assert from_environment({**TORCHRUN, "MASTER_ADDR": "::1"}).url == "tcp://[::1]:29500"
    # torchrun that srun has started, once on each node.
    assert from_environment({**SRUN, **TORCHRUN}).url == "tcp://10.0.0.1:29500"
    assert from_environment({}) is None
    # As an operator of a cluster sets it for a job of one process.
    assert from_environment({"RANK": "0", "WORLD_SIZE": "1"}) is None


@pytest.mark.parametrize("missing", ELASTIC)
def test_torchrun_in_part(missing):
    given = {name: value for name, value in TORCHRUN.items() if name != missing}
    with pytest.raises(ValueError, match=f"TORCHELASTIC_RUN_ID is set.* not {missing}: .*unset"):
        from_environment(given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": "three"}, "RANK is 'three', expected a whole number"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT is 'x', expected a whole number"),
        ({"RANK": "4"}, "process 4 of 4.* contradict each other"),
        ({"WORLD_SIZE": "5"}, "WORLD_SIZE is no multiple of LOCAL_WORLD_SIZE"),
        ({"LOCAL_RANK": "0"}, "must have consecutive numbers"),
    ],
)
def test_torchrun_with_contradictions(changes, message):
    with pytest.raises(ValueError, match=message):
        from_environment({**TORCHRUN, **changes})


def test_srun():
    place = from_environment(SRUN)
    assert (place.rank, place.world_size, place.local_rank, place.local_size) == (3, 4, 1, 2)
    assert place.url == f"tcp://gpu003:{12000 + 4711 * 31 % 20000}"
    # Two steps of one job do not meet, unless the user says so.
    other = from_environment({**SRUN, "SLURM_STEP_ID": "1"})
    assert other.url == f"tcp://gpu003:{12000 + (4711 * 31 + 1) % 20000}"
    assert from_environment({**SRUN, "MASTER_PORT": "29400"}).url == "tcp://gpu003:29400"


def test_srun_on_one_node_needs_no_address():
    given = {**SRUN, "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "4"}
    del given["MASTER_ADDR"]
    given["SLURM_LOCALID"] = "3"
    assert from_environment(given).url.startswith("tcp://127.0.0.1:")


def test_scontrol_names_the_first_node(tmp_path, monkeypatch):
    """A stand-in for SLURM's command, which this machine has not."""
    command = tmp_path / "scontrol"
    command.write_text(
        '#!/bin/sh\n[ "$*" = "show hostnames gpu[003-004]" ] && echo gpu003 gpu004\n'
    )
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    given = {name: value for name, value in SRUN.items() if name != "MASTER_ADDR"}
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert from_environment(given).url.startswith("tcp://gpu003:")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match=r"MASTER_ADDR is not set.*gpu\[003-004\]"):
        from_environment(given)


def test_an_allocation_is_not_a_step():
    """In a batch script, and in the shells of salloc and srun --pty, there is one process."""
    batch = {name: SRUN[name] for name in ("SLURM_JOB_ID", "SLURM_NTASKS")} | {"SLURM_PROCID": "0"}
    assert from_environment(batch) is None
    shell = {**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_ID": "4294967290"}
    assert from_environment(shell) is None
    assert from_environment({**SRUN, "SLURM_PTY_PORT": "40000"}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "3,1"}, "SLURM_STEP_TASKS_PER_NODE is '3,1'"),
        ({"SLURM_LOCALID": "0"}, "--distribution=block"),
        ({"SLURM_STEP_NUM_TASKS": "x"}, "SLURM_STEP_NUM_TASKS is 'x'"),
    ],
)
def test_srun_with_contradictions(changes, message):
    with pytest.raises(ValueError, match=message):
        from_environment({**SRUN, **changes})


def test_options_beside_a_launcher():
    place = from_environment(TORCHRUN)
    check_options(options(), place)
    check_options(options(num_gpus=2, num_machines=2), place)
    with pytest.raises(ValueError, match=r"--num-gpus is 4, but torchrun.* 2 on each machine"):
        check_options(options(num_gpus=4), place)
    with pytest.raises(ValueError, match="--num-machines is 3"):
        check_options(options(num_machines=3), place)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(num_gpus=0, num_machines=2), "--num-gpus is 0"),
        (dict(num_gpus=2, machine_rank=1), "--machine-rank is 1, expected 0 to 0"),
        (dict(num_gpus=2, num_machines=2), "--dist-url is 'auto'"),
    ],
)
@needs_detectron2
def test_counts(given, message, monkeypatch):
    for name in [*ELASTIC_SIGNS, "SLURM_STEP_NUM_TASKS"]:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=message):
        launch(print, options(**given))


def test_a_gpu_of_ones_own(cfg):
    assert read_device(cfg, 2) == "cpu"
    cfg.MODEL.DEVICE = "cuda:1"
    with pytest.raises(ValueError, match=r"MODEL.DEVICE is 'cuda:1'.*give 'cuda'"):
        read_device(cfg, 2)


def test_fewer_gpus_than_processes(cfg, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    cfg.MODEL.DEVICE = "cuda"
    assert read_device(cfg, 2) == "cuda"
    with pytest.raises(ValueError, match=r"4 processes on this machine.* it has 2 GPUs"):
        read_device(cfg, 4)


@pytest.mark.skipif(RUNTIME != "builtin", reason="Detectron2 has several processes")
def test_the_builtin_runtime_refuses_a_launcher(monkeypatch):
    called = []
    monkeypatch.setattr(
        "yolor_d2.engine.distributed.launch.follow_launcher", lambda parent, by_kernel: None
    )
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=r"works in one process, not 4.*pip install"):
        launch(called.append, options())
    for name, value in {"RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    launch(called.append, options())
    assert len(called) == 1


def test_places_name_who_made_them():
    with pytest.raises(ValueError, match="by hand: process 2 of 2"):
        Place(2, 2, 0, 1, "tcp://localhost:1", "by hand")
