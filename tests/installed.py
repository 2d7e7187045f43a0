"""An environment that holds some of the installed distributions and nothing else, without installing anything."""

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement


def needed_by(requirements: Iterable[str]) -> set[str]:
    """The names of the distributions that an installer would bring for these requirements, as installed here."""
    todo = [Requirement(one) for one in requirements]
    seen: set[tuple[str, str]] = set()
    while todo:
        asked = todo.pop()
        if asked.marker and not asked.marker.evaluate({"extra": ""}):
            continue
        name = re.sub(r"[-_.]+", "-", asked.name).lower()
        found = importlib.metadata.distribution(name)
        assert asked.specifier.contains(found.version.partition("+")[0], prereleases=True), f"{asked}: {found.version}"
        for extra in {"", *asked.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for one in map(Requirement, found.requires or []):
                if one.marker is None or one.marker.evaluate({"extra": extra}):
                    one.marker = None
                    todo.append(one)
    return {name for name, _ in seen}


def link_environment(target: Path, requirements: Iterable[str]) -> Path:
    """Fill `target` with links to these distributions' packages and to all that they require."""
    target.mkdir()
    for name in sorted(needed_by(requirements)):
        found = importlib.metadata.distribution(name)
        tops = {Path(str(path)).parts[0] for path in found.files or []} - {"..", "__pycache__"}
        for top in tops:
            if not (target / top).exists():
                (target / top).symlink_to(Path(str(found.locate_file(top))))
    return target


def run_in(
    environment: Path, code: str, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python code that sees `cwd` and `environment`, and no other package: no checkout, no virtual environment."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "HOME") if name in os.environ}
    start = f"import sys; sys.path[:0] = [{str(cwd)!r}]; sys.path.append({str(environment)!r})\n"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + code],
        cwd=cwd,
        env=kept | {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"} | (env or {}),
        capture_output=True,
        text=True,
        check=False,
    )
