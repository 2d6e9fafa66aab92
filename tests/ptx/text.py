"""Reads PTX: functions, their declarations and statements, as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from .faults import NotKnown

SIZES = dict(pred=1, b8=1, u8=1, s8=1, b16=2, u16=2, s16=2, f16=2, bf16=2)
SIZES |= dict(b32=4, u32=4, s32=4, f32=4, f16x2=4, bf16x2=4, b64=8, u64=8, s64=8, f64=8)
"""Bytes of a number of each type."""

_FUNCTION = re.compile(r"\.(entry|func)\s*(\([^)]*\))?\s*([\w$]+)\s*(\([^)]*\))?([^{;]*)([{;])")
_VARIABLE = re.compile(r"\.(\w+) (?:\.align (\d+) )?\.(\w+)(?: \.ptr(?: \.\w+)? \.align \d+)? ([\w$]+)(?:\[(\d+)\])?")
_OPERAND = re.compile(r"\([^)]*\)|<[^>]*>|\[[^\]]*\]|[^,\s]+")
_IGNORED = {".pragma", ".loc", ".file"}


class Variable(NamedTuple):
    """A variable in a space of memory: ``shared``, ``local`` or ``param``."""

    space: str
    size: int
    align: int


class Statement(NamedTuple):
    """An instruction as written; ``guard`` is the predicate it needs, after a ``!`` if that must be false."""

    op: str
    operands: tuple[str, ...]
    guard: str
    text: str


class Call(NamedTuple):
    """A call as written: whom it calls, and the caller's names of what it gives and takes."""

    caller: str
    callee: str
    arguments: tuple[str, ...]
    results: tuple[str, ...]


@dataclass
class Function:
    """A function: its parameters and results in order, its registers by name or by prefix, its memory and its code."""

    name: str
    entry: bool
    parameters: dict[str, Variable]
    results: dict[str, Variable]
    threads: int = 0
    registers: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    statements: list[Statement] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def type_of(self, register: str) -> str:
        """Return the type that a register was declared with."""
        found = self.registers.get(register) or self.registers.get(f"{register.rstrip('0123456789')}<>")
        if found is None:
            raise NotKnown(f"{self.name}: register {register}")
        return found


def call_of(function: Function, statement: Statement) -> Call:
    """Read a call."""
    lists = [tuple(x.strip("()").replace(" ", "").split(",")) if x[0] == "(" else x for x in statement.operands]
    if len(lists) < 3 and isinstance(lists[0], str):
        lists.insert(0, ())
    if len(lists) == 2:
        lists.append(())
    results, callee, arguments = lists
    if isinstance(results, str) or not isinstance(callee, str) or isinstance(arguments, str):
        raise NotKnown(f"{function.name}: {statement.text}")
    return Call(function.name, callee, arguments, results)


def split(text: str) -> dict[str, tuple[re.Match[str], str]]:
    """Return the head and the body of each function of a PTX text."""
    text = re.sub(r"//[^\n]*", "", text)
    if not re.search(r"\.address_size\s+64\b", text):
        raise NotKnown("only addresses of 64 bits are known")
    found, end = {}, 0
    while head := _FUNCTION.search(text, end):
        end = head.end()
        if head[6] == "{":
            begin, end = end, _closing(text, end)
            found[head[3]] = head, text[begin : end - 1]
    return found


def _closing(text: str, at: int) -> int:
    """Return where the brace that was opened before ``at`` has been closed."""
    depth = 1
    while depth:
        brace = re.compile(r"[{}]").search(text, at)
        assert brace
        depth += 1 if brace[0] == "{" else -1
        at = brace.end()
    return at


def read(head: re.Match[str], body: str) -> Function:
    """Read a function."""
    kind, results, name, parameters, directives, _ = head.groups()
    function = Function(name, kind == "entry", _variables(parameters), _variables(results))
    if limit := re.search(r"\.maxntid\s+(\d+)", directives):
        function.threads = int(limit[1])
    function.variables |= function.parameters | function.results
    reader = _Reader(function)
    for line in _lines(body):
        reader.take(line)
    return function


def _variables(text: str | None) -> dict[str, Variable]:
    found = [_variable(" ".join(one.split())) for one in (text or "").strip("() \n").split(",") if one.strip()]
    return dict(found)


def _variable(text: str) -> tuple[str, Variable]:
    found = _VARIABLE.fullmatch(text)
    if not found:
        raise NotKnown(text)
    space, align, type_, name, count = found.groups()
    size = SIZES[type_] * int(count or 1)
    return name, Variable(space, size, int(align or SIZES[type_]))


def _lines(body: str) -> Iterator[str]:
    """Split a body into statements and labels; the braces of scopes go, those of vectors become angles."""
    body = re.sub(r"\{([^{};]+)\}", r"<\1>", body)
    body = re.sub(r"([\w$]+):(?=\s)", r"\1:;", body)
    for piece in re.split("[;{}]", body):
        if line := " ".join(piece.split()):
            yield line


class _Reader:
    """Takes the lines of a function in order; a parameter of a call that is declared again is another variable."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.scope: dict[str, str] = {}

    def take(self, line: str) -> None:
        if line.endswith(":"):
            self.function.labels[line[:-1]] = len(self.function.statements)
        elif line.startswith(".reg"):
            self._registers(line)
        elif line.startswith("."):
            self._declare(line)
        else:
            self.function.statements.append(self._statement(line))

    def _registers(self, line: str) -> None:
        _, type_, names = line.split(None, 2)
        for name in names.split(","):
            self.function.registers[re.sub(r"<\d+>", "<>", name.strip())] = type_[1:]

    def _declare(self, line: str) -> None:
        if line.split()[0] in _IGNORED:
            return
        name, variable = _variable(line)
        if variable.space == "param":
            self.scope[name] = name = f"{name}.{len(self.function.variables)}"
        elif variable.space not in ("shared", "local"):
            raise NotKnown(line)
        self.function.variables[name] = variable

    def _statement(self, line: str) -> Statement:
        guard, _, rest = line[1:].partition(" ") if line[0] == "@" else ("", "", line)
        op, _, rest = rest.partition(" ")
        operands = tuple(_OPERAND.findall(rest))
        if op.startswith(("call", "ld.param", "st.param")):
            operands = tuple(re.sub(r"[A-Za-z_$][\w$]*", self._renamed, x) for x in operands)
        return Statement(op, operands, guard, line)

    def _renamed(self, name: re.Match[str]) -> str:
        return self.scope.get(name[0], name[0])
