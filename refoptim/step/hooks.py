"""Hooks: functions that run around a step, and around saving and loading a state dict."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from itertools import count
from types import TracebackType
from typing import Any

Hook = Callable[..., Any]

_ids = count()


class RemovableHandle:
    """What registering a hook returns: ``remove()`` takes the hook away, as does leaving a ``with`` block."""

    def __init__(self, hooks: OrderedDict[int, Hook]) -> None:
        self.id = next(_ids)
        self._hooks = weakref.ref(hooks)

    def remove(self) -> None:
        """Take the hook away; a second call does nothing."""
        hooks = self._hooks()
        if hooks is not None:
            hooks.pop(self.id, None)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.remove()


class Hooks(OrderedDict[int, Hook]):
    """Hooks in the order in which they run."""

    def register(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Add a hook behind the others, or before them."""
        if not callable(hook):
            raise TypeError(f"hook must be callable, got {hook!r}")
        handle = RemovableHandle(self)
        self[handle.id] = hook
        if prepend:
            self.move_to_end(handle.id, last=False)
        return handle


before_all, after_all = Hooks(), Hooks()
"""Those that run around the step of every optimizer."""


def register_optimizer_step_pre_hook(hook: Hook) -> RemovableHandle:
    """Run ``hook(optimizer, args, kwargs)`` before the step of every optimizer."""
    return before_all.register(hook)


def register_optimizer_step_post_hook(hook: Hook) -> RemovableHandle:
    """Run ``hook(optimizer, args, kwargs)`` after the step of every optimizer."""
    return after_all.register(hook)


def before_step(local: Hooks, optimizer: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Run the global hooks, then the optimizer's own; each may replace the arguments of the step."""
    for hook in (*before_all.values(), *local.values()):
        result = hook(optimizer, args, kwargs)
        if result is None:
            continue
        if not (isinstance(result, tuple) and len(result) == 2):
            raise RuntimeError(f"{hook} must return None or a tuple of (new_args, new_kwargs), but got {result}.")
        args, kwargs = result
    return args, kwargs


def after_step(local: Hooks, optimizer: Any, args: Any, kwargs: Any) -> None:
    """Run the optimizer's own hooks, then the global ones."""
    for hook in (*local.values(), *after_all.values()):
        hook(optimizer, args, kwargs)


def filter_through(hooks: Hooks, optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Pass a state dict through hooks; each may return another in its place."""
    for hook in (*hooks.values(),):
        result = hook(optimizer, state_dict)
        state_dict = state_dict if result is None else result
    return state_dict
