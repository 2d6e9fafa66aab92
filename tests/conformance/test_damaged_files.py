"""A file that is cut off anywhere, or of which any bit is another, is refused as GoldenError, or read as it was.

A reader is tried on every truncation of a small file and on bits that are drawn.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import export, formats, goldens, record_lr, text
from refoptim.conformance.strict import Layout
from refoptim.conformance.verify import verify_file

from helpers.sampling import EACH
from refoptim.commands import gpu_report

FLIPS = 2000
FEWER = 200
"""Bits that are turned, one at a time; fewer where reading takes long."""

Reader = Callable[[Path], Any]


def trajectory(path: Path) -> Any:
    """Return what a trajectory file says, as texts and bytes."""
    header, tensors = formats.read(path)
    return header, {name: (x.dtype.name, x.shape, x.tobytes()) for name, x in tensors.items()}


def write_trajectory(path: Path) -> None:
    task = {"scheduler": "StepLR(step_size=1)", "lr": 0.1, "momentum": 0.9, "steps": 2, "seed": 0}
    tensors = {"lr": np.array([0.1, 0.01, 0.001]), "param.0": np.array([[1.5, -2.0]], np.float32)}
    formats.write(path, formats.Trajectory({"case": task, "provenance": {"witness": "x"}}, tensors))


def write_deflated(path: Path) -> None:
    write_trajectory(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def write_golden(path: Path) -> None:
    golden = goldens.read(goldens.folder() / "reference" / "sgd.json")
    entry = golden["trajectories"][0]
    goldens.write(path, {**golden, "trajectories": [{**entry, "steps": dict([*entry["steps"].items()][:1])}]})


def write_schedules(path: Path) -> None:
    shutil.copy(record_lr.paths()[0], path)


def write_suite(path: Path) -> None:
    export.export(path.parent, export.runs(["sgd-plain"], ["float32"])[:1])


def write_report(path: Path) -> None:
    path.write_text(json.dumps({"tests": {"where": {"device": "x"}, "found": {"passed": 3}}}))


KINDS: dict[str, tuple[str, Callable[[Path], None], Reader, int, int]] = {
    "npz": ("x.npz", write_trajectory, trajectory, 1, FLIPS),
    "deflated npz": ("x.npz", write_deflated, trajectory, 1, FLIPS),
    "json": ("x.json", write_trajectory, trajectory, 1, FLIPS),
    "safetensors": ("x.safetensors", write_trajectory, trajectory, 1, FLIPS),
    "csv": ("x.csv", write_trajectory, trajectory, 1, FLIPS),
    "golden": ("x.json", write_golden, goldens.read, 7, FLIPS),
    "golden of a scheduler": ("x.json", write_schedules, record_lr.read, 97, FEWER),
    "suite": ("suite.json", write_suite, lambda path: export.entries(path.parent), 7, FEWER),
    "report": ("x.json", write_report, gpu_report.read, 1, FLIPS),
}
"""A name, who writes such a file, who reads it, how far the ends of truncations are apart, and the bits to turn."""

UNSIGNED = ("suite", "report")
"""Files without a digest: one that can be read may say something else."""


def damaged(whole: bytes, apart: int, flips: int) -> Iterator[bytes]:
    """Yield a file cut off, and with other bits."""
    for end in sorted({*range(0, len(whole), apart), *range(max(0, len(whole) - 100), len(whole))}):
        yield whole[:end]
    rng = np.random.default_rng(0)
    for place, bit in zip(rng.integers(0, len(whole), flips), rng.integers(0, 8, flips), strict=True):
        yield whole[:place] + bytes([whole[place] ^ (1 << int(bit))]) + whole[place + 1 :]


@EACH
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_damaged_is_refused_or_read_as_it_was(tmp_path: Path, kind: str, each: int) -> None:
    name, write, read, apart, flips = KINDS[kind]
    path, apart, flips = tmp_path / name, apart * each, flips // each
    write(path)
    whole, original, refused, tried = path.read_bytes(), read(path), 0, 0
    for data in damaged(whole, apart, flips):
        path.write_bytes(data)
        tried += 1
        try:
            found = read(path)
        except goldens.GoldenError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert found == original or kind in UNSIGNED
    assert tried > flips and refused > tried / 3


@pytest.mark.parametrize("name", ["result.bin", "result.csv", "state.momentum_buffer.bin"])
def test_results_that_are_cut_off_are_refused(tmp_path: Path, name: str) -> None:
    run = next(x for x in export.runs(["sgd-momentum"], ["float32"]))
    export.export(tmp_path, [run])
    here = tmp_path / run.folder
    tensors = export.generate.trajectory(run.case, run.dtype)
    whole = solution(here, tensors, name)
    assert next(export.judge(tmp_path)).summary == "EXACT"
    for end in (0, 1, 7, len(whole) // 2, len(whole) - 3):
        (here / name).write_bytes(whole[:end])
        assert next(export.judge(tmp_path)).refused


def solution(here: Path, tensors: dict[str, Any], name: str) -> bytes:
    """Write the right result, and return the bytes of one of its files."""
    count = sum(key.startswith("param.") for key in tensors)
    steps = range(1, len(tensors["param.0"]))
    numbers = [(k, i, tensors[f"param.{i}"][k]) for k in steps for i in range(count)]
    if name.endswith("csv"):
        rows = [
            f"{k},{i},{j},{word:08x}"
            for k, i, x in numbers
            for j, word in enumerate(x.ravel().view(np.uint32).tolist())
        ]
        (here / name).write_text("\n".join([export.RESULT_COLUMNS, *rows]) + "\n")
    else:
        (here / "result.bin").write_bytes(b"".join(x.tobytes() for _, _, x in numbers))
    if name.startswith("state"):
        kept = [tensors[f"state.{i}.momentum_buffer"][k - 1].tobytes() for k in steps for i in range(count)]
        (here / name).write_bytes(b"".join(kept))
    return (here / name).read_bytes()


def test_an_array_without_elements_has_no_rows() -> None:
    column = text.Column(Layout("float32", (2, 0)))
    assert not column.take("0", "0", "3f800000")
    assert column.array("x").shape == (2, 0)


def signed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write a golden that anyone could have made: its checksum is right."""
    golden = goldens.read(goldens.folder() / "reference" / "sgd.json")
    change(golden)
    path.write_text(json.dumps({**golden, "checksum": goldens.checksum(golden)}))


def first_parameter(golden: dict[str, Any]) -> Any:
    return next(iter(golden["trajectories"][0]["steps"].values()))["parameters"][0]


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g.update(provenance=7),
        lambda g: g.update(trajectories=7),
        lambda g: g.update(trajectories={"a": 1}),
        lambda g: g["trajectories"].append({}),
        lambda g: g["trajectories"][0].update(steps=[]),
        lambda g: first_parameter(g).update(bits="f" * 1000),
        lambda g: first_parameter(g).update(bits=7),
        lambda g: first_parameter(g).update(shape=[2**70]),
        lambda g: first_parameter(g).update(dtype=["float32"]),
    ],
)
def test_goldens_with_a_right_checksum_and_wrong_contents_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    signed(tmp_path / "x.json", change)
    with pytest.raises(goldens.GoldenError):
        verify_file(tmp_path / "x.json")
