"""Keys of groups: those that are no setting, but close to one, are refused; others may stand there."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.refusals import f4, refused
from helpers.rooms import NAMES, make
from refoptim import lr_scheduler
from refoptim.step.hyper import declared
from refoptim.swa_utils import SWALR

SLIPS = {
    "weight_decy": ("AdamW", "weight_decay"),
    "wieght_decay": ("AdamW", "weight_decay"),
    "weightdecay": ("AdamW", "weight_decay"),
    "weight-decay": ("AdamW", "weight_decay"),
    "Weight_Decay": ("AdamW", "weight_decay"),
    "LR": ("SGD", "lr"),
    "Lr": ("Adam", "lr"),
    "betass": ("Adam", "betas"),
    "EPS": ("Adam", "eps"),
    "momentun": ("SGD", "momentum"),
    "damping": ("SGD", "dampening"),
    "nestrov": ("SGD", "nesterov"),
    "maximise": ("NAdam", "maximize"),
    "ams_grad": ("Adam", "amsgrad"),
    "lambda": ("ASGD", "lambd"),
    "centred": ("RMSprop", "centered"),
    "step_size": ("Rprop", "step_sizes"),
    "n_steps": ("Muon", "ns_steps"),
    "fuse": ("Adam", "fused"),
    "esp": ("AdamW", "eps"),
    "ep": ("AdamW", "eps"),
    "lrr": ("SGD", "lr"),
    "l_r": ("SGD", "lr"),
    "rl": ("SGD", "lr"),
}
"""What was written, in which optimizer's group, and what was meant."""

OTHERS = [
    *("lr_scale", "lr_mult", "weight_decay_scale", "weight_decay_mult", "no_weight_decay", "layer_id", "name", "names"),
    *("initial_lr", "max_lr", "min_lr", "base_lr", "swa_lr", "base_momentum", "max_momentum", "initial_momentum"),
    *("beta1", "eps2", "lr0", "wd", "warmup", "d_scale", "use_muon", "trust_coefficient", "param_name", "epsilon"),
]
"""What other libraries and users write there: no setting of any optimizer, and none was meant."""


def said(slip: str) -> str:
    return f"has the key {slip!r}, which is no setting: did you mean {SLIPS[slip][1]!r}?"


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_in_the_constructor_and_in_added_groups(slip: str) -> None:
    optimizer = make(SLIPS[slip][0], [np.ones((3, 2), np.float32)])
    group = {"params": [f4(2, 2)], slip: 0.5}
    refused([optimizer], lambda: optimizer.add_param_group(group), ValueError, f"a parameter group {said(slip)}")
    with pytest.raises(ValueError, match=re.escape(said(slip))):
        make(SLIPS[slip][0], [group])


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_in_state_dicts(slip: str) -> None:
    optimizer = make(SLIPS[slip][0], [f4(3, 2)])
    saved = optimizer.state_dict()
    saved["param_groups"][0][slip] = 0.5
    refused(
        [optimizer],
        lambda: optimizer.load_state_dict(saved),
        ValueError,
        f"param_groups[0] of a state dict {said(slip)}",
    )


@pytest.mark.parametrize("name", NAMES)
def test_other_keys_stay(name: str) -> None:
    """In the constructor, added, and loaded; a key that the groups have by hand is no slip when it comes back."""
    optimizer = make(name, [{"params": [f4(3, 2)], **dict.fromkeys(OTHERS, 0.5)}])
    optimizer.add_param_group({"params": [f4(2, 2)], **dict.fromkeys(OTHERS, 0.5)})
    for group in optimizer.param_groups:
        group["weight_decy"] = 0.5
    other = make(name, [{"params": [f4(3, 2)]}, {"params": [f4(2, 2)]}])
    other.param_groups[0]["weight_decy"] = other.param_groups[1]["weight_decy"] = 0
    other.load_state_dict(optimizer.state_dict())
    assert all(group[key] == 0.5 for group in other.param_groups for key in (*OTHERS, "weight_decy"))


@pytest.mark.parametrize("name", NAMES)
def test_settings_of_other_optimizers_stay(name: str) -> None:
    """A group that was written for another optimizer is no slip, though ``beta`` is close to ``betas``."""
    own = set(declared(getattr(refoptim, name)))
    foreign = {x for other in (*NAMES, "LBFGS", "ConjugateGradient") for x in declared(getattr(refoptim, other))} - own
    assert "beta" in foreign | own
    make(name, [{"params": [f4(3, 2)], **dict.fromkeys(foreign, 0.5)}])


def test_what_schedulers_write_can_be_loaded() -> None:
    def optimizer() -> Any:
        return refoptim.SGD([f4(3, 2)], lr=0.1, momentum=0.5)

    one = optimizer()
    lr_scheduler.OneCycleLR(one, 0.1, total_steps=5)
    lr_scheduler.CyclicLR(one, 0.01, 0.1, step_size_up=2)
    SWALR(one, 0.05)
    keys = set(one.param_groups[0]) - set(optimizer().param_groups[0])
    assert {"initial_lr", "max_lr", "min_lr", "swa_lr", "base_momentum", "max_momentum"} <= keys
    other = optimizer()
    other.load_state_dict(one.state_dict())
    assert set(other.param_groups[0]) == set(one.param_groups[0])
