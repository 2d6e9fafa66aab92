"""Binaries for GPUs, on the stand-in of helpers/fake_cupy: how they are compiled and cached, and what is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import refoptim
from helpers.on_gpu import off, on
from helpers.rooms import assert_equal_bits, make, members, normal
from refoptim.engines import cuda, host, nvrtc


def step_once(cupy: Any, name: str = "SGD") -> None:
    """Take a step as a new process would."""
    cuda.machine.cache_clear()
    optimizer = make(name, [on(cupy, normal(1, 4))])
    optimizer.step(grads=[on(cupy, normal(2, 4))])


def binaries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").iterdir())


def test_a_binary_is_compiled_once(idle: Any, compiled: list[str], tmp_path: Path) -> None:
    step_once(idle)
    (path,) = binaries(tmp_path)
    assert path.name.startswith("sgd_float32-sm_90-")
    step_once(idle)
    assert compiled == ["sm_90"]
    assert binaries(tmp_path) == [path]


def test_only_what_is_used_is_compiled(
    idle: Any, compiled: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A kernel for each entry, each with a line that says so."""
    caplog.set_level("INFO", "refoptim")
    cuda.machine.cache_clear()
    x = on(idle, normal(1, 4, 3))
    make("Adafactor", [x]).step(grads=[on(idle, normal(2, 4, 3))])
    launched = set(idle.world.counters.launches)
    assert {path.name.partition("-")[0] for path in binaries(tmp_path)} == launched
    assert {record.message for record in caplog.records} == {f"compiling {name} for sm_90" for name in launched}
    assert len(compiled) == len(launched) < 10


CHANGES: dict[str, Callable[[pytest.MonkeyPatch, Any], None]] = {
    "source": lambda patch, gpu: patch.setattr(nvrtc, "expand", lambda stem, f=nvrtc.expand: f(stem) + "// changed"),
    "flags": lambda patch, gpu: patch.setattr(nvrtc, "FLAGS", (*nvrtc.FLAGS, "--lineinfo")),
    "version": lambda patch, gpu: patch.setattr(nvrtc, "version", lambda major: (13, 6)),
    "architecture": lambda patch, gpu: patch.setattr(gpu.world, "capability", "86"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_a_binary_is_made_of_tells_it_from_others(
    idle: Any, compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    step_once(idle)
    CHANGES[what](monkeypatch, idle)
    step_once(idle)
    assert len(compiled) == 2
    assert len(binaries(tmp_path)) == 2


@pytest.mark.parametrize("damage", [b"", b"\x7fELF and so on", None])
def test_a_damaged_binary_is_compiled_again(
    idle: Any, compiled: list[str], tmp_path: Path, damage: bytes | None
) -> None:
    """One that is cut off, another's, or still looks right but for its last byte."""
    step_once(idle)
    (path,) = binaries(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"!" if damage is None else damage)
    step_once(idle)
    assert len(compiled) == 2
    assert path.read_bytes() == whole
    assert binaries(tmp_path) == [path]


def test_a_binary_is_written_whole_or_not_at_all(
    idle: Any, compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        step_once(idle)
    assert binaries(tmp_path) == []


@pytest.mark.parametrize("obstacle", ["a file", "no home"])
def test_without_a_folder_binaries_are_compiled_each_time(
    idle: Any, compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, obstacle: str
) -> None:
    if obstacle == "a file":
        (tmp_path / "cache").write_text("in the way")
    else:
        for name in ("REFOPTIM_CACHE_DIR", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(Path, "home", lambda: _fail(RuntimeError("Could not determine home directory.")))
    step_once(idle)
    step_once(idle)
    assert len(compiled) == 2


def _fail(error: Exception) -> Any:
    raise error


def test_the_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("REFOPTIM_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cuda.folder() == tmp_path / "own"
    monkeypatch.delenv("REFOPTIM_CACHE_DIR")
    assert cuda.folder() == tmp_path / "caches" / "refoptim"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cuda.folder() == tmp_path / "home" / ".cache" / "refoptim"


def test_nvrtc_makes_binaries_that_are_cached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fake_cupy: Any) -> None:
    """The compiler itself, where it is installed; no GPU is needed for that."""
    try:
        major, _ = nvrtc.version()
    except RuntimeError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("REFOPTIM_CACHE_DIR", str(tmp_path))
    path = cuda.binary("sgd", "sgd_float16", "sm_90", major)
    assert path.parent == tmp_path
    assert path.read_bytes().startswith(b"\x7fELF")
    monkeypatch.setattr(nvrtc, "compile", lambda *_, **__: _fail(AssertionError("compiled again")))
    assert cuda.binary("sgd", "sgd_float16", "sm_90", major) == path


TARGETS = [(75, "sm_75"), (86, "sm_86"), (87, "sm_86"), (90, "sm_90"), (101, "sm_100"), (121, "sm_121")]
TARGETS += [(122, "sm_121"), (130, "compute_121")]


@pytest.mark.parametrize(("capability", "arch"), TARGETS)
def test_the_nearest_architecture_is_compiled_for(compiled: list[str], capability: int, arch: str) -> None:
    """A binary runs on GPUs of the same major version that are not older; others need PTX."""
    assert cuda.target(capability, 13) == arch


# --------------------------------------------------------------------------------------------------- errors


def test_an_old_gpu_is_told(idle: Any) -> None:
    idle.world.capability = "70"
    try:
        with pytest.raises(
            RuntimeError, match=r"NVRTC 13\.5 does not compile for .* capability 7\.0, only from 7\.5 on"
        ):
            step_once(idle)
    finally:
        idle.world.capability = "90"


LACKING: dict[str, tuple[dict[str, Any], str]] = {
    "driver": ({"driver": False}, "there is no driver for NVIDIA's GPUs, or one too old for CUDA 13: install a driver"),
    "device": ({"devices": 0}, "there is no GPU of NVIDIA's: look at nvidia-smi, and at CUDA_VISIBLE_DEVICES"),
    "number": ({"devices": 1}, "there is no GPU cuda:1, only 1"),
    "ROCm": ({"is_hip": True}, "the kernels are for CUDA, and this CuPy is for ROCm: choose fused=False"),
}


@pytest.mark.parametrize("what", LACKING)
def test_what_is_missing_is_told(fake_cupy: Any, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    settings, message = LACKING[what]
    for name, value in settings.items():
        monkeypatch.setattr(fake_cupy.world, name, value)
    with pytest.raises(RuntimeError) as raised:
        cuda.machine(1)
    assert str(raised.value).startswith(message)
    assert cuda.missing(1).startswith(message)


def test_cupy_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    cuda.machine.cache_clear()
    assert cuda.missing().startswith("kernels on a GPU need CuPy: pip install 'cupy-cuda13x[ctk]>=14'")


def test_nothing_is_missing(idle: Any) -> None:
    assert cuda.missing() == ""


def test_without_a_compiler_nothing_has_changed(idle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two buckets is not updated either."""
    monkeypatch.setattr(nvrtc, "compile", lambda *_, **__: _fail(RuntimeError("NVRTC was not found: pip install it")))
    start = [normal(1, 3), normal(2, 3, dtype="float64")]
    ours = make("Adam", [start[0].copy(), on(idle, start[1])])
    with pytest.raises(RuntimeError, match="NVRTC was not found: pip install it"):
        ours.step(grads=[normal(3, 3), on(idle, normal(4, 3, dtype="float64"))])
    for p, x in zip(members(ours), start, strict=True):
        assert_equal_bits(off(p.data), x)
    assert not ours.state


def test_a_binary_that_the_driver_does_not_load_is_told(idle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "compile", lambda *_, **__: b"of a newer version")
    x = on(idle, normal(1, 4))
    optimizer = make("SGD", [x])
    before = off(x)
    message = (
        r"the driver does not load sgd_float32-sm_90-\w+-\w+, which NVRTC 13\.5 has compiled: "
        r"update the driver, or .*<13\.5'"
    )
    with pytest.raises(RuntimeError, match=message):
        optimizer.step(grads=[on(idle, normal(2, 4))])
    assert_equal_bits(off(x), before)
    assert not optimizer.state


def test_fused_is_checked_where_the_parameters_are(idle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's kernels are not asked for CuPy arrays, nor those of a GPU for NumPy's."""
    monkeypatch.setattr(host, "machine", lambda: _fail(RuntimeError("not built")))
    assert members(refoptim.Adam([on(idle, normal(1, 3), 1)], lr=0.1, fused=True))
    with pytest.raises(RuntimeError, match="not built"):
        refoptim.Adam([on(idle, normal(1, 3), 1), normal(2, 3)], lr=0.1, fused=True)


def test_a_process_keeps_nothing_beside_the_cache(idle: Any, tmp_path: Path) -> None:
    step_once(idle)
    assert {path.name.partition("-")[0] for path in binaries(tmp_path)} == {"sgd_float32"}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in binaries(tmp_path))
