"""The examples do what they say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

SCRIPT = Path(__file__).parents[1] / "docs" / "examples" / "train_digits.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, check=False)


def accuracy(*arguments):
    finished = run(*arguments)
    assert finished.returncode == 0, finished.stderr
    return float(re.fullmatch(r"test accuracy (.*)%\n", finished.stdout).group(1))


def test_digits_reach_97_percent_with_the_default_optimizer():
    assert accuracy() >= 97


@pytest.mark.parametrize(
    "arguments",
    [
        ("SGD", "--lr", "0.1", "--set", "momentum=0.9", "--set", "nesterov=True"),
        ("Muon", "--set", "adjust_lr_fn=original"),
        ("LBFGS", "--set", "line_search_fn=strong_wolfe"),
        ("ConjugateGradient",),
        ("Adafactor",),
    ],
    ids=lambda arguments: arguments[0],
)
def test_digits_learn_with_any_optimizer(arguments):
    assert accuracy(*arguments, "--epochs", "3") >= 85


def test_a_wrong_setting_is_reported_without_a_traceback():
    finished = run("Adam", "--lr", "-1")
    assert finished.returncode == 2
    assert "Invalid learning rate: -1.0" in finished.stderr
    assert "Traceback" not in finished.stderr
