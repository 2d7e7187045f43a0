"""Real parts for the tests: a tiny denoiser on disk, the digits, stores of their own. Nothing leaves the machine."""

import os
import sys
import tempfile
from pathlib import Path

SCRATCH = Path(tempfile.mkdtemp(prefix="cleanlabel-tests-"))
os.environ.update(
    {
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(SCRATCH / "dvc"),
        "HF_HOME": str(SCRATCH / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": f"sqlite:///{SCRATCH}/mlflow.db",
        "MPLCONFIGDIR": str(SCRATCH / "matplotlib"),
        "PREFECT_HOME": str(SCRATCH / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
)
sys.path.insert(0, str(Path(__file__).parent))

import shutil  # noqa: E402  (the environment comes first)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402
from project import LONGEST  # noqa: E402
from tiny import save_tiny_denoiser  # noqa: E402

from cleanlabel.sanitize.denoiser import Denoiser, load_denoiser  # noqa: E402
from cleanlabel.sanitize.imageset import ImageSet  # noqa: E402

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


def pytest_unconfigure() -> None:
    shutil.rmtree(SCRATCH, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, and all others in the order they were found in."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def denoiser_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_denoiser(tmp_path_factory.mktemp("denoiser"))


@pytest.fixture(scope="session")
def denoiser(denoiser_dir: Path) -> Denoiser:
    return load_denoiser(denoiser_dir)


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the rooms' code, which keys are made from in place of the project's."""
    from cleanlabel.sanitize import keys

    root = tmp_path / "code"
    for room in keys.ROOMS:
        shutil.copytree(keys.ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(keys, "ROOT", root)
    return root


@pytest.fixture
def small_set() -> ImageSet:
    """24 random 8x8 grey images of 3 classes."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (24, 8, 8, 1), dtype=np.uint8)
    return ImageSet(images, np.arange(24) % 3, tuple(f"image-{i}" for i in range(24)), ("a", "b", "c"), False)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, made once: the first use of one takes seconds."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A real MLflow store of its own, on SQLite, in the working directory."""
    from cleanlabel.flows.store.client import connect

    monkeypatch.chdir(tmp_path)
    (tmp_path / ".mlflow").mkdir()
    shutil.copy(empty_database, tmp_path / ".mlflow" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/.mlflow/mlflow.db")
    return connect()


@pytest.fixture(scope="session")
def snapshot(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with two certified versions, of M and of M + 1 models; `reports/` is the first one's."""
    from registered import M, enter, make_ensemble, make_sets

    root = tmp_path_factory.mktemp("snapshot")
    with pytest.MonkeyPatch.context() as patch:
        store = enter(root, patch, empty_database)
        make_sets()
        first = make_ensemble(store)
        make_ensemble(store, m=M + 1).certify()
        first.certify()
    return root


@pytest.fixture
def version(snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Version 1 of `snapshot` in a working directory and a store of the test's own."""
    from registered import enter_copy, the_version

    return the_version(enter_copy(snapshot, tmp_path, monkeypatch), 1)
