"""Detection in three lines: a trained model from a folder, and results that show themselves.

from yolor_d2 import load

model = load("output/mine")
model("photo.jpg").save("found.jpg")
"""

from .loading import find_run_files, load
from .model import THRESHOLD, Model, Source, images_in, tensor_pixels
from .results import Detection, Result

__all__ = [
    "THRESHOLD",
    "Detection",
    "Model",
    "Result",
    "Source",
    "find_run_files",
    "images_in",
    "load",
    "tensor_pixels",
]
