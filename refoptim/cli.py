"""The command line."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

try:
    import click
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table
except ImportError as error:
    raise SystemExit(f"refoptim's command line needs {error.name}: pip install 'refoptim[cli]'") from error

from . import __version__, bench
from .conformance_cli import conformance
from .golden_cli import golden
from .info_cli import doctor_command, explain, list_command
from .plot_cli import plot


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="refoptim")
def main() -> None:
    """torch.optim on NumPy arrays, exact to the bit: tools around the library."""


@main.group(name="bench")
def bench_group() -> None:
    """Measure how fast steps are, as ratios against a peer measured in the same run."""


@bench_group.command()
@click.option("--pattern", default="", metavar="TEXT", help="Only cases whose name contains TEXT, in any case.")
@click.option(
    "--size", default=10_000_000, show_default=True, type=click.IntRange(1), help="Elements of the large tensor."
)
@click.option("--tensors", default=1000, show_default=True, type=click.IntRange(1), help="How many small tensors.")
@click.option("--small", default=100, show_default=True, type=click.IntRange(1), help="Elements of a small tensor.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Threads, ours and torch's.")
@click.option("--repeats", default=9, show_default=True, type=click.IntRange(1), help="Timed steps; the median counts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
def cpu(pattern: str, size: int, tensors: int, small: int, threads: int, repeats: int, as_json: bool) -> None:
    """Steps of the NumPy reference against torch's default CPU path.

    Times are medians of steps that take turns in one process; a ratio below 1 means that refoptim is faster. Memory is
    the peak of what a step allocates beyond parameters and state. Without torch, times stand alone.

    \b
    refoptim bench cpu
    refoptim bench cpu --pattern adamw --threads 2
    """
    chosen = [case for case in bench.cases(size, tensors, small) if pattern.lower() in case.name.lower()]
    if not chosen:
        raise click.BadParameter(f"no case matches {pattern!r}", param_hint="--pattern")
    console = Console(stderr=True)
    shown = track(chosen, "measuring", console=console, disable=not console.is_terminal)
    results = [bench.run(case, threads, repeats) for case in shown]
    if as_json:
        json.dump([{**asdict(result), "ratio": result.ratio} for result in results], sys.stdout, indent=2)
        click.echo()
    else:
        Console().print(_table(results, threads))


def _table(results: list[bench.Result], threads: int) -> Table:
    table = Table(title=f"float32, {threads} thread{'s' if threads > 1 else ''}; ratio = refoptim / torch")
    for name in ("case", "refoptim ms", "torch ms", "ratio", "extra MiB"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for r in results:
        peer = ("-", "-") if r.torch is None else (f"{r.torch * 1e3:.2f}", f"{r.ratio:.2f}")
        table.add_row(r.case.name, f"{r.ours * 1e3:.2f}", *peer, f"{r.extra_memory / 2**20:.2f}")
    return table


for command in (conformance, golden, plot, list_command, explain, doctor_command):
    main.add_command(command)


if __name__ == "__main__":
    main()
