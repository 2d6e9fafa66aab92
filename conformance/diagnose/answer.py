"""What is said of an optimizer: the verdict, the names, and how sure they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from textwrap import wrap
from typing import Any, NamedTuple

from refoptim.dialects import FLAGS, Axis

from ..verify import plain

SAME_BITS, SAME_RULE, ANOTHER_RULE, UNKNOWN = VERDICTS = ("same bits", "same rule", "another rule", "unknown")
"""What can be said of an optimizer; ``same rule`` is rounded otherwise."""

WIDTH = 100

Known = Mapping[str, Mapping[str, tuple[Axis, ...]]]
"""For a library what differs in each of its optimizers."""


class First(NamedTuple):
    """Where a black box first parts from the rule."""

    case: str
    dtype: str
    step: int
    tensor: str
    distance: float

    def __str__(self) -> str:
        return f"first parts at step {self.step}, in {self.tensor}, of {self.case} in {self.dtype}"


class Next(NamedTuple):
    """What fits next best: its flags, in how many cases it agrees, and how far it is away at most."""

    names: tuple[str, ...]
    agree: int
    distance: float


@dataclass(frozen=True)
class Diagnosis:
    """What is said of an optimizer; all distances are relative to the largest number of a parameter.

    Attributes:
        optimizer: its name.
        verdict: one of ``VERDICTS``.
        names: the flags that explain what was seen.
        values: of flags about settings, the settings and their values or factors.
        tied: other flags that explain all cases as well.
        rounding: the flags that, beside ``names``, give the very bits, or say what is lost at the ends of the range.
        exact: whether all bits are explained.
        libraries: the libraries that are known to have this dialect.
        cases: how many cases decided, and ``agree`` how many agree with what is named.
        ulps: the largest distance that is left, in units of the last place of the largest number.
        ulps_of: the type whose units those are, if not the widest that a case ran in.
        distance: the largest distance from the rule itself.
        first: where the black box first parts from the rule.
        runner_up: what fits next best.
        excluded: the flags that were tried and excluded.
        notes: what else is to be said.
    """

    optimizer: str
    verdict: str
    names: tuple[str, ...] = ()
    values: dict[str, dict[str, float | None]] = field(default_factory=dict)
    tied: tuple[tuple[str, ...], ...] = ()
    rounding: tuple[str, ...] = ()
    exact: bool = False
    libraries: tuple[str, ...] = ()
    cases: int = 0
    agree: int = 0
    ulps: float = 0.0
    ulps_of: str = ""
    distance: float = 0.0
    first: First | None = None
    runner_up: Next | None = None
    excluded: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the rule is the same."""
        return self.verdict in (SAME_BITS, SAME_RULE)

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        found = {key: list(x) if isinstance(x, tuple) else x for key, x in asdict(self).items()}
        found |= {"ulps": plain(self.ulps), "distance": plain(self.distance), "summary": self.summary}
        for key in ("first", "runner_up"):
            pair: Any = getattr(self, key)
            found[key] = None if pair is None else {name: plain(x) for name, x in pair._asdict().items()}
        return found

    @property
    def summary(self) -> str:
        """The verdict and the names in one line."""
        if self.verdict == SAME_BITS:
            return "same bits"
        if self.verdict == SAME_RULE:
            return "same rule, rounded otherwise" + (f": {' + '.join(self.names)}" if self.names else "")
        if self.verdict == ANOTHER_RULE:
            whose = f", that of {', '.join(self.libraries)}" if self.libraries else ""
            return f"another rule{whose}: {' + '.join(self.names)}"
        if not self.cases:
            return "unknown: no case could be compared"
        return "nothing known explains it" + (f": {self.first}" if self.first else "")

    def __str__(self) -> str:
        head, *rest = self.lines()
        return "\n".join([head, *(line for text in rest for line in _wrapped(text))])

    def lines(self) -> Iterator[str]:
        """Yield what fills one screen."""
        yield f"{self.optimizer}: {self.summary}"
        for flag in self.names:
            yield f"{flag}{self._with_values(flag)}: {FLAGS[flag].meaning}"
        if self.verdict != UNKNOWN:
            yield f"{'With that, ' if self.names else ''}{self._agreement()}"
        for flag in self.names:
            yield f"The line in your code to look at is the one that {FLAGS[flag].line}."
        yield from self._tails()

    def _with_values(self, flag: str) -> str:
        relation = "times" if flag.endswith("Scaled") else "="
        found = [f"{x} {relation} {y:g}" if y is not None else x for x, y in self.values.get(flag, {}).items()]
        return f" ({', '.join(found)})" if found else ""

    def _agreement(self) -> str:
        unit = f"{self.ulps_of} ULP".lstrip()
        how = "to the bit" if self.exact else f"to {self.ulps:.2g} {unit} of their largest numbers"
        return f"{self.agree} of {self.cases} cases agree {how}."

    def _tails(self) -> Iterator[str]:
        if self.rounding and self.rounding != self.names:
            yield (
                f"Rounding: {' + '.join(self.rounding)}"
                + ("" if self.exact else ", which does not give all bits")
                + "."
            )
        if self.tied:
            yield f"As good: {', or '.join(' + '.join(x) for x in self.tied)}."
        if self.runner_up:
            best = "Nearest" if self.verdict == UNKNOWN else "Next"
            names = " + ".join(self.runner_up.names) or "the rule itself"
            yield f"{best}: {names}, with {self.runner_up.agree} of {self.cases} cases, {self._worse()}."
        if self.verdict == UNKNOWN and self.excluded:
            yield f"Excluded: {', '.join(self.excluded)}."
        yield from self.notes

    def _worse(self) -> str:
        assert self.runner_up is not None
        return f"the worst {self.runner_up.distance:.2g} away"


def _wrapped(text: str) -> list[str]:
    return wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
