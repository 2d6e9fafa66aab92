"""The modes of the schedule-free optimizers, and what they keep in double."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import FUSED
from helpers.wider import WIDER
from refoptim import Parameter, functional
from refoptim.distributed import Sharded, run_ranks
from refoptim.optimizers.modes import ModalOptimizer

NAMES = [name for name in WIDER if issubclass(getattr(refoptim, name), ModalOptimizer)]
STEPS = 7


def draw(rng: np.random.Generator, dtype: Any = np.float64) -> np.ndarray[Any, Any]:
    return rng.normal(size=(3, 2)).astype(dtype)


def trained(name: str, dtype: Any = np.float64, **more: Any) -> tuple[Any, Any]:
    """Return an optimizer after some steps, and its parameter."""
    rng = np.random.default_rng(3)
    p = Parameter(draw(rng, dtype))
    opt = getattr(refoptim, name)([p], **WIDER[name], **more)
    for _ in range(STEPS):
        opt.step(grads=[draw(rng, dtype)])
    return opt, p


def momentum(name: str) -> float:
    settings = WIDER[name]
    return float(settings["momentum"] if "momentum" in settings else settings["betas"][0])


def exact_lerp(x: float, z: float, weight: float) -> float:
    """Return x + weight * (z - x) in exact arithmetic, by the weight that is a double."""
    return float(Fraction(x) + Fraction(weight) * (Fraction(z) - Fraction(x)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("training", [True, False])
def test_a_mode_moves_parameters_as_the_formula_says(name: str, training: bool) -> None:
    opt, p = trained(name)
    if training:
        opt.eval()
    b, z, before = momentum(name), opt.state[p]["z"], p.data.copy()
    (opt.train if training else opt.eval)()
    weight = 1 - b if training else 1 - 1 / b
    expected = [exact_lerp(x, y, weight) for x, y in zip(before.ravel(), z.ravel(), strict=True)]
    np.testing.assert_allclose(p.data.ravel(), expected, rtol=1e-15, atol=1e-15)
    assert not np.array_equal(p.data, before) and opt.param_groups[0]["train_mode"] is training


@pytest.mark.parametrize("name", NAMES)
def test_twice_does_nothing_and_the_iterate_stays(name: str) -> None:
    opt, p = trained(name)
    z, y = opt.state[p]["z"].copy(), p.data.copy()
    opt.train()
    assert np.array_equal(p.data, y)
    opt.eval()
    x = p.data.copy()
    opt.eval()
    assert np.array_equal(p.data, x) and np.array_equal(opt.state[p]["z"], z)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_without_a_step_stay(name: str) -> None:
    data = np.ones(3)
    opt = getattr(refoptim, name)([data])
    opt.eval()
    assert np.array_equal(data, np.ones(3)) and not opt.state
    opt.train()
    opt.step(grads=[np.ones(3)])
    assert opt.param_groups[0]["train_mode"]


@FUSED
@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_in_eval_mode_is_an_error_and_changes_nothing(name: str, by_hand: bool, fused: bool) -> None:
    opt, p = trained(name, fused=fused)
    opt.param_groups[0].update(train_mode=False) if by_hand else opt.eval()
    before, state = p.data.copy(), opt.state_dict()
    with pytest.raises(RuntimeError, match="not in train mode"):
        opt.step(grads=[np.ones((3, 2))])
    assert np.array_equal(p.data, before) and str(opt.state_dict()) == str(state)


def test_what_is_wrong_is_an_error_and_changes_no_group() -> None:
    first, second = Parameter(np.ones(2), name="first"), Parameter(np.ones(2), name="second")
    opt = refoptim.ScheduleFreeSGD([{"params": [first]}, {"params": [second]}])
    opt.step(grads=[np.ones(2), np.ones(2)])
    before = first.data.copy()
    opt.state[second]["z"] = np.ones(3)
    with pytest.raises(ValueError, match=r"parameter 0 of group 1 \(second\): the state z must have shape \(2,\)"):
        opt.eval()
    opt.state[second]["z"] = np.ones(2)
    second.data.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        opt.eval()
    assert np.array_equal(first.data, before) and opt.param_groups[0]["train_mode"]
    opt.param_groups[1]["train_mode"] = 1
    with pytest.raises(TypeError, match="train_mode must be True or False, got 1"):
        opt.eval()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.complex64])
def test_modes_of_other_storages(name: str, dtype: Any) -> None:
    """Of what is computed in float32: each real is an interpolation in float32, rounded to its storage."""
    opt, p = trained(name, dtype)
    y, z, b = p.data.copy(), opt.state[p]["z"], momentum(name)
    opt.eval()
    real = np.float16 if dtype is np.float16 else np.float32
    wide = [x.ravel().view(real).astype(np.float32) for x in (y, z)]
    weight = np.float32(1 - 1 / b)
    assert abs(weight) < 0.5
    assert np.array_equal((wide[0] + weight * (wide[1] - wide[0])).astype(real), p.data.ravel().view(real))


@pytest.mark.parametrize("name", NAMES)
def test_a_master_copy_goes_along(name: str) -> None:
    rng = np.random.default_rng(3)
    start = draw(rng, np.float16)
    twin = start.astype(np.float32)
    p = Parameter(start, master=True)
    opts = [getattr(refoptim, name)([x], **WIDER[name]) for x in (p, twin)]
    for _ in range(STEPS):
        g = draw(rng, np.float32)
        for opt in opts:
            opt.step(grads=[g])
    for opt in opts:
        opt.eval()
    assert np.array_equal(opts[0].state[p]["master"], twin) and np.array_equal(p.data, twin.astype(np.float16))


@pytest.mark.parametrize("in_eval", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_mode_and_doubles_are_saved(name: str, in_eval: bool) -> None:
    opt, p = trained(name, np.float32)
    if in_eval:
        opt.eval()
    saved = opt.state_dict()
    assert saved["param_groups"][0]["train_mode"] is not in_eval
    kept = saved["state"][0]
    assert [type(kept[x]) for x in ("weight_sum", "lr_max")] == [np.float64, np.float64]
    again = p.data.copy()
    other = getattr(refoptim, name)([again], **WIDER[name])
    other.load_state_dict(saved)
    for each in (opt, other):
        each.train()
        each.step(grads=[np.ones((3, 2), np.float32)])
    assert np.array_equal(p.data, again)


def test_numbers_of_json_and_of_float32_become_doubles() -> None:
    opt, _ = trained("ScheduleFreeSGD", np.float32)
    saved = opt.state_dict()
    for kind in (float, np.float32):
        saved["state"][0]["weight_sum"] = kind(0.25)
        opt.load_state_dict(saved)
        found = next(iter(opt.state.values()))["weight_sum"]
        assert type(found) is np.float64 and found == 0.25


def test_the_sum_of_weights_is_one_of_doubles() -> None:
    """A hundred steps whose weights float32 does not hold: the sum is that of exact arithmetic, to rounding."""
    opt = refoptim.ScheduleFreeSGD([np.zeros(1, np.float32)], lr=0.1, r=1, weight_lr_power=3)
    for _ in range(100):
        opt.step(grads=[np.ones(1, np.float32)])
    (state,) = opt.state.values()
    expected = Fraction(0.1) ** 3 * sum(range(1, 101))
    assert abs(Fraction(float(state["weight_sum"])) / expected - 1) < Fraction(1, 10**14)
    assert state["lr_max"] == 0.1


def test_plain_descent_in_its_first_steps() -> None:
    """By hand, in powers of two: lr 1/2, momentum 1/2, no options, so that all weights are 1/4."""
    p = np.array([4.0])
    opt = refoptim.ScheduleFreeSGD([p], lr=0.5, momentum=0.5)
    opt.step(grads=[np.array([2.0])])  # c = 1: y = 4 - 1/2 * 2 = z - lr * g
    (state,) = opt.state.values()
    assert (p[0], state["z"][0], state["weight_sum"]) == (3.0, 3.0, 0.25)
    opt.step(grads=[np.array([4.0])])  # c = 1/2: y = 3 + 1/2 * (1/4 - 1) * 4, z = 3 - 2
    assert (p[0], state["z"][0], state["weight_sum"]) == (1.5, 1.0, 0.5)
    opt.eval()  # x is the mean of the iterates 3 and 1
    assert p[0] == 2.0
    opt.train()
    assert p[0] == 1.5


def test_what_may_be_divided_by_is_not_zero() -> None:
    with pytest.raises(ValueError, match=r"momentum must be in \(0, 1\)"):
        refoptim.ScheduleFreeSGD([np.ones(1)], momentum=0.0)
    for name in ("ScheduleFreeAdamW", "ScheduleFreeRAdam"):
        with pytest.raises(ValueError, match=r"Invalid beta parameter at index 0: 0.0 .*\(0, 1\)"):
            getattr(refoptim, name)([np.ones(1)], betas=(0.0, 0.9))


def test_a_learning_rate_of_zero_moves_nothing() -> None:
    p = np.ones(2)
    opt = refoptim.ScheduleFreeAdamW([p], lr=0.0)
    opt.step(grads=[np.ones(2)])
    opt.eval()
    assert np.array_equal(p, np.ones(2)) and all(np.isfinite(x).all() for x in next(iter(opt.state.values())).values())


@pytest.mark.parametrize("name", NAMES)
def test_the_functional_form_has_modes(name: str) -> None:
    opt, p = trained(name)
    state, y = [{"z": opt.state[p]["z"]}, {}], p.data.copy()
    new, other = functional.eval_params([y, np.ones(1)], state, momentum(name))
    opt.eval()
    assert np.array_equal(new, p.data) and np.array_equal(y, functional.eval_params([y], [{}], momentum(name))[0])
    assert np.array_equal(other, np.ones(1))
    opt.train()
    assert np.array_equal(functional.train_params([new], state[:1], momentum(name))[0], p.data)
    step = getattr(functional, name.replace("ScheduleFree", "schedule_free_").lower())
    with pytest.raises(RuntimeError, match="not in train mode"):
        step([y], [np.ones((3, 2))], None, 1, train_mode=False)
    with pytest.raises(ValueError, match=r"momentum must be in \(0, 1\)"):
        functional.eval_params([y], state[:1], 0.0)
    with pytest.raises(ValueError, match=r"state\[0\]\['z'\] must have shape \(3, 2\), got \(2,\)"):
        functional.eval_params([y], [{"z": np.ones(2)}], 0.9)


@pytest.mark.parametrize("name", NAMES)
def test_ranks_change_their_mode_together(name: str) -> None:
    opt, p = trained(name)

    def run(comm: Any) -> Any:
        rng = np.random.default_rng(3)
        mine = draw(rng)
        sharded = Sharded(getattr(refoptim, name), [mine], comm, **WIDER[name])
        for _ in range(STEPS):
            sharded.step(grads=[draw(rng)])
        sharded.eval()
        assert not sharded.param_groups[0]["train_mode"]
        found = mine.copy()
        with pytest.raises(RuntimeError, match="not in train mode"):
            sharded.step(grads=[np.ones((3, 2))])
        sharded.train()
        return found, mine

    opt.eval()
    x = p.data.copy()
    opt.train()
    for found, mine in run_ranks(2, run):
        assert np.array_equal(found, x) and np.array_equal(mine, p.data)


def test_a_rule_without_modes_has_none_when_it_is_sharded() -> None:
    with pytest.raises(RuntimeError, match="SGD has no modes"):
        Sharded(refoptim.SGD, [np.ones(2)], lr=0.1).eval()


@pytest.mark.parametrize("name", NAMES)
def test_tensors_change_their_mode(name: str) -> None:
    torch: Any = pytest.importorskip("torch", reason="fronts are optimizers of torch")
    from refoptim.interop import torch as fronts

    opt, p = trained(name)
    rng = np.random.default_rng(3)
    tensor = torch.nn.Parameter(torch.from_numpy(draw(rng)))
    front = getattr(fronts, name)([tensor], **WIDER[name])
    for _ in range(STEPS):
        tensor.grad = torch.from_numpy(draw(rng))
        front.step()
    version = tensor._version
    for each in (opt, front):
        each.eval()
    assert np.array_equal(tensor.detach().numpy(), p.data) and tensor._version > version
    assert front.state[tensor]["weight_sum"].dtype == torch.float64
    assert front.state_dict()["param_groups"][0]["train_mode"] is False
    with pytest.raises(RuntimeError, match="not in train mode"):
        front.step()
    for each in (opt, front):
        each.train()
    assert np.array_equal(tensor.detach().numpy(), p.data)
    assert not hasattr(fronts.SGD([tensor], lr=0.1), "eval")


@pytest.mark.parametrize("foreign", ["SGDScheduleFree", "AdamWScheduleFree", "RAdamScheduleFree"])
def test_modes_are_those_of_the_package(foreign: str) -> None:
    schedulefree = pytest.importorskip("schedulefree", reason="the live witness schedulefree is not installed")
    import torch

    name = "ScheduleFree" + foreign.removesuffix("ScheduleFree")
    opt, p = trained(name)
    rng = np.random.default_rng(3)
    tensor = torch.from_numpy(draw(rng))
    theirs = getattr(schedulefree, foreign)([tensor], foreach=False, **WIDER[name])
    theirs.train()
    for _ in range(STEPS):
        tensor.grad = torch.from_numpy(draw(rng))
        theirs.step()
    for mode in ("eval", "eval", "train", "eval"):
        for each in (opt, theirs):
            getattr(each, mode)()
        np.testing.assert_allclose(p.data, tensor.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_modes_of_arrays_of_cupy(gpu: Any, name: str, capturable: bool) -> None:
    opt, p = trained(name, np.float32)
    rng = np.random.default_rng(3)
    q = Parameter(gpu.asarray(draw(rng, np.float32)))
    other = getattr(refoptim, name)([q], capturable=capturable, **WIDER[name])
    for _ in range(STEPS):
        other.step(grads=[gpu.asarray(draw(rng, np.float32))])
    for mode in ("eval", "eval", "train", "eval"):
        for each in (opt, other):
            getattr(each, mode)()
        assert np.array_equal(q.data.get(), p.data)
    with pytest.raises(RuntimeError, match="not in train mode"):
        other.step(grads=[gpu.asarray(np.ones((3, 2), np.float32))])
    kept = other.state_dict()["state"][0]
    assert type(kept["weight_sum"]) is np.float64 and kept["weight_sum"] == opt.state[p]["weight_sum"]


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_steps_that_a_gpu_skipped_have_made_no_iterate(gpu: Any, name: str, saved: bool) -> None:
    """Only one step is taken, the second: it is that of an optimizer which has begun with it."""
    start, g = (draw(np.random.default_rng(i), np.float32) for i in (3, 4))
    expected = getattr(refoptim, name)([first := Parameter(start.copy())], **WIDER[name])
    expected.step(grads=[g])
    p = Parameter(gpu.asarray(start))
    opt = getattr(refoptim, name)([p], **WIDER[name])
    opt.step(grads=[gpu.asarray(g)], found_inf=gpu.asarray(np.float32(1)))
    opt.eval()
    opt.train()
    assert np.array_equal(p.data.get(), start)
    if saved:
        opt.load_state_dict(opt.state_dict())
    opt.step(grads=[gpu.asarray(g)])
    assert np.array_equal(p.data.get(), first.data)
    for each in (opt, expected):
        each.eval()
    assert np.array_equal(p.data.get(), first.data)
