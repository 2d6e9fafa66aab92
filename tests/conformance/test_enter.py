"""Every room is in every list, and one that is not gets there; what torch does not have is said to be so."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from refoptim.conformance import enter

import refoptim
from helpers import ROOT
from refoptim.commands import describe

WIDER = ROOT / "docs" / "torch" / "wider.md"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a folder with copies of the files that hold lists."""
    for name in enter.FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "refoptim" / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("name", enter.FILES)
def test_every_room_is_in_the_lists(name: str, package: Path) -> None:
    enter.enter(package, enter.rooms())
    assert (package / name).read_text() == (ROOT / "refoptim" / name).read_text()


@pytest.mark.parametrize("name", enter.FILES)
def test_a_room_that_is_missing_is_entered(name: str, package: Path) -> None:
    lines = (package / name).read_text().splitlines(keepends=True)
    without = [x for x in lines if not re.search(r"\b_?lion\b", x, re.IGNORECASE)]
    assert len(without) <= len(lines) - 2
    (package / name).write_text("".join(without))
    enter.enter(package, enter.rooms())
    assert (package / name).read_text().splitlines(keepends=True) == lines


def test_the_docs_list_what_is_torchs_and_what_is_not() -> None:
    text = WIDER.read_text(encoding="utf-8")
    torchs = re.sub(r"\s", "", text.partition("has these: ")[2].partition(".")[0]).split(",")
    others = re.findall(r"^\| (\w+) \|", text.partition("|---|")[2].partition("\n\n")[0], re.M)
    assert torchs == sorted(x.__name__ for x in describe.optimizers() if x.of_torch)
    assert others == sorted(x.__name__ for x in describe.optimizers() if not x.of_torch)


def test_torch_has_what_is_said_to_be_torchs() -> None:
    torch = pytest.importorskip("torch", reason="the live witness torch is not installed")
    theirs = {name for name, x in vars(torch.optim).items() if isinstance(x, type)} - {"Optimizer"}
    assert theirs == {x.__name__ for x in describe.optimizers() if x.of_torch}
    assert hasattr(refoptim, "Lion") and not hasattr(torch.optim, "Lion")
