"""Reports: what they say, how they are kept, and that names of strangers cannot harm the page."""

import copy
import dataclasses
import html.parser
import json
import logging
import math
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from report_cases import HOSTILE, HOSTILE_FILE, read_case, write_case

from yolor_d2.arguments import predict
from yolor_d2.arguments import report as command
from yolor_d2.commands import execute
from yolor_d2.evaluation.coco_files import check_annotations
from yolor_d2.evaluation.coco_metrics import NAMES, evaluate_boxes
from yolor_d2.report.analysis import analyse
from yolor_d2.report.collect import Source, build_report, describe_config, training_curves
from yolor_d2.report.comparison_page import render_comparison
from yolor_d2.report.files import inference_folder, read_report, report_paths, to_json, write_record
from yolor_d2.report.page import render_report
from yolor_d2.report.page_text import number, signed
from yolor_d2.report.thresholds import read_thresholds
from yolor_d2.report.write import report_or_log, write_report
from yolor_d2.visualize.pictures import write_image


def read(source: Source) -> tuple[dict, list]:
    return json.loads(source.annotations.read_text()), json.loads(source.results.read_text())


def analyse_case(folder: Path, data: dict, results: list[dict]) -> dict:
    case = read_case(folder, data, results)
    return analyse(*case, evaluate_boxes(*case))


class Page(html.parser.HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)

    def handle_data(self, data):
        self.words.append(data)

    def values(self, **wanted) -> list[str]:
        """data-value of the elements with such attributes."""
        return [
            a["data-value"]
            for _, a in self.elements
            if all(a.get(key) == value for key, value in wanted.items())
        ]


# ---- Metrics


def reference(source: Source) -> COCOeval:
    """pycocotools as everybody uses it."""
    _, results = read(source)
    coco = COCO(str(source.annotations))
    done = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
    done.evaluate()
    done.accumulate()
    done.summarize()
    return done


def test_figures_are_those_of_pycocotools(tmp_path):
    source = write_case(tmp_path, ("a", "b", "c", "d"), images=8)
    expected = reference(source)
    figures = evaluate_boxes(*read_case(tmp_path, *read(source)))
    # pycocotools adds 2e-16 to what it divides by.
    for name in ("precision", "recall"):
        found = getattr(figures, name)
        np.testing.assert_allclose(found, expected.eval[name], rtol=0, atol=1e-12)
    np.testing.assert_allclose(figures.stats, expected.stats, rtol=0, atol=1e-12)

    page = Page(render_report(to_json(build_report(source))))
    for name, value in zip(NAMES, expected.stats):
        for shown in page.values(**{"data-figure": name}):
            assert float(shown or "nan") == pytest.approx(
                100 * value if value > -1 else math.nan, abs=1e-6, nan_ok=True
            ), name


@pytest.mark.heavy
@pytest.mark.real_data
def test_figures_of_real_images_are_those_of_pycocotools(real_data, tmp_path):
    file = real_data / "coco_mini" / "instances_val.json"
    data = json.loads(file.read_text())
    rng = np.random.default_rng(0)
    results = [
        {
            **{"image_id": x["image_id"], "score": float(rng.random())},
            "category_id": x["category_id"] if rng.random() < 0.8 else 1,
            "bbox": (np.array(x["bbox"]) * rng.uniform(0.8, 1.2, 4)).tolist(),
        }
        for x in data["annotations"]
        for _ in range(3)
    ]
    coco = COCO(str(file))
    expected = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
    expected.evaluate()
    expected.accumulate()
    expected.summarize()
    found = analyse_case(tmp_path, data, results)
    stats = [100 * x if x > -1 else math.nan for x in expected.stats]
    assert list(found["figures"].values()) == pytest.approx(stats, abs=1e-6, nan_ok=True)
    assert found["errors"]["AP50"] == pytest.approx(stats[1], abs=1e-6)
    assert found["counts"]["crowd_regions"] == 2


def test_no_detections_at_all(tmp_path):
    source = write_case(tmp_path)
    source.results.write_text("[]")
    report = build_report(source)
    assert report["figures"]["AP"] == 0
    assert report["errors"]["kinds"]["missed"] == {"count": 8, "cost": 100}
    assert report["threshold"]["threshold"] is None
    assert report["confusion"]["matrix"][0][-1] + report["confusion"]["matrix"][1][-1] == 8
    text = render_report(to_json(report))
    assert "0.0" in text and "no detection is correct" in text
    assert "There are no detections." in text
    write_report(to_json(report), tmp_path / "report.json")
    with pytest.raises(ValueError, match="no thresholds: no detection of that evaluation"):
        read_thresholds(tmp_path / "report.json", ["cat", "dog"])


@pytest.mark.parametrize("annotations", [[], None])
def test_no_annotations(tmp_path, annotations):
    source = write_case(tmp_path)
    data, _ = read(source)
    del data["annotations"]
    if annotations is not None:
        data["annotations"] = annotations
    source.annotations.write_text(json.dumps(data))
    report = to_json(build_report(source))
    assert report["figures"]["AP"] is None
    assert any("no annotations" in note for note in report["notes"])
    assert report["curves"]["all"] is None
    assert "as there are no objects" in render_report(report)


def test_one_class(tmp_path):
    source = write_case(tmp_path, ("cat", "dog"))
    data, results = read(source)
    data["categories"] = data["categories"][:1]
    data["annotations"] = [{**x, "category_id": 1} for x in data["annotations"]]
    source.annotations.write_text(json.dumps(data))
    source.results.write_text(json.dumps([{**x, "category_id": 1} for x in results]))
    report = to_json(build_report(source))
    assert report["figures"]["AP"] == pytest.approx(report["classes"][0]["AP"])
    assert "Errors of each class" not in render_report(report)


def test_a_class_without_objects_counts_nowhere(tmp_path):
    source = write_case(tmp_path, ("a", "b", "none"), images=6)
    data, kept = read(source)
    stray = {"image_id": 1, "category_id": 3, "bbox": [40, 30, 9, 9], "score": 0.99}
    source.results.write_text(json.dumps([*kept, stray]))
    report = to_json(build_report(source))
    last = report["classes"][-1]
    assert (last["objects"], last["AP"], last["threshold"]) == (0, None, None)
    assert report["curves"]["classes"][-1] is None
    # Nor do its detections lower AP.
    assert analyse_case(tmp_path, data, kept)["figures"]["AP"] == report["figures"]["AP"]


def test_damaged_files_are_named(tmp_path):
    source = write_case(tmp_path)
    data, results = read(source)
    for broken, message in (
        ([{**results[0], "image_id": 99}], r"\[0\] has the image_id 99, of which there is no"),
        ([{**results[0], "category_id": 7}], r"unknown category_id 7"),
        ([{**results[0], "bbox": [1, 2, 3]}], r"needs a bbox of four finite numbers and score"),
        ([{**results[0], "score": None}], r"needs a bbox of four finite numbers and score"),
        ([7], r"\[0\] is no record"),
        ({}, r"is no list of COCO results"),
    ):
        source.results.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=message) as raised:
            build_report(source)
        assert "results.json" in str(raised.value)
    source.results.write_text("[")
    with pytest.raises(ValueError, match=r"results\.json' is not JSON"):
        build_report(source)
    with pytest.raises(ValueError, match="not in COCO format"):
        check_annotations({"images": []}, "x.json")
    with pytest.raises(ValueError, match=r"images\[0\] has not all of id"):
        check_annotations({**data, "images": [{}]}, "x.json")


# ---- The page


def test_hostile_names_stay_text(tmp_path):
    source = write_case(tmp_path, HOSTILE, images=6)
    text = render_report(to_json(build_report(source)))
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 1  # the page's own
    assert not any(key.startswith("on") for _, attrs in page.elements for key in attrs)
    assert all(a["src"].startswith("data:") for tag, a in page.elements if tag == "img")
    for name in [*HOSTILE, HOSTILE_FILE]:
        assert name in "\n".join(page.words), name
    # Nothing is loaded from elsewhere, and a foreign script would not run.
    (policy,) = [a["content"] for _, a in page.elements if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:;")
    links = {a["href"] for tag, a in page.elements if tag == "a" and "href" in a}
    assert {link for link in links if not link.startswith("#")} == {
        "https://arxiv.org/abs/2008.08115"
    }
    names = [a["id"] for _, a in page.elements if "id" in a]
    assert len(names) == len(set(names))


@pytest.mark.heavy
def test_hostile_names_of_many_classes_stay_text(tmp_path):
    """As the labels of the picture of the matrix."""
    names = [*HOSTILE, *(f"class <b>{i}</b>" for i in range(12))]
    source = write_case(tmp_path, names, images=6)
    page = Page(render_report(to_json(build_report(source))))
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert "<script>alert(1)<…" in page.words


@pytest.mark.heavy
def test_hundreds_of_classes_are_thinned_out(tmp_path):
    """Curves and confusion of the hundred most frequent ones; the numbers of all."""
    names = [f"class {i}" for i in range(400)]
    report = to_json(build_report(write_case(tmp_path, names, images=2)))
    assert len(report["confusion"]["matrix"]) == 401
    text = render_report(report)
    assert "The 100 classes with most objects" in text
    assert len(text) < 700_000  # of all: 900,000
    assert "class 399" in text  # in the table


def test_every_figure_is_in_percent(tmp_path):
    """On the page and in report.json, which says so."""
    source = write_case(tmp_path, images=8)
    report = to_json(build_report(source))
    best = report["threshold"]
    assert best["f1"] == pytest.approx(
        2 * best["precision"] * best["recall"] / (best["precision"] + best["recall"])
    )
    assert 1 < best["f1"] <= 100 and 0 < best["threshold"] <= 1
    assert max(report["curves"]["all"]["recall"]) > 1 == report["curves"]["score"][-1]
    assert report["curves"]["recall"][-1] == 100
    image = report["images"][0]
    total = 2 * image["correct"] + image["wrong"] + image["missed"]
    assert image["f1"] == pytest.approx(100 * 2 * image["correct"] / total)
    for key in ("figures", "precision", "recall", "f1", "AP", "tasks"):
        assert report["units"][key] == "percent"
    text = render_report(report)
    (tile,) = re.findall(r"<b>([\d.]+)</b><span>best F1", text)
    assert tile == f"{best['f1']:.1f}"
    # One decimal each, as papers print them.
    figures = re.findall(r'data-figure="A[^>]*>([^<]*)<', text)
    assert len(figures) == 15 and all(re.fullmatch(r"\d+\.\d|\N{EN DASH}", x) for x in figures)


@pytest.mark.heavy
def test_the_page_is_named_after_model_and_data(tmp_path, cfg):
    source = write_case(tmp_path)
    page = render_report(to_json(build_report(source)))
    assert "<title>results.json on some/data</title>" in page
    cfg.OUTPUT_DIR = "output/third try"
    report = to_json(build_report(dataclasses.replace(source, cfg=cfg)))
    page = render_report(report)
    assert "<title>yolor_ssss_s2d on some/data - third try</title>" in page
    heading = re.search("<h1>(.*?)</h1>", page)
    assert heading is not None
    assert re.sub("<[^>]*>", "", heading[1]) == "yolor_ssss_s2d on some/data"
    assert "Evaluation report of third try" in page


@pytest.mark.heavy
def test_no_table_names_two_columns_alike(tmp_path):
    report = to_json(build_report(write_case(tmp_path, ("cat", "dog", "cow"), images=8)))
    pages = [render_report(report), render_comparison([report, report], ["one", "two"])]
    for page in pages:
        tables = re.findall("<thead>(.*?)</thead>", page, re.DOTALL)
        assert len(tables) >= 3
        for table in tables:
            cells = re.findall("<th.*?</th>", table, re.DOTALL)
            names = [re.sub("<[^>]*>", "", cell).strip() for cell in cells]
            assert len(names) == len(set(names)) and all(names), names


def test_wrong_and_right_differ_without_colours(tmp_path):
    text = render_report(to_json(build_report(write_case(tmp_path, images=8))))
    assert set(re.findall(r'<g class="found correct">.*?<text>(.)', text)) == {"✓"}
    assert set(re.findall(r'<g class="found wrong">.*?<text>(.)', text)) == {"✕"}
    assert set(re.findall(r'<g class="object missed">.*?<text>(.)', text)) <= {"?"}
    style = text[text.index("<style>") : text.index("</style>")]
    rules = [
        re.search(rf"{re.escape(x)} rect {{([^}}]*)}}", style)
        for x in (".found.correct", ".found.wrong", ".object.missed")
    ]
    dashes = [re.findall("dasharray: ([^;]*)", rule[1]) for rule in rules if rule]
    assert len({tuple(x) for x in dashes}) == 3


def test_pictures_are_embedded_small(tmp_path):
    source = write_case(tmp_path)
    big = np.zeros((900, 1200, 3), dtype=np.uint8)
    write_image(tmp_path / "image_2.png", big)
    (tmp_path / "image_3.png").unlink()
    text = render_report(to_json(build_report(source)))
    page = Page(text)
    pictures = [a for tag, a in page.elements if tag == "img"]
    assert len(pictures) == 3  # of four images
    assert all(len(a["src"]) < 200_000 for a in pictures)
    assert "image not readable" in text
    assert 'viewBox="0 0 1200 900"' in text  # of the file, not of the annotations


def test_numbers_for_people():
    assert [number(x) for x in (None, math.nan, 3, 1234, 2.345, -0.01)] == [
        *("\N{EN DASH}", "\N{EN DASH}", "3", "1,234", "2.3", "0.0")
    ]
    assert signed(0.5) == "+0.5"
    assert signed(-0.5) == "\N{MINUS SIGN}0.5"
    assert signed(0.01) == "0.0"


@pytest.mark.heavy
def test_tasks_speed_and_training_are_shown(tmp_path):
    source = write_case(tmp_path)
    stages = ("loading", "preprocess", "network", "postprocess", "recording")
    write_record(
        tmp_path,
        figures={"bbox": {"AP": 1.0}, "embedding": {"rank1": 62.5, "AP-<cat>": 12.25}},
        speed={"images": 4, "milliseconds": dict.fromkeys(stages, 2.0), "device": "a CPU"},
    )
    write_record(tmp_path, weights="model_final.pth")
    lines = [{"iteration": i, "total_loss": 9.0 / i, "lr": 0.1, "junk": "x"} for i in (1, 2, 3)]
    (tmp_path / "metrics.json").write_text(
        "\n".join(map(json.dumps, [*lines, {"iteration": 3, "total_loss": 7.0, "bbox/AP": 5.0}]))
        + '\n[1]\n{"iteration": 4, "total_'
    )
    source = Source(
        source.dataset,
        source.annotations,
        source.image_root,
        source.results,
        record=tmp_path / "evaluation.json",
        metrics=tmp_path / "metrics.json",
    )
    report = to_json(build_report(source))
    assert list(report["tasks"]) == ["embedding"]
    # The newest line of an iteration counts.
    assert report["training"]["losses"] == {"total_loss": [[1, 9.0], [2, 4.5], [3, 7.0]]}
    assert report["training"]["precisions"] == {"bbox/AP": [[3, 5.0]]}
    text = render_report(report)
    assert "<dt>&lt;cat&gt;</dt>" in text and ">12.2</dd>" in text
    assert "62.5" in text and "model_final.pth" in text
    assert "<b>10.0 ms</b> per image, 100.0 images per second" in text


def test_long_trainings_are_thinned_out(tmp_path):
    file = tmp_path / "metrics.json"
    file.write_text("\n".join(json.dumps({"iteration": i, "lr": 0.1}) for i in range(1, 1002)))
    points = training_curves(file)["rates"]["lr"]
    assert len(points) == 334
    assert points[-1] == (1001, 0.1)


# ---- Thresholds


@pytest.fixture
def thresholds(tmp_path) -> Path:
    """A report.json of two classes, of which the second has no threshold."""
    path = tmp_path / "report.json"
    report = to_json(build_report(write_case(tmp_path)))
    report["threshold"]["threshold"] = 0.3
    for entry, threshold in zip(report["classes"], (0.6, None)):
        entry["threshold"] = threshold
    path.write_text(json.dumps(report))
    return path


def test_thresholds_are_found_by_name(thresholds, caplog):
    with caplog.at_level(logging.WARNING, "yolor_d2"):
        assert read_thresholds(thresholds, ["dog", "cat"]) == [0.3, 0.6]
    assert "nothing of the classes dog was found" in caplog.text


def test_thresholds_that_cannot_be_used(thresholds, tmp_path):
    with pytest.raises(
        ValueError, match="the classes cat, dog; it has no cow, which the model has"
    ):
        read_thresholds(thresholds, ["cat", "cow"])
    with pytest.raises(ValueError, match="several have the same name"):
        read_thresholds(thresholds, ["cat", "cat"])
    report = json.loads(thresholds.read_text())
    other = tmp_path / "other.json"
    for change, message in (
        ({"format": "else"}, "is no report of this version: its format is 'else'"),
        ({"classes": [{"name": "cat"}]}, "damaged report"),
        ({"threshold": {"threshold": 7}}, "not in 0-1"),
    ):
        other.write_text(json.dumps({**report, **change}))
        with pytest.raises(ValueError, match=message):
            read_thresholds(other, ["cat"])
    other.write_text("[]")
    with pytest.raises(ValueError, match="is no report of this version: its format is 'list'"):
        read_thresholds(other, ["cat"])


def test_the_predictor_takes_the_thresholds(cfg, tmp_path, monkeypatch):
    """`predict` hands them to the model; beside them 0.25 is no limit any more."""
    names = list(cfg.MODEL.YOLOR.CLASS_NAMES)
    report = to_json(build_report(write_case(tmp_path, names, images=12)))
    for place, entry in enumerate(report["classes"]):
        entry["threshold"] = 0.01 * (place + 1)
    (tmp_path / "report.json").write_text(json.dumps(report))
    config = tmp_path / "config.yaml"
    config.write_text(cfg.dump())
    given = {}

    class Predictor:
        def __init__(self, cfg, **_):
            given["thresholds"] = list(cfg.MODEL.YOLOR.CLASS_SCORE_THRESHOLDS)
            raise ValueError("enough")

    monkeypatch.setattr("yolor_d2.commands.predict.BatchPredictor", Predictor)
    words = ["--config-file", config, "--input", tmp_path / "image_2.png", "--json", tmp_path / "x"]
    words = [*map(str, words), "--thresholds", str(tmp_path / "report.json")]
    with pytest.raises(ValueError, match="enough"):
        execute("predict", words)
    assert given["thresholds"] == pytest.approx([0.01, 0.02, 0.03, 0.04])
    assert predict.parse_args(words).threshold == 0
    assert predict.parse_args(words[:-2]).threshold == 0.25
    assert predict.parse_args([*words, "--threshold", "0.4"]).threshold == 0.4


# ---- Runs and the command


def make_run(cfg, source: Source) -> Path:
    """A run as an evaluation leaves it."""
    folder = Path(cfg.OUTPUT_DIR)
    cfg.DATASETS.REGISTER = [[source.dataset, str(source.annotations), str(source.image_root)]]
    cfg.DATASETS.TEST = (source.dataset,)
    inference_folder(cfg, source.dataset).mkdir(parents=True)
    results = inference_folder(cfg, source.dataset) / "coco_instances_results.json"
    results.write_bytes(source.results.read_bytes())
    (folder / "config.yaml").write_text(cfg.dump())
    return folder


@pytest.fixture
def run(cfg, tmp_path):
    source = write_case(tmp_path / "data")
    # Registered for the whole process: each test has names of its own.
    return make_run(cfg, Source(f"report/{tmp_path}", *list(vars(source).values())[1:4]))


@pytest.mark.heavy
def test_report_of_a_run(run, tmp_path, capsys):
    execute("report", [str(run)])
    assert capsys.readouterr().out.splitlines()[-1] == str(run / "report.html")
    report = read_report(run / "report.json")
    assert report["counts"]["images"] == 4
    assert report["config"]["changed"]["SOLVER.MAX_ITER"] == "6"
    assert not list(run.rglob("*.tmp"))

    # A second run, compared with it; it has been moved.
    moved = run.rename(tmp_path / "moved")
    pair = [str(moved), str(moved / "report.json")]
    execute("report", [*pair, "--output", str(tmp_path / "c.html")])
    assert "Comparison of two evaluations" in (tmp_path / "c.html").read_text()


def test_report_of_results_alone(tmp_path, capsys):
    source = write_case(tmp_path / "data")
    words = ["--results", source.results, "--annotations", source.annotations, source.image_root]
    execute("report", [*map(str, words), "--output", str(tmp_path / "new" / "report")])
    assert (tmp_path / "new" / "report" / "report.html").stat().st_size > 50_000
    missing = ["--results", "none.json", *map(str, words[2:]), "--output", str(tmp_path)]
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        execute("report", missing)


@pytest.mark.heavy
def test_what_the_command_refuses(tmp_path, run):
    with pytest.raises(FileNotFoundError, match=r"is no run: it has no config\.yaml"):
        execute("report", [str(tmp_path)])
    for words in ([], ["a", "b", "c"], ["--results", "x"], ["a", "--output", "b"]):
        with pytest.raises(SystemExit):
            command.parse_args(words)
    execute("report", [str(run)])
    damaged = json.loads((run / "report.json").read_text())
    del damaged["curves"]
    (tmp_path / "damaged.json").write_text(json.dumps(damaged))
    with pytest.raises(ValueError, match=r"is a damaged report: .*curves"):
        execute("report", [str(run), str(tmp_path / "damaged.json")])


def test_a_failing_report_ends_nothing(cfg, caplog):
    cfg.TEST.REPORT = True
    with caplog.at_level(logging.ERROR, "yolor_d2"):
        report_or_log(cfg, "weights")  # nothing was evaluated
    assert "No report could be made of this evaluation, whose results stand" in caplog.text
    assert "has no detections" in caplog.text
    caplog.clear()
    cfg.TEST.REPORT = False
    report_or_log(cfg, "weights")
    assert not caplog.records


def test_several_data_sets_have_a_report_each(cfg):
    cfg.DATASETS.TEST = ("one/val", "../two")
    cfg.OUTPUT_DIR = "out"
    assert report_paths(cfg) == {
        "one/val": Path("out/report.json"),
        "../two": Path("out/report_two.json"),
    }
    assert inference_folder(cfg, "one/val") == Path("out/inference/one_val")


def test_settings_that_differ(cfg):
    cfg.MODEL.YOLOR.NMS_THRESHOLD = 0.123
    described = describe_config(cfg)
    assert described["changed"]["MODEL.YOLOR.NMS_THRESHOLD"] == "0.123"
    assert "MODEL.YOLOR.SCORE_THRESHOLD" not in described["changed"]
    assert "NMS_THRESHOLD: 0.123" in described["text"]
