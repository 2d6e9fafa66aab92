"""The kernels: a ``.cu`` for each room they are the twin of, and a ``.py`` beside it where a step is several launches.

``harness`` is what all of them are made of; ``host`` is enough CUDA to build the same files with a C++ compiler.
All modules are imported with this one: an import in one thread while another forks would hang the child.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    if not _module.ispkg:
        import_module(f"{__name__}.{_module.name}")
import_module(f"{__name__}.harness.source_hash")
