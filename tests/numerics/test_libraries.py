"""Arrays of other libraries: whose they are, how they are viewed, and what is refused."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.tensors import refused_tensors
from refoptim.numerics import libraries
from refoptim.numerics.libraries import library_of, telling, viewed

DTYPES = ("float64", "float32", "float16", "bfloat16", "complex64", "complex128")

LAYOUTS = {
    "whole": lambda x: x,
    "transposed": lambda x: x.t(),
    "strided": lambda x: x[::2, 1:],
    "one row": lambda x: x[1],
    "no axes": lambda x: x[1, 2],
    "empty": lambda x: x[:0],
}


class Lender:
    """An array that hands over its memory, of no library in the table."""

    stream: Any
    grad: Any

    def __init__(self, x: Any) -> None:
        self.x = x

    def __dlpack__(self, **options: Any) -> Any:
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.x.__dlpack_device__()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_is_viewed_where_it_lies(torch: Any, dtype: str, layout: str) -> None:
    """Each element is the tensor's, to the bit, and what is written into one shows in the other."""
    pytest.importorskip("ml_dtypes", reason="NumPy knows bfloat16 by ml_dtypes")
    whole = torch.arange(12).reshape(3, 4).to(getattr(torch, dtype)).requires_grad_()
    tensor = LAYOUTS[layout](whole)
    x = viewed(tensor)
    assert (x.shape, x.dtype.name) == (tuple(tensor.shape), dtype)
    assert not x.size or x.strides == tuple(n * tensor.element_size() for n in tensor.stride())
    assert x.astype(complex).tolist() == tensor.detach().to(torch.complex128).tolist()
    x[...] = 7
    assert (tensor.detach() == 7).all()


@pytest.mark.parametrize("what", ["negative", "conjugate", "meta", "sparse", "freed", "shrunk", "mkldnn"])
def test_a_tensor_whose_memory_holds_other_numbers_is_refused(torch: Any, what: str) -> None:
    tensor, message = refused_tensors(torch)[what]
    with pytest.raises(TypeError, match=re.escape(message)):
        viewed(tensor)


def test_tensors_inside_transforms_are_refused(torch: Any) -> None:
    """They stand for many, or for none."""
    seen = []

    def look(x: Any) -> Any:
        with pytest.raises(TypeError, match="does not hand its memory over"):
            viewed(x)
        seen.append(type(x))
        return x.sum()

    torch.func.vmap(look)(torch.ones(2, 3))
    torch.func.grad(look)(torch.ones(3))
    fake = torch._subclasses.fake_tensor.FakeTensorMode()
    with fake, pytest.raises(TypeError, match="does not hand its memory over"):
        viewed(torch.ones(3))
    assert len(seen) == 2


def test_bfloat16_without_ml_dtypes(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(libraries, "np_dtype", missing)
    with pytest.raises(TypeError, match=r"NumPy needs ml_dtypes to know bfloat16: pip install ml_dtypes"):
        viewed(torch.ones(2, dtype=torch.bfloat16))


def test_whose_array_it_is(torch: Any) -> None:
    assert library_of(np.ones(2)) is library_of(np.float32(1)) is library_of([1.0]) is library_of(None) is None
    for tensor in (torch.ones(2), torch.nn.Parameter(torch.ones(2))):
        library = library_of(tensor)
        assert library is not None
        assert library.package == "torch"
    assert library_of(Lender(np.ones(2))) is libraries.ANY


def test_what_lends_its_memory_is_viewed() -> None:
    x = np.ones((2, 3))
    y = viewed(Lender(x))
    y[1, 2] = 5
    assert x[1, 2] == 5
    assert viewed(x) is None


def test_writes_are_told_to_torch_once_for_all_tensors(torch: Any) -> None:
    tensors = [torch.ones(2), torch.ones(3, requires_grad=True), torch.ones(1)]
    before = [x._version for x in tensors]
    calls = telling([*tensors[:2], np.ones(2), Lender(np.ones(2)), None])
    assert len(calls) == 1
    assert [x._version for x in tensors] == before
    calls[0]()
    assert [x._version for x in tensors] == [before[0] + 1, before[1] + 1, before[2]]
    assert telling([np.ones(2)]) == []


def test_arrays_of_jax_are_viewed_but_cannot_be_parameters() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x = jax.numpy.arange(3.0)
    view = viewed(x)
    assert view.tolist() == [0, 1, 2]
    assert not view.flags.writeable
    library = library_of(x)
    assert library is not None
    with pytest.raises(TypeError, match=r"cannot be changed in place: use refoptim\.interop\.jax"):
        library.check(x)


def test_cupy_works_on_the_streams_of_the_libraries(fake_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stand-in for CuPy, and a library of its own whose arrays are on streams."""
    streams = [fake_cupy.cuda.Stream(), fake_cupy.cuda.Stream()]
    row = libraries.ANY._replace(stream=lambda x: x.stream)
    monkeypatch.setattr(libraries, "ANY", row)
    lenders = [Lender(np.ones(2)) for _ in range(4)]
    for lender, stream in zip(lenders, (streams[0], None, streams[0], streams[1]), strict=True):
        lender.stream = stream
    before = fake_cupy.cuda.get_current_stream()
    with libraries.on_their_streams([*lenders[:3], np.ones(2)]):
        assert fake_cupy.cuda.get_current_stream() == streams[0]
    with libraries.on_their_streams(lenders):
        assert fake_cupy.cuda.get_current_stream() == streams[1]
    assert fake_cupy.cuda.get_current_stream() == before


@pytest.mark.parametrize("name", ["SGD", "LBFGS"])
def test_a_step_is_taken_on_their_streams(name: str, fake_cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, seen = fake_cupy.cuda.Stream(), []
    row = libraries.ANY._replace(stream=lambda x: stream, telling=lambda x: partial(seen.append, current()))
    current = fake_cupy.cuda.get_current_stream
    monkeypatch.setattr(libraries, "ANY", row)
    lender = Lender(np.ones(2))
    lender.grad = None
    optimizer = getattr(refoptim, name)([lender])

    def closure() -> float:
        lender.grad = np.ones(2)
        return 1.0

    optimizer.step(closure)
    assert seen == [stream]
