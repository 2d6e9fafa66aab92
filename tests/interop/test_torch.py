"""Optimizers of torch that are refoptim's: the same bits, torch's ways of using them, and state that stays true."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from refoptim.conformance.oracle import ieee

import refoptim
from helpers import ROOT
from helpers.kernels import dtype_of
from helpers.rooms import NAMES, OF_TORCH, SETTINGS, assert_equal_bits, gradient, need_kernels, normal
from refoptim import SparseGrad
from refoptim.engines import host
from refoptim.interop import torch as front
from refoptim.numerics.libraries import viewed

DTYPES = ["float64", "float32", "float16", "bfloat16"]
CLOSURES = ["LBFGS", "ConjugateGradient"]
LATER = [name for name in OF_TORCH if name != "Adafactor"]
"""Rules that are torch's to the bit under the oracle."""


def shapes(name: str) -> list[tuple[int, ...]]:
    return [(5, 3), (3, 4)] if name in ("Muon", "SparseAdam") else [(5, 3), (40,), ()]


def starts(name: str, dtype: str = "float32") -> list[Any]:
    return [np.asarray(normal(i, *shape)).astype(dtype_of(dtype)) for i, shape in enumerate(shapes(name))]


def gradients(name: str, seed: int, dtype: str = "float32") -> list[Any]:
    drawn = [gradient(name, 10 * seed + i, np.zeros(shape, np.float32)) for i, shape in enumerate(shapes(name))]
    if name == "SparseAdam":
        return [SparseGrad(g.indices, g.values.astype(dtype_of(dtype)), g.shape) for g in drawn]
    return [np.asarray(g).astype(dtype_of(dtype)) for g in drawn]


def tensor(x: Any) -> Any:
    """Copy an array, or a sparse gradient, to a tensor."""
    if isinstance(x, SparseGrad):
        return torch.sparse_coo_tensor(tensor(x.indices), tensor(x.values), x.shape, check_invariants=True)
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(np.array(x.view(np.int16))).view(torch.bfloat16)
    return torch.from_numpy(np.array(x))


def leaves(name: str, dtype: str = "float32") -> list[Any]:
    return [tensor(x).requires_grad_() for x in starts(name, dtype)]


def step(optimizer: Any, name: str, seed: int, dtype: str = "float32") -> None:
    """Give new gradients to the tensors of an optimizer of torch's, and step it."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for p, g in zip(params, gradients(name, seed, dtype), strict=True):
        p.grad = tensor(g)
    optimizer.step()


def run(name: str, steps: int = 3, **settings: Any) -> tuple[Any, list[Any]]:
    """Return an optimizer after some steps, and its tensors."""
    params = leaves(name)
    optimizer = getattr(front, name)(params, **{**SETTINGS[name], **settings})
    for seed in range(steps):
        step(optimizer, name, seed)
    return optimizer, params


def values(optimizer: Any) -> list[Any]:
    """Return copies of all that an optimizer holds: tensors, state by name, and settings."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    held = [(p.detach().clone(), copy.deepcopy(dict(optimizer.state.get(p, {})))) for p in params]
    return [held, [{key: x for key, x in group.items() if key != "params"} for group in optimizer.param_groups]]


def assert_same(one: Any, other: Any) -> None:
    """Fail unless two values of a state are equal, tensors bit for bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert_equal_bits(viewed(one), viewed(other))
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for x, y in zip(one, other, strict=True):
            assert_same(x, y)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        assert_same(list(one.values()), list(other.values()))
    else:
        assert one == other


# ------------------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_steps_have_the_bits_of_refoptim_on_numpy(name: str, dtype: str, fused: bool | None) -> None:
    if fused and host.missing():
        pytest.skip(f"no kernels: {host.missing()}")
    if fused:
        need_kernels(name)
    arrays, params = starts(name, dtype), leaves(name, dtype)
    ours, theirs = (
        getattr(room, name)(x, **SETTINGS[name], fused=fused) for room, x in ((front, params), (refoptim, arrays))
    )
    for seed in range(4):
        step(ours, name, seed, dtype)
        theirs.step(grads=gradients(name, seed, dtype))
        for p, x, own in zip(params, arrays, theirs.param_groups[0]["params"], strict=True):
            assert_equal_bits(viewed(p), x)
            state, kept = ours.state[p], theirs.state[own]
            assert list(state) == list(kept)
            for key, value in kept.items():
                if name == "SparseAdam" and key == "step":
                    assert state[key] == value, "torch's counts in integers"
                else:
                    assert_equal_bits(viewed(state[key]), np.float32(value) if key == "step" else value, key)


def listed(x: Any) -> list[Any]:
    return x if isinstance(x, list) else [x]


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
@pytest.mark.parametrize("name", CLOSURES)
def test_closures_have_the_bits_of_refoptim_on_numpy(name: str, search: str | None) -> None:
    w, x = tensor(normal(1, 6)).requires_grad_(), normal(1, 6)
    ours, theirs = (getattr(each, name)([y], line_search_fn=search) for each, y in ((front, w), (refoptim, x)))
    p = theirs.param_groups[0]["params"][0]

    def our_closure() -> Any:
        assert torch.is_grad_enabled()
        w.grad = tensor(4 * w.detach().numpy() ** 3)
        return torch.tensor(float(np.sum(w.detach().numpy() ** 4)))

    def their_closure() -> float:
        p.grad = 4 * x**3
        return float(np.sum(x**4))

    for _ in range(3):
        with torch.no_grad():
            loss = ours.step(our_closure)
        assert loss.item() == theirs.step(their_closure)
        assert_equal_bits(w.detach().numpy(), x)
        assert list(ours.state[w]) == list(theirs.state[p])
        for key, value in theirs.state[p].items():
            for one, other in zip(listed(ours.state[w][key]), listed(value), strict=True):
                assert_equal_bits(one, other, key)


def test_all_classes_are_torchs_and_have_the_signatures_of_refoptim() -> None:
    found = {name: x for name, x in vars(refoptim).items() if inspect.isclass(x) and issubclass(x, refoptim.Optimizer)}
    assert {*NAMES, *CLOSURES} == {name for name, x in found.items() if x.is_rule} - {"Optimizer"}
    assert {*front.__all__} == {*NAMES, *CLOSURES, "Front", "optimizer_class", "state_dict"}
    for name in (*NAMES, *CLOSURES):
        cls = getattr(front, name)
        assert issubclass(cls, torch.optim.Optimizer)
        assert front.optimizer_class(getattr(refoptim, name)) is cls
        assert inspect.signature(cls) == inspect.signature(getattr(refoptim, name))


@pytest.mark.parametrize("rule", [torch.optim.SGD, "SGD", None])
def test_a_class_is_made_of_refoptims_alone(rule: Any) -> None:
    with pytest.raises(TypeError, match="rule must be a class of optimizers of refoptim, got"):
        front.optimizer_class(rule)


def test_importing_the_room_imports_no_torch() -> None:
    code = "import sys, refoptim.interop; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# ------------------------------------------------------------------------------------------------ as torch uses it

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda k: 0.9**k),
    "MultiplicativeLR": lambda o: torch.optim.lr_scheduler.MultiplicativeLR(o, lambda k: 0.9),
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 4]),
    "ConstantLR": lambda o: torch.optim.lr_scheduler.ConstantLR(o, total_iters=3),
    "LinearLR": lambda o: torch.optim.lr_scheduler.LinearLR(o, total_iters=4),
    "ExponentialLR": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.8),
    "SequentialLR": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.5)], [2]
    ),
    "PolynomialLR": lambda o: torch.optim.lr_scheduler.PolynomialLR(o, 6, 2.0),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    "ChainedScheduler": lambda o: torch.optim.lr_scheduler.ChainedScheduler(
        [torch.optim.lr_scheduler.ConstantLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.5)], o
    ),
    "ReduceLROnPlateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: torch.optim.lr_scheduler.CyclicLR(o, 0.01, 0.1, 3),
    "CosineAnnealingWarmRestarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.3, total_steps=9),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.05, anneal_epochs=3),
}


def test_these_are_all_schedulers_of_torch() -> None:
    found = {name for name in torch.optim.lr_scheduler.__all__ if not name.startswith("_")}
    assert len(found) == 16
    assert found | {"SWALR"} == {*SCHEDULERS, "LRScheduler"}, "a base, which has no schedule"


@pytest.mark.filterwarnings("ignore:Detected call of")
@pytest.mark.parametrize("rule", ["SGD", "AdamW"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_of_torch_drive_it(name: str, rule: str) -> None:
    """Parameters, rates and momenta are those of torch's own optimizer."""
    one, other = leaves(rule), leaves(rule)
    ours, theirs = getattr(front, rule)(one, **SETTINGS[rule]), getattr(torch.optim, rule)(other, **SETTINGS[rule])
    with ieee():
        schedulers = [SCHEDULERS[name](optimizer) for optimizer in (ours, theirs)]
        for seed in range(7):
            for optimizer, scheduler in zip((ours, theirs), schedulers, strict=True):
                step(optimizer, rule, seed)
                scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
            for key in ("lr", "momentum", "betas"):
                assert ours.param_groups[0].get(key) == theirs.param_groups[0].get(key)
    for p, q in zip(one, other, strict=True):
        assert_equal_bits(p.detach().numpy(), q.detach().numpy())
    assert ours._inner.param_groups[0].keys() == ours.param_groups[0].keys()


@pytest.mark.parametrize("overflows", [False, True])
def test_a_grad_scaler_skips_and_unscales(overflows: bool) -> None:
    w, start = torch.ones(3, requires_grad=True), 4.0
    optimizer, scaler = front.SGD([w], lr=0.5), torch.amp.GradScaler("cpu", init_scale=start)
    loss = (w * (float("inf") if overflows else 2.0)).sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert w.tolist() == ([1.0] * 3 if overflows else [0.0] * 3)
    assert scaler.get_scale() == (2.0 if overflows else 4.0)


def test_hooks_are_torchs() -> None:
    optimizer, _ = run("SGD", 1)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append("before"))
    optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append("after"))
    optimizer.register_state_dict_post_hook(lambda o, d: {**d, "more": 1})
    optimizer.register_load_state_dict_pre_hook(lambda o, d: {**d, "param_groups": [{**d["param_groups"][0], "lr": 9}]})
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    step(optimizer, "SGD", 1)
    saved = optimizer.state_dict()
    assert saved["more"] == 1
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 9
    assert seen == ["before", "after", "loaded"]


def test_names_and_groups() -> None:
    net = torch.nn.Linear(2, 3)
    optimizer = front.AdamW(net.named_parameters(), lr=0.1)
    assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
    more = torch.ones(2, requires_grad=True)
    optimizer.add_param_group({"params": [("more", more)], "lr": 0.5})
    for p in (*net.parameters(), more):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert [group["lr"] for group in optimizer._inner.param_groups] == [0.1, 0.5]
    assert torch.allclose(more, torch.full((2,), 0.495))
    generators = front.SGD([{"params": (p for p in [more])}, {"params": net.bias, "lr": 3}], lr=1)
    assert [len(group["params"]) for group in generators.param_groups] == [1, 1]


def test_a_rate_may_be_a_tensor_that_is_filled() -> None:
    w = torch.ones(2, requires_grad=True)
    optimizer = front.SGD([w], lr=torch.tensor(0.5))
    w.grad = torch.ones(2)
    optimizer.step()
    optimizer.param_groups[0]["lr"].fill_(0.25)
    optimizer.step()
    assert w.tolist() == [0.25, 0.25]


def test_a_closure_runs_with_gradients() -> None:
    w = torch.ones(2, requires_grad=True)
    optimizer = front.SGD([w], lr=0.5)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = w.sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 2
    assert w.tolist() == [0.5, 0.5]


def test_a_compiled_function_may_step() -> None:
    optimizer, params = run("Adam", 1)
    before = params[0].detach().clone()

    @torch.compile(backend="eager")
    def stepped() -> None:
        optimizer.step()

    stepped()
    assert not torch.equal(before, params[0])
    assert optimizer.state[params[0]]["step"] == 2


@pytest.mark.parametrize("fused", [None, True])
def test_autograd_refuses_a_graph_recorded_before_the_step(fused: bool | None) -> None:
    if fused and host.missing():
        pytest.skip(f"no kernels: {host.missing()}")
    w = torch.ones(3, requires_grad=True)
    optimizer = front.SGD([w], fused=fused)
    for _ in range(3):
        y = (w * w).sum()
        w.grad = torch.ones(3)
        optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()


# ------------------------------------------------------------------------------------------------- state dicts


def saved(state: Any) -> Any:
    """Write a state dict to a file as torch does, and read it with weights_only=True."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("through", ["front", "arrays"])
@pytest.mark.parametrize("name", LATER)
def test_a_checkpoint_goes_from_torch_to_refoptim_and_back(name: str, through: str) -> None:
    """Nine steps of torch's are three of torch's, three of refoptim's, three of torch's."""
    other, one = leaves(name), leaves(name)
    theirs, first = (getattr(torch.optim, name)(x, **SETTINGS[name]) for x in (other, one))
    with ieee():
        for seed in range(9):
            step(theirs, name, seed)
        for seed in range(3):
            step(first, name, seed)
        room = front if through == "front" else refoptim
        ours = getattr(room, name)(one, **SETTINGS[name])
        ours.load_state_dict(saved(first.state_dict()))
        for seed in range(3, 6):
            for p, g in zip(one, gradients(name, seed), strict=True):
                p.grad = tensor(g)
            ours.step()
        last = getattr(torch.optim, name)(one, **SETTINGS[name])
        last.load_state_dict(saved(front.state_dict(ours)))
        for seed in range(6, 9):
            step(last, name, seed)
    for p, q in zip(one, other, strict=True):
        assert_equal_bits(p.detach().numpy(), q.detach().numpy())
        assert_same(dict(last.state[p]), dict(theirs.state[q]))


def test_lbfgs_goes_to_torch_and_back() -> None:
    def closure_of(w: Any) -> Callable[[], Any]:
        def closure() -> Any:
            w.grad = 4 * w.detach() ** 3
            return (w.detach() ** 4).sum()

        return closure

    one, other = (tensor(normal(1, 6).astype(np.float64)).requires_grad_() for _ in range(2))
    theirs, ours = torch.optim.LBFGS([other], max_iter=3), front.LBFGS([one], max_iter=3)
    ours.step(closure_of(one))
    for _ in range(3):
        theirs.step(closure_of(other))
    middle = torch.optim.LBFGS([one], max_iter=3)
    middle.load_state_dict(saved(ours.state_dict()))
    middle.step(closure_of(one))
    ours.load_state_dict(saved(middle.state_dict()))
    ours.step(closure_of(one))
    assert torch.allclose(one, other, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", ["NAdam", "Adafactor", "SGD"])
def test_an_exported_state_shares_nothing(name: str) -> None:
    arrays = starts(name)
    optimizer = getattr(refoptim, name)(arrays, **SETTINGS[name])
    optimizer.step(grads=gradients(name, 1))
    exported = front.state_dict(optimizer)
    for entry in exported["state"].values():
        assert all(isinstance(x, torch.Tensor) for x in entry.values())
        for x in entry.values():
            x.fill_(7)
    for entry in optimizer.state_dict()["state"].values():
        assert not any(np.all(x == 7) for x in entry.values())
    ours, params = run(name, 1)
    copied = front.state_dict(ours)
    copied["state"][0][next(iter(copied["state"][0]))].fill_(7)
    assert not (next(iter(ours.state[params[0]].values())) == 7).all()


@pytest.mark.parametrize("name", [*NAMES, "LBFGS"])
def test_a_loaded_state_is_a_copy_and_goes_on(name: str) -> None:
    if name == "LBFGS":
        optimizer, params = front.LBFGS(leaves("SGD")), []
    else:
        optimizer, params = run(name)
    other, others = getattr(front, name)(leaves(name if name != "LBFGS" else "SGD")), []
    state = saved(optimizer.state_dict())
    other.load_state_dict(state)
    assert_same(other.state_dict(), optimizer.state_dict())
    if params:
        others = other.param_groups[0]["params"]
        with torch.no_grad():
            for p, q in zip(params, others, strict=True):
                q.copy_(p)
        for x in (x for entry in state["state"].values() for x in entry.values() if isinstance(x, torch.Tensor)):
            x.fill_(0)
        for each in (optimizer, other):
            step(each, name, 5)
        for p, q in zip(params, others, strict=True):
            assert_equal_bits(viewed(p), viewed(q))


@pytest.mark.parametrize("change", ["dtype", "shape", "name", "group", "number"])
def test_a_state_that_does_not_fit_is_refused_whole(change: str) -> None:
    optimizer, _ = run("Adam")
    before, state = values(optimizer), copy.deepcopy(optimizer.state_dict())
    entry = state["state"][1]
    if change == "dtype":
        entry["exp_avg"] = entry["exp_avg"].double()
    elif change == "shape":
        entry["exp_avg"] = torch.zeros(3)
    elif change == "name":
        entry["strange"] = torch.zeros(3)
    elif change == "group":
        state["param_groups"][0]["lr"] = -1.0
    else:
        state["param_groups"].append(state["param_groups"][0])
    with pytest.raises(ValueError, match=r"exp_avg|strange|learning rate|number of parameter groups"):
        optimizer.load_state_dict(state)
    assert_same(values(optimizer), before)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", NAMES)
def test_copies_go_on_alike(name: str, how: str) -> None:
    optimizer, params = run(name)
    pair = (optimizer, params)
    other, others = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert type(other) is type(optimizer)
    assert_same(values(other), values(optimizer))
    for each in (optimizer, other):
        step(each, name, 7)
    for p, q in zip(params, others, strict=True):
        assert p.data_ptr() != q.data_ptr()
        assert_equal_bits(viewed(p), viewed(q))
    assert_same(values(other), values(optimizer))


class Rule(refoptim.SGD):
    """An optimizer of one's own."""


class Mine(front.Adam):  # type: ignore[misc,name-defined]
    """A subclass of a class that was made."""


@pytest.mark.parametrize("cls", [front.optimizer_class(Rule), Mine])
def test_classes_of_ones_own_can_be_pickled(cls: Any) -> None:
    w = torch.ones(2, requires_grad=True)
    optimizer = cls([w], lr=0.5)
    w.grad = torch.ones(2)
    optimizer.step()
    other = pickle.loads(pickle.dumps(optimizer))
    assert type(other) is cls
    assert_same(other.state_dict(), optimizer.state_dict())


@pytest.mark.parametrize("fused", [None, True])
def test_steps_above_what_float32_counts(fused: bool | None) -> None:
    if fused and host.missing():
        pytest.skip(f"no kernels: {host.missing()}")
    optimizer, params = run("Adam", 1, fused=fused)
    kinds = (torch.float32, torch.float32, torch.float64, torch.float64)
    optimizer.state[params[0]]["step"] = torch.tensor(2.0**24 - 2)
    for k, dtype in zip(range(2**24 - 1, 2**24 + 3), kinds, strict=True):
        step(optimizer, "Adam", 1)
        count = optimizer.state[params[0]]["step"]
        assert (count.item(), count.dtype) == (k, dtype)
    assert copy.deepcopy(optimizer).state_dict()["state"][0]["step"].item() == 2**24 + 2
    assert front.state_dict(optimizer._inner)["state"][0]["step"].item() == 2**24 + 2


def test_a_state_that_was_spoilt_is_mended_by_loading() -> None:
    optimizer, params = run("Adam")
    good = copy.deepcopy(optimizer.state_dict())
    optimizer.state[params[0]] = {"nonsense": 1}
    optimizer.load_state_dict(good)
    assert_same(optimizer.state_dict(), good)
    step(optimizer, "Adam", 5)
    assert optimizer.state[params[0]]["step"] == 4


def test_a_copy_keeps_its_state_when_loading_fails() -> None:
    other = copy.deepcopy(run("Adam")[0])
    before = values(other)
    with pytest.raises(ValueError, match="a state dict must"):
        other.load_state_dict({"state": {}})
    assert_same(values(other), before)
    step(other, "Adam", 5)
    assert other.state[other.param_groups[0]["params"][0]]["step"] == 4


# --------------------------------------------------------------------------------- what others put into the state


def twin(optimizer: Any) -> Any:
    """Return an optimizer of torch's with the same state, and tensors of its own."""
    params = [p.detach().clone().requires_grad_() for group in optimizer.param_groups for p in group["params"]]
    other = torch.optim.Adam(params, **SETTINGS["Adam"])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return other


def assigned(optimizer: Any, p: Any) -> None:
    optimizer.state[p]["exp_avg"] = torch.full((5, 3), 0.25)


def written(optimizer: Any, p: Any) -> None:
    optimizer.state[p]["exp_avg_sq"].mul_(2)


def counted(optimizer: Any, p: Any) -> None:
    optimizer.state[p]["step"].fill_(10)


def count_assigned(optimizer: Any, p: Any) -> None:
    optimizer.state[p]["step"] = torch.tensor(10.0)


def moved(optimizer: Any, p: Any) -> None:
    """What trainers do that move state between devices."""
    for q in optimizer.state:
        optimizer.state[q] = {name: x.clone() for name, x in optimizer.state[q].items()}


def dropped(optimizer: Any, p: Any) -> None:
    del optimizer.state[p]


def emptied(optimizer: Any, p: Any) -> None:
    optimizer.state.clear()


def replaced(optimizer: Any, p: Any) -> None:
    optimizer.state = copy.copy(optimizer.state)


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize(
    "change", [assigned, written, counted, count_assigned, moved, dropped, emptied, replaced], ids=lambda x: x.__name__
)
def test_what_is_put_into_the_state_counts(change: Callable[..., None], fused: bool | None) -> None:
    if fused and host.missing():
        pytest.skip(f"no kernels: {host.missing()}")
    optimizer, params = run("Adam", 4, fused=fused)
    other = twin(optimizer)
    change(optimizer, params[0])
    change(other, other.param_groups[0]["params"][0])
    with ieee():
        for seed in (5, 6):
            for each in (optimizer, other):
                step(each, "Adam", seed)
    for p, q in zip(params, other.param_groups[0]["params"], strict=True):
        assert_equal_bits(p.detach().numpy(), q.detach().numpy())
        assert {key: x.tolist() for key, x in optimizer.state[p].items()} == {
            key: x.tolist() for key, x in other.state[q].items()
        }


def test_a_tensor_put_into_the_state_is_updated() -> None:
    optimizer, params = run("Adam")
    mine = torch.zeros(5, 3)
    optimizer.state[params[0]]["exp_avg"] = mine
    step(optimizer, "Adam", 5)
    assert mine.any()
    assert torch.equal(optimizer.state[params[0]]["exp_avg"], mine)


@pytest.mark.parametrize("fused", [None, True])
def test_the_state_is_shown_while_it_is_held(fused: bool | None) -> None:
    if fused and host.missing():
        pytest.skip(f"no kernels: {host.missing()}")
    optimizer, params = run("NAdam", 2, fused=fused)
    entry = optimizer.state[params[0]]
    count, average, product = entry["step"], entry["exp_avg"], entry["mu_product"]
    before = average.clone(), product.item()
    step(optimizer, "NAdam", 5)
    assert optimizer.state[params[0]] is entry
    assert (entry["step"] is count, count.item()) == (True, 3)
    assert (entry["exp_avg"] is average, torch.equal(before[0], average)) == (True, False)
    assert product.item() < before[1]


def test_the_state_of_a_closure_is_shown_while_it_is_held() -> None:
    w = tensor(normal(1, 6)).requires_grad_()
    optimizer = front.LBFGS([w], max_iter=1)

    def closure() -> Any:
        w.grad = 4 * w.detach() ** 3
        return (w.detach() ** 4).sum()

    optimizer.step(closure)
    entry = optimizer.state[w]
    before = entry["d"].clone()
    optimizer.step(closure)
    assert optimizer.state[w] is entry
    assert entry["n_iter"] == 2
    assert not torch.equal(entry["d"], before)


@pytest.mark.parametrize(
    ("name", "value"), [("exp_avg", torch.zeros(4)), ("exp_avg", None), ("step", -1), ("other", 1), ("exp_avg", "x")]
)
def test_wrong_state_is_refused_and_changes_nothing(name: str, value: Any) -> None:
    optimizer, params = run("Adam")
    data = [p.detach().clone() for p in params]
    right = dict(optimizer.state[params[0]])
    optimizer.state[params[0]][name] = value
    with pytest.raises(ValueError, match=f"state 0.*{name}"):
        step(optimizer, "Adam", 5)
    assert all(map(torch.equal, data, params))
    optimizer.state[params[0]] = right
    step(optimizer, "Adam", 5)
    assert optimizer.state[params[0]]["step"] == 4


# --------------------------------------------------------------------------------------- groups changed by hand


def test_groups_may_be_changed_by_hand() -> None:
    optimizer, params = run("Adam")
    more = torch.ones(2, requires_grad=True)
    optimizer.param_groups[0]["params"] = [params[1], more]
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [params[0]], "lr": 0.0})
    kept = params[0].detach().clone()
    for p in (*params, more):
        p.grad = torch.ones_like(p)
    optimizer.step()
    steps = [optimizer.state[p]["step"].item() for p in (*params, more)]
    assert steps == [4, 4, 3, 1]
    assert torch.equal(kept, params[0])


def test_memory_that_is_replaced_is_followed() -> None:
    net = torch.nn.Linear(3, 2)
    optimizer = front.SGD(net.parameters(), lr=1.0, momentum=0.5)
    for _ in range(2):
        net.weight.grad = torch.ones(2, 3)
        optimizer.step()
    net.weight.data = torch.zeros(2, 3)
    optimizer.step()
    assert torch.equal(net.weight, torch.full((2, 3), -1.75))


def test_a_group_that_is_refused_is_not_added() -> None:
    optimizer, params = run("Adam")
    for group in ({"params": [params[0]]}, {"params": [torch.ones(2)], "lr": -1.0}, {"params": [torch.ones(2).int()]}):
        with pytest.raises((ValueError, TypeError)):
            optimizer.add_param_group(group)
        assert len(optimizer.param_groups) == len(optimizer._inner.param_groups) == 1
    step(optimizer, "Adam", 5)
    assert optimizer.state[params[0]]["step"] == 4


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("params", "error", "text"),
    [
        ([], ValueError, "empty parameter list"),
        (torch.ones(2), TypeError, "params argument given to the optimizer should be an iterable"),
        ([np.ones(2)], TypeError, "can only optimize Tensors"),
        ([torch.ones(2).int()], TypeError, "int32"),
        ([torch.ones(2, device="meta")], TypeError, "meta"),
        ([torch.ones(2, requires_grad=True) * 2], ValueError, "non-leaf"),
        ([torch.ones(3, dtype=torch.complex64).conj()], TypeError, "resolve_conj"),
        ({"params": [torch.ones(2)]}, TypeError, "iterable"),
    ],
)
def test_wrong_parameters(params: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        front.Adam(params)


def test_wrong_settings_have_the_errors_of_refoptim() -> None:
    with pytest.raises(ValueError, match=r"Invalid learning rate: -1\.0"):
        front.Adam([torch.ones(2)], lr=-1.0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'beta'"):
        front.Adam([torch.ones(2)], beta=0.9)
    with pytest.raises(RuntimeError, match=r"refoptim\.functional"):
        front.Adam([torch.ones(2)], differentiable=True)


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("bad", ["gradient", "setting"])
def test_a_stopped_step_changes_nothing(bad: str, fused: bool | None) -> None:
    if fused and host.missing():
        pytest.skip(f"no kernels: {host.missing()}")
    optimizer, params = run("Adam", fused=fused)
    before = values(optimizer)
    if bad == "setting":
        optimizer.param_groups[0]["betas"] = (0.9, 1.5)
        message = "beta"
    else:
        params[2].grad = torch._neg_view(torch.tensor(1.0))
        message = "parameter 2 of group 0: .*negative bit"
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.step()
    optimizer.param_groups[0]["betas"] = SETTINGS["Adam"]["betas"]
    assert_same(values(optimizer), before)
    step(optimizer, "Adam", 5)
    assert optimizer.state[params[0]]["step"] == 4


@pytest.mark.parametrize("fused", [None, True])
def test_an_interrupt_before_the_state_is_shown_is_made_up_for(
    fused: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fused and host.missing():
        pytest.skip(f"no kernels: {host.missing()}")
    optimizer, params = run("Adam", fused=fused)

    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(type(optimizer), "_show", interrupted)
        step(optimizer, "Adam", 5)
    assert optimizer.state_dict()["state"][0]["step"] == 4
    step(optimizer, "Adam", 6)
    assert optimizer.state[params[0]]["step"] == 5
