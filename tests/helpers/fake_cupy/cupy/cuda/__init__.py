"""What stands for ``cupy.cuda``."""

from .._gpu import Device, Event, Graph, Stream, alloc_pinned_memory, get_current_stream
from . import driver, runtime

__all__ = ["Device", "Event", "Graph", "Stream", "alloc_pinned_memory", "driver", "get_current_stream", "runtime"]
