"""What may not change a bit: splitting, order, chunks, threads, layout, packing, and saving and loading on the way."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import refoptim
from helpers.oracle import DENSE, Hyper, assert_same_bits, draw, gradient
from refoptim import SparseGrad
from refoptim.engines import blocks, threads
from refoptim.numerics import tree
from refoptim.numerics.arith import as_reals

STEPS = 5
ELEMENTWISE = [*DENSE, "SparseAdam"]
MEASURED: dict[str, Hyper] = {
    "Adafactor": dict(lr=0.2, beta2_decay=-0.7, eps=(None, 0.02), d=1.3, weight_decay=0.05, maximize=True),
    "Muon": dict(lr=0.05, weight_decay=0.3, momentum=0.7, ns_steps=2, adjust_lr_fn="match_rms_adamw", maximize=True),
}
REALS = ["float64", "float32", "float16", "bfloat16"]
NEEDS_ML_DTYPES = pytest.mark.skipif(not find_spec("ml_dtypes"), reason="bfloat16 arrays need ml_dtypes")

Frame = list[dict[str, Any]]
"""What an optimizer holds: of each parameter the value and the state, by name."""


def cases(names: Sequence[str]) -> Any:
    """Run a test for optimizers of the given names in every dtype they take; always a third of these."""
    pairs = [(name, dtype) for name in names for dtype in REALS]
    pairs += [(name, "complex64") for name in names if name in DENSE]
    marked = [pytest.param(*pair, marks=NEEDS_ML_DTYPES) if pair[1] == "bfloat16" else pair for pair in pairs]
    every = pytest.mark.parametrize(("name", "dtype"), marked)
    return lambda test: pytest.mark.sweep(3)(every(test))


def drawn(examples: int = 3, **strategies: Any) -> Callable[[Any], Any]:
    """Run a test on a few drawn examples, among them a configuration of the optimizer and a seed of its numbers."""
    few = settings(derandomize=True, max_examples=examples, deadline=None, phases=[Phase.generate])
    return lambda test: few(given(i=st.integers(0, 7), seed=st.integers(0, 1 << 30), **strategies)(test))


def configuration(name: str, dtype: str, i: int) -> Hyper:
    return MEASURED[name] if name in MEASURED else draw(name, dtype, i)


def shapes_of(name: str) -> list[tuple[int, ...]]:
    """Return shapes that an optimizer takes."""
    if name == "Muon":
        return [(3, 4), (5, 2), (1, 7), (6, 6)]
    return [(5,), (3, 4), (0, 3), (17,), (1, 2, 3), *([] if name == "SparseAdam" else [()])]


def numbers(name: str, rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    """Draw numbers of all magnitudes, zeros and subnormals; where they stay in their element, infinities and NaNs."""
    x = gradient(rng, shape, dtype)
    if name not in MEASURED:
        reals = as_reals(np.atleast_1d(x)).reshape(-1)
        reals[rng.random(reals.size) < 0.06] = rng.choice([np.inf, -np.inf, np.nan])
    return x


def trial(name: str, dtype: str, seed: int, shapes: Sequence[tuple[int, ...]]) -> tuple[list[Any], list[list[Any]]]:
    """Draw parameters and the gradients of STEPS steps."""
    rng = np.random.default_rng(seed)
    starts = [numbers(name, rng, shape, dtype) for shape in shapes]
    return starts, [[numbers(name, rng, shape, dtype) for shape in shapes] for _ in range(STEPS)]


def given_as(name: str, g: Any) -> Any:
    """Return a gradient in the form in which an optimizer takes it: sparse, zeros left out, or as it is."""
    if name != "SparseAdam" or g is None:
        return g
    return SparseGrad(np.stack(np.nonzero(g)), g[np.nonzero(g)], g.shape)


def frame(optimizer: Any) -> Frame:
    members = [p for group in optimizer.param_groups for p in group["params"]]
    return [{"value": p.data, **optimizer.state.get(p, {})} for p in members]


def take_steps(name: str, optimizer: Any, steps: Sequence[Sequence[Any]]) -> Frame:
    for grads in steps:
        optimizer.step(grads=[given_as(name, g) for g in grads])
    return frame(optimizer)


def run(name: str, hyper: Hyper, arrays: Sequence[Any], steps: Sequence[Sequence[Any]]) -> Frame:
    """Return the frame after some steps on copies of the arrays."""
    return take_steps(name, getattr(refoptim, name)([np.array(x) for x in arrays], **hyper), steps)


def assert_same_frames(one: Frame, other: Frame) -> None:
    assert len(one) == len(other)
    for i, (a, b) in enumerate(zip(one, other, strict=True)):
        assert a.keys() == b.keys()
        for key, x in a.items():
            assert_same_bits(x, b[key], f"parameter {i}, {key}")


@contextmanager
def engine(chunk: int | None = None, n: int = 1) -> Iterator[None]:
    """Cut arrays into chunks of a size, and let ``n`` threads work on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(threads.setting, "threads", n)
        for module in (blocks, tree) if chunk is not None else ():
            patch.setattr(module, "CHUNK", chunk)
        yield


@cases(ELEMENTWISE)
@drawn(cuts=st.lists(st.integers(0, 61), max_size=6).map(sorted))
def test_splitting_a_tensor(name: str, dtype: str, i: int, seed: int, cuts: list[int]) -> None:
    hyper = configuration(name, dtype, i)
    (start,), steps = trial(name, dtype, seed, [(61,)])
    (whole,) = run(name, hyper, [start], steps)
    parts = run(name, hyper, np.split(start, cuts), [np.split(g, cuts) for (g,) in steps])
    for key, x in whole.items():
        if np.ndim(x):
            assert_same_bits(np.concatenate([part[key] for part in parts]), x, key)
        for part in [] if np.ndim(x) else parts:
            assert_same_bits(part[key], x, key)


@cases([*ELEMENTWISE, *MEASURED])
@drawn(shuffle=st.randoms(use_true_random=False))
def test_reordering_groups_and_parameters(name: str, dtype: str, i: int, seed: int, shuffle: Any) -> None:
    """Every third parameter has settings of its own, and gradients are missing here and there."""
    hyper = configuration(name, dtype, i)
    starts, steps = trial(name, dtype, seed, shapes_of(name))
    steps = [[None if (j * 7 + k * 3 + seed) % 5 == 0 else g for j, g in enumerate(g)] for k, g in enumerate(steps)]

    def build(arrangement: list[list[int]]) -> Frame:
        arrays = [np.array(x) for x in starts]
        groups = [{"params": [arrays[j] for j in g], "lr": hyper["lr"] * (1 + g[0] % 3)} for g in arrangement]
        order = [j for g in arrangement for j in g]
        out = take_steps(name, getattr(refoptim, name)(groups, **hyper), [[g[j] for j in order] for g in steps])
        return [out[order.index(j)] for j in range(len(order))]

    arrangement = [list(range(k, len(starts), 3)) for k in range(3)]
    shuffled = deepcopy(arrangement)
    for members in (*shuffled, shuffled):
        shuffle.shuffle(members)
    lrs = {j: g[0] % 3 for g in arrangement for j in g}
    assert all(lrs[j] == g[0] % 3 for g in shuffled for j in g)
    assert_same_frames(build(shuffled), build(arrangement))


@cases([*ELEMENTWISE, *MEASURED])
@drawn(chunk=st.sampled_from([1, 2, 3, 7, 64, 1000, 1 << 20]), mode=st.sampled_from(["each", "store"]))
def test_chunks(name: str, dtype: str, i: int, seed: int, chunk: int, mode: str) -> None:
    hyper = configuration(name, dtype, i)
    large = {"Muon": [(13, 31)], "Adafactor": [(1, 2, 1030), (1030, 2), (2051,)]}.get(name, [(101,), (9, 11)])
    starts, steps = trial(name, dtype, seed, [*shapes_of(name) * (1 if name in MEASURED else 3), *large])
    steps = steps[:2] if name in MEASURED else steps
    with refoptim.rounding(mode):
        expected = run(name, hyper, starts, steps)
        with engine(chunk=chunk * (40 if name in MEASURED else 1)):
            assert_same_frames(run(name, hyper, starts, steps), expected)


@cases([*ELEMENTWISE, *MEASURED])
@drawn(examples=2, n=st.integers(2, 5))
def test_threads(name: str, dtype: str, i: int, seed: int, n: int) -> None:
    hyper = configuration(name, dtype, i)
    starts, steps = trial(name, dtype, seed, [(23, 51), (13, 40)])
    with engine(chunk=100):
        expected = run(name, hyper, starts, steps)
    with engine(chunk=100, n=n):
        assert_same_frames(run(name, hyper, starts, steps), expected)


@pytest.mark.parametrize(("name", "dtype"), [("AdamW", "float32"), ("NAdam", "complex64"), ("Adafactor", "float64")])
def test_threads_on_large_arrays(name: str, dtype: str) -> None:
    hyper = configuration(name, dtype, 3)
    starts, steps = trial(name, dtype, 5, [(7, blocks.CHUNK + 13), (3, 5)])
    with engine(n=1):
        expected = run(name, hyper, starts, steps)
    with engine(n=3):
        assert_same_frames(run(name, hyper, starts, steps), expected)
    assert len(threads._crews[0].members) >= 3, "no threads were used"


def _sliced(x: Any) -> Any:
    base = np.full([2 * n + 2 for n in x.shape], 7, x.dtype)
    view = base[tuple(slice(1, 2 * n + 1, 2) for n in x.shape)]
    view[...] = x
    return view


def _backwards(x: Any) -> Any:
    turn = (slice(None, None, -1),) * x.ndim
    return np.array(x[turn])[turn]


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "C": np.array,
    "Fortran": lambda x: np.array(x, order="F"),
    "rolled axes": lambda x: np.moveaxis(np.array(np.moveaxis(x, 0, -1), order="C"), -1, 0),
    "sliced": _sliced,
    "backwards": _backwards,
    "backwards in Fortran order": lambda x: _backwards(x.T).T,
    "sliced in Fortran order": lambda x: _sliced(x.T).T,
}
"""Copies of an array that lie in memory in another way."""

LAYOUT = st.sampled_from(sorted(LAYOUTS))


@cases([*ELEMENTWISE, *MEASURED])
@drawn(examples=5, layouts=st.tuples(LAYOUT, LAYOUT, LAYOUT), chunk=st.sampled_from([10, None]))
def test_strides(name: str, dtype: str, i: int, seed: int, layouts: tuple[str, ...], chunk: int | None) -> None:
    """The parameter, its gradients and its state each lie in memory in their own way."""
    of_p, of_g, of_state = (LAYOUTS[layout] for layout in layouts)
    hyper = configuration(name, dtype, i)
    (start,), steps = trial(name, dtype, seed, [(5, 6) if name == "Muon" else (4, 3, 5)])
    p = of_p(start)
    with engine(chunk=chunk):
        expected = run(name, hyper, [start], steps)
        optimizer = getattr(refoptim, name)([p], **hyper)
        take_steps(name, optimizer, steps[:2])
        for state in optimizer.state.values():
            state.update({key: of_state(x) for key, x in state.items() if np.ndim(x)})
        assert_same_frames(take_steps(name, optimizer, [[of_g(g)] for (g,) in steps[2:]]), expected)
    assert frame(optimizer)[0]["value"] is p
    if "sliced" in layouts[0]:
        p[...] = 7
        assert np.all(p.base == 7), "a step wrote outside its parameter"


@cases([*DENSE, *MEASURED])
@drawn(examples=1)
def test_broadcast_gradients(name: str, dtype: str, i: int, seed: int) -> None:
    hyper = configuration(name, dtype, i)
    (start,), steps = trial(name, dtype, seed, [(4, 5)])
    spread = [[np.broadcast_to(g[:, :1], g.shape)] for (g,) in steps]
    assert_same_frames(run(name, hyper, [start], spread), run(name, hyper, [start], [[np.array(g)] for (g,) in spread]))


@cases([*DENSE, *MEASURED])
@drawn()
def test_foreach(name: str, dtype: str, i: int, seed: int) -> None:
    hyper = configuration(name, dtype, i)
    starts, steps = trial(name, dtype, seed, shapes_of(name) * 2)
    steps[1][2] = steps[3][0] = None
    one_by_one = run(name, hyper | {"foreach": False}, starts, steps)
    for foreach in (None, True):
        assert_same_frames(run(name, hyper | {"foreach": foreach}, starts, steps), one_by_one)


def through_json(saved: Any) -> Any:
    return json.loads(json.dumps(saved, default=lambda x: x.tolist()))


def through_npz(saved: Any) -> Any:
    """Write the arrays under the names ``id/name``, and the groups as text."""
    file = BytesIO()
    arrays = {f"{i}/{name}": x for i, values in saved["state"].items() for name, x in values.items()}
    np.savez(file, groups=json.dumps(saved["param_groups"], default=lambda x: x.tolist()), **arrays)
    file.seek(0)
    state: dict[int, dict[str, Any]] = {}
    with np.load(file, allow_pickle=False) as read:
        for key in set(read.files) - {"groups"}:
            i, _, name = key.partition("/")
            state.setdefault(int(i), {})[name] = read[key]
        return {"state": state, "param_groups": json.loads(str(read["groups"]))}


TRANSPORTS: dict[str, Callable[[Any], Any]] = {
    "directly": lambda saved: saved,
    "json": through_json,
    "npz": through_npz,
    "pickle": lambda saved: pickle.loads(pickle.dumps(saved)),
}


@cases([*ELEMENTWISE, *MEASURED])
@pytest.mark.parametrize("way", TRANSPORTS)
@drawn(k=st.sampled_from([2, 0, 1, 3, 4]), shuffle=st.randoms(use_true_random=False), named=st.booleans())
def test_saving_and_loading(
    name: str, dtype: str, way: str, i: int, seed: int, k: int, shuffle: Any, named: bool
) -> None:
    """The new optimizer has other settings, and its parameters another order where they are named."""
    if way == "json" and dtype == "complex64":
        pytest.skip("JSON has no complex numbers")
    hyper = configuration(name, dtype, i)
    hyper["lr"] = np.array(hyper["lr"]) if seed % 2 else hyper["lr"]
    starts, steps = trial(name, dtype, seed, shapes_of(name))
    steps[0][1] = steps[2][0] = None
    expected = run(name, hyper, starts, steps)

    names = [f"weight {j}" for j in range(len(starts))]
    first = getattr(refoptim, name)(list(zip(names, map(np.array, starts), strict=True)) if named else starts, **hyper)
    values = [np.array(member["value"]) for member in take_steps(name, first, steps[:k])]
    saved = TRANSPORTS[way](first.state_dict())
    take_steps(name, first, steps[k:])

    order = list(range(len(starts)))
    if named:
        shuffle.shuffle(order)
    members = [(names[j], values[j]) if named else values[j] for j in order]
    second = getattr(refoptim, name)(members)
    second.load_state_dict(saved)
    out = take_steps(name, second, [[g[j] for j in order] for g in steps[k:]])
    assert_same_frames([out[order.index(j)] for j in range(len(order))], expected)
    assert_same_frames(frame(first), expected)


@cases([*ELEMENTWISE, *MEASURED])
@drawn(examples=1, k=st.integers(1, STEPS - 1))
def test_pickled_and_copied_optimizers(name: str, dtype: str, i: int, seed: int, k: int) -> None:
    hyper = configuration(name, dtype, i)
    starts, steps = trial(name, dtype, seed, shapes_of(name))
    expected = run(name, hyper, starts, steps)
    optimizer = getattr(refoptim, name)(starts, **hyper)
    take_steps(name, optimizer, steps[:k])
    for copied in (pickle.loads(pickle.dumps(optimizer)), deepcopy(optimizer)):
        assert_same_frames(take_steps(name, copied, steps[k:]), expected)
    assert_same_frames(take_steps(name, optimizer, steps[k:]), expected)
