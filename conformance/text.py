"""Trajectories as text: CSV, which can be read back, and a C header, which is for compilers.

A CSV file is the header as JSON behind ``#`` on the first line, which must hold ``tensors``, the dtype and the shape
of each array, and then a row per number: ``tensor,row,element,bits,value``. ``row`` counts along the first axis,
``element`` within it, a complex number as two; ``bits`` are the hexadecimal digits of the number, and ``value`` is the
same for human eyes: it may be left out, but must not say another number. Rows may stand in any order, but each once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from refoptim.numerics.arith import Array, as_reals

from .strict import (
    MAX_BYTES,
    MAX_HEADER,
    MAX_TENSORS,
    WORD,
    GoldenError,
    Layout,
    check_size,
    layout,
    parse,
    require,
    shown,
)
from .words import from_words, layout_of, read_word, to_words

COLUMNS = "tensor,row,element,bits,value"

MIN_ROW = len("p.0,0,0,0000\n")
"""Bytes of the shortest row."""

MAX_ROW = 200

CTYPE = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t"}


def encode_csv(header: Mapping[str, Any], tensors: Mapping[str, Array]) -> bytes:
    """Return the bytes of a CSV file."""
    table = {name: {"dtype": x.dtype.name, "shape": list(x.shape)} for name, x in tensors.items()}
    lines = ["# " + json.dumps({**header, "tensors": table}), COLUMNS]
    for name, x in tensors.items():
        lines += _rows(name, x)
    return ("\n".join(lines) + "\n").encode("ascii")


def _rows(name: str, x: Array) -> Iterator[str]:
    width, digits = _width(layout_of(x)), 2 * WORD[x.dtype.name]
    values = (
        (x if x.dtype.kind in "iu" else as_reals(x))
        .reshape(-1)
        .astype(object if x.dtype.kind in "iu" else x.real.dtype)
    )
    for i, (word, value) in enumerate(zip(to_words(x).tolist(), values, strict=True)):
        yield f"{name},{i // width},{i % width},{word:0{digits}x},{value!s}"


def _width(found: Layout) -> int:
    """Return the number of reals in a row of an array along its first axis."""
    return max(1, found.words // max(1, found.shape[0]))


def decode_csv(path: Path) -> tuple[Any, dict[str, Array]]:
    """Read a CSV file."""
    size = check_size(path, MAX_BYTES)
    try:
        with path.open(encoding="ascii", newline="") as file:
            header = _first_line(file, path.name)
            layouts = _layouts(header, size, path.name)
            return header, _numbers(file, layouts, path.name)
    except UnicodeDecodeError:
        raise GoldenError(f"{path.name} is not plain ASCII text") from None


def _first_line(file: TextIO, where: str) -> dict[str, Any]:
    line = file.readline(MAX_HEADER)
    require(line.startswith("# ") and line.endswith("\n"), f"{where} does not begin with '# ' and a header as JSON")
    header = parse(line[2:].encode(), f"{where}: the first line")
    require(isinstance(header, dict), f"{where} has a header that is no object")
    require(file.readline(MAX_ROW).rstrip("\r\n") == COLUMNS, f"{where} does not have the columns {COLUMNS}")
    return dict(header)


def _layouts(header: dict[str, Any], size: int, where: str) -> dict[str, Layout]:
    """Take the table of arrays out of a header, and check that a file of ``size`` bytes can hold them."""
    table = header.pop("tensors", None)
    require(isinstance(table, dict) and len(table) <= MAX_TENSORS, f"{where} has no table 'tensors' in its header")
    layouts = {name: _layout(entry, f"{where}: {shown(name)}") for name, entry in dict(table or {}).items()}
    words = sum(x.words for x in layouts.values())
    require(words * MIN_ROW <= size, f"{where} has fewer rows than the {words} that its table says")
    return layouts


def _layout(entry: Any, where: str) -> Layout:
    require(isinstance(entry, dict) and set(entry) == {"dtype", "shape"}, f"{where} needs dtype and shape")
    found = layout(entry["dtype"], entry["shape"], where)
    require(bool(found.shape), f"{where} has no axis of rows")
    return found


class Column:
    """The numbers of one array while rows come in, in any order."""

    def __init__(self, found: Layout) -> None:
        self.found, self.width = found, _width(found)
        self.words = np.zeros(found.words, f"<u{WORD[found.dtype]}")
        self.missing = np.ones(found.words, bool)
        self.values, self.given = np.zeros(found.words), np.zeros(found.words, bool)

    def take(self, row: str, element: str, bits: str, *value: str) -> bool:
        """Take one row; tell whether it was one, and the first for its number."""
        try:
            i, j, number = int(row), int(element), float(value[0] if value else 0)
        except ValueError:
            return False
        found, place = read_word(bits, self.words.itemsize), i * self.width + j
        inside = 0 <= i < self.found.shape[0] and 0 <= j < self.width and place < self.found.words
        if not inside or found is None or not self.missing[place]:
            return False
        self.words[place], self.missing[place] = found, False
        if value:
            self.values[place], self.given[place] = number, True
        return True

    def array(self, where: str) -> Array:
        """Return the array, or raise GoldenError if a number is missing or is another one for human eyes."""
        require(not self.missing.any(), f"{where} lacks {int(self.missing.sum())} numbers")
        found = from_words(self.words, self.found)
        reals = (found if found.dtype.kind in "iu" else as_reals(found)).reshape(-1)
        with np.errstate(all="ignore"):
            same = to_words(self.values.astype(reals.dtype)) == to_words(reals)
        require(bool((same | ~self.given).all()), f"{where} has a number whose bits and value are not the same")
        return found


def _numbers(file: TextIO, layouts: Mapping[str, Layout], where: str) -> dict[str, Array]:
    """Read all rows and return the arrays."""
    columns = {name: Column(found) for name, found in layouts.items()}
    for line_number, line in enumerate(iter(lambda: file.readline(MAX_ROW), ""), 3):
        name, *cells = line.rstrip("\r\n").split(",")
        whole = line.endswith("\n") and 3 <= len(cells) <= 4 and name in columns
        if not whole or not columns[name].take(*cells):
            raise GoldenError(f"{where} line {line_number} is no row, or not the first, of a number: {shown(line)}")
    return {name: column.array(f"{where}: {shown(name)}") for name, column in columns.items()}


def identifier(path: Path, name: str | None = None) -> str:
    """Return what the names in a C header begin with: what was asked for, or a file's name with other signs as _.

    Raises:
        ValueError: what was asked for is no name in C.
    """
    if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name in C: letters, digits and _, and no digit first")
    found = name or re.sub(r"[^A-Za-z0-9]+", "_", path.stem).strip("_")
    return found if found and not found[0].isdigit() else f"golden_{found}".rstrip("_")


def encode_c(header: Mapping[str, Any], tensors: Mapping[str, Array], name: str = "golden") -> bytes:
    """Return the bytes of a C header: each array as a flat one of the unsigned integers of its bits.

    All names begin with ``name``, so that several headers go into one program. Counts and sizes are constants.
    """
    guard = f"REFOPTIM_{name.upper()}_H"
    parameters = sum(key.startswith("param.") for key in tensors)
    steps = next((len(x) - 1 for key, x in tensors.items() if key in ("param.0", "lr")), 0)
    lines = [
        "/* A trajectory of refoptim. Numbers are the unsigned integers of their bits: memcpy them into floats. */",
        f"#ifndef {guard}\n#define {guard}\n#include <stdint.h>\n",
        f"static const char {name}_header[] = {json.dumps(json.dumps(header))};",
        _c_constants(name, {"parameters": parameters, "steps": steps}),
    ]
    for key, x in tensors.items():
        lines += _c_array(name, key, x)
    return ("\n".join([*lines, "#endif"]) + "\n").encode("ascii")


def _c_constants(name: str, constants: Mapping[str, int]) -> str:
    """Write whole numbers as constants that may size arrays."""
    return f"enum {{ {', '.join(f'{name}_{key} = {x}' for key, x in constants.items())} }};"


def _c_array(name: str, key: str, x: Array) -> Iterator[str]:
    """Write one array, eight numbers to a line; C has no empty arrays, so one without elements holds a zero."""
    words, size = to_words(x).tolist(), WORD[x.dtype.name]
    kind = "int64_t" if x.dtype.kind == "i" else CTYPE[size]
    own = f"{name}_{key.replace('.', '_')}"
    yield f"\n/* {key}: {x.dtype.name}, shape {' x '.join(map(str, x.shape)) or 'of one number'} */"
    yield _c_constants(own, {"count": len(words), "axes": x.ndim, **{f"size_{i}": n for i, n in enumerate(x.shape)}})
    yield f"static const {kind} {own}[{max(1, len(words))}] = {{"
    texts = [f"0x{word:0{2 * size}x}{'u' * (kind != 'int64_t')}" for word in words] or ["0"]
    for i in range(0, len(texts), 8):
        yield "    " + ", ".join(texts[i : i + 8]) + ","
    yield "};"
