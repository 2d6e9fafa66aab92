"""Steps that a GPU counts, and may skip, by itself: with the stand-in for CuPy of helpers/fake_cupy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.capturable import LRS, OPTIONS, drawn, expected
from helpers.rooms import assert_equal_bits


def assert_same(ours: Any, theirs: Any) -> None:
    """Compare parameters, and state as the state dicts have it."""
    for p, q in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True):
        assert_equal_bits(p.data.get(), q.data)
    mine, other = ours.state_dict()["state"], theirs.state_dict()["state"]
    assert list(mine) == list(other)
    for i, state in other.items():
        assert list(mine[i]) == list(state)
        for key, x in state.items():
            y = mine[i][key]
            assert_equal_bits(y.get() if hasattr(y, "get") else y, x, (i, key))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_captured_step_follows_the_learning_rate(gpu: Any, name: str) -> None:
    """A graph of one step is replayed with other gradients and another learning rate, and has the reference's bits."""
    cupy = gpu
    params, grads = [cupy.asarray(x) for x in drawn(0)], [cupy.asarray(x) for x in drawn(1)]
    lr = cupy.asarray(np.float64(LRS[0]))
    optimizer = getattr(refoptim, name)(params, lr=lr, capturable=True, **OPTIONS[name])
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        optimizer.step(grads=grads)
        stream.begin_capture()
        optimizer.step(grads=grads)
        graph = stream.end_capture()
        for step, rate in list(enumerate(LRS))[1:]:
            lr[...] = rate
            for g, x in zip(grads, drawn(step + 1), strict=True):
                g[...] = cupy.asarray(x)
            graph.launch(stream)
    assert_same(optimizer, expected(name, LRS))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_captured_step_has_the_bits_of_one_that_is_not(gpu: Any, name: str) -> None:
    """In float64 too, where correctly rounded powers can differ from those of the host in their last place."""
    cupy, stream = gpu, gpu.cuda.Stream(non_blocking=True)
    runs = []
    for captured in (True, False):
        params = [cupy.asarray(x.astype(np.float64)) for x in drawn(0)]
        grads = [cupy.asarray(x.astype(np.float64)) for x in drawn(1)]
        optimizer = getattr(refoptim, name)(params, lr=0.05, capturable=True, **OPTIONS[name])
        with stream:
            optimizer.step(grads=grads)
            stream.begin_capture()
            optimizer.step(grads=grads)
            graph = stream.end_capture()
            for _ in range(5):
                graph.launch(stream) if captured else optimizer.step(grads=grads)
        runs.append(optimizer)
    for p, q in zip(*(run.param_groups[0]["params"] for run in runs), strict=True):
        assert_equal_bits(p.data.get(), q.data.get())
    assert str(runs[0].state_dict()["state"]) == str(runs[1].state_dict()["state"])


@pytest.mark.parametrize("name", OPTIONS)
def test_the_gpu_skips_a_step_entirely(gpu: Any, name: str) -> None:
    """Nothing is read by the host; parameters, state, step counts and registers are those of the steps not skipped."""
    cupy = gpu
    found_inf, scale = (cupy.asarray(np.float32(x)) for x in (0, 8))
    optimizer = getattr(refoptim, name)([cupy.asarray(x) for x in drawn(0)], lr=LRS[0], **OPTIONS[name])
    for step, lr in enumerate(LRS):
        optimizer.param_groups[0]["lr"] = lr
        found_inf[...] = float(step in (0, 3))
        grads = [cupy.asarray(8 * x) for x in drawn(step + 1)]
        cupy.world.counters = cupy.Counters()
        optimizer.step(grads=grads, grad_scale=scale, found_inf=found_inf)
        assert cupy.world.counters.synchronizations == 0 or step == 0
    assert_same(optimizer, expected(name, LRS, skipped=(0, 3)))


@pytest.mark.parametrize("name", ["Adam", "Lion", "SGD"])
def test_the_gpu_counts_steps_that_are_cautious(gpu: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONS, name, {**OPTIONS[name], "cautious": True})
    test_the_gpu_skips_a_step_entirely(gpu, name)


def test_parameters_count_apart_once_one_has_no_gradient(gpu: Any) -> None:
    cupy = gpu
    params = [cupy.asarray(x) for x in drawn(0)]
    optimizer = refoptim.Adam(params, lr=0.1, capturable=True)
    theirs = refoptim.Adam(drawn(0), lr=0.1)
    for step, present in enumerate([(0, 1, 2), (0, 2), (0, 1, 2), (1,), (0, 1, 2)]):
        grads = [x if i in present else None for i, x in enumerate(drawn(step + 1))]
        theirs.step(grads=grads)
        optimizer.step(grads=[None if g is None else cupy.asarray(g) for g in grads])
    assert_same(optimizer, theirs)
    assert [s["step"] for s in optimizer.state_dict()["state"].values()] == [4, 4, 4]


@pytest.mark.parametrize("name", ["Adam", "NAdam", "SGD"])
def test_a_saved_count_goes_on_on_the_gpu_and_off_it(gpu: Any, name: str) -> None:
    cupy = gpu
    lrs = [0.1] * 4
    first = getattr(refoptim, name)([cupy.asarray(x) for x in drawn(0)], lr=0.1, capturable=True, **OPTIONS[name])
    for step in range(2):
        first.step(grads=[cupy.asarray(g) for g in drawn(step + 1)])
    moved = [cupy.asarray(p.data.get()) for p in first.param_groups[0]["params"]]
    second = getattr(refoptim, name)(moved, lr=0.1, **OPTIONS[name])
    second.load_state_dict(first.state_dict())
    for capturable in (False, True):
        second.param_groups[0]["capturable"] = capturable
        step = 3 if capturable else 2
        second.step(grads=[cupy.asarray(g) for g in drawn(step + 1)])
    assert_same(second, expected(name, lrs))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fused": False}, "capturable=True on a GPU needs the kernels"),
        ({"lr": "float32"}, "must be a float64 array of one element"),
    ],
)
def test_what_a_gpu_cannot_count_is_refused(gpu: Any, settings: dict[str, Any], message: str) -> None:
    if "lr" in settings:
        settings = {"lr": gpu.asarray(np.float32(0.1))}
    params = [gpu.asarray(x) for x in drawn(0)]
    before = [p.get() for p in params]
    with pytest.raises((RuntimeError, TypeError), match=message):
        refoptim.Adam(params, capturable=True, **settings).step(grads=[gpu.asarray(g) for g in drawn(1)])
    for p, x in zip(params, before, strict=True):
        assert_equal_bits(p.get(), x)


@pytest.mark.parametrize("given", ["grad_scale", "found_inf"])
def test_numbers_on_a_gpu_are_float32(gpu: Any, given: str) -> None:
    optimizer = refoptim.Adam([gpu.asarray(x) for x in drawn(0)])
    wrong: dict[str, Any] = {given: gpu.asarray(np.float64(1))}
    with pytest.raises(TypeError, match=f"{given} on a GPU must be a float32 array of one element"):
        optimizer.step(grads=[gpu.asarray(g) for g in drawn(1)], **wrong)


@pytest.mark.parametrize(
    "found_inf", [1e-60, pytest.param(10**400, id="huge"), np.array([1.0]), np.array([[0.0]]), np.True_, np.nan]
)
@pytest.mark.filterwarnings("error")
def test_a_number_of_the_host_means_what_it_means_there(gpu: Any, found_inf: Any) -> None:
    ours = refoptim.Adam([gpu.asarray(x) for x in drawn(0)], capturable=True)
    theirs = refoptim.Adam(drawn(0))
    for step in range(3):
        scaling = {"found_inf": found_inf, "grad_scale": np.array([3.3])} if step == 1 else {}
        ours.step(grads=[gpu.asarray(g) for g in drawn(step + 1)], **scaling)
        theirs.step(grads=drawn(step + 1), **scaling)
    assert_same(ours, theirs)


@pytest.mark.parametrize("capturable", [True, False])
def test_a_flag_on_a_gpu_skips_a_step(gpu: Any, capturable: bool) -> None:
    ours = refoptim.Adam([gpu.asarray(x) for x in drawn(0)], capturable=capturable)
    theirs = refoptim.Adam(drawn(0))
    for step, skipped in enumerate([False, True, False]):
        flag = gpu.asarray(np.array(skipped))
        ours.step(grads=[gpu.asarray(g) for g in drawn(step + 1)], found_inf=flag)
        if not skipped:
            theirs.step(grads=drawn(step + 1))
    assert_same(ours, theirs)


@pytest.mark.parametrize("clear", [True, False])
def test_a_buffer_that_is_yet_to_be_made_begins_with_the_gradient(gpu: Any, clear: bool) -> None:
    options: dict[str, Any] = {"momentum": 0.9 if clear else 0.0, "dampening": 0.5}
    ours = refoptim.SGD([gpu.asarray(x) for x in drawn(0)], capturable=True, **options)
    theirs = refoptim.SGD(drawn(0), **options)
    for step in range(4):
        for optimizer in (ours, theirs) if step == 2 else ():
            optimizer.state.clear()
            optimizer.param_groups[0]["momentum"] = 0.9
        ours.step(grads=[gpu.asarray(g) for g in drawn(step + 1)])
        theirs.step(grads=drawn(step + 1))
    assert_same(ours, theirs)


def test_a_learning_rate_on_the_gpu_is_read_again_once_the_host_counts(gpu: Any) -> None:
    lr, found_inf = gpu.asarray(np.float64(0.1)), gpu.asarray(np.float32(0))
    ours, theirs = refoptim.Adam([gpu.asarray(x) for x in drawn(0)], lr=lr), refoptim.Adam(drawn(0), lr=0.1)
    for step in range(4):
        ours.step(grads=[gpu.asarray(g) for g in drawn(step + 1)], found_inf=found_inf if step < 2 else None)
        theirs.step(grads=drawn(step + 1))
    assert_same(ours, theirs)


class HalfAdam(refoptim.Adam):
    @classmethod
    def scalars(cls, h: Any, k: int, registers: Any) -> dict[str, Any]:
        scalars = super().scalars(h, k, registers)
        return {**scalars, "step_size": scalars["step_size"] / 2}


def test_scalars_of_others_are_computed_by_the_host(gpu: Any) -> None:
    ours, theirs = HalfAdam([gpu.asarray(x) for x in drawn(0)]), HalfAdam(drawn(0))
    for step in range(2):
        found_inf = gpu.asarray(np.float32(0))
        ours.step(grads=[gpu.asarray(g) for g in drawn(step + 1)], found_inf=found_inf)
        theirs.step(grads=drawn(step + 1))
    assert_same(ours, theirs)
    ours.param_groups[0]["capturable"] = True
    with pytest.raises(RuntimeError, match="override no scalars"):
        ours.step(grads=[gpu.asarray(g) for g in drawn(1)])


@pytest.mark.parametrize("load", [True, False])
def test_a_buffer_that_the_gpu_did_not_make_is_made_by_the_host(gpu: Any, load: bool) -> None:
    options: dict[str, Any] = {"momentum": 0.9, "dampening": 0.5}
    ours, theirs = refoptim.SGD([gpu.asarray(x) for x in drawn(0)], **options), refoptim.SGD(drawn(0), **options)
    ours.step(grads=[gpu.asarray(g) for g in drawn(1)], found_inf=gpu.asarray(np.float32(1)))
    if load:
        ours.load_state_dict(ours.state_dict())
    ours.step(grads=[gpu.asarray(g) for g in drawn(2)])
    theirs.step(grads=drawn(2))
    assert_same(ours, theirs)


@pytest.mark.parametrize("name", ["NAdam", "ASGD"])
def test_registers_that_the_host_takes_over_have_the_default_dtype(gpu: Any, name: str) -> None:
    ours = getattr(refoptim, name)([gpu.asarray(x) for x in drawn(0)], lr=0.1, capturable=True, **OPTIONS[name])
    for step, lr in enumerate(LRS):
        ours.param_groups[0].update(lr=lr, capturable=step < 3)
        ours.step(grads=[gpu.asarray(g) for g in drawn(step + 1)])
    assert_same(ours, expected(name, LRS))


def test_a_new_register_begins_with_the_learning_rate_on_the_gpu(gpu: Any) -> None:
    lr = gpu.asarray(np.float64(0.1))
    ours = refoptim.ASGD([gpu.asarray(x) for x in drawn(0)], lr=lr, capturable=True)
    theirs = refoptim.ASGD(drawn(0), lr=0.1)
    for step in range(3):
        for optimizer in (ours, theirs) if step == 2 else ():
            optimizer.state.clear()
        ours.step(grads=[gpu.asarray(g) for g in drawn(step + 1)])
        theirs.step(grads=drawn(step + 1))
    assert_same(ours, theirs)
