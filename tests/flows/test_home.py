"""One project, one store: copies, worktrees and submodules count their attempts in the main checkout's folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from registered import M, connect_here, make_plan, make_sets

from cleanlabel.flows.ensemble.opening import open_ensemble
from cleanlabel.flows.environment import own_store, state
from cleanlabel.flows.store.client import connect
from cleanlabel.flows.store.home import project_home
from cleanlabel.sanitize.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
LOOK = "python -c 'from os import environ as e; from cleanlabel.flows.environment import state; {}' >> $SEEN"
WHERE = LOOK.format('print(state(), e["MLFLOW_TRACKING_URI"], e["PREFECT_HOME"], sep="\\n")')


def run(where: Path, *command: str, **settings: str) -> str:
    unset = ("MLFLOW_TRACKING_URI", "PREFECT_HOME")
    env = {name: value for name, value in os.environ.items() if name not in unset}
    env |= {"PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "HOME": str(where)}
    for who in ("AUTHOR", "COMMITTER"):
        env |= {f"GIT_{who}_NAME": "ada", f"GIT_{who}_EMAIL": "ada@example.org"}
    done = subprocess.run(command, cwd=where, env=env | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def repository(where: Path, folder: str = ".") -> Path:
    """A git repository with a project in `folder`; the repository's own folder."""
    (where / folder).mkdir(parents=True)
    (where / folder / "params.yaml").write_text("a: 1\n")
    (where / ".gitignore").write_text("scratch/\n")
    run(where, "git", "init", "--quiet")
    commit(where)
    return where


def commit(where: Path) -> None:
    run(where, "git", "add", ".")
    run(where, "git", "commit", "--quiet", "--message", "x")


def home_of(where: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(where)
    return project_home()


@pytest.mark.slow
def test_dvcs_copies_for_experiments_use_the_projects_own_stores(tmp_path):
    top = tmp_path / "repository"
    project = repository(top, "team/project") / "team" / "project"
    (project / "dvc.yaml").write_text(f"stages:\n  look:\n    cmd: {WHERE}\n    params: [a]\n")
    run(top, "dvc", "init", "--quiet")
    commit(top)
    seen = tmp_path / "seen"
    run(project, "dvc", "exp", "run", "--quiet", "--temp", "-S", "a=2", SEEN=str(seen))
    run(project, "dvc", "exp", "run", "--quiet", "--queue", "-S", "a=3")
    run(project, "dvc", "exp", "run", "--quiet", "--run-all", SEEN=str(seen))  # `dvc queue start`, and wait for it
    here = [f"{project}/.state", f"sqlite:///{project}/.mlflow/mlflow.db", f"{project}/.prefect"]
    assert seen.read_text().split("\n") == [*here, *here, ""]
    assert not list(top.rglob("tmp/exps/**/.mlflow"))


@pytest.mark.parametrize("folder", [".", "team/project"])
def test_a_worktree_uses_the_main_checkouts_stores(tmp_path, folder, monkeypatch):
    top = repository(tmp_path / "main checkout", folder)
    run(top, "git", "worktree", "add", "--quiet", "../other")
    assert home_of(tmp_path / "other" / folder, monkeypatch) == top / folder
    assert state() == top / folder / ".state"
    assert home_of(top / folder, monkeypatch) == top / folder
    run(tmp_path / "other" / folder, "sh", "-c", WHERE, SEEN=str(tmp_path / "seen"))
    assert (tmp_path / "seen").read_text().splitlines()[1] == own_store(top / folder)


def test_an_experiment_in_a_worktree_uses_the_main_checkouts_stores(tmp_path, monkeypatch):
    top = repository(tmp_path / "main")
    run(top, "git", "worktree", "add", "--quiet", "../other")
    for copy in (".dvc/tmp/exps/tmp1", ".dvc/tmp/exps/standalone/tmp2"):
        repository(tmp_path / "other" / copy)
        assert home_of(tmp_path / "other" / copy, monkeypatch) == top


def test_a_submodule_is_a_project_of_its_own_unless_it_is_in_a_worktree(tmp_path, monkeypatch):
    repository(tmp_path / "project")
    top = repository(tmp_path / "team")
    allowed = ("-c", "protocol.file.allow=always")
    run(top, "git", *allowed, "submodule", "--quiet", "add", "../project", "parts/project")
    commit(top)
    assert home_of(top / "parts" / "project", monkeypatch) == top / "parts" / "project"
    run(top / "parts" / "project", "git", "worktree", "add", "--quiet", "../../../second")
    assert home_of(tmp_path / "second", monkeypatch) == top / "parts" / "project"
    run(top, "git", "worktree", "add", "--quiet", "../other")
    run(tmp_path / "other", "git", *allowed, "submodule", "--quiet", "update", "--init")
    assert home_of(tmp_path / "other" / "parts" / "project", monkeypatch) == top / "parts" / "project"


def test_a_clone_a_scratch_folder_and_a_folder_without_git_are_their_own(tmp_path, monkeypatch):
    top = repository(tmp_path / "main")
    run(top, "git", "clone", "--quiet", ".", "../clone")
    run(top, "git", "worktree", "add", "--quiet", "../other")
    run(top, "git", "clone", "--quiet", ".", "../other/scratch/clone")
    run(top, "git", "init", "--quiet", "--separate-git-dir", "../elsewhere", "../apart")
    for own in ("clone", "other/scratch", "other/scratch/clone", "apart", "."):
        assert home_of(tmp_path / own, monkeypatch) == tmp_path / own


def test_a_worktree_without_a_main_checkout_is_refused_until_a_folder_is_named(tmp_path, monkeypatch):
    repository(tmp_path / "main")
    run(tmp_path, "git", "clone", "--quiet", "--bare", "main", "bare.git")
    run(tmp_path / "bare.git", "git", "worktree", "add", "--quiet", "../other")
    with pytest.raises(InputError, match=r"has no main checkout to count attempts in; set CLEANLABEL_HOME to one fold"):
        home_of(tmp_path / "other", monkeypatch)
    run(tmp_path / "other", "python", "-c", "import flows")  # an import is no place for a sentence
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own_store(tmp_path / "other"))
    with pytest.raises(InputError, match="has no main checkout"):
        connect()
    monkeypatch.setenv("CLEANLABEL_HOME", str(tmp_path / "stores"))
    assert home_of(tmp_path / "other", monkeypatch) == tmp_path / "stores"


def test_an_ensemble_planned_in_a_worktree_is_a_further_attempt(store, tmp_path, monkeypatch):
    make_sets()
    assert open_ensemble(store, make_plan()).attempts_before == 0
    (tmp_path / ".gitignore").write_text(".mlflow\n.state\n")
    run(tmp_path, "git", "init", "--quiet")
    commit(tmp_path)
    other = tmp_path.with_name("other")
    run(tmp_path, "git", "worktree", "add", "--quiet", str(other))
    monkeypatch.chdir(other)
    again = connect_here()
    assert open_ensemble(again, make_plan(m=M + 1)).attempts_before == 1
    assert open_ensemble(again, make_plan()).attempts_before == 0  # the one that was begun
    assert not (other / ".mlflow").exists()
    assert not (other / ".state").exists()


def test_a_worktree_with_a_store_of_its_own_and_a_relative_address_are_refused(store, tmp_path, monkeypatch):
    repository(tmp_path / "main")
    other = tmp_path / "other"
    run(tmp_path / "main", "git", "worktree", "add", "--quiet", str(other))
    shutil.copytree(tmp_path / ".mlflow", other / ".mlflow")
    monkeypatch.chdir(other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own_store(tmp_path / "main"))
    with pytest.raises(InputError, match=r"other/\.mlflow is a store of this checkout's own"):
        connect()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI=sqlite:///mlflow.db is relative, "):
        connect()
