"""Records the goldens: ``python -m refoptim.conformance.record``.

Each witness runs all cases in a process of its own, torch under the IEEE oracle with ATEN_CPU_CAPABILITY=default in the
environment; the schedules (``record_lr``) follow. Recording twice gives the same bytes: the date of a file is that of
the day on which its contents changed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import refoptim
from refoptim.numerics.ieee import check_arithmetic

from . import cases, goldens
from .keras_witness import KerasPackage
from .oracle import Package, Torch
from .reference import Reference
from .trajectory import Implementation, trajectory

ARITHMETIC = {
    "torch-ieee": "IEEE 754: ATEN_CPU_CAPABILITY=default, exact roots and powers, no oneDNN, foreach=False, one thread",
    "torch-installed": "as installed, CPU capability ",
    "package-ieee": "IEEE 754: torch as for torch-ieee, one optimizer for each parameter",
    "reference": "IEEE 754",
    "torch.optim.lr_scheduler": "doubles of Python, powers and cosines correctly rounded",
}


def implementation(witness: str, stem: str = "") -> Implementation:
    """Return a new run of a witness; ``stem`` says whose package it is."""
    named = cases.witness(stem) if witness == "package-ieee" else None
    if named:
        return KerasPackage(named) if named.of_keras else Package(named)
    return Reference() if witness == "reference" else Torch(as_installed=witness == "torch-installed")


def provenance(witness: str, stem: str = "") -> dict[str, str]:
    """Say who computed a golden, and how; and where, if that can change a bit."""
    found = {
        "witness": witness,
        "version": refoptim.__version__,
        "arithmetic": ARITHMETIC[witness],
        "numpy": np.__version__,
    }
    if witness == "reference":
        return found
    import torch

    found["version"] = torch.__version__
    named = cases.witness(stem) if witness == "package-ieee" else None
    if named:
        found |= {"package": named.package, "version": version(named.package), "torch": torch.__version__}
    if witness == "torch-installed":
        found["arithmetic"] += torch.backends.cpu.get_cpu_capability()
        found["platform"] = " ".join(filter(None, (platform.system(), platform.machine(), *platform.libc_ver())))
    return found


def record(witness: str, stem: str) -> dict[str, Any]:
    """Run all cases of an optimizer on a witness and return the golden, without date and checksum."""
    check_arithmetic()
    found = goldens.runs(witness, stem)
    runs = [trajectory(implementation(witness, stem), case, dtype) for case, dtype in found]
    return {
        "schema": cases.SCHEMA,
        "optimizer": found[0][0].optimizer,
        "provenance": provenance(witness, stem),
        "trajectories": runs,
    }


def save(path: Path, golden: dict[str, Any]) -> None:
    """Write a golden, dated today, unless the file already holds the same."""
    if path.exists() and undated(goldens.read(path, {*golden, "checksum"})) == golden:
        return
    goldens.write(path, {**golden, "provenance": {**golden["provenance"], "date": date.today().isoformat()}})


def undated(golden: dict[str, Any]) -> dict[str, Any]:
    """Return a golden without date and checksum."""
    where = {key: x for key, x in golden["provenance"].items() if key != "date"}
    return {key: x for key, x in golden.items() if key != "checksum"} | {"provenance": where}


def environment(witness: str) -> dict[str, str]:
    """Return the environment of the process in which a witness runs."""
    rest = {key: x for key, x in os.environ.items() if key != "ATEN_CPU_CAPABILITY"}
    return rest | ({"ATEN_CPU_CAPABILITY": "default"} if witness.endswith("-ieee") else {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Record the goldens of all witnesses, each in its own process, or those of one witness in this one."""
    parser = argparse.ArgumentParser(prog="python -m refoptim.conformance.record", description="Records the goldens.")
    parser.add_argument("--witness", choices=goldens.WITNESSES, help="record this witness only, in this process")
    parser.add_argument("--only", nargs="+", choices=cases.stems(), help="record these optimizers only")
    parser.add_argument("--out", type=Path, default=goldens.folder(), help="the folder to write to")
    given = parser.parse_args(arguments)
    stems = given.only or cases.stems()
    if given.witness is None:
        for witness in goldens.WITNESSES:
            command = [sys.executable, "-m", f"{__package__}.record", "--witness", witness, "--out", str(given.out)]
            own = [stem for stem in stems if witness in goldens.witnesses(stem)]
            if own:
                subprocess.run([*command, "--only", *own], check=True, env=environment(witness))
        if not given.only:
            command = [sys.executable, "-m", f"{__package__}.record_lr", "--out", str(given.out / "lr")]
            subprocess.run(command, check=True)
        return
    for stem in stems:
        save(given.out / given.witness / f"{stem}.json", record(given.witness, stem))


if __name__ == "__main__":
    main()
