"""torch's own code as a witness.

What torch computes depends on the machine: its vector loops contract ``add(alpha)``, ``addcmul`` and ``lerp`` into
fused multiply-adds where the processor has them, and its square root is not correctly rounded on x86. Under the IEEE
oracle it is plain IEEE arithmetic, the same everywhere: the process starts with ATEN_CPU_CAPABILITY=default in its
environment, square roots are NumPy's, powers and cosines are correctly rounded (``rounded``), matrix products are
torch's own code instead of oneDNN's, ``foreach=False``, and one thread works.

torch is imported when something here is called, not before.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from copy import deepcopy
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from itertools import repeat
from types import ModuleType
from typing import Any, TypeAlias
from unittest import mock

import numpy as np

import refoptim
from refoptim import SparseGrad
from refoptim.numerics.arith import Array, as_reals, from_reals, neg
from refoptim.numerics.ieee import check_rounding
from refoptim.step.plan import layout
from refoptim.step.rule import resolve

from .cases import Witness
from .gradients import np_dtype
from .rounded import MATH, Real, Whole, real
from .trajectory import State, all_hyper, sums_over_all

Tensor: TypeAlias = Any


def torch() -> Any:
    """Import torch."""
    import torch

    return torch


@contextmanager
def ieee() -> Iterator[None]:
    """Make torch an exact witness inside the block; raise RuntimeError if it cannot be one in this process."""
    check_arithmetic()
    t = torch()
    threads, onednn = t.get_num_threads(), t.backends.mkldnn.enabled
    t.set_num_threads(1)
    t.backends.mkldnn.enabled = False
    exact = mock.patch.multiple(t.Tensor, sqrt=_sqrt, sqrt_=_sqrt_, item=_item, numel=_numel)
    eager = mock.patch.object(t, "compile", _uncompiled)
    try:
        with exact, eager, installed(), rounded_schedules():
            yield
    finally:
        t.backends.mkldnn.enabled = onednn
        t.set_num_threads(threads)


def torch_schedulers() -> dict[str, Callable[..., Any]]:
    """Return what makes torch's schedulers, by name, with settings whose powers are correctly rounded."""
    found = {**vars(torch().optim.lr_scheduler), "SWALR": torch().optim.swa_utils.SWALR}
    return {name: partial(_made, x) for name, x in found.items() if isinstance(x, type)}


@contextmanager
def rounded_schedules() -> Iterator[None]:
    """Let torch's schedulers compute with cosines and logarithms that are correctly rounded."""
    optim = torch().optim
    with mock.patch.object(optim.lr_scheduler, "math", MATH), mock.patch.object(optim.swa_utils, "math", MATH):
        yield


@contextmanager
def installed() -> Iterator[None]:
    """Take torch as it is; it does not check the indices of sparse tensors, and does not warn that it does not."""
    with torch().sparse.check_sparse_tensor_invariants(False):
        yield


def check_arithmetic() -> None:
    """Raise RuntimeError unless torch and NumPy compute in this process as IEEE 754 says."""
    capability = torch().backends.cpu.get_cpu_capability()
    if capability != "DEFAULT":
        raise RuntimeError(
            f"torch runs with CPU capability {capability}, the oracle needs DEFAULT: "
            "set ATEN_CPU_CAPABILITY=default in the environment before torch is imported"
        )
    for dtype in (np.float32, np.float64):
        check_rounding(np.array, dtype)
        check_rounding(torch().from_numpy, dtype)


def _sqrt(x: Tensor) -> Tensor:
    """Answer torch.Tensor.sqrt with NumPy's root, which is correctly rounded."""
    if x.dtype not in (torch().float32, torch().float64):
        return torch().sqrt(x)
    return torch().from_numpy(np.asarray(np.sqrt(x.detach().numpy())))


def _sqrt_(x: Tensor) -> Tensor:
    """Answer torch.Tensor.sqrt_ in the same way."""
    x.detach().copy_(_sqrt(x))
    return x


def _uncompiled(function: Any = None, **_: Any) -> Any:
    """Answer torch.compile with the function as it is: what is compiled may be contracted."""
    return _uncompiled if function is None else function


def _made(cls: Any, *arguments: Any, **settings: Any) -> Any:
    """Make a scheduler with all its floats, defaults among them, as numbers whose powers are correctly rounded."""
    bound = inspect.signature(cls).bind(*arguments, **settings)
    bound.apply_defaults()
    for name, x in bound.arguments.items():
        is_exponent = name == "power" and isinstance(x, int)  # Python asks the float below it first
        bound.arguments[name] = Real(x) if is_exponent else real(x)
    return cls(*bound.args, **bound.kwargs)


def _item(x: Tensor) -> Any:
    """Answer torch.Tensor.item with a number whose powers are correctly rounded."""
    return real(torch()._C.TensorBase.item(x))


def _numel(x: Tensor) -> int:
    """Answer torch.Tensor.numel in the same way."""
    return Whole(torch()._C.TensorBase.numel(x))


def to_torch(x: Any) -> Tensor:
    """Return a tensor of the same elements, shape and strides; a SparseGrad becomes a COO tensor."""
    if isinstance(x, SparseGrad):
        return torch().sparse_coo_tensor(to_torch(x.indices), to_torch(x.values), x.shape)
    if x.dtype.name == "bfloat16":
        return torch().from_numpy(x.view(np.int16)).view(torch().bfloat16)
    return torch().from_numpy(x)


def to_numpy(x: Tensor) -> Array:
    """Return an array of the elements of a tensor; a sparse one becomes dense."""
    x = x.detach().to_dense() if x.is_sparse else x.detach()
    if x.dtype == torch().bfloat16:
        return x.view(torch().int16).numpy().view(np_dtype("bfloat16"))
    return np.asarray(x.numpy())


def plain_state(state: Mapping[str, Any]) -> State:
    """Return the state that torch keeps of a parameter as arrays, the step count as an integer."""
    found = {name: int(x) if name == "step" else x for name, x in state.items() if x is not None}
    return {name: x if isinstance(x, int) else to_numpy(x) for name, x in found.items()}


def known_to(cls: Any, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return those hyperparameters that a class of torch's takes; what it does not have must be at its default."""
    taken = inspect.signature(cls).parameters
    defaults = all_hyper(cls.__name__, {})
    lacking = [name for name, x in hyper.items() if name not in taken and x != defaults.get(name)]
    if lacking:
        raise TypeError(f"{cls.__name__} of torch has no {lacking[0]}")
    return {name: x for name, x in hyper.items() if name in taken}


class Torch:
    """torch.optim as an implementation: under the IEEE oracle, or as it is installed."""

    def __init__(self, *, as_installed: bool = False) -> None:
        self._arithmetic = installed if as_installed else ieee
        self._loop = {} if as_installed else {"foreach": False}
        self._number: Callable[[Any], Any] = (lambda x: x) if as_installed else real

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Array]) -> None:
        cls = getattr(torch().optim, optimizer)
        hyper = known_to(cls, hyper)
        loop = self._loop if "foreach" in inspect.signature(cls).parameters else {}
        self._params = [to_torch(np.array(p)) for p in parameters]
        self._build: Callable[[], Any] = partial(cls, self._params, **hyper, **loop)
        self._optimizer = self._build()
        self.set({})

    def set(self, hyper: Mapping[str, Any]) -> None:
        group = self._optimizer.param_groups[0]
        given = {key: x for key, x in hyper.items() if key in group}
        group.update({key: self._number(x) for key, x in {**group, **given}.items() if key != "params"})

    def step(self, grads: Sequence[Any]) -> None:
        with self._arithmetic():
            for p, grad in zip(self._params, grads, strict=True):
                p.grad = None if grad is None else to_torch(grad)
            self._optimizer.step()

    def resume(self) -> None:
        saved = deepcopy(self._optimizer.state_dict())
        self._optimizer = self._build()
        self._optimizer.load_state_dict(saved)

    def parameters(self) -> list[Array]:
        return [to_numpy(p) for p in self._params]

    def state(self) -> list[State]:
        return [plain_state(self._optimizer.state.get(p, {})) for p in self._params]


class Package:
    """The package that owns a rule as an implementation, under the IEEE oracle.

    Each parameter has an optimizer of its own, since some packages count the steps of a group and not those of a
    parameter; all have one where sums over all parameters are taken. Complex ones are given as pairs of reals, and
    gradients are turned to climb. ``step`` is counted here.
    What is None stays as the package has resolved it.
    """

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._sign: Callable[[Array], Array] = neg

    def make(self, optimizer: str, hyper: Mapping[str, Any], parameters: Sequence[Array]) -> None:
        own = imported(self._witness.cls, self._witness.bare)
        self._class: Any = in_storage(own, self._witness.in_storage)
        self._modules = {sys.modules[x.__module__] for x in own.__mro__}
        names = (names_of_state(optimizer, hyper, p.shape) for p in parameters)
        self._state = [[x for x in kept if self._witness.keeps(x)] for kept in names]
        self._dtypes = [p.dtype for p in parameters]
        self._params = [to_torch(np.array(as_reals(p))) for p in parameters]
        self._steps = [0 for _ in parameters]
        self._default = self._params[0].dtype if self._witness.in_default else torch().get_default_dtype()
        self._begin = dict(hyper)
        self._together = sums_over_all(optimizer, hyper)
        self._optimizers = self._all_built()
        self.set(hyper)

    def _all_built(self) -> list[Any]:
        """Return an optimizer for each parameter, or one that has them all."""
        return [self._built(x) for x in ([self._params] if self._together else [[p] for p in self._params])]

    def _built(self, params: list[Tensor]) -> Any:
        with redirect_stdout(StringIO()):
            return in_training(self._class(params, **self._theirs(self._begin)))

    def _theirs(self, hyper: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings by the names of the package."""
        kept = {name: x for name, x in hyper.items() if name not in ("maximize", *self._witness.lacks)}
        return {self._witness.names.get(name, name): x for name, x in kept.items()} | self._witness.given

    @contextmanager
    def _exactly(self) -> Iterator[None]:
        """Let the package compute under the oracle; what it takes of ``math`` is rounded correctly too."""
        with ieee(), ExitStack() as stack:
            for module in (x for x in self._modules if vars(x).get("math") is math):
                stack.enter_context(mock.patch.object(module, "math", MATH))
            yield

    def set(self, hyper: Mapping[str, Any]) -> None:
        self._sign = neg if hyper["maximize"] else (lambda g: g)
        with self._exactly():
            for group in (x.param_groups[0] for x in self._optimizers):
                given = {key: x for key, x in self._theirs(hyper).items() if key in group and x is not None}
                new = {key: _as(group[key], x) for key, x in {**group, **given}.items() if key != "params"}
                group.update(new)

    def step(self, grads: Sequence[Any], estimates: Sequence[Any] | None = None) -> None:
        given = [None if grad is None else to_torch(np.array(self._sign(as_reals(grad)))) for grad in grads]
        self._steps = [n + (grad is not None) for n, grad in zip(self._steps, given, strict=True)]
        for p, grad in zip(self._params, given, strict=True):
            p.grad = grad
        with self._exactly(), default_dtype(self._default):
            for optimizer, estimate in zip(self._optimizers, estimates or repeat(None), strict=False):
                if any(p.grad is not None for p in optimizer.param_groups[0]["params"]):
                    optimizer.step(**self._beside(estimate))

    def _beside(self, estimate: Any) -> dict[str, Any]:
        """Return an estimate as its step takes it."""
        return {} if estimate is None else {self._witness.estimates: [to_torch(np.array(as_reals(estimate)))]}

    def resume(self) -> None:
        saved = [deepcopy(x.state_dict()) for x in self._optimizers]
        self._optimizers = self._all_built()
        with default_dtype(self._default):
            for one, state in zip(self._optimizers, saved, strict=True):
                one.load_state_dict(state)

    def parameters(self) -> list[Array]:
        return [from_reals(to_numpy(p), dtype) for p, dtype in zip(self._params, self._dtypes, strict=True)]

    def state(self) -> list[State]:
        return [self._state_of(i) if self._steps[i] else {} for i in range(len(self._params))]

    def _state_of(self, i: int) -> State:
        optimizer = self._optimizers[0 if self._together else i]
        kept = {**optimizer.param_groups[0], **optimizer.state[self._params[i]]}  # numbers stand in either
        theirs = {name: _member(kept, self._witness.names.get(name, name)) for name in self._state[i] if name != "step"}
        found: State = {name: _array(x, self._dtypes[i], self._params[i]) for name, x in theirs.items()}
        return {"step": self._steps[i], **found} if "step" in self._state[i] else found


def _as(old: Any, x: Any) -> Any:
    """Return a setting as a package holds it: as a tensor where it is one, and a float with rounded powers."""
    return x if x is old else old.new_tensor(x) if hasattr(old, "new_tensor") else real(x)


def _member(kept: Mapping[str, Any], path: str) -> Any:
    """Return a tensor of a state, ``exp_avg``, or part of one, ``exp_avg.scale``; of one of codes its codes."""
    name, *parts = path.split(".")
    x = kept[name]
    for part in parts:
        x = getattr(x, part)
    return getattr(x, "codes", x)


def _array(x: Any, dtype: Any, p: Tensor) -> Array:
    """Return a number or a tensor of a state as an array, shaped like the parameter if it was made flat.

    Complex numbers are pairs of reals there.
    """
    if isinstance(x, (int, float)):
        return np.asarray(float(x))
    flat = x.ndim == 1 and p.ndim != 1 and x.numel() == p.numel()
    return from_reals(to_numpy(x.reshape(p.shape) if flat else x), dtype)


@contextmanager
def default_dtype(dtype: Any) -> Iterator[None]:
    """Let torch make tensors in a dtype inside the block, where none is asked for."""
    before = torch().get_default_dtype()
    torch().set_default_dtype(dtype)
    try:
        yield
    finally:
        torch().set_default_dtype(before)


def in_training(optimizer: Any) -> Any:
    """Return an optimizer in train mode if it has modes: some begin in the other one."""
    if hasattr(optimizer, "train"):
        optimizer.train()
    return optimizer


def imported(cls: str, bare: Mapping[str, Sequence[str]]) -> Any:
    """Import a class, ``module:Class``, or raise ImportError; ``bare`` are modules that empty ones stand in for."""
    module, _, name = cls.partition(":")
    _stand_in(bare)
    return getattr(import_module(module), name)


def in_storage(cls: Any, methods: Sequence[str]) -> Any:
    """Return an optimizer of one parameter some of whose methods take the dtype of that for torch.float32."""

    def kept(name: str) -> Any:
        def method(self: Any, *arguments: Any, **settings: Any) -> Any:
            (p,) = self.param_groups[0]["params"]
            with mock.patch.object(torch(), "float32", p.dtype):
                return getattr(cls, name)(self, *arguments, **settings)

        return method

    return type(cls.__name__, (cls,), {name: kept(name) for name in methods}) if methods else cls


def _stand_in(bare: Mapping[str, Sequence[str]]) -> None:
    """Put empty modules for parts of a package whose own need more than is there."""
    for name, members in bare.items():
        if name not in sys.modules:
            spec = None if "." in name else find_spec(name)
            found = sys.modules[name] = ModuleType(name)
            found.__spec__ = spec
            found.__path__ = list(spec.submodule_search_locations or ()) if spec else []
            vars(found).update(dict.fromkeys(members))


def names_of_state(optimizer: str, hyper: Mapping[str, Any], shape: tuple[int, ...]) -> list[str]:
    """Return what refoptim's optimizer of a name keeps of a parameter of a shape."""
    rule = getattr(refoptim, optimizer)
    h = resolve(rule, rule([np.zeros(1)], **hyper).param_groups[0])
    return [*(["step"] if rule.counts_steps else []), *rule.registers(h), *layout(rule, h, shape)]
