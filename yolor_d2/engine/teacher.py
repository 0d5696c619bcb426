"""MODEL.YOLOR.TEACHER: which network teaches, where its weights come from, what is kept of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from ..checkpoint import YOLORCheckpointer
from ..config import read_config
from ..d2.config import CfgNode
from ..d2.modeling import META_ARCH_REGISTRY
from ..d2.utils import comm
from ..layers.fuse import fuse_for_inference
from ..modeling import YOLOR
from ..modeling.backbone import FIELDS, OTHER_KEYS
from ..modeling.teacher import TaughtModel
from ..ops import DistillationGains
from ..runs import TEACHER_CONFIG_NAME, find_training
from .ema import EMAHook

logger = logging.getLogger(__name__)

KEY = "MODEL.YOLOR.TEACHER"
# Keys of MODEL.YOLOR that describe a network.
NETWORK_KEYS = (
    *(*OTHER_KEYS, *FIELDS.values()),
    *("WIDTH_FACTOR", "DEPTH_FACTOR", "HEAD", "IMPLICIT"),
)
# Keys of MODEL that describe none: they say how whatever network it is is computed, and on what.
SHARED_KEYS = (
    *("DEVICE", "PIXEL_MEAN", "PIXEL_STD", "CHANNELS_LAST", "COMPILE", "SYNC_BN", "INFERENCE"),
)


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Put a key before the message of what goes wrong inside."""
    try:
        yield
    except (FileNotFoundError, KeyError, ValueError) as error:
        kind = next(x for x in (FileNotFoundError, KeyError, ValueError) if isinstance(error, x))
        message = error.args[0] if isinstance(error, KeyError) else error
        raise kind(f"{KEY}.{key}: {message}") from error


def gains_from_config(cfg: CfgNode) -> DistillationGains:
    """How much the teacher counts.

    Raises:
        ValueError: naming the key, its value and what is possible.
    """
    node = cfg.MODEL.YOLOR.TEACHER
    return DistillationGains(
        box=node.BOX,
        objectness=node.OBJECTNESS,
        classes=node.CLASSES,
        least_objectness=node.LEAST_OBJECTNESS,
    )


def teacher_config(cfg: CfgNode) -> CfgNode | None:
    """The configuration of the teacher alone; None without one.

    Its network is that of TEACHER.CONFIG: backbone, neck, head, anchors and the balance of its
    levels. All else is the run's: data, classes, sizes, pixels, assignment, gains and solver.

    Returns:
        Not frozen. It evaluates the teacher's weights, with results in a folder of their own.

    Raises:
        FileNotFoundError: when there is no such configuration.
        KeyError: when it has an unknown key, or names an unknown meta-architecture.
        ValueError: when it is no configuration, when its meta-architecture is none of this
            project's, or when there are weights, but no configuration.
    """
    node = cfg.MODEL.YOLOR.TEACHER
    if not node.CONFIG:
        if node.WEIGHTS:
            raise ValueError(
                f"{KEY}.WEIGHTS is {node.WEIGHTS!r}, but {KEY}.CONFIG is empty: give the "
                "configuration of their network"
            )
        return None
    with naming("CONFIG"):
        given = read_config(node.CONFIG).MODEL
        architecture = META_ARCH_REGISTRY.get(given.META_ARCHITECTURE)
        if not (isinstance(architecture, type) and issubclass(architecture, YOLOR)):
            raise ValueError(
                f"{node.CONFIG!r} has MODEL.META_ARCHITECTURE {given.META_ARCHITECTURE!r}, "
                "expected 'YOLOR' or a subclass: a teacher's logits are those of YOLOR's heads"
            )
    whole = cfg.clone()
    whole.defrost()
    network = given.YOLOR
    given.WEIGHTS, given.YOLOR = "", whole.MODEL.YOLOR
    for key in SHARED_KEYS:
        given[key] = whole.MODEL[key]
    whole.MODEL = given
    own = whole.MODEL.YOLOR
    for key in NETWORK_KEYS:
        own[key] = network[key]
    own.LOSS.BALANCE = network.LOSS.BALANCE
    own.TEACHER.CONFIG = own.TEACHER.WEIGHTS = ""
    for task in own.TASKS.values():  # it detects alone
        task.ENABLED = False
    own.PARTIAL_WEIGHTS = False
    whole.SOLVER.FREEZE = []
    whole.OUTPUT_DIR = str(Path(cfg.OUTPUT_DIR) / "teacher")
    return whole


def settle_teacher(cfg: CfgNode, *, resume: bool) -> list[str]:
    """Look at MODEL.YOLOR.TEACHER before a training; a run that goes on takes its own teacher.yaml,
    wherever the file is by now that it was made from.

    Args:
        cfg: changed in place.
        resume: a run in OUTPUT_DIR goes on, if there is one.

    Returns:
        What is to be said in the log.

    Raises:
        As `teacher_config` and `gains_from_config` do.
    """
    node, folder, notes = cfg.MODEL.YOLOR.TEACHER, Path(cfg.OUTPUT_DIR), []
    kept = folder / TEACHER_CONFIG_NAME
    if node.CONFIG and resume and kept.is_file() and find_training(folder) is not None:
        if Path(node.CONFIG) != kept:
            notes.append(
                f"The teacher's network is that of {str(kept)!r}, as the run goes on, not looked "
                f"up again in {KEY}.CONFIG {node.CONFIG!r}"
            )
        node.CONFIG = str(kept)
    gains_from_config(cfg)
    teacher_config(cfg)
    if node.CONFIG:
        how = f"frozen weights {node.WEIGHTS!r}" if node.WEIGHTS else "trained along"
        notes.append(f"Teacher: {node.CONFIG!r}, {how}")
    return notes


def load_frozen(cfg: CfgNode, own: CfgNode, build_model: Callable[[CfgNode], nn.Module]) -> YOLOR:
    """The teacher with its weights, as inference computes it."""
    given = read_config(cfg.MODEL.YOLOR.TEACHER.CONFIG)
    for key, theirs, ours in [
        ("INPUT.FORMAT", given.INPUT.FORMAT, cfg.INPUT.FORMAT),
        ("MODEL.PIXEL_MEAN", given.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_MEAN),
        ("MODEL.PIXEL_STD", given.MODEL.PIXEL_STD, cfg.MODEL.PIXEL_STD),
    ]:
        if theirs != ours and comm.is_main_process():
            logger.warning(
                "%s.CONFIG %r has %s %s, but the teacher gets the model's images, with %s",
                *(KEY, cfg.MODEL.YOLOR.TEACHER.CONFIG, key, theirs, ours),
            )
    own = own.clone()
    own.MODEL.COMPILE = False  # the fused copy is compiled
    teacher = build_model(own)
    with naming("WEIGHTS"):
        YOLORCheckpointer(teacher, strict=True).load(cfg.MODEL.YOLOR.TEACHER.WEIGHTS)
    teacher = fuse_for_inference(teacher)
    if cfg.MODEL.COMPILE:
        teacher.backbone.compile()
        teacher.head.compile()
    return teacher


def add_teacher(
    cfg: CfgNode, model: nn.Module, build_model: Callable[[CfgNode], nn.Module]
) -> nn.Module:
    """What is trained: the model, or the model with the teacher that MODEL.YOLOR.TEACHER names.

    Args:
        cfg: the configuration.
        model: the student. Built before the teacher, it has the weights that it has without one.
        build_model: makes a model of a configuration, as the student was made.

    Raises:
        ValueError, KeyError, FileNotFoundError: when there can be no such teacher, naming the key.
    """
    gains, own = gains_from_config(cfg), teacher_config(cfg)
    if own is None:
        return model
    if not isinstance(model, YOLOR):
        raise ValueError(
            f"{KEY}.CONFIG is {cfg.MODEL.YOLOR.TEACHER.CONFIG!r}, but MODEL.META_ARCHITECTURE "
            f"{cfg.MODEL.META_ARCHITECTURE!r} cannot be taught: expected 'YOLOR' or a subclass"
        )
    joint = not cfg.MODEL.YOLOR.TEACHER.WEIGHTS
    teacher = build_model(own) if joint else load_frozen(cfg, own, build_model)
    return TaughtModel(model, teacher, gains, joint=joint)


def trained_teacher(model: nn.Module) -> YOLOR | None:
    """The teacher that is trained along, of what `add_teacher` gives; None where there is none."""
    return model.teacher if isinstance(model, TaughtModel) and model.joint else None


class TeacherEMAHook(EMAHook):
    """The moving average of a teacher that is trained along. A class of its own, as a checkpoint
    has the states of hooks by their class."""
