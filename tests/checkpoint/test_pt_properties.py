"""Any nested data go through a .pt file with every bit, here and through torch, and any tensor of torch comes back."""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from helpers.pt_files import described
from refoptim.checkpoint import pt

bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes, which gives NumPy bfloat16, is not installed").bfloat16

many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

KINDS = ["bool", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16"]

integers = st.one_of(st.integers(-300, 300), st.integers(-(2**40), 2**40), st.integers(-(2**2000), 2**2000))
texts = st.text(st.characters(), max_size=20)
keys = st.one_of(texts, st.integers(-(2**63), 2**63), st.floats(allow_nan=False), st.booleans())


@st.composite
def strided(draw: st.DrawFn) -> Any:
    """Return an array of any dtype and bits, in any order, perhaps with steps or backwards, of either byte order."""
    x = draw(arrays.arrays(np.uint8, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
    dtype = np.dtype(draw(st.sampled_from(KINDS)))
    bits = draw(st.binary(min_size=x.size * dtype.itemsize, max_size=x.size * dtype.itemsize))
    if dtype == np.bool_:
        bits = bytes(b & 1 for b in bits)
    y = np.frombuffer(bits, dtype).reshape(x.shape)
    if dtype == np.uint16 and draw(st.booleans()):
        y = y.view(bfloat16)
    elif draw(st.booleans()):
        y = y.astype(y.dtype.newbyteorder(">"))
    y = y.transpose(draw(st.permutations(range(y.ndim))))
    return np.asarray(y[tuple(slice(None, None, draw(st.sampled_from([1, 1, 2, -1]))) for _ in range(y.ndim))])


leaves = st.one_of(
    *(st.none(), st.booleans(), integers, st.floats(), st.complex_numbers(), texts, st.binary(max_size=20), strided()),
    *(st.sets(keys, max_size=4), st.builds(Counter, st.dictionaries(keys, st.integers(0, 9), max_size=3))),
)


def containers(inner: Any) -> Any:
    listed, mapped = st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)
    return st.one_of(listed, st.builds(tuple, listed), mapped, st.builds(OrderedDict, mapped))


nested = st.recursive(leaves, containers, max_leaves=20)


def bits(x: Any) -> Any:
    """Return data to the bit: floats as their eight bytes, and arrays in the order of this computer."""
    if isinstance(x, np.ndarray):
        return described(x.astype(x.dtype.newbyteorder("=")))
    if isinstance(x, dict):
        return [type(x).__name__, [(bits(key), bits(y)) for key, y in x.items()]]
    if isinstance(x, (list, tuple)):
        return [type(x).__name__, [*map(bits, x)]]
    if isinstance(x, (float, complex)):
        return [type(x).__name__, struct.pack(">dd", x.real, x.imag)]
    return described(x) if hasattr(x, "detach") else [type(x).__name__, x]


@many
@given(nested)
def test_nested_data_come_back_to_the_bit(tmp_path: Path, x: Any) -> None:
    pt.save(tmp_path / "x.pt", x)
    assert bits(pt.load(tmp_path / "x.pt")) == bits(x)


@many
@given(nested)
def test_torch_reads_nested_data_to_the_bit(torch: Any, tmp_path: Path, x: Any) -> None:
    pt.save(tmp_path / "x.pt", x)
    assert bits(torch.load(tmp_path / "x.pt", weights_only=True)) == bits(x)


@many
@given(nested)
def test_what_was_read_makes_the_same_bytes(tmp_path: Path, x: Any) -> None:
    pt.save(tmp_path / "x.pt", x)
    pt.save(tmp_path / "y.pt", pt.load(tmp_path / "x.pt"))
    assert (tmp_path / "x.pt").read_bytes() == (tmp_path / "y.pt").read_bytes()


@st.composite
def views(draw: st.DrawFn) -> Any:
    """Return what makes a tensor of numbers that are counted: sizes, an order of axes, and a piece of each axis."""
    sizes = draw(st.lists(st.integers(0, 4), max_size=4))
    order = draw(st.permutations(range(len(sizes))))
    cuts = [(draw(st.integers(0, 4)), draw(st.integers(0, 4)), draw(st.integers(1, 3))) for _ in sizes]
    return sizes, order, [slice(begin, begin + length, step) for begin, length, step in cuts]


@many
@given(st.lists(views(), max_size=4), st.sampled_from(["float32", "bfloat16", "int64", "uint16", "complex64", "bool"]))
def test_views_of_torch_come_back_to_the_bit(torch: Any, tmp_path: Path, given: Any, kind: str) -> None:
    tensors = []
    for sizes, order, cuts in given:
        base = torch.arange(int(np.prod(sizes)), dtype=torch.int32).to(getattr(torch, kind)).reshape(sizes)
        tensors += [base, base.permute(order)[tuple(cuts)]]
    torch.save(tensors, tmp_path / "x.pt")
    read = pt.load(tmp_path / "x.pt")
    assert described(read) == described(tensors)
    for base, view in zip(read[::2], read[1::2], strict=True):
        assert np.shares_memory(base, view) == bool(view.size)
