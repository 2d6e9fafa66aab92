"""Arithmetic that is not IEEE 754's is noticed, whatever else the process computes with it."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from helpers.processor import FLUSHING, mxcsr, needs_mxcsr
from refoptim.numerics.ieee import FLUSHED, IGNORED, ROUNDED, SAMPLES, Sample, check_arithmetic, check_rounding

SAYS = {"FTZ": [FLUSHED], "DAZ": [IGNORED], "FTZ and DAZ": [FLUSHED, IGNORED]}
DTYPES = [np.float32, np.float64]
MODES = {"down": 0x2000, "up": 0x4000, "to zero": 0x6000}


def message() -> str:
    try:
        check_arithmetic()
    except RuntimeError as error:
        return str(error)
    return ""


@needs_mxcsr
@pytest.mark.parametrize("flushing", FLUSHING)
def test_a_processor_that_loses_subnormals_is_noticed(flushing: str) -> None:
    with mxcsr(FLUSHING[flushing]):
        found = message()
    expected = f"float32 arithmetic in this process {' and '.join(SAYS[flushing])}; a library set the processor so"
    assert found.startswith(expected) and len(found) < 300
    assert message() == ""


@needs_mxcsr
@pytest.mark.parametrize("mode", MODES)
def test_a_processor_that_rounds_otherwise_is_noticed(mode: str) -> None:
    with mxcsr(MODES[mode]):
        found = message()
    assert ROUNDED in found and FLUSHED not in found and IGNORED not in found


@needs_mxcsr
@pytest.mark.parametrize("flushing", FLUSHING)
def test_a_thread_computes_as_the_one_that_started_it(flushing: str) -> None:
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(message())) for _ in range(2)]
    with mxcsr(FLUSHING[flushing]):
        threads[0].start()
        threads[0].join()
    threads[1].start()
    threads[1].join()
    assert SAYS[flushing][0] in found[0] and found[1] == ""


def exact(bits: int, dtype: Any) -> Fraction:
    """Read a number by hand: sign, exponent and fraction."""
    fraction, exponent = (23, 8) if dtype is np.float32 else (52, 11)
    low, e = bits & ((1 << fraction) - 1), (bits >> fraction) & ((1 << exponent) - 1)
    whole = low if e == 0 else low | 1 << fraction
    sign = -1 if bits >> (fraction + exponent) else 1
    return sign * Fraction(whole) * Fraction(2) ** (max(e, 1) - (1 << (exponent - 1)) + 1 - fraction)


@pytest.mark.parametrize(("dtype", "sample"), [(d, x) for d in DTYPES for x in SAMPLES[d]])  # type: ignore[index]
def test_samples_are_right_in_exact_arithmetic(dtype: Any, sample: Sample) -> None:
    """No number of the type is nearer to the exact result; of two that are as near, the even one is taken."""
    operation: dict[str, Callable[..., Fraction]] = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}
    operands, result = [exact(x, dtype) for x in sample.operands], exact(sample.result, dtype)
    if sample.operation == "sqrt":
        assert result * result == operands[0]
        return
    wanted = operation.get(sample.operation, operator.truediv)(*operands)
    gaps = [abs(exact(sample.result + i, dtype) - wanted) for i in (-1, 0, 1)]
    assert gaps[1] <= min(gaps) and (gaps.count(gaps[1]) == 1 or sample.result % 2 == 0)
    assert (sample.fault == ROUNDED) == (gaps[1] > 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_sample_is_looked_at(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, sample in enumerate(SAMPLES[dtype]):
        wrong = [x._replace(result=x.result + 1) if i == j else x for j, x in enumerate(SAMPLES[dtype])]
        with monkeypatch.context() as patch, pytest.raises(RuntimeError, match=dtype.__name__) as raised:
            patch.setitem(SAMPLES, dtype, tuple(wrong))
            check_rounding(np.asarray, dtype)
        assert sample.fault in str(raised.value)
