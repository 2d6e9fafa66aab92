"""The threads on which engines share out large arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np

_threads: list[int] = [0]


def set_num_threads(n: int) -> None:
    """Use ``n`` threads for large arrays; 0 stands for the number of processors this process may use."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 0:
        raise ValueError(f"the number of threads must be an integer in [0, inf), got {n!r}")
    _threads[0] = n


def get_num_threads() -> int:
    """Return the number of threads used for large arrays."""
    return _threads[0] or _processors()


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def for_each(worker: Callable[[], Callable[[Any], None]], items: Sequence[Any]) -> None:
    """Call a function on every item, on several threads where there are enough; floating-point flags raise nothing.

    ``worker`` is called once in each thread and returns the function that this thread uses.
    """

    def share(part: Sequence[Any]) -> None:
        work = worker()
        with np.errstate(all="ignore"):
            for item in part:
                work(item)

    threads = min(get_num_threads(), len(items) // 2)
    if threads < 2:
        share(items)
    else:
        list(_pool(os.getpid(), threads).map(share, [items[i::threads] for i in range(threads)]))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return the threads of this process; a forked child makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="refoptim")
