"""Comparisons of two runs: on common images, by name, and no praise for a run that lost."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from report_cases import write_case

from yolor_d2.arguments import report as arguments
from yolor_d2.commands import execute
from yolor_d2.report.collect import build_report
from yolor_d2.report.compare import align_reports
from yolor_d2.report.comparison_page import render_comparison
from yolor_d2.report.files import to_json
from yolor_d2.report.page_text import verdict
from yolor_d2.report.write import write_report

NAMES = ["<i>before</i>", "after"]


def report_on(folder: Path, images: int = 8, skip: int = 0, **case) -> dict:
    """A report about a case without its first images."""
    source = write_case(folder, images=images, **case)
    data = json.loads(source.annotations.read_text())
    kept = {image["id"] for image in data["images"][skip:]}
    data["images"] = data["images"][skip:]
    data["annotations"] = [x for x in data["annotations"] if x["image_id"] in kept]
    source.annotations.write_text(json.dumps(data))
    results = json.loads(source.results.read_text())
    source.results.write_text(json.dumps([x for x in results if x["image_id"] in kept]))
    return json.loads(json.dumps(to_json(build_report(source))))


@pytest.fixture
def better_and_worse(tmp_path) -> tuple[dict, dict]:
    better, worse = (report_on(tmp_path / str(shift), shift=shift) for shift in (0.5, 6.0))
    assert better["figures"]["AP"] > worse["figures"]["AP"] + 1
    return better, worse


def changes_of(page: str) -> list[tuple[str, str]]:
    """What each change says: its number and its word."""
    found = re.findall(r'<span class="delta ?(\w*)">([^ <]*)(?: <em>(\w+)</em>)?</span>', page)
    assert found and all(word == shown for word, _, shown in found)
    return [(value, word) for word, value, _ in found]


def test_the_better_run_is_called_better(better_and_worse):
    better, worse = better_and_worse
    page = render_comparison([worse, better], NAMES)
    gain = better["figures"]["AP"] - worse["figures"]["AP"]
    assert changes_of(page)[0] == (f"+{gain:.1f}", "better")
    assert page.count("<script>") == 1 and "&lt;i&gt;before&lt;/i&gt;" in page
    assert 'class="note"' not in page
    for first, second in re.findall(r"<th[^>]*>(?:<button[^>]*>)?(\w+) ([12])\b", page):
        pytest.fail(f"a column is called {first} {second}")


def test_the_run_that_lost_is_never_called_better(better_and_worse):
    better, worse = better_and_worse
    # Who finds less also makes fewer wrong detections.
    worse["errors"]["kinds"]["duplicate"]["cost"] = 0.0
    better["errors"]["kinds"]["duplicate"]["cost"] = 5.0
    page = render_comparison([better, worse], NAMES)
    parts = {
        name: page[page.index(f'<section id="{name}"') :].split("</section>")[0]
        for name in ("summary", "errors")
    }
    assert {word for _, word in changes_of(parts["summary"])} <= {"worse", ""}
    assert changes_of(parts["summary"])[0][1] == "worse"
    errors = changes_of(parts["errors"])
    assert ("\N{MINUS SIGN}5.0", "") in errors and "better" not in {word for _, word in errors}
    assert "lower costs are no gain" in parts["errors"]
    # The other way round, what costs more is worse.
    page = render_comparison([worse, better], NAMES)
    errors = changes_of(page[page.index('<section id="errors"') :].split("</section>")[0])
    assert ("+5.0", "worse") in errors


def test_where_less_is_better(better_and_worse):
    stages = ("loading", "preprocess", "network", "postprocess", "recording")
    for report, time in zip(better_and_worse, (9.0, 2.0)):
        report["speed"] = {"images": 8, "milliseconds": dict.fromkeys(stages, time)}
    page = render_comparison(better_and_worse, NAMES)
    speed = page[page.index('<section id="speed"') :].split("</section>")[0]
    assert changes_of(speed)[0] == ("\N{MINUS SIGN}7.00", "better")
    # What chance would have is no merit.
    for report, chance in zip(better_and_worse, (1.0, 2.0)):
        report["tasks"] = {"embedding": {"rank1": 10 - chance, "chance_rank1": chance}}
    page = render_comparison(better_and_worse, NAMES)
    assert [x for x in changes_of(page) if x[0] in ("+1.0", "\N{MINUS SIGN}1.0")][:2] == [
        ("\N{MINUS SIGN}1.0", "worse"),
        ("+1.0", ""),
    ]


def test_only_what_is_seen_is_judged():
    assert verdict((20.0, 20.04)) == "" == verdict((20.0, 19.96)) == verdict((None, 3.0))
    assert verdict((20.0, 20.06)) == "better" == verdict((3.0, 2.0), good=-1)
    assert verdict((20.0, 19.94)) == "worse" == verdict((2.0, 3.0), good=-1)
    assert verdict((20.0, 30.0), good=0) == ""


def test_runs_without_a_common_image_are_refused(tmp_path):
    reports = [report_on(tmp_path / "a"), report_on(tmp_path / "b")]
    for image in reports[1]["images"]:
        image["file_name"] = f"other/{image['file_name']}"
    with pytest.raises(ValueError, match="different images, so they cannot be compared: a: ") as e:
        align_reports(reports, ["a", "b"])
    assert "other/image_2.png" in str(e.value)


def test_runs_are_compared_on_what_they_share(tmp_path):
    """The metrics are those of an evaluation of the common images alone."""
    first = report_on(tmp_path / "a", images=6)
    second = report_on(tmp_path / "b", images=8, skip=2)
    aligned, notes = align_reports([first, second], NAMES)
    assert notes == [
        "The runs share 4 of 6 and 6 images. Everything but speed and training is about those 4."
    ]
    assert [report["counts"]["images"] for report in aligned] == [4, 4]
    expected = report_on(tmp_path / "a4", images=6, skip=2)
    assert aligned[0]["figures"] == expected["figures"] != first["figures"]
    assert aligned[0]["curves"] == expected["curves"]
    assert aligned[0]["errors"] == expected["errors"]
    page = render_comparison(aligned, NAMES, notes)
    assert "The runs share 4 of 6 and 6 images." in page
    # A run that has no other images stays unchanged.
    aligned, _ = align_reports([first, expected], NAMES)
    assert aligned[1] is expected and aligned[0]["figures"] == expected["figures"]


def test_images_alone_are_compared_where_detections_have_gone(tmp_path):
    first = report_on(tmp_path / "a", images=6)
    second = report_on(tmp_path / "b", images=8, skip=2)
    Path(first["dataset"]["results"]).write_text("[]")  # not those of the report any more
    Path(second["dataset"]["results"]).unlink()
    aligned, notes = align_reports([first, second], NAMES)
    assert aligned == [first, second]
    assert notes[0] == "The runs share 4 of 6 and 6 images."
    assert "All metrics of after but those of single images are about all of its 6" in notes[2]
    assert "&lt;i&gt;before&lt;/i&gt; but those" in render_comparison(aligned, NAMES, notes)


def test_other_classes_are_named(tmp_path):
    first = report_on(tmp_path / "a")
    second = report_on(tmp_path / "b", names=("cat", "cow", "owl"))
    page = render_comparison([first, second], ["a", "b"])
    assert "The classes of the runs differ: cow, dog, owl." in page


@pytest.mark.heavy
def test_the_command(tmp_path, capsys, caplog):
    paths = []
    for name, skip in (("short", 0), ("long", 3)):
        report = report_on(tmp_path / name, skip=skip)
        write_report(report, tmp_path / name / "report.json")
        paths.append(str(tmp_path / name))
    execute("report", [*paths, "--output", str(tmp_path / "c.html")])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "c.html")
    page = (tmp_path / "c.html").read_text()
    assert "<title>short and long: comparison</title>" in page
    assert "The runs share 5 of 8 and 5 images." in page
    execute("report", [*paths, "--names", "A <b>", "B", "--output", str(tmp_path / "c.html")])
    assert "<title>A &lt;b&gt; and B: comparison</title>" in (tmp_path / "c.html").read_text()

    for words in (["a", "--names", "x", "y"], ["a", "b", "--names", "x", "x"]):
        with pytest.raises(SystemExit):
            arguments.parse_args(words)
    assert "--names needs two names that differ" in capsys.readouterr().err
    report["images"] = [{**x, "file_name": f"z/{x['file_name']}"} for x in report["images"]]
    (tmp_path / "long" / "report.json").write_text(json.dumps(report))
    with pytest.raises(ValueError, match="cannot be compared"):
        execute("report", [*paths, "--output", str(tmp_path / "d.html")])
    assert not (tmp_path / "d.html").exists()


def test_a_selection_keeps_objects_and_detections_together(tmp_path):
    from yolor_d2.evaluation.coco_files import read_results, read_truth
    from yolor_d2.report.compare import select_images

    source = write_case(tmp_path, images=5)
    truth = read_truth(source.annotations)
    found = read_results(source.results, truth)
    keep = np.array([False, True, False, True, True])
    some, those = select_images(truth, found, keep)
    assert some.image_ids.tolist() == [2, 4, 5]
    assert list(some.file_names) == ["image_2.png", "image_4.png", "image_5.png"]
    np.testing.assert_array_equal(some.boxes, truth.boxes[np.isin(truth.image_rows, [1, 3, 4])])
    np.testing.assert_array_equal(
        some.image_ids[those.images], truth.image_ids[found.images][keep[found.images]]
    )
    assert all(
        len(getattr(some, field.name)) == len(some.ids)
        for field in dataclasses.fields(some)
        if field.name in ("labels", "areas", "crowd", "identities")
    )
