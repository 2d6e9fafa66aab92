"""Arrays of one value, laid out like others: large ones begin at the same place of a page of memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.rooms import assert_equal_bits, normal
from refoptim.numerics.array_types import LARGE, PAGE, filled

LAYOUTS = {
    "in C order": lambda x: x,
    "in Fortran's order": np.asfortranarray,
    "transposed": lambda x: np.ascontiguousarray(x.T).T,
    "every other one": lambda x: np.repeat(x, 2, 0)[::2],
    "shifted": lambda x: np.concatenate([np.zeros(5, x.dtype), x.reshape(-1)])[5:].reshape(x.shape),
    "not aligned": lambda x: np.frombuffer(b"?" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
}


@pytest.mark.parametrize("value", [0, 1.25])
@pytest.mark.parametrize("dtype", ["float16", "float32", "complex128"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_made_is_like_what_numpy_makes(layout: str, dtype: str, value: float) -> None:
    like = LAYOUTS[layout](np.ones((300, 500), dtype))
    assert like.nbytes >= LARGE
    made, expected = filled(like, like.shape, value), np.full_like(like, value)
    assert_equal_bits(made, expected)
    assert (made.strides, type(made)) == (expected.strides, np.ndarray)
    assert made.flags.writeable and made.flags.aligned
    assert (like.ctypes.data - made.ctypes.data) % PAGE < (1 if like.flags.aligned else like.itemsize)


@pytest.mark.parametrize("more", [{"shape": (9,)}, {"shape": (300, 500), "dtype": np.dtype("uint8")}])
def test_what_is_no_neighbour_lies_anywhere(more: dict[str, Any]) -> None:
    made = filled(np.ones((300, 500)), value=0, **more)
    assert made.base is None and not made.any()


def test_state_begins_where_its_parameter_does() -> None:
    p = normal(0, LARGE)[3:]
    optimizer = refoptim.Adam([p], amsgrad=True)
    optimizer.step(grads=[np.ones_like(p)])
    (state,) = optimizer.state.values()
    places = {x.ctypes.data % PAGE for x in (p, *(x for x in state.values() if isinstance(x, np.ndarray)))}
    assert len(places) == 1


def test_no_more_memory_is_taken_than_the_array_has() -> None:
    like = np.ones(1 << 20)
    tracemalloc.start()
    try:
        made = filled(like, like.shape, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made.nbytes <= peak < made.nbytes + 2 * PAGE
