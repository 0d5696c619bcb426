"""Auxiliary heads in the meta-architecture: part of the loss, of nothing else."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from modeling.test_meta_arch import LOSSES, ONE_BOX, find, freeze_norms, sample
from modeling.test_tasks import BOTH, individual

from yolor_d2.config import load_config
from yolor_d2.d2.modeling import build_model
from yolor_d2.engine.freeze import freeze
from yolor_d2.engine.optimizer import parameter_groups, split_hidden
from yolor_d2.layers import Implicit, RepConv
from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.modeling import YOLOR_HEAD_REGISTRY
from yolor_d2.modeling.complexity import config_complexity
from yolor_d2.ops import assign, assign_ota, detection_losses

AUXILIARY = ("backbone.neck.auxiliary.", "head.auxiliary.")
NAMES = ["yolov7_tiny", "yolov7", "yolov7_w6", "yolov7_e6e", "yolov5_s", "yolov5_s_implicit"]


def config(variant, *opts):
    common = ["MODEL.DEVICE", "cpu", "MODEL.YOLOR.NUM_CLASSES", "3"]
    common += ["MODEL.YOLOR.VARIANT", variant, "MODEL.YOLOR.WIDTH_FACTOR", "0.25"]
    return load_config("Base-YOLOR.yaml", [*common, *map(str, opts)])


def build(variant, *opts):
    torch.manual_seed(0)
    return build_model(config(variant, *opts))


def is_auxiliary(name):
    return name.startswith(AUXILIARY)


@pytest.mark.parametrize("batch", [[ONE_BOX, ONE_BOX], [[], []]], ids=["boxes", "no boxes"])
@pytest.mark.parametrize("name", NAMES)
def test_every_step_gives_the_same_losses_and_reaches_every_parameter(name, batch):
    model = build(name)
    assert any(map(is_auxiliary, model.state_dict())) == (name in ("yolov7_w6", "yolov7_e6e"))
    losses = model([sample(boxes) for boxes in batch])
    assert list(losses) == LOSSES
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_the_loss_is_that_of_the_leads_and_a_share_of_the_auxiliary_heads():
    """Beside both computed apart, from what the network gives."""
    batch = [sample(ONE_BOX), sample([])]
    model = freeze_norms(build("yolov7_w6", "MODEL.YOLOR.LOSS.AUXILIARY", 0.5))
    found = model(batch)
    with torch.no_grad():
        _, levels = model.run_network(model.preprocess(batch).tensor)
    assert len(levels) == 8
    shapes = [level.shape for level in levels]
    assert shapes[:4] == shapes[4:]
    image, box, label = (
        torch.tensor([0]),
        torch.tensor([[34.0, 34.0, 20.0, 20.0]]),
        torch.tensor([0]),
    )
    sizes = [(shape[2], shape[3]) for shape in shapes[:4]]
    arguments = image, box, label, model.anchors, model.strides, sizes
    lead, auxiliary = (
        detection_losses(
            part,
            assign(*arguments, candidates=candidates),
            *(model.anchors, model.strides, model.gains),
        )
        for part, candidates in ((levels[:4], 3), (levels[4:], 5))
    )
    for loss, one, other in zip(found.values(), lead, auxiliary):
        assert other > 0
        torch.testing.assert_close(loss, 2 * (one + 0.5 * other))
    # The leads alone give what the network gives that has nothing else.
    alone = freeze_norms(build("yolov7_w6", "MODEL.YOLOR.AUXILIARY_WIDTHS", [0]))
    alone.load_state_dict(
        {name: x for name, x in model.state_dict().items() if not is_auxiliary(name)}
    )
    for loss, one in zip(alone(batch).values(), lead):
        assert torch.equal(loss, 2 * one)


@pytest.mark.heavy
def test_auxiliary_parts_learn_by_their_own_term_alone():
    def gradients(gain):
        model = freeze_norms(build("yolov7_e6e", "MODEL.YOLOR.LOSS.AUXILIARY", gain))
        sum(model([sample(ONE_BOX)] * 2).values()).backward()
        return {name: p.grad for name, p in model.named_parameters()}

    none, quarter, half = map(gradients, (0.0, 0.25, 0.5))
    parts = [name for name in none if is_auxiliary(name)]
    assert len(parts) == 4 * (3 + 2)
    for name in parts:
        assert not none[name].any() and quarter[name].any()
        torch.testing.assert_close(half[name], 2 * quarter[name])
    # They teach the backbone and the top-down path, not the bottom-up path and the leads.
    changed = {name for name in none if not torch.equal(none[name], quarter[name])}
    assert any(name.startswith("backbone.bottom_up.") for name in changed)
    assert not any(
        name.startswith(("backbone.neck.bottom_up.", "backbone.neck.output.", "head.predict."))
        for name in changed
    )


WIDTHS = {"yolor_ssss_s2d": [64, 128, 256], "yolor_p6": [64, 128, 192, 256]}


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["anchors", "ota"])
@pytest.mark.parametrize("name", WIDTHS)
def test_any_network_can_have_auxiliary_heads(name, kind):
    keys = "MODEL.YOLOR.AUXILIARY_WIDTHS", WIDTHS[name], "MODEL.YOLOR.ASSIGN.KIND", kind
    model = build(name, *keys)
    assert sum(map(is_auxiliary, model.state_dict())) == len(WIDTHS[name]) * (6 + 2)
    for batch in ([ONE_BOX, []], [[], []]):
        sum(model([sample(boxes) for boxes in batch]).values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
    assert build(name).eval().state_dict().keys() <= model.state_dict().keys()


def assigned(model, batch, **rules):
    """Assignments of leads and auxiliaries under other rules, and the levels."""
    _, levels = model.run_network(model.preprocess(batch).tensor)
    levels = levels[:4], levels[4:]
    assigner = dataclasses.replace(model.assigner, **rules)
    truth = model.stage(batch).truth
    return assigner(*levels, truth, model.anchors, model.strides), levels, truth


def rows_of(targets):
    return torch.stack([targets.level, targets.anchor, targets.row, targets.column]).T.tolist()


def test_who_guides_the_auxiliary_heads():
    """By the leads with the same cells both learn the same; by their own something else."""
    model = freeze_norms(build("yolov7_w6", "MODEL.YOLOR.ASSIGN.KIND", "ota"))
    for conv in model.head.auxiliary:  # predicts something of its own
        nn.init.normal_(conv.weight)
    batch = [sample([(x, x, x + side, x + side) for x in (5, 12, 20) for side in (12, 30, 40)])]
    (lead, auxiliary), _, _ = assigned(model, batch, auxiliary_candidates=3)
    assert auxiliary is lead
    (lead, coarse), levels, truth = assigned(model, batch)
    (_, own), _, _ = assigned(model, batch, auxiliary_by="auxiliary", auxiliary_candidates=3)
    arguments = truth.image, truth.boxes, truth.labels, model.anchors, model.strides
    sizes = [x.shape[2:4] for x in levels[0]]
    for found, guide, candidates in ((coarse, levels[0], 5), (own, levels[1], 3)):
        expected = assign_ota(
            assign(*arguments, sizes, candidates=candidates),
            guide,
            *arguments[1:],
            by_image=truth.by_image,
        )
        assert rows_of(found) == rows_of(expected)
    assert rows_of(own) != rows_of(lead)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("KIND", "simota"), ("CANDIDATES", 4), ("AUXILIARY_CANDIDATES", 1)),
        *(("AUXILIARY_BY", "teacher"), ("TOP_IOUS", 0), ("IOU_WEIGHT", -1.0)),
    ],
)
def test_an_assignment_that_does_not_exist_is_told(key, value):
    with pytest.raises(ValueError, match=rf"MODEL\.YOLOR\.ASSIGN\.{key} is .*{value}.*expected"):
        build("yolov7_tiny", f"MODEL.YOLOR.ASSIGN.{key}", value)


class Bomb(nn.Module):
    def forward(self, x):
        raise AssertionError("computed")


def test_inference_computes_the_leads_alone():
    model = build("yolov7_w6")
    pixels = torch.rand(2, 3, 64, 64)
    assert list(model.backbone(pixels)) == ["p3", "p4", "p5", "p6", "a3", "a4", "a5", "a6"]
    assert list(model.backbone.output_shape()) == ["p3", "p4", "p5", "p6"]
    model.eval()
    assert list(model.backbone(pixels)) == ["p3", "p4", "p5", "p6"]
    nn.init.normal_(model.head.predict[0].weight)
    (expected,) = find(model, sample([]))
    fused = fuse_for_inference(model)
    assert not any("auxiliary" in name for name, _ in fused.named_parameters())
    for parts in (model.backbone.neck.auxiliary, model.head.auxiliary):
        for i in range(len(parts)):
            parts[i] = Bomb()
    (found,) = find(model, sample([]))
    assert len(found) > 0 and torch.equal(found.scores, expected.scores)
    assert "8 of training alone dropped" in str(fused.fusion_report)


def test_a_deploy_row_finds_what_the_trained_network_finds():
    trained = build("yolov7_w6").eval()
    for part in trained.modules():
        if isinstance(part, Implicit):
            nn.init.uniform_(part.z, 0.5, 1.5)
    deployed = build("yolov7_w6_deploy").eval()
    trained.double()
    weights = trained.state_dict()
    with torch.no_grad():
        for i, (align, refine) in enumerate(zip(trained.backbone.neck.align, trained.head.refine)):
            conv, gain = trained.head.predict[i], refine.value().flatten()
            bias = conv.bias + (conv.weight * align.value()).sum(dim=(1, 2, 3))
            weights[f"head.predict.{i}.weight"] = conv.weight * gain.view(-1, 1, 1, 1)
            weights[f"head.predict.{i}.bias"] = bias * gain
    deployed.double().load_state_dict({name: weights[name] for name in deployed.state_dict()})
    pixels = torch.rand(1, 3, 64, 128).double()
    with torch.no_grad():
        expected, found = (x.run_network(pixels)[1] for x in (trained, deployed))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["yolov7_tiny", "yolov7_w6"])
def test_branches_of_further_tasks_read_the_leads(name):
    model = build(name, *BOTH)
    losses = model([individual([2], ONE_BOX), individual([], [])])
    assert list(losses) == [*LOSSES, "loss_image_classes", "loss_embedding"]
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    seen = []
    model.tasks.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model([individual([2], ONE_BOX)] * 2)
    channels = [shape.channels for shape in model.backbone.output_shape().values()]
    assert [x.shape[1] for x in seen[0]] == channels
    frozen = copy.deepcopy(model)
    freeze(frozen, ["backbone", "head"])
    assert {n.split(".")[0] for n, p in frozen.named_parameters() if p.requires_grad} == {"tasks"}


def test_decay_and_muon_know_branches_and_auxiliary_predictions():
    for name in ("yolov7", "yolov7_w6"):
        model = build(name)
        groups = parameter_groups(model, weight_decay=1.0)
        kinds = {
            id(p): group["kind"] for group in split_hidden(groups, model) for p in group["params"]
        }
        for part in model.modules():
            if isinstance(part, RepConv):
                assert {kinds[id(conv.weight)] for conv, _ in part.branches()} == {"hidden"}
                assert {kinds[id(norm.weight)] for _, norm in part.branches()} == {"norm"}
            elif isinstance(part, Implicit):
                assert kinds[id(part.z)] == "norm"
        for conv in (*model.head.predict, *model.head.auxiliary):
            assert (kinds[id(conv.weight)], kinds[id(conv.bias)]) == ("weight", "bias")
        for conv in model.backbone.neck.auxiliary:
            assert kinds[id(conv.conv.weight)] == "hidden"


# ---- Backbones and heads of others


class Deaf(nn.Module):
    """Knows the leads alone."""

    def __init__(self, cfg, shapes):
        super().__init__()
        self.num_classes = cfg.MODEL.YOLOR.NUM_CLASSES
        self.convs = nn.ModuleList(nn.Conv2d(x.channels, 3 * 8, 1) for x in shapes)

    def forward(self, features):
        levels = [conv(x) for conv, x in zip(self.convs, features)]
        return [x.unflatten(1, (3, 8)).permute(0, 1, 3, 4, 2) for x in levels]


@pytest.fixture
def deaf_head():
    YOLOR_HEAD_REGISTRY._obj_map["Deaf"] = Deaf
    yield "Deaf"
    del YOLOR_HEAD_REGISTRY._obj_map["Deaf"]


def test_a_head_without_auxiliary_parts_is_told(deaf_head):
    model = build("yolov7_w6", "MODEL.YOLOR.HEAD", deaf_head)
    with pytest.raises(
        ValueError, match=r"for 4 auxiliary heads, but Deaf.*AUXILIARY_WIDTHS \[0\]"
    ):
        model([sample(ONE_BOX)] * 2)
    model.eval()([sample([])])
    left_out = ("MODEL.YOLOR.AUXILIARY_WIDTHS", [0])
    model = build("yolov7_w6", "MODEL.YOLOR.HEAD", deaf_head, *left_out)
    assert list(model([sample(ONE_BOX)] * 2)) == LOSSES


def test_a_backbone_without_auxiliary_features_is_told():
    model = build("yolov7_w6")
    model.backbone.neck.auxiliary = nn.ModuleList()
    with pytest.raises(ValueError, match=r"for 0 auxiliary heads, but ImplicitAnchorHead.*has 4"):
        model([sample(ONE_BOX)] * 2)


# ---- Cost


@pytest.mark.heavy
def test_auxiliary_heads_cost_nothing_at_inference():
    whole, without = config("yolov7_w6"), config("yolov7_w6", "MODEL.YOLOR.AUXILIARY_WIDTHS", [0])
    trained, bare = (config_complexity(cfg, 128)["total"] for cfg in (whole, without))
    assert trained.macs > bare.macs and trained.parameters > bare.parameters
    folded, expected = (config_complexity(x, 128, folded=True)["total"] for x in (whole, without))
    assert folded == expected
