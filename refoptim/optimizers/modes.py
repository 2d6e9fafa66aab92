"""Optimizers with modes: parameters are at one point in training, and at another where they are evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from operator import setitem
from typing import Any, ClassVar

import numpy as np

from ..numerics.arith import Array, arithmetic, as_reals, from_reals, lerp
from ..numerics.array_types import at, place, plain
from ..numerics.followed import rounded
from ..numerics.libraries import on_their_streams
from ..step.changes import Change, make, there
from ..step.groups import Group
from ..step.parameter import Parameter, array_again, borrowed, check_writable, told
from ..step.plan import check_state, label, master_copy
from ..step.rule import Hypers, resolve, unread
from ..step.state_dict import step_count
from .base import Optimizer


class ModalOptimizer(Optimizer):
    """Base of optimizers with the modes ``train`` and ``eval``.

    In training, a parameter is the point y where gradients are taken, between the iterate z, a state array, and the
    average x of the iterates; in evaluation it is x. With the momentum b of a group:

    .. code-block:: text

        y = lerp(x, z, 1 - b)            train
        x = lerp(y, z, 1 - 1 / b)        eval

    The setting ``train_mode`` of a group says where its parameters are. A new optimizer is in train mode.
    """

    iterate: ClassVar[str] = "z"

    @classmethod
    def check_step(cls, h: Hypers) -> None:
        if not h.train_mode:
            raise RuntimeError(
                f"{cls.__name__} was not in train mode when step was called (train_mode=False): call train() before "
                "gradients are taken, and eval() before parameters are evaluated or saved"
            )

    @classmethod
    def momentum_of(cls, h: Hypers) -> float:
        """Return how much of the average there is in the point where gradients are taken."""
        raise NotImplementedError

    def train(self) -> None:
        """Move the parameters to where gradients are taken. Groups that are in train mode stay as they are.

        Raises:
            TypeError, ValueError, RuntimeError: a setting or the state is wrong. Nothing has changed then.
        """
        self.turn(True)

    def eval(self) -> None:
        """Move the parameters to where they are evaluated and saved. Groups that are in eval mode stay as they are.

        A parameter that has taken no step is in both places.

        Raises:
            TypeError, ValueError, RuntimeError: a setting or the state is wrong. Nothing has changed then.
        """
        self.turn(False)

    def turn(self, training: bool) -> None:
        """Call ``train``, or ``eval``."""
        with self._alone(), on_their_streams(borrowed(self.param_groups)):
            make([*self.turning(training), *self._also])

    def turning(self, training: bool) -> list[Change]:
        """Return the changes that put all groups in a mode; raise if something is wrong."""
        return [change for i, group in enumerate(self.param_groups) for change in self._of_group(i, group, training)]

    def _of_group(self, number: int, group: Group, training: bool) -> Iterator[Change]:
        h = resolve(type(self), unread(group))
        if h.train_mode == training:
            return
        share, moved = weight(self.momentum_of(h), training), list[Parameter]()
        for j, p in enumerate(group["params"]):
            try:
                changes = self._moving(p, self.state.get(p) or {}, share, bool(group.get("differentiable")))
            except (TypeError, ValueError, RuntimeError) as error:
                raise type(error)(f"{label(number, j, p, group.get('param_names', ()))}: {error}") from None
            moved += [p] if changes else []
            yield from changes
        yield from told(moved)
        yield partial(setitem, group, "train_mode", training)

    @np.errstate(all="ignore")
    def _moving(self, p: Parameter, state: dict[str, Any], share: float, replaced: bool) -> list[Change]:
        """Return what moves a parameter, and its master copy; nothing if it has taken no step."""
        z = array_again(state.get(self.iterate))
        if z is None or not step_count(state.get("step", 0), "the state step"):
            return []
        master = master_copy(p, state)
        updated = p.data if master is None else master
        check_state(self.iterate, z, p.shape, updated)
        with at(place(p.data)):
            new = between(plain(updated), plain(z), share)
            if replaced:
                return [p.holding(new)]
            check_writable(p.data)
            pairs = [(p.data, new if master is None else new.astype(p.dtype))]
            pairs += [] if master is None else [(master, new)]
        return there(place(p.data), [partial(setitem, plain(x), ..., value) for x, value in pairs])


def weight(momentum: float, training: bool) -> float:
    """Return how far a parameter goes from where it is towards its iterate, to be in another mode."""
    return 1 - momentum if training else 1 - 1 / momentum


def between(x: Array, y: Array, weight: float) -> Array:
    """Return lerp(x, y, weight) as a new array, the weight rounded to the arithmetic type."""
    start, end = as_reals(x), as_reals(y)
    new = lerp(start.reshape(-1), end.reshape(-1), rounded(weight, arithmetic(x.dtype)))
    return from_reals(new.reshape(start.shape), x.dtype)
