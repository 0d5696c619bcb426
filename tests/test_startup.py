"""Help, completion and wrong calls are answered before torch, Detectron2 and the like are imported;
importing the package registers the models all the same."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shlex
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import torch

pytest.importorskip("yolor_d2.d2.config")  # either runtime

import yolor_d2
from yolor_d2 import cli, completion
from yolor_d2.ablation import SCALES
from yolor_d2.arguments import export_model, report, run_ablation
from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.commands.shell import explain
from yolor_d2.config import get_yolor_cfg, list_keys
from yolor_d2.d2 import RUNTIME
from yolor_d2.export import FORMATS
from yolor_d2.report.files import REPORT_NAME

REPOSITORY = Path(__file__).parents[1]
QUICK = ["--config-file", "quick/ssss_320_cpu.yaml"]
# What takes seconds to import.
HEAVY = ("torch", "torchvision", "detectron2", "fvcore", "cv2", "numpy", "PIL", "pycocotools")
# Of CPU time; such a call takes 0.1 to 0.2 where importing torch alone takes 2.
SECONDS = 0.5
# Lets a process end with the names of heavy modules and a status of its own, if there are any.
WATCH = f"""
import atexit, os, sys
def tell():
    heavy = sorted(set({HEAVY!r}) & sys.modules.keys())
    if heavy:
        os.write(2, f"imported: {{heavy}}".encode())
        os._exit(99)
atexit.register(tell)
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> dict[str, str]:
    """Environment in which each Python process tells what it has imported at its end."""
    folder = tmp_path_factory.mktemp("watch")
    (folder / "sitecustomize.py").write_text(WATCH)
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}"}


def call(
    command: list, environment: dict, folder: Path, fresh: bool
) -> tuple[int, str, str, float]:
    """Exit status, output, errors and CPU seconds of a process."""
    paths = [folder / name for name in ("out", "err")]
    for path in paths:
        path.write_bytes(b"")
    if fresh:
        with open(paths[0], "wb") as out, open(paths[1], "wb") as err:
            process = subprocess.Popen(
                list(map(str, command)), stdout=out, stderr=err, cwd=folder, env=environment
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = code = os.waitstatus_to_exitcode(status)
        seconds = usage.ru_utime + usage.ru_stime
    else:
        forked = processes.Process(
            command[1:], *paths, cwd=folder, environment=environment, light=True, before=WATCH
        )
        code, seconds = forked.wait(), forked.seconds
    return code, *(path.read_text() for path in paths), seconds


def answer(
    command: list, environment: dict, folder: Path, fresh: bool = False
) -> tuple[int, str, str]:
    """What a process answers, when it does so quickly and without importing much.

    Args:
        fresh: in a process that imports everything anew, the package too.
    """
    status, out, err, seconds = call(command, environment, folder, fresh)
    assert status != 99, err
    for _ in range(2):  # where the machine is busy, the first calls may be slow
        if seconds < SECONDS:
            break
        seconds = call(command, environment, folder, fresh)[3]
    assert seconds < SECONDS, seconds
    return status, out, err


WAYS = ("program", "module", "script")


def command_of(way: str, name: str) -> list:
    """A command in one of the ways in which users call it."""
    if way == "script":
        known = cli.COMMANDS[name]
        return [sys.executable, REPOSITORY / "tools" / f"{known.module}.py", *known.arguments]
    if way == "module":
        return [sys.executable, "-m", "yolor_d2", name]
    # What the installed program is.
    code = "import sys; from yolor_d2.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code, name]


# ---- Help


@pytest.mark.heavy
@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help(name, watched, tmp_path):
    for way in WAYS:
        status, out, _ = answer([*command_of(way, name), "--help"], watched, tmp_path, fresh=True)
        assert status == 0 and out.startswith("usage: ") and "options:" in out


@pytest.mark.heavy
@pytest.mark.parametrize("way", ["program", "module"])
def test_the_program_itself(way, watched, tmp_path):
    status, out, _ = answer(command_of(way, "--help"), watched, tmp_path, fresh=True)
    assert status == 0 and "commands:" in out
    status, out, _ = answer(command_of(way, "--version"), watched, tmp_path)
    assert (status, out) == (0, f"yolor-d2 {yolor_d2.__version__}\n")
    status, _, err = answer(command_of(way, "trian"), watched, tmp_path)
    assert status == 2 and "did you mean 'train'" in err


@pytest.mark.heavy
def test_help_does_not_warn_of_the_runtime(watched, tmp_path):
    """That warning is once for each command that works."""
    environment = {**watched, "YOLOR_D2_RUNTIME": ""}
    assert answer([*command_of("module", "train"), "--help"], environment, tmp_path)[2] == ""


# ---- Wrong calls


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    """Paths by name: existing ones and missing ones."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png", "height": 3, "width": 4}], '
        '"annotations": [], "categories": [{"id": 1, "name": "a"}]}'
    )
    names = ["images", "empty", "a.json", "none", "none.json", "none.pth", "out", "out.onnx"]
    names += ["out.pth", "none.txt"]
    return {name.replace(".", "_"): str(tmp_path / name) for name in names}


CONFIG = shlex.join(QUICK)
# Command, and what it says. {x} is a path of `files`.
MISSING = {
    "train --config-file none.yaml": "no configuration 'none.yaml'",
    "eval --config-file none.yaml": "no configuration 'none.yaml'",
    "analyze --config-file none.yaml": "no configuration 'none.yaml'",
    "predict --config-file none.yaml --input {images} --output {out}": "no configuration 'none",
    f"train {CONFIG} --train {{none_json}} {{images}}": "no annotation file '{none_json}'",
    f"train {CONFIG} --train {{a_json}} {{none}}": "--train: no folder '{none}'",
    f"train {CONFIG} --train {{a_json}} {{images}} MODEL.WEIGHTS {{none_pth}} DATASETS.CHECK False "
    "OUTPUT_DIR {out}": "MODEL.WEIGHTS or last checkpoint: no such file '{none_pth}'",
    f"eval {CONFIG} --test {{a_json}} {{images}} MODEL.WEIGHTS {{none_pth}} DATASETS.CHECK False "
    "OUTPUT_DIR {out}": "MODEL.WEIGHTS or last checkpoint: no such file '{none_pth}'",
    f"train {CONFIG} SEED": "overrides are KEY VALUE pairs, but 'SEED' has no value",
    f"train {CONFIG} SEDE.A 1": "unknown configuration key 'SEDE.A'",
    "check --train {a_json} {none}": "--train: no folder '{none}'",
    "check --train {none_json} {images}": "--train: no annotation file '{none_json}'",
    "check --train {a_json}": "--train '{a_json}': a COCO file needs the folder of its images too",
    "check --val {none}": "no such file or folder '{none}'",
    "convert-data {none} --output {out}": "no such file or folder '{none}'",
    "convert-data {images} --output {out} --names {none_txt}": "'{none_txt}': No such file",
    f"anchors {CONFIG} --train {{none_json}} {{images}}": "no annotation file '{none_json}'",
    f"samples {CONFIG} --train {{a_json}} {{none}} --output {{out}}": "--train: no folder '{none}'",
    "report {empty}": "'{empty}' is no run: it has no config.yaml",
    "report {empty} {a_json}": "'{empty}' is no run: it has no config.yaml",
    "report --results {none_json} --annotations {a_json} {images} --output {out}": "no such path",
    "show {none}": "'{none}' is no run: it has no config.yaml",
    f"predict {CONFIG} --input {{none}} --output {{out}}": "no such file or folder '{none}'",
    f"predict {CONFIG} --input {{empty}} --output {{out}}": "--input: no images in {empty}",
    f"predict {CONFIG} --input {{images}} --output {{out}} MODEL.WEIGHTS {{none_pth}}": (
        "MODEL.WEIGHTS is '{none_pth}': no such file"
    ),
    f"predict {CONFIG} --input {{images}} --output {{out}} --thresholds {{none_json}}": (
        "'{none_json}': No such file or directory"
    ),
    f"export {CONFIG} --output {{out_onnx}} MODEL.WEIGHTS {{none_pth}}": (
        "MODEL.WEIGHTS is '{none_pth}': no such file"
    ),
    f"convert {{none_pth}} {CONFIG} --output {{out_pth}}": (
        "'{none_pth}': No such file or directory"
    ),
    f"implicit {CONFIG} --output {{out}} MODEL.WEIGHTS {{none_pth}}": (
        "MODEL.WEIGHTS is '{none_pth}': no such file"
    ),
    "ablation 2 --scale bccd --train {none_json} {images} --test {a_json} {images}": (
        "no annotation file '{none_json}'"
    ),
    f"benchmark data {CONFIG} --train {{none_json}} {{images}}": "no annotation file",
    f"benchmark model {CONFIG} MODEL.WEIGHTS {{none_pth}}": "MODEL.WEIGHTS is '{none_pth}': no",
    f"benchmark predict {CONFIG} --images {{none}}": "'{none}': No such file or directory",
    f"benchmark export {CONFIG} --onnx {{none}}": "--onnx: no such file '{none}'",
}


@pytest.mark.heavy
@pytest.mark.parametrize("line", MISSING)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_missing_is_named(way, line, files, watched, tmp_path):
    name, *words = shlex.split(line.format(**files))
    status, _, err = answer([*command_of(way, name), *words], watched, tmp_path)
    assert status == 1 and err.count("\n") == 1
    assert MISSING[line].format(**files) in err


@pytest.mark.parametrize("line", [x for x in MISSING if "last checkpoint" not in MISSING[x]])
def test_the_work_would_say_the_same(line, files):
    """What a command looks for first is what its work looks for, in the same words."""
    name, *words = shlex.split(line.format(**files))
    known = cli.COMMANDS[name]
    arguments = importlib.import_module(f"yolor_d2.arguments.{known.module}")
    work = importlib.import_module(f"yolor_d2.commands.{known.module}")
    args = arguments.parse_args([*known.arguments, *words])
    with pytest.raises((OSError, ValueError, KeyError)) as early:
        arguments.check_inputs(args)
    with pytest.raises((OSError, ValueError, KeyError)) as late:
        work.main(args)
    assert explain(early.value) == explain(late.value)


def test_the_checkpointer_says_the_same_of_weights():
    with pytest.raises(FileNotFoundError) as early:
        check("train_net", *QUICK, "MODEL.WEIGHTS", "none.pth")
    with pytest.raises(FileNotFoundError) as late:
        YOLORCheckpointer(torch.nn.Linear(1, 1)).load("none.pth")
    assert str(early.value) == str(late.value)


# Command, and what argparse says.
WRONG = {
    "analyze": "no model: give the folder of a run",
    "check --bogus": "unknown option '--bogus'",
    "convert-data x": "the following arguments are required: --output",
    "predict": "no model: give the folder of a run",
    f"predict {CONFIG}": "no input: give",
    f"predict {CONFIG} --input x --csv y --tile 0": "--tile is 0, expected at least 1",
    f"train --bogus {CONFIG}": "unknown option '--bogus'",
    f"train {CONFIG} SEED 1 --bogus 1": "unknown option '--bogus'",
    f"train {CONFIG} --num-gpus x": "invalid int value: 'x'",
    "report": "give one run, two runs, or --results",
    "show": "the following arguments are required: RUN",
    "export --config-file x --output y.z": "expected a name in .onnx, .torchscript, .pt2",
    "ablation 1 --scale huge": "invalid choice: 'huge'",
    "benchmark": "the following arguments are required: command",
    "benchmark lunch": "invalid choice: 'lunch'",
}


@pytest.mark.heavy
@pytest.mark.parametrize("line", WRONG)
@pytest.mark.parametrize("way", WAYS)
def test_wrong_calls(way, line, watched, tmp_path):
    name, *words = shlex.split(line)
    status, _, err = answer([*command_of(way, name), *words], watched, tmp_path)
    assert status == 2 and WRONG[line] in err


def test_weights_are_not_missed_where_they_are_not_read(tmp_path):
    """A run that goes on has its own, "" is none, and addresses are fetched later."""
    for more in (["--resume", "MODEL.WEIGHTS", "none.pth"], ["MODEL.WEIGHTS", ""]):
        check("train_net", *QUICK, *more)
    check("train_net", *QUICK, "MODEL.WEIGHTS", "https://example.org/a.pth")
    (tmp_path / "a.pth").touch()
    weights = ["MODEL.WEIGHTS", "none.pth", "MODEL.WEIGHTS", repr(str(tmp_path / "a.pth"))]
    check("train_net", *QUICK, *weights)  # the last one counts, in quotes too


def check(module: str, *words: str) -> None:
    arguments = importlib.import_module(f"yolor_d2.arguments.{module}")
    arguments.check_inputs(arguments.parse_args(list(words)))


def test_names_in_the_command_lines_are_those_of_the_work():
    assert {kind.SUFFIX: name for name, kind in FORMATS.items()} == export_model.FORMATS
    assert tuple(SCALES) == run_ablation.SCALES
    assert f"{REPORT_NAME}.json" == report.REPORT_FILE


# ---- Completion


def complete(line: str, environment: dict, folder: Path) -> list[str]:
    """What argcomplete offers at the end of a line, as a shell asks for it."""
    answers = folder / "answers"
    asked = {
        **environment,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answers),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
    }
    answers.touch()
    answer(command_of("program", "")[:-1], asked, folder)
    return [word.strip() for word in answers.read_text().splitlines()]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("yolor-d2 exp", ["export"]),
        ("yolor-d2 con", ["convert", "convert-data"]),
        ("yolor-d2 train --eval", ["--eval-only"]),
        ("yolor-d2 train --config-file quick/fast", ["quick/fast_start.yaml"]),
        ("yolor-d2 ablation 2 --scale t", ["toy"]),
        ("yolor-d2 benchmark su", []),
        ("yolor-d2 benchmark ev", ["evaluation"]),
        ("yolor-d2 train --config-file a.yaml SOLVER.MAX_E", ["SOLVER.MAX_EPOCHS"]),
        ("yolor-d2 train --config-file a.yaml SEED 1 MODEL.DEV", ["MODEL.DEVICE"]),
        ("yolor-d2 predict --config-file a.yaml --input a.jpg MODEL.WEI", ["MODEL.WEIGHTS"]),
        ("yolor-d2 train --config-file a.yaml MODEL.WEIGHTS some", ["some.pth"]),
        ("yolor-d2 report some", ["some.pth"]),
    ],
)
def test_completion(line, offered, watched, tmp_path):
    (tmp_path / "some.pth").touch()
    assert sorted(complete(line, watched, tmp_path)) == offered


def test_all_keys_are_completed():
    known = set(list_keys(get_yolor_cfg()))
    assert set(completion.list_keys()) == known


# ---- Imports

# As programs that begin with one module each: `import a.b` imports a first, so what imports it
# is forked from what has imported its package. What takes long and is not ours is imported before.
FIRST = """
import importlib, json, os, sys
import cv2, fvcore.nn, matplotlib.pyplot, torch, torchvision
assert not {"detectron2", "yolor_d2"} & sys.modules.keys()
names = json.loads(sys.argv[1])

def tell(name, error=None):
    os.write(1, (json.dumps([name, error]) + "\\n").encode())

def visit(name):
    try:
        importlib.import_module(name)
    except BaseException as error:
        tell(name, repr(error))
        return
    tell(name)
    visit_modules(name)

def visit_modules(package):
    for name in names:
        if name.rpartition(".")[0] == package:
            if os.fork() == 0:
                visit(name)
                os._exit(0)
            os.wait()

visit_modules("yolor_d2")
"""


def all_modules() -> list[str]:
    found = pkgutil.walk_packages(yolor_d2.__path__, "yolor_d2.", onerror=lambda _: None)
    return sorted(x.name for x in found if not x.name.endswith("__main__"))


@pytest.mark.slow
def test_every_module_can_be_the_first():
    names = all_modules()
    assert len(names) > 100
    done = subprocess.run(
        [sys.executable, "-c", FIRST, json.dumps(names)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert dict(map(json.loads, done.stdout.splitlines())) == dict.fromkeys(names)


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )


@pytest.mark.heavy
def test_importing_the_package_needs_neither_torch_nor_detectron2():
    done = run("import yolor_d2; assert not {'torch', 'numpy', 'detectron2'} & sys.modules.keys()")
    assert done.returncode == 0, done.stderr


REGISTERED = """
for registry in (META_ARCH_REGISTRY, BACKBONE_REGISTRY):
    known = dict(registry)
    names = {"YOLOR", "build_yolor_backbone", "build_yolor_pan_backbone"}
    assert names & known.keys(), known.keys()
"""
SEAM = "from yolor_d2.d2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY\n"


# Programs of the lines of code that it is given, forked from what has imported what takes long and
# is not ours.
PROGRAMS = """
import json, os, sys
import cv2, fvcore.nn, matplotlib.pyplot, torch, torchvision
assert not {"detectron2", "yolor_d2"} & sys.modules.keys()
for code in json.loads(sys.argv[1]):
    if os.fork() == 0:
        try:
            exec(code, {})
            error = None
        except BaseException as problem:
            error = repr(problem)
        os.write(1, (json.dumps([code, error]) + "\\n").encode())
        os._exit(0)
    os.wait()
"""


def check_programs(beginnings: list[str], end: str) -> None:
    """Each beginning with this end is a program that runs."""
    programs = [f"{begin}\n{end}" for begin in beginnings]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAMS, json.dumps(programs)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert dict(map(json.loads, done.stdout.splitlines())) == dict.fromkeys(programs)


@pytest.mark.heavy
def test_the_models_are_registered_whatever_is_imported_first():
    beginnings = [
        "",
        "import yolor_d2.config",
        "import yolor_d2.data.dataset",
        "import yolor_d2.commands.predict",
    ]
    check_programs(beginnings, f"{SEAM}{REGISTERED}")


@pytest.mark.heavy
@pytest.mark.skipif(RUNTIME != "detectron2", reason="about Detectron2 itself")
def test_detectron2_knows_the_models():
    beginnings = [
        "import yolor_d2; import detectron2.modeling",
        "import detectron2.modeling; import yolor_d2",
        "import yolor_d2; from detectron2.engine import DefaultPredictor",
        "import yolor_d2; from detectron2.evaluation import COCOEvaluator",
        "import yolor_d2; import detectron2.modeling.meta_arch.build",
        "import detectron2; import yolor_d2; import detectron2.checkpoint",
    ]
    registries = "from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY\n"
    check_programs(beginnings, f"{registries}{REGISTERED}")


@pytest.mark.heavy
def test_a_spawned_process_knows_the_models(tmp_path):
    (tmp_path / "spawned.py").write_text(
        "import multiprocessing\n"
        f"{SEAM}"
        "def work(queue):\n"
        "    queue.put('YOLOR' in META_ARCH_REGISTRY)\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    process = context.Process(target=work, args=(queue,))\n"
        "    process.start()\n"
        "    assert queue.get(timeout=120)\n"
        "    process.join()\n"
    )
    done = processes.run([tmp_path / "spawned.py"])
    assert done.returncode == 0, done.stderr
