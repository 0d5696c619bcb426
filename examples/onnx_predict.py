"""Detect objects with an exported file, on numpy, OpenCV and onnxruntime alone.

Prints one line a detection: image, class, score, x1 y1 x2 y2 in pixels of the image.
    python onnx_predict.py model.onnx photo.jpg [more.jpg ...]
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def resize_axis(image, size):
    """Axis 0 to a size, as Pillow's bilinear filter: a triangle as wide as the reduction."""
    old, scale, weights = len(image), max(len(image) / size, 1.0), np.zeros((size, len(image)))
    for i, centre in enumerate((np.arange(size) + 0.5) * old / size):
        first, last = max(int(centre - scale + 0.5), 0), min(int(centre + scale + 0.5), old)
        w = np.maximum(1 - np.abs((np.arange(first, last) + 0.5 - centre) / scale), 0)
        weights[i, first:last] = np.floor(w / w.sum() * 2**22 + 0.5)  # its fixed point
    flat = weights @ image.reshape(old, -1) + 2**21
    return np.clip(np.floor(flat / 2**22), 0, 255).reshape(size, *image.shape[1:])


def prepare(image, spec):
    """(H, W, 3) BGR to (1, 3, H, W) as the file wants it; and its place and size there."""
    rule, pad, step = spec["resize"], spec["pad"], spec["pad"]["multiple_of"]
    sides = np.array(image.shape[:2])
    if "within" in rule:  # the file takes one size of canvas alone
        scale = min(rule["within"] / sides)
    else:
        scale = min(rule["shorter_side"] / sides.min(), rule["longer_side"] / sides.max())
    h, w = size = np.maximum(np.int64(sides * scale + rule["rounding"]), 1)
    if rule["filter"].startswith("OpenCV"):
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else 1)
    else:
        image = resize_axis(resize_axis(np.float64(image).swapaxes(0, 1), w).swapaxes(0, 1), h)
    canvas = np.maximum(np.ceil(size / step + pad["margin"]) * step, pad["at_least"])
    edge = pad.get("canvas", canvas) - size
    first = np.floor(edge * pad["before"])
    edges = np.int64([[*first, 0], [*edge - first, 0]]).T  # before and behind, by axis
    image = np.pad(image, edges, constant_values=pad["value"])
    image = image[:, :, ::-1] if spec["channel_order"] == "RGB" else image
    return np.float32(image.transpose(2, 0, 1)[None]), first[::-1], size[::-1]


def main(model, *paths):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["yolor_d2"])
    for path in paths:
        if (image := cv2.imread(path)) is None:
            sys.exit(f"{path} is no image")
        pixels, place, size = prepare(image, about["input"])
        boxes, scores, labels, counts = session.run(None, {"images": pixels})
        boxes = np.clip(boxes[0].reshape(-1, 2, 2) - place, 0, size) * image.shape[1::-1] / size
        for box, score, label in list(zip(boxes, scores[0], labels[0]))[: counts[0]]:
            if (box[1] > box[0]).all():  # not outside the image
                print(path, about["classes"][label], f"{score:.4f}", *np.round(box.flat, 1))


if __name__ == "__main__":
    main(*sys.argv[1:])
