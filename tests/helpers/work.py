"""Work for every kernel: each piece compares what the kernels for this computer compute with the reference.

Tests put something else in the place of those kernels: PTX that is executed, or a library built with a sanitizer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

import refoptim
from helpers.kernels import RULES, alike, assert_same_bits, assert_same_runs, misaligned, numbers, shifted, strange
from helpers.minimizers import PROBLEMS, assert_same, trajectory
from helpers.minimizers import SETTINGS as MINIMIZERS
from helpers.rooms import SETTINGS, make
from helpers.scalars import SETTINGS as OF_SCALARS
from helpers.scalars import Steps
from helpers.sums import FUNCTIONS, run
from helpers.wider import SUMMED
from refoptim import Optimizer, Parameter, SparseAdam, SparseGrad
from refoptim.clip_grad import clip_grad_norm_
from refoptim.distributed import order
from refoptim.engines import host, pure
from refoptim.engines.kernel import kernel_of
from refoptim.engines.launches import Launch, Step, Tensor
from refoptim.engines.twins import kernels_on
from refoptim.numerics import tree
from refoptim.numerics.arith import arithmetic
from refoptim.optimizers import lbfgs
from refoptim.step.rule import record, resolve, step_scalars
from refoptim.swa_utils import averages

STORAGES = ["float64", "float32", "float16", *(["bfloat16"] if find_spec("ml_dtypes") else [])]

SIZES = [0, 1, 7, 16, 33, 300]


class Piece(NamedTuple):
    """A piece of work by name; ``do`` raises AssertionError if bits differ."""

    name: str
    do: Callable[[], None]


def piece(work: Callable[..., None], *arguments: Any, **more: Any) -> Piece:
    shown = [
        work.__name__,
        *(getattr(x, "__name__", str(x)) for x in arguments),
        *(f"{k}={x}" for k, x in more.items()),
    ]
    return Piece(" ".join(shown), partial(work, *arguments, **more))


# ------------------------------------------------------------------------------------------------------- rules


def params(rng: np.random.Generator, dtype: str) -> list[Any]:
    """Draw arrays of many sizes; some begin at 16 bytes, some at one number after that, some at no number."""
    plain = [numbers(rng, (n,), dtype) for n in SIZES]
    return [*plain, shifted(numbers(rng, (89,), dtype), 1), misaligned(numbers(rng, (33,), dtype))]


def both(cls: Callable[..., Optimizer], arrays: list[Any], steps: list[list[Any]], **settings: Any) -> None:
    """Take steps with kernels and without, and compare."""
    one = cls([alike(x) for x in arrays], fused=True, **settings)
    other = cls([x.copy() for x in arrays], fused=False, **settings)
    with refoptim.rounding("store"):
        for grads in steps:
            one.step(grads=grads)
            other.step(grads=grads)
    assert_same_runs(one, other, (cls.__name__, settings))


def dense(name: str, dtype: str, **more: Any) -> None:
    """A rule with one chunk a tensor, aligned and not; NaN and the like in both steps, so that state holds them too."""
    rng = np.random.default_rng(1)
    arrays = params(rng, dtype)
    steps = [[strange(rng, numbers(rng, x.shape, dtype), dtype) for x in arrays] for _ in range(2)]
    both(getattr(refoptim, name), arrays, steps, **{**SETTINGS[name], **more})


BEGINNINGS = [(5, 0, 0), (40, 1, 1), (40, 0, 1), (40, 3, 0), (17_003, 1, 2), (16_384, 4, 4), (33, 8, 8), (16_400, 8, 3)]
"""Sizes of arrays, and how many numbers after 64 bytes the parameter and its gradient begin."""


def unaligned(name: str, dtype: str) -> None:
    """Parameters and gradients that begin anywhere; two steps, with strange numbers in the second."""
    rng = np.random.default_rng(9)
    arrays = [shifted(numbers(rng, (n,), dtype), by) for n, by, _ in BEGINNINGS]
    steps = [[numbers(rng, x.shape, dtype) for x in arrays] for _ in range(2)]
    steps[1] = [strange(rng, g, dtype) for g in steps[1]]
    steps = [[shifted(g, by) for g, (_, _, by) in zip(grads, BEGINNINGS, strict=True)] for grads in steps]
    both(getattr(refoptim, name), arrays, steps, **SETTINGS[name])


def coded(dtype: str, block_size: int, master: bool = False) -> None:
    """State in 8 bits, in blocks shorter and longer than those of threads, and too little for that; strange numbers."""
    rng = np.random.default_rng(10)
    arrays = [numbers(rng, (n,), dtype) for n in (4096, 300)]
    steps = [[numbers(rng, x.shape, dtype) for x in arrays] for _ in range(2)]
    steps[1] = [strange(rng, g, dtype) for g in steps[1]]
    settings = {**SETTINGS["Adam8bit"], "block_size": block_size}
    kept = [[Parameter(x.copy(), master=master) for x in arrays] for _ in range(2)]
    one, other = (refoptim.Adam8bit(x, fused=fused, **settings) for x, fused in zip(kept, (True, False), strict=True))
    for grads in steps:
        one.step(grads=grads)
        other.step(grads=grads)
    assert_same_runs(one, other, (dtype, block_size, master))


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


AVERAGES = {averages.EMA: {"decay": 0.7}, averages.SWA: {}, averages.LerpEMA: {"decay": 0.7}, averages.LerpSWA: {}}


def alone(rule: Any, settings: dict[str, Any], dtype: str, narrow: str = "") -> None:
    """A launch that no optimizer makes, with a rounded copy of the result in ``narrow`` storage if that is given."""
    rng = np.random.default_rng(7)
    kernel = kernel_of(rule)
    assert kernel
    g = numbers(rng, (77,), narrow or dtype)
    p, *state = (numbers(rng, (77,), dtype) for _ in range(1 + len(kernel.state)))
    state = [abs(x) for x in state]
    s = scalars(rule, settings, p.dtype)
    names = dict(zip(kernel.state, state, strict=True))
    expected = pure.run(rule, s, p, g.astype(p.dtype), names, "store")
    copy = np.zeros_like(g) if narrow else None
    Launch(host.machine(), kernel, [Tensor(p, g, tuple(state), copy)]).run(Step(s, False))
    assert_same([p, *state], [expected[0], *expected[1].values()])
    if narrow:
        assert_same_bits(copy, p.astype(g.dtype))


def scalars(rule: Any, settings: dict[str, Any], dtype: Any) -> Any:
    """Return the scalars of the third step of a rule."""
    chosen = resolve(rule, {"maximize": False, "fused": None, **settings})
    return record(step_scalars(rule, chosen, 3, {}) | {"complex": False}, dtype)


# ------------------------------------------------------------------------------------------- sums and products


def matrices(name: str, dtype: str, by: int = 0, **more: Any) -> None:
    """A rule for matrices, which begin ``by`` numbers and more after 64 bytes."""
    rng = np.random.default_rng(5)
    shapes = [(5, 7), (65, 2), (66, 65)][: 3 if more.get("ns_steps", 0) < 2 else 2]
    arrays = [rng.standard_normal(shape).astype(numbers(rng, (1,), dtype).dtype) for shape in shapes]
    if name != "Muon":
        arrays += [arrays[0][0], arrays[0][:0], rng.standard_normal((3, 4, 5)).astype(arrays[0].dtype)]
    steps = [[(x[::-1] * 0.3 - 0.1).astype(x.dtype) for x in arrays] for _ in range(2)]
    if by:
        arrays = [shifted(x, by + i) for i, x in enumerate(arrays)]
        steps = [[shifted(g, 3) for g in grads] for grads in steps]
    both(getattr(refoptim, name), arrays, steps, **{**SETTINGS[name], **more})


def summed(dtype: str, entry: str, by: int = 0) -> None:
    """Sums along axes, of arrays that begin ``by`` numbers after 64 bytes, or one more."""
    function, count = FUNCTIONS[entry]
    rng = np.random.default_rng(8)
    for shape in [(1, 2500, 1), (3, 70, 1), (2, 1100, 37), (1, 5, 18), (2, 1027, 1), (2, 1100, 16), (2, 0, 3)]:
        xs = tuple(shifted(numbers(rng, shape, dtype), by + j % 2) for j in range(count))
        (result,) = run(host.machine(), entry, dtype, [(xs, *shape)])
        assert_same_bits(result, tree.sum_along(function, *xs, axis=1).ravel(), (entry, shape))


def clipped(dtype: str, order: float, by: int = 0) -> None:
    """Norms, and clipping by them."""
    found = []
    for fused in (True, False):
        rng = np.random.default_rng(6)
        ps = []
        for n, storage in zip((0, 5, 3000, 9), [dtype, dtype, dtype, "float32"], strict=True):
            p, g = (numbers(rng, (n,), storage) for _ in range(2))
            ps.append(Parameter(p, shifted(g, by)))
        norm = clip_grad_norm_(ps, 0.5, norm_type=order, fused=fused)
        found.append([norm, *(p.grad for p in ps)])
    for one, other in zip(*found, strict=True):
        assert_same_bits(one, other, (dtype, order))


def folded(dtype: str, by: int = 0) -> None:
    """Sums of pieces, of which some wait for others, one in the arithmetic type; they begin ``by`` numbers further."""
    rng = np.random.default_rng(11)
    kinds = [dtype, dtype, arithmetic(numbers(rng, (0,), dtype).dtype).name, dtype]
    columns = [[shifted(strange(rng, numbers(rng, (n,), k), k), by) for k in kinds] for n in (0, 5, 300, 17_003)]
    for expression, count in (((2, ((0, 1), 3)), 4), ((0, 1), 2), ((0, 2), 3), (((0, 1), (1, 3)), 5), (3, 1)):
        for out in {kinds[0], kinds[2]}:
            found = []
            for machine in (host.machine(), None):
                found.append([np.zeros_like(row[0], columns[0][kinds.index(out)].dtype) for row in columns])
                with kernels_on(machine):
                    order.fold(expression, columns, found[-1], count)
            for one, other in zip(*found, strict=True):
                assert_same_bits(one, other, (dtype, out, expression))


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


# --------------------------------------------------------------------------------------------------- all of it


def counted(name: str, number: str, default: str) -> None:
    """The scalars of many steps."""
    steps = Steps(name, number, default, OF_SCALARS[name])
    for k in (1, 2, 3, 5, 6, 7, 11, 999, 123_456):
        steps.counter[0] = k - 1
        values, counter = steps.expected(steps.h)
        steps.launch(host.machine(), blocks=2)
        np.testing.assert_array_equal(steps.record, np.array(values, number), f"step {k}: {steps.kernel.record}")
        np.testing.assert_array_equal(steps.counter, counter)


def of_storage(dtype: str) -> Iterator[Piece]:
    """List the work for one storage."""
    yield from (piece(dense, name, dtype) for name in RULES)
    yield from (piece(unaligned, name, dtype) for name in RULES)
    yield from (piece(kind, name, dtype) for name in SUMMED for kind in (dense, unaligned))
    yield from (piece(coded, dtype, block_size) for block_size in (64, 1024))
    yield piece(sparse, "SparseAdam", dtype, **SETTINGS["SparseAdam"])
    yield piece(sparse, "Adagrad", dtype, lr=0.1, initial_accumulator_value=0.3)
    yield piece(sparse, "SGD", dtype, lr=0.1)
    for by in (0, 1):
        yield piece(matrices, "Adafactor", dtype, by)
        for ns_dtype in ("float32", "float64"):
            yield piece(matrices, "Muon", dtype, by, ns_dtype=ns_dtype, ns_steps=1 if dtype == ns_dtype else 2)
        yield from (piece(clipped, dtype, norm, 3 * by) for norm in (1.0, 2.0, np.inf))
        yield piece(folded, dtype, by)
        yield from (piece(summed, dtype, entry, by) for entry in FUNCTIONS)
    for rule, settings in {**AVERAGES, SparseAdam: SETTINGS["SparseAdam"]}.items():
        yield piece(alone, rule, settings, dtype)


def of_master(dtype: str) -> Iterator[Piece]:
    """List the work for master copies of one storage."""
    yield from (piece(master, name, dtype) for name in SETTINGS if getattr(refoptim, name).has_kernels)
    yield piece(coded, dtype, 256, True)
    yield piece(master, "Muon", dtype, ns_dtype="float64")
    yield piece(master, "SGD", dtype, True)
    yield piece(master, "Adagrad", dtype, True, weight_decay=0)
    for rule, settings in {**AVERAGES, SparseAdam: SETTINGS["SparseAdam"]}.items():
        yield piece(alone, rule, settings, "float32", dtype)


def pieces() -> Iterator[Piece]:
    """List all work."""
    for dtype in STORAGES:
        yield from of_storage(dtype)
    for dtype in STORAGES[2:]:
        yield from of_master(dtype)
    yield from (piece(dense, name, "complex64") for name in RULES)
    yield from (piece(dense, name, "float32", weight_decay=0.0) for name in ("Adam", "Adamax"))
    for narrow in (False, True):
        yield from (piece(minimized, next(iter(PROBLEMS)), narrow, *minimizer) for minimizer in MINIMIZERS)
    for dtype in ("float32", "float64"):
        yield piece(direction, dtype)
        for default in ("float32", "float64"):
            yield from (piece(counted, name, dtype, default) for name in OF_SCALARS)
    yield piece(chunks)
