"""Formulas, which docstrings hold as text in the order of the code, as mathematics.

A line is an equation, a statement in words, or both with a remark; two spaces or more stand between its parts. What
follows the rules of Python's expressions is translated to LaTeX, and its order of operations stays: a quotient becomes
a fraction, and parentheses are kept that the order needs, or that the source puts around the first operand of a sum or
product. Besides, ``|x|`` is a magnitude, ``g . d`` a scalar product, ``g'`` another name, and ``x.T`` a transposed
matrix.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

GREEK = {name: rf"\{name}" for name in ("alpha", "beta", "gamma", "delta", "eta", "mu", "pi", "rho")}
GREEK |= {"eps": r"\epsilon", "lambd": r"\lambda"}

ATOM, POWER, UNARY, PRODUCT, SUM, COMPARISON, CHOICE = 7, 6, 5, 4, 3, 2, 1
"""How tightly things bind."""

SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: r"\cdot", ast.MatMult: r"\,"}
COMPARED = {ast.Lt: "<", ast.LtE: r"\le", ast.Gt: ">", ast.GtE: r"\ge", ast.Eq: "="}

DOT = "%"
"""Stands for the scalar product while a formula is parsed, since no formula takes remainders."""


class Part(NamedTuple):
    """A part of a line: LaTeX left and right of its equals sign, and words."""

    left: str = ""
    right: str = ""
    words: str = ""


class Line(NamedTuple):
    """A line: how far it is indented, its first part, and what stands to the right of it."""

    indent: int
    main: Part
    remarks: list[Part]


def lines(text: str) -> list[Line | None]:
    """Translate a formula; None stands for an empty line."""
    return [_line(line) if line.strip() else None for line in text.splitlines()]


def _line(text: str) -> Line:
    indent = len(text) - len(text.lstrip())
    aligned = re.sub(r"\s+=\s+", " = ", text.strip(), count=1)
    first, *rest = re.split(r"\s{2,}", aligned)
    return Line(indent, part(first), [part(x) for x in rest])


def part(text: str) -> Part:
    """Translate a part of a line; what is no mathematics is kept as words, an equation's side and a colon's too."""
    bare = text.rstrip(",;.")
    end = text[len(bare) :]
    head, colon, tail = bare.partition(": ")
    if colon and (found := equation(tail)) is not None:
        return Part(words=head + ":", right=" = ".join(x for x in found if x) + end)
    condition = re.match(r"(if|where|while|for) ", bare)
    if condition and (found := equation(bare[condition.end() :])) is not None:
        return Part(words=condition[1], right=" = ".join(x for x in found if x) + end)
    found = equation(bare)
    return Part(*found, words=end) if found else _half(text) or Part(words=text)


def equation(text: str) -> tuple[str, str] | None:
    """Return the sides of an equation in LaTeX, the left one empty for an expression; None if it is neither."""
    sides = [latex(x) for x in text.split(" = ")]
    if not text or None in sides or (len(sides) == 1 and re.fullmatch(r"[\w ]*", text)):
        return None
    *left, right = [x or "" for x in sides]
    return " = ".join(left), right


def _half(text: str) -> Part | None:
    """Translate an equation whose right side is said in words."""
    left, equals, words = text.partition(" = ")
    found = latex(left) if equals and not computed(words) else None
    return Part(left=found, words=words) if found else None


def computed(text: str) -> bool:
    """Tell whether a text computes something, so that it should not be left as words."""
    code = re.sub(r"`+.*?`+|\(\w+( = \S+)?(, \w+( = \S+)?)*\)", "", text)
    return bool(re.search(r" [-+*/@] |\*\*|\w\(|\| ", code))


def latex(text: str) -> str | None:
    """Return an expression in LaTeX, or None if it is none."""
    text = re.sub(r"\|([^|]+)\|", r"abs(\1)", text)
    text = re.sub(r"(\w)'", r"\1_prime", text).replace(" . ", f" {DOT} ")
    try:
        return _write(ast.parse(text.strip(), mode="eval").body)[0]
    except (SyntaxError, KeyError, TypeError):
        return None


def name(text: str) -> str:
    """Return a name: Greek letters and single letters as in mathematics, others as they are in the code."""
    stem, prime = text.removesuffix("_prime"), "'" if text.endswith("_prime") else ""
    head, _, index = stem.partition("_")
    letters = head.rstrip("0123456789")
    number = head[len(letters) :]
    if (letters not in GREEK and len(letters) > 1) or (number and index):
        return _upright(stem) + prime
    below = number or index
    subscript = f"_{{{below if below.isdigit() else _upright(below)}}}" if below else ""
    return GREEK.get(letters, letters) + subscript + prime


def _upright(text: str) -> str:
    return r"\text{" + text.replace("_", r"\_") + "}"


def _write(node: ast.expr) -> tuple[str, int]:
    """Return an expression in LaTeX, and how tightly it binds."""
    if isinstance(node, ast.Name):
        return name(node.id), ATOM
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return _number(str(node.value)), ATOM
    if isinstance(node, ast.BinOp):
        return _binary(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return "-" + _at_least(node.operand, UNARY), UNARY
    if isinstance(node, ast.Call):
        return _call(node), ATOM
    return _other(node)


def _other(node: Any) -> tuple[str, int]:
    """Write what few formulas have; raise KeyError or TypeError for what none has."""
    if isinstance(node, ast.Compare):
        signs = [COMPARED[type(x)] for x in node.ops]
        terms = [_at_least(x, SUM) for x in (node.left, *node.comparators)]
        return terms[0] + "".join(f" {sign} {x}" for sign, x in zip(signs, terms[1:], strict=True)), COMPARISON
    if isinstance(node, ast.IfExp):
        value, condition, other = (_write(x)[0] for x in (node.body, node.test, node.orelse))
        return rf"{value} \text{{ if }} {condition} \text{{, else }} {other}", CHOICE
    if isinstance(node, ast.Subscript):
        return f"{_at_least(node.value, ATOM)}_{{{_write(node.slice)[0]}}}", ATOM
    if isinstance(node, ast.Tuple):
        return _parenthesized(", ".join(_write(x)[0] for x in node.elts)), ATOM
    if isinstance(node, ast.Attribute) and node.attr == "T":
        return f"{_at_least(node.value, ATOM)}^{{\\top}}", POWER
    raise TypeError(type(node).__name__)


def _number(text: str) -> str:
    base, _, exponent = text.partition("e")
    power = f"10^{{{int(exponent)}}}" if exponent else ""
    return power if power and base == "1" else rf"{base} \cdot {power}" if power else text


def _binary(node: ast.BinOp) -> tuple[str, int]:
    left, right = node.left, node.right
    if isinstance(node.op, ast.Div):
        return rf"\frac{{{_write(left)[0]}}}{{{_write(right)[0]}}}", ATOM
    if isinstance(node.op, ast.FloorDiv):
        return rf"\left\lfloor \frac{{{_write(left)[0]}}}{{{_write(right)[0]}}} \right\rfloor", ATOM
    if isinstance(node.op, ast.Mod):
        return _parenthesized(f"{_write(left)[0]}, {_write(right)[0]}", r"\langle ", r"\rangle "), ATOM
    if isinstance(node.op, ast.Pow):
        return f"{_base(left)}^{{{_write(right)[0]}}}", POWER
    rank = SUM if isinstance(node.op, (ast.Add, ast.Sub)) else PRODUCT
    return f"{_first(node, rank)} {SIGNS[type(node.op)]} {_at_least(right, rank + 1)}", rank


def _first(node: ast.BinOp, rank: int) -> str:
    """Write the left operand of a sum or product, in the parentheses that the source gives it: the order makes bits."""
    text, own = _write(node.left)
    in_parentheses = node.left.col_offset > node.col_offset
    return _parenthesized(text) if own < rank or (own == rank and in_parentheses) else text


def _base(node: ast.expr) -> str:
    """Write what is raised to a power: a fraction in parentheses."""
    divided = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    return _parenthesized(_write(node)[0]) if divided else _at_least(node, ATOM)


def _at_least(node: ast.expr, rank: int) -> str:
    """Write an expression, in parentheses if it binds less tightly than what stands around it."""
    text, own = _write(node)
    return text if own >= rank else _parenthesized(text)


def _parenthesized(text: str, left: str = "(", right: str = ")") -> str:
    """Put an expression in parentheses, which grow around fractions."""
    return rf"\left{left} {text} \right{right}" if r"\frac" in text else f"{left}{text}{right}"


def _call(node: ast.Call) -> str:
    function = node.func.id if isinstance(node.func, ast.Name) else ""
    given = [_write(x)[0] for x in node.args]
    given += [rf"\text{{{x.arg}}} = {_write(x.value)[0]}" for x in node.keywords]
    inside = ", ".join(given)
    if not function:
        raise TypeError("only functions that have a name are called")
    if function == "sqrt":
        return rf"\sqrt{{{inside}}}"
    if function == "abs":
        return rf"\left| {inside} \right|"
    if function == "floor":
        return rf"\left\lfloor {inside} \right\rfloor"
    return name(function) + _parenthesized(inside)


def lost(text: str) -> list[str]:
    """Return the parts of a formula that compute something and are not translated."""
    told = "\n".join(paragraph for paragraph in text.split("\n\n") if not is_table(paragraph))
    found = [part for line in lines(told) if line for part in (line.main, *line.remarks)]
    return [part.words for part in found if computed(part.words)]


def count(text: str) -> int:
    """Return how many lines of a formula begin with mathematics."""
    return sum(1 for line in lines(text) if line and (line.main.left or line.main.right))


class Formula(SphinxDirective):
    """Shows a formula line by line: left side, right side, remarks."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the lines in a block of their own."""
        paragraphs = "\n".join(self.content).split("\n\n")
        shown = [x for paragraph in paragraphs for x in (_gap(), *_paragraph(paragraph))]
        return [nodes.container("", *shown[1:], classes=["formula"])]


def _gap() -> nodes.Node:
    return nodes.container("", classes=["gap"])


def _paragraph(text: str) -> list[nodes.Node]:
    """Return lines that belong together; columns of more than a formula and a remark are left as they are."""
    found = lines(text)
    if is_table(text):
        return [nodes.literal_block(text, text, language="none")]
    return [_shown(line) for line in found if line]


def is_table(text: str) -> bool:
    """Tell whether lines have columns, more than a formula and a remark."""
    return any(len(line.remarks) > 1 for line in lines(text) if line)


def _shown(line: Line) -> nodes.Node:
    main = line.main
    if line.indent or not main.left:
        cells = [nodes.inline("", "", *_inside(main), classes=["whole", *(["indented"] if line.indent else [])])]
    else:
        rest = Part(right=main.right, words=main.words)
        left = nodes.inline("", "", _math(main.left), classes=["left"])
        cells = [left, nodes.inline("", "", _math("="), nodes.Text(" "), *_inside(rest), classes=["right"])]
    remarks = [x for remark in line.remarks for x in (*_inside(remark), nodes.Text("   "))][:-1]
    return nodes.container("", *cells, nodes.inline("", "", *remarks, classes=["remark"]), classes=["equation"])


def _inside(found: Part) -> Iterator[nodes.Node]:
    """Yield words and mathematics: punctuation follows what it ends, a name comes before what it names."""
    equals = " = ".join(x for x in (found.left, found.right) if x)
    closing = bool(equals) and re.fullmatch(r"[,;.]*", found.words)
    if not closing:
        yield from _words(found.words + (" " if equals else ""))
    if equals:
        yield _math(equals)
    if closing and found.words:
        yield nodes.Text(found.words)


def _words(text: str) -> Iterator[nodes.Node]:
    """Yield words, names of the code set as code."""
    for piece in re.split(r"(`+.+?`+|\b\w+_\w+\b)", text):
        code = re.fullmatch(r"`+(.+?)`+|(\w+_\w+)", piece)
        if code:
            yield nodes.literal("", code[1] or code[2])
        elif piece:
            yield nodes.Text(piece)


def _math(text: str) -> nodes.Node:
    return nodes.math(text, text)


def setup(app: Any) -> dict[str, bool]:
    """Add the directive to Sphinx."""
    app.add_directive("formula", Formula)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
