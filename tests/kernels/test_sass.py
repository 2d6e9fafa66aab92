"""Kernels as an H200 would run them: how they load, what a number costs. No GPU is needed, only NVIDIA's tools."""

from __future__ import annotations

from functools import cache

import pytest

from helpers.ptx import entries
from helpers.sass import ONE_STAGE, Listing, complaints, count, disassembler, listings, stages
from refoptim.engines import nvrtc

if not disassembler():
    pytest.skip("nvdisasm was not found: pip install nvidia-cuda-nvdisasm", allow_module_level=True)
try:
    nvrtc.version()
except RuntimeError as error:
    pytest.skip(str(error), allow_module_level=True)


def compiled(source: str, entry: str) -> Listing:
    """Compile one kernel for an H200."""
    return listings(nvrtc.compile(source, "sm_90", flags=(*nvrtc.FLAGS, *nvrtc.only(entry))))[entry]


def changed(stem: str, old: str, new: str) -> str:
    source = nvrtc.expand(stem)
    assert old in source
    return source.replace(old, new)


@cache
def loop(entry: str, source: str = "") -> list[str]:
    """Return the loop of a rule over 16 bytes of each array, its shortest way: no subnormal roots, no scale."""
    return compiled(source or nvrtc.expand(entry.partition("_")[0]), entry).loops("LDG.E.128")[0]


@pytest.mark.kernels
def test_adam_in_bfloat16_has_room_for_its_memory() -> None:
    """Per number: 4.3 TB/s leave some 95 instructions on 132 multiprocessors at 1.755 GHz."""
    assert len(loop("adam_bfloat16")) / 8 <= 72
    assert len(loop("adam_float16")) / 8 <= 72
    assert len(loop("adam_float32")) / 4 <= 70


@pytest.mark.kernels
@pytest.mark.parametrize("entry", ["adam_bfloat16", "adam_float16", "nadam_bfloat16", "radam_float16"])
def test_no_load_waits_for_another(entry: str) -> None:
    assert ONE_STAGE.fullmatch(stages(loop(entry)))


@pytest.mark.kernels
def test_products_are_mostly_products() -> None:
    """Of 8 x 8 entries a thread: little beside a product and a sum each, and 4 loads of 16 bytes for 64 of them."""
    way = compiled(nvrtc.expand("muon"), "muon_product_float32").loops("LDS.128")[-1]
    products = count(way, "FMUL")
    assert products == count(way, "FADD") == 8 * 64
    assert count(way, "LDS") == products / 16
    assert len(way) <= 2.5 * products
    assert not count(way, "LDL") + count(way, "STL")


LOAD = (
    "Raw<sizeof(Vector<S, V>)> words{};",
    "if (!x)\n        return {};\n    return *((const Vector<S, V>*)x + i);\n    Raw<sizeof(Vector<S, V>)> words{};",
)


def test_loads_that_wait_are_seen() -> None:
    source = changed("adam", *LOAD)
    assert stages(loop("adam_bfloat16", source)).count("W") > 1
    binary = nvrtc.compile(source, "sm_90", flags=(*nvrtc.FLAGS, *nvrtc.only("adam_bfloat16")))
    (complaint,) = complaints("adam", binary, [x for x in entries(source) if x.name == "adam_bfloat16"])
    assert complaint.startswith("adam_bfloat16: a load waits for another")


def test_rounding_by_integers_is_seen() -> None:
    source = changed("adam", "#if __CUDA_ARCH__ >= 800", "#if __CUDA_ARCH__ >= 8000")
    assert len(loop("adam_bfloat16", source)) / 8 > 85


@pytest.mark.kernels
def test_scalar_loads_of_a_product_are_seen() -> None:
    source = changed(
        "muon",
        "template <class N> constexpr int TOGETHER = 16 / sizeof(N);",
        "template <class N> constexpr int TOGETHER = 1;",
    )
    way = compiled(source, "muon_product_float32").loops("LDS")[-1]
    assert count(way, "LDS") > count(way, "FMUL") / 16
