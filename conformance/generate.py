"""Trajectories of the reference: any optimizer, any storage type, any shapes, any seed.

The arrays of a trajectory, with one more axis in front that counts the steps:

    grad.i          the gradient of parameter i in step 1, 2, …
    estimate.i      for a rule that takes estimates: that of step 1, 2, …; zeros where there is none
    rows.i          for a sparse gradient: the rows that its entries, which are grad.i, belong to
    state.i.name    what is kept of parameter i after step 1, 2, …; 0 as long as there is nothing
    param.i         parameter i before step 1, and after step 1, 2, …
    loss            for an optimizer that calls a closure: the loss before step 1, 2, …

An optimizer that calls a closure is driven on the quadratic: with the curvatures and targets of the gradient source
``quadratic``, the loss is the sum of ``2**-(i mod 4) / 2 * (p - target)**2`` over all reals, computed in float64 and
added in their order. Of its state only what keeps its shape is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import refoptim
from refoptim import SparseGrad
from refoptim.numerics.arith import Array, as_reals
from refoptim.numerics.ieee import check_arithmetic
from refoptim.optimizers.closure import ClosureOptimizer, count

from .cases import Case
from .gradients import Quadratic, make_source
from .record import provenance
from .reference import Reference
from .strict import GOLDEN
from .tasks import check
from .trajectory import Frame, State, run

Watch = Callable[[Iterable[Frame]], Iterable[Frame]]
"""Passes frames on, and shows how far they are."""


class Recording(Reference):
    """refoptim as an implementation that remembers the gradients of its last step."""

    def step(self, grads: Sequence[Any], estimates: Sequence[Any] | None = None) -> None:
        self.grads, self.estimates = grads, estimates
        super().step(grads, estimates)


def trajectory(case: Case, dtype: str, watch: Watch = iter) -> dict[str, Array]:
    """Run a case on the reference and return its arrays; ``watch`` sees each frame pass by."""
    check_arithmetic()
    cls = getattr(refoptim, case.optimizer)
    if issubclass(cls, ClosureOptimizer):
        return _closure_trajectory(case, dtype, watch)
    recording, source = Recording(), make_source(case.gradient, case.shapes, dtype)
    first, grads, frames = [x.copy() for x in source.parameters()], [], []
    estimates: list[Any] = []
    for frame in watch(run(recording, case, dtype)):
        grads.append([_copied(g) for g in recording.grads])
        estimates += [] if recording.estimates is None else [list(map(_copied, recording.estimates))]
        frames.append(_kept(frame))
    inputs = _stack_grads(grads, case, source)
    for i, shape in enumerate(case.shapes if estimates else ()):
        empty = np.zeros(shape, source.dtype)
        inputs[i][f"estimate.{i}"] = np.stack([empty if row[i] is None else row[i] for row in estimates])
    return _assemble(first, frames, inputs)


def _copied(grad: Any) -> Any:
    if grad is None or not isinstance(grad, SparseGrad):
        return None if grad is None else np.array(grad)
    return grad


def _kept(frame: Frame) -> Frame:
    """Copy a frame: arrays change with the next step."""
    state = [{name: x if isinstance(x, int) else np.array(x) for name, x in kept.items()} for kept in frame.state]
    return Frame(frame.step, [np.array(x) for x in frame.parameters], state)


def _stack_grads(grads: list[list[Any]], case: Case, source: Any) -> list[dict[str, Array]]:
    """Stack the gradients of each parameter over the steps, zeros where there is none."""
    found = []
    for i, shape in enumerate(case.shapes):
        column = [row[i] for row in grads]
        if "nnz" in case.gradient:
            found.append(_stack_sparse(column, case.gradient["nnz"], shape, source.dtype))
        else:
            empty = np.zeros(shape, source.dtype)
            found.append({f"grad.{i}": np.stack([empty if g is None else np.asarray(g) for g in column])})
    return [{key.partition(".")[0] + f".{i}": x for key, x in entry.items()} for i, entry in enumerate(found)]


def _stack_sparse(column: list[Any], nnz: int, shape: tuple[int, ...], dtype: Any) -> dict[str, Array]:
    rows, entries = np.zeros((len(column), nnz), np.int64), np.zeros((len(column), nnz, *shape[1:]), dtype)
    for k, g in enumerate(column):
        if g is not None:
            rows[k], entries[k] = g.indices[0], g.values
    return {"rows.": rows, "grad.": entries}


def _assemble(first: list[Array], frames: list[Frame], grads: list[dict[str, Array]]) -> dict[str, Array]:
    """Put the arrays of a trajectory in order: by parameter gradient, state, and the parameter itself."""
    tensors: dict[str, Array] = {}
    for i, p in enumerate(first):
        tensors |= grads[i] if grads else {}
        tensors |= {f"state.{i}.{name}": x for name, x in _stack_state([frame.state[i] for frame in frames])}
        tensors[f"param.{i}"] = np.stack([p, *(frame.parameters[i] for frame in frames)])
    return tensors


def _stack_state(states: list[State]) -> Iterator[tuple[str, Array]]:
    """Stack the entries of a state that keep their dtype and shape."""
    for name in sorted({name for state in states for name in state}):
        found = [np.asarray(state[name]) if name in state else None for state in states]
        layouts = {(x.dtype, x.shape) for x in found if x is not None}
        if len(layouts) == 1:
            dtype, shape = next(iter(layouts))
            if dtype.name in GOLDEN.dtypes:
                yield name, np.stack([np.zeros(shape, dtype) if x is None else x for x in found])


def _closure_trajectory(case: Case, dtype: str, watch: Watch) -> dict[str, Array]:
    """Run an optimizer that calls a closure on the quadratic."""
    source = Quadratic(case.gradient, case.shapes, dtype)
    first, losses = source.parameters(), list[float]()
    optimizer = getattr(refoptim, case.optimizer)([x.copy() for x in first], **case.hyper)
    params = optimizer.param_groups[0]["params"]

    def closure() -> float:
        arrays = [p.data for p in params]
        for p, grad in zip(params, source.gradients(0, arrays), strict=True):
            p.grad = grad
        return loss(arrays, source.targets())

    def steps() -> Iterator[Frame]:
        for step in range(1, case.steps + 1):
            losses.append(float(optimizer.step(closure)))
            state = [_plain(optimizer.readers, optimizer.state.get(p, {})) for p in params]
            yield Frame(step, [p.data for p in params], state)

    frames = [_kept(frame) for frame in watch(steps())]
    return {"loss": np.array(losses), **_assemble(first, frames, [])}


def _plain(readers: Mapping[str, Any], state: Mapping[str, Any]) -> State:
    """Return the counts and the vectors of a state: its other numbers are in no promised type."""
    return {name: x for name, x in state.items() if readers[name] is count or (isinstance(x, np.ndarray) and x.ndim)}


def loss(parameters: Sequence[Array], targets: Sequence[Array]) -> float:
    """Return the loss of the quadratic."""
    terms = [np.zeros(1)]
    with np.errstate(all="ignore"):
        for p, target in zip(parameters, targets, strict=True):
            x, y = as_reals(p).reshape(-1).astype(np.float64), as_reals(target).reshape(-1).astype(np.float64)
            terms.append(np.ldexp(1.0, -(np.arange(x.size) % 4) - 1) * ((x - y) * (x - y)))
        return float(np.cumsum(np.concatenate(terms))[-1])


def make(entry: Mapping[str, Any], watch: Watch = iter) -> tuple[dict[str, Any], dict[str, Array]]:
    """Run a task and return header and arrays of its trajectory file, or raise GoldenError."""
    case = check(entry)
    tensors = trajectory(case, case.dtypes[0], watch)
    return {"case": dict(entry), "provenance": provenance("reference")}, tensors
