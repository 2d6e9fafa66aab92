"""Lookahead: an optimizer whose weights are drawn back to slower ones every few steps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ..engines.threads import give_back, shared_out, shares
from ..engines.workspace import Workspace
from ..numerics import tree
from ..numerics.arith import Array, DType, as_reals, lerp, storage, widen
from ..numerics.array_types import HOST, at, copied, is_array, place, plain
from ..optimizers.base import Alone, Closure, Optimizer
from ..step import hyper as hp
from ..step.changes import Change, make
from ..step.parameter import Parameter, told
from ..step.plan import label, layout
from ..step.rule import resolve
from ..step.scaling import Scaling
from ..step.state_dict import StateDict
from .wrapper import Wrapper, copied_list

ALPHA = hp.Real("", interval=hp.Interval("[0, 1]"))
K = hp.Count("", interval=hp.Interval("[1, inf)"))
PULLBACK = hp.Choice("", options=("none", "reset", "pullback"))
BUFFER = "momentum_buffer"
ENTRY = ("alpha", "k", "pullback_momentum", "count", "slow", "slow_momentum")


class Lookahead(Wrapper):
    """Lets an optimizer take ``k`` steps, then draws the parameters to slower copies of them, and the copies after.

    .. code-block:: text

        slow = p                                          when this is made
        step of the optimizer                             each step
        p    = lerp(p, slow, 1 - alpha), slow = p         in each k-th one, for all parameters
        b    = 0                                          then too, with pullback_momentum="reset"
        b    = lerp(b, slow_b, 1 - alpha), slow_b = b     then too, with "pullback"; slow_b = 0 at first

    ``b`` is the ``momentum_buffer`` of SGD or RMSprop. Of a parameter with a master copy ``p`` is that copy, and
    ``slow`` is float32; all else has the dtype of the parameter, is computed in its arithmetic type and rounded once. A
    step and what follows from it are made at once. A step that is skipped, as for an overflow, does not count.

    Args:
        optimizer: any but a Sharded one.
        alpha: how far the slow copies follow, in [0, 1].
        k: the steps between, 1 or more.
        pullback_momentum: "none", "reset" or "pullback".

    Attributes:
        optimizer: the optimizer.
        count: the steps since the copies moved.

    Raises:
        TypeError, ValueError: an argument is wrong, or momentum is to be changed of an optimizer that has no buffer.

    Source: Zhang, Lucas, Ba, Hinton, "Lookahead optimizer: k steps forward, 1 step back", NeurIPS 2019, algorithm 1.
    """

    own: ClassVar[tuple[str, ...]] = ("alpha", "k", "pullback_momentum", "count", "_slow", "_slow_momentum")

    def __init__(self, optimizer: Optimizer, alpha: float = 0.5, k: int = 5, pullback_momentum: str = "none") -> None:
        super().__init__(optimizer)
        self._check_wrapped()
        settings = {"alpha": alpha, "k": k, "pullback_momentum": pullback_momentum}
        self.alpha: float
        self.k: int
        self.pullback_momentum: str
        vars(self).update(self._settings(settings))
        self.count = -self._delay(self.k)
        self._slow: dict[Parameter, Array] = {p: self._first(p) for p in self._members()}
        self._slow_momentum: dict[Parameter, Array] = {}

    def _settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings as they are used, or raise."""
        kinds = {"alpha": ALPHA, "k": K, "pullback_momentum": PULLBACK}
        found = {name: kind.resolve(name, given[name]) for name, kind in kinds.items()}
        if found["pullback_momentum"] != "none" and not any(map(self._has_buffer, self.param_groups)):
            raise ValueError(
                f"pullback_momentum must be 'none' where there is no {BUFFER}, as in these groups of "
                f"{type(self._innermost()).__name__}, got {found['pullback_momentum']!r}"
            )
        return found

    def _delay(self, k: int) -> int:
        """Return how many steps are taken before the slow copies are made: none, they are made at once."""
        return 0

    def _has_buffer(self, group: Any) -> bool:
        rule = type(self._innermost())
        h = resolve(rule, group)
        return any(BUFFER in layout(rule, h, p.shape) for p in group["params"])

    def _first(self, p: Parameter) -> Array:
        """Return the first slow copy of a parameter."""
        master = self.state[p].get("master") if p in self.state else None
        return copied(p.data, _dtype(p)) if master is None else copied(master)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the optimizer, as its ``add_param_group`` does; slow copies of it are made."""
        before = len(self.param_groups)
        super().add_param_group(param_group)
        try:
            added = {p: self._first(p) for group in self.param_groups[before:] for p in group["params"]}
        except BaseException:
            del self.param_groups[before:]
            raise
        make([partial(self._slow.update, added)])

    def step(
        self,
        closure: Closure | None = None,
        *,
        grads: Iterable[Any] | None = None,
        estimates: Iterable[Any] | None = None,
        grad_scale: Any = None,
        found_inf: Any = None,
    ) -> Any:
        """Take a step of the optimizer and, if it is a k-th one, move the slow copies; return what the step returns.

        Args:
            closure: as for the step of the optimizer.
            grads: likewise.
            estimates: likewise.
            grad_scale: likewise.
            found_inf: likewise; read from a GPU, since a step that is skipped does not count.

        Raises:
            TypeError, ValueError, RuntimeError: a gradient or a setting is wrong. Nothing has changed then.
        """
        self._check_in_place()
        with Alone(self, sys._getframe()):
            skips = Scaling(None, found_inf).skips()
            given = {"grads": grads, "estimates": estimates, "grad_scale": grad_scale, "found_inf": skips or None}
            arguments = {name: x for name, x in given.items() if x is not None}
            after = self.count + 1
            last = after == 0 or after >= self.k
            count = partial(setattr, self, "count", 0 if last else after)
            with self._synchronized(last and not skips) as changes, self.optimizer.also([*changes, count, *self._also]):
                return self.optimizer.step(closure, **arguments)

    @contextmanager
    def _synchronized(self, wanted: bool) -> Iterator[list[Change]]:
        """Let changes that move the slow copies be made inside the block, and raise what goes wrong with them."""
        failed: list[BaseException] = []
        begun: list[bool] = []
        changes = self._synchronizing(failed) if wanted else []
        try:
            yield [partial(begun.append, True), *changes]
        finally:
            if not begun:
                give_back(changes)
            if failed:
                self._innermost()._torn = self._torn = failed
        if failed:
            raise failed[0]

    def _synchronizing(self, failed: list[BaseException]) -> list[Change]:
        """Return what moves the slow copies and draws the parameters to them, once a step is made."""
        groups = enumerate(self.param_groups)
        named = {p: label(i, j, p) for i, group in groups for j, p in enumerate(group["params"]) if p in self._slow}
        for p, name in named.items():
            _check(p, self._slow[p], name)
        momentum = self._slow_momentum | self._first_momentum(named)
        parts = [(p, block) for p in named for block in tree.blocks(as_reals(plain(p.data)).shape)]
        here = [part for part in parts if place(part[0].data) == HOST]
        workspace = Workspace()
        worker = partial(_guarded, failed, partial(workspace.insist, self._move))
        changes = shared_out([worker] * shares(here), here, workspace) if here else []
        elsewhere = [partial(worker, part) for part in parts if place(part[0].data) != HOST]
        return [partial(setattr, self, "_slow_momentum", momentum), *told(named), *elsewhere, *changes]

    def _first_momentum(self, members: Iterable[Parameter]) -> dict[Parameter, Array]:
        """Return slow copies of buffers, zero, for those that may have a buffer and have no copy yet."""
        wanted = self.pullback_momentum == "pullback"
        return {p: _zeros(self._slow[p]) for p in members if wanted and p not in self._slow_momentum}

    def _move(self, part: tuple[Parameter, tree.Block]) -> None:
        """Work out all that a block becomes, then write it."""
        p, block = part
        state = self.state.get(p, {})
        master, slow = state.get("master"), self._slow[p]
        data, alpha = p.data, self.alpha
        fast = data if master is None else master
        before = fast if self.count < 0 else slow  # the slow copy is made now
        with at(place(data)), np.errstate(all="ignore"):
            found = self._between(_cut(fast, block), _cut(before, block), alpha)
            new = [(data, found), (slow, found), *([] if master is None else [(master, found)])]
            buffer = state.get(BUFFER)
            if is_array(buffer) and self.pullback_momentum == "reset":
                new.append((buffer, 0))
            elif is_array(buffer) and self.pullback_momentum == "pullback":
                other = self._slow_momentum[p]
                found = self._between(_cut(buffer, block), _cut(other, block), alpha)
                new += [(buffer, found), (other, found)]
            ready = [(_cut(x, block), _rounded(value, x)) for x, value in new]
            for x, value in ready:
                x[...] = value

    def _between(self, fast: Array, slow: Array, alpha: float) -> Array:
        """Return what fast and slow numbers become, in their arithmetic type."""
        x, y = widen(fast), widen(slow)
        return lerp(x, y, x.dtype.type(1 - alpha))

    def _saved(self, inner: StateDict, copy: Callable[[Any], Any]) -> StateDict:
        members = self._members()
        arrays = {"slow": self._slow, "slow_momentum": self._slow_momentum}
        own = {name: vars(self)[name] for name in ENTRY if name not in arrays}
        return {**inner, "lookahead": {**own, **{name: copied_list(members, x, copy) for name, x in arrays.items()}}}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over a copy of a saved state, settings and slow copies among it.

        Raises:
            TypeError, ValueError: the state is not one of a Lookahead, or not of these parameters. Nothing has changed
                then.
        """
        inner, entry = self._entry(state_dict, "lookahead", ENTRY)
        settings = self._settings(entry)
        k: int = settings["k"]
        count = hp.Count("", interval=hp.Interval(f"[{-self._delay(k)}, {k})")).resolve("count", entry["count"])
        slow = self._arrays(inner, "slow", entry["slow"], _dtype)
        momentum = self._arrays(inner, "slow_momentum", entry["slow_momentum"], _dtype)
        own = {**settings, "count": count, "_slow": slow, "_slow_momentum": momentum}
        self._take_over(inner, own)


def _dtype(p: Parameter) -> DType:
    """Return the dtype of a slow copy."""
    return np.dtype(np.float32) if p.master else p.dtype


def _zeros(slow: Array) -> Array:
    with at(place(slow)):
        return np.zeros_like(slow)


def _check(p: Parameter, slow: Array, name: str) -> None:
    """Raise ValueError if a parameter is not what its slow copy was made of."""
    if (p.shape, _dtype(p), place(p.data)) != (slow.shape, slow.dtype, place(slow)):
        raise ValueError(f"{name} must keep shape, dtype and place of its slow copy: {slow.shape} {slow.dtype}")


def _cut(x: Array, block: tree.Block) -> Array:
    return tree.take(as_reals(plain(x)), block)


def _rounded(value: Any, like: Array) -> Any:
    """Return numbers in the real storage type of an array."""
    return value.astype(storage(like.dtype), copy=False) if is_array(value) else value


def _guarded(failed: list[BaseException], function: Callable[[Any], None], part: Any) -> None:
    """Call a function on a part, unless one before has failed; note what goes wrong."""
    try:
        function(part)
    except BaseException as error:
        failed.append(error)
        raise
