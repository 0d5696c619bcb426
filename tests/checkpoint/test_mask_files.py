"""Files as the program of YOLOv7's network of masks writes them, as weights of ours."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from checkpoint.authors_files import OF_A_RUN, STRIPPED, save_authors_file, with_anchors

from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.checkpoint.conversion.names import rename_keys
from yolor_d2.checkpoint.conversion.parts import parts_of
from yolor_d2.checkpoint.conversion.yaml_scheme import prototype_names
from yolor_d2.config import load_config
from yolor_d2.d2.modeling import build_model

CONFIG = "yolov7_seg.yaml"
HEAD = 105
REFINED = ["MODEL.YOLOR.IMPLICIT.PREDICTION_REFINEMENT", "mul"]


def build(*opts, seed=0):
    torch.manual_seed(seed)
    small = ["MODEL.YOLOR.WIDTH_FACTOR", "0.125", "MODEL.DEVICE", "cpu"]
    small += ["MODEL.YOLOR.TASKS.MASKS.CHANNELS", "12"]
    return build_model(load_config(CONFIG, [*small, *opts])).eval()


@pytest.fixture(scope="module")
def trained():
    """Any weights, that half precision holds exactly, with what refines predictions."""
    model = build(*REFINED, seed=1)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.add_((torch.rand_like(value) - 0.5) * 0.1)
    return model.half().float()


@pytest.fixture(scope="module")
def state(trained):
    """Their names: detections and coefficients of an anchor are one layer's."""
    parts, branch = parts_of(trained), trained.tasks.masks
    names = parts.names("yaml")
    state = {names[key]: value for key, value in parts.state_dict().items()}
    for i in range(3):
        for name in ("weight", "bias"):
            key = f"model.{HEAD}.m.{i}.{name}"
            both = [state[key], getattr(branch.predict[i], name).detach()]
            both = [x.unflatten(0, (3, -1)) for x in both]
            state[key] = torch.cat(both, dim=1).flatten(0, 1)
    keys = [key for key in branch.state_dict() if not key.startswith("predict.")]
    names = rename_keys(keys, prototype_names(branch, HEAD))
    state |= {names[key]: branch.state_dict()[key] for key in keys}
    return with_anchors(state, trained.anchors, trained.strides)


@torch.no_grad()
def their_outputs(trained, pixels):
    """Their network: nothing is refined, and prototypes are of features that are not aligned."""
    neck, branch = trained.backbone.neck, trained.tasks.masks
    aligned = list(trained.backbone(pixels).values())
    rows = []
    for i, x in enumerate(aligned):
        both = (trained.head.predict[i](x), branch.predict[i](x))
        both = [y.unflatten(1, (3, -1)).permute(0, 1, 3, 4, 2) for y in both]
        rows.append(torch.cat(both, dim=4))
    plain = [x - align.value() for x, align in zip(aligned, neck.align)]
    return [*rows, branch(plain, None).prototypes]


@torch.no_grad()
def our_outputs(model, pixels):
    levels, outputs = model.run(pixels, None)
    coefficients, prototypes = outputs["masks"]
    return [*(torch.cat(x, dim=4) for x in zip(levels, coefficients)), prototypes]


@pytest.mark.heavy
@pytest.mark.parametrize(
    "opts",
    [
        [],
        ["MODEL.YOLOR.IMPLICIT.FEATURE_ALIGNMENT", "none"],
        [*REFINED, "MODEL.YOLOR.TASKS.MASKS.IMPLICIT", "mul"],
    ],
    ids=["published", "not aligned", "refined"],
)
def test_the_authors_weights_compute_what_their_network_does(tmp_path, trained, state, opts):
    path = save_authors_file(tmp_path / "seg.pt", state, OF_A_RUN, ema=state)
    model = build(*opts)
    YOLORCheckpointer(model, strict=True).load(str(path))
    pixels = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    ours, theirs = our_outputs(model, pixels), their_outputs(trained, pixels)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert min(float(x.abs().max()) for x in theirs) > 0.02


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["COEFFICIENTS", "8"], r"seg\.pt' are for 32 prototypes.*MASKS\.COEFFICIENTS is 8"),
        (["CHANNELS", "16"], r"of another shape \(tasks\.masks\.project"),
        (["ENABLED", "False"], r"\d+ unused.*branch of masks.*configs/yolov7_seg\.yaml"),
    ],
)
def test_other_branches_are_refused(tmp_path, state, opts, message):
    path = save_authors_file(tmp_path / "seg.pt", state, STRIPPED)
    with pytest.raises(ValueError, match=message):
        YOLORCheckpointer(build(f"MODEL.YOLOR.TASKS.MASKS.{opts[0]}", opts[1])).load(str(path))


@pytest.mark.slow
def test_the_published_number_of_parameters():
    model = build_model(load_config(CONFIG, ["MODEL.DEVICE", "cpu", *REFINED]))
    assert sum(p.numel() for p in model.parameters()) == 38_292_218
