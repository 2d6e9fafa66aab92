"""The kernels as a device runs them, with threads that meet at barriers: the bits of the reference for every shape."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

from helpers.emulator.emulator import COMPILER, KERNELS, Emulator, build
from helpers.emulator.work import dense, do
from helpers.ptx import entries
from refoptim.engines import nvrtc

pytestmark = [pytest.mark.kernels, pytest.mark.skipif(not COMPILER, reason="there is no C++ compiler")]


def test_every_kernel_has_the_bits_of_the_reference_for_every_shape(tmp_path: Path) -> None:
    """Blocks, and threads of each; a launch has as many blocks as it asks for, or fewer."""
    library = build(tmp_path / "emulator.so")
    stems = [path.relative_to(KERNELS).with_suffix("").as_posix() for path in KERNELS.rglob("*.cu")]
    declared = {entry.name for stem in stems for entry in entries(nvrtc.expand(stem))}
    for shape in [(100, 1), (1, 17)]:
        assert do(Emulator(library, *shape)) == declared, shape


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return x + c * y;", "return x + y * c + c;"),
        ("(bits >> 16) & 1)) >> 16", "(bits >> 15) & 1)) >> 16"),
        ("i < end; i += blockDim.x)", "i < end; i += blockDim.x + 1)"),
        ("c < b.chunks; c += gridDim.x)", "c < b.chunks; c += 2 * gridDim.x)"),
        (
            "update_elements<Rule, 1, 1>(s, prepare, chunk, vectors * V,",
            "update_elements<Rule, 1, 1>(s, prepare, chunk, 0,",
        ),
    ],
    ids=["word", "rounding", "threads", "blocks", "rest"],
)
def test_changed_kernels_are_seen(tmp_path: Path, old: str, new: str) -> None:
    source = nvrtc.expand("sgd")
    assert old in source
    (tmp_path / "sgd.cu").write_text(source.replace(old, new))
    machine = Emulator(build(tmp_path / "emulator.so", kernels=str(tmp_path / "sgd.cu")), 2, 3)
    with machine.in_place(), pytest.raises(AssertionError):
        dense("SGD", "float32")
        dense("SGD", "bfloat16")
