"""Reading a file takes at most four times its size and 64 MiB, whatever it holds: measured from outside, in a process.

Files are of the largest JSON that can be read, or of a few hundred kilobytes that unpack to hundreds of megabytes.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import formats, goldens, words

from helpers import ROOT
from refoptim.formats import npz

HEAD: dict[str, Any] = {"format": "refoptim trajectory", "schema": 1, "case": {}}

LARGE = 62 << 20
"""Bytes of a text that is nearly as long as can be read."""

MEASURE = """
import sys
sys.path.insert(0, sys.argv[1])
import refoptim
from importlib.util import find_spec
if find_spec("refoptim.conformance") is None:
    refoptim.__path__.append(sys.argv[1])
from pathlib import Path
from refoptim.conformance import formats, verify
def status(key):
    return next(int(x.split()[1]) << 10 for x in open("/proc/self/status") if x.startswith(key))
path, before = Path(sys.argv[2]), status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
try:
    found = (verify.verify_file if path.name == "golden.json" else formats.read)(path)
    said = "read"
except formats.GoldenError as error:
    said = str(error)
print(status("VmHWM") - before, said)
"""


def text(path: Path) -> None:
    """Write one array of float32 numbers as a text."""
    count = LARGE // 9
    entry = {"dtype": "float32", "shape": [1, count], "bits": ("3f800000 " * count)[:-1]}
    path.write_text(json.dumps({**HEAD, "tensors": {"param.0": entry}}))


def golden(path: Path) -> None:
    """Write a golden, rightly signed, with a parameter that is far too large."""
    found = goldens.read(goldens.folder() / "reference" / "sgd.json")
    count, frame = LARGE // 9, next(iter(found["trajectories"][0]["steps"].values()))
    frame["parameters"][0] = {"dtype": "float32", "shape": [count], "bits": ("3f800000 " * count)[:-1]}
    path.write_text(json.dumps({**found, "checksum": goldens.checksum(found)}))


def numbers(path: Path) -> None:
    formats.write(path, formats.Trajectory({"case": {}}, {"param.0": np.ones((1, LARGE // 4), np.float32)}))


def wide(path: Path) -> None:
    """Write one character that makes every other take four bytes."""
    path.write_text('{"a": "😀' + "a" * LARGE + '"}', encoding="utf-8")


def escaped(path: Path) -> None:
    path.write_text('{"a": "\\ud83d\\ude00' + "a" * LARGE + '"}')


def npy(x: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, x)
    return out.getvalue()


def bomb(path: Path) -> None:
    """Write zeros that unpack to eight hundred times as many bytes."""
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("header.json", json.dumps(HEAD))
        archive.writestr("param.0.npy", npy(np.zeros((1, 30 << 20))))
    assert path.stat().st_size < 2 << 20


def small_bombs(path: Path) -> None:
    """Write as many zeros as are just allowed."""
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps(HEAD))
        archive.writestr("param.0.npy", npy(np.zeros((1, (npz.MAX_UNPACKED >> 1) - 200), np.float16)))


def entries(path: Path) -> None:
    path.write_text("[" + '{"":[]},' * 66_000 + "[]]")


CASES: list[tuple[str, Callable[[Path], None], str]] = [
    ("x.json", text, "read"),
    ("golden.json", golden, "has other arrays than expected"),
    ("x.npz", numbers, "read"),
    ("x.safetensors", numbers, "read"),
    ("x.json", wide, "characters beyond ASCII and more than 4194304 bytes"),
    ("x.json", escaped, "characters beyond ASCII and more than 4194304 bytes"),
    ("x.npz", bomb, "unpacks to more than can be read"),
    ("x.npz", small_bombs, "read"),
    ("x.json", entries, "has no object 'tensors'"),
]


@pytest.mark.sweep(3)
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc")
@pytest.mark.parametrize(("name", "write", "says"), CASES, ids=[f"{x[1].__name__}-{x[0]}" for x in CASES])
def test_reading_takes_little_memory(tmp_path: Path, name: str, write: Callable[[Path], None], says: str) -> None:
    path = tmp_path / name
    write(path)
    command = [sys.executable, "-c", MEASURE, str(ROOT), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    peak, _, said = done.stdout.partition(" ")
    assert says in said
    assert int(peak) <= 4 * path.stat().st_size + (64 << 20), f"{int(peak) >> 20} MiB"


def test_words_of_no_axes_are_read() -> None:
    x = np.array(1.5, np.float32)
    assert words.from_words(words.to_words(x), words.layout_of(x)) == 1.5


def test_a_deep_file_is_refused_where_it_is_read(tmp_path: Path) -> None:
    """Fifty lists in one another can be written again; a thousand can be read, and not be written."""
    for depth in (51, 300, 900, 100_000):
        (tmp_path / "x.json").write_text('{"a": ' + "[" * depth + "]" * depth + ', "tensors": {}}')
        with pytest.raises(formats.GoldenError, match="nested too deeply"):
            formats.read(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"a": ' + "[" * 40 + "]" * 40 + ', "tensors": {}}')
    with pytest.raises(formats.GoldenError, match="no trajectory of refoptim"):
        formats.read(tmp_path / "x.json")
