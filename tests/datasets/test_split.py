"""Parts of a data set: fractions of every class, whole groups, the same for the same seed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.commands import execute
from yolor_d2.datasets.split import distribute, group_images, split_coco

FRACTIONS = {"train": 0.7, "val": 0.2, "test": 0.1}


def coco(classes: list[list[int]], names: list[str] | None = None) -> dict:
    """Images by the classes of their boxes."""
    images = [
        {"id": 7 * i, "file_name": names[i] if names else f"{i}.png", "height": 9, "width": 9}
        for i in range(len(classes))
    ]
    boxes = [(7 * i, label) for i, labels in enumerate(classes) for label in labels]
    return {
        "info": {"year": 2026},
        "images": images,
        "categories": [{"id": i, "name": str(i)} for i in range(4)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": label, "bbox": [0, 0, 3, 3]}
            for i, (image, label) in enumerate(boxes, 1)
        ],
    }


groups_of_boxes = st.lists(
    st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=3, max_size=60
)


@pytest.mark.heavy
@given(groups_of_boxes, st.integers(0, 5))
@settings(deadline=None)
def test_every_group_has_a_part_and_every_part_a_group(rows, seed):
    counts = np.array([[1 + row[0] % 3, *row] for row in rows])
    parts = distribute(counts, list(FRACTIONS.values()), seed)
    assert set(parts.tolist()) == {0, 1, 2}
    assert (parts == distribute(counts, list(FRACTIONS.values()), seed)).all()


def test_rare_classes_are_shared_out_as_frequent_ones_are():
    """2 of 10 images with the rare class are for validation; at random in a third of all splits."""
    classes = [[0, 0, 3]] * 10 + [[0]] * 60 + [[1, 1]] * 20 + [[]] * 10
    for seed in range(5):
        parts = split_coco(coco(classes), "nowhere", {"train": 0.8, "val": 0.2}, seed=seed)
        labels = [x["category_id"] for x in parts["val"]["annotations"]]
        assert [labels.count(i) for i in range(4)] == [16, 8, 0, 2]
        assert len(parts["val"]["images"]) == 20
    assert parts["val"]["info"] == {"year": 2026}
    ids = [[x["id"] for x in part["images"]] for part in parts.values()]
    assert sorted(ids[0] + ids[1]) == [7 * i for i in range(100)]


def test_seeds_differ():
    data = coco([[0]] * 50)
    chosen = [
        [x["id"] for x in split_coco(data, "x", FRACTIONS, seed=seed)["val"]["images"]]
        for seed in (0, 0, 1)
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_groups_stay_together():
    names = [f"cam{i % 10}/video{i % 5}_{i}.png" for i in range(40)]
    data = coco([[i % 4] for i in range(40)], names)
    for pattern, count in (("^(cam.)/", 10), ("video.", 5)):
        groups = group_images(data["images"], "x", pattern=pattern)
        assert len(set(groups.tolist())) == count
        assert all(groups[i] == groups[i % count] for i in range(40))
    parts = split_coco(data, "x", FRACTIONS, pattern="video.")
    videos = [{x["file_name"][5:11] for x in part["images"]} for part in parts.values()]
    assert sum(map(len, videos)) == len(set.union(*videos)) == 5
    for image in data["images"]:
        image["patient"] = image["id"] % 3
    assert len(set(group_images(data["images"], "x", key="patient").tolist())) == 3


def test_copies_of_one_file_stay_together(tmp_path):
    names = [f"{'aabbcc'[i]}{i}.png" for i in range(6)]
    for i, name in enumerate(names):
        (tmp_path / name).write_bytes(b"same" if i in (1, 3, 4) else bytes([i]))
    images = coco([[]] * 6, names)["images"]
    assert group_images(images, tmp_path).tolist() == [0, 1, 2, 1, 1, 3]
    # 1, 3 and 4 join three groups.
    assert group_images(images, tmp_path, pattern="[abc]").tolist() == [0] * 6


def test_masks_and_keypoints_are_kept(tmp_path):
    """Whatever objects and categories have, also from labels of YOLO."""
    data = coco([[0]] * 10)
    keypoints = {"keypoints": ["a", "b"], "skeleton": [[1, 2]], "flip_pairs": [["a", "b"]]}
    data["categories"][0] |= keypoints
    for x in data["annotations"]:
        x |= {"segmentation": [[0, 0, 3, 0, 3, x["id"]]], "iscrowd": 0, "area": 9}
        x |= {"keypoints": [1, 1, 2, 0, 0, 0], "num_keypoints": 1}
    run = {"size": [9, 9], "counts": [40, 3, 38]}
    data["annotations"][3]["segmentation"] = run
    (tmp_path / "all.json").write_text(json.dumps(data))
    output = ["--output", str(tmp_path / "parts")]
    execute("split", [str(tmp_path / "all.json"), str(tmp_path), *output])
    parts = [json.loads((tmp_path / "parts" / f"{x}.json").read_text()) for x in ("train", "val")]
    found = sorted((x for part in parts for x in part["annotations"]), key=lambda x: x["id"])
    assert found == data["annotations"]
    assert all(part["categories"] == data["categories"] for part in parts)

    for i in range(4):
        Image.new("RGB", (20, 10), (i, 0, 0)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("0 0.5 0.5 0.5 0.5 0.5 0.5 2\n")
    (tmp_path / "data.yaml").write_text("train: .\nnames: [cat]\nkpt_shape: [1, 3]\n")
    output = ["--output", str(tmp_path / "yolo")]
    execute("split", [str(tmp_path / "data.yaml"), *output])
    part = json.loads((tmp_path / "yolo" / "val.json").read_text())
    assert part["categories"][0]["keypoints"] == ["kpt_0"]
    assert [x["keypoints"] for x in part["annotations"]] == [[10, 5, 2]]


def test_what_cannot_be_split_is_said():
    data = coco([[0]] * 4)
    with pytest.raises(ValueError, match=r"1 group\(s\) of images cannot be shared out to 3 parts"):
        split_coco(data, "x", FRACTIONS, pattern="png")
    with pytest.raises(ValueError, match=r"--groups 'video' is not found in 4 of 4 names.*'0.png'"):
        split_coco(data, "x", FRACTIONS, pattern="video")
    with pytest.raises(ValueError, match="no regular expression"):
        split_coco(data, "x", FRACTIONS, pattern="(")
    with pytest.raises(ValueError, match=r"'video' is missing in 4 .*file_name, height, id, width"):
        split_coco(data, "x", FRACTIONS, key="video")


def test_command(tmp_path, capsys):
    data = coco([[i % 4] for i in range(20)])
    (tmp_path / "all.json").write_text(json.dumps(data))
    words = [str(tmp_path / "all.json"), str(tmp_path), "--output", str(tmp_path / "parts")]
    execute("split", words)
    out = capsys.readouterr().out
    assert "images" in out and "16 (80%)" in out and "--train" in out and "--val" in out
    parts = [json.loads((tmp_path / "parts" / f"{x}.json").read_text()) for x in ("train", "val")]
    assert [len(part["images"]) for part in parts] == [16, 4]
    with pytest.raises(ValueError, match=r"train.json' is there already"):
        execute("split", words)
    execute("split", [*words, "--overwrite", "--test", "0.2"])
    assert len(json.loads((tmp_path / "parts" / "test.json").read_text())["images"]) == 4
    data["annotations"][0]["image_id"] = 5
    (tmp_path / "all.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"annotation 1, image 5.*yolor-d2 check --train"):
        execute("split", [*words, "--overwrite"])
    for wrong in (["--val", "1"], ["--val", "nan"], ["--val", "0.6", "--test", "0.6"]):
        with pytest.raises(SystemExit):
            execute("split", [*words, *wrong])
