"""The parser of all commands: options and KEY VALUE pairs anywhere, and nothing is guessed.

argparse takes `--conf` for `--config-file`, gives everything behind the first pair to the pairs,
and lets a list of files swallow what follows. Here the words are sorted first: each option with its
values, pairs of the configuration, and the rest; words of other programs become ours on the way
(`words.py`). An unknown option is an error that names the nearest known one.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..completion import list_keys
from ..inputs import IMAGE_SUFFIXES
from ..prediction.sources import VIDEO_SUFFIXES
from ..wording import nearest
from . import words as foreign

CONFIG_KEY = re.compile(r"[A-Z0-9_]+(\.[A-Z0-9_]+)+")
CAPITALS = re.compile(r"[A-Z][A-Z0-9_.]*")
# Name and value of a word such as epochs=10.
ASSIGNMENT = re.compile(r"([A-Za-z][\w.-]*)=(.*)", re.DOTALL)
# Beginnings of keys, as somebody writes them in small letters.
SECTIONS = re.compile(r"(model|solver|input|test|datasets|dataloader)\.[\w.]+")
NUMBER = re.compile(r"-\.?\d")


def is_known_key(word: str) -> bool:
    """Whether a word is a key of the configuration; reading them takes a moment."""
    return CAPITALS.fullmatch(word) is not None and word in list_keys()


def is_key(word: str) -> bool:
    """Whether a word is a key of the configuration, or was meant to be one, and no file."""
    if is_known_key(word):
        return True
    if not CONFIG_KEY.fullmatch(word) or Path(word).exists():
        return False
    return Path(word).suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES


def is_option(word: str) -> bool:
    """Whether a word stands for an option, and is no negative number."""
    return len(word) > 1 and word.startswith("-") and not NUMBER.match(word)


class CommandParser(argparse.ArgumentParser):
    """argparse's parser with the rules above; `parse_args` has KEY VALUE pairs in `opts`.

    Attributes:
        folder: what --project and --name set, an option or a key; "" where results have no folder.
        trains: whether keys of training make sense.
        batch_key: key that --batch sets where there is no such option.
    """

    folder = ""
    trains = False
    batch_key = ""

    def __init__(self, **options: Any):
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        """End with one line, without the usage, which fills a screen."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        given = list(map(str, sys.argv[1:] if args is None else args))
        sorted_words = _Words(self, given)
        parsed = super().parse_args(sorted_words.arguments(), namespace)
        if self.takes_keys():
            if parsed.opts:
                self.error(self.describe_unknown_word(parsed.opts[0]))
            parsed.opts = sorted_words.pairs
        return parsed

    def parse_intermixed_args(self, args: Sequence[str] | None = None, namespace: Any = None):
        return self.parse_args(args, namespace)

    # ---- Options of the command

    def takes_keys(self) -> bool:
        return any(action.dest == "opts" for action in self._actions)

    def option(self, name: str) -> argparse.Action | None:
        """The option of a name without dashes, in any spelling of them, or of one of its synonyms
        that this command has."""
        for word in foreign.synonyms(name):
            action = self._option_string_actions.get(f"--{word}")
            if action is not None:
                return action
        return None

    def describe_unknown_option(self, name: str, shown: str) -> str:
        """The message for an option that is not known, with the nearest that is."""
        advice = foreign.ADVICE.get(name)
        if advice is not None:
            return f"unknown option {shown!r}: {advice}"
        key = [x for x in list_keys() if x.rpartition(".")[2] == name.upper().replace("-", "_")]
        if self.takes_keys() and key:
            return f"unknown option {shown!r}; did you mean the key {' or '.join(key[:3])}?"
        known = [x[2:] for x in self._option_string_actions if x.startswith("--")]
        known += foreign.KEYS if self.takes_keys() else []
        near = [x for x in known if x.startswith(name)] or nearest(name, known)
        if near:
            return f"unknown option {shown!r}; did you mean --{near[0]}?"
        return f"unknown option {shown!r}; `{self.prog} --help` lists all options"

    def describe_unknown_word(self, word: str) -> str:
        """The message for a word that is neither option nor value nor key."""
        near = nearest(word, list_keys())
        if near:
            return f"unknown word {word!r}; did you mean the key {near[0]}?"
        option = self.option(foreign.plain(word))
        if option is not None:
            return f"unknown word {word!r}; did you mean {option.option_strings[0]}?"
        return f"unknown word {word!r}: expected options and KEY VALUE pairs"


class _Words:
    """The words of a command line, sorted.

    Attributes:
        positional: what belongs to no option.
        options: options, each followed by its values.
        pairs: KEY VALUE KEY VALUE ...
    """

    def __init__(self, parser: CommandParser, given: Sequence[str]):
        self.parser = parser
        self.takes_keys = parser.takes_keys()
        self.positional: list[str] = []
        self.options: list[str] = []
        self.pairs: list[str] = []
        self.without_value: list[str] = []
        self.folder: dict[str, str] = {}
        self.evaluates = "--eval-only" in given
        words = list(given)
        while words:
            self.take(words)
        self.name_folder()
        self.pairs += self.without_value  # at the end, where it is missed

    def arguments(self) -> list[str]:
        """All but the pairs, in an order in which no list takes what is not its own."""
        if any(map(is_option, self.positional)):
            return [*self.options, "--", *self.positional]
        return [*self.positional, *self.options]

    def take(self, words: list[str]) -> None:
        """Sort the first word and what belongs to it."""
        word = words.pop(0)
        if word == "--":
            self.positional += words
            words.clear()
        elif is_option(word):
            self.take_option(word, words)
        elif self.takes_keys and is_key(word):
            self.take_pair(word, words)
        elif (assigned := ASSIGNMENT.fullmatch(word)) and not Path(word).exists():
            self.take_assignment(word, *assigned.groups(), words=words)
        elif self.takes_keys and SECTIONS.fullmatch(word) and word.upper() in list_keys():
            self.parser.error(f"unknown word {word!r}; did you mean the key {word.upper()}?")
        else:
            self.positional.append(word)

    def take_pair(self, key: str, words: list[str]) -> None:
        if not words or is_option(words[0]):
            self.without_value.append(key)
        else:
            self.pairs += [key, words.pop(0)]

    def take_option(self, word: str, words: list[str]) -> None:
        known = self.parser._option_string_actions.get(word)
        if known is not None:
            self.use(known, None, word, words)
            return
        shown, assigned, value = word.partition("=")
        self.translate(foreign.plain(shown), [value] if assigned else None, shown, words)

    def take_assignment(self, word: str, name: str, value: str, words: list[str]) -> None:
        if self.takes_keys and is_key(name):
            self.pairs += [name, value]
        else:
            self.translate(foreign.plain(name), [value], name, words)

    def translate(self, name: str, given: list[str] | None, shown: str, words: list[str]) -> None:
        """Sort an option by its name, that of this or of another program.

        Args:
            name: without dashes in front.
            given: its value where it is joined to it by "="; None takes the next words.
            shown: for messages.
            words: what follows.
        """
        action = self.parser.option(name)
        if action is not None:
            self.use(action, given, shown, words)
        elif name in ("project", "name"):
            self.folder[name] = self.one(given, shown, words)
        elif name == "model":
            self.take_model(self.one(given, shown, words))
        elif name == "data" and any(map(self.parser.option, ("train", "val"))):
            self.take_data(self.one(given, shown, words))
        elif self.takes_keys and (key := foreign.find_key(name)) is not None:
            self.set_key(key, given, shown, words)
        else:
            self.parser.error(self.parser.describe_unknown_option(name, shown))

    def set_key(
        self, key: foreign.Key, given: list[str] | None, shown: str, words: list[str]
    ) -> None:
        batch_key = "TEST.IMS_PER_BATCH" if self.evaluates else self.parser.batch_key
        names = key.names or ((batch_key,) if batch_key else ())
        if not names or (key.training and (not self.parser.trains or self.evaluates)):
            self.parser.error(f"{shown} is for training: `yolor-d2 train` takes it")
        if key.switch and given is None and not (words and key.takes(words[0])):
            value = "True"
        else:
            value = self.one(given, shown, words)
        try:
            values = key.read(value)
        except ValueError as error:
            self.parser.error(f"{shown} is {value!r}, {error}")
        for name, text in zip(names, values if len(values) > 1 else values * len(names)):
            self.pairs += [name, text]

    def take_model(self, value: str) -> None:
        """ultralytics' model: a configuration, a run or weights."""
        if Path(value).suffix in (".yaml", ".yml"):
            self.options += ["--config-file", value]
        elif Path(value).is_dir():
            self.positional.insert(0, value)
        else:
            self.pairs += ["MODEL.WEIGHTS", value]

    def take_data(self, value: str) -> None:
        """One file for the data set to train on and that to evaluate on."""
        names = ["val"] if self.evaluates else ["train", "val"]
        for name in names:
            if self.parser.option(name) is not None:
                self.options += [f"--{name}", value]

    def name_folder(self) -> None:
        """Where results go by the names of a project and of a run in it."""
        if not self.folder:
            return
        path = str(Path(self.folder.get("project", "output")) / self.folder.get("name", ""))
        target = self.parser.folder
        if not target:
            self.parser.error("--project and --name name a folder; here --output sets the place")
        (self.options if target.startswith("-") else self.pairs).extend([target, path])

    # ---- Values of options

    def use(
        self, action: argparse.Action, given: list[str] | None, shown: str, words: list[str]
    ) -> None:
        """Put an option with its values to the others, or set its key; see `translate`."""
        key = getattr(action, "sets", None)
        if key is not None:
            self.set_key(key, given, shown, words)
            return
        values = self.split(action, given, shown, words)
        # As it was written, as a switch has another word that turns it off.
        name = shown if shown in action.option_strings else action.option_strings[0]
        if values is not None:  # a switch that is on, or no switch
            self.options += [name, *values]
        elif isinstance(action, argparse.BooleanOptionalAction):
            self.options.append(action.option_strings[-1])

    def values(self, action: argparse.Action, words: list[str]) -> list[str]:
        """The values of an option, as many as it takes, away from the words behind it."""
        most = self.most(action)
        taken: list[str] = []
        while words and len(taken) < most and not is_option(words[0]):
            several = action.nargs in ("+", "*")
            if several and taken and self.ends_list(words[0]):
                break
            if self.takes_keys and is_known_key(words[0]):
                break
            taken.append(words.pop(0))
        return taken

    def most(self, action: argparse.Action) -> float:
        if action.nargs is None:
            return 1
        if isinstance(action.nargs, int):
            return action.nargs
        return 1 if action.nargs == "?" else getattr(action, "most", float("inf"))

    def ends_list(self, word: str) -> bool:
        return (self.takes_keys and is_key(word)) or (
            ASSIGNMENT.fullmatch(word) is not None and not Path(word).exists()
        )

    def split(
        self, action: argparse.Action, given: list[str] | None, shown: str, words: list[str]
    ) -> list[str] | None:
        """Values that may be joined to the name by "=", lists with commas; None for a switch that
        is off."""
        if given is None:
            return self.values(action, words)
        if action.nargs == 0:
            if not foreign.is_switch(given[0]):
                self.parser.error(f"{shown} is {given[0]!r}, expected True or False")
            return [] if foreign.read_switch(given[0]) == ["True"] else None
        if action.nargs in ("+", "*") or isinstance(action.nargs, int):
            return [x.strip() for x in given[0].strip("[]()").split(",")]
        return given

    def one(self, given: list[str] | None, shown: str, words: list[str]) -> str:
        if given is not None:
            return given[0]
        if not words or is_option(words[0]):
            self.parser.error(f"argument {shown}: expected one argument")
        return words.pop(0)
