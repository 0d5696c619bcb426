"""The quick form of the checks, before training or evaluation: a second or so."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..d2.config import CfgNode
from ..d2.data import MetadataCatalog
from ..datasets.entries import check_entries
from ..datasets.findings import ERROR, WARNING, Finding, count_severities
from ..datasets.open_files import open_annotations
from ..datasets.prepared_copies import is_large
from ..datasets.source import Source, read_coco
from ..files.images import file_sizes
from ..files.inspection import inspect_image
from ..tasks import ground_truth_needed
from ..wording import counted
from .boxes import check_boxes, check_use
from .files import report_missing
from .keypoints import check_keypoints
from .masks import check_masks

logger = logging.getLogger(__name__)

# Images of a large annotation file that are looked at, evenly spread; the command looks at all.
FROM_LARGE = 5_000
# Images whose existence, and whose header, is looked at.
EXISTING, HEADERS = 20_000, 200
# Findings that stop the reader or the first batch with the image, or that make training
# learn nonsense.
FATAL = (
    "entry_malformed",
    "number_malformed",
    "annotation_id_collision",
    "annotation_id_invalid",
    "category_id_collision",
    "unknown_category",
    "ignore_flag",
    "boxes_are_shares",
    "boxes_are_corners",
    "all_crowd",
    "box_missing",
    "box_malformed",
    "box_not_finite",
    "image_size_missing",
    "image_folder_wrong",
    "image_missing",
    "image_empty",
    "image_unreadable",
    "image_size_differs",
)
# Findings that apply only where a task learns masks or keypoints.
NOTHING_TO_LEARN = ("no_masks", "no_keypoints")
# Keys of an annotation without which pycocotools cannot evaluate.
EVALUATED = {"area", "iscrowd"}
# Findings that the log names; errors are always named.
LOGGED = (WARNING,)
COMMAND = "yolor-d2 check"


def sample(count: int, most: int) -> list[int]:
    """At most so many of the numbers below `count`, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def check_some_files(source: Source, channels: int) -> None:
    """Report missing files among many, and unreadable or wrongly sized ones among some."""
    places = list(source.images.values())
    headers = set(sample(len(places), HEADERS))
    looked_at = sample(len(places), EXISTING)
    missing: dict[int, str] = {}
    others = [places[i] for i in looked_at if i not in headers]
    for place, size in zip(others, file_sizes([source.image_path(x) for x in others])):
        if size < 0:
            missing[place] = "there is no such file"
    for i in sorted(headers):
        place = places[i]
        fact = inspect_image(source.image_path(place), decode=False, channels=channels)
        if fact.fault == "image_missing":
            missing[place] = fact.message
        elif fact.fault:
            source.report(fact.fault, fact.message, "images", place)
        elif place in source.sizes and source.sizes[place] != fact.size:
            (height, width), (said_height, said_width) = fact.size, source.sizes[place]
            message = (
                f"the image is {width} x {height}, its entry says {said_width} x {said_height}"
            )
            source.report("image_size_differs", message, "images", place)
    report_missing(source, missing, len(looked_at))


def read_content(path: Path, *, annotated: bool) -> tuple[dict, bool]:
    """What there is to look at of an annotation file, and whether that is all of it.

    Args:
        path: the file.
        annotated: whether it must have annotations: a file to detect objects on alone has none.
    """
    file = open_annotations(path)
    content = file.take_content()
    if content is not None and (content["annotations"] or not annotated):
        return content, True
    if not is_large(path):
        return read_coco(path, annotated=annotated), True
    annotations = file.annotations
    places = sample(len(annotations.image_ids), FROM_LARGE)
    logger.info(
        "%s is large: %d of its %d images are looked at, %s would look at all",
        *(path, len(places), len(annotations.image_ids), COMMAND),
    )
    return annotations.as_coco(places), False


def quick_check(
    name: str,
    json_file: str,
    image_root: str,
    *,
    train: bool,
    channels: int = 3,
    needed: frozenset[str] = frozenset(),
) -> list[Finding]:
    """Look at one data set.

    Args:
        name: of the data set.
        json_file, image_root: annotation file and image folder.
        train: whether it is trained on; findings that only matter then are left out otherwise.
        channels: that the network takes.
        needed: what tasks learn beside boxes, see `Source.needed`. Masks and keypoints are looked
            at only where they are needed, and of an annotation file that is small.

    Raises:
        AnnotationFileError: when the annotations cannot be read at all.
        ValueError: when training or evaluation could not work; it names file and id.
    """
    path = Path(json_file)
    content, complete = read_content(path, annotated=train)
    source = Source(
        name, path, Path(image_root), content, needed=needed if complete else frozenset()
    )
    source.report_encoding()
    check_entries(source)
    usable = check_boxes(source)
    if "polygons" in source.needed:
        check_masks(source)
    if "keypoints" in source.needed:
        check_keypoints(source)
    check_some_files(source, channels)
    if train and complete:
        check_use(source, usable)
    entries = source.data["annotations"]
    fatal = [x for x in source.findings if x.kind in (*FATAL, *NOTHING_TO_LEARN) or x.stops]
    if not train:
        fatal += [
            finding
            for finding in source.findings
            if finding.kind == "field_missing" and not entries[finding.place].keys() >= EVALUATED
        ]
    if fatal:
        more = f" ({len(fatal)} such findings)" if len(fatal) > 1 else ""
        raise ValueError(f"data set {name!r}: {fatal[0].describe()}{more}. {advice(source)}")
    return source.findings


def advice(source: Source) -> str:
    return (
        f"What else is wrong, and a cleaned copy: {COMMAND} --train {source.path} "
        f"{source.image_root} --fix cleaned.json"
    )


def check_datasets(cfg: CfgNode, *, train: bool) -> list[Finding]:
    """`quick_check` of the data sets of a configuration, if DATASETS.CHECK says so.

    Args:
        cfg: the configuration; its data sets are registered.
        train: whether there is training, not evaluation alone.
    """
    if not cfg.DATASETS.CHECK:
        return []
    findings = []
    needed = frozenset(ground_truth_needed(cfg))
    for trains, names in ((True, cfg.DATASETS.TRAIN if train else ()), (False, cfg.DATASETS.TEST)):
        for name in names:
            metadata = MetadataCatalog.get(name)
            files = metadata.get("json_file"), metadata.get("image_root")
            if None not in files and Path(files[0]).is_file():  # else it is no COCO file
                channels = len(cfg.MODEL.PIXEL_MEAN)
                findings += quick_check(
                    name, *files, train=trains, channels=channels, needed=needed
                )
    return findings


def log_findings(findings: Sequence[Finding]) -> None:
    """One line for each kind of errors and warnings, with its first example."""
    by_kind: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        if finding.severity in (ERROR, *LOGGED):
            by_kind.setdefault((finding.source, finding.kind), []).append(finding)
    for (name, kind), same_kind in by_kind.items():
        logger.warning(
            "Data set %r: %d x %s, first: %s", name, len(same_kind), kind, same_kind[0].describe()
        )
    if by_kind:
        counts = count_severities(findings)
        logger.warning(
            "%s and %s: %s names all",
            *(counted(counts[x], x) for x in (ERROR, WARNING)),
            COMMAND,
        )
