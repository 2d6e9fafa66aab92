"""The problems that gradients come from: against automatic differentiation, and against the documented C."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import cases, digits, gradients

from helpers import ROOT

DOCS = ROOT / "docs" / "contract" / "goldens.md"
SHAPES = {"rosenbrock": [(6,), (2, 3)], "logistic": [(64,), ()], "mlp": [(3, 64), (3,), (3,), ()]}


def source(name: str, dtype: str = "float64") -> gradients.Source:
    return gradients.make_source({"source": name, "seed": 5}, SHAPES[name], dtype)


def test_the_digits_are_scikit_learns() -> None:
    datasets = pytest.importorskip("sklearn.datasets", reason="the source of the digits is scikit-learn")
    found = datasets.load_digits()
    assert np.array_equal(digits.pixels() * 16, found.data[:64])
    assert np.array_equal(digits.labels() == 1, found.target[:64] >= 5)


def test_the_sigmoid_is_one_to_twelve_digits() -> None:
    x = np.linspace(-64, 64, 257)
    assert gradients.sigmoid(x).tolist() == pytest.approx([1 / (1 + math.exp(-t)) for t in x.tolist()], rel=2e-12)
    assert gradients.sigmoid(np.array([-1e9, -64.0, 64.0, 1e9])).tolist() == [*gradients.sigmoid(x[[0, 0, -1, -1]])]


def test_rosenbrock_rounds_the_exact_gradient() -> None:
    (x, _) = source("rosenbrock").parameters()
    y = [Fraction(t) for t in x.tolist()]
    exact = [Fraction(0)] * 6
    for i in range(5):
        exact[i] += -400 * y[i] * (y[i + 1] - y[i] ** 2) - 2 * (1 - y[i])
        exact[i + 1] += 200 * (y[i + 1] - y[i] ** 2)
    (slope, _) = source("rosenbrock").gradients(1, [x, x.reshape(2, 3)])
    assert slope.tolist() == pytest.approx([float(t) for t in exact], rel=1e-12)


def logit(torch: Any, name: str, p: list[Any]) -> Any:
    x = torch.from_numpy(digits.pixels())
    if name == "mlp":
        x, p = torch.relu(x @ p[0].T + p[1]), p[2:]
    return x @ p[0] + p[1]


@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_problems_have_the_gradients_of_their_loss(name: str) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    arrays = source(name).parameters()
    p = [torch.from_numpy(x).requires_grad_() for x in arrays]
    y = torch.from_numpy(digits.labels())
    torch.nn.functional.binary_cross_entropy_with_logits(logit(torch, name, p), y).backward()
    for x, mine in zip(p, source(name).gradients(1, arrays), strict=True):
        np.testing.assert_allclose(mine, x.grad.numpy(), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", SHAPES)
def test_problems_are_rounded_once_to_float32(name: str) -> None:
    arrays = source(name, "float32").parameters()
    wide = source(name).gradients(1, [x.astype(np.float64) for x in arrays])
    narrow = source(name, "float32").gradients(1, arrays)
    assert [x.tobytes() for x in narrow] == [x.astype(np.float32).tobytes() for x in wide]
    assert [x.shape for x in narrow] == SHAPES[name]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64"])
def test_problems_in_other_dtypes_are_refused(dtype: str) -> None:
    with pytest.raises(cases.CaseError, match="rounds a problem to other than float32 or float64"):
        cases.parse(case(SHAPES["logistic"], "logistic", [dtype]), "sgd.json")


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("rosenbrock", [(1,)]),
        ("logistic", [(64,)]),
        ("logistic", [(63,), ()]),
        ("mlp", [(3, 64), (3,), (2,), ()]),
        ("mlp", [(), (3,), (3,), ()]),
    ],
)
def test_problems_in_other_shapes_are_refused(name: str, shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(cases.CaseError, match="which the problem does not have"):
        cases.parse(case(shapes, name, ["float32"]), "sgd.json")


def case(shapes: list[tuple[int, ...]], name: str, dtypes: list[str]) -> dict[str, Any]:
    entry = {
        "id": "sgd-x",
        "comment": "Does something.",
        "hyper": {"lr": 0.02, "momentum": 0.6, "dampening": 0.2, "weight_decay": 0.1},
        "dtypes": dtypes,
        "shapes": shapes,
        "steps": 5,
        "record": [5],
        "gradient": {"source": name, "seed": 1},
        "flags": ["DampeningIgnored"],
    }
    return {"schema": 1, "optimizer": "SGD", "cases": [entry]}


C_MAIN = """
#include <stdio.h>

static double pixel[64][64], label[64], w[192], b[64], gw[192], gb[3], gv[3], gc;

static void load(double *x, int n) { while (n--) if (scanf("%la", x++) != 1) __builtin_trap(); }
static void show(const double *x, int n) { while (n--) printf("%a ", *x++); puts(""); }

int main(void) {
    load(&pixel[0][0], 64 * 64), load(label, 64);
    load(w, 6), rosenbrock(6, w, gw), show(gw, 6);
    load(w, 6), rosenbrock(6, w, gw), show(gw, 6);
    load(w, 64), load(b, 1), logistic(pixel, label, w, *b, gw, gb), show(gw, 64), show(gb, 1);
    memset(gw, 0, sizeof gw), memset(gb, 0, sizeof gb);
    load(w, 192), load(b, 7), mlp(3, pixel, label, w, b, b + 3, b[6], gw, gb, gv, &gc);
    show(gw, 192), show(gb, 3), show(gv, 3), show(&gc, 1);
}
"""
"""Reads the data and the parameters of each problem and prints the gradients."""


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler is installed")
def test_the_documented_c_has_the_same_gradients(tmp_path: Path) -> None:
    blocks = re.findall(r"```c\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "problems.c").write_text("#include <string.h>\n" + next(x for x in blocks if "mlp" in x) + C_MAIN)
    program = str(tmp_path / "problems")
    flags = ["-std=c11", "-O2", "-ffp-contract=off", "-Wall", "-Werror"]
    subprocess.run(["cc", *flags, f"{program}.c", "-o", program], check=True)
    inputs = [digits.pixels(), digits.labels(), *(x for name in SHAPES for x in source(name).parameters())]
    numbers = " ".join(t.hex() for x in inputs for t in x.ravel().tolist())
    output = subprocess.run([program], input=numbers, check=True, capture_output=True, text=True).stdout
    slopes = [g for name in SHAPES for g in source(name).gradients(1, source(name).parameters())]
    for line, g in zip(output.splitlines(), slopes, strict=True):
        assert [float.fromhex(word) for word in line.split()] == g.ravel().tolist()
