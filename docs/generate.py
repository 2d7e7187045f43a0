"""Write the generated reference pages, docs/reference/*.md, from the code: `python docs/generate.py`."""

import argparse
import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import BaseMetadata

import cleanlabel
from cleanlabel import commands
from cleanlabel.__main__ import COMMANDS, usage
from cleanlabel.flows.certificate import reviews
from cleanlabel.flows.ensemble.ledger import LEDGER
from cleanlabel.flows.orchestration import events
from cleanlabel.flows.store import registry
from cleanlabel.flows.store.client import TAG
from cleanlabel.models.params import CertifyParams, CountThreshold, GateParams, SmoothParams, Threshold, TrainParams
from cleanlabel.redteam.drill.params import DrillParams
from cleanlabel.sanitize.errors import AWAY_STATUS
from cleanlabel.sanitize.params import MOST, DenoiserParams, IngestParams, SanitizeParams, Section

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
COMMAND = "python docs/generate.py"
NOTE = f"<!-- Written by `{COMMAND}`: change the code that it describes, not this page. -->"

VARIABLES = {
    "CLEANLABEL_ENGINE": "What runs an ensemble's batches: `processes` (the default) or `ray`.",
    "CLEANLABEL_GPUS": "The number of this machine's GPUs; default: those that the driver shows.",
    "CLEANLABEL_HOME": "The folder that holds `.state`, `.mlflow` and `.prefect`; default: the main checkout.",
    "CLEANLABEL_LOG": "A file to which every process appends its records, one JSON object a line.",
    "CLEANLABEL_RAY_ADDRESS": "The Ray cluster; default: one on this machine for as long as the flow runs.",
    "CLEANLABEL_ROOT": "The checkout in which deployed flows work; `make serve` and `make deploy` set it to theirs.",
    "CLEANLABEL_SCRATCH": "A folder on a disk with room, which holds the sanitized copies of draws instead of memory.",
    "CLEANLABEL_SIGNING_KEY": "The private ssh key that signs each certificate; default: certificates are not signed.",
    "CLEANLABEL_THREADS": "Threads that PyTorch uses in each process of an ensemble, the pilot and the estimate; "
    "default: 1.",
    "CLEANLABEL_WORKERS": "The number of processes that make batches at once; default: one per core.",
    "DVC_STAGE": "Set by DVC in a stage; it is recorded with the runs, and `flows.refresh` refuses to run inside one.",
    "MLFLOW_TRACKING_PASSWORD": "The password on the MLflow server.",
    "MLFLOW_TRACKING_URI": "The MLflow server; default: a SQLite file in `.mlflow/`.",
    "MLFLOW_TRACKING_USERNAME": "The account on the MLflow server.",
    "PREFECT_API_AUTH_STRING": "The account and password on the Prefect server, as `NAME:PASSWORD`.",
    "PREFECT_API_URL": "The Prefect server; default: one that runs for as long as the flow does.",
    "TMPDIR": "The folder for temporary files.",
}
"""Environment variables of this project, and those of others that its pages name."""

FILES = {
    "INCOMING": "Your own sets: `raw`, `test` and, to train a denoiser, `trusted`.",
    "SETS": "The trusted, the raw and the test set in one form; written by the stage `ingest`.",
    "DENOISER_TRAINING": "A training of the denoiser that has not ended; the next run goes on from it.",
    "DENOISER": "The denoiser and where it comes from; written by the stage `denoiser`.",
    "SANITIZED": "One sanitized copy of the raw set; written by the stage `sanitize`.",
    "CLASSIFIER": "The ordinary classifier on that copy, without a radius; written by the stage `train`.",
    "ENSEMBLE": "The ensemble's plan, its votes and their Merkle root; written by the stage `smooth`.",
    "POINTS": "Label, radius and votes of every test point; written by the stage `certify`.",
    "REPORTS": "Small reports, kept by git.",
    "CERTIFICATE": "The certificate, with all that an audit compares.",
    "CURVE": "Certified accuracy at each radius.",
    "CURVE_PICTURE": "The same as a picture.",
    "EXAMPLES": "Raw, noised and sanitized images.",
    "METRICS": "The key figures, for `dvc metrics`.",
    "GATE": "The gate's verdict, check by check.",
    "PAGE": "The review page: all of a version on one page.",
    "REVIEWS": "The history of what was decided about versions: one line each, only ever added to.",
    "TRAIN_METRICS": "Accuracy of the ordinary classifier.",
    "CHOOSER": "The forecast of `flows.choose`.",
    "PLAN_ARTIFACT": "In MLflow, at the ensemble's run: the plan.",
    "CERTIFICATE_ARTIFACT": "In MLflow, at the ensemble's run: the certificate.",
    "NETWORKS": "In MLflow, at the ensemble's run: the networks of the draws.",
}

TAGS = {
    "plan": "digest of the ensemble's plan",
    "sigma": "the noise σ",
    "m": "the number of models",
    "method": "how votes are bounded (`certify.method`)",
    "partitions": "the number of blocks, where there are several",
    "stopping": "the stopping rule (`smooth.stopping`)",
    "entropy_source": "`os` or `fixed`",
    "certifiable": "`false` where something voids the certificate",
    "votes_root": "the Merkle root over the votes of all draws",
    "level": "the level at which each statement holds",
    "attempt": "which attempt on this raw set it is, from 1 (versions whose plan still says `attempt`: from 0)",
    "missing_draws": "how many draws have no votes",
    "gate": "`passed` or `failed`",
    "gate_reasons": "why the gate failed it",
    "seal": "the root of the digests of everything that was registered; the certificate names the root of the whole",
    "review": "`approved` or `rejected`",
    "reviewed_by": "who decided",
    "review_reason": "why",
}
"""Tags of a registered version, without their prefix. Each stands as a literal in the code (tests/test_docs.py)."""

EVENTS = {
    events.GATE_FAILED: "A version did not pass the gate.",
    events.AWAITING_REVIEW: "A version passed and waits for a person.",
    events.CERTIFIED: "A version passed and is certified.",
    events.AUDIT_FAILED: "An audit found something that does not agree.",
}

Flags = argparse.ArgumentParser


def parsers() -> Iterator[tuple[str, Flags]]:
    """Every command that takes flags, with its parser."""
    own: dict[str, Callable[[str], Flags]] = {
        "sanitize": import_module("cleanlabel.sanitize.__main__").parser,
        "preview": import_module("cleanlabel.sanitize.preview").parser,
        "plan": commands.plan_parser,
        "certify-votes": commands.certify_parser,
        "verify": import_module("cleanlabel.flows.verify").parser,
    }
    for name in COMMANDS:
        yield f"cleanlabel {name}", own[name](f"cleanlabel {name}")
    for path in sorted((ROOT / "flows").glob("*.py")):
        module = import_module(f"cleanlabel.flows.{path.stem}") if is_command(path) else None
        given = getattr(module, "flags_of_drill", getattr(module, "parser", None))
        if given:
            yield f"python -m flows.{path.stem}", given()
    yield "python -m redteam", import_module("cleanlabel.redteam.__main__").parser()
    yield "python -m redteam.compare", import_module("cleanlabel.redteam.compare").flags()


def is_command(path: Path) -> bool:
    """Whether a module can be called by `python -m`."""
    return 'if __name__ == "__main__"' in path.read_text()


def plain_commands() -> Iterator[tuple[str, str]]:
    """Every command without flags, with the first paragraph of its docstring."""
    for room in ("sanitize", "flows"):
        for path in sorted((ROOT / room).glob("[a-z]*.py")):
            if is_command(path) and "argparse" not in path.read_text() and path.stem != "attack":
                doc = ast.get_docstring(ast.parse(path.read_text())) or ""
                yield f"python -m {room}.{path.stem}", " ".join(doc.split("\n\n")[0].split())


def cell(text: str) -> str:
    """A text as one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def flag_rows(flags: Flags) -> list[list[str]]:
    rows = []
    for action in flags._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        name = ", ".join(action.option_strings) or action.dest
        values = "|".join(map(str, action.choices)) if action.choices else str(action.metavar or action.dest.upper())
        shown = f"`{name}`" if action.nargs == 0 or not action.option_strings else f"`{name}` {cell(values)}"
        rows.append([shown, default_of(action), cell(help_of(action))])
    return rows


def help_of(action: argparse.Action) -> str:
    """A flag's help without its default, which has a column of its own."""
    said = re.sub(r"[(]?default:? %[(]default[)]s[)]?", "", action.help or "")
    return (re.sub(r"[(]default [^)]*[)]", "", said) if default_of(action) else said).strip()


def default_of(action: argparse.Action) -> str:
    if action.required:
        return "required"
    if action.dest == "device":
        return "`cuda`, without a GPU `cpu`"
    if action.nargs == 0 or action.default in (None, []):
        return ""
    value = action.default
    return f"`{' '.join(map(str, value)) if isinstance(value, list | tuple) else value}`"


def commands_page() -> str:
    parts = ["# Commands", NOTE, "Every command with its flags. `COMMAND --help` prints the same."]
    parts += ["## cleanlabel", f"```text\n{usage('cleanlabel')}\n```"]
    for name, flags in parsers():
        parts += [f"## {name}", cell(flags.description or "")]
        for action in flags._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub, its in action.choices.items():
                    parts += [f"### {name} {sub}", table(["flag", "default", "meaning"], flag_rows(its))]
        if rows := flag_rows(flags):
            parts.append(table(["flag", "default", "meaning"], rows))
        if flags.epilog:
            parts.append(cell(flags.epilog))
    parts += [
        "## Commands without flags",
        "`python -m cleanlabel.sanitize` and `python -m sanitize` are `cleanlabel sanitize`.",
        table(["command", "what it does"], [[f"`{name}`", cell(what)] for name, what in plain_commands()]),
        "## make",
        table(["target", "what it does"], [[f"`make {name}`", cell(what)] for name, what in targets()]),
    ]
    return "\n\n".join(parts)


def targets() -> list[tuple[str, str]]:
    return re.findall(r"(?m)^([a-z-]+):.*## (.+)$", (ROOT / "Makefile").read_text())


SECTIONS: dict[str, dict[str, type[Section]]] = {
    "params.yaml": {
        "ingest": IngestParams,
        "denoiser": DenoiserParams,
        "sanitize": SanitizeParams,
        "train": TrainParams,
        "smooth": SmoothParams,
        "certify": CertifyParams,
        "gate": GateParams,
    },
    "redteam/params.yaml": {"drill": DrillParams},
}
BESIDE: dict[str, type[Section]] = {"threshold": Threshold, "count threshold": CountThreshold}


def words_of(annotation: Any) -> str:
    """A field's type and bounds in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        bounds = [bound for extra in arguments[1:] for bound in bounds_of(extra)]
        return ", ".join([words_of(arguments[0]), *bounds])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(words_of(kind) for kind in arguments)
    if origin in (list, tuple):
        return f"list of ({words_of(arguments[0])})"
    if origin is dict:
        return "mapping of names to values"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return next(f"[{name}](#{name.replace(' ', '-')})" for name, kind in BESIDE.items() if kind is annotation)
    return {int: "whole number", float: "number", str: "text", bool: "true or false"}[annotation]


def bounds_of(extra: Any) -> Iterator[str]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for found in getattr(extra, "metadata", [extra] if isinstance(extra, BaseMetadata) else []):
        for name, sign in signs.items():
            value = getattr(found, name, None)
            if value is not None and value != MOST:
                yield f"{sign} {value:g}"
        if getattr(found, "multiple_of", None):
            yield f"a multiple of {found.multiple_of}"
        if getattr(found, "min_length", 0):
            yield f"at least {found.min_length} of them"
        if getattr(found, "max_length", None):
            yield f"at most {found.max_length} characters"


def said_of(model: type) -> dict[str, str]:
    """The docstring that follows each field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, after in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[field.target.id] = str(after.value.value)  # type: ignore[union-attr]
    return found


def section(name: str, model: type[Section]) -> list[str]:
    said, hints, rows = said_of(model), get_type_hints(model, include_extras=True), []
    for field, info in model.model_fields.items():
        default = "required" if info.is_required() else f"`{shown(info.get_default(call_default_factory=True))}`"
        rows.append([f"`{field}`", cell(words_of(hints[field])), default, cell(said.get(field, ""))])
    return [f"## {name}", cell(model.__doc__ or ""), table(["param", "type and bounds", "default", "meaning"], rows)]


def shown(value: Any) -> str:
    """A default as YAML has it."""
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def params_page() -> str:
    parts = [
        "# Params",
        NOTE,
        "Every section of `params.yaml` and `redteam/params.yaml`. An unknown name or a value out of bounds is "
        "refused. σ is at most 4 everywhere.",
    ]
    for file, sections in SECTIONS.items():
        for name, model in sections.items():
            title, about, rows = section(name, model)
            parts += [title, f"In `{file}`. {about}", rows]
    for name, model in BESIDE.items():
        parts += section(name, model)
    return "\n\n".join(parts)


def signature(definition: ast.FunctionDef, *, method: bool) -> str:
    given = ast.unparse(definition.args).removeprefix("self, " if method else "").removeprefix("self" if method else "")
    back = f" -> {ast.unparse(definition.returns)}" if definition.returns else ""
    return f"{definition.name}({given}){back}"


def api_page() -> str:
    parts = ["# Python API", NOTE, "The public names of `import cleanlabel`, in the order of use."]
    for name in cleanlabel.__all__:
        module = import_module(cleanlabel._WHERE[name])
        nodes = ast.parse(inspect.getsource(module)).body
        node = next((n for n in nodes if getattr(n, "name", None) == name), None)
        parts.append(f"## {name}")
        if isinstance(node, ast.FunctionDef):
            parts += [f"```py\n{signature(node, method=False)}\n```", ast.get_docstring(node) or ""]
        elif isinstance(node, ast.ClassDef):
            parts.append(ast.get_docstring(node) or "")
            for part in node.body:
                if isinstance(part, ast.FunctionDef) and (part.name == "__init__" or not part.name.startswith("_")):
                    decorated = any(getattr(d, "id", "") == "property" for d in part.decorator_list)
                    call = signature(part, method=True).replace("()", "" if decorated else "()")
                    call = call.replace("__init__", name).removesuffix(" -> None")
                    parts += [f"```py\n{call}\n```", ast.get_docstring(part) or ""]
        else:
            parts.append(f"`{name} = {getattr(cleanlabel, name)!r}`: the label where nothing is certified.")
    return "\n\n".join(part for part in parts if part)


def environment_page() -> str:
    rows = [[f"`{name}`", cell(what)] for name, what in sorted(VARIABLES.items())]
    about = "Settings of a machine are environment variables, so that they never change what DVC compares."
    return "\n\n".join(["# Environment variables", NOTE, about, table(["variable", "meaning"], rows)])


def files_page() -> str:
    rows = []
    for name in ("sanitize.paths", "flows.artifacts"):
        module = import_module(f"cleanlabel.{name}")
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.Assign):
                constant = node.targets[0].id  # type: ignore[attr-defined]
                value = getattr(module, constant)
                paths = value.values() if isinstance(value, dict) else [value]
                rows.append([", ".join(f"`{path}`" for path in paths), FILES[constant]])
    rows.append([f"`.state/{LEDGER}`", "The ledger of attempts, with the hashes of each raw set's images; back it up."])
    about = "Files that the pipeline writes, relative to the project's root; those under `ensemble/` are in MLflow."
    return "\n\n".join(["# Files", NOTE, about, table(["path", "what it holds"], rows)])


def registry_page() -> str:
    models = {
        registry.SMOOTHED: "the certified ensemble: one version for each ensemble",
        registry.SANITIZED: "the ordinary classifier on one sanitized copy: defended, without a radius",
    }
    aliases = {
        reviews.CANDIDATE: "passed the gate and waits for a person's approval",
        reviews.CERTIFIED: "passed the gate and was approved, or `gate.approval` is `automatic`",
    }
    statuses = {
        "0": "done",
        "1": "refused or failed, with one sentence; of `flows.audit` also: a check failed",
        "2": "the command line is wrong",
        str(AWAY_STATUS): "a service does not answer now; the same command may succeed later, and no work is lost",
    }
    parts = ["# Registry, events and exit statuses", NOTE]
    for title, rows, head in (
        ("Registered models", models, "model"),
        (f"Aliases of {registry.SMOOTHED}", aliases, "alias"),
        ("Tags of a version", {f"{TAG}{name}": what for name, what in TAGS.items()}, "tag"),
        ("Events", EVENTS, "event"),
        ("Exit statuses", statuses, "status"),
    ):
        parts += [f"## {title}", table([head, "meaning"], [[f"`{name}`", cell(what)] for name, what in rows.items()])]
        if head == "tag":
            parts.append(f"The key figures of the certificate are tags too: `{TAG}certified_accuracy_r0_50` and so on.")
    return "\n\n".join(parts)


PAGES = {
    "commands.md": commands_page,
    "params.md": params_page,
    "python-api.md": api_page,
    "environment.md": environment_page,
    "files.md": files_page,
    "registry.md": registry_page,
}


def text_of(page: str) -> str:
    """The page as it should stand in docs/reference/."""
    return f"{PAGES[page]()}\n"


if __name__ == "__main__":
    REFERENCE.mkdir(exist_ok=True)
    for page in PAGES:
        (REFERENCE / page).write_text(text_of(page))
        sys.stdout.write(f"docs/reference/{page}\n")
