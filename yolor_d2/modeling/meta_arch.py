"""The meta-architecture: Detectron2's batches in, losses or `Instances` out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..d2.config import CfgNode, configurable
from ..d2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, detector_postprocess
from ..d2.structures import Boxes, Instances
from ..d2.utils import comm, get_event_storage, has_event_storage
from ..layers import implicit_penalty
from ..networks import AnchorHead, TaskBranches
from ..networks.network import anchors_tensor
from ..ops import (
    Detections,
    LevelTargets,
    LossGains,
    assign_targets,
    decode_passing,
    detect,
    detection_losses,
    xyxy_to_cxcywh,
)
from ..ops.padding import Padding, Placement
from ..ops.task_losses import (
    embeddings_of_rows,
    identity_loss,
    matched_embeddings,
    presence_loss,
    present_classes,
)
from .backbone import YOLORPAN, variant_from_config
from .head import build_head
from .images import PaddedImages, canvas_of, normalise, padding_from_config, place_images
from .tasks import build_tasks


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


@META_ARCH_REGISTRY.register()
class YOLOR(nn.Module):
    """One-stage, anchor-based detector with implicit knowledge.

    Args:
        backbone: features by name; all of them are used, fine to coarse.
        head: list of features to logits (N, A, H, W, 5 + K) per level.
        anchors: (L, A, 2) widths and heights in input pixels.
        gains: weights of the loss terms.
        assign_max_ratio: see `ops.assign.assign_level`.
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
        classification_gain: weight of the loss of the image's classes.
        embedding_gain: weight of the loss of the embeddings.
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
        assign_max_ratio: float = 4.0,
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
        classification_gain: float = 0.1,
        embedding_gain: float = 0.05,
    ):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.tasks = tasks
        self.classification_gain = classification_gain
        self.embedding_gain = embedding_gain
        shapes = backbone.output_shape()
        self.in_features = sorted(shapes, key=lambda name: shapes[name].stride)
        self.strides = [shapes[name].stride for name in self.in_features]
        self.gains = gains
        self.assign_max_ratio = assign_max_ratio
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
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            self.to(memory_format=self.memory_format)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
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
                focal_gamma=node.LOSS.FOCAL_GAMMA,
                label_smoothing=node.LOSS.LABEL_SMOOTHING,
            ),
            "assign_max_ratio": node.ASSIGN_MAX_RATIO,
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
            "tasks": build_tasks(cfg, shapes),
            "classification_gain": node.TASKS.CLASSIFICATION.GAIN,
            "embedding_gain": node.TASKS.EMBEDDING.GAIN,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def chains(self) -> Iterator[list[nn.Module]]:
        """Layers that follow each other directly, see `layers.fuse`."""
        if self.tasks is not None:
            return  # their branches read the aligned features too
        if isinstance(self.backbone, YOLORPAN) and isinstance(self.head, AnchorHead):
            for chain in zip(self.backbone.neck.align, self.head.predict, self.head.refine):
                yield list(chain)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses in training mode, detections otherwise.

        Args:
            batched_inputs: one dict per image: "image" (C, H, W) with values 0-255; in training
                "instances" with gt_boxes (xyxy in pixels of "image"), gt_classes and, for the
                embedding task, gt_identities (-1 where unknown); optionally
                "height" and "width", the size in which detections are wanted.

        Returns:
            In training mode the weighted losses by name: three, one for each further task, and one
            where implicit knowledge is constrained. Else one {"instances": Instances} per image
            with pred_boxes, scores and pred_classes, best first; with the embedding task also
            pred_embeddings (D of length 1 each), and with the classification task beside the
            instances "image_scores", (K,) in 0-1.
        """
        images = self.preprocess(batched_inputs)
        features, levels = self.run_network(images.tensor)
        logits = maps = None
        if self.tasks is not None:
            windows = torch.tensor([x.window for x in images.placements], device=self.device)
            logits, maps = self.tasks(features, windows)
        if self.training:
            return self.forward_training(levels, images.placements, batched_inputs, logits, maps)
        return self.forward_inference(levels, images.placements, batched_inputs, logits, maps)

    def run_network(self, pixels: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Normalised pixels (N, C, H, W) to the backbone's features and the head's logits."""
        by_name = self.backbone(pixels)
        features = [by_name[name] for name in self.in_features]
        return features, self.head(features)

    @property
    def stride(self) -> int:
        """The sides of the canvas are multiples of this."""
        return max(self.backbone.size_divisibility, 1)

    def canvas_size(self, inputs: dict) -> tuple[int, int]:
        """(H, W) with which the image of an input goes through the network alone."""
        return canvas_of(inputs, self.padding, self.stride)

    def preprocess(self, batched_inputs: list[dict]) -> PaddedImages:
        """Put the images onto one canvas, see `ops.padding`, move it to the device, normalise."""
        padding = self.padding.for_training() if self.training else self.padding
        images = place_images(batched_inputs, padding, self.stride)
        pixels = normalise(
            images.tensor.to(self.device, non_blocking=True),
            self.pixel_mean,
            self.pixel_std,
            self.memory_format,
        )
        return images._replace(tensor=pixels.to(self.compute_dtype))

    def forward_training(
        self,
        levels: list[Tensor],
        placements: list[Placement],
        batched_inputs: list[dict],
        class_logits: Tensor | None = None,
        embedding_maps: list[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Weighted losses of a batch, see `ops.losses` and `ops.task_losses`.

        The terms are multiplied by the number of images of all processes, as in the reference:
        with the gradients that Detectron2 averages over processes, a step then sums over the whole
        batch.
        """
        if any("instances" not in x for x in batched_inputs):
            raise KeyError(
                "training needs 'instances' in every input; call model.eval() for inference"
            )
        truth = [x["instances"].to(self.device) for x in batched_inputs]
        on_canvas = [p.to_canvas(t.gt_boxes.tensor) for t, p in zip(truth, placements)]
        boxes = xyxy_to_cxcywh(torch.cat(on_canvas))
        labels = torch.cat([t.gt_classes for t in truth])
        counts = torch.tensor([len(t) for t in truth], device=self.device)
        image = torch.arange(len(truth), device=self.device).repeat_interleave(counts)
        numbered = assign_targets(
            image,
            boxes,
            torch.arange(len(labels), device=self.device),  # which box it is, in place of a class
            self.anchors,
            self.strides,
            [(x.shape[2], x.shape[3]) for x in levels],
            self.assign_max_ratio,
        )
        targets = [level._replace(label=labels[level.label]) for level in numbered]
        if has_event_storage():
            storage = get_event_storage()
            for name, level in zip(self.in_features, targets):
                storage.put_scalar(f"positives/{name}", len(level.label))

        losses = detection_losses(levels, targets, self.anchors, self.strides, self.gains)
        num_images = len(batched_inputs) * comm.get_world_size()
        weighted = {
            "loss_box": losses.box,
            "loss_objectness": losses.objectness,
            "loss_classes": losses.classes,
        }
        if class_logits is not None:
            present = present_classes(image, labels, *class_logits.shape)
            weighted["loss_image_classes"] = self.classification_gain * presence_loss(
                class_logits, present
            )
        if embedding_maps is not None:
            weighted["loss_embedding"] = self.embedding_gain * self.embedding_loss(
                embedding_maps, numbered, truth
            )
        named = {name: loss * num_images for name, loss in weighted.items()}
        penalty = implicit_penalty(self)
        if penalty is not None:
            named["loss_implicit"] = penalty
        return named

    def embedding_loss(
        self, maps: list[Tensor], targets: list[LevelTargets], truth: list[Instances]
    ) -> Tensor:
        """Unweighted loss of the embeddings.

        Args:
            maps: see `networks.EmbeddingBranch`.
            targets: positives whose `label` is the number of their box in the batch.
            truth: per image, with gt_identities.

        Raises:
            KeyError: when the objects have no identities.
            ValueError: when there is an identity that the model has no prototype of.
        """
        if not all(t.has("gt_identities") for t in truth):
            raise KeyError(
                "the embedding task needs 'gt_identities' in the instances of every input; "
                "annotations give them by 'instance_id'"
            )
        assert self.tasks is not None and self.tasks.embedding is not None
        prototypes = self.tasks.embedding.prototypes
        identities = torch.cat([t.gt_identities for t in truth])
        if len(identities) and int(identities.max()) >= len(prototypes):
            raise ValueError(
                f"an object has identity {int(identities.max())}, but "
                f"MODEL.YOLOR.TASKS.EMBEDDING.NUM_IDENTITIES is {len(prototypes)}"
            )
        return identity_loss(*matched_embeddings(maps, targets, identities), prototypes)

    def passing_rows(self, levels: list[Tensor], image: int) -> tuple[Tensor, Tensor]:
        """What is decoded of one image of the batch, see `ops.decode_passing`."""
        least = min(self.class_score_thresholds or [self.score_threshold])
        return decode_passing(levels, image, self.anchors, self.strides, least)

    def candidate_rows(self, image: Tensor) -> Tensor:
        """(R', 5 + K) decoded rows of one image (C, H, W), 0-255, that may be detections."""
        images = self.preprocess([{"image": image}])
        _, levels = self.run_network(images.tensor)
        rows, _ = self.passing_rows(levels, 0)
        boxes = images.placements[0].from_canvas(rows[:, :4])
        return torch.cat([boxes, rows[:, 4:]], dim=1)

    def detect(self, rows: Tensor) -> Detections:
        """`ops.detect` with the settings of this model."""
        thresholds = self.class_score_thresholds
        return detect(
            rows,
            score_threshold=torch.tensor(thresholds) if thresholds else self.score_threshold,
            iou_threshold=self.nms_threshold,
            max_detections=self.max_detections,
            class_agnostic=self.class_agnostic_nms,
            multi_label=self.multi_label,
        )

    def forward_inference(
        self,
        levels: list[Tensor],
        placements: list[Placement],
        batched_inputs: list[dict],
        class_logits: Tensor | None = None,
        embedding_maps: list[Tensor] | None = None,
    ) -> list[dict]:
        """Detections of each image, in the size that its input asks for; see `forward`.

        Args:
            levels: logits of the batch.
            placements: where each image lies on the canvas.
            batched_inputs: see `forward`.
            class_logits: (N, K), see `networks.ClassificationBranch`.
            embedding_maps: see `networks.EmbeddingBranch`.
        """
        results = []
        for i, (placement, inputs) in enumerate(zip(placements, batched_inputs)):
            image_size = placement.size
            rows, numbers = self.passing_rows(levels, i)
            found = self.detect(rows)
            found = found._replace(rows=numbers[found.rows])
            boxes = Boxes(placement.from_canvas(found.boxes))
            boxes.clip(image_size)
            instances = Instances(
                image_size, pred_boxes=boxes, scores=found.scores, pred_classes=found.labels
            )
            if embedding_maps is not None:
                # Before the postprocessing, which leaves out boxes without area.
                instances.pred_embeddings = embeddings_of_rows(
                    [level[i] for level in embedding_maps], found.rows, self.anchors.shape[1]
                )
            height = inputs.get("height", image_size[0])
            width = inputs.get("width", image_size[1])
            result: dict = {"instances": detector_postprocess(instances, height, width)}
            if class_logits is not None:
                result["image_scores"] = class_logits[i].float().sigmoid()
            results.append(result)
        return results
