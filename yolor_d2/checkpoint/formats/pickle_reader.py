"""Pickles as data: a reader that calls nothing.

A pickle is a program for a small stack machine, and some of its instructions call whatever the
program names. `PickleReader` runs the same instructions (decoded by the standard library's
`pickletools`), but a named object stays a name (`Global`) and a call becomes a value that a
subclass chooses. So there is nothing to import and nothing to execute.

A `pickle.Unpickler` with its own `find_class` would be shorter. But a few bytes of a pickle make it
allocate gigabytes (memo numbers, empty sets) or overflow the stack of the process (the hash of a
deeply nested tuple). Here every instruction counts, and keys are plain.
"""

from __future__ import annotations

import pickletools
import struct
import warnings
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..errors import WeightsFileError, shorten

# A pickled model takes about 150 steps for each of its modules, which are 700 to 1,500 (a training
# file has the model twice). A step takes about a microsecond and at most about 100 bytes.
MAX_STEPS = 1_500_000
# An empty set weighs as much as several other values.
SET_STEPS = 4
# Python hashes an integer below 2**61 - 1 to itself; larger ones could be made to collide.
MAX_INT_KEY = 2**60

# Instructions that push what follows them in the file.
VALUES = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "LONG4",
    "BINFLOAT",
    "SHORT_BINUNICODE",
    "BINUNICODE",
    "BINUNICODE8",
    "SHORT_BINBYTES",
    "BINBYTES",
    "BINBYTES8",
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
# What pickletools raises over bytes, and this module over an empty stack or an unknown memo.
FAULTS = (ValueError, KeyError, IndexError, OverflowError, struct.error, DeprecationWarning)


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Inert:
    """Stands for an object that is never made.

    Attributes:
        kind: what the object is an instance or a result of.
        attributes: the state that the pickle gives it, if that is a dictionary.
    """

    __slots__ = ("attributes", "kind")

    def __init__(self, kind: Global):
        self.kind = kind
        self.attributes: dict = {}


class PickleReader:
    """Reads pickles from a stream; this base class admits no global at all.

    Args:
        stream: positioned at a pickle; after `load` positioned behind it.
        max_steps: allowed instructions, over all calls of `load`.
    """

    def __init__(self, stream: BinaryIO, *, max_steps: int = MAX_STEPS):
        self.stream = stream
        self.max_steps = max_steps
        self.steps = 0
        self.stack: list = []
        self.outer_stacks: list[list] = []
        self.memo: dict[int, Any] = {}

    def load(self) -> Any:
        """Read one pickle.

        Returns:
            None, bool, int, float, str, bytes, list, dict, tuple, set, `Global`, `Inert`, nested in
            any way (also in circles), and what `construct` and `load_persistent` give.

        Raises:
            WeightsFileError: for a damaged pickle, one that names what `admit` refuses, or a bomb.
        """
        self.stack, self.outer_stacks, self.memo = [], [], {}
        try:
            with warnings.catch_warnings():
                # pickletools warns of escapes in names, which no pickle has.
                warnings.simplefilter("error", DeprecationWarning)
                return self._run()
        except WeightsFileError:
            raise
        except FAULTS as fault:
            raise WeightsFileError(
                f"its pickle is damaged or cut off ({type(fault).__name__})"
            ) from fault

    def _run(self) -> Any:
        for opcode, argument, _ in pickletools.genops(self.stream):
            name = opcode.name
            self.spend(1)
            if name in VALUES:
                self.stack.append(argument)
            elif name in CONSTANTS:
                self.stack.append(CONSTANTS[name])
            elif name == "STOP":
                return self.stack.pop()
            else:
                instruction = getattr(self, f"op_{name.lower()}", None)
                if instruction is None:
                    raise WeightsFileError(f"its pickle has the unexpected instruction {name}")
                instruction(argument)
        raise WeightsFileError("its pickle has no end")

    def spend(self, steps: int) -> None:
        """Count work; called before it is done."""
        self.steps += steps
        if self.steps > self.max_steps:
            raise WeightsFileError(f"its pickle takes more than {self.max_steps:,} steps")

    # What a subclass decides.

    def admit(self, named: Global) -> None:
        """Raise `WeightsFileError` if the pickle may not name this."""
        raise WeightsFileError(
            f"its pickle names {shorten(str(named))}, which weights do not need; unpickling such a "
            "file can run foreign code"
        )

    def construct(self, callee: Global, arguments: tuple) -> Any:
        """Value in place of the call `callee(*arguments)`, which the pickle asks for."""
        return Inert(callee)

    def load_persistent(self, identifier: Any) -> Any:
        """Value of something stored outside the pickle."""
        raise WeightsFileError("its pickle refers to data outside of it")

    # The instructions, named as in `pickletools`.

    def op_proto(self, version: int) -> None:
        pass

    def op_frame(self, size: int) -> None:
        pass

    def op_mark(self, _: None) -> None:
        self.outer_stacks.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list:
        items = self.stack
        self.stack = self.outer_stacks.pop()
        return items

    def op_pop(self, _: None) -> None:
        # An empty stack means that the last thing was a mark.
        if self.stack:
            self.stack.pop()
        else:
            self.pop_to_mark()

    def op_pop_mark(self, _: None) -> None:
        self.pop_to_mark()

    def op_binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    op_long_binput = op_binput

    def op_memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    op_long_binget = op_binget

    def op_empty_list(self, _: None) -> None:
        self.stack.append([])

    def op_empty_dict(self, _: None) -> None:
        self.stack.append({})

    def op_empty_set(self, _: None) -> None:
        self.spend(SET_STEPS)
        self.stack.append(set())

    def op_tuple(self, _: None) -> None:
        items = self.pop_to_mark()
        self.stack.append(tuple(items))

    def op_tuple1(self, _: None) -> None:
        self.push_tuple(1)

    def op_tuple2(self, _: None) -> None:
        self.push_tuple(2)

    def op_tuple3(self, _: None) -> None:
        self.push_tuple(3)

    def push_tuple(self, size: int) -> None:
        items = [self.stack.pop() for _ in range(size)]
        self.stack.append(tuple(reversed(items)))

    def op_frozenset(self, _: None) -> None:
        items = self.pop_to_mark()
        self.stack.append(self.make_set(items))

    def op_append(self, _: None) -> None:
        item = self.stack.pop()
        self.extend([item])

    def op_appends(self, _: None) -> None:
        self.extend(self.pop_to_mark())

    def extend(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Inert:
            raise WeightsFileError(f"its pickle appends to a {type(target).__name__}")

    def op_setitem(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def op_setitems(self, _: None) -> None:
        self.set_items(self.pop_to_mark())

    def set_items(self, flat: list) -> None:
        target = self.stack[-1]
        if len(flat) % 2:
            raise WeightsFileError("its pickle has a key without a value")
        if type(target) is dict:
            target.update((as_key(key), value) for key, value in zip(flat[::2], flat[1::2]))
        elif type(target) is not Inert:
            raise WeightsFileError(f"its pickle sets items of a {type(target).__name__}")

    def op_additems(self, _: None) -> None:
        items = self.pop_to_mark()
        target = self.stack[-1]
        if type(target) is not set:
            raise WeightsFileError(f"its pickle adds items to a {type(target).__name__}")
        target.update(map(as_key, items))

    def op_global(self, named: str) -> None:
        module, _, name = named.partition(" ")
        self.push_global(module, name)

    def op_stack_global(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise WeightsFileError("its pickle has a global that is no name")
        self.push_global(module, name)

    def push_global(self, module: str, name: str) -> None:
        named = Global(module, name)
        self.admit(named)
        self.stack.append(named)

    def op_reduce(self, _: None) -> None:
        arguments, callee = self.stack.pop(), self.stack.pop()
        if type(callee) is not Global or type(arguments) is not tuple:
            raise WeightsFileError("its pickle calls what is no named class or function")
        self.stack.append(self.construct(callee, arguments))

    op_newobj = op_reduce

    def op_newobj_ex(self, _: None) -> None:
        self.stack.pop()  # keyword arguments
        self.op_reduce(None)

    def op_build(self, _: None) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        # Objects with slots have the pair (dictionary, slots).
        if type(state) is tuple and len(state) == 2:
            state = state[0]
        # Other targets, such as ordered dictionaries, carry nothing of use in their state.
        if type(target) is Inert and type(state) is dict:
            target.attributes = state

    def op_binpersid(self, _: None) -> None:
        self.stack.append(self.load_persistent(self.stack.pop()))

    # Containers as results of calls.

    def make_set(self, items: list) -> set:
        self.spend(SET_STEPS + len(items))
        return set(map(as_key, items))

    def make_dict(self, pairs: list) -> dict:
        self.spend(len(pairs))
        if not all(type(pair) in (tuple, list) and len(pair) == 2 for pair in pairs):
            raise WeightsFileError("its pickle makes a dictionary from what are no pairs")
        return {as_key(key): value for key, value in pairs}


def as_key(value: Any) -> Any:
    """The value itself if it can be a key without risk, otherwise an inert stand-in.

    Hashing a nested tuple takes the stack of the process, and hashes of large integers, floats and
    tuples can be made to collide, which makes dictionaries slow.
    """
    if type(value) in (str, bytes, bool, type(None)):
        return value
    if type(value) is int and -MAX_INT_KEY < value < MAX_INT_KEY:
        return value
    return Inert(Global("builtins", type(value).__name__))
