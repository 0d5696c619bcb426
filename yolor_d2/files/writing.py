"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ..errors import os_error_behind

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def atomic_write(path: Path, *, shared: bool = False) -> Iterator[IO[bytes]]:
    """A file that appears under its name when everything is on the disk, and not before.

    Until then the data are in a temporary file of the same folder; whatever had the name before
    stays as it is if writing fails. Of a link the file that it leads to is written. A device, such
    as /dev/stdout, is written at once.

    Args:
        path: of the file.
        shared: other processes may write the same file at the same time.

    Raises:
        OSError: when writing fails, naming the file.
    """
    path = Path(os.path.realpath(path))
    own = f".{uuid.uuid4().hex}" if shared else ""
    device = path.exists() and not path.is_file() and not path.is_dir()
    temporary = path if device else path.with_name(f"{path.name}{own}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            if not device:
                os.fsync(file.fileno())
        if not device:
            os.replace(temporary, path)
            sync_folder(path.parent)
    except BaseException as error:
        if not device:
            temporary.unlink(missing_ok=True)
        reason = os_error_behind(error)
        if reason is None:
            raise
        raise OSError(
            reason.errno,
            f"cannot write {str(path)!r} ({reason.strerror}); earlier files are intact",
        ) from error


def require_writable(path: Path) -> None:
    """Make the folder of a file that is written later, and see that it can be.

    Raises:
        OSError: when it cannot, naming the file, so that nothing is computed in vain.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, expected a file to write", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, "cannot be written", str(path))


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, without which a new name may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
