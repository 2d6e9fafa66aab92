"""fused=True on NumPy arrays: compiled kernels have the bits of the reference, for every rule, layout and setting."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers import ROOT
from helpers.kernels import (
    NEEDS_KERNELS,
    RULES,
    STORAGES,
    arrays,
    assert_same_bits,
    assert_same_runs,
    dtype_of,
    gradients,
    numbers,
    settings,
    shifted,
    strange,
)
from helpers.pairs import copies, pair, step
from helpers.rooms import SETTINGS, gradient, make, normal
from refoptim import Optimizer, SparseGrad
from refoptim.engines import host, reference
from refoptim.engines.host import Host

pytestmark = NEEDS_KERNELS


def variants() -> list[str]:
    """Return the instruction sets that this processor has and the library was built for."""
    return [] if host.missing() else host.variants(host.machine().kernels)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads, until the test ends."""
    yield refoptim.set_num_threads
    refoptim.set_num_threads(0)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize("name", RULES)
def test_kernels_have_the_bits_of_the_reference(name: str, dtype: str, seed: int, threads: Any) -> None:
    """Settings, layouts, sizes and numbers at random: zeros, infinities, NaN and subnormal numbers among them."""
    rng = np.random.default_rng([seed, RULES.index(name), STORAGES.index(dtype)])
    params, chosen = arrays(rng, dtype), settings(name, rng)
    one, other = pair(name, params, **chosen)
    threads(1 + seed % 3)
    for k in range(3):
        step(one, other, gradients(rng, params, dtype, k))
        assert_same_runs(one, other, (chosen, k))


@pytest.mark.sweep(3)
@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize("name", RULES)
def test_what_no_cache_holds_has_the_same_bits(name: str, dtype: str) -> None:
    """Loops fetch memory ahead then; a launch of many chunks counts as if all of them were full."""
    rng = np.random.default_rng([RULES.index(name), STORAGES.index(dtype)])
    params = [numbers(rng, (40,), dtype) for _ in range(200)]
    one, other = pair(name, params, **SETTINGS[name])
    for _ in range(2):
        step(one, other, [numbers(rng, (40,), dtype) for _ in params])
    assert_same_runs(one, other)


@pytest.mark.parametrize("size", [1, 5, 33, 200])
@pytest.mark.parametrize("dtype", STORAGES[:4])
@pytest.mark.parametrize("name", ["SGD", "Adam", "Adam8bit", "LARS"])
def test_where_an_array_begins_changes_no_bit(name: str, dtype: str, size: int) -> None:
    """Elements before the first that begins a register are updated one by one, however many there are of both."""
    rng = np.random.default_rng(size)
    chosen = {"momentum": 0.9} if name in ("SGD", "LARS") else {}
    params = [shifted(numbers(rng, (size,), dtype), by) for by in range(64 // np.dtype(dtype_of(dtype)).itemsize)]
    one, other = pair(name, params, lr=0.1, **chosen)
    for _ in range(2):
        step(one, other, [shifted(numbers(rng, (size,), dtype), by % 3) for by in range(len(params))])
    assert_same_runs(one, other)


@pytest.mark.parametrize("dtype", STORAGES[:4])
@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("SGD", {"momentum": 1e-50, "dampening": 0.3}),
        ("SGD", {"momentum": 1e-50, "nesterov": True}),
        ("RMSprop", {"momentum": 1e-50}),
        ("RMSprop", {"momentum": 1e-50, "centered": True}),
        ("Adam", {"weight_decay": 1e-60, "eps": 1e-60}),
        ("AdamW", {"weight_decay": 1e-60}),
        ("Adagrad", {"initial_accumulator_value": 1e-60}),
    ],
    ids=str,
)
def test_settings_that_round_to_zero(name: str, chosen: dict[str, Any], dtype: str) -> None:
    """What there is of state depends on the setting, not on the rounded one."""
    rng = np.random.default_rng(7)
    one, other = pair(name, [numbers(rng, (50,), dtype)], lr=0.1, **chosen)
    for _ in range(3):
        step(one, other, [numbers(rng, (50,), dtype)])
    assert_same_runs(one, other)


SPARSE = [
    ("SparseAdam", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3}),
    ("SparseAdam", {"lr": 0.5, "maximize": True}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.3}),
    ("SGD", {"lr": 0.3, "maximize": True}),
    ("SGD", {"lr": 0.3, "momentum": 0.9, "nesterov": True}),
]


def sparse(rng: np.random.Generator, shape: tuple[int, ...], axes: int, dtype: str, order: str) -> SparseGrad:
    """Draw a sparse gradient, some of its rows with several entries, perhaps with none at all."""
    n = int(rng.choice([0, 1, 5, 60]))
    indices = np.stack([rng.integers(0, size, n) for size in shape[:axes]]).astype(rng.choice(["int32", "int64"]))
    values = numbers(rng, (n, *shape[axes:]), dtype)
    return SparseGrad(indices, np.asarray(strange(rng, values, dtype) if n == 5 else values, order=order), shape)


@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize(("name", "chosen"), SPARSE, ids=str)
def test_sparse_gradients(name: str, chosen: dict[str, Any], dtype: str) -> None:
    if name == "SparseAdam" and dtype.startswith("complex"):
        pytest.skip("SparseAdam takes no complex parameters")
    rng = np.random.default_rng(STORAGES.index(dtype))
    shapes = [((10,), 1), ((10, 7), 1), ((10, 4, 3), 2), ((6, 5), 2), ((50, 333), 1), ((4, 0), 1)]
    params = [np.asarray(numbers(rng, shape, dtype), order=rng.choice(["C", "F"])) for shape, _ in shapes]
    one, other = pair(name, params, **chosen)
    for k in range(4):
        step(one, other, [sparse(rng, shape, axes, dtype, "CF"[k % 2]) for shape, axes in shapes])
        assert_same_runs(one, other, k)


def test_dense_and_sparse_gradients_take_turns() -> None:
    rng = np.random.default_rng(1)
    params = [numbers(rng, (9, 4), "float32"), numbers(rng, (6,), "float32")]
    one, other = pair("Adagrad", params, lr=0.1, initial_accumulator_value=0.3)
    for k in range(4):
        dense = [numbers(rng, x.shape, "float32") for x in params]
        step(one, other, [sparse(rng, (9, 4), 1, "float32", "C") if k % 2 else dense[0], dense[1]])
        assert_same_runs(one, other, k)


@pytest.mark.parametrize("variant", variants() or ["none"])
@pytest.mark.parametrize("name", [*RULES, "SparseAdam"])
def test_every_instruction_set_gives_the_same_bits(name: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Host(host.machine().kernels, variant)
    monkeypatch.setattr(host, "machine", lambda: chosen)
    for dtype in STORAGES[:4]:
        rng = np.random.default_rng(2)
        one, other = pair(name, [numbers(rng, (n,), dtype) for n in (1, 67, 200)], **SETTINGS[name])
        for _ in range(2):
            grads = [numbers(rng, (n,), dtype) for n in (1, 67, 200)]
            grads = [SparseGrad([range(0, len(g), 2)], g[::2], g.shape) if name == "SparseAdam" else g for g in grads]
            step(one, other, grads)
        assert_same_runs(one, other, dtype)
    assert all(entry.startswith(name.lower().replace("adamw", "adam")) for entry in chosen.entries)
    assert len(chosen.entries) == 4, "the kernels did not run on the machine that was chosen"


@pytest.mark.parametrize("name", [*RULES, "SparseAdam"])
def test_kernels_run_and_not_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*arguments: Any, **more: Any) -> None:
        raise AssertionError("the reference was run")

    monkeypatch.setattr(reference, "prepare", run)
    x = normal(0, 6, 3)
    optimizer = make(name, [x], fused=True)
    before = x.copy()
    for seed in (1, 2):  # the first step of ADOPT moves nothing
        optimizer.step(grads=[gradient(name, seed, x)])
    assert not np.array_equal(x, before)


@pytest.mark.parametrize(
    ("elements", "n", "chunk"), [(5, 1, 1 << 14), (1 << 18, 1, 1 << 16), (1 << 18, 2, 1 << 14), (1 << 24, 64, 1 << 16)]
)
def test_chunks_are_many_enough_for_all_threads(elements: int, n: int, chunk: int, threads: Any) -> None:
    threads(n)
    assert host.machine().chunk(elements) == chunk


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_where_gradients_lie_in_a_page_changes_nothing(dtype: str) -> None:
    """Loops go from the end where they begin a little before the parameter."""
    memory = np.zeros(3 << 12, np.uint8)
    page = -memory.ctypes.data % 4096 + 1024
    for n in (0, 1, 7, 15, 16, 17, 40, 95):
        size = n * np.dtype(dtype).itemsize
        x, values = normal(1, n, dtype=dtype), normal(2, n, dtype=dtype)
        for before in (0, 8, 16, 40, 48, 256, 504, 512, 520, 1016, -8, -16, -504, -512):
            p, g = (memory[at : at + size].view(dtype) for at in (page, page + 4096 - before))
            p[:], g[:] = x, values
            host_run, other = make("Adam", [p], fused=True), make("Adam", [x.copy()], fused=True)
            for optimizer, grad in ((host_run, g), (other, values)):
                for _ in range(2):
                    optimizer.step(grads=[grad])
            assert_same_runs(host_run, other)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_size_of_chunks_changes_nothing(n: int, threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    threads(n)
    for name in ("SGD", "LAMB"):
        x = numbers(np.random.default_rng(3), (300_001,), "float32")
        few, many = (make(name, [x.copy()], fused=True) for _ in range(2))
        for optimizer, chunk in ((few, 1 << 16), (many, 1 << 14)):
            monkeypatch.setattr(host.Host, "chunk", lambda machine, elements, chunk=chunk: chunk)
            for k in range(2):
                optimizer.step(grads=[normal(k, 300_001)])
        assert_same_runs(few, many)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_number_of_threads_changes_nothing(n: int, threads: Any) -> None:
    x = numbers(np.random.default_rng(3), (200_001,), "float32")
    one, other = (make("Adam", [x.copy()], fused=True) for _ in range(2))
    for k in range(2):
        threads(1)
        one.step(grads=[normal(k, 200_001)])
        threads(n)
        other.step(grads=[normal(k, 200_001)])
    assert_same_runs(one, other)


def test_a_thousand_tensors_take_one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    params = [numbers(rng, (int(rng.integers(0, 40)),), "float32") for _ in range(1000)]
    one, other = pair("Adam", params, **SETTINGS["Adam"])
    launches: list[int] = []
    machine = host.machine()
    kernel = getattr(machine.kernels, f"{machine.variant}_adam_float32")
    monkeypatch.setitem(machine.entries, "adam_float32", lambda *x: launches.append(len(x)) or kernel(*x))  # type: ignore[func-returns-value]
    for _ in range(3):
        step(one, other, [numbers(rng, x.shape, "float32") for x in params])
    assert_same_runs(one, other)
    assert len(launches) == 3


def test_groups_and_dtypes_in_one_optimizer() -> None:
    """Each group and dtype has scalars of its own, and each parameter its own step count; a group need not be fused."""
    rng = np.random.default_rng(5)
    dtypes = [*STORAGES, *STORAGES]
    params = [numbers(rng, (40 + i,), dtype) for i, dtype in enumerate(dtypes)]

    def groups(fused: bool | None, xs: list[Any]) -> Optimizer:
        halves = [{"params": xs[:6], "fused": fused}, {"params": xs[6:10], "fused": fused, "lr": 0.3, "maximize": True}]
        return refoptim.NAdam([*halves, {"params": xs[10:], "weight_decay": 0.2}], lr=0.05, momentum_decay=0.1)

    one, other = groups(True, params), groups(None, copies(params))
    for k in range(4):
        grads = [numbers(rng, x.shape, dtype) for x, dtype in zip(params, dtypes, strict=True)]
        step(one, other, [None if (i + k) % 5 == 0 else g for i, g in enumerate(grads)])
    assert_same_runs(one, other)


SMALLEST = {"float16": -24, "bfloat16": -133, "float32": -149, "float64": -1074}
"""The exponent of the smallest subnormal number of a storage type."""


@pytest.mark.parametrize("dtype", SMALLEST)
def test_subnormal_numbers_survive(dtype: str, threads: Any) -> None:
    """p - g and m + (g - m) / 4 of multiples of the smallest number, both of them exact, in every thread."""
    threads(4)
    kind, unit = dtype_of(dtype), 2.0 ** SMALLEST[dtype]

    def array(*multiples: int) -> Any:
        return np.array([m * unit for m in multiples] * 10_000).astype(kind)

    p = array(5, 1, -3, 1, 0, 2, 7)
    refoptim.SGD([p], lr=1.0, fused=True).step(grads=[array(1, 1, 1, -2, -1, 2, 3)])
    assert_same_bits(p, array(4, 0, -4, 3, 1, 0, 4))
    adam = refoptim.Adam([np.ones(70_000, kind)], lr=0.5, betas=(0.75, 0.5), eps=0.25, fused=True)
    adam.step(grads=[array(*(4 * m for m in range(1, 8)))])
    adam.step(grads=[array(*(m + 4 * (m - 6) for m in range(1, 8)))])
    (state,) = adam.state.values()
    assert_same_bits(state["exp_avg"], array(*(m + m - 6 for m in range(1, 8))))


def test_registers_follow_the_default_dtype() -> None:
    rng = np.random.default_rng(6)
    refoptim.set_default_dtype("float64")
    try:
        for name in ("NAdam", "ASGD"):
            one, other = pair(name, [numbers(rng, (9,), "float64")], **SETTINGS[name])
            for _ in range(4):
                step(one, other, [numbers(rng, (9,), "float64")])
            assert_same_runs(one, other)
            assert {x.dtype for x in next(iter(one.state.values())).values() if isinstance(x, np.floating)} == {
                np.dtype("float64")
            }
    finally:
        refoptim.set_default_dtype("float32")


@pytest.mark.parametrize("name", [*RULES, "SparseAdam"])
def test_state_goes_to_and_fro_between_engines(name: str) -> None:
    """Both save, and each takes up what the other saved."""
    x = normal(0, 6, 3)
    one, other = make(name, [x.copy()], fused=True), make(name, [x.copy()])
    for k in range(4):
        step(one, other, [gradient(name, k, x)])
        saved = [one.state_dict(), other.state_dict()]
        one.load_state_dict(saved[1])
        other.load_state_dict(saved[0])
        assert_same_runs(one, other, k)
        assert [o.param_groups[0]["fused"] for o in (one, other)] == [True, None]


FORK = """
import os, signal, sys
import numpy as np
import refoptim
if len(sys.argv) > 1:
    refoptim.__path__.append(sys.argv[1])
x = np.linspace(-1, 1, 100_000, dtype=np.float32)
refoptim.set_num_threads(3)
optimizer = refoptim.Adam([x], fused=True)
optimizer.step(grads=[x[::-1].copy()])
child = os.fork()
if child == 0:
    signal.alarm(30)
optimizer.step(grads=[x[::-1].copy()])
if child == 0:
    os._exit(hash(x.tobytes()) % 251)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status) == hash(x.tobytes()) % 251)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_steps_on() -> None:
    """The threads of the parent do not exist in the child, which must not wait for them."""
    where = [str(ROOT)] if str(ROOT) in refoptim.__path__ else []
    environment = os.environ | {"PYTHONPATH": str(Path(refoptim.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, *where]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True\n", done.stderr


def test_a_launch_that_stands_is_made_on_as_many_threads_as_there_are(threads: Callable[[int], None]) -> None:
    """It is written down anew only then."""
    optimizer: Any = refoptim.Adam([normal(0, 300_000)], fused=True)
    numbers_of_threads, calls = [], []
    for n in (1, 1, 3, 3, 2):
        threads(n)
        optimizer.step(grads=[normal(n, 300_000)])
        calls.append(optimizer._repeat.parts[0].standing.always[0])
        numbers_of_threads.append(calls[-1].args[1].value)
    assert numbers_of_threads == [1, 1, 3, 3, 2]
    assert [x is y for x, y in pairwise(calls)] == [True, False, True, False]


def test_a_library_shows_what_is_called_by_name() -> None:
    """What else it has is its own: the loader would let two libraries in one process share it."""
    nm = shutil.which("nm")
    if nm is None or sys.platform != "linux":
        pytest.skip("there is no nm that lists the symbols of a library")
    done = subprocess.run([nm, "-D", "--defined-only", str(host.LIBRARY)], capture_output=True, text=True, check=True)
    symbols = [line.split()[1:] for line in done.stdout.splitlines()]
    assert ["T", "refoptim_variants"] in symbols
    known = ("refoptim_", "avx512_", "avx2_", "sse2_", "baseline_")
    assert [x for x in symbols if x[0] != "T" or not x[1].startswith(known)] == []


def test_what_has_no_kernels_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is run by the reference in their place."""
    host._machine.cache_clear()
    monkeypatch.setattr(host, "LIBRARY", tmp_path / "_host.so")
    try:
        with pytest.raises(RuntimeError, match="which were not built when refoptim was installed: install a C\\+\\+"):
            refoptim.Adam([normal(0, 3)], fused=True)
        (tmp_path / "_host.so").write_text("no library")
        host._machine.cache_clear()
        with pytest.raises(RuntimeError, match="which cannot be loaded"):
            refoptim.Adam([normal(0, 3)], fused=True)
        assert host.missing()
    finally:
        host._machine.cache_clear()


def test_memory_that_is_not_there_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second bucket needs a copy, which cannot be made: the first one has not been updated then."""
    first, second = np.ones(3, np.float32), np.ones(6)[::2]
    optimizer = refoptim.Adam([first, second], lr=0.5, fused=True)

    def empty(self: Any, shape: Any, dtype: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(host.Host, "empty", empty)
    with pytest.raises(MemoryError):
        optimizer.step(grads=[np.ones(3, np.float32), np.ones(3)])
    assert first.tolist() == second.tolist() == [1, 1, 1]
    assert not optimizer.state
