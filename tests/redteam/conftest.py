"""What drills and comparisons are run on."""

import shutil
from pathlib import Path

import pytest
from redteam_sets import digit_sets

from cleanlabel.sanitize.imageset import save_npz

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch, denoiser_dir) -> Path:
    """The pipeline's sets of digits and a denoiser, where the drill looks for them."""
    for name, images in digit_sets().items():
        save_npz(images, tmp_path / "data" / f"{name}.npz")
    shutil.copytree(denoiser_dir, tmp_path / "data" / "denoiser")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
