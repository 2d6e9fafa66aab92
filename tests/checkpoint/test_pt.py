"""torch's .pt files, read and written beside torch: the same bits in both directions."""

from __future__ import annotations

import collections
import random
import sys
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refoptim
from helpers.memory import forget, resident
from helpers.pt_files import FILES, OPTIMIZERS, described, in_refoptim, in_torch, tensors
from refoptim.checkpoint import CheckpointError, pt, stored

NOT_PLAIN = ("schedulers of 1.x",)
"""Files with functions, which ``weights_only`` refuses."""

bfloat16 = pytest.importorskip("ml_dtypes", reason="ml_dtypes, which gives NumPy bfloat16, is not installed").bfloat16


def torch_load(torch: Any, path: Path, **how: Any) -> Any:
    return torch.load(path, weights_only=True, **how)


@pytest.mark.parametrize("name", [name for name in FILES if name not in NOT_PLAIN])
def test_what_torch_saves_is_read_to_the_bit(name: str, torch: Any, tmp_path: Path) -> None:
    torch.save(FILES[name](torch), tmp_path / "x.pt")
    assert described(pt.load(tmp_path / "x.pt")) == described(torch_load(torch, tmp_path / "x.pt"))


@pytest.mark.parametrize("name", [name for name in FILES if name not in NOT_PLAIN])
def test_torch_reads_what_is_written_to_the_bit(name: str, torch: Any, tmp_path: Path) -> None:
    torch.save(FILES[name](torch), tmp_path / "x.pt")
    read = pt.load(tmp_path / "x.pt")
    pt.save(tmp_path / "y.pt", read)
    expected = described(torch_load(torch, tmp_path / "x.pt"))
    for how in ({}, {"mmap": True}):
        assert described(torch_load(torch, tmp_path / "y.pt", **how)) == expected
    assert described(pt.load(tmp_path / "y.pt")) == expected


@pytest.mark.parametrize("name", [name for name in FILES if name not in NOT_PLAIN])
def test_tensors_themselves_are_written(name: str, torch: Any, tmp_path: Path) -> None:
    data = FILES[name](torch)
    pt.save(tmp_path / "x.pt", data)
    assert described(pt.load(tmp_path / "x.pt")) == described(torch_load(torch, tmp_path / "x.pt")) == described(data)


def numbers(x: Any) -> Any:
    """Return a state dict in which numbers are all of one kind: torch keeps as a tensor what we keep as a number."""
    if isinstance(x, dict):
        return {key: numbers(y) for key, y in x.items()}
    if isinstance(x, (list, tuple)):
        return [numbers(y) for y in x]
    if hasattr(x, "ndim") and x.ndim:
        return described(x)
    return x.item() if hasattr(x, "item") else x


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_optimizer_takes_the_state(name: str, torch: Any, tmp_path: Path) -> None:
    theirs, members = in_torch(torch, name)
    torch.save(theirs.state_dict(), tmp_path / "x.pt")
    dtype = bfloat16 if members[0].dtype == torch.bfloat16 else members[0].detach().numpy().dtype
    ours = in_refoptim(refoptim, name, dtype)
    ours.load_state_dict(pt.load(tmp_path / "x.pt"))
    mine, other = numbers(ours.state_dict()), numbers(theirs.state_dict())
    assert mine["state"] == other["state"]
    for group, expected in zip(mine["param_groups"], other["param_groups"], strict=True):
        assert {key: x for key, x in group.items() if key in expected and key != "fused"} == {
            key: x for key, x in expected.items() if key in group and key != "fused"
        }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_torch_takes_the_state_of_refoptim(name: str, torch: Any, tmp_path: Path) -> None:
    theirs, members = in_torch(torch, name)
    dtype = bfloat16 if members[0].dtype == torch.bfloat16 else members[0].detach().numpy().dtype
    ours = in_refoptim(refoptim, name, dtype)
    ours.load_state_dict(theirs.state_dict())
    pt.save(tmp_path / "x.pt", ours.state_dict())
    other = in_torch(torch, name)[0]
    other.step(lambda: torch.zeros(()))
    other.load_state_dict(torch_load(torch, tmp_path / "x.pt"))
    assert numbers(other.state_dict())["state"] == numbers(theirs.state_dict())["state"]


def test_a_run_goes_on_from_a_checkpoint_of_torch(torch: Any, tmp_path: Path) -> None:
    """Model, BatchNorm's buffers, AdamW and OneCycleLR: after one more step the learning rates are equal."""
    torch.save(FILES["checkpoint"](torch), tmp_path / "x.pt")
    read, theirs = pt.load(tmp_path / "x.pt"), torch_load(torch, tmp_path / "x.pt")
    params = [np.zeros(x.shape, np.float32) for key, x in theirs["model"].items() if key in dict(_parameters(theirs))]
    ours = refoptim.AdamW(params, lr=0.3)
    scheduler = refoptim.lr_scheduler.OneCycleLR(ours, max_lr=0.3, total_steps=7)
    ours.load_state_dict(read["optimizer"])
    scheduler.load_state_dict(read["scheduler"])
    assert (read["epoch"], read["best"], read["shape"]) == (3, None, (3, 4))
    assert scheduler.last_epoch == 3
    assert ours.param_groups[0]["lr"] == theirs["optimizer"]["param_groups"][0]["lr"]
    twin = torch.optim.AdamW([torch.zeros(x.shape) for x in params])
    other = torch.optim.lr_scheduler.OneCycleLR(twin, max_lr=0.1, total_steps=20)
    twin.load_state_dict(theirs["optimizer"])
    other.load_state_dict(theirs["scheduler"])
    twin.step()
    ours.step(grads=[None] * len(params))
    other.step()
    scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx(other.get_last_lr(), rel=1e-15)


def _parameters(theirs: Any) -> list[tuple[str, Any]]:
    return [(key, x) for key, x in theirs["model"].items() if "running" not in key and "tracked" not in key]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_protocols_of_pickle(protocol: int, torch: Any, tmp_path: Path) -> None:
    data = {
        "state": in_torch(torch, "adam amsgrad")[0].state_dict(),
        "bytes": b"a\xff",
        "long": 2**80,
        "text": "x" * 300,
    }
    torch.save(data, tmp_path / "x.pt", pickle_protocol=protocol)
    assert described(pt.load(tmp_path / "x.pt")) == described(data)


# Arrays


def test_arrays_are_views_of_one_memory_that_cannot_be_written(torch: Any, tmp_path: Path) -> None:
    torch.save(tensors(torch), tmp_path / "x.pt")
    read = pt.load(tmp_path / "x.pt")
    assert np.shares_memory(read["whole"], read["transposed"])
    assert np.shares_memory(read["whole"], read["offset"])
    assert read["transposed"].strides == (4, 20)
    for x in [read["whole"], read["offset"], read["no axes"], read["empty"], *read["kinds"].values()]:
        assert x.flags.aligned
        assert not x.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            x[...] = 1


def test_a_copy_of_the_file_in_memory_is_not_made(tmp_path: Path) -> None:
    pt.save(tmp_path / "x.pt", {"x": np.ones(1000, np.float32)})
    x = pt.load(tmp_path / "x.pt", verify=False)["x"]
    base = x
    while getattr(base, "base", None) is not None:
        base = base.base
    assert type(base).__name__ in ("mmap", "memoryview")
    assert x.sum() == 1000


def test_shared_memory_stays_shared(torch: Any, tmp_path: Path) -> None:
    w = np.arange(1000.0)
    pt.save(tmp_path / "x.pt", {"a": w, "b": w, "c": w.copy(), "d": w[:0], "e": w[:0]})
    found = torch_load(torch, tmp_path / "x.pt")
    assert found["a"].data_ptr() == found["b"].data_ptr() != found["c"].data_ptr()
    read = pt.load(tmp_path / "x.pt")
    assert np.shares_memory(read["a"], read["b"])
    assert (tmp_path / "x.pt").stat().st_size < 20_000


def test_arrays_in_any_order_are_written_as_they_are(torch: Any, tmp_path: Path) -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    given = {
        "fortran": np.asfortranarray(x),
        "transposed": x.transpose(2, 0, 1),
        "backwards": x[::-1, :, ::-2],
        "repeated": np.broadcast_to(x[:, :1], (2, 5, 4)),
        "big-endian": x.astype(">f8"),
        "half": np.array([1.5, -0.0], ">f2"),
        "no axes": np.array(7, np.int16),
        "empty": np.zeros((2, 0, 3), np.complex64),
        "bools": np.array([[True, False]]),
    }
    pt.save(tmp_path / "x.pt", given)
    read, found = pt.load(tmp_path / "x.pt"), torch_load(torch, tmp_path / "x.pt")
    for name, x in given.items():
        assert described(read[name]) == described(found[name]) == described(x.astype(x.dtype.newbyteorder("=")))


def test_numbers_of_numpy_become_tensors_without_axes(torch: Any, tmp_path: Path) -> None:
    given = {"a": np.float32(0.1), "b": np.float64(0.1), "c": np.bool_(True), "d": np.int64(3), "e": bfloat16(2)}
    pt.save(tmp_path / "x.pt", given)
    expected = {"dict": [[key, described(np.asarray(x))] for key, x in given.items()]}
    assert described(pt.load(tmp_path / "x.pt")) == described(torch_load(torch, tmp_path / "x.pt")) == expected


def test_numbers_and_arrays_of_numpy_in_files_are_read(torch: Any, tmp_path: Path) -> None:
    given = {
        "lr": np.float64(0.1),
        "n": np.int32(3),
        "yes": np.bool_(True),
        "z": np.complex64(1 - 2j),
        "generator": np.random.RandomState(3).get_state(),
        "python": random.Random(3).getstate(),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "shared": (x := np.arange(4, dtype=np.uint8)),
        "again": [x, x],
        3: {np.int64(5): "key"},
    }
    torch.save(given, tmp_path / "x.pt")
    assert described(pt.load(tmp_path / "x.pt")) == described(given)


def test_attributes_are_left_out(torch: Any, tmp_path: Path) -> None:
    x, p = torch.ones(3), torch.nn.Parameter(torch.ones(2))
    x.mark = p.mark = 3
    torch.save(
        {"x": x, "p": p, "device": torch.device("cuda", 1), "cpu": torch.device("cpu"), "t": torch.float16},
        tmp_path / "x.pt",
    )
    read = pt.load(tmp_path / "x.pt")
    assert (read["x"].tolist(), read["p"].tolist()) == ([1, 1, 1], [1, 1])
    assert (read["device"], read["cpu"], read["t"]) == ("cuda:1", "cpu", "torch.float16")


def test_parameters_and_arrays_of_cupy_are_written(fake_cupy: Any, tmp_path: Path) -> None:
    data = {
        "w": refoptim.Parameter(np.arange(3.0)),
        "gpu": fake_cupy.asarray(np.arange(6.0, dtype=np.float32).reshape(2, 3).T),
    }
    pt.save(tmp_path / "x.pt", data)
    read = pt.load(tmp_path / "x.pt")
    assert read["w"].tolist() == [0, 1, 2]
    assert read["gpu"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_arrays_of_unknown_libraries_are_written(tmp_path: Path) -> None:
    class Unknown:
        def __dlpack__(self, **how: Any) -> Any:
            return np.arange(3.0).__dlpack__(**how)

        def __dlpack_device__(self) -> Any:
            return np.arange(3.0).__dlpack_device__()

    pt.save(tmp_path / "x.pt", [Unknown()])
    assert pt.load(tmp_path / "x.pt")[0].tolist() == [0, 1, 2]


# The file


def test_the_same_data_make_the_same_bytes(tmp_path: Path) -> None:
    for name, numbers in (("x", {0, 8}), ("y", {8, 0})):  # in these orders, since the hashes collide
        data = {"w": np.arange(5.0), "s": {"exp_avg", "b", 1.5}, "n": numbers, "t": ("exp_avg", {"lr": 0.1})}
        pt.save(tmp_path / f"{name}.pt", data)
    assert (tmp_path / "x.pt").read_bytes() == (tmp_path / "y.pt").read_bytes()


def test_it_is_a_zip_file_whose_members_are_aligned(tmp_path: Path) -> None:
    pt.save(tmp_path / "x.pt", [np.arange(n, dtype=np.float32) for n in (0, 1, 15, 16, 17)])
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert names[0] == "archive/data.pkl"
        assert archive.read("archive/version") == b"3\n"
        assert archive.read("archive/byteorder") == b"little"
        for member in archive.infolist():
            assert begin_of(tmp_path / "x.pt", member) % 64 == 0


def begin_of(path: Path, member: zipfile.ZipInfo) -> int:
    """Return where the data of a member begin."""
    start = path.read_bytes()[member.header_offset :]
    return member.header_offset + 30 + int.from_bytes(start[26:28], "little") + int.from_bytes(start[28:30], "little")


def test_files_of_4_gib_have_sizes_of_eight_bytes(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if four bytes held no more than 3,000: zipfile, torch and we read what is written then."""
    data = {"large": np.arange(1000.0), "small": np.arange(3.0), "more": [np.arange(k + 374.0) for k in range(3)]}
    pt.save(tmp_path / "plain.pt", data)
    monkeypatch.setattr(stored, "LARGEST", 3000)
    pt.save(tmp_path / "wide.pt", data)
    assert (tmp_path / "wide.pt").stat().st_size > (tmp_path / "plain.pt").stat().st_size
    with zipfile.ZipFile(tmp_path / "wide.pt") as archive:
        assert archive.testzip() is None
        found = archive.infolist()
    for member, after in pairwise(found):  # behind the data stand the sizes, in eight bytes or four
        data_end = begin_of(tmp_path / "wide.pt", member) + member.file_size
        assert after.header_offset == data_end + (24 if member.file_size >= 3000 else 16)
    assert len(found) == 8
    for how in ({}, {"mmap": True}):
        assert described(torch_load(torch, tmp_path / "wide.pt", **how)) == described(data)
    assert described(pt.load(tmp_path / "wide.pt")) == described(data)


def test_saving_takes_little_memory(tmp_path: Path) -> None:
    """Arrays of 256 MiB, one of them in another order, are written in pieces."""
    data = [np.ones((1 << 13, 1 << 12), np.float32), np.asfortranarray(np.ones((1 << 13, 1 << 12), np.float32))]
    forget()
    before = resident("VmRSS")
    pt.save(tmp_path / "x.pt", data)
    assert resident("VmHWM") - before < 64 << 20


@pytest.mark.slow
def test_a_file_of_more_than_4_gib(torch: Any, tmp_path: Path) -> None:
    x = np.lib.stride_tricks.as_strided(np.arange(7.0), (1 << 20, 520), (0, 0))
    large = {"x": x, "y": np.arange(5.0), "z": np.zeros((2, 3))}
    pt.save(tmp_path / "x.pt", large)
    assert (tmp_path / "x.pt").stat().st_size > 1 << 32
    for read in (pt.load(tmp_path / "x.pt"), torch_load(torch, tmp_path / "x.pt", mmap=True)):
        assert tuple(read["x"].shape) == (1 << 20, 520)
        assert float(read["x"][-1].sum()) == 0
        assert read["y"].tolist() == [0, 1, 2, 3, 4]
        assert read["z"].tolist() == [[0, 0, 0], [0, 0, 0]]


def test_memory_that_is_not_aligned_is_copied(tmp_path: Path) -> None:
    """Other programs that zip the members again leave them anywhere."""
    pt.save(tmp_path / "x.pt", {"a": np.arange(5.0), "b": np.arange(3, dtype=np.uint16)})
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for shift in range(8):
        with zipfile.ZipFile(tmp_path / "y.pt", "w") as archive:
            for name, data in {"x" * shift: b"", **members}.items() if shift else members.items():
                archive.writestr(f"archive/{name}" if shift and not data else name, data)
        read = pt.load(tmp_path / "y.pt")
        assert read["a"].tolist() == [0, 1, 2, 3, 4]
        assert read["b"].tolist() == [0, 1, 2]
        assert read["a"].flags.aligned
        assert not read["a"].flags.writeable


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    pt.save(tmp_path / "x.pt", {"a": 1})
    for wrong in ({"a": object()}, {"a": [np.array([None])]}):
        with pytest.raises(TypeError):
            pt.save(tmp_path / "x.pt", wrong)
    assert pt.load(tmp_path / "x.pt") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


def test_a_file_may_take_the_place_of_the_one_it_was_read_from(tmp_path: Path) -> None:
    pt.save(tmp_path / "x.pt", {"a": np.arange(5.0)})
    read = pt.load(str(tmp_path / "x.pt"))
    pt.save(str(tmp_path / "x.pt"), {"b": read["a"] + 1, "c": read["a"]})
    assert read["a"].tolist() == [0, 1, 2, 3, 4]
    assert pt.load(tmp_path / "x.pt")["b"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ({"a": {"b": [1, object()]}}, TypeError, "a.b.1 cannot be saved: it is of the type object"),
        ({"a": np.array(["x"])}, TypeError, "a cannot be saved: it is an array of <U1"),
        ({"a": np.ma.array([1.0, 2.0], mask=[True, False])}, TypeError, "a cannot be saved: it is a masked array"),
        ({"a": np.array([0, 2], np.uint8).view(np.bool_)}, ValueError, "a cannot be saved: it has bools whose bytes"),
        ({"a": {(1, 2): 3}}, TypeError, "a cannot be saved: it has a key that is no text"),
        ({2**64: 3}, TypeError, "the data cannot be saved: it has a key"),
        ({np.longdouble(1): 3}, TypeError, "the data cannot be saved: it has a key"),
        ({"a": frozenset([1])}, TypeError, "a cannot be saved: it is of the type frozenset"),
        ({"a": 1 << 2048}, ValueError, "a cannot be saved: an integer of more than 255 bytes"),
        ({"a": np.longdouble(1)}, TypeError, "a cannot be saved: it is an array of"),
    ],
)
def test_what_cannot_be_saved(data: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        pt.save(tmp_path / "x.pt", data)
    assert not [*tmp_path.iterdir()]


def test_data_without_end_cannot_be_saved(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    doubled: list[Any] = []
    for _ in range(60):
        doubled = [doubled, doubled]
    with pytest.raises(ValueError, match="nested too deep"):
        pt.save(tmp_path / "x.pt", endless)
    with pytest.raises(ValueError, match="too many"):
        pt.save(tmp_path / "x.pt", doubled)
    with pytest.raises(ValueError, match="put long lists of numbers into arrays"):
        pt.save(tmp_path / "x.pt", [0.5] * 1_000_000)


def test_tensors_that_hold_other_numbers_cannot_be_saved(torch: Any, tmp_path: Path) -> None:
    z = torch.tensor([1 + 2j])
    for x, cure in ((z.conj(), "resolve_conj"), (z.conj().imag, "resolve_neg"), (torch.eye(2).to_sparse(), "to_dense")):
        with pytest.raises(TypeError, match=f"a.0 cannot be saved: .*{cure}"):
            pt.save(tmp_path / "x.pt", {"a": [x]})


def test_bfloat16_needs_ml_dtypes(torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"x": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "x.pt")
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(CheckpointError, match=r"x.pt holds bfloat16, which needs ml_dtypes: pip install ml_dtypes"):
        pt.load(tmp_path / "x.pt")


# Older releases


def test_states_of_schedulers_of_1(torch: Any, tmp_path: Path) -> None:
    """Functions say which strategy it was; torch 2.13, which goes on with that of its constructor, is told there."""
    torch.save(FILES["schedulers of 1.x"](torch), tmp_path / "x.pt")
    read, theirs = pt.load(tmp_path / "x.pt"), torch.load(tmp_path / "x.pt", weights_only=False)
    assert read["OneCycleLR"]["anneal_func"] == "torch.optim.lr_scheduler.OneCycleLR._annealing_linear"
    assert read["MultiStepLR"]["milestones"] == collections.Counter({2: 1, 5: 2})
    found = []
    for library, x, state in ((refoptim, np.zeros(1), read), (torch.optim, torch.zeros(1), theirs)):
        optimizer = library.SGD([x], lr=0.7, momentum=0.1)
        strategy = "linear" if library is torch.optim else "cos"
        cycle = library.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=40, anneal_strategy=strategy)
        steps = library.lr_scheduler.MultiStepLR(library.SGD([x], lr=0.1), [1])
        optimizer.load_state_dict(state["optimizer"])
        cycle.load_state_dict(state["OneCycleLR"])
        steps.load_state_dict(state["MultiStepLR"])
        optimizer._opt_called = steps.optimizer._opt_called = True
        rates = []
        for _ in range(9):
            cycle.step()
            steps.step()
            rates.append((cycle.get_last_lr()[0], optimizer.param_groups[0]["momentum"], steps.last_epoch))
        found.append(rates)
    assert np.allclose(*found, rtol=1e-14, atol=0)
    average = refoptim.swa_utils.SWALR(refoptim.SGD([np.zeros(1)], lr=0.1), swa_lr=0.5)
    average.load_state_dict(read["SWALR"])
    assert average.last_epoch == theirs["SWALR"]["last_epoch"] == 3


def test_the_state_of_an_optimizer_of_1(torch: Any, tmp_path: Path) -> None:
    torch.save(FILES["optimizer of 1.x"](torch), tmp_path / "x.pt")
    ours = in_refoptim(refoptim, "adam amsgrad", np.float32)
    ours.load_state_dict(pt.load(tmp_path / "x.pt"))
    expected = in_torch(torch, "adam amsgrad")[0].state_dict()
    assert numbers(ours.state_dict())["state"] == numbers(expected)["state"]
    assert ours.param_groups[1]["lr"] == 0.015625
    assert ours.param_groups[0]["weight_decay"] == 0.1
