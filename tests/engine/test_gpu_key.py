"""The key that gives a GPU what suits it."""

import logging

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.engine.gpu import suit_gpu


@pytest.fixture
def on_gpu(cfg, monkeypatch):
    cfg.MODEL.DEVICE, cfg.SOLVER.SUIT_GPU = "cuda", True
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    return cfg


def test_it_is_off(cfg):
    assert not cfg.SOLVER.SUIT_GPU
    assert suit_gpu(cfg) is cfg


def test_channels_last_bfloat16_and_fused_operations(on_gpu, caplog):
    with caplog.at_level(logging.INFO, "yolor_d2"):
        cfg = suit_gpu(on_gpu)
    assert cfg.MODEL.CHANNELS_LAST and cfg.SOLVER.FUSED
    assert (cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE) == (True, "bfloat16")
    assert not on_gpu.MODEL.CHANNELS_LAST  # a copy was changed
    assert "channels last, bfloat16, fused optimiser and average" in caplog.text


def test_a_card_without_bfloat16_stays_with_float32(on_gpu, monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: False)
    with caplog.at_level(logging.INFO, "yolor_d2"):
        assert not suit_gpu(on_gpu).SOLVER.AMP.ENABLED
    assert "float32" in caplog.text


def test_a_precision_that_was_asked_for_stays(on_gpu):
    on_gpu.SOLVER.AMP.ENABLED, on_gpu.SOLVER.AMP.DTYPE = True, "float16"
    assert suit_gpu(on_gpu).SOLVER.AMP.DTYPE == "float16"


def test_muon_is_not_fused(on_gpu, caplog):
    on_gpu.SOLVER.OPTIMIZER = "Muon"
    with caplog.at_level(logging.INFO, "yolor_d2"):
        assert not suit_gpu(on_gpu).SOLVER.FUSED
    assert "plain optimiser" in caplog.text


def test_a_cpu_is_left_alone(on_gpu, caplog):
    on_gpu.MODEL.DEVICE = "cpu"
    with caplog.at_level(logging.INFO, "yolor_d2"):
        assert suit_gpu(on_gpu) is on_gpu
    assert "SOLVER.SUIT_GPU changes nothing: MODEL.DEVICE is 'cpu'" in caplog.text
