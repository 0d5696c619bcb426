"""Data sets by name: what loads them, and what is known about them."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from typing import Any


class _Catalog(UserDict):
    def list(self) -> list[str]:
        return [*self]

    def remove(self, name: str) -> None:
        del self[name]


class _DatasetCatalog(_Catalog):
    """Names of data sets with the functions that load them."""

    def register(self, name: str, func: Callable[[], list[dict]]) -> None:
        if name in self:
            raise AssertionError(f"data set {name!r} is already registered")
        self[name] = func

    def get(self, name: str) -> list[dict]:
        """Load a data set: dicts in Detectron2's standard format.

        Raises:
            KeyError: when the name is unknown.
        """
        if name not in self:
            raise KeyError(f"data set {name!r} is not registered, known are: {', '.join(self)}")
        return self[name]()


class Metadata:
    """What is known about a data set; a value that was set once cannot become another.

    Args:
        name: of the data set.
    """

    def __init__(self, name: str):
        self.name = name

    def __setattr__(self, key: str, value: Any) -> None:
        if self.__dict__.setdefault(key, value) != value:
            raise AssertionError(
                f"{key!r} of data set {self.name!r} is {self.__dict__[key]!r} and cannot become "
                f"{value!r}"
            )

    def __getattr__(self, key: str) -> Any:
        raise AttributeError(f"data set {self.__dict__.get('name')!r} has no metadata {key!r}")

    def set(self, **values: Any) -> Metadata:
        for key, value in values.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        return self.__dict__.get(key, default)

    def as_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


class _MetadataCatalog(_Catalog):
    """Metadata by the name of the data set."""

    def get(self, name: str) -> Metadata:
        """The metadata of a data set, which are empty at first."""
        return self.data.setdefault(name, Metadata(name))


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
