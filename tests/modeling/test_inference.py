"""The model as evaluation computes it: fused, other precision, augmented views; several inputs."""

import logging

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.config import load_config
from yolor_d2.d2.engine import DefaultPredictor
from yolor_d2.d2.modeling import build_model
from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.data.resize import ResizeForTest
from yolor_d2.files.images import MAX_PIXELS_VARIABLE
from yolor_d2.modeling.inference import prepare_for_inference
from yolor_d2.predictor import BatchPredictor, FailedInput
from yolor_d2.tiles import take_from_tile, tile_windows


def assert_holds(found, expected, count):
    """The first detections are among the others, in whatever order rounding puts like scores."""
    assert len(found) == len(expected) > count
    torch.testing.assert_close(found.scores[:count], expected.scores[:count], rtol=0, atol=1e-3)
    distance = (found.pred_boxes.tensor[:, None] - expected.pred_boxes.tensor[:count]).abs()
    same = (distance.amax(dim=2) <= 1e-3) & (
        found.pred_classes[:, None] == expected.pred_classes[:count]
    )
    same &= (found.scores[:, None] - expected.scores[:count]).abs() <= 1e-3
    assert same.any(dim=0).all()


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    """A small model that finds something everywhere, and its weights."""
    sizes = ["INPUT.MIN_SIZE_TEST", "128", "INPUT.MAX_SIZE_TEST", "128"]
    options = ["MODEL.DEVICE", "cpu", "MODEL.YOLOR.NUM_CLASSES", "3", *sizes]
    cfg = load_config("yolor_ssss_s2d.yaml", options)
    torch.manual_seed(0)
    model = build_model(cfg)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    for conv in model.head.predict:
        torch.nn.init.zeros_(conv.bias)
        torch.nn.init.normal_(conv.weight, std=0.1)  # scores below 1, which differ
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    cfg.MODEL.WEIGHTS = str(path)
    cfg.MODEL.INFERENCE.OPTIMIZE = False  # what is compared bit for bit
    return cfg


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def default_predictor(cfg):
    predictor = DefaultPredictor(cfg)
    predictor.aug = ResizeForTest.from_config(cfg)
    return predictor


def assert_same(found, expected, count=None):
    """Exactly the same; of batches the first so many, as their sums may be rounded differently."""
    tolerance = {"rtol": 0, "atol": 0.0 if count is None else 1e-3}
    assert len(expected) > 10
    for a, b in [
        (found.pred_boxes.tensor, expected.pred_boxes.tensor),
        (found.scores, expected.scores),
        (found.pred_classes, expected.pred_classes),
    ]:
        torch.testing.assert_close(a[:count], b[:count], **tolerance)


def levels(model, pixels):
    features = model.backbone(pixels)
    return model.head([features[name] for name in model.in_features])


@pytest.mark.heavy
def test_the_fused_model_gives_the_same_and_leaves_the_other_alone(cfg):
    cfg = cfg.clone()
    cfg.MODEL.INFERENCE.OPTIMIZE, cfg.MODEL.INFERENCE.CHANNELS_LAST = True, False
    model = build_model(cfg).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = prepare_for_inference(model, cfg)
    assert fused is not model
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert len(list(fused.parameters())) < len(list(model.parameters()))
    pixels = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        for a, b in zip(levels(fused, pixels), levels(model, pixels)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.heavy
def test_a_joint_model_fuses_but_for_what_its_tasks_read(cfg):
    tasks = "MODEL.YOLOR.TASKS"
    cfg = cfg.clone()
    cfg.merge_from_list([f"{tasks}.CLASSIFICATION.ENABLED", True, "MODEL.INFERENCE.OPTIMIZE", True])
    cfg.merge_from_list(
        [f"{tasks}.EMBEDDING.ENABLED", True, f"{tasks}.EMBEDDING.NUM_IDENTITIES", 4]
    )
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for align in model.backbone.neck.align:
        torch.nn.init.normal_(align.z)
    fused = prepare_for_inference(model, cfg)
    inputs = [{"image": torch.from_numpy(noise(128, 96)).permute(2, 0, 1)}]
    with torch.no_grad():
        a, b = model(inputs)[0], fused(inputs)[0]
    torch.testing.assert_close(a["image_scores"], b["image_scores"], rtol=1e-4, atol=1e-4)
    scores = a["instances"].scores, b["instances"].scores
    torch.testing.assert_close(scores[0][:20], scores[1][:20], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flips", [[False, False], [True, False], [True, True]])
def test_tasks_in_several_views(cfg, flips):
    """Of one image as it is and mirrored, in the second view smaller: every detection has the
    embedding of the view that it comes from, the image the mean of its scores."""
    tasks = "MODEL.YOLOR.TASKS"
    cfg = cfg.clone()
    cfg.merge_from_list([f"{tasks}.CLASSIFICATION.ENABLED", True])
    cfg.merge_from_list(
        [f"{tasks}.EMBEDDING.ENABLED", True, f"{tasks}.EMBEDDING.NUM_IDENTITIES", 4]
    )
    cfg.TEST.AUG.ENABLED = True
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for conv in model.head.predict:
        torch.nn.init.normal_(conv.weight, std=0.1)
    inputs = {"image": torch.from_numpy(noise(128, 96)).permute(2, 0, 1), "height": 64}
    singles = []
    for scale, flip in zip((1.0, 0.5), flips):
        cfg.TEST.AUG.SCALES, cfg.TEST.AUG.FLIPS = [scale], [flip]
        singles.append(prepare_for_inference(model, cfg)([inputs])[0])
    cfg.TEST.AUG.SCALES, cfg.TEST.AUG.FLIPS = [1.0, 0.5], flips
    result = prepare_for_inference(model, cfg)([inputs])[0]
    found = result["instances"]
    scores = torch.stack([x["image_scores"] for x in singles]).mean(dim=0)
    assert torch.equal(result["image_scores"], scores)
    from_view = []
    rows = zip(found.pred_boxes.tensor, found.scores, found.pred_embeddings)
    for box, score, embedding in rows:
        for number, single in enumerate(singles):
            same = (single["instances"].pred_boxes.tensor == box).all(dim=1)
            same &= single["instances"].scores == score
            if same.sum() == 1:  # several may have the whole image, at a score of 1
                from_view.append(number)
                assert torch.equal(single["instances"].pred_embeddings[same][0], embedding)
    assert len(from_view) > 30 and set(from_view) == {0, 1}


@pytest.mark.heavy
def test_masks_and_keypoints_of_a_mirrored_view(cfg):
    """What a mirrored view shows of an image is what the plain one shows of the mirrored image,
    mirrored, with left and right exchanged."""
    tasks = "MODEL.YOLOR.TASKS"
    cfg = cfg.clone()
    cfg.merge_from_list([f"{tasks}.MASKS.ENABLED", True, f"{tasks}.KEYPOINTS.ENABLED", True])
    names = ["left_ear", "tip", "right_ear"]
    cfg.merge_from_list([f"{tasks}.KEYPOINTS.NUM_KEYPOINTS", 3, f"{tasks}.KEYPOINTS.NAMES", names])
    cfg.MODEL.YOLOR.TASKS.KEYPOINTS.FLIP_PAIRS = [["left_ear", "right_ear"]]
    cfg.TEST.AUG.ENABLED, cfg.TEST.DETECTIONS_PER_IMAGE = True, 20
    torch.manual_seed(1)
    model = build_model(cfg).eval()
    for conv in model.head.predict:
        torch.nn.init.zeros_(conv.bias)
        torch.nn.init.normal_(conv.weight, std=0.1)
    image = torch.from_numpy(noise(96, 128)).permute(2, 0, 1)
    with torch.no_grad():
        plain = model([{"image": image.flip(2), "height": 192, "width": 256}])[0]["instances"]
    cfg.TEST.AUG.SCALES, cfg.TEST.AUG.FLIPS = [1.0], [True]
    inputs = {"image": image, "height": 192, "width": 256}
    found = prepare_for_inference(model, cfg)([inputs])[0]["instances"]
    assert len(found) == len(plain) == 20
    assert torch.equal(found.scores, plain.scores)
    points = plain.pred_keypoints[:, [2, 1, 0]]
    points[..., 0] = 256 - points[..., 0]
    torch.testing.assert_close(found.pred_keypoints, points, rtol=0, atol=1e-3)
    same = found.pred_masks.tensor == plain.pred_masks.tensor.flip(2)
    assert same.float().mean() > 0.999 and plain.pred_masks.tensor.any()
    # Together with a plain view, of which half of the detections are.
    cfg.TEST.AUG.SCALES, cfg.TEST.AUG.FLIPS = [1.0, 0.75], [False, True]
    found = prepare_for_inference(model, cfg)([inputs])[0]["instances"]
    assert len(found.pred_masks) == len(found.pred_keypoints) == len(found)
    for i in range(len(found)):  # each mask lies in its own box
        x1, y1, x2, y2 = found.pred_boxes.tensor[i].tolist()
        rows, columns = found.pred_masks[i].nonzero(as_tuple=True)
        if len(rows):
            assert x1 - 1 <= int(columns.min()) and int(columns.max()) <= x2
            assert y1 - 1 <= int(rows.min()) and int(rows.max()) <= y2


@pytest.mark.heavy
def test_the_model_is_fused_and_channels_last_unless_one_key_is_off(cfg):
    model = build_model(cfg).eval()
    assert prepare_for_inference(model, cfg) is model
    cfg = cfg.clone()
    cfg.MODEL.INFERENCE.OPTIMIZE = True
    default = prepare_for_inference(model, cfg)
    assert len(list(default.parameters())) < len(list(model.parameters()))
    assert default.memory_format is torch.channels_last
    image = noise(96, 128)
    (found,) = BatchPredictor(cfg)([image])
    assert_holds(found, default_predictor(cfg)(image)["instances"], count=30)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_precision_that_is_not_there_is_named(cfg, dtype):
    cfg = cfg.clone()
    cfg.MODEL.INFERENCE.DTYPE = dtype
    with pytest.raises(ValueError, match=f"MODEL.INFERENCE.DTYPE.*{dtype}"):
        prepare_for_inference(build_model(cfg).eval(), cfg)


@pytest.mark.heavy
def test_batches_give_what_single_images_give(cfg, tmp_path):
    images = [noise(96, 128), noise(128, 96, 1), noise(90, 128, 2), noise(64, 128, 3)]
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), images[0])
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    tensor = torch.from_numpy(images[1]).permute(2, 0, 1)
    single = default_predictor(cfg)
    expected = [single(image)["instances"] for image in images]
    sources = [path, tensor, tmp_path / "broken.jpg", *images[2:], tmp_path / "none.jpg"]
    found = BatchPredictor(cfg, batch_size=4)(sources)
    failed = [found[2], found[5]]
    assert all(isinstance(x, FailedInput) for x in failed)
    assert [x.index for x in failed] == [2, 5] and "broken.jpg" in failed[0].message
    for i, result in enumerate([found[0], found[1], found[3], found[4]]):
        assert_same(result, expected[i], count=30)
    # One by one they are computed just as `DefaultPredictor` does.
    for result, alone in zip(BatchPredictor(cfg, batch_size=1)(images), expected):
        assert_same(result, alone)


@pytest.mark.heavy
def test_channel_order_is_stated(cfg):
    image = noise(96, 128)
    (expected,) = BatchPredictor(cfg)([image])
    (found,) = BatchPredictor(cfg, channel_order="RGB")([image[:, :, ::-1]])
    assert_same(found, expected)


@pytest.mark.heavy
@pytest.mark.parametrize("place", ["centre", "corner"])
def test_one_image_has_the_same_boxes_everywhere(cfg, place):
    """Detectron2's predictor, ours, one tile, and the model behind the mapper of evaluation."""
    cfg = cfg.clone()
    cfg.MODEL.YOLOR.PADDING.PLACE = place
    image = noise(150, 200)
    expected = default_predictor(cfg)(image)["instances"]
    predict = BatchPredictor(cfg, batch_size=1)
    assert_same(predict([image])[0], expected)
    assert_same(predict.detect_tiled(image, tile=200, overlap=20), expected)
    with torch.no_grad():
        (output,) = predict.model([predict.to_input(image[:, :, ::-1])])
    assert_same(output["instances"], expected)
    assert expected.image_size == (150, 200)


def test_an_endless_stream_is_read_as_it_is_used(cfg):
    taken = []

    def frames():
        while True:
            taken.append(1)
            yield noise(64, 128)

    stream = BatchPredictor(cfg, batch_size=2).stream(frames())
    first = next(stream)
    assert len(first) and len(taken) <= 8  # four batches
    stream.close()


@pytest.mark.heavy
def test_images_of_one_size_share_batches_and_the_order_stays(cfg):
    """Two sizes in turn, a broken input among them: the network sees two whole batches."""
    images = [noise(64, 128, 0), noise(128, 64, 1)] * 2 + [np.zeros(3)]
    predict = BatchPredictor(cfg, batch_size=2)
    sizes = []
    network = predict.model.forward

    def spy(inputs):
        sizes.append([tuple(x["image"].shape[1:]) for x in inputs])
        return network(inputs)

    predict.model.forward = spy
    found = list(predict.stream(iter(images)))
    assert sizes == [[(64, 128)] * 2, [(128, 64)] * 2]
    assert [type(x) is FailedInput for x in found] == [False] * 4 + [True]
    assert found[4].index == 4
    alone = BatchPredictor(cfg, batch_size=1)
    for result, image in zip(found, images[:4]):
        assert_holds(result, alone([image])[0], count=30)


def test_one_plain_view_is_the_plain_model_and_more_views_are_joined(cfg):
    cfg = cfg.clone()
    cfg.TEST.AUG.ENABLED = True
    cfg.TEST.AUG.SCALES, cfg.TEST.AUG.FLIPS = [1.0], [False]
    model = build_model(cfg).eval()
    inputs = {"image": torch.from_numpy(noise(96, 128)).permute(2, 0, 1)}
    with torch.no_grad():
        expected = model([inputs])[0]["instances"]
    found = prepare_for_inference(model, cfg)([inputs])[0]["instances"]
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    # A mirrored view finds in the mirrored image what the plain view finds in the image.
    cfg.TEST.AUG.FLIPS = [True]
    mirrored = {"image": inputs["image"].flip(2)}
    flipped = prepare_for_inference(model, cfg)([mirrored])[0]["instances"]
    boxes = flipped.pred_boxes.tensor
    back = torch.stack([128 - boxes[:, 2], boxes[:, 1], 128 - boxes[:, 0], boxes[:, 3]], dim=1)
    torch.testing.assert_close(back, expected.pred_boxes.tensor, rtol=0, atol=1e-3)


def test_tiles_cover_the_image_and_share_their_overlap():
    windows = tile_windows(100, 250, tile=100, overlap=20)
    assert windows == [(0, 0, 100, 100), (80, 0, 180, 100), (150, 0, 250, 100)]
    assert tile_windows(50, 60, tile=100, overlap=20) == [(0, 0, 60, 50)]
    with pytest.raises(ValueError, match="overlap"):
        tile_windows(50, 60, tile=20, overlap=20)


def test_an_object_that_a_tile_cuts_is_left_to_its_neighbour():
    from yolor_d2.d2.structures import Boxes, Instances

    boxes = torch.tensor([[90.0, 10, 100, 30], [40, 10, 100, 30], [0, 10, 15, 30]])
    found = Instances(
        (100, 100),
        pred_boxes=Boxes(boxes),
        scores=torch.ones(3),
        pred_classes=torch.zeros(3, dtype=torch.int64),
    )
    # Cut by the inner border; larger than the overlap; at the border of the image.
    kept = take_from_tile(found, (0, 0, 100, 100), (100, 250), overlap=20)
    assert kept.pred_boxes.tensor.tolist() == boxes[1:].tolist()


def test_an_object_on_a_seam_is_found_once(cfg, tmp_path, caplog, monkeypatch):
    """White squares of 20 px on black, on seams of tiles and off them; what stands in for the model
    finds every white area of its view, halves of squares too."""
    image = np.zeros((180, 260, 3), np.uint8)
    corners = [(30, 30), (72, 20), (90, 70), (100, 150), (230, 90), (152, 120)]  # left, top
    for left, top in corners:
        image[top : top + 20, left : left + 20] = 255
    cfg = cfg.clone()
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = 100  # tiles are not resized
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "")  # as it is set for the whole process
    cfg.INPUT.MAX_PIXELS = 1000
    predict = BatchPredictor(cfg, batch_size=3)
    views = []

    def find_areas(inputs):
        views.extend(inputs)
        found = []
        for x in inputs:
            white = x["image"][0].numpy()
            areas = cv2.connectedComponentsWithStats(white)[2][1:, :4]  # x, y, w, h
            boxes = torch.from_numpy(areas).float().view(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            scores, labels = boxes.new_full((len(boxes),), 0.5), torch.zeros(len(boxes)).long()
            fields = {"pred_boxes": Boxes(boxes), "scores": scores, "pred_classes": labels}
            found.append({"instances": Instances(white.shape, **fields)})
        return found

    predict.model.forward = find_areas
    found = predict.detect_tiled(image, tile=100, overlap=24, whole=False)
    assert len(views) == 12 and {tuple(x["image"].shape[1:]) for x in views} == {(100, 100)}
    boxes = sorted(found.pred_boxes.tensor.tolist())
    assert boxes == sorted([x, y, x + 20, y + 20] for x, y in corners)

    # Tiles alone by default, which the log names; they read what is refused as a whole.
    monkeypatch.setattr(logging.getLogger("yolor_d2"), "propagate", True)  # a command ends it
    Image.fromarray(image).save(tmp_path / "scene.png")
    for options, seen, words in (
        ({}, 12, "12 tiles of 100 pixels are looked at, not the whole image"),
        ({"whole": True}, 13, "12 tiles of 100 pixels are looked at, and the whole image"),
    ):
        views.clear()
        with caplog.at_level(logging.INFO):
            predict.detect_tiled(tmp_path / "scene.png", tile=100, overlap=24, **options)
        assert len(views) == seen
        assert caplog.records[-1].getMessage() == f"{tmp_path / 'scene.png'}: {words}"
    (refused,) = predict([tmp_path / "scene.png"])
    assert isinstance(refused, FailedInput)
    assert "46,800 pixels" in refused.message and "INPUT.MAX_PIXELS" in refused.message
