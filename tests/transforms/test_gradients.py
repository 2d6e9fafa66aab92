"""Transforms of gradients: exact values by hand, sums by exact arithmetic, and the libraries that have them."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import lr_witnesses

import refoptim
from refoptim import Parameter, SparseGrad, transforms

SHAPES = [(7,), (3, 4), (2, 3, 2), (4, 2, 3, 3)]

TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "adaptive_clip_grad_": lambda ps: transforms.adaptive_clip_grad_(ps, 0.02, 1e-2),
    "centralize_grad_": transforms.centralize_grad_,
    "clip_by_block_rms_": lambda ps: transforms.clip_by_block_rms_(ps, 0.5),
    "clip_by_global_norm_": lambda ps: transforms.clip_by_global_norm_(ps, 0.7),
}


def drawn(dtype: Any = np.float64) -> list[Parameter]:
    rng = np.random.default_rng(3)
    draws = [(rng.standard_normal(shape), rng.standard_normal(shape)) for shape in SHAPES]
    return [Parameter(x.astype(dtype), grad=g.astype(dtype)) for x, g in draws]


def exact_root(values: Any) -> float:
    return math.sqrt(sum(Fraction(float(x)) ** 2 for x in np.ravel(values)))


def units(x: Any) -> Any:
    return [x] if x.ndim < 2 else list(x)


def adaptive(p: Parameter, g: Any) -> Any:
    rows = []
    for w, row in zip(units(p.data), units(g), strict=True):
        longest, norm = max(exact_root(w), 1e-2) * 0.02, exact_root(row)
        rows.append(row if norm < longest else row * (longest / max(norm, 1e-6)))
    return rows[0] if g.ndim < 2 else np.stack(rows)


def centred(p: Parameter, g: Any) -> Any:
    if g.ndim < 2:
        return g
    return np.stack([row - float(sum(map(Fraction, np.ravel(row).tolist())) / row.size) for row in g])


def block(p: Parameter, g: Any) -> Any:
    return g / max(1.0, exact_root(g) / math.sqrt(g.size) / 0.5)


EXPECTED = {"adaptive_clip_grad_": adaptive, "centralize_grad_": centred, "clip_by_block_rms_": block}


@pytest.mark.parametrize("name", EXPECTED)
def test_values_are_those_of_exact_arithmetic(name: str) -> None:
    parameters = drawn()
    expected = [EXPECTED[name](p, p.grad.copy()) for p in parameters]
    before = [p.data.copy() for p in parameters]
    TRANSFORMS[name](parameters)
    for p, x, g in zip(parameters, before, expected, strict=True):
        np.testing.assert_allclose(p.grad, g, rtol=1e-14, atol=1e-16)
        assert np.array_equal(p.data, x)
    assert any(not np.array_equal(p.grad, q.grad) for p, q in zip(parameters, drawn(), strict=True))


def test_the_global_norm_has_no_epsilon() -> None:
    p = Parameter(np.zeros(2), grad=np.array([3.0, 4.0]))
    assert transforms.clip_by_global_norm_(p, 10.0) == 5 and p.grad.tolist() == [3, 4]
    assert transforms.clip_by_global_norm_(p, 5.0) == 5 and p.grad.tolist() == [3.0 / 5 * 5, 4.0 / 5 * 5]
    assert transforms.clip_by_global_norm_(p, 2.5) == 5 and p.grad.tolist() == [1.5, 2.0]
    assert transforms.clip_by_global_norm_([], 2.5) == 0


def test_values_by_hand() -> None:
    short = Parameter(np.array([[30.0, 40.0], [3.0, 4.0]]), grad=np.array([[3.0, 4.0], [3.0, 4.0]]))
    transforms.adaptive_clip_grad_(short, clip_factor=0.5)
    assert short.grad.tolist() == [[3.0, 4.0], [1.5, 2.0]], "a unit that is short enough keeps its gradient"
    p = Parameter(np.array([[3.0, 4.0], [0.0, 0.0]]), grad=np.array([[6.0, 8.0], [3.0, 4.0]]))
    transforms.adaptive_clip_grad_(p, clip_factor=0.5, eps=0.5)
    assert p.grad.tolist() == [[1.5, 2.0], [3 * (0.25 / 5), 4 * (0.25 / 5)]]
    transforms.centralize_grad_(p)
    assert p.grad.tolist()[0] == [-0.25, 0.25]
    q = Parameter(np.zeros(4), grad=np.array([2.0, 2.0, 2.0, 2.0]))
    transforms.centralize_grad_(q)
    transforms.clip_by_block_rms_(q, 0.5)
    assert q.grad.tolist() == [0.5] * 4
    transforms.clip_by_block_rms_(q, 0.75)
    assert q.grad.tolist() == [0.5] * 4
    kernel = Parameter(np.zeros((1, 1, 1, 2)), grad=np.array([[[[1.0, 3.0]]]]))
    transforms.centralize_grad_([kernel, p], min_ndim=4)
    assert kernel.grad.ravel().tolist() == [-1, 1] and p.grad.tolist()[0] == [-0.25, 0.25]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_sixteen_bits_are_rounded_once(name: str) -> None:
    narrow, wide = drawn(np.float16), drawn(np.float16)
    for p in wide:
        p.data, p.grad = p.data.astype(np.float32), p.grad.astype(np.float32)
    TRANSFORMS[name](narrow)
    TRANSFORMS[name](wide)
    for p, q in zip(narrow, wide, strict=True):
        assert p.grad.dtype == np.float16 and np.array_equal(p.grad, q.grad.astype(np.float16))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_empty_scalar_and_missing_gradients(name: str) -> None:
    members = [Parameter(np.zeros((0, 3)), grad=np.zeros((0, 3))), Parameter(np.zeros((3, 0)), grad=np.zeros((3, 0)))]
    scalar = Parameter(np.array(0.01), grad=np.array(5.0))
    TRANSFORMS[name]([*members, scalar, Parameter(np.zeros(3))])
    assert [p.grad.shape for p in members] == [(0, 3), (3, 0)] and scalar.grad.shape == ()
    assert (scalar.grad == 5) == (name == "centralize_grad_")


@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_is_not_finite_stays_so(name: str) -> None:
    for value in (math.nan, math.inf):
        p = Parameter(np.ones((2, 2)), grad=np.array([[value, 1.0], [1.0, 1.0]]))
        TRANSFORMS[name](p)
        assert not np.isfinite(p.grad).all()


REFUSED: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda ps: transforms.adaptive_clip_grad_(ps, -1), ValueError, "clip_factor"),
    (lambda ps: transforms.adaptive_clip_grad_(ps, eps=math.nan), ValueError, "eps"),
    (lambda ps: transforms.centralize_grad_(ps, 1), ValueError, "min_ndim"),
    (lambda ps: transforms.clip_by_block_rms_(ps, 0), ValueError, "threshold"),
    (lambda ps: transforms.clip_by_global_norm_(ps, -1), ValueError, "max_norm"),
    (lambda ps: transforms.centralize_grad_([*ps, 3]), TypeError, "Parameter"),
    (
        lambda ps: transforms.centralize_grad_([*ps, Parameter(np.zeros(2, complex), grad=np.ones(2, complex))]),
        NotImplementedError,
        "complex",
    ),
    (
        lambda ps: transforms.centralize_grad_([*ps, Parameter(np.zeros(3), grad=SparseGrad([[0]], [1.0], (3,)))]),
        TypeError,
        "sparse",
    ),
    (lambda ps: transforms.centralize_grad_([*ps, ps[0]]), ValueError, "share memory"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_what_is_wrong_is_refused_and_changes_nothing(
    call: Callable[[Any], Any], error: type[Exception], message: str
) -> None:
    parameters = drawn()
    with pytest.raises(error, match=message):
        call(parameters)
    assert all(np.array_equal(p.grad, q.grad) for p, q in zip(parameters, drawn(), strict=True))


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("fused", [False, True])
def test_steps_of_every_kind_take_what_they_made(name: str, fused: bool) -> None:
    if fused:
        from refoptim.engines import host

        if host.missing():
            pytest.skip(f"no kernels for this computer: {host.missing()}")
    parameters, others = drawn(), drawn()
    optimizer = refoptim.AdamW(parameters, lr=0.1, fused=fused)
    again = refoptim.AdamW(others, lr=0.1)
    TRANSFORMS[name](parameters)
    optimizer.step(found_inf=1.0)
    assert all(np.array_equal(p.data, q.data) for p, q in zip(parameters, drawn(), strict=True))
    optimizer.step()
    again.step(grads=[p.grad for p in parameters])
    assert all(np.array_equal(p.data, q.data) for p, q in zip(parameters, others, strict=True))


# Beside the libraries that have them.


def test_adaptive_clipping_is_that_of_timm() -> None:
    torch = pytest.importorskip("torch", reason="timm works on torch's tensors")
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    agc = lr_witnesses.bare_timm("timm.utils.agc")
    parameters = drawn()
    theirs = [torch.nn.Parameter(torch.from_numpy(p.data.copy())) for p in parameters]
    for p, q in zip(theirs, parameters, strict=True):
        p.grad = torch.from_numpy(q.grad.copy())
    agc.adaptive_clip_grad(theirs, 0.02, 1e-2)
    TRANSFORMS["adaptive_clip_grad_"](parameters)
    for p, q in zip(theirs, parameters, strict=True):
        np.testing.assert_allclose(q.grad, p.grad.numpy(), rtol=2e-15, atol=0)


@pytest.mark.parametrize("name", ["clip_by_block_rms_", "clip_by_global_norm_", "centralize_grad_"])
def test_the_others_are_those_of_optax(name: str) -> None:
    optax = pytest.importorskip("optax", reason="optax is not installed")
    jax = pytest.importorskip("jax", reason="jax is not installed")
    parameters = [p for p in drawn() if p.data.ndim > 1 or name != "centralize_grad_"]
    made = {
        "clip_by_block_rms_": lambda: optax.clip_by_block_rms(0.5),
        "clip_by_global_norm_": lambda: optax.clip_by_global_norm(0.7),
        "centralize_grad_": optax.centralize,
    }
    with jax.enable_x64(True):
        grads = [jax.numpy.asarray(p.grad) for p in parameters]
        transform = made[name]()
        found, _ = transform.update(grads, transform.init(grads))
    TRANSFORMS[name](parameters)
    for p, g in zip(parameters, found, strict=True):
        np.testing.assert_allclose(p.grad, np.asarray(g), rtol=1e-15, atol=5e-16)
