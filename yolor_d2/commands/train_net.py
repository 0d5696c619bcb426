"""Train, resume or evaluate a YOLOR model."""

from __future__ import annotations

import argparse
from pathlib import Path

from yolor_d2.checkpoint import YOLORCheckpointer
from yolor_d2.config import (
    apply_overrides,
    describe_device,
    find_config,
    read_config,
    save_config,
)
from yolor_d2.d2 import describe_runtime
from yolor_d2.d2.config import CfgNode
from yolor_d2.d2.engine import default_setup
from yolor_d2.d2.evaluation import verify_results
from yolor_d2.d2.utils import comm, setup_logger
from yolor_d2.data.annotations import drop_contents, keep_copies_in
from yolor_d2.data.catalog import register_datasets, use_data
from yolor_d2.data.check.quick import check_datasets, log_findings
from yolor_d2.data.loader import count_identities
from yolor_d2.engine import Trainer
from yolor_d2.engine.launch import launch
from yolor_d2.engine.lengths import fit_lengths
from yolor_d2.engine.lock import locked
from yolor_d2.engine.processes import first_of_machine_first
from yolor_d2.engine.rates import scale_rates
from yolor_d2.evaluation.report import report_or_log


def read_settings(args: argparse.Namespace) -> CfgNode:
    """The configuration as file and command line give it."""
    args.config_file = str(find_config(args.config_file))
    cfg = read_config(args.config_file)
    # Class names are read before the overrides are applied, which may overrule them.
    folder = dict(zip(args.opts[::2], args.opts[1::2])).get("OUTPUT_DIR", cfg.OUTPUT_DIR)
    copies = Path(folder) / "annotations"
    keep_copies_in(copies)
    with first_of_machine_first():
        use_data(cfg, args.train, args.val, folder=copies)
    apply_overrides(cfg, args.opts)
    return cfg


def setup(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Data sets, lengths, log and seed; the configuration is complete then."""
    register_datasets(cfg)
    notes = []
    with first_of_machine_first():
        findings = check_datasets(cfg, train=not args.eval_only) if comm.is_main_process() else []
        if not args.eval_only:
            count_identities(cfg)
            notes = scale_rates(cfg, args.opts) + fit_lengths(cfg, args.opts)
    drop_contents()
    cfg.freeze()
    default_setup(cfg, args)
    if comm.is_main_process():
        save_config(cfg, Path(cfg.OUTPUT_DIR) / "config.yaml")
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="yolor_d2")
    logger.info("Runtime: %s", describe_runtime())
    for note in [describe_device(cfg), *notes]:
        logger.info("%s", note)
    log_findings(findings)


def work(args: argparse.Namespace) -> dict | None:
    """What each process does; returns the results of the last evaluation."""
    cfg = read_settings(args)
    with locked(cfg.OUTPUT_DIR):
        setup(cfg, args)
        return train_or_evaluate(cfg, args)


def train_or_evaluate(cfg: CfgNode, args: argparse.Namespace) -> dict | None:
    if not args.eval_only:
        trainer = Trainer(cfg)
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
