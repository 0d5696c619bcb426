"""YOLOR-P6 for Detectron2's own tools/lazyconfig_train_net.py, at 1280 px on COCO.

    python lazyconfig_train_net.py --config-file configs/lazy/yolor_p6.py --num-gpus 8

That script has no moving average and no warm-up per parameter group; for the paper's recipe use
yolor-d2 train with configs/yolor_p6.yaml.
"""

import torch
from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator
from detectron2.solver import WarmupParamScheduler
from detectron2.utils import comm
from fvcore.common.param_scheduler import CosineParamScheduler

from yolor_d2.data.dataset import AugmentConfig, TrainingDataset
from yolor_d2.data.loader import EvaluationMapper
from yolor_d2.data.resize import ResizeForTest
from yolor_d2.data.sampler import PositionSampler
from yolor_d2.datasets.catalog import load_ground_truth
from yolor_d2.engine.optimizer import parameter_groups
from yolor_d2.modeling import YOLOR, YOLORPAN, YOLORBottomUp
from yolor_d2.networks import AnchorHead, get_variant
from yolor_d2.networks.network import anchors_tensor, build_backbone, build_neck
from yolor_d2.networks.variants import ANCHORS_1280

SIZE = 1280
BATCH = 64
IMAGES = 118_287
CHANNELS = [256, 384, 512, 640]

variant = L(get_variant)(name="yolor_p6")
model = L(YOLOR)(
    backbone=L(YOLORPAN)(
        bottom_up=L(YOLORBottomUp)(body=L(build_backbone)(variant=variant, in_channels=3)),
        neck=L(build_neck)(variant=variant, in_channels=CHANNELS),
    ),
    head=L(AnchorHead)(
        in_channels=CHANNELS, strides=[8, 16, 32, 64], num_anchors=3, num_classes=80
    ),
    anchors=L(anchors_tensor)(anchors=ANCHORS_1280, num_levels=4),
)

dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(TrainingDataset)(
            truth=L(load_ground_truth)(name="coco_2017_train"),
            size=SIZE,
            seed=0,
            augment=L(AugmentConfig)(translate=0.5, scale=0.5),
        ),
        mapper=None,
        sampler=L(PositionSampler)(
            size=IMAGES,
            seed=0,
            rank=L(comm.get_rank)(),
            world_size=L(comm.get_world_size)(),
            batch_size=BATCH,
        ),
        total_batch_size=BATCH,
        aspect_ratio_grouping=False,
        num_workers=8,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(EvaluationMapper)(
            resize=L(ResizeForTest)(short_edge_length=[SIZE, SIZE], max_size=SIZE),
            channel_order="RGB",
        ),
        num_workers=4,
    ),
    evaluator=L(COCOEvaluator)(dataset_name="coco_2017_val"),
)

# The trainer fills in params.model.
optimizer = L(torch.optim.SGD)(
    params=L(parameter_groups)(weight_decay=0.0005), lr=0.01, momentum=0.937, nesterov=True
)
# From 0 to the full rate in 3 of 300 epochs, then along a cosine to 0.2 of it.
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.2),
    warmup_factor=0.0,
    warmup_length=3 / 300,
)

train = dict(
    output_dir="./output",
    init_checkpoint="",
    max_iter=300 * IMAGES // BATCH,
    amp=dict(enabled=True),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5 * IMAGES // BATCH, max_to_keep=10),
    eval_period=5 * IMAGES // BATCH,
    log_period=20,
    device="cuda",
)
