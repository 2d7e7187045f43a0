"""Mutations: slips of the kind that a refactoring makes, each of which named tests must catch.

    python tests/mutate.py [ROOM or NAME ...]

The list stands in tests/mutations/, a file for each room. A mutation is made in a copy of the project in a temporary
folder; the tests it names must fail there, and pass without it. The exit status is 1 unless every mutation is caught.
What is heavy and no part of the project is imported once: each mutation runs in a fork.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from project import ROOT, copy_checkout

LIST = ROOT / "tests" / "mutations"
HEAVY = ("diffusers.models", "diffusers", "hypothesis", "scipy.stats", "sklearn", "torch.func", "torchvision", "pandas")
SERVICES = ("mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", "prefect")
"""What the tests of flows need besides."""
QUIET = {
    "DO_NOT_TRACK": "true",
    "HF_HUB_OFFLINE": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PYTHONDONTWRITEBYTECODE": "1",
}
SECONDS = 300
"""What the tests of one mutation may take: a mutation may loop for ever."""
FAILED, BROKEN = 1, 3
"""Exit status of pytest where tests ran and failed, and for an error of its own: only the first one catches a slip."""


@dataclass(frozen=True)
class Mutation:
    """A slip: in `file`, `text`, which stands there once, `becomes` another; the tests that must fail on it.

    rule: the number of the design's rule (section 5) that it breaks.
    """

    room: str
    name: str
    rule: int
    file: str
    text: str
    becomes: str
    tests: tuple[str, ...]

    def applied(self, root: Path) -> str:
        """The file's content with the slip. ValueError names the mutation where its text does not stand there once."""
        content = (root / self.file).read_text()
        if content.count(self.text) != 1:
            raise ValueError(
                f"mutation {self.room}/{self.name}: its text stands {content.count(self.text)} times in {self.file}, "
                f"not once; write it again in {LIST.relative_to(ROOT)}/{self.room}.toml for the code as it is now"
            )
        return content.replace(self.text, self.becomes)


def mutations() -> list[Mutation]:
    """The whole list, room by room."""
    found = []
    for path in sorted(LIST.glob("*.toml")):
        for name, one in tomllib.loads(path.read_text()).items():
            found.append(Mutation(path.stem, name, **one | {"tests": tuple(one["tests"])}))
    return found


def tried(mutation: Mutation, copy: Path) -> tuple[int, str]:
    """pytest's exit status and last lines for the mutation's tests, with the slip in the project's `copy`."""
    path = copy / mutation.file
    original = path.read_text()
    path.write_text(mutation.applied(copy))
    try:
        return run(mutation.tests, copy)
    finally:
        path.write_text(original)


def run(tests: Sequence[str], copy: Path) -> tuple[int, str]:
    """pytest's exit status and last lines for these tests in a fork, on the modules of the copy alone."""
    with tempfile.TemporaryFile("w+") as output:
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _test(tests, copy, output.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return status, output.read()[-2000:]


def _test(tests: Sequence[str], copy: Path, output: int) -> None:
    """Never returns."""
    status = BROKEN
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy)
        sys.path[:] = [str(copy), *(entry for entry in sys.path if Path(entry or ".") not in (ROOT, ROOT / "tests"))]
        del sys.modules["project"]  # the copy has its own
        import pytest

        status = pytest.main([*tests, "-x", "-q", "-p", "no:cacheprovider", f"--timeout={SECONDS}"])
        sys.stdout.flush()
    finally:
        os._exit(status)


def main() -> None:
    flags = argparse.ArgumentParser(prog="python tests/mutate.py", description=__doc__.splitlines()[0])
    flags.add_argument("wanted", nargs="*", help="rooms, or names of mutations; all without any")
    wanted = set(flags.parse_args().wanted)
    known = mutations()
    if strangers := wanted - {one.room for one in known} - {one.name for one in known}:
        sys.exit(f"error: {', '.join(sorted(strangers))}: no room and no mutation of tests/mutations/")
    chosen = [one for one in known if not wanted or wanted & {one.room, one.name}]
    try:
        for one in chosen:
            one.applied(ROOT)
    except ValueError as error:
        sys.exit(f"error: {error}")
    caught = 0
    with tempfile.TemporaryDirectory(prefix="mutations-") as scratch:
        copy = Path(scratch).resolve() / "project"
        copy_checkout(copy)
        os.environ |= QUIET | {
            "PREFECT_HOME": f"{scratch}/prefect",
            "MLFLOW_TRACKING_URI": f"sqlite:///{scratch}/mlflow.db",
        }
        sys.dont_write_bytecode = True
        asks_services = any(test.startswith("tests/flows") for one in chosen for test in one.tests)
        for module in (*HEAVY, *(SERVICES if asks_services else ())):
            importlib.import_module(module)
        status, output = run(list(dict.fromkeys(test for one in chosen for test in one.tests)), copy)
        if status:
            sys.exit(f"error: the tests fail without any slip; fix that first\n{output}")
        for one in chosen:
            started = time.monotonic()
            status, output = tried(one, copy)
            caught += status == FAILED
            verdict = {FAILED: "caught", 0: "NOT CAUGHT"}.get(status, f"ERROR {status}")
            print(f"{verdict:10} {one.room}/{one.name} ({time.monotonic() - started:.0f} s)", flush=True)
            if status not in (FAILED, 0):
                print(output)
    print(f"{caught} of {len(chosen)} caught")
    sys.exit(caught != len(chosen))


if __name__ == "__main__":
    main()
