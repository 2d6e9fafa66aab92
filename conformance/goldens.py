"""Golden files: trajectories of one optimizer as a witness gave them, with their provenance.

``golden/<witness>/<stem>.json`` is read and written here, and made by ``record`` alone.
``docs/contract/goldens.md`` describes the format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from importlib.resources import files
from pathlib import Path
from typing import Any

from refoptim.formats.files import replace

from .cases import SCHEMA as SCHEMA
from .strict import MAX_TEXT, parse, read_bytes, shown
from .strict import GoldenError as GoldenError

WITNESSES = ("torch-ieee", "torch-installed", "reference")
"""torch under the IEEE oracle, torch as it is installed, and refoptim itself."""

FRAME_DEPTH = 5
"""How deep a golden is broken into lines: the frame of a recorded step fills one."""

KEYS = {"schema", "optimizer", "provenance", "trajectories", "checksum"}


def folder() -> Path:
    """Return the folder of the goldens that come with the package."""
    return Path(str(files(__package__))) / "golden"


def read(path: Path, keys: Set[str] = KEYS) -> dict[str, Any]:
    """Read a golden file that holds ``keys``, or raise GoldenError if it is cut off, of another version, or altered."""
    golden = parse(read_bytes(path, MAX_TEXT), path.name)
    if not isinstance(golden, dict) or set(golden) != keys:
        raise GoldenError(f"{path.name} is no golden: it must hold {sorted(keys)}")
    if type(golden["schema"]) is not int or golden["schema"] != SCHEMA:
        raise GoldenError(f"{path.name} has schema {shown(golden['schema'])}, expected {SCHEMA}")
    if golden["checksum"] != checksum(golden):
        raise GoldenError(f"{path.name} was altered after it was recorded: its checksum is wrong")
    return golden


def checksum(golden: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything but the checksum, as JSON with sorted keys and no spaces."""
    contents = {key: x for key, x in golden.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(contents, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write(path: Path, golden: Mapping[str, Any]) -> None:
    """Write a golden file, whole or not at all, the checksum added."""
    text = pretty({**golden, "checksum": checksum(golden)}, FRAME_DEPTH) + "\n"
    replace(path, text.encode("ascii"))


def pretty(x: Any, depth: int, margin: str = "") -> str:
    """Return JSON, broken into lines down to a depth."""
    if depth == 0 or not x or not isinstance(x, (dict, list)):
        return json.dumps(x)
    inner = margin + " "
    if isinstance(x, dict):
        lines = [f"{json.dumps(key)}: {pretty(value, depth - 1, inner)}" for key, value in x.items()]
    else:
        lines = [pretty(value, depth - 1, inner) for value in x]
    begin, end = "{}" if isinstance(x, dict) else "[]"
    return begin + "\n" + ",\n".join(inner + line for line in lines) + "\n" + margin + end
