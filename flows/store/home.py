"""The folder of this project's own stores: one for all checkouts and copies that belong together.

Attempts are counted in the store, and a separate store for every copy would restart the count. `dvc exp run --temp` and
`--queue` run in a copy under `.dvc/tmp/exps`, `git worktree` makes further checkouts, and a submodule belongs to the
checkout around it: all use the main checkout's folder. A clone is a project of its own.
"""

import os
import re
import subprocess
from pathlib import Path

from cleanlabel.sanitize.errors import InputError

HOME = "CLEANLABEL_HOME"
"""The environment variable that names the folder if it is not in the main checkout."""
EXPERIMENTS = (".dvc", "tmp", "exps")
"""The folder in which DVC makes the copies for its experiments."""


def project_home() -> Path:
    """The folder that holds `.state`, `.mlflow` and `.prefect` for the project in the working directory.

    It is the working directory, or the same directory in the main checkout. InputError if there are several checkouts
    and none is the main one.
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
    """The main checkout of one that is a copy, a worktree or a submodule; otherwise the checkout itself."""
    for path in top.parents:
        if path.parts[-len(EXPERIMENTS) :] == EXPERIMENTS:
            around = _checkout_around(path.parents[len(EXPERIMENTS) - 1])
            return _main_checkout(around) if around else top
    if (top / ".git").is_dir():
        return top
    git = top / (top / ".git").read_text().removeprefix("gitdir:").strip()
    if (git / "commondir").is_file():  # made by `git worktree add`
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
    """Whether git tracks files in the folder. A scratch folder inside a checkout has none: it is not part of it."""
    listed = ask_git(folder, "ls-files", "--", ".")
    return listed is None or bool(listed)  # no answer from git: take the safe one


def ask_git(folder: Path, *words: str, told: str = "") -> bytes | None:
    """Git's answer in this folder, without the variables that a git hook sets. None without git or if git fails."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "safe.directory=*", *words]
    try:
        done = subprocess.run(command, cwd=folder, env=own, input=told.encode(), capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
