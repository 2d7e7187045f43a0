"""The seal of a certified version: made when its certificate stands, and checked by the audit."""

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow.entities.model_registry import ModelVersion

from cleanlabel import loading
from cleanlabel.flows import artifacts
from cleanlabel.flows.artifacts import CERTIFICATE, CERTIFICATE_ARTIFACT, PAGE
from cleanlabel.flows.certificate.check import Check, held_by_git
from cleanlabel.flows.certificate.reviews import identity_of, one_ensemble, without_reviews
from cleanlabel.flows.ensemble.seal import (
    DIRECTORY,
    ROOTS,
    changed_since_registration,
    contents,
    differences,
    in_words,
    is_sealed,
    read_seal,
    registered,
    registration_differences,
    write_seal,
)
from cleanlabel.flows.store.client import Store, log_files, read_json
from cleanlabel.flows.store.registry import SMOOTHED, get_version
from cleanlabel.sanitize.errors import InputError
from cleanlabel.sanitize.files import file_digest, write_json
from cleanlabel.sanitize.paths import POINTS
from cleanlabel.signing import sign, signing_key

PICTURES = (artifacts.CURVE_PICTURE, artifacts.EXAMPLES)
FIGURES = (artifacts.CURVE, artifacts.METRICS, POINTS)
ATTACHED = (*PICTURES, *FIGURES, artifacts.GATE, PAGE)
"""The files of a certified version that are attached to it, besides the certificate."""


def attached_as(path: Path) -> str:
    """The artifact that a file of a certified version becomes, beside the certificate."""
    return str(PurePosixPath(CERTIFICATE_ARTIFACT).with_name(path.name))


def require_as_registered(store: Store, version: ModelVersion) -> None:
    """InputError names what changed since the version was registered. Earlier releases sealed nothing."""
    if not is_sealed(store, version):
        return
    changed = changed_since_registration(store, version)
    if changed:
        raise InputError(
            f"{SMOOTHED} version {version.version} is not what was registered: {in_words(changed)}; restore the "
            "store, or, if you know why it changed, run `dvc repro --force smooth`, which registers it anew"
        )


def seal_certificate(store: Store, version: ModelVersion, certificate: dict[str, Any]) -> dict[str, Any]:
    """Seal the version as it is now, and name the seal in its certificate, attached and in reports/. Returns that.

    Where CLEANLABEL_SIGNING_KEY names a key, the certificate is signed as well.
    """
    entries = write_seal(store, get_version(store, version.name, int(version.version)))
    roots = (loading.root_of(entries), loading.root_of(registered(entries)))
    sealed = certificate | dict(zip(ROOTS, roots, strict=True))
    write_json(CERTIFICATE, sealed)
    files = [CERTIFICATE, *([sign(CERTIFICATE, key)] if (key := signing_key()) else [])]
    log_files(store, str(version.run_id), {attached_as(path): path.read_bytes() for path in files})
    return sealed


def check_seal(store: Store, version: ModelVersion, *, whole: bool) -> Check:
    """Compare everything that the store has of a version with its seal. whole: also what its certification wrote."""
    try:
        entries, found = read_seal(store, version), contents(store, version)
        said = registration_differences(version, entries, found)
        roots = [loading.root_of(entries), loading.root_of(registered(entries))]
        if whole:
            said += [clause for clause in differences(entries, found) if clause not in said]
            try:
                attached = read_json(store, str(version.run_id), CERTIFICATE_ARTIFACT)
                said += _not_named(attached, roots)
            except InputError as error:
                said.append(str(error))
        said += _other_in_git(identity_of(store, version), roots if whole else [None, roots[1]])
    except InputError as error:
        return Check("seal", passed=False, found=str(error))
    if said:
        return Check("seal", passed=False, found=in_words(said))
    what = "every file and word" if whole else "everything that was registered"
    return Check("seal", passed=True, found=f"{what} as sealed, {len(entries)} in all, root {roots[0][:12]}")


def _not_named(attached: dict[str, Any], roots: list[str]) -> list[str]:
    if "seal" not in attached:
        return ["the certificate names no seal; run `python -m flows.certify` for this version again"]
    return [
        f"the certificate's field {name} is {str(attached.get(name))[:12]} where the list has the root {root[:12]}"
        for name, root in zip(ROOTS, roots, strict=True)
        if attached.get(name) != root
    ]


def _other_in_git(ensemble: dict[str, str], roots: list[str | None]) -> list[str]:
    """What git's certificate of the same ensemble says of the seal, where that is something else.

    The same plan with other entropy is another ensemble: a clone's own, for example.
    """
    held = held_by_git(CERTIFICATE)
    if not one_ensemble(held, ensemble):
        return []
    return [
        f"git holds another {name.replace('_', ' ')} for this ensemble ({held[name][:12]}, not {root[:12]}); if you "
        "certified it again and know why, commit the new certificate"
        for name, root in zip(ROOTS, roots, strict=True)
        if root and held.get(name) not in (None, root)
    ]


def check_reports(store: Store, version: ModelVersion) -> Check:
    """Compare the checkout's reports with the sealed ones. Whose they are, the check of the certificate has said."""
    entries, wrong, seen = read_seal(store, version), [], 0
    for path in ATTACHED:
        if not path.is_file():
            continue
        seen += 1
        digest = file_digest(path)
        if path == PAGE:
            digest = hashlib.sha256(without_reviews(path.read_text(encoding="utf-8")).encode()).hexdigest()
        key = f"file:{attached_as(path).removeprefix(f'{DIRECTORY}/')}"
        if key not in entries:
            wrong.append(f"{path} is not attached to the version")
        elif entries[key] != digest:
            wrong.append(f"{path} is not the one that is attached to the version")
    return Check("reports", not wrong, in_words(wrong) if wrong else f"{seen} files, each as it is attached")
