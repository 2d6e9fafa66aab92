"""Muon's kernels on the host: the reference's bits for every storage, dtype of the iteration and shape."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
from refoptim.kernels import muon
from refoptim.kernels.muon import Products

import refoptim
from helpers.kernels import NEEDS_KERNELS, dtype_of
from helpers.rooms import assert_equal_runs, normal
from refoptim.engines import host
from refoptim.engines.host import Host
from refoptim.engines.launches import Step, Tensor
from refoptim.numerics import tree
from refoptim.step.rule import record, resolve, step_scalars

pytestmark = NEEDS_KERNELS

SETTINGS: dict[str, Any] = {"lr": 0.07, "momentum": 0.8, "weight_decay": 0.03, "ns_coefficients": (3.1, -4.2, 1.7)}

SHAPES = [(0, 3), (3, 0), (1, 1), (1, 1500), (1500, 1), (5, 7), (7, 5), (64, 64), (65, 130), (131, 67)]


def machines() -> list[Host]:
    """Return the host once for each instruction set that this processor has."""
    machine = host.machine()
    return [Host(machine.kernels, variant) for variant in host.variants(machine.kernels)]


def array(seed: int, shape: tuple[int, ...], dtype: str) -> Any:
    return normal(seed, *shape).astype(dtype_of(dtype))


def run(p: Any, fused: bool, **more: Any) -> refoptim.Optimizer:
    optimizer = refoptim.Muon([p], fused=fused, **{**SETTINGS, **more})
    with refoptim.rounding("store"):
        for k in range(2):
            optimizer.step(grads=[array(k, p.shape, p.dtype.name)])
    return optimizer


@pytest.mark.parametrize("ns_dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_have_the_bits_of_the_reference(shape: tuple[int, int], dtype: str, ns_dtype: str) -> None:
    p = array(9, shape, dtype)
    more: dict[str, Any] = {"ns_dtype": ns_dtype, "ns_steps": 2}
    assert_equal_runs(run(p.copy(), True, **more), run(p.copy(), False, **more))


@pytest.mark.parametrize(
    "more",
    [
        {"nesterov": False, "maximize": True},
        {"momentum": 0.3, "adjust_lr_fn": "match_rms_adamw"},
        {"ns_steps": 0},
        {"eps": 1e3},
        {"ns_coefficients": (-1e30, 1e30, 1e30), "ns_dtype": "float32"},
    ],
    ids=str,
)
def test_every_option(more: dict[str, Any]) -> None:
    """The last iteration overflows to infinities and NaNs."""
    p = array(9, (12, 8), "float32")
    one, other = run(p.copy(), True, **more), run(p.copy(), False, **more)
    for optimizer in (one, other):
        q = optimizer.param_groups[0]["params"][0].data
        q[np.isnan(q)] = 0
    assert_equal_runs(one, other)


def test_arrays_that_are_not_one_piece_of_memory() -> None:
    p, q = (np.asfortranarray(array(9, (6, 10), "float64"))[:, ::2] for _ in range(2))
    assert_equal_runs(run(p, True), run(q, False))


def product(machine: Host, left: Any, right: Any, **more: Any) -> Any:
    columns = len(right) if more.get("transposed") else right.shape[1]
    out = np.full((len(left), columns), np.nan, left.dtype)
    Products(machine, left.dtype, np.int64(0))(left, right, out, **more)
    return out


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 5, 7), (130, 70, 129), (1, 300, 1), (200, 1, 140), (5, 0, 3)], ids=str
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_add_in_order_for_every_instruction_set(dtype: str, shape: tuple[int, int, int]) -> None:
    m, k, n = shape
    a, b, addend = array(1, (m, k), dtype), array(2, (k, n), dtype), array(3, (m, n), dtype)
    number = a.dtype.type
    for machine in machines():
        assert product(machine, a, b).tobytes() == tree.matmul(a, b).tobytes()
        assert product(machine, a, b.T.copy(), transposed=True).tobytes() == tree.matmul(a, b).tobytes()
        assert product(machine, a, a, transposed=True, symmetric=True).tobytes() == tree.matmul(a, a.T).tobytes()
        expected = addend * number(0.3) + tree.matmul(a, b) * number(1.7)
        assert product(machine, a, b, addend=addend, b=0.3, c=1.7).tobytes() == expected.tobytes()


def test_no_result_depends_on_blocks_or_threads() -> None:
    a = array(1, (200, 90), "float32")
    machine = host.Host(host.machine().kernels, host.machine().variant)
    expected = tree.matmul(a, a.T)
    for blocks, threads in [(1, 1), (3, 2), (40, 5)]:
        machine.threads = lambda n=threads: n  # type: ignore[misc]
        launch = partial(lambda n, stem, entry, _, *x: Host.launch(machine, stem, entry, n, *x), blocks)
        with mock.patch.object(machine, "launch", launch):
            assert product(machine, a, a, transposed=True, symmetric=True).tobytes() == expected.tobytes()


def master(p: Any, half: Any, g: Any, momentum: Any, **more: Any) -> None:
    h = resolve(refoptim.Muon, refoptim.Muon([p.copy()], **SETTINGS).param_groups[0])
    s = record(step_scalars(refoptim.Muon, h, 1, {}), p.dtype)
    muon.update(host.machine(), refoptim.Muon, Step(s, False, **more), [Tensor(p, g, (momentum,), half)])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_master_copy_is_updated_and_rounded(dtype: str) -> None:
    """The 16-bit gradient is widened exactly, so the float32 reference is the witness."""
    p, g = array(1, (9, 5), "float32"), array(2, (9, 5), dtype)
    half, momentum = np.empty((9, 5), g.dtype), np.zeros((9, 5), np.float32)
    optimizer = refoptim.Muon([p.copy()], **SETTINGS)
    optimizer.step(grads=[g.astype(np.float32)])
    q = optimizer.param_groups[0]["params"][0]
    master(p, half, g, momentum)
    assert p.tobytes() == q.data.tobytes()
    assert momentum.tobytes() == optimizer.state[q]["momentum_buffer"].tobytes()
    assert half.tobytes() == q.data.astype(g.dtype).tobytes()


def test_a_scale_divides_the_gradient_and_a_flag_skips_the_step() -> None:
    p, g = array(1, (9, 5), "float32"), array(2, (9, 5), "float32")
    scale, flag = np.float32([3]), np.float32([1])
    one, other, skipped = p.copy(), p.copy(), p.copy()
    momentum = [np.zeros_like(p) for _ in range(3)]
    master(one, None, g, momentum[0], grad_scale=scale)
    master(other, None, g / np.float32(3), momentum[1])
    master(skipped, None, g, momentum[2], found_inf=flag)
    assert one.tobytes() == other.tobytes() != p.tobytes()
    assert momentum[0].tobytes() == momentum[1].tobytes()
    assert skipped.tobytes() == p.tobytes() and not momentum[2].any()
