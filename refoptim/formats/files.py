"""Files that are written whole or not at all: ``replace`` is how the library and its commands write."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

MOST_LINKS = 40
"""Links that are followed one after the other; Linux follows as many."""


def replace(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all; into what is no regular file (a device, a pipe, ``/dev/stdout``) write.

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
            _write_into(os.dup(number), data)
        elif old is not None and not stat.S_ISREG(old.st_mode):
            _write_into(os.open(path, os.O_WRONLY), data)
        else:
            _replace(path.resolve(), old, data)
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


def _write_into(handle: int, data: bytes) -> None:
    for stream in filter(None, (sys.stdout, sys.stderr)):  # what was printed before stands before
        stream.flush()
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def _replace(target: Path, old: os.stat_result | None, data: bytes) -> None:
    """Write a file beside the one to be replaced, and let it take its name."""
    if old is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{os.urandom(8).hex()}.tmp")
    try:
        with open(beside, "xb", opener=partial(os.open, mode=0o666 if old is None else 0o600)) as file:
            file.write(data)
            file.flush()
            if old is not None:
                _be_like(beside, old)
            os.fsync(file.fileno())
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    _settle(target.parent)


def _be_like(path: Path, old: os.stat_result) -> None:
    """Give a file the owner of another, if that is allowed, and then its mode, which a new owner may have cleared."""
    if hasattr(os, "chown") and (old.st_uid, old.st_gid) != (path.stat().st_uid, path.stat().st_gid):
        with suppress(PermissionError):
            os.chown(path, old.st_uid, old.st_gid)
    path.chmod(stat.S_IMODE(old.st_mode))


def _settle(folder: Path) -> None:
    """Let the names in a folder reach the disk, where folders can be asked for that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
