"""Backbone, neck and head of any model, and the names of their tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ...networks import AnchorHead, PANNeck, YOLORBackbone
from .cfg_scheme import cfg_names
from .names import rename_keys
from .yaml_scheme import yaml_names

# Prefixes in checkpoints of Detectron2 models, as the meta-architecture nests its parts.
META_ARCH_PREFIXES = {
    "backbone.": "backbone.bottom_up.body.",
    "neck.": "backbone.neck.",
    "head.": "head.",
}


def to_meta_arch(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a `YOLORNetwork` under the names of the meta-architecture."""
    return {
        META_ARCH_PREFIXES[key.split(".")[0] + "."] + key.split(".", 1)[1]: value
        for key, value in state.items()
    }


def from_meta_arch(name: str) -> str:
    """Name of the meta-architecture to that of `YOLORNetwork`; others stay unchanged."""
    for ours, theirs in META_ARCH_PREFIXES.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


@dataclass(frozen=True)
class Parts:
    """The three parts with weights, alone or inside any model."""

    backbone: YOLORBackbone
    neck: PANNeck
    head: AnchorHead

    def state_dict(self) -> dict[str, Tensor]:
        """Under the names of `YOLORNetwork`."""
        parts = {"backbone": self.backbone, "neck": self.neck, "head": self.head}
        return {
            f"{prefix}.{key}": value
            for prefix, part in parts.items()
            for key, value in part.state_dict().items()
        }

    def names(self, scheme: str, given: Collection[str] = ()) -> dict[str, str]:
        """Names of the tensors in files of a scheme, ours to theirs.

        Args:
            scheme: see `ConversionReport`.
            given: names in the file, see `yaml_names`.

        Raises:
            ValueError: when the network has no such names.
        """
        keys = list(self.state_dict())
        if scheme == "yaml":
            return rename_keys(keys, yaml_names(self.backbone, self.neck, self.head, given))
        if scheme in ("cfg", "darknet"):
            return rename_keys(keys, cfg_names(self.backbone, self.neck, self.head))
        return {key: key for key in keys}


def find_parts(model: nn.Module) -> tuple[nn.Module | None, nn.Module | None, nn.Module | None]:
    """Backbone, neck and head of a `YOLORNetwork` or of the meta-architecture, if it has them."""
    backbone = getattr(model, "backbone", None)
    neck = getattr(model, "neck", None) or getattr(backbone, "neck", None)
    body = getattr(getattr(backbone, "bottom_up", backbone), "body", backbone)
    return body, neck, getattr(model, "head", None)


def has_own_parts(model: nn.Module) -> bool:
    """Whether backbone, neck and head are those of this project."""
    kinds = (YOLORBackbone, PANNeck, AnchorHead)
    return all(isinstance(part, kind) for part, kind in zip(find_parts(model), kinds))


def parts_of(model: nn.Module) -> Parts:
    """The parts of a `YOLORNetwork` or of the meta-architecture.

    Raises:
        ValueError: when the model has other parts, which only its own checkpoints fit.
    """
    if not has_own_parts(model):
        kinds = ", ".join(type(part).__name__ for part in find_parts(model))
        raise ValueError(f"weights of other programs fit YOLOR's own parts, but these are {kinds}")
    return Parts(*find_parts(model))  # pyright: ignore[reportArgumentType]
