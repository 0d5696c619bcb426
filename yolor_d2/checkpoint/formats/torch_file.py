"""Files of `torch.save`, read without `torch.load`.

Two containers exist: the zip archive of torch >= 1.6, whose member `data.pkl` describes the saved
object and whose members `data/<key>` hold the numbers, and the older sequence of pickles followed
by the numbers. Reading is in two steps. First the object is read as plain data, in which a tensor
is a `StoredTensor`, a description that was checked to lie inside its storage. Then the tensors that
are wanted are made from their storages.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import IO, Any, BinaryIO

import torch
from torch import Tensor

from ..errors import WeightsFileError, shorten
from .pickle_reader import Global, Inert, PickleReader

# The pickle of a whole model of 1,000 modules takes about 300 kB.
MAX_PICKLE_BYTES = 32 * 2**20
# The directory of an archive, about 80 bytes for each tensor, is read in one piece.
MAX_DIRECTORY_BYTES = 4 * 2**20
CHUNK_BYTES = 2**20
MAX_AXES = 8
# Above any file; keeps all arithmetic on sizes small, also for tensors without elements.
MAX_NUMEL = 2**40
# Half precision takes twice its size once read, and a few tensors may share one storage.
MAX_EXPANSION = 4

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
REBUILD_TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
REBUILD_PARAMETER = (
    Global("torch._utils", "_rebuild_parameter"),
    Global("torch._utils", "_rebuild_parameter_with_state"),
)
ORDERED_DICT = Global("collections", "OrderedDict")
# Protocol 2 spells the module of built-in names as Python 2 did.
BUILTINS = ("builtins", "__builtin__")
SETS = [Global(module, name) for module in BUILTINS for name in ("set", "frozenset")]
# What weights and the plain attributes of a model name. Nothing of it is ever imported or called.
NAMES = {
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state"},
    "torch": {
        *DTYPES,
        *(str(dtype).removeprefix("torch.") for dtype in DTYPES.values()),
        "Size",
        "device",
    },
    "collections": {"OrderedDict", "defaultdict", "Counter"},
    # Fitness and other figures of a training run.
    "numpy": {"dtype", "ndarray", "float16", "float32", "float64", "int32", "int64", "bool_"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
    "numpy._core.multiarray": {"scalar", "_reconstruct"},
    "_codecs": {"encode"},
    **dict.fromkeys(
        BUILTINS,
        {"set", "frozenset", "list", "dict", "tuple", "object", "slice", "range"}
        | {"bool", "int", "float", "complex", "str", "bytes"},
    ),
}
# Packages whose classes a pickled model is made of.
PACKAGES = ("models", "utils", "torch.nn", "pytorch_wavelets")

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001


@dataclass(frozen=True)
class Storage:
    """A run of numbers in a file, as the pickle declares it."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: a view of a storage, with offset and strides in elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in memory, once read."""
        itemsize = 4 if self.storage.dtype.is_floating_point else self.storage.dtype.itemsize
        return math.prod(self.size) * itemsize


class TorchPickleReader(PickleReader):
    """Reads the pickle of a saved object; gives `StoredTensor` for tensors."""

    def __init__(self, stream: BinaryIO):
        super().__init__(stream)
        self.storages: dict[str, Storage] = {}

    def admit(self, named: Global) -> None:
        module, name = named.module, named.name
        known = name in NAMES.get(module, ())
        inside = any(module == package or module.startswith(package + ".") for package in PACKAGES)
        # A dotted name reaches into whatever the module has imported.
        if known or (inside and name.isidentifier()):
            return
        if module in ("torch", "torch.storage", "torch._utils") and (
            name.endswith("Storage") or name.startswith("_rebuild_")
        ):
            raise WeightsFileError(
                f"it holds tensors of {shorten(str(named))}; expected plain tensors of "
                f"{', '.join(DTYPES)}"
            )
        super().admit(named)

    def construct(self, callee: Global, arguments: tuple) -> Any:
        if callee == REBUILD_TENSOR:
            return make_stored_tensor(*arguments[:4])
        if callee in REBUILD_PARAMETER:
            if not arguments or type(arguments[0]) is not StoredTensor:
                raise WeightsFileError("it holds a parameter that is no plain tensor")
            return arguments[0]
        items = arguments[0] if len(arguments) == 1 and type(arguments[0]) is list else []
        if callee == ORDERED_DICT:
            return self.make_dict(items)
        if callee in SETS:
            return self.make_set(items)
        return Inert(callee)

    def load_persistent(self, identifier: Any) -> Any:
        if type(identifier) is not tuple or len(identifier) < 2:
            raise WeightsFileError("its pickle has a malformed reference to a storage")
        if identifier[0] == "module":
            # The legacy container stores the source of a class with it; only the name is kept.
            return identifier[1]
        # (kind, type, key, location, numel), in the legacy container also the part that is viewed.
        if identifier[0] != "storage" or len(identifier) not in (5, 6) or any(identifier[5:]):
            raise WeightsFileError("its pickle has a malformed reference to a storage")
        _, kind, key, _, numel = identifier[:5]
        if type(kind) is not Global or kind.module != "torch" or kind.name not in DTYPES:
            raise WeightsFileError(f"it has a storage of unknown type; known: {', '.join(DTYPES)}")
        if type(key) is not str or type(numel) is not int or not 0 <= numel <= MAX_NUMEL:
            raise WeightsFileError("its pickle has a malformed reference to a storage")
        storage = Storage(key, DTYPES[kind.name], numel)
        if self.storages.setdefault(key, storage) != storage:
            raise WeightsFileError(f"storage {shorten(key)} is declared in two ways")
        return storage


def make_stored_tensor(
    storage: Any = None, offset: Any = None, size: Any = None, stride: Any = None
) -> StoredTensor:
    """Check a tensor as a pickle describes it.

    Raises:
        WeightsFileError: unless every element lies inside the storage, and no more elements than
            the storage has (an expanded tensor takes any memory once it is contiguous).
    """
    well_formed = (
        type(storage) is Storage
        and type(size) is tuple
        and type(stride) is tuple
        and len(size) == len(stride) <= MAX_AXES
        and all(type(n) is int and 0 <= n <= MAX_NUMEL for n in (offset, *size, *stride))
    )
    if not well_formed:
        raise WeightsFileError(
            f"it has a malformed tensor; expected a storage, an offset and sizes and strides of at "
            f"most {MAX_AXES} axes, each from 0 to {MAX_NUMEL:,}"
        )
    numel = math.prod(size)
    end = offset + sum((n - 1) * step for n, step in zip(size, stride)) + 1 if numel else 0
    if end > storage.numel or numel > storage.numel:
        raise WeightsFileError(
            f"it has a tensor outside of its storage {shorten(storage.key)}, which has "
            f"{storage.numel:,} elements"
        )
    if math.prod(max(n, 1) for n in size) > MAX_NUMEL:
        raise WeightsFileError(f"it has a tensor of more than {MAX_NUMEL:,} elements")
    return StoredTensor(storage, offset, size, stride)


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
    """The zip archive of torch >= 1.6, with its members stored as they are.

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
                    "stores members as they are"
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
