"""Kernels that stand in for functions.

A function marked ``twinned`` is the definition of what it computes. Inside ``kernels_on`` a machine its twin runs in
its place: the function of the same name in that module of ``refoptim.kernels`` that is called like the module of the
definition. The twin takes the machine first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

from .machine import Machine

P = ParamSpec("P")
R = TypeVar("R")

_machine: ContextVar[Machine | None] = ContextVar("machine", default=None)


@contextmanager
def kernels_on(machine: Machine | None) -> Iterator[None]:
    """Let kernels on a machine stand in for functions, or the functions stand for themselves if there is none."""
    token = _machine.set(machine)
    try:
        yield
    finally:
        _machine.reset(token)


def twinned(function: Callable[P, R]) -> Callable[P, R]:
    """Let kernels stand in for a function."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        machine = _machine.get()
        if machine is None:
            return function(*args, **kwargs)
        result: R = _twin(function.__module__, function.__name__)(machine, *args, **kwargs)
        return result

    return call


@cache
def _twin(module: str, name: str) -> Callable[..., Any]:
    twin: Callable[..., Any] = getattr(import_module(f"refoptim.kernels.{module.rpartition('.')[2]}"), name)
    return twin
