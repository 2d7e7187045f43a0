"""Rule 16, held over the source: no module rounds a claim to nearest.

In the modules that state certificates everything that rounds must be listed here with a reason. Elsewhere nothing that
rounds may name a claim (a radius, a certified share, …). What passes through `cleanlabel.models.rounding` is free.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from imports import ROOT

PLACES = ("models", "flows", "redteam", "cleanlabel", "benchmarks")
CLAIMS = re.compile(
    r"radi(us|i)|\breach\b|median_r|certified|covered|tolerated|largest|\bheld\b|rewr|relabel|insert|abst"
)
FREE = {"down", "up"}
"""What rounds in the right direction: a format of its result shows all of its digits."""
ROUNDS = {"round", "around", "round_", "rint", "fix", "format_float_positional", "quantize", "set_precision"}
SPEC = re.compile(r"[eEfFgGn%]$")
PATTERN = re.compile(r"%[-+ 0]*\d*\.?\d*[efgEFG]|\{[^{}]*:[^{}]*[efgEFG%]\}")
STATING = (
    *("cleanlabel/certifying.py", "cleanlabel/commands.py", "cleanlabel/served.py", "models/smoothed.py"),
    *("models/answers.py", "models/influenced.py", "models/influence.py", "models/partition.py"),
    *("models/certificate.py", "flows/certificate/", "flows/report/", "flows/ensemble/reach.py"),
    *("flows/ensemble/forecast.py", "flows/ensemble/opening.py", "flows/choose.py", "flows/choose_influence.py"),
    *("flows/certify.py", "flows/summary.py", "flows/review.py", "flows/store/drills.py"),
    *("redteam/drill/report.py", "redteam/drill/covered_report.py", "redteam/comparison/report.py"),
)
"""Modules and folders that state certificates."""
PARAM = "a number that a person set, with six digits; no claim grows with it unseen"
MEASURED = "measured, not proved"
DRAWN = "a place or a colour in a drawing"
ALLOWED = {
    "sigma": PARAM,
    "test_sigma": PARAM,
    "ridge": PARAM,
    "clip": PARAM,
    "threshold": PARAM,
    "alpha": PARAM,
    "epsilon": PARAM,
    "epsilon_255": PARAM,
    "s": PARAM,  # a sigma
    "accuracy": MEASURED,
    "vote": MEASURED,
    "success": MEASURED,
    "control": MEASURED,
    "low": MEASURED,
    "high": MEASURED,
    "loss": MEASURED,
    "cell": MEASURED,
    "gap": MEASURED,
    "joint_l2": MEASURED,
    "joint_l2_least": MEASURED,
    "agreement": MEASURED,
    "TOLERANCE": MEASURED,
    "removed": MEASURED,
    "poisons_removed": MEASURED,
    "ratio": MEASURED,
    "peak_megabytes": MEASURED,
    "seconds": MEASURED,
    "seconds_a_model": MEASURED,
    "sanitize_seconds": MEASURED,
    "train_seconds": MEASURED,
    "idle": MEASURED,
    "disk": MEASURED,
    "hours": MEASURED,
}
"""Names that may be rounded in a module that states certificates, if nothing beside them is a claim."""
PLACED = {
    ("flows/report/drawing.py", "*"): DRAWN,
    ("flows/certificate/partitions.py", "a"): "rows of a table that are spread evenly: whole numbers of images",
    ("flows/certificate/partitions.py", "i * step"): "the steps of a table, which is computed at the rounded step",
    ("redteam/drill/report.py", "value"): "the figures that are not among CLAIMED",
    ("redteam/comparison/report.py", "value"): "facts that a defence reports of itself",
    ("redteam/drill/covered_report.py", "100 * share"): "attack success; what is covered is rounded down",
    ("flows/store/drills.py", "value"): "the figures that are not among CLAIMED",
}
"""Single expressions in such modules, or all of a module (*)."""


def rounded(tree: ast.AST) -> Iterator[tuple[int, ast.expr]]:
    """The line and expression of everything in a module that is rounded or formatted with fewer digits than it has."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FormattedValue) and isinstance(node.format_spec, ast.JoinedStr):
            last = node.format_spec.values[-1:]
            if last and (not isinstance(last[0], ast.Constant) or SPEC.search(str(last[0].value))):
                yield node.lineno, node.value
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            template = node.func.value if isinstance(node.func, ast.Attribute) else None
            if name == "format" and isinstance(template, ast.Constant) and PATTERN.search(str(template.value)):
                yield from ((node.lineno, value) for value in values)
            elif (name == "format" and template is None) or name in ROUNDS:
                yield from ((node.lineno, value) for value in [*filter(None, [template]), *values[:1]])
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
            yield from [(node.lineno, node.right)] if PATTERN.search(str(node.left.value)) else []


def names_in(node: ast.AST) -> set[str]:
    """Every name, attribute and key in an expression that is not already rounded by the one function."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") in FREE:
        return set()
    own = {str(value) for field in ("id", "attr", "value") if isinstance(value := getattr(node, field, None), str)}
    return own.union(*map(names_in, ast.iter_child_nodes(node)))


def all_free(node: ast.expr) -> bool:
    """Whether an expression is the one function's result, or a difference of two."""
    if isinstance(node, ast.BinOp):
        return all_free(node.left) and all_free(node.right)
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") in FREE


def faults(where: str, source: str) -> list[str]:
    """What a module rounds to nearest and may not."""
    found, stating = [], where.startswith(STATING)
    for line, value in rounded(ast.parse(source)):
        said = ast.unparse(value)
        if all_free(value) or (where, said) in PLACED or ((where, "*") in PLACED and not CLAIMS.search(said)):
            continue
        names = names_in(value)
        if isinstance(value, ast.Constant | ast.Name) and names <= {"np", "math"}:
            continue
        claims = [name for name in names if CLAIMS.search(name)]
        listed = {name for name in names if name in ALLOWED}
        if claims or (stating and not listed):
            found.append(f"{where}:{line}: {said} is rounded to nearest; write it by cleanlabel.models.rounding")
    return found


def modules() -> list[Path]:
    found = [path for place in PLACES for path in (ROOT / place).rglob("*.py") if not path.parent.is_symlink()]
    return [p for p in found if p.resolve() == p and p != ROOT / "models" / "rounding.py"]


def test_no_module_rounds_a_claim_to_nearest():
    found = [fault for path in modules() for fault in faults(str(path.relative_to(ROOT)), path.read_text())]
    assert not found, "\n".join(found)


def test_nothing_is_allowed_that_does_not_occur():
    seen, places = set(), set()
    for path in modules():
        where = str(path.relative_to(ROOT))
        for _, value in rounded(ast.parse(path.read_text())):
            seen |= names_in(value)
            places |= {(where, ast.unparse(value)), (where, "*")}
    assert ALLOWED.keys() <= seen
    assert PLACED.keys() <= places


@pytest.mark.parametrize(
    "line",
    [
        'f"{radius:.3f}"',
        "f\"{row['median_radius']:.{digits}f}\"",
        "round(float(largest), 6)",
        "radius.round(6)",
        "np.round(found.radius, 6)",
        "f\"{c['at_radii'][0]['certified_accuracy']:.1%}\"",
        '"R = {:g}".format(radii[0])',
        '"%.3f" % reach',
        'format(certified_share, ".3f")',
        "f\"{row['radius']:g}\"",
    ],
)
def test_a_slip_is_found_in_any_module(line):
    assert len(faults("flows/new.py", line)) == 1


def test_in_a_module_that_states_certificates_every_name_must_be_listed():
    assert faults("flows/report/new.py", 'f"{x:.3f}"')
    assert not faults("flows/new.py", 'f"{x:.3f}"')
    assert not faults(
        "flows/report/new.py", "f\"{row['sigma']:g} {down(radius, 3):.3f} {down(a, 3) - down(b, 3):+.3f}\""
    )


@pytest.mark.parametrize("name", ["page.html", "page.js"])
def test_the_pages_template_formats_by_the_filters_alone(name):
    text = (ROOT / "flows" / "report" / "web" / name).read_text()
    found = re.findall(r"[^{}]*(?:%[\d.]*[fge]\W|:[\d.]*[fge]\}|\| *round|toFixed|toPrecision|Math\.round)[^{}]*", text)
    assert bool(found) == (name == "page.html")
    assert [one for one in found if not re.search(r"\* 10\) \| round \| int|c\.sigma", one)] == []
