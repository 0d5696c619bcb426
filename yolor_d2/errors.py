"""What stands behind an error."""

from __future__ import annotations


def os_error_behind(error: BaseException) -> OSError | None:
    """The error itself or what it came from; torch.save ends a failed write with its own error."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause
