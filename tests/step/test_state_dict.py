"""State dicts: torch's layout, to and from torch, through files, by name, and always copies."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from refoptim.conformance.oracle import ieee, to_numpy, to_torch

import refoptim
from helpers.pictures import picture
from helpers.rooms import (
    DENSE,
    NAMES,
    OF_TORCH,
    SETTINGS,
    assert_equal_bits,
    assert_equal_runs,
    gradient,
    make,
    members,
    normal,
)
from helpers.wider import apart

ELEMENTWISE = [name for name in OF_TORCH if name not in ("Adafactor", "Muon")]


@pytest.fixture
def torch() -> Iterator[Any]:
    """Make torch an exact witness."""
    library = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    with ieee():
        yield library


def trained(name: str, params: Any, steps: int, first: int = 0, **settings: Any) -> Any:
    return continued(name, make(name, params, **settings), first, first + steps)


def continued(name: str, optimizer: Any, first: int, last: int) -> Any:
    """Take steps with gradients that depend on the number of the step alone."""
    for k in range(first, last):
        optimizer.step(grads=[gradient(name, 10 * k + i, p.data) for i, p in enumerate(members(optimizer))])
    return optimizer


def groups(dtype: str = "float32", named: bool = False, name: str = "Adam") -> list[dict[str, Any]]:
    """Return two groups of three matrices."""
    arrays = [normal(i, *shape, dtype=dtype) for i, shape in enumerate([(3, 2), (2, 5), (4, 4)])]
    given = list(zip("wbc", arrays, strict=True)) if named else arrays
    return [{"params": given[:2]}, {"params": given[2:], **apart(name, 0.03125)}]


# torch


def twin(torch: Any, ours: Any, named: bool = False) -> Any:
    """Return torch's optimizer over copies of the parameters of one of refoptim, with the same settings."""
    cls = getattr(torch.optim, type(ours).__name__)
    accepted = set(inspect.signature(cls).parameters) - {"fused"}
    given = []
    for group in ours.param_groups:
        tensors = [to_torch(p.data.copy()) for p in group["params"]]
        params = list(zip(group["param_names"], tensors, strict=True)) if named else tensors
        settings = {key: x for key, x in group.items() if key in accepted - {"params"}}
        given.append({**settings, "params": params, **({"foreach": False} if "foreach" in accepted else {})})
    return cls(given)


def advance(theirs: Any, ours: Any, name: str, first: int, last: int) -> None:
    """Take torch through the steps of ``continued``."""
    for k in range(first, last):
        for i, (t, p) in enumerate(zip(members(theirs), members(ours), strict=True)):
            t.grad = to_torch(gradient(name, 10 * k + i, p.data))
        theirs.step()


def as_torch(torch: Any, there: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict of refoptim as torch keeps one: tensors, and no settings that it does not have."""

    def tensor(x: Any) -> Any:
        if type(x) is int and type(there) is torch.optim.SparseAdam:
            return x
        return torch.tensor(float(x)) if np.ndim(x) == 0 else to_torch(x)

    slim = [{key: x for key, x in g.items() if key in there.param_groups[0]} for g in saved["param_groups"]]
    state = {i: {key: tensor(x) for key, x in values.items()} for i, values in saved["state"].items()}
    return {"state": state, "param_groups": slim}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("name", OF_TORCH)
def test_the_layout_is_torchs(name: str, named: bool, torch: Any) -> None:
    ours = make(name, groups(named=named, name=name))
    theirs = twin(torch, ours, named)
    assert_same_layout(ours.state_dict(), theirs.state_dict())
    continued(name, ours, 0, 2)
    advance(theirs, ours, name, 0, 2)
    assert_same_layout(ours.state_dict(), theirs.state_dict())


def assert_same_layout(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Fail unless two state dicts have the same keys, shapes, dtypes and ids; an own setting more is none less."""
    assert list(ours) == list(theirs) == ["state", "param_groups"]
    for mine, other in zip(ours["param_groups"], theirs["param_groups"], strict=True):
        assert set(other) <= set(mine)
        assert (mine["params"], mine.get("param_names")) == (other["params"], other.get("param_names"))
    if any(theirs["state"].values()):
        assert list(ours["state"]) == list(theirs["state"])
    for key, mine in ours["state"].items():
        other = theirs["state"].get(key, {})
        assert list(mine) == list(other) or not any(x for x in mine.values() if isinstance(x, int))
        for name in set(mine) & set(other) - {"step"}:
            assert mine[name].shape == tuple(other[name].shape)
            assert str(other[name].dtype) == f"torch.{mine[name].dtype}"
        assert type(mine.get("step", 0)) is int


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_run_goes_over_to_torch_and_comes_back(name: str, dtype: str, torch: Any) -> None:
    """Three steps here, three in torch, three here, as if all nine had been taken in one place."""
    if dtype == "float64" and name in ("NAdam", "ASGD"):
        pytest.skip("torch casts their float32 registers to the dtype of the parameter when it loads them")
    here = trained(name, groups(dtype, name=name), 3)
    there = twin(torch, here)
    there.load_state_dict(as_torch(torch, there, here.state_dict()))
    advance(there, here, name, 3, 6)

    back = make(name, groups(dtype, name=name), lr=0.9)
    back.load_state_dict(there.state_dict())
    for p, t in zip(members(back), members(there), strict=True):
        p.data[...] = to_numpy(t)
    assert_equal_runs(continued(name, back, 6, 9), trained(name, groups(dtype, name=name), 9))
    continued(name, here, 3, 6)
    for p, t in zip(members(here), members(there), strict=True):
        assert_equal_bits(p.data, to_numpy(t))


@pytest.mark.parametrize("name", OF_TORCH)
def test_torchs_own_state_dict_is_loaded(name: str, torch: Any) -> None:
    """It has fewer settings; those that it lacks stay, and the count becomes an integer."""
    optimizer = make(name, groups(name=name), maximize=True)
    theirs = twin(torch, optimizer)
    advance(theirs, optimizer, name, 0, 2)
    saved = theirs.state_dict()
    for group in saved["param_groups"]:
        group.pop("maximize", None)
    optimizer.load_state_dict(saved)
    assert all(group["maximize"] is True for group in optimizer.param_groups)
    assert all(
        type(state["step"]) is int and state["step"] == 2 for state in optimizer.state.values() if "step" in state
    )
    for p, t in zip(members(optimizer), members(theirs), strict=True):
        for key, x in theirs.state[t].items():
            assert_equal_bits(optimizer.state[p][key], int(x) if key == "step" else to_numpy(x))


def test_a_state_of_torchs_fused_kernel_is_loaded(torch: Any) -> None:
    """Which kernel ran is no part of the state."""
    optimizer = make("Adam", groups())
    saved = twin(torch, optimizer).state_dict()
    for group in saved["param_groups"]:
        group["fused"] = True
    optimizer.load_state_dict(saved)
    assert [group["fused"] for group in optimizer.param_groups] == [None, None]


def test_torchs_missing_momentum_is_missing_here(torch: Any) -> None:
    tensor = torch.ones(3)
    theirs = torch.optim.SGD([tensor], momentum=0.5)
    tensor.grad = torch.ones(3)
    theirs.step()
    theirs.state[tensor]["momentum_buffer"] = None
    ours = refoptim.SGD([normal(1, 3)])
    ours.load_state_dict(theirs.state_dict())
    assert ours.state[members(ours)[0]] == {}


def test_numbers_in_torch_tensors_become_arrays(torch: Any) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        theirs = torch.optim.Adam([torch.ones(3)], lr=torch.tensor(0.375, dtype=dtype))
        ours = refoptim.Adam([normal(1, 3)])
        saved = theirs.state_dict()
        ours.load_state_dict(saved)
        lr = ours.param_groups[0]["lr"]
        assert isinstance(lr, np.ndarray)
        saved["param_groups"][0]["lr"].fill_(7)
        assert (lr.shape, float(lr)) == ((), 0.375)


def test_bfloat16_state_of_torch(torch: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    x = normal(1, 5).astype(ml_dtypes.bfloat16)
    ours, theirs = make("RMSprop", [x]), twin(torch, make("RMSprop", [x.copy()]))
    advance(theirs, ours, "RMSprop", 0, 3)
    ours.load_state_dict(theirs.state_dict())
    (p,), (t,) = members(ours), members(theirs)
    p.data[...] = to_numpy(t)
    continued("RMSprop", ours, 3, 6)
    advance(theirs, ours, "RMSprop", 3, 6)
    assert_equal_bits(p.data, to_numpy(t))
    for key in ("square_avg", "momentum_buffer", "grad_avg"):
        assert_equal_bits(ours.state[p][key], to_numpy(theirs.state[t][key]))


# Copies


@pytest.mark.parametrize("name", NAMES)
def test_a_state_dict_is_a_copy(name: str) -> None:
    """torch's shares its tensors with the optimizer."""
    optimizer = trained(name, groups(named=True, name=name), 2, lr=np.array(0.05))
    before = picture(optimizer)
    saved = optimizer.state_dict()
    spoil(saved)
    assert picture(optimizer) == before


@pytest.mark.parametrize("name", NAMES)
def test_loading_copies(name: str) -> None:
    """So that two optimizers that load one dict stay apart, and the dict as it was."""
    saved = trained(name, groups(name=name), 2, lr=np.array(0.05)).state_dict()
    kept = picture(saved)
    first, second = make(name, groups(name=name)), make(name, groups(name=name))
    first.load_state_dict(saved)
    second.load_state_dict(saved)
    assert picture(saved) == kept
    before = picture(second)
    continued(name, first, 2, 4)
    assert picture([saved]) == picture([saved]) == [list, kept]
    spoil(saved)
    assert picture(second) == before


def spoil(saved: dict[str, Any]) -> None:
    """Write into everything that a state dict holds."""
    for state in saved["state"].values():
        for key, x in state.items():
            if isinstance(x, np.ndarray):
                x[...] = 77
            state[key] = None
    for group in saved["param_groups"]:
        if isinstance(group["lr"], np.ndarray):
            group["lr"][...] = 77
        for x in group.values():
            if isinstance(x, list):
                x.append("spoiled")
        group.clear()


def test_loading_keeps_the_parameters_and_their_data() -> None:
    optimizer = trained("Adam", groups(), 1)
    parameters, arrays, state = members(optimizer), [p.data for p in members(optimizer)], optimizer.state
    optimizer.load_state_dict(trained("Adam", groups(), 3).state_dict())
    assert members(optimizer) == parameters
    assert all(p.data is x for p, x in zip(parameters, arrays, strict=True))
    assert optimizer.state is state
    assert [state[p]["step"] for p in parameters] == [3, 3, 3]


def test_loading_forgets_what_was_there() -> None:
    optimizer = trained("Adam", groups(), 2)
    optimizer.load_state_dict(make("Adam", groups()).state_dict())
    assert optimizer.state == {}
    optimizer.step(grads=[gradient("Adam", i, p.data) for i, p in enumerate(members(optimizer))])
    assert [optimizer.state[p]["step"] for p in members(optimizer)] == [1, 1, 1]


# Files


def through_json(saved: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(saved, default=lambda x: x.tolist())
    assert "NaN" not in text
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def through_npz(saved: dict[str, Any]) -> dict[str, Any]:
    """Write state under the names ``id.name``; npz knows no bfloat16 and returns its bits."""
    file = BytesIO()
    np.savez(file, **{f"{i}.{key}": x for i, state in saved["state"].items() for key, x in state.items()})
    file.seek(0)
    state: dict[str, dict[str, Any]] = {}
    with np.load(file, allow_pickle=False) as read:
        for key in read.files:
            i, name = key.split(".")
            state.setdefault(i, {})[name] = read[key]
    return {"state": state, "param_groups": saved["param_groups"]}


@pytest.mark.parametrize("way", [through_json, through_npz])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["SGD", "NAdam", "ASGD", "Adafactor"])
def test_a_run_goes_on_after_a_file(name: str, dtype: str, way: Callable[[Any], Any]) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    first = trained(name, groups(dtype, name=name), 2)
    second = make(name, [{"params": [p.data.copy() for p in group["params"]]} for group in first.param_groups], lr=0.7)
    second.load_state_dict(way(first.state_dict()))
    assert_equal_runs(continued(name, second, 2, 4), continued(name, first, 2, 4))
    assert [group["lr"] for group in second.param_groups] == [group["lr"] for group in first.param_groups]


def test_any_mapping_is_loaded() -> None:
    first, second = trained("Adam", groups(), 2), make("Adam", groups())
    saved = first.state_dict()
    frozen = {key: MappingProxyType(x) for key, x in saved["state"].items()}
    second.load_state_dict(MappingProxyType({**saved, "state": MappingProxyType(frozen)}))
    assert [second.state[p]["step"] for p in members(second)] == [2, 2, 2]


def test_empty_arrays_come_back_from_lists() -> None:
    """A list does not tell (0, 3) from (0,)."""
    optimizer = refoptim.Adam([np.zeros((0, 3)), np.zeros((2, 0))])
    optimizer.step(grads=[np.zeros((0, 3)), np.zeros((2, 0))])
    optimizer.load_state_dict(through_json(optimizer.state_dict()))
    assert [optimizer.state[p]["exp_avg"].shape for p in members(optimizer)] == [(0, 3), (2, 0)]


# Counts


@pytest.mark.parametrize(
    "step", [2**24 + 1, np.int64(2**24 + 1), np.float64(2**24 + 1), np.array([2**24 + 1])], ids=repr
)
def test_counts_are_exact_integers(step: Any) -> None:
    """torch's are float32 and stand still at 2**24."""
    optimizer = trained("Adam", groups(), 1)
    saved = optimizer.state_dict()
    saved["state"][0]["step"] = step
    optimizer.load_state_dict(saved)
    continued("Adam", optimizer, 1, 3)
    count = optimizer.state[members(optimizer)[0]]["step"]
    assert (type(count), count) == (int, 2**24 + 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_registers_keep_their_own_dtype(dtype: str) -> None:
    """Whatever the dtype of the parameter is, and whatever the default is by now."""
    saved = trained("ASGD", groups("float64"), 2).state_dict()
    for state in saved["state"].values():
        state["eta"] = np.array(state["eta"], dtype)
    optimizer = make("ASGD", groups("float64"))
    optimizer.load_state_dict(saved)
    state = optimizer.state[members(optimizer)[0]]
    assert (type(state["eta"]), type(state["mu"])) == (np.dtype(dtype).type, np.float32)


# Names


def named(order: str, seed: int = 0) -> list[tuple[str, Any]]:
    arrays = {letter: normal(seed + i, 3, 3) for i, letter in enumerate("wbc")}
    return [(letter, arrays[letter]) for letter in order]


@pytest.mark.parametrize("order", ["wbc", "bcw", "cbw"])
def test_parameters_are_found_by_name(order: str) -> None:
    """All have one shape, so that a mistake would go unnoticed otherwise, as it does in torch."""
    first = trained("Adam", named("wbc"), 2)
    second = make(
        "Adam", [(letter, dict(zip("wbc", members(first), strict=True))[letter].data.copy()) for letter in order]
    )
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["param_names"] == list(order)
    for letter, p in zip(order, members(second), strict=True):
        assert_equal_bits(second.state[p]["exp_avg"], first.state[members(first)["wbc".index(letter)]]["exp_avg"])


def test_without_names_on_both_sides_the_place_counts() -> None:
    """Names that come with the state are taken over, as in torch."""
    saved = trained("Adam", named("wbc"), 2).state_dict()
    plain = make("Adam", [x for _, x in named("bcw")])
    plain.load_state_dict(saved)
    assert plain.param_groups[0]["param_names"] == list("wbc")
    state = [plain.state[p]["exp_avg"] for p in members(plain)]
    assert all(np.array_equal(x, saved["state"][i]["exp_avg"]) for i, x in enumerate(state))

    saved["param_groups"][0].pop("param_names")
    owner = make("Adam", named("bcw"))
    owner.load_state_dict(saved)
    assert owner.param_groups[0]["param_names"] == list("bcw")


# Settings


def test_settings_are_those_of_the_state() -> None:
    saved = trained("Adam", groups(), 1).state_dict()
    saved["param_groups"][1] |= {"betas": [0.5, 0.25], "initial_lr": 0.5, "max_lr": 3, "note": "mine"}
    optimizer = refoptim.Adam(groups(), lr=0.7, amsgrad=False)
    optimizer.load_state_dict(saved)
    first, second = optimizer.param_groups
    assert (first["lr"], first["betas"], first["amsgrad"]) == (0.02, (0.8, 0.95), True)
    assert (second["betas"], second["initial_lr"], second["max_lr"], second["note"]) == ((0.5, 0.25), 0.5, 3, "mine")


@pytest.mark.parametrize("name", DENSE)
def test_what_an_older_state_lacks_stays(name: str) -> None:
    """Flags, and what the groups hold beside the settings of the optimizer."""
    flags = {"foreach", "maximize", "capturable", "differentiable", "fused"}
    saved = trained(name, groups(name=name), 1).state_dict()
    for group in saved["param_groups"]:
        for key in flags:
            group.pop(key, None)
    optimizer = make(name, groups(name=name), foreach=False, maximize=True)
    optimizer.param_groups[0] |= {"initial_lr": 0.5, "max_momentum": 0.75}
    optimizer.load_state_dict(saved)
    group = optimizer.param_groups[0]
    assert (group["foreach"], group["maximize"], group["initial_lr"], group["max_momentum"]) == (False, True, 0.5, 0.75)


def test_settings_are_checked_in_the_next_step_too() -> None:
    """The state of AdamW goes into Adam, which goes on as AdamW does."""
    saved = trained("AdamW", groups(), 2).state_dict()
    adam, adamw = make("Adam", groups()), make("AdamW", groups())
    for optimizer in (adam, adamw):
        optimizer.load_state_dict(saved)
        continued("AdamW", optimizer, 2, 4)
    assert_equal_runs(adam, adamw)


def test_state_that_belongs_to_no_parameter_is_kept() -> None:
    optimizer = trained("Adam", groups(), 1)
    optimizer.state["global"] = {"seen": [1, 2]}
    saved = optimizer.state_dict()
    other = make("Adam", groups())
    other.load_state_dict(saved)
    saved["state"]["global"]["seen"].append(3)
    assert other.state["global"] == optimizer.state["global"] == {"seen": [1, 2]}
    continued("Adam", other, 1, 2)


def test_every_optimizer_is_here() -> None:
    assert list(SETTINGS) == NAMES


def test_the_state_of_a_parameter_that_left_its_group_is_left_out() -> None:
    arrays = [normal(i, 3) for i in range(3)]
    optimizer = make("Adam", [{"params": arrays[:2]}, {"params": arrays[2:]}])
    optimizer.step(grads=[normal(9, 3) for _ in arrays])
    gone = optimizer.param_groups[0]["params"].pop(0)
    saved = optimizer.state_dict()
    assert list(saved["state"]) == [0, 1]
    assert gone in optimizer.state
    other = make("Adam", [{"params": [normal(1, 3)]}, {"params": [normal(2, 3)]}])
    other.load_state_dict(saved)
    assert [other.state[p]["step"] for p in members(other)] == [1, 1]


@pytest.mark.parametrize("name", ["Adagrad", "SGD"])
def test_a_group_that_cannot_be_added_leaves_nothing_behind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the state of those of its parameters that are right."""
    optimizer = make(name, [normal(1, 3)])
    before = picture(optimizer)
    right = refoptim.Parameter(normal(2, 3))
    for wrong in (optimizer.param_groups[0]["params"][0], np.ones(3, int), right):
        with pytest.raises((TypeError, ValueError)):
            optimizer.add_param_group({"params": [right, wrong]})
        assert picture(optimizer) == before
    assert right not in optimizer.state


def test_loading_fills_the_groups_that_there_are() -> None:
    """What holds on to a group, as schedulers do, goes on seeing it."""
    optimizer = make("Adam", [normal(1, 3)])
    groups, group = optimizer.param_groups, optimizer.param_groups[0]
    saved = make("Adam", [normal(1, 3)], lr=0.25).state_dict()
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups is groups
    assert groups[0] is group
    assert group["lr"] == 0.25
