"""States and parameters that cannot be swapped in: refused, and nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import refoptim
from helpers.refusals import DTYPE, FIT, LAST, ONE_OF, R, T, V, World, f4, f8, nan, refused, second_group, the_dict


def lend(optimizer: Any = None, parameters: Any = None, alter: Callable[[Any], Any] = id) -> Callable[[World], Any]:
    """Enter the swap, with what is right in place of what is not given."""

    def act(world: World) -> None:
        saved = World("Adam").optimizer.state_dict()
        saved = alter(saved) or saved if alter is not id else saved
        own = {str(i): x.copy() for i, x in enumerate(world.arrays)}
        with refoptim.swap_in_optimizer_params_and_state(optimizer or world.optimizer, parameters or own, saved):
            world.step()

    return act


BOTH = "swapin_optim_state must be a dict with the keys 'state' and 'param_groups'"
THREE = {"a": f4(2, 3), "b": f4(4, 1), "c": f8(3, 2)}

SWAPS: dict[str, tuple[Callable[[World], Any], type[Exception], str]] = {
    "no optimizer": (lend(optimizer="Adam"), T, "str is not an Optimizer"),
    "an optimizer without state": (lend(optimizer=refoptim.Adam([f4(2)])), R, "the optimizer must have state"),
    "a list of parameters": (
        lend(parameters=[f4(2)]),
        T,
        "swapin_parameters must be a dict of parameters by name, got list",
    ),
    "too few parameters": (lend(parameters={"a": f4(2, 3)}), R, "swapin_parameters must hold 3 parameters, got 1"),
    "another shape": (
        lend(parameters=THREE | {"c": f8(2, 3)}),
        R,
        "must have the optimizer's shapes: (3, 2), got (2, 3)",
    ),
    "another dtype": (lend(parameters=THREE | {"c": f4(3, 2)}), T, f"{LAST}{DTYPE} float32, got float64"),
    "a list for an array": (lend(parameters=THREE | {"c": [1.0]}), T, f"{ONE_OF} list"),
    "one memory": (
        lend(parameters=THREE | {"b": THREE["a"].reshape(-1)[:4]}),
        R,
        "swapin_parameters must not share memory",
    ),
    "no state dict": (lend(alter=lambda d: [1]), R, BOTH),
    "no groups": (lend(alter=lambda d: {"state": {}}), R, BOTH),
    "a group less": (
        lend(alter=the_dict(param_groups=[])),
        R,
        "swapin_optim_state must have 2 parameter groups, got []",
    ),
    "a setting less": (lend(alter=lambda d: d["param_groups"][1].pop("lr") and None), R, "settings: ['lr']"),
    "a parameter more": (lend(alter=second_group(params=[1, 2])), R, "must have 1 parameters, got 2"),
    "no ids": (
        lend(alter=second_group(params=None)),
        R,
        "param_groups[1] of swapin_optim_state must be a dict with ids",
    ),
    "a state that is none": (
        lend(alter=the_dict(state={0: None})),
        R,
        "the state of swapin_optim_state must hold a dict per",
    ),
    "a state too many": (
        lend(alter=lambda d: d["state"].update({3: d["state"][0]})),
        R,
        "must be keyed by the ids in param_groups, got extra keys [3]",
    ),
    "an entry that is no parameter's": (
        lend(alter=lambda d: d["state"].update(note={})),
        R,
        "must be keyed by the ids in param_groups, got extra keys ['note']",
    ),
    "states under text": (
        lend(alter=lambda d: d.update(state={str(i): x for i, x in d["state"].items()})),
        R,
        "must be keyed by the ids in param_groups, got extra keys ['0', '1', '2']",
    ),
    "one id twice": (lend(alter=second_group(params=[1])), R, "must differ, got [0, 1, 1]"),
    "a wrong setting": (lend(alter=second_group(lr=nan)), V, "Invalid learning rate: nan (lr must be in [0, inf))"),
    "another state": (
        lend(alter=lambda d: d["state"][2].update(exp_avg=f8(1))),
        V,
        f"{LAST}the state exp_avg {FIT} (1,) and",
    ),
}


@pytest.mark.parametrize(("act", "error", "message"), SWAPS.values(), ids=SWAPS)
def test_swap(act: Callable[[World], Any], error: type[Exception], message: str) -> None:
    world = World("Adam")
    refused([world.optimizer, world.arrays, THREE], lambda: act(world), error, message)
