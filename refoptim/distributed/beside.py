"""What goes on beside the work of the thread that began it."""

from __future__ import annotations

from _thread import start_new_thread
from collections.abc import Callable
from threading import Event

import numpy as np


class Beside:
    """A function that runs on a thread of its own.

    Args:
        function: what is called.
        torn: what goes wrong is put there.
    """

    def __init__(self, function: Callable[[], None], torn: list[BaseException]) -> None:
        self.function, self.torn, self.done = function, torn, Event()
        start_new_thread(self._run, ())

    def _run(self) -> None:
        try:
            with np.errstate(all="ignore"):
                self.function()
        except BaseException as error:
            self.torn.append(error)
        finally:
            self.done.set()

    def wait(self) -> None:
        """Wait for its end, and raise what went wrong."""
        self.done.wait()
        if self.torn:
            raise self.torn[0]
