"""Weights of darknet: a short header, then float32 numbers without names.

How the numbers divide into layers follows from the network: per convolution in the order of its
cfg file beta, gamma, running mean and running variance (or a bias alone), then the kernel. So only
who knows the network can tell a file that is cut off between two numbers.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from ..errors import WeightsFileError, name_file

# The version that darknet writes since it counts images in 64 bits; the third number varies.
VERSION = (0, 2)
MAGIC = struct.pack("<2i", *VERSION)
HEADER = struct.Struct("<3iq")


@dataclass(frozen=True)
class DarknetWeights:
    """Content of a `.weights` file.

    Attributes:
        version: major, minor, revision.
        seen: images seen in training.
        values: (n,) float32, all numbers in file order.
    """

    version: tuple[int, int, int]
    seen: int
    values: Tensor


def read_darknet(path: str | os.PathLike) -> DarknetWeights:
    """Read a darknet `.weights` file.

    Raises:
        WeightsFileError: for another version, no numbers, or a part of a number at the end.
        OSError: when the file cannot be read.
    """
    with name_file(path), open(path, "rb") as file:
        return parse_darknet(file)


def parse_darknet(file: BinaryIO) -> DarknetWeights:
    """Read darknet weights from the start of an open file; for errors see `read_darknet`."""
    file.seek(0)
    header = file.read(HEADER.size)
    if len(header) < HEADER.size:
        raise WeightsFileError(
            f"has {len(header)} bytes; the header of darknet weights takes {HEADER.size}"
        )
    major, minor, revision, seen = HEADER.unpack(header)
    if (major, minor) != VERSION:
        raise WeightsFileError(
            f"is no darknet file, or an old one: version {major}.{minor}; expected 0.2"
        )
    # A buffer that can be written to, since the tensor shares its memory.
    content = bytearray(file.read())
    if not content or len(content) % 4 or seen < 0:
        raise WeightsFileError(
            f"is damaged or cut off: {len(content):,} bytes after the header; expected float32 "
            "numbers of 4 bytes"
        )
    values = torch.frombuffer(content, dtype=torch.float32)
    return DarknetWeights((major, minor, revision), seen, values)
