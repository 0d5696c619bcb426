"""How values get into the configuration: from files with bases, and from KEY VALUE pairs.

Detectron2's node takes the type of a default literally, so `SOLVER.CLIP_NORM 10` is refused where
10.0 is not, and looks for a base beside the file alone. This one is Detectron2's in all else.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import yaml

from ..config_paths import find_base
from ..d2.config import CfgNode

BASE = "_BASE_"
# Keys of whole numbers that also take a word.
WORDS = {"SOLVER.IMS_PER_BATCH": "auto"}
# What a value of the type of a default is called.
EXPECTED = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
}


class ProjectNode(CfgNode):
    """A configuration whose bases may be names of the model zoo, and whose numbers may be whole."""

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> None:
        """Take the values of another node.

        Raises:
            ValueError: when one has the wrong type; it names the key and what was expected.
            KeyError: when a key is unknown.
        """
        for key in WORDS:
            self._make_room(key, self._value_in(cfg_other, key))
        super().merge_from_other_cfg(CfgNode(self._fit_all(cfg_other, self)))

    def merge_from_list(self, cfg_list: list) -> None:
        """Take KEY VALUE pairs; errors as in `merge_from_other_cfg`."""
        for i in range(0, len(cfg_list), 2):
            pair = list(cfg_list[i : i + 2])  # the last may lack its value, which is an error
            if len(pair) == 2:
                self._make_room(*pair)
                default = self._value_in(self, pair[0])
                if default is not None:
                    pair[1] = self._fit(*pair, default)
            super().merge_from_list(pair)

    def _make_room(self, key: Any, given: Any) -> None:
        """Let the type of a key of `WORDS` follow the value that it is about to get, if any."""
        word, now = WORDS.get(key), self._value_in(self, key)
        if word is None or given is None or now is None or (given == word) == (now == word):
            return
        section, _, name = key.rpartition(".")
        functools.reduce(getattr, section.split("."), self)[name] = word if given == word else 0

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        # The nodes below the root stay Detectron2's: types are compared literally.
        return CfgNode(value) if isinstance(value, dict) else super()._decode_cfg_value(value)

    @staticmethod
    def _value_in(node: Any, key: Any) -> Any:
        """The single value of a key in a node; None where there is none."""
        for name in str(key).split("."):
            if not isinstance(node, dict) or name not in node:
                return None
            node = node[name]
        return None if isinstance(node, dict) else node

    @classmethod
    def _fit_all(cls, given: dict, known: CfgNode, prefix: str = "") -> dict[str, Any]:
        """Values as those of their keys are; unknown keys stay for Detectron2 to refuse."""
        fitted: dict[str, Any] = {}
        for name, value in given.items():
            default = known.get(name)
            if isinstance(default, CfgNode) and isinstance(value, dict):
                value = cls._fit_all(value, default, f"{prefix}{name}.")
            elif default is not None:
                value = cls._fit(f"{prefix}{name}", value, default)
            fitted[name] = value
        return fitted

    @classmethod
    def _fit(cls, key: str, given: Any, default: Any) -> Any:
        """A value of the type of a default.

        Raises:
            ValueError: when it is of another type, or not a number.
        """
        value = cls._decode_cfg_value(given)
        kind = type(default)
        if kind is float and type(value) is int:
            value = float(value)
        elif kind is str and isinstance(given, str) and type(value) in (int, float):
            value = given  # a text of digits, such as OUTPUT_DIR 2026
        elif {kind, type(value)} == {list, tuple}:
            value = kind(value)
        if value is not None and type(value) is not kind:
            expected = "keys below it" if isinstance(default, CfgNode) else EXPECTED[kind]
            example = "" if isinstance(default, CfgNode) else f", such as {default!r}"
            raise ValueError(f"{key} is {value!r}, expected {expected}{example}")
        if _has_nan(value):
            raise ValueError(f"{key} is {value!r}, expected numbers: NaN stands for no number")
        return repr(value) if kind is str and value is not None else value

    @classmethod
    def load_yaml_with_base(cls, filename: str, allow_unsafe: bool = False) -> dict[str, Any]:
        """The values in a file on top of those of its bases, see `model_zoo.find_base`."""
        content = cls._read(filename, allow_unsafe)
        if not isinstance(content, dict):
            raise ValueError(f"{filename} holds no KEY: VALUE lines")
        bases = content.pop(BASE, [])
        merged: dict[str, Any] = {}
        for base in bases if isinstance(bases, list) else [bases]:
            path = str(find_base(filename, base))
            _put(cls.load_yaml_with_base(path, allow_unsafe), merged, path)
        _put(content, merged, filename)
        return merged

    @classmethod
    def _read(cls, filename: str, allow_unsafe: bool) -> dict[str, Any]:
        with cls._open_cfg(filename) as file:
            text = file.read()
        try:
            return yaml.safe_load(text)
        except yaml.constructor.ConstructorError:
            if not allow_unsafe:  # Detectron2's own scripts allow it, ours do not
                raise
            return yaml.unsafe_load(text)


def _has_nan(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_has_nan, value))
    return isinstance(value, float) and math.isnan(value)


def _put(values: dict, into: dict, path: str) -> None:
    """Lay the values of a file over those below it.

    Raises:
        ValueError: when a key with keys below it meets one without.
    """
    for key, value in values.items():
        below = into.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            _put(value, below, path)
        elif isinstance(value, dict) and below is not None:
            raise ValueError(f"{path}: {key} has keys below it, but is {below!r} in its base")
        else:
            into[key] = value
