"""Verify a model against a certificate that came another way, before any of the model's code runs.

    cleanlabel verify MODEL_URI [--certificate FILE_OR_REV:PATH] [--signers FILE]

It downloads the model's files, compares them with the seal whose root the certificate names, and only then loads the
model, in a process of its own, and has it answer its input example. It prints one line per check; the exit status is 1
if any check fails.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from cleanlabel.flows.artifacts import CERTIFICATE as OURS
from cleanlabel.flows.certificate.check import Check, committed
from cleanlabel.flows.store.errors import absent, translate_store_errors, without_password
from cleanlabel.loading import (
    CERTIFICATE,
    DATA,
    ELSEWHERE,
    SEAL,
    SIGNATURE,
    differences,
    digests_of,
    files_of,
    read_seal,
    root_of,
)
from cleanlabel.sanitize.errors import InputError
from cleanlabel.signing import signer_of

ANSWER = """
import json, sys
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(sys.argv[1])
answer = model.predict(model.input_example)
print(json.dumps([str(answer["class"][0]), float(answer["radius"][0])]))
"""
"""Run in a process of its own, which has imported nothing of this package."""


def parser(prog: str = "cleanlabel verify") -> argparse.ArgumentParser:
    """The command's flags; prog: how it was called."""
    flags = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").splitlines()[0])
    flags.add_argument("uri", metavar="MODEL_URI", help="the model, as MLflow names it, or a directory")
    flags.add_argument(
        "--certificate",
        default=str(OURS),
        metavar="FILE_OR_REV:PATH",
        help="the version's certificate, got another way than from the store: a file, or a path in a commit of git "
        "(default: %(default)s)",
    )
    flags.add_argument("--signers", type=Path, metavar="FILE", help="whose ssh signature of the certificate to demand")
    return flags


def main(words: Sequence[str] | None = None, prog: str = "cleanlabel verify") -> None:
    """The command. words: its arguments, by default the process's own; prog: how it was called."""
    args = parser(prog).parse_args(words)
    certificate = read_certificate(args.certificate)
    passed = True
    with tempfile.TemporaryDirectory(prefix="cleanlabel-verify-") as scratch:
        directory = download(args.uri, Path(scratch) / "downloaded")
        for check in verify(directory, certificate, args.signers, Path(scratch) / "model"):
            passed &= check.passed
            print(f"{'ok  ' if check.passed else 'FAIL'}  {check.name}: {check.found}", flush=True)
    print(
        f"{args.uri} {'is' if passed else 'is NOT'} the model that {args.certificate}{_where(args.certificate)} names"
    )
    sys.exit(0 if passed else 1)


def _where(given: str) -> str:
    return f" ({committed(OURS)})" if given == str(OURS) else ""


def read_certificate(given: str) -> dict[str, Any]:
    """A certificate from a file, or from `REV:PATH` in git. InputError if it is none, or names no seal."""
    revision, colon, path = given.partition(":")
    if Path(given).is_file():
        content = Path(given).read_bytes()
    elif colon and not revision.startswith("-"):
        shown = subprocess.run(["git", "show", f"{revision}:{path}"], capture_output=True, check=False)
        if shown.returncode:
            raise InputError(f"git has no {given} here; give --certificate FILE or REV:PATH as `git show` takes it")
        content = shown.stdout
    else:
        raise InputError(
            f"there is no certificate {given}; run this in the checkout that tracks it, or give --certificate"
        )
    try:
        certificate = json.loads(content)
    except ValueError:
        certificate = None
    if not isinstance(certificate, dict) or "plan_digest" not in certificate:
        raise InputError(f"{given} is not a certificate; give the certificate.json of the version")
    if "seal" not in certificate:
        raise InputError(
            f"{given} names no seal: it is older than seals, and says nothing about the model's files; make the "
            "version again with `dvc repro`"
        )
    return certificate


def download(uri: str, target: Path) -> Path:
    """The model's files in a new directory; none of them is run. InputError if there is no such model."""
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    store = without_password(os.environ["MLFLOW_TRACKING_URI"])
    missing = f"{uri} is no model in {store}; give models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN/ensemble"
    target.mkdir()
    with translate_store_errors():
        try:
            found = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(target)))
        except MlflowException as error:
            if absent(error) or error.error_code == "INVALID_PARAMETER_VALUE":
                raise InputError(missing) from error
            raise
        except FileNotFoundError as error:
            raise InputError(missing) from error
    if not any((found / name).is_file() for name in ("MLmodel", SEAL)):
        raise InputError(missing)
    if (found / DATA / ELSEWHERE).is_file() and not (found / SEAL).is_file():
        raise InputError(f"{uri} is a logged model, whose networks are at its run; verify its registered version")
    return found


def verify(directory: Path, certificate: dict[str, Any], signers: Path | None, fresh: Path) -> Iterator[Check]:
    """The checks of a downloaded model, one after the other. Nothing of it runs before the last one.

    fresh: a directory that is made for the listed files alone, from which the model is loaded.
    """
    passed = True
    for check in (*_files(directory, certificate), *_signed(directory, signers)):
        passed &= check.passed
        yield check
    if passed:
        for name in (*files_of(read_seal(directory)), f"file:{SEAL}", f"file:{CERTIFICATE}"):
            path = fresh / name.removeprefix("file:")
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(directory / name.removeprefix("file:"), path)
        yield _answers(fresh)


def _files(directory: Path, certificate: dict[str, Any]) -> Iterator[Check]:
    try:
        sealed, found = read_seal(directory), digests_of(directory)
    except ValueError as error:
        yield Check("seal", passed=False, found=str(error))
        return
    root, names = root_of(sealed), str(certificate["seal"])
    words = "the one that the certificate names" if root == names else f"the certificate names {names[:12]}"
    yield Check("seal", root == names, f"root {root[:12]}, {words}")
    differing = differences(files_of(sealed), found)
    yield Check("files", not differing, "; ".join(differing) or f"all {len(found)} are as listed, and no others there")
    try:
        attached = json.loads((directory / CERTIFICATE).read_text())
        same = attached == certificate
        words = "equal to the given one" if same else "differs from the given one"
    except (OSError, ValueError):
        same, words = False, "cannot be read"
    yield Check("attached certificate", same, words)
    yield _described(directory / DATA / "smoothed.json", certificate)


def _described(path: Path, certificate: dict[str, Any]) -> Check:
    """Hold the description that the model answers by to the certificate: every field of the plan, m and attempt."""
    try:
        description = json.loads(path.read_text())
        said = {**description["plan"], "planned_m": description["plan"]["m"]}
        said |= {key: description[key] for key in ("m", "attempts_before", "image_shape")}
    except (OSError, KeyError, TypeError, ValueError):
        return Check("plan", passed=False, found=f"{path.name} cannot be read")
    digest, named = str(said.get("plan_digest"))[:12], str(certificate["plan_digest"])[:12]
    if digest != named:
        way_out = "it is of another version: give this one's by --certificate"
        return Check("plan", passed=False, found=f"{digest}, and the certificate's is {named}; {way_out}")
    differs = sorted(key for key, value in said.items() if certificate.get(key) != value)
    return Check("plan", not differs, f"differs in {', '.join(differs)}" if differs else f"{digest}, the certificate's")


def _signed(directory: Path, signers: Path | None) -> Iterator[Check]:
    if signers is None:
        return
    if not (directory / SIGNATURE).is_file():
        yield Check("signature", passed=False, found="the certificate is not signed (CLEANLABEL_SIGNING_KEY)")
        return
    try:
        who = signer_of((directory / CERTIFICATE).read_bytes(), (directory / SIGNATURE).read_bytes(), signers)
    except (InputError, OSError) as error:
        yield Check("signature", passed=False, found=str(error))
        return
    yield Check("signature", passed=True, found=f"of the attached certificate, by {who}")


def _answers(directory: Path) -> Check:
    command = [sys.executable, "-P", "-c", ANSWER, str(directory)]
    done = subprocess.run(command, cwd=directory.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        return Check("answers", passed=False, found=f"loading it failed: {said}")
    label, radius = json.loads(done.stdout.strip().splitlines()[-1])
    return Check("answers", passed=True, found=f"its input example is {label!r}, radius {radius!r}")
