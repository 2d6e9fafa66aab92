"""What a user gives as a communicator."""

from __future__ import annotations

from typing import Any

from .comm import LOCAL, Communicator
from .mpi import mpi
from .torch import torch_group


def as_communicator(comm: Any) -> Communicator:
    """Return the communicator that ``comm`` is, or that is made of one of mpi4py's or of a process group of torch.

    Raises:
        TypeError: it is none of these.
    """
    if comm is None or isinstance(comm, Communicator):
        return comm or LOCAL
    library = type(comm).__module__.partition(".")[0]
    if library == "mpi4py":
        return mpi(comm)
    if library == "torch" or (library == "builtins" and "torch" in str(type(comm))):
        return torch_group(comm)
    raise TypeError(
        "comm must be a communicator of mpi4py, a process group of torch.distributed, or one that refoptim.distributed "
        f"makes, got {type(comm).__name__}"
    )
