"""Somebody who comes from ultralytics: docs/from_ultralytics.md, typed with their words."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import processes
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.arguments.convert_dataset import parse_args as parse_conversion
from yolor_d2.commands.convert_dataset import main as convert_dataset
from yolor_d2.datasets.catalog import load_test_items
from yolor_d2.toy import ToyDataset

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.slow
def test_from_a_data_set_to_boxes_in_the_words_of_ultralytics(toy: ToyDataset, tmp_path):
    data = f"--train {toy.train_json} {toy.train_images} --val {toy.val_json} {toy.val_images}"
    lines = [
        f"train model=quick/ssss_320_cpu.yaml {data} epochs=1 imgsz=64 batch=8 device=cpu seed=3 "
        "project=runs name=exp SOLVER.WARMUP_ITERS 0 SOLVER.WARMUP_EPOCHS 0 TEST.REPORT False",
        "eval runs/exp --iou 0.5 batch=2 TEST.REPORT=False",
        f"predict runs/exp {toy.val_images} --conf 0 --max_det 3 --project runs --name found",
        f"predict --weights runs/exp --source {toy.val_images} --json found.json imgsz=96",
        "analyze runs/exp",
    ]
    errors = ""
    for line in lines:
        done = processes.run(["-m", "yolor_d2", *shlex.split(line)], cwd=tmp_path)
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
        errors += done.stderr
    assert "weights runs/exp/model_best.pth" in errors
    found = tmp_path / "runs" / "found"
    drawn = {path.stem for path in found.iterdir() if not path.name.startswith(".")}
    assert drawn == {path.stem for path in toy.val_images.iterdir()}
    assert len(json.loads((tmp_path / "found.json").read_text())) == len(drawn)
    config = (tmp_path / "runs" / "exp" / "config.yaml").read_text()
    assert "MAX_SIZE_TEST: 64" in config and "SEED: 3" in config


@pytest.mark.parametrize(("split", "option"), [("train", "--train"), ("val", "--val")])
def test_a_converted_set_is_recommended_for_what_it_is(split, option, tmp_path, capsys):
    import cv2
    import numpy as np

    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text(f"{split}: images\nnames: [x]\n")
    output = tmp_path / "out.json"
    words = [str(tmp_path / "data.yaml"), "--split", split, "--output", str(output)]
    convert_dataset(parse_conversion(words))
    assert f"\n  {option} {output} " in capsys.readouterr().out


def test_an_unknown_data_set_names_the_nearest():
    from yolor_d2.d2.data import DatasetCatalog

    name = "walk/instances_train"
    DatasetCatalog.register(name, list)
    try:
        with pytest.raises(KeyError, match=rf"'walk/instances_trian'; did you mean '{name}'\?"):
            load_test_items("walk/instances_trian")
    finally:
        DatasetCatalog.remove(name)
