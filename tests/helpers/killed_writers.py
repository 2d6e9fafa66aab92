"""Kills writers of checkpoints, and counts what is lost: ``python tests/helpers/killed_writers.py 1000``.

A process writes one version after the other under one name, and is killed at a random moment. Then there must be a
whole version, not older than the last that was there; and after the next save, nothing beside it. The exit code is 1
unless that was so every time.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from refoptim import checkpoint

NUMBERS = 60_000
"""Of an array: in JSON half a megabyte."""

LONGEST = 0.03
"""Seconds until a process is killed, at most: enough for several versions."""


def save(path: Path, version: int) -> None:
    model = {"w": np.full(NUMBERS, version, np.float32), "b": np.full(3, version)}
    checkpoint.save(path, model=model, version=version)


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


def main(number: int, seed: int = 0) -> dict[str, Any]:
    """Kill a number of writers, of each format in turn, and return what happened."""
    rng, counts = random.Random(seed), np.zeros(3, int)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, suffix[1:], f"x{suffix}") for suffix in (".safetensors", ".npz", ".json")]
        for path in paths:
            save(path, 0)
        for i in range(number):
            counts += trial(paths[i % len(paths)], rng)
    left, lost, stayed = map(int, counts)
    return {"killed": number, "while a part was written": left, "lost": lost, "parts after the next save": stayed}


if __name__ == "__main__":
    found = main(int(sys.argv[1]))
    print(", ".join(f"{what}: {n}" for what, n in found.items()))
    sys.exit(bool(found["lost"] or found["parts after the next save"]))
