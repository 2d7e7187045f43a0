"""The seal of a registered version: the sha256 of each of its files, and the loader that checks them first.

This file needs the standard library alone and imports nothing of the package: a registered version contains a copy of
it, and MLflow imports that copy before anything else of the version. Whatever the version runs, it runs after the check.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

FORMAT = "cleanlabel-seal/1"
SEAL = "seal.json"
CERTIFICATE = "certificate/certificate.json"
SIGNATURE = "certificate/certificate.json.sig"
"""Files in a model's directory. The seal cannot list itself, nor the certificate that names its root, nor the
certificate's signature."""


def root_of(entries: Mapping[str, str]) -> str:
    """The sha256 of the whole list, in hex: it stands in the certificate."""
    words = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(words.encode()).hexdigest()


def digests_of(directory: Path) -> dict[str, str]:
    """`file:PATH` -> sha256 of every file below a model's directory, except the seal, the certificate and its signature.

    ValueError if there is a link or another thing that is no plain file: what stands behind it could change unseen.
    """
    found = {}
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder, name)
            relative = path.relative_to(directory).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise ValueError(f"{relative} is not a plain file; a model's directory holds plain files only")
            if name in files and relative not in (SEAL, CERTIFICATE, SIGNATURE):
                with path.open("rb") as stream:
                    found[f"file:{relative}"] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def read_seal(directory: Path) -> dict[str, str]:
    """The entries of a model's `seal.json`. ValueError if it is missing or damaged."""
    path = directory / SEAL
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries, form = content["entries"], content["format"]
    except FileNotFoundError:
        raise ValueError(f"there is no {SEAL} in {directory}; this is no sealed version of a model") from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(f"{path} is damaged: it is no list of digests; download the model again") from None
    if form != FORMAT:
        raise ValueError(
            f"{path} has the format {str(form)[:40]!r}, not {FORMAT!r}; install a newer cleanlabel to read it"
        )
    if not isinstance(entries, dict) or not all(
        isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest) for digest in entries.values()
    ):
        raise ValueError(f"{path} is damaged: it is no list of digests; download the model again")
    return entries


def differences(sealed: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """In words, sorted, what is not as in the seal: "X was changed", "X is gone", "X was added". Empty: all is."""
    said = []
    for key in {*sealed, *found}:
        name = key.removeprefix("file:")
        if key not in found:
            said.append(f"{name} is gone")
        elif key not in sealed:
            said.append(f"{name} was added")
        elif sealed[key] != found[key]:
            said.append(f"{name} was changed")
    return sorted(said)
