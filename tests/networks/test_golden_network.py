"""Whole networks of both forms against numbers recorded from the reference implementation.

YOLOR-P6 as the paper's branch builds it and YOLOR-SSSS-DWT are form Y, YOLOR-CSP is form D. The
records were computed in double precision. Weights are drawn by rule, so this checks arithmetic and
wiring, not detection. Outputs are thinned to `flat[::step]`.
"""

import copy

import golden_records
import pytest
import torch

from yolor_d2.checkpoint import convert_checkpoint
from yolor_d2.checkpoint.convert import parts_of
from yolor_d2.golden import FLOAT32_FACTOR, image, network_weights
from yolor_d2.networks import build_network
from yolor_d2.ops import xyxy_to_cxcywh

NETWORKS = ["yolor_p6_paper", "yolor_csp", "yolor_ssss_dwt"]


class Record:
    """A record beside our network with the same weights, which went through a file of theirs."""

    def __init__(self, name, folder):
        self.info, self.arrays = golden_records.load_record(name)
        weights = network_weights(self.info, self.arrays)
        torch.save({"epoch": -1, "model": weights}, folder / f"{name}.pt")
        self.network = build_network(name)
        self.network.load_state_dict(convert_checkpoint(folder / f"{name}.pt", name))
        self.images = image(self.info["input_tag"], self.info["input_shape"])
        scheme = "cfg" if name == "yolor_csp" else "yaml"
        self.names = {v: k for k, v in parts_of(self.network).names(scheme).items()}

    def difference(self, name, output):
        """Largest difference between an output and the record of that name."""
        expected = torch.from_numpy(self.arrays[name]).double()
        ours = output.double().reshape(-1)[:: self.info["step"]]
        return (ours - expected).abs().max().item()

    def differences(self, prefix, levels):
        assert {name for name in self.arrays if name.startswith(prefix)} == {
            f"{prefix}{i}" for i in range(len(levels))
        }
        return max(self.difference(f"{prefix}{i}", level) for i, level in enumerate(levels))

    def decoded_difference(self, rows):
        """The record has boxes as cxcywh, ours are xyxy."""
        rows = torch.cat([xyxy_to_cxcywh(rows[..., :4]), rows[..., 4:]], dim=-1)
        return self.difference("decoded", rows)


@pytest.fixture(scope="module", params=NETWORKS)
def record(request, tmp_path_factory):
    return Record(request.param, tmp_path_factory.mktemp("record"))


@torch.no_grad()
def test_eval_in_double_precision(record):
    network = copy.deepcopy(record.network).double().eval()
    levels = network(record.images.double())
    assert record.differences("raw", levels) < 1e-4
    assert record.decoded_difference(network.decode(levels)) < 1e-2  # pixels


@torch.no_grad()
def test_eval_in_single_precision(record):
    network = copy.deepcopy(record.network).eval()
    levels = network(record.images)
    tolerance = record.info["tolerance_info"]
    raw = FLOAT32_FACTOR * tolerance["raw_maxabs_f32_vs_f64"]
    decoded = FLOAT32_FACTOR * tolerance["decoded_maxabs_f32_vs_f64"]
    assert record.differences("raw", levels) < raw
    assert record.decoded_difference(network.decode(levels)) < decoded


@torch.no_grad()
def test_train_mode_and_the_update_of_running_statistics(record):
    network = copy.deepcopy(record.network).double().train()
    levels = network(record.images.double())
    assert record.differences("train_raw", levels) < 1e-4
    # After one step: momentum 0.03 and the unbiased variance.
    for place, key in record.info["bn_after_train"].items():
        norm = network.get_submodule(record.names[key].removesuffix(".running_mean"))
        for name, ours in (("mean", norm.running_mean), ("var", norm.running_var)):
            expected = torch.from_numpy(record.arrays[f"bn_after_train_{place}_{name}"]).double()
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)


def test_parameter_count(record):
    count = sum(p.numel() for p in record.network.parameters())
    assert count == record.info["params"]
