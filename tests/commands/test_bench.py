"""Benchmarks: what takes part, in which order, what is counted; no test looks at a time that was measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import refoptim
from helpers import wider
from helpers.kernels import NEEDS_KERNELS, dtype_of
from refoptim.commands import bench as bench_commands
from refoptim.commands import bench_cpu, bench_gpu, bench_lbfgs, gpu_report
from refoptim.commands import measure as bench
from refoptim.commands.main import main
from refoptim.commands.measure import Case
from refoptim.engines import host
from refoptim.step.rule import is_measured, resolve

BYTES = {
    "SGD": 20,
    "Adam": 28,
    "AdamW": 28,
    "NAdam": 28,
    "RAdam": 28,
    "Adamax": 28,
    "Adadelta": 28,
    "Adagrad": 20,
    "RMSprop": 20,
    "Rprop": 28,
    "ASGD": 20,
    **{
        found.__name__: 12 + 8 * len(found.arrays(resolve(found, found([np.zeros(2)]).defaults), (2,)))
        for found in (getattr(refoptim, name) for name in wider.WIDER)
        if not is_measured(found)
    },
}
"""Bytes per float32 element: a parameter is read and written, a gradient read, each array of state read and written."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take short turns."""
    monkeypatch.setattr(bench, "TURN", 0.0)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, arguments)])


# ------------------------------------------------------------------------------------------------ what is shared


def test_cases_are_chosen_by_name() -> None:
    shapes = [("float32", 1, 1000), ("float16", 20, 3)]
    assert len(bench.cases("", shapes)) == 2 * len(bench.OPTIMIZERS)
    assert len(bench.cases("", shapes, names=bench.OF_TORCH)) == 22
    found = bench.cases("ADAMW", shapes)
    assert [str(case) for case in found] == ["AdamW, float32, 1 x 1,000", "AdamW, float16, 20 x 3"]
    with pytest.raises(ValueError, match="no case matches 'nothing'"):
        bench.cases("nothing", shapes)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_numbers_are_neither_zero_nor_subnormal(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "PERIOD", 1000)
    wanted, x = dtype_of(dtype), bench.drawn(1, 2500, dtype)
    assert (x.dtype, x.shape) == (wanted, (2500,))
    values = np.abs(x.astype(np.float64))
    assert values.min() >= 0.5
    assert values.max() <= 2
    assert 300 < (x.astype(np.float64) < 0).sum() * 0.4 < 700
    assert np.array_equal(x[:1000], x[1000:2000])
    assert not np.array_equal(x, bench.drawn(2, 2500, dtype))


def test_steps_take_turns_and_medians_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is a script: one step takes 1, 2, 9 seconds in its turns, the other always 0.1."""
    monkeypatch.setattr(bench, "TURN", 0.35)
    calls: list[tuple[str, int]] = []
    slow = iter([1.0, 2.0, 9.0])

    def clock(step: Callable[[], str], n: int) -> float:
        calls.append((step(), n))
        if step() == "slow" and len(calls) > 4:
            return next(slow)
        return n * {"slow": 1.0, "quick": 0.1}[step()]

    found = bench.in_turn({"slow": lambda: "slow", "quick": lambda: "quick"}, clock, 3, sets=2)
    assert found == {"slow": 2.0, "quick": pytest.approx(0.1)}
    assert calls[:2] == [("slow", 2 * bench.WARM_UP), ("quick", 2 * bench.WARM_UP)]
    assert calls[4:] == [("slow", 1), ("quick", 4), ("quick", 4), ("slow", 1), ("slow", 1), ("quick", 4)]


# ---------------------------------------------------------------------------------------------- on this computer


def engines() -> list[str]:
    return ["reference"] if host.missing() else ["reference", "host"]


@pytest.mark.parametrize("name", BYTES)
def test_a_case_is_measured(name: str) -> None:
    result = bench_cpu.run(Case(name, "float32", 3, 50), engines(), 1)
    assert result.bytes == 150 * BYTES[name]
    assert result.extra.keys() == {*engines()}
    assert result.seconds.keys() >= {*engines()}
    assert result.ratio("reference", "nobody") is None
    copy = 2 * result.bytes / result.seconds["reference"]
    assert result.share("reference", copy) == pytest.approx(0.5)


@pytest.mark.parametrize("path", ["", "fused", "foreach"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_torch_takes_the_same_steps(dtype: str, path: str) -> None:
    """All contenders begin with the same numbers and have the same settings."""
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    data = [(bench.drawn(i, 40, dtype), bench.drawn(i + 2, 40, dtype)) for i in range(2)]
    for name in bench.FUSED if path == "fused" else bench.OF_TORCH:
        case = Case(name, dtype, 2, 40)
        ours, theirs = bench_cpu._our_optimizer(case, data, "reference"), bench_cpu._torch_step(case, data, path)
        for _ in range(3):
            ours.step()
            theirs()
        pairs = [
            (x["params"], y["params"]) for x, y in zip(ours.param_groups, theirs.__self__.param_groups, strict=True)
        ]
        for p, q in zip(*pairs[0], strict=True):
            error = np.abs(p.data.astype(np.float64) - q.detach().to(torch.float64).numpy()).max()
            assert error <= {"float32": 1e-5, "float64": 1e-7, "bfloat16": 0.1}[dtype], name


@pytest.mark.parametrize("where", ["reference", "host"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_wrong_steps_are_not_measured(monkeypatch: pytest.MonkeyPatch, dtype: str, where: str) -> None:
    """Kernels that do not update the last number have steps whose time is not told; arrays repeat what was drawn."""
    if where not in engines():
        pytest.skip("the kernels were not built")
    monkeypatch.setattr(bench, "PERIOD", 30)
    dtype_of(dtype)
    case = Case("Adam", dtype, 2, 70)
    assert bench_cpu.run(case, [where], 1).seconds[where] > 0
    step = refoptim.Optimizer.step

    def wrong(self: Any, **options: Any) -> None:
        step(self, **options)
        if self.defaults["fused"]:
            self.state[self.param_groups[0]["params"][1]]["exp_avg"][-1] = 0

    monkeypatch.setattr(refoptim.Optimizer, "step", wrong)
    if where == "reference":
        bench_cpu.run(case, [where], 1)
    else:
        with pytest.raises(RuntimeError, match=r"^Adam, .*, 2 x 70: a step of the kernels is not the reference's"):
            bench_cpu.run(case, [where], 1)


def test_everything_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock says that a step takes a second, so that the speed is the number of bytes."""
    copied: list[Any] = []

    def clock(steps: dict[str, Any], *rest: object) -> dict[str, float]:
        steps["copy"]()
        return {"copy": 1.0}

    monkeypatch.setattr(bench_cpu, "PIECE", 4000)
    monkeypatch.setattr(bench_cpu, "in_turn", clock)
    monkeypatch.setattr(np, "copyto", lambda target, source: copied.append((target, source)))
    assert bench_cpu.copy_speed(10_000, 1) == 20_000
    assert [len(target) for target, _ in copied] == [len(source) for _, source in copied] == [1000, 1000, 500]


def test_threads_are_set_and_put_back() -> None:
    before = refoptim.get_num_threads()
    with bench_cpu.using(before + 1) as number:
        assert number == refoptim.get_num_threads() == before + 1
    assert refoptim.get_num_threads() == before
    with bench_cpu.using(0) as number:
        assert number >= 1


@NEEDS_KERNELS
def test_the_command_prints_a_table() -> None:
    done = run("cpu", "--size", 200, "--tensors", 2, "--small", 10, "--repeats", 1, "--pattern", "adamax")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("np.copyto moves ")
    assert lines[0].endswith(" with 1 thread")
    cells = [line.split("\t") for line in lines[1:]]
    shapes = ("1 x 200", "2 x 10", "1 x 10", "100 x 10", "1 x 400,000")
    assert [row[:2] for row in cells] == [
        [f"Adamax, float32, {shape}", engine] for shape in shapes for engine in ("reference", "host")
    ]
    assert all(len(row) == 11 and (row[7], row[10]) == ("28", "1.000") for row in cells)


def test_the_command_prints_json() -> None:
    done = run(
        "cpu", "--size", 200, "--repeats", 1, "--pattern", "rprop, float16, 1 x 200", "--json", "--dtype", "float16"
    )
    document = json.loads(done.stdout)
    assert document.keys() == {"where", "copy GB/s", "found"}
    assert document["where"]["threads"] == 1
    assert [x["engine"] for x in document["found"]] == engines()
    assert all(x["bytes"] == 200 * 14 for x in document["found"])
    assert all(x["seconds"] > 0 for x in document["found"])


def test_the_median_is_that_of_sixty_turns() -> None:
    option = next(x for x in bench_commands.cpu.params if x.name == "repeats")
    assert option.default == 60


def row_of(case: Case, engine: str, ours: float, **theirs: float) -> tuple[str, ...]:
    seconds = {engine: ours, **{name.replace("_", " "): x for name, x in theirs.items()}}
    return bench_commands._cpu_row(bench.Result(case, seconds, 0, {}), engine, 1.0)


def test_a_ratio_above_its_goal_is_marked() -> None:
    """The reference's goals are ratios to torch's default, the kernels' to torch's best."""
    small, cached = Case("SGD", "float32", 1, 10), Case("Adamax", "float32", 1, 400_000)
    assert row_of(small, "reference", 3, torch=2, torch_fused=1)[4:7:2] == ("1.50 > 1.0", "3.00")
    assert row_of(small, "reference", 2, torch=2, torch_fused=1)[4:7:2] == ("1.00", "2.00")
    assert row_of(small, "host", 3, torch=2, torch_fused=1)[4:7:2] == ("1.50", "3.00 > 1.0")
    assert row_of(cached, "host", 4, torch=10, torch_foreach=10)[4:7:2] == ("0.40", "0.40 > 0.3")
    assert row_of(bench_lbfgs.Evaluation("LBFGS", "float32", 1, 60), "host", 3, torch=2)[4:7:2] == ("1.50 > 1.0", "-")
    assert row_of(Case("SGD", "float64", 1, 10), "host", 3, torch_fused=1)[6] == "3.00"
    assert row_of(small, "host", 3)[4:7:2] == ("-", "-")


LBFGS = bench_lbfgs.Evaluation("LBFGS", "float32", 1, 6)


def test_lbfgs_is_measured_with_a_full_history() -> None:
    step, x = bench_lbfgs._ours(LBFGS, {})
    optimizer: Any = step.__closure__[1].cell_contents  # type: ignore[attr-defined]
    for _ in range(bench.WARM_UP):
        before = x.copy()
        step()
        assert (x > before).all(), "it goes on for ever"
    (state,) = optimizer.state.values()
    assert len(state["old_dirs"]) == bench_lbfgs.HISTORY
    assert state["func_evals"] == bench.WARM_UP * bench_lbfgs.EVALS


def test_lbfgs_of_torch_takes_the_same_way(torch: Any) -> None:
    (ours, x), theirs = bench_lbfgs._ours(LBFGS, {}), bench_lbfgs._torch(LBFGS)
    (p,) = theirs.__closure__[1].cell_contents.param_groups[0]["params"]  # type: ignore[attr-defined]
    for _ in range(2):
        ours(), theirs()
    np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-5)


@NEEDS_KERNELS
def test_lbfgs_of_kernels_that_are_wrong_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {name: bench_cpu.ENGINES[name] for name in ("reference", "host")}
    assert bench_lbfgs.run(LBFGS, chosen, 1).seconds.keys() >= {"reference", "host"}
    monkeypatch.setattr(host.Host, "launchings", lambda *arguments: [])
    with pytest.raises(RuntimeError, match="a step of the kernels is not the reference's"):
        bench_lbfgs.run(LBFGS, chosen, 1)


def test_torch_is_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cpu, "find_spec", lambda name: None)
    done = run("cpu", "--size", 200, "--repeats", 1, "--pattern", "rprop, float32, 1 x 200", "--engine", "reference")
    assert done.exit_code == 0, done.output
    row = done.stdout.splitlines()[1].split("\t")
    assert row[3:7] == ["-", "-", "- foreach", "-"]


def test_without_kernels_the_reference_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(host, "LIBRARY", tmp_path / "no.so")
    done = run("cpu", "--size", 200, "--repeats", 1, "--pattern", "rprop, float32, 1 x 200", "--json")
    assert [x["engine"] for x in json.loads(done.stdout)["found"]] == ["reference"]
    assert done.stderr.startswith("only the reference is measured: the kernels were not built when refoptim")
    monkeypatch.setattr(bench_cpu, "copy_speed", lambda *arguments: 1 / 0)  # what cannot be measured is refused first
    asked = run("cpu", "--engine", "host")
    assert asked.exit_code == 2
    assert asked.stderr.startswith("Error: fused=True needs the compiled kernels, which were not built")


@pytest.mark.parametrize("command", ["cpu", "gpu"])
def test_no_such_case(command: str) -> None:
    done = run(command, "--pattern", "nothing")
    assert done.exit_code == 2
    assert "Error: no case matches 'nothing': they are named like 'SGD, float32, 1 x" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# ------------------------------------------------------------------------------------- on a GPU, which stands in


class Pool(SimpleNamespace):
    """A pool of memory that tells what a test wants."""

    used, total = 0, 0

    def used_bytes(self) -> int:
        return self.used

    def total_bytes(self) -> int:
        return self.total

    def free_all_blocks(self) -> None:
        pass


@pytest.fixture
def gpu(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the stand-in with what benchmarks need beside: a clock by which any run of steps takes 2 ms, and more."""
    launched: list[tuple[Any, ...]] = []
    pool = Pool()

    def kernel(inputs: str, outputs: str, code: str, name: str) -> Callable[..., None]:
        return lambda *arguments: launched.append((name, arguments, len(f"{inputs},{outputs}".split(","))))

    runtime = gpu.cuda.runtime
    properties = {"name": b"Imaginary 9000", "totalGlobalMem": 5 << 29, "l2CacheSize": 1000, "multiProcessorCount": 1}
    monkeypatch.setattr(runtime, "getDeviceProperties", lambda device: properties)
    monkeypatch.setattr(runtime, "driverGetVersion", lambda: 13010, raising=False)
    monkeypatch.setattr(gpu.cuda, "get_elapsed_time", lambda start, end: 2.0, raising=False)
    monkeypatch.setattr(gpu, "copyto", lambda target, source: target.__setitem__(..., source), raising=False)
    monkeypatch.setattr(gpu, "ElementwiseKernel", kernel, raising=False)
    monkeypatch.setattr(gpu, "get_default_memory_pool", lambda: pool, raising=False)
    monkeypatch.setattr(bench_gpu, "gc", SimpleNamespace(collect=lambda: 0))
    gpu.launched, gpu.pool = launched, pool
    yield gpu
    del gpu.launched, gpu.pool


def measure(*arguments: object) -> Result:
    return run("gpu", "--size", 400, "--tensors", 3, "--small", 50, "--repeats", 1, *arguments)


def test_every_rule_is_measured_and_reported(gpu: Any, tmp_path: Path) -> None:
    dtype_of("bfloat16")
    path = tmp_path / "gpu.json"
    gpu_report.write("tests", {"passed": 1}, path)
    done = measure("--json", "--report", path)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    reports = gpu_report.read(path)
    assert reports.keys() == {"tests", "bench"}
    assert reports["bench"]["found"] == document["found"]
    assert reports["bench"]["where"].keys() >= {
        "device",
        "driver",
        "CUDA of CuPy",
        "NVRTC",
        "CuPy",
        "torch",
        "commit",
        "date",
    }
    copies, rows = document["found"][:2], document["found"][2:]
    assert [row["rule"] for row in copies] == ["copy, driver", "copy, kernel"]
    assert all(row["bytes per element"] == 8 for row in copies)
    large = [(rule, dtype, 1, 400) for dtype in ("float32", "float64", "float16", "bfloat16") for rule in BYTES]
    small = [(rule, "float32", 3, 50) for rule in BYTES]
    assert [tuple(row[x] for x in ("rule", "dtype", "tensors", "elements")) for row in rows] == large + small
    width = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
    assert all(row["bytes per element"] == BYTES[row["rule"]] * width[row["dtype"]] // 4 for row in rows)
    assert all(row["ms"] > 0 and row["GB/s"] > 0 for row in rows)
    assert list(reports["bench"]["found"][0]) == list(document["found"][0])
    assert list(document["found"][0])[:3] == ["rule", "dtype", "tensors"]
    assert {row["rule"] for row in rows if row["CuPy ms"] is not None} == {*bench_gpu.ELEMENTWISE}


def test_our_steps_are_launched_and_others_once_per_parameter(gpu: Any) -> None:
    """Steps rotate through more sets of arrays than the cache holds, so that none is used again soon."""
    gpu.world.counters = gpu.Counters()
    bench_gpu.run(Case("Adam", "float32", 3, 50), 1, with_torch=False)
    assert set(gpu.world.counters.launches) == {"adam_float32"}
    names, arguments, counts = zip(*gpu.launched, strict=True)
    assert set(names) == {"adam_step"}
    assert {len(x) for x in arguments} == set(counts) == {8}
    used = [id(x[0]) for x in arguments]
    sets = len(set(used)) // 3
    assert sets == 2  # 8 x 1000 bytes of cache, and 3 x 50 x 28 bytes that a step moves
    assert used[:6] == used[6:12]
    assert len(set(used[:6])) == 6


def test_a_case_that_fails_loses_no_other(gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = bench_gpu.run

    def run_all_but_adam(case: Case, repeats: int, **options: Any) -> Any:
        if case.optimizer == "Adam":
            raise RuntimeError("it went astray")
        return whole(case, repeats, **options)

    monkeypatch.setattr(bench_gpu, "run", run_all_but_adam)
    path = tmp_path / "gpu.json"
    done = measure("--dtype", "float32", "--report", path)
    assert done.exit_code == 2
    assert done.stderr.count("it went astray") == 2
    rows = gpu_report.read(path)["bench"]["found"][2:]
    assert {row["rule"] for row in rows if row["ms"] is None} == {"Adam"}
    assert len(rows) == 2 * len(bench.OPTIMIZERS)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_wrong_steps_on_a_gpu_are_not_measured(gpu: Any, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(bench, "PERIOD", 30)
    case = Case("Adam", dtype, 2, 70)
    bench_gpu.run(case, 1, with_torch=False)
    step = refoptim.Optimizer.step

    def wrong(self: Any, **options: Any) -> None:
        step(self, **options)
        x = self.state[self.param_groups[0]["params"][-1]]["exp_avg"]
        if hasattr(x, "get"):
            x[-1:] = 0

    monkeypatch.setattr(refoptim.Optimizer, "step", wrong)
    with pytest.raises(RuntimeError, match=r"^Adam, .*, 2 x 70: a step of the kernels is not the reference's"):
        bench_gpu.run(case, 1, with_torch=False)


def test_extra_memory_is_what_is_neither_array_nor_state(gpu: Any) -> None:
    """Adam's state of 400 numbers is two arrays of 1600 bytes, which take 2048 each."""
    gpu.pool.used, gpu.pool.total = 1000, 1000 + 2 * 2048 + 77
    result = bench_gpu.run(Case("Adam", "float32", 1, 400), 1, with_torch=False)
    assert result.extra == {"refoptim": 77}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_torch_takes_part(gpu: Any, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tensors lie in the memory of this computer here, as all of the stand-in's arrays do."""
    torch = pytest.importorskip("torch", reason="the live witness torch 2.13.0 is not installed")
    dtype_of(dtype)
    handed: list[Any] = []

    def from_dlpack(x: Any) -> Any:
        handed.append(torch.from_numpy(x._x))
        return handed[-1]

    monkeypatch.setattr(torch, "from_dlpack", from_dlpack)
    monkeypatch.setattr(bench_gpu, "torch_is_missing", lambda: "")
    for name in bench.OF_TORCH:
        result = bench_gpu.run(Case(name, dtype, 2, 60), 1, with_torch=True)
        row = bench_gpu.row(result, 1e9)
        assert row["torch"] == ("fused" if name in ("SGD", "Adam", "AdamW", "Adagrad") else "foreach")
        assert row["ratio to torch"] == 1.0
    assert {x.dtype for x in handed} == {torch.int16 if dtype == "bfloat16" else getattr(torch, dtype)}


def test_what_has_not_memory_enough_stays_empty(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class OutOfMemoryError(MemoryError):
        pass

    def fail(*arguments: object) -> Any:
        raise OutOfMemoryError

    case = Case("SGD", "float32", 1, 400)
    wanted = bench_gpu.row(bench_gpu.run(case, 1, with_torch=False), 1e9)
    monkeypatch.setattr(bench_gpu, "in_turn", fail)
    row = bench_gpu.row(bench_gpu.run(case, 1, with_torch=False), 1e9)
    assert list(row) == list(wanted)
    assert [x for x in row.values() if x is not None] == ["SGD", "float32", 1, 400]
    monkeypatch.setattr(bench_gpu, "in_turn", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench_gpu.run(case, 1, with_torch=False)


VERDICTS: dict[str, tuple[Case, float, float, Any]] = {
    "both hold": (Case("Adam", "float32", 1, 10), 0.9, 1.0, (True, True)),
    "both are missed": (Case("Adam", "float32", 1, 10), 0.89, 1.01, (False, False)),
    "small tensors": (Case("Adam", "float32", 9, 10), 0.1, 0.99, (None, True)),
    "another dtype": (Case("Adam", "float64", 1, 10), 0.95, 0.5, (None, None)),
    "a copy": (Case("copy, driver", "float32", 1, 10), 1.0, 1.0, (None, None)),
}


@pytest.mark.parametrize("what", VERDICTS)
def test_targets(what: str) -> None:
    """Times that give the share and the ratio, of 280 bytes and a copy at 1000 bytes per second."""
    case, share, ratio, wanted = VERDICTS[what]
    ours = 0.28 / share
    result = bench.Result(case, {"refoptim": ours, "torch": ours / ratio}, 280, {"refoptim": 5})
    row = bench_gpu.row(result, 1000)
    assert (row["share >= 0.9"], row["ratio <= 1.0"]) == wanted
    assert (row["share of copy"], row["ratio to torch"]) == (pytest.approx(share), pytest.approx(ratio))
    alone = bench_gpu.row(bench.Result(case, {"refoptim": ours}, 280, {"refoptim": 5}), 1000)
    assert (alone["ratio <= 1.0"], alone["torch"], alone["torch ms"]) == (None, None, None)


def test_without_a_gpu_one_line_says_what_is_missing(fake_cupy: Any, tmp_path: Path) -> None:
    fake_cupy.world.driver = False
    try:
        done = measure("--report", tmp_path / "gpu.json")
    finally:
        fake_cupy.world.driver = True
    assert done.exit_code == 2
    assert done.stderr.startswith("Error: steps on a GPU cannot be measured: there is no driver for NVIDIA's GPUs")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "gpu.json").exists()
