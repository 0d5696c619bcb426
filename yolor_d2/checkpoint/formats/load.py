"""Weight files of others, read without trusting them.

    weights = read_weights("yolor-p6.pt")
    weights.kind, weights.tensors["model.1.conv.weight"]

Nothing in a file is executed or imported, whatever it holds; a harmful file is refused
before it takes much memory or time. Names of tensors are those of the file.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from io import FileIO
from typing import Any

import safetensors
from torch import Tensor

from ..errors import WeightsFileError, name_file, shorten
from . import darknet
from .pickle_reader import Inert
from .torch_file import BoundedReader, LegacyTorchFile, TorchZip, as_plain_tensor, read_tensors
from .torch_pickle import StoredTensor

ZIP_MAGIC = b"PK\x03\x04"
PICKLE_MAGIC = b"\x80"
# A header takes about 100 bytes for each tensor.
MAX_SAFETENSORS_HEADER = 4 * 2**20
SAFETENSORS_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")

# Bounds on a tree of modules, far above those of any detector.
MAX_DEPTH = 32
MAX_ENTRIES = 100_000
MAX_NAME = 200

# Entries beside "model" in checkpoints of Detectron2 and of this project.
DETECTRON2_KEYS = ("iteration", "trainer", "scheduler", "__author__")
# Plain numbers that are worth having.
COUNTERS = ("epoch", "iteration", "updates", "best_fitness", "nc")


@dataclass(frozen=True)
class ForeignWeights:
    """Weights out of a file.

    Attributes:
        kind: where they stood in the file.
            "state_dict": tensors by name, bare or under "model" or "ema" (YOLOR, branch main).
            "module": a pickled module, bare or under "model" or "ema" (YOLOR, branch paper;
                YOLOv7 in training, deploy or stripped form; YOLOv5 release 5).
            "yolor_d2": tensors under "model" beside what Detectron2 or this project stores.
            "safetensors": tensors by name in that format.
            "darknet": all numbers in file order, as the one tensor "values".
        tensors: by name; contiguous, on the CPU, each with its own memory; floating ones float32.
        averaged: the file holds a separate moving average under "ema", and these are its weights.
        info: plain attributes as far as the file has them: numbers (see `COUNTERS`), "names" of the
            classes; "version" and "seen" of darknet; "metadata" of safetensors.
    """

    kind: str
    tensors: dict[str, Tensor]
    averaged: bool = False
    info: dict[str, Any] = field(default_factory=dict)


def read_weights(path: str | os.PathLike) -> ForeignWeights:
    """Read a file of weights; its content decides the format, not its name.

    Args:
        path: a file of `torch.save` (any version since 0.4), safetensors, or darknet.

    Raises:
        WeightsFileError: when the file is none of these, is damaged, holds no weights, or could do
            harm to who reads it with `torch.load`. The message names the file.
        OSError: when it cannot be read.
    """
    with name_file(path):
        if os.path.exists(path) and not os.path.isfile(path):
            raise WeightsFileError("is no regular file")
        with BoundedReader(FileIO(path)) as file:
            return _read(path, file, os.fstat(file.fileno()).st_size)


def _read(path: str | os.PathLike, file: BoundedReader, file_bytes: int) -> ForeignWeights:
    head = file.read(1024)
    if head.startswith(ZIP_MAGIC):
        return _read_torch(TorchZip(file, file_bytes), file_bytes)
    if head.startswith(PICKLE_MAGIC):
        return _read_torch(LegacyTorchFile(file, file_bytes), file_bytes)
    if head[8:9] == b"{" and (length := struct.unpack("<Q", head[:8])[0]) < 2**40:
        if length > MAX_SAFETENSORS_HEADER:
            raise WeightsFileError(f"declares a safetensors header of {length:,} bytes")
        return _read_safetensors(path)
    if head.startswith(darknet.MAGIC):
        weights = darknet.parse_darknet(file)
        info = {"version": ".".join(map(str, weights.version)), "seen": weights.seen}
        return ForeignWeights("darknet", {"values": weights.values}, info=info)
    raise WeightsFileError(
        f"{_describe(head)}; expected weights of torch.save, safetensors or darknet"
    )


def _describe(head: bytes) -> str:
    """What a file that holds no weights looks like, judged by its beginning."""
    start = head.lstrip().lower()
    if not head:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer and not the file itself ('git lfs pull' fetches it)"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page (a failed download?)"
    if b"\0" not in head and head.decode("utf-8", errors="replace").count("\ufffd") <= 1:
        return f"is a text file, beginning {shorten(head[:40].decode('utf-8', errors='replace'))}"
    return f"is of unknown format, beginning with the bytes {head[:8].hex(' ')}"


def _read_safetensors(path: str | os.PathLike) -> ForeignWeights:
    tensors = {}
    try:
        with safetensors.safe_open(os.fspath(path), framework="pt") as content:
            metadata = content.metadata() or {}
            for name in content.keys():  # noqa: SIM118 (no dictionary)
                dtype = content.get_slice(name).get_dtype()
                if dtype not in SAFETENSORS_DTYPES:
                    raise WeightsFileError(
                        f"tensor {shorten(name)} has type {dtype}; known: "
                        f"{', '.join(SAFETENSORS_DTYPES)}"
                    )
                tensors[name] = as_plain_tensor(content.get_tensor(name))
    except (safetensors.SafetensorError, RuntimeError) as fault:
        raise WeightsFileError(f"is a damaged or cut off safetensors file ({fault})") from fault
    if not tensors:
        raise WeightsFileError("holds no tensor")
    return ForeignWeights("safetensors", tensors, info={"metadata": metadata} if metadata else {})


def _read_torch(container: TorchZip | LegacyTorchFile, file_bytes: int) -> ForeignWeights:
    saved = container.read_object()
    file, weights, averaged = {}, saved, False
    if type(saved) is dict and ("model" in saved or "ema" in saved):
        file, averaged = saved, saved.get("ema") is not None
        weights = saved["ema"] if averaged else saved.get("model")
    if type(weights) is Inert:
        kind, attributes = "module", weights.attributes
        wanted = _module_tensors(weights)
    elif type(weights) is dict:
        kind, attributes = "state_dict", {}
        wanted = _state_dict_tensors(weights)
        if not averaged and any(key in file for key in DETECTRON2_KEYS):
            kind = "yolor_d2"
    else:
        raise WeightsFileError(
            f"holds something of type {type(weights).__name__} in place of weights; expected a "
            "module or a dictionary of tensors, bare or under 'model' or 'ema'"
        )
    if not wanted:
        raise WeightsFileError("holds no tensor")
    tensors = read_tensors(container, wanted, file_bytes)
    return ForeignWeights(kind, tensors, averaged, _plain_info({**attributes, **file}))


def _state_dict_tensors(weights: dict) -> dict[str, StoredTensor]:
    for name, value in weights.items():
        if type(name) is not str or type(value) is not StoredTensor:
            shown = shorten(name) if type(name) is str else "under a key that is no string"
            raise WeightsFileError(
                f"entry {shown} has type {type(value).__name__}; expected tensors by name, or such "
                "a dictionary or a module under 'model' or 'ema'"
            )
    return weights


def _module_tensors(root: Inert) -> dict[str, StoredTensor]:
    """Parameters and persistent buffers of a pickled module, in the order of torch's state dict.

    A module that stands at several places gives its tensors at each, as in torch. So the tree may
    be larger than the file, and endless if it runs in a circle, hence the bounds.
    """
    tensors: dict[str, StoredTensor] = {}
    num_entries = 0
    pending = [("", root, 0)]
    while pending:
        prefix, module, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise WeightsFileError(
                f"has modules nested deeper than {MAX_DEPTH}, or in a circle, at {shorten(prefix)}"
            )
        parameters, buffers, children, transient = _module_groups(module, prefix)
        num_entries += 1 + len(parameters) + len(buffers) + len(children)
        if num_entries > MAX_ENTRIES:
            raise WeightsFileError(f"has more than {MAX_ENTRIES:,} modules and tensors")
        persistent = {name: value for name, value in buffers.items() if name not in transient}
        tensors.update(_named({**parameters, **persistent}, prefix, StoredTensor))
        below = _named(children, prefix, Inert)
        pending += [(f"{name}.", child, depth + 1) for name, child in reversed(below)]
    return tensors


def _module_groups(module: Inert, prefix: str) -> tuple[dict, dict, dict, set]:
    """Parameters, buffers, submodules and the names of buffers that are not saved."""
    state = module.attributes
    parameters, buffers, children = map(state.get, ("_parameters", "_buffers", "_modules"))
    # torch < 1.6 saved all buffers.
    transient = state.get("_non_persistent_buffers_set", set())
    if not (
        isinstance(parameters, dict)
        and isinstance(buffers, dict)
        and isinstance(children, dict)
        and isinstance(transient, set)
    ):
        raise WeightsFileError(
            f"holds a {shorten(str(module.kind))} as {shorten(prefix) if prefix else 'root'}; "
            "expected a torch module with _parameters, _buffers and _modules"
        )
    return parameters, buffers, children, transient


def _named(group: dict, prefix: str, expected: type) -> list[tuple[str, Any]]:
    """Full names and values of the entries of a module that are not None."""
    named = []
    for name, value in group.items():
        if type(name) is not str or len(name) > MAX_NAME or "." in name:
            raise WeightsFileError(f"module {shorten(prefix)} has an entry of unusable name")
        if value is not None and type(value) is not expected:
            raise WeightsFileError(
                f"entry {shorten(prefix + name)} of the module has type {type(value).__name__}"
            )
        if value is not None:
            named.append((prefix + name, value))
    return named


def _plain_info(attributes: dict) -> dict[str, Any]:
    """Plain numbers and the names of the classes; what is not plain is left out."""
    counters = {key: attributes.get(key) for key in COUNTERS}
    info: dict[str, Any] = {
        key: value
        for key, value in counters.items()
        if type(value) is float or (type(value) is int and abs(value) < 2**63)
    }
    names = attributes.get("names")
    if type(names) is dict and list(names) == list(range(len(names))):
        names = list(names.values())
    if type(names) is list and all(type(n) is str and len(n) <= MAX_NAME for n in names):
        info["names"] = names
    return info
