"""A generated detection data set in the COCO format, to try the project without a download.

Four classes differ in shape and texture: ring, triangle, cross and striped box. Each has a range of
hues in which its first colour lies, which helps to tell them apart; but plain discs and boxes of
any colour, and lines, stand in the background without a label, so that shape has to be seen.
Rotation, aspect ratio and size are random; objects cover each other and are cut by the image
border; brightness, contrast, blur and noise vary.

Ground truth, as in COCO, describes what can be seen: the mask of an object is its pixels inside the
image that nothing drawn later covers. The box ``[x, y, w, h]`` is tight to it, in pixels with
``w = x_max + 1 - x_min``, the area is its number of pixels, and polygons run along its border.
Every object that is drawn is
annotated: a place is refused if it leaves any object less than half visible. Category ids have
gaps, so that a mapping of ids is needed.

Pictures are JPEG files of quality 95, which keeps the folder small.

    python -m yolor_d2.toy datasets/toy --train 400 --val 100 --seed 0

With ``--keypoints`` triangles and crosses have three keypoints: their tip, which wears the second
colour, and their left and right end, seen from the middle towards the tip; and they stand upright,
as most people do, turned by UPRIGHT to either side at most. Rings and boxes have none.

With ``--identities I`` objects are no longer of any colour: there are I individuals, each of one
class with two colours and a pattern of its own, who are seen again and again in both splits. Each
annotation then names its individual, 0 to I - 1, under "instance_id".
"""

from .command import main
from .dataset import OBJECTS, VERSION, ToyDataset, write_toy_dataset
from .masks import encode_rle, tight_box, trace
from .scenes import MIN_VISIBLE_SIDE, Scene, SceneObject, add_object, make_individuals, make_scene
from .shapes import (
    CATEGORIES,
    KEYPOINT_NAMES,
    KEYPOINTS,
    SKELETON,
    Category,
    Individual,
    Stamp,
    pose_points,
    render_stamp,
    with_tip,
)

__all__ = [
    "CATEGORIES",
    "KEYPOINTS",
    "KEYPOINT_NAMES",
    "MIN_VISIBLE_SIDE",
    "OBJECTS",
    "SKELETON",
    "VERSION",
    "Category",
    "Individual",
    "Scene",
    "SceneObject",
    "Stamp",
    "ToyDataset",
    "add_object",
    "encode_rle",
    "main",
    "make_individuals",
    "make_scene",
    "pose_points",
    "render_stamp",
    "tight_box",
    "trace",
    "with_tip",
    "write_toy_dataset",
]
