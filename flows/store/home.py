"""Where this project's own stores lie: one folder for all checkouts and copies that belong together.

Attempts are counted in the store, and a store of its own for every copy would count them anew. `dvc exp run --temp` and
`--queue` run in a copy under `.dvc/tmp/exps`, `git worktree` makes further checkouts, and a submodule follows the
checkout it is part of: the main checkout's folder serves them all. A clone is a project of its own.
"""

import os
import re
import subprocess
from pathlib import Path

from cleanlabel.sanitize.errors import InputError

HOME = "CLEANLABEL_HOME"
"""The environment variable that names the folder, where it is not the main checkout's."""
EXPERIMENTS = (".dvc", "tmp", "exps")
"""Where DVC makes the copies that it runs experiments in."""


def project_home() -> Path:
    """The folder that holds `.state`, `.mlflow` and `.prefect` for the project in the working directory.

    That directory, or the same one in the main checkout. InputError if the checkout is one of several and none is the
    main one.
    """
    chosen = os.environ.get(HOME)
    here = Path.cwd()
    if chosen:
        return Path(chosen).expanduser().resolve()
    top = _checkout_around(here)
    if top is None:
        return here
    main = _main_checkout(top)
    return main / here.relative_to(top) if main != top and _holds_files(here) else here


def _checkout_around(folder: Path) -> Path | None:
    return next((path for path in (folder, *folder.parents) if (path / ".git").exists()), None)


def _main_checkout(top: Path) -> Path:
    """The checkout that this one is a copy, a worktree or part of such a one; itself, if it is none."""
    for path in top.parents:
        if path.parts[-len(EXPERIMENTS) :] == EXPERIMENTS:
            around = _checkout_around(path.parents[len(EXPERIMENTS) - 1])
            return _main_checkout(around) if around else top
    if (top / ".git").is_dir():
        return top
    git = top / (top / ".git").read_text().removeprefix("gitdir:").strip()
    if (git / "commondir").is_file():  # a worktree that `git worktree add` made
        return _main_checkout(_main_worktree(git / (git / "commondir").read_text().strip(), top))
    around = _checkout_around(top.parent)
    if around is None or "modules" not in git.parts:
        return top
    return _main_checkout(around) / top.relative_to(around)  # a submodule


def _main_worktree(git: Path, top: Path) -> Path:
    """The main worktree of a repository, whose directory `git` is (gitrepository-layout(5))."""
    git = git.resolve()
    config = (git / "config").read_text() if (git / "config").is_file() else ""
    worktree = re.search(r"^\s*worktree\s*=\s*(.+?)\s*$", config, re.MULTILINE)
    if worktree:
        return (git / worktree[1]).resolve()
    if git.name == ".git" and not re.search(r"^\s*bare\s*=\s*true\s*$", config, re.MULTILINE):
        return git.parent
    raise InputError(
        f"{top} is a worktree of {git}, which has no main checkout to count attempts in; "
        f"set {HOME} to one folder for all worktrees"
    )


def _holds_files(folder: Path) -> bool:
    """Whether the folder is part of its checkout: a scratch folder inside a checkout holds nothing that git tracks."""
    listed = ask_git(folder, "ls-files", "--", ".")
    return listed is None or bool(listed)  # no answer: the safe one


def ask_git(folder: Path, *words: str, told: str = "") -> bytes | None:
    """What git answers in this folder, whatever a hook set for another one; None without git, or if it refuses."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "safe.directory=*", *words]
    try:
        done = subprocess.run(command, cwd=folder, env=own, input=told.encode(), capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
