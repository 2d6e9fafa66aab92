"""Sparse gradients: what they stand for, the one order in which duplicates are added, and whom they touch."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from refoptim.conformance.oracle import ieee

import refoptim
from helpers.refusals import refused
from helpers.rooms import assert_equal_bits, assert_equal_runs, make, members, normal
from refoptim import SparseGrad, functional

F32 = np.float32


def nearest(x: Fraction) -> np.float32:
    """Round an exact number to float32 (normal range), ties to even."""
    if not x:
        return F32(0)
    ulp = Fraction(2) ** (math.floor(math.log2(abs(x))) - 23)
    return F32(float(round(x / ulp) * ulp))


def dense(g: SparseGrad) -> Any:
    """Return the sum of all entries, added one by one in the order in which they are stored, exactly rounded."""
    out = np.zeros(g.shape, g.dtype)
    seen: set[tuple[Any, ...]] = set()
    for entry in range(g.indices.shape[1]):
        at = tuple(int(i) for i in g.indices[:, entry])
        for rest in np.ndindex(g.values.shape[1:]):
            here, value = (*at, *rest), g.values[(entry, *rest)]
            out[here] = nearest(Fraction(float(out[here])) + Fraction(float(value))) if here in seen else value
            seen.add(here)
    return out


SHAPES = [((6,), 1), ((5, 3), 1), ((4, 3), 2), ((3, 4, 2), 1), ((3, 4, 2), 2), ((3, 2, 2), 3)]
"""Shapes and their numbers of sparse axes."""


def drawn(shape: tuple[int, ...], axes: int, nnz: int, seed: int) -> SparseGrad:
    """Draw a sparse gradient with many duplicates and values of very different sizes."""
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.integers(0, n, nnz) for n in shape[:axes]])
    values = rng.standard_normal((nnz, *shape[axes:])) * 10.0 ** rng.integers(-6, 7, (nnz, *shape[axes:]))
    return SparseGrad(indices, values.astype(F32), shape)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_duplicates_are_added_in_the_order_in_which_they_are_stored(shape: Any, axes: int, seed: int) -> None:
    g = drawn(shape, axes, 17, seed)
    assert_equal_bits(g.to_dense(), dense(g))


def test_the_order_matters() -> None:
    """1e8 + 1 - 1e8 is 0 in float32 and 1 in another order."""
    for order in itertools.permutations([1e8, 1.0, -1e8]):
        g = SparseGrad([[2, 2, 2]], np.array(order, F32), (4,))
        total = F32(0)
        for x in order:
            total = F32(total + F32(x))
        assert g.to_dense()[2] == total


def test_coalescing_sorts_rows_and_keeps_dense_rows_whole() -> None:
    g = SparseGrad([[3, 0, 3], [1, 2, 1]], np.array([[1, 2], [3, 4], [5, 6]], F32), (4, 3, 2))
    rows, values = g.coalesce()
    assert rows.tolist() == [2, 10]
    assert values.tolist() == [[3, 4], [6, 8]]


def test_half_precision_sums_are_rounded_once() -> None:
    """2048 + 1 + 1 is 2050; rounded after each addition to float16, it would be 2048."""
    g = SparseGrad([[0, 0, 0, 1]], np.array([2048, 1, 1, 0.5], np.float16), (2,))
    assert g.to_dense().tolist() == [2050, 0.5]
    assert g.to_dense().dtype == np.float16


def test_complex_values() -> None:
    g = SparseGrad([[1, 1, 0]], np.array([1 + 2j, 3 - 5j, 1j], np.complex64), (3,))
    assert g.to_dense().tolist() == [1j, 4 - 3j, 0]


def test_zeros_keep_their_signs() -> None:
    """A single entry is what it is; only what is added is a sum."""
    g = SparseGrad([[0, 1, 1, 2]], np.array([-0.0, -0.0, 0.0, 0.0], F32), (4,))
    assert np.signbit(g.to_dense()).tolist() == [True, False, False, False]


EMPTY = [
    (np.zeros((1, 0), int), np.zeros(0, F32), (3,)),
    (np.zeros((1, 0)), np.zeros((0, 2), F32), (3, 2)),
    (np.zeros((2, 0), int), np.zeros(0, F32), (3, 0)),
    (np.zeros((1, 0), int), np.zeros((0, 3), F32), (0, 3)),
    ([[1, 2]], np.zeros((2, 0), F32), (4, 0)),
]


@pytest.mark.parametrize(("indices", "values", "shape"), EMPTY)
def test_nothing_in_it(indices: Any, values: Any, shape: tuple[int, ...]) -> None:
    g = SparseGrad(indices, values, shape)
    assert_equal_bits(g.to_dense(), np.zeros(shape, F32))
    for name in ("SGD", "SparseAdam", "Adagrad"):
        x = normal(1, *shape)
        optimizer = getattr(refoptim, name)([x])
        optimizer.step(grads=[g])
        assert_equal_bits(x, normal(1, *shape))
        assert optimizer.state.get(members(optimizer)[0], {}).get("step") == (None if name == "SGD" else 1)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_indices_of_any_integers(dtype: Any) -> None:
    """Also those whose dtype does not reach the size of the shape."""
    g = SparseGrad(np.array([[2, 0]], dtype), [2.0, 3.0], (300,))
    assert_equal_bits(g.to_dense()[:4], np.array([3.0, 0, 2, 0]))


def test_it_looks_at_arrays_and_copies_lists() -> None:
    indices, values = np.array([[0, 2]]), normal(1, 2)
    g = SparseGrad(indices, values, (3,))
    assert g.indices is indices
    assert g.values is values
    assert (g.shape, g.dtype) == ((3,), np.dtype("float32"))
    assert repr(g) == "SparseGrad(shape=(3,), nnz=2, dtype=float32)"
    assert SparseGrad([[0]], [1.5], [np.int64(2)]).shape == (2,)


# scipy.sparse


FORMATS = ["coo", "csr", "csc", "bsr", "lil", "dok", "dia"]


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "SparseAdam"])
def test_scipys_sparse_arrays(name: str, form: str, kind: str) -> None:
    """The same as the entries written out."""
    more = {"weight_decay": 0} if name != "SparseAdam" else {}
    values = np.where(normal(3, 4, 3) > 0.3, normal(1, 4, 3), F32(0))
    given = getattr(scipy.sparse, f"{form}_{kind}")(values)
    at = np.nonzero(values) if form != "dia" else given.tocoo().coords if kind == "array" else given.tocoo().nonzero()
    ours, theirs = make(name, [normal(2, 4, 3)], **more), make(name, [normal(2, 4, 3)], **more)
    for _ in range(3):
        ours.step(grads=[SparseGrad(np.stack(at), values[at], (4, 3))])
        theirs.step(grads=[given])
    assert_equal_runs(ours, theirs)


def test_scipys_duplicates_are_added_in_their_order() -> None:
    order = np.array([1e8, 1, -1e8, 3], F32)
    given = scipy.sparse.coo_array((order, ([1, 1, 1, 0], [2, 2, 2, 0])), shape=(2, 3))
    x = np.zeros((2, 3), F32)
    refoptim.SGD([x], lr=1).step(grads=[given])
    assert x.tolist() == [[-3, 0, 0], [0, 0, 0]]
    refoptim.SGD([x], lr=1, maximize=True).step(grads=[given.T.tocoo().T])
    assert x.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_scipys_vectors() -> None:
    x = np.zeros(4)
    refoptim.SGD([x], lr=0.5).step(grads=[scipy.sparse.coo_array(np.array([0.0, 2.0, 0.0, 4.0]))])
    assert x.tolist() == [0, -1, 0, -2]


# Steps


def test_a_sparse_step_of_sgd_is_the_dense_one() -> None:
    """Without momentum and decay; with momentum the gradient becomes dense, and all rows move on."""
    for settings in ({"lr": 0.3}, {"lr": 0.3, "momentum": 0.9, "nesterov": True}, {"lr": 0.3, "maximize": True}):
        sparse, full = (refoptim.SGD([normal(1, 5, 3)], **settings) for _ in range(2))
        for k in range(4):
            g = drawn((5, 3), 1, 4, k)
            sparse.step(grads=[g])
            full.step(grads=[dense(g)])
        assert_equal_runs(sparse, full)


def sqrt32(x: np.float32) -> np.float32:
    """The root of a float32 by way of doubles, which is correctly rounded."""
    return F32(math.sqrt(float(x)))


def by_hand(p: Any, grads: list[SparseGrad], lr: float, betas: tuple[float, float], eps: float) -> Any:
    """SparseAdam written out, one element after another, each operation rounded to float32."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    c1, c2 = F32(1 - betas[0]), F32(1 - betas[1])
    for k, g in enumerate(grads, 1):
        scale = F32(-(lr * math.sqrt(1 - betas[1] ** k) / (1 - betas[0] ** k)))
        full = dense(g)
        for row in {int(i) for i in g.indices[0]}:
            for j in range(p.shape[1]):
                x = full[row, j]
                m[row, j] += (x - m[row, j]) * c1
                v[row, j] += (x * x - v[row, j]) * c2
                p[row, j] += m[row, j] / (sqrt32(v[row, j]) + F32(eps)) * scale
    return p, m, v


def test_sparse_adam_moves_the_rows_it_is_given_alone() -> None:
    grads = [drawn((30, 2), 1, 5, k) for k in range(5)]
    optimizer = refoptim.SparseAdam([normal(1, 30, 2)], lr=0.02, betas=(0.8, 0.95), eps=1e-3)
    for g in grads:
        optimizer.step(grads=[g])
    (p,) = members(optimizer)
    expected, m, v = by_hand(normal(1, 30, 2), grads, 0.02, (0.8, 0.95), 1e-3)
    touched = sorted({int(i) for g in grads for i in g.indices[0]})
    assert 10 < len(touched) < 30
    assert_equal_bits(p.data, expected)
    assert_equal_bits(optimizer.state[p]["exp_avg"], m)
    assert_equal_bits(optimizer.state[p]["exp_avg_sq"], v)


@pytest.mark.parametrize("name", ["SGD", "SparseAdam", "Adagrad"])
def test_any_layout_of_the_parameter(name: str) -> None:
    more = {"weight_decay": 0} if name != "SparseAdam" else {}
    layouts = [np.asfortranarray, lambda x: np.repeat(x, 2, 0)[::2], lambda x: x[::-1].copy()[::-1], np.array]
    runs = []
    for layout in layouts:
        optimizer = make(name, [layout(normal(1, 5, 4, 3))], **more)
        for k in range(3):
            optimizer.step(grads=[drawn((5, 4, 3), 1 + k % 2, 7, k)])
        runs.append(optimizer)
    for run in runs[:-1]:
        assert_equal_runs(run, runs[-1])


@pytest.mark.parametrize("name", ["SGD", "SparseAdam", "Adagrad"])
def test_the_pure_rule_takes_them_too(name: str) -> None:
    settings = {"lr": 0.05} if name == "SGD" else {"lr": 0.05, "eps": 1e-3}
    pure = getattr(functional, {"SparseAdam": "sparse_adam"}.get(name, name.lower()))
    params, state = [normal(1, 5, 3)], None
    optimizer = getattr(refoptim, name)([normal(1, 5, 3)], **settings)
    for k in range(1, 5):
        g = drawn((5, 3), 1, 6, k)
        params, state = pure(params, [g], state, k, **settings)
        optimizer.step(grads=[g])
    (p,) = members(optimizer)
    assert_equal_bits(params[0], p.data)
    for key, x in state[0].items():
        assert_equal_bits(x, optimizer.state[p][key])


def test_sparse_and_dense_gradients_take_turns() -> None:
    """An optimizer that takes both keeps one state."""
    optimizer = refoptim.Adagrad([normal(1, 4, 2)], lr=0.1, eps=1e-3)
    g = drawn((4, 2), 1, 3, 1)
    optimizer.step(grads=[g])
    optimizer.step(grads=[dense(g)])
    total = dense(g) ** 2
    assert_equal_bits(optimizer.state[members(optimizer)[0]]["sum"], total + total)


def test_many_parameters_at_once() -> None:
    """Sparse and dense ones, in one group, none of which disturbs another."""
    shapes = [(5, 3), (4,), (5, 3), (2, 2)]
    grads = [drawn((5, 3), 1, 4, 1), normal(2, 4), None, drawn((2, 2), 2, 3, 4)]
    together = refoptim.Adagrad([normal(i, *shape) for i, shape in enumerate(shapes)], lr=0.1)
    alone = [refoptim.Adagrad([normal(i, *shape)], lr=0.1) for i, shape in enumerate(shapes)]
    for _ in range(3):
        together.step(grads=grads)
        for optimizer, g in zip(alone, grads, strict=True):
            optimizer.step(grads=[g])
    for p, optimizer in zip(members(together), alone, strict=True):
        assert_equal_bits(p.data, members(optimizer)[0].data)


def of_torch(torch: Any, g: SparseGrad) -> Any:
    return torch.sparse_coo_tensor(
        torch.from_numpy(g.indices), torch.from_numpy(g.values), g.shape, check_invariants=True
    )


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
@pytest.mark.parametrize("name", ["SGD", "SparseAdam", "Adagrad"])
def test_sparse_tensors_of_torch(torch: Any, name: str, shape: Any, axes: int) -> None:
    """They share their memory; duplicates count as they do in a SparseGrad."""
    more = {} if name == "SparseAdam" else {"weight_decay": 0}
    one, other = (make(name, [normal(1, *shape)], **more) for _ in range(2))
    for k in range(3):
        g = drawn(shape, axes, 7, k)
        one.step(grads=[of_torch(torch, g)])
        other.step(grads=[g])
    assert_equal_runs(one, other)


def test_a_sparse_embedding_of_torch(torch: Any) -> None:
    layer = torch.nn.Embedding(5, 3, sparse=True)
    w = layer.weight.detach().numpy().copy()
    layer(torch.tensor([1, 4])).pow(2).sum().backward()
    refoptim.SparseAdam([w], lr=0.1).step(grads=[layer.weight.grad])
    with ieee():
        torch.optim.SparseAdam([layer.weight], lr=0.1).step()
    assert_equal_bits(w, layer.weight.detach().numpy())


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_tensors_that_cannot_be_taken(torch: Any) -> None:
    w = normal(1, 4, 3)
    optimizer = refoptim.SGD([w])
    parts = torch.zeros(1, 2, dtype=torch.long, device="meta"), torch.ones(2, 3, device="meta")
    meta = torch.sparse_coo_tensor(*parts, (4, 3))
    for grad, message in (
        (meta, "make a SparseGrad of its parts: a tensor must lie on the CPU or"),
        (torch.eye(4, 3).to_sparse_csr(), "torch.strided or torch.sparse_coo, got torch.sparse_csr: call to_d"),
        (torch.eye(4, 3, dtype=torch.float64).to_sparse(), "the gradient must have dtype float32, got float64"),
    ):
        refused([optimizer, w], lambda grad=grad: optimizer.step(grads=[grad]), TypeError, message)
