"""The command-line tools, run as a user runs them."""

import json
import re
import subprocess
from pathlib import Path

import cv2
import numpy as np
import processes
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2 import model_zoo
from yolor_d2.arguments import predict
from yolor_d2.files.images import read_image
from yolor_d2.toy import ToyDataset

pytestmark = [pytest.mark.slow, pytest.mark.both_runtimes]

REPOSITORY = Path(__file__).parents[1]
QUICK = model_zoo.get_config_file("quick/ssss_320_cpu.yaml")
# Four iterations of two images at 64 px; so short a run finds boxes of very low score only.
SHORT = [
    *("MODEL.YOLOR.WIDTH_FACTOR", 0.25),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MAX_SIZE_TRAIN", 64),
    *("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 64),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 4, "SOLVER.WARMUP_ITERS", 1),
    *("MODEL.YOLOR.SCORE_THRESHOLD", 1e-6, "TEST.REPORT", False),
]


def run(tool: str, *arguments) -> subprocess.CompletedProcess[str]:
    """Run a tool in a process of its own, outside the repository."""
    return processes.run([REPOSITORY / "tools" / tool, *arguments])


def succeed(tool: str, *arguments) -> str:
    """Its output, when it succeeds."""
    done = run(tool, *arguments)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def fail(tool: str, *arguments) -> str:
    """The last line of its errors, when it fails."""
    done = run(tool, *arguments)
    assert done.returncode not in (0, 2)
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def data(toy: ToyDataset) -> list:
    """Arguments that name the toy data."""
    train, test = (toy.train_json, toy.train_images), (toy.val_json, toy.val_images)
    return ["--train", *train, "--test", *test]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> tuple[Path, str]:
    """OUTPUT_DIR and output of a run that all tests share."""
    folder = tmp_path_factory.mktemp("tools") / "run"
    output = succeed("train_net.py", "--config-file", QUICK, *data, "OUTPUT_DIR", folder, *SHORT)
    return folder, output


@pytest.fixture
def weights(trained) -> list:
    """The options of the other tools that name the trained model."""
    folder, _ = trained
    return ["--config-file", folder / "config.yaml", "MODEL.WEIGHTS", folder / "model_final.pth"]


# ---- train_net.py


def test_training_writes_its_files(trained, toy):
    folder, _ = trained
    assert (folder / "last_checkpoint").read_text() == "model_0000003.pth"
    # The average alone; what resuming needs is in the last checkpoint.
    saved = torch.load(folder / "model_final.pth", weights_only=True)
    assert saved["iteration"] == 3  # counted from 0
    assert saved["model"]["head.predict.0.bias"].shape == (3 * (5 + len(toy.classes)),)
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    written = set().union(*rows)
    assert {"total_loss", "loss_box", "loss_objectness", "loss_classes", "bbox/AP"} <= written
    assert "copypaste: AP,AP50,AP75,APs,APm,APl" in (folder / "log.txt").read_text()
    config = (folder / "config.yaml").read_text()
    assert all(f"- {name}\n" in config for name in toy.classes)


def test_evaluation_needs_the_run_only(trained, weights):
    folder, _ = trained
    output = (folder / "log.txt").read_text()
    again = succeed("train_net.py", "--eval-only", *weights, "OUTPUT_DIR", folder / "again")
    figures = [line for line in output.splitlines() if "copypaste: " in line]
    # The same average, so the same metrics as at the end of the training.
    repeated = [line for line in again.splitlines() if "copypaste: " in line]
    assert len(figures) == 3  # task, names, values
    assert [x.split("copypaste")[1] for x in figures] == [x.split("copypaste")[1] for x in repeated]


def test_resuming_a_finished_run_changes_nothing(trained):
    folder, _ = trained
    before = (folder / "model_final.pth").read_bytes()
    succeed("train_net.py", "--config-file", folder / "config.yaml", "--resume")
    assert (folder / "model_final.pth").read_bytes() == before


def test_training_takes_a_name_of_the_model_zoo(data, tmp_path):
    succeed(
        *("train_net.py", "--config-file", "quick/ssss_320_cpu.yaml", *data),
        *("OUTPUT_DIR", tmp_path, *SHORT, "SOLVER.MAX_ITER", 1, "DATASETS.TEST", ()),
    )
    assert (tmp_path / "model_final.pth").is_file()


def test_evaluation_without_weights_says_so(trained, tmp_path):
    config = tmp_path / "mine.yaml"  # no run: there are no weights beside it
    config.write_text((trained[0] / "config.yaml").read_text())
    message = fail("train_net.py", "--config-file", config, "--eval-only", "OUTPUT_DIR", tmp_path)
    assert "MODEL.WEIGHTS is empty" in message


def test_a_missing_weight_file_is_named(trained, tmp_path):
    options = ["MODEL.WEIGHTS", tmp_path / "none.pth", "OUTPUT_DIR", tmp_path]
    config = trained[0] / "config.yaml"
    message = fail("train_net.py", "--config-file", config, "--eval-only", *options)
    assert "MODEL.WEIGHTS" in message and str(tmp_path / "none.pth") in message


def test_weights_of_another_number_of_classes_are_refused(weights, tmp_path):
    options = [*weights, "MODEL.YOLOR.NUM_CLASSES", 7, "OUTPUT_DIR", tmp_path]
    message = fail("train_net.py", "--eval-only", *options)
    assert "model_final.pth" in message and "for 4 classes, MODEL.YOLOR.NUM_CLASSES" in message


def test_a_wrong_number_of_classes_is_named_beside_the_data_set(data, toy, tmp_path):
    options = [*SHORT, "OUTPUT_DIR", tmp_path, "MODEL.YOLOR.NUM_CLASSES", 7]
    message = fail("train_net.py", "--config-file", QUICK, *data, *options)
    assert "MODEL.YOLOR.NUM_CLASSES is 7" in message
    assert f"'{toy.root.name}/instances_train' has 4 classes" in message


def test_an_unknown_key_is_named():
    message = fail("train_net.py", "--config-file", QUICK, "MODEL.YOLOR.NUM_CLASES", 3)
    assert "MODEL.YOLOR.NUM_CLASES" in message


def test_a_missing_image_folder_is_named(toy, tmp_path):
    data = ["--train", toy.train_json, tmp_path / "none"]
    message = fail("train_net.py", "--config-file", QUICK, *data, "OUTPUT_DIR", tmp_path)
    assert str(tmp_path / "none") in message


def test_without_a_gpu_the_device_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    options = ["MODEL.DEVICE", "cuda", "OUTPUT_DIR", tmp_path]
    assert "`MODEL.DEVICE cpu`" in fail("train_net.py", "--config-file", QUICK, *options)


def test_a_configuration_for_gpus_runs_on_the_cpu_if_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = model_zoo.get_config_file("yolor_ssss_s2d.yaml")
    options = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", tmp_path]
    # It gets as far as the missing weights.
    message = fail("train_net.py", "--config-file", config, "--eval-only", *options)
    assert "MODEL.WEIGHTS is empty" in message


def test_data_sets_in_folders_of_one_name_are_told_apart(toy, tmp_path):
    files = []
    for split, json_file in [("train", toy.train_json), ("val", toy.val_json)]:
        copy = tmp_path / split / "labels" / "coco.json"
        copy.parent.mkdir(parents=True)
        copy.write_bytes(json_file.read_bytes())
        files.append(copy)
    data = ["--train", files[0], toy.train_images, "--test", files[1], toy.val_images]
    options = [*data, *SHORT, "SOLVER.MAX_ITER", 1, "OUTPUT_DIR", tmp_path / "run"]
    succeed("train_net.py", "--config-file", QUICK, *options)
    (results,) = (tmp_path / "run" / "inference").glob("coco_instances_results.json")
    known = {image["id"] for image in json.loads(toy.val_json.read_text())["images"]}
    assert {found["image_id"] for found in json.loads(results.read_text())} <= known


def test_lengths_in_epochs_are_written_as_iterations(data, tmp_path):
    """24 images in batches of 2."""
    command = ["train_net.py", "--config-file", QUICK, *data, "OUTPUT_DIR", tmp_path / "run"]
    message = fail(*command, *SHORT, "SOLVER.MAX_EPOCHS", 1)
    assert "SOLVER.MAX_ITER is given" in message and "add `SOLVER.MAX_EPOCHS 0`" in message
    config = tmp_path / "epochs.yaml"
    config.write_text(
        f"_BASE_: {QUICK}\nSOLVER:\n  IMS_PER_BATCH: 2\n  MAX_EPOCHS: 1\n  WARMUP_EPOCHS: 1\n"
        "  WARMUP_MIN_ITERS: 2\n  NOMINAL_BATCH: 8\n  CLIP_NORM: 10.0\n  CHECKPOINT_EPOCHS: 1\n"
        "  WARMUP_MAX_SHARE: 0.0\n  AMP: {ENABLED: True, DTYPE: bfloat16}\n"
    )
    command[2] = config
    succeed(*command, *SHORT[:10], "DATASETS.TEST", ())
    written = (tmp_path / "run" / "config.yaml").read_text()
    # 12 batches are nearly the 1, 2, 2, 3 and 3 of the iterations of a warm-up of 5.
    assert "MAX_ITER: 5\n" in written and "WARMUP_ITERS: 5\n" in written
    saved = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)
    assert saved["iteration"] == 4
    rows = [json.loads(x) for x in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert {"grad_norm", "lr/weight", "lr/norm", "lr/bias", "momentum", "data_time"} <= set(rows[0])
    # Its own config.yaml resumes it, and finds nothing left to do.
    succeed("train_net.py", "--config-file", tmp_path / "run" / "config.yaml", "--resume")


# ---- fit_anchors.py


def test_anchors_are_fitted_and_can_be_trained_with(data, tmp_path):
    config, small = tmp_path / "anchors.yaml", "[[[2,2]],[[3,3]],[[4,4]]]"
    command = ["fit_anchors.py", "--config-file", QUICK, *data[:3]]
    output = succeed(
        *(*command, "--output", config, "--generations", 50, "--count", 3),
        *(*SHORT[:10], "MODEL.YOLOR.ANCHORS", small),
    )
    before, after = (
        float(re.search(f"{title}: ([0-9.]+) %", output)[1]) for title in ("now", "fitted")
    )
    assert before < 98 < after
    assert "ANCHORS:" in output
    options = [*SHORT[:10], "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 1]
    run = ["train_net.py", "--config-file", config, *data[:3], *options]
    warning = "match an anchor"
    assert warning not in succeed(*run, "OUTPUT_DIR", tmp_path / "fitted")
    output = succeed(*run, "OUTPUT_DIR", tmp_path / "small", "MODEL.YOLOR.ANCHORS", small)
    assert warning in output
    assert f"yolor-d2 anchors --config-file {tmp_path}/small/config.yaml" in output


def test_a_number_of_anchors_that_levels_cannot_share_is_refused(data):
    command = ["fit_anchors.py", "--config-file", QUICK, *data[:3]]
    assert "--count is 4, expected a multiple of the 3 levels" in fail(*command, "--count", 4)


# ---- show_run.py


def test_show_run_draws_curves_and_detections(trained):
    folder, _ = trained
    output = succeed("show_run.py", folder, "--count", 3, "--threshold", 0)
    assert read_image(folder / "pictures" / "curves.png").std() > 0
    drawn = list((folder / "pictures" / "detections").glob("*.png"))
    assert len(drawn) == 3 and "(3 pictures)" in output


# ---- predict.py


@pytest.fixture(scope="module")
def inputs(toy: ToyDataset, tmp_path_factory) -> Path:
    """A folder of two images, one of them broken, and a video of three frames in a subfolder."""
    folder = tmp_path_factory.mktemp("inputs")
    image = read_image(sorted(toy.val_images.iterdir())[0], "BGR")
    cv2.imwrite(str(folder / "good.png"), image)
    (folder / "broken.jpg").write_bytes(b"not an image")
    (folder / "video").mkdir()
    size = (96, 64)  # (W, H)
    mp4v = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(folder / "video" / "video.mp4"), mp4v, 10.0, size)
    for _ in range(3):
        writer.write(cv2.resize(image, size))
    writer.release()
    return folder


def check_records(records: list[dict], size: tuple[int, int], classes) -> None:
    """Detections of an image of that (H, W)."""
    assert records
    for record in records:
        assert set(record) == {"bbox", "score", "class"}
        assert record["class"] in classes and 0 <= record["score"] <= 1
        x, y, width, height = record["bbox"]
        assert x >= 0 and y >= 0 and width > 0 and height > 0
        assert x + width <= size[1] + 0.01 and y + height <= size[0] + 0.01  # rounded


def test_demo_on_an_image_and_a_video(weights, inputs, toy, tmp_path):
    pytest.importorskip("av")
    files = [inputs / "good.png", inputs / "video" / "video.mp4"]
    written = ["--output", tmp_path / "drawn", "--json", tmp_path / "found.json"]
    succeed("predict.py", "--input", *files, *written, "--threshold", 0, *weights)
    image, *frames = json.loads((tmp_path / "found.json").read_text())
    assert image["file_name"] == str(files[0])
    assert [x["file_name"] for x in frames] == [str(files[1])] * 3
    assert [(x["frame"], x["seconds"]) for x in frames] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    original = read_image(files[0])
    check_records(image["detections"], original.shape[:2], toy.classes)
    drawn = read_image(tmp_path / "drawn" / "good.jpg")
    assert drawn.shape == original.shape and np.abs(drawn - original.astype(int)).max() > 100
    for record in frames:
        check_records(record["detections"], (64, 96), toy.classes)
    video = cv2.VideoCapture(str(tmp_path / "drawn" / "video.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and video.get(cv2.CAP_PROP_FPS) == 10
    assert video.read()[1].shape == (64, 96, 3)


def test_demo_goes_on_after_a_broken_image(weights, inputs, tmp_path):
    pytest.importorskip("av")
    done = run(
        *("predict.py", "--input", inputs, "--output", tmp_path, "--json", tmp_path / "found.json"),
        *weights,
    )
    assert done.returncode == 1
    assert str(inputs / "broken.jpg") in done.stdout + done.stderr
    image, *frames = json.loads((tmp_path / "found.json").read_text())
    assert len(frames) == 3  # of the video in the subfolder
    assert image["file_name"] == str(inputs / "good.png")
    # Nothing scores 0.25, the default threshold, after four iterations.
    assert image["detections"] == []
    assert [path.name for path in tmp_path.glob("*.jpg")] == ["good.jpg"]


def test_demo_as_its_help_shows_it(trained, inputs, tmp_path):
    # Overrides directly behind the inputs.
    folder, _ = trained
    succeed(
        *("predict.py", "--config-file", folder / "config.yaml", "--output", tmp_path),
        *("--input", inputs / "good.png", "MODEL.WEIGHTS", folder / "model_final.pth"),
    )
    assert (tmp_path / "good.jpg").is_file()


def test_demo_refuses_weights_of_other_classes(weights, inputs, tmp_path):
    options = ["--input", inputs / "good.png", "--output", tmp_path]
    message = fail("predict.py", *options, *weights, "MODEL.YOLOR.NUM_CLASSES", 7)
    assert "for 4 classes, MODEL.YOLOR.NUM_CLASSES is 7" in message


def test_demo_does_not_overwrite_its_input(weights, inputs, tmp_path):
    cv2.imwrite(str(tmp_path / "photo.jpg"), np.zeros((32, 32, 3), np.uint8))
    before = (tmp_path / "photo.jpg").read_bytes()
    message = fail("predict.py", "--input", tmp_path, "--output", tmp_path, *weights)
    assert "photo.jpg" in message
    assert (tmp_path / "photo.jpg").read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value"),
    [("--threshold", 7), ("--tile", 0), ("--batch", 0), ("--frames", -1)],
)
def test_demo_refuses_numbers_that_make_no_sense(option, value, capsys):
    given = ["--config-file", "any.yaml", "--input", "a.jpg", "--output", "b"]
    with pytest.raises(SystemExit):
        predict.parse_args([*given, option, str(value)])
    assert f"{option} is {value}" in capsys.readouterr().err


def test_demo_names_a_missing_input(weights, tmp_path):
    arguments = ["--input", tmp_path / "none.jpg", "--output", tmp_path, *weights]
    assert str(tmp_path / "none.jpg") in fail("predict.py", *arguments)


# ---- analyze_model.py


# Parameters as trained, with norms fused and folded; 10^9 FLOPs of the same.
@pytest.mark.parametrize(
    ("config", "parameters", "gflops"),
    [
        # Folding also takes a norm behind a concatenation that bare convolutions end.
        (
            "yolor_ssss_s2d.yaml",
            ["9,216,634", "9,207,354", "9,204,797"],
            ["16.1124", "16.0855", "16.0826"],
        ),
        (
            "yolor_p6.yaml",
            ["37,265,016", "37,232,824", "37,230,012"],
            ["326.2562", "325.6953", "325.6953"],
        ),
        (
            "yolov7.yaml",
            ["37,622,682", "36,907,898", "36,905,341"],
            ["106.1239", "104.6847", "104.6847"],
        ),
        # Trained with auxiliary heads.
        (
            "yolov7_w6.yaml",
            ["82,312,436", "82,277,300", "70,394,300"],
            ["421.0500", "420.5988", "360.1572"],
        ),
    ],
)
def test_analysis_prints_the_published_figures(config, parameters, gflops):
    output = succeed("analyze_model.py", "--config-file", config)
    (total,) = [line.split() for line in output.splitlines() if line.split()[0] == "total"]
    assert total[1:4] == parameters and total[5:] == gflops


# ---- visualize_data.py and benchmark.py


@pytest.fixture(scope="module")
def training_data(toy) -> list:
    return ["--config-file", QUICK, "--train", toy.train_json, toy.train_images]


def test_training_samples_are_drawn(training_data, tmp_path):
    """Five samples in whole batches of two: three pictures of 64 + 4 + 64 by 64 pixels."""
    options = ["--output", tmp_path, "--num", 5, "--start", 7, *SHORT]
    output = succeed("visualize_data.py", *training_data, *options)
    assert output.startswith("3 pictures")
    names = [f"batch_{i:07d}.png" for i in (7, 8, 9)]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names:
        assert read_image(tmp_path / name).shape == (64, 132, 3)


def test_benchmark_of_the_data(training_data, tmp_path):
    report = tmp_path / "reports" / "data.json"
    options = ["--workers", 0, 1, "--images", 4, "--rounds", 2, "--json", report, *SHORT]
    output = succeed("benchmark.py", "data", *training_data, *options)
    content = json.loads(report.read_text())
    assert [row["workers"] for row in content["rows"]] == [0, 1]
    for row in content["rows"]:
        assert row["images / s"] > 0 and row["MiB of a worker"] > 10
        assert f"{row['images / s']:.2f}" in output
    assert content["rows"][0]["CPU ms / image"] > 0
    assert content["settings"]["size"] == 64 and content["machine"]["cores"] >= 1


def test_benchmark_refuses_negative_workers(training_data):
    message = fail("benchmark.py", "data", *training_data, "--workers", "-1")
    assert "--workers of at least 0" in message


def test_benchmark_of_the_step(tmp_path):
    report = tmp_path / "step.json"
    options = ["--size", 64, "--batch", 2, "--steps", 1, "--json", report]
    output = succeed("benchmark.py", "step", "--config-file", QUICK, *options)
    (row,) = json.loads(report.read_text())["rows"]
    assert 0 < row["loss forward, % of it"] < 100
    assert row["peak MiB"] >= row["of it before, MiB"] > 10
    assert f"{row['peak MiB']:.2f}" in output


def test_benchmark_of_the_step_by_tasks(tmp_path):
    report = tmp_path / "step.json"
    options = ["--size", 64, "--batch", 2, "--steps", 1, "--json", report]
    every = "masks+keypoints+classification+embedding"
    succeed("benchmark.py", "step", "--config-file", QUICK, *options, "--tasks", "masks", every)
    alone, *joint = json.loads(report.read_text())["rows"]
    assert alone["tasks"] == "none" and alone["of none"] == 1
    assert [x["tasks"] for x in joint] == ["masks", every]
    assert all(x["of none"] > 0 and x["CPU ms"] > 0 for x in joint)
    message = fail("benchmark.py", "step", "--config-file", QUICK, *options, "--tasks", "mask")
    assert "--tasks: no task 'mask', there are classification" in message
