"""Averages by kernels: the bits of the reference, on NumPy arrays and on the stand-in for CuPy's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS, STORAGES, arrays, assert_same_bits, numbers, strange
from helpers.on_gpu import off, on
from refoptim import swa_utils
from refoptim.engines import host, pure, reference
from refoptim.swa_utils import AveragedModel

Make = Callable[..., dict[str, Any]]

FORMS: dict[str, Make] = {
    "mean": lambda fused: {"avg_fn": swa_utils.get_swa_avg_fn(fused=fused)},
    "means": lambda fused: {"multi_avg_fn": swa_utils.get_swa_multi_avg_fn(fused=fused)},
    "moving": lambda fused: {"avg_fn": swa_utils.get_ema_avg_fn(0.8, fused=fused)},
    "slowly moving": lambda fused: {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.8, fused=fused)},
    "quickly moving": lambda fused: {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(0.3, fused=fused)},
}

no_reference = pytest.fixture(
    lambda monkeypatch: [monkeypatch.setattr(pure, "run", None), monkeypatch.setattr(reference, "prepare", None)]
)


@NEEDS_KERNELS
@pytest.mark.parametrize("dtype", STORAGES)
@pytest.mark.parametrize("form", FORMS)
def test_averages_have_the_bits_of_the_reference(form: str, dtype: str) -> None:
    """Every layout, and numbers that are none; the reference rounds as kernels do."""
    rng = np.random.default_rng(STORAGES.index(dtype))
    start = arrays(rng, dtype)
    one, other = (AveragedModel(start, **FORMS[form](fused)) for fused in (True, None))
    for k in range(4):
        now = [numbers(rng, x.shape, dtype) for x in start]
        now = [strange(rng, x, dtype) for x in now] if k == 2 else now
        one.update_parameters(now)
        with refoptim.rounding("store"):
            other.update_parameters(now)
        for x, y in zip(one.module, other.module, strict=True):
            assert_same_bits(x, y, k)


@NEEDS_KERNELS
@pytest.mark.usefixtures("no_reference")
@pytest.mark.parametrize("form", FORMS)
def test_kernels_average_and_not_the_reference(form: str) -> None:
    averaged = AveragedModel([np.ones(3, np.float32), np.ones(2)], **FORMS[form](True))
    for x in (1.0, 3.0):
        averaged.update_parameters([np.full(3, x, np.float32), np.full(2, x)])
    mean = {"moving": 1.4, "slowly moving": 1.4, "quickly moving": 2.4}.get(form, 2.0)
    for found in averaged.module:
        np.testing.assert_allclose(found, mean, rtol=1e-6)


@NEEDS_KERNELS
@pytest.mark.parametrize("function", [swa_utils.get_swa_avg_fn, swa_utils.get_ema_avg_fn])
def test_the_single_forms_return_new_arrays(function: Any) -> None:
    x, y = np.linspace(0, 1, 50, dtype=np.float32), np.linspace(3, 2, 50, dtype=np.float32)
    before = x.copy()
    found = function(fused=True)(x, y, 3)
    assert_same_bits(x, before)
    assert_same_bits(found, function()(x, y, 3))
    assert_same_bits(x, before)


@NEEDS_KERNELS
@pytest.mark.usefixtures("gpu", "no_reference")
@pytest.mark.parametrize("form", FORMS)
def test_arrays_on_a_gpu_are_averaged_there_by_kernels(form: str, request: pytest.FixtureRequest) -> None:
    cupy = request.getfixturevalue("gpu")
    start = [np.linspace(i, 1, 60, dtype=np.float32).reshape(6, 10) for i in range(2)]
    one = AveragedModel([on(cupy, x, i) for i, x in enumerate(start)], **FORMS[form](None))
    other = AveragedModel(start, **FORMS[form](True))
    for k in range(3):
        now = [x * np.float32(k + 0.3) for x in start]
        one.update_parameters([on(cupy, x, i) for i, x in enumerate(now)])
        other.update_parameters(now)
    for x, y in zip(one.module, other.module, strict=True):
        assert_same_bits(off(x), y)


@pytest.mark.parametrize("form", FORMS)
def test_where_there_are_no_kernels_nothing_changes(form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(host, "LIBRARY", tmp_path / "_host.so")
    averaged = AveragedModel([np.ones(3)], **FORMS[form](True))
    averaged.update_parameters([np.full(3, 2.0)])
    with pytest.raises(RuntimeError, match="fused=True needs the compiled kernels"):
        averaged.update_parameters([np.full(3, 5.0)])
    assert averaged.n_averaged == 1
    assert averaged.module[0].tolist() == [2, 2, 2]


@pytest.mark.parametrize("form", FORMS)
def test_a_wrong_flag_is_refused(form: str) -> None:
    with pytest.raises(TypeError, match="fused must be True or False or None, got 1"):
        FORMS[form](1)


def test_a_function_says_that_it_is_fused() -> None:
    assert repr(swa_utils.get_ema_avg_fn(0.9, fused=True)) == "EMA(decay=0.9, fused=True)"
    assert repr(swa_utils.get_swa_avg_fn()) == "SWA()"
