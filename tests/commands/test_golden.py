"""The command golden does what its help and docs/check/goldens.md say."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import goldens
from refoptim.conformance.gradients import np_dtype
from refoptim.conformance.verify import ulps

import refoptim
from helpers import ROOT
from helpers.command_line import alter, call, fails
from refoptim.commands import describe

PAGE = (ROOT / "docs" / "check" / "goldens.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def made(path: Path, *arguments: Any) -> Path:
    result = call("golden", "generate", *arguments, "-o", path)
    assert result.exit_code == 0, result.output
    return path


def arrays(path: Path) -> dict[str, Any]:
    """Read an npz file as anybody would."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name != "header.json"}


def test_the_commands_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(COMMANDS) > 12
    for command in COMMANDS:
        name, *arguments = shlex.split(command)
        assert name == "refoptim" and call(*arguments).exit_code == 0, command


@pytest.mark.parametrize("group", [(), ("golden",)])
def test_every_command_of_the_help_is_there(group: tuple[str, ...]) -> None:
    names = re.findall(r"^  ([a-z-]+) ", call(*group, "--help").stdout.partition("Commands:")[2], re.MULTILINE)
    assert len(names) >= 4
    for name in names:
        assert call(*group, name, "--help").stdout.startswith("Usage:")


SETTINGS = {
    "SGD": {"lr": 0.3, "momentum": 0.7, "dampening": 0.2, "weight_decay": 0.1},
    "AdamW": {"lr": 0.02, "betas": (0.8, 0.95), "eps": 0.003, "weight_decay": 0.1, "amsgrad": True},
    "RMSprop": {"lr": 0.03, "alpha": 0.7, "eps": 0.01, "momentum": 0.4, "centered": True},
    "NAdam": {"lr": 0.05, "betas": (0.7, 0.9), "momentum_decay": 0.01},
    "SparseAdam": {"lr": 0.05, "betas": (0.7, 0.9), "eps": 0.01},
}


def options(settings: dict[str, Any]) -> list[str]:
    return [text for name, x in settings.items() for text in ("--set", f"{name}={x!r}".replace(" ", ""))]


@pytest.mark.parametrize("optimizer", SETTINGS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_trajectories_are_torchs(tmp_path: Path, optimizer: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    from refoptim.conformance.oracle import ieee, to_torch

    shapes = [(7, 2), (6,)]
    place = [text for shape in shapes for text in ("--shape", ",".join(map(str, shape)))]
    common = ["--dtype", dtype, "--steps", 6, "--seed", 9, "--gradient", "zeros"]
    x = arrays(made(tmp_path / "x.npz", optimizer, *options(SETTINGS[optimizer]), *place, *common))
    params = [to_torch(x[f"param.{i}"][0].copy()) for i in range(2)]
    witness = getattr(torch.optim, optimizer)(params, **SETTINGS[optimizer])
    for step in range(6):
        for i, p in enumerate(params):
            grad = to_torch(x[f"grad.{i}"][step])
            if optimizer == "SparseAdam":
                with torch.sparse.check_sparse_tensor_invariants(False):
                    grad = torch.sparse_coo_tensor(to_torch(x[f"rows.{i}"][step][None]), grad, shapes[i])
            p.grad = grad
        with ieee():
            witness.step()
        for i, p in enumerate(params):
            assert p.numpy().tobytes() == x[f"param.{i}"][step + 1].tobytes()
            for name, value in witness.state[p].items():
                mine = x[f"state.{i}.{name}"][step]
                assert mine == value if name == "step" else mine.tobytes() == value.numpy().tobytes()


def stream(seed: int, n: int) -> int:
    """Draw ``n`` of splitmix64, in Python's integers."""
    z = (seed + (n + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def normal(u: int, bits: int) -> Fraction:
    return Fraction(u >> 64 - bits) * Fraction(2) ** (1 - (u >> 1 & 7) - bits) * (-1 if u & 1 else 1)


def test_the_numbers_are_those_of_the_documented_stream(tmp_path: Path) -> None:
    x = arrays(made(tmp_path / "x.npz", "sgd", "--shape", "2,3", "--shape", "4", "--steps", 3, "--seed", 77))
    for i, (first, count) in enumerate([(0, 6), (6, 4)]):
        for step in range(4):
            row = x[f"param.{i}"][0] if step == 0 else x[f"grad.{i}"][step - 1]
            expected = [normal(stream(77, 10 * step + first + j), 24) for j in range(count)]
            assert [Fraction(float(value)) for value in row.ravel()] == expected


def test_every_format_holds_the_same_words(tmp_path: Path) -> None:
    arguments = ("adam", "--shape", "2,3", "--steps", 3, "--gradient", "special", "--seed", 4)
    expected = arrays(made(tmp_path / "x.npz", *arguments))
    assert np.isnan(expected["param.0"]).any()
    document = json.loads(made(tmp_path / "x.json", *arguments).read_text())
    for name, entry in document["tensors"].items():
        words = [int(word, 16) for word in entry["bits"].split()]
        kind = {"float32": np.uint32, "int64": np.uint64}[entry["dtype"]]
        assert np.array(words, kind).tobytes() == expected[name].tobytes() and entry["shape"] == [*expected[name].shape]
    assert document["tensors"].keys() == expected.keys()
    data = made(tmp_path / "x.safetensors", *arguments).read_bytes()
    start = 8 + struct.unpack_from("<Q", data)[0]
    table = json.loads(data[8:start])
    header = json.loads(table.pop("__metadata__")["header"])
    assert start % 8 == 0 and header["case"] == document["case"] and table.keys() == expected.keys()
    for name, entry in table.items():
        begin, end = entry["data_offsets"]
        assert data[start + begin : start + end] == expected[name].tobytes()
    lines = made(tmp_path / "x.csv", *arguments).read_text().partition("\n")[2]
    for row in csv.DictReader(io.StringIO(lines)):
        x = expected[row["tensor"]]
        value = x.reshape(len(x), -1)[int(row["row"]), int(row["element"])]
        assert int(row["bits"], 16).to_bytes(x.itemsize, "little") == value.tobytes()
        assert float(row["value"]) == value or (math.isnan(value) and row["value"] == "nan")


@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("c++")), reason="no C and C++ compiler")
@pytest.mark.parametrize("language", ["c99", "c++98"])
def test_the_c_header_compiles_and_holds_the_words(tmp_path: Path, language: str) -> None:
    arguments = ("sgd", "--set", "momentum=0.9", "--shape", "3", "--shape", "0", "--dtype", "float64")
    made(tmp_path / "golden.h", *arguments)
    expected = arrays(made(tmp_path / "x.npz", *arguments))
    code = (
        '#include <stdio.h>\n#include "golden.h"\nint main(void) { fwrite(golden_param_0, 8, 33, stdout); return 0; }'
    )
    (tmp_path / "main.c").write_text(code)
    flags = ["-x", "c++" if "+" in language else "c", f"-std={language}", "-Wall", "-Werror", "-Wno-unused-variable"]
    subprocess.run(["cc", *flags, "main.c", "-o", "main"], cwd=tmp_path, check=True)
    assert subprocess.run([tmp_path / "main"], check=True, capture_output=True).stdout == expected["param.0"].tobytes()


@pytest.mark.sweep(2)
@pytest.mark.parametrize("suffix", [".npz", ".json", ".safetensors", ".csv", ".h"])
def test_the_same_command_makes_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    code = (
        "import sys, refoptim; refoptim.__path__.append(sys.argv.pop(1)); from refoptim.commands.main import main; "
        "main(['golden', 'generate', *sys.argv[1:]])"
    )
    arguments = ["adamw", "--dtype", "complex64", "--shape", "5", "-o"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, str(ROOT), *arguments, str(tmp_path / f"x{suffix}")]
    subprocess.run(command, check=True, env=environment)
    theirs = (tmp_path / f"x{suffix}").rename(tmp_path / "theirs").read_bytes()
    made(tmp_path / f"x{suffix}", *arguments[:-1])
    assert (tmp_path / f"x{suffix}").read_bytes() == theirs


def test_what_is_written_is_told_as_json(tmp_path: Path) -> None:
    path, suite = tmp_path / "x.csv", tmp_path / "suite"
    result = call("golden", "generate", "sgd", "--json", "-o", path)
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert json.loads(result.stdout) == {"path": str(path), "bytes": len(data), "sha256": digest}
    assert call("golden", "generate", "sgd", "-o", path).stdout == ""
    result = call("golden", "export-suite", suite, "--pattern", "asgd-*", "--dtype", "float32", "--json")
    told = json.loads(result.stdout)
    assert told["folder"] == str(suite) and len(told["cases"]) > 0
    names = {f"{case['case']}.{case['dtype']}" for case in told["cases"]}
    assert names == {folder.name for folder in suite.iterdir() if folder.is_dir()}


def test_no_date_stands_in_an_npz_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(made(tmp_path / "x.npz", "sgd")) as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_first_step_that_parts_is_named_whatever_the_array(tmp_path: Path) -> None:
    path = made(tmp_path / "x.json", "sgd", "--shape", "2", "--shape", "3", "--steps", 6)
    document = json.loads(path.read_text())
    del document["sha256"]
    for name, place in [("param.0", 5 * 2), ("param.1", 2 * 3 + 1), ("param.1", 2 * 3 + 2), ("param.1", 6 * 3)]:
        words = document["tensors"][name]["bits"].split()
        words[place] = f"{int(words[place], 16) + 2:08x}"
        document["tensors"][name]["bits"] = " ".join(words)
    path.write_text(json.dumps(document))
    (case,) = json.loads(call("golden", "verify", path, "--json").stdout)["cases"]
    assert (case["first"]["step"], case["first"]["tensor"], case["first"]["element"]) == (2, "param.1", [1])
    assert (case["differing"], case["max_ulp"]) == (4, 2)


@pytest.mark.parametrize("suffix", [".npz", ".json", ".safetensors", ".csv"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "complex64"])
def test_what_is_written_is_exact_when_read(tmp_path: Path, suffix: str, dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    path = made(tmp_path / f"x{suffix}", "adagrad", "--dtype", dtype, "--gradient", "extreme", "--shape", "2,9")
    document = json.loads(call("golden", "verify", path, "--json").stdout)
    (case,) = document["cases"]
    pair = 2 if dtype == "complex64" else 1
    assert document["holds"] and case["summary"] == "EXACT"
    assert case["compared"] == pair * 18 * (11 + 10 + 10) + 10


@pytest.mark.parametrize("optimizer", [x.__name__ for x in describe.optimizers()])
def test_every_optimizer_can_be_generated_and_verified(tmp_path: Path, optimizer: str) -> None:
    path = made(tmp_path / "x.npz", optimizer, "--steps", 6)  # some stand still at first
    assert call("golden", "verify", path).exit_code == 0
    x = arrays(path)
    assert not np.array_equal(x["param.0"][0], x["param.0"][-1])


def candidate(parameters: list[list[float]]) -> dict[str, Any]:
    """Return what another program writes: SGD on one parameter of two float64 elements."""
    gradient = {"source": "stream", "seed": 3, "kinds": ["normal"]}
    case = {"optimizer": "SGD", "hyper": {"lr": 0.5, "momentum": 0.25}, "dtype": "float64", "shapes": [[2]], "steps": 3}
    bits = " ".join(struct.pack(">d", x).hex() for row in parameters for x in row)
    tensors = {"param.0": {"dtype": "float64", "shape": [len(parameters), 2], "bits": bits}}
    return {"format": "refoptim trajectory", "schema": 1, "case": {**case, "gradient": gradient}, "tensors": tensors}


def sgd(damp_first: bool) -> list[list[float]]:
    """Compute that case on plain floats."""
    numbers = [float(normal(stream(3, n), 53)) for n in range(8)]
    p, rows = numbers[:2], [numbers[:2]]
    buf = [0.0, 0.0]
    for step in range(3):
        for i in range(2):
            g = numbers[2 + 2 * step + i]
            buf[i] = g if step == 0 and not damp_first else 0.25 * buf[i] + (0.5 if damp_first and step == 0 else 1) * g
        p = [x - 0.5 * b for x, b in zip(p, buf, strict=True)]
        rows.append(p)
    return rows


def test_a_file_of_another_program_is_judged(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(candidate(sgd(False))))
    assert call("golden", "verify", path).stdout.startswith("mine.json\tEXACT\t0 of 8\n")
    right, wrong = sgd(False), sgd(True)
    path.write_text(json.dumps(candidate(wrong)))
    result = call("golden", "verify", path, "--json")
    (case,) = json.loads(result.stdout)["cases"]
    first = case["first"]
    assert result.exit_code == 1 and not case["holds"] and case["differing"] == 6
    assert (first["step"], first["tensor"], first["element"]) == (1, "param.0", [0])
    assert (first["expected"], first["found"]) == (right[1][0], wrong[1][0])
    assert first["absolute"] == abs(right[1][0] - wrong[1][0])
    assert first["relative"] == first["absolute"] / abs(right[1][0])
    right[2][1] = -math.nan
    path.write_text(json.dumps(candidate(right)))
    result = call("golden", "verify", path)
    assert result.exit_code == 1 and "step 2, param.0 [1]" in result.stdout and "a NaN on one side" in result.stdout
    assert call("golden", "verify", path, "--rtol", 1e9, "--atol", 1e9).exit_code == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_distances_count_the_numbers_between(dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    kind = np_dtype(dtype)
    word = np.dtype(f"u{kind.itemsize}")
    bits = kind.itemsize * 8
    one = int(np.ones(1, kind).view(word)[0])
    infinite = int(np.full(1, np.inf, kind).view(word)[0])
    minus, nan = 1 << (bits - 1), infinite + 1
    pairs = {
        (one, one): 0,
        (one, one + 5): 5,
        (one - 3, one + 4): 7,
        (0, minus): 1,
        (2, minus + 3): 6,
        (infinite - 1, infinite): 1,
        (infinite, minus + infinite): 2 * infinite + 1,
        (nan, minus + nan + 1): 0,
        (nan, one): 2**64 - 1,
    }
    for (x, y), distance in pairs.items():
        a, b = (np.array([z], word).view(kind) for z in (x, y))
        assert int(ulps(a, b)[0]) == int(ulps(b, a)[0]) == distance, (x, y)


def test_distances_agree_with_nextafter() -> None:
    x = np.array([0.0, -0.0, 1.0, -2.5, 5e-324, 3.1e-308])
    for count in range(1, 5):
        y = x
        for _ in range(count):
            y = np.nextafter(y, np.inf)
        crosses = np.signbit(x) & ~np.signbit(y)
        assert (ulps(x, y) == count + crosses).all()


def test_closures_are_driven_on_the_quadratic(tmp_path: Path) -> None:
    x = arrays(
        made(tmp_path / "x.npz", "lbfgs", "--set", "max_iter=3", "--dtype", "float64", "--shape", 6, "--seed", 8)
    )
    start = [normal(stream(8, n), 53) for n in range(6)]
    targets = [normal(stream(8, 6 + n), 53) for n in range(6)]
    exact = sum((p - t) ** 2 / 2 / 2 ** (i % 4) for i, (p, t) in enumerate(zip(start, targets, strict=True)))
    assert x["loss"][0] == pytest.approx(float(exact), rel=1e-15)
    assert x["loss"][-1] < x["loss"][0] * 1e-6
    np.testing.assert_allclose(x["param.0"][-1], [float(t) for t in targets], atol=1e-3)
    assert (np.diff(x["state.0.n_iter"]) >= 0).all() and x["state.0.func_evals"][0] == 3 * 5 // 4


def test_schedulers_give_their_curve(tmp_path: Path) -> None:
    arguments = ("--set", "step_size=3", "--set", "gamma=0.4", "--set", "lr=0.7", "--steps", 7)
    lr, expected = arrays(made(tmp_path / "x.npz", "steplr", *arguments))["lr"], [0.7]
    for epoch in range(1, 8):
        expected.append(expected[-1] * 0.4 if epoch % 3 == 0 else expected[-1])
    assert lr.tolist() == expected
    x = arrays(made(tmp_path / "y.npz", "OneCycleLR(max_lr=0.3, total_steps=9)", "--steps", 8))
    assert x["momentum"].argmin() == x["lr"].argmax() and x["lr"].max() <= 0.3
    path = made(tmp_path / "z.csv", "ReduceLROnPlateau", "--set", "patience=0", "--steps", 9)
    assert call("golden", "verify", path).stdout.startswith("z.csv\tEXACT\t0 of 19")
    path = made(tmp_path / "w.csv", "LambdaLR", "--set", "lr_lambda=lambda epoch: 0.5 ** epoch")
    assert "has a lambda" in fails("golden", "verify", path)


def test_goldens_that_come_with_the_package_are_shown_and_verified() -> None:
    path = goldens.folder() / "torch-ieee" / "rprop.json"
    shown = json.loads(call("golden", "show", path, "--json").stdout)
    assert shown["optimizer"] == "Rprop" and shown["provenance"]["witness"] == "torch-ieee"
    result = call("golden", "verify", path)
    assert result.exit_code == 0 and result.stdout.count("EXACT") == len(shown["trajectories"])
    result = call("golden", "verify", goldens.folder() / "torch-ieee" / "adafactor.json")
    assert result.exit_code == 1 and "ULP" in result.stdout


@pytest.mark.parametrize("name", ["CyclicLR", "LambdaLR", "ReduceLROnPlateau"])
def test_goldens_of_schedulers_are_shown_and_verified(name: str, copied: Path) -> None:
    path = copied / "lr" / f"{name}.json"
    golden = json.loads(path.read_text(encoding="utf-8"))
    shown = json.loads(call("golden", "show", path, "--json").stdout)
    assert shown["scheduler"] == name and shown["provenance"] == golden["provenance"]
    assert [x["scheduler"] for x in shown["cases"]] == [x["scheduler"] for x in golden["cases"]]
    assert golden["cases"][4]["scheduler"] in call("golden", "show", path).stdout
    assert call("golden", "verify", path, "--rtol", "1e-12").exit_code == 0
    last = golden["cases"][-1]["lr"]
    last[1] = re.sub(r"^(\S+ \S+) \S+", r"\1 0x1.8p+3", last[1])
    goldens.write(path, {key: x for key, x in golden.items() if key != "checksum"})
    result = call("golden", "verify", path, "--rtol", "1e-12", "--json")
    verdicts = json.loads(result.stdout)["cases"]
    assert result.exit_code == 1 and [x["holds"] for x in verdicts] == [True] * (len(verdicts) - 1) + [False]
    assert verdicts[-1]["first"]["step"] == 2 and verdicts[-1]["first"]["found"] == 12.0
    alter(path)
    assert "was altered" in fails("golden", "verify", path) and "was altered" in fails("golden", "show", path)


def test_a_golden_that_parts_between_its_steps_is_caught(tmp_path: Path) -> None:
    golden = goldens.read(goldens.folder() / "reference" / "rprop.json")
    golden["trajectories"][1]["sha256"] = "0" * 64
    goldens.write(tmp_path / "rprop.json", golden)
    result = call("golden", "verify", tmp_path / "rprop.json")
    assert result.exit_code == 1 and result.stdout.count("parts between the recorded steps") == 1


def test_show_says_what_was_run(tmp_path: Path) -> None:
    path = made(tmp_path / "x.safetensors", "adam", "--set", "lr=0.02", "--shape", "2x3", "--seed", 12)
    shown = json.loads(call("golden", "show", path, "--json").stdout)
    assert shown["case"]["hyper"]["lr"] == 0.02 and shown["case"]["gradient"]["seed"] == 12
    assert {"name": "state.0.exp_avg_sq", "dtype": "float32", "shape": [10, 2, 3]} in shown["arrays"]
    assert shown["provenance"]["version"] == refoptim.__version__
    plain = call("golden", "show", path).stdout
    assert "param.0\tfloat32\t11 x 2 x 3" in plain and '"lr": 0.02' in plain


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("adamm", "-o", "x.npz"), "there is no optimizer or scheduler 'adamm': did you mean Adam"),
        (("xyzzy", "-o", "x.npz"), "'refoptim list' shows them all"),
        (("adam", "--set", "lr", "-o", "x.npz"), "NAME=VALUE"),
        (("adam", "--set", "lr=1", "--set", " lr =2", "-o", "x.npz"), "lr is given twice"),
        (("adam", "--set", "lr=-1", "-o", "x.npz"), "Invalid learning rate: -1"),
        (("adam", "--set", "lr=nan", "-o", "x.npz"), "lr must be a real number, got 'nan'"),
        (("adam", "--set", "rho=1", "-o", "x.npz"), "Adam has no hyperparameter 'rho': it has lr, betas"),
        (("adam", "--shape", "3,a", "-o", "x.npz"), "a shape is sizes like 3,4"),
        (("adam", "--shape", "100000,100000", "-o", "x.npz"), "more than 268435456 bytes"),
        (("adam", "--steps", "1000001", "-o", "x.npz"), "1000001 steps"),
        (("adam", "-o", "x.txt"), "the suffix of x.txt stands for no format"),
        (("adam", "--dtype", "complex128", "-o", "x.safetensors"), "safetensors holds no complex128"),
        (("muon", "--shape", "3", "-o", "x.npz"), "Muon"),
        (("sparseadam", "--shape", "", "-o", "x.npz"), "every parameter needs a first axis of rows"),
        (("lbfgs", "--gradient", "tiny", "-o", "x.npz"), "LBFGS runs on the quadratic alone, got 'tiny'"),
        (("lbfgs", "--dtype", "float16", "-o", "x.npz"), "does not support 16-bit parameters"),
        (("adam", "--gradient", "mlp", "--shape", "3", "-o", "x.npz"), "the gradient mlp is none of"),
        (("StepLR", "-o", "x.npz"), "step_size"),
        (("StepLR(step_size=2)", "--set", "gamma=0.3", "-o", "x.npz"), "not both"),
        (("StepLR", "--set", "step_size=0", "-o", "x.npz"), "step_size"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x.npz", "x.safetensors"):
        (tmp_path / name).write_text("what was there")
    assert says in fails("golden", "generate", *arguments)
    assert {path.read_text() for path in tmp_path.iterdir()} == {"what was there"}


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    says = fails("golden", "generate", "sgd", "--dtype", "bfloat16", "-o", tmp_path / "x.npz")
    assert says == "Error: this needs ml_dtypes: pip install ml_dtypes"


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, refoptim; refoptim.__path__.append(sys.argv[1]); from refoptim.commands.main import main; "
        "main(['doctor'], standalone_mode=False); "
        "print(sorted({'torch', 'cupy', 'scipy', 'sklearn', 'jax', 'matplotlib'} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(ROOT)]
    result = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]"
