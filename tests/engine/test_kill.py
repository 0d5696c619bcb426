"""Killed at random moments: a resumed run ends as the undisturbed one, other commands leave whole
files or none.

YOLOR_D2_KILLS sets how often, and YOLOR_D2_KILL_SEED when.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from processes import Process

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
KILLS = int(os.environ.get("YOLOR_D2_KILLS", "3"))
SEED = int(os.environ.get("YOLOR_D2_KILL_SEED", "0"))
# Longest time from the first sign of training to the kill, in seconds.
LATEST = 1.5


def start(config: Path, folder: Path, *options: object) -> Process:
    """Train or go on, in a process of its own."""
    folder.mkdir(exist_ok=True)
    arguments = ["--config-file", config, "--resume", "OUTPUT_DIR", folder, *options]
    return Process([REPOSITORY / "tools" / "train_net.py", *arguments], folder / "output.txt")


def count_starts(folder: Path) -> int:
    """How often the iterations have begun, in the words of either runtime."""
    path = folder / "log.txt"
    if not path.exists():
        return 0
    return len(re.findall("Starting training from|Training iterations", path.read_text()))


def load(folder: Path) -> dict:
    """The last checkpoint of a run that has come to its end."""
    assert (folder / "model_final.pth").is_file()
    return torch.load(folder / (folder / "last_checkpoint").read_text(), weights_only=True)


@pytest.mark.parametrize("variant", ["yolor_ssss_s2d", "yolov7_w6"])
def test_kill_at_random_moments(cfg, tmp_path, variant):
    """One network with auxiliary heads and an assignment that follows what is predicted."""
    node = cfg.MODEL.YOLOR
    if variant == node.VARIANT:
        node.WIDTH_FACTOR = 1.0  # large checkpoints
    else:
        node.VARIANT, node.WIDTH_FACTOR, node.DEPTH_FACTOR = variant, 0.125, 0.25
        node.ASSIGN.KIND, node.ASSIGN.TOP_IOUS = "ota", 20
    cfg.DATASETS.TEST = ()
    # A checkpoint takes longer than the iteration before it, so that many kills hit one.
    cfg.SOLVER.CHECKPOINT_PERIOD = 2
    cfg.SOLVER.MAX_ITER = 10 * (KILLS + 1)
    cfg.SOLVER.EMA.RAMP = 5
    config = tmp_path / "given.yaml"
    config.write_text(cfg.dump(), encoding="utf-8")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    process = start(config, undisturbed, "SOLVER.CHECKPOINT_PERIOD", 100000)
    assert process.wait() == 0, (undisturbed / "output.txt").read_text()[-4000:]
    expected = load(undisturbed)
    shutil.rmtree(undisturbed)

    chance = random.Random(SEED)
    hits, torn = 0, 0
    for _ in range(KILLS):
        process = start(config, killed)
        before = count_starts(killed)
        while process.poll() is None and count_starts(killed) == before:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, LATEST))
        process.kill()
        assert process.wait() in (-9, 0), (killed / "output.txt").read_text()[-4000:]
        hits += process.returncode == -9
        torn += len(list(killed.glob("*.tmp")))
        # Each has 110 MB; the two newest are more than a run needs.
        for path in sorted(killed.glob("model_0*.pth"))[:-2]:
            path.unlink()
    process = start(config, killed)
    assert process.wait() == 0, (killed / "output.txt").read_text()[-4000:]

    found = load(killed)
    assert found["iteration"] == expected["iteration"]
    for name, value in expected["model"].items():
        assert torch.equal(found["model"][name], value), name
    raw, found_raw = (x["trainer"]["hooks"]["EMAHook"]["raw"] for x in (expected, found))
    for name, value in raw.items():
        assert torch.equal(found_raw[name], value), name
    assert not list(killed.glob("*.tmp"))
    assert hits > 0
    print(f"{hits} kills, {torn} of them left a torn temporary file")


def run_command(script: str, *arguments: object) -> Process:
    """A command in a process of its own, silent."""
    return Process([REPOSITORY / "tools" / script, *arguments], Path(os.devnull))


def check_whole(folder: Path, names: list[str]) -> int:
    """Check the files of a folder that have their final name; returns how many there are."""
    found = [folder / name for name in names if (folder / name).exists()]
    for path in found:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            json.loads(text)
        else:
            assert text.rstrip().endswith("</html>"), path
    return len(found)


@pytest.mark.parametrize("command", ["evaluation", "repair"])
def test_killed_commands_leave_whole_files_or_none(cfg, toy, tmp_path, command):
    """Evaluation with its report, and the repair of a data set, by SIGTERM and SIGKILL in turn."""
    folder = tmp_path / "out"
    folder.mkdir()
    if command == "repair":
        data = json.loads(toy.train_json.read_text())
        data["annotations"][0]["bbox"][2] = -1  # something to repair
        source = tmp_path / "train.json"
        source.write_text(json.dumps(data))
        images = toy.train_images
        arguments = ["check_dataset.py", "--train", source, images, "--fix", folder / "fixed.json"]
        arguments += ["--json", folder / "found.json", "--quiet"]
        names = ["fixed.json", "fixed.changes.json", "found.json"]
    else:
        from yolor_d2.d2.modeling import build_model

        torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
        cfg.TEST.REPORT = True
        config = tmp_path / "given.yaml"
        config.write_text(cfg.dump(), encoding="utf-8")
        arguments = ["train_net.py", "--config-file", config, "--eval-only", "OUTPUT_DIR", folder]
        arguments += ["MODEL.WEIGHTS", tmp_path / "model.pth"]
        names = ["report.html", "report.json", "inference/evaluation.json"]

    begin = time.monotonic()
    assert run_command(*arguments).wait() in (0, 1)  # 1: the source has an error
    duration = time.monotonic() - begin
    written = {path.name for path in folder.rglob("*") if path.is_file()}
    assert check_whole(folder, names) >= 2, written
    shutil.rmtree(folder)

    chance = random.Random(SEED)
    hits = whole = 0
    kills = max(KILLS // 3, 1)  # each costs a whole start of the command
    for i in range(kills):
        folder.mkdir(exist_ok=True)
        process = run_command(*arguments)
        # Nearly all of the time goes before the first file.
        time.sleep(duration * chance.choice([chance.uniform(0.2, 0.7), chance.uniform(0.7, 1.0)]))
        process.send_signal(signal.SIGKILL if i % 2 else signal.SIGTERM)
        hits += process.wait() not in (0, 1)
        whole += check_whole(folder, names)
        if chance.random() < 0.5:
            shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    assert run_command(*arguments).wait() in (0, 1)
    assert check_whole(folder, names) >= 2
    assert hits > 0 or kills < 5  # how long a command takes varies
    print(f"{command}: {hits} of {kills} kills in time, {whole} files found whole")
