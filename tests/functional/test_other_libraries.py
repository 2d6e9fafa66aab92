"""The pure rules on arrays of autograd and of the array API standard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.derivatives import SMOOTH, STEPS, loss, names, numbers, path, slope_by_number, slopes_by_array, trajectory
from refoptim import functional


@pytest.fixture
def autograd() -> Iterator[Any]:
    """Return autograd, with registers in double precision."""
    found = pytest.importorskip("autograd", reason="autograd is not installed")
    refoptim.set_default_dtype("float64")
    yield found
    refoptim.set_default_dtype("float32")


@pytest.fixture
def strict() -> Any:
    """Return the strict library of the array API standard."""
    return pytest.importorskip("array_api_strict", reason="array_api_strict is not installed")


@pytest.mark.parametrize("rule", SMOOTH)
def test_derivatives_of_autograd_by_settings(rule: str, autograd: Any) -> None:
    values, arrays = numbers(rule), path()
    for i in range(len(values)):
        found = autograd.grad(lambda x, i=i: loss(rule, [*values[:i], x, *values[i + 1 :]], arrays))(values[i])
        np.testing.assert_allclose(found, slope_by_number(rule, i), rtol=1e-6, atol=1e-9, err_msg=names(rule)[i])


INDEPENDENT = pytest.mark.filterwarnings("ignore:Output seems independent of input")  # Rprop's gradients only choose


@INDEPENDENT
@pytest.mark.parametrize("rule", SMOOTH)
def test_derivatives_of_autograd_by_parameter_and_gradients(rule: str, autograd: Any) -> None:
    arrays, values = path(), numbers(rule)
    for i in (0, 1, STEPS // 2):
        found = autograd.grad(lambda x, i=i: loss(rule, values, [*arrays[:i], x, *arrays[i + 1 :]]))(arrays[i])
        np.testing.assert_allclose(found, slopes_by_array(rule, i), rtol=1e-6, atol=1e-8)


@INDEPENDENT
@pytest.mark.parametrize("rule", SMOOTH)
def test_bits_of_autograd(rule: str, autograd: Any) -> None:
    """While it differentiates by a gradient, which then also is a state."""
    seen = []
    p, g, h, *_ = (x.astype(np.float32) for x in path())

    def after(g: Any) -> Any:
        new, state = trajectory(rule, numbers(rule), p, [g, h])
        seen.append((new, state))
        return new.sum() + sum(x.sum() for x in state.values() if len(x.shape))

    autograd.grad(after)(g)
    (new, kept), (expected, state) = seen[0], trajectory(rule, numbers(rule), p, [g, h])
    for theirs, ours in [(new, expected), *((kept[name], x) for name, x in state.items())]:
        found = np.asarray(autograd.tracer.getval(theirs))
        assert found.dtype == ours.dtype
        assert found.tobytes() == ours.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", SMOOTH)
def test_bits_of_the_array_api(rule: str, dtype: str, strict: Any) -> None:
    arrays, values = path(dtype), numbers(rule)
    p, state = trajectory(rule, values, arrays[0], arrays[1:])
    new, kept = trajectory(rule, values, strict.asarray(arrays[0]), [strict.asarray(x) for x in arrays[1:]])
    assert type(new).__module__.startswith("array_api_strict")
    for theirs, ours in [(new, p), *((kept[name], x) for name, x in state.items())]:
        assert np.asarray(theirs).tobytes() == ours.tobytes()


def test_complex_arrays_of_the_array_api(strict: Any) -> None:
    x = strict.asarray(np.ones(3, np.complex128))
    with pytest.raises(TypeError, match="complex arrays of array_api_strict are not supported: give their real and"):
        functional.sgd([x], [x], None, 1)
