"""optimizer.state by Parameter, and by what a Parameter was made of; and parameters that stand twice."""

from __future__ import annotations

import pickle
from copy import deepcopy
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.kernels import NEEDS_KERNELS
from helpers.pictures import picture
from helpers.refusals import f4, refused
from refoptim import Parameter

ADVICE = r"the state is kept by Parameter, and these stand in param_groups\[i\]\['params'\]"


def test_arrays_and_tensors_stand_for_their_parameters(torch: Any) -> None:
    w, t = f4(2, 3), torch.ones(3)
    optimizer = refoptim.Adam([w, t])
    optimizer.step(grads=[w.copy(), torch.ones(3)])
    p, q = optimizer.param_groups[0]["params"]
    assert optimizer.state[w] is optimizer.state[p]
    assert optimizer.state[w.reshape(3, 2).reshape(2, 3)] is optimizer.state[p]
    assert optimizer.state[t] is optimizer.state[t.detach()] is optimizer.state[t.numpy()] is optimizer.state[q]
    assert list(optimizer.state) == [p, q]


@pytest.mark.parametrize("steps", [0, 1])
def test_others_are_refused_and_nothing_is_planted(torch: Any, steps: int) -> None:
    w, t = f4(2, 3), torch.ones(3)
    optimizer = refoptim.Adam([w, t])
    for _ in range(steps):
        optimizer.step(grads=[w.copy(), torch.ones(3)])
    strangers = [w.copy(), w[:1], w.T, w.reshape(3, 2), w.view(np.int32), torch.ones(3), torch.ones(3).requires_grad_()]
    strangers += [] if steps else [w, t]
    before = picture(optimizer)
    for x in strangers:
        with pytest.raises(KeyError, match=ADVICE):
            optimizer.state[x]
    assert picture(optimizer) == before


def test_parameters_and_other_keys_have_a_state_when_asked() -> None:
    """As torch's defaultdict; copies and pickles stay what they are."""
    optimizer = refoptim.Adam([f4(3)])
    p = optimizer.param_groups[0]["params"][0]
    optimizer.state[p]["mine"] = 1
    optimizer.state["note"]["text"] = "x"
    optimizer.state[np.int64(3)]["n"] = 2
    for other in (optimizer, deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        q = other.param_groups[0]["params"][0]
        assert other.state == {q: {"mine": 1}, "note": {"text": "x"}, 3: {"n": 2}}
        assert other.state[other.param_groups[0]["params"][0].data] == {"mine": 1}


@pytest.mark.parametrize("fused", [None, pytest.param(True, marks=NEEDS_KERNELS)])
@pytest.mark.parametrize("how", ["append", "extend"])
def test_a_group_that_stands_twice(how: str, fused: bool | None) -> None:
    """Between two steps; both groups would update from the buffer as it was."""
    w = np.ones(3, np.float32)
    optimizer = refoptim.SGD([w], lr=0.1, momentum=0.9, fused=fused)
    for _ in range(2):
        optimizer.step(grads=[np.ones(3, np.float32)])
    groups = optimizer.param_groups
    twin = dict(groups[0])
    groups.append(twin) if how == "append" else groups.extend([twin])
    message = (
        "some parameters appear in more than one parameter group: parameter 0 of group 0 and parameter 0 of group 1"
    )
    refused([optimizer, w], lambda: optimizer.step(grads=[w.copy(), w.copy()]), ValueError, message)
    refused([optimizer, w], optimizer.state_dict, ValueError, message)
    groups[1]["params"] = [Parameter(w[::-1])]
    refused([optimizer, w], lambda: optimizer.step(grads=[w.copy(), w.copy()]), ValueError, message)
    refused([optimizer, w], optimizer.state_dict, ValueError, message)
    del groups[1]
    optimizer.step(grads=[np.ones(3, np.float32)])
    assert optimizer.state_dict()["state"][0]["momentum_buffer"][0] == np.float32(2.71)


def test_members_that_lie_apart_in_one_array_are_fine() -> None:
    x = np.ones(8, np.float32)
    optimizer = refoptim.SGD([x[::2]], lr=0.5)
    optimizer.param_groups[0]["params"].append(Parameter(x[1::2]))
    optimizer.step(grads=[np.ones(4, np.float32), np.zeros(4, np.float32)])
    assert x.tolist() == [0.5, 1] * 4


@pytest.mark.parametrize("name", ["LBFGS", "ConjugateGradient"])
def test_optimizers_of_one_group(name: str) -> None:
    """Their vector would hold a parameter twice, or a group would be left out."""
    p = Parameter(f4(3), grad=f4(3))
    optimizer = getattr(refoptim, name)([p])
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [Parameter(f4(2))]})
    refused([optimizer], lambda: optimizer.step(lambda: 1.0), ValueError, "doesn't support per-parameter options")
    del optimizer.param_groups[1]
    optimizer.param_groups[0]["params"].append(p)
    refused(
        [optimizer], lambda: optimizer.step(lambda: 1.0), ValueError, "parameter 0 of group 0 and parameter 1 of gr"
    )
