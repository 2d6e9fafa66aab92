"""A name for the mistake in an optimizer: ``diagnose`` and what it answers.

The cases are run once on the black box (``evidence``). The axes of ``refoptim.dialects``, and wrong settings, are tried
on what it met (``search``), and what explains every case up to rounding is named; then ways of rounding are tried until
the bits agree (``bits``). What explains not all is not named: the verdict is then ``unknown``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cache
from math import inf

import numpy as np

from refoptim.dialects import Axis
from refoptim.dialects.preset import known as known_presets

from .. import report, run
from .answer import ANOTHER_RULE, SAME_BITS, SAME_RULE, UNKNOWN, Diagnosis, First, Known, Next
from .bits import rounded
from .evidence import Collected, Evidence, collect
from .search import OF_ROUNDING, Found, Search, Watch, agreement, atoms_of, decisive, exact_in, fitness, nearest
from .trial import RAISED, Atom, Atoms, Setting, distance, fit, frames, names_of, state_apart

SHOWS = 1e-2
"""A tolerance below which cases show more than rounding."""

MOST_TIED = 6
"""How many explanations that are as good are listed."""

MOST_NEAR = 40
"""How many atoms are compared for the runner-up."""


def _silent(text: str) -> None:
    """Show nothing."""


def diagnose_implementation(
    name: str,
    patterns: Sequence[str] = (),
    dtypes: tuple[str, ...] = (),
    *,
    known: Known | None = None,
    watch: Watch = _silent,
) -> list[Diagnosis]:
    """Run the cases of an implementation, and diagnose each optimizer of which at least one was begun.

    Args:
        name: the name of an adapter, or package.module:Class.
        patterns: globs, or names, of cases and optimizers; all if there are none.
        dtypes: the storage types; all if there are none.
        known: for a library what differs in each of its optimizers; by default all presets.
        watch: is told what is being tried.

    Raises:
        NotAvailable: the implementation is not.
    """
    return diagnose_jobs(run.jobs(name, patterns, dtypes), known=known, watch=watch)


def diagnose_jobs(jobs: Iterable[run.Job], *, known: Known | None = None, watch: Watch = _silent) -> list[Diagnosis]:
    """Run cases, and diagnose each optimizer of which at least one was begun."""
    said = []
    for optimizer, own in by_optimizer(jobs).items():
        found = collect(_watched(optimizer, own, watch))
        if found.evidence:
            said.append(diagnose(optimizer, found.evidence, known=known, watch=watch, notes=notes_on(found)))
        elif found.raised or found.unlike:
            said.append(Diagnosis(optimizer, UNKNOWN, notes=notes_on(found)))
    return said


def named(results: Sequence[run.Result], watch: Watch = _silent, known: Known | None = None) -> report.Diagnoses:
    """Return for each optimizer that breaks a promise on an implementation what its mistake is called.

    An optimizer of the same bits, or of the same rule where no promise is broken, needs no name. Its cases are run once
    more, all of them: those that hold tell what the mistake is not.
    """
    broken = dict.fromkeys((r.implementation, r.optimizer) for r in results if r.outcome == run.FAILS)
    found = {}
    for name, optimizer in broken:
        for said in diagnose_implementation(name, [optimizer], known=known, watch=watch):
            found[name, optimizer] = report.Diagnosis(str(said), said.names, said.as_dict())
    return found


def by_optimizer(jobs: Iterable[run.Job]) -> dict[str, list[run.Job]]:
    """Group jobs by the name of the optimizer."""
    found: dict[str, list[run.Job]] = {}
    for job in jobs:
        found.setdefault(job.case.optimizer, []).append(job)
    return found


def _watched(optimizer: str, jobs: Sequence[run.Job], watch: Watch) -> Iterable[run.Job]:
    for job in jobs:
        watch(f"{optimizer}: running {job.case.id} in {job.dtype}")
        yield job


def notes_on(found: Collected) -> tuple[str, ...]:
    """Say which cases raised an error, or gave arrays that cannot be compared."""
    kinds = {"raised an error": found.raised, "gave arrays of another shape": found.unlike}
    return tuple(_counted(what, of) for what, of in kinds.items() if of)


def _counted(what: str, of: Mapping[str, str]) -> str:
    count = f"1 run {what} and decides" if len(of) == 1 else f"{len(of)} runs {what} and decide"
    return f"{count} nothing: {': '.join(next(iter(of.items())))}"


def diagnose(
    optimizer: str,
    evidence: Sequence[Evidence],
    *,
    known: Known | None = None,
    watch: Watch = _silent,
    notes: tuple[str, ...] = (),
) -> Diagnosis:
    """Say of an optimizer whether its rule is refoptim's, and else by which axes it differs.

    Args:
        optimizer: whose rule it should be.
        evidence: what it made of cases.
        known: for a library what differs in each of its optimizers; by default all presets.
        watch: is told what is being tried.
        notes: what is to be said besides.
    """
    return _Patient(optimizer, evidence, presets() if known is None else known, watch, notes).diagnosis()


class _Patient:
    """An optimizer that is being diagnosed."""

    def __init__(
        self, optimizer: str, evidence: Sequence[Evidence], known: Known, watch: Watch, notes: tuple[str, ...]
    ) -> None:
        self.optimizer, self.evidence, self.known, self.notes = optimizer, evidence, known, [*notes]
        self._watch = watch
        self.watch: Watch = lambda text: watch(f"{optimizer}: {text}")
        self.deciding = decisive(evidence) or [*evidence]
        if self.deciding[0].tight > SHOWS:
            self.notes.append("It is judged in 16-bit numbers alone, whose roundings hide smaller mistakes.")
        self.others = [e for e in evidence if e not in self.deciding and not e.is_edge]

    def diagnosis(self) -> Diagnosis:
        """Search, first within what rounding explains, then within what single precision does."""
        found = self._search()
        return self._explanation(found) or self._in_single(found) or self._unknown(found)

    def _search(self) -> Found:
        found = Search(self.optimizer, self.deciding, lambda e: e.tight, self.watch).run()
        return found if found.sets else found._replace(sets=self._of_libraries())

    def _explanation(self, found: Found) -> Diagnosis | None:
        """Return what a search found, or None if it explains nothing."""
        if sets := [atoms for atoms in found.sets if self.holds(atoms)]:
            return self._explained(found, self._ranked([self._with_state(atoms) for atoms in sets]))
        if found.sets:
            names = " + ".join(names_of(found.sets[0])) or "the rule itself"
            self.notes.append(f"In {self.deciding[0].storage} {names} explains all, in a narrower type it does not.")
        return None

    def _in_single(self, found: Found) -> Diagnosis | None:
        """Return what explains all to single precision, the rule itself or else settings rounded to float32."""
        if found.sets:
            return None
        if all(distance(self.optimizer, (), e, e.loose) <= e.loose for e in self.deciding):
            return self._loosely(found)
        if self.deciding[0].storage != "float64":
            return None
        rounded = [replace(e, settings="float32") for e in self.evidence]
        notes = (*self.notes, "It agrees to single precision only: settings, or what is made of them, are in float32.")
        patient = _Patient(self.optimizer, rounded, self.known, self._watch, notes)
        return patient._explanation(patient._search())

    def _loosely(self, found: Found) -> Diagnosis:
        """Say that the rule itself agrees to single precision, or but for products of matrices."""
        if self.optimizer == "Muon":
            self.notes.append("Products of matrices that are rounded to bfloat16 are taken for the same within 0.05 %.")
        else:
            self.notes.append("It agrees to single precision only: something is computed or kept in float32.")
            self.deciding = [replace(e, settings="float32") for e in self.deciding]
        return self._explained(found, [()])

    def holds(self, atoms: Atoms) -> bool:
        """Tell whether atoms explain the cases in single precision too; 16 bits show no more than rounding."""
        return all(distance(self.optimizer, atoms, e, e.tight) <= e.tight for e in self.others if e.tight < SHOWS)

    def _ranked(self, sets: Sequence[Atoms]) -> list[Atoms]:
        """Sort explanations: those first that explain the state, that give more bits, are no settings, come nearer."""

        def key(atoms: Atoms) -> tuple[bool, int, int, float]:
            _, worst = fitness(self.optimizer, atoms, self.deciding)
            settings = sum(isinstance(atom, Setting) for atom in atoms)
            unlike = bool(self._wrong_state(atoms))
            return unlike, -exact_in(self.optimizer, atoms, self.deciding), settings, worst

        return sorted(sets, key=key) if len(sets) > 1 else [*sets]

    def _explained(self, found: Found, sets: Sequence[Atoms]) -> Diagnosis:
        atoms = sets[0]
        if wrong := self._wrong_state(atoms):
            self.notes.append(f"The state is kept otherwise: {wrong} differs, which the parameters do not show.")
        for e in (e for e in self.others if distance(self.optimizer, atoms, e, e.tight) > e.tight):
            self.notes.append(f"In {e.name} it drifts by more than rounding.")
        more, exact = rounded(self.optimizer, atoms, self.evidence, self.watch)
        rule = [atom for atom in atoms if atom.flag not in OF_ROUNDING]
        names = names_of(atoms if rule else (*atoms, *more))
        agree, _ = fitness(self.optimizer, atoms, self.deciding)
        return Diagnosis(
            optimizer=self.optimizer,
            verdict=ANOTHER_RULE if rule else SAME_BITS if exact and not names else SAME_RULE,
            names=tuple(dict.fromkeys(names)),
            values=values_of(atoms),
            tied=self._tied(atoms, sets[1:]),
            rounding=names_of(more),
            exact=exact,
            libraries=self._libraries(tuple(rule)),
            cases=len(self.deciding),
            agree=agree,
            ulps=max(distance(self.optimizer, atoms, e) / _unit(e) for e in self.deciding),
            ulps_of=self.deciding[0].settings,
            distance=fitness(self.optimizer, (), self.deciding)[1],
            first=self._first() if names else None,
            runner_up=self._runner_up(found, sets) if rule else None,
            excluded=self._excluded({flag for atoms in sets for flag in names_of(atoms)} | {*names}),
            notes=tuple(self.notes),
        )

    def _excluded(self, named: Set[str] = frozenset()) -> tuple[str, ...]:
        """Return the flags that were tried and explain nothing."""
        tried = {atom.flag for atom in atoms_of(self.optimizer)} | {"LrScaled", "SettingDiffers", "SettingScaled"}
        return tuple(sorted(tried - named))

    def _tied(self, atoms: Atoms, others: Sequence[Atoms]) -> tuple[tuple[str, ...], ...]:
        own = names_of(atoms)
        found = dict.fromkeys(names_of(x) for x in others)
        return tuple(x for x in found if x != own)[:MOST_TIED]

    def _libraries(self, atoms: Atoms) -> tuple[str, ...]:
        """Return the libraries whose optimizer has these differences, and no other that any case would show."""
        if not atoms or not all(isinstance(atom, Axis) for atom in atoms):
            return ()
        dialects = {x: of[self.optimizer] for x, of in self.known.items() if self.optimizer in of}
        named = {x: axes for x, axes in dialects.items() if {*names_of(atoms)} <= {*names_of(axes)} and fit(axes)}
        return tuple(x for x, axes in named.items() if self._does(axes))

    def _of_libraries(self) -> list[Atoms]:
        """Return the dialects of libraries, which may differ in more than is put together, that explain all."""
        dialects = dict.fromkeys(of[self.optimizer] for of in self.known.values() if self.optimizer in of)
        return [axes for axes in dialects if axes and fit(axes) and self._does(axes)]

    def _with_state(self, atoms: Atoms) -> Atoms:
        """Add an atom that changes the state alone, if the state calls for one."""
        if not self._wrong_state(atoms):
            return atoms
        longer = ((*atoms, atom) for atom in atoms_of(self.optimizer, self.deciding[0].settings))
        explaining = (more for more in longer if fit(more) and not self._wrong_state(more) and self._does(more))
        return next(explaining, atoms)

    def _does(self, atoms: Atoms) -> bool:
        return all(distance(self.optimizer, atoms, e, e.tight) <= e.tight for e in self.deciding)

    def _wrong_state(self, atoms: Atoms) -> str:
        """Name the first array of the state that differs."""
        try:
            return next((wrong for e in self.deciding if (wrong := self._wrong_in(atoms, e))), "")
        except RAISED as error:
            return run.told(error)

    def _wrong_in(self, atoms: Atoms, e: Evidence) -> str:
        for frame in frames(self.optimizer, atoms, e):
            wrong = [name for name, gap in state_apart(frame, e).items() if gap > e.loose]
            if wrong:
                return f"{wrong[0]} at step {frame.step} of {e.name}"
        return ""

    def _first(self) -> First | None:
        """Return where the black box first parts from the rule."""
        found = [x for x in map(self._parts, self.deciding) if x is not None]
        return min(found, key=lambda x: x.step, default=None)

    def _parts(self, e: Evidence) -> First | None:
        for frame in frames(self.optimizer, (), e):
            gaps = state_apart(frame, e)
            ours, theirs = (e.relative(x) for x in (frame.parameters, e.parameters[frame.step - 1]))
            places = np.repeat(range(len(frame.parameters)), [2 ** (p.dtype.kind == "c") * p.size for p in e.before])
            for i in range(len(frame.parameters)):
                with np.errstate(all="ignore"):
                    here = np.abs(ours - theirs)[places == i]
                gaps[f"param.{i}"] = float(np.max(np.where(np.isnan(here), inf, here), initial=0.0))
            wrong = [name for name in sorted(gaps, key=_order) if gaps[name] > e.tight]
            if wrong:
                return First(e.case.id, e.dtype, frame.step, wrong[0], gaps[wrong[0]])
        return None

    def _runner_up(self, found: Found, best: Sequence[Atoms]) -> Next | None:
        """Return what explains the most cases of what does not explain all."""
        named = {names_of(atoms) for atoms in best}
        parts: list[Atoms] = [(atom,) for atoms in best[:1] if len(atoms) > 1 for atom in atoms]
        candidates: list[Atoms] = [(), *parts, *((atom,) for atom in found.left[:MOST_NEAR])]
        self.watch("what is next best")
        left = [x for x in dict.fromkeys(candidates) if names_of(x) not in named]
        agreeing = {x: agreement(self.optimizer, x, self.deciding) for x in left}
        most = max(agreeing.values(), default=0)
        closest, away = nearest(self.optimizer, [x for x, agree in agreeing.items() if agree == most], self.deciding)
        return None if closest is None else Next(names_of(closest), most, away)

    def _unknown(self, found: Found) -> Diagnosis:
        return Diagnosis(
            optimizer=self.optimizer,
            verdict=UNKNOWN,
            cases=len(self.deciding),
            agree=fitness(self.optimizer, (), self.deciding)[0],
            distance=fitness(self.optimizer, (), self.deciding)[1],
            first=self._first(),
            runner_up=self._runner_up(found, []),
            excluded=self._excluded(),
            notes=tuple(self.notes),
        )


def _order(name: str) -> tuple[str, bool]:
    """Sort the arrays of a step as it computes them: by parameter, the state before the parameter."""
    return name.split(".")[1], name.startswith("param")


def _unit(e: Evidence) -> float:
    """Return the unit in the last place of 1 in the storage type, or in that of the settings."""
    units = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
    return units[e.settings or e.storage]


def values_of(atoms: Iterable[Atom]) -> dict[str, dict[str, float | None]]:
    """Return of each flag about a setting the setting and its value, and of a lost state what is lost."""
    found: dict[str, dict[str, float | None]] = {}
    for atom in atoms:
        if isinstance(atom, Setting):
            found.setdefault(atom.flag, {})[str(atom.place)] = atom.value
        elif names := getattr(atom.change, "lost", ()):
            found[atom.flag] = dict.fromkeys(names)
    return found


@cache
def presets() -> Known:
    """Return what differs in the optimizers of all libraries of which refoptim has dialects."""
    return {library: {name: made.axes for name, made in of.items()} for library, of in known_presets().items()}
