"""A task that nobody has heard of: two files, one row, and nothing else."""

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from modeling.test_meta_arch import LOSSES, ONE_BOX, build, build_finder, find, sample
from own_task.task import AreaTask

from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.config import get_yolor_cfg
from yolor_d2.engine import Trainer
from yolor_d2.tasks import TASKS

ON = ("MODEL.YOLOR.TASKS.AREA.ENABLED", True)


@pytest.fixture(autouse=True)
def row(monkeypatch):
    monkeypatch.setitem(TASKS, "area", AreaTask())


def test_it_is_off_until_it_is_switched_on():
    assert not build().tasks and len(build(*ON).tasks) == 1


def test_it_is_trained_and_found():
    model = build(*ON)
    losses = model([sample(ONE_BOX), sample([])])
    assert list(losses) == [*LOSSES, "loss_area"]
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.tasks.area.parameters())
    (found,) = find(build_finder(*ON), sample([]))
    assert len(found) and found.pred_areas.shape == (len(found),)


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


def test_it_is_kept_and_evaluated(tmp_path):
    model = build(*ON)
    YOLORCheckpointer(model, str(tmp_path)).save("model")
    other = build(*ON)
    YOLORCheckpointer(other, strict=True).load(str(tmp_path / "model.pth"))
    assert torch.equal(other.tasks.area.predict[0].weight, model.tasks.area.predict[0].weight)
    with pytest.raises(ValueError, match=r"MODEL\.YOLOR\.TASKS"):
        YOLORCheckpointer(build(), strict=True).load(str(tmp_path / "model.pth"))
    cfg = get_yolor_cfg()
    cfg.MODEL.YOLOR.TASKS.AREA.ENABLED = True
    names = [type(x).__name__ for x in TASKS["area"].evaluators(cfg, "any", tmp_path)]
    assert names == ["AreaEvaluator"] and Trainer is not None
