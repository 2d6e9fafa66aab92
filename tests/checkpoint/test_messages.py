"""What cannot be saved, converted or restored is said by its path, in one line, with what to do."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from helpers.kept import kept
from refoptim import Adam, checkpoint
from refoptim.checkpoint import CheckpointError, pt
from refoptim.checkpoint.tree import read_tree, write_tree

SUFFIXES = (".safetensors", ".npz", ".json", ".pt")


def said(path: Path, **parts: Any) -> str:
    """Return the line with which parts are refused; nothing may be left of the file."""
    with pytest.raises((TypeError, ValueError)) as caught:
        checkpoint.save(path, **parts)
    assert not path.exists()
    text = str(caught.value)
    assert text.isprintable()
    return text


CAST = "cast it first, x.to(torch.float32)"

TENSORS: dict[str, str] = {
    "float8_e4m3fn": f"NumPy has no dtype for a tensor of torch.float8_e4m3fn: {CAST}",
    "float8_e5m2": f"NumPy has no dtype for a tensor of torch.float8_e5m2: {CAST}",
    "float8_e4m3fnuz": f"NumPy has no dtype for a tensor of torch.float8_e4m3fnuz: {CAST}",
    "float8_e8m0fnu": f"NumPy has no dtype for a tensor of torch.float8_e8m0fnu: {CAST}",
    "bits8": "NumPy has no dtype for a tensor of torch.bits8: view its bytes first, x.view(torch.uint8)",
    "uint4": "NumPy has no dtype for a tensor of torch.uint4: view its bytes first, x.view(torch.uint8)",
    "complex32": "NumPy has no dtype for a tensor of torch.complex32: cast it first, x.to(torch.complex64)",
    "quint8": "NumPy has no dtype for a tensor of torch.quint8: call dequantize() first",
    "sparse": "a tensor must have the layout torch.strided, got torch.sparse_coo: call to_dense() first",
    "meta": "a tensor must lie on the CPU or on a CUDA device, got one on meta",
    "conjugate": "a tensor with the conjugate bit set has other numbers in its memory: call resolve_conj() first",
}


def tensor(torch: Any, what: str) -> Any:
    if what == "sparse":
        return torch.sparse_coo_tensor([[0]], [1.0], (3,))
    if what == "meta":
        return torch.zeros(3, device="meta")
    if what == "conjugate":
        return torch.zeros(3, dtype=torch.complex64).conj()
    return torch.empty(3, dtype=getattr(torch, what))


@pytest.mark.filterwarnings("ignore:ComplexHalf support", "ignore:torch.quantize_per_tensor", "ignore:Sparse")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("what", TENSORS)
def test_tensors_of_torch_that_are_not_saved(tmp_path: Path, torch: Any, what: str, suffix: str) -> None:
    x = tensor(torch, what)
    path = tmp_path / f"x{suffix}"
    assert said(path, model={"enc": {"w": x}}) == f"model.enc.w cannot be saved: {TENSORS[what]}"
    assert said(path, data=[1, (x,)]) == f"data.1.0 cannot be saved: {TENSORS[what]}"


def test_a_module_of_torch_in_float8(tmp_path: Path, torch: Any) -> None:
    """Its state dict names what is wrong; what the message advises can be saved."""
    module = torch.nn.Linear(2, 2).to(torch.float8_e4m3fn)
    text = said(tmp_path / "x.npz", model=module)
    assert text == f"model.weight cannot be saved: {TENSORS['float8_e4m3fn']}"
    path = checkpoint.save(tmp_path / "x.npz", model=module.to(torch.float32))
    assert checkpoint.load(path)["model"]["weight"].tolist() == module.weight.tolist()


ARRAYS: dict[str, tuple[Any, str]] = {
    "texts": (np.array(["a"]), "save a list, x.tolist()"),
    "bytes": (np.array([b"a"]), "save a list, x.tolist()"),
    "objects": (np.array([None]), "save a list, x.tolist()"),
    "dates": (np.zeros(2, "M8[s]"), "save its integers, x.view('int64')"),
    "durations": (np.zeros(2, "m8[s]"), "save its integers, x.view('int64')"),
    "records": (np.zeros(2, [("a", "f4")]), "save its fields one by one"),
    "void": (np.zeros(2, "V3"), "save its bytes, x.view('uint8')"),
}
if np.dtype(np.longdouble).itemsize > 8:  # elsewhere it is float64
    ARRAYS["longdouble"] = (np.zeros(2, np.longdouble), "cast it, x.astype('float64')")
    ARRAYS["clongdouble"] = (np.zeros(2, np.clongdouble), "cast it, x.astype('complex128')")
if find_spec("ml_dtypes"):
    import ml_dtypes

    ARRAYS["float8"] = (np.zeros(2, ml_dtypes.float8_e4m3fn), "cast it, x.astype('float32')")
    ARRAYS["int4"] = (np.zeros(2, ml_dtypes.int4), "cast it, x.astype('int8')")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("what", ARRAYS)
def test_arrays_that_are_not_saved(tmp_path: Path, what: str, suffix: str) -> None:
    x, advice = ARRAYS[what]
    text = said(tmp_path / f"x{suffix}", data={"a": [x]})
    assert text == f"data.a.0 cannot be saved: it is an array of {x.dtype}: {advice}"
    if "x." in advice:  # and it can be followed
        other = eval(advice[advice.index("x.") :], {"x": x})
        checkpoint.save(tmp_path / f"y{suffix}", data={"a": [other]})


@dataclass
class Limits:
    size: int


def test_other_things_that_are_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    assert said(path, data=[np.datetime64(1, "s")]).endswith("datetime64[s]: save its integers, x.view('int64')")
    assert said(path, data={(1, 2): 3}) == "data cannot be saved: it has a key that is a tuple: make a text of it"
    things = [{1}, Path("x"), datetime.now(), Namespace(a=1), np.random.RandomState(0), Random(0), np.random.PCG64(0)]
    found = [said(path, data={"a": x}).rpartition(": ")[2] for x in things]
    assert found[:4] == ["make a list of it", "save str(x)", "save str(x)", "save vars(x)"]
    assert found[4:6] == ["save x.get_state(), or use a numpy.random.Generator", "save x.getstate()"]
    assert found[6] == "save x.state, or a numpy.random.Generator of it"
    states = [things[4].get_state(), things[5].getstate(), things[6].state]
    assert kept(checkpoint.load(checkpoint.save(tmp_path / "y.npz", states=states))["states"]) == kept(states)
    assert said(path, data=Limits(1)).endswith("save dataclasses.asdict(x)")
    assert (
        said(path, optimizer=Adam) == "optimizer cannot be saved: it is a type: save what it holds as numbers and texts"
    )
    assert said(path, data=object()).startswith("data cannot be saved: it is a object: save what it holds as numbers")


ALIKE = {i * (2**61 - 1): 0 for i in range(101)}
"""To Python all these have the hash 0."""


def test_keys_of_one_hash(tmp_path: Path) -> None:
    assert {*map(hash, ALIKE)} == {0}
    why = "more than 100 keys of a dict have one hash in Python, as multiples of 2**61 - 1 have"
    assert said(tmp_path / "x.npz", data=ALIKE) == f"data cannot be saved: {why}; let them be texts"
    checkpoint.save(tmp_path / "y.npz", data={str(key): x for key, x in ALIKE.items()})
    path = checkpoint.save(tmp_path / "x.json", data={1: 0})
    found = json.loads(path.read_text())
    found["tree"]["data"]["$items"] = [[key, 0] for key in ALIKE]
    rewrite(path, found)
    with pytest.raises(
        CheckpointError, match=r"^the tree is refused: more than 100 keys of a dict have one hash"
    ) as caught:
        checkpoint.load(path)
    assert "[0, 2305843009213693951" not in str(caught.value)
    for keys, what in (([1, 1], "the tree has equal keys"), ([{"$tuple": []}], "the tree has keys that are none")):
        found["tree"]["data"]["$items"] = [[key, 0] for key in keys]
        rewrite(path, found)
        with pytest.raises(CheckpointError, match=f"^{what}"):
            checkpoint.load(path)


def rewrite(path: Path, found: dict[str, Any]) -> None:
    """Write a description with a digest that is right."""
    from hashlib import sha256

    rest = {key: x for key, x in found.items() if key not in ("arrays", "digest", "complex128")}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    path.write_text(json.dumps({**found, "digest": sha256(text.encode()).hexdigest()}))


def test_keys_of_many_bits_in_torchs_files(tmp_path: Path) -> None:
    text = said(tmp_path / "x.pt", data={"a": {2**70: 0}})
    assert text == "data.a cannot be saved: it has a key of more than 64 bits: make a text of it"


@pytest.mark.parametrize(
    "group",
    [
        {"param_names": ["a"], "params": 5},
        {"param_names": ["a"], "params": None},
        {"param_names": ["a"], "params": np.zeros(())},
        {"param_names": ["a"], "params": [[1]]},
        {"param_names": ["a"], "params": [{}]},
        {"param_names": [None], "params": [0]},
        {"param_names": 3, "params": [0]},
        3,
    ],
)
def test_groups_that_are_none_are_data_as_others(tmp_path: Path, group: Any) -> None:
    """No optimizer is saved so, but a file may hold it: what is read can be written, and goes into no optimizer."""
    import refoptim

    data = {"optimizer": {"param_groups": [group], "state": {0: {"x": 1}}}}
    pt.save(tmp_path / "x.pt", data)
    found = read_tree(tmp_path / "x.pt").tree
    write_tree(tmp_path / "x.npz", found)
    assert repr(checkpoint.load(tmp_path / "x.npz")) == repr(found)
    optimizer = refoptim.Adam([np.zeros(3)])
    with pytest.raises(CheckpointError, match=r"^the part 'optimizer' cannot be restored: .*(param_groups|ids|group)"):
        checkpoint.restore(tmp_path / "x.pt", optimizer=optimizer)


@pytest.mark.parametrize(
    ("saved", "what"),
    [
        ({"w": "x"}, "a model holds arrays alone, and w was saved as a str"),
        ({"w": {"v": 1}}, "a model holds arrays alone, and w.v was saved as a int"),
        (3, "a model holds arrays alone, and it was saved as a int"),
        ({"v": np.zeros(3)}, "other arrays than were saved: v (saved alone), w (in the model alone)"),
    ],
)
def test_what_is_no_model(tmp_path: Path, saved: Any, what: str) -> None:
    path = checkpoint.save(tmp_path / "x.npz", model=saved)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore(path, model={"w": np.zeros(3)})
    assert what in str(caught.value)


def test_plain_data_in_a_model(tmp_path: Path) -> None:
    """What cannot be written into is said by its name; None, as for a bias that there is not, is left out."""
    model: Any = {"w": np.ones(3), "layers": [np.full(2, 2.0), None], "bias": None}
    path = checkpoint.save(tmp_path / "x.npz", model=model)
    fresh: Any = {"w": np.zeros(3), "layers": [np.zeros(2), None], "bias": None}
    checkpoint.restore(path, model=fresh)
    assert kept(fresh) == kept(model)
    with pytest.raises(
        CheckpointError, match=r"a model holds arrays alone, and heads is a int: plain data are in what"
    ):
        checkpoint.restore(path, model={**fresh, "heads": 3})
    with pytest.raises(CheckpointError, match=r"bias \(in the model alone\)"):
        checkpoint.restore(path, model={**fresh, "bias": np.zeros(1)})


def test_a_model_in_the_other_byte_order(tmp_path: Path) -> None:
    bits = np.array([0x7F800001, 0xFFC12345, 0x80000000, 1], np.uint32).view(np.float32)
    path, x = checkpoint.save(tmp_path / "x.npz", model={"w": bits.astype(">f4")}), np.zeros(4, ">f4")
    checkpoint.restore(path, model={"w": x})
    assert x.view(">u4").tolist() == bits.view(np.uint32).tolist()


def test_an_npz_file_of_others_is_no_checkpoint(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones(2))
    said = (
        r"^x\.npz is no checkpoint of refoptim: it has no checkpoint\.json; checkpoint\.load_arrays reads its arrays$"
    )
    with pytest.raises(CheckpointError, match=said):
        checkpoint.load(tmp_path / "x.npz")
    assert checkpoint.load_arrays(tmp_path / "x.npz")["a"].tolist() == [1, 1]


@pytest.mark.parametrize("state", [5, [], {}, {"state": 1}, {"bit_generator": "PCG64", "state": {"state": "x"}}])
def test_what_is_no_generator(tmp_path: Path, state: Any) -> None:
    path, rng = checkpoint.save(tmp_path / "x.npz", rng=state), np.random.default_rng(0)
    with pytest.raises(CheckpointError, match="'rng' cannot be restored: this is no state of the generator PCG64: "):
        checkpoint.restore(path, rng=rng)
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state
