"""Mistakes put into kernels are seen: each kind that the machine is there for, by the fault that names it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")

from helpers.work import Piece, chunks, dense, piece, summed
from ptx import BarrierFault, Fault, MemoryFault, NotKnown, Race, Uninitialized
from ptx.machine import Machine
from refoptim.engines import nvrtc

try:
    KNOWN = nvrtc.architectures()
except RuntimeError as error:
    pytest.skip(str(error), allow_module_level=True)

pytestmark = pytest.mark.ptx

SGD, ADAGRAD, SUMS = (
    piece(dense, "SGD", "float32"),
    piece(dense, "Adagrad", "float32"),
    piece(summed, "float32", "sums"),
)

LOOP = "i < end; i += blockDim.x)\n        update_vector"

HALVES = "__syncthreads();\n    for (int half = places / 2; half; half /= 2)"

BY_VALUE = "    Record s = b.record ? *(const Record*)b.record : by_value;"


class Mistake(NamedTuple):
    """A text of the sources, and what is put in its place, or an option of the compiler; what must be raised when a
    piece of work is done."""

    old: str
    new: str
    fault: type[Exception]
    work: Piece
    arch: str = "compute_90"


MISTAKES = {
    "a product contracted with a sum": Mistake("", "--fmad=true", NotKnown, SGD),
    "a flush to zero": Mistake("", "--ftz=true", NotKnown, SGD),
    "an approximate quotient": Mistake("", "--prec-div=false", NotKnown, ADAGRAD),
    "an approximate root": Mistake("return __fsqrt_rn(x);", "return 1 / __frsqrt_rn(x);", NotKnown, ADAGRAD),
    "a contraction by hand": Mistake("return x + c * y;", "return __fmaf_rn(c, y, x);", NotKnown, SGD),
    "an atomic addition": Mistake("s.sums[first + i] = add", "atomicAdd(&s.sums[first + i], 1), add", NotKnown, SUMS),
    "another association": Mistake("x + (c * y) / z;", "x + c * (y / z);", AssertionError, ADAGRAD),
    "another order of a sum": Mistake(
        "even = fold<WHOLE, J / 2>(f, line, k, 2 * apart)",
        "even = fold<WHOLE, J / 2>(f, line, k + apart, 2 * apart)",
        AssertionError,
        SUMS,
    ),
    "a wrong rounding to bfloat16": Mistake(
        "(bits >> 16) & 1)) >> 16",
        "(bits >> 15) & 1)) >> 16",
        AssertionError,
        piece(dense, "SGD", "bfloat16"),
        "compute_75",
    ),
    "no rounding to nearest": Mistake("cvt.rn.f16.f32", "cvt.rz.f16.f32", NotKnown, piece(dense, "SGD", "float16")),
    "a NaN that a maximum drops": Mistake(
        "where((x >= y) | (x != x), x, spread<X>(y))",
        "where(x >= y, x, spread<X>(y))",
        AssertionError,
        piece(dense, "Adamax", "float32", weight_decay=0.0),
    ),
    "an element too many": Mistake(LOOP, LOOP.replace("<", "<="), MemoryFault, SGD),
    "an element too few": Mistake(LOOP, LOOP.replace("blockDim.x", "blockDim.x + 1"), AssertionError, piece(chunks)),
    "an alignment that nobody looks at": Mistake(
        "chunk.aligned() ? chunk.size / V : 0", "chunk.size / V", MemoryFault, SGD
    ),
    "two threads on one element": Mistake(
        f"begin + threadIdx.x; {LOOP}", f"begin + threadIdx.x / 2; {LOOP}", Race, SGD
    ),
    "a rest that is updated twice": Mistake("chunk, vectors * V,", "chunk, 0,", Race, SGD),
    "blocks that leave chunks out": Mistake("c += gridDim.x)", "c += 2 * gridDim.x)", AssertionError, piece(chunks)),
    "blocks that share chunks": Mistake("c = blockIdx.x; c <", "c = blockIdx.x / 2; c <", Race, SGD),
    "no barrier": Mistake(HALVES, HALVES.removeprefix("__syncthreads();\n"), Race, SUMS),
    "a barrier that not all reach": Mistake(HALVES, f"if (threadIdx.x < 7) {HALVES}", BarrierFault, SUMS),
    "shared memory that nobody wrote": Mistake(
        HALVES, f"if (threadIdx.x == 0) s.sums[0] = left[places * count];\n{HALVES}", Uninitialized, SUMS
    ),
    "a table that is written": Mistake(BY_VALUE, f"{BY_VALUE} *(i64*)b.tables = threadIdx.x;", MemoryFault, SGD),
    "an argument of another size": Mistake(
        "const float* found_inf;\n};", "const float* found_inf;\n i64 more;\n};", Fault, SGD
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_seen(ptx_folder: Path, name: str) -> None:
    old, new, fault, work, arch = MISTAKES[name]
    if int(arch.removeprefix("compute_")) not in KNOWN:
        pytest.skip(f"this NVRTC has no {arch}")
    machine = Machine(arch, ptx_folder, flags=() if old else (new,))
    changed = []

    def change(source: str) -> str:
        changed.append(source.replace(old, new) != source)
        return source.replace(old, new)

    machine.change = change if old else str
    if "leave chunks" in name:
        machine.blocks = 2
    with machine.in_place(), pytest.raises(fault) as found:
        work.do()
    assert found.type is fault
    assert all(changed)


@pytest.mark.parametrize("work", [SGD, ADAGRAD, SUMS], ids=lambda work: work.name)
def test_without_a_mistake_nothing_is_raised(ptx_folder: Path, work: Piece) -> None:
    with Machine("compute_90", ptx_folder).in_place(), np.errstate(all="ignore"):
        work.do()
