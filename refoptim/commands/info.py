"""The commands ``refoptim list``, ``refoptim explain`` and ``refoptim doctor``."""

from __future__ import annotations

import inspect
import re
from dataclasses import asdict
from typing import Any

import click

from ..conformance import cases, trajectory
from ..conformance.cases import Case
from . import describe, doctor
from .output import echo, heading, print_json, print_table, refusing


@click.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@refusing
def list_command(as_json: bool) -> None:
    """List all optimizers, schedulers and what works around optimizers, and say which of them torch has.

    \b
    refoptim list
    refoptim list --json
    """
    kinds: dict[str, list[Any]] = {
        "optimizer": describe.optimizers(),
        "scheduler": describe.schedulers(),
        "wrapper": describe.wrappers(),
    }
    rows = [
        (kind, cls.__name__, describe.is_of_torch(cls), describe.summary(cls).replace("``", "`"))
        for kind, classes in kinds.items()
        for cls in classes
    ]
    if as_json:
        print_json([dict(zip(("kind", "name", "of_torch", "summary"), row, strict=True)) for row in rows])
    else:
        print_table(("kind", "name", "whose", ""), ((*x[:2], "torch" if x[2] else "wider", x[3]) for x in rows))


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@refusing
def explain(name: str, as_json: bool) -> None:
    """Explain an optimizer, scheduler or wrapper: formula, hyperparameters, state, order of operations, sources.

    NAME is read in any case, with or without hyphens. The name of a case (refoptim conformance) shows what is run in
    it: hyperparameters, shapes, gradients, changes on the way, and the mistakes that it catches.

    \b
    refoptim explain adamw
    refoptim explain sparse-adam
    refoptim explain OneCycleLR --json
    refoptim explain lookahead
    refoptim explain adam-amsgrad
    """
    case = next((x for stem in cases.stems() for x in cases.load(stem) if x.id == name.lower()), None)
    if case is not None:
        _explain_case(case, as_json)
        return
    cls = describe.find(name, describe.wrappers())
    text, operations = describe.text(cls), describe.operations(cls)
    found = [x._asdict() for x in describe.arguments(cls)]
    if as_json:
        arguments = [{**x, "default": _value(x["default"])} for x in found]
        code = {"scalars": describe.scalars(cls), "operations": operations}
        print_json({"name": cls.__name__, **text._asdict(), "arguments": arguments, **code})
        return
    heading(cls.__name__)
    echo(*"\n\n".join(text.paragraphs).splitlines())
    parts = {"Formula": text.formula, "State": text.state, "Scalars of a step, in double": describe.scalars(cls)}
    for title, body in {**parts, "Order of operations": operations}.items():
        _section(title, body)
    if found:
        echo()
        heading("Hyperparameters")
        rows = [(x["name"], str(_value(x["default"])), x["allowed"], x["meaning"]) for x in found]
        print_table(("name", "default", "allowed", "meaning"), rows)
    _section("Sources", text.sources)


def _explain_case(case: Case, as_json: bool) -> None:
    """Show a case: what is run in it, with every hyperparameter, and what it catches."""
    hyper = trajectory.all_hyper(case.optimizer, case.hyper)
    caught = {flag: cases.flags()[flag] for flag in case.flags}
    if as_json:
        print_json({**asdict(case), "hyper": hyper, "flags": caught})
        return
    heading(case.id)
    echo(f"{case.optimizer}. {case.comment}", "")
    heading("Hyperparameters")
    given = {name: "" if name in case.hyper else case.neutral.get(name, "default") for name in hyper}
    print_table(("name", "value", ""), [(name, str(x), given[name]) for name, x in hyper.items()])
    rest = {key: getattr(case, key) for key in ("dtypes", "shapes", "steps", "gradient", "set", "skip", "resume")}
    echo("")
    heading("Run")
    print_table(("what", ""), [(key, str(x)) for key, x in rest.items() if x not in ({}, [], None)])
    if caught:
        echo("")
        heading("Catches")
        echo(*(f"{flag}: {meaning}" for flag, meaning in caught.items()))


def _value(default: Any) -> Any:
    """Return a default for JSON and tables; one that must be given is a text."""
    return "required" if default is inspect.Parameter.empty else default


def _section(title: str, body: str) -> None:
    if body:
        echo()
        heading(title)
        echo(*re.sub(rf"^{title[:5]}\w*: ", "", body).splitlines())


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@refusing
def doctor_command(as_json: bool) -> None:
    """Look whether this machine computes as refoptim needs it, and what is installed.

    Exit code 0: nothing is wrong. 1: something is.

    \b
    refoptim doctor
    refoptim doctor --json
    """
    findings = doctor.examine()
    healthy = all(x.ok is not False for x in findings)
    if as_json:
        print_json({"healthy": healthy, "findings": [x._asdict() for x in findings]})
    else:
        words: dict[Any, str] = {True: "ok", False: "WRONG", None: ""}
        styles = ["red" if x.ok is False else "" for x in findings]
        print_table(("what", "found", ""), [(x.name, x.value, words[x.ok]) for x in findings], styles)
        echo("all is well" if healthy else "something is wrong", color="green" if healthy else "red")
    if not healthy:
        raise click.exceptions.Exit(1)
