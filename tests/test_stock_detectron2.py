"""Detectron2's own, unmodified scripts and classes run a YOLOR configuration."""

import importlib.metadata
import os
import re
from pathlib import Path

import processes
import pytest
import torch

pytest.importorskip("detectron2")

from yolor_d2.d2 import RUNTIME

if RUNTIME != "detectron2":
    pytest.skip("runs on Detectron2 itself", allow_module_level=True)

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.engine import DefaultPredictor
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.utils.visualizer import Visualizer

from yolor_d2 import model_zoo
from yolor_d2.checkpoint.conversion.parts import from_meta_arch
from yolor_d2.d2.modeling import build_model
from yolor_d2.data.loader import build_test_loader
from yolor_d2.datasets.catalog import register_datasets
from yolor_d2.engine import Trainer
from yolor_d2.files.images import read_image
from yolor_d2.modeling import YOLOR
from yolor_d2.networks import build_network
from yolor_d2.toy import ToyDataset, write_toy_dataset

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]

# What a user adds to run a stock script: our keys among the defaults, and the data sets.
DRIVER = """
import runpy, sys
import yolor_d2
from detectron2.config import defaults
from detectron2.data.datasets import register_coco_instances
from yolor_d2.config import add_yolor_config

script, train_json, train_images, val_json, val_images, *arguments = sys.argv[1:]
add_yolor_config(defaults._C)
register_coco_instances("stock_toy_train", {}, train_json, train_images)
register_coco_instances("stock_toy_val", {}, val_json, val_images)
sys.argv = [script, *arguments]
runpy.run_path(script, run_name="__main__")
"""


def stock_script(name: str) -> Path:
    """A file of the top-level folder `tools` that Detectron2's wheel installs."""
    for file in importlib.metadata.files("detectron2") or []:
        if file.as_posix() == f"tools/{name}":
            return Path(str(file.locate()))
    pytest.skip(f"this installation of Detectron2 has no tools/{name}")


def run_driver(folder: Path, script: str, *arguments: object) -> str:
    """What a stock script prints. Not in the repository, which has a folder `tools` too."""
    done = processes.run(["-c", DRIVER, stock_script(script), *arguments], cwd=folder)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    return output


@pytest.fixture
def run_stock(cfg, toy):
    """Runs a stock script on the small configuration; returns its output."""
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("stock_toy_train",), ("stock_toy_val",)
    cfg.SOLVER.MAX_ITER = 3
    # Something to evaluate, although the model has learned next to nothing.
    cfg.MODEL.YOLOR.SCORE_THRESHOLD = 1e-6

    def run(script: str, *arguments: str) -> str:
        folder = Path(cfg.OUTPUT_DIR)
        folder.mkdir(parents=True)
        file = folder / "stock.yaml"
        file.write_text(cfg.dump(), encoding="utf-8")
        data = [toy.train_json, toy.train_images, toy.val_json, toy.val_images]
        return run_driver(folder, script, *data, "--config-file", file, "--num-gpus", 1, *arguments)

    return run


@pytest.mark.parametrize("script", ["train_net.py", "plain_train_net.py"])
def test_stock_training_script(run_stock, cfg, script):
    output = run_stock(script)
    weights = Path(cfg.OUTPUT_DIR) / "model_final.pth"
    saved = torch.load(weights, weights_only=True)
    assert saved["iteration"] == 2  # counted from 0
    # The evaluation at the end printed the six metrics of COCO; the toy data have no large object.
    (figures,) = re.findall(r"copypaste: ([\d.]+(?:,[\d.]+|,nan){5})\n", output)
    assert figures.endswith(",nan")
    model = build_model(cfg)
    model.load_state_dict(saved["model"])  # strict: stock names and ours are the same


def test_stock_analysis_script(run_stock, cfg):
    cfg.MODEL.YOLOR.WIDTH_FACTOR = 1.0
    tasks = ["parameter", "structure", "flop", "activation"]
    output = run_stock("analyze_model.py", "--tasks", *tasks, "--num-inputs", "2")
    # With 80 classes 9,216,634 (published). Each of the 75 missing classes has, at three anchors,
    # weights for 128 + 256 + 512 channels, and a bias and an implicit value on three levels:
    # 9,216,634 - 75 * 3 * (896 + 6) = 9,013,684.
    assert re.search(r"model *\| *9\.0M", output)
    assert "(head): ImplicitAnchorHead" in output
    # 15.4 GFLOPs at 640 px (tools/analyze_model.py), a hundredth at 64 px; fvcore counts a
    # multiplication with its addition as one: 0.08.
    assert "Total GFlops: 0.1" in output
    assert "Total (Million) Activations" in output


# ---- Stock classes on one of our checkpoints


@pytest.fixture
def trained(cfg):
    """A trainer after three iterations, and its configuration for inference."""
    cfg.SOLVER.MAX_ITER = 3
    cfg.SOLVER.EMA.RAMP = 2
    cfg.MODEL.YOLOR.SCORE_THRESHOLD = 1e-6
    test_sets, cfg.DATASETS.TEST = cfg.DATASETS.TEST, ()
    trainer = Trainer(cfg)
    trainer.train()
    cfg.DATASETS.TEST = test_sets
    cfg.MODEL.WEIGHTS = os.path.join(cfg.OUTPUT_DIR, "model_final.pth")
    return trainer, cfg


def test_stock_checkpointer_loads_the_average(trained):
    trainer, cfg = trained
    model = build_model(cfg)
    last = Path(cfg.OUTPUT_DIR) / (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text()
    rest = DetectionCheckpointer(model).load(str(last))
    raw = rest["trainer"]["hooks"]["EMAHook"]["raw"]
    # The trainer's model carries the raw weights; the file's "model" is their average.
    weight = "head.predict.0.weight"
    assert torch.equal(raw[weight], trainer.model.state_dict()[weight])
    assert not torch.equal(raw[weight], model.state_dict()[weight])
    ema = next(hook for hook in trainer._hooks if type(hook).__name__ == "EMAHook")
    for name, value in model.state_dict().items():
        assert torch.equal(value, ema.average[name]), name


def test_stock_predictor_and_evaluation_agree(trained):
    _, cfg = trained
    predictor = DefaultPredictor(cfg)
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    for inputs in build_test_loader(cfg, cfg.DATASETS.TEST[0]):
        with torch.no_grad():
            expected = model(inputs)[0]["instances"]
        image = read_image(inputs[0]["file_name"], "BGR")  # what DefaultPredictor documents
        found = predictor(image)["instances"]
        assert found.image_size == expected.image_size == image.shape[:2]
        assert len(found) > 0
        assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
        assert torch.equal(found.scores, expected.scores)
        assert torch.equal(found.pred_classes, expected.pred_classes)


def test_evaluation_agrees_with_detectron2s(trained):
    cfg = trained[1].clone()
    cfg.defrost()
    cfg.MODEL.INFERENCE.OPTIMIZE = False  # the very model that Detectron2's loop is given
    name = cfg.DATASETS.TEST[0]
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    ours = Trainer.test(cfg, model)
    # Stock loader, mapper and evaluator give the same metrics as ours.
    evaluator = COCOEvaluator(name, output_dir=os.path.join(cfg.OUTPUT_DIR, "stock"))
    stock = inference_on_dataset(model, build_detection_test_loader(cfg, name), evaluator)
    assert set(ours["bbox"]) >= {"AP", "AP50", "AP75"}
    assert ours["bbox"] == pytest.approx(stock["bbox"], rel=0, abs=1e-9, nan_ok=True)
    assert list(ours["bbox"]) == list(stock["bbox"])


@pytest.mark.parametrize("name", ["yolor_p6", "yolov7_w6"])
def test_a_lazy_config_is_the_model_of_the_yaml_file(name):
    cfg = LazyConfig.load(str(REPOSITORY / "configs" / "lazy" / f"{name}.py"))
    with torch.device("meta"):
        model = instantiate(cfg.model)
    yaml = model_zoo.get_config(f"{name}.yaml")
    expected = YOLOR.from_config(yaml)
    with torch.device("meta"):
        state = build_network(name).state_dict()
    found = {from_meta_arch(key): x.shape for key, x in model.state_dict().items()}
    assert found.items() >= {key: x.shape for key, x in state.items()}.items()
    for part in ("gains", "auxiliary_gain", "assigner"):
        assert getattr(model, part) == expected[part]
    augment, ours = cfg.dataloader.train.dataset.augment, yaml.INPUT.AUGMENT
    for key in ("translate", "scale"):
        assert augment[key] == ours[key.upper()]
    for key in ("mosaic9", "mixup", "paste_in"):
        assert augment.get(key, 0.0) == ours[key.upper()]
    assert cfg.dataloader.train.dataset.truth.get("polygons", False) == (ours.PASTE_IN > 0)
    assert cfg.dataloader.train.total_batch_size == yaml.SOLVER.IMS_PER_BATCH
    assert cfg.train.max_iter == pytest.approx(yaml.SOLVER.MAX_ITER, abs=1)


def test_stock_lazy_training_script(toy, tmp_path):
    """Detectron2's lazyconfig_train_net.py on configs/lazy, small and on the toy data."""
    lines = ["dataloader.train.dataset.truth.name=stock_toy_train"]
    lines += ["dataloader.test.dataset.names=stock_toy_val"]
    lines += ["dataloader.evaluator.dataset_name=stock_toy_val"]
    lines += ["dataloader.train.sampler.size=24", "dataloader.train.dataset.size=64"]
    lines += ["dataloader.test.mapper.resize.short_edge_length=[64,64]"]
    lines += ["dataloader.test.mapper.resize.max_size=64", "dataloader.train.total_batch_size=2"]
    lines += ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
    lines += ["train.device=cpu", "train.amp.enabled=False", "train.max_iter=2"]
    lines += ["train.eval_period=2", f"train.output_dir={tmp_path / 'run'}"]
    lines += ["model.head.num_classes=4"]
    data = [toy.train_json, toy.train_images, toy.val_json, toy.val_images]
    config = REPOSITORY / "configs" / "lazy" / "yolor_p6.py"
    run_driver(tmp_path, "lazyconfig_train_net.py", *data, "--config-file", config, *lines)
    saved = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)
    build_network("yolor_p6", 4).load_state_dict(
        {from_meta_arch(name): value for name, value in saved["model"].items()}
    )


# ---- Masks and keypoints


@pytest.fixture
def toy_keypoints(tmp_path) -> ToyDataset:
    size = (96, 128)
    return write_toy_dataset(tmp_path, num_train=1, num_val=6, image_size=size, keypoints=True)


# pycocotools, in which Detectron2 makes run lengths.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_stock_classes_take_masks_and_keypoints(toy_keypoints, cfg):
    """Detectron2's predictor gives them, its evaluator has our metrics of them, its `Visualizer`
    draws them; of a network that has learned next to nothing."""
    cfg.DATASETS.REGISTER = [
        ["stock_shapes", str(toy_keypoints.val_json), str(toy_keypoints.val_images)]
    ]
    cfg.DATASETS.TEST = ("stock_shapes",)
    cfg.MODEL.YOLOR.SCORE_THRESHOLD = 1e-6
    cfg.TEST.DETECTIONS_PER_IMAGE = 30
    cfg.MODEL.INFERENCE.OPTIMIZE = False
    tasks = cfg.MODEL.YOLOR.TASKS
    tasks.MASKS.ENABLED = tasks.KEYPOINTS.ENABLED = True
    tasks.KEYPOINTS.NUM_KEYPOINTS = 3
    register_datasets(cfg)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    cfg.MODEL.WEIGHTS = os.path.join(cfg.OUTPUT_DIR, "random.pth")
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)

    loader = build_test_loader(cfg, "stock_shapes")
    ours = Trainer.test(cfg, model)
    metadata = MetadataCatalog.get("stock_shapes")
    assert metadata.keypoint_names == ["tip", "left_end", "right_end"]
    evaluator = COCOEvaluator(
        "stock_shapes",
        tasks=("bbox", "segm", "keypoints"),
        output_dir=os.path.join(cfg.OUTPUT_DIR, "stock"),
        kpt_oks_sigmas=[0.1] * 3,
    )
    with torch.no_grad():
        stock = inference_on_dataset(model, loader, evaluator)
    for task in ("bbox", "segm", "keypoints"):
        assert list(ours[task]) == list(stock[task])
        assert ours[task] == pytest.approx(stock[task], rel=0, abs=1e-9, nan_ok=True), task

    item = DatasetCatalog.get("stock_shapes")[0]
    image = read_image(item["file_name"], "BGR")
    found = DefaultPredictor(cfg)(image)["instances"].to("cpu")
    assert len(found) and found.pred_keypoints.shape[1:] == (3, 3)
    assert found.pred_masks[0].shape == image.shape[:2]
    found = found[:3]
    found.pred_keypoints[:, :, 2] = 1
    drawn = Visualizer(image[:, :, ::-1], metadata).draw_instance_predictions(found).get_image()
    found.remove("pred_masks")
    boxes = Visualizer(image[:, :, ::-1], metadata).draw_instance_predictions(found).get_image()
    found.remove("pred_keypoints")
    plain = Visualizer(image[:, :, ::-1], metadata).draw_instance_predictions(found).get_image()
    assert (drawn != boxes).any() and (boxes != plain).any()
