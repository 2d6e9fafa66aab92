"""A schedule belongs to a group, wherever the group stands: each goes on as torch schedules that group alone."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from refoptim import lr_scheduler, swa_utils

LRS = (0.5, 0.37, 0.05)
BEFORE, AFTER = 4, 9


class Decay:
    """A function of the epoch that can be pickled."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, epoch: int) -> float:
        return self.rate**epoch


def each(values: list[Any]) -> Callable[[list[int]], list[Any]]:
    return lambda numbers: [values[j] for j in numbers]


DECAYS, HIGH, LOW = each([Decay(0.5), Decay(0.9), Decay(0.75)]), each([0.5, 1.0, 2.0]), each([0.01, 0.02, 0.04])
MOST, LEAST = each([0.9, 0.95, 0.85]), each([0.5, 0.6, 0.7])

Make = Callable[[Any, Any, list[int]], Any]


def cyclic(library: Any, optimizer: Any, j: list[int]) -> Any:
    return library.CyclicLR(optimizer, LOW(j), HIGH(j), 5, base_momentum=LEAST(j), max_momentum=MOST(j))


def one_cycle(library: Any, optimizer: Any, j: list[int]) -> Any:
    return library.OneCycleLR(optimizer, HIGH(j), 30, base_momentum=LEAST(j), max_momentum=MOST(j))


def sequence(library: Any, optimizer: Any, j: list[int]) -> Any:
    members = [
        library.LambdaLR(optimizer, DECAYS(j)),
        library.MultiplicativeLR(optimizer, DECAYS(j)),
        library.CosineAnnealingWarmRestarts(optimizer, 5),
    ]
    return library.SequentialLR(optimizer, members, [6, 10])


def chain(library: Any, optimizer: Any, j: list[int]) -> Any:
    return library.ChainedScheduler([library.MultiplicativeLR(optimizer, DECAYS(j)), library.StepLR(optimizer, 3)])


OF_THEIR_OWN: dict[str, Make] = {
    "LambdaLR": lambda library, o, j: library.LambdaLR(o, DECAYS(j)),
    "MultiplicativeLR": lambda library, o, j: library.MultiplicativeLR(o, DECAYS(j)),
    "CyclicLR": cyclic,
    "OneCycleLR": one_cycle,
    "ReduceLROnPlateau": lambda library, o, j: library.ReduceLROnPlateau(o, patience=1, factor=0.5, min_lr=LOW(j)),
    "SWALR": lambda library, o, j: library.SWALR(o, LOW(j), anneal_epochs=8),
    "SequentialLR": sequence,
    "ChainedScheduler": chain,
}
"""Schedulers with settings that differ from group to group."""

SHARED: dict[str, Make] = {
    "StepLR": lambda library, o, j: library.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda library, o, j: library.MultiStepLR(o, [2, 7], 0.5),
    "ConstantLR": lambda library, o, j: library.ConstantLR(o, 0.5, 7),
    "LinearLR": lambda library, o, j: library.LinearLR(o, 0.25, 0.75, 11),
    "ExponentialLR": lambda library, o, j: library.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda library, o, j: library.PolynomialLR(o, 20, 1.5),
    "CosineAnnealingLR": lambda library, o, j: library.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda library, o, j: library.CosineAnnealingWarmRestarts(o, 3, 2),
    "LambdaLR": lambda library, o, j: library.LambdaLR(o, Decay(0.5)),
    "MultiplicativeLR": lambda library, o, j: library.MultiplicativeLR(o, Decay(0.5)),
    "ReduceLROnPlateau": lambda library, o, j: library.ReduceLROnPlateau(o, patience=1, factor=0.5),
}
"""Schedulers with settings for all groups, which torch gives each its own base."""

ALL = {**SHARED, **{f"{name} by groups": make for name, make in OF_THEIR_OWN.items()}}


def step(scheduler: Any) -> None:
    scheduler.step(*([1.0] if hasattr(scheduler, "patience") else []))


def values(group: Any) -> tuple[float, float]:
    return float(group["lr"]), float(group["momentum"])


def of_torch(make: Make, j: int, epochs: int, torch: Any) -> list[tuple[float, float]]:
    """Return what torch makes of one group alone, epoch by epoch."""
    library = type("library", (), {**vars(torch.optim.lr_scheduler), "SWALR": torch.optim.swa_utils.SWALR})
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=LRS[j], momentum=0.9)
    optimizer._opt_called = True
    scheduler = make(library, optimizer, [j])
    found = [values(optimizer.param_groups[0])]
    for _ in range(epochs):
        step(scheduler)
        found.append(values(optimizer.param_groups[0]))
    return found


LIBRARY = type("library", (), {**vars(lr_scheduler), "SWALR": swa_utils.SWALR})


def built(make: Make, numbers: list[int]) -> tuple[Any, Any]:
    groups = [{"params": [np.zeros(1)], "lr": LRS[j], "name": str(j)} for j in numbers]
    optimizer: Any = refoptim.SGD(groups, momentum=0.9)
    optimizer._opt_called = True
    return optimizer, make(LIBRARY, optimizer, numbers)


def after_steps(make: Make) -> tuple[Any, Any]:
    optimizer, scheduler = built(make, [0, 1, 2])
    for _ in range(BEFORE):
        step(scheduler)
    return optimizer, scheduler


def rearrange(optimizer: Any, *numbers: int) -> None:
    optimizer.param_groups = [optimizer.param_groups[j] for j in numbers]


def replace(optimizer: Any, *numbers: int) -> None:
    optimizer.param_groups = [dict(optimizer.param_groups[j]) for j in numbers]


def reload(optimizer: Any) -> None:
    optimizer.load_state_dict(optimizer.state_dict())


EDITS: dict[str, tuple[Callable[[Any], Any], list[int]]] = {
    "the first is popped": (lambda o: o.param_groups.pop(0), [1, 2]),
    "one is removed": (lambda o: o.param_groups.remove(o.param_groups[1]), [0, 2]),
    "the last is removed": (lambda o: o.param_groups.pop(), [0, 1]),
    "two are removed": (lambda o: o.param_groups.__delitem__(slice(0, 2)), [2]),
    "all are reversed": (lambda o: o.param_groups.reverse(), [2, 1, 0]),
    "all are turned round in a new list": (lambda o: rearrange(o, 1, 2, 0), [1, 2, 0]),
    "all are replaced by copies": (lambda o: replace(o, 0, 1, 2), [0, 1, 2]),
    "some are replaced by copies, reversed": (lambda o: replace(o, 2, 1), [2, 1]),
    "reversed and the optimizer loaded": (lambda o: (o.param_groups.reverse(), reload(o)), [2, 1, 0]),
}


def named(optimizer: Any) -> list[int]:
    return [int(group["name"]) for group in optimizer.param_groups]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", ALL)
def test_groups_keep_their_schedules(name: str, edit: str, torch: Any) -> None:
    optimizer, scheduler = after_steps(ALL[name])
    change, left = EDITS[edit]
    change(optimizer)
    assert named(optimizer) == left
    expected = [of_torch(ALL[name], j, BEFORE + AFTER, torch)[BEFORE:] for j in left]
    plateau = {"metrics": [1.0] * (BEFORE + AFTER)} if "Plateau" in name else {}
    coming = scheduler.preview(AFTER, **plateau).T.tolist()
    for row, alone, column in zip(optimizer.param_groups, expected, coming, strict=True):
        assert values(row) == alone[0]
        assert column == [lr for lr, _ in alone[1:]]
    for epoch in range(1, AFTER + 1):
        step(scheduler)
        assert [values(group) for group in optimizer.param_groups] == [alone[epoch] for alone in expected], epoch
        assert scheduler.get_last_lr() == [alone[epoch][0] for alone in expected]
    assert scheduler.lr_at(BEFORE + AFTER, **plateau) == [alone[AFTER][0] for alone in expected]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("name", ALL)
def test_what_is_saved_of_them_loads_back(name: str, edit: str, torch: Any) -> None:
    optimizer, scheduler = after_steps(ALL[name])
    change, left = EDITS[edit]
    change(optimizer)
    again, other = built(ALL[name], left)
    other.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    twins = [
        (again, other),
        copy.deepcopy((optimizer, scheduler)),
        pickle.loads(pickle.dumps((optimizer, scheduler))),
    ]
    expected = [of_torch(ALL[name], j, BEFORE + AFTER, torch)[BEFORE + 1 :] for j in left]
    for twin, its in twins:
        twin._opt_called = True
        for rows in zip(*expected, strict=True):
            step(its)
            assert [values(group) for group in twin.param_groups] == list(rows)


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_that_is_removed_leaves_nothing_to_one_that_comes(name: str, place: int, torch: Any) -> None:
    """The new group stands where the other one stood, but gets what a group at the end gets."""
    seen = []
    for i in (place, 2):
        optimizer, scheduler = after_steps(SHARED[name])
        optimizer.param_groups.pop(place)
        optimizer.add_param_group({"params": [np.zeros(1)], "lr": 4.0, "name": "9"})
        optimizer.param_groups.insert(i, optimizer.param_groups.pop())
        for _ in range(AFTER):
            step(scheduler)
        by_name = {group["name"]: values(group) for group in optimizer.param_groups}
        seen.append(by_name)
        assert all(by_name[str(j)] == of_torch(SHARED[name], j, BEFORE + AFTER, torch)[-1] for j in {0, 1, 2} - {place})
        assert json.loads(json.dumps(scheduler.state_dict()))["base_lrs"][i] == 4.0
    assert seen[0] == seen[1] and seen[0]["9"][0] > 0


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("LambdaLR", "lr_lambda"),
        ("MultiplicativeLR", "lr_lambda"),
        ("CyclicLR", "base_lr"),
        ("OneCycleLR", "max_lr"),
        ("SWALR", "swa_lr"),
        ("SequentialLR", "lr_lambda"),
        ("ChainedScheduler", "lr_lambda"),
    ],
)
def test_one_that_comes_instead_needs_its_own_settings(name: str, argument: str) -> None:
    optimizer, scheduler = after_steps(OF_THEIR_OWN[name])
    optimizer.param_groups.pop(0)
    optimizer.param_groups.pop(0)
    optimizer.add_param_group({"params": [np.zeros(1)], "lr": 4.0})
    before = [dict(group) for group in optimizer.param_groups]
    with pytest.raises(ValueError, match=f"a group was added, give {argument} for it too"):
        scheduler.step()
    assert optimizer.param_groups == before
    again, other = built(OF_THEIR_OWN[name], [2, 1])
    other.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    assert [group["lr"] for group in again.param_groups] == [group["lr"] for group in before]


def test_a_function_appended_by_hand_is_that_of_the_new_group() -> None:
    optimizer, scheduler = after_steps(OF_THEIR_OWN["LambdaLR"])
    optimizer.param_groups.pop(0)
    optimizer.add_param_group({"params": [np.zeros(1)], "lr": 4.0})
    scheduler.lr_lambdas.append(Decay(0.25))
    optimizer.param_groups.reverse()
    scheduler.step()
    assert scheduler.get_last_lr() == [4.0 * 0.25**5, 0.05 * 0.75**5, 0.37 * 0.9**5]


def test_plateau_waits_for_the_bound_of_a_new_group() -> None:
    optimizer, scheduler = after_steps(OF_THEIR_OWN["ReduceLROnPlateau"])
    optimizer.param_groups.pop(0)
    optimizer.add_param_group({"params": [np.zeros(1)], "lr": 4.0})
    with pytest.raises(RuntimeError, match=r"param groups in the `optimizer` \(3\) differs .* \(2\)"):
        step(scheduler)
    scheduler.min_lrs.append(3.0)
    optimizer.param_groups.reverse()
    while optimizer.param_groups[0]["lr"] == 4.0:
        step(scheduler)
    assert optimizer.param_groups[0]["lr"] == 3.0
    assert scheduler.min_lrs == [3.0, 0.04, 0.02]


def test_all_groups_may_go_and_others_come() -> None:
    optimizer, scheduler = after_steps(SHARED["LambdaLR"])
    optimizer.param_groups.clear()
    step(scheduler)
    assert (scheduler.get_last_lr(), scheduler.preview(2).shape) == ([], (2, 0))
    optimizer.add_param_group({"params": [np.zeros(1)], "lr": 4.0})
    step(scheduler)
    assert scheduler.get_last_lr() == [4.0 * 0.5**6]


def test_a_description_of_the_same_parameters_is_a_new_group() -> None:
    optimizer, scheduler = after_steps(SHARED["LambdaLR"])
    gone = optimizer.param_groups.pop(0)
    optimizer.add_param_group({"params": gone["params"], "lr": 4.0})
    step(scheduler)
    assert scheduler.base_lrs == [0.37, 0.05, 4.0]


@pytest.mark.parametrize("name", ["LambdaLR", "CyclicLR", "SequentialLR"])
def test_an_optimizer_that_was_copied_alone_may_take_the_place_of_the_first(name: str, torch: Any) -> None:
    optimizer, scheduler = after_steps(OF_THEIR_OWN[name])
    other = pickle.loads(pickle.dumps(optimizer))
    other._opt_called = True
    for x in (scheduler, *scheduler._schedulers):
        x.optimizer = other
    for _ in range(AFTER):
        step(scheduler)
    expected = [of_torch(OF_THEIR_OWN[name], j, BEFORE + AFTER, torch)[-1] for j in range(3)]
    assert [values(group) for group in other.param_groups] == expected


def test_empty_groups_that_a_launcher_drops() -> None:
    """0.9 of 5e-4 at epoch 1, computed by hand, and not of the 1e-5 of a group that is gone."""
    optimizer: Any = refoptim.AdamW([{"params": []}, {"params": [np.zeros(1)], "lr": 5e-4}, {"params": []}], lr=1e-5)
    optimizer._opt_called = True
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 - epoch / 10)
    optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 5e-4 * 0.9


def test_members_that_are_not_active_forget_a_group_too() -> None:
    optimizer, scheduler = built(sequence, [0, 1, 2])
    optimizer.param_groups.pop(0)
    scheduler.step()
    assert [len(x.base_lrs) for x in (scheduler, *scheduler._schedulers)] == [2] * 4
    assert [len(x.lr_lambdas) for x in scheduler._schedulers[:2]] == [2, 2]
