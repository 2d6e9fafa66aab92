"""The commands that draw."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from ..conformance.spec import SCHEDULERS, Spec, parse, setting
from .drawing import Curve, draw, follow
from .output import echo, print_json


@click.group()
def plot() -> None:
    """Draw schedules."""


def _split(context: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, str]:
    """Read ``name=value`` settings, the values as text."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE")
        settings[name] = value
    return settings


def _parse(context: click.Context, argument: click.Parameter, texts: Sequence[str]) -> list[tuple[str, Spec]]:
    """Read schedulers; keep what each was called."""
    try:
        return [(text, parse(text)) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _metric(context: click.Context, option: click.Parameter, text: str | None) -> Callable[[int], float] | None:
    """Read a function of the epoch."""
    found = None if text is None else setting(text)
    if found is not None and not callable(found):
        raise click.BadParameter(f"{text!r} is no function: write it like 'lambda epoch: 1 / (1 + epoch)'")
    return found


def _with(label: str, spec: Spec, settings: dict[str, str]) -> tuple[str, Spec]:
    """Give a scheduler those of the settings that it takes."""
    own = {name: text for name, text in settings.items() if name in _arguments(spec)}
    given = {name: setting(text) for name, text in own.items()}
    return ", ".join([label, *(f"{name}={text}" for name, text in own.items())]), spec._replace(
        settings={**spec.settings, **given}
    )


def _arguments(spec: Spec) -> set[str]:
    return set(inspect.signature(SCHEDULERS[spec.name]).parameters)


@plot.command(name="lr")
@click.argument("schedulers", metavar="SCHEDULER...", nargs=-1, required=True, callback=_parse)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE", callback=_split, help="A setting; may be repeated."
)
@click.option("--epochs", default=100, show_default=True, type=click.IntRange(1), help="How many epochs to draw.")
@click.option(
    "--lr", default=0.1, show_default=True, type=click.FloatRange(0), help="The learning rate of the optimizer."
)
@click.option("--momentum", is_flag=True, help="Draw the momentum too, which CyclicLR and OneCycleLR cycle.")
@click.option("--metrics", metavar="FUNCTION", callback=_metric, help="The metric that ReduceLROnPlateau sees.")
@click.option("--log", is_flag=True, help="Make the axis of the learning rate logarithmic.")
@click.option(
    "-o", "--output", default="lr.png", show_default=True, type=click.Path(path_type=Path), help="A .png or .svg file."
)
@click.option("--json", "as_json", is_flag=True, help="Print the values as JSON instead of drawing them.")
def lr(
    schedulers: list[tuple[str, Spec]],
    settings: dict[str, str],
    epochs: int,
    lr: float,
    momentum: bool,
    metrics: Callable[[int], float] | None,
    log: bool,
    output: Path,
    as_json: bool,
) -> None:
    """Draw the learning rates of one or more schedulers into one figure.

    SCHEDULER is a name, with settings in parentheses where several schedulers need different ones. --set gives a
    setting to every scheduler that takes it. Values are Python literals, and functions are lambdas of numbers and the
    pow, cos, exp, log and the exact functions of the module math.

    \b
    refoptim plot lr StepLR --set step_size=30 --set gamma=0.5
    refoptim plot lr "CosineAnnealingLR(T_max=100)" "ExponentialLR(gamma=0.95)" -o both.svg
    refoptim plot lr "LambdaLR(lr_lambda=lambda epoch: 1 / (1 + epoch))" --log
    refoptim plot lr "OneCycleLR(max_lr=1.0, total_steps=100)" --momentum
    refoptim plot lr "SequentialLR(LinearLR(total_iters=10), CosineAnnealingLR(T_max=90), milestones=[10])"
    refoptim plot lr ReduceLROnPlateau --metrics "lambda epoch: max(0.3, 1 - epoch / 20)"

    An optimizer with momentum 0.9 is scheduled. Without --metrics nothing gets better for ReduceLROnPlateau. A
    scheduler that ends early is drawn to its end.
    """
    lost = sorted(settings.keys() - {name for _, spec in schedulers for name in _arguments(spec)})
    if lost:
        raise click.BadParameter(f"no scheduler here takes {lost[0]!r}", param_hint="--set")
    given = [_with(label, spec, settings) for label, spec in schedulers]
    curves = [_follow(label, spec, epochs, lr, metrics) for label, spec in given]
    for curve in curves:
        if curve.end:
            echo(f"{curve.label} ends after {len(curve.lr)} epochs: {curve.end}", err=True)
    if as_json:
        print_json([vars(curve) for curve in curves])
        return
    try:
        draw(curves, output, momentum=momentum, log=log)
    except (ImportError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    echo(f"wrote {output}", err=True)


def _follow(label: str, spec: Spec, epochs: int, lr: float, metrics: Callable[[int], float] | None) -> Curve:
    try:
        return follow(label, spec, epochs, lr, metrics)
    except (ArithmeticError, TypeError, ValueError) as error:
        raise click.ClickException(f"{label}: {error}") from error
