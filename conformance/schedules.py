"""Curves of schedulers: the learning rate, and where it is cycled the momentum, epoch by epoch.

A task names the scheduler as ``refoptim.conformance.spec`` reads it, ``StepLR(step_size=3)``; it works on SGD with
the given ``lr`` and ``momentum``. The arrays are ``lr`` and ``momentum`` at epoch 0, 1, 2 …, in float64, and for
ReduceLROnPlateau ``metric``, which is what it is told at the end of epoch 0, 1, 2 …: draw ``n`` of the seed as a number
of the kind ``normal``, in float64 (``docs/contract/goldens.md``).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from refoptim.conformance.spec import parse

import refoptim
from refoptim.numerics.arith import Array
from refoptim.numerics.ieee import check_arithmetic
from refoptim.step.hyper import is_number

from .gradients import draws, values
from .record import provenance
from .strict import GoldenError, is_count, require, shown

MAX_EPOCHS = 1_000_000

MAX_DESCRIPTION = 1000

KEYS = frozenset({"scheduler", "lr", "momentum", "steps", "seed"})

PLATEAU = "ReduceLROnPlateau"


def task(described: str, settings: Mapping[str, Any], steps: int, seed: int) -> dict[str, Any]:
    """Return the task of a scheduler: a name with settings, or a whole description.

    Of the settings, ``lr`` (0.1) and ``momentum`` (0.9) are those of the SGD that it works on.

    Raises:
        ValueError: there are settings beside a whole description.
    """
    own = [f"{name}={_literal(x)}" for name, x in settings.items() if name not in ("lr", "momentum")]
    if own and "(" in described:
        raise ValueError(f"give settings inside of {described!r} or with --set, not both")
    text = described if "(" in described else f"{described}({', '.join(own)})"
    lr, momentum = settings.get("lr", 0.1), settings.get("momentum", 0.9)
    return {"scheduler": text, "lr": lr, "momentum": momentum, "steps": steps, "seed": seed}


def _literal(x: Any) -> str:
    return x if isinstance(x, str) and x.startswith("lambda") else repr(x)


def check(entry: Mapping[str, Any]) -> None:
    """Raise GoldenError unless this is the task of a scheduler."""
    require(set(entry) == KEYS, f"the case of a scheduler needs {', '.join(sorted(KEYS))}, got {shown(dict(entry))}")
    described = entry["scheduler"]
    require(
        isinstance(described, str) and len(described) <= MAX_DESCRIPTION, f"the case has scheduler {shown(described)}"
    )
    require("lambda" not in described, "the case has a lambda: a file cannot be trusted to end")
    require(is_count(entry["steps"], MAX_EPOCHS) and entry["steps"] > 0, f"the case has {shown(entry['steps'])} steps")
    require(is_count(entry["seed"], (1 << 64) - 1), f"the case has the seed {shown(entry['seed'])}")
    for name in ("lr", "momentum"):
        require(is_number(entry[name], (int, float)), f"the case has {name} {shown(entry[name])}")  # type: ignore[arg-type]


def trajectory(entry: Mapping[str, Any]) -> dict[str, Array]:
    """Run the task of a scheduler and return its arrays.

    Raises:
        TypeError, ValueError: the description is none, or names a setting that does not exist or is outside its range.
    """
    check_arithmetic()
    optimizer = refoptim.SGD([np.zeros(1)], lr=entry["lr"], momentum=entry["momentum"])
    spec = parse(entry["scheduler"])
    metric = values(draws(entry["seed"], 0, entry["steps"]), "normal", "float64") if spec.name == PLATEAU else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = spec.build(optimizer)
        rows = [_row(optimizer)]
        for epoch in range(entry["steps"]):
            scheduler.step(*([] if metric is None else [float(metric[epoch])]))
            rows.append(_row(optimizer))
    lr, momentum = np.array(rows).T
    found = {"lr": lr.copy(), **({} if metric is None else {"metric": metric})}
    return found if (momentum == momentum[0]).all() else {**found, "momentum": momentum.copy()}


def _row(optimizer: refoptim.SGD) -> tuple[float, float]:
    group = optimizer.param_groups[0]
    return float(group["lr"]), float(group["momentum"])


def make(entry: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Run a task and return header and arrays of its trajectory file, or raise GoldenError."""
    check({**entry, "scheduler": ""})
    try:
        return {"case": dict(entry), "provenance": provenance("reference")}, trajectory(entry)
    except (TypeError, ValueError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise GoldenError(f"the case is wrong: {error}") from None
