"""Catalogues, loaders and the resize of the test pipeline."""

from . import RUNTIME

if RUNTIME == "detectron2":
    from detectron2.data import (
        DatasetCatalog,
        DatasetFromList,
        MetadataCatalog,
        build_detection_test_loader,
        build_detection_train_loader,
        get_detection_dataset_dicts,
    )
    from detectron2.data.datasets import load_coco_json, register_coco_instances
    from detectron2.data.transforms import ResizeShortestEdge
else:
    from .._builtin.catalog import DatasetCatalog, MetadataCatalog
    from .._builtin.coco import load_coco_json, register_coco_instances
    from .._builtin.data import (
        DatasetFromList,
        ResizeShortestEdge,
        build_detection_test_loader,
        build_detection_train_loader,
        get_detection_dataset_dicts,
    )

__all__ = [
    "DatasetCatalog",
    "DatasetFromList",
    "MetadataCatalog",
    "ResizeShortestEdge",
    "build_detection_test_loader",
    "build_detection_train_loader",
    "get_detection_dataset_dicts",
    "load_coco_json",
    "register_coco_instances",
]
