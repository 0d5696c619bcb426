"""Joint tasks in the meta-architecture: losses, outputs, and weights from detectors."""

import logging

import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from modeling.test_meta_arch import LOSSES, ONE_BOX, build, build_finder, find, freeze_norms, sample

from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.ops import decode
from yolor_d2.tasks import TASKS as TABLE

TASKS = "MODEL.YOLOR.TASKS"
CLASSIFY = (f"{TASKS}.CLASSIFICATION.ENABLED", True, f"{TASKS}.CLASSIFICATION.IMPLICIT", "add")
EMBED = (
    *(f"{TASKS}.EMBEDDING.ENABLED", True, f"{TASKS}.EMBEDDING.IMPLICIT", "add"),
    *(f"{TASKS}.EMBEDDING.NUM_IDENTITIES", 4, f"{TASKS}.EMBEDDING.DIMENSION", 16),
)
BOTH = (*CLASSIFY, *EMBED)


def individual(identities, *args, **options):
    given = sample(*args, **options)
    given["instances"].gt_identities = torch.tensor(identities, dtype=torch.int64)
    return given


@pytest.mark.parametrize(
    ("options", "more"),
    [
        (CLASSIFY, ["loss_image_classes"]),
        (EMBED, ["loss_embedding"]),
        (BOTH, ["loss_image_classes", "loss_embedding"]),
    ],
)
@pytest.mark.parametrize(
    "batch",
    [
        [individual([2], ONE_BOX), individual([], [])],
        [individual([-1], ONE_BOX)] * 2,
        [individual([], [])] * 2,
    ],
    ids=["an individual", "an unknown one", "no boxes"],
)
def test_every_step_gives_the_same_losses_and_reaches_every_parameter(options, more, batch):
    model = build(*options)
    losses = model(batch)
    assert list(losses) == LOSSES + more
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_every_task_says_where_its_figures_are():
    """Ablation tables show them, and `COCOEvaluator` takes its options by these names."""
    assert {name: task.metrics for name, task in TABLE.items()} == {
        **{"classification": "classification", "embedding": "embedding"},
        **{"masks": "segm", "keypoints": "keypoints"},
    }


def test_a_known_individual_pulls_its_prototype():
    model = build(*EMBED)
    model([individual([2], ONE_BOX)] * 2)["loss_embedding"].backward()
    gradient = model.tasks.embedding.prototypes.grad
    assert gradient[2].norm() > 0


def test_gains_and_the_batch_weigh_the_losses():
    batch = [individual([1], ONE_BOX)]
    one = freeze_norms(build(*BOTH))(batch)
    gains = (f"{TASKS}.CLASSIFICATION.GAIN", 0.3, f"{TASKS}.EMBEDDING.GAIN", 0.25)
    two = freeze_norms(build(*BOTH, *gains))(2 * batch)
    assert two["loss_image_classes"].item() == pytest.approx(
        2 * 3 * one["loss_image_classes"].item()
    )
    assert two["loss_embedding"].item() == pytest.approx(2 * 5 * one["loss_embedding"].item())
    assert two["loss_box"].item() == pytest.approx(2 * one["loss_box"].item())


def test_detection_is_that_of_the_detector():
    """The branches are beside the head: with the same weights it finds the same."""
    detector, joint = build_finder(), build_finder(*BOTH)
    joint.load_state_dict(detector.state_dict(), strict=False)
    (expected,), (found,) = find(detector, sample([])), find(joint, sample([]))
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    assert not expected.has("pred_embeddings") and found.has("pred_embeddings")


def test_embeddings_are_those_of_the_cells_of_the_kept_boxes():
    model = build_finder(*EMBED, "MODEL.YOLOR.NMS_THRESHOLD", 0.4)
    given = sample([], seed=3)
    (found,) = find(model, given)
    assert len(found) > 10
    with torch.no_grad():
        images, (placement,) = model.preprocess([given])
        features = list(model.backbone(images).values())
        rows = decode(model.head(features), model.anchors, model.strides)[0]
        maps = model.tasks.embedding(features, None)
    # Rows are by anchor, then cell; a box is looked for among the rows.
    cells = torch.cat([x[0].flatten(1).T.repeat(3, 1) for x in maps])
    boxes = placement.from_canvas(rows[:, :4]).clamp(0, 64)
    for box, vector in zip(found.pred_boxes.tensor, found.pred_embeddings):
        same = ((boxes - box).abs().amax(dim=1) < 1e-3).nonzero()[:, 0]
        assert len(same) and any(torch.equal(cells[i], vector) for i in same)


def test_image_scores_do_not_depend_on_the_border_of_the_batch():
    """The cells of the border are left out; those beside it see it through the convolutions."""
    model = build_finder(*CLASSIFY)
    with torch.no_grad():
        alone = model([sample([])])[0]["image_scores"]
        together = model([sample([]), sample([], height=128, width=128)])[0]["image_scores"]
    assert alone.shape == (3,) and ((alone > 0) & (alone < 1)).all()
    torch.testing.assert_close(alone, together, rtol=0, atol=0.02)


def test_training_without_identities_names_the_key():
    with pytest.raises(KeyError, match="instance_id"):
        build(*EMBED)([sample(ONE_BOX)])
    with pytest.raises(ValueError, match=r"identity 4.*NUM_IDENTITIES is 4"):
        build(*EMBED)([individual([4], ONE_BOX)])


@pytest.mark.parametrize(
    ("key", "value"),
    [("CLASSIFICATION.GAIN", -1.0), ("EMBEDDING.DIMENSION", 0), ("CLASSIFICATION.CHANNELS", 0)],
)
def test_values_out_of_range_are_named(key, value):
    with pytest.raises(ValueError, match=rf"TASKS\.{key} is {value}"):
        build(*BOTH, f"{TASKS}.{key}", value)


# ---- Weights


def saved(model, folder):
    YOLORCheckpointer(model, str(folder)).save("model")
    return str(folder / "model.pth")


@pytest.mark.heavy
def test_a_detector_starts_a_joint_model_and_the_log_says_what_is_fresh(tmp_path, caplog):
    detector, joint = build(), build(*BOTH)
    torch.nn.init.constant_(detector.head.predict[0].bias, 0.5)
    fresh = {k: v.clone() for k, v in joint.state_dict().items() if k.startswith("tasks.")}
    path = saved(detector, tmp_path)
    with caplog.at_level(logging.WARNING):
        YOLORCheckpointer(joint).load(path)
    missing = [name for name in fresh if not name.endswith("num_batches_tracked")]
    assert "MODEL.YOLOR.TASKS" in caplog.text and f"{len(missing)} missing" in caplog.text
    assert (joint.head.predict[0].bias == 0.5).all()
    assert all(torch.equal(joint.state_dict()[k], v) for k, v in fresh.items())


@pytest.mark.heavy
def test_a_joint_model_starts_a_detector(tmp_path, caplog):
    joint, detector = build(*BOTH), build()
    torch.nn.init.constant_(joint.head.predict[0].bias, 0.5)
    with caplog.at_level(logging.WARNING):
        YOLORCheckpointer(detector).load(saved(joint, tmp_path))
    assert "left over (tasks." in caplog.text
    assert (detector.head.predict[0].bias == 0.5).all()


@pytest.mark.heavy
@pytest.mark.parametrize(("given", "wanted"), [((), BOTH), (BOTH, ()), (CLASSIFY, EMBED)])
def test_a_run_goes_on_with_its_own_tasks_only(tmp_path, given, wanted):
    path = saved(build(*given), tmp_path)
    with pytest.raises(ValueError, match=r"MODEL\.YOLOR\.TASKS"):
        YOLORCheckpointer(build(*wanted), strict=True).load(path)


@pytest.mark.heavy
def test_all_weights_come_back(tmp_path):
    first, second = build(*BOTH), build(*BOTH)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.normal_()
    YOLORCheckpointer(second, strict=True).load(saved(first, tmp_path))
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


@pytest.mark.heavy
def test_other_classes_and_identities_leave_the_rest(tmp_path):
    first = build(*BOTH)
    other = build(*BOTH, f"{TASKS}.EMBEDDING.NUM_IDENTITIES", 6, num_classes=5)
    fresh = other.tasks.embedding.prototypes.clone()
    with torch.no_grad():
        first.tasks.embedding.project[0].weight.fill_(0.25)
    path = saved(first, tmp_path)
    YOLORCheckpointer(other).load(path)
    assert torch.equal(other.tasks.embedding.prototypes, fresh)
    assert (other.tasks.embedding.project[0].weight == 0.25).all()
    with pytest.raises(ValueError, match="of another shape"):
        YOLORCheckpointer(build(*BOTH, f"{TASKS}.EMBEDDING.DIMENSION", 8)).load(path)


@pytest.mark.heavy
def test_inference_needs_no_prototypes(tmp_path):
    path = saved(build(*EMBED), tmp_path)
    without = build(*EMBED, f"{TASKS}.EMBEDDING.NUM_IDENTITIES", 0)
    YOLORCheckpointer(without, strict=True).load(path)
    assert without.tasks.embedding.prototypes.shape == (0, 16)
