"""YOLOv7-W6 with its auxiliary heads for Detectron2's own tools/lazyconfig_train_net.py, at 1280 px
on COCO: what differs from YOLOR-P6.

    python lazyconfig_train_net.py --config-file configs/lazy/yolov7_w6.py --num-gpus 8

For moving average and warm-up of single parameter groups use yolor-d2 train with
configs/yolov7_w6.yaml.
"""

from detectron2.config import LazyCall as L

from yolor_d2.modeling import Assigner
from yolor_d2.ops import LossGains

from .yolor_p6 import IMAGES, dataloader, model, train

BATCH = 128
CHANNELS = [256, 512, 768, 1024]

backbone = model.backbone
for part in (backbone.bottom_up.body, backbone.neck):
    part.variant.name = "yolov7_w6"
# Widths of the backbone's maps, and of what the neck makes of them.
backbone.neck.in_channels = model.head.in_channels = CHANNELS
model.head.auxiliary = [320, 640, 960, 1280]
model.gains = L(LossGains)(
    objectness=0.7,
    classes=0.3,
    balance=(4.0, 1.0, 0.25, 0.06),
    train_size=1280,
    ciou="yolov7",
)
model.assigner = L(Assigner)(kind="ota", top_ious=20)
model.auxiliary_gain = 0.25

augment = dataloader.train.dataset.augment
augment.translate, augment.scale = 0.2, 0.9
augment.mosaic9, augment.mixup, augment.paste_in = 0.2, 0.15, 0.15
dataloader.train.dataset.truth.polygons = True
dataloader.train.total_batch_size = dataloader.train.sampler.batch_size = BATCH
train.max_iter = 300 * IMAGES // BATCH
train.eval_period = train.checkpointer.period = 5 * IMAGES // BATCH
