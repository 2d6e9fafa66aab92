"""Dynamic loss scaling: torch's GradScaler beside ours, every optimizer on every engine, and what is refused."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from refoptim.conformance.oracle import ieee

import refoptim
from helpers.kernels import NEEDS_KERNELS, assert_same_runs, dtype_of
from helpers.pictures import picture
from helpers.rooms import MEASURED, NAMES, assert_equal_bits, make, members, normal
from refoptim import Parameter, SparseGrad
from refoptim.amp import GradScaler
from refoptim.engines.workspace import Workspace

ENGINES = [pytest.param(None, id="reference"), pytest.param(True, id="kernels", marks=NEEDS_KERNELS)]

PATTERNS = [
    "........",
    "xxxx....",
    "..x..x..",
    "x.x.x.x.",
    "...xx...x.......",
]
"""Steps, those with an infinite or NaN gradient crossed."""

SETTINGS = [
    dict(init_scale=2.0**16, growth_interval=2000),
    dict(init_scale=1024.0, growth_interval=2),
    dict(init_scale=3.0, growth_factor=1.7, backoff_factor=0.3, growth_interval=3),
    dict(init_scale=1e38, growth_factor=5.0, backoff_factor=0.9, growth_interval=1),
    dict(init_scale=0.37, growth_factor=1.0000001, backoff_factor=0.99, growth_interval=1),
]


def tensors(torch: Any, arrays: list[Any]) -> list[Any]:
    return [torch.from_numpy(np.array(x)).requires_grad_() for x in arrays]


def scaled_gradients(seed: int, shapes: Any, scale: float, bad: bool, dtype: str = "float32") -> list[Any]:
    """Draw gradients of the loss times the scale; the last element of the last is not finite in a bad step."""
    with np.errstate(over="ignore"):
        grads = [(normal(seed + i, *shape) * np.float64(scale)).astype(dtype) for i, shape in enumerate(shapes)]
    if bad:
        grads[-1].reshape(-1)[-1] = (np.inf, -np.inf, np.nan)[seed % 3]
    return grads


class Beside(NamedTuple):
    """A step of torch's and ours."""

    theirs: Any
    ours: GradScaler


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda x: f"from {x['init_scale']:g}")
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("clip", [False, True], ids=["", "unscaled first"])
def test_torch_has_the_same_scale_tracker_gradients_and_parameters(
    torch: Any, clip: bool, dtype: str, pattern: str, settings: dict[str, Any]
) -> None:
    """To the bit after each step, with and without unscale_, whatever the factors."""
    shapes = [(3, 5), (), (7,)]
    arrays = [normal(i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]
    theirs, ours = torch.amp.GradScaler("cpu", **settings), GradScaler(**settings)
    ps, qs = tensors(torch, arrays), [Parameter(np.array(x)) for x in arrays]
    theirs_sgd = torch.optim.SGD(ps, lr=0.125, momentum=0.5)
    ours_sgd = refoptim.SGD(qs, lr=0.125, momentum=0.5)
    for k, mark in enumerate(pattern):
        theirs.scale(torch.ones(2))
        ours.scale(np.ones(2))
        grads = scaled_gradients(3 * k, shapes, theirs.get_scale(), mark == "x", dtype)
        for p, q, g in zip(ps, qs, grads, strict=True):
            p.grad, q.grad = torch.from_numpy(np.array(g)), np.array(g)
        if clip:
            theirs.unscale_(theirs_sgd)
            ours.unscale_(ours_sgd)
        assert theirs.step(theirs_sgd) is ours.step(ours_sgd) is None
        theirs.update()
        ours.update()
        assert ours.state_dict() == theirs.state_dict(), k
        for p, q in zip(ps, qs, strict=True):
            assert_equal_bits(q.data, p.detach().numpy(), k)
            assert np.array_equal(q.grad, p.grad.numpy(), equal_nan=True), k


def test_torch_takes_the_same_path_through_random_steps(torch: Any) -> None:
    """One run after another with random settings, marks, new scales and settings that are set meanwhile."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        settings: dict[str, Any] = dict(
            init_scale=float(2.0 ** rng.uniform(-20, 120)),
            growth_factor=float(1 + 10.0 ** rng.uniform(-6, 2)),
            backoff_factor=float(rng.uniform(0.01, 0.999)),
            growth_interval=int(rng.integers(1, 6)),
        )
        scalers = [torch.amp.GradScaler("cpu", **settings), GradScaler(**settings)]
        (p,), q = tensors(torch, [np.ones(3, np.float32)]), Parameter(np.ones(3, np.float32))
        optimizers = [torch.optim.SGD([p], lr=0.5), refoptim.SGD([q], lr=0.5)]
        for k in range(12):
            g = scaled_gradients(k, [(3,)], scalers[0].get_scale(), bool(rng.random() < 0.4))[0]
            p.grad, q.grad = torch.from_numpy(g.copy()), g
            new = float(2.0 ** rng.uniform(-3, 30)) if rng.random() < 0.1 else None
            factor = float(rng.uniform(1.1, 9))
            for scaler, optimizer, one in zip(scalers, optimizers, (torch.ones(1), np.ones(1)), strict=True):
                scaler.scale(one)
                scaler.step(optimizer)
                scaler.update(new)
                if k == 6:
                    scaler.set_growth_factor(factor)
                    scaler.set_backoff_factor(1 / factor)
            assert scalers[0].state_dict() == scalers[1].state_dict()
            assert_equal_bits(q.data, p.detach().numpy())


def test_adam_of_torch_has_the_same_parameters(torch: Any) -> None:
    """Step counts too: a step that is left out does not count."""
    (p,), q = tensors(torch, [normal(0, 40)]), Parameter(normal(0, 40))
    scalers = torch.amp.GradScaler("cpu", init_scale=512.0, growth_interval=2), GradScaler("cpu", 512.0, 2.0, 0.5, 2)
    optimizers = torch.optim.Adam([p], lr=0.1, foreach=False), refoptim.Adam([q], lr=0.1)
    for k, mark in enumerate("..x.x.."):
        (g,) = scaled_gradients(k, [(40,)], scalers[0].get_scale(), mark == "x")
        p.grad, q.grad = torch.from_numpy(g.copy()), g
        for scaler, optimizer, one in zip(scalers, optimizers, (torch.ones(1), np.ones(1)), strict=True):
            scaler.scale(one)
            with ieee():
                scaler.step(optimizer)
            scaler.update()
        np.testing.assert_allclose(q.data, p.detach().numpy(), rtol=1e-6, atol=1e-7)
    assert optimizers[1].state[q]["step"] == int(optimizers[0].state[p]["step"]) == 5


@pytest.mark.parametrize("to", ["ours", "theirs"])
@pytest.mark.parametrize("begun", [True, False])
def test_state_dicts_go_both_ways(torch: Any, to: str, begun: bool) -> None:
    makers = {"ours": (GradScaler, np.ones), "theirs": (lambda **x: torch.amp.GradScaler("cpu", **x), torch.ones)}
    source = makers.pop("theirs" if to == "ours" else "ours")
    target = makers[to]
    one = source[0](init_scale=768.0, growth_factor=3.0, backoff_factor=0.25, growth_interval=5)
    other = target[0]()
    one.scale(source[1](1))
    if begun:
        other.scale(target[1](1))
    one.load_state_dict({**one.state_dict(), "_growth_tracker": 4})
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert other.state_dict() == one.state_dict()
    assert other.get_scale() == 768 and other.get_growth_interval() == 5
    other.scale(target[1](1))
    assert other.state_dict() == one.state_dict()


def test_an_interval_that_was_made_shorter_is_over(torch: Any) -> None:
    """A difference: torch's tracker runs past it, and the scale grows no more until a gradient overflows."""
    scales = []
    for scaler, optimizer in (
        (torch.amp.GradScaler("cpu", init_scale=8.0), torch.optim.SGD([torch.ones(1, requires_grad=True)])),
        (GradScaler(init_scale=8.0), refoptim.SGD([np.ones(1)])),
    ):
        (p,) = members(optimizer)
        scaler.scale(p.data)
        p.grad = p.data * 0
        for k in range(4):
            if k == 2:
                scaler.set_growth_interval(2)
            scaler.step(optimizer)
            scaler.update()
        scales.append(scaler.get_scale())
    assert scales == [8, 16]


# ------------------------------------------------------------------------------------------------------------ scale


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128", "int32", "uint8", "bool"]
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0)])
def test_outputs_are_scaled_as_torch_scales_them(torch: Any, shape: tuple[int, ...], dtype: str) -> None:
    x = (np.abs(normal(1, *shape)) * 3).astype(dtype_of(dtype))
    kind = getattr(torch, dtype)
    tensor = torch.tensor(np.asarray(x, np.float64 if dtype == "bfloat16" else x.dtype), dtype=kind)
    theirs = torch.amp.GradScaler("cpu", init_scale=3e4).scale(tensor)
    ours = GradScaler(init_scale=3e4).scale(x)
    assert (ours.dtype.name, ours.shape) == (str(theirs.dtype)[6:], tuple(theirs.shape))
    assert_equal_bits(np.asarray(ours, np.complex128), theirs.to(torch.complex128).numpy())


def test_numbers_lists_and_iterators_are_scaled() -> None:
    class Pair(NamedTuple):
        loss: float
        parts: Any

    scaler = GradScaler(init_scale=8.0)
    out = scaler.scale([1.5, (np.float16(2), [np.ones(2, np.float16), 3]), Pair(0.5, [1]), []])
    assert [type(x) for x in out] == [float, tuple, Pair, list]
    assert (out[0], out[1][0], out[1][1][1], out[2], out[3]) == (12.0, 16, 24.0, (4.0, [8.0]), [])
    assert out[1][0].dtype == np.float32 and out[1][1][0].dtype == np.float16
    lazily = scaler.scale(x for x in (1, 2))
    assert isinstance(lazily, Iterator) and list(lazily) == [8, 16]
    assert scaler.scale(np.array([np.inf, 6e4], np.float16)).tolist() == [np.inf, np.inf]
    assert scaler.scale(np.ones((2, 3)).T).tolist() == [[8.0] * 2] * 3


def test_arrays_of_other_libraries_are_scaled_by_their_own_product(torch: Any) -> None:
    scaler = GradScaler(init_scale=8.0)
    w = torch.ones(3, requires_grad=True)
    loss = scaler.scale((w * w).sum())
    loss.backward()
    assert w.grad.tolist() == [16.0] * 3
    half = torch.tensor(3e4, dtype=torch.float16)
    assert scaler.scale(half).dtype == torch.float32 and float(scaler.scale(half)) == 240000
    assert scaler.scale([half.reshape(1)])[0].dtype == torch.float16


def test_losses_of_jax_are_scaled_where_they_are_differentiated() -> None:
    """Its gradients are read-only, and left to the rule; d/dw of sum(w * w) is 2 w."""
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    scaler, p = GradScaler(init_scale=1024.0), Parameter(np.ones(3, np.float32))
    p.grad = jax.grad(lambda w: scaler.scale((w * w).sum()))(jax.numpy.ones(3))
    scaler.step(refoptim.SGD([p], lr=0.25))
    assert (np.asarray(p.grad).tolist(), p.data.tolist()) == ([2048.0] * 3, [0.5] * 3)
    half = jax.numpy.ones(2, "float16")
    assert scaler.scale([half, half[0]])[0].dtype == "float16" and scaler.scale(half[0]).dtype == "float32"


@pytest.mark.parametrize(
    ("outputs", "error"),
    [
        *((x, ValueError) for x in ("loss", None, True, {"loss": 1.0}, 1j, [1.0, ["x"]], np.ma.masked_array([1.0]))),
        (SparseGrad([[0]], np.ones(1), (2,)), ValueError),
        *((np.array(x), TypeError) for x in (["x"], [None])),
    ],
    ids=repr,
)
def test_what_is_no_output_begins_nothing(outputs: Any, error: type[Exception]) -> None:
    scaler = GradScaler()
    with pytest.raises(error, match=r"outputs must be a number, an array or an iter|dtype .* not supported"):
        scaler.scale(outputs)
    with pytest.raises(AssertionError, match="_scale is None"):
        scaler.update()


# --------------------------------------------------------------------------------------------------- each optimizer


def sparse_or_not(name: str, g: Any) -> Any:
    return SparseGrad([[3, 0, 1]], g[[3, 0, 1]], g.shape) if name == "SparseAdam" else g


def by_hand(name: str, dtype: str, one: Any, witness: Any, held: bool) -> None:
    """Step by a scaler, with the scale halved and grown; and by the witness, the gradients divided by hand.

    All scales are powers of two, so that dividing rounds nothing but what becomes subnormal, of which there is none.
    """
    scaler, kind = GradScaler(init_scale=2.0**12, growth_interval=2), dtype_of(dtype)
    scale, tracker, p = 2.0**12, 0, members(one)[0]
    for k, mark in enumerate(".x...xx.."):
        scaler.scale(1.0)
        g = np.round(normal(20 + k, 6, 5) * 64).astype(kind) / kind.type(64)
        big = (g.astype(np.float64) * scale).astype(kind)
        if mark == "x":
            big[0, 0] = np.inf
        if held:
            p.grad = sparse_or_not(name, big)
            scaler.step(one)
        else:
            scaler.step(one, grads=[sparse_or_not(name, big)])
        scaler.update()
        if mark == ".":
            witness.step(grads=[sparse_or_not(name, g.astype(members(witness)[0].dtype))])
            scale, tracker = (scale * 2, 0) if tracker == 1 else (scale, tracker + 1)
        else:
            scale, tracker = scale / 2, 0
        assert (scaler.get_scale(), scaler.state_dict()["_growth_tracker"]) == (scale, tracker)


@pytest.mark.parametrize("held", [True, False], ids=["held", "given"])
@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_every_rule_steps_as_on_gradients_divided_by_hand(
    name: str, dtype: str, fused: bool | None, held: bool
) -> None:
    x = normal(0, 6, 5, dtype=dtype)
    one, witness = make(name, [x.copy()], fused=fused), make(name, [x.copy()])
    by_hand(name, dtype, one, witness, held)
    assert_same_runs(one, witness)


@NEEDS_KERNELS
def test_a_repeated_step_keeps_its_scale_until_the_kernel_has_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def litter_and_make(workspace: Workspace, *given: Any) -> None:
        litter.extend(np.full(1, np.nan, np.float32) for _ in range(100))
        make_all(workspace, *given)

    litter: list[Any] = []
    make_all = Workspace.make
    monkeypatch.setattr(Workspace, "make", litter_and_make)
    w = np.ones(3, np.float32)
    optimizer = refoptim.SGD([w], lr=0.25, fused=True)
    for _ in range(4):
        optimizer.step(grads=[np.full(3, 8, np.float32)], grad_scale=8.0)
    assert w.tolist() == [0, 0, 0]


@pytest.mark.parametrize("held", [True, False], ids=["held", "given"])
@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_every_rule_divides_float16_gradients_of_a_master_in_float32(name: str, fused: bool | None, held: bool) -> None:
    """The witness is a float32 run; in float16 these gradients divided by the scale would be coarser, or vanish."""
    p = Parameter(normal(0, 6, 5).astype(np.float16), master=True)
    one, witness = make(name, [p], fused=fused), make(name, [p.data.astype(np.float32)])
    scaler = GradScaler(init_scale=2.0**27, growth_interval=3)
    for k, mark in enumerate("..x..x."):
        scaler.scale(1.0)
        g = normal(5 + k, 6, 5).astype(np.float16)
        g[0, 0] = np.inf if mark == "x" else 1
        kept = g.copy()
        p.grad = sparse_or_not(name, g) if held else None
        divided = g.astype(np.float32) / np.float32(scaler.get_scale())
        assert not divided.astype(np.float16).all(), "some would vanish"
        scaler.step(one, **({} if held else {"grads": [sparse_or_not(name, g)]}))
        scaler.update()
        assert_equal_bits(g, kept, "the rule divides, and writes to no gradient")
        if mark == ".":
            witness.step(grads=[sparse_or_not(name, divided)])
        master = one.state[p]["master"]
        assert_equal_bits(master, members(witness)[0].data, k)
        assert_equal_bits(p.data, master.astype(np.float16), k)


@pytest.mark.parametrize("how", ["held", "unscaled", "given"])
@pytest.mark.parametrize("fused", ENGINES)
def test_a_master_takes_scaled_gradients_in_float32(fused: bool | None, how: str) -> None:
    """The witness is a float32 run; in float16 these gradients would be infinite before they are divided."""
    p, scaler = Parameter(normal(0, 6, 5).astype(np.float16), master=True), GradScaler(init_scale=2.0**20)
    one = make("AdamW", [p], fused=fused)
    witness = make("AdamW", [p.data.astype(np.float32)], fused=fused)
    for k in range(3):
        scaler.scale(1.0)
        g = normal(5 + k, 6, 5)
        p.grad = g * np.float32(2.0**20) if how != "given" else None
        if how == "unscaled":
            scaler.unscale_(one)
            assert_equal_bits(p.grad, g)
        scaler.step(one, **({"grads": [g * np.float32(2.0**20)]} if how == "given" else {}))
        witness.step(grads=[g])
        scaler.update()
        assert_equal_bits(one.state[p]["master"], members(witness)[0].data, k)


@pytest.mark.parametrize("fused", ENGINES)
def test_gradients_are_given_by_name(fused: bool | None) -> None:
    arrays, scaler = {"b": np.ones(3), "w": np.ones(2)}, GradScaler(init_scale=4.0)
    one = refoptim.SGD([*arrays.items()], lr=0.5, fused=fused)
    scaler.scale(1.0)
    scaler.step(one, grads={"w": np.full(2, 4.0), "b": np.full(3, 8.0)})
    assert {name: x.tolist() for name, x in arrays.items()} == {"b": [0.0] * 3, "w": [0.5] * 2}
    with pytest.raises(ValueError, match="lacks 'w'"):
        scaler.update()
        scaler.step(one, grads={"b": np.ones(3)})


@pytest.mark.parametrize("fused", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_unscaled_gradients_are_stepped_as_they_are(name: str, fused: bool | None) -> None:
    """unscale_ multiplies by the rounded inverse, once, whoever steps; the witness multiplies by hand."""
    x = normal(0, 6, 5)
    one, witness = make(name, [x.copy()], fused=fused), make(name, [x.copy()])
    scaler, (p,) = GradScaler(init_scale=3.0), members(one)
    inverse = np.float32(1 / 3)
    for k in range(3):
        scaler.scale(1.0)
        g = normal(7 + k, 6, 5)
        p.grad = sparse_or_not(name, g.copy())
        scaler.unscale_(one)
        witness.step(grads=[sparse_or_not(name, g * inverse)])
        scaler.step(one)
        scaler.update()
        assert_same_runs(one, witness, k)


@pytest.mark.parametrize("fused", ENGINES)
def test_the_rule_divides_by_the_scale_itself_where_kernels_run(fused: bool | None) -> None:
    """0.9 / 3 and 0.9 * float32(1 / 3) are two numbers of float32; gradients stay as they were in the first case."""
    g, scaler = np.full(2, 0.9, np.float32), GradScaler(init_scale=3.0)
    p = Parameter(np.zeros(2, np.float32), grad=g.copy())
    divided, multiplied = g / np.float32(3), g * np.float32(1 / 3)
    assert divided[0] != multiplied[0]
    scaler.scale(1.0)
    scaler.step(refoptim.SGD([p], lr=1.0, fused=fused))
    assert_equal_bits(-p.data, divided if fused else multiplied)
    assert_equal_bits(p.grad, g if fused else multiplied)


@pytest.mark.parametrize("name", ["LBFGS", "ConjugateGradient"])
def test_optimizers_that_evaluate_a_closure_are_refused(torch: Any, name: str) -> None:
    """With a closure by RuntimeError, without by TypeError, as torch's LBFGS is; gradients stay scaled."""
    p = Parameter(np.ones(2), grad=np.full(2, 8.0))
    scaler, optimizer = GradScaler(init_scale=8.0), getattr(refoptim, name)([p])
    tensor = torch.ones(2, requires_grad=True)
    tensor.grad = torch.full((2,), 8.0)
    theirs, lbfgs = torch.amp.GradScaler("cpu"), torch.optim.LBFGS([tensor])
    for one, other, ones in ((scaler, optimizer, 1.0), (theirs, lbfgs, torch.ones(1))):
        one.scale(ones)
        with pytest.raises(RuntimeError, match="Closure use is not currently supported if GradScaler is enabled"):
            one.step(other, closure=lambda: 1.0)
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'closure'"):
            one.step(other)
    assert p.grad.tolist() == [8, 8] and p.data.tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="Closure use"):
        scaler.step(optimizer, lambda: 1.0)
    assert GradScaler(enabled=False).step(refoptim.LBFGS([p]), closure=lambda: 1.0) == 1.0


# --------------------------------------------------------------------------------------------------- kinds of gradient


def test_float16_gradients_are_not_unscaled(torch: Any) -> None:
    p = Parameter(np.ones(2, np.float16), grad=np.ones(2, np.float16), master=True)
    tensor = torch.ones(2, dtype=torch.float16, requires_grad=True)
    tensor.grad = torch.ones(2, dtype=torch.float16)
    pairs: list[Any] = [(GradScaler(), refoptim.SGD([p]), 1.0)]
    pairs.append((torch.amp.GradScaler("cpu"), torch.optim.SGD([tensor]), torch.ones(1)))
    for scaler, optimizer, one in pairs:
        scaler.scale(one)
        with pytest.raises(ValueError, match="Attempting to unscale FP16 gradients"):
            scaler.unscale_(optimizer)
    assert p.grad.tolist() == [1, 1]
    pairs[0][0].step(pairs[0][1])
    assert p.data.tolist() != [0, 0]


def test_bfloat16_gradients_are_unscaled_as_in_torch(torch: Any) -> None:
    values = normal(0, 50)
    p = Parameter(np.ones(50, dtype_of("bfloat16")), grad=values.astype(dtype_of("bfloat16")))
    (tensor,) = tensors(torch, [np.ones(50, np.float32)])
    tensor = tensor.detach().to(torch.bfloat16).requires_grad_()
    tensor.grad = torch.from_numpy(values).to(torch.bfloat16)
    ours, theirs = GradScaler(init_scale=3.0), torch.amp.GradScaler("cpu", init_scale=3.0)
    ours.scale(1.0)
    theirs.scale(torch.ones(1))
    ours.unscale_(refoptim.SGD([p]))
    theirs.unscale_(torch.optim.SGD([tensor]))
    assert_equal_bits(p.grad.astype(np.float32), tensor.grad.float().numpy())


def reals(x: Any) -> Any:
    return np.ascontiguousarray(x).view(x.real.dtype)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
def test_arrays_in_any_order_are_unscaled_in_place(dtype: str) -> None:
    base = (normal(0, 40, 30) + (1j * normal(1, 40, 30) if dtype == "complex64" else 0)).astype(dtype)
    inverse = np.float32(1 / 7)
    for cut in (np.s_[::2, 1::3], np.s_[::-1], np.s_[...]):
        for turned in (False, True):
            whole = base.copy()
            g = whole[cut].T if turned else whole[cut]
            expected = reals(g) * reals(g).dtype.type(inverse)
            p = Parameter(np.zeros_like(g), grad=g)
            scaler = GradScaler(init_scale=7.0)
            scaler.scale(1.0)
            scaler.unscale_(refoptim.SGD([p]))
            assert p.grad is g
            assert_equal_bits(reals(g), expected)


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64"])
def test_one_bad_element_is_found_wherever_it_is(dtype: str, bad: float) -> None:
    kind = dtype_of(dtype)
    for where in (0, 49_999, 70_000):
        p, q = (Parameter(np.zeros(n, kind), grad=np.ones(n, kind)) for n in (3, 70_001))
        q.grad[where] = bad * 1j if dtype == "complex64" else bad
        scaler, optimizer = GradScaler(init_scale=2.0), refoptim.SGD([p, q], lr=0.5)
        scaler.scale(1.0)
        assert scaler.step(optimizer) is None
        scaler.update()
        assert scaler.get_scale() == 1
        assert not p.data.any() and not q.data.any()


def test_the_largest_numbers_are_finite() -> None:
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        kind = dtype_of(dtype)
        p = Parameter(np.zeros(3, kind))
        p.grad = np.array([1, -1, 0.5]).astype(kind) * kind.type(0)
        p.grad[:] = np.frombuffer(b"".join([_largest(kind)] * 3), kind)
        scaler = GradScaler(init_scale=2.0, growth_interval=1)
        scaler.scale(1.0)
        with np.errstate(over="ignore"):
            scaler.step(refoptim.SGD([p], lr=2.0**-30))
        scaler.update()
        assert scaler.get_scale() == 4, dtype


def _largest(kind: Any) -> bytes:
    """Return the largest finite number of a dtype: the bits before infinity's."""
    n = kind.itemsize * 8
    infinity = int.from_bytes(np.array(np.inf).astype(kind).tobytes(), "little")
    return (infinity - 1).to_bytes(n // 8, "little")


def test_sums_of_sparse_float16_values_overflow(torch: Any) -> None:
    """As in torch, which adds values of one index before it looks; float32 values are looked at one by one."""
    for dtype, largest, found in (("float16", 6e4, True), ("float32", 3e38, False)):
        p = Parameter(np.zeros(4, dtype), master=dtype == "float16")
        p.grad = SparseGrad([[1, 1]], np.array([largest] * 2, dtype), (4,))
        scaler = GradScaler(init_scale=2.0)
        scaler.scale(1.0)
        scaler.step(refoptim.SGD([p], lr=2.0**-10))
        scaler.update()
        assert scaler.get_scale() == (1.0 if found else 2.0)


def test_values_of_sparse_gradients_are_unscaled_in_place() -> None:
    values = np.array([3.0, 6.0])
    p = Parameter(np.zeros(4), grad=SparseGrad([[1, 1]], values, (4,)))
    scaler, optimizer = GradScaler(init_scale=4.0), refoptim.SGD([p], lr=1.0)
    scaler.scale(1.0)
    scaler.unscale_(optimizer)
    assert (values.tolist(), p.grad.indices.tolist(), p.grad.shape) == ([0.75, 1.5], [[1, 1]], (4,))
    scaler.step(optimizer)
    assert p.data.tolist() == [0, -2.25, 0, 0]


@pytest.mark.parametrize("form", ["csr_array", "coo_array"])
def test_sparse_gradients_of_scipy_are_replaced(form: str) -> None:
    sparse = pytest.importorskip("scipy.sparse", reason="scipy is not installed")
    p = Parameter(np.zeros((2, 2)), grad=getattr(sparse, form)(np.array([[0.0, 8.0], [2.0, 0.0]])))
    scaler, optimizer = GradScaler(init_scale=4.0), refoptim.SGD([p], lr=1.0)
    scaler.scale(1.0)
    scaler.step(optimizer)
    assert p.grad.to_dense().tolist() == [[0, 2], [0.5, 0]]
    assert p.data.tolist() == [[0, -2], [-0.5, 0]]


@pytest.mark.parametrize("sparse", [False, True])
def test_tensors_of_torch_are_scaled_unscaled_and_stepped(torch: Any, sparse: bool) -> None:
    """Two runs on embeddings, one by torch's scaler and optimizer, one by ours; a graph that saved a gradient knows."""
    runs = []
    for scaler, kind in ((torch.amp.GradScaler("cpu", init_scale=3.0), torch.optim.SGD), (None, refoptim.SGD)):
        table = torch.nn.Embedding(5, 3, sparse=sparse)
        table.weight.data[...] = torch.arange(15.0).reshape(5, 3) / 7
        scaler = scaler or GradScaler(init_scale=3.0, growth_interval=2)
        scaler.set_growth_interval(2)
        optimizer = kind(table.parameters(), lr=0.05)
        for k in range(5):
            optimizer.zero_grad()
            loss = (table(torch.tensor([1, k, 1])) ** 2).sum() * (float("inf") if k == 2 else 1.0)
            scaler.scale(loss).backward()
            grad = table.weight.grad
            version = grad._version
            if k == 3:
                scaler.unscale_(optimizer)
                assert grad._version > version or kind is torch.optim.SGD
            scaler.step(optimizer)
            scaler.update()
        runs.append((table.weight.detach().numpy(), scaler.state_dict()))
    assert runs[0][1] == runs[1][1]
    if sparse:  # torch's SGD adds rows of one index one by one
        np.testing.assert_allclose(runs[1][0], runs[0][0], rtol=1e-6)
    else:
        assert_equal_bits(runs[1][0], runs[0][0])


def not_writable() -> dict[str, Any]:
    locked, shared = np.full(3, 8.0), np.full(4, 8.0)
    locked.flags.writeable = False
    return {"read-only": (locked, np.full(3, 8.0)), "shared": (shared[:3], shared[1:])}


@pytest.mark.parametrize("what", [*not_writable(), "the parameter's own"])
def test_gradients_that_cannot_be_written_to_are_left_to_the_rule(what: str) -> None:
    ps = [Parameter(np.full(3, 8.0)), Parameter(np.full(3, 8.0))]
    ps[0].grad, ps[1].grad = not_writable().get(what, (ps[0].data, ps[1].data))
    scaler, optimizer = GradScaler(init_scale=8.0), refoptim.SGD(ps, lr=1.0)
    scaler.scale(1.0)
    with pytest.raises(ValueError, match="gradients must"):
        scaler.unscale_(optimizer)
    assert [p.grad.tolist() for p in ps] == [[8.0] * 3] * 2
    scaler.step(optimizer)
    assert [p.data.tolist() for p in ps] == [[7.0] * 3] * 2


def test_parameters_without_gradient_are_passed_over() -> None:
    p, q = Parameter(np.ones(2)), Parameter(np.ones(2), grad=np.full(2, 4.0))
    scaler, optimizer = GradScaler(init_scale=4.0), refoptim.SGD([p, q], lr=1.0)
    scaler.scale(1.0)
    scaler.step(optimizer)
    scaler.update()
    scaler.step(optimizer, grads=[np.full(2, 8.0), None])
    scaler.update()
    optimizer.zero_grad()
    for act in (scaler.step, scaler.unscale_, scaler.step):
        if act == scaler.step:
            with pytest.raises(AssertionError, match="No inf checks were recorded for this optimizer"):
                act(optimizer)
        else:
            act(optimizer)
    assert (p.data.tolist(), q.data.tolist()) == ([-1, -1], [0, 0])


# ------------------------------------------------------------------------------------------------- stages and errors


def test_stages_are_those_of_torch(torch: Any) -> None:
    """The same calls in the same order, and the same errors; see each beside torch's."""
    (p,), q = tensors(torch, [np.ones(2, np.float32)]), Parameter(np.ones(2, np.float32))
    scalers = torch.amp.GradScaler("cpu"), GradScaler("cpu")
    optimizers = torch.optim.SGD([p]), refoptim.SGD([q])
    ones = torch.ones(1), np.ones(1)
    calls = "update step unscale pickle scale step update grad unscale unscale pickle step step unscale update update"
    for name in [*calls.split(), "step", "unscale", "new", "unscale", "new", "step", "pickle", "update", "pickle"]:
        errors = []
        for scaler, optimizer, one in zip(scalers, optimizers, ones, strict=True):
            if name == "grad":
                p.grad, q.grad = torch.ones(2), np.ones(2, np.float32)
                scaler.update(8.0)  # torch leaves a step that found no gradient as unscaled
                continue
            act = {
                "scale": lambda scaler=scaler, one=one: scaler.scale(one),
                "step": lambda scaler=scaler, optimizer=optimizer: scaler.step(optimizer),
                "unscale": lambda scaler=scaler, optimizer=optimizer: scaler.unscale_(optimizer),
                "update": lambda scaler=scaler: scaler.update(),
                "new": lambda scaler=scaler: scaler.update(4.0),
                "pickle": lambda scaler=scaler: pickle.dumps(scaler),
            }[name]
            errors.append(_raised(act))
        assert not errors or errors[0] == errors[1], name
    assert scalers[0].state_dict() == scalers[1].state_dict()


def _raised(act: Any) -> Any:
    try:
        act()
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        return type(error), str(error)
    return None


def test_two_optimizers_share_a_scale(torch: Any) -> None:
    """An overflow in one leaves out its step alone, and makes the scale smaller once."""
    p, q = (Parameter(np.ones(1), grad=g) for g in (np.array([np.nan]), np.array([8.0])))
    one, other = refoptim.SGD([p], lr=1.0), refoptim.SGD([q], lr=0.5)
    scaler = GradScaler(init_scale=8.0)
    scaler.scale([1.0, 2.0])
    for optimizer in (one, other):
        scaler.step(optimizer)
    scaler.update()
    assert (p.data.tolist(), q.data.tolist(), scaler.get_scale()) == ([1], [0.5], 4)


def test_a_scaler_that_is_switched_off_does_nothing() -> None:
    p = Parameter(np.ones(2), grad=np.full(2, np.inf))
    scaler, optimizer = GradScaler(enabled=False, growth_factor=0.0), refoptim.SGD([p], lr=1.0)
    assert scaler.scale("loss") == "loss"
    anything: Any = SimpleNamespace(step=lambda: 7)
    assert scaler.step(anything) == 7
    scaler.unscale_(optimizer)
    assert scaler.step(optimizer, lambda: 3.0) == 3.0
    scaler.update()
    scaler.load_state_dict({"any": 1})
    assert (scaler.get_scale(), scaler.is_enabled(), scaler.state_dict()) == (1.0, False, {})
    assert p.data.tolist() == [-np.inf] * 2
    with pytest.raises(RuntimeError, match="The source state dict is empty"):
        GradScaler().load_state_dict(scaler.state_dict())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"growth_factor": 1.0}, AssertionError, r"The growth factor must be > 1.0\."),
        ({"growth_factor": math.nan}, AssertionError, "The growth factor must be > 1.0"),
        ({"growth_factor": math.inf}, AssertionError, "and finite, got inf"),
        ({"backoff_factor": 1.0}, AssertionError, r"The backoff factor must be < 1.0\."),
        ({"backoff_factor": 0.0}, AssertionError, "above 0, got 0.0"),
        ({"init_scale": 0}, ValueError, r"init_scale must be in \(0, inf\) as a float32 number, got 0"),
        ({"init_scale": 1e39}, ValueError, "scale must be in"),
        ({"init_scale": 1e-60}, ValueError, "scale must be in"),
        ({"init_scale": "8"}, TypeError, "scale must be a real number"),
        ({"growth_interval": 0}, ValueError, r"growth_interval must be an integer in \[1, 2\*\*31\), got 0"),
        ({"growth_interval": 2.0}, ValueError, "growth_interval must be an integer"),
        ({"enabled": 1}, TypeError, "enabled must be True or False, got 1"),
        ({"device": 1024.0}, TypeError, r"device must be 'cpu', 'cuda' or None, got 1024.0"),
        ({"device": "tpu"}, TypeError, "device must be"),
    ],
    ids=str,
)
def test_wrong_arguments(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        GradScaler(**given)
    setter = getattr(GradScaler(), f"set_{next(iter(given))}", None)
    if setter:
        with pytest.raises(error, match=message):
            setter(*given.values())


@pytest.mark.parametrize("new", [0.0, -1.0, math.inf, math.nan, 1e39, "4", np.ones(2), True], ids=repr)
def test_a_wrong_new_scale_changes_nothing(new: Any) -> None:
    p = Parameter(np.ones(1), grad=np.ones(1))
    scaler = GradScaler(init_scale=8.0, growth_interval=1)
    scaler.scale(1.0)
    scaler.step(refoptim.SGD([p]))
    with pytest.raises((TypeError, ValueError), match="new_scale"):
        scaler.update(new)
    scaler.update()
    assert scaler.get_scale() == 16


@pytest.mark.parametrize("new", [4, 4.0, np.float32(4), np.array([4.0]), np.array(4, np.float16)], ids=repr)
def test_a_new_scale_is_a_number(new: Any) -> None:
    scaler = GradScaler()
    scaler.scale(1.0)
    scaler.update(np.asarray(new) if isinstance(new, np.generic) else new)
    assert scaler.get_scale() == 4 and scaler.scale(2.0) == 8.0


STATE = {"scale": 4.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 7, "_growth_tracker": 3}


@pytest.mark.parametrize(
    ("state", "error"),
    [([1], TypeError), ({"scale": 4.0}, ValueError), ({**STATE, "more": 1}, ValueError)]
    + [({**STATE, key: x}, (AssertionError, TypeError, ValueError)) for key in STATE for x in (None, -1, "1", math.nan)]
    + [({**STATE, "_growth_tracker": 2**31}, ValueError), ({**STATE, "scale": math.inf}, ValueError)],
    ids=str,
)
def test_a_wrong_state_changes_nothing(state: Any, error: Any) -> None:
    scaler = GradScaler(init_scale=16.0)
    scaler.scale(1.0)
    before = scaler.state_dict()
    with pytest.raises(error):
        scaler.load_state_dict(state)
    assert scaler.state_dict() == before and scaler.scale(1.0) == 16


def wrong_steps() -> dict[str, Any]:
    return {
        "a wrong shape": ({"grads": [np.ones(3), np.ones(5)]}, ValueError, r"parameter 1 of group 0 \(w\)"),
        "a wrong dtype": ({"grads": [np.ones(3), np.ones(4, np.float32)]}, TypeError, r"\(w\): .* dtype"),
        "too few": ({"grads": [np.ones(3)]}, ValueError, "one gradient"),
        "no gradient": ({"grads": [None, None]}, AssertionError, "No inf checks were recorded for this optimizer"),
        "its own scale": ({"grad_scale": 2.0}, TypeError, "passes grad_scale to the step itself"),
        "its own flag": ({"found_inf": 0}, TypeError, "passes found_inf"),
        "a closure": ({"closure": lambda: 1.0}, RuntimeError, "Closure use"),
        "no closure": ({"closure": None}, RuntimeError, "Closure use"),
    }


@pytest.mark.parametrize("what", wrong_steps())
def test_a_wrong_step_changes_nothing(what: str) -> None:
    kwargs, error, message = wrong_steps()[what]
    ps = [Parameter(np.ones(3), grad=np.ones(3)), Parameter(np.ones(4), grad=np.ones(4), name="w")]
    scaler, optimizer = GradScaler(init_scale=8.0, growth_interval=1), refoptim.Adam(ps)
    scaler.scale(1.0)
    before = picture([optimizer, ps, scaler.state_dict()])
    with pytest.raises(error, match=message):
        scaler.step(optimizer, **kwargs)
    assert picture([optimizer, ps, scaler.state_dict()]) == before
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 16


def test_a_step_that_fails_may_be_taken_again() -> None:
    """A setting that has become wrong is found by the optimizer, after the gradients were unscaled: once, not twice."""
    p = Parameter(np.ones(2), grad=np.full(2, 8.0))
    scaler, optimizer = GradScaler(init_scale=8.0), refoptim.SGD([p], lr=1.0)
    scaler.scale(1.0)
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match="Invalid learning rate"):
        scaler.step(optimizer)
    optimizer.param_groups[0]["lr"] = 1.0
    scaler.step(optimizer)
    assert (p.data.tolist(), p.grad.tolist()) == ([0, 0], [1, 1])


def test_a_step_that_was_interrupted_is_not_taken_twice() -> None:
    """Whether the interrupt came before the step or after it, nobody knows."""
    p = Parameter(np.ones(2), grad=np.full(2, 8.0))
    scaler, optimizer = GradScaler(init_scale=8.0), refoptim.SGD([p], lr=1.0)

    def interrupt(*given: Any) -> None:
        raise KeyboardInterrupt

    scaler.scale(1.0)
    handle = optimizer.register_step_post_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        scaler.step(optimizer)
    handle.remove()
    with pytest.raises(RuntimeError, match="has already been called since the last update"):
        scaler.step(optimizer)
    scaler.update()
    assert (p.data.tolist(), p.grad.tolist()) == ([0, 0], [1, 1])


@pytest.mark.parametrize("what", [3, None, "SGD", np.ones(3)])
def test_only_optimizers_are_stepped(what: Any) -> None:
    scaler = GradScaler()
    scaler.scale(1.0)
    for act in (scaler.step, scaler.unscale_):
        with pytest.raises(TypeError, match="optimizer must be an optimizer of refoptim"):
            act(what)


def test_an_optimizer_of_torch_is_sent_to_the_scaler_of_torch() -> None:
    other: Any = SimpleNamespace(param_groups=[])
    with pytest.raises(TypeError, match=r"got SimpleNamespace .*takes one of torch"):
        GradScaler().step(other)


def test_a_scale_without_inverse_is_refused() -> None:
    """torch would multiply by infinity."""
    p = Parameter(np.ones(1), grad=np.zeros(1))
    scaler, optimizer = GradScaler(init_scale=2.0**-149, backoff_factor=0.1), refoptim.SGD([p])
    scaler.scale(1.0)
    for act in (scaler.unscale_, scaler.step):
        with pytest.raises(ValueError, match=r"the scale has fallen to .*, which has no inverse"):
            act(optimizer)
    assert (p.data.tolist(), p.grad.tolist()) == ([1], [0])


@pytest.mark.parametrize("through", ["pickle", "deepcopy"])
@pytest.mark.parametrize("enabled", [True, False])
def test_copies_go_on(through: str, enabled: bool) -> None:
    scaler = GradScaler(init_scale=8.0, growth_interval=5, enabled=enabled)
    p = Parameter(np.ones(1), grad=np.ones(1))
    scaler.scale(1.0)
    scaler.step(refoptim.SGD([p]))
    scaler.update()
    other = pickle.loads(pickle.dumps(scaler)) if through == "pickle" else copy.deepcopy(scaler)
    assert other.state_dict() == scaler.state_dict()
    assert not enabled or other.state_dict()["_growth_tracker"] == 1
    assert other.scale(1.0) == scaler.scale(1.0)


# --------------------------------------------------------------------------------------------------------- on a GPU


COUNTED = [name for name in NAMES if name not in ("SparseAdam", *MEASURED)]
"""Rules whose kernels take found_inf and the scale from the GPU's memory, and count the steps there."""


@pytest.mark.parametrize("name", [name for name in NAMES if name != "SparseAdam"])
@pytest.mark.parametrize("held", [True, False], ids=["held", "given"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_gpu_decides_about_steps_by_itself(gpu: Any, dtype: str, held: bool, name: str) -> None:
    """Nothing is read by the host once there is state; parameters and state are those of a run on the host."""
    x, master = normal(0, 6, 5).astype(dtype), dtype == "float16"
    pairs = []
    for package in (gpu, np):
        p = Parameter(package.asarray(x.copy()), master=master)
        scaler = GradScaler(init_scale=2.0**12, growth_interval=2)
        pairs.append((package, p, make(name, [p], fused=None if package is gpu else True), scaler))
    for k, mark in enumerate(".x...xx.."):
        g = normal(30 + k, 6, 5).astype(dtype)
        g[3, 3] = np.nan if mark == "x" else 1
        for package, p, optimizer, scaler in pairs:
            scaler.scale(package.asarray(np.float32(1)))
            p.grad = package.asarray(g.copy()) if held else None
            gpu.world.counters = gpu.Counters()
            scaler.step(optimizer, **({} if held else {"grads": [package.asarray(g.copy())]}))
            scaler.update()
            if package is gpu and k and name in COUNTED:
                assert gpu.world.counters.synchronizations == 0
        (_, p, one, ours), (_, q, other, theirs) = pairs
        assert ours.state_dict() == theirs.state_dict(), k
        assert_equal_bits(p.data.get(), q.data, k)
        mine, its = one.state_dict()["state"].get(0, {}), other.state_dict()["state"].get(0, {})
        for key, value in its.items():
            assert_equal_bits(mine[key].get() if hasattr(mine[key], "get") else mine[key], value, (k, key))


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_gradients_on_a_gpu_are_unscaled_there(gpu: Any, dtype: str, fused: bool | None) -> None:
    """Nothing is read; with kernels, subnormal products too have the bits of the host, in a launch for each dtype."""
    arrays = [normal(i, *shape).astype(dtype_of(dtype)) for i, shape in enumerate([(6, 5), (), (40_000,), (0, 3)])]
    arrays[2][:9] *= arrays[2].dtype.type(2.0**-125)
    arrays.append(np.asfortranarray(normal(9, 4, 3).astype(dtype_of(dtype))))
    found = []
    for package in (gpu, np):
        params = [Parameter(package.array(np.zeros_like(x)), grad=package.array(x)) for x in arrays]
        optimizer = refoptim.SGD(params, lr=0.5, **({"fused": fused} if package is gpu else {}))
        scaler = GradScaler(init_scale=7.0)
        scaler.scale(package.ones(3) if package is np else gpu.asarray(np.ones(3)))
        if package is gpu:
            gpu.world.counters = gpu.Counters()
        scaler.unscale_(optimizer)
        if package is gpu:
            assert gpu.world.counters.synchronizations == 0
            if fused is None:
                assert len([x for x in gpu.world.counters.launches if x.startswith("clip_grad_scale_")]) == 1
        scaler.step(optimizer)
        scaler.update()
        found.append((params, scaler))
    for p, q in zip(found[0][0], found[1][0], strict=True):
        assert_equal_bits(p.grad.get(), q.grad)
        assert_equal_bits(p.data.get(), q.data)
    assert found[0][1].state_dict() == found[1][1].state_dict()


def test_sparse_gradients_on_a_gpu(gpu: Any) -> None:
    def sparse(values: Any) -> SparseGrad:
        return SparseGrad(gpu.asarray(np.array([[1, 1]])), gpu.asarray(values), (4,))

    p = Parameter(gpu.asarray(np.zeros(4)))
    scaler, optimizer = GradScaler(init_scale=4.0), refoptim.SGD([p], lr=1.0)
    for values in (np.array([3.0, 6.0]), np.array([3.0, np.inf])):
        scaler.scale(gpu.asarray(np.float64(1)))
        p.grad = sparse(values)
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert (p.data.get().tolist(), scaler.get_scale()) == ([0, -2.25, 0, 0], 2)


def lying(gpu: Any, place: int, x: Any) -> Any:
    """Put an array on GPU 0 or 1, or leave it in the memory of the computer."""
    if place == 2:
        return x.copy()
    with gpu.cuda.Device(place):
        return gpu.asarray(x)


@pytest.mark.parametrize("scale_at", [0, 1, 2])
@pytest.mark.parametrize("bad", [None, 0, 1, 2])
def test_gradients_in_several_places_count_together(gpu: Any, scale_at: int, bad: int | None) -> None:
    """Two parameters on two GPUs and one in the memory of the computer; the scale may lie anywhere."""
    params = [Parameter(lying(gpu, place, np.zeros(2))) for place in range(3)]
    scaler, optimizer = GradScaler(init_scale=8.0, growth_interval=1), refoptim.SGD(params, lr=1.0)
    for unscaled_first in (True, False):
        scaler.scale(lying(gpu, scale_at, np.ones(1)))
        for place, p in enumerate(params):
            p.grad = lying(gpu, place, np.array([1.0, np.inf if place == bad else 1.0]) * scaler.get_scale())
        if unscaled_first:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    values = [p.data.get() if place < 2 else p.data for place, p in enumerate(params)]
    assert [x.tolist() for x in values] == [[-2.0 if bad is None else 0.0] * 2] * 3
    assert scaler.get_scale() == (32 if bad is None else 2)


def test_outputs_on_a_gpu_stay_there(gpu: Any) -> None:
    scaler = GradScaler(init_scale=4.0)
    half, single = gpu.asarray(np.ones(2, np.float16)), gpu.asarray(np.float16(3))
    gpu.world.counters = gpu.Counters()
    out = scaler.scale([half, (single,)])
    assert gpu.world.counters.synchronizations == 0
    assert (out[0].dtype, out[0].tolist()) == (np.float16, [4, 4])
    assert (out[1][0].dtype, out[1][0].tolist()) == (np.float32, 12)
    assert scaler.scale(1.5) == 6.0
    scaler.update(gpu.asarray(np.float32(2)))
    assert scaler.get_scale() == 2
    scaler.load_state_dict({**scaler.state_dict(), "scale": 16.0, "_growth_tracker": 3})
    other = pickle.loads(pickle.dumps(scaler))
    assert (other.state_dict(), scaler.scale(half).tolist()) == (scaler.state_dict(), [16, 16])
