"""Files in each form that the programs of YOLOv7 and YOLOv5 release 5 write."""

from __future__ import annotations

import os
import re
from functools import cache

import pytest
import torch
from torch import nn

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from checkpoint.authors_files import (
    DEPLOYED,
    OF_A_RUN,
    STRIPPED,
    fuse,
    save_authors_file,
    to_deploy,
    with_anchors,
)
from checkpoint.hostile_files import Reduced

from yolor_d2.arguments import convert_weights as arguments
from yolor_d2.checkpoint import (
    WeightsFileError,
    YOLORCheckpointer,
    convert_checkpoint,
    read_weights,
)
from yolor_d2.checkpoint.conversion.advice import advise
from yolor_d2.checkpoint.conversion.parts import parts_of
from yolor_d2.commands import convert_weights as command
from yolor_d2.config import load_config
from yolor_d2.d2.modeling import build_model
from yolor_d2.networks import build_network, get_variant
from yolor_d2.networks.variant import for_deployment, scale

pytestmark = pytest.mark.heavy

FACTOR = 0.125
ROWS = ["yolov7_tiny", "yolov7", "yolov7_w6", "yolov5_s", "yolov5_s_implicit"]


@cache
def row(name):
    """A published network, narrow, and shallow where that is no matter of its layout."""
    return scale(get_variant(name), FACTOR, 0.34 if name == "yolov7_e6e" else 1)


@cache
def network(name, seed=0, num_classes=3):
    """Random weights that half precision holds exactly."""
    torch.manual_seed(seed)
    made = build_network(row(name), num_classes)
    for value in made.state_dict().values():
        if value.is_floating_point():
            value.add_((torch.rand_like(value) - 0.5) * 0.1)
    return made.half().float().eval()


def authors_state(name, seed=0, num_classes=3):
    """Tensors of a network as the authors name them."""
    made = network(name, seed, num_classes)
    names = parts_of(made).names("yaml")
    state = {names[key]: value for key, value in made.state_dict().items()}
    return with_anchors(state, made.anchors, made.strides)


def assert_same(state, expected):
    expected = expected.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


# ---- What comes out


@pytest.mark.parametrize("name", ROWS)
def test_the_moving_average_of_a_run(tmp_path, name, caplog):
    path = save_authors_file(
        tmp_path / "best.pt", authors_state(name), OF_A_RUN, ema=authors_state(name, seed=1)
    )
    assert_same(convert_checkpoint(path, row(name)), network(name, seed=1))
    assert "other anchors" not in caplog.text
    weights = read_weights(path)
    assert weights.kind == "module" and weights.averaged
    assert weights.info["epoch"] == 299 and weights.info["names"] == [f"class {i}" for i in "012"]


@pytest.mark.parametrize("beside", [{}, STRIPPED], ids=["training", "stripped"])
@pytest.mark.parametrize("name", ["yolov7_tiny", "yolov7_w6", "yolov5_s"])
def test_the_model_alone(tmp_path, name, beside):
    path = save_authors_file(tmp_path / "yolov7_training.pt", authors_state(name), beside)
    assert_same(convert_checkpoint(path, row(name)), network(name))


@pytest.mark.parametrize("name", ["yolov7_tiny", "yolov7", "yolov7_w6", "yolov7_e6e"])
def test_a_deploy_file_computes_what_the_training_network_does(tmp_path, name):
    path = save_authors_file(
        tmp_path / "yolov7.pt", to_deploy(authors_state(name)), DEPLOYED, half=False
    )
    deployed = build_network(for_deployment(row(name)), 3).eval()
    deployed.load_state_dict(convert_checkpoint(path, for_deployment(row(name))))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, theirs in zip(deployed(images), network(name)(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_files_without_counters(tmp_path):
    state = authors_state("yolov7")
    state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    path = save_authors_file(tmp_path / "a.pt", state, STRIPPED)
    assert_same(convert_checkpoint(path, row("yolov7")), network("yolov7"))


def test_other_classes_keep_the_class_rows_of_auxiliary_heads_too(tmp_path):
    path = save_authors_file(tmp_path / "a.pt", authors_state("yolov7_w6"), STRIPPED)
    state = convert_checkpoint(path, row("yolov7_w6"), num_classes=1)
    given = network("yolov7_w6").state_dict()
    names = [k for k in given if k.startswith("head.")]
    assert len(names) == 4 * (2 + 1 + 2)  # m, im, m2
    for name in names:
        axis = 1 if name.endswith(".z") else 0
        rows = state[name].movedim(axis, 0).unflatten(0, (3, 5 + 1))
        expected = given[name].movedim(axis, 0).unflatten(0, (3, 5 + 3))
        assert torch.equal(rows[:, :5], expected[:, :5])
        assert not torch.equal(rows[:, 5], expected[:, 5])
    others = state.keys() - set(names)
    assert all(torch.equal(state[key], given[key]) for key in others)


def test_other_anchors_are_noticed(tmp_path, caplog):
    state = authors_state("yolov7_tiny")
    state["model.77.anchor_grid"] = state["model.77.anchor_grid"] + 1
    path = save_authors_file(tmp_path / "a.pt", state, STRIPPED)
    convert_checkpoint(path, row("yolov7_tiny"))
    assert "other anchors" in caplog.text and "[[[11.0, 14.0], [17.0, 31.0]" in caplog.text


# ---- What does not fit


def test_deploy_and_training_files_are_told_apart(tmp_path):
    """At their published size, so that the network can be named."""
    torch.manual_seed(0)
    made = build_network("yolov7_tiny", 3)
    names = parts_of(made).names("yaml")
    state = {names[key]: value for key, value in made.state_dict().items()}
    trained = save_authors_file(tmp_path / "training.pt", state, {})
    deployed = save_authors_file(tmp_path / "deploy.pt", to_deploy(state), DEPLOYED)
    message = (
        r"deploy\.pt' do not fit: 6 missing \(neck\.align\.0\.z.*It has the form of a deploy file, "
        r"without implicit knowledge: use MODEL\.YOLOR\.VARIANT yolov7_tiny_deploy\. To train on "
        r"from it, let it fit in part \(--partial, MODEL\.YOLOR\.PARTIAL_WEIGHTS True\)"
    )
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(deployed, "yolov7_tiny")
    message = (
        r"training\.pt' do not fit: 6 unused \(model\.77\.ia.*It has the form of a training file, "
        r"with implicit knowledge: use MODEL\.YOLOR\.VARIANT yolov7_tiny$"
    )
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(trained, "yolov7_tiny_deploy")
    with pytest.raises(ValueError, match=r"missing.*It fits MODEL\.YOLOR\.VARIANT yolov7_tiny$"):
        convert_checkpoint(trained, "yolor_ssss_s2d")


@pytest.mark.parametrize("name", ["yolov7", "yolov7_x", "yolov7_w6", "yolov7_e6e", "yolor_e6"])
def test_every_published_network_is_recognised(name):
    with torch.device("meta"):
        made = build_network(name, 7)
    names = parts_of(made).names("yaml")
    shapes = {names[key]: value.shape for key, value in made.state_dict().items()}
    advice = advise("yaml", shapes, ["backbone.x"], ["y"])
    assert advice == f"It fits MODEL.YOLOR.VARIANT {name}"


def test_the_head_of_a_deploy_file_has_another_number(tmp_path):
    state = authors_state("yolov7_w6")
    deployed = save_authors_file(tmp_path / "deploy.pt", to_deploy(state), DEPLOYED)
    # Implicit knowledge, and a convolution, its norm and a prediction of each auxiliary head.
    with pytest.raises(ValueError, match=r"36 missing.*without implicit knowledge and auxiliary"):
        convert_checkpoint(deployed, row("yolov7_w6"))
    partial = convert_checkpoint(deployed, row("yolov7_w6"), partial=True)
    whole = convert_checkpoint(deployed, for_deployment(row("yolov7_w6")))
    assert all(torch.equal(partial[key], value) for key, value in whole.items())
    for key in partial.keys() - whole.keys():  # next to neutral
        if key.endswith(".z"):
            neutral = 1 if key.startswith("head") else 0
            assert (partial[key] - neutral).abs().max() < 0.2
    trained = save_authors_file(tmp_path / "training.pt", state, STRIPPED)
    with pytest.raises(ValueError, match=r"40 unused.*with implicit knowledge and auxiliary heads"):
        convert_checkpoint(trained, for_deployment(row("yolov7_w6")))


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("name", "found"), [("yolov7", "model.0.conv.bias"), ("yolov5_s", "model.0.conv.conv.bias")]
)
def test_fused_files_are_refused(tmp_path, name, found, partial):
    path = save_authors_file(tmp_path / "a.pt", fuse(authors_state(name)), DEPLOYED)
    with pytest.raises(ValueError, match=rf"it is fused \(it has '{found}'\).*training or deploy"):
        convert_checkpoint(path, row(name), partial=partial)


def test_merged_branches_alone_are_refused(tmp_path):
    state = authors_state("yolov7")
    merged = {k: v for k, v in state.items() if ".rbr_" not in k}
    merged |= {k: v for k, v in fuse(state).items() if ".rbr_" in k}
    path = save_authors_file(tmp_path / "a.pt", merged, DEPLOYED)
    with pytest.raises(ValueError, match=r"'model\.102\.rbr_reparam\.weight'"):
        convert_checkpoint(path, row("yolov7"))


# ---- Hostile variants of each form


def plant_call(model, canary):
    model.model[0].hook = Reduced(os.system, (f"touch '{canary}'",))


def plant_call_as_module(model, canary):
    model.model._modules["0"] = Reduced(os.system, (f"touch '{canary}'",))


def plant_import(model, canary):
    model.hyp = Reduced(__import__, ("os",))


def make_circle(model, canary):
    model.model._modules["1"] = model


def repeat_modules(model, canary):
    for _ in range(15):
        above = nn.ModuleList()
        for _ in range(10):
            above.append(model.model)
        model.model = above


def nest_deeply(model, canary):
    for _ in range(40):
        model.model = nn.Sequential(model.model)


def expand_weight(model, canary):
    model.model[-1].register_buffer("more", torch.zeros(1).expand(2**33))


def drop_buffers(model, canary):
    model.model[0]._buffers = None


def add_number(model, canary):
    model.model[0]._parameters["scale"] = 1.5


def add_module_as_tensor(model, canary):
    model.model[0]._buffers["scale"] = nn.SiLU()


ATTACKS = {
    plant_call: "names 'posix.system'",
    plant_call_as_module: "names 'posix.system'",
    plant_import: "names '__builtin__.__import__'",
    make_circle: "circle",
    repeat_modules: "modules and tensors",
    nest_deeply: "nested deeper",
    expand_weight: "outside of its storage",
    drop_buffers: "expected a torch module",
    add_number: "has type float",
    add_module_as_tensor: "has type Inert",
}
FORMS = {
    "run": ("yolov7_tiny", OF_A_RUN, True, False),
    "training": ("yolov7_tiny", {}, False, False),
    "deploy": ("yolov7_tiny", DEPLOYED, False, True),
    "yolov5": ("yolov5_s", STRIPPED, False, False),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("form", FORMS)
def test_hostile_variants_are_refused(tmp_path, form, attack):
    name, beside, averaged, deploy = FORMS[form]
    state = authors_state(name)
    state = to_deploy(state) if deploy else state
    canary = tmp_path / "canary"
    path = save_authors_file(
        tmp_path / "a.pt",
        state,
        beside,
        ema=state if averaged else None,
        change=lambda model: attack(model, canary),
    )
    with pytest.raises(WeightsFileError, match=ATTACKS[attack]):
        read_weights(path)
    assert not canary.exists()


@pytest.mark.parametrize("entry", ["optimizer", "wandb_id", "training_results"])
def test_calls_beside_the_model_are_refused(tmp_path, entry):
    canary = tmp_path / "canary"
    call = Reduced(os.system, (f"touch '{canary}'",))
    path = save_authors_file(
        tmp_path / "a.pt", authors_state("yolov5_s"), {**STRIPPED, entry: call}
    )
    with pytest.raises(WeightsFileError, match=r"names 'posix\.system'"):
        read_weights(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    ("tensor", "change", "message"),
    [
        ("model.2.conv.weight", lambda x: x * float("nan"), "not finite"),
        ("model.77.im.0.implicit", lambda x: x + float("inf"), "not finite"),
        ("model.2.conv.weight", lambda x: x.to(torch.int64), "has type torch.int64, expected"),
        ("model.2.bn.running_var", lambda x: x > 0, "has type torch.bool, expected"),
        ("model.2.conv.weight", lambda x: x.flatten(), "1 of another shape"),
        ("model.77.m.0.bias", lambda x: x[:5], "1 of another shape"),
        ("model.77.im.0.implicit", lambda x: x.view(-1), "1 of another shape"),
        ("model.77.anchor_grid", lambda x: x.flatten(), "1 unused"),
        ("model.77.anchor_grid", lambda x: x.new_zeros(300, 1, 3, 1, 1, 2), "1 unused"),
    ],
)
def test_unusable_tensors_are_refused(tmp_path, tensor, change, message):
    state = authors_state("yolov7_tiny")
    state[tensor] = change(state[tensor])
    torch.save({"model": state}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=rf"a\.pt.*{re.escape(message)}"):
        convert_checkpoint(tmp_path / "a.pt", row("yolov7_tiny"))


# ---- MODEL.WEIGHTS and the command


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_converted_files_give_the_same_outputs(tmp_path, suffix, capsys):
    name = "yolov7_w6"
    path = save_authors_file(tmp_path / "a.pt", authors_state(name), {})
    config = tmp_path / "config.yaml"
    config.write_text(
        f"_BASE_: Base-YOLOR.yaml\nMODEL:\n  DEVICE: cpu\n  YOLOR:\n    VARIANT: {name}\n"
        f"    WIDTH_FACTOR: {FACTOR}\n    NUM_CLASSES: 3\n"
    )
    output = tmp_path / f"b.{suffix}"
    command.main(
        arguments.parse_args([str(path), "--config-file", str(config), "--output", str(output)])
    )
    assert "666 tensors, 3 classes" in capsys.readouterr().out
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    levels = []
    for weights in (path, output):
        model = build_model(load_config(str(config), [])).eval()
        YOLORCheckpointer(model, strict=True).load(str(weights))
        levels.append(model.head(list(model.backbone(images).values())))
        assert torch.equal(model.head.auxiliary[0].bias, network(name).head.auxiliary[0].bias)
    expected = network(name)(images)
    for ours, again, theirs in zip(*levels, expected, strict=True):
        assert torch.equal(ours, again)
        torch.testing.assert_close(ours, theirs)
