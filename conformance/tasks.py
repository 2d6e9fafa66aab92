"""Tasks: what is to be run on the reference, as a JSON object that stands in every trajectory file as ``case``.

``task`` makes one, its defaults written out; ``check`` reads one that may come from anybody, and refuses it, before
anything is made, if it is wrong or too large. Its keys are ``optimizer``, ``hyper``, ``dtype``, ``shapes``, ``steps``,
and ``gradient``, which is that of a case: ``docs/contract/goldens.md``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

import refoptim
from refoptim.optimizers.closure import ClosureOptimizer
from refoptim.step.hyper import Count, Hyper, declared

from .cases import Case
from .gradients import KINDS, SOURCES, Problem, np_dtype
from .strict import MAX_BYTES, GoldenError, is_count, is_float, layout, require, shown

MAX_STEPS = 100_000
MAX_UPDATES = 1_000_000
"""The largest number of steps times parameters."""

MAX_PARAMETERS = 1000
MAX_KINDS = 1000
MAX_SEED = (1 << 64) - 1

MAX_COUNT = 1000
"""The largest integer among the hyperparameters of an optimizer that calls a closure: each costs time and memory."""

COPIES = 6
"""Arrays per parameter and step that a trajectory holds at most: gradient, parameter, and state."""

CHOICES = frozenset({"foreach", "capturable", "differentiable", "fused", "train_mode"})
"""Arguments that say how a step is run, not what it computes; they are not written down unless they are given."""

KEYS = frozenset({"optimizer", "hyper", "dtype", "shapes", "steps", "gradient"})

PROBLEM_SHAPES: dict[str, list[tuple[int, ...]]] = {"logistic": [(64,), ()], "mlp": [(4, 64), (4,), (4,), ()]}
"""The shapes of problems that have shapes of their own."""


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
        shapes: the shapes of the parameters; if there are none, those of the problem, or one of 16 elements, as a
            vector or, if it must be, a matrix.
        steps: the number of steps.
        seed: the seed of all numbers.
        kind: the kind of the gradients, or a problem: quadratic, rosenbrock, logistic or mlp.

    Raises:
        TypeError, ValueError: a hyperparameter does not exist, is outside its range, or does not fit the parameters.
    """
    hyper = all_hyper(cls.__name__, settings)
    check_hyper(cls, hyper)
    found = [*shapes] or PROBLEM_SHAPES.get(kind) or [_default_shape(cls)]
    return {
        "optimizer": cls.__name__,
        "hyper": {name: list(x) if isinstance(x, tuple) else x for name, x in written(hyper).items()},
        "dtype": dtype,
        "shapes": [list(shape) for shape in found],
        "steps": steps,
        "gradient": _gradient(cls, found, seed, kind),
    }


def written(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters as they are written down: without infinity, a default that JSON does not have."""
    return {name: x for name, x in hyper.items() if not (isinstance(x, float) and math.isinf(x))}


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


def _gradient(cls: type[refoptim.Optimizer], shapes: Sequence[tuple[int, ...]], seed: int, kind: str) -> dict[str, Any]:
    """Describe the gradients: sparse ones for an optimizer that takes no others."""
    if issubclass(cls, ClosureOptimizer):
        if kind not in ("normal", "quadratic"):
            raise ValueError(f"{cls.__name__} runs on the quadratic alone, got {kind!r}")
        return {"source": "quadratic", "seed": seed}
    if kind in SOURCES:
        return {"source": kind, "seed": seed}
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
    except RuntimeError:
        return True
    except (TypeError, ValueError):
        return False
    return False


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
    _check_gradient(cls, entry["gradient"], shapes, entry["dtype"])
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
    found = (
        inspect.isclass(cls) and issubclass(cls, refoptim.Optimizer) and cls.is_rule and cls is not refoptim.Optimizer
    )
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
    fits = (
        isinstance(shapes, list)
        and bool(shapes)
        and len(shapes) * steps <= MAX_UPDATES
        and len(shapes) <= MAX_PARAMETERS
    )
    require(fits, f"the case has the shapes {shown(shapes)} for {steps} steps: none, or more than can be run")
    found = [layout(entry["dtype"], shape, "a parameter") for shape in shapes]
    total = sum(x.nbytes for x in found) * (steps + 1) * COPIES
    require(
        total <= 2 * MAX_BYTES, f"{steps} steps of {sum(x.words for x in found)} elements are more than can be held"
    )
    try:
        for x in found:
            cls.check_parameter("a parameter", x.shape, np_dtype(x.dtype))
    except (TypeError, ValueError, RuntimeError) as error:
        raise GoldenError(f"the case is wrong: {error}") from None
    return [x.shape for x in found]


def _check_gradient(cls: type[refoptim.Optimizer], spec: Any, shapes: Sequence[tuple[int, ...]], dtype: str) -> None:
    """Raise GoldenError unless a gradient is described in full, and is one that the optimizer takes."""
    source = spec.get("source") if isinstance(spec, dict) else None
    require(isinstance(source, str) and source in SOURCES, f"the case has the gradient {shown(spec)}")
    keys = {"source", "seed", *SOURCES[str(source)].keys}
    require(set(spec) - {"start"} == keys, f"the case describes its gradient by {shown(spec)}")
    require(is_count(spec["seed"], MAX_SEED), f"the case has the seed {shown(spec['seed'])}")
    kinds = [*_list(spec.get("kinds", ["normal"])), spec.get("start", "normal")]
    known = 1 < len(kinds) <= MAX_KINDS and all(isinstance(x, str) and x in KINDS for x in kinds)
    require(known, f"the case has kinds {shown(kinds)}")
    quadratic = source == "quadratic" or not issubclass(cls, ClosureOptimizer)
    require(quadratic, f"{cls.__name__} runs on the quadratic alone")
    require("nnz" not in keys or _rows_fit(spec, shapes), f"the case has rows that do not fit: {shown(spec)}")
    problem = SOURCES[str(source)]
    posed = not issubclass(problem, Problem) or (dtype in ("float32", "float64") and problem.fits(shapes))
    require(posed, f"the gradient {source} is none of {dtype} parameters of shapes {shown(list(shapes))}")


def _rows_fit(spec: Mapping[str, Any], shapes: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether no row has more than two entries."""
    nnz, rows = spec["nnz"], spec["rows"]
    if not is_count(nnz, MAX_BYTES) or not is_count(rows, MAX_BYTES) or not 0 < rows <= nnz <= 2 * rows:
        return False
    extents = [shape[0] if shape else 0 for shape in shapes]
    return all(rows <= n and (math.gcd(3, n) == 1 or 3 * rows <= n + 2) for n in extents)


def _list(x: Any) -> list[Any]:
    return x if isinstance(x, list) else []
