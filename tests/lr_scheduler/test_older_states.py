"""State dicts of schedulers that earlier releases of torch wrote, loaded by torch 2.13 and here."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from refoptim.conformance.lr_cases import TORCHS, Draw, metrics
from refoptim.conformance.oracle import torch_schedulers
from refoptim.conformance.spec import SCHEDULERS, parse, setting

import refoptim

SEEDS = 3
AFTER = 20

WRITTEN_BY = {
    "2.6": ([], {"verbose": False, "_get_lr_called_within_step": False}),
    "2.3": (["_is_initial", "default_min_lr"], {"verbose": True, "_get_lr_called_within_step": False}),
    "2.0": (["_is_initial", "default_min_lr", "use_beta1"], {"verbose": 1, "_get_lr_called_within_step": False}),
    "1.3": (["_is_initial", "default_min_lr", "use_beta1", "_last_lr"], {"_get_lr_called_within_step": False}),
    "1.0": (["_is_initial", "default_min_lr", "use_beta1", "_last_lr", "_step_count", "mode_worse"], {}),
}
"""What the state dicts of a release lacked, and what they held besides, of that of 2.13."""

NAMES = [*TORCHS, "SWALR"]


def written(state: dict[str, Any], release: str) -> dict[str, Any]:
    """Return a state dict of 2.13 as an earlier release wrote it."""
    lacking, more = WRITTEN_BY[release]
    older = {key: x for key, x in state.items() if key not in lacking} | more
    if "_schedulers" in state:
        older["_schedulers"] = [written(x, release) for x in state["_schedulers"]]
    return older


def describe(name: str, d: Draw) -> str:
    return "SWALR(swa_lr=[0.02, 0.05], anneal_epochs=30)" if name == "SWALR" else TORCHS[name](d)


def built(torch: Any, text: str, kind: str) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Make a scheduler on an optimizer, torch's and ours."""
    settings = {"momentum": 0.83} if kind == "SGD" else {}
    pairs = []
    for library, classes, zeros in ((torch.optim, torch_schedulers(), torch.zeros), (refoptim, SCHEDULERS, np.zeros)):
        groups = [{"params": [zeros(1)], "lr": lr} for lr in (0.37, 0.05)]
        optimizer = getattr(library, kind)(groups, **settings)
        optimizer._opt_called = True
        pairs.append((optimizer, parse(text).build(optimizer, classes)))
    return pairs[0], pairs[1]


def row(optimizer: Any) -> list[Any]:
    return [(g["lr"], g["betas"][0] if "betas" in g else g["momentum"]) for g in optimizer.param_groups]


def run(optimizer: Any, scheduler: Any, epochs: range, metric: Any) -> list[Any]:
    found = []
    for epoch in epochs:
        scheduler.step(*([metric(epoch)] if metric else []))
        found.append(row(optimizer))
    return found


@pytest.mark.parametrize("release", WRITTEN_BY)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_goes_on_as_in_torch(name: str, release: str, torch: Any) -> None:
    for seed in range(SEEDS):
        d = Draw(f"older {name} {seed}")
        text, kind, stop = describe(name, d), d.one("SGD", "Adam"), d.whole(1, 60)
        metric = setting(metrics(d)) if name == "ReduceLROnPlateau" else None
        (first, scheduler), _ = built(torch, text, kind)
        run(first, scheduler, range(stop), metric)
        saved = written(copy.deepcopy(scheduler.state_dict()), release)
        found = []
        for optimizer, other in built(torch, text, kind):
            optimizer.load_state_dict(first.state_dict())
            other.load_state_dict(copy.deepcopy(saved))
            found.append([row(optimizer), *run(optimizer, other, range(stop, stop + AFTER), metric)])
        assert found[0] == found[1], text


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_a_cycle_from_before_the_name_of_its_strategy(strategy: str, torch: Any) -> None:
    """The function says which one it was; torch itself goes on with the strategy of the constructor."""
    text = f"OneCycleLR(max_lr=0.5, total_steps=40, anneal_strategy='{strategy}')"
    (theirs, scheduler), (ours, other) = built(torch, text, "SGD")
    run(theirs, scheduler, range(7), None)
    saved = scheduler.state_dict()
    function = torch.optim.lr_scheduler.OneCycleLR.__dict__[f"_annealing_{strategy}"].__func__
    del saved["_anneal_func_type"]
    ours.load_state_dict(theirs.state_dict())
    other = SCHEDULERS["OneCycleLR"](ours, max_lr=0.1, total_steps=9)
    ours.load_state_dict(theirs.state_dict())
    other.load_state_dict({**saved, "anneal_func": function})
    assert run(ours, other, range(20), None) == run(theirs, scheduler, range(20), None)


def test_a_cycle_from_before_its_phases(torch: Any) -> None:
    text = "OneCycleLR(max_lr=0.5, total_steps=40, pct_start=0.2)"
    (theirs, scheduler), (ours, other) = built(torch, text, "SGD")
    run(theirs, scheduler, range(7), None)
    saved = scheduler.state_dict()
    phases = saved.pop("_schedule_phases")
    up = phases[0]["end_step"]
    ours.load_state_dict(theirs.state_dict())
    other.load_state_dict({**saved, "step_size_up": up, "step_size_down": 40 - up - 1})
    assert run(ours, other, range(20), None) == run(theirs, scheduler, range(20), None)


def test_a_legacy_function_in_place_of_the_name(torch: Any) -> None:
    """torch's own test of older state dicts: the attribute is deleted, and the function comes with the state dict."""
    found = []
    for optimizer, scheduler in built(torch, "OneCycleLR(max_lr=25, total_steps=10, anneal_strategy='cos')", "SGD"):
        delattr(scheduler, "_anneal_func_type")
        state = scheduler.state_dict()
        assert "_anneal_func_type" not in state
        state["anneal_func"] = type(scheduler)._annealing_cos
        scheduler.load_state_dict(state)
        found.append(run(optimizer, scheduler, range(9), None))
    assert found[0] == found[1]


def test_a_cycle_that_torch_wrote_has_its_bounds_in_the_groups(torch: Any) -> None:
    """Another maximum was given to the constructor; the groups hold that of the run, as in torch."""
    (theirs, scheduler), _ = built(torch, "OneCycleLR(max_lr=0.5, total_steps=40)", "SGD")
    run(theirs, scheduler, range(7), None)
    _, (ours, other) = built(torch, "OneCycleLR(max_lr=0.1, total_steps=9)", "SGD")
    ours.load_state_dict(theirs.state_dict())
    other.load_state_dict(scheduler.state_dict())
    assert run(ours, other, range(20), None) == run(theirs, scheduler, range(20), None)


def test_a_bound_for_all_and_bounds_of_groups_replace_each_other(torch: Any) -> None:
    texts = [f"ReduceLROnPlateau(patience=0, factor=0.5, min_lr={lowest})" for lowest in ("0.1", "[0.1, 0.02]")]
    for text, other_text in (texts, reversed(texts)):
        (first, scheduler), _ = built(torch, text, "SGD")
        run(first, scheduler, range(3), lambda epoch: 1.0)
        found = []
        for optimizer, other in built(torch, other_text, "SGD"):
            optimizer.load_state_dict(first.state_dict())
            other.load_state_dict(copy.deepcopy(scheduler.state_dict()))
            found.append((run(optimizer, other, range(9), lambda epoch: 1.0), other.min_lrs, other.default_min_lr))
        assert found[0] == found[1]


def test_a_cycle_takes_over_that_momenta_are_cycled(torch: Any) -> None:
    shape = "CyclicLR(base_lr=0.1, max_lr=0.5, step_size_up=5, cycle_momentum={})"
    for before, after in ((True, False), (False, True)):
        (first, scheduler), _ = built(torch, shape.format(before), "SGD")
        run(first, scheduler, range(7), None)
        found = []
        for optimizer, other in built(torch, shape.format(after), "SGD"):
            optimizer.load_state_dict(first.state_dict())
            other.load_state_dict(copy.deepcopy(scheduler.state_dict()))
            found.append(run(optimizer, other, range(9), None))
        assert found[0] == found[1]
