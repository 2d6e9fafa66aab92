"""Averages of weights: bits equal to torch's, models of every kind, what is refused, saved and restored."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from copy import deepcopy
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from oracle import assert_same_bits, gradient, layouts, rng_of, stored

import refoptim
from refoptim import Parameter, swa_utils
from refoptim.swa_utils import (
    SWALR,
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
)

REAL = ["float16", "bfloat16", "float32", "float64"]
COMPLEX = ["complex64", "complex128"]
DECAYS = [0.3, 0.5, 0.75, 0.999]
"""Both branches of lerp, and the border between them."""

FORMS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "default": lambda library: {},
    "swa": lambda library: {"avg_fn": library.get_swa_avg_fn()},
    "swa multi": lambda library: {"multi_avg_fn": library.get_swa_multi_avg_fn()},
    **{f"ema {d}": lambda library, d=d: {"avg_fn": library.get_ema_avg_fn(d)} for d in DECAYS},
    **{f"ema multi {d}": lambda library, d=d: {"multi_avg_fn": library.get_ema_multi_avg_fn(d)} for d in DECAYS},
}


def assert_same(x: Any, y: Any, where: str) -> None:
    """Fail unless two arrays, perhaps of integers, are the same."""
    if x.dtype.kind in "iu":
        assert (x.dtype, x.tolist()) == (y.dtype, y.tolist()), where
    else:
        assert_same_bits(x, y, where)


class Net:
    """Two Parameters and two buffers, as an object with names."""

    def __init__(self, dtype: str = "float32") -> None:
        self.weight = Parameter(stored([[1.5, -2.0], [0.25, 8.0]], dtype))
        self.bias = Parameter(stored([0.5, -0.75], dtype))
        self.mean = stored([4.0, 5.0, 6.5], dtype)
        self.steps = np.array(3)

    def __call__(self, x: Any) -> Any:
        return x @ self.weight.data + self.bias.data

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        yield from (("weight", self.weight), ("bias", self.bias))

    def parameters(self) -> Iterator[Any]:
        return (x for _, x in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Any]]:
        yield from (("mean", self.mean), ("steps", self.steps))

    def buffers(self) -> Iterator[Any]:
        return (x for _, x in self.named_buffers())


def weights(dtype: str, seed: int) -> list[Any]:
    """Draw arrays of all layouts: one empty, one of several chunks, one of zeros, subnormals, infinities and NaN."""
    rng = rng_of(dtype, seed)
    arrays = [*layouts(dtype, seed), stored(np.zeros((0, 3, 2) if dtype in COMPLEX else (0, 3)), dtype)]
    arrays.append(gradient(rng, (70_000,), dtype))
    if dtype in REAL:
        arrays.append(specials(dtype)[rng.permutation(len(specials(dtype)))])
    return arrays


def specials(dtype: str) -> Any:
    tiny = {"float64": 5e-324, "float16": 6e-8}.get(dtype, 1e-45)
    huge = {"float64": 1.7e308, "float16": 65000.0}.get(dtype, 3e38)
    some = [0.0, tiny, 1.0, 1 + 2.0**-7, huge, np.inf, np.nan, 1 / 3]
    return stored(np.repeat([*some, *(-x for x in some)], 16), dtype)


# ----------------------------------------------------------------------------------------------- torch, bit for bit


@pytest.mark.parametrize("dtype", [*REAL, *COMPLEX])
@pytest.mark.parametrize("form", FORMS)
def test_averages_have_the_bits_of_torch(form: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    from refoptim.conformance.oracle import ieee, to_numpy, to_torch

    def theirs(arrays: list[Any]) -> Any:
        return torch.nn.ParameterList([torch.nn.Parameter(to_torch(x)) for x in arrays])

    start = weights(dtype, 0)
    with ieee():
        ours_average = AveragedModel(start, **FORMS[form](swa_utils))
        torch_average = torch.optim.swa_utils.AveragedModel(
            theirs(deepcopy(start)), **FORMS[form](torch.optim.swa_utils)
        )
        for update in range(1, 8):
            new = weights(dtype, update)
            kept = deepcopy(new)
            ours_average.update_parameters(new)
            torch_average.update_parameters(theirs(kept))
            assert ours_average.n_averaged == int(torch_average.n_averaged) == update
            for i, (x, y) in enumerate(zip(ours_average.module, torch_average.module, strict=True)):
                where = f"{form} in {dtype}, update {update}, array {i}"
                assert_same_bits(x, to_numpy(y), where, signed_zeros=dtype in REAL)
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
def test_sixteen_bit_averages_are_rounded_by_word_or_when_stored(mode: str) -> None:
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
    assert_same_bits(average.module[0], expected[mode], mode)


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


# --------------------------------------------------------------------------------------------------- kinds of model


def nested(x: float) -> dict[str, Any]:
    """A model of dicts, lists, tuples, Parameters, arrays and an object."""
    net = Net()
    net.weight.data[...] += np.float32(x)
    layers = [(Parameter(np.full(2, x)), np.full((2, 2), -x, np.float16)), {"gain": np.array(x, np.float32)}]
    return {"layers": layers, "net": net, 7: np.array([x, 2 * x]), "count": np.array([int(x), 5])}


NESTED = {
    "layers.0.0": (2,),
    "layers.0.1": (2, 2),
    "layers.1.gain": (),
    "net.weight": (2, 2),
    "net.bias": (2,),
    "net.mean": (3,),
    "net.steps": (),
    "7": (2,),
    "count": (2,),
}


def test_a_nested_model_is_averaged_array_by_array() -> None:
    average = AveragedModel(nested(1.0), avg_fn=get_ema_avg_fn(0.75))
    for x in (4.0, 8.0):
        average.update_parameters(nested(x))
    saved = average.state_dict()
    assert {name.removeprefix("module."): x.shape for name, x in saved.items()} == {"n_averaged": (), **NESTED}
    (first, second), gain = average.module["layers"][0], average.module["layers"][1]["gain"]
    assert isinstance(first, Parameter)
    assert first.data.tolist() == [5.0, 5.0]
    assert (second.dtype, second.tolist()) == (np.float16, [[-5.0, -5.0]] * 2)
    assert gain == 5.0
    assert average.module["net"].weight.data.tolist() == [[6.5, 3.0], [5.25, 13.0]]
    assert average.module[7].tolist() == [5.0, 10.0]
    assert average.module["count"].tolist() == [8, 5]


def test_the_model_is_copied_and_its_gradients_are_not() -> None:
    net = Net()
    net.weight.grad = np.ones((2, 2), np.float32)
    kept = deepcopy(net)
    average = AveragedModel(net)
    assert average.module.weight.grad is None
    assert net.weight.grad is not None
    for x in average.parameters():
        assert not any(np.shares_memory(x.data, y.data) for y in net.parameters())
        x.data[...] = 99
    assert_same_bits(net.weight.data, kept.weight.data, "the model has changed")
    assert (average.module.weight.data == 99).all()


def test_an_averaged_model_shows_its_members_and_can_be_averaged() -> None:
    net = Net()
    average = AveragedModel(net)
    assert list(average.parameters()) == [average.module.weight, average.module.bias]
    assert [x.tolist() for x in average.buffers()] == [[4.0, 5.0, 6.5], 3]
    outer = AveragedModel(average)
    outer.update_parameters(average)
    assert_same_bits(outer.module.module.bias.data, net.bias.data, "an average of an average")


def test_positions_are_the_names_where_a_model_gives_none() -> None:
    class Plain:
        def __init__(self) -> None:
            self.arrays, self.kept = [np.ones(2), np.ones(3)], [np.zeros(1)]

        def parameters(self) -> list[Any]:
            return self.arrays

        def buffers(self) -> list[Any]:
            return self.kept

    assert list(AveragedModel(Plain()).state_dict()) == ["n_averaged", "module.0", "module.1", "module.buffers.0"]


def test_calling_an_averaged_model_calls_its_module() -> None:
    average = AveragedModel(Net())
    average.module.weight.data[...] = [[1, 0], [0, 3]]
    assert average(np.array([2.0, 5.0], np.float32)).tolist() == [2.5, 14.25]
    with pytest.raises(TypeError):
        AveragedModel([np.ones(2)])(1)


def test_dicts_are_matched_by_name_and_not_by_order() -> None:
    average = AveragedModel({"a": np.zeros(2), "b": np.zeros(2)})
    average.update_parameters({"b": np.full(2, 3.0), "a": np.full(2, 7.0)})
    assert (average.module["a"].tolist(), average.module["b"].tolist()) == ([7.0, 7.0], [3.0, 3.0])


@pytest.mark.parametrize("wrap", [lambda x: x, Parameter])
def test_a_shared_array_is_averaged_once(wrap: Callable[[Any], Any]) -> None:
    def tied(x: float) -> dict[str, Any]:
        w = np.full(3, x)
        return {"encoder": wrap(w), "decoder": wrap(w)}

    average = AveragedModel(tied(0.0), multi_avg_fn=get_ema_multi_avg_fn(0.75))
    for x in (8.0, 4.0):
        average.update_parameters(tied(x))
    assert average.state_dict()["module.decoder"].tolist() == [7.0, 7.0, 7.0]
    with pytest.raises(ValueError, match="decoder must be the same array as encoder"):
        average.update_parameters({"encoder": wrap(np.ones(3)), "decoder": wrap(np.ones(3))})


def test_arrays_that_come_by_dlpack_are_averaged_in_place() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    average = AveragedModel({"w": torch.tensor([1.0, 2.0])}, avg_fn=get_ema_avg_fn(0.75))
    for x in (4.0, 8.0):
        average.update_parameters({"w": torch.full((2,), x)})
    assert average.module["w"].tolist() == [5.0, 5.0]
    with pytest.raises(TypeError, match=r"w must be an array: .*require gradient"):
        AveragedModel({"w": torch.ones(2, requires_grad=True)})


class Foreign(np.lib.mixins.NDArrayOperatorsMixin):
    """An array of another library: it understands NumPy's functions and is none of its arrays."""

    def __init__(self, x: Any) -> None:
        self.x = np.asarray(x)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **settings: Any) -> Any:
        return Foreign(getattr(ufunc, method)(*(i.x if isinstance(i, Foreign) else i for i in inputs), **settings))

    def __array_function__(self, function: Any, types: Any, args: Any, settings: Any) -> Any:
        return Foreign(function(*(i.x if isinstance(i, Foreign) else i for i in args), **settings))

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "dtype", "flags", "device"):
            return getattr(object.__getattribute__(self, "x"), name)
        raise AttributeError(name)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.x[key] = value.x if isinstance(value, Foreign) else value

    def reshape(self, *shape: Any) -> Foreign:
        return Foreign(self.x.reshape(*shape))

    def astype(self, dtype: Any) -> Foreign:
        return Foreign(self.x.astype(dtype))

    def copy(self) -> Foreign:
        return Foreign(self.x.copy())


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_arrays_of_another_library_get_the_same_bits(form: str, dtype: str) -> None:
    ours, foreign = (
        AveragedModel([wrap(np.ones((3, 2), dtype))], **FORMS[form](swa_utils)) for wrap in (np.array, Foreign)
    )
    for update in range(4):
        w = gradient(rng_of("foreign", update), (3, 2), dtype)
        ours.update_parameters([w])
        foreign.update_parameters([Foreign(w)])
        assert type(foreign.module[0]) is Foreign
        assert_same_bits(foreign.module[0].x, ours.module[0], form)
    saved = foreign.state_dict()
    other = AveragedModel([Foreign(np.ones((3, 2), dtype))])
    other.load_state_dict(saved)
    assert_same_bits(other.module[0].x, ours.module[0], "loaded")
    with pytest.raises(TypeError, match="0 must be Foreign, as the average of 0 is, got a NumPy array"):
        foreign.update_parameters([w])


# ---------------------------------------------------------------------------------------------------------- buffers


def test_buffers_are_copied_or_averaged_and_integers_always_copied() -> None:
    for use_buffers, expected in ((False, [10.0, 0.0, -1.0]), (True, [5.5, 3.75, 4.625])):
        average = AveragedModel(Net(), avg_fn=get_ema_avg_fn(0.75), use_buffers=use_buffers)
        net = Net()
        average.update_parameters(net)
        net.mean[...], net.steps[...] = [10.0, 0.0, -1.0], 8
        average.update_parameters(net)
        assert average.module.mean.tolist() == expected
        assert average.module.steps == 8


def test_integer_buffers_which_torch_truncates_or_refuses() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    theirs = torch.optim.swa_utils
    norm = torch.nn.BatchNorm1d(2)
    ema = theirs.AveragedModel(norm, avg_fn=theirs.get_ema_avg_fn(0.75), use_buffers=True)
    swa = theirs.AveragedModel(norm, multi_avg_fn=theirs.get_swa_multi_avg_fn(), use_buffers=True)
    ours = AveragedModel(Net(), avg_fn=get_ema_avg_fn(0.75), use_buffers=True)
    net = Net()
    for k in (1, 2, 3):
        norm.num_batches_tracked.fill_(k)
        ema.update_parameters(norm)
        net.steps[...] = k
        ours.update_parameters(net)
    assert int(ema.module.num_batches_tracked) == 1
    assert ours.module.steps == 3
    swa.update_parameters(norm)
    with pytest.raises(RuntimeError):
        swa.update_parameters(norm)


# ------------------------------------------------------------------------------------------------------- functions


def test_avg_fn_gets_copies_and_an_int_and_is_rounded_to_the_dtype() -> None:
    seen = []

    def smallest(averaged: Any, current: Any, num_averaged: int) -> Any:
        seen.append((type(num_averaged), num_averaged, averaged.dtype))
        averaged += 0.1
        return np.minimum(averaged, current).astype(np.float64) + 1e-3

    average = AveragedModel({"w": np.zeros(2, np.float32), "x": np.zeros((), np.float32)}, avg_fn=smallest)
    for w in ([1.0, 5.0], [2.0, 4.0]):
        average.update_parameters({"w": np.array(w, np.float32), "x": np.array(w[0], np.float32)})
    assert seen == [(int, 1, np.float32)] * 2
    expected = np.array([np.float32(1) + np.float32(0.1), 4.0], np.float64) + 1e-3
    assert_same_bits(average.module["w"], expected.astype(np.float32), "rounded once")
    assert_same_bits(average.module["x"], expected[0].astype(np.float32).reshape(()), "0-d")


def test_multi_avg_fn_is_called_for_each_dtype_and_writes_in_place() -> None:
    calls = []

    def largest(averaged: Any, current: Any, num_averaged: int) -> None:
        calls.append(([x.dtype.name for x in averaged], num_averaged))
        for x, y in zip(averaged, current, strict=True):
            np.maximum(x, y, out=x)

    average = AveragedModel([np.zeros(2), np.zeros(2, np.float32), np.zeros(2)], multi_avg_fn=largest)
    arrays = list(average.module)
    for w in ([1.0, -5.0], [-2.0, 4.0]):
        average.update_parameters([np.array(w), np.array(w, np.float32), np.array(w) * 2])
    assert calls == [(["float64", "float64"], 1), (["float32"], 1)]
    assert [x.tolist() for x in average.module] == [[1.0, 4.0], [1.0, 4.0], [2.0, 8.0]]
    assert all(x is y for x, y in zip(average.module, arrays, strict=True))


class Broken(Exception):
    """What a function raises."""


def fails_at(shape: tuple[int, ...]) -> Callable[[Any, Any, int], Any]:
    """Return an avg_fn that works in place and raises at an array of this shape."""

    def function(averaged: Any, current: Any, num_averaged: int) -> Any:
        averaged *= 0
        if averaged.shape == shape:
            raise Broken("on purpose")
        return averaged

    return function


def fails_after_writing(averaged: list[Any], current: list[Any], num_averaged: int) -> None:
    averaged[0][...] = 77
    raise Broken("on purpose")


def replaces(averaged: list[Any], current: list[Any], num_averaged: int) -> None:
    averaged[0] = averaged[0] + current[0]


WRONG_FUNCTIONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "raises late": ({"avg_fn": fails_at((4,))}, Broken, "on purpose"),
    "multi raises": ({"multi_avg_fn": fails_after_writing}, Broken, "on purpose"),
    "wrong shape": ({"avg_fn": lambda a, c, n: (a + c)[:1]}, ValueError, "for w must have shape .2, 2., got .1, 2."),
    "a number": ({"avg_fn": lambda a, c, n: 0.5}, ValueError, "for w must have shape .2, 2., got .."),
    "nothing": ({"avg_fn": lambda a, c, n: None}, TypeError, "what avg_fn returns for w must be an array"),
    "complex": ({"avg_fn": lambda a, c, n: a + 1j}, TypeError, "must fit into dtype float32, got complex"),
    "a Parameter": ({"avg_fn": lambda a, c, n: Parameter(a)}, TypeError, "what avg_fn returns for w must be an array"),
    "replaces": ({"multi_avg_fn": replaces}, ValueError, "multi_avg_fn must write into the arrays"),
    "appends": ({"multi_avg_fn": lambda a, c, n: a.append(c[0])}, ValueError, "multi_avg_fn must write into"),
}


def two(x: float) -> dict[str, Any]:
    return {"w": np.full((2, 2), x, np.float32), "v": np.full(4, -x, np.float32), "n": np.array([int(x)])}


@pytest.mark.parametrize("case", WRONG_FUNCTIONS)
def test_a_function_that_fails_changes_nothing(case: str) -> None:
    functions, error, message = WRONG_FUNCTIONS[case]
    average = AveragedModel(two(1.0), **functions)
    average.update_parameters(two(2.0))
    with pytest.raises(error, match=message):
        average.update_parameters(two(3.0))
    assert average.n_averaged == 1
    assert {name: x.tolist() for name, x in average.module.items()} == {
        name: x.tolist() for name, x in two(2.0).items()
    }


# --------------------------------------------------------------------------------------------------------- refusals


def test_only_one_function_is_taken() -> None:
    with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn should be provided"):
        AveragedModel([np.ones(2)], avg_fn=get_swa_avg_fn(), multi_avg_fn=get_swa_multi_avg_fn())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"avg_fn": 0.9}, TypeError, "avg_fn must be callable, got 0.9"),
        ({"multi_avg_fn": "ema"}, TypeError, "multi_avg_fn must be callable, got 'ema'"),
        ({"avg_fn": get_ema_multi_avg_fn(0.9)}, TypeError, r"avg_fn must not be LerpEMA\(decay=0.9\)"),
        ({"multi_avg_fn": get_swa_avg_fn()}, TypeError, r"multi_avg_fn must not be SWA\(\), which is one for avg_fn"),
        ({"use_buffers": 1}, TypeError, "use_buffers must be True or False, got 1"),
        ({"device": "cuda"}, ValueError, "device must be None or that of 0, got 'cuda'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AveragedModel([np.ones(2)], **settings)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (np.ones(3), TypeError, r"model must be an object with parameters\(\), or a dict, list or tuple"),
        (None, TypeError, "got NoneType"),
        ({"w": 1.5}, TypeError, "w must be an array"),
        ({"a": {"w": [np.ones(2), None]}}, TypeError, "a.w.1 must be an array"),
        ({"w": np.array(["a"])}, TypeError, "w must hold numbers, got dtype <U1"),
        ({"w": np.ones(2, ">f4")}, TypeError, "w cannot be averaged: dtype >f4 is not supported"),
        ({"w": np.ma.ones(2)}, TypeError, "w must be an array: a masked array"),
        ({"a": {"b": np.ones(1)}, "a.b": np.ones(1)}, ValueError, "names of parameters and buffers must differ"),
    ],
)
def test_what_is_no_model_is_refused(model: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        AveragedModel(model)


@pytest.mark.parametrize("make", [get_ema_avg_fn, get_ema_multi_avg_fn])
def test_a_decay_outside_its_interval_is_refused(make: Callable[..., Any]) -> None:
    assert (make(0).h.decay, make(1).h.decay) == (0, 1)
    for decay in (-0.001, 1.001, float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=rf"Invalid decay value {decay} provided\. Please provide a value in \[0,1\]"
        ):
            make(decay)
    for decay in ("0.9", None, True, 0.5j):
        with pytest.raises(TypeError, match="decay must be a real number"):
            make(decay)


CHANGED: dict[str, tuple[Any, type[Exception], str]] = {
    "a shape": (
        {**two(3.0), "v": np.ones(5, np.float32)},
        ValueError,
        r"v must have the shape of the average of v, \(4,\)",
    ),
    "a dtype": (
        {**two(3.0), "v": np.ones(4)},
        TypeError,
        "v must have the dtype of the average of v, float32, got float64",
    ),
    "one more": ({**two(3.0), "u": np.ones(4)}, ValueError, r"it lacks \[\] and has \['u'\] besides"),
    "one less": ({"w": two(3.0)["w"], "n": two(3.0)["n"]}, ValueError, r"it lacks \['v'\]"),
    "a kind": (list(two(3.0).values()), ValueError, r"it lacks \['w', 'v', 'n'\] and has \['0', '1', '2'\] besides"),
    "no model": (7, TypeError, "model must be an object"),
}


@pytest.mark.parametrize("updates", [0, 2])
@pytest.mark.parametrize("case", CHANGED)
def test_a_model_that_has_changed_is_refused_and_nothing_changes(case: str, updates: int) -> None:
    model, error, message = CHANGED[case]
    average = AveragedModel(two(2.0))
    for _ in range(updates):
        average.update_parameters(two(2.0))
    with pytest.raises(error, match=message):
        average.update_parameters(model)
    assert average.n_averaged == updates
    assert {name: x.tolist() for name, x in average.module.items()} == {
        name: x.tolist() for name, x in two(2.0).items()
    }


@pytest.mark.parametrize("form", ["default", "swa multi"])
def test_a_read_only_average_is_refused_and_nothing_changes(form: str) -> None:
    average = AveragedModel(two(2.0), **FORMS[form](swa_utils))
    average.update_parameters(two(2.0))
    average.module["n"].flags.writeable = False
    with pytest.raises(ValueError, match="the average of n must be writable, but it is read-only"):
        average.update_parameters(two(3.0))
    with pytest.raises(RuntimeError, match=r"module.n must be writable, but it is read-only"):
        average.load_state_dict(AveragedModel(two(9.0)).state_dict())
    assert average.n_averaged == 1
    assert average.module["w"].tolist() == two(2.0)["w"].tolist()


def test_read_only_weights_can_be_averaged() -> None:
    w = np.full(2, 4.0)
    w.flags.writeable = False
    average = AveragedModel([w])
    for _ in range(2):
        average.update_parameters([w])
    assert average.module[0].tolist() == [4.0, 4.0]


MULTI_REFUSALS: dict[str, tuple[Any, Any, Any, type[Exception], str]] = {
    "lengths": ([np.ones(2)], [], 1, ValueError, "averaged and current must be equally long, got 1 and 0"),
    "a shape": ([np.ones(2), np.ones(3)], [np.ones(2), np.ones(2)], 1, ValueError, r"current\[1\] must have the shape"),
    "a dtype": ([np.ones(2)], [np.ones(2, "f4")], 1, TypeError, r"current\[0\] must have the dtype of averaged\[0\]"),
    "a negative": ([np.ones(2)], [np.ones(2)], -1, ValueError, "Invalid num_averaged value: -1"),
    "a fraction": ([np.ones(2)], [np.ones(2)], 1.5, TypeError, "num_averaged must be an integer, got 1.5"),
    "a flag": ([np.ones(2)], [np.ones(2)], True, TypeError, "num_averaged must be an integer, got True"),
    "integers": ([np.ones(2, int)], [np.ones(2, int)], 1, TypeError, "dtype int64 is not supported"),
    "a number": ([1.0], [np.ones(())], 1, TypeError, r"averaged\[0\] must be an array"),
}


@pytest.mark.parametrize("case", MULTI_REFUSALS)
def test_wrong_arguments_of_a_function_are_refused(case: str) -> None:
    averaged, current, n, error, message = MULTI_REFUSALS[case]
    with pytest.raises(error, match=message):
        get_swa_multi_avg_fn()(averaged, current, n)
    if len(averaged) == len(current) == 1:
        with pytest.raises(error, match=message.replace(r"\[0\]", "")):
            get_swa_avg_fn()(averaged[0], current[0], n)
    assert all(np.all(np.equal(x, 1)) for x in averaged)


def test_a_read_only_array_cannot_be_averaged_in_place() -> None:
    first, second = np.ones(2), np.ones(2)
    second.flags.writeable = False
    with pytest.raises(ValueError, match=r"averaged\[1\] must be writable"):
        get_swa_multi_avg_fn()([first, second], [np.zeros(2), np.zeros(2)], 1)
    assert first.tolist() == [1.0, 1.0]


def test_weights_in_the_memory_of_averages_are_read_before_they_are_overwritten() -> None:
    memory = np.arange(50_000, dtype=np.float64)
    expected = get_swa_avg_fn()(memory[1:].copy(), memory[:-1].copy(), 1)
    get_swa_multi_avg_fn()([memory[1:]], [memory[:-1]], 1)
    assert_same_bits(memory[1:], expected, "overlapping")


# ------------------------------------------------------------------------------------------------------ state dicts


def test_a_state_dict_has_the_layout_of_torch_and_goes_both_ways() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")

    class Twin(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            net = Net()
            self.weight = torch.nn.Parameter(torch.from_numpy(net.weight.data))
            self.bias = torch.nn.Parameter(torch.from_numpy(net.bias.data))
            self.register_buffer("mean", torch.from_numpy(net.mean))
            self.register_buffer("steps", torch.tensor(3))

    ours, theirs = AveragedModel(Net()), torch.optim.swa_utils.AveragedModel(Twin())
    ours.update_parameters(Net())
    ours.module.bias.data[...] = [0.125, 9.0]
    saved = ours.state_dict()
    theirs.load_state_dict({name: torch.from_numpy(x) for name, x in saved.items()})
    assert int(theirs.n_averaged) == 1
    fresh = AveragedModel(Net())
    fresh.load_state_dict(theirs.state_dict())
    assert fresh.n_averaged == 1
    assert set(fresh.state_dict()) == set(theirs.state_dict())
    for name, x in fresh.state_dict().items():
        assert_same(x, saved[name], name)


def test_state_dicts_are_copies_and_loading_writes_in_place() -> None:
    average = AveragedModel(two(2.0))
    average.update_parameters(two(2.0))
    saved = average.state_dict()
    average.update_parameters(two(6.0))
    assert saved["module.w"].tolist() == two(2.0)["w"].tolist()
    w = average.module["w"]
    average.load_state_dict(saved)
    assert average.module["w"] is w
    assert (average.n_averaged, w.tolist()) == (1, two(2.0)["w"].tolist())
    saved["module.w"][...] = 50
    assert w.tolist() == two(2.0)["w"].tolist()


@pytest.mark.parametrize("form", FORMS)
def test_an_average_that_was_saved_goes_on_as_if_it_had_not_been(form: str) -> None:
    whole, first = (AveragedModel(two(1.0), **FORMS[form](swa_utils)) for _ in range(2))
    for x in (2.0, 5.0, 7.0):
        whole.update_parameters(two(x))
        first.update_parameters(two(x))
    text = json.dumps({name: x.tolist() for name, x in first.state_dict().items()})
    second = AveragedModel(two(0.0), **FORMS[form](swa_utils))
    second.load_state_dict(json.loads(text))
    for average in (whole, second):
        average.update_parameters(two(11.0))
    for name, x in whole.state_dict().items():
        assert_same(second.state_dict()[name], x, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module.v": None}, "module.v must be an array, got NoneType"),
        ({"module.v": np.ones(3, np.float32)}, r"module.v must have shape \(4,\), got \(3,\)"),
        ({"module.v": np.ones(4)}, "module.v must have dtype float32, got float64"),
        ({"module.u": np.ones(4)}, r"Unexpected key\(s\) in state_dict: \['module.u'\]"),
        ({"n_averaged": 1.5}, "n_averaged must be an integer"),
        ({"n_averaged": -1}, "n_averaged must be an integer"),
    ],
)
def test_a_wrong_state_dict_is_refused_and_nothing_changes(change: dict[str, Any], message: str) -> None:
    average = AveragedModel(two(2.0))
    saved = AveragedModel(two(5.0)).state_dict() | change
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict for AveragedModel: .*" + message):
        average.load_state_dict(saved)
    del saved["n_averaged"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \['n_averaged'\]"):
        average.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="state_dict must be a dict, got list"):
        average.load_state_dict(list(saved))
    assert average.n_averaged == 0
    assert {name: x.tolist() for name, x in average.module.items()} == {
        name: x.tolist() for name, x in two(2.0).items()
    }


# ------------------------------------------------------------------------------------------- batch-norm statistics


class Norm:
    """A batch norm over the rows of a matrix, as ``update_bn`` asks for one."""

    def __init__(self, n: int, momentum: float | None, count: Any) -> None:
        self.running_mean: Any = np.full(n, 0.5)
        self.running_var: Any = np.full(n, 3.0)
        self.num_batches_tracked = count
        self.momentum = momentum
        self.training = False

    def __call__(self, x: Any) -> Any:
        mean, var = x.mean(axis=0), x.var(axis=0)
        if self.training and self.running_mean is not None:
            self.num_batches_tracked += 1
            share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean += share * (mean - self.running_mean)
            self.running_var += share * (len(x) / (len(x) - 1) * var - self.running_var)
        elif self.running_mean is not None:
            mean, var = self.running_mean, self.running_var
        return (x - mean) / np.sqrt(var + 1e-5)


class Normed:
    """norm, linear, norm: the second sees what the first makes of a batch."""

    def __init__(self, fails_at: int = -1) -> None:
        self.weight = Parameter(np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.75]]))
        self.bias = np.array([0.5, -2.0, 3.0])
        self.norms = [Norm(2, 0.3, np.array(7)), Norm(3, 0.1, 5)]
        self.training = True
        self.calls, self.fails_at = 0, fails_at
        self.modes: list[Any] = []

    def __call__(self, x: Any) -> Any:
        self.calls += 1
        if self.calls == self.fails_at:
            raise Broken("on purpose")
        self.modes.append((self.training, [norm.momentum for norm in self.norms]))
        return self.norms[1](self.norms[0](x) @ self.weight.data + self.bias)

    def parameters(self) -> list[Parameter]:
        return [self.weight]

    def train(self, mode: bool = True) -> None:
        self.training = mode
        for norm in self.norms:
            norm.training = mode

    def batch_norms(self) -> list[Norm]:
        return self.norms

    def statistics(self) -> list[Any]:
        names = ("running_mean", "running_var", "num_batches_tracked", "momentum", "training")
        found = [np.array(getattr(norm, name)).tolist() for norm in self.norms for name in names]
        return [*found, self.training]


def batches() -> list[Any]:
    rng = rng_of("batches")
    return [3 * rng.standard_normal((rows, 2)) - 1 for rows in (6, 9, 4, 17)]


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_statistics_are_those_of_torch(training: bool) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    ours = Normed()
    layers = [torch.nn.BatchNorm1d(2, momentum=0.3), torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)]
    theirs = torch.nn.Sequential(*layers).double()
    theirs[1].weight.data.copy_(torch.from_numpy(ours.weight.data.T.copy()))
    theirs[1].bias.data.copy_(torch.from_numpy(ours.bias))
    ours.train(training)
    theirs.train(training)
    swa_utils.update_bn([(x, "label") for x in batches()], ours)
    torch.optim.swa_utils.update_bn([torch.from_numpy(x) for x in batches()], theirs)
    assert ours.modes == [(True, [None, None])] * 4
    assert (ours.training, [norm.momentum for norm in ours.norms]) == (theirs.training, [0.3, 0.1])
    for norm, layer in zip(ours.norms, (theirs[0], theirs[2]), strict=True):
        np.testing.assert_allclose(norm.running_mean, layer.running_mean.numpy(), rtol=1e-12)
        np.testing.assert_allclose(norm.running_var, layer.running_var.numpy(), rtol=1e-12)
        assert int(norm.num_batches_tracked) == int(layer.num_batches_tracked) == 4
        assert norm.training is training


def test_the_statistics_of_an_average_are_the_means_over_the_batches() -> None:
    model = Normed()
    average = AveragedModel(model)
    kept = model.statistics()
    swa_utils.update_bn(iter(batches()), average, device="cpu")
    first = average.module.norms[0]
    np.testing.assert_allclose(first.running_mean, np.mean([x.mean(axis=0) for x in batches()], axis=0), rtol=1e-13)
    np.testing.assert_allclose(
        first.running_var, np.mean([x.var(axis=0, ddof=1) for x in batches()], axis=0), rtol=1e-13
    )
    assert first.num_batches_tracked.tolist() == average.module.norms[1].num_batches_tracked == 4
    assert model.statistics() == kept
    assert average.training
    assert not average.eval().training


def test_each_layer_gets_its_own_mode_back() -> None:
    model = Normed()
    model.train()
    model.norms[1].training = False
    swa_utils.update_bn(batches(), model)
    assert [model.training, *(norm.training for norm in model.norms)] == [True, True, False]
    assert model.norms[1].num_batches_tracked == 4


def test_a_layer_without_statistics_is_left_without() -> None:
    model = Normed()
    model.norms[0].running_mean = model.norms[0].running_var = model.norms[0].num_batches_tracked = None
    swa_utils.update_bn(batches(), model)
    assert model.norms[0].running_mean is None
    assert model.norms[1].num_batches_tracked == 4


def test_nothing_is_done_without_batch_norms() -> None:
    model = Normed()
    model.norms = []
    swa_utils.update_bn((pytest.fail(reason="the loader was read") for _ in range(1)), model)
    assert model.calls == 0


@pytest.mark.parametrize("training", [True, False])
def test_a_pass_that_raises_leaves_everything_as_it_was(training: bool) -> None:
    model = Normed(fails_at=3)
    model.train(training)
    model.norms[0].training = not training
    arrays = [norm.running_var for norm in model.norms]
    kept = model.statistics()
    with pytest.raises(Broken):
        swa_utils.update_bn(batches(), model)
    assert model.modes == [(True, [None, None])] * 2
    assert model.statistics() == kept
    assert all(norm.running_var is x for norm, x in zip(model.norms, arrays, strict=True))


def test_a_model_that_does_not_show_what_is_needed_is_refused() -> None:
    with pytest.raises(TypeError, match=r"model must have batch_norms, .* but dict lacks batch_norms"):
        swa_utils.update_bn(batches(), {"w": np.ones(2)})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"model must have .* but AveragedModel lacks training"):
        swa_utils.update_bn(batches(), AveragedModel([np.ones(2)]))
    model = Normed()
    del model.norms[1].running_var
    with pytest.raises(TypeError, match=r"batch norm 1 must have .* but Norm lacks running_var"):
        swa_utils.update_bn(batches(), model)
    model = Normed()
    model.norms[1].running_var.flags.writeable = False
    kept = model.statistics()
    with pytest.raises(ValueError, match="running_var of batch norm 1 must be writable"):
        swa_utils.update_bn(batches(), model)
    assert model.statistics() == kept


# ------------------------------------------------------------------------------------------------------------ SWALR


def sgd(library: Any, lrs: Any, make: Callable[[Any], Any] = np.array) -> Any:
    """An SGD with one group per learning rate; its parameters are 0-d and stay where they are."""
    return library.SGD([{"params": [make(1.0)], "lr": lr} for lr in lrs], lr=0.7)


def torch_sgd(lrs: Any) -> Any:
    import torch

    return sgd(torch.optim, lrs, lambda x: torch.nn.Parameter(torch.tensor(x)))


def run(optimizer: Any, scheduler: Any, epochs: int) -> list[list[Any]]:
    """Return the learning rates of the groups now and after each step."""
    lrs = [[float(group["lr"]) for group in optimizer.param_groups]]
    for _ in range(epochs):
        optimizer.step()
        scheduler.step()
        lrs.append([float(group["lr"]) for group in optimizer.param_groups])
    return lrs


def drawn(i: int) -> tuple[list[float], dict[str, Any]]:
    """Draw the learning rates of two groups and the arguments of a SWALR."""
    rng = rng_of("SWALR", i)
    lrs, swa = (10 ** rng.uniform(-4, 0, 2) for _ in range(2))
    swa_lr = [list(map(float, swa)), tuple(map(float, swa)), float(swa[0]), int(rng.integers(0, 3))][i % 4]
    epochs = int(rng.integers(1, 60)) if i % 7 else 0
    return list(map(float, lrs)), {
        "swa_lr": swa_lr,
        "anneal_epochs": epochs,
        "anneal_strategy": ["cos", "linear"][i % 2],
    }


@pytest.mark.parametrize("i", range(24))
def test_learning_rates_are_those_of_torch(i: int) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    lrs, arguments = drawn(i)
    ours, theirs = sgd(refoptim, lrs), torch_sgd(lrs)
    expected = run(theirs, torch.optim.swa_utils.SWALR(theirs, **arguments), 300)
    scheduler = SWALR(ours, **arguments)
    assert scheduler.preview(300).tolist() == expected[1:]
    assert run(ours, scheduler, 300) == expected
    assert [scheduler.lr_at(epoch) for epoch in (0, 1, 30, 300)] == [expected[epoch] for epoch in (0, 1, 30, 300)]
    assert [group["swa_lr"] for group in ours.param_groups] == [group["swa_lr"] for group in theirs.param_groups]
    swa_lr = arguments["swa_lr"]
    assert expected[-1] == (list(swa_lr) if isinstance(swa_lr, (list, tuple)) else [swa_lr] * 2)


@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_the_way_begins_where_another_scheduler_has_led(strategy: str) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    lrs = []
    for library, optimizer in ((refoptim, sgd(refoptim, [0.3, 0.01])), (torch.optim, torch_sgd([0.3, 0.01]))):
        first = library.lr_scheduler.StepLR(optimizer, 3, gamma=0.6)
        second = library.swa_utils.SWALR(optimizer, 0.05, anneal_epochs=9, anneal_strategy=strategy)
        lrs.append([*run(optimizer, first, 20), *run(optimizer, second, 20)])
    assert lrs[0] == lrs[1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_array_that_holds_a_learning_rate_is_written_in_place(dtype: Any) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    arrays = [np.array(x, dtype) for x in (0.3, 0.007)]
    ours, theirs = sgd(refoptim, arrays), torch_sgd([torch.tensor(x) for x in arrays])
    for cls, optimizer in ((SWALR, ours), (torch.optim.swa_utils.SWALR, theirs)):
        run(optimizer, cls(optimizer, [0.05, 0.2], anneal_epochs=7), 4)
    assert all(group["lr"] is x for group, x in zip(ours.param_groups, arrays, strict=True))
    for x, group in zip(arrays, theirs.param_groups, strict=True):
        assert_same_bits(x, group["lr"].numpy(), "the learning rate")


@pytest.mark.parametrize("i", range(8))
@pytest.mark.parametrize("stop", [0, 1, 5, 29])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(i: int, stop: int) -> None:
    lrs, arguments = drawn(i)
    whole, first = sgd(refoptim, lrs), sgd(refoptim, lrs)
    expected = run(whole, SWALR(whole, **arguments), 60)
    scheduler = SWALR(first, **arguments)
    run(first, scheduler, stop)
    text = json.dumps(scheduler.state_dict())
    second = sgd(refoptim, lrs)
    resumed = SWALR(second, swa_lr=0.123, anneal_epochs=2)
    resumed.load_state_dict(json.loads(text))
    assert run(second, resumed, 60 - stop) == expected[stop:]
    third = sgd(refoptim, lrs)
    third.load_state_dict(first.state_dict())
    if stop:
        assert run(third, SWALR(third, **arguments, last_epoch=stop - 1), 60 - stop) == expected[stop:]


def test_a_way_that_is_continued_does_not_begin_anew_unlike_in_torch() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    cases = [(SWALR, sgd(refoptim, [1.0])), (torch.optim.swa_utils.SWALR, torch_sgd([1.0]))]
    for cls, optimizer in cases:
        run(optimizer, cls(optimizer, 0.2, anneal_epochs=8, anneal_strategy="linear"), 4)
        cls(optimizer, 0.2, anneal_epochs=8, anneal_strategy="linear", last_epoch=3)
    (_, ours), (_, theirs) = cases
    assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"] == pytest.approx(0.6)
    for cls, optimizer in cases:
        run(optimizer, cls(optimizer, 0.2, anneal_epochs=8, anneal_strategy="linear", last_epoch=3), 1)
    assert ours.param_groups[0]["lr"] == pytest.approx(0.5)
    assert theirs.param_groups[0]["lr"] == pytest.approx(0.55)


def test_an_epoch_given_does_not_move_the_way_as_in_torch() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    lrs = []
    for cls, optimizer in ((SWALR, sgd(refoptim, [0.3])), (torch.optim.swa_utils.SWALR, torch_sgd([0.3]))):
        scheduler = cls(optimizer, 0.05, anneal_epochs=9)
        run(optimizer, scheduler, 3)
        with pytest.warns(UserWarning, match="epoch"):
            scheduler.step(7)
        lrs.append(run(optimizer, scheduler, 12))
    assert lrs[0] == lrs[1]


def test_the_way_may_stand_in_a_sequence() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    lrs = []
    for library, optimizer in ((refoptim, sgd(refoptim, [0.3, 0.01])), (torch.optim, torch_sgd([0.3, 0.01]))):
        first = library.lr_scheduler.StepLR(optimizer, 4, gamma=0.6)
        second = library.swa_utils.SWALR(optimizer, 0.05, anneal_epochs=9)
        lrs.append(run(optimizer, library.lr_scheduler.SequentialLR(optimizer, [first, second], [13]), 40))
    assert lrs[0] == lrs[1]


def test_a_state_dict_of_torch_is_understood() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    lrs, arguments = drawn(3)
    theirs, ours = torch_sgd(lrs), sgd(refoptim, lrs)
    torch_scheduler = torch.optim.swa_utils.SWALR(theirs, **arguments)
    run(theirs, torch_scheduler, 4)
    scheduler = SWALR(ours, arguments["swa_lr"])
    scheduler.load_state_dict(torch_scheduler.state_dict())
    assert run(ours, scheduler, 60) == run(theirs, torch_scheduler, 60)


def test_a_state_dict_with_another_strategy_is_refused_and_nothing_changes() -> None:
    optimizer = sgd(refoptim, [0.3])
    scheduler = SWALR(optimizer, 0.05)
    saved = scheduler.state_dict()
    with pytest.raises(ValueError, match="anneal_strategy must be one of 'cos' or 'linear', instead got step"):
        scheduler.load_state_dict(saved | {"_anneal_strategy": "step", "last_epoch": 7})
    assert scheduler.state_dict() == saved


def test_a_group_that_comes_later_is_annealed_too_unlike_in_torch() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    ours, theirs = sgd(refoptim, [0.3]), torch_sgd([0.3])
    schedulers = [SWALR(ours, 0.05, anneal_epochs=4), torch.optim.swa_utils.SWALR(theirs, 0.05, anneal_epochs=4)]
    ours.add_param_group({"params": [np.array(2.0)]})
    theirs.add_param_group({"params": [torch.nn.Parameter(torch.tensor(2.0))]})
    theirs.step()
    with pytest.raises(KeyError):
        schedulers[1].step()
    assert run(ours, schedulers[0], 9)[-1] == [0.05, 0.05]


@pytest.mark.parametrize(
    ("arguments", "error", "message", "in_torch"),
    [
        ({"swa_lr": [0.1]}, ValueError, "swa_lr must have the same length as optimizer.param_groups", True),
        (
            {"swa_lr": 0.1, "anneal_strategy": "exp"},
            ValueError,
            "anneal_strategy must be one of 'cos' or 'linear'",
            True,
        ),
        (
            {"swa_lr": 0.1, "anneal_epochs": -1},
            ValueError,
            "anneal_epochs must be equal or greater than 0, got -1",
            True,
        ),
        (
            {"swa_lr": 0.1, "anneal_epochs": 2.5},
            ValueError,
            "anneal_epochs must be equal or greater than 0, got 2.5",
            True,
        ),
        ({"swa_lr": 0.1, "anneal_epochs": True}, ValueError, "anneal_epochs must be equal or greater than 0", False),
        ({"swa_lr": float("nan")}, ValueError, "Invalid swa_lr value: nan", False),
        ({"swa_lr": [0.1, -0.5]}, ValueError, r"Invalid swa_lr\[1\] value: -0.5", False),
        ({"swa_lr": "0.1"}, TypeError, "swa_lr must be a real number, got '0.1'", False),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_changes(
    arguments: dict[str, Any], error: type[Exception], message: str, in_torch: bool
) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    optimizer = sgd(refoptim, [0.3, 0.01])
    kept = [dict(group) for group in optimizer.param_groups]
    with pytest.raises(error, match=message):
        SWALR(optimizer, **arguments)
    assert [dict(group) for group in optimizer.param_groups] == kept
    if in_torch:
        with pytest.raises(error, match=message):
            torch.optim.swa_utils.SWALR(torch_sgd([0.3, 0.01]), **arguments)
    with pytest.raises(TypeError, match="int is not an Optimizer"):
        SWALR(3, 0.1)  # type: ignore[arg-type]
