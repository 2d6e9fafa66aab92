"""Implementations that are not there, or cannot be used: what is said of them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refoptim.conformance import adapters, run
from refoptim.conformance.adapters import ports
from refoptim.conformance.adapters.keras import choose_backend

import refoptim
from helpers.implementations import Plain, Prints, named
from refoptim.step.hyper import declared


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("host", "engine host is not available: its kernels were not built when refoptim was installed: install"),
        ("cuda", "engine cuda is not available: kernels on a GPU need CuPy: pip install"),
        ("tensorfloat", "no implementation 'tensorfloat'"),
        (":X", "no implementation ':X': expected package.module:Class"),
        ("no_such_module:X", "no_such_module cannot be imported"),
        ("json:X", "json has no X"),
        ("json:JSONDecoder", "is no implementation: it has no method make"),
    ],
)
def test_what_is_not_there_is_said(name: str, message: str, bare: None) -> None:
    with pytest.raises(adapters.NotAvailable, match=message):
        adapters.find(name)


@pytest.mark.parametrize("method", ["make", "set", "step", "resume", "parameters", "state"])
def test_every_method_that_a_case_calls_is_asked_for(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plain, method, None)
    with pytest.raises(adapters.NotAvailable, match=f"Plain is no implementation: it has no method {method}"):
        adapters.find(named(Plain))


@pytest.mark.parametrize("library", ports.Ports.__subclasses__(), ids=lambda cls: cls.package)
def test_ports_speak_of_settings_that_rules_have(library: type[ports.Ports]) -> None:
    for name, port in library.ports.items():
        settings = declared(getattr(refoptim, name))
        assert {*port.names, *port.takes} <= settings.keys(), name


def leaves(*arguments: Any) -> Any:
    raise SystemExit(0)


def raises(self: Any) -> Any:
    raise TypeError("a reason")


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("__init__", lambda self, needed: None, r"Plain cannot be used: TypeError: .* 'needed'"),
        ("__init__", leaves, "Plain cannot be used: SystemExit: 0"),
        ("versions", raises, "Plain cannot be used: TypeError: a reason"),
        ("versions", lambda self: ["1.0"], r"Plain: versions\(\) must return a dict, got \['1.0'\]"),
        ("promise", 1e-6, "Plain: promise must be EXACT, .* or None, or a dict .*, got 1e-06"),
        ("promise", property(raises), "Plain cannot be used: TypeError: a reason"),
    ],
)
def test_what_cannot_be_used_is_said(
    attribute: str, value: Any, message: str, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    monkeypatch.setattr(Plain, attribute, value)
    done = command("--impl", named(Plain), "--pattern", "sgd-plain")
    assert done.exit_code == 2
    assert re.search(message, " ".join(done.output.split())), done.output


@pytest.mark.parametrize("text", ["raise SystemExit(0)", "1 +", "import no_such_thing", "{}['key']"])
def test_a_module_that_cannot_be_imported_is_said(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "module_that_fails.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(adapters.NotAvailable, match="module_that_fails cannot be imported: "):
        adapters.find("module_that_fails:X")


def test_keras_gets_a_backend_that_is_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "keras.py").write_text("import no_such_backend")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "none")
    with pytest.raises(
        adapters.NotAvailable, match=r"keras cannot be imported: .*'no_such_backend'; set KERAS_BACKEND"
    ):
        run.versions("keras")
    monkeypatch.setattr("refoptim.conformance.adapters.keras.find_spec", lambda name: name == "torch" or None)
    for before, after in (("none", "none"), (None, "torch")):
        monkeypatch.setenv("KERAS_BACKEND", before) if before else monkeypatch.delenv("KERAS_BACKEND")
        choose_backend()
        assert os.environ["KERAS_BACKEND"] == after


def test_what_an_implementation_prints_stays_out_of_the_document(command: Callable[..., Any]) -> None:
    done = command("--impl", named(Prints), "--pattern", "sgd-plain", "--json")
    assert json.loads(done.stdout)["ok"]
    assert "a step" in done.stderr


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    with pytest.raises(adapters.NotAvailable, match="not installed: optax"):
        adapters.find("optax")
