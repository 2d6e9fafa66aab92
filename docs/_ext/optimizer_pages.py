"""The pages of optimizers, a page each, made of the room, the kernels, the cases, the promises and the deviations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import md
import numpy as np
import twins
from refoptim.conformance import cases, promises
from refoptim.conformance.cases import Case, Witness
from refoptim.conformance.known import meaning
from refoptim.conformance.verify import EXACT

from refoptim import Optimizer
from refoptim.commands.describe import SHARED, arguments, optimizers, stem, text
from refoptim.dialects.preset import known
from refoptim.optimizers.closure import ClosureOptimizer
from refoptim.step.rule import has_sums, has_sums_over_all, is_measured

FOLDER = "optimizers"

INTRO = """Each page has the formula, in the order in which the code computes it, the hyperparameters, the state, and
the code itself: the room, the Python file of one optimizer, which defines it in NumPy, beside the kernel, which gives
the same bits."""

WIDER_INTRO = """Those above have torch's names, settings, defaults and results. Those below are used like them, and
are held to a package that has the rule; [](../torch/wider.md) says where that and other ports part, and what `cautious`
is. Lookahead, SAM and MultiSteps [work around any of them](../guide/transforms.md), and [](../dialects/ports.md) says
who else has which."""

EXAMPLES = {
    "dense": """import numpy as np
import refoptim as optim

w = np.array([[1.0, -2.0], [0.5, 4.0]])
optimizer = optim.NAME([w])

for _ in range(100):
    optimizer.step(grads=[w.copy()])  # the gradient of half the sum of squares; w is changed in place""",
    "sparse": """import numpy as np
import refoptim as optim

w = np.array([[1.0, -2.0], [0.5, 4.0], [3.0, 3.0]])
optimizer = optim.NAME([w])

for _ in range(100):
    rows = np.array([[0, 2]])  # the rows that have a gradient
    optimizer.step(grads=[optim.SparseGrad(rows, 2 * w[rows[0]], w.shape)])""",
    "closure": """import numpy as np
import refoptim as optim

w = optim.Parameter(np.array([[1.0, -2.0], [0.5, 4.0]]))
optimizer = optim.NAME([w])

def closure():
    w.grad = 4 * w.data**3
    return np.sum(w.data**4)

for _ in range(10):
    loss = optimizer.step(closure)  # evaluates the loss and the gradient several times""",
}

TITLES = {"host": "the kernels on a processor", "cuda": "the kernels on a GPU"}


def pages() -> dict[str, str]:
    """Return the text of every page by file name."""
    classes = optimizers()
    entries = [f"- {link(x)}: {text(x).paragraphs[0]}" for x in classes if x.of_torch]
    wider = md.section("Optimizers that torch does not have", WIDER_INTRO, beyond(x for x in classes if not x.of_torch))
    index = md.index("Optimizers", INTRO, [*entries, "", wider], map(stem, classes))
    return {"index.md": index, **{f"{stem(x)}.md": md.wide(page(x)) for x in classes}}


def link(cls: type[Optimizer]) -> str:
    """Return a link to the page of an optimizer."""
    return f"[{cls.__name__}]({stem(cls)}.md)"


def beyond(classes: Iterable[type[Optimizer]]) -> str:
    """Return the table of optimizers that torch does not have, with the packages that they are held to."""
    rows = [(link(x), text(x).paragraphs[0], whose(x) or "–") for x in classes]
    return md.table(("optimizer", "what it does", "held to"), rows)


def page(cls: type[Optimizer]) -> str:
    """Return the page of an optimizer."""
    found = text(cls)
    return md.sections(
        cls.__name__,
        found.paragraphs[0],
        md.entry("class", f"refoptim.{cls.__name__}", md.signature(cls)),
        md.formula(cls),
        md.section("Use", md.code(example(cls), "python")),
        hyperparameters(cls),
        md.section("State", found.state.removeprefix("State: ")),
        code(cls),
        promise(cls),
        goldens(cls),
        peers(cls),
        md.section("Papers", found.sources.partition(": ")[2]),
    )


def example(cls: type[Optimizer]) -> str:
    """Return a short program that uses an optimizer."""
    kind = "closure" if issubclass(cls, ClosureOptimizer) else "dense" if takes_arrays(cls) else "sparse"
    return EXAMPLES[kind].replace("NAME", cls.__name__)


def takes_arrays(cls: type[Optimizer]) -> bool:
    """Tell whether a gradient may be an array."""
    try:
        cls.accept(None, np.ones(()))
    except RuntimeError:
        return False
    return True


def hyperparameters(cls: type[Optimizer]) -> str:
    """Return the section of hyperparameters; those that mean the same everywhere are folded."""
    own = [x for x in arguments(cls) if x.name not in SHARED]
    shared = [x for x in arguments(cls) if x.name in SHARED]
    title = "What means the same for every optimizer: " + ", ".join(x.name for x in shared)
    methods = "Methods are those of {py:class}`~refoptim.Optimizer`."
    return md.section("Hyperparameters", md.arguments_table(own), md.folded(title, md.arguments_table(shared)), methods)


def code(cls: type[Optimizer]) -> str:
    """Return the section that shows the room beside the kernels."""
    base = twins.rule(cls)
    room, kernel = f"refoptim/optimizers/{stem(base)}.py", f"kernels/{stem(base)}.cu"
    intro = f"Left, `{room}` defines the rule; right, its twin in `{kernel}` computes the same bits."
    if not cls.has_kernels:
        alone = f"`{room}` defines the rule. It has no twin: the functions of NumPy and of CuPy run it."
        return md.section(
            "The twins", alone, *(f"### `{x.name}`\n\n{md.code(x.room, 'python')}" for x in twins.pairs(cls))
        )
    if base is not cls:
        intro = f"A preset: the rule is that of [{base.__name__}]({stem(base)}.md). {intro}"
    blocks = [block for pair in twins.pairs(cls) for block in (f"### `{pair.name}`", side_by_side(pair))]
    return md.section("The twins", intro, preset(cls), *blocks, launched(cls))


def side_by_side(pair: twins.Pair) -> str:
    """Return a function beside its twin."""
    none = "*No single function: the program below.*"
    twin = md.code(pair.twin, "cpp" if pair.language == "cuda" else "python") if pair.twin else none
    return f"::::{{container}} twins\n{md.code(pair.room, 'python')}\n\n{twin}\n::::"


def preset(cls: type[Optimizer]) -> str:
    """Return the code of a preset, its constructor; nothing for any other optimizer."""
    if twins.rule(cls) is cls:
        return ""
    own = twins.room_functions(cls)
    return f"The room, `refoptim/optimizers/{stem(cls)}.py`:\n\n" + md.code("\n\n".join(own.values()), "python")


def launched(cls: type[Optimizer]) -> str:
    """Return the program that launches the kernels and the kernels themselves, where one kernel is not all."""
    if not twins.program(cls):
        return ""
    name = stem(twins.rule(cls))
    told = f"### The program\n\n`kernels/{name}.py` launches the kernels of `kernels/{name}.cu` in turn."
    program = md.folded(f"kernels/{name}.py", md.code(twins.program(cls), "python"))
    return "\n\n".join([told, program, md.folded(f"kernels/{name}.cu", md.code(twins.kernel(cls), "cpp"))])


def own_cases(cls: type[Optimizer]) -> list[Case]:
    """Return the cases of an optimizer."""
    return cases.load(stem(cls)) if stem(cls) in cases.stems() else []


def witness_of(cls: type[Optimizer]) -> Witness | None:
    """Return the package that owns a rule which torch does not have."""
    return cases.witness(stem(cls)) if stem(cls) in cases.stems() else None


def whose(cls: type[Optimizer]) -> str:
    """Return the package that owns a rule and its name there, or nothing."""
    witness = witness_of(cls)
    return f"{witness.package}'s `{witness.cls.partition(':')[2]}`" if witness else ""


def promise(cls: type[Optimizer]) -> str:
    """Return the section that says what is promised, in words."""
    kind, sentence = promised(cls)
    ran = (Path(__file__).parents[1] / "gpu.json").exists()
    kernels = "The kernels have the bits of the reference; 16-bit numbers are rounded once, when they are stored. " + (
        "[](../built/gpu_runs.md) says what ran on a GPU." if ran else "Not yet run on a GPU."
    )
    none = "There are no kernels; 16-bit numbers are rounded once, when they are stored."
    return md.section("What is promised", f"**{kind}**: {sentence}", kernels if cls.has_kernels else none)


def promised(cls: type[Optimizer]) -> tuple[str, str]:
    """Return the name of a promise, and a sentence that explains it."""
    name, found, witness = cls.__name__, own_cases(cls), witness_of(cls)
    storages = list(dict.fromkeys(dtype for case in found for dtype in case.dtypes))
    apart = {x: promises.promised("numpy", "torch-ieee", name, x) for x in storages}
    apart = {storage: tolerance for storage, tolerance in apart.items() if tolerance != EXACT}
    own_order = "the same bits wherever refoptim runs, since sums have an order of their own that no machine changes"
    if witness:
        if is_measured(cls) or has_sums_over_all(cls):
            asked = [x for x in storages if x not in witness.lacks]
            met = " and ".join(f"{promises.promised('numpy', 'package-ieee', name, x)} in {x}" for x in asked)
            kind = "TREE" if has_sums(cls) or has_sums_over_all(cls) else "CLOSE"
            return kind, f"{own_order}. The results of {whose(cls)}, x, are met {met}."
        return "EXACT", f"parameters and state have the bits of {whose(cls)}, where torch computes by the IEEE rules."
    if not found:
        return "TREE", own_order + ". Torch's results are met up to rounding; there are no golden cases."
    if not cls.of_torch:
        return "EXACT", "the same bits wherever refoptim runs. No package has the rule: a test holds it to its formula."
    if apart:
        near = " and ".join(f"{tolerance} in {storage}" for storage, tolerance in apart.items())
        return "TREE", f"{own_order}. Torch's results, x, are met {near}."
    if promises.promised("torch-for-loop", "reference", name, "float32") != promises.FEW:
        return "CLOSE", f"{own_order}; for matrices as small as those of the cases they are torch's bits too."
    where = f"where torch computes by the IEEE rules, in {', '.join(storages)}"
    return "EXACT", f"parameters and state have torch 2.13's bits, {where}."


def goldens(cls: type[Optimizer]) -> str:
    """Return the section of golden cases."""
    found = own_cases(cls)
    if not found:
        return md.section("Golden cases", "None: its steps depend on a closure, and goldens record gradients.")
    rows = [(f"`{case.id}`", case.comment, ", ".join(case.dtypes)) for case in found]
    command = md.code(f"refoptim conformance --pattern '{stem(cls).replace('_', '-')}-*'", "sh")
    intro = "Recorded runs that every engine repeats; any other implementation can be put through them by `--impl`."
    return md.section("Golden cases", intro, command, md.table(("case", "what it does", "storage"), rows))


def peers(cls: type[Optimizer]) -> str:
    """Return the section of the libraries whose dialect of a rule is known, and what differs in each."""
    made = {library: of[cls.__name__] for library, of in known().items() if cls.__name__ in of}
    rows = [(library, md.names(x.flags), meaning(x.flags)) for library, x in made.items()]
    differ = [row for row in rows if row[1]]
    intro = "What other libraries compute otherwise; `refoptim.dialects` has them, and each was held to its witness."
    return md.section("Peers that differ", intro, md.table(("library", "flags", "how"), differ)) if differ else ""
