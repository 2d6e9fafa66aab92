"""Rooms and kernels say the same, line for line: read from their texts, so neither a compiler nor a GPU is needed."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Collection
from importlib.resources import files
from itertools import product
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from refoptim.kernels import muon, order

import refoptim
from refoptim.commands import describe
from refoptim.engines import cuda, launches
from refoptim.engines.kernel import kernel_of
from refoptim.engines.pure import is_measured
from refoptim.numerics import arith
from refoptim.step.hyper import REALS, Flag, declared
from refoptim.step.rule import Rule, has_sums, has_sums_over_all, resolve

KERNELS = Path(str(files("refoptim.kernels")))

NO_ROOM = {"clip_grad", "order", "vector"}
"""Kernel files without a room: norms of gradients, sums of their pieces, and long vectors that several rules share."""

GIVEN = {"sparse", "unmade", "complex", "estimated"}
"""What a record holds beside the scalars that its room computes."""

UNUSUAL = {"degenerated"}
"""What an update asks only where something is not as usual."""

STORAGE = {"round_to", "widen"}
"""Words about storage, not arithmetic: kernels round when they store."""


def rooms() -> dict[str, list[type[Rule]]]:
    """Return the rules that each file defines; a preset of another rule is none."""
    package = importlib.import_module("refoptim.optimizers")
    names = [f"refoptim.optimizers.{room.name}" for room in pkgutil.iter_modules(package.__path__)]
    found = {name: rules_of(name) for name in [*names, "refoptim.swa_utils.averages"]}
    return {name.rpartition(".")[2]: rules for name, rules in found.items() if rules}


def rules_of(module: str) -> list[type[Rule]]:
    every = [x for x in vars(importlib.import_module(module)).values() if inspect.isclass(x) and issubclass(x, Rule)]
    own = [x for x in every if x.__module__ == module]
    return [x for x in own if "update" in vars(x) or (x in describe.optimizers() and not is_preset(x))]


def is_preset(rule: type[Rule]) -> bool:
    return any(base in describe.optimizers() for base in rule.__mro__[1:])


def is_elementwise(rule: type[Rule]) -> bool:
    return "update" in vars(rule) and not is_measured(rule)


ELEMENTWISE = {rule.__name__: rule for rules in rooms().values() for rule in rules if is_elementwise(rule)}

OPTIMIZERS = [
    name for name, rule in ELEMENTWISE.items() if issubclass(rule, refoptim.Optimizer) and not has_sums_over_all(rule)
]

OVER_ALL = {rule.__name__: rule for rules in rooms().values() for rule in rules if has_sums_over_all(rule)}

SUMMED = {rule.__name__: rule for rules in rooms().values() for rule in rules if has_sums(rule)}


def kernel_file(stem: str) -> str:
    return re.sub(r"//.*", "", (KERNELS / stem).read_text(encoding="utf-8"))


class Kernel:
    """The text of a rule's kernel, in parts."""

    def __init__(self, rule: type[Rule], change: Callable[[str], str] = str) -> None:
        self.rule = rule
        self.stem = rule.__module__.rpartition(".")[2]
        self.file = change(kernel_file(f"{self.stem}.cu"))
        start = re.search(rf"struct {rule.__name__} (: NoRegisters )?{{", self.file)
        assert start, f"there is no struct {rule.__name__}"
        self.text = self.file[start.start() : self.file.index("\n};", start.start())]

    def fields(self, struct: str) -> list[str]:
        """Return the names of the fields of a struct in it, with their lengths where they are arrays."""
        found = re.search(rf"struct {struct} {{(.*?)}};", self.text, re.DOTALL)
        return re.findall(r"(\w+(?:\[\d+\])?)[,;]", found[1]) if found else []

    def function(self, name: str) -> tuple[str, str]:
        """Return the parameters and the body of a function in it."""
        found = re.search(
            rf"\b{name}\(\s*((?:const|double|Record<)[^)]*)\) {{(.*?)(?:\n    }}|; }}$)", self.text, re.DOTALL | re.M
        )
        assert found, f"there is no function {name}"
        return found[1], found[2]

    def flags(self) -> list[tuple[str, str]]:
        """Return the flags that a host asks once for all elements, each with the number of the state array it makes."""
        found = re.search(r"FLAGS\((.*)\);", self.text)
        return [
            (name, state) for state, name in re.findall(r"FLAG(?:_OF)?\((?:(\d), )?(\w+)\)", found[1] if found else "")
        ]

    def usual(self) -> set[str]:
        """Return the numbers that have one value in most steps."""
        found = re.search(r"USUAL\((.*)\);", self.text)
        return {*re.findall(r"(?:SELDOM|MOSTLY)\((\w+)\)", found[1] if found else "")}

    def state(self) -> list[str]:
        return re.findall(r"X& (\w+?)_?\b", self.function("update")[0])[1:]


def source(function: Any) -> ast.FunctionDef:
    """Return the syntax tree of a function or a method."""
    tree = ast.parse(dedent(inspect.getsource(function)))
    return next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def words() -> list[str]:
    """Return the words of arithmetic that the text of ``arith`` explains."""
    found = re.findall(r"\b(\w+)\((?:x|condition)\b", inspect.getdoc(arith) or "")
    return list(dict.fromkeys(found))


WORDS_OF_ARITH = words()

WORDS = [*WORDS_OF_ARITH, "masked"]
"""The words of an update: those of arithmetic, and that of cautious steps, which is nothing in others."""


class Tokens(ast.NodeVisitor):
    """The words of an update in the order of the text, with their operands; a choice begins with its condition."""

    def __init__(self, more: Collection[str] = ()) -> None:
        self.found: list[str] = []
        self.depth, self.words = 0, {*WORDS, *more}

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        if name not in self.words:
            for operand in node.args[:1] if name in STORAGE else node.args:
                self.visit(operand)
            return
        self.found.append(name)
        self.depth += 1
        for operand in node.args:
            self.visit(operand)
        self.depth -= 1

    def visit_IfExp(self, node: ast.IfExp) -> None:
        for part in (node.test, node.body, node.orelse):
            self.visit(part)

    def visit_Compare(self, node: ast.Compare) -> None:
        sign = {ast.Gt: ">", ast.Lt: "<", ast.Eq: "=="}.get(type(node.ops[0]), "?")
        self.visit(node.left)
        self.operand(sign)
        self.visit(node.comparators[0])

    def operand(self, text: str) -> None:
        if self.depth:
            self.found.append(text)

    def generic_operand(self, node: ast.expr) -> None:
        self.operand(ast.unparse(node))

    visit_Name = visit_Attribute = visit_Subscript = visit_Constant = generic_operand


def room_tokens(rule: type[Rule]) -> list[str]:
    tokens = Tokens()
    tokens.visit(source(rule.update))
    return tokens.found


def kernel_tokens(body: str, more: Collection[str] = ()) -> list[str]:
    """Return the words of the text of an update, and what stands between their parentheses."""
    words = {*WORDS, *more}
    found, depth, inside = [], 0, []
    for token in re.findall(r"s\.\w+|\w+|[<>=!]=|[()<>]", body):
        if token == ")":
            depth -= 1
            inside = inside[: -1 if inside and inside[-1] == depth else None]
        elif token == "(":
            depth += 1
        else:
            if token in words:
                inside.append(depth)
            found += [token] if inside else []
    return found


def assert_same_tokens(room: list[str], kernel: list[str]) -> None:
    """Fail unless they are equal but for the names of variables, which must correspond one to one."""
    assert [x for x in room if x in WORDS] == [x for x in kernel if x in WORDS]
    assert len(room) == len(kernel), f"{room}\n{kernel}"
    kernel_name = {"p": "p", "g": "g"}
    for here, there in zip(room, kernel, strict=True):
        if here in WORDS or there.startswith("s.") or not here[0].isalpha():
            assert there in (here, f"s.{here}"), f"{here} is {there} in the kernel"
        else:
            assert kernel_name.setdefault(here, there) == there, f"{here} is {there} in the kernel"
    assert len({*kernel_name.values()}) == len(kernel_name), f"two names are one in the kernel: {kernel_name}"


def check_update(kernel: Kernel) -> None:
    _, body = kernel.function("update")
    assert_same_tokens(room_tokens(kernel.rule), kernel_tokens(body))
    assert {*re.findall(r"(\w+)\(", re.sub(r"\bif \(", "", body))} <= {*WORDS}, "there are calls of other functions"
    assert not re.search(r"[-+*/%^~]|[^&]&[^&]|[^|]\|[^|]|\d\.", body), "there is arithmetic beside the words"
    assert {*re.findall(r"s\.(\w+)", body)} <= {*kernel.fields("Record")}


def everything_on(rule: type[Rule]) -> Any:
    """Return hyperparameters with which a rule keeps all the state it can."""
    return hypers_with(
        rule, {name: True for name, x in declared(rule).items() if isinstance(x, Flag)} | {"momentum": 0.9}
    )


def hypers_with(rule: type[Rule], wanted: dict[str, Any]) -> Any:
    """Return hyperparameters with some settings, those that a rule has."""
    shared = {"foreach", "capturable", "differentiable", "fused", "maximize"}
    accepted = inspect.signature(rule).parameters
    settings = {name: x for name, x in wanted.items() if name in accepted and name not in shared}
    made = rule([np.zeros(2)], **settings) if issubclass(rule, refoptim.Optimizer) else rule(**settings)  # type: ignore
    return resolve(rule, made.param_groups[0]) if isinstance(made, refoptim.Optimizer) else made.h


def check_layout(kernel: Kernel) -> None:
    """The state arrays, the registers and the record, in order, and what is said of them where kernels are made."""
    rule, h = kernel.rule, everything_on(kernel.rule)
    first = {name: np.float32(x) for name, x in rule.registers(h).items()}
    scalars = [*rule.scalars(h, 1, first)]
    record = kernel.fields("Record")
    given = record[len(scalars) :]
    assert record[: len(scalars)] == scalars
    assert {*given} == GIVEN & {*re.findall(r"s\.(\w+)", kernel.function("update")[1])}
    assert kernel.fields("Registers") == ([] if has_sums_over_all(rule) else [*first])
    state = [*rule.arrays(h, (2,))]
    assert kernel.state() == state
    entries = re.findall(rf"^(?:ROWS_|CODED_)?ENTRIES\((\w+), {rule.__name__}, (\d)\)$", kernel.file, re.M)
    assert {*entries} == {(rule.__name__.lower(), str(len(state)))}


def questions(body: str) -> set[str]:
    """Return what an update asks of its record."""
    found = re.findall(r"(?:if \(|&& )!?s\.(\w+)(?= &&|\))|s\.(\w+) \?", body)
    return {first or second for first, second in found}


def check_flags(kernel: Kernel) -> None:
    """What a host asks once the update asks of its record; a state array is there just where its flags say so."""
    flags, rule = kernel.flags(), kernel.rule
    if not re.search(rf"^ENTRIES\(\w+, {rule.__name__}, \d\)$", kernel.file, re.M):
        return
    asked = questions(kernel.function("update")[1])
    assert {name for name, _ in flags} | kernel.usual() == asked - UNUSUAL
    allowed = getattr(declared(rule).get("momentum"), "interval", REALS)
    for amsgrad, centered, momentum in product([False, True], [False, True], [x for x in (0.0, 0.9) if x in allowed]):
        h = hypers_with(rule, {"amsgrad": amsgrad, "centered": centered, "momentum": momentum})
        scalars = rule.scalars(h, 1, {name: np.float32(x) for name, x in rule.registers(h).items()})
        kept = [all(scalars[x] for x, state in flags if state == str(j)) for j in range(len(kernel.state()))]
        assert [x for x, is_kept in zip(kernel.state(), kept, strict=True) if is_kept] == [*rule.arrays(h, (2,))]


def hypers_used(rule: type[Rule]) -> list[str]:
    """Return the hyperparameters that the scalars and the registers are computed from, in the order of declaration."""
    helpers = [
        x for x in vars(inspect.getmodule(rule)).values() if inspect.isfunction(x) and x.__module__ == rule.__module__
    ]
    trees = [source(x) for x in (rule.scalars, rule.advance, *helpers)]
    used = {
        node.attr
        for node in (node for tree in trees for node in ast.walk(tree))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "h"
    }
    return [name for name in declared(rule) if name in used]


def check_hypers(kernel: Kernel) -> None:
    h = everything_on(kernel.rule)
    values = {name: getattr(h, name) for name in hypers_used(kernel.rule)}
    expected = [f"{name}[{len(x)}]" if isinstance(x, tuple) else name for name, x in values.items()]
    assert kernel.fields("Hypers") == expected
    assert re.search(rf"^SCALARS\({kernel.rule.__name__.lower()}, {kernel.rule.__name__}\)$", kernel.file, re.M)


class Formula(ast.NodeTransformer):
    """Writes a Python expression as kernels do: with ``sqrt``, and with numbers of one type."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return ast.Name("sqrt", ast.Load()) if ast.unparse(node) == "math.sqrt" else node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        return ast.Constant(float(node.value)) if isinstance(node.value, (int, float)) else node


def formula(text: str) -> str:
    return ast.dump(Formula().visit(ast.parse(text, mode="eval")))


def from_kernel(text: str) -> str:
    """Write an expression of a kernel in Python."""
    text = re.sub(r"^double\((.*)\)$", r"\1", text)
    return re.sub(r"^(.*) \? (.*) : (.*)$", r"\2 if \1 else \3", text)


def check_scalars(kernel: Kernel) -> None:
    """Each field of the record is computed by the same formula."""
    tree = source(kernel.rule.scalars)
    made = next(node.value for node in ast.walk(tree) if isinstance(node, ast.Return))
    assert isinstance(made, ast.Call)
    room = {x.arg: ast.unparse(x.value) for x in made.keywords}
    lines = re.findall(r"^ +\.(\w+) = (.*),$", kernel.function("scalars")[1], re.M)
    own = {name: text for name, text in lines if name not in GIVEN}
    assert [name for name, _ in lines] == kernel.fields("Record")
    assert list(own) == list(room)
    for name, text in own.items():
        assert formula(from_kernel(text)) == formula(room[name] or ""), f"{name}: {text}"


CHECKS: list[Callable[[Kernel], None]] = [check_update, check_layout, check_flags, check_hypers, check_scalars]


def checks_of(name: str) -> list[Callable[[Kernel], None]]:
    """Averages, and rules with sums over all parameters, have no scalars on the device."""
    return CHECKS if name in OPTIMIZERS else CHECKS[:3]


@pytest.mark.parametrize(("name", "check"), [(x, check) for x in ELEMENTWISE for check in checks_of(x)])
def test_room_and_kernel_say_the_same(name: str, check: Callable[[Kernel], None]) -> None:
    check(Kernel(ELEMENTWISE[name]))


def test_what_is_elementwise() -> None:
    """A kernel without a program is one of a rule that needs no sums: none of its structs with entries is missing."""
    files = [x.name for x in KERNELS.iterdir() if x.name.endswith(".cu")]
    alone = [x for x in files if not (KERNELS / x).with_suffix(".py").exists()]
    entries = [re.findall(r"^(?:CODED_)?ENTRIES\(\w+, (\w+), \d\)$", kernel_file(x), re.M) for x in alone]
    assert sorted(ELEMENTWISE) == sorted(name for found in entries for name in found)
    assert {"SGD", "Adam", "SparseAdam", "EMA", "SWA", "LerpEMA", "LerpSWA"} <= ELEMENTWISE.keys()


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_engine_reads_the_same_of_a_kernel(name: str) -> None:
    kernel, found = Kernel(ELEMENTWISE[name]), kernel_of(ELEMENTWISE[name])
    assert found
    assert (found.stem, found.name) == (kernel.stem, name.lower())
    assert (list(found.record), list(found.state)) == (kernel.fields("Record"), kernel.state())
    assert [x if n == 1 else f"{x}[{n}]" for x, n in found.hypers] == kernel.fields("Hypers")


def test_every_room_has_a_kernel_or_says_that_it_has_none_and_every_kernel_a_room() -> None:
    stems = {x.name.removesuffix(".cu") for x in KERNELS.iterdir() if x.name.endswith(".cu")}
    twinned = {name for name, rules in rooms().items() if all(rule.has_kernels for rule in rules)}
    assert stems - NO_ROOM == twinned
    assert rooms().keys() - twinned == {"soap"}


def test_kernels_that_a_rule_does_not_have_are_refused_at_once() -> None:
    assert kernel_of(refoptim.SOAP) is None
    with pytest.raises(RuntimeError, match="SOAP has none: leave fused=None"):
        refoptim.SOAP([np.ones((2, 2))], fused=True)


def test_presets_share_the_kernel_of_their_rule() -> None:
    assert kernel_of(refoptim.AdamW) == kernel_of(refoptim.Adam)


@pytest.mark.parametrize("rule", {**ELEMENTWISE, **SUMMED}.values(), ids=lambda x: x.__name__)
def test_rules_that_may_be_cautious_have_kernels_for_that(rule: type[Rule]) -> None:
    kernel, found, counted = Kernel(rule), kernel_of(rule), "cautious" in declared(rule)
    entries = re.findall(rf"^CAUTIOUS\((\w+), {rule.__name__}, (\d)\)$", kernel.file, re.M)
    assert found
    assert entries == ([(found.name, str(len(kernel.state())))] if counted else [])
    assert counted == ("masked(" in kernel.text)
    sums = re.findall(rf"^CAUTIOUS_SUMS\((\w+), {rule.__name__}, (\d), (\d)\)$", kernel.file, re.M)
    assert sums == ([(found.name, str(len(kernel.state())), str(found.sums))] if rule.masks_sums else [])
    assert found.masks_sums == rule.masks_sums


def test_words() -> None:
    """Both vocabularies, with their operands; roots and absolute values depend on the machine and stand apart."""
    assert len(WORDS_OF_ARITH) == 17
    *twins, (last, _) = re.findall(r"inline X (\w+)\((.*?)\)", kernel_file("harness/arith.cuh"))
    numbers = {*re.findall(r"inline double (sqrt|absolute)\(", kernel_file("harness/number.cuh"))}
    assert {name for name, _ in twins} | numbers == {*WORDS_OF_ARITH}
    assert last == "masked"
    for name, operands in twins:
        of_room = [*inspect.signature(getattr(arith, name)).parameters]
        assert re.findall(r"(\w+)(?:,|$)", operands) == of_room, name


def test_formulas_of_words() -> None:
    """The kernels' words compute what the text of ``arith`` says."""
    said = re.findall(r"(\w+)\([\w, ]*\) += (\S+(?: \S+)*?)(?:  |$)", inspect.getdoc(arith) or "", re.M)
    done = dict(re.findall(r"inline X (\w+)\([^{]*{ return (.*); }", kernel_file("harness/arith.cuh")))
    same = {name: text for name, text in said if name in done}
    assert {*same} == {"add", "sub", "mul", "div", "neg", "reciprocal", "rsqrt", "axpy", "addcmul", "addcdiv"}
    for name, text in same.items():
        assert formula(done[name]) == formula(text), name


HELPERS = {"square"}
"""A word of the tree, that rules with sums use besides those of `arith`."""


def helpers_of(rule: type[Rule]) -> list[str]:
    """Return the functions beside a rule that its array halves call."""
    own = [name for name, x in vars(inspect.getmodule(rule)).items() if inspect.isfunction(x)]
    asked = [x for x in own if getattr(inspect.getmodule(rule), x).__module__ == rule.__module__]
    text = inspect.getsource(rule.update) + inspect.getsource(rule.sums)
    return [name for name in asked if re.search(rf"\b{name}\(", text)]


def check_words(kernel: Kernel) -> None:
    """The array halves, and the functions beside them, word for word."""
    helpers = helpers_of(kernel.rule)
    more = {*HELPERS, *helpers}
    module = inspect.getmodule(kernel.rule)
    for name in ("update", "sums", *helpers):
        _, body = kernel.function(name)
        tokens = Tokens(more)
        tokens.visit(source(getattr(module, name, None) or getattr(kernel.rule, name)))
        room, there = tokens.found, kernel_tokens(body, more)
        named = {*WORDS, *more, "p", "g"}
        assert [x for x in room if x in named] == [x for x in there if x in named], name
        fields = [[x.removeprefix("s.") for x in found if x.startswith("s.")] for found in (room, there)]
        assert fields[0] == fields[1], name
        assert {*re.findall(r"(\w+)\(", re.sub(r"\bif \(", "", body))} <= {*WORDS, *more}, name
        assert {*re.findall(r"s\.(\w+)", body)} <= {*kernel.fields("Record")}, name


def check_record(kernel: Kernel) -> None:
    """The scalars, then what is given, then what is measured; and how many arrays, sums and numbers there are."""
    rule, h = kernel.rule, everything_on(kernel.rule)
    scalars = [*rule.scalars(h, 1, {})]
    assert kernel.fields("Record")[: len(scalars)] == scalars
    found = kernel_of(rule)
    assert found
    assert list(found.record) == kernel.fields("Record")
    assert found.state == (*kernel.state(), *rule.numbers)
    assert [*rule.arrays(h, (2,))] == list(found.state)
    entries = re.search(rf"^SUMMED\((\w+), {rule.__name__}, (\d), (\d), (\d)\)$", kernel.file, re.M)
    assert entries
    assert entries.groups() == (found.name, str(len(kernel.state())), str(found.sums), str(len(rule.numbers)))
    arrays = [np.ones(2) for _ in kernel.state()]
    s = SimpleNamespace(**rule.scalars(h, 1, {}), caution=False)
    assert len(rule.sums(s, np.ones(2), np.ones(2), *arrays)) == found.sums


def check_over_all(kernel: Kernel) -> None:
    """What is summed over all parameters, word for word, and how many sums there are."""
    tokens = Tokens(HELPERS)
    tokens.visit(source(kernel.rule.sums_over_all))
    assert_same_tokens(tokens.found, kernel_tokens(kernel.function("sums_over_all")[1], HELPERS))
    rule, h, found = kernel.rule, everything_on(kernel.rule), kernel_of(kernel.rule)
    entries = re.search(rf"^OVER_ALL\((\w+), {rule.__name__}, (\d), (\d)\)$", kernel.file, re.M)
    assert entries
    assert found
    assert entries.groups() == (found.name, str(len(kernel.state())), str(found.sums_over_all))
    s = SimpleNamespace(**rule.scalars(h, 1, rule.registers(h)))
    arrays = [np.ones(2) for _ in kernel.state()]
    assert len(rule.sums_over_all(s, np.ones(2), np.ones(2), *arrays)) == int(entries[3])


@pytest.mark.parametrize("name", OVER_ALL)
def test_room_and_kernel_sum_the_same_over_all(name: str) -> None:
    check_over_all(Kernel(OVER_ALL[name]))


MUTANTS_OVER_ALL = [
    ("LAMB", "return {square(g)};", "return {g};"),
    ("LAMB", "OVER_ALL(lamb, LAMB, 2, 1)", "OVER_ALL(lamb, LAMB, 1, 1)"),
    ("Prodigy", "mul(g, sub(p0, p))", "mul(g, sub(p, p0))"),
    (
        "Prodigy",
        "absolute(axpy(mul(weights, s.beta3), g, s.weight_gain))",
        "axpy(mul(weights, s.beta3), g, s.weight_gain)",
    ),
    ("Prodigy", "mul(weights, s.beta3)", "mul(weights, s.beta1)"),
    ("Prodigy", "OVER_ALL(prodigy, Prodigy, 4, 2)", "OVER_ALL(prodigy, Prodigy, 4, 1)"),
]


@pytest.mark.parametrize(("name", "old", "new"), MUTANTS_OVER_ALL)
def test_differences_of_sums_over_all_are_found(name: str, old: str, new: str) -> None:
    assert old in Kernel(OVER_ALL[name]).file
    with pytest.raises(AssertionError):
        check_over_all(Kernel(OVER_ALL[name], lambda text: text.replace(old, new)))


def statements(function: Any) -> dict[str, str]:
    """Return what a room's ``measured`` assigns and returns, by name."""
    found = {}
    for node in source(function).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.unparse(node.value)
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Call):
            found |= {f"s.{x.arg}": ast.unparse(x.value) for x in node.value.keywords}
    return found


def in_python(text: str) -> str:
    """Write an expression of a kernel in Python; choices have no brackets within them but those of their own."""
    text = text.replace("&&", "and").replace("||", "or").replace("!(", "not (")
    text = text.replace("shape.axes", "len(shape)").replace("shape.size", "prod(shape)")
    text = re.sub(r"\(([^()?]*) \? ([^()?]*) : ([^()?]*)\)", r"(\2 if \1 else \3)", text)
    return from_kernel(text)


def check_measured(kernel: Kernel) -> None:
    """Each number is computed by the same formula, in the same order."""
    _, body = kernel.function("measured")
    lines = re.findall(r"^ +(?:double |bool )?([\w.]+) = (.*);$", body, re.M)
    room = statements(kernel.rule.measured)
    expected = {name if name[2:] not in kernel.rule.numbers else name[2:]: x for name, x in room.items()}
    assert {name for name, _ in lines} == {*expected}
    assert [name for name, _ in lines if "." not in name and name not in kernel.rule.numbers] == [
        name for name in expected if "." not in name and name not in kernel.rule.numbers
    ]
    for name, text in lines:
        assert formula(in_python(text)) == formula(expected[name]), f"{name}: {text}"


CHECKS_OF_SUMS: list[Callable[[Kernel], None]] = [check_words, check_record, check_measured]


@pytest.mark.parametrize(("name", "check"), [(x, check) for x in SUMMED for check in CHECKS_OF_SUMS])
def test_room_and_kernel_sum_the_same(name: str, check: Callable[[Kernel], None]) -> None:
    check(Kernel(SUMMED[name]))


MUTANTS_OF_SUMS = [
    ("LARS", "square(g)", "square(p)", check_words),
    ("LARS", "mul(axpy(g, p, s.weight_decay), s.ratio)", "axpy(mul(g, s.ratio), p, s.weight_decay)", check_words),
    ("LARS", "trust_clip, adapted", "adapted, trust_clip", check_record),
    ("LARS", "SUMMED(lars, LARS, 1, 2, 0)", "SUMMED(lars, LARS, 1, 1, 0)", check_record),
    ("LARS", "n + w * s.weight_decay + s.eps", "n + w * s.weight_decay", check_measured),
    ("LARS", "w > 0 && n > 0", "w > 0 || n > 0", check_measured),
    ("LAMB", "add(mul(exp_avg, s.beta1), g)", "add(mul(exp_avg, s.beta2), g)", check_words),
    ("LAMB", "ratio > 1 ? 1 : ratio", "ratio > 1 ? ratio : 1", check_measured),
    ("NovoGrad", "exp_avg_sq = average;", "exp_avg_sq = largest;", check_measured),
    ("NovoGrad", "SUMMED(novograd, NovoGrad, 1, 1, 2)", "SUMMED(novograd, NovoGrad, 1, 1, 1)", check_record),
    ("StableAdamW", "maximum(exp_avg_sq, s.floor)", "add(exp_avg_sq, s.floor)", check_words),
    ("MARS", "shape.axes > 1", "shape.axes > 2", check_measured),
    ("MARS", "sub(g, last_grad), s.gain", "sub(g, last_grad), s.beta1", check_words),
]


@pytest.mark.parametrize(("name", "old", "new", "check"), MUTANTS_OF_SUMS)
def test_differences_of_sums_are_found(name: str, old: str, new: str, check: Callable[[Kernel], None]) -> None:
    assert old in Kernel(SUMMED[name]).file
    with pytest.raises(AssertionError):
        check(Kernel(SUMMED[name], lambda text: text.replace(old, new)))


MUTANTS = [
    ("Adam", "lerp(exp_avg, g,", "lerp(g, exp_avg,", check_update),
    ("Adam", "maximum(max_exp_avg_sq, exp_avg_sq)", "maximum(exp_avg_sq, max_exp_avg_sq)", check_update),
    ("Adam", "s.amsgrad ? max_exp_avg_sq : exp_avg_sq", "s.amsgrad ? exp_avg_sq : max_exp_avg_sq", check_update),
    ("Adam", "add(div(denom, s.root_correction2), s.eps)", "div(add(denom, s.eps), s.root_correction2)", check_update),
    ("Adam", "addcdiv(p, masked(s, exp_avg, g), denom", "addcdiv(p, masked(s, g, exp_avg), denom", check_update),
    ("Adam", "addcdiv(p, masked(s, exp_avg, g), denom", "addcdiv(p, exp_avg, denom", check_update),
    ("Adamax", "mul(exp_inf, s.beta2)", "mul(exp_inf, s.one_minus_beta1)", check_update),
    ("RAdam", "sub(p, u)", "add(p, u)", check_update),
    ("RAdam", "sub(p, u)", "sub(u, p)", check_update),
    ("Adadelta", "mul(acc_delta, s.rho)", "acc_delta * s.rho", check_update),
    ("Adadelta", "sqrt(add(square_avg, s.eps))", "std::sqrt(add(square_avg, 1e-6))", check_update),
    ("Rprop", "where(factor < 0, s.eta_minus", "where(factor > 0, s.eta_minus", check_update),
    ("Rprop", "where(factor < 0, s.eta_minus", "where(factor < 0, s.eta_plus", check_update),
    ("ASGD", "mul(sub(p, ax), s.mu)", "mul(sub(ax, p), s.mu)", check_update),
    ("SWA", "mul(gap, s.share)", "mul(gap, s.count)", check_update),
    ("SGD", "weight_decay, momentum, has_buffer", "momentum, weight_decay, has_buffer", check_layout),
    ("SGD", ", unmade;", ";", check_layout),
    ("NAdam", "R mu_product;", "R product;", check_layout),
    ("RMSprop", "X& momentum_buffer, X& grad_avg", "X& grad_avg, X& momentum_buffer", check_layout),
    ("RMSprop", "ENTRIES(rmsprop, RMSprop, 3)", "ENTRIES(rmsprop, RMSprop, 2)", check_layout),
    ("SparseAdam", "ENTRIES(sparseadam,", "ENTRIES(sparse_adam,", check_layout),
    ("Adam", "double lr, betas[2], eps", "double betas[2], lr, eps", check_hypers),
    ("Adagrad", "double lr, lr_decay, weight_decay", "double lr, lr_decay, initial_accumulator_value", check_hypers),
    ("Rprop", "etas[2]", "etas[3]", check_hypers),
    ("Adam", "power(1 - power(beta2, k), 0.5)", "power(1 - power(beta1, k), 0.5)", check_scalars),
    ("Adagrad", "(k - 1) * h.lr_decay", "k * h.lr_decay", check_scalars),
    (
        "NAdam",
        "(-h.lr * mu_next) / (1 - mu_product * mu_next)",
        "-h.lr * (mu_next / (1 - mu_product * mu_next))",
        check_scalars,
    ),
    ("RAdam", "rho > 5 ? rect", "rho > 4 ? rect", check_scalars),
    ("Rprop", "h.etas[0]", "h.etas[1]", check_scalars),
]


@pytest.mark.parametrize(("name", "old", "new", "check"), MUTANTS)
def test_differences_are_found(name: str, old: str, new: str, check: Callable[[Kernel], None]) -> None:
    assert old in Kernel(ELEMENTWISE[name]).file
    with pytest.raises(AssertionError):
        check(Kernel(ELEMENTWISE[name], lambda text: text.replace(old, new)))


CONSTANTS = [
    ("harness/kernel.cuh", "THREADS", launches),
    ("harness/product.cuh", "TILE", muon),
    ("order.cu", "PIECES", order),
    ("order.cu", "WAITING", order),
]


@pytest.mark.parametrize(("file", "name", "module"), CONSTANTS, ids=["THREADS", "TILE", "PIECES", "WAITING"])
def test_constants_of_the_engines_are_those_of_the_kernels(file: str, name: str, module: Any) -> None:
    said = re.search(rf"constexpr \w+ {name} = (.*?);", KERNELS.joinpath(file).read_text(encoding="utf-8"))
    assert said
    before, _, shift = said[1].partition(" << ")
    assert getattr(module, name) == int(before) << int(shift or 0)


def test_so_many_blocks_are_held_at_once() -> None:
    harness = KERNELS.joinpath("harness/multi_tensor.cuh").read_text(encoding="utf-8")
    assert re.search(rf"int BLOCKS = .* \? 3 : {cuda.AT_ONCE};", harness)
