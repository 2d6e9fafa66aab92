"""A checkpoint that is cut off, of which a bit is another, or that lies: one line of CheckpointError, or whole.

Memory is bounded by the file, whatever it says.
"""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import ROOT
from helpers.kept import kept
from helpers.sampling import EACH
from refoptim import checkpoint
from refoptim.checkpoint import CheckpointError, single
from refoptim.formats import npz, safetensors
from refoptim.formats.strict import Layout

SUFFIXES = (".safetensors", ".npz", ".json")
FLIPS = 200
MANY_FLIPS = 10_000


def content() -> dict[str, Any]:
    """Return something of every kind, small."""
    arrays = {"w": np.array([[1.5, -2.0], [np.nan, -0.0]], np.float32), "c": np.array([1 + 2j]), "n": np.array(7)}
    plain = {"lr": 0.1, "betas": (0.9, 0.999), "inf": float("inf"), 3: [None, True, "é"], "x": np.float32(0.1)}
    return {"model": arrays, "optimizer": plain, "big": 1 << 100}


def written(folder: Path, suffix: str) -> Path:
    return checkpoint.save(folder / f"x{suffix}", metadata={"note": "kept"}, **content())


def outcome(path: Path, data: bytes) -> str | None:
    """Return the line with which data are refused; None if they hold what was saved, and fail for all else."""
    path.write_bytes(data)
    try:
        found = checkpoint.load(path)
    except CheckpointError as error:
        text = str(error)
        assert text.isprintable() and text and len(text) < 600
        return text
    assert kept(found) == kept(content()), "wrong values"
    return None


@EACH
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_truncation(tmp_path: Path, suffix: str, each: int) -> None:
    data, path = written(tmp_path, suffix).read_bytes(), tmp_path / f"y{suffix}"
    whole = [n for n in reversed(range(len(data) - 1, -1, -each)) if outcome(path, data[:n]) is None]
    assert whole == ([len(data) - 1] if suffix == ".json" else [])  # without its last line feed JSON is whole


def flipped(folder: Path, suffix: str, number: int) -> tuple[int, int]:
    """Turn single bits; return how many files were refused, and how many still held what was saved."""
    data, path, rng = written(folder, suffix).read_bytes(), folder / f"y{suffix}", random.Random(0)
    counts = [0, 0]
    for bit in rng.choices(range(8 * len(data)), k=number):
        other = bytearray(data)
        other[bit // 8] ^= 1 << bit % 8
        counts[outcome(path, bytes(other)) is None] += 1
    return counts[0], counts[1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_some_bits(tmp_path: Path, suffix: str) -> None:
    refused, _ = flipped(tmp_path, suffix, FLIPS)
    assert refused > FLIPS // 2


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ten_thousand_bits(tmp_path: Path, suffix: str, record_property: Any) -> None:
    refused, harmless = flipped(tmp_path, suffix, MANY_FLIPS)
    record_property("flips", {"refused": refused, "harmless": harmless})
    print(suffix, refused, harmless)
    assert refused + harmless == MANY_FLIPS and refused > MANY_FLIPS // 2


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_bytes_that_are_added_or_moved(tmp_path: Path, suffix: str) -> None:
    data, path, rng = written(tmp_path, suffix).read_bytes(), tmp_path / f"y{suffix}", random.Random(1)
    assert outcome(path, data + b"\0") is not None and outcome(path, b"") is not None
    for _ in range(200):
        i, j = sorted(rng.choices(range(len(data)), k=2))
        outcome(path, data[:i] + data[j:])
        outcome(path, data[:i] + data[i:j] * 2 + data[j:])
        outcome(path, data[:i] + rng.randbytes(j - i) + data[j:])


# files that lie: their own digests are right


def description(tree: Any, names: list[str] | None = None, **more: Any) -> dict[str, Any]:
    start = {"format": "refoptim checkpoint", "schema": 1, "refoptim": "x", "metadata": None, "tree": tree}
    return {"complex128": [], **single.with_digest({**start, **more}, dict.fromkeys(names or [], "0" * 64))}


def tensors(path: Path, tree: Any, table: dict[str, Any], data: bytes = b"", **more: Any) -> None:
    """Write a safetensors file with any table of arrays."""
    text = json.dumps(description(tree, [*table], **more))
    header = json.dumps({"__metadata__": {"refoptim": text}, **table}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)


def array(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def as_json(path: Path, tree: Any, **arrays: Any) -> None:
    path.write_text(json.dumps({"arrays": arrays, **description(tree, [*arrays])}))


def deep(n: int, inner: Any = None) -> Any:
    tree: Any = inner
    for _ in range(n):
        tree = {"$tuple": [tree]}
    return {"x": tree}


def bomb(path: Path) -> None:
    """Write an array that unpacks to a thousand times the file."""
    found = Layout("uint8", (1 << 28,))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("a.npy", "w") as member:
            member.write(npz.npy_header(found))
            for _ in range(1 << 8):
                member.write(bytes(1 << 20))
        archive.writestr("checkpoint.json", json.dumps(description({"x": {"$array": "a"}}, ["a"])))


def nearly_a_bomb(path: Path) -> None:
    """Write a description that is all commas."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("checkpoint.json", "[" + "0," * (6 << 20) + "0]")


X = {"x": {"$array": "a"}}
LIES: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a huge shape": (".safetensors", lambda p: tensors(p, X, {"a": array([1 << 40], 0, 1 << 42)}), "says"),
    "a shape beyond all sizes": (
        ".safetensors",
        lambda p: tensors(p, X, {"a": array([1 << 40] * 3, 0, 4)}),
        "more than",
    ),
    "no elements, and many": (".safetensors", lambda p: tensors(p, X, {"a": array([0, 1 << 80], 0, 0)}), "more than"),
    "a negative size": (".safetensors", lambda p: tensors(p, X, {"a": array([-1], 0, 4)}, bytes(4)), "more than"),
    "a size that is true": (".safetensors", lambda p: tensors(p, X, {"a": array([True], 0, 4)}, bytes(4)), "shape"),
    "arrays upon one another": (
        ".safetensors",
        lambda p: tensors(p, X, {"a": array([1], 0, 4), "b": array([1], 0, 4)}, bytes(4)),
        "does not lie",
    ),
    "a gap": (".safetensors", lambda p: tensors(p, X, {"a": array([1], 4, 8)}, bytes(8)), "does not lie"),
    "more behind": (".safetensors", lambda p: tensors(p, X, {"a": array([1], 0, 4)}, bytes(8)), "says"),
    "a dtype of no one": (".safetensors", lambda p: tensors(p, X, {"a": array([1], 0, 1, "F8_E4M3")}, b"0"), "dtype"),
    "an endless header": (".safetensors", lambda p: p.write_bytes(b"\xff" * 7 + b"\x7f" + bytes(100)), "cut off"),
    "too deep": (".json", lambda p: as_json(p, deep(60)), "deep"),
    "as deep as it gets": (".json", lambda p: as_json(p, deep(20, {"$nothing": 1})), "nobody has written"),
    "far too deep": (".json", lambda p: p.write_text("[" * 100_000), "deep"),
    "an array that is not there": (".json", lambda p: as_json(p, X), "not there"),
    "a huge array of no bits": (
        ".json",
        lambda p: as_json(p, X, a={"dtype": "bool", "shape": [1 << 50], "bits": ""}),
        "other bits",
    ),
    "an endless integer": (".json", lambda p: p.write_text('{"arrays": {}, "x": ' + "9" * 100_000 + "}"), "digits"),
    "a name twice": (".json", lambda p: p.write_text('{"arrays": {}, "arrays": {}}'), "twice"),
    "NaN in JSON": (".json", lambda p: p.write_text('{"arrays": {}, "x": NaN}'), "NaN"),
    "a bomb": (".npz", bomb, "unpacks"),
    "a description that is none": (".npz", nearly_a_bomb, "entries"),
    "two marks": (".json", lambda p: as_json(p, {"x": {"$tuple": [], "$float": "0"}}), "nobody has written"),
    "a key that is a list": (".json", lambda p: as_json(p, {"x": {"$items": [[[], 1]]}}), "keys"),
    "equal keys": (".json", lambda p: as_json(p, {"x": {"$items": [[1, 1], [1, 2]]}}), "keys"),
    "keys of one hash": (
        ".json",
        lambda p: as_json(p, {"x": {"$items": [[k * (2**61 - 1), 0] for k in range(50_000)]}}),
        "keys",
    ),
    "pairs that are none": (".json", lambda p: as_json(p, {"x": {"$items": [[1]]}}), "pairs"),
    "a scalar of no dtype": (".json", lambda p: as_json(p, {"x": {"$scalar": ["object", "00"]}}), "dtype"),
    "a scalar of other bits": (".json", lambda p: as_json(p, {"x": {"$scalar": ["float32", "00"]}}), "bits"),
    "a float that is none": (".json", lambda p: as_json(p, {"x": {"$float": [1]}}), "hexadecimal"),
    "half a complex number": (".json", lambda p: as_json(p, {"x": {"$complex": ["00"]}}), "pair"),
    "parts that are a list": (".json", lambda p: as_json(p, [1]), "no parts"),
    "complex numbers that are none": (
        ".safetensors",
        lambda p: tensors(p, X, {"a": array([1], 0, 4)}, bytes(4)),
        "altered",
    ),
    "another format": (
        ".json",
        lambda p: p.write_text('{"arrays": {}, "format": "refoptim trajectory"}'),
        "no checkpoint",
    ),
    "someone else's": (".safetensors", lambda p: p.write_bytes(safetensors.header({}, {})), "load_arrays"),
    "a newer schema": (
        ".json",
        lambda p: p.write_text(json.dumps({"arrays": {}, **description({}), "schema": 2})),
        "newer",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_lies(tmp_path: Path, name: str) -> None:
    """Each is refused for what it is, without memory for what it promises."""
    suffix, write, part = LIES[name]
    path = tmp_path / f"x{suffix}"
    write(path)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(path)
        used = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert part in str(caught.value) and str(caught.value).isprintable()
    assert used < 8 * path.stat().st_size + (48 << 20)


MEASURE = """
import sys
from refoptim import checkpoint
def status(key):
    return next(int(x.split()[1]) << 10 for x in open("/proc/self/status") if x.startswith(key))
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
try:
    checkpoint.load(sys.argv[1])
    said = "read"
except checkpoint.CheckpointError as error:
    said = str(error)
print(status("VmHWM") - before, said)
"""


def wide(path: Path) -> None:
    """Write one character that makes every other take four bytes."""
    path.write_text('{"a": "😀' + "a" * (32 << 20) + '"}', encoding="utf-8")


def numbers(path: Path) -> None:
    checkpoint.save(path, model={"w": np.ones(8 << 20, np.float32)}, note="é")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize(
    "suffix, write, said",
    [
        (".json", wide, "no object"),
        (".json", numbers, "read"),
        (".npz", bomb, "unpacks"),
        (".safetensors", numbers, "read"),
    ],
)
def test_memory_is_bounded_by_the_file(tmp_path: Path, suffix: str, write: Callable[[Path], Any], said: str) -> None:
    """Seen from outside, in a process of its own."""
    path = tmp_path / f"x{suffix}"
    write(path)
    command = [sys.executable, "-c", MEASURE, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    used, _, found = done.stdout.partition(" ")
    assert said in found
    assert int(used) < 7 * path.stat().st_size + (64 << 20)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are those of POSIX")
@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".json"])
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="is no file"):
        checkpoint.load(path)
    assert checkpoint.latest(tmp_path) is None


def test_a_deflated_file_of_numpy_is_read(tmp_path: Path) -> None:
    """What someone packed again holds what was saved."""
    path = written(tmp_path, ".npz")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    assert outcome(path, out.getvalue()) is None
