"""The seal of a registered version: the sha256 of each of its files, and the loader that checks them first.

This file needs the standard library alone and imports nothing of the package. A registered version contains a copy of
it, which MLflow imports before anything else of the version: what the version runs, it runs after the check, from the
bytes that were checked.
"""

import ast
import hashlib
import importlib.abc
import importlib.util
import json
import os
import re
import stat
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

FORMAT = "cleanlabel-seal/1"
SEAL = "seal.json"
CERTIFICATE = "certificate/certificate.json"
SIGNATURE = f"{CERTIFICATE}.sig"
NOTE = "registered_model_meta"
UNLISTED = (SEAL, CERTIFICATE, SIGNATURE, NOTE)
"""Files that the seal does not list: itself, the certificate that names its root, that certificate's signature, and
MLflow's note of a version's name and number, which MLflow writes there when it loads one and nothing reads."""
PACKAGE = "cleanlabel"
CODE = f"code/{PACKAGE}"
DATA = "data/networks"
ELSEWHERE = "networks.json"
"""File in a logged model's data that says where its networks are, {"networks": URI}. A registered version contains
its networks."""
WAY_OUT = "download the model again, and find out with `cleanlabel verify MODEL_URI` whether the store was changed"


def root_of(entries: Mapping[str, str]) -> str:
    """The sha256 of the whole list, in hex: it stands in the certificate."""
    words = json.dumps(entries, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(words.encode()).hexdigest()


def digests_of(directory: Path) -> dict[str, str]:
    """`file:PATH` -> sha256 of every file below a model's directory, except those of `UNLISTED`.

    ValueError as `plain_files`.
    """
    return {f"file:{path}": digest for path, digest in plain_files(directory).items() if path not in UNLISTED}


def plain_files(directory: Path) -> dict[str, str]:
    """The sha256 of every file below a directory, by its path there.

    ValueError if there is a link or another thing that is no plain file: what stands behind it could change unseen.
    """
    found = {}
    for folder, folders, files in os.walk(directory):
        for name in (*folders, *files):
            path = Path(folder, name)
            relative = path.relative_to(directory).as_posix()
            try:
                kind = path.lstat().st_mode
                if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                    raise ValueError(f"{relative} is not a plain file; a model's directory holds plain files only")
                if stat.S_ISREG(kind):
                    with path.open("rb") as stream:
                        found[relative] = hashlib.file_digest(stream, "sha256").hexdigest()
            except FileNotFoundError:
                continue  # removed just now: it is gone
    return found


def read_seal(directory: Path) -> dict[str, str]:
    """The entries of a model's `seal.json`. ValueError if it is missing or damaged."""
    path = directory / SEAL
    damaged = f"{path} is damaged: it is no list of digests; download the model again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries, form = content["entries"], content["format"]
    except FileNotFoundError:
        raise ValueError(f"there is no {SEAL} in {directory}; this is no sealed version of a model") from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(damaged) from None
    if form != FORMAT:
        raise ValueError(f"{path} has the format {str(form)[:40]!r}, not {FORMAT!r}; read it with a newer cleanlabel")
    if not isinstance(entries, dict) or not all(
        isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest) for digest in entries.values()
    ):
        raise ValueError(damaged)
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


def files_of(entries: Mapping[str, str]) -> dict[str, str]:
    """Those entries of a seal that are about files."""
    return {key: digest for key, digest in entries.items() if key.startswith("file:")}


def model_directory(data: Path) -> Path:
    """The directory of the model whose data MLflow loads. ValueError if the data lies elsewhere than in a model."""
    if ".." in data.parts or data.parts[-2:] != (*Path(DATA).parts,):
        raise ValueError(f"{data} is not the data of a model; its MLmodel was changed; download the model again")
    return data.parents[1]


def check(directory: Path) -> dict[str, str]:
    """Compare all files of a version with its seal, and the seal with its certificate. Returns the files' entries.

    ValueError with one sentence that names what differs.
    """
    sealed = read_seal(directory)
    files, found = files_of(sealed), digests_of(directory)
    found.pop(f"file:{_cached(directory).relative_to(directory).as_posix()}", None)
    _refuse(differences(files, found), directory)
    if (directory / CERTIFICATE).is_file():
        named = (_object(directory / CERTIFICATE)).get("seal")
        if named != root_of(sealed):
            raise ValueError(
                f"the certificate in {directory} names the seal {str(named)[:12]}, and its {SEAL} is "
                f"{root_of(sealed)[:12]}: one of them was changed; {WAY_OUT}"
            )
    return files


def check_logged(logged: Path) -> tuple[Path, dict[str, str]]:
    """Check a logged model, which has no networks and no seal, against the run that its MLmodel names.

    Its files must be those of the run's model, but for `networks.json`, which must point there. Returns the downloaded
    directory of the run's model and its files' entries: everything is served from there. ValueError as `check`.
    """
    from mlflow.artifacts import download_artifacts  # imported here: MLflow is there, it has called

    named = re.search(r"(?m)^run_id: ([0-9a-zA-Z_-]+)$", (logged / "MLmodel").read_text(encoding="utf-8"))
    run = f"runs:/{named[1]}/ensemble" if named else "no run"
    pointer = _object(logged / DATA / ELSEWHERE).get("networks")
    if pointer != f"{run}/{DATA}":
        raise ValueError(
            f"{ELSEWHERE} of the logged model in {logged} says {str(pointer)[:120]}, and its MLmodel names {run}: one "
            f"of them was changed; load the registered version instead, or {WAY_OUT}"
        )
    directory = Path(download_artifacts(run))
    files, found = check(directory), digests_of(logged)
    for known in (logged / DATA / ELSEWHERE, _cached(logged)):
        found.pop(f"file:{known.relative_to(logged).as_posix()}", None)
    _refuse([words for words in differences(files, found) if not words.endswith(" is gone")], logged)
    return directory, files


def check_if_sealed(data: Path) -> None:
    """`check` the version with this data directory; a warning if it is older than the seal. ValueError as `check`."""
    directory = data.parents[1]
    if (directory / SEAL).is_file():
        check(directory)
    else:
        warnings.warn(
            f"the model in {directory} is older than the seal: its files were not checked, and the cleanlabel of this "
            "process answers for it; make it again with `dvc repro` to have it sealed",
            stacklevel=3,
        )


def _refuse(differing: Sequence[str], directory: Path) -> None:
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise ValueError(
            f"the model in {directory} is not as it was sealed ({', '.join(differing[:3])}{more}); {WAY_OUT}"
        )


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _cached(directory: Path) -> Path:
    """The bytecode that Python writes when MLflow imports this file from a model's directory."""
    return directory / "code" / "__pycache__" / Path(importlib.util.cache_from_source(f"{__name__}.py")).name


def _forget_cached(directory: Path) -> None:
    try:
        _cached(directory).unlink(missing_ok=True)
        _cached(directory).parent.rmdir()
    except OSError:
        return  # nothing is there, or it cannot be written


class _Sealed(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Imports a version's package from bytes whose digests are the sealed ones, and from nowhere else.

    No file that was added or cached beside them is ever read. If the process has another `cleanlabel`, the version's
    takes another name: its own imports are rewritten to that name.
    """

    def __init__(self, name: str, directory: Path, files: Mapping[str, str]) -> None:
        self.name = name
        self.digests = package_digests(files)
        self.sources: dict[str, bytes] = {}
        self.paths: dict[str, str] = {}
        for relative, digest in self.digests.items():
            path = directory / CODE / relative
            if path.suffix != ".py":
                continue
            source = path.read_bytes()
            if hashlib.sha256(source).hexdigest() != digest:
                raise ValueError(f"{CODE}/{relative} changed while the model was loaded; load it again")
            parts = (name, *Path(relative).with_suffix("").parts)
            self.paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = str(path)
            self.sources[str(path)] = source

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != self.name:
            return None
        if fullname not in self.paths:
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: this process uses the code of a registered version, which has no such "
                "part; import cleanlabel before the version is loaded",
                name=fullname,
            )
        spec = importlib.util.spec_from_file_location(fullname, self.paths[fullname], loader=self)
        if spec and spec.submodule_search_locations:
            spec.submodule_search_locations = []
        return spec

    def get_filename(self, fullname: str) -> str:
        return self.paths[fullname]

    def get_data(self, path: str | bytes) -> bytes:
        if str(path) not in self.sources:
            raise OSError(f"{str(path)!r} is not on the seal")
        return self.sources[str(path)]

    def source_to_code(self, data: Any, path: Any, **_: Any) -> CodeType:  # type: ignore[override]
        tree = ast.parse(data, path)
        if self.name != PACKAGE:
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and not node.level and _ours(node.module or ""):
                    node.module = self.name + (node.module or "").removeprefix(PACKAGE)
                elif isinstance(node, ast.Import):
                    for alias in filter(lambda alias: _ours(alias.name), node.names):
                        alias.asname = alias.asname or alias.name
                        alias.name = self.name + alias.name.removeprefix(PACKAGE)
        code: CodeType = compile(tree, path, "exec", dont_inherit=True)
        return code


def _ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


def package_digests(files: Mapping[str, str]) -> dict[str, str]:
    """The digests of the package's own files in a version, by their path in it."""
    start = f"file:{CODE}/"
    return {key.removeprefix(start): digest for key, digest in files.items() if key.startswith(start)}


def _same(module: ModuleType, digests: Mapping[str, str]) -> bool:
    """Whether an imported package has all these files, byte for byte."""
    known = getattr(getattr(module.__spec__, "loader", None), "digests", None)
    if known is not None:
        return bool(known == digests)
    try:
        here = Path(str(module.__file__)).parent
        return all(hashlib.sha256((here / name).read_bytes()).hexdigest() == is_ for name, is_ in digests.items())
    except OSError:
        return False


def import_served(directory: Path, files: Mapping[str, str]) -> ModuleType:
    """The module `served` of a version's own code, whichever `cleanlabel` this process has.

    The process's package answers if all its files are equal to the version's. Otherwise the version's package is
    imported beside it, under a name with the digest of its code.
    """
    digests = package_digests(files)
    for name in (PACKAGE, f"{PACKAGE}_{root_of(digests)[:12]}"):
        if name not in sys.modules:
            finder = _Sealed(name, directory, files)
            sys.meta_path.insert(0, finder)
            try:
                importlib.import_module(name)
            except BaseException:
                sys.meta_path.remove(finder)
                raise
        if _same(sys.modules[name], digests):
            return importlib.import_module(f"{name}.served")
    raise ImportError(f"{name} is taken by other code in this process; load the model in a new one")


def _load_pyfunc(path: str) -> Any:
    """The model in the data directory of a registered version or of a logged model. MLflow calls this.

    Nothing of the model runs unless all its files are the sealed ones. MlflowException, which is also a ValueError,
    with one sentence if they are not.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    class Refused(MlflowException, ValueError):
        """The model is not as it was sealed."""

    code = Path(path).parents[1] / "code"
    first = [entry for entry in sys.path if Path(entry) == code]
    sys.path[:] = [entry for entry in sys.path if Path(entry) != code]  # nothing is ever looked up there again
    try:
        directory = model_directory(Path(path))
        if not first:
            raise ValueError(f"MLmodel names the data of another model, {path}; it was changed; {WAY_OUT}")
        _forget_cached(directory)
        if (directory / DATA / ELSEWHERE).is_file():
            directory, files = check_logged(directory)
        else:
            files = check(directory)
        served = import_served(directory, files)
    except (OSError, ValueError) as error:
        raise Refused(str(error), error_code=INVALID_PARAMETER_VALUE) from None
    return served.ServedClassifier(directory / DATA)
