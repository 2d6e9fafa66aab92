"""CuPy arrays that are shared out, with the stand-in for CuPy: what goes where; it has not yet run on a GPU."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers import ranks
from helpers.on_gpu import off, on
from helpers.ranks import outcomes, plain_run
from helpers.rooms import SETTINGS
from refoptim import Parameter
from refoptim.clip_grad import clip_grad_norm_
from refoptim.distributed import Sharded, nccl
from refoptim.distributed.comm import Communicator, Pending


class OnHost(Communicator):
    """A communicator that takes arrays of the host alone, as an MPI that knows no GPU."""

    any_thread = False

    def __init__(self, inner: Communicator) -> None:
        self.inner, self.rank, self.size = inner, inner.rank, inner.size

    def start(self, sends: Any, receives: Any) -> Pending:
        assert all(isinstance(x, np.ndarray) for x in (*sends, *receives))
        return self.inner.start(sends, receives)

    def agree(self, numbers: Any) -> list[int]:
        return self.inner.agree(numbers)

    def gather(self, value: Any) -> list[Any]:
        return self.inner.gather(value)


def trained(comm: Any, cupy: Any, name: str, **more: Any) -> str:
    """Train on CuPy arrays as ``shared_run`` does on NumPy's."""
    own = ranks.PIECES // comm.size
    params = [Parameter(on(cupy, p.data)) for p in ranks.made(name, "float32")]
    opt = Sharded(getattr(refoptim, name), params, comm, pieces=own, bucket=8192, **SETTINGS[name], **more)
    for step in range(2):
        for i in range(own):
            opt.add([on(cupy, g) for g in ranks.gradient(name, "float32", step, comm.rank * own + i)])
        opt.clip_grad_norm_(3.0)
        opt.step()
    whole = opt.gather_state_dict()
    return ranks.digest([off(p.data) for p in params], whole["state"]) if whole else ""


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adafactor"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_through_the_host(gpu: Any, size: int, name: str) -> None:
    found = outcomes(size, lambda comm: trained(OnHost(comm), gpu, name))
    assert found[0] == plain_run(name, "float32")
    assert "order_sums_float32" in gpu.world.counters.launches


@pytest.mark.parametrize("name", ["AdamW", "Adafactor"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_nccl(gpu: Any, size: int, name: str) -> None:
    api = importlib.import_module("cupy.cuda.nccl")
    job = (*api.get_unique_id(), size, name)
    found = outcomes(size, lambda comm: trained(nccl(comm.rank, size, job), gpu, name))
    assert found[0] == plain_run(name, "float32")


def test_there_is_no_such_rank() -> None:
    with pytest.raises(ValueError, match=r"rank must be an integer in \[0, size\)"):
        nccl(2, 2, ())


def test_clipping_needs_arrays_in_one_place(gpu: Any) -> None:
    params = [Parameter(on(gpu, np.ones(3, np.float32))), Parameter(np.ones(3, np.float32))]
    with pytest.raises(ValueError, match="must lie in one place"):
        Sharded(refoptim.SGD, params, lr=0.1)
    assert clip_grad_norm_([], 1.0) == 0
