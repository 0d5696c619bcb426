"""The dataset doctor: a hand-made case of every kind of finding, and of its repair."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.d2.data import load_coco_json
from yolor_d2.datasets.source import read_coco
from yolor_d2.doctor import KINDS, AnnotationFileError, Source, check_sources
from yolor_d2.doctor.boxes import InputSettings, near_pairs
from yolor_d2.doctor.pictures import draw_findings
from yolor_d2.doctor.quick import quick_check
from yolor_d2.doctor.repair import changes_path, check_target, repair, write_repaired
from yolor_d2.files.inspection import inspect_image, inspect_images

# Squares of 8 and 32 pixels; boxes up to four times smaller or larger match.
SETTINGS = InputSettings(size=64, anchors=torch.tensor([[[8.0, 8]], [[32.0, 32]]]), strides=[8, 16])


def annotation(number: object, *box: object, image: object = 1, category: object = 1, **more):
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": list(box)}
    area = box[2] * box[3] if len(box) == 4 and not isinstance(box[2], str) else 0
    return {**entry, "area": area, "iscrowd": 0, **more}


def image_entry(number: object, name: object = "a.png", height: object = 48, width: object = 64):
    return {"id": number, "file_name": name, "height": height, "width": width}


def content(annotations=(), images=None, categories=None) -> dict:
    return {
        "images": [image_entry(1)] if images is None else images,
        "annotations": [annotation(1, 4, 4, 20, 20), *annotations],
        "categories": [{"id": 1, "name": "cat"}] if categories is None else categories,
    }


def source_of(data: dict, folder: Path = Path("."), name: str = "train") -> Source:
    return Source(name, folder / f"{name}.json", folder, data)


def check(data: dict, **options) -> Source:
    source = source_of(data)
    check_sources([source], settings=SETTINGS, read_images=False, **options)
    return source


def kinds(source: Source, but: tuple[str, ...] = ()) -> list[str]:
    return sorted(x.kind for x in source.findings if x.kind not in but)


def test_a_good_set_has_no_findings():
    assert kinds(check(content())) == []


# What is added to the annotations, the kind that is found, and the boxes that the repair leaves.
ANNOTATIONS = [
    (annotation(2, 1, 1, 0, 5), "box_empty", None),
    (annotation(2, 30, 1, -5, 5), "box_negative", None),
    (annotation(2, 64, 0, 5, 5), "box_outside", None),  # its left edge is the image's right one
    (annotation(2, 0, -9, 5, 9), "box_outside", None),
    (annotation(2, -5, 40, 15, 28), "box_partly_outside", [0, 40, 10, 8]),
    (annotation(2, math.nan, 1, 5, 5), "box_not_finite", None),
    (annotation(2, 1, 1, math.inf, 5), "box_not_finite", None),
    (annotation(2, 10**400, 1, 5, 5), "box_not_finite", None),
    (annotation(2, 1, 2, 3), "box_malformed", None),
    (annotation(2, "one", 2, 3, 4), "box_malformed", None),
    (annotation(2, "40", 4, 9, 9), "number_malformed", [40, 4, 9, 9]),
    (annotation("2", 40, 4, 9, 9), "number_malformed", [40, 4, 9, 9]),
    (annotation(2.0, 40, 4, 9, 9), "number_malformed", [40, 4, 9, 9]),
    (annotation(2, 40, 4, 9, 9, image="1"), "number_malformed", [40, 4, 9, 9]),
    (annotation(2, 40, 4, 9, 9, category="01"), "number_malformed", [40, 4, 9, 9]),
    (annotation(2, 40, 4, 9, 9, area="81"), "number_malformed", [40, 4, 9, 9]),
    (annotation(2, segmentation=[[40, 4, 49, 4, 49, 13]]), "box_missing", [40, 4, 9, 9]),
    (
        # 40 columns of 48 pixels and 4; 9 times 9 ones and the 39 zeros to the next column.
        annotation(2, segmentation={"size": [48, 64], "counts": [1924, *[9, 39] * 8, 9, 755]}),
        "box_missing",
        [40, 4, 9, 9],
    ),
    (annotation(2, True, 2, 3, 4), "box_malformed", None),
    (annotation(2, 0, 0, 64, 48), "box_whole_image", [0, 0, 64, 48]),
    (annotation(2, 4, 4, 20, 20), "box_duplicate", None),
    (annotation(2, 4, 4, 20, 21), "box_near_duplicate", [4, 4, 20, 21]),  # 400 / 420 = 0.95
    (annotation(2, 40, 4, 1.5, 4), "box_tiny", [40, 4, 1.5, 4]),
    (annotation(2, 40, 4, 20, 7), None, [40, 4, 20, 7]),
    (annotation(2, 2, 30, 60, 7), "box_without_anchor", [2, 30, 60, 7]),  # 60 > 32, 7 < 8
    (annotation(2, 40, 4, 9, 9, image=5), "unknown_image", None),
    (annotation(2, 40, 4, 9, 9, category=5), "unknown_category", None),
    (annotation(2, 40, 4, 9, 9, image="one"), "entry_malformed", None),
    (annotation(2, 40, 4, 9, 9, image=1.5), "entry_malformed", None),
    (annotation(2, 40, 4, 9, 9, category=None), "entry_malformed", None),
    ("no object", "entry_malformed", None),
    (annotation(1, 40, 4, 9, 9), "annotation_id_collision", [40, 4, 9, 9]),
    (annotation(None, 40, 4, 9, 9), "annotation_id_invalid", [40, 4, 9, 9]),
    (annotation(2**70, 40, 4, 9, 9), "annotation_id_invalid", [40, 4, 9, 9]),
    (annotation(2, 40, 4, 9, 9, area=None), "field_missing", [40, 4, 9, 9]),
    (annotation(2, 40, 4, 9, 9, iscrowd="no"), "field_missing", [40, 4, 9, 9]),
    (annotation(2, 40, 4, 9, 9, ignore=1), "ignore_flag", [40, 4, 9, 9]),
    (annotation(2, 40, 4, 9, 9, segmentation=[[1, 2]]), "segmentation_malformed", [40, 4, 9, 9]),
    (annotation(2, 40, 4, 9, 9, segmentation={"x": 1}), "segmentation_malformed", [40, 4, 9, 9]),
    (
        annotation(2, 40, 4, 9, 9, segmentation={"counts": [-1, 9], "size": [2, 4]}),
        "segmentation_malformed",
        [40, 4, 9, 9],
    ),
]


@pytest.mark.parametrize("entry, kind, left", ANNOTATIONS)
def test_annotations(entry, kind, left, tmp_path):
    source = check(content([entry]))
    # Large and small boxes fit no anchor either, and an infinite one has no area.
    also = {
        "box_whole_image": ("box_without_anchor",),
        "box_tiny": ("box_without_anchor",),
        "box_not_finite": ("field_missing",),
    }.get(kind, ())
    assert kinds(source, also) == ([kind] if kind else [])
    if kind:
        (finding,) = (x for x in source.findings if x.kind == kind)
        assert (finding.section, finding.place) == ("annotations", 1)
        number = entry["id"] if isinstance(entry, dict) else None
        assert finding.annotation_id == number
        assert any(word in finding.message for word in ("expected", "box", "no", "too small"))
    fixed, changes = repair(source)
    assert [x["bbox"] for x in fixed["annotations"][1:]] == ([] if left is None else [left])
    repaired = bool(kind) and bool(KINDS[kind].repair)
    assert bool(changes) == repaired
    again = check(fixed)
    if repaired:
        assert kinds(again, ("box_tiny",)) == []
        # Detectron2's reader takes it.
        (tmp_path / "fixed.json").write_text(json.dumps(fixed))
        (item,) = load_coco_json(str(tmp_path / "fixed.json"), str(tmp_path), None)
        assert len(item["annotations"]) == len(fixed["annotations"])


# Images, the kinds that are found, and the ids that the repair leaves.
IMAGES = [
    ([image_entry(1), None], ["entry_malformed"], [1]),
    ([image_entry(1), image_entry(2, "")], ["entry_malformed"], [1]),
    ([image_entry(1), image_entry(2, "a\0.png")], ["entry_malformed"], [1]),
    ([image_entry(1), image_entry("b", "b.png")], ["entry_malformed"], [1]),
    (
        [image_entry(1), image_entry("2", "b.png", "48", 64.0)],
        ["image_without_boxes", "number_malformed"],
        [1, 2],
    ),
    ([image_entry(1), image_entry(1)], ["image_id_collision"], [1]),
    ([image_entry(1), image_entry(1, "b.png")], ["image_id_collision"], []),
    ([image_entry(1), image_entry(2)], ["image_file_repeated", "image_without_boxes"], [1, 2]),
    (
        [image_entry(1), image_entry(2, "b.png", 0)],
        ["image_size_missing", "image_without_boxes"],
        [1],
    ),
]


@pytest.mark.parametrize("images, found, left", IMAGES)
def test_images(images, found, left):
    source = check(content(images=images))
    assert kinds(source) == found
    fixed, _ = repair(source)
    assert [x["id"] for x in fixed["images"]] == left
    assert len(fixed["annotations"]) == (1 if left else 0)  # whose would it be?


def boxes_of(*boxes: object, area: float = 1) -> dict:
    """A data set of one image of 48 x 64 pixels with these boxes alone."""
    data = content()
    data["annotations"] = [annotation(i, *box, area=area) for i, box in enumerate(boxes, 1)]  # pyright: ignore
    return data


# Boxes as a file has them, the kind that is found, and pixels.
FORMS = [
    ([[0.25, 0.5, 0.5, 0.25]], "boxes_are_shares", [[16, 24, 32, 12]]),
    # From 0.6 to 1.1 would be outside: these are centres.
    (
        [[0.6, 0.5, 0.5, 0.25], [0.25, 0.25, 0.5, 0.5]],
        "boxes_are_shares",
        [[22.4, 18, 32, 12], [0, 0, 32, 24]],
    ),
    (
        [[30, 30, 60, 40], [8, 4, 32, 20], [20, 20, 64, 48]],
        "boxes_are_corners",
        [[30, 30, 30, 10], [8, 4, 24, 16], [20, 20, 44, 28]],
    ),
    # Only one of five would leave the image: a careless box, not another form.
    (
        [[30, 30, 60, 40], *([x, 1, 20, 20] for x in (2, 3, 4, 5))],
        None,
        [[30, 30, 34, 18], *([x, 1, 20, 20] for x in (2, 3, 4, 5))],
    ),
    # One that is no corner among few.
    (
        [[30, 30, 60, 40], [20, 20, 64, 48], [30, 2, 5, 9]],
        None,
        [[30, 30, 34, 18], [20, 20, 44, 28], [30, 2, 5, 9]],
    ),
    ([[0.25, 0.5, 0.5, 0.25], [4, 4, 20, 20]], None, [[0.25, 0.5, 0.5, 0.25], [4, 4, 20, 20]]),
]


@pytest.mark.parametrize("boxes, kind, pixels", FORMS)
def test_boxes_in_another_form(boxes, kind, pixels):
    data = boxes_of(*boxes)
    source = check(data)
    forms = [x for x in source.findings if x.kind in ("boxes_are_shares", "boxes_are_corners")]
    assert [x.kind for x in forms] == ([kind] if kind else [])
    assert [x["bbox"] for x in data["annotations"]] == boxes  # untouched
    fixed, changes = repair(source)
    found = [x["bbox"] for x in fixed["annotations"]]
    np.testing.assert_allclose(found, pixels)
    if kind:
        assert [x["before"]["bbox"] for x in changes] == boxes
        assert [x["after"]["bbox"] for x in changes] == found
        again = check(fixed)
        assert not [x for x in again.findings if KINDS[x.kind].severity == "error"]
    if kind == "boxes_are_shares":
        assert [x["area"] for x in fixed["annotations"]] == [w * h for _, _, w, h in found]
    if kind == "boxes_are_corners":
        assert [x["area"] for x in fixed["annotations"]] == [1] * len(boxes)  # possible, so kept


def test_training_stops_at_boxes_in_another_form(folder):
    with pytest.raises(ValueError, match=r"lie within 0 to 1.*--fix cleaned\.json"):
        quick(folder, boxes_of([0.25, 0.5, 0.5, 0.25]))


def test_categories():
    named = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert kinds(check(content(categories=named))) == ["unused_category"]
    same = check(content(categories=[named[0], {"id": 2, "name": "cat"}]))
    assert kinds(same) == ["category_name_repeated", "unused_category"]
    many = [annotation(i + 2, 3 * i, 1, 9, 9, category=2) for i in range(11)]
    assert kinds(check(content(many, categories=named))) == ["rare_category"]  # 1 < 11 / 10
    assert kinds(check(content(many[:-1], categories=named))) == []
    twice = check(content(categories=[named[0], {"id": 1, "name": "dog"}, named[1]]))
    assert kinds(twice) == ["category_id_collision", "unused_category"]
    fixed, _ = repair(twice)
    assert fixed["categories"] == [named[1]] and fixed["annotations"] == []
    assert kinds(check(content(categories=[named[0], named[0]]))) == ["category_id_collision"]
    assert kinds(check(content(categories=[named[0], {"id": 3}]))) == ["entry_malformed"]
    half = {"id": 3, "name": "\ud800"}  # half a character, which nothing can write
    assert kinds(check(content(categories=[named[0], half]))) == ["entry_malformed"]


def test_crowds_are_left_alone():
    crowds = [annotation(i, 0, 0, 64, 48, iscrowd=1) for i in (2, 3)]
    assert kinds(check(content(crowds))) == []
    named = [{"id": 1, "name": "cat"}, {"id": 2, "name": "flock"}]
    source = check(content([annotation(2, 0, 0, 64, 48, iscrowd=1, category=2)], categories=named))
    (finding,) = source.findings
    assert finding.message == "'flock' has no box, only 1 regions of crowds"


def test_where_all_boxes_are_crowds_objects_are_meant():
    """CVAT exports masks this way."""
    data = content(
        [annotation(2, 30, 4, 20, 30, iscrowd=1), annotation(3, 4, 4, 20, 20, iscrowd=1)]
    )
    data["annotations"][0]["iscrowd"] = 1
    source = check(data)
    assert kinds(source) == ["all_crowd", "box_duplicate"]
    assert "all 3 boxes are marked 'iscrowd': 1" in source.findings[0].message
    fixed, changes = repair(source)
    assert [x["iscrowd"] for x in fixed["annotations"]] == [0, 0]
    assert [x["action"] for x in changes] == ["changed", "changed", "changed", "left out"]
    assert kinds(check(fixed)) == []
    assert data["annotations"][0]["iscrowd"] == 1  # the source is as it was


def test_other_classes_and_images_are_no_duplicates():
    named = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    both = [annotation(2, 4, 4, 20, 20, image=2), annotation(3, 4, 4, 20, 20, category=2)]
    source = check(content(both, [image_entry(1), image_entry(2, "b.png")], named))
    assert kinds(source) == []


def test_three_of_a_kind_name_the_first():
    source = check(content([annotation(i, 4, 4, 20, 20) for i in (2, 3)]))
    assert [x.annotation_id for x in source.findings] == [2, 3]
    assert all("annotation 1," in x.message for x in source.findings)


@given(st.lists(st.tuples(*[st.floats(1, 30)] * 4, st.integers(0, 1)), min_size=1, max_size=12))
@settings(max_examples=50, deadline=None)
def test_near_pairs_are_those_of_a_slow_loop(rows):
    table = np.array(rows)
    # Copies that are shifted a little, so that there are such pairs.
    table = np.concatenate([table, table + [0.2, 0.1, 0, 0, 0]])
    boxes, groups = table[:, :4], table[:, 4].astype(int)
    expected = set()
    for i in range(len(boxes)):
        for j in range(i):
            (x, y, w, h), (u, v, p, q) = boxes[i], boxes[j]
            across, down = min(x + w, u + p) - max(x, u), min(y + h, v + q) - max(y, v)
            shared = max(across, 0) * max(down, 0)
            if groups[i] == groups[j] and shared / (w * h + p * q - shared) > 0.9:
                expected.add((j, i))
    found = {
        (min(a, b), max(a, b))
        for some, others, _ in near_pairs(boxes, groups)
        for a, b in zip(some.tolist(), others.tolist())
    }
    assert found == expected


def test_figures():
    source = source_of(content([annotation(2, 40, 4, 8, 8)]))
    report = check_sources([source], settings=SETTINGS, read_images=False)
    figures = report.statistics["train"]
    assert figures["boxes_by_category"] == {"cat": 2}
    assert figures["sizes"]["best_possible_recall"] == 1
    # 20 and 8 pixels: both within four times 8, 20 alone within four times 32 (8 is at the limit).
    assert figures["sizes"]["share_matched_by_stride"] == {"8": 1, "16": 0.5}
    assert json.loads(json.dumps(report.as_record()))["counts"]["error"] == 0
    assert "cat 2" in report.as_text(3)


# ---- Files that are no annotations at all

BROKEN = {
    "cut": (b'{"images": [', "line 1, column 13"),
    "empty": (b" ", "it is empty"),
    "utf16": (b"\xff\xfe{", "byte 2 is not UTF-16"),
    "mark": (b"\xef\xbb\xbf{}", "it has no 'images'"),
    "latin": (b'{"\xe4": 1}', "byte 2 is not UTF-8"),
    "deep": (b"[" * 100_000, "nested too deeply"),
    "digits": (b'{"images": [%s]}' % (b"9" * 5000), "4300 digits"),
    "list": (b"[1]", "it is a list"),
    "sections": (b'{"images": []}', "it has no 'annotations'"),
    "dict": (b'{"images": [1], "annotations": {}, "categories": [1]}', "'annotations' is a dict"),
    "no_images": (b'{"images": [], "annotations": [], "categories": [1]}', "has no images"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named(name, tmp_path):
    path = tmp_path / f"{name}.json"
    path.write_bytes(BROKEN[name][0])
    with pytest.raises(AnnotationFileError) as error:
        read_coco(path)
    assert f"{name}.json" in str(error.value) and BROKEN[name][1] in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_a_byte_order_mark_is_read_and_reported(encoding, tmp_path):
    """PowerShell and editors of Windows write it; pycocotools refuses such a file."""
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    path = tmp_path / "train.json"
    path.write_bytes(mark + json.dumps(content()).encode(encoding))
    source = Source("train", path, tmp_path, read_coco(path))
    source.report_encoding()
    check_sources([source], settings=SETTINGS, read_images=False)
    assert kinds(source) == ["byte_order_mark"] and source.data == content()
    write_repaired(source, tmp_path / "fixed.json")
    assert json.loads((tmp_path / "fixed.json").read_bytes()) == content()
    assert not (tmp_path / "fixed.json").read_bytes().startswith(mark or b"\xef")


def test_a_folder_is_no_annotation_file(tmp_path):
    with pytest.raises(OSError, match="no regular file"):
        read_coco(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=3), x, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore", "segmentation"]
    + ["file_name", "height", "width", "name"]
)


@pytest.mark.heavy
@given(st.lists(st.tuples(st.sampled_from(["images", "annotations", "categories"]), KEYS, VALUES)))
@settings(max_examples=150, deadline=None)
def test_nothing_in_an_entry_stops_the_doctor(edits):
    """One value after the other is replaced; afterwards the repaired copy has no errors left."""
    data = content([annotation(2, 40, 4, 9, 9)], [image_entry(1), image_entry(2, "b.png")])
    for i, (section, key, value) in enumerate(edits):
        data[section][i % len(data[section])][key] = value
    source = source_of(data)
    report = check_sources([source], settings=SETTINGS, read_images=False)
    report.as_text(3)
    json.dumps(report.as_record(), default=str)
    fixed, _ = repair(source)
    if fixed["images"] and fixed["annotations"] and fixed["categories"]:
        left = kinds(check(fixed), ("no_boxes", "all_crowd"))
        assert not [x for x in left if KINDS[x].severity == "error"]


# ---- Image files


@pytest.fixture
def folder(tmp_path) -> Path:
    """Images of 48 x 64 noise under the names a.png to c.png, and what is wrong in every way."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        noise = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        noise.save(tmp_path / name)
    noise.save(tmp_path / "real.jpg")
    content = (tmp_path / "real.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "cut.png").write_bytes((tmp_path / "c.png").read_bytes()[:4000])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html><title>404</title>")
    (tmp_path / "noise.jpg").write_bytes(rng.bytes(2000))
    (tmp_path / "png.jpg").write_bytes((tmp_path / "b.png").read_bytes())
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    os.symlink("loop.jpg", tmp_path / "loop.jpg")
    os.symlink("nowhere", tmp_path / "dangling.jpg")
    noise.convert("L").save(tmp_path / "grey.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    noise.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (3000, 4)).save(tmp_path / "long.png")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    return tmp_path


FILES = {
    "missing.png": "image_missing",
    "a.png/b.png": "image_missing",
    "dangling.jpg": "image_missing",
    "cut.jpg": "image_truncated",
    "cut.png": "image_truncated",
    "empty.jpg": "image_empty",
    "page.jpg": "image_unreadable",
    "noise.jpg": "image_unreadable",
    "folder.jpg": "image_unreadable",
    "pipe.jpg": "image_unreadable",
    "loop.jpg": "image_unreadable",
    "/dev/zero": "image_unreadable",
    "x" * 300 + ".jpg": "image_unreadable",
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_read(folder, name):
    assert inspect_image(os.path.join(folder, name)).fault == FILES[name]


def test_files_that_can(folder):
    facts = inspect_image(str(folder / "turned.jpg"))
    assert (facts.fault, facts.size, facts.stored_size) == ("", (64, 48), (48, 64))
    assert inspect_image(str(folder / "turned.jpg"), decode=False).size == (64, 48)
    # A header says nothing about what follows.
    assert inspect_image(str(folder / "cut.jpg"), decode=False).fault == ""


def test_several_processes_find_the_same(folder):
    paths = [str(folder / name) for name in FILES] * 3
    assert inspect_images(paths, workers=2) == inspect_images(paths)


def checked(folder: Path, names: list, others: list | None = None) -> list[Source]:
    sources = []
    for split, some in (("train", names), ("val", others)):
        if some is None:
            continue
        images = [image_entry(i, *x) if isinstance(x, tuple) else x for i, x in enumerate(some, 1)]
        data = content([annotation(i, 4, 4, 20, 20, image=i) for i in range(2, len(some) + 1)])
        sources.append(source_of({**data, "images": images}, folder, split))
    check_sources(sources, settings=SETTINGS)
    return sources


def test_findings_about_files(folder):
    names = [(name,) for name in FILES]
    names += [("a.png",), ("b.png",), ("png.jpg",), ("real.jpg",), ("c.png", 48, 65)]
    names += [("grey.png",), ("turned.jpg",), ("long.png", 4, 3000), ("dot.png", 1, 1)]
    (source,) = checked(folder, names)
    found = {}
    for x in source.findings:
        if x.section == "images":
            found.setdefault(x.file, []).append(x.kind)
    assert {name: found.pop(name) for name in FILES} == {k: [v] for k, v in FILES.items()}
    assert found == {
        "png.jpg": ["image_mislabelled", "image_duplicate"],
        "c.png": ["image_size_differs"],
        "grey.png": ["image_not_rgb"],
        "turned.jpg": ["image_size_differs", "image_rotated"],
        "long.png": ["image_elongated", "image_without_boxes"],
        "dot.png": ["image_small", "image_without_boxes"],
    }
    assert any("without its EXIF orientation 6" in x.message for x in source.findings)


def test_sizes_that_lack_are_taken_from_the_file(folder):
    (source,) = checked(folder, [("a.png", None, "64")])
    assert "image_size_missing" in kinds(source)
    fixed, _ = repair(source)
    assert (fixed["images"][0]["height"], fixed["images"][0]["width"]) == (48, 64)


def test_leaks_and_files_that_nobody_names(folder):
    train, _ = checked(folder, [("a.png",), ("b.png",)], [("png.jpg",), ("c.png",)])
    (leak,) = (x for x in train.findings if x.kind == "leak")
    assert leak.image_id == 2 and "'png.jpg' of 'val'" in leak.message
    unnamed = {x.file for x in train.findings if x.kind == "image_unreferenced"}
    assert "real.jpg" in unnamed and "a.png" not in unnamed and "c.png" not in unnamed
    fixed, _ = repair(train)
    assert [x["file_name"] for x in fixed["images"]] == ["a.png"]


def test_the_nearest_name_is_told(folder):
    (source,) = checked(folder, [("A.PNG",)])
    (finding,) = (x for x in source.findings if x.kind == "image_missing")
    assert finding.message.endswith("there is 'a.png'")


def test_categories_must_agree(folder):
    sources = [source_of(content(), name="train"), source_of(content(), name="val")]
    sources[1].data["categories"] = [{"id": 1, "name": "dog"}]
    check_sources(sources, read_images=False)
    (finding,) = (x for x in sources[1].findings if x.kind == "categories_differ")
    assert "1: 'dog' in place of 'cat'" in finding.message


def test_pictures(folder):
    names = [("a.png",), ("cut.jpg",), ("long.png", 4, 3000), ("dot.png", 1, 1)]
    sources = checked(folder, names)
    paths = draw_findings(sources, folder / "drawn", count=10)
    assert sorted(x.name for x in paths) == ["3_long.jpg", "4_dot.jpg"]
    assert len(draw_findings(sources, folder / "drawn", count=1)) == 1


def test_boxes_read_in_another_form_are_drawn(folder):
    Image.new("RGB", (64, 48)).save(folder / "a.png")
    source = source_of(boxes_of([0.25, 0.5, 0.5, 0.25]), folder)
    check_sources([source])
    (path,) = draw_findings([source], folder / "drawn", count=10)
    image = np.asarray(Image.open(path)).astype(int)
    # 64 x 48 is drawn 7.5 times as large, below the findings: the box begins at (16, 24).
    assert image.shape[1] == 480
    drawn = image[-360:].max(axis=2) > 60
    assert drawn[190:260, 118:123].any(axis=1).all()
    assert not drawn[225:250, 150:330].any()


# ---- Repaired copies


def test_the_source_is_never_overwritten(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content()))
    source = source_of(content(), tmp_path)
    os.symlink("train.json", tmp_path / "link.json")
    os.link(path, tmp_path / "hard.json")
    for name in ("train.json", "link.json", "hard.json", "../" + tmp_path.name + "/train.json"):
        with pytest.raises(ValueError, match="would overwrite"):
            check_target(tmp_path / name, [source])
    check_target(tmp_path / "other.json", [source])


def test_a_copy_and_its_list_of_changes(tmp_path):
    source = check(content([annotation(2, 1, 1, 0, 5), annotation(3, 60, 1, 10, 5)]))
    changes = write_repaired(source, tmp_path / "out" / "fixed.json")
    assert len(source.data["annotations"]) == 3  # untouched
    written = json.loads((tmp_path / "out" / "fixed.json").read_text())
    assert [x["bbox"] for x in written["annotations"]] == [[4, 4, 20, 20], [60, 1, 4, 5]]
    assert json.loads(changes_path(tmp_path / "out" / "fixed.json").read_text()) == changes
    by_id = {x["id"]: x for x in changes}
    assert by_id[2]["action"] == "left out" and by_id[2]["why"].startswith("box_empty")
    assert by_id[3]["before"]["bbox"] == [60, 1, 10, 5]
    assert sorted(x.name for x in (tmp_path / "out").iterdir()) == [
        "fixed.changes.json",
        "fixed.json",
    ]


def test_nothing_left_is_an_error(tmp_path):
    data = content()
    data["annotations"] = []
    with pytest.raises(ValueError, match=r"nothing of .* would be left"):
        write_repaired(check(data), tmp_path / "fixed.json")
    assert not list(tmp_path.iterdir())


# ---- Before training


def write_json(folder: Path, data: dict) -> Path:
    path = folder / "set.json"
    path.write_text(json.dumps(data))
    return path


def quick(folder: Path, data: dict, *, train: bool = True) -> list:
    return quick_check("set", str(write_json(folder, data)), str(folder), train=train)


def test_quick_form(folder):
    assert quick(folder, content()) == []
    found = quick(folder, content([annotation(2, 1, 1, 0, 5)]))
    assert [x.kind for x in found] == ["box_empty"]
    for name, entry in [("missing.png", "image_missing"), ("empty.jpg", "image_empty")]:
        with pytest.raises(ValueError, match=rf"'set': image 1, '{name}'.*yolor-d2 check"):
            quick(folder, content(images=[image_entry(1, name)]))
        assert KINDS[entry].severity == "error"
    with pytest.raises(ValueError, match=r"a\.png'.*64 x 48, its entry says 64 x 49"):
        quick(folder, content(images=[image_entry(1, height=49)]))
    with pytest.raises(ValueError, match="number that is not finite"):
        quick(folder, content([annotation(2, 1, 1, math.nan, 5)]))
    for shape in ([[1, 2]], {"size": [1]}):  # nothing here needs it
        entry = annotation(2, 40, 4, 9, 9, segmentation=shape)
        assert [x.kind for x in quick(folder, content([entry]))] == ["segmentation_malformed"]
    with pytest.raises(ValueError, match=r"annotation 2, image 1.*'bbox' is 'x'.*\(2 such"):
        broken = [annotation(i, 1, 1, 5, 5, bbox="x") for i in (2, 3)]
        quick(folder, content(broken))


@pytest.mark.parametrize(
    ("root", "name", "message"),
    [
        ("photos/train", "train/x.png", r"no image is in '.*photos/train', but .*/photos': give"),
        (".", "x.png", r"'x\.png' is in '.*photos/train': give that folder"),
        (".", "train/x.png", r"'train/x\.png' is in '.*photos': give that folder"),
        (".", "C:\\old\\x.png", r"a file of the name of .*photos/train', expected names"),
        (".", "none.png", r"image 1, 'none\.png'.*no such file"),
    ],
)
def test_the_right_folder_is_told(folder, root, name, message):
    (folder / "photos" / "train").mkdir(parents=True)
    (folder / "a.png").rename(folder / "photos" / "train" / "x.png")
    data = content(images=[image_entry(1, name)])
    with pytest.raises(ValueError, match=message):
        quick_check("set", str(write_json(folder, data)), str(folder / root), train=True)
    source = source_of(data, folder / root)
    check_sources([source])
    assert ("image_folder_wrong" in kinds(source)) == (name != "none.png")
    assert "image_missing" in kinds(source)


def test_quick_form_for_evaluation(folder):
    data = content()
    del data["annotations"][0]["area"]
    assert [x.kind for x in quick(folder, data)] == ["field_missing"]
    with pytest.raises(ValueError, match=r"annotation 1.*'area' None"):
        quick(folder, data, train=False)
    del data["annotations"]  # a file to detect on alone
    assert quick(folder, data, train=False) == []


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name, root, found",
    [
        ("bccd/instances_train", "bccd", {"box_near_duplicate": 4, "rare_category": 2}),
        ("nasty/ann_control", "nasty/images", {}),
        ("nasty/ann_zero_negative", "nasty/images", {"box_empty": 2, "box_negative": 1}),
        ("nasty/ann_outside", "nasty/images", {"box_outside": 1, "box_partly_outside": 2}),
        ("nasty/ann_no_objects", "nasty/images", {"image_without_boxes": 2}),
    ],
)
def test_known_defects_of_real_data(real_data, name, root, found):
    source = source_of(read_coco(real_data / f"{name}.json"), real_data / root)
    check_sources([source], read_images=False)
    assert {kind: kinds(source).count(kind) for kind in kinds(source)} == found
