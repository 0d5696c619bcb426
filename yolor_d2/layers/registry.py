"""Kinds of parts by name, to which a user's module may add (docs/extending.md).

Detectron2's registries are those of fvcore; the core needs torch alone, so it has this one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Item = TypeVar("Item")

NONE = "none"


class Registry(dict[str, T]):
    """Things of one kind by name.

    Args:
        kind: what they are, for messages.
        key: of the configuration that names them, for messages.
        apart_from: registries whose names stand in the same line of words, and so must differ.
        may_be_none: the configuration may also say "none"; who looks a name up deals with it first.
    """

    def __init__(
        self,
        kind: str,
        key: str,
        *,
        apart_from: tuple[Registry[Any], ...] = (),
        may_be_none: bool = False,
    ):
        super().__init__()
        self.kind = kind
        self.key = key
        self.may_be_none = may_be_none
        self.apart_from = apart_from

    def register(self, name: str) -> Callable[[Item], Item]:
        """Decorator that adds a class or function under a name; see `add`."""

        def keep(item: Item) -> Item:
            self.add(name, item)  # type: ignore[arg-type]
            return item

        return keep

    def add(self, name: str, item: T) -> None:
        """Add something under a name. What the same lines of code define again, as a cell of a
        notebook does, replaces itself.

        Raises:
            ValueError: when the name is taken, or is not one word.
        """
        if len(name.split()) != 1 or "," in name or name == NONE:
            raise ValueError(
                f"{self.kind} {name!r}: a name is one word without commas, and not {NONE!r}"
            )
        for registry in (self, *self.apart_from):
            if name in registry and origin(registry[name]) != origin(item):
                raise ValueError(f"{name!r} is already the name of {registry.kind}")
        self[name] = item

    def lookup(self, name: str) -> T:
        """The thing of that name.

        Raises:
            ValueError: when there is none; the message lists those that exist.
        """
        if name not in self:
            known = [NONE] * self.may_be_none + sorted(self)
            raise ValueError(
                f"{self.kind} ({self.key}) is {name!r}, expected one of {known}; {OWN_PART}"
            )
        return self[name]


# What a message on an unknown name ends with.
OWN_PART = "one of your own needs --import MODULE (docs/extending.md)"


def origin(item: object) -> tuple[str, str]:
    """Where something was defined: equal for two results of the same lines of code."""
    definition = item if hasattr(item, "__qualname__") else type(item)
    return definition.__module__, getattr(definition, "__qualname__", "")
