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

import refoptim
from refoptim.formats.files import replace

from .cases import SCHEMA as SCHEMA
from .cases import Case, load
from .cases import witness as package_of
from .strict import GoldenError as GoldenError
from .strict import read_json, require, shown

WITNESSES = ("torch-ieee", "torch-installed", "package-ieee", "reference")
"""torch under the IEEE oracle and as it is installed, the package that owns a rule under the oracle, and refoptim."""

FRAME_DEPTH = 5
"""How deep a golden is broken into lines: the frame of a recorded step fills one."""

CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))

KEYS = {"schema", "optimizer", "provenance", "trajectories", "checksum"}


def folder() -> Path:
    """Return the folder of the goldens that come with the package."""
    return Path(str(files(__package__))) / "golden"


def witnesses(stem: str) -> tuple[str, ...]:
    """Return the witnesses of an optimizer: torch, or where torch does not have it its package, and refoptim."""
    if getattr(refoptim, load(stem)[0].optimizer).of_torch:
        return ("torch-ieee", "torch-installed", "reference")
    return ("reference",) if package_of(stem) is None else ("package-ieee", "reference")


def runs(witness: str, stem: str) -> list[tuple[Case, str]]:
    """Return what a witness of an optimizer is asked: all cases in all storage types, or those that it has."""
    named = package_of(stem) if witness == "package-ieee" else None
    cases = [case for case in load(stem) if not (witness.startswith("torch-") and case.is_cautious)]
    every = [(case, dtype) for case in cases for dtype in case.dtypes]
    return [(case, dtype) for case, dtype in every if named is None or named.has(case, dtype)]


def read(path: Path, keys: Set[str] = KEYS) -> dict[str, Any]:
    """Read a golden file that holds ``keys``, or raise GoldenError if it is cut off, of another version, or altered."""
    golden = read_json(path)
    if not isinstance(golden, dict) or set(golden) != keys:
        raise GoldenError(f"{path.name} is no golden: it must hold {sorted(keys)}")
    if type(golden["schema"]) is not int or golden["schema"] != SCHEMA:
        raise GoldenError(f"{path.name} has schema {shown(golden['schema'])}, expected {SCHEMA}")
    if golden["checksum"] != checksum(golden):
        raise GoldenError(f"{path.name} was altered after it was recorded: its checksum is wrong")
    require(isinstance(golden["provenance"], dict), f"{path.name} has a provenance that is no object")
    _check_trajectories(golden.get("trajectories", []), path.name)
    return golden


def _check_trajectories(entries: Any, where: str) -> None:
    require(isinstance(entries, list), f"{where} has trajectories that are no list")
    for entry in entries:
        texts = isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("case", "dtype", "sha256"))
        require(texts and isinstance(entry.get("steps"), dict), f"{where} has an entry that is no trajectory")


def checksum(golden: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything but the checksum, as JSON with sorted keys and no spaces."""
    found = hashlib.sha256()
    for piece in CANONICAL.iterencode({key: x for key, x in golden.items() if key != "checksum"}):
        found.update(piece.encode())
    return found.hexdigest()


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
