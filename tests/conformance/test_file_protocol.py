"""The file protocol: programs in other languages read a suite, write results beside it, and are judged."""

from __future__ import annotations

import csv
import json
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from helpers import ROOT
from refoptim.commands.main import main

SOURCE = ROOT / "tests" / "helpers" / "suite_program.c"
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
PATTERNS = ["--pattern", "sgd-*", "--pattern", "adam-*"]


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["golden", *map(str, arguments)])


def judged(folder: Path, *options: Any) -> tuple[int, dict[str, dict[str, Any]]]:
    """Judge a suite; return the exit code and the verdicts by case."""
    result = call("verify", folder, "--json", *options)
    return result.exit_code, {case["name"]: case for case in json.loads(result.stdout)["cases"]}


def solve(folder: Path, real: str, *options: str) -> None:
    """Compile the program for a type of reals and run it on all cases of a suite."""
    program = folder / f"program-{real}"
    flags = ["-std=c99", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-DREAL={real}", *options]
    subprocess.run([str(COMPILER), *flags, str(SOURCE), "-o", str(program), "-lm"], check=True)
    subprocess.run([str(program), *map(str, sorted(folder.glob("*.float*")))], check=True)


@needs_compiler
@pytest.mark.parametrize(("real", "dtype"), [("float", "float32"), ("double", "float64")])
def test_a_program_in_c_reproduces_every_bit_of_sgd_and_adam(tmp_path: Path, real: str, dtype: str) -> None:
    assert call("export-suite", tmp_path, "--dtype", dtype, *PATTERNS).exit_code == 0
    solve(tmp_path, real)
    code, verdicts = judged(tmp_path)
    assert {name: x["summary"] for name, x in verdicts.items()} == dict.fromkeys(verdicts, "EXACT")
    assert code == 0
    assert {"sgd-nesterov", "adam-amsgrad", "adam-lr-changes", "adam-gaps-and-resume", "sgd-edges"} <= {
        name.rpartition(".")[0] for name in verdicts
    }
    for name, x in verdicts.items():
        case = json.loads((tmp_path / name / "case.json").read_text())
        numbers = case["steps"] * sum(product(shape) for shape in case["shapes"])
        assert x["compared"] == numbers * (1 + len([*(tmp_path / name).glob("state.*.bin")]))


def product(shape: list[int]) -> int:
    size = 1
    for n in shape:
        size *= n
    return size


@needs_compiler
@pytest.mark.parametrize(
    ("mistake", "caught"),
    [
        ("EPS_INSIDE", {"adam-coupled-decay", "adam-lr-changes"}),
        ("DAMPED_FIRST", {"sgd-momentum", "sgd-lr-changes"}),
        ("STEP_AHEAD", {"adam-coupled-decay", "adam-small-beta1"}),
    ],
)
def test_a_mistake_is_found_in_the_step_in_which_it_is_made(tmp_path: Path, mistake: str, caught: set[str]) -> None:
    call("export-suite", tmp_path, "--dtype", "float32", *PATTERNS)
    solve(tmp_path, "float", f"-D{mistake}")
    code, verdicts = judged(tmp_path)
    parted = {name.rpartition(".")[0]: x for name, x in verdicts.items() if not x["holds"]}
    assert code == 1 and caught <= set(parted)
    assert {parted[name]["first"]["step"] for name in caught} == {1}
    assert {name.partition("-")[0] for name in parted} == {next(iter(caught)).partition("-")[0]}


@pytest.fixture
def solved(tmp_path: Path) -> Path:
    """Return a suite of one case with the right result, computed in plain Python."""
    assert call("export-suite", tmp_path, "--pattern", "adamw-decay", "--dtype", "float32").exit_code == 0
    (here,) = tmp_path.glob("adamw-decay.float32")
    case = json.loads((here / "case.json").read_text())
    (here / "result.bin").write_bytes(plain_adamw(case, (here / "input.bin").read_bytes()))
    return tmp_path


def f32(x: float) -> float:
    """Round to float32."""
    return float(struct.unpack("<f", struct.pack("<f", x))[0])


def plain_adamw(case: dict[str, Any], data: bytes) -> bytes:
    """Compute AdamW on float32 numbers one by one, in plain Python: rounding a double once more is exact enough.

    Products and sums of two float32 numbers round to float32 as if once, for a double has more than twice the bits.
    """
    h, size = case["hyper"], sum(product(shape) for shape in case["shapes"])
    numbers = struct.unpack(f"<{size * (case['steps'] + 1)}f", data)
    (beta1, beta2), lr, eps = h["betas"], h["lr"], f32(h["eps"])
    p, m, v, out = list(numbers[:size]), [0.0] * size, [0.0] * size, []
    shrink, c1, b2, c2 = f32(1 - lr * h["weight_decay"]), f32(1 - beta1), f32(beta2), f32(1 - beta2)
    for k in range(1, case["steps"] + 1):
        root, step = f32((1 - beta2**k) ** 0.5), f32(-(lr / (1 - beta1**k)))
        for i, g in enumerate(numbers[k * size : (k + 1) * size]):
            x = f32(p[i] * shrink)
            m[i] = f32(m[i] + f32(f32(g - m[i]) * c1))
            v[i] = f32(f32(v[i] * b2) + f32(f32(g * c2) * g))
            denom = f32(f32(f32(v[i] ** 0.5) / root) + eps)
            p[i] = f32(x + f32(f32(m[i] * step) / denom))
        out += p
    return struct.pack(f"<{len(out)}f", *out)


def test_one_altered_number_is_named(solved: Path) -> None:
    here = solved / "adamw-decay.float32"
    assert judged(solved)[0] == 0
    case = json.loads((here / "case.json").read_text())
    sizes = [product(shape) for shape in case["shapes"]]
    assert len(sizes) > 1 and len(case["shapes"][1]) == 2
    at = 4 * (6 * sum(sizes) + sizes[0] + 5)
    data = bytearray((here / "result.bin").read_bytes())
    (word,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at, word + 3)
    (here / "result.bin").write_bytes(data)
    code, verdicts = judged(solved)
    (verdict,) = verdicts.values()
    first = verdict["first"]
    expected, found = (struct.unpack("<f", struct.pack("<I", w))[0] for w in (word, word + 3))
    assert code == 1 and verdict["differing"] == 1 and verdict["summary"] == "3 ULP"
    assert (first["step"], first["tensor"]) == (7, "param.1")
    assert first["element"] == list(divmod(5, case["shapes"][1][1]))
    assert (first["expected"], first["found"]) == (expected, found)
    assert (first["expected_bits"], first["found_bits"]) == (f"{word:08x}", f"{word + 3:08x}")
    assert first["absolute"] == abs(expected - found)
    assert first["relative"] == abs(expected - found) / abs(expected)
    assert judged(solved, "--ulp", 2)[0] == 1
    assert judged(solved, "--ulp", 3)[0] == 0
    assert judged(solved, "--rtol", first["relative"] * 1.001)[0] == 0
    assert judged(solved, "--rtol", first["relative"] * 0.999)[0] == 1


def test_results_as_csv_are_read_too(solved: Path) -> None:
    here = solved / "adamw-decay.float32"
    sizes = [product(shape) for shape in json.loads((here / "case.json").read_text())["shapes"]]
    words = [word for (word,) in struct.iter_unpack("<I", (here / "result.bin").read_bytes())]
    places = [(i, j) for i, n in enumerate(sizes) for j in range(n)]
    rows = [(k // len(places) + 1, *places[k % len(places)], f"{word:08x}") for k, word in enumerate(words)]
    (here / "result.bin").unlink()

    def judge(rows: list[Any]) -> tuple[int, dict[str, Any]]:
        with (here / "result.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("step", "parameter", "element", "bits"), *rows])
        code, verdicts = judged(solved)
        return code, verdicts["adamw-decay.float32"]

    assert judge(rows[::-1])[0] == 0
    code, verdict = judge([*rows[:40], (*rows[40][:3], f"{words[40] ^ 1:08x}"), *rows[41:]])
    assert (code, verdict["first"]["step"], verdict["summary"]) == (1, rows[40][0], "1 ULP")
    for wrong in (rows[1:], [*rows, rows[0]], [*rows[1:], (1, 9, 0, "00000000")], [*rows[1:], (1, 0, 0, "0")]):
        code, verdict = judge(wrong)
        assert code == 2 and verdict["problem"].startswith("refused: result.csv")


def test_inputs_as_csv_are_the_same_numbers(tmp_path: Path) -> None:
    for numbers in ("bin", "csv"):
        call("export-suite", tmp_path / numbers, "--pattern", "adamw-decay", "--numbers", numbers)
    for folder in (tmp_path / "bin").glob("adamw*"):
        size = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}[folder.suffix[1:]]
        with (tmp_path / "csv" / folder.name / "input.csv").open() as file:
            rows = list(csv.DictReader(file))
        data = b"".join(int(row["bits"], 16).to_bytes(size, "little") for row in rows)
        assert data == (folder / "input.bin").read_bytes()
        assert [row["what"] for row in rows] == sorted((row["what"] for row in rows), reverse=True)


def test_missing_results_do_not_hold_and_exporting_twice_gives_the_same(tmp_path: Path) -> None:
    call("export-suite", tmp_path, "--pattern", "sgd-plain")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    call("export-suite", tmp_path, "--pattern", "sgd-plain")
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    code, verdicts = judged(tmp_path, "--dtype", "float32")
    assert code == 1 and [x["problem"] for x in verdicts.values()] == ["no result"]


def test_sparse_gradients_and_gaps_are_told(tmp_path: Path) -> None:
    call("export-suite", tmp_path, "--pattern", "sparse-adam-lr-changes", "--dtype", "float64")
    (here,) = tmp_path.glob("sparse-*")
    lines = (here / "case.txt").read_text().splitlines()
    assert lines[0] == "refoptim-case 1" and lines[-1] == "end"
    assert {"sparse 5", "skip 1 1", "skip 4 0", "set 6 lr 0.01", "hyper betas 0.6 0.85", "shape 0 2 7 2"} <= set(lines)
    data = (here / "input.bin").read_bytes()
    first = 8 * (14 + 10)
    assert struct.unpack_from("<5q", data, first) == tuple((5 + 3 * (j % 3)) % 7 for j in range(5))
    assert len(data) == first + 20 * 8 * (5 + 5 * 2 + 5 + 5)


@pytest.mark.parametrize(
    ("name", "contents", "says"),
    [
        ("result.bin", b"\0" * 7, "result.bin has 7 bytes, expected"),
        ("result.bin", None, "result.bin is no file"),
        ("state.nonsense.bin", b"\0" * 8, "names no state of this optimizer"),
        ("state.exp_avg.bin", b"\0" * 8, "state.exp_avg.bin has 8 bytes, expected"),
    ],
)
def test_results_of_another_size_are_refused(solved: Path, name: str, contents: bytes | None, says: str) -> None:
    path = solved / "adamw-decay.float32" / name
    if contents is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(contents)
    code, verdicts = judged(solved)
    (verdict,) = verdicts.values()
    assert code == 2 and says in verdict["problem"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda suite: suite.update(schema=2), "suite.json has schema 2, this version reads 1"),
        (lambda suite: suite.update(format="zip"), "suite.json is no suite of refoptim"),
        (lambda suite: suite.update(cases=[]), "suite.json lists no cases"),
        (lambda suite: suite["cases"][0].update(case="../../etc/passwd"), "suite.json lists no case of refoptim"),
        (lambda suite: suite["cases"][0].update(sha256="0" * 64), "other inputs than this version makes"),
    ],
)
def test_a_suite_that_is_none_is_refused(solved: Path, change: Any, says: str) -> None:
    suite = json.loads((solved / "suite.json").read_text())
    change(suite)
    (solved / "suite.json").write_text(json.dumps(suite))
    result = call("verify", solved)
    assert result.exit_code == 2 and says in result.stderr and result.stderr.count("\n") == 1


def test_without_ml_dtypes_a_suite_has_no_bfloat16_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    done = call("export-suite", tmp_path / "a", "--pattern", "sgd-plain")
    assert done.exit_code == 0 and "1 cases in bfloat16 are left out: bfloat16 needs ml_dtypes" in done.stderr
    assert not [*(tmp_path / "a").glob("*.bfloat16")] and [*(tmp_path / "a").glob("*.float16")]
    assert call("export-suite", tmp_path / "b", "--pattern", "sgd-plain", "--dtype", "bfloat16").exit_code == 2
    assert not (tmp_path / "b").exists()


def test_a_suite_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        if path.name == "README.md":
            raise OSError(28, "no space left")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    monkeypatch.setattr("refoptim.conformance.export.replace", full)
    assert call("export-suite", tmp_path / "suite", "--pattern", "sgd-plain").exit_code == 2
    assert not (tmp_path / "suite").exists()
