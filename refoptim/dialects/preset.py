"""Presets: the optimizers of other libraries, as dialects with their defaults.

A module of this package named after a library calls ``preset`` once for each of its optimizers that refoptim has. The
names are torch's, and so are the arguments. ``known`` gives them all.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from inspect import Signature, signature
from typing import Any, ClassVar

from ..functional import Step
from ..optimizers.base import Optimizer
from ..step.rule import Hypers
from . import axis_of, made_of
from .change import Axis
from .pure import pure_preset

LIBRARIES = (
    *("apex", "bitsandbytes", "bitsandbytes_cuda", "chainer", "deepspeed", "keras", "llm_c", "mlx", "mxnet"),
    *("older_torch", "onnx", "optax", "paddle", "sklearn", "sophia", "tensorflow1", "tensorflow2", "tinygrad"),
    "transformers",
)
"""The modules that hold presets, each with ``WITNESS``, what it was held to."""

_made: dict[str, dict[str, type[Preset]]] = {}


class Preset(Optimizer):
    """An optimizer as another library has it.

    Attributes:
        owner: the library, as its module here is called.
        axes: what differs from refoptim's.
        flags: the names of that, as ``FLAGS`` explains them.
        defaults_of_its_own: the settings whose defaults are others.
        functional: the pure rule, as ``refoptim.functional`` has those of refoptim.
        own: the settings that refoptim's does not have.
    """

    owner: ClassVar[str]
    axes: ClassVar[tuple[Axis, ...]]
    flags: ClassVar[tuple[str, ...]]
    defaults_of_its_own: ClassVar[Mapping[str, Any]]
    functional: ClassVar[Step]
    own: ClassVar[tuple[str, ...]] = ()

    def load_state_dict(self, state_dict: Any) -> None:
        """Load a state dict; one of refoptim's own, which lacks what is the library's, leaves that as it was made."""
        groups = state_dict.get("param_groups") if isinstance(state_dict, Mapping) else None
        if self.own and isinstance(groups, list) and all(isinstance(group, Mapping) for group in groups):
            own = {name: self.defaults[name] for name in self.own}
            state_dict = {**state_dict, "param_groups": [{**own, **group} for group in groups]}
        super().load_state_dict(state_dict)

    @classmethod
    def check(cls, h: Hypers) -> None:
        super().check(h)
        if getattr(h, "fused", None):
            raise RuntimeError(f"fused=True needs kernels, and {cls.owner}.{cls.__name__} has none: leave fused=None")


def known() -> dict[str, dict[str, type[Preset]]]:
    """Return all presets, by library and by the name of the optimizer."""
    for library in LIBRARIES:
        import_module(f"{__package__}.{library}")
    return {library: dict(_made[library]) for library in LIBRARIES}


def known_flags() -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the flags of all presets, by library and by the name of the optimizer."""
    return {library: {name: made.flags for name, made in all_of.items()} for library, all_of in known().items()}


def witness(library: str) -> str:
    """Return what a library's presets were held to."""
    found: str = import_module(f"{__package__}.{library}").WITNESS
    return found


def preset(module: str, optimizer: type[Optimizer], *axes: str | Axis, **defaults: Any) -> type[Preset]:
    """Make an optimizer of another library out of refoptim's.

    Args:
        module: the name of the module that calls, the last part of which is the library's.
        optimizer: refoptim's.
        axes: what differs, by flags.
        defaults: the settings whose defaults differ.
    """
    chosen = tuple(axis if isinstance(axis, Axis) else axis_of(optimizer.__name__, axis) for axis in axes)
    base, usual = made_of(optimizer, *chosen), signature(optimizer)
    about = {"__init__": _beginning(base, usual, defaults), "__signature__": _with_defaults(usual, defaults)}
    made: type[Preset] = type(optimizer.__name__, (Preset, base), about)
    return entered(module, made, optimizer, chosen, defaults)


def entered(
    module: str, made: type[Preset], optimizer: type[Optimizer], axes: tuple[Axis, ...], defaults: dict[str, Any]
) -> type[Preset]:
    """Enter an optimizer as a library's, and let it say what it is."""
    made.__module__, made.owner = module, module.rpartition(".")[2]
    made.axes, made.flags = axes, tuple(axis.flag for axis in axes)
    made.defaults_of_its_own = defaults
    made.__doc__ = _described(made, optimizer, sys.modules[module].__dict__["WITNESS"]) + (made.__doc__ or "")
    made.functional = staticmethod(pure_preset(made))  # type: ignore[assignment]
    _made.setdefault(made.owner, {})[optimizer.__name__] = made
    return made


def _beginning(base: Any, usual: Signature, defaults: dict[str, Any]) -> Any:
    """Return a constructor with other defaults."""

    def __init__(self: Any, *args: Any, **settings: Any) -> None:
        base.__init__(self, **{**defaults, **usual.bind(*args, **settings).arguments})

    return __init__


def _with_defaults(usual: Signature, defaults: dict[str, Any]) -> Signature:
    parameters = [x.replace(default=defaults.get(x.name, x.default)) for x in usual.parameters.values()]
    return usual.replace(parameters=parameters)


def _described(made: type[Preset], optimizer: type[Optimizer], witness: str) -> str:
    name, settings = optimizer.__name__, ", ".join(f"{key}={x!r}" for key, x in made.defaults_of_its_own.items())
    return (
        f"{name} as {made.owner} has it: ``refoptim.{name}`` with {', '.join(made.flags) or 'no difference'}"
        + (f", and by default {settings}" if settings else "")
        + ".\n\n    ``refoptim.dialects.FLAGS`` says what the names mean; arguments and state are those of "
        + f"{name}.\n    Held to {witness}.\n"
    )
