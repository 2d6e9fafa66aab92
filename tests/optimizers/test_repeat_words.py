"""Steps of the reference that repeat the last one without a plan; the witness is an optimizer that plans every step."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.repeats import Runs
from helpers.rooms import DENSE, MEASURED, make, members, normal
from refoptim import Optimizer, Parameter, SparseGrad
from refoptim.numerics.arith import axpy, mul
from refoptim.step import hyper as hp

ELEMENTWISE = [name for name in DENSE if name not in MEASURED]
SHAPES = [(5, 3), (40,), ()]


def arrays(seed: int, dtype: str = "float32") -> list[Any]:
    return [normal(10 * seed + i, *shape, dtype=dtype) for i, shape in enumerate(SHAPES)]


def stored(x: Any, dtype: str) -> Any:
    return np.asarray(x + 1j * np.cos(x) if dtype.startswith("complex") else x).astype(dtype)


@pytest.fixture
def adam(plans: list[Any]) -> Runs:
    """Return two runs of Adam after two steps."""
    runs = Runs(lambda: make("Adam", arrays(0)), plans)
    for seed in (1, 2):
        runs.step(arrays(seed))
    return runs


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "complex64"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_rule_is_repeated(name: str, dtype: str, plans: list[Any]) -> None:
    runs = Runs(lambda: make(name, [stored(x, dtype) for x in arrays(0)]), plans)
    made = [runs.step([stored(x, dtype) for x in arrays(seed)]) for seed in (1, 2, 3, 4)]
    assert made == [1, 0, 0, 0]
    runs.check()


@pytest.mark.parametrize("name", ["Adafactor", "Muon"])
def test_rules_that_measure_plan_every_step(name: str, plans: list[Any]) -> None:
    runs = Runs(lambda: make(name, [normal(0, 6, 5)]), plans)
    assert [runs.step([normal(seed, 6, 5)]) for seed in (1, 2, 3)] == [1, 1, 1]
    runs.check()


@pytest.mark.parametrize("wide", [False, True], ids=["16 bits", "float32"])
def test_master_copies(plans: list[Any], wide: bool) -> None:
    dtype = "float32" if wide else "float16"
    runs = Runs(lambda: make("Adam", [Parameter(x, master=True) for x in arrays(0, "float16")]), plans)
    assert [runs.step(arrays(seed, dtype)) for seed in (1, 2, 3)] == [1, 0, 0]
    runs.check()


@pytest.mark.parametrize("threads", [1, 2])
def test_large_arrays(plans: list[Any], threads: int) -> None:
    """More blocks than are run before anything is written."""
    before = refoptim.get_num_threads()
    refoptim.set_num_threads(threads)
    try:
        runs = Runs(lambda: make("Adam", [normal(0, 300_000), normal(1, 3)]), plans)
        assert [runs.step([normal(seed, 300_000), normal(seed, 3)]) for seed in (1, 2, 3)] == [1, 0, 0]
    finally:
        refoptim.set_num_threads(before)
    runs.check()


def test_several_groups(plans: list[Any]) -> None:
    def two() -> Optimizer:
        return refoptim.NAdam([{"params": arrays(0)}, {"params": arrays(1, "float64"), "lr": 0.3, "maximize": True}])

    runs = Runs(two, plans)
    assert [runs.step([*arrays(k), *arrays(k + 5, "float64")]) for k in (1, 2, 3)] == [1, 0, 0]
    runs.check()


def test_rounding_is_that_of_the_step(plans: list[Any]) -> None:
    runs = Runs(lambda: make("Adam", arrays(0, "float16")), plans)
    for seed in (1, 2, 3):
        with refoptim.rounding("each" if seed == 2 else "store"):
            made = runs.step(arrays(seed, "float16"))
    assert not made
    runs.check()


def betas_in_a_list(o: Any) -> None:
    o.param_groups[0]["betas"] = [0.5, 0.6]


def lr_in_an_array(o: Any) -> None:
    o.param_groups[0]["lr"] = np.array(0.3)


INSIDE: dict[str, tuple[Callable[[Any], None], Callable[[Any], None]]] = {
    "betas": (betas_in_a_list, lambda o: o.param_groups[0]["betas"].__setitem__(0, 0.1)),
    "lr": (lr_in_an_array, lambda o: o.param_groups[0]["lr"].__setitem__((), 0.7)),
}


@pytest.mark.parametrize("name", INSIDE)
def test_settings_that_change_inside_are_seen(adam: Runs, name: str) -> None:
    put, change = INSIDE[name]
    adam.both(put)
    for seed in (3, 4):
        adam.step(arrays(seed))
    adam.both(change)
    assert not adam.step(arrays(5))
    adam.check()


def test_settings_that_are_equal_and_not_the_same_are_looked_at(adam: Runs) -> None:
    adam.both(lambda o: o.param_groups[0].update(lr=1.0))
    adam.step(arrays(3))
    adam.one.param_groups[0]["lr"] = True
    with pytest.raises(TypeError, match="lr must be a real number, got True"):
        adam.one.step(grads=arrays(4))
    adam.check()


@pytest.mark.parametrize("name", ["lr", "foreach"])
def test_settings_that_are_gone_are_missed(adam: Runs, name: str) -> None:
    """One whose value was None too."""
    adam.step(arrays(3))
    del adam.one.param_groups[0][name]
    with pytest.raises(ValueError, match=f"didn't specify a value of required optimization parameter {name}"):
        adam.one.step(grads=arrays(4))
    adam.check()


SETTINGS = [{"lr": 0.5}, {"betas": (0.1, 0.2)}, {"weight_decay": 0.0}, {"maximize": True}, {"foreach": False}]


def test_settings_may_change(adam: Runs) -> None:
    for seed, settings in enumerate(SETTINGS):
        adam.both(lambda o, settings=settings: o.param_groups[0].update(settings))
        assert not adam.step(arrays(seed), grad_scale=4.0)
    adam.check()


def test_scaled_and_skipped_steps(adam: Runs) -> None:
    for seed, more in enumerate([{"grad_scale": 2.0}, {"found_inf": True}, {"grad_scale": 8.0}, {}]):
        assert not adam.step(arrays(seed), **more)
    adam.check()


class Turning(Optimizer):
    """Multiplies by a zero whose sign changes from step to step."""

    def __init__(self, params: Any, lr: hp.LearningRate = 1.0) -> None:
        super().__init__(params, lr=lr)

    @classmethod
    def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
        return {"zero": 0.0 if k % 2 else -0.0}

    @classmethod
    def update(cls, s: Any, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        return (mul(g, s.zero),)


def test_scalars_that_differ_in_the_sign_of_zero_are_others(plans: list[Any]) -> None:
    runs = Runs(lambda: Turning([np.ones(3)]), plans)
    for _ in range(4):
        runs.step([np.ones(3)])
        runs.check()
    assert np.signbit(members(runs.one)[0].data).all()


class Doubling(refoptim.SGD):
    """Takes gradients twice."""

    @classmethod
    def accept(cls, h: Any, grad: Any) -> Any:
        return grad * 2


@pytest.mark.parametrize("fused", [None, True])
def test_a_rule_that_changes_gradients_is_asked_each_time(plans: list[Any], fused: Any) -> None:
    if fused and refoptim.engines.host.missing():
        pytest.skip(f"kernels for this computer: {refoptim.engines.host.missing()}")
    x, grad = np.zeros(3), np.ones(3)
    optimizer = Doubling([x], lr=1.0, fused=fused)
    for _ in range(3):
        optimizer.step(grads=[grad])
    assert x.tolist() == [-6.0] * 3
    assert len(plans) == 3


class Plain(Optimizer):
    """A rule of one's own."""

    def __init__(self, params: Any, lr: hp.LearningRate = 1.0) -> None:
        super().__init__(params, lr=lr)

    @classmethod
    def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
        return {"step_size": -h.lr / k}

    @classmethod
    def update(cls, s: Any, p: Any, g: Any, *state: Any) -> tuple[Any, ...]:
        return (axpy(p, g, s.step_size),)


def test_a_rule_of_ones_own_is_repeated(plans: list[Any]) -> None:
    runs = Runs(lambda: Plain(arrays(0)), plans)
    assert [runs.step(arrays(seed)) for seed in (1, 2, 3)] == [1, 0, 0]
    runs.check()


def test_a_flag_that_a_group_had_not_is_seen(plans: list[Any]) -> None:
    optimizer = Plain(arrays(0))
    for seed in (1, 2):
        optimizer.step(grads=arrays(seed))
    optimizer.param_groups[0]["fused"] = True
    with pytest.raises(RuntimeError, match="Plain has none"):
        optimizer.step(grads=arrays(3))


LOOKS: dict[str, Callable[[Any], float]] = {
    "arithmetic": lambda k: 1.0 / k,
    "comparison": lambda k: 1.0 if k == 4 else 2.0,
    "difference": lambda k: 1.0 if k != 4 else 2.0,
    "key": lambda k: {4: 1.0}.get(k, 2.0),
    "text": lambda k: float(len("." * int(str(k)))),
    "itself": lambda k: k,
    "type": lambda k: k if isinstance(k, int) else 0.0,
}
"""Ways in which scalars may come of the number of the step."""


@pytest.mark.parametrize("way", LOOKS)
def test_scalars_that_come_of_the_number_of_the_step_are_computed_in_each(way: str, plans: list[Any]) -> None:
    class Looking(Plain):
        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            return {"step_size": LOOKS[way](k)}

    runs = Runs(lambda: Looking(arrays(0)), plans)
    assert [runs.step(arrays(seed)) for seed in (1, 2, 3, 4, 5)] == [1, 0, 0, 0, 0]
    runs.check()


def test_scalars_that_come_of_settings_alone_are_computed_when_these_change(plans: list[Any]) -> None:
    asked: list[int] = []

    class Counting(Plain):
        @classmethod
        def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
            asked.append(1)
            return {"step_size": -h.lr}

    x = np.zeros(2)
    optimizer = Counting([x], lr=1.0)
    for lr in (1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step(grads=[np.ones(2)])
    assert x.tolist() == [-9.0, -9.0]
    asked.clear()
    optimizer.param_groups[0]["lr"] = lr
    for _ in range(3):
        optimizer.step(grads=[np.ones(2)])
    assert not asked


class Growing(Plain):
    """Moves by numbers that float32 has no more from step 4 on."""

    @classmethod
    def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
        return {"step_size": 10.0 ** (10 * k)}


def test_numbers_that_become_too_large_are_refused() -> None:
    x = np.zeros(2, np.float32)
    optimizer = Growing([x])
    for _ in range(3):
        optimizer.step(grads=[np.zeros(2, np.float32)])
    with pytest.raises(RuntimeError, match="without overflow: step_size = 1e"):
        optimizer.step(grads=[np.ones(2, np.float32)])
    assert x.tolist() == [0.0, 0.0]
    assert optimizer.state[members(optimizer)[0]]["step"] == 3


ODD: dict[str, Callable[[], tuple[Any, Any]]] = {
    "a parameter in Fortran order": lambda: (np.asfortranarray(normal(0, 4, 3)), normal(1, 4, 3)),
    "a parameter with gaps": lambda: (normal(0, 8, 3)[::2], normal(1, 4, 3)),
    "a gradient with gaps": lambda: (normal(0, 4, 3), normal(1, 8, 3)[::2]),
    "a sparse gradient": lambda: (normal(0, 4, 3), SparseGrad([[1, 3]], normal(1, 2, 3), (4, 3))),
}


@pytest.mark.parametrize("odd", ODD)
def test_arrays_that_do_not_lie_in_order_are_planned(odd: str, plans: list[Any]) -> None:
    grad = ODD[odd]()[1]
    runs = Runs(lambda: refoptim.SGD([ODD[odd]()[0]], lr=0.1), plans)
    assert [runs.step([grad]) for _ in range(3)] == [1, 1, 1]
    runs.check()


def test_new_arrays_in_place_of_old_ones_are_planned(plans: list[Any]) -> None:
    runs = Runs(lambda: make("Adam", arrays(0), differentiable=True), plans)
    assert [runs.step(arrays(seed)) for seed in (1, 2, 3)] == [1, 1, 1]
    runs.check()


def test_gradients_in_another_form_are_planned(adam: Runs) -> None:
    first, second, third = arrays(3)
    assert adam.step([np.asfortranarray(first), second, third])
    assert adam.step([first, np.repeat(second, 2)[::2], third])
    assert adam.step([None, second, third])
    adam.check()


def test_a_gradient_that_is_a_parameter_is_copied_first(plans: list[Any]) -> None:
    runs = Runs(lambda: make("SGD", arrays(0)), plans)
    for seed in (1, 2):
        runs.step(arrays(seed))
    for optimizer in (runs.one, runs.planned):
        first, second, third = (p.data for p in members(optimizer))
        optimizer.step(grads=[first, second[::-1], third])
    runs.check()


def test_gradients_live_no_longer_than_their_owner_wants(adam: Runs) -> None:
    adam.step(arrays(3))
    grads = arrays(4)
    assert not adam.step(grads)
    alive = [weakref.ref(g) for g in grads]
    del grads
    gc.collect()
    assert [reference() for reference in alive] == [None] * 3


def test_arrays_whose_memory_is_kept_cannot_be_resized(adam: Runs) -> None:
    p = members(adam.one)[1]
    for array in (p.data, adam.one.state[p]["exp_avg"]):
        with pytest.raises(ValueError, match="cannot resize"):
            array.resize(100_000, refcheck=False)


def test_tensors_are_planned_and_arrays_beside_them_too(torch: Any, plans: list[Any]) -> None:
    w = torch.ones(3, requires_grad=True)
    runs = Runs(lambda: make("SGD", [w.detach().clone().requires_grad_(), normal(0, 4)]), plans)
    for seed in (1, 2, 3):
        runs.step([torch.from_numpy(normal(seed, 3)), normal(seed, 4)])
    runs.check()
