"""What stands behind an error."""

from __future__ import annotations


def os_error_behind(error: BaseException) -> OSError | None:
    """The error itself or what it came from; torch.save ends a failed write with its own error."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__context__
    return found
