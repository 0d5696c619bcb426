"""A student and its teacher on the same batches: who learns what from whom."""

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.config import load_config
from yolor_d2.d2.modeling import build_model
from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.modeling.teacher import TaughtModel, extend_canvas
from yolor_d2.ops import DistillationGains

LOSSES = ["loss_box", "loss_objectness", "loss_classes"]
DISTILL = ["loss_distill_box", "loss_distill_objectness", "loss_distill_classes"]
TEACHER = ["loss_teacher_box", "loss_teacher_objectness", "loss_teacher_classes"]


def build(variant, *options, seed=0):
    torch.manual_seed(seed)
    row = ["MODEL.DEVICE", "cpu", "MODEL.YOLOR.VARIANT", variant, "MODEL.YOLOR.NUM_CLASSES", 3]
    row += ["MODEL.YOLOR.WIDTH_FACTOR", 0.125, "MODEL.YOLOR.DEPTH_FACTOR", 0.25]
    return build_model(load_config("Base-YOLOR.yaml", [*row, *options]))


def samples(count=2, size=(96, 96)):
    generator = torch.Generator().manual_seed(5)
    batch = []
    for _ in range(count):
        truth = Instances(size, gt_boxes=Boxes(torch.tensor([[20.0, 30.0, 60.0, 70.0]])))
        truth.gt_classes = torch.tensor([1])
        truth.gt_identities = torch.tensor([2])
        pixels = torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8)
        batch.append({"image": pixels, "instances": truth})
    return batch


def gradients(losses, model):
    model.zero_grad()
    sum(losses).backward(retain_graph=True)
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.heavy
def test_the_students_own_losses_stay_and_those_of_a_joint_teacher_are_those_of_its_training():
    student, teacher = build("yolor_ssss_s2d"), build("yolor_csp", seed=1)
    # Untrained, it is sure of nothing.
    taught = TaughtModel(student, teacher, DistillationGains(least_objectness=0.0), joint=True)
    losses = taught(samples())
    assert list(losses) == LOSSES + DISTILL + TEACHER
    alone = build("yolor_ssss_s2d")(samples())
    own = build("yolor_csp", seed=1)(samples())
    for name in LOSSES:
        assert torch.equal(losses[name], alone[name])
        assert torch.equal(losses[name.replace("loss_", "loss_teacher_")], own[name])
    # The teacher does not bend to the student, and the student does not see the teacher's loss.
    for name in DISTILL:
        assert losses[name] > 0
        reached = gradients([losses[name]], taught)
        assert all(x is None for k, x in reached.items() if k.startswith("teacher."))
        assert any(x is not None and x.any() for x in reached.values())
    reached = gradients([losses[name] for name in TEACHER], taught)
    assert all((x is not None) == k.startswith("teacher.") for k, x in reached.items())


def test_a_frozen_teacher_stays_as_it_is():
    student, teacher = build("yolor_ssss_s2d"), build("yolov7_tiny", seed=1)
    before = {name: x.clone() for name, x in teacher.state_dict().items()}
    taught = TaughtModel(student, teacher, joint=False)
    for _ in range(2):
        taught.train()
        assert student.training and not any(x.training for x in teacher.modules())
    losses = taught(samples())
    assert list(losses) == LOSSES + DISTILL
    reached = gradients(losses.values(), taught)
    for name, gradient in reached.items():
        assert (gradient is not None) == name.startswith("student."), name
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())
    assert taught.trained() == [student]


def test_losses_are_summed_over_the_images_of_a_batch():
    taught = TaughtModel(build("yolor_ssss_s2d"), build("yolov7_tiny", seed=1), joint=False)
    for module in taught.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    batch = samples(1)
    one, three = taught(batch), taught(batch * 3)
    for name in DISTILL[1:]:
        torch.testing.assert_close(three[name], 3 * one[name])


@pytest.mark.parametrize(
    ("student", "teacher", "options"),
    [
        ("yolov7_w6", "yolor_csp", []),  # auxiliary heads of the student, another number of levels
        ("yolor_ssss_s2d", "yolov7_w6", []),  # of the teacher, which also needs a larger canvas
        (
            "yolor_ssss_s2d",
            "yolov7_tiny",
            [
                *("MODEL.YOLOR.TASKS.CLASSIFICATION.ENABLED", True),
                *("MODEL.YOLOR.TASKS.EMBEDDING.ENABLED", True),
                *("MODEL.YOLOR.TASKS.EMBEDDING.NUM_IDENTITIES", 4),
            ],
        ),
    ],
)
def test_every_parameter_is_reached_across_families(student, teacher, options):
    """At 96 px, which is no multiple of the strides of all; what is not reached would stop several
    processes."""
    taught = TaughtModel(build(student, *options), build(teacher, seed=1), joint=True)
    losses = taught(samples())
    further = ["loss_image_classes", "loss_embedding"] if options else []
    assert list(losses) == LOSSES + further + DISTILL + TEACHER
    reached = gradients(losses.values(), taught)
    assert [name for name, x in reached.items() if x is None] == []
    assert all(x.isfinite().all() for x in reached.values())


def test_in_evaluation_it_is_the_student():
    student = build("yolor_ssss_s2d")
    taught = TaughtModel(student, build("yolov7_tiny", seed=1), joint=True).eval()
    with torch.no_grad():
        assert taught(samples())[0]["instances"].image_size == (96, 96)
    taught.train()
    student.eval()
    with pytest.raises(RuntimeError, match="left the student in evaluation mode"):
        taught(samples())


def test_a_canvas_grows_in_grey_on_the_right_and_below():
    pixels, grey = torch.zeros(1, 2, 3, 4), torch.tensor([0.25, 0.5])[:, None, None]
    assert extend_canvas(pixels, 1, grey) is pixels
    found = extend_canvas(pixels, 5, grey)
    assert found.shape == (1, 2, 5, 5)
    assert not found[:, :, :3, :4].any()
    assert (found[:, :, 3:] == grey).all() and (found[:, :, :, 4:] == grey).all()


def test_without_a_common_stride_there_is_nothing_to_teach():
    student = build("yolor_ssss_s2d")
    teacher = build("yolor_ssss_s2d")
    teacher.strides = [4, 64]
    with pytest.raises(ValueError, match=r"TEACHER\.CONFIG names a network with strides \[4, 64\]"):
        TaughtModel(student, teacher, DistillationGains(), joint=True)


def test_lead_heads_alone_are_compared():
    """Logits of auxiliary heads follow theirs, of student and teacher alike."""
    taught = TaughtModel(build("yolov7_w6"), build("yolov7_w6", seed=1), joint=True)
    pixels = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        _, levels = taught.student.run_network(pixels)
        teacher_levels = taught.run_teacher(pixels)
    assert len(levels) == len(teacher_levels) == 8
    found = taught.compute_distillation(levels, teacher_levels)
    expected = taught.compute_distillation(levels[:4], teacher_levels[:4])
    assert all(torch.equal(one, other) for one, other in zip(found, expected))
    others = taught.compute_distillation(levels[4:], teacher_levels[4:])
    assert found.objectness != others.objectness
