"""The cases go to all the places where optimizers have been found to differ."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from refoptim.conformance import cases, gradients
from refoptim.conformance.cases import Case

CASES = [case for stem in cases.stems() for case in cases.load(stem)]


def kinds(case: Case) -> list[str]:
    """Return the kinds of the numbers in a case."""
    found = {*case.gradient.get("kinds", []), case.gradient.get("start", "normal")}
    return sorted(found | {kind for whole in found for kind in gradients.CYCLES.get(whole, ())})


def decays_with(case: Case, momentum: bool) -> bool:
    return case.optimizer in ("SGD", "RMSprop") and bool(case.hyper.get("momentum")) is momentum and decays(case)


def decays(case: Case) -> bool:
    return bool(case.hyper.get("weight_decay"))


def eps(case: Case) -> float:
    value = case.hyper.get("eps", 0)
    return max(x or 0 for x in value) if isinstance(value, tuple) else value


def keeps_momentum(case: Case) -> bool:
    return "betas" in case.hyper or bool(case.hyper.get("momentum"))


PLACES: dict[str, Callable[[Case], bool]] = {
    "tiny gradients beside an eps of their size": lambda case: "tiny" in kinds(case) and 0 < eps(case) < 1e-6,
    "an eps larger than the gradients": lambda case: eps(case) > 1,
    "steps without a gradient but zeros": lambda case: "nil" in kinds(case),
    "decay with momentum": lambda case: decays_with(case, True),
    "decay without momentum": lambda case: decays_with(case, False),
    "coupled decay": lambda case: "DecoupledDecay" in case.flags and decays(case),
    "decoupled decay": lambda case: "CoupledDecay" in case.flags and decays(case),
    "lr that changes under momentum": lambda case: keeps_momentum(case) and any("lr" in x for x in case.set.values()),
    "betas that change": lambda case: any("betas" in change for change in case.set.values()),
    "several parameters": lambda case: len(case.shapes) > 1,
    "one number as a parameter": lambda case: () in case.shapes,
    "gradients that are missing": lambda case: bool(case.skip),
    "complex parameters": lambda case: any(dtype.startswith("complex") for dtype in case.dtypes),
    "climbing": lambda case: bool(case.hyper.get("maximize")),
}
"""What some case must have."""

EDGES = {"zeros": "both zeros", "subnormal": "subnormals", "huge": "huge values", "special": "NaN and infinities"}
"""Kinds of numbers that each optimizer must meet."""


@pytest.mark.parametrize("place", PLACES)
def test_some_case_goes(place: str) -> None:
    assert any(map(PLACES[place], CASES))


@pytest.mark.parametrize("stem", cases.stems())
def test_every_optimizer_meets_every_edge_and_is_taken_up_again(stem: str) -> None:
    found = cases.load(stem)
    assert {kind for case in found for kind in kinds(case)} >= set(EDGES)
    assert any(1 < (case.resume or 0) < case.steps for case in found)
    assert any(case.skip for case in found)


@pytest.mark.parametrize("source", gradients.SOURCES)
def test_every_source_is_used(source: str) -> None:
    assert any(case.gradient["source"] == source for case in CASES)


def test_every_optimizer_solves_a_problem() -> None:
    """All but SparseAdam, whose gradients are rows."""
    problems = [name for name, source in gradients.SOURCES.items() if issubclass(source, gradients.Problem)]
    solving = {case.optimizer for case in CASES if case.gradient["source"] in problems}
    assert {case.optimizer for case in CASES} - solving == {"SparseAdam"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"])
def test_every_storage_type_is_used(dtype: str) -> None:
    assert any(dtype in case.dtypes for case in CASES)


@pytest.mark.parametrize("stem", cases.stems())
def test_every_optimizer_begins_with_a_plain_case(stem: str) -> None:
    first, *others = cases.load(stem)
    assert first.plain and not first.hyper and first.id.endswith("-default")
    assert not any(case.plain for case in others)


def test_an_optimizer_without_options_has_something_to_run_in_every_family() -> None:
    """Neither decay nor changes, gaps, or being taken up again; and numbers that tell where eps is."""
    bare = [case for case in CASES if not (case.set or case.skip or case.resume or case.at_the_edges or decays(case))]
    telling = {case.optimizer for case in bare if not case.plain and not any(x is True for x in case.hyper.values())}
    assert {case.optimizer for case in CASES} - telling == {"AdamW"}, "whose decay is no option"


OPTIONS = {"amsgrad", "centered", "maximize", "nesterov", "decoupled_weight_decay", "lr_decay", "momentum"}


@pytest.mark.parametrize("case", [case for case in CASES if "-only-" in case.id], ids=lambda case: case.id)
def test_an_option_stands_alone(case: Case) -> None:
    """But for the momentum that some others need."""
    given = {name for name in OPTIONS if case.hyper.get(name) and case.optimizer not in ("Muon",)}
    changes = [bool(case.set), bool(case.skip), case.resume is not None]
    decoupled = case.hyper.get("decoupled_weight_decay") or case.optimizer == "AdamW"
    assert len(given - {"momentum"}) + sum(changes) <= 1
    assert not decays(case) or decoupled
