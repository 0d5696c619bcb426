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
from yolor_d2.modeling.complexity import config_complexity
from yolor_d2.networks import VARIANTS

ROOT = Path(__file__).parents[1]
MODELS = (ROOT / "docs" / "models.md").read_text()
NUMBER = r"([\d,.]+)"
ROW = rf"^\| `(\w+)` \| (D|Y|V7) \| {NUMBER} \| {NUMBER} \| {NUMBER} \| {NUMBER} \|"
# Of YOLOv7 and YOLOv5, also what is counted with norms fused and folded.
V7_FAMILIES = ("yolov5", "yolov7")
FURTHER = rf"^\| `(\w+)` \| V7 (?:\| [\d,.]+ ){{4}}\| {NUMBER} \| {NUMBER} \| {NUMBER} \|"


@pytest.mark.heavy
def test_the_tables_of_models_are_what_the_code_counts():
    rows = re.findall(ROW, MODELS, re.MULTILINE)
    further = {name: figures for name, *figures in re.findall(FURTHER, MODELS, re.MULTILINE)}
    assert {row[0] for row in rows} == set(VARIANTS)
    assert set(further) == {name for name in VARIANTS if name[:6] in V7_FAMILIES}
    for name, form, size, parameters, fused, gflops in rows:
        cfg = model_zoo.get_config(f"{name}.yaml")
        assert int(size) == cfg.INPUT.MAX_SIZE_TEST
        block = variant_from_config(cfg).form
        assert block.norm_eps == {"D": 1e-4, "Y": 1e-3, "V7": 1e-3}[form], name
        assert block.merge_norm == (form == "Y")
        cost = config_complexity(cfg, int(size))["total"]
        assert parameters == f"{cost.parameters:,}"
        assert fused == f"{cost.fused_parameters:,}"
        assert gflops == f"{cost.flops / 1e9:.4f}"
        if name in further:
            assert further[name][0] == f"{cost.fused_flops / 1e9:.4f}"


def test_folded_networks_are_what_those_without_the_folded_parts_are_with_norms_fused():
    """The very folding is tested in tests/test_tools.py and tests/layers/test_fuse.py."""
    fused = {row[0]: row[4] for row in re.findall(ROW, MODELS, re.MULTILINE)}
    further = {name: figures for name, *figures in re.findall(FURTHER, MODELS, re.MULTILINE)}
    for name, (_, parameters, gflops) in further.items():
        bare = f"{name}_deploy" if f"{name}_deploy" in further else name.removesuffix("_implicit")
        assert (parameters, gflops) == (fused[bare], further[bare][0]), name


def test_the_table_in_the_readme_agrees():
    rows = re.findall(
        rf"^\| `(\w+)\.yaml` \| {NUMBER} \| {NUMBER} G \|", (ROOT / "README.md").read_text(), re.M
    )
    table = {row[0]: row[3:6] for row in re.findall(ROW, MODELS, re.MULTILINE)}
    assert len(rows) == 9
    for name, parameters, gflops in rows:
        assert parameters == table[name][0]
        assert gflops == f"{float(table[name][2]):.1f}"


EXAMPLES = re.findall(r"```yaml\n(.*?)```", MODELS, re.DOTALL)


@pytest.mark.parametrize(
    ("text", "strides"),
    list(zip(EXAMPLES, ([8, 16], [8, 16, 32]), strict=True)),
    ids=("csp", "elan"),
)
def test_the_examples_of_a_network_of_ones_own_train(text, strides, tmp_path):
    from yolor_d2.config import load_config
    from yolor_d2.d2.structures import Boxes, Instances

    node = yaml.safe_load(text)
    node["_BASE_"] = str(model_zoo.config_root() / node["_BASE_"])
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(node))
    model = build_model(load_config(path, ["MODEL.DEVICE", "cpu"]))
    assert model.strides == strides
    truth = Instances((128, 128), gt_boxes=Boxes(torch.tensor([[8.0, 8.0, 30.0, 40.0]])))
    truth.gt_classes = torch.tensor([3])
    losses = model([{"image": torch.zeros(3, 128, 128), "instances": truth}])
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
    # Custom tasks bring their keys.
    has_own = bool(getattr(args, "imports", ()))
    own = {key for key in opts[::2] if has_own and key.startswith("MODEL.YOLOR.TASKS.")}
    assert set(opts[::2]) - own <= known_keys, file


def slugs(path: Path) -> set[str]:
    """Anchors that GitHub makes of the headings of a page."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)", text, re.M)
    plain = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title).replace("`", "") for title in titles]
    return {re.sub(r"[^\w\- ]", "", x.lower()).replace(" ", "-") for x in plain}


def test_links_of_the_documents_have_targets():
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)\s]+)", path.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            file, _, anchor = target.partition("#")
            other = path.parent / file if file else path
            assert other.exists(), f"{path.name}: {target}"
            assert not anchor or anchor in slugs(other), f"{path.name}: {target}"


def test_modules_that_documents_name_exist():
    """`engine/step.py`, and names of files in a folder that the sentence has named."""
    detectron2 = {"tools/lazyconfig_train_net.py"}
    files = detectron2 | {
        x.relative_to(ROOT).as_posix() for x in ROOT.rglob("*.py") if ".venv" not in x.parts
    }
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        if path.name == "CHANGELOG.md":
            continue  # of its time
        for name in re.findall(r"`((?:[\w.]+/)+\w+\.py)`", path.read_text(encoding="utf-8")):
            is_pattern = Path(name).stem.isupper()
            known = is_pattern or any(f"/{x}".endswith(f"/{name}") for x in files)
            assert known, f"{path.name}: {name}"


def test_the_architecture_has_every_room_and_every_layer():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    diagram, table = page.partition("```mermaid")[2].split("```")[0], page.partition("## Rooms")[2]
    rooms = [
        x
        for x in (ROOT / "yolor_d2").iterdir()
        if x.suffix == ".py" or (x / "__init__.py").exists()
    ]
    for room in rooms:
        assert room.name == "__init__.py" or f"`{room.name}`" in table, room.name
    layers = re.findall(
        r'^    "([^"]+)",$',
        (ROOT / "pyproject.toml").read_text().partition("\nlayers = [")[2],
        re.M,
    )
    assert len(layers) > 20
    for name in re.split(r" \| ", " | ".join(layers)):
        assert name.startswith("_") or re.search(rf"\b{name}\b", diagram), name
