"""The configuration: keys that YOLOR adds to Detectron2's, and how a configuration is loaded."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ..config_paths import find_config
from ..d2.config import CfgNode, get_cfg
from ..files.images import DEFAULT_MAX_PIXELS, limit_pixels
from ..files.writing import atomic_write
from ..inputs import require_pairs
from ..runs import require_run
from ..tasks import add_task_config
from ..wording import did_you_mean
from .files import check_config_file
from .node import WORDS, ProjectNode

# Keys and the least value that makes sense.
LEAST_VALUES = {
    "DATALOADER.NUM_WORKERS": 0,
    "INPUT.MAX_PIXELS": 1,
    "INPUT.MAX_SIZE_TEST": 1,
    "INPUT.MAX_SIZE_TRAIN": 1,
    "INPUT.MIN_SIZE_TEST": 1,
    "MODEL.YOLOR.NUM_CLASSES": 1,
    "SOLVER.CHECKPOINT_PERIOD": 1,
    "SOLVER.EARLY_STOPPING.PATIENCE": 0,
    "SOLVER.HANG_LIMIT": 0,
    "SOLVER.IMS_PER_BATCH": 1,
    "SOLVER.KEEP_LAST": 0,
    "SOLVER.MAX_ITER": 0,
    "SOLVER.MUON.BLOCK": 0,
    "TEST.DETECTIONS_PER_IMAGE": 1,
    "TEST.IMS_PER_BATCH": 1,
}


def add_yolor_config(cfg: CfgNode) -> None:
    """Add the keys of this project, with the defaults of the paper's training from scratch.

    The node of Detectron2 becomes a `ProjectNode`, so that names of the model zoo are bases and
    whole numbers are numbers in anybody's script.
    """
    if type(cfg) is CfgNode:  # a class of somebody's own stays
        object.__setattr__(cfg, "__class__", ProjectNode)  # a node takes values alone
    # ---- Device
    # Detectron2's key, with another default: where no file gives it, or as "auto", it is "cuda" if
    # torch finds such a GPU and else "cpu". "cuda:1", "mps" and others are used if asked for.
    cfg.MODEL.DEVICE = find_device()

    # ---- Network
    # A row of yolor_d2.networks.VARIANTS, and what differs from it: "", [] and 0 change nothing.
    # docs/models.md has an example of a network of one's own.
    cfg.MODEL.YOLOR = CfgNode()
    # Name of the row.
    cfg.MODEL.YOLOR.VARIANT = "yolor_p6"
    # All widths of the row, and all its repetitions, are multiplied by these.
    cfg.MODEL.YOLOR.WIDTH_FACTOR = 1.0
    cfg.MODEL.YOLOR.DEPTH_FACTOR = 1.0
    # Compound scaling of YOLOv7: repetitions are multiplied by this, and all widths that follow a
    # concatenation by what it grows. 1.5 makes YOLOv7-E6 of W6. Applied to the network as the keys
    # below describe it.
    cfg.MODEL.YOLOR.COMPOUND_DEPTH = 1.0
    # Layers before the first stage: ["s2d"], ["dwt"], ["dwt", wavelet],
    # ["conv", channels, kernel, stride], ["csp", channels] or ["focus", channels].
    cfg.MODEL.YOLOR.STEM = []
    # Backbone stages [width, units] of CSP blocks, or [width, units, kind, ...] of another kind:
    # "csp", "residual", "c3", "c3_plain", "elan", "elan_h", "elan_t", their sums of two "e_elan",
    # "e_elan_h", "e_elan_t" (all six may be followed by the width inside), or "spp_c3" and window
    # sizes. Every stage but the first halves the resolution.
    cfg.MODEL.YOLOR.STAGES = []
    # The neck takes the stages with at least this stride.
    cfg.MODEL.YOLOR.MIN_STRIDE = 0
    # Where the CSP blocks of the backbone join their branches: "first" (P6 family) or "last",
    # after another 1x1 convolution (CSP family).
    cfg.MODEL.YOLOR.CSP_FUSION = ""
    # Between stages, and on the way up the neck unless NECK_DOWNSAMPLE says otherwise: "conv",
    # "csp", "mp" or "max_pool". It gives the width of the stage that follows ("next"), or keeps
    # that of the stage before ("same").
    cfg.MODEL.YOLOR.DOWNSAMPLE = ""
    cfg.MODEL.YOLOR.DOWNSAMPLE_WIDTH = ""
    # Pyramid pooling on the deepest map: ["csp"], ["csp", more convolution pairs], ["sppcspc"],
    # ["spp_t"], ["spp"] or ["none"].
    cfg.MODEL.YOLOR.SPP = []
    # Width of the neck on each level, fine to coarse, and units in each of its blocks.
    cfg.MODEL.YOLOR.NECK_WIDTHS = []
    cfg.MODEL.YOLOR.NECK_UNITS = 0
    # Kind of these blocks, "csp_neck" or one that STAGES can have, and the width inside them on
    # each level; [] leaves that to the row or the kind.
    cfg.MODEL.YOLOR.NECK_BLOCK = ""
    cfg.MODEL.YOLOR.NECK_HIDDEN = []
    # As DOWNSAMPLE and DOWNSAMPLE_WIDTH, on the way up.
    cfg.MODEL.YOLOR.NECK_DOWNSAMPLE = ""
    cfg.MODEL.YOLOR.NECK_DOWNSAMPLE_WIDTH = ""
    # On the way down: a 1x1 convolution on the backbone's maps ("conv") or "none", and which map is
    # the first in a concatenation, "lateral_first" or "upsampled_first".
    cfg.MODEL.YOLOR.NECK_LATERAL = ""
    cfg.MODEL.YOLOR.NECK_ORDER = ""
    # The way up joins what the blocks of the way down give ("block"), or that after its width was
    # reduced for the next one ("reduced").
    cfg.MODEL.YOLOR.NECK_JOINS = ""
    # What ends the neck, to twice its width: "conv", "repconv" or "none".
    cfg.MODEL.YOLOR.NECK_OUTPUT = ""
    # Width of the map in front of the auxiliary head of each level, fine to coarse; [0] leaves
    # these heads out. They exist in training alone.
    cfg.MODEL.YOLOR.AUXILIARY_WIDTHS = []
    # Classes of the data set.
    cfg.MODEL.YOLOR.NUM_CLASSES = 80
    # Start from MODEL.WEIGHTS that fit in part: what they lack stays random, what they have beyond
    # the model is ignored. Another number of classes alone needs no such permission.
    cfg.MODEL.YOLOR.PARTIAL_WEIGHTS = False
    # Names of the classes for pictures and reports; [] takes those of the data set.
    cfg.MODEL.YOLOR.CLASS_NAMES = []
    # Form of the blocks, "D", "Y" or "V7", see yolor_d2.layers.BlockForm.
    cfg.MODEL.YOLOR.FORM = ""
    # "silu", "mish" or "leaky_relu".
    cfg.MODEL.YOLOR.ACTIVATION = ""
    # Weight of the newest batch in the running statistics of batch norm.
    cfg.MODEL.YOLOR.NORM_MOMENTUM = 0.03
    # Per level, fine to coarse: [[width, height], ...] in pixels of the network's input.
    cfg.MODEL.YOLOR.ANCHORS = []
    # Name in YOLOR_HEAD_REGISTRY.
    cfg.MODEL.YOLOR.HEAD = "ImplicitAnchorHead"

    # ---- Implicit knowledge
    # At each place an operator, "none", "add", "mul" or "concat", and more words: a representation
    # ("vector", "network", "factorization"), "tanh", "relu" or "silu" for a network, "non_negative"
    # for a factorization. One for all levels, or one each with commas, fine to coarse. More words
    # by --import, see docs/extending.md.
    cfg.MODEL.YOLOR.IMPLICIT = CfgNode()
    # On every output of the neck, in front of the predictions (the paper's iFA); "per_anchor" gives
    # each anchor its own. "" takes the variant's.
    cfg.MODEL.YOLOR.IMPLICIT.FEATURE_ALIGNMENT = ""
    # On every output of the head (the paper's iPR), no "concat"; "sizes" refines widths and heights
    # alone. "" takes the variant's.
    cfg.MODEL.YOLOR.IMPLICIT.PREDICTION_REFINEMENT = ""
    # On every map of the neck's way down (FPN) and of its way up (PAN). "" takes the variant's,
    # "none" in all published models.
    cfg.MODEL.YOLOR.IMPLICIT.TOP_DOWN = ""
    cfg.MODEL.YOLOR.IMPLICIT.BOTTOM_UP = ""
    # Spread of the initial values.
    cfg.MODEL.YOLOR.IMPLICIT.STD = 0.02
    # Size of the prior of a network or a factorization, in units of the explicit channels.
    cfg.MODEL.YOLOR.IMPLICIT.PRIOR_FACTOR = 2
    # Weight in the loss of the L1 norm of the coefficients of a factorization; 0 is off.
    cfg.MODEL.YOLOR.IMPLICIT.SPARSITY = 0.0

    # ---- Further tasks
    # They share the representation with detection (paper section 5.4; docs/multi_task.md).
    add_task_config(cfg)

    # ---- Assignment and loss
    # A box matches an anchor if neither side is this many times longer or shorter.
    cfg.MODEL.YOLOR.ASSIGN_MAX_RATIO = 4.0
    # Which cells and anchors are responsible for an object (docs/training.md).
    cfg.MODEL.YOLOR.ASSIGN = CfgNode()
    # "anchors", the paper's: all candidates. "ota", that of YOLOv7 and of the authors' later
    # weights: those of them whose predictions fit best.
    cfg.MODEL.YOLOR.ASSIGN.KIND = "anchors"
    # Candidates of an object for each anchor that it matches: 3 cells, its own and the nearest
    # neighbours, or 5, its own and all four; for the lead heads ...
    cfg.MODEL.YOLOR.ASSIGN.CANDIDATES = 3
    # ... and for auxiliary heads.
    cfg.MODEL.YOLOR.ASSIGN.AUXILIARY_CANDIDATES = 5
    # With "ota": an object takes as many candidates as this many of the largest overlaps of
    # predictions with it sum up to. YOLOv7 has 20 where it trains auxiliary heads.
    cfg.MODEL.YOLOR.ASSIGN.TOP_IOUS = 10
    # Weight of -ln(IoU) beside that of classes and objectness in the cost of a candidate.
    cfg.MODEL.YOLOR.ASSIGN.IOU_WEIGHT = 3.0
    # Whose predictions choose for auxiliary heads: "lead", or "auxiliary" for their own.
    cfg.MODEL.YOLOR.ASSIGN.AUXILIARY_BY = "lead"
    cfg.MODEL.YOLOR.LOSS = CfgNode()
    # Weight of 1 - CIoU ...
    cfg.MODEL.YOLOR.LOSS.BOX = 0.05
    # ... of objectness ...
    cfg.MODEL.YOLOR.LOSS.OBJECTNESS = 1.0
    # ... and of the classes.
    cfg.MODEL.YOLOR.LOSS.CLASSES = 0.5
    # Weight of the objectness term of each level, fine to coarse; [] takes the published one, for
    # three to five levels.
    cfg.MODEL.YOLOR.LOSS.BALANCE = []
    # The gain of the classes is meant for 80 classes and is multiplied by NUM_CLASSES / 80, as in
    # the reference.
    cfg.MODEL.YOLOR.LOSS.SCALE_CLASSES = True
    # The gain of objectness is meant for 640 px and is multiplied by the square of
    # INPUT.MAX_SIZE_TRAIN / 640, as YOLOv7 and YOLOv5 do; without it by 1.4 from four levels on, as
    # YOLOR does.
    cfg.MODEL.YOLOR.LOSS.SCALE_OBJECTNESS = False
    # Whose rounding of CIoU, "yolor" (1e-9) or "yolov7" (1e-7, YOLOv5's too).
    cfg.MODEL.YOLOR.LOSS.CIOU = "yolor"
    # Weight of the losses of auxiliary heads, added to those of the lead heads.
    cfg.MODEL.YOLOR.LOSS.AUXILIARY = 0.25
    # Exponent of the focal factor on objectness and classes; 0 is off.
    cfg.MODEL.YOLOR.LOSS.FOCAL_GAMMA = 0.0
    # Targets of classes are 1 - x / 2 and x / 2 in place of 1 and 0.
    cfg.MODEL.YOLOR.LOSS.LABEL_SMOOTHING = 0.0

    # ---- Teacher
    # Another network from whose predictions the model learns beside the ground truth
    # (docs/teachers.md).
    cfg.MODEL.YOLOR.TEACHER = CfgNode()
    # Configuration that names its network, found as --config-file is; all else is the model's own.
    # "" is no teacher.
    cfg.MODEL.YOLOR.TEACHER.CONFIG = ""
    # Its weights, which stay as they are; "" trains it along, in the same steps.
    cfg.MODEL.YOLOR.TEACHER.WEIGHTS = ""
    # Weight of its boxes beside those of the ground truth, which is 1, ...
    cfg.MODEL.YOLOR.TEACHER.BOX = 1.0
    # ... of its objectness ...
    cfg.MODEL.YOLOR.TEACHER.OBJECTNESS = 1.0
    # ... and of its classes.
    cfg.MODEL.YOLOR.TEACHER.CLASSES = 1.0
    # Its boxes and classes count where its objectness is at least this.
    cfg.MODEL.YOLOR.TEACHER.LEAST_OBJECTNESS = 0.05

    # ---- Detections (TEST.DETECTIONS_PER_IMAGE caps their number)
    # Least objectness, and least product of objectness and class score.
    cfg.MODEL.YOLOR.SCORE_THRESHOLD = 0.001
    # Of two boxes of a class whose IoU is greater, the better one stays.
    cfg.MODEL.YOLOR.NMS_THRESHOLD = 0.65
    # Let boxes of different classes suppress each other.
    cfg.MODEL.YOLOR.CLASS_AGNOSTIC_NMS = False
    # A box may be of several classes; otherwise of its best one alone.
    cfg.MODEL.YOLOR.MULTI_LABEL = True
    # Least score of each class; [] takes SCORE_THRESHOLD for all.
    cfg.MODEL.YOLOR.CLASS_SCORE_THRESHOLDS = []

    # ---- Border around images (docs/inference.md)
    cfg.MODEL.YOLOR.PADDING = CfgNode()
    # Where an image lies on the grey canvas at inference: "centre"; "corner", the upper left one,
    # without a margin; "reference", in the centre with the authors' rounding.
    cfg.MODEL.YOLOR.PADDING.PLACE = "centre"
    # Canvas beyond a centred image, in strides of the network, before it is rounded up to whole
    # strides. 0.5 is the authors' test command's, 0 their detection command's.
    cfg.MODEL.YOLOR.PADDING.MARGIN = 0.5

    # ---- Inference
    # How evaluation and predictors compute the model (docs/inference.md).
    cfg.MODEL.INFERENCE = CfgNode()
    # FUSE and CHANNELS_LAST count. Without this the model is computed as in training, bit for bit.
    cfg.MODEL.INFERENCE.OPTIMIZE = True
    # Fold batch norm and implicit knowledge into the convolutions of a copy.
    cfg.MODEL.INFERENCE.FUSE = True
    # Keep images and features in memory with their channels last.
    cfg.MODEL.INFERENCE.CHANNELS_LAST = True
    # "float32", "bfloat16" or "float16" (GPU) for the network; boxes are decoded in float32.
    cfg.MODEL.INFERENCE.DTYPE = "float32"
    # Compile backbone and head with torch.compile.
    cfg.MODEL.INFERENCE.COMPILE = False
    # Shares of the image size of test-time augmentation (TEST.AUG.ENABLED) ...
    cfg.TEST.AUG.SCALES = [1.0, 0.83, 0.67]
    # ... and whether each is mirrored.
    cfg.TEST.AUG.FLIPS = [False, True, False]

    # ---- Image files
    # An image of more pixels is refused before it is decoded, as a small file may claim any number;
    # decoding takes up to 14 bytes of memory a pixel.
    cfg.INPUT.MAX_PIXELS = DEFAULT_MAX_PIXELS

    # ---- Test images
    # "detectron2": its own resize, Pillow's antialiased bilinear filter, sides rounded to the
    # nearest pixel. "reference": the authors', OpenCV's area filter where it shrinks and its
    # bilinear one where it enlarges, sides rounded down; DefaultPredictor keeps its own.
    cfg.INPUT.RESIZE_TEST = "detectron2"
    # Images that each process evaluates at a time ...
    cfg.TEST.IMS_PER_BATCH = 1
    # ... which are taken in the order of their aspect ratios, so that those of a batch are alike.
    cfg.TEST.ASPECT_RATIO_ORDER = False

    # ---- Evaluation report
    # yolor-d2 eval and the end of a training write report.html and report.json into OUTPUT_DIR
    # (docs/report.md).
    cfg.TEST.REPORT = True

    # ---- How the model is computed in training
    # Keep images and features in memory with their channels last.
    cfg.MODEL.CHANNELS_LAST = False
    # Compile network, assignment and losses with torch.compile.
    cfg.MODEL.COMPILE = False
    # Batch norm takes its statistics over all GPUs; without effect on one GPU or on the CPU.
    cfg.MODEL.SYNC_BN = True

    # ---- Data
    # Data sets to register: [name, COCO annotation file, image folder] each.
    cfg.DATASETS.REGISTER = []
    # Look at annotations, and at the beginnings of some images, before training and evaluation.
    cfg.DATASETS.CHECK = True
    # After each evaluation, draw images of classes with a low AP more often.
    cfg.DATALOADER.IMAGE_WEIGHTS = False

    # ---- Training images
    # Their longer side becomes INPUT.MAX_SIZE_TRAIN, and batches are squares. With RECT they are
    # rectangles that just hold images of like aspect ratio, and there are no mosaics.
    cfg.INPUT.RECT = False
    # [[share of the run, share of the size], ...]: until then batches have that share of
    # INPUT.MAX_SIZE_TRAIN, in whole strides; [] is off.
    cfg.INPUT.SIZE_STEPS = []
    # Each batch gets a size of its own from [1 - x, 1 + x] times INPUT.MAX_SIZE_TRAIN, or times the
    # share of it that INPUT.SIZE_STEPS gives.
    cfg.INPUT.MULTI_SCALE = 0.0
    # Keep decoded images: "none", "ram" (shared by the workers of a process) or "disk".
    cfg.INPUT.CACHE = "none"
    # Folder of the cache on disk, which runs may share; "" is OUTPUT_DIR/image_cache.
    cfg.INPUT.CACHE_DIR = ""

    # ---- Augmentation in training; 0 is off
    cfg.INPUT.AUGMENT = CfgNode()
    # Probability that a sample is a mosaic of four images ...
    cfg.INPUT.AUGMENT.MOSAIC = 1.0
    # ... and that a mosaic is one of nine instead.
    cfg.INPUT.AUGMENT.MOSAIC9 = 0.0
    # Share of the run, at its end, that is trained without mosaic.
    cfg.INPUT.AUGMENT.MOSAIC_OFF = 0.0
    # The same in epochs; 0 leaves MOSAIC_OFF as it is.
    cfg.INPUT.AUGMENT.MOSAIC_OFF_EPOCHS = 0
    # Probability that a mosaic is blended with another one.
    cfg.INPUT.AUGMENT.MIXUP = 0.0
    # Probability that objects of other images, cut out along their polygons, are pasted into a
    # sample.
    cfg.INPUT.AUGMENT.PASTE_IN = 0.0
    # The image is scaled by a factor from [1 - SCALE, 1 + SCALE] ...
    cfg.INPUT.AUGMENT.SCALE = 0.5
    # ... and shifted by up to this share of its size.
    cfg.INPUT.AUGMENT.TRANSLATE = 0.5
    # It is turned, and sheared along either axis, by up to so many degrees ...
    cfg.INPUT.AUGMENT.DEGREES = 0.0
    cfg.INPUT.AUGMENT.SHEAR = 0.0
    # ... and tilted: a pixel at (x, y) from the centre is divided by 1 + p x + q y, |p| and |q| up
    # to this.
    cfg.INPUT.AUGMENT.PERSPECTIVE = 0.0
    # Hue, saturation and value are multiplied by a factor from [1 - x, 1 + x].
    cfg.INPUT.AUGMENT.HSV = [0.015, 0.7, 0.4]
    # Probability of a horizontal flip, and of a vertical one.
    cfg.INPUT.AUGMENT.FLIP = 0.5
    cfg.INPUT.AUGMENT.FLIP_VERTICAL = 0.0
    # The box of a cut or turned object is that of what is left of its polygons, if it has some.
    cfg.INPUT.AUGMENT.BOX_FROM_MASK = False

    # ---- Optimiser
    # "SGD", the paper's, or "Muon", which takes orthogonalised steps in the hidden convolutions,
    # those that a norm follows, and leaves all else to SGD.
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.MUON = CfgNode()
    # Learning rate of the hidden convolutions; it follows the same schedule as SOLVER.BASE_LR.
    cfg.SOLVER.MUON.BASE_LR = 0.004
    # Each of their steps takes away this share, times the learning rate, of a weight.
    cfg.SOLVER.MUON.WEIGHT_DECAY = 0.01
    # Channels that a convolution gives whose steps are made orthogonal to each other; 0 takes all
    # of them together. Fewer cost much less time (docs/training.md).
    cfg.SOLVER.MUON.BLOCK = 0

    # ---- On a GPU
    # Take what suits it: MODEL.CHANNELS_LAST, SOLVER.FUSED and, where the card has it, bfloat16
    # with SOLVER.AMP. Not the default until a run on a GPU has confirmed it.
    cfg.SOLVER.SUIT_GPU = False
    # The optimiser and the moving average in few operations; weights may differ by rounding. On the
    # CPU the optimiser always is.
    cfg.SOLVER.FUSED = False

    # ---- Solver
    # During SOLVER.WARMUP_ITERS the momentum and the learning rate of biases move linearly from
    # these values to their regular ones; other learning rates start at 0.
    cfg.SOLVER.WARMUP_MOMENTUM = 0.8
    cfg.SOLVER.WARMUP_BIAS_LR = 0.1
    # Exponential moving average of the weights, which is evaluated and saved as "model".
    cfg.SOLVER.EMA = CfgNode()
    cfg.SOLVER.EMA.ENABLED = True
    # Share of the old average in the new one.
    cfg.SOLVER.EMA.DECAY = 0.9999
    # After u updates the decay is DECAY * (1 - exp(-u / RAMP)).
    cfg.SOLVER.EMA.RAMP = 2000
    # yolor-d2 train lowers them where the average, of 1 / (1 - DECAY) iterations, or its ramp would
    # be longer than this share of the run, unless the command line gives one; 0 is off.
    cfg.SOLVER.EMA.MAX_SHARE = 0.125
    # An iteration sums the gradients of as many batches as come closest to this number of images,
    # and decay is meant for this number; 0 is off: one batch. The reference has 64.
    cfg.SOLVER.NOMINAL_BATCH = 0
    # Images an iteration that the learning rates, decays and CLIP_NORM are meant for; with others
    # yolor-d2 train scales them (docs/training.md). 0 is off.
    cfg.SOLVER.REFERENCE_BATCH = 0
    # With SOLVER.AMP.ENABLED: "float16" with scaled gradients (GPU), or "bfloat16" (GPU, CPU).
    cfg.SOLVER.AMP.DTYPE = "float16"
    # Greatest norm of all gradients together; 0 does not clip.
    cfg.SOLVER.CLIP_NORM = 0.0
    # What is not trained: names of modules or parameters, "*" stands for anything. Frozen batch
    # norms keep their statistics.
    cfg.SOLVER.FREEZE = []
    # Checkpoint of another run whose training goes on here: weights, average, optimiser, iteration.
    cfg.SOLVER.CONTINUE_FROM = ""
    # Numbered checkpoints that stay in OUTPUT_DIR, the newest ones; 0 keeps all. model_best.pth and
    # model_final.pth always stay.
    cfg.SOLVER.KEEP_LAST = 0
    # The run ends when 0.1 AP50 + 0.9 AP has not risen for PATIENCE evaluations; 0 is off.
    cfg.SOLVER.EARLY_STOPPING = CfgNode()
    cfg.SOLVER.EARLY_STOPPING.PATIENCE = 0

    # ---- Further loggers
    cfg.TRAIN = CfgNode()
    # "wandb" and "mlflow" get the figures too, beside metrics.json and tensorboard; [] is neither
    # (docs/training.md).
    cfg.TRAIN.LOGGERS = []
    # Project of W&B, experiment of MLflow.
    cfg.TRAIN.PROJECT = "yolor_d2"
    # Name of the run there; "" is that of the folder OUTPUT_DIR.
    cfg.TRAIN.RUN_NAME = ""

    # ---- Several processes
    # One of them that gives no sign of life for so many seconds, or for which the others wait that
    # long inside an iteration, ends the run, which names it; 0 is off (docs/distributed.md).
    cfg.SOLVER.HANG_LIMIT = 50

    # ---- Lengths in epochs
    # yolor-d2 train turns them into the iterations of Detectron2's keys; 0 leaves those. This
    # is SOLVER.MAX_ITER ...
    cfg.SOLVER.MAX_EPOCHS = 0
    # ... SOLVER.WARMUP_ITERS ...
    cfg.SOLVER.WARMUP_EPOCHS = 0
    # A warm-up in epochs has at least this many iterations.
    cfg.SOLVER.WARMUP_MIN_ITERS = 1000
    # Any warm-up is at most this share of the run, unless the command line gives
    # SOLVER.WARMUP_ITERS; 0 is off.
    cfg.SOLVER.WARMUP_MAX_SHARE = 0.1
    # ... SOLVER.CHECKPOINT_PERIOD ...
    cfg.SOLVER.CHECKPOINT_EPOCHS = 0
    # ... and TEST.EVAL_PERIOD.
    cfg.TEST.EVAL_EPOCHS = 0
    # Where MAX_EPOCHS, unless the command line gives it, is fewer iterations than this, all lengths
    # in epochs grow by the same factor; 0 is off.
    cfg.SOLVER.MIN_ITERS = 0


def find_device() -> str:
    """ "cuda" where torch finds such a GPU, else "cpu"; other devices are used if asked for."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def get_yolor_cfg() -> CfgNode:
    """Detectron2's default configuration with the keys of this project."""
    cfg = get_cfg()
    add_yolor_config(cfg)
    return cfg


def read_config(config_file: str | Path) -> CfgNode:
    """The configuration in a file, see `find_config`, on top of all defaults.

    Raises:
        KeyError: when a key is unknown.
        ValueError: when a value has the wrong type, or a file is no configuration.
        FileNotFoundError: when the file, or one that it is based on, does not exist.
    """
    cfg = get_yolor_cfg()
    path = find_config(config_file)
    check_config_file(path, cfg)
    try:
        # YAML is data: tags that construct Python objects are refused.
        cfg.merge_from_file(str(path), allow_unsafe=False)
    except (AssertionError, TypeError, ValueError) as error:  # of values that yacs does not take
        raise ValueError(f"{path}: {error}") from error
    replace_auto(cfg)
    return cfg


def replace_auto(cfg: CfgNode) -> None:
    """Replace MODEL.DEVICE "auto", the default in words, as nothing that computes knows it."""
    if cfg.MODEL.DEVICE == "auto":
        cfg.MODEL.DEVICE = find_device()


def apply_overrides(cfg: CfgNode, opts: Sequence[str]) -> None:
    """Set keys from the command line, then check what depends on the machine.

    INPUT.MAX_PIXELS holds from then on for all images that this process reads, see
    `image.limit_pixels`.

    Args:
        cfg: changed in place.
        opts: KEY VALUE KEY VALUE ...

    Raises:
        KeyError: when a key is unknown.
        ValueError: when a value is missing, has the wrong type or makes no sense, or when
            MODEL.DEVICE is a GPU and there is none.
    """
    require_pairs(opts)
    known = set(list_keys(cfg))
    for key in opts[::2]:
        if key not in known:
            raise KeyError(f"unknown configuration key {key!r}{did_you_mean(key, sorted(known))}")
    cfg.merge_from_list(list(opts))
    replace_auto(cfg)
    check_values(cfg)
    limit_pixels(cfg.INPUT.MAX_PIXELS)


def check_values(cfg: CfgNode) -> None:
    """Raise a ValueError for a value that would fail somewhere deep, or train nothing."""
    for key, least in LEAST_VALUES.items():
        value = functools.reduce(getattr, key.split("."), cfg)
        if value != WORDS.get(key) and value < least:
            raise ValueError(f"{key} is {value}, expected at least {least}")
    if not all(x > 0 for x in cfg.MODEL.PIXEL_STD):
        raise ValueError(f"MODEL.PIXEL_STD is {cfg.MODEL.PIXEL_STD}, expected numbers above 0")
    try:
        kind = torch.device(cfg.MODEL.DEVICE).type
    except RuntimeError as error:
        raise ValueError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, expected 'auto' or one that torch knows, such "
            "as 'cpu', 'cuda' or 'cuda:1'"
        ) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, but torch finds no GPU: add `MODEL.DEVICE "
            "cpu`, or leave the key out and the device is found"
        )


def list_keys(cfg: CfgNode, prefix: str = "") -> Iterator[str]:
    """Every key of a configuration with its full name."""
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from list_keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def load_config(config_file: str | Path, opts: Sequence[str] = ()) -> CfgNode:
    """`read_config`, then `apply_overrides`; not frozen."""
    cfg = read_config(config_file)
    apply_overrides(cfg, opts)
    return cfg


def describe_device(cfg: CfgNode) -> str:
    """One line for the log: the device, and where it comes from."""
    device, available = cfg.MODEL.DEVICE, find_device()
    if torch.device(device).type == "cuda":
        index = torch.device(device).index
        return f"Device: {device} ({torch.cuda.get_device_name(index)})"
    if device == available:
        return f"Device: {device}, as torch finds no GPU of CUDA"
    unused = ", although torch finds a GPU" if available == "cuda" else ""
    return f"Device: {device} (MODEL.DEVICE){unused}"


def save_config(cfg: CfgNode, path: Path) -> None:
    """Write a run's configuration, from which it goes on or is evaluated, anywhere.

    MODEL.DEVICE is left out where it is what `find_device` finds, so that the machine where the
    file is read takes its own.
    """
    cfg = cfg.clone()
    cfg.defrost()
    if find_device() == cfg.MODEL.DEVICE:
        del cfg.MODEL["DEVICE"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(cfg.dump().encode())


def load_run_config(folder: Path) -> CfgNode:
    """The configuration of a run, wherever its folder has been moved to, on the CPU.

    Raises:
        FileNotFoundError: when the folder is not that of a run.
    """
    return load_config(require_run(folder), ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder)])
