"""Parts of a data set to train on, to validate with and to test with."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np

from .prepared_copies import hash_file

PARTS = ("train", "val", "test")


def group_images(
    images: Sequence[dict], folder: Path, *, pattern: str | None = None, key: str | None = None
) -> np.ndarray:
    """Which images have to stay together: those of one group, and copies of one file.

    Args:
        images: N entries of a COCO file.
        folder: that their names are relative to.
        pattern: regular expression; images in whose names it finds the same text, that of its
            first group if it has some, are one group. None leaves every image alone.
        key: of the entries, in place of a pattern: those with one value are one group.

    Returns:
        (N,) int64, numbers of the groups from 0.

    Raises:
        ValueError: when the pattern is none, or when it or the key gives no group for an image.
    """
    names: list[Hashable] = list(range(len(images)))
    if pattern is not None:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ValueError(f"--groups {pattern!r} is no regular expression: {error}") from error
        matches = [compiled.search(image["file_name"]) for image in images]
        missing = [image["file_name"] for image, match in zip(images, matches) if match is None]
        if missing:
            raise ValueError(
                f"--groups {pattern!r} is not found in {len(missing)} of {len(images)} names, "
                f"first {missing[0]!r}"
            )
        names = [match[1] if compiled.groups else match[0] for match in matches if match]
    elif key is not None:
        missing = [image["file_name"] for image in images if key not in image]
        if missing:
            known = ", ".join(sorted({x for image in images for x in image}))
            raise ValueError(
                f"--group-key {key!r} is missing in {len(missing)} of {len(images)} images, first "
                f"{missing[0]!r}; there are {known}"
            )
        names = [str(image[key]) for image in images]
    numbers: dict[Hashable, int] = {}
    groups = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
    # Copies: the smaller number of the groups of two files of one content stands for both.
    parent = list(range(len(numbers)))

    def find(group: int) -> int:
        while parent[group] != group:
            group = parent[group]
        return group

    first: dict[str, int] = {}
    for image, group in zip(images, groups.tolist()):
        path = Path(os.path.join(folder, image["file_name"]))
        if path.is_file():
            a, b = find(first.setdefault(hash_file(path), group)), find(group)
            parent[max(a, b)] = min(a, b)
    return np.unique([find(group) for group in groups.tolist()], return_inverse=True)[1]


def distribute(counts: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """Parts for groups of images, so that each part gets its fraction of every class.

    Iterative stratification (Sechidis et al., "On the Stratification of Multi-Label Data", 2011)
    of groups: those with the class of which the fewest boxes are left come first, each to the part
    that misses that class most.

    Args:
        counts: (G, 1 + C) for each group its number of images, and of boxes of each class.
        fractions: of the P parts, which sum up to 1.
        seed: of the order of the groups, and of draws between parts that miss as much.

    Returns:
        (G,) int64, numbers of the parts.

    Raises:
        ValueError: when there are fewer groups than parts.
    """
    wanted = np.array(fractions)
    needed = wanted > 0
    if len(counts) < needed.sum():
        raise ValueError(
            f"{len(counts)} group(s) of images cannot be shared out to {needed.sum()} parts"
        )
    random = np.random.default_rng(seed)
    missing = np.outer(wanted, counts.sum(axis=0)).astype(float)  # (P, 1 + C)
    missing[~needed] = -np.inf
    parts = np.full(len(counts), -1)
    left = counts.sum(axis=0).astype(float)

    def assign(group: int, column: int) -> None:
        # The class first, then images, then a draw.
        order = np.lexsort((random.random(len(wanted)), missing[:, 0], missing[:, column]))
        parts[group] = order[-1]
        missing[order[-1]] -= counts[group]
        left[:] -= counts[group]

    while (parts < 0).any():
        classes = 1 + np.flatnonzero(left[1:] > 0)
        # Background comes last.
        column = classes[np.argmin(left[classes])] if len(classes) else 0
        open_groups = np.flatnonzero((parts < 0) & (counts[:, column] > 0))
        open_groups = random.permutation(open_groups)
        # Large groups first, as small ones can still even out what those have done.
        for group in open_groups[np.argsort(-counts[open_groups, column], kind="stable")]:
            assign(int(group), int(column))
    for part in np.flatnonzero(needed):  # where groups are few, none stays empty
        if not (parts == part).any():
            sizes = Counter(parts.tolist())
            largest = max(sizes, key=lambda x: (sizes[x], -x))
            candidates = np.flatnonzero(parts == largest)
            parts[candidates[np.argmin(counts[candidates, 0])]] = part
    return parts


def split_coco(
    data: dict,
    folder: Path,
    fractions: dict[str, float],
    *,
    seed: int = 0,
    pattern: str | None = None,
    key: str | None = None,
) -> dict[str, dict]:
    """Share the images of a COCO file out to parts.

    Args:
        data: content of the file.
        folder: of the images.
        fractions: by name of the part, see `PARTS`; they sum up to 1.
        seed: other seeds share out otherwise.
        pattern, key: see `group_images`.

    Returns:
        Content by name of the part, with all that the file has beside images and annotations.

    Raises:
        ValueError: when the groups cannot be determined or are too few.
    """
    images = data["images"]
    places = {image["id"]: i for i, image in enumerate(images)}
    classes = {x["id"]: i for i, x in enumerate(data["categories"])}
    counts = np.zeros((len(images), 1 + len(classes)), dtype=np.int64)
    counts[:, 0] = 1
    for x in data["annotations"]:
        counts[places[x["image_id"]], 1 + classes[x["category_id"]]] += 1
    groups = group_images(images, folder, pattern=pattern, key=key)
    by_group = np.zeros((groups.max() + 1, counts.shape[1]), dtype=np.int64)
    np.add.at(by_group, groups, counts)
    parts = distribute(by_group, list(fractions.values()), seed)[groups]
    result = {}
    for number, name in enumerate(fractions):
        chosen = [image for image, part in zip(images, parts.tolist()) if part == number]
        kept = {image["id"] for image in chosen}
        annotations = [x for x in data["annotations"] if x["image_id"] in kept]
        result[name] = {**data, "images": chosen, "annotations": annotations}
    return result
