"""Former names of modules and classes, which work with a DeprecationWarning until version 1.0.

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

PACKAGE = __name__.rpartition(".")[0]
# Former names and where their content is now, the main part first; all below the package.
MOVED: dict[str, tuple[str, ...]] = {
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

        def look_up(name: str) -> Any:
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
        former = fullname.removeprefix(f"{PACKAGE}.")
        if former not in MOVED:
            return None
        is_package = any(name.startswith(f"{former}.") for name in MOVED)
        return spec_from_loader(fullname, MovedLoader(), is_package=is_package)


def new_names(former: str) -> list[str]:
    """Full names of the modules that hold what a module held."""
    return [f"{PACKAGE}.{home}" for home in MOVED[former.removeprefix(f"{PACKAGE}.")]]


def former_names(module: str, **names: str) -> Callable[[str], Any]:
    """A module-level `__getattr__` that knows names which the module no longer uses.

    Args:
        module: `__name__` of the module.
        names: the present name by the former one.
    """

    def look_up(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(
            f"{module}.{name} is {names[name]} now; the former name goes with 1.0",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[module], names[name])

    return look_up


def install() -> None:
    """Let the former names be imported."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
