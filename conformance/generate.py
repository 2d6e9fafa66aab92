"""Trajectories of the reference: any optimizer, any storage type, any shapes, any seed.

A *task* is a JSON object that says what is run; it stands in every trajectory file as ``case``, so that a file can be
computed again by whoever has it::

    optimizer, hyper, dtype, shapes, steps, gradient        ``gradient`` as in a case: docs/goldens.md
    scheduler, lr, momentum, steps, seed                    for a scheduler: conformance/schedules.py

``check`` reads a task that may come from anybody, and refuses one that is wrong, or too large, before anything is made.

The arrays of an optimizer's trajectory, with one more axis in front that counts the steps:

    grad.i          the gradient of parameter i in step 1, 2, …
    rows.i          for a sparse gradient: the rows that its entries, which are grad.i, belong to
    state.i.name    what is kept of parameter i after step 1, 2, …; 0 as long as there is nothing
    param.i         parameter i before step 1, and after step 1, 2, …
    loss            for an optimizer that calls a closure: the loss before step 1, 2, …

An optimizer that calls a closure is driven on the quadratic: with the curvatures and targets of the gradient source
``quadratic``, the loss is the sum of ``2**-(i mod 4) / 2 * (p - target)**2`` over all reals, computed in float64 and
added in their order. Of its state only what keeps its shape is written.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

import refoptim
from refoptim import SparseGrad
from refoptim.arith import Array, as_reals
from refoptim.closure import ClosureOptimizer, count
from refoptim.hyper import Count, Hyper, declared

from .cases import Case
from .gradients import KINDS, Quadratic, make_source, np_dtype
from .record import provenance
from .reference import Reference
from .strict import MAX_BYTES, WORD, GoldenError, is_count, is_float, layout, require, shown
from .trajectory import Frame, State, run

MAX_STEPS = 100_000
MAX_UPDATES = 1_000_000
"""The largest number of steps times parameters."""

MAX_COUNT = 1000
"""The largest integer among the hyperparameters of an optimizer that calls a closure: each costs time and memory."""

CHOICES = frozenset({"foreach", "capturable", "differentiable", "fused"})
"""Arguments that say how a step is run, not what it computes; they are not written down unless they are given."""

KEYS = frozenset({"optimizer", "hyper", "dtype", "shapes", "steps", "gradient"})

Watch = Callable[[Iterable[Frame]], Iterable[Frame]]
"""Passes frames on, and shows how far they are."""


def task(
    cls: type[refoptim.Optimizer],
    settings: Mapping[str, Any],
    dtype: str = "float32",
    shapes: Sequence[tuple[int, ...]] = (),
    steps: int = 10,
    seed: int = 0,
    kind: str = "normal",
) -> dict[str, Any]:
    """Return the task that runs an optimizer, its defaults written out.

    Args:
        cls: the optimizer.
        settings: the hyperparameters that are not at their defaults.
        dtype: the storage type.
        shapes: the shapes of the parameters; if empty, one of 16 elements, as a vector or, if it must be, a matrix.
        steps: the number of steps.
        seed: the seed of all numbers.
        kind: the kind of the gradients, or "quadratic".

    Raises:
        TypeError, ValueError: a hyperparameter does not exist, is outside its range, or does not fit the parameters.
    """
    hyper = all_hyper(cls.__name__, settings)
    check_hyper(cls, hyper)
    found = [*shapes] or [_default_shape(cls)]
    return {
        "optimizer": cls.__name__,
        "hyper": {name: list(x) if isinstance(x, tuple) else x for name, x in hyper.items()},
        "dtype": dtype,
        "shapes": [list(shape) for shape in found],
        "steps": steps,
        "gradient": _gradient(cls, hyper, found, seed, kind),
    }


def all_hyper(optimizer: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return all hyperparameters of an optimizer, the defaults with those given in their place."""
    cls = getattr(refoptim, optimizer)
    known = {name: x.default for name, x in inspect.signature(cls).parameters.items() if name in declared(cls)}
    wrong = [name for name in settings if name not in known]
    if wrong:
        raise ValueError(f"{optimizer} has no hyperparameter {wrong[0]!r}: it has {', '.join(known)}")
    return {name: settings.get(name, x) for name, x in known.items() if name in settings or name not in CHOICES}


def check_hyper(cls: type[refoptim.Optimizer], hyper: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError unless hyperparameters are those of an optimizer and inside their ranges."""
    known: dict[str, Hyper] = declared(cast(type, cls))
    limited = [name for name, x in known.items() if isinstance(x, Count)] if issubclass(cls, ClosureOptimizer) else []
    for name, value in hyper.items():
        found = known[name].resolve(name, value)
        if name in limited and (found or 0) > MAX_COUNT:
            raise ValueError(f"{name} must be at most {MAX_COUNT} here, got {value}")


def _default_shape(cls: type[refoptim.Optimizer]) -> tuple[int, ...]:
    try:
        cls.check_parameter("the parameter", (16,), np.dtype("float32"))
    except ValueError:
        return (4, 4)
    return (16,)


def _gradient(
    cls: type[refoptim.Optimizer], hyper: Mapping[str, Any], shapes: Sequence[tuple[int, ...]], seed: int, kind: str
) -> dict[str, Any]:
    """Describe the gradients: sparse ones for an optimizer that takes no others."""
    if issubclass(cls, ClosureOptimizer) or kind == "quadratic":
        return {"source": "quadratic", "seed": seed}
    if not needs_rows(cls):
        return {"source": "stream", "seed": seed, "kinds": [kind]}
    if not all(shape and shape[0] for shape in shapes):
        raise ValueError(f"{cls.__name__} takes sparse gradients: every parameter needs a first axis of rows")
    rows = max(1, min(shape[0] for shape in shapes) // 3)
    return {"source": "rows", "seed": seed, "kinds": [kind], "nnz": rows + 1, "rows": rows}


def needs_rows(cls: type[refoptim.Optimizer]) -> bool:
    """Tell whether an optimizer takes sparse gradients alone."""
    probe = np.zeros(1, np.float32)
    try:
        cls([probe]).step(grads=[probe])
    except (RuntimeError, TypeError, ValueError):
        return not issubclass(cls, ClosureOptimizer) and _steps_sparse(cls)
    return False


def _steps_sparse(cls: type[refoptim.Optimizer]) -> bool:
    try:
        cls([np.zeros(1, np.float32)]).step(
            grads=[SparseGrad(np.zeros((1, 1), np.int64), np.ones(1, np.float32), (1,))]
        )
    except (RuntimeError, TypeError, ValueError):
        return False
    return True


def check(entry: Any) -> Case:
    """Read the task of an optimizer and return it as a case, or raise GoldenError."""
    require(
        isinstance(entry, dict) and set(entry) == KEYS, f"a case needs {', '.join(sorted(KEYS))}, got {shown(entry)}"
    )
    cls = _optimizer(entry["optimizer"])
    require(is_float(entry["dtype"]), f"the case has dtype {shown(entry['dtype'])}")
    require(is_count(entry["steps"], MAX_STEPS) and entry["steps"] > 0, f"the case has {shown(entry['steps'])} steps")
    hyper = _checked_hyper(cls, entry["hyper"])
    shapes = _checked_shapes(cls, hyper, entry)
    _check_gradient(cls, entry["gradient"], shapes)
    return Case(
        id=entry["optimizer"],
        optimizer=entry["optimizer"],
        comment="",
        hyper=hyper,
        dtypes=[entry["dtype"]],
        shapes=shapes,
        steps=entry["steps"],
        record=[],
        gradient=entry["gradient"],
        flags=[],
    )


def _optimizer(name: Any) -> type[refoptim.Optimizer]:
    cls = getattr(refoptim, name, None) if isinstance(name, str) and name in refoptim.__all__ else None
    found = inspect.isclass(cls) and issubclass(cls, refoptim.Optimizer) and cls is not refoptim.Optimizer
    require(found, f"the case names no optimizer: {shown(name)}")
    return cast("type[refoptim.Optimizer]", cls)


def _checked_hyper(cls: type[refoptim.Optimizer], given: Any) -> dict[str, Any]:
    require(isinstance(given, dict), f"the case has hyperparameters {shown(given)}")
    try:
        found = all_hyper(cls.__name__, {name: tuple(x) if isinstance(x, list) else x for name, x in given.items()})
        check_hyper(cls, found)
        cls([np.zeros(_default_shape(cls))], **found)
    except (TypeError, ValueError, OverflowError) as error:
        raise GoldenError(f"the case is wrong: {error}") from None
    return found


def _checked_shapes(cls: type[refoptim.Optimizer], hyper: Mapping[str, Any], entry: Mapping[str, Any]) -> list[Any]:
    """Check the shapes of a case: that there are not too many, and that the whole trajectory can be held."""
    shapes, steps = entry["shapes"], entry["steps"]
    fits = isinstance(shapes, list) and bool(shapes) and len(shapes) * steps <= MAX_UPDATES and len(shapes) <= 1000
    require(fits, f"the case has the shapes {shown(shapes)} for {steps} steps: none, or more than can be run")
    found = [layout(entry["dtype"], shape, "a parameter") for shape in shapes]
    total = sum(x.nbytes for x in found) * (steps + 1) * 6
    require(
        total <= 2 * MAX_BYTES, f"{steps} steps of {sum(x.words for x in found)} elements are more than can be held"
    )
    try:
        for x in found:
            cls.check_parameter("a parameter", x.shape, np_dtype(x.dtype))
    except (TypeError, ValueError, RuntimeError) as error:
        raise GoldenError(f"the case is wrong: {error}") from None
    return [x.shape for x in found]


def _check_gradient(cls: type[refoptim.Optimizer], spec: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise GoldenError unless a gradient is described in full, and is one that the optimizer takes."""
    keys = {"stream": {"kinds"}, "quadratic": set[str](), "rows": {"kinds", "nnz", "rows"}}
    source = str(spec.get("source")) if isinstance(spec, dict) else ""
    require(source in keys, f"the case has the gradient {shown(spec)}")
    require(
        set(spec) - {"start"} == keys[source] | {"source", "seed"}, f"the case describes its gradient by {shown(spec)}"
    )
    require(is_count(spec["seed"], (1 << 64) - 1), f"the case has the seed {shown(spec['seed'])}")
    kinds = [*_list(spec.get("kinds", ["normal"])), spec.get("start", "normal")]
    require(
        1 < len(kinds) <= 1000 and all(isinstance(x, str) and x in KINDS for x in kinds),
        f"the case has kinds {shown(kinds)}",
    )
    require(
        not issubclass(cls, ClosureOptimizer) or source == "quadratic", f"{cls.__name__} runs on the quadratic alone"
    )
    if source == "rows":
        fits = is_count(spec["nnz"], 2000) and is_count(spec["rows"], 1000) and 0 < spec["rows"] <= spec["nnz"]
        apart = fits and all(shape and (math.gcd(3, shape[0]) == 1 or 3 * spec["rows"] <= shape[0]) for shape in shapes)
        require(
            apart and all(spec["rows"] <= shape[0] for shape in shapes),
            f"the case has rows that do not fit: {shown(spec)}",
        )


def _list(x: Any) -> list[Any]:
    return x if isinstance(x, list) else []


class Recording(Reference):
    """refoptim as an implementation that remembers the gradients of its last step."""

    def step(self, grads: Sequence[Any]) -> None:
        self.grads = grads
        super().step(grads)


def trajectory(case: Case, dtype: str, watch: Watch = iter) -> dict[str, Array]:
    """Run a case on the reference and return its arrays; ``watch`` sees each frame pass by."""
    cls = getattr(refoptim, case.optimizer)
    if issubclass(cls, ClosureOptimizer):
        return _closure_trajectory(case, dtype, watch)
    recording, source = Recording(), make_source(case.gradient, case.shapes, dtype)
    first, grads, frames = [x.copy() for x in source.parameters()], [], []
    for frame in watch(run(recording, case, dtype)):
        grads.append([_copied(g) for g in recording.grads])
        frames.append(_kept(frame))
    return _assemble(first, frames, _stack_grads(grads, case, source))


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
            if dtype.name in WORD:
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
