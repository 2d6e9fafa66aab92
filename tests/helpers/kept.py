"""Nested data in a form that is equal to another only if types, order, shapes, and all bits are."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np


def kept(x: Any) -> Any:
    """Return plain data and arrays as what tells them apart from all others; a dict of any type is a dict."""
    if isinstance(x, (np.ndarray, np.generic)):
        x, scalar = np.asarray(x), isinstance(x, np.generic)
        native = x.astype(x.dtype.newbyteorder("="), copy=False)
        return ["scalar" if scalar else "array", native.dtype.name, native.shape, native.tobytes()]
    if isinstance(x, Mapping):
        return ["dict", [(kept(key), kept(y)) for key, y in x.items()]]
    if isinstance(x, (list, tuple)):
        return [type(x).__name__, [kept(y) for y in x]]
    if isinstance(x, (float, complex)):
        return [type(x).__name__, struct.pack("<dd", complex(x).real, complex(x).imag)]
    return [type(x).__name__, x]
