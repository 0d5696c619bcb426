r"""Draw the implicit knowledge that a model has learned.

    python tools/plot_implicit.py --config-file output/mine/config.yaml --output output/implicit \
        MODEL.WEIGHTS output/mine/model_best.pth
    python tools/plot_implicit.py --config-file output/mine/config.yaml --output output/implicit \
        --images photos/ MODEL.WEIGHTS output/mine/model_best.pth

One picture for each place: on predictions a bar for x, y, width, height, objectness and class of
each anchor, elsewhere the values of the channels. With --images, the feature spaces before and
after their alignment too. During training, VIS_PERIOD N sends these pictures to tensorboard.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from ..checkpoint import YOLORCheckpointer
from ..config import load_config
from ..d2.modeling import build_model
from ..data.image import read_image
from ..data.loader import EvaluationMapper, class_names, register_datasets
from ..layers import Implicit
from ..visualize_implicit import FeatureRecorder, draw_alignment, draw_tensors, save_figure
from .demo import expand


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="path, or name in the model zoo")
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--images", nargs="+", type=Path, default=[], help="files and folders")
    parser.add_argument("--count", type=int, default=16, help="use at most so many images")
    parser.add_argument("opts", nargs="*", help="KEY VALUE pairs")
    args = parser.parse_intermixed_args(argv)
    # Overrides right behind --images end the list of images.
    keys = [i for i, path in enumerate(args.images) if not path.exists() and "." in str(path)]
    if keys and len(args.images[keys[0] :]) % 2 == 0:
        args.opts = [*map(str, args.images[keys[0] :]), *args.opts]
        args.images = args.images[: keys[0]]
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    cfg = load_config(args.config_file, args.opts)
    if not Path(cfg.MODEL.WEIGHTS).is_file():
        raise FileNotFoundError(f"MODEL.WEIGHTS is {cfg.MODEL.WEIGHTS!r}: no such file")
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
            for path in expand(args.images)[: args.count]:
                height, width = read_image(path).shape[:2]
                model([mapper({"file_name": str(path), "height": height, "width": width})])
        figures["alignment"] = draw_alignment(recorder)
    for name, figure in figures.items():
        path = args.output / f"{name}.png"
        save_figure(figure, path)
        print(path)
