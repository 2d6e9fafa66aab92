"""Float32 gradients of 16-bit parameters with a master copy: taken as they are, by the reference and by kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS, assert_same_bits, dtype_of
from helpers.rooms import NAMES, make, normal
from refoptim import Parameter, SparseGrad
from refoptim.optimizers import base
from refoptim.step.plan import make_plan

NARROW = ["float16", "bfloat16"]

ENGINES = [pytest.param(None, id="reference"), pytest.param(True, id="kernels", marks=NEEDS_KERNELS)]


def arrays(name: str, dtype: str) -> list[Any]:
    """Return 16-bit arrays: in order, of several chunks, empty, with strides, in Fortran's order."""
    shapes = [(5, 4), (40, 500), (0, 3)] if name == "Muon" else [(5, 4), (40, 500), (0, 3), (7, 3, 2)]
    found = [normal(i, *shape).astype(dtype_of(dtype)) for i, shape in enumerate(shapes)]
    found.append(normal(8, 12, 9).astype(dtype_of(dtype))[::2, 1:])
    found.append(np.asfortranarray(normal(9, 6, 8).astype(dtype_of(dtype))))
    return found


def gradient(name: str, seed: int, shape: tuple[int, ...]) -> Any:
    """Return a float32 gradient no element of which has 16 bits; SparseAdam's has a row twice."""
    g = normal(seed, *shape) + np.float32(1e-6)
    rows = [[1, 0, 1, 4]] if shape[0] else [[]]
    return SparseGrad(np.array(rows, int), g[rows[0]], shape) if name == "SparseAdam" else g


def assert_rounded(one: Any, other: Any, where: Any) -> None:
    """Compare an optimizer of master copies with one of float32 arrays: masters, state, and the rounded arrays."""
    pairs = zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True)
    for i, (p, q) in enumerate(pairs):
        mine, theirs = dict(one.state[p]), other.state[q]
        assert_same_bits(mine.pop("master"), q.data, (where, i, "master"))
        assert_same_bits(p.data, q.data.astype(p.dtype), (where, i, "rounded"))
        assert sorted(mine) == sorted(theirs)
        for key, x in theirs.items():
            assert_same_bits(mine[key], x, (where, i, key))


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", NAMES)
def test_the_master_copy_is_a_float32_parameter(name: str, dtype: str, fused: bool | None) -> None:
    """The witness is the reference on float32 arrays with the same gradients."""
    given = arrays(name, dtype)
    one = make(name, [Parameter(x, master=True) for x in given], fused=fused)
    other = make(name, [x.astype(np.float32) for x in given])
    for k in range(4):
        grads = [gradient(name, 20 + 9 * k + i, x.shape) for i, x in enumerate(given)]
        one.step(grads=grads, grad_scale=3.0)
        other.step(grads=grads, grad_scale=3.0)
        assert_rounded(one, other, k)


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "SparseAdam"])
def test_rows_of_three_axes_and_what_is_not_touched(name: str, fused: bool | None) -> None:
    """Of a gradient with two sparse axes; what others wrote into a row that is not touched stays."""
    x = normal(0, 3, 2, 5).astype(np.float16)
    p = Parameter(x.copy(), master=True)
    settings = {"momentum": 0.9} if name == "SGD" else {}
    optimizer, other = (
        getattr(refoptim, name)([y], **settings, fused=f) for y, f in ((p, fused), (x.astype("f4"), None))
    )
    for k in range(3):
        g = SparseGrad([[0, 2, 0], [1, 0, 1]], normal(k + 1, 3, 5), (3, 2, 5))
        optimizer.step(grads=[g])
        other.step(grads=[g])
        p.data[1] = 7
    after = other.param_groups[0]["params"][0].data.astype(np.float16)
    assert (p.data[1] == 7).all()
    assert_same_bits(p.data[[0, 2]], after[[0, 2]])


@pytest.mark.parametrize("fused", ENGINES)
def test_the_dtype_may_change_from_step_to_step_and_differ_between_parameters(fused: bool | None) -> None:
    """A 16-bit gradient counts as the float32 gradient that it is when widened."""
    given = [normal(i, 30).astype(np.float16) for i in range(3)]
    one = make("Adam", [Parameter(x, master=True) for x in given], fused=fused)
    other = make("Adam", [x.astype(np.float32) for x in given])
    for k, kinds in enumerate(["hhh", "fff", "fff", "fhf", "hhf", "fff", "hhh"]):
        grads = [normal(9 * k + i + 3, 30).astype(kind.replace("h", "e")) for i, kind in enumerate(kinds)]
        one.step(grads=grads)
        other.step(grads=[g.astype(np.float32) for g in grads])
        assert_rounded(one, other, k)


@NEEDS_KERNELS
def test_a_step_of_kernels_is_repeated_without_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [normal(i, 30).astype(np.float16) for i in range(2)]
    one = make("Adam", [Parameter(x, master=True) for x in given], fused=True)
    other = make("Adam", [x.astype(np.float32) for x in given])
    for k in range(4):
        if k == 2:
            monkeypatch.setattr(base, "make_plan", None)
        grads = [normal(9 * k + i, 30) for i in range(2)]
        one.step(grads=grads)
        with monkeypatch.context() as undone:
            undone.setattr(base, "make_plan", make_plan)
            other.step(grads=grads)
        assert_rounded(one, other, k)


@pytest.mark.parametrize("name", NAMES)
def test_on_the_stand_in_for_a_gpu(gpu: Any, name: str) -> None:
    """Kernels and whole-array operations of CuPy; the witness is the reference on float32 arrays."""
    start = [normal(i, 6, 40).astype(np.float16) for i in range(2)]
    other = make(name, [x.astype(np.float32) for x in start])
    ours = {
        fused: make(name, [Parameter(gpu.asarray(x), master=True) for x in start], fused=fused)
        for fused in (None, False)
    }
    for k in range(3):
        grads = [gradient(name, 9 * k + i, x.shape) for i, x in enumerate(start)]
        other.step(grads=grads)
        for fused, one in ours.items():
            one.step(grads=[there(gpu, g) for g in grads])
            for p, q in zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
                assert_same_bits(one.state[p]["master"].get(), q.data, (k, fused))
                assert_same_bits(p.data.get(), q.data.astype(np.float16), (k, fused))


def there(gpu: Any, g: Any) -> Any:
    """Copy a gradient to a GPU."""
    if isinstance(g, SparseGrad):
        return SparseGrad(gpu.asarray(g.indices), gpu.asarray(g.values), g.shape)
    return gpu.asarray(g)


def test_a_captured_graph_rounds_too(gpu: Any) -> None:
    x, g = normal(0, 30).astype(np.float16), gpu.asarray(normal(1, 30))
    p = Parameter(gpu.asarray(x), master=True)
    one = refoptim.Adam([p], capturable=True)
    other = refoptim.Adam([x.astype(np.float32)])
    stream = gpu.cuda.Stream(non_blocking=True)
    with stream:
        one.step(grads=[g])
        stream.begin_capture()
        one.step(grads=[g])
        graph = stream.end_capture()
        for k in (2, 3):
            g[...] = gpu.asarray(normal(k, 30))
            graph.launch(stream)
    for k in (1, 2, 3):
        other.step(grads=[normal(k, 30)])
    assert_same_bits(p.data.get(), other.param_groups[0]["params"][0].data.astype(np.float16))


@pytest.mark.parametrize("fused", ENGINES)
def test_small_gradients_are_not_lost(fused: bool | None) -> None:
    """2**-30 is zero in float16; a step of 2**20 times it is not."""
    p = Parameter(np.ones(3, np.float16), master=True)
    optimizer = refoptim.SGD([p], lr=2.0**20, fused=fused)
    for _ in range(4):
        optimizer.step(grads=[np.full(3, 2.0**-30, np.float32)])
    assert p.data.tolist() == [1 - 2.0**-8] * 3


def test_gradients_held_by_parameters_and_clipped_ones() -> None:
    p = Parameter(np.zeros(2, np.float16), np.array([3, 4], np.float32), master=True)
    assert float(refoptim.clip_grad.clip_grad_norm_([p], 2.5)) == 5
    refoptim.SGD([p], lr=1.0).step()
    np.testing.assert_allclose(p.data, [-1.5, -2.0], rtol=1e-3)
    assert p.grad.dtype == np.float32


@pytest.mark.parametrize(
    ("master", "dtype", "message"),
    [
        (False, "float32", "the gradient must have dtype float16, got float32"),
        (True, "float64", "the gradient must have dtype float16 or float32, got float64"),
        (True, "int32", "the gradient must have dtype float16 or float32, got int32"),
    ],
)
def test_refused(master: bool, dtype: str, message: str) -> None:
    p = Parameter(np.ones(2, np.float16), master=master)
    optimizer = refoptim.SGD([p], lr=1.0)
    with pytest.raises(TypeError, match=message):
        optimizer.step(grads=[np.ones(2, dtype)])
    with pytest.raises(TypeError, match=message):
        Parameter(p.data, np.ones(2, dtype), master=master)
    assert p.data.tolist() == [1, 1]
    assert not optimizer.state
