"""Keys of the network: its parts, its losses, its detections and how it is computed at inference.

The comment above a key is its documentation: docs/make_config_page.py makes docs/config.md of it.
"""

from __future__ import annotations

from ..d2.config import CfgNode
from ..tasks import add_task_config
from .device import find_device


def add_network_keys(cfg: CfgNode) -> None:
    """Add the keys of the network and of its inference, with their defaults."""
    # ---- Device
    # Detectron2's key, with another default: where no file gives it, or as "auto", it is "cuda" if
    # torch finds such a GPU and else "cpu". "cuda:1", "mps" and others are used if asked for.
    cfg.MODEL.DEVICE = find_device()

    # ---- Network
    # A row of yolor_d2.networks.VARIANTS, and what differs from it: "", [] and 0 change nothing.
    # docs/models.md has an example of a custom network.
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
    # Between stages, and on the bottom-up path of the neck unless NECK_DOWNSAMPLE says otherwise:
    # "conv", "csp", "mp" or "max_pool". It gives the width of the stage that follows ("next"), or
    # keeps that of the stage before ("same").
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
    # As DOWNSAMPLE and DOWNSAMPLE_WIDTH, on the bottom-up path.
    cfg.MODEL.YOLOR.NECK_DOWNSAMPLE = ""
    cfg.MODEL.YOLOR.NECK_DOWNSAMPLE_WIDTH = ""
    # On the top-down path: a 1x1 convolution on the backbone's maps ("conv") or "none", and which
    # map is the first in a concatenation, "lateral_first" or "upsampled_first".
    cfg.MODEL.YOLOR.NECK_LATERAL = ""
    cfg.MODEL.YOLOR.NECK_ORDER = ""
    # The bottom-up path joins what the blocks of the top-down path give ("block"), or that after
    # its width was reduced for the next one ("reduced").
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
    # On every map of the neck's top-down path (FPN) and of its bottom-up path (PAN). "" takes the
    # variant's, "none" in all published models.
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
    # Its weights, which stay fixed; "" trains it along, in the same steps.
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
    # Fractions of the image size of test-time augmentation (TEST.AUG.ENABLED) ...
    cfg.TEST.AUG.SCALES = [1.0, 0.83, 0.67]
    # ... and whether each is mirrored.
    cfg.TEST.AUG.FLIPS = [False, True, False]
