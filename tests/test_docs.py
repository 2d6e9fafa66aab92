"""What the documents say is so: their programs run, their commands exist, their links lead somewhere."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from inspect import ismodule
from itertools import pairwise
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import refoptim
from refoptim.commands import describe
from refoptim.commands.main import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = {
    "api": {
        *(x.__name__ for x in vars(refoptim).values() if ismodule(x)),
        "refoptim.checkpoint",
        "refoptim.distributed",
        "refoptim.conformance.adapters",
    },
    "dialects": {"ports"},
    "lr_scheduler": {describe.stem(cls) for cls in describe.schedulers()} | {"swalr"},
    "optimizers": {describe.stem(cls) for cls in describe.optimizers()},
}
"""The folders of pages that are written when the site is built, and the stems of those beside ``index``."""

WRITTEN = sorted(page for page in DOCS.rglob("*.md") if page.relative_to(DOCS).parts[0] not in GENERATED)
PAGES = [*sorted(ROOT.glob("*.md")), *WRITTEN]

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n)+")
INLINE = re.compile(r"`([^`\n]+)`")

NOT_RUN = "# Not run here: "
"""Begins a program that is not run with its page, and says why."""

NEEDS = re.compile(r"# Needs (\w+)\n")
"""Begins a program for which a library must be there that the tests do without; it is run where that is installed."""

FILES = DOCS / "built" / "add_an_optimizer.md"
"""The page whose programs may be files, with their names on the first line; its own test writes and runs them."""

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return FENCE.sub("", read(page))


# --------------------------------------------------------------------------------------------------------- programs


def is_file(page: Path, text: str) -> bool:
    return page == FILES and re.match(r"# \S+\.py\n", text) is not None


def programs(page: Path, library: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield the programs of a page that need a library, or those that need none, and what each is said to print."""
    needed: str | None = None
    for kind, text in FENCE.findall(read(page)):
        if kind == "python":
            found = NEEDS.match(text)
            needed = found[1] if found else None
        run = kind == "text" or (kind == "python" and not text.startswith(NOT_RUN) and not is_file(page, text))
        if run and needed == library:
            yield kind, text


@pages
def test_programs_run_and_print_what_is_shown(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    for kind, text in programs(page):
        if kind == "python":
            exec(compile(text, str(page), "exec"), names)
        else:
            assert capsys.readouterr().out == text
    assert capsys.readouterr().out == "", "a page shows what its programs print in a block of the kind text"


NEEDING = [(page, library) for page in PAGES for library in dict.fromkeys(NEEDS.findall(read(page)))]


@pytest.mark.parametrize(
    ("page", "library"), NEEDING, ids=[f"{page.relative_to(ROOT)}-{library}" for page, library in NEEDING]
)
def test_programs_run_that_need_a_library(page: Path, library: str, tmp_path: Path) -> None:
    """In a process of their own: what other libraries set up, and warn of, is their business."""
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    blocks = list(programs(page, library))
    code, printed = ("".join(text for kind, text in blocks if kind == wanted) for wanted in ("python", "text"))
    settings = {"JAX_PLATFORMS": "cpu", "DEV": "PYTHON"}  # of JAX, and of tinygrad, which else needs a compiler
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed


@pages
def test_programs_that_are_not_run_say_why(page: Path) -> None:
    blocks = [text for kind, text in FENCE.findall(read(page)) if kind == "python" and text.startswith(NOT_RUN)]
    assert all(len(text.splitlines()[0]) > len(NOT_RUN) for text in blocks)
    assert all(ast.parse(text) for text in blocks)


# --------------------------------------------------------------------------------------------------------- commands


def code(page: Path) -> str:
    """Return the blocks of a page that a shell could run, a command a line."""
    blocks = [text for kind, text in FENCE.findall(read(page)) if kind in ("", "sh", "console")]
    return "\n".join([*blocks, *INDENTED.findall(prose(page))]).replace("\\\n", " ")


def commands(page: Path) -> Iterator[str]:
    """Find every ``refoptim …`` that a page runs or names; what stands far to the right of one is a remark."""
    for line in [*code(page).splitlines(), *INLINE.findall(prose(page))]:
        for part in re.split(r" && | \| ", line.strip().removeprefix("python -m ")):
            if re.match(r"refoptim [a-z-]", part):
                yield re.split(r" {2,}(?=[^-\s])", part)[0]


def parse(command: click.Command, arguments: list[str]) -> None:
    """Raise click.UsageError unless a command takes these arguments; what files hold does not matter."""
    if isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        if arguments[0] not in command.commands:
            raise click.UsageError(f"there is no command {arguments[0]}")
        return parse(command.commands[arguments[0]], arguments[1:])
    context = click.Context(command, info_name=command.name)
    given, _, _ = command.make_parser(context).parse_args(list(arguments))
    for option in command.params:
        if isinstance(option.type, click.Choice) and given.get(option.name or "") is not None:
            values = given[option.name or ""]
            for value in values if isinstance(values, list) else [values]:
                option.type.convert(value, option, context)
    return None


def complaint(line: str) -> str | None:
    """Return what is wrong with a command."""
    try:
        parse(main, [word for word in shlex.split(line, comments=True)[1:] if word != "…"])
    except click.UsageError as error:
        return f"{line}: {error.format_message()}"
    return None


@pages
def test_commands_exist(page: Path) -> None:
    assert not [text for text in map(complaint, commands(page)) if text]


@pytest.mark.parametrize(
    "line", ["refoptim gold", "refoptim golden make", "refoptim list --xml", "refoptim list --json"]
)
def test_commands_that_do_not_exist_are_found(line: str) -> None:
    assert (complaint(line) is None) == (line == "refoptim list --json")


def options(command: click.Command) -> set[str]:
    """Return the options of a command and of all below it."""
    below = command.commands.values() if isinstance(command, click.Group) else []
    return {x for option in command.params for x in option.opts}.union(*map(options, below)) | {"--help"}


@pages
def test_options_exist(page: Path) -> None:
    named = {text.split()[0] for text in INLINE.findall(prose(page)) if re.match(r"--[a-z]", text)}
    assert {x for x in named if not x.startswith("--refoptim-")} <= options(main)


@pages
def test_extras_exist(page: Path) -> None:
    setup = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    keywords = [node for node in ast.walk(setup) if isinstance(node, ast.keyword) and node.arg == "extras_require"]
    extras = {ast.literal_eval(key) for node in keywords for key in getattr(node.value, "keys", ())}
    assert len(extras) > 4
    for named in re.findall(r"(?:refoptim|\.)\[([a-z0-9,]+)\]", read(page)):
        assert set(named.split(",")) <= extras


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell: str) -> None:
    assert f"_REFOPTIM_COMPLETE={shell}_source refoptim" in read(DOCS / "guide" / "install.md")
    done = CliRunner().invoke(main, prog_name="refoptim", env={"_REFOPTIM_COMPLETE": f"{shell}_source"})
    assert f"_REFOPTIM_COMPLETE={shell}_complete" in done.output
    words = {"COMP_WORDS": "refoptim golden gen", "COMP_CWORD": "gen" if shell == "fish" else "2"}
    done = CliRunner().invoke(main, prog_name="refoptim", env={"_REFOPTIM_COMPLETE": f"{shell}_complete", **words})
    assert "generate" in done.output


def test_readme_begins_with_the_two_commands() -> None:
    first = re.search(r"```\n(.*?)```", read(ROOT / "README.md"), re.DOTALL)
    assert first is not None
    install, test = first.group(1).strip().splitlines()
    assert install.startswith("pip install ") and " && " in install
    assert test == "pip install -e '.[test]' && pytest"


# ------------------------------------------------------------------------------------------------------------ links


def anchors(page: Path) -> set[str]:
    """Return the names under which the headings of a page can be reached."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_generated(target: Path) -> bool:
    """Tell whether a page is written when the site is built."""
    folder, stem = target.parent, target.stem
    return folder.parent == DOCS and folder.name in GENERATED and stem in GENERATED[folder.name] | {"index"}


def assert_leads_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        assert is_generated(target), link
    elif anchor:
        assert anchor in anchors(target), link


@pages
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" not in link:
            assert_leads_somewhere(page, link)


def listed(page: Path) -> list[Path]:
    """Return the pages that the table of contents of a page lists."""
    trees = [text for kind, text in FENCE.findall(read(page)) if kind == "{toctree}"]
    lines = [line for text in trees for line in text.splitlines() if line and not line.startswith(":")]
    return [(page.parent / f"{line}.md").resolve() for line in lines]


@pages
def test_an_empty_line_follows_a_table(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    swallowed = [y for x, y in pairwise(lines) if x.startswith("|") and y and not y.startswith("|")]
    assert not swallowed, "Markdown takes this line for a row of the table"


def test_the_index_leads_to_every_page() -> None:
    found, coming = [DOCS / "index.md"], [DOCS / "index.md"]
    while coming:
        for target in listed(coming.pop()):
            assert target.exists() or is_generated(target), target
            found.append(target)
            coming += [target] if target.exists() else []
    assert len(found) == len(set(found))
    assert not set(WRITTEN) - set(found)
