"""What a script of the user's gets told or kept: other trainers, classes, hooks, names, loaders."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.config import load_config
from yolor_d2.d2.data import DatasetCatalog, MetadataCatalog
from yolor_d2.d2.engine import HookBase, hooks
from yolor_d2.d2.modeling import build_model
from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.d2.utils import EventStorage
from yolor_d2.datasets.catalog import name_classes, read_class_names, register_datasets
from yolor_d2.engine import Trainer
from yolor_d2.engine.hooks import ReportHook, writers_last
from yolor_d2.modeling import first_batch

TINY = ["MODEL.DEVICE", "cpu", "MODEL.YOLOR.WIDTH_FACTOR", "0.125"]


@pytest.fixture
def told():
    """What goes to the log of the runtime."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    first_batch.logger.addHandler(handler)
    yield lines
    first_batch.logger.removeHandler(handler)


@pytest.fixture
def metadata():
    """Forgets the data sets of a test."""
    before = set(MetadataCatalog.data), set(DatasetCatalog.data)
    yield
    for catalog, names in zip((MetadataCatalog, DatasetCatalog), before):
        for name in set(catalog.data) - names:
            catalog.remove(name)


def build(*opts: str):
    return build_model(load_config("yolor_ssss_s2d.yaml", [*TINY, *opts]))


def sample(label: int) -> list[dict]:
    truth = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 40.0, 40.0]])))
    truth.gt_classes = torch.tensor([label])
    return [{"image": torch.zeros(3, 64, 64), "instances": truth}]


def test_another_trainer_is_told_once_what_it_leaves_out(told):
    model = build()
    model(sample(0))  # no training loop
    assert told == []
    with EventStorage():
        model(sample(0))
        model(sample(0))
    (line,) = told
    assert "not trained by yolor_d2.engine.Trainer" in line and "docs/detectron2.md" in line
    for key in ("SOLVER.EMA", "INPUT.AUGMENT", "SOLVER.MAX_EPOCHS"):
        assert key in line


def test_our_step_is_told_nothing(told):
    from yolor_d2.engine.step import StepTrainer

    model = build()
    step = StepTrainer(model, [sample(0)], torch.optim.SGD(model.parameters(), lr=0.0))
    with EventStorage() as step.storage:
        step.iter = 0
        step.run_step()
    assert told == []


@pytest.mark.parametrize("number", [2, 4])
def test_another_number_of_classes_is_told_before_the_first_step(number, told, metadata):
    MetadataCatalog.get("mine").thing_classes = ["a", "b", "c"]
    model = build("DATASETS.TRAIN", "('mine',)", "MODEL.YOLOR.NUM_CLASSES", str(number))
    with EventStorage():
        model(sample(0))
    (line,) = [line for line in told if "NUM_CLASSES is" in line]
    assert f"NUM_CLASSES is {number}, but data set 'mine' has 3 classes: a, b, c" in line


@pytest.mark.parametrize("label", [3, -1])
def test_an_object_beyond_the_classes_is_named(label):
    model = build("MODEL.YOLOR.NUM_CLASSES", "3")
    with pytest.raises(ValueError, match=f"class {label}, but MODEL.YOLOR.NUM_CLASSES is 3"):
        model(sample(label))


# ---- Names of classes


def test_names_of_the_configuration_reach_the_metadata(metadata):
    opts = ["DATASETS.TEST", "('other/val',)", "MODEL.YOLOR.NUM_CLASSES", "2"]
    build(*opts)
    assert MetadataCatalog.get("other/val").get("thing_classes") is None  # there are no names
    for names in (["cat", "dog"], ["Katze", "Hund"]):  # of two configurations
        build(*opts, "MODEL.YOLOR.CLASS_NAMES", str(names))
        assert MetadataCatalog.get("other/val").thing_classes == names


def test_annotations_bring_their_own_names(toy, metadata):
    cfg = load_config("yolor_ssss_s2d.yaml", TINY)
    cfg.DATASETS.REGISTER = [["names/val", str(toy.val_json), str(toy.val_images)]]
    cfg.DATASETS.TEST = ("names/val",)
    cfg.MODEL.YOLOR.NUM_CLASSES = 4
    cfg.MODEL.YOLOR.CLASS_NAMES = ["1", "2", "3", "4"]  # for pictures
    register_datasets(cfg)
    assert MetadataCatalog.get("names/val").thing_classes == ["1", "2", "3", "4"]
    assert len(DatasetCatalog.get("names/val")) == 8
    assert MetadataCatalog.get("names/val").thing_classes == read_class_names(toy.val_json)


def test_data_sets_of_others_keep_their_names(metadata):
    DatasetCatalog.register("theirs", list)
    MetadataCatalog.get("named").thing_classes = ["x", "y"]
    cfg = load_config("yolor_ssss_s2d.yaml", TINY)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("theirs",), ("named",)
    cfg.MODEL.YOLOR.NUM_CLASSES, cfg.MODEL.YOLOR.CLASS_NAMES = 2, ["cat", "dog"]
    name_classes(cfg)
    assert MetadataCatalog.get("theirs").get("thing_classes") is None
    assert MetadataCatalog.get("named").thing_classes == ["x", "y"]


# ---- Hooks and loaders


def test_writers_come_behind_every_hook():
    first, last = HookBase(), HookBase()
    writer, report = hooks.PeriodicWriter([]), ReportHook(None)
    assert writers_last([first, writer, last, report]) == [first, last, writer, report]
    assert writers_last([report, writer, last, first]) == [last, first, writer, report]


def test_a_loader_of_ones_own_is_not_replaced(caplog):
    Trainer.load_from(SimpleNamespace(training_set=None), 5)  # has nothing to replace
    assert "begins anew at iteration 5" in caplog.text
