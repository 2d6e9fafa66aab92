"""The IEEE oracle: torch is an exact witness inside it, and as before after it."""

from __future__ import annotations

import pickle
import warnings
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import rounded
from refoptim.conformance.oracle import (
    Torch,
    check_rounding,
    ieee,
    rounded_schedules,
    to_numpy,
    to_torch,
    torch_schedulers,
)

from refoptim import SparseGrad
from refoptim.numerics.power import power

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


def settings() -> list[Any]:
    """Return what the oracle changes in torch."""
    methods = [vars(torch.Tensor).get(name) for name in ("sqrt", "sqrt_", "item", "numel")]
    modules = [torch.optim.lr_scheduler.math, torch.optim.swa_utils.math]
    return [*methods, *modules, torch.get_num_threads(), torch.backends.mkldnn.enabled]


def test_torch_is_as_before() -> None:
    torch.set_num_threads(2)
    before = settings()
    with pytest.raises(ZeroDivisionError), ieee():
        assert torch.get_num_threads() == 1
        assert not any(x is y for x, y in zip(settings(), before, strict=True) if x is not False)
        raise ZeroDivisionError
    assert settings() == before


def test_the_oracle_may_be_entered_twice() -> None:
    before = settings()
    with ieee():
        inside = settings()
        with ieee():
            pass
        assert settings() == inside
    assert settings() == before


POWERS = [
    ("PolynomialLR", (), dict(total_iters=977, power=3)),
    ("PolynomialLR", (977, 2.2), {}),
    ("ExponentialLR", (0.997,), {}),
    ("StepLR", (2,), {}),
    ("MultiStepLR", ([5, 5, 5, 90, 90],), {}),
]


@pytest.mark.parametrize(("name", "arguments", "keywords"), POWERS)
def test_powers_of_all_arguments_and_defaults_are_correctly_rounded(
    name: str, arguments: tuple[Any, ...], keywords: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every power that torch takes is one of ours, whatever an argument was given as."""
    asked = []
    monkeypatch.setattr(rounded, "power", lambda x, y: asked.append((x, y)) or power(x, y))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.7)
    optimizer._opt_called = True
    with rounded_schedules(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = torch_schedulers()[name](optimizer, *arguments, **keywords)
        for epoch in (3, 7, 90):
            scheduler.step(epoch)
    assert len(asked) >= 3


@pytest.mark.parametrize("name", ["Adam", "RAdam", "NAdam", "Adamax", "SparseAdam", "ASGD"])
def test_powers_of_defaults_are_correctly_rounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(rounded, "power", lambda x, y: asked.append((x, y)) or power(x, y))
    witness = Torch()
    witness.make(name, {}, [np.ones((2, 2))])
    g = SparseGrad([[0, 1]], np.ones((2, 2)), (2, 2)) if name == "SparseAdam" else np.ones((2, 2))
    for _ in range(3):
        witness.step([g])
    assert len(asked) >= 3


def test_reals_stay_reals() -> None:
    x = rounded.real({"a": (0.9, [2.5]), "b": 3, "c": None})
    y = pickle.loads(pickle.dumps(deepcopy(x)))
    for kept in (x["a"][0], y["a"][0], y["a"][1][0], 1 - x["a"][0], -x["a"][0] * 3, 2 / x["a"][0], x["a"][0] ** 2):
        assert type(kept) is rounded.Real
    assert (type(y["b"]), y["c"], y["a"]) == (int, None, (0.9, [2.5]))
    assert rounded.Whole(10) ** 0.5 == power(10, 0.5) and rounded.Whole(3) ** 2 == 9


def test_a_process_with_fused_multiply_add_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(RuntimeError, match="capability AVX512, the oracle needs DEFAULT"), ieee():
        pass


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="torch cannot flush subnormals on this processor")
def test_a_process_that_flushes_subnormals_is_refused() -> None:
    torch.set_flush_denormal(True)
    try:
        with pytest.raises(RuntimeError, match=r"into zeros [(]FTZ[)] and takes subnormal operands for zeros"), ieee():
            pass
    finally:
        torch.set_flush_denormal(False)


class Wrong:
    """Numbers whose results go through a function."""

    def __init__(self, x: Any, change: Any) -> None:
        self.x, self.change = x, change

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.x

    def __add__(self, other: Wrong) -> Any:
        return self.change(self.x + other.x, self.x, other.x)

    def __sub__(self, other: Wrong) -> Any:
        return self.change(self.x - other.x, self.x, -other.x)

    def __mul__(self, other: Wrong) -> Any:
        return self.change(self.x * other.x, self.x, self.x * 0)

    def __truediv__(self, other: Wrong) -> Any:
        return self.change(self.x / other.x, self.x, self.x * 0)


def flushed(z: Any, x: Any, y: Any) -> Any:
    return np.where(np.abs(z) < np.finfo(x.dtype).tiny, 0, z).astype(x.dtype)


def rounded_up(z: Any, x: Any, y: Any) -> Any:
    return np.where((y > 0) & (np.abs(x) >= 1), np.nextafter(x, x.dtype.type(np.inf)), z).astype(x.dtype)


def rounded_half_away(z: Any, x: Any, y: Any) -> Any:
    return np.where(y == 0.5 * np.finfo(x.dtype).eps, x * (1 + np.finfo(x.dtype).eps), z).astype(x.dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("change", [flushed, rounded_up, rounded_half_away])
def test_other_arithmetic_is_refused(change: Any, dtype: Any) -> None:
    check_rounding(np.array, dtype)
    says = "turns subnormal results into zeros" if change is flushed else "does not round to nearest even"
    with pytest.raises(RuntimeError, match=f"arithmetic in this process {says} ?[(;]"):
        check_rounding(lambda x: Wrong(x, change), dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "complex64"])
def test_tensors_keep_elements_shapes_and_strides(dtype: str) -> None:
    for x in (np.array(1.5, dtype), np.arange(6).astype(dtype).reshape(2, 3).T, np.arange(9).astype(dtype)[::2]):
        tensor = to_torch(x)
        assert tuple(tensor.shape) == x.shape
        assert [n * x.itemsize for n in tensor.stride()] == list(x.strides)
        assert to_numpy(tensor).tobytes() == x.tobytes()
