"""Write docs/gallery.md, a section per scheduler, and its pictures: python docs/build.py

Text and tables are made of the schedulers' docstrings and declarations, the pictures by ``refoptim plot lr``.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from refoptim.conformance.spec import SCHEDULERS

from refoptim.commands.plot import plot
from refoptim.step.hyper import declared

HERE = Path(__file__).parent

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

HEAD = """# Gallery of schedulers

How to use them, and where they differ from torch's, is told in [lr_scheduler.md](lr_scheduler.md). Each picture is
drawn by the command above it; this page is written by `python docs/build.py`.
"""


def page() -> str:
    """Return the text of the gallery."""
    return HEAD + "".join(section(name) for name in COMMANDS)


def section(name: str) -> str:
    """Return the section of a scheduler: what it does, its arguments, the command and the picture."""
    cls = SCHEDULERS[name]
    text = (inspect.getdoc(cls) or "").replace("``", "`")
    body = text.partition("\n\nArgs:")[0].replace(".. code-block:: text\n\n", "")
    words = [f'"{x}"' if "(" in x or " " in x else x for x in COMMANDS[name]]
    command = " \\\n    ".join(["refoptim plot lr", *words, f"-o {name}.svg"])
    picture = f"![{name}](gallery/{picture_of(name).name})"
    return f"\n## {name}\n\n{body}\n\n{table(cls)}\n\n```sh\n{command}\n```\n\n{picture}\n"


def table(cls: type) -> str:
    """Return the arguments as a table: name, default, allowed values, meaning."""
    hypers = declared(cls)
    rows = [
        f"| `{name}` | {default_of(argument)} | {hypers[name].range} | {hypers[name].doc} |"
        for name, argument in inspect.signature(cls).parameters.items()
        if name in hypers
    ]
    return "\n".join(["| name | default | allowed | meaning |", "|---|---|---|---|", *rows])


def default_of(argument: inspect.Parameter) -> str:
    """Return the default of an argument."""
    return "required" if argument.default is inspect.Parameter.empty else f"`{argument.default!r}`"


def picture_of(name: str, folder: Path = HERE / "gallery") -> Path:
    """Return the path of a scheduler's picture."""
    return folder / f"{name}.svg"


def draw(name: str, folder: Path = HERE / "gallery") -> None:
    """Draw the picture of a scheduler."""
    folder.mkdir(exist_ok=True)
    plot.main(["lr", *COMMANDS[name], "-o", str(picture_of(name, folder))], standalone_mode=False)


def main() -> None:
    """Write the gallery and draw its pictures."""
    for name in COMMANDS:
        draw(name)
    (HERE / "gallery.md").write_text(page(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
