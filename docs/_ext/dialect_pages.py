"""The pages of dialects: the optimizers of other libraries, what differs in them, and what that means."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import md
import ports

from refoptim.dialects import FLAGS
from refoptim.dialects.preset import known, witness

FOLDER = "dialects"

INTRO = """The optimizers of these libraries are in `refoptim.dialects`, as [their page](../check/dialects.md) shows.
Names and arguments are torch's. Differences that only change the rounding are named where they are known; others that
are not named leave the trajectories one within rounding, as far as the cases of the suite go."""


def pages() -> dict[str, str]:
    """Return the pages: a section for each library, and one for the differences; and what was found, rule by rule."""
    libraries = [library_section(library, made) for library, made in known().items()]
    index = md.sections("The dialects of each library", INTRO, *libraries, flags_section())
    return {"index.md": index, "ports.md": ports.page()}


def library_section(library: str, made: dict[str, Any]) -> str:
    """Return what a library's module says, what it was held to, and a table of its optimizers."""
    module = import_module(f"refoptim.dialects.{library}")
    text = [" ".join(part.split()) for part in (module.__doc__ or "").replace("``", "`").split("\n\n")]
    rows = [(f"`{name}`", differences(cls), defaults(cls)) for name, cls in made.items()]
    table = md.table(("optimizer", "differences", "defaults of its own"), rows)
    return md.section(f"{library}", *text, f"Held to {witness(library)}.", table)


def differences(made: Any) -> str:
    """Return the flags of a preset, as links to what they mean."""
    return ", ".join(f"[{flag}](#{flag.lower()})" for flag in made.flags) or "none"


def defaults(made: Any) -> str:
    """Return the defaults of a preset that are not refoptim's."""
    return ", ".join(f"`{name}={x!r}`" for name, x in made.defaults_of_its_own.items()) or "refoptim's"


def flags_section() -> str:
    """Return what the flags mean, and which dialects have them."""
    of: dict[str, list[str]] = {}
    for library, made in known().items():
        for name, cls in made.items():
            for flag in cls.flags:
                of.setdefault(flag, []).append(f"{library}.{name}")
    found = {flag: f"\n\nIn {', '.join(of[flag])}." if flag in of else "" for flag in sorted(FLAGS)}
    parts = [f"### {flag}\n\n{FLAGS[flag].meaning}{where}" for flag, where in found.items()]
    return md.section("What the differences are", *parts)
