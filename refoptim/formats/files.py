"""Files that are written whole or not at all: ``replace`` and ``replacing`` are how the library and its commands write.

Until a file is whole it stands under another name beside the one it is to take, ``.NAME.HOST.PID.….partial``. A process
that is killed leaves that behind; the next one that writes there takes it away.
"""

from __future__ import annotations

import errno
import glob
import os
import platform
import re
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

MOST_LINKS = 40
"""Links that are followed one after the other; Linux follows as many."""


def replace(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all; into what is no regular file (a device, a pipe, ``/dev/stdout``) write.

    Raises:
        OSError: it cannot be written. What was there is as it was, and nothing is left beside it.
    """
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write a file piece by piece: it takes its name when the block ends, and not at all if the block raises.

    A symbolic link is followed: what it leads to is replaced, and the link stays. A file that is replaced keeps its
    mode, and its owner where this process may give it; a new one has the mode that the umask leaves. Folders that are
    missing are made. When this returns, contents and name have reached the disk.

    Raises:
        OSError: it cannot be written. What was there is as it was, and nothing is left beside it.
    """
    try:
        old = _status(path)
        number = _stream(path)
        if number is not None:
            opened = _written_into(os.dup(number))
        elif old is not None and not stat.S_ISREG(old.st_mode):
            opened = _written_into(os.open(path, os.O_WRONLY))
        else:
            opened = _beside(path.resolve(), old)
        with opened as file:
            yield file
    except OSError as error:  # it may name the file that was to take the place
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def refuse_same(outputs: Mapping[str, Path | None]) -> None:
    """Raise ValueError if two outputs of one command, by the names of their options, are one file."""
    seen: dict[object, str] = {}
    for option, path in outputs.items():
        if path is not None and (other := seen.setdefault(_identity(path), option)) != option:
            raise ValueError(f"{other} and {option} are one file: {str(path)!r}")


def require_folder(path: Path) -> None:
    """Raise FileNotFoundError unless the folder of a file exists."""
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", str(path.parent))


def _identity(path: Path) -> object:
    status = _status(path)
    return path.resolve() if status is None else (status.st_dev, status.st_ino)


def _status(path: Path) -> os.stat_result | None:
    """Return what there is at the end of all links, None if there is nothing."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _stream(path: Path) -> int | None:
    """Return the number of the open file of this process that ``/dev/stdout`` or ``/dev/fd/3`` stand for, if one does.

    It may be a regular file, in which more is written: to replace it, or to open it anew, would lose that.
    """
    place = path.absolute()
    for _ in range(MOST_LINKS):
        folder = place.parent.resolve()
        if place.name.isdigit() and re.fullmatch(rf"/dev/fd|/proc/(self|{os.getpid()})/(task/\d+/)?fd", str(folder)):
            return int(place.name)
        if not place.is_symlink():
            break
        place = folder / place.readlink()
    return None


@contextmanager
def _written_into(handle: int) -> Iterator[BinaryIO]:
    for stream in filter(None, (sys.stdout, sys.stderr)):  # what was printed before stands before
        stream.flush()
    with os.fdopen(handle, "wb") as file:
        yield file


@contextmanager
def _beside(target: Path, old: os.stat_result | None) -> Iterator[BinaryIO]:
    """Open a file beside the one to be replaced, and let it take its name at the end."""
    if old is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    target.parent.mkdir(parents=True, exist_ok=True)
    clean(target)
    beside = partial_name(target)
    try:
        with open(beside, "xb", opener=partial(os.open, mode=0o666 if old is None else 0o600)) as file:
            yield file
            file.flush()
            if old is not None:
                _be_like(beside, old)
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    settle(target.parent)


def partial_name(target: Path) -> Path:
    """Return the name under which this process may write what is to take the place of ``target``."""
    host = re.sub(r"[^\w-]", "_", platform.node())[:40]
    name = target.name if len(target.name) <= 100 else target.name[:100]
    return target.with_name(f".{name}.{host}.{os.getpid()}.{os.urandom(4).hex()}.partial")


def clean(target: Path) -> None:
    """Take away what processes of this computer that were killed have left of a file or folder."""
    mine = partial_name(target).name.split(".")[:-3]
    for found in sorted(target.parent.glob(f"{glob.escape('.'.join(mine))}.*.partial")):
        pid = found.name.split(".")[-3]
        if pid.isdigit() and not _lives(int(pid)):
            with suppress(OSError):
                shutil.rmtree(found) if found.is_dir() else found.unlink()


def _lives(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # there, asking would end it
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _be_like(path: Path, old: os.stat_result) -> None:
    """Give a file the owner of another, if that is allowed, and then its mode, which a new owner may have cleared."""
    if hasattr(os, "chown") and (old.st_uid, old.st_gid) != (path.stat().st_uid, path.stat().st_gid):
        with suppress(PermissionError):
            os.chown(path, old.st_uid, old.st_gid)
    path.chmod(stat.S_IMODE(old.st_mode))


def settle(folder: Path) -> None:
    """Let the names in a folder reach the disk, where folders can be asked for that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
