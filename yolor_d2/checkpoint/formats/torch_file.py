"""Files of `torch.save`, read without `torch.load`.

Two containers exist: the zip archive of torch >= 1.6, whose member `data.pkl` describes the saved
object and whose members `data/<key>` hold the numbers, and the older sequence of pickles followed
by the numbers. Reading is in two steps. First the object is read as plain data, in which a tensor
is a `StoredTensor`, a description that was checked to lie inside its storage. Then the tensors that
are wanted are made from their storages.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import IO, Any, BinaryIO

import torch
from torch import Tensor

from ..errors import WeightsFileError, shorten
from .pickle_reader import PickleReader
from .torch_pickle import Storage, StoredTensor, TorchPickleReader

# The pickle of a whole model of 1,000 modules takes about 300 kB.
MAX_PICKLE_BYTES = 32 * 2**20
# The directory of an archive, about 80 bytes for each tensor, is read in one piece.
MAX_DIRECTORY_BYTES = 4 * 2**20
CHUNK_BYTES = 2**20
# Half precision takes twice its size once read, and a few tensors may share one storage.
MAX_EXPANSION = 4

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001


class BoundedReader(io.BufferedReader):
    """A file that gives its bytes in pieces only.

    `zipfile` would read the directory of an archive in one piece, however large, and keep ten times
    as much of it.
    """

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise WeightsFileError(
                f"the directory of the archive takes {size:,} bytes; at most "
                f"{MAX_DIRECTORY_BYTES:,} are read"
            )
        return super().read(size)


class TorchZip:
    """The zip archive of torch >= 1.6, with its members stored uncompressed.

    Args:
        file: opened for reading.
        file_bytes: size of the file.

    Raises:
        WeightsFileError: for a damaged archive, and for one that torch would not write: compressed
            or overlapping members (a zip bomb), TorchScript.
    """

    def __init__(self, file: BoundedReader, file_bytes: int):
        with zip_faults():
            self.archive = zipfile.ZipFile(file)
        self.members = {member.filename: member for member in self.archive.infolist()}
        self.root = self._find_root()
        for name, member in self.members.items():
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise WeightsFileError(
                    f"member {shorten(name)} of the archive is compressed or encrypted; torch.save "
                    "stores members uncompressed"
                )
        declared = sum(
            max(member.file_size, member.compress_size) for member in self.archive.infolist()
        )
        if declared > file_bytes:
            raise WeightsFileError(
                f"members of the archive declare {declared:,} bytes in a file of {file_bytes:,}"
            )

    def _find_root(self) -> str:
        """Folder inside the archive."""
        roots = [name[: -len("data.pkl")] for name in self.members if name.endswith("/data.pkl")]
        if len(roots) != 1 or roots[0].count("/") != 1:
            raise WeightsFileError("is a zip archive, but none of torch.save: no single data.pkl")
        if f"{roots[0]}constants.pkl" in self.members:
            raise WeightsFileError(
                "is a TorchScript archive, which holds code; expected what torch.save writes"
            )
        return roots[0]

    def read_object(self) -> Any:
        """The saved object as plain data, see `PickleReader.load`, with `StoredTensor` in it."""
        order = self._read("byteorder") if f"{self.root}byteorder" in self.members else b"little"
        if order != b"little":
            raise WeightsFileError("was written on a big-endian machine; expected little-endian")
        if self.members[f"{self.root}data.pkl"].file_size > MAX_PICKLE_BYTES:
            raise WeightsFileError(f"its pickle is larger than {MAX_PICKLE_BYTES:,} bytes")
        return TorchPickleReader(io.BytesIO(self._read("data.pkl"))).load()

    def read_storage(self, storage: Storage) -> bytearray:
        """Bytes of a storage, exactly as many as it declares."""
        name = f"data/{storage.key}"
        member = self.members.get(self.root + name)
        if member is None:
            raise WeightsFileError(f"storage {shorten(storage.key)} is missing in the archive")
        if storage.nbytes > member.file_size:
            raise WeightsFileError(
                f"storage {shorten(storage.key)} has {member.file_size:,} bytes, "
                f"{storage.nbytes:,} are declared"
            )
        content = self._read(name)
        del content[storage.nbytes :]
        return content

    def _read(self, name: str) -> bytearray:
        member = self.members[self.root + name]
        # At the end zipfile compares the checksum.
        with zip_faults(), self.archive.open(member) as stream:
            content = read_at_most(stream, member.file_size)
        if len(content) != member.file_size:
            raise WeightsFileError(f"member {shorten(name)} of the archive is cut off")
        return content


@contextmanager
def zip_faults() -> Iterator[None]:
    """Turn all that `zipfile` raises over a damaged archive into `WeightsFileError`."""
    try:
        yield
    except WeightsFileError:
        raise
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        RuntimeError,
        ValueError,
        EOFError,
        OSError,
        OverflowError,
        struct.error,
    ) as fault:
        raise WeightsFileError(
            f"is a damaged or cut off zip archive ({type(fault).__name__}: {fault})"
        ) from fault


class LegacyTorchFile:
    """The container of torch < 1.6: five pickles, then the storages, each after its length.

    Args:
        file: opened for reading.
        file_bytes: size of the file.
    """

    def __init__(self, file: BoundedReader, file_bytes: int):
        self.file = file
        self.file_bytes = file_bytes
        self.offsets: dict[str, int] = {}

    def read_object(self) -> Any:
        """The saved object as plain data, see `PickleReader.load`, with `StoredTensor` in it."""
        self.file.seek(0)
        stream = io.BytesIO(read_at_most(self.file, MAX_PICKLE_BYTES))
        # No global is admitted here, so what hides in front of the object is named too.
        header = PickleReader(stream, max_steps=1000)
        if header.load() != LEGACY_MAGIC or header.load() != LEGACY_VERSION:
            raise WeightsFileError("is a pickle, but none of torch.save")
        system = header.load()
        if type(system) is not dict or system.get("little_endian") is not True:
            raise WeightsFileError("was written on a big-endian machine; expected little-endian")
        reader = TorchPickleReader(stream)
        saved = reader.load()
        keys = reader.load()
        known = type(keys) is list and all(type(key) is str for key in keys)
        if not known or len(set(keys)) < len(keys) or not reader.storages.keys() >= set(keys):
            raise WeightsFileError("has a malformed list of storages")
        self._locate([reader.storages[key] for key in keys], stream.tell())
        return saved

    def _locate(self, storages: list[Storage], position: int) -> None:
        """Find each storage and check that it ends inside the file."""
        for storage in storages:
            self.file.seek(position)
            length = read_at_most(self.file, 8)
            start = position + 8
            position = start + storage.nbytes
            if position > self.file_bytes or struct.unpack("<q", length) != (storage.numel,):
                raise WeightsFileError(
                    f"storage {shorten(storage.key)} is cut off or has another size than declared"
                )
            self.offsets[storage.key] = start

    def read_storage(self, storage: Storage) -> bytearray:
        """Bytes of a storage, exactly as many as it declares."""
        if storage.key not in self.offsets:
            raise WeightsFileError(f"storage {shorten(storage.key)} is missing in the file")
        self.file.seek(self.offsets[storage.key])
        return read_at_most(self.file, storage.nbytes)


def read_at_most(file: BinaryIO | IO[bytes], limit: int) -> bytearray:
    """The next bytes of a file, in small pieces; fewer only at its end."""
    content = bytearray()
    while len(content) < limit and (piece := file.read(min(CHUNK_BYTES, limit - len(content)))):
        content += piece
    return content


def read_tensors(
    container: TorchZip | LegacyTorchFile, wanted: dict[str, StoredTensor], file_bytes: int
) -> dict[str, Tensor]:
    """Read tensors of a file.

    Args:
        container: the file.
        wanted: tensors by name.
        file_bytes: size of the file, which limits the memory of the result.

    Returns:
        The tensors by name, in the given order, see `as_plain_tensor`.
    """
    total = sum(tensor.nbytes for tensor in wanted.values())
    if total > MAX_EXPANSION * file_bytes:
        raise WeightsFileError(
            f"its tensors take {total:,} bytes, more than {MAX_EXPANSION} times the file's "
            f"{file_bytes:,}"
        )
    tensors: dict[str, Tensor] = dict.fromkeys(wanted, torch.empty(0))

    def storage_key(name: str) -> str:
        return wanted[name].storage.key

    for _, names in groupby(sorted(wanted, key=storage_key), key=storage_key):
        shared = list(names)
        storage = wanted[shared[0]].storage
        content = container.read_storage(storage)
        # frombuffer refuses an empty buffer.
        flat = torch.frombuffer(content, dtype=storage.dtype) if content else None
        for name in shared:
            tensor = wanted[name]
            view = (
                torch.empty(tensor.size, dtype=storage.dtype)
                if flat is None
                else flat.as_strided(tensor.size, tensor.stride, tensor.offset)
            )
            tensors[name] = as_plain_tensor(view)
    return tensors


def as_plain_tensor(tensor: Tensor) -> Tensor:
    """A contiguous copy with a storage of its own; floating types become float32."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype).copy_(tensor)
