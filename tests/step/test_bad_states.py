"""State dicts that do not fit, or hold junk: refused, or good enough for a step."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.pictures import picture
from helpers.refusals import DENSE_ONLY, NUMBER, Row, T, V, World, f4, f8, inf, nan, refused, second_group, the_dict

KEYS = "a state dict must be a dict with the keys 'state' and 'param_groups'"
PARTS = "a state dict must hold a dict 'state' and a list 'param_groups'"
SIZE = "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
NUMBER_OF_GROUPS = "loaded state dict has a different number of parameter groups (1, expected 2)"
NOT_ONE = "loaded state dict is not one of"
NAMES = "param_names of param_groups[1] of a state dict must be 1 names that differ, got"
INTEGER = "state 0, step, must be an integer in [0, inf), got"
ONE_STATE = "a state dict must have one state 0, a dict, got"


@pytest.mark.parametrize("given", [None, [], {}, 3, "state", {"state": {}}, {"param_groups": []}], ids=repr)
def test_load_no_state_dict(given: Any) -> None:
    world = World("Adam")
    refused([world.optimizer, given], lambda: world.optimizer.load_state_dict(given), ValueError, KEYS)


def first(**values: Any) -> Callable[[Any], Any]:
    return lambda saved: saved["state"][0].update(values)


def lacking(key: str) -> Callable[[Any], Any]:
    return lambda saved: saved["state"][0].pop(key)


SAVED: dict[str, Row] = {
    "a number of groups": ("Adam", the_dict(param_groups=2), V, PARTS),
    "a list of states": ("Adam", the_dict(state=[]), V, PARTS),
    "a group less": ("Adam", lambda d: d["param_groups"].pop(), V, NUMBER_OF_GROUPS),
    "no group": (
        "Adam",
        lambda d: d["param_groups"].insert(0, d["param_groups"].pop() and None),
        V,
        "param_groups[0] of a",
    ),
    "a parameter more": ("Adam", second_group(params=[2, 3]), V, f"{SIZE} (group 1: 2 parameters, expected 1)"),
    "no ids": (
        "Adam",
        second_group(params=None),
        V,
        "param_groups[1] of a state dict must be a dict with a list 'params'",
    ),
    "an id twice": (
        "Adam",
        second_group(params=[0]),
        V,
        "param_groups[1] of a state dict must have other ids than 0, which",
    ),
    "an unknown id": (
        "Adam",
        lambda d: d["state"].update({7: {}}),
        V,
        "state 7 of a state dict belongs to no parameter",
    ),
    "a state twice": ("Adam", lambda d: d["state"].update({"0": d["state"][0]}), V, ONE_STATE),
    "a state that is none": ("Adam", lambda d: d["state"].update({0: None}), V, f"{ONE_STATE} None"),
    "a setting less": (
        "Adam",
        lambda d: d["param_groups"][1].pop("eps"),
        V,
        f"{NOT_ONE} this optimizer: param_groups[1] lacks",
    ),
    "a setting of another": (
        "Adam",
        second_group(momentum=0.5),
        V,
        f"{NOT_ONE} this optimizer: param_groups[1] has 'momentum'",
    ),
    "a setting without a name": (
        "Adam",
        lambda d: d["param_groups"][1].update({7: 1}),
        T,
        "param_groups[1] of a state dict must have names, got 7",
    ),
    "a setting of text": (
        "Adam",
        second_group(lr="1"),
        T,
        "lr must be a real number, got '1' (lr must be in [0, inf))",
    ),
    "too many names": ("Adam", second_group(param_names=["a", "b"]), V, f"{NAMES} ['a', 'b']"),
    "numbers for names": ("Adam", second_group(param_names=[3]), V, f"{NAMES} [3]"),
    "no names": ("Adam", second_group(param_names=None), V, f"{NAMES} None"),
    "a state array less": ("Adam", lacking("exp_avg_sq"), V, f"{NOT_ONE} Adam: state 0 lacks 'exp_avg_sq'"),
    "a state array more": ("Adam", first(sum=f4(2, 3)), V, f"{NOT_ONE} Adam: state 0 has 'sum'"),
    "no count": ("Adam", lacking("step"), V, f"{NOT_ONE} Adam: state 0 lacks 'step'"),
    "a count where none is kept": ("Muon", first(step=1), V, f"{NOT_ONE} Muon: state 0 has 'step'"),
    "a negative count": ("Adam", first(step=-1), V, f"{INTEGER} -1"),
    "a fraction": ("Adam", first(step=1.5), V, f"{INTEGER} 1.5"),
    "an infinite count": ("Adam", first(step=inf), V, f"{INTEGER} inf"),
    "a count without a value": ("Adam", first(step=nan), V, f"{INTEGER} nan"),
    "a count of text": ("Adam", first(step="2"), V, f"{INTEGER} '2'"),
    "a count that is none": ("Adam", first(step=None), V, f"{INTEGER} None"),
    "a flag for a count": ("Adam", first(step=True), V, f"{INTEGER} True"),
    "two counts": ("Adam", first(step=np.array([1, 2])), V, f"{INTEGER} array([1, 2])"),
    "a complex count": ("Adam", first(step=np.array(1j)), V, f"{INTEGER} array(0.+1.j)"),
    "another shape": ("Adam", first(exp_avg=f4(3, 2)), V, "state 0, exp_avg, must have shape (2, 3), got (3, 2)"),
    "one element": ("Adam", first(exp_avg=f4(1)), V, "state 0, exp_avg, must have shape (2, 3), got (1,)"),
    "another dtype": ("Adam", first(exp_avg=f8(2, 3)), V, "state 0, exp_avg, must have dtype float32, got float64"),
    "a ragged list": ("Adam", first(exp_avg=[[1.0], [2.0, 3.0]]), V, "state 0, exp_avg, must be an array: setting an"),
    "a list of text": ("Adam", first(exp_avg=["a"]), V, "state 0, exp_avg, must be an array: could not convert"),
    "a list of giants": (
        "Adam",
        first(exp_avg=[[10**400] * 3] * 2),
        V,
        "state 0, exp_avg, must be an array: int too large",
    ),
    "masked state": (
        "Adam",
        first(exp_avg=np.ma.ones((2, 3))),
        V,
        "state 0, exp_avg, must be an array, got MaskedArray",
    ),
    "text for state": ("Adam", first(exp_avg="zero"), V, "state 0, exp_avg, must be an array, got str"),
    "a register of text": ("NAdam", first(mu_product="1"), V, f"state 0, mu_product, {NUMBER} '1'"),
    "a half register": (
        "NAdam",
        first(mu_product=np.float16(0.5)),
        V,
        f"state 0, mu_product, {NUMBER} np.float16(0.5)",
    ),
    "a register without a value": ("NAdam", first(mu_product=nan), V, f"state 0, mu_product, {NUMBER} nan"),
    "a register beyond doubles": ("NAdam", first(mu_product=10**400), V, f"state 0, mu_product, {NUMBER} 1000"),
    "a list of a register": ("NAdam", first(mu_product=[0.5]), V, f"state 0, mu_product, {NUMBER} [0.5]"),
    "no register": ("ASGD", lacking("eta"), V, f"{NOT_ONE} ASGD: state 0 lacks 'eta'"),
}
"""What a saved state may have become since, so that it is refused."""


@pytest.mark.parametrize(("name", "alter", "error", "message"), SAVED.values(), ids=SAVED)
def test_load_state_dict(name: str, alter: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    world = World(name)
    saved = world.optimizer.state_dict()
    alter(saved)
    refused([world.optimizer, world.arrays, saved], lambda: world.optimizer.load_state_dict(saved), error, message)


@pytest.mark.parametrize("saved_names", [["w", "bias"], ["b", "c"]])
def test_load_other_names(saved_names: list[str]) -> None:
    optimizer = refoptim.Adam([("w", f4(3)), ("b", f4(3))])
    optimizer.step(grads=[f4(3), f4(3)])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["param_names"] = saved_names
    message = f"loaded state dict names other parameters: param_groups[0] has {saved_names}, expected ['w', 'b']"
    refused([optimizer, saved], lambda: optimizer.load_state_dict(saved), ValueError, message)


KINDS = ["SGD", *DENSE_ONLY[:-2], "Adagrad", "SparseAdam", "Adafactor", "Muon"]


@pytest.mark.parametrize("mine", KINDS)
def test_load_the_state_of_another_optimizer(mine: str) -> None:
    """All but AdamW's into Adam: that state holds the setting which makes Adam AdamW, so both go on alike."""
    for other in KINDS:
        if mine == other or (mine, other) == ("Adam", "AdamW"):
            continue
        world, saved = World(mine), World(other).optimizer.state_dict()
        before = picture([world.optimizer, world.arrays])
        with pytest.raises(ValueError, match=f"{NOT_ONE}|AdamW decouples its weight decay"):
            world.optimizer.load_state_dict(saved)
        assert picture([world.optimizer, world.arrays]) == before


JUNK = [None, "x", "", -1, 0, 2.5, nan, inf, [], {}, [None], True, (1, 2), 1j, set(), len, "0", 99, b"b"]
JUNK += [f4(3), f4(3, 2), f8(2, 3), np.array(1.0), np.array("a"), np.ma.ones((2, 3)), np.array([None]), np.float16(1)]


def places(x: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to everything in nested dicts and lists."""
    pairs = x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ()
    return [path] * bool(path) + [place for key, value in pairs for place in places(value, (*path, key))]


def altered(saved: Any, rng: random.Random) -> None:
    """Put junk in some place, add junk beside it, or take away what is there."""
    *path, key = rng.choice(places(saved))
    for step in path:
        saved = saved[step]
    if rng.random() < 0.7:
        saved[key] = rng.choice(JUNK)
    elif rng.random() < 0.5 and isinstance(saved, dict):
        saved[rng.choice(["other", 7, -1, "7", None, (1,)])] = rng.choice(JUNK)
    else:
        del saved[key]


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", KINDS)
def test_altered_state_is_refused_or_good_enough_for_a_step(name: str) -> None:
    """Whatever has happened to it; it never leaves the optimizer half loaded, or with a broken state."""
    rng = random.Random(name)
    loaded = 0
    for _ in range(60):
        world, saved = World(name), World(name).optimizer.state_dict()
        altered(saved, rng)
        before = picture([world.optimizer, world.arrays])
        try:
            world.optimizer.load_state_dict(saved)
        except (TypeError, ValueError, RuntimeError):
            assert picture([world.optimizer, world.arrays]) == before
            continue
        loaded += 1
        world.step()
        assert repr(world.optimizer)
    assert 0 < loaded < 30
