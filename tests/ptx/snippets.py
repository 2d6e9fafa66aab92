"""Kernels written by hand, for the tests of the machine itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .instructions import DTYPES
from .module import Module
from .text import SIZES

HEAD = ".version 8.0\n.target sm_90\n.address_size 64\n"

REGISTERS = ".reg .pred %p<9>; .reg .b16 %h<9>; .reg .b32 %r<9>; .reg .b64 %d<9>; .reg .b64 %a<9>;\n"

LETTERS = {1: "h", 2: "h", 4: "r", 8: "d"}
"""Registers for numbers of so many bytes."""


def kernel(body: str, count: int = 1, before: str = "", threads: int = 0) -> Module:
    """Return a module of one kernel, ``test``, whose ``count`` arguments of 64 bits are in %a0, %a1 … to begin with."""
    parameters = ", ".join(f".param .u64 test_{i}" for i in range(count))
    loads = "".join(f"ld.param.u64 %a{i}, [test_{i}];\n" for i in range(count))
    limit = f".maxntid {threads}, 1, 1\n" if threads else ""
    return Module(
        f"{HEAD}{before}\n.visible .entry test({parameters})\n{limit}{{\n{REGISTERS}{loads}{body}\nret;\n}}\n"
    )


def own(size: int, argument: int = 0, to: str = "%a8") -> str:
    """Return code that finds the address of a thread's own number, of ``size`` bytes, in an argument's array."""
    return f"mov.u32 %r8, %tid.x; mul.wide.u32 {to}, %r8, {size}; add.s64 {to}, {to}, %a{argument};\n"


def computed(op: str, takes: Sequence[str], gives: str, *columns: Any) -> Any:
    """Execute one instruction on a column of operands for each type, a thread for each row; return the results."""
    arrays = [np.array(column, _stored(type_)) for column, type_ in zip(columns, takes, strict=True)]
    found = np.zeros(len(arrays[0]), _stored(gives))
    loads = [_load(i, type_) for i, type_ in enumerate(takes)]
    names = ", ".join(_name(i + 1, type_) for i, type_ in enumerate(takes))
    body = "".join(loads) + f"{op} {_name(0, gives)}, {names};\n" + _store(len(takes), gives)
    kernel(body, len(takes) + 1).launch("test", 1, len(found), *arrays, found)
    return found


def _stored(type_: str) -> Any:
    return np.dtype("u1") if type_ == "pred" else DTYPES[type_]


def _name(i: int, type_: str) -> str:
    return f"%p{i}" if type_ == "pred" else f"%{LETTERS[SIZES[type_]]}{i}"


def _load(i: int, type_: str) -> str:
    size = SIZES[type_]
    if type_ == "pred":
        return own(1, i) + f"ld.global.u8 %h8, [%a8]; setp.ne.u16 %p{i + 1}, %h8, 0;\n"
    return own(size, i) + f"ld.global.u{8 * size} {_name(i + 1, type_)}, [%a8];\n"


def _store(i: int, type_: str) -> str:
    size = SIZES[type_]
    flag = "selp.u16 %h0, 1, 0, %p0;\n" if type_ == "pred" else ""
    return flag + own(size, i) + f"st.global.u{8 * size} [%a8], %{LETTERS[size]}0;\n"
