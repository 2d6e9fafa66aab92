"""The machine itself: memory, threads that part and meet, calls, barriers, and what it finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ptx import BarrierFault, Fault, MemoryFault, Module, NotKnown, Race, Uninitialized, threads
from ptx.snippets import HEAD, REGISTERS, kernel, own

pytestmark = pytest.mark.ptx


def unaligned(n: int, dtype: str = "f4", by: int = 1) -> Any:
    """Return zeros that begin ``by`` numbers after 16 bytes."""
    whole = np.zeros(n + 32, dtype)
    start = -whole.ctypes.data % 16 // whole.itemsize + by
    return whole[start : start + n]


# ------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(("type_", "dtype"), [("u8", "u1"), ("u16", "u2"), ("u32", "u4"), ("u64", "u8"), ("f64", "f8")])
def test_numbers_of_every_size_are_copied(type_: str, dtype: str) -> None:
    x = np.arange(100).astype(dtype)
    y, size, register = np.zeros_like(x), x.itemsize, {1: "h", 2: "h", 4: "r", 8: "d"}[x.itemsize]
    body = (
        own(size) + f"ld.global.{type_} %{register}1, [%a8];" + own(size, 1) + f"st.global.{type_} [%a8], %{register}1;"
    )
    kernel(body, 2).launch("test", 1, 100, x, y)
    np.testing.assert_array_equal(x, y)


def test_vectors_and_offsets() -> None:
    x, y = np.arange(16, dtype=np.uint32), np.zeros(4, np.uint32)
    x, y = unaligned(16, "u4", 0), unaligned(4, "u4", 0)
    x[:] = range(16)
    body = (
        "add.s64 %a2, %a0, 32; ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%a2+-16]; ld.global.v2.u32 {%r5, _}, [%a2+8];\n"
    )
    kernel(body + "st.global.v4.u32 [%a1], {%r1, %r4, %r5, %r2};", 2).launch("test", 1, 1, x, y)
    assert y.tolist() == [4, 7, 10, 5]


def test_a_loaded_number_is_extended_to_its_register() -> None:
    x, y = np.array([0xFE, 1], np.uint8), unaligned(4, "u4", 0)
    body = "ld.global.s8 %r1, [%a0]; ld.global.u8 %r2, [%a0]; ld.global.s8 %r3, [%a0+1]; mov.u32 %r4, 5;\n"
    kernel(body + "st.global.v4.u32 [%a1], {%r1, %r2, %r3, %r4};", 2).launch("test", 1, 1, x, y)
    assert y.tolist() == [0xFFFFFFFE, 0xFE, 1, 5]


def test_addresses_of_every_space() -> None:
    """Numbers go through shared and local memory, by generic addresses too."""
    x = np.arange(64, dtype=np.uint32)
    before = ".shared .align 4 .b8 box[256]; .local .align 4 .b8 own[8];\n"
    body = before + own(4) + "ld.u32 %r1, [%a8]; mul.lo.u32 %r2, %r8, 4;\n"
    body += "mov.u64 %d1, own; cvta.local.u64 %d2, %d1; st.u32 [%d2+4], %r1; ld.local.u32 %r3, [own+4];\n"
    body += "mov.u32 %r4, box; add.u32 %r5, %r4, %r2; st.shared.u32 [%r5], %r3; bar.sync 0;\n"
    body += "xor.b32 %r5, %r5, 4; cvt.u64.u32 %d3, %r5; cvta.shared.u64 %d4, %d3; ld.u32 %r6, [%d4];\n"
    kernel(body + "st.global.u32 [%a8], %r6;").launch("test", 1, 64, x)
    assert x.tolist() == [i ^ 1 for i in range(64)]


def test_structures_are_passed_by_value() -> None:
    text = HEAD + ".visible .entry test(.param .align 8 .b8 s[24], .param .u64 out) {\n" + REGISTERS
    text += "ld.param.u64 %a0, [out]; ld.param.f64 %d1, [s+8]; ld.param.u32 %r1, [s]; cvt.rn.f64.u32 %d2, %r1;\n"
    module = Module(text + "add.rn.f64 %d1, %d1, %d2; st.global.f64 [%a0], %d1; ret; }")
    struct, out = np.dtype([("a", "u4"), ("x", "f8"), ("y", "f8")], align=True), np.zeros(1)
    module.launch("test", 1, 1, np.array((7, 0.5, 9.0), struct)[()], out)
    assert out.tolist() == [7.5]
    with pytest.raises(Fault, match=r"test takes arguments of \[24, 8\] bytes, got \[8, 8\]"):
        module.launch("test", 1, 1, np.float64(1), out)
    with pytest.raises(Fault, match="takes arguments of"):
        module.launch("test", 1, 1, np.zeros(1, struct)[0])


@pytest.mark.parametrize("offset", [-4, 16, 1 << 40])
@pytest.mark.parametrize("access", ["ld.global.f32 %r1, [%a0{}]", "st.global.f32 [%a0{}], 0f00000000"])
def test_accesses_outside_of_arrays_are_found(access: str, offset: int) -> None:
    with pytest.raises(MemoryFault, match=r"test: .*are in no array"):
        kernel(access.format(f"+{offset}") + ";").launch("test", 1, 1, np.zeros(4, np.float32))


def test_an_access_across_the_end_is_found() -> None:
    x = unaligned(9, "f4", 0)
    kernel("ld.global.v4.f32 {%r1, %r2, %r3, %r4}, [%a0+16];").launch("test", 1, 1, x)
    with pytest.raises(MemoryFault, match=r"in no array \(-4 after the end of one\)"):
        kernel("ld.global.v4.f32 {%r1, %r2, %r3, %r4}, [%a0+32];").launch("test", 1, 1, x)


def test_a_null_pointer_is_found() -> None:
    with pytest.raises(MemoryFault, match="before all of them"):
        kernel("ld.global.f32 %r1, [%a0];", 2).launch("test", 1, 1, None, np.zeros(3))


def test_arrays_that_only_tables_name() -> None:
    x, table = np.ones(3), np.zeros(1, np.uint64)
    table[0] = x.ctypes.data
    module = kernel("ld.global.u64 %a1, [%a0]; st.global.u64 [%a1+16], 0;")
    with pytest.raises(MemoryFault):
        module.launch("test", 1, 1, table)
    module.launch("test", 1, 1, table, memory=[x])
    assert x.tolist() == [1, 1, 0]


def test_a_view_may_be_touched_where_it_is() -> None:
    x = np.zeros(8, np.float32)
    kernel("st.global.f32 [%a0+8], 0f3F800000;").launch("test", 1, 1, x[2:5])
    assert x.tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    with pytest.raises(MemoryFault):
        kernel("st.global.f32 [%a0+12], 0f3F800000;").launch("test", 1, 1, x[2:5])


def test_what_is_not_to_be_written_is_not() -> None:
    x = np.zeros(2, np.float32)
    x.flags.writeable = False
    kernel("ld.global.f32 %r1, [%a0];").launch("test", 1, 1, x)
    with pytest.raises(MemoryFault, match="not to be written"):
        kernel("st.global.f32 [%a0], 0f3F800000;").launch("test", 1, 1, x)


@pytest.mark.parametrize(
    ("access", "by"),
    [
        ("ld.global.v4.f32 {%r1, %r2, %r3, %r4}, [%a0]", 1),
        ("st.global.v2.f32 [%a0], {%r1, %r2}", 1),
        ("ld.global.f64 %d1, [%a0]", 1),
        ("ld.global.f32 %r1, [%a0+2]", 0),
        ("st.global.u16 [%a0+1], %h1", 0),
    ],
)
def test_accesses_that_are_not_aligned_are_found(access: str, by: int) -> None:
    with pytest.raises(MemoryFault, match="not aligned to"):
        kernel(access + ";").launch("test", 1, 1, unaligned(8, "f4", by))


def test_accesses_beyond_shared_and_local_memory_are_found() -> None:
    for space in ("shared", "local"):
        with pytest.raises(MemoryFault, match="beyond"):
            kernel(f".{space} .align 4 .b8 box[8]; st.{space}.u32 [box+8], 1;").launch("test", 1, 1, np.zeros(1))


@pytest.mark.parametrize("space", ["shared", "local"])
def test_memory_that_nobody_wrote_is_found(space: str) -> None:
    """A byte of it too."""
    body = f".{space} .align 8 .b8 box[16]; st.{space}.u32 [box], 1; st.{space}.u16 [box+4], 1;\n"
    kernel(body + f"ld.{space}.u32 %r1, [box]; ld.{space}.u16 %h1, [box+4];").launch("test", 1, 1, np.zeros(1))
    with pytest.raises(Uninitialized):
        kernel(body + f"ld.{space}.u32 %r1, [box+4];").launch("test", 1, 1, np.zeros(1))


def test_registers_begin_as_garbage() -> None:
    x = np.zeros(2, np.uint32)
    kernel("st.global.u32 [%a0], %r1;").launch("test", 1, 1, x)
    assert x.tolist() == [0xA5A5A5A5, 0]


# ------------------------------------------------------------------------------------------------------ threads


def test_every_thread_knows_which_it_is() -> None:
    x = np.zeros((5, 96, 4), np.uint32)
    body = "mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %nctaid.x;\n"
    body += "mad.lo.u32 %r5, %r2, %r3, %r1; mul.wide.u32 %d1, %r5, 16; add.s64 %d1, %d1, %a0;\n"
    body += "mov.u32 %r6, %tid.y; mov.u32 %r7, %ntid.z; add.u32 %r3, %r3, %r6; mul.lo.u32 %r4, %r4, %r7;\n"
    kernel(body + "st.global.v4.u32 [%d1], {%r1, %r2, %r3, %r4};").launch("test", 5, 96, x)
    assert x.reshape(-1, 4).tolist() == [[t, b, 96, 5] for b in range(5) for t in range(96)]


def test_threads_part_and_meet_again() -> None:
    """Thread t goes t times through a loop; odd ones add, even ones subtract; all go on together."""
    x = np.zeros(100, np.int32)
    body = own(4) + "mov.u32 %r1, 0; mov.u32 %r2, 0; and.b32 %r3, %r8, 1; setp.eq.s32 %p1, %r3, 1;\n"
    body += "$LOOP: setp.ge.u32 %p2, %r2, %r8; @%p2 bra $OUT; @%p1 bra $ODD; sub.s32 %r1, %r1, %r2; bra.uni $NEXT;\n"
    body += "$ODD: add.s32 %r1, %r1, %r2;\n$NEXT: add.s32 %r2, %r2, 1; bra.uni $LOOP;\n"
    kernel(body + "$OUT: @!%p1 add.s32 %r1, %r1, 1000; st.global.u32 [%a8], %r1;").launch("test", 1, 100, x)
    assert x.tolist() == [sum(range(t)) if t % 2 else 1000 - sum(range(t)) for t in range(100)]


def test_threads_that_meet_go_on_together() -> None:
    """What follows the place where they meet is executed once for all."""
    module = kernel(
        own(4) + "setp.lt.u32 %p1, %r8, 3; @%p1 bra $A; add.s32 %r1, %r1, 1;\n$A: " + 20 * "add.s32 %r1, %r1, 1;"
    )
    module.launch("test", 1, 8, np.zeros(8))
    assert module.steps == 6 + 2 + 21


def test_threads_end_at_different_places() -> None:
    x = np.zeros(8, np.int32)
    body = own(4) + "setp.lt.u32 %p1, %r8, 3; @%p1 ret; setp.lt.u32 %p1, %r8, 5; @%p1 exit; st.global.u32 [%a8], 1;"
    kernel(body).launch("test", 1, 8, x)
    assert x.tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


TWICE = """
.func (.param .align 8 .b8 two[16]) twice(.param .b32 x, .param .b64 y) {
    .reg .b32 %r<3>; .reg .b64 %d<3>;
    ld.param.b32 %r1, [x]; ld.param.b64 %d1, [y]; add.u32 %r2, %r1, %r1; add.u64 %d2, %d1, %d1;
    st.param.b32 [two+0], %r2; st.param.b64 [two+8], %d2; ret;
}
"""

CALL = """
{ .param .b32 param0; st.param.b32 [param0+0], %r8; .param .b64 param1; st.param.b64 [param1+0], %d1;
  .param .align 8 .b8 retval0[16]; call.uni (retval0), twice, (param0, param1);
  ld.param.b32 %r1, [retval0+0]; ld.param.b64 %d1, [retval0+8]; }
"""


def test_functions_are_called() -> None:
    """Some threads call it twice, others once; those meet again."""
    x = np.zeros((50, 2), np.uint64)
    body = own(16) + f"mov.u64 %d1, 3;{CALL}setp.lt.u32 %p1, %r8, 20; @%p1 bra $END;{CALL}$END: cvt.u64.u32 %d2, %r1;"
    kernel(body + "st.global.v2.u64 [%a8], {%d2, %d1};", before=TWICE).launch("test", 1, 50, x)
    assert x.tolist() == [[2 * t, 6 if t < 20 else 12] for t in range(50)]


def test_functions_call_functions() -> None:
    outer = TWICE.replace("twice", "outer").replace(
        "add.u32 %r2, %r1, %r1; add.u64 %d2, %d1, %d1;",
        """
    { .param .b32 param0; st.param.b32 [param0+0], %r1; .param .b64 param1; st.param.b64 [param1+0], %d1;
      .param .align 8 .b8 retval0[16]; call.uni (retval0), twice, (param0, param1);
      ld.param.b32 %r2, [retval0+0]; ld.param.b64 %d2, [retval0+8]; }
    add.u32 %r2, %r2, %r1;""",
    )
    x = np.zeros((9, 2), np.uint64)
    body = own(16) + "mov.u64 %d1, 5;" + CALL.replace("twice", "outer") + "cvt.u64.u32 %d2, %r1;"
    kernel(body + "st.global.v2.u64 [%a8], {%d2, %d1};", before=TWICE + outer).launch("test", 1, 9, x)
    assert x.tolist() == [[3 * t, 10] for t in range(9)]


def test_parameters_that_nobody_gave_are_found() -> None:
    body = own(16) + CALL.replace("st.param.b64 [param1+0], %d1;", "")
    with pytest.raises(Uninitialized, match=r"twice: ld\.param"):
        kernel(body, before=TWICE).launch("test", 1, 1, np.zeros(2))


def test_a_function_that_calls_itself_is_refused() -> None:
    forever = ".func forever() { call.uni forever; ret; }"
    with pytest.raises(NotKnown, match="calls itself"):
        kernel("call.uni forever;", before=forever).launch("test", 1, 1, np.zeros(1))


@pytest.mark.parametrize(("grid", "block"), [(0, 1), (1, 0), (1, 33), (1 << 31, 1)])
def test_launches_that_cuda_refuses(grid: int, block: int) -> None:
    with pytest.raises(Fault, match="is not launched on"):
        kernel("", threads=32).launch("test", grid, block, np.zeros(1))
    with pytest.raises(Fault, match="nothing is no kernel"):
        kernel("").launch("nothing", 1, 1, np.zeros(1))


def test_a_kernel_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MOST", 1000)
    with pytest.raises(Fault, match="test has not ended after 1001 steps"):
        kernel("$LOOP: bra.uni $LOOP;").launch("test", 1, 1, np.zeros(1))


# ------------------------------------------------------------------------------------------- barriers and races

NEIGHBOUR = """
.shared .align 4 .b8 box[256];
mov.u32 %r1, box; shl.b32 %r2, %r8, 2; add.u32 %r3, %r1, %r2; st.shared.u32 [%r3], %r8; {}
xor.b32 %r4, %r3, 4; ld.shared.u32 %r5, [%r4]; st.global.u32 [%a8], %r5;
"""
"""Each thread reads what the next one has written."""


def test_a_barrier_orders_reads_after_writes() -> None:
    x = np.zeros(64, np.uint32)
    kernel(own(4) + NEIGHBOUR.format("bar.sync 0;")).launch("test", 1, 64, x)
    assert x.tolist() == [t ^ 1 for t in range(64)]
    with pytest.raises(Race, match=r"shared memory: thread \d+ writes .* what thread \d+ reads"):
        kernel(own(4) + NEIGHBOUR.format("")).launch("test", 1, 64, x)


def test_a_write_after_a_read_needs_a_barrier_too() -> None:
    again = NEIGHBOUR.format("bar.sync 0;") + "{} st.shared.u32 [%r3], 7;"
    kernel(own(4) + again.replace("{}", "bar.sync 0;")).launch("test", 1, 64, np.zeros(64, np.uint32))
    with pytest.raises(Race):
        kernel(own(4) + again.replace("{}", "")).launch("test", 1, 64, np.zeros(64, np.uint32))


def test_two_threads_that_write_the_same_number_race() -> None:
    """Even if it is the same value; and so do a large and a small write that overlap."""
    x = np.zeros(4, np.uint32)
    with pytest.raises(Race, match=r"device memory: .* writes .* writes"):
        kernel("st.global.u32 [%a0], 1;").launch("test", 1, 2, x)
    kernel("st.global.u32 [%a0], 1; st.global.u32 [%a0], 2;").launch("test", 1, 1, x)
    overlap = (
        "mov.u32 %r1, %tid.x; setp.eq.s32 %p1, %r1, 0; @%p1 st.global.u64 [%a0], 0; @!%p1 st.global.u16 [%a0+6], %h1;"
    )
    with pytest.raises(Race):
        kernel(overlap).launch("test", 1, 2, x)


def test_all_threads_may_read_the_same() -> None:
    kernel("ld.global.u32 %r1, [%a0];").launch("test", 20, 64, np.zeros(1, np.uint32))


PASS_ON = """
mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mad.lo.u32 %r3, %r1, %r2, %r8;
mul.wide.u32 %d1, %r3, 4; add.s64 %d2, %a0, %d1;
st.global.u32 [%d2], %r3; bar.sync 0; xor.b64 %d3, %d1, {}; add.s64 %d3, %d3, %a0; ld.global.u32 %r4, [%d3];
"""
"""Threads read what others have written to device memory before a barrier: those of their block, or of another."""


def test_a_barrier_orders_device_memory_in_a_block_only() -> None:
    x = np.zeros(128, np.uint32)
    kernel(own(4) + PASS_ON.format(4)).launch("test", 2, 64, x)
    with pytest.raises(Race, match="device memory"):
        kernel(own(4) + PASS_ON.format(256)).launch("test", 2, 64, x)


def test_blocks_race_although_they_do_not_run_at_once() -> None:
    body = "mov.u32 %r1, %ctaid.x; mov.u32 %r2, %tid.x; or.b32 %r3, %r1, %r2; setp.eq.s32 %p1, %r2, 0;\n"
    with pytest.raises(Race):
        kernel(body + "@%p1 st.global.u32 [%a0], %r1;").launch("test", 100, 256, np.zeros(1, np.uint32))


def test_barriers_that_not_all_threads_reach_are_found() -> None:
    body = own(4) + "setp.lt.u32 %p1, %r8, 7;"
    x = np.zeros(32, np.uint32)
    with pytest.raises(BarrierFault, match="end while others"):
        kernel(body + "@%p1 ret; bar.sync 0;").launch("test", 1, 32, x)
    with pytest.raises(BarrierFault, match="end while others"):
        kernel(body + "@%p1 bar.sync 0;").launch("test", 2, 32, x)
    with pytest.raises(BarrierFault, match="different barriers"):
        kernel(body + "@%p1 bra $HERE; bar.sync 0; bra.uni $END; $HERE: bar.sync 0; $END:").launch("test", 1, 32, x)


def test_blocks_reach_barriers_by_themselves() -> None:
    """A block goes twice through a loop with a barrier, the other three times."""
    body = "mov.u32 %r1, %ctaid.x; add.u32 %r1, %r1, 2; mov.u32 %r2, 0;\n$LOOP: bar.sync 0; add.u32 %r2, %r2, 1;\n"
    kernel(body + "setp.lt.u32 %p1, %r2, %r1; @%p1 bra $LOOP;").launch("test", 2, 32, np.zeros(1))


def test_addresses_of_32_bits_are_refused() -> None:
    with pytest.raises(NotKnown, match="64 bits"):
        Module(HEAD.replace("64\n", "32\n"))


def test_pointers_that_say_what_they_point_to() -> None:
    """Compilers for newer architectures write that down."""
    x = np.zeros(2, np.uint32)
    text = (
        HEAD + ".visible .entry test(.param .u64 .ptr .global .align 4 x, .param .u64 .ptr .align 1 y) {\n" + REGISTERS
    )
    module = Module(text + "ld.param.u64 %a0, [x]; ld.param.u64 %a1, [y]; st.global.u32 [%a0+4], 7; ret; }")
    module.launch("test", 1, 1, x, None)
    assert x.tolist() == [0, 7]
