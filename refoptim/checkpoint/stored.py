"""Zip files whose members are stored as they are: found in a memory map, and written as a stream.

Nothing is unpacked. Members must lie one behind the other between the beginning of the file and its directory.

Source: PKWARE, "APPNOTE.TXT - .ZIP File Format Specification", version 6.3, sections 4.3 to 4.5.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from struct import Struct
from typing import Any, BinaryIO, NamedTuple

from ..formats.strict import shown
from .errors import CheckpointError

LOCAL = Struct("<4s5H3L2H")
"""In front of a member: signature, version, flags, method, time, date, CRC-32, two sizes, lengths of name and extra."""

CENTRAL = Struct("<4s6H3L5H2L")
"""Of a member in the directory: the same, with the version that made it; then the length of a comment, a disk, two
attributes, and where the member begins."""

END = Struct("<4s4H2LH")
"""The end: signature, two disks, two numbers of members, size and place of the directory, length of a comment."""

END64 = Struct("<4sQ2H2L4Q")
"""The same with eight bytes for numbers, places and sizes."""

LOCATOR = Struct("<4sLQL")
"""Between the two: signature, a disk, where the end with eight bytes stands, the number of disks."""

ELSEWHERE = 0xFFFFFFFF
"""Stands for a size or a place for which four bytes are too few; eight stand in the extra field then."""

LARGEST = ELSEWHERE
"""The first size or place for which this is written."""

ALIGNMENT = 64
"""The data of members begin at multiples of this."""

PADDING = b"FB"
"""The extra field that is there for the alignment alone, as torch names it."""

DESCRIBED, UTF8, ENCRYPTED = 1 << 3, 1 << 11, 1
"""Flags: size and CRC-32 stand behind a member too; its name is in UTF-8; it is encrypted."""


class Member(NamedTuple):
    """Where a member's data lie in the file, their CRC-32, and whether they are stored as they are."""

    begin: int
    end: int
    crc: int
    plain: bool


class Entry(NamedTuple):
    """What a file's directory says of a member."""

    name: bytes
    crc: int
    size: int
    place: int
    plain: bool = True


def require(holds: bool, problem: str) -> None:
    """Raise CheckpointError unless something holds; the problem is what is to be said of the file."""
    if not holds:
        raise CheckpointError(problem)


def members(data: Any) -> dict[str, Member]:
    """Return the members of a zip file by name; ``data`` is its memory map, or its bytes.

    Raises:
        CheckpointError: it is cut off or altered.
    """
    begin, end, count = _directory(data)
    found: dict[str, Member] = {}
    spans, at = [], begin
    for _ in range(count):
        entry, at = _entry(data, at, end)
        name, member = _text(entry.name), _member(data, entry)
        if name in found:
            raise CheckpointError(f"has two members of one name, {shown(name)}")
        found[name] = member
        spans.append((entry.place, member.end))
    require(at == end, "is no zip file, or was altered: its directory has other members than it says")
    spans.sort()
    apart = all(ends <= begins for (_, ends), (begins, _) in pairwise([*spans, (begin, end)]))
    require(apart, "was altered: its members lie upon one another")
    return found


def check_plain(found: Mapping[str, Member]) -> None:
    """Raise CheckpointError if a member is compressed or encrypted."""
    packed = [name for name, member in found.items() if not member.plain]
    advice = "unpack it, and zip it with 'zip -0 -r'"
    require(not packed, f"has a compressed or encrypted member, {shown(''.join(packed[:1]))}: {advice}")


def check(data: Any, name: str, member: Member) -> None:
    """Raise CheckpointError unless the data of a member have the CRC-32 that the directory says."""
    if zlib.crc32(memoryview(data)[member.begin : member.end]) != member.crc:
        never = " and was perhaps never computed (torch.serialization.set_crc32_options): load it with verify=False"
        advice = never if member.crc == 0 else ": load an earlier one"
        raise CheckpointError(f"was altered after it was written: the checksum of {shown(name)} is wrong{advice}")


def _directory(data: Any) -> tuple[int, int, int]:
    """Return where the directory begins and ends, and the number of its members."""
    end = len(data) - END.size
    cut = "is cut off, or no zip file: its end is missing"
    require(end >= 0, cut)
    mark, *disks, here, count, size, begin, comment = END.unpack_from(data, end)
    require(mark == b"PK\x05\x06" and comment == 0, cut)
    at = end - LOCATOR.size - END64.size
    if at >= 0 and data[at : at + 4] == b"PK\x06\x06":
        _, length, _, _, *disks, here, count, size, begin = END64.unpack_from(data, at)
        mark, _, place, _ = LOCATOR.unpack_from(data, at + END64.size)
        require(mark == b"PK\x06\x07" and place == at and length == END64.size - 12, cut)
        end = at
    whole = not any(disks) and here == count and begin + size == end and count * CENTRAL.size <= size
    require(whole, "is cut off, or was altered: its directory does not lie where its end says")
    return begin, end, count


def _entry(data: Any, at: int, end: int) -> tuple[Entry, int]:
    """Read what the directory says of a member at ``at``, and return where the next one begins."""
    require(at + CENTRAL.size <= end, "is cut off: its directory is")
    mark, _, _, flags, method, _, _, crc, packed, size, *lengths, disk, _, _, place = CENTRAL.unpack_from(data, at)
    stop = at + CENTRAL.size + sum(lengths)
    require(mark == b"PK\x01\x02" and disk == 0 and stop <= end, "was altered: its directory is no list of members")
    middle = at + CENTRAL.size + lengths[0]
    name, extra = bytes(data[at + CENTRAL.size : middle]), bytes(data[middle : stop - lengths[2]])
    size, packed, place = _wide(extra, [size, packed, place])
    plain = method == 0 and not flags & ENCRYPTED and packed == size
    return Entry(name, crc, packed, place, plain), stop


def _wide(extra: bytes, values: list[int]) -> list[int]:
    """Return sizes and places; those that need more than four bytes stand in the extra field with the number 1."""
    if ELSEWHERE not in values:
        return values
    wide = b""
    while len(extra) >= 4 and not wide:
        kind, length = extra[:2], int.from_bytes(extra[2:4], "little")
        wide, extra = extra[4 : 4 + length] if kind == b"\x01\x00" else b"", extra[4 + length :]
    needed = values.count(ELSEWHERE)
    require(8 * needed <= len(wide) or not wide, "was altered: sizes of members are missing")
    rest = iter(Struct(f"<{needed}Q").unpack_from(wide) if wide else ())
    return [next(rest, x) if x == ELSEWHERE else x for x in values]


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"has a member whose name is no text: {shown(name)}") from None


def _member(data: Any, entry: Entry) -> Member:
    """Return where the data of a member lie; what stands in front of them must name the same member."""
    name, place = entry.name, entry.place
    beyond = place + LOCAL.size > len(data)
    mark, *_, length, extra = (b"", 0, 0) if beyond else LOCAL.unpack_from(data, place)
    begin = place + LOCAL.size + length + extra
    named = bytes(data[place + LOCAL.size : place + LOCAL.size + length]) == name
    if mark != b"PK\x03\x04" or not named or begin + entry.size > len(data):
        raise CheckpointError(f"was altered: {shown(name)} does not lie where its directory says")
    return Member(begin, begin + entry.size, entry.crc, entry.plain)


class Writer:
    """Writes a zip file from its beginning to its end, without going back; ``close`` ends it."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.at = file, 0
        self.entries: list[Entry] = []

    def add(self, name: str, size: int, pieces: Iterable[Any]) -> None:
        """Write a member of ``size`` bytes, which come in pieces."""
        raw, place, crc = name.encode(), self.at, 0
        extra = _extra(size, size) if size >= LARGEST else b""
        short = ELSEWHERE if extra else 0
        extra += _padding(place + LOCAL.size + len(raw) + len(extra))
        self._write(LOCAL.pack(b"PK\x03\x04", 45, DESCRIBED | UTF8, 0, 0, 0x21, 0, short, short, len(raw), len(extra)))
        self._write(raw + extra)
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
            self._write(piece)
        self._write(Struct("<4sLQQ" if size >= LARGEST else "<4sLLL").pack(b"PK\x07\x08", crc, size, size))
        self.entries.append(Entry(raw, crc, size, place))

    def close(self) -> None:
        """Write the directory."""
        begin = self.at
        for entry in self.entries:
            self._write(_central(entry))
        size, count, end = self.at - begin, len(self.entries), self.at
        self._write(END64.pack(b"PK\x06\x06", END64.size - 12, 0x32D, 45, 0, 0, count, count, size, begin))
        self._write(LOCATOR.pack(b"PK\x06\x07", 0, end, 1))
        few = min(count, 0xFFFF)
        self._write(END.pack(b"PK\x05\x06", 0, 0, few, few, _short(size), _short(begin), 0))

    def _write(self, data: Any) -> None:
        self.file.write(data)
        self.at += len(data)


def _central(entry: Entry) -> bytes:
    large = [x for x in (entry.size, entry.size, entry.place) if x >= LARGEST]
    extra = _extra(*large) if large else b""
    size, place = _short(entry.size), _short(entry.place)
    lengths = len(entry.name), len(extra), 0
    start = CENTRAL.pack(
        b"PK\x01\x02",
        0x32D,
        45,
        DESCRIBED | UTF8,
        0,
        0,
        0x21,
        entry.crc,
        size,
        size,
        *lengths,
        0,
        0,
        0o644 << 16,
        place,
    )
    return start + entry.name + extra


def _short(x: int) -> int:
    return x if x < LARGEST else ELSEWHERE


def _extra(*values: int) -> bytes:
    return Struct(f"<HH{len(values)}Q").pack(1, 8 * len(values), *values)


def _padding(at: int) -> bytes:
    """Return an extra field behind which a multiple of ALIGNMENT begins."""
    length = -(at + 4) % ALIGNMENT
    return PADDING + length.to_bytes(2, "little") + bytes(length)
