"""The pages of schedulers, a page each with a picture, and the gallery that shows all of them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import md
from refoptim.conformance.spec import SCHEDULERS

from refoptim.commands.describe import arguments, stem, text
from refoptim.commands.plot import plot
from refoptim.lr_scheduler import WIDER

FOLDER = "lr_scheduler"

TORCHS = [name for name in SCHEDULERS if name not in WIDER]
"""The schedulers that torch has."""

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
    "ConstantWarmupLR": ["ConstantWarmupLR(num_warmup_steps=20)"],
    "LinearWarmupLR": ["LinearWarmupLR(num_warmup_steps=20, num_training_steps=100)"],
    "CosineWarmupLR": [
        "CosineWarmupLR(num_warmup_steps=20, num_training_steps=90)",
        "CosineWarmupLR(num_warmup_steps=20, num_training_steps=90, min_lr=0.02)",
    ],
    "CosineWarmupRateLR": [
        "CosineWarmupRateLR(num_warmup_steps=20, num_training_steps=90, min_lr=0.02)",
        "CosineWarmupRateLR(num_warmup_steps=20, num_training_steps=90, min_lr=0.02, warmup_lr_rate=0.4)",
    ],
    "CosineRestartsWarmupLR": ["CosineRestartsWarmupLR(num_warmup_steps=10, num_training_steps=100, num_cycles=3)"],
    "PolynomialWarmupLR": [
        "PolynomialWarmupLR(num_warmup_steps=20, num_training_steps=90)",
        "PolynomialWarmupLR(num_warmup_steps=20, num_training_steps=90, lr_end=0.01, power=2)",
    ],
    "InverseSqrtLR": ["InverseSqrtLR(num_warmup_steps=10)", "InverseSqrtLR(num_warmup_steps=10, timescale=40)"],
    "WarmupStableDecayLR": [
        "WarmupStableDecayLR(num_warmup_steps=15, num_stable_steps=50, num_decay_steps=30, decay_type='linear')",
        "WarmupStableDecayLR(num_warmup_steps=15, num_stable_steps=50, num_decay_steps=30, decay_type='1-sqrt')",
    ],
    "NoamLR": ["NoamLR(d_model=1, num_warmup_steps=20)"],
    "WarmupCosineDecayLR": [
        "WarmupCosineDecayLR(init_value=0.01, peak_value=0.1, warmup_steps=20, decay_steps=90)",
        "WarmupCosineDecayLR(init_value=0.01, peak_value=0.1, warmup_steps=20, decay_steps=90, exponent=2)",
    ],
    "PiecewiseInterpolateLR": [
        "PiecewiseInterpolateLR(interpolate_type='linear', init_value=0.1, boundaries_and_scales={30: 0.2, 80: 0.5})",
        "PiecewiseInterpolateLR(interpolate_type='cosine', init_value=0.1, boundaries_and_scales={30: 0.2, 80: 0.5})",
    ],
    "CosineCyclesLR": [
        "CosineCyclesLR(t_initial=15, cycle_mul=2, cycle_decay=0.6, cycle_limit=3)",
        "CosineCyclesLR(t_initial=80, warmup_t=15, warmup_prefix=True)",
    ],
    "CosineDecayRestartsLR": ["CosineDecayRestartsLR(first_decay_steps=14, m_mul=0.7, alpha=0.05)"],
    "SWALR": ["SWALR(swa_lr=0.02, anneal_epochs=30)", "SWALR(swa_lr=0.02, anneal_epochs=30, anneal_strategy='linear')"],
}
"""What ``refoptim plot lr`` draws for each scheduler."""

WIDER_INTRO = """
## Schedules that torch does not have

Those above have torch's names, arguments and bits, and SWALR is of `torch.optim.swa_utils`. Those below are rules of
other libraries under names of refoptim, with the bits of the library named in double precision, but for the rounding of
its cosines, powers and logarithms; the steps count from 0. `refoptim.lr_scheduler.get_scheduler` builds those of
transformers by their names: `get_scheduler("cosine", optimizer, num_warmup_steps=10, num_training_steps=100)`.
"""

OWNERS = {
    "ConstantWarmupLR": ("transformers", "constant_with_warmup"),
    "LinearWarmupLR": ("transformers", "linear"),
    "CosineWarmupLR": ("transformers", "cosine, cosine_with_min_lr"),
    "CosineWarmupRateLR": ("transformers", "cosine_warmup_with_min_lr"),
    "CosineRestartsWarmupLR": ("transformers", "cosine_with_restarts"),
    "PolynomialWarmupLR": ("transformers", "polynomial"),
    "InverseSqrtLR": ("transformers", "inverse_sqrt"),
    "WarmupStableDecayLR": ("transformers", "warmup_stable_decay"),
    "NoamLR": ("the paper", "lrate"),
    "WarmupCosineDecayLR": ("optax", "warmup_cosine_decay_schedule"),
    "PiecewiseInterpolateLR": ("optax", "piecewise_interpolate_schedule"),
    "CosineCyclesLR": ("timm", "CosineLRScheduler"),
    "CosineDecayRestartsLR": ("Keras", "CosineDecayRestarts"),
}
"""Whose rule a schedule is that torch does not have, and its name there."""

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
    index = md.wide(
        md.index("Schedulers", INTRO, [*gallery(TORCHS), WIDER_INTRO, *owners(), "", *gallery(WIDER)], stems)
    )
    return {"index.md": index, **{f"{stem(cls)}.md": page(name) for name, cls in SCHEDULERS.items()}}


def gallery(names: Iterable[str]) -> Iterator[str]:
    """Yield the lines of a grid of pictures."""
    yield ":::{container} gallery"
    for name in names:
        yield f"[![{name}]({picture(name)}) {name}]({stem(SCHEDULERS[name])}.md)\n"
    yield ":::"


def owners() -> Iterator[str]:
    """Yield the lines of a table: whose rule each schedule is that torch does not have, and how it is named there."""
    yield "| schedule | the rule is that of | its name there |"
    yield "| --- | --- | --- |"
    for name in WIDER:
        yield f"| [{name}]({stem(SCHEDULERS[name])}.md) | {OWNERS[name][0]} | {md.names(OWNERS[name][1].split(', '))} |"


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
