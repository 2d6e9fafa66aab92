"""The examples do what they say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def run(*arguments, script="train_digits.py"):
    if script != "train_torch.py":
        pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    command = [sys.executable, EXAMPLES / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def accuracy(*arguments):
    finished = run(*arguments)
    assert finished.returncode == 0, finished.stderr
    return float(re.fullmatch(r"test accuracy (.*)%\n", finished.stdout).group(1))


def test_digits_reach_97_percent_with_the_default_optimizer():
    assert accuracy() >= 97


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    "arguments",
    [
        ("SGD", "--lr", "0.1", "--set", "momentum=0.9", "--set", "nesterov=True"),
        pytest.param(("Muon", "--set", "adjust_lr_fn=original"), marks=pytest.mark.slow),
        ("LBFGS", "--set", "line_search_fn=strong_wolfe"),
        ("ConjugateGradient",),
        ("Adafactor",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_digits_learn_with_any_optimizer(arguments):
    assert accuracy(*arguments, "--epochs", "3") >= 85


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("SGD", "--lr", "0.1", "--set", "momentum=0.9", "--epochs", "3"),
        ("Muon", "--lr", "0.02", "--set", "adjust_lr_fn=original", "--epochs", "3"),
    ],
    ids=["default", "SGD", "Muon"],
)
def test_digits_learn_with_jax_to_the_same_bits_as_on_numpy_arrays(arguments):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("jax", reason="JAX is not installed")
    finished = run(*arguments, "--twin", script="train_jax.py")
    assert finished.returncode == 0, finished.stderr
    found = re.fullmatch(r"test accuracy (.*)%\nthe same bits as on NumPy arrays: yes\n", finished.stdout)
    assert found, finished.stdout
    assert float(found.group(1)) >= (85 if arguments else 97)


def test_a_wrong_setting_is_reported_without_a_traceback():
    finished = run("Adam", "--lr", "-1")
    assert finished.returncode == 2
    assert "Invalid learning rate: -1.0" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_mixed_precision_is_as_good_as_float32():
    """Float16 alone is not: its weights become NaN, and one digit of ten is right."""
    finished = run("--epochs", "12", script="mixed_precision.py")
    assert finished.returncode == 0, finished.stderr
    wide, mixed, narrow = (float(x) for x in re.findall(r": (\d+\.\d+)%", finished.stdout))
    scale = float(re.search(r"scale (\S+) at last", finished.stdout).group(1))
    assert wide >= 94
    assert abs(mixed - wide) < 1
    assert scale > 65536, "it has grown"
    assert narrow < 15


@pytest.mark.parametrize(
    "arguments", [("Rprop",), *(pytest.param(x, marks=pytest.mark.slow) for x in [(), ("NAdam",)])]
)
def test_torch_and_arrays_are_trained_to_the_same_bits(arguments):
    pytest.importorskip("torch", reason="torch is not installed")
    finished = run(*arguments, script="train_torch.py")
    assert finished.returncode == 0, finished.stderr
    *ways, last = finished.stdout.splitlines()
    assert last == "the same bits"
    found = [re.fullmatch(r"\w+ +loss (.*)  sha256 ([0-9a-f]{16})", way).groups() for way in ways]
    assert len(found) == 3
    assert len(set(found)) == 1
    assert float(found[0][0]) < 0.05


def test_a_learning_rate_is_learned():
    pytest.importorskip("torch", reason="torch is not installed")
    finished = run("--rounds", "15", script="meta_learning.py")
    assert finished.returncode == 0, finished.stderr
    rounds = [[float(x) for x in re.findall(r"[0-9.]+", line)] for line in finished.stdout.splitlines()]
    (first, loss, lr, _), (last, better, higher, _) = rounds
    assert (first, last) == (1, 15)
    assert better < 0.5 * loss
    assert higher > 4 * lr


def test_a_wrong_setting_of_the_learner_is_reported():
    pytest.importorskip("torch", reason="torch is not installed")
    finished = run("--lr", "0", script="meta_learning.py")
    assert finished.returncode == 2
    assert "lr must be positive" in finished.stderr
