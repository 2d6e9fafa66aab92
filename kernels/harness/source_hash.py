"""What tells a library of kernels that was built from these sources from one that was built from others."""

from __future__ import annotations

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parents[1]


def source_hash() -> str:
    """Return a hash of all that the library for this computer is built from, the building included."""
    found = hashlib.sha256()
    for path in sorted([*FOLDER.glob("*.cu"), *FOLDER.glob("harness/*.cu*"), *FOLDER.glob("host/*.*")]):
        text = path.read_bytes()
        found.update(f"{path.relative_to(FOLDER).as_posix()} {len(text)}\n".encode() + text)
    return found.hexdigest()[:32]
