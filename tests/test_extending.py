"""docs/extending.md does what it says: its module is found, trains, is saved, loaded, folded and
exported."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2 import layers, model_zoo, networks, own_modules
from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.config import load_config
from yolor_d2.d2.modeling import build_model
from yolor_d2.d2.structures import Boxes, Instances
from yolor_d2.export import export_model
from yolor_d2.export.graph import FileOptions
from yolor_d2.export.verify import Batch
from yolor_d2.layers.fuse import fuse_for_inference
from yolor_d2.modeling import YOLOR_HEAD_REGISTRY
from yolor_d2.predictor import load_model

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
REGISTRIES = (
    layers.OPERATORS,
    layers.REPRESENTATIONS,
    layers.SCOPES,
    layers.ACTIVATIONS,
    layers.DOWNSAMPLES,
    layers.SPPS,
    networks.OUTPUTS,
    networks.STAGES,
    networks.STEM_LAYERS,
    YOLOR_HEAD_REGISTRY._obj_map,
)


@contextmanager
def registries_left_alone():
    before = [dict(registry) for registry in REGISTRIES]
    try:
        yield
    finally:
        for registry, items in zip(REGISTRIES, before):
            registry.clear()
            registry.update(items)


def write_page(folder: Path) -> Path:
    """my_parts.py and mine.yaml of the page; the latter's base by its path."""
    parts = [block for block in BLOCKS if block.startswith("# my_parts.py\n")]
    assert len(parts) == 7
    (folder / "my_parts.py").write_text("\n".join(parts), encoding="utf-8")
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    node = yaml.safe_load(text)
    node["_BASE_"] = str(model_zoo.config_root() / node["_BASE_"])
    (folder / "mine.yaml").write_text(yaml.safe_dump(node), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Folder with the files of the page, its module imported."""
    folder = write_page(tmp_path_factory.mktemp("page"))
    with registries_left_alone(), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        importlib.import_module("my_parts")
        yield folder
    del sys.modules["my_parts"]


def truth(size: int) -> Instances:
    found = Instances((size, size), gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 30.0, 40.0]])))
    found.gt_classes = torch.tensor([3])
    return found


@pytest.mark.heavy
@pytest.mark.parametrize("head", ["ImplicitAnchorHead", "DecoupledHead"])
def test_the_page_trains_saves_loads_folds_and_exports(page, tmp_path, head):
    cfg = load_config(page / "mine.yaml", ["MODEL.DEVICE", "cpu", "MODEL.YOLOR.HEAD", head])
    torch.manual_seed(0)
    model = build_model(cfg)
    image = torch.randint(0, 256, (3, 64, 64)).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        sum(model([{"image": image, "instances": truth(64)}]).values()).backward()
        optimizer.step()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():  # far from neutral, so that folding has something to do
        for name, parameter in model.named_parameters():
            if name.endswith((".c", ".z")):
                parameter.uniform_(-1, 1)
    model.eval()

    YOLORCheckpointer(model, str(tmp_path)).save("model_final")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    loaded = load_model(cfg)
    fused = fuse_for_inference(loaded)
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected, again, folded = (m.run_network(pixels)[1] for m in (model, loaded, fused))
    for one, same, other in zip(expected, again, folded):
        assert torch.equal(one, same)
        assert (one - other).abs().max() <= 1e-5 * one.abs().max()

    kept = fused.fusion_report.kept
    gates = [name for name in kept if ".top_down_implicit." in name]
    assert len(gates) == 3 and all("'gate' has no affine map" in kept[name] for name in gates)
    classes = {type(module).__name__ for module in fused.modules()}
    if head == "ImplicitAnchorHead":  # the gain in front of its convolution is gone
        assert set(kept) == set(gates) | {n for n in kept if "norm" in n}
        assert "CosineImplicit" not in classes
    else:
        assert not any(name.startswith("head.") for name in kept)
        assert "NetworkImplicit" not in classes
    report = export_model(
        cfg,
        loaded,
        tmp_path / "mine.torchscript",
        file_format="torchscript",
        options=FileOptions(suppress=False),
        batches=[Batch("noise", [image])],
    )
    assert report["checks"]


def test_the_last_block_tells_what_is_folded(page, monkeypatch, capsys):
    monkeypatch.chdir(page)
    (block,) = (block for block in BLOCKS if block.startswith("# which layers were folded"))
    exec(block, {})
    printed = capsys.readouterr().out
    assert re.search(r"\d+ layers folded into convolutions", printed)
    assert "'gate' has no affine map" in printed and "gain" not in printed


def test_what_the_same_lines_define_again_replaces_itself(page):
    source = (page / "my_parts.py").read_text(encoding="utf-8")
    before = YOLOR_HEAD_REGISTRY._obj_map.pop("DecoupledHead")  # fvcore's takes a name once
    exec(compile(source, "my_parts.py", "exec"), {"__name__": "my_parts"})
    YOLOR_HEAD_REGISTRY._obj_map["DecoupledHead"] = before
    with pytest.raises(ValueError, match="'gain' is already the name of operator"):
        layers.register_operator("gain")(type("Other", (layers.Operator,), {}))


@pytest.mark.parametrize(
    ("register", "name"),
    [
        (layers.register_operator, "vector"),
        (layers.register_operator, "two words"),
        (layers.register_operator, "none"),
        (layers.register_representation, "add"),
        (layers.register_scope, "mul"),
        (layers.DOWNSAMPLES.register, "conv"),
        (networks.STAGES.register, "residual"),
    ],
)
def test_a_name_that_means_something_else_is_refused(register, name):
    with registries_left_alone(), pytest.raises(ValueError, match=re.escape(repr(name))):
        register(name)(type("Mine", (layers.Operator,), {}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.YOLOR.IMPLICIT.FEATURE_ALIGNMENT", "nowhere"),
        ("MODEL.YOLOR.STEM", "[['nowhere', 8], ['s2d'], ['s2d']]"),
        ("MODEL.YOLOR.STAGES", "[[64, 1, 'nowhere'], [96, 1], [128, 1]]"),
        ("MODEL.YOLOR.DOWNSAMPLE", "nowhere"),
        ("MODEL.YOLOR.SPP", "['nowhere']"),
        ("MODEL.YOLOR.NECK_BLOCK", "nowhere"),
        ("MODEL.YOLOR.NECK_OUTPUT", "nowhere"),
        ("MODEL.YOLOR.ACTIVATION", "nowhere"),
    ],
)
def test_what_is_not_registered_leads_to_the_option(key, value):
    cfg = load_config("yolor_ssss_s2d.yaml", ["MODEL.DEVICE", "cpu", key, value])
    with pytest.raises(ValueError, match=r"--import MODULE \(docs/extending.md\)"):
        build_model(cfg)


# ---- --import


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_parts", "--import: no module 'no_such_parts'"),
        ("parts/mine.py", "expected the name of a module, as after `import`: 'mine'"),
        ("os; print", "expected the name of a module"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(name, message, monkeypatch):
    monkeypatch.setenv(own_modules.ENVIRONMENT_VARIABLE, "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises((ValueError, ModuleNotFoundError), match=re.escape(message)):
        own_modules.announce([name])


def run_python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.heavy
def test_processes_inherit_what_a_command_imports(tmp_path):
    write_page(tmp_path)
    code = """
import yolor_d2.d2.modeling, yolor_d2.layers as layers
assert yolor_d2.d2.modeling.META_ARCH_REGISTRY.get("YOLOR")
assert "gain" in layers.OPERATORS
"""
    environment = {"YOLOR_D2_IMPORT": "my_parts", "YOLOR_D2_RUNTIME": "builtin"}
    done = run_python(code, tmp_path, **environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path, toy):
    write_page(tmp_path)
    for name, target in {
        "train.json": toy.train_json,
        "val.json": toy.val_json,
        "images": toy.train_images.parent,
        "photos": toy.val_images,
    }.items():
        (tmp_path / name).symlink_to(target)
    text = re.sub(r" *\\\n *", " ", PAGE)
    commands = re.findall(r"^    yolor-d2 (.*)$", text, re.M)
    assert [x.split()[0] for x in commands] == ["train", "predict", "train", "train"]
    small = "SOLVER.IMS_PER_BATCH 2 SOLVER.MAX_ITER 2 SOLVER.MAX_EPOCHS 0 TEST.EVAL_EPOCHS 0"
    small += (
        " MODEL.DEVICE cpu INPUT.MAX_SIZE_TRAIN 64 INPUT.MIN_SIZE_TRAIN 64, INPUT.MIN_SIZE_TEST 64"
    )
    small += " INPUT.MAX_SIZE_TEST 64 DATALOADER.NUM_WORKERS 0 TEST.REPORT False"
    train, predict, *_ = commands
    for command in (f"{train} {small}", predict.replace("model_best", "model_final")):
        code = f"import sys; from yolor_d2.cli import main; sys.exit(main({command.split()!r}))"
        images = code.replace("'images/'", repr(str(toy.train_images) + "/"), 1)
        images = images.replace("'images/'", repr(str(toy.val_images) + "/"), 1)
        done = run_python(images, tmp_path)
        assert done.returncode == 0, done.stderr[-3000:]
    assert list((tmp_path / "found").glob("*.jpg"))
    saved = torch.load(tmp_path / "output" / "mine" / "model_final.pth", weights_only=True)
    assert "backbone.neck.align.0.c" in saved["model"]
