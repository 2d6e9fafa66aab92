"""PTX of kernels by NVRTC, kept in a folder by the hash of all that it depends on."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

from refoptim.engines import nvrtc

from .module import Module


@cache
def module(source: str, arch: str, folder: Path, flags: tuple[str, ...] = ()) -> Module:
    """Compile expanded CUDA source for an architecture, such as ``compute_90``, with more flags than the engine's."""
    key = hashlib.sha256(repr((source, arch, nvrtc.FLAGS, flags, nvrtc.version())).encode()).hexdigest()[:32]
    kept = folder / f"{arch}-{key}.ptx"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        code = nvrtc.compile(source, arch, flags=(*nvrtc.FLAGS, *flags))
        written = kept.with_suffix(f".{os.getpid()}")
        written.write_bytes(code.rstrip(b"\0"))
        written.replace(kept)
    return Module(kept.read_text())
