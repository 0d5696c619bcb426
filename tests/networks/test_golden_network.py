"""Whole networks of both forms against numbers recorded from the reference implementation.

YOLOR-P6 as the paper's branch builds it and YOLOR-SSSS-DWT are form Y, YOLOR-CSP is form D. Of
YOLOv7 there are the tiny network and W6 with its auxiliary heads, of YOLOv5 the small one. The
records were computed in double precision. Weights are drawn by rule, so this checks arithmetic and
wiring, not detection. Outputs are thinned to `flat[::step]`, the newer ones also to some channels.
"""

import copy

import golden_records
import pytest
import torch

from yolor_d2.checkpoint import convert_checkpoint
from yolor_d2.checkpoint.conversion.parts import parts_of
from yolor_d2.golden import FLOAT32_FACTOR, image, load_record, network_weights
from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.networks import build_network
from yolor_d2.ops import xyxy_to_cxcywh

NETWORKS = [
    *("yolor_p6_paper", "yolor_csp", "yolor_ssss_dwt"),
    *("yolov7_tiny", "yolov7_w6", "yolov5_s"),
]
# Full records, where a folder beside that of the test data has them, and the networks.
FULL = {
    "yolov7-tiny": "yolov7_tiny",
    "yolov7": "yolov7",
    "yolov7-w6": "yolov7_w6",
    "yolov5s-r5": "yolov5_s",
}


class Record:
    """A record beside our network with the same weights, which went through a file of theirs.

    Args:
        name: of the network.
        info, arrays: the record.
        folder: for the file.
    """

    def __init__(self, name, info, arrays, folder):
        self.info, self.arrays = info, arrays
        weights = network_weights(info, arrays)
        torch.save({"epoch": -1, "model": weights}, folder / f"{name}.pt")
        self.network = build_network(name)
        self.network.load_state_dict(convert_checkpoint(folder / f"{name}.pt", name))
        self.images = image(info["input_tag"], info["input_shape"])
        scheme = "cfg" if name == "yolor_csp" else "yaml"
        self.names = {v: k for k, v in parts_of(self.network).names(scheme).items()}

    def difference(self, name, output):
        """Largest difference between an output and the record of that name."""
        expected = torch.from_numpy(self.arrays[name]).double().flatten()
        if "stored_channels" in self.info:
            output = output[..., self.info["stored_channels"]]
        ours = output.double().reshape(-1)[:: self.info.get("step", 1)]
        return (ours - expected).abs().max().item()

    def differences(self, prefix, levels):
        assert {name for name in self.arrays if name.startswith(prefix)} == {
            f"{prefix}{i}" for i in range(len(levels))
        }
        return max((self.difference(f"{prefix}{i}", x) for i, x in enumerate(levels)), default=0)

    def decoded_difference(self, rows):
        """The record has boxes as cxcywh, ours are xyxy."""
        rows = torch.cat([xyxy_to_cxcywh(rows[..., :4]), rows[..., 4:]], dim=-1)
        return self.difference("decoded", rows)

    def leads_and_auxiliaries(self, levels):
        num_levels = len(self.network.strides)
        return levels[:num_levels], levels[num_levels:]


@pytest.fixture(scope="module", params=NETWORKS)
def record(request, tmp_path_factory):
    info, arrays = golden_records.load_record(request.param)
    return Record(request.param, info, arrays, tmp_path_factory.mktemp("record"))


@pytest.mark.heavy
@torch.no_grad()
def test_eval_in_double_precision(record):
    """Also of the network in its form for inference."""
    network = copy.deepcopy(record.network).double().eval()
    levels = network(record.images.double())
    assert record.differences("raw", levels) < 1e-4
    assert record.decoded_difference(network.decode(levels)) < 1e-2  # pixels
    fused = fuse_for_inference(network)(record.images.double())
    assert max((a - b).abs().max() for a, b in zip(levels, fused)) < 1e-9

    # Auxiliary heads on running statistics: norms do not train, the neck does.
    network.neck.training = True
    again, auxiliary = record.leads_and_auxiliaries(network(record.images.double()))
    assert record.differences("aux_raw", auxiliary) < 1e-4
    assert all(torch.equal(a, b) for a, b in zip(levels, again))
    if "stored_channels" in record.info:  # of the outputs of all channels, in double precision
        for prefix, maps in (("raw", levels), ("aux_raw", auxiliary)):
            means = record.info["tolerance_info"][f"{prefix}_mean"]
            assert [x.mean().item() for x in maps] == pytest.approx(means, abs=1e-8)


@torch.no_grad()
def test_eval_in_single_precision(record):
    network = copy.deepcopy(record.network).eval()
    levels = network(record.images)
    tolerance = record.info["tolerance_info"]
    raw = FLOAT32_FACTOR * tolerance["raw_maxabs_f32_vs_f64"]
    decoded = FLOAT32_FACTOR * tolerance["decoded_maxabs_f32_vs_f64"]
    assert record.differences("raw", levels) < raw
    assert record.decoded_difference(network.decode(levels)) < decoded


@pytest.mark.heavy
@torch.no_grad()
def test_train_mode_and_the_update_of_running_statistics(record):
    network = copy.deepcopy(record.network).double().train()
    leads, auxiliary = record.leads_and_auxiliaries(network(record.images.double()))
    assert record.differences("train_raw", leads) < 1e-4
    assert record.differences("train_aux_raw", auxiliary) < 1e-4
    # After one step: momentum 0.03 and the unbiased variance.
    for place, key in record.info["bn_after_train"].items():
        norm = network.get_submodule(record.names[key].removesuffix(".running_mean"))
        for name, ours in (("mean", norm.running_mean), ("var", norm.running_var)):
            expected = torch.from_numpy(record.arrays[f"bn_after_train_{place}_{name}"]).double()
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-6)


def test_parameter_count(record):
    count = sum(p.numel() for p in record.network.parameters())
    assert count == record.info["params"]


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", FULL)
def test_full_records(name, real_data, tmp_path):
    """Every recorded number; the records in `golden/` are thinned."""
    folder = real_data.parent / "golden_v7"
    if not (folder / f"{name}.npz").is_file():
        pytest.skip(f"no full record of {name} beside {real_data}")
    info, arrays = load_record(folder, name)
    record = Record(FULL[name], info | {"input_tag": f"input:{name}"}, arrays, tmp_path)
    test_eval_in_double_precision(record)
    test_eval_in_single_precision(record)
    test_train_mode_and_the_update_of_running_statistics(record)
    test_parameter_count(record)
