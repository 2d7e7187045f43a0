"""Finds checks in the tests that cannot fail: `python tests/lint_tests.py [FILE …]`, a part of `make lint`.

Each rule gives a line and a sentence: what is wrong and what to do. Ruff has rules for more of them: B011, B015, B017,
F631, PLR0124, PLR0133, PLW0129, PT011, PT012, PT015, PT017. The commands that lie beside the tests are left out. A line
that a rule misjudges ends with `# can fail: ` and the reason.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
MARKER = "# can fail: "
COMMANDS = ("mutants.py", "mutate.py", "slips.py", "lint_tests.py")
Fault = tuple[int, str]

TOLERANCE = {
    "approx": ("abs", 1e-12),
    "allclose": ("atol", 1e-8),
    "isclose": ("atol", 1e-8),
    "assert_allclose": ("atol", 0),
}
"""Comparisons, the argument for their absolute tolerance, and its default."""
ASSERTING = {
    "raises",
    "warns",
    "fail",
    "assert_allclose",
    "assert_close",
    "assert_array_equal",
    "assert_equal",
    "_assert",
}
"""Calls that fail a test by themselves."""
PASSING_ON = {"enumerate", "sorted", "reversed", "list", "tuple", "set", "zip", "pairwise", "combinations", "product"}
PASSING_ON |= {"items", "values", "keys"}
"""Calls that give something if what they are given has something (enough of it, for two)."""
COUNTED = {"filled", "range", "linspace", "geomspace", "state_dict", "parameters"}
"""Calls that give something: `filled` holds it, a number of things is asked for, or every network has some."""
METHODS = {name for kind in (str, bytes, dict, set, Path) for name in dir(kind) if callable(getattr(kind, name))}


def called(node: ast.AST | None) -> str:
    """The last name of what a call calls; nothing for another node."""
    function = node.func if isinstance(node, ast.Call) else None
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


def number(node: ast.AST) -> float | None:
    """The value of an expression of numbers alone."""
    parts = (ast.Constant, ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop)
    value = eval(ast.unparse(node)) if all(isinstance(part, parts) for part in ast.walk(node)) else None
    return float(value) if isinstance(value, int | float) else None


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def asserts(node: ast.AST, helpers: set[str]) -> bool:
    return any(isinstance(part, ast.Assert) or called(part) in helpers for part in ast.walk(node))


def helpers_of(trees: list[ast.Module]) -> set[str]:
    """The names of all functions that can fail a test: they assert, or call one that does."""
    parts: dict[str, set[str]] = {}
    for one in (one for tree in trees for one in functions(tree)):
        names = {"raises" if isinstance(part, ast.Assert) else called(part) for part in ast.walk(one)}
        parts[one.name] = parts.get(one.name, set()) | names
    parts.pop("run", None)  # it is subprocess.run as well
    known = set(ASSERTING)
    while more := {name for name, names in parts.items() if name not in known and names & known}:
        known |= more
    return known


def below_the_tolerance(tree: ast.Module, helpers: set[str]) -> Iterator[Fault]:
    for node in ast.walk(tree):
        if (name := called(node)) not in TOLERANCE:
            continue
        keyword, default = TOLERANCE[name]
        given = {one.arg: one.value for one in node.keywords}
        tolerance = number(given[keyword]) if keyword in given else 10 * default
        for value in node.args[:2]:
            for part in value.elts if isinstance(value, ast.List | ast.Tuple) else [value]:
                if (expected := number(part)) and tolerance is not None and abs(expected) <= tolerance:
                    yield node.lineno, f"{name} takes 0 or nearly 0 for {expected:g}; give {keyword}= far below it"


def no_assertion(tree: ast.Module, helpers: set[str]) -> Iterator[Fault]:
    for one in functions(tree):
        if one.name.startswith("test_") and not asserts(one, helpers):
            yield one.lineno, f"{one.name} asserts nothing; assert what it is about"


def always_true(tree: ast.Module, helpers: set[str]) -> Iterator[Fault]:
    own = {one.name for one in functions(tree)}
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Assert)):
        for part in node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]:
            if getattr(part, "attr", None) in METHODS or getattr(part, "id", None) in own:
                yield node.lineno, f"{ast.unparse(part)} is a function, which is always true; call it"
            elif isinstance(part, ast.GeneratorExp | ast.Lambda | ast.JoinedStr | ast.Constant):
                yield node.lineno, f"{ast.unparse(part)} is always the same, whatever the code does; compare it"


def wide_raises(tree: ast.Module, helpers: set[str]) -> Iterator[Fault]:
    for one in (node for node in ast.walk(tree) if isinstance(node, ast.With)):
        for item in one.items:
            if called(item.context_expr) != "raises":
                continue
            kind = ast.unparse(item.context_expr.args[0])
            match = next((word.value for word in item.context_expr.keywords if word.arg == "match"), None)
            if kind in ("Exception", "BaseException"):
                yield one.lineno, f"any slip raises {kind}; name the error that is meant"
            if match is None and item.optional_vars is None and kind.endswith(("Error", "Exception")):
                yield one.lineno, f"any {kind} passes; give match= with words of the one that is meant"
            if isinstance(match, ast.Constant) and re.fullmatch(r"\w*", match.value):
                yield one.lineno, f"match={match.value!r} is in many messages; give words that only this one has"


def swallowed(tree: ast.Module, helpers: set[str]) -> Iterator[Fault]:
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Try)):
        if asserts(ast.Module(node.body, []), ASSERTING):
            for handler in node.handlers:
                kinds = ast.unparse(handler.type) if handler.type else "BaseException"
                if re.search(r"\b(Assertion|Base)?(Error|Exception)\b", kinds) and "raise" not in ast.unparse(handler):
                    yield handler.lineno, f"`except {kinds}` takes the failed assert of its try; name another error"


def has_some(node: ast.AST, known: dict[str, ast.expr], said: set[str]) -> bool:
    """Whether an iterable has something in it, as far as its text tells; `said`: what asserts are about."""
    if ast.unparse(node) in said or called(node) in COUNTED:
        return True
    if isinstance(node, ast.Name) and node.id in known:
        return has_some(known[node.id], {name: value for name, value in known.items() if name != node.id}, said)
    if isinstance(node, ast.Name | ast.Attribute):
        return getattr(node, "attr", getattr(node, "id", "")).isupper()
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        return all(has_some(one.iter, known, said) and not one.ifs for one in node.generators)
    if called(node) in PASSING_ON:
        strict = any(word.arg == "strict" and number(word.value) for word in node.keywords)
        return (any if strict else all)(has_some(one, known, said) for one in node.args or [node.func.value])
    if isinstance(node, ast.BinOp):
        return has_some(node.left, known, said) or has_some(node.right, known, said)
    return any(getattr(node, name, None) for name in ("elts", "keys", "value"))


def loops(one: ast.AST, helpers: set[str]) -> Iterator[tuple[ast.AST, ast.expr]]:
    """Each `for` that asserts, `assert all(…)` and `assert not any(…)`, and what it goes over."""
    for node in ast.walk(one):
        if isinstance(node, ast.For) and asserts(ast.Module(node.body, []), helpers):
            yield node, node.iter
        for part in ast.walk(node.test) if isinstance(node, ast.Assert) else []:
            denied = isinstance(part, ast.UnaryOp) and called(part.operand) == "any"
            call = part.operand if denied else part if called(part) == "all" else None
            if call and call.args and isinstance(call.args[0], ast.GeneratorExp):
                yield node, call.args[0].generators[0].iter


def empty_loop(tree: ast.Module, helpers: set[str]) -> Iterator[Fault]:
    top = [node for node in tree.body if isinstance(node, ast.Assign)]
    helping = helpers - {one.name for one in functions(tree) if not asserts(one, helpers)}
    for one in functions(tree):
        inner = [node for node in ast.walk(one) if isinstance(node, ast.Assign)]
        known = {
            target.id: node.value for node in top + inner for target in node.targets if isinstance(target, ast.Name)
        }
        for loop, iterable in loops(one, helping):
            if has_some(iterable, known, set()):
                continue
            inside = {id(part) for part in ast.walk(loop)}
            tests = [node.test for node in ast.walk(one) if isinstance(node, ast.Assert) and id(node) not in inside]
            said = {ast.unparse(part) for test in tests for part in ast.walk(test) if isinstance(part, ast.expr)}
            if not has_some(iterable, known, said):
                text = ast.unparse(iterable)
                yield loop.lineno, f"nothing is checked if {text} is empty; go over filled({text})"


RULES = (below_the_tolerance, no_assertion, always_true, wide_raises, swallowed, empty_loop)


def faults(paths: list[Path]) -> list[str]:
    """A sentence for every check in these files that cannot fail."""
    trees = {path: ast.parse(path.read_text()) for path in sorted({*TESTS.rglob("*.py"), *paths})}
    helpers = helpers_of([*trees.values()])
    return [
        f"{path}:{line}: {said}"
        for path in paths
        for lines in [path.read_text().splitlines()]
        for rule in RULES
        for line, said in sorted(set(rule(trees[path], helpers)))
        if MARKER not in lines[line - 1]
    ]


def checked() -> list[Path]:
    """The files of the tests."""
    return sorted({*TESTS.rglob("*.py")} - {TESTS / name for name in COMMANDS})


if __name__ == "__main__":
    found = faults([Path(name) for name in sys.argv[1:]] or checked())
    sys.exit("\n".join([*found, f"{len(found)} checks that cannot fail"]) if found else 0)
