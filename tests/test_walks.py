"""README and documents as somebody follows them who has never seen the project: in an empty folder,
line by line, every command as it stands there. Only trainings are shortened, by what is added."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import processes
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from PIL import Image

from yolor_d2.d2 import RUNTIME
from yolor_d2.toy import ToyDataset, write_toy_dataset

ROOT = Path(__file__).parents[1]
# One epoch of small images, which are not made smaller still.
SHORT = "--epochs 1 --size 64 --batch 4 DATALOADER.NUM_WORKERS 0 INPUT.SIZE_STEPS []"
pytestmark = pytest.mark.slow


def section(page: str, heading: str) -> str:
    """The text below a heading of a document, up to the next one of its level."""
    text = (ROOT / page).read_text(encoding="utf-8")
    level = re.escape("#" * (len(heading) - len(heading.lstrip("#"))))
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^{level} |\Z)", text, re.M | re.S)
    assert found, f"{page} has no {heading!r}"
    return found[1]


def commands(text: str) -> list[str]:
    """Indented lines that call a command of ours, without the remarks behind them."""
    text = re.sub(r" *\\\n *", " ", text)
    return [line.split(" #")[0].strip() for line in re.findall(r"^    (yolor-d2 .*)", text, re.M)]


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)


class Walker:
    """Somebody in a folder, at a shell where the package is installed."""

    def __init__(self, folder: Path):
        self.folder = folder

    def call(self, command: str) -> str:
        """Run a command; what it prints."""
        program, *words = shlex.split(command)
        bare = re.sub(r'"[^"]*"', "", command)  # the command itself expands quoted patterns
        assert not set(bare) & set("*?$|;&<>`~"), f"{command}: needs a shell"
        words = {"yolor-d2": ["-m", "yolor_d2"], "python": []}[program] + words
        done = processes.run(words, cwd=self.folder)
        printed = done.stdout + done.stderr
        assert done.returncode == 0, f"{command}\n{printed[-3000:]}"
        assert "Traceback" not in printed, f"{command}\n{printed[-3000:]}"
        return printed

    def walk(self, lines: list[str]) -> dict[str, str]:
        """Run commands, trainings shortened; what each printed."""
        assert lines
        printed = {}
        for line in lines:
            trains = line.startswith("yolor-d2 train") and "--resume" not in line
            printed[line] = self.call(f"{line} {SHORT}" if trains else line)
        return printed

    def python(self, code: str) -> str:
        (self.folder / "walk.py").write_text(code, encoding="utf-8")
        return self.call("python walk.py")


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> ToyDataset:
    folder = tmp_path_factory.mktemp("data")
    return write_toy_dataset(folder, num_train=16, num_val=6)


@pytest.fixture
def walker(tmp_path) -> Walker:
    return Walker(tmp_path)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def write_video(path: Path, images: list[Path]) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for image in images:
            with Image.open(image) as picture:
                pixels = np.asarray(picture.convert("RGB").resize((64, 64)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def write_yolo(toy: ToyDataset, folder: Path) -> None:
    """The generated data as somebody has them who drew boxes with a tool for YOLO."""
    names: list[str] = []
    for part, file, images in (
        ("train", toy.train_json, toy.train_images),
        ("val", toy.val_json, toy.val_images),
    ):
        data = json.loads(Path(file).read_bytes())
        numbers = {x["id"]: i for i, x in enumerate(data["categories"])}
        names = [x["name"] for x in data["categories"]]
        for image in data["images"]:
            source = Path(images) / image["file_name"]
            target = folder / "images" / part / source.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
            lines = []
            for x in data["annotations"]:
                if x["image_id"] == image["id"]:
                    left, top, w, h = x["bbox"]
                    centre = (left + w / 2) / image["width"], (top + h / 2) / image["height"]
                    share = [*centre, w / image["width"], h / image["height"]]
                    lines.append(" ".join(map(str, [numbers[x["category_id"]], *share])))
            labels = folder / "labels" / part / f"{source.stem}.txt"
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text("\n".join(lines))
    (folder / "data.yaml").write_text(
        f"train: images/train\nval: images/val\nnames: {json.dumps(names)}\n"
    )


def test_the_readme_from_coco_files_to_python(toy, walker):
    pytest.importorskip("onnxruntime")
    folder = walker.folder
    shutil.copy(toy.train_json, folder / "all.json")
    shutil.copytree(toy.train_images, folder / "images")
    shutil.copytree(toy.val_images, folder / "photos")
    photos = sorted((folder / "photos").iterdir())
    with Image.open(photos[0]) as image:
        image.convert("RGB").save(folder / "photo.jpg")
    write_video(folder / "video.mp4", photos)
    text = "".join(section("README.md", f"## {name}") for name in ("Train", "Predict", "Export"))
    lines = commands(text)
    assert [line.split()[1] for line in lines] == [
        *("split", "check", "train", "train", "eval", "predict", "export")
    ]
    printed = walker.walk(lines)
    assert "nothing is left to do" in printed[lines[3]]  # --resume of a finished run
    for path in ("output/mine/report.html", "found/video.mp4", "found.csv", "mine.onnx"):
        assert (folder / path).stat().st_size > 0, path
    (code,) = python_blocks(text)
    walker.python(code)
    assert size_of(folder / "found.jpg") == size_of(folder / "photo.jpg")
    (code,) = python_blocks(section("README.md", "## Use it from Detectron2"))
    if RUNTIME == "detectron2":
        assert "num_instances" in walker.python(code)


def test_photos_with_labels_of_yolo_to_a_report(toy, walker):
    pytest.importorskip("onnxruntime")
    folder = walker.folder
    write_yolo(toy, folder)
    shutil.copytree(toy.val_images, folder / "photos")
    text = section("docs/train-your-data.md", "# Train on your own data")
    printed = walker.walk(commands(text))
    (checked,) = (out for line, out in printed.items() if line.startswith("yolor-d2 check"))
    assert "0 errors" in checked and "val:" in checked  # both parts
    assert "_BASE_" in (folder / "anchors.yaml").read_text()
    report = json.loads((folder / "output/mine/report.json").read_text())
    assert report["counts"]["images"] == 6 and report["dataset"]["name"].endswith("/val")
    assert list((folder / "output/samples").glob("*.png"))
    assert (folder / "found.csv").is_file() and (folder / "mine.onnx").is_file()


def test_video_and_images_of_12_megapixels(toy, walker, tmp_path):
    """The commands of docs/inference.md, after the shortest training."""
    pytest.importorskip("trackers")
    folder = walker.folder
    data = f"--train {toy.train_json} {toy.train_images} --val {toy.val_json} {toy.val_images}"
    walker.walk(
        [f"yolor-d2 train --config-file quick/fast_start.yaml {data} OUTPUT_DIR output/mine"]
    )
    shutil.copytree(toy.val_images, folder / "photos")
    shutil.copytree(toy.train_images, folder / "more")
    photos = sorted((folder / "photos").iterdir())
    write_video(folder / "video.mp4", photos * 5)
    (folder / "videos").mkdir()
    shutil.copy(folder / "video.mp4", folder / "videos" / "one.mp4")
    noise = np.random.default_rng(0).integers(0, 256, (75, 100, 3), dtype=np.uint8)
    large = Image.fromarray(noise).resize((4000, 3000))
    large.save(folder / "scene.tif")
    text = section("docs/inference.md", "# Inference")
    lines = commands(text.partition("## In code")[0])
    assert {"video.mp4", "scene.tif"} <= {word for line in lines for word in line.split()}
    walker.walk(lines)
    assert size_of(next((folder / "tiled").glob("scene.*"))) == (4000, 3000)
    assert (folder / "found" / "video.mp4").stat().st_size > 0
