"""The surface of an optimizer: groups, steps, copies, what it prints; with torch as a witness."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from copy import copy, deepcopy
from typing import Any

import numpy as np
import pytest
from refoptim.conformance.oracle import ieee

import refoptim
from helpers import wider
from helpers.pictures import picture
from helpers.rooms import (
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
from refoptim import Parameter, SparseGrad

# Groups


def test_every_form_of_params() -> None:
    w, b = normal(1, 2), normal(2, 3)
    p = Parameter(b, name="bias")
    forms: list[tuple[Any, list[list[Any]]]] = [
        ([w, b], [[w, b]]),
        ((w, b), [[w, b]]),
        ((x for x in (w, b)), [[w, b]]),
        ({"w": w, "b": b}.values(), [[w, b]]),
        ([w, p], [[w, b]]),
        ([("w", w), ("b", p)], [[w, b]]),
        ({"w": w, "b": b}.items(), [[w, b]]),
        ([{"params": w}, {"params": [b]}], [[w], [b]]),
        ([{"params": (x for x in (w, b))}], [[w, b]]),
        ([{"params": p}], [[b]]),
        ([{"params": [("w", w)]}, {"params": {"b": b}.items()}], [[w], [b]]),
        ([{"params": []}, {"params": [w]}], [[], [w]]),
    ]
    for given, expected in forms:
        groups = refoptim.SGD(given).param_groups
        assert [[id(q.data) for q in group["params"]] for group in groups] == [[id(x) for x in xs] for xs in expected]


def test_parameters_are_taken_as_they_are() -> None:
    p = Parameter(normal(1, 2))
    assert refoptim.SGD([p]).param_groups[0]["params"][0] is p


def test_groups_have_settings_of_their_own() -> None:
    given = [{"params": [normal(1, 2)], "lr": 0.5, "layer": "encoder"}, {"params": [normal(2, 3)], "betas": [0.5, 0.6]}]
    before = picture(given)
    first, second = refoptim.Adam(given, lr=0.125, eps=1e-3).param_groups
    assert picture(given) == before
    assert (first["lr"], first["betas"], first["eps"], first["layer"]) == (0.5, (0.9, 0.999), 1e-3, "encoder")
    assert (second["lr"], second["betas"], second["eps"]) == (0.125, [0.5, 0.6], 1e-3)
    assert "layer" not in second


def test_defaults_are_the_arguments() -> None:
    optimizer = refoptim.SGD([normal(1, 2)], 0.25, momentum=0.5, maximize=True)
    given = {"lr": 0.25, "momentum": 0.5, "maximize": True}
    assert {key: optimizer.defaults[key] for key in given} == given
    assert list(optimizer.defaults) == [key for key in optimizer.param_groups[0] if key != "params"]


def test_names_stand_in_the_groups() -> None:
    optimizer = refoptim.Adam([{"params": [("w", normal(1, 2)), ("b", normal(2, 2))]}])
    optimizer.add_param_group({"params": [("c", normal(3, 2))]})
    assert [group["param_names"] for group in optimizer.param_groups] == [["w", "b"], ["c"]]
    again = refoptim.Adam(optimizer.param_groups)
    assert [group["param_names"] for group in again.param_groups] == [["w", "b"], ["c"]]


def test_names_of_parameters_stand_in_messages() -> None:
    p = Parameter(normal(1, 2), name="bias")
    with pytest.raises(ValueError, match=r"parameter 1 of group 0 \(bias\): the gradient must have shape"):
        refoptim.Adam([normal(1, 2), p]).step(grads=[None, normal(1, 3)])
    with pytest.raises(ValueError, match=r"parameter 1 of group 0 \(b\): the gradient must have shape"):
        refoptim.Adam([("w", normal(1, 2)), ("b", normal(2, 2))]).step(grads=[None, normal(1, 3)])


def test_an_added_group_joins_in() -> None:
    x, y = normal(1, 3), normal(2, 4)
    optimizer = make("AdamW", [x])
    optimizer.step(grads=[normal(3, 3)])
    optimizer.add_param_group({"params": y, "lr": 0.5})
    optimizer.step(grads=[normal(4, 3), normal(5, 4)])
    alone = make("AdamW", [normal(2, 4)], lr=0.5)
    alone.step(grads=[normal(5, 4)])
    assert_equal_bits(y, members(alone)[0].data)
    assert [optimizer.state[p]["step"] for p in members(optimizer)] == [2, 1]


def test_adagrad_has_its_state_from_the_start() -> None:
    """A group's own initial value counts; torch begins such a group with that of the others."""
    optimizer = refoptim.Adagrad([normal(1, 2)], initial_accumulator_value=0.25)
    optimizer.add_param_group({"params": [normal(2, 3, dtype="complex64")], "initial_accumulator_value": 0.5})
    first, second = (optimizer.state[p] for p in members(optimizer))
    assert (first["step"], second["step"]) == (0, 0)
    assert_equal_bits(first["sum"], np.full(2, 0.25, np.float32))
    assert_equal_bits(second["sum"], np.full(3, 0.5 + 0.5j, np.complex64))


@pytest.mark.parametrize("name", OF_TORCH)
def test_signatures_begin_as_torchs(name: str, torch: Any) -> None:
    """Every argument of torch is there, in the same place, with the same default; what is added goes by name."""
    theirs = dict(inspect.signature(getattr(torch.optim, name)).parameters)
    ours = dict(inspect.signature(getattr(refoptim, name)).parameters)
    by_position = [p.kind for p in theirs.values()].count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert list(ours)[:by_position] == list(theirs)[:by_position]
    assert set(theirs) <= set(ours)
    for key, p in theirs.items():
        assert (ours[key].default, ours[key].kind) == (p.default, p.kind), key
    added = [ours[key].kind for key in set(ours) - set(theirs)]
    assert set(added) <= {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", OF_TORCH)
def test_groups_hold_what_torchs_hold(name: str, torch: Any) -> None:
    (ours,) = getattr(refoptim, name)([normal(1, 2, 2)]).param_groups
    (theirs,) = getattr(torch.optim, name)([torch.zeros(2, 2)]).param_groups
    assert {key: ours[key] for key in theirs if key != "params"} == {k: v for k, v in theirs.items() if k != "params"}


def without_additions(text: str, group: dict[str, Any]) -> str:
    """Leave out the lines of settings that the group does not have."""
    lines = text.splitlines()
    return "\n".join(line for line in lines if not line.startswith("    ") or line.split(":")[0].strip() in group)


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("name", OF_TORCH)
def test_repr_is_torchs(name: str, named: bool, torch: Any) -> None:
    more = {"maximize": True} if name != "Muon" else {}

    def optimizer(module: Any, arrays: list[Any]) -> Any:
        groups: list[dict[str, Any]] = [{"params": [("w", x)] if named else [x]} for x in arrays]
        groups[1]["lr"] = 0.75
        return getattr(module, name)(groups, lr=0.125, **more)

    ours = optimizer(refoptim, [normal(1, 2, 2), normal(2, 2, 2)])
    theirs = optimizer(torch.optim, [torch.ones(2, 2), torch.ones(2, 2)])
    assert without_additions(repr(ours), theirs.param_groups[0]) == repr(theirs)


# Steps


def test_a_step_returns_what_the_closure_returns() -> None:
    p = Parameter(normal(1, 3))
    before = p.data.copy()
    calls = []

    def closure() -> dict[str, float]:
        calls.append(p.data.copy())
        p.grad = normal(2, 3)
        return {"loss": 0.5}

    optimizer = refoptim.SGD([p], lr=0.5)
    assert optimizer.step(closure) == {"loss": 0.5}
    assert len(calls) == 1
    assert_equal_bits(calls[0], before)
    assert_equal_bits(p.data, before - np.float32(0.5) * normal(2, 3))
    assert optimizer.step() is None
    assert optimizer.step(grads=[normal(3, 3)]) is None


def test_grads_take_the_place_of_those_the_parameters_hold() -> None:
    p, q = Parameter(normal(1, 3), np.full(3, np.float32(7))), Parameter(normal(2, 3), np.full(3, np.float32(9)))
    held = p.grad
    optimizer = refoptim.SGD([p, q], lr=0.5)
    optimizer.step(grads=(g for g in [normal(3, 3), None]))
    assert_equal_bits(p.data, normal(1, 3) - np.float32(0.5) * normal(3, 3))
    assert_equal_bits(q.data, normal(2, 3))
    assert p.grad is held


@pytest.mark.parametrize("name", OF_TORCH)
def test_parameters_without_a_gradient_are_skipped(name: str, torch: Any) -> None:
    """Their state is not made and their count does not move, as in torch."""
    given = [[0, 1], [0], [], [2], [0, 2]]
    arrays = [normal(i, 3, 3) for i in range(3)]
    tensors = [torch.zeros(3, 3) for _ in arrays]
    ours, theirs = getattr(refoptim, name)(arrays), getattr(torch.optim, name)(tensors)
    for present in given:
        before = [x.copy() for x in arrays]
        ours.step(grads=[gradient(name, i, x) if i in present else None for i, x in enumerate(arrays)])
        for i, t in enumerate(tensors):
            t.grad = (
                (torch.ones(3, 3).to_sparse() if name == "SparseAdam" else torch.ones(3, 3)) if i in present else None
            )
        theirs.step()
        assert [i for i, (x, y) in enumerate(zip(arrays, before, strict=True)) if (x != y).any()] == present
        for p, t in zip(members(ours), tensors, strict=True):
            mine, other = ours.state.get(p, {}), theirs.state.get(t, {})
            assert set(mine) == {key for key, x in other.items() if x is not None}
            assert mine.get("step") == (int(other["step"]) if "step" in other else None)


def test_nothing_to_do() -> None:
    """Empty groups, empty arrays, and no gradients at all."""
    optimizer = refoptim.Adam([{"params": []}, {"params": [np.zeros((0, 3)), np.zeros(2)]}])
    optimizer.step()
    optimizer.step(grads=[None, None])
    assert optimizer.state == {}
    optimizer.step(grads=[np.ones((0, 3)), None])
    assert [optimizer.state[p]["step"] for p in members(optimizer)[:1]] == [1]


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool, torch: Any) -> None:
    ours = [Parameter(normal(i, 3), g) for i, g in enumerate([normal(7, 3), None, normal(8, 3)])]
    theirs = [torch.zeros(3, requires_grad=True) for _ in ours]
    for p, t in zip(ours, theirs, strict=True):
        t.grad = None if p.grad is None else torch.tensor(p.grad)
    held = [p.grad for p in ours]
    refoptim.SGD([{"params": ours[:1]}, {"params": ours[1:]}]).zero_grad(set_to_none)
    torch.optim.SGD(theirs).zero_grad(set_to_none)
    for p, t, g in zip(ours, theirs, held, strict=True):
        assert (p.grad is None) == (t.grad is None)
        if t.grad is not None:
            assert p.grad is g
            assert_equal_bits(p.grad, t.grad.numpy())


def test_zero_grad_is_to_none_unless_asked_otherwise() -> None:
    p = Parameter(normal(1, 3), normal(2, 3))
    refoptim.SGD([p]).zero_grad()
    assert p.grad is None


def test_zero_grad_where_zeros_cannot_be_written() -> None:
    frozen = np.broadcast_to(np.float32(2), (3,))
    p, q = Parameter(normal(1, 3), frozen), Parameter(normal(2, 3), SparseGrad([[1]], normal(3, 1), (3,)))
    refoptim.SGD([p, q]).zero_grad(set_to_none=False)
    assert_equal_bits(p.grad, np.zeros(3, np.float32))
    assert_equal_bits(frozen, np.full(3, np.float32(2)))
    assert q.grad is None


@pytest.mark.parametrize("name", NAMES)
def test_flags_that_change_nothing_on_numpy_arrays(name: str) -> None:
    flags = [key for key in ("foreach", "capturable") if key in inspect.signature(getattr(refoptim, name)).parameters]

    def trained(**flag: bool) -> Any:
        optimizer = make(name, [normal(1, 3, 3), normal(2, 2, 5)], **flag)
        for k in range(3):
            optimizer.step(grads=[gradient(name, k, p.data) for p in members(optimizer)])
        return optimizer

    for flag in flags:
        assert_equal_runs(trained(**{flag: True}), trained(), flag)
    assert flags or name == "SparseAdam"


@pytest.mark.parametrize("name", NAMES)
def test_to_maximize_is_to_minimize_the_opposite(name: str) -> None:
    up, down = make(name, [normal(1, 3, 3)], maximize=True), make(name, [normal(1, 3, 3)])
    for k in range(3):
        g = gradient(name, k, normal(1, 3, 3))
        up.step(grads=[g])
        down.step(grads=[SparseGrad(g.indices, -g.values, g.shape) if isinstance(g, SparseGrad) else -g])
    assert_equal_runs(up, down)


@pytest.mark.parametrize("name", ["SGD", "RMSprop"])
def test_a_momentum_too_small_for_the_dtype(name: str, torch: Any) -> None:
    """It is 0 in float32, but there is a buffer, and the update goes through it, as in torch."""
    x, tensor = normal(1, 50), torch.from_numpy(normal(1, 50))
    ours = getattr(refoptim, name)([x], momentum=1e-300)
    theirs = getattr(torch.optim, name)([tensor], momentum=1e-300, foreach=False)
    with ieee():
        for k in range(3):
            ours.step(grads=[normal(k, 50)])
            tensor.grad = torch.from_numpy(normal(k, 50))
            theirs.step()
    assert_equal_bits(x, tensor.numpy())
    buffer = ours.state[members(ours)[0]]["momentum_buffer"]
    assert_equal_bits(buffer, theirs.state[tensor]["momentum_buffer"].numpy())


# Numbers in arrays


@pytest.mark.parametrize("name", NAMES)
def test_lr_as_an_array_is_kept_and_read_in_every_step(name: str) -> None:
    lr = np.array(0.04)
    optimizer = make(name, [{"params": [normal(1, 3, 3)]}, {"params": [normal(2, 3, 3)]}], lr=lr)
    assert all(group["lr"] is lr for group in optimizer.param_groups)
    other = make(name, [{"params": [normal(1, 3, 3)]}, {"params": [normal(2, 3, 3)]}], lr=0.04)
    for k in range(4):
        grads = [gradient(name, 10 * k + i, normal(1, 3, 3)) for i in range(2)]
        lr[...] = 0.04 / (1 + k)
        for group in other.param_groups:
            group["lr"] = 0.04 / (1 + k)
        optimizer.step(grads=grads)
        other.step(grads=grads)
    assert_equal_runs(optimizer, other)


@pytest.mark.parametrize("lr", [np.array([[0.25]]), np.float16(0.25), np.array(1, np.int8), 1], ids=repr)
def test_any_real_number_is_a_learning_rate(lr: Any) -> None:
    x = normal(1, 3)
    refoptim.SGD([x], lr=lr).step(grads=[normal(2, 3)])
    assert_equal_bits(x, normal(1, 3) - np.float32(np.reshape(lr, ())) * normal(2, 3))


def test_numbers_in_torch_tensors(torch: Any) -> None:
    tensors, arrays = [normal(1, 3)], [normal(1, 3)]
    with_tensors = refoptim.Adam(tensors, lr=torch.tensor(0.25), betas=(torch.tensor(0.5), torch.tensor(0.75)))
    with_arrays = refoptim.Adam(arrays, lr=0.25, betas=(0.5, 0.75))
    for optimizer in (with_tensors, with_arrays):
        optimizer.step(grads=[normal(2, 3)])
    assert_equal_runs(with_tensors, with_arrays)


# Arrays of other libraries


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Muon"])
def test_a_torch_tensor_is_updated_in_place(name: str, torch: Any) -> None:
    tensor, x = torch.from_numpy(normal(1, 4, 3)).t().contiguous().t(), normal(1, 4, 3)
    address = tensor.data_ptr()
    lent, own = make(name, [tensor]), make(name, [x])
    for k in range(3):
        lent.step(grads=[torch.from_numpy(normal(k, 4, 3))])
        own.step(grads=[normal(k, 4, 3)])
    assert tensor.data_ptr() == address
    assert_equal_bits(tensor.numpy(), x)


def test_torch_gradients_that_are_torch_parameters(torch: Any) -> None:
    """Two arrays handed over by one tensor have no owner in common; they are told by their addresses."""
    tensor, free = torch.from_numpy(normal(1, 6)), normal(1, 6)
    lent, own = (make("Adam", [x[:3], x[3:]], foreach=False) for x in (tensor, free))
    for _ in range(2):
        own.step(grads=[free[3:].copy(), free[:3].copy()])
        lent.step(grads=[tensor[3:], tensor[:3]])
    assert_equal_bits(tensor.numpy(), free)


# Copies


@pytest.mark.parametrize("way", [deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", NAMES)
def test_a_copy_goes_its_own_way(name: str, way: Callable[[Any], Any]) -> None:
    lr = np.array(0.04)
    optimizer = make(name, [("w", normal(1, 3, 3)), ("b", normal(2, 2, 4))], lr=lr)
    optimizer.step(grads=[gradient(name, i, p.data) for i, p in enumerate(members(optimizer))])
    copied = way(optimizer)
    assert_equal_runs(copied, optimizer)
    assert repr(copied) == repr(optimizer)
    assert set(copied.state) == set(members(copied))
    assert copied.param_groups[0]["lr"] is not lr
    before = picture(optimizer)
    copied.step(grads=[gradient(name, 9, p.data) for p in members(copied)])
    assert picture(optimizer) == before


def test_copies_have_no_hooks(torch: Any) -> None:
    """Torch's lose them too."""
    calls: list[int] = []
    ours, theirs = refoptim.SGD([normal(1, 2)]), torch.optim.SGD([torch.zeros(2)])
    for optimizer in (ours, theirs):
        optimizer.register_step_pre_hook(lambda *_: calls.append(1))
        copied = deepcopy(optimizer)
        copied.step()
        assert calls == []
        copied.register_step_pre_hook(lambda *_: None).remove()
        optimizer.step()
        assert calls.pop() == 1


def test_a_shallow_copy_shares_everything_but_hooks() -> None:
    optimizer = make("Adam", [normal(1, 3)])
    optimizer.step(grads=[normal(2, 3)])
    shallow = copy(optimizer)
    assert shallow.state is optimizer.state
    assert shallow.param_groups is optimizer.param_groups


# Settings of the library


def test_the_default_dtype_is_that_of_new_registers() -> None:
    old = refoptim.get_default_dtype()
    assert old == np.float32
    try:
        for dtype in (float, "float64", "f8", np.float64, np.dtype("float64")):
            refoptim.set_default_dtype("float32")
            refoptim.set_default_dtype(dtype)
            assert refoptim.get_default_dtype() == np.float64
        optimizer = refoptim.NAdam([normal(1, 3)])
        optimizer.step(grads=[normal(2, 3)])
        assert type(optimizer.state[members(optimizer)[0]]["mu_product"]) is np.float64
    finally:
        refoptim.set_default_dtype(old)


def test_settings_are_not_neutral() -> None:
    """Every hyperparameter of an optimizer differs from its default, but for some that are tried elsewhere.

    A rule that torch does not have may have settings that rule each other out: its own cases try them one by one.
    """
    flags = {
        "foreach",
        "maximize",
        "differentiable",
        "fused",
        "capturable",
        "decoupled_weight_decay",
        "nesterov",
        "cautious",
    }
    elsewhere = flags | {
        "learning_rate_power",
        "train_mode",
        "params",
        "ns_coefficients",
        "eps",
        "adjust_lr_fn",
        "ns_dtype",
        "products",
        "momentum",
        "centered",
        "amsgrad",
    }
    for name, settings in SETTINGS.items():
        parameters = inspect.signature(getattr(refoptim, name)).parameters
        missing = set(parameters) - elsewhere - set(settings)
        assert not [key for key in missing if not is_tried_in_a_case(name, key, parameters[key].default)], name
        assert all(parameters[key].default != value for key, value in settings.items()), name


def is_tried_in_a_case(name: str, key: str, default: Any) -> bool:
    """Tell whether a hyperparameter differs from its default in a case of a rule that torch does not have."""
    return any(case.hyper.get(key, default) != default for case in wider.OWN_CASES.get(name, []))


def test_optimizers_of_ones_own_may_pass_their_defaults_as_a_dict() -> None:
    class Own(refoptim.Optimizer):
        def __init__(self, params: list[np.ndarray], lr: float = 0.5) -> None:
            super().__init__(params, {"lr": lr})

    x = np.ones(3)
    assert Own([x]).param_groups[0]["lr"] == 0.5
    assert Own([{"params": [x], "lr": 2.0}]).param_groups[0]["lr"] == 2.0
    with pytest.raises(TypeError, match="defaults must be a dict of settings, got float"):
        refoptim.Optimizer([x], 0.5)
