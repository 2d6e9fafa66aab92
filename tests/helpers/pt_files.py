"""What torch saves: the states of its optimizers, a whole checkpoint, odd tensors; and a form in which data compare."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from helpers import ROOT

RECORDED = ROOT / "tests" / "data" / "pt"
"""Files of torch 2.13, and ``expected.json``, what torch says that they hold; ``record.py`` there writes them."""

OPTIMIZERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "adam amsgrad": ("Adam", "float32", {"lr": 0.05, "amsgrad": True, "weight_decay": 0.1}),
    "adam bfloat16": ("Adam", "bfloat16", {"lr": 0.1}),
    "adam complex64": ("Adam", "complex64", {"lr": 0.1, "betas": (0.8, 0.9)}),
    "lbfgs": ("LBFGS", "float64", {"lr": 0.5, "max_iter": 3, "line_search_fn": "strong_wolfe"}),
    "sgd": ("SGD", "float32", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "nadam": ("NAdam", "float64", {"lr": 0.1}),
    "asgd": ("ASGD", "float32", {"lr": 0.1, "t0": 1.0}),
    "rprop": ("Rprop", "float32", {"lr": 0.1}),
    "adafactor": ("Adafactor", "float32", {"lr": 0.1}),
    "adadelta": ("Adadelta", "float16", {"lr": 0.5}),
    "rmsprop centered": ("RMSprop", "float32", {"lr": 0.1, "centered": True, "momentum": 0.5}),
    "adamax": ("Adamax", "float32", {"lr": 0.1, "maximize": True}),
    "radam": ("RAdam", "float32", {"lr": 0.1}),
    "adagrad": ("Adagrad", "float32", {"lr": 0.1, "initial_accumulator_value": 0.25}),
}
"""A name, the class, the dtype of the parameters and the settings."""

SHAPES = [(3, 2), (4,)]


def start(i: int, dtype: str) -> Any:
    """Return the values of a parameter, in float64 or complex128."""
    x = np.linspace(-1, 2, int(np.prod(SHAPES[i]))).reshape(SHAPES[i]) + 0.3 * i
    return x * (1 + 0.5j) if dtype.startswith("complex") else x


def groups(members: list[Any]) -> list[dict[str, Any]]:
    """Return two groups, of which the second has its own learning rate; LBFGS takes one."""
    return [{"params": members[:1]}, {"params": members[1:], "lr": 0.015625}]


def in_torch(torch: Any, name: str) -> tuple[Any, list[Any]]:
    """Return an optimizer of torch after three steps, and its parameters."""
    cls, dtype, settings = OPTIMIZERS[name]
    members = [torch.tensor(start(i, dtype)).to(getattr(torch, dtype)).requires_grad_() for i in range(len(SHAPES))]
    optimizer = getattr(torch.optim, cls)(members if cls == "LBFGS" else groups(members), **settings)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = sum((x * x.conj()).real.sum() + (x.abs() ** 4).sum() for x in members)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    return optimizer, members


def in_refoptim(refoptim: Any, name: str, dtype: Any) -> Any:
    """Return the optimizer of refoptim of the same class, over parameters of the same shapes, with other settings."""
    cls, _, settings = OPTIMIZERS[name]
    members = [np.zeros(shape, dtype) for shape in SHAPES]
    other = {key: x for key, x in settings.items() if key in ("line_search_fn", "amsgrad", "centered", "momentum")}
    return getattr(refoptim, cls)(members if cls == "LBFGS" else groups(members), **other)


def checkpoint(torch: Any) -> dict[str, Any]:
    """Return what a training script saves: model with buffers, optimizer, scheduler, state of the generator, None."""
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2, bias=False))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)
    for _ in range(3):
        model(torch.randn(5, 3)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    return {
        "epoch": 3,
        "best": None,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state()[:64].clone(),
        "shape": torch.Size([3, 4]),
    }


def tensors(torch: Any) -> dict[str, Any]:
    """Return tensors of all kinds."""
    base = torch.arange(20, dtype=torch.float32).reshape(4, 5)
    kinds = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128", "bool"]
    kinds += ["uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"]
    return {
        "transposed": base.t(),
        "offset": base[1:, 2:4],
        "steps": base.t()[::2, 1:],
        "whole": base,
        "no axes": torch.tensor(-0.0),
        "empty": torch.zeros(0, 3),
        "one": torch.ones(1, 1, 7)[:, :, 3:4],
        "parameter": torch.nn.Parameter(torch.tensor([1.5, float("nan"), float("-inf")])),
        "kinds": {kind: torch.tensor([0, 1, 2, 3]).to(getattr(torch, kind)) for kind in kinds},
    }


def plain() -> dict[str, Any]:
    """Return what is no tensor."""
    return {
        "floats": [0.1, -0.0, float("inf"), float("nan"), 5e-324],
        "integers": [0, 255, 256, 65535, 65536, -1, 2**31 - 1, 2**31, -(2**31) - 1, 10**30, -(10**30), True],
        "texts": ("", "exp_avg", "µ ∞ \ud800", "x" * 300),
        "keys": {0: "a", "0": "b", 1.5: "c", -1: "d"},
        "bytes": b"a\xffb",
        "complex": 1 - 2j,
        "set": {3, 1, 2},
        "ordered": collections.OrderedDict(b=1, a=collections.Counter({30: 1, 60: 2})),
        "nested": [[], (), {}, [(1,)], None],
    }


def scheduler_of_1(torch: Any) -> dict[str, Any]:
    """Return the states of schedulers as torch 1.x wrote them: functions, counters, and no names of strategies."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=40, anneal_strategy="linear")
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5, 5])
    average = torch.optim.swa_utils.SWALR(
        torch.optim.SGD([torch.zeros(1)], lr=0.1), swa_lr=0.5, anneal_strategy="linear"
    )
    average.optimizer.step()
    for _ in range(3):
        optimizer.step()
        cycle.step()
        steps.step()
        average.step()
    swa = average.state_dict()
    del swa["_anneal_strategy"]
    swa["anneal_func"] = torch.optim.swa_utils.SWALR._linear_anneal
    older = cycle.state_dict()
    del older["_anneal_func_type"]
    older["anneal_func"] = torch.optim.lr_scheduler.OneCycleLR._annealing_linear
    states = {"OneCycleLR": older, "MultiStepLR": steps.state_dict(), "SWALR": swa}
    return {**states, "optimizer": optimizer.state_dict()}


def optimizer_of_1(torch: Any) -> dict[str, Any]:
    """Return the state of Adam as torch 1.x wrote it: steps are integers, and later settings are missing."""
    optimizer, _ = in_torch(torch, "adam amsgrad")
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        for key in ("maximize", "foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"):
            group.pop(key, None)
    for entry in state["state"].values():
        entry["step"] = int(entry["step"])
    return dict(state)


FILES: dict[str, Callable[[Any], Any]] = {
    **{name: lambda torch, name=name: in_torch(torch, name)[0].state_dict() for name in OPTIMIZERS},
    "checkpoint": checkpoint,
    "tensors": tensors,
    "plain": lambda torch: plain(),
    "schedulers of 1.x": scheduler_of_1,
    "optimizer of 1.x": optimizer_of_1,
}
"""What is saved in files, by name."""


def path_of(name: str) -> Path:
    return RECORDED / f"{name.replace(' ', '_')}.pt"


def described(x: Any) -> Any:
    """Return data of NumPy or torch as JSON, to the bit: what is equal in it is equal."""
    if hasattr(x, "detach"):
        x = x.detach().contiguous()
        name = str(x.dtype).removeprefix("torch.")
        bits = x.view(sys.modules["torch"].int16) if name == "bfloat16" else x
        return {"array": [name, [*x.shape], bits.numpy().tobytes().hex()]}
    if isinstance(x, (np.ndarray, np.generic)):
        return {"array": [x.dtype.name, [*x.shape], x.tobytes().hex()]}
    if isinstance(x, Mapping):
        return {type(x).__name__: [[described(key), described(y)] for key, y in x.items()]}
    if isinstance(x, set):
        return {"set": sorted((described(y) for y in x), key=repr)}
    if isinstance(x, (list, tuple)):
        return {"list" if isinstance(x, list) else "tuple": [described(y) for y in x]}
    return _described(x)


def _described(x: Any) -> Any:
    if callable(x):
        return {"function": x.__qualname__}
    if isinstance(x, bool):
        return {"bool": str(x)}
    if isinstance(x, (float, complex)):
        return {type(x).__name__: [part.hex() for part in (x.real, x.imag)]}
    return {"bytes": x.hex()} if isinstance(x, bytes) else x
