"""The plugin of pytest: every case is a test of the implementation that is asked for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT
from helpers.implementations import CASES
from helpers.processor import needs_mxcsr

CONFTEST = f"""
import sys
from importlib.util import find_spec
sys.path[:0] = {[str(ROOT / "tests"), str(ROOT)]!r}
import refoptim
if find_spec("refoptim.conformance") is None:
    refoptim.__path__.append({str(ROOT)!r})
pytest_plugins = ["refoptim.conformance.plugin"]
"""


def pytest_in(folder: Path, *arguments: str) -> str:
    (folder / "conftest.py").write_text(CONFTEST + (folder / "more.txt").read_text())
    options = ("-p", "no:refoptim", "-p", "no:cacheprovider", "-W", "error", "-rA")
    command = [sys.executable, "-m", "pytest", *options, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def counts(output: str) -> dict[str, int]:
    return {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", output.splitlines()[-1])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "more.txt").write_text("")
    (tmp_path / "test_own.py").write_text("def test_own():\n    pass\n")
    return tmp_path


def test_the_plugin_collects_nothing_unless_asked(folder: Path) -> None:
    assert counts(pytest_in(folder)) == {"passed": 1}


def test_the_plugin_loads_without_refoptim() -> None:
    code = "import sys; import plugin; sys.exit('numpy' in sys.modules or 'refoptim' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "conformance", check=True)


WRONG = """
import pytest
from refoptim.conformance.adapters import Adapter


class Mine(Adapter):
    def why_not(self, case, dtype):
        return None if (case.id, dtype) == ("sgd-plain", "float64") else "only one"

    def make(self, optimizer, hyper, parameters):
        self.hyper, self.arrays = hyper, [p.copy() for p in parameters]

    def step(self, grads):
        for p, g in zip(self.arrays, grads):
            p -= {rule}

    def parameters(self):
        return self.arrays


@pytest.fixture
def refoptim_implementation():
    return Mine()


def test_conformance(refoptim_check):
    refoptim_check()
"""


def test_two_implementations_of_one_name_have_each_their_own_mistake(folder: Path) -> None:
    without, twice = 'self.hyper["lr"] * g', '2 * self.hyper["lr"] * (g + self.hyper["weight_decay"] * p)'
    (folder / "test_one.py").write_text(WRONG.replace("{rule}", without))
    (folder / "test_two.py").write_text(WRONG.replace("{rule}", twice))
    output = pytest_in(folder, "-k", "sgd-plain-float64")
    one, two = (output.index(f"SGD: another rule: {name}") for name in ("DecayIgnored", "SettingDiffers"))
    assert output.index("test_one.py") < one < two, output


def test_every_case_is_a_test_of_a_named_implementation(folder: Path) -> None:
    output = pytest_in(folder, "--refoptim-impl", "helpers.implementations:Late", "--refoptim-pattern", "sgd-plain")
    assert counts(output) == {"passed": 1, "failed": 1, "skipped": 5}
    assert "step 7, param.1 [2, 3]" in output
    assert "hyperparameters: lr=0.3, weight_decay=0.1" in output
    assert "catches" not in output


def test_the_setting_and_k_work(folder: Path) -> None:
    (folder / "pytest.ini").write_text("[pytest]\nrefoptim_impl = numpy\n")
    found = len([dtype for case in CASES.values() if case.id.startswith("adamax") for dtype in case.dtypes])
    output = pytest_in(folder, "-k", "adamax")
    assert sum(counts(output).values()) == found, output
    assert "failed" not in counts(output)


def test_a_fixture_gives_every_case(folder: Path) -> None:
    (folder / "more.txt").write_text(
        "\nimport pytest\nfrom helpers.implementations import Plain\n\n"
        "@pytest.fixture\ndef refoptim_implementation():\n    return Plain()\n"
    )
    (folder / "test_own.py").write_text("def test_conformance(refoptim_check):\n    refoptim_check()\n")
    output = pytest_in(folder, "--refoptim-pattern", "sgd-plain")
    assert counts(output) == {"passed": 1, "skipped": 5}, output


def test_a_fixture_without_the_methods_is_refused(folder: Path) -> None:
    text = "\nimport pytest\n\n@pytest.fixture\ndef refoptim_implementation():\n    return 1\n"
    (folder / "more.txt").write_text(text)
    (folder / "test_own.py").write_text("def test_conformance(refoptim_check):\n    refoptim_check()\n")
    output = pytest_in(folder, "--refoptim-pattern", "sgd-plain")
    assert "int is no implementation: it has no method make" in output


def test_a_pattern_that_fits_no_case_is_a_usage_error(folder: Path) -> None:
    output = pytest_in(folder, "--refoptim-impl", "numpy", "--refoptim-pattern", "no-such")
    assert "--refoptim-pattern: no case matches 'no-such'" in output
    assert "passed" not in output


def test_a_test_asked_for_by_its_node_id_comes_alone(folder: Path) -> None:
    assert counts(pytest_in(folder, "--refoptim-impl", "numpy", "test_own.py::test_own")) == {"passed": 1}
    found = counts(pytest_in(folder, "--refoptim-impl", "numpy", "--refoptim-pattern", "sgd-plain", "test_own.py"))
    assert sum(found.values()) == 1 + len(CASES["sgd-plain"].dtypes)


def test_an_unknown_implementation_is_a_usage_error(folder: Path) -> None:
    assert "no implementation 'nobody'" in pytest_in(folder, "--refoptim-impl", "nobody")


@needs_mxcsr
def test_a_process_that_loses_subnormals_is_a_usage_error(folder: Path) -> None:
    (folder / "more.txt").write_text("from helpers.processor import set_mxcsr\nset_mxcsr(0x9FC0)\n")
    output = pytest_in(folder, "--refoptim-impl", "numpy", "--refoptim-pattern", "sgd-plain")
    assert "ERROR: float32 arithmetic in this process turns subnormal results into zeros (FTZ)" in output
