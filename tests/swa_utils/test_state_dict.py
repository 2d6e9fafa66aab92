"""State dicts of averages: torch's layout, saved and restored."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from helpers.averages import FORMS, Net, assert_same, two
from refoptim import swa_utils
from refoptim.swa_utils import AveragedModel


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
