"""The engine for GPUs, on the stand-in of helpers/fake_cupy: what it launches, uploads and waits for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.on_gpu import assert_equal_runs, off, on
from helpers.rooms import DENSE, NAMES, assert_equal_bits, gradient, make, members, normal
from refoptim.engines import cuda

STEPS = 4
ELEMENTWISE = [name for name in NAMES if name not in ("Adafactor", "Muon")]


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
    """Kernels round where arrays are stored."""
    start = arrays(0, dtype)
    theirs, ours = make(name, [x.copy() for x in start]), make(name, [on(gpu, x, 1) for x in start])
    with refoptim.rounding("store"):
        for step in range(STEPS):
            grads = [gradient(name, 10 * step + i, x) for i, x in enumerate(start)]
            theirs.step(grads=grads)
            ours.step(grads=[on(gpu, g, 1) for g in grads])
    assert_equal_runs(ours, theirs)
    assert counters(gpu).launches


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
    """How arrays are shared out is uploaded once; new gradients are one upload, those of an earlier step none, and the results are right either way."""
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


def test_another_stream_waits_for_a_table(gpu: Any) -> None:
    """The copy of a table waits in its stream until something needs it: here, the launch on another stream."""
    x, g = normal(1, 9), normal(2, 9)
    ours, gradient = refoptim.SGD([on(gpu, x)], lr=0.5), on(gpu, g)
    (p,) = members(ours)
    one, other = gpu.cuda.Stream(non_blocking=True), gpu.cuda.Stream(non_blocking=True)
    machine = cuda.machine(0)
    with one:
        ours.step(grads=[gradient])
    (table,) = machine.tables.values()
    table.array._x[...] = 0
    table.event.done = False
    source = np.frombuffer(table.source, np.int64, table.array.size)
    one.add(lambda: (table.array._x.__setitem__(..., source), setattr(table.event, "done", True)))
    table.event.stream = one
    with other:
        ours.step(grads=[gradient])
    assert_equal_bits(off(p.data), x - np.float32(0.5) * g - np.float32(0.5) * g)
    assert table.kept


def test_pinned_memory_lives_until_it_is_copied(gpu: Any) -> None:
    """Many tables in a stream that does not move: none of their sources may go; when it moves, the oldest may."""
    machine = cuda.machine(0)
    tables = [np.arange(i, i + 5) for i in range(3 * cuda.TABLES)]
    with gpu.cuda.Stream(non_blocking=True) as stream:
        copies = [machine.upload(table) for table in tables]
        assert len(machine.tables) == len(tables)
        stream.run()
        for copy, table in zip(copies, tables, strict=True):
            assert_equal_bits(off(copy), table)
        machine.upload(np.arange(99))
        assert len(machine.tables) == cuda.TABLES


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


def test_a_table_that_is_needed_in_a_capture_is_there(gpu: Any) -> None:
    """A copy cannot be captured: it is made beside the graph, and both stay."""
    machine, table = cuda.machine(0), np.arange(7)
    with gpu.cuda.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        copy = machine.upload(table)
        made = machine.empty((3,), np.dtype("float32"))
        graph = stream.end_capture()
    assert not graph.work
    assert_equal_bits(copy._x, table)
    assert machine.captured == [made]
    for i in range(3 * cuda.TABLES):
        machine.upload(np.arange(i))
        gpu.cuda.get_current_stream().run()
    assert machine.upload(table) is copy


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


@pytest.mark.parametrize("name", ["Adafactor", "Muon"])
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
