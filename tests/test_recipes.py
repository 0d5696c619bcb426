"""Recipes: their values, and that a list of bases joins one with a model."""

import os

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from checkpoint.authors_files import STRIPPED, save_authors_file

from yolor_d2 import model_zoo
from yolor_d2.checkpoint.conversion.parts import parts_of
from yolor_d2.config import load_config
from yolor_d2.data.options import use_data
from yolor_d2.datasets.catalog import register_datasets
from yolor_d2.engine import Trainer
from yolor_d2.modeling import YOLOR
from yolor_d2.networks import build_network, get_variant
from yolor_d2.networks.variant import scale
from yolor_d2.ops import LossGains, assign, detection_losses

# Size, translate, scale, mosaics of nine, mixup, pasting, class gain, objectness gain, fraction of
# the learning rate at the end, epochs, batch.
RECIPES = {
    "scratch_640": (640, 0.1, 0.9, 0.0, 0.0, 0.0, 0.3, 0.7, 0.2, 300, 64),
    "scratch_640_s": (640, 0.1, 0.5, 0.0, 0.0, 0.0, 0.5, 1.0, 0.2, 300, 64),
    "scratch_1280": (1280, 0.5, 0.5, 0.0, 0.0, 0.0, 0.5, 1.0, 0.2, 300, 64),
    "finetune_1280": (1280, 0.5, 0.8, 1.0, 0.2, 0.0, 0.5, 1.0, 0.2, 450, 64),
    "finetune_1280_last": (1280, 0.5, 0.8, 0.0, 0.2, 0.0, 0.5, 1.0, 0.2, 450, 64),
    "scheme_300": (1280, 0.5, 0.5, 0.0, 0.0, 0.0, 0.5, 1.0, 0.2, 300, 64),
    "yolov7_p5": (640, 0.2, 0.9, 0.2, 0.15, 0.15, 0.3, 0.7, 0.1, 300, 128),
    "yolov7_p6": (1280, 0.2, 0.9, 0.2, 0.15, 0.15, 0.3, 0.7, 0.2, 300, 128),
    "yolov7_w6_pose": (960, 0.1, 0.5, 0.0, 0.0, 0.0, 0.3, 0.7, 0.1, 300, 128),
    "yolov7_seg": (640, 0.2, 0.9, 0.2, 0.15, 0.15, 0.3, 0.7, 0.1, 300, 128),
    "yolov7_tiny": (640, 0.1, 0.5, 0.2, 0.05, 0.05, 0.5, 1.0, 0.01, 300, 128),
    "yolov5": (640, 0.1, 0.5, 0.0, 0.0, 0.0, 0.5, 1.0, 0.2, 300, 64),
    "yolov5_1280": (1280, 0.1, 0.5, 0.0, 0.0, 0.0, 0.5, 1.0, 0.2, 300, 64),
}
IMAGES = 118_287  # of COCO


def load(name):
    return load_config(name, ["MODEL.DEVICE", "cpu"])


def values(cfg) -> tuple:
    """All but the batch."""
    augment, loss = cfg.INPUT.AUGMENT, cfg.MODEL.YOLOR.LOSS
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST) == (
        (cfg.INPUT.MAX_SIZE_TRAIN,),
        cfg.INPUT.MAX_SIZE_TEST,
    )
    return (
        cfg.INPUT.MAX_SIZE_TRAIN,
        augment.TRANSLATE,
        augment.SCALE,
        augment.MOSAIC9,
        augment.MIXUP,
        augment.PASTE_IN,
        loss.CLASSES,
        loss.OBJECTNESS,
        pytest.approx(cfg.SOLVER.BASE_LR_END / cfg.SOLVER.BASE_LR),
        cfg.SOLVER.MAX_EPOCHS,
    )


def test_every_recipe_is_known():
    names = {name for name in model_zoo.list_configs() if name.startswith("recipes/")}
    assert names == {f"recipes/{name}.yaml" for name in RECIPES}


@pytest.mark.parametrize("name", RECIPES)
def test_values_of_the_authors(name):
    cfg = load(f"recipes/{name}.yaml")
    *expected, batch = RECIPES[name]
    assert values(cfg) == tuple(expected) and batch == cfg.SOLVER.IMS_PER_BATCH
    # The same for Detectron2's own scripts, to the nearest iteration.
    solver, test = cfg.SOLVER, cfg.TEST
    for iterations, epochs in (
        (solver.MAX_ITER, solver.MAX_EPOCHS),
        (solver.WARMUP_ITERS, solver.WARMUP_EPOCHS),
        (solver.CHECKPOINT_PERIOD, solver.CHECKPOINT_EPOCHS),
        (test.EVAL_PERIOD, test.EVAL_EPOCHS),
    ):
        assert iterations == pytest.approx(epochs * IMAGES / batch, abs=1)
    # Equal in all of them.
    assert (solver.BASE_LR, solver.MOMENTUM, solver.WEIGHT_DECAY) == (0.01, 0.937, 0.0005)
    assert (solver.WARMUP_EPOCHS, solver.WARMUP_MOMENTUM, solver.WARMUP_BIAS_LR) == (3, 0.8, 0.1)
    assert (solver.EMA.ENABLED, solver.EMA.DECAY, solver.EMA.RAMP) == (True, 0.9999, 2000)
    assert (solver.NOMINAL_BATCH, solver.REFERENCE_BATCH) == (64, 0)
    assert (cfg.MODEL.YOLOR.SCORE_THRESHOLD, cfg.MODEL.YOLOR.NMS_THRESHOLD) == (0.001, 0.65)
    assert (test.DETECTIONS_PER_IMAGE, cfg.MODEL.YOLOR.ASSIGN_MAX_RATIO) == (300, 4.0)
    augment = cfg.INPUT.AUGMENT
    assert (augment.MOSAIC, augment.HSV) == (1.0, [0.015, 0.7, 0.4])
    assert (augment.FLIP, augment.FLIP_VERTICAL) == (0.5, 0.0)
    assert (augment.DEGREES, augment.SHEAR, augment.PERSPECTIVE) == (0.0, 0.0, 0.0)
    assert (cfg.INPUT.RECT, cfg.INPUT.MULTI_SCALE) == (False, 0.0)


@pytest.mark.parametrize("name", RECIPES)
def test_a_model_and_a_recipe_make_a_config(name, tmp_path):
    path = tmp_path / "mine.yaml"
    root = model_zoo.config_root()
    bases = f'["{root}/yolor_p6_paper.yaml", "{root}/recipes/{name}.yaml"]'
    path.write_text(f"_BASE_: {bases}\nSOLVER:\n  IMS_PER_BATCH: 32\n")
    cfg = load(path)
    assert cfg.MODEL.YOLOR.VARIANT == "yolor_p6_paper"
    assert values(cfg) == RECIPES[name][:-1]
    assert cfg.SOLVER.IMS_PER_BATCH == 32  # the file's own line


# ---- Gains of YOLOv7 and YOLOv5


@pytest.mark.parametrize(
    ("config", "classes", "box", "class_weight", "objectness"),
    [
        # box .05 * 3 / levels, c * classes / 80 * 3 / levels, o * (size / 640)^2 * 3 / levels
        # of each level: o times its balance.
        ("yolov7.yaml", 80, 0.05, 0.3, [0.7 * 4, 0.7, 0.7 * 0.4]),
        ("yolov7.yaml", 20, 0.05, 0.075, [2.8, 0.7, 0.28]),
        ("yolov7_x_deploy.yaml", 80, 0.05, 0.3, [2.8, 0.7, 0.28]),
        ("yolov7_tiny.yaml", 80, 0.05, 0.5, [4.0, 1.0, 0.4]),
        # 0.7 * 4 * 3 / 4 = 2.1, times 4, 1, 0.25 and 0.06.
        ("yolov7_w6.yaml", 80, 0.0375, 0.225, [8.4, 2.1, 0.525, 0.126]),
        ("yolov7_e6e_deploy.yaml", 80, 0.0375, 0.225, [8.4, 2.1, 0.525, 0.126]),
        ("yolov5_m.yaml", 80, 0.05, 0.5, [4.0, 1.0, 0.4]),
        # 1.0 * 4 * 3 / 4 = 3.
        ("yolov5_x6.yaml", 80, 0.0375, 0.375, [12.0, 3.0, 0.75, 0.18]),
        ("yolov5_x6.yaml", 8, 0.0375, 0.0375, [12.0, 3.0, 0.75, 0.18]),
    ],
)
def test_weights_of_the_terms(config, classes, box, class_weight, objectness):
    """What `detection_losses` multiplies its terms with, against the same with all gains at 1."""
    cfg = load_config(config, ["MODEL.DEVICE", "cpu", "MODEL.YOLOR.NUM_CLASSES", str(classes)])
    with torch.device("meta"):
        gains = YOLOR.from_config(cfg)["gains"]
    levels = [torch.zeros(1, 3, 2, 2, 5 + classes) for _ in objectness]
    for level in levels:
        level.requires_grad_()
    anchors = torch.full((len(levels), 3, 2), 16.0)
    strides = [8 * 2**i for i in range(len(levels))]
    truth = torch.tensor([0]), torch.tensor([[8.0, 8.0, 16.0, 16.0]]), torch.tensor([3])
    targets = assign(*truth, anchors, strides, [(2, 2)] * len(levels))
    found = detection_losses(levels, targets, anchors, strides, gains)
    unit = LossGains(1.0, 1.0, (1.0,) * len(levels), 1.0, scale_classes=False, train_size=640)
    base = detection_losses(levels, targets, anchors, strides, unit)
    share = 3 / len(levels)
    assert (found.box / base.box).item() * share == pytest.approx(box)
    assert (found.classes / base.classes).item() * share == pytest.approx(class_weight)
    # Of each level, by its gradient.
    terms = torch.autograd.grad(found.objectness, levels, retain_graph=True)
    bases = torch.autograd.grad(base.objectness, levels)
    ratios = [(a[..., 4].sum() / b[..., 4].sum()).item() * share for a, b in zip(terms, bases)]
    assert ratios == pytest.approx(objectness)


# ---- From published weights


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [[], ["backbone.bottom_up.body.stages.0"]])
def test_finetuning_starts_from_a_file_of_the_authors(toy, tmp_path, frozen):
    """Of random weights for 80 classes, on data of 4."""
    torch.manual_seed(0)
    published = build_network(scale(get_variant("yolov7_tiny"), 0.125), 80).half().float()
    names = parts_of(published).names("yaml")
    given = published.state_dict()
    state = {names[key]: value for key, value in given.items()}
    path = save_authors_file(tmp_path / "published.pt", state, STRIPPED)
    opts = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", path, "MODEL.YOLOR.VARIANT", "yolov7_tiny"]
    opts += ["MODEL.YOLOR.WIDTH_FACTOR", 0.125, "MODEL.YOLOR.NUM_CLASSES", 4]
    opts += ["INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MAX_SIZE_TRAIN", 64, "SOLVER.MAX_EPOCHS", 0]
    opts += ["SOLVER.MAX_ITER", 3, "SOLVER.WARMUP_ITERS", 1, "OUTPUT_DIR", tmp_path / "run"]
    cfg = load_config("quick/finetune.yaml", [*map(str, opts), "SOLVER.FREEZE", str(frozen)])
    use_data(cfg, (str(toy.train_json), str(toy.train_images)), None)
    register_datasets(cfg)
    os.makedirs(cfg.OUTPUT_DIR)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    start = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()

    moved = {n for n, x in trainer.model.state_dict().items() if not x.equal(start[n])}
    for name, value in start.items():
        own = name.removeprefix("backbone.").replace("bottom_up.body.", "backbone.")
        if "predict" not in name and "refine" not in name:  # those have class rows
            assert value.equal(given[own]), name
    stages = {n.split(".")[4] for n in moved if n.startswith("backbone.bottom_up.body.stages")}
    assert stages == ({"1", "2", "3"} if frozen else {"0", "1", "2", "3"})
    assert {"head.predict.0.weight", "head.predict.2.weight"} <= moved
