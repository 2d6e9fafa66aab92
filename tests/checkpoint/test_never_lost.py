"""Whatever happens while a checkpoint is written: there is the old one or the new one, and an error is one line."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import ROOT
from refoptim import checkpoint
from refoptim.formats import files
from refoptim.formats.digests import Digest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals, limits and modes are those of POSIX")

SUFFIXES = (".safetensors", ".npz", ".json", ".pt")


def program(code: str, *arguments: Any, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600, **more)


def kills(number: int) -> Any:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(ROOT / "tests" / "helpers" / "killed_writers.py"), str(number)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


KILLED = ("x.safetensors", "x.npz", "x.json", "x.pt", "x")


def test_nothing_is_lost_when_writers_are_killed() -> None:
    found = kills(50)
    assert {form: x["killed"] for form, x in found.items()} == dict.fromkeys(KILLED, 10)
    assert sum(x["while a part was written"] for x in found.values()) > 5


@pytest.mark.slow
def test_nothing_is_lost_when_a_thousand_writers_are_killed(record_property: Any) -> None:
    found = kills(1000)
    record_property("kills", found)
    assert {form: x["killed"] for form, x in found.items()} == dict.fromkeys(KILLED, 200)
    assert all(x["while a part was written"] for x in found.values())


def names(folder: Path) -> list[str]:
    return sorted(x.name for x in folder.iterdir())


def save(path: Path, version: int, size: int = 1000) -> None:
    checkpoint.save(path, model={"w": np.full(size, version)}, version=version)


ENDED = """
import sys
import numpy as np
from refoptim import checkpoint
print("begun", flush=True)
while True:
    checkpoint.save(sys.argv[1], model={"w": np.full(300_000, 2)}, version=2)
"""


@pytest.mark.sweep(2)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_writer_that_is_told_to_end_leaves_the_old_one_or_the_new_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    for i in range(5):
        save(path, 1)
        command = [sys.executable, "-c", ENDED, str(path)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"begun\n"
            time.sleep(0.002 * i)
            writer.send_signal(signal.SIGTERM)
        assert writer.returncode == -signal.SIGTERM
        assert checkpoint.load(path)["version"] in (1, 2)
        save(path, 3)
        assert names(tmp_path) == [path.name]


LIMITED = """
import resource, sys
import numpy as np
from refoptim import checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoint.save(sys.argv[1], model={"w": np.arange(200_000)})
except OSError as error:
    print(error)
"""


@pytest.mark.sweep(3)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("old", [True, False])
def test_a_file_that_may_not_be_so_large(tmp_path: Path, suffix: str, old: bool) -> None:
    path = tmp_path / f"x{suffix}"
    if old:
        save(path, 1)
    done = program(LIMITED, path)
    assert done.stdout == f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: {str(path)!r}\n", done.stderr
    assert names(tmp_path) == ([path.name] if old else [])
    assert not old or checkpoint.load(path)["version"] == 1


def full(*_: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def stopped(*_: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("fail", [full, stopped])
@pytest.mark.parametrize("where", ["fsync", "replace", "write"])
def test_a_full_disk_and_an_interrupt(tmp_path: Path, suffix: str, fail: Callable[..., Any], where: str) -> None:
    path = tmp_path / f"x{suffix}"
    save(path, 1)
    written = (zlib, "crc32") if suffix == ".pt" else (Digest, "update")
    owner, name = {"fsync": (os, "fsync"), "replace": (Path, "replace"), "write": written}[where]
    with pytest.MonkeyPatch.context() as patch, pytest.raises((OSError, KeyboardInterrupt)) as caught:
        patch.setattr(owner, name, fail)
        save(path, 2)
    assert fail is stopped or str(caught.value) == f"[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}: {str(path)!r}"
    assert names(tmp_path) == [path.name] and checkpoint.load(path)["version"] == 1


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the refusal is played."""
    path = tmp_path / "x.npz"
    save(path, 1)
    real = os.open

    def refusing(name: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_CREAT and Path(name).parent == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))
        return real(name, flags, *more, **named)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(PermissionError, match=r"x\.npz'$") as caught:
        save(path, 2)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["x.npz"] and checkpoint.load(path)["version"] == 1


READ_ONLY = """
import os, sys
import numpy.random  # which NumPy imports at first use
from refoptim import checkpoint
os.setuid(65534)
try:
    checkpoint.save(sys.argv[1], version=2)
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root alone becomes someone else")
def test_a_folder_of_another_user(tmp_path: Path) -> None:
    folder = Path("/tmp", f"refoptim_read_only_{os.getpid()}")  # others may not look into pytest's folders
    folder.mkdir(mode=0o755)
    try:
        save(folder / "x.npz", 1)
        done = program(READ_ONLY, folder / "y.npz")
        assert done.stdout == f"[Errno {errno.EACCES}] {os.strerror(errno.EACCES)}: {str(folder / 'y.npz')!r}\n"
        assert names(folder) == ["x.npz"]
    finally:
        for x in folder.iterdir():
            x.unlink()
        folder.rmdir()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_contents_and_name_reach_the_disk_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
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
    save(tmp_path / f"x{suffix}", 1)
    assert done == [f"{(tmp_path / f'x{suffix}').stat().st_size} bytes", "name", "folder"]


def test_two_threads_under_one_name(tmp_path: Path) -> None:
    """Whoever is last wins; nobody meets half of the other's."""
    path, wrong = tmp_path / "x.safetensors", []
    save(path, 0)

    def write(version: int) -> None:
        try:
            for _ in range(20):
                save(path, version, 50_000)
                found = checkpoint.load(path)
                assert (found["model"]["w"] == found["version"]).all()
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=write, args=[i]) for i in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and names(tmp_path) == ["x.safetensors"]


TWO = """
import sys
import numpy as np
from refoptim import checkpoint
for _ in range(20):
    checkpoint.save(sys.argv[1], model={"w": np.full(50_000, int(sys.argv[2]))}, version=int(sys.argv[2]))
    found = checkpoint.load(sys.argv[1])
    assert (found["model"]["w"] == found["version"]).all()
"""


def test_two_processes_under_one_name(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO, str(tmp_path / "x.npz")]
    writers = [subprocess.Popen([*command, str(i)], cwd=ROOT, stderr=subprocess.PIPE, text=True) for i in (1, 2)]
    said = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    assert names(tmp_path) == ["x.npz"] and checkpoint.load(tmp_path / "x.npz")["version"] in (1, 2)


def test_parts_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    own = files.partial_name(path).name
    with subprocess.Popen([sys.executable, "-c", "pass"]) as dead:
        pass
    left, living = (own.replace(f".{os.getpid()}.", f".{pid}.") for pid in (dead.pid, os.getppid()))
    others = [
        own.replace(".x.", ".y.").replace(f".{os.getpid()}.", f".{dead.pid}."),
        ".x.safetensors.elsewhere.1.a.partial",
    ]
    for name in (left, living, *others):
        (tmp_path / name).write_bytes(b"half")
    save(path, 1)
    assert names(tmp_path) == sorted([living, *others, path.name])
    assert checkpoint.latest(tmp_path) == path


def test_what_cannot_be_saved_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save(path, 1)
    for wrong in ({"a": object()}, {"a": {1, 2}}, np.array([None]), {(1, 2): 3}, np.ma.masked_array([1])):
        with pytest.raises(TypeError, match=r"^data[.\w]* cannot be saved: "):
            checkpoint.save(path, model={"w": np.ones(3)}, data=wrong)
    assert names(tmp_path) == ["x.npz"] and checkpoint.load(path)["version"] == 1
