"""What the documents say is so: their code runs, their links lead somewhere, their tables are those of the code."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_code_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    exec("\n".join(blocks), {})


def test_readme_begins_with_the_two_commands():
    first = re.search(r"```\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL).group(1)
    install, test = first.strip().splitlines()
    assert install.startswith("pip install ") and " && " in install
    assert test == "pip install -e '.[test]' && pytest"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_optimizer_pages_are_those_of_the_code():
    reference = load(ROOT / "docs" / "reference.py")
    written = {path.name: path.read_text(encoding="utf-8") for path in reference.HERE.glob("*.md")}
    assert written == reference.pages(), "run: python docs/reference.py"
