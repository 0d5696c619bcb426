"""Files of torch.export (.pt2), which torch loads, compiles or lowers without this package."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import torch

from ..modeling import YOLOR
from .graph import (
    ExportedDetector,
    FileOptions,
    LoadedFile,
    dynamic_shapes,
    example_input,
    on_arrays,
    survivors,
)

SUFFIX = ".pt2"
# Least side of an image in cells of the greatest stride.
LEAST_CELLS = 2  # torch.export tells one cell and several apart
METADATA_FILE = "yolor_d2.json"


def serialise(model: YOLOR, *, options: FileOptions, metadata: dict) -> dict[str, bytes]:
    """The file's content by its suffix; arguments as in `export_model`."""
    import torchvision  # noqa: F401  calls operators, which must not become part of the file

    detector = ExportedDetector(
        model, nms=survivors if options.suppress else None, half=options.half
    ).eval()
    with warnings.catch_warnings(), torch.no_grad():
        # Parts of torch and torchvision tell each other what is deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.export.export(
            detector,
            (example_input(model, options.canvas),),
            dynamic_shapes=dynamic_shapes(model, LEAST_CELLS, options.canvas),
        )
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(metadata)})
    return {SUFFIX: buffer.getvalue()}


def load(path: str | Path) -> LoadedFile:
    """Read a file."""
    import torchvision  # noqa: F401  registers the operator of NMS

    extra = {METADATA_FILE: ""}
    # By its content: torch warns about names that end otherwise, such as that of a file that is
    # still being written.
    with warnings.catch_warnings():
        # Some versions of torch find that their own reader's buffers cannot be written to.
        warnings.simplefilter("ignore", UserWarning)
        program = torch.export.load(io.BytesIO(Path(path).read_bytes()), extra_files=extra)
    return LoadedFile(on_arrays(program.module()), json.loads(extra[METADATA_FILE]))


def versions() -> dict[str, str]:
    """Of packages that take part beside torch: none."""
    return {}
