"""Logits of the recorded networks on the device, beside those of the reference implementation.

The records were computed in double precision. For float32, with TF32 off, the tolerance is that of
the tests.
"""

from __future__ import annotations

import torch

from ...checkpoint.conversion.parts import parts_of
from ...golden import FLOAT32_FACTOR, image, load_record, network_weights
from ...networks import YOLORNetwork, build_network
from .common import Findings, Setting, tf32

# The name of a record is that of the network's variant; by size.
NETWORKS = (
    *("yolor_ssss_dwt", "yolor_csp", "yolor_p6_paper"),
    *("yolov7_tiny", "yolov7_w6", "yolov5_s"),
)
# Whose weights are named as in the authors' branch main; the others are of their branch paper.
CFG_NETWORKS = ("yolor_csp",)


def recorded_network(name: str, info: dict, arrays: dict) -> YOLORNetwork:
    """Our network with the weights of a record, in evaluation mode."""
    network = build_network(name)
    names = parts_of(network).names("cfg" if name in CFG_NETWORKS else "yaml")
    weights = network_weights(info, arrays)
    network.load_state_dict({ours: weights[theirs] for ours, theirs in names.items()})
    return network.eval()


@torch.no_grad()
def compare(
    network: YOLORNetwork, info: dict, arrays: dict, device: torch.device, dtype: torch.dtype
) -> dict:
    """Largest differences between the logits and the record.

    Args:
        network: is moved to the device and the type.
        info: description of the record.
        arrays: numbers of the record; "raw0", "raw1", ... are every `info["step"]`-th logit, of
            `info["stored_channels"]` alone where it has them.
        device: where the logits are computed.
        dtype: in what.
    """
    network.to(device=device, dtype=dtype)
    pixels = image(info["input_tag"], info["input_shape"]).to(device=device, dtype=dtype)
    difference, largest = torch.zeros(()).double(), torch.zeros(()).double()
    for i, level in enumerate(network(pixels)):
        expected = torch.from_numpy(arrays[f"raw{i}"]).double()
        if "stored_channels" in info:
            level = level[..., info["stored_channels"]]
        ours = level.double().cpu().reshape(-1)[:: info["step"]]
        # These maxima pass on what is no number.
        difference = torch.maximum(difference, (ours - expected).abs().amax())
        largest = torch.maximum(largest, expected.abs().amax())
    tolerance = None
    if dtype == torch.float32:
        tolerance = FLOAT32_FACTOR * info["tolerance_info"]["raw_maxabs_f32_vs_f64"]
    return {
        "largest difference of a logit": difference.item(),
        "tolerance": tolerance,
        "largest logit": largest.item(),
        "difference in % of it": 100 * (difference / largest).item(),
    }


def measure(setting: Setting, findings: Findings) -> None:
    """Compare each recorded network in float32 and bfloat16.

    Raises:
        ValueError: when logits in float32 are not within the tolerance.
    """
    if not setting.golden.is_dir():
        findings.leave_out("everything", f"no such folder {str(setting.golden)!r} (--golden)")
        return
    with tf32(False):
        for name in findings.while_time(NETWORKS[:1] if setting.dry else NETWORKS):
            info, arrays = load_record(setting.golden, name)
            network = recorded_network(name, info, arrays)
            for dtype in (torch.float32, torch.bfloat16):
                row = compare(network, info, arrays, setting.device, dtype)
                findings.rows.append({"network": name, "type": str(dtype).split(".")[1], **row})
    findings.notes.append(
        "bfloat16 has no tolerance: the random weights of the records magnify its rounding."
    )
    far = [
        row["network"]
        for row in findings.rows
        if row["tolerance"] and not row["largest difference of a logit"] < row["tolerance"]
    ]
    if far:
        raise ValueError(f"beyond the tolerance in float32: {', '.join(far)}")
