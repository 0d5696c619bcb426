"""Former names of modules go on working, with a warning that names the new one."""

import importlib
import subprocess
import sys
import warnings

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2._moved import MOVED, NAMES


@pytest.mark.parametrize("former", sorted(MOVED))
def test_a_former_name_has_what_its_new_homes_have(former):
    homes = [importlib.import_module(f"yolor_d2.{home}") for home in MOVED[former]]
    with warnings.catch_warnings():  # of a former package around it
        warnings.simplefilter("ignore")
        importlib.import_module(f"yolor_d2.{former}".rpartition(".")[0])
    sys.modules.pop(f"yolor_d2.{former}", None)
    with pytest.warns(DeprecationWarning, match=f"is yolor_d2.{MOVED[former][0]}( |$)"):
        module = importlib.import_module(f"yolor_d2.{former}")
    for home in reversed(homes):
        own = [
            name
            for name, value in vars(home).items()
            if getattr(value, "__module__", None) == home.__name__ and not name.startswith("_")
        ]
        assert all(getattr(module, name) is getattr(home, name) for name in own)
    with pytest.raises(AttributeError, match="has no attribute 'not_there'"):
        _ = module.not_there


def test_no_former_name_hides_a_module():
    from importlib.machinery import PathFinder

    import yolor_d2

    for former in MOVED:
        parent, _, _ = f"yolor_d2.{former}".rpartition(".")
        try:
            path = importlib.import_module(parent).__path__
        except (ImportError, AttributeError, DeprecationWarning):
            continue
        assert PathFinder.find_spec(f"yolor_d2.{former}", list(path)) is None, former
    assert yolor_d2.__version__


@pytest.mark.parametrize(
    ("module", "former"),
    [(module, name) for module, names in NAMES.items() for name in names if ":" not in names[name]],
)
def test_a_former_name_is_what_took_its_place(module, former):
    with warnings.catch_warnings():  # of a former module
        warnings.simplefilter("ignore")
        found = importlib.import_module(f"yolor_d2.{module}")
    home, _, name = NAMES[module][former].rpartition(".")
    expected = getattr(importlib.import_module(f"yolor_d2.{home}"), name)
    assert former not in vars(found)
    if module in MOVED:
        assert getattr(found, former) is expected
    else:
        with pytest.warns(DeprecationWarning, match=f"{former} is yolor_d2.{home}.{name} now"):
            assert getattr(found, former) is expected
    with pytest.raises(AttributeError, match="has no attribute 'not_there'"):
        _ = found.not_there


def test_functions_of_a_configuration_are_members_of_its_training_data(cfg):
    from yolor_d2.data import loader
    from yolor_d2.data.training_data import TrainingData

    with pytest.warns(DeprecationWarning, match=r"is yolor_d2\..*\.TrainingData\(cfg\)\.count_im"):
        count = loader.count_training_images
    assert count(cfg) == TrainingData(cfg).count_images() == 24
    with pytest.warns(DeprecationWarning):
        assert loader.needs_polygons(cfg) is False
    with pytest.warns(DeprecationWarning):
        truth = loader.load_training_truth(cfg, polygons=True)
    assert len(truth) == 24
    members = [name for name in NAMES["data.loader"].values() if ":" in name]
    assert all(hasattr(TrainingData, name.partition(":")[2]) for name in members)


def test_a_task_may_name_its_metrics_figures():
    from yolor_d2.tasks import Task

    with pytest.warns(DeprecationWarning, match="Own.figures` is `metrics` now"):

        class Own(Task):
            figures = "area"

    assert Own.metrics == "area"


@pytest.mark.heavy
def test_a_former_name_runs_as_a_program(tmp_path):
    command = [sys.executable, "-m", "yolor_d2.data.toy", str(tmp_path / "toy"), "--train", "2"]
    done = subprocess.run([*command, "--val", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "toy" / "instances_train.json").is_file()
