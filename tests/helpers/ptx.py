"""What compiled kernels must not hold, read from their PTX, and what entries their sources declare."""

from __future__ import annotations

import re
from typing import NamedTuple

WIDTHS = {"double": 8, "float": 4, "float16": 2, "bfloat16": 2}

FORBIDDEN = {
    "a contracted product and sum": r"\b(?:fma|mad\S*\.f(?:32|64))\b",
    "a flush to zero": r"\.ftz\b",
    "an approximation": r"\.(?:approx|full)\b",
    "a conversion to or from bfloat16 that is not rounding to nearest even": r"\bcvt\.(?!rn\.bf16\.f32\b)\S*\bbf16",
}

DOUBLE = r"float64|_scalars_|_measured_|^adafactor_step_sizes_|^clip_grad_coefficient_|^cautions_"
"""Entries that hold doubles by definition: those of float64, and those that make scalars for others."""


class Entry(NamedTuple):
    """A kernel by name, and how many 16-byte reads of each kind the elementwise harness needs for it, if it is its."""

    name: str
    reads: int


def entries(source: str) -> list[Entry]:
    """List the kernels of an expanded source: what ``KERNEL`` gets when its macros are written out."""
    macros = {
        name: (re.split(r",\s*", names), body.replace("\\\n", "\n"))
        for name, names, body in re.findall(r"#define (\w+)\(([^)]*)\)((?:.*\\\n)*.*)", source)
        if name != "KERNEL"
    }
    code = re.sub(r"#define (?:.*\\\n)*.*", "", source)
    return _entries(code, macros, 0)


def _entries(code: str, macros: dict[str, tuple[list[str], str]], reads: int) -> list[Entry]:
    found = []
    for name, values in re.findall(r"\b([A-Z_]+)\(([^()]*)\)", code):
        arguments = re.split(r",\s*", values)
        if name == "KERNEL":
            found.append(Entry(arguments[0], reads))
        elif name in macros:
            names, body = macros[name]
            for parameter, argument in zip(names, arguments, strict=False):
                body = re.sub(rf"\b{re.escape(parameter)}\b", argument, body)
            needed = _reads(*arguments) if name == "ENTRY" else reads
            found += _entries(re.sub(r"\s*##\s*", "", body), macros, needed)
    return found


def _reads(name: str, rule: str, states: str, parameter: str, gradient: str) -> int:
    """Count the 16-byte reads of as many numbers of each array as fill 16 bytes of the gradient."""
    return 1 + (1 + int(states)) * WIDTHS[parameter] // WIDTHS[gradient]


def sections(ptx: str) -> dict[str, str]:
    """Return the text of each entry by its name, that of the functions it calls included."""
    _, *texts = re.split(r"^(?=(?:\.visible |\.weak )?\.(?:entry|func)\b)", ptx, flags=re.MULTILINE)
    named = {_name(text): text for text in texts if "{\n" in text}
    return {name: _with_callees(name, named, set()) for name, text in named.items() if ".entry" in text[:20]}


def _name(text: str) -> str:
    found = re.match(r"\S*\s*\.?\w*\s*(?:\([^)]*\)\s*)?(\w+)\s*\(", text)
    assert found, text[:80]
    return found[1]


def _with_callees(name: str, named: dict[str, str], seen: set[str]) -> str:
    seen.add(name)
    called = re.findall(r"^\s*(\w+),\s*$", named[name], flags=re.MULTILINE)
    return named[name] + "".join(_with_callees(x, named, seen) for x in called if x in named and x not in seen)


def lint(ptx: str, declared: list[Entry]) -> list[str]:
    """Say what is wrong with the PTX of a source that declares these entries."""
    texts, names = sections(ptx), {entry.name for entry in declared}
    wrong = [what for what, pattern in FORBIDDEN.items() if re.search(pattern, ptx)]
    wrong += [f"{name}: stray double" for name, text in texts.items() if ".f64" in text and not is_double(name)]
    wrong += [f"{name}: not in the source" for name in texts.keys() - names]
    return wrong + [f"{name}: not compiled" for name in names - texts.keys()]


def lint_harness(ptx: str, declared: list[Entry]) -> list[str]:
    """Say what is wrong with how entries of the elementwise harness use memory."""
    texts = sections(ptx)
    wrong = [f"{entry.name}: local memory" for entry in declared if entry.reads and ".local" in texts[entry.name]]
    return wrong + [
        f"{entry.name}: {instruction} of fewer than 16 bytes at once"
        for entry in declared
        for instruction, needed in (("ld", entry.reads), ("st", entry.reads - 1))
        if count(texts[entry.name], instruction) < needed
    ]


def is_double(name: str) -> bool:
    """Tell whether an entry computes in double by definition."""
    return bool(re.search(DOUBLE, name))


def count(text: str, instruction: str) -> int:
    """Count the accesses to device memory of 16 bytes at once."""
    return len(re.findall(rf"\b{instruction}\.global\.(?:v4\.[bfu]32|v2\.[bfu]64)\b", text))
