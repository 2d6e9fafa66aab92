"""Averages of models of every kind, with their buffers, by functions of one's own."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from helpers.averages import FORMS, Broken, Net, fails_at, nested, two
from helpers.oracle import assert_same_bits, gradient, rng_of
from refoptim import Parameter, swa_utils
from refoptim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

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
    with pytest.raises(TypeError, match=r"w must be an array: a tensor must have the layout torch.strided"):
        AveragedModel({"w": torch.eye(2).to_sparse()})


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
