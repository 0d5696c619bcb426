"""The meta-architecture: Detectron2's batches in, losses or `Instances` out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..d2.config import CfgNode, configurable
from ..d2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, detector_postprocess
from ..d2.structures import Boxes, ImageList, Instances
from ..d2.utils import comm, get_event_storage, has_event_storage
from ..layers import implicit_penalty
from ..networks import AnchorHead
from ..networks.network import anchors_tensor
from ..ops import (
    Detections,
    LevelTargets,
    LossGains,
    assign_targets,
    classification_loss,
    decode,
    detect,
    detection_losses,
    embedding_loss,
    gather_embeddings,
    present_classes,
    xyxy_to_cxcywh,
)
from .backbone import YOLORPAN, variant_from_config
from .head import build_head
from .tasks import build_tasks

# Grey level of the border around images that are smaller than their batch, as in training's
# mosaics.
PAD_VALUE = 114


@META_ARCH_REGISTRY.register()
class YOLOR(nn.Module):
    """One-stage, anchor-based detector with implicit knowledge.

    Args:
        backbone: features by name; all of them are used, fine to coarse.
        head: list of features to logits (N, A, H, W, 5 + K) per level.
        anchors: (L, A, 2) widths and heights in input pixels.
        gains: weights of the loss terms.
        tasks: branches of further tasks by name, see `networks.tasks`.
        task_gains: weights of their losses by name.
        assign_max_ratio: see `ops.assign.assign_level`.
        score_threshold: see `ops.nms.select_candidates`.
        nms_threshold: IoU above which the worse of two boxes is dropped.
        max_detections: boxes kept per image.
        class_agnostic_nms: let boxes of different classes suppress each other.
        pixel_mean: per channel, subtracted from values in 0-255.
        pixel_std: per channel, divides them afterwards.
        input_format: channel order of the images, "RGB" or "BGR".
        channels_last: keep images and features in memory with their channels last.
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
        tasks: nn.ModuleDict | None = None,
        task_gains: dict[str, float] | None = None,
        assign_max_ratio: float = 4.0,
        score_threshold: float = 0.001,
        nms_threshold: float = 0.65,
        max_detections: int = 300,
        class_agnostic_nms: bool = False,
        pixel_mean: Sequence[float] = (0.0, 0.0, 0.0),
        pixel_std: Sequence[float] = (255.0, 255.0, 255.0),
        input_format: str = "RGB",
        channels_last: bool = False,
    ):
        super().__init__()
        self.backbone = backbone
        self.head = head
        shapes = backbone.output_shape()
        self.in_features = sorted(shapes, key=lambda name: shapes[name].stride)
        self.strides = [shapes[name].stride for name in self.in_features]
        self.gains = gains
        self.tasks = nn.ModuleDict() if tasks is None else tasks
        self.task_gains = task_gains or {}
        self.assign_max_ratio = assign_max_ratio
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.class_agnostic_nms = class_agnostic_nms
        self.input_format = input_format
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
            "tasks": build_tasks(cfg, shapes),
            "task_gains": {
                "classification": node.TASKS.CLASSIFICATION.GAIN,
                "embedding": node.TASKS.EMBEDDING.GAIN,
            },
            "assign_max_ratio": node.ASSIGN_MAX_RATIO,
            "score_threshold": node.SCORE_THRESHOLD,
            "nms_threshold": node.NMS_THRESHOLD,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "class_agnostic_nms": node.CLASS_AGNOSTIC_NMS,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "channels_last": cfg.MODEL.CHANNELS_LAST,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def chains(self) -> Iterator[list[nn.Module]]:
        """Layers that follow each other directly, see `layers.fuse`."""
        if isinstance(self.backbone, YOLORPAN) and isinstance(self.head, AnchorHead):
            for chain in zip(self.backbone.neck.align, self.head.predict, self.head.refine):
                yield list(chain)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Losses in training mode, detections otherwise.

        Args:
            batched_inputs: one dict per image: "image" (C, H, W) with values 0-255; in training
                "instances" with gt_boxes (xyxy in pixels of "image") and gt_classes, for embeddings
                gt_identities (below 0 for none); optionally "height" and "width", the size in which
                detections are wanted.

        Returns:
            In training mode the weighted losses by name: three, one for each further task, one
            where implicit knowledge is constrained. Otherwise one {"instances": Instances} per
            image with pred_boxes, scores and pred_classes, best first; the embedding branch adds
            pred_embeddings (D, length), the classification branch "image_scores" (K,) beside.
        """
        images = self.preprocess(batched_inputs)
        features = self.backbone(images.tensor)
        maps = [features[name] for name in self.in_features]
        levels = self.head(maps)
        found = {name: branch(maps) for name, branch in self.tasks.items()}
        if self.training:
            return self.forward_training(levels, found, batched_inputs)
        return self.forward_inference(levels, found, images.image_sizes, batched_inputs)

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """Move to the device, pad to the right and below into one batch, normalise."""
        images = ImageList.from_tensors(
            [x["image"].to(self.device, non_blocking=True) for x in batched_inputs],
            self.backbone.size_divisibility,
            pad_value=PAD_VALUE,
        )
        pixels = (images.tensor - self.pixel_mean) / self.pixel_std
        pixels = pixels.contiguous(memory_format=self.memory_format)
        return ImageList(pixels, images.image_sizes)

    def forward_training(
        self, levels: list[Tensor], found: dict, batched_inputs: list[dict]
    ) -> dict[str, Tensor]:
        """Weighted losses of a batch, see `ops.losses`.

        The terms are multiplied by the number of images of all processes, as in the reference:
        with the gradients that Detectron2 averages over processes, a step then sums over the whole
        batch.

        Args:
            levels: logits of the batch.
            found: outputs of the task branches by name.
            batched_inputs: see `forward`.
        """
        if any("instances" not in x for x in batched_inputs):
            raise KeyError(
                "training needs 'instances' in every input; call model.eval() for inference"
            )
        truth = [x["instances"].to(self.device) for x in batched_inputs]
        boxes = xyxy_to_cxcywh(torch.cat([t.gt_boxes.tensor for t in truth]))
        labels = torch.cat([t.gt_classes for t in truth])
        counts = torch.tensor([len(t) for t in truth], device=self.device)
        image = torch.arange(len(truth), device=self.device).repeat_interleave(counts)
        targets = assign_targets(
            image,
            boxes,
            labels,
            self.anchors,
            self.strides,
            [(x.shape[2], x.shape[3]) for x in levels],
            self.assign_max_ratio,
        )
        if has_event_storage():
            storage = get_event_storage()
            for name, level in zip(self.in_features, targets):
                storage.put_scalar(f"positives/{name}", len(level.label))

        losses = detection_losses(levels, targets, self.anchors, self.strides, self.gains)
        num_images = len(batched_inputs) * comm.get_world_size()
        named = {
            "loss_box": losses.box * num_images,
            "loss_objectness": losses.objectness * num_images,
            "loss_classes": losses.classes * num_images,
        }
        if "classification" in found:
            present = present_classes(image, labels, len(truth), self.head.num_classes)
            loss = classification_loss(found["classification"], present)
            named["loss_classification"] = loss * num_images * self.task_gains["classification"]
        if "embedding" in found:
            loss = self.embedding_loss(found["embedding"], targets, truth)
            named["loss_embedding"] = loss * num_images * self.task_gains["embedding"]
        penalty = implicit_penalty(self)
        if penalty is not None:
            named["loss_implicit"] = penalty
        return named

    def embedding_loss(
        self, maps: list[Tensor], targets: list[LevelTargets], truth: list[Instances]
    ) -> Tensor:
        """See `ops.task_losses.embedding_loss`; objects of data sets without identities have
        none."""
        identities = torch.cat(
            [
                t.gt_identities if t.has("gt_identities") else torch.full_like(t.gt_classes, -1)
                for t in truth
            ]
        )
        prototypes = self.tasks["embedding"].prototypes
        if len(identities) and int(identities.max()) >= len(prototypes):
            raise ValueError(
                f"the training set has an identity {int(identities.max())}, but "
                f"MODEL.YOLOR.TASKS.EMBEDDING.NUM_IDENTITIES is {len(prototypes)}"
            )
        return embedding_loss(maps, targets, identities, prototypes)

    def forward_inference(
        self,
        levels: list[Tensor],
        found: dict,
        image_sizes: list[tuple[int, int]],
        batched_inputs: list[dict],
    ) -> list[dict]:
        """Detections of each image, in the size that its input asks for.

        Args:
            levels: logits of the batch.
            found: outputs of the task branches by name.
            image_sizes: (H, W) of each image before padding.
            batched_inputs: see `forward`.
        """
        results = []
        for i, (rows, image_size, inputs) in enumerate(
            zip(decode(levels, self.anchors, self.strides), image_sizes, batched_inputs)
        ):
            best = detect(
                rows,
                score_threshold=self.score_threshold,
                iou_threshold=self.nms_threshold,
                max_detections=self.max_detections,
                class_agnostic=self.class_agnostic_nms,
            )
            boxes = Boxes(best.boxes)
            boxes.clip(image_size)
            instances = Instances(
                image_size, pred_boxes=boxes, scores=best.scores, pred_classes=best.labels
            )
            if "embedding" in found:
                instances.pred_embeddings = self.embeddings_of(best, found["embedding"], i)
            height = inputs.get("height", image_size[0])
            width = inputs.get("width", image_size[1])
            result = {"instances": detector_postprocess(instances, height, width)}
            if "classification" in found:
                result["image_scores"] = found["classification"][i].float().sigmoid()
            results.append(result)
        return results

    def embeddings_of(self, best: Detections, maps: list[Tensor], image: int) -> Tensor:
        """(D, length) float32 vectors of the detections of one image."""
        return gather_embeddings(maps, image, best.rows, self.anchors.shape[1]).float()
