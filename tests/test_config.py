"""Configurations: files, overrides, defaults of the paper, and what is refused."""

import functools
import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2 import model_zoo
from yolor_d2.config import get_yolor_cfg, load_config
from yolor_d2.d2.config import get_cfg
from yolor_d2.d2.modeling import build_model
from yolor_d2.layers import Implicit
from yolor_d2.layers.conv import ACTIVATIONS

ON_CPU = ["MODEL.DEVICE", "cpu"]


def load(*opts, name="yolor_ssss_s2d.yaml"):
    return load_config(name, [*ON_CPU, *map(str, opts)])


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# ---- Files of the package


# Those below evaluation/ go behind that of a model.
COMPLETE = [name for name in model_zoo.list_configs() if not name.startswith("evaluation/")]


@functools.cache
def published(name):
    """Of a file of the package, to be read alone."""
    return load(name=name)


@pytest.mark.parametrize("name", COMPLETE)
def test_every_file_loads_for_our_model_and_trainer(name):
    cfg = published(name)
    assert cfg.MODEL.META_ARCHITECTURE == "YOLOR"
    assert cfg.MODEL.BACKBONE.NAME == "build_yolor_pan_backbone"
    assert 0 < cfg.SOLVER.WARMUP_ITERS < cfg.SOLVER.MAX_ITER


@pytest.mark.parametrize("name", [name for name in COMPLETE if "Base" not in name])
def test_training_images_are_squares_of_the_size_of_the_evaluation(name):
    cfg = published(name)
    size = cfg.INPUT.MAX_SIZE_TRAIN
    assert tuple(cfg.INPUT.MIN_SIZE_TRAIN) == (size,)
    assert cfg.INPUT.MIN_SIZE_TEST == cfg.INPUT.MAX_SIZE_TEST == size


@pytest.mark.parametrize("name", ["yolor_p6.yaml", "yolor_ssss_s2d.yaml"])
def test_values_of_the_paper(name):
    cfg = load(name=name)
    solver = cfg.SOLVER
    assert (solver.BASE_LR, solver.BASE_LR_END) == (0.01, 0.002)  # ends at 0.2 of its start
    assert (solver.MOMENTUM, solver.NESTEROV, solver.WEIGHT_DECAY) == (0.937, True, 0.0005)
    assert (solver.WEIGHT_DECAY_NORM, solver.WEIGHT_DECAY_BIAS) == (0.0, 0.0)
    assert (solver.WARMUP_MOMENTUM, solver.WARMUP_BIAS_LR) == (0.8, 0.1)
    assert solver.MAX_ITER == 554_470  # 300 epochs of COCO: 300 * 118,287 images / 64
    assert solver.WARMUP_ITERS == 5_545  # 3 epochs
    loss = cfg.MODEL.YOLOR.LOSS
    assert (loss.BOX, loss.OBJECTNESS, loss.CLASSES, loss.FOCAL_GAMMA) == (0.05, 1.0, 0.5, 0.0)
    assert cfg.MODEL.YOLOR.ASSIGN_MAX_RATIO == 4.0
    assert (cfg.MODEL.YOLOR.SCORE_THRESHOLD, cfg.MODEL.YOLOR.NMS_THRESHOLD) == (0.001, 0.65)
    assert cfg.TEST.DETECTIONS_PER_IMAGE == 300


def test_images_enter_as_rgb_from_0_to_1_and_background_is_used():
    cfg = load()
    assert cfg.INPUT.FORMAT == "RGB"
    assert cfg.MODEL.PIXEL_MEAN == [0.0, 0.0, 0.0]
    assert cfg.MODEL.PIXEL_STD == [255.0, 255.0, 255.0]
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS is False
    assert cfg.DATALOADER.ASPECT_RATIO_GROUPING is False


def test_our_keys_leave_those_of_detectron2_alone():
    cfg = get_yolor_cfg()
    cfg.merge_from_other_cfg(get_cfg())
    cfg.MODEL.DEVICE = get_yolor_cfg().MODEL.DEVICE  # found on this machine, Detectron2's is "cuda"
    assert cfg == get_yolor_cfg()


# ---- Loading


def test_a_path_and_a_name_load_the_same():
    assert load(name=model_zoo.get_config_file("yolor_p6.yaml")) == load(name="yolor_p6.yaml")


def test_overrides_come_last():
    assert load("SOLVER.BASE_LR", 0.5).SOLVER.BASE_LR == 0.5


def test_dump_and_load_is_the_identity(tmp_path):
    cfg = load("MODEL.YOLOR.CLASS_NAMES", ["left: a", "no"], "INPUT.MIN_SIZE_TRAIN", (64,))
    cfg.DATASETS.REGISTER = [["mine/train", "a b.json", "images/"]]
    cfg.DATASETS.TRAIN = ("mine/train",)
    cfg.MODEL.YOLOR.ANCHORS = [[[12, 16], [19.5, 36]]]
    loaded = load_config(write(tmp_path, cfg.dump()))
    for node in (loaded, cfg):  # YAML turns the inner tuples of this key of Detectron2 into lists
        node.MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS = ()
    assert loaded == cfg


def test_a_missing_file_names_the_nearest_that_is_known():
    with pytest.raises(FileNotFoundError, match=r"'yolor_p7\.yaml'.*'yolor_p6\.yaml'"):
        load(name="yolor_p7.yaml")


def test_an_unknown_key_in_a_file_is_named(tmp_path):
    path = write(tmp_path, "VERSION: 2\nMODEL:\n  YOLOR:\n    NUM_CLASES: 3\n")
    with pytest.raises(KeyError, match=r"MODEL\.YOLOR\.NUM_CLASES"):
        load(name=path)


def test_an_unknown_key_in_the_overrides_is_named():
    with pytest.raises(KeyError, match=r"MODEL\.YOLOR\.NUM_CLASES"):
        load("MODEL.YOLOR.NUM_CLASES", 3)


def test_a_key_without_value_is_refused():
    with pytest.raises(ValueError, match="NUM_CLASSES"):
        load("MODEL.YOLOR.NUM_CLASSES")


def test_a_value_of_the_wrong_type_is_named():
    with pytest.raises(ValueError, match=r"MODEL\.YOLOR\.NUM_CLASSES is 'three'"):
        load("MODEL.YOLOR.NUM_CLASSES", "three")


@pytest.mark.parametrize("in_base", [False, True], ids=["in the file", "in its base"])
def test_yaml_that_runs_code_is_refused(tmp_path, in_base):
    witness = tmp_path / "executed"
    path = write(tmp_path, f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {witness}']\n")
    if in_base:
        path = path.rename(tmp_path / "base.yaml")
        path = write(tmp_path, "_BASE_: base.yaml\n")
    with pytest.raises(Exception, match=r"python/object/apply:os\.system"):
        load(name=path)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.IMS_PER_BATCH", 0, "SOLVER.IMS_PER_BATCH is 0, expected at least 1"),
        ("INPUT.MIN_SIZE_TEST", -4, "INPUT.MIN_SIZE_TEST is -4, expected at least 1"),
        ("MODEL.PIXEL_STD", [1.0, 0.0, 1.0], "expected numbers above 0"),
        (
            "MODEL.DEVICE",
            "abacus",
            "MODEL.DEVICE is 'abacus', expected 'auto' or one that torch knows",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_named(key, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(key, value)


def test_cuda_without_a_gpu_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"'cuda:1'.*no GPU.*`MODEL\.DEVICE cpu`"):
        load("MODEL.DEVICE", "cuda:1")


# ---- What a line of configuration does to the model


def implicit_modules(cfg, part):
    """Operators of the implicit modules in a part of the model, and how many there are."""
    modules = [m for m in build_model(cfg).get_submodule(part).modules() if isinstance(m, Implicit)]
    return {m.operator for m in modules}, len(modules)


def test_published_implicit_knowledge():
    # Three levels: added behind the neck, multiplied behind the head (paper, sections 3.2, 4.3).
    assert implicit_modules(load(), "backbone") == ({"add"}, 3)
    assert implicit_modules(load(), "head") == ({"mul"}, 3)


@pytest.mark.parametrize("operator", ["none", "add", "mul"])
@pytest.mark.parametrize(
    ("key", "part", "other"),
    [
        ("FEATURE_ALIGNMENT", "backbone", ("head", {"mul"})),
        ("PREDICTION_REFINEMENT", "head", ("backbone", {"add"})),
    ],
)
def test_one_line_changes_one_implicit_place(key, part, other, operator):
    cfg = load(f"MODEL.YOLOR.IMPLICIT.{key}", operator)
    expected = set() if operator == "none" else {operator}
    assert implicit_modules(cfg, part) == (expected, 3 if expected else 0)
    assert implicit_modules(cfg, other[0]) == (other[1], 3)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("VARIANT", "yolor_p7", r"'yolor_p6', 'yolor_p6_paper'"),
        ("FORM", "Z", r"'D', 'V7', 'Y'"),
        ("ACTIVATION", "relu7", r"'mish', 'silu'"),
        ("IMPLICIT.FEATURE_ALIGNMENT", "cat", r"'none', 'add', 'mul', 'concat'"),
        ("IMPLICIT.PREDICTION_REFINEMENT", "concat", r"'none', 'add', 'mul'"),
    ],
)
def test_an_unknown_name_is_shown_with_the_known_ones(key, value, allowed):
    with pytest.raises(ValueError, match=f"'{value}'.*{allowed}"):
        build_model(load(f"MODEL.YOLOR.{key}", value))


def test_an_unknown_head_is_named():
    with pytest.raises(KeyError, match="NoHead"):
        build_model(load("MODEL.YOLOR.HEAD", "NoHead"))


def test_anchors_must_fit_the_levels():
    with pytest.raises(ValueError, match=r"3 levels.*on 1 levels"):
        build_model(load("MODEL.YOLOR.ANCHORS", [[[12, 16]]]))


def test_anchors_of_ones_own():
    anchors = [[[8, 8], [9, 9]], [[20, 20], [30, 30]], [[50, 50], [60, 60]]]
    model = build_model(load("MODEL.YOLOR.ANCHORS", anchors, "MODEL.YOLOR.NUM_CLASSES", 1))
    assert model.anchors.tolist() == anchors
    assert model.head.predict[0].out_channels == 2 * (5 + 1)


def test_norm_momentum_reaches_every_norm():
    model = build_model(load("MODEL.YOLOR.NORM_MOMENTUM", 0.2))
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.2}


def test_activation_and_form_can_be_changed_together():
    cfg = load("MODEL.YOLOR.FORM", "D", "MODEL.YOLOR.ACTIVATION", "mish")
    kinds = {type(m) for m in build_model(cfg).modules()}
    assert ACTIVATIONS["mish"] in kinds and ACTIVATIONS["silu"] not in kinds


def test_the_quick_start_keeps_the_published_network():
    model = build_model(load(name="quick/fast_start.yaml"))
    assert sum(p.numel() for p in model.parameters()) == 9_216_634
