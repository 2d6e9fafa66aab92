"""Cases: what is run, declared once, as data.

``cases/<stem>.json`` holds the cases of one optimizer, ``cases/flags.json`` says for each flag which mistake it names.
``load`` reads and checks them; a case that breaks a rule raises CaseError, which names the file, the case and the rule.
``docs/contract/goldens.md`` describes the fields.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import refoptim
from refoptim.numerics.arith import COMPLEX, FLOATS
from refoptim.step.hyper import Choice, Flag, declared

from .gradients import CYCLES, KINDS, SOURCES, Problem, Source

SCHEMA = 1
"""The version of the format of cases and goldens."""

NEUTRAL = (0, 1)
"""Numbers at which the misuse of a hyperparameter hides; so does it at the default."""


EDGES = frozenset({"subnormal", "huge", "special"})
"""Kinds of numbers at the ends of the range."""


class CaseError(ValueError):
    """A case is not what a case must be."""


@dataclass(frozen=True)
class Case:
    """One case: an optimizer with its hyperparameters, run on parameters of given shapes for some steps.

    ``set`` maps steps to hyperparameters that change before them, ``skip`` lists ``[step, parameter]`` pairs without a
    gradient, ``resume`` is a step before which the run is saved and taken up again, ``record`` lists the steps that
    goldens hold in full, ``flags`` name the mistakes that the case catches, and ``neutral`` says why a hyperparameter
    stays where its misuse would not show. ``estimate`` describes a stream of arrays beside the gradients, of which the
    entries of ``estimated`` are given: a step, for all parameters, or a pair ``[step, parameter]``. A ``plain`` case
    has nothing but defaults: an optimizer that has no option runs it, and it need not catch a mistake.
    """

    id: str
    optimizer: str
    comment: str
    hyper: dict[str, Any]
    dtypes: list[str]
    shapes: list[tuple[int, ...]]
    steps: int
    record: list[int]
    gradient: dict[str, Any]
    flags: list[str]
    set: dict[int, dict[str, Any]] = field(default_factory=dict)
    skip: list[list[int]] = field(default_factory=list)
    resume: int | None = None
    neutral: dict[str, str] = field(default_factory=dict)
    plain: bool = False
    estimate: dict[str, Any] | None = None
    estimated: list[Any] = field(default_factory=list)

    @property
    def is_cautious(self) -> bool:
        """Whether its steps are cautious, as those of no optimizer of torch can be."""
        return bool(self.hyper.get("cautious"))

    @property
    def at_the_edges(self) -> bool:
        """Whether numbers are subnormal, huge, infinite or NaN: where roundings and mistakes are hard to tell apart."""
        given = {*self.gradient.get("kinds", ()), self.gradient.get("start", "normal")}
        return bool(EDGES & {kind for whole in given for kind in CYCLES.get(whole, (whole,))})


@dataclass(frozen=True)
class Witness:
    """The class of a package that owns a rule which torch.optim does not have.

    Attributes:
        package: what is installed to have it.
        cls: ``module:Class``, an optimizer of torch's kind, or ``keras.optimizers:Class``.
        names: its names of hyperparameters and state arrays by ours, where they differ.
        given: more settings, that make it this rule.
        estimates: the argument of its ``step`` that takes a list of estimates.
        lacks: the hyperparameters of ours that it does not have, storage types in which it computes otherwise, as
            ``name:dtype`` a hyperparameter that it rounds otherwise in a storage type, and state that it does not
            keep, or otherwise: of arrays that are numbered the name before the number.
        refuses: the ids of cases that it cannot run, or that leave open what it does.
        in_storage: its methods that round to float32, and do so only to arrays of float32 here.
        bare: packages and modules, parts of it, that are not run when it is imported, with names that they must have.
        in_default: whether it keeps state in torch's default dtype, which is that of the parameters then.
    """

    package: str
    cls: str
    names: dict[str, str] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    lacks: list[str] = field(default_factory=list)
    bare: dict[str, list[str]] = field(default_factory=dict)
    in_default: bool = False
    estimates: str = ""
    refuses: list[str] = field(default_factory=list)
    in_storage: list[str] = field(default_factory=list)

    @property
    def of_keras(self) -> bool:
        """Whether it is an optimizer of Keras, and none of torch's kind."""
        return self.cls.startswith("keras.")

    def keeps(self, name: str) -> bool:
        """Tell whether it keeps state of a name."""
        return not {name, name.rpartition("_")[0]} & {*self.lacks}

    def has(self, case: Case, dtype: str) -> bool:
        """Tell whether it has what a case needs."""
        accepted = arguments_of(getattr(refoptim, case.optimizer))
        given = [*case.hyper.items(), *(pair for change in case.set.values() for pair in change.items())]
        lacking = {*self.lacks, *(name.removesuffix(f":{dtype}") for name in self.lacks)}
        open_to = dtype not in lacking and case.id not in self.refuses
        return open_to and not any(x != accepted[key].default for key, x in given if key in lacking)


def stems() -> list[str]:
    """Return the stems of the optimizers that have cases."""
    return sorted(path.stem for path in _folder().glob("*.json") if path.stem != "flags")


@cache
def arguments_of(cls: type) -> Mapping[str, inspect.Parameter]:
    """Return what the constructor of an optimizer takes, by name, which ``inspect`` takes long to find out."""
    return inspect.signature(cls).parameters


def load(stem: str) -> list[Case]:
    """Read and check the cases of one optimizer."""
    return [*_checked(_text(stem), f"{stem}.json")]


@lru_cache(maxsize=64)
def _checked(text: str, where: str) -> list[Case]:
    """Check a text once: a run asks for the cases thousands of times."""
    return parse(json.loads(text), where)


def witness(stem: str) -> Witness | None:
    """Return the witness of an optimizer that its file names: where torch is none and a package owns the rule."""
    named = json.loads(_text(stem)).get("witness")
    return None if named is None else Witness(**named)


def _text(stem: str) -> str:
    return (_folder() / f"{stem}.json").read_text(encoding="utf-8")


def matches(patterns: str | Sequence[str], *names: str) -> bool:
    """Tell whether a pattern describes one of some names whole; without a pattern every name is meant.

    A pattern is a glob of ``fnmatch``, read in any case of letters: ``adam-*`` is all cases of Adam, and none of NAdam,
    ``*-edges`` those at the edges of the range, and ``Adam``, or ``adam-default``, that name and no other. Hyphens and
    underscores are not asked for in the name of an optimizer: ``sparse-adam`` is SparseAdam.
    """
    globs = [text.lower() for text in ([patterns] if isinstance(patterns, str) else patterns) if text]
    lower = [name.lower() for name in names]
    plain = [glob.replace("-", "").replace("_", "") for glob in globs if not set(glob) & set("*?[")]
    fits = any(fnmatchcase(name, glob) for name in lower for glob in globs)
    return not globs or fits or any(name in plain for name in lower)


def flags() -> dict[str, str]:
    """Return all flags and what they mean."""
    meanings: dict[str, str] = json.loads((_folder() / "flags.json").read_text(encoding="utf-8"))
    return meanings


def _folder() -> Path:
    return Path(str(files(__package__))) / "cases"


def parse(text: Any, where: str) -> list[Case]:
    """Turn the contents of a file of cases into cases, or raise CaseError."""
    keys = set(text) - {"witness"} if isinstance(text, dict) else None
    _require(keys == {"schema", "optimizer", "cases"}, where, "has other keys")
    _require(text["schema"] == SCHEMA, where, f"has schema {text['schema']!r}, expected {SCHEMA}")
    _require(hasattr(refoptim, str(text["optimizer"])), where, f"names no optimizer: {text['optimizer']!r}")
    cases = [_case(entry, text["optimizer"], where) for entry in text["cases"]]
    ids = [case.id for case in cases]
    _require(len(set(ids)) == len(ids), where, "uses an id twice")
    for case in cases:
        _check(case, f"{where}: {case.id}")
    return cases


def _require(holds: bool, where: str, problem: str) -> None:
    if not holds:
        raise CaseError(f"{where} {problem}")


def _case(entry: Any, optimizer: str, where: str) -> Case:
    """Make a case of an entry, its keys checked."""
    known = {x.name for x in fields(Case)} - {"optimizer"}
    required = known - {"set", "skip", "resume", "neutral", "plain", "estimate", "estimated"}
    _require(isinstance(entry, dict) and isinstance(entry.get("id"), str), where, "holds an entry without an id")
    here = f"{where}: {entry['id']}"
    _require(set(entry) <= known, here, f"has unknown keys: {sorted(set(entry) - known)}")
    _require(required <= set(entry), here, f"lacks keys: {sorted(required - set(entry))}")
    changes = {
        change["step"]: _tuples({k: x for k, x in change.items() if k != "step"}) for change in entry.get("set", [])
    }
    shapes = [tuple(shape) for shape in entry["shapes"]]
    rest = {"optimizer": optimizer, "hyper": _tuples(entry["hyper"]), "shapes": shapes, "set": changes}
    return Case(**{**entry, **rest})


def _tuples(hyper: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(x) if isinstance(x, list) else x for name, x in hyper.items()}


def _check(case: Case, where: str) -> None:
    """Raise CaseError if a field of a case does not fit."""
    _require(bool(case.dtypes) and set(case.dtypes) <= {*FLOATS, *COMPLEX}, where, f"has dtypes {case.dtypes}")
    _require(0 < case.steps <= 100, where, f"has {case.steps} steps, expected 1 to 100")
    steps = range(1, case.steps + 1)
    _require(case.record == sorted(set(case.record)), where, "does not record steps in order")
    _require(set(case.record) <= set(steps) and case.steps in case.record, where, "does not record its last step")
    _require(set(case.set) <= set(steps), where, f"sets hyperparameters at steps {list(case.set)}")
    _require(case.resume is None or case.resume in steps[1:], where, f"resumes at step {case.resume}")
    pairs = [[step, i] for step in steps for i in range(len(case.shapes))]
    _require(all(pair in pairs for pair in case.skip), where, f"skips {case.skip}")
    named = bool(case.flags or case.plain) and set(case.flags) <= set(flags())
    _require(named, where, f"has unknown flags or none: {case.flags}")
    _require(bool(case.comment), where, "has no comment")
    _check_shapes(case, where)
    _check_gradient(case.gradient, case, where)
    _check_estimates(case, pairs, where)
    _check_hyper(case, where)


def _check_shapes(case: Case, where: str) -> None:
    sizes = [n for shape in case.shapes for n in shape]
    _require(
        bool(case.shapes) and all(isinstance(n, int) and n >= 0 for n in sizes), where, f"has shapes {case.shapes}"
    )
    _require(sum(map(math.prod, case.shapes)) <= 10_000, where, "has more than 10,000 elements")


def _check_gradient(spec: Mapping[str, Any], case: Case, where: str) -> None:
    """Raise CaseError if a gradient source is not described in full."""
    _require(spec.get("source") in SOURCES, where, f"has the gradient source {spec.get('source')!r}")
    keys = set(SOURCES[spec["source"]].keys)
    given = set(spec) - {"source", "seed", "start"}
    _require(given == keys, where, f"describes its gradient by {sorted(given)}, expected {sorted(keys)}")
    seed = spec.get("seed")
    _require(isinstance(seed, int) and 0 <= seed < 1 << 64, where, f"has the seed {seed!r}")
    kinds: Sequence[str] = [*spec.get("kinds", []), spec.get("start", "normal")]
    _require(set(kinds) <= set(KINDS), where, f"has kinds of numbers {kinds}")
    if spec["source"] == "rows":
        _check_rows(spec, case, where)
    _check_problem(SOURCES[spec["source"]], case, where)


def _check_problem(source: type[Source], case: Case, where: str) -> None:
    """Problems are posed in parameters of their own shapes, and rounded from float64, which is exact enough once."""
    if issubclass(source, Problem):
        _require(source.fits(case.shapes), where, f"has shapes {case.shapes}, which the problem does not have")
        _require(set(case.dtypes) <= {"float32", "float64"}, where, "rounds a problem to other than float32 or float64")


def _check_estimates(case: Case, pairs: Sequence[list[int]], where: str) -> None:
    """Raise CaseError if there are estimates for a rule that takes none, or none for one that does."""
    takes = getattr(refoptim, case.optimizer).takes_estimates
    _require(
        (case.estimate is not None) == takes == bool(case.estimated), where, "has estimates that do not fit the rule"
    )
    if case.estimate is not None:
        _require(case.estimate.get("source") == "stream", where, "has estimates that are no stream")
        _check_gradient(case.estimate, case, where)
    steps = range(1, case.steps + 1)
    _require(all(x in steps or x in pairs for x in case.estimated), where, f"has estimates at {case.estimated}")


def _check_rows(spec: Mapping[str, Any], case: Case, where: str) -> None:
    """No row may have three entries in a step: torch adds three in no fixed order."""
    fits = all(shape and math.gcd(3, shape[0]) == 1 and spec["rows"] <= shape[0] for shape in case.shapes)
    _require(fits, where, "has rows that the steps of 3 do not keep apart")
    _require(0 < spec["rows"] <= spec["nnz"] <= 2 * spec["rows"], where, "has more than two entries in a row")


def _check_hyper(case: Case, where: str) -> None:
    """Raise CaseError if a hyperparameter is unknown, wrong, or at a value at which its misuse would not show.

    A plain case is there for the defaults: it sets nothing.
    """
    if case.plain:
        options = (case.hyper, case.set, case.skip, case.neutral)
        _require(not any(options) and case.resume is None, where, "is plain, and sets something")
        return
    cls = getattr(refoptim, case.optimizer)
    declarations = declared(cls)
    defaults = {name: x.default for name, x in arguments_of(cls).items()}
    for name, value in [*case.hyper.items(), *(item for change in case.set.values() for item in change.items())]:
        _require(name in declarations and name in defaults, where, f"sets {name}, which is no hyperparameter")
        try:
            declarations[name].resolve(name, value)
        except (TypeError, ValueError) as error:
            raise CaseError(f"{where} sets {name}: {error}") from error
    for name in (name for name, x in declarations.items() if name in defaults and not isinstance(x, (Flag, Choice))):
        shows = name in case.hyper and not _is_neutral(case.hyper[name], defaults[name])
        _require(shows != (name in case.neutral), where, f"has {name} at a neutral value, or wrongly says it has")


def _is_neutral(value: Any, default: Any) -> bool:
    """Tell whether a value, or one of several, is neutral or the default."""
    if isinstance(value, tuple):
        defaults = default if isinstance(default, tuple) else (default,) * len(value)
        return any(_is_neutral(x, y) for x, y in zip(value, defaults, strict=True))
    return value == default or value in NEUTRAL
