"""Gradients divided by the scale of the loss, a launch for each dtype: the kernel of clipping."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from operator import setitem
from typing import Any

import numpy as np

from refoptim.engines.fused import in_line
from refoptim.engines.machine import Machine, Recorder
from refoptim.engines.workspace import Workspace
from refoptim.numerics.arith import Array, arithmetic, storage
from refoptim.step.changes import Change

from .harness.tables import Table


def unscale(machine: Machine, gradients: Sequence[Array], inverse: Any, workspace: Workspace) -> list[Change]:
    """Return what multiplies real gradients in place by a float32 number that lies where they do."""
    machine = Recorder(machine)
    lines = [in_line(machine, x) for x in gradients]
    coefficients = {np.dtype(name): inverse.astype(name).reshape(1) for name in ("float32", "float64")}
    for dtype in dict.fromkeys(x.dtype for x in lines):
        table = Table(machine, [(x.size, machine.address(x)) for x in lines if x.dtype == dtype])
        entry = f"clip_grad_scale_{storage(dtype).name}"
        table.launch("clip_grad", entry, table.bucket((0, 0, 0, 0)), coefficients[arithmetic(dtype)])
    workspace.used += [lines, machine, coefficients]
    copied = [(x, line) for x, line in zip(gradients, lines, strict=True) if x is not line]
    return [*machine.changes, *(partial(setitem, x, ..., line) for x, line in copied)]
