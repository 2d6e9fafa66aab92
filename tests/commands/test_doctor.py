"""The command doctor says what is installed, and notices what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import goldens

from helpers.command_line import alter, call
from refoptim.commands import doctor


def test_doctor_finds_nothing_wrong_here_and_says_what_is_installed() -> None:
    result = call("doctor", "--json")
    document = json.loads(result.stdout)
    found = {x["name"]: x for x in document["findings"]}
    assert result.exit_code == 0 and document["healthy"]
    assert found["numpy"]["value"] == np.__version__
    assert found["matplotlib"]["value"].endswith("; it draws what plot and accuracy show")
    assert found["mpmath"]["value"].endswith("; it computes what accuracy compares with")
    assert found["goldens"]["ok"] and str(goldens.folder()) in found["goldens"]["value"]
    assert "all is well" in call("doctor").stdout


def test_doctor_notices_lost_subnormals_bad_roots_and_missing_goldens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flushed(make: Any, dtype: Any) -> None:
        raise RuntimeError("sums lose subnormals")

    root = np.sqrt
    for target, name, replacement, finding in [
        (doctor, "check_rounding", flushed, "float32: subnormals, rounding to nearest"),
        (np, "sqrt", lambda x: np.nextafter(root(x), np.inf), "square roots"),
        (doctor, "_version", lambda name: "1.26.4", "numpy"),
        (goldens, "folder", lambda: tmp_path, "goldens"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(target, name, replacement)
            result = call("doctor", "--json")
            wrong = [x["name"] for x in json.loads(result.stdout)["findings"] if x["ok"] is False]
            assert result.exit_code == 1 and finding in wrong
    monkeypatch.setattr(goldens, "folder", lambda: tmp_path)
    result = call("doctor")
    assert (
        result.exit_code == 1
        and "missing: torch-ieee/adadelta.json" in result.stdout
        and "something is wrong" in result.stdout
    )


def doctor_on_goldens() -> tuple[int, str]:
    result = call("doctor", "--json")
    findings = {x["name"]: x for x in json.loads(result.stdout)["findings"]}
    assert findings["goldens"]["ok"] is (result.exit_code == 0)
    return result.exit_code, findings["goldens"]["value"]


@pytest.mark.sweep(3)
@pytest.mark.parametrize("name", ["torch-installed/sgd.json", "reference/muon.json", "lr/CyclicLR.json"])
def test_doctor_names_each_golden_that_is_missing_altered_or_cut_off(copied: Path, name: str) -> None:
    assert doctor_on_goldens() == (0, f"{len([*copied.glob('*/*.json')])} files in {copied}")
    path = copied / name
    whole = path.read_bytes()
    alter(path)
    assert path.stat().st_size == len(whole) and path.read_bytes() != whole
    assert doctor_on_goldens()[0] == 1 and doctor_on_goldens()[1].endswith(f", damaged: {name}")
    path.write_bytes(whole[:-40])
    assert doctor_on_goldens()[1].endswith(f", damaged: {name}")
    path.unlink()
    assert doctor_on_goldens()[1].endswith(f", missing: {name}")
    path.write_bytes(whole)
    path.with_name("nobody.json").write_bytes(whole)
    assert doctor_on_goldens()[1].endswith(f", without cases: {name.partition('/')[0]}/nobody.json")


def test_doctor_names_a_few_of_many(copied: Path) -> None:
    missing = len(list((copied / "lr").iterdir()))
    shutil.rmtree(copied / "lr")
    code, value = doctor_on_goldens()
    assert code == 1 and value.count("missing: lr/") == 3 and value.endswith(f", and {missing - 3} more")
