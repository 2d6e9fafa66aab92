"""Saving and restoring take little memory beyond the arrays: 100 MB for 2 GB of them."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path
from shutil import disk_usage
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers import ROOT
from refoptim import checkpoint

MIB = 1 << 20

CODE = """
import resource, sys, threading, time
import numpy as np
import refoptim
from refoptim import checkpoint

path, nbytes = sys.argv[1], int(sys.argv[2])
n = nbytes // 4 // 4

def anonymous():
    return next(int(x.split()[1]) << 10 for x in open("/proc/self/status") if x.startswith("RssAnon"))

class Peak:
    def __enter__(self):
        self.peak, self.on = 0, True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self
    def watch(self):
        while self.on:
            self.peak = max(self.peak, anonymous())
            time.sleep(0.002)
    def __exit__(self, *_):
        self.on = False
        self.thread.join()

def made(value):
    w = np.full((n // 1000, 1000), value, np.float32)
    f = np.asfortranarray(w)
    optimizer = refoptim.SGD([w], lr=0.1, momentum=0.9)
    return {"w": w, "f": f}, optimizer

model, optimizer = made(1)
model["extra"] = np.full(n, 3, np.float32)
optimizer.step(grads=[model["w"]])
arrays = anonymous()
with Peak() as save:
    checkpoint.save(path, model=model, optimizer=optimizer)
del model, optimizer
model, optimizer = made(2)
model["extra"] = np.full(n, 4, np.float32)
before = anonymous()
with Peak() as restore:
    checkpoint.restore(path, model=model, optimizer=optimizer)
assert (model["extra"] == 3).all() and (model["w"] == np.float32(0.9)).all() and (model["f"] == 1).all()
state = optimizer.state[optimizer.param_groups[0]["params"][0]]["momentum_buffer"]
assert (state == 1).all()
print(save.peak - arrays, restore.peak - before - state.nbytes)
"""


def beyond(folder: Path, nbytes: int) -> tuple[int, int]:
    """Return the bytes that saving and restoring take beyond the arrays, seen from outside every 2 ms."""
    command = [sys.executable, "-c", CODE, str(folder / "x.safetensors"), str(nbytes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    save, restore = map(int, done.stdout.split())
    return save, restore


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_little_memory_is_taken(tmp_path: Path) -> None:
    save, restore = beyond(tmp_path, 300 * MIB)
    assert save < 100e6 and restore < 40e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_little_memory_is_taken_by_2_gb(tmp_path: Path, record_property: Any) -> None:
    if disk_usage(tmp_path).free < 5e9:
        pytest.skip("there are no 5 GB on the disk")
    found = beyond(tmp_path, 2_000_000_000)
    record_property("beyond", found)
    print("beyond the arrays of 2 GB:", found)
    assert max(found) < 100e6


def peak(action: Any) -> float:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1] / MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_nothing_as_large_as_an_array_is_made(tmp_path: Path, suffix: str) -> None:
    """Neither of the model nor of the state, by a fresh optimizer or by one that has a state to give back."""
    w = np.full(16 * MIB, 1, np.float32)
    optimizer = refoptim.SGD([w], lr=0.1, momentum=0.9)
    optimizer.step(grads=[w])
    path = tmp_path / f"x{suffix}"
    assert peak(lambda: checkpoint.save(path, model=[w], optimizer=optimizer)) < 8
    assert peak(lambda: checkpoint.load(path)) < 8
    other = refoptim.SGD([w], lr=0.1, momentum=0.9)
    assert peak(lambda: checkpoint.restore(path, model=[w], optimizer=other)) < 64 + 8
    assert peak(lambda: checkpoint.restore(path, model=[w], optimizer=optimizer)) < 64 + 8
