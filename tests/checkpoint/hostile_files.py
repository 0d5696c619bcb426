"""Weight files made to do harm, for `test_safe_load.py`."""

from __future__ import annotations

import copy
import os
import pickle
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy.testing
import torch
import torch.utils.collect_env
from torch import nn


class Hostile(NamedTuple):
    """How to write a file, given its path and the path of a canary, and why it is refused.

    Who unpickles a file with planted code finds that the canary has been created.
    """

    write: Callable[[Path, Path], Any]
    reason: str


class Reduced:
    """Pickles as a call, and optionally a state for its result."""

    def __init__(self, *reduced: Any):
        self.reduced = reduced

    def __reduce__(self) -> tuple:
        return self.reduced


def planted(make_call: Callable[[Path], tuple], **options: Any) -> Callable[[Path, Path], None]:
    """Writes good weights, and beside them a call."""

    def write(path: Path, canary: Path) -> None:
        call = Reduced(*make_call(canary))
        torch.save({"model": {"weight": torch.zeros(2)}, "optimizer": call}, path, **options)

    return write


def saved(make: Callable[[], Any]) -> Callable[[Path, Path], None]:
    """Writes an object with `torch.save`."""
    return lambda path, canary: torch.save(make(), path)


def pickled(code: bytes, **options: Any) -> Callable[[Path, Path], None]:
    """Writes an archive around a pickle that is spelled out, protocol 2 unless it says another."""
    return lambda path, canary: write_zip(path, code, **options)


def write_zip(
    path: Path,
    code: bytes,
    *,
    storage: bytes = bytes(16),
    more: dict[str, bytes] | None = None,
    compression: int = zipfile.ZIP_STORED,
    copies: int = 0,
) -> None:
    """An archive as torch writes it, with one storage, "0".

    Args:
        path: file to write.
        code: the pickle; "\\x80\\x02" is put before it if there is no protocol.
        storage: bytes of the storage.
        more: other members.
        compression: of all members.
        copies: further names for the last member, whose bytes they share.
    """
    code = code if code[:1] == b"\x80" else b"\x80\x02" + code
    members = {"data.pkl": code, "byteorder": b"little", "data/0": storage, **(more or {})}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
        for index in range(copies):
            info = copy.copy(archive.filelist[-1])
            info.filename = f"archive/data/copy_{index}"
            archive.filelist.append(info)


def text(value: str) -> bytes:
    """Code that pushes a string."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    """Code that pushes an integer."""
    return pickle.dumps(value, 2)[2:-1]


def tensor(
    size: tuple, stride: tuple, *, offset: int = 0, numel: int = 4, kind: str = "Float"
) -> bytes:
    """Code that pushes a tensor on storage "0", whether or not it fits."""
    storage = b"".join(map(text, ("0", "cpu"))) + integer(numel)
    axes = [b"(" + b"".join(map(integer, values)) + b"t" for values in (size, stride)]
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + (b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + storage + b"tQ")
        + integer(offset)
        + b"".join(axes)
        + b"\x89}tR"
    )


def weights(*tensors: bytes) -> bytes:
    """A pickle of tensors by name."""
    return b"}(" + b"".join(text(f"w{i}") + code for i, code in enumerate(tensors)) + b"u."


def circle() -> nn.Module:
    module = nn.Module()
    module._modules["again"] = module
    return module


def module_bomb() -> nn.Module:
    """Ten times the same module in each of 30 levels."""
    module: nn.Module = nn.Linear(1, 1)
    for _ in range(30):
        above = nn.Module()
        for index in range(10):
            above._modules[str(index)] = module
        module = above
    return module


def touch(canary: Path) -> str:
    return f"touch '{canary}'"


def create(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()"


CODE = {
    "os.system": Hostile(planted(lambda c: (os.system, (touch(c),))), "'posix.system'"),
    "os.system, legacy": Hostile(
        planted(lambda c: (os.system, (touch(c),)), _use_new_zipfile_serialization=False),
        "'posix.system'",
    ),
    "os.system, protocol 4": Hostile(
        planted(lambda c: (os.system, (touch(c),)), pickle_protocol=4), "'posix.system'"
    ),
    "os.system, bare pickle": Hostile(
        lambda path, c: path.write_bytes(pickle.dumps(Reduced(os.system, (touch(c),)))),
        "'posix.system'",
    ),
    "eval": Hostile(planted(lambda c: (eval, (create(c),))), "'__builtin__.eval'"),
    "exec": Hostile(planted(lambda c: (exec, (create(c),))), "'__builtin__.exec'"),
    "subprocess": Hostile(
        planted(lambda c: (subprocess.check_call, (["touch", str(c)],))), "check_call'"
    ),
    "numpy": Hostile(
        planted(lambda c: (numpy.testing.runstring, (create(c), {}))), "'numpy.*runstring'"
    ),
    "numpy.load": Hostile(planted(lambda c: (numpy.load, (str(c),))), r"'numpy\S*load'"),
    "torch": Hostile(
        planted(lambda c: (torch.utils.collect_env.run, (touch(c),))),
        "'torch.utils.collect_env.run'",
    ),
    "torch.load": Hostile(planted(lambda c: (torch.load, (str(c),))), "'torch.serialization.load'"),
    "torch.hub.load": Hostile(
        planted(lambda c: (torch.hub.load, (str(c), "model"))), "'torch.hub.load'"
    ),
    "getattr": Hostile(pickled(b"cbuiltins\ngetattr\n(cos\nsystem\ntR."), "'builtins.getattr'"),
    "name behind a package": Hostile(
        pickled(b"cmodels.yolo\nos.system\n)R."), "names 'models.yolo.os.system'"
    ),
    "method": Hostile(pickled(b"ctorch.nn\nModule.load\n)R."), "names 'torch.nn.Module.load'"),
    "look-alike package": Hostile(pickled(b"cmodelsx\nModel\n)\x81."), "names 'modelsx.Model'"),
    "__main__": Hostile(pickled(b"c__main__\nModel\n)\x81."), "names '__main__.Model'"),
    "call of a result": Hostile(pickled(b"cmodels.yolo\nrun\n)R)R."), "no named class"),
    "extension registry": Hostile(pickled(b"\x82\x01."), "EXT1"),
    "INST": Hostile(pickled(b"(ios\nsystem\n."), "INST"),
}

MANY = 500_000
BOMBS = {
    "zip bomb": Hostile(
        lambda path, c: write_zip(
            path,
            weights(tensor((2**25,), (1,), numel=2**25)),
            storage=bytes(2**27),
            compression=zipfile.ZIP_DEFLATED,
        ),
        "compressed",
    ),
    "overlapping members": Hostile(
        pickled(weights(tensor((4,), (1,))), storage=bytes(2**20), copies=1000), "declare"
    ),
    "large directory": Hostile(pickled(b"}.", storage=b"", copies=80_000), "directory"),
    "slices of one storage": Hostile(
        pickled(
            weights(*[tensor((2**18,), (1,), numel=2**18)] * 1000),
            storage=bytes(2**20),
        ),
        "times the file",
    ),
    "expanded tensor": Hostile(pickled(weights(tensor((2**30,), (0,)))), "outside"),
    "huge tensor": Hostile(pickled(weights(tensor((2**20, 2**20), (2**20, 1)))), "outside"),
    "huge empty tensor": Hostile(
        pickled(weights(tensor((0, 2**40, 2**40), (1, 1, 1)))), "more than"
    ),
    "huge storage": Hostile(
        pickled(weights(tensor((2**38,), (1,), numel=2**38))), "times the file"
    ),
    "huge numbers": Hostile(
        pickled(weights(tensor((1 << 2**25, 1 << 2**25), (1, 1)))), "malformed tensor"
    ),
    "large memo number": Hostile(pickled(b"Nr\xff\xff\xff\xff."), "NoneType"),
    "nested tuple as a key": Hostile(pickled(b"})" + b"\x85" * MANY + b"Ns."), "no string"),
    "nested lists": Hostile(
        pickled(b"]" * (MANY // 2) + b"a" * (MANY // 2 - 1) + b"."), "of type list"
    ),
    "many sets": Hostile(pickled(b"\x80\x04(" + b"\x8f" * 8 * MANY + b"t."), "steps"),
    "many dictionaries": Hostile(pickled(b"(" + b"}" * 8 * MANY + b"t."), "steps"),
    "copies of a set": Hostile(
        pickled(
            b"]("
            + b"".join(map(integer, range(10_000)))
            + b"eq\x00"
            + b"c__builtin__\nset\nh\x00\x85R" * 10_000
            + b"."
        ),
        "steps",
    ),
    "copies of a dictionary": Hostile(
        pickled(
            b"]("
            + b"".join(integer(i) + b"N\x86" for i in range(10_000))
            + b"eq\x00"
            + b"ccollections\nOrderedDict\nh\x00\x85R" * 10_000
            + b"."
        ),
        "steps",
    ),
    "keys of one hash": Hostile(
        pickled(
            b"}(" + b"".join(integer(i * (2**61 - 1)) + b"N" for i in range(1, 50_000)) + b"u."
        ),
        "no string",
    ),
    "endless frame": Hostile(pickled(b"\x80\x04\x95" + b"\xff" * 7 + b"\x7fN."), "NoneType"),
    "endless string": Hostile(pickled(b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fN."), "cut off"),
    "large pickle": Hostile(
        lambda path, c: write_zip(path, b"N0" * (34 * MANY) + b"N."), "larger than"
    ),
    "circle of modules": Hostile(saved(circle), "circle"),
    "module bomb": Hostile(saved(module_bomb), "modules and tensors"),
}

MISFITS = {
    "behind its storage": Hostile(pickled(weights(tensor((4,), (1,), offset=1))), "outside"),
    "before its storage": Hostile(pickled(weights(tensor((2,), (1,), offset=-1))), "malformed"),
    "negative stride": Hostile(pickled(weights(tensor((2,), (-1,), offset=1))), "malformed"),
    "stride that leaves": Hostile(pickled(weights(tensor((2, 2), (3, 1)))), "outside"),
    "axes without strides": Hostile(pickled(weights(tensor((2, 2), (1,)))), "malformed"),
    "size as a string": Hostile(
        pickled(weights(tensor((2,), (1,)).replace(integer(2) + b"t", text("2") + b"t"))),
        "malformed",
    ),
    "storage larger than its member": Hostile(
        pickled(weights(tensor((5,), (1,), numel=5))), "16 bytes, 20 are declared"
    ),
    "storage without a member": Hostile(
        pickled(weights(tensor((4,), (1,)).replace(text("0"), text("../0")))), "missing"
    ),
    "storage of complex numbers": Hostile(
        saved(lambda: {"a": torch.zeros(2, dtype=torch.complex64)}),
        "tensors of 'torch.ComplexFloatStorage'",
    ),
    "quantized tensor": Hostile(
        pickled(weights(b"ctorch._utils\n_rebuild_qtensor\n)R")),
        "tensors of 'torch._utils._rebuild_qtensor'",
    ),
    "sparse tensor": Hostile(
        saved(lambda: {"a": torch.eye(2).to_sparse()}),
        "tensors of 'torch._utils._rebuild_sparse_tensor'",
    ),
    "storage of two types": Hostile(
        pickled(weights(tensor((4,), (1,)), tensor((4,), (1,), kind="Int"))), "two ways"
    ),
    "state that is no dictionary": Hostile(
        saved(lambda: Reduced(nn.Module, (), [1])), "torch.nn.modules.module.Module"
    ),
    "submodule that is none": Hostile(
        saved(lambda: Reduced(nn.Module, (), {**vars(nn.Module()), "_modules": {"a": [1]}})),
        "'a' of the module has type list",
    ),
    "parameter that is none": Hostile(
        saved(lambda: Reduced(nn.Module, (), {**vars(nn.Module()), "_parameters": {"a": 1}})),
        "'a' of the module has type int",
    ),
    "escape in a name": Hostile(pickled(b"cmodels.yolo\nMo\\hdel\n)R."), "damaged"),
    "big-endian": Hostile(
        pickled(weights(tensor((4,), (1,))), more={"byteorder": b"big"}),
        "big-endian",
    ),
}

HOSTILE = {**CODE, **BOMBS, **MISFITS}
