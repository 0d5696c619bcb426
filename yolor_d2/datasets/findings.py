"""What can be wrong with a data set: the kinds of findings, and one finding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

# A data set with errors cannot be trained on, or its ground truth is impossible; warnings are most
# likely mistakes; notices are worth knowing.
ERROR, WARNING, NOTICE = SEVERITIES = ("error", "warning", "notice")


class Kind(NamedTuple):
    """A kind of findings.

    Attributes:
        severity: one of `SEVERITIES`.
        meaning: what is the matter, for the documents.
        repair: what `repair.repair` does about it; "" if nothing.
        part: "polygons" or "keypoints" where it is about these, in the words of
            `tasks.ground_truth_needed`.
        stops: whether a task cannot learn these so: where one is to, it is an error.
    """

    severity: str
    meaning: str
    repair: str = ""
    part: str = ""
    stops: bool = False


DROP_IMAGE = "image and its annotations left out"
DROP = "left out"
MASK, POINTS = "polygons", "keypoints"
DROP_POLYGON = "the polygon left out"
DROP_MASK = "segmentation left out, box kept"
KINDS = {
    # The annotation file
    "byte_order_mark": Kind(
        WARNING,
        "the file is UTF-16, or UTF-8 with a byte order mark; other programs refuse it",
        "UTF-8 without a mark",
    ),
    # Its entries
    "entry_malformed": Kind(ERROR, "an entry is no object, or lacks a key that it needs", DROP),
    "number_malformed": Kind(
        ERROR, "a number is text, or a whole one is written as 1.0", "the number"
    ),
    "image_id_collision": Kind(
        ERROR,
        "two images have one id",
        "the later entry left out; where they are different files, both, as nothing says whose the "
        "annotations are",
    ),
    "annotation_id_collision": Kind(ERROR, "two annotations have one id", "a new id"),
    "annotation_id_invalid": Kind(ERROR, "the id of an annotation is no whole number", "a new id"),
    "category_id_collision": Kind(
        ERROR,
        "two categories have one id",
        "the later one left out; where the names differ, both, with their annotations",
    ),
    "category_name_repeated": Kind(WARNING, "two categories have one name"),
    "image_file_repeated": Kind(WARNING, "two images are one file"),
    "unknown_image": Kind(ERROR, "an annotation is of an image that the file has not", DROP),
    "unknown_category": Kind(ERROR, "an annotation is of a category that the file has not", DROP),
    "unused_category": Kind(NOTICE, "no annotation is of this category"),
    "rare_category": Kind(NOTICE, "fewer than a tenth of the most frequent category's boxes"),
    "categories_differ": Kind(ERROR, "the categories of two files to be used together differ"),
    "no_boxes": Kind(ERROR, "no image has a box that can be trained on"),
    "all_crowd": Kind(
        ERROR,
        "every box of the file is marked 'iscrowd': 1, as some exports of masks do (CVAT); such "
        "regions are neither trained on nor counted by the evaluation",
        "'iscrowd': 0 for all of them",
    ),
    "field_missing": Kind(
        WARNING,
        "'area' or 'iscrowd' is missing or no number; the evaluation needs them",
        "area of the box; no crowd",
    ),
    "ignore_flag": Kind(
        ERROR, "'ignore' is set, which Detectron2 refuses", "'iscrowd' in place of it"
    ),
    "segmentation_malformed": Kind(
        ERROR,
        "'segmentation' is neither polygons nor run lengths; Detectron2's own reader skips the "
        "object",
        DROP_MASK,
        MASK,
        stops=True,
    ),
    # Boxes
    "boxes_are_shares": Kind(
        ERROR, "all boxes of the file lie within 0 to 1", "times the size of the image"
    ),
    "boxes_are_corners": Kind(
        ERROR,
        "the boxes of the file make sense as [x1, y1, x2, y2], but not as [x, y, width, height]",
        "[x, y, width, height]",
    ),
    "box_missing": Kind(ERROR, "a mask without 'bbox'", "the box around the mask"),
    "box_malformed": Kind(ERROR, "'bbox' is not four numbers", DROP),
    "box_not_finite": Kind(ERROR, "a number of the box is NaN or infinite", DROP),
    "box_negative": Kind(ERROR, "width or height is negative", DROP),
    "box_empty": Kind(ERROR, "width or height is zero", DROP),
    "box_outside": Kind(ERROR, "wholly outside the image", DROP),
    "box_partly_outside": Kind(WARNING, "beyond the image by more than a pixel", "cut"),
    "box_whole_image": Kind(NOTICE, "covers the whole image"),
    "box_duplicate": Kind(WARNING, "the same box of the same category twice", DROP),
    "box_near_duplicate": Kind(NOTICE, "IoU above 0.9 with a box of the same category"),
    "box_tiny": Kind(NOTICE, "a side below two pixels of the network's input: not trained on"),
    "box_without_anchor": Kind(NOTICE, "no anchor matches, so it cannot be learned"),
    # Masks
    "polygon_short": Kind(
        WARNING, "a polygon of fewer than three points beside others", DROP_POLYGON, MASK
    ),
    "polygon_malformed": Kind(
        WARNING,
        "a polygon has something else than finite numbers, or an odd number of them",
        DROP_POLYGON,
        MASK,
    ),
    "polygon_empty": Kind(WARNING, "a polygon without area", DROP_POLYGON, MASK),
    "polygon_outside": Kind(WARNING, "a polygon wholly outside the image", DROP_POLYGON, MASK),
    "polygon_partly_outside": Kind(
        WARNING, "a polygon beyond the image by more than a pixel", "cut", MASK
    ),
    "polygon_crosses_itself": Kind(
        WARNING,
        "edges of a polygon cross each other by more than half a pixel; what it goes around twice "
        "may count as a hole",
        part=MASK,
    ),
    "run_lengths_malformed": Kind(
        WARNING,
        "run lengths that cannot be read, or are not of 'size'",
        DROP_MASK,
        MASK,
        stops=True,
    ),
    "run_lengths_size_differs": Kind(
        WARNING, "run lengths of another size than the image", DROP_MASK, MASK, stops=True
    ),
    "run_lengths_empty": Kind(WARNING, "run lengths without a pixel", DROP_MASK, MASK),
    "mask_far_from_box": Kind(
        WARNING, "an IoU below 0.7 of 'bbox' and the box around the mask", part=MASK
    ),
    "mask_missing": Kind(NOTICE, "an object without a mask, where a task learns masks", part=MASK),
    "no_masks": Kind(ERROR, "no object has a mask, and a task is to learn them", part=MASK),
    # Keypoints
    "keypoint_names_malformed": Kind(
        WARNING, "'keypoints' of a category is no list of names that differ", "", POINTS, stops=True
    ),
    "keypoint_names_differ": Kind(
        WARNING,
        "two categories, or two files to be used together, have other names of points",
        "",
        POINTS,
        stops=True,
    ),
    "skeleton_malformed": Kind(
        WARNING,
        "'skeleton' of a category is no list of pairs of numbers of points, from 1",
        "such pairs left out",
        POINTS,
        stops=True,
    ),
    "flip_pairs_malformed": Kind(
        WARNING,
        "'flip_pairs' of a category is no list of pairs of names of points, each once",
        "",
        POINTS,
        stops=True,
    ),
    "keypoints_malformed": Kind(
        WARNING,
        "'keypoints' of an object has not three finite numbers for each point of its category",
        "points left out, box kept",
        POINTS,
        stops=True,
    ),
    "keypoints_without_names": Kind(
        WARNING, "an object has points, but its category names none", part=POINTS
    ),
    "keypoint_visibility": Kind(
        WARNING,
        "a visibility other than 0, 1 and 2",
        "2 if it is above 0, else 0",
        POINTS,
        stops=True,
    ),
    "keypoint_outside": Kind(
        WARNING,
        "a labelled point outside the image by more than a pixel",
        "the point not labelled",
        POINTS,
    ),
    "keypoint_outside_box": Kind(
        NOTICE,
        "a labelled point outside its object's box by more than two pixels and a tenth of its "
        "longer side",
        part=POINTS,
    ),
    "num_keypoints_differs": Kind(
        WARNING, "'num_keypoints' is not the number of labelled points", "counted", POINTS
    ),
    "no_keypoints": Kind(
        ERROR,
        "no object has labelled points, or no category names any, and a task is to learn them",
        part=POINTS,
    ),
    # Image files
    "image_folder_wrong": Kind(ERROR, "all images are in another folder than the one given"),
    "image_missing": Kind(ERROR, "there is no such file", DROP_IMAGE),
    "image_empty": Kind(ERROR, "the file has no bytes", DROP_IMAGE),
    "image_truncated": Kind(ERROR, "the file ends before the image does", DROP_IMAGE),
    "image_unreadable": Kind(ERROR, "damaged, no image, or no file", DROP_IMAGE),
    "image_mislabelled": Kind(WARNING, "the content is not what the name's ending says"),
    "image_size_missing": Kind(ERROR, "width or height is missing or no size", "filled in"),
    "image_size_differs": Kind(ERROR, "the file has another size than the entry", DROP_IMAGE),
    "image_elongated": Kind(
        WARNING, "at the network's input the shorter side is below the finest stride"
    ),
    "image_small": Kind(NOTICE, "both sides are below 32 pixels"),
    "image_rotated": Kind(NOTICE, "EXIF turns it; it is read as it is shown"),
    "image_not_rgb": Kind(NOTICE, "grey, palette or transparent; read as RGB"),
    "image_without_boxes": Kind(NOTICE, "no box: trained on as background"),
    "image_unreferenced": Kind(NOTICE, "a file in the folder that no entry names"),
    "image_duplicate": Kind(WARNING, "the same image under two names"),
    "leak": Kind(
        ERROR, "an image to train on is also one to evaluate on", f"{DROP_IMAGE} of training"
    ),
    # Files of other formats
    "label_malformed": Kind(ERROR, "a line or element of a label file cannot be read", DROP),
    "labels_missing": Kind(ERROR, "no image has a label file"),
    "label_without_image": Kind(WARNING, "a label file without an image", DROP),
}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        kind: key of `KINDS`.
        message: the present value, and what was expected.
        source: data set, such as "train".
        file: the file that it concerns: of the image, else of the annotations.
        image_id, annotation_id, category_id: as the file has them, where they are known.
        section: "images", "annotations" or "categories", if it concerns an entry of these.
        place: number of that entry, from 0.
        other: number of another entry of this section that it collides with, or is a copy of.
        index: number of the polygon or the point of an annotation, from 0.
        stops: whether a task that is to be trained cannot learn so.
    """

    kind: str
    message: str
    source: str = ""
    file: str = ""
    image_id: object = None
    annotation_id: object = None
    category_id: object = None
    section: str = ""
    place: int = -1
    other: int = -1
    index: int = -1
    stops: bool = False

    @property
    def severity(self) -> str:
        return ERROR if self.stops else KINDS[self.kind].severity

    def describe(self) -> str:
        """Where it is, and what it is, in one line."""
        ids = [
            f"{name} {value!r}"
            for name, value in (
                ("annotation", self.annotation_id),
                ("image", self.image_id),
                ("category", self.category_id),
            )
            if value is not None
        ]
        if not ids and self.section:
            ids = [f"{self.section}[{self.place}]"]
        where = ", ".join([*ids, *([repr(self.file)] if self.file else [])])
        return f"{where}: {self.message}" if where else self.message

    def as_record(self) -> dict:
        """Plain data for JSON."""
        fields = ("source", "file", "image_id", "annotation_id", "category_id", "section", "place")
        kept = {name: getattr(self, name) for name in fields}
        kept = {k: v for k, v in kept.items() if v not in (None, "") and (k, v) != ("place", -1)}
        return {"kind": self.kind, "severity": self.severity, **kept, "message": self.message}


def count_severities(findings: Iterable[Finding]) -> dict[str, int]:
    """How many findings there are of each severity."""
    counts = dict.fromkeys(SEVERITIES, 0)
    for finding in findings:
        counts[finding.severity] += 1
    return counts
