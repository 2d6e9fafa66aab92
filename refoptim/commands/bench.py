"""The commands that measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.progress import Progress, track

from ..conformance.gradients import np_dtype
from ..distributed import plan
from ..engines import host
from . import bench_checkpoint, bench_cpu, bench_distributed, bench_gpu, bench_interop, gpu_report
from .measure import OF_TORCH, Case, Result, cases
from .output import echo, print_json, print_table, refusing

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

ARRAYS = 4
"""Arrays that a step of Adam works on; the two of a copy are as large together, so that caches hold as much of them."""

DTYPES = ("float32", "float64", "float16", "bfloat16")


@click.group(name="bench")
def bench() -> None:
    """Measure how fast steps are, as ratios against peers and memory measured in the same run."""


def _options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


def _with_turns(number: int) -> Callable[[F], F]:
    return _options(
        click.option("--pattern", default="", metavar="GLOB", help="Only these cases or optimizers: 'Adam, *', AdamW."),
        click.option(
            "--repeats", default=number, show_default=True, type=click.IntRange(1), help="Turns; the median counts."
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table."),
    )


_shared = _with_turns(9)


def _sizes(size: int, small: int) -> Callable[[F], F]:
    count = click.IntRange(1)
    return _options(
        click.option("--size", default=size, show_default=True, type=count, help="Elements of the large tensor."),
        click.option("--tensors", default=1000, show_default=True, type=count, help="How many small tensors."),
        click.option("--small", default=small, show_default=True, type=count, help="Elements of a small tensor."),
    )


@bench.command()
@_sizes(10_000_000, 100)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(0), help="Ours and torch's; 0 for all.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(DTYPES), help="Type of all arrays.")
@click.option(
    "--engine",
    default="all",
    show_default=True,
    type=click.Choice([*bench_cpu.ENGINES, "all"]),
    help="Who runs our steps: the NumPy reference, the compiled kernels (fused=True), or all there are, in turn.",
)
@_with_turns(60)
@refusing
def cpu(
    pattern: str,
    size: int,
    tensors: int,
    small: int,
    threads: int,
    dtype: str,
    engine: str,
    repeats: int,
    as_json: bool,
) -> None:
    """Steps on NumPy arrays, and evaluations of LBFGS, against torch's, or those of the package that owns a rule.

    The NumPy reference and the compiled kernels take turns with torch's default path and with its fastest: fused where
    torch has that, else foreach. Times are medians; a ratio below 1 means that refoptim is faster. "Of copy" is the
    bytes that a step must move per second, over what np.copyto moves with as many threads: near 100 % memory is the
    limit. "Extra" is the most that a step allocates beyond parameters and state, "state" the memory of the state over
    that of Adam's. A ratio above its goal is marked by the goal. Without torch, times stand alone.

    \b
    refoptim bench cpu
    refoptim bench cpu --pattern adamw --threads 2
    refoptim bench cpu --engine host --dtype float64 --json
    """
    chosen = bench_cpu.chosen(pattern, dtype, [(1, size), (tensors, small)])
    engines = _engines(engine)
    with bench_cpu.using(threads) as number:
        copy = bench_cpu.copy_speed(ARRAYS // 2 * size * np_dtype(dtype).itemsize, repeats)
        results = [bench_cpu.run(case, engines, repeats) for case in _shown(chosen)]
        where = bench_cpu.surroundings(number)
    if as_json:
        found = [_cpu_document(result, name, copy) for result in results for name in engines]
        print_json({"where": where, "copy GB/s": copy / 1e9, "found": found})
        return
    echo(f"np.copyto moves {copy / 1e9:.1f} GB/s, read and written, with {number} thread{'s'[: number > 1]}")
    times = ("ms", "torch ms", "ratio", "torch's best ms", "ratio")
    columns = ("case", "engine", *times, "bytes/el.", "of copy", "extra", "state")
    print_table(columns, [_cpu_row(result, name, copy) for result in results for name in engines])


def _engines(engine: str) -> list[str]:
    """Return the engines to measure; RuntimeError says that the one that is asked for is not there."""
    if engine == "reference":
        return [engine]
    if engine == "host":
        host.machine()
        return [engine]
    if missing := host.missing():
        echo(f"only the reference is measured: the kernels {missing.removeprefix('which ')}", err=True)
        return ["reference"]
    return list(bench_cpu.ENGINES)


def _cpu_document(result: Result, engine: str, copy: float) -> dict[str, Any]:
    case, best = result.case, f"torch {result.case.torch_path}"
    return {
        "rule": case.optimizer,
        "dtype": case.dtype,
        "tensors": case.tensors,
        "elements": case.size,
        "engine": engine,
        "seconds": result.seconds[engine],
        "torch seconds": result.seconds.get("torch"),
        "ratio to torch": result.ratio(engine, "torch"),
        f"{best} seconds": result.seconds.get(best),
        f"ratio to {best}": result.ratio(engine, best),
        "bytes": result.bytes,
        "share of copy": result.share(engine, copy),
        "extra bytes": result.extra.get(engine),
        "state bytes": result.state,
        "state of Adam's": result.state_of_adam,
        "goal": bench_cpu.goal(case, engine),
    }


def _cpu_row(result: Result, engine: str, copy: float) -> tuple[str, ...]:
    case, best = result.case, f"torch {result.case.torch_path}"
    goals = {best if engine == "host" and case.torch_path else "torch": bench_cpu.goal(case, engine)}
    moved, extra = result.bytes, result.extra.get(engine)
    return (
        str(case),
        engine,
        _number(result.seconds[engine], ".3f", 1e3),
        _number(result.seconds.get("torch"), ".3f", 1e3),
        _judged(result.ratio(engine, "torch"), goals.get("torch")),
        f"{_number(result.seconds.get(best), '.3f', 1e3)} {case.torch_path}",
        _judged(result.ratio(engine, best), goals.get(best)),
        str(moved // (case.tensors * case.size)) if moved else "-",
        _number(result.share(engine, copy) if moved else None, ".0%"),
        "-" if extra is None else f"{extra / 2**20:.2f} MiB",
        _number(result.state_of_adam if moved else None, ".3f"),
    )


def _judged(ratio: float | None, goal: float | None) -> str:
    """Return a ratio, marked by the goal if it is above."""
    text = _number(ratio, ".2f")
    return text if ratio is None or goal is None or ratio <= goal else f"{text} > {goal}"


def _number(x: float | None, form: str, unit: float = 1) -> str:
    return "-" if x is None else format(x * unit, form)


@bench.command()
@_sizes(10_000_000, 100)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(0), help="Ours and torch's; 0 for all.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(DTYPES), help="Type of all tensors.")
@_shared
@refusing
def interop(
    pattern: str, size: int, tensors: int, small: int, threads: int, dtype: str, repeats: int, as_json: bool
) -> None:
    """Steps on tensors of torch, against torch's.

    Every tensor gets a new gradient before each step, as it does from backward. "Plain" are the classes of refoptim,
    made of tensors, "front" those of refoptim.interop.torch, both with fused=True. torch runs fused where it can, else
    foreach. Times are medians; a ratio below 1 means that refoptim is faster.

    \b
    refoptim bench interop
    refoptim bench interop --pattern Adam
    """
    bench_interop.check()
    chosen = cases(pattern, [(dtype, 1, size), (dtype, tensors, small)], names=OF_TORCH)
    with bench_cpu.using(threads) as number:
        results = [bench_interop.run(case, repeats) for case in _shown(chosen)]
        where = bench_cpu.surroundings(number)
    if as_json:
        print_json({"where": where, "found": [x for result in results for x in _interop_documents(result)]})
        return
    rows = [_interop_row(result, way) for result in results for way in bench_interop.WAYS]
    print_table(("case", "ours", "ms", "torch ms", "path", "ratio"), rows)


def _interop_documents(result: Result) -> list[dict[str, Any]]:
    case = result.case
    return [
        {
            "rule": case.optimizer,
            "dtype": case.dtype,
            "tensors": case.tensors,
            "elements": case.size,
            "ours": way,
            "seconds": result.seconds[way],
            f"torch {case.torch_path} seconds": result.seconds["torch"],
            "ratio": result.ratio(way, "torch"),
        }
        for way in bench_interop.WAYS
    ]


def _interop_row(result: Result, way: str) -> tuple[str, ...]:
    ours, theirs = (_number(result.seconds[x], ".3f", 1e3) for x in (way, "torch"))
    return str(result.case), way, ours, theirs, result.case.torch_path, _number(result.ratio(way, "torch"), ".2f")


@bench.command()
@_sizes(bench_gpu.LARGE, 10_000)
@click.option(
    "--dtype", "dtypes", multiple=True, type=click.Choice(DTYPES), help="Type of the large tensor; all, if not given."
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Put the figures, the GPU and the versions into this file of reports, in the place of the last ones there.",
)
@_shared
@refusing
def gpu(
    pattern: str,
    size: int,
    tensors: int,
    small: int,
    dtypes: tuple[str, ...],
    report: Path | None,
    repeats: int,
    as_json: bool,
) -> None:
    """Steps on a GPU, against its copy bandwidth, torch's steps, and kernels written with CuPy.

    One large tensor of each type, and many small ones in float32. "Share of copy" is the bytes that a step must move
    per second, over what a copy on the same GPU moves. torch runs fused where it can, else foreach; "CuPy" is an
    elementwise kernel for each parameter. Times are medians of turns between events on the GPU; a ratio below 1 means
    that refoptim is faster. The GPU is the first that CUDA_VISIBLE_DEVICES names. What has not memory enough stays
    empty: choose a smaller --size. So does what fails, which is told at the end.

    \b
    refoptim bench gpu
    refoptim bench gpu --pattern adamw --dtype float32
    refoptim bench gpu --report docs/gpu.json
    """
    large = [(dtype, 1, size) for dtype in dtypes or DTYPES]
    chosen = cases(pattern, [*large, ("float32", tensors, small)])
    bench_gpu.check()
    if report:
        gpu_report.read(report)  # if it cannot be read, say so before anything is measured
    if missing := bench_gpu.torch_is_missing():
        echo(f"torch is not measured: {missing}", err=True)
    copies = bench_gpu.copies(size, repeats)
    copy = max(x.bytes / x.seconds["refoptim"] for x in copies)
    rows, where, failed = [bench_gpu.row(result, copy) for result in copies], gpu_report.surroundings(), []
    for case in _shown(chosen):
        try:
            result = bench_gpu.run(case, repeats, with_torch=not missing)
        except RuntimeError as error:
            failed.append(f"{case}: {error}")
            result = Result(case, {}, 0, {})
        rows.append(bench_gpu.row(result, copy))
        if report:
            gpu_report.write("bench", rows, report, where)  # each time, so that a run that is cut short leaves one
    if as_json:
        print_json({"where": where, "found": rows})
    else:
        print_table(tuple(rows[0]), [tuple("-" if x is None else str(x) for x in row.values()) for row in rows])
    if failed:
        raise RuntimeError(f"{len(failed)} cases failed: {'; '.join(failed)}")


PEERS = ("safetensors", "torch")


@bench.command(name="checkpoint")
@click.option("--size", default=1 << 30, show_default=True, type=click.IntRange(1), help="Bytes of all arrays.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Turns; the median counts.")
@click.option(
    "--folder",
    default=".",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the files are written, on the disk that is to be measured; they are deleted.  [default: here]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")
@refusing
def checkpoint_command(size: int, repeats: int, folder: Path, as_json: bool) -> None:
    """Checkpoints, against safetensors and torch: the same bytes written and opened in the same run.

    "Write" lasts until file and folder are on the disk (fsync), for the others too; ours makes digests meanwhile.
    "Open" maps a file into memory, as torch does with mmap=True; safetensors' load_file copies arrays. "Read all"
    opens, and reads every byte once. "Verified" compares with the digests besides, which the others do not have. Times
    are medians of turns; a ratio below 1 means that ours is faster. Where others use the disk or the processors, look
    at several runs.

    \b
    refoptim bench checkpoint
    refoptim bench checkpoint --size 2000000000 --folder /scratch --json
    """
    console = Console(stderr=True)
    with bench_checkpoint.folder(folder, size) as where, Progress(console=console, transient=True) as bar:
        bar.disable = not console.is_terminal
        task = bar.add_task("measuring", total=repeats + 1)
        found = bench_checkpoint.measured(bench_checkpoint.made(size), where, repeats, lambda n: bar.advance(task, n))
    if as_json:
        print_json({"where": bench_checkpoint.surroundings(), "bytes": size, "seconds": found})
        return
    columns = ("what", "ms", "GB/s", *(x for peer in PEERS for x in (f"{peer} ms", "ratio")))
    print_table(columns, [_checkpoint_row(what, seconds, size) for what, seconds in found.items()])


@bench.command(name="distributed")
@click.option("--size", default=8_000_000, show_default=True, type=click.IntRange(1), help="float32 parameters.")
@click.option("--repeats", default=9, show_default=True, type=click.IntRange(1), help="Turns; the median counts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@refusing
def distributed_command(size: int, repeats: int, as_json: bool) -> None:
    """Steps on many ranks: what they exchange, against MPI's own functions; and a plan for more of them.

    Run it by a launcher; rank 0 prints. "Exchange" gives each rank its part of the gradient of every other,
    MPI_Reduce_scatter besides adds; "gather" gives all ranks the parameters. "Fold" adds what has come, "update" is the
    fused AdamW of one part. Then gradients are exchanged after and beside work that takes twice as long: work done
    elsewhere, for which the processor waits as for a GPU, and work done here, by the processor that exchanges. Each
    rank needs a processor for itself: where ranks share processors, or others use them, times mean little. Latency and
    bandwidth are fitted to messages of several sizes.

    \b
    mpiexec -n 2 python -m mpi4py -m refoptim bench distributed
    mpiexec -n 4 python -m mpi4py -m refoptim bench distributed --size 100000000 --json
    """
    api = bench_distributed.world()
    found = bench_distributed.measured(api, size, repeats) | bench_distributed.overlap(api, size, repeats)
    link = bench_distributed.link(api, repeats)
    if api.COMM_WORLD.Get_rank():
        return
    ranks = api.COMM_WORLD.Get_size()
    ratios = bench_distributed.ratios(found, ranks)
    if as_json:
        about = {"where": bench_distributed.surroundings(), "ranks": ranks, "parameters": size}
        print_json({**about, "seconds": found, "ratios": ratios, "link": link._asdict()})
        return
    print_table(("what", "ms"), [[what, f"{x * 1e3:.3f}"] for what, x in found.items()])
    print_table(("ratio", ""), [[what, f"{x:.2f}"] for what, x in ratios.items()])
    echo(f"a message takes {link.latency * 1e6:.1f} µs and its bytes at {link.bandwidth / 1e9:.2f} GB/s")
    print_table(plan.COLUMNS, plan.rows(link))


def _checkpoint_row(what: str, seconds: dict[str, float], size: int) -> list[str]:
    mine = seconds["refoptim"]
    speed = "-" if what == "open" else f"{size / mine / 1e9:.2f}"
    row = [what, f"{mine * 1e3:.1f}", speed]
    for peer in PEERS:
        other = seconds.get(peer)
        row += [_number(other, ".1f", 1e3), _number(mine / other if other else None, ".2f")]
    return row


def _shown(chosen: Sequence[Case]) -> Iterable[Case]:
    """Show how far a run is, in a terminal."""
    console = Console(stderr=True)
    return track(chosen, "measuring", console=console, disable=not console.is_terminal)
