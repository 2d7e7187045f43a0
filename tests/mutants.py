"""Mutation testing of the code that decides what is true: every small slip must make a test fail.

    python tests/mutants.py [MODULE ...] [--all]

Without `--all` it tries what changed since the record: the slips of functions whose text is not the one recorded, and
the survivors that nobody has explained. With `--all` it tries everything, and goes on where it was stopped. Each slip
runs the quick tests that execute its statement, in forks of a process that has imported and collected everything: the
function's code is exchanged there. A slip outside of functions, or in one that runs at import, gets a process of its
own. The record is tests/mutations/record.json; each survivor in it needs one line that says why it is harmless, or a
test that catches it.
"""

import argparse
import ast
import gc
import hashlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from mutate import HEAVY, QUIET, SERVICES
from project import ROOT, SUBPROCESSES, copy_checkout
from slips import Mutant, mutants

MODULES = (
    *(f"sanitize/{name}.py" for name in ("noise", "rounded_gaussian", "door", "parts")),
    *(f"models/{name}.py" for name in ("certificate", "influence", "influenced", "partition", "blocks", "anytime")),
    *(f"models/{name}.py" for name in ("plan", "answers", "decision", "votes", "parts", "twins", "rounding")),
    *(f"flows/certificate/{name}.py" for name in ("influences", "partitions", "gate", "record", "checks", "check")),
    "flows/certificate/comparison.py",
    *(f"flows/ensemble/{name}.py" for name in ("attempts", "ledger", "earlier_sets", "provenance", "record")),
    *(f"flows/ensemble/{name}.py" for name in ("assembly", "package", "planning", "seal")),
    "flows/verify.py",
    "cleanlabel/loading.py",
    "cleanlabel/certifying.py",
)
"""The code that decides what is true."""
RECORD = ROOT / "tests" / "mutations" / "record.json"
KEPT = ROOT / ".cache" / "mutations"
"""Results of a run that may go on, and which tests execute which lines."""
BUDGET = 20.0
"""Seconds that the tests of one slip take together, as they were measured."""
HANGS = 15
"""Seconds after which a test of a slip fails: without it none takes half as long."""
UNIT = 60
"""Slips that one collecting process tries."""
SOUND = "tests/models/test_blocks.py"
"""What must pass before anything is tried: else every slip would seem to be caught."""
CAUGHT, SURVIVED = "caught", "survived"
FAILED, PASSED, BROKEN = 1, 0, 3
"""Exit status of a fork: a test failed, none did, the fork itself is at fault."""
Tried = tuple[int, list[str], float]
"""The exit status of a fork, the tests that failed in it, and its seconds."""


@dataclass
class Reach:
    """Which quick tests execute which lines, and how long they take.

    lines: module -> line -> tests. early: module -> lines that also run while modules are imported.
    seconds: of each test that passes. setups: of the longest set-up of each file.
    """

    lines: dict[str, dict[int, list[str]]]
    early: dict[str, list[int]]
    seconds: dict[str, float]
    setups: dict[str, float]

    def tests(self, mutant: Mutant) -> list[str]:
        """The quickest tests that execute the slip's statement, within the budget, a file at a time."""
        lines = self.lines.get(mutant.path, {})
        at = lines if self.is_early(mutant) else range(mutant.first, mutant.last + 1)
        files: dict[str, list[str]] = defaultdict(list)
        for test in {test for line in at for test in lines.get(line, ())}:
            files[test.partition("::")[0]].append(test)
        own, chosen, left = Path(mutant.path).stem, [], BUDGET
        for file in sorted(files, key=lambda one: (own not in one, self.setups.get(one, 0.0), one)):
            left -= self.setups.get(file, 0.0)
            for test in sorted(files[file], key=lambda one: (self.seconds[one], one)):
                if self.seconds[test] < left:
                    left -= self.seconds[test] + 0.01
                    chosen.append(test)
        return chosen

    def is_early(self, mutant: Mutant) -> bool:
        """Whether the slip acts before the tests begin, so that exchanging a function's code is too late."""
        return not mutant.inside or any(
            one in self.early.get(mutant.path, ()) for one in range(mutant.first, mutant.last + 1)
        )


def measure(files: Sequence[str], modules: Sequence[str]) -> Reach:
    """Runs these test files once with coverage. The answer is kept until a Python file of the project changes."""
    asked = hashlib.sha256(json.dumps([sorted(files), sorted(modules), digest_of_all()]).encode()).hexdigest()
    kept = KEPT / f"reach-{asked[:16]}.json"
    if not kept.exists():
        print(f"which lines the tests of {len(files)} files execute ...", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            rc, data, times = (Path(scratch, name) for name in ("rc", ".coverage", "times.json"))
            included = "\n  ".join(str(ROOT / module) for module in modules)
            rc.write_text(f"[run]\ndata_file = {data}\ninclude =\n  {included}\n")
            command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-n", "2", "--dist", "loadfile"]
            command += ["-p", "timed", "--cov", f"--cov-config={rc}", "--cov-context=test", "--cov-report="]
            environment = os.environ | QUIET | {"TIMED": str(times), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
            done = subprocess.run([*command, *files], cwd=ROOT, env=environment, check=False)
            if done.returncode not in (PASSED, FAILED) or not (data.exists() and times.exists()):
                sys.exit("error: the tests could not be run; see above")
            write(kept, asdict(read_reach(data, times, modules)))
    content = json.loads(kept.read_text())
    content["lines"] = {path: {int(at): tests for at, tests in of.items()} for path, of in content["lines"].items()}
    return Reach(**content)


def read_reach(data: Path, times: Path, modules: Iterable[str]) -> Reach:
    """What coverage and the report of a run say. What a fixture executes counts for all tests of its file."""
    from coverage import CoverageData

    told = json.loads(times.read_text())
    seconds = told["seconds"]
    of_file: dict[str, list[str]] = defaultdict(list)
    for name in seconds:
        of_file[name.partition("::")[0]].append(name)
    read = CoverageData(str(data))
    read.read()
    lines: dict[str, dict[int, list[str]]] = {}
    early: dict[str, list[int]] = {}
    for module in modules:
        path = next((one for one in read.measured_files() if one == str(ROOT / module)), None)
        contexts = read.contexts_by_lineno(path) if path else {}
        early[module] = [line for line, those in contexts.items() if "" in those]
        lines[module] = {line: sorted(_tests(those, of_file, seconds)) for line, those in contexts.items()}
    return Reach(lines, early, seconds, told["setups"])


def _tests(contexts: Iterable[str], of_file: dict[str, list[str]], seconds: dict[str, float]) -> set[str]:
    found: set[str] = set()
    for context in filter(None, contexts):
        test, _, phase = context.rpartition("|")
        found |= {*of_file[test.partition("::")[0]]} if phase == "setup" else {test} & seconds.keys()
    return found


def digest_of_all() -> str:
    """One digest of all Python files of the project."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.py"], cwd=ROOT, capture_output=True, check=True
    )
    names = [name for name in listed.stdout.decode().split() if (ROOT / name).is_file()]
    return hashlib.sha256(b"".join(hashlib.sha256((ROOT / name).read_bytes()).digest() for name in names)).hexdigest()


def _git(*command: str) -> list[str]:
    return subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def write(path: Path, content: Any) -> None:
    """JSON into a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    part.replace(path)


class Failures:
    """A pytest plugin: writes down the tests that fail, as they do."""

    def __init__(self, told: Path) -> None:
        self._told = told

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            with self._told.open("a") as stream:
                stream.write(f"{report.nodeid}\n")


class Server:
    """A pytest plugin: once everything is collected, each slip is tried in a fork.

    sound: whether a test passes in the copy without any slip, as far as it is known.
    """

    def __init__(self, unit: Sequence[Mutant], reach: Reach, copy: Path, sound: dict[str, bool]) -> None:
        self._unit, self._reach, self._copy, self._sound = unit, reach, copy, sound
        self.tried: dict[Any, Tried] = {}

    def pytest_runtestloop(self, session: Any) -> bool:
        items = {item.nodeid: item for item in session.items}
        for one in self._unit:
            self.tried[one.key] = self._try(session, one, items)
        return True

    def _try(self, session: Any, one: Mutant, items: dict[str, Any]) -> Tried:

        def slipped(tests: Sequence[str]) -> Tried:
            with in_place(one, self._copy):
                return in_a_fork(
                    lambda told: (
                        run_items(session, [items[test] for test in tests], told)
                        if exchange(one, self._copy)
                        else BROKEN
                    )
                )

        def honest(test: str) -> Tried:
            return in_a_fork(lambda told: run_items(session, [items[test]], told))

        return judged(slipped, honest, [test for test in self._reach.tests(one) if test in items], self._sound)


def judged(slipped: Callable, honest: Callable, tests: Sequence[str], sound: dict[str, bool]) -> Tried:
    """What came of a slip. A test that fails says something only if it passes without the slip."""
    while True:
        tried = slipped([test for test in tests if sound.get(test, True)])
        for test in tried[1]:
            if test not in sound:
                sound[test] = honest(test)[0] == PASSED
                if not sound[test]:
                    print(f"left out, for it fails in the copy without any slip: {test}", flush=True)
        if all(sound[test] for test in tried[1]):
            return tried


def run_items(session: Any, items: list[Any], told: Path) -> int:
    """Runs these collected tests, in a fork of the process that collected them, until one has failed."""
    from _pytest.main import pytest_runtestloop

    config = session.config
    config.option.maxfail = 1
    config.pluginmanager.register(Failures(told))
    session.items = items
    factory = config._tmp_path_factory
    factory._basetemp, factory._given_basetemp = None, told.parent / "pytest"
    with suppress(session.Failed):
        pytest_runtestloop(session)
    return FAILED if session.testsfailed else PASSED


@contextmanager
def in_place(one: Mutant, copy: Path) -> Iterator[None]:
    """The slip in the copy's file, for what reads it there."""
    path = copy / one.path
    honest = path.read_text()
    path.write_text(one.text)
    try:
        yield
    finally:
        path.write_text(honest)


def exchange(one: Mutant, copy: Path) -> bool:
    """Gives the slip's function its new code, wherever it is. False if there is no such function here."""
    path = str(copy / one.path)
    new = _codes(compile(one.text, path, "exec", dont_inherit=True))
    found = False
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_qualname == one.function:
            old = thing.__code__
            wanted = new.get((old.co_qualname, old.co_firstlineno))
            if wanted and os.path.realpath(old.co_filename) == path and old.co_freevars == wanted.co_freevars:
                thing.__code__ = wanted
                found = True
    return found


def _codes(code: CodeType) -> dict[tuple[str, int], CodeType]:
    """The code of every function of a module and its classes."""
    found = {}
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and "<" not in constant.co_qualname:
            found |= {(constant.co_qualname, constant.co_firstlineno): constant} | _codes(constant)
    return found


def in_a_fork(run: Callable[[Path], int], limit: float = HANGS + BUDGET) -> Tried:
    """The exit status of `run` in a fork, the tests that failed, and its seconds.

    What is not done within the limit is killed: it counts as FAILED if a test has failed by then.
    """
    started = time.monotonic()
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="slip-", ignore_cleanup_errors=True) as scratch:
        told = Path(scratch, "failed")
        child = os.fork()
        if not child:
            status = BROKEN
            try:
                os.setsid()
                null = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(null, stream)
                status = run(told)
            finally:
                os._exit(status)
        while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() - started < limit:
            time.sleep(0.005)
        with suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # and what it has left running
        if not ended[0]:
            os.waitpid(child, 0)
        failed = told.read_text().split("\n")[:-1] if told.exists() else []
        status = os.waitstatus_to_exitcode(ended[1]) if ended[0] else FAILED if failed else PASSED
    own = Path(os.environ["PREFECT_HOME"]).parent
    for left in own.iterdir() if own.name.startswith("cleanlabel-tests-") else ():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    return status, failed, time.monotonic() - started


def note(out: Path, one: Mutant, status: int, failed: list[str], seconds: float) -> None:
    """Adds what came of a slip to the results. A process that died of it has noticed it too."""
    result = {PASSED: SURVIVED, BROKEN: "broken"}.get(status, CAUGHT)
    line = {"path": one.path, "module": text_digest(one.path), "key": one.key, "result": result}
    with out.open("a") as stream:
        stream.write(json.dumps(line | {"by": failed[:1], "seconds": round(seconds, 2)}, ensure_ascii=False) + "\n")


def text_digest(path: str) -> str:
    return hashlib.sha256((ROOT / path).read_bytes()).hexdigest()[:16]


def pytest_in(copy: Path, arguments: Sequence[str], plugins: Sequence[Any]) -> int:
    """pytest on the modules of the copy alone. Call it in a fork that has imported nothing of the project."""
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    here = (ROOT, ROOT / "tests")
    sys.path[:] = [str(copy), *(entry for entry in sys.path if Path(entry or ".").resolve() not in here)]
    for name in ("project", "mutate", "slips"):
        sys.modules.pop(name, None)
    import pytest

    return int(
        pytest.main(
            [*arguments, "-p", "no:cacheprovider", "-p", "no:terminal", "-o", "addopts=", f"--timeout={HANGS}"],
            list(plugins),
        )
    )


def work(units: Iterator[list[Mutant]], reach: Reach, copy: Path, out: Path) -> None:
    """Tries unit after unit. Runs in a process of its own, on a copy of its own."""
    copy_checkout(copy)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    sound: dict[str, bool] = {}
    if in_a_fork(lambda told: pytest_in(copy, [SOUND], [Failures(told)]))[0] != PASSED:
        sys.exit(f"error: {SOUND} does not pass in a copy of the project without any slip; run it alone and mend it")
    for unit in units:
        warm = [one for one in unit if one.inside]
        tests = {one.key: reach.tests(one) for one in unit}
        files = sorted({test.partition("::")[0] for one in warm for test in tests[one.key]})
        tried = _serve(warm, files, reach, copy, sound) if files else {}
        for one in unit:
            status, failed, seconds = tried.get(one.key, (BROKEN, [], 0.0))
            # Where an exchange comes too late, or finds no function to exchange, everything is imported anew.
            if status == BROKEN or (status == PASSED and reach.is_early(one)):
                status, failed, seconds = _apart(one, tests[one.key], copy, sound)
            note(out, one, status, failed, seconds)
        print(f"{time.strftime('%H:%M:%S')} {unit[0].path}: {len(unit)} slips tried", flush=True)


def _serve(unit: list[Mutant], files: list[str], reach: Reach, copy: Path, sound: dict[str, bool]) -> dict[Any, Tried]:
    """Collects these files in a fork, and tries the slips in forks of it."""
    told = copy.parent / "told.json"
    told.unlink(missing_ok=True)
    sys.stdout.flush()
    child = os.fork()
    if not child:
        status = BROKEN
        try:
            server = Server(unit, reach, copy, sound)
            status = pytest_in(copy, [*files, "-m", "not slow"], [server])
            told.write_text(json.dumps([sound, [*server.tried.items()]]))
        finally:
            sys.stdout.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not told.exists():
        sys.exit(f"error: {unit[0].path}: pytest ended with {status} before a slip was tried")
    passing, tried = json.loads(told.read_text())
    sound |= passing
    return {tuple(key): tuple(found) for key, found in tried}


def _apart(one: Mutant, tests: list[str], copy: Path, sound: dict[str, bool]) -> Tried:
    """Tries a slip in a process that imports everything anew."""

    def honest(*those: str) -> Tried:
        return in_a_fork(lambda told: FAILED if pytest_in(copy, [*those, "-x"], [Failures(told)]) else PASSED)

    def slipped(those: Sequence[str]) -> Tried:
        with in_place(one, copy):
            return honest(*those) if those else (PASSED, [], 0.0)

    return judged(slipped, honest, tests, sound)


def functions(path: str) -> dict[str, str]:
    """A digest of each function's text, and of the module's without them ("")."""
    source = (ROOT / path).read_text()
    found: dict[str, str] = {}
    rest = source

    def collect(node: ast.AST, prefix: str) -> None:
        nonlocal rest
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_source_segment(source, child) or ""
                found[f"{prefix}{child.name}"] = hashlib.sha256(text.encode()).hexdigest()[:12]
                rest = rest.replace(text, "", 1)
            else:
                collect(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)

    collect(ast.parse(source), "")
    return found | {"": hashlib.sha256(rest.encode()).hexdigest()[:12]}


def read_record() -> dict[str, Any]:
    return json.loads(RECORD.read_text()) if RECORD.exists() else {"modules": {}}


def main() -> None:
    flags = argparse.ArgumentParser(prog="python tests/mutants.py", description=__doc__.splitlines()[0])
    flags.add_argument("modules", nargs="*", help="files; all that decide what is true without any")
    flags.add_argument("--all", action="store_true", help="try every slip, not only those of what changed")
    flags.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes at a time")
    given = flags.parse_args()
    wanted = given.modules or list(MODULES)
    if strangers := [one for one in wanted if one not in MODULES]:
        sys.exit(f"error: {', '.join(strangers)}: none of the modules that decide what is true, see tests/mutants.py")
    record = read_record()
    out = KEPT / "results.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    everything = {path: mutants(path, (ROOT / path).read_text()) for path in wanted}
    tried = {path: those if given.all else _changed(path, those, record) for path, those in everything.items()}
    if not given.all:
        out.unlink(missing_ok=True)
    done = _results(out)
    left = {path: [one for one in those if (path, one.key) not in done] for path, those in tried.items()}
    count = sum(map(len, left.values()))
    print(f"{sum(map(len, tried.values()))} slips in {len(wanted)} modules, {count} to try", flush=True)
    if count:
        reach = measure(_files(record, wanted, everything=given.all), list(MODULES))
        units = [those[at : at + UNIT] for those in left.values() for at in range(0, len(those), UNIT)]
        _share(sorted(units, key=len, reverse=True), reach, out, given.workers)
    sys.exit(_settle(record, everything, tried, _results(out)))


def _changed(path: str, those: list[Mutant], record: dict[str, Any]) -> list[Mutant]:
    known = record["modules"].get(path, {"functions": {}, "survivors": []})
    now = functions(path)
    same = {name for name, digest in known["functions"].items() if now.get(name) == digest}
    unexplained = {_key(one) for one in known["survivors"] if not one["why"]}
    return [one for one in those if one.function not in same or one.key in unexplained]


def _key(survivor: dict[str, Any]) -> tuple[str, str, str, int]:
    return survivor["function"], survivor["was"], survivor["becomes"], survivor.get("nth", 0)


def _files(record: dict[str, Any], wanted: Sequence[str], *, everything: bool) -> list[str]:
    """Test files to look at: all, or those that caught slips of these modules, and those that git says are changed."""
    files = {*_git("ls-files", "-co", "--exclude-standard", "tests/**/test_*.py", "tests/test_*.py")}
    files = {one for one in files if (ROOT / one).is_file() and not one.startswith(("tests/redteam", "tests/device"))}
    files -= {one for one in files if Path(one).stem in SUBPROCESSES}
    if everything:
        return sorted(files)
    changed = {line[3:] for line in _git("status", "--porcelain", "tests")}
    caught = {test for path in wanted for test in record["modules"].get(path, {}).get("tests", files)}
    return sorted(files & (changed | caught))


def _results(out: Path) -> dict[tuple[str, tuple[str, ...]], dict[str, Any]]:
    """What came of each slip of the modules as they are now."""
    found = {}
    if out.exists():
        for line in out.read_text().splitlines():
            one = json.loads(line)
            if one["module"] == text_digest(one["path"]) and one["result"] != "broken":
                found[one["path"], tuple(one["key"])] = one
    return found


def _share(units: list[list[Mutant]], reach: Reach, out: Path, workers: int) -> None:
    """Workers take unit after unit from a common list."""
    os.environ |= QUIET
    sys.dont_write_bytecode = True
    for module in (*HEAVY, *SERVICES):
        importlib.import_module(module)
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        taken = Path(scratch).resolve()
        children = []
        for at in range(workers):
            sys.stdout.flush()
            child = os.fork()
            if not child:
                status = BROKEN
                try:
                    home = taken / f"worker-{at}"
                    home.mkdir()
                    os.environ |= {"PREFECT_HOME": f"{home}/prefect", "TMPDIR": str(home)}
                    tempfile.tempdir = None
                    work(_take(units, taken), reach, home / "project", out)
                    status = PASSED
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(status)
            children.append(child)
        if any(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children):
            print("error: a worker ended early; run the command again, it goes on", file=sys.stderr)


def _take(units: list[list[Mutant]], folder: Path) -> Iterator[list[Mutant]]:
    for at, unit in enumerate(units):
        try:
            (folder / f"unit-{at}").mkdir()
        except FileExistsError:
            continue
        yield unit


def _settle(record: dict[str, Any], everything: Any, tried: Any, results: Any) -> int:
    """Writes the record; says what survived without a reason. The exit status."""
    unexplained = 0
    for path, those in everything.items():
        before = record["modules"].get(path, {"survivors": [], "tests": []})
        why = {_key(one): one["why"] for one in before["survivors"]}
        attempted = {one.key for one in tried[path]}
        survivors, missing, tests = [], 0, {*before["tests"]}
        for one in those:
            told = results.get((path, one.key))
            if one.key in attempted:
                missing += told is None
                survived = told is not None and told["result"] == SURVIVED
            else:
                survived = one.key in why
            tests |= {test.partition("::")[0] for test in told["by"]} if told else set()
            if survived:
                entry = {"function": one.function, "was": one.was, "becomes": one.becomes}
                survivors.append(entry | ({"nth": one.nth} if one.nth else {}) | {"why": why.get(one.key, "")})
        if missing:
            print(f"{path}: {missing} slips are not tried yet; run the command again, it goes on")
            unexplained += missing
            continue
        record["modules"][path] = {
            "mutants": len(those),
            "caught": len(those) - len(survivors),
            "survived": len(survivors),
            "functions": functions(path),
            "tests": sorted(tests),
            "survivors": survivors,
        }
        for one in survivors:
            if not one["why"]:
                unexplained += 1
                print(f"SURVIVED {path} {one['function']}\n  - {one['was']}\n  + {one['becomes']}")
    record["date"] = date.today().isoformat()
    write(RECORD, record)
    total = Counter()
    for one in record["modules"].values():
        total.update({name: one[name] for name in ("mutants", "caught", "survived")})
    print(", ".join(f"{total[name]} {name}" for name in total) + f", {unexplained} of them unexplained")
    return bool(unexplained)


if __name__ == "__main__":
    main()
