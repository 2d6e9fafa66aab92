"""Ranks that are processes of MPI: the bits of one process, failures, and jobs that end and go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT, ranks

pytest.importorskip("mpi4py", reason="mpi4py is not installed (pip install 'refoptim[mpi]')")

MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
PROGRAM = ROOT / "tests" / "helpers" / "mpi_ranks.py"
EXAMPLE = ROOT / "docs" / "examples" / "train_sharded.py"
SIZES = (1, 2, 3, 4)

pytestmark = [pytest.mark.mpi, pytest.mark.skipif(MPIEXEC is None, reason="there is no mpiexec")]


def launch(size: int, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [str(MPIEXEC), "-n", str(size), sys.executable, "-m", "mpi4py", str(PROGRAM), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=timeout)


def outcome(size: int, *arguments: str) -> Any:
    done = launch(size, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("size", SIZES)
def test_every_optimizer_has_the_bits_of_one_process(size: int, every: int) -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    found = outcome(size, "bits", str(every))
    for name, dtype in ranks.kinds(size, every):
        assert found[f"{name} {dtype}"] == ranks.plain_run(name, dtype), (name, dtype)
    for name in ("LBFGS", "ConjugateGradient"):
        assert found[name] == ranks.plain_minimum(size, name, "float64", line_search_fn="strong_wolfe")
    assert found["masters"] == ranks.plain_run("AdamW", "float16", master=True)
    assert found["one by one"] == ranks.plain_run("AdamW", "float32")


def test_checkpoints_of_any_number_of_ranks_go_on_with_any_other(tmp_path: Path) -> None:
    for size in SIZES:
        outcome(size, "saved", str(tmp_path))
    for size in SIZES:
        found = outcome(size, "resumed", str(tmp_path))
        assert len(found) == 2 * len(SIZES)
        assert found == {key: ranks.plain_run(key.partition("-")[0], "float32") for key in found}


@pytest.mark.parametrize("size", [2, 3])
def test_a_rank_that_fails_is_named_on_all_within_a_second(size: int) -> None:
    found = outcome(size, "fault")
    reason = "ValueError: parameter 3 of group 0: the gradient must have shape (1025,), got (5,)"
    assert found["told"] == [f"RankError: rank {size - 1}: {reason}"] * (size - 1) + [reason]
    assert found["seconds"] < 1
    assert found["same"]


def example(folder: Path, size: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the example that trains on digits; its package is found as the tests find it."""
    find = f"import refoptim, runpy; refoptim.__path__.append({str(ROOT)!r})"
    code = f"{find}; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    command = [str(MPIEXEC), "-n", str(size), sys.executable, "-m", "mpi4py", "-c", code, "--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_example_goes_on_on_three_ranks_and_ends_as_one(tmp_path: Path) -> None:
    """Four ranks, of which one is killed, then three; and one that is alone from the beginning."""
    died = example(tmp_path / "many", 4, "--die-at", "15", "--epochs", "20")
    assert died.returncode != 0
    assert "epoch  10" in died.stdout
    on_three = example(tmp_path / "many", 3, "--epochs", "20")
    assert "3 ranks go on from" in on_three.stdout, on_three.stderr
    alone = example(tmp_path / "one", 1, "--epochs", "20")
    last = alone.stdout.splitlines()[-1]
    assert last.startswith("recognized 100%, sha256 "), alone.stderr
    assert on_three.stdout.splitlines()[-1] == last


@pytest.mark.parametrize("how", ["raises", "killed"])
def test_a_job_whose_rank_ends_ends_and_goes_on_with_fewer(tmp_path: Path, how: str) -> None:
    done = launch(3, "killed", str(tmp_path), how, timeout=30)
    assert done.returncode != 0
    assert outcome(2, "goes_on", str(tmp_path)) == {
        "from": 2,
        "digest": ranks.plain_run("AdamW", "float32", steps=4),
    }


def test_the_bench_tells_what_it_measured() -> None:
    pytest.importorskip("click", reason="click is not installed")
    code = f"import refoptim; refoptim.__path__.append({str(ROOT)!r}); from refoptim.commands.main import main; main()"
    command = [str(MPIEXEC), "-n", "2", sys.executable, "-m", "mpi4py", "-c", code]
    arguments = ["bench", "distributed", "--size", "40000", "--repeats", "1", "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ranks"] == 2
    assert all(x > 0 for x in found["seconds"].values())
    assert set(found["link"]) == {"latency", "bandwidth"}
