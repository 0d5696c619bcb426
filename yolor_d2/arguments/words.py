"""Words of other programs, of ultralytics above all, and what they are here.

docs/from_ultralytics.md has the tables for people.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

# Options of one meaning; ours come first. What a command does not call by our word, it calls by
# another of the same line, which stays understood for who has it in scripts.
SYNONYMS = (
    ("config-file", "config", "cfg"),
    ("input", "source", "images"),
    ("output", "out", "output-dir", "save-dir"),
    ("threshold", "score-threshold", "conf", "conf-thres", "confidence"),
    ("iou", "iou-threshold", "iou-thres", "nms-threshold"),
    ("size", "imgsz", "img", "img-size", "image-size"),
    ("batch", "batch-size"),
    ("count", "num", "num-pictures", "images"),
    ("val", "test", "annotations"),
    ("json", "report"),
    ("stride", "vid-stride"),
    ("line-width", "line-thickness"),
    ("no-labels", "hide-labels"),
    ("overwrite", "exist-ok"),
    ("num-gpus", "gpus"),
)


def plain(word: str) -> str:
    """The name of an option without dashes in front and in one spelling: --batch_size is
    batch-size."""
    return word.lstrip("-").lower().replace("_", "-")


def synonyms(name: str) -> tuple[str, ...]:
    """A name and, behind it, those of the same meaning."""
    return (name, *(x for group in SYNONYMS if name in group for x in group))


# ---- Keys


def is_switch(text: str) -> bool:
    return text.lower() in ("true", "false", "1", "0", "yes", "no")


def read_switch(text: str) -> list[str]:
    if not is_switch(text):
        raise ValueError("expected True or False")
    return [str(text.lower() in ("true", "1", "yes"))]


def read_as_is(text: str) -> list[str]:
    return [text]


def read_number(text: str) -> list[str]:
    """A number that the configuration takes; NaN and words are none."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError("expected a number") from None
    if value != value:
        raise ValueError("expected a number")
    return [text]


def read_whole(text: str) -> list[str]:
    if not re.fullmatch(r"\d+", text):
        raise ValueError("expected a whole number of at least 0")
    return [text]


def read_batch(text: str) -> list[str]:
    return ["auto"] if text in ("-1", "auto") else read_whole(text)


def read_size(text: str) -> list[str]:
    """The longer side of images, for SIZE_KEYS."""
    if not re.fullmatch(r"[1-9]\d*", text):
        raise ValueError("expected one number, the longer side of the images in pixels")
    return [f"({text},)", text, text, text]


def read_device(text: str) -> list[str]:
    if re.fullmatch(r"\d+", text):
        return [f"cuda:{text}"]
    if "," in text:
        raise ValueError(
            f"but several GPUs are --num-gpus {text.count(',') + 1} (CUDA_VISIBLE_DEVICES={text} "
            "says which)"
        )
    if text == "-1":
        raise ValueError("expected cpu, cuda, or the number of a GPU")
    return [text]


def read_cache(text: str) -> list[str]:
    known = {"true": "ram", "ram": "ram", "disk": "disk", "false": "none", "none": "none"}
    if text.lower() not in known:
        raise ValueError("expected ram, disk or none")
    return [known[text.lower()]]


SIZE_KEYS = (
    *("INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN"),
    *("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"),
)


@dataclass(frozen=True)
class Key:
    """What a word sets in the configuration.

    Attributes:
        names: keys; () is the command's key for batches.
        read: makes the values of the keys from the text behind the word; raises a ValueError that
            says what was expected.
        training: it makes sense in training alone.
        switch: without a value it is on.
    """

    names: tuple[str, ...]
    read: Callable[[str], list[str]] = read_as_is
    training: bool = False
    switch: bool = False

    def takes(self, word: str) -> bool:
        """Whether a word is a value of it."""
        try:
            self.read(word)
        except ValueError:
            return False
        return True


def _training(name: str, read: Callable[[str], list[str]] = read_number) -> Key:
    return Key((name,), read, training=True, switch=read in (read_switch, read_cache))


# By our name or, where we have none but the key, by theirs.
KEYS = {
    "weights": Key(("MODEL.WEIGHTS",)),
    "size": Key(SIZE_KEYS, read_size),
    "device": Key(("MODEL.DEVICE",), read_device),
    "batch": Key((), read_batch),
    "iou": Key(("MODEL.YOLOR.NMS_THRESHOLD",), read_number),
    "threshold": Key(("MODEL.YOLOR.SCORE_THRESHOLD",), read_number),
    "max-det": Key(("TEST.DETECTIONS_PER_IMAGE",), read_whole),
    "agnostic-nms": Key(("MODEL.YOLOR.CLASS_AGNOSTIC_NMS",), read_switch, switch=True),
    "augment": Key(("TEST.AUG.ENABLED",), read_switch, switch=True),
    "seed": Key(("SEED",), read_whole),
    "workers": Key(("DATALOADER.NUM_WORKERS",), read_whole),
    "epochs": _training("SOLVER.MAX_EPOCHS", read_whole),
    "patience": _training("SOLVER.EARLY_STOPPING.PATIENCE", read_whole),
    "save-period": _training("SOLVER.CHECKPOINT_EPOCHS", read_whole),
    "warmup-epochs": _training("SOLVER.WARMUP_EPOCHS", read_whole),
    "close-mosaic": _training("INPUT.AUGMENT.MOSAIC_OFF_EPOCHS", read_whole),
    "cache": _training("INPUT.CACHE", read_cache),
    "rect": _training("INPUT.RECT", read_switch),
    "amp": _training("SOLVER.AMP.ENABLED", read_switch),
    "lr0": _training("SOLVER.BASE_LR"),
    "momentum": _training("SOLVER.MOMENTUM"),
    "weight-decay": _training("SOLVER.WEIGHT_DECAY"),
    "warmup-momentum": _training("SOLVER.WARMUP_MOMENTUM"),
    "warmup-bias-lr": _training("SOLVER.WARMUP_BIAS_LR"),
    "label-smoothing": _training("MODEL.YOLOR.LOSS.LABEL_SMOOTHING"),
    "mosaic": _training("INPUT.AUGMENT.MOSAIC"),
    "mixup": _training("INPUT.AUGMENT.MIXUP"),
    "degrees": _training("INPUT.AUGMENT.DEGREES"),
    "shear": _training("INPUT.AUGMENT.SHEAR"),
    "scale": _training("INPUT.AUGMENT.SCALE"),
    "translate": _training("INPUT.AUGMENT.TRANSLATE"),
    "perspective": _training("INPUT.AUGMENT.PERSPECTIVE"),
    "fliplr": _training("INPUT.AUGMENT.FLIP"),
    "flipud": _training("INPUT.AUGMENT.FLIP_VERTICAL"),
}


def find_key(name: str) -> Key | None:
    """What a word or one of its synonyms sets; None for a word that sets nothing."""
    return next((KEYS[x] for x in synonyms(name) if x in KEYS), None)


# What has no word of one meaning here, and what to write in its place.
ADVICE = {
    "data": "classes come from the configuration; train, eval and check take a data.yaml",
    "half": "MODEL.INFERENCE.DTYPE float16 or bfloat16 computes the network in half precision",
    "fp16": "MODEL.INFERENCE.DTYPE float16 or bfloat16 computes the network in half precision",
    "save": "drawn pictures always go to --output",
    "show": "drawn pictures go to --output",
    "save-txt": "--yolo-txt FOLDER writes labels in YOLO's format",
    "save-conf": "every score is written",
    "save-crop": "--crops FOLDER writes the pixels of each box",
    "save-json": "--coco-json FILE writes COCO results",
    "plots": "the report and its pictures are always made",
    "verbose": "there is nothing to switch; --debug shows where an error comes from",
    "pretrained": "--weights FILE starts from weights",
    "optimizer": "SOLVER.OPTIMIZER SGD or Muon",
    "lrf": "SOLVER.BASE_LR_END is the last learning rate itself, not a fraction of the first",
    "cos-lr": "the learning rate always follows a cosine",
    "freeze": "SOLVER.FREEZE takes names of modules, such as \"['backbone.*']\"",
    "single-cls": "give a file of annotations with one class",
    "box": "MODEL.YOLOR.LOSS.BOX is the weight of the boxes",
    "cls": "MODEL.YOLOR.LOSS.CLASSES is the weight of the classes",
    "hsv-h": 'INPUT.AUGMENT.HSV takes hue, saturation and value, such as "[0.015, 0.7, 0.4]"',
    "hsv-s": 'INPUT.AUGMENT.HSV takes hue, saturation and value, such as "[0.015, 0.7, 0.4]"',
    "hsv-v": 'INPUT.AUGMENT.HSV takes hue, saturation and value, such as "[0.015, 0.7, 0.4]"',
    "nms": "NMS is in the file unless --no-nms leaves it out",
    "dynamic": "exported files always take any number and size of images",
    "simplify": "exported files need no further simplification",
    "task": "all models detect",
    "mode": "the command comes first: yolor-d2 train, eval, predict or export",
    "hyp": "keys are in the configuration: --config-file, and KEY VALUE pairs behind",
}
