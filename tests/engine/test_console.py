"""What a training shows: one line of progress, and no dumps."""

from __future__ import annotations

import io
import logging
import os
import sys

import pytest

pytest.importorskip("yolor_d2.d2.config")  # either runtime

from yolor_d2.d2.utils import EventStorage
from yolor_d2.engine.monitoring import console
from yolor_d2.engine.monitoring.console import FOR_FILE, PROGRESS, ProgressPrinter, take_over_screen
from yolor_d2.engine.monitoring.time_left import TimeLeft, TrainingClock


class Time:
    """A clock that is moved by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def logger_with_file(name: str, *, evaluates: bool = False) -> tuple[logging.Logger, io.StringIO]:
    """A logger as a runtime sets it up, with the screen taken over, and its file."""
    logger, file = logging.getLogger(name), io.StringIO()
    logger.handlers = [logging.StreamHandler(sys.stdout), logging.StreamHandler(file)]
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    take_over_screen([logger], evaluates=evaluates)
    return logger, file


@pytest.fixture(autouse=True)
def restored():
    names = ("detectron2", "yolor_d2", console.logger.name)
    before = {
        name: (list(logging.getLogger(name).handlers), logging.getLogger(name).propagate)
        for name in names
    }
    yield
    for name, (handlers, propagate) in before.items():
        logging.getLogger(name).handlers = handlers
        logging.getLogger(name).propagate = propagate


def test_dumps_go_to_the_file_alone(capsys):
    logger, file = logger_with_file("detectron2")
    logger.getChild("engine.defaults").info("Running with full config:\n%s", "a: 1\n" * 900)
    logger.getChild("engine.defaults").warning("mind\nthis")
    logger.getChild("evaluation.evaluator").info("Inference done 11/5000. ETA=0:01:00")
    assert capsys.readouterr().out == "mind\nthis\nInference done 11/5000. ETA=0:01:00\n"
    assert file.getvalue().count("\n") == 905


def test_of_a_table_the_screen_has_the_title(capsys):
    logger, file = logger_with_file("yolor_d2")
    logger.info("DATASETS.TRAIN: 24 images\n| class |\n|:--|\n| ring |")
    logger.info("one line")
    logger.getChild("report.write").info("Report: a.html")
    logger.getChild("evaluation.coco_evaluator").info("Metrics of bbox in percent:\n| AP |")
    logger.getChild("engine.trainer").info("Metrics of x:", extra={FOR_FILE: True})
    assert capsys.readouterr().out == (
        "DATASETS.TRAIN: 24 images (3 lines in log.txt)\none line\nReport: a.html\n"
    )
    assert "| ring |" in file.getvalue() and "| AP |" in file.getvalue()


def test_an_evaluation_shows_its_tables(capsys):
    logger, _ = logger_with_file("yolor_d2", evaluates=True)
    logger.getChild("evaluation.coco_evaluator").info("Metrics of bbox in percent:\n| AP |")
    logger.getChild("engine.trainer").info("Metrics of x:", extra={FOR_FILE: True})
    assert capsys.readouterr().out == "Metrics of bbox in percent:\n| AP |\nMetrics of x:\n"


def test_on_a_terminal_the_line_is_rewritten(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((20, 24)))
    logger, file = logger_with_file("yolor_d2")
    for number in (1, 2):
        logger.info("iteration %d of a very long line", number, extra={PROGRESS: True})
    logger.info("saved")
    assert capsys.readouterr().out == (
        "\r\x1b[Kiteration 1 of a ve\r\x1b[Kiteration 2 of a ve\r\x1b[Ksaved\n"
    )
    # The file has each state as a line.
    assert file.getvalue().splitlines()[:2] == [
        f"iteration {n} of a very long line" for n in (1, 2)
    ]


def test_elsewhere_each_period_has_a_line(capsys):
    logger, _ = logger_with_file("yolor_d2")
    for number in (20, 40):
        logger.info("iteration %d", number, extra={PROGRESS: True})
    assert capsys.readouterr().out == "iteration 20\niteration 40\n"


class TestTimeLeft:
    def run(self, clock: TrainingClock, first: int, last: int) -> None:
        """2 s an iteration, 30 s for each tenth evaluation, 5 s for each fifth checkpoint."""
        for done in range(first, last + 1):
            clock.now.now += 2
            clock.tick(done)
            if done % 5 == 0:
                with clock.measuring("checkpoint"):
                    clock.now.now += 5
            if done % 10 == 0:
                with clock.measuring("evaluation"):
                    clock.now.now += 30

    def test_by_hand(self):
        clock = TrainingClock(100, 10, 5, now=Time())
        assert clock.left(0) is None
        self.run(clock, 1, 9)
        # 91 iterations of 2 s; 19 checkpoints of 5 s; the evaluations are not known yet.
        assert clock.left(9) == TimeLeft(91 * 2 + 19 * 5, 10)
        self.run(clock, 10, 40)
        assert clock.left(40) == TimeLeft(60 * 2 + 12 * 5 + 6 * 30)
        self.run(clock, 41, 99)
        # What is left at the end is there.
        assert clock.left(99) == TimeLeft(2 + 5 + 30)

    @pytest.mark.parametrize(
        ("period", "done", "expected"),
        [(10, 95, 2), (10, 100, 1), (10, 0, 11), (0, 7, 1), (None, 7, 0), (200, 7, 1)],
    )
    def test_the_evaluation_at_the_end_counts(self, period, done, expected):
        assert TrainingClock(105, period, 5).evaluations_left(done) == expected

    def test_the_first_iterations_are_no_measure(self):
        clock = TrainingClock(100, None, 1000, now=Time())
        for done, seconds in enumerate([60, 5, 5, 2, 2, 2], start=1):
            clock.now.now += seconds
            clock.tick(done)
        assert clock.seconds_per_iteration == 2

    def test_work_inside_other_work_counts_once(self):
        clock = TrainingClock(100, 10, 5, now=Time())
        with clock.measuring("evaluation"), clock.measuring("checkpoint"):
            clock.now.now += 7
        assert clock.seconds_apart == 7
        assert clock.mean("evaluation") == 7 and clock.mean("checkpoint") is None


def test_the_line_has_everything_with_its_unit(capsys):
    logger_with_file(console.logger.name)  # the runtime's, whoever has set it up
    clock = TrainingClock(200, 50, 1000, now=Time())
    printer = ProgressPrinter(clock, lambda done: done / 40)
    with EventStorage(0) as storage:
        for storage.iter in range(20):
            clock.now.now += 1.5
            clock.tick(storage.iter + 1)
            storage.put_scalars(total_loss=3.0, loss_box=1.0, loss_classes=2.0, data_time=0.25)
            storage.put_scalar("lr", 0.01, smoothing_hint=False)
        printer.write()
        with clock.measuring("evaluation"):
            clock.now.now += 60
        printer.write()
        # The same number as the runtimes' own printers, for metrics.json.
        assert storage.latest()["eta_seconds"][0] == pytest.approx(180 * 1.5 + 4 * 60)
    first, second = capsys.readouterr().out.splitlines()
    for part in (
        *("epoch 0.5/5.0", "iteration 20/200", "loss 3 (box 1, classes 2)"),
        *("1.5 s/iteration (data 0.250 s)", "learning rate 0.01"),
        "time left 0:04:30 and 4 evaluations",
    ):
        assert part in first
    assert "time left 0:08:30  loss" in second
