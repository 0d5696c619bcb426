"""What a GPU would wait for, and how often it is sent something, in training and at inference.

Measured on a pretended device, as none is needed to know it; and that a step is one graph.
"""

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import pretend_accelerator
from torch import nn
from torch._dynamo.testing import CompileCounter

from yolor_d2.config import load_config
from yolor_d2.d2.modeling import build_model
from yolor_d2.d2.structures import Boxes, Instances, Keypoints, PolygonMasks
from yolor_d2.d2.utils import EventStorage
from yolor_d2.engine.ema import EMAHook
from yolor_d2.engine.optimizer import build_optimizer
from yolor_d2.engine.step import StepTrainer
from yolor_d2.modeling.batch import fill_rows, pack_truth, round_up, unpack_truth
from yolor_d2.modeling.teacher import TaughtModel
from yolor_d2.ops.batch import Effort
from yolor_d2.ops.padding import Padding
from yolor_d2.tasks import pack_fields

pytestmark = pytest.mark.heavy

JOINT = [
    "multi_task/jdc.yaml",
    "multi_task/jde.yaml",
    "multi_task/ijdc.yaml",
    "multi_task/ijde.yaml",
    "multi_task/ijdk.yaml",
]
# The small network with a branch of masks.
MASKS = ["MODEL.YOLOR.TASKS.MASKS.ENABLED", "True", "MODEL.YOLOR.TASKS.MASKS.IMPLICIT", "mul"]
# Tasks with a field of the ground truth of their own, which is sent by itself.
FIELDS = ("embedding", "masks", "keypoints")
# Of the networks neither width nor depth changes anything here but the time.
TINY = ["MODEL.YOLOR.WIDTH_FACTOR", "0.125", "MODEL.YOLOR.DEPTH_FACTOR", "0.25"]
# A network with auxiliary heads, by the name of its row.
AUXILIARY = "yolov7_w6"
SIZE = 64
# Which assignment, where there is a choice.
OTA = ["MODEL.YOLOR.ASSIGN.KIND", "ota"]
SMALL = "yolor_ssss_s2d.yaml"


def build(name, *further):
    torch.manual_seed(0)
    row = []
    if name == AUXILIARY:
        row = ["MODEL.YOLOR.VARIANT", name]
        name = "Base-YOLOR.yaml"
    options = [*TINY, *row, "MODEL.DEVICE", "cpu", "MODEL.YOLOR.NUM_CLASSES", "3"]
    options += ["MODEL.YOLOR.TASKS.EMBEDDING.NUM_IDENTITIES", "5", "SOLVER.CLIP_NORM", "10.0"]
    options += further
    cfg = load_config(name, options)
    return cfg, build_model(cfg)


def truth_of(model, inputs, places):
    """The ground truth of a batch with a row for every possible object."""
    instances = [x["instances"] for x in inputs]
    table = pack_truth(instances, places)
    fields = pack_fields(model.tasks, instances, places, (SIZE, SIZE))
    fields = {name: fill_rows(x, len(table)) for name, x in fields.items()}
    return unpack_truth(table, len(inputs), round_up(max(map(len, instances))), fields)


def samples(count, boxes=3):
    """Images of noise with boxes anywhere."""
    batch = []
    for number in range(count):
        corners = torch.rand(boxes, 4) * SIZE / 2
        corners[:, 2:] += corners[:, :2] + 5
        truth = Instances((SIZE, SIZE))
        truth.gt_boxes = Boxes(corners)
        truth.gt_classes = torch.randint(3, (boxes,))
        truth.gt_identities = torch.randint(-1, 5, (boxes,))
        outlines = corners[:, [0, 1, 2, 1, 2, 3]].numpy()
        truth.gt_masks = PolygonMasks([[x] if i % 3 else [] for i, x in enumerate(outlines)])
        points = torch.rand(boxes, 17, 3) * torch.tensor([SIZE, SIZE, 3])
        truth.gt_keypoints = Keypoints(points.floor())
        pixels = torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8)
        batch.append({"image": pixels, "instances": truth, "file_name": str(number)})
    return batch


def numbers(taken):
    return {name: sum(places.values()) for name, places in taken.items()}


@pytest.mark.parametrize("count", [2, 32])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, []) for name in (SMALL, "yolor_p6.yaml", *JOINT)),
        *((name, OTA) for name in (SMALL, AUXILIARY)),
        (SMALL, MASKS),
    ],
)
def test_a_step_waits_once_and_copies_pixels_truth_and_places(name, options, count):
    if name in ("yolor_p6.yaml", AUXILIARY) and count > 2:
        count = 4  # as it takes long
    cfg, model = build(name, *options)
    assert_a_step_waits_once(cfg, model, samples(count))


@pytest.mark.parametrize("joint", [True, False])
def test_a_teacher_costs_no_wait_and_no_copy(joint):
    cfg, student = build("yolor_ssss_s2d.yaml")
    taught = TaughtModel(student, build(AUXILIARY)[1], joint=joint)
    assert_a_step_waits_once(cfg, taught, samples(2))


def assert_a_step_waits_once(cfg, model, batch):
    with pretend_accelerator.pretending() as counts, EventStorage():
        pretend_accelerator.move(model)
        optimizer = build_optimizer(cfg, model)
        trainer = StepTrainer(model, [batch] * 2, optimizer, clip_norm=cfg.SOLVER.CLIP_NORM)
        average = EMAHook(model, decay=0.9999, ramp=2000)
        trainer.register_hooks([average])
        average.before_train()
        for _ in range(2):  # the first one makes what is kept
            counts.take()
            trainer.run_step()
            average.after_step()
        taken = counts.take()
    # Pixels, boxes with classes, places, and a field of each of these tasks.
    further = sum(name in getattr(model, "tasks", ()) for name in FIELDS)
    assert numbers(taken) == {"waits": 1, "copies": 3 + further, "mixed": 0}, taken


def infer(name, count, max_detections=300, nms_threshold=0.65, options=()):
    """What the host waits for and sends, and the scores that are found."""
    _, model = build(name, *options)
    for conv in model.head.predict:  # finds something everywhere, with scores that differ
        nn.init.zeros_(conv.bias)
        nn.init.normal_(conv.weight, std=0.3)
    model.eval().score_threshold = 1e-4
    model.max_detections, model.nms_threshold = max_detections, nms_threshold
    batch = samples(count)
    with pretend_accelerator.pretending() as counts, torch.no_grad():
        pretend_accelerator.move(model)
        outputs = model(batch)
        taken = counts.take()
    assert all(len(x["instances"]) > 0 for x in outputs)
    return taken, [x["instances"].scores.held for x in outputs]


@pytest.mark.parametrize("count", [2, 32])
@pytest.mark.parametrize("name", ["yolor_ssss_s2d.yaml", "yolor_p6.yaml", *JOINT])
def test_inference_waits_at_most_twice_and_copies_pixels_and_places(name, count):
    """Twice where an untrained network gives whole rows of cells the same score."""
    if name == "yolor_p6.yaml" and count > 2:
        count = 4
    taken, _ = infer(name, count)
    found = numbers(taken)
    assert found.pop("waits") <= (2 if name == "yolor_p6.yaml" else 1), taken
    assert found == {"copies": 2, "mixed": 0}, taken


def test_masks_wait_until_somebody_asks_for_them():
    taken, _ = infer(SMALL, 2, options=MASKS)
    assert numbers(taken) == {"waits": 1, "copies": 2, "mixed": 0}, taken


FEW = {"max_detections": 100, "nms_threshold": 0.02}  # survive of the first 200 candidates


@pytest.mark.parametrize("count", [2, 8])
def test_it_waits_twice_where_more_candidates_must_be_looked_at(count, monkeypatch):
    _, expected = infer("yolor_ssss_s2d.yaml", count, **FEW)
    efforts = Effort(200, 16), Effort(2048, 96)
    monkeypatch.setattr("yolor_d2.modeling.meta_arch.EFFORTS", efforts)
    taken, found = infer("yolor_ssss_s2d.yaml", count, **FEW)
    assert numbers(taken) == {"waits": 2, "copies": 2, "mixed": 0}, taken
    assert all(torch.equal(a, b) for a, b in zip(found, expected))


def test_what_more_candidates_do_not_decide_is_done_image_by_image(monkeypatch):
    _, expected = infer("yolor_ssss_s2d.yaml", 2, **FEW)
    monkeypatch.setattr("yolor_d2.modeling.meta_arch.EFFORTS", (Effort(200, 16),))
    taken, found = infer("yolor_ssss_s2d.yaml", 2, **FEW)
    assert numbers(taken)["waits"] > 4 and numbers(taken)["mixed"] == 0
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (SMALL, []),
        pytest.param(SMALL, MASKS, marks=pytest.mark.slow),
        pytest.param(AUXILIARY, OTA, marks=pytest.mark.slow),
        ("multi_task/ijde.yaml", ["MODEL.YOLOR.TASKS.CLASSIFICATION.ENABLED", "True"]),
    ],
)
def test_network_assignment_and_losses_are_one_graph(name, options):
    torch._dynamo.reset()  # there is a limit on the graphs of one function
    _, model = build(name, *options)
    model.train()

    def losses_of(pixels, truth, windows):
        levels, outputs = model.run(pixels, windows)
        losses, positives = model.compute_losses(levels, truth, outputs)
        return torch.stack(list(losses.values())), positives

    counter = CompileCounter()
    compiled = torch.compile(losses_of, fullgraph=True, backend=counter)
    places = [Padding().put((SIZE, SIZE), (SIZE, SIZE))] * 2
    pixels = torch.rand(2, 3, SIZE, SIZE)
    windows = torch.tensor([place.window for place in places]).float()
    for boxes in (0, 3, 20, 40, 17, 100, 33, 5, 64, 80):
        truth = truth_of(model, samples(2, boxes), places)
        losses, positives = compiled(pixels, truth, windows)
        # Uncompiled, rows that are no positives are left out.
        expected, expected_positives = losses_of(pixels, truth, windows)
        assert torch.equal(positives, expected_positives)
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)
    assert counter.frame_count <= 3  # two recompilations
