"""Starts trainings of several processes for tests, and finds out what is left of them.

As a script it is `tools/train_net.py` with more: what the environment variable YOLOR_D2_TEST_DO
names, a JSON object.

    {"record": true}    each process writes the positions of the samples that each iteration loads
    {"gradients": true} process 0 saves the gradients of the first iteration
    {"slow": 0.1}       an iteration takes so many seconds longer
    {"hang": [1, 3]}    process 1 does not come back from the forward pass of iteration 3
    {"fail": [1, 3]}    process 1 cannot read its images in iteration 3
    {"long": [0, 2, 9]} process 0 evaluates for 9 seconds after iteration 2
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
MARK = "YOLOR_D2_TEST_MARK"
DO = "YOLOR_D2_TEST_DO"


class Run:
    """A command and all processes that it has started, now or through others.

    Args:
        folder: OUTPUT_DIR; what the processes print is in its output.txt.
        command: the launcher; None starts this file alone.
        options: of tools/train_net.py.
        do: see this module.
        environment: more variables.
    """

    def __init__(
        self,
        folder: Path,
        options: Sequence[object],
        *,
        command: Sequence[str] = (),
        do: Mapping[str, object] | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        folder.mkdir(exist_ok=True)
        self.mark = uuid.uuid4().hex
        self.log = folder / "output.txt"
        self.begin = self.log.stat().st_size if self.log.exists() else 0
        arguments = [*command, *([] if command else [sys.executable]), __file__, *options]
        arguments += ["OUTPUT_DIR", folder]
        with open(self.log, "ab") as file:
            self.process = subprocess.Popen(
                [str(x) for x in arguments],
                env={
                    **os.environ,
                    "PYTHONPATH": str(REPOSITORY),
                    "PYTHONWARNINGS": "ignore",
                    "OMP_NUM_THREADS": "1",
                    MARK: self.mark,
                    DO: json.dumps(do or {}),
                    **(environment or {}),
                },
                stdout=file,
                stderr=file,
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_error: object) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    def output(self) -> str:
        """What was printed since this start."""
        return self.log.read_bytes()[self.begin :].decode(errors="replace")

    def wait(self, seconds: float = 180) -> int:
        """The exit status of the command."""
        return self.process.wait(timeout=seconds)

    def wait_for(self, words: str, seconds: float = 120) -> None:
        """Wait until something is printed."""
        end = time.monotonic() + seconds
        while words not in self.output():
            assert self.process.poll() is None and time.monotonic() < end, self.output()[-6000:]
            time.sleep(0.02)

    def processes(self) -> dict[int, str]:
        """Command lines of the processes that are left, by process id; zombies do not count.

        Those that are forked elsewhere have another environment, and are known once they have
        printed that they train.
        """
        found = {}
        mark = f"{MARK}={self.mark}".encode()
        forked = set(self.ranks().values())
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            try:
                if mark in (folder / "environ").read_bytes() or int(folder.name) in forked:
                    text = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if text:
                        found[int(folder.name)] = text
            except (OSError, ValueError):  # gone meanwhile; zombies have neither
                continue
        return found

    def wait_until_empty(self, seconds: float) -> dict[int, str]:
        """What is left after some seconds at most; {} as soon as nothing is."""
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(0.05)
        return left

    def ranks(self) -> dict[int, int]:
        """Process ids of the training processes by number, as they have printed them."""
        found = re.findall(r"TEST: process (\d+) is (\d+)\n", self.output())
        return {int(rank): int(process) for rank, process in found}


def torchrun(processes: int, *options: str, python: Path | None = None) -> list[str]:
    """The command that starts processes on this machine.

    Args:
        processes: how many.
        options: by which they find each other.
        python: a program of `processes.write_program` that forks them, for tests to which it does
            not matter whose children they are.
    """
    agent = [sys.executable, "-m", "torch.distributed.run"]
    command = [*agent, *(options or ["--standalone"]), f"--nproc-per-node={processes}"]
    return [*command, "--no-python", str(python)] if python else command


def tell(what: str) -> None:
    """A line of its own in an output that several processes write to."""
    os.write(1, f"\nTEST: {what}\n".encode())


def prepare() -> None:
    """Change this process as YOLOR_D2_TEST_DO wants it."""
    import torch

    from yolor_d2.d2.engine import HookBase
    from yolor_d2.d2.utils import comm
    from yolor_d2.data.dataset import TrainingDataset
    from yolor_d2.engine import Trainer
    from yolor_d2.files.images import ImageReadError

    do = json.loads(os.environ.get(DO, "{}"))
    torch.set_num_threads(1)
    loaded: list[tuple[int, str]] = []

    class Doing(HookBase):
        def before_train(self) -> None:
            tell(f"process {comm.get_rank()} is {os.getpid()}")

        def at(self, name: str) -> bool:
            return do.get(name, [])[:2] == [comm.get_rank(), self.trainer.iter]

        def before_step(self) -> None:
            step = self.trainer._trainer
            if self.at("hang"):
                step.backward = lambda batch: time.sleep(1000)
            if self.at("fail"):
                raise ImageReadError("the disk of this machine is gone")

        def after_step(self) -> None:
            time.sleep(do.get("slow", 0))
            tell(f"iteration {self.trainer.iter} done")
            if do.get("gradients") and self.trainer.iter == 0 and comm.is_main_process():
                model = getattr(self.trainer.model, "module", self.trainer.model)
                gradients = {name: p.grad for name, p in model.named_parameters()}
                torch.save(gradients, Path(self.trainer.cfg.OUTPUT_DIR) / "gradients.pth")
            if do.get("record"):
                row = [self.trainer.iter, comm.get_rank(), comm.get_world_size(), loaded[:]]
                path = Path(self.trainer.cfg.OUTPUT_DIR) / f"loaded_{comm.get_rank()}.jsonl"
                with open(path, "a") as file:
                    file.write(json.dumps(row) + "\n")
                loaded.clear()

    if do.get("record"):
        load = TrainingDataset.__getitem__

        def record(self, key):
            sample = load(self, key)
            loaded.append((key[0], Path(self.file_name(key[1])).name))
            return sample

        TrainingDataset.__getitem__ = record

    if do.get("long"):
        evaluate = Trainer.test.__func__

        def test(cls, cfg, model, evaluators=None):
            from yolor_d2.engine.distributed.progress import progress

            with progress.during("evaluation"):
                if comm.get_rank() == do["long"][0]:
                    time.sleep(do["long"][2])
                return evaluate(cls, cfg, model, evaluators)

        Trainer.test = classmethod(test)

    build = Trainer.build_hooks
    Trainer.build_hooks = lambda self: [Doing(), *build(self)]


if __name__ in ("__main__", "__mp_main__"):  # also where the command itself starts processes
    prepare()
if __name__ == "__main__":
    from yolor_d2.cli import run_script

    sys.exit(run_script("train_net"))
