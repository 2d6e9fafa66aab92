"""Groups without decay for what has none, and with smaller learning rates for earlier layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import refoptim
from refoptim.transforms import param_groups

MODEL = {
    "embed.weight": np.ones((4, 2)),
    "blocks.0.weight": np.ones((2, 2)),
    "blocks.0.bias": np.ones(2),
    "blocks.1.weight": np.ones((2, 2)),
    "blocks.1.norm": np.ones(2),
    "blocks.1.odd.bias": np.ones((2, 1)),
    "head.weight": np.ones((2, 3)),
}
LAYERS = ["embed.*", "blocks.0.*", "blocks.1.*"]


def names(groups: list[dict[str, Any]]) -> list[list[str]]:
    return [[name for name, _ in group["params"]] for group in groups]


def test_bias_and_norm_have_no_decay() -> None:
    decayed, spared = param_groups(MODEL, weight_decay=0.1)
    assert names([decayed, spared]) == [
        ["embed.weight", "blocks.0.weight", "blocks.1.weight", "head.weight"],
        ["blocks.0.bias", "blocks.1.norm", "blocks.1.odd.bias"],
    ]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    optimizer = refoptim.AdamW(param_groups(list(MODEL.items())), lr=0.1, weight_decay=0.5)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = np.zeros(p.shape)
    optimizer.step()
    assert MODEL["embed.weight"][0, 0] == 1 - 0.1 * 0.5 and MODEL["blocks.0.bias"][0] == 1
    for x in MODEL.values():
        x[...] = 1


def test_patterns_and_no_rule() -> None:
    _, spared = param_groups(MODEL, no_decay=["embed.*"])
    assert names([spared])[0][0] == "embed.weight" and len(spared["params"]) == 4
    (alone,) = param_groups(MODEL, no_decay=False)
    assert len(alone["params"]) == len(MODEL) and "weight_decay" not in alone


def test_earlier_layers_are_slower() -> None:
    for layers in (LAYERS, lambda name: {"e": 0, "h": 3}.get(name[0]) or ("0" in name) + 2 * ("1" in name)):
        groups = param_groups(MODEL, layer_decay=0.5, layers=layers, lr=0.8, min_scale=0.2)
        assert [group["lr"] for group in groups] == [0.8 * x for x in (0.2, 0.25, 0.25, 0.5, 0.5, 1.0)]
        assert names(groups)[0] == ["embed.weight"] and names(groups)[-1] == ["head.weight"]
        assert ["weight_decay" in group for group in groups] == [False, False, True, False, True, False]
    optimizer = refoptim.SGD(groups, lr=0.1)
    scheduler = refoptim.lr_scheduler.LinearWarmupLR(optimizer, 2, 9)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [group["lr"] * 0.5 for group in groups]


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"layer_decay": 0.0, "lr": 0.1, "layers": LAYERS}, ValueError, "layer_decay"),
        ({"layer_decay": 0.5, "layers": LAYERS}, ValueError, "needs lr"),
        ({"layer_decay": 0.5, "lr": 0.1}, ValueError, "and layers"),
        ({"layer_decay": 0.5, "lr": 0.1, "layers": LAYERS, "min_scale": 2.0}, ValueError, "min_scale"),
        ({"no_decay": "embed.*"}, TypeError, "no_decay must be True, False or a list of patterns"),
    ],
)
def test_wrong_arguments(more: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        param_groups(MODEL, **more)


def test_wrong_names() -> None:
    with pytest.raises(TypeError, match="pairs of a name and an array"):
        param_groups([np.ones(3)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="two parameters are named 'a'"):
        param_groups([("a", np.ones(3)), ("a", np.ones(2))])
