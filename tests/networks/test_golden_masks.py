"""The branch of masks against recorded numbers of the authors' YOLOv7-seg."""

import golden_records
import pytest
import torch
from torch import nn

from yolor_d2.golden import uniform, weight
from yolor_d2.layers import FORM_V7, build_implicit
from yolor_d2.networks import AnchorHead
from yolor_d2.networks.branches import MaskBranch
from yolor_d2.networks.branches.masks import coefficients_of_rows
from yolor_d2.ops import decode, xyxy_to_cxcywh

CASE = "v7_iseg"
WIDTHS, STRIDES, CLASSES, COEFFICIENTS = (8, 12), (8, 16), 4, 6
ANCHORS = torch.tensor([[[12, 16], [19, 36], [40, 28]], [[36, 75], [76, 55], [72, 146]]])
# Ours to the reference's names.
PROTOTYPES = {"reduce": "cv1", "smooth": "cv2", "project": "cv3"}


@pytest.fixture(scope="module")
def record():
    return golden_records.load_record("tasks_seg")


@pytest.fixture(scope="module")
def parts(record):
    """Alignment, head and branch with the recorded weights, in double precision."""
    keys = {key: (shape, kind) for key, shape, kind in record[0][CASE]["keys"] if kind != "keep"}
    given = {key: weight(f"{CASE}:{key}", *x, norm_gain=1.0) for key, x in keys.items()}
    align = nn.ModuleList(build_implicit("add", c) for c in WIDTHS)
    # The reference has implicit knowledge for the detections too, but does not apply it.
    head = AnchorHead(WIDTHS, strides=STRIDES, num_anchors=3, num_classes=CLASSES, implicit="none")
    branch = MaskBranch(
        WIDTHS,
        **{"strides": STRIDES, "num_anchors": 3, "channels": 10, "coefficients": COEFFICIENTS},
        implicit="mul",
        form=FORM_V7,
    )
    with torch.no_grad():
        for i in range(2):
            align[i].z.copy_(given[f"ia.{i}.implicit"])
            branch.refine[i].z.fill_(1)
            for name in ("weight", "bias"):
                rows = given[f"m.{i}.{name}"].unflatten(0, (3, -1))
                detection, mixing = rows.split([5 + CLASSES, COEFFICIENTS], dim=1)
                getattr(head.predict[i], name).copy_(detection.flatten(0, 1))
                getattr(branch.predict[i], name).copy_(mixing.flatten(0, 1))
        for ours, theirs in PROTOTYPES.items():
            layer = getattr(branch, ours)
            layer.conv.weight.copy_(given[f"proto.{theirs}.conv.weight"])
            for name in ("weight", "bias", "running_mean", "running_var"):
                getattr(layer.norm, name).copy_(given[f"proto.{theirs}.bn.{name}"])
    return nn.ModuleDict({"align": align, "head": head, "branch": branch}).double().eval()


@torch.no_grad()
def test_raw_outputs_decoded_rows_and_prototypes_equal_the_record(record, parts):
    info, arrays = record
    shapes = info[CASE]["inputs"]
    maps = [4 * uniform(f"{CASE}:{i}:x", *shape) - 2 for i, shape in enumerate(shapes)]
    features = [torch.from_numpy(x).float().double() for x in maps]
    aligned = [align(x) for align, x in zip(parts["align"], features)]
    levels = parts["head"](aligned)
    coefficients = parts["branch"](aligned, None).coefficients
    # The reference makes its prototypes of features that are not aligned.
    prototypes = parts["branch"](features, None).prototypes

    def assert_recorded(name, ours, atol=1e-5):
        expected = torch.from_numpy(arrays[f"{CASE}/{name}"]).double()
        torch.testing.assert_close(ours, expected, atol=atol, rtol=0)

    for i in range(2):
        assert_recorded(f"raw{i}", torch.cat([levels[i], coefficients[i]], dim=4))
    rows = decode(levels, ANCHORS.double(), STRIDES)
    every = torch.arange(rows.shape[1])
    mixing = [coefficients_of_rows([x[n] for x in coefficients], every) for n in range(2)]
    rows = torch.cat([xyxy_to_cxcywh(rows[..., :4]), rows[..., 4:], torch.stack(mixing)], dim=2)
    assert_recorded("decoded", rows, atol=1e-3)
    assert_recorded("proto", prototypes)
