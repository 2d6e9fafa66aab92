"""How the reference engine treats storage, memory and the process: roundings, layouts, flags, forks, subnormals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refoptim.conformance.gradients import np_dtype

import refoptim
from helpers.oracle import DENSE, Hyper, assert_same_bits, draw, gradient, normals, stored
from refoptim.engines import blocks, reference, threads
from refoptim.engines.program import trace
from refoptim.numerics import arith

STEPS = 12
NEEDS_ML_DTYPES = pytest.mark.skipif(not find_spec("ml_dtypes"), reason="bfloat16 arrays need ml_dtypes")
NARROW = ["float16", pytest.param("bfloat16", marks=NEEDS_ML_DTYPES)]
MEASURED: dict[str, Hyper] = {
    "Adafactor": dict(lr=0.2, beta2_decay=-0.7, eps=(1e-3, 0.02), d=1.3, weight_decay=0.05, maximize=True),
    "Muon": dict(lr=0.05, weight_decay=0.3, momentum=0.7, ns_steps=2, adjust_lr_fn="match_rms_adamw", maximize=True),
}

f32 = np.float32


@contextmanager
def chunks_of(n: int, workers: int = 1) -> Iterator[None]:
    """Cut arrays into blocks of ``n`` elements, and let some threads work on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "CHUNK", n)
        patch.setitem(threads.setting, "threads", workers)
        yield


def frame(optimizer: Any) -> list[dict[str, Any]]:
    """Return what an optimizer holds, value and state of each parameter."""
    members = [p for group in optimizer.param_groups for p in group["params"]]
    return [{"value": p.data, **optimizer.state.get(p, {})} for p in members]


def assert_same(ours: Any, expected: Any) -> None:
    for i, (one, other) in enumerate(zip(frame(ours), frame(expected), strict=True)):
        for key, x in other.items():
            assert_same_bits(one[key], x, f"parameter {i}, {key}")


def sgd(p: Any, g: Any, s: dict[str, Any], k: int) -> Any:
    g = g + f32(0.1) * p
    s["momentum_buffer"] = g if k == 1 else s["momentum_buffer"] * f32(0.9) + f32(1 - 0.3) * g
    return p - f32(0.05) * s["momentum_buffer"]


def adamw(p: Any, g: Any, s: dict[str, Any], k: int) -> Any:
    p = p * f32(1 - 0.01 * 0.2)
    s["exp_avg"] = s["exp_avg"] + f32(1 - 0.8) * (g - s["exp_avg"])
    s["exp_avg_sq"] = s["exp_avg_sq"] * f32(0.95) + f32(1 - 0.95) * g * g
    s["max_exp_avg_sq"] = np.maximum(s["max_exp_avg_sq"], s["exp_avg_sq"])
    denom = np.sqrt(s["max_exp_avg_sq"]) / f32((1 - 0.95**k) ** 0.5) + f32(1e-3)
    return p - f32(0.01 / (1 - 0.8**k)) * s["exp_avg"] / denom


def rmsprop(p: Any, g: Any, s: dict[str, Any], k: int) -> Any:
    g = -g + f32(0.1) * p
    s["square_avg"] = s["square_avg"] * f32(0.9) + f32(1 - 0.9) * g * g
    avg = np.sqrt(s["square_avg"]) + f32(1e-2)
    s["momentum_buffer"] = s["momentum_buffer"] * f32(0.7) + g / avg
    return p - f32(0.03) * s["momentum_buffer"]


def rprop(p: Any, g: Any, s: dict[str, Any], k: int) -> Any:
    turn = np.sign(g * s["prev"])
    grown = s["step_size"] * np.choose((turn + 1).astype(int), [f32(0.4), f32(1), f32(1.3)])
    s["step_size"] = np.clip(grown, f32(1e-3), f32(0.2))
    s["prev"] = np.where(turn < 0, f32(0), g)
    return p - np.sign(s["prev"]) * s["step_size"]


Formula = Callable[[Any, Any, dict[str, Any], int], Any]

FORMULAS: dict[str, tuple[Formula, Hyper]] = {
    "SGD": (sgd, dict(lr=0.05, momentum=0.9, dampening=0.3, weight_decay=0.1)),
    "AdamW": (adamw, dict(lr=0.01, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.2, amsgrad=True)),
    "RMSprop": (rmsprop, dict(lr=0.03, alpha=0.9, eps=1e-2, weight_decay=0.1, momentum=0.7, maximize=True)),
    "Rprop": (rprop, dict(lr=0.05, etas=(0.4, 1.3), step_sizes=(1e-3, 0.2))),
}
"""Updates written out in float32, with the settings they hold."""


@pytest.mark.parametrize("chunk", [16, 1 << 14])
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", FORMULAS)
def test_store_rounds_a_float32_update_once(name: str, dtype: str, chunk: int) -> None:
    formula, hyper = FORMULAS[name]
    (p,) = normals(dtype, 3, [(101,)])
    optimizer = getattr(refoptim, name)([p.copy()], **hyper)
    state: dict[str, Any] = {key: np.zeros_like(p) for key in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")}
    state |= {key: np.zeros_like(p) for key in ("square_avg", "momentum_buffer", "prev")}
    state["step_size"] = np.full_like(p, 0.05)
    rng = np.random.default_rng(5)
    for k in range(1, STEPS + 1):
        g = gradient(rng, p.shape, dtype)
        wide = {key: x.astype(f32) for key, x in state.items()}
        p = formula(p.astype(f32), g.astype(f32), wide, k).astype(p.dtype)
        state = {key: x.astype(p.dtype) for key, x in wide.items()}
        with refoptim.rounding("store"), chunks_of(chunk):
            optimizer.step(grads=[g])
        (kept,) = frame(optimizer)
        assert_same_bits(kept.pop("value"), p, f"step {k}")
        for key in kept.keys() - {"step"}:
            assert_same_bits(kept[key], state[key], f"step {k}, {key}")


EXACT_STARTS: dict[str, Hyper] = {"Adagrad": {"initial_accumulator_value": 0.75}, "Rprop": {"lr": 0.0625}}
"""Settings with which state begins, as numbers that every storage type holds."""


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", DENSE)
def test_store_is_torch_in_float32_rounded_once(name: str, dtype: str) -> None:
    """torch runs in float32; after each step its parameters and state arrays are rounded to the storage."""
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    from refoptim.conformance.oracle import ieee

    narrow = torch.float16 if dtype == "float16" else torch.bfloat16
    for i in (3, 6):
        hyper, rng = draw(name, dtype, i) | EXACT_STARTS.get(name, {}), np.random.default_rng(i)
        (p,) = normals(dtype, 3, [(67,)])
        tensor = torch.tensor(p.astype(f32))
        ours, theirs = getattr(refoptim, name)([p], **hyper), getattr(torch.optim, name)([tensor], **hyper)
        for k in range(1, STEPS + 1):
            g = gradient(rng, p.shape, dtype)
            tensor.grad = torch.tensor(g.astype(f32))
            with ieee(), np.errstate(invalid="ignore"):
                theirs.step()
            held = {"value": tensor} | {key: x for key, x in theirs.state[tensor].items() if x is not None and x.ndim}
            for x in held.values():
                x.copy_(x.to(narrow).to(torch.float32))
            with refoptim.rounding("store"), chunks_of(16 if i == 3 else 1 << 14):
                ours.step(grads=[g])
            (kept,) = frame(ours)
            for key, x in held.items():
                assert_same_bits(kept[key].astype(f32), x.numpy(), f"{name}({hyper}), step {k}, {key}")
        assert np.isfinite(tensor.numpy()).mean() > 0.5


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize("name", [*DENSE, *MEASURED])
def test_each_and_store_coincide_where_storage_is_arithmetic(name: str, dtype: str) -> None:
    if dtype == "complex64" and name in MEASURED:
        pytest.skip(f"{name} takes no complex parameters")
    hyper = MEASURED[name] if name in MEASURED else draw(name, dtype, 5)
    starts = normals(dtype, 3, [(9, 7), (4, 5)])
    one, other = (getattr(refoptim, name)([x.copy() for x in starts], **hyper) for _ in range(2))
    rng = np.random.default_rng(2)
    for _ in range(STEPS):
        grads = [gradient(rng, x.shape, dtype) for x in starts]
        one.step(grads=grads)
        with refoptim.rounding("store"):
            other.step(grads=grads)
    assert_same(one, other)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", DENSE)
def test_each_and_store_differ_on_16_bit_storage(name: str, dtype: str) -> None:
    """If they did not, the tests above would show nothing. Rprop's words are exact but for one."""
    (start,) = normals(dtype, 3, [(4000,)])
    outcomes = []
    for mode in ("each", "store"):
        optimizer = getattr(refoptim, name)([start.copy()], **draw(name, dtype, 3))
        rng = np.random.default_rng(2)
        with refoptim.rounding(mode):
            for _ in range(4):
                optimizer.step(grads=[gradient(rng, start.shape, dtype)])
        outcomes.append(optimizer.param_groups[0]["params"][0].data)
    assert np.any(outcomes[0] != outcomes[1])


def test_rounding_lasts_as_long_as_its_block() -> None:
    assert reference.get_rounding() == "each"
    with refoptim.rounding("store"):
        with refoptim.rounding("each"):
            assert reference.get_rounding() == "each"
        assert reference.get_rounding() == "store"
    with pytest.raises(KeyError), refoptim.rounding("store"):
        raise KeyError
    assert reference.get_rounding() == "each"
    with pytest.raises(ValueError, match="'each' or 'store', got 'once'"), refoptim.rounding("once"):
        pass


def optimizers(name: str, *starts: Any) -> list[Any]:
    """Make one optimizer for each list of arrays."""
    hyper = MEASURED[name] if name in MEASURED else draw(name, "float32", 7)
    return [getattr(refoptim, name)(arrays, **hyper) for arrays in starts]


@pytest.mark.parametrize("name", [*DENSE, *MEASURED])
def test_memory_mapped_arrays(name: str, tmp_path: Path) -> None:
    """The parameter lies in a file, the gradient in another, which is opened read-only."""
    rng = np.random.default_rng(4)
    start, grads = stored(rng.standard_normal((11, 7)), "float32"), rng.standard_normal((3, 11, 7)).astype(f32)
    grads.tofile(tmp_path / "g")
    mapped = np.memmap(tmp_path / "p", f32, "w+", shape=(11, 7))
    mapped[...] = start
    ours, expected = optimizers(name, [mapped], [start.copy()])
    with chunks_of(10):
        for g, given in zip(grads, np.memmap(tmp_path / "g", f32, "r", shape=grads.shape), strict=True):
            ours.step(grads=[given])
            expected.step(grads=[g])
    assert_same(ours, expected)
    mapped.flush()
    on_disk = np.fromfile(tmp_path / "p", f32).reshape(11, 7)
    assert_same_bits(on_disk, expected.param_groups[0]["params"][0].data, "the file")


@pytest.mark.parametrize("dtype", ["float64", "float32", *NARROW, "complex64"])
@pytest.mark.parametrize("name", [*DENSE, "Adafactor"])
def test_0d_and_empty_arrays(name: str, dtype: str) -> None:
    """A number is updated like one in a vector, an empty array not at all, and their shapes stay."""
    if dtype == "complex64" and name == "Adafactor":
        pytest.skip("Adafactor takes no complex parameters")
    hyper = MEASURED[name] if name in MEASURED else draw(name, dtype, 3)
    number, vector = normals(dtype, 3, [()])[0], normals(dtype, 3, [(1,)])[0]
    number[...] = vector[0]
    ours = getattr(refoptim, name)([number, np.zeros((0,), number.dtype), np.zeros((3, 0, 2), number.dtype)], **hyper)
    expected = getattr(refoptim, name)([vector], **hyper)
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        g = gradient(rng, (1,), dtype)
        ours.step(grads=[g.reshape(()), np.zeros((0,), g.dtype), np.zeros((3, 0, 2), g.dtype)])
        expected.step(grads=[g])
    (one, *empty), (other,) = frame(ours), frame(expected)
    for key, x in other.items():
        assert np.shape(one[key]) == (() if isinstance(x, np.ndarray) else np.shape(x))
        assert_same_bits(np.reshape(one[key], np.shape(x)) if np.ndim(x) else one[key], x, key)
    assert [x["value"].shape for x in empty] == [(0,), (3, 0, 2)]


@pytest.mark.parametrize("foreach", [None, True, False])
def test_many_tiny_tensors(foreach: bool | None) -> None:
    """5,000 tensors of 0 to 6 elements, of two dtypes, are updated as their elements are in one."""
    rng = np.random.default_rng(7)
    sizes = rng.integers(0, 7, 5000)
    dtypes = [("float32", "float64")[i % 3 == 0] for i in range(5000)]
    arrays = [stored(rng.standard_normal(n), dtype) for n, dtype in zip(sizes, dtypes, strict=True)]
    hyper = draw("AdamW", "float32", 1) | {"foreach": foreach}
    ours = refoptim.AdamW(arrays, **hyper)

    def joined(parts: list[Any]) -> list[Any]:
        return [np.concatenate([x for x in parts if x.dtype == dtype]) for dtype in ("float32", "float64")]

    expected = refoptim.AdamW(joined(arrays), **hyper)
    for _ in range(2):
        grads = [stored(rng.standard_normal(n), dtype) for n, dtype in zip(sizes, dtypes, strict=True)]
        ours.step(grads=grads)
        expected.step(grads=joined(grads))
    for key in ("value", "exp_avg", "exp_avg_sq"):
        for x, y in zip(joined([values[key] for values in frame(ours)]), frame(expected), strict=True):
            assert_same_bits(x, y[key], key)


HUGE = {"float16": 6e4, "bfloat16": 3e38, "float32": 3e38, "float64": 1e308, "complex64": 3e38}


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32", *NARROW, "complex64"])
@pytest.mark.parametrize("name", [*DENSE, *MEASURED])
def test_floating_point_flags_raise_nothing(name: str, dtype: str, threaded: bool) -> None:
    """Overflow, underflow, division by zero and NaN are results, whatever the caller asked NumPy to do about them."""
    if dtype == "complex64" and name in MEASURED:
        pytest.skip(f"{name} takes no complex parameters")
    hyper = MEASURED[name] if name in MEASURED else draw(name, dtype, 7)
    kind = np_dtype(dtype)
    values = np.array([HUGE[dtype], -HUGE[dtype], 0, -0.0, np.inf, np.nan, 1, 1e-3] * 3).reshape(4, 6).astype(kind)
    p = values[::-1].copy()
    with np.errstate(all="raise"):
        asked = np.geterr()
        with chunks_of(2, 3) if threaded else nullcontext():
            optimizer = getattr(refoptim, name)([p], **hyper)
            for _ in range(3):
                optimizer.step(grads=[values])
            getattr(refoptim.functional, name.lower())([p], [values], None, 1, **hyper)
        assert np.geterr() == asked
    assert np.isnan(p).any()


WORDS: list[Callable[..., Any]] = [
    lambda x, y, z, c: arith.add(x, y),
    lambda x, y, z, c: arith.sub(x, y),
    lambda x, y, z, c: arith.mul(x, c),
    lambda x, y, z, c: arith.div(x, y),
    lambda x, y, z, c: arith.neg(x),
    lambda x, y, z, c: arith.sqrt(arith.absolute(x)),
    lambda x, y, z, c: arith.sign(x),
    lambda x, y, z, c: arith.maximum(x, y),
    lambda x, y, z, c: arith.minimum(x, c),
    lambda x, y, z, c: arith.where(x > y, c, z),
    lambda x, y, z, c: arith.reciprocal(x, c),
    lambda x, y, z, c: arith.axpy(x, y, c),
    lambda x, y, z, c: arith.addcmul(x, y, z, c),
    lambda x, y, z, c: arith.addcdiv(x, y, z, c),
    lambda x, y, z, c: arith.lerp(x, y, c),
]
"""The words, each on up to three arrays and a scalar."""


def drawn_rule(seed: int, number: Any) -> Callable[..., tuple[Any, ...]]:
    """Draw a rule over a parameter, its gradient and two state arrays: ten words, any of their results its results."""

    def rule(*operands: Any) -> tuple[Any, ...]:
        rng = np.random.default_rng(seed)
        values = list(operands)
        for _ in range(10):
            x, y, z = (values[j] for j in rng.integers(len(values), size=3))
            values.append(WORDS[rng.integers(len(WORDS))](x, y, z, number(rng.normal())))
        return tuple(values[j] for j in rng.integers(len(values), size=3))

    return rule


@pytest.mark.parametrize("dtype", ["float64", "float32", *NARROW])
def test_a_replayed_rule_is_the_rule(dtype: str) -> None:
    """Whatever is computed from what, and in which order, buffers and places are used again only when they are free."""
    kind = np_dtype(dtype)
    rng = np.random.default_rng(1)
    for seed in range(150):
        rule = drawn_rule(seed, arith.arithmetic(kind).type)
        program = trace(rule, [kind] * 4, [0, 2, 3], unmade=frozenset())
        update = program.runner([np.empty(40, x) for x in program.buffers], lambda f, *x: f(*x))
        for n in (40, 40, 23):
            operands = [gradient(rng, (n,), dtype) for _ in range(4)]
            operands[rng.integers(4)][:3] = [np.inf, np.nan, -0.0]
            with np.errstate(all="ignore"):
                expected = [np.array(x) for x in rule(*operands)]
                g = operands[1].copy()
                update(operands)
            assert_same_bits(operands[1], g, f"rule {seed}, the gradient")
            for i, x in zip([0, 2, 3], expected, strict=True):
                assert_same_bits(operands[i], x, f"rule {seed}, operand {i}")


FORK = """
import os, signal, time
import numpy as np
import refoptim
from refoptim.engines import blocks, threads

def step(p):
    optimizer.step(grads=[np.full_like(p, 0.25)])
    return p.tobytes()

refoptim.set_num_threads(3)
p = np.linspace(-1, 1, 30 * blocks.CHUNK, dtype=np.float32)
optimizer = refoptim.Adam([p], lr=0.1)
for _ in range(50):
    step(p)
    if len(threads._crews[0].members) == 3:
        break
time.sleep(0.1)  # until the threads wait for more
receive, send = os.pipe()
if os.fork() == 0:
    signal.alarm(20)
    done = step(p)
    with open(send, "wb") as file:
        file.write(done)
    os._exit(0)
os.close(send)
with open(receive, "rb") as file:
    childs = file.read()
assert os.wait()[1] == 0
assert childs == step(p)
print("same")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_makes_its_own_threads() -> None:
    """The threads of the parent do not exist in the child: without its own it would wait for ever."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    environment = os.environ | {"PYTHONPATH": str(Path(refoptim.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "same\n", done.stderr


SMALLEST = {"float16": -24, "bfloat16": -133, "float32": -149, "float64": -1074}
"""The exponent of the smallest subnormal number of a storage type."""


@pytest.mark.parametrize("chunk", [2, 1 << 14])
@pytest.mark.parametrize("mode", ["each", "store"])
@pytest.mark.parametrize("dtype", ["float64", "float32", *NARROW])
def test_subnormals_survive(dtype: str, mode: str, chunk: int) -> None:
    """Sums of the smallest numbers are exact: p - g, and m + (g - m) / 4 of multiples of four."""
    kind, unit = np_dtype(dtype), 2.0 ** SMALLEST[dtype]

    def array(*multiples: float) -> Any:
        return np.array([m * unit for m in multiples]).astype(kind)

    p, g = array(5, 1, -3, 1, 0, 2, 7, 9, -9, 20), array(1, 1, 1, -2, -1, 2, 3, 4, 5, 6)
    assert np.all(p[:4] != 0)
    with refoptim.rounding(mode), chunks_of(chunk):
        refoptim.SGD([p], lr=1.0).step(grads=[g])
        assert_same_bits(p, array(4, 0, -4, 3, 1, 0, 4, 5, -14, 14), "SGD")
        adam = refoptim.Adam([np.ones(10, kind)], lr=0.5, betas=(0.75, 0.5), eps=0.25)
        adam.step(grads=[array(*(4 * m for m in range(1, 11)))])
        adam.step(grads=[array(*(m + 4 * (m - 6) for m in range(1, 11)))])
    assert_same_bits(frame(adam)[0]["exp_avg"], array(*(m + m - 6 for m in range(1, 11))), "exp_avg")
