"""Kernels keep subnormal numbers in a process that loses them, and leave its processors as they are set."""

from __future__ import annotations

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS, assert_same_bits
from helpers.processor import FLUSHING, PLAIN, get_mxcsr, mxcsr, needs_mxcsr

pytestmark = [needs_mxcsr, NEEDS_KERNELS]

SIZES = {"one thread": 1000, "several": 300_000}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("flushing", FLUSHING)
def test_kernels_keep_subnormal_numbers(flushing: str, size: str, dtype: str) -> None:
    """Parameters and updates are subnormal, and the steps are taken by hand, in NumPy's own loops."""
    rng = np.random.default_rng(4)
    w = (rng.standard_normal(SIZES[size]) * 4 * np.finfo(dtype).tiny).astype(dtype)
    grads = [np.roll(w, i) for i in (1, 2)]
    buffers = [grads[0], grads[0] * np.asarray(0.9, dtype) + grads[1]]
    expected = w + buffers[0] * np.asarray(-0.3, dtype) + buffers[1] * np.asarray(-0.3, dtype)
    optimizer = refoptim.SGD([w], lr=0.3, momentum=0.9, fused=True)
    with mxcsr(FLUSHING[flushing]):
        for g in grads:
            optimizer.step(grads=[g])
        after = get_mxcsr()
    assert after == PLAIN | FLUSHING[flushing]
    assert (np.abs(expected) < np.finfo(dtype).tiny).any()
    assert_same_bits(w, expected)
