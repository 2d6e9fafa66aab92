"""Threads of the user's: one optimizer in several, one that outlives the main thread, and forks meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from threading import Barrier, Event, Thread
from types import FrameType, SimpleNamespace
from typing import Any
from weakref import ref

import numpy as np
import pytest

import refoptim
from helpers.rooms import normal
from refoptim.engines import threads
from refoptim.engines.workspace import Workspace
from refoptim.step.changes import make


def test_an_optimizer_stepped_by_several_threads_says_so() -> None:
    """Every step is counted, or refused."""
    arrays = [normal(i, 50) for i in range(20)]
    optimizer, start = refoptim.Adam(arrays), Barrier(4)
    refused: list[str] = []
    taken: list[int] = []

    def attempt() -> None:
        try:
            optimizer.step(grads=arrays)
            taken.append(1)
        except RuntimeError as error:
            refused.append(str(error))

    def work() -> None:
        start.wait()
        for _ in range(100):
            attempt()

    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        users = [Thread(target=work) for _ in range(4)]
        for user in users:
            user.start()
        for user in users:
            user.join()
    finally:
        sys.setswitchinterval(switching)
    steps = {optimizer.state[p]["step"] for p in optimizer.param_groups[0]["params"]}
    assert steps == {len(taken)}
    assert set(refused) == {"this Adam is stepped by another thread: one optimizer takes one step at a time"}


def test_a_second_thread_is_refused_while_the_first_steps() -> None:
    p, inside, go = normal(1, 5), Event(), Event()
    optimizer = refoptim.SGD([p])

    def slow() -> Any:
        inside.set()
        go.wait(20)
        yield p * 2

    first = Thread(target=lambda: optimizer.step(grads=slow()))
    first.start()
    inside.wait(20)
    with pytest.raises(RuntimeError, match="this SGD is stepped by another thread"):
        optimizer.step(grads=[p])
    go.set()
    first.join()
    optimizer.step(grads=[p])


def test_steps_inside_a_closure_of_the_same_optimizer() -> None:
    p = refoptim.Parameter(np.ones(3))
    optimizer = refoptim.SGD([p], lr=0.5)

    def closure() -> float:
        optimizer.step(grads=[np.ones(3)])
        p.grad = np.ones(3)
        return 1.0

    optimizer.step(closure)
    assert p.data.tolist() == [0, 0, 0]


def test_a_step_inside_a_step_is_refused() -> None:
    """As a signal handler might take one, or what computes gradients."""
    p = np.ones(3)
    optimizer = refoptim.SGD([p], lr=0.5)

    def computed() -> Any:
        optimizer.step(grads=[np.ones(3)])
        yield np.ones(3)

    with pytest.raises(RuntimeError, match="this SGD is stepped by this thread"):
        optimizer.step(grads=computed())
    assert p.tolist() == [1, 1, 1]
    optimizer.step(grads=[np.ones(3)])
    q = refoptim.Parameter(np.ones(3))
    lbfgs = refoptim.LBFGS([q])
    with pytest.raises(RuntimeError, match="this LBFGS is stepped by this thread"):
        lbfgs.step(lambda: lbfgs.step(lambda: 1.0))
    assert q.data.tolist() == [1, 1, 1]


def test_a_mark_that_an_interrupt_left_keeps_nobody_out() -> None:
    """What was raised where the mark should have been taken away leaves it."""
    p = np.ones(3)
    optimizer = refoptim.SGD([p], lr=0.5)
    optimizer._stepping[frame_of_the_past()] = threading.get_ident()
    other = Thread(target=lambda: optimizer.step(grads=[np.ones(3)]))
    other.start()
    other.join()
    assert p.tolist() == [0.5] * 3
    optimizer._stepping[frame_of_the_past()] = -1
    optimizer.step(grads=[np.ones(3)])
    assert p.tolist() == [0] * 3


def frame_of_the_past() -> FrameType:
    """Return the frame of a call that is over."""
    return sys._getframe()


def run(code: str, *arguments: str) -> Any:
    """Run a program of its own."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(refoptim.__file__).parents[1])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)


OUTLIVING = """
import threading, time
import numpy as np
import refoptim
from refoptim.engines import blocks

refoptim.set_num_threads(3)

def train():
    threading.main_thread().join()
    p = np.ones(30 * blocks.CHUNK, np.float32)
    optimizer = refoptim.SGD([p], lr=0.5)
    for _ in range(3):
        optimizer.step(grads=[np.ones_like(p)])
    print(set(p.tolist()))

threading.Thread(target=train).start()
"""


def test_a_thread_that_outlives_the_main_thread_goes_on() -> None:
    done = run(OUTLIVING)
    assert (done.stdout, done.stderr) == ("{-0.5}\n", "")


def test_where_no_thread_can_be_started_this_one_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> int:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threads, "start_new_thread", refuse)
    monkeypatch.setattr(threads, "_crews", [threads._Crew()])
    p, q = (np.ones(500_000, np.float32) for _ in range(2))
    refoptim.SGD([p], lr=0.5).step(grads=[np.ones_like(p)])
    assert set(p.tolist()) == {0.5}
    monkeypatch.undo()
    refoptim.SGD([q], lr=0.5).step(grads=[np.ones_like(q)])
    assert np.array_equal(p, q)


def test_what_a_step_worked_with_is_free_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread holds nothing of it any more when it lets the caller go on."""
    workspace, held = Workspace(), []
    alive, release = ref(workspace), threads._python.PyThread_release_lock
    changes = threads.shared_out([int], ["1", "2"], workspace)
    del workspace
    assert alive() is not None
    noting = SimpleNamespace(PyThread_release_lock=lambda gate: (held.append(alive()), release(gate)))
    monkeypatch.setattr(threads, "_python", noting)
    make(changes)
    assert held == [None]


FIRST_USE = """
import faulthandler, os, sys, threading, time
import numpy as np
import refoptim

def first():
    p = np.ones((8, 8), np.float32)
    getattr(refoptim, sys.argv[1])([p], fused=sys.argv[2] == "True" or None).step(grads=[p * 2])

thread = threading.Thread(target=first)
thread.start()
time.sleep(float(sys.argv[3]))
child = os.fork()
if child == 0:
    faulthandler.dump_traceback_later(20, exit=True)
    first()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
thread.join()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("delay", ["0", "0.002"])
@pytest.mark.parametrize("fused", ["False", "True"])
@pytest.mark.parametrize("name", ["Adam", "Adafactor"])
def test_a_fork_during_another_threads_first_step(name: str, fused: str, delay: str) -> None:
    if fused == "True":
        pytest.importorskip("refoptim.kernels")
        if not refoptim.engines.host.LIBRARY.exists():
            pytest.skip("kernels for this computer were not built")
    done = run(FIRST_USE, name, fused, delay)
    assert done.stdout == "done\n", done.stderr


NOTHING_NEW = """
import sys
import numpy as np
import refoptim

before = set(sys.modules)
for name in ("SGD", "Adafactor", "Muon"):
    for fused in (None, bool(refoptim.engines.host.LIBRARY.exists()) or None):
        p = np.ones((4, 4), np.float32)
        optimizer = getattr(refoptim, name)([p], fused=fused)
        optimizer.step(grads=[p * 2])
        optimizer.load_state_dict(optimizer.state_dict())
print(sorted(set(sys.modules) - before))
"""


def test_nothing_is_imported_at_first_use() -> None:
    """A child that is forked while another thread imports something would wait for that import for ever."""
    done = run(NOTHING_NEW)
    assert done.stdout == "[]\n", done.stdout + done.stderr
