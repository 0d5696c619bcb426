"""Loaders: equal batches however they are made, data sets that do not fit, evaluation images."""

import itertools
import json
import multiprocessing
import os
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.benchmark.data import resident_bytes
from yolor_d2.d2 import RUNTIME
from yolor_d2.d2.data import DatasetCatalog, MetadataCatalog
from yolor_d2.d2.engine import DefaultPredictor
from yolor_d2.d2.structures import BoxMode
from yolor_d2.data import dataset as dataset_module
from yolor_d2.data import loader, settings, training_data
from yolor_d2.data import options as data_options
from yolor_d2.data.batch_shapes import BatchShapes
from yolor_d2.data.dataset import AugmentConfig
from yolor_d2.data.sampler import epoch_order
from yolor_d2.data.training_data import TrainingData
from yolor_d2.datasets import catalog
from yolor_d2.files.images import ImageReadError, read_image

ALPHA_BETA_GAMMA = ((90, "gamma"), (3, "alpha"), (7, "beta"))  # neither sorted nor without gaps


def write_coco(
    folder: Path, annotations, *, size=(40, 30), count=2, categories=ALPHA_BETA_GAMMA
) -> tuple[str, str]:
    """A COCO data set of black images of 40x30 pixels, said to be of `size` (width, height).

    Annotations are (image, category id, box, iscrowd), the images 0, 1, ...
    """
    (folder / "images").mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (40, 30)).save(folder / "images" / f"{i}.png")
    names = [{"id": i, "file_name": f"{i}.png"} for i in range(count)]
    content = {
        "images": [{**x, "width": size[0], "height": size[1]} for x in names],
        "annotations": [
            {
                "id": i + 1,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "iscrowd": crowd,
                "area": box[2] * box[3],
            }
            for i, (image, category, box, crowd) in enumerate(annotations)
        ],
        "categories": [{"id": i, "name": name} for i, name in categories],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return str(path), str(folder / "images")


@pytest.fixture
def use_coco(cfg, tmp_path):
    """Writes a data set with these annotations and makes it that of `cfg`."""

    def use(*annotations, **options):
        files = write_coco(tmp_path / uuid.uuid4().hex, annotations, **options)
        data_options.use_data(cfg, files, files)
        catalog.register_datasets(cfg)
        return cfg

    return use


def batches(cfg, count, **options):
    """(image id, pixels, boxes, classes) of the samples of each of the first batches."""
    train_loader = loader.build_train_loader(cfg, **options)
    return [
        [
            (
                sample["image_id"],
                sample["image"].tolist(),
                sample["instances"].gt_boxes.tensor.tolist(),
                sample["instances"].gt_classes.tolist(),
            )
            for sample in batch
        ]
        for batch in itertools.islice(train_loader, count)
    ]


# ---- training


@pytest.mark.heavy
def test_batches_do_not_depend_on_the_number_of_workers(cfg):
    found = []
    for workers in (0, 1, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        found.append(batches(cfg, 10))  # more than two blocks of eight samples, see `partners`
    assert found[0] == found[1] == found[2]
    assert [len(batch) for batch in found[0]] == [2] * 10
    assert sum(len(boxes) for batch in found[0] for _, _, boxes, _ in batch) > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_later_start_gives_the_later_batches(cfg, workers):
    straight = batches(cfg, 5)
    cfg.DATALOADER.NUM_WORKERS = workers
    assert batches(cfg, 2, start_iter=3) == straight[3:]


def test_images_come_in_the_order_of_the_sampler(cfg, toy):
    ids = [image["id"] for image in json.loads(toy.train_json.read_text())["images"]]
    expected = [ids[i] for i in epoch_order(cfg.SEED, 0, 24)]
    assert [x[0] for batch in batches(cfg, 12) for x in batch] == expected


def test_the_seed_makes_a_difference(cfg):
    cfg.SEED = 0
    first = batches(cfg, 1)
    cfg.SEED = -1  # Detectron2's "no seed": the data are those of seed 0
    assert batches(cfg, 1) == first
    cfg.SEED = 1
    assert batches(cfg, 1) != first


@pytest.mark.skipif(RUNTIME == "builtin", reason="the built-in runtime has one process")
def test_two_processes_share_each_batch(cfg, monkeypatch):
    """Of batches of two, the first process gets the first image and the second the other."""
    alone = batches(cfg, 3, start_iter=1)
    monkeypatch.setattr(loader.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(loader.comm, "get_rank", lambda rank=rank: rank)
        assert batches(cfg, 3, start_iter=1) == [batch[rank : rank + 1] for batch in alone]


def test_the_config_reaches_the_samples(cfg):
    node = cfg.INPUT.AUGMENT
    node.MOSAIC, node.MOSAIC9, node.MOSAIC_OFF, node.MIXUP = 0.9, 0.8, 0.25, 0.7
    node.PASTE_IN = 0.3
    node.SCALE, node.TRANSLATE, node.DEGREES, node.SHEAR = 0.3, 0.2, 10.0, 5.0
    node.PERSPECTIVE, node.HSV, node.FLIP, node.FLIP_VERTICAL = 0.001, [0.01, 0.02, 0.03], 0.4, 0.6
    cfg.INPUT.FORMAT, cfg.SEED = "BGR", 7
    dataset = loader.build_train_loader(cfg).dataset
    dataset = getattr(dataset, "dataset", dataset)  # Detectron2 wraps it
    # The last quarter of 6 iterations of 2 images is plain: 9 == 0.75 * 6 * 2.
    assert dataset.augment == AugmentConfig(
        mosaic=0.9,
        mosaic9=0.8,
        first_plain_position=9,
        mixup=0.7,
        paste_in=0.3,
        scale=0.3,
        translate=0.2,
        degrees=10.0,
        shear=5.0,
        perspective=0.001,
        hsv=(0.01, 0.02, 0.03),
        flip=0.4,
        flip_vertical=0.6,
    )
    assert (dataset.shapes, dataset.cache) == (BatchShapes(64, batch_size=2, seed=7), None)
    assert (dataset.size, dataset.seed, dataset.channel_order) == (64, 7, "BGR")


@pytest.mark.parametrize("shortest", [(32,), (64, 96), (48, 64), ()])
def test_only_squares_of_one_size_are_trained_on(cfg, shortest):
    assert loader.training_size(cfg) == 64
    cfg.INPUT.MIN_SIZE_TRAIN = shortest
    with pytest.raises(ValueError, match=r"INPUT\.MIN_SIZE_TRAIN is .*INPUT\.MAX_SIZE_TRAIN is 64"):
        loader.training_size(cfg)


@pytest.mark.parametrize("skip_background, count", [(False, 24), (True, 22)])
def test_background_images(cfg, skip_background, count):
    """Two of the 24 toy images have no object: the seventh of each dozen."""
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = skip_background
    truth = TrainingData(cfg).read()
    assert len(truth) == count
    assert (np.diff(truth.starts) == 0).sum() == 24 * (not skip_background) / 12


def test_background_images_are_used_by_default(cfg):
    assert cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS is False


# ---- shapes and caches of batches


ALL_ON = {"MOSAIC9": 0.5, "MIXUP": 0.5, "DEGREES": 10.0, "SHEAR": 5.0, "PERSPECTIVE": 0.001}
ALL_ON |= {"PASTE_IN": 0.7}


def use(cfg, kind: str) -> None:
    """Switch on one kind of batches."""
    if kind == "everything":
        cfg.INPUT.AUGMENT.merge_from_list([x for pair in ALL_ON.items() for x in pair])
        cfg.INPUT.AUGMENT.FLIP_VERTICAL = 0.5
    cfg.INPUT.RECT = kind in ("rectangles", "both")
    if cfg.INPUT.RECT:  # large enough for a stride to be saved
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (128,), 128
    cfg.INPUT.MULTI_SCALE = 0.5 if kind in ("multi-scale", "both", "everything") else 0.0
    cfg.INPUT.SIZE_STEPS = [[0.5, 0.5]] if kind in ("steps", "everything") else []


KINDS = ["everything", "rectangles", "multi-scale", "steps", "both"]


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_batches_is_a_function_of_its_position(cfg, kind):
    """With workers, caches and after a resume: the same batches; shapes are equal within each."""
    use(cfg, kind)
    straight = batches(cfg, 14)  # more than an epoch, of 24 images
    cfg.INPUT.CACHE = "ram"
    cfg.DATALOADER.NUM_WORKERS = 2
    assert batches(cfg, 3, start_iter=11) == straight[11:]
    cfg.INPUT.CACHE = "disk"
    assert batches(cfg, 2, start_iter=12) == straight[12:]
    assert batches(cfg, 2, start_iter=12) == straight[12:]  # now from the cache
    shapes = set()
    for batch in straight:
        sizes = {np.shape(pixels) for _, pixels, _, _ in batch}
        assert len(sizes) == 1
        shapes |= sizes
    assert all(height % 32 == width % 32 == 0 for _, height, width in shapes)
    assert len(shapes) > 1


def test_rectangles_see_every_image_in_an_epoch(cfg, toy):
    use(cfg, "rectangles")
    ids = [x[0] for batch in batches(cfg, 12) for x in batch]
    known = [image["id"] for image in json.loads(toy.train_json.read_text())["images"]]
    assert sorted(ids) == known


def test_rectangles_have_no_mosaics(cfg, monkeypatch):
    messages = []
    monkeypatch.setattr(settings.logger, "info", lambda form, *x: messages.append(form % x))
    use(cfg, "rectangles")
    assert loader.build_training_dataset(cfg).augment.mosaic == 0
    assert any("INPUT.RECT: no mosaics" in x for x in messages)


@pytest.mark.skipif(RUNTIME == "builtin", reason="the built-in runtime has one process")
@pytest.mark.parametrize("kind", ["multi-scale", "rectangles"])
def test_two_processes_agree_on_the_shape(cfg, monkeypatch, kind):
    use(cfg, kind)
    alone = batches(cfg, 3, start_iter=1)
    monkeypatch.setattr(loader.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(loader.comm, "get_rank", lambda rank=rank: rank)
        assert batches(cfg, 3, start_iter=1) == [batch[rank : rank + 1] for batch in alone]


def test_the_stride_is_that_of_the_network(cfg):
    assert settings.network_stride(cfg) == 32
    cfg.MODEL.YOLOR.VARIANT = "yolor_p6"
    assert settings.network_stride(cfg) == 64


def test_the_disk_cache_lies_where_it_should(cfg, tmp_path):
    cfg.INPUT.CACHE = "disk"
    batches(cfg, 1)
    assert list((Path(cfg.OUTPUT_DIR) / "image_cache").rglob("*.npy"))
    cfg.INPUT.CACHE_DIR = str(tmp_path / "elsewhere")
    batches(cfg, 1)
    assert list((tmp_path / "elsewhere").rglob("*.npy"))


def test_a_cache_reads_no_image_twice(cfg, monkeypatch):
    cfg.INPUT.CACHE = "ram"
    read, original = [], dataset_module.read_image
    monkeypatch.setattr(dataset_module, "read_image", lambda x: read.append(x) or original(x))
    batches(cfg, 15)
    assert len(read) == len(set(read)) <= 24


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells the memory")
def test_memory_of_a_worker_does_not_grow(cfg):
    """5,000 samples after the first 1,000: less than a third of the pixels of each, 3 * 64 * 64."""
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = 1, 20
    before = set(multiprocessing.active_children())
    train_loader = iter(loader.build_train_loader(cfg))
    used = []
    for count in (50, 250):
        for _ in itertools.islice(train_loader, count):
            pass
        (worker,) = set(multiprocessing.active_children()) - before
        used.append(resident_bytes([worker.pid]))
    assert used[1] - used[0] < 5_000 * 3 * 64 * 64 / 3


@pytest.mark.parametrize(
    "key, value",
    [
        ("INPUT.CACHE", "tape"),
        ("INPUT.MULTI_SCALE", 1.0),
        ("INPUT.SIZE_STEPS", [[0.5, 1.5]]),
        ("INPUT.SIZE_STEPS", [[0.5]]),
        ("INPUT.SIZE_STEPS", [0.5, 0.7]),
        ("INPUT.SIZE_STEPS", [[0.5, 0.7], [0.4, 0.8]]),
        ("INPUT.MULTI_SCALE", -0.1),
        ("INPUT.AUGMENT.MOSAIC", 1.5),
        ("INPUT.AUGMENT.MOSAIC9", -0.5),
        ("INPUT.AUGMENT.MIXUP", 2.0),
        ("INPUT.AUGMENT.PASTE_IN", -0.1),
        ("INPUT.AUGMENT.SCALE", 1.0),
        ("INPUT.AUGMENT.SHEAR", 90.0),
        ("INPUT.AUGMENT.DEGREES", -10.0),
        ("INPUT.AUGMENT.FLIP_VERTICAL", float("nan")),
        ("INPUT.AUGMENT.HSV", [0.1, 0.2]),
        ("INPUT.AUGMENT.PERSPECTIVE", 1 / 128),  # 1 / (2 * 64)
    ],
)
def test_values_out_of_range_are_named(cfg, key, value):
    with pytest.raises(ValueError, match=rf"{key} is .*expected"):  # NaN is never merged
        cfg.merge_from_list([key, value])
        loader.build_train_loader(cfg)


# ---- data sets that do not fit


GOOD = (0, 3, [1, 2, 10, 10], 0)
CROWD = (1, 3, [1, 2, 10, 10], 1)
EMPTY = (0, 7, [1, 2, 0, 10], 0)
OUTSIDE = (1, 90, [41, 2, 10, 10], 0)


@pytest.mark.parametrize("skip_background", [False, True])
@pytest.mark.parametrize("annotations", [(), (CROWD,), (EMPTY, OUTSIDE), (CROWD, EMPTY)])
def test_no_usable_box(use_coco, annotations, skip_background):
    cfg = use_coco(*annotations)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = skip_background
    with pytest.raises(ValueError, match=r"DATASETS\.TRAIN .*no image has a box"):
        TrainingData(cfg).read()


def test_boxes_left_out_are_counted(use_coco, monkeypatch):
    messages = []
    monkeypatch.setattr(training_data.logger, "warning", lambda form, *x: messages.append(form % x))
    assert len(TrainingData(use_coco(GOOD, CROWD)).read()) == 2
    assert messages == []  # crowd regions are no loss
    TrainingData(use_coco(GOOD, CROWD, EMPTY, OUTSIDE)).read()
    assert len(messages) == 1 and "2 of 3 boxes are left out" in messages[0]


def test_number_of_classes_differs(cfg):
    cfg.MODEL.YOLOR.NUM_CLASSES = 7
    for split, build in [
        ("TRAIN", lambda: loader.build_train_loader(cfg)),
        ("TEST", lambda: loader.build_test_loader(cfg, cfg.DATASETS.TEST[0])),
    ]:
        with pytest.raises(ValueError, match=r"MODEL\.YOLOR\.NUM_CLASSES is 7.* 4 classes") as info:
            build()
        assert cfg.DATASETS[split][0] in str(info.value)
        assert "ring, triangle" in str(info.value)


def test_a_class_beyond_the_model_names_the_image(cfg):
    """A data set that was registered by hand may have no list of classes to compare."""
    name = uuid.uuid4().hex
    box = {"bbox": [1, 2, 10, 10], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 5}
    item = {"file_name": "far.png", "image_id": 0, "height": 30, "width": 40, "annotations": [box]}
    DatasetCatalog.register(name, lambda: [item])
    cfg.DATASETS.TRAIN = (name,)
    with pytest.raises(ValueError, match=r"far\.png.* class 5.*MODEL\.YOLOR\.NUM_CLASSES is 4"):
        TrainingData(cfg).read()
    box["category_id"] = 3  # of 0 ... 3
    assert TrainingData(cfg).read().labels.tolist() == [3]


def test_size_differs_from_the_annotations(use_coco):
    cfg = use_coco(GOOD, size=(30, 40))
    with pytest.raises(ValueError, match=r"\.png' is \(H, W\) = \(30, 40\).*\(40, 30\)"):
        batches(cfg, 1)
    with pytest.raises(ValueError, match=r"0\.png"):
        list(loader.build_test_loader(cfg, cfg.DATASETS.TEST[0]))


def test_a_broken_image_is_named(use_coco):
    cfg = use_coco(GOOD)
    root = Path(cfg.DATASETS.REGISTER[-1][2])
    for path in (root / "0.png", root / "1.png"):
        path.write_bytes(b"")
    with pytest.raises(ImageReadError, match=r"[01]\.png"):
        batches(cfg, 1)


# ---- registering


def test_register(cfg, tmp_path):
    name = uuid.uuid4().hex
    files = write_coco(tmp_path / "data", [GOOD])
    cfg.DATASETS.REGISTER = [[name, *files]]
    for _ in range(2):  # a second time changes nothing
        catalog.register_datasets(cfg)
        items = DatasetCatalog.get(name)
        assert [item["image_id"] for item in items] == [0, 1]


@pytest.mark.parametrize("entry", [["name", "file.json"], ["a", "b", "c", "d"], [], "name", "toy"])
def test_a_bad_entry_is_refused(cfg, entry):
    cfg.DATASETS.REGISTER = [entry]
    with pytest.raises(ValueError, match=r"DATASETS\.REGISTER has .*\[name, annotation file"):
        catalog.register_datasets(cfg)


@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_path_is_named(cfg, tmp_path, missing):
    entry = [uuid.uuid4().hex, *write_coco(tmp_path / "data", [GOOD])]
    entry[missing] += "_nowhere"
    cfg.DATASETS.REGISTER = [entry]
    with pytest.raises(FileNotFoundError, match=rf"DATASETS\.REGISTER.*{entry[0]}.*_nowhere"):
        catalog.register_datasets(cfg)
    assert entry[0] not in DatasetCatalog.list()


def test_a_name_stands_for_one_data_set(cfg, tmp_path):
    name = uuid.uuid4().hex
    for folder in ("one", "other"):
        cfg.DATASETS.REGISTER = [[name, *write_coco(tmp_path / folder, [GOOD])]]
        if folder == "one":
            catalog.register_datasets(cfg)
    with pytest.raises(ValueError, match=rf"DATASETS\.REGISTER.*{name}.*another data set"):
        catalog.register_datasets(cfg)


def test_classes_come_from_the_file_in_order_of_their_ids(use_coco):
    cfg = use_coco(GOOD, (0, 7, [1, 2, 3, 4], 0), (1, 90, [1, 2, 3, 4], 0))
    assert cfg.MODEL.YOLOR.NUM_CLASSES == 3
    assert cfg.MODEL.YOLOR.CLASS_NAMES == ["alpha", "beta", "gamma"]
    # 3, 7 and 90 become 0, 1 and 2.
    assert TrainingData(cfg).read().labels.tolist() == [0, 1, 2]
    assert cfg.DATASETS.TRAIN == cfg.DATASETS.TEST


def test_files_are_known_from_every_folder(cfg, tmp_path, monkeypatch):
    """So that a run can be gone on with from another one."""
    annotations, images = map(Path, write_coco(tmp_path / uuid.uuid4().hex, [GOOD]))
    monkeypatch.chdir(annotations.parent)
    files = annotations.name, os.path.relpath(images)
    data_options.use_data(cfg, files, files)
    assert cfg.DATASETS.REGISTER[-1][1:] == [str(annotations), str(images)]


def test_either_set_may_stay_as_it_is(cfg, tmp_path):
    before = cfg.clone()
    data_options.use_data(cfg, None, None)
    assert cfg == before
    files = write_coco(tmp_path / uuid.uuid4().hex, [GOOD])
    cfg.MODEL.YOLOR.CLASS_NAMES = ["alpha", "beta", "gamma"]  # as the file has them, by id
    data_options.use_data(cfg, None, files)
    assert cfg.DATASETS.TRAIN == before.DATASETS.TRAIN
    assert cfg.DATASETS.TEST != before.DATASETS.TEST
    assert cfg.DATASETS.REGISTER[:-1] == before.DATASETS.REGISTER


def test_a_missing_annotation_file_is_named(cfg, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        data_options.use_data(cfg, (str(tmp_path / "nowhere.json"), str(tmp_path)), None)


def test_files_of_one_name_in_folders_of_one_name_are_two_data_sets(cfg, tmp_path):
    """As train/coco/annotations.json and val/coco/annotations.json."""
    folder = uuid.uuid4().hex
    train = write_coco(tmp_path / "train" / folder, [GOOD], count=3)
    val = write_coco(tmp_path / "val" / folder, [GOOD], count=1)
    data_options.use_data(cfg, train, val)
    catalog.register_datasets(cfg)
    assert len(DatasetCatalog.get(cfg.DATASETS.TRAIN[0])) == 3
    assert len(DatasetCatalog.get(cfg.DATASETS.TEST[0])) == 1


def test_class_names(cfg):
    name = uuid.uuid4().hex
    cfg.MODEL.YOLOR.NUM_CLASSES = 2
    cfg.MODEL.YOLOR.CLASS_NAMES = []
    cfg.DATASETS.TEST = ()
    assert catalog.class_names(cfg) == ["0", "1"]
    cfg.DATASETS.TEST = (name,)
    assert catalog.class_names(cfg) == ["0", "1"]  # not loaded yet, so it has no names
    MetadataCatalog.get(name).thing_classes = ["cat", "dog"]
    assert catalog.class_names(cfg) == ["cat", "dog"]
    cfg.MODEL.YOLOR.CLASS_NAMES = ["one", "two"]
    assert catalog.class_names(cfg) == ["one", "two"]
    cfg.MODEL.YOLOR.NUM_CLASSES = 3  # names that do not fit are none
    assert catalog.class_names(cfg) == ["0", "1", "2"]


# ---- evaluation


class Recorder(torch.nn.Module):
    """A model that returns its inputs."""

    def forward(self, inputs):
        return inputs


@pytest.fixture
def predictor(monkeypatch):
    """Detectron2's predictor around a model that returns what it is given."""

    def build(cfg) -> DefaultPredictor:
        names = DefaultPredictor.__init__.__globals__  # of either runtime
        monkeypatch.setitem(names, "build_model", lambda cfg: Recorder())
        return DefaultPredictor(cfg)

    return build


@pytest.mark.parametrize("channel_order", ["RGB", "BGR"])
@pytest.mark.parametrize("shortest, longest", [(64, 64), (48, 320), (320, 320)])
def test_evaluation_resizes_as_the_predictor(
    cfg, tmp_path, predictor, channel_order, shortest, longest
):
    cfg.INPUT.FORMAT = channel_order
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = shortest, longest
    reference = predictor(cfg)
    mapper = loader.EvaluationMapper.from_config(cfg)
    rng = np.random.default_rng(0)
    for height, width in [(97, 131), (131, 40), (1, 1), (20, 600)]:
        path = tmp_path / "image.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        ours = mapper({"file_name": str(path), "height": height, "width": width})
        theirs = reference(read_image(path, "BGR"))
        assert ours["image"].dtype == torch.uint8
        torch.testing.assert_close(ours["image"].float(), theirs["image"], rtol=0, atol=0)
        assert (ours["height"], ours["width"]) == (theirs["height"], theirs["width"])


def test_evaluation_of_a_panorama(cfg, tmp_path):
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 320
    Image.new("RGB", (10000, 20)).save(tmp_path / "wide.png")
    mapped = loader.EvaluationMapper.from_config(cfg)({"file_name": str(tmp_path / "wide.png")})
    assert mapped["image"].shape == (3, 1, 320)  # 20 * 320 / 10000 == 0.64
    assert (mapped["height"], mapped["width"]) == (20, 10000)


def test_evaluation_loader(cfg, toy):
    """One image a batch, in the order of the ids, background included and without ground truth."""
    found = list(loader.build_test_loader(cfg, cfg.DATASETS.TEST[0]))
    images = json.loads(toy.val_json.read_text())["images"]
    assert [len(batch) for batch in found] == [1] * 8
    for (item,), image in zip(found, images):
        assert set(item) == {"file_name", "image_id", "height", "width", "image"}
        assert item["image_id"] == image["id"]
        assert Path(item["file_name"]) == toy.val_images / image["file_name"]
        assert (item["height"], item["width"]) == (image["height"], image["width"])
        assert max(item["image"].shape) == 64 and item["image"].shape[0] == 3


def test_evaluation_loader_by_aspect_ratio(cfg, toy):
    """Batches of images of like shape, the widest first, and no image twice."""
    cfg.TEST.IMS_PER_BATCH, cfg.TEST.ASPECT_RATIO_ORDER = 3, True
    found = list(loader.build_test_loader(cfg, cfg.DATASETS.TEST[0]))
    assert [len(batch) for batch in found] == [3, 3, 2]
    items = [item for batch in found for item in batch]
    ratios = [item["height"] / item["width"] for item in items]
    assert ratios == sorted(ratios) and len(set(ratios)) > 1
    expected = [x["id"] for x in json.loads(toy.val_json.read_text())["images"]]
    assert sorted(item["image_id"] for item in items) == sorted(expected)


@pytest.mark.real_data
def test_real_data_sets_load(cfg, real_data):
    for name, folder, classes, count in [("bccd", "", 3, 205), ("coco_mini", "train", 80, 27)]:
        root = real_data / name
        files = (str(root / "instances_train.json"), str(root / folder))
        data_options.use_data(cfg, files, None)
        catalog.register_datasets(cfg)
        assert len(cfg.MODEL.YOLOR.CLASS_NAMES) == classes
        assert len(TrainingData(cfg).read()) == count
        assert len(batches(cfg, 1)[0]) == 2


def test_training_and_test_classes_must_be_the_same(cfg, tmp_path):
    for name, classes in {"a": ["cat", "dog"], "b": ["dog", "cat"]}.items():
        categories = [{"id": i, "name": x} for i, x in enumerate(classes)]
        images = [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}]
        data = {"images": images, "annotations": [], "categories": categories}
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    files = [(str(tmp_path / f"{name}.json"), str(tmp_path)) for name in "ab"]

    with pytest.raises(ValueError, match=r"b\.json.*'dog', 'cat'.*'cat', 'dog'"):
        data_options.use_data(cfg, *files)


def test_without_test_files_nothing_is_evaluated(cfg):
    (_, *files), *_ = cfg.DATASETS.REGISTER
    data_options.use_data(cfg, tuple(files), None)
    assert tuple(cfg.DATASETS.TEST) == ()


def test_a_file_of_another_kind_is_named(cfg, tmp_path):
    (tmp_path / "labels.json").write_text("[]")
    with pytest.raises(ValueError, match=r"labels\.json.*categories"):
        data_options.use_data(cfg, (str(tmp_path / "labels.json"), str(tmp_path)), None)


def test_evaluation_takes_very_elongated_images(cfg, tmp_path):
    Image.fromarray(np.zeros((1, 3000, 3), np.uint8)).save(tmp_path / "thin.png")
    mapper = loader.EvaluationMapper.from_config(cfg)
    made = mapper({"file_name": str(tmp_path / "thin.png"), "image_id": 1})
    assert made["image"].shape == (3, 1, 64)  # 64 / 3000 of one pixel is kept as one
    assert (made["height"], made["width"]) == (1, 3000)
