"""What packages give around an optimizer: Lookahead and SAM on one small problem, recorded once with their versions.

``python tests/helpers/wrapped.py lookahead`` or ``sam`` records anew what the packages that are installed give, under
``ATEN_CPU_CAPABILITY=default`` for those of torch.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from refoptim.conformance import oracle
from refoptim.conformance.adapters.ports import Timm, TorchOptimizer

FILE = Path(__file__).parents[1] / "data" / "wrappers.json"
SHAPES = [(7,), (3, 4), (2, 3, 2)]
STEPS = 13
K, ALPHA, LR, MOMENTUM = 3, 0.7, 0.1, 0.9
RHO = 0.05
VERSIONS = {"pytorch_optimizer": "4.1.0", "timm": "1.0.31", "torch_optimizer": "0.3.0"}
CLASSES = {
    "pytorch_optimizer": ("pytorch_optimizer:Lookahead", {}),
    "timm": ("timm.optim.lookahead:Lookahead", Timm.bare),
    "torch_optimizer": ("torch_optimizer.lookahead:Lookahead", TorchOptimizer.bare),
}
PULLBACKS = ("none", "reset", "pullback")


def first(dtype: str = "float64") -> list[Any]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]


def gradients(dtype: str = "float64") -> list[list[Any]]:
    """Gradients of all steps; some are zero."""
    rng = np.random.default_rng(2)
    drawn = [[rng.standard_normal(shape) for shape in SHAPES] for _ in range(STEPS)]
    return [[np.where(np.abs(g) < 0.1, 0, g).astype(dtype) for g in row] for row in drawn]


def slope(x: Any) -> Any:
    """The gradient of sum(x ** 4 / 4 + x ** 2), for SAM."""
    return x * x * x + 2 * x


def lookahead_of_packages(package: str, dtype: str, pullback: str) -> list[Any]:
    """Return the parameters after all steps of SGD in a package's Lookahead."""
    import torch

    tensors = [torch.nn.Parameter(torch.from_numpy(x)) for x in first(dtype)]
    sgd = torch.optim.SGD(tensors, lr=LR, momentum=MOMENTUM, foreach=False)
    settings: dict[str, Any] = {"alpha": ALPHA, "k": K}
    if package == "pytorch_optimizer":
        settings["pullback_momentum"] = pullback
    wrapped = oracle.imported(*CLASSES[package])(sgd, **settings)
    for row in gradients(dtype):
        for tensor, g in zip(tensors, row, strict=True):
            tensor.grad = torch.from_numpy(g)
        wrapped.step()
    return [tensor.detach().numpy() for tensor in tensors]


def sam_of_optax() -> list[Any]:
    """Return the parameters after all steps of SGD in optax.contrib.sam, in float64."""
    import jax
    import optax

    with jax.enable_x64(True):
        params = [jax.numpy.asarray(x) for x in first()]
        outer = optax.sgd(LR, momentum=MOMENTUM)
        inner = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
        transform = optax.contrib.sam(outer, inner, sync_period=2, opaque_mode=True)
        state = transform.init(params)
        for _ in range(STEPS):
            updates, state = transform.update(
                [slope(x) for x in params], state, params, grad_fn=lambda x, i: [slope(y) for y in x]
            )
            params = optax.apply_updates(params, updates)
    return [np.asarray(x) for x in params]


def pullbacks(package: str) -> tuple[str, ...]:
    """Return what the package can do with the momentum."""
    return PULLBACKS if package == "pytorch_optimizer" else ("none",)


def packed(arrays: list[Any]) -> list[list[str]]:
    return [[float(x).hex() for x in np.ravel(y)] for y in arrays]


def unpacked(lists: list[list[str]], dtype: str) -> list[Any]:
    return [
        np.array([float.fromhex(x) for x in values], dtype).reshape(shape)
        for values, shape in zip(lists, SHAPES, strict=True)
    ]


def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def record(kind: str) -> None:
    found = recorded() if FILE.exists() else {}
    if kind == "sam":
        found["sam"] = {"package": f"optax {version('optax')}", "values": packed(sam_of_optax())}
    else:
        for package in VERSIONS:
            for dtype in ("float64", "float32"):
                for pullback in pullbacks(package):
                    values = packed(lookahead_of_packages(package, dtype, pullback))
                    named = (
                        f"{package.replace('_', '-')} {VERSIONS[package]}, torch {version('torch').partition('+')[0]}"
                    )
                    found[f"{package} {dtype} {pullback}"] = {"package": named, "values": values}
    FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record(sys.argv[1])
