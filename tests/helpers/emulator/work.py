"""Work for every kernel: each piece compares what the kernels of an emulator compute with the reference.

``python work.py LIBRARY BLOCKS THREADS`` does all of it, and ``python work.py LIBRARY BLOCKS THREADS broken_…`` runs a
kernel that holds a mistake: for libraries that were built with a sanitizer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

import conftest  # noqa: F401
import refoptim
from helpers.emulator.emulator import Emulator
from helpers.kernels import RULES, assert_same_bits, assert_same_runs, misaligned, numbers, strange
from helpers.minimizers import PROBLEMS, assert_same, trajectory
from helpers.minimizers import SETTINGS as MINIMIZERS
from helpers.rooms import SETTINGS, make
from helpers.scalars import SETTINGS as OF_SCALARS
from helpers.scalars import Steps
from helpers.sums import FUNCTIONS, run
from refoptim import Optimizer, Parameter, SparseAdam, SparseGrad
from refoptim.clip_grad import clip_grad_norm_
from refoptim.engines import host, pure
from refoptim.engines.kernel import kernel_of
from refoptim.engines.launches import Launch, Step, Tensor
from refoptim.engines.twins import kernels_on
from refoptim.numerics import tree
from refoptim.optimizers import lbfgs
from refoptim.step.rule import record, resolve, step_scalars
from refoptim.swa_utils import averages

STORAGES = ["float64", "float32", "float16", *(["bfloat16"] if find_spec("ml_dtypes") else []), "complex64"]

SIZES = [0, 1, 7, 16, 33, 300]


def params(rng: np.random.Generator, dtype: str) -> list[Any]:
    """Draw arrays of many sizes; some begin at 16 bytes, some at one number after that, some at no number."""
    plain = [numbers(rng, (n,), dtype) for n in SIZES]
    return [*plain, numbers(rng, (90,), dtype)[1:], misaligned(numbers(rng, (33,), dtype))]


def both(cls: Callable[..., Optimizer], arrays: list[Any], steps: list[list[Any]], **settings: Any) -> None:
    """Take steps with kernels and without, and compare."""
    one = cls([x.copy() if x.flags.aligned else misaligned(x) for x in arrays], fused=True, **settings)
    other = cls([x.copy() for x in arrays], fused=False, **settings)
    with refoptim.rounding("store"):
        for grads in steps:
            one.step(grads=grads)
            other.step(grads=grads)
    assert_same_runs(one, other, (cls.__name__, settings))


def dense(name: str, dtype: str, **more: Any) -> None:
    """A rule with one chunk a tensor, aligned and not."""
    rng = np.random.default_rng(1)
    arrays = params(rng, dtype)
    steps = [[numbers(rng, x.shape, dtype) for x in arrays] for _ in range(2)]
    steps[1] = [strange(rng, g, dtype) for g in steps[1]]
    both(getattr(refoptim, name), arrays, steps, **{**SETTINGS[name], **more})


def chunks() -> None:
    """Several chunks a tensor."""
    rng = np.random.default_rng(2)
    both(refoptim.SGD, [numbers(rng, (40_003,), "float32")], [[numbers(rng, (40_003,), "float32")]], lr=0.1)


def sparse(name: str, dtype: str, **more: Any) -> None:
    """Rows, some of them several times."""
    rng = np.random.default_rng(3)
    rows = rng.integers(0, 20, 50)
    steps = [[SparseGrad([rows], numbers(rng, (50, 7), dtype), (20, 7))] for _ in range(2)]
    both(getattr(refoptim, name), [numbers(rng, (20, 7), dtype)], steps, **more)


def master(name: str, dtype: str, rows: bool = False, **more: Any) -> None:
    """A float32 copy of 16-bit parameters."""
    rng = np.random.default_rng(4)
    found = []
    shapes = [(9, 5), (6, 40)]
    arrays = [numbers(rng, shape, dtype) for shape in shapes]
    grads = [numbers(rng, shape, dtype) for shape in shapes]
    if rows or name == "SparseAdam":
        grads = [SparseGrad([[3, 0, 3]], g[[3, 0, 3]], g.shape) for g in grads]
    more |= {"momentum": 0, "dampening": 0, "weight_decay": 0} if rows and name == "SGD" else {}
    for fused in (True, False):
        found.append(make(name, [Parameter(x.copy(), master=True) for x in arrays], fused=fused, **more))
        with refoptim.rounding("store"):
            found[-1].step(grads=grads)
    assert_same_runs(*found, (name, dtype))


def matrices(name: str, dtype: str, **more: Any) -> None:
    """A rule for matrices."""
    rng = np.random.default_rng(5)
    arrays = [
        rng.standard_normal(shape).astype(numbers(rng, (1,), dtype).dtype)
        for shape in [(5, 7), (65, 2), (66, 65)][: 3 if more.get("ns_steps", 0) < 2 else 2]
    ]
    arrays += (
        [] if name == "Muon" else [arrays[0][0], arrays[0][:0], rng.standard_normal((3, 4, 5)).astype(arrays[0].dtype)]
    )
    steps = [[(x[::-1] * 0.3 - 0.1).astype(x.dtype) for x in arrays] for _ in range(2)]
    both(getattr(refoptim, name), arrays, steps, **{**SETTINGS[name], **more})


def minimized(problem: str, narrow: bool, cls: Any, more: dict[str, Any]) -> None:
    """A minimizer of a function."""
    function, start = PROBLEMS[problem]
    if narrow:
        start = start.astype(np.complex64 if start.dtype.kind == "c" else np.float32)
    one, other = (trajectory(cls, start, function, fused=fused, **{"max_iter": 3, **more}) for fused in (True, None))
    assert_same_bits(one[0], other[0], (problem, cls, more))
    assert_same([*one[1].values()], [*other[1].values()])


def direction(dtype: str) -> None:
    """The direction of L-BFGS where nothing is remembered."""
    g = np.linspace(-1, 2, 1100).astype(dtype)
    with kernels_on(host.machine()):
        found = lbfgs.descend(g, [], [], [], g.dtype.type(0.3))
    assert_same(found, lbfgs.descend(g, [], [], [], g.dtype.type(0.3)))


def summed(machine: Emulator, dtype: str, entry: str) -> None:
    """Sums along axes."""
    function, count = FUNCTIONS[entry]
    rng = np.random.default_rng(8)
    for shape in [(1, 2500, 1), (3, 70, 1), (2, 1100, 37), (1, 5, 18), (2, 0, 3)]:
        xs = tuple(numbers(rng, shape, dtype) for _ in range(count))
        (result,) = run(machine, entry, dtype, [(xs, *shape)])
        assert_same_bits(result, tree.sum_along(function, *xs, axis=1).ravel(), (entry, shape))


def clipped(dtype: str, order: float) -> None:
    """Norms, and clipping by them."""
    found = []
    for fused in (True, False):
        rng = np.random.default_rng(6)
        dtypes = [dtype, dtype, dtype, "float32"]
        ps = [
            Parameter(*(numbers(rng, (n,), x) for _ in range(2))) for n, x in zip((0, 5, 3000, 9), dtypes, strict=True)
        ]
        norm = clip_grad_norm_(ps, 0.5, norm_type=order, fused=fused)
        found.append([norm, *(p.grad for p in ps)])
    for one, other in zip(*found, strict=True):
        assert_same_bits(one, other, (dtype, order))


def counted(machine: Emulator, name: str, number: str, default: str) -> None:
    """The scalars of a step; only their rounding to float32 is that of Python's powers."""
    steps = Steps(name, number, default, OF_SCALARS[name])
    for _ in range(3):
        values, counter = steps.expected(steps.h)
        steps.launch(machine, blocks=2)
        np.testing.assert_allclose(steps.record, np.array(values, number), 4e-16 if number == "float64" else 2e-7)
        np.testing.assert_allclose(steps.counter, counter, 2e-7)


AVERAGES = {averages.EMA: {"decay": 0.7}, averages.SWA: {}, averages.LerpEMA: {"decay": 0.7}, averages.LerpSWA: {}}


def alone(machine: Emulator, rule: Any, settings: dict[str, Any], dtype: str, narrow: str = "") -> None:
    """A launch that no optimizer makes, with a rounded copy of the result in ``narrow`` storage if that is given."""
    rng = np.random.default_rng(7)
    kernel = kernel_of(rule)
    assert kernel
    g = numbers(rng, (77,), narrow or dtype)
    p, *state = (numbers(rng, (77,), dtype) for _ in range(1 + len(kernel.state)))
    state = [abs(x) for x in state]
    s = record(
        step_scalars(rule, resolve(rule, {"maximize": False, "fused": None, **settings}), 3, {}) | {"complex": False},
        p.dtype,
    )
    names = dict(zip(kernel.state, state, strict=True))
    expected = pure.run(rule, s, p, g.astype(p.dtype), names, "store")
    copy = np.zeros_like(g) if narrow else None
    Launch(machine, kernel, [Tensor(p, g, tuple(state), copy)]).run(Step(s, False))
    assert_same([p, *state], [expected[0], *expected[1].values()])
    if narrow:
        assert_same_bits(copy, p.astype(g.dtype))


def pieces(machine: Emulator) -> Iterator[tuple[Callable[..., None], tuple[Any, ...], dict[str, Any]]]:
    """List all work."""
    for dtype in STORAGES:
        for name in RULES:
            yield dense, (name, dtype), {}
        if dtype == "complex64":
            continue
        yield sparse, ("SparseAdam", dtype), SETTINGS["SparseAdam"]
        yield sparse, ("Adagrad", dtype), dict(lr=0.1, initial_accumulator_value=0.3)
        yield sparse, ("SGD", dtype), dict(lr=0.1)
        yield matrices, ("Adafactor", dtype), {}
        for ns_dtype in ("float32", "float64"):
            yield matrices, ("Muon", dtype), dict(ns_dtype=ns_dtype, ns_steps=1 if dtype == ns_dtype else 2)
        for order in (1.0, 2.0, np.inf):
            yield clipped, (dtype, order), {}
        for rule, settings in {**AVERAGES, SparseAdam: SETTINGS["SparseAdam"]}.items():
            yield alone, (machine, rule, settings, dtype), {}
        for entry in FUNCTIONS:
            yield summed, (machine, dtype, entry), {}
    for dtype in STORAGES[2:-1]:
        for name in SETTINGS:
            yield master, (name, dtype), {}
        yield master, ("Muon", dtype), dict(ns_dtype="float64")
        yield master, ("SGD", dtype, True), {}
        yield master, ("Adagrad", dtype, True), dict(weight_decay=0)
        for rule, settings in {**AVERAGES, SparseAdam: SETTINGS["SparseAdam"]}.items():
            yield alone, (machine, rule, settings, "float32", dtype), {}
    for narrow in (False, True):
        for problem in [*PROBLEMS][:1]:
            for minimizer, settings in MINIMIZERS:
                yield minimized, (problem, narrow, minimizer, settings), {}
    for dtype in ("float32", "float64"):
        yield direction, (dtype,), {}
        for name in OF_SCALARS:
            for default in ("float32", "float64"):
                yield counted, (machine, name, dtype, default), {}
    yield chunks, (), {}


def do(machine: Emulator) -> set[str]:
    """Do all work and return the names of the kernels that ran."""
    with machine.in_place(), np.errstate(all="ignore"):
        for work, arguments, more in pieces(machine):
            work(*arguments, **more)
    return machine.launched


def beyond(machine: Emulator) -> None:
    """A launch whose table says of an array that it has one number more than it has."""
    kernel = kernel_of(refoptim.SGD)
    assert kernel
    p, g = np.zeros(50, np.float32), np.ones(50, np.float32)
    launch = Launch(machine, kernel, [Tensor(p, g, (None,), None)])
    launch.tables[0] += 1
    s = record(step_scalars(refoptim.SGD, resolve(refoptim.SGD, refoptim.SGD([p]).param_groups[0]), 1, {}), p.dtype)
    launch.run(Step(s, False))


def main(library: str, blocks: str, threads: str, broken: str = "") -> None:
    """Do all work, or run something that is broken."""
    machine = Emulator(Path(library), int(blocks), int(threads))
    if broken == "beyond":
        beyond(machine)
    elif broken == "sums":
        summed(machine, "float32", "sums")
    elif broken:
        machine.launch("broken", broken, machine.blocks, np.zeros(8, np.int64), np.int64(8 if machine.size < 8 else 2))
    else:
        do(machine)
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
