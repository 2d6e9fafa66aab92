"""The commands list and explain name everything public."""

from __future__ import annotations

import json

import pytest

import refoptim
from helpers.command_line import call, fails
from refoptim.commands import describe


def test_list_names_everything_public() -> None:
    rows = json.loads(call("list", "--json").stdout)
    names = {kind: {row["name"] for row in rows if row["kind"] == kind} for kind in ("optimizer", "scheduler")}
    assert names["scheduler"] == {*refoptim.lr_scheduler.__all__} - {"LRScheduler", "get_scheduler"}
    assert {"Adam", "LBFGS", "Muon", "SparseAdam"} <= names["optimizer"] <= {*refoptim.__all__}
    assert len(call("list").stdout.splitlines()) == len(rows)


def test_list_says_what_torch_has() -> None:
    rows = {row["name"]: row["of_torch"] for row in json.loads(call("list", "--json").stdout)}
    assert all(rows[name] for name in ("Adam", "Muon", "StepLR"))
    assert not any(rows[name] for name in ("Lion", "Prodigy", "CosineWarmupLR", "SAM"))
    whose = {line.split("\t")[1]: line.split("\t")[2] for line in call("list").stdout.splitlines()}
    assert whose == {name: "torch" if own else "wider" for name, own in rows.items()}


@pytest.mark.parametrize("name", ["adamw", "AdamW", "ADAMW", "adam-w"])
def test_explain_reads_names_in_any_case(name: str) -> None:
    text = call("explain", name).stdout
    for part in (
        "AdamW\n",
        "sqrt(1 - beta2**k) + eps",
        "[0, 1), [0, 1)",
        "exp_avg_sq",
        "ICLR 2019",
        "addcdiv(p, masked(s, exp_avg, g)",
        "def scalars(",
    ):
        assert part in text
    assert "State\nState" not in text and "Source:" not in text


def test_wrappers_are_listed_and_explained() -> None:
    rows = json.loads(call("list", "--json").stdout)
    assert [row["name"] for row in rows if row["kind"] == "wrapper"] == ["Lookahead", "MultiSteps", "SAM"]
    text = call("explain", "lookahead").stdout
    assert all(part in text for part in ("lerp(p, slow, 1 - alpha)", "k: the steps between", "Zhang"))
    assert "Hyperparameters" not in text
    assert "there is no optimizer or scheduler 'sam'" in fails("golden", "generate", "sam", "-o", "sam.npz")


@pytest.mark.parametrize("name", [x.__name__ for x in (*describe.optimizers(), *describe.schedulers())])
def test_everything_can_be_explained(name: str) -> None:
    found = json.loads(call("explain", name, "--json").stdout)
    assert found["name"] == name and found["paragraphs"]
    assert found["arguments"] or name == "ChainedScheduler"
    if hasattr(refoptim, name):
        assert found["formula"] and found["state"] and found["sources"]
    if name not in ("LBFGS", "ConjugateGradient") and hasattr(refoptim, name):
        assert found["operations"].startswith("def update(")


def test_explain_suggests_near_names() -> None:
    assert fails("explain", "rmspop").endswith("did you mean RMSprop or Rprop?")


def test_a_case_is_shown() -> None:
    found = json.loads(call("explain", "ADAM-amsgrad", "--json").stdout)
    assert found["hyper"]["eps"] == 0.01 and found["hyper"]["decoupled_weight_decay"] is False
    assert set(found["flags"]) == {"AmsgradAfterCorrection", "AmsgradIgnored", "MaximizeAfterDecay"}
    text = call("explain", "adam-amsgrad").stdout
    assert "betas\t(0.6, 0.8)" in text and "maximize\tTrue" in text and "before bias correction, uphill." in text
