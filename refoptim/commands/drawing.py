"""Draws schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from ..conformance.spec import Spec
from ..formats.files import replace, require_folder
from ..formats.visible import visible
from ..optimizers.sgd import SGD

FORMATS = (".png", ".svg")

METADATA = {".png": {"Software": None}, ".svg": {"Date": None}}
"""Nothing that changes from one drawing to the next."""


@dataclass
class Curve:
    """The learning rates and momenta of a schedule at epochs 0, 1, 2 …; ``end`` says why it ends early, if it does."""

    label: str
    lr: list[float] = field(default_factory=list)
    momentum: list[float] = field(default_factory=list)
    end: str = ""


def follow(label: str, spec: Spec, epochs: int, lr: float, metric: Callable[[int], float] | None = None) -> Curve:
    """Run a scheduler on an SGD of its own for ``epochs`` epochs, or until it has no next learning rate.

    ReduceLROnPlateau sees ``metric(epoch)``; without a metric nothing ever gets better.

    Raises:
        TypeError, ValueError: the scheduler cannot be made of these settings.
    """
    optimizer = SGD([np.zeros(1)], lr=lr, momentum=0.9)
    scheduler = spec.build(optimizer)
    measured = metric or (lambda epoch: math.nan)
    curve = Curve(label)
    for epoch in range(epochs):
        curve.lr.append(float(optimizer.param_groups[0]["lr"]))
        curve.momentum.append(float(optimizer.param_groups[0]["momentum"]))
        if epoch + 1 < epochs and not curve.end:
            optimizer.step(grads=[None])
            curve.end = _step(scheduler, [measured(epoch)] if spec.name == "ReduceLROnPlateau" else [])
        if curve.end:
            break
    return curve


def _step(scheduler: Any, metrics: list[float]) -> str:
    """Step; return why that failed."""
    try:
        scheduler.step(*metrics)
    except (ArithmeticError, ValueError) as error:
        return str(error)
    return ""


def draw(curves: Sequence[Curve], path: Path, *, momentum: bool = False, log: bool = False) -> None:
    """Draw curves into one figure; the same curves give the same bytes.

    Args:
        curves: what to draw.
        path: the file to write.
        momentum: draw the momenta too, below.
        log: make the axis of the learning rate logarithmic.

    Raises:
        ValueError, ImportError: as ``figure``.
    """
    names = ["lr", "momentum"] if momentum else ["lr"]
    labels = ["\n".join(wrap(visible(curve.label), 80)) for curve in curves]
    lines = 1 + sum(1 + label.count("\n") for label in labels)
    with figure(path, 6.4, 0.5 + 0.2 * lines + 2.2 * len(names)) as picture:
        for axes, name in zip(picture.subplots(len(names), sharex=True, squeeze=False)[:, 0], names, strict=True):
            _draw(axes, name, curves, log and name == "lr")
        picture.axes[-1].set_xlabel("epoch")
        picture.legend(picture.axes[0].lines, labels, loc="outside upper left", frameon=False, fontsize="small")


def check(path: Path) -> None:
    """Raise ValueError unless a file ends in .png or .svg, and FileNotFoundError unless its folder exists."""
    if path.suffix not in FORMATS:
        raise ValueError(f"the file must end in {' or '.join(FORMATS)}, got {path.name!r}")
    require_folder(path)


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """Yield an empty figure, in inches, and write it to a PNG or SVG file, by the suffix of ``path``.

    Raises:
        ValueError: the suffix is neither .png nor .svg.
        ImportError: matplotlib is missing.
        OSError: the file cannot be written.
    """
    check(path)
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install matplotlib") from error
    with mpl.rc_context({"svg.hashsalt": "refoptim", "svg.fonttype": "none", "text.parse_math": False}):
        made = Figure(figsize=(width, height), layout="constrained")
        yield made
        out = BytesIO()
        made.savefig(out, format=path.suffix[1:], metadata=METADATA[path.suffix], dpi=120)
    replace(path, out.getvalue())


def _draw(axes: Any, name: str, curves: Sequence[Curve], log: bool) -> None:
    """Draw one quantity of all curves: each value is held for its epoch."""
    for curve in curves:
        values = getattr(curve, name)
        axes.step(range(len(values) + 1), [*values, values[-1]], where="post")
    axes.set_ylabel("learning rate" if name == "lr" else name)
    axes.set_yscale("log" if log else "linear")
    axes.grid(alpha=0.3)
