"""What the options of `predict` write, with a stub in the place of the network."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime
pytest.importorskip("av")

import av
from predict_commands import write_images, write_video

from yolor_d2.arguments import predict as arguments
from yolor_d2.prediction.coco_files import ImageIds
from yolor_d2.prediction.sources import expand


def succeed(predict, *words) -> str:
    code, text = predict(*words)
    assert code == 0, text[-3000:]
    return text


def fail(predict, *words) -> str:
    """The last line."""
    code, text = predict(*words)
    assert code == 1 and "Traceback" not in text, text[-3000:]
    return text.strip().splitlines()[-1]


def records(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.heavy
def test_every_record_and_line_has_frame_and_seconds(predict, tmp_path):
    video = write_video(tmp_path / "video.mp4", 20)
    found, table = tmp_path / "a.jsonl", tmp_path / "a.csv"
    image = next(write_images(tmp_path / "images", 1).iterdir())
    succeed(predict, "--input", image, video, "--json", found, "--csv", table, "--stride", 4)
    first, *frames = records(found)
    assert (first["file_name"], first["frame"], first["seconds"]) == (str(image), 0, 0.0)
    assert [x["frame"] for x in frames] == [0, 4, 8, 12, 16]
    assert [x["seconds"] for x in frames] == [0.0, 0.16, 0.32, 0.48, 0.64]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(x["detections"]) for x in frames) > 0
    assert {(int(x["frame"]), float(x["seconds"])) for x in rows} <= {
        (x["frame"], x["seconds"]) for x in frames
    }


def test_stride_and_frames_go_together_and_times_stay(predict, tmp_path):
    video = write_video(tmp_path / "video.mp4", 60)
    succeed(predict, "--input", video, "--output", tmp_path / "out", "--stride", 5, "--frames", 6)
    with av.open(tmp_path / "out" / "video.mp4") as drawn:
        times = [frame.time for frame in drawn.decode(video=0)]
    assert times == pytest.approx([0.2 * i for i in range(6)])


def test_subfolders_are_mirrored_in_every_folder(predict, tmp_path):
    root = tmp_path / "in"
    write_images(root / "a", 4)
    write_images(root / "b" / "c", 4)
    shutil.copy(write_video(tmp_path / "video.mp4", 3), root / "b" / "video.mkv")
    out, labels = tmp_path / "out", tmp_path / "labels"
    succeed(predict, "--input", root, "--output", out, "--yolo-txt", labels)
    drawn = sorted(str(x.relative_to(out)) for x in out.rglob("*.*") if x.suffix != ".progress")
    pictures = [f"{i:03d}" for i in range(4)]
    assert drawn == [
        *(f"a/{name}.jpg" for name in pictures),
        *(f"b/c/{name}.jpg" for name in pictures),
        "b/video.mp4",
    ]
    written = {str(x.relative_to(labels)) for x in labels.rglob("*.txt")}
    assert written == {
        *(f"{folder}/{name}.txt" for name in pictures for folder in ("a", "b/c")),
        *(f"b/video_{i:08d}.txt" for i in range(3)),
    }


def test_labels_and_crops_are_those_of_the_boxes(predict, tmp_path):
    image = tmp_path / "grey.png"
    cv2.imwrite(str(image), np.full((40, 60, 3), 30, np.uint8))  # two boxes
    folders = ["--yolo-txt", tmp_path / "labels", "--crops", tmp_path / "crops"]
    succeed(predict, "--input", image, *folders, "--json", tmp_path / "a.jsonl")
    ((record),) = records(tmp_path / "a.jsonl")
    lines = (tmp_path / "labels" / "grey.txt").read_text().splitlines()
    assert len(lines) == len(record["detections"]) == 2
    for line, found in zip(lines, record["detections"]):
        label, *box = line.split()
        x, y, width, height = found["bbox"]
        assert label == {"person": "0", "bicycle": "1"}[found["class"]]
        expected = [(x + width / 2) / 60, (y + height / 2) / 40, width / 60, height / 40]
        np.testing.assert_allclose(list(map(float, box)), expected, atol=1e-4)
        crop = cv2.imread(str(tmp_path / "crops" / found["class"] / "grey_0.jpg"))
        assert abs(crop.shape[1] - width) <= 1 and abs(crop.shape[0] - height) <= 1
        assert crop.mean() == pytest.approx(30, abs=2)


def test_only_wanted_classes_are_reported(predict, tmp_path):
    image = tmp_path / "grey.png"
    cv2.imwrite(str(image), np.full((40, 60, 3), 31, np.uint8))  # three boxes
    for wanted, expected in (
        (["bicycle"], ["bicycle"]),
        (["0", "car"], ["person", "car"]),
    ):
        command = ["--input", image, "--json", tmp_path / "a.jsonl", "--overwrite"]
        succeed(predict, *command, "--classes", *wanted, "MODEL.DEVICE", "cpu")
        (record,) = records(tmp_path / "a.jsonl")
        assert [x["class"] for x in record["detections"]] == expected
    message = fail(predict, "--input", image, "--csv", tmp_path / "b", "--classes", "persn")
    assert "no class 'persn'; did you mean 'person'?" in message
    message = fail(predict, "--input", image, "--csv", tmp_path / "b", "--classes", "80")
    assert "no class '80'" in message


def test_drawing_without_words_and_with_a_given_width(predict, tmp_path):
    image = tmp_path / "grey.png"
    cv2.imwrite(str(image), np.full((200, 300, 3), 29, np.uint8))  # one box
    pictures = {}
    for name, options in {
        "words": [],
        "thin": ["--no-labels", "--line-width", 1],
        "thick": ["--no-labels", "--line-width", 9],
    }.items():
        succeed(predict, "--input", image, "--output", tmp_path / name, *options)
        picture = cv2.imread(str(tmp_path / name / "grey.jpg")).astype(int)
        pictures[name] = (np.abs(picture - 29).max(2) > 60).sum()
    assert pictures["thin"] * 4 < pictures["thick"]
    assert pictures["thin"] * 1.2 < pictures["words"]


def test_each_frame_and_each_folder_has_an_image_id_of_its_own(predict, tmp_path):
    video = write_video(tmp_path / "video.mp4", 10)
    first, second = write_images(tmp_path / "p", 3), write_images(tmp_path / "q", 3)
    target = tmp_path / "coco.json"
    succeed(predict, "--input", first, second, video, "--coco-json", target)
    table = json.loads((tmp_path / "coco.images.json").read_text())
    images = table["images"]
    assert [x["id"] for x in images] == list(range(1, 17))
    assert [x["frame"] for x in images[6:]] == list(range(10))
    assert images[3]["file_name"] == str(second / "000.png")
    assert (images[0]["height"], images[0]["width"]) == (40, 60)
    assert table["categories"][0] == {"id": 1, "name": "person"}
    results = json.loads(target.read_text())
    assert {x["image_id"] for x in results} <= {x["id"] for x in images}
    assert len({x["image_id"] for x in results if x["image_id"] > 6}) > 2


def test_names_that_are_different_numbers_stay_the_ids(predict, tmp_path):
    images = write_images(tmp_path / "images", 5)
    succeed(predict, "--input", images, "--coco-json", tmp_path / "coco.json")
    table = json.loads((tmp_path / "coco.images.json").read_text())
    assert [x["id"] for x in table["images"]] == [0, 1, 2, 3, 4]
    (images / "1.png").write_bytes((images / "004.png").read_bytes())  # as 001.png
    sources = expand([images])
    assert ImageIds(sources)(sources[0], 0) == 1


def test_ids_of_an_annotation_file(predict, tmp_path):
    images = write_images(tmp_path / "images" / "day", 3)
    names = ["person", "bicycle", "car"]
    annotations = {
        "images": [{"id": 70 + i, "file_name": f"day/{i:03d}.png"} for i in range(3)],
        "categories": [{"id": 11 * i + 5, "name": name} for i, name in enumerate(names)],
    }
    classes = ["MODEL.YOLOR.CLASS_NAMES", str(names), "MODEL.YOLOR.NUM_CLASSES", 3]
    path = tmp_path / "val.json"
    path.write_text(json.dumps(annotations))
    command = ["--input", images, "--coco-json", tmp_path / "coco.json", "--coco-images", path]
    succeed(predict, *command, *classes)
    results = json.loads((tmp_path / "coco.json").read_text())
    assert {x["image_id"] for x in results} <= {70, 71, 72}
    assert {x["category_id"] for x in results} <= {5, 16, 27} and results
    annotations["images"].pop()
    path.write_text(json.dumps(annotations))
    assert "has no image '002.png'" in fail(predict, *command, *classes)
    annotations["categories"].pop()
    path.write_text(json.dumps(annotations))
    command[1] = images / "000.png"
    assert "has no class 'car'" in fail(predict, *command, "--overwrite", *classes)


@pytest.mark.heavy
def test_objects_keep_their_identity_and_get_new_ones_in_the_next_video(predict, tmp_path):
    pytest.importorskip("trackers")
    # Of one grey: the same box in every frame.
    for name, grey in (("a.mp4", 29), ("b.mp4", 37)):
        with av.open(tmp_path / name, "w") as video:
            stream = video.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            pixels = np.full((48, 64, 3), grey, np.uint8)
            for _ in range(12):
                video.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            video.mux(stream.encode())
    files = [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    options = ["--json", tmp_path / "a.jsonl", "--csv", tmp_path / "a.csv", "--track"]
    succeed(predict, "--input", *files, *options, "--output", tmp_path / "out")
    found = records(tmp_path / "a.jsonl")
    for video in (found[:12], found[12:]):
        identities = [[x["identity"] for x in record["detections"]] for record in video]
        # ByteTrack believes in an object when it is seen again.
        assert identities[0] == [None] and identities[1:] == [[1]] * 11
    header = (tmp_path / "a.csv").read_text().splitlines()[0]
    assert header.endswith(",height,identity")


def test_identities_of_images_are_refused(predict, tmp_path):
    pytest.importorskip("trackers")
    images = write_images(tmp_path / "images", 2)
    message = fail(predict, "--input", images, "--csv", tmp_path / "a", "--track")
    assert "all inputs are images" in message


def test_an_unreadable_video_leaves_the_others(predict, tmp_path):
    video = write_video(tmp_path / "video.mp4", 5)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    inputs = ["--input", tmp_path / "broken.mp4", video]
    code, text = predict(*inputs, "--json", tmp_path / "a.jsonl", "--output", tmp_path / "out")
    assert code == 1 and "broken.mp4" in text and "1 files done, 1 could not be read" in text
    assert len(records(tmp_path / "a.jsonl")) == 5
    left = sorted(x.name for x in (tmp_path / "out").iterdir() if x.suffix != ".progress")
    assert left == ["video.mp4"]


def test_detections_go_to_a_device_too(predict, tmp_path):
    video = write_video(tmp_path / "video.mp4", 5)
    text = succeed(predict, "--input", video, "--json", "/dev/stdout")
    array = text[text.index("[\n{") : text.rindex("]\n") + 1]
    assert len(json.loads(array)) == 5


def test_videos_are_not_drawn_without_pyav(tmp_path, monkeypatch):
    video = write_video(tmp_path / "video.mp4", 2)
    monkeypatch.setattr("yolor_d2.prediction.extras.has_pyav", lambda: False)
    words = ["--config-file", "quick/ssss_320_cpu.yaml", "--input", str(video), "--output", "out"]
    with pytest.raises(ValueError, match=r"needs PyAV: pip install 'yolor_d2\[video\]'"):
        arguments.check_inputs(arguments.parse_args(words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--csv", "b", "--stride", "0"], "--stride is 0, expected at least 1"),
        (["--output", "b", "--line-width", "0"], "--line-width is 0, expected at least 1"),
        (["--csv", "b", "--threshold", "2"], "--threshold is 2.0, expected a score from 0 to 1"),
        (["--csv", "b", "--tile", "8", "--tile-overlap", "8"], "expected 0 to below --tile"),
        (["--csv", "b", "--coco-images", "c"], "--coco-images belongs to --coco-json"),
        (["--csv", "b", "--resume", "--overwrite"], "give one of them"),
        (["--csv", "b", "--json", "b"], "two outputs are the same file, 'b'"),
    ],
)
def test_options_that_make_no_sense_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        arguments.parse_args(["--config-file", "any.yaml", "--input", "a.jpg", *words])
    assert message in capsys.readouterr().err
