"""SOLVER.IMS_PER_BATCH auto: the search, on a memory that is only pretended, and the key."""

from __future__ import annotations

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import torch

from yolor_d2 import model_zoo
from yolor_d2.config import apply_overrides, load_config
from yolor_d2.data.accumulation import Accumulation
from yolor_d2.engine.batch_size import (
    GIB,
    PRECISION,
    GPUTrial,
    fit_nominal,
    largest_batch,
    resolve_batch,
)

QUICK = model_zoo.get_config_file("quick/ssss_320_cpu.yaml")


class Memory:
    """A GPU on which a step takes 2 GiB and 0.5 GiB an image, and whose memory ends at a limit."""

    def __init__(self, size: float, share: float = 1.0):
        self.size, self.share = size * GIB, share
        self.tried: list[int] = []

    def limit(self) -> float:
        return self.share * self.size

    def __call__(self, batch: int) -> int | None:
        self.tried.append(batch)
        taken = int((2 + 0.5 * batch) * GIB)
        return None if taken > self.size else taken


@pytest.mark.parametrize("size", [2.5, 3, 4.4, 10, 23.7, 80])
@pytest.mark.parametrize("share", [0.8, 1.0])
def test_finds_the_largest_batch_to_an_eighth(size, share):
    memory = Memory(size, share)
    best = int((memory.limit() / GIB - 2) / 0.5)
    if best < 1:
        with pytest.raises(ValueError, match="one image"):
            largest_batch(memory, memory.limit(), 1000)
        return
    batch, taken = largest_batch(memory, memory.limit(), 1000)
    assert taken == memory(batch) <= memory.limit()
    assert best - max(best // PRECISION, 1) < batch <= best
    assert len(memory.tried) < 16


@pytest.mark.parametrize("most", [1, 3, 8])
def test_takes_no_more_than_is_enough(most):
    memory = Memory(1000)
    assert largest_batch(memory, memory.limit(), most)[0] == most
    assert max(memory.tried) == most


@pytest.mark.parametrize(
    ("batch", "nominal", "world_size", "expected"),
    [
        (24, 0, 1, 24),
        (24, 64, 1, 16),  # four batches an iteration
        (64, 64, 1, 64),
        (24, 64, 2, 16),
        (72, 64, 8, 64),
        (12, 64, 3, 12),  # three processes share no divisor of 64
    ],
)
def test_an_iteration_has_the_nominal_number_of_images(batch, nominal, world_size, expected):
    assert fit_nominal(batch, nominal, world_size) == expected


def test_the_key_takes_the_word_and_numbers_from_file_and_command_line(tmp_path):
    file = tmp_path / "auto.yaml"
    file.write_text(f"_BASE_: {QUICK}\nSOLVER: {{IMS_PER_BATCH: auto}}\n")
    assert load_config(file).SOLVER.IMS_PER_BATCH == "auto"
    assert load_config(QUICK, ["SOLVER.IMS_PER_BATCH", "auto"]).SOLVER.IMS_PER_BATCH == "auto"
    assert load_config(file, ["SOLVER.IMS_PER_BATCH", "12"]).SOLVER.IMS_PER_BATCH == 12
    child = tmp_path / "number.yaml"
    child.write_text(f"_BASE_: {file}\nSOLVER: {{IMS_PER_BATCH: 4}}\n")
    assert load_config(child).SOLVER.IMS_PER_BATCH == 4
    written = tmp_path / "written.yaml"
    written.write_text(load_config(file).dump())
    assert load_config(written).SOLVER.IMS_PER_BATCH == "auto"


@pytest.mark.parametrize("value", ["automatic", "0", "-1", "4.5"])
def test_other_words_and_numbers_are_refused(value):
    with pytest.raises(ValueError, match=r"IMS_PER_BATCH|Type mismatch"):
        load_config(QUICK, ["SOLVER.IMS_PER_BATCH", value])


def test_other_commands_ask_for_a_number(cfg):
    apply_overrides(cfg, ["SOLVER.IMS_PER_BATCH", "auto"])
    with pytest.raises(ValueError, match="only yolor-d2 train"):
        Accumulation.from_config(cfg)


def test_without_a_gpu_a_number_is_asked_for(cfg):
    apply_overrides(cfg, ["SOLVER.IMS_PER_BATCH", "auto"])
    with pytest.raises(ValueError, match=r"MODEL\.DEVICE is 'cpu': give a number"):
        resolve_batch(cfg, resume=False, trial=GPUTrial)


def test_what_was_found_is_set_and_said(cfg):
    apply_overrides(cfg, ["SOLVER.IMS_PER_BATCH", "auto", "SOLVER.NOMINAL_BATCH", "64"])
    said = resolve_batch(cfg, resume=False, trial=lambda cfg: Memory(12, share=0.8))
    # 15 images take 9.5 GiB of 9.6; an iteration is 64 images in batches of 8.
    assert cfg.SOLVER.IMS_PER_BATCH == 8
    assert "8 images" in said and "9.6 GiB" in said
    assert Accumulation.from_config(cfg).full == 8


def test_no_more_than_the_data_set_has(cfg):
    apply_overrides(cfg, ["SOLVER.IMS_PER_BATCH", "auto"])
    resolve_batch(cfg, resume=False, trial=lambda cfg: Memory(1000))
    assert cfg.SOLVER.IMS_PER_BATCH == 24


def test_a_run_that_goes_on_keeps_its_number(cfg, tmp_path):
    cfg.OUTPUT_DIR = str(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    (tmp_path / "config.yaml").write_text(cfg.dump())  # with batches of 2
    apply_overrides(cfg, ["SOLVER.IMS_PER_BATCH", "auto"])
    assert "2 images" in resolve_batch(cfg, resume=True, trial=Memory)
    assert cfg.SOLVER.IMS_PER_BATCH == 2


def test_a_trial_makes_steps_of_the_training(cfg):
    """All but the reading of the GPU's memory also runs on the CPU."""
    cfg.INPUT.MULTI_SCALE = 0.5
    trial = GPUTrial(cfg)
    assert {sample["image"].shape[-1] for sample in trial.samples} == {96}
    counts = [len(sample["instances"]) for sample in trial.samples]
    assert len(counts) == 16 and max(counts) > 0
    trial.make_steps(trial.samples[:2])


@pytest.mark.gpu
def test_on_a_gpu_the_batch_fits(cfg):
    cfg.MODEL.DEVICE = "cuda"
    apply_overrides(cfg, ["SOLVER.IMS_PER_BATCH", "auto"])
    said = resolve_batch(cfg, resume=False, trial=GPUTrial)
    assert 1 <= cfg.SOLVER.IMS_PER_BATCH <= 24 and "GiB" in said
    trial = GPUTrial(cfg)
    assert trial(cfg.SOLVER.IMS_PER_BATCH) <= trial.limit()
    assert trial(10**6) is None or torch.cuda.mem_get_info()[1] > 10**13
