"""Pictures of what the dataset doctor finds: boxes of pairs and beyond the image, whole labels."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.doctor import Source, check_sources
from yolor_d2.doctor import pictures as module
from yolor_d2.doctor.pictures import draw_findings, marks_of
from yolor_d2.visualize import labels, marks
from yolor_d2.visualize.boxes import PALETTE
from yolor_d2.visualize.labels import wrap, write_text
from yolor_d2.visualize.marks import frame_of
from yolor_d2.wording import counted


def checked(folder, *boxes, size=(300, 400), images=1):
    """A source of grey images whose first has these boxes."""
    entries = []
    for i in range(images):
        Image.new("RGB", size[::-1], (90 + i, 130, 110)).save(folder / f"{i}.png")
        entries.append({"id": i, "file_name": f"{i}.png", "height": size[0], "width": size[1]})
    annotations = [
        {"id": 100 + i, "image_id": 0, "category_id": 1, "bbox": [*box], "area": 1, "iscrowd": 0}
        for i, box in enumerate(boxes)
    ]
    categories = [{"id": 1, "name": "cat"}]
    data = {"images": entries, "annotations": annotations, "categories": categories}
    source = Source("train", folder / "train.json", folder, data)
    return source, check_sources([source])


def picture(source, folder) -> np.ndarray:
    """The only picture, as it was before JPEG."""
    written = []
    original = module.write_image
    module.write_image = lambda path, image: written.append(image)
    try:
        draw_findings([source], folder / "drawn", count=10)
    finally:
        module.write_image = original
    (image,) = written
    return image


def has_colour(image, number) -> bool:
    return bool((image == PALETTE[number]).all(axis=2).any())


@pytest.mark.parametrize("shift, kind", [(0, "box_duplicate"), (2, "box_near_duplicate")])
def test_both_boxes_of_a_pair_are_shown(tmp_path, monkeypatch, shift, kind):
    source, _ = checked(tmp_path, (50, 60, 100, 80), (50 + shift, 60, 100, 80))
    (finding,) = (x for x in source.findings if x.kind == kind)
    assert (finding.place, finding.other) == (1, 0)
    assert list(marks_of(source, [finding], (300, 400))) == [0, 1]
    drawn = []
    original = marks.draw_label
    monkeypatch.setattr(marks, "draw_label", lambda *x: drawn.append(x[1]) or original(*x))
    image = picture(source, tmp_path)
    assert {x.text for x in drawn} == {"annotation 100", "annotation 101"}
    # Below their labels, on the lower line of the boxes, drawn 1.2 times as large.
    bottom = image[-360 + 163 : -360 + 173, 70:170]
    assert has_colour(bottom, 0) and has_colour(bottom, 1)


def test_boxes_beyond_the_image_are_seen(tmp_path):
    source, _ = checked(tmp_path, (430, -50, 60, 40), (-60, 200, 100, 80))
    image = picture(source, tmp_path)
    around = (image == marks.AROUND).all(axis=2)
    colour = (image == PALETTE[0]).all(axis=2) & (np.arange(len(image)) > 60)[:, None]
    rows, columns = np.nonzero(colour)
    assert around.any() and len(rows)
    inside = (image == (90, 130, 110)).all(axis=2)
    right, top = np.nonzero(inside.any(axis=0))[0].max(), np.nonzero(inside.any(axis=1))[0].min()
    assert columns.min() > right and rows.min() < top  # right of the image, and above
    sides = np.flatnonzero(colour.sum(axis=0) >= 48)  # its left and right line, 1.2 times as large
    assert sides.max() - sides.min() in (72, 73)


def test_what_is_far_away_leaves_the_picture(tmp_path):
    frame = frame_of((300, 400), np.array([[1e9, 0, 2e9, 10], [0, -5, 10, 10]]))
    assert 800 <= frame[2] < 850 and -30 < frame[1] < -5 and frame[0] == 0 and frame[3] == 300
    source, _ = checked(tmp_path, (1e9, 0, 10, 10))
    assert max(picture(source, tmp_path).shape) <= marks.LONGEST + 60


@pytest.mark.parametrize("size", [(8, 8), (20, 3000), (3000, 20)])
def test_labels_are_whole(tmp_path, monkeypatch, size):
    placed = []
    original = marks.place_labels
    monkeypatch.setattr(
        marks, "place_labels", lambda *x, **y: placed.extend(original(*x, **y)) or placed
    )
    source, _ = checked(tmp_path, (1, 1, 0, 4), (0, 0, 5, 5), (0, 0, 5, 5), size=size)
    picture(source, tmp_path)
    assert {x.index for x in placed} == {0, 1, 2}


def test_findings_are_written_whole():
    text = "annotation 12, error: box_outside: box [1, 2, 3, 4] lies outside its image " + "x" * 200
    lines = wrap(text, 150)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(write_text(line, labels.LETTERS).shape[1] <= 150 for line in lines)
    assert lines[0] == "annotation 12, error:"


def test_one_and_several(tmp_path):
    assert counted(1, "error") == "1 error" and counted(0, "error") == "0 errors"
    assert counted(2, "box", "boxes") == "2 boxes" and counted(1, "box", "boxes") == "1 box"
    _, report = checked(tmp_path, (10, 10, 0, 5), (10, 10, 20, 20))
    text = report.as_text(3)
    assert "(1 image, 1 box to train on, 1 category)" in text
    assert "1 error, 0 warnings" in text and "1 image read in" in text
