"""Trainer, hooks, predictor and process set-up."""

from . import RUNTIME

if RUNTIME == "detectron2":
    from detectron2.engine import (
        DefaultPredictor,
        DefaultTrainer,
        HookBase,
        TrainerBase,
        create_ddp_model,
        default_setup,
        hooks,
        launch,
    )
else:
    from .._builtin import hooks
    from .._builtin.engine import (
        DefaultPredictor,
        DefaultTrainer,
        create_ddp_model,
        default_setup,
        launch,
    )
    from .._builtin.train_loop import HookBase, TrainerBase

__all__ = [
    "DefaultPredictor",
    "DefaultTrainer",
    "HookBase",
    "TrainerBase",
    "create_ddp_model",
    "default_setup",
    "hooks",
    "launch",
]
