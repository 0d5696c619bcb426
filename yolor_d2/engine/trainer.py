"""The trainer: Detectron2's, with the recipe of the paper."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

import torch

from ..checkpoint import FINAL_NAME, YOLORCheckpointer
from ..checkpoint.checkpointer import TEACHER
from ..checkpoint.files import find_fault, find_state_beside
from ..d2.config import CfgNode
from ..d2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model, hooks
from ..d2.evaluation import verify_results
from ..d2.utils import CommonMetricPrinter, EventWriter, comm, setup_logger
from ..data.accumulation import Accumulation
from ..data.image_weights import read_class_ap
from ..data.loader import build_train_loader
from ..data.training_data import TrainingData
from ..datasets.catalog import class_names
from ..modeling.teacher import TaughtModel
from .distributed.interrupt import Interrupted, InterruptHook
from .distributed.processes import require_same, take_buffers_of_main_process, wait_for_all
from .distributed.progress import progress
from .ema import EMAHook
from .freeze import FrozenNormHook, frozen_norms
from .gpu import suit_gpu
from .hooks import (
    FITNESS,
    BestCheckpointer,
    CheckpointHook,
    EarlyStoppingHook,
    EvalHook,
    FingerprintHook,
    ImageWeightHook,
    ImplicitPictureHook,
    ReportHook,
    fitness,
    writers_last,
)
from .ignored_keys import check_ignored_keys
from .monitoring.console import ProgressPrinter, describe_metrics, shorten_error
from .monitoring.loggers import MetricWriter, build_loggers, check_loggers
from .monitoring.time_left import TrainingClock
from .parts import TrainerParts
from .random_state import RandomStateHook, preserved_random_state
from .step import StepTrainer, precision_from_config
from .teacher import TeacherEMAHook, add_teacher, trained_teacher

logger = logging.getLogger(__name__)

# Iterations between two lines in the log and two points of the curves.
WRITE_PERIOD = 20


class EndedEarly(BaseException):
    """Ends the loop of the runtime, to which it is no error."""


class Trainer(TrainerParts):
    """`DefaultTrainer` with YOLOR's data, parameter groups, schedule, and moving average.

    Detectron2's own constructor is not called: it makes steps of one batch each, and only GPUs can
    share its work.
    """

    def __init__(self, cfg: CfgNode):
        TrainerBase.__init__(self)
        check_ignored_keys(cfg)
        check_loggers(cfg)
        if not logging.getLogger(TrainerBase.__module__).isEnabledFor(logging.INFO):
            setup_logger()  # else the runtime's lines are lost
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        cfg = suit_gpu(cfg)
        model = self.build_model(cfg)
        # What is wanted; `model` is what is trained, with its wrapper and its teacher.
        self.student = model
        learner = add_teacher(cfg, model, self.build_model)
        teacher = trained_teacher(learner)
        if cfg.MODEL.COMPILE and isinstance(learner, TaughtModel):
            learner.compute_distillation = torch.compile(learner.compute_distillation)
        optimizer = self.build_optimizer(cfg, learner)
        # On the CPU a process has no device of its own.
        on_gpu = cfg.MODEL.DEVICE.startswith("cuda")
        devices = {"device_ids": [torch.cuda.current_device()] if on_gpu else None}
        loader = self.build_train_loader(cfg)
        # None for the loader of a subclass.
        self.training_set = getattr(loader, "training_set", None)
        # Asks the file system for every image, which one process is enough for.
        taken = ()
        if self.training_set is not None and comm.is_main_process():
            taken = TrainingData(cfg).fingerprint(self.training_set)
        self.fingerprint = FingerprintHook(*taken)
        self._trainer = StepTrainer(
            create_ddp_model(learner, broadcast_buffers=False, **devices),
            loader,
            optimizer,
            accumulation=Accumulation.from_config(cfg),
            precision=precision_from_config(cfg),
            clip_norm=cfg.SOLVER.CLIP_NORM,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.ema = self.teacher_ema = None
        if cfg.SOLVER.EMA.ENABLED:
            node = cfg.SOLVER.EMA
            options = {"decay": node.DECAY, "ramp": node.RAMP, "fused": cfg.SOLVER.FUSED}
            self.ema = EMAHook(model, **options)
            if teacher is not None:
                self.teacher_ema = TeacherEMAHook(teacher, **options)
        self.interrupt = InterruptHook(self._trainer.settle)
        self.image_weights = ImageWeightHook() if cfg.DATALOADER.IMAGE_WEIGHTS else None
        self.checkpointer = YOLORCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            averaged=self.saving,
            partial=cfg.MODEL.YOLOR.PARTIAL_WEIGHTS,
            keep_last=cfg.SOLVER.KEEP_LAST,
            **({} if teacher is None else {TEACHER: teacher}),  # before its raw weights
            trainer=weakref.proxy(self),
        )
        self.teacher_checkpointer = None
        if teacher is not None:
            self.teacher_checkpointer = YOLORCheckpointer(
                teacher, cfg.OUTPUT_DIR, averaged=self.saving
            )
        progress.always_slow = cfg.MODEL.COMPILE  # new shapes are compiled at any time
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.clock = TrainingClock(
            self.max_iter,
            cfg.TEST.EVAL_PERIOD if cfg.DATASETS.TEST else None,
            cfg.SOLVER.CHECKPOINT_PERIOD,
        )
        self.printer = ProgressPrinter(
            self.clock, None if self.training_set is None else self.epochs_after
        )
        self.loggers: list[MetricWriter] = []
        self.checkpoints: CheckpointHook | None = None
        self.early_stopping: EarlyStoppingHook | None = None
        self.register_hooks(self.build_hooks())

    def averaged(self) -> AbstractContextManager:
        """Inside this context the model carries its average, if there is one.

        All that saves or evaluates the model goes through here; what a loss that was not finite has
        spoiled gets no further.
        """
        self._trainer.read_all()
        return nullcontext() if self.ema is None else self.ema.applied()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """`averaged`, of a teacher too that is trained along, to save them; other processes wait
        for it."""
        teacher = nullcontext() if self.teacher_ema is None else self.teacher_ema.applied()
        with (
            progress.during("checkpoint"),
            self.clock.measuring("checkpoint"),
            self.averaged(),
            teacher,
        ):
            yield

    def epochs_after(self, done: int) -> float:
        """Epochs that so many iterations are."""
        samples = self._trainer.accumulation.batches_before(done) * self.cfg.SOLVER.IMS_PER_BATCH
        return samples / len(self.training_set)

    def run_step(self) -> None:
        if self.iter >= self.max_iter:
            raise EndedEarly
        progress.begin(self.iter)
        super().run_step()
        done = self.iter + 1
        if done % WRITE_PERIOD == 0 or done == self.max_iter:
            self._trainer.settle()
        progress.end()
        self.clock.tick(done)
        if comm.is_main_process():
            self.printer.refresh(done)

    def end_early(self, done: int) -> None:
        """Let the run end after so many iterations as if it had been meant to; all processes call
        this. What it ends with is saved here."""
        self.max_iter = self.clock.max_iter = done
        self.interrupt.completed = True
        if self.checkpoints is not None:
            iteration, self.iter = self.iter, done - 1
            self.checkpoints.save_end(self.iter)
            self.iter = iteration

    @property
    def completed(self) -> bool:
        """Whether the last iteration was finished, and no signal came until then."""
        return self.interrupt.completed

    def build_hooks(self) -> list[HookBase]:
        """Timer, random state, fingerprint, frozen norms, average, schedule, checkpoints, signals,
        evaluation, image weights, best, early stopping, writers, report: in this order."""
        cfg = self.cfg
        norms = frozen_norms(self.student)
        built = [
            hooks.IterationTimer(),
            RandomStateHook(),
            self.fingerprint,
            FrozenNormHook(norms) if norms else None,
            self.ema,
            self.teacher_ema,
            hooks.LRScheduler(),
        ]
        if comm.is_main_process():
            # Before the evaluation, so that nothing is lost if that fails.
            self.checkpoints = CheckpointHook(
                cfg.SOLVER.CHECKPOINT_PERIOD, self.checkpointer, self.teacher_checkpointer
            )
            built.append(self.checkpoints)
        built.append(self.interrupt)
        if cfg.DATASETS.TEST:
            built += [EvalHook(cfg.TEST.EVAL_PERIOD, self.evaluate), self.image_weights]
        if comm.is_main_process():
            if cfg.DATASETS.TEST:
                built.append(BestCheckpointer(cfg.TEST.EVAL_PERIOD, self.checkpointer))
            if cfg.VIS_PERIOD > 0:
                names = class_names(cfg)
                built.append(ImplicitPictureHook(cfg.VIS_PERIOD, names, averaged=self.averaged))
        if cfg.SOLVER.EARLY_STOPPING.PATIENCE > 0:
            self.early_stopping = EarlyStoppingHook(
                cfg.TEST.EVAL_PERIOD, cfg.SOLVER.EARLY_STOPPING.PATIENCE
            )
            built.append(self.early_stopping)
        if comm.is_main_process():
            built.append(hooks.PeriodicWriter(self.build_writers(), period=WRITE_PERIOD))
            if cfg.DATASETS.TEST and cfg.TEST.REPORT:
                # Behind everything that may not be lost, and the curves that it shows.
                built.append(ReportHook(cfg))
        return [hook for hook in built if hook is not None]

    def build_writers(self) -> list[EventWriter]:
        """The line of progress, the runtime's files, and what TRAIN.LOGGERS names."""
        files = super().build_writers()
        files = [writer for writer in files if not isinstance(writer, CommonMetricPrinter)]
        self.loggers = build_loggers(self.cfg, lambda: self.completed)
        return [self.printer, *files, *self.loggers]

    def evaluate(self) -> dict:
        """Evaluate the average; the training does not notice, but for the image weights."""
        self.interrupt.evaluating = True
        try:
            with (
                self.clock.measuring("evaluation"),
                preserved_random_state(),
                self.averaged(),
            ):
                take_buffers_of_main_process(self.student)
                results = self._last_eval_results = self.test(self.cfg, self.student)
        finally:
            self.interrupt.evaluating = False
        if comm.is_main_process():
            seconds = self.clock.apart["evaluation"][-1]
            names = ", ".join(self.cfg.DATASETS.TEST)
            metrics = describe_metrics(results)
            logger.info("Evaluation of %s: %s (took %.1f s)", names, metrics, seconds)
        value = fitness(results) if comm.is_main_process() else None
        if value is not None:
            self.storage.put_scalar(FITNESS, value, smoothing_hint=False)
        if self.image_weights is not None:
            self.weigh_images(results)
        return results

    def weigh_images(self, results: dict) -> None:
        """Draw the images of later iterations by an evaluation, whose results process 0 has."""
        class_ap = comm.all_gather(read_class_ap(results, class_names(self.cfg)))[0]
        if class_ap is not None and self.iter + 1 < self.max_iter:
            self.image_weights.class_ap = class_ap
            self.load_from(self.iter + 1)

    def load_from(self, iteration: int) -> None:
        """Continue with the samples of an iteration; a loader of a subclass's own begins anew."""
        if self.training_set is None:
            logger.warning(
                "%s.build_train_loader is not yolor_d2's: its loader begins anew at iteration %d",
                *(type(self).__name__, iteration),
            )
            return
        class_ap = None if self.image_weights is None else self.image_weights.class_ap
        progress.measured = 0  # the next iteration takes as long as a first one
        with progress.during("start of the data"):
            self._trainer.reset_data_loader(
                lambda: build_train_loader(self.cfg, iteration, class_ap, self.training_set)
            )

    def train(self) -> dict | None:
        """Run the iterations that are left; the results of the last evaluation, if expected.

        Raises:
            Interrupted: after SIGTERM or SIGINT, when the checkpoint is written.
        """
        if self.start_iter >= self.max_iter:
            logger.info("The run has all its %d iterations: nothing is left to do", self.max_iter)
            self.mend_final()
            return None
        self._hooks = writers_last(self._hooks)
        if self.early_stopping is not None and self.early_stopping.is_exhausted:
            logger.info("%s: nothing is left to do", self.early_stopping.describe())
            self.mend_final()
            return None
        for writer in self.loggers:
            writer.begin()
        runtime_logger = logging.getLogger(TrainerBase.__module__)
        runtime_logger.addFilter(shorten_error)
        try:
            results = super().train()
            progress.leave("end")
            return results
        except EndedEarly:
            progress.leave("end")
            if not self.cfg.TEST.EXPECTED_RESULTS or not comm.is_main_process():
                return None
            verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results
        except Interrupted as interrupted:
            self.save_interrupted(interrupted)
            raise
        finally:
            self.interrupt.restore()
            runtime_logger.removeFilter(shorten_error)

    def mend_final(self) -> None:
        """Write the weights at the end of a finished run, if the end came before they were."""
        final = Path(self.cfg.OUTPUT_DIR) / f"{FINAL_NAME}.pth"
        if self.checkpoints is not None and not final.is_file():
            self.checkpoints.save_final(self.start_iter - 1)

    def save_interrupted(self, interrupted: Interrupted) -> None:
        """Save the last iteration that is finished, and say from where to go on."""
        done = self.interrupt.finished
        if done is not None and done != self.checkpointer.saved_iteration:
            self.checkpointer.save(f"model_{done:07d}", iteration=done)
        source = "the checkpoint of process 0"
        if comm.is_main_process():
            source = self.checkpointer.get_checkpoint_file() or "the start"
        logger.warning(
            "%s: stopped after %d iterations; --resume continues from %s",
            *(interrupted.signal.name, self.start_iter if done is None else done + 1, source),
        )
        # What started the processes ends all of them when the first one ends, so none goes before
        # the checkpoint is written. One that has died meanwhile changes nothing.
        with suppress(RuntimeError):
            wait_for_all()

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue the run in OUTPUT_DIR if there is one, else that of SOLVER.CONTINUE_FROM, else
        start from MODEL.WEIGHTS.

        Raises:
            ValueError: when SOLVER.CONTINUE_FROM and MODEL.WEIGHTS are both given, or when the
                former holds no training.
        """
        source = self.cfg.SOLVER.CONTINUE_FROM
        if source and self.cfg.MODEL.WEIGHTS:
            raise ValueError(
                f"SOLVER.CONTINUE_FROM {source!r} brings its weights: MODEL.WEIGHTS must be empty, "
                f"but is {self.cfg.MODEL.WEIGHTS!r}"
            )
        require_same(Path(self.checkpointer.get_checkpoint_file()).name if resume else "")
        super().resume_or_load(resume)
        if self.start_iter == 0 and source:
            state = find_state_beside(Path(source))
            fault = find_fault(state)
            if fault is not None:
                raise ValueError(f"SOLVER.CONTINUE_FROM {source!r} cannot be continued: {fault}")
            self.checkpointer.strict = True
            self.checkpointer.load(str(state))
            self.start_iter = self.iter + 1
        if self.start_iter > 0:
            # The optimiser came with the learning rates of its own run.
            self.scheduler.apply()
            # The run continues with the next samples, not with the first ones again.
            self.load_from(self.start_iter)
