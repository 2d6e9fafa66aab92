"""The schedules of other libraries, by refoptim's names and settings: what owns the rules that torch does not have.

Each library's own code runs. As a witness it runs inside ``rounded``, where its powers, cosines and logarithms are
correctly rounded, and its arrays are doubles of Python and NumPy: no C library, and no compiler, decides a bit. Outside
it is the library as installed, which an implementation of ``refoptim conformance`` asks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from refoptim.numerics.power import cos, log, power

from .rounded import MATH, Real, real

Hyper = Mapping[str, Any]

Run = Callable[[str, Hyper, float, int], list[float]]
"""Returns the learning rates at epoch 0, 1, 2 … of a schedule, from its name, settings, first ``lr`` and epochs."""


class Witness(NamedTuple):
    """A library, how its schedules run, and what makes its functions round correctly."""

    package: str
    run: Run
    rounded: Callable[[], Any] = nullcontext

    @property
    def version(self) -> str:
        """The version that is installed."""
        return version(self.package)


def sgd(lr: float) -> Any:
    """Return torch's SGD with one parameter, which schedules work on."""
    import torch

    optimizer: Any = torch.optim.SGD([torch.zeros(1)], lr=lr)
    optimizer._opt_called = True
    return optimizer


def stepped(scheduler: Any, optimizer: Any, epochs: int) -> list[float]:
    """Step a scheduler like torch's, and return the learning rates."""
    found = [float(optimizer.param_groups[0]["lr"])]
    for _ in range(epochs):
        scheduler.step()
        found.append(float(optimizer.param_groups[0]["lr"]))
    return found


# transformers.

HF = {
    "ConstantWarmupLR": "constant_with_warmup",
    "LinearWarmupLR": "linear",
    "CosineWarmupLR": "cosine",
    "CosineWarmupRateLR": "cosine_warmup_with_min_lr",
    "CosineRestartsWarmupLR": "cosine_with_restarts",
    "PolynomialWarmupLR": "polynomial",
    "InverseSqrtLR": "inverse_sqrt",
    "WarmupStableDecayLR": "warmup_stable_decay",
}
"""Names of transformers."""


def transformers(name: str, s: Hyper, lr: float, epochs: int) -> list[float]:
    """Run a schedule of transformers on torch's SGD."""
    from transformers import optimization

    own, theirs = dict(s), HF[name]
    if name == "CosineWarmupLR":
        lowest = {key: x for key in ("min_lr", "min_lr_rate") if (x := own.pop(key)) is not None}
        theirs = "cosine_with_min_lr" if lowest else theirs
        own |= lowest
    steps = {key: own.pop(key, None) for key in ("num_warmup_steps", "num_training_steps")}
    optimizer = sgd(lr)
    scheduler = optimization.get_scheduler(theirs, optimizer, **steps, scheduler_specific_kwargs=own)
    return stepped(scheduler, optimizer, epochs)


@contextmanager
def rounded_transformers() -> Iterator[None]:
    """Let transformers' schedules round correctly."""
    from transformers import optimization

    with mock.patch.object(optimization, "math", MATH):
        yield


# timm.

TIMM = "timm.scheduler.cosine_lr"


def bare_timm(name: str) -> Any:
    """Import a module of timm, without the models that timm imports with it."""
    import torch  # noqa: F401

    if "timm" in sys.modules or name in sys.modules:
        return import_module(name)
    found = find_spec("timm")
    if found is None or found.submodule_search_locations is None:
        raise ImportError("timm is not installed")
    package, root = name.rpartition(".")[0], next(iter(found.submodule_search_locations))
    bare = {"timm": root, package: f"{root}/{package.partition('.')[2]}"}
    for each, folder in bare.items():
        sys.modules[each] = ModuleType(each)
        sys.modules[each].__path__ = [folder]
    try:
        return import_module(name)
    finally:
        for each in bare:
            del sys.modules[each]


def timm(name: str, s: Hyper, lr: float, epochs: int) -> list[float]:
    """Run the cosine schedule of timm on torch's SGD."""
    optimizer = sgd(lr)
    scheduler = bare_timm(TIMM).CosineLRScheduler(optimizer, **s)
    found = []
    for t in range(epochs + 1):
        scheduler.step(t)
        found.append(float(optimizer.param_groups[0]["lr"]))
    return found


@contextmanager
def rounded_timm() -> Iterator[None]:
    """Let timm's schedule round correctly."""
    with mock.patch.object(bare_timm(TIMM), "math", MATH):
        yield


# optax.

OPTAX = {
    "WarmupCosineDecayLR": "warmup_cosine_decay_schedule",
    "PiecewiseInterpolateLR": "piecewise_interpolate_schedule",
}
"""Names of optax."""


def optax(name: str, s: Hyper, lr: float, epochs: int) -> list[float]:
    """Ask a schedule of optax for each count."""
    import jax
    import optax as library

    with jax.enable_x64(True):
        schedule = getattr(library, OPTAX[name])(**s)
        return [float(schedule(count)) for count in range(epochs + 1)]


def _cos(x: Any) -> Any:
    return Real(cos(x)) if isinstance(x, float) else np.array([cos(each) for each in x])


ARRAYS = SimpleNamespace(
    pi=MATH.pi,
    cos=_cos,
    minimum=lambda x, y: Real(min(x, y)),
    clip=lambda x, low, high: Real(min(max(x, low), high)),
    where=lambda chosen, x, y: x if chosen else y,
    stack=lambda x: np.array([*x], float),
    **{name: getattr(np, name) for name in ("cumprod", "maximum", "logical_and")},
)
"""What optax' schedules call of jax.numpy, on doubles."""


@contextmanager
def rounded_optax() -> Iterator[None]:
    """Let optax' schedules compute with doubles, and round correctly."""
    modules = [import_module(f"optax.schedules.{name}") for name in ("_schedule", "_join")]
    with mock.patch.object(modules[0], "jnp", ARRAYS), mock.patch.object(modules[1], "jnp", ARRAYS):
        yield


# Keras.


def keras(name: str, s: Hyper, lr: float, epochs: int) -> list[float]:
    """Ask the cosine with restarts of Keras for each count."""
    import keras as library

    before = library.config.floatx()
    library.config.set_floatx("float64")
    try:
        schedule = library.optimizers.schedules.CosineDecayRestarts(lr, **s)
        return [float(schedule(count)) for count in range(epochs + 1)]
    finally:
        library.config.set_floatx(before)


class Double(Real):
    """A double that knows its dtype, as tensors do."""

    dtype = "float64"


OPS = SimpleNamespace(
    name_scope=lambda name: nullcontext(),
    convert_to_tensor=Double,
    cast=lambda x, dtype: Double(x),
    array=lambda x, dtype: Double(x),
    add=lambda x, y: x + y,
    subtract=lambda x, y: x - y,
    multiply=lambda x, y: x * y,
    divide=lambda x, y: x / y,
    equal=lambda x, y: x == y,
    cond=lambda chosen, x, y: x() if chosen else y(),
    floor=lambda x: Real(MATH.floor(x)),
    log=lambda x: Real(log(x)),
    cos=lambda x: Real(cos(x)),
    power=lambda x, y: Real(power(float(x), float(y))),
)
"""What Keras' schedule calls of keras.ops, on doubles."""


@contextmanager
def rounded_keras() -> Iterator[None]:
    """Let Keras' schedule compute with doubles, and round correctly."""
    module = import_module("keras.src.optimizers.schedules.learning_rate_schedule")
    with mock.patch.object(module, "ops", OPS):
        yield


# The paper's rule, on torch's LambdaLR.


def noam(name: str, s: Hyper, lr: float, epochs: int) -> list[float]:
    """Run the formula of the paper, whose steps count from 1, as a function that torch's LambdaLR takes."""
    import torch

    width, warmup = power(s["d_model"], -0.5), power(s["num_warmup_steps"], -1.5)
    optimizer = sgd(lr)
    factor: Any = lambda n: width * min(power(n + 1, -0.5), (n + 1) * warmup)  # noqa: E731
    return stepped(torch.optim.lr_scheduler.LambdaLR(optimizer, factor), optimizer, epochs)


LIBRARIES = {
    "transformers": Witness("transformers", transformers, rounded_transformers),
    "timm": Witness("timm", timm, rounded_timm),
    "optax": Witness("optax", optax, rounded_optax),
    "keras": Witness("keras", keras, rounded_keras),
    "torch.optim.lr_scheduler.LambdaLR": Witness("torch", noam),
}

OWNERS = {
    **dict.fromkeys(HF, "transformers"),
    **dict.fromkeys(OPTAX, "optax"),
    "CosineCyclesLR": "timm",
    "CosineDecayRestartsLR": "keras",
    "NoamLR": "torch.optim.lr_scheduler.LambdaLR",
}
"""Whose rule each schedule has that torch does not have."""


def exact(name: str, s: Hyper, lr: float, epochs: int) -> list[float]:
    """Run the schedule of the library that owns the rule, correctly rounded."""
    witness = LIBRARIES[OWNERS[name]]
    with witness.rounded():
        return witness.run(name, real(dict(s)), lr, epochs)
