"""Files that torch 2.13 wrote, read without torch: the bits that torch says they hold, and optimizers take them."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers import ROOT
from helpers.pt_files import FILES, OPTIMIZERS, RECORDED, described, in_refoptim, path_of
from refoptim.checkpoint import pt

ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes, which gives NumPy bfloat16, is not installed")

EXPECTED = json.loads((RECORDED / "expected.json").read_text(encoding="utf-8"))


def read(name: str) -> Any:
    return pt.load(path_of(name))


def with_texts(x: Any) -> Any:
    """Return what torch says of data, with functions as the texts that stand for them here."""
    if isinstance(x, dict) and "function" in x:
        module = "swa_utils" if x["function"].startswith("SWALR") else "lr_scheduler"
        return f"torch.optim.{module}.{x['function']}"
    if isinstance(x, dict):
        return {key: with_texts(y) for key, y in x.items()}
    return [*map(with_texts, x)] if isinstance(x, list) else x


def test_all_files_are_there() -> None:
    assert {*EXPECTED} == {*FILES}
    assert {path.name for path in RECORDED.glob("*.pt")} == {path_of(name).name for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_a_file_holds_what_torch_says(name: str) -> None:
    assert json.loads(json.dumps(described(read(name)))) == with_texts(EXPECTED[name])


@pytest.mark.parametrize("name", FILES)
def test_it_is_the_same_when_it_was_written_again(name: str, tmp_path: Path) -> None:
    pt.save(tmp_path / "x.pt", read(name))
    assert json.loads(json.dumps(described(pt.load(tmp_path / "x.pt")))) == with_texts(EXPECTED[name])


def dtype_of(name: str) -> Any:
    kind = OPTIMIZERS[name][1]
    return ml_dtypes.bfloat16 if kind == "bfloat16" else np.dtype(kind)


def entries(x: Any) -> dict[Any, Any]:
    """Return the items of a dict as ``described`` has it."""
    return dict(next(iter(x.values())))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_optimizer_takes_it(name: str) -> None:
    optimizer = in_refoptim(refoptim, name, dtype_of(name))
    optimizer.load_state_dict(read(name))
    expected = entries(entries(EXPECTED[name])["state"])
    found = optimizer.state_dict()["state"]
    assert found.keys() == expected.keys()
    compared = 0
    for i, values in found.items():
        for key, x in entries(expected[i]).items():
            if isinstance(x, dict) and x.get("array", [0, []])[1]:
                assert described(values[key]) == x
                compared += 1
    assert compared
    groups = EXPECTED[name]["dict"][1][1]["list"]
    assert [{"float": [float(g["lr"]).hex(), "0x0.0p+0"]} for g in optimizer.param_groups] == [
        entries(g)["lr"] for g in groups
    ]


def test_old_states_are_taken() -> None:
    states = read("schedulers of 1.x")
    optimizer = refoptim.SGD([np.zeros(1)], lr=0.7, momentum=0.1)
    cycle = refoptim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=9)
    optimizer.load_state_dict(states["optimizer"])
    cycle.load_state_dict(states["OneCycleLR"])
    assert (cycle.total_steps, cycle._anneal_func_type, cycle.last_epoch) == (40, "linear", 3)
    adam = in_refoptim(refoptim, "adam amsgrad", np.float32)
    adam.load_state_dict(read("optimizer of 1.x"))
    assert [x["step"] for x in adam.state_dict()["state"].values()] == [3, 3]


def test_files_before_the_byte_order_was_noted(tmp_path: Path) -> None:
    """torch 1.6 wrote no byte order, no alignment and no number of its own, and named the root after the file."""
    with zipfile.ZipFile(path_of("sgd")) as archive, zipfile.ZipFile(tmp_path / "old.pt", "w") as older:
        for name in archive.namelist():
            if name.split("/", 1)[1].startswith(("data", "version")):
                older.writestr(name.replace("sgd/", "model 1.6/"), archive.read(name))
        assert len(older.namelist()) == 4
    assert described(pt.load(tmp_path / "old.pt")) == described(read("sgd"))


def test_torch_is_not_imported() -> None:
    code = (
        "import refoptim, sys; before = set(sys.modules); from refoptim.checkpoint import pt;"
        f"pt.load({str(path_of('checkpoint'))!r}); print('torch' in sys.modules, 'ml_dtypes' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
