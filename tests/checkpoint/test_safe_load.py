"""Reading weight files of others: what comes out, and what is refused."""

from __future__ import annotations

import json
import re
import struct
import sys
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from checkpoint.hostile_files import CODE, HOSTILE, write_zip
from safetensors.torch import save_file

from yolor_d2.checkpoint.errors import WeightsFileError
from yolor_d2.checkpoint.formats.darknet import read_darknet
from yolor_d2.checkpoint.formats.load import read_weights


@contextmanager
def foreign_module(name: str, **classes: type) -> Iterator[None]:
    """Classes that can be pickled as `name.<class>` inside, and are unknown outside."""
    package = name.split(".")[0]
    module = types.ModuleType(name)
    for class_name, made in classes.items():
        made.__module__, made.__qualname__ = name, class_name
        setattr(module, class_name, made)
    sys.modules |= {package: sys.modules.get(package, types.ModuleType(package)), name: module}
    try:
        yield
    finally:
        for added in {package, name}:
            del sys.modules[added]


class Block(nn.Module):
    def __init__(self, channels: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.SiLU()


class Model(nn.Module):
    """A model as the YOLOR repository pickles it: a list of layers, and plain attributes."""

    def __init__(self):
        super().__init__()
        shared = Block()
        self.model = nn.Sequential(Block(), shared, nn.ModuleList([shared, nn.Upsample()]))
        self.register_buffer("anchors", torch.tensor([[4.0, 8.0]]))
        self.register_buffer("grid", torch.zeros(5), persistent=False)
        self.register_buffer("absent", None)
        self.register_parameter("none", None)
        self.names, self.nc = ["cat", "dog"], 2
        self.yaml = {"nc": 2, "backbone": [[-1, 1, "Conv", [3]]]}


def save_model(path: Path, model: nn.Module, *, legacy: bool = False, **entries: object) -> Path:
    """A checkpoint with a pickled module, whose classes are unknown afterwards."""
    checkpoint = {
        "epoch": -1,
        "best_fitness": np.array([0.5]),
        "best_fitness_p": np.float64(0.25),
        "training_results": None,
        "model": model,
        "optimizer": None,
        **entries,
    }
    with foreign_module("models.yolo", Model=Model, Block=Block), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Couldn't retrieve source code")
        torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    assert "models" not in sys.modules
    return path


def random_model(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    model = Model()
    for tensor in model.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else torch.tensor(7))
    return model


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Same names in the same order, and numbers; floats as float32, each with its own memory."""
    assert list(found) == list(expected)
    for name, tensor in found.items():
        wanted = expected[name].detach()
        wanted = wanted.float() if wanted.is_floating_point() else wanted
        torch.testing.assert_close(tensor, wanted, rtol=0, atol=0)
        assert tensor.is_contiguous() and not tensor.requires_grad
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.itemsize
    pointers = [tensor.data_ptr() for tensor in found.values() if tensor.numel()]
    assert len(set(pointers)) == len(pointers)


def tensors_of_all_kinds() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return OrderedDict(
        whole=base,
        part=base[1:3, ::2],
        transposed=base.t(),
        half=torch.tensor([0.1, 65504.0], dtype=torch.float16),
        bfloat=torch.tensor([0.1, 3e38], dtype=torch.bfloat16),
        double=torch.tensor([0.5], dtype=torch.float64),
        counter=torch.tensor(2**40),
        byte=torch.arange(256, dtype=torch.uint8),
        flag=torch.tensor([True, False]),
        empty=torch.empty(0, 3),
        parameter=nn.Parameter(torch.ones(2)),
    )


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_of_all_kinds(tmp_path, legacy, protocol):
    expected = tensors_of_all_kinds()
    path = tmp_path / "weights.pt"
    torch.save(expected, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    weights = read_weights(path)
    assert (weights.kind, weights.averaged, weights.info) == ("state_dict", False, {})
    assert_same(weights.tensors, expected)


def test_state_dict_in_checkpoint(tmp_path):
    expected = Block().state_dict()  # with the attribute `_metadata`
    path = tmp_path / "yolor_p6.pt"
    torch.save(
        {"epoch": 299, "best_fitness": np.array([0.5]), "model": expected, "optimizer": None}, path
    )
    weights = read_weights(path)
    assert (weights.kind, weights.averaged, weights.info) == ("state_dict", False, {"epoch": 299})
    assert_same(weights.tensors, expected)


def test_own_checkpoint(tmp_path):
    expected = Block().state_dict()
    path = tmp_path / "model_final.pth"
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1).state_dict()
    torch.save({"model": expected, "trainer": {"optimizer": optimizer}, "iteration": 5}, path)
    weights = read_weights(str(path))
    assert (weights.kind, weights.averaged, weights.info) == ("yolor_d2", False, {"iteration": 5})
    assert_same(weights.tensors, expected)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_module(tmp_path, legacy):
    model = random_model()
    expected = OrderedDict(
        (name, t.half()) if t.is_floating_point() else (name, t)
        for name, t in model.state_dict().items()
    )
    path = save_model(tmp_path / "yolor-p6.pt", model.half(), legacy=legacy)
    weights = read_weights(path)
    assert (weights.kind, weights.averaged) == ("module", False)
    assert weights.info == {"epoch": -1, "nc": 2, "names": ["cat", "dog"]}
    assert_same(weights.tensors, expected)
    assert "grid" not in weights.tensors
    assert "model.2.0.conv.weight" in weights.tensors  # the second place of the shared block
    assert "models" not in sys.modules


def test_bare_module(tmp_path):
    block = Block()
    path = tmp_path / "init.pt"
    with foreign_module("utils.layers", Block=Block):
        torch.save(nn.Sequential(block), path)
    weights = read_weights(path)
    assert weights.kind == "module"
    assert_same(weights.tensors, {f"0.{key}": value for key, value in block.state_dict().items()})


def test_moving_average_comes_first(tmp_path):
    model, ema = random_model(0), random_model(1)
    weights = read_weights(save_model(tmp_path / "a.pt", model, ema=ema, updates=12))
    assert weights.averaged and weights.info["updates"] == 12
    assert_same(weights.tensors, ema.state_dict())
    weights = read_weights(save_model(tmp_path / "b.pt", model, ema=ema.state_dict()))
    assert weights.averaged and weights.kind == "state_dict"
    assert_same(weights.tensors, ema.state_dict())
    weights = read_weights(save_model(tmp_path / "c.pt", model, ema=None))
    assert not weights.averaged
    assert_same(weights.tensors, model.state_dict())


def test_only_wanted_storages_are_read(tmp_path):
    """The optimizer is described in the pickle; its numbers may even be missing."""
    path, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    torch.save({"model": {"weight": torch.ones(3)}, "optimizer": [torch.ones(5)]}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(cut, "w") as target:
        for name in source.namelist():
            if not name.endswith("data/1"):
                target.writestr(name, source.read(name))
    assert read_weights(cut).tensors["weight"].tolist() == [1, 1, 1]


def test_class_names_by_number(tmp_path):
    model = random_model()
    model.names = {0: "cat", 1: "dog"}
    assert read_weights(save_model(tmp_path / "a.pt", model)).info["names"] == ["cat", "dog"]
    model.names = ["cat", 1]
    assert "names" not in read_weights(save_model(tmp_path / "b.pt", model)).info


def test_safetensors(tmp_path):
    expected = {name: t.detach().clone() for name, t in tensors_of_all_kinds().items()}
    expected = {name: t.contiguous() for name, t in expected.items()}
    path = tmp_path / "model.safetensors"
    save_file(expected, path, metadata={"format": "pt"})
    weights = read_weights(path)
    assert (weights.kind, weights.info) == ("safetensors", {"metadata": {"format": "pt"}})
    assert_same(dict(sorted(weights.tensors.items())), dict(sorted(expected.items())))


def test_safetensors_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(4).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(WeightsFileError, match="'a' has type F8_E4M3"):
        read_weights(path)
    save_file({"a": torch.zeros(4)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(WeightsFileError, match="cut off safetensors"):
        read_weights(path)
    path.write_bytes(struct.pack("<Q", 2**33) + whole[8:])
    with pytest.raises(WeightsFileError, match="header of 8,589,934,592 bytes"):
        read_weights(path)


def darknet_bytes(*values: float, version: tuple = (0, 2, 5), seen: int = 32013312) -> bytes:
    return struct.pack(f"<3iq{len(values)}f", *version, seen, *values)


def test_darknet(tmp_path):
    path = tmp_path / "yolor_csp.weights"
    path.write_bytes(darknet_bytes(1.0, -2.5, 0.125))
    found = read_darknet(path)
    assert (found.version, found.seen) == ((0, 2, 5), 32013312)
    assert found.values.tolist() == [1.0, -2.5, 0.125] and found.values.dtype == torch.float32
    weights = read_weights(path)
    assert weights.kind == "darknet" and weights.info == {"version": "0.2.5", "seen": 32013312}
    assert_same(weights.tensors, {"values": found.values})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (darknet_bytes(1.0)[:-1], "cut off: 3 bytes"),
        (darknet_bytes(), "cut off: 0 bytes"),
        (darknet_bytes(1.0)[:16], "has 16 bytes; the header of darknet weights takes 20"),
        (darknet_bytes(1.0, seen=-1), "damaged"),
        (darknet_bytes(1.0, version=(0, 1, 0)), "version 0.1; expected 0.2"),
        (b"<!DOCTYPE html><html></html>", "no darknet file"),
    ],
)
def test_darknet_refused(tmp_path, content, reason):
    path = tmp_path / "model.weights"
    path.write_bytes(content)
    with pytest.raises(WeightsFileError, match=f"^{re.escape(str(path))}: .*{reason}"):
        read_darknet(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"weights come here\n", "is a text file, beginning 'weights come here"),
        ("Gewichte für später\n".encode(), "is a text file"),
        (b"\n<!DOCTYPE html>\n<html><title>Quota exceeded</title>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "unknown format, beginning with the bytes 89 48 44 46"),
        (b"PK\x03\x04" + bytes(100), "cut off zip archive"),
        (b"\x80\x02K\x01.", "is a pickle, but none of torch.save"),
        (b"\x80", "cut off"),
        (b"\x80\x02K", "cut off"),
    ],
)
def test_other_files_are_named(tmp_path, content, reason):
    path = tmp_path / "yolor-p6.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsFileError, match=f"^{re.escape(str(path))}: .*{reason}"):
        read_weights(path)


def test_other_content_is_named(tmp_path):
    path = tmp_path / "file.pt"
    for content, reason in (
        ({}, "holds no tensor"),
        ({"model": None}, "type NoneType in place of weights"),
        ({"model": {}, "ema": None}, "holds no tensor"),
        ({"model": {"a": 1}}, "entry 'a' has type int"),
        ({1: torch.zeros(1)}, "a key that is no string"),
        ({"state": {"a": torch.zeros(1)}}, "entry 'state' has type dict"),
        ([torch.zeros(1)], "type list in place of weights"),
        (nn.Identity(), "holds no tensor"),
    ):
        torch.save(content, path)
        with pytest.raises(WeightsFileError, match=reason):
            read_weights(path)
    torch.jit.save(torch.jit.script(nn.Linear(1, 1)), path)
    with pytest.raises(WeightsFileError, match="TorchScript"):
        read_weights(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "")
    with pytest.raises(WeightsFileError, match=r"none of torch\.save"):
        read_weights(path)
    with pytest.raises(WeightsFileError, match="no regular file"):
        read_weights(tmp_path)
    with pytest.raises(WeightsFileError, match="no regular file"):
        read_weights("/dev/zero")
    with pytest.raises(FileNotFoundError):
        read_weights(tmp_path / "absent.pt")


# Reads each file and tells the outcome, the CPU time and how far memory rose above what the imports
# take, which is almost a gigabyte where torch comes with its GPU libraries.
READ_ALL = """
import json, resource, sys, time
from pathlib import Path
from yolor_d2.checkpoint.formats.load import WeightsFileError, read_weights

def megabytes(field):
    return int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0]) // 1024

resource.setrlimit(resource.RLIMIT_DATA, (4 * 2**30, 4 * 2**30))
imported = megabytes("VmRSS")
for path in sys.argv[1:]:
    start = time.process_time()
    try:
        outcome = f"read {read_weights(path).kind}"
    except WeightsFileError as fault:
        outcome = f"refused {fault}"
    except BaseException as fault:
        outcome = f"raised {fault!r}"
    seconds = time.process_time() - start
    print(json.dumps([outcome, seconds, megabytes("VmHWM") - imported]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, tuple[str, float, int]]:
    """(outcome, CPU seconds, MB used at most so far) of each hostile file, read in one process."""
    folder = tmp_path_factory.mktemp("hostile")
    paths = {name: folder / f"{index}.pt" for index, name in enumerate(HOSTILE)}
    for name, path in paths.items():
        HOSTILE[name].write(path, folder / "canary")
    assert not (folder / "canary").exists()
    done = processes.run(["-c", READ_ALL, *paths.values()])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(paths), done.stderr
    assert not (folder / "canary").exists()
    return dict(zip(paths, map(tuple, lines)))


@pytest.mark.heavy
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_refused(outcomes, name):
    outcome, seconds, used = outcomes[name]
    assert outcome.startswith("refused "), outcome
    assert re.search(HOSTILE[name].reason, outcome), outcome
    assert re.search(r"/\d+\.pt: ", outcome), outcome
    assert seconds < 5
    assert used < 256


@pytest.mark.parametrize("name", ["os.system", "os.system, legacy", "eval", "numpy", "torch"])
def test_planted_code_is_real(tmp_path, name):
    """Without the reader such a file does run its code."""
    path, canary = tmp_path / "weights.pt", tmp_path / "canary"
    CODE[name].write(path, canary)
    torch.load(path, weights_only=False)
    assert canary.exists()


def test_damaged_numbers_are_noticed(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.full((64,), 1.5)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<64f", *[1.5] * 64)) + 7] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsFileError, match="Bad CRC-32"):
        read_weights(path)


def test_cut_off_legacy_file(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(
        {"a": torch.zeros(8), "b": torch.zeros(8)}, path, _use_new_zipfile_serialization=False
    )
    whole = path.read_bytes()
    for missing in (1, 32, 36, 60, 75, 80):  # a storage takes 8 + 32 bytes
        path.write_bytes(whole[:-missing])
        with pytest.raises(WeightsFileError, match="cut off"):
            read_weights(path)


def test_member_names_do_not_leave_the_archive(tmp_path):
    path = tmp_path / "weights.pt"
    write_zip(path, b"}.", more={"../../canary": b"x"})
    with pytest.raises(WeightsFileError, match="holds no tensor"):
        read_weights(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.pt"]


@pytest.fixture(scope="module")
def good_files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    path = folder / "file"
    small = {"weight": torch.arange(6.0).half().reshape(2, 3), "count": torch.tensor(3)}
    files = {}
    for legacy in (False, True):
        files[f"module {legacy}"] = save_model(path, random_model(), legacy=legacy).read_bytes()
        if not legacy:
            with zipfile.ZipFile(path) as archive:
                files["pickle"] = archive.read("file/data.pkl")
        torch.save({"model": small, "epoch": 1}, path, _use_new_zipfile_serialization=not legacy)
        files[f"state dict {legacy}"] = path.read_bytes()
    save_file(small, path)
    files["safetensors"] = path.read_bytes()
    files["darknet"] = darknet_bytes(1.0, 2.0, 3.0)
    return files


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "file.pt"


@pytest.mark.parametrize(
    "name",
    [
        *("module False", "module True", "state dict False", "state dict True"),
        *("pickle", "safetensors", "darknet"),
    ],
)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_gives_tensors_or_the_one_error(good_files, scratch, name, data):
    """Bytes changed, removed from the end, or both."""
    content = bytearray(good_files[name])
    places = st.integers(0, len(content) - 1)
    # Much of a file is numbers and padding; the first bytes and the last hold the structure.
    places |= st.integers(0, min(len(content), 200) - 1)
    places |= st.integers(max(0, len(content) - 200), len(content) - 1)
    for place, value in data.draw(
        st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)
    ):
        content[place] = value
    end = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    if name == "pickle":  # with a new checksum, so that the damage is read
        storages = {f"data/{index}": bytes(400) for index in range(40)}
        write_zip(scratch, content[:end], more=storages)
    else:
        scratch.write_bytes(content[:end])
    try:
        weights = read_weights(scratch)
    except WeightsFileError as fault:
        assert str(fault).startswith(f"{scratch}: ")
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in weights.tensors.values())


@pytest.mark.heavy
@settings(max_examples=200, deadline=None)
@given(code=st.binary(max_size=60), prefix=st.sampled_from([b"", b"}", b"](", b"ctorch\nSize\n("]))
def test_any_pickle_gives_tensors_or_the_one_error(scratch, code, prefix):
    write_zip(scratch, prefix + code + b".")
    with suppress(WeightsFileError):
        read_weights(scratch)
