"""In somebody else's project: installed from a git checkout, a stage of three lines, their own training script."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project import copy_checkout
from tiny import save_tiny_denoiser

pytestmark = pytest.mark.slow

STAGE = """\
stages:
  sanitize:
    cmd: python -m cleanlabel.sanitize --input photos --output sanitized --denoiser denoiser --sigma 0.25
    deps: [photos, denoiser]
    outs: [sanitized]
  train:
    cmd: python train.py sanitized
    deps: [sanitized, train.py]
    outs: [model.pt]
"""
OWN = {
    "models": "import torch\nlinear = lambda n, k: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(n, k))\n",
    "flows": "RATE = 0.1\n",
    "sanitize": "raise ImportError('this is no sanitizer of images')\n",
}
TRAINING = """\
import sys
import flows, models
import torch
from torchvision import datasets, transforms

data = datasets.ImageFolder(sys.argv[1], transforms.ToTensor())
model = models.linear(data[0][0].numel(), len(data.classes))
optimiser = torch.optim.SGD(model.parameters(), lr=flows.RATE)
for images, labels in torch.utils.data.DataLoader(data, batch_size=8, shuffle=True):
    optimiser.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimiser.step()
torch.save(model.state_dict(), "model.pt")
print(len(data), data.classes)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip makes of a git checkout of this project as it stands, in a folder of its own."""
    checkout, target = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("installed")
    copy_checkout(checkout)
    nobody = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    for command in (("init", "-q"), ("add", "-A"), (*nobody, "commit", "-qm", "as it stands")):
        subprocess.run(["git", *command], cwd=checkout, check=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(target), f"git+file://{checkout}"], check=True)
    return target


@pytest.fixture
def project(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh DVC project with photos, a denoiser, a training script, and packages of its own with the rooms' names."""
    generator = np.random.default_rng(0)
    for label in ("cat", "a dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(6):
            pixels = generator.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"photo {i}.png")
    save_tiny_denoiser(tmp_path / "denoiser")
    (tmp_path / "dvc.yaml").write_text(STAGE)
    (tmp_path / "train.py").write_text(TRAINING)
    for name, content in OWN.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for command in (("git", "init", "-q"), ("dvc", "init", "-q")):
        subprocess.run(command, check=True)
    return tmp_path


def repro() -> subprocess.CompletedProcess[str]:
    return subprocess.run(["dvc", "repro"], capture_output=True, text=True, check=False)


def test_three_lines_sanitize_a_folder_and_the_training_script_runs_as_it_is(installed, project):
    done = repro()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 ['a dog', 'cat']" in done.stdout
    names = {str(p.relative_to("photos")) for p in Path("photos").rglob("*.png")}
    assert {str(p.relative_to("sanitized")) for p in Path("sanitized").rglob("*.png")} == names
    for name in names:
        assert np.any(np.asarray(Image.open(f"photos/{name}")) != np.asarray(Image.open(f"sanitized/{name}")))
    where = "import cleanlabel.sanitize.noise as noise, models; print(noise.__file__, models.__file__, sep='|')"
    found = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, check=True).stdout.split("|")
    assert found[0].startswith(str(installed / "cleanlabel"))
    assert found[1].startswith(str(Path.cwd()))
    script = installed / "bin" / "cleanlabel"
    said = subprocess.run(
        [sys.executable, script, "plan", "--sigma", "0.25"], capture_output=True, text=True, check=True
    )
    assert "fewer than 11 models certify nothing" in said.stdout
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"bin", "cleanlabel"}

    again = repro()
    assert "Data and pipelines are up to date" in again.stdout

    Path("photos/cat/photo 0.png").write_bytes(b"no image")
    refused = repro()
    assert refused.returncode != 0
    assert "error: " in refused.stderr
    assert "photo 0.png" in refused.stderr
