"""A run is restored whole or not at all, and goes on as if it had not been interrupted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.faults import Interrupt, Lines, alarms, raised, set_off, traced
from helpers.kept import kept
from helpers.runs import ALL, Run
from refoptim import Parameter, checkpoint
from refoptim.checkpoint import CheckpointError
from refoptim.swa_utils import AveragedModel

FORMS: dict[str, dict[str, Any]] = {
    "x.safetensors": {},
    "x.npz": {},
    "x.json": {},
    "x": {"shards": 3},
    **({"x.pt": {}} if find_spec("refoptim.checkpoint.pt") else {}),
}


def save(folder: Path, run: Run, form: str = "x.safetensors") -> Path:
    return checkpoint.save(folder / form, **FORMS[form], **run.parts(), epoch=run.epoch)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ALL)
def test_a_run_that_was_stopped_goes_on_to_the_bit(tmp_path: Path, name: str, dtype: str) -> None:
    """Whenever it was stopped: before its first step, in the warm-up, and after."""
    whole = Run(name, dtype).train(10).look()
    for i, steps in enumerate((0, 2, 5)):
        path = save(tmp_path, Run(name, dtype).train(steps), [*FORMS][(i + len(name)) % len(FORMS)])
        run = Run(name, dtype, seed=5)
        run.epoch = checkpoint.restore(path, **run.parts())["epoch"]
        assert run.epoch == steps
        assert run.train(10 - steps).look() == whole


@pytest.mark.parametrize("form", FORMS)
def test_every_format_restores_the_same(tmp_path: Path, form: str) -> None:
    run = Run("Adam").train(3)
    other = Run("Adam", seed=7).train(5)
    assert checkpoint.restore(save(tmp_path, run, form), **other.parts()) == {"epoch": 3}
    assert other.look() == run.look()


def test_a_run_takes_over_where_it_has_already_trained(tmp_path: Path) -> None:
    """The state that there was is replaced, not mixed."""
    path = save(tmp_path, Run("Adam"))
    run = Run("Adam", seed=3).train(4)
    checkpoint.restore(path, **run.parts())
    assert run.look() == Run("Adam").look()


def test_parts_that_are_not_asked_for_are_left_alone(tmp_path: Path) -> None:
    run, other = Run("SGD").train(2), Run("SGD", seed=9)
    path, before = save(tmp_path, run), other.look()
    found = checkpoint.restore(path, rng=other.rng)
    assert list(found) == ["model", "optimizer", "scheduler", "average", "scaler", "epoch"]
    assert other.rng.bit_generator.state == run.rng.bit_generator.state and other.look()[1][:-1] == before[1][:-1]


def wrong_parts() -> dict[str, tuple[str, Any, str]]:
    """Return parts that do not fit, the name each takes, and what is said."""
    read_only = {"w": np.zeros((4, 3), np.float32), "v": np.zeros((3, 2), np.float32)}
    read_only["v"].flags.writeable = False
    other = {"w": np.zeros((4, 3), np.float32)}
    return {
        "another shape": ("model", {"w": np.zeros((4, 3), np.float32), "v": np.zeros(6, np.float32)}, "v is float32"),
        "another dtype": ("model", {"w": np.zeros((4, 3), np.float32), "v": np.zeros((3, 2))}, "v is float64"),
        "other names": ("model", other, "other arrays than were saved: v"),
        "read-only": ("model", read_only, "v is read-only"),
        "another optimizer": ("optimizer", refoptim.SGD([np.zeros(3)], lr=0.1), "different number of parameter groups"),
        "another average": ("average", AveragedModel(other), r"Unexpected key\(s\)"),
        "another generator": ("rng", np.random.Generator(np.random.MT19937()), "'rng' cannot be restored"),
        "no part": ("scaler", 3, "a int takes over nothing"),
        "a missing part": ("nothing", {"w": np.zeros(3)}, "has no part 'nothing', it has 'model', 'optimizer'"),
    }


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("what", wrong_parts())
def test_what_does_not_fit_changes_nothing(tmp_path: Path, what: str, last: bool) -> None:
    """Wherever it stands among the others; arrays of a state that was there are the same arrays afterwards."""
    name, part, said = wrong_parts()[what]
    path, run = save(tmp_path, Run("Adam").train(3)), Run("Adam", seed=7).train(2)
    before, state = run.look(), [*run.optimizer.state[run.parameters[0]].values()]
    parts = {key: x for key, x in run.parts().items() if key != name}
    parts = {**parts, name: part} if last else {name: part, **parts}
    with pytest.raises((CheckpointError, TypeError), match=said) as caught:
        checkpoint.restore(path, **parts)
    assert "\n" not in str(caught.value)
    assert run.look() == before
    assert all(x is y for x, y in zip(state, run.optimizer.state[run.parameters[0]].values(), strict=True))


class Failing:
    """A part that fails when it loads, half done."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.value = error, 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]
        if self.value:
            raise self.error


@pytest.mark.parametrize("error", [ValueError("no"), KeyError("x"), KeyboardInterrupt(), SystemExit()])
def test_a_part_that_fails_puts_all_others_back(tmp_path: Path, error: BaseException) -> None:
    run, failing = Run("Adam").train(3), Failing(error)
    failing.value = 1
    path = checkpoint.save(tmp_path / "x.npz", **run.parts(), failing=failing)
    other, failing = Run("Adam", seed=7).train(2), Failing(error)
    before = other.look()
    with pytest.raises(CheckpointError if isinstance(error, Exception) else type(error)):
        checkpoint.restore(path, **other.parts(), failing=failing)
    assert other.look() == before and failing.value == 0


def test_a_scheduler_alone_puts_the_groups_of_its_optimizer_back(tmp_path: Path) -> None:
    failing, run = Failing(ValueError("no")), Run("SGD").train(5)
    failing.value = 1
    path = checkpoint.save(tmp_path / "x.json", scheduler=run.scheduler, failing=failing)
    other = Run("SGD", seed=2).train(1)
    other.optimizer.param_groups[0]["lr"], other.optimizer.param_groups[1]["note"] = 0.123, "kept"
    before = other.look()
    with pytest.raises(CheckpointError):
        checkpoint.restore(path, scheduler=other.scheduler, failing=Failing(ValueError("no")))
    assert other.look() == before


def test_an_optimizer_alone_gets_its_settings_back(tmp_path: Path) -> None:
    failing = Failing(ValueError("no"))
    failing.value = 1
    path = checkpoint.save(tmp_path / "x.json", optimizer=Run("Adam").train(3).optimizer, failing=failing)
    run = Run("Adam", seed=2).train(1)
    run.optimizer.param_groups[0].update(lr=0.5, weight_decay=0.25, note="kept")
    before = run.look()
    with pytest.raises(CheckpointError):
        checkpoint.restore(path, optimizer=run.optimizer, failing=Failing(ValueError("no")))
    assert run.look() == before


def test_a_scheduler_of_ones_own_need_not_save_what_it_changes(tmp_path: Path) -> None:
    class Schedule:
        def __init__(self, optimizer: Any, rate: float) -> None:
            self.optimizer, self.rate = optimizer, rate

        def state_dict(self) -> dict[str, float]:
            return {"rate": self.rate}

        def load_state_dict(self, state: dict[str, float]) -> None:
            self.rate = state["rate"]
            self.optimizer.param_groups[0].update(lr=self.rate, warm=True)

    failing = Failing(ValueError("no"))
    failing.value = 1
    path = checkpoint.save(tmp_path / "x.json", schedule=Schedule(Run("SGD").optimizer, 0.5), failing=failing)
    run = Run("SGD", seed=2).train(1)
    before = run.look()
    with pytest.raises(CheckpointError):
        checkpoint.restore(path, schedule=Schedule(run.optimizer, 0.25), failing=Failing(ValueError("no")))
    assert run.look() == before


FAULTS: dict[str, Any] = {"exceptions": (raised, nullcontext), "signals": (set_off, alarms)}


def interrupted(path: Path, after: Any, fault: Callable[[], None], at: int) -> int:
    """Interrupt a restoration before a line; return 0 if it had been done, 1 if it had not, 2 if it came too late."""
    run = Run("Adam", seed=7).train(2)
    before, came = run.look(), False
    try:
        with traced(Lines(fault, at)):
            checkpoint.restore(path, **run.parts())
    except Interrupt:
        came = True
    seen = run.look()
    assert seen in (before, after), f"half done after an interrupt before line {at}"
    assert came or seen == after
    return 2 if not came else int(seen == before)


def lines_of(path: Path) -> int:
    lines, run = Lines(), Run("Adam", seed=7).train(2)
    with traced(lines):
        checkpoint.restore(path, **run.parts())
    return lines.count


def try_lines(path: Path, kind: str, step: int) -> list[int]:
    fault, needed = FAULTS[kind]
    run = Run("Adam").train(3)
    save(path.parent, run, path.name)
    with needed():
        return [interrupted(path, run.look(), fault, at) for at in range(1, lines_of(path) + 1, step)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", FAULTS)
def test_interrupts_leave_the_old_run_or_the_new_one(tmp_path: Path, kind: str) -> None:
    found = try_lines(tmp_path / "x.npz", kind, 211)
    assert found.count(1) > 5


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", FAULTS)
def test_interrupts_before_many_lines(tmp_path: Path, kind: str, record_property: Any) -> None:
    found = try_lines(tmp_path / "x.npz", kind, 7)
    record_property("faults", len(found))
    print(kind, "done", found.count(0), "not begun", found.count(1), "too late", found.count(2))
    assert found.count(1) > 100


def test_an_interrupt_that_comes_when_all_is_written_finds_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrays of models cannot be put back: what comes behind them must not put the rest back."""
    run, other = Run("Adam").train(3), Run("Adam", seed=7).train(2)
    path = save(tmp_path, run)
    from refoptim.checkpoint import parts

    real = parts.make

    def late(changes: Any) -> None:
        real(changes)
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "make", late)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.restore(path, **other.parts())
    assert other.look() == run.look()


# models of other libraries


def test_parameters_and_modules_of_ones_own(tmp_path: Path) -> None:
    class Module:
        def __init__(self, value: float) -> None:
            self.w, self.mean = Parameter(np.full(3, value)), np.full(2, value)

        def named_parameters(self) -> list[Any]:
            return [("w", self.w)]

        def parameters(self) -> list[Any]:
            return [self.w]

        def named_buffers(self) -> list[Any]:
            return [("mean", self.mean)]

        def buffers(self) -> list[Any]:
            return [self.mean]

    path = checkpoint.save(tmp_path / "x.npz", a=Module(2.0), b=[Parameter(np.ones(2)), np.zeros(1)], c=np.full(2, 7.0))
    a, b, c = Module(0.0), [Parameter(np.zeros(2)), np.ones(1)], np.zeros(2)
    w = a.w.data
    checkpoint.restore(path, a=a, b=b, c=c)
    assert a.w.data is w and (w == 2).all() and (a.mean == 2).all()
    assert (b[0].data == 1).all() and (b[1] == 0).all() and (c == 7).all()


def test_arrays_of_cupy(tmp_path: Path, fake_cupy: Any) -> None:
    """The stand-in for CuPy: arrays come from the GPU, and go to where they were."""
    w = fake_cupy.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    optimizer = refoptim.SGD([w], lr=0.1, momentum=0.9, fused=False)
    optimizer.step(grads=[w.copy()])
    path = checkpoint.save(tmp_path / "x.safetensors", model={"w": w}, optimizer=optimizer)
    other = fake_cupy.zeros((2, 3), np.float32)
    fresh = refoptim.SGD([other], lr=0.2, momentum=0.9, fused=False)
    checkpoint.restore(path, model={"w": other}, optimizer=fresh)
    assert kept(fake_cupy.asnumpy(other)) == kept(fake_cupy.asnumpy(w))
    momentum = fresh.state_dict()["state"][0]["momentum_buffer"]
    assert isinstance(momentum, fake_cupy.ndarray)
    assert kept(fake_cupy.asnumpy(momentum)) == kept(
        fake_cupy.asnumpy(optimizer.state_dict()["state"][0]["momentum_buffer"])
    )


@pytest.mark.parametrize("fails", [False, True])
def test_modules_and_optimizers_of_torch(tmp_path: Path, torch: Any, fails: bool) -> None:
    def made(seed: int) -> dict[str, Any]:
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1).bfloat16())
        theirs = torch.optim.Adam([*model.parameters()][:2], lr=0.1)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        theirs.step()
        return {"model": model, "theirs": theirs, "schedule": torch.optim.lr_scheduler.StepLR(theirs, 1 + seed)}

    def look(parts: dict[str, Any]) -> Any:
        states = {name: part.state_dict() for name, part in parts.items()}
        return repr(torch.utils._pytree.tree_map(lambda x: x.tolist() if hasattr(x, "tolist") else x, states))

    one, other = made(0), made(1)
    path = checkpoint.save(tmp_path / "x.safetensors", **one, failing=Failing(ValueError("no")))
    if fails:
        failing = Failing(ValueError("no"))
        failing.value = 1
        path = checkpoint.save(tmp_path / "y.safetensors", **one, failing=failing)
    before = look(other)
    assert before != look(one)
    if fails:
        with pytest.raises(CheckpointError, match="failing"):
            checkpoint.restore(path, **other, failing=Failing(ValueError("no")))
        assert look(other) == before
    else:
        checkpoint.restore(path, **other)
        assert look(other) == look(one)


def test_what_torch_says_on_many_lines_is_one(tmp_path: Path, torch: Any) -> None:
    path = checkpoint.save(tmp_path / "x.npz", model=torch.nn.Linear(2, 3))
    other = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
    before = other[0].weight.tolist()
    with pytest.raises(CheckpointError, match=r"Missing key\(s\) in state_dict: .* Unexpected key") as caught:
        checkpoint.restore(path, model=other)
    assert "\n" not in str(caught.value) and other[0].weight.tolist() == before


def test_tensors_of_torch_as_parameters(tmp_path: Path, torch: Any) -> None:
    """A dict of tensors is a model; autograd learns that they were written to."""
    x = torch.arange(3.0, requires_grad=True)
    path = checkpoint.save(tmp_path / "x.npz", model={"x": x})
    y = torch.zeros(3, requires_grad=True)
    version = y._version
    checkpoint.restore(path, model={"x": y})
    assert y.tolist() == [0, 1, 2] and y._version > version


def test_restoring_imports_no_library(tmp_path: Path) -> None:
    save(tmp_path, Run("Adam"))
    assert "cupy" not in sys.modules
    checkpoint.restore(tmp_path / "x.safetensors", **Run("Adam").parts())
    assert "cupy" not in sys.modules


@pytest.mark.parametrize(("kind", "most"), [(np.random.MT19937, 624), (np.random.Philox, 4)])
@pytest.mark.parametrize("beyond", [-1, 1])
def test_a_generator_takes_no_numbers_from_outside_of_its_memory(
    tmp_path: Path, kind: Any, most: int, beyond: int
) -> None:
    rng = np.random.Generator(kind(0))
    state: Any = rng.bit_generator.state
    place = (state["state"], "pos") if most == 624 else (state, "buffer_pos")
    place[0][place[1]] = -1 if beyond < 0 else most + 1
    path = checkpoint.save(tmp_path / "x.npz", rng=state)
    before = kept(rng.bit_generator.state)
    with pytest.raises(CheckpointError, match=rf"'rng' cannot be restored: the position .* in \[0, {most}\]"):
        checkpoint.restore(path, rng=rng)
    assert kept(rng.bit_generator.state) == before


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_one_array_of_a_model_takes_one_value(tmp_path: Path, suffix: str) -> None:
    """Weights that are tied now, and were not when they were saved, have no value to take."""
    path = checkpoint.save(tmp_path / f"x{suffix}", model={"a": np.ones(2), "b": np.full(2, 2.0)})
    x = np.zeros(2)
    with pytest.raises(CheckpointError, match=r"^model.a and model.b are one array, and differ in what was saved"):
        checkpoint.restore(path, model={"a": x, "b": x})
    assert x.tolist() == [0, 0]
    checkpoint.save(path, model={"a": np.ones(2), "b": np.ones(2)})
    checkpoint.restore(path, model={"a": x, "b": x})
    assert x.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("name", "keys", "wrong"),
    [
        ("optimizer", ("param_groups", 0, "base_momentum"), {}),
        ("scaler", ("growth_factor",), float("nan")),
        ("rng", ("state", "pos"), 1 << 70),
    ],
)
def test_odd_values_are_refused_as_others_are(tmp_path: Path, name: str, keys: Any, wrong: Any) -> None:
    optimizer = refoptim.Adam([np.ones(2)], lr=0.1)
    parts: dict[str, Any] = {
        "optimizer": optimizer,
        "scheduler": refoptim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=9),
        "scaler": refoptim.amp.GradScaler(),
        "rng": np.random.Generator(np.random.MT19937(0)),
    }
    tree: Any = checkpoint.load(checkpoint.save(tmp_path / "x.npz", **parts))
    before = (tmp_path / "x.npz").read_bytes()
    inner = tree[name]
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = wrong
    path = checkpoint.save(tmp_path / "y.npz", **{**tree, "last": {}})
    with pytest.raises(CheckpointError, match="cannot be restored"):
        checkpoint.restore(path, **parts, last=refoptim.amp.GradScaler())
    assert checkpoint.save(tmp_path / "x.npz", **parts).read_bytes() == before
