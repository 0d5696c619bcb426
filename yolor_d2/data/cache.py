"""Caches of decoded and resized images, shared by all workers of a process.

A cache never changes a sample: what it returns is what `TrainingDataset` would have made again.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable
from multiprocessing import reduction
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

GIB = 1024**3


def image_bytes(sizes: np.ndarray, channels: int = 3) -> np.ndarray:
    """(N,) bytes of images with (N, 2) heights and widths: H * W * channels."""
    return sizes.astype(np.int64).prod(axis=1) * channels


def read_counters(path: str) -> dict[str, int]:
    """Lines "name value" or "name: value kB" of a system's file, in the units of the file."""
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return {line.split()[0].rstrip(":"): int(line.split()[1]) for line in lines}


def available_memory() -> int | None:
    """Bytes that can be used without swapping; None where the system does not say."""
    try:
        free = read_counters("/proc/meminfo")["MemAvailable"] * 1024
    except OSError:  # not Linux
        return None
    cgroup = Path("/sys/fs/cgroup")
    try:  # the limit of a container; what the system may drop, files once read, is not in use
        limit = int((cgroup / "memory.max").read_text(encoding="ascii"))
        used = int((cgroup / "memory.current").read_text(encoding="ascii"))
        used -= read_counters(str(cgroup / "memory.stat"))["inactive_file"]
    except (OSError, ValueError):  # no container, or its limit is "max"
        return free
    return min(free, limit - used)


class MemoryCache:
    """Images in memory that the workers of a process share; whoever reads an image stores it.

    Args:
        sizes: (N, 2) heights and widths of the images in pixels.
        copies: processes on this machine that have a cache each.
        channels: of the images.

    Raises:
        ValueError: when the images do not fit into the memory that is available.
    """

    def __init__(self, sizes: np.ndarray, *, copies: int = 1, channels: int = 3):
        self.channels = channels
        needed, available = int(image_bytes(sizes, channels).sum()), available_memory()
        logger.info(
            "INPUT.CACHE 'ram': %d images take %.2f GiB, in each of %d processes; %s",
            len(sizes),
            needed / GIB,
            copies,
            "available: " + ("unknown" if available is None else f"{available / GIB:.2f} GiB"),
        )
        if available is not None and needed * copies > available:
            raise ValueError(
                f"INPUT.CACHE is 'ram', but {len(sizes)} images take {needed * copies / GIB:.2f} "
                f"GiB and {available / GIB:.2f} GiB are available: use 'disk' or 'none'"
            )
        self.sizes = sizes
        if hasattr(os, "memfd_create"):  # Linux: memory that no small /dev/shm limits
            self.file = os.memfd_create("yolor_d2_cache")
        else:
            with tempfile.TemporaryFile() as file:
                self.file = os.dup(file.fileno())
        os.ftruncate(self.file, len(sizes) + needed)
        self._map()

    def _map(self) -> None:
        """One byte for each image that says whether it is there, then the images."""
        self.memory = np.frombuffer(mmap.mmap(self.file, 0), dtype=np.uint8)
        self.filled = self.memory[: len(self.sizes)]
        self.starts = len(self.sizes) + np.cumsum([0, *image_bytes(self.sizes, self.channels)])

    def _slot(self, index: int) -> np.ndarray:
        start, end = self.starts[index : index + 2]
        return self.memory[start:end].reshape(*self.sizes[index], self.channels)

    def get(self, index: int) -> np.ndarray | None:
        """(H, W, 3) uint8, not to be written to; None if it is not there yet."""
        if not self.filled[index]:
            return None
        image = self._slot(index)
        image.flags.writeable = False
        return image

    def put(self, index: int, image: np.ndarray) -> None:
        """Store an image of the announced size."""
        self._slot(index)[:] = image
        self.filled[index] = 1  # after the pixels, so that no other worker takes half an image

    def __getstate__(self) -> dict:
        # For worker processes that are not forked: they map the same memory.
        file = reduction.DupFd(self.file)
        return {"sizes": self.sizes, "channels": self.channels, "file": file}

    def __setstate__(self, state: dict) -> None:
        self.sizes, self.channels = state["sizes"], state["channels"]
        self.file = state["file"].detach()
        self._map()

    def __del__(self):
        if hasattr(self, "file"):
            os.close(self.file)


class DiskCache:
    """Images as .npy files, for the processes of all runs that use the folder.

    The name of a file stands for path, time of change and length of the image's file, for the size
    that its annotations name and for that in the cache: an entry that is out of date is never found
    again. Delete the folder to be rid of it.

    Args:
        file_name: path of the image of an index.
        original_sizes: (N, 2) heights and widths of the images in pixels.
        sizes: (N, 2) heights and widths in the cache.
        folder: made if it does not exist.
        channels: of the images.
    """

    def __init__(
        self,
        file_name: Callable[[int], str],
        original_sizes: np.ndarray,
        sizes: np.ndarray,
        folder: Path,
        channels: int = 3,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.channels = channels
        needed, available = int(image_bytes(sizes, channels).sum()), shutil.disk_usage(folder).free
        logger.info(
            "INPUT.CACHE 'disk': %d images take %.2f GiB in %s; available: %.2f GiB",
            len(sizes),
            needed / GIB,
            folder,
            available / GIB,
        )
        if needed > available:
            logger.warning("%s has no place for all images, unless they are there already", folder)
        self.file_name = file_name
        self.original_sizes = original_sizes
        self.sizes = sizes
        self.folder = folder

    def path(self, index: int) -> Path:
        """Where the image is stored."""
        file = os.path.abspath(self.file_name(index))
        status = os.stat(file)
        identity = (
            file,
            status.st_mtime_ns,
            status.st_size,
            *self.original_sizes[index].tolist(),
            *self.sizes[index].tolist(),
        )
        name = hashlib.sha256(repr(identity).encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.npy"

    def get(self, index: int) -> np.ndarray | None:
        """(H, W, 3) uint8; None if it is not there, or damaged."""
        try:
            image = np.load(self.path(index), allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):
            return None
        valid = image.dtype == np.uint8 and image.shape == (*self.sizes[index], self.channels)
        return image if valid else None

    def put(self, index: int, image: np.ndarray) -> None:
        """Write under another name, then rename: whoever reads finds all of it or nothing.

        Raises:
            OSError: when the disk is full or the folder cannot be written to.
        """
        path = self.path(index)
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            try:
                np.save(file, image)
            except BaseException:
                os.unlink(file.name)
                raise
        os.replace(file.name, path)
