"""A cleaned copy of annotations, and a list of what was changed."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..datasets.findings import DROP, DROP_IMAGE, DROP_MASK, DROP_POLYGON, KINDS, Finding
from ..datasets.source import Source
from ..files.values import is_whole, to_float
from ..files.writing import TEMPORARY_SUFFIX, atomic_write
from ..structures.keypoints import is_edge
from .keypoints import is_beyond
from .masks import cut_polygon

# Findings after whose repair an entry is gone.
DROPPED = {
    kind
    for kind, value in KINDS.items()
    if value.repair in (DROP, DROP_IMAGE) or value.repair.startswith(DROP_IMAGE)
}
# Entries that cannot be distinguished are all left out, unless they are equal.
COLLISIONS = {"image_id_collision": "file_name", "category_id_collision": "name"}
# Findings about a polygon or a point, of which an annotation may have several.
POLYGONS = {x for x, kind in KINDS.items() if x.startswith("polygon_") and kind.repair}
KEYPOINTS = {x for x, kind in KINDS.items() if kind.part == "keypoints" and kind.repair}
KEYPOINTS -= {"skeleton_malformed"}


class Repair:
    """Changes to a copy of a source's content.

    Args:
        source: checked, with its findings.
    """

    def __init__(self, source: Source):
        self.source = source
        self.data = copy.deepcopy(source.data)
        self.changes: list[dict] = []
        self.dropped: dict[str, set[int]] = {"images": set(), "annotations": set()}
        self.dropped["categories"] = set()
        # What is wrong with polygons and points, by place of the annotation.
        self.polygons: dict[int, list[Finding]] = {}
        self.keypoints: dict[int, list[Finding]] = {}

    def note(self, action: str, section: str, place: int, reason: str, **more) -> None:
        entry = self.source.data[section][place]
        number = entry.get("id") if isinstance(entry, dict) else None
        known = {} if number is None else {"id": number}
        if isinstance(entry, dict) and section == "images":
            known["file_name"] = entry.get("file_name")
        self.changes.append(
            {"action": action, "section": section, "place": place, **known, **more, "why": reason}
        )

    def drop(self, section: str, place: int, reason: str) -> None:
        if place not in self.dropped[section]:
            self.dropped[section].add(place)
            self.note("left out", section, place, reason)

    def change(self, place: int, section: str, reason: str, **values) -> None:
        """Set keys of an entry; None takes a key away."""
        entry = self.data[section][place]
        before = {key: entry[key] for key in values if key in entry}
        for key, value in values.items():
            if value is None:
                entry.pop(key, None)
            else:
                entry[key] = value
        after = {key: value for key, value in values.items() if value is not None}
        self.note("changed", section, place, reason, before=before, after=after)

    def note_replaced(self) -> None:
        """What the source's content already has in another form than the file."""
        for (section, place), (before, reason) in self.source.replaced.items():
            after = self.source.data[section][place]
            keys = [key for key in after if key not in before or after[key] is not before[key]]
            values = [
                {key: entry[key] for key in keys if key in entry} for entry in (before, after)
            ]
            self.note("changed", section, place, reason, before=values[0], after=values[1])

    def apply(self, finding: Finding) -> None:
        """Do what `KINDS` says about a finding."""
        kind, section, place = finding.kind, finding.section, finding.place
        reason = f"{kind}: {finding.message}"
        if kind in COLLISIONS:
            key = COLLISIONS[kind]
            entries = self.source.data[section]
            self.drop(section, place, reason)
            if entries[place][key] != entries[finding.other][key]:
                self.drop(section, finding.other, reason)
        elif kind in DROPPED and section:
            self.drop(section, place, reason)
        elif kind == "box_partly_outside":
            self.cut(place, reason)
        elif kind == "field_missing":
            self.fill(place, reason)
        elif KINDS[kind].repair == DROP_MASK:
            self.change(place, section, reason, segmentation=[])
        elif kind in POLYGONS | KEYPOINTS:
            parts = self.polygons if kind in POLYGONS else self.keypoints
            parts.setdefault(place, []).append(finding)
        elif kind == "skeleton_malformed":
            self.mend_skeleton(place, reason)
        elif kind == "ignore_flag":
            self.change(place, section, reason, ignore=0, iscrowd=1)
        elif kind == "image_size_missing" and place in self.source.sizes:
            height, width = self.source.sizes[place]
            self.change(place, section, reason, height=height, width=width)
        elif kind == "image_size_missing":
            self.drop(section, place, reason)

    def count_crowds(self, reason: str) -> None:
        """Make single objects of all regions that are marked as crowds."""
        for place, entry in self.source.objects():
            if entry.get("iscrowd") == 1:
                self.change(place, "annotations", reason, iscrowd=0)

    def cut(self, place: int, reason: str) -> None:
        """Cut a box at the border of its image, and its area with it."""
        entry = self.data["annotations"][place]
        height, width = self.source.sizes[self.source.images[entry["image_id"]]]
        x, y, w, h = entry["bbox"]
        left, top = max(x, 0), max(y, 0)
        box = [left, top, min(x + w, width) - left, min(y + h, height) - top]
        largest, area = box[2] * box[3], to_float(entry.get("area"))
        # That of a mask stays, if the box has room for it.
        area = area if area is not None and 0 < area <= largest else largest
        self.change(place, "annotations", reason, bbox=box, area=area)

    def fill(self, place: int, reason: str) -> None:
        entry = self.data["annotations"][place]
        crowd = entry.get("iscrowd")
        box = entry.get("bbox")
        sides = box[2:] if isinstance(box, list) and len(box) == 4 else [0, 0]
        try:
            area = float(sides[0]) * float(sides[1])
        except (TypeError, ValueError, OverflowError):
            area = 0.0  # of a box that is left out
        crowd = int(bool(crowd)) if crowd in (0, 1) else 0
        self.change(place, "annotations", reason, iscrowd=crowd, area=area)

    def mend_polygons(self) -> None:
        """Leave out or cut the polygons that findings are about."""
        for place, findings in self.polygons.items():
            if not self.is_kept(place):
                continue
            entry = self.data["annotations"][place]
            gone = {x.index for x in findings if KINDS[x.kind].repair == DROP_POLYGON}
            beyond = {x.index for x in findings if x.kind == "polygon_partly_outside"}
            size = self.source.sizes.get(self.source.images[entry["image_id"]], (0, 0))
            kept = [
                cut_polygon(points, size) if i in beyond else points
                for i, points in enumerate(entry["segmentation"])
                if i not in gone
            ]
            kept = [points for points in kept if points]
            self.change(place, "annotations", reasons(findings), segmentation=kept)

    def mend_keypoints(self) -> None:
        """Points as their findings say, and their number."""
        for place, findings in self.keypoints.items():
            if not self.is_kept(place):
                continue
            entry = self.data["annotations"][place]
            if any(x.kind == "keypoints_malformed" for x in findings):
                values: dict[str, object] = {"keypoints": None, "num_keypoints": None}
            else:
                size = self.source.sizes.get(self.source.images[entry["image_id"]])
                points = mend_points(entry.get("keypoints") or [], size)
                values = {"num_keypoints": sum(x > 0 for x in points[2::3])}
                if points != (entry.get("keypoints") or []):
                    values["keypoints"] = points
            self.change(place, "annotations", reasons(findings), **values)

    def mend_skeleton(self, place: int, reason: str) -> None:
        entry = self.data["categories"][place]
        edges = entry["skeleton"] if isinstance(entry["skeleton"], list) else []
        kept = [x for x in edges if is_edge(x, len(entry["keypoints"]))]
        self.change(place, "categories", reason, skeleton=kept)

    def drop_orphans(self) -> None:
        """Leave out annotations whose image or category is no longer there."""
        kept = {
            section: {
                entry["id"]
                for place, entry in enumerate(self.data[section])
                if place not in self.dropped[section]
            }
            for section in ("images", "categories")
        }
        for place, entry in enumerate(self.data["annotations"]):
            if place in self.dropped["annotations"]:
                continue
            if entry["image_id"] not in kept["images"]:
                self.drop("annotations", place, "its image is left out")
            elif entry["category_id"] not in kept["categories"]:
                self.drop("annotations", place, "its category is left out")

    def number_again(self) -> None:
        """New ids for annotations that have none, or that of another one."""
        left = [i for i in range(len(self.data["annotations"])) if self.is_kept(i)]
        numbers = [self.data["annotations"][i].get("id") for i in left]
        following = max((n for n in numbers if is_whole(n)), default=0) + 1
        following = following if is_whole(following + len(left)) else 1
        taken = {n for n in numbers if is_whole(n)}
        seen: set[int] = set()
        for place, number in zip(left, numbers):
            if is_whole(number) and number not in seen:
                seen.add(number)
                continue
            while following in taken:
                following += 1
            taken.add(following)
            reason = "its id is that of another one" if is_whole(number) else "it had no valid id"
            self.change(place, "annotations", reason, id=following)

    def is_kept(self, place: int) -> bool:
        return place not in self.dropped["annotations"]

    def result(self) -> dict:
        """The cleaned content."""
        for section, gone in self.dropped.items():
            entries = self.data[section]
            self.data[section] = [x for i, x in enumerate(entries) if i not in gone]
        return self.data


def reasons(findings: Sequence[Finding]) -> str:
    return "; ".join(f"{x.kind}: {x.message}" for x in findings)


def mend_points(points: list, size: tuple[int, int] | None) -> list:
    """x, y, visibility of an object's points: visibilities of COCO's, and none of a point outside
    the image of (height, width) pixels."""
    mended = []
    for x, y, visibility in zip(points[::3], points[1::3], points[2::3]):
        seen = visibility if visibility in (0, 1, 2) else 2 * int(visibility > 0)
        if seen > 0 and size is not None and is_beyond(x, y, size):
            x, y, seen = 0, 0, 0
        mended += [x, y, seen]
    return mended


def repair(source: Source) -> tuple[dict, list[dict]]:
    """The content of a source without what its findings complain about, and the changes."""
    work = Repair(source)
    work.note_replaced()
    for finding in source.findings:
        if finding.kind == "all_crowd":
            work.count_crowds(f"{finding.kind}: {finding.message}")
        elif finding.section and not (
            finding.section == "annotations" and finding.place in work.dropped["annotations"]
        ):
            work.apply(finding)
    work.mend_polygons()
    work.mend_keypoints()
    work.drop_orphans()
    work.number_again()
    return work.result(), work.changes


def check_target(target: Path, sources: Sequence[Source]) -> None:
    """Raise a ValueError if a cleaned copy would overwrite what it is made from."""
    written = [target, changes_path(target)]
    written += [path.with_name(path.name + TEMPORARY_SUFFIX) for path in written]
    for source in sources:
        for path in written:
            same = path.exists() and source.path.exists() and os.path.samefile(path, source.path)
            if same or path.resolve() == source.path.resolve():
                raise ValueError(f"--fix {str(target)!r} would overwrite {str(source.path)!r}")


def changes_path(target: Path) -> Path:
    """The list of changes beside a cleaned copy."""
    return target.with_name(f"{target.stem}.changes.json")


def write_repaired(source: Source, target: Path) -> list[dict]:
    """Write the cleaned copy, and beside it the list of changes; returns these.

    Raises:
        ValueError: when nothing is left, or when a number cannot be written.
        OSError: when a file cannot be written.
    """
    data, changes = repair(source)
    if not data["images"] or not data["annotations"]:
        raise ValueError(f"--fix: nothing of {str(source.path)!r} would be left")
    target.parent.mkdir(parents=True, exist_ok=True)
    for path, content in ((changes_path(target), changes), (target, data)):
        with atomic_write(path) as file:
            file.write(json.dumps(content, indent=1).encode())
    return changes
