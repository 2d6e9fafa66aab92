"""Prints what refoptim computes as hashes, one for each thing, so that two machines can be compared byte for byte.

``python digest.py [--engine numpy] [--few] [--threads 2] [--locale de_DE.UTF-8]`` prints a JSON object. ``--few``
takes a storage type of each optimizer's first two cases and a schedule of each kind. The entry ``C library`` hashes
powers and cosines of the C library and ``SIMD`` exponentials of NumPy: they tell whether two runs were on machines that
differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import locale
import math
import platform
import random
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

if np.__version__ < "2":  # Debian 12 has no other NumPy for s390x: what it lacks by name
    np.exceptions = SimpleNamespace(TooHardError=np.TooHardError, AxisError=np.AxisError)
    sys.modules["numpy.lib.array_utils"] = ModuleType("array_utils")
    sys.modules["numpy.lib.array_utils"].byte_bounds = np.byte_bounds

import refoptim

if find_spec("refoptim.conformance") is None:
    refoptim.__path__.append(str(Path(__file__).parents[2]))

from refoptim.numerics.power import cos, exp, log, power


def hashed(*parts: str) -> str:
    """Return the hash of some texts."""
    return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()[:16]


def sensors() -> Iterator[tuple[str, str]]:
    """Hash what refoptim must not use, because it depends on the machine."""
    x = np.array([random.Random(k).random() for k in range(5000)])
    with np.errstate(all="ignore"):
        yield "SIMD", hashlib.sha256(to_bytes(np.exp(100 * x)) + to_bytes(np.sin(x))).hexdigest()[:16]
    yield "C library", hashed(*(f"{0.999**k!r} {math.cos(k)!r}" for k in range(1, 200_000, 7)))
    yield "machine", " ".join((platform.machine(), sys.byteorder, *platform.libc_ver(), np.__version__))


SENSORS = ("SIMD", "C library", "machine")


def functions(few: bool) -> Iterator[tuple[str, str]]:
    """Hash powers, cosines, exponentials and logarithms of drawn numbers of many sizes."""
    draw = random.Random("platform").random
    numbers = [(draw() * 2.0 ** int(40 * draw() - 20), 20 * draw() - 10) for _ in range(50 if few else 500)]
    betas = [power(1 - 2.0 ** -int(1 + 10 * x), k) for k, (x, _) in enumerate(numbers, 1) if x < 1]
    for function in (cos, log):
        yield function.__name__, hashed(*(function(x).hex() for x, _ in numbers))
    yield "exp", hashed(*(exp(y).hex() for _, y in numbers))
    yield "power", hashed(*(power(x, y).hex() for x, y in numbers), *(x.hex() for x in betas))


def known(dtype: str) -> bool:
    """Tell whether there are arrays of a dtype here: bfloat16 needs ml_dtypes."""
    return dtype != "bfloat16" or find_spec("ml_dtypes") is not None


def trajectories(engine: str, few: bool) -> Iterator[tuple[str, str]]:
    """Hash all steps, parameters and state, of the cases."""
    from refoptim.conformance import adapters, cases, trajectory

    make = adapters.find(engine)
    for stem in cases.stems():
        for i, case in enumerate(cases.load(stem)[: 2 if few else None]):
            for dtype in filter(known, case.dtypes[i : i + 1] if few else case.dtypes):
                made = make()
                if adapters.why_not(made, case, dtype) is None:
                    yield f"{case.id} {dtype}", trajectory.trajectory(made, case, dtype)["sha256"][:16]


def schedules(few: bool) -> Iterator[tuple[str, str]]:
    """Hash learning rates and momenta of drawn schedulers."""
    from refoptim.conformance import lr_cases, record_lr

    for name in lr_cases.DRAWS:
        for seed in range(1 if few else record_lr.CASES):
            trace = record_lr.our_trace(lr_cases.draw(name, seed))
            rows = [record_lr.to_hex(row) for key in ("lr", "momentum") for row in trace[key]]
            yield f"{name} {seed}", hashed(*rows)


def closures(few: bool) -> Iterator[tuple[str, str]]:
    """Hash what the optimizers that call a closure do, sums of several runs of the tree among it."""
    from refoptim.conformance import generate, tasks

    line = {"line_search_fn": "strong_wolfe", "max_iter": 4}
    for cls, settings in ((refoptim.LBFGS, line), (refoptim.ConjugateGradient, {})):
        for dtype in ("float32",) if few else ("float32", "float64", "complex64"):
            task = tasks.task(cls, settings, dtype, [(1500,), (7, 5)], 3, 11, "quadratic")
            yield f"{cls.__name__} {dtype}", files(*generate.make(task))


def averages() -> Iterator[tuple[str, str]]:
    """Hash weight averages and clipped gradients."""
    from refoptim.conformance.gradients import draws, values
    from refoptim.conformance.words import to_hex

    for dtype in ("float32", "float64"):
        x, y = (values(draws(seed, 0, 2100), "mixed", dtype).astype(dtype) for seed in (1, 2))
        model = refoptim.swa_utils.AveragedModel([x.copy()], avg_fn=refoptim.swa_utils.get_ema_avg_fn(0.9))
        for step in (x, y, x):
            model.update_parameters([step])
        yield f"average {dtype}", hashed(*(to_hex(np.asarray(x)) for x in model.parameters()))
        p = refoptim.Parameter(x, grad=y.copy())
        norm = refoptim.clip_grad.clip_grad_norm_([p], 0.37)
        yield f"clip_grad {dtype}", hashed(to_hex(p.grad), to_hex(np.asarray(norm)))


def files(header: Any, tensors: Any) -> str:
    """Hash the bytes of a trajectory in all formats, read each again, and compare the numbers bit for bit."""
    from refoptim.conformance import formats
    from refoptim.conformance.words import digest

    header, found = {"case": header["case"]}, hashlib.sha256()
    with tempfile.TemporaryDirectory() as folder:
        for suffix in formats.SUFFIXES:
            path = Path(folder) / f"x{suffix}"
            formats.write(path, formats.Trajectory(header, tensors))
            found.update(path.read_bytes())
            if suffix != ".h":
                assert digest({}, formats.read(path).tensors) == digest({}, tensors), suffix
    return found.hexdigest()[:16]


def large(engine: str) -> Iterator[tuple[str, str]]:
    """Hash steps over arrays that are shared out to threads, Adafactor's with sums."""
    from refoptim.conformance.gradients import draws, values

    p, g = (values(draws(seed, 0, 300 * 401), "normal", "float32").astype("float32") for seed in (3, 4))
    for cls in (refoptim.Adam, refoptim.Adafactor):
        x = p.reshape(300, 401).copy()
        optimizer = cls([x], weight_decay=0.1, **({"fused": True} if engine == "host" else {}))
        for _ in range(3):
            optimizer.step(grads=[g.reshape(300, 401)])
        yield f"large {cls.__name__}", hashlib.sha256(to_bytes(x)).hexdigest()[:16]


def to_bytes(x: Any) -> bytes:
    """Return the little-endian bytes of an array."""
    return x.astype(x.dtype.newbyteorder("<")).tobytes()


def goldens() -> Iterator[tuple[str, str]]:
    """Hash files of each storage type."""
    from refoptim.conformance import generate, tasks

    for dtype in filter(known, ("float16", "bfloat16", "float32", "float64", "complex64")):
        task = tasks.task(refoptim.Adam, {"weight_decay": 0.1}, dtype, [(3, 2), ()], 4, 5)
        yield f"files {dtype}", files(*generate.make(task))


def main() -> None:
    """Print the hashes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", default="numpy")
    parser.add_argument("--few", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--locale", default="C")
    given = parser.parse_args()
    locale.setlocale(locale.LC_NUMERIC, given.locale)
    refoptim.set_num_threads(given.threads)
    found = {**dict(trajectories(given.engine, given.few)), **dict(large(given.engine))}
    if given.engine == "numpy":
        for part in (functions(given.few), schedules(given.few), closures(given.few), averages(), goldens()):
            found |= dict(part)
    print(json.dumps({**found, "all": hashed(*map(" ".join, found.items())), **dict(sensors())}, indent=1))


if __name__ == "__main__":
    main()
