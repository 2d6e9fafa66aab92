"""What stands for ``cupy.cuda.runtime``."""

from __future__ import annotations

from typing import Any

from .._gpu import CUDARuntimeError, check_device, world

__all__ = ["CUDARuntimeError", "getDeviceCount", "getDeviceProperties", "runtimeGetVersion"]

streamCaptureModeGlobal, streamCaptureModeThreadLocal, streamCaptureModeRelaxed = 0, 1, 2


def __getattr__(name: str) -> bool:
    if name == "is_hip":
        return world.is_hip
    raise AttributeError(name)


def getDeviceProperties(device: int) -> dict[str, Any]:
    return {"name": b"a stand-in", "multiProcessorCount": 132}


def getDeviceCount() -> int:
    check_device(world.current)
    return world.devices


def runtimeGetVersion() -> int:
    return world.version
