"""Kills writers of checkpoints, and counts what is lost: ``python tests/helpers/killed_writers.py 1000``.

A process writes one version after the other under one name, and is killed at a random moment; files of each format and
folders of shards take turns. Then there must be a whole version, not older than the last that was there; and after the
next save, nothing beside it. The exit code is 1 unless that was so every time.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from itertools import count, cycle, islice
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from refoptim import checkpoint

NUMBERS = 60_000
"""Of an array: in JSON half a megabyte."""

LONGEST = 0.03
"""Seconds until a process is killed, at most: enough for several versions."""

FORMS = ("x.safetensors", "x.npz", "x.json", "x.pt", "x")
"""The names of what is written; the one without a suffix is a folder."""

WHAT = ("killed", "while a part was written", "lost", "parts after the next save")


def save(path: Path, version: int) -> None:
    model = {"w": np.full(NUMBERS, version, np.float32), "b": np.full(3, version)}
    checkpoint.save(path, shards=None if path.suffix else 3, model=model, version=version)


def version_of(path: Path) -> int:
    """Return the version that a file holds; raise if it holds no whole one."""
    found = checkpoint.load(path)
    version: int = found["version"]
    assert all((x == version).all() for x in found["model"].values()), "a mixture of versions"
    return version


def kill_a_writer(path: Path, first: int, rng: random.Random) -> None:
    """Let a process write versions from ``first`` on until it is killed."""
    child = os.fork()
    if child == 0:
        for version in count(first):
            save(path, version)
    time.sleep(rng.uniform(0, LONGEST))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def trial(path: Path, rng: random.Random) -> tuple[bool, bool, bool]:
    """Kill one writer; tell whether it left a part behind, whether a version was lost, and whether the part stays."""
    before = version_of(path)
    kill_a_writer(path, before + 1, rng)
    left = len(list(path.parent.iterdir())) > 1
    try:
        after = version_of(path)
    except Exception as error:
        print(f"lost: {error}", file=sys.stderr)
        after = -1
    save(path, max(after, before) + 1)
    return left, after < before, [x.name for x in path.parent.iterdir()] != [path.name]


def main(number: int, seed: int = 0) -> dict[str, dict[str, int]]:
    """Kill a number of writers, of each form in turn, and return what happened by form."""
    rng, counts = random.Random(seed), {form: np.zeros(4, int) for form in FORMS}
    with tempfile.TemporaryDirectory() as folder:
        paths = {form: Path(folder, str(i), form) for i, form in enumerate(FORMS)}
        for path in paths.values():
            save(path, 0)
        for form in islice(cycle(FORMS), number):
            counts[form] += (1, *trial(paths[form], rng))
    return {form: dict(zip(WHAT, map(int, found), strict=True)) for form, found in counts.items()}


if __name__ == "__main__":
    found = main(int(sys.argv[1]))
    print(json.dumps(found, indent=1))
    sys.exit(any(x["lost"] or x["parts after the next save"] for x in found.values()))
