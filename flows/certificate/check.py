"""One check of an audit, and what git holds of a file."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Check:
    """One comparison: what was compared, whether it agreed, and what was found."""

    name: str
    passed: bool
    found: str


def held_by_git(path: Path) -> dict[str, Any]:
    """The JSON object in a file as the last commit has it; empty if there is none."""
    command = ["git", "show", f"HEAD:./{path}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        content = json.loads(shown.stdout) if shown.returncode == 0 else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def committed(path: Path) -> str:
    """Whether git holds exactly this file, in words."""

    def git(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *command, "--", str(path)], capture_output=True, text=True, check=False)

    commit = git("log", "-1", "--format=%h").stdout.strip()
    return (
        f"committed in {commit}" if commit and git("diff", "--quiet", "HEAD").returncode == 0 else "not committed yet"
    )
