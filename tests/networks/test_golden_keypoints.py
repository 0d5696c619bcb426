"""Keypoints against numbers recorded from the reference implementation: branch, decoding, loss."""

import golden_records
import pytest
import torch
from torch import nn

from yolor_d2.golden import uniform, weight
from yolor_d2.layers import FORM_V7, build_implicit
from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.networks import AnchorHead, KeypointBranch
from yolor_d2.networks.branches import DetectedBoxes
from yolor_d2.networks.variants import ANCHORS_1280
from yolor_d2.ops import LossGains, assign, decode, detection_losses, xyxy_to_cxcywh
from yolor_d2.ops.ota import boxes_by_image
from yolor_d2.ops.padding import ImageView
from yolor_d2.ops.truth import Truth

INFO, ARRAYS = golden_records.load_record("tasks_kpt")
CASE, LOSS = "v7_ikpt", "kpt_normal"
WIDTHS, STRIDES = (8, 12), (8, 16)
ANCHORS = torch.tensor([[[12, 16], [19, 36], [40, 28]], [[36, 75], [76, 55], [72, 146]]])
POINTS = 17


# ---- Branch and decoding


def theirs(key):
    """The reference's name of a tensor of `parts`."""
    part, _, rest = key.partition(".")
    if part != "keypoints":
        key = key.removeprefix("head.")
        place, level, tensor = key.split(".")
        names = {"align": "ia", "predict": "m", "refine": "im"}
        return f"{names[place]}.{level}.{tensor.replace('z', 'implicit')}"
    kind, level, rest = rest.split(".", 2)
    if kind == "predict":
        return f"m_kpt.{level}.11.{rest}"
    return f"m_kpt.{level}.{rest.replace('.norm.', '.bn.')}"


@pytest.fixture(scope="module")
def parts():
    """Alignment, head and branch with the recorded weights, in double precision."""
    options = {"strides": STRIDES, "num_anchors": 3}
    module = nn.ModuleDict(
        {
            "align": nn.ModuleList(build_implicit("add", channels) for channels in WIDTHS),
            "head": AnchorHead(WIDTHS, num_classes=1, **options),
            "keypoints": KeypointBranch(
                WIDTHS, num_keypoints=POINTS, layout="yolov7", form=FORM_V7, **options
            ),
        }
    )
    kinds = {key: (shape, kind) for key, shape, kind in INFO[CASE]["keys"] if kind != "keep"}
    state = {}
    for key, value in module.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state[key] = value
        else:
            name = theirs(key)
            state[key] = weight(f"{CASE}:{name}", *kinds.pop(name), norm_gain=1.0)
    assert not kinds
    module.load_state_dict(state)
    return module.double().eval()


@pytest.fixture(scope="module")
def outputs(parts):
    """Logits and points."""
    shapes = INFO[CASE]["inputs"]
    maps = [4 * uniform(f"{CASE}:{i}:x", *shape) - 2 for i, shape in enumerate(shapes)]
    x = [torch.from_numpy(level).float().double() for level in maps]
    with torch.no_grad():
        # Their alignment is that of the detection head alone.
        levels = parts["head"]([align(level) for align, level in zip(parts["align"], x)])
        return parts["keypoints"].share(levels, parts["keypoints"](x, torch.empty(0)))


def recorded(name):
    return torch.from_numpy(ARRAYS[f"{CASE}/{name}"]).double()


def test_outputs_equal_the_record(outputs):
    for i, (logits, points) in enumerate(zip(*outputs)):
        ours = torch.cat([logits, points.flatten(-2)], dim=-1)
        torch.testing.assert_close(ours, recorded(f"raw{i}"), atol=1e-5, rtol=0)


def test_decoded_rows_equal_the_record(parts, outputs):
    logits, points = outputs
    rows = decode(logits, ANCHORS.double(), STRIDES)
    boxes = torch.cat([xyxy_to_cxcywh(rows[..., :4]), rows[..., 4:]], dim=-1)
    everything = torch.arange(rows.shape[1])
    view = ImageView((0, 0), (1, 1), (32, 48))
    for image, expected in enumerate(recorded("decoded")):
        found = DetectedBoxes(everything, rows[image, :, :4], view)
        decoded = parts["keypoints"].decode(points, image, found)
        ours = torch.cat([boxes[image], decoded.flatten(1)], dim=-1)
        torch.testing.assert_close(ours, expected, atol=1e-3, rtol=0)  # pixels
        some = torch.tensor([89, 0, 71, 72, 5])
        found = DetectedBoxes(some, rows[image, some, :4], view)
        assert torch.equal(parts["keypoints"].decode(points, image, found), decoded[some])


def test_the_fused_branch_computes_the_same(parts):
    fused = fuse_for_inference(parts["keypoints"])
    assert not [x for x in fused.modules() if isinstance(x, nn.BatchNorm2d)]
    x = [torch.randn(1, width, 4, 4, dtype=torch.float64) for width in WIDTHS]
    with torch.no_grad():
        for ours, expected in zip(fused(x, None), parts["keypoints"](x, None)):
            torch.testing.assert_close(ours, expected, atol=1e-9, rtol=0)


# ---- Loss


class Case:
    """Inputs of the recorded loss, in a type.

    Attributes:
        levels: (N, A, H, W, 57) of each level, leaves that want a gradient.
        truth: objects of the batch, their keypoints in pixels.
    """

    def __init__(self, dtype):
        self.strides = [8, 16, 32, 64]
        side, batch = 256, 2
        self.levels = []
        for i, stride in enumerate(self.strides):
            cells = side // stride
            values = uniform(f"{LOSS}:p{i}", batch, 3, cells, cells, 6 + 3 * POINTS) * 6 - 3
            values[..., :4] /= 3
            values[..., 4] -= 1
            self.levels.append(torch.from_numpy(values).float().to(dtype).requires_grad_())
        table = torch.from_numpy(ARRAYS[f"{LOSS}/targets"]).to(dtype)
        image, labels = table[:, 0].long(), table[:, 1].long()
        points = table[:, 6:].view(-1, POINTS, 2)
        labelled = (points != 0).any(dim=2, keepdim=True)
        self.truth = Truth(
            image,
            table[:, 2:6] * side,
            labels,
            torch.ones_like(labels, dtype=torch.bool),
            boxes_by_image(image, batch, len(image)),
            {"keypoints": torch.cat([points * side, labelled], dim=2)},
        )
        self.anchors = torch.tensor(ANCHORS_1280, dtype=dtype)
        hyp = INFO[LOSS]["hyp"]
        self.branch = KeypointBranch(
            WIDTHS,
            strides=self.strides,
            num_anchors=3,
            num_keypoints=POINTS,
            form=FORM_V7,
            loss="oks",
            gain=hyp["kpt"],
            visibility_gain=hyp["cls"],
        )
        # Theirs are for four levels already; ours are for three.
        self.gains = LossGains(
            box=hyp["box"] * 4 / 3,
            objectness=hyp["obj"] * 4 / 3,
            classes=0.3,
            train_size=640,
            balance=(4.0, 1.0, 0.25, 0.06),
            ciou="yolov7",
        )

    def losses(self, fixed_shape):
        grid_sizes = [tuple(level.shape[2:4]) for level in self.levels]
        objects = self.truth.image, self.truth.boxes, self.truth.labels
        targets = assign(*objects, self.anchors, self.strides, grid_sizes, fixed_shape=fixed_shape)
        logits = [level[..., :6] for level in self.levels]
        points = [level[..., 6:].unflatten(-1, (POINTS, 3)) for level in self.levels]
        detection = detection_losses(logits, targets, self.anchors, self.strides, self.gains)
        own = self.branch.losses(points, self.truth, targets)
        return [*detection, own["loss_keypoints"], own["loss_visibility"]]


@pytest.mark.parametrize("fixed_shape", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=["double", "float"]
)
def test_losses_and_gradients_equal_the_record(dtype, tolerance, fixed_shape):
    case = Case(dtype)
    terms = case.losses(fixed_shape)
    assert all(term.dtype == dtype for term in terms)
    expected = ARRAYS[f"{LOSS}/box_obj_cls_kpt_vis_sum"]
    ours = torch.stack([*terms, sum(terms)]).tolist()
    # The reference sums up visibility in float32, the others in its run's own type.
    assert ours[:4] == pytest.approx(expected[:4], rel=tolerance)
    assert ours[4:] == pytest.approx(expected[4:], rel=max(tolerance, 1e-7))

    (2 * sum(terms)).backward()
    groups = [slice(0, 4), slice(4, 5), slice(5, 6), *(slice(6 + i, None, 3) for i in range(3))]
    for i, level in enumerate(case.levels):
        gradients = [level.grad[..., group].double() for group in groups]
        norms = [float(g.norm()) for g in gradients]
        sums = [float(g.sum()) for g in gradients]
        sizes = [float(g.abs().sum()) for g in gradients]  # the sums are of both signs
        for group in range(6):
            rel = max(10 * tolerance, 1e-7 if group == 5 else 0)
            norm, total = (ARRAYS[f"{LOSS}/grad{i}_{what}"][group] for what in ("l2", "sum"))
            assert norms[group] == pytest.approx(norm, rel=rel)
            assert sums[group] == pytest.approx(total, rel=rel, abs=rel * sizes[group])


def test_under_autocast_the_losses_are_float32():
    case = Case(torch.float32)
    expected = torch.stack(case.losses(False)).tolist()
    case.levels = [level.detach().bfloat16() for level in case.levels]
    with torch.autocast("cpu", torch.bfloat16):
        terms = case.losses(False)
    assert all(term.dtype == torch.float32 for term in terms)
    assert torch.stack(terms).tolist() == pytest.approx(expected, rel=0.02)
