"""NVRTC compiles every kernel for every architecture it knows, into what the numerical contract allows."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from helpers.ptx import entries, lint, lint_harness
from refoptim.engines import nvrtc

try:
    ARCHITECTURES = nvrtc.architectures()
except RuntimeError as error:
    pytest.skip(str(error), allow_module_level=True)

KERNELS = Path(str(files("refoptim.kernels")))
STEMS = sorted(path.relative_to(KERNELS).with_suffix("").as_posix() for path in KERNELS.rglob("*.cu"))


@pytest.mark.parametrize("stem", STEMS)
def test_ptx(stem: str) -> None:
    source = nvrtc.expand(stem)
    declared = entries(source)
    assert declared
    ptx = nvrtc.compile(source, "compute_90").decode()
    assert lint(ptx, declared) + lint_harness(ptx, declared) == []


@pytest.mark.kernels
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_ptx_of_a_rule_for_every_architecture(arch: int) -> None:
    source = nvrtc.expand("sgd")
    ptx = nvrtc.compile(source, f"compute_{arch}").decode()
    assert lint(ptx, entries(source)) + lint_harness(ptx, entries(source)) == []


@pytest.mark.kernels
@pytest.mark.parametrize("stem", STEMS)
def test_every_architecture(stem: str) -> None:
    """Unoptimized, which is quick; nothing in a kernel asks for what it is compiled."""
    source = nvrtc.expand(stem)
    assert "__CUDA_ARCH__" not in source
    for arch in ARCHITECTURES:
        ptx = nvrtc.compile(source, f"compute_{arch}", flags=(*nvrtc.FLAGS, "--device-debug")).decode()
        assert f".target sm_{arch}" in ptx
        assert lint(ptx, entries(source)) == []


@pytest.mark.kernels
@pytest.mark.parametrize("stem", [stem for stem in STEMS if any(entry.reads for entry in entries(nvrtc.expand(stem)))])
def test_registers_suffice(stem: str) -> None:
    """The elementwise harness limits them, so that enough threads read at once."""
    options = ("--ptxas-options=--warn-on-spills", "--ptxas-options=--warning-as-error")
    assert nvrtc.compile(nvrtc.expand(stem), "sm_90", flags=(*nvrtc.FLAGS, *options))


def complaints(*changes: tuple[str, str], flags: tuple[str, ...] = nvrtc.FLAGS) -> set[str]:
    """Say what the lint finds in a kernel after changes to its source, without the names of the entries."""
    source = changed = nvrtc.expand("adagrad")
    for old, new in changes:
        assert old in changed
        changed = changed.replace(old, new)
    ptx = nvrtc.compile(changed, "compute_90", flags=flags).decode()
    found = lint(ptx, entries(source)) or lint_harness(ptx, entries(source))
    return {re.sub("^.*: ", "", complaint) for complaint in found}


def test_lint_finds_nothing_to_begin_with() -> None:
    assert complaints() == set()


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("--fmad=true", "a contracted product and sum"),
        ("--ftz=true", "a flush to zero"),
        ("--prec-div=false", "an approximation"),
    ],
)
def test_lint_finds_flags(flag: str, complaint: str) -> None:
    assert complaints(flags=(*nvrtc.FLAGS, flag)) == {complaint}


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("return x * c;", "return x * c * 1.1;", "stray double"),
        ("return x * c;", "return __fmaf_rn(x, c, x);", "a contracted product and sum"),
        ("(float x) { return __fsqrt_rn(x); }", "(float x) { return 1 / __frsqrt_rn(x); }", "an approximation"),
        ("alignas(V * sizeof(S) > 16 ? 16 : V * sizeof(S))", "alignas(sizeof(S))", "ld of fewer than 16 bytes at once"),
        (
            "i64 vectors = chunk.aligned()",
            "i64 vectors = chunk.aligned() && false",
            "st of fewer than 16 bytes at once",
        ),
        (
            "for (int v = 0; v < V; v += W) {\n        X parameter",
            "for (int v = threadIdx.x; v < V; v += W) {\n        X parameter",
            "local memory",
        ),
        ("ENTRY(NAME##_bfloat16, ", "ENTRY(NAME##_brain16, ", "not compiled"),
    ],
)
def test_lint_finds_changes(old: str, new: str, complaint: str) -> None:
    assert any(complaint in found for found in complaints((old, new)))


def test_errors_show_the_log() -> None:
    source = nvrtc.expand("adagrad").replace("return x * c;", "return x * d;")
    with pytest.raises(RuntimeError, match=r'sm_90:\nharness/arith.cuh\(\d+\): error: identifier "d" is undefined'):
        nvrtc.compile(source, "sm_90")
    with pytest.raises(
        RuntimeError, match="NVRTC, the runtime compiler of CUDA 3, was not found: pip install nvidia-cuda-nvrtc"
    ):
        nvrtc.version(3)


def test_binary_and_ptx() -> None:
    source = 'extern "C" __global__ void nothing() {}\n'
    assert nvrtc.compile(source, "sm_90").startswith(b"\x7fELF")
    assert b".visible .entry nothing(" in nvrtc.compile(source, "compute_90")
    assert nvrtc.version() == nvrtc.version(nvrtc.version()[0])


def test_includes_stand_once() -> None:
    source = nvrtc.expand("adagrad")
    assert source.count("constexpr i64 CHUNK = ") == source.count('#line 1 "harness/number.cuh"') == 1
    assert re.findall(r"#include .*", source) == ['#include "../host/pack.h"', '#include "../host/cuda.h"']
