"""Averages of weights: bits equal to torch's, each operation rounded once."""

from __future__ import annotations

import tracemalloc
from copy import deepcopy
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.averages import COMPLEX, FORMS, REAL, weights
from helpers.oracle import assert_same_bits, rng_of, stored
from refoptim import swa_utils
from refoptim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn, get_swa_avg_fn, get_swa_multi_avg_fn

# ----------------------------------------------------------------------------------------------- torch, bit for bit


@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX])
@pytest.mark.parametrize("form", FORMS)
def test_averages_have_the_bits_of_torch(form: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    from refoptim.conformance.oracle import ieee, to_numpy, to_torch

    def theirs(arrays: list[Any]) -> Any:
        return torch.nn.ParameterList([torch.nn.Parameter(to_torch(x)) for x in arrays])

    def wide(arrays: list[Any]) -> list[Any]:
        """Copy arrays; those of 16 bits are averaged in float32, unlike torch's, so torch gets them so."""
        return [x.astype(np.float32) if x.dtype.itemsize == 2 else x.copy() for x in arrays]

    start = weights(dtype, 0)
    with ieee():
        ours_average = AveragedModel(start, **FORMS[form](swa_utils))
        torch_average = torch.optim.swa_utils.AveragedModel(theirs(wide(start)), **FORMS[form](torch.optim.swa_utils))
        for update in range(1, 8):
            new = weights(dtype, update)
            kept = deepcopy(new)
            ours_average.update_parameters(new)
            torch_average.update_parameters(theirs(wide(kept)))
            assert ours_average.n_averaged == int(torch_average.n_averaged) == update
            for i, (x, y) in enumerate(zip(ours_average.module, torch_average.module, strict=True)):
                where = f"{form} in {dtype}, update {update}, array {i}"
                with np.errstate(over="ignore"):
                    assert_same_bits(x, to_numpy(y).astype(x.dtype), where, signed_zeros=dtype in REAL)
                assert_same_bits(new[i], kept[i], "the weights averaged have changed")


@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX])
@pytest.mark.parametrize("n", [0, 1, 6, 256, 3000, 2**24 + 1])
def test_functions_have_the_bits_of_torch(n: int, dtype: str) -> None:
    """But for the sign of complex zeros, and of zeros where the share is 1 (n = 0)."""
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    from refoptim.conformance.oracle import ieee, to_numpy, to_torch

    theirs = torch.optim.swa_utils
    average, current = weights(dtype, 1), weights(dtype, 2)
    with ieee():
        for x, y in zip(average, current, strict=True):
            for name in ("get_swa_avg_fn", "get_ema_avg_fn"):
                out = getattr(theirs, name)()(to_torch(x), to_torch(y), torch.tensor(n))
                ours = getattr(swa_utils, name)()(x, y, n)
                assert_same_bits(ours, to_numpy(out), f"{name}, n = {n}", signed_zeros=dtype in REAL)
        for name in ("get_swa_multi_avg_fn", "get_ema_multi_avg_fn"):
            ours, tensors = deepcopy(average), [to_torch(x) for x in deepcopy(average)]
            assert getattr(swa_utils, name)()(ours, current, n) is None
            getattr(theirs, name)()(tensors, [to_torch(y) for y in current], torch.tensor(n))
            for x, y in zip(ours, tensors, strict=True):
                assert_same_bits(x, to_numpy(y), f"{name}, n = {n}", signed_zeros=dtype in REAL and n > 0)


def test_a_share_in_double_is_what_torch_has_for_a_python_counter() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    x, y = (rng_of(i).standard_normal(50) for i in range(2))
    tensor = torch.from_numpy(x.copy())
    torch.optim.swa_utils.get_swa_multi_avg_fn()([tensor], [torch.from_numpy(y)], 2)
    in_float32, in_float64 = x.copy(), x.copy()
    get_swa_multi_avg_fn()([in_float32], [y], 2)
    refoptim.set_default_dtype("float64")
    try:
        get_swa_multi_avg_fn()([in_float64], [y], 2)
    finally:
        refoptim.set_default_dtype("float32")
    assert_same_bits(in_float64, tensor.numpy(), "a share in double")
    assert (in_float32 != in_float64).all()
    np.testing.assert_allclose(in_float32, in_float64, rtol=1e-6)


def test_a_complex_infinity_spoils_its_own_half_only_unlike_torch() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    x, y = np.array([complex(np.inf, 1.0)]), np.array([complex(2.0, 3.0)])
    tensor = torch.from_numpy(x.copy())
    torch.optim.swa_utils.get_ema_multi_avg_fn(0.75)([tensor], [torch.from_numpy(y)], 1)
    assert np.isnan(tensor.numpy().imag).all()
    get_ema_multi_avg_fn(0.75)([x], [y], 1)
    assert x.imag == 1.5


def test_a_share_of_one_gives_every_zero_one_sign_unlike_torch() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    x, y = np.ones(40, np.float32), np.full(40, -0.0, np.float32)
    tensor = torch.from_numpy(x.copy())
    torch.optim.swa_utils.get_ema_multi_avg_fn(0.0)([tensor], [torch.from_numpy(y)], 1)
    get_ema_multi_avg_fn(0.0)([x], [y], 1)
    assert set(torch.signbit(tensor).tolist()) == {True, False}
    assert (x == 0).all()
    assert not np.signbit(x).any()


# ------------------------------------------------------------------------------------------------- exact arithmetic


def rounded(x: Fraction) -> Fraction:
    """Round to the nearest double; float() of a Fraction does it correctly."""
    return Fraction(float(x))


def exact(form: str, x: float, y: float, n: int, decay: float) -> float:
    """Average two doubles by the formula, each operation rounded once, in rational arithmetic."""
    a, b, d = Fraction(x), Fraction(y), Fraction(decay)
    if form == "ema":
        return float(rounded(d * a) + rounded(rounded(1 - d) * b))
    if form == "swa":
        return float(a + rounded(rounded(b - a) / (n + 1)))
    share = rounded(1 - d) if form == "ema multi" else Fraction(float(np.float32(1) / np.float32(n + 1)))
    gap = rounded(b - a)
    return float(a + rounded(share * gap) if share < Fraction(1, 2) else b - rounded(rounded(1 - share) * gap))


@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("decay", [0.3, 0.97])
def test_every_operation_is_rounded_once(n: int, decay: float) -> None:
    x, y = (rng_of("exact", i).standard_normal(300) for i in range(2))
    made = {"ema": get_ema_avg_fn(decay)(x, y, n), "swa": get_swa_avg_fn()(x, y, n)}
    for form, function in (("ema multi", get_ema_multi_avg_fn(decay)), ("swa multi", get_swa_multi_avg_fn())):
        made[form] = x.copy()
        function([made[form]], [y], n)
    for form, ours in made.items():
        expected = np.array([exact(form, a, b, n, decay) for a, b in zip(x, y, strict=True)])
        assert_same_bits(ours, expected, form)


def test_the_first_update_copies_and_swa_is_the_mean() -> None:
    average = AveragedModel({"w": np.zeros(3)})
    models = [np.array([1.0, -4.0, 0.5]), np.array([3.0, 8.0, 0.0]), np.array([5.0, -1.0, 4.0])]
    for n, w in enumerate(models, start=1):
        average.update_parameters({"w": w})
        np.testing.assert_allclose(average.module["w"], np.mean(models[:n], axis=0), rtol=1e-15)
        assert average.n_averaged == n


@pytest.mark.parametrize("mode", ["each", "store"])
def test_functions_round_sixteen_bits_by_word_or_when_stored_and_models_when_stored(mode: str) -> None:
    x, y = (stored(rng_of("store", i).standard_normal(500), "float16") for i in range(2))
    a, b, d, e = x.astype(np.float32), y.astype(np.float32), np.float32(0.7), np.float32(1 - 0.7)
    each = ((d * a).astype(np.float16).astype(np.float32) + (e * b).astype(np.float16)).astype(np.float16)
    expected = {"each": each, "store": (d * a + e * b).astype(np.float16)}
    assert (expected["each"] != expected["store"]).any()
    average = AveragedModel([x], avg_fn=get_ema_avg_fn(0.7))
    average.update_parameters([x])
    with refoptim.rounding(mode):
        average.update_parameters([y])
        assert_same_bits(get_ema_avg_fn(0.7)(x, y, 1), expected[mode], mode)
    assert_same_bits(average.module[0], expected["store"], mode)


def test_no_temporary_is_as_large_as_a_parameter() -> None:
    w = np.ones(1_000_000, np.float32)
    for form in FORMS.values():
        average = AveragedModel([w], **form(swa_utils))
        average.update_parameters([w])
        tracemalloc.start()
        average.update_parameters([w])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < w.nbytes / 2
