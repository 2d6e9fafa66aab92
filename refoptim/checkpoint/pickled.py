"""Pickles that hold data alone, read by an interpreter that imports nothing and runs nothing.

A pickle is a program for a machine with a stack and a memo. This machine knows the opcodes that data need, of protocols
2 to 4. What a pickle names, a class or a function, is a text to it; what becomes of names, of calls and of states is up
to the ``Meaning`` that is given, which refuses all it does not know. Time and memory are bounded by the number of
opcodes and by the length of the pickle.

Source: the module ``pickletools`` of Python's standard library, which describes every opcode.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, Protocol

import numpy as np

from ..formats.strict import shown
from .errors import CheckpointError
from .stored import require

MOST_OPCODES = 1_000_000
MOST_BYTES = 1 << 26
"""The longest pickle: arrays stand beside it."""

DEEPEST = 64
"""How deep dicts, lists and tuples may stand in one another."""

DEEP = f"holds itself, or dicts and lists more than {DEEPEST} deep in one another"

LONGEST = 255
"""Bytes of the largest integer."""

WIDEST = 64
"""Bits of the largest integer that is a key: larger ones can be chosen such that a dict takes for ever."""

PLAIN = (type(None), bool, int, float, complex, str, bytes, np.ndarray, np.generic)
"""The types of what is no container; NumPy's numbers are of many types."""

CUT = "has a pickle that is cut off"

KEYS = (str, int, float, bool, type(None), np.integer, np.floating, np.bool_)
"""The types of keys: of these few different ones have the same hash, but for large integers."""


@dataclass(frozen=True)
class Name:
    """The name of a class or function, such as ``torch FloatStorage``: module and name with a space between them."""

    text: str


@dataclass(eq=False)
class Unbuilt:
    """What waits for the state that is to make something of it, and where it stands in the memo."""

    name: str
    places: list[int] = field(default_factory=list)


class Meaning(Protocol):
    """What a pickle's names, calls and states mean; what it does not know is refused with CheckpointError."""

    def named(self, name: str) -> Any:
        """Return what stands for the name of a class or function."""

    def called(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """Return what a call gives."""

    def stored(self, what: Any) -> Any:
        """Return what is kept outside of the pickle."""

    def built(self, x: Any, state: Any) -> Any:
        """Return what becomes of something that is given a state."""


def allowed(size: int) -> int:
    """Return how many opcodes the pickle of a file of so many bytes may have."""
    return MOST_OPCODES + size // 8


def read(data: bytes, meaning: Meaning, most: int) -> Any:
    """Return the data that a pickle of at most ``most`` opcodes holds.

    Raises:
        CheckpointError: it holds something else, is cut off, too long, too deep, or a circle.
    """
    require(len(data) <= MOST_BYTES, f"has a pickle of more than {MOST_BYTES} bytes: save long lists as tensors")
    found = Machine(data, meaning).run(most)
    _Look(most).at(found, 0)
    return found


class _Look:
    """Looks at everything that data hold, and counts it; what is held twice counts twice."""

    def __init__(self, most: int) -> None:
        self.left = most

    def at(self, x: Any, depth: int) -> None:
        self.left -= 1
        require(self.left >= 0, "holds too many things: the same ones again and again")
        require(depth <= DEEPEST, DEEP)
        if isinstance(x, dict):
            for y in x.values():
                self.at(y, depth + 1)
        elif isinstance(x, (list, tuple, set)):
            for y in x:
                self.at(y, depth + 1)
        elif not isinstance(x, PLAIN):
            what = x.text if isinstance(x, Name) else x.name if isinstance(x, Unbuilt) else type(x).__name__
            raise CheckpointError(f"holds {shown(what.replace(' ', '.'))} as a value")


class Machine:
    """Runs the opcodes of one pickle."""

    def __init__(self, data: bytes, meaning: Meaning) -> None:
        self.data, self.meaning, self.place = data, meaning, 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, most: int) -> Any:
        """Return what is left on the stack at the end."""
        data, find, end = self.data, OPCODES.get, len(self.data)
        for _ in range(most):
            if self.place >= end:
                raise CheckpointError(CUT)
            code = data[self.place]
            self.place += 1
            if code == STOP:
                require(self.place == end, "has more behind the end of its pickle")
                require(len(self.stack) == 1 and not self.below, "has a pickle that leaves several things")
                return self.stack[0]
            operation = find(code)
            if operation is None:
                raise CheckpointError(f"has a pickle with the opcode {code:#04x}, which no data need")
            operation(self)
        raise CheckpointError(f"has a pickle of more than {most} opcodes: save long lists of numbers as tensors")

    def take(self, length: int) -> bytes:
        """Return the next bytes of the pickle."""
        begin, self.place = self.place, self.place + length
        if self.place > len(self.data):
            raise CheckpointError(CUT)
        return self.data[begin : self.place]

    def line(self) -> bytes:
        """Return the next bytes up to the end of a line."""
        end = self.data.find(b"\n", self.place, self.place + 1000)
        require(end >= 0, "has a pickle with a name without an end")
        return self.take(end + 1 - self.place)[:-1]

    def push(self, x: Any) -> None:
        """Put something on the stack."""
        self.stack.append(x)

    def pop(self) -> Any:
        """Take something from the stack."""
        if not self.stack:
            raise CheckpointError("has a pickle that takes more from its stack than there is")
        return self.stack.pop()

    def top(self, kind: type[Any]) -> Any:
        """Return what lies on the stack, which must be of a type."""
        x = self.stack[-1] if self.stack else None
        if not isinstance(x, kind):
            raise CheckpointError(f"has a pickle that fills what is no {kind.__name__}")
        return x

    def marked(self) -> list[Any]:
        """Take all from the stack that was put there since the last mark."""
        require(bool(self.below), "has a pickle that looks for a mark where none is")
        found, self.stack = self.stack, self.below.pop()
        return found

    def mark(self) -> None:
        """Begin a new stack upon the others."""
        self.below.append(self.stack)
        self.stack = []

    def remember(self, place: int) -> None:
        """Put what lies on the stack into the memo, a dict: memory for a large number is not made."""
        require(bool(self.stack), "has a pickle that remembers nothing")
        self.memo[place] = self.stack[-1]
        if isinstance(self.stack[-1], Unbuilt):
            self.stack[-1].places.append(place)

    def recall(self, place: int) -> None:
        """Put what the memo holds on the stack."""
        require(place in self.memo, "has a pickle that recalls what it has not met")
        self.push(self.memo[place])

    def fill(self, items: list[Any]) -> None:
        """Put keys and values into the dict on the stack."""
        target = self.top(dict)
        require(len(items) % 2 == 0, "has a pickle with a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[checked_key(key)] = value

    def name(self, module: Any, name: Any) -> None:
        """Put what stands for a class or function on the stack."""
        plain = all(isinstance(x, str) and re.fullmatch(r"[\w.]{1,200}", x) for x in (module, name))
        require(plain, "has a pickle that names something without a name")
        self.push(self.meaning.named(f"{module} {name}"))

    def call(self) -> None:
        """Let a name be called with the arguments on the stack."""
        arguments, function = self.pop(), self.pop()
        require(type(arguments) is tuple, "has a pickle with a call without arguments")
        self.push(self.meaning.called(function, arguments))

    def build(self) -> None:
        """Give what lies on the stack its state, in the memo too."""
        state, x = self.pop(), self.pop()
        made = self.meaning.built(x, state)
        for place in x.places if isinstance(x, Unbuilt) else ():
            self.memo[place] = made
        self.push(made)

    def number(self, layout: Struct) -> Any:
        """Return the next number of the pickle."""
        begin, self.place = self.place, self.place + layout.size
        if self.place > len(self.data):
            raise CheckpointError(CUT)
        return layout.unpack_from(self.data, begin)[0]

    def text(self, layout: Struct) -> str:
        """Return the next text of the pickle."""
        try:
            return self.take(self.number(layout)).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise CheckpointError("has a pickle with a text that is none") from None

    def gather(self, length: int) -> None:
        """Make a tuple of what lies on the stack."""
        self.push(tuple([self.pop() for _ in range(length)][::-1]))


def checked_key(key: Any) -> Any:
    """Return a key of a dict or a member of a set, which can be looked up in little time."""
    if not isinstance(key, KEYS):
        raise CheckpointError(f"has a key that is a {type(key).__name__}: use texts and numbers")
    require(not isinstance(key, int) or key.bit_length() <= WIDEST, f"has a key of more than {WIDEST} bits")
    return key


Operation = Callable[[Machine], Any]

BYTE, SHORT, WORD, SIGNED, DOUBLE = map(Struct, ("<B", "<H", "<I", "<i", ">d"))

STOP = ord(".")

OPCODES: dict[int, Operation] = {
    0x80: lambda m: m.take(1),  # PROTO
    0x95: lambda m: m.take(8),  # FRAME
    ord("("): Machine.mark,
    ord("N"): lambda m: m.push(None),
    0x88: lambda m: m.push(True),
    0x89: lambda m: m.push(False),
    ord("K"): lambda m: m.push(m.number(BYTE)),
    ord("M"): lambda m: m.push(m.number(SHORT)),
    ord("J"): lambda m: m.push(m.number(SIGNED)),
    ord("G"): lambda m: m.push(m.number(DOUBLE)),
    0x8A: lambda m: m.push(int.from_bytes(m.take(m.number(BYTE)), "little", signed=True)),
    ord("X"): lambda m: m.push(m.text(WORD)),
    0x8C: lambda m: m.push(m.text(BYTE)),
    ord("C"): lambda m: m.push(m.take(m.number(BYTE))),
    ord("B"): lambda m: m.push(m.take(m.number(WORD))),
    ord(")"): lambda m: m.push(()),
    0x85: lambda m: m.gather(1),
    0x86: lambda m: m.gather(2),
    0x87: lambda m: m.gather(3),
    ord("t"): lambda m: m.push(tuple(m.marked())),
    ord("]"): lambda m: m.push([]),
    ord("a"): lambda m: (x := m.pop(), m.top(list).append(x)),
    ord("e"): lambda m: (items := m.marked(), m.top(list).extend(items)),
    ord("}"): lambda m: m.push({}),
    ord("s"): lambda m: m.fill([m.pop(), m.pop()][::-1]),
    ord("u"): lambda m: m.fill(m.marked()),
    ord("q"): lambda m: m.remember(m.number(BYTE)),
    ord("r"): lambda m: m.remember(m.number(WORD)),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("h"): lambda m: m.recall(m.number(BYTE)),
    ord("j"): lambda m: m.recall(m.number(WORD)),
    ord("c"): lambda m: m.name(_ascii(m.line()), _ascii(m.line())),
    0x93: lambda m: m.name(*[m.pop(), m.pop()][::-1]),
    ord("Q"): lambda m: m.push(m.meaning.stored(m.pop())),
    ord("R"): Machine.call,
    0x81: Machine.call,  # of a class: makes an object, which no data are
    ord("b"): Machine.build,
}
"""What each opcode does. The others make objects, or belong to protocols with texts in unknown encodings."""


def _ascii(line: bytes) -> str:
    return line.decode("ascii", "replace")
