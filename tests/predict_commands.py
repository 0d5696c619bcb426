"""`yolor-d2 predict` with a stub in processes of their own, and videos and images for it."""

import json
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

STUB = Path(__file__).with_name("prediction") / "stub_predict.py"
ROOT = Path(__file__).parents[1]
SIGNALS = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": -9}


class Commands:
    """Runs `yolor-d2 predict` with the stub."""

    def __init__(self, cwd: Path):
        self.process = subprocess.Popen(
            [sys.executable, str(STUB)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "TQDM_DISABLE": "1",
            },
        )

    def __call__(self, *arguments, **order) -> tuple[int, str]:
        """Exit status, negative after a signal, and what it printed."""
        line = json.dumps({"arguments": list(map(str, arguments)), **order})
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        done = json.loads(self.process.stdout.readline())
        return done["code"], done["text"]


def write_video(path: Path, frames: int, *, times: list[int] | None = None, size=(64, 48)) -> Path:
    """A video whose frames differ; times are in 1/12800 s."""
    import av

    with av.open(path, "w") as video:
        options = {"preset": "ultrafast", "crf": "18"}
        stream = video.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 12800)
        for i in range(frames):
            pixels = np.full((size[1], size[0], 3), (i * 7 % 256, i // 256 % 256, 128), np.uint8)
            pixels[i % 40 : i % 40 + 6, 10:20] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = times[i] if times else i * 512
            frame.time_base = Fraction(1, 12800)
            video.mux(stream.encode(frame))
        video.mux(stream.encode())
    return path


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:03d}.png"), np.full((40, 60, 3), i * 5 % 256, np.uint8))
    return folder
