"""Former names of modules, classes and functions, which work with a DeprecationWarning until 1.0.

A new home is a row here (CONTRIBUTING.md, "Names that change").
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import CodeType, ModuleType
from typing import Any

import wrapt

PACKAGE = __name__.rpartition(".")[0]
# Former names and where their content is now, the main part first; all below the package.
MOVED: dict[str, tuple[str, ...]] = {
    "benchmark.gpu.suppression": ("benchmark.gpu.nms",),
    "checkpoint.advice": ("checkpoint.conversion.advice",),
    "checkpoint.convert": (
        "checkpoint.conversion.convert",
        "checkpoint.conversion.report",
        "checkpoint.conversion.parts",
        "checkpoint.conversion.branches",
        "checkpoint.conversion.classes",
        "checkpoint.conversion.darknet",
    ),
    "checkpoint.darknet": ("checkpoint.formats.darknet",),
    "checkpoint.pickle_reader": ("checkpoint.formats.pickle_reader",),
    "checkpoint.safe_load": ("checkpoint.formats.load",),
    "checkpoint.schemes": (
        "checkpoint.conversion.names",
        "checkpoint.conversion.yaml_scheme",
        "checkpoint.conversion.cfg_scheme",
    ),
    "checkpoint.torch_files": ("checkpoint.formats.torch_file", "checkpoint.formats.torch_pickle"),
    "config_files": ("config.files",),
    "config_node": ("config.node",),
    "data.annotations": (
        "datasets.annotations",
        "datasets.open_files",
        "datasets.coco_json",
        "datasets.prepared_copies",
    ),
    "data.augment": ("data.augmentation.image",),
    "data.catalog": ("datasets.catalog", "data.options"),
    "data.check": ("doctor",),
    "data.check.boxes": ("doctor.boxes",),
    "data.check.doctor": ("doctor.run",),
    "data.check.entries": ("datasets.entries",),
    "data.check.files": ("doctor.files",),
    "data.check.findings": ("datasets.findings",),
    "data.check.forms": ("datasets.forms",),
    "data.check.images": ("files.inspection",),
    "data.check.keypoints": ("doctor.keypoints",),
    "data.check.masks": ("doctor.masks",),
    "data.check.pictures": ("doctor.pictures", "visualize.marks"),
    "data.check.quick": ("doctor.quick",),
    "data.check.repair": ("doctor.repair",),
    "data.check.source": ("datasets.source",),
    "data.fingerprint": ("datasets.fingerprint",),
    "data.formats": ("datasets.formats",),
    "data.formats.convert": ("datasets.formats.convert",),
    "data.formats.labels": ("datasets.formats.labels",),
    "data.formats.voc": ("datasets.formats.voc",),
    "data.formats.yolo": ("datasets.formats.yolo",),
    "data.ground_truth": ("datasets.ground_truth",),
    "data.image": ("files.images",),
    "data.keypoint_files": ("datasets.keypoints",),
    "data.keypoints": ("structures.keypoints",),
    "data.mask_maps": ("structures.mask_maps",),
    "data.mosaic": ("data.augmentation.mosaic",),
    "data.paste_in": ("data.augmentation.paste_in",),
    "data.polygon_files": ("datasets.polygons",),
    "data.polygons": ("structures.polygons",),
    "data.run_lengths": ("structures.run_lengths",),
    "data.shapes": ("data.batch_shapes",),
    "data.split": ("datasets.split",),
    "data.toy": ("toy",),
    "data.warp": ("data.augmentation.warp",),
    "data.workers": ("workers",),
    "engine.console": ("engine.monitoring.console",),
    "engine.interrupt": ("engine.distributed.interrupt",),
    "engine.launch": ("engine.distributed.launch", "engine.distributed.place"),
    "engine.lock": ("engine.distributed.lock",),
    "engine.loggers": ("engine.monitoring.loggers",),
    "engine.processes": ("engine.distributed.processes",),
    "engine.progress": ("engine.distributed.progress",),
    "engine.time_left": ("engine.monitoring.time_left",),
    "engine.watch": ("engine.distributed.watch", "engine.distributed.heartbeat"),
    "evaluation.ablation": ("ablation",),
    "evaluation.analysis": ("report.analysis",),
    "evaluation.coco_figures": ("evaluation.coco_metrics",),
    "evaluation.dataset_file": ("datasets.coco_file",),
    "evaluation.errors": (
        "report.errors",
        "report.matching",
        "report.curves",
        "report.confusion",
    ),
    "evaluation.report": (
        "report.collect",
        "report.files",
        "report.thresholds",
        "report.write",
    ),
    "evaluation.report_compare": ("report.compare",),
    "evaluation.report_page": (
        "report.page",
        "report.comparison_page",
        "report.page_plots",
        "report.page_text",
    ),
    "evaluation.report_plots": ("visualize.plots",),
    "evaluation.report_shapes": ("report.shapes",),
    "labels": ("visualize.labels",),
    "modeling.start": ("modeling.first_batch",),
    "networks.tasks": ("networks.branches",),
    "networks.tasks.branch": ("networks.branches.branch",),
    "networks.tasks.classification": ("networks.branches.classification",),
    "networks.tasks.embedding": ("networks.branches.embedding",),
    "networks.tasks.keypoints": (
        "networks.branches.keypoints",
        "networks.branches.keypoint_losses",
    ),
    "networks.tasks.masks": ("networks.branches.masks",),
    "prediction.outputs": (
        "prediction.text_files",
        "prediction.result",
        "prediction.coco_files",
        "prediction.folders",
    ),
    "prediction.video": ("prediction.video_reader", "prediction.video_writer"),
    "shapes": ("visualize.shapes",),
    "visualize_implicit": ("visualize.implicit",),
}


def _at(home: str, names: str) -> dict[str, str]:
    """Names that are unchanged in another module."""
    return {name: f"{home}.{name}" for name in names.split()}


# Module, a name that it had and what that is now, where neither the module nor what took its
# place above has it under that name; all below the package. `Class:member` is a function of a
# configuration that is a member of what is made from one.
NAMES: dict[str, dict[str, str]] = {
    "api": _at("api.results", "DISPLAY_SIDE"),
    "benchmark.generated_evaluation": {
        "SHARE_CROWD": "benchmark.generated_evaluation.FRACTION_CROWD"
    },
    "benchmark.gpu": {"share_of": "benchmark.gpu.time_for"},
    "benchmark.gpu.suppression": {"share_found": "benchmark.gpu.nms.fraction_matched"},
    "benchmark.gpu.training": {"SHARES": "benchmark.gpu.training.FRACTIONS"},
    "benchmark.report": _at("environment", "describe_machine"),
    "checkpoint.files": _at("files.writing", "atomic_write require_writable sync_folder"),
    "checkpoint.safe_load": {"FIGURES": "checkpoint.formats.load.COUNTERS"},
    "d2": _at("runtime", "CHOICES ENVIRONMENT_VARIABLE"),
    "data.check.keypoints": _at("structures.keypoints", "is_edge"),
    "data.check.source": _at("files.values", "LARGEST_NUMBER SHOWN shorten to_float"),
    "data.formats.labels": _at("datasets.formats.read", "has_split read_labelled"),
    "data.formats.yolo": {"MOST_SHARE": "datasets.formats.yolo.MAX_FRACTION"},
    "data.loader": {
        **_at("data.training_data", "LEAST_RECALL check_layout"),
        "count_training_images": "data.training_data.TrainingData:count_images",
        "fingerprint": "data.training_data.TrainingData:fingerprint",
        "load_training_truth": "data.training_data.TrainingData:read",
        "mirrored": "data.training_data.TrainingData:flip_order",
        "needs_polygons": "data.training_data.TrainingData:with_polygons",
        "prepare_polygons": "data.training_data.TrainingData:prepare_copies",
        "warn_of_anchors": "data.training_data.TrainingData:check_anchors",
    },
    "data.paste_in": {"SHARE": "data.augmentation.paste_in.FRACTION"},
    "data.split": {"share_out": "datasets.split.distribute"},
    "data.toy": {
        **_at("toy.shapes", "Array BOX_HALF_SIDE DISTRACTORS Point SUPERSAMPLING Shape Size TIP"),
        **_at("toy.scenes", "BANDS HUE_SPREAD INNER MAX_DIAMETER_FRACTION MIN_DIAMETER"),
        **_at("toy.scenes", "MIN_VISIBLE_FRACTION UPRIGHT"),
        **_at("toy.dataset", "CROWD_VAL_IMAGES EMPTY_EVERY FIRST_IMAGE_ID"),
    },
    "engine.batch_size": {"SHARE": "engine.batch_size.FRACTION"},
    "engine.console": _at("files.values", "SHOWN"),
    "engine.lengths": {"share_in_words": "engine.lengths.fraction_in_words"},
    "engine.loggers": {"FigureWriter": "engine.monitoring.loggers.MetricWriter"},
    "engine.optimizer": {"nominal_share": "engine.optimizer.nominal_fraction"},
    "engine.readout": {"StepFigures": "engine.readout.StepMetrics"},
    "engine.trainer": {
        **_at("engine.ignored_keys", "WITHOUT_EFFECT"),
        "describe_figures": "engine.monitoring.console.describe_metrics",
    },
    "evaluation.coco_evaluator": {"Found": "evaluation.coco_evaluator.ImagePredictions"},
    "evaluation.coco_figures": {
        "FIGURES_NAME": "evaluation.coco_metrics.METRICS_NAME",
        "about_figures": "evaluation.coco_metrics.about_metrics",
        "figures_name": "evaluation.coco_metrics.metrics_name",
        "read_figures": "evaluation.coco_metrics.read_kept_metrics",
        "write_figures": "evaluation.coco_metrics.write_metrics",
    },
    "evaluation.coco_metrics": {"COCOFigures": "evaluation.coco_metrics.COCOMetrics"},
    "evaluation.embedding": {"retrieval_figures": "evaluation.embedding.retrieval_metrics"},
    "evaluation.errors": {
        "FOUND_IOU": "report.matching.DETECTED_IOU",
        "Found": "report.matching.Predictions",
    },
    "evaluation.iou_types": {
        "describe_found_keypoints": "evaluation.iou_types.describe_predicted_keypoints",
        "describe_found_masks": "evaluation.iou_types.describe_predicted_masks",
    },
    "evaluation.report": {"figures_of": "report.collect.metrics_of"},
    "evaluation.report_page": {"row_shares": "report.page_plots.row_fractions"},
    "evaluation.report_shapes": {"task_figures": "report.shapes.task_metrics"},
    "export.graph": {"Suppression": "export.graph.NMS"},
    "export.onnx": {
        "opaque_suppression": "export.onnx.opaque_nms",
        "suppression_in_onnx": "export.onnx.nms_in_onnx",
    },
    "export.verify": {
        **_at("export.verify.cases", "Case ModelOutput padded run_model run_on_canvas"),
        **_at("export.verify.detections", "Candidate close_boxes compare_rows nearest_candidates"),
        **_at("export.verify.detections", "outputs_of_image"),
        **_at("export.verify.outputs", "compare_detections_of_batch compare_rows_of_batch"),
        **_at("export.verify.tasks", "TaskTensor compare_masks overlap_of_masks task_tensors"),
    },
    "labels": {"shares_hidden": "visualize.labels.fractions_hidden"},
    "layers.fuse": _at("layers.folding", "pads_with_zeros"),
    "layers.implicit": {
        **_at("layers.implicit_words", "SCOPES Scope positions_of_sizes register_scope"),
        **_at("layers.implicit_words", "split_levels widens"),
    },
    "model_zoo": {
        **_at("config_paths", "find_base zoo_path"),
        **_at("wording", "nearest"),
    },
    "networks.branches": {"Found": "networks.branches.DetectedBoxes"},
    "networks.branches.branch": {"Found": "networks.branches.branch.DetectedBoxes"},
    "networks.variants": _at("networks.variant", "Anchors deeper resize scale_width"),
    "ops.batch": {"suppress_batch": "ops.batch.nms_batch"},
    "ops.ota": {
        **_at("ops.ota_matching", "BLOCK EPS LEAST_LOG Matches PAIRS_IN_CACHE cheapest dynamic_k"),
        **_at("ops.ota_matching", "iou_of_sides pair_costs pairwise_iou spread_bits"),
        **_at("ops.ota_matching", "take_cheapest touching_blocks"),
    },
    "shapes": {"MASK_SHARE": "visualize.shapes.MASK_OPACITY"},
    "visualize": {
        **_at("visualize.batches", "draw_batches truth_shapes"),
        **_at("visualize.boxes", "PALETTE draw_outline line_widths"),
        **_at("visualize.curves", "plot_curves"),
        **_at("visualize.pictures", "beside enlarge tile_images to_rgb write_image"),
        **_at("visualize.results", "coco_boxes coco_shapes"),
        **_at("runs", "read_metrics"),
    },
}


class MovedLoader(InspectLoader):
    """Makes a module whose names are those of other modules."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        homes = new_names(module.__name__)
        warnings.warn(
            f"{module.__name__} is {' and '.join(homes)} now; the former name goes with 1.0",
            DeprecationWarning,
            stacklevel=2,
        )
        modules = [importlib.import_module(home) for home in homes]
        names = NAMES.get(_below_package(module.__name__), {})

        def look_up(name: str) -> Any:
            if name in names:
                return _value_of(names[name])
            for home in modules:
                if hasattr(home, name):
                    return getattr(home, name)
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        module.__doc__ = modules[0].__doc__
        module.__dict__["__getattr__"] = look_up
        if hasattr(modules[0], "__all__"):
            module.__dict__["__all__"] = modules[0].__all__

    def get_source(self, fullname: str) -> str:
        home = new_names(fullname)[0]
        run = f"runpy.run_module({home!r}, run_name='__main__')"
        return f"import runpy, sys; sys.argv[0] = {home!r}; {run}"

    def get_code(self, fullname: str) -> CodeType:
        """For `python -m FORMER_NAME`."""
        return compile(self.get_source(fullname), fullname, "exec")


class MovedFinder(MetaPathFinder):
    """Asked last, for modules that nobody else finds."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        former = _below_package(fullname)
        if former not in MOVED:
            return None
        is_package = any(name.startswith(f"{former}.") for name in MOVED)
        return spec_from_loader(fullname, MovedLoader(), is_package=is_package)


def new_names(former: str) -> list[str]:
    """Full names of the modules that hold what a module held."""
    return [f"{PACKAGE}.{home}" for home in MOVED[_below_package(former)]]


def _below_package(name: str) -> str:
    return name.removeprefix(f"{PACKAGE}.")


def _value_of(name: str) -> Any:
    """What a name of `NAMES` is now."""
    name, _, member = name.partition(":")
    home, _, name = name.rpartition(".")
    found = getattr(importlib.import_module(f"{PACKAGE}.{home}"), name)
    if not member:
        return found

    def function(cfg: Any, *args: Any, **options: Any) -> Any:
        value = getattr(found(cfg), member)
        return value(*args, **options) if callable(value) else value

    return function


def _know_former_names(module: ModuleType) -> None:
    """Let a module answer for the names that it had."""
    names = NAMES[_below_package(module.__name__)]
    own: Callable[[str], Any] | None = module.__dict__.get("__getattr__")

    def look_up(name: str) -> Any:
        if name in names:
            warnings.warn(
                f"{module.__name__}.{name} is {PACKAGE}.{names[name].replace(':', '(cfg).')} now; "
                "the former name goes with 1.0",
                DeprecationWarning,
                stacklevel=2,
            )
            return _value_of(names[name])
        if own is not None:
            return own(name)
        raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

    module.__dict__["__getattr__"] = look_up


def install() -> None:
    """Let the former names be imported."""
    if any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        return
    sys.meta_path.append(MovedFinder())
    for module in NAMES.keys() - MOVED.keys():
        wrapt.register_post_import_hook(_know_former_names, f"{PACKAGE}.{module}")
