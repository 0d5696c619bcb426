"""What people type: options anywhere, runs in place of files, and the words of ultralytics.

Commands are parsed, not run, but for the last part; see test_startup.py for what they cost.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

import pytest

from yolor_d2 import cli
from yolor_d2.arguments import words as foreign
from yolor_d2.arguments.common import check_config
from yolor_d2.completion import list_keys
from yolor_d2.runs import best_weights, find_run


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A folder with a run and what people name, which is where commands are typed."""
    run = tmp_path / "output" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("_BASE_: quick/fast_start.yaml\n")
    for name in ("model_best.pth", "model_final.pth", "model_0000009.pth"):
        (run / name).touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "IMG_001.JPG").touch()
    (tmp_path / "IMG_002.JPG").touch()
    (tmp_path / "data.yaml").write_text("train: a\nval: b\nnames: [x]\n")
    for name in ("train.json", "best.pt", "video.mp4"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parse(line: str, monkeypatch=None):
    """The arguments that a line of the shell becomes."""
    program, name, *words = shlex.split(line)
    assert program == "yolor-d2"
    command = cli.COMMANDS[name]
    sys.argv[0] = f"yolor-d2 {name}"
    module = importlib.import_module(f"yolor_d2.arguments.{command.module}")
    return module.parse_args([*command.arguments, *words])


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["yolor-d2"])


def refused(line: str, capsys) -> str:
    """What a line is answered with, which is one line and status 2."""
    with pytest.raises(SystemExit) as caught:
        parse(line)
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1, text
    return text


def pairs(args) -> dict[str, str]:
    return dict(zip(args.opts[::2], args.opts[1::2]))


# ---- Words of ultralytics: understood

ZOO = "--config-file quick/fast_start.yaml"
SIZES = dict(zip(foreign.SIZE_KEYS, ("(320,)", "320", "320", "320")))
BEST = {"MODEL.WEIGHTS": "output/mine/model_best.pth"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"train {ZOO} --epochs 20", {"SOLVER.MAX_EPOCHS": "20"}),
        (f"train {ZOO} epochs=20 imgsz=320", {"SOLVER.MAX_EPOCHS": "20", **SIZES}),
        (f"train {ZOO} --imgsz 320", SIZES),
        (f"train {ZOO} --img-size=320", SIZES),
        (f"train {ZOO} --batch 16", {"SOLVER.IMS_PER_BATCH": "16"}),
        (f"train {ZOO} --batch-size 16", {"SOLVER.IMS_PER_BATCH": "16"}),
        (f"train {ZOO} batch=-1", {"SOLVER.IMS_PER_BATCH": "auto"}),
        (f"train {ZOO} --device 0", {"MODEL.DEVICE": "cuda:0"}),
        (f"train {ZOO} device=cpu", {"MODEL.DEVICE": "cpu"}),
        (f"train {ZOO} --weights best.pt", {"MODEL.WEIGHTS": "best.pt"}),
        (f"train {ZOO} --project runs --name exp", {"OUTPUT_DIR": "runs/exp"}),
        (f"train {ZOO} name=exp", {"OUTPUT_DIR": "output/exp"}),
        (
            f"train {ZOO} --lr0 0.02 mosaic=0",
            {"SOLVER.BASE_LR": "0.02", "INPUT.AUGMENT.MOSAIC": "0"},
        ),
        (f"train {ZOO} --rect --cache", {"INPUT.RECT": "True", "INPUT.CACHE": "ram"}),
        (f"train {ZOO} --max_det 50 amp=False", {"TEST.DETECTIONS_PER_IMAGE": "50"}),
        ("eval output/mine --iou 0.5", {**BEST, "MODEL.YOLOR.NMS_THRESHOLD": "0.5"}),
        ("eval output/mine conf=0.01", {**BEST, "MODEL.YOLOR.SCORE_THRESHOLD": "0.01"}),
        ("eval output/mine batch=4", {**BEST, "TEST.IMS_PER_BATCH": "4"}),
        ("predict output/mine photos imgsz=320", {**BEST, **SIZES}),
        ("export model=output/mine", BEST),
        ("export output/mine MODEL.DEVICE=cpu", {**BEST, "MODEL.DEVICE": "cpu"}),
        (
            "predict model=output/mine/model_final.pth source=photos",
            {"MODEL.WEIGHTS": "output/mine/model_final.pth"},
        ),
    ],
)
def test_words_of_ultralytics_set_keys(line, expected, home):
    found = pairs(parse(f"yolor-d2 {line}"))
    assert expected.items() <= found.items()
    assert set(found) <= set(list_keys())


def test_a_switch_that_takes_a_value_leaves_the_next_word_alone(home):
    args = parse(f"yolor-d2 train {ZOO} --cache disk --rect SEED 3")
    assert pairs(args) == {"INPUT.CACHE": "disk", "INPUT.RECT": "True", "SEED": "3"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train data=data.yaml model=yolor_p6.yaml", {
            "train": ["data.yaml"], "val": ["data.yaml"], "config_file": "yolor_p6.yaml"
        }),
        (f"train {ZOO} --data data.yaml", {"train": ["data.yaml"], "val": ["data.yaml"]}),
        ("eval output/mine --data data.yaml", {"train": None, "val": ["data.yaml"]}),
        ("check --data data.yaml", {"train": ["data.yaml"], "val": ["data.yaml"]}),
        (f"train {ZOO} resume=True", {"resume": True}),
        (f"train {ZOO} resume=False", {"resume": False}),
        ("predict output/mine --source photos video.mp4 --conf 0.5", {
            "input": ["photos", "video.mp4"], "threshold": 0.5
        }),
        ("predict output/mine photos project=runs name=a", {"output": Path("runs/a")}),
        ("export output/mine format=torchscript", {
            "format": "torchscript", "output": Path("output/mine/model_best.torchscript")
        }),
        # Our own older words.
        ("train quick/fast_start.yaml --test train.json photos", {"val": ["train.json", "photos"]}),
        ("export output/mine --images photos", {"images": [Path("photos")]}),
        ("predict output/mine photos --batch-size 2", {"batch_size": 2}),
        ("predict output/mine photos --batch_size=2", {"batch_size": 2}),
        (f"samples {ZOO} --num 3 --output out", {"count": 3}),
        ("check --num-pictures 3", {"count": 3}),
        ("benchmark data output/mine --images 7", {"images": 7}),
        ("benchmark nms --score-threshold 0.1 --iou-threshold 0.2", {
            "score_threshold": 0.1, "iou_threshold": 0.2
        }),
        ("convert best.pt --config-file yolor_p6 --report r.json --output a.pth", {
            "json": Path("r.json")
        }),
    ],
)  # fmt: skip
def test_words_become_our_options(line, expected, home):
    args = vars(parse(f"yolor-d2 {line}"))
    assert {name: args[name] for name in expected} == expected


# ---- Answered in one line


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (f"train {ZOO} --epohcs 3", "unknown option '--epohcs'; did you mean --epochs?"),
        (f"train {ZOO} ephocs=3", "unknown option 'ephocs'; did you mean --epochs?"),
        (f"train {ZOO} --conf-file x", "unknown option '--conf-file'; did you mean --config-file?"),
        (f"train {ZOO} --eval", "unknown option '--eval'; did you mean --eval-only?"),
        (f"train {ZOO} --max-iter 5", "did you mean the key SOLVER.MAX_ITER?"),
        (f"train {ZOO} solver.max_iter 5", "did you mean the key SOLVER.MAX_ITER?"),
        (f"train {ZOO} --qqq 5", "`yolor-d2 train --help` lists all options"),
        (f"train {ZOO} --optimizer SGD", "SOLVER.OPTIMIZER SGD or Muon"),
        (f"train {ZOO} --device 0,1", "--num-gpus 2"),
        (f"train {ZOO} --imgsz 640,480", "expected one number, the longer side"),
        (f"train {ZOO} --epochs nan", "--epochs is 'nan', expected a whole number"),
        (f"train {ZOO} --lr0 nan", "--lr0 is 'nan', expected a number"),
        (f"train {ZOO} --epochs", "argument --epochs: expected one argument"),
        ("eval output/mine --epochs 3", "--epochs is for training: `yolor-d2 train`"),
        ("predict output/mine photos epochs=3", "epochs is for training"),
        ("predict output/mine photos --data data.yaml", "classes come from the configuration"),
        ("predict output/mine photos --half", "MODEL.INFERENCE.DTYPE"),
        ("predict output/mine photos --threshold nan", "expected a score from 0 to 1"),
        ("predict photos", "no model: give the folder of a run"),
        ("predict --weights best.pt photos", "no model: give the folder of a run"),
        ("predict output/mine", "no input: give"),
        ("export --project a", "--output sets the place"),
        ("train output/mine", "'output/mine' is a run: --resume continues it"),
        ("eval photos --config-file yolor_p6", "'photos' is no run"),
        ("report --outptu x", "unknown option '--outptu'; did you mean --output?"),
        ("benchmark evaluation --generated 5 --config-file yolor_p6", "--generated needs no model"),
    ],
)
def test_what_has_no_meaning_is_answered_with_our_word(line, answer, home, capsys):
    assert answer in refused(f"yolor-d2 {line}", capsys)


def test_training_without_a_configuration_says_what_to_do(home, capsys):
    with pytest.raises(SystemExit):
        parse("yolor-d2 train --train train.json photos")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and "fast_start" in lines[1] and "--resume" in lines[2]


@pytest.mark.parametrize(
    ("given", "meant"), [("val", "eval"), ("detect", "predict"), ("exprot", "export")]
)
def test_commands_of_others_lead_to_ours(given, meant, capsys):
    assert cli.main([given]) == 2
    assert capsys.readouterr().err.endswith(f"did you mean {meant!r}?\n")


def test_the_table_of_words_names_keys_that_there_are():
    for key in foreign.KEYS.values():
        assert set(key.names) <= set(list_keys())
    assert not foreign.KEYS.keys() & foreign.ADVICE.keys()


# ---- Order


@pytest.mark.parametrize(
    "line",
    [
        f"train {ZOO} --train train.json photos SEED 3 MODEL.DEVICE cpu --num-gpus 2",
        f"train SEED 3 {ZOO} --num-gpus 2 MODEL.DEVICE cpu --train train.json photos",
        f"train --train train.json photos SEED 3 --num-gpus 2 MODEL.DEVICE=cpu {ZOO}",
        "train --train train.json photos quick/fast_start.yaml SEED=3 --num-gpus 2 --device cpu",
    ],
)
def test_options_and_pairs_stand_anywhere(line, home):
    args = parse(f"yolor-d2 {line}")
    assert args.opts == ["SEED", "3", "MODEL.DEVICE", "cpu"]
    assert args.num_gpus == 2 and args.config_file == "quick/fast_start.yaml"
    assert args.train == ["train.json", "photos"]


def test_an_option_behind_pairs_is_no_pair(home):
    args = parse(f"yolor-d2 predict {ZOO} --input photos MODEL.DEVICE cpu --weights best.pt")
    assert pairs(args) == {"MODEL.DEVICE": "cpu", "MODEL.WEIGHTS": "best.pt"}


def test_what_looks_like_a_key_may_be_a_file(home):
    args = parse(f"yolor-d2 predict {ZOO} IMG_002.JPG GONE.JPG --output OUT.DIR SEED 1")
    assert args.input == ["IMG_002.JPG", "GONE.JPG"]
    assert args.output == Path("OUT.DIR") and args.opts == ["SEED", "1"]


def test_what_is_no_file_ends_a_list(home):
    args = parse(f"yolor-d2 predict {ZOO} --input photos conf=0.5 --source video.mp4 MODEL.DEVCE a")
    assert args.input == ["photos", "video.mp4"]
    assert args.threshold == 0.5 and args.opts == ["MODEL.DEVCE", "a"]


def test_a_pair_without_value_is_missed(home):
    args = parse(f"yolor-d2 train {ZOO} SEED --num-gpus 2 MODEL.DEVICE cpu")
    assert args.opts == ["MODEL.DEVICE", "cpu", "SEED"]


def test_numbers_below_zero_are_values(home):
    args = parse(f"yolor-d2 train {ZOO} SEED -1 --machine-rank -1")
    assert args.opts == ["SEED", "-1"] and args.machine_rank == -1


# ---- Runs


@pytest.mark.parametrize("run", ["output/mine", "output/mine/", "output/mine/config.yaml"])
@pytest.mark.parametrize("form", ["{}", "--config-file {}"])
@pytest.mark.parametrize(
    "command",
    ["eval", "predict {} photos", "export", "implicit --output out {}", "benchmark predict",
     "benchmark border", "benchmark evaluation", "benchmark model",
     "benchmark export --onnx a.onnx {}"],
)  # fmt: skip
def test_a_run_stands_for_its_configuration_and_best_weights(command, form, run, home):
    command = command if "{}" in command else f"{command} {{}}"
    args = parse(f"yolor-d2 {command.format(form.format(run))}")
    assert Path(args.config_file) == Path("output/mine/config.yaml")
    assert pairs(args)["MODEL.WEIGHTS"] == "output/mine/model_best.pth"
    assert args.notes[0].endswith(": weights output/mine/model_best.pth")


@pytest.mark.parametrize(
    "command", ["analyze", "samples --output out", "anchors", "benchmark data"]
)
def test_a_run_stands_for_its_configuration(command, home):
    args = parse(f"yolor-d2 {command} output/mine")
    assert args.config_file == "output/mine/config.yaml" and args.opts == []


def test_a_checkpoint_of_a_run_stands_for_it(home):
    for line in ("output/mine/model_0000009.pth", "--weights output/mine/model_0000009.pth"):
        args = parse(f"yolor-d2 eval {line}")
        assert args.config_file == "output/mine/config.yaml"
        assert pairs(args)["MODEL.WEIGHTS"] == "output/mine/model_0000009.pth"
    args = parse("yolor-d2 convert output/mine/model_best.pth --output a.safetensors")
    assert args.config_file == "output/mine/config.yaml"
    args = parse(f"yolor-d2 predict {ZOO} photos --weights output/mine")
    assert pairs(args)["MODEL.WEIGHTS"] == "output/mine/model_best.pth"
    assert args.config_file == "quick/fast_start.yaml"


def test_a_run_without_weights_is_not_predicted_with(home, capsys):
    for path in (home / "output" / "mine").glob("*.pth"):
        path.unlink()
    assert "'output/mine' has no weights yet" in refused("yolor-d2 eval output/mine", capsys)
    assert pairs(parse("yolor-d2 train output/mine --resume")) == {"OUTPUT_DIR": "output/mine"}


def test_options_and_pairs_win_over_the_run(home):
    args = parse("yolor-d2 eval output/mine --config-file yolor_csp.yaml --weights best.pt")
    assert args.config_file == "yolor_csp.yaml" and pairs(args)["MODEL.WEIGHTS"] == "best.pt"
    args = parse("yolor-d2 eval output/mine OUTPUT_DIR elsewhere")
    assert pairs(args)["OUTPUT_DIR"] == "elsewhere"


def test_training_goes_on_where_the_run_lies(home):
    args = parse("yolor-d2 train output/mine --resume")
    assert args.config_file == "output/mine/config.yaml" and args.resume
    assert pairs(args) == {"OUTPUT_DIR": "output/mine"}  # its last checkpoint, not the best one
    assert pairs(parse("yolor-d2 eval output/mine --resume")) == {"OUTPUT_DIR": "output/mine"}
    anew = parse("yolor-d2 train output/mine OUTPUT_DIR other")
    assert pairs(anew) == {"OUTPUT_DIR": "other"}


def test_the_best_weights_that_there_are(home):
    folder = home / "output" / "mine"
    for name in ("model_best.pth", "model_final.pth"):
        assert best_weights(folder) == folder / name
        (folder / name).unlink()
    assert best_weights(folder) is None
    (folder / "last_checkpoint").write_text("model_0000009.pth")
    assert best_weights(folder) == folder / "model_0000009.pth"
    (folder / "last_checkpoint").write_text("../../best.pt")  # nothing outside the run
    assert best_weights(folder) is None


def test_a_configuration_of_ones_own_is_no_run(home):
    (home / "config.yaml").write_text("SEED: 1\n")
    assert find_run("config.yaml") is None and find_run("output") is None
    (home / "metrics.json").touch()
    assert find_run("config.yaml").weights is None


def test_reports_take_what_is_in_a_run(home):
    assert parse("yolor-d2 show output/mine/config.yaml").run == Path("output/mine")
    args = parse("yolor-d2 report output/mine/model_best.pth output/mine")
    assert args.runs == [Path("output/mine")] * 2


def test_predictions_have_a_place_of_their_own(home, capsys):
    args = parse("yolor-d2 predict output/mine photos IMG_002.JPG")
    assert args.output == Path("predictions")
    assert args.input == ["photos", "IMG_002.JPG"]
    check_config(args)
    assert capsys.readouterr().err.endswith("predict: --output predictions\n")
    assert parse("yolor-d2 predict output/mine photos --csv a.csv").output is None
    for name in ("predictions", "predictions_2"):  # those of earlier commands
        (home / name).mkdir()
    assert parse("yolor-d2 predict output/mine photos").output == Path("predictions_3")
    assert parse("yolor-d2 predict output/mine photos --resume").output == Path("predictions_2")


def test_exports_lie_beside_the_weights(home, capsys):
    args = parse("yolor-d2 export output/mine")
    assert args.output == Path("output/mine/model_best.onnx")
    assert args.notes[-1].endswith(": --output output/mine/model_best.onnx")
    assert "--output is missing" in refused(f"yolor-d2 export {ZOO} --weights best.pt", capsys)
