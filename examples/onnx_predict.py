"""Detect objects with an exported file, on numpy, OpenCV and onnxruntime alone.

    python onnx_predict.py model.onnx photo.jpg [more.jpg ...]

Prints one line a detection: image, class, score, x1 y1 x2 y2 in pixels of the image.
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def resize_axis(image, size):
    """Axis 0 to a size, as Pillow's bilinear filter: a triangle as wide as the reduction."""
    old, scale = len(image), max(len(image) / size, 1.0)
    weights = np.zeros((size, old))
    for i in range(size):
        centre = (i + 0.5) * old / size
        first, last = max(int(centre - scale + 0.5), 0), min(int(centre + scale + 0.5), old)
        w = np.maximum(1 - np.abs((np.arange(first, last) + 0.5 - centre) / scale), 0)
        weights[i, first:last] = np.floor(w / w.sum() * 2**22 + 0.5)  # its fixed point
    flat = weights @ image.reshape(old, -1) + 2**21
    return np.clip(np.floor(flat / 2**22), 0, 255).reshape(size, *image.shape[1:])


def prepare(image, spec):
    """(H, W, 3) BGR to (1, 3, H, W) as the file wants it, and the image's place and size there."""
    image = image[:, :, ::-1].copy() if spec["channel_order"] == "RGB" else image
    sides, rule, pad = np.array(image.shape[:2]), spec["resize"], spec["pad"]
    scale = min(rule["shorter_side"] / sides.min(), rule["longer_side"] / sides.max())
    h, w = np.maximum((sides * scale + rule["rounding"]).astype(int), 1).tolist()
    if rule["filter"].startswith("OpenCV"):
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else 1)
    else:
        image = np.asarray(image, np.float64)
        image = resize_axis(resize_axis(image.transpose(1, 0, 2), w).transpose(1, 0, 2), h)
    size, step = np.array([h, w]), pad["multiple_of"]
    canvas = np.maximum(np.ceil(size / step + pad["margin"]).astype(int) * step, pad["at_least"])
    first = ((canvas - size) * pad["before"]).astype(int)
    border = [*np.stack([first, canvas - size - first], axis=1), (0, 0)]
    image = np.pad(image, border, constant_values=pad["value"])
    return image.transpose(2, 0, 1)[None].astype(np.float32), first[::-1], size[::-1]


def main(model, *paths):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["yolor_d2"])
    for path in paths:
        if (image := cv2.imread(path)) is None:
            sys.exit(f"{path} is no image")
        pixels, place, size = prepare(image, about["input"])
        boxes, scores, labels, counts = session.run(None, {"images": pixels})
        boxes = np.clip(boxes[0] - np.tile(place, 2), 0, np.tile(size, 2))
        boxes *= np.tile(image.shape[1::-1] / size, 2)
        for box, score, label in list(zip(boxes, scores[0], labels[0]))[: counts[0]]:
            if (box[2:] > box[:2]).all():  # not outside the image
                print(path, about["classes"][label], f"{score:.4f}", *(f"{x:.1f}" for x in box))


if __name__ == "__main__":
    main(*sys.argv[1:])
