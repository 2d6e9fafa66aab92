"""Names, messages and versions from elsewhere reach a terminal, HTML and XML as texts alone.

Every command is given texts that a terminal would obey, that turn the direction of writing, that break lines, and that
no file can hold. What arrives is plain, and reports can still be read.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result
from refoptim.conformance import formats, plugin, report, run
from rich.console import Console

from refoptim.commands import output
from refoptim.commands.main import main
from refoptim.formats.visible import visible

EVIL = "\x1b[31m\x1b]0;x\x07\x9b2J\x7f\x85\r\b\u202e\u2066\u2028\u200f\udc80"
"""Codes of a terminal, C1 controls, DEL, turned writing, a separator of lines, half a character."""

SPOKEN = "\\x1b[31m\\x1b]0;x\\x07\\x9b2J\\x7f\\x85\\r\\x08\\u202e\\u2066\\u2028\\u200f\\udc80"


def is_plain(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in text)


def call(*arguments: Any) -> Result:
    """Call a command and assert that what it says is plain."""
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert isinstance(result.exception, SystemExit | None), result.exception
    for data in (result.stdout_bytes, result.stderr_bytes):
        assert is_plain(data.decode("utf-8")), data
    return result


def test_what_does_not_print_stands_as_an_escape() -> None:
    assert visible(EVIL) == SPOKEN
    assert visible(EVIL + "ä €😀\n\t", "\n\t") == SPOKEN + "ä €😀\n\t"
    assert visible("a\nb\tc") == "a\\nb\\tc"
    for i in (*range(32), *range(127, 160), 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)):
        assert visible(chr(i)).isascii() and visible(chr(i)).isprintable()
    assert all(visible(chr(i)) == f"\\u{i:04x}" for i in range(0xD800, 0xE000))


@pytest.fixture
def evil_file(tmp_path: Path) -> Path:
    """Return a trajectory file with an evil name that says evil things, rightly signed."""
    path = tmp_path / f"x{EVIL}.json"
    task = {"scheduler": "StepLR(step_size=1)", "lr": 0.1, "momentum": 0.9, "steps": 1, "seed": 0, EVIL: EVIL}
    tensors = {"lr": np.array([0.1, 0.01])}
    formats.write(path, formats.Trajectory({"case": task, "provenance": {EVIL: EVIL}}, tensors))
    return path


def test_files(evil_file: Path) -> None:
    assert SPOKEN in call("golden", "show", evil_file).stdout
    assert call("golden", "verify", evil_file).exit_code == 2
    evil_file.write_text("{}")
    assert SPOKEN in call("golden", "show", evil_file).stderr
    for name in ("missing.npz", "missing.png", ""):
        assert call("golden", "verify", evil_file.parent / (EVIL + name)).exit_code == 2
        assert call("golden", "show", evil_file.parent / (EVIL + name)).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ("golden", "generate", EVIL, "-o", "x.npz"),
        ("golden", "generate", "adam", "-o", EVIL),
        ("golden", "generate", "adam", "-o", f"{EVIL}.json"),
        ("golden", "generate", "adam", "-o", f"{EVIL}.json", "--json"),
        ("golden", "generate", "adam", "-o", f"{EVIL}.json/x.json"),
        ("golden", "generate", "adam", "-o", "x.npz", "--set", f"{EVIL}=1"),
        ("golden", "generate", "adam", "-o", "x.npz", "--set", f"lr={EVIL}"),
        ("golden", "generate", "adam", "-o", "x.npz", "--set", EVIL),
        ("golden", "generate", "adam", "-o", "x.npz", "--shape", EVIL),
        ("golden", "generate", f"StepLR({EVIL})", "-o", "x.npz"),
        ("golden", "generate", f"StepLR(a='{EVIL}')", "-o", "x.npz"),
        ("golden", "generate", "adam", "-o", "x.npz", "--dtype", EVIL),
        ("golden", "generate", "adam", "-o", "x.npz", "--steps", EVIL),
        ("golden", "export-suite", EVIL, "--pattern", "sgd-plain", "--dtype", "float32"),
        ("golden", "export-suite", "suite", "--pattern", EVIL),
        ("conformance", "--pattern", EVIL),
        ("conformance", "--impl", EVIL),
        ("conformance", "--impl", f"{EVIL}:"),
        ("conformance", "--impl", f"{EVIL}:{EVIL}"),
        ("conformance", "--pattern", "sgd-plain", "--dtype", "float32", "--engine", "numpy", "--report", f"{EVIL}/x"),
        ("conformance", "--report", EVIL, "--junit", EVIL),
        ("accuracy", "--impl", EVIL),
        ("accuracy", "--pattern", EVIL, "--steps", "1", "--impl", "numpy"),
        ("plot", "lr", EVIL),
        ("plot", "lr", f"StepLR(step_size={EVIL})"),
        ("plot", "lr", f"StepLR(step_size='{EVIL}')"),
        ("plot", "lr", f"StepLR(step_size={'-' * 5000}1)"),
        ("plot", "lr", "StepLR", "--set", f"step_size={EVIL}"),
        ("plot", "lr", "StepLR", "--set", f"step_size={'(' * 300}"),
        ("plot", "lr", "StepLR(step_size=2)", "-o", EVIL),
        ("plot", "lr", "StepLR(step_size=2)", "-o", f"{EVIL}/x.png"),
        ("plot", "lr", "StepLR(step_size=2)", "--metrics", EVIL),
        ("bench", "cpu", "--pattern", EVIL),
        ("bench", "gpu", "--pattern", EVIL),
        ("explain", EVIL),
        ("list", EVIL),
        ("doctor", EVIL),
        (EVIL,),
        (f"--{EVIL}",),
        ("golden", EVIL),
        ("golden", "show", f"--{EVIL}"),
    ],
)
def test_arguments(arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call(*arguments)


MODULE = '''
import numpy as np
from refoptim.conformance.adapters import Adapter
EVIL = {evil!r}

class Mine(Adapter):
    """Descends, says evil things of itself, and parts from the golden."""
    def versions(self): return {{EVIL: EVIL}}
    def make(self, optimizer, hyper, parameters): self.p = [p.copy() for p in parameters]
    def set(self, hyper): raise type("E" + EVIL, (Exception,), {{}})(EVIL + "\\n" + EVIL)
    def step(self, grads): pass
    def parameters(self): return self.p

class Raises(Mine):
    def step(self, grads): raise type("E" + EVIL, (Exception,), {{}})(EVIL + "\\nall promises hold")

class Ends(Mine):
    def step(self, grads): raise type("E", (BaseException,), {{}})(EVIL)

class Silent(Mine):
    def step(self, grads): raise type("E", (Exception,), {{"__str__": lambda self: 1 / 0}})()

class Cannot(Mine):
    def why_not(self, case, dtype): return EVIL if dtype == "float64" else None

class Unmade(Mine):
    def __init__(self): raise ValueError(EVIL)

class Unversioned(Mine):
    def versions(self): return EVIL

class Promises(Mine):
    promise = EVIL
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Write a module of evil implementations, and return its evil name."""
    name = f"evil{EVIL[:-1].replace('.', '')}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(evil=EVIL))
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


class Texts(HTMLParser):
    """Collects the texts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


@pytest.mark.sweep(2)
@pytest.mark.parametrize(
    "cls", ["Mine", "Raises", "Ends", "Silent", "Cannot", "Unmade", "Unversioned", "Promises", EVIL]
)
def test_implementations_and_reports(module: str, tmp_path: Path, cls: str) -> None:
    page, junit = tmp_path / f"{EVIL}.html", tmp_path / f"{EVIL}.xml"
    chosen = ("--impl", f"{module}:{cls}", "--pattern", "sgd-plain")
    result = call("conformance", *chosen, "--report", page, "--junit", junit)
    assert result.exit_code == (1 if cls in ("Mine", "Raises", "Ends", "Silent", "Cannot") else 2), result.output
    assert "\nall promises hold" not in result.stdout
    if result.exit_code == 1:
        assert SPOKEN[:-6] in result.stdout
        parser = Texts()
        parser.feed(page.read_text(encoding="utf-8"))
        assert is_plain(page.read_text(encoding="utf-8")) and SPOKEN[:-6] in "".join(parser.found)
        assert is_plain(junit.read_text(encoding="utf-8"))
        cases = ElementTree.parse(junit).getroot()
        assert len(cases) > 0 and all(SPOKEN[:-6] in str(case.get("classname")) for case in cases)
        assert json.loads(call("conformance", *chosen, "--json").stdout)["versions"] == {
            f"{module}:{cls}": {EVIL: EVIL}
        }


@pytest.mark.skipif(find_spec("mpmath") is None or find_spec("matplotlib") is None, reason="mpmath or matplotlib")
@pytest.mark.parametrize("cls", ["Mine", "Raises", "Unmade"])
def test_measured_implementations(module: str, tmp_path: Path, cls: str) -> None:
    path = tmp_path / f"{EVIL}.svg"
    chosen = ("--impl", f"{module}:{cls}", "--pattern", "sgd-momentum", "--dtype", "float32", "--steps", "2")
    call("accuracy", *chosen, "-o", path)
    assert path.exists() == (cls == "Mine")
    if path.exists():
        assert is_plain(path.read_text(encoding="utf-8"))
        assert SPOKEN[:-6] in "".join(ElementTree.parse(path).getroot().itertext())


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_pictures(tmp_path: Path) -> None:
    path = tmp_path / f"{EVIL}.svg"
    label = "ExponentialLR(gamma=0.5) # $x_2$ \x1b[31m\x9b\u202e"
    assert call("plot", "lr", label, "--epochs", "3", "-o", path).exit_code == 0
    text = path.read_text(encoding="utf-8")
    assert is_plain(text)
    assert "# $x_2$ \\x1b[31m\\x9b\\u202e" in "".join(ElementTree.fromstring(text.encode()).itertext())


def test_tables_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plain = lambda **more: Console(force_terminal=True, color_system=None, width=300, **more)  # noqa: E731
    monkeypatch.setattr(output, "Console", plain)
    output.print_table(("[b]a", EVIL), [[EVIL, "[red]x\n\t"]])
    shown = capsys.readouterr().out
    assert is_plain(shown) and shown.count(SPOKEN) == 2 and "[red]x\\n\\t" in shown and "[b]a" in shown


def test_what_pytest_shows() -> None:
    result = run.Result("x", "SGD", EVIL, "float32", "reference", run.ERROR, reason=EVIL)
    assert is_plain(plugin.describe(result)) and plugin.describe(result).count(SPOKEN) == 2


def test_reports_of_texts_in_every_place() -> None:
    result = run.Result(EVIL, EVIL, EVIL, EVIL, EVIL, run.ERROR, promise=EVIL, reason=EVIL)
    page = report.page([result], {EVIL: {EVIL: EVIL}}, EVIL)
    assert is_plain(page) and page.encode()
    junit = report.junit([result])
    assert is_plain(junit) and ElementTree.fromstring(junit.encode())[0].get("name") == f"{SPOKEN}[{SPOKEN}]"


def test_everything_is_printed_in_one_place() -> None:
    """No command prints, but through the functions of ``output``."""
    folder = Path(output.__file__).parent
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py") if path.name != "output.py"}
    assert len(texts) > 10
    for name, text in texts.items():
        assert not [
            way for way in ("click.echo", "click.secho", "print(", "sys.stdout.write") if way in plainly(text)
        ], name


def plainly(text: str) -> str:
    """Leave out what is printed of no text from elsewhere."""
    for own in ("_print(", "_blueprint("):
        text = text.replace(own, "(")
    return text.replace('Console().print("all is well"', "")
