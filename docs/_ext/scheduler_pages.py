"""The pages of schedulers, a page each with a picture, and the gallery that shows all of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import md
from refoptim.conformance.spec import SCHEDULERS

from refoptim.commands.describe import arguments, stem, text
from refoptim.commands.plot import plot

FOLDER = "lr_scheduler"

INTRO = """A scheduler sets the learning rate of an optimizer, epoch by epoch. Each picture shows an optimizer with
`lr=0.1`; its page has the command that draws it, the formula and the arguments. [](../guide/schedule.md) says how to
use them."""

COMMANDS = {
    "LambdaLR": [
        "LambdaLR(lr_lambda=lambda epoch: 0.95 ** epoch)",
        "LambdaLR(lr_lambda=lambda epoch: 1 / (1 + epoch))",
    ],
    "MultiplicativeLR": ["MultiplicativeLR(lr_lambda=lambda epoch: 0.97 if epoch < 40 else 0.9)"],
    "StepLR": ["StepLR(step_size=30)", "StepLR(step_size=10, gamma=0.7)"],
    "MultiStepLR": ["MultiStepLR(milestones=[20, 60, 80], gamma=0.5)"],
    "ConstantLR": ["ConstantLR(factor=0.3, total_iters=40)"],
    "LinearLR": ["LinearLR(total_iters=20)", "LinearLR(start_factor=1.0, end_factor=0.1, total_iters=80)"],
    "ExponentialLR": ["ExponentialLR(gamma=0.9)", "ExponentialLR(gamma=0.97)"],
    "PolynomialLR": ["PolynomialLR(total_iters=80)", "PolynomialLR(total_iters=80, power=2)"],
    "CosineAnnealingLR": ["CosineAnnealingLR(T_max=40, eta_min=0.01)"],
    "CosineAnnealingWarmRestarts": ["CosineAnnealingWarmRestarts(T_0=12, T_mult=2, eta_min=0.01)"],
    "CyclicLR": [
        "CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=10)",
        "CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=10, mode='triangular2')",
        "CyclicLR(base_lr=0.01, max_lr=0.1, step_size_up=10, mode='exp_range', gamma=0.98)",
        "--momentum",
    ],
    "OneCycleLR": [
        "OneCycleLR(max_lr=0.1, total_steps=100)",
        "OneCycleLR(max_lr=0.1, total_steps=100, three_phase=True, anneal_strategy='linear')",
        "--momentum",
    ],
    "ReduceLROnPlateau": [
        "ReduceLROnPlateau(factor=0.5, patience=5)",
        "ReduceLROnPlateau(factor=0.5, patience=5, cooldown=10)",
        "--metrics",
        "lambda epoch: max(0.5, 1 - epoch / 50)",
    ],
    "SequentialLR": ["SequentialLR(LinearLR(total_iters=10), CosineAnnealingLR(T_max=90), milestones=[10])"],
    "ChainedScheduler": ["ChainedScheduler(LinearLR(total_iters=10), StepLR(step_size=25, gamma=0.5))"],
    "SWALR": ["SWALR(swa_lr=0.02, anneal_epochs=30)", "SWALR(swa_lr=0.02, anneal_epochs=30, anneal_strategy='linear')"],
}
"""What ``refoptim plot lr`` draws for each scheduler."""

EXAMPLE = """import numpy as np
import refoptim as optim
IMPORT

w = np.array([1.0, -2.0])
optimizer = optim.SGD([w], lr=0.1, momentum=0.9)
scheduler = SCHEDULER

for epoch in range(50):
    optimizer.step(grads=[2 * w])
    scheduler.step(METRIC)"""


def pages() -> dict[str, str]:
    """Return the text of every page by file name."""
    stems = [stem(cls) for cls in SCHEDULERS.values()]
    index = md.wide(md.index("Schedulers", INTRO, gallery(), stems))
    return {"index.md": index, **{f"{stem(cls)}.md": page(name) for name, cls in SCHEDULERS.items()}}


def gallery() -> Iterator[str]:
    """Yield the lines of the grid of pictures."""
    yield ":::{container} gallery"
    for name, cls in SCHEDULERS.items():
        yield f"[![{name}]({picture(name)}) {name}]({stem(cls)}.md)\n"
    yield ":::"


def page(name: str) -> str:
    """Return the page of a scheduler."""
    cls = SCHEDULERS[name]
    found = text(cls)
    return md.sections(
        name,
        found.paragraphs[0],
        md.entry("class", public(name), md.signature(cls)),
        md.formula(cls),
        md.section("Picture", f"![Learning rates of {name}]({picture(name)})", md.code(command(name), "sh")),
        md.section("Use", md.code(example(name), "python")),
        md.section("Arguments", md.arguments_table(arguments(cls)), *described(found.paragraphs)),
        md.section("Papers", found.sources.partition(": ")[2]),
    )


def public(name: str) -> str:
    """Return the full name under which users import a scheduler."""
    return f"refoptim.{SCHEDULERS[name].__module__.split('.')[1]}.{name}"


def described(paragraphs: list[str]) -> list[str]:
    """Return what a docstring says of arguments that no declaration says, as a list."""
    lines = [line for x in paragraphs if x.startswith("Args:") for line in x.splitlines()[1:]]
    return ["\n".join("- `{}`:{}".format(*line.strip().split(":", 1)) for line in lines)] if lines else []


def example(name: str) -> str:
    """Return a short program that uses a scheduler."""
    described = ast.parse(COMMANDS[name][0], mode="eval").body
    used = sorted({x.id for x in ast.walk(described) if isinstance(x, ast.Name) and x.id in SCHEDULERS})
    imports = f"from {public(name).rpartition('.')[0]} import {', '.join(used)}"
    metric = "float(np.sum(w**2))" if name == "ReduceLROnPlateau" else ""
    program = EXAMPLE.replace("IMPORT", imports).replace("SCHEDULER", construct(described))
    return program.replace("METRIC", metric)


def construct(node: ast.expr) -> str:
    """Return the call of the constructor that a description stands for; a chain takes no optimizer itself."""
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    name = node.func.id
    members = [f"[{', '.join(map(construct, node.args))}]"] if node.args else []
    first = [] if name == "ChainedScheduler" else ["optimizer"]
    settings = [f"{x.arg}={ast.unparse(x.value)}" for x in node.keywords]
    return f"{name}({', '.join([*first, *members, *settings])})"


def command(name: str) -> str:
    """Return the command that draws a scheduler."""
    words = [f'"{x}"' if "(" in x or " " in x else x for x in COMMANDS[name]]
    return " \\\n    ".join(["refoptim plot lr", *words, f"-o {picture(name)}"])


def picture(name: str) -> str:
    """Return the file name of a scheduler's picture."""
    return f"{name}.svg"


def draw(name: str, folder: Path) -> None:
    """Draw the picture of a scheduler."""
    with redirect_stderr(StringIO()):
        plot.main(["lr", *COMMANDS[name], "-o", str(folder / picture(name))], standalone_mode=False)
