"""What one mutant of a module is: cosmic-ray's operators, and a few of ours, one place at a time.

cosmic-ray rather than mutmut, because it rewrites the source text: what stands in class bodies, in constants and below
decorators is mutated too, and its operators can be used one by one, on a text, from a test process that is warm.
"""

import ast
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import accumulate

import parso
from cosmic_ray import plugins
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.operators.operator import Example, Operator

Positions = Iterator[tuple[tuple[int, int], tuple[int, int]]]

COMPARISONS = (
    *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt"),
    *("Lt_GtE", "GtE_Lt", "Gt_LtE", "LtE_Gt"),
)
ARITHMETIC = (
    *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Div", "Mod_Sub", "Pow_Mul", "BitOr_BitAnd", "BitAnd_BitOr"),
    *("LShift_RShift", "RShift_LShift"),
)
UNARY = ("Delete_Not", "USub_UAdd")
OTHERS = (
    *(
        "NumberReplacer",
        "ReplaceTrueWithFalse",
        "ReplaceFalseWithTrue",
        "ReplaceAndWithOr",
        "ReplaceOrWithAnd",
        "AddNot",
    ),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ZeroIterationForLoop"),
)
ONCE = ("NumberReplacer",)
"""Operators with two slips a place, of which the first is enough: a number that is larger by 1."""
TWINS = {"min": "max", "any": "all", "floor": "ceil", "minimum": "maximum", "argmin": "argmax", "sf": "cdf"}
"""Functions that are easily taken for each other."""


COMMUTATIVE = ("min", "max", "minimum", "maximum")
"""Functions whose arguments may be exchanged."""


def text(node: parso.tree.NodeOrLeaf, content: str) -> parso.tree.NodeOrLeaf:
    """What stands in a node's place, after the blanks that stood before it."""
    return parso.parse(node.get_first_leaf().prefix + content)


class _Replacing(Operator):
    """An operator with at most one slip a node."""

    example: tuple[str, str]

    def mutation_positions(self, node: parso.tree.NodeOrLeaf) -> Positions:
        if self.replaced(node) is not None:
            yield node.start_pos, node.end_pos

    def mutate(self, node: parso.tree.NodeOrLeaf, index: int) -> parso.tree.NodeOrLeaf:
        return text(node, self.replaced(node))

    def replaced(self, node: parso.tree.NodeOrLeaf) -> str | None:
        """The text in its place; None where this operator has nothing to do."""
        raise NotImplementedError

    @classmethod
    def examples(cls) -> Iterable[Example]:
        return (Example(*cls.example),)


class StatementLeftOut(_Replacing):
    """A refusal that is not raised, a call whose result nobody takes that is not made."""

    example = ("check(x)\n", "pass\n")

    def replaced(self, node: parso.tree.NodeOrLeaf) -> str | None:
        if node.type == "raise_stmt":
            return "pass"
        called = node.type == "atom_expr" and getattr(node.children[-1], "children", [None])[0] == "("
        return "pass" if called and node.parent.type == "simple_stmt" else None


class FilterLeftOut(_Replacing):
    """A comprehension without its condition."""

    example = ("[x for x in y if x]", "[x for x in y ]")

    def replaced(self, node: parso.tree.NodeOrLeaf) -> str | None:
        return "" if node.type == "comp_if" else None


class Twin(_Replacing):
    """A function taken for its twin."""

    example = ("min(x)", "max(x)")
    _twins = TWINS | {second: first for first, second in TWINS.items()}

    def replaced(self, node: parso.tree.NodeOrLeaf) -> str | None:
        return self._twins.get(node.value) if node.type == "name" else None


class Membership(_Replacing):
    """`in` for `not in`, and the other way round."""

    example = ("x in y", "x not in y")

    def replaced(self, node: parso.tree.NodeOrLeaf) -> str | None:
        if getattr(node.parent, "type", None) != "comparison":
            return None
        if node.type == "keyword" and node.value == "in":
            return "not in"
        return "in" if node.type == "comp_op" and node.children[0] == "not" else None


class HandlerLeftOut(_Replacing):
    """An exception that is not caught. (cosmic-ray's own operator fails on a dotted name.)"""

    example = ("try: x\nexcept a.B as e: y\n", "try: x\nexcept () as e: y\n")

    def replaced(self, node: parso.tree.NodeOrLeaf) -> str | None:
        clause = node.parent
        return "()" if getattr(clause, "type", "") == "except_clause" and node is clause.children[1] else None

    def mutate(self, node: parso.tree.NodeOrLeaf, index: int) -> parso.tree.NodeOrLeaf:
        return text(node, "()")


class _OfList(Operator):
    """An operator on the elements of an argument list or of a dict."""

    example: tuple[str, str]

    def mutation_positions(self, node: parso.tree.NodeOrLeaf) -> Positions:
        yield from [(node.children[at].start_pos, node.children[at].end_pos) for at in self.places(node)]

    def places(self, node: parso.tree.NodeOrLeaf) -> list[int]:
        """Of which children a slip can be made."""
        raise NotImplementedError

    @classmethod
    def examples(cls) -> Iterable[Example]:
        return (Example(*cls.example),)


def _is_keyword(node: parso.tree.NodeOrLeaf) -> bool:
    return node.type == "argument" and node.children[1] == "="


def _called(arguments: parso.tree.NodeOrLeaf) -> str:
    """The last name of what is called with these arguments."""
    return getattr(arguments.parent.get_previous_leaf(), "value", "")


class ArgumentLeftOut(_OfList):
    """A call without one of its keyword arguments: its default holds."""

    example = ("f(x, y=1)", "f(x)")

    def places(self, node: parso.tree.NodeOrLeaf) -> list[int]:
        inside = node.type == "arglist" or (node.type == "trailer" and node.children[0] == "(")
        named = [at for at, child in enumerate(node.children) if _is_keyword(child)] if inside else []
        return [at for at in named if node.children[at].children[0].value != "strict"]

    def mutate(self, node: parso.tree.NodeOrLeaf, index: int) -> parso.tree.NodeOrLeaf:
        at = self.places(node)[index]
        alone = node.type == "trailer"
        first, last = (at, at + 1) if alone else (at - 1, at + 1) if at else (0, 2)
        del node.children[first:last]
        return node


class ArgumentsSwapped(_OfList):
    """A call with two neighbouring arguments exchanged."""

    example = ("f(x, y)", "f( y,x)")

    def places(self, node: parso.tree.NodeOrLeaf) -> list[int]:
        if node.type != "arglist" or _called(node) in COMMUTATIVE:
            return []
        children = node.children
        plain = [at for at, child in enumerate(children) if child.type == "name" or child.type == "atom_expr"]
        words = [child.get_code().strip() for child in children]
        return [at for at in plain if at + 2 in plain and words[at] != words[at + 2]]

    def mutate(self, node: parso.tree.NodeOrLeaf, index: int) -> parso.tree.NodeOrLeaf:
        at = self.places(node)[index]
        node.children[at], node.children[at + 2] = node.children[at + 2], node.children[at]
        return node


class EntryLeftOut(_OfList):
    """A dict without one of its entries."""

    example = ("{1: 2, 3: 4}", "{ 3: 4}")

    def places(self, node: parso.tree.NodeOrLeaf) -> list[int]:
        if node.type != "dictorsetmaker" or ":" not in node.children:
            return []
        return [at - 1 for at, child in enumerate(node.children) if child == ":"]

    def mutate(self, node: parso.tree.NodeOrLeaf, index: int) -> parso.tree.NodeOrLeaf:
        at = self.places(node)[index]
        del node.children[at : at + 4]
        return node


OWN = (
    StatementLeftOut,
    FilterLeftOut,
    HandlerLeftOut,
    Twin,
    Membership,
    ArgumentLeftOut,
    ArgumentsSwapped,
    EntryLeftOut,
)


def operators() -> dict[str, Operator]:
    """Every operator, by name."""
    names = [
        *(f"ReplaceComparisonOperator_{one}" for one in COMPARISONS),
        *(f"ReplaceBinaryOperator_{one}" for one in ARITHMETIC),
        *(f"ReplaceUnaryOperator_{one}" for one in UNARY),
        *OTHERS,
    ]
    return {name: plugins.get_operator(f"core/{name}")() for name in names} | {one.__name__: one() for one in OWN}


@dataclass(frozen=True)
class Mutant:
    """One slip in a module: `text` is the whole module with it.

    function: the outermost function that it is in, "" for the module's own lines; inside: whether it stands in that
    function's body, not in its head. first, last: the lines of the statement. was, becomes: the changed lines, without
    the blanks around them. nth: 1 for the second slip of a function that reads the same, and so on.
    """

    path: str
    operator: str
    function: str
    inside: bool
    first: int
    last: int
    was: str
    becomes: str
    nth: int
    text: str = field(repr=False)

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What names it in the record, where line numbers would not last."""
        return self.function, self.was, self.becomes, self.nth


def mutants(path: str, source: str) -> list[Mutant]:
    """All slips of a module that leave code that compiles, in the order of their lines.

    Left out is what cannot change an answer: annotations, decorators, the words of a refusal, and `strict` of a zip,
    which only notices slips of ours.
    """
    tree = ast.parse(source)
    lines = source.split("\n")
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    passed = _ranges(tree, lines)
    places = _Places(tree)
    chosen = operators()
    found: dict[str, Mutant] = {}
    for node in ast_nodes(get_ast(source)):
        if getattr(node.parent, "type", "") in ("parameters", "param"):
            continue
        for name, operator in chosen.items():
            for index, (start, end) in enumerate(operator.mutation_positions(node)):
                if any(first <= start and end <= last for first, last in passed) or (name in ONCE and index):
                    continue
                first, last = (
                    starts[line - 1] + column for line, column in (node.get_start_pos_of_prefix(), node.end_pos)
                )
                text = source[:first] + _mutated(node, operator, index) + source[last:]
                if _compiles(text):
                    was, becomes = _changed(lines, text.split("\n"))
                    found.setdefault(text, Mutant(path, name, *places.of(start[0]), was, becomes, 0, text))
    alike: Counter[tuple[str, str, str]] = Counter()
    numbered = []
    for one in sorted(found.values(), key=lambda one: one.first):
        name = one.function, one.was, one.becomes
        numbered.append(replace(one, nth=alike[name]))
        alike[name] += 1
    return numbered


def _mutated(node: parso.tree.NodeOrLeaf, operator: Operator, index: int) -> str:
    """The node's text after the operator's slip. The tree stays as it is: the slip is made in a copy of the node."""
    copied = deepcopy(node, {id(node.parent): node.parent})
    changed = operator.mutate(copied, index)
    return changed.get_code() if changed else ""


def _compiles(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        try:
            compile(text, "mutant", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            return False
    return True


def _changed(before: list[str], after: list[str]) -> tuple[str, str]:
    """The lines in which two texts differ."""
    first = next((at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
    pairs = zip(reversed(before[first:]), reversed(after[first:]), strict=False)
    same = next((at for at, (a, b) in enumerate(pairs) if a != b), 0)
    was, becomes = (text[first : max(first + 1, len(text) - same)] for text in (before, after))
    return " ".join(" ".join(was).split()), " ".join(" ".join(becomes).split())


def _ranges(tree: ast.Module, lines: list[str]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """From where to where (line, column) stands what is passed over."""
    passed: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = (
                *node.args.args,
                *node.args.kwonlyargs,
                *node.args.posonlyargs,
                node.args.vararg,
                node.args.kwarg,
            )
            passed += [one.annotation for one in arguments if one and one.annotation]
            passed += [node.returns] if node.returns else []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            passed += node.decorator_list
        if isinstance(node, ast.AnnAssign):
            passed.append(node.annotation)
        if isinstance(node, ast.keyword) and node.arg == "strict":
            passed.append(node)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            passed.append(node)
        if isinstance(node, ast.Raise):
            passed += [one for one in ast.walk(node) if isinstance(one, ast.JoinedStr)]

    def at(line: int, column: int) -> tuple[int, int]:
        return line, len(lines[line - 1].encode()[:column].decode())

    return [(at(n.lineno, n.col_offset), at(n.end_lineno, n.end_col_offset)) for n in passed]


class _Places:
    """In which function and statement a line stands."""

    def __init__(self, tree: ast.Module) -> None:
        self._functions: list[tuple[str, int, int, int]] = []
        self._collect(tree, "")
        statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt | ast.ExceptHandler)]
        self._statements = [(node.lineno, _end(node)) for node in statements]

    def _collect(self, node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min(child.lineno, *(one.lineno for one in child.decorator_list), child.lineno)
                name = f"{prefix}{child.name}"
                self._functions.append((name, first, child.body[0].lineno, child.end_lineno))
            elif isinstance(child, ast.ClassDef):
                self._collect(child, f"{prefix}{child.name}.")
            else:
                self._collect(child, prefix)

    def of(self, line: int) -> tuple[str, bool, int, int]:
        """The function's name, whether the line is in its body, and the statement's first and last line."""
        around = [(last - first, first, last) for first, last in self._statements if first <= line <= last]
        _, first, last = min(around, default=(0, line, line))
        for name, head, body, end in self._functions:
            if head <= line <= end:
                return name, line >= body, first, last
        return "", False, first, last


def _end(node: ast.stmt | ast.ExceptHandler) -> int:
    """The last line of a statement, of its head where it has a body."""
    body = getattr(node, "body", None)
    return max(node.lineno, body[0].lineno - 1) if body else node.end_lineno
