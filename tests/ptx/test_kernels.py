"""What NVRTC makes of every kernel has the bits of the reference, on arrays that begin anywhere.

``-m 'ptx and not slow'`` does all the work for one architecture.
"""

from __future__ import annotations

from decimal import Context, Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

from helpers.exact import FORMATS
from helpers.kernels import assert_same_bits, dtype_of
from helpers.ptx import entries
from helpers.work import Piece, pieces, scalars
from ptx import compiled
from ptx.machine import Machine
from refoptim.engines import nvrtc
from refoptim.engines.kernel import kernel_of
from refoptim.engines.launches import Launch, Step, Tensor
from refoptim.swa_utils import averages

try:
    KNOWN = nvrtc.architectures()
except RuntimeError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.ptx

ARCH = "compute_90"
"""The architecture for which all is done, always."""

OTHERS = [f"compute_{arch}" for arch in (75, 80, 100) if arch in KNOWN]

PIECES = {each.name: each for each in pieces()}

KERNELS = Path(str(files("refoptim.kernels")))


@pytest.fixture(scope="module")
def machine(ptx_folder: Path) -> Machine:
    return Machine(ARCH, ptx_folder)


@pytest.mark.parametrize("name", PIECES)
def test_kernels_have_the_bits_of_the_reference(machine: Machine, name: str) -> None:
    with machine.in_place():
        PIECES[name].do()


def failure(machine: Machine, each: Piece) -> str:
    """Do a piece of work and say what failed; nothing if nothing did."""
    try:
        with machine.in_place():
            each.do()
    except Exception as error:
        return f"{each.name}: {error!r}"
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("arch", [ARCH, *OTHERS])
def test_every_kernel_for_every_architecture(ptx_folder: Path, arch: str) -> None:
    machine = Machine(arch, ptx_folder)
    found = [failure(machine, each) for each in PIECES.values()]
    assert [x for x in found if x] == []
    stems = [path.relative_to(KERNELS).with_suffix("").as_posix() for path in KERNELS.rglob("*.cu")]
    assert machine.launched == {entry.name for stem in stems for entry in entries(nvrtc.expand(stem))}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PIECES if " float32" in name and "Muon" not in name])
def test_no_result_depends_on_blocks_and_threads(ptx_folder: Path, name: str) -> None:
    with Machine(ARCH, ptx_folder, blocks=2, threads=64).in_place():
        PIECES[name].do()


# ------------------------------------------------------------------------------------------ numbers and powers


def averaged(machine: Machine, p: Any, g: Any, copy: Any) -> None:
    """Let an average go to its new value by ``y - (y - x) * (1 - decay)``, with a rounded copy if that is given."""
    kernel = kernel_of(averages.LerpEMA)
    assert kernel
    s = scalars(averages.LerpEMA, {"decay": 0.25}, p.dtype)
    Launch(machine, kernel, [Tensor(p, g, (), copy)]).run(Step(s, False))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_narrow_number_is_read_and_written(machine: Machine, dtype: str) -> None:
    """The average of a finite number and itself is that number."""
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype_of(dtype))
    p = every.copy()
    averaged(machine, p, every.copy(), None)
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(every)
    assert_same_bits(p[finite], every[finite])
    assert np.isnan(p[~finite]).all()


def between(dtype: str) -> Any:
    """Return float32 numbers at and beside the middles of neighbours of a narrow format, special ones, and any."""
    with np.errstate(all="ignore"):
        wide = np.arange(1 << 16, dtype=np.uint16).view(dtype_of(dtype)).astype(np.float32)
        middles = wide / 2 + np.roll(wide, -1) / 2
        beside = [np.nextafter(middles, np.float32(to)) for to in (np.inf, -np.inf)]
    special = np.array(
        [np.inf, -np.inf, np.nan, 65519.996, 65520, 3.4e38, 3.3961e38, 1e-45, 2**-25, 2**-24], np.float32
    )
    drawn = np.random.default_rng(2).integers(0, 1 << 32, 20_000, np.uint64).astype(np.uint32).view(np.float32)
    return np.concatenate([middles, *beside, special, drawn])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_single_precision_is_rounded_to_16_bits(machine: Machine, dtype: str) -> None:
    """At and beside every middle. With a gradient of 0 the average is a number that the copy rounds."""
    p = between(dtype)
    g, copy = (np.zeros(len(p), dtype_of(dtype)) for _ in range(2))
    averaged(machine, p, g, copy)
    for x, found in zip(p[::11].tolist(), copy[::11].astype(float).tolist(), strict=True):
        assert str(rounded(dtype, x)) == str(found)


def rounded(dtype: str, x: float) -> float:
    """Round a number to a narrow format by rational arithmetic."""
    return x if not np.isfinite(x) else FORMATS[dtype].add(x, 0.0) if x else x


POWERS = """
extern "C" __global__ void __launch_bounds__(256) powers(const double* x, const double* y, double* z, long long n) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        z[i] = refoptim::power(x[i], y[i]);
}
"""


def test_powers_are_rounded_once(ptx_folder: Path) -> None:
    """Of what rules ask for, and of numbers of every size, against decimal arithmetic with 60 digits."""
    rng, n = np.random.default_rng(1), 400
    betas, near = rng.choice([0.9, 0.999, 0.96, 0.95, 0.99999, 0.5, 1.5, 2.0], n), 1 + rng.standard_normal(n) * 1e-12
    x = np.concatenate([betas, rng.random(n), 2.0 ** rng.uniform(-1000, 1000, n), near])
    steps, roots = rng.integers(1, 200_000, n), rng.choice([0.5, -0.5, 0.75, 1 / 3], n)
    y = np.concatenate([steps, roots, rng.standard_normal(n), rng.uniform(-1e6, 1e6, n)])
    z = np.full(len(x), np.nan)
    source = nvrtc.expand("adam") + POWERS
    compiled.module(source, ARCH, ptx_folder).launch("powers", -(-len(x) // 256), 256, x, y, z, np.int64(len(x)))
    exactly = Context(prec=60, Emin=-99999, Emax=99999)
    expected = [float(exactly.power(Decimal(a), Decimal(b))) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    np.testing.assert_array_equal(z, expected)
