"""Files in the form of every foreign format, made from random weights, and what becomes of them."""

import json
import logging
import math
import sys
import types
from dataclasses import replace

import numpy as np
import processes
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from yolor_d2 import model_zoo
from yolor_d2.checkpoint import WeightsFileError, YOLORCheckpointer, convert_checkpoint
from yolor_d2.checkpoint.conversion.classes import keep_class_rows
from yolor_d2.checkpoint.conversion.parts import parts_of, to_meta_arch
from yolor_d2.config import load_config
from yolor_d2.d2.modeling import build_model
from yolor_d2.networks import build_network, get_variant
from yolor_d2.networks.variant import without_implicit

SMALL = "yolor_ssss_s2d"  # form Y
# The layout of YOLOR-CSP, narrow and shallow; form D.
TINY_D = replace(
    get_variant("yolor_csp"),
    stem=(("conv", 8, 3, 1), ("conv", 8, 3, 2)),
    stages=((8, 1, "residual"), (8, 1), (16, 2), (16, 1), (24, 1)),
    neck_widths=(8, 8, 16),
    neck_units=1,
)


def random_network(variant, num_classes=80, seed=0):
    """A network whose running statistics and implicit knowledge differ from their start too."""
    torch.manual_seed(seed)
    network = build_network(variant, num_classes)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.add_(torch.rand_like(value) * 0.1)
    return network


def foreign_state(network, scheme):
    names = parts_of(network).names(scheme)
    return {names[key]: value.clone() for key, value in network.state_dict().items()}


def assert_same(state, network):
    expected = network.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


def pickled_module_file(path, state, **others):
    """A file like those of branch `paper`: a whole pickled module, of classes we do not have."""
    module_name = "models.yolo"
    parent, child = types.ModuleType("models"), types.ModuleType(module_name)
    child.Model = type("Model", (nn.Module,), {"__module__": module_name})
    sys.modules.update({"models": parent, module_name: child})
    try:
        root = child.Model()
        for name, value in state.items():
            *folders, last = name.split(".")
            module = root
            for folder in folders:
                if folder not in module._modules:
                    module.add_module(folder, child.Model())
                module = module._modules[folder]
            if value.is_floating_point() and "running" not in last:
                module.register_parameter(last, nn.Parameter(value))
            else:
                module.register_buffer(last, value)
        file = {"epoch": -1, "best_fitness": np.array([0.5]), "model": root.half(), **others}
        torch.save(file, path)
    finally:
        del sys.modules["models"], sys.modules[module_name]


def darknet_file(path, network):
    """Numbers in the order of the layers, as the state dict of branch `main` lists them."""
    state = foreign_state(network, "cfg")
    layers = {}
    for name, value in state.items():
        _, number, field = name.split(".", 2)
        layers.setdefault(int(number), {})[field] = value
    numbers = []
    for number in sorted(layers):
        layer = layers[number]
        if "BatchNorm2d.bias" in layer:
            parts = ("bias", "weight", "running_mean", "running_var")
            numbers += [layer[f"BatchNorm2d.{part}"] for part in parts]
        else:
            numbers.append(layer["Conv2d.bias"])
        numbers.append(layer["Conv2d.weight"])
    with open(path, "wb") as file:
        file.write(np.array([0, 2, 5], dtype=np.int32).tobytes())
        file.write(np.array([0], dtype=np.int64).tobytes())
        file.write(torch.cat([x.flatten() for x in numbers]).numpy().tobytes())


# ---- Formats


@pytest.mark.heavy
def test_pickled_module_of_branch_paper(tmp_path):
    network = random_network(SMALL).half().float()  # published files are in half precision
    state = foreign_state(network, "yaml")
    anchors = network.anchors
    state["model.28.anchors"] = anchors / torch.tensor([8, 16, 32]).view(3, 1, 1)
    state["model.28.anchor_grid"] = anchors.view(3, 1, 3, 1, 1, 2)
    pickled_module_file(tmp_path / "a.pt", state)
    assert_same(convert_checkpoint(tmp_path / "a.pt", SMALL), network)


@pytest.mark.heavy
def test_the_moving_average_is_preferred(tmp_path, caplog):
    raw, average = (random_network(SMALL, seed=seed).half().float() for seed in (0, 1))
    states = [foreign_state(x, "yaml") for x in (raw, average)]
    torch.save({"model": states[0], "ema": states[1], "updates": 3}, tmp_path / "a.pt")
    with caplog.at_level(logging.INFO):
        assert_same(convert_checkpoint(tmp_path / "a.pt", SMALL), average)
    assert "moving average" in caplog.text


@pytest.mark.heavy
@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dict_of_branch_main(tmp_path, prefix):
    network = random_network(TINY_D)
    state = {f"{prefix}{k}": v for k, v in foreign_state(network, "cfg").items()}
    torch.save({"epoch": 3, "model": state, "optimizer": None}, tmp_path / "a.pt")
    assert_same(convert_checkpoint(tmp_path / "a.pt", TINY_D), network)


@pytest.mark.parametrize("num_classes", [80, 3])
def test_darknet(tmp_path, num_classes):
    variant = without_implicit(TINY_D)
    network = random_network(variant, num_classes)
    darknet_file(tmp_path / "a.weights", network)
    assert_same(convert_checkpoint(tmp_path / "a.weights", variant), network)


def test_darknet_of_another_network(tmp_path):
    darknet_file(tmp_path / "a.weights", random_network(without_implicit(TINY_D)))
    other = replace(without_implicit(TINY_D), neck_units=2)
    with pytest.raises(ValueError, match=r"a\.weights.*numbers; expected"):
        convert_checkpoint(tmp_path / "a.weights", other)


@pytest.mark.heavy
@pytest.mark.parametrize("meta_arch", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_own_weights(tmp_path, suffix, meta_arch):
    network = random_network(SMALL)
    state = to_meta_arch(network.state_dict()) if meta_arch else network.state_dict()
    path = tmp_path / f"a{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"model": state}, path)
    assert_same(convert_checkpoint(path, SMALL), network)


@pytest.mark.heavy
@pytest.mark.parametrize("scheme", ["yaml", "cfg", "network", "detectron2", "safetensors"])
def test_counters_may_be_missing(tmp_path, scheme):
    variant = TINY_D if scheme == "cfg" else SMALL
    network = random_network(variant)
    state = network.state_dict()
    if scheme in ("yaml", "cfg"):
        state = foreign_state(network, scheme)
    elif scheme == "detectron2":
        state = to_meta_arch(state)
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert len(state) < len(network.state_dict())
    path = tmp_path / "a.safetensors"
    save_file(state, path) if scheme == "safetensors" else torch.save({"model": state}, path)
    assert_same(convert_checkpoint(path, variant), network)


# ---- What does not fit


@pytest.mark.heavy
def test_missing_unused_and_wrong_tensors_are_errors_unless_allowed(tmp_path):
    network = random_network(SMALL)
    state = foreign_state(network, "yaml")
    del state["model.3.cv1.conv.weight"]
    state["model.99.weight"] = torch.zeros(3)
    state["model.4.conv.weight"] = state["model.4.conv.weight"].transpose(0, 1)
    torch.save(state, tmp_path / "a.pt")
    message = (
        r"a\.pt.*1 missing \(backbone\.stages\.0\.1\.entry\.conv\.weight\); "
        r"1 unused \(model\.99\.weight\); 1 of another shape \(model\.4\.conv\.weight \[128, 256"
    )
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(tmp_path / "a.pt", SMALL)
    loaded = convert_checkpoint(tmp_path / "a.pt", SMALL, partial=True)
    expected = network.state_dict()
    differing = {key for key in expected if not torch.equal(loaded[key], expected[key])}
    assert differing == {
        "backbone.stages.0.1.entry.conv.weight",
        "backbone.stages.1.0.conv.weight",
    }


@pytest.mark.heavy
def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = random_network(SMALL).state_dict()
    name = next(key for key in state if key.startswith("head."))
    state[name].view(-1)[0] = math.nan
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"a\.pth.*{name!r} is not finite"):
        convert_checkpoint(tmp_path / "a.pth", SMALL)


@pytest.mark.heavy
def test_the_other_form_is_named(tmp_path):
    torch.save(foreign_state(random_network(SMALL), "yaml"), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt.*it is in form Y, the network in form D"):
        convert_checkpoint(tmp_path / "a.pt", replace(get_variant(SMALL), form=TINY_D.form))


def test_strange_names_are_shown(tmp_path):
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "resnet.pt")
    with pytest.raises(ValueError, match=r"resnet\.pt.*\['conv1\.weight'\]; expected names like"):
        convert_checkpoint(tmp_path / "resnet.pt", SMALL)


@pytest.mark.heavy
def test_other_anchors_are_reported(tmp_path, caplog):
    network = random_network(SMALL)
    state = foreign_state(network, "yaml")
    state["model.28.anchor_grid"] = torch.full((3, 1, 3, 1, 1, 2), 10.0)
    torch.save(state, tmp_path / "a.pt")
    convert_checkpoint(tmp_path / "a.pt", SMALL)
    assert "other anchors" in caplog.text and "MODEL.YOLOR.ANCHORS [[[10.0, 10.0]" in caplog.text


# ---- Classes


def test_another_number_of_classes_keeps_all_but_the_class_rows(tmp_path, caplog):
    network = random_network(SMALL, num_classes=80)
    torch.save(foreign_state(network, "yaml"), tmp_path / "a.pt")
    state = convert_checkpoint(tmp_path / "a.pt", SMALL, num_classes=4)
    assert "80 classes, the model for 4" in caplog.text
    expected = network.state_dict()
    changed = {key for key in state if key.startswith("head.")}
    assert all(torch.equal(state[key], expected[key]) for key in state.keys() - changed)
    for i in range(3):
        for name in (f"head.predict.{i}.weight", f"head.predict.{i}.bias"):
            rows = state[name].unflatten(0, (3, 9))[:, :5]
            assert torch.equal(rows, expected[name].unflatten(0, (3, 85))[:, :5])
        refine = f"head.refine.{i}.z"
        rows = state[refine].view(3, 9)[:, :5]
        assert torch.equal(rows, expected[refine].view(3, 85)[:, :5])
        assert (state[refine].view(3, 9)[:, 5:] - 1).abs().max() < 0.15  # fresh: N(1, 0.02)


def test_the_number_of_classes_is_that_of_the_file(tmp_path):
    network = random_network(TINY_D, num_classes=7)
    torch.save({"model": foreign_state(network, "cfg")}, tmp_path / "a.pt")
    assert_same(convert_checkpoint(tmp_path / "a.pt", TINY_D), network)


def test_keep_class_rows_by_hand():
    # One anchor; two classes in the file, one in the network.
    given = torch.tensor([1.0, 2, 3, 4, 5, 6, 7])
    initial = torch.tensor([0.0, 0, 0, 0, 0, -1])
    assert keep_class_rows(given, initial, 1).tolist() == [1, 2, 3, 4, 5, -1]
    assert keep_class_rows(given.view(7, 1), torch.zeros(6, 2), 1) is None  # other inputs
    assert keep_class_rows(given, torch.zeros(12), 2) is None  # 7 does not divide by 2 anchors


# ---- MODEL.WEIGHTS and the command


def small_config(**options):
    opts = ["MODEL.DEVICE", "cpu", *(str(x) for pair in options.items() for x in pair)]
    return load_config(f"{SMALL}.yaml", opts)


@pytest.mark.heavy
def test_a_model_takes_foreign_weights(tmp_path, caplog):
    network = random_network(SMALL)
    torch.save({"model": foreign_state(network, "yaml")}, tmp_path / "a.pt")
    model = build_model(small_config())
    YOLORCheckpointer(model, strict=True).load(str(tmp_path / "a.pt"))
    expected = to_meta_arch(network.state_dict())
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.heavy
def test_a_model_counts_anew_where_the_file_does_not(tmp_path):
    state = foreign_state(random_network(SMALL), "yaml")
    counters = [k for k in state if k.endswith("num_batches_tracked")]
    torch.save({"model": {k: v for k, v in state.items() if k not in counters}}, tmp_path / "a.pt")
    model = build_model(small_config())
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.fill_(7)
    YOLORCheckpointer(model, strict=True).load(str(tmp_path / "a.pt"))
    loaded = [v for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")]
    assert len(loaded) == len(counters) and not any(map(torch.any, loaded))


@pytest.mark.heavy
def test_a_model_of_other_classes_refuses_or_keeps_its_class_rows(tmp_path):
    torch.save({"model": foreign_state(random_network(SMALL), "yaml")}, tmp_path / "a.pt")
    cfg = small_config()
    cfg.MODEL.YOLOR.NUM_CLASSES = 4
    model = build_model(cfg)
    bias = model.head.predict[0].bias.detach().clone().view(3, 9)
    with pytest.raises(ValueError, match=r"80 classes, MODEL\.YOLOR\.NUM_CLASSES is 4"):
        YOLORCheckpointer(model, strict=True).load(str(tmp_path / "a.pt"))
    YOLORCheckpointer(model).load(str(tmp_path / "a.pt"))
    loaded = model.head.predict[0].bias.view(3, 9)
    assert torch.equal(loaded[:, 5:], bias[:, 5:]) and not torch.equal(loaded[:, :5], bias[:, :5])


@pytest.mark.heavy
def test_implicit_knowledge_can_be_added_to_weights_without_it(tmp_path):
    plain = random_network(without_implicit(get_variant(SMALL)))
    torch.save({"model": foreign_state(plain, "yaml")}, tmp_path / "a.pt")
    model = build_model(small_config())
    with pytest.raises(ValueError, match=r"6 missing \(neck\.align\.0\.z"):
        YOLORCheckpointer(model).load(str(tmp_path / "a.pt"))
    YOLORCheckpointer(model, partial=True).load(str(tmp_path / "a.pt"))
    expected = to_meta_arch(plain.state_dict())
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_trained_weights_of_the_zoo():
    with pytest.raises(ValueError, match="no trained weights"):
        model_zoo.get(f"{SMALL}.yaml", trained=True, device="cpu")


def convert(*args):
    return processes.run(["tools/convert_weights.py", *args], cwd=processes.REPOSITORY)


@pytest.mark.heavy
def test_the_command_writes_what_detectron2_loads(tmp_path):
    network = random_network(SMALL, num_classes=4)
    torch.save({"model": foreign_state(network, "yaml")}, tmp_path / "a.pt")
    report = tmp_path / "report.json"
    for output in (tmp_path / "a.pth", tmp_path / "a.safetensors"):
        done = convert(
            *(tmp_path / "a.pt", "--config-file", f"{SMALL}.yaml", "--output", output),
            *("--report", report),
        )
        assert done.returncode == 0, done.stderr
        assert "381 tensors, 4 classes" in done.stdout
        assert_same(convert_checkpoint(output, SMALL), network)
    stock = torch.load(tmp_path / "a.pth", weights_only=True)["model"]
    assert all(torch.equal(v, stock[k]) for k, v in to_meta_arch(network.state_dict()).items())
    names = json.loads(report.read_text())
    assert len(names["used"]) == 381 and names["scheme"] == "yaml" and names["unused"] == []


@pytest.mark.heavy
def test_the_command_reports_what_is_missing_and_keeps_an_earlier_output(tmp_path):
    state = foreign_state(random_network(SMALL, num_classes=4), "yaml")
    del state["model.4.conv.weight"]
    torch.save({"model": state}, tmp_path / "a.pt")
    output, report = tmp_path / "a.pth", tmp_path / "report.json"
    output.write_text("earlier")
    arguments = ["--config-file", f"{SMALL}.yaml", "--output", output, "--report", report]
    done = convert(tmp_path / "a.pt", *arguments)
    assert done.returncode != 0 and "1 missing (backbone.stages.1.0.conv.weight)" in done.stderr
    assert json.loads(report.read_text())["missing"] == ["backbone.stages.1.0.conv.weight"]
    assert output.read_text() == "earlier"
    done = convert(tmp_path / "a.pt", *arguments, "--partial")
    assert done.returncode == 0, done.stderr
    assert "backbone.bottom_up.body.stages.1.0.conv.weight" in torch.load(output)["model"]


@pytest.mark.heavy
def test_the_command_refuses_in_one_line(tmp_path):
    (tmp_path / "a.pt").write_text("not a model")
    done = convert(
        tmp_path / "a.pt", "--config-file", f"{SMALL}.yaml", "--output", tmp_path / "b.pth"
    )
    assert done.returncode != 0 and not (tmp_path / "b.pth").exists()
    assert "text file" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    with pytest.raises(WeightsFileError, match="text file"):
        convert_checkpoint(tmp_path / "a.pt", SMALL)
