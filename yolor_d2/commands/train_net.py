"""Train, resume or evaluate a YOLOR model."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.config import apply_overrides, describe_device, find_config, read_config, save_config
from yolor_d2.d2 import describe_runtime
from yolor_d2.d2.config import CfgNode
from yolor_d2.d2.engine import default_setup
from yolor_d2.d2.evaluation import verify_results
from yolor_d2.d2.utils import comm, setup_logger
from yolor_d2.data.options import use_data
from yolor_d2.data.training_data import TrainingData
from yolor_d2.datasets.catalog import register_datasets
from yolor_d2.datasets.open_files import drop_contents
from yolor_d2.datasets.prepared_copies import keep_copies_in
from yolor_d2.doctor.quick import check_datasets, log_findings
from yolor_d2.engine import Trainer
from yolor_d2.engine.batch_size import AUTO, GPUTrial, resolve_batch
from yolor_d2.engine.distributed.launch import launch
from yolor_d2.engine.distributed.lock import is_locked, locked
from yolor_d2.engine.distributed.processes import first_of_machine_first, wait_for_all
from yolor_d2.engine.lengths import fit_lengths
from yolor_d2.engine.monitoring.console import take_over_screen
from yolor_d2.engine.rates import scale_rates
from yolor_d2.engine.teacher import settle_teacher, teacher_config
from yolor_d2.report.write import report_or_log
from yolor_d2.runs import (
    TEACHER_CONFIG_NAME,
    refuse_other_run,
    remove_run,
    require_outside,
    run_of_config,
)
from yolor_d2.tasks import settle_tasks

# Not by the module's name: a script may be the module.
logger = logging.getLogger("yolor_d2.commands.train_net")


def read_settings(args: argparse.Namespace, notes: list[str] | None = None) -> CfgNode:
    """The configuration as file and command line give it.

    Args:
        args: the command line.
        notes: gets what is to be said when there is a log.

    Raises:
        FileExistsError: when OUTPUT_DIR holds another run; nothing has been written then.
    """
    args.config_file = str(find_config(args.config_file))
    cfg = read_config(args.config_file)
    choose_folder(cfg, args, [] if notes is None else notes)
    # Class names are read before the overrides are applied, which may overrule them.
    copies = Path(cfg.OUTPUT_DIR) / "annotations"
    keep_copies_in(copies)
    with first_of_machine_first():
        use_data(cfg, args.train, args.val, folder=copies)
    if args.keep_last is not None:
        cfg.SOLVER.KEEP_LAST = args.keep_last
    apply_overrides(cfg, args.opts)
    return cfg


def choose_folder(cfg: CfgNode, args: argparse.Namespace, notes: list[str]) -> None:
    """Set OUTPUT_DIR: that of the command line, else where the configuration of a run lies."""
    given = dict(zip(args.opts[::2], args.opts[1::2])).get("OUTPUT_DIR")
    run = run_of_config(Path(args.config_file))
    elsewhere = given is not None and run is not None and run.resolve() != Path(given).resolve()
    if elsewhere and args.resume:
        notes.append(
            f"--resume continues in OUTPUT_DIR {given!r}, as the command line says, not in "
            f"{str(run)!r}, where the configuration of a run lies"
        )
    elif run is not None and not elsewhere and run.resolve() != Path(cfg.OUTPUT_DIR).resolve():
        notes.append(
            f"OUTPUT_DIR is {str(run)!r}, where {run.name}/config.yaml lies, not "
            f"{cfg.OUTPUT_DIR!r}, as that says"
        )
    cfg.OUTPUT_DIR = given or str(run or cfg.OUTPUT_DIR)
    # A live run is reported by `locked`, with its process.
    is_meant = args.eval_only or args.resume or args.overwrite
    if not is_meant and not is_locked(Path(cfg.OUTPUT_DIR)):
        refuse_other_run(Path(cfg.OUTPUT_DIR))


def setup(cfg: CfgNode, args: argparse.Namespace, notes: Sequence[str] = ()) -> None:
    """Data sets, batch, lengths, log and seed; the configuration is complete then.

    Args:
        cfg: changed in place.
        args: the command line.
        notes: what is to be said first.
    """
    notes = list(notes)
    register_datasets(cfg)
    if not args.eval_only and cfg.SOLVER.IMS_PER_BATCH == AUTO:
        notes.append(resolve_batch(cfg, resume=args.resume, trial=GPUTrial))
    with first_of_machine_first():
        findings = check_datasets(cfg, train=not args.eval_only) if comm.is_main_process() else []
        if not args.eval_only:
            data = TrainingData(cfg)
            settle_tasks(cfg, data)
            if comm.get_world_size() > 1:  # each process is going to read them
                data.prepare_copies()
            notes += scale_rates(cfg, args.opts) + fit_lengths(cfg, args.opts)
            notes += settle_teacher(cfg, resume=args.resume)
    drop_contents()
    cfg.freeze()
    if args.overwrite:
        notes += make_room(cfg)
    start_log(cfg, args)
    for note in [describe_device(cfg), *notes]:
        logger.info("%s", note)
    log_findings(findings)


def make_room(cfg: CfgNode) -> list[str]:
    """Delete the run in OUTPUT_DIR, now that nothing is known to be wrong with the new one.

    Returns:
        What was deleted, for the log.
    """
    folder = Path(cfg.OUTPUT_DIR)
    for key, path in [
        ("MODEL.WEIGHTS", cfg.MODEL.WEIGHTS),
        ("SOLVER.CONTINUE_FROM", cfg.SOLVER.CONTINUE_FROM),
        ("MODEL.YOLOR.TEACHER.CONFIG", cfg.MODEL.YOLOR.TEACHER.CONFIG),
        ("MODEL.YOLOR.TEACHER.WEIGHTS", cfg.MODEL.YOLOR.TEACHER.WEIGHTS),
    ]:
        require_outside(key, path, folder)
    removed = remove_run(folder) if comm.is_main_process() else []
    wait_for_all()  # nobody writes before
    return [f"--overwrite: deleted {', '.join(removed)}"] if removed else []


def start_log(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Log file and screen, and what Detectron2 sets up beside them."""
    rank = comm.get_rank()
    # The same calls as the runtime's own, which then leave the screen unchanged.
    loggers = [
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore"),
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank),
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="yolor_d2"),
    ]
    take_over_screen(loggers, evaluates=args.eval_only)
    default_setup(cfg, args)
    if comm.is_main_process():
        save_config(cfg, Path(cfg.OUTPUT_DIR) / "config.yaml")
        teacher = None if args.eval_only else teacher_config(cfg)
        if teacher is not None:
            save_config(teacher, Path(cfg.OUTPUT_DIR) / TEACHER_CONFIG_NAME)
    logger.info(
        "%s in %r (runtime: %s); the configuration is in its config.yaml, all messages in log.txt",
        "Evaluation" if args.eval_only else "Training",
        cfg.OUTPUT_DIR,
        describe_runtime(),
    )


def work(args: argparse.Namespace) -> dict | None:
    """What each process does; returns the results of the last evaluation."""
    notes: list[str] = []
    cfg = read_settings(args, notes)
    with locked(cfg.OUTPUT_DIR):
        setup(cfg, args, notes)
        return train_or_evaluate(cfg, args)


def train_or_evaluate(cfg: CfgNode, args: argparse.Namespace) -> dict | None:
    if not args.eval_only:
        trainer = Trainer(cfg)
        if args.resume and comm.is_main_process() and not trainer.checkpointer.has_checkpoint():
            logger.warning(
                "--resume: OUTPUT_DIR %r has no checkpoint to resume from; the training starts "
                "from %s",
                *(cfg.OUTPUT_DIR, cfg.SOLVER.CONTINUE_FROM or "its beginning"),
            )
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()

    model = Trainer.build_model(cfg)
    checkpointer = YOLORCheckpointer(model, cfg.OUTPUT_DIR, strict=True)
    resumes = args.resume and checkpointer.has_checkpoint()
    if not cfg.MODEL.WEIGHTS and not resumes:
        raise ValueError("MODEL.WEIGHTS is empty: yolor-d2 eval needs a checkpoint to evaluate")
    weights = checkpointer.get_checkpoint_file() if resumes else cfg.MODEL.WEIGHTS
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        report_or_log(cfg, weights)
        verify_results(cfg, results)
    return results


def main(args: argparse.Namespace) -> None:
    launch(work, args)
