"""Detect objects with an exported file, with only numpy, OpenCV and onnxruntime.

Prints one line per detection: image, class, score, x1 y1 x2 y2 in pixels of the image.
    python onnx_predict.py model.onnx photo.jpg [more.jpg ...] [--json found.json] [--draw folder]

The JSON file has the detections, with masks and keypoints if the model has them: "bbox" is x, y,
width, height; "segmentation" COCO's uncompressed RLE; "keypoints" x, y, score of each point.
The folder gets a PNG of each image with all detections drawn.
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime


def resize_axis(image, size):
    """Resize axis 0 like Pillow's bilinear filter: a triangle as wide as the reduction."""
    old, scale, weights = len(image), max(len(image) / size, 1.0), np.zeros((size, len(image)))
    for i, centre in enumerate((np.arange(size) + 0.5) * old / size):
        first, last = max(int(centre - scale + 0.5), 0), min(int(centre + scale + 0.5), old)
        w = np.maximum(1 - np.abs((np.arange(first, last) + 0.5 - centre) / scale), 0)
        weights[i, first:last] = np.floor(w / w.sum() * 2**22 + 0.5)  # Pillow's fixed point
    flat = weights @ image.reshape(old, -1) + 2**21
    return np.clip(np.floor(flat / 2**22), 0, 255).reshape(size, *image.shape[1:])


def prepare(image, spec):
    """(H, W, 3) BGR to the input (1, 3, H, W) of the model; and its place and size there."""
    rule, pad, step = spec["resize"], spec["pad"], spec["pad"]["multiple_of"]
    sides = np.array(image.shape[:2])
    if "within" in rule:  # the model has a fixed canvas size
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
    edges = np.int64([[*first, 0], [*edge - first, 0]]).T  # before and after, by axis
    image = np.pad(image, edges, constant_values=pad["value"])
    image = image[:, :, ::-1] if spec["channel_order"] == "RGB" else image
    return np.float32(image.transpose(2, 0, 1)[None]), first[::-1], size[::-1]


def between(values, places):
    """Values of (h, w) at places along axis 0, interpolated linearly between cell centres."""
    places = np.clip(places - 0.5, 0, len(values) - 1)
    before = np.minimum(np.int64(places), max(len(values) - 2, 0))
    fraction = (places - before)[:, None]
    after = np.minimum(before + 1, len(values) - 1)
    return values[before] * (1 - fraction) + values[after] * fraction


def draw_mask(box, factors, prototypes, places):
    """(H, W) bool: where in its box the mixed prototypes exceed 0.

    The box is (2, 2) in pixels of the image; `places` are the positions of its columns and rows
    in pixels of the prototypes.
    """
    mask = np.zeros([len(x) for x in places[::-1]], bool)
    # Pixels whose centres lie in the box.
    (x, y), (x2, y2) = np.int64(np.clip(np.ceil(box - 0.5), 0, mask.shape[::-1]))
    if x2 > x and y2 > y:
        logits = np.tensordot(factors, prototypes, axes=1)
        values = between(between(logits, places[1][y:y2]).T, places[0][x:x2]).T
        mask[y:y2, x:x2] = values > 0
    return mask


def run_lengths(mask):
    """COCO's RLE: column by column, lengths of runs outside, inside, outside and so on."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff([0, *changes, mask.size]).tolist()
    return {"size": list(mask.shape), "counts": counts if counts[-1] else counts[:-1]}


def draw(image, records, masks, lines):
    """A copy of the image with its detections drawn."""
    image = image.copy()
    for number, record in enumerate(records):
        hue = np.uint8([[[number * 67 % 180, 200, 255]]])  # far from the previous one
        colour = [int(x) for x in cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0]]
        if masks:
            image[masks[number]] = image[masks[number]] * 0.5 + np.float64(colour) * 0.5
        x, y, w, h = np.int64(np.round(record["bbox"])).tolist()
        cv2.rectangle(image, (x, y), (x + w, y + h), colour, 1)
        label = f"{record['class']} {record['score']:.2f}"
        cv2.putText(image, label, (x, max(y - 3, 9)), cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour, 1)
        points = [(int(x), int(y)) for x, y, score in record.get("keypoints", ()) if score > 0.5]
        whole = len(points) == len(record.get("keypoints", ()))
        for a, b in lines if whole else ():
            cv2.line(image, points[a], points[b], colour, 1)
        for point in points:
            cv2.circle(image, point, 2, colour, -1)
    return image


def detect(session, about, image):
    """Detections of an image (H, W, 3) BGR as records; and masks (H, W), if the model has them."""
    pixels, place, size = prepare(image, about["input"])
    outputs = dict(zip(about["outputs"], session.run(None, {"images": pixels})))
    scale, tasks = image.shape[1::-1] / size, about.get("tasks", {})
    boxes = np.clip(outputs["boxes"][0].reshape(-1, 2, 2) - place, 0, size) * scale
    if "masks" in tasks:
        centres = [np.arange(side) + 0.5 for side in image.shape[1::-1]]
        stride = tasks["masks"]["stride"]
        places = [(x / s + p) / stride for x, s, p in zip(centres, scale, place)]
    records, masks = [], []
    for i in range(outputs["counts"][0]):
        if not (boxes[i][1] > boxes[i][0]).all():  # outside the image
            continue
        record = {
            "class": about["classes"][outputs["labels"][0, i]],
            "score": float(outputs["scores"][0, i]),
            "bbox": [*boxes[i][0].tolist(), *(boxes[i][1] - boxes[i][0]).tolist()],
        }
        if "masks" in tasks:
            factors = outputs["mask_coefficients"][0, i]
            masks.append(draw_mask(boxes[i], factors, outputs["mask_prototypes"][0], places))
            record["segmentation"] = run_lengths(masks[-1])
        if "keypoints" in tasks:
            points = (outputs["keypoints"][0, i] - place) * scale
            scores = outputs["keypoint_scores"][0, i, :, None]
            known = tasks["keypoints"].get("classes")  # classes with keypoints
            scores = scores * (not known or int(outputs["labels"][0, i]) in known)
            record["keypoints"] = np.concatenate([points, scores], axis=1).tolist()
        records.append(record)
    return records, masks


def main(model, *paths, json_file=None, folder=None):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["yolor_d2"])
    points = about.get("tasks", {}).get("keypoints", {"names": [], "skeleton": []})
    lines = [[points["names"].index(x) for x in line] for line in points["skeleton"]]
    everything = []
    for path in paths:
        if (image := cv2.imread(path)) is None:
            sys.exit(f"{path} is not an image")
        records, masks = detect(session, about, image)
        for record in records:
            x, y, w, h = record["bbox"]
            corners = np.round([x, y, x + w, y + h], 1)
            print(path, record["class"], f"{record['score']:.4f}", *corners)
        everything.append({"image": path, "detections": records})
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            drawn = draw(image, records, masks, lines)
            cv2.imwrite(str(Path(folder, f"{Path(path).stem}.png")), drawn)
    if json_file:
        Path(json_file).write_text(json.dumps(everything), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--json", help="file for all detections")
    parser.add_argument("--draw", help="folder for images with detections drawn")
    args = parser.parse_args()
    main(args.model, *args.images, json_file=args.json, folder=args.draw)
