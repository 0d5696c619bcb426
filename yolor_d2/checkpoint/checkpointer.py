"""Saving and loading: Detectron2's checkpointer, plus the moving average and strict loading."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..d2.checkpoint import DetectionCheckpointer
from ..files.writing import atomic_write
from ..inputs import require_weights_or_address
from ..wording import counted
from .conversion.branches import take_branch
from .conversion.convert import convert_weights
from .conversion.names import COUNTER
from .conversion.parts import has_own_parts, parts_of, to_meta_arch
from .conversion.report import check_anchors, log_report
from .files import LAST_NAME, find_not_finite, find_resumable, prune_checkpoints, remove_temporaries
from .formats.load import ForeignWeights, read_weights

# Names of the tensors of further tasks, see `networks.branches`.
TASKS_PREFIX = "tasks."

# Weights for use: those of the best evaluation, and those at the end of the run. They hold nothing
# of the training, and a run never resumes from them.
BEST_NAME = "model_best"
FINAL_NAME = "model_final"


# Name of the checkpointable that is a teacher trained along.
TEACHER = "teacher"


class YOLORCheckpointer(DetectionCheckpointer):
    """Saves the moving average as "model" and refuses weights that do not fit.

    A file is written whole or not at all, and only with finite weights.

    Args:
        model: the model.
        save_dir: folder of the checkpoints.
        averaged: gives a context inside which the model carries its moving average.
        strict: the weights must be for the model's own number of classes; otherwise the class rows
            of the head may differ, which keep their initial values then.
        partial: accept weights of which some are missing or left over; the log names them.
        keep_last: numbered checkpoints that stay in the folder, see `files.prune_checkpoints`; 0
            keeps all.
        **checkpointables: saved along, see `DetectionCheckpointer`.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        averaged: Callable[[], AbstractContextManager] = nullcontext,
        strict: bool = False,
        partial: bool = False,
        keep_last: int = 0,
        **checkpointables: Any,
    ):
        super().__init__(model, save_dir, **checkpointables)
        self.averaged = averaged
        self.strict = strict
        self.partial = partial
        self.keep_last = keep_last
        # Found once, as every byte of it is checked.
        self.resumable: Path | None = None
        # Iteration of the last checkpoint that this object wrote.
        self.saved_iteration: int | None = None
        # Whether the states of the checkpointables are loaded too.
        self.goes_on = False

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `name`.pth, and note it as the last checkpoint.

        Raises:
            FloatingPointError: when a value is not finite; nothing is written.
            OSError: when the file cannot be written; earlier checkpoints stay unchanged.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        self.write(name, self.checkpointables, kwargs)
        self.tag_last_checkpoint(f"{name}.pth")
        self.saved_iteration = kwargs.get("iteration")
        if self.keep_last > 0:
            prune_checkpoints(Path(self.save_dir), self.keep_last)

    def save_weights(self, name: str, **kwargs: Any) -> None:
        """Write `name`.pth with the weights alone, for use; errors as of `save`.

        A third of the size, as optimiser and raw weights stay away. A run cannot be resumed from
        it.
        """
        if self.save_dir and self.save_to_disk:
            self.write(name, {}, kwargs)

    def write(self, name: str, states: dict[str, Any], kwargs: dict[str, Any]) -> None:
        """Write the weights, the states of some objects, and some values."""
        path = Path(self.save_dir) / f"{name}.pth"
        with self.averaged():
            data = {
                "model": self.model.state_dict(),
                **{key: value.state_dict() for key, value in states.items()},
                **kwargs,
            }
            broken = find_not_finite(data)
            if broken is not None:
                raise FloatingPointError(f"{str(path)!r} is not written: {broken} is not finite")
            self.logger.info("Saving checkpoint to %s", path)
            with atomic_write(path) as file:
                torch.save(data, file)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with atomic_write(Path(self.save_dir) / LAST_NAME) as file:
            file.write(last_filename_basename.encode())
        self.resumable = Path(self.save_dir) / last_filename_basename

    def get_checkpoint_file(self) -> str:
        """The checkpoint to resume from, see `files.find_resumable`; "" if there is none."""
        if self.resumable is None and self.save_dir:
            self.resumable = find_resumable(Path(self.save_dir))
        return str(self.resumable or "")

    def has_checkpoint(self) -> bool:
        return bool(self.get_checkpoint_file())

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        if self.save_dir and self.save_to_disk:
            remove_temporaries(Path(self.save_dir))
        if resume and self.has_checkpoint():  # a run resumes with exactly its own weights
            self.strict, self.partial = True, False
        return super().resume_or_load(path, resume=resume)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint, or weights of another program (see `read_weights`).

        Raises:
            FileNotFoundError: when there is no such file.
            WeightsFileError: when it cannot be read, or not safely.
            ValueError: when its weights do not fit, see the class.
        """
        require_weights_or_address(path)
        self.path = path
        wanted = args[0] if args else kwargs.get("checkpointables")
        self.goes_on = wanted is None and bool(self.checkpointables)
        return super().load(path, *args, **kwargs)

    def _load_file(self, f: str) -> dict[str, Any]:
        weights = read_weights(f)
        if weights.kind == "yolor_d2":
            # Once more, with the state of the run; nothing but plain data gets through.
            return torch.load(f, map_location="cpu", weights_only=True)
        return {"model": weights.tensors, "foreign": weights}

    def _load_model(self, checkpoint: dict) -> Any:
        if self.goes_on and (TEACHER in checkpoint) != (TEACHER in self.checkpointables):
            has, wants = ("a", "none") if TEACHER in checkpoint else ("no", "one")
            raise ValueError(
                f"the training in {self.path!r} has {has} teacher that is trained along, but "
                f"MODEL.YOLOR.TEACHER asks for {wants}: it goes on as it began, or starts from "
                "MODEL.WEIGHTS"
            )
        weights = checkpoint.pop("foreign", None) or ForeignWeights("yolor_d2", checkpoint["model"])
        if has_own_parts(self.model):  # else only weights of the same names fit
            checkpoint["model"] = self.convert(weights)
        incompatible = super()._load_model(checkpoint)
        missing = [key for key in incompatible.missing_keys if not key.endswith(COUNTER)]
        faults = [*missing, *incompatible.unexpected_keys, *incompatible.incorrect_shapes]
        if faults and not self.partial:
            raise ValueError(
                f"the weights in {self.path!r} do not fit the model: {len(faults)} tensors are "
                f"missing, left over or of another shape ({', '.join(map(str, faults[:3]))}, ...)"
            )
        return incompatible

    def convert(self, weights: ForeignWeights) -> dict[str, Tensor]:
        """Weights under the names of the model.

        Raises:
            ValueError: when they do not fit, see the class.
        """
        parts = parts_of(self.model)
        for name, branch in self.model.tasks.items():
            weights, state = take_branch(weights, parts, branch, self.path)
            state = {f"{TASKS_PREFIX}{name}.{key}": value for key, value in state.items()}
            weights = replace(weights, tensors={**weights.tensors, **state})
        branches = {k: v for k, v in weights.tensors.items() if k.startswith(TASKS_PREFIX)}
        others = {k: v for k, v in weights.tensors.items() if k not in branches}
        state, report = convert_weights(replace(weights, tensors=others), parts, self.path)
        if self.strict and report.classes_kept:
            raise ValueError(
                f"the weights in {self.path!r} do not fit the model: they are for "
                f"{counted(report.num_classes, 'class', 'classes')}, MODEL.YOLOR.NUM_CLASSES is "
                f"{parts.head.num_classes}"
            )
        if not self.partial:
            report.check()
        log_report(report, parts.head.num_classes)
        check_anchors(report, self.model.anchors)
        return {**to_meta_arch(state), **self.fit_tasks(branches)}

    def fit_tasks(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the branches of further tasks, as far as the model has these tasks.

        A branch that the file has not starts afresh, and so does what depends on the data (classes,
        identities, ...) where the file has it for other data.

        Args:
            given: tensors below `TASKS_PREFIX`.

        Raises:
            ValueError: when something is missing or left over, and `strict` is set; or when another
                shape is not due to the data.
        """
        wanted = {k: v for k, v in self.model.state_dict().items() if k.startswith(TASKS_PREFIX)}
        missing = sorted(k for k in wanted.keys() - given.keys() if not k.endswith(COUNTER))
        unused = sorted(given.keys() - wanted.keys())
        other = sorted(k for k in wanted.keys() & given.keys() if wanted[k].shape != given[k].shape)
        by_data = {
            f"{TASKS_PREFIX}{name}.{tensor}"
            for name, branch in self.model.tasks.items()
            for tensor in branch.by_data
        }
        # Inference has no use for the prototypes of identities: a model for it need not have any.
        faults = [k for k in other if not (k in by_data and wanted[k].numel() == 0)]
        problems = "; ".join(
            f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for kind, names in {
                "missing": missing,
                "left over": unused,
                "of another shape": faults,
            }.items()
            if names
        )
        misfit = set(other) - by_data and not self.partial
        if problems and (self.strict or misfit):
            raise ValueError(
                f"the weights in {self.path!r} do not fit the branches of MODEL.YOLOR.TASKS: "
                f"{problems}"
            )
        if problems:
            self.logger.warning(
                "%s fits the branches of MODEL.YOLOR.TASKS only in part: %s. What the file has not "
                "starts afresh, what is left over is ignored",
                self.path,
                problems,
            )
        fitting = wanted.keys() & given.keys() - set(other)
        return {k: given[k].to(v.dtype) if k in fitting else v for k, v in wanted.items()}
