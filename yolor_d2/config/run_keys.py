"""Keys of a run: images, data, evaluation, augmentation and optimiser.

The comment above a key is its documentation: docs/make_config_page.py makes docs/config.md of it.
"""

from __future__ import annotations

from ..d2.config import CfgNode
from ..files.images import DEFAULT_MAX_PIXELS


def add_run_keys(cfg: CfgNode) -> None:
    """Add the keys of data, evaluation and training, with their defaults."""
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
    # [[fraction of the run, fraction of the size], ...]: until then batches have that fraction of
    # INPUT.MAX_SIZE_TRAIN, in whole strides; [] is off.
    cfg.INPUT.SIZE_STEPS = []
    # Each batch gets a size of its own from [1 - x, 1 + x] times INPUT.MAX_SIZE_TRAIN, or times the
    # fraction of it that INPUT.SIZE_STEPS gives.
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
    # Fraction of the run, at its end, that is trained without mosaic.
    cfg.INPUT.AUGMENT.MOSAIC_OFF = 0.0
    # The same in epochs; 0 leaves MOSAIC_OFF unchanged.
    cfg.INPUT.AUGMENT.MOSAIC_OFF_EPOCHS = 0
    # Probability that a mosaic is blended with another one.
    cfg.INPUT.AUGMENT.MIXUP = 0.0
    # Probability that objects of other images, cut out along their polygons, are pasted into a
    # sample.
    cfg.INPUT.AUGMENT.PASTE_IN = 0.0
    # The image is scaled by a factor from [1 - SCALE, 1 + SCALE] ...
    cfg.INPUT.AUGMENT.SCALE = 0.5
    # ... and shifted by up to this fraction of its size.
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
    # Fraction of the old average in the new one.
    cfg.SOLVER.EMA.DECAY = 0.9999
    # After u updates the decay is DECAY * (1 - exp(-u / RAMP)).
    cfg.SOLVER.EMA.RAMP = 2000
    # yolor-d2 train lowers them where the average, of 1 / (1 - DECAY) iterations, or its ramp would
    # be longer than this fraction of the run, unless the command line gives one; 0 is off.
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
    # "wandb" and "mlflow" get the metrics too, beside metrics.json and tensorboard; [] is neither
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
    # Any warm-up is at most this fraction of the run, unless the command line gives
    # SOLVER.WARMUP_ITERS; 0 is off.
    cfg.SOLVER.WARMUP_MAX_SHARE = 0.1
    # ... SOLVER.CHECKPOINT_PERIOD ...
    cfg.SOLVER.CHECKPOINT_EPOCHS = 0
    # ... and TEST.EVAL_PERIOD.
    cfg.TEST.EVAL_EPOCHS = 0
    # Where MAX_EPOCHS, unless the command line gives it, is fewer iterations than this, all lengths
    # in epochs grow by the same factor; 0 is off.
    cfg.SOLVER.MIN_ITERS = 0
