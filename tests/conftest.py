"""Fixtures: a small generated data set and a small configuration on it."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import TYPE_CHECKING

# What is imported stays: looking for garbage among it would take seconds now, and most of a second
# at each full collection in a test.
gc.disable()

import pytest  # noqa: E402

if TYPE_CHECKING:
    from yolor_d2.toy import ToyDataset


def pytest_collection_finish() -> None:
    """Where tests run; what gives them to other processes imports nothing that takes seconds."""
    import torch

    torch.set_num_threads(1)
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # what Hypothesis looks through for its own report


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images, for tests marked real_data."""
    folder = os.environ.get("YOLOR_D2_TEST_DATA")
    if not folder:
        pytest.skip("YOLOR_D2_TEST_DATA names no folder of real images")
    return Path(folder)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> ToyDataset:
    """24 images to train on and 8 to evaluate on, four classes."""
    from yolor_d2.toy import write_toy_dataset

    root = tmp_path_factory.mktemp("toy")
    return write_toy_dataset(root, num_train=24, num_val=8, image_size=(96, 128))


@pytest.fixture(scope="session")
def toy_config(toy: ToyDataset):
    """A narrow model on the toy data at 64 px, batch 2, 6 iterations, CPU. To be cloned."""
    from yolor_d2.config import load_config
    from yolor_d2.data.options import use_data
    from yolor_d2.datasets.catalog import register_datasets

    config = load_config("quick/ssss_320_cpu.yaml", ["MODEL.DEVICE", "cpu"])
    use_data(
        config,
        (str(toy.train_json), str(toy.train_images)),
        (str(toy.val_json), str(toy.val_images)),
    )
    register_datasets(config)
    config.INPUT.MIN_SIZE_TRAIN = (64,)
    config.INPUT.MAX_SIZE_TRAIN = 64
    config.INPUT.MIN_SIZE_TEST = 64
    config.INPUT.MAX_SIZE_TEST = 64
    config.MODEL.YOLOR.WIDTH_FACTOR = 0.25
    config.SOLVER.IMS_PER_BATCH = 2
    config.SOLVER.MAX_ITER = 6
    config.SOLVER.WARMUP_ITERS = 2
    config.SOLVER.CHECKPOINT_PERIOD = 3
    config.TEST.EVAL_PERIOD = 0
    config.TEST.REPORT = False  # a second or two for each of many trainings
    return config


@pytest.fixture
def cfg(toy_config, tmp_path: Path):
    """A copy of the small configuration, with a folder of its own."""
    config = toy_config.clone()
    config.OUTPUT_DIR = str(tmp_path / "run")
    return config
