"""What is written of videos and images, whatever ends the process, and how it is gone on with."""

import csv
import json
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime
pytest.importorskip("av")

import av
import numpy as np
from predict_commands import SIGNALS, write_images, write_video


def outputs(folder: Path) -> list[str]:
    """Options that write everything there is."""
    options = ("output", "json", "csv", "coco-json", "yolo-txt", "crops")
    names = ("drawn", "found.json", "found.csv", "coco.json", "labels", "crops")
    found = []
    for option, name in zip(options, names):
        found += [f"--{option}", str(folder / name)]
    return found


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the one that notes how far it is."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if not path.name.endswith(".progress")
    }


def check_same(one: Path, other: Path) -> None:
    """Files are the same bytes, videos the same frames at the same times.

    Of 800 parts of a video x264 encoded one differently the second time, by a few grey levels.
    """
    again = content(other)
    for name, data in content(one).items():
        assert name in again
        if data == again[name]:
            continue
        assert name.endswith(".mp4"), name
        with av.open(one / name) as first, av.open(other / name) as second:
            assert first.streams.video[0].frames == second.streams.video[0].frames
            for a, b in zip(first.decode(video=0), second.decode(video=0)):
                assert a.pts == b.pts
                left, right = (x.to_ndarray(format="rgb24").astype(int) for x in (a, b))
                assert np.abs(left - right).mean() < 1


def check_whole(folder: Path, killed: bool) -> None:
    """What lies there can be read."""
    for line in (folder / "found.csv").read_text().splitlines()[: -1 if killed else None]:
        assert len(next(csv.reader([line]))) == 9
    if killed:
        return
    records = json.loads((folder / "found.json").read_text())
    results = json.loads((folder / "coco.json").read_text())
    images = json.loads((folder / "coco.images.json").read_text())["images"]
    assert len(images) == len(records)
    assert sum(len(x["detections"]) for x in records) == len(results)
    for path in (folder / "drawn").glob("*.mp4"):
        of_video = [x for x in records if Path(x["file_name"]).stem == path.stem]
        with av.open(path) as video:
            shown = [frame.time for frame in video.decode(video=0)]
        assert shown == pytest.approx([x["seconds"] for x in of_video], abs=1e-6)


@pytest.mark.heavy
def test_interrupted_runs_end_with_the_files_of_an_undisturbed_one(predict, tmp_path):
    video = write_video(tmp_path / "video.mp4", 300)
    images = write_images(tmp_path / "images", 150)
    (images / "broken.jpg").write_bytes(b"no image")
    inputs = ["--input", video, images, "--batch-size", 4]
    code, text = predict(*inputs, *outputs(tmp_path / "whole"))
    assert code == 1 and "1 could not be read" in text, text[-2000:]
    # In the first part of the video and in the second, in the images, in the middle of a batch.
    for number, (kill_after, name) in enumerate(
        [(90, "SIGKILL"), (150, "SIGINT"), (275, "SIGTERM"), (20, "SIGKILL"), (85, "SIGINT")]
    ):
        more = ["--resume"] if number else []
        command = [*inputs, *outputs(tmp_path / "again"), *more]
        code, text = predict(*command, kill_after=kill_after, signal=name)
        assert code == SIGNALS[name], text[-2000:]
        if name != "SIGKILL":
            last = text.strip().splitlines()[-1]
            assert f"Stopped by {name} after" in last and "--resume continues" in last
            check_whole(tmp_path / "again", killed=False)
    code, text = predict(*inputs, *outputs(tmp_path / "again"), "--resume")
    assert code == 1 and "1 could not be read" in text, text[-2000:]
    check_same(tmp_path / "whole", tmp_path / "again")
    assert len(content(tmp_path / "whole")) == len(content(tmp_path / "again")) > 300 + 150
    check_whole(tmp_path / "whole", killed=False)
    code, text = predict(*inputs, *outputs(tmp_path / "again"), "--resume")
    assert code == 1 and "Nothing is left to do" in text


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["found.jsonl", "found.json", "found.csv"])
def test_every_kind_of_file_is_cut_at_its_last_record(predict, tmp_path, name):
    video = write_video(tmp_path / "video.mp4", 60)
    option = f"--{Path(name).suffix[1:].replace('jsonl', 'json')}"
    command = ["--input", video, option, tmp_path / "whole" / name]
    assert predict(*command)[0] == 0
    command[-1] = tmp_path / "again" / name
    assert predict(*command, kill_after=30)[0] == -9
    with command[-1].open("ab") as file:
        file.write(b"half a rec" * 10_000)  # as a system leaves it that is switched off
    assert predict(*command, "--resume")[0] == 0
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


@pytest.mark.heavy
def test_other_command_lines_are_refused(predict, tmp_path):
    video = write_video(tmp_path / "video.mp4", 40)
    command = ["--input", video, "--csv", tmp_path / "found.csv"]
    assert predict(*command, kill_after=20, signal="SIGTERM")[0] == 143
    before = (tmp_path / "found.csv").read_bytes()
    code, text = predict(*command)
    assert code == 1 and "not finished; --resume continues, --overwrite starts again" in text
    code, text = predict(*command, "--threshold", 0.85, "--resume")
    assert code == 1 and "--threshold is 0.85, was 0.25" in text
    assert (tmp_path / "found.csv").read_bytes() == before
    write_video(video, 41)
    code, text = predict(*command, "--resume")
    assert code == 1 and "the list of inputs has changed" in text
    assert predict(*command, "--overwrite")[0] == 0
    # The same again is the same file; another one does not take its place.
    assert predict(*command)[0] == 0
    assert predict(*command, "--stride", 2)[0] == 1
    with (tmp_path / "found.csv").open("ab") as file:
        file.write(b"by hand")


def test_files_changed_by_hand_are_not_gone_on_with(predict, tmp_path):
    video = write_video(tmp_path / "video.mp4", 40)
    command = ["--input", video, "--csv", tmp_path / "found.csv"]
    assert predict(*command, kill_after=20, signal="SIGTERM")[0] == 143
    text = (tmp_path / "found.csv").read_text()
    (tmp_path / "found.csv").write_text(text.replace("person", "parson"))
    code, text = predict(*command, "--resume")
    assert code == 1 and "has been changed since it was written" in text
    (tmp_path / ".found.csv.progress").unlink()
    code, text = predict(*command, "--resume")
    assert code == 1 and "which says how far it is" in text


@pytest.mark.heavy
def test_masks_and_keypoints_go_on(predict, tmp_path):
    """Every file has them, also of followed objects, and those of a resumed run are the same."""
    pytest.importorskip("trackers")
    tasks = "MODEL.YOLOR.TASKS"
    model = [f"{tasks}.MASKS.ENABLED", True, f"{tasks}.KEYPOINTS.ENABLED", True]
    model += [f"{tasks}.KEYPOINTS.NUM_KEYPOINTS", 2]
    inputs = ["--input", write_video(tmp_path / "video.mp4", 28), "--batch-size", 4, "--track"]
    code, text = predict(*inputs, *outputs(tmp_path / "whole"), *model)
    assert code == 0, text[-2000:]
    code, text = predict(
        *inputs, *outputs(tmp_path / "again"), *model, kill_after=14, signal="SIGTERM"
    )
    assert code == SIGNALS["SIGTERM"], text[-2000:]
    code, text = predict(*inputs, *outputs(tmp_path / "again"), "--resume", *model)
    assert code == 0, text[-2000:]
    check_same(tmp_path / "whole", tmp_path / "again")
    records = json.loads((tmp_path / "whole" / "found.json").read_text())
    first = next(x for record in records for x in record["detections"])
    (x, y, _, _), (left, right) = first["bbox"], first["keypoints"]
    assert left[:2] == [x, y] and right[1] == y and right[0] > x
    with open(tmp_path / "whole" / "found.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    known = [row for row in rows if row["identity"]]
    assert known and all(row["polygons"] and row["point_1_x"] for row in known)
    results = json.loads((tmp_path / "whole" / "coco.json").read_text())
    assert len(results) == len(rows) and all(len(x["keypoints"]) == 6 for x in results)
    assert all(x["segmentation"]["counts"] for x in results)
    labels = [x.read_text() for x in (tmp_path / "whole" / "labels").iterdir()]
    assert max(len(line.split()) for text in labels for line in text.splitlines()) > 5


@pytest.mark.heavy
def test_identities_go_on(predict, tmp_path):
    pytest.importorskip("trackers")
    video = write_video(tmp_path / "video.mp4", 120)
    command = ["--input", video, "--track", "--json", tmp_path / "whole.json"]
    code, text = predict(*command)
    assert code == 0, text[-2000:]
    command[-1] = tmp_path / "again.json"
    assert predict(*command, kill_after=70, signal="SIGINT")[0] == 130
    assert predict(*command, "--resume")[0] == 0
    whole = (tmp_path / "whole.json").read_bytes()
    assert whole == (tmp_path / "again.json").read_bytes()
    found = [x["identity"] for record in json.loads(whole) for x in record["detections"]]
    assert len({x for x in found if x is not None}) > 3


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.heavy
@pytest.mark.parametrize("option", ["--output", "--json", "--csv", "--crops"])
def test_a_full_disk_is_one_line_and_what_fits_is_whole(predict, tmp_path, small_disk, option):
    video = write_video(tmp_path / "video.mp4", 1200)
    target = small_disk / {"--json": "found.json", "--csv": "found.csv"}.get(option, "found")
    (small_disk / "other").write_bytes(bytes(90_000))
    code, text = predict("--input", video, option, target)
    last = text.strip().splitlines()[-1]
    assert code == 1 and "Traceback" not in text
    # Which of the two is written when the disk is full depends on the time.
    written = (str(target), str(target.with_name(f".{target.name}.progress")))
    assert "No space left on device" in last and any(path in last for path in written)
    assert "--resume" in last
    if option == "--json":
        assert isinstance(json.loads(target.read_text()), list)
    (small_disk / "other").unlink()
    if option in ("--json", "--csv"):
        subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
        assert predict("--input", video, option, target, "--resume")[0] == 0
        whole = tmp_path / target.name
        assert predict("--input", video, option, whole)[0] == 0
        assert target.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_a_long_video_is_looked_at_in_flat_memory(predict, tmp_path):
    """YOLOR_D2_FRAMES sets its length; killed at random, it ends with the same files."""
    frames = int(os.environ.get("YOLOR_D2_FRAMES", "3000"))
    video = write_video(tmp_path / "video.mp4", frames)
    inputs = ["--input", video]
    files = ["drawn", "found.csv", "found.json", "coco.json"]

    def options(folder: Path) -> list:
        names = ("--output", "--csv", "--json", "--coco-json")
        return [x for pair in zip(names, (folder / file for file in files)) for x in pair]

    code, text = predict(*inputs, *options(tmp_path / "whole"), report_memory=frames // 10)
    assert code == 0, text[-2000:]
    memory = [float(line.split()[2]) for line in text.splitlines() if line.startswith("memory ")]
    print("peak memory in MiB, every tenth of the video:", memory)
    assert len(memory) == 10
    assert memory[-1] - memory[1] < 30
    random.seed(os.environ.get("YOLOR_D2_SEED", "1"))
    left, more, kills = frames, [], 0
    while True:
        name = random.choice(list(SIGNALS))
        order = {"kill_after": random.randrange(left), "signal": name} if kills < 12 else {}
        code, text = predict(*inputs, *options(tmp_path / "again"), *more, **order)
        if code == 0:
            break
        assert code == SIGNALS[name], text[-2000:]
        more, kills = ["--resume"], kills + 1
        # Most kills come before the run is through.
        left = max(frames // 6, 1)
    print("kills:", kills)
    check_same(tmp_path / "whole", tmp_path / "again")
