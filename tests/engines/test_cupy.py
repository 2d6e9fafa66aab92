"""CuPy arrays in place of NumPy's, with the stand-in of helpers/fake_cupy: what goes where, and what is refused."""

from __future__ import annotations

import copy
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.on_gpu import assert_equal_runs, off, on
from helpers.rooms import DENSE, MEASURED, NAMES, assert_equal_bits, gradient, make, members, normal
from refoptim import Parameter, SparseGrad, swap_in_optimizer_params_and_state
from refoptim.numerics import array_types
from refoptim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn

STEPS = 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_unfused_steps_have_the_bits_of_the_reference(fake_cupy: Any, name: str, dtype: str) -> None:
    shapes = [(5, 3), (2, 4)]
    host = [normal(i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]
    theirs = make(name, [x.copy() for x in host])
    ours = make(name, [on(fake_cupy, x) for x in host], fused=False)
    for step in range(STEPS):
        grads = [gradient(name, 10 * step + i, x) for i, x in enumerate(host)]
        theirs.step(grads=grads)
        ours.step(grads=[on(fake_cupy, g) for g in grads])
    assert_equal_runs(ours, theirs)
    assert not fake_cupy.world.counters.launches


@pytest.mark.parametrize("name", ["Adam", "LAMB", "SGD"])
def test_unfused_steps_are_cautious(fake_cupy: Any, name: str) -> None:
    host = [normal(1, 5, 3), normal(2, 4)]
    theirs = make(name, [x.copy() for x in host], cautious=True)
    ours = make(name, [on(fake_cupy, x) for x in host], cautious=True, fused=False)
    for step in range(STEPS):
        grads = [normal(10 * step + 3, 5, 3), normal(10 * step + 4, 4)]
        theirs.step(grads=grads)
        ours.step(grads=[on(fake_cupy, g) for g in grads])
    assert_equal_runs(ours, theirs)


@pytest.mark.parametrize("name", [x for x in DENSE if x not in MEASURED])
def test_unfused_steps_take_complex_arrays(fake_cupy: Any, name: str) -> None:
    host = normal(1, 4, 3, dtype="complex64") + 1j * normal(2, 4, 3, dtype="complex64")
    theirs, ours = make(name, [host.copy()]), make(name, [on(fake_cupy, host)], fused=False)
    for step in range(STEPS):
        g = (normal(3 + step, 4, 3) - 1j * normal(6 + step, 4, 3)).astype("complex64")
        theirs.step(grads=[g])
        ours.step(grads=[on(fake_cupy, g)])
    assert_equal_runs(ours, theirs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_muon_iterates_in_other_dtypes(fake_cupy: Any, dtype: str) -> None:
    host, g = normal(1, 4, 3), normal(2, 4, 3)
    theirs = make("Muon", [host.copy()], ns_dtype=dtype)
    ours = make("Muon", [on(fake_cupy, host)], ns_dtype=dtype, fused=False)
    theirs.step(grads=[g])
    ours.step(grads=[on(fake_cupy, g)])
    assert_equal_runs(ours, theirs)


def test_a_differentiable_step_replaces_arrays_where_they_are(fake_cupy: Any) -> None:
    host = normal(1, 4)
    theirs = refoptim.Adam([host.copy()], lr=0.1, differentiable=True)
    ours = refoptim.Adam([on(fake_cupy, host, 1)], lr=0.1, differentiable=True)
    before = members(ours)[0].data
    for step in range(STEPS):
        theirs.step(grads=[normal(step, 4)])
        ours.step(grads=[on(fake_cupy, normal(step, 4), 1)])
    assert_equal_runs(ours, theirs)
    assert_equal_bits(off(before), host)


def test_libraries_and_devices_mix(fake_cupy: Any) -> None:
    """Six parameters at three places: each step updates each where it is, under whichever device is current."""
    host = [normal(i, 6) for i in range(6)]
    placed = [x.copy() if i % 3 == 0 else on(fake_cupy, x, i % 3 - 1) for i, x in enumerate(host)]
    theirs = make("Adam", [x.copy() for x in host])
    ours = make("Adam", placed, fused=False)
    for step in range(STEPS):
        grads = [normal(10 * step + i, 6) for i in range(6)]
        theirs.step(grads=grads)
        with fake_cupy.cuda.Device(step % 2):
            ours.step(grads=[g if i % 3 == 0 else on(fake_cupy, g, i % 3 - 1) for i, g in enumerate(grads)])
    for p, q in zip(members(ours), members(theirs), strict=True):
        assert_equal_bits(off(p.data), q.data)
    assert [getattr(p.data, "device", None) for p in members(ours)][:3] == [
        "cpu",
        fake_cupy.cuda.Device(0),
        fake_cupy.cuda.Device(1),
    ]


def test_a_parameter_shows_its_array(fake_cupy: Any) -> None:
    x = on(fake_cupy, normal(1, 2, 3), 1)
    p = Parameter(x, grad=on(fake_cupy, normal(2, 2, 3), 1), name="w")
    assert p.data is x
    assert repr(p) == "Parameter(shape=(2, 3), dtype=float32, name='w')"


class Elsewhere:
    """A tensor of another library on a GPU, which hands over its memory by DLPack."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __dlpack__(self, **options: Any) -> Any:
        return self.x

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.x.data.device_id


def test_memory_on_a_gpu_is_taken_by_dlpack(fake_cupy: Any) -> None:
    x, g = on(fake_cupy, normal(1, 5), 1), on(fake_cupy, normal(2, 5), 1)
    optimizer = refoptim.SGD([Elsewhere(x)], lr=0.5, fused=False)
    before = off(x)
    optimizer.step(grads=[Elsewhere(g)])
    assert_equal_bits(off(x), before - np.float32(0.5) * off(g))


def test_memory_on_a_gpu_needs_cupy(fake_cupy: Any) -> None:
    x = Elsewhere(on(fake_cupy, normal(1, 5)))
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "cupy")
        with pytest.raises(TypeError, match="Elsewhere lies on a GPU, and CuPy is to take it: import cupy first"):
            Parameter(x)


HOST_GRAD = (
    "the gradient must be a CuPy array on cuda:1, as the parameter is, got a NumPy array: "
    "move it there with cupy.asarray"
)
GPU_GRAD = (
    "the gradient must be a NumPy array, as the parameter is, got a CuPy array on cuda:1: "
    "move it there with cupy.asnumpy"
)
OTHER = "the gradient has data located on a different device: the parameter is on cuda:1, the gradient is on cuda:0"

MISPLACED: dict[str, tuple[int | None, int | None, type[Exception], str]] = {
    "a NumPy gradient": (1, None, TypeError, HOST_GRAD),
    "a CuPy gradient": (None, 1, TypeError, GPU_GRAD),
    "another device": (1, 0, RuntimeError, OTHER),
}


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("case", MISPLACED)
def test_a_misplaced_gradient_is_refused(fake_cupy: Any, case: str, sparse: bool) -> None:
    there, here, error, message = MISPLACED[case]
    x = normal(1, 4, 2)
    x = x if there is None else on(fake_cupy, x, there)
    g: Any = normal(2, 4, 2)
    g = SparseGrad([[1, 3]], g[:2], (4, 2)) if sparse else g
    g = g if here is None else on(fake_cupy, g, here)
    optimizer = refoptim.SGD([x], lr=0.5)
    before = off(copy.deepcopy(x))
    with pytest.raises(error) as raised:
        optimizer.step(grads=[g])
    assert str(raised.value) == f"parameter 0 of group 0: {message}"
    assert_equal_bits(off(x), before)
    with pytest.raises(error, match=re.escape(message)):
        Parameter(x, grad=g)


def test_a_sparse_gradient_lies_at_one_place(fake_cupy: Any) -> None:
    indices, values = on(fake_cupy, np.array([[0, 1]]), 0), on(fake_cupy, normal(1, 2), 1)
    with pytest.raises(RuntimeError, match="values is on cuda:1, indices is on cuda:0"):
        SparseGrad(indices, values, (3,))
    with pytest.raises(TypeError, match="indices must be a CuPy array on cuda:1, as values is, got a NumPy array"):
        SparseGrad([[0, 1]], values, (3,))


def test_sparse_gradients_are_summed_in_order(fake_cupy: Any) -> None:
    """Entries of one row are added in the order in which they are stored, up to five of them."""
    rows = np.array([4, 1, 4, 0, 4, 1, 4, 4])
    values = (normal(1, 8, 3) * np.float32(10) ** normal(2, 8, 1).round()).astype("float32")
    theirs = SparseGrad(rows[None], values, (6, 3))
    ours = on(fake_cupy, theirs, 1)
    for mine, other in zip(ours.coalesce(), theirs.coalesce(), strict=True):
        assert_equal_bits(off(mine), other)
    assert_equal_bits(off(ours.to_dense()), theirs.to_dense())
    with pytest.raises(ValueError, match=re.escape("indices[0] must be in [0, 4), got 4")):
        SparseGrad(ours.indices, ours.values, (4, 3))


class CooMatrix:
    """As those of cupyx.scipy.sparse."""

    __module__ = "cupyx.scipy.sparse._coo"

    def __init__(self, row: Any, col: Any, data: Any, shape: tuple[int, int]) -> None:
        self.row, self.col, self.data, self.shape = row, col, data, shape

    def tocoo(self) -> CooMatrix:
        return self


def test_sparse_matrices_of_cupy_are_gradients(fake_cupy: Any) -> None:
    row, col, values = np.array([2, 0]), np.array([1, 3]), normal(1, 2)
    dense = np.zeros((3, 4), "float32")
    dense[row, col] = values
    x = on(fake_cupy, np.ones((3, 4), "float32"))
    optimizer = refoptim.SGD([x], lr=0.5, fused=False)
    optimizer.step(grads=[CooMatrix(*(on(fake_cupy, y) for y in (row, col, values)), (3, 4))])  # type: ignore[arg-type]
    assert_equal_bits(off(x), 1 - np.float32(0.5) * dense)


# ------------------------------------------------------------------------------------------------- memory


def test_a_gradient_that_is_the_parameter_is_copied(fake_cupy: Any) -> None:
    """With momentum, a gradient that changed under the rule would show in the second parameter."""
    memory = on(fake_cupy, normal(1, 12), 1)
    x, y = memory[:6], memory[6:]
    host = off(memory)
    theirs = make("SGD", [host[:6].copy(), host[6:].copy()])
    theirs.step(grads=[host[3:9].copy(), host[:6].copy()])
    ours = make("SGD", [x, y], fused=False)
    ours.step(grads=[memory[3:9], memory[:6]])
    for mine, other in zip((x, y), members(theirs), strict=True):
        assert_equal_bits(off(mine), other.data)


def test_a_gradient_that_reaches_back_is_copied(fake_cupy: Any) -> None:
    """It begins behind the first parameter, which is updated before it is read, and goes backwards into that."""
    memory = on(fake_cupy, normal(1, 30))
    host = off(memory)
    theirs = refoptim.SGD([host[:6].copy(), host[20:26].copy()], lr=0.5)
    theirs.step(grads=[host[12:18].copy(), host[9:3:-1].copy()])
    ours = refoptim.SGD([memory[:6], memory[20:26]], lr=0.5, fused=False)
    ours.step(grads=[memory[12:18], memory[9:3:-1]])
    assert_equal_runs(ours, theirs)


def test_state_is_never_the_gradient_itself(fake_cupy: Any) -> None:
    """The first momentum of SGD is the gradient, which belongs to somebody else."""
    g = on(fake_cupy, normal(2, 4))
    optimizer = refoptim.SGD([on(fake_cupy, normal(1, 4))], lr=0.1, momentum=0.9, differentiable=True)
    optimizer.step(grads=[g])
    (buffer,) = optimizer.state[members(optimizer)[0]].values()
    g[...] = 7
    assert_equal_bits(off(buffer), normal(2, 4))


def test_parameters_that_share_memory_are_refused(fake_cupy: Any) -> None:
    x = on(fake_cupy, normal(1, 10))
    with pytest.raises(ValueError, match="parameters 0 and 1 of the group share memory"):
        refoptim.SGD([x[:6], x[5:]], lr=0.1)
    assert members(refoptim.SGD([x[::2], x[1::2]], lr=0.1, fused=False))
    strange = fake_cupy.broadcast_to(x[:1], (3,))
    with pytest.raises(ValueError, match=re.escape("shape (3,) and strides (0,)")):
        Parameter(strange)


def test_gradients_are_zeroed_where_they_are(fake_cupy: Any) -> None:
    x = on(fake_cupy, normal(1, 3), 1)
    p = Parameter(x, grad=on(fake_cupy, normal(2, 3), 1))
    optimizer = refoptim.SGD([p], lr=0.1)
    g = p.grad
    optimizer.zero_grad(set_to_none=False)
    assert p.grad is g
    assert_equal_bits(off(g), np.zeros(3, "float32"))
    optimizer.zero_grad()
    assert p.grad is None


# ---------------------------------------------------------------------------------------------- state dicts


def stepped(cupy: Any, device: int | None, **more: Any) -> Any:
    """Return an optimizer after a step, and its parameter, on a GPU or (None) with NumPy arrays."""
    x, g = normal(1, 4, 3), normal(2, 4, 3)
    if device is not None:
        x, g = on(cupy, x, device), on(cupy, g, device)
        more = {"fused": False, **more}
    optimizer = make("NAdam", [x], **more)
    optimizer.step(grads=[g])
    return optimizer


def test_a_state_dict_is_a_copy_on_the_device(fake_cupy: Any) -> None:
    optimizer = stepped(fake_cupy, 1)
    saved = optimizer.state_dict()
    before = off(saved["state"][0]["exp_avg"])
    assert saved["state"][0]["exp_avg"].device == fake_cupy.cuda.Device(1)
    optimizer.step(grads=[on(fake_cupy, normal(3, 4, 3), 1)])
    assert_equal_bits(off(saved["state"][0]["exp_avg"]), before)


@pytest.mark.parametrize("there", [None, 0, 1])
@pytest.mark.parametrize("here", [None, 0, 1])
def test_a_state_dict_moves_to_the_parameters(fake_cupy: Any, here: int | None, there: int | None) -> None:
    source, target, expected = stepped(fake_cupy, here), stepped(fake_cupy, there), stepped(fake_cupy, None)
    saved = source.state_dict()
    with fake_cupy.cuda.Device(there or 0):
        target.state[members(target)[0]]["exp_avg"][...] = 7
    target.load_state_dict(saved)
    (p,), (q,) = members(target), members(expected)
    for key, x in expected.state[q].items():
        mine = target.state[p][key]
        assert_equal_bits(off(mine), x, key)
        if isinstance(x, np.ndarray):
            assert type(mine) is type(p.data)
            assert mine.device == p.data.device
            assert mine is not saved["state"][0][key]
    grads = [normal(4, 4, 3)]
    expected.step(grads=grads)
    target.step(grads=[g if there is None else on(fake_cupy, g, there) for g in grads])
    assert_equal_bits(off(p.data), q.data)


def test_an_optimizer_is_pickled_and_copied(fake_cupy: Any) -> None:
    optimizer = stepped(fake_cupy, 0)
    for twin in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        (p,), (q,) = members(twin), members(optimizer)
        assert p.data is not q.data
        assert type(p.data) is fake_cupy.ndarray
        assert_equal_bits(off(p.data), off(q.data))
        for key, x in optimizer.state[q].items():
            assert_equal_bits(off(twin.state[p][key]), off(x), key)


WRONG_STATE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "NumPy's": (lambda cupy: np.zeros((4, 3), "float32"), "must be a CuPy array on cuda:1, got a NumPy array"),
    "elsewhere": (
        lambda cupy: on(cupy, np.zeros((4, 3), "float32"), 0),
        "must be a CuPy array on cuda:1, got a CuPy array on cuda:0",
    ),
    "another shape": (lambda cupy: on(cupy, np.zeros(3, "float32"), 1), "must have shape (4, 3) and dtype float32"),
}


@pytest.mark.parametrize("case", WRONG_STATE)
def test_state_lies_beside_its_parameter(fake_cupy: Any, case: str) -> None:
    make_wrong, message = WRONG_STATE[case]
    optimizer = stepped(fake_cupy, 1)
    (p,) = members(optimizer)
    optimizer.state[p]["exp_avg"] = make_wrong(fake_cupy)
    before = off(p.data)
    with pytest.raises(ValueError, match=re.escape(f"the state exp_avg {message}")):
        optimizer.step(grads=[on(fake_cupy, normal(3, 4, 3), 1)])
    assert_equal_bits(off(p.data), before)


def test_arrays_are_swapped_in(fake_cupy: Any) -> None:
    optimizer = stepped(fake_cupy, 1)
    x, g = on(fake_cupy, normal(5, 4, 3), 1), on(fake_cupy, normal(6, 4, 3), 1)
    saved = optimizer.state_dict()
    expected = stepped(fake_cupy, None)
    (q,) = members(expected)
    q.data = off(x)
    expected.step(grads=[off(g)])
    with swap_in_optimizer_params_and_state(optimizer, {"w": x}, saved):
        optimizer.step(grads=[g])
    assert_equal_bits(off(x), q.data)


# ------------------------------------------------------------------------------------------------- averages


@pytest.mark.parametrize("form", ["mean", "ema", "function", "functions"])
def test_averages_are_kept_on_the_device(fake_cupy: Any, form: str) -> None:
    settings: dict[str, dict[str, Any]] = {
        "mean": {"avg_fn": get_swa_avg_fn(fused=False)},
        "ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.8, fused=False)},
        "function": {"avg_fn": lambda average, current, n: average + (current - average) / 4},
        "functions": {"multi_avg_fn": write_quarters},
    }
    host = [normal(i, 3, 2) for i in range(2)]
    theirs = AveragedModel([x.copy() for x in host], **settings[form])
    ours = AveragedModel([on(fake_cupy, x, i) for i, x in enumerate(host)], **settings[form])
    for update in range(3):
        now = [normal(10 * update + i, 3, 2) for i in range(2)]
        theirs.update_parameters(now)
        ours.update_parameters([on(fake_cupy, x, i) for i, x in enumerate(now)])
    for i in range(2):
        assert_equal_bits(off(ours.module[i]), theirs.module[i])
        assert ours.module[i].device == fake_cupy.cuda.Device(i)
    with pytest.raises(RuntimeError, match="the average of 0 is on cuda:0, 0 is on cuda:1"):
        ours.update_parameters([on(fake_cupy, x, 1) for x in now])
    with pytest.raises(TypeError, match="1 must be a CuPy array on cuda:1, as the average of 1 is, got a NumPy array"):
        ours.update_parameters([on(fake_cupy, now[0], 0), now[1]])


def write_quarters(averaged: list[Any], current: list[Any], n: int) -> None:
    for x, y in zip(averaged, current, strict=True):
        x[...] = x + (y - x) / 4


@pytest.mark.parametrize("here", [0, 1, None])
def test_averages_are_saved_and_loaded(fake_cupy: Any, here: int | None) -> None:
    x = normal(1, 3)
    source = AveragedModel([x if here is None else on(fake_cupy, x, here)])
    target = AveragedModel([on(fake_cupy, normal(2, 3), 1)])
    saved = source.state_dict()
    target.load_state_dict(saved)
    assert_equal_bits(off(target.module[0]), x)
    assert target.module[0].device == fake_cupy.cuda.Device(1)
    assert saved["module.0"] is not source.module[0]


# ---------------------------------------------------------------------------------------------- the stand-in


def test_refoptim_loads_no_cupy() -> None:
    code = (
        "import refoptim, numpy, sys; refoptim.SGD([numpy.ones(2)]).step(grads=[numpy.ones(2)]);"
        "print('cupy' in sys.modules)"
    )
    found = Path(refoptim.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=found, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_stand_in_has_what_cupy_has(fake_cupy: Any) -> None:
    """Where CuPy is installed: all that this project is let use is there, under the names that it uses."""
    code = (
        "import inspect, sys; import cupy\n"
        "for line in sys.stdin:\n"
        "    name, *wanted = line.split()\n"
        "    found = getattr(cupy, name, None)\n"
        "    names = [*inspect.signature(found).parameters] if inspect.isfunction(found) else wanted\n"
        "    if found is None or not {*wanted} <= {*names}:\n"
        "        print(line.strip(), 'is not', names)\n"
    )
    lines = [f"{name} {' '.join(parameters)}" for name, parameters in fake_cupy.FUNCTIONS.items()]
    lines += list(fake_cupy.NAMES)
    done = subprocess.run([sys.executable, "-c", code], input="\n".join(lines), capture_output=True, text=True)
    if "No module named 'cupy'" in done.stderr:
        pytest.skip("CuPy is not installed")
    assert (done.stdout, done.returncode) == ("", 0), done.stderr


def test_the_stand_in_is_no_numpy(fake_cupy: Any) -> None:
    x = on(fake_cupy, normal(1, 3))
    assert not isinstance(x, np.ndarray)
    assert not hasattr(x.flags, "writeable")
    for wrong in (np.asarray, np.linalg.norm, lambda x: x + np.ones(3), lambda x: np.add(np.ones(3), x)):
        with pytest.raises(TypeError):
            wrong(x)  # type: ignore[operator]
    with pytest.raises(ValueError, match="different from the current device"), fake_cupy.cuda.Device(1):
        x + 1


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_a_zero_without_axes_keeps_its_sign(gpu: Any, dtype: str) -> None:
    x = np.array(-0.0, dtype)
    y = array_types.moved(x, array_types.gpu(0))
    assert y.shape == ()
    assert_equal_bits(y.get(), x)
    assert not np.signbit(gpu.asarray(x).get().real)


def test_threads_of_the_stand_in_share_a_stream(fake_cupy: Any) -> None:
    """What waits on a stream is done before another thread goes on there: no kernel finds its table half copied."""
    stream, begun, done = fake_cupy.cuda.Stream.null, threading.Event(), []

    def copy() -> None:
        begun.set()
        time.sleep(0.2)
        done.append("copied")

    stream.add(copy)
    other = threading.Thread(target=stream.run)
    other.start()
    assert begun.wait(10)
    stream.run()
    assert done == ["copied"]
    other.join()


def test_threads_of_the_stand_in_have_devices_of_their_own(fake_cupy: Any) -> None:
    found = []

    def look() -> None:
        with fake_cupy.cuda.Stream():
            found.append((fake_cupy.world.current, fake_cupy.cuda.get_current_stream()))

    with fake_cupy.cuda.Device(1):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        mine = (fake_cupy.world.current, fake_cupy.cuda.get_current_stream())
    assert [device for device, _ in (*found, mine)] == [0, 1]
    assert found[0][1] != mine[1]
