"""Trainings of several processes, as people start them, on the CPU; and what is left of them.

YOLOR_D2_KILLS sets how often a process is killed, and YOLOR_D2_KILL_SEED when. Each test takes many
seconds to start its processes, so variants of what others test run with YOLOR_D2_PROCESSES=all.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import processes
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import numpy as np
import torch
from many_processes import Run, torchrun

from yolor_d2.d2 import RUNTIME
from yolor_d2.data.loader import build_train_loader
from yolor_d2.data.sampler import epoch_order
from yolor_d2.engine import Trainer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
]
needs_detectron2 = pytest.mark.skipif(
    RUNTIME != "detectron2", reason="several processes need Detectron2"
)

variant = pytest.mark.skipif(
    os.environ.get("YOLOR_D2_PROCESSES") != "all", reason="YOLOR_D2_PROCESSES=all runs variants too"
)

KILLS = int(os.environ.get("YOLOR_D2_KILLS", "2"))
SEED = int(os.environ.get("YOLOR_D2_KILL_SEED", "0"))
# Longest time from the first sign of training to the kill, in seconds.
LATEST = 2.0


@pytest.fixture
def shared(cfg):
    """Iterations of four images."""
    cfg.DATASETS.TEST = ()
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = 4, 4, 100000
    return cfg


@pytest.fixture
def options(shared, tmp_path) -> list[object]:
    """Options of tools/train_net.py for this configuration as it is when they are used."""

    class Options(list):
        def __iter__(self):
            path = tmp_path / "given.yaml"
            path.write_text(shared.dump(), encoding="utf-8")
            return iter(["--config-file", path])

    return Options()


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """See `torchrun`."""
    return processes.write_program(tmp_path_factory.mktemp("bin"), "python")


def started_trainings(folder: Path) -> int:
    return (folder / "log.txt").read_text().count("Starting training from")


def distance(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """Greatest difference, as a fraction of the greatest gradient."""
    assert left.keys() == right.keys()
    scale = max(value.abs().max().item() for value in left.values())
    return max((left[name] - right[name]).abs().max().item() for name in left) / scale


def loaded(folder: Path) -> list[tuple[int, int, int, list]]:
    """(iteration, process, number of processes, samples) that were loaded, see many_processes."""
    lines = [x for path in folder.glob("loaded_*.jsonl") for x in path.read_text().splitlines()]
    return sorted(tuple(json.loads(x)) for x in lines)


def gradients_of_one_process(cfg, parts: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Sum over parts of the first batch, each given by the positions of its samples."""
    batch = next(iter(build_train_loader(cfg)))
    torch.manual_seed(max(cfg.SEED, 0))
    model = Trainer.build_model(cfg).train()
    weights = torch.load(Path(cfg.OUTPUT_DIR) / "start.pth", weights_only=True)
    model.load_state_dict(weights)
    for part in parts:
        sum(model([batch[position] for position in part]).values()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@needs_detectron2
@pytest.mark.parametrize(
    "way",
    [
        "torchrun 2",
        pytest.param("torchrun 4", marks=variant),
        "num-gpus 2",
        pytest.param("srun 2", marks=variant),
    ],
)
def test_one_training_with_the_gradients_of_one_process(shared, options, way, python):
    name, count = way.split()
    folder = Path(shared.OUTPUT_DIR)
    folder.mkdir()
    torch.save(Trainer.build_model(shared).state_dict(), folder / "start.pth")
    shared.MODEL.WEIGHTS = str(folder / "start.pth")
    do = {"gradients": True, "record": True}
    if name == "srun":
        runs = [
            Run(folder, options, do=do, environment=slurm_task(rank, int(count)))
            for rank in range(int(count))
        ]
    elif name == "torchrun":
        runs = [Run(folder, options, command=torchrun(int(count), python=python), do=do)]
    else:
        runs = [Run(folder, [*options, "--num-gpus", count, "--dist-url", "auto"], do=do)]
    for run in runs:
        with run:
            assert run.wait() == 0, run.output()[-6000:]
            assert not run.wait_until_empty(5)
    assert started_trainings(folder) == 1
    rows = loaded(folder)
    assert len(rows) == 4 * int(count) and {row[2] for row in rows} == {int(count)}
    parts = [[position for position, _ in row[3]] for row in rows if row[0] == 0]
    assert sorted(position for part in parts for position in part) == [0, 1, 2, 3]
    found = torch.load(folder / "gradients.pth", weights_only=True)
    assert distance(found, gradients_of_one_process(shared, parts)) < 1e-5
    assert distance(found, gradients_of_one_process(shared, [range(4)])) > 1e-2


def slurm_task(rank: int, count: int) -> dict[str, str]:
    """What srun tells a task of a step on one node."""
    return {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_TASKS_PER_NODE": str(count),
    }


@needs_detectron2
def test_two_agents_as_on_two_machines(shared, options, python):
    folder = Path(shared.OUTPUT_DIR)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    meet = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"]
    meet += ["--local-addr=127.0.0.1", "--rdzv-id=test"]
    do = {"record": True}
    # Of two agents on one machine both would want to be where they meet.
    first_agent, second_agent = (
        torchrun(2, *meet, f"--rdzv-conf=is_host={is_host}", python=python)
        for is_host in (True, False)
    )
    with (
        Run(folder, options, command=first_agent, do=do) as first,
        Run(folder, options, command=second_agent, do=do) as second,
    ):
        assert first.wait() == 0, first.output()[-6000:]
        assert second.wait() == 0, second.output()[-6000:]
    assert started_trainings(folder) == 1
    assert {row[2] for row in loaded(folder)} == {4}


@needs_detectron2
@variant
def test_two_machines_by_hand(shared, options):
    folder = Path(shared.OUTPUT_DIR)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{found.getsockname()[1]}"
    words = ["--num-machines", 2, "--dist-url", url, "--machine-rank"]
    do = {"record": True}
    with (
        Run(folder, [*options, *words, 1], do=do) as second,
        Run(folder, [*options, *words, 0], do=do) as first,
    ):
        assert first.wait() == 0, first.output()[-6000:]
        assert second.wait() == 0, second.output()[-6000:]
    assert started_trainings(folder) == 1
    assert {row[2] for row in loaded(folder)} == {2}


@needs_detectron2
def test_evaluation_under_torchrun(shared, options, cfg, python):
    shared.DATASETS.TEST = (cfg.DATASETS.TRAIN[0],)
    shared.MODEL.YOLOR.SCORE_THRESHOLD = 1e-6  # something to evaluate
    folder = Path(shared.OUTPUT_DIR)
    folder.mkdir()
    torch.save({"model": Trainer.build_model(shared).state_dict()}, folder / "start.pth")
    shared.MODEL.WEIGHTS = str(folder / "start.pth")
    results = []
    for command in (torchrun(2, python=python), [python]):
        with Run(folder, [*options, "--eval-only"], command=command) as run:
            assert run.wait() == 0, run.output()[-6000:]
            assert not run.wait_until_empty(5)
        results.append(json.loads(next(folder.rglob("evaluation.json")).read_text())["figures"])
    assert results[0] == results[1]


@needs_detectron2
def test_a_run_goes_on_with_other_numbers_of_processes(shared, options, python):
    """2, then 4, then 1: no sample twice, none left out."""
    shared.SOLVER.MAX_ITER, shared.SOLVER.CHECKPOINT_PERIOD = 9, 3
    folder = Path(shared.OUTPUT_DIR)
    for number, end in [(2, 3), (4, 6), (1, 9)]:
        arguments = [*options, "--resume"]
        command = torchrun(number, python=python) if number > 1 else [python]
        # The schedule stays that of the whole run: the processes are stopped.
        with Run(folder, arguments, command=command, do={"record": True, "slow": 0.5}) as run:
            if end < 9:
                run.wait_for(f"TEST: iteration {end - 1} done")
                os.kill(min(run.ranks().values()), signal.SIGTERM)
                run.wait()
            else:
                assert run.wait() == 0, run.output()[-6000:]
            assert not run.wait_until_empty(10)
    rows = loaded(folder)
    counts = {iteration: {row[2] for row in rows if row[0] == iteration} for iteration in range(9)}
    assert {len(x) for x in counts.values()} == {1}
    assert set.union(*counts.values()) == {1, 2, 4}
    samples = sorted(tuple(x) for row in rows for x in row[3])
    assert [position for position, _ in samples] == list(range(9 * 4))
    dataset = build_train_loader(shared).training_set
    order = np.concatenate([epoch_order(dataset.seed, epoch, len(dataset)) for epoch in range(2)])
    names = [Path(dataset.file_name(index)).name for index in order[: 9 * 4]]
    assert [name for _, name in samples] == names


def load_last(folder: Path) -> dict:
    """The last checkpoint of a run that has come to its end."""
    assert (folder / "model_final.pth").is_file()
    return torch.load(folder / (folder / "last_checkpoint").read_text(), weights_only=True)


def thin_out(folder: Path) -> None:
    """Keep the newest checkpoints, each of which has 110 MB."""
    for path in sorted(folder.glob("model_0*.pth"))[:-2]:
        path.unlink()


@needs_detectron2
def test_killed_at_random_moments_under_max_restarts(shared, options, python):
    shared.SOLVER.CHECKPOINT_PERIOD = 2
    shared.SOLVER.MAX_ITER = 12 * (KILLS + 1)
    shared.SOLVER.EMA.RAMP = 5
    root = Path(shared.OUTPUT_DIR).parent
    undisturbed, killed = root / "undisturbed", root / "killed"
    extra = ["SOLVER.CHECKPOINT_PERIOD", 100000]
    with Run(undisturbed, [*options, *extra], command=torchrun(2, python=python)) as run:
        assert run.wait(600) == 0, run.output()[-6000:]
        assert not run.wait_until_empty(5)
    expected = load_last(undisturbed)
    shutil.rmtree(undisturbed)

    chance = random.Random(SEED)
    command = torchrun(2, "--standalone", f"--max-restarts={KILLS}", python=python)
    with Run(killed, [*options, "--resume"], command=command) as run:
        for number in range(KILLS):
            end = time.monotonic() + 120
            # Of each start two lines, of which the last two are those of the living.
            while run.output().count("TEST: process ") < 2 * (number + 1):
                assert run.process.poll() is None and time.monotonic() < end, run.output()[-6000:]
                time.sleep(0.02)
            time.sleep(chance.uniform(0, LATEST))
            os.kill(run.ranks()[chance.randrange(2)], signal.SIGKILL)
            thin_out(killed)
        end = time.monotonic() + 60 * (KILLS + 1)
        while run.process.poll() is None:
            assert time.monotonic() < end, run.output()[-6000:]
            thin_out(killed)
            time.sleep(0.5)
        assert run.process.returncode == 0, run.output()[-6000:]
        assert not run.wait_until_empty(5)
    found = load_last(killed)
    assert found["iteration"] == expected["iteration"]
    for name, value in expected["model"].items():
        assert torch.equal(found["model"][name], value), name
    raw, found_raw = (x["trainer"]["hooks"]["EMAHook"]["raw"] for x in (expected, found))
    for name, value in raw.items():
        assert torch.equal(found_raw[name], value), name
    assert not list(killed.glob("*.tmp"))
    assert run.output().count("TEST: process ") == 2 * (KILLS + 1)


@needs_detectron2
@pytest.mark.parametrize("way", ["torchrun", pytest.param("num-gpus", marks=variant)])
def test_nothing_outlives_a_killed_launcher(shared, options, way):
    shared.SOLVER.MAX_ITER, shared.DATALOADER.NUM_WORKERS = 100000, 2
    folder = Path(shared.OUTPUT_DIR)
    extra = ["--num-gpus", 2, "--dist-url", "auto"] if way == "num-gpus" else []
    command = torchrun(2) if way == "torchrun" else ()
    with Run(folder, [*options, *extra], command=command) as run:
        run.wait_for("TEST: iteration 3 done")
        assert len(run.processes()) >= 7  # launcher, two processes, four workers
        os.kill(run.process.pid, signal.SIGKILL)
        assert not run.wait_until_empty(20)
        # They had SIGTERM, and finished their iteration.
        assert "SIGTERM: stopped after" in run.output()
        assert list(folder.glob("model_0*.pth"))


@needs_detectron2
@variant
@pytest.mark.parametrize("way", ["torchrun", "num-gpus"])
@pytest.mark.parametrize("delay", [0, 3])
def test_nothing_outlives_a_launcher_killed_at_the_start(shared, options, way, delay):
    """The processes may not know yet that they have to follow it."""
    shared.SOLVER.MAX_ITER = 100000
    extra = ["--num-gpus", 2, "--dist-url", "auto"] if way == "num-gpus" else []
    command = torchrun(2) if way == "torchrun" else ()
    with Run(Path(shared.OUTPUT_DIR), [*options, *extra], command=command) as run:
        end = time.monotonic() + 60
        while len(run.processes()) < 3:
            assert time.monotonic() < end, run.output()[-6000:]
            time.sleep(0.05)
        time.sleep(delay)
        os.kill(run.process.pid, signal.SIGKILL)
        assert not run.wait_until_empty(60)


@needs_detectron2
@variant
def test_a_dead_launcher_and_a_process_that_does_not_answer(shared, options):
    """The processes cannot finish their iteration, as one of them is stopped."""
    shared.SOLVER.MAX_ITER = 100000
    with Run(Path(shared.OUTPUT_DIR), options, command=torchrun(2)) as run:
        run.wait_for("TEST: iteration 3 done")
        ranks = run.ranks()
        os.kill(ranks[1], signal.SIGSTOP)
        os.kill(run.process.pid, signal.SIGKILL)
        end = time.monotonic() + 50
        while ranks[0] in run.processes() and time.monotonic() < end:
            time.sleep(0.2)
        assert ranks[0] not in run.processes()
        assert "what started process 0" in run.output()


@needs_detectron2
@pytest.mark.parametrize(
    ("way", "rank"),
    [
        ("dies", 1),
        ("hangs", 0),
        *(
            pytest.param(way, rank, marks=variant)
            for way, rank in [
                ("dies", 0),
                ("hangs", 1),
                ("stopped", 0),
                ("stopped", 1),
                ("fails", 0),
                ("fails", 1),
            ]
        ),
    ],
)
def test_the_others_end_and_name_it(shared, options, way, rank, python):
    shared.SOLVER.MAX_ITER, shared.SOLVER.HANG_LIMIT = 100000, 8
    name = {"hangs": "hang", "fails": "fail"}.get(way)
    do = {name: [rank, 5]} if name else {}
    with Run(Path(shared.OUTPUT_DIR), options, command=torchrun(2, python=python), do=do) as run:
        run.wait_for("TEST: iteration 4 done")
        ranks = run.ranks()
        number = {"dies": signal.SIGKILL, "stopped": signal.SIGSTOP}.get(way)
        if number is not None:
            os.kill(ranks[rank], number)
        begin = time.monotonic()
        other = ranks[1 - rank]
        while other in run.processes():
            assert time.monotonic() < begin + 60, run.output()[-6000:]
            time.sleep(0.1)
        if way == "stopped":  # torchrun would wait for half a minute
            os.kill(ranks[rank], signal.SIGCONT)
        assert run.wait() != 0
        assert not run.wait_until_empty(5)
        words = {
            "dies": "has died",
            "hangs": "hangs, and the others wait for it",
            "stopped": "has been stopped for",
            "fails": "has ended: ImageReadError: the disk of this machine is gone",
        }[way]
        lines = [x for x in run.output().splitlines() if words in x]
        assert lines, run.output()[-6000:]
        named = f"process {rank} (host {socket.gethostname()}, process id {ranks[rank]};"
        assert any(named in line for line in lines), lines


@needs_detectron2
@variant
def test_long_work_of_one_process_ends_nobody(shared, options, toy_config):
    """Process 0 evaluates for longer than the limit."""
    shared.DATASETS.TEST = toy_config.DATASETS.TEST
    shared.SOLVER.HANG_LIMIT = 4
    do = {"long": [0, 0, 12]}
    with Run(Path(shared.OUTPUT_DIR), options, command=torchrun(2), do=do) as run:
        assert run.wait() == 0, run.output()[-6000:]


@needs_detectron2
def test_a_second_training_into_the_folder_is_refused(shared, options, python):
    shared.SOLVER.MAX_ITER = 100000
    folder = Path(shared.OUTPUT_DIR)
    command = torchrun(2, python=python)
    # Slow, as the other command has the same cores.
    with Run(folder, options, command=command, do={"slow": 0.5}) as first:
        first.wait_for("TEST: iteration 1 done")
        log = (folder / "config.yaml").stat().st_mtime_ns
        with Run(folder, options, command=command) as second:
            assert second.wait() != 0
            text = second.output()
            assert f"OUTPUT_DIR {str(folder)!r} is in use" in text
            assert f"pid {first.ranks()[0]}," in text and "many_processes.py" in text
        assert (folder / "config.yaml").stat().st_mtime_ns == log
        os.kill(first.ranks()[0], signal.SIGTERM)
        first.wait()
    assert started_trainings(folder) == 1


@needs_detectron2
def test_a_batch_that_cannot_be_shared(shared, options, python):
    shared.SOLVER.IMS_PER_BATCH = 3
    with Run(Path(shared.OUTPUT_DIR), options, command=torchrun(2, python=python)) as run:
        assert run.wait() != 0
        assert "SOLVER.IMS_PER_BATCH is 3, but 2 processes share a batch" in run.output()


@pytest.mark.skipif(RUNTIME != "builtin", reason="Detectron2 has several processes")
def test_the_builtin_runtime_refuses_torchrun(shared, options):
    with Run(Path(shared.OUTPUT_DIR), options, command=torchrun(2)) as run:
        assert run.wait() != 0
        assert "the built-in runtime works in one process, not 2" in run.output()
    assert not (Path(shared.OUTPUT_DIR) / "log.txt").exists()
