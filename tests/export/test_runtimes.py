"""What runtimes of others make of an exported file is reported, and counts where that is wanted."""

import json
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime
pytest.importorskip("onnx")  # the extra "export"
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from yolor_d2.arguments import export_model as arguments
from yolor_d2.commands import execute
from yolor_d2.commands.export_model import set_score_threshold
from yolor_d2.commands.shell import run
from yolor_d2.config import load_config
from yolor_d2.export import FORMATS, foreign, graph, onnx
from yolor_d2.export.metadata import largest_image
from yolor_d2.export.runtimes import RUNTIMES, Differences, Runtime, ask
from yolor_d2.predictor import load_model

command = partial(execute, "export_model")


def results_of(output: Path) -> dict[str, dict]:
    report = json.loads(Path(f"{output}.json").read_text())
    return {x["name"]: x for x in report["runtimes"]}


# In OpenCV 4 the importer knows no sizes that vary.
NEW_OPENCV = pytest.mark.skipif(
    int(RUNTIMES["opencv"].version.split(".")[0]) < 5, reason="needs OpenCV 5"
)


@pytest.mark.heavy
@pytest.mark.parametrize("options", [[], ["--no-nms"]], ids=["detections", "rows"])
@pytest.mark.parametrize("name", ["openvino", pytest.param("opencv", marks=NEW_OPENCV)])
def test_other_runtimes_take_the_file_and_agree(export, name, options):
    if not RUNTIMES[name].installed:
        pytest.skip(f"{name} is not installed")
    found = results_of(export("onnx", *options))[name]
    assert found["result"] == "equal", found["reason"]
    assert found["version"] == RUNTIMES[name].version
    assert found["largest_box_difference"] < 1e-3 and found["largest_score_difference"] < 1e-5


def test_names_in_the_command_line_are_those_of_the_work():
    assert tuple(RUNTIMES) == tuple(foreign.LOADERS) == arguments.RUNTIMES
    assert foreign.INPUT == graph.INPUT and arguments.DEFAULT_OPSET == graph.DEFAULT_OPSET


@pytest.fixture
def written(export, monkeypatch):
    """The ONNX file without tracing it again."""
    content = export("onnx").read_bytes()
    monkeypatch.setattr(onnx, "serialise", lambda *args, **kwargs: {".onnx": content})
    return ["--score-threshold", "0.001", "--count", "1"]


# What a runtime does with a file, in the place of `foreign.load_opencv`.
REFUSE = """
def load(content):
    raise RuntimeError("operator Foo\\n  of line 12")
"""
COMPUTE_SOMETHING_ELSE = """
def load(content):
    import onnxruntime
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    def run(images):
        boxes, *others = session.run(None, {"images": images})
        return (boxes + 3, *others)
    return run
"""
CRASH = """
def load(content):
    import os, signal
    os.kill(os.getpid(), signal.SIGFPE)
"""
SCRIPT = """
import sys
sys.path.insert(1, {folder!r})
import foreign
sys.path.pop(1)
{code}
foreign.LOADERS["opencv"] = load
sys.exit(foreign.main(sys.argv[1], foreign.Path(sys.argv[2])))
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("code", "result", "reason"),
    [
        (REFUSE, "refused", "operator Foo of line 12"),
        (COMPUTE_SOMETHING_ELSE, "differs", "comes from no row of the model"),
        (CRASH, "crashed", "SIGFPE"),
    ],
    ids=["refused", "differs", "crashed"],
)
def test_a_refusal_is_told_and_deletes_the_file_on_request(
    small, photos, written, tmp_path, monkeypatch, capsys, code, result, reason
):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(folder=str(Path(foreign.__file__).parent), code=code))
    monkeypatch.setitem(RUNTIMES, "opencv", Runtime("cv2", "opencv", script))
    monkeypatch.setitem(RUNTIMES, "tensorrt", Runtime("no_such_package", "tensorrt"))
    monkeypatch.delitem(RUNTIMES, "openvino")
    output = tmp_path / "model.onnx"
    argv = [*small, *written, "--images", str(photos), "--output", str(output)]
    assert run(command, argv, program="export") == 0 and output.is_file()
    told = capsys.readouterr().out
    assert f"\nopencv {result}: " in told and reason in told
    table = told[told.index("\nruntime ") :].splitlines()[1:6]
    lines = {line.split()[0]: line for line in table}
    assert "equal" in lines["onnxruntime"] and "not installed" in lines["tensorrt"]
    assert result in lines["opencv"]
    assert results_of(output)["opencv"]["result"] == result
    assert "onnx, opset 18, float32, scores above 0.001; " in told

    output.unlink()
    assert run(command, [*argv, "--require", "opencv"], program="export") == 1
    assert f"export: error: opencv {result}: " in capsys.readouterr().err
    assert not output.exists()
    # Known before anything is computed.
    assert run(command, [*argv, "--require", "tensorrt"], program="export") == 1
    assert "pip install tensorrt" in capsys.readouterr().err


@pytest.mark.parametrize("errors", [[], ["no importer for Foo"]])
def test_tensorrt_parses_the_file(monkeypatch, errors):
    """By a stand-in with the names of TensorRT's Python interface."""

    class Parser:
        num_errors = len(errors)

        def __init__(self, network, logger):
            assert network == "network of 0"

        def parse(self, content):
            assert content == b"file"
            return not errors

        def get_error(self, i):
            return errors[i]

    class Builder:
        def __init__(self, logger): ...

        def create_network(self, flags):
            return f"network of {flags}"

    class Logger:
        ERROR = 1

        def __init__(self, level): ...

    fake = types.SimpleNamespace(Logger=Logger, Builder=Builder, OnnxParser=Parser)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    if errors:
        with pytest.raises(ValueError, match="no importer for Foo"):
            foreign.load_tensorrt(b"file")
    else:
        assert foreign.load_tensorrt(b"file") is None


# Of one size, which is traced in half the time.
SIZED = ("--size", "96", "128", "--half")


@pytest.mark.heavy
def test_onnx_in_float16_of_one_size(export):
    import onnx as onnx_package
    import onnxruntime

    output = export("onnx", *SIZED, "--opset", "20")
    model = onnx_package.load(str(output))
    assert [x.version for x in model.opset_import if not x.domain] == [20]
    convolved = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    weights = {x.data_type for x in model.graph.initializer if x.name in convolved}
    assert weights == {onnx_package.TensorProto.FLOAT16}
    about = onnx.load(output).metadata
    assert (about["opset"], about["weights"]) == (20, "float16")
    assert about["input"]["shape"][1:] == [3, 96, 128]
    assert about["input"]["pad"]["canvas"] == [96, 128]
    stride = about["input"]["pad"]["multiple_of"]  # half of it is margin
    assert about["input"]["resize"]["within"] == [96 - stride // 2, 128 - stride // 2]
    session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 96, 128]
    report = json.loads(Path(f"{output}.json").read_text())
    assert {tuple(x["shape"][2:]) for x in report["checks"]} == {(96, 128)}
    # Not what float32 gives, or nothing would have been halved.
    assert 1e-4 < report["runtimes"][0]["largest_box_difference"] < 0.5
    assert report["tolerance"]["pixels"] == 1.0


@pytest.mark.heavy
def test_openvino_files_load_with_their_weights(export):
    openvino = pytest.importorskip("openvino")
    output = export("openvino", *SIZED)
    loaded = FORMATS["openvino"].load(output)
    report = json.loads(Path(f"{output}.json").read_text())
    assert loaded.metadata == report["description"] and report["format"] == "openvino"
    assert loaded.metadata["classes"] == ["disc", "ring", "box"]
    [weights] = report["further_files"]
    assert weights["file"] == "model.bin"
    assert weights["bytes"] == output.with_suffix(".bin").stat().st_size
    assert sorted(x.name for x in output.parent.iterdir()) == [
        "model.bin",
        "model.xml",
        "model.xml.json",
    ]
    # As its users load it; of the weights of a convolution the type is that on the disk.
    core = openvino.Core()
    types = {
        str(x.get_element_type())
        for x in core.read_model(str(output)).get_ops()
        if x.get_type_name() == "Constant" and len(x.get_output_shape(0)) == 4
    }
    assert "<Type: 'float16'>" in types
    [boxes, *_] = loaded.run(np.zeros((1, 3, 96, 128), np.float32))
    assert boxes.shape == (1, 300, 4)


@pytest.mark.heavy
def test_missing_openvino_says_how_to_get_it(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "openvino", None)
    argv = [*small, "--output", str(tmp_path / "model.xml")]
    assert run(command, argv, program="export") == 1
    assert "pip install 'yolor_d2[export,openvino]'" in capsys.readouterr().err


def test_a_canvas_of_no_whole_strides(small, tmp_path, capsys):
    argv = [*small, "--output", str(tmp_path / "model.onnx"), "--size", "90", "128"]
    assert run(command, argv, program="export") == 1
    assert "--size is 90 128, expected multiples of" in capsys.readouterr().err


def test_an_image_of_the_largest_size_has_its_margin(cfg):
    model = load_model(cfg)
    for canvas in ((96, 128), (64, 320)):
        size = largest_image(model, canvas)
        assert model.padding.canvas_size(size, model.stride) == canvas
        larger = (size[0] + 1, size[1] + 1)
        assert model.padding.canvas_size(larger, model.stride) > canvas


# Overrides, --score-threshold, thresholds of the file.
THRESHOLDS = [
    ([], None, 0.25, []),
    ([], 0.001, 0.001, []),
    (["MODEL.YOLOR.SCORE_THRESHOLD", "0.1"], None, 0.1, []),
    (["MODEL.YOLOR.SCORE_THRESHOLD", "0.1"], 0.3, 0.3, []),
    (["MODEL.YOLOR.CLASS_SCORE_THRESHOLDS", "[0.1,0.4,0.5]"], None, 0.001, [0.1, 0.4, 0.5]),
    (["MODEL.YOLOR.CLASS_SCORE_THRESHOLDS", "[0.1,0.4,0.5]"], 0.3, 0.3, [0.3, 0.4, 0.5]),
]


@pytest.mark.parametrize(("opts", "wanted", "least", "by_class"), THRESHOLDS)
def test_the_threshold_of_the_file(small, opts, wanted, least, by_class):
    cfg = load_config(small[1], opts)
    set_score_threshold(cfg, wanted, opts)
    assert least == cfg.MODEL.YOLOR.SCORE_THRESHOLD
    assert by_class == cfg.MODEL.YOLOR.CLASS_SCORE_THRESHOLDS


def test_overrides_may_follow_every_option():
    words = "--config-file x --output y.onnx --size 640 MODEL.WEIGHTS z --require opencv A.B c"
    args = arguments.parse_args(words.split())
    assert args.size == [640] and args.require == ["opencv"]
    assert sorted(args.opts) == ["A.B", "MODEL.WEIGHTS", "c", "z"]


def test_one_size_is_that_of_the_longer_side(small, photos, tmp_path, monkeypatch):
    class Asked(Exception):
        pass

    asked = {}

    def ask(cfg, *args, **kwargs):
        asked.update(cfg=cfg, **kwargs)
        raise Asked

    monkeypatch.setattr("yolor_d2.commands.export_model.export_model", ask)
    argv = [*small, "--images", str(photos), "--output", str(tmp_path / "m.onnx"), "--size", "64"]
    with pytest.raises(Asked):
        command(argv)
    assert asked["cfg"].INPUT.MIN_SIZE_TEST == asked["cfg"].INPUT.MAX_SIZE_TEST == 64
    assert asked["options"].canvas is None
    assert max(asked["batches"][-1].images[0].shape) == 64


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["openvino", pytest.param("opencv", marks=NEW_OPENCV)])
def test_an_image_without_objects(export, name):
    """Where NMS keeps nothing, OpenCV 5.0 would divide by zero."""
    if not RUNTIMES[name].installed:
        pytest.skip(f"{name} is not installed")
    import onnx as onnx_package

    model = onnx_package.load(str(export("onnx")))
    [thresholds] = [x for x in model.graph.initializer if x.name.endswith("thresholds")]
    most = np.full(tuple(thresholds.dims), 2, np.float32)  # no score exceeds it
    thresholds.CopyFrom(onnx_package.numpy_helper.from_array(most, thresholds.name))
    found = []

    def compare(outputs):
        found.extend(outputs)
        return Differences(0.0, 0.0)

    images = np.zeros((2, 3, 64, 96), np.float32)
    result = ask(name, model.SerializeToString(), [images], compare)
    assert result.result == "equal", result.reason
    [outputs] = found
    assert len(outputs) == 4 and not any(x.any() for x in outputs)
