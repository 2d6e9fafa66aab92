"""The command that measures ranks; with ranks it is run where MPI is."""

from __future__ import annotations

from click.testing import CliRunner

from refoptim.commands.bench_distributed import ratios
from refoptim.commands.main import main


def test_one_process_alone_is_refused() -> None:
    done = CliRunner().invoke(main, ["bench", "distributed"])
    assert done.exit_code != 0
    assert "mpiexec -n 2 python -m mpi4py -m refoptim bench distributed" in done.output


def test_ratios_by_hand() -> None:
    """Of two ranks a fold moves 3 numbers where the update moves 7; of 8 seconds of exchange 4 are hidden, and 2."""
    seconds = {
        "MPI_Reduce_scatter": 2.0,
        "MPI_Allgatherv": 3.0,
        "exchange": 1.0,
        "gather": 4.0,
        "fold": 3.0,
        "update": 14.0,
        "exchange of pieces": 8.0,
        "work elsewhere, exchange after it": 20.0,
        "work elsewhere, exchange beside it": 16.0,
        "work here, exchange after it": 21.0,
        "work here, exchange beside it": 19.0,
    }
    assert list(ratios(seconds, 2).values()) == [1.0, 0.5, 0.5, 0.25]
