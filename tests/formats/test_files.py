"""How files are written: whole or not at all, through links, into devices, with their modes, and onto the disk."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT
from refoptim.formats import files

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, devices and modes are those of POSIX")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        files.replace(tmp_path / "deep" / "new", b"new")
        (tmp_path / "plain").write_bytes(b"")
    assert mode(tmp_path / "deep" / "new") == mode(tmp_path / "plain") == 0o666 & ~mask


@pytest.mark.parametrize("kept", [0o600, 0o640, 0o666, 0o755])
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path: Path, kept: int) -> None:
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "x").chmod(kept)
    with umask(0o077):
        files.replace(tmp_path / "x", b"new")
    assert (mode(tmp_path / "x"), (tmp_path / "x").read_bytes()) == (kept, b"new")


def test_what_is_private_is_never_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is written, the file that is to take the place of a private one is private."""
    seen: list[int] = []
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "x").chmod(0o600)
    monkeypatch.setattr(files, "_be_like", lambda path, old: seen.append(mode(path)))
    with umask(0):
        files.replace(tmp_path / "x", b"new")
    assert seen == [0o600]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="owners are given by root alone")
def test_a_file_that_is_replaced_keeps_its_owner(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    os.chown(tmp_path / "x", 12, 34)
    files.replace(tmp_path / "x", b"new")
    assert ((tmp_path / "x").stat().st_uid, (tmp_path / "x").stat().st_gid) == (12, 34)


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("further")
    (tmp_path / "further").symlink_to(Path("far", "file"))
    files.replace(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "further").is_symlink()
    assert (tmp_path / "far" / "file").read_bytes() == b"new"
    (tmp_path / "nowhere").symlink_to("later")
    files.replace(tmp_path / "nowhere", b"made")
    assert (tmp_path / "nowhere").is_symlink() and (tmp_path / "later").read_bytes() == b"made"


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match=r"a'$") as caught:
        files.replace(tmp_path / "a", b"new")
    assert caught.value.errno == errno.ELOOP
    assert sorted(x.name for x in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("linked", [False, True])
def test_a_device_is_written_into(tmp_path: Path, linked: bool) -> None:
    """A terminal, in whose folder no file can be made: none of this machine is put at risk."""
    master, slave = os.openpty()
    os.set_blocking(master, False)
    path = Path(os.ttyname(slave))
    if linked:
        (tmp_path / "link").symlink_to(path)
    before = path.stat().st_ino
    files.replace(tmp_path / "link" if linked else path, b"shown")
    assert os.read(master, 100) == b"shown"
    assert stat.S_ISCHR(path.stat().st_mode) and path.stat().st_ino == before
    os.close(master)
    os.close(slave)


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    path, found = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    files.replace(path, bytes(1 << 20))
    reader.join()
    assert found == [bytes(1 << 20)] and stat.S_ISFIFO(path.stat().st_mode)


CODE = """
import sys
from pathlib import Path
from refoptim.formats.files import replace
print("before")
replace(Path(sys.argv[1]), b"data\\n")
print("after")
"""


@pytest.mark.parametrize("name", ["/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1", "link"])
@pytest.mark.parametrize("how", ["wb", "ab", "pipe"])
def test_more_is_written_to_the_standard_output(tmp_path: Path, name: str, how: str) -> None:
    """Whatever it is: a file that is begun or added to, or a pipe; nothing that was printed is lost."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc")
    (tmp_path / "link").symlink_to("/proc/self/fd/1")  # as /dev/stdout is
    command, log = [sys.executable, "-c", CODE, str(tmp_path / name)], tmp_path / "log"
    log.write_bytes(b"old\n")
    if how == "pipe":
        found = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout
    else:
        with log.open(how) as out:
            subprocess.run(command, cwd=ROOT, stdout=out, check=True)
        found = log.read_bytes()
    assert found == (b"old\n" if how == "ab" else b"") + b"before\ndata\nafter\n"


def full(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


def stopped(*_: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("fail", [full, stopped])
@pytest.mark.parametrize("where", ["fsync", "replace", "_be_like"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_what_fails_leaves_what_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Callable[..., Any], where: str, old: bytes | None
) -> None:
    path = tmp_path / "x"
    if old is not None:
        path.write_bytes(old)
    elif where == "_be_like":
        where = "fsync"
    monkeypatch.setattr({"fsync": os, "replace": Path, "_be_like": files}[where], where, fail)
    with pytest.raises((OSError, KeyboardInterrupt)) as caught:
        files.replace(path, b"new")
    assert isinstance(caught.value, KeyboardInterrupt) or str(caught.value).endswith(f"{str(path)!r}")
    assert {x.name: x.read_bytes() for x in tmp_path.iterdir()} == ({} if old is None else {"x": old})


LIMITED = """
import resource, sys
from pathlib import Path
from refoptim.formats.files import replace
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    replace(Path(sys.argv[1]), bytes(200_000))
except OSError as error:
    print(error)
"""


def test_a_file_that_may_not_be_so_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "x")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: {str(tmp_path / 'x')!r}\n"
    assert {x.name: x.read_bytes() for x in tmp_path.iterdir()} == {"x": b"old"}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anything")
def test_a_file_that_may_not_be_written_stays(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    (tmp_path / "x").chmod(0o444)
    with pytest.raises(PermissionError, match=r"x'$"):
        files.replace(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"old"


def test_contents_reach_the_disk_before_the_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else f"{os.fstat(handle).st_size} bytes")
        real_sync(handle)

    def replace(self: Path, target: Path) -> Path:
        done.append("name")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    files.replace(tmp_path / "x", b"12345")
    assert done == ["5 bytes", "name", "folder"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(IsADirectoryError, match=r"x'$"):
        files.replace(tmp_path / "x", b"new")


def test_two_outputs_on_one_path_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "twin").hardlink_to(tmp_path / "a")
    for x, y in [("a", "a"), ("a", "link"), ("a", "twin"), ("new", "new"), ("new", "../" + tmp_path.name + "/new")]:
        with pytest.raises(ValueError, match=r"^-o and --report are one file: "):
            files.refuse_same({"-o": tmp_path / x, "--report": tmp_path / y})
    files.refuse_same({"-o": tmp_path / "a", "--report": tmp_path / "b", "--junit": None, "--more": None})
