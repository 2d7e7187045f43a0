"""Flow `refresh`, run by the schedule: update the data, remake what depends on changes, push and commit the results.

    python -m flows.refresh

A raw set with another digest leads to a new ensemble with new entropy; an unchanged one leads to no work. After a kill
at any point, the next run continues where this one stopped. It works in this checkout, so give it one of its own.
"""

import argparse
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any, Literal

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from cleanlabel.flows.artifacts import CERTIFICATE, GATE
from cleanlabel.flows.certificate.wording import title
from cleanlabel.flows.orchestration.commands import run, say_it_here
from cleanlabel.flows.orchestration.log import logger
from cleanlabel.flows.orchestration.retries import patient_task
from cleanlabel.flows.orchestration.server import prefect_server
from cleanlabel.flows.report.tables import table
from cleanlabel.flows.store.client import connect
from cleanlabel.flows.store.errors import translate_store_errors
from cleanlabel.flows.store.registry import SMOOTHED, aliases_of, version_of_plan
from cleanlabel.sanitize import errors
from cleanlabel.sanitize.errors import InputError

LOCK = Path("dvc.lock")
BROUGHT = (Path("data/incoming"), Path("data/pretrained"))
"""The folder for data from outside; git has its `.dvc` files."""
Commit = Literal["no", "commit", "push"]

DVC = ("dvc",)


@task(name="pull data", cache_policy=NO_CACHE, persist_result=False)
def pull_data() -> None:
    """Get newer commits of the upstream branch, newer tracked data and newer DVC imports."""
    if _git("rev-parse", "--abbrev-ref", "@{upstream}"):
        run("git", "pull", "--ff-only", "--quiet")
    tracked = sorted(path for directory in BROUGHT for path in directory.glob("*.dvc"))
    imports = [str(path) for path in tracked if "\ndeps:" in f"\n{path.read_text()}"]
    added = [str(path) for path in tracked if str(path) not in imports]
    if imports:
        run(*DVC, "update", *imports)
    if added:
        run(*DVC, "pull", *added)


@patient_task(name="reproduce")
def reproduce() -> bool:
    """Run `dvc repro --pull`. Returns whether anything changed. Retried while a service is away; draws are kept."""
    before = _digest(LOCK)
    run(*DVC, "repro", "--pull")
    return _digest(LOCK) != before


@task(name="push", cache_policy=NO_CACHE, persist_result=False)
def push_outputs() -> None:
    """Run `dvc push` to the default remote, if there is one."""
    if any(line.startswith("core.remote=") for line in _lines(*DVC, "config", "--list")):
        run(*DVC, "push")


@task(name="commit", cache_policy=NO_CACHE, persist_result=False)
def commit_outputs(how: Commit, sentence: str) -> None:
    """Commit the outputs that git tracks: the lock file, the reports, changes by `dvc update`. Push them if requested.

    The audit trusts a certificate in git more than one that only the store has.
    """
    paths = [str(LOCK), "reports", *(str(p) for directory in BROUGHT for p in directory.glob("*.dvc"))]
    run("git", "add", "--", *(path for path in paths if Path(path).exists()))
    if _git("diff", "--cached", "--name-only", "--", *paths):
        nobody = () if _git("config", "user.email") else ("-c", "user.name=cleanlabel", "-c", "user.email=cleanlabel@")
        run("git", *nobody, "commit", "--quiet", "--message", sentence, "--", *paths)
    if how == "push":
        run("git", "push", "--quiet")


@task(name="publish summary", cache_policy=NO_CACHE, persist_result=False)
def publish_summary(*, changed: bool) -> dict[str, Any]:
    """Publish the current state as the Markdown artifact `refresh` on Prefect's page. Returns its key figures."""
    certificate, gate = json.loads(CERTIFICATE.read_text()), json.loads(GATE.read_text())
    with translate_store_errors():
        store = connect()
        number = int(version_of_plan(store, SMOOTHED, certificate["plan_digest"]).version)
        held = sorted(alias for alias, version in aliases_of(store, SMOOTHED).items() if version == number)
    verdict = "passed" if gate["passed"] else "not passed"
    alias = ", ".join(held) or "none"
    news = f"Version {number} is new." if changed else f"Nothing changed; version {number} is still current."
    words = [
        f"# {news}",
        title(certificate),
        table(certificate, None),
        f"Gate: **{verdict}**. Alias: {alias}.",
        *(f"- {'✓' if check['passed'] else '✗'} {check['name']}: {check['found']}" for check in gate["checks"]),
    ]
    create_markdown_artifact("\n\n".join(words), key="refresh", description=f"{SMOOTHED} version {number}")
    sentence = f"{news} Gate {verdict}, alias {alias}."
    logger().info(sentence)
    return {"changed": changed, "version": number, "gate": verdict, "aliases": held, "sentence": sentence}


@flow(name="refresh", persist_result=False)
def refresh(*, pull: bool = True, push: bool = True, commit: Commit = "commit") -> dict[str, Any]:
    """Update the data, run dvc repro --pull for what changed, push, commit and summarise.

    Args:
        pull: Whether to update commits and data first: git pull, dvc update, dvc pull.
        push: Whether to push the outputs to the default DVC remote, if there is one.
        commit: What to do with dvc.lock and reports/: "no" (nothing), "commit" here, or commit and git "push".
    """
    if "DVC_STAGE" in os.environ:
        raise InputError("flows.refresh runs `dvc repro` and cannot be a stage of it; run it by itself")
    if pull:
        pull_data()
    changed = reproduce()
    if push:
        push_outputs()
    summary = publish_summary(changed=changed)
    if commit != "no":
        commit_outputs(commit, f"{SMOOTHED} version {summary['version']}, gate {summary['gate']}")
    return summary


def _git(*command: str) -> str:
    """The output of a git command, empty if it fails."""
    return subprocess.run(["git", *command], capture_output=True, text=True, check=False).stdout.strip()


def _lines(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    flags = argparse.ArgumentParser(prog="python -m flows.refresh", description=__doc__.splitlines()[0])
    flags.add_argument("--no-pull", action="store_true", help="do not pull commits or data")
    flags.add_argument("--no-push", action="store_true", help="do not push to the DVC remote")
    flags.add_argument(
        "--commit",
        choices=["no", "commit", "push"],
        default="commit",
        help="what to do with dvc.lock and reports/ (default: %(default)s)",
    )
    return flags


def main() -> None:
    args = parser().parse_args()
    say_it_here()
    with prefect_server():
        state = refresh(pull=not args.no_pull, push=not args.no_push, commit=args.commit, return_state=True)
    if not state.is_completed():
        state.result()  # raises the error that stopped the flow
    print(state.result()["sentence"])


if __name__ == "__main__":
    errors.run(main)
