"""The sources name nothing that a C library, a processor, a locale or a byte order decides, but for a short list."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import refoptim

ROOT = Path(refoptim.__file__).parents[1]

FOLDERS = ("refoptim", "kernels", "conformance")

COMMANDS = "refoptim/commands/"
"""Measures and draws: no number of a rule is made there."""

WITNESSES = ("conformance/adapters/", "conformance/oracle.py")
"""Other people's implementations, run as they are."""

GUESSES = ("conformance/diagnose/schedule",)
"""Curves that are fitted to a stranger's rates within a tolerance; no number of a rule is made there."""


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


EXACT_MATH = words(
    "sqrt isqrt floor ceil trunc fabs fmod copysign isfinite isinf isnan gcd prod ulp nextafter inf nan pi"
)
"""What ``math`` has that is one number everywhere: IEEE's root, exact functions, products of integers, constants."""

EXACT_UFUNCS = words(
    "add subtract multiply divide sqrt abs absolute negative positive maximum minimum isfinite isnan isinf ldexp frexp "
    "signbit copysign square nextafter equal not_equal less less_equal greater greater_equal "
    "logical_and logical_or logical_not bitwise_and bitwise_or bitwise_xor invert left_shift right_shift"
)
"""NumPy's elementwise functions that are one IEEE operation, or none, of each real element."""

UNORDERED = words(
    "sum mean average dot vdot inner outer matmul tensordot einsum prod cumsum cumprod std var trace median nansum "
    "convolve correlate interp polyval linalg fft random round around sinc i0 kron cov corrcoef gradient trapezoid"
)
"""What NumPy does in an order, or by a library, that it does not promise."""

NATIVE = words(
    "longdouble clongdouble float96 float128 complex192 complex256 longlong fromfile save load savez memmap loadtxt "
    "savetxt fromstring"
)
"""NumPy's types of the platform's size, and files in its byte order or locale."""

METHODS = UNORDERED - {"random", "linalg", "fft", "interp", "gradient", "round", "trace"} | {"tofile"}

MODULES = frozenset({"cmath", "statistics", "locale", "random", "decimal", "secrets", "array"})

ALLOWED = {
    ("conformance/report.py", "math.log10"): "places in a picture",
    ("conformance/spec.py", "math"): "takes the functions of EXACT by name",
    ("conformance/rounded.py", "math"): "puts correctly rounded functions in the place of its powers",
    ("conformance/lr_cases.py", "import random"): "Random.random alone, which Python promises to keep",
    ("conformance/generate.py", "np.cumsum"): "adds in the order of the elements: each result is one more sum",
    ("refoptim/numerics/power.py", "math.ldexp"): "of 53 bits, and far from numbers that are not normal: exact",
    ("refoptim/engines/launches.py", "np.cumsum"): "counts",
    ("refoptim/engines/launches.py", ".sum"): "counts",
    ("refoptim/step/sparse.py", "np.cumsum"): "counts",
    ("refoptim/distributed/sparse.py", ".cumsum"): "counts",
    ("kernels/vector.py", "np.cumsum"): "counts",
    ("kernels/harness/sums.py", "np.cumsum"): "counts",
    ("kernels/harness/sums.py", ".sum"): "counts",
    ("conformance/accuracy.py", ".sum"): "the length of a way, which errors are compared with",
    ("conformance/accuracy.py", ".mean"): "the mean of errors, for a table",
    ("conformance/export.py", ".sum"): "counts what is missing",
    ("conformance/text.py", ".sum"): "counts what is missing",
    ("kernels/host/build.py", "write_text"): "ASCII, for a compiler to read",
    ("kernels/host/build.py", "text=True"): "what a compiler says in the user's language",
    ("refoptim/commands/gpu_report.py", "text=True"): "what a tool says in the user's language",
    ("refoptim/checkpoint/nested.py", "np.random"): "knows a generator by its type, and draws nothing",
    ("refoptim/checkpoint/parts.py", "np.random"): "knows a generator by its type, and draws nothing",
    ("conformance/run.py", ".accumulate"): "the largest so far, of maximum alone",
    ("refoptim/engines/host.py", "to_bytes"): "addresses, for this machine's kernels to read",
    ("conformance/verify.py", "np.fmin"): "of differences, which are no zeros of two signs",
    ("conformance/verify.py", "np.fmax"): "of differences, which are no zeros of two signs",
    ("kernels/muon.py", "np.matmul"): "where a library's products are asked for",
    ("refoptim/optimizers/muon.py", "np.matmul"): "where a library's products are asked for",
    ("refoptim/optimizers/soap.py", "np.matmul"): "where a library's products are asked for",
    ("refoptim/optimizers/soap.py", "np.linalg"): "where a library's decompositions are asked for",
    ("refoptim/dialects/rounding.py", "np.fmax"): "of squares, which are no zeros of two signs",
    ("refoptim/dialects/rounding.py", "np.sign"): "of reals: exact",
    ("refoptim/dialects/squares.py", "np.sign"): "of reals: exact",
    ("refoptim/distributed/plan.py", "np.linalg"): "fits measured times, for a table",
    ("refoptim/engines/nvrtc.py", "iterdir"): "folders of one name: which comes first is the same to all",
    ("refoptim/engines/cuda.py", "glob"): "files of one content: any of them does",
}
"""What stands in a file all the same, with the reason."""

Finding = tuple[str, int]
"""What was found, and the line."""


class Source(NamedTuple):
    """A file: its path in the checkout and its syntax."""

    path: str
    tree: ast.Module

    def nodes(self) -> Iterator[ast.AST]:
        return ast.walk(self.tree)


@cache
def sources() -> list[Source]:
    paths = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return [Source(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def attribute(node: ast.AST, *owners: str) -> str:
    """Return the name of an attribute of a module, and nothing for another node."""
    fits = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in owners
    return node.attr if fits and isinstance(node, ast.Attribute) else ""


def powers(source: Source) -> Iterator[Finding]:
    """Find powers other than those of integer literals and of 2, and matrix products."""
    for node in source.nodes():
        if isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, (ast.Pow, ast.MatMult)):
            operands = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.target, node.value]
            values = [x.value if isinstance(x, ast.Constant) else None for x in operands]
            whole = all(type(x) is int for x in values) or values[0] in (2, 2.0)
            if isinstance(node.op, ast.MatMult) or not whole:
                yield ast.unparse(node), node.lineno
        if isinstance(node, ast.Name) and node.id == "pow":
            yield "pow", node.lineno


def functions(source: Source) -> Iterator[Finding]:
    """Find functions of ``math`` and NumPy whose results are not fixed, also where they are imported by name."""
    inexact = {name for name, x in vars(np).items() if isinstance(x, np.ufunc)} - EXACT_UFUNCS
    wrong = inexact | UNORDERED | NATIVE
    for node in source.nodes():
        if (name := attribute(node, "math")) and name not in EXACT_MATH:
            yield f"math.{name}", node.lineno  # type: ignore[attr-defined]
        if (name := attribute(node, "np", "numpy")) in wrong:
            yield f"np.{name}", node.lineno  # type: ignore[attr-defined]
        if isinstance(node, ast.ImportFrom) and not node.level and node.module in ("math", "numpy"):
            names = {alias.name for alias in node.names}
            bad = names - EXACT_MATH if node.module == "math" else names & wrong
            yield from ((f"from {node.module} import {name}", node.lineno) for name in sorted(bad))


def methods(source: Source) -> Iterator[Finding]:
    """Find reductions written as methods: ``x.sum()``, ``np.add.reduce``; those of ``tree`` have an order."""
    for node in source.nodes():
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and not attribute(node.func, "np", "math", "tree")
        ):
            name = node.func.attr
            if name in METHODS or name in ("reduce", "reduceat", "accumulate"):
                yield f".{name}", node.lineno


def modules(source: Source) -> Iterator[Finding]:
    """Find modules that are not to be used at all, and ``math`` handed about as a whole."""
    of_attributes = {id(node.value) for node in source.nodes() if isinstance(node, ast.Attribute)}
    for node in source.nodes():
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        yield from ((f"import {name}", node.lineno) for name in names if name.partition(".")[0] in MODULES)  # type: ignore[attr-defined]
        if isinstance(node, ast.Name) and node.id == "math" and id(node) not in of_attributes:
            yield "math", node.lineno


def encodings(source: Source) -> Iterator[Finding]:
    """Find texts that are read or written in the encoding of the locale."""
    for node in source.nodes():
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {x.arg for x in node.keywords if not isinstance(x.value, ast.BinOp)}  # a sum is a text, not a flag
        texts = [x.value for x in ast.walk(node) if isinstance(x, ast.Constant) and isinstance(x.value, str)]
        binary = any(x in ("rb", "wb", "xb", "ab", "r+b") for x in texts) or (name == "open" and is_bytes(node))
        if name in ("open", "fdopen", "read_text", "write_text") and "encoding" not in given and not binary:
            yield name, node.lineno
        if given & {"text", "universal_newlines"} and "encoding" not in given:
            yield "text=True", node.lineno


def is_bytes(node: ast.Call) -> bool:
    """Tell whether a member of an archive is opened, or a descriptor, which have no encoding."""
    return "open" in (attribute(node.func, "archive"), attribute(node.func, "os"))


def byte_orders(source: Source) -> Iterator[Finding]:
    """Find binary data packed or read in the byte order of the machine."""
    for node in source.nodes():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        text = ast.unparse(node)
        if attribute(node.func, "struct") and not text.partition("(")[2].lstrip("'\"").startswith(("<", ">")):
            yield f"struct.{node.func.attr}", node.lineno
        if node.func.attr in ("from_bytes", "to_bytes") and not any(x in text for x in ("'little'", "'big'")):
            yield node.func.attr, node.lineno
        if node.func.attr == "frombuffer":
            kind = ast.unparse(node.args[1]) if len(node.args) > 1 else ""
            if not any(x in kind for x in ("'<", "'>", "uint8", "kind")):
                yield "frombuffer", node.lineno


def orders(source: Source) -> Iterator[Finding]:
    """Find folders listed in the order of the file system, and sorting that may turn equal elements round."""
    ordered = {id(x) for node in source.nodes() if attribute_or_name(node) == "sorted" for x in ast.walk(node)}
    for node in source.nodes():
        name = attribute_or_name(node)
        if name in ("glob", "rglob", "iterdir", "listdir", "scandir") and id(node) not in ordered:
            yield name, node.lineno  # type: ignore[attr-defined]
        if name in ("argsort", "argpartition", "partition_array", "lexsort") and "stable" not in ast.unparse(node):
            yield name, node.lineno  # type: ignore[attr-defined]


def attribute_or_name(node: ast.AST) -> str:
    """Return the name of what is called."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


CHECKS = (powers, functions, methods, modules, encodings, byte_orders, orders)

OF_NUMBERS = (powers, functions, methods, modules)
"""Checks that commands, witnesses and guesses need not pass."""


def findings(check: Callable[[Source], Iterator[Finding]]) -> Iterator[tuple[str, str, int]]:
    """Yield the file, the name and the line of all that a check finds where it applies."""
    for source in sources():
        exempt = source.path.startswith((COMMANDS, *WITNESSES, *GUESSES))
        if not (exempt and check in OF_NUMBERS):
            yield from ((source.path, what, line) for what, line in check(source))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_nothing_is_left_to_the_platform(check: Callable[[Source], Iterator[Finding]]) -> None:
    wrong = [f"{path}:{line}: {what}" for path, what, line in findings(check) if (path, what) not in ALLOWED]
    assert not wrong


def test_what_is_allowed_is_still_there() -> None:
    found = {(path, what) for check in CHECKS for path, what, _ in findings(check)}
    assert sorted(ALLOWED.keys() - found) == []


PLANTED = {
    powers: ["y = beta**k", "x **= 0.5", "x**2", "2 ** -1 ** k * 10.0**k", "pow(beta, k)", "a @ b", "a @= b"],
    functions: ["math.cos(x)", "np.exp(x)", "np.sum(x)", "from math import log", "from numpy import power", "np.hypot"],
    methods: ["x.sum()", "x.mean(axis=0)", "np.add.reduce(x)", "x.dot(y)"],
    modules: ["import cmath", "from random import gauss", "f = getattr(math, 'cos')", "import locale"],
    encodings: ["open('x')", "path.read_text()", "path.write_text(text)", "run(command, text=True)", "path.open('w')"],
    byte_orders: ["struct.pack('H', 1)", "struct.Struct('=4s')", "np.frombuffer(data, np.float32)", "n.to_bytes(8)"],
    orders: ["[x for x in folder.glob('*')]", "np.argsort(x)", "os.listdir()"],
}


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in PLANTED.items() for text in texts])
def test_planted_uses_are_found(check: Callable[[Source], Iterator[Finding]], text: str) -> None:
    assert list(check(Source("x.py", ast.parse(text))))


FINE = [
    *("2.0 ** -n", "10 ** 6", "x * x", "math.sqrt(x)", "math.floor(x)", "np.sqrt(x)", "np.where(x > 0, x, y)"),
    *("open(x, 'rb')", "path.read_text(encoding='utf-8')", "struct.pack('<H', 1)", "n.to_bytes(8, 'little')"),
    *("np.frombuffer(data, '<f4')", "sorted(folder.glob('*'))", "np.argsort(x, kind='stable')", "power(beta, k)"),
]


@pytest.mark.parametrize("text", FINE)
def test_what_is_exact_is_not_found(text: str) -> None:
    assert not [x for check in CHECKS for x in check(Source("x.py", ast.parse(text)))]
