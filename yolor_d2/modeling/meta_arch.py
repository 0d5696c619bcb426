"""The meta-architecture: Detectron2's batches in, losses or `Instances` out.

It has more than 400 lines, as it is one class: subclasses override single steps of it, which share
its settings; what the steps compute stands in `ops`, `batch` and `images` already.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..d2.config import CfgNode, configurable
from ..d2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from ..d2.structures import Boxes, Instances
from ..d2.utils import comm, get_event_storage, has_event_storage
from ..layers import implicit_penalty
from ..layers.fuse import computes_as
from ..networks import AnchorHead, PANNeck, TaskBranches
from ..networks.backbone import level_name
from ..networks.branches import DetectedBoxes
from ..networks.network import anchors_tensor
from ..ops import DetectionLosses, Detections, LossGains, decode_passing, detect, detection_losses
from ..ops.batch import EFFORTS, BatchDetections, Effort, choose, detect_batch, pad_detections
from ..ops.device import constant, shapes_may_depend_on_values
from ..ops.padding import ImageView, Padding
from ..ops.truth import Truth
from ..tasks import TASKS, build_tasks, pack_fields
from .assigner import Assigner
from .backbone import YOLORPAN, task_inputs, variant_from_config
from .batch import Geometry, StagedBatch, stage, wanted_size
from .first_batch import compare_classes, tell_who_trains
from .head import build_head
from .images import PaddedImages, canvas_of, normalise, padding_from_config, place_images


def class_thresholds_from_config(cfg: CfgNode) -> list[float]:
    """MODEL.YOLOR.CLASS_SCORE_THRESHOLDS.

    Raises:
        ValueError: when there are some, but not one for every class.
    """
    node = cfg.MODEL.YOLOR
    thresholds = list(map(float, node.CLASS_SCORE_THRESHOLDS))
    if thresholds and len(thresholds) != node.NUM_CLASSES:
        raise ValueError(
            f"MODEL.YOLOR.CLASS_SCORE_THRESHOLDS has {len(thresholds)} values, expected none or "
            f"one for each of the {node.NUM_CLASSES} classes"
        )
    return thresholds


def place(detections: BatchDetections, geometry: Geometry) -> list[Detections | None]:
    """Detections on the canvas in the wanted sizes, see `BatchDetections.images`. Boxes without
    area are left out, as Detectron2's `detector_postprocess` does."""
    boxes, has_area = geometry.to_images(detections.boxes)
    return detections._replace(boxes=boxes).only(has_area).images()


@META_ARCH_REGISTRY.register()
class YOLOR(nn.Module):
    """One-stage, anchor-based detector with implicit knowledge.

    Args:
        backbone: features by name; all of them are used, fine to coarse.
        head: list of features to logits (N, A, H, W, 5 + K) per level.
        anchors: (L, A, 2) widths and heights in input pixels.
        gains: weights of the loss terms.
        auxiliary_gain: weight of the losses of auxiliary heads beside those of the lead heads.
        assigner: which cells and anchors are responsible for which object.
        score_threshold: see `ops.nms.select_candidates`.
        nms_threshold: IoU above which the worse of two boxes is dropped.
        max_detections: boxes kept per image.
        class_agnostic_nms: let boxes of different classes suppress each other.
        multi_label: let a box be of several classes, see `ops.nms.select_candidates`.
        class_score_thresholds: least score of every class; empty takes `score_threshold`.
        pixel_mean: per channel, subtracted from values in 0-255.
        pixel_std: per channel, divides them afterwards.
        input_format: channel order of the images, "RGB" or "BGR".
        channels_last: keep images and features in memory with their channels last.
        padding: where images lie on the canvas of their batch at inference; training has the same
            places without a margin.
        tasks: branches of further tasks on the features of the backbone; None detects only.
        training_sets: names of data sets whose classes are compared with the model's when it is
            trained.

    Attributes:
        follows_recipe: whether this project's trainer trains the model, which it says itself.
    """

    pixel_mean: Tensor
    pixel_std: Tensor
    anchors: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        anchors: Tensor,
        gains: LossGains = LossGains(),
        auxiliary_gain: float = 0.25,
        assigner: Assigner = Assigner(),
        score_threshold: float = 0.001,
        nms_threshold: float = 0.65,
        max_detections: int = 300,
        class_agnostic_nms: bool = False,
        multi_label: bool = True,
        class_score_thresholds: Sequence[float] = (),
        pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        pixel_std: Sequence[float] = (255.0, 255.0, 255.0),
        input_format: str = "RGB",
        channels_last: bool = False,
        padding: Padding = Padding(),
        tasks: TaskBranches | None = None,
        training_sets: Sequence[str] = (),
    ):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.tasks = TaskBranches() if tasks is None else tasks
        shapes = backbone.output_shape()
        self.in_features = sorted(shapes, key=lambda name: shapes[name].stride)
        self.strides = [shapes[name].stride for name in self.in_features]
        self.auxiliary_features = [level_name("a", stride) for stride in self.strides]
        self.gains = gains
        self.auxiliary_gain = auxiliary_gain
        self.assigner = assigner
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.class_agnostic_nms = class_agnostic_nms
        self.multi_label = multi_label
        self.class_score_thresholds = list(class_score_thresholds)
        # Of the network at inference, see `inference.prepare_for_inference`.
        self.compute_dtype = torch.float32
        self.input_format = input_format
        self.padding = padding
        self.register_buffer("anchors", anchors, persistent=False)
        if len(pixel_mean) != len(pixel_std):
            raise ValueError(
                f"MODEL.PIXEL_MEAN has {len(pixel_mean)} channels, MODEL.PIXEL_STD {len(pixel_std)}"
            )
        mean, std = torch.tensor(pixel_mean).view(-1, 1, 1), torch.tensor(pixel_std).view(-1, 1, 1)
        self.register_buffer("pixel_mean", mean.float(), persistent=False)
        self.register_buffer("pixel_std", std.float(), persistent=False)
        self.shifts_pixels = any(pixel_mean)
        self.training_sets = tuple(training_sets)
        self.follows_recipe = self.started = False
        # (L,) positives of each level of the last batch in training.
        self.positives: Tensor | None = None
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            self.to(memory_format=self.memory_format)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        from ..datasets.catalog import name_classes

        name_classes(cfg)
        backbone = build_backbone(cfg)
        shapes = sorted(backbone.output_shape().values(), key=lambda shape: shape.stride)
        node = cfg.MODEL.YOLOR
        return {
            "backbone": backbone,
            "head": build_head(cfg, shapes),
            "anchors": anchors_tensor(variant_from_config(cfg).anchors, len(shapes)),
            "gains": LossGains(
                box=node.LOSS.BOX,
                objectness=node.LOSS.OBJECTNESS,
                balance=tuple(node.LOSS.BALANCE) or None,
                classes=node.LOSS.CLASSES,
                scale_classes=node.LOSS.SCALE_CLASSES,
                train_size=cfg.INPUT.MAX_SIZE_TRAIN if node.LOSS.SCALE_OBJECTNESS else None,
                focal_gamma=node.LOSS.FOCAL_GAMMA,
                label_smoothing=node.LOSS.LABEL_SMOOTHING,
                ciou=node.LOSS.CIOU,
            ),
            "auxiliary_gain": node.LOSS.AUXILIARY,
            "assigner": Assigner.from_config(cfg),
            "score_threshold": node.SCORE_THRESHOLD,
            "nms_threshold": node.NMS_THRESHOLD,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "class_agnostic_nms": node.CLASS_AGNOSTIC_NMS,
            "multi_label": node.MULTI_LABEL,
            "class_score_thresholds": class_thresholds_from_config(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "channels_last": cfg.MODEL.CHANNELS_LAST,
            "padding": padding_from_config(cfg),
            "tasks": build_tasks(
                cfg, task_inputs(cfg, [x.channels for x in shapes], [x.stride for x in shapes])
            ),
            "training_sets": cfg.DATASETS.TRAIN,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def chains(self) -> Iterator[list[nn.Module]]:
        """Layers that follow each other directly, see `layers.fuse`."""
        if self.tasks:
            return  # their branches read the aligned features too
        if (
            type(self).run_network is YOLOR.run_network
            and computes_as(self.backbone, YOLORPAN)
            and computes_as(self.backbone.neck, PANNeck)
            and computes_as(self.head, AnchorHead)
        ):
            for chain in zip(self.backbone.neck.align, self.head.predict, self.head.refine):
                yield list(chain)

    def forward(self, batched_inputs: list[dict] | StagedBatch) -> dict[str, Tensor] | list[dict]:
        """Losses in training mode, detections otherwise.

        Args:
            batched_inputs: one dict per image: "image" (C, H, W) with values 0-255; in training
                "instances" with gt_boxes (xyxy in pixels of "image"), gt_classes and what further
                tasks need, see `yolor_d2.tasks`; optionally "height" and "width", the size in which
                detections are wanted. Or what `stage` has made of them, which lets the next batch
                travel while this one is computed.

        Returns:
            In training mode the weighted losses by name: three, those of further tasks, and one
            where implicit knowledge is constrained. Else one {"instances": Instances} per image
            with pred_boxes, scores and pred_classes, best first, and what further tasks add.
        """
        batch = self.begin(batched_inputs)
        levels, outputs = self.run(self.preprocess(batch).tensor, batch.geometry.window)
        if self.training:
            return self.forward_training(levels, batch, outputs)
        return self.forward_inference(levels, batch, outputs)

    def begin(self, batched_inputs: list[dict] | StagedBatch) -> StagedBatch:
        """The batch on the device; before the first one of a training loop, `start_training`."""
        if self.training and not self.started and has_event_storage():
            self.start_training()
        if isinstance(batched_inputs, StagedBatch):
            return batched_inputs
        return self.stage(batched_inputs)

    def run(self, pixels: Tensor, windows: Tensor) -> tuple[list[Tensor], dict[str, Any]]:
        """Normalised pixels (N, C, H, W) and the windows of their images, (N, 4) xyxy, to logits of
        all heads and the outputs of the branches of further tasks by name."""
        features, levels = self.run_network(pixels)
        return self.tasks(features, levels, windows) if self.tasks else (levels, {})

    def start_training(self) -> None:
        """Before the first batch of a training loop: what it leaves out, what does not fit."""
        self.started = True
        if not self.follows_recipe:
            tell_who_trains()
        if hasattr(self.head, "num_classes"):
            compare_classes(self.head.num_classes, self.training_sets)

    def run_network(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised pixels (N, C, H, W) to the backbone's features and the head's logits; those of
        auxiliary heads follow the latter in training."""
        by_name = self.backbone(pixels)
        features = [by_name[name] for name in self.in_features]
        auxiliary = [by_name[name] for name in self.auxiliary_features if name in by_name]
        if self.training:
            self.check_auxiliary(len(auxiliary))
        return features, self.head([*features, *auxiliary])

    def check_auxiliary(self, num_features: int) -> None:
        """Whether the head uses all features of auxiliary heads: what is trained by nothing is an
        oversight, and an error of its own where several processes train.

        Raises:
            ValueError: when backbone and head do not agree.
        """
        num_heads = len(getattr(self.head, "auxiliary", ()))
        if num_features != num_heads:
            raise ValueError(
                f"the backbone gives features for {num_features} auxiliary heads, but "
                f"{type(self.head).__name__} (MODEL.YOLOR.HEAD) has {num_heads}, its `auxiliary`; "
                "MODEL.YOLOR.AUXILIARY_WIDTHS [0] trains without auxiliary heads"
            )

    @property
    def stride(self) -> int:
        """The sides of the canvas are multiples of this."""
        return max(self.backbone.size_divisibility, 1)

    def canvas_size(self, inputs: dict) -> tuple[int, int]:
        """(H, W) with which the image of an input goes through the network alone."""
        return canvas_of(inputs, self.padding, self.stride)

    def stage(self, batched_inputs: list[dict]) -> StagedBatch:
        """Put the images onto one canvas, see `ops.padding`, and send all to the device."""
        padding = self.padding.for_training() if self.training else self.padding
        pinned = self.device.type == "cuda"
        images = place_images(batched_inputs, padding, self.stride, pinned=pinned)
        return stage(
            batched_inputs,
            images,
            self.device,
            training=self.training,
            num_classes=getattr(self.head, "num_classes", None),
            pack_fields=functools.partial(pack_fields, self.tasks),
        )

    def preprocess(self, batch: list[dict] | StagedBatch) -> PaddedImages:
        """The normalised pixels of a batch, on the device."""
        images = (batch if isinstance(batch, StagedBatch) else self.stage(batch)).images
        mean, std = self.pixel_mean, self.pixel_std
        pixels = normalise(images.tensor, mean, std, self.memory_format, shifts=self.shifts_pixels)
        return images._replace(tensor=pixels.to(self.compute_dtype))

    def forward_training(
        self,
        levels: list[Tensor],
        batch: StagedBatch,
        outputs: Mapping[str, Any] = {},
    ) -> dict[str, Tensor]:
        """Weighted losses of a batch, see `compute_losses`.

        The terms are multiplied by the number of images of all processes, as in the reference:
        with the gradients that Detectron2 averages over processes, a step then sums over the whole
        batch.
        """
        assert batch.truth is not None
        losses, self.positives = self.compute_losses(levels, batch.truth, outputs)
        if self.positives.device.type == "cpu" and has_event_storage():
            # Elsewhere whoever reads the losses reads them too, as that waits for the device.
            get_event_storage().put_scalars(**self.name_positives(self.positives.tolist()))
        num_images = len(batch.inputs) * comm.get_world_size()
        named = {name: loss * num_images for name, loss in losses.items()}
        penalty = implicit_penalty(self)
        if penalty is not None:
            named["loss_implicit"] = penalty
        return named

    def name_positives(self, counts: Sequence[float]) -> dict[str, float]:
        """Numbers of positives by the names of their metrics."""
        return {f"positives/{name}": count for name, count in zip(self.in_features, counts)}

    def compute_losses(
        self,
        levels: list[Tensor],
        truth: Truth,
        outputs: Mapping[str, Any] = {},
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Assignment and losses of a batch, see `ops.losses` and `networks.branches`.

        Compiled, or on a GPU, no shape depends on a value: with the network before it this is one
        graph.

        Returns:
            Means over the batch by name, and (L,) positives of each level.
        """
        num_levels = len(self.strides)
        levels, auxiliary = levels[:num_levels], levels[num_levels:]
        anchors = self.anchors, self.strides
        targets, auxiliary_targets = self.assigner(levels, auxiliary, truth, *anchors)
        terms = detection_losses(levels, targets, *anchors, self.gains)
        if auxiliary_targets is not None:
            further = detection_losses(auxiliary, auxiliary_targets, *anchors, self.gains)
            pairs = zip(terms, further)
            terms = DetectionLosses(*(lead + self.auxiliary_gain * aux for lead, aux in pairs))
        losses = {
            "loss_box": terms.box,
            "loss_objectness": terms.objectness,
            "loss_classes": terms.classes,
        }
        for name, output in outputs.items():
            losses |= self.tasks[name].losses(output, truth, targets)
        return losses, targets.positives

    def passing_rows(self, levels: list[Tensor], image: int) -> tuple[Tensor, Tensor]:
        """What is decoded of one image of the batch, see `ops.decode_passing`."""
        least = min(self.class_score_thresholds or [self.score_threshold])
        return decode_passing(levels, image, self.anchors, self.strides, least)

    def detect(self, rows: Tensor) -> Detections:
        """`ops.detect` with the settings of this model."""
        least = self.class_thresholds()
        return detect(
            rows,
            score_threshold=self.score_threshold if least is None else least,
            **self.nms_options(),
        )

    def nms_options(self) -> dict:
        """What `ops.detect` and `ops.batch.detect_batch` take alike."""
        return {
            "iou_threshold": self.nms_threshold,
            "max_detections": self.max_detections,
            "class_agnostic": self.class_agnostic_nms,
            "multi_label": self.multi_label,
        }

    def class_thresholds(self) -> Tensor | None:
        """(K,) least score of every class; None where all have the same."""
        thresholds = tuple(self.class_score_thresholds)
        return constant(thresholds, self.anchors) if thresholds else None

    def detect_image(self, levels: list[Tensor], image: int) -> Detections:
        """Detections of one image of a batch, on the canvas."""
        rows, numbers = self.passing_rows(levels, image)
        detections = self.detect(rows)
        return detections._replace(rows=numbers[detections.rows])

    def find_detections(self, levels: list[Tensor], geometry: Geometry) -> list[Detections]:
        """Detections of a batch, in the wanted sizes: image by image on a CPU, elsewhere at once.

        Elsewhere the host waits once, and once more where the first effort does not decide an
        image; only images that the second one does not decide either are looked at one by one.
        """

        def one_by_one(images: list[int]) -> BatchDetections:
            return pad_detections([self.detect_image(levels, i) for i in images])

        def together(effort: Effort, images: list[int]) -> BatchDetections:
            return self.detect_batch([choose(x, images) for x in levels], effort)

        ways = [functools.partial(together, effort) for effort in EFFORTS]
        if shapes_may_depend_on_values(levels[0]):
            ways = []
        by_image: dict[int, Detections] = {}
        left = list(range(len(levels[0])))
        for way in (*ways, one_by_one):
            placed = place(way(left), Geometry(*(choose(x, left) for x in geometry)))
            by_image |= {i: x for i, x in zip(left, placed) if x is not None}
            left = [i for i in left if i not in by_image]
            if not left:
                break
        return [by_image[i] for i in sorted(by_image)]

    def detect_batch(self, levels: list[Tensor], effort: Effort) -> BatchDetections:
        """`ops.batch.detect_batch` with the settings of this model."""
        return detect_batch(
            levels,
            self.anchors,
            self.strides,
            score_threshold=min(self.class_score_thresholds or [self.score_threshold]),
            class_thresholds=self.class_thresholds(),
            **self.nms_options(),
            effort=effort,
        )

    def forward_inference(
        self,
        levels: list[Tensor],
        batch: StagedBatch,
        outputs: Mapping[str, Any] = {},
    ) -> list[dict]:
        """Detections of each image, in the size that its input asks for; see `forward`.

        Args:
            levels: logits of the batch.
            batch: what they were computed from.
            outputs: of the branches of further tasks.
        """
        results = []
        for i, detections in enumerate(self.find_detections(levels, batch.geometry)):
            placement = batch.images.placements[i]
            size = wanted_size(batch.inputs[i], placement)
            instances = Instances(
                size,
                pred_boxes=Boxes(detections.boxes),
                scores=detections.scores,
                pred_classes=detections.labels,
            )
            result: dict = {"instances": instances}
            view = ImageView.of(placement, size)
            described = DetectedBoxes(detections.rows, detections.boxes, view, detections.labels)
            for name, output in outputs.items():
                decoded = self.tasks[name].decode(output, i, described)
                TASKS[name].add_results(result, decoded)
            results.append(result)
        return results
