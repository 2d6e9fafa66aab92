"""What commands write: through links, into pipes, never two on one path, and whole or not at all on a full disk."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from refoptim.conformance import formats

from helpers import ROOT
from refoptim.commands import drawing, gpu_report
from refoptim.commands.main import main

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links and pipes are those of POSIX")

WRITERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "generate": ("x.npz", ("golden", "generate", "adam", "--json", "-o")),
    "report": ("x.html", ("conformance", "--pattern", "sgd-plain", "--engine", "numpy", "--report")),
    "junit": ("x.xml", ("conformance", "--pattern", "sgd-plain", "--engine", "numpy", "--junit")),
    "plot": ("x.svg", ("plot", "lr", "StepLR(step_size=2)", "--epochs", "3", "-o")),
    "accuracy": (
        "x.png",
        ("accuracy", "--pattern", "sgd-momentum", "--dtype", "float32", "--impl", "numpy", "--steps", "1", "-o"),
    ),
}
"""A file's name, and the command to which it is added."""

NEEDS = {"plot": ("matplotlib",), "accuracy": ("matplotlib", "mpmath")}

writers = [
    pytest.param(name, marks=pytest.mark.skipif(any(find_spec(x) is None for x in NEEDS.get(name, ())), reason="extra"))
    for name in WRITERS
]


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


@pytest.mark.parametrize("name", writers)
def test_a_link_stays_and_what_it_leads_to_keeps_its_mode(tmp_path: Path, name: str) -> None:
    file, command = WRITERS[name]
    target, link = tmp_path / "target", tmp_path / file
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target)
    result = call(*command, link)
    assert result.exit_code == 0, result.output
    assert link.is_symlink() and stat.S_IMODE(target.stat().st_mode) == 0o600
    assert len(target.read_bytes()) > 100 and sorted(tmp_path.iterdir()) == sorted([target, link])


@pytest.mark.parametrize("name", writers)
def test_a_pipe_is_written_into(tmp_path: Path, name: str) -> None:
    file, command = WRITERS[name]
    os.mkfifo(tmp_path / file)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / file).read_bytes()), daemon=True)
    reader.start()
    result = call(*command, tmp_path / file)
    reader.join(60)
    assert result.exit_code == 0, result.output
    assert len(found[0]) > 100 and stat.S_ISFIFO((tmp_path / file).stat().st_mode)
    if name == "generate":
        assert json.loads(result.stdout)["bytes"] == len(found[0])


@pytest.mark.parametrize("name", writers)
def test_a_full_disk_leaves_the_old_file_and_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file, command = WRITERS[name]
    (tmp_path / file).write_bytes(b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    result = call(*command, tmp_path / file)
    assert isinstance(result.exception, SystemExit) and result.exit_code in (1, 2)
    assert result.stderr.count("\n") == 1 and os.strerror(errno.ENOSPC) in result.stderr and file in result.stderr
    assert {x.name: x.read_bytes() for x in tmp_path.iterdir()} == {file: b"old"}


LIMITED = """
import resource, sys
import refoptim
sys.path.insert(0, sys.argv[1])
from importlib.util import find_spec
if find_spec("refoptim.conformance") is None:
    refoptim.__path__.append(sys.argv[1])
from refoptim.commands.main import main
import matplotlib.figure, matplotlib.backends.backend_agg  # its caches of fonts may be large
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
main(sys.argv[2:])
"""


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_picture_is_whole_or_not_there(tmp_path: Path, old: bytes | None) -> None:
    """The process may write 2,000 bytes to a file, and a picture has more."""
    path = tmp_path / "x.png"
    if old:
        path.write_bytes(old)
    command = [sys.executable, "-c", LIMITED, str(ROOT), "plot", "lr", "StepLR(step_size=2)", "-o", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith(f"Error: [Errno {errno.EFBIG}]"), done.stderr
    assert done.stderr.count("\n") == 1 and "x.png" in done.stderr
    assert {x.name: x.read_bytes() for x in tmp_path.iterdir()} == ({"x.png": old} if old else {})


def test_nothing_is_drawn_where_drawing_fails(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    with pytest.raises(ZeroDivisionError), drawing.figure(tmp_path / "x.png", 1, 1):
        1 / 0  # noqa: B018
    assert not [*tmp_path.iterdir()]


def test_two_reports_on_one_path_are_refused_before_anything_is_run(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "link").symlink_to("x")
    for other in ("x", "link"):
        result = call("conformance", "--impl", "no.such:Thing", "--report", tmp_path / "x", "--junit", tmp_path / other)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("Error: --report and --junit are one file: ")
        assert (tmp_path / "x").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("conformance", "--report", "no/x.html"), "there is no such folder: 'no'"),
        (("conformance", "--junit", "no/x.xml"), "there is no such folder: 'no'"),
        (("accuracy", "-o", "no/x.png"), "there is no such folder: 'no'"),
        (("accuracy", "-o", "x.bmp"), "must end in .png or .svg"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_before_anything_is_run(
    arguments: tuple[str, ...], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no such implementation either, which nobody has looked for yet."""
    if arguments[0] == "accuracy":
        pytest.importorskip("mpmath", reason="mpmath is not installed")
    monkeypatch.chdir(tmp_path)
    result = call(*arguments, "--impl", "no.such:Thing")
    assert (result.exit_code, result.stdout) == (2, "")
    assert says in result.stderr and not [*tmp_path.iterdir()]


def test_a_report_of_a_gpu_goes_where_nothing_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reports that a pipe held before are none, and nobody waits for them."""
    path, found = tmp_path / "pipe", list[bytes]()
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()), daemon=True)
    reader.start()
    gpu_report.write("tests", {"passed": 1}, path, {"device": "x"})
    reader.join(60)
    assert json.loads(found[0]) == {"tests": {"where": {"device": "x"}, "found": {"passed": 1}}}


SUITE = ("golden", "export-suite")
ONE = ("--pattern", "sgd-plain", "--dtype", "float32")


@pytest.mark.parametrize("there", [True, False])
def test_a_suite_goes_through_a_linked_folder(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "far").mkdir()
        (tmp_path / "far" / "mine.txt").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("far")
    for _ in range(2):
        result = call(*SUITE, tmp_path / "link", *ONE)
        assert result.exit_code == 0, result.output
        assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "sgd-plain.float32" / "input.bin").exists()
        (tmp_path / "far" / "sgd-plain.float32" / "result.bin").write_bytes(b"mine")
    assert (tmp_path / "far" / "sgd-plain.float32" / "result.bin").read_bytes() == b"mine"
    assert not there or (tmp_path / "far" / "mine.txt").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["sgd-plain.float32", "sgd-plain.float32/case.json", "README.md", "suite.json"])
def test_a_suite_is_not_written_through_links_inside_of_it(tmp_path: Path, name: str) -> None:
    """They may lead to files that are no suite's, or two of them to one folder."""
    suite, mine = tmp_path / "suite", tmp_path / "mine"
    assert call(*SUITE, suite, *ONE).exit_code == 0
    (suite / name).rename(mine)
    (suite / name).symlink_to(mine)
    before = {x: x.read_bytes() for x in mine.rglob("*")} if mine.is_dir() else mine.read_bytes()
    result = call(*SUITE, suite, *ONE)
    assert result.exit_code == 2 and "is a link" in result.stderr
    assert before == ({x: x.read_bytes() for x in mine.rglob("*")} if mine.is_dir() else mine.read_bytes())


@pytest.mark.parametrize(
    ("name", "says"), [("README.md", "holds a README.md and no suite"), ("suite.json", "that is not refoptim's")]
)
def test_a_suite_takes_the_place_of_nothing_but_a_suite(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_text('{"mine": 1}')
    result = call(*SUITE, tmp_path, *ONE)
    assert result.exit_code == 2 and says in result.stderr
    assert {x.name: x.read_text() for x in tmp_path.iterdir()} == {name: '{"mine": 1}'}


def test_a_golden_is_written_into_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "null.json").symlink_to("/dev/null")
    before = os.stat("/dev/null")  # noqa: PTH116
    result = call("golden", "generate", "adam", "-o", tmp_path / "null.json", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["bytes"] > 100
    assert (tmp_path / "null.json").is_symlink()
    assert os.path.samestat(before, os.stat("/dev/null"))  # noqa: PTH116
    assert formats.format_of(tmp_path / "null.json") == "json"
