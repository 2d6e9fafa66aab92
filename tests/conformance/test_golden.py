"""The cases are what cases must be, and refoptim's trajectories are the recorded ones, bit for bit."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from refoptim.conformance import cases, goldens, gradients, record
from refoptim.conformance.reference import Reference
from refoptim.conformance.trajectory import bits, decode, describe, encode, run, trajectory

from helpers import ROOT

DOCS = ROOT / "docs" / "contract" / "goldens.md"
STEMS = cases.stems()
OF_SUMS = {"float32": 4e-6, "float64": 1e-14}
CLOSE = {
    "adafactor": {"float32": 1e-6, "float64": 1e-14},
    **dict.fromkeys(["lamb", "lars", "mars", "novograd", "prodigy", "stable_adamw"], OF_SUMS),
    "soap": {"float32": 2e-5, "float64": 3e-14},
}
"""Rules whose sums torch adds in another order: the largest error, relative to the largest magnitude in an array."""


BY_LAPACK = {"soap"}
"""Rules whose package calls LAPACK: its bits depend on the machine."""


def has(dtype: str) -> bool:
    """Tell whether arrays of a dtype can be made here: bfloat16 needs ml_dtypes."""
    try:
        gradients.np_dtype(dtype)
    except ImportError:
        return False
    return True


def golden(witness: str, stem: str) -> dict[str, Any]:
    return goldens.read(goldens.folder() / witness / f"{stem}.json")


@cache
def ours(stem: str) -> list[dict[str, Any]]:
    """Run all cases of an optimizer."""
    return [trajectory(Reference(), case, dtype) for case in cases.load(stem) for dtype in case.dtypes if has(dtype)]


def recorded(witness: str, stem: str) -> list[dict[str, Any]]:
    return [entry for entry in golden(witness, stem)["trajectories"] if has(entry["dtype"])]


EXACT = [stem for stem in STEMS if stem not in CLOSE and goldens.witnesses(stem) != ("reference",)]
"""Those that have the bits of a witness from elsewhere."""


@pytest.mark.parametrize("stem", EXACT)
def test_trajectories_are_those_of_torch_or_of_the_package_that_owns_the_rule(stem: str) -> None:
    witness = goldens.witnesses(stem)[0]
    asked = {(case.id, dtype) for case, dtype in goldens.runs(witness, stem)}
    mine_of = [x for x in ours(stem) if (x["case"], x["dtype"]) in asked]
    for mine, theirs in zip(mine_of, recorded(witness, stem), strict=True):
        assert mine == theirs, f"{mine['case']} in {mine['dtype']}"


@pytest.mark.parametrize("stem", STEMS)
def test_trajectories_are_those_recorded_from_refoptim(stem: str) -> None:
    for mine, theirs in zip(ours(stem), recorded("reference", stem), strict=True):
        assert mine == theirs, f"{mine['case']} in {mine['dtype']}"


@pytest.mark.parametrize("stem", CLOSE)
def test_trajectories_with_sums_are_close_to_torchs(stem: str) -> None:
    witness = goldens.witnesses(stem)[0]
    asked = {(case.id, dtype) for case, dtype in goldens.runs(witness, stem)}
    mine_of = [x for x in ours(stem) if (x["case"], x["dtype"]) in asked]
    for mine, theirs in zip(mine_of, recorded(witness, stem), strict=True):
        assert farthest(mine, theirs) <= CLOSE[stem][mine["dtype"]], mine["case"]


def farthest(mine: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Return the largest error of what the second of two trajectories holds, in any of its steps."""
    assert list(mine["steps"]) == list(theirs["steps"])
    errors = [0.0]
    for step in mine["steps"]:
        kept = [{*entries} for entries in theirs["steps"][step]["state"]]
        pairs = zip(leaves(mine["steps"][step], kept), leaves(theirs["steps"][step], kept), strict=True)
        errors += [error(x, y) for x, y in pairs]
    return max(errors)


def leaves(frame: dict[str, Any], kept: list[set[str]]) -> list[Any]:
    """Return the parameters and some state of a frame as arrays and integers, in order."""
    state = [entries[name] for entries, names in zip(frame["state"], kept, strict=True) for name in sorted(names)]
    return [decode(entry) for entry in (*frame["parameters"], *state)]


def error(x: Any, y: Any) -> float:
    """Return the largest error, relative to the largest finite magnitude; infinite where NaN or infinities differ."""
    x, y = (np.asarray(z, np.float64) for z in (x, y))
    finite = np.isfinite(y)
    if not np.array_equal(np.where(finite, 0, x), np.where(finite, 0, y), equal_nan=True):
        return math.inf
    gap = np.max(np.abs(x[finite] - y[finite]), initial=0)
    return float(gap / np.max(np.abs(y[finite]))) if gap else 0.0


def test_errors_are_relative_and_nan_is_not_lost() -> None:
    x = np.array([1.0, 4.0, np.nan, np.inf])
    assert error(x, x) == 0
    assert error([1.5, 4.0, np.nan, np.inf], x) == 0.125
    assert error(x, [1, np.nan, np.nan, np.inf]) == math.inf
    assert error(x, [1, 4, np.nan, -np.inf]) == math.inf
    assert math.isnan(error([1.0, np.nan], [1.0, 2.0]))


@pytest.mark.parametrize(("stem", "witness"), [(stem, x) for stem in STEMS for x in goldens.witnesses(stem)])
def test_goldens_hold_every_case(stem: str, witness: str) -> None:
    found = golden(witness, stem)
    runs = goldens.runs(witness, stem)
    assert [(entry["case"], entry["dtype"]) for entry in found["trajectories"]] == [(c.id, d) for c, d in runs]
    for entry, (case, dtype) in zip(found["trajectories"], runs, strict=True):
        assert list(entry["steps"]) == [str(step) for step in case.record]
        for frame in entry["steps"].values():
            assert [(p["dtype"], tuple(p["shape"])) for p in frame["parameters"]] == [(dtype, s) for s in case.shapes]
    assert found["provenance"]["witness"] == witness
    places = {"torch-installed": {"platform"}, "package-ieee": {"package", "torch"}}
    place = places.get(witness, set())
    assert set(found["provenance"]) == {"witness", "version", "arithmetic", "numpy", "date"} | place


@pytest.mark.parametrize("stem", [stem for stem in STEMS if cases.witness(stem)])
def test_the_extra_has_the_packages_of_the_goldens(stem: str) -> None:
    provenance = golden("package-ieee", stem)["provenance"]
    needed = f'"{provenance["package"]}=={provenance["version"]}"'
    assert needed in (ROOT / "setup.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("stem", STEMS)
def test_cases_have_names_and_comments_of_one_kind(stem: str) -> None:
    for case in cases.load(stem):
        assert case.id.startswith(stem.replace("_", "-") + "-")
        assert re.fullmatch(r"[A-Z][^.]*\.", case.comment), case.comment
        assert "should" not in case.comment


def test_every_optimizer_can_be_resumed() -> None:
    found = [case for stem in STEMS for case in cases.load(stem)]
    assert {flag for case in found for flag in case.flags} <= set(cases.flags())
    assert len({case.id for case in found}) == len(found)
    assert {case.optimizer for case in found if case.resume} == {case.optimizer for case in found}
    assert all(re.fullmatch(r"([A-Z][a-z0-9]*)+", flag) for flag in cases.flags())


def case_with(**changes: Any) -> dict[str, Any]:
    """Return a file that holds one valid case, with some of its fields changed."""
    valid = {
        "id": "adam-x",
        "comment": "Does something.",
        "hyper": {"lr": 0.02, "betas": [0.8, 0.95], "eps": 0.003, "weight_decay": 0.1},
        "dtypes": ["float32"],
        "shapes": [[4]],
        "steps": 5,
        "record": [5],
        "gradient": {"source": "stream", "seed": 1, "kinds": ["normal"]},
        "flags": ["EpsInsideRoot"],
    }
    return {"schema": 1, "optimizer": "Adam", "cases": [valid | changes]}


HYPER = {"lr": 0.02, "betas": [0.8, 0.95], "eps": 0.003, "weight_decay": 0.1}
STREAM = {"source": "stream", "seed": 1, "kinds": ["normal"]}
BAD_CASES: list[tuple[dict[str, Any], str]] = [
    (case_with(hyper=HYPER | {"weight_decay": 0}), "weight_decay at a neutral value"),
    (case_with(hyper=HYPER | {"lr": 1e-3}), "lr at a neutral value"),
    (case_with(hyper=HYPER | {"betas": [0.9, 0.95]}), "betas at a neutral value"),
    (case_with(hyper={key: HYPER[key] for key in ("lr", "betas", "eps")}), "weight_decay at a neutral value"),
    (case_with(neutral={"lr": "because"}), "lr at a neutral value, or wrongly says it has"),
    (case_with(hyper=HYPER | {"lr": -0.1}), "sets lr: Invalid learning rate: -0.1"),
    (case_with(hyper=HYPER | {"lr": math.nan}), "sets lr: Invalid learning rate: nan"),
    (case_with(hyper=HYPER | {"rho": 0.5}), "sets rho, which is no hyperparameter"),
    (case_with(set=[{"step": 2, "beta": 0.5}]), "sets beta, which is no hyperparameter"),
    (case_with(set=[{"step": 6, "lr": 0.5}]), "sets hyperparameters at steps [6]"),
    (case_with(flags=["Nonsense"]), "unknown flags or none: ['Nonsense']"),
    (case_with(flags=[]), "unknown flags or none: []"),
    (case_with(comment=""), "has no comment"),
    (case_with(dtypes=["int32"]), "has dtypes ['int32']"),
    (case_with(dtypes=[]), "has dtypes []"),
    (case_with(shapes=[[-1]]), "has shapes [(-1,)]"),
    (case_with(shapes=[]), "has shapes []"),
    (case_with(shapes=[[10**6, 10**6]]), "more than 10,000 elements"),
    (case_with(steps=0), "has 0 steps"),
    (case_with(steps=101), "has 101 steps"),
    (case_with(record=[1]), "does not record its last step"),
    (case_with(record=[5, 2]), "does not record steps in order"),
    (case_with(resume=1), "resumes at step 1"),
    (case_with(skip=[[1, 1]]), "skips [[1, 1]]"),
    (case_with(colour="red"), "has unknown keys: ['colour']"),
    (case_with(gradient=STREAM | {"source": "dice"}), "has the gradient source 'dice'"),
    (case_with(gradient=STREAM | {"kinds": ["odd"]}), "has kinds of numbers ['odd', 'normal']"),
    (case_with(gradient=STREAM | {"seed": -1}), "has the seed -1"),
    (
        case_with(gradient={"source": "rows", "seed": 1, "kinds": ["tiny"], "nnz": 5, "rows": 2}),
        "more than two entries",
    ),
    (case_with(gradient={"source": "rows", "seed": 1, "kinds": ["tiny"], "nnz": 5, "rows": 5}), "do not keep apart"),
    (case_with(gradient={"source": "quadratic", "seed": 1, "kinds": ["tiny"]}), "describes its gradient by ['kinds']"),
    (case_with(plain=True), "is plain, and sets something"),
    (case_with(plain=True, hyper={}, set=[{"step": 2, "lr": 0.5}]), "is plain, and sets something"),
    (case_with(plain=True, hyper={}, resume=2), "is plain, and sets something"),
    (case_with(plain=True, hyper={}, flags=["Nonsense"]), "unknown flags or none: ['Nonsense']"),
    (case_with(hyper={}), "at a neutral value"),
    (case_with() | {"schema": 2}, "has schema 2, expected 1"),
    (case_with() | {"optimizer": "Nobody"}, "names no optimizer: 'Nobody'"),
    (case_with() | {"more": 1}, "has other keys"),
    (case_with() | {"cases": case_with()["cases"] * 2}, "uses an id twice"),
    (case_with() | {"cases": [{"id": "adam-x"}]}, "lacks keys"),
    (case_with() | {"cases": [{}]}, "holds an entry without an id"),
]


def test_the_case_that_is_broken_below_is_valid() -> None:
    for text in (case_with(), case_with(plain=True, hyper={}, flags=[])):
        assert [case.id for case in cases.parse(text, "adam.json")] == ["adam-x"]


@pytest.mark.parametrize(("text", "message"), BAD_CASES)
def test_bad_cases_are_refused(text: dict[str, Any], message: str) -> None:
    with pytest.raises(cases.CaseError, match=re.escape(message)):
        cases.parse(text, "adam.json")


def sample(tmp_path: Path) -> Path:
    """Copy a golden to where it may be broken."""
    return Path(shutil.copy(goldens.folder() / "torch-ieee" / "rprop.json", tmp_path))


def test_one_altered_bit_is_noticed_by_the_checksum(tmp_path: Path) -> None:
    path = sample(tmp_path)
    text = path.read_text()
    assert goldens.read(path)["optimizer"] == "Rprop"
    place = text.index('"bits": "') + len('"bits": "')
    path.write_text(text[:place] + f"{int(text[place], 16) ^ 1:x}" + text[place + 1 :])
    with pytest.raises(goldens.GoldenError, match="was altered after it was recorded"):
        goldens.read(path)


def test_one_altered_bit_is_noticed_by_the_comparison() -> None:
    altered = json.loads(json.dumps(golden("torch-ieee", "sgd")["trajectories"][0]))
    assert altered == ours("sgd")[0]
    words = altered["steps"]["20"]["parameters"][1]["bits"]
    altered["steps"]["20"]["parameters"][1]["bits"] = words[:-1] + f"{int(words[-1], 16) ^ 1:x}"
    assert altered != ours("sgd")[0]


BREAKS: list[tuple[Callable[[str], str], str]] = [
    (lambda text: text[: len(text) // 2], "is not JSON"),
    (lambda text: "[]", "is no golden"),
    (lambda text: text.replace('"schema": 1', '"schema": 2'), "has schema 2, expected 1"),
    (lambda text: text.replace('"checksum"', '"sum"'), "is no golden"),
    (lambda text: text.replace("2.13.0", "2.12.0"), "was altered"),
]


@pytest.mark.parametrize(("change", "message"), BREAKS)
def test_broken_goldens_are_refused(change: Callable[[str], str], message: str, tmp_path: Path) -> None:
    path = sample(tmp_path)
    path.write_text(change(path.read_text()))
    with pytest.raises(goldens.GoldenError, match=message):
        goldens.read(path)


def test_recording_again_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "reference" / "sparse_adam.json"
    dated = golden("reference", "sparse_adam")
    dated["provenance"]["date"] = "2001-02-03"
    goldens.write(path, {key: x for key, x in dated.items() if key != "checksum"})
    before = path.read_bytes()
    same_place = record.provenance("reference") == record.undated(dated)["provenance"]
    record.main(["--witness", "reference", "--only", "sparse_adam", "--out", str(tmp_path)])
    assert (path.read_bytes() == before) is same_place
    assert goldens.read(path)["trajectories"] == dated["trajectories"]
    after = path.read_bytes()
    record.main(["--witness", "reference", "--only", "sparse_adam", "--out", str(tmp_path)])
    assert path.read_bytes() == after


def test_recording_everything_records_the_schedules_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: commands.append(command[2:]))
    schedules = ["refoptim.conformance.record_lr", "--out", str(tmp_path / "lr")]
    record.main(["--out", str(tmp_path)])
    assert tuple(command[2] for command in commands[:-1]) == goldens.WITNESSES and commands[-1] == schedules
    lists = [command[command.index("--only") + 1 :] for command in commands[:-1]]
    assert all(lists) and all("adam" not in x for x in lists[2:3]) and set(STEMS) == set(lists[-1])
    commands.clear()
    record.main(["--only", "adam", "--out", str(tmp_path)])
    assert len(commands) == 3 and schedules not in commands


def test_a_golden_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sample(tmp_path)
    before = path.read_bytes()

    def fail(self: Path, target: Path) -> Path:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        goldens.write(path, {"schema": 1})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("stem", "dtype"), [("adadelta", "float32"), ("sparse_adam", "float64"), ("sgd", "bfloat16")])
def test_recording_from_torch_gives_the_stored_bytes(stem: str, dtype: str) -> None:
    pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    case = next(case for case in cases.load(stem) if dtype in case.dtypes)
    entry = trajectory(record.implementation("torch-ieee"), case, dtype)
    text = (goldens.folder() / "torch-ieee" / f"{stem}.json").read_text()
    assert goldens.pretty(entry, goldens.FRAME_DEPTH - 2, "  ") in text


@pytest.mark.filterwarnings("ignore:You are using weight_decay:UserWarning")  # optimi's, of every value in a case
@pytest.mark.parametrize("stem", [stem for stem in STEMS if cases.witness(stem)])
def test_recording_from_a_package_gives_the_stored_bytes(stem: str) -> None:
    witness = cases.witness(stem)
    assert witness
    pytest.importorskip("torch", reason="the live witness is an optimizer of torch's kind")
    if find_spec(witness.cls.partition(":")[0].partition(".")[0]) is None:
        pytest.skip(f"the live witness {witness.package} is not installed")
    text = (goldens.folder() / "package-ieee" / f"{stem}.json").read_text()
    last = {case.id: (case, dtype) for case, dtype in goldens.runs("package-ieee", stem)}
    for case, dtype in last.values():
        entry = trajectory(record.implementation("package-ieee", stem), case, dtype)
        if stem in BY_LAPACK:
            stored = next(x for x in recorded("package-ieee", stem) if (x["case"], x["dtype"]) == (case.id, dtype))
            assert farthest(entry, stored) <= 2 * CLOSE[stem][dtype]  # each may be so far from the rule
        else:
            assert goldens.pretty(entry, goldens.FRAME_DEPTH - 2, "  ") in text


class Spy(Reference):
    """Notes what it is told to do."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def set(self, hyper: Any) -> None:
        self.told.append(hyper)
        super().set(hyper)

    def resume(self) -> None:
        self.told.append("resume")
        super().resume()

    def step(self, grads: Any) -> None:
        self.told.append([i for i, grad in enumerate(grads) if grad is None])
        super().step(grads)


def test_a_case_is_run_as_it_says() -> None:
    changes: dict[str, Any] = {"set": [{"step": 2, "lr": 0.5}], "skip": [[3, 1]], "resume": 3, "shapes": [[2], [3]]}
    (case,) = cases.parse(case_with(**changes), "adam.json")
    spy = Spy()
    assert [frame.step for frame in run(spy, case, "float32")] == [1, 2, 3, 4, 5]
    rest = {"betas": (0.8, 0.95), "eps": 0.003, "weight_decay": 0.1}
    options = {"amsgrad": False, "maximize": False, "decoupled_weight_decay": False}
    assert spy.told == [[], {"lr": 0.5, **rest, **options}, [], "resume", [1], [], []]
    assert [state["step"] for state in spy.state()] == [5, 4]


def test_the_digest_covers_what_the_documentation_says() -> None:
    case = next(case for case in cases.load("adam") if case.resume)
    stream = b""
    for frame in run(Reference(), case, "float32"):
        for p, state in zip(frame.parameters, frame.state, strict=True):
            stream += struct.pack(f"<{p.size}f", *p.ravel().tolist())
            for name in sorted(state):
                x = state[name]
                stream += name.encode() + b"\0"
                stream += struct.pack("<q", x) if name == "step" else struct.pack(f"<{x.size}f", *x.ravel().tolist())
    assert hashlib.sha256(stream).hexdigest() == trajectory(Reference(), case, "float32")["sha256"]


def test_bits_are_written_as_the_documentation_says() -> None:
    frame = next(run(Reference(), cases.load("sgd")[0], "float64"))
    p = frame.parameters[0]
    words = [f"{struct.unpack('<Q', struct.pack('<d', x))[0]:016x}" for x in p.tolist()]
    written = {"dtype": "float64", "shape": [5], "bits": " ".join(words)}
    assert describe(frame)["parameters"][0] == written
    assert decode(written).tobytes() == p.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_what_is_written_can_be_read(shape: tuple[int, ...], dtype: str) -> None:
    if not has(dtype):
        pytest.skip("bfloat16 arrays need ml_dtypes")
    source = gradients.make_source({"source": "stream", "seed": 4, "kinds": ["normal"]}, [shape], dtype)
    (x,) = source.parameters()
    read = decode(json.loads(json.dumps(encode(x))))
    assert (read.dtype, read.shape, read.tobytes()) == (x.dtype, shape, x.tobytes())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"])
def test_bits_tell_zeros_apart_and_nans_not(dtype: str) -> None:
    if not has(dtype):
        pytest.skip("bfloat16 arrays need ml_dtypes")
    zeros, nans = (np.array(x, gradients.np_dtype(dtype)) for x in ([0.0, -0.0], [np.nan, -np.nan]))
    assert len(np.unique(bits(zeros[:1]))) == 1
    assert bits(zeros).ravel()[0] != bits(-zeros).ravel()[0]
    assert len({int(x) for x in bits(nans).ravel() if x}) == 1


def test_the_generator_is_splitmix64() -> None:
    """The outputs for this seed are published beside implementations in many languages."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert gradients.draws(1234567, 0, 4).tolist() == published
    assert gradients.draws(1234567, 2, 2).tolist() == published[2:]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("kind", gradients.FORMATS)
def test_numbers_are_exact_in_storage(kind: str, dtype: str) -> None:
    if not has(dtype):
        pytest.skip("bfloat16 arrays need ml_dtypes")
    number, exponent, spread = gradients.FORMATS[kind][dtype]
    u = gradients.draws(5, 0, 200)
    stored = gradients.values(u, kind, dtype).astype(gradients.np_dtype(dtype)).astype(np.float64)
    for x, word in zip(stored.tolist(), u.tolist(), strict=True):
        magnitude = Fraction(word >> (64 - number)) * Fraction(2) ** (exponent - (word >> 1 & spread) - number)
        assert Fraction(x) == (-magnitude if word & 1 else magnitude)
        assert math.copysign(1, x) == (-1 if word & 1 else 1)


def test_a_quadratic_has_the_gradients_it_says() -> None:
    source = gradients.make_source({"source": "quadratic", "seed": 9}, [(6,), (2, 2)], "float64")
    p = source.parameters()
    targets = gradients.values(gradients.draws(9, 10, 10), "normal", "float64")
    expected = [
        float(Fraction(x) - Fraction(y)) * 2.0 ** -(i % 4)
        for q, target in zip(p, (targets[:6], targets[6:]), strict=True)
        for i, (x, y) in enumerate(zip(q.ravel().tolist(), target.tolist(), strict=True))
    ]
    assert np.concatenate([g.ravel() for g in source.gradients(3, p)]).tolist() == expected


def test_sparse_gradients_have_at_most_two_entries_in_a_row() -> None:
    for case in cases.load("sparse_adam"):
        source = gradients.make_source(case.gradient, case.shapes, "float32")
        counts = [
            Counter(grad.indices[0].tolist())
            for step in range(1, case.steps + 1)
            for grad in source.gradients(step, source.parameters())
        ]
        assert max(max(count.values()) for count in counts) <= 2


C_MAIN = """
#include <stdio.h>

static const struct { const char *kind; int format[4][3]; } table[] = {TABLE};

static const int *format_of(const char *kind, int storage) {
    for (int row = 3; row > 0; row--)
        if (!strcmp(table[row].kind, kind)) return table[row].format[storage];
    return table[0].format[storage];
}

int main(int count, char **kinds) {
    for (int k = 1; k < count; k++)
        for (int storage = 0; storage < 4; storage++, puts(""))
            for (int i = 0; i < 40; i++) {
                const char *kind = kind_of_element(kinds[k], i);
                const int *f = format_of(kind, storage);
                printf("%a ", number(draw(77, 3 + i), kind, f[0], f[1], f[2]));
            }
}
"""
"""Prints 40 numbers of each kind named on the command line in each storage type."""


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler is installed")
def test_the_documented_c_makes_the_same_numbers(tmp_path: Path) -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|((?: -?\d+, -?\d+, \d+ \|){4})$", text, re.MULTILINE)
    assert [kind for kind, _ in rows] == list(gradients.FORMATS)
    table = ", ".join(f'{{"{kind}", {{{{{cells.strip(" |").replace("|", "}, {")}}}}}}}' for kind, cells in rows)
    code = re.findall(r"```c\n(.*?)```", text, re.DOTALL)[0]
    (tmp_path / "numbers.c").write_text(code + C_MAIN.replace("TABLE", table))
    program = str(tmp_path / "numbers")
    subprocess.run(["cc", "-std=c11", "-Wall", "-Werror", f"{program}.c", "-lm", "-o", program], check=True)
    output = subprocess.run([program, *gradients.KINDS], check=True, capture_output=True, text=True).stdout
    printed = [[float.fromhex(word) for word in line.split()] for line in output.splitlines()]
    runs = [(kind, name) for kind in gradients.KINDS for name in gradients.FORMATS["normal"]]
    for (kind, name), numbers in zip(runs, printed, strict=True):
        made = gradients.values(gradients.draws(77, 3, 40), kind, name)
        assert bits(np.array(numbers)).tolist() == bits(made).tolist(), (kind, name)
