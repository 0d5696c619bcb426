"""Draw the implicit knowledge that a model has learned."""

from __future__ import annotations

import argparse

import torch

from ..checkpoint import YOLORCheckpointer
from ..config import load_config
from ..d2.modeling import build_model
from ..data.loader import EvaluationMapper
from ..datasets.catalog import class_names, register_datasets
from ..files.images import read_image
from ..inputs import find_images, require_weights
from ..layers import Implicit
from ..visualize.implicit import (
    FeatureRecorder,
    draw_alignment,
    draw_tensors,
    save_figure,
    stride_of,
)


def main(args: argparse.Namespace) -> None:
    cfg = load_config(args.config_file, args.opts)
    require_weights(cfg.MODEL.WEIGHTS)
    register_datasets(cfg)
    model = build_model(cfg).eval()
    YOLORCheckpointer(model, strict=True).load(cfg.MODEL.WEIGHTS)
    figures = draw_tensors(model, class_names(cfg))
    if not figures:
        raise ValueError(f"the model of {args.config_file!r} has no implicit knowledge")
    if args.images:
        places = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, Implicit) and ".refine." not in name
        }
        mapper = EvaluationMapper.from_config(cfg)
        with FeatureRecorder(places) as recorder, torch.no_grad():
            for path in find_images(args.images)[: args.count]:
                height, width = read_image(path).shape[:2]
                model([mapper({"file_name": str(path), "height": height, "width": width})])
        strides = {name: stride_of(model, name) for name in places}
        figures["alignment"] = draw_alignment(recorder, strides)
    for name, figure in figures.items():
        path = args.output / f"{name}.png"
        save_figure(figure, path)
        print(path)
