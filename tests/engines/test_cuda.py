"""The engine for GPUs, on the stand-in of helpers/fake_cupy: what it launches, uploads and waits for."""

from __future__ import annotations

from threading import Thread
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.on_gpu import assert_equal_runs, off, on
from helpers.rooms import DENSE, MEASURED, NAMES, assert_equal_bits, gradient, make, members, normal
from refoptim import SparseGrad
from refoptim.engines import cuda
from refoptim.engines.launches import Parts
from refoptim.engines.machine import key_of

from ..kernels import test_gpu

STEPS = 4
ELEMENTWISE = [name for name in NAMES if name not in MEASURED]


def counters(gpu: Any) -> Any:
    """Return the counters, and begin new ones."""
    found, gpu.world.counters = gpu.world.counters, gpu.Counters()
    return found


def arrays(seed: int, dtype: str = "float32", shapes: tuple[tuple[int, ...], ...] = ((5, 3), (2, 4))) -> list[Any]:
    return [normal(seed + i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]


# ----------------------------------------------------------------------------------------------------- bits


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_steps_have_the_bits_of_the_reference(gpu: Any, name: str, dtype: str) -> None:
    """Kernels round where arrays are stored; a rule without kernels runs on CuPy's functions."""
    start = arrays(0, dtype)
    theirs, ours = make(name, [x.copy() for x in start]), make(name, [on(gpu, x, 1) for x in start])
    with refoptim.rounding("store"):
        for step in range(STEPS):
            grads = [gradient(name, 10 * step + i, x) for i, x in enumerate(start)]
            theirs.step(grads=grads)
            ours.step(grads=[on(gpu, g, 1) for g in grads])
    assert_equal_runs(ours, theirs)
    assert bool(counters(gpu).launches) is getattr(refoptim, name).has_kernels


@pytest.mark.parametrize("name", DENSE)
def test_any_layout_will_do(gpu: Any, name: str) -> None:
    """Fortran order, strides, a column, and gradients in another order than their parameters."""
    start = [normal(i, 8, 6) for i in range(3)]

    def laid_out(xs: list[Any]) -> list[Any]:
        return [xs[0].copy().T, xs[1].copy()[::2, 1:4], xs[2].copy()[:, :1]]

    theirs, ours = make(name, laid_out(start)), make(name, laid_out([on(gpu, x) for x in start]))
    for step in range(STEPS):
        grads = [normal(10 * step + i, *p.shape) for i, p in enumerate(members(theirs))]
        theirs.step(grads=grads)
        given = [on(gpu, g) for g in grads]
        given[0] = on(gpu, grads[0].T).T
        ours.step(grads=given)
    for p, q in zip(members(ours), members(theirs), strict=True):
        assert_equal_bits(off(p.data), q.data)
        for key, x in theirs.state[q].items():
            assert_equal_bits(off(ours.state[p][key]), x, key)


def test_sizes_and_complex_numbers(gpu: Any) -> None:
    shapes = ((), (0,), (1,), (17,), (70000,))
    for dtype in ("float32", "complex64"):
        start = arrays(1, dtype, shapes)
        theirs, ours = make("Adam", [x.copy() for x in start]), make("Adam", [on(gpu, x) for x in start])
        for step in range(STEPS):
            grads = arrays(10 * step, dtype, shapes)
            theirs.step(grads=grads)
            ours.step(grads=[on(gpu, g) for g in grads])
        assert_equal_runs(ours, theirs, dtype)


def test_no_result_depends_on_the_grid(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    start, grads = [normal(1, 100_000)], [normal(2, 100_000)]
    found = []
    for grid in (1, 3, cuda.GRID):
        monkeypatch.setattr(cuda, "GRID", grid)
        optimizer = make("Adam", [on(gpu, x) for x in start])
        optimizer.step(grads=[on(gpu, g) for g in grads])
        assert counters(gpu).grids == [min(grid, 98)]
        found.append(off(members(optimizer)[0].data))
    assert_equal_bits(found[0], found[2])
    assert_equal_bits(found[1], found[2])


# ----------------------------------------------------------------------------------- launches, tables, waiting


@pytest.mark.parametrize("name", [x for x in ELEMENTWISE if x != "SparseAdam"])
def test_a_step_is_one_launch_that_waits_for_nothing(gpu: Any, name: str) -> None:
    """Of fifty tensors; after the first step nothing is allocated, and nothing uploaded while pointers stay."""
    start = [normal(i, 3 + i) for i in range(50)]
    ours = make(name, [on(gpu, x) for x in start])
    grads = [on(gpu, normal(i, 3 + i)) for i in range(50)]
    counters(gpu)
    ours.step(grads=grads)
    first = counters(gpu)
    assert len(first.launches) == 1
    assert first.uploads == 2  # where the arrays are, and how they are shared out
    assert first.synchronizations == 0
    for _ in range(2):
        ours.step(grads=grads)
        later = counters(gpu)
        assert (len(later.launches), later.uploads, later.synchronizations, later.allocations) == (1, 0, 0, 0)
        assert later.kernels == 0


def test_tables_follow_the_pointers(gpu: Any) -> None:
    """How arrays are shared out is uploaded once; new gradients are one upload, those of an earlier step none."""
    start = arrays(1)
    theirs, ours = make("SGD", [x.copy() for x in start]), make("SGD", [on(gpu, x) for x in start])
    grads = [arrays(10 * i) for i in range(3)]
    placed = [[on(gpu, g) for g in some] for some in grads]
    counters(gpu)
    uploads = []
    for i in (0, 1, 2, 0, 1, 1, 2):
        theirs.step(grads=grads[i])
        ours.step(grads=placed[i])
        uploads.append(counters(gpu).uploads)
    assert uploads == [2, 1, 1, 0, 0, 0, 0]
    assert_equal_runs(ours, theirs)


def test_buckets_are_launched_where_they_are(gpu: Any) -> None:
    """Two dtypes on two devices are four launches, on the current stream of each, whichever device is current."""
    dtypes, devices = ("float32", "float64", "float32", "float64"), (0, 0, 1, 1)
    start = [normal(i, 6, dtype=dtype) for i, dtype in enumerate(dtypes)]
    theirs = make("Adam", [x.copy() for x in start])
    ours = make("Adam", [on(gpu, x, d) for x, d in zip(start, devices, strict=True)])
    for step in range(STEPS):
        grads = [normal(10 * step + i, 6, dtype=dtype) for i, dtype in enumerate(dtypes)]
        placed = [on(gpu, g, d) for g, d in zip(grads, devices, strict=True)]
        theirs.step(grads=grads)
        counters(gpu)
        with gpu.cuda.Device(step % 2):
            ours.step(grads=placed)
        done = counters(gpu)
        assert sorted(done.launches) == ["adam_float32"] * 2 + ["adam_float64"] * 2
        assert done.devices == [0, 0, 1, 1]
    assert_equal_runs(ours, theirs)


def test_a_machine_works_on_its_own_gpu(idle: Any) -> None:
    """Whichever is current; and on the current stream of that GPU."""
    machine = cuda.machine(1)
    with idle.cuda.Device(1), idle.cuda.Stream() as stream, idle.cuda.Device(0):
        table, x = machine.upload(np.arange(3)), machine.empty((2,), np.dtype("float32"))
        machine.launch("sgd", "sgd_float32", 5, np.int64(1), table, None)
    done = counters(idle)
    assert (done.devices, done.streams, done.grids) == ([1], [stream.ptr], [5])
    assert table.device == x.device == idle.cuda.Device(1)
    with pytest.raises(TypeError, match="Unsupported type"):
        machine.launch("sgd", "sgd_float32", 5, 1.5)


def test_each_stream_has_its_own_tables(gpu: Any) -> None:
    """So none waits for another, and what is given up is not overwritten before another stream has read it."""
    x, g = normal(1, 9), normal(2, 9)
    ours, gradient = refoptim.SGD([on(gpu, x)], lr=0.5), on(gpu, g)
    (p,) = members(ours)
    uploads = []
    counters(gpu)
    for stream in 2 * (gpu.cuda.Stream(non_blocking=True), gpu.cuda.Stream(non_blocking=True)):
        with stream:
            ours.step(grads=[gradient])
        uploads.append(counters(gpu).uploads)
    assert uploads[:2] == [2, 2]
    step = np.float32(0.5) * g
    assert_equal_bits(off(p.data), x - step - step - step - step)


def test_the_streams_of_threads_are_others(gpu: Any) -> None:
    """CUDA gives the default stream of each thread one number, though it is another stream in each."""
    machine, found = cuda.machine(0), []

    def upload() -> None:
        with gpu.cuda.Stream.ptds:
            found.append(machine.upload(np.arange(4)))

    for thread in (Thread(target=upload), Thread(target=upload)):
        thread.start()
        thread.join()
    upload()
    upload()
    assert found[2] is found[3]
    assert len({id(x) for x in found}) >= 2


def test_two_streams_by_turns_leave_few_tables(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradients that lie elsewhere in every step: what is kept has a bound, in bytes."""
    monkeypatch.setattr(cuda, "ROOM", 4000)
    machine, streams = cuda.machine(0), [gpu.cuda.Stream(non_blocking=True) for _ in range(2)]
    for i in range(300):
        with streams[i % 2] as stream:
            machine.upload(np.arange(i, i + 10))
            stream.run()
    kept = sum(x.array.nbytes for x in machine.tables.values())
    assert kept == machine.size <= 4000 + 80
    assert len(machine.copying) <= 2
    assert sum(x.source is not None for x in machine.tables.values()) <= 2


def test_pinned_memory_lives_until_it_is_copied(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tables in a stream that does not move: none of their sources may go; when it moves, the oldest may."""
    monkeypatch.setattr(cuda, "ROOM", 400)
    machine = cuda.machine(0)
    tables = [np.arange(i, i + 5) for i in range(30)]
    with gpu.cuda.Stream(non_blocking=True) as stream:
        copies = [machine.upload(table) for table in tables]
        assert len(machine.tables) == len(tables)
        stream.run()
        for copy, table in zip(copies, tables, strict=True):
            assert_equal_bits(off(copy), table)
        machine.upload(np.arange(99))
        assert machine.size == 99 * 8 and len(machine.tables) == 1


def test_many_parameters_leave_no_large_tables(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """How seven billion parameters are shared out is uploaded once, and not looked at again: addresses are few."""
    gpu.world.runs = False
    elements = 7 << 30
    parts = Parts(np.full(7, (1 << 30) // cuda.CHUNK))
    machine, keys = cuda.machine(0), []
    monkeypatch.setattr(cuda, "key_of", lambda table: keys.append(table.nbytes) or key_of(table))
    counters(gpu)
    for step in range(3):
        parts.address(machine)
        machine.upload(np.arange(step, step + 7 * 7))
    assert counters(gpu).uploads == 1 + 3
    assert machine.chunk(elements) == cuda.CHUNK
    assert parts.table.nbytes <= elements / cuda.CHUNK * 8
    assert max(keys) <= 7 * 7 * 8


@pytest.mark.parametrize(
    ("elements", "chunk", "blocks"), [(1 << 28, 8192, 32768), (10**7, 8192, 1221), (10**6, 1024, 977), (5, 1024, 1)]
)
def test_blocks_are_many_enough_for_a_gpu(gpu: Any, elements: int, chunk: int, blocks: int) -> None:
    """132 multiprocessors hold 528 blocks: few elements are shared out in smaller chunks."""
    assert cuda.machine(0).chunk(elements) == chunk
    assert -(-elements // chunk) == blocks


@pytest.mark.parametrize("name", ["Adam", "Adafactor"])
def test_launches_are_kept(gpu: Any, name: str) -> None:
    """From the second step on nothing is made or uploaded; new gradients are read where they lie then."""
    shapes = ((6, 5), (2, 3, 4), (7,), (40, 33))
    start = arrays(1, shapes=shapes)
    theirs, ours = make(name, [x.copy() for x in start]), make(name, [on(gpu, x) for x in start])
    grads = [arrays(10 * i, shapes=shapes) for i in range(5)]
    placed = [[on(gpu, g) for g in some] for some in grads[:2]]
    for i in (0, 0, 0, 0, 1, 0, 1):
        counters(gpu)
        theirs.step(grads=grads[i])
        ours.step(grads=placed[i])
        done = counters(gpu)
    assert (done.allocations, done.uploads, done.synchronizations) == (0, 0, 0)
    assert_equal_runs(ours, theirs)


def test_a_table_of_nothing_is_uploaded(gpu: Any) -> None:
    assert cuda.machine(0).upload(np.zeros(0, np.int64)).shape == (0,)


def test_tables_of_other_kinds_are_others(gpu: Any) -> None:
    machine = cuda.machine(0)
    x = np.zeros(2, np.int64)
    found = [machine.upload(y) for y in (x, x.astype(float), x.reshape(2, 1))]
    assert [(y.dtype, y.shape) for y in found] == [(np.int64, (2,)), (np.float64, (2,)), (np.int64, (2, 1))]


# ------------------------------------------------------------------------------------------ captured graphs


@pytest.mark.parametrize("name", [x for x in ELEMENTWISE if x != "SparseAdam"])
def test_a_captured_step_is_replayed(gpu: Any, name: str) -> None:
    """With the bits of steps that are not captured, while gradients change in place."""
    start, shapes = arrays(1), ((5, 3), (2, 4))
    options = {"capturable": True} if "capturable" in refoptim.step.hyper.declared(getattr(refoptim, name)) else {}
    if not options:
        pytest.skip(f"{name} has no capturable")
    theirs, ours = make(name, [x.copy() for x in start]), make(name, [on(gpu, x) for x in start], **options)
    grads = [on(gpu, np.zeros(shape, "float32")) for shape in shapes]

    def put(step: int) -> None:
        given = arrays(10 * step, shapes=shapes)
        theirs.step(grads=given)
        for g, new in zip(grads, given, strict=True):
            g._x[...] = new

    with gpu.cuda.Stream(non_blocking=True) as stream:
        put(0)
        ours.step(grads=grads)
        stream.begin_capture()
        ours.step(grads=grads)
        graph = stream.end_capture()
        for step in range(1, STEPS):
            put(step)
            graph.launch()
    for p, q in zip(members(ours), members(theirs), strict=True):
        assert_equal_bits(off(p.data), q.data)


def test_a_table_that_is_needed_in_a_capture_is_there(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy cannot be captured: it is made beside the graph, and both stay."""
    monkeypatch.setattr(cuda, "ROOM", 0)
    machine, table = cuda.machine(0), np.arange(7)
    with gpu.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        copy = machine.upload(table)
        made = machine.empty((3,), np.dtype("float32"))
        graph = stream.end_capture()
        assert not graph.work
        assert_equal_bits(copy._x, table)
        assert machine.captured == [made]
        for i in range(9):
            machine.upload(np.arange(i))
            stream.run()
        assert machine.upload(table) is copy


@pytest.mark.parametrize("stream", ["other", "of the thread"])
def test_a_step_is_captured_from_any_stream_that_can_be(gpu: Any, stream: str) -> None:
    """From the default stream of a thread too: its tables stay for the graph."""
    x, g = normal(1, 9), normal(2, 9)
    machine, ours = cuda.machine(0), refoptim.SGD([on(gpu, x)], lr=0.5, momentum=0.5, capturable=True)
    theirs, grads = refoptim.SGD([x.copy()], lr=0.5, momentum=0.5), [on(gpu, g)]
    with gpu.cuda.Stream.ptds if stream == "of the thread" else gpu.cuda.Stream(non_blocking=True) as chosen:
        ours.step(grads=grads)
        chosen.begin_capture()
        ours.step(grads=grads)
        graph = chosen.end_capture()
        assert len(machine.kept) == 2
        graph.launch()
        graph.launch()
    for _ in range(3):
        theirs.step(grads=[g])
    assert_equal_bits(off(members(ours)[0].data), members(theirs)[0].data)


@pytest.mark.parametrize("mode", ["streamCaptureModeGlobal", "streamCaptureModeThreadLocal"])
def test_a_strict_capture_finds_all_at_hand(gpu: Any, mode: str) -> None:
    """Once tables are known to be there, a captured step asks CUDA for nothing that such a capture forbids."""
    ours, grads = refoptim.Adam([on(gpu, normal(1, 9))], lr=0.5, capturable=True), [on(gpu, normal(2, 9))]
    with gpu.cuda.Stream(non_blocking=True) as stream:
        for _ in range(2):
            ours.step(grads=grads)
            stream.synchronize()
        stream.begin_capture(getattr(gpu.cuda.runtime, mode))
        ours.step(grads=grads)
        assert stream.end_capture().work


def test_a_strict_capture_refuses_what_is_not_at_hand(gpu: Any) -> None:
    """As CUDA does, which spoils the graph."""
    machine, error = cuda.machine(0), gpu.cuda.runtime.CUDARuntimeError
    with gpu.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture(gpu.cuda.runtime.streamCaptureModeGlobal)
        with pytest.raises(error, match="not permitted when stream is capturing"):
            machine.upload(np.arange(3))
        with pytest.raises(error, match="due to a previous error during capture"):
            stream.end_capture()
    assert (machine.size, machine.tables, machine.kept) == (0, {}, {})


def test_copies_that_a_graph_reads_stay(gpu: Any) -> None:
    """A tensor in neither order is copied for the kernel; the graph needs that memory each time it is replayed."""
    start, g = normal(1, 8, 6), normal(2, 4, 3)
    theirs = refoptim.SGD([start[::2, ::2].copy()], lr=0.1, momentum=0.5)
    ours = refoptim.SGD([on(gpu, start)[::2, ::2]], lr=0.1, momentum=0.5, capturable=True)
    machine, grads = cuda.machine(0), [on(gpu, g)]
    with gpu.cuda.Stream(non_blocking=True) as stream:
        ours.step(grads=grads)
        assert machine.captured == []
        stream.begin_capture()
        ours.step(grads=grads)
        graph = stream.end_capture()
        assert [x.shape for x in machine.captured] == [(4, 3)]
        for _ in range(3):
            graph.launch()
    for _ in range(4):
        theirs.step(grads=[g])
    assert_equal_bits(off(members(ours)[0].data), members(theirs)[0].data)


@pytest.mark.parametrize("name", ["SparseAdam", "SGD"])
@pytest.mark.parametrize("checked", [True, False])
def test_sparse_gradients_wait_once_or_not_at_all(gpu: Any, name: str, checked: bool) -> None:
    """For all axes together, when they are made and in the step; what is not checked is taken modulo the shape."""
    x, values, rows = normal(1, 6, 4, 2), normal(2, 3, 2), np.array([[1, 5, 0], [3, 0, 2]])
    theirs, ours = (getattr(refoptim, name)([y], lr=0.5) for y in (x.copy(), on(gpu, x)))
    indices, there = on(gpu, rows if checked else np.add(rows, [[6], [-4]])), on(gpu, values)
    counters(gpu)
    g = SparseGrad(indices, there, x.shape, check_invariants=checked)
    assert counters(gpu).synchronizations == checked
    for _ in range(2):
        ours.step(grads=[g])
        assert counters(gpu).synchronizations == checked
        theirs.step(grads=[SparseGrad(rows, values, x.shape)])
    assert_equal_bits(off(members(ours)[0].data), members(theirs)[0].data)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_products_of_a_library(gpu: Any, dtype: str) -> None:
    """The iteration runs before anything is written, in memory of its own for each matrix; the step is one launch."""
    shapes = ((6, 5), (3, 8), (0, 3))
    start = arrays(1, dtype, shapes)
    theirs = make("Muon", [x.copy() for x in start], products="library", ns_dtype="float32")
    ours = make("Muon", [on(gpu, x) for x in start], products="library", ns_dtype="float32")
    for k in range(3):
        grads = arrays(10 * k, dtype, shapes)
        theirs.step(grads=grads)
        ours.step(grads=[on(gpu, g) for g in grads])
    assert not any("product" in name for name in counters(gpu).launches)
    for p, q in zip(members(ours), members(theirs), strict=True):
        np.testing.assert_allclose(off(p.data).astype(float), q.data.astype(float), 2e-2, 2e-3)


@pytest.mark.parametrize("name", MEASURED)
def test_programs_read_what_skips_a_step(gpu: Any, name: str) -> None:
    """They have no scalars on a GPU, which therefore cannot count their steps."""
    cupy, start = gpu, normal(0, 6, 5)
    ours, theirs = make(name, [cupy.asarray(start)]), make(name, [start.copy()])
    for k in range(3):
        g, found_inf = normal(1 + k, 6, 5), np.float32(k == 1)
        ours.step(grads=[cupy.asarray(g)], found_inf=cupy.asarray(found_inf), grad_scale=cupy.asarray(np.float32(8)))
        theirs.step(grads=[g], found_inf=found_inf, grad_scale=8.0)
    assert_equal_bits(members(ours)[0].data.get(), members(theirs)[0].data)
    assert ours.state_dict()["state"][0].get("step") == theirs.state_dict()["state"][0].get("step")


def test_a_program_is_not_captured(gpu: Any) -> None:
    optimizer = make("Muon", [gpu.asarray(normal(0, 6, 5))])
    optimizer.param_groups[0]["capturable"] = True
    with pytest.raises(RuntimeError, match="capturable=True on a GPU needs the kernels"):
        optimizer.step(grads=[gpu.asarray(normal(1, 6, 5))])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "complex64"])
@pytest.mark.parametrize("begin", [0, 1, 2, 3, 8])
def test_tests_on_a_gpu_place_arrays_as_they_lie(gpu: Any, dtype: str, begin: int) -> None:
    """A copy would begin at 16 bytes, where every kernel can read as many at once."""
    x = np.arange(40).astype(dtype)[begin:]
    there = test_gpu.on(gpu, x)
    assert (there.data.ptr - x.ctypes.data) % 16 == 0
    assert_equal_bits(off(there), x)
