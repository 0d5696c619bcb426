"""Trainer, hooks, predictor and process set-up."""

from detectron2.engine import (
    DefaultPredictor,
    DefaultTrainer,
    HookBase,
    default_argument_parser,
    default_setup,
    hooks,
    launch,
)

__all__ = [
    "DefaultPredictor",
    "DefaultTrainer",
    "HookBase",
    "default_argument_parser",
    "default_setup",
    "hooks",
    "launch",
]
