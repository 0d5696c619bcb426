"""Images with other numbers of channels than three, from the file to training and detections."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.commands import execute
from yolor_d2.data.augmentation.image import Sample, by_channels, flip_horizontal, random_hsv
from yolor_d2.data.augmentation.warp import warp_image
from yolor_d2.data.loader import build_train_loader
from yolor_d2.data.options import use_data
from yolor_d2.datasets.catalog import register_datasets
from yolor_d2.engine import Trainer
from yolor_d2.files.images import ImageReadError, read_image
from yolor_d2.predictor import BatchPredictor

CHANNELS = 12


def pixels(height: int = 6, width: int = 4, channels: int = CHANNELS) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_an_array_is_read_as_it_is(tmp_path):
    np.save(tmp_path / "a.npy", pixels())
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.npy", "BGR", channels=CHANNELS), pixels()
    )


def test_three_channels_of_an_array_are_rgb(tmp_path):
    np.save(tmp_path / "a.npy", pixels(channels=3))
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy", "BGR")[..., ::-1], pixels(6, 4, 3))


@pytest.mark.parametrize("bits", [8, 16])
def test_pages_of_a_tiff_are_channels(tmp_path, bits):
    wanted = pixels(channels=5)
    stored = wanted if bits == 8 else wanted.astype(np.uint16) * 256 + 7
    pages = [Image.fromarray(np.ascontiguousarray(stored[..., i])) for i in range(5)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", channels=5), wanted)
    with pytest.raises(ImageReadError, match=r"a\.tif.*it has 5 channels, expected 6"):
        read_image(tmp_path / "a.tif", channels=6)


def test_any_image_is_read_as_grey(tmp_path):
    Image.fromarray(np.array([[[255, 0, 0], [10, 10, 10]]], np.uint8)).save(tmp_path / "a.png")
    grey = read_image(tmp_path / "a.png", channels=1)
    assert grey.tolist() == [[[76], [10]]]  # 0.299 * 255


def test_what_does_not_fit_is_named(tmp_path):
    np.save(tmp_path / "float.npy", pixels().astype(np.float32))
    with pytest.raises(ImageReadError, match=r"float\.npy.*float32, expected uint8"):
        read_image(tmp_path / "float.npy", channels=CHANNELS)
    np.save(tmp_path / "few.npy", pixels(channels=4))
    with pytest.raises(ImageReadError, match=r"few\.npy.*\(6, 4, 4\), expected \(H, W, 12\)"):
        read_image(tmp_path / "few.npy", channels=CHANNELS)
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ImageReadError, match=r"object\.npy"):
        read_image(tmp_path / "object.npy", channels=CHANNELS)


def test_channels_are_warped_alike():
    """Each channel of five comes out as it would alone, three times."""
    image, matrix = pixels(20, 30, 5), np.array([[0.8, 0.2, 3], [-0.1, 0.9, 2], [1e-3, 0, 1]])
    warped = warp_image(image, matrix, (16, 16))
    for i in range(5):
        alone = warp_image(np.repeat(image[..., i : i + 1], 3, axis=2), matrix, (16, 16))
        np.testing.assert_array_equal(warped[..., i], alone[..., 0])
    assert by_channels(image, lambda x: x[:5, :5]).shape == (5, 5, 5)


def test_augmentations_keep_the_channels():
    image = pixels()
    flipped = flip_horizontal(Sample(image, np.zeros((0, 4)), np.zeros(0, np.int64)))
    np.testing.assert_array_equal(flipped.image, image[:, ::-1])
    rng = np.random.default_rng(1)
    factor = 1 + np.random.default_rng(1).uniform(-1, 1, size=3)[2] * 0.4
    changed = random_hsv(image, rng, (0.015, 0.7, 0.4))
    np.testing.assert_allclose(changed, (image * factor).clip(0, 255), atol=1.01)


@pytest.fixture(scope="module")
def multispectral(toy, tmp_path_factory) -> list[str]:
    """Toy images with their colours four times, as arrays; JSON and folder."""
    folder = tmp_path_factory.mktemp("multispectral")
    content = json.loads(Path(toy.val_json).read_text())
    for entry in content["images"]:
        image = read_image(Path(toy.val_images) / entry["file_name"])
        entry["file_name"] = f"{entry['id']}.npy"
        np.save(folder / entry["file_name"], np.concatenate([image] * 4, axis=2))
    (folder / "all.json").write_text(json.dumps(content))
    return [str(folder / "all.json"), str(folder)]


@pytest.mark.heavy
@pytest.mark.parametrize("cache", ["none", "ram", "disk"])
def test_training_evaluation_and_prediction(cfg, multispectral, cache):
    use_data(cfg, multispectral, multispectral)
    register_datasets(cfg)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0] * CHANNELS, [255.0] * CHANNELS
    cfg.INPUT.CACHE, cfg.INPUT.AUGMENT.MIXUP = cache, 1.0
    cfg.INPUT.AUGMENT.DEGREES, cfg.INPUT.AUGMENT.FLIP_VERTICAL = 5.0, 0.5
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS, cfg.TEST.EVAL_PERIOD = 1, 0, 1
    if cache != "none":
        for _, batch in zip(range(3), build_train_loader(cfg)):
            assert all(x["image"].shape == (CHANNELS, 64, 64) for x in batch)
        return
    Path(cfg.OUTPUT_DIR).mkdir()
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert "bbox" in trainer._last_eval_results
    cfg.MODEL.WEIGHTS = str(Path(cfg.OUTPUT_DIR) / "model_final.pth")
    predictor = BatchPredictor(cfg)
    path = Path(multispectral[1]) / "25.npy"
    path = path if path.exists() else sorted(Path(multispectral[1]).glob("*.npy"))[0]
    by_path, by_array = predictor([path, np.load(path)])
    np.testing.assert_array_equal(by_path.scores.numpy(), by_array.scores.numpy())
    (failed,) = predictor([np.zeros((8, 8, 3), np.uint8)])
    assert "expected (H, W, 12) uint8" in failed.message


def test_the_other_commands_take_them(multispectral, tmp_path, capsys):
    more = ["MODEL.PIXEL_MEAN", str([0.0] * 12), "MODEL.PIXEL_STD", str([255.0] * 12)]
    config = ["--config-file", "quick/ssss_320_cpu.yaml"]
    out = tmp_path / "pictures"
    options = [*more, *config, "--workers", "1"]
    assert execute("check_dataset", ["--train", *multispectral, *options]) == 0
    assert "image_unreadable" not in capsys.readouterr().out
    execute(
        "visualize_data",
        [*config, "--train", *multispectral, "--output", str(out), "--num", "1", *more],
    )
    assert len(list(out.iterdir())) == 1
