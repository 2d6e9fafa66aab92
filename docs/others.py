"""Write a section of docs/check/others.md: refoptim diagnose --impl optax --json | python docs/others.py"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent / "check/others.md"

END = "<!-- end of the libraries -->"


def section(document: dict[str, Any]) -> str:
    """Return what was found in a library, a line for each optimizer and scheduler."""
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    head = ["| | verdict | what differs | agreement |", "|---|---|---|---|"]
    rows = [f"| {' | '.join(row(said))} |" for said in document["diagnoses"]]
    return "\n".join([begin(document["implementation"]), "", versions + ".", "", *head, *rows, "", ""])


def begin(name: str) -> str:
    """Return the heading of a library."""
    return f"## {name}"


def row(said: dict[str, Any]) -> list[str]:
    """Return the cells of an optimizer or of a scheduler."""
    name = said.get("optimizer") or said["scheduler"]
    differs = " + ".join(f"`{flag}`" for flag in said["names"]) or "–"
    tied = [" + ".join(f"`{flag}`" for flag in flags) for flags in said["tied"]]
    return [name, said["verdict"], ", or as well ".join([differs, *tied]), agreement(said)]


def agreement(said: dict[str, Any]) -> str:
    """Say how well what was found explains what was seen."""
    if said["verdict"] == "unknown":
        return "–"
    if "scheduler" in said:
        apart = said["error"] if said["names"] else said["distance"]
        return f"{said['curves']} curves, " + (f"to {apart:.1g}" if apart else "to the bit")
    unit = f"{said['ulps_of']} ULP".lstrip()
    how = "to the bit" if said["exact"] else f"to {said['ulps']:.2g} {unit}"
    return f"{said['agree']} of {said['cases']} cases, {how}"


def main() -> None:
    """Put the section in the place of that of the same library, or behind all."""
    document = json.load(sys.stdin)
    text, end, rest = PAGE.read_text(encoding="utf-8").partition(END)
    before, heading, after = text.partition(begin(document["implementation"]) + "\n")
    _, following, others = after.partition("\n## ")
    kept = following.lstrip() + others if heading else ""
    PAGE.write_text(before + section(document) + kept + end + rest, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
