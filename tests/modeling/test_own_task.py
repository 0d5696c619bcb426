"""A task that nobody has heard of: the two files of docs/extending.md, one row, nothing else."""

import importlib
import re
import sys
from pathlib import Path

import processes
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from modeling.test_meta_arch import LOSSES, ONE_BOX, build, build_finder, find, sample

from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.tasks import TASKS, Task, register_task

ON = ("MODEL.YOLOR.TASKS.AREA.ENABLED", True)
ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```python\n# (area_\w+\.py)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With the two files, imported."""
    folder = tmp_path_factory.mktemp("task")
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    for name, text in BLOCK.findall(page):
        (folder / name).write_text(text, encoding="utf-8")
    assert len(list(folder.iterdir())) == 2
    known = dict(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        importlib.import_module("area_task")
        yield folder
    TASKS.clear()
    TASKS.update(known)
    for name in ("area_task", "area_branch"):
        del sys.modules[name]


pytestmark = pytest.mark.usefixtures("folder")


def test_it_is_off_until_it_is_switched_on():
    assert not build().tasks and len(build(*ON).tasks) == 1


@pytest.mark.heavy
def test_it_is_trained_and_found():
    model = build(*ON)
    losses = model([sample(ONE_BOX), sample([])])
    assert list(losses) == [*LOSSES, "loss_area"]
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.tasks.area.parameters())
    (found,) = find(build_finder(*ON), sample([]))
    assert len(found) and found.pred_areas.shape == (len(found),)


@pytest.mark.heavy
def test_it_learns():
    """Alone, on a frozen rest."""
    model = build(*ON, "MODEL.YOLOR.TASKS.AREA.GAIN", 1.0)
    for parameter in [*model.backbone.parameters(), *model.head.parameters()]:
        parameter.requires_grad_(False)
    optimizer = torch.optim.Adam(model.tasks.parameters(), lr=0.1)
    batch = [sample(ONE_BOX), sample(ONE_BOX)]
    seen = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = model(batch)["loss_area"]
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < seen[0] / 2


@pytest.mark.heavy
def test_it_is_kept_and_evaluated(tmp_path):
    model = build(*ON)
    YOLORCheckpointer(model, str(tmp_path)).save("model")
    other = build(*ON)
    YOLORCheckpointer(other, strict=True).load(str(tmp_path / "model.pth"))
    assert torch.equal(other.tasks.area.predict[0].weight, model.tasks.area.predict[0].weight)
    with pytest.raises(ValueError, match=r"MODEL\.YOLOR\.TASKS"):
        YOLORCheckpointer(build(), strict=True).load(str(tmp_path / "model.pth"))


def test_another_task_does_not_take_its_name():
    class Other(Task):
        name = "area"

    with pytest.raises(ValueError, match="'area' is AreaTask already"):
        register_task(Other())


@pytest.mark.slow
def test_the_command_trains_and_evaluates_it(folder, toy, tmp_path):
    command = ["-m", "yolor_d2", "train", "--import", "area_task"]
    command += ["--config-file", "quick/toy_cpu.yaml"]
    command += ["--train", toy.train_json, toy.train_images, "--val", toy.val_json, toy.val_images]
    opts = {
        **{"OUTPUT_DIR": tmp_path / "run", ON[0]: ON[1], "SOLVER.MAX_ITER": 3},
        **{"SOLVER.WARMUP_ITERS": 1, "INPUT.MAX_SIZE_TRAIN": 64, "INPUT.MIN_SIZE_TRAIN": "(64,)"},
        **{"INPUT.MAX_SIZE_TEST": 64, "INPUT.MIN_SIZE_TEST": 64, "MODEL.YOLOR.WIDTH_FACTOR": 0.25},
        **{"SOLVER.IMS_PER_BATCH": 2, "TEST.REPORT": False, "DATALOADER.NUM_WORKERS": 0},
    }
    command += [word for pair in opts.items() for word in pair]
    done = processes.run(command, cwd=folder, fresh=True)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = (tmp_path / "run" / "metrics.json").read_text()
    assert '"loss_area"' in metrics and '"area/error"' in metrics
