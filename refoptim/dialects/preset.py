"""Presets: the optimizers of other libraries, as dialects with their defaults.

A module of this package named after a library calls ``preset`` once for each of its optimizers that refoptim has. The
names are torch's, and so are the arguments. ``known`` gives them all.
"""

from __future__ import annotations

from importlib import import_module
from inspect import Signature, signature
from typing import Any, ClassVar

from ..functional import Step, pure_step
from ..optimizers.base import Optimizer
from . import dialect
from .change import Axis

LIBRARIES = ("chainer", "keras", "mlx", "onnx", "optax", "sklearn")
"""The modules that hold presets."""

_made: dict[str, dict[str, type[Preset]]] = {}


class Preset(Optimizer):
    """An optimizer as another library has it.

    Attributes:
        library: the library, as its module here is called.
        flags: the names of what differs from refoptim's, as ``FLAGS`` explains them.
        functional: the pure rule, as ``refoptim.functional`` has those of refoptim.
    """

    library: ClassVar[str]
    flags: ClassVar[tuple[str, ...]]
    functional: ClassVar[Step]


def known() -> dict[str, dict[str, type[Preset]]]:
    """Return all presets, by library and by the name of the optimizer."""
    for library in LIBRARIES:
        import_module(f"{__package__}.{library}")
    return {library: dict(_made[library]) for library in LIBRARIES}


def preset(module: str, optimizer: type[Optimizer], *axes: str | Axis, **defaults: Any) -> type[Preset]:
    """Make an optimizer of another library out of refoptim's.

    Args:
        module: the name of the module that calls, the last part of which is the library's.
        optimizer: refoptim's.
        axes: what differs, by flags.
        defaults: the settings whose defaults differ.
    """
    base, library = dialect(optimizer, *axes), module.rpartition(".")[2]
    usual = signature(optimizer)
    flags = tuple(axis if isinstance(axis, str) else axis.flag for axis in axes)
    made: type[Preset] = type(
        optimizer.__name__,
        (base, Preset),
        {
            "__init__": _beginning(base, usual, defaults),
            "__signature__": _with_defaults(usual, defaults),
            "__doc__": _described(library, optimizer, flags, defaults),
            "__module__": module,
            "library": library,
            "flags": flags,
        },
    )
    made.functional = staticmethod(pure_step(made))  # type: ignore[assignment]
    _made.setdefault(library, {})[optimizer.__name__] = made
    return made


def _beginning(base: Any, usual: Signature, defaults: dict[str, Any]) -> Any:
    """Return a constructor with other defaults."""

    def __init__(self: Any, *args: Any, **settings: Any) -> None:
        base.__init__(self, **{**defaults, **usual.bind(*args, **settings).arguments})

    return __init__


def _with_defaults(usual: Signature, defaults: dict[str, Any]) -> Signature:
    parameters = [x.replace(default=defaults.get(x.name, x.default)) for x in usual.parameters.values()]
    return usual.replace(parameters=parameters)


def _described(library: str, optimizer: type[Optimizer], flags: tuple[str, ...], defaults: dict[str, Any]) -> str:
    name = optimizer.__name__
    settings = ", ".join(f"{key}={x!r}" for key, x in defaults.items())
    return (
        f"{name} as {library} has it: ``refoptim.{name}`` with {', '.join(flags) or 'no difference but rounding'}"
        + (f", and by default {settings}" if settings else "")
        + f".\n\n    ``refoptim.dialects.FLAGS`` says what the names mean; arguments and state are those of {name}."
    )
