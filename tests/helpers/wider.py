"""The rules that torch does not have, and settings of theirs: from their cases, so that nobody lists them here."""

from __future__ import annotations

from typing import Any

from refoptim.conformance import cases
from refoptim.conformance.cases import Case
from refoptim.conformance.trajectory import all_hyper

import refoptim
from refoptim.commands import describe
from refoptim.step.rule import has_sums, needs_whole

OWN_CASES: dict[str, list[Case]] = {
    found[0].optimizer: found
    for found in map(cases.load, cases.stems())
    if not getattr(refoptim, found[0].optimizer).of_torch
}
"""Their cases by name."""


def has_kernels(case: Case) -> bool:
    """Tell whether the kernels of a rule know the settings of a case."""
    return not getattr(refoptim, case.optimizer).without_kernels(all_hyper(case.optimizer, case.hyper))


def _settings(found: list[Case]) -> dict[str, Any]:
    """Return the settings of the case that has fewest neutral ones, then most of all, and kernels."""
    known = [x for x in found if not (x.plain or x.is_cautious) and has_kernels(x)]
    case = max(known, key=lambda x: (-len(x.neutral), len(x.hyper.keys() - {"maximize", *x.neutral})))
    return {name: x for name, x in case.hyper.items() if name != "maximize"}


WIDER = {name: _settings(found) for name, found in OWN_CASES.items()}
"""Settings none of which is neutral, by name."""

ELEMENTWISE = [name for name in WIDER if not needs_whole(getattr(refoptim, name))]
"""Those that go element by element, in the type of the storage."""

SUMMED = [name for name in WIDER if has_sums(getattr(refoptim, name))]
"""Those that need some, with kernels that `harness/summed.cuh` serves."""

STEMS = {name: describe.stem(getattr(refoptim, name)) for name in WIDER}
"""The names of their files, and of their pure rules."""


def apart(name: str, lr: float) -> dict[str, float]:
    """Return a setting in which a group can differ: the learning rate, or where all must have one, the eps."""
    return {"eps" if getattr(refoptim, name).shares_registers else "lr": lr}


def values(name: str, hyper: str) -> list[Any]:
    """Return all values that a hyperparameter has in the cases of a rule, or while they run."""
    known = filter(has_kernels, OWN_CASES[name])
    every = [settings for case in known for settings in (case.hyper, *case.set.values())]
    return list(dict.fromkeys(settings[hyper] for settings in every if hyper in settings))
