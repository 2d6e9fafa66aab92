"""Lending an optimizer other parameters and another state for a while, as torch does."""

from __future__ import annotations

from typing import Any

import pytest

import refoptim
from helpers.pictures import picture
from helpers.rooms import assert_equal_bits, make, members, normal


def pair(torch: Any, name: str, seed: int) -> tuple[Any, Any]:
    """Return equal optimizers of refoptim and torch, in two groups, after two steps."""
    arrays = [normal(seed + i, 3) for i in range(3)]
    tensors = [torch.from_numpy(x.copy()) for x in arrays]
    split = [getattr(m, name) for m in (refoptim, torch.optim)]
    ours, theirs = (
        cls([{"params": xs[:1]}, {"params": xs[1:], "lr": 0.5}], lr=0.25)
        for cls, xs in zip(split, (arrays, tensors), strict=True)
    )
    for k in range(2):
        advance(ours, theirs, seed + k)
    return ours, theirs


def advance(ours: Any, theirs: Any, seed: int) -> None:
    import torch

    grads = [normal(seed + 10 * i, 3) for i in range(3)]
    ours.step(grads=grads)
    for t, g in zip(members(theirs), grads, strict=True):
        t.grad = torch.from_numpy(g.copy())
    theirs.step()


@pytest.mark.parametrize("fails", [False, True])
def test_swapping_in_is_torchs(fails: bool, torch: Any) -> None:
    """With Rprop, which has state and takes no square root, so that torch is exact as it is."""
    ours, theirs = pair(torch, "Rprop", 1)
    guests, their_guests = pair(torch, "Rprop", 50)
    outside = picture(ours)
    groups = list(ours.param_groups)
    lent = {str(i): p.data for i, p in enumerate(members(guests))}
    their_lent = {str(i): t for i, t in enumerate(members(their_guests))}
    saved, their_saved = guests.state_dict(), their_guests.state_dict()
    try:
        with (
            refoptim.swap_in_optimizer_params_and_state(ours, lent, saved),
            torch.optim.swap_in_optimizer_params_and_state(theirs, their_lent, their_saved),
        ):
            assert ours.param_groups[0] is groups[0]
            ours.param_groups[1]["lr"] = theirs.param_groups[1]["lr"] = 0.125
            advance(ours, theirs, 7)
            assert members(ours)[2].data is lent["2"]
            if fails:
                raise LookupError
    except LookupError:
        assert fails
    assert picture(ours) == outside
    for i, t in enumerate(members(their_guests)):
        assert_equal_bits(lent[str(i)], t.numpy())
        assert_equal_bits(saved["state"][i]["prev"], their_saved["state"][i]["prev"].numpy())
    advance(ours, theirs, 9)
    for p, t in zip(members(ours), members(theirs), strict=True):
        assert_equal_bits(p.data, t.numpy())


def test_a_group_added_while_lending_is_gone_afterwards() -> None:
    optimizer, guest = make("Adam", [normal(1, 3)]), make("Adam", [normal(2, 3)])
    for o in (optimizer, guest):
        o.step(grads=[normal(3, 3)])
    before = picture(optimizer)
    with refoptim.swap_in_optimizer_params_and_state(optimizer, {"w": normal(2, 3)}, guest.state_dict()):
        optimizer.add_param_group({"params": [normal(4, 2)]})
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step(grads=[normal(5, 3), normal(6, 2)])
    assert picture(optimizer) == before
