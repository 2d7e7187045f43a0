"""A copy of the project in a temporary folder, small enough to run whole."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
SUBPROCESSES = (
    "test_operations",
    "test_benchmarks",
    "test_pipeline",
    "test_engine",
    "test_lost_runs",
    "test_redteam",
    "test_services",
    "test_elsewhere",
    "test_deployments",
    "test_packaged",
)
"""Files that take minutes, most of them in processes of their own."""
LONGEST = (*SUBPROCESSES, "test_kinds", "test_seal", "test_fast")
"""Two workers share all files: a long one that begins last would leave one of them idle."""
SMALL = {
    "denoiser": {"channels": [8, 16], "steps": 30},
    "train": {"width": 32, "epochs": 3},
    "smooth": {"m": 12, "batch_of_draws": 2},
    "gate": {"accuracy": 0.0, "certified_accuracy": []},
}


def copy_checkout(target: Path, without: tuple[str, ...] = ()) -> None:
    """The project's files as they stand here, committed or not, but for those whose paths begin like `without`."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, names.split("\0")):
        if (ROOT / name).exists() and not (without and name.startswith(without)):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name, follow_symlinks=False)


class Project:
    """A copy of the project, and the commands a person types in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        copy_checkout(root, without=("reports/", "dvc.lock", "redteam/dvc.lock"))
        self.home = root.parent / "home"
        self.home.mkdir()
        mine = ("MLFLOW_TRACKING_URI", "PREFECT_HOME", "PREFECT_API_URL", "DVC_SITE_CACHE_DIR", "DO_NOT_TRACK")
        self.env = {k: v for k, v in os.environ.items() if k not in mine}
        self.env |= {"HOME": str(self.home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.run("git", "init", "-q")
        self.set_params(SMALL)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=600, check=False
        )
        assert not check or done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done

    def set_params(self, changes: dict[str, dict[str, object]]) -> None:
        yaml = YAML()
        content = yaml.load(self.root / "params.yaml")
        for section, values in changes.items():
            content[section].update(values)
        yaml.dump(content, self.root / "params.yaml")

    def query(self, sql: str) -> list[tuple]:
        with sqlite3.connect(self.root / ".mlflow" / "mlflow.db") as database:
            return database.execute(sql).fetchall()

    def draws(self) -> dict[int, str]:
        """Finished draws of the newest ensemble: their run ids."""
        parent = self.query(
            "select r.run_uuid from runs r join tags t on t.run_uuid = r.run_uuid "
            "where t.key = 'cleanlabel.kind' and t.value = 'ensemble' order by r.start_time desc"
        )[0][0]
        rows = self.query(
            "select d.value, r.run_uuid from runs r "
            "join tags d on d.run_uuid = r.run_uuid and d.key = 'cleanlabel.draw' "
            "join tags p on p.run_uuid = r.run_uuid and p.key = 'mlflow.parentRunId' "
            f"where r.status = 'FINISHED' and p.value = '{parent}'"
        )
        assert len(rows) == len({draw for draw, _ in rows})
        return {int(draw): run_id for draw, run_id in rows}

    def processes(self) -> list[str]:
        """Command lines of what still runs in the project's folder."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").readlink() == self.root and b"\0" in (command := (entry / "cmdline").read_bytes()):
                    found.append(command.replace(b"\0", b" ").decode())
            except OSError:  # gone meanwhile
                continue
        return found

    def alive(self, pid: str) -> bool:
        """Whether this process is running."""
        return pid.isdecimal() and Path(f"/proc/{pid}").exists()

    def outputs(self) -> dict[str, str]:
        """Every stage output with its digest."""
        files = [p for p in [*self.root.glob("data/**/*"), *self.root.glob("reports/*")] if p.is_file()]
        return {str(p.relative_to(self.root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
