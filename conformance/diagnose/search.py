"""The search for the axes along which a rule must be changed to do what a black box did.

What changes a case that the black box passes is excluded, and what changes a case before the step in which the black
box parts from the rule. Of what is left, single atoms are tried. Then the failing case on which the fewest atoms have
an effect is explained by those that have one, two or three at a time, and what explains it is completed by others until
all cases are explained. Each trial ends at its first misfit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, islice, product
from math import inf
from typing import NamedTuple

from refoptim import dialects

from . import settings
from .evidence import Evidence
from .trial import Atom, Atoms, Place, Setting, apart, distance, distances, fit

Tolerance = Callable[[Evidence], float]
Watch = Callable[[str], None]
"""Is told what is being tried."""

OF_ROUNDING = frozenset(
    {
        *("FusedMultiplyAdd", "LerpOneSided", "LrAfterDivision", "DecayInStep", "CorrectionAccumulated"),
        *("RoundedWhenStored", "ScalarsInFloat32", "MomentsInFloat32", "EtaInDouble", "MuProductInDouble"),
        *("SignOfZeroLost", "SubnormalsFlushed", "NanDropped", "SignOfNan"),
    }
)
"""Flags of the second stage: they round a rule in another way, or treat ends of the range as others do."""

IN_FIRST = frozenset(
    {"CorrectionAccumulated", "ScalarsInFloat32", "MomentsInFloat32", "EtaInDouble", "MuProductInDouble"}
)
"""Those of them that float64 shows, or that are another rule where settings change."""

CLEARLY = 3.0
"""How many times the tolerance an atom must move a case to be excluded by that; a third of it is an effect."""

MOST = 3
"""The largest number of atoms in a set."""

MOST_SETS = 20_000
"""The largest number of sets of one size that are looked at."""


class Effect(NamedTuple):
    """What an atom alone makes of a case: the steps in which it parts from the rule, at all and clearly, and in which
    it parts from the black box.
    """

    parts: int | None
    clearly: int | None
    misses: int | None


BESIDE = Effect(None, None, 1)
"""That of an atom which stands beside another one only."""


class Found(NamedTuple):
    """What a search found: the smallest sets that explain all, and the atoms that are not excluded."""

    sets: list[Atoms]
    left: list[Atom]


def decisive(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Return of each case the evidence in the widest type; cases at the ends of the range are left out."""
    order = ["bfloat16", "float16", "float32", "float64"]
    best: dict[str, Evidence] = {}
    for e in evidence:
        other = best.get(e.case.id)
        if not e.is_edge and (other is None or order.index(e.storage) > order.index(other.storage)):
            best[e.case.id] = e
    widest = max((order.index(e.storage) for e in best.values()), default=0)
    return [e for e in best.values() if order.index(e.storage) >= min(widest, 2)]


def atoms_of(optimizer: str, settings_in: str = "") -> list[Atom]:
    """Return what may be different in the first stage, and wrong settings without anything to be solved for.

    Where settings are taken to be in float32 (``Evidence.settings``) no way of rounding is told from that.
    """
    later = OF_ROUNDING if settings_in else OF_ROUNDING - IN_FIRST
    axes = [x for x in dialects.axes_of(optimizer) if x.flag not in later]
    return [*axes, *settings.fixed(optimizer)]


class Search:
    """A search over the evidence of one optimizer, within a tolerance."""

    def __init__(self, optimizer: str, evidence: Sequence[Evidence], tolerance: Tolerance, watch: Watch) -> None:
        self.optimizer, self.evidence, self.tolerance, self.watch = optimizer, evidence, tolerance, watch
        self.base = {e: [here for _, here in distances(optimizer, (), e)] for e in evidence}
        self.parted = {e: self._parted(e) for e in evidence}
        self.failing = [e for e in evidence if self.parted[e] is not None]
        self.passing = [e for e in evidence if self.parted[e] is None]
        self.effects: dict[Atom, dict[Evidence, Effect]] = {}

    def _parted(self, e: Evidence) -> int | None:
        """Return the step in which the rule and the black box part."""
        pairs = zip(self.base[e], e.scaled, strict=False)
        found = (k for k, (x, y) in enumerate(pairs, 1) if apart(x, y) > self.tolerance(e))
        return next(found, None if len(self.base[e]) == e.case.steps else len(self.base[e]))

    def run(self) -> Found:
        """Return the smallest sets that explain everything."""
        if not self.failing:
            return Found([()], [])
        for atom in atoms_of(self.optimizer, self.evidence[0].settings):
            self.weigh(atom)
        single = self._singles()
        if not single:
            for atom in self._solved(()):
                self.weigh(atom)
            single = self._singles()
        found = single or self._composed()
        return Found(found, [*self.effects])

    def weigh(self, atom: Atom) -> None:
        """Keep an atom that may be a part of what is different, with its effect on every case that fails."""
        self.watch(atom.flag)
        if atom.needs:
            self.effects[atom] = dict.fromkeys(self.failing, BESIDE)
            return
        found = {e: self._effect(atom, e) for e in self.failing}
        early = any(x.clearly is not None and x.clearly < (self.parted[e] or 0) for e, x in found.items())
        idle = all(x.parts is None for x in found.values())
        if not (early or idle or any(self._effect(atom, e).clearly is not None for e in self.passing)):
            self.effects[atom] = found

    def _effect(self, atom: Atom, e: Evidence) -> Effect:
        parts = clearly = misses = None
        limit = self.tolerance(e)
        trial = distances(self.optimizer, (atom,), e)
        for k, ((gap, here), base) in enumerate(zip(trial, self.base[e], strict=False), 1):
            moved = apart(here, base)
            parts = parts or (k if moved > limit / CLEARLY else None)
            clearly = clearly or (k if moved > CLEARLY * limit else None)
            misses = misses or (k if gap > limit else None)
            if clearly and (misses or self.parted[e] is None):
                break
        return Effect(parts, clearly, misses)

    def _singles(self) -> list[Atoms]:
        """Return the atoms that explain everything by themselves."""
        explaining = [atom for atom, found in self.effects.items() if all(x.misses is None for x in found.values())]
        return [(atom,) for atom in explaining if fit((atom,))]

    def _composed(self) -> list[Atoms]:
        """Return the pairs that explain everything, or else the triples."""
        core = min(self._telling(), key=lambda e: len(self._active(e)))
        parts = list[Atoms]()
        for size in range(1, MOST + 1):
            parts += self._explaining(core, size)
            if size > 1 and (found := self._completed(parts, size)):
                return found
        return self._completed(self._with_solved(core), MOST) if not parts else []

    def _active(self, e: Evidence) -> list[Atom]:
        """Return the atoms that have an effect on a failing case, perhaps beside another."""
        return [atom for atom, found in self.effects.items() if found[e].parts is not None or atom.needs]

    def _explaining(self, e: Evidence, size: int) -> list[Atoms]:
        """Return the sets of atoms with an effect on a case that explain it.

        If no pair does, one of the two may have an effect beside the other only, as roundings may hide what is small.
        """
        active = self._active(e)
        hidden = [atom for atom in self.effects if atom not in active] if size == 2 else []
        found = self._matching(combinations(active, size), e)
        return found or self._matching(product(active, hidden), e)

    def _matching(self, sets: Iterable[Atoms], e: Evidence) -> list[Atoms]:
        """Return the sets that explain a case."""
        fitting = (atoms for atoms in sets if fit(atoms))
        return [atoms for atoms in islice(fitting, MOST_SETS) if self._matches(atoms, e)]

    def _completed(self, parts: Iterable[Atoms], size: int) -> list[Atoms]:
        """Return the sets of a size that hold a part and explain everything."""
        found: dict[frozenset[Atom], Atoms] = {}
        for part in parts:
            for atoms in self._grown(part, size):
                found.setdefault(frozenset(atoms), atoms)
        return [*found.values()]

    def _grown(self, atoms: Atoms, size: int) -> Iterator[Atoms]:
        """Yield what explains everything, atoms added where a case is not explained."""
        self.watch(" + ".join(atom.flag for atom in atoms))
        open_case = next((e for e in self._telling() if not self._matches(atoms, e)), None)
        if open_case is None:
            if len(atoms) == size and all(self._matches(atoms, e) for e in self.passing):
                yield atoms
        elif len(atoms) < size:
            for atom in self._active(open_case):
                if atom not in atoms and fit((*atoms, atom)):
                    yield from self._grown((*atoms, atom), size)

    def _telling(self) -> list[Evidence]:
        """Return the failing cases, those first that part soonest and take the fewest numbers."""
        return sorted(self.failing, key=lambda e: (self.parted[e] or 0, e.scale.size))

    def _matches(self, atoms: Atoms, e: Evidence) -> bool:
        return distance(self.optimizer, atoms, e, self.tolerance(e)) <= self.tolerance(e)

    def _solved(self, atoms: Atoms) -> Iterator[Setting]:
        """Yield wrong settings that, with some atoms, explain the simplest case that fails, or the last of them."""
        cases = dict.fromkeys((self.failing[0], self._telling()[0], self.failing[-1]))
        for place in settings.places(self.optimizer):
            self.watch(f"solving for {place}")
            found = {(s.flag, s.value): s for e in cases for s in self._solutions(atoms, place, e)}
            yield from found.values()

    def _solutions(self, atoms: Atoms, place: Place, e: Evidence) -> Iterable[Setting]:
        tight = [*settings.solved(self.optimizer, atoms, place, e, self.tolerance(e))]
        return tight or ([] if atoms else settings.solved(self.optimizer, atoms, place, e, e.loose))

    def _with_solved(self, e: Evidence) -> list[Atoms]:
        """Return pairs of an axis and a setting, whose value is solved for beside it, that explain a case."""
        found = list[Atoms]()
        for axis in (atom for atom in self._active(e) if not isinstance(atom, Setting) and fit((atom,))):
            for place in settings.places(self.optimizer):
                self.watch(f"{axis.flag}, solving for {place}")
                found += [(axis, x) for x in settings.solved(self.optimizer, (axis,), place, e, self.tolerance(e))]
        return found


def agreement(optimizer: str, atoms: Atoms, evidence: Iterable[Evidence]) -> int:
    """Return in how many cases a dialect agrees with a black box."""
    return sum(distance(optimizer, atoms, e, e.tight) <= e.tight for e in evidence)


def fitness(optimizer: str, atoms: Atoms, evidence: Sequence[Evidence]) -> tuple[int, float]:
    """Return in how many cases a dialect agrees with a black box, and the largest distance, relative."""
    gaps = [(distance(optimizer, atoms, e), e) for e in evidence]
    return sum(gap <= e.tight for gap, e in gaps), max((gap for gap, _ in gaps), default=inf)


def nearest(optimizer: str, sets: Iterable[Atoms], evidence: Sequence[Evidence]) -> tuple[Atoms | None, float]:
    """Return of some sets that which is the least far away where it is farthest, and how far."""
    best, least = None, inf
    for atoms in sets:
        farthest = 0.0
        for e in evidence:
            farthest = max(farthest, distance(optimizer, atoms, e, least))
            if farthest > least:
                break
        if best is None or farthest < least:
            best, least = atoms, farthest
    return best, least


def exact_in(optimizer: str, atoms: Atoms, evidence: Iterable[Evidence]) -> int:
    """Return in how many cases a dialect gives the bits of a black box, parameters alone."""
    return sum(distance(optimizer, atoms, e, 0.0) == 0.0 for e in evidence)
