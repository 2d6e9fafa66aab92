"""Calls of the command line, and goldens that were altered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from refoptim.commands.main import main


def call(*arguments: Any) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def fails(*arguments: Any) -> str:
    """Assert that a command is refused in one line, and return it."""
    result = call(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    return result.stderr.strip().splitlines()[-1]


def alter(path: Path) -> None:
    """Change a digit of the first number of a golden."""
    first = re.compile(r'("bits": "|"0x1\.)([0-9a-f])')
    path.write_text(first.sub(lambda m: f"{m[1]}{int(m[2], 16) ^ 1:x}", path.read_text(encoding="utf-8"), count=1))
