"""Every command and every block of code of README and docs is executed: here, or by the test that
`ELSEWHERE` names; or `ELSEWHERE` has the reason why it is not. tests/test_docs.py parses all of
them against the options and keys that exist.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

import processes
import pytest
from PIL import Image

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.toy import write_toy_dataset

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
PROGRAMS = r"yolor-d2|python3?|pip|make|docker|mike|torchrun|srun|g\+\+|apt-get|\./\S+|eval"
# Page and snippet as regular expressions, and where it is executed or why it is not.
ELSEWHERE = [
    (".*", r"^(pip|make|docker|apt-get) ", "installs software or builds for minutes"),
    (".*", r"^torchrun |--num-gpus|^srun", "several processes: tests/engine/test_launch.py"),
    (".*", r"-m pytest|^python tests/|^pytest", "runs tests"),
    (".*", r"yolor[_-]p6\.pt|yolor-ssss-s2d\.pt", "weights of the authors, which no test has"),
    (".*", r"bccd|BCCD|instances_train\.json \.", "data that no test has"),
    (".*", r"benchmark", "measures for minutes: tests/test_benchmark*.py, shortened"),
    (".*", r"ablation", "trains for minutes: tests/evaluation/test_ablation.py"),
    (".*", r"-m yolor_d2\.toy", "400 images: tests/data/test_toy.py, fewer of them"),
    ("README.md", r"output/(mine|masks)|parts|DefaultPredictor", "tests/test_walks.py"),
    ("train-your-data.md", ".*", "tests/test_walks.py"),
    ("inference.md", r"^yolor-d2 predict", "tests/test_walks.py"),
    ("export.md", r"export|onnx_predict", "tests/export/test_cpp.py"),
    ("detectron2.md", ".*", "tests/test_detectron2_page.py"),
    ("extending.md", r"my_parts|fusion_report", "tests/test_extending.py"),
    ("extending.md", r"area_", "tests/modeling/test_own_task.py"),
    ("from_ultralytics.md", ".*", "tests/test_words_walk.py"),
    ("multi_task.md", "train", "trains for minutes: tests/engine/test_multi_task.py"),
    ("teachers.md", ".*", "trains for minutes: tests/engine/test_teacher.py"),
    ("training.md|datasets.md", "train --config", "trains for minutes: tests/test_walks.py"),
    ("CONTRIBUTING.md", r"cell_grid", "an example of a docstring"),
    (".*", r"\.\.\.", "a placeholder"),
    ("datasets.md", r"big\.json", "100,156 images"),
]
SESSION = """
import json, os, shlex, shutil, sys
from pathlib import Path
from yolor_d2.cli import main
for page, code in json.loads(sys.argv[1]):
    print("$", page, code, flush=True)
    # Each in a folder in which no other has written.
    for path in Path("given").iterdir():
        shutil.copy(path, path.name)
    if code.startswith("yolor-d2 "):
        words = shlex.split(code)[1:]
        if "--output" in words:
            output = words[words.index("--output") + 1]
            os.remove(output) if os.path.isfile(output) else shutil.rmtree(output, True)
        status = main(words)
        if status:
            sys.exit(f"{page}: {code!r} ended with status {status}")
    else:
        exec(code, {})
"""
VOC = """<annotation><filename>a.png</filename><size><width>32</width><height>32</height></size>
<object><name>ring</name><bndbox><xmin>3</xmin><ymin>3</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>
</object></annotation>"""


class Snippet(NamedTuple):
    page: str
    code: str

    def elsewhere(self) -> tuple[str, str, str] | None:
        """The first row of `ELSEWHERE` that fits."""
        return next(
            (
                row
                for row in ELSEWHERE
                if re.fullmatch(row[0], self.page) and re.search(row[1], self.code)
            ),
            None,
        )


def snippets() -> list[Snippet]:
    """Commands of indented blocks, and fenced blocks of Python; YAML is parsed by other tests."""
    found = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        found += [
            Snippet(path.name, x) for x in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
        ]
        text = re.sub(r"```.*?```", "", re.sub(r" *\\\n *", " ", text), flags=re.S)
        for line in re.findall(rf"^    ((?:\w+=\S+ )*(?:{PROGRAMS}) .*)", text, re.M):
            found.append(Snippet(path.name, line.split("  #")[0].strip()))
    return found


def test_every_reason_is_needed():
    used = {x.elsewhere() for x in snippets()}
    assert [row for row in ELSEWHERE if row not in used] == []


def test_tests_that_execute_snippets_exist():
    for _, _, reason in ELSEWHERE:
        for name in re.findall(r"tests/[\w/*]+\.py", reason):
            assert list(ROOT.glob(name)), name


@pytest.mark.slow
def test_the_other_snippets_are_executed(tmp_path):
    here = [x for x in snippets() if x.elsewhere() is None]
    assert len(here) > 15
    toy = write_toy_dataset(tmp_path / "toy", num_train=12, num_val=4, image_size=(96, 128))
    given = tmp_path / "given"
    given.mkdir()
    for name, source in (("train", toy.train_json), ("val", toy.val_json)):
        shutil.copy(source, given / f"{name}.json")
    images = tmp_path / "images"
    shutil.copytree(toy.train_images, images)
    shutil.copytree(toy.val_images, images, dirs_exist_ok=True)
    # For `split --groups`: names of frames.
    frames = json.loads(toy.train_json.read_bytes())
    for entry in frames["images"]:
        source = images / entry["file_name"]
        entry["file_name"] = f"{source.stem}_frame.jpg"
        shutil.copy(source, images / entry["file_name"])
    (given / "all.json").write_text(json.dumps(frames))
    shutil.copytree(toy.val_images, tmp_path / "photos")
    with Image.open(next((tmp_path / "photos").iterdir())) as image:
        for name in ("photo", "a", "b"):
            image.convert("RGB").save(tmp_path / f"{name}.jpg")
    (tmp_path / "labels").mkdir()
    for path in images.iterdir():
        (tmp_path / "labels" / f"{path.stem}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [ring]\n")
    for folder in ("VOC2012/JPEGImages", "VOC2012/Annotations", "VOC2012/ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "VOC2012/JPEGImages/a.png")
    (tmp_path / "VOC2012/Annotations/a.xml").write_text(VOC)
    (tmp_path / "VOC2012/ImageSets/Main/train.txt").write_text("a\n")
    run = Snippet(
        "(a run)",
        "yolor-d2 train --config-file quick/fast_start.yaml --train train.json images/ "
        "--val val.json images/ OUTPUT_DIR output/mine --epochs 1 --size 64 --batch 4 "
        "DATALOADER.NUM_WORKERS 0 INPUT.SIZE_STEPS [] MODEL.YOLOR.WIDTH_FACTOR 0.25 "
        "SOLVER.MIN_ITERS 3 MODEL.DEVICE cpu",
    )

    def session(lines: list[Snippet]) -> None:
        done = processes.run(["-c", SESSION, json.dumps(lines)], cwd=tmp_path, timeout=600)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]

    session([run])
    for copy in ("before", "after", "a", "b"):
        shutil.copytree(tmp_path / "output/mine", tmp_path / "output" / copy)
    results = next((tmp_path / "output/mine").rglob("coco_instances_results.json"))
    shutil.copy(results, tmp_path)
    session(here)
