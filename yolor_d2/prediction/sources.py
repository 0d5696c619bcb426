"""Images, videos, cameras and addresses that a user names: found and told apart, or missing.

Needs neither torch nor a decoder, as it is asked before they are imported.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from ..inputs import IMAGE_SUFFIXES

# Containers and raw streams by their usual names; anything else is known by its first bytes. `.ts`
# is left to those, as in most folders it is TypeScript.
VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".qt", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".m2v", ".vob"),
    *(".m2ts", ".mts", ".flv", ".f4v", ".wmv", ".asf", ".3gp", ".3g2", ".ogv", ".mxf", ".divx"),
    *(".mjpg", ".mjpeg", ".h264", ".264", ".h265", ".265", ".hevc", ".ivf", ".y4m", ".gif"),
    *(".rm", ".rmvb", ".dv", ".nut"),
}
# What lies beside images and videos and is never worth a look.
OTHER_SUFFIXES = {".txt", ".json", ".jsonl", ".xml", ".csv", ".yaml", ".yml", ".md", ".log", ".py"}
# Where the packets of MPEG transport streams begin, each with the same byte; `.m2ts` puts four
# bytes in front of each.
TS_SYNC = 0x47
TS_PACKETS = ((0, 188, 376), (4, 196, 388))
FIRST_BYTES = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"FLV\x01",
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x00\x00\x01\xb3",  # MPEG video
    b"0&\xb2u\x8ef\xcf\x11",  # ASF: WMV
    b"OggS",
    b"\x06\x0e+4",  # MXF
    b"GIF8",
    b"YUV4MPEG2",
    b"DKIF",  # IVF
    b".RMF",
)
# Of files made of ISO boxes, those that are pictures.
PICTURE_BRANDS = {b"heic", b"heix", b"heim", b"mif1", b"msf1", b"avif", b"avis"}
# Addresses of files, which can be read again from any place. All others are what happens now.
FILE_SCHEMES = {"http", "https", "file", "ftp", "sftp"}

Kind = Literal["image", "video", "live"]


@dataclass(frozen=True)
class Source:
    """One input.

    Attributes:
        name: what a decoder opens: a path, an address, or the number of a camera.
        kind: "image"; "video", which ends and can be read again; "live", which happens now.
        place: where what is written of it goes below the folders of outputs; without suffix.
    """

    name: str
    kind: Kind
    place: PurePosixPath

    @property
    def shown(self) -> str:
        """The name in records and messages: an address loses its password."""
        return without_password(self.name) if is_address(self.name) else self.name

    @property
    def is_camera(self) -> bool:
        return self.kind == "live" and self.name.isdecimal()


def is_address(text: str) -> bool:
    return "://" in text


def without_password(address: str) -> str:
    parts = urlsplit(address)
    _, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=host).geturl()


def is_video_content(start: bytes) -> bool:
    """Whether a file that begins so is a video.

    Args:
        start: its first 400 bytes, or all of it.
    """
    if start.startswith(FIRST_BYTES):
        return True
    if start[:4] == b"RIFF":
        return start[8:12] == b"AVI "
    if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return start[8:12] not in PICTURE_BRANDS
    return any(
        len(start) > max(packets) and all(start[i] == TS_SYNC for i in packets)
        for packets in TS_PACKETS
    )


def kind_of(path: Path, otherwise: Kind | None) -> Kind | None:
    """What a file is, by its suffix, else by its first bytes, else as given."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in OTHER_SUFFIXES or not path.is_file():
        return otherwise
    try:
        with path.open("rb") as file:
            return "video" if is_video_content(file.read(400)) else otherwise
    except OSError:  # its reader says why, if it is asked to read it
        return otherwise


def place_below(path: Path, root: Path) -> PurePosixPath:
    inner = path.relative_to(root) if path.is_relative_to(root) else Path(path.name)
    return PurePosixPath(inner.with_suffix("").as_posix())


def from_folder(folder: Path) -> list[Source]:
    kinds = ((path, kind_of(path, None)) for path in sorted(folder.rglob("*")))
    return [Source(str(p), kind, place_below(p, folder)) for p, kind in kinds if kind is not None]


def from_file(path: Path, root: Path) -> Source:
    return Source(str(path), kind_of(path, "image") or "image", place_below(path, root))


def from_pattern(pattern: str) -> list[Source]:
    parts = Path(pattern).parts
    plain = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    paths = map(Path, sorted(glob.glob(pattern, recursive=True)))
    return [from_file(path, Path(*parts[:plain])) for path in paths if path.is_file()]


def from_address(address: str) -> Source:
    parts: SplitResult = urlsplit(address)
    if Path(parts.path).suffix.lower() in IMAGE_SUFFIXES:
        raise ValueError(
            f"--input: {without_password(address)!r} is the address of an image; download it "
            "first, only videos and streams are read from addresses"
        )
    words = f"{parts.hostname or ''}{Path(parts.path).with_suffix('')}"
    place = re.sub(r"[^\w.-]+", "_", words).strip("_") or "stream"
    kind: Kind = "video" if parts.scheme in FILE_SCHEMES else "live"
    return Source(address, kind, PurePosixPath(place))


def expand(inputs: Iterable[str | Path]) -> list[Source]:
    """What to work on: folders stand for the images and videos in them.

    Raises:
        FileNotFoundError: when an input does not exist.
        ValueError: when there is nothing to work on, or an address is that of an image.
    """
    inputs = list(map(str, inputs))
    sources: list[Source] = []
    for text in inputs:
        path = Path(text)
        if is_address(text):
            sources.append(from_address(text))
        elif path.is_dir():
            sources += from_folder(path)
        elif path.is_file():
            sources.append(from_file(path, path.parent))
        elif text.isdecimal():
            sources.append(Source(text, "live", PurePosixPath(f"camera_{text}")))
        elif glob.has_magic(text) and (matching := from_pattern(text)):
            sources += matching
        else:
            raise FileNotFoundError(f"--input: no such file or folder {text!r}")
    if not sources:
        raise ValueError(f"--input: no images in {', '.join(inputs)}, and no videos")
    return apart(sources)


def apart(sources: Sequence[Source]) -> list[Source]:
    """The same with places of their own: two inputs of one name do not overwrite each other."""
    taken: set[tuple[bool, str]] = set()
    result = []
    for source in sources:
        place, number = source.place, 1
        # A file system may not tell small from capital letters.
        while (source.kind == "image", str(place).lower()) in taken:
            number += 1
            place = source.place.with_name(f"{source.place.name}_{number}")
        taken.add((source.kind == "image", str(place).lower()))
        result.append(Source(source.name, source.kind, place))
    return result
