"""The benchmark of tensors of torch: what takes part, and what is counted; no test looks at a time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from helpers.kernels import NEEDS_KERNELS
from refoptim.commands import bench_interop
from refoptim.commands import measure as bench
from refoptim.commands.main import main
from refoptim.commands.measure import Case

pytestmark = NEEDS_KERNELS


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, torch: Any) -> None:
    """Take short turns."""
    monkeypatch.setattr(bench, "TURN", 0.0)


@pytest.mark.parametrize("name", bench.OF_TORCH)
def test_a_case_is_measured(name: str) -> None:
    result = bench_interop.run(Case(name, "float32", 3, 50), 1)
    assert result.seconds.keys() == {"plain", "front", "torch"}
    assert min(result.seconds.values()) > 0


def test_every_step_finds_new_gradients(torch: Any) -> None:
    p = torch.ones(3, requires_grad=True)
    p.grad = torch.full((3,), 2.0)
    seen: list[Any] = []
    step = bench_interop.Renewed(lambda: seen.append(p.grad), [p])
    assert bench_interop.seconds_of(step, 3) > 0
    assert len({id(x) for x in seen}) == 3
    assert seen[0].data_ptr() != seen[1].data_ptr() == seen[1].data_ptr()
    assert all(x.tolist() == [2, 2, 2] for x in seen)


def test_steps_that_are_not_the_references_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_interop, "expected", lambda case, seeds: [x + 1 for x in bench.expected(case, seeds)])
    with pytest.raises(RuntimeError, match="is not the reference's"):
        bench_interop.run(Case("Adam", "float32", 2, 5), 1)


def test_the_command() -> None:
    arguments = [
        "bench",
        "interop",
        "--pattern",
        "adagrad",
        "--size",
        "300",
        "--tensors",
        "2",
        "--small",
        "5",
        "--repeats",
        "1",
    ]
    table = CliRunner().invoke(main, arguments)
    assert table.exit_code == 0, table.output
    assert "Adagrad, float32, 2 x 5" in table.stdout
    found = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)["found"]
    assert [(x["tensors"], x["elements"], x["ours"]) for x in found] == [
        (1, 300, "plain"),
        (1, 300, "front"),
        (2, 5, "plain"),
        (2, 5, "front"),
    ]
    for x in found:
        assert x["ratio"] == pytest.approx(x["seconds"] / x["torch fused seconds"])


@pytest.mark.parametrize("name", sorted(bench.OPTIMIZERS.keys() - {*bench.OF_TORCH}))
def test_what_torch_does_not_have_is_not_offered(name: str) -> None:
    done = CliRunner().invoke(main, ["bench", "interop", "--pattern", name])
    assert done.exit_code != 0
    assert f"no case matches {name!r}" in done.stderr


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_interop, "find_spec", lambda name: None)
    done = CliRunner().invoke(main, ["bench", "interop"])
    assert done.exit_code != 0
    assert "torch is not installed" in done.stderr
