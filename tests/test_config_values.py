"""What a value of the configuration may be, and what a base may be called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2 import model_zoo
from yolor_d2.commands.fit_anchors import base_from
from yolor_d2.config import add_yolor_config, get_yolor_cfg, load_config, read_config
from yolor_d2.d2.config import get_cfg


def merge_pairs(tmp_path: Path, key: str, value: str):
    return load_config("yolor_ssss_s2d.yaml", ["MODEL.DEVICE", "cpu", key, value])


def merge_file(tmp_path: Path, key: str, value: str):
    node = yaml.safe_load(value)
    for name in reversed(key.split(".")):
        node = {name: node}
    node = {"_BASE_": "yolor_ssss_s2d.yaml", **node}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(node))
    return read_config(tmp_path / "mine.yaml")


def merge_elsewhere(tmp_path: Path, key: str, value: str):
    """As a script of somebody's own does."""
    cfg = get_cfg()
    add_yolor_config(cfg)
    cfg.merge_from_list([key, value])
    cfg.merge_from_other_cfg(cfg.clone())
    return cfg


WAYS = pytest.mark.parametrize("way", [merge_pairs, merge_file, merge_elsewhere])


@WAYS
@pytest.mark.parametrize(
    ("key", "value", "taken"),
    [
        ("SOLVER.CLIP_NORM", "10", 10.0),
        ("INPUT.AUGMENT.MOSAIC", "0", 0.0),
        ("SOLVER.BASE_LR", "1", 1.0),  # Detectron2's own
        ("SOLVER.CLIP_NORM", "2.5", 2.5),
        ("SOLVER.STEPS", "[3, 4]", (3, 4)),
        ("OUTPUT_DIR", "mine", "mine"),
    ],
)
def test_whole_numbers_are_numbers(way, key, value, taken, tmp_path):
    node = way(tmp_path, key, value)
    for name in key.split("."):
        node = node[name]
    assert node == taken and type(node) is type(taken)


@WAYS
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("SOLVER.MAX_ITER", "2.5", "SOLVER.MAX_ITER is 2.5, expected a whole number, such as "),
        ("SOLVER.MAX_ITER", "10.0", "expected a whole number"),  # never silently
        ("SOLVER.BASE_LR", "fast", "SOLVER.BASE_LR is 'fast', expected a number, such as 0.0"),
        ("SOLVER.AMP.ENABLED", "1", "SOLVER.AMP.ENABLED is 1, expected True or False"),
        ("INPUT.MIN_SIZE_TRAIN", "640", "INPUT.MIN_SIZE_TRAIN is 640, expected a list, such as ("),
        ("OUTPUT_DIR", "[1]", "OUTPUT_DIR is [1], expected text"),
    ],
)
def test_a_value_of_another_type_names_the_key_and_what_was_expected(
    way, key, value, message, tmp_path
):
    with pytest.raises(ValueError, match=re.escape(message)):
        way(tmp_path, key, value)


def test_text_of_digits_is_text():
    assert load_config("yolor_ssss_s2d.yaml", ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", "2026"])[
        "OUTPUT_DIR"
    ] == ("2026")


@pytest.mark.parametrize("value", ["BASE_LR: .nan", "STEPS: [1, .nan]"])
def test_nan_is_no_number(value, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"SOLVER: {{{value}}}")
    with pytest.raises(ValueError, match=r"mine\.yaml: SOLVER\.(BASE_LR|STEPS) is .*nan.*NaN"):
        read_config(tmp_path / "mine.yaml")


def test_a_node_of_ones_own_class_stays_one():
    class Node(type(get_cfg())):
        pass

    cfg = Node(get_cfg())
    add_yolor_config(cfg)
    assert type(cfg) is Node
    assert get_yolor_cfg().clone() == get_yolor_cfg()


# ---- Bases


@pytest.mark.parametrize("base", ["quick/fast_start.yaml", "[quick/fast_start.yaml]"])
@pytest.mark.parametrize("plain", [False, True], ids=["ours", "a script of your own"])
def test_a_base_may_be_a_name_of_the_model_zoo(base, plain, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"_BASE_: {base}\nSEED: 3\n")
    if plain:
        cfg = get_cfg()
        add_yolor_config(cfg)
        cfg.merge_from_file(str(path))
    else:
        cfg = load_config(path, ["MODEL.DEVICE", "cpu"])
    assert cfg.MODEL.YOLOR.VARIANT == "yolor_ssss_s2d" and cfg.SEED == 3


def test_a_file_beside_comes_before_the_zoo(tmp_path, monkeypatch):
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "fast_start.yaml").write_text("SEED: 5\n")
    (tmp_path / "mine.yaml").write_text("_BASE_: quick/fast_start.yaml\n")
    assert read_config(tmp_path / "mine.yaml").SEED == 5
    # "~" is the folder at home.
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "other.yaml").write_text('_BASE_: [yolor_csp.yaml, "~/mine.yaml"]\n')
    cfg = load_config(tmp_path / "other.yaml", ["MODEL.DEVICE", "cpu"])
    assert cfg.SEED == 5 and cfg.MODEL.YOLOR.VARIANT == "yolor_csp"


def test_later_bases_and_the_file_itself_win(tmp_path):
    (tmp_path / "a.yaml").write_text("SEED: 1\nSOLVER: {MAX_ITER: 1, WARMUP_ITERS: 1}\n")
    (tmp_path / "b.yaml").write_text("SEED: 2\nSOLVER: {MAX_ITER: 2}\n")
    (tmp_path / "c.yaml").write_text("_BASE_: [a.yaml, b.yaml]\nSEED: 3\n")
    cfg = read_config(tmp_path / "c.yaml")
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS) == (3, 2, 1)


@pytest.mark.parametrize(
    "name", ["yolor_p6.yaml", "yolor_p6", "configs/yolor_p6.yaml", "configs/quick/fast_start.yaml"]
)
def test_names_as_people_write_them(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = model_zoo.find_config(name)
    assert path.is_file() and model_zoo.zoo_name(path) in (
        "yolor_p6.yaml",
        "quick/fast_start.yaml",
    )


def test_the_file_of_anchors_can_be_taken_elsewhere(tmp_path):
    """It names its base as the model zoo does, or by the way from one to the other."""
    zoo = model_zoo.find_config("quick/fast_start.yaml")
    assert base_from(tmp_path / "anchors.yaml", zoo) == "quick/fast_start.yaml"
    own = tmp_path / "a" / "own.yaml"
    assert base_from(tmp_path / "b" / "anchors.yaml", own) == "../a/own.yaml"


def test_a_word_in_place_of_a_number_is_for_anybodys_script(tmp_path):
    """Of two values the last counts, whatever their types."""
    from yolor_d2.config import add_yolor_config
    from yolor_d2.d2.config import get_cfg

    cfg = get_cfg()
    add_yolor_config(cfg)
    (tmp_path / "mine.yaml").write_text("SOLVER:\n  IMS_PER_BATCH: auto\n")
    cfg.merge_from_file(str(tmp_path / "mine.yaml"))
    assert cfg.SOLVER.IMS_PER_BATCH == "auto"
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", "8", "SOLVER.IMS_PER_BATCH", "auto"])
    assert cfg.SOLVER.IMS_PER_BATCH == "auto"
    cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", "auto", "SOLVER.IMS_PER_BATCH", "8"])
    assert cfg.SOLVER.IMS_PER_BATCH == 8
    with pytest.raises(ValueError, match=r"SOLVER.IMS_PER_BATCH is 'many', expected a whole"):
        cfg.merge_from_list(["SOLVER.IMS_PER_BATCH", "many"])
