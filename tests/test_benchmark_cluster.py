"""What many processes ask of a file system far away, and the table of a simulated cluster."""

import os
import time

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.benchmark import cluster
from yolor_d2.benchmark.cluster import FarFileSystem, grow, measure_start, simulate
from yolor_d2.d2.data import DatasetCatalog, MetadataCatalog
from yolor_d2.datasets import prepared_copies


@pytest.fixture
def start(tmp_path, monkeypatch):
    """`measure_start` of so many images, each with two boxes."""
    monkeypatch.setattr(prepared_copies, "SMALL_FILE", 0)
    names = []

    def measure(images: int, latency: float) -> dict:
        names.append(f"cluster/{images}")
        return measure_start(tmp_path / str(images), images, 2 * images, latency)

    yield measure
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_far_file_system_answers_late_and_only_for_its_own_files(tmp_path):
    (tmp_path / "far").mkdir()
    path = tmp_path / "far" / "file"
    path.write_text("x")
    (tmp_path / "near").write_text("x")
    original = os.stat
    begin = time.monotonic()
    with FarFileSystem(tmp_path / "far", 0.01).mounted() as far:
        assert path.read_text() == "x" and path.exists()
        assert (tmp_path / "near").read_text() == "x"
    assert far.questions >= 2 and time.monotonic() - begin >= 0.01 * far.questions
    assert os.stat is original


@pytest.mark.heavy
def test_only_process_0_asks_for_images(start):
    """A few questions in all other processes, however many images there are."""
    few, many = start(40, 0.0), start(800, 0.0)
    for kind in ("first of a machine", "each other process"):
        assert 0 < many[kind]["questions"] == few[kind]["questions"] < 15
    assert many["process 0 beyond that"]["questions"] > 800


@pytest.mark.heavy
def test_process_0_asks_for_many_images_at_a_time(start):
    found = start(1600, 0.004)["process 0 beyond that"]
    assert found["questions"] > 3200  # once for the checks, once for the fingerprint
    assert found["s"] < 0.6 * 0.004 * found["questions"]


def test_an_exchange_grows_with_its_rounds():
    times = {2: 1.0, 4: 1.5, 8: 3.0}
    assert [grow(times, n) for n in (2, 8, 64, 512)] == [1.0, 3.0, 6.0, 9.0]


def test_a_row_by_hand():
    start = {
        "first": {"s": 3.0, "CPU s": 2.0, "questions": 5},
        "other": {"s": 1.0, "CPU s": 0.5, "questions": 4},
        "zero": {"s": 10.0, "CPU s": 1.0, "questions": 100},
    }
    exchanges = {n: {"vote": 0.001 * n} for n in cluster.STARTED}
    row = simulate(
        64,
        start,
        exchanges,
        {"parameters": 1e9, "bytes": 16e9, "s": 7.0},
        file_bytes=400_000_000,
        copy_bytes=100_000_000,
        latency=0.0005,
        bandwidth=4e9,
    )
    assert row["start, s"] == 14
    assert row["CPU s of all"] == 8 * 2 + 56 * 0.5 + 1
    assert row["read, GB"] == pytest.approx(8 * 0.5)
    assert row["questions"] == 8 * 5 + 56 * 4 + 100
    # 8 ms among eight, twice the rounds among 64; three rounds there and back between machines.
    assert row["vote, ms"] == pytest.approx(16 + 2 * 3 * 0.5)
    assert row["gradients, ms"] == pytest.approx(1000 * 2 * 63 / 64)
    assert (row["checkpoint, s"], row["resume, GB"]) == (7, 128)


@pytest.mark.slow
def test_the_command(tmp_path, capsys, monkeypatch):
    from yolor_d2.commands import execute

    monkeypatch.setattr(cluster, "STARTED", (2,))
    monkeypatch.setattr(prepared_copies, "SMALL_FILE", 0)

    words = ["cluster", "--images", "20", "--boxes", "40", "--file-latency", "0"]
    words += ["--config-file", "quick/ssss_320_cpu.yaml", "--folder", str(tmp_path)]
    assert execute("benchmark", words) in (0, None)
    assert "Simulated cluster" in capsys.readouterr().out
    assert (tmp_path / "copies").is_dir()
