"""What only a GPU can show: the same results as on the CPU, and that the host waits for nothing."""

import math

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.benchmark.gpu.step import count_waits
from yolor_d2.benchmark.step import build_step
from yolor_d2.config import load_config
from yolor_d2.d2.modeling import build_model
from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.d2.utils import EventStorage
from yolor_d2.modeling.images import normalise

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]

SIZE = 128
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def exact():
    """float32 is float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def configure(*options):
    common = ["MODEL.DEVICE", CUDA.type, "MODEL.YOLOR.NUM_CLASSES", "3", "SOLVER.BASE_LR", "1e-5"]
    return load_config("yolor_ssss_s2d.yaml", [*common, *map(str, options)])


def build(cfg):
    torch.manual_seed(0)
    model = build_model(cfg)
    for conv in model.head.predict:  # finds something everywhere
        torch.nn.init.zeros_(conv.bias)
        torch.nn.init.normal_(conv.weight, std=0.1)
    return model


def samples(count, boxes=5):
    batch = []
    generator = torch.Generator().manual_seed(1)
    for number in range(count):
        corners = torch.rand(boxes, 4, generator=generator) * SIZE / 2
        corners[:, 2:] += corners[:, :2] + 5
        truth = Instances((SIZE, SIZE))
        truth.gt_boxes = Boxes(corners)
        truth.gt_classes = torch.randint(3, (boxes,), generator=generator)
        shape = (3, SIZE, SIZE)
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        batch.append({"image": pixels, "instances": truth, "file_name": f"{number}.jpg"})
    return batch


def test_pixels_are_normalised_to_the_last_bit():
    pixels = torch.randint(256, (2, 3, 9, 7), dtype=torch.uint8)
    for mean, std in (([0.0] * 3, [255.0] * 3), ([103.5, 116.3, 123.7], [57.4, 57.1, 58.4])):
        shifts = any(mean)
        mean, std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)
        found, expected = (
            normalise(pixels.to(x), mean.to(x), std.to(x), torch.channels_last, shifts=shifts)
            for x in (CUDA, torch.device("cpu"))
        )
        assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("kind", ["anchors", "ota"])
@pytest.mark.parametrize("boxes", [0, 5, 60])
def test_losses_are_those_of_the_cpu(boxes, kind):
    """Fixed shapes there, positives alone here."""
    auxiliary = "MODEL.YOLOR.AUXILIARY_WIDTHS", [64, 128, 256]
    model = build(configure("MODEL.YOLOR.ASSIGN.KIND", kind, *auxiliary)).train()
    batch = model.stage(samples(3, boxes))
    _, levels = model.run_network(model.preprocess(batch).tensor)
    losses, positives = model.compute_losses(levels, batch.truth)
    model.cpu()
    levels = [x.detach().cpu() for x in levels]
    truth = batch.truth.map(torch.Tensor.cpu)
    expected, expected_positives = model.compute_losses(levels, truth)
    assert positives.tolist() == expected_positives.tolist()
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("count", [1, 5])
def test_detections_are_those_of_the_cpu(count):
    model = build(configure()).eval()
    batch = samples(count)
    with torch.no_grad():
        staged = model.stage(batch)
        _, levels = model.run_network(model.preprocess(staged).tensor)
        found = model.forward_inference(levels, staged)
        model.cpu()
        expected = model.forward_inference([x.cpu() for x in levels], model.stage(batch))
    for one, other in zip(found, expected):
        one, other = one["instances"].to("cpu"), other["instances"]
        assert len(one) == len(other) > 10
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-5, atol=1e-6)
        apart = (one.pred_boxes.tensor[:, None] - other.pred_boxes.tensor).abs().amax(dim=2)
        same = (apart < 0.01) & (one.pred_classes[:, None] == other.pred_classes)
        assert same.any(dim=1).float().mean() > 0.99  # equal scores come in any order


@pytest.mark.parametrize(
    "options", [[], ["SOLVER.SUIT_GPU", True], ["MODEL.YOLOR.ASSIGN.KIND", "ota"]]
)
def test_a_step_waits_for_nothing(options):
    step = build_step(configure(*options), samples(2), 6)

    def one_step():
        step.run_step()
        for hook in step._hooks:
            hook.after_step()
        step.iter += 1

    with EventStorage() as storage:
        for _ in range(3):
            one_step()
        waits = count_waits(one_step)
        step.settle()
    assert not waits, waits
    assert len(storage.history("total_loss").values()) == 4
    assert math.isfinite(storage.history("total_loss").latest())
    assert storage.history("positives/p3").latest() > 0


def test_a_loss_that_is_not_finite_is_named_one_iteration_later():
    step = build_step(configure(), samples(2), 6)
    with torch.no_grad():
        next(step.model.parameters()).fill_(math.nan)
    with EventStorage(), pytest.raises(FloatingPointError, match=r"iteration 0.*0\.jpg"):
        for step.iter in range(2):
            step.run_step()
    assert step.iter == 1


def test_network_and_losses_fit_a_cuda_graph():
    model = build(configure()).train()
    batch = model.stage(samples(2))
    pixels = model.preprocess(batch).tensor

    def step():
        model.zero_grad(set_to_none=True)
        _, levels = model.run_network(pixels)
        losses, _ = model.compute_losses(levels, batch.truth)
        total = sum(losses.values())
        total.backward()
        return total

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            expected = step().item()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        total = step()
    graph.replay()
    assert total.item() == pytest.approx(expected, rel=1e-3)
