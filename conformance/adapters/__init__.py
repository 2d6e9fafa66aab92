"""Adapters: what puts an implementation of optimizers through the cases.

An implementation is any class with the methods of ``trajectory.Implementation``, made without arguments::

    make(optimizer, hyper, parameters)   begin anew: torch's name, all of torch's hyperparameters, NumPy arrays
    set(hyper)                           change hyperparameters from the next step on: all of them, as they are then
    step(grads)                          one gradient per parameter: an array, a SparseGrad, or None; for a rule that
                                         takes estimates, step(grads, estimates), each an array or None
    resume()                             save, make anew, load
    parameters()                         NumPy arrays
    state()                              per parameter integers and arrays by torch's names

``hyper`` holds every hyperparameter under torch's name, those at their defaults too, but for the arguments that choose
how torch runs (``foreach``, ``fused``, ``capturable``, ``differentiable``).

``Adapter`` is a base that has all but ``make``, ``step`` and ``parameters``, and what more there is to say. A case that
needs a method which is not written, or that raises ``Unsupported``, is not run, and the reason is shown::

    promise        what must hold: EXACT, ULP(n), CLOSE(rtol, atol), or None where distances are only measured; or
                   these by storage type in a dict, where ``"*"`` stands for the types that it does not name
    partial_state  True if ``state`` leaves entries out: those that are there are compared, and parameters always
    is_cautious    True if ``make`` knows the hyperparameter ``cautious``, which only refoptim's rules have; else cases
                   with cautious steps are not run, and hyperparameters are without it
    why_not        why a case cannot be run, or None; a case that is not run counts neither way. Its ``hyper`` is whole
    schedule       the learning rates of a scheduler; without it none are run
    versions       the versions of what computes, for reports

``find`` knows the built-in adapters by name, and any class as ``package.module:Class``. What an adapter needs is
imported when it is asked for, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any, TypeAlias

from refoptim.engines import cuda, host
from refoptim.numerics.arith import Array

from ..cases import Case
from ..trajectory import Implementation, State
from ..trajectory import all_hyper as all_hyper
from ..verify import CLOSE as CLOSE
from ..verify import EXACT as EXACT
from ..verify import ULP as ULP
from ..verify import Tolerance

ENGINES = {"numpy": "numpy:NumPy", "host": "fused:Host", "cuda": "fused:Cuda"}
"""refoptim's own, and where each adapter is defined in this package."""

LOOPS = {"torch-for-loop": "for-loop", "torch-foreach": "foreach", "torch-fused": "fused"}

BUILT_IN = {
    **ENGINES,
    "numpy-library": "numpy:Library",
    **{name + suffix: "torch:" + name for name in LOOPS for suffix in ("", "-cuda")},
    "torch-front": "torch_front:Front",
    "torch-functional": "functional:Torch",
    "jax-functional": "functional:Jax",
    "optax": "optax:Optax",
    "keras": "keras:Keras",
    "onnx": "onnx:Onnx",
    "bitsandbytes": "bitsandbytes:Bitsandbytes",
    "chainer": "chainer:Chainer",
    "mlx": "mlx:Mlx",
    "mxnet": "mxnet:Mxnet",
    "paddle": "paddle:Paddle",
    "sklearn": "sklearn:Sklearn",
    "tensorflow1": "tensorflow1:TensorFlow1",
    "tensorflow2": "tensorflow2:TensorFlow2",
    "tinygrad": "tinygrad:Tinygrad",
    "transformers": "transformers:Transformers",
    "timm": "ports:Timm",
    "pytorch_optimizer": "ports:PytorchOptimizer",
    "torch_optimizer": "ports:TorchOptimizer",
    "lion_pytorch": "ports:LionPytorch",
    "adabelief_pytorch": "ports:AdabeliefPytorch",
    "optimi": "ports:Optimi",
    "prodigyopt": "ports:Prodigyopt",
    "schedulefree": "ports:Schedulefree",
    "torchao": "ports:Torchao",
}
"""Where each adapter is defined in this package."""

NEEDS = {
    "numpy-library": "numpy",
    "torch-front": "torch",
    "torch-functional": "torch",
    "jax-functional": "jax",
    "tensorflow1": "tensorflow",
    "tensorflow2": "tf_keras",
}
"""The library that an adapter needs, if that has not the name of the module in which it is defined."""

METHODS = ("make", "set", "step", "resume", "parameters", "state")
"""What a case calls."""

Make = Callable[[], Implementation]

Promise: TypeAlias = "Tolerance | Mapping[str, Tolerance | None] | None"
"""What an implementation promises, for all storage types or by storage type."""


class NotAvailable(RuntimeError):
    """An implementation cannot be used on this machine, or in this version."""


class Unsupported(RuntimeError):
    """An implementation cannot do what it was asked."""


class Adapter:
    """A base for implementations: parameters alone are compared, and what is not overridden is not supported."""

    promise: Promise = EXACT
    partial_state = True
    is_cautious = False

    def why_not(self, case: Case, dtype: str) -> str | None:
        """Return why a case cannot be run in a storage type, or None if it can."""
        return None

    def versions(self) -> dict[str, str]:
        """Return the versions of the libraries that compute."""
        return {}

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Array]) -> None:
        raise Unsupported("make() is not written")

    def set(self, hyper: Mapping[str, Any]) -> None:
        raise Unsupported("set() is not written: hyperparameters cannot be changed")

    def step(self, grads: Sequence[Any]) -> None:
        raise Unsupported("step() is not written")

    def resume(self) -> None:
        raise Unsupported("resume() is not written: state cannot be saved and loaded")

    def parameters(self) -> list[Array]:
        raise Unsupported("parameters() is not written")

    def state(self) -> list[State]:
        return [{} for _ in self.parameters()]

    def schedule(self, name: str, settings: Mapping[str, Any], lr: float, epochs: int) -> Any:
        """Return the learning rates of a scheduler, from epoch 0 on: ``epochs + 1`` numbers.

        Args:
            name: torch's name of the scheduler.
            settings: torch's arguments, all of them. Of ReduceLROnPlateau also ``metrics``, what it is told at the end
                of epoch 0, 1, 2 …; of SequentialLR and ChainedScheduler also ``schedulers``, pairs of name and
                settings.
            lr: the learning rate of the optimizer before the scheduler is made.
            epochs: how many steps are taken.

        Where the momentum moves too, a dict of ``lr`` and ``momentum`` may be returned. ``by_count`` and ``by_steps``
        turn functions and objects into numbers.

        Raises:
            Unsupported: there is no such scheduler; it is then not run.
        """
        raise Unsupported("schedules are not written")


def by_count(schedule: Callable[[int], Any], epochs: int) -> list[float]:
    """Return what a function of the count gives at 0, 1, 2 … ``epochs``: optax' schedules are such, and Keras'."""
    return [float(schedule(epoch)) for epoch in range(epochs + 1)]


def by_steps(scheduler: Any, optimizer: Any, epochs: int, metrics: Sequence[float] = ()) -> dict[str, list[float]]:
    """Step a scheduler like torch's, and return what its optimizer holds at epochs 0, 1, 2 … ``epochs``.

    Args:
        scheduler: has a method ``step``.
        optimizer: has ``param_groups``; the first is read: ``lr``, and ``momentum`` or the first of ``betas``, if it is
            there.
        epochs: how many steps are taken.
        metrics: what each step is told, if anything.
    """
    rows = [_held(optimizer)]
    for epoch in range(epochs):
        scheduler.step(*metrics[epoch : epoch + 1])
        rows.append(_held(optimizer))
    return {key: [row[key] for row in rows] for key in rows[0]}


def _held(optimizer: Any) -> dict[str, float]:
    group = optimizer.param_groups[0]
    momentum = group["betas"][0] if "betas" in group else group.get("momentum")
    return {"lr": float(group["lr"]), **({} if momentum is None else {"momentum": float(momentum)})}


def find(name: str) -> Make:
    """Return what makes an implementation: a built-in one by its name, any other as ``package.module:Class``.

    Raises:
        NotAvailable: there is none, or what it needs is not installed; the message says what.
    """
    missing = _missing(name)
    if missing:
        raise NotAvailable(f"engine {name} is not available: {missing}")
    if ":" in name:
        return _class(name)
    if name not in BUILT_IN:
        raise NotAvailable(f"no implementation {name!r}: known are {', '.join(BUILT_IN)}, or package.module:Class")
    module, _, what = BUILT_IN[name].partition(":")
    needed = NEEDS.get(name, name if module == "ports" else module)
    if name not in ENGINES and find_spec(needed) is None:
        raise NotAvailable(f"not installed: {needed}")
    defined = import_module(f"{__name__}.{module}")
    make: Make = defined.variant(name) if module == "torch" else getattr(defined, what)
    return make


def _missing(name: str) -> str:
    """Say why an engine is not available; nothing if it is, or if this is none that needs kernels."""
    if name == "host":
        return host.missing().replace("which were", "its kernels were").replace("which cannot", "its kernels cannot")
    return cuda.missing() if name == "cuda" else ""


def _class(name: str) -> Make:
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise NotAvailable(f"no implementation {name!r}: expected package.module:Class")
    try:
        defined = import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a module does, it must not end the run
        raise NotAvailable(f"{module} cannot be imported: {error}") from error
    if not hasattr(defined, attribute):
        raise NotAvailable(f"{module} has no {attribute}")
    make: Make = getattr(defined, attribute)
    check(name, make)
    return make


def check(name: str, made: Any) -> None:
    """Raise NotAvailable unless an implementation, or its class, has every method that a case calls."""
    missing = [method for method in METHODS if not callable(getattr(made, method, None))]
    if missing:
        hint = " (the base Adapter has one)" if missing[0] in ("set", "resume", "state") else ""
        raise NotAvailable(f"{name} is no implementation: it has no method {missing[0]}{hint}")


def installed(name: str) -> str:
    """Return the version of a library."""
    return metadata.version(name)


def why_not(implementation: Implementation, case: Case, dtype: str) -> str | None:
    """Ask an implementation why it cannot run a case; one that does not say can run all."""
    if case.is_cautious and not getattr(implementation, "is_cautious", False):
        return "it takes no cautious steps, and an adapter whose steps can be says so by is_cautious"
    ask = getattr(implementation, "why_not", None)
    return ask(replace(case, hyper=all_hyper(case.optimizer, case.hyper)), dtype) if ask else None


def turned(grads: Sequence[Any], hyper: Mapping[str, Any]) -> Sequence[Any]:
    """Return gradients for a library that only minimizes: their signs are turned to maximize."""
    return [-g for g in grads] if hyper.get("maximize") else grads
