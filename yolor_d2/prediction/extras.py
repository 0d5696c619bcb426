"""Packages that not everybody needs, asked for before the work begins."""

from __future__ import annotations

import importlib.util

INSTALL_VIDEO = "pip install 'yolor_d2[video]'"
# Its declared dependencies would put OpenCV with windows in the place of the one without, which
# then needs libraries that servers lack; it runs with either.
INSTALL_TRACK = "pip install 'yolor_d2[track]' && pip install --no-deps trackers"


def has_pyav() -> bool:
    return importlib.util.find_spec("av") is not None


def require_pyav(what: str) -> None:
    """Raise a ValueError where PyAV is missing."""
    if not has_pyav():
        raise ValueError(f"{what} needs PyAV: {INSTALL_VIDEO}")


def require_trackers() -> None:
    """Raise a ValueError where a package of the tracker is missing."""
    for name in ("trackers", "supervision", "scipy"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"--track needs the package {name}: {INSTALL_TRACK}")
