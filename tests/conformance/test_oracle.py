"""The IEEE oracle: torch is an exact witness inside it, and as before after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from refoptim.conformance.oracle import check_rounding, ieee, to_numpy, to_torch

torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")


def exact_roots(x: Any) -> Any:
    """Return correctly rounded float32 roots, by way of float64, which has more than twice the digits."""
    return np.sqrt(x.astype(np.float64)).astype(np.float32)


@pytest.mark.parametrize("layout", [lambda x: x, lambda x: x[::2], lambda x: x.reshape(100, 40).T, lambda x: x[7]])
def test_roots_are_correctly_rounded(layout: Any) -> None:
    x = np.random.default_rng(1).random(4000, np.float32) * np.float32(1e-3)
    with ieee():
        tensor = layout(torch.from_numpy(x.copy()))
        roots = to_numpy(tensor.sqrt())
        assert tensor.sqrt_() is tensor
    expected = np.asarray(exact_roots(layout(x)))
    assert (roots.shape, roots.dtype, roots.tobytes()) == (expected.shape, expected.dtype, expected.tobytes())
    assert to_numpy(tensor).tobytes() == expected.tobytes()


def test_torch_is_as_before() -> None:
    before = (torch.Tensor.sqrt, torch.Tensor.sqrt_, torch.get_num_threads(), torch.backends.mkldnn.enabled)
    with pytest.raises(ZeroDivisionError), ieee():
        assert torch.get_num_threads() == 1
        assert torch.Tensor.sqrt is not before[0]
        raise ZeroDivisionError
    assert (torch.Tensor.sqrt, torch.Tensor.sqrt_, torch.get_num_threads(), torch.backends.mkldnn.enabled) == before


def test_a_process_with_fused_multiply_add_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(RuntimeError, match="capability AVX512, the oracle needs DEFAULT"), ieee():
        pass


class Wrong:
    """Numbers whose sums go through a function."""

    def __init__(self, x: Any, change: Any) -> None:
        self.x, self.change = x, change

    def __add__(self, other: Wrong) -> Any:
        return self.change(self.x, other.x)


def flushed(x: Any, y: Any) -> Any:
    return np.where(np.abs(x + y) < np.finfo(x.dtype).tiny, 0, x + y).astype(x.dtype)


def rounded_up(x: Any, y: Any) -> Any:
    return np.where(y > 0, np.nextafter(x, x.dtype.type(np.inf)), x + y).astype(x.dtype)


def rounded_half_away(x: Any, y: Any) -> Any:
    return np.where(y == 0.5 * np.finfo(x.dtype).eps, x * (1 + np.finfo(x.dtype).eps), x + y).astype(x.dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("change", [flushed, rounded_up, rounded_half_away])
def test_other_arithmetic_is_refused(change: Any, dtype: Any) -> None:
    check_rounding(np.array, dtype)
    with pytest.raises(RuntimeError, match="subnormals or are not rounded to nearest even"):
        check_rounding(lambda x: Wrong(x, change), dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
def test_tensors_keep_elements_shapes_and_strides(dtype: str) -> None:
    for x in (np.array(1.5, dtype), np.arange(6).astype(dtype).reshape(2, 3).T, np.arange(9).astype(dtype)[::2]):
        tensor = to_torch(x)
        assert tuple(tensor.shape) == x.shape
        assert [n * x.itemsize for n in tensor.stride()] == list(x.strides)
        assert to_numpy(tensor).tobytes() == x.tobytes()
