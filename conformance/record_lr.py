"""Records the goldens of the schedulers: ``python -m refoptim.conformance.record_lr`` writes ``golden/lr/*.json``.

The witness is torch.optim.lr_scheduler, as it is installed. Each file holds some drawn schedulers (``lr_cases``), and
of each the learning rates and momenta of two groups at epochs 0 to 300, as hexadecimal floats. Recording twice gives
the same bytes. Cosines and powers come from the C library, which need not round correctly: ``libm`` is the digest of
some of them, and where a machine has another one, the last bits of some schedules may differ.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .lr_cases import CYCLERS, DRAWS, LRS, Case, draw, make_optimizer, trace

SCHEMA = 1

CASES = 5
"""Cases of a scheduler."""

GOLDEN = Path(__file__).with_name("golden") / "lr"


def libm() -> str:
    """Return a digest of cosines and powers of this machine."""
    values = [math.cos(math.pi * k / 97) for k in range(200)] + [(k / 211) ** (k / 17) for k in range(1, 200)]
    return hashlib.sha256(to_hex(values).encode()).hexdigest()


def to_hex(values: Iterable[float]) -> str:
    """Write numbers as hexadecimal floats."""
    return " ".join(float(x).hex() for x in values)


def from_hex(text: str) -> list[float]:
    """Undo ``to_hex``."""
    return [float.fromhex(word) for word in text.split()]


def provenance() -> dict[str, Any]:
    """Say who computed a golden, and where."""
    import torch

    parts = (platform.system(), platform.machine(), *platform.libc_ver())
    return {
        "schema": SCHEMA,
        "witness": "torch.optim.lr_scheduler",
        "version": torch.__version__,
        "platform": " ".join(part for part in parts if part),
        "libm": libm(),
    }


def torch_trace(case: Case) -> dict[str, list[list[float]]]:
    """Run a case on torch."""
    import torch

    classes: Mapping[str, Any] = vars(torch.optim.lr_scheduler)
    return trace(case, make_optimizer(case, torch.optim, lambda: torch.zeros(1)), classes)


def record(name: str) -> dict[str, Any]:
    """Return the golden of a scheduler."""
    cases = []
    for case in (draw(name, seed) for seed in range(CASES)):
        values = torch_trace(case)
        kept = ("lr", "momentum") if name in CYCLERS else ("lr",)
        found = {key: [to_hex(group) for group in values[key]] for key in kept}
        cases.append({**case._asdict(), "initial_lr": to_hex(LRS), **found})
    return {**provenance(), "cases": cases}


def main() -> None:
    """Record all goldens."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for name in DRAWS:
        text = json.dumps(record(name), indent=1) + "\n"
        (GOLDEN / f"{name}.json").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
