"""What is promised: one table, rule × storage × engine × golden.

``EXACT`` is equality of bits, all NaNs being one and -0 not +0. ``ULP(n)`` allows n numbers' distance. ``CLOSE(rtol,
atol)`` allows ``atol + rtol * |x|`` around each number x of the golden, and asks for the same infinities and NaNs.

The first row that fits counts; where none fits, nothing is promised and distances are measured. An implementation from
elsewhere is compared with the goldens of refoptim. The rows of other libraries say what "the same rule" means: within
them it agrees with the rule or with its dialect of it (``known``), beyond them it must stand in ``deviations/`` with
a reason. Muon multiplies matrices in bfloat16, in any
order where it takes the products of a library (``numpy-library``), and ONNX holds the attributes of its operators in
float32.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from .cases import Case, flags
from .verify import CLOSE as CLOSE
from .verify import EXACT, Tolerance
from .verify import ULP as ULP

FEW = CLOSE(1e-4, 1e-5)
"""float32 after some dozen steps in which each operation was rounded, or fused, in another way."""

FEW_OF_DOUBLE = CLOSE(1e-12, 1e-13)

PEERS = (
    *("bitsandbytes", "chainer", "keras", "mlx", "mxnet", "onnx", "optax", "paddle", "sklearn", "tensorflow1"),
    *("tensorflow2", "tinygrad"),
)
"""Other libraries whose adapters are here."""

IN_SINGLE = ("mlx", "onnx", "paddle", "tensorflow1", "tensorflow2")
"""Those that keep settings in float32, whatever the parameters are."""

STORED = "reference-store"
"""In place of a golden: refoptim's reference, run here and now, with 16-bit numbers rounded once when stored."""

WITH_SUMS = ("LAMB", "LARS", "MARS", "NovoGrad", "Prodigy", "StableAdamW")
"""Rules beyond torch's whose sums the packages that own them add in another order."""

ANY = "*"
RAISES = "raises"
HOLDS = "holds"


class Row(NamedTuple):
    """A promise of an engine in a storage type against a golden; ANY stands for all of them."""

    engine: str
    golden: str
    rule: str
    storage: str
    promise: Tolerance


TABLE = (
    #   engine   golden        rule         storage    promise
    *(
        Row(engine, *row)
        for engine in ("numpy", "host", "cuda")
        for row in (
            ("torch-ieee", "Adafactor", "float32", CLOSE(1e-6, 4e-7)),
            ("torch-ieee", "Adafactor", "float64", CLOSE(1e-14, 2e-15)),
            ("torch-ieee", ANY, ANY, EXACT),
            *(("package-ieee", rule, "float32", CLOSE(1e-5, 1e-6)) for rule in WITH_SUMS),
            *(("package-ieee", rule, "float64", CLOSE(1e-13, 1e-15)) for rule in WITH_SUMS),
            ("package-ieee", "SOAP", "float32", CLOSE(2e-5, 2e-5)),
            ("package-ieee", "SOAP", "float64", CLOSE(2e-14, 2e-14)),
            ("package-ieee", ANY, ANY, EXACT),
            ("reference", ANY, ANY, EXACT),
            (STORED, ANY, ANY, EXACT),
        )
    ),
    Row("numpy-library", ANY, "Muon", ANY, CLOSE(1e-2, 1e-3)),
    Row("torch-front", "reference", ANY, ANY, EXACT),
    Row("torch-functional", "reference", ANY, ANY, EXACT),
    Row("jax-functional", "reference", ANY, ANY, EXACT),
    Row("torch-for-loop", "reference", "Muon", ANY, CLOSE(1e-2, 1e-3)),
    *(Row(peer, "reference", ANY, "float64", FEW) for peer in IN_SINGLE),
    *(
        Row(peer, "reference", ANY, storage, promise)
        for peer in ("torch-for-loop", "torch-foreach", "torch-fused", *PEERS)
        for storage, promise in (
            ("float32", FEW),
            ("complex64", FEW),
            ("float64", FEW_OF_DOUBLE),
            ("complex128", FEW_OF_DOUBLE),
        )
    ),
)


def promised(engine: str, golden: str, rule: str, storage: str) -> Tolerance | None:
    """Return what is promised, or None where nothing is."""
    asked = (engine.removesuffix("-cuda"), golden, rule, storage)
    for *row, promise in TABLE:
        if all(x in (ANY, y) for x, y in zip(row, asked, strict=True)):
            return Tolerance(**vars(promise))
    return None


class Deviation(NamedTuple):
    """A known departure: in which cases and storage types, the flags that name it, why, and whether it is an error.

    One that ``holds`` is none: it takes cases out of those that a later line names.
    """

    cases: str
    storage: str
    flags: tuple[str, ...]
    reason: str
    raises: bool = False
    holds: bool = False

    def covers(self, case: Case, storage: str) -> bool:
        """Tell whether a run is one of those described."""
        return fnmatchcase(case.id, self.cases) and self.storage in (ANY, storage)


def deviations(engine: str) -> list[Deviation]:
    """Read ``deviations/<engine>.txt``: four columns, cases, storage, flags joined by +, and the reason.

    In place of flags - says that there are none, ``raises`` that an error, or what cannot be compared, is known, and
    ``holds`` that there is no departure.

    Raises:
        ValueError: a line is not of this kind, or names a flag that does not exist.
    """
    path = Path(str(files(__package__))) / "deviations" / f"{engine.removesuffix('-cuda')}.txt"
    if ":" in engine or not path.exists():
        return []
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [_deviation(line, path.name) for line in lines if line and not line.startswith("#")]


def _deviation(line: str, where: str) -> Deviation:
    columns = line.split(maxsplit=3)
    if len(columns) != 4:
        raise ValueError(f"{where}: a line needs cases, storage, flags and a reason, got {line!r}")
    cases, storage, names, reason = columns
    found = () if names in ("-", RAISES, HOLDS) else tuple(names.split("+"))
    unknown = set(found) - set(flags())
    if unknown:
        raise ValueError(f"{where} names flags that do not exist: {sorted(unknown)}")
    return Deviation(cases, storage, found, reason, names == RAISES, names == HOLDS)


def deviation(known: list[Deviation], case: Case, storage: str) -> Deviation | None:
    """Return the first deviation that covers a run."""
    first = next((x for x in known if x.covers(case, storage)), None)
    return None if first is None or first.holds else first
