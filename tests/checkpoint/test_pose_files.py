"""Files as the program of YOLOv7's pose network writes them, as weights of ours."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from checkpoint.authors_files import OF_A_RUN, STRIPPED, save_authors_file, with_anchors

from yolor_d2.checkpoint import YOLORCheckpointer, convert_checkpoint
from yolor_d2.checkpoint.conversion.names import rename_keys
from yolor_d2.checkpoint.conversion.parts import parts_of
from yolor_d2.checkpoint.conversion.yaml_scheme import keypoint_names
from yolor_d2.config import load_config
from yolor_d2.d2.modeling import build_model
from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.modeling import YOLOR
from yolor_d2.networks import get_variant
from yolor_d2.networks.variant import scale

CONFIG = "yolov7_w6_pose.yaml"
HEAD = 118  # its number in their file, which lacks auxiliary heads


def build(*opts, seed=0):
    torch.manual_seed(seed)
    small = ["MODEL.YOLOR.WIDTH_FACTOR", "0.125", "MODEL.DEVICE", "cpu"]
    return build_model(load_config(CONFIG, [*small, *opts])).eval()


@pytest.fixture(scope="module")
def trained():
    """Any weights, that half precision holds exactly; the alignment is that of detection alone."""
    model = build(seed=1)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_((torch.rand_like(value) - 0.5) * 0.1)
    return model.half().float()


@pytest.fixture(scope="module")
def state(trained):
    """Their names."""
    parts, branch = parts_of(trained), trained.tasks.keypoints
    names = parts.names("yaml")
    state = {names[key]: value for key, value in parts.state_dict().items()}
    names = rename_keys(list(branch.state_dict()), keypoint_names(branch, HEAD))
    state |= {names[key]: value for key, value in branch.state_dict().items()}
    return with_anchors(state, trained.anchors, trained.strides)


@torch.no_grad()
def their_outputs(trained, pixels):
    """Their network: detection aligned, points not, channels joined and cut anew."""
    neck, head, branch = trained.backbone.neck, trained.head, trained.tasks.keypoints
    aligned = list(trained.backbone(pixels).values())
    outputs = []
    for i, x in enumerate(aligned):
        plain = x - neck.align[i].value()
        detection = head.refine[i](head.predict[i](x))  # (N, 18, H, W)
        points = branch.predict[i](branch.convs[i](plain))  # (N, 153, H, W)
        joined = torch.cat([detection, points], dim=1)
        outputs.append(joined.view(len(x), 3, 57, *x.shape[2:]).permute(0, 1, 3, 4, 2))
    return outputs


@torch.no_grad()
def our_outputs(model, pixels):
    levels, outputs = model.run(pixels, torch.tensor([[0, 0, 64, 128]]))
    points = outputs["keypoints"]
    return [torch.cat([a, b.flatten(-2)], dim=-1) for a, b in zip(levels, points)]


@pytest.mark.heavy
@pytest.mark.parametrize("alignment", ["add", "none"])
def test_the_authors_weights_compute_what_their_network_does(tmp_path, trained, state, alignment):
    path = save_authors_file(tmp_path / "pose.pt", state, OF_A_RUN, ema=state)
    model = build("MODEL.YOLOR.IMPLICIT.FEATURE_ALIGNMENT", alignment)
    YOLORCheckpointer(model, strict=True).load(str(path))
    pixels = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    ours, theirs = our_outputs(model, pixels), their_outputs(trained, pixels)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert max(float(x.abs().max()) for x in theirs) > 0.1
    fused = fuse_for_inference(model)
    for a, b in zip(our_outputs(fused, pixels), theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.heavy
def test_implicit_knowledge_in_the_branch_starts_afresh(tmp_path, trained, state, caplog):
    path = save_authors_file(tmp_path / "pose.pt", state, STRIPPED)
    model = build("MODEL.YOLOR.TASKS.KEYPOINTS.IMPLICIT", "add")
    fresh = model.tasks.keypoints.implicit[0].z.clone()
    YOLORCheckpointer(model).load(str(path))
    assert "4 missing (tasks.keypoints.implicit.0.z" in caplog.text
    assert torch.equal(model.tasks.keypoints.implicit[0].z, fresh)
    ours, theirs = model.tasks.keypoints.predict, trained.tasks.keypoints.predict
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(ours, theirs))


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["LAYOUT", ""], r"pose\.pt' are those of YOLOv7's pose network.*KEYPOINTS\.LAYOUT"),
        (["NUM_KEYPOINTS", "5"], r"of another shape \(tasks\.keypoints\.predict"),
        (["LAYERS", "4"], r"do not fit: \d+ unused.*yolov7_w6_pose"),
        (["ENABLED", "False"], r"do not fit: \d+ unused \(model\.118\.m_kpt.*yolov7_w6_pose"),
    ],
)
def test_other_branches_are_refused(tmp_path, state, opts, message):
    path = save_authors_file(tmp_path / "pose.pt", state, STRIPPED)
    opts[0] = f"MODEL.YOLOR.TASKS.KEYPOINTS.{opts[0]}"
    with pytest.raises(ValueError, match=message):
        YOLORCheckpointer(build(*opts)).load(str(path))


@pytest.mark.heavy
def test_another_number_of_classes_is_refused(tmp_path, state):
    path = save_authors_file(tmp_path / "pose.pt", state, STRIPPED)
    with pytest.raises(ValueError, match=r"are for 1 class, MODEL\.YOLOR\.NUM_CLASSES is 2"):
        YOLORCheckpointer(build("MODEL.YOLOR.NUM_CLASSES", "2")).load(str(path))


@pytest.mark.heavy
def test_a_detector_alone_names_the_configuration(tmp_path, state):
    path = save_authors_file(tmp_path / "pose.pt", state, STRIPPED)
    with pytest.raises(ValueError, match=r"m_kpt.*configs/yolov7_w6_pose\.yaml"):
        convert_checkpoint(path, scale(get_variant("yolov7_w6"), 0.125, 1))


@pytest.mark.heavy
def test_parameters_are_those_of_the_authors():
    """Theirs fold norms alone; 2,632 of implicit knowledge stay."""

    def on_meta(*opts):
        with torch.device("meta"):
            return YOLOR(load_config(CONFIG, ["MODEL.DEVICE", "cpu", *opts]))

    def count(module):
        return sum(p.numel() for p in module.parameters())

    model = on_meta()
    assert count(model) == 80_238_452 and count(model.tasks) == 10_417_252
    fused = fuse_for_inference(on_meta("MODEL.YOLOR.IMPLICIT.FEATURE_ALIGNMENT", "none"))
    assert count(fused) == 80_178_356 - 2_632
