"""The command line."""

from __future__ import annotations

from importlib.util import find_spec

try:
    import click
    import rich  # noqa: F401
except ImportError as error:
    raise SystemExit(f"refoptim's command line needs {error.name}: pip install click rich") from error

if find_spec("refoptim.conformance") is None:
    raise SystemExit(
        "refoptim's command line runs from an installed package: pip install -e . in this checkout, or call it from "
        "another folder"
    )

from .. import __version__
from .accuracy import accuracy
from .bench import bench
from .checkpoint import checkpoint
from .conformance import conformance
from .diagnose import diagnose_command
from .golden import golden
from .info import doctor_command, explain, list_command
from .output import Program
from .plot import plot


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="refoptim")
def main() -> None:
    """torch.optim on NumPy arrays, exact to the bit: tools around the library."""


for command in (
    *(accuracy, bench, checkpoint, conformance, diagnose_command, golden, plot),
    *(list_command, explain, doctor_command),
):
    main.add_command(command)
