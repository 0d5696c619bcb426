"""Findings about image files: by themselves, against their entries, and against each other."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from ..datasets.source import Source
from ..files.inspection import ImageFacts, inspect_images, named_format

# Both sides below this, in pixels, is small.
SMALL = 32
# Folders in which missing images are looked for.
MOST_FOLDERS = 1000
# What PIL calls colour without further channels.
COLOUR_MODES = ("RGB", "YCbCr")


def is_image_name(name: str) -> bool:
    """Whether a file is named as an image."""
    return bool(named_format(name)) and not name.startswith(".")


def nearest_name(path: str, folders: dict[str, dict[str, str]]) -> str:
    """A file of the same folder whose name differs in case or ending alone, for a message."""
    folder, name = os.path.split(path)
    if folder not in folders:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            names = []
        folders[folder] = {os.path.splitext(x)[0].casefold(): x for x in names if is_image_name(x)}
    near = folders[folder].get(os.path.splitext(name)[0].casefold())
    return f"; there is {near!r}" if near and near != name else ""


def find_folder(root: Path, name: str) -> tuple[Path | None, Path | None]:
    """Where the file of an image is that is not below the root.

    Returns:
        The folder that its name is relative to, above the root or in it; and if there is none, a
        folder that has a file of this name at all.
    """
    for folder in root.absolute().parents:
        if (folder / name).is_file():
            return folder, None
    stem = PureWindowsPath(name).name  # which knows both kinds of slashes
    for place, _, names in itertools.islice(os.walk(root), MOST_FOLDERS):
        if stem in names:
            for folder in (Path(place), *Path(place).parents):
                if (folder / name).is_file():
                    return folder, None
            return None, Path(place)
    return None, None


def report_missing(source: Source, missing: dict[int, str], looked_at: int) -> None:
    """Report images without a file, and where they are if all are elsewhere.

    Args:
        source: of the images.
        missing: the cause why the file is missing, by place of the image.
        looked_at: images whose file was looked for.
    """
    folders: dict[str, dict[str, str]] = {}
    if missing and len(missing) == looked_at:
        name = source.data["images"][next(iter(missing))]["file_name"]
        right, other = find_folder(source.image_root, name)
        start = f"no image is in {str(source.image_root)!r}, but"
        if right is not None:
            message = f"{start} {name!r} is in {str(right)!r}: give that folder"
            source.report("image_folder_wrong", message)
        elif other is not None:
            message = (
                f"{start} a file of the name of {name!r} is in {str(other)!r}, expected names that "
                "are relative to the folder of the images"
            )
            source.report("image_folder_wrong", message)
    for place, reason in missing.items():
        message = reason + nearest_name(source.image_path(place), folders)
        source.report("image_missing", message, "images", place)


def check_files(
    source: Source,
    *,
    workers: int = 1,
    channels: int = 3,
    input_size: int = 0,
    least_side: int = 0,
    progress: bool = False,
) -> dict[int, ImageFacts]:
    """Read the images of a data set and report what is wrong with them.

    Args:
        source: sizes that its entries lack are filled in.
        workers, channels, progress: see `images.inspect_images`.
        input_size: longer side of the network's input in pixels; 0 leaves its checks out.
        least_side: finest stride in pixels.

    Returns:
        Facts by place of the image.
    """
    places = list(source.images.values())
    paths = [source.image_path(place) for place in places]
    facts = dict(
        zip(
            places,
            inspect_images(paths, workers=workers, channels=channels, progress=progress),
        )
    )
    missing = {k: fact.message for k, fact in facts.items() if fact.fault == "image_missing"}
    report_missing(source, missing, len(places))
    for place, fact in facts.items():
        if place in missing:
            continue
        if fact.fault:
            source.report(fact.fault, fact.message, "images", place)
        else:
            check_content(source, place, fact, channels, input_size, least_side)
    return facts


def check_content(
    source: Source,
    place: int,
    fact: ImageFacts,
    channels: int,
    input_size: int,
    least_side: int,
) -> None:
    """Report what is odd about an image that can be read."""
    assert fact.size is not None
    height, width = fact.size
    check_size(source, place, fact)
    if fact.named and fact.named != fact.format:
        message = f"the content is {fact.format}, the file name suggests {fact.named}"
        source.report("image_mislabelled", message, "images", place)
    if fact.orientation != 1 and channels in (1, 3):
        message = f"EXIF orientation {fact.orientation}; shown as {width} x {height}"
        source.report("image_rotated", message, "images", place)
    if channels == 3 and fact.format != "NPY" and fact.mode not in COLOUR_MODES:
        message = f"mode {fact.mode}, read as RGB"
        source.report("image_not_rgb", message, "images", place)
    shorter = min(height, width) * input_size / max(height, width)
    if input_size and shorter < least_side:
        message = (
            f"{width} x {height}: at {input_size} pixels the shorter side is {shorter:.1f}, "
            f"below the finest stride, {least_side}"
        )
        source.report("image_elongated", message, "images", place)
    if max(height, width) < SMALL:
        message = f"{width} x {height} pixels"
        source.report("image_small", message, "images", place)


def check_size(source: Source, place: int, fact: ImageFacts) -> None:
    """Compare an image with its entry; what the entry lacks is taken from the image."""
    if place not in source.sizes:
        source.sizes[place] = fact.size
        return
    if source.sizes[place] == fact.size:
        return
    (height, width), (said_height, said_width) = fact.size, source.sizes[place]
    message = f"the image is {width} x {height}, its entry says {said_width} x {said_height}"
    if fact.orientation != 1 and source.sizes[place] == fact.stored_size:
        message += f", the size without its EXIF orientation {fact.orientation}"
    source.report("image_size_differs", message, "images", place)


def check_folders(sources: Sequence[Source]) -> None:
    """Report files that lie beside images of the data sets, but in none of them."""
    named = {
        os.path.abspath(source.image_path(place))
        for source in sources
        for place in source.images.values()
    }
    seen = set()
    for source in sources:
        folders = {os.path.dirname(source.image_path(x)) for x in source.images.values()}
        for folder in sorted(folders):
            if os.path.abspath(folder) in seen:
                continue
            seen.add(os.path.abspath(folder))
            try:
                names = sorted(filter(is_image_name, os.listdir(folder or ".")))
            except OSError:  # its images are reported as missing
                continue
            for name in names:
                path = os.path.join(folder, name)
                # No folder, and no link that leads nowhere or to itself.
                if os.path.abspath(path) not in named and os.path.isfile(path):
                    relative = os.path.relpath(path, source.image_root)
                    message = "no entry names this file"
                    source.report("image_unreferenced", message, file=relative)


def check_copies(sources: Sequence[Source], facts: Sequence[dict[int, ImageFacts]]) -> None:
    """Report images that are there twice: in one data set, or in both.

    Of a leak, the image of the first data set, that to train on, is reported.
    """
    # By hash of the pixels, which files of different formats may share.
    owners: list[dict[bytes, int]] = []
    for source, by_place in zip(sources, facts):
        first: dict[bytes, int] = {}
        for place, fact in by_place.items():
            if not fact.pixel_digest:
                continue
            known = first.setdefault(fact.pixel_digest, place)
            if known != place and not same_file(source, known, source, place):
                message = f"{copy_of(fact, by_place[known])} as {describe(source, known)}"
                source.report("image_duplicate", message, "images", place)
        owners.append(first)
    for i, source in enumerate(sources[:-1]):
        for other, first, others in zip(sources[i + 1 :], owners[i + 1 :], facts[i + 1 :]):
            for place, fact in facts[i].items():
                known = first.get(fact.pixel_digest) if fact.pixel_digest else None
                if known is not None:
                    kind = copy_of(fact, others[known])
                    message = f"{kind} as {describe(other, known)} of {other.name!r}"
                    source.report("leak", message, "images", place)


def same_file(source: Source, place: int, other: Source, other_place: int) -> bool:
    """Whether two entries name one path, which is a finding of its own."""
    path, other_path = source.image_path(place), other.image_path(other_place)
    return os.path.normpath(path) == os.path.normpath(other_path)


def copy_of(fact: ImageFacts, other: ImageFacts) -> str:
    return "the same file content" if fact.digest == other.digest else "the same pixels"


def describe(source: Source, place: int) -> str:
    entry = source.data["images"][place]
    return f"image {entry['id']} {entry['file_name']!r}"
