"""Identities over the frames of a video, by ByteTrack of the package `trackers`."""

from __future__ import annotations

import base64
import importlib
import io
import pickle
from typing import Any

import numpy as np

# Detections below the threshold that still help to follow an object, as ByteTrack's paper has it.
LOW_SCORE = 0.1
# Functions and classes of numpy that a pickled array needs.
ARRAYS = {"_reconstruct", "_frombuffer", "scalar", "ndarray", "dtype"}
NUMPY_MODULES = {"numpy", "numpy._core.multiarray", "numpy._core.numeric", "numpy.core.multiarray"}
TRACKER_MODULES = ("trackers.core.", "trackers.utils.")


class StateUnpickler(pickle.Unpickler):
    """Knows arrays and the classes of the tracker, and nothing that could do harm."""

    def find_class(self, module: str, name: str) -> Any:
        if module in NUMPY_MODULES and name in ARRAYS:
            return getattr(importlib.import_module(module), name)
        if module.startswith(TRACKER_MODULES) and "." not in name:
            tracker = getattr(importlib.import_module(module), name)
            if isinstance(tracker, type):
                return tracker
        raise ValueError(f"the state of a tracker has {module}.{name}")


class Tracker:
    """Gives the detections of one video identities, counted from 1.

    Args:
        threshold: least score of what is reported; such a detection may begin a new object.
        rate: frames per second that are looked at.
        state: what `state` gave, to go on.
    """

    def __init__(self, threshold: float, rate: float, state: str | None = None):
        from trackers import ByteTrackTracker

        if state is None:
            self.tracker = ByteTrackTracker(
                frame_rate=rate,
                track_activation_threshold=threshold,
                high_conf_det_threshold=threshold,
            )
        else:
            self.tracker = StateUnpickler(io.BytesIO(base64.b64decode(state))).load()

    def update(self, boxes: np.ndarray, scores: np.ndarray, seconds: float) -> list[int | None]:
        """Identities of the detections of the next frame.

        Args:
            boxes: (M, 4) xyxy.
            scores: (M,); low ones help to follow.
            seconds: when the frame is shown; greater than that of the frame before.

        Returns:
            M; None for a first appearance, or without an object.
        """
        import supervision

        places = np.arange(len(boxes))
        detections = supervision.Detections(
            xyxy=np.asarray(boxes, np.float64).reshape(-1, 4),
            confidence=np.asarray(scores, np.float64),
            data={"place": places},
        )
        tracked = self.tracker.update(detections, timestamp=seconds)
        identities: list[int | None] = [None] * len(boxes)
        if len(tracked):
            for place, identity in zip(tracked.data["place"].tolist(), tracked.tracker_id.tolist()):
                identities[place] = identity + 1 if identity >= 0 else None
        return identities

    def state(self) -> str:
        """All that the next identities depend on, as text."""
        return base64.b64encode(pickle.dumps(self.tracker)).decode()
