"""NVRTC compiles every kernel for every architecture it knows, into what the numerical contract allows."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import pytest

from helpers.ptx import entries, lint, lint_harness
from helpers.sass import complaints as complaints_of_loops
from helpers.sass import disassembler
from refoptim.engines import nvrtc

try:
    ARCHITECTURES = nvrtc.architectures()
except RuntimeError as error:
    pytest.skip(str(error), allow_module_level=True)

KERNELS = Path(str(files("refoptim.kernels")))
ROUNDING = """
#if __CUDA_ARCH__ >= 800
__device__ inline void round_to(bfloat16& to, float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
#else
__device__ inline void round_to(bfloat16& to, float x) { to.bits = to_bfloat16(x); }
#endif
"""

STEMS = sorted(path.relative_to(KERNELS).with_suffix("").as_posix() for path in KERNELS.rglob("*.cu"))


NO_SPILLS = ("--ptxas-options=--warn-on-spills", "--ptxas-options=--warning-as-error")


@pytest.mark.kernels
@pytest.mark.parametrize("stem", STEMS)
def test_what_is_made_for_an_h200(stem: str) -> None:
    """The elementwise harness limits registers, so that enough threads read at once: they suffice."""
    source = nvrtc.expand(stem)
    declared = entries(source)
    assert declared
    reads = any(entry.reads for entry in declared)
    flags, arch = (*nvrtc.FLAGS, *(NO_SPILLS if reads else ())), "sm_90" if reads else "compute_90"
    with nvrtc.compiled(source, arch, flags=flags) as made:
        ptx, binary = nvrtc.ptx(*made).decode(), nvrtc.binary(*made) if reads else b""
    assert lint(ptx, declared) + lint_harness(ptx, declared) == []
    if reads and disassembler():
        assert [*complaints_of_loops(stem, binary, declared)] == []


def rounds_to_bfloat16(source: str) -> bool:
    """Tell whether a source has elementwise entries of bfloat16."""
    return any(entry.reads and "bfloat16" in entry.name for entry in entries(source))


@pytest.mark.parametrize("arch", [75, 80])
def test_bfloat16_is_rounded_by_an_instruction_where_there_is_one(arch: int) -> None:
    source = nvrtc.expand("sgd")
    ptx = nvrtc.compile(source, f"compute_{arch}", flags=(*nvrtc.FLAGS, *nvrtc.only("sgd_bfloat16"))).decode()
    assert ("cvt.rn.bf16.f32" in ptx, "32767" in ptx) == (arch >= 80, arch < 80)


@pytest.mark.kernels
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_ptx_of_a_rule_for_every_architecture(arch: int) -> None:
    source = nvrtc.expand("sgd")
    ptx = nvrtc.compile(source, f"compute_{arch}").decode()
    assert lint(ptx, entries(source)) + lint_harness(ptx, entries(source)) == []


@pytest.mark.parametrize("stem", STEMS)
def test_nothing_in_a_kernel_asks_for_what_it_is_compiled_but_the_rounding_to_bfloat16(stem: str) -> None:
    source = nvrtc.expand(stem)
    assert source.count("__CUDA_ARCH__") == source.count(ROUNDING) == 1


@pytest.mark.sweep(len(ARCHITECTURES) - 1)
@pytest.mark.kernels
@pytest.mark.parametrize(("stem", "arch"), [(stem, arch) for stem in STEMS for arch in ARCHITECTURES])
def test_every_architecture(stem: str, arch: int) -> None:
    """Unoptimized, which is quick. Each kernel is always compiled for one of them, another one than the next kernel."""
    source = nvrtc.expand(stem)
    ptx = nvrtc.compile(source, f"compute_{arch}", flags=(*nvrtc.FLAGS, "--device-debug")).decode()
    assert f".target sm_{arch}" in ptx
    assert arch >= 80 or "bf16" not in ptx
    assert arch < 80 or "cvt.rn.bf16.f32" in ptx or not rounds_to_bfloat16(source)
    assert lint(ptx, entries(source)) == []


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


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("return x * c;", "return x * c * 1.1;", "stray double"),
        ("return x * c;", "return __fmaf_rn(x, c, x);", "a contracted product and sum"),
        ("(float x) { return __fsqrt_rn(x); }", "(float x) { return 1 / __frsqrt_rn(x); }", "an approximation"),
        ("alignas(V * sizeof(S) > 16 ? 16 : V * sizeof(S))", "alignas(sizeof(S))", "st of fewer than 16 bytes at once"),
        ("alignas(BYTES > 16 ? 16 : BYTES)", "alignas(4)", "ld of fewer than 16 bytes at once"),
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
        ("cvt.rn.bf16.f32", "cvt.rz.bf16.f32", "a conversion to or from bfloat16"),
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
    ptx = nvrtc.compile(source, "compute_90")
    assert b".visible .entry nothing(" in ptx
    assert not ptx.endswith(b"\0")
    assert nvrtc.version() == nvrtc.version(nvrtc.version()[0])


def test_one_entry_is_compiled_alone() -> None:
    source = nvrtc.expand("adafactor")
    names = [entry.name for entry in entries(source)]
    for name in ("adafactor_bfloat16", "adafactor_step_sizes_float32"):
        ptx = nvrtc.compile(source, "compute_90", flags=(*nvrtc.FLAGS, *nvrtc.only(name))).decode()
        assert re.findall(r"\.entry (\w+)", ptx) == [name]
    assert len(names) > 20


def test_includes_stand_once() -> None:
    source = nvrtc.expand("adagrad")
    assert source.count("constexpr int THREADS = ") == source.count('#line 1 "harness/number.cuh"') == 1
    of_hosts = [f'#include "../host/{name}.h"' for name in ("pack", "cuda", "decided")]
    assert re.findall(r"#include .*", source) == of_hosts
