"""What --train and --val of a command change in a configuration."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from ..d2.config import CfgNode
from ..datasets.catalog import read_class_names, registered_files
from ..datasets.formats.convert import convert_to_coco
from ..datasets.formats.read import has_split
from ..inputs import dataset_name, require_source
from ..tasks import forget_data

logger = logging.getLogger(__name__)


def use_data(
    cfg: CfgNode,
    train: Sequence[str] | None,
    val: Sequence[str] | None,
    *,
    folder: str | Path | None = None,
) -> None:
    """Point a configuration at data sets of the command line: files and classes.

    Args:
        cfg: changed in place.
        train: annotation file and image folder to train on, or one path of YOLO's or Pascal VOC's
            format, whose own validation part is evaluated on if `val` is None; None leaves the
            config's.
        val: the same to evaluate on; None leaves the config's, or nothing when `train` is given.
        folder: where labels of other formats are written as COCO files; None is "annotations" in
            OUTPUT_DIR.

    Raises:
        FileNotFoundError: when there is no such file or folder.
        ValueError: when a file has no categories, when the classes to evaluate on are not those
            to train on, which a run's own config.yaml names too, or when labels cannot be read.
    """
    folder = Path(cfg.OUTPUT_DIR) / "annotations" if folder is None else Path(folder)
    if train is not None and val is None:
        cfg.DATASETS.TEST = ()
        if len(train) == 1 and has_split(Path(train[0]), "val"):
            val = train
            logger.info("Evaluated on the validation part of %s", train[0])
    for split, option, given in (("TRAIN", "train", train), ("TEST", "val", val)):
        if given is None:
            continue
        require_source(option, given)
        name = None
        if len(given) == 1:
            # One data set has one list of classes, also where a part lacks some.
            known_names = cfg.MODEL.YOLOR.CLASS_NAMES if split == "TEST" and train else None
            name, given = use_labels(Path(given[0]), option, folder, known_names)
        # A run can be gone on with from another folder.
        files = [os.path.abspath(x) for x in given]
        path = Path(files[0])
        known = {entry[0]: list(entry[1:]) for entry in cfg.DATASETS.REGISTER}
        # Folder and file distinguish most data sets; the whole path distinguishes the rest.
        name = name or dataset_name(path)
        taken = known.get(name) or registered_files(name)
        if taken not in (None, files):
            name = str(path.resolve())
        if name not in known:
            cfg.DATASETS.REGISTER = [*cfg.DATASETS.REGISTER, [name, *files]]
        cfg.DATASETS[split] = (name,)
        names = read_class_names(path)
        expected = cfg.MODEL.YOLOR.CLASS_NAMES
        if split == "TEST" and expected and names != expected:
            raise ValueError(
                f"{str(path)!r} has the classes {names}, but the model is trained on {expected}"
            )
        cfg.MODEL.YOLOR.NUM_CLASSES = len(names)
        cfg.MODEL.YOLOR.CLASS_NAMES = names
        if split == "TRAIN":
            forget_data(cfg)


def use_labels(
    source: Path, split: str, folder: Path, names: Sequence[str] | None
) -> tuple[str, tuple[str, str]]:
    """Write labels of YOLO's or Pascal VOC's format as a COCO file.

    Args:
        source, split, names: see `formats.read_labelled`.
        folder: of the file.

    Returns:
        Name of the data set, and its annotation file and image folder.
    """
    place = source.resolve()
    folder_name = place.name if place.is_dir() else place.parent.name
    target = folder / f"{split}.json"
    labelled = convert_to_coco(source, split, target, names=names or None)
    logger.info(
        "%s, part %r: %d images and %d boxes, written as %s",
        *(source, split, len(labelled.data["images"]), len(labelled.data["annotations"]), target),
    )
    return f"{folder_name}/{split}", (str(target), str(labelled.image_root))
