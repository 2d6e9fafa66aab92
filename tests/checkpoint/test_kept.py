"""What is saved is what is loaded, to the bit, in every format; the same content is the same bytes."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum, IntEnum
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.kept import kept
from refoptim import checkpoint
from refoptim.checkpoint.nested import Writer
from refoptim.checkpoint.tree import read_tree
from refoptim.formats.strict import WORD, Layout

SUFFIXES = (".safetensors", ".npz", ".json")
DTYPES = [name for name in WORD if name != "bfloat16" or find_spec("ml_dtypes")]
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MANY = settings(EXAMPLES, max_examples=2000)


def from_bits(data: bytes, dtype: str, shape: tuple[int, ...]) -> Any:
    from refoptim.formats.raw import np_dtype

    x = np.frombuffer(data, np.uint8)
    return (x & 1 if dtype == "bool" else x).view(np_dtype(dtype)).reshape(shape)


@st.composite
def arrays(draw: Any) -> Any:
    """Draw arrays of any bits, shapes with 0 and without axes, in C's and Fortran's order, strided, and swapped."""
    dtype, shape = draw(st.sampled_from(DTYPES)), tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    size = Layout(dtype, shape).nbytes
    x = from_bits(draw(st.binary(min_size=size, max_size=size)), dtype, shape)
    form = draw(st.sampled_from(["C", "F", "strided", "swapped"]))
    if form == "strided" and x.ndim:
        return np.repeat(x, 2, axis=-1)[..., ::2]
    if form == "swapped" and dtype != "bfloat16":
        return x.astype(x.dtype.newbyteorder("S"))
    return np.asarray(x, order="F") if form == "F" else x


SCALARS = st.builds(
    lambda dtype, data: from_bits(data[: Layout(dtype, ()).nbytes], dtype, ())[()],
    st.sampled_from(DTYPES),
    st.binary(min_size=16, max_size=16),
)
FLOATS = st.one_of(st.floats(), st.sampled_from([-0.0, 5e-324, float("nan"), -float("nan"), float("inf")]))
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(1 << 4000), max_value=1 << 4000),
    FLOATS,
    st.complex_numbers(),
    st.text(),
    st.binary(max_size=20),
    SCALARS,
)
TEXTS = st.one_of(st.text(), st.sampled_from(["$array", "$", "$items", "a.b", "a/b", "..", "__metadata__", "é", ""]))
KEYS = st.one_of(TEXTS, st.integers(), st.floats(allow_nan=False), st.booleans(), st.none())
DATA = st.recursive(
    st.one_of(PLAIN, arrays()),
    lambda x: st.one_of(
        st.lists(x, max_size=3), st.lists(x, max_size=3).map(tuple), st.dictionaries(KEYS, x, max_size=3)
    ),
    max_leaves=10,
)
PARTS = st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), DATA, min_size=1, max_size=3)


def check_kept(folder: Path, parts: dict[str, Any]) -> None:
    digests = set()
    for suffix in SUFFIXES:
        path = checkpoint.save(folder / f"x{suffix}", **parts)
        for verify in (True, False):
            assert kept(checkpoint.load(path, verify)) == kept(parts), suffix
        again = checkpoint.save(folder / f"y{suffix}", **parts)
        assert path.read_bytes() == again.read_bytes()
        digests.add(read_tree(path).about["digest"])
    assert len(digests) == 1


@EXAMPLES
@given(parts=PARTS)
def test_every_bit_is_kept(tmp_path: Path, parts: dict[str, Any]) -> None:
    check_kept(tmp_path, parts)


@pytest.mark.slow
@MANY
@given(parts=PARTS)
def test_every_bit_is_kept_of_much_more(tmp_path: Path, parts: dict[str, Any]) -> None:
    check_kept(tmp_path, parts)


NAN = np.array([0x7F800001, 0xFFC12345, 0x80000000, 1], np.uint32).view(np.float32)
HARD: dict[str, Any] = {
    "payloads of NaN, -0, a subnormal": NAN,
    "the same as scalars": list(NAN),
    "swapped bytes": NAN.astype(">f4"),
    "Fortran's order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "backwards": np.arange(6.0)[::-1],
    "no axes": np.array(-0.0),
    "no elements": np.zeros((0, 3, 0), np.int16),
    "no elements, complex": np.zeros((2, 0), np.complex128),
    "complex, no axes": np.array(complex("nan+infj")),
    "complex, transposed": (np.arange(6) * 1j).reshape(2, 3).T,
    "half as much again as a piece": np.arange(3 << 20, dtype=np.float64),
    "that, transposed": np.arange(3 << 20, dtype=np.float64).reshape(1024, -1).T,
    "large integers": [1 << 4000, -(1 << 64), np.uint64(2**64 - 1)],
    "keys": {
        "$array": 1,
        "$items": {},
        1: 2,
        "1": 3,
        None: 4,
        2.5: np.ones(2),
        True + 1: 6,
        "a.b": 7,
        "a/b": 8,
        "é": 9,
    },
    "marks in the data": {"x": {"$array": "model.w"}, "y": {"$tuple": [1]}},
    "names that meet": {"a": {"b": np.zeros(1)}, "a.b": np.ones(1), "a/b": np.full(1, 2.0), "a_b": np.full(1, 3.0)},
    "half a character": "\ud800",
    "empty": [{}, [], (), "", b""],
}


@pytest.mark.parametrize("name", HARD)
def test_what_is_hard(tmp_path: Path, name: str) -> None:
    check_kept(tmp_path, {"data": HARD[name], "__metadata__": np.ones(1)})


def test_subclasses_come_back_as_what_they_derive_from(tmp_path: Path) -> None:
    class Word(str, Enum):
        A = "a"

    class Number(IntEnum):
        B = 2

    data = {Word.A: Number.B, "d": OrderedDict(x=1), "e": np.float64(0.5)}
    path = checkpoint.save(tmp_path / "x.json", data=data)
    assert kept(checkpoint.load(path)["data"]) == kept({"a": 2, "d": {"x": 1}, "e": np.float64(0.5)})


def test_an_array_that_stands_twice_is_written_once(tmp_path: Path) -> None:
    x = np.ones(1000)
    path = checkpoint.save(tmp_path / "x.safetensors", a=[x, x], b={"c": x})
    assert path.stat().st_size < 12_000
    found = checkpoint.load(path)
    assert found["a"][0] is found["a"][1] is found["b"]["c"]


def nested(depth: int, key: Any) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = {key: found}
    return found


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("key", ["a", 1])
def test_what_is_saved_is_not_too_deep_to_be_loaded(tmp_path: Path, suffix: str, key: Any) -> None:
    """A dict whose keys are no texts takes three levels of JSON."""
    saved = 0
    for depth in (1, 10, 14, 16, 20, 38, 40, 60, 100_000):
        path = tmp_path / f"{depth}{suffix}"
        try:
            checkpoint.save(path, data=nested(depth, key))
        except ValueError as error:
            assert "deep" in str(error) and not path.exists()
        else:
            saved = depth
            assert kept(checkpoint.load(path)["data"]) == kept(nested(depth, key))
    assert saved == {"a": 38, 1: 16}[key]


def test_a_list_that_holds_itself_is_refused(tmp_path: Path) -> None:
    x: list[Any] = []
    x.append(x)
    with pytest.raises(ValueError, match="deep"):
        checkpoint.save(tmp_path / "x.json", data=x)


def test_what_nobody_could_read_is_not_written(tmp_path: Path) -> None:
    for wrong, said in [(1 << 14_000, "bits"), (["," * 5_000_000], "entries"), (["a" * 60_000_000], "bytes")]:
        with pytest.raises(ValueError, match=said):
            checkpoint.save(tmp_path / "x.safetensors", data=wrong)
    large = np.broadcast_to(np.float32(0), (1 << 29,))
    for suffix in (".npz", ".json"):
        with pytest.raises(ValueError, match=r"holds less than 2 GiB.* choose \.safetensors"):
            checkpoint.save(tmp_path / f"x{suffix}", data=large)
    with pytest.raises(TypeError, match=r"^metadata must hold no arrays, got metadata\.a: "):
        checkpoint.save(tmp_path / "x.npz", metadata={"a": np.ones(1)}, data=1)
    with pytest.raises(ValueError, match="stands for no checkpoint"):
        checkpoint.save(tmp_path / "x.bin", data=1)
    with pytest.raises(ValueError, match="needs parts"):
        checkpoint.save(tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())


def test_much_text_beyond_ascii_is_read_from_json(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "x.json", w=np.zeros(1 << 20), note="é😀")
    assert checkpoint.load(path)["note"] == "é😀"


def test_many_arrays_of_one_name(tmp_path: Path) -> None:
    """Names are found without trying all that are taken."""

    class Names(dict[str, Any]):
        asked = 0

        def __contains__(self, name: object) -> bool:
            self.asked += 1
            return super().__contains__(name)

    data = {f"{'é' * 300}{i}": np.full(1, i) for i in range(300)}
    writer = Writer()
    writer.arrays = names = Names()
    writer.write(data)
    assert len(names) == 300 and names.asked <= 300
    path = checkpoint.save(tmp_path / "x.safetensors", data=data)
    assert kept(checkpoint.load(path)["data"]) == kept(data)


@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (1 << 17,), ((1 << 17) + 1,), (700, 500)])
def test_digests_are_of_leaves(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """As the description of the format says, computed here from the bytes."""
    x = np.asarray(np.random.default_rng(0).standard_normal(shape), order="F")
    data = x.tobytes()
    leaves = [sha256(data[i : i + 1048576]).digest() for i in range(0, len(data), 1048576)]
    line = " ".join(["float64", *map(str, shape)]) + "\n"
    path = checkpoint.save(tmp_path / "x.npz", x=x)
    assert read_tree(path).about["sha256"] == {"x": sha256(line.encode() + b"".join(leaves)).hexdigest()}


def test_arrays_lie_where_processors_like_them(tmp_path: Path) -> None:
    data = {"a": np.ones(3, np.int8), "b": np.ones(3), "c": np.ones(5, np.float16), "d": np.ones(1, np.complex64)}
    found = checkpoint.load(checkpoint.save(tmp_path / "x.safetensors", data=data))["data"]
    assert all(x.flags.aligned and not x.flags.writeable for x in found.values())


# which is the newest


def test_the_newest_has_the_largest_number(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    for name in ("step-9.npz", "step-10.safetensors", "step-2.json", "best.npz"):
        checkpoint.save(tmp_path / name, name=name)
    checkpoint.save(tmp_path / "step-11", shards=2, name="step-11")
    (tmp_path / "step-12.npz").write_bytes(b"half")
    (tmp_path / ".step-13.npz").write_bytes((tmp_path / "step-9.npz").read_bytes())
    (tmp_path / "notes-14.txt").write_text("no checkpoint")
    (tmp_path / "step-15").mkdir()
    checkpoint.save(tmp_path / "step-16.pt", name="step-16")
    assert checkpoint.latest(tmp_path) == tmp_path / "step-11"
    gone = checkpoint.prune(tmp_path, keep=2)
    assert [x.name for x in gone] == ["best.npz", "step-2.json", "step-9.npz"]
    assert checkpoint.latest(tmp_path) == tmp_path / "step-11" and (tmp_path / "step-10.safetensors").exists()
    assert [x.name for x in checkpoint.prune(tmp_path, keep=1)] == ["step-10.safetensors"]
    assert (tmp_path / "step-16.pt").exists()
    for wrong in (0, True, 1.5):
        with pytest.raises(ValueError, match="keep must be an integer"):
            checkpoint.prune(tmp_path, keep=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "names",
    [
        ("run-2026-11-30", "run-2026-12-01"),
        ("epoch=3-loss=0.25", "epoch=4-loss=0.125"),
        ("2-9", "10-1"),
        ("best", "step-0"),
    ],
)
def test_numbers_count_one_after_the_other(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in reversed(names):
        checkpoint.save(tmp_path / f"{name}.npz", epoch=1)
    assert checkpoint.latest(tmp_path) == tmp_path / f"{names[1]}.npz"
    assert [x.stem for x in checkpoint.prune(tmp_path, keep=1)] == [names[0]]


def test_pruning_keeps_what_a_kept_link_leads_to(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path / f"step-{step}.npz", epoch=step)
    (tmp_path / "best-100.npz").symlink_to("step-1.npz")
    (tmp_path / "last.npz").symlink_to("step-3.npz")
    assert [x.name for x in checkpoint.prune(tmp_path, keep=2)] == ["step-2.npz"]
    assert checkpoint.load(tmp_path / "best-100.npz") == {"epoch": 1}
    assert checkpoint.load(tmp_path / "last.npz") == {"epoch": 3}


DATA_FOLDER = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_old_files_are_read_for_ever(suffix: str) -> None:
    """Of each schema a file of each format stays in ``tests/data``; what they hold is written down here."""
    found = read_tree(DATA_FOLDER / f"checkpoint-1{suffix}")
    w = np.array([0x7F800001, 0x80000000, 0x00000001, 0x3DCCCCCD], np.uint32).view(np.float32).reshape(2, 2)
    model = {"w": w, "c": np.array([1.5 - 2j]), "n": np.array(-7), "a/b": np.zeros((0, 3), np.uint8)}
    optimizer = {"state": {0: {"step": 3, "exp_avg": np.full(2, 0.25)}}, "param_groups": [{"betas": (0.9, 0.999)}]}
    expected = {"model": model, "optimizer": optimizer, "loss": np.float32(0.1), "best": float("inf"), "big": 1 << 70}
    assert kept(found.tree) == kept(expected)
    assert found.about["metadata"] == {"note": "é"} and found.about["schema"] == 1
