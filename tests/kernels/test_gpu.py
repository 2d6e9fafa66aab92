"""On a GPU: kernels have the bits of the NumPy reference. ``pytest -m gpu`` runs these tests and writes docs/gpu.json.

They need CuPy, its driver and NVRTC, and are skipped where one is missing. No other test of this project needs a GPU.
``pytest -m ptx`` runs most of them without: on the stand-in for CuPy, with kernels whose PTX is executed.
"""

from __future__ import annotations

import copy
import importlib
import threading
import warnings
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.capturable import LRS, OPTIONS, drawn, expected
from helpers.kernels import RULES, STORAGES, arrays, assert_same_bits, dtype_of, gradients, numbers, settings
from helpers.rooms import NAMES, gradient, make, members, normal
from refoptim import Optimizer, Parameter, SparseGrad
from refoptim.clip_grad import clip_grad_norm_
from refoptim.engines import cuda
from refoptim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

pytestmark = pytest.mark.filterwarnings("default")  # what CuPy warns of is no failure here

GPU = pytest.param("gpu", marks=pytest.mark.gpu)

PTX = pytest.param("ptx", marks=[pytest.mark.ptx, pytest.mark.slow])

ON_A_GPU_ONLY = pytest.mark.parametrize("cupy", [GPU], indirect=True)
"""For what the stand-in has not: work that goes on beside the host's, other libraries' kernels, memory without end."""

BITS = {2: np.uint16, 4: np.uint32, 8: np.uint64}


@pytest.fixture(params=[GPU, PTX])
def cupy(request: pytest.FixtureRequest) -> Any:
    """Return CuPy, if it has a GPU; or its stand-in."""
    if request.param == "ptx":
        return request.getfixturevalue("cupy_on_ptx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if missing := cuda.missing():
            pytest.skip(f"no GPU: {missing}")
        return importlib.import_module("cupy")


def on(cupy: Any, x: Any) -> Any:
    """Copy an array, or a sparse gradient, to the current GPU, with the kind of layout and alignment that it has."""
    if isinstance(x, SparseGrad):
        return SparseGrad(cupy.asarray(x.indices), on(cupy, x.values), x.shape)
    x = np.asarray(x)
    if x.dtype.kind == "c":
        return _laid_out(cupy, np.atleast_1d(x)).reshape(x.shape)  # CuPy makes 0 of an array without axes that holds -0
    return _laid_out(cupy, x.view(BITS[x.itemsize])).view(x.dtype)


def _laid_out(cupy: Any, bits: Any) -> Any:
    if bits.flags.c_contiguous:
        return _as_far_off(cupy, bits)
    if bits.flags.f_contiguous:
        return _as_far_off(cupy, bits.T).T
    gaps = cupy.zeros([2 * n for n in bits.shape], bits.dtype)[(slice(None, None, 2),) * bits.ndim]
    gaps[...] = cupy.asarray(np.ascontiguousarray(bits))
    return gaps


def _as_far_off(cupy: Any, bits: Any) -> Any:
    """Copy an array to where it lies as far behind a multiple of 64 bytes as here; CuPy's own begin at such ones."""
    shift = bits.ctypes.data % 64 // bits.itemsize
    x = cupy.empty(shift + bits.size, bits.dtype)[shift:].reshape(bits.shape)
    x[...] = cupy.asarray(bits)
    return x


def off(x: Any) -> Any:
    """Copy an array to this computer; bits are not touched."""
    if not hasattr(x, "get"):
        return x
    return x.get() if x.dtype.kind == "c" else x.view(BITS[x.itemsize]).get().view(x.dtype)


def assert_same(ours: Optimizer, theirs: Optimizer, where: object = "") -> None:
    """Fail unless both hold the same parameters and state, all NaNs being one."""
    for i, (p, q) in enumerate(zip(members(ours), members(theirs), strict=True)):
        assert_same_bits(off(p.data), q.data, (where, i))
    mine, other = ours.state_dict()["state"], theirs.state_dict()["state"]
    assert list(mine) == list(other), where
    for i, state in other.items():
        assert sorted(mine[i]) == sorted(state), (where, i)
        for key, x in state.items():
            assert_same_bits(off(mine[i][key]), x, (where, i, key))


def pair(cupy: Any, name: str, params: list[Any], **more: Any) -> tuple[Optimizer, Optimizer]:
    """Return an optimizer of arrays on the GPU, and one of the arrays themselves."""
    cls = getattr(refoptim, name)
    return cls([on(cupy, x) for x in params], **more), cls(params, **more)


def step(cupy: Any, ours: Optimizer, theirs: Optimizer, grads: list[Any], **more: Any) -> None:
    """Take a step with both; the reference rounds 16-bit numbers as kernels do."""
    ours.step(grads=[g if g is None else on(cupy, g) for g in grads], **more)
    with refoptim.rounding("store"):
        theirs.step(grads=grads, **more)


# --------------------------------------------------------------------------------------------- every rule


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize("name", RULES)
def test_kernels_have_the_bits_of_the_reference(cupy: Any, name: str, dtype: str, seed: int) -> None:
    """Settings, layouts, sizes and numbers at random: zeros, infinities, NaN and subnormal numbers among them."""
    rng = np.random.default_rng([seed, RULES.index(name), STORAGES.index(dtype), 5])
    params, chosen = arrays(rng, dtype), settings(name, rng)
    ours, theirs = pair(cupy, name, params, **chosen)
    for k in range(4):
        step(cupy, ours, theirs, gradients(rng, params, dtype, k))
        assert_same(ours, theirs, (chosen, k))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", RULES)
def test_arrays_that_begin_anywhere(cupy: Any, name: str, dtype: str) -> None:
    """Views of larger arrays, as of one flat buffer; gradients begin elsewhere than their parameters."""
    rng, begins = np.random.default_rng(7), [(0, 1), (1, 0), (1, 1), (2, 3), (4, 4), (8, 3)]
    params = [numbers(rng, (i + 1000,), dtype)[i:] for i, _ in begins]
    ours, theirs = pair(cupy, name, params, **settings(name, rng))
    for k in range(2):
        step(cupy, ours, theirs, [numbers(rng, (i + 1000,), dtype)[i:] for _, i in begins])
        assert_same(ours, theirs, k)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subnormal_numbers_survive(cupy: Any, name: str, dtype: str) -> None:
    """Parameters, gradients and state around the smallest numbers there are: nothing is flushed to zero."""
    rng, tiny = np.random.default_rng(3), np.finfo(dtype).smallest_subnormal

    def small() -> Any:
        return (rng.integers(-2000, 2000, 5000) * tiny).astype(dtype)

    chosen = {"lr": 0.5, "eps": 1.0} if "eps" in refoptim.step.hyper.declared(getattr(refoptim, name)) else {"lr": 0.5}
    start = small()
    ours, theirs = pair(cupy, name, [start], **chosen)
    for k in range(3):
        step(cupy, ours, theirs, [small()])
        assert_same(ours, theirs, k)
    (p,) = members(theirs)
    kept = [p.data, *(x for x in theirs.state[p].values() if np.ndim(x))]
    assert any(np.any((x != 0) & (np.abs(x) < np.finfo(dtype).smallest_normal)) for x in kept)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["Adafactor", "Muon"])
def test_rules_with_sums(cupy: Any, name: str, dtype: str) -> None:
    rng = np.random.default_rng(4)
    shapes = [(3, 5), (70, 41), (1, 9), (130, 260)] + ([(2, 3, 40), (5000,), ()] if name == "Adafactor" else [])
    params = [np.asarray(rng.standard_normal(shape)).astype(dtype_of(dtype)) for shape in shapes]
    ours, theirs = make(name, [on(cupy, x) for x in params]), make(name, params)
    for k in range(3):
        step(cupy, ours, theirs, [np.asarray(rng.standard_normal(s)).astype(dtype_of(dtype)) for s in shapes])
        assert_same(ours, theirs, k)


@pytest.mark.parametrize("name", ["LBFGS", "ConjugateGradient"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_rules_with_closures(cupy: Any, name: str, dtype: str, search: str | None) -> None:
    """A quadratic whose loss and gradient are computed by NumPy for both."""
    start, scale = normal(1, 3000, dtype=dtype), np.linspace(0.5, 4, 3000).astype(dtype)
    runs: list[Any] = []
    for p in (Parameter(on(cupy, start)), Parameter(start.copy())):
        optimizer = getattr(refoptim, name)([p], line_search_fn=search, lr=0.2, max_iter=4)

        def closure(p: Any = p) -> float:
            x = off(p.data)
            p.grad = scale * x if isinstance(p.data, np.ndarray) else on(cupy, scale * x)
            return float(np.sum(0.5 * scale * x * x, dtype=np.float64))

        losses = [optimizer.step(closure) for _ in range(3)]
        runs.append((losses, off(p.data)))
    assert runs[0][0] == runs[1][0]
    assert_same_bits(runs[0][1], runs[1][1])


@pytest.mark.parametrize("norm_type", [1.0, 2.0, float("inf")])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_norms_and_clipping(cupy: Any, norm_type: float, dtype: str) -> None:
    grads = [normal(i, 40 * i + 1, 33).astype(dtype_of(dtype)) for i in range(6)]
    ours = [Parameter(on(cupy, g), on(cupy, g)) for g in grads]
    theirs = [Parameter(g.copy(), g.copy()) for g in grads]
    norms = [clip_grad_norm_(params, 1.5, norm_type) for params in (ours, theirs)]
    assert_same_bits(off(norms[0]), np.asarray(norms[1]))
    for p, q in zip(ours, theirs, strict=True):
        assert_same_bits(off(p.grad), q.grad)


@pytest.mark.parametrize("name", ["SparseAdam", "Adagrad", "SGD"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_sparse_gradients(cupy: Any, name: str, dtype: str) -> None:
    """Rows with up to dozens of entries, which are summed in the order in which they are stored."""
    rng, more = np.random.default_rng(6), {"SGD": {"lr": 0.3}}.get(name, {"lr": 0.1})
    params = [numbers(rng, shape, dtype) for shape in ((50, 7), (9,), (40, 333))]
    ours, theirs = pair(cupy, name, params, **more)
    for k in range(3):
        grads = []
        for x in params:
            rows = rng.integers(0, len(x), 100)
            grads.append(SparseGrad(rows[None], numbers(rng, (100, *x.shape[1:]), dtype), x.shape))
        step(cupy, ours, theirs, grads)
        assert_same(ours, theirs, k)


@ON_A_GPU_ONLY
@pytest.mark.parametrize("name", NAMES)
def test_unfused_steps(cupy: Any, name: str) -> None:
    """The words of the rules on CuPy arrays: in float64, for CuPy itself flushes float32 numbers to zero."""
    start = [normal(i, 8, 5, dtype="float64") for i in range(2)]
    ours, theirs = make(name, [on(cupy, x) for x in start], fused=False), make(name, start)
    for k in range(3):
        grads = [gradient(name, 10 * k + i, x) for i, x in enumerate(start)]
        theirs.step(grads=grads)
        ours.step(grads=[on(cupy, g) for g in grads])
    assert_same(ours, theirs)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_master_copies(cupy: Any, name: str, dtype: str, wide: bool) -> None:
    """With gradients of the same 16 bits, and with those of float32."""
    start = [normal(i, 6, 40).astype(dtype_of(dtype)) for i in range(2)]
    ours = make(name, [Parameter(on(cupy, x), master=True) for x in start])
    theirs = make(name, [Parameter(x, master=True) for x in start])
    for k in range(3):
        like = [x.astype(np.float32) if wide else x for x in start]
        step(cupy, ours, theirs, [gradient(name, 10 * k + i, x) for i, x in enumerate(like)])
        assert_same(ours, theirs, k)


@pytest.mark.parametrize("form", ["mean", "ema", "mean of many"])
def test_averages(cupy: Any, form: str) -> None:
    functions: dict[str, Any] = {"mean": {}, "ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.8)}}
    more = functions.get(form, {"multi_avg_fn": get_swa_multi_avg_fn()})
    start = [normal(i, 30, 7) for i in range(3)]
    ours, theirs = AveragedModel([on(cupy, x) for x in start], **more), AveragedModel(start, **more)
    for k in range(4):
        now = [normal(10 * k + i, 30, 7) for i in range(3)]
        ours.update_parameters([on(cupy, x) for x in now])
        theirs.update_parameters(now)
    for x, y in zip(ours.module, theirs.module, strict=True):
        assert_same_bits(off(x), y)


# ----------------------------------------------------------------------------------------- how it is run


@pytest.mark.parametrize("name", OPTIONS)
def test_a_captured_graph_follows_the_learning_rate(cupy: Any, name: str) -> None:
    """A graph of one step is replayed with other gradients and another learning rate."""
    params, grads = ([cupy.asarray(x) for x in drawn(i)] for i in (0, 1))
    lr = cupy.asarray(np.float64(LRS[0]))
    optimizer = getattr(refoptim, name)(params, lr=lr, capturable=True, **OPTIONS[name])
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.get_current_stream().synchronize()
    with stream:
        optimizer.step(grads=grads)
        stream.begin_capture()
        optimizer.step(grads=grads)
        graph = stream.end_capture()
        for k, rate in list(enumerate(LRS))[1:]:
            lr[...] = rate
            for g, x in zip(grads, drawn(k + 1), strict=True):
                g[...] = cupy.asarray(x)
            graph.launch(stream)
        stream.synchronize()
        assert_same(optimizer, expected(name, LRS))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_captured_graph_skips_steps(cupy: Any, name: str) -> None:
    params, grads = ([cupy.asarray(x) for x in drawn(i)] for i in (0, 1))
    found_inf, scale = (cupy.asarray(np.float32(x)) for x in (0, 8))
    optimizer = getattr(refoptim, name)(params, lr=0.1, capturable=True, **OPTIONS[name])
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.get_current_stream().synchronize()
    with stream:
        for k in range(len(LRS)):
            found_inf[...] = float(k in (0, 3))
            for g, x in zip(grads, drawn(k + 1), strict=True):
                g[...] = cupy.asarray(8 * x)
            if k == 1:
                stream.begin_capture()
            if k < 2:
                optimizer.step(grads=grads, grad_scale=scale, found_inf=found_inf)
            if k == 1:
                graph = stream.end_capture()
            if k:
                graph.launch(stream)
        stream.synchronize()
        assert_same(optimizer, expected(name, [0.1] * len(LRS), skipped=(0, 3)))


@ON_A_GPU_ONLY
@pytest.mark.parametrize("name", ["Adam", "SGD", "Adafactor"])
def test_a_step_does_not_wait_for_the_gpu(cupy: Any, name: str) -> None:
    """The stream is held up until the step has returned; a step that waited would wait for half a minute."""
    start = [normal(i, 70, 50) for i in range(3)]
    ours, theirs = make(name, [on(cupy, x) for x in start]), make(name, start)
    grads = [normal(10 + i, 70, 50) for i in range(3)]
    placed = [on(cupy, g) for g in grads]
    go, in_time = threading.Event(), []
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.get_current_stream().synchronize()
    with stream:
        for _ in range(2):
            ours.step(grads=placed)  # from then on all memory is at hand
        stream.synchronize()
        stream.launch_host_func(lambda _: in_time.append(go.wait(30)), None)
        ours.step(grads=placed)
        go.set()
        stream.synchronize()
    assert in_time == [True]
    for _ in range(3):
        theirs.step(grads=grads)
    assert_same(ours, theirs)


def test_several_streams(cupy: Any) -> None:
    """Four optimizers, each on a stream of its own, step by turns."""
    start = normal(1, 200_000)
    runs = [
        (cupy.cuda.Stream(non_blocking=True), *pair(cupy, "Adam", [start + np.float32(i)], lr=0.01)) for i in range(4)
    ]
    cupy.cuda.get_current_stream().synchronize()
    for k in range(10):
        for stream, ours, theirs in runs:
            with stream:
                step(cupy, ours, theirs, [normal(k, 200_000)])
    for stream, ours, theirs in runs:
        stream.synchronize()
        assert_same(ours, theirs)


def test_several_devices(cupy: Any) -> None:
    count = cupy.cuda.runtime.getDeviceCount()
    if count < 2:
        pytest.skip("there is one GPU only")
    start = [normal(i, 5000) for i in range(2 * count)]
    placed = []
    for i, x in enumerate(start):
        with cupy.cuda.Device(i % count):
            placed.append(on(cupy, x))
    ours, theirs = refoptim.Adam(placed, lr=0.1), refoptim.Adam(start, lr=0.1)
    for k in range(3):
        grads, moved = [normal(10 * k + i, 5000) for i in range(2 * count)], []
        for i, g in enumerate(grads):
            with cupy.cuda.Device(i % count):
                moved.append(on(cupy, g))
        theirs.step(grads=grads)
        ours.step(grads=moved)
    for i, (p, q) in enumerate(zip(members(ours), members(theirs), strict=True)):
        with cupy.cuda.Device(i % count):
            assert_same_bits(off(p.data), q.data)


def test_no_result_depends_on_the_grid(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    start, found = normal(1, 300_001), []
    for grid in (1, 7, cuda.GRID):
        monkeypatch.setattr(cuda, "GRID", grid)
        optimizer = make("Adam", [on(cupy, start)])
        optimizer.step(grads=[on(cupy, normal(2, 300_001))])
        found.append(off(members(optimizer)[0].data))
    assert_same_bits(found[0], found[2])
    assert_same_bits(found[1], found[2])


def test_a_thousand_tensors(cupy: Any) -> None:
    start = [normal(i, 100 + i) for i in range(1000)]
    ours, theirs = pair(cupy, "AdamW", start, lr=0.01)
    for k in range(3):
        step(cupy, ours, theirs, [normal(2000 + i + k, 100 + i) for i in range(1000)])
    assert_same(ours, theirs)


def test_state_is_saved_and_loaded(cupy: Any) -> None:
    start, grads = normal(1, 33), [normal(2 + k, 33) for k in range(4)]
    ours, theirs = pair(cupy, "NAdam", [start], lr=0.1)
    for g in grads[:2]:
        step(cupy, ours, theirs, [g])
    other = refoptim.NAdam([on(cupy, members(theirs)[0].data)], lr=0.1)
    other.load_state_dict(copy.deepcopy(ours.state_dict()))
    for g in grads[2:]:
        step(cupy, other, theirs, [g])
    assert_same(other, theirs)


@ON_A_GPU_ONLY
def test_tensors_of_torch_are_taken(cupy: Any) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    x, g = normal(1, 50), normal(2, 50)
    tensor = torch.from_numpy(x.copy()).cuda()
    optimizer = refoptim.SGD([tensor], lr=0.5)
    torch.cuda.synchronize()
    optimizer.step(grads=[torch.from_numpy(g).cuda()])
    cupy.cuda.get_current_stream().synchronize()
    assert_same_bits(tensor.cpu().numpy(), x - np.float32(0.5) * g)


HUGE = (1 << 31) + 12_345
PERIOD = 1_000_003


@ON_A_GPU_ONLY
def test_more_elements_than_an_int_counts(cupy: Any) -> None:
    """One tensor of more than 2^31 elements; numbers repeat, so that NumPy need compute one period of them only."""
    free, _ = cupy.cuda.runtime.memGetInfo()
    if free < 12 << 30:
        pytest.skip("the GPU has less than 12 GiB of free memory")
    x, g = (normal(seed, PERIOD).astype("float16") for seed in (1, 2))
    theirs = refoptim.SGD([x.copy()], lr=0.25, weight_decay=0.5)
    arrays = [cupy.empty(HUGE, "float16") for _ in range(2)]
    for array, period in zip(arrays, (x, g), strict=True):
        placed = cupy.asarray(period)
        for begin in range(0, HUGE, PERIOD):
            array[begin : begin + PERIOD] = placed[: min(PERIOD, HUGE - begin)]
    ours = refoptim.SGD([arrays[0]], lr=0.25, weight_decay=0.5)
    ours.step(grads=[arrays[1]])
    with refoptim.rounding("store"):
        theirs.step(grads=[g])
    wanted, differ = cupy.asarray(members(theirs)[0].data.view(np.uint16)), 0
    for begin in range(0, HUGE, PERIOD):
        part = arrays[0][begin : begin + PERIOD].view(np.uint16)
        differ += (part != wanted[: len(part)]).any()
    assert int(differ) == 0
