"""What the documents state about networks, computed again."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from yolor_d2 import model_zoo
from yolor_d2.cli import COMMANDS
from yolor_d2.config import get_yolor_cfg, list_keys
from yolor_d2.d2.modeling import build_model
from yolor_d2.modeling.backbone import variant_from_config
from yolor_d2.networks import VARIANTS, build_network
from yolor_d2.networks.complexity import measure_complexity

ROOT = Path(__file__).parents[1]
MODELS = (ROOT / "docs" / "models.md").read_text()
NUMBER = r"([\d,.]+)"
ROW = rf"^\| `(\w+)` \| ([DY]) \| {NUMBER} \| {NUMBER} \| {NUMBER} \| {NUMBER} \|"


def test_the_table_of_models_is_what_the_code_counts():
    rows = re.findall(ROW, MODELS, re.MULTILINE)
    assert {row[0] for row in rows} == set(VARIANTS)
    for name, form, size, parameters, fused, gflops in rows:
        cfg = model_zoo.get_config(f"{name}.yaml")
        assert int(size) == cfg.INPUT.MAX_SIZE_TEST
        variant = variant_from_config(cfg)
        assert form == ("Y" if variant.form.merge_norm else "D")
        with torch.device("meta"):
            network = build_network(variant)
            cost = measure_complexity(network, torch.empty(1, 3, int(size), int(size)))["total"]
        assert parameters == f"{cost.parameters:,}"
        assert fused == f"{cost.fused_parameters:,}"
        assert gflops == f"{cost.flops / 1e9:.4f}"


def test_the_table_in_the_readme_agrees():
    rows = re.findall(
        rf"^\| `(\w+)\.yaml` \| {NUMBER} \| {NUMBER} G \|", (ROOT / "README.md").read_text(), re.M
    )
    table = {row[0]: row[3:6] for row in re.findall(ROW, MODELS, re.MULTILINE)}
    assert len(rows) == 8
    for name, parameters, gflops in rows:
        assert parameters == table[name][0]
        assert gflops == f"{float(table[name][2]):.1f}"


@pytest.fixture
def example(tmp_path):
    """The network of one's own in docs/models.md, as a file beside the configs."""
    (text,) = re.findall(r"```yaml\n(.*?)```", MODELS, re.DOTALL)
    node = yaml.safe_load(text)
    node["_BASE_"] = str(model_zoo.config_root() / node["_BASE_"])
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(node))
    return path


def test_the_example_of_a_network_of_ones_own_trains(example):
    from yolor_d2.config import load_config
    from yolor_d2.d2.structures import Boxes, Instances

    model = build_model(load_config(example, ["MODEL.DEVICE", "cpu"]))
    assert model.strides == [8, 16]
    truth = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 30.0, 40.0]])))
    truth.gt_classes = torch.tensor([3])
    losses = model([{"image": torch.zeros(3, 64, 64), "instances": truth}])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def shell_commands() -> list[tuple[str, str]]:
    """File and command of every indented or fenced line of the documents that calls ours."""
    found = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = re.sub(r" *\\\n *", " ", path.read_text(encoding="utf-8"))
        for line in re.findall(
            r"^ *(?:\w+=\S+ )*((?:yolor-d2|python tools/\w+\.py) .*)", text, re.M
        ):
            command = line.split(" #")[0].rstrip()
            # Whole commands alone: no sentences, and nothing left out.
            if "..." not in command and not re.search(r"`|\. ", command):
                found.append((path.name, command))
    return found


@pytest.mark.parametrize(("file", "command"), shell_commands())
def test_commands_of_the_documents_are_understood(file, command):
    program, *words = shlex.split(command)
    if program == "python":
        name, first = Path(words.pop(0)).stem, []
    else:
        known = COMMANDS[words.pop(0)]
        name, first = known.module, list(known.arguments)
    module = importlib.import_module(f"yolor_d2.arguments.{name}")
    args = module.parse_args([*first, *words])
    opts = getattr(args, "opts", [])
    assert len(opts) % 2 == 0
    known_keys = set(list_keys(get_yolor_cfg()))
    assert set(opts[::2]) <= known_keys, file


def test_links_of_the_documents_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"
