"""SOAP, written out with loops and NumPy's own decompositions; what has matrices and what not; and where it runs."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.rooms import assert_equal_bits, assert_equal_runs, members, normal
from refoptim import functional
from refoptim.numerics import decompositions, tree

SETTINGS: dict[str, Any] = {
    "lr": 0.05,
    "betas": (0.7, 0.8),
    "shampoo_beta": 0.6,
    "eps": 1e-3,
    "weight_decay": 0.2,
    "precondition_frequency": 2,
}


def rotated(x: Any, bases: list[Any]) -> Any:
    """Sum over each axis in turn."""
    letters = "abc"[: x.ndim]
    for letter, q in zip(letters, bases, strict=True):
        x = x if q is None else np.einsum(f"{letters},{letter}z->{letters.replace(letter, 'z')}", x, q)
    return x


def gram(g: Any, axis: int) -> Any:
    rows = np.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
    return rows @ rows.T


def written_out(p: Any, grads: list[Any], longest: int) -> Any:
    """Take all steps of a parameter; axes longer than ``longest`` have no matrices."""
    (b1, b2), b3, lr, eps = SETTINGS["betas"], SETTINGS["shampoo_beta"], SETTINGS["lr"], SETTINGS["eps"]
    axes = [i for i in range(p.ndim) if p.shape[i] <= longest]
    averages = {i: (1 - b3) * gram(grads[0], i) for i in axes}
    bases = [np.linalg.eigh(averages[i])[1][:, ::-1] if i in axes else None for i in range(p.ndim)]
    m = v = np.zeros_like(p)
    for j, g in enumerate(grads[1:], 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * rotated(g, bases) ** 2
        u = rotated(rotated(m, bases) / (np.sqrt(v) + eps), [None if q is None else q.T for q in bases])
        p = (p - lr * sqrt(1 - b2**j) / (1 - b1**j) * u) * (1 - lr * SETTINGS["weight_decay"])
        for i in axes:
            averages[i] = b3 * averages[i] + (1 - b3) * gram(g, i)
        if j % SETTINGS["precondition_frequency"] == 0:
            for i in axes:
                product = averages[i] @ bases[i]
                order = np.argsort(-np.sum(bases[i] * product, axis=0))
                v = np.take(v, order, axis=i)
                bases[i] = np.linalg.qr(product[:, order])[0]
    return p


@pytest.mark.parametrize("products", ["exact", "library"])
@pytest.mark.parametrize(("shape", "longest"), [((4, 5), 9), ((3, 4), 3), ((3, 2, 4), 9), ((3, 4), 1)])
def test_steps_are_those_written_out(shape: tuple[int, ...], longest: int, products: str) -> None:
    start, grads = normal(0, *shape, dtype="float64"), [normal(k, *shape, dtype="float64") for k in range(1, 9)]
    p = start.copy()
    optimizer = refoptim.SOAP([p], max_precondition_dim=longest, products=products, **SETTINGS)
    for g in grads:
        optimizer.step(grads=[g])
    np.testing.assert_allclose(p, written_out(start, grads, longest), 1e-12)


def test_the_first_step_moves_nothing() -> None:
    p, g = normal(1, 3, 4), normal(2, 3, 4)
    before = p.copy()
    optimizer = refoptim.SOAP([p], **SETTINGS)
    optimizer.step(grads=[g])
    assert_equal_bits(p, before)
    kept = optimizer.state[p]
    assert kept["step"] == 1 and not kept["exp_avg"].any() and not kept["exp_avg_sq"].any()
    share = np.float32(1 - SETTINGS["shampoo_beta"])
    assert_equal_bits(kept["GG_1"], share * tree.matmul(g.T, g))
    assert_equal_bits(kept["Q_1"], decompositions.eigenvectors(kept["GG_1"]))


def test_what_has_matrices() -> None:
    shapes = [(), (5,), (0, 3), (2, 6), (3, 3, 3)]
    for vectors, expected in [(False, [[], [], [0, 1], [0], [0, 1, 2]]), (True, [[], [0], [0, 1], [0], [0, 1, 2]])]:
        params = [normal(i, *shape) for i, shape in enumerate(shapes)]
        optimizer = refoptim.SOAP(params, max_precondition_dim=5, precondition_1d=vectors)
        for k in range(12):
            optimizer.step(grads=[normal(9 + k, *shape) for shape in shapes])
        for p, shape, axes in zip(members(optimizer), shapes, expected, strict=True):
            kept = {name: x.shape for name, x in optimizer.state[p].items() if name[:2] in ("GG", "Q_")}
            assert kept == {f"{name}_{i}": (shape[i], shape[i]) for i in axes for name in ("GG", "Q")}
            assert np.isfinite(p.data).all()


def test_without_matrices_it_is_adam_one_step_later() -> None:
    """Adam and its decay after the step are taken by hand, torch's ``lerp`` and a quotient rounded one by one."""
    (p, q), grads = (
        (normal(3, 50, dtype="float64") for _ in range(2)),
        [normal(k, 50, dtype="float64") for k in range(9)],
    )
    ours, adam = refoptim.SOAP([p], **SETTINGS), refoptim.Adam([q], lr=0.05, betas=(0.7, 0.8), eps=1e-3)
    adam.param_groups[0]["eps"] = 0.0
    ours.param_groups[0]["eps"] = 0.0
    for k, g in enumerate(grads):
        ours.step(grads=[g])
        if k:
            adam.step(grads=[g])
            q *= 1 - SETTINGS["lr"] * SETTINGS["weight_decay"]
    np.testing.assert_allclose(p, q, 1e-13)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
def test_the_pure_rule_has_the_bits_of_the_optimizer(dtype: str) -> None:
    p, state = normal(0, 4, 3, dtype=dtype), None
    optimizer, params = refoptim.SOAP([p.copy()], **SETTINGS), [p]
    for t in range(1, 6):
        g = normal(t, 4, 3, dtype=dtype)
        params, state = functional.soap(params, [g], state, t, **SETTINGS)
        optimizer.step(grads=[g])
        assert_equal_bits(params[0], members(optimizer)[0].data, t)
        for name, x in state[0].items():
            assert_equal_bits(x, optimizer.state[members(optimizer)[0]][name], (t, name))


def test_large_parameters_have_the_bits_of_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrices of a parameter of three axes are not cut into its blocks."""
    runs = []
    for chunk in (1 << 15, 64):
        monkeypatch.setattr(tree, "CHUNK", chunk)
        optimizer = refoptim.SOAP([normal(0, 7, 6, 5)], **SETTINGS)
        for k in range(4):
            optimizer.step(grads=[normal(1 + k, 7, 6, 5)])
        runs.append(optimizer)
    assert_equal_runs(*runs)


@pytest.mark.parametrize("products", ["exact", "library"])
def test_cupys_functions_run_it(fake_cupy: Any, products: str) -> None:
    """On the stand-in for CuPy: the bits of NumPy's run, without a kernel of ours."""
    start, shape = normal(0, 4, 3), (4, 3)
    theirs = refoptim.SOAP([start.copy()], products=products, **SETTINGS)
    ours = refoptim.SOAP([fake_cupy.asarray(start)], products=products, **SETTINGS)
    for k in range(5):
        g = normal(1 + k, *shape)
        theirs.step(grads=[g])
        ours.step(grads=[fake_cupy.asarray(g)])
    p, q = members(ours)[0], members(theirs)[0]
    assert_equal_bits(p.data.get(), q.data)
    for name, x in theirs.state[q].items():
        assert_equal_bits(x if name == "step" else ours.state[p][name].get(), x, name)


def test_complex_parameters_are_refused() -> None:
    with pytest.raises(RuntimeError, match="SOAP does not support complex parameters"):
        refoptim.SOAP([np.ones((2, 2), complex)]).step(grads=[np.ones((2, 2), complex)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precondition_frequency": 0}, r"precondition_frequency must be in \[1, inf\)"),
        ({"max_precondition_dim": 0}, r"max_precondition_dim must be in \[1, inf\)"),
        ({"shampoo_beta": 1.0}, r"shampoo_beta must be in \[0, 1\)"),
        ({"products": "fast"}, "products must be one of"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refoptim.SOAP([np.ones((2, 2))], **settings)
