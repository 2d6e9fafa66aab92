"""A machine for PTX: executes what NVRTC makes of kernels, on NumPy arrays, and finds what a GPU would not say.

    module = Module(text)
    module.launch("scale", 4, 256, x, np.float32(2), np.int64(x.size))

An array among the arguments is passed by its address, None as a null pointer, and a NumPy scalar, structured or not, by
value. ``memory`` adds arrays whose addresses stand in tables. What must not happen raises a ``Fault``.

- ``text`` reads PTX; ``instructions`` is the one table of what instructions compute; ``translate`` makes steps of both,
  ``program`` the code of a kernel, ``module`` what can be launched.
- ``threads`` runs the steps for many threads at once; ``memory`` holds what they read and write; ``races`` compares.
- ``compiled`` asks NVRTC; ``machine`` is what refoptim's engine launches kernels on, ``stand_in`` what CuPy's is.
"""

from .faults import BarrierFault, Fault, MemoryFault, NotKnown, Race, Uninitialized
from .memory import Arrays
from .module import Module

__all__ = ["Arrays", "BarrierFault", "Fault", "MemoryFault", "Module", "NotKnown", "Race", "Uninitialized"]
