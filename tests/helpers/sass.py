"""What NVIDIA's assembler makes of kernels, read from nvdisasm's listing: loops, loads, and what waits for them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from .ptx import WIDTHS, Entry

ONE_STAGE = re.compile(r"L+W*")
"""All loads of a loop are on their way before the first is waited for."""

MOST = {"adan": 150, "ademamix": 140}
"""Instructions for an element where they may be more than 120: for two quotients more than Adam's, and for one."""

PREDICATE = re.compile(r"^@!?U?P\w+\s+")


@cache
def disassembler() -> str | None:
    """Return where nvdisasm is: in PATH, in CUDA's folder, or in NVIDIA's package nvidia-cuda-nvdisasm."""
    package = find_spec("nvidia")
    wheels = (package and package.submodule_search_locations) or ()
    folders = [str(path) for wheel in wheels for path in Path(wheel).glob("*/bin")]
    folders += [f"{os.environ[name]}/bin" for name in ("CUDA_PATH", "CUDA_HOME") if os.environ.get(name)]
    return shutil.which("nvdisasm") or shutil.which("nvdisasm", path=os.pathsep.join(folders))


class Listing(NamedTuple):
    """The instructions of a kernel, and at which of them its labels stand."""

    code: list[str]
    labels: dict[str, int]

    def following(self, i: int) -> Iterator[int]:
        """Yield what may come after instruction ``i``; a call comes back."""
        text = PREDICATE.sub("", self.code[i])
        certain = text == self.code[i]
        if text.startswith("BRA"):
            target = re.search(r"\(\.(L_x_\d+)\)", text)
            if target and target[1] in self.labels:
                yield self.labels[target[1]]
            certain = certain and not re.search(r"BRA\S* !?U?P\d", text)
        if not (certain and text.startswith(("BRA", "EXIT", "RET"))) and i + 1 < len(self.code):
            yield i + 1

    def way_round(self, start: int) -> list[str]:
        """Return the shortest way from an instruction back to it, nothing if there is none."""
        before: dict[int, int | None] = {start: None}
        waiting = deque([start])
        while waiting:
            i = waiting.popleft()
            for j in self.following(i):
                if j == start:
                    return [self.code[k] for k in _back(i, before)]
                if j not in before:
                    before[j] = i
                    waiting.append(j)
        return []

    def loops(self, opcode: str) -> list[list[str]]:
        """Return the shortest way round through each instruction whose name begins so, the shortest first."""
        found = (self.way_round(i) for i, x in enumerate(self.code) if PREDICATE.sub("", x).startswith(opcode))
        return sorted(filter(None, found), key=len)


def _back(i: int | None, before: dict[int, int | None]) -> list[int]:
    way = []
    while i is not None:
        way.append(i)
        i = before[i]
    return way[::-1]


def listings(binary: bytes) -> dict[str, Listing]:
    """Return the kernels of a binary by their names."""
    program = disassembler()
    assert program
    with TemporaryDirectory() as folder:
        path = Path(folder, "kernels.cubin")
        path.write_bytes(binary)
        done = subprocess.run([program, "-c", path], check=True, capture_output=True, text=True)
    _, *parts = re.split(r"^\.text\.(\w+):\n", done.stdout, flags=re.MULTILINE)
    return {name: _listing(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _listing(text: str) -> Listing:
    found = Listing([], {})
    for line in re.split(r"^\s*\.section", text, flags=re.MULTILINE)[0].splitlines():
        if label := re.match(r"\.(L_x_\d+):", line):
            found.labels[label[1]] = len(found.code)
        elif instruction := re.match(r"\s*/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
            found.code.append(instruction[1])
    return found


def stages(loop: list[str]) -> str:
    """Write an L for each load from memory, and a W where what was loaded is used, after which all else is there."""
    found, pending = "", set[str]()
    for text in loop:
        load = re.match(r"LDG\.E(?:\.(\d+))?\S* R(\d+), desc\[UR\d+\]\[(R\d+)", PREDICATE.sub("", text))
        if pending & set([load[3]] if load else re.findall(r"\bR\d+\b", text)):
            found, pending = found + "W", set()
        if load:
            found += "L"
            pending |= {f"R{int(load[2]) + i}" for i in range(int(load[1] or 32) // 32)}
    return found


def count(loop: list[str], opcode: str) -> int:
    """Count the instructions whose name begins so."""
    return sum(PREDICATE.sub("", x).startswith(opcode) for x in loop)


def complaints(stem: str, binary: bytes, declared: Sequence[Entry]) -> Iterator[str]:
    """Yield what is wrong with the loop of each entry of the elementwise harness: loads that wait, numbers spilled."""
    found = listings(binary)
    for entry in declared:
        if entry.reads:
            (shortest, *_) = found[entry.name].loops("LDG.E.128")
            if not ONE_STAGE.fullmatch(stages(shortest)):
                yield f"{entry.name}: a load waits for another: {stages(shortest)}"
            if len(shortest) > MOST.get(stem, 120) * (16 // WIDTHS[_gradient(entry.name)]):
                yield f"{entry.name}: {len(shortest)} instructions"
            if count(found[entry.name].code, "LDL") + count(found[entry.name].code, "STL"):
                yield f"{entry.name}: registers are spilled"


def _gradient(entry: str) -> str:
    """Return the storage of the gradient of an entry."""
    storage = re.search(r"_(float64|float32|b?float16)(_master)?$", entry)
    assert storage
    return {"float64": "double", "float32": "float"}.get(storage[1], storage[1])
