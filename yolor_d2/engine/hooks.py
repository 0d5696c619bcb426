"""Hooks that Detectron2 has not, or has otherwise."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from ..checkpoint import BEST_NAME, FINAL_NAME, YOLORCheckpointer
from ..d2.config import CfgNode
from ..d2.engine import HookBase, hooks
from ..d2.utils import comm
from ..datasets.fingerprint import describe_changes
from ..report.write import report_or_log
from ..runs import TEACHER_WEIGHTS
from ..visualize.implicit import draw_tensors, to_image

logger = logging.getLogger(__name__)

# Name of the scalar by which evaluations are ranked.
FITNESS = "fitness"


def fitness(results: dict) -> float | None:
    """The reference's measure of "best": 0.1 AP50 + 0.9 AP, in percent.

    Args:
        results: what `Trainer.test` returns: by task, or by data set and task where there are
            several. The first data set with ground truth counts.

    Returns:
        None when there is none.
    """
    for tasks in (results, *results.values()):
        if "bbox" in tasks:
            return 0.1 * tasks["bbox"]["AP50"] + 0.9 * tasks["bbox"]["AP"]
    return None


class CheckpointHook(HookBase):
    """Saves the state of the training every so many iterations, and at the end.

    At the end the weights alone are written as `model_final.pth` beside the last numbered
    checkpoint, from which a longer run can go on.

    Args:
        period: iterations between checkpoints.
        checkpointer: saves them.
        teacher: saves the weights of a teacher that is trained along, as `teacher_final.pth`.
    """

    def __init__(
        self,
        period: int,
        checkpointer: YOLORCheckpointer,
        teacher: YOLORCheckpointer | None = None,
    ):
        self.period = period
        self.checkpointer = checkpointer
        self.teacher = teacher

    def after_step(self) -> None:
        iteration = self.trainer.iter
        if iteration + 1 == self.trainer.max_iter:
            self.save_end(iteration)
        elif (iteration + 1) % self.period == 0:
            self.save_state(iteration)

    def save_state(self, iteration: int) -> None:
        self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)

    def save_end(self, iteration: int) -> None:
        """Save what the run ends with after its iteration of this number."""
        self.save_state(iteration)
        self.save_final(iteration)

    def save_final(self, iteration: int) -> None:
        if self.teacher is not None:  # first, as the other file marks the end
            self.teacher.save_weights(Path(TEACHER_WEIGHTS).stem, iteration=iteration)
        self.checkpointer.save_weights(FINAL_NAME, iteration=iteration)


def writers_last(registered: Sequence[HookBase]) -> list[HookBase]:
    """Hooks in their order, but what writes metrics behind all that put some, and reports behind
    that: wherever a user's hook was inserted, its last value is written."""

    def rank(hook: HookBase) -> int:
        return 2 if isinstance(hook, ReportHook) else isinstance(hook, hooks.PeriodicWriter)

    return sorted(registered, key=rank)


class EvalHook(hooks.EvalHook):
    """Detectron2's hook, which also makes up for an evaluation that an interruption prevented.

    The checkpoint of an iteration is written before its evaluation. So a run that resumes from it
    begins with that evaluation, as far as it can still matter: at the end of the run it cannot.
    """

    def __init__(self, period: int, function: Callable[[], dict | None]):
        super().__init__(period, function)
        self.every = period
        # Iterations that were done at the last evaluation.
        self.evaluated = -1

    def _do_eval(self) -> None:
        self.evaluated = self.trainer.storage.iter + 1
        super()._do_eval()

    def before_train(self) -> None:
        trainer = self.trainer
        start = trainer.start_iter
        if self.every <= 0 or start == 0 or start % self.every:
            return
        # As at the end of that iteration.
        trainer.iter = trainer.storage.iter = start - 1
        try:
            self._do_eval()
        finally:
            trainer.iter = trainer.storage.iter = start

    def after_train(self) -> None:
        # Detectron2 would also evaluate after an error in the last iteration, and once more where
        # an evaluation has ended the run.
        if self.trainer.completed and self.evaluated != self.trainer.max_iter:
            super().after_train()


class BestCheckpointer(HookBase):
    """Keeps the weights of the evaluation with the highest fitness as `model_best.pth`.

    Unlike Detectron2's hook of this name it still knows the best value after an interruption,
    since the file itself carries it. To be placed after the evaluation.

    Args:
        period: iterations between evaluations, as given to the evaluation hook.
        checkpointer: saves the weights.
    """

    def __init__(self, period: int, checkpointer: YOLORCheckpointer):
        self.period = period
        self.checkpointer = checkpointer
        self.best = -math.inf

    def before_train(self) -> None:
        path = Path(self.checkpointer.save_dir) / f"{BEST_NAME}.pth"
        if self.trainer.start_iter > 0 and path.is_file():
            self.best = torch.load(path, map_location="cpu", mmap=True, weights_only=True)[FITNESS]
        self.save_if_best()  # if the run begins with an evaluation

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done != self.trainer.max_iter:
            self.save_if_best()

    def after_train(self) -> None:
        if self.trainer.completed:
            self.save_if_best()

    def save_if_best(self) -> None:
        latest = self.trainer.storage.latest().get(FITNESS)
        if latest is None:
            return  # nothing to evaluate on
        value, iteration = latest
        # What is evaluated after the last iteration is recorded as one more.
        iteration = min(iteration, self.trainer.max_iter - 1)
        # Also False for NaN, the result of an evaluation without any detection.
        if value > self.best:
            self.best = value
            self.checkpointer.save_weights(BEST_NAME, iteration=iteration, **{FITNESS: value})
            logger.info(
                "Best evaluation so far: fitness %.3f %% (0.1 AP50 + 0.9 AP) at iteration %d",
                *(value, iteration),
            )


class EarlyStoppingHook(HookBase):
    """Ends the run when its fitness has not risen for so many evaluations in a row.

    To be placed behind the evaluation and what goes by it, in every process. How long the fitness
    has not risen is saved, so a run that was interrupted ends where it would have ended.

    Args:
        period: iterations between evaluations.
        patience: evaluations without a rise that end the run, at least 1.
    """

    def __init__(self, period: int, patience: int):
        self.period = period
        self.patience = patience
        self.best = -math.inf
        # Iterations that were done at the best evaluation, and at the last one that has counted.
        self.best_at = self.counted = 0
        # Evaluations since the best one.
        self.waited = 0

    @property
    def is_exhausted(self) -> bool:
        return self.waited >= self.patience

    def before_train(self) -> None:
        self.count(self.trainer.start_iter)  # if the run begins with an evaluation

    def after_step(self) -> None:
        self.count(self.trainer.iter + 1)

    def count(self, done: int) -> None:
        """Look at the evaluation after so many iterations, if there was one."""
        if done % self.period or done in (self.counted, self.trainer.max_iter):
            return
        latest = self.trainer.storage.latest().get(FITNESS)  # process 0 has it
        value = comm.all_gather(None if latest is None else latest[0])[0]
        if value is None:
            return  # nothing to go by
        self.counted = done
        if value > self.best:  # NaN, which no detection at all gives, is no rise
            self.best, self.best_at, self.waited = value, done, 0
            return
        self.waited += 1
        if self.is_exhausted:
            logger.info("%s", self.describe())
            self.trainer.end_early(done)

    def describe(self) -> str:
        since = f"since iteration {self.best_at} ({self.best:.3f} %)" if self.best_at else "at all"
        return (
            f"Early stopping after {self.counted} iterations: in {self.waited} evaluations "
            f"(SOLVER.EARLY_STOPPING.PATIENCE {self.patience}) the fitness has not risen {since}"
        )

    def state_dict(self) -> dict:
        names = ("best", "best_at", "counted", "waited")
        return {name: getattr(self, name) for name in names} if self.counted else {}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


class ImplicitPictureHook(HookBase):
    """Sends pictures of the implicit knowledge to tensorboard, see `visualize_implicit`.

    Args:
        period: iterations between two pictures, at least 1.
        classes: names of the classes.
        averaged: gives a context inside which the model carries its moving average.
    """

    def __init__(
        self,
        period: int,
        classes: Sequence[str],
        averaged: Callable[[], AbstractContextManager] = nullcontext,
    ):
        self.period = period
        self.classes = classes
        self.averaged = averaged

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 or done == self.trainer.max_iter:
            with self.averaged():
                figures = draw_tensors(self.trainer.student, self.classes)
            for place, figure in figures.items():
                self.trainer.storage.put_image(f"implicit/{place}", to_image(figure))


class FingerprintHook(HookBase):
    """Saves what the run is trained on, and says what has changed when it goes on.

    Args:
        fingerprint: see `datasets.fingerprint`; None in all processes but the one that saves.
        names: of the images.
    """

    def __init__(self, fingerprint: dict | None = None, names: Sequence[str] = ()):
        self.fingerprint = fingerprint
        self.names = names

    def state_dict(self) -> dict:
        return self.fingerprint or {}

    def load_state_dict(self, state: dict) -> None:
        if self.fingerprint is None:
            return
        changes = describe_changes(state, self.fingerprint, self.names)
        if changes:
            logger.warning(
                "The data to train on (DATASETS.TRAIN) are not those that the checkpoint was "
                "trained on: %s",
                "; ".join(changes),
            )


class ImageWeightHook(HookBase):
    """Lets the data loader draw images by the AP of their classes, see `data.image_weights`.

    What is drawn is a function of SEED, epoch and these numbers, which are saved.
    """

    def __init__(self):
        # Average precision of each class in 0-1 at the last evaluation.
        self.class_ap: list[float] | None = None

    def state_dict(self) -> dict:
        return {} if self.class_ap is None else {"class_ap": self.class_ap}

    def load_state_dict(self, state: dict) -> None:
        self.class_ap = state["class_ap"]


class ReportHook(HookBase):
    """Writes the report of the evaluation at the end of the training, see `report.write`.

    To be placed last.

    Args:
        cfg: the configuration of the run.
    """

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg

    def after_train(self) -> None:
        if self.trainer.completed:
            average = ", moving average" if self.cfg.SOLVER.EMA.ENABLED else ""
            report_or_log(self.cfg, f"iteration {self.trainer.max_iter}{average}")
