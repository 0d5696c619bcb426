"""What a run was trained on, small enough for its checkpoints."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..files.images import file_sizes
from ..structures.polygons import Polygons

if TYPE_CHECKING:
    from ..data.dataset import TrainingDataset

# Of the form below, so that another one is not compared with it.
VERSION = 1
# Images that a message names.
NAMED = 3


def short_hash(*parts: bytes | memoryview) -> int:
    """64 bits of a hash, as a whole number with sign."""
    content = hashlib.blake2b(b"\0".join(parts), digest_size=8).digest()
    return int.from_bytes(content, "big", signed=True)


def relative_name(path: bytes, roots: Sequence[bytes]) -> bytes:
    """Name of an image below its data set's folder, which may move.

    Args:
        path: of the image.
        roots: folders, each with its separator behind it.
    """
    for root in roots:
        if path.startswith(root):
            return path[len(root) :]
    return path


def take_fingerprint(
    dataset: TrainingDataset, categories: Sequence[str], roots: Sequence[str]
) -> dict:
    """What a data set consists of.

    Args:
        dataset: as training has it.
        categories: names of the classes.
        roots: folders of the images.

    Returns:
        Plain values and tensors. By image, in no particular order but the same in all three:
        "names", "annotations" (size, boxes, classes and identities), "files" (size in bytes) and,
        where samples depend on them, "polygons" and "keypoints", (N,) int64 hashes.
    """
    prefixes = [os.path.join(root, "").encode("utf-8", "surrogatepass") for root in roots]
    # Bytes of all images at once, of which each hash takes those of one.
    sizes, boxes, labels, identities = (
        memoryview(np.ascontiguousarray(x).tobytes())
        for x in (dataset.original_sizes, dataset.boxes, dataset.labels, dataset.identities)
    )
    side, corners, number = (16, 32, 8)  # bytes of a size, a box and a class
    starts = dataset.starts.tolist()
    rows = []
    for i, path in enumerate(dataset.truth.file_names):
        first, last = starts[i], starts[i + 1]
        annotations = short_hash(
            sizes[side * i : side * (i + 1)],
            boxes[corners * first : corners * last],
            labels[number * first : number * last],
            identities[number * first : number * last],
        )
        name = relative_name(path.encode("utf-8", "surrogatepass"), prefixes)
        rows.append((short_hash(name), annotations))
    columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 2)
    polygons = dataset.truth.polygons
    more = {} if polygons is None else {"polygons": hash_polygons(polygons, starts)}
    if dataset.truth.keypoints is not None:
        points = [dataset.truth.keypoints[a:b].tobytes() for a, b in itertools.pairwise(starts)]
        more["keypoints"] = torch.tensor([short_hash(x) for x in points], dtype=torch.int64)
    return {
        **more,
        "version": VERSION,
        "images": len(dataset),
        "boxes": len(dataset.labels),
        "categories": list(map(str, categories)),
        "names": columns[:, 0].clone(),
        "annotations": columns[:, 1].clone(),
        "files": torch.tensor(file_sizes(dataset.truth.file_names), dtype=torch.int64),
    }


def hash_polygons(polygons: Polygons, starts: Sequence[int]) -> torch.Tensor:
    """(N,) int64 hashes of the polygons of each image.

    Args:
        polygons: of all objects.
        starts: N + 1 numbers of objects, see `GroundTruth`.
    """
    hashes = []
    for first, last in itertools.pairwise(starts):
        one = polygons.rows(first, last)
        hashes.append(short_hash(one.points.tobytes(), one.ends.tobytes(), one.parts.tobytes()))
    return torch.tensor(hashes, dtype=torch.int64)


def describe_changes(before: dict, now: dict, names: Sequence[str]) -> list[str]:
    """What differs between two fingerprints, one statement each; [] if nothing.

    Args:
        before: that of the checkpoint.
        now: that of the present data set.
        names: of its images, in the order of `now`.
    """
    if before.get("version") != now["version"]:
        return []
    changes = []
    if before["categories"] != now["categories"]:
        changes.append(
            f"the categories were {before['categories']} and are {now['categories']}"[:400]
        )
    compared = ["annotations", "files"]
    # Else only one of both runs needed them.
    compared += [x for x in ("polygons", "keypoints") if x in before and x in now]
    old, new = (
        dict(zip(x["names"].tolist(), zip(*(x[kind].tolist() for kind in compared))))
        for x in (before, now)
    )
    named = dict(zip(now["names"].tolist(), names))
    gone = len(old.keys() - new.keys())
    if gone:
        changes.append(f"{gone} of {before['images']} images are gone")
    kinds = {
        "new": [x for x in new if x not in old],
        "with other annotations": [x for x in new if x in old and old[x][0] != new[x][0]],
        "of another file size": [x for x in new if x in old and old[x][1] != new[x][1]],
    }
    for i, kind in enumerate(compared[2:], start=2):
        kinds[f"with other {kind}"] = [x for x in new if x in old and old[x][i] != new[x][i]]
    for kind, numbers in kinds.items():
        if numbers:
            examples = ", ".join(repr(named[x]) for x in numbers[:NAMED])
            more = ", ..." if len(numbers) > NAMED else ""
            images = "1 image is" if len(numbers) == 1 else f"{len(numbers)} images are"
            changes.append(f"{images} {kind} ({examples}{more})")
    if before["boxes"] != now["boxes"]:
        changes.append(f"there were {before['boxes']} boxes and are {now['boxes']}")
    if not changes and not np.array_equal(before["names"].numpy(), now["names"].numpy()):
        changes.append("the images come in another order")
    return changes
