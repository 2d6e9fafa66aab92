"""The adapter torch-front: refoptim through the classes that torch takes for its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from refoptim.conformance import adapters, promises, run
from refoptim.conformance.verify import EXACT

pytest.importorskip("torch", reason="torch is not installed")

PATTERNS = ["sgd-", "adam-", "muon-", "sparse-adam", "adafactor-"]


def found(command: Callable[..., Any], *arguments: str) -> list[dict[str, Any]]:
    done = command("--impl", "torch-front", "--json", *arguments)
    results: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return [r for r in results if r["outcome"] != run.NOT_RUN]  # bfloat16 without ml_dtypes


@pytest.mark.parametrize("pattern", PATTERNS)
def test_cases_are_exact(pattern: str, command: Callable[..., Any]) -> None:
    results = found(command, "--pattern", pattern)
    assert {r["outcome"] for r in results} == {run.HOLDS}
    assert {r["distance"] for r in results} == {"EXACT"}


def test_exactness_is_promised() -> None:
    assert promises.promised("torch-front", "reference", "NAdam", "bfloat16") == EXACT
    assert promises.promised("torch-front", "torch-ieee", "NAdam", "bfloat16") is None


def test_a_front_that_shows_something_else_fails(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A step count that is one behind is seen, though the parameters are right."""
    front: Any = adapters.find("torch-front")
    state = front.state

    def behind(self: Any) -> Any:
        return [{name: x - 1 if name == "step" else x for name, x in entry.items()} for entry in state(self)]

    monkeypatch.setattr(front, "state", behind)
    results = found(command, "--pattern", "adam-*", "--dtype", "float32")
    assert {r["outcome"] for r in results} == {run.FAILS}
